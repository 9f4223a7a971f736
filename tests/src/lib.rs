//! The laboratory of netd's end-to-end tests.
//!
//! Owns everything a test needs to stand up hosts and containers on one kernel and to ask who
//! reaches whom: network namespaces, wires, servers, probes, frames, names. It needs no installed
//! program, works as root and inside a user namespace, and never touches the machine's own
//! network. It never uses netd's own kernel code: that is what is being judged.
//!
//! A test binary begins like this, in this order, because the laboratory can only be entered
//! before the first thread starts:
//!
//! ```no_run
//! use netd_tests::lab;
//! fn main() -> std::process::ExitCode {
//!     lab::dispatch(&[]);
//!     lab::enter();
//!     lab::main(vec![lab::test("name", || { /* ... */ })])
//! }
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    clippy::print_stderr,
    reason = "test code: a panic is how a test fails, and its words belong on the terminal"
)]

pub mod cluster;
pub mod cni;
pub mod cri;
pub mod etcd;
pub mod host;
pub mod lab;
pub mod load;
pub mod overlay;
pub mod reach;
pub mod soak;
pub mod turns;
