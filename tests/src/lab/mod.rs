//! One name for the whole laboratory: `use netd_tests::lab;`.
//!
//! Owns only the list of what is public. Each part lives in a file of its own.

mod commands;
mod dns;
mod echo;
mod enter;
pub mod frame;
mod harness;
mod inspect;
mod netns;
mod packet;
mod ping;
mod plans;
mod probe;
mod process;
mod sys;
mod wait;
mod wire;

pub use commands::{Program, dispatch, self_command};
pub use dns::{Reply, Transport, dns_exchange, dns_query};
pub use echo::Server;
pub use enter::{Privileges, enter, has_ipv6, privileges, scratch};
pub use harness::{TestResult, main, skip, test};
pub use inspect::{AddressInfo, LinkInfo, RouteInfo};
pub use netns::{Bound, Netns};
pub use packet::Sniffer;
pub use plans::{lan, pair, routed, uplink, wire};
pub use probe::{Answer, Conversation, Outcome, Proto};
pub use process::{Process, cpu_time};
pub use sys::pass;
pub use wait::{PATIENCE, poll_until, wait_for};
pub use wire::{End, LinkChange, veth};

// What tests write next to the laboratory's own names, in the versions it was built with.
pub use etherparse;
pub use hickory_proto;
pub use nix::sys::signal::Signal;
