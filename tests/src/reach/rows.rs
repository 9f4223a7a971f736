//! Every attempt: each place asks each server there is, by each address, in each way.
//!
//! Owns the way from two places to a cell of the table.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::table::{self, As, Circumstances, Right, What, Who};
use super::world::{
    CONTAINER_PORT, HOST_PORT, LOOPBACK_PORT, PUBLISHED_PORTS, Place, TRUSTING, UNPUBLISHED_PORT,
    World, is_open, same_family,
};

/// How it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    /// A TCP connection.
    Tcp,
    /// A datagram.
    Udp,
    /// An ICMP echo; the port means nothing.
    Ping,
}

/// One attempt.
#[derive(Debug, Clone)]
pub(super) struct Row<'a> {
    pub(super) from: &'a Place,
    pub(super) via: Via,
    pub(super) to: SocketAddr,
    /// What stands at that address.
    label: String,
    what: What,
    pub(super) expect: Expect,
}

/// What should come of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expect {
    /// An answer.
    Answer {
        /// By this server.
        name: &'static str,
        /// Which sees one of these addresses.
        seen: Vec<IpAddr>,
    },
    /// None, though the question may have arrived.
    Lost,
    /// The question arrives nowhere.
    Silence,
}

impl Row<'_> {
    /// Whether the network alone decides: not where a packet arrives that nobody waits for.
    pub(super) fn is_traceable(&self) -> bool {
        self.what != What::Closed && self.expect != Expect::Lost
    }
}

/// Somewhere to send to; without a port it is pinged.
#[derive(Debug, Clone)]
struct Target<'a> {
    ip: IpAddr,
    port: Option<u16>,
    label: String,
    place: &'a Place,
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.to.is_ipv4() { 4 } else { 6 };
        let via = format!("{:?}", self.via).to_lowercase();
        write!(f, "{via}{family} {} -> {} ", self.from.name, self.label)?;
        match self.via {
            Via::Ping => write!(f, "({})", self.to.ip())?,
            Via::Tcp | Via::Udp => write!(f, "({})", self.to)?,
        }
        write!(f, " [{:?} asks {:?}]", self.from.who, self.what)
    }
}

/// All attempts, with what should come of each.
pub(super) fn rows(world: &World, now: Circumstances) -> Vec<Row<'_>> {
    let targets: Vec<_> = world
        .places
        .iter()
        .flat_map(|p| targets(world, p))
        .collect();
    let mut rows = Vec::new();
    for from in &world.places {
        for target in &targets {
            rows.extend(attempts(world, from, target, now));
        }
    }
    rows
}

/// Everything that can be asked of a place.
fn targets<'a>(world: &World, place: &'a Place) -> Vec<Target<'a>> {
    let ports: Vec<u16> = match place.who {
        Who::Nat | Who::Apart | Who::Routed | Who::Isolated | Who::Internal => {
            vec![CONTAINER_PORT, UNPUBLISHED_PORT]
        }
        Who::Outside | Who::Trusted => vec![HOST_PORT],
        Who::Host => [HOST_PORT].into_iter().chain(PUBLISHED_PORTS).collect(),
    };
    let mut ips: Vec<_> = place.ips.clone();
    if place.who == Who::Host {
        ips.push(Ipv4Addr::LOCALHOST.into());
        ips.extend(world.ipv6.then_some(IpAddr::from(Ipv6Addr::LOCALHOST)));
    }
    let mut targets = Vec::new();
    for ip in ips {
        for port in ports.iter().copied().map(Some).chain([None]) {
            let label = label(world, place, ip, port);
            targets.push(Target {
                ip,
                port,
                label,
                place,
            });
        }
    }
    targets
}

fn label(world: &World, place: &Place, ip: IpAddr, port: Option<u16>) -> String {
    let port = port.map_or_else(String::new, |port| format!(":{port}"));
    match (place.who, end_of(world, ip)) {
        (Who::Host, Some(end)) => {
            let wire = end.network.unwrap_or(end.name);
            format!("host's end of {wire}{port}")
        }
        _ => format!("{}{port}", place.name),
    }
}

/// One place asks one target, in all ways that mean something.
fn attempts<'a>(
    world: &'a World,
    from: &'a Place,
    target: &Target<'a>,
    now: Circumstances,
) -> Vec<Row<'a>> {
    let Some((what, server)) = relation(world, from, target) else {
        return Vec::new();
    };
    let right = match table::right(from.who, what, target.ip, now) {
        // Published on ::1 by name: the daemon passes it on where the kernel cannot.
        Right::Lost if target.port == Some(LOOPBACK_PORT) => Right::Answer(As::Gateway),
        right => right,
    };
    let expect = match right {
        Right::Silence => Expect::Silence,
        Right::Lost => Expect::Lost,
        Right::Answer(seen) => Expect::Answer {
            name: server.name,
            seen: addresses(world, from, target, server, seen),
        },
    };
    let vias: &[Via] = if target.port.is_some() {
        &[Via::Tcp, Via::Udp]
    } else {
        &[Via::Ping]
    };
    let row = |via: &Via| Row {
        from,
        via: *via,
        to: SocketAddr::new(target.ip, target.port.unwrap_or_default()),
        label: target.label.clone(),
        what,
        expect: expect.clone(),
    };
    vias.iter().map(row).collect()
}

/// How `from` stands to the target, and who should answer; none where there is nothing to ask.
fn relation<'a>(world: &'a World, from: &Place, target: &Target<'a>) -> Option<(What, &'a Place)> {
    let place = target.place;
    let speaks = from.ips.iter().any(|own| same_family(*own, target.ip));
    let own_loopback = target.ip.is_loopback() && from.who != Who::Host;
    let itself = from.name == place.name && from.who != Who::Host;
    if !speaks || own_loopback || itself {
        return None;
    }
    let trust = |inside: &Place, outside: &Place| {
        outside.who == Who::Trusted && inside.network == Some(TRUSTING)
    };
    if trust(from, place) || trust(place, from) {
        return Some((What::ByTrust, place));
    }
    match place.who {
        Who::Outside | Who::Trusted => Some((What::Outside, place)),
        _ if place.network.is_some() && from.network == place.network => {
            Some((What::OwnNetwork, place))
        }
        Who::Nat | Who::Apart => Some((What::OtherNetwork, place)),
        Who::Routed => Some(match target.port {
            Some(port) if !is_open(place, port) => (What::RoutedClosed, place),
            _ => (What::RoutedOpen, place),
        }),
        Who::Isolated => Some((What::IsolatedNetwork, place)),
        Who::Internal => Some((What::InternalNetwork, place)),
        Who::Host => Some(match target.port {
            None | Some(HOST_PORT) if from.is_routed(target.ip) => (What::Host, place),
            None | Some(HOST_PORT) => (What::Unrouted, place),
            Some(port) => match world.published(target.ip, port) {
                None => (What::Closed, place),
                Some(behind) if target.ip.is_loopback() => (What::Loopback, behind),
                Some(behind) => (What::Published, behind),
            },
        }),
    }
}

fn addresses(
    world: &World,
    from: &Place,
    target: &Target<'_>,
    server: &Place,
    seen: As,
) -> Vec<IpAddr> {
    let mut addresses = match seen {
        As::Sender if from.network == server.network => server.gateways.clone(),
        As::Itself | As::Sender => from.ips.clone(),
        As::Gateway | As::HostWire => server.gateways.clone(),
        As::Asked => match end_of(world, target.ip) {
            Some(end) => end.gateways.clone(),
            None => vec![target.ip],
        },
    };
    addresses.retain(|ip| same_family(*ip, target.ip));
    addresses
}

/// Where the host's link leads that has this address.
fn end_of(world: &World, ip: IpAddr) -> Option<&Place> {
    let mut places = world.places.iter();
    places.find(|place| place.gateways.contains(&ip))
}
