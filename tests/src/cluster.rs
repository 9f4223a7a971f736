//! Hosts that share networks: namespaces on one Ethernet, with Debian's etcd in namespaces beside them.

use std::net::IpAddr;
use std::time::Duration;

use crate::etcd::{self, Member};
use crate::host::Host;
use crate::lab::{self, Netns};

/// How long hosts may take to know each other.
const SETTLES: Duration = Duration::from_secs(30);
/// The underlay of a laboratory.
const UNDERLAY4: &str = "192.0.2";
const UNDERLAY6: &str = "fd02:";

/// A laboratory: hosts, a switch between them, a store.
#[derive(Debug)]
pub struct Cluster {
    /// The hosts.
    pub hosts: Vec<Host>,
    /// The Ethernet between them: port N leads to host N, those behind to the members of the store.
    pub switch: Netns,
    /// The members of the store.
    pub store: Vec<Member>,
}

impl Cluster {
    /// Hosts of these names, with a store of so many members. Their daemons run and have reached the store.
    pub fn start(names: &[&str], members: usize) -> Self {
        let mut cluster = Self::prepare(names, members);
        cluster.start_daemons();
        cluster
    }

    /// The same before the daemons are started.
    pub fn prepare(names: &[&str], members: usize) -> Self {
        etcd::program();
        let hosts: Vec<Netns> = names.iter().map(|name| Netns::host(name)).collect();
        let stores: Vec<Netns> = (0..members)
            .map(|n| Netns::host(&format!("etcd{n}")))
            .collect();
        let address = |n: usize| {
            [
                format!("{UNDERLAY4}.{n}/24"),
                format!("{UNDERLAY6}:{n:x}/64"),
            ]
        };
        let mut addresses: Vec<[String; 2]> = (1..=hosts.len()).map(address).collect();
        addresses.extend((0..members).map(|n| address(100 + n)));
        let words: Vec<[&str; 2]> = addresses
            .iter()
            .map(|[v4, v6]| [v4.as_str(), v6.as_str()])
            .collect();
        let all = hosts.iter().chain(&stores);
        let ends: Vec<_> = all
            .zip(&words)
            .map(|(netns, words)| netns.end("eth0", words))
            .collect();
        let switch = lab::lan(&ends);
        let peers: Vec<String> = (0..members)
            .map(|n| format!("etcd{n}=http://{UNDERLAY4}.{}:2380", 100 + n))
            .collect();
        let store: Vec<Member> = stores
            .into_iter()
            .enumerate()
            .map(|(n, netns)| {
                let address = format!("{UNDERLAY4}.{}", 100 + n);
                let mut member = Member::new(netns, address, &format!("etcd{n}"), &peers);
                member.start();
                member
            })
            .collect();
        let endpoints: Vec<String> = store
            .iter()
            .map(|member| format!("{}:2379", member.address))
            .collect();
        let hosts = hosts.into_iter().map(|netns| {
            let name = netns.name().to_owned();
            let mut host = Host::prepare(netns);
            host.set_resolvers("");
            host.add_args(&[
                &format!("--store=etcd://{}", endpoints.join(",")),
                &format!("--node-name={name}"),
            ]);
            host
        });
        Self {
            hosts: hosts.collect(),
            switch,
            store,
        }
    }

    /// Starts the daemons and waits until each has reached the store and is known to all others.
    pub fn start_daemons(&mut self) {
        for host in &mut self.hosts {
            host.start_daemon();
        }
        self.settle();
    }

    /// Waits until every host is connected and sees all others alive.
    pub fn settle(&self) {
        for host in &self.hosts {
            let what = format!("{} sees all hosts", host.netns.name());
            lab::wait_for(&what, SETTLES, || {
                let nodes = host.api("GET", "/v1/nodes", "").body;
                let nodes = nodes.as_array().cloned().unwrap_or_default();
                let alive = nodes.iter().filter(|node| node["state"] == "alive");
                alive.count() == self.hosts.len()
            });
        }
    }

    /// Creates an overlay network on the first host and waits until all see it.
    pub fn network(&self, name: &str, args: &[&str]) -> serde_json::Value {
        let mut words = vec!["network", "create", name, "--driver", "overlay"];
        words.extend(args);
        let made = self.hosts[0].ok(&words);
        for host in &self.hosts {
            let what = format!("{} sees network {name}", host.netns.name());
            lab::wait_for(&what, SETTLES, || {
                host.netctl(&["network", "inspect", name]).code == 0
            });
        }
        made
    }

    /// The underlay's addresses of the n-th host, counted from 0.
    pub fn address(&self, n: usize) -> [IpAddr; 2] {
        let texts = [
            format!("{UNDERLAY4}.{}", n + 1),
            format!("{UNDERLAY6}:{:x}", n + 1),
        ];
        texts.map(|text| text.parse().expect("an address"))
    }

    /// Sets the MTU of all of the underlay.
    pub fn set_mtu(&self, mtu: u32) {
        let all = self.hosts.iter().map(|host| &host.netns);
        let all = all.chain(self.store.iter().map(|member| &member.netns));
        for (n, netns) in all.enumerate() {
            netns.set_link("eth0", |link| link.mtu(mtu));
            self.switch
                .set_link(&format!("port{n}"), |link| link.mtu(mtu));
        }
        self.switch.set_link("lan", |link| link.mtu(mtu));
    }
}

/// The addresses of the first endpoint in the answer to an attach.
pub fn addresses(attached: &serde_json::Value) -> Vec<IpAddr> {
    let endpoint = &attached["endpoints"][0];
    [&endpoint["ipv4"], &endpoint["ipv6"]]
        .into_iter()
        .filter_map(|text| text.as_str()?.split('/').next()?.parse().ok())
        .collect()
}
