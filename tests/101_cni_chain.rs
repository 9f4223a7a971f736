//! netd's plugin among others: in front of Debian's in a chain, behind one, over a foreign IPAM, and as the IPAM of others.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is how a test fails"
)]

use netd_tests::cni;
use netd_tests::host::PROGRAMS;
use netd_tests::lab;

fn main() -> std::process::ExitCode {
    cni::dispatch();
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![])
}
