//! The places: a host with netd, containers on four networks, and two hosts outside.
//!
//! Owns the set-up and what is known about it: who has which address, who publishes what.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use super::table::{Circumstances, Who};
use crate::host::Host;
use crate::lab::{self, Netns, Proto, Server};

/// The port of a container's server that is published where anything is, and that of the other.
pub(super) const CONTAINER_PORT: u16 = 80;
pub(super) const UNPUBLISHED_PORT: u16 = 81;
/// The port of the servers of the hosts.
pub(super) const HOST_PORT: u16 = 9000;

/// The port that is published on 127.0.0.1 and ::1 only.
pub(super) const LOOPBACK_PORT: u16 = 8003;
/// Every published port, on whatever address.
pub(super) const PUBLISHED_PORTS: [u16; 6] = [8001, 8002, 8003, 8004, 8005, 8006];

/// The predefined network; it has IPv4 only.
const PREDEFINED: &str = "bridge";
/// The network that trusts the host behind [`TRUSTED_LINK`].
pub(super) const TRUSTING: &str = "n1";
const TRUSTED_LINK: &str = "wg0";

/// Name, kind, and what `network create` is told beside `--ipv6`.
const NETWORKS: [(&str, Who, &[&str]); 7] = [
    (TRUSTING, Who::Nat, &["--opt", "trusted=wg0"]),
    ("n2", Who::Nat, &[]),
    (PREDEFINED, Who::Nat, &[]),
    ("int1", Who::Internal, &["--internal"]),
    ("apart", Who::Apart, &["--icc=false"]),
    (
        "routed",
        Who::Routed,
        &["--mode", "routed", "--opt", "bridge=br-routed"],
    ),
    ("iso", Who::Isolated, &["--mode", "isolated"]),
];

struct Plan {
    name: &'static str,
    network: &'static str,
    /// Host address (empty: all) and host port; each for TCP and UDP.
    publish: &'static [(&'static str, u16)],
}

const CONTAINERS: [Plan; 13] = [
    Plan {
        name: "a",
        network: "n1",
        publish: &[("", 8001)],
    },
    Plan {
        name: "a2",
        network: "n1",
        publish: &[],
    },
    Plan {
        name: "b",
        network: "n2",
        publish: &[("192.0.2.1", 8002), ("2001:db8::1", 8002)],
    },
    Plan {
        name: "c",
        network: "n2",
        // The first pair is b's port on other addresses.
        publish: &[
            ("192.0.2.2", 8002),
            ("2001:db8::2", 8002),
            ("127.0.0.1", 8003),
            ("::1", 8003),
        ],
    },
    Plan {
        name: "d",
        network: PREDEFINED,
        publish: &[("", 8004)],
    },
    Plan {
        name: "i1",
        network: "int1",
        publish: &[],
    },
    Plan {
        name: "i2",
        network: "int1",
        publish: &[],
    },
    Plan {
        name: "p1",
        network: "apart",
        publish: &[("", 8006)],
    },
    Plan {
        name: "p2",
        network: "apart",
        publish: &[],
    },
    Plan {
        name: "r1",
        network: "routed",
        publish: &[("", 8005)],
    },
    Plan {
        name: "r2",
        network: "routed",
        publish: &[],
    },
    Plan {
        name: "s1",
        network: "iso",
        publish: &[],
    },
    Plan {
        name: "s2",
        network: "iso",
        publish: &[],
    },
];

/// Whether a container of a routed network answers at its own address on this port.
pub(super) fn is_open(place: &Place, port: u16) -> bool {
    let mut plans = CONTAINERS.iter().filter(|plan| plan.name == place.name);
    port == CONTAINER_PORT && plans.any(|plan| !plan.publish.is_empty())
}

/// A host outside and its wire: name, the host's link, the host's and its own addresses.
type Wire = (
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);
const WIRES: [Wire; 3] = [
    (
        "outside",
        "wan",
        &[
            "192.0.2.1/24",
            "192.0.2.2/24",
            "2001:db8::1/64",
            "2001:db8::2/64",
        ],
        &["192.0.2.9/24", "2001:db8::9/64"],
    ),
    (
        "beyond",
        "lan",
        &["198.51.100.1/24", "2001:db8:1::1/64"],
        &["198.51.100.9/24", "2001:db8:1::9/64"],
    ),
    (
        "vpn",
        TRUSTED_LINK,
        &["203.0.113.1/24", "2001:db8:2::1/64"],
        &["203.0.113.9/24", "2001:db8:2::9/64"],
    ),
];

/// Somebody who can ask and answer.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) name: &'static str,
    pub(super) who: Who,
    /// The network of a container.
    pub(super) network: Option<&'static str>,
    /// Its addresses; those of the host without loopback.
    pub(super) ips: Vec<IpAddr>,
    /// The host's addresses where its wire or network ends.
    pub(super) gateways: Vec<IpAddr>,
    /// The host's link there.
    pub(super) link: String,
    /// None is the host.
    netns: Option<Netns>,
}

/// The container in an internal network that has helped itself to a default route.
const BREAKS_OUT: &str = "i1";

impl Place {
    /// Whether this place has a route to an address of the host.
    pub(super) fn is_routed(&self, ip: IpAddr) -> bool {
        !matches!(self.who, Who::Internal | Who::Isolated)
            || self.name == BREAKS_OUT
            || self.gateways.contains(&ip)
    }
}

/// Everything of one run of the table.
#[derive(Debug)]
pub struct World {
    /// The host, with netd.
    pub host: Host,
    /// What the answers to the attaches warned of.
    pub warnings: Vec<Vec<String>>,
    pub(super) places: Vec<Place>,
    pub(super) ipv6: bool,
    _servers: Vec<Server>,
}

impl World {
    /// Builds everything; `prepare` changes the host's namespace before netd starts there.
    pub fn new(now: Circumstances, prepare: impl FnOnce(&Netns)) -> Self {
        let ipv6 = lab::has_ipv6();
        let netns = Netns::host("host");
        netns.filter_bridged(now.bridge_nf);
        set_forwarding(&netns, ipv6);
        let outsiders = WIRES.map(|plan| outsider(&netns, &plan));
        prepare(&netns);
        let host = Host::on(netns);
        let mut world = Self {
            host,
            warnings: Vec::new(),
            places: outsiders.into(),
            ipv6,
            _servers: Vec::new(),
        };
        world.create_networks();
        for plan in &CONTAINERS {
            let place = world.attach(plan);
            world.places.push(place);
        }
        world.add_host();
        let servers = world.places.iter().flat_map(|place| world.serve(place));
        Self {
            _servers: servers.collect(),
            ..world
        }
    }

    pub(super) fn netns<'a>(&'a self, place: &'a Place) -> &'a Netns {
        place.netns.as_ref().unwrap_or(&self.host.netns)
    }

    pub(super) fn place(&self, name: &str) -> &Place {
        let place = self.places.iter().find(|place| place.name == name);
        place.unwrap_or_else(|| panic!("no place is called {name}"))
    }

    /// The container behind a port of an address of the host.
    pub(super) fn published(&self, ip: IpAddr, port: u16) -> Option<&Place> {
        let publishes = |host_ip: Option<IpAddr>| {
            let plan = CONTAINERS.iter().find(|plan| {
                let mut publish = plan.publish.iter();
                publish.any(|(text, number)| *number == port && text.parse().ok() == host_ip)
            });
            plan.map(|plan| self.place(plan.name))
        };
        let behind = publishes(Some(ip)).or_else(|| publishes(None))?;
        behind
            .ips
            .iter()
            .any(|own| same_family(*own, ip))
            .then_some(behind)
    }

    fn create_networks(&self) {
        for (name, _, more) in NETWORKS.iter().filter(|network| network.0 != PREDEFINED) {
            let mut words = vec!["network", "create", *name];
            words.extend(self.ipv6.then_some("--ipv6"));
            words.extend(*more);
            self.host.ok(&words);
        }
    }

    fn attach(&mut self, plan: &Plan) -> Place {
        let netns = Netns::new(plan.name);
        let publish = plan
            .publish
            .iter()
            .filter(|publish| self.ipv6 || !publish.0.contains(':'))
            .flat_map(|(ip, port)| publish_words(ip, *port));
        let publish: Vec<_> = publish.collect();
        let mut words = vec!["--network", plan.network];
        words.extend(publish.iter().flat_map(|text| ["--publish", text.as_str()]));
        let made = self.host.attach(&netns, &words);
        self.warnings.push(strings(&made["warnings"]));
        let network = self.host.ok(&["network", "inspect", plan.network]);
        let place = Place {
            name: plan.name,
            who: who_is_on(plan.network),
            network: Some(plan.network),
            ips: ["ipv4", "ipv6"]
                .into_iter()
                .filter_map(|key| made["endpoints"][0][key].as_str())
                .map(ip_of)
                .collect(),
            gateways: subnets(&network)
                .filter_map(|subnet| subnet["gateway"].as_str())
                .map(ip_of)
                .collect(),
            link: network["interface"].as_str().unwrap_or_default().to_owned(),
            netns: Some(netns),
        };
        if plan.name == BREAKS_OUT {
            for gateway in &place.gateways {
                let netns = self.netns(&place);
                netns.add_route("default", &gateway.to_string());
            }
        }
        place
    }

    /// The host's addresses are those of its wires and the gateways of its networks.
    fn add_host(&mut self) {
        let mut ips: Vec<IpAddr> = Vec::new();
        for gateway in self.places.iter().flat_map(|place| &place.gateways) {
            if !ips.contains(gateway) {
                ips.push(*gateway);
            }
        }
        self.places.push(Place {
            name: "host",
            who: Who::Host,
            network: None,
            ips,
            gateways: Vec::new(),
            link: "lo".to_owned(),
            netns: None,
        });
    }

    fn serve(&self, place: &Place) -> Vec<Server> {
        let ports: &[u16] = match place.network {
            Some(_) => &[CONTAINER_PORT, UNPUBLISHED_PORT],
            None => &[HOST_PORT],
        };
        let netns = self.netns(place);
        let serve = |port: &u16| [Proto::Tcp, Proto::Udp].map(|proto| (proto, *port));
        let all = ports.iter().flat_map(serve);
        all.flat_map(|(proto, port)| serve_everywhere(netns, proto, place.name, port))
            .collect()
    }
}

/// Servers on all addresses of the families that this kernel has.
pub fn serve_everywhere(netns: &Netns, proto: Proto, name: &str, port: u16) -> Vec<Server> {
    let mut ips = vec![IpAddr::from(Ipv4Addr::UNSPECIFIED)];
    ips.extend(lab::has_ipv6().then_some(IpAddr::from(Ipv6Addr::UNSPECIFIED)));
    let addresses = ips.into_iter().map(|ip| (ip, port).into());
    addresses
        .map(|address| netns.serve_on(proto, name, address))
        .collect()
}

pub(super) fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

/// The texts in a JSON list; none where there is no list.
pub fn strings(list: &Value) -> Vec<String> {
    let texts = list.as_array().into_iter().flatten();
    texts
        .filter_map(|text| text.as_str().map(str::to_owned))
        .collect()
}

fn subnets(network: &Value) -> impl Iterator<Item = &Value> {
    network["subnets"].as_array().into_iter().flatten()
}

fn who_is_on(network: &str) -> Who {
    let found = NETWORKS.iter().find(|(name, ..)| *name == network);
    found.expect("a network of the plan").1
}

/// What `--publish` takes for TCP and UDP.
fn publish_words(ip: &str, port: u16) -> [String; 2] {
    let ip = match (ip.is_empty(), ip.contains(':')) {
        (true, _) => String::new(),
        (_, true) => format!("[{ip}]:"),
        (_, false) => format!("{ip}:"),
    };
    ["tcp", "udp"].map(|proto| format!("{ip}{port}:{CONTAINER_PORT}/{proto}"))
}

/// The address of "ADDRESS/LENGTH" or "ADDRESS".
fn ip_of(text: &str) -> IpAddr {
    let ip = text.split('/').next().unwrap_or_default();
    ip.parse().unwrap_or_else(|e| panic!("{text:?}: {e}"))
}

fn of_this_kernel<'a>(addresses: &[&'a str]) -> Vec<&'a str> {
    let ipv6 = lab::has_ipv6();
    let known = addresses.iter().filter(|text| ipv6 || !text.contains(':'));
    known.copied().collect()
}

fn outsider(host: &Netns, (name, link, ours, theirs): &Wire) -> Place {
    let netns = Netns::host(name);
    lab::wire(host, link, ours, &netns, theirs);
    let ips = |list: &[&str]| of_this_kernel(list).into_iter().map(ip_of).collect();
    Place {
        name,
        who: if *link == TRUSTED_LINK {
            Who::Trusted
        } else {
            Who::Outside
        },
        network: None,
        ips: ips(theirs),
        gateways: ips(ours),
        link: (*link).to_owned(),
        netns: Some(netns),
    }
}

/// Switches forwarding off, so that it is netd which switches it on.
fn set_forwarding(host: &Netns, ipv6: bool) {
    host.set_sysctl("net/ipv4/ip_forward", "0");
    if ipv6 {
        host.set_sysctl("net/ipv6/conf/all/forwarding", "0");
    }
}
