//! Named scenarios, each shown to fail without its safeguard, and random runs.

use super::*;
use crate::cluster::keys::Key;
use crate::cluster::store::Write;

const SECOND: Duration = Duration::from_secs(1);

/// Three hosts with two containers each, all known to all.
fn settled(seed: u64) -> World {
    let mut world = World::new(seed, 3);
    for n in 0..3 {
        // An answer that is lost is an attach that fails, and is repeated.
        for _ in 0..10 {
            if world.hosts[n].containers.len() < 2 {
                world.attach(n);
                world.run(2 * SECOND);
            }
        }
    }
    assert!(
        world.hosts.iter().all(|host| host.containers.len() == 2),
        "{:?}",
        world.failures
    );
    world
}

/// Runs a scenario with all rules, where nothing may fail, and without one, where something has to.
fn needs(without: fn(&mut Rules), scenario: fn(&mut World)) {
    for seed in 0..20 {
        let mut world = settled(seed);
        scenario(&mut world);
        world.judge(seed);
    }
    let fails = (0..20).any(|seed| {
        let mut world = settled(seed);
        world.weaken(without);
        scenario(&mut world);
        world.check();
        !world.failures.is_empty()
    });
    assert!(fails, "the rule is not needed");
}

/// moby#53141, cilium#9422: away for longer than its lease, a host comes back and nobody knows it any more.
#[test]
fn a_host_that_returns_says_again_what_it_has() {
    needs(
        |rules| rules.core.republish = false,
        |world| {
            world.cut(1);
            world.run(60 * SECOND);
            // Attached and detached while nobody heard of it.
            world.attach(1);
            world.detach(1);
            world.attach(1);
            world.run(60 * SECOND);
        },
    );
}

/// etcd#8668 and others: what was removed while a watch was lost is removed by the next list.
#[test]
fn what_vanished_while_nobody_watched_is_removed() {
    needs(
        |rules| rules.core.relist = false,
        |world| {
            world.cut(2);
            world.run(5 * SECOND);
            world.detach(0);
            world.run(SECOND);
            world.store.compact();
        },
    );
}

/// cilium#7517: an emptied store is filled again by the hosts, and nothing is forgotten meanwhile.
#[test]
fn an_emptied_store_is_rebuilt_and_takes_nothing_away() {
    needs(
        |rules| rules.core.distrust_reset = false,
        |world| {
            world.up = false;
            for n in 0..3 {
                world.cut(n);
            }
            world.run(10 * SECOND);
            world.store = Memory::default();
        },
    );
}

/// A store restored from an older snapshot: what was written since is written again.
#[test]
fn a_restored_store_is_brought_up_to_date() {
    needs(
        |rules| rules.core.distrust_reset = false,
        |world| {
            let snapshot = world.store.clone();
            for n in 0..3 {
                world.attach(n);
            }
            world.run(2 * SECOND);
            world.up = false;
            for n in 0..3 {
                world.cut(n);
            }
            world.run(2 * SECOND);
            world.store = snapshot;
        },
    );
}

/// The same when others have written so much since that its revision is as high again before a host comes back.
#[test]
fn a_restored_store_is_known_by_its_history() {
    needs(
        |rules| rules.core.ask_history = false,
        |world| {
            let snapshot = world.store.clone();
            world.attach(1);
            world.run(2 * SECOND);
            world.cut(0);
            world.cut(1);
            world.restore(&snapshot);
            for _ in 0..4 {
                world.attach(2);
                world.run(2 * SECOND);
            }
            // The first to hear of it is not the one whose record is missing.
            world.hosts[0].connected = true;
            world.run(20 * SECOND);
        },
    );
}

/// The same once its history is compacted: a claim keeps its key as long as its network is there.
#[test]
fn a_restored_store_without_its_history_is_known_by_its_keys() {
    needs(
        |rules| rules.core.compare_keys = false,
        |world| {
            let snapshot = world.store.clone();
            let before = world.hosts[1].claims.clone();
            while world.hosts[1].claims.len() == before.len() {
                world.attach(1);
                world.run(SECOND / 10);
            }
            let claims = world.hosts[1].claims.keys();
            let lost: Vec<_> = claims
                .filter(|block| !before.contains_key(block))
                .copied()
                .collect();
            world.attach(1);
            world.run(2 * SECOND);
            world.cut(0);
            world.cut(1);
            world.restore(&snapshot);
            // This one knows what it has seen, and writes as much again.
            for _ in 0..60 {
                world.attach(2);
                world.run(SECOND / 5);
            }
            world.store.compact();
            world.kill(0);
            world.start(0);
            world.hosts[0].connected = true;
            world.run(SECOND);
            // Wants all there is.
            for _ in 0..200 {
                if world.hosts[0].claims.contains_key(&lost[0]) {
                    break;
                }
                world.attach(0);
                world.run(SECOND / 20);
            }
            for _ in 0..16 {
                world.attach(0);
            }
            world.run(5 * SECOND);
        },
    );
}

/// And where nobody who saw what was lost is there to say so, and no key shows it: what may be there is not believed gone.
#[test]
fn what_a_gap_in_the_history_may_hide_is_not_gone() {
    needs(
        |rules| rules.core.doubt_gaps = false,
        |world| {
            world.cut(2);
            let snapshot = world.store.clone();
            world.attach(1);
            world.run(2 * SECOND);
            world.cut(0);
            world.cut(1);
            world.restore(&snapshot);
            world.hosts[2].connected = true;
            world.run(2 * SECOND);
            for _ in 0..6 {
                world.attach(2);
                world.run(2 * SECOND);
            }
            world.store.compact();
            world.hosts[0].connected = true;
            world.run(20 * SECOND);
        },
    );
}

/// moby#35548: a host that ended for good while the store was emptied can be removed, and nobody remembers it.
#[test]
fn a_host_that_died_with_the_store_can_be_removed() {
    for seed in 0..5 {
        let mut world = settled(seed);
        world.crash(2);
        world.run(SECOND);
        world.restore(&Memory::default());
        world.run(60 * SECOND);
        let name = world.hosts[2].name.clone();
        let knows = |host: &Host| host.believed.keys().any(|(node, _)| *node == name);
        assert!(knows(&world.hosts[0]), "it may come back");
        world.ask(0, Wish::RemoveNode(name.clone()));
        world.run(5 * SECOND);
        for host in &world.hosts[..2] {
            assert!(!knows(host), "{} remembers it", host.name);
        }
    }
}

/// etcd#2660: all leases end at once, as under a new leader they did. That says nothing about any host.
#[test]
fn leases_that_end_all_at_once_erase_nothing() {
    needs(
        |rules| rules.silence_is_a_hint = false,
        |world| {
            let end = world.now + 10 * super::super::core::LEASE;
            world.store.expire(end);
            world.run(30 * SECOND);
        },
    );
}

/// weave#2023, weave#678: what a name had is not its next bearer's. A second host of a name is told so, and has addresses of
/// its own.
#[test]
fn a_second_host_of_a_name_takes_nothing_over() {
    let twins = |by_id: bool| {
        let mut world = settled(5);
        world.rules.claims_go_by_id = by_id;
        let mut twin = Host::new(3);
        twin.name = world.hosts[1].name.clone();
        world.hosts.push(twin);
        world.start(3);
        world.run(5 * SECOND);
        for _ in 0..4 {
            world.attach(1);
            world.attach(3);
            world.run(2 * SECOND);
        }
        let told = world.hosts[3]
            .alarms
            .iter()
            .any(|a| a.contains("--node-name"));
        assert!(told, "{:?}", world.hosts[3].alarms);
        assert!(world.hosts[1].alarms.is_empty(), "the first has the name");
        world.failures
    };
    assert_eq!(twins(true), Vec::<String>::new());
    assert_ne!(twins(false), Vec::<String>::new(), "the rule is not needed");
}

/// weave#3632: somebody writes over what a host has claimed. It says so, and goes on with what it has.
#[test]
fn a_claim_that_is_written_over_stays_in_use() {
    let mut world = settled(2);
    let net = world.network.id.clone();
    let prefix = *world.hosts[0].claims.keys().next().unwrap();
    let foreign = Claim {
        node: Some(world.hosts[1].name.clone()),
        id: "f".repeat(32),
        router: false,
        unknown: Unknown::new(),
    };
    let key = Key::Claim(net, prefix).text();
    let then = vec![Write::put(key.clone(), records::write(&foreign))];
    let when = Vec::new();
    world.store.txn(&Txn { when, then }).unwrap();
    world.run(SECOND);
    world.attach(0);
    world.run(SECOND);
    assert_eq!(world.hosts[0].containers.len(), 3);
    let ips = world.hosts[0].containers.values();
    assert!(ips.into_iter().all(|ip| prefix.contains(*ip)));
    let alarms = &world.hosts[0].alarms;
    assert!(
        alarms.iter().any(|alarm| alarm.contains(&key)),
        "{alarms:?}"
    );
    world.judge(2);
}

/// weave#3632, moby#33795: two that want the same at once do not both get it.
#[test]
fn claims_made_at_once_never_overlap() {
    needs(
        |rules| rules.core.create_if_absent = false,
        |world| {
            // Few blocks, many who want one, and nobody sees the others' in time.
            for _ in 0..20 {
                for n in 0..3 {
                    world.attach(n);
                }
            }
            world.run(5 * SECOND);
        },
    );
}

/// moby#27404: a daemon that restarts under running containers gives none of their addresses again.
#[test]
fn a_restart_gives_no_address_twice() {
    for seed in 0..20 {
        let mut world = settled(seed);
        for n in 0..3 {
            world.kill(n);
            world.run(SECOND);
            world.start(n);
            world.attach(n);
            world.run(SECOND);
        }
        world.judge(seed);
    }
}

/// etcd#9395: a lease that runs out is a hint, and takes nothing away.
#[test]
fn a_lease_that_runs_out_erases_nothing() {
    for seed in 0..5 {
        let mut world = settled(seed);
        world.cut(0);
        world.run(10 * super::super::core::LEASE);
        for other in 1..3 {
            let of_first = world.hosts[other]
                .believed
                .keys()
                .filter(|(node, _)| node.as_str() == "h0");
            assert_eq!(of_first.count(), 2);
        }
        world.judge(seed);
    }
}

/// Invariant I6: without a store a host goes on with what it has claimed, and says when that is used up.
#[test]
fn containers_start_without_a_store_as_long_as_addresses_last() {
    let mut world = settled(1);
    world.up = false;
    for n in 0..3 {
        world.cut(n);
    }
    world.run(SECOND);
    for _ in 0..40 {
        world.attach(0);
    }
    world.run(SECOND);
    // A block of a /24 has 16 addresses, one of them the host's own.
    assert_eq!(world.hosts[0].containers.len(), 15);
    assert!(
        world.hosts[0].waiting.is_empty(),
        "nobody waits for a store that is not there"
    );
    world.judge(1);
}

/// cilium#3466: a store that is down costs next to nothing.
#[test]
fn a_store_that_is_down_is_asked_seldom() {
    let asked = |backoff: bool| {
        let mut world = settled(3);
        world.weaken(|rules| rules.core.backoff = backoff);
        world.up = false;
        for n in 0..3 {
            world.cut(n);
        }
        let before = world.hosts[0].lists;
        world.run(600 * SECOND);
        world.hosts[0].lists - before
    };
    let with = asked(true);
    assert!((10..120).contains(&with), "{with} attempts in ten minutes");
    assert!(asked(false) > 1000, "without pauses");
}

/// A removed host's blocks are given to others, and its records go; only the fact stays.
#[test]
fn a_removed_host_leaves_nothing() {
    let mut world = settled(7);
    world.crash(2);
    world.run(30 * SECOND);
    let name = world.hosts[2].name.clone();
    world.ask(0, Wish::RemoveNode(name.clone()));
    world.run(5 * SECOND);
    assert!(
        world.hosts[0]
            .believed
            .keys()
            .all(|(node, _)| *node != name)
    );
    let held = world.store.list(None).kvs.into_iter().filter(|kv| {
        let text = String::from_utf8_lossy(&kv.value).into_owned();
        kv.key.contains("h2") || text.contains("\"h2\"")
    });
    // But that it was, should it return.
    let stone = format!("nodes/h2/removed/{}", world.hosts[2].node.id);
    assert_eq!(held.map(|kv| kv.key).collect::<Vec<_>>(), [stone]);
}

/// Whatever happens, in any order.
fn storm(seed: u64, hosts: usize, steps: usize) {
    let mut world = World::new(seed, hosts);
    let mut snapshot = world.store.clone();
    for _ in 0..steps {
        let n = world.dice.below(hosts);
        match world.dice.below(24) {
            0..=7 => world.attach(n),
            8..=11 => world.detach(n),
            12 => world.cut(n),
            13..=14 => world.hosts[n].connected = true,
            15 => world.kill(n),
            16 => world.crash(n),
            17..=18 if world.hosts[n].core.is_none() => world.start(n),
            19 if world.dice.one_in(2) => world.store.compact(),
            19 => world.restore(&snapshot),
            20 => world.up = false,
            21 => world.up = true,
            22 => snapshot = world.store.clone(),
            _ => {}
        }
        let pause = world.dice.below(800);
        world.run(Duration::from_millis(pause as u64));
    }
    world.judge(seed);
}

/// `NETD_SIM_SEEDS=1000 cargo test -p netd --release storms` runs more of them.
#[test]
fn random_storms() {
    let seeds = std::env::var("NETD_SIM_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok());
    for seed in 0..seeds.unwrap_or(12) {
        storm(seed, 4, 240);
    }
}
