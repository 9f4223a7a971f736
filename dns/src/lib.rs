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
mod cache;
mod exchange;
pub mod forward;
#[cfg(fuzzing)]
pub mod fuzzing;
mod health;
mod name;
mod raw;
pub mod reach;
mod reply;
mod request;
pub mod resolv;
pub mod server;
pub mod stats;
mod tls;
pub mod zone;

pub use answer::{Outcome, Transport, Verdict, answer, answer_into};
pub use forward::{Begun, CACHE_BYTES, Forwarder, Source, Timing, Upstreams};
pub use reach::{Carries, Inside};
pub use resolv::{DNS_PORT, EMBEDDED, ResolvConf, Upstream};
pub use server::{Explanation, ListenError, Server};
pub use stats::{Counters, Stats};
pub use tls::{Tls, TlsError};
pub use zone::{
    Asker, DEFAULT_TTL, Details, HOST_NAME, Hosts, NamedPort, NetworkSpec, View, Zone, ZoneHandle,
    container_names,
};

#[cfg(test)]
mod tests {
    /// The pure modules neither do IO nor read the clock (invariant I1 of the design).
    #[test]
    fn pure_modules_stay_pure() {
        let modules = [
            ("answer", include_str!("answer.rs")),
            ("answer/service", include_str!("answer/service.rs")),
            ("cache", include_str!("cache.rs")),
            ("name", include_str!("name.rs")),
            ("raw", include_str!("raw.rs")),
            ("reply", include_str!("reply.rs")),
            ("request", include_str!("request.rs")),
            ("resolv", include_str!("resolv.rs")),
            ("zone", include_str!("zone.rs")),
            ("zone/view", include_str!("zone/view.rs")),
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
