//! Many hosts in one process, with a store, a network and a clock that are not real: the cluster logic of all of them, seeded,
//! through partitions, crashes, lost watches, compaction, and stores that are emptied or restored.
//!
//! Each host is a [`Core`] and the little that an owner does with it: it gives addresses of what it has claimed to containers,
//! and believes what it is told. The checkers know everything:
//! - no two containers ever have one address;
//! - what a host believes of another's containers is only ever taken back by their owner, or with the owner;
//! - once all is well again every host believes exactly what is.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use netd_model::id::{ContainerId, Name};
use netd_model::net::IfName;
use netd_model::record::{Network, Unknown};

use super::claims::{Ask, Want};
use super::core::{Core, Input, Link, Output, Safeguards, Token, Wish};
use super::memory::Memory;
use super::mirror::News;
use super::records::{self, Claim, Station};
use super::samples::{network, station};
use super::store::{Events, StoreError, Txn};
use host::{Host, Mail, Watch};

mod host;
mod removal;
mod returns;
mod scenarios;
mod size;

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

/// Rules that a scenario takes away one at a time, to see that each is needed. All are on.
#[derive(Clone, Copy, Debug)]
struct Rules {
    core: Safeguards,
    /// The owner's: a host that gives no sign of life keeps its containers.
    silence_is_a_hint: bool,
    /// The owner's: a claim belongs to who has its id, whatever that one is called.
    claims_go_by_id: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            core: Safeguards::default(),
            silence_is_a_hint: true,
            claims_go_by_id: true,
        }
    }
}

/// What is measured of attaches, from the first step on the host to the moment when another believes in it.
#[derive(Debug, Default)]
struct Watched {
    since: BTreeMap<ContainerId, Duration>,
    /// In simulated time.
    delays: Vec<Duration>,
    /// How long this machine worked on each step that took in what a watch told.
    steps: Vec<Duration>,
    /// The same of lists.
    lists: Vec<Duration>,
}

struct World {
    dice: Dice,
    now: Duration,
    /// How far the clock goes at once.
    tick: Duration,
    /// One answer to a transaction in so many is lost.
    loses: Option<u64>,
    store: Memory,
    /// Whether the store answers anybody.
    up: bool,
    hosts: Vec<Host>,
    network: Network,
    rules: Rules,
    next_container: u64,
    /// How many containers got an address.
    given: u64,
    watched: Option<Watched>,
    /// Every address that was given to a container, and by whom it is held now.
    held: BTreeMap<IpAddr, (usize, ContainerId)>,
    failures: Vec<String>,
}

impl World {
    fn new(seed: u64, hosts: usize) -> Self {
        Self::on("10.0.0.0/24", seed, hosts)
    }

    /// Hosts that share a network of this subnet.
    fn on(subnet: &str, seed: u64, hosts: usize) -> Self {
        let mut world = Self {
            dice: Dice(seed),
            now: Duration::from_secs(1),
            tick: Duration::from_millis(5),
            loses: Some(50),
            store: Memory::default(),
            up: true,
            hosts: (0..hosts).map(Host::new).collect(),
            network: network(subnet),
            rules: Rules::default(),
            next_container: 1,
            given: 0,
            watched: None,
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

    /// Takes rules away.
    fn weaken(&mut self, without: impl FnOnce(&mut Rules)) {
        without(&mut self.rules);
        for host in &mut self.hosts {
            let core = host.core.take();
            host.core = core.map(|core| core.without(self.rules.core));
        }
    }

    /// Starts the daemon of a host: with what its disk holds, and the containers that run on it.
    fn start(&mut self, n: usize) {
        let seed = self.dice.draw();
        let safeguards = self.rules.core;
        let host = &mut self.hosts[n];
        host.node.incarnation = format!("{seed:x}");
        let view = host
            .disk
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let core = Core::new(host.name.clone(), host.node.clone(), view, seed).without(safeguards);
        host.claims.clear();
        host.spare.clear();
        host.believed.clear();
        let restored = core.restored();
        host.core = Some(core);
        self.news(n, restored);
        let host = &self.hosts[n];
        let own = host.containers.iter().map(|(id, ip)| {
            let key = host.key(&self.network.id, id);
            (key, Some(records::write(&station(*ip))))
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
        let host = &mut self.hosts[n];
        if host.core.is_none() {
            return false;
        }
        let Some(ip) = host.spare.pop_first() else {
            return false;
        };
        self.given += 1;
        if let Some(watched) = &mut self.watched {
            watched.since.insert(id.clone(), self.now);
        }
        if let Some((other, theirs)) = self.held.insert(ip, (n, id.clone())) {
            let now = self.now;
            self.failures.push(format!(
                "{now:?}: h{n} gives {ip} to {id}, which h{other} gave to {theirs}"
            ));
        }
        let key = self.hosts[n].key(&self.network.id, id);
        self.hosts[n].containers.insert(id.clone(), ip);
        self.step(
            n,
            Input::Own(vec![(key, Some(records::write(&station(ip))))]),
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
        self.hosts[n].settle_one(ip);
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
        let at = self.now + self.way();
        self.hosts[n].mail.push_back((at, mail));
    }

    /// How long something is on its way between a host and the store.
    fn way(&mut self) -> Duration {
        Duration::from_micros(200 + self.dice.draw() % 10_000)
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
            Output::List(known) => {
                self.hosts[n].watch = None;
                self.hosts[n].lists += 1;
                let listing = if reached {
                    Ok(self.store.list(known.as_ref()))
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
            Output::Txn(number, txn) if reached => {
                let at = now + self.way();
                self.hosts[n].sent.push_back((at, number, txn));
            }
            Output::Txn(number, _) => {
                self.answer(n, Mail::Input(Input::Ended(number, Err(Self::dead()))));
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
        let mut claims = false;
        for one in news {
            match one {
                News::Endpoint(node, _, id, station) if node != self.hosts[n].name => {
                    self.believe(n, (node, id), station.as_ref());
                }
                News::Alive(node, false) if !self.rules.silence_is_a_hint => {
                    let keys = self.hosts[n].believed.keys();
                    let gone: Vec<_> = keys.filter(|(of, _)| *of == node).cloned().collect();
                    gone.into_iter().for_each(|key| self.believe(n, key, None));
                }
                News::Claim(_, prefix, claim) => {
                    let taken = claim.as_ref().is_some_and(|claim| {
                        claim.node.is_some() && claim.id != self.hosts[n].node.id
                    });
                    if taken {
                        let keys = self.hosts[n].give_up(&self.network.id, prefix);
                        let gone = keys.into_iter().map(|key| (key, None)).collect();
                        self.step(n, Input::Own(gone));
                    }
                    let by_id = self.rules.claims_go_by_id;
                    let host = &mut self.hosts[n];
                    let mine = |claim: &Claim| {
                        let named = claim.node.as_ref() == Some(&host.name);
                        claim.node.is_some() && (claim.id == host.node.id || named && !by_id)
                    };
                    match claim.filter(mine) {
                        Some(claim) => host.claims.insert(prefix, claim.router),
                        None => host.claims.remove(&prefix),
                    };
                    claims = true;
                }
                News::Link(link) => self.hosts[n].link = Some(link),
                _ => {}
            }
        }
        if claims {
            self.hosts[n].settle(&self.network);
        }
    }

    fn believe(&mut self, n: usize, key: (Name, ContainerId), station: Option<&Station>) {
        if let Some(station) = station {
            if let Some(watched) = &mut self.watched
                && let Some(since) = watched.since.get(&key.1)
            {
                watched.delays.push(self.now.saturating_sub(*since));
            }
            self.hosts[n].believed.insert(key, station.ips[0]);
            return;
        }
        let (node, id) = &key;
        let mut hosts = self.hosts.iter();
        let runs = hosts.any(|host| {
            host.name == *node && !host.written_off && host.containers.contains_key(id)
        });
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
            self.now += self.tick;
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

    /// Transactions that have come to the store. One that was sent before the network broke may come after it.
    fn carry(&mut self, n: usize) {
        let now = self.now;
        let is_there = |(at, ..): &mut (Duration, u64, Txn)| *at <= now;
        while let Some((_, number, txn)) = self.hosts[n].sent.pop_front_if(is_there) {
            let end = if self.up {
                self.store.txn(&txn)
            } else {
                Err(Self::dead())
            };
            // Done, but nobody heard of it.
            let lost = self.loses.is_some_and(|n| self.dice.one_in(n));
            let end = if lost { Err(Self::dead()) } else { end };
            self.answer(n, Mail::Input(Input::Ended(number, end)));
        }
    }

    fn deliver(&mut self, n: usize) {
        self.carry(n);
        while let Some((at, _)) = self.hosts[n].mail.front() {
            if *at > self.now {
                break;
            }
            match self.hosts[n].mail.pop_front() {
                Some((_, Mail::Input(input))) => {
                    let listed = matches!(input, Input::Listed(Ok(_)));
                    let begin = Instant::now();
                    self.step(n, input);
                    if let (true, Some(watched)) = (listed, &mut self.watched) {
                        watched.lists.push(begin.elapsed());
                    }
                }
                Some((_, Mail::Watch(next))) => {
                    self.hosts[n].watch = Some(Watch { next, ready: None });
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
        let (now, way) = (self.now, self.way());
        let last = self.store.revision();
        let has_news = |watch: &&mut Watch| watch.next <= last;
        let Some(watch) = self.hosts[n].watch.as_mut().filter(has_news) else {
            return;
        };
        let ready = *watch.ready.get_or_insert(now + way);
        if now < ready {
            return;
        }
        watch.ready = None;
        let told: Result<Events, StoreError> = self.store.since(watch.next);
        watch.next = last + 1;
        match told {
            Ok(events) => {
                let begin = Instant::now();
                self.step(n, Input::Watched(Ok(events)));
                if let Some(watched) = &mut self.watched {
                    watched.steps.push(begin.elapsed());
                }
            }
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

    /// The store comes back as it was once: whoever was connected has lost its connection, and finds it so.
    fn restore(&mut self, snapshot: &Memory) {
        let connected: Vec<bool> = self.hosts.iter().map(|host| host.connected).collect();
        for (n, connected) in connected.into_iter().enumerate() {
            self.cut(n);
            self.hosts[n].connected = connected;
        }
        self.store = snapshot.clone().started(self.now);
    }

    /// All is well in the end.
    #[track_caller]
    fn judge(mut self, seed: u64) {
        self.check();
        assert!(
            self.failures.is_empty(),
            "seed {seed}: {:#?}",
            self.failures
        );
    }

    /// Once all is well every host believes exactly what is.
    fn check(&mut self) {
        self.heal();
        self.run(Duration::from_secs(60));
        let mut truth = BTreeMap::new();
        let mut used: BTreeMap<IpAddr, &ContainerId> = BTreeMap::new();
        for host in &self.hosts {
            for (id, ip) in &host.containers {
                if let Some(other) = used.insert(*ip, id) {
                    self.failures.push(format!(
                        "{id} on {} uses {ip}, and so does {other}",
                        host.name
                    ));
                }
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
    assert_eq!(
        network("10.0.0.0/24").interface,
        IfName::parse("nd-09090909").unwrap()
    );
}
