//! What nf_tables holds of ours in one namespace.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use netd_model::counters::Both;
use netd_model::net::Family;
use netd_model::nft::Datum;
use netd_model::{Ns, Object, skeleton};

use super::abi::*;
use super::attr::Attrs;
use super::table::Table;
use super::transport::Transport;
use super::{BRIDGE, HOST, Known, element, shape};

/// How often it is read when a table or set vanishes while it is read.
const ATTEMPTS: usize = 4;

/// Our rulesets and the elements of our sets in one namespace: all of them, or an error.
pub(super) fn objects(transport: &mut Transport, ns: &Ns) -> io::Result<Vec<Object>> {
    whole(transport, |transport| match ns {
        Ns::Host => {
            let mut objects = read_ours(transport, &HOST)?;
            objects.extend(read_ours(transport, &BRIDGE)?);
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

/// Reads the counting sets. Without our table nothing was counted.
pub(super) fn counters(transport: &mut Transport) -> io::Result<BTreeMap<(IpAddr, u8, u16), Both>> {
    let mut counted: BTreeMap<(IpAddr, u8, u16), Both> = BTreeMap::new();
    let table = &HOST.ruleset.table;
    for set in HOST.ruleset.sets.iter().filter(|set| set.counter) {
        let dump = transport.dump(NFT_MSG_GETSETELEM, NFPROTO_INET, |w| {
            w.put_text(NFTA_SET_ELEM_LIST_TABLE, &table.name);
            w.put_text(NFTA_SET_ELEM_LIST_SET, &set.name);
        });
        let dump = match dump {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => continue,
            dump => dump?,
        };
        let items = dump
            .iter()
            .flat_map(|m| m.attrs().list(NFTA_SET_ELEM_LIST_ELEMENTS));
        for item in items {
            let found = element::read(table, set, std::iter::once(item)).elements;
            let (Some(element), Some(count)) = (found.first(), element::read_counter(item)) else {
                continue;
            };
            let (ip, proto, port) = match element.key.first[..] {
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
