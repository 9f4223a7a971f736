//! Named scenarios, each shown to fail without its safeguard, and random runs.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Three hosts with two containers each, all known to all.
fn settled(seed: u64, safeguards: Safeguards) -> World {
    let mut world = World::new(seed, 3, safeguards);
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

/// Runs a scenario with all safeguards, where nothing may fail, and without one, where something has to.
fn needs(without: fn(&mut Safeguards), scenario: fn(&mut World)) {
    for seed in 0..20 {
        let mut world = settled(seed, Safeguards::default());
        scenario(&mut world);
        world.check();
        assert!(
            world.failures.is_empty(),
            "seed {seed}: {:#?}",
            world.failures
        );
    }
    let mut safeguards = Safeguards::default();
    without(&mut safeguards);
    let fails = (0..20).any(|seed| {
        let mut world = settled(seed, Safeguards::default());
        world.safeguards = safeguards;
        for host in &mut world.hosts {
            let core = host.core.take();
            host.core = core.map(|core| core.without(safeguards));
        }
        scenario(&mut world);
        world.check();
        !world.failures.is_empty()
    });
    assert!(fails, "the safeguard is not needed");
}

/// moby#53141, cilium#9422: away for longer than its lease, a host comes back and nobody knows it any more.
#[test]
fn a_host_that_returns_says_again_what_it_has() {
    needs(
        |s| s.republish = false,
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
        |s| s.relist = false,
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
        |s| s.distrust_reset = false,
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
        |s| s.distrust_reset = false,
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

/// weave#3632, moby#33795: two that want the same at once do not both get it.
#[test]
fn claims_made_at_once_never_overlap() {
    needs(
        |s| s.create_if_absent = false,
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
        let mut world = settled(seed, Safeguards::default());
        for n in 0..3 {
            world.kill(n);
            world.run(SECOND);
            world.start(n);
            world.attach(n);
            world.run(SECOND);
        }
        world.check();
        assert!(
            world.failures.is_empty(),
            "seed {seed}: {:#?}",
            world.failures
        );
    }
}

/// etcd#9395: a lease that runs out is a hint, and takes nothing away.
#[test]
fn a_lease_that_runs_out_erases_nothing() {
    for seed in 0..5 {
        let mut world = settled(seed, Safeguards::default());
        world.cut(0);
        world.run(10 * super::super::core::LEASE);
        for other in 1..3 {
            let of_first = world.hosts[other]
                .believed
                .keys()
                .filter(|(node, _)| node.as_str() == "h0");
            assert_eq!(of_first.count(), 2);
        }
        world.check();
        assert!(
            world.failures.is_empty(),
            "seed {seed}: {:#?}",
            world.failures
        );
    }
}

/// Invariant I6: without a store a host goes on with what it has claimed, and says when that is used up.
#[test]
fn containers_start_without_a_store_as_long_as_addresses_last() {
    let mut world = settled(1, Safeguards::default());
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
    world.check();
    assert!(world.failures.is_empty(), "{:#?}", world.failures);
}

/// cilium#3466: a store that is down costs next to nothing.
#[test]
fn a_store_that_is_down_is_asked_seldom() {
    let asked = |safeguards: Safeguards| {
        let mut world = settled(3, safeguards);
        world.up = false;
        for n in 0..3 {
            world.cut(n);
        }
        let before = world.hosts[0].lists;
        world.run(600 * SECOND);
        world.hosts[0].lists - before
    };
    let with = asked(Safeguards::default());
    assert!((10..120).contains(&with), "{with} attempts in ten minutes");
    let none = Safeguards {
        backoff: false,
        ..Safeguards::default()
    };
    assert!(asked(none) > 1000, "without pauses");
}

/// A removed host's blocks are given to others, and its records go.
#[test]
fn a_removed_host_leaves_nothing() {
    let mut world = settled(7, Safeguards::default());
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
    let held = world.store.list().kvs.into_iter().filter(|kv| {
        let text = String::from_utf8_lossy(&kv.value).into_owned();
        kv.key.contains("h2") || text.contains("\"h2\"")
    });
    assert_eq!(
        held.map(|kv| kv.key).collect::<Vec<_>>(),
        Vec::<String>::new()
    );
}

/// Whatever happens, in any order.
fn storm(seed: u64, hosts: usize, steps: usize) {
    let mut world = World::new(seed, hosts, Safeguards::default());
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
            19 => world.store.compact(),
            20 => world.up = false,
            21 => world.up = true,
            22 => snapshot = world.store.clone(),
            _ => {}
        }
        let pause = world.dice.below(800);
        world.run(Duration::from_millis(pause as u64));
    }
    drop(snapshot);
    world.check();
    assert!(
        world.failures.is_empty(),
        "seed {seed}: {:#?}",
        world.failures
    );
}

/// `NETD_SIM_SEEDS=1000 cargo test -p netd --release storms` runs more of them.
#[test]
fn random_storms() {
    let seeds = std::env::var("NETD_SIM_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok());
    for seed in 0..seeds.unwrap_or(12) {
        storm(seed, 4, 120);
    }
}
