//! The API over a real socket, with a fake owner and a fake kernel behind it.

pub(crate) mod daemon;
mod inputs;
mod routes;
mod shutdown;
