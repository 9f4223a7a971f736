//! A soak: random requests of many clients, crashes, vanishing namespaces and tampering, and a model that knows what must
//! be there. `tests/src/soak` says how.
//!
//! `NETD_SOAK_SECONDS` is how long (20 without it), `NETD_SOAK_SEED` which operations (a fixed seed without it):
//! `NETD_SOAK_SECONDS=1800 NETD_SOAK_SEED=7 cargo test -p netd-tests --test 080_soak`.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "test code: a panic is how a test fails, and its figures belong on the terminal"
)]

use std::process::ExitCode;
use std::time::Duration;

use netd_tests::host::PROGRAMS;
use netd_tests::{lab, soak};

fn main() -> ExitCode {
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![lab::test("soak", run)])
}

fn run() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let seconds = number("NETD_SOAK_SECONDS", 20);
    let seed = number("NETD_SOAK_SEED", 1);
    println!("soak: seed {seed}, {seconds} s");
    let summary = soak::run(seed, Duration::from_secs(seconds));
    println!("answers: {:#?}", summary.answers);
    println!(
        "soak: seed {}, {} rounds, {} operations, faults {:?}, {} violations",
        summary.seed,
        summary.rounds,
        summary.operations,
        summary.faults,
        summary.violations.len()
    );
    assert_eq!(summary.violations, Vec::<String>::new(), "seed {seed}");
}
