//! The zone against a model so simple that it cannot be wrong, and the order of lookups.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::thread;

use netd_dns::{Zone, ZoneHandle, container_names};
use proptest::prelude::*;

use crate::support::{asker, ip, zone};

#[test]
fn the_first_network_that_knows_the_whole_name_wins() {
    let mut zone = zone();
    let both = asker(&["n1", "n2"], true);
    assert_eq!(
        zone.lookup(&both, "web"),
        Some(vec![ip("10.0.1.1"), ip("fd00::1")])
    );
    let turned = asker(&["n2", "n1"], true);
    assert_eq!(zone.lookup(&turned, "web"), Some(vec![ip("10.0.2.1")]));
    assert_eq!(zone.lookup(&turned, "web.front"), zone.lookup(&both, "web"));
    // A whole name on a later network comes before a split one.
    zone.add_names("n2", ["web.front"], &[ip("10.9.9.9")], "alias");
    assert_eq!(zone.lookup(&both, "web.front"), Some(vec![ip("10.9.9.9")]));
}

#[test]
fn names_are_split_from_the_right() {
    let mut zone = Zone::default();
    zone.set_network("c", "C.");
    zone.set_network("bc", "b.c");
    zone.add_names("bc", ["a"], &[ip("10.0.0.2")], "x");
    let both = asker(&["bc", "c"], true);
    assert_eq!(zone.lookup(&both, "a.b.c"), Some(vec![ip("10.0.0.2")]));
    zone.add_names("c", ["a.b"], &[ip("10.0.0.1")], "x");
    assert_eq!(zone.lookup(&both, "a.b.c"), Some(vec![ip("10.0.0.1")]));
    assert_eq!(zone.lookup(&asker(&["bc"], true), "a.b"), None);
    assert_eq!(zone.lookup(&both, "a.b.c.d"), None);
}

#[test]
fn names_may_come_before_their_network() {
    let mut zone = Zone::default();
    zone.add_names("n", ["a"], &[ip("10.0.0.1")], "x");
    let me = asker(&["n"], true);
    assert!(zone.lookup(&me, "a").is_some());
    assert_eq!(zone.lookup(&me, "a."), None);
    zone.set_network("n", "net");
    assert!(zone.lookup(&me, "a.net").is_some());
    zone.set_network("n", "renamed");
    assert_eq!(zone.lookup(&me, "a.net"), None);
    assert!(zone.lookup(&me, "a.renamed").is_some());
    zone.remove_network("n");
    assert_eq!(zone.lookup(&me, "a"), None);
}

#[test]
fn one_holder_goes_and_the_other_stays() {
    let mut zone = zone();
    let me = asker(&["n1"], true);
    zone.remove_names("n1", "api-1");
    assert_eq!(zone.lookup(&me, "api"), Some(vec![ip("10.0.1.3")]));
    zone.remove_names("n1", "api-2");
    assert_eq!(zone.lookup(&me, "api"), None);
    zone.remove_names("n1", "api-2");
    zone.remove_names("no such network", "api-2");
}

#[test]
fn an_address_with_two_holders_is_given_once() {
    let mut zone = zone();
    zone.add_names("n1", ["api"], &[ip("10.0.1.3")], "api-3");
    let me = asker(&["n1"], true);
    assert_eq!(
        zone.lookup(&me, "api"),
        Some(vec![ip("10.0.1.2"), ip("10.0.1.3")])
    );
}

#[test]
fn what_a_container_is_called() {
    let id = "0123456789abcdef0123456789abcdef";
    let names = container_names("web", ["www", "WEB"], id, Some("host.example"));
    assert_eq!(names, ["web", "www", "0123456789ab", "host.example"]);
    assert_eq!(
        container_names("web", [], "short", Some("web")),
        ["web", "short"]
    );
    assert_eq!(container_names("web", [""], "", None), ["web"]);
}

#[test]
fn a_change_is_seen_whole_or_not_at_all() {
    let handle = ZoneHandle::default();
    let me = asker(&["n"], true);
    let writer = handle.clone();
    let writing = thread::spawn(move || {
        for _ in 0..1000 {
            writer.update(|zone| {
                zone.add_names("n", ["a", "b"], &[ip("10.0.0.1")], "x");
            });
            writer.update(|zone| zone.remove_names("n", "x"));
        }
    });
    while !writing.is_finished() {
        let zone = handle.read();
        assert_eq!(zone.lookup(&me, "a"), zone.lookup(&me, "b"));
    }
    writing.join().unwrap();
}

#[derive(Clone, Debug)]
enum Change {
    Add {
        network: usize,
        names: Vec<usize>,
        addresses: Vec<u8>,
        holder: usize,
    },
    RemoveNames {
        network: usize,
        holder: usize,
    },
    SetNetwork {
        network: usize,
        name: usize,
    },
    RemoveNetwork {
        network: usize,
    },
}

const NETWORKS: [&str; 3] = ["n0", "n1", "n2"];
const NETWORK_NAMES: [&str; 3] = ["net", "Net2", "b.net"];
const NAMES: [&str; 6] = ["a", "B", "a.b", "a.net", "b.net2.", "bad..name"];
const HOLDERS: [&str; 3] = ["h0", "h1", "h2"];

fn changes() -> impl Strategy<Value = Change> {
    let indexes = || prop::collection::vec(0..NAMES.len(), 0..4);
    prop_oneof![
        4 => (0..3_usize, indexes(), prop::collection::vec(0..4_u8, 0..3), 0..3_usize).prop_map(
            |(network, names, addresses, holder)| Change::Add { network, names, addresses, holder }
        ),
        2 => (0..3_usize, 0..3_usize)
            .prop_map(|(network, holder)| Change::RemoveNames { network, holder }),
        1 => (0..3_usize, 0..3_usize).prop_map(|(network, name)| Change::SetNetwork { network, name }),
        1 => (0..3_usize).prop_map(|network| Change::RemoveNetwork { network }),
    ]
}

/// The model: a plain list of facts, searched from end to end.
#[derive(Default)]
struct Model {
    facts: BTreeSet<(usize, String, usize, IpAddr)>,
    names: BTreeMap<usize, String>,
}

impl Model {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Add {
                network,
                names,
                addresses,
                holder,
            } => {
                for (name, address) in names
                    .iter()
                    .flat_map(|n| addresses.iter().map(move |a| (n, a)))
                {
                    let name = NAMES[*name].trim_end_matches('.').to_lowercase();
                    if !name.contains("..") {
                        self.facts
                            .insert((*network, name, *holder, address_of(*address)));
                    }
                }
            }
            Change::RemoveNames { network, holder } => {
                self.facts
                    .retain(|(n, _, h, _)| (n, h) != (network, holder));
            }
            Change::SetNetwork { network, name } => {
                self.names
                    .insert(*network, NETWORK_NAMES[*name].to_lowercase());
            }
            Change::RemoveNetwork { network } => {
                self.names.remove(network);
                self.facts.retain(|(n, ..)| n != network);
            }
        }
    }

    fn on(&self, network: usize, name: &str) -> Option<Vec<IpAddr>> {
        let mine = self
            .facts
            .iter()
            .filter(|(n, k, ..)| *n == network && k == name);
        let found: BTreeSet<IpAddr> = mine.map(|(.., address)| *address).collect();
        (!found.is_empty()).then(|| found.into_iter().collect())
    }

    fn lookup(&self, order: &[usize], name: &str) -> Option<Vec<IpAddr>> {
        let whole = order.iter().find_map(|&network| self.on(network, name));
        let labels: Vec<&str> = name.split('.').collect();
        let split = || {
            (1..labels.len()).rev().find_map(|at| {
                let (host, suffix) = (labels[..at].join("."), labels[at..].join("."));
                let named = order.iter().filter(|n| self.names.get(n) == Some(&suffix));
                named
                    .into_iter()
                    .find_map(|&network| self.on(network, &host))
            })
        };
        whole.or_else(split)
    }
}

fn address_of(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, number))
}

fn apply(zone: &mut Zone, change: &Change) {
    match change {
        Change::Add {
            network,
            names,
            addresses,
            holder,
        } => {
            let addresses: Vec<IpAddr> = addresses.iter().copied().map(address_of).collect();
            let names = names.iter().map(|&n| NAMES[n]);
            zone.add_names(NETWORKS[*network], names, &addresses, HOLDERS[*holder]);
        }
        Change::RemoveNames { network, holder } => {
            zone.remove_names(NETWORKS[*network], HOLDERS[*holder]);
        }
        Change::SetNetwork { network, name } => {
            zone.set_network(NETWORKS[*network], NETWORK_NAMES[*name]);
        }
        Change::RemoveNetwork { network } => zone.remove_network(NETWORKS[*network]),
    }
}

proptest! {
    #[test]
    fn any_history_agrees_with_the_model(history in prop::collection::vec(changes(), 0..30)) {
        let (mut zone, mut model) = (Zone::default(), Model::default());
        for change in &history {
            apply(&mut zone, change);
            model.apply(change);
        }
        for order in [vec![0, 1, 2], vec![2, 1, 0], vec![1], vec![]] {
            let me = asker(&order.iter().map(|&n| NETWORKS[n]).collect::<Vec<_>>(), true);
            for name in ["a", "b", "a.b", "a.net", "b.net2", "a.b.net", "a.net.net2", "b.net2.net", "c"] {
                prop_assert_eq!(zone.lookup(&me, name), model.lookup(&order, name), "{}", name);
            }
        }
    }
}
