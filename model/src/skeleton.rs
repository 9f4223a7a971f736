//! The fixed part of netd's nftables: which tables, sets, chains and rules there are. Everything that varies is an
//! element of one of these sets.
//!
//! Why each rule is there and in this order is said beside it; the behaviour was tried with packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::id::ContainerId;
use crate::net::{Family, IfName, Prefix, Proto};
use crate::nft::{
    Chain, ChainKind, CtState, Datum, Expr, Field, Hook, HookPoint, Ruleset, SetKind, SetSpec,
    Stmt, TableFamily, TableRef, Verdict,
};
use crate::object::{Ns, Owner};
use crate::probe;

mod access;
mod counts;
mod drops;
mod guard;
mod tunnels;

pub use access::{
    ALLOWED, BLOCKED, CLOSED, LIMITED, PORT_ALLOWED, PORT_BLOCKED, PORT_CLOSED, PORT_LIMITED,
};
pub use counts::{COUNT_IN, COUNT_OUT};
pub use tunnels::{TUNNEL_TABLE, tunnel_table, tunnels};

use drops::because;
pub use drops::{DIRECT_AT, Reason, families as drop_keys, is_drop};

/// The table in the host's namespace.
pub const TABLE: &str = "netd";
/// The table in a container's namespace.
pub const DNS_TABLE: &str = "netd-dns";
/// Where containers find their name server.
pub const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// The port that really listens on [`DNS_ADDRESS`]: port 53 stays free for the container's own server.
pub const DNS_PORT: u16 = 40053;
/// The port that containers ask.
const DOMAIN: u16 = 53;

/// Set of the bridges of ours: `interface`.
pub const BRIDGES: &str = "bridges";
/// Set of networks whose containers may talk to each other: `bridge . bridge`, twice the same.
pub const SAME: &str = "same";
/// Set of networks that leave under the host's address: `bridge . family`.
pub const MASQ: &str = "masq";
/// Set of the families in which netd itself switched forwarding on: `family`.
pub const FORWARDING: &str = "forwarding";
/// Verdict map by where a packet comes from: `bridge . family`, drop where nothing leaves the network.
pub const EGRESS: &str = "egress";
/// Set of networks whose containers may not talk to each other (`icc=false`): `bridge . bridge`, twice the same.
pub const APART: &str = "apart";
/// Set of bridges whose containers may not open flows to the host: `bridge . family`.
pub const NOHOST: &str = "nohost";
/// Set of interfaces of the host that reach the containers of a network directly: `interface . bridge` and, for the way
/// back, `bridge . interface`.
pub const TRUSTED: &str = "trusted";
/// Verdict map by where a packet goes to: `bridge . family`, goto [`TO_NAT`], goto [`TO_ROUTED`] or drop for [`Reason::Internal`].
pub const TO: &str = "to";
/// The administrator's chain: netd makes it, jumps to it first and never looks inside.
pub const USER_FORWARD: &str = "user-forward";
/// The chain that decides on flows.
const DECIDE: &str = "decide";
/// The chain for packets that go to a network in nat mode.
pub const TO_NAT: &str = "to_nat";
/// The chain for packets between containers of a network with `icc=false`.
const TO_APART: &str = "to_apart";
/// The chain for packets that go to a network in routed mode.
pub const TO_ROUTED: &str = "to_routed";

// These exist once for each family, as `pub4` and `pub6`: see `of_family`.

/// Map of ports published on one address: `address . protocol . port` to `address . port`.
pub const PUB: &str = "pub";
/// Map of ports published on every address: `protocol . port` to `address . port`.
pub const PUBANY: &str = "pubany";
/// Map of ports published on a loopback address, keyed like [`PUB`]: read in the output hook only.
pub const LO: &str = "lo";
/// Map of networks that leave under a certain address: `bridge` to `address`.
pub const SNAT: &str = "snat";
/// Ports of containers that are reached at their own address (routed mode): `address . protocol . port`.
pub const OPEN: &str = "open";
/// Containers that have published ports and answer their neighbours by the host: `address . address`, twice the same.
pub const ITSELF: &str = "itself";
/// Intervals: a bridge with its own subnet, `bridge . subnet`, where containers answer their neighbours directly.
pub const OWN: &str = "own";
/// Intervals: container addresses, that is subnets *without* the gateway's address. With it the host's own connection
/// to a published `GATEWAY:PORT` of another network would die: its answers come in by the other bridge.
pub const GUARD: &str = "guard";
/// Intervals: from which interface guarded addresses may be reached directly, `interface . subnet`.
pub const DIRECT: &str = "direct";
/// Intervals: who in the cluster reaches which subnet directly, `prefix . subnet`.
pub const PEERS: &str = "peers";

/// Addresses of the cluster's hosts: from nobody else packets of an overlay network are taken.
pub const TUNNEL_PEERS: &str = "tunnel_peers";
/// Set of the overlay networks of this host: `VXLAN network identifier`. What bears another is none of netd's business,
/// whatever its port. A set of its own beside the ports, for `nft` 1.0.6 lists no concatenation with it.
pub const TUNNELS: &str = "tunnels";
/// Set of the UDP ports of overlay networks: `UDP port`.
pub const TUNNEL_PORTS: &str = "tunnel_ports";

/// Set of the peers on this host's overlay networks, once for each family: `bridge . address`, where they send their probes
/// from ([`crate::probe`]).
pub const ROUTERS: &str = "routers";

/// The name of a family's set: `pub4` of [`PUB`].
pub fn of_family(stem: &str, family: Family) -> String {
    format!("{stem}{}", family.digit())
}

mod ports;
pub use ports::{ALLOW, ARP, PACED, PACED_PORTS, PORT_MACS, PORTS, SOURCE, bridge, bridge_table};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// The host's table.
pub fn host_table() -> TableRef {
    TableRef {
        ns: Ns::Host,
        family: TableFamily::Inet,
        name: TABLE.to_owned(),
    }
}

/// A container's table.
pub fn dns_table(container: &ContainerId) -> TableRef {
    let ns = Ns::Container(container.clone());
    TableRef {
        ns,
        family: TableFamily::Inet,
        name: DNS_TABLE.to_owned(),
    }
}

/// The ruleset in the host's namespace.
pub fn host() -> Ruleset {
    Ruleset {
        table: host_table(),
        sets: host_sets(),
        chains: [
            drops::chains(&Reason::HOST),
            access::chains(),
            guard::chains(),
            vec![
                chain(USER_FORWARD, None, None),
                chain("publish", None, Some(publish())),
                chain(
                    "prerouting",
                    nat(HookPoint::Prerouting, DSTNAT),
                    Some(prerouting()),
                ),
                chain("output", nat(HookPoint::Output, DSTNAT), Some(output())),
                chain(
                    "postrouting",
                    nat(HookPoint::Postrouting, SRCNAT),
                    Some(postrouting()),
                ),
                chain("unpublished", None, Some(unpublished())),
                chain(TO_NAT, None, Some(to_nat())),
                chain(TO_APART, None, Some(to_apart())),
                chain(TO_ROUTED, None, Some(to_routed())),
                chain("invalid", None, Some(invalid())),
                chain("probes", None, Some(probes())),
                chain("input", filter(HookPoint::Input, FILTER), Some(input())),
                chain(DECIDE, None, Some(decide())),
            ],
            counts::chains(),
            vec![chain(
                "forward",
                filter(HookPoint::Forward, FILTER),
                Some(forward()),
            )],
        ]
        .concat(),
        owner: Owner::Host,
    }
}

/// The ruleset in a container's namespace: what it asks 127.0.0.11:53 goes to [`DNS_PORT`], and answers come from 53.
///
/// Rewritten statelessly and untracked: connection tracking confuses an A and an AAAA query sent at once from one
/// socket, and the container's own NAT rules never see these packets, since raw comes first.
pub fn dns(container: &ContainerId) -> Ruleset {
    let rewrite = |side: fn(Family) -> Expr, port: Expr, proto: Proto, from: u16, to: Stmt| {
        vec![
            is(side(Family::V4), Datum::Ip4(DNS_ADDRESS)),
            is(Expr::L4Proto, Datum::L4Proto(proto.number())),
            is(port, Datum::Port(from)),
            Stmt::Notrack,
            to,
        ]
    };
    let query = |proto| {
        rewrite(
            Expr::Daddr,
            Expr::Dport,
            proto,
            DOMAIN,
            Stmt::SetDport(DNS_PORT),
        )
    };
    let answer = |proto| {
        rewrite(
            Expr::Saddr,
            Expr::Sport,
            proto,
            DNS_PORT,
            Stmt::SetSport(DOMAIN),
        )
    };
    let rules = vec![
        // Whatever leaves the container passes here: it is asked one thing.
        vec![
            Stmt::Match {
                left: Expr::Oifname,
                right: Datum::Ifname(IfName::lo()),
                invert: true,
            },
            ACCEPT,
        ],
        query(Proto::Udp),
        query(Proto::Tcp),
        answer(Proto::Udp),
        answer(Proto::Tcp),
        // While no daemon runs nobody listens there. The kernel would say so, and resolver libraries take that for an
        // answer and give up; what they hear nothing of they ask again.
        vec![
            is(Expr::Saddr(Family::V4), Datum::Ip4(DNS_ADDRESS)),
            is(Expr::L4Proto, Datum::L4Proto(ICMP)),
            Stmt::Verdict(Verdict::Drop),
        ],
    ];
    Ruleset {
        table: dns_table(container),
        sets: Vec::new(),
        chains: vec![chain("out", filter(HookPoint::Output, RAW), Some(rules))],
        owner: Owner::Container(container.clone()),
    }
}

// Hook priorities (enum nf_ip_hook_priorities, linux/netfilter_ipv4.h).
const RAW: i32 = -300;
const DSTNAT: i32 = -100;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;
// IP protocol numbers (IANA).
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

fn host_sets() -> Vec<SetSpec> {
    use Field::{Ifname, Ip4, Ip6, L4Proto, NfProto, Port};
    let mut sets = vec![
        set(BRIDGES, &[Ifname]),
        set(SAME, &[Ifname, Ifname]),
        set(MASQ, &[Ifname, NfProto]),
        set(FORWARDING, &[NfProto]),
        set(APART, &[Ifname, Ifname]),
        set(NOHOST, &[Ifname, NfProto]),
        set(TRUSTED, &[Ifname, Ifname]),
        SetSpec {
            kind: SetKind::VerdictMap,
            ..set(EGRESS, &[Ifname, NfProto])
        },
        SetSpec {
            kind: SetKind::VerdictMap,
            ..set(TO, &[Ifname, NfProto])
        },
    ];
    for family in FAMILIES {
        let ip = match family {
            Family::V4 => Ip4,
            Family::V6 => Ip6,
        };
        let each = |stem, key: &[Field]| set(&of_family(stem, family), key);
        let map = |stem, key: &[Field]| SetSpec {
            kind: SetKind::Map(vec![ip, Port]),
            ..each(stem, key)
        };
        let intervals = |stem, key: &[Field]| SetSpec {
            interval: true,
            ..each(stem, key)
        };
        sets.extend([
            map(PUB, &[ip, L4Proto, Port]),
            map(PUBANY, &[L4Proto, Port]),
            map(LO, &[ip, L4Proto, Port]),
            SetSpec {
                kind: SetKind::Map(vec![ip]),
                ..each(SNAT, &[Ifname])
            },
            each(OPEN, &[ip, L4Proto, Port]),
            each(ROUTERS, &[Ifname, ip]),
            each(ITSELF, &[ip, ip]),
            intervals(OWN, &[Ifname, ip]),
            intervals(GUARD, &[ip]),
            intervals(DIRECT, &[Ifname, ip]),
            intervals(PEERS, &[ip, ip]),
        ]);
        sets.extend(counts::sets(family));
    }
    sets.extend(access::sets());
    sets.extend(drops::sets(&Reason::HOST));
    sets
}

type Rules = Vec<Vec<Stmt>>;

/// Published ports, for packets to an address of this host. The exact address beats the wildcard.
fn publish() -> Rules {
    let any = |family| dnat(family, &[Expr::L4Proto, Expr::Dport], PUBANY);
    vec![
        exact(Family::V4, PUB),
        any(Family::V4),
        // A link-local client cannot be answered from behind a router.
        vec![
            Stmt::InPrefix {
                left: Expr::Saddr(Family::V6),
                prefix: link_local(),
            },
            RETURN,
        ],
        exact(Family::V6, PUB),
        any(Family::V6),
    ]
}

fn to_publish() -> Vec<Stmt> {
    vec![
        Stmt::FibDaddrLocal,
        Stmt::Verdict(Verdict::Jump("publish".to_owned())),
    ]
}

fn prerouting() -> Rules {
    let mut rules = guard::loopbacks();
    rules.push(to_publish());
    rules
}

/// Only packets of this host pass here, so only here the maps of the loopback addresses are read.
fn output() -> Rules {
    vec![exact(Family::V4, LO), exact(Family::V6, LO), to_publish()]
}

fn postrouting() -> Rules {
    // Hairpin: the client is in the subnet that its packet goes to. Judged by the source address, since bridged
    // packets have no input interface here when br_netfilter is on.
    let hairpin = |family| {
        let key = [Expr::Oifname, Expr::Saddr(family)];
        vec![
            Stmt::CtStatusDnat,
            within(&key, &of_family(OWN, family)),
            Stmt::Masquerade,
        ]
    };
    // With l3 neighbours answer by the host, and only a container itself would answer at once.
    let itself = |family| {
        let key = [Expr::Saddr(family), Expr::Daddr(family)];
        vec![
            Stmt::CtStatusDnat,
            within(&key, &of_family(ITSELF, family)),
            Stmt::Masquerade,
        ]
    };
    // Published on a loopback address: the container could not answer it.
    let local = |left, prefix| {
        vec![
            Stmt::InPrefix { left, prefix },
            within(&[Expr::Oifname], BRIDGES),
            Stmt::Masquerade,
        ]
    };
    let one = Prefix::holding(IpAddr::V6(Ipv6Addr::LOCALHOST), 128);
    vec![
        hairpin(Family::V4),
        hairpin(Family::V6),
        itself(Family::V4),
        itself(Family::V6),
        local(Expr::Saddr(Family::V4), loopback()),
        local(Expr::Saddr(Family::V6), one),
        // What is below is for packets of containers; clients from outside and programs of the host are spared it.
        vec![outside(&[Expr::Iifname], BRIDGES), RETURN],
        vec![within(&[Expr::Iifname, Expr::Oifname], SAME), RETURN],
        vec![within(&[Expr::Iifname, Expr::Oifname], TRUSTED), RETURN],
        from_cluster(Family::V4, Expr::Daddr, Expr::Saddr, RETURN),
        from_cluster(Family::V6, Expr::Daddr, Expr::Saddr, RETURN),
        vec![snat(Family::V4)],
        vec![snat(Family::V6)],
        vec![
            within(&[Expr::Iifname, Expr::NfProto], MASQ),
            Stmt::Masquerade,
        ],
    ]
}

/// A packet between a peer in the cluster and a container.
fn from_cluster(
    family: Family,
    peer: fn(Family) -> Expr,
    container: fn(Family) -> Expr,
    then: Stmt,
) -> Vec<Stmt> {
    let key = [peer(family), container(family)];
    vec![within(&key, &of_family(PEERS, family)), then]
}

/// To a nat network only published ports, trusted interfaces and its cluster lead.
fn to_nat() -> Rules {
    vec![
        vec![Stmt::CtStatusDnat, ACCEPT],
        vec![within(&[Expr::Iifname, Expr::Oifname], TRUSTED), ACCEPT],
        from_cluster(Family::V4, Expr::Saddr, Expr::Daddr, ACCEPT),
        from_cluster(Family::V6, Expr::Saddr, Expr::Daddr, ACCEPT),
        vec![Stmt::Verdict(Verdict::Goto("unpublished".to_owned()))],
    ]
}

/// Between containers that are kept apart only published ports lead.
fn to_apart() -> Rules {
    vec![vec![Stmt::CtStatusDnat, ACCEPT], vec![because(Reason::Icc)]]
}

/// Where nothing is published.
fn unpublished() -> Rules {
    vec![
        vec![
            within(&[Expr::Iifname], BRIDGES),
            because(Reason::Isolation),
        ],
        vec![because(Reason::Unpublished)],
    ]
}

/// A routed network answers at its containers' addresses too: to pings, so that a path can be looked into and its MTU
/// found, and on published ports.
fn to_routed() -> Rules {
    let protocol = |number| vec![is(Expr::L4Proto, Datum::L4Proto(number)), ACCEPT];
    let open = |family| {
        let key = [Expr::Daddr(family), Expr::L4Proto, Expr::Dport];
        vec![within(&key, &of_family(OPEN, family)), ACCEPT]
    };
    vec![
        vec![Stmt::CtStatusDnat, ACCEPT],
        protocol(ICMP),
        protocol(ICMPV6),
        open(Family::V4),
        open(Family::V6),
        vec![within(&[Expr::Iifname, Expr::Oifname], TRUSTED), ACCEPT],
        from_cluster(Family::V4, Expr::Saddr, Expr::Daddr, ACCEPT),
        from_cluster(Family::V6, Expr::Saddr, Expr::Daddr, ACCEPT),
        vec![Stmt::Verdict(Verdict::Goto("unpublished".to_owned()))],
    ]
}

/// What containers may open to the host. Answers to the host's own flows pass, and neighbour discovery, which connection
/// tracking does not count as a flow.
fn input() -> Rules {
    vec![
        // Packets of tunnels, which were judged already (`tunnels`), without asking them all that is below. What else is
        // untracked, such as neighbour discovery, opens no flow.
        vec![Stmt::CtState(CtState::Untracked), ACCEPT],
        vec![
            is(Expr::L4Proto, Datum::L4Proto(Proto::Udp.number())),
            is(Expr::Dport, Datum::Port(probe::PORT)),
            Stmt::Verdict(Verdict::Jump("probes".to_owned())),
        ],
        // Some of these addresses are the host's own: those that it speaks from on overlay networks.
        vec![guard::jump()],
        vec![
            within(&[Expr::Iifname, Expr::NfProto], NOHOST),
            Stmt::CtState(CtState::New),
            because(Reason::HostAccess),
        ],
    ]
}

/// Probes of the overlay come from hosts, also where containers may not reach the host, and never from containers.
fn probes() -> Rules {
    let peer = |family| {
        let key = [Expr::Iifname, Expr::Saddr(family)];
        vec![within(&key, &of_family(ROUTERS, family)), ACCEPT]
    };
    vec![
        peer(Family::V4),
        peer(Family::V6),
        vec![
            within(&[Expr::Iifname], BRIDGES),
            because(Reason::HostAccess),
        ],
    ]
}

/// Sent on, such a packet would leave without its address translated.
fn invalid() -> Rules {
    let side = |side| vec![within(&[side], BRIDGES), because(Reason::Invalid)];
    vec![side(Expr::Iifname), side(Expr::Oifname)]
}

/// What most packets need comes first, and each is asked as little as can be: a rule that does not match takes a hundredth
/// of what a small packet costs the host (docs/performance.md).
fn forward() -> Rules {
    vec![
        // Sent to a published port. On the wire it was for the address that the port is published on, so its container's
        // own address needs no guard.
        vec![
            Stmt::CtOriginal,
            Stmt::CtStatusDnat,
            Stmt::Verdict(Verdict::Goto(counts::ASKED.to_owned())),
        ],
        vec![within(&[Expr::Oifname], BRIDGES), guard::jump()],
        to_user(),
        // Sent by one.
        vec![
            Stmt::CtStatusDnat,
            Stmt::Verdict(Verdict::Goto(counts::ANSWERED.to_owned())),
        ],
        vec![Stmt::Verdict(Verdict::Goto(DECIDE.to_owned()))],
    ]
}

fn to_user() -> Vec<Stmt> {
    vec![Stmt::Verdict(Verdict::Jump(USER_FORWARD.to_owned()))]
}

/// Whether a flow may pass, behind the guard, the administrator's rules and the counters.
fn decide() -> Rules {
    let own = vec![
        vec![Stmt::CtState(CtState::EstablishedRelated), ACCEPT],
        // What is for containers, but would leave by another way, since the host has no address in an isolated network.
        vec![outside(&[Expr::Oifname], BRIDGES), guard::jump()],
        vec![
            Stmt::CtState(CtState::Invalid),
            Stmt::Verdict(Verdict::Jump("invalid".to_owned())),
        ],
        vec![within(&[Expr::Iifname, Expr::Oifname], SAME), ACCEPT],
        // The bridge keeps such frames apart; what its gateway sends back into the same bridge comes by here.
        vec![
            within(&[Expr::Iifname, Expr::Oifname], APART),
            Stmt::Verdict(Verdict::Goto(TO_APART.to_owned())),
        ],
    ];
    let others = vec![
        // Source first: an internal network must not leak through what its destination accepts.
        vec![Stmt::VerdictMap {
            key: vec![Expr::Iifname, Expr::NfProto],
            map: EGRESS.to_owned(),
        }],
        vec![Stmt::VerdictMap {
            key: vec![Expr::Oifname, Expr::NfProto],
            map: TO.to_owned(),
        }],
        // Where netd switched forwarding on, the host must not become a router between others by accident.
        vec![
            within(&[Expr::NfProto], FORWARDING),
            outside(&[Expr::Iifname], BRIDGES),
            outside(&[Expr::Oifname], BRIDGES),
            Stmt::CtState(CtState::New),
            because(Reason::Forwarding),
        ],
    ];
    [own, access::rules(), others].concat()
}

const ACCEPT: Stmt = Stmt::Verdict(Verdict::Accept);
const DROP: Stmt = Stmt::Verdict(Verdict::Drop);
const RETURN: Stmt = Stmt::Verdict(Verdict::Return);

fn loopback() -> Prefix {
    Prefix::holding(IpAddr::V4(Ipv4Addr::LOCALHOST), 8)
}

fn link_local() -> Prefix {
    Prefix::holding(IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10)
}

fn exact(family: Family, stem: &str) -> Vec<Stmt> {
    dnat(
        family,
        &[Expr::Daddr(family), Expr::L4Proto, Expr::Dport],
        stem,
    )
}

fn snat(family: Family) -> Stmt {
    Stmt::SnatMap {
        family,
        key: vec![Expr::Iifname],
        map: of_family(SNAT, family),
    }
}

fn dnat(family: Family, key: &[Expr], stem: &str) -> Vec<Stmt> {
    vec![Stmt::DnatMap {
        family,
        key: key.to_vec(),
        map: of_family(stem, family),
    }]
}

const fn is(left: Expr, right: Datum) -> Stmt {
    Stmt::Match {
        left,
        right,
        invert: false,
    }
}

fn within(key: &[Expr], set: &str) -> Stmt {
    Stmt::Lookup {
        key: key.to_vec(),
        set: set.to_owned(),
        invert: false,
    }
}

fn outside(key: &[Expr], set: &str) -> Stmt {
    Stmt::Lookup {
        key: key.to_vec(),
        set: set.to_owned(),
        invert: true,
    }
}

fn set(name: &str, key: &[Field]) -> SetSpec {
    SetSpec {
        name: name.to_owned(),
        key: key.to_vec(),
        kind: SetKind::Set,
        interval: false,
        counter: false,
        limit: None,
        size: None,
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "an argument of chain(), where None means no hook"
)]
const fn filter(point: HookPoint, priority: i32) -> Option<Hook> {
    Some(Hook {
        kind: ChainKind::Filter,
        point,
        priority,
    })
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "an argument of chain(), where None means no hook"
)]
const fn nat(point: HookPoint, priority: i32) -> Option<Hook> {
    Some(Hook {
        kind: ChainKind::Nat,
        point,
        priority,
    })
}

fn chain(name: &str, hook: Option<Hook>, rules: Option<Rules>) -> Chain {
    Chain {
        name: name.to_owned(),
        hook,
        rules,
    }
}

#[cfg(test)]
mod tests;
