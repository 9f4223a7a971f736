//! Addresses and routes on the wire.

use std::net::IpAddr;

use netd_model::Prefix;
use netd_model::net::Family;
use netd_model::object::{Address, Route};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::Request;
use super::wire::{Attrs, ip, u16_at, u32_at};

/// The protocol number written on every address (IFA_PROTO) and route (rtm_protocol) of netd: `n`. The numbers below
/// 128 that no routing daemon has registered are free for anyone (linux/rtnetlink.h).
pub const PROTOCOL: u8 = 0x6e;

/// `sizeof(struct ifaddrmsg)`.
const IFADDRMSG: usize = 8;
/// `sizeof(struct rtmsg)`.
const RTMSG: usize = 12;
/// `IP6_RT_PRIO_USER`: the metric of an IPv6 route that asks for none (linux/ipv6_route.h).
const IPV6_DEFAULT_METRIC: u32 = 1024;

// IFA_* (linux/if_addr.h).
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_PROTO: u16 = 11;
// RTA_* (linux/rtnetlink.h).
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;

/// RTN_UNICAST.
pub(super) const UNICAST: u8 = 1;
/// RTN_LOCAL.
pub(super) const LOCAL: u8 = 2;
/// RTPROT_KERNEL.
pub(super) const BY_KERNEL: u8 = 2;
/// RT_TABLE_LOCAL.
const LOCAL_TABLE: u32 = 255;
/// RT_TABLE_MAIN.
pub(super) const MAIN: u32 = 254;

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

fn address(address: &Address, index: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.ip);
    message.header.prefix_len = address.prefix_len;
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(address.ip),
        AddressAttribute::Address(address.ip),
    ];
    message
}

/// Adds an address. One that is there already becomes netd's: it sits on a link of netd.
pub(super) fn add_address(wanted: &Address, index: u32) -> Request {
    let mut message = address(wanted, index);
    message
        .attributes
        .push(AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)));
    match wanted.ip {
        IpAddr::V4(_) if wanted.prefix_len < 31 => {
            // Programs ask the interface for it; the kernel would not fill it in.
            if let IpAddr::V4(last) = Prefix::holding(wanted.ip, wanted.prefix_len).last() {
                message.attributes.push(AddressAttribute::Broadcast(last));
            }
        }
        IpAddr::V4(_) => {}
        // The allocator vouches for it, and a tentative address cannot be used for a second.
        IpAddr::V6(_) => message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad)),
    }
    Request::set(
        &RouteNetlinkMessage::NewAddress(message),
        NLM_F_CREATE | NLM_F_REPLACE,
    )
}

/// Removes an address.
pub(super) fn remove_address(gone: &Address, index: u32) -> Request {
    Request::set(&RouteNetlinkMessage::DelAddress(address(gone, index)), 0)
}

/// Lists the addresses of both families.
pub(super) fn addresses() -> Request {
    Request::list(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))
}

/// Lists the addresses of the namespace that has this number here.
pub(super) fn addresses_in(ns: i32) -> Request {
    let mut message = AddressMessage::default();
    message.attributes = vec![AddressAttribute::TargetNetNsId(ns)];
    Request::list(&RouteNetlinkMessage::GetAddress(message))
}

/// What netd reads of an address.
#[derive(Clone, Copy, Debug)]
pub(super) struct AddressView {
    pub(super) index: u32,
    pub(super) ip: IpAddr,
    pub(super) prefix_len: u8,
    pub(super) protocol: u8,
}

impl AddressView {
    /// Reads an RTM_NEWADDR message.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let attrs = Attrs::behind(body, IFADDRMSG);
        Some(Self {
            index: u32_at(body, 4)?,
            ip: attrs
                .find(IFA_LOCAL)
                .or_else(|| attrs.find(IFA_ADDRESS))
                .and_then(ip)?,
            prefix_len: *body.get(1)?,
            protocol: attrs
                .find(IFA_PROTO)
                .and_then(|value| value.first().copied())
                .unwrap_or(0),
        })
    }
}

fn route(route: &Route, index: u32) -> Option<RouteMessage> {
    // The kernel would take an IPv4 route by an IPv6 neighbour; netd has no use for it, and does not read it back.
    if route
        .via
        .is_some_and(|via| Family::of(via) != route.dst.family())
    {
        return None;
    }
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(route.dst.base(), route.dst.len())
        .ok()?
        .output_interface(index)
        .protocol(RouteProtocol::Other(PROTOCOL));
    if route.metric != 0 {
        builder = builder.priority(route.metric);
    }
    if let Some(via) = route.via {
        builder = builder.gateway(via).ok()?;
    }
    let scope = match (route.local, route.via) {
        (true, _) => RouteScope::Host,
        (false, None) => RouteScope::Link,
        (false, Some(_)) => RouteScope::Universe,
    };
    if let Some(src) = route.src {
        builder = builder.pref_source(src).ok()?;
    }
    builder = builder.scope(scope);
    if route.local {
        builder = builder.kind(RouteType::Local).table_id(LOCAL_TABLE);
    }
    Some(builder.build())
}

/// Adds a route. One to the same destination with the same metric is not netd's and stays: EEXIST.
///
/// None when destination and gateway are of two families.
pub(super) fn add_route(wanted: &Route, index: u32) -> Option<Request> {
    let message = RouteNetlinkMessage::NewRoute(route(wanted, index)?);
    Some(Request::set(&message, NLM_F_CREATE | NLM_F_EXCL))
}

/// Removes a route; the kernel compares its protocol number too.
pub(super) fn remove_route(gone: &Route, index: u32) -> Option<Request> {
    Some(Request::set(
        &RouteNetlinkMessage::DelRoute(route(gone, index)?),
        0,
    ))
}

/// Lists routes of a family; with a protocol number only those.
pub(super) fn routes(family: Family, protocol: u8) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(family);
    message.header.protocol = protocol.into();
    Request::list(&RouteNetlinkMessage::GetRoute(message))
}

/// Asks by which route a packet to this address would go.
pub(super) fn route_to(ip: IpAddr) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family(ip);
    message.header.destination_prefix_length = if ip.is_ipv4() { 32 } else { 128 };
    message.attributes = vec![RouteAttribute::Destination(match ip {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    })];
    Request::get(&RouteNetlinkMessage::GetRoute(message))
}

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// What netd reads of a route.
#[derive(Clone, Copy, Debug)]
pub(super) struct RouteView {
    pub(super) dst: Prefix,
    pub(super) via: Option<IpAddr>,
    /// The output interface; of several, the first.
    pub(super) oif: Option<u32>,
    pub(super) table: u32,
    pub(super) kind: u8,
    pub(super) protocol: u8,
    /// 0 for the default of the family.
    pub(super) metric: u32,
    /// The source that it prefers.
    pub(super) src: Option<IpAddr>,
}

impl RouteView {
    /// Reads an RTM_NEWROUTE message.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let family = match u16::from(*body.first()?) {
            2 => Family::V4,
            10 => Family::V6,
            _ => return None,
        };
        let attrs = Attrs::behind(body, RTMSG);
        let base = match attrs.find(RTA_DST) {
            Some(bytes) => ip(bytes)?,
            None => family.unspecified(),
        };
        let metric = attrs.u32(RTA_PRIORITY).unwrap_or(0);
        let is_default = family == Family::V6 && metric == IPV6_DEFAULT_METRIC;
        Some(Self {
            dst: Prefix::holding(base, *body.get(1)?),
            via: attrs.find(RTA_GATEWAY).and_then(ip),
            oif: attrs
                .u32(RTA_OIF)
                .or_else(|| first_hop(attrs.find(RTA_MULTIPATH)?)),
            table: attrs
                .u32(RTA_TABLE)
                .unwrap_or_else(|| body.get(4).copied().unwrap_or(0).into()),
            kind: *body.get(7)?,
            protocol: *body.get(5)?,
            metric: if is_default { 0 } else { metric },
            src: attrs.find(RTA_PREFSRC).and_then(ip),
        })
    }
}

/// The MTU that a route has of its own, in an RTM_NEWROUTE message.
pub(super) fn route_mtu(body: &[u8]) -> Option<u32> {
    const RTA_METRICS: u16 = 8;
    const RTAX_MTU: u16 = 2;
    let metrics = Attrs::behind(body, RTMSG).nested(RTA_METRICS);
    metrics.u32(RTAX_MTU).filter(|mtu| *mtu > 0)
}

/// The interface of the first `struct rtnexthop`.
fn first_hop(hops: &[u8]) -> Option<u32> {
    u16_at(hops, 0).filter(|len| *len >= 8)?;
    u32_at(hops, 4)
}
