//! netd: the shell around [`netd_model`]. Acts on the kernel, keeps records, serves the API and DNS.

pub mod api;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod daemon;
pub mod declared;
pub mod kernel;
pub mod limits;
pub mod names;
mod notify;
pub mod reconcile;
mod reload;
mod socket;
pub mod state;
