//! A host that was removed while it was away, and whose containers ran on, comes back: nobody ever has an address that somebody
//! else has.

use netd_model::Prefix;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

impl World {
    /// An operator removes a host that is away, and says with that that nothing of it runs any more.
    fn remove(&mut self, n: usize, by: usize) {
        self.cut(n);
        self.run(30 * SECOND);
        self.hosts[n].written_off = true;
        let ips: Vec<IpAddr> = self.hosts[n].containers.values().copied().collect();
        ips.iter().for_each(|ip| drop(self.held.remove(ip)));
        let name = self.hosts[n].name.clone();
        // An answer may be lost.
        for _ in 0..5 {
            self.ask(by, Wish::RemoveNode(name.clone()));
            self.run(2 * SECOND);
        }
    }

    /// It does run. What it says it has it must have alone.
    fn comes_back(&mut self, n: usize) {
        self.hosts[n].connected = true;
        self.run(30 * SECOND);
        self.hosts[n].written_off = false;
        let has = self.hosts[n].containers.clone();
        for (id, ip) in has {
            if let Some((other, theirs)) = self.held.insert(ip, (n, id.clone())) {
                self.failures.push(format!(
                    "{id} on h{n} has {ip}, which h{other} gave to {theirs}"
                ));
            }
        }
    }

    fn keys_of_removals(&self) -> usize {
        let keys = self.store.list(None).kvs.into_iter();
        keys.filter(|kv| kv.key.contains("/removed/")).count()
    }
}

/// Three hosts, the last of which has containers in two blocks. Those are returned.
fn two_blocks(seed: u64) -> (World, [Prefix; 2]) {
    let mut world = World::new(seed, 3);
    for n in 0..3 {
        world.attach_surely(n);
    }
    while world.hosts[2].containers.len() < 20 {
        world.attach_surely(2);
    }
    let blocks: Vec<Prefix> = world.hosts[2].claims.keys().copied().collect();
    (world, blocks.try_into().unwrap())
}

/// The block of these that is another host's is left to it; the other is claimed again, with all that is in it.
fn returns(seed: u64, rules: Rules, on_the_way: fn(&mut World)) -> World {
    let (mut world, [lost, kept]) = two_blocks(seed);
    world.weaken(|held| *held = rules);
    let before = world.hosts[2].containers.len();
    world.remove(2, 0);
    assert!(world.claim_all(0, lost), "seed {seed}");
    // All of it is in use there.
    while !world.hosts[0].spare.is_empty() {
        world.attach(0);
    }
    world.run(SECOND);
    let is_free = !world.hosts[0].claims.contains_key(&kept);
    on_the_way(&mut world);
    world.comes_back(2);
    for _ in 0..20 {
        world.attach(2);
    }
    world.run(5 * SECOND);
    world.check();
    if is_free && world.failures.is_empty() {
        let host = &world.hosts[2];
        assert!(host.claims.contains_key(&kept), "seed {seed}");
        assert!(!host.claims.contains_key(&lost), "seed {seed}");
        assert!(!host.cut_off.is_empty() && host.cut_off.len() < before);
        assert_eq!(world.keys_of_removals(), 0, "seed {seed}");
    }
    world
}

/// Invariant I6, and the reason why a removed host once had to be set up anew.
#[test]
fn a_removed_host_that_returns_leaves_to_others_what_they_have() {
    for seed in 0..20 {
        returns(seed, Rules::default(), |_| {}).judge(seed);
    }
    let mut without = Rules::default();
    without.core.heed_removal = false;
    assert!(
        (0..5).any(|seed| !returns(seed, without, |_| {}).failures.is_empty()),
        "the safeguard is not needed"
    );
}

/// Its daemon is killed at any point of that, and starts again.
#[test]
fn a_removed_host_may_be_killed_while_it_returns() {
    for seed in 0..40 {
        let world = returns(seed, Rules::default(), |world| {
            for _ in 0..3 {
                world.hosts[2].connected = true;
                let pause = world.dice.below(600) as u64;
                world.run(Duration::from_millis(pause));
                world.kill(2);
                world.start(2);
            }
        });
        world.judge(seed);
    }
}

/// Nobody has claimed anything of it: it has everything again, and goes on as another incarnation.
#[test]
fn a_removed_host_claims_again_what_is_free() {
    for seed in 0..10 {
        let (mut world, blocks) = two_blocks(seed);
        let before = world.hosts[2].containers.clone();
        world.remove(2, 1);
        assert_eq!(world.keys_of_removals(), 1);
        let knows = |world: &World| {
            let name = world.hosts[2].name.as_str();
            world.hosts[0]
                .believed
                .keys()
                .any(|(node, _)| node.as_str() == name)
        };
        assert!(!knows(&world), "seed {seed}: removed");
        world.comes_back(2);
        assert_eq!(world.hosts[2].containers, before, "seed {seed}");
        assert!(
            blocks
                .iter()
                .all(|block| world.hosts[2].claims.contains_key(block))
        );
        assert_eq!(world.keys_of_removals(), 0, "seed {seed}");
        let alive = world.store.get("nodes/h2/alive").unwrap();
        let alive = String::from_utf8_lossy(alive);
        assert!(alive.contains('+'), "seed {seed}: {alive}");
        world.judge(seed);
    }
}

/// A removal of many keys takes several transactions. A host that returns between them is removed as a whole, or not any further.
#[test]
fn a_removal_in_parts_does_not_pass_a_host_by_that_returns() {
    for seed in 0..10 {
        let mut world = World::on("10.0.0.0/20", seed, 2);
        while world.hosts[1].containers.len() < 250 {
            world.attach(1);
            world.run(SECOND / 20);
        }
        world.run(5 * SECOND);
        let ips: Vec<IpAddr> = world.hosts[1].containers.values().copied().collect();
        world.cut(1);
        world.run(30 * SECOND);
        ips.iter().for_each(|ip| drop(world.held.remove(ip)));
        world.hosts[1].written_off = true;
        let name = world.hosts[1].name.clone();
        world.ask(0, Wish::RemoveNode(name));
        let pause = world.dice.below(60) as u64;
        world.run(Duration::from_millis(pause));
        world.comes_back(1);
        for _ in 0..40 {
            world.attach(0);
            world.attach(1);
        }
        world.run(5 * SECOND);
        world.judge(seed);
    }
}
