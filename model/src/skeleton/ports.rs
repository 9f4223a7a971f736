//! The ruleset of the bridges: a port sends only from its own addresses.
//!
//! In prerouting, before the bridge learns where an address is. Ports that are not containers' pass.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::drops::{self, Reason, because};
use super::{
    ACCEPT, ICMPV6, RETURN, Rules, chain, filter, host_table, is, of_family, outside, set, within,
};
use crate::net::Family;
use crate::nft::{
    Datum, Expr, Field, HookPoint, Rate, Ruleset, SetSpec, Stmt, TableFamily, TableRef, Verdict,
};
use crate::object::Owner;

/// Set of the ports that containers are behind: `port`.
pub const PORTS: &str = "ports";
/// Set of the Ethernet address of each port: `port . address`.
pub const PORT_MACS: &str = "macs";
/// Set of what a port may say in ARP: `port . Ethernet source . sender's Ethernet address . sender's IPv4 address`.
pub const ARP: &str = "senders";
/// Set of what a port sends from, once for each family: `port . Ethernet source . source`. Those of IPv6 have the
/// link-local address in it, and are what a port may advertise.
pub const SOURCE: &str = "src";
/// Intervals, once for each family: further addresses that a port may send from, `port . prefix`.
pub const ALLOW: &str = "allow";

/// Set of the ports of overlay networks: `port`. What they send to several stations is copied to every host of the network.
pub const PACED_PORTS: &str = "paced_ports";
/// The same ports, each found as often as it may send such frames.
pub const PACED: &str = "paced";
/// 200 hosts cost the sender 0.56 ms of a processor for each such frame: at this rate a ninth of one.
const PACE: Rate = Rate {
    second: 200,
    burst: 400,
};

// ETH_P_* (linux/if_ether.h).
const IP: u16 = 0x0800;
const ARP_TYPE: u16 = 0x0806;
const IPV6: u16 = 0x86dd;

// ICMPv6 message types (RFC 4861, 2710, 3810).
const LISTENER_REPORT: u8 = 131;
const LISTENER_DONE: u8 = 132;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const LISTENER_REPORT_V2: u8 = 143;

/// The table of the bridges, in the host's namespace.
pub fn bridge_table() -> TableRef {
    TableRef {
        family: TableFamily::Bridge,
        ..host_table()
    }
}

/// The ruleset of the bridges.
pub fn bridge() -> Ruleset {
    Ruleset {
        table: bridge_table(),
        sets: [sets(), drops::sets(&Reason::BRIDGE)].concat(),
        chains: [
            drops::chains(&Reason::BRIDGE),
            vec![
                chain("to_group", None, Some(to_group())),
                chain("from_v4", None, Some(v4())),
                chain("from_arp", None, Some(arp())),
                chain("nd", None, Some(nd())),
                chain("unspecified", None, Some(unspecified())),
                chain("from_v6", None, Some(v6())),
                chain(
                    "prerouting",
                    // NF_BR_PRI_NAT_DST_BRIDGED (linux/netfilter_bridge.h).
                    filter(HookPoint::Prerouting, -300),
                    Some(prerouting()),
                ),
            ],
        ]
        .concat(),
        owner: Owner::Host,
    }
}

fn sets() -> Vec<SetSpec> {
    use Field::{Ifname, Ip4, Ip6, Mac};
    let allow = |family, ip| SetSpec {
        interval: true,
        ..set(&of_family(ALLOW, family), &[Ifname, ip])
    };
    let source = |family, ip| set(&of_family(SOURCE, family), &[Ifname, Mac, ip]);
    vec![
        set(PORTS, &[Ifname]),
        set(PORT_MACS, &[Ifname, Mac]),
        set(ARP, &[Ifname, Mac, Mac, Ip4]),
        source(Family::V4, Ip4),
        source(Family::V6, Ip6),
        allow(Family::V4, Ip4),
        allow(Family::V6, Ip6),
        set(PACED_PORTS, &[Ifname]),
        SetSpec {
            limit: Some(PACE),
            ..set(PACED, &[Ifname])
        },
    ]
}

fn prerouting() -> Rules {
    let goto = |number, chain: &str| {
        vec![
            is(Expr::EtherType, Datum::EtherType(number)),
            Stmt::Verdict(Verdict::Goto(chain.to_owned())),
        ]
    };
    // First what nearly all frames are, by one lookup. By the type on the wire: the kernel takes a VLAN tag off, and then
    // calls the frame by what is behind it.
    let usual = |number, more: &[Stmt], family| {
        let [own, _] = source(family);
        [&[is(Expr::EtherType, Datum::EtherType(number))], more, &own].concat()
    };
    let no_discovery = Stmt::Match {
        left: Expr::L4Proto,
        right: Datum::L4Proto(ICMPV6),
        invert: true,
    };
    let usual = vec![
        usual(IP, &[], Family::V4),
        usual(IPV6, &[no_discovery], Family::V6),
    ];
    let others = vec![
        vec![outside(&[Expr::Iifname], PORTS), ACCEPT],
        goto(IP, "from_v4"),
        goto(IPV6, "from_v6"),
        goto(ARP_TYPE, "from_arp"),
        // VLAN tags, which would hide what is behind them, and all other protocols.
        vec![because(Reason::Protocol)],
    ];
    let group = vec![vec![
        Stmt::ToGroup,
        Stmt::Verdict(Verdict::Jump("to_group".to_owned())),
    ]];
    [group, usual, others].concat()
}

/// A port of an overlay network that has found itself often enough is as one that is not in the set.
fn to_group() -> Rules {
    vec![
        vec![within(&[Expr::Iifname], PACED), RETURN],
        vec![
            within(&[Expr::Iifname], PACED_PORTS),
            because(Reason::Flood),
        ],
    ]
}

fn own_mac(source: Expr) -> Stmt {
    within(&[Expr::Iifname, source], PORT_MACS)
}

fn source(family: Family) -> [Vec<Stmt>; 2] {
    let address = Expr::Saddr(family);
    [
        vec![
            within(
                &[Expr::Iifname, Expr::EtherSaddr, address],
                &of_family(SOURCE, family),
            ),
            ACCEPT,
        ],
        vec![
            within(&[Expr::Iifname, address], &of_family(ALLOW, family)),
            own_mac(Expr::EtherSaddr),
            ACCEPT,
        ],
    ]
}

fn v4() -> Rules {
    let mut rules = source(Family::V4).to_vec();
    rules.push(vec![because(Reason::Spoofed)]);
    rules
}

fn arp() -> Rules {
    let request = is(Expr::ArpOp, Datum::ArpOp(1));
    vec![
        vec![
            within(
                &[Expr::Iifname, Expr::EtherSaddr, Expr::ArpSha, Expr::ArpSpa],
                ARP,
            ),
            ACCEPT,
        ],
        // A probe for an address conflict (RFC 5227).
        vec![
            request,
            is(Expr::ArpSpa, Datum::Ip4(Ipv4Addr::UNSPECIFIED)),
            own_mac(Expr::EtherSaddr),
            ACCEPT,
        ],
        vec![
            within(
                &[Expr::Iifname, Expr::ArpSpa],
                &of_family(ALLOW, Family::V4),
            ),
            own_mac(Expr::EtherSaddr),
            own_mac(Expr::ArpSha),
            ACCEPT,
        ],
        vec![because(Reason::Spoofed)],
    ]
}

fn v6() -> Rules {
    let mut rules = vec![vec![
        is(Expr::L4Proto, Datum::L4Proto(ICMPV6)),
        Stmt::Verdict(Verdict::Jump("nd".to_owned())),
    ]];
    rules.extend(source(Family::V6));
    rules.push(vec![
        is(Expr::Saddr(Family::V6), Datum::Ip6(Ipv6Addr::UNSPECIFIED)),
        Stmt::Verdict(Verdict::Goto("unspecified".to_owned())),
    ]);
    rules.push(vec![because(Reason::Spoofed)]);
    rules
}

fn icmpv6(number: u8) -> Stmt {
    is(Expr::Icmp6Type, Datum::Icmp6Type(number))
}

/// Nobody behind a port is a router, and nobody speaks for others.
fn nd() -> Rules {
    let target = |key: &[Expr], stem| {
        vec![
            icmpv6(NEIGHBOUR_ADVERTISEMENT),
            within(key, &of_family(stem, Family::V6)),
            RETURN,
        ]
    };
    vec![
        vec![icmpv6(ROUTER_ADVERTISEMENT), because(Reason::Discovery)],
        vec![icmpv6(REDIRECT), because(Reason::Discovery)],
        target(&[Expr::Iifname, Expr::EtherSaddr, Expr::NdTarget], SOURCE),
        target(&[Expr::Iifname, Expr::NdTarget], ALLOW),
        vec![icmpv6(NEIGHBOUR_ADVERTISEMENT), because(Reason::Discovery)],
    ]
}

/// From an interface that has no address yet: it looks whether one is free (RFC 4862), and joins groups.
fn unspecified() -> Rules {
    let own = |number| vec![icmpv6(number), own_mac(Expr::EtherSaddr), ACCEPT];
    vec![
        own(NEIGHBOUR_SOLICITATION),
        own(LISTENER_REPORT_V2),
        own(LISTENER_REPORT),
        own(LISTENER_DONE),
        vec![because(Reason::Spoofed)],
    ]
}
