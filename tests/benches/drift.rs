//! How soon netd puts back what somebody else changed, and what a storm of changes costs.
//!
//! `cargo bench -p netd-tests --bench drift` prints the times from a change to its repair over 1,000 random changes
//! (`NETD_SEED` chooses others), and the share of a processor that the daemon takes while something is changed all the
//! time. Foreign objects beside have to stay as they are.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark prints its figures, and ends where something fails"
)]

use std::time::{Duration, Instant};

use netd::kernel::nft::NftSocket;
use netd_model::{ContainerId, Object, Op, skeleton};
use netd_tests::host::{Host, PROGRAMS, assert_same, lasting};
use netd_tests::lab::{self, Netns, PATIENCE, Process};
use serde_json::Value;

const CHANGES: usize = 1000;
const CONTAINERS: usize = 10;
const STORM: Duration = Duration::from_secs(5);

fn main() {
    lab::dispatch(PROGRAMS);
    lab::enter();
    let seed = std::env::var("NETD_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let stage = Stage::set();
    let before = stage.foreign();
    stage.repairs(seed);
    assert_same("what is not netd's", &before, &stage.foreign());
    stage.storm();
    assert_same("what is not netd's", &before, &stage.foreign());
    stage.host.assert_healthy();
    stage.host.done();
}

struct Stage {
    host: Host,
    containers: Vec<(Netns, ContainerId, String)>,
    bridge: String,
    /// `netctl events --follow`.
    follower: Process,
    /// Keeps the other end of the foreign link.
    _other: Netns,
}

impl Stage {
    fn set() -> Self {
        let (netns, other) = (Netns::host("bench"), Netns::host("other"));
        netns.add_bridge("docker0");
        lab::veth(
            netns.end("up0", &["192.0.2.1/24"]),
            other.end("eth0", &["192.0.2.2/24"]),
        );
        netns.add_route("203.0.113.0/24", "192.0.2.2");
        let host = Host::on(netns);
        let network = host.ok(&["network", "create", "web", "--ipv6"]);
        let bridge = network["interface"].as_str().unwrap().to_owned();
        let containers = (0..CONTAINERS).map(|n| {
            let container = Netns::new(&format!("c{n}"));
            let publish = format!("{}:80", 8000 + n);
            let made = host.attach(&container, &["--network=web", "--publish", &publish]);
            let id = ContainerId::parse(made["id"].as_str().unwrap()).unwrap();
            let veth = host_end(&host, &id).expect("an end on the host");
            (container, id, veth)
        });
        let containers = containers.collect();
        let mut follow = host
            .netns
            .self_command("__netctl", &["-o", "json", "events", "--follow"]);
        follow.env("NETD_SOCKET", host.socket());
        let follower = host.netns.start("netctl events", follow);
        Self {
            containers,
            follower,
            bridge,
            host,
            _other: other,
        }
    }

    fn foreign(&self) -> Vec<String> {
        let lines = lasting(&self.host.netns).into_iter();
        let marks = ["docker0", "up0", "192.0.2", "203.0.113"];
        lines
            .filter(|line| marks.iter().any(|mark| line.contains(mark)))
            .collect()
    }

    fn events(&self) -> Vec<Value> {
        // A line that is not whole yet is no event.
        let text = self.follower.stdout();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines = whole.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("an event is JSON"))
            .collect()
    }

    fn repairs_told(&self) -> usize {
        let events = self.events();
        events
            .iter()
            .filter(|event| event["kind"] == "repaired")
            .count()
    }

    /// Random changes, each waited for.
    fn repairs(&self, seed: u64) {
        let mut random = Random(seed);
        let mut times = Vec::new();
        for _ in 0..CHANGES {
            let told = self.repairs_told();
            self.change(&mut random);
            let begin = Instant::now();
            lab::wait_for("the repair", PATIENCE, || self.repairs_told() > told);
            times.push(begin.elapsed());
            // The same change may take several repairs.
            self.host.assert_healthy();
        }
        times.sort();
        let at =
            |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_millis();
        println!(
            "{CHANGES} changes by others (seed {seed}): repaired after {} ms (median), {} ms (99 %), {} ms (longest); aim: 99 % within 1 s",
            at(50),
            at(99),
            at(100)
        );
    }

    fn change(&self, random: &mut Random) {
        let netns = &self.host.netns;
        let (inside, id, veth) = &self.containers[random.below(CONTAINERS)];
        match random.below(10) {
            0 => remove(netns, Object::from(skeleton::host())),
            1 => netns.set_sysctl("net/ipv4/ip_forward", "0"),
            2 => netns.down(&self.bridge),
            3 => netns.down(veth),
            4 => netns.del_link(veth),
            5 => netns.set_link(veth, lab::LinkChange::nocontroller),
            6 => inside.down("eth0"),
            7 => inside.del_route("0.0.0.0/0"),
            8 => remove(inside, Object::from(skeleton::dns(id))),
            _ => inside.down("lo"),
        }
    }

    /// One change after the other, as fast as they can be made.
    fn storm(&self) {
        let before = lab::cpu_time(self.host.pid());
        let begin = Instant::now();
        let mut changes = 0;
        while begin.elapsed() < STORM {
            self.host.netns.set_sysctl("net/ipv4/ip_forward", "0");
            self.containers[0].0.down("lo");
            changes += 2;
        }
        let used = lab::cpu_time(self.host.pid()).saturating_sub(before);
        let share = used.as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0;
        println!(
            "{changes} changes in {} s: the daemon takes {share:.0} % of a processor",
            STORM.as_secs()
        );
        let status = self.host.ok(&["status"]);
        println!("status says: {}", status["warnings"]);
        assert!(status["warnings"].to_string().contains("netctl events"));
        lab::wait_for("the end of the storm", PATIENCE, || {
            self.host.plan().is_empty()
        });
    }
}

/// The link of the host that leads to a container, by its mark.
fn host_end(host: &Host, id: &ContainerId) -> Option<String> {
    let ends = host.netns.links().into_iter();
    let mut ends = ends.filter(|link| {
        link.alias
            .as_deref()
            .is_some_and(|alias| alias.contains(&**id))
    });
    ends.next().map(|link| link.name)
}

fn remove(netns: &Netns, object: Object) {
    netns
        .run(|| NftSocket::open().unwrap().apply(&[Op::Remove(object)]))
        .unwrap();
}

/// xorshift64*: the same changes for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap() % end
    }
}
