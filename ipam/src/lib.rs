//! Which addresses and subnets are free, and which comes next.
//!
//! - [`Pool`]: the addresses of one prefix. Round-robin next-fit, with a quarantine for addresses
//!   that were just released.
//! - [`pick`]: a subnet for a new network that overlaps nothing the host already uses.
//! - [`ula_prefix`]: the IPv6 /48 that automatic IPv6 subnets are cut from.
//!
//! Pure: no IO, no clock, no randomness, no async. The time and the random seed are arguments, and
//! nothing here is written down anywhere: the caller keeps the records and, after a restart, gives
//! them back with [`Pool::adopt`].
#![forbid(unsafe_code)]

mod addr;
mod error;
mod intervals;
mod pool;
mod quarantine;
mod subnets;

pub use addr::overlaps;
pub use error::{Error, ReservedAs};
pub use pool::{DEFAULT_QUARANTINE, MOST_QUARANTINED, Pool};
pub use subnets::{AutoRange, pick, ula_prefix};
