//! What nf_tables holds of ours in one namespace.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use netd_model::counters::{Both, Count, Dropped};
use netd_model::net::Family;
use netd_model::nft::{Datum, SetSpec};
use netd_model::skeleton::{self, Reason};
use netd_model::{Ns, Object};

use super::abi::*;
use super::attr::Attrs;
use super::table::Table;
use super::transport::Transport;
use super::{HOST, Known, element, of_host, shape};

/// How often it is read when a table or set vanishes while it is read.
const ATTEMPTS: usize = 4;

/// Our rulesets and the elements of our sets in one namespace: all of them, or an error.
pub(super) fn objects(transport: &mut Transport, ns: &Ns) -> io::Result<Vec<Object>> {
    whole(transport, |transport| match ns {
        Ns::Host => {
            let mut objects = Vec::new();
            for known in of_host() {
                objects.extend(read_ours(transport, known)?);
            }
            Ok(objects)
        }
        Ns::Container(id) => read_ours(transport, &Known::new(skeleton::dns(id))),
    })
}

/// Base chains of others that drop what they do not accept themselves in the forward hook, as `family table chain`.
pub(super) fn forward_drop(transport: &mut Transport) -> io::Result<Vec<String>> {
    whole(transport, read_forward_drop)
}

/// Reads again where somebody deletes tables at this moment: what is read next is without them.
fn whole<T>(
    transport: &mut Transport,
    read: impl Fn(&mut Transport) -> io::Result<T>,
) -> io::Result<T> {
    for _ in 1..ATTEMPTS {
        match read(transport) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => {}
            done => return done,
        }
    }
    read(transport)
}

fn read_ours(transport: &mut Transport, known: &Known) -> io::Result<Vec<Object>> {
    let ruleset = &known.ruleset;
    let Some(table) = Table::read(transport, ruleset)? else {
        return Ok(Vec::new());
    };
    // Not a table of ours, whatever its name is.
    let Some(owner) = table.owner.clone() else {
        return Ok(Vec::new());
    };
    let held = match table.difference(ruleset, &known.digest) {
        None => ruleset.clone(),
        Some(difference) => {
            tracing::debug!(table = %ruleset.table.name, ns = %ruleset.table.ns, %difference, "table differs");
            netd_model::nft::Ruleset {
                owner,
                ..ruleset.emptied()
            }
        }
    };
    let mut objects = vec![Object::Ruleset(held)];
    for set in ruleset
        .sets
        .iter()
        .filter(|set| table.has_set(&known.digest, &set.name))
    {
        let dump = transport.dump(
            NFT_MSG_GETSETELEM,
            shape::nfproto(ruleset.table.family),
            |w| {
                w.put_text(NFTA_SET_ELEM_LIST_TABLE, &ruleset.table.name);
                w.put_text(NFTA_SET_ELEM_LIST_SET, &set.name);
            },
        )?;
        let items = dump
            .iter()
            .flat_map(|m| m.attrs().list(NFTA_SET_ELEM_LIST_ELEMENTS));
        let found = element::read(&ruleset.table, set, items);
        if found.unreadable > 0 {
            tracing::warn!(set = %set.name, count = found.unreadable, "elements that netd cannot have made");
        }
        objects.extend(found.elements.into_iter().map(Object::Element));
    }
    Ok(objects)
}

/// Reads the counting sets of published ports. Without our table nothing was counted.
pub(super) fn counters(transport: &mut Transport) -> io::Result<BTreeMap<(IpAddr, u8, u16), Both>> {
    let mut counted: BTreeMap<(IpAddr, u8, u16), Both> = BTreeMap::new();
    let stems = [skeleton::COUNT_IN, skeleton::COUNT_OUT];
    let of_ports = |set: &&SetSpec| stems.iter().any(|stem| set.name.starts_with(stem));
    for set in HOST.ruleset.sets.iter().filter(of_ports) {
        for (key, count) in read_counts(transport, &HOST, set)? {
            let (ip, proto, port) = match key[..] {
                [Datum::Ip4(ip), Datum::L4Proto(proto), Datum::Port(port)] => {
                    (IpAddr::V4(ip), proto, port)
                }
                [Datum::Ip6(ip), Datum::L4Proto(proto), Datum::Port(port)] => {
                    (IpAddr::V6(ip), proto, port)
                }
                _ => continue,
            };
            let both = counted.entry((ip, proto, port)).or_default();
            if set.name.starts_with(skeleton::COUNT_IN) {
                both.received = count;
            } else {
                both.sent = count;
            }
        }
    }
    Ok(counted)
}

/// Reads the counting sets of dropped packets: every reason that can be counted here, from 0.
pub(super) fn drops(transport: &mut Transport) -> io::Result<Dropped> {
    let mut dropped = Dropped::default();
    for known in of_host() {
        let counting = known.ruleset.sets.iter().filter(|set| set.counter);
        for set in counting {
            if let Some(reason) = Reason::of_set(&set.name) {
                let counts = read_counts(transport, known, set)?;
                let packets = counts.iter().map(|(_, count)| count.packets).sum();
                dropped.host.insert(reason, packets);
            } else if let Some(reason) = Reason::of_set_at(&set.name) {
                for (key, count) in read_counts(transport, known, set)? {
                    if let [Datum::Ifname(bridge)] = &key[..] {
                        let drops = dropped.bridges.entry(bridge.clone()).or_default();
                        drops.insert(reason, count.packets);
                    }
                }
            } else if set.name.starts_with(skeleton::DIRECT_AT) {
                let counts = read_counts(transport, known, set)?.into_iter();
                dropped.subnets.extend(counts.filter_map(|(key, count)| {
                    let base = match key[..] {
                        [Datum::Ip4(ip)] => IpAddr::V4(ip),
                        [Datum::Ip6(ip)] => IpAddr::V6(ip),
                        _ => return None,
                    };
                    Some((base, count.packets))
                }));
            }
        }
    }
    Ok(dropped)
}

/// The keys of a counting set with what they have counted; none without the set.
fn read_counts(
    transport: &mut Transport,
    known: &Known,
    set: &SetSpec,
) -> io::Result<Vec<(Vec<Datum>, Count)>> {
    let table = &known.ruleset.table;
    let dump = transport.dump(NFT_MSG_GETSETELEM, shape::nfproto(table.family), |w| {
        w.put_text(NFTA_SET_ELEM_LIST_TABLE, &table.name);
        w.put_text(NFTA_SET_ELEM_LIST_SET, &set.name);
    });
    let dump = match dump {
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => return Ok(Vec::new()),
        dump => dump?,
    };
    let items = dump
        .iter()
        .flat_map(|m| m.attrs().list(NFTA_SET_ELEM_LIST_ELEMENTS));
    let counted = items.filter_map(|item| {
        let element = element::read(table, set, std::iter::once(item))
            .elements
            .pop()?;
        Some((element.key.first, element::read_counter(item)?))
    });
    Ok(counted.collect())
}

/// Base chains of others that drop what they do not accept: by their policy, or by a last rule as firewalld's. Our own
/// forward chain does neither.
fn read_forward_drop(transport: &mut Transport) -> io::Result<Vec<String>> {
    let chains = transport.dump(NFT_MSG_GETCHAIN, NFPROTO_UNSPEC, |_| ())?;
    let mut found = Vec::new();
    for message in chains.iter() {
        let attrs = message.attrs();
        let Some(family) = family_name(message.family()) else {
            continue;
        };
        let (table, chain) = (
            attrs.printable(NFTA_CHAIN_TABLE),
            attrs.printable(NFTA_CHAIN_NAME),
        );
        let ours = message.family() == NFPROTO_INET && table == skeleton::TABLE;
        if !ours
            && shape::filters_forwarded(attrs)
            && (shape::drops_by_policy(attrs)
                || ends_with_a_drop(transport, message.family(), attrs)?)
        {
            found.push(format!("{family} {table} {chain}"));
        }
    }
    Ok(found)
}

/// The families whose chains see what netd forwards.
fn family_name(number: u8) -> Option<&'static str> {
    match number {
        NFPROTO_INET => Some("inet"),
        number if number == Family::V4.nfproto() => Some("ip"),
        number if number == Family::V6.nfproto() => Some("ip6"),
        _ => None,
    }
}

fn ends_with_a_drop(transport: &mut Transport, family: u8, chain: Attrs<'_>) -> io::Result<bool> {
    let (table, name) = (chain.get(NFTA_CHAIN_TABLE), chain.get(NFTA_CHAIN_NAME));
    let rules = transport.dump(NFT_MSG_GETRULE, family, |w| {
        w.put(NFTA_RULE_TABLE, table.unwrap_or_default());
        w.put(NFTA_RULE_CHAIN, name.unwrap_or_default());
    })?;
    let of_chain = rules.iter().map(|message| message.attrs()).filter(|rule| {
        // Kernels that do not know the filter give more.
        (rule.get(NFTA_RULE_TABLE), rule.get(NFTA_RULE_CHAIN)) == (table, name)
    });
    Ok(of_chain.last().is_some_and(shape::drops_all))
}
