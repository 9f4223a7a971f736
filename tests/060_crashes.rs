//! The real daemon is killed at random points of random requests and started again: what a client was told is true, and
//! nothing is left half done. `NETD_CRASH_SEED` and `NETD_CRASH_ROUNDS` choose another run or a longer one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is how a test fails"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::{self, Netns};
use serde_json::Value;

#[path = "crashes/actions.rs"]
mod actions;
#[path = "crashes/changes.rs"]
mod changes;

use actions::{Action, Random};
use changes::Changes;

fn main() -> ExitCode {
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![lab::test("killed_anywhere", killed_anywhere)])
}

/// The networks, and the containers with the networks each is on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    networks: BTreeSet<String>,
    containers: BTreeMap<String, BTreeSet<String>>,
}

impl State {
    fn of(host: &Host) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let networks = host.ok(&["network", "ls"]);
        let networks = networks.as_array().unwrap().iter();
        let containers = host.ok(&["ps"]);
        let containers = containers.as_array().unwrap().iter().map(|container| {
            let endpoints = container["endpoints"].as_array().unwrap().iter();
            let on = endpoints
                .map(|endpoint| text(&endpoint["network"]))
                .collect();
            (text(&container["name"]), on)
        });
        Self {
            networks: networks.map(|network| text(&network["name"])).collect(),
            containers: containers.collect(),
        }
    }
}

fn setting(name: &str, default: usize) -> usize {
    let value = std::env::var(name).ok();
    value.map_or(default, |text| text.parse().expect("a number"))
}

/// What was tried.
#[derive(Debug, Default)]
struct Figures {
    requests: usize,
    /// Requests whose client was told nothing.
    untold: usize,
    /// Daemons that died in their start.
    starts: usize,
    /// Changes of the kernel before a kill.
    changes: usize,
}

#[expect(clippy::print_stdout, reason = "the figures are for people to read")]
fn killed_anywhere() {
    let (seed, rounds) = (
        setting("NETD_CRASH_SEED", 1),
        setting("NETD_CRASH_ROUNDS", 40),
    );
    let mut random = Random::new(seed);
    let mut host = Host::start("h1");
    let forwarded = forwards(&host);
    let containers: Vec<Netns> = (0..5).map(|n| Netns::new(&format!("c{n}"))).collect();
    let mut figures = Figures::default();
    for round in 0..rounds {
        // In the report of a failed test.
        println!("seed {seed}, round {round}");
        furnish(&host);
        let before = State::of(&host);
        let actions = Action::choose(&before, &containers, &mut random);
        println!("{before:?}: {actions:?}");
        let told = crash(&mut host, &containers, &actions, &mut random, &mut figures);
        if random.one_in(3) {
            crash_in_start(&mut host, &mut random, &mut figures);
        }
        host.start_daemon();
        host.assert_healthy();
        let after = State::of(&host);
        check_told(&before, &actions, &told, &after);
        check_kernel(&host, &containers, &after);
        if random.one_in(5) {
            host.done();
        }
    }
    host.done();
    host.ok(&["purge", "--force"]);
    assert_eq!(host.rules(), Vec::<String>::new());
    assert_eq!(forwards(&host), forwarded, "forwarding is given back");
    println!("{rounds} rounds, seed {seed}: {figures:?}, 0 violations");
}

fn forwards(host: &Host) -> [Option<String>; 2] {
    ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"].map(|key| host.netns.sysctl(key))
}

/// Networks that are always there.
fn furnish(host: &Host) {
    let networks = State::of(host).networks;
    if !networks.contains("web") {
        host.ok(&["network", "create", "web", "--ipv6"]);
    }
    if !networks.contains("two") {
        host.ok(&["network", "create", "two"]);
    }
}

/// All requests at once, and the daemon killed among them. The answer is the status that each client saw.
fn crash(
    host: &mut Host,
    containers: &[Netns],
    actions: &[Action],
    random: &mut Random,
    figures: &mut Figures,
) -> Vec<Option<u16>> {
    let changes = Changes::of(&host.netns);
    let (after, moment) = (
        random.below(25 * actions.len()),
        Duration::from_micros(random.below(1500) as u64),
    );
    let (enough, left) = (AtomicBool::new(false), AtomicUsize::new(actions.len()));
    let pid = host.pid();
    let told: Vec<Option<u16>> = std::thread::scope(|scope| {
        let (host, enough, left) = (&*host, &enough, &left);
        let ask = |action: &Action| {
            let (method, target, body) = action.request(containers);
            scope.spawn(move || {
                let answer = host.try_api(method, &target, &body);
                if left.fetch_sub(1, Ordering::SeqCst) == 1 {
                    enough.store(true, Ordering::SeqCst);
                }
                answer.ok().map(|answer| answer.status)
            })
        };
        let clients: Vec<_> = actions.iter().map(ask).collect();
        figures.changes += changes.kill_after(after, moment, enough, pid);
        let clients = clients.into_iter();
        clients.map(|client| client.join().unwrap()).collect()
    });
    host.kill_daemon();
    figures.requests += told.len();
    figures.untold += told.iter().filter(|status| status.is_none()).count();
    told
}

/// A daemon that dies in its start, perhaps in the middle of repairs.
fn crash_in_start(host: &mut Host, random: &mut Random, figures: &mut Figures) {
    let changes = Changes::of(&host.netns);
    host.spawn_daemon();
    let enough = AtomicBool::new(random.one_in(2));
    let moment = Duration::from_micros(random.below(20_000) as u64);
    std::thread::scope(|scope| {
        // Without anything to repair there are no changes.
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(60));
            enough.store(true, Ordering::SeqCst);
        });
        let after = random.below(6);
        figures.changes += changes.kill_after(after, moment, &enough, host.pid());
    });
    host.kill_daemon();
    figures.starts += 1;
}

/// Told success: done. Told nothing: done or not. All else is as it was.
fn check_told(before: &State, actions: &[Action], told: &[Option<u16>], after: &State) {
    let mut least = before.clone();
    for (action, status) in actions.iter().zip(told) {
        assert!(
            status.is_none_or(|status| status < 300),
            "{action:?} was refused: {status:?}"
        );
        let done = action.is_done(after);
        assert!(
            done || action.is_not_done(before, after),
            "{action:?} is half done: {after:?}"
        );
        assert!(
            done || status.is_none(),
            "{action:?} was told as done: {after:?}"
        );
        if done {
            action.apply(&mut least);
        }
    }
    assert_eq!(least, *after, "something else has changed");
}

/// The links and addresses of every container are those of the list.
fn check_kernel(host: &Host, containers: &[Netns], state: &State) {
    let listed = host.ok(&["ps"]);
    for netns in containers {
        let links = netns.links();
        let links = links.iter().filter(|link| link.name != "lo").count();
        let wanted = state.containers.get(netns.name()).map_or(0, BTreeSet::len);
        assert_eq!(links, wanted, "links in {}", netns.name());
        let mut all = listed.as_array().unwrap().iter();
        let Some(container) = all.find(|container| container["name"] == netns.name()) else {
            continue;
        };
        let addresses = netns.addresses();
        for endpoint in container["endpoints"].as_array().unwrap() {
            let cidr = endpoint["ipv4"].as_str().unwrap();
            let there = addresses
                .iter()
                .any(|address| format!("{}/{}", address.ip, address.prefix) == cidr);
            assert!(there, "{cidr} in {}: {addresses:?}", netns.name());
        }
    }
}
