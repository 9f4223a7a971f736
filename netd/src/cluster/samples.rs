//! What tests of the cluster have in common: hosts, a network and its claims.

use std::net::IpAddr;

use netd_model::access::Access;
use netd_model::id::{Name, NetworkId};
use netd_model::naming::Naming;
use netd_model::net::{Mac, Prefix};
use netd_model::overlay::{self, Overlay};
use netd_model::record::{Driver, Mode, Network, Policy, Subnet, Unknown};

use super::mirror::News;
use super::records::{Claim, Node, Station};

pub(crate) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// The host `hN`, at 192.0.2.N.
pub(crate) fn node(n: u8) -> Node {
    Node {
        id: n.to_string().repeat(32),
        incarnation: String::new(),
        address: [192, 0, 2, n].into(),
        mtu: 1500,
        software: String::new(),
        unknown: Unknown::new(),
    }
}

pub(crate) fn network_id() -> NetworkId {
    NetworkId::from_bytes([9; 16])
}

/// The overlay network `web`, with its gateway at the first address.
pub(crate) fn network(subnet: &str) -> Network {
    let subnet: Prefix = subnet.parse().unwrap();
    let IpAddr::V4(base) = subnet.base() else {
        unreachable!("the tests' networks have IPv4 alone");
    };
    let id = network_id();
    Network {
        interface: Network::default_interface(&id),
        name: name("web"),
        driver: Driver::Overlay,
        subnets: vec![Subnet {
            subnet,
            gateway: IpAddr::V4((base.to_bits() + 1).into()),
            ip_range: None,
        }],
        internal: false,
        mode: Mode::Nat,
        mode6: None,
        policy: Policy::default(),
        mtu: 1450,
        dns: Vec::new(),
        naming: Naming::default(),
        labels: [].into(),
        routes: Vec::new(),
        access: Access::default(),
        reservations: [].into(),
        overlay: Some(Overlay {
            vni: 42,
            port: overlay::PORT,
            udpcsum: true,
            router: None,
        }),
        unknown: Unknown::new(),
        id,
    }
}

/// A claim of `h1` on that network.
pub(crate) fn claimed(prefix: &str, router: bool) -> News {
    let claim = Claim {
        node: Some(name("h1")),
        id: node(1).id,
        router,
        unknown: Unknown::new(),
    };
    News::Claim(network_id(), prefix.parse().unwrap(), Some(claim))
}

/// A container without a name, at an address.
pub(crate) fn station(ip: IpAddr) -> Station {
    Station {
        mac: Mac::of_address(ip),
        ips: vec![ip],
        name: None,
        hostname: None,
        aliases: Vec::new(),
        unknown: Unknown::new(),
    }
}
