//! Many hosts in one process, with a store, a network and a clock that are not real: the cluster logic of all of them, seeded,
//! through partitions, crashes, lost watches, compaction, and stores that are emptied or restored.
//!
//! Each host is a [`Core`] and the little that an owner does with it: it gives addresses of what it has claimed to containers,
//! and believes what it is told. The checkers know everything:
//! - no two containers ever have one address;
//! - what a host believes of another's containers is only ever taken back by their owner, or with the owner;
//! - once all is well again every host believes exactly what is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use netd_model::id::{ContainerId, Name, NetworkId};
use netd_model::net::{IfName, Mac, Prefix};
use netd_model::overlay::Overlay;
use netd_model::record::{Driver, Mode, Network, Policy, Subnet, Unknown};

use super::claims::{Ask, Want, router_address};
use super::core::{Core, Input, Link, Output, Safeguards, Token, Wish};
use super::keys::Key;
use super::memory::Memory;
use super::mirror::News;
use super::records::{self, Claim, Node, Station};
use super::store::{Events, Revision, StoreError};

mod returns;
mod scenarios;

/// A source of numbers that a seed determines.
#[derive(Clone, Debug)]
struct Dice(u64);

impl Dice {
    fn draw(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.draw() % n.max(1) as u64).unwrap_or(0)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.draw().is_multiple_of(n)
    }
}

/// A watch that was opened.
#[derive(Debug)]
struct Watch {
    next: Revision,
}

/// One host.
#[derive(Debug)]
struct Host {
    name: Name,
    node: Node,
    core: Option<Core>,
    /// What its disk holds of the cluster.
    disk: BTreeMap<String, Vec<u8>>,
    /// Answers on their way: when they arrive.
    mail: VecDeque<(Duration, Mail)>,
    watch: Option<Watch>,
    /// Its containers and their addresses: what runs there, whether a daemon does or not.
    containers: BTreeMap<ContainerId, IpAddr>,
    /// What it has claimed, as its core told it.
    claims: BTreeMap<Prefix, bool>,
    /// What it believes of others' containers.
    believed: BTreeMap<(Name, ContainerId), IpAddr>,
    /// Whether a network is between it and the store.
    connected: bool,
    link: Option<Link>,
    waiting: BTreeMap<Token, ContainerId>,
    token: Token,
    alarms: Vec<String>,
    lists: usize,
}

/// What arrives at a host.
#[derive(Debug)]
enum Mail {
    Input(Input),
    /// A watch was opened from here on.
    Watch(Revision),
}

struct World {
    dice: Dice,
    now: Duration,
    store: Memory,
    /// Whether the store answers anybody.
    up: bool,
    hosts: Vec<Host>,
    network: Network,
    safeguards: Safeguards,
    next_container: u64,
    /// Every address that was given to a container, and by whom it is held now.
    held: BTreeMap<IpAddr, (usize, ContainerId)>,
    failures: Vec<String>,
}

fn network() -> Network {
    let id = NetworkId::from_bytes([9; 16]);
    let subnet: Prefix = "10.0.0.0/24".parse().unwrap();
    Network {
        interface: Network::default_interface(&id),
        name: Name::parse("web").unwrap(),
        driver: Driver::Overlay,
        subnets: vec![Subnet {
            subnet,
            gateway: IpAddr::from([10, 0, 0, 1]),
            ip_range: None,
        }],
        internal: false,
        mode: Mode::Nat,
        mode6: None,
        policy: Policy::default(),
        mtu: 1450,
        dns: Vec::new(),
        naming: netd_model::naming::Naming::default(),
        labels: BTreeMap::new(),
        routes: Vec::new(),
        access: netd_model::access::Access::default(),
        reservations: BTreeMap::new(),
        overlay: Some(Overlay {
            vni: 42,
            port: 4789,
            router: None,
        }),
        unknown: Unknown::new(),
        id,
    }
}

impl Host {
    fn new(n: usize) -> Self {
        let name = Name::parse(&format!("h{n}")).unwrap();
        let node = Node {
            id: format!("{n:032x}"),
            incarnation: "0".to_owned(),
            address: IpAddr::from([192, 0, 2, u8::try_from(n % 250).unwrap() + 1]),
            mtu: 1500,
            software: String::new(),
            unknown: Unknown::new(),
        };
        Self {
            name,
            node,
            core: None,
            disk: BTreeMap::new(),
            mail: VecDeque::new(),
            watch: None,
            containers: BTreeMap::new(),
            claims: BTreeMap::new(),
            believed: BTreeMap::new(),
            connected: true,
            link: None,
            waiting: BTreeMap::new(),
            token: 0,
            alarms: Vec::new(),
            lists: 0,
        }
    }

    /// The addresses that it may give out.
    fn free(&self, network: &Network) -> Option<IpAddr> {
        let subnet = &network.subnets[0];
        let used: BTreeSet<IpAddr> = self.containers.values().copied().collect();
        let claims = self.claims.iter();
        let router = claims.clone().find(|(_, router)| **router);
        let router =
            router.and_then(|(prefix, _)| router_address(subnet.subnet, subnet.gateway, *prefix));
        let all = claims.flat_map(|(prefix, _)| addresses(*prefix));
        all.into_iter().find(|ip| {
            !used.contains(ip)
                && Some(*ip) != router
                && *ip != subnet.gateway
                && *ip != subnet.subnet.base()
                && *ip != subnet.subnet.last()
        })
    }

    fn station(ip: IpAddr) -> Station {
        Station {
            mac: Mac::of_address(ip),
            ips: vec![ip],
            name: None,
            hostname: None,
            aliases: Vec::new(),
            unknown: Unknown::new(),
        }
    }

    fn key(&self, net: &NetworkId, id: &ContainerId) -> Key {
        Key::Endpoint(self.name.clone(), net.clone(), id.clone())
    }
}

fn addresses(prefix: Prefix) -> Vec<IpAddr> {
    let (IpAddr::V4(first), IpAddr::V4(last)) = (prefix.base(), prefix.last()) else {
        return Vec::new();
    };
    (first.to_bits()..=last.to_bits())
        .map(|bits| IpAddr::V4(bits.into()))
        .collect()
}

impl World {
    fn new(seed: u64, hosts: usize, safeguards: Safeguards) -> Self {
        let mut world = Self {
            dice: Dice(seed),
            now: Duration::from_secs(1),
            store: Memory::default(),
            up: true,
            hosts: (0..hosts).map(Host::new).collect(),
            network: network(),
            safeguards,
            next_container: 1,
            held: BTreeMap::new(),
            failures: Vec::new(),
        };
        for n in 0..hosts {
            world.start(n);
        }
        world.run(Duration::from_secs(3));
        let record = Box::new(world.network.clone());
        world.ask(0, Wish::CreateNetwork(record));
        world.run(Duration::from_secs(2));
        world
    }

    /// Starts the daemon of a host: with what its disk holds, and the containers that run on it.
    fn start(&mut self, n: usize) {
        let seed = self.dice.draw();
        let safeguards = self.safeguards;
        let host = &mut self.hosts[n];
        host.node.incarnation = format!("{seed:x}");
        let view = host
            .disk
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let core = Core::new(host.name.clone(), host.node.clone(), view, seed).without(safeguards);
        host.claims.clear();
        host.believed.clear();
        let restored = core.restored();
        host.core = Some(core);
        self.news(n, restored);
        let host = &self.hosts[n];
        let own = host.containers.iter().map(|(id, ip)| {
            let key = host.key(&self.network.id, id);
            (key, Some(records::write(&Host::station(*ip))))
        });
        let own: Vec<_> = own.collect();
        self.step(n, Input::Own(own));
        self.step(n, Input::Tick);
    }

    /// kill -9 of a daemon: what was not on disk is forgotten; its containers run on.
    fn kill(&mut self, n: usize) {
        let host = &mut self.hosts[n];
        host.core = None;
        host.mail.clear();
        host.watch = None;
        host.waiting.clear();
    }

    /// A host that loses its power: its containers end too.
    fn crash(&mut self, n: usize) {
        self.kill(n);
        let gone: Vec<IpAddr> = self.hosts[n].containers.values().copied().collect();
        for ip in gone {
            self.held.remove(&ip);
        }
        self.hosts[n].containers.clear();
    }

    fn ask(&mut self, n: usize, wish: Wish) -> Token {
        let host = &mut self.hosts[n];
        host.token += 1;
        let token = host.token;
        self.step(n, Input::Ask(token, wish));
        token
    }

    /// A container starts: with an address of the host's own, or when one was claimed.
    fn attach(&mut self, n: usize) {
        let id = ContainerId::parse(&format!("c{}", self.next_container)).unwrap();
        self.next_container += 1;
        if !self.give(n, &id) {
            let subnet = &self.network.subnets[0];
            let want = Want {
                subnet: subnet.subnet,
                gateway: subnet.gateway,
                ip: None,
                router: !self.hosts[n].claims.values().any(|router| *router),
            };
            let ask = Ask {
                network: self.network.id.clone(),
                name: self.network.name.clone(),
                wants: vec![want],
            };
            if self.hosts[n].core.is_some() {
                let token = self.hosts[n].token + 1;
                self.hosts[n].waiting.insert(token, id);
                self.ask(n, Wish::Claim(ask));
            }
        }
    }

    fn give(&mut self, n: usize, id: &ContainerId) -> bool {
        let host = &self.hosts[n];
        let Some(ip) = host.free(&self.network).filter(|_| host.core.is_some()) else {
            return false;
        };
        if let Some((other, theirs)) = self.held.insert(ip, (n, id.clone())) {
            let now = self.now;
            self.failures.push(format!(
                "{now:?}: h{n} gives {ip} to {id}, which h{other} gave to {theirs}"
            ));
        }
        let key = host.key(&self.network.id, id);
        self.hosts[n].containers.insert(id.clone(), ip);
        self.step(
            n,
            Input::Own(vec![(key, Some(records::write(&Host::station(ip))))]),
        );
        true
    }

    fn detach(&mut self, n: usize) {
        let host = &self.hosts[n];
        let count = host.containers.len();
        if count == 0 || host.core.is_none() {
            return;
        }
        let at = self.dice.below(count);
        let id = self.hosts[n].containers.keys().nth(at).unwrap().clone();
        let ip = self.hosts[n].containers.remove(&id).unwrap();
        self.held.remove(&ip);
        let key = self.hosts[n].key(&self.network.id, &id);
        self.step(n, Input::Own(vec![(key, None)]));
    }

    // ---- the machinery --------------------------------------------------------------------------------------------

    fn step(&mut self, n: usize, input: Input) {
        let now = self.now;
        let Some(core) = &mut self.hosts[n].core else {
            return;
        };
        let outputs = core.step(input, now);
        for output in outputs {
            self.carry_out(n, output);
        }
    }

    fn answer(&mut self, n: usize, mail: Mail) {
        let delay = Duration::from_micros(200 + self.dice.draw() % 20_000);
        let at = self.now + delay;
        self.hosts[n].mail.push_back((at, mail));
    }

    fn reaches(&self, n: usize) -> bool {
        self.up && self.hosts[n].connected
    }

    fn dead() -> StoreError {
        StoreError::Unavailable("the store does not answer".to_owned())
    }

    fn carry_out(&mut self, n: usize, output: Output) {
        let reached = self.reaches(n);
        let now = self.now;
        match output {
            Output::List => {
                self.hosts[n].watch = None;
                self.hosts[n].lists += 1;
                let listing = if reached {
                    Ok(self.store.list())
                } else {
                    Err(Self::dead())
                };
                self.answer(n, Mail::Input(Input::Listed(listing)));
            }
            Output::Watch(from) => {
                if reached {
                    self.answer(n, Mail::Watch(from));
                } else {
                    self.answer(n, Mail::Input(Input::Watching(Err(Self::dead()))));
                }
            }
            Output::Txn(number, txn) => {
                let end = if reached {
                    self.store.txn(&txn)
                } else {
                    Err(Self::dead())
                };
                // Done, but nobody heard of it.
                let lost = self.dice.one_in(50);
                let end = if lost { Err(Self::dead()) } else { end };
                self.answer(n, Mail::Input(Input::Ended(number, end)));
            }
            Output::TxnAfter(number, kept, txn) => {
                self.carry_out(n, Output::Save(kept));
                self.carry_out(n, Output::Txn(number, txn));
            }
            Output::Grant => {
                let lease = if reached {
                    Ok(self.store.grant(super::core::LEASE, now))
                } else {
                    Err(Self::dead())
                };
                self.answer(n, Mail::Input(Input::Granted(lease)));
            }
            Output::Keep(lease) => {
                let kept = if reached {
                    self.store.keep_alive(lease, now)
                } else {
                    Err(Self::dead())
                };
                self.answer(n, Mail::Input(Input::Kept(kept)));
            }
            Output::News(news) => self.news(n, news),
            Output::Reply(token, answer) => {
                if let (Some(id), Ok(())) = (self.hosts[n].waiting.remove(&token), answer) {
                    self.give(n, &id);
                }
            }
            Output::Save(keys) => {
                for (key, value) in keys {
                    match value {
                        Some(value) => self.hosts[n].disk.insert(key, value),
                        None => self.hosts[n].disk.remove(&key),
                    };
                }
            }
            Output::Alarm(text) => self.hosts[n].alarms.push(text),
        }
    }

    fn news(&mut self, n: usize, news: Vec<News>) {
        for one in news {
            match one {
                News::Endpoint(node, _, id, station) if node != self.hosts[n].name => {
                    self.believe(n, (node, id), station.as_ref());
                }
                News::Claim(_, prefix, claim) => {
                    let me = &self.hosts[n].node.id;
                    let mine = |claim: &Claim| claim.node.is_some() && claim.id == *me;
                    match claim.filter(mine) {
                        Some(claim) => self.hosts[n].claims.insert(prefix, claim.router),
                        None => self.hosts[n].claims.remove(&prefix),
                    };
                }
                News::Link(link) => self.hosts[n].link = Some(link),
                _ => {}
            }
        }
    }

    fn believe(&mut self, n: usize, key: (Name, ContainerId), station: Option<&Station>) {
        if let Some(station) = station {
            self.hosts[n].believed.insert(key, station.ips[0]);
            return;
        }
        let (node, id) = &key;
        let mut hosts = self.hosts.iter();
        let runs = hosts.any(|host| host.name == *node && host.containers.contains_key(id));
        if self.hosts[n].believed.remove(&key).is_some() && runs {
            let now = self.now;
            self.failures
                .push(format!("{now:?}: h{n} forgot {key:?}, which runs"));
        }
    }

    /// Lets time pass.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(5);
            self.store.expire(self.now);
            for n in 0..self.hosts.len() {
                self.deliver(n);
                let due = self.hosts[n]
                    .core
                    .as_ref()
                    .is_some_and(|core| core.due() <= self.now);
                if due {
                    self.step(n, Input::Tick);
                }
            }
        }
    }

    fn deliver(&mut self, n: usize) {
        while let Some((at, _)) = self.hosts[n].mail.front() {
            if *at > self.now {
                break;
            }
            match self.hosts[n].mail.pop_front() {
                Some((_, Mail::Input(input))) => self.step(n, input),
                Some((_, Mail::Watch(next))) => {
                    self.hosts[n].watch = Some(Watch { next });
                    self.step(n, Input::Watching(Ok(())));
                }
                None => {}
            }
        }
        self.tell(n);
    }

    /// What a watch has to tell.
    fn tell(&mut self, n: usize) {
        if !self.reaches(n) {
            return;
        }
        let Some(watch) = &mut self.hosts[n].watch else {
            return;
        };
        let told: Result<Events, StoreError> = self.store.since(watch.next);
        watch.next = self.store.revision() + 1;
        match told {
            Ok(events) if events.is_empty() => {}
            Ok(events) => self.step(n, Input::Watched(Ok(events))),
            Err(error) => {
                self.hosts[n].watch = None;
                self.step(n, Input::Watched(Err(error)));
            }
        }
    }

    /// A network between a host and the store breaks: what is open ends.
    fn cut(&mut self, n: usize) {
        self.hosts[n].connected = false;
        self.hosts[n].watch = None;
        self.hosts[n].mail.clear();
        self.step(n, Input::Watched(Err(Self::dead())));
        // What was asked is never answered but by that.
    }

    fn heal(&mut self) {
        self.up = true;
        for n in 0..self.hosts.len() {
            self.hosts[n].connected = true;
            if self.hosts[n].core.is_none() {
                self.start(n);
            }
        }
    }

    /// Once all is well every host believes exactly what is.
    fn check(&mut self) {
        self.heal();
        self.run(Duration::from_secs(60));
        let mut truth = BTreeMap::new();
        for host in &self.hosts {
            for (id, ip) in &host.containers {
                truth.insert((host.name.clone(), id.clone()), *ip);
            }
        }
        for host in &self.hosts {
            let others = truth.iter().filter(|((node, _), _)| *node != host.name);
            let others: BTreeMap<_, _> = others.map(|(key, ip)| (key.clone(), *ip)).collect();
            if host.link != Some(Link::Online) {
                self.failures
                    .push(format!("{} is not online: {:?}", host.name, host.link));
            }
            for (key, ip) in &others {
                if host.believed.get(key) != Some(ip) {
                    self.failures
                        .push(format!("{} does not know {key:?}", host.name));
                }
            }
            for key in host
                .believed
                .keys()
                .filter(|key| !others.contains_key(*key))
            {
                self.failures
                    .push(format!("{} believes in {key:?}", host.name));
            }
        }
    }
}

#[test]
fn the_interface_of_the_simulated_network_is_derived() {
    assert_eq!(network().interface, IfName::parse("nd-09090909").unwrap());
}
