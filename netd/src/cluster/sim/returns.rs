//! Claims that are given back, in any weather: nobody ever gets an address that somebody else has.

use netd_model::Prefix;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

impl World {
    /// A host stops using one of its claims that no container is in.
    fn release(&mut self, n: usize) -> Option<Prefix> {
        let host = &mut self.hosts[n];
        host.core.as_ref()?;
        let used = |prefix: &Prefix| host.containers.values().any(|ip| prefix.contains(*ip));
        let prefix = host.claims.keys().find(|prefix| !used(prefix)).copied()?;
        host.claims.remove(&prefix);
        host.settle(&self.network);
        let network = self.network.id.clone();
        self.step(n, Input::Release(network, prefix));
        Some(prefix)
    }

    /// A container starts on a host, however often an answer is lost on the way.
    pub(super) fn attach_surely(&mut self, n: usize) {
        let before = self.hosts[n].containers.len();
        for _ in 0..10 {
            if self.hosts[n].containers.len() == before {
                self.attach(n);
                self.run(2 * SECOND);
            }
        }
    }

    /// All containers of a host end.
    fn empty(&mut self, n: usize) {
        while !self.hosts[n].containers.is_empty() {
            self.detach(n);
        }
        self.run(SECOND);
    }

    /// Has a host start containers until it decides on an address of these.
    pub(super) fn claim_all(&mut self, n: usize, prefix: Prefix) -> bool {
        for _ in 0..300 {
            if self.hosts[n].claims.contains_key(&prefix) {
                return true;
            }
            self.attach(n);
            self.run(SECOND / 20);
        }
        false
    }
}

fn new(seed: u64) -> World {
    let mut world = World::new(seed, 3);
    for n in 0..3 {
        world.attach_surely(n);
    }
    world
}

#[test]
fn what_one_gives_back_another_gets() {
    for seed in 0..20 {
        let mut world = new(seed);
        world.empty(0);
        let prefix = world.release(0).unwrap();
        world.run(10 * SECOND);
        assert!(world.claim_all(1, prefix), "seed {seed}: {prefix}");
        world.judge(seed);
    }
}

/// The host wants them again at once: it claims them like anybody else, whatever becomes of its giving them back.
#[test]
fn who_gives_back_and_claims_again_has_them_once() {
    for seed in 0..40 {
        let mut world = new(seed);
        world.empty(0);
        world.release(0).unwrap();
        for n in 0..3 {
            for _ in 0..20 {
                world.attach(n);
            }
        }
        if seed % 2 == 0 {
            world.cut(0);
        }
        world.run(5 * SECOND);
        world.judge(seed);
    }
}

/// A daemon that is killed after the store took it, and before it heard so.
fn killed_on_the_way(seed: u64, safeguards: Safeguards) -> World {
    let mut world = new(seed);
    world.weaken(|rules| rules.core = safeguards);
    world.empty(0);
    let prefix = world.release(0).unwrap();
    world.kill(0);
    world.run(SECOND);
    world.claim_all(1, prefix);
    for _ in 0..5 {
        world.attach(1);
    }
    world.start(0);
    for _ in 0..20 {
        world.attach(0);
    }
    world.run(5 * SECOND);
    world.check();
    world
}

#[test]
fn a_daemon_that_is_killed_on_the_way_does_not_use_them() {
    for seed in 0..20 {
        killed_on_the_way(seed, Safeguards::default()).judge(seed);
    }
    let without = Safeguards {
        forget_first: false,
        ..Safeguards::default()
    };
    assert!(
        (0..20).any(|seed| !killed_on_the_way(seed, without).failures.is_empty()),
        "the safeguard is not needed"
    );
}

/// A store that is restored from a copy says that a host has what it gave back long ago, and another has now.
#[test]
fn an_old_copy_of_the_store_gives_nothing_back_to_its_former_holder() {
    for seed in 0..20 {
        let mut world = new(seed);
        world.empty(0);
        let snapshot = world.store.clone();
        let prefix = world.release(0).unwrap();
        world.run(5 * SECOND);
        assert!(world.claim_all(1, prefix));
        world.run(5 * SECOND);
        for n in 0..3 {
            world.cut(n);
        }
        world.up = false;
        world.run(SECOND);
        world.store = snapshot;
        world.heal();
        world.run(20 * SECOND);
        for _ in 0..40 {
            world.attach(0);
        }
        world.run(5 * SECOND);
        world.judge(seed);
    }
}

#[test]
fn storms_with_returns() {
    for seed in 0..12 {
        let hosts = 4;
        let mut world = World::new(seed, hosts);
        for _ in 0..150 {
            let n = world.dice.below(hosts);
            match world.dice.below(20) {
                0..=5 => world.attach(n),
                6..=9 => world.detach(n),
                10..=13 => drop(world.release(n)),
                14 => world.cut(n),
                15 => world.hosts[n].connected = true,
                16 => world.kill(n),
                17..=18 if world.hosts[n].core.is_none() => world.start(n),
                _ => {}
            }
            let pause = world.dice.below(500);
            world.run(Duration::from_millis(pause as u64));
        }
        world.judge(seed);
    }
}
