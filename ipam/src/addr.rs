//! Addresses as numbers: both families as `u128`, prefixes as inclusive spans.
//!
//! Spans are inclusive on both ends because the exclusive end of `::/0`, or of anything that ends
//! at the last IPv6 address, does not fit a `u128`. Never decides which address is free.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// Width of an address of this family.
    pub(crate) const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The address with this number. For IPv4, `value` fits 32 bits: it comes out of a [`Span`].
    pub(crate) fn addr(self, value: u128) -> IpAddr {
        match self {
            Self::V4 => {
                debug_assert!(u32::try_from(value).is_ok(), "{value} is no IPv4 address");
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "spans of V4 end at u32::MAX"
                )]
                let value = value as u32;
                Ipv4Addr::from(value).into()
            }
            Self::V6 => Ipv6Addr::from(value).into(),
        }
    }

    /// The prefix of length `prefix` around `value`, host bits cleared.
    pub(crate) fn network(self, value: u128, prefix: u8) -> IpNetwork {
        let first = value & !self.host_mask(prefix);
        #[expect(
            clippy::expect_used,
            reason = "callers pass lengths checked against bits()"
        )]
        IpNetwork::new(self.addr(first), prefix).expect("prefix length fits the family")
    }

    /// The host part of a prefix of this length as a mask: its number of addresses less one.
    pub(crate) fn host_mask(self, prefix: u8) -> u128 {
        let host_bits = u32::from(self.bits() - prefix);
        // A shift by the full width (no host bits) is what `checked_shr` refuses.
        u128::MAX.checked_shr(128 - host_bits).unwrap_or(0)
    }
}

/// Family and number of one address.
pub(crate) fn number(ip: IpAddr) -> (Family, u128) {
    match ip {
        IpAddr::V4(ip) => (Family::V4, u128::from(u32::from(ip))),
        IpAddr::V6(ip) => (Family::V6, u128::from(ip)),
    }
}

/// All addresses of a prefix, `first` and `last` included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) family: Family,
    pub(crate) first: u128,
    pub(crate) last: u128,
}

impl Span {
    pub(crate) fn of(net: IpNetwork) -> Self {
        let (family, value) = number(net.ip());
        let mask = family.host_mask(net.prefix());
        Self {
            family,
            first: value & !mask,
            last: value | mask,
        }
    }

    pub(crate) fn holds(self, value: u128) -> bool {
        (self.first..=self.last).contains(&value)
    }

    /// The number of `ip` when it lies inside.
    pub(crate) fn find(self, ip: IpAddr) -> Option<u128> {
        let (family, value) = number(ip);
        (family == self.family && self.holds(value)).then_some(value)
    }

    pub(crate) fn covers(self, inner: Self) -> bool {
        self.family == inner.family && self.first <= inner.first && inner.last <= self.last
    }

    /// What both have in common.
    pub(crate) fn intersect(self, other: Self) -> Option<Self> {
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        (self.family == other.family && first <= last).then_some(Self {
            first,
            last,
            ..self
        })
    }
}

/// Clears the host bits: `10.0.0.5/24` becomes `10.0.0.0/24`.
pub(crate) fn normalised(net: IpNetwork) -> IpNetwork {
    let span = Span::of(net);
    span.family.network(span.first, net.prefix())
}

/// Whether two prefixes share an address. Prefixes of different families never do.
pub fn overlaps(a: IpNetwork, b: IpNetwork) -> bool {
    Span::of(a).intersect(Span::of(b)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    #[test]
    fn spans_at_the_extremes() {
        for (text, first, last) in [
            ("0.0.0.0/0", 0, u128::from(u32::MAX)),
            (
                "255.255.255.255/32",
                u128::from(u32::MAX),
                u128::from(u32::MAX),
            ),
            ("::/0", 0, u128::MAX),
            (
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
                u128::MAX,
                u128::MAX,
            ),
            ("10.0.0.5/31", 0x0a00_0004, 0x0a00_0005),
        ] {
            let span = Span::of(net(text));
            assert_eq!((span.first, span.last), (first, last), "{text}");
            assert_eq!(normalised(net(text)).prefix(), net(text).prefix());
        }
    }

    #[test]
    fn overlap_goes_both_ways() {
        for (a, b, expected) in [
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.0.0.0/24", "10.0.1.0/24", false),
            ("10.0.0.99/24", "10.0.0.1/32", true),
            ("0.0.0.0/0", "10.0.0.0/8", true),
            ("::/0", "10.0.0.0/8", false),
            ("::/96", "0.0.0.0/0", false),
            ("fd00::/48", "fd00:0:0:1::/64", true),
        ] {
            assert_eq!(overlaps(net(a), net(b)), expected, "{a} {b}");
            assert_eq!(overlaps(net(b), net(a)), expected, "{b} {a}");
        }
    }
}
