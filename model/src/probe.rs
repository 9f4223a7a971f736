//! Probes of an overlay by the overlay: whether what one host sends reaches another, each way, small and as large as the
//! network allows. Pure: the clock is an argument, and datagrams are bytes.
//!
//! Each host sends each peer of each network a small and a full datagram from time to time, numbered, and says in it which
//! numbers of the peer it has heard last. So a host sees by what arrives how the way towards it is, and by what the peer says
//! how the way to the peer is; nobody answers, and a host's cost is one pair of datagrams for each peer and round. The round is
//! longer the more peers there are, and each datagram says how long, so that its reader knows what is late.
//!
//! The kernel leaves checksums to the device that sends a packet. There are devices that get those inside VXLAN wrong, and what
//! they send is dropped where it arrives: nothing works, and no counter says why. So as long as a host does not know that its small
//! datagrams arrive, it sends a plain one with them, whose checksum is computed before any device sees it. If that one arrives
//! alone, the checksums are at fault.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::NetworkId;
use crate::id::Name;

mod packet;

pub use packet::{HEADER, Heard, PLAIN, Packet};

/// The UDP port of probes, at the overlay address that each host has for itself.
pub const PORT: u16 = 4792;
/// The shortest time between two probes of one peer.
const ROUND: Duration = Duration::from_secs(1);
/// Time for each peer: 50 peers in a second, 100 datagrams.
const EACH: Duration = Duration::from_millis(20);
/// Nobody's round is believed to be longer.
const LONGEST: Duration = Duration::from_mins(2);
/// So many rounds without a probe, and a bit, are a loss.
const MISSED: u32 = 3;
const SLACK: Duration = Duration::from_millis(500);

/// The kinds of probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// As small as a probe can be.
    Small,
    /// As large as the network's MTU allows.
    Full,
    /// Small, with a checksum that no device computes; only where small ones may be lost.
    Plain,
}

impl Size {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Small, Self::Full, Self::Plain];
}

/// How one way is, for one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not known: it is too early to tell, or nobody tells.
    #[default]
    Unknown,
    /// Probes arrive.
    Ok,
    /// They do not.
    Lost,
}

impl State {
    /// Whether nothing is known.
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "the signature that serde wants"
    )]
    const fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown)
    }

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ok => "ok",
            Self::Lost => "lost",
        }
    }
}

/// One way, for each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// Of small datagrams.
    pub small: State,
    /// Of those as large as the network's MTU.
    pub full: State,
    /// Of those whose checksum no device computes: `ok` only where small ones may be lost and these arrive.
    #[serde(default, skip_serializing_if = "State::is_unknown")]
    pub plain: State,
}

impl Way {
    fn of(each: impl Fn(Size) -> State) -> Self {
        Self {
            small: each(Size::Small),
            full: each(Size::Full),
            plain: each(Size::Plain),
        }
    }

    /// Whether anything arrives.
    pub fn arrives(self) -> bool {
        [self.small, self.full, self.plain].contains(&State::Ok)
    }

    /// Whether it is checksums that are wrong: what bears one from a device is lost, what bears another arrives.
    pub fn mangles(self) -> bool {
        (self.small, self.full, self.plain) == (State::Lost, State::Lost, State::Ok)
    }
}

/// A peer on a network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The network.
    pub network: NetworkId,
    /// The peer's name.
    pub host: Name,
}

/// How it stands with a peer on a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// From the peer to this host.
    pub from: Way,
    /// From this host to the peer.
    pub to: Way,
}

/// What to send at once, each of its kind.
pub type Payloads = Vec<(Size, Vec<u8>)>;

/// Something that arrived, and when.
type Seen = Option<(u64, Duration)>;

/// What is known of the datagrams between this host and a peer; arrays are by [`Size`].
#[derive(Clone, Debug)]
struct Peer {
    /// Length of the payload of full datagrams, in bytes.
    full: usize,
    /// When it was first wanted.
    since: Duration,
    /// When it spoke again after a silence, or as another daemon: what it says of this host's probes is late by a round.
    back: Duration,
    next: Duration,
    sent: u64,
    session: Option<u64>,
    round: Duration,
    heard: [Seen; 3],
    /// This host's probes that the peer says it has heard.
    confirmed: [Seen; 3],
}

/// The probes of one daemon.
#[derive(Debug)]
pub struct Prober {
    /// Tells this daemon's numbers from those of the one before.
    session: u64,
    peers: BTreeMap<Target, Peer>,
    due: BTreeSet<(Duration, Target)>,
}

impl Prober {
    /// Without peers. `session`: any number that the daemon before did not have.
    pub const fn new(session: u64) -> Self {
        Self {
            session,
            peers: BTreeMap::new(),
            due: BTreeSet::new(),
        }
    }

    /// Who is to be probed from now on, each with the payload of a full datagram in bytes.
    pub fn set(&mut self, wanted: &BTreeMap<Target, usize>, now: Duration) {
        self.peers.retain(|target, _| wanted.contains_key(target));
        self.due.retain(|(_, target)| wanted.contains_key(target));
        let mut first = now;
        for (target, full) in wanted {
            let full = (*full).max(HEADER);
            if let Some(peer) = self.peers.get_mut(target) {
                peer.full = full;
                continue;
            }
            let peer = Peer {
                full,
                since: now,
                back: now,
                next: first,
                sent: 0,
                session: None,
                round: ROUND,
                heard: [None; 3],
                confirmed: [None; 3],
            };
            self.due.insert((first, target.clone()));
            self.peers.insert(target.clone(), peer);
            // Not all at once.
            first += EACH;
        }
    }

    /// When [`Prober::poll`] has something to send.
    pub fn due(&self) -> Option<Duration> {
        self.due.first().map(|(at, _)| *at)
    }

    /// From one probe of a peer to the next.
    fn round(&self) -> Duration {
        let peers = u32::try_from(self.peers.len()).unwrap_or(u32::MAX);
        EACH.saturating_mul(peers).clamp(ROUND, LONGEST)
    }

    /// What to send now: payloads for one peer. None: nothing is due.
    pub fn poll(&mut self, now: Duration) -> Option<(Target, Payloads)> {
        self.due.first().filter(|(at, _)| *at <= now)?;
        let (_, target) = self.due.pop_first()?;
        let round = self.round();
        let peer = self.peers.get_mut(&target)?;
        peer.next = now + round;
        peer.sent += 1;
        self.due.insert((peer.next, target.clone()));
        let number = |seen: Seen| seen.map_or(0, |(number, _)| number);
        let heard = Heard {
            session: peer.session.unwrap_or(0),
            numbers: peer.heard.map(number),
        };
        let packet = |size| Packet {
            size,
            round,
            session: self.session,
            number: peer.sent,
            heard,
        };
        let mut sizes = vec![Size::Small, Size::Full];
        if peer.wants_plain(round, now) {
            sizes.push(Size::Plain);
        }
        let payloads = sizes
            .into_iter()
            .map(|size| (size, packet(size).encode(peer.full)));
        Some((target, payloads.collect()))
    }

    /// Takes what came from a peer. What is none of its probes is left.
    pub fn take(&mut self, target: &Target, payload: &[u8], now: Duration) {
        let (Some(packet), Some(peer)) = (Packet::decode(payload), self.peers.get_mut(target))
        else {
            return;
        };
        let own = packet.session == self.session;
        if own || (packet.size == Size::Full && payload.len() < peer.full) {
            // Its own, reflected; or of a peer that does not know the network's MTU.
            return;
        }
        let silent = Size::ALL
            .into_iter()
            .all(|size| !peer.is_fresh(peer.heard[size as usize], now));
        if silent || peer.session != Some(packet.session) {
            peer.back = now;
        }
        if peer.session != Some(packet.session) {
            peer.session = Some(packet.session);
            peer.heard = [None; 3];
        }
        peer.round = packet.round.clamp(ROUND, LONGEST);
        let later = |seen: Seen, number: u64| seen.is_none_or(|(last, _)| number > last);
        let heard = &mut peer.heard[packet.size as usize];
        if later(*heard, packet.number) {
            *heard = Some((packet.number, now));
        }
        if packet.heard.session != self.session {
            return;
        }
        for (confirmed, number) in peer.confirmed.iter_mut().zip(packet.heard.numbers) {
            if number > 0 && number <= peer.sent && later(*confirmed, number) {
                *confirmed = Some((number, now));
            }
        }
    }

    /// How it stands with each peer.
    pub fn paths(&self, now: Duration) -> BTreeMap<Target, Paths> {
        let round = self.round();
        let peers = self.peers.iter();
        peers
            .map(|(target, peer)| (target.clone(), peer.paths(round, now)))
            .collect()
    }
}

impl Peer {
    fn is_fresh(&self, seen: Seen, now: Duration) -> bool {
        seen.is_some_and(|(_, at)| now <= at + self.round * MISSED + SLACK)
    }

    /// Whether the peer may not get small datagrams of this host's; or sends plain ones, because this host may not get its
    /// small ones: only in a plain one it is told that they arrive.
    fn wants_plain(&self, round: Duration, now: Duration) -> bool {
        let paths = self.paths(round, now);
        paths.to.small != State::Ok
            || (paths.from.small != State::Ok && paths.from.plain == State::Ok)
    }

    /// `round`: this host's.
    fn paths(&self, round: Duration, now: Duration) -> Paths {
        let from = Way::of(|size| {
            if self.is_fresh(self.heard[size as usize], now) {
                State::Ok
            } else if size == Size::Plain {
                // It may be that none was sent.
                State::Unknown
            } else if now <= self.since.max(self.back_of(size)) + self.round * MISSED + SLACK {
                State::Unknown
            } else {
                State::Lost
            }
        });
        // A round of this host's until the peer hears of it, and one of the peer's until it says so.
        let patience = round.max(self.round) * (MISSED + 1) + SLACK;
        let to = Way::of(|size| match self.confirmed[size as usize] {
            _ if !from.arrives() => State::Unknown,
            Some((_, at)) if now <= at + patience => State::Ok,
            _ if size == Size::Plain => State::Unknown,
            _ if now <= self.back + patience => State::Unknown,
            _ => State::Lost,
        });
        Paths { from, to }
    }

    /// A peer that is silent is not back.
    fn back_of(&self, size: Size) -> Duration {
        match self.heard[size as usize] {
            None => self.back,
            Some(_) => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests;
