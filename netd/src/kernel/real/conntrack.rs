//! Forgetting UDP flows over ctnetlink (kernel-bridge.md section 6).

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use netd_model::desired::FAMILIES;
use netd_model::net::{Family, Proto};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use super::inet::{self, LOCAL, RouteView};
use super::netlink::{Netlink, Refusal, Request, gone_is_done};
use super::wire::{Attrs, Writer, ip};

// NFNL_SUBSYS_CTNETLINK and IPCTNL_MSG_CT_* (linux/netfilter/nfnetlink_conntrack.h).
const GET: u16 = 0x0101;
const DELETE: u16 = 0x0102;
// CTA_*.
const TUPLE_ORIG: u16 = 1;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const PROTO_NUM: u16 = 1;
const PROTO_DST_PORT: u16 = 3;
const FILTER_ORIG_FLAGS: u16 = 1;
const FILTER_REPLY_FLAGS: u16 = 2;
// Which parts of the tuple a dump compares (nf_conntrack_netlink.c, CTA_FILTER_F_*; 5.8).
const BY_PROTO_NUM: u32 = 1 << 3;
const BY_DST_PORT: u32 = 1 << 5;
/// `sizeof(struct nfgenmsg)`.
const NFGENMSG: usize = 4;

/// Which flows: UDP to this port, of this address or of every local one but `except`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flows<'a> {
    pub(super) ip: IpAddr,
    pub(super) port: u16,
    pub(super) except: &'a [IpAddr],
}

/// One entry of the table: what names it, and where its packets were sent to first.
#[derive(Debug)]
struct Entry {
    dst: IpAddr,
    port: u16,
    name: Writer,
}

/// Forgets flows, all of a family by one walk through the table: it takes about as long for one port as for many, for
/// the kernel goes through every bucket. `route` tells what a local address is.
pub(super) fn forget(route: &mut Netlink, flows: &[Flows<'_>]) -> Result<(), Refusal> {
    let mut local = HashMap::new();
    for family in FAMILIES {
        let of_family = |flows: &&Flows<'_>| Family::of(flows.ip) == family;
        let flows: Vec<Flows<'_>> = flows.iter().filter(of_family).copied().collect();
        if !flows.is_empty() {
            forget_family(route, &mut local, family, &flows)?;
        }
    }
    Ok(())
}

fn forget_family(
    route: &mut Netlink,
    local: &mut HashMap<IpAddr, bool>,
    family: Family,
    flows: &[Flows<'_>],
) -> Result<(), Refusal> {
    let mut socket = Netlink::open(NETLINK_NETFILTER)?;
    let ports: BTreeSet<u16> = flows.iter().map(|flows| flows.port).collect();
    let entries = socket
        .dump(&list(family, &ports), |body| read(body, family, &ports))
        .map_err(explain)?;
    let mut requests = Vec::new();
    for entry in entries {
        let of_port = flows.iter().filter(|flows| flows.port == entry.port);
        for flows in of_port {
            if is_meant(route, local, *flows, entry.dst)? {
                requests.push(Request::raw(DELETE, NLM_F_ACK, entry.name.done()));
                break;
            }
        }
    }
    for answer in socket.batch(&requests)? {
        gone_is_done(answer, &[Errno::ENOENT])?;
    }
    Ok(())
}

fn explain(refusal: Refusal) -> Refusal {
    match refusal.errno() {
        // net/netfilter/nfnetlink.c: the subsystem is neither built in nor a module that loads.
        Errno::EINVAL | Errno::EOPNOTSUPP => {
            refusal.because("the kernel lacks nf_conntrack_netlink")
        }
        _ => refusal,
    }
}

fn is_meant(
    route: &mut Netlink,
    local: &mut HashMap<IpAddr, bool>,
    flows: Flows<'_>,
    dst: IpAddr,
) -> Result<bool, Refusal> {
    if !flows.ip.is_unspecified() {
        return Ok(dst == flows.ip);
    }
    if flows.except.contains(&dst) {
        return Ok(false);
    }
    if let Some(known) = local.get(&dst) {
        return Ok(*known);
    }
    // What `fib daddr type local` says in the rule that published the port.
    let found = match route.call(&inet::route_to(dst)) {
        Ok(body) => RouteView::read(&body).is_some_and(|view| view.kind == LOCAL),
        Err(refusal) => match refusal.errno() {
            Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EINVAL | Errno::EACCES => false,
            _ => return Err(refusal),
        },
    };
    local.insert(dst, found);
    Ok(found)
}

fn header(family: Family) -> [u8; NFGENMSG] {
    [family.nfproto(), 0, 0, 0]
}

/// Lists the flows; the kernel leaves out other protocols, and other ports if it is one.
///
/// It could compare addresses too, but for IPv6 it then leaves out just those that match (seen on 6.18).
fn list(family: Family, ports: &BTreeSet<u16>) -> Request {
    let mut proto = Writer::default().attr(PROTO_NUM, &[Proto::Udp.number()]);
    let mut by = BY_PROTO_NUM;
    if let (Some(port), 1) = (ports.first(), ports.len()) {
        proto = proto.attr(PROTO_DST_PORT, &port.to_be_bytes());
        by |= BY_DST_PORT;
    }
    let filter = Writer::default()
        .attr(FILTER_ORIG_FLAGS, &by.to_ne_bytes())
        .attr(FILTER_REPLY_FLAGS, &0u32.to_ne_bytes());
    let body = Writer::behind(&header(family))
        .nest(TUPLE_ORIG, &Writer::default().nest(TUPLE_PROTO, &proto))
        .nest(FILTER, &filter);
    Request::raw(GET, NLM_F_DUMP, body.done())
}

/// `CTA_IP_V4_DST` or `CTA_IP_V6_DST`.
fn ip_dst(family: Family) -> u16 {
    match family {
        Family::V4 => 2,
        Family::V6 => 4,
    }
}

/// Reads an entry; none if it is another flow's, whatever the kernel made of the filter.
fn read(body: &[u8], family: Family, ports: &BTreeSet<u16>) -> Option<Entry> {
    let attrs = Attrs::behind(body, NFGENMSG);
    let tuple = attrs.nested(TUPLE_ORIG);
    let proto = tuple.nested(TUPLE_PROTO);
    let udp = proto.find(PROTO_NUM)? == [Proto::Udp.number()];
    let dst = ip(tuple.nested(TUPLE_IP).find(ip_dst(family))?)?;
    let port = u16::from_be_bytes(proto.find(PROTO_DST_PORT)?.try_into().ok()?);
    if !udp || !ports.contains(&port) {
        return None;
    }
    // By its whole tuple and its id: never another entry that came into its place.
    let mut name = Writer::behind(&header(family))
        .nest(TUPLE_ORIG, &Writer::behind(attrs.find(TUPLE_ORIG)?))
        .attr(ID, attrs.find(ID)?);
    if let Some(zone) = attrs.find(ZONE) {
        name = name.attr(ZONE, zone);
    }
    Some(Entry { dst, port, name })
}
