//! The pool against a model so naive that it is obviously right: one state per address and linear
//! scans. Random sequences of every operation on small prefixes of both families, placed also at
//! the very ends of the address space.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::addr::number;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Used,
    Reserved,
    /// Until when, and which release it was.
    Resting(u64, usize),
}

struct Naive {
    states: Vec<State>,
    auto: std::ops::RangeInclusive<usize>,
    cursor: usize,
    rest: u64,
    releases: usize,
}

impl Naive {
    fn is_free(&self, at: usize) -> bool {
        self.states[at] == State::Free
    }

    /// Resting addresses of the range, the one to be used first in front.
    fn resting(&self) -> Vec<usize> {
        let rank = |&at: &usize| match self.states[at] {
            State::Resting(until, order) => Some((until, order)),
            _ => None,
        };
        let mut all: Vec<usize> = self.auto.clone().filter(|at| rank(at).is_some()).collect();
        all.sort_by_key(rank);
        all
    }

    fn allocate(&mut self, now: u64) -> Option<usize> {
        let round = (self.cursor..=*self.auto.end()).chain(*self.auto.start()..self.cursor);
        let free = round.into_iter().find(|&at| self.is_free(at));
        let at = free.or_else(|| self.resting().first().copied())?;
        self.states[at] = State::Used;
        self.cursor = if at == *self.auto.end() {
            *self.auto.start()
        } else {
            at + 1
        };
        self.free_expired(now);
        Some(at)
    }

    /// The code of the error, if it is one.
    fn claim(&mut self, at: usize) -> Result<(), &'static str> {
        match self.states[at] {
            State::Reserved => Err("invalid_ip"),
            State::Used => Err("address_in_use"),
            State::Free | State::Resting(..) => {
                self.states[at] = State::Used;
                Ok(())
            }
        }
    }

    fn give_back(&mut self, at: usize, rests: Option<u64>) -> Result<(), &'static str> {
        if self.states[at] != State::Used {
            return Err("address_not_in_use");
        }
        self.states[at] = match rests {
            Some(now) if self.auto.contains(&at) => State::Resting(now + self.rest, self.releases),
            _ => State::Free,
        };
        self.releases += 1;
        if let Some(now) = rests {
            self.free_expired(now);
        }
        Ok(())
    }

    fn free_expired(&mut self, now: u64) {
        if !self.auto.clone().any(|at| self.is_free(at)) {
            return;
        }
        for at in self.resting().into_iter().take(FREED_PER_CALL) {
            if matches!(self.states[at], State::Resting(until, _) if until <= now) {
                self.states[at] = State::Free;
            }
        }
    }
}

/// A pool and the model of it.
struct Pair {
    pool: Pool,
    naive: Naive,
    first: u128,
}

#[derive(Clone, Debug)]
struct Setup {
    prefix: IpNetwork,
    range: Option<IpNetwork>,
    gateway: Option<IpAddr>,
    excluded: Vec<IpNetwork>,
}

impl Setup {
    fn reserves(&self, ip: IpAddr) -> bool {
        let span = Span::of(self.prefix);
        let value = number(ip).1;
        let edge = match (span.last - span.first, ip) {
            (0 | 1, _) => false,
            (_, IpAddr::V4(_)) => value == span.first || value == span.last,
            (_, IpAddr::V6(_)) => value == span.first,
        };
        edge || self.gateway == Some(ip) || self.excluded.iter().any(|net| net.contains(ip))
    }

    fn pair(&self) -> Pair {
        let pool = Pool::new(self.prefix, self.range, self.gateway, &self.excluded).unwrap();
        let span = Span::of(self.prefix);
        let auto = Span::of(self.range.unwrap_or(self.prefix));
        let index = |value: u128| usize::try_from(value - span.first).unwrap();
        let states = (span.first..=span.last)
            .map(|v| {
                if self.reserves(span.family.addr(v)) {
                    State::Reserved
                } else {
                    State::Free
                }
            })
            .collect();
        let auto = index(auto.first)..=index(auto.last);
        let naive = Naive {
            states,
            cursor: *auto.start(),
            auto,
            rest: 60,
            releases: 0,
        };
        Pair {
            pool,
            naive,
            first: span.first,
        }
    }
}

impl Pair {
    fn ip(&self, at: usize) -> IpAddr {
        self.pool.all.family.addr(self.first + at as u128)
    }

    /// Every public view of the pool agrees with the model.
    fn check(&self) {
        let states = &self.naive.states;
        let used = |range: &[State]| range.iter().filter(|s| **s == State::Used).count() as u128;
        for (at, state) in states.iter().enumerate() {
            assert_eq!(
                self.pool.is_used(self.ip(at)),
                *state == State::Used,
                "{}",
                self.ip(at)
            );
        }
        let auto = &states[self.naive.auto.clone()];
        let usable = auto
            .iter()
            .filter(|state| **state != State::Reserved)
            .count();
        assert_eq!(self.pool.capacity(), usable as u128);
        assert_eq!(self.pool.len_used(), used(states));
        assert_eq!(self.pool.len_used_in_range(), used(auto));
        assert_eq!(self.pool.len_quarantined(), self.naive.resting().len());
        assert_eq!(self.pool.cursor(), self.ip(self.naive.cursor));
    }
}

#[derive(Clone, Debug)]
enum Op {
    Allocate,
    Claim(usize),
    Adopt(usize),
    Release(usize),
    Unclaim(usize),
    Wait(u64),
    Rest(u64),
    Cursor(usize),
}

fn setups() -> impl Strategy<Value = Setup> {
    let prefixes = prop::sample::select(vec![
        "10.1.2.0/27",
        "10.1.2.16/28",
        "0.0.0.0/29",
        "255.255.255.240/28",
        "10.0.0.8/30",
        "10.0.0.8/31",
        "255.255.255.255/32",
        "fd00::/123",
        "::/124",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0/124",
        "fd00::8/126",
        "fd00::8/127",
        "fd00::8/128",
    ]);
    let parts = prop::collection::vec((any::<u128>(), 0..4_u8), 0..3);
    (
        prefixes,
        prop::option::of((any::<u128>(), 0..4_u8)),
        prop::option::of(any::<u128>()),
        parts,
    )
        .prop_map(|(prefix, range, gateway, excluded)| setup(prefix, range, gateway, &excluded))
}

/// Parts are drawn as (any number, how much longer than the prefix) and brought inside it.
fn setup(
    prefix: &str,
    range: Option<(u128, u8)>,
    gateway: Option<u128>,
    excluded: &[(u128, u8)],
) -> Setup {
    let prefix: IpNetwork = prefix.parse().unwrap();
    let span = Span::of(prefix);
    let inside = |value: u128| span.first + value % (span.last - span.first + 1);
    let part = |&(value, longer): &(u128, u8)| {
        let length = (prefix.prefix() + longer).min(span.family.bits());
        span.family.network(inside(value), length)
    };
    let gateway = gateway.map(|value| span.family.addr(inside(value)));
    Setup {
        prefix,
        range: range.as_ref().map(part),
        gateway: gateway.filter(|ip| Pool::new(prefix, None, Some(*ip), &[]).is_ok()),
        // A part as large as the prefix would leave nothing to test.
        excluded: excluded
            .iter()
            .filter(|(_, longer)| *longer > 1)
            .map(part)
            .collect(),
    }
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let at = || 0..64_usize;
    let op = prop_oneof![
        6 => Just(Op::Allocate),
        2 => at().prop_map(Op::Claim),
        1 => at().prop_map(Op::Adopt),
        4 => at().prop_map(Op::Release),
        1 => at().prop_map(Op::Unclaim),
        2 => (0..50_u64).prop_map(Op::Wait),
        1 => prop::sample::select(vec![0, 5, 60, 120]).prop_map(Op::Rest),
        1 => at().prop_map(Op::Cursor),
    ];
    prop::collection::vec(op, 0..120)
}

fn apply(pair: &mut Pair, op: &Op, clock: &mut u64) {
    let size = pair.naive.states.len();
    let now = Duration::from_secs(*clock);
    match *op {
        Op::Allocate => {
            let expected = pair.naive.allocate(*clock).map(|at| pair.ip(at));
            assert_eq!(pair.pool.allocate(now).ok(), expected);
        }
        Op::Claim(at) | Op::Adopt(at) => {
            let (ip, expected) = (pair.ip(at % size), pair.naive.claim(at % size));
            let adopts = matches!(op, Op::Adopt(_));
            let result = if adopts {
                pair.pool.adopt(ip)
            } else {
                pair.pool.claim(ip)
            };
            assert_eq!(result.map_err(|error| error.code()), expected, "{ip}");
        }
        Op::Release(at) => {
            let (ip, expected) = (
                pair.ip(at % size),
                pair.naive.give_back(at % size, Some(*clock)),
            );
            assert_eq!(
                pair.pool.release(ip, now).map_err(|error| error.code()),
                expected,
                "{ip}"
            );
        }
        Op::Unclaim(at) => {
            let (ip, expected) = (pair.ip(at % size), pair.naive.give_back(at % size, None));
            assert_eq!(
                pair.pool.unclaim(ip).map_err(|error| error.code()),
                expected,
                "{ip}"
            );
        }
        Op::Wait(seconds) => *clock += seconds,
        Op::Rest(seconds) => {
            pair.naive.rest = seconds;
            pair.pool.set_quarantine(Duration::from_secs(seconds));
        }
        Op::Cursor(at) => {
            pair.pool.set_cursor(pair.ip(at % size));
            let inside = pair.naive.auto.contains(&(at % size));
            pair.naive.cursor = if inside {
                at % size
            } else {
                *pair.naive.auto.start()
            };
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn agrees_with_the_naive_model(setup in setups(), ops in ops()) {
        let (mut pair, mut clock) = (setup.pair(), 0);
        pair.check();
        for op in &ops {
            apply(&mut pair, op, &mut clock);
            pair.check();
        }
    }

    /// The promises themselves, without the model: no address twice, none that is reserved, none
    /// outside the range, and none that rests while another one is free.
    #[test]
    fn promises_hold(setup in setups(), ops in ops()) {
        let mut pool = Pool::new(setup.prefix, setup.range, setup.gateway, &setup.excluded).unwrap();
        let range = setup.range.unwrap_or(setup.prefix);
        let (mut held, mut released) = (Vec::new(), Vec::<(IpAddr, u64)>::new());
        let mut clock = 0;
        for op in &ops {
            match *op {
                Op::Allocate => {
                    let tight = pool.len_used() + pool.len_quarantined() as u128 == pool.capacity();
                    let Ok(ip) = pool.allocate(Duration::from_secs(clock)) else {
                        prop_assert_eq!(held.len() as u128, pool.capacity());
                        continue;
                    };
                    prop_assert!(range.contains(ip) && !setup.reserves(ip) && !held.contains(&ip));
                    let rests = released.iter().rfind(|(other, _)| *other == ip);
                    prop_assert!(tight || rests.is_none_or(|(_, at)| at + 60 <= clock), "{}", ip);
                    held.push(ip);
                }
                Op::Release(at) if !held.is_empty() => {
                    let ip = held.swap_remove(at % held.len());
                    pool.release(ip, Duration::from_secs(clock)).unwrap();
                    released.push((ip, clock));
                }
                Op::Wait(seconds) => clock += seconds,
                _ => {}
            }
        }
    }

    /// Without releases, one round hands out every address of the range once, in rising order.
    #[test]
    fn one_round_meets_every_address(setup in setups()) {
        let mut pool = Pool::new(setup.prefix, setup.range, setup.gateway, &setup.excluded).unwrap();
        let mut round = Vec::new();
        while let Ok(ip) = pool.allocate(Duration::ZERO) {
            round.push(ip);
        }
        let range = setup.range.unwrap_or(setup.prefix);
        let expected: Vec<IpAddr> = range.iter().filter(|ip| !setup.reserves(*ip)).collect();
        prop_assert_eq!(round.iter().collect::<HashSet<_>>().len() as u128, pool.capacity());
        prop_assert_eq!(round, expected);
    }
}
