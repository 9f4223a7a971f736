//! What the crate promises to the rest of netd and to containers, by its public interface.

mod answer_golden;
mod answer_properties;
mod answer_rules;
mod answer_sizes;
mod forward;
mod interop;
mod server;
mod support;
mod zone;
