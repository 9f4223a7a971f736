//! What the crate promises to the rest of netd and to containers, by its public interface.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answer_golden;
mod answer_properties;
mod answer_records;
mod answer_rules;
mod answer_sizes;
mod cached;
mod forward;
mod forward_sizes;
mod interop;
mod server;
mod server_lifecycle;
mod support;
mod tls;
mod zone;
