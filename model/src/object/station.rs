//! Who is where on an overlay network: entries of the tables of VXLAN devices and bridges, and neighbours of bridges.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Key, Object, Owner};
use crate::net::{IfName, Mac};

/// Which host a station of an overlay network is on: an entry of the VXLAN device's own table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Remote {
    /// The VXLAN device.
    pub ifname: IfName,
    /// The station.
    pub mac: Mac,
    /// The host's address.
    pub host: IpAddr,
    /// What it serves: the owner of its link.
    pub owner: Owner,
}

/// A host that gets what is sent to everybody, and to stations nobody knows: head-end replication.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Flood {
    /// The VXLAN device.
    pub ifname: IfName,
    /// The host's address.
    pub host: IpAddr,
    /// What it serves: the owner of its link.
    pub owner: Owner,
}

/// Which port of its bridge a station is behind. Sticky: no frame moves it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Station {
    /// The port.
    pub ifname: IfName,
    /// The station.
    pub mac: Mac,
    /// What it serves: the owner of its link.
    pub owner: Owner,
}

/// A permanent neighbour of a bridge, with our protocol number: the source of the answers that the bridge gives itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Neighbour {
    /// The bridge.
    pub ifname: IfName,
    /// The address.
    pub ip: IpAddr,
    /// Who has it.
    pub mac: Mac,
    /// What it serves: the owner of its link.
    pub owner: Owner,
}

impl Object {
    /// Whether it is one of these entries. There may be tens of thousands on a network.
    pub const fn is_station(&self) -> bool {
        matches!(
            self,
            Self::Remote(_) | Self::Flood(_) | Self::Station(_) | Self::Neighbour(_)
        )
    }
}

impl Key {
    /// The same of an object's identity.
    pub const fn is_station(&self) -> bool {
        matches!(
            self,
            Self::Remote { .. }
                | Self::Flood { .. }
                | Self::Station { .. }
                | Self::Neighbour { .. }
        )
    }
}
