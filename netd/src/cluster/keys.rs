//! The keys below `/netd/v1/CLUSTER/`, and what each of them is about. One writer per key.

use std::net::IpAddr;

use netd_model::id::{ContainerId, Name, NetworkId};
use netd_model::net::Prefix;

/// Which cluster this is: one that is not there, or another than before, is a store that was emptied or exchanged.
pub const META: &str = "meta";
/// Under what the records of networks are.
pub const NETWORKS: &str = "networks/";

/// A key, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// `meta`.
    Meta,
    /// `nodes/NODE`: who a host is. Written by the host.
    Node(Name),
    /// `nodes/NODE/alive`: gone when the host is. Written by the host, with a lease; the only key that has one.
    Alive(Name),
    /// `nodes/NODE/removed/ID`: the host of this name and id was removed, and has not come back since. Written by who removes
    /// it, and removed by the host when it is back.
    Removed(Name, String),
    /// `networks/ID`: written by the host that creates it, and by none later.
    Network(NetworkId),
    /// `endpoints/NODE/NET`: the host's part in a network. Written by the host.
    Member(Name, NetworkId),
    /// `endpoints/NODE/NET/CONTAINER`. Written by the host.
    Endpoint(Name, NetworkId, ContainerId),
    /// `blocks/NET/ADDRESS-LENGTH` or `addrs/NET/ADDRESS`: who decides on these addresses. Written by who creates it, and from
    /// then on by the holder.
    Claim(NetworkId, Prefix),
}

impl Key {
    /// The key as text.
    pub fn text(&self) -> String {
        match self {
            Self::Meta => META.to_owned(),
            Self::Node(node) => format!("nodes/{node}"),
            Self::Alive(node) => format!("nodes/{node}/alive"),
            Self::Removed(node, id) => format!("nodes/{node}/removed/{id}"),
            Self::Network(id) => format!("{NETWORKS}{id}"),
            Self::Member(node, net) => format!("endpoints/{node}/{net}"),
            Self::Endpoint(node, net, id) => format!("endpoints/{node}/{net}/{id}"),
            Self::Claim(net, prefix) if is_single(*prefix) => {
                format!("addrs/{net}/{}", prefix.base())
            }
            Self::Claim(net, prefix) => {
                format!("blocks/{net}/{}-{}", prefix.base(), prefix.len())
            }
        }
    }

    /// Takes a key apart; none for what netd does not write, such as a key of a newer version.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let key = match (parts.next()?, parts.next()) {
            (META, None) => Self::Meta,
            ("nodes", Some(node)) => {
                let node = Name::parse(node).ok()?;
                match parts.next() {
                    None => Self::Node(node),
                    Some("alive") => Self::Alive(node),
                    Some("removed") => Self::Removed(node, host_id(parts.next()?)?),
                    Some(_) => return None,
                }
            }
            ("networks", Some(id)) => Self::Network(NetworkId::parse(id).ok()?),
            ("endpoints", Some(node)) => {
                let node = Name::parse(node).ok()?;
                let net = NetworkId::parse(parts.next()?).ok()?;
                match parts.next() {
                    None => Self::Member(node, net),
                    Some(id) => Self::Endpoint(node, net, ContainerId::parse(id).ok()?),
                }
            }
            ("blocks", Some(net)) => {
                let (base, len) = parts.next()?.rsplit_once('-')?;
                let prefix = format!("{base}/{len}").parse().ok()?;
                Self::Claim(NetworkId::parse(net).ok()?, prefix)
            }
            ("addrs", Some(net)) => {
                let ip: IpAddr = parts.next()?.parse().ok()?;
                Self::Claim(NetworkId::parse(net).ok()?, Prefix::holding(ip, 128))
            }
            _ => return None,
        };
        // One key for one thing: no other spelling of it.
        (parts.next().is_none() && key.text() == text).then_some(key)
    }

    /// The host whose records it belongs to, where one host alone writes it.
    pub fn node(&self) -> Option<&Name> {
        match self {
            Self::Node(node)
            | Self::Alive(node)
            | Self::Removed(node, _)
            | Self::Member(node, _)
            | Self::Endpoint(node, _, _) => Some(node),
            Self::Meta | Self::Network(_) | Self::Claim(..) => None,
        }
    }
}

/// The id of a host, if it is one: hex digits, as `nodes/NODE` has it.
fn host_id(text: &str) -> Option<String> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_id = (1..=64).contains(&text.len()) && text.bytes().all(is_digit);
    is_id.then(|| text.to_owned())
}

/// Whether a prefix is one address.
pub fn is_single(prefix: Prefix) -> bool {
    prefix.len() == netd_model::overlay::whole(prefix.family())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        let net = NetworkId::from_bytes([7; 16]);
        let node = Name::parse("h1.example").unwrap();
        let prefix = |text: &str| text.parse().unwrap();
        for key in [
            Key::Meta,
            Key::Node(node.clone()),
            Key::Alive(node.clone()),
            Key::Removed(node.clone(), "0a".repeat(16)),
            Key::Network(net.clone()),
            Key::Member(node.clone(), net.clone()),
            Key::Endpoint(node, net.clone(), ContainerId::from_bytes([1; 32])),
            Key::Claim(net.clone(), prefix("10.0.0.64/26")),
            Key::Claim(net.clone(), prefix("fd00::1:0:0/96")),
            Key::Claim(net.clone(), prefix("10.0.0.1/32")),
            Key::Claim(net, prefix("fd00::1/128")),
        ] {
            assert_eq!(Key::parse(&key.text()), Some(key));
        }
    }

    #[test]
    fn what_netd_does_not_write_is_no_key() {
        let net = NetworkId::from_bytes([7; 16]);
        for text in [
            "",
            "meta/x",
            "nodes",
            "nodes/",
            "nodes/a/b",
            "nodes/a/alive/x",
            "nodes/a/removed",
            "nodes/a/removed/",
            "nodes/a/removed/X",
            "nodes/a/removed/0/x",
            "networks/x",
            "endpoints/a",
            "services/x",
            &format!("blocks/{net}/10.0.0.1-26"),
            &format!("blocks/{net}/10.0.0.1-32"),
            &format!("blocks/{net}/10.0.0.0-+26"),
            &format!("addrs/{net}/010.0.0.1"),
            &format!("addrs/{net}/FD00::1"),
            &format!("networks/{net}/x"),
        ] {
            assert_eq!(Key::parse(text), None, "{text}");
        }
    }
}
