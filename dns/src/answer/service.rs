//! Owns SRV: `_port._proto.name` (RFC 2782).
//!
//! Pure. The ports of a container have names, and each also its number: `_8080._tcp.web`.

use std::net::IpAddr;

use super::{Known, kind, name};
use crate::reply::Reply;
use crate::zone::{Found, View};

/// One SRV record.
#[derive(Debug)]
pub(crate) struct Target {
    /// The name it points to, in wire form.
    name: Vec<u8>,
    port: u16,
    /// What the additional section says of it.
    addresses: Vec<IpAddr>,
}

/// What stands behind a name with underscores, `_port._proto.name` or above: nothing of a name that is known here, nor
/// of a single label, is ever asked outside.
pub(super) fn resolve<'a>(key: &str, view: &View<'a>) -> Known<'a> {
    let mut rest = key;
    let mut labels = Vec::new();
    while let Some(tail) = rest.strip_prefix('_') {
        let Some((label, tail)) = tail.split_once('.') else {
            return Known::Nothing;
        };
        labels.push(label);
        rest = tail;
    }
    let Some(found) = view.find(rest) else {
        return if rest.contains('.') {
            Known::Foreign
        } else {
            Known::Nothing
        };
    };
    let all = targets(&found, view, &labels);
    if !all.is_empty() {
        Known::Service(all, found.ttl)
    } else if matches!(labels[..], ["tcp" | "udp" | "sctp"]) {
        Known::Empty
    } else {
        Known::Nothing
    }
}

fn targets(found: &Found<'_>, view: &View<'_>, labels: &[&str]) -> Vec<Target> {
    let [port_name, proto] = labels else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for (name, details) in view.details(found) {
        let offered = details.ports.iter().filter(|offered| {
            offered.proto == *proto
                && (offered.name.eq_ignore_ascii_case(port_name)
                    || *offered.port.to_string() == **port_name)
        });
        let mut ports: Vec<u16> = offered.map(|offered| offered.port).collect();
        ports.sort_unstable();
        ports.dedup();
        let held = view.find(&name);
        let mut addresses: Vec<IpAddr> = held
            .map(|held| held.holdings.iter().map(|h| h.address).collect())
            .unwrap_or_default();
        addresses.dedup();
        all.extend(ports.into_iter().map(|port| Target {
            name: name::to_wire(&name),
            port,
            addresses: addresses.clone(),
        }));
    }
    all
}

/// The records: all of one priority and weight, rotated, with the addresses of their targets behind them.
pub(super) fn write(reply: &mut Reply<'_, '_>, targets: &[Target], ttl: u32, rotation: usize) {
    let first = rotation.checked_rem(targets.len()).unwrap_or(0);
    let (end, begin) = targets.split_at(first);
    for target in begin.iter().chain(end) {
        let mut data = vec![0, 0, 0, 1];
        data.extend(target.port.to_be_bytes());
        data.extend(&target.name);
        reply.answer(kind::SRV, ttl, &data);
    }
    let mut written: Vec<&[u8]> = Vec::new();
    for target in begin.iter().chain(end) {
        if written.contains(&&target.name[..]) {
            continue;
        }
        written.push(&target.name);
        for &address in &target.addresses {
            reply.additional(&target.name, ttl, address);
        }
    }
}
