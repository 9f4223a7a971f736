//! What netd decides, with nothing that acts.
//!
//! A request is validated into an intent ([`request`]), kept as a record ([`record`]), turned into the objects the
//! kernel has to hold ([`desired`]), compared with what it holds ([`diff`]), and the difference is a list of
//! operations ([`op::Op`]). No IO, no clock, no async: `tests/purity.rs` fails when that changes (invariant I1).
#![forbid(unsafe_code)]

pub mod access;
pub mod api;
pub mod attachment;
pub mod cni;
pub mod counters;
pub mod desired;
pub mod diff;
pub mod doctor;
pub mod error;
pub mod fake;
pub mod id;
pub mod naming;
pub mod net;
pub mod nft;
pub mod object;
pub mod observed;
pub mod op;
pub mod options;
pub mod overlay;
pub mod probe;
pub mod publish;
pub mod record;
pub mod request;
pub mod skeleton;
pub mod trace;

pub use error::{Error, Result};
pub use id::{ContainerId, NetworkId};
pub use net::{IfName, Mac, Prefix, Proto};
pub use object::{Key, Ns, Object, Owner};
pub use op::Op;
