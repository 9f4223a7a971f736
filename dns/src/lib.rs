//! The resolver that containers see at 127.0.0.11.
//!
//! Pure, bytes in and bytes out: [`zone`] (who knows which names), [`mod@answer`] (what a query gets),
//! [`resolv`] (reading `resolv.conf`), and beneath them `name`, `wire` and `raw`. A test below holds them
//! to it. IO: [`server`] (sockets of containers), [`forward`] and `exchange` (upstreams).
//!
//! Life of a query: a datagram comes in on a container's socket; `server` calls [`answer::answer`] under
//! a short read lock of the zone; the reply goes out, or the query goes to [`forward::Forwarder`] in a
//! task of its own and the upstream's bytes come back.
//!
//! Never makes sockets in namespaces, never reads the host's configuration: both are handed in.

pub mod answer;
mod exchange;
pub mod forward;
mod name;
mod raw;
pub mod resolv;
pub mod server;
mod wire;
pub mod zone;

pub use answer::{Outcome, Transport, answer};
pub use forward::{Forwarder, Timing};
pub use resolv::{DNS_PORT, EMBEDDED, ResolvConf};
pub use server::{ListenError, Server, Stats};
pub use zone::{Asker, DEFAULT_TTL, Zone, ZoneHandle, container_names};

#[cfg(test)]
mod tests {
    /// The pure modules neither do IO nor read the clock (invariant I1 of the design).
    #[test]
    fn pure_modules_stay_pure() {
        let modules = [
            ("answer", include_str!("answer.rs")),
            ("name", include_str!("name.rs")),
            ("raw", include_str!("raw.rs")),
            ("resolv", include_str!("resolv.rs")),
            ("wire", include_str!("wire.rs")),
            ("zone", include_str!("zone.rs")),
        ];
        let banned = [
            "tokio",
            "std::net::UdpSocket",
            "std::net::TcpStream",
            "UdpSocket",
            "std::fs",
            "std::io",
            "std::thread",
            "Instant::now",
            "SystemTime",
            "rand::",
        ];
        for (module, source) in modules {
            for word in banned {
                assert!(!source.contains(word), "{module} is pure but uses {word}");
            }
        }
    }
}
