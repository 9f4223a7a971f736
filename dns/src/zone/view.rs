//! Owns what one asker sees of the zone: which of several networks answers a name, and what stands behind a
//! reverse name or a service.
//!
//! Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use netd_model::Prefix;

use super::{Asker, Details, HOST_NAME, Holding, Network, Zone};
use crate::stats::Counters;

/// What one asker sees. Looked up once for all the queries that are answered together.
///
/// A name is looked for in this order: the asker's own extra hosts; the whole name on each of its networks, the first
/// that knows it wins; then the name split from the right, `a.b.c` as `a.b` in the network `c`, then as `a` in the
/// network `b.c`, where a search domain counts as a network's name. The networks stand in the order in which the
/// container joined them.
#[derive(Debug)]
pub struct View<'a> {
    zone: &'a Zone,
    pub(crate) asker: &'a Asker,
    networks: Vec<&'a Network>,
}

/// A name that is known.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    /// None for an extra host.
    pub(crate) network: Option<&'a Network>,
    /// Sorted by address.
    pub(crate) holdings: &'a [Holding],
    /// Of its records, in seconds.
    pub(crate) ttl: u32,
    /// Whether addresses on this host go first.
    pub(crate) local_first: bool,
}

/// What a reverse name is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reverse {
    /// These names, with their TTL.
    Names(Vec<String>, u32),
    /// The reverse name of a part of a prefix of ours: it has names below it.
    Part,
    /// An address of ours that nobody has, as far as the asker may know.
    Nobody,
    /// None of ours.
    Foreign,
}

impl<'a> View<'a> {
    pub(super) fn new(zone: &'a Zone, asker: &'a Asker) -> Self {
        let known = |id: &Arc<str>| zone.networks.get(id);
        Self {
            zone,
            asker,
            networks: asker.networks.iter().filter_map(known).collect(),
        }
    }

    /// TTL of negative answers, in seconds: that of the asker's first network.
    pub(crate) fn ttl(&self) -> u32 {
        let own = self.networks.first().and_then(|network| network.ttl);
        own.unwrap_or(self.zone.ttl)
    }

    /// The counters of the asker's first network, which its queries are counted on.
    pub fn counters(&self) -> Option<&'a Arc<Counters>> {
        self.networks.first().map(|network| &network.counters)
    }

    /// Everything that holds the name `key` (lower case, no trailing dot).
    pub(crate) fn find(&self, key: &str) -> Option<Found<'a>> {
        if let Some(holdings) = self.asker.hosts.get(key) {
            return Some(Found {
                network: None,
                holdings,
                ttl: self.ttl(),
                local_first: false,
            });
        }
        let entry = |network: &'a Network, key: &str| {
            let holdings = network.entries.get(key)?;
            let ttl = network.ttl.unwrap_or(self.zone.ttl);
            Some(Found {
                network: Some(network),
                holdings,
                ttl,
                local_first: network.local_first,
            })
        };
        let whole = self.networks.iter().find_map(|network| entry(network, key));
        whole.or_else(|| {
            key.rmatch_indices('.').find_map(|(dot, _)| {
                let (host, suffix) = (&key[..dot], &key[dot + 1..]);
                let mut named = self
                    .networks
                    .iter()
                    .filter(|network| network.is_suffix(suffix));
                named.find_map(|network| entry(network, host))
            })
        })
    }

    /// Whether names of the asker's networks end with `.key`: then it exists, if only as the end of others (RFC 8020).
    pub(crate) fn is_suffix(&self, key: &str) -> bool {
        let ends = |name: &str| {
            name.strip_suffix(key)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        self.networks.iter().any(|network| {
            network.name.as_deref().is_some_and(ends) || network.search.iter().any(|s| ends(s))
        })
    }

    /// What is known of the containers that hold the name, each once, with the name it goes by.
    pub(crate) fn details(&self, found: &Found<'a>) -> Vec<(String, &'a Details)> {
        let mut seen: Vec<&str> = Vec::new();
        let mut list = Vec::new();
        for held in found.holdings {
            if seen.contains(&&*held.holder) {
                continue;
            }
            seen.push(&held.holder);
            let name = found
                .network
                .and_then(|network| network.full_name(&held.holder));
            if let (Some(name), Some(details)) = (name, self.zone.details.get(&held.holder)) {
                list.push((name, details));
            }
        }
        list
    }

    /// The network whose name explains where an answer comes from.
    pub(crate) fn network_name(found: &Found<'a>) -> Option<&'a str> {
        found.network?.name.as_deref()
    }

    /// What the reverse name `key` stands for.
    pub(crate) fn reverse(&self, key: &str) -> Reverse {
        let Some((address, len)) = address_of(key) else {
            return Reverse::Foreign;
        };
        if address.is_loopback() {
            return loopback(address, len, self.ttl());
        }
        let asked = Prefix::holding(address, len);
        let ours = |network: &Network| network.prefixes.iter().any(|prefix| prefix.covers(asked));
        if !self.zone.networks.values().any(ours) {
            return Reverse::Foreign;
        }
        if !is_whole(address, len) {
            return Reverse::Part;
        }
        for network in &self.networks {
            let ttl = network.ttl.unwrap_or(self.zone.ttl);
            if network.gateways.contains(&address) {
                return Reverse::Names(vec![HOST_NAME.to_owned()], ttl);
            }
            if let Some(holders) = network.reverse.get(&address) {
                let names = holders.iter().filter_map(|id| network.full_name(id));
                return Reverse::Names(names.collect(), ttl);
            }
        }
        Reverse::Nobody
    }
}

/// The addresses of this host itself are never asked outside (RFC 6303 section 4.2).
fn loopback(address: IpAddr, len: u8, ttl: u32) -> Reverse {
    if !is_whole(address, len) {
        Reverse::Part
    } else if [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()].contains(&address) {
        Reverse::Names(vec!["localhost".to_owned()], ttl)
    } else {
        Reverse::Nobody
    }
}

fn is_whole(address: IpAddr, len: u8) -> bool {
    len == if address.is_ipv4() { 32 } else { 128 }
}

/// The address that a reverse name (lower case) spells, and how many of its bits: `3.2.10.in-addr.arpa` is 10.2.3.0/24
/// (RFC 1035 section 3.5), `b.a.ip6.arpa` is ab00::/8 (RFC 3596 section 2.5). `None` for all other names.
fn address_of(key: &str) -> Option<(IpAddr, u8)> {
    if let Some(labels) = key.strip_suffix(".in-addr.arpa") {
        let mut octets = [0; 4];
        let mut count = 0;
        for label in labels.rsplit('.') {
            // As digits only: `parse` alone takes `+1` and `01` too.
            let plain = label.bytes().all(|b| b.is_ascii_digit())
                && (label.len() == 1 || !label.starts_with('0'));
            *octets.get_mut(count)? = label.parse().ok().filter(|_| plain)?;
            count += 1;
        }
        return Some((Ipv4Addr::from(octets).into(), u8::try_from(count * 8).ok()?));
    }
    let labels = key.strip_suffix(".ip6.arpa")?;
    let mut bits = 0_u128;
    let mut count = 0_u8;
    for label in labels.rsplit('.') {
        let digit = label.chars().next()?.to_digit(16)?;
        if label.len() != 1 || count == 32 {
            return None;
        }
        count += 1;
        bits |= u128::from(digit) << (128 - 4 * u32::from(count));
    }
    Some((Ipv6Addr::from_bits(bits).into(), count * 4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reverse_names_are_read_strictly() {
        let read = |key| address_of(key).map(|(ip, len)| format!("{ip}/{len}"));
        for (key, expected) in [
            ("4.3.2.1.in-addr.arpa", Some("1.2.3.4/32")),
            ("2.10.in-addr.arpa", Some("10.2.0.0/16")),
            ("b.a.ip6.arpa", Some("ab00::/8")),
            ("5.4.3.2.1.in-addr.arpa", None),
            ("256.in-addr.arpa", None),
            ("01.in-addr.arpa", None),
            ("+1.in-addr.arpa", None),
            ("-1.in-addr.arpa", None),
            ("in-addr.arpa", None),
            (".in-addr.arpa", None),
            ("ab.ip6.arpa", None),
            ("g.ip6.arpa", None),
            ("a.b.ip6.arpa.net", None),
        ] {
            assert_eq!(read(key).as_deref(), expected, "{key}");
        }
    }

    proptest! {
        #[test]
        fn every_address_is_read_back(bits in any::<u128>(), v4 in any::<u32>()) {
            let ip = Ipv6Addr::from_bits(bits);
            let digits: Vec<char> = format!("{bits:032x}").chars().rev().collect();
            let name: String = digits.iter().flat_map(|d| [*d, '.']).collect();
            prop_assert_eq!(address_of(&format!("{name}ip6.arpa")), Some((ip.into(), 128)));
            let [a, b, c, d] = Ipv4Addr::from_bits(v4).octets();
            let name = format!("{d}.{c}.{b}.{a}.in-addr.arpa");
            prop_assert_eq!(address_of(&name), Some((Ipv4Addr::from_bits(v4).into(), 32)));
        }

        #[test]
        fn never_panics(key in "[0-9a-f.]{0,80}(ip6|in-addr).arpa") {
            address_of(&key);
        }
    }
}
