//! Who reaches whom: the one table, the places it speaks of, and the packets that judge it.
//!
//! Owns everything of the reach tests but their stories. `table` says what is right, `world` builds
//! hosts and containers, `rows` joins the two into single checks, `run` sends the packets and
//! collects what was wrong; `forged` does the same for frames that no socket would send, and
//! `foreign` plays another program's firewall.

pub mod foreign;
mod forged;
mod rows;
mod run;
mod table;
mod world;

pub use forged::check_forged;
pub use run::{Report, check, check_traces};
pub use table::Circumstances;
pub use world::{World, serve_everywhere, strings};
