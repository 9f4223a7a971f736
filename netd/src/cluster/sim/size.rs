//! The cluster logic at size: many allocations at once, and how fast all learn of a container where there are many.

use netd_model::overlay::block;

use super::*;
use crate::cluster::keys::Key;
use crate::cluster::records::{Alive, Node};
use crate::cluster::store::{TXN_WRITES, Write};

/// A number from the environment, for the long forms.
fn asked(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text}: a number"))
    })
}

/// `NETD_SIM_ALLOCATIONS=1000000 cargo test -p netd --release --lib sim::size` makes more of them.
#[test]
fn ten_thousand_allocations_under_partitions_give_no_address_twice() {
    let goal = asked("NETD_SIM_ALLOCATIONS", 10_000) as u64;
    // 63 blocks of 128 addresses and a shared one: they run out, and hosts go on with single addresses.
    let mut world = World::on("10.0.0.0/19", 1, 3);
    let mut cuts = 0;
    while world.given < goal {
        // All of them before anybody hears of the others'.
        for _ in 0..world.dice.below(60) {
            let n = world.dice.below(3);
            if world.held.len() > 6_000 || world.dice.one_in(3) {
                world.detach(n);
            } else {
                world.attach(n);
            }
        }
        let n = world.dice.below(3);
        match world.dice.below(20) {
            0..=2 => {
                world.cut(n);
                cuts += 1;
            }
            3..=6 => world.hosts[n].connected = true,
            7 => world.kill(n),
            8 => world.crash(n),
            9..=12 if world.hosts[n].core.is_none() => world.start(n),
            13 => world.store.compact(),
            14 => world.up = false,
            15..=17 => world.up = true,
            _ => {}
        }
        let pause = world.dice.below(300);
        world.run(Duration::from_millis(pause as u64));
    }
    assert!(cuts > 10, "{cuts} partitions are none to speak of");
    world.judge(1);
}

/// How large a cluster is.
struct Size {
    hosts: usize,
    endpoints: usize,
    /// Hosts that run: each has a view of its own of everything. Of the others there are the records, which is all that
    /// anybody sees of a host elsewhere.
    running: usize,
    attaches: usize,
}

impl World {
    /// Writes to the store whatever it holds, as a host does that is only there.
    fn write(&mut self, then: Vec<Write>) {
        let when = Vec::new();
        self.store.txn(&Txn { when, then }).unwrap();
    }
}

/// What one attach after the other costs those that hear of it.
fn converge(size: &Size) -> Watched {
    let mut world = World::on("10.0.0.0/12", 7, size.running);
    for n in 0..size.running {
        world.cut(n);
    }
    let each = size.endpoints / (size.hosts - size.running);
    for n in size.running..size.hosts {
        let writes = records_of(&world, n, each);
        for part in writes.chunks(TXN_WRITES) {
            world.write(part.to_vec());
        }
    }
    world.store.compact();
    world.watched = Some(Watched::default());
    world.heal();
    world.run(Duration::from_secs(20));
    for host in &world.hosts {
        assert_eq!(host.link, Some(Link::Online), "{}", host.name);
        assert_eq!(host.believed.len(), each * (size.hosts - size.running));
    }
    // Each has what it claims before it is looked at.
    for n in 0..size.running {
        world.attach(n);
        world.run(Duration::from_secs(2));
    }
    world.tick = Duration::from_micros(500);
    world.loses = None;
    let watched = world.watched.as_mut().unwrap();
    (watched.since, watched.delays, watched.steps) = Default::default();
    for number in 0..size.attaches {
        let n = world.dice.below(size.running);
        world.attach(n);
        // The records of the others change too.
        let elsewhere = size.running + number % (size.hosts - size.running);
        let then = records_of(&world, elsewhere, each + 1).split_off(each + 4);
        world.write(then);
        let pause = world.dice.below(40);
        world.run(Duration::from_millis(pause as u64));
    }
    world.run(Duration::from_secs(1));
    let attached = world.watched.as_ref().unwrap().since.len();
    let watched = world.watched.take().unwrap();
    assert_eq!(attached, size.attaches, "every attach found an address");
    assert_eq!(
        watched.delays.len(),
        attached * (size.running - 1),
        "all heard of each"
    );
    watched
}

/// What a host with so many containers has in the store.
fn records_of(world: &World, n: usize, containers: usize) -> Vec<Write> {
    let host = Host::new(n);
    let net = world.network.id.clone();
    let prefix = block(world.network.subnets[0].subnet, n as u64 + 1).unwrap();
    let IpAddr::V4(base) = prefix.base() else {
        unreachable!("the simulated network has IPv4 alone")
    };
    let ip = |number: usize| IpAddr::V4((base.to_bits() + u32::try_from(number).unwrap()).into());
    let claim = Claim {
        node: Some(host.name.clone()),
        id: host.node.id.clone(),
        router: true,
        unknown: Unknown::new(),
    };
    let alive = Alive {
        incarnation: host.node.incarnation.clone(),
        unknown: Unknown::new(),
    };
    let name = || host.name.clone();
    let node: Node = host.node.clone();
    let mut writes = vec![
        Write::put(
            Key::Claim(net.clone(), prefix).text(),
            records::write(&claim),
        ),
        Write::put(Key::Node(name()).text(), records::write(&node)),
        Write::put(
            Key::Member(name(), net.clone()).text(),
            records::write(&station(ip(0))),
        ),
        Write::put(Key::Alive(name()).text(), records::write(&alive)),
    ];
    writes.extend((1..=containers).map(|number| {
        let id = ContainerId::parse(&format!("{n:x}f{number:x}")).unwrap();
        let station = records::write(&station(ip(number)));
        Write::put(Key::Endpoint(name(), net.clone(), id).text(), station)
    }));
    writes
}

fn quantile(times: &[Duration], share: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a place in the list"
    )]
    let place = (share * (sorted.len() - 1) as f64).round() as usize;
    sorted[place].as_secs_f64() * 1e3
}

/// `NETD_SIM_HOSTS=1000 NETD_SIM_ENDPOINTS=100000 cargo test -p netd --release --lib all_learn -- --nocapture` prints the
/// figures at size.
#[test]
fn all_learn_of_a_container_soon_however_many_there_are() {
    let size = Size {
        hosts: asked("NETD_SIM_HOSTS", 60),
        endpoints: asked("NETD_SIM_ENDPOINTS", 3_000),
        running: 8,
        attaches: asked("NETD_SIM_ATTACHES", 200),
    };
    let watched = converge(&size);
    let [p50, p99] = [0.5, 0.99].map(|share| quantile(&watched.delays, share));
    println!(
        "{} hosts, {} endpoints: {} attaches were known on another host after p50 {p50:.1} ms, p99 {p99:.1} ms of simulated time",
        size.hosts, size.endpoints, size.attaches
    );
    let [p50, p99_step] = [0.5, 0.99].map(|share| quantile(&watched.steps, share));
    println!("taking a change in took p50 {p50:.3} ms, p99 {p99_step:.3} ms on this machine");
    let worst = quantile(&watched.lists, 1.0);
    println!("taking a list of all in took at most {worst:.1} ms on this machine");
    // To the simulated store and from it takes up to 10 ms each.
    assert!(p99 < 50.0, "{p99} ms");
}
