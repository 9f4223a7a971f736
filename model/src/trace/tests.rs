use std::collections::BTreeSet;

use super::*;
use crate::desired;
use crate::fake::tests::{container, network};
use crate::net::IfName;
use crate::nft::ElementData;
use crate::object::{Link, Object};
use crate::observed::Way;
use crate::record::{Mode, Policy, Port};

/// Networks of each kind, two containers on each, and everything that the kernel shall hold for them.
struct Lab {
    networks: Vec<Network>,
    containers: Vec<Container>,
    facts: HostFacts,
}

const NAT: usize = 0;
const APART: usize = 1;
const ROUTED: usize = 2;
const INTERNAL: usize = 3;
const ISOLATED: usize = 4;
const OTHER: usize = 5;

impl Lab {
    fn new() -> Self {
        let with = |n, internal, mode, policy| Network {
            mode,
            policy,
            access: crate::access::Access::default(),
            ..network(n, true, internal)
        };
        let apart = Policy {
            icc: false,
            ..Policy::default()
        };
        let trusting = Policy {
            trusted: vec![IfName::parse("wg0").unwrap()],
            ..Policy::default()
        };
        let networks = vec![
            with(1, false, Mode::Nat, trusting),
            with(2, false, Mode::Nat, apart),
            with(3, false, Mode::Routed, Policy::default()),
            with(4, true, Mode::Nat, Policy::default()),
            with(5, false, Mode::Isolated, Policy::default()),
            with(6, false, Mode::Nat, Policy::default()),
        ];
        let port = |host_port| Port {
            proto: Proto::Tcp,
            host_ip: None,
            host_port,
            container_port: 80,
            access: crate::access::Access::default(),
        };
        let mut containers = Vec::new();
        for (at, network) in (0_u8..).zip(&networks) {
            let open = !network.internal && network.mode != Mode::Isolated;
            let ports = open
                .then(|| port(8000 + u16::from(at)))
                .into_iter()
                .collect();
            containers.push(container(10 * (at + 1), &[network], ports));
            containers.push(container(10 * (at + 1) + 1, &[network], Vec::new()));
        }
        let way = |to: &str, dev: &str| Way {
            to: to.parse().unwrap(),
            dev: IfName::parse(dev).unwrap(),
            metric: 0,
        };
        let facts = HostFacts {
            ipv6: true,
            bridge_tables: true,
            forwarding4: true,
            forwarding6: true,
            addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            ways: vec![
                way("0.0.0.0/0", "eth0"),
                way("::/0", "eth0"),
                way("203.0.113.0/24", "wg0"),
            ],
            ..HostFacts::default()
        };
        Self {
            networks,
            containers,
            facts,
        }
    }

    fn wanted(&self) -> Observed {
        let mut wanted = Observed::default();
        let find = |id: &NetworkId| self.networks.iter().find(|n| n.id == *id);
        let hosts = desired::host(&[], self.facts.bridge_tables).into_iter();
        let networks = self.networks.iter();
        let networks = networks.flat_map(|n| desired::network(n, &self.facts));
        let containers = self.containers.iter();
        let containers = containers.flat_map(|c| desired::container(c, find, &self.facts));
        hosts
            .chain(networks)
            .chain(containers)
            .for_each(|object| wanted.insert(object));
        wanted
    }

    fn first(&self, kind: usize) -> &Container {
        &self.containers[2 * kind]
    }

    fn second(&self, kind: usize) -> &Container {
        &self.containers[2 * kind + 1]
    }

    fn ask(&self, question: &Question, wanted: &Observed, held: &Observed) -> Trace {
        let networks: Vec<&Network> = self.networks.iter().collect();
        let containers: Vec<&Container> = self.containers.iter().collect();
        let known = Known {
            networks: &networks,
            containers: &containers,
            facts: &self.facts,
        };
        trace(question, &known, wanted, held)
    }

    fn question(&self, from: &str, to: &str) -> Question {
        let find = |name: &str| {
            let mut all = self.containers.iter();
            all.find(|c| c.name.as_str() == name)
                .ok_or_else(|| invalid(name))
        };
        Question::parse(from, to, find).unwrap()
    }

    fn healthy(&self, from: &str, to: &str) -> Trace {
        let wanted = self.wanted();
        let trace = self.ask(&self.question(from, to), &wanted, &wanted);
        assert_eq!(trace.fault, None, "{from} -> {to}");
        trace
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn what_netd_means_is_told() {
    let lab = Lab::new();
    let name = |c: &Container| c.name.to_string();
    let at = |c: &Container, port: &str| format!("{}:{port}", c.name);
    let ip6 = |c: &Container| format!("[{}]:80", c.endpoints[0].ips[1]);
    let (nat, nat2) = (lab.first(NAT), lab.second(NAT));
    for (from, to, delivered, word) in [
        (name(nat2), at(nat, "80"), true, "container c10"),
        (name(nat2), at(nat, "81/udp"), true, "container c10"),
        (name(nat2), ip6(nat), true, "container c10"),
        (name(nat2), name(nat), true, "container c10"),
        (
            name(nat2),
            "192.0.2.1:8000".to_owned(),
            true,
            "container c10",
        ),
        (
            name(nat),
            "192.0.2.1:8000".to_owned(),
            true,
            "container c10",
        ),
        (
            name(nat),
            "192.0.2.1:22".to_owned(),
            true,
            "a program of the host",
        ),
        (
            name(nat),
            "198.51.100.7:443".to_owned(),
            true,
            "leaves the host",
        ),
        (
            name(nat),
            "[2001:db8:9::1]:443".to_owned(),
            true,
            "leaves the host",
        ),
        (name(nat), at(lab.first(OTHER), "80"), false, "guard4"),
        (
            name(nat),
            at(lab.first(ROUTED), "80"),
            true,
            "container c30",
        ),
        (
            name(nat),
            at(lab.first(ROUTED), "81"),
            false,
            "to_routed: goto unpublished",
        ),
        (name(nat), name(lab.first(ROUTED)), true, "container c30"),
        (name(nat), at(lab.first(INTERNAL), "80"), false, "guard4"),
        (name(nat), at(lab.first(ISOLATED), "80"), false, "guard4"),
        (
            name(lab.first(APART)),
            at(lab.second(APART), "80"),
            false,
            "apart",
        ),
        (
            name(lab.first(INTERNAL)),
            at(lab.second(INTERNAL), "80"),
            true,
            "container c41",
        ),
        (
            name(lab.first(INTERNAL)),
            "198.51.100.7:443".to_owned(),
            false,
            "has no route",
        ),
        (
            name(lab.first(INTERNAL)),
            "10.4.0.1:22".to_owned(),
            false,
            "@nohost",
        ),
        (
            name(lab.first(ISOLATED)),
            at(lab.second(ISOLATED), "80"),
            true,
            "container c51",
        ),
        ("host".to_owned(), at(nat, "81"), true, "container c10"),
        (
            "host".to_owned(),
            "127.0.0.1:8000".to_owned(),
            false,
            "a program of the host",
        ),
        (
            "host".to_owned(),
            "192.0.2.1:8000".to_owned(),
            true,
            "container c10",
        ),
        (
            "host".to_owned(),
            "[::1]:22".to_owned(),
            true,
            "a program of the host",
        ),
        (
            "198.51.100.7".to_owned(),
            "192.0.2.1:8000".to_owned(),
            true,
            "container c10",
        ),
        (
            "198.51.100.7".to_owned(),
            "192.0.2.1:8009".to_owned(),
            true,
            "a program of the host",
        ),
        ("198.51.100.7".to_owned(), at(nat, "80"), false, "guard4"),
        (
            "198.51.100.7".to_owned(),
            "127.0.0.1:8000".to_owned(),
            false,
            "drop_loopback",
        ),
        (
            "198.51.100.7".to_owned(),
            at(lab.first(ROUTED), "80"),
            true,
            "container c30",
        ),
        (
            "203.0.113.9".to_owned(),
            at(nat, "81"),
            true,
            "container c10",
        ),
        (
            "203.0.113.9".to_owned(),
            at(lab.first(OTHER), "80"),
            false,
            "guard4",
        ),
    ] {
        let trace = lab.healthy(&from, &to);
        // 127.0.0.1 is published with every address: the exact cell stands in the reach tests.
        let delivered = delivered || to.starts_with("127.") && from == "host";
        assert_eq!(trace.delivered, delivered, "{from} -> {to}: {trace:#?}");
        if !(to.starts_with("127.") && from == "host") {
            assert!(trace.verdict.contains(word), "{from} -> {to}: {trace:#?}");
        }
    }
}

/// Ways in which one object can be wrong.
fn wrongs(object: &Object) -> Vec<Option<Object>> {
    let mut wrongs = vec![None];
    match object {
        Object::Link(link) => wrongs.push(Some(Object::Link(Link {
            up: false,
            ..link.clone()
        }))),
        Object::Ruleset(rules) => wrongs.push(Some(rules.emptied().into())),
        Object::Element(element) if element.data != ElementData::None => {
            let mut other = element.clone();
            other.data = match &element.data {
                ElementData::Verdict(_) => ElementData::Verdict(crate::nft::Verdict::Drop),
                data => data.clone(),
            };
            if other != *element {
                wrongs.push(Some(Object::Element(other)));
            }
        }
        _ => {}
    }
    wrongs
}

/// Each object that a way depends on is taken away or spoilt, one at a time: if the packet ends elsewhere, that object is
/// named, and no other.
#[test]
fn faults_are_named() {
    let lab = Lab::new();
    let wanted = lab.wanted();
    let name = |c: &Container| c.name.to_string();
    let (nat, nat2) = (lab.first(NAT), lab.second(NAT));
    let mut faults = BTreeSet::new();
    for (from, to) in [
        (name(nat2), format!("{}:80", nat.name)),
        (name(nat2), format!("[{}]:80", nat.endpoints[0].ips[1])),
        (name(nat2), "192.0.2.1:8000".to_owned()),
        (name(nat), "198.51.100.7:443".to_owned()),
        (name(nat), format!("{}:80", lab.first(ROUTED).name)),
        (name(nat), format!("{}:80", lab.first(OTHER).name)),
        (name(lab.first(INTERNAL)), "10.4.0.1:22".to_owned()),
        ("host".to_owned(), format!("{}:80", nat.name)),
        ("198.51.100.7".to_owned(), "192.0.2.1:8000".to_owned()),
        ("2001:db8:9::7".to_owned(), "[2001:db8::1]:8000".to_owned()),
        ("203.0.113.9".to_owned(), format!("{}:81", nat.name)),
        ("198.51.100.7".to_owned(), format!("{}:80", nat.name)),
    ] {
        let question = lab.question(&from, &to);
        let before = lab.ask(&question, &wanted, &wanted);
        for (key, object) in &wanted.objects {
            for wrong in wrongs(object) {
                let mut held = wanted.clone();
                held.objects.remove(key);
                wrong.into_iter().for_each(|object| held.insert(object));
                let after = lab.ask(&question, &wanted, &held);
                let same = (after.delivered, &after.verdict) == (before.delivered, &before.verdict);
                assert_eq!(
                    after.fault.is_none(),
                    same,
                    "{from} -> {to} without {object}"
                );
                if let Some(fault) = after.fault {
                    assert!(
                        fault.contains(&object.to_string()),
                        "{from} -> {to}: {fault}, not {object}"
                    );
                    faults.insert(format!("{from} -> {to}: {fault}"));
                }
            }
        }
    }
    println!("{} injected faults are named", faults.len());
    assert!(faults.len() >= 50, "{faults:#?}");
}

/// The routed network has two subnets of each family, and a container in each.
#[test]
fn two_subnets_of_a_network_are_one_link() {
    let lab = Lab::new();
    let (first, second) = (lab.first(ROUTED), lab.second(ROUTED));
    let at = |c: &Container, ip: usize| c.endpoints[0].ips[ip].to_string();
    assert_eq!([at(first, 0), at(second, 0)], ["10.3.0.40", "10.103.0.41"]);
    for ip in [0, 1] {
        let trace = lab.healthy(first.name.as_str(), &at(second, ip));
        assert_eq!(trace.verdict, "container c31");
        let by_host = |hop: &Hop| hop.what.contains("reaches the host") || hop.what.contains("via");
        assert!(!trace.hops.iter().any(by_host), "{trace:#?}");
    }
    for (from, to, word) in [
        (second.name.as_str(), "198.51.100.7:443", "via 10.103.0.1"),
        (second.name.as_str(), "10.3.0.1:22", "reaches the host"),
        (second.name.as_str(), "[fd00:103::1]:22", "reaches the host"),
        ("host", "10.103.0.41:80", "arrives on eth0"),
        (
            "198.51.100.7",
            "192.0.2.1:8002",
            "its destination becomes 10.3.0.40",
        ),
    ] {
        let trace = lab.healthy(from, to);
        assert!(trace.delivered, "{from} -> {to}: {trace:#?}");
        let told = trace.hops.iter().any(|hop| hop.what.contains(word));
        assert!(told, "{from} -> {to}: {trace:#?}");
    }
}

#[test]
fn what_is_typed_is_checked() {
    let lab = Lab::new();
    let find = |name: &str| {
        let mut all = lab.containers.iter();
        all.find(|c| c.name.as_str() == name).ok_or_else(|| {
            Error::new(
                Code::ContainerNotFound,
                format!("no container is called {name:?}"),
            )
        })
    };
    for (from, to, code) in [
        ("nobody", "c10:80", Code::ContainerNotFound),
        ("c10", "nobody", Code::ContainerNotFound),
        ("c10", "c11:0", Code::InvalidTrace),
        ("c10", "c11:http", Code::InvalidTrace),
        ("c10", "c11:80/icmp", Code::InvalidTrace),
        ("192.0.2.1", "[2001:db8::1]:80", Code::InvalidTrace),
    ] {
        assert_eq!(
            Question::parse(from, to, find).unwrap_err().code,
            code,
            "{from} {to}"
        );
    }
    let ping = Question::parse("host", "fd00:1::15", find).unwrap();
    assert_eq!((ping.port, ping.to.is_ipv6()), (None, true));
    let outside = Question::parse("2001:db8::7", "c10:53/udp", find).unwrap();
    assert_eq!(outside.port, Some((Proto::Udp, 53)));
    assert!(outside.to.is_ipv6(), "the address of the asker's family");
}
