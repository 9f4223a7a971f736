use proptest::prelude::*;

use super::*;

const FULL: usize = 1422;

fn target(host: &str) -> Target {
    Target {
        network: NetworkId::from_bytes([9; 16]),
        host: Name::parse(host).unwrap(),
    }
}

/// Two hosts, and what the network between them drops.
struct Pair {
    now: Duration,
    hosts: [Prober; 2],
    /// From host n to the other: which sizes are lost.
    lost: [Vec<Size>; 2],
    /// How many datagrams each has sent.
    sent: [u32; 2],
}

impl Pair {
    fn new() -> Self {
        let mut pair = Self {
            now: Duration::from_secs(5),
            hosts: [Prober::new(1), Prober::new(2)],
            lost: [Vec::new(), Vec::new()],
            sent: [0; 2],
        };
        for n in 0..2 {
            pair.set(n);
        }
        pair
    }

    fn set(&mut self, n: usize) {
        let wanted = BTreeMap::from([(Self::peer(n), FULL)]);
        self.hosts[n].set(&wanted, self.now);
    }

    /// The other one, as host n knows it.
    fn peer(n: usize) -> Target {
        target(["h1", "h0"][n])
    }

    fn run(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while self.now < end {
            self.now += Duration::from_millis(10);
            for n in 0..2 {
                while let Some((to, payloads)) = self.hosts[n].poll(self.now) {
                    assert_eq!(to, Self::peer(n));
                    for (size, payload) in payloads {
                        self.sent[n] += 1;
                        if !self.lost[n].contains(&size) {
                            self.hosts[1 - n].take(&Self::peer(1 - n), &payload, self.now);
                        }
                    }
                }
            }
        }
    }

    /// From small, from full, to small, to full, as a host sees them.
    fn sees(&self, n: usize) -> [&'static str; 4] {
        let paths = self.hosts[n].paths(self.now)[&Self::peer(n)];
        [
            paths.from.small,
            paths.from.full,
            paths.to.small,
            paths.to.full,
        ]
        .map(State::as_str)
    }
}

#[test]
fn all_is_well_within_two_rounds_and_stays_so() {
    let mut pair = Pair::new();
    assert_eq!(pair.sees(0), ["unknown"; 4]);
    pair.run(3);
    for _ in 0..100 {
        assert_eq!(pair.sees(0), ["ok"; 4]);
        assert_eq!(pair.sees(1), ["ok"; 4]);
        pair.run(1);
    }
}

#[test]
fn a_loss_is_told_by_both_with_its_way_and_its_size() {
    for (lost, first, second) in [
        (
            vec![Size::Full],
            ["ok", "ok", "ok", "lost"],
            ["ok", "lost", "ok", "ok"],
        ),
        (
            vec![Size::Small],
            ["ok", "ok", "lost", "ok"],
            ["lost", "ok", "ok", "ok"],
        ),
        // Who hears nothing does not know whether it is heard.
        (
            Size::ALL.to_vec(),
            ["ok", "ok", "lost", "lost"],
            ["lost", "lost", "unknown", "unknown"],
        ),
    ] {
        let mut pair = Pair::new();
        pair.run(3);
        pair.lost[0] = lost;
        pair.run(6);
        for _ in 0..10 {
            assert_eq!(pair.sees(0), first);
            assert_eq!(pair.sees(1), second);
            pair.run(1);
        }
        pair.lost[0].clear();
        pair.run(3);
        assert_eq!(pair.sees(0), ["ok"; 4]);
        assert_eq!(pair.sees(1), ["ok"; 4]);
    }
}

/// A device that gets checksums wrong: at one end, or at both.
#[test]
fn where_only_plain_ones_arrive_checksums_are_wrong() {
    let mangled = || vec![Size::Small, Size::Full];
    let way = |pair: &Pair, n: usize| pair.hosts[n].paths(pair.now)[&Pair::peer(n)];
    let mut pair = Pair::new();
    pair.run(5);
    let sent = pair.sent;
    pair.run(100);
    // Two in a second: where all is well no plain one is sent.
    assert!(pair.sent[0] - sent[0] <= 2 * 101, "{:?}", pair.sent);
    pair.lost[0] = mangled();
    pair.run(6);
    for _ in 0..10 {
        let (one, other) = (way(&pair, 0), way(&pair, 1));
        assert!(one.to.mangles() && !one.from.mangles(), "{one:?}");
        assert!(other.from.mangles(), "{other:?}");
        assert_eq!([other.to.small, other.to.full], [State::Ok; 2]);
        pair.run(1);
    }
    // And from the start, both ways: each knows of both.
    let mut pair = Pair::new();
    pair.lost = [mangled(), mangled()];
    pair.run(10);
    for _ in 0..10 {
        for n in 0..2 {
            let paths = way(&pair, n);
            assert!(paths.from.mangles() && paths.to.mangles(), "{paths:?}");
        }
        pair.run(1);
    }
    pair.lost = [Vec::new(), Vec::new()];
    pair.run(8);
    for n in 0..2 {
        assert_eq!(pair.sees(n), ["ok"; 4]);
        assert_eq!(way(&pair, n).from.plain, State::Unknown);
    }
}

#[test]
fn a_way_that_never_worked_is_lost_too() {
    let mut pair = Pair::new();
    pair.lost = [Size::ALL.to_vec(), Size::ALL.to_vec()];
    pair.run(10);
    assert_eq!(pair.sees(0), ["lost", "lost", "unknown", "unknown"]);
    let mut pair = Pair::new();
    pair.lost[0] = vec![Size::Full];
    pair.run(10);
    assert_eq!(pair.sees(0), ["ok", "ok", "ok", "lost"]);
    assert_eq!(pair.sees(1), ["ok", "lost", "ok", "ok"]);
}

#[test]
fn a_restart_of_either_is_no_loss() {
    let mut pair = Pair::new();
    pair.run(3);
    for n in 0..2 {
        pair.hosts[n] = Prober::new(10 + n as u64);
        pair.set(n);
        for _ in 0..100 {
            pair.run(1);
            for host in 0..2 {
                assert!(!pair.sees(host).contains(&"lost"), "{:?}", pair.sees(host));
            }
        }
        assert_eq!(pair.sees(0), ["ok"; 4]);
    }
}

#[test]
fn many_peers_are_probed_at_a_bounded_rate() {
    let mut prober = Prober::new(1);
    let wanted: BTreeMap<Target, usize> = (0..1000)
        .map(|n| (target(&format!("h{n}")), FULL))
        .collect();
    prober.set(&wanted, Duration::ZERO);
    let mut sent = 0_u32;
    for tenth in 0..1200_u32 {
        while prober.poll(Duration::from_millis(100) * tenth).is_some() {
            sent += 1;
        }
    }
    // 120 seconds, a peer each 20 ms.
    assert!((5500..=6500).contains(&sent), "{sent}");
}

#[test]
fn who_is_not_wanted_is_forgotten() {
    let mut pair = Pair::new();
    pair.run(3);
    pair.hosts[0].set(&BTreeMap::new(), pair.now);
    assert_eq!(pair.hosts[0].due(), None);
    assert!(pair.hosts[0].paths(pair.now).is_empty());
}

fn packets() -> impl Strategy<Value = (Packet, usize)> {
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<[u64; 3]>());
    let sizes = prop::sample::select(&Size::ALL);
    (sizes, any::<u32>(), numbers, HEADER..2000_usize).prop_map(
        |(size, round, (session, number, of, [small, full, plain]), length)| {
            let plain = if size == Size::Plain { plain } else { 0 };
            let packet = Packet {
                size,
                round: Duration::from_millis(round.into()),
                session,
                number,
                heard: Heard {
                    session: of,
                    numbers: [small, full, plain],
                },
            };
            let length = match size {
                Size::Small => HEADER,
                Size::Full => length,
                Size::Plain => PLAIN,
            };
            (packet, length)
        },
    )
}

proptest! {
    #[test]
    fn a_packet_reads_back_as_it_was_written((packet, length) in packets()) {
        let bytes = packet.encode(length);
        prop_assert_eq!(bytes.len(), length);
        prop_assert_eq!(Packet::decode(&bytes), Some(packet));
        // One that was cut is none.
        prop_assert_eq!(Packet::decode(&bytes[..length - 1]), None);
    }

    #[test]
    fn no_bytes_make_it_panic(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 0..20),
        begin: bool,
    ) {
        let mut prober = Prober::new(1);
        prober.set(&BTreeMap::from([(target("h1"), FULL)]), Duration::ZERO);
        for (n, mut payload) in payloads.into_iter().enumerate() {
            if begin && payload.len() >= HEADER {
                let length = u16::try_from(payload.len()).unwrap();
                payload[..6].copy_from_slice(b"netd\x01\x01");
                payload[6..8].copy_from_slice(&length.to_be_bytes());
            }
            let now = Duration::from_secs(n as u64);
            prober.take(&target("h1"), &payload, now);
            prober.poll(now);
            prober.paths(now);
        }
    }
}
