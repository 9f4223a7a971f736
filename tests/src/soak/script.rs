//! What clients do and what happens to them: from the seed alone.

use super::{CLIENTS, NETWORKS, PORTS, SLOTS, Shape};

/// Operations of a client in a round.
const STEPS: usize = 40;

/// One operation. A dry run of a change has to be answered as the change would be, and to change nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    CreateNetwork {
        network: usize,
        dry: bool,
    },
    RemoveNetwork {
        network: usize,
        dry: bool,
    },
    InspectNetwork {
        network: usize,
    },
    Attach {
        slot: usize,
        shape: Shape,
        dry: bool,
    },
    /// The request that the container was attached with, once more.
    Repeat {
        slot: usize,
    },
    Detach {
        slot: usize,
        dry: bool,
    },
    Connect {
        slot: usize,
        network: usize,
        dry: bool,
    },
    Disconnect {
        slot: usize,
        network: usize,
        dry: bool,
    },
    Inspect {
        slot: usize,
    },
    List,
    Plan,
    /// A request that is refused whatever there is.
    Bad {
        which: usize,
    },
    /// The namespace ends.
    Vanish {
        slot: usize,
    },
}

/// What happens to the daemon and the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Kill,
    Stop,
    DeleteLink(usize),
    LinkDown(usize),
    FlushTable,
}

/// What a client does in a round.
pub(super) fn of_client(seed: u64, round: u64, client: usize) -> Vec<Step> {
    let mut dice = Dice::new(seed, round, client);
    (0..STEPS).map(|_| step(&mut dice)).collect()
}

/// Faults of a round, each after so many operations. Every other round has a daemon that lives, every third a kernel that
/// nobody tampers with.
pub(super) fn faults(seed: u64, round: u64) -> Vec<(usize, Fault)> {
    let mut dice = Dice::new(seed, round, CLIENTS);
    let mut faults = Vec::new();
    let at = |dice: &mut Dice| dice.below(CLIENTS * STEPS * 9 / 10);
    if round % 2 == 1 {
        for _ in 0..=dice.below(2) {
            let fault = if dice.one_in(2) {
                Fault::Kill
            } else {
                Fault::Stop
            };
            faults.push((at(&mut dice), fault));
        }
    }
    if round % 3 == 2 {
        for _ in 0..=dice.below(3) {
            let which = dice.below(64);
            let fault = match dice.below(5) {
                0 => Fault::FlushTable,
                1 | 2 => Fault::LinkDown(which),
                _ => Fault::DeleteLink(which),
            };
            faults.push((at(&mut dice), fault));
        }
    }
    faults.sort_by_key(|(after, _)| *after);
    faults
}

fn step(dice: &mut Dice) -> Step {
    let (network, slot) = (dice.below(NETWORKS), dice.below(SLOTS));
    let dry = dice.one_in(6);
    match dice.below(100) {
        0..11 => Step::CreateNetwork { network, dry },
        11..20 => Step::RemoveNetwork { network, dry },
        20..24 => Step::InspectNetwork { network },
        24..48 => Step::Attach {
            slot,
            shape: shape(dice),
            dry,
        },
        48..51 => Step::Repeat { slot },
        51..66 => Step::Detach { slot, dry },
        66..76 => Step::Connect { slot, network, dry },
        76..84 => Step::Disconnect { slot, network, dry },
        84..88 => Step::Inspect { slot },
        88..91 => Step::List,
        91..94 => Step::Plan,
        94..99 => Step::Bad {
            which: dice.below(usize::MAX),
        },
        _ => Step::Vanish { slot },
    }
}

/// One network or two, no port, one or two.
fn shape(dice: &mut Dice) -> Shape {
    let pick = |dice: &mut Dice, of: usize, most: usize| {
        let count = dice.below(most + 1);
        (0..count).map(|_| dice.below(of)).collect()
    };
    let mut networks: std::collections::BTreeSet<usize> = pick(dice, NETWORKS, 1);
    networks.insert(dice.below(NETWORKS));
    Shape {
        networks,
        ports: pick(dice, PORTS, 2),
    }
}

/// Numbers that look random and come from the seed (splitmix64).
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64, round: u64, who: usize) -> Self {
        let mut dice = Self(seed);
        let round = dice.next().wrapping_add(round);
        let mut dice = Self(round);
        let who = dice.next().wrapping_add(who as u64);
        Self(who)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("below a usize")
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_depend_on_the_seed_only() {
        assert_eq!(of_client(7, 3, 2), of_client(7, 3, 2));
        assert_eq!(faults(7, 5), faults(7, 5));
        assert_ne!(of_client(7, 3, 2), of_client(8, 3, 2));
        assert_ne!(of_client(7, 3, 2), of_client(7, 4, 2));
        assert_ne!(of_client(7, 3, 2), of_client(7, 3, 1));
    }
}
