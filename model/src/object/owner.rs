//! Where an object lives, and what it serves.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{ContainerId, NetworkId};

/// The network namespace an object lives in.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ns {
    /// The namespace the daemon was started in.
    Host,
    /// The sandbox of a container.
    Container(ContainerId),
}

impl fmt::Debug for Ns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl fmt::Display for Ns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Container(id) => f.write_str(id.short()),
        }
    }
}

/// What an object serves. Its text form is written on the object in the kernel (invariant I3).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Owner {
    /// The host's share: the ruleset, forwarding.
    Host,
    /// A network.
    Network(NetworkId),
    /// A container as a whole.
    Container(ContainerId),
    /// One attachment of a container to a network.
    Endpoint(ContainerId, NetworkId),
}

impl Owner {
    /// The container it serves, if any.
    pub fn container(&self) -> Option<&ContainerId> {
        match self {
            Self::Container(id) | Self::Endpoint(id, _) => Some(id),
            Self::Host | Self::Network(_) => None,
        }
    }

    /// The mark written on the object, at most 170 bytes: `netd:` and the ids.
    pub fn mark(&self) -> String {
        match self {
            Self::Host => "netd:host".to_owned(),
            Self::Network(net) => format!("netd:net:{net}"),
            Self::Container(id) => format!("netd:ctr:{id}"),
            Self::Endpoint(id, net) => format!("netd:ep:{net}:{id}"),
        }
    }

    /// Reads a mark back; `None` for anything that netd did not write.
    pub fn from_mark(mark: &str) -> Option<Self> {
        let rest = mark.strip_prefix("netd:")?;
        if rest == "host" {
            return Some(Self::Host);
        }
        let (kind, id) = rest.split_once(':')?;
        match kind {
            "net" => NetworkId::parse(id).ok().map(Self::Network),
            "ctr" => ContainerId::parse(id).ok().map(Self::Container),
            "ep" => {
                let (net, id) = id.split_once(':')?;
                Some(Self::Endpoint(
                    ContainerId::parse(id).ok()?,
                    NetworkId::parse(net).ok()?,
                ))
            }
            _ => None,
        }
    }
}
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.mark())
    }
}
impl From<Owner> for String {
    fn from(owner: Owner) -> String {
        owner.mark()
    }
}
impl TryFrom<String> for Owner {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::from_mark(&text).ok_or_else(|| format!("{text:?} is no owner mark"))
    }
}

/// The namespace of the container that an owner names; the host's for all others.
pub fn container_ns(owner: &Owner) -> Ns {
    owner
        .container()
        .map_or(Ns::Host, |id| Ns::Container(id.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_read_back_and_foreign_texts_do_not() {
        let net = NetworkId::from_bytes([7; 16]);
        let id = ContainerId::parse(&"x".repeat(128)).unwrap();
        for owner in [
            Owner::Host,
            Owner::Network(net.clone()),
            Owner::Container(id.clone()),
            Owner::Endpoint(id, net),
        ] {
            // IFALIASZ is 256, an nftables userdata at most 256 bytes.
            assert!(owner.mark().len() <= 200);
            assert_eq!(Owner::from_mark(&owner.mark()), Some(owner));
        }
        for foreign in [
            "",
            "netd",
            "netd:",
            "netd:x:y",
            "netd:ep:zz",
            "docker0",
            "netd:net:A",
        ] {
            assert_eq!(Owner::from_mark(foreign), None, "{foreign}");
        }
    }
}
