//! Links on the wire: what is read of one, and the requests that make and change them.

use std::os::fd::{AsRawFd, BorrowedFd};

use netd_model::counters::{Both, Count, LinkCount};
use netd_model::object::{BridgePort, Link, LinkKind, Tunnel};
use netd_model::{IfName, Mac, Ns, Owner};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoPortKind, InfoVeth, InfoVxlan, LinkAttribute, LinkExtentMask, LinkMessage,
};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::netlink::Request;
use super::wire::{Attrs, ip, text, u32_at};

/// `sizeof(struct ifinfomsg)`.
const IFINFOMSG: usize = 16;
/// `IFF_UP`.
const UP: u32 = 1;
/// `BR_STATE_FORWARDING` (linux/if_bridge.h).
const FORWARDING: u8 = 3;
/// Below it a link has no IPv6 at all, and no setting for it (net/ipv6/addrconf.c, IPV6_MIN_MTU).
const IPV6_MIN_MTU: u32 = 1280;

/// The first of the group numbers that are netd's: `nd` and two bytes. The first itself is the group of links that
/// are being made: creation takes a group but no alias, so that a link of a netd that was killed between the two
/// requests is known as its own. The others are used for removals.
pub(super) const GROUPS: u32 = 0x6e64_0000;
/// The last of them.
pub(super) const LAST_GROUP: u32 = GROUPS | 0xffff;

// IFLA_* and IFLA_INFO_* (linux/if_link.h).
const ADDRESS: u16 = 1;
const IFNAME: u16 = 3;
const MTU: u16 = 4;
const MASTER: u16 = 10;
const LINKINFO: u16 = 18;
const IFALIAS: u16 = 20;
const STATS64: u16 = 23;
const GROUP: u16 = 27;
const LINK_NETNSID: u16 = 37;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_PORT_KIND: u16 = 4;
const INFO_PORT_DATA: u16 = 5;
const LINK: u16 = 5;
const PORT_STATE: u16 = 1;
const PORT_HAIRPIN: u16 = 4;
const PORT_LEARNING: u16 = 8;
const PORT_UNICAST_FLOOD: u16 = 9;
const PORT_NEIGH_SUPPRESS: u16 = 32;
/// IFLA_BRPORT_ISOLATED.
const PORT_ISOLATED: u16 = 33;
// IFLA_VXLAN_* (linux/if_link.h).
const VXLAN_ID: u16 = 1;
const VXLAN_LOCAL: u16 = 4;
const VXLAN_PORT: u16 = 15;
const VXLAN_LOCAL6: u16 = 17;
const VXLAN_UDP_CSUM: u16 = 18;
const VXLAN_UDP_ZERO_CSUM6_TX: u16 = 19;

/// What netd reads of a link.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the kernel's"
)]
pub(super) struct LinkView {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) mac: Option<Mac>,
    pub(super) mtu: u32,
    pub(super) up: bool,
    pub(super) master: Option<u32>,
    pub(super) group: u32,
    /// Of a veth, the index of its other end, in whatever namespace that is.
    pub(super) peer: Option<u32>,
    /// The number of the namespace that the other end is in, if it is another one.
    pub(super) peer_ns: Option<i32>,
    /// Whether it is a bridge port that sends frames back out of itself; none if it is no bridge port.
    pub(super) hairpin: Option<bool>,
    /// Whether it is a bridge port that sends nothing to others of its kind.
    pub(super) isolated: bool,
    /// Whether it is a bridge port that the bridge learns from.
    pub(super) learning: bool,
    /// Whether it is a bridge port that gets frames to unknown stations.
    pub(super) flood: bool,
    /// Whether it is a bridge port for which the bridge answers ARP.
    pub(super) suppress: bool,
    /// Of a VXLAN device, what it carries.
    pub(super) tunnel: Option<Tunnel>,
    /// Whether it is a bridge port that passes frames.
    pub(super) forwarding: bool,
    /// The owner that its alias names.
    pub(super) owner: Option<Owner>,
}

/// The name and the counters of a link of netd's that is a container's end on the host, as the container sees them.
pub(super) fn read_count(body: &[u8]) -> Option<(IfName, LinkCount)> {
    let attrs = Attrs::behind(body, IFINFOMSG);
    let alias = attrs.find(IFALIAS).map(text)?;
    Owner::from_mark(&alias)?.container()?;
    // struct rtnl_link_stats64 (linux/if_link.h): rx_packets, tx_packets, rx_bytes, tx_bytes, .., tx_dropped.
    let stats = attrs.find(STATS64)?;
    let number = |at: usize| {
        let bytes = stats.get(at * 8..at * 8 + 8)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    };
    let count = |packets, bytes| {
        Some(Count {
            packets: number(packets)?,
            bytes: number(bytes)?,
        })
    };
    let count = LinkCount {
        both: Both {
            received: count(1, 3)?,
            sent: count(0, 2)?,
        },
        dropped: number(7)?,
    };
    Some((IfName::parse(&text(attrs.find(IFNAME)?)).ok()?, count))
}

impl LinkView {
    /// Reads an RTM_NEWLINK message.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let attrs = Attrs::behind(body, IFINFOMSG);
        let info = attrs.nested(LINKINFO);
        let is_port = info.find(INFO_PORT_KIND).map(text).as_deref() == Some("bridge");
        let port = info.nested(INFO_PORT_DATA);
        let first = |kind| port.find(kind).and_then(|value| value.first().copied());
        Some(Self {
            index: u32_at(body, 4)?,
            name: text(attrs.find(IFNAME)?),
            kind: info.find(INFO_KIND).map(text).unwrap_or_default(),
            mac: attrs
                .find(ADDRESS)
                .and_then(|mac| Mac::new(mac.try_into().ok()?).ok()),
            mtu: attrs.u32(MTU).unwrap_or(0),
            up: u32_at(body, 8)? & UP != 0,
            master: attrs.u32(MASTER),
            group: attrs.u32(GROUP).unwrap_or(0),
            peer: attrs.u32(LINK),
            peer_ns: attrs.u32(LINK_NETNSID).map(u32::cast_signed),
            hairpin: is_port.then(|| first(PORT_HAIRPIN) == Some(1)),
            isolated: first(PORT_ISOLATED) == Some(1),
            learning: first(PORT_LEARNING) != Some(0),
            flood: first(PORT_UNICAST_FLOOD) != Some(0),
            suppress: first(PORT_NEIGH_SUPPRESS) == Some(1),
            tunnel: read_tunnel(&info.nested(INFO_DATA))
                .filter(|_| info.find(INFO_KIND).map(text).as_deref() == Some("vxlan")),
            forwarding: is_port && first(PORT_STATE) == Some(FORWARDING),
            owner: attrs
                .find(IFALIAS)
                .and_then(|alias| Owner::from_mark(&text(alias))),
        })
    }

    /// Whether it is a bridge port with flags that ports of bridges do not have by themselves.
    pub(super) fn has_port_flags(&self) -> bool {
        self.isolated || !self.learning || !self.flood || self.suppress
    }

    /// As an object, if it is netd's; `master` is the name of its bridge.
    pub(super) fn object(&self, ns: &Ns, master: Option<IfName>) -> Option<Link> {
        let kind = match self.kind.as_str() {
            "bridge" => LinkKind::Bridge,
            "veth" => LinkKind::Veth,
            "ifb" => LinkKind::Ifb,
            "vxlan" => LinkKind::Vxlan,
            _ => return None,
        };
        Some(Link {
            ns: ns.clone(),
            name: IfName::parse(&self.name).ok()?,
            kind,
            mac: self.mac?,
            mtu: self.mtu,
            up: self.up,
            master,
            link_local: false,
            tunable: false,
            tunnel: self.tunnel.clone(),
            owner: self.owner.clone()?,
        })
    }
}

/// What a VXLAN device carries.
fn read_tunnel(data: &Attrs<'_>) -> Option<Tunnel> {
    let port = data.find(VXLAN_PORT)?.try_into().ok()?;
    let local = data
        .find(VXLAN_LOCAL)
        .or_else(|| data.find(VXLAN_LOCAL6))
        .and_then(ip)?;
    let is_set = |kind| data.find(kind).is_some_and(|value| value != [0]);
    Some(Tunnel {
        vni: data.u32(VXLAN_ID)?,
        port: u16::from_be_bytes(port),
        local,
        udpcsum: match local {
            std::net::IpAddr::V4(_) => is_set(VXLAN_UDP_CSUM),
            std::net::IpAddr::V6(_) => !is_set(VXLAN_UDP_ZERO_CSUM6_TX),
        },
    })
}

fn named(name: &IfName) -> LinkMessageBuilder<LinkUnspec> {
    LinkUnspec::new_with_name(name.as_str())
}

fn get(builder: LinkMessageBuilder<LinkUnspec>) -> RouteNetlinkMessage {
    // The statistics are most of such a message.
    let light = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
    RouteNetlinkMessage::GetLink(builder.append_extra_attribute(light).build())
}

fn set(message: LinkMessage) -> Request {
    Request::set(&RouteNetlinkMessage::SetLink(message), 0)
}

/// Reads a link by name.
pub(super) fn by_name(name: &IfName) -> Request {
    Request::get(&get(named(name)))
}

/// Reads a link by index.
pub(super) fn by_index(index: u32) -> Request {
    Request::get(&get(LinkUnspec::new_with_index(index)))
}

/// Reads all links.
pub(super) fn all() -> Request {
    Request::list(&get(LinkMessageBuilder::<LinkUnspec>::new()))
}

/// Reads all links of the namespace that has this number here.
pub(super) fn all_in(ns: i32) -> Request {
    let there = LinkAttribute::IfNetnsId(ns);
    let message = LinkMessageBuilder::<LinkUnspec>::new().append_extra_attribute(there);
    Request::list(&get(message))
}

/// Makes a bridge, down and without a mark.
///
/// An option that the kernel was built without is refused even with its default value, so none is sent. The MTU is
/// set later: given at creation it would be forgotten with the last port (net/bridge/br_if.c, br_mtu_auto_adjust).
pub(super) fn create_bridge(link: &Link) -> Request {
    let message = LinkMessageBuilder::<LinkBridge>::new(link.name.as_str())
        .address(link.mac.bytes().to_vec())
        .link_group(GROUPS)
        .build();
    Request::set(
        &RouteNetlinkMessage::NewLink(message),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// Makes a VXLAN device, down and without a mark. It learns nothing, and sends from one address by whatever interface the
/// route says.
pub(super) fn create_vxlan(link: &Link, tunnel: &Tunnel) -> Request {
    let local = match tunnel.local {
        std::net::IpAddr::V4(v4) => InfoVxlan::Local(v4),
        std::net::IpAddr::V6(v6) => InfoVxlan::Local6(v6),
    };
    let data = vec![
        InfoVxlan::Id(tunnel.vni),
        local,
        InfoVxlan::Port(tunnel.port),
        InfoVxlan::Learning(false),
        InfoVxlan::UDPCsum(tunnel.udpcsum),
        InfoVxlan::UDPZeroCsumTX(!tunnel.udpcsum),
        // One socket serves all devices of a port, and the kernel wants them to agree on this (VXLAN_F_RCV_FLAGS): only where it
        // has a meaning.
        InfoVxlan::UDPZeroCsumRX(!tunnel.udpcsum && tunnel.local.is_ipv6()),
    ];
    let message = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Vxlan)
        .name(link.name.to_string())
        .address(link.mac.bytes().to_vec())
        .mtu(link.mtu)
        .link_group(GROUPS)
        .set_info_data(InfoData::Vxlan(data))
        .build();
    Request::set(
        &RouteNetlinkMessage::NewLink(message),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// Makes a link a port of a bridge.
pub(super) fn enslave(index: u32, master: u32) -> Request {
    set(LinkUnspec::new_with_index(index).controller(master).build())
}

/// Makes an ifb device, down and without a mark.
pub(super) fn create_ifb(link: &Link) -> Request {
    let message = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Ifb)
        .name(link.name.to_string())
        .address(link.mac.bytes().to_vec())
        .link_group(GROUPS)
        .build();
    Request::set(
        &RouteNetlinkMessage::NewLink(message),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// Makes a veth pair, both ends down and without a mark, one inside the namespace `peer_ns`.
pub(super) fn create_pair(
    host: &Link,
    master: Option<u32>,
    peer: &Link,
    peer_ns: BorrowedFd<'_>,
) -> Request {
    let peer_message = named(&peer.name)
        .address(peer.mac.bytes().to_vec())
        .mtu(peer.mtu)
        .setns_by_fd(peer_ns.as_raw_fd())
        .build();
    let mut builder = LinkMessageBuilder::<LinkVeth>::new(host.name.as_str(), peer.name.as_str())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer_message)))
        .address(host.mac.bytes().to_vec())
        .mtu(host.mtu)
        .link_group(GROUPS);
    if let Some(index) = master {
        builder = builder.controller(index);
    }
    Request::set(
        &RouteNetlinkMessage::NewLink(builder.build()),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

/// Completes a link that was just made: its mark, how it gets IPv6 link-local addresses, and up.
///
/// Creation itself takes neither an alias nor IFLA_AF_SPEC (net/core/rtnetlink.c, rtnl_create_link). Going up is a
/// request of its own: within one, it would come before the address mode (do_setlink).
pub(super) fn complete(link: &Link, ipv6: bool) -> Vec<Request> {
    let mut builder = named(&link.name).alias(link.owner.mark()).link_group(0);
    if link.kind != LinkKind::Veth {
        builder = builder.mtu(link.mtu);
    }
    // Without IPv6 in the kernel the attribute is refused (EAFNOSUPPORT).
    if ipv6 && link.mtu >= IPV6_MIN_MTU {
        let mode = if link.link_local {
            In6AddrGenMode::Eui64
        } else {
            In6AddrGenMode::None
        };
        let spec = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)]);
        builder = builder.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![spec]));
    }
    let mut requests = vec![set(builder.build())];
    if link.up {
        requests.push(set_up(&link.name));
    }
    requests
}

/// Brings a link up.
pub(super) fn set_up(name: &IfName) -> Request {
    set(named(name).up().build())
}

/// Gives a link the wanted form.
pub(super) fn change(index: u32, link: &Link, master: Option<u32>) -> Request {
    let builder = LinkUnspec::new_with_index(index)
        .alias(link.owner.mark())
        .address(link.mac.bytes().to_vec())
        .mtu(link.mtu)
        .controller(master.unwrap_or(0));
    set(if link.up {
        builder.up()
    } else {
        builder.down()
    }
    .build())
}

/// Sets the flags of a bridge port. RTM_SETLINK would ignore them.
pub(super) fn set_port(index: u32, port: &BridgePort) -> Request {
    let message = LinkUnspec::new_with_index(index)
        .set_port_kind(InfoPortKind::Bridge)
        .set_port_data(InfoPortData::BridgePort(vec![
            InfoBridgePort::HairpinMode(port.hairpin),
            InfoBridgePort::Isolated(port.isolated),
            InfoBridgePort::Learning(port.learning),
            InfoBridgePort::UnicastFlood(port.flood),
            InfoBridgePort::NeighSupress(port.suppress),
        ]))
        .build();
    Request::set(&RouteNetlinkMessage::NewLink(message), 0)
}

/// Puts a link into a group.
pub(super) fn set_group(index: u32, group: u32) -> Request {
    set(LinkUnspec::new_with_index(index).link_group(group).build())
}

/// Removes a link by index.
pub(super) fn remove(index: u32) -> Request {
    Request::set(
        &RouteNetlinkMessage::DelLink(LinkUnspec::new_with_index(index).build()),
        0,
    )
}

/// Removes a link by name.
pub(super) fn remove_named(name: &IfName) -> Request {
    Request::set(&RouteNetlinkMessage::DelLink(named(name).build()), 0)
}

/// Removes all links of a group.
pub(super) fn remove_group(group: u32) -> Request {
    let message = LinkMessageBuilder::<LinkUnspec>::new()
        .link_group(group)
        .build();
    Request::set(&RouteNetlinkMessage::DelLink(message), 0)
}
