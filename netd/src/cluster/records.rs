//! The values of the store: versioned JSON, read with distrust. `docs/records.md` describes them for others.
//!
//! A record keeps fields it does not know (invariant I8). What cannot be read disables itself: the last good one stays,
//! and `status` names it. Nothing in a value can grow without bound.

use std::net::IpAddr;

use netd_model::id::{ContainerId, Name};
use netd_model::net::{Family, Mac};
use netd_model::overlay::Place;
use netd_model::record::{Driver, Network, Unknown};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::keys::Key;
use crate::state::{Fault, decode, encode};

/// Largest value that is read, in bytes: a network with a thousand labels is smaller.
pub const VALUE_MAX: usize = 64 << 10;
/// Most names of one endpoint.
const ALIASES_MAX: usize = 64;

/// `meta`: which cluster this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// 32 hex digits, drawn by the host that came first.
    pub id: String,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// `nodes/NODE`: who a host is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// 32 hex digits, drawn once for each state directory: another host of the same name has another.
    pub id: String,
    /// Boot id and count of starts: a daemon that comes back has another.
    pub incarnation: String,
    /// Where its VXLAN packets come from and go to.
    pub address: IpAddr,
    /// The MTU of the interface that has the address.
    pub mtu: u32,
    /// netd's version.
    pub software: String,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// `nodes/NODE/alive`: written when everything else of the host is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// That of the node's record.
    pub incarnation: String,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// `nodes/NODE/removed/ID`: a host was removed, and whatever it held may be another's by now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// That of the host when it was removed.
    pub incarnation: String,
    /// The host on which that was asked for.
    pub by: Name,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// `endpoints/NODE/NET` and `endpoints/NODE/NET/CONTAINER`: a station of an overlay network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Station {
    /// Its Ethernet address.
    pub mac: Mac,
    /// At most one address of each family.
    pub ips: Vec<IpAddr>,
    /// The container's name; none for the host's own part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// What it calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Further names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Station {
    /// Where it is, on a host of this address.
    pub fn at(&self, host: IpAddr) -> Place {
        Place {
            mac: self.mac,
            ips: self.ips.clone(),
            host,
        }
    }
}

/// `blocks/NET/PREFIX` and `addrs/NET/ADDRESS`: who decides on these addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The host; none when they were given back, and may be claimed again.
    pub node: Option<Name>,
    /// Its id: a host that was set up anew does not take over what its name had.
    #[serde(default)]
    pub id: String,
    /// Whether the host's own address comes from it: its first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub router: bool,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What a key says.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// Which cluster.
    Meta(Meta),
    /// A host.
    Node(Node),
    /// A host lives.
    Alive(Alive),
    /// A host was removed.
    Removed(Removed),
    /// A network.
    Network(Box<Network>),
    /// A station.
    Station(Station),
    /// A claim.
    Claim(Claim),
}

/// Reads the value of a key. The error says why it is of no use, in words for an operator.
pub fn read(key: &Key, value: &[u8]) -> Result<Record, String> {
    if value.len() > VALUE_MAX {
        return Err(format!(
            "it has {} bytes, more than the {VALUE_MAX} of any record",
            value.len()
        ));
    }
    match key {
        Key::Meta => parse(value).map(Record::Meta),
        Key::Node(_) => parse(value).and_then(node).map(Record::Node),
        Key::Alive(_) => parse(value).map(Record::Alive),
        Key::Removed(..) => parse(value).map(Record::Removed),
        Key::Network(id) => {
            let record: Network = parse(value)?;
            if record.id != *id {
                return Err(format!("it is the record of network {}", record.id));
            }
            network(record).map(|record| Record::Network(Box::new(record)))
        }
        Key::Member(..) | Key::Endpoint(..) => parse(value).and_then(station).map(Record::Station),
        Key::Claim(..) => parse(value).map(Record::Claim),
    }
}

/// The bytes of a record.
pub fn write<T: Serialize>(record: &T) -> Vec<u8> {
    match encode(record) {
        Ok(bytes) => bytes,
        // Records are maps with text keys of values that JSON has.
        Err(error) => unreachable!("a record is no JSON: {error}"),
    }
}

fn parse<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    decode(value).map_err(|fault| match fault {
        Fault::TooNew(found) => {
            format!("it has format {found}: a newer netd wrote it, update this one")
        }
        Fault::Newer(why) | Fault::Damaged(why) => why,
    })
}

fn usable(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback()
}

fn node(node: Node) -> Result<Node, String> {
    if !usable(node.address) {
        return Err(format!(
            "its address {} is none that packets go to",
            node.address
        ));
    }
    let texts = [&node.id, &node.incarnation, &node.software];
    if texts.into_iter().any(|text| text.len() > 128) {
        return Err("one of its texts is longer than 128 bytes".to_owned());
    }
    Ok(node)
}

fn station(station: Station) -> Result<Station, String> {
    let families: Vec<Family> = station.ips.iter().map(|ip| Family::of(*ip)).collect();
    let twice = families.len() > 2 || (families.len() == 2 && families[0] == families[1]);
    if families.is_empty() || twice || !station.ips.iter().copied().all(usable) {
        return Err("it has not one usable address of each family".to_owned());
    }
    let names = station.aliases.iter().chain(&station.hostname);
    if station.aliases.len() > ALIASES_MAX {
        return Err(format!("it has more than {ALIASES_MAX} aliases"));
    }
    if names
        .into_iter()
        .any(|name| !netd_model::request::is_dns_name(name))
    {
        return Err("one of its names is no DNS name".to_owned());
    }
    Ok(station)
}

fn network(record: Network) -> Result<Network, String> {
    let Some(overlay) = record
        .overlay
        .as_ref()
        .filter(|_| record.driver == Driver::Overlay)
    else {
        return Err("it is no overlay network".to_owned());
    };
    if overlay.vni == 0 || overlay.vni > 0xff_ffff || overlay.port == 0 {
        return Err("its network identifier or port is out of range".to_owned());
    }
    let families: Vec<Family> = record.subnets.iter().map(|s| s.subnet.family()).collect();
    let twice = families.len() > 2 || (families.len() == 2 && families[0] == families[1]);
    if families.is_empty() || twice {
        return Err("it has not one subnet of each family".to_owned());
    }
    for subnet in &record.subnets {
        let (prefix, gateway) = (subnet.subnet, subnet.gateway);
        let longest = netd_model::overlay::longest_subnet(prefix.family());
        if prefix.len() > longest || prefix.len() < 8 || !prefix.contains(gateway) {
            return Err(format!(
                "subnet {prefix} with gateway {gateway} cannot be used"
            ));
        }
    }
    let mtu = record.mtu;
    if !(netd_model::request::MTU_MIN..=netd_model::request::MTU_MAX).contains(&mtu) {
        return Err(format!("its MTU {mtu} is out of range"));
    }
    if record.interface != Network::default_interface(&record.id) {
        // A name that is another interface's on this host would be that interface's end.
        return Err(format!(
            "its interface {} is not that of its id",
            record.interface
        ));
    }
    Ok(record)
}

/// The names that a station answers to.
pub fn names(station: &Station, id: &ContainerId) -> Vec<String> {
    let Some(name) = &station.name else {
        return Vec::new();
    };
    let aliases = station.aliases.iter().map(String::as_str);
    netd_dns::container_names(name, aliases, id, station.hostname.as_deref())
        .into_iter()
        .map(ToString::to_string)
        .collect()
}
