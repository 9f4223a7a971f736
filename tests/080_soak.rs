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
use std::time::{Duration, Instant};

use netd_tests::host::PROGRAMS;
use netd_tests::lab;
use netd_tests::soak::{self, Summary};

fn main() -> ExitCode {
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![
        lab::test("soak", run),
        lab::test("what_found_something_once", what_found_something_once),
    ])
}

/// Seeds that found something, with the rounds that this took (docs/reliability-soak.md).
const KEPT: [(u64, u64); 2] = [(11, 1), (9, 4)];

fn what_found_something_once() {
    for (seed, rounds) in KEPT {
        judge(&soak::run(seed, |done| done < rounds));
    }
}

fn run() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let seconds = number("NETD_SOAK_SECONDS", 20);
    let seed = number("NETD_SOAK_SEED", 1);
    println!("soak: seed {seed}, {seconds} s");
    let begin = Instant::now();
    let summary = soak::run(seed, |_| begin.elapsed() < Duration::from_secs(seconds));
    println!("answers: {:#?}", summary.answers);
    judge(&summary);
}

fn judge(summary: &Summary) {
    println!(
        "soak: seed {}, {} rounds, {} operations, faults {:?}, {} violations",
        summary.seed,
        summary.rounds,
        summary.operations,
        summary.faults,
        summary.violations.len()
    );
    let Summary {
        seed, violations, ..
    } = summary;
    assert_eq!(*violations, Vec::<String>::new(), "seed {seed}");
}
