//! What can go wrong, in one line each: the object, the reason, the remedy.
//!
//! Codes are stable: the API, the CLI and CNI pass them on. Never holds text of the caller's
//! object names (networks, containers); the caller adds those around the message.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::subnets::AutoRange;

/// Why an address of a prefix is never given to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReservedAs {
    /// First address of an IPv4 prefix.
    Network,
    /// Last address of an IPv4 prefix.
    Broadcast,
    /// First address of an IPv6 prefix, the subnet-router anycast address (RFC 4291, 2.6.1).
    Anycast,
    /// The network's gateway.
    Gateway,
    /// Kept out by the `extra_reserved` of [`crate::Pool::new`].
    Excluded,
}

impl fmt::Display for ReservedAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network => "the network address",
            Self::Broadcast => "the broadcast address",
            Self::Anycast => "the subnet-router anycast address",
            Self::Gateway => "the gateway",
            Self::Excluded => "a reserved address",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Every address that may be given out automatically is in use; `capacity` is how many there
    /// are (0 when all of a tiny prefix is reserved).
    #[error("{}", exhausted(*prefix, *range, *capacity))]
    Exhausted {
        prefix: IpNetwork,
        range: Option<IpNetwork>,
        capacity: u128,
    },

    #[error("{ip}: already in use in {prefix}; ask for another address or for none")]
    InUse { ip: IpAddr, prefix: IpNetwork },

    #[error("{ip}: not an address of {prefix}; ask for one inside it or for none")]
    OutOfPrefix { ip: IpAddr, prefix: IpNetwork },

    #[error("{ip}: is {what} of {prefix}; ask for another address or for none")]
    Reserved {
        ip: IpAddr,
        prefix: IpNetwork,
        what: ReservedAs,
    },

    /// Given back, but nobody holds it: the caller's records and the pool disagree.
    #[error("{ip}: not in use in {prefix}, so it cannot be given back; nothing was changed")]
    NotInUse { ip: IpAddr, prefix: IpNetwork },

    #[error("ip-range {range}: not inside {prefix}; choose a part of the subnet")]
    RangeOutsidePrefix { range: IpNetwork, prefix: IpNetwork },

    #[error("gateway {gateway}: not an address of {prefix}; choose one inside the subnet")]
    GatewayOutsidePrefix { gateway: IpAddr, prefix: IpNetwork },

    #[error("gateway {gateway}: is {what} of {prefix}; choose another address of the subnet")]
    GatewayReserved {
        gateway: IpAddr,
        prefix: IpNetwork,
        what: ReservedAs,
    },

    #[error("{base}: cannot be cut into /{new_prefix} subnets; choose /{} to /{}",
        base.prefix(), if base.is_ipv4() { 32 } else { 128 })]
    InvalidAutoRange { base: IpNetwork, new_prefix: u8 },

    /// Every piece of every range overlaps something that has to be avoided.
    #[error("{}", no_free_subnet(tried))]
    NoFreeSubnet { tried: Vec<AutoRange> },
}

impl Error {
    /// The stable code that the API, the CLI and CNI report.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Exhausted { .. } | Self::NoFreeSubnet { .. } => "pool_exhausted",
            Self::InUse { .. } => "address_in_use",
            Self::OutOfPrefix { .. } | Self::Reserved { .. } => "invalid_ip",
            Self::NotInUse { .. } => "address_not_in_use",
            Self::RangeOutsidePrefix { .. } => "invalid_ip_range",
            Self::GatewayOutsidePrefix { .. } | Self::GatewayReserved { .. } => "invalid_gateway",
            Self::InvalidAutoRange { .. } => "invalid_subnet",
        }
    }
}

fn exhausted(prefix: IpNetwork, range: Option<IpNetwork>, capacity: u128) -> String {
    let addresses = match capacity {
        0 => "there is no address to give out".to_owned(),
        1 => "the only address is in use".to_owned(),
        n => format!("all {n} addresses are in use"),
    };
    let Some(range) = range else {
        let remedy = if capacity == 0 {
            ""
        } else {
            "detach a container or "
        };
        return format!("{prefix}: {addresses}; {remedy}create the network with a larger subnet");
    };
    format!(
        "{prefix}: {addresses} in its ip-range {range}; \
         ask for an address outside the range or create the network with a larger one"
    )
}

fn no_free_subnet(tried: &[AutoRange]) -> String {
    if tried.is_empty() {
        return "no subnet can be chosen: no range for automatic subnets is set; give a subnet"
            .to_owned();
    }
    let tried: Vec<String> = tried.iter().map(ToString::to_string).collect();
    format!(
        "no free subnet in {}: all overlap routes, resolvers or other networks; \
         give a subnet or remove an unused network",
        tried.join(", ")
    )
}
