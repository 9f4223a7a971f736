//! What things cost here: `cargo test -p netd -- --ignored --nocapture cost_of`.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use netd_model::Proto;

use super::*;
use crate::kernel::real::link;

const ROUNDS: u16 = 240;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn attach(lab: &mut Lab, number: u16) -> (Vec<Op>, Link) {
    let id = lab.container(number);
    let both = pair(&id, 1, number);
    let owner = Owner::Container(id.clone());
    let default = Route {
        ns: both.1.ns.clone(),
        dst: prefix("0.0.0.0/0"),
        via: Some(ip("10.1.0.1")),
        dev: both.1.name.clone(),
        local: false,
        metric: 0,
        owner: both.1.owner.clone(),
    };
    let own = format!("10.1.{}.{}", number / 250, number % 250 + 2);
    let port = BridgePort {
        ifname: both.0.name.clone(),
        hairpin: true,
        owner: both.0.owner.clone(),
    };
    let held = HostPort {
        ip: ip("0.0.0.0"),
        proto: Proto::Tcp,
        port: 9000 + number,
        owner: owner.clone(),
    };
    let ops = vec![
        Op::Add(held.object()),
        add_pair(&both),
        Op::Add(port.object()),
        Op::Add(Object::Loopback(owner)),
        Op::Add(address(&both.1, &own, 16).object()),
        Op::Add(default.object()),
        Op::Announce {
            container: id.clone(),
            ifname: both.1.name.clone(),
            mac: both.1.mac,
            ips: vec![ip(&own)],
        },
        Op::Add(Object::Ruleset(netd_model::skeleton::dns(&id))),
        Op::Add(Object::DnsSocket(Owner::Container(id))),
    ];
    (ops, both.0)
}

const NAMES: [&str; 13] = [
    "host port",
    "pair",
    "port flags",
    "lo",
    "address",
    "route",
    "announcement",
    "dns rules",
    "dns sockets",
    "all nine in one list",
    "the first six in one list",
    "bare creation of a pair",
    "bare pair with marks, up",
];

#[test]
#[ignore = "a measurement"]
fn cost_of_attach_and_detach() {
    in_lab("cost_of_attach_and_detach", |lab| {
        lab.add(&bridge(1));
        lab.add(&address(&bridge(1), "10.1.0.1", 16));
        let mut hosts = Vec::new();
        let mut times: Vec<Vec<Duration>> = vec![Vec::new(); NAMES.len()];
        // In turn, so that what else the machine does hits all alike.
        for number in 0..ROUNDS {
            match number % 4 {
                0 => bare(lab, number, &mut times[11..]),
                rest => {
                    let (ops, host) = attach(lab, number);
                    hosts.push(host);
                    match rest {
                        1 => times[9].push(timed(|| lab.apply(&ops).unwrap())),
                        2 => times[10].push(timed(|| lab.apply(&ops[..6]).unwrap())),
                        _ => {
                            for (op, times) in ops.iter().zip(&mut times) {
                                times.push(timed(|| lab.apply(std::slice::from_ref(op)).unwrap()));
                            }
                        }
                    }
                }
            }
        }
        for (name, times) in NAMES.iter().zip(times) {
            println!("{name}: {:?}", median(times));
        }
        let mut seen = 0;
        let time = timed(|| seen = lab.observe().objects.len());
        println!(
            "observe of {} containers: {time:?} ({seen} objects)",
            hosts.len()
        );
        removals(lab, hosts);
    });
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// What the kernel takes for the same by bare requests over sockets that are open already.
fn bare(lab: &mut Lab, number: u16, times: &mut [Vec<Duration>]) {
    let id = lab.container(number);
    let (host, container) = pair(&id, 1, number);
    let mut inside = lab.inside(&id, || Space::open(Ns::Host).unwrap());
    let master = lab
        .space
        .link(&bridge(1).name)
        .unwrap()
        .map(|view| view.index);
    let fd = lab.containers.last().unwrap().as_fd();
    let outer_marks = link::complete(&host, true);
    let inner_marks = link::complete(&container, true);
    let create = link::create_pair(&host, master, &container, fd);
    let start = Instant::now();
    lab.space.route.call(&create).unwrap();
    times[0].push(start.elapsed());
    lab.space.route.batch(&outer_marks).unwrap();
    inside.route.batch(&inner_marks).unwrap();
    times[1].push(start.elapsed());
}

fn removals(lab: &mut Lab, mut hosts: Vec<Link>) {
    let single = hosts
        .drain(..20)
        .map(|host| timed(|| lab.remove(&host)))
        .collect();
    println!("removal of one: {:?}", median(single));
    for count in [8, 64] {
        let ops: Vec<Op> = hosts
            .drain(..count)
            .map(|host| Op::Remove(Object::Link(host)))
            .collect();
        println!(
            "removal of {count}: {:?}",
            timed(|| lab.apply(&ops).unwrap())
        );
    }
}
