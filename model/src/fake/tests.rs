use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::access::Access;
use crate::desired;
use crate::diff::diff;
use crate::id::{ContainerId, Name, NetworkId};
use crate::net::{Family, IfName, Mac, Prefix, Proto};
use crate::observed::HostFacts;
use crate::overlay;
use crate::record::{
    Container, Driver, Endpoint, Mode, Network, Phase, Policy, Port, StaticRoute, Subnet,
};
use crate::request::Attach;

/// Number 3 has two subnets of each family, the others one.
pub(crate) fn network(n: u8, ipv6: bool, internal: bool) -> Network {
    let subnet = |text: String| {
        let subnet: Prefix = text.parse().unwrap();
        crate::request::SubnetSpec {
            subnet,
            gateway: None,
            ip_range: None,
        }
        .with_gateway()
    };
    let mut subnets: Vec<Subnet> = vec![subnet(format!("10.{n}.0.0/16"))];
    if ipv6 {
        subnets.push(subnet(format!("fd00:{n}::/64")));
    }
    if n == 3 {
        subnets.push(subnet("10.103.0.0/24".to_owned()));
        subnets.extend(ipv6.then(|| subnet("fd00:103::/64".to_owned())));
    }
    let id = NetworkId::from_bytes([n; 16]);
    Network {
        interface: Network::default_interface(&id),
        id,
        name: Name::parse(&format!("net{n}")).unwrap(),
        driver: Driver::Bridge,
        subnets,
        internal,
        mode: Mode::Nat,
        mode6: None,
        policy: Policy::default(),
        mtu: 1500,
        dns: Vec::new(),
        naming: crate::naming::Naming::default(),
        labels: BTreeMap::new(),
        // Two networks have the same destinations.
        routes: vec![StaticRoute {
            destination: format!("192.168.{}.0/24", n % 2).parse().unwrap(),
            gateway: None,
            metric: 0,
        }],
        access: Access {
            allow_from: vec![
                "198.51.100.0/24".parse().unwrap(),
                "2001:db8:8::/48".parse().unwrap(),
            ],
            block_from: vec![
                "198.51.100.9/32".parse().unwrap(),
                "2001:db8:9::/48".parse().unwrap(),
            ],
        },
        reservations: BTreeMap::new(),
        overlay: None,
        unknown: serde_json::Map::new(),
    }
}

/// On a network with two subnets of a family, odd containers are in the second.
pub(crate) fn container(n: u8, networks: &[&Network], ports: Vec<Port>) -> Container {
    let id = ContainerId::from_bytes([n; 32]);
    let endpoint = |(at, network): (usize, &&Network)| {
        let of_family = |family| {
            let subnets: Vec<&Subnet> = network.subnets_of(family).collect();
            subnets.get(usize::from(n) % subnets.len().max(1)).copied()
        };
        let ips: Vec<IpAddr> = desired::FAMILIES
            .into_iter()
            .filter_map(of_family)
            .map(|s| match s.subnet.base() {
                IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() + 10 + u32::from(n)).into()),
                IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() + 10 + u128::from(n)).into()),
            })
            .collect();
        Endpoint {
            network: network.id.clone(),
            ifname: IfName::parse(&format!("eth{at}")).unwrap(),
            host_ifname: Endpoint::host_ifname(&id, &network.id),
            mac: Mac::of_address(ips[0]),
            ips,
            aliases: Vec::new(),
            cni: None,
            allow: vec!["10.99.0.0/24".parse().unwrap()],
            // The default route changes hands as networks come and go.
            gw_priority: i32::from(u8::from(network.id[..2] == *"02")),
            sysctls: [("net/ipv4/conf/IFNAME/rp_filter".to_owned(), "2".to_owned())].into(),
            unknown: serde_json::Map::new(),
        }
    };
    let name = Name::parse(&format!("c{n}")).unwrap();
    Container {
        endpoints: networks.iter().enumerate().map(endpoint).collect(),
        hostname: name.to_string(),
        netns: format!("/ns/{n}"),
        netns_identity: (1, u64::from(n)),
        ports,
        dns: Vec::new(),
        extra_hosts: Vec::new(),
        labels: BTreeMap::new(),
        phase: Phase::Attached,
        request: Attach {
            id: None,
            name: name.clone(),
            hostname: name.to_string(),
            netns: String::new(),
            networks: Vec::new(),
            publish: Vec::new(),
            dns: Vec::new(),
            extra_hosts: Vec::new(),
            labels: BTreeMap::new(),
        },
        unknown: serde_json::Map::new(),
        name,
        id,
    }
}

/// An overlay network that this host has a part in.
pub(crate) fn overlaid(n: u8) -> Network {
    Network {
        driver: Driver::Overlay,
        overlay: Some(overlay::Overlay {
            vni: 0x0080_0001,
            port: 4789,
            udpcsum: true,
            router: Some(place(2, "192.0.2.1")),
        }),
        ..network(n, true, false)
    }
}

pub(crate) fn place(n: u8, host: &str) -> overlay::Place {
    overlay::Place {
        mac: Mac::of_address(IpAddr::from([10, 7, 0, n])),
        ips: vec![
            IpAddr::from([10, 7, 0, n]),
            format!("fd00:7::{n}").parse().unwrap(),
        ],
        host: host.parse().unwrap(),
    }
}

/// A small host: what exists, and the objects it wants.
#[derive(Clone, Debug, Default)]
struct Host {
    networks: BTreeMap<u8, Network>,
    containers: BTreeMap<u8, Container>,
    facts: HostFacts,
}

impl Host {
    fn objects(&self) -> Vec<Object> {
        let needed: BTreeSet<Family> = self
            .networks
            .values()
            .flat_map(|n| desired::forwarding_needed(n).collect::<Vec<_>>())
            .collect();
        let mut objects = desired::host(
            &desired::host_changes(&self.facts, &needed),
            self.facts.bridge_tables,
        );
        for network in self.networks.values() {
            objects.extend(desired::network(network, &self.facts));
        }
        let find = |id: &NetworkId| self.networks.values().find(|n| n.id == *id);
        for container in self.containers.values() {
            objects.extend(desired::container(container, find, &self.facts));
        }
        objects
    }
}

fn bridge_netfilter() -> impl Strategy<Value = BTreeSet<Family>> {
    prop::sample::subsequence(desired::FAMILIES.to_vec(), 0..=2)
        .prop_map(|families| families.into_iter().collect())
}

fn mode() -> impl Strategy<Value = Mode> {
    prop::sample::select(vec![Mode::Nat, Mode::Routed, Mode::Isolated])
}

fn policy() -> impl Strategy<Value = Policy> {
    (any::<[bool; 5]>(), any::<bool>(), any::<bool>()).prop_map(|(on, snat, trusted)| Policy {
        icc: on[0],
        host_access: on[1],
        antispoof: on[2],
        snat: snat
            .then(|| IpAddr::from([192, 0, 2, 1]))
            .into_iter()
            .collect(),
        trusted: trusted
            .then(|| IfName::parse("wg0").unwrap())
            .into_iter()
            .collect(),
        non_masquerade: on[3].then(cluster).into_iter().flatten().collect(),
        l3: on[4],
    })
}

/// The prefixes of a cluster.
pub(crate) fn cluster() -> Vec<Prefix> {
    let parse = |text: &str| text.parse().unwrap();
    ["10.244.0.0/16", "fd00:244::/32"].map(parse).to_vec()
}

#[derive(Clone, Debug)]
enum Step {
    Network {
        n: u8,
        ipv6: bool,
        internal: bool,
        modes: (Mode, Option<Mode>),
        policy: Policy,
    },
    DropNetwork(u8),
    Attach {
        n: u8,
        networks: Vec<u8>,
        port: Option<(bool, u16)>,
    },
    Detach(u8),
    /// Somebody removes the object of this number.
    Tamper(usize),
    BridgeNetfilter(BTreeSet<Family>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (
            1u8..4,
            any::<bool>(),
            any::<bool>(),
            (mode(), prop::option::of(mode())),
            policy()
        )
            .prop_map(|(n, ipv6, internal, modes, policy)| Step::Network {
                n,
                ipv6,
                internal,
                modes,
                policy
            }),
        (1u8..4).prop_map(Step::DropNetwork),
        (
            1u8..6,
            prop::collection::vec(1u8..4, 1..3),
            prop::option::of((any::<bool>(), 1u16..50))
        )
            .prop_map(|(n, networks, port)| Step::Attach { n, networks, port }),
        (1u8..6).prop_map(Step::Detach),
        any::<prop::sample::Index>().prop_map(|at| Step::Tamper(at.index(10_000))),
        bridge_netfilter().prop_map(Step::BridgeNetfilter),
    ]
}

fn advance(host: &mut Host, kernel: &mut Observed, step: Step) {
    match step {
        Step::Network {
            n,
            ipv6,
            internal,
            modes: (mode, mode6),
            policy,
        } => {
            host.networks.entry(n).or_insert_with(|| Network {
                mode,
                mode6,
                policy,
                ..network(n, ipv6, internal)
            });
        }
        Step::DropNetwork(n) => {
            let used = |id: &NetworkId| {
                host.containers
                    .values()
                    .any(|c| c.endpoints.iter().any(|e| e.network == *id))
            };
            if host.networks.get(&n).is_some_and(|net| !used(&net.id)) {
                host.networks.remove(&n);
            }
        }
        Step::Attach { n, networks, port } => {
            let mut joined: Vec<&Network> = Vec::new();
            for network in networks.iter().filter_map(|n| host.networks.get(n)) {
                if joined.iter().all(|other| other.id != network.id) {
                    joined.push(network);
                }
            }
            let ports = port
                .map(|(udp, number)| Port {
                    proto: if udp { Proto::Udp } else { Proto::Tcp },
                    host_ip: None,
                    // Two containers never publish one port: the reservation above the model sees to that.
                    host_port: number * 10 + u16::from(n),
                    container_port: 80,
                    access: Access {
                        allow_from: vec!["203.0.113.0/24".parse().unwrap()],
                        block_from: Vec::new(),
                    },
                })
                .into_iter()
                .collect();
            let made = container(n, &joined, ports);
            host.containers.entry(n).or_insert(made);
        }
        Step::Detach(n) => {
            host.containers.remove(&n);
        }
        Step::Tamper(at) => {
            let removable: Vec<Object> = kernel
                .objects
                .values()
                .filter(|object| !matches!(object, Object::Sysctl(_) | Object::Loopback(_)))
                .cloned()
                .collect();
            if let Some(object) = removable.get(at % removable.len().max(1)) {
                kernel.apply(&Op::Remove(object.clone())).unwrap();
            }
        }
        Step::BridgeNetfilter(families) => {
            host.facts.bridge_netfilter = families;
        }
    }
}

fn apply_all(kernel: &mut Observed, ops: &[Op]) {
    for op in ops {
        kernel
            .apply(op)
            .unwrap_or_else(|refusal| panic!("{op}: {refusal}\nplan: {ops:#?}"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// After any sequence of requests and of tampering: apply the plan, observe, and the plan is empty.
    #[test]
    fn a_plan_is_complete_and_applicable(steps in prop::collection::vec(step(), 1..25), ipv6 in any::<bool>()) {
        let mut host = Host { facts: HostFacts { ipv6, bridge_tables: true, ..HostFacts::default() }, ..Host::default() };
        let mut kernel = Observed::default();
        for step in steps {
            advance(&mut host, &mut kernel, step);
            let wanted = host.objects();
            let plan = diff(&wanted, &kernel, |_| true);
            prop_assert!(plan.orphans.is_empty());
            let text = serde_json::to_string(&plan.ops).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Vec<Op>>(&text).unwrap(), &plan.ops);
            apply_all(&mut kernel, &plan.ops);
            let again = diff(&wanted, &kernel, |_| true);
            prop_assert_eq!(&again.ops, &Vec::new());
        }
    }

    /// An attach and its detach cancel exactly; so do an attach and its roll-back from any point.
    #[test]
    fn attach_and_detach_cancel(ipv6 in any::<bool>(), bridge_netfilter in bridge_netfilter(), stop in 0usize..40) {
        let mut host = Host { facts: HostFacts { ipv6, bridge_netfilter, bridge_tables: true, ..HostFacts::default() }, ..Host::default() };
        host.networks.insert(1, network(1, true, false));
        host.networks.insert(2, network(2, false, true));
        let mut kernel = Observed::default();
        let networks = diff(&host.objects(), &kernel, |_| true).ops;
        apply_all(&mut kernel, &networks);
        let before = kernel.clone();
        let udp = Port { proto: Proto::Udp, host_ip: None, host_port: 53, container_port: 53, access: Access::default() };
        let joined = [&host.networks[&1], &host.networks[&2]];
        let made = container(7, &joined, vec![udp]);
        host.containers.insert(7, made);
        let attach = diff(&host.objects(), &kernel, |_| true).ops;

        let done = stop.min(attach.len());
        let mut rolled_back = kernel.clone();
        apply_all(&mut rolled_back, &attach[..done]);
        let inverse: Vec<Op> = attach[..done].iter().rev().filter_map(Op::inverse).collect();
        apply_all(&mut rolled_back, &inverse);
        prop_assert_eq!(settled(rolled_back), settled(before.clone()));

        apply_all(&mut kernel, &attach);
        host.containers.remove(&7);
        let detach = diff(&host.objects(), &kernel, |_| true).ops;
        apply_all(&mut kernel, &detach);
        prop_assert_eq!(settled(kernel), settled(before));
    }
}

/// Without what is never removed: `lo` stays up.
fn settled(mut kernel: Observed) -> Observed {
    kernel
        .objects
        .retain(|_, object| !matches!(object, Object::Loopback(_)));
    kernel
}

#[test]
fn every_element_fits_its_set() {
    let host = Host {
        networks: [(1, network(1, true, false)), (2, network(2, true, true))].into(),
        containers: BTreeMap::new(),
        facts: HostFacts {
            ipv6: true,
            bridge_tables: true,
            ..HostFacts::default()
        },
    };
    let mut host = host;
    let both = ["192.0.2.0/24", "2001:db8::/32"].map(|text| text.parse().unwrap());
    let lists = Access {
        allow_from: both.to_vec(),
        block_from: both.to_vec(),
    };
    let port = |ip: Option<&str>, host_port| Port {
        proto: Proto::Tcp,
        host_ip: ip.map(|ip| ip.parse().unwrap()),
        host_port,
        container_port: 80,
        access: lists.clone(),
    };
    let ports = vec![
        port(None, 1),
        port(Some("127.0.0.1"), 2),
        port(Some("::1"), 3),
        port(Some("192.0.2.1"), 4),
        port(Some("2001:db8::1"), 5),
    ];
    let policy = Policy {
        icc: false,
        snat: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        trusted: vec![IfName::parse("wg0").unwrap()],
        non_masquerade: cluster(),
        ..Policy::default()
    };
    let apart = Network {
        policy,
        ..network(5, true, false)
    };
    let routed = Network {
        mode: Mode::Routed,
        policy: Policy {
            l3: true,
            ..Policy::default()
        },
        ..network(6, true, false)
    };
    host.networks.insert(7, overlaid(7));
    let mut made = container(3, &[&host.networks[&1], &routed], ports);
    made.endpoints[0]
        .allow
        .push("2001:db8::/64".parse().unwrap());
    host.containers.insert(3, made);
    let spread = container(4, &[&host.networks[&7]], Vec::new());
    host.containers.insert(4, spread);
    host.networks.insert(5, apart);
    host.networks.insert(6, routed);
    let rulesets = [
        crate::skeleton::host(),
        crate::skeleton::tunnels(),
        crate::skeleton::bridge(),
    ];
    let mut seen = BTreeSet::new();
    let hosts = ["192.0.2.1", "fd02::1"].map(|text| text.parse().unwrap());
    assert!(overlay::tunnels(&[].into(), &hosts.into()).is_empty());
    let mut peers = overlay::tunnels(&[overlay::PORT].into(), &hosts.into());
    let facts = HostFacts {
        ipv6: true,
        ..HostFacts::default()
    };
    peers.extend(overlay::peer(&overlaid(7), &place(3, "192.0.2.1"), &facts));
    for object in host.objects().into_iter().chain(peers) {
        let Object::Element(element) = object else {
            continue;
        };
        let rules = rulesets
            .iter()
            .find(|rules| rules.table == element.key.table)
            .expect("the table exists");
        let set = rules.set(&element.key.set).expect("the set exists");
        let fields: Vec<_> = element
            .key
            .first
            .iter()
            .map(crate::nft::Datum::field)
            .collect();
        assert_eq!(fields, set.key, "{element}");
        assert!(
            element.key.first == element.key.last || set.interval,
            "{element}"
        );
        seen.insert(element.key.set.clone());
    }
    let sets = rulesets.iter().flat_map(|rules| &rules.sets);
    let all: BTreeSet<String> = sets.map(|set| set.name.clone()).collect();
    assert_eq!(seen, all, "every set of the skeleton has a use");
}

#[test]
fn an_object_of_an_unknown_owner_is_an_orphan_and_stays() {
    let net = network(1, false, false);
    let mut kernel = Observed::default();
    let facts = HostFacts::default();
    let wanted = desired::host(&[], HostFacts::default().bridge_tables);
    wanted
        .iter()
        .for_each(|object| kernel.insert(object.clone()));
    desired::network(&net, &facts)
        .into_iter()
        .for_each(|object| kernel.insert(object));
    let plan = diff(&wanted, &kernel, |owner| *owner == Owner::Host);
    assert_eq!(plan.ops, Vec::new());
    let marked = kernel
        .objects
        .values()
        .filter(|object| !matches!(object, Object::Sysctl(_)));
    assert_eq!(plan.orphans.len(), marked.count() - wanted.len());
}
