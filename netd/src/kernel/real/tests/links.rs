//! Bridges, pairs, ports, and their removal.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkVeth};

use super::*;
use crate::kernel::KernelErrorKind;
use crate::kernel::real::link::{self, GROUPS, LinkView};
use crate::kernel::real::netlink::Request;

/// Makes a link that is not netd's.
pub(super) fn foreign_bridge(space: &mut Space, name: &str) {
    let message = LinkMessageBuilder::<LinkBridge>::new(name)
        .alias("somebody's")
        .up()
        .build();
    let message = RouteNetlinkMessage::NewLink(message);
    space
        .route
        .call(&Request::set(&message, NLM_F_CREATE | NLM_F_EXCL))
        .unwrap();
}

fn foreign_pair(space: &mut Space, name: &str, peer: &str) {
    let message = RouteNetlinkMessage::NewLink(LinkVeth::new(name, peer).build());
    space
        .route
        .call(&Request::set(&message, NLM_F_CREATE | NLM_F_EXCL))
        .unwrap();
}

fn all_links(space: &mut Space) -> Vec<LinkView> {
    space.route.dump(&link::all(), LinkView::read).unwrap()
}

#[test]
fn a_bridge_is_made_as_wanted_and_goes_alone() {
    in_lab("a_bridge_is_made_as_wanted_and_goes_alone", |lab| {
        foreign_bridge(&mut lab.space, "foreign");
        for (number, mtu) in [(1, 1500), (2, 9000), (3, 1000), (4, 68)] {
            lab.add(&Link {
                mtu,
                ..bridge(number)
            });
            assert!(
                lab.holds(&Link {
                    mtu,
                    ..bridge(number)
                }),
                "{mtu}"
            );
        }
        assert_eq!(lab.observe().objects.len(), 4, "only ours are seen");
        let error = lab.try_add(&bridge(1)).unwrap_err();
        assert_eq!(error.kind, KernelErrorKind::HostIfnameInUse, "{error}");
        let error = lab
            .try_add(&Link {
                name: name("foreign"),
                ..bridge(9)
            })
            .unwrap_err();
        assert_eq!(error.kind, KernelErrorKind::HostIfnameInUse, "{error}");
        assert!(
            error
                .to_string()
                .contains("an interface foreign is there already"),
            "{error}"
        );
        let error = lab
            .try_add(&Link {
                mtu: 10,
                ..bridge(9)
            })
            .unwrap_err();
        assert!(!exists(&mut lab.space, "br9"), "half-made: {error}");
        lab.remove(&bridge(1));
        assert!(!lab.holds(&bridge(1)));
        lab.remove(&bridge(1));
        assert!(exists(&mut lab.space, "foreign") && exists(&mut lab.space, "br2"));
        assert!(all_links(&mut lab.space).iter().all(|view| view.group == 0));
    });
}

#[test]
fn a_bridge_keeps_its_mtu_when_its_last_port_goes() {
    in_lab("a_bridge_keeps_its_mtu_when_its_last_port_goes", |lab| {
        let id = lab.container(1);
        let big = Link {
            mtu: 9000,
            ..bridge(1)
        };
        let (host, container) = pair(&id, 1, 1);
        let (host, container) = (
            Link { mtu: 9000, ..host },
            Link {
                mtu: 9000,
                ..container
            },
        );
        lab.add(&big);
        lab.apply(&[add_pair(&(host.clone(), container))]).unwrap();
        lab.remove(&host);
        assert!(lab.holds(&big));
    });
}

#[test]
fn a_pair_is_made_in_two_namespaces_and_goes_as_one() {
    in_lab("a_pair_is_made_in_two_namespaces_and_goes_as_one", |lab| {
        let id = lab.container(1);
        let both = pair(&id, 1, 1);
        lab.add(&bridge(1));
        lab.apply(&[add_pair(&both)]).unwrap();
        assert!(lab.holds(&both.0) && lab.holds(&both.1));
        assert_eq!(lab.observe().objects.len(), 3);
        lab.remove(&both.0);
        assert!(!lab.holds(&both.0) && !lab.holds(&both.1));
        lab.apply(&[add_pair(&both)]).unwrap();
        lab.remove(&both.1);
        assert!(!lab.holds(&both.0), "the inner end takes the outer along");
    });
}

/// Link-local addresses of a link, by `/proc`: where they exist the kernel made them.
fn link_locals(link: &str) -> Vec<String> {
    let text = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
    let lines = text
        .lines()
        .filter(|line| line.starts_with("fe80") && line.ends_with(link));
    lines.map(|line| line[16..32].to_owned()).collect()
}

#[test]
fn link_local_addresses_are_made_where_wanted_only() {
    in_lab("link_local_addresses_are_made_where_wanted_only", |lab| {
        let id = lab.container(1);
        lab.add(&Link {
            link_local: true,
            ..bridge(1)
        });
        lab.add(&bridge(2));
        let (host, container) = pair(&id, 1, 1);
        lab.apply(&[add_pair(&(
            host,
            Link {
                link_local: true,
                ..container
            },
        ))])
        .unwrap();
        lab.apply(&[add_pair(&pair(&id, 2, 1))]).unwrap();
        // Made when the kernel's work queue notes that the link has a carrier.
        let start = std::time::Instant::now();
        let is_there = || {
            !link_locals("br1").is_empty() && lab.inside(&id, || !link_locals("eth0").is_empty())
        };
        while !is_there() && start.elapsed().as_secs() < 5 {
            std::thread::yield_now();
        }
        assert_eq!(link_locals("br1"), ["006e00fffe010001"]);
        assert_eq!(link_locals("br2"), [""; 0]);
        assert_eq!(link_locals("ve1-1"), [""; 0]);
        let inner = lab.inside(&id, || (link_locals("eth0"), link_locals("eth1")));
        assert_eq!(inner, (vec!["006e0afffe010001".to_owned()], vec![]));
    });
}

#[test]
fn a_taken_name_is_told_by_the_end_it_is_on() {
    in_lab("a_taken_name_is_told_by_the_end_it_is_on", |lab| {
        let (id, other) = (lab.container(1), lab.container(2));
        lab.add(&bridge(1));
        lab.apply(&[add_pair(&pair(&id, 1, 1))]).unwrap();
        // A second interface of the same name in the container.
        let failed = lab.apply(&[add_pair(&pair(&id, 1, 2))]).unwrap_err();
        assert_eq!(failed.error.kind, KernelErrorKind::IfnameInUse, "{failed}");
        assert!(
            failed
                .to_string()
                .contains("the container has an interface eth0 already"),
            "{failed}"
        );
        assert!(!exists(&mut lab.space, "ve1-2"));
        // The host's name is taken: by netd, or by somebody else, who keeps it as it is.
        let failed = lab.apply(&[add_pair(&pair(&other, 1, 1))]).unwrap_err();
        assert_eq!(
            failed.error.kind,
            KernelErrorKind::HostIfnameInUse,
            "{failed}"
        );
        foreign_pair(&mut lab.space, "ve1-3", "x");
        let before = format!("{:?}", all_links(&mut lab.space));
        let failed = lab.apply(&[add_pair(&pair(&other, 1, 3))]).unwrap_err();
        assert_eq!(
            failed.error.kind,
            KernelErrorKind::HostIfnameInUse,
            "{failed}"
        );
        assert_eq!(format!("{:?}", all_links(&mut lab.space)), before);
    });
}

#[test]
fn a_pair_needs_its_bridge_to_be_ours() {
    in_lab("a_pair_needs_its_bridge_to_be_ours", |lab| {
        let id = lab.container(1);
        let failed = lab.apply(&[add_pair(&pair(&id, 1, 1))]).unwrap_err();
        assert_eq!(failed.error.kind, KernelErrorKind::NoSuchDevice, "{failed}");
        foreign_bridge(&mut lab.space, "br1");
        let failed = lab.apply(&[add_pair(&pair(&id, 1, 1))]).unwrap_err();
        assert!(
            failed.to_string().contains("carries no mark of netd"),
            "{failed}"
        );
        assert_eq!(lab.observe().objects.len(), 0);
    });
}

#[test]
fn what_a_killed_netd_left_half_made_is_replaced_and_swept() {
    in_lab(
        "what_a_killed_netd_left_half_made_is_replaced_and_swept",
        |lab| {
            foreign_bridge(&mut lab.space, "foreign");
            for number in [1, 2] {
                lab.space
                    .route
                    .call(&link::create_bridge(&bridge(number)))
                    .unwrap();
            }
            assert_eq!(lab.observe().objects.len(), 0);
            lab.add(&bridge(1));
            assert!(lab.holds(&bridge(1)));
            let looker = Config {
                daemon: false,
                ..config()
            };
            RealKernel::new(looker, Arc::new(Sink::default())).unwrap();
            assert!(exists(&mut lab.space, "br2"));
            RealKernel::new(config(), Arc::new(Sink::default())).unwrap();
            assert!(!exists(&mut lab.space, "br2"));
            assert!(exists(&mut lab.space, "br1") && exists(&mut lab.space, "foreign"));
        },
    );
}

#[test]
fn links_are_changed_back() {
    in_lab("links_are_changed_back", |lab| {
        let id = lab.container(1);
        lab.add(&bridge(1));
        lab.add(&bridge(2));
        let both = pair(&id, 1, 1);
        lab.apply(&[add_pair(&both)]).unwrap();
        for want in [&both.0, &both.1, &bridge(1)] {
            let drifted = Link {
                mac: Mac::new([2; 6]).unwrap(),
                mtu: 1400,
                up: false,
                master: want.master.is_some().then(|| name("br2")),
                ..want.clone()
            };
            let forth = Op::Change {
                from: Object::Link(want.clone()),
                to: Object::Link(drifted.clone()),
            };
            let back = forth.inverse().unwrap();
            lab.apply(&[forth]).unwrap();
            assert!(lab.holds(&drifted), "{drifted:?}");
            lab.apply(&[back]).unwrap();
            assert!(lab.holds(want), "{want:?}");
        }
    });
}

#[test]
fn ports_are_hairpins_only_where_wanted() {
    in_lab("ports_are_hairpins_only_where_wanted", |lab| {
        let id = lab.container(1);
        let both = pair(&id, 1, 1);
        lab.add(&bridge(1));
        lab.apply(&[add_pair(&both)]).unwrap();
        let port = |hairpin| BridgePort {
            ifname: both.0.name.clone(),
            hairpin,
            isolated: hairpin,
            learning: true,
            flood: true,
            suppress: false,
            owner: both.0.owner.clone(),
        };
        assert!(lab.holds(&port(false)));
        for hairpin in [true, true, false] {
            lab.add(&port(hairpin));
            assert!(lab.holds(&port(hairpin)));
        }
        lab.remove(&port(false));
        foreign_bridge(&mut lab.space, "foreign");
        let error = lab
            .try_add(&BridgePort {
                ifname: name("foreign"),
                ..port(true)
            })
            .unwrap_err();
        assert_eq!(error.kind, KernelErrorKind::NoSuchDevice);
    });
}

#[test]
fn a_hundred_links_go_at_once_and_nobody_elses() {
    in_lab("a_hundred_links_go_at_once_and_nobody_elses", |lab| {
        let id = lab.container(1);
        lab.add(&bridge(1));
        foreign_pair(&mut lab.space, "foreign", "foreign-peer");
        let hosts = hundred(lab, &id);
        // One is gone already, one is another owner's by now, one was taken over by somebody else.
        let index = |lab: &mut Lab, link: &Link| lab.space.link(&link.name).unwrap().unwrap().index;
        let gone = index(lab, &hosts[3]);
        lab.space.route.call(&link::remove(gone)).unwrap();
        let other = Link {
            owner: Owner::Network(network(7)),
            ..hosts[4].clone()
        };
        let changed = index(lab, &hosts[4]);
        lab.space
            .route
            .call(&link::change(changed, &other, None))
            .unwrap();
        let taken = index(lab, &hosts[5]);
        lab.space.route.call(&link::remove(taken)).unwrap();
        foreign_bridge(&mut lab.space, hosts[5].name.as_str());

        let ops: Vec<Op> = hosts
            .iter()
            .map(|link| Op::Remove(Object::Link(link.clone())))
            .collect();
        lab.apply(&ops).unwrap();
        let mut left: Vec<String> = all_links(&mut lab.space)
            .into_iter()
            .map(|view| view.name)
            .collect();
        left.sort();
        assert_eq!(
            left,
            ["br1", "foreign", "foreign-peer", "lo", "ve1-4", "ve1-5"]
        );
        assert!(all_links(&mut lab.space).iter().all(|view| view.group == 0));
        let inner = lab.inside(&id, || Space::open(Ns::Host).unwrap());
        assert_eq!(all_links(&mut { inner }).len(), 2, "lo and one end");
    });
}

/// A hundred pairs of one container.
fn hundred(lab: &mut Lab, id: &ContainerId) -> Vec<Link> {
    let hosts = (0..100).map(|number| {
        let (host, container) = pair(id, 1, number);
        let container = Link {
            name: name(&format!("eth{number}")),
            ..container
        };
        lab.apply(&[add_pair(&(host.clone(), container))]).unwrap();
        host
    });
    hosts.collect()
}

#[test]
fn a_full_bridge_is_told() {
    in_lab("a_full_bridge_is_told", |lab| {
        let id = lab.container(1);
        lab.add(&bridge(1));
        let pairs = (0..1024).map(|number| {
            let (host, container) = pair(&id, 1, number);
            (
                host,
                Link {
                    name: name(&format!("eth{number}")),
                    ..container
                },
            )
        });
        let pairs: Vec<(Link, Link)> = pairs.collect();
        let ops: Vec<Op> = pairs.iter().map(add_pair).collect();
        let failed = lab.apply(&ops).unwrap_err();
        assert_eq!(
            (failed.done, failed.error.kind),
            (1023, KernelErrorKind::BridgeFull),
            "{failed}"
        );
        assert!(!exists(&mut lab.space, "ve1-1023"));
        let ops: Vec<Op> = pairs
            .into_iter()
            .map(|(host, _)| Op::Remove(Object::Link(host)))
            .collect();
        lab.apply(&ops).unwrap();
        assert_eq!(lab.observe().objects.len(), 1);
    });
}

#[test]
fn group_numbers_are_fresh() {
    let groups = crate::kernel::real::removal::Groups::new();
    let first = groups.fresh();
    let all: std::collections::BTreeSet<u32> = (0..1000).map(|_| groups.fresh()).collect();
    assert_eq!(all.len(), 1000);
    assert!(
        all.iter()
            .all(|group| *group > GROUPS && *group <= link::LAST_GROUP && *group != first)
    );
}
