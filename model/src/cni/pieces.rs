//! A node's prefix that holds more pods than should share a bridge: cut into pieces, each a network with a bridge of its
//! own, made when those before it are full.
//!
//! Only where containers reach each other by the host anyway (`l3`) is a piece like the whole: a pod has the same routes and
//! the same neighbours, whatever bridge it is on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::api::NetworkCreate;
use crate::net::Prefix;

/// Bits of an address within a piece: 253 containers. A broadcast is copied to every port, in the time of its sender, and
/// with a thousand ports the copies fill the queue of the processor (`net.core.netdev_max_backlog`): the answer is dropped.
const WITHIN: u8 = 8;
/// Most bits that tell pieces apart.
const BITS_MAX: u8 = 16;
/// Most pieces.
const MOST: u32 = 256;

/// The networks that a definition is made as, in the order of their use; one, as defined, where nothing is to be cut.
pub fn pieces(define: &NetworkCreate) -> impl Iterator<Item = NetworkCreate> + use<> {
    let cut = cut(define);
    let count = cut.as_ref().map_or(1, |cut| MOST.min(1 << cut.bits));
    let define = define.clone();
    (0..count).map(move |n| {
        cut.as_ref()
            .map_or_else(|| define.clone(), |cut| cut.piece(&define, n))
    })
}

/// How a definition is cut.
struct Cut {
    subnets: Vec<Prefix>,
    bits: u8,
    peers: String,
}

fn cut(define: &NetworkCreate) -> Option<Cut> {
    let l3 = define.opts.get("l3").is_some_and(|value| value == "on");
    let plain = define.gateways.is_empty() && define.ip_ranges.is_empty();
    if !l3 || !plain {
        return None;
    }
    // What cannot be read is refused where the network is made.
    let subnets = define.subnets.iter().map(|text| text.parse());
    let subnets: Vec<Prefix> = subnets.collect::<Result<_, _>>().ok()?;
    let room = |subnet: &Prefix| (subnet.family().bits() - WITHIN).saturating_sub(subnet.len());
    let bits = subnets.iter().map(room).min()?.min(BITS_MAX);
    let peers = peers(define, &subnets)?;
    (bits > 0).then_some(Cut {
        subnets,
        bits,
        peers,
    })
}

impl Cut {
    fn piece(&self, define: &NetworkCreate, n: u32) -> NetworkCreate {
        let mut piece = define.clone();
        let parts = self
            .subnets
            .iter()
            .map(|subnet| part(*subnet, self.bits, n));
        piece.subnets = parts.map(|part| part.to_string()).collect();
        piece
            .opts
            .insert("non_masquerade".to_owned(), self.peers.clone());
        if n > 0 {
            piece.name = format!("{}-{}", define.name, n + 1);
            piece.opts.remove("bridge");
        }
        piece
    }
}

/// The prefixes of the cluster with those of the node, so that pods of two pieces reach each other.
fn peers(define: &NetworkCreate, subnets: &[Prefix]) -> Option<String> {
    let given = define.opts.get("non_masquerade").map_or("", String::as_str);
    let given: Result<Vec<Prefix>, _> = given
        .split(',')
        .filter(|part| !part.is_empty())
        .map(str::parse)
        .collect();
    let mut peers = given.ok()?;
    for subnet in subnets {
        if !peers.iter().any(|peer| peer.covers(*subnet)) {
            peers.retain(|peer| !subnet.covers(*peer));
            peers.push(*subnet);
        }
    }
    let texts: Vec<String> = peers.iter().map(ToString::to_string).collect();
    Some(texts.join(","))
}

/// Part `n` of the 2^`bits` equal parts of a prefix.
fn part(prefix: Prefix, bits: u8, n: u32) -> Prefix {
    let len = prefix.len() + bits;
    let base = match prefix.base() {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() | n << (32 - len))),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(
            v6.to_bits() | u128::from(n) << (128 - len),
        )),
    };
    Prefix::holding(base, len)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::request::CreateNetwork;

    fn define(subnets: &[&str], opts: &[(&str, &str)]) -> NetworkCreate {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        NetworkCreate {
            name: "pods".to_owned(),
            subnets: subnets.iter().map(ToString::to_string).collect(),
            opts: opts.iter().map(own).collect::<BTreeMap<_, _>>(),
            ipv4: subnets.iter().all(|s| s.contains(':')).then_some(false),
            ..NetworkCreate::default()
        }
    }

    fn all(define: &NetworkCreate) -> Vec<NetworkCreate> {
        pieces(define).collect()
    }

    #[test]
    fn a_wide_prefix_is_cut_so_that_each_piece_fits_a_bridge() {
        let opts = [
            ("l3", "on"),
            ("non_masquerade", "10.244.1.0/24,192.0.2.0/24"),
        ];
        let cut = all(&define(&["10.244.0.0/22", "fd44::/64"], &opts));
        let names: Vec<&str> = cut.iter().map(|piece| piece.name.as_str()).collect();
        assert_eq!(names, ["pods", "pods-2", "pods-3", "pods-4"]);
        assert_eq!(cut[0].subnets, ["10.244.0.0/24", "fd44::/66"]);
        assert_eq!(cut[3].subnets, ["10.244.3.0/24", "fd44::c000:0:0:0/66"]);
        let peers = "192.0.2.0/24,10.244.0.0/22,fd44::/64";
        assert!(
            cut.iter()
                .all(|piece| piece.opts["non_masquerade"] == peers),
            "{cut:?}"
        );
        for piece in cut {
            CreateNetwork::try_from(piece).unwrap();
        }
    }

    #[test]
    fn the_pieces_are_disjoint_and_no_more_than_256() {
        for subnets in [
            &["10.0.0.0/8"][..],
            &["fd44::/64"],
            &["10.0.0.0/16", "fd44::/48"],
        ] {
            let cut = all(&define(subnets, &[("l3", "on")]));
            assert_eq!(cut.len(), 256, "{subnets:?}");
            let prefixes: Vec<Prefix> = cut
                .iter()
                .flat_map(|piece| &piece.subnets)
                .map(|text| text.parse().unwrap())
                .collect();
            for (n, one) in prefixes.iter().enumerate() {
                assert!(
                    prefixes[..n].iter().all(|other| !other.overlaps(*one)),
                    "{one}"
                );
            }
        }
    }

    #[test]
    fn what_fits_one_bridge_or_is_no_node_stays_whole() {
        let l3 = [("l3", "on")];
        for whole in [
            define(&["10.244.1.0/24", "fd44::/64"], &l3),
            define(&["10.244.1.0/25"], &l3),
            define(&["10.244.0.0/16"], &[]),
            define(&["10.244.0.0/16"], &[("l3", "on"), ("non_masquerade", "x")]),
            define(&["10.244.0.1/16"], &l3),
            define(&[], &l3),
            NetworkCreate {
                gateways: vec!["10.0.0.1".to_owned()],
                ..define(&["10.0.0.0/8"], &l3)
            },
        ] {
            assert_eq!(all(&whole), [whole]);
        }
    }
}
