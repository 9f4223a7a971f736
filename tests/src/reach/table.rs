//! What is right.
//!
//! Owns the table of who reaches whom and what its circumstances change. Everything
//! else in these tests only finds out which cell an attempt belongs to.

use std::net::IpAddr;

/// Who asks: a column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// A container of a nat network.
    Nat,
    /// A container of a nat network with icc=false.
    Apart,
    /// A container of a routed network.
    Routed,
    /// A container of an isolated network.
    Isolated,
    /// A container of an internal network.
    Internal,
    /// The host that netd runs on.
    Host,
    /// Another host.
    Outside,
    /// Another host, behind an interface that a nat network trusts.
    Trusted,
}

/// What is asked, as the one who asks stands to it: a row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// The own address of a container of the same network; its port may be published or not.
    OwnNetwork,
    /// The own address of a container of another, nat network; its port may be published or not.
    OtherNetwork,
    /// The own address of a container of a routed network: a published port, or a ping.
    RoutedOpen,
    /// The same, another port.
    RoutedClosed,
    /// The own address of a container of an isolated network.
    IsolatedNetwork,
    /// Between a container of a network and a host behind an interface that the network trusts, either way.
    ByTrust,
    /// The own address of a container of another, internal network.
    InternalNetwork,
    /// A port published on the host's address that is asked; the one who asks may be behind it.
    Published,
    /// The same on 127.0.0.1 or ::1, which only the host itself can ask.
    Loopback,
    /// A port published on other addresses of the host than the one that is asked, or on none.
    Closed,
    /// A server of the host's own, on any of its addresses.
    Host,
    /// The same on an address to which a container in an internal network is given no route.
    Unrouted,
    /// Another host, through this one.
    Outside,
}

/// As whom the server sees the one who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum As {
    /// By its own address.
    Itself,
    /// As the gateway of the network the server is in.
    Gateway,
    /// By its own address, unless it is on the server's network: then as that network's gateway.
    Sender,
    /// As the host, on the link whose address was asked: the host talks to itself.
    Asked,
    /// As the host, on the wire that leads to the server.
    HostWire,
}

use As::{Asked, Gateway, HostWire, Itself, Sender};

/// None: no packet arrives.
type Cell = Option<As>;

#[rustfmt::skip]
const TABLE: [(What, [Cell; 8]); 13] = [
    // asked                 by nat            icc=false        routed          isolated       internal       host            outside        trusted
    (What::OwnNetwork,      [Some(Itself),     None,            Some(Itself),   Some(Itself),  Some(Itself),  None,           None,          None]),
    (What::OtherNetwork,    [None,             None,            None,           None,          None,          Some(Gateway),  None,          None]),
    (What::RoutedOpen,      [Some(Gateway),    Some(Gateway),   Some(Itself),   None,          None,          Some(Gateway),  Some(Itself),  Some(Itself)]),
    (What::RoutedClosed,    [None,             None,            None,           None,          None,          Some(Gateway),  None,          None]),
    (What::IsolatedNetwork, [None,             None,            None,           None,          None,          None,           None,          None]),
    (What::InternalNetwork, [None,             None,            None,           None,          None,          Some(Gateway),  None,          None]),
    (What::Published,       [Some(Gateway),    Some(Gateway),   Some(Sender),   None,          None,          Some(Asked),    Some(Itself),  Some(Itself)]),
    (What::Loopback,        [None,             None,            None,           None,          None,          Some(Gateway),  None,          None]),
    (What::Closed,          [None,             None,            None,           None,          None,          None,           None,          None]),
    (What::Host,            [Some(Itself),     Some(Itself),    Some(Itself),   None,          None,          Some(Asked),    Some(Itself),  Some(Itself)]),
    (What::Unrouted,        [None,             None,            None,           None,          None,          None,           None,          None]),
    // From outside to outside: a host that netd made forward does not become a router.
    (What::Outside,         [Some(HostWire),   Some(HostWire),  Some(Itself),   None,          None,          Some(HostWire), None,          None]),
    (What::ByTrust,         [Some(Itself),     None,            None,           None,          None,          None,           None,          Some(Itself)]),
];

/// The state of the host that the table is tried in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Circumstances {
    /// Bridged packets pass the IP hooks too: net.bridge.bridge-nf-call-iptables and -ip6tables.
    pub bridge_nf: bool,
    /// Another program drops what is forwarded.
    pub forward_drop: bool,
}

/// What an attempt should come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    /// An answer.
    Answer(As),
    /// No answer, but what was asked may have arrived.
    Lost,
    /// Nothing arrives.
    Silence,
}

pub(super) fn right(who: Who, what: What, to: IpAddr, now: Circumstances) -> Right {
    let row = TABLE.iter().find(|row| row.0 == what);
    let cell = row.expect("the table has a row for everything").1[who as usize];
    match cell {
        None => Right::Silence,
        Some(_) if now.forward_drop && is_forwarded(who, what, now) => Right::Silence,
        // On the way back the bridge looks for a route for ::1 and there is none.
        Some(_) if now.bridge_nf && what == What::Loopback && to.is_ipv6() => Right::Lost,
        Some(seen) => Right::Answer(seen),
    }
}

/// Whether the packets pass the forward hook: what the host itself sends or receives does not.
fn is_forwarded(who: Who, what: What, now: Circumstances) -> bool {
    match what {
        What::OwnNetwork => now.bridge_nf,
        What::Published | What::Outside | What::RoutedOpen => who != Who::Host,
        What::ByTrust => true,
        _ => false,
    }
}
