//! The identity of objects.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Ns, Object, container_ns};
use crate::net::{IfName, Mac, Prefix, Proto};
use crate::nft::{ElementKey, TableRef};

/// The identity of an object: two objects with one key are versions of the same thing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "each field is the one of the same name in the object"
)]
pub enum Key {
    HostPort {
        ip: IpAddr,
        proto: Proto,
        port: u16,
    },
    Ruleset(TableRef),
    Link {
        ns: Ns,
        name: IfName,
    },
    Loopback(Ns),
    BridgePort(IfName),
    Remote {
        ifname: IfName,
        mac: Mac,
    },
    Flood {
        ifname: IfName,
        host: IpAddr,
    },
    Station {
        ifname: IfName,
        mac: Mac,
    },
    Neighbour {
        ifname: IfName,
        ip: IpAddr,
    },
    Address {
        ns: Ns,
        ifname: IfName,
        ip: IpAddr,
    },
    Route {
        ns: Ns,
        dst: Prefix,
        local: bool,
        metric: u32,
    },
    Shaper(IfName),
    Redirect(IfName),
    Sysctl {
        ns: Ns,
        path: String,
    },
    Element(ElementKey),
    DnsSocket(Ns),
}

impl Object {
    /// Its identity.
    pub fn key(&self) -> Key {
        match self {
            Self::HostPort(p) => Key::HostPort {
                ip: p.ip,
                proto: p.proto,
                port: p.port,
            },
            Self::Ruleset(r) => Key::Ruleset(r.table.clone()),
            Self::Link(l) => Key::Link {
                ns: l.ns.clone(),
                name: l.name.clone(),
            },
            Self::Loopback(owner) => Key::Loopback(container_ns(owner)),
            Self::BridgePort(p) => Key::BridgePort(p.ifname.clone()),
            Self::Remote(r) => Key::Remote {
                ifname: r.ifname.clone(),
                mac: r.mac,
            },
            Self::Flood(f) => Key::Flood {
                ifname: f.ifname.clone(),
                host: f.host,
            },
            Self::Station(s) => Key::Station {
                ifname: s.ifname.clone(),
                mac: s.mac,
            },
            Self::Neighbour(n) => Key::Neighbour {
                ifname: n.ifname.clone(),
                ip: n.ip,
            },
            Self::Address(a) => Key::Address {
                ns: a.ns.clone(),
                ifname: a.ifname.clone(),
                ip: a.ip,
            },
            Self::Route(r) => Key::Route {
                ns: r.ns.clone(),
                dst: r.dst,
                local: r.local,
                metric: r.metric,
            },
            Self::Shaper(s) => Key::Shaper(s.ifname.clone()),
            Self::Redirect(r) => Key::Redirect(r.ifname.clone()),
            Self::Sysctl(s) => Key::Sysctl {
                ns: s.ns.clone(),
                path: s.path.clone(),
            },
            Self::Element(e) => Key::Element(e.key.clone()),
            Self::DnsSocket(owner) => Key::DnsSocket(container_ns(owner)),
        }
    }

    /// The link that it cannot outlive, if any.
    pub fn link(&self) -> Option<Key> {
        let (ns, name) = match self {
            Self::Address(a) => (a.ns.clone(), a.ifname.clone()),
            Self::Route(r) => (r.ns.clone(), r.dev.clone()),
            Self::BridgePort(p) => (Ns::Host, p.ifname.clone()),
            Self::Remote(r) => (Ns::Host, r.ifname.clone()),
            Self::Flood(f) => (Ns::Host, f.ifname.clone()),
            Self::Station(s) => (Ns::Host, s.ifname.clone()),
            Self::Neighbour(n) => (Ns::Host, n.ifname.clone()),
            Self::Shaper(s) => (Ns::Host, s.ifname.clone()),
            Self::Redirect(r) => (Ns::Host, r.ifname.clone()),
            Self::Sysctl(s) => (s.ns.clone(), s.ifname.clone()?),
            _ => return None,
        };
        Some(Key::Link { ns, name })
    }
}
