//! Several hosts that share networks: the shared store, what this host writes to it, and what it believes of it.
//!
//! - [`store`]: the seam, with two forms, [`etcd`] and [`memory`];
//! - [`keys`], [`records`]: what is in the store (`docs/records.md`);
//! - [`core`]: the decisions, pure, with [`mirror`] and [`claims`]; the simulation runs many of them in one process;
//! - [`probing`]: sends and receives the probes of `netd_model::probe`;
//! - [`task`]: carries inputs and outputs between the core, a store and the owner task.
//!
//! It never touches the kernel, and it is never asked when a container starts that fits into what its host has claimed.

pub mod claims;
pub mod core;
pub mod etcd;
pub mod keys;
#[cfg(test)]
mod memory;
pub mod meter;
pub mod mirror;
pub mod probing;
pub mod records;
#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod sim;
pub mod store;
pub mod task;

pub use task::{Ends, Setup, Told, start};
