//! Subnets for networks that were created without one.
//!
//! Owns the choice only: the caller collects what has to be avoided (all routes of the host,
//! gateway routes too, resolvers as /32 or /128, all other networks) and keeps the answer.

use std::fmt;
use std::net::Ipv4Addr;

use ipnetwork::{IpNetwork, Ipv4Network};

use crate::addr::{Family, Span, normalised};
use crate::error::Error;
use crate::intervals::IntervalSet;

// Unwrapped at compile time: a wrong length would not build.
const PRIVATE_12: Ipv4Network = Ipv4Network::new_checked(Ipv4Addr::new(172, 16, 0, 0), 12).unwrap();
const PRIVATE_8: Ipv4Network = Ipv4Network::new_checked(Ipv4Addr::new(10, 0, 0, 0), 8).unwrap();

/// A prefix that automatic subnets are cut from, all of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AutoRange {
    base: IpNetwork,
    new_prefix: u8,
}

impl AutoRange {
    /// Pieces of length `new_prefix` out of `base`, whose host bits are ignored.
    ///
    /// # Errors
    /// `InvalidAutoRange` when `new_prefix` is shorter than `base` or longer than an address.
    pub fn new(base: IpNetwork, new_prefix: u8) -> Result<Self, Error> {
        let base = normalised(base);
        if new_prefix < base.prefix() || new_prefix > Span::of(base).family.bits() {
            return Err(Error::InvalidAutoRange { base, new_prefix });
        }
        Ok(Self { base, new_prefix })
    }

    /// The default for IPv4: /20 pieces of 172.16.0.0/12, then of 10.0.0.0/8.
    pub const fn default_v4() -> [Self; 2] {
        [
            Self {
                base: IpNetwork::V4(PRIVATE_12),
                new_prefix: 20,
            },
            Self {
                base: IpNetwork::V4(PRIVATE_8),
                new_prefix: 20,
            },
        ]
    }

    /// The default for IPv6: /64 pieces of `ula`, a prefix made by [`ula_prefix`] once per host or
    /// cluster.
    ///
    /// # Errors
    /// `InvalidAutoRange` when `ula` is longer than /64, or an IPv4 prefix.
    pub fn default_v6(ula: IpNetwork) -> Result<Self, Error> {
        Self::new(ula, 64)
    }

    pub fn base(&self) -> IpNetwork {
        self.base
    }

    pub fn new_prefix(&self) -> u8 {
        self.new_prefix
    }

    /// The lowest piece that overlaps nothing in `taken`. One step per stretch of taken numbers,
    /// not per piece: each step goes on behind the last stretch that touched the candidate.
    fn first_free(self, taken: &IntervalSet) -> Option<IpNetwork> {
        let span = Span::of(self.base);
        let mask = span.family.host_mask(self.new_prefix);
        let mut first = span.first;
        while let Some(end) = taken.last_overlap(first, first | mask) {
            first = round_up(end.checked_add(1)?, mask)?;
            if first > span.last {
                return None;
            }
        }
        Some(span.family.network(first, self.new_prefix))
    }
}

impl fmt::Display for AutoRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (as /{})", self.base, self.new_prefix)
    }
}

/// The first subnet, in the order of `pieces`, that shares no address with any prefix of `avoid`.
///
/// A default route in `avoid` is ignored, for it would forbid everything: 0.0.0.0/0, ::/0, and
/// the pair of halves (0.0.0.0/1 with 128.0.0.0/1, ::/1 with 8000::/1) that VPN clients install
/// in its place. One half alone is avoided like any other prefix.
///
/// O(a log a + p log a) for a avoided prefixes and p ranges, however many pieces a range has.
///
/// # Errors
/// `NoFreeSubnet` when no piece is left.
pub fn pick(pieces: &[AutoRange], avoid: &[IpNetwork]) -> Result<IpNetwork, Error> {
    let v4 = taken(Family::V4, avoid);
    let v6 = taken(Family::V6, avoid);
    let free = pieces
        .iter()
        .find_map(|range| match Span::of(range.base).family {
            Family::V4 => range.first_free(&v4),
            Family::V6 => range.first_free(&v6),
        });
    free.ok_or_else(|| Error::NoFreeSubnet {
        tried: pieces.to_vec(),
    })
}

/// A unique local IPv6 prefix, `fdXX:XXXX:XXXX::/48`, with `seed` as the 40 random bits of its
/// global id (RFC 4193, 3.2).
pub fn ula_prefix(seed: [u8; 5]) -> IpNetwork {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&seed);
    Family::V6.network(u128::from_be_bytes(octets), 48)
}

/// The numbers of one family that `avoid` forbids, default routes left out.
fn taken(family: Family, avoid: &[IpNetwork]) -> IntervalSet {
    let half = |first: u128| {
        avoid.iter().any(|&net| {
            let span = Span::of(net);
            span.family == family && span.first == first && net.prefix() == 1
        })
    };
    let both_halves = half(0) && half(1 << (family.bits() - 1));
    let shortest = if both_halves { 2 } else { 1 };
    let mut set = IntervalSet::default();
    for net in avoid.iter().filter(|net| net.prefix() >= shortest) {
        let span = Span::of(*net);
        if span.family == family {
            set.insert_range(span.first, span.last);
        }
    }
    set
}

/// The lowest multiple of the piece size (`mask` + 1) that is at least `value`.
fn round_up(value: u128, mask: u128) -> Option<u128> {
    if value & mask == 0 {
        Some(value)
    } else {
        (value | mask).checked_add(1)
    }
}

#[cfg(test)]
mod tests;
