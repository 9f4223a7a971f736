//! Network values: interface names, MAC addresses, prefixes, protocols.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result};
use crate::id::shorten;

/// IP version of an address or prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The address that means "every address".
    pub const fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    /// `NFPROTO_IPV4` or `NFPROTO_IPV6` (linux/netfilter.h).
    pub const fn nfproto(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// `4` or `6`, as set names of the ruleset end.
    pub const fn digit(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }

    /// The length of an address, and of the prefix that holds it alone.
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

/// A network interface name: 1 to 15 bytes, no `/`, no white space, not `.` or `..` (net/core/dev.c, dev_valid_name).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

impl IfName {
    /// Checks and wraps a name.
    pub fn parse(text: &str) -> Result<Self> {
        let good = (1..=15).contains(&text.len())
            && !matches!(text, "." | "..")
            && text
                .bytes()
                .all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':'));
        if good {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(
            Code::InvalidIfname,
            format!(
                "interface name {:?} is not valid: use 1 to 15 printable ASCII characters without / and :",
                shorten(text)
            ),
        ))
    }

    /// The loopback interface.
    pub fn lo() -> Self {
        Self("lo".to_owned())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
impl fmt::Debug for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}
impl TryFrom<String> for IfName {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}
impl From<IfName> for String {
    fn from(name: IfName) -> String {
        name.0
    }
}

/// An Ethernet address of one station: neither multicast nor all zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

impl Mac {
    /// Checks and wraps six bytes.
    pub fn new(bytes: [u8; 6]) -> Result<Self> {
        if bytes[0] & 1 == 1 || bytes == [0; 6] {
            let text = Self(bytes);
            return Err(Error::new(
                Code::InvalidMac,
                format!(
                    "MAC address {text} is multicast or zero: use a unicast address such as 02:00:00:00:00:01"
                ),
            ));
        }
        Ok(Self(bytes))
    }

    /// The MAC that netd gives to an interface with this address: `02:6e` and the IPv4 address, or
    /// `06:6e` and 32 bits folded from the IPv6 address. Both are locally administered unicast.
    pub fn of_address(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => {
                let [a, b, c, d] = v4.octets();
                Self([0x02, 0x6e, a, b, c, d])
            }
            IpAddr::V6(v6) => {
                let [a, b, c, d] = v6.octets().chunks(4).fold([0u8; 4], |mut sum, chunk| {
                    sum.iter_mut()
                        .zip(chunk)
                        .for_each(|(s, c)| *s = s.rotate_left(3) ^ c);
                    sum
                });
                Self([0x06, 0x6e, a, b, c, d])
            }
        }
    }

    /// The MAC of a bridge without an address: `02:6d` and the first 8 hex digits of its network's id.
    pub fn of_digits(hex: &str) -> Self {
        let digits = hex
            .get(..8)
            .and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let [a, b, c, d] = digits.unwrap_or_default().to_be_bytes();
        Self([0x02, 0x6d, a, b, c, d])
    }

    /// The MAC of the host end of a veth pair whose container end has this one.
    ///
    /// It starts with `fe` so that a bridge never takes it for its own (a bridge without a fixed MAC takes
    /// the lowest of its ports), and never equals a container's.
    #[must_use]
    pub const fn host_end(self) -> Self {
        let [_, b, c, d, e, f] = self.0;
        Self([0xfe, b, c, d, e, f])
    }

    /// The address that IPv6 makes of it on a link (EUI-64, RFC 4291 appendix A).
    pub const fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        Ipv6Addr::from_bits(u128::from_be_bytes([
            0xfe,
            0x80,
            0,
            0,
            0,
            0,
            0,
            0,
            a ^ 2,
            b,
            c,
            0xff,
            0xfe,
            d,
            e,
            f,
        ]))
    }

    /// The six bytes.
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for Mac {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let malformed = || {
            Error::new(
                Code::InvalidMac,
                format!(
                    "MAC address {:?} is not of the form 02:00:00:00:00:01",
                    shorten(text)
                ),
            )
        };
        let mut bytes = [0u8; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|p| p.len() == 2)
                .ok_or_else(malformed)?;
            if !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(malformed());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| malformed())?;
        }
        if parts.next().is_some() {
            return Err(malformed());
        }
        Self::new(bytes)
    }
}
impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl TryFrom<String> for Mac {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}
impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

/// An IP prefix without host bits, for example `10.1.0.0/16`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix(IpNetwork);

impl Prefix {
    /// The prefix of this length that holds the address; a length too long for the family is cut to it.
    pub fn holding(ip: IpAddr, len: u8) -> Self {
        let max = if ip.is_ipv4() { 32 } else { 128 };
        let len = len.min(max);
        let base = match ip {
            IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask4(len))),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask6(len))),
        };
        match IpNetwork::new(base, len) {
            Ok(net) => Self(net),
            // The length was cut to the family's maximum above.
            Err(_) => unreachable!("prefix length {len} of {base}"),
        }
    }

    /// The default route's destination in a family.
    pub fn default_route(family: Family) -> Self {
        Self::holding(family.unspecified(), 0)
    }

    /// The first address.
    pub fn base(self) -> IpAddr {
        self.0.network()
    }

    /// The last address.
    pub fn last(self) -> IpAddr {
        match self.0 {
            IpNetwork::V4(net) => IpAddr::V4(Ipv4Addr::from_bits(
                net.network().to_bits() | !mask4(net.prefix()),
            )),
            IpNetwork::V6(net) => IpAddr::V6(Ipv6Addr::from_bits(
                net.network().to_bits() | !mask6(net.prefix()),
            )),
        }
    }

    /// The number of leading bits that are fixed.
    pub fn len(self) -> u8 {
        self.0.prefix()
    }

    /// Whether this is the whole address space.
    pub fn is_empty(self) -> bool {
        self.0.prefix() == 0
    }

    /// The prefix's family.
    pub fn family(self) -> Family {
        Family::of(self.0.ip())
    }

    /// Whether the address is inside.
    pub fn contains(self, ip: IpAddr) -> bool {
        self.0.contains(ip)
    }

    /// Whether every address of `other` is inside.
    pub fn covers(self, other: Self) -> bool {
        self.family() == other.family() && self.len() <= other.len() && self.contains(other.base())
    }

    /// Whether the two have an address in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// As the library type that the address pools take.
    pub fn network(self) -> IpNetwork {
        self.0
    }
}

const fn mask4(len: u8) -> u32 {
    if len == 0 { 0 } else { u32::MAX << (32 - len) }
}

const fn mask6(len: u8) -> u128 {
    if len == 0 {
        0
    } else {
        u128::MAX << (128 - len)
    }
}

impl FromStr for Prefix {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let malformed = |why: &str| {
            Error::new(
                Code::InvalidSubnet,
                format!("prefix {:?} is not valid: {why}", shorten(text)),
            )
        };
        let (ip, len) = text
            .split_once('/')
            .ok_or_else(|| malformed("write ADDRESS/LENGTH, such as 10.1.0.0/24"))?;
        let ip: IpAddr = ip
            .parse()
            .map_err(|_| malformed("the part before / is no IP address"))?;
        let max = if ip.is_ipv4() { 32 } else { 128 };
        let len = len
            .parse::<u8>()
            .ok()
            .filter(|value| *value <= max && len.bytes().all(|b| b.is_ascii_digit()))
            .ok_or_else(|| malformed(&format!("the length is not a number from 0 to {max}")))?;
        let prefix = Self::holding(ip, len);
        if prefix.base() != ip {
            return Err(malformed(&format!(
                "host bits are set; did you mean {prefix}?"
            )));
        }
        Ok(prefix)
    }
}
impl From<IpNetwork> for Prefix {
    fn from(net: IpNetwork) -> Self {
        Self::holding(net.ip(), net.prefix())
    }
}
impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base(), self.len())
    }
}
impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl TryFrom<String> for Prefix {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}
impl From<Prefix> for String {
    fn from(prefix: Prefix) -> String {
        prefix.to_string()
    }
}

/// A transport protocol whose ports can be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Proto {
    /// The IP protocol number (IANA).
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol as written after a port.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}
impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prefixes_name_what_is_wrong() {
        for (bad, why) in [
            ("10.0.0.1/24", "did you mean 10.0.0.0/24"),
            ("10.0.0.0", "ADDRESS/LENGTH"),
            ("", "ADDRESS/LENGTH"),
            ("10.0.0.0/33", "0 to 32"),
            ("fd00::/129", "0 to 128"),
            ("10.0.0.0/+8", "0 to 32"),
            ("x/8", "no IP address"),
            ("10.0.0.0/", "0 to 32"),
        ] {
            let error = bad.parse::<Prefix>().unwrap_err();
            assert_eq!(error.code, Code::InvalidSubnet);
            assert!(error.message.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn interface_names_are_those_of_the_kernel() {
        for bad in ["", ".", "..", "a/b", "a b", "a:b", "0123456789abcdef", "é"] {
            assert_eq!(
                IfName::parse(bad).unwrap_err().code,
                Code::InvalidIfname,
                "{bad:?}"
            );
        }
        assert!(IfName::parse("0123456789abcde").is_ok());
    }

    #[test]
    fn macs_are_unicast() {
        assert_eq!(
            "01:00:00:00:00:00".parse::<Mac>().unwrap_err().code,
            Code::InvalidMac
        );
        assert_eq!(
            "00:00:00:00:00:00".parse::<Mac>().unwrap_err().code,
            Code::InvalidMac
        );
        for bad in [
            "",
            "02",
            "02:00:00:00:00:0",
            "02:00:00:00:00:00:00",
            "02:00:00:00:00:+1",
            "zz:00:00:00:00:00",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
        let mac = Mac::of_address("172.16.0.2".parse().unwrap());
        assert_eq!(mac.to_string(), "02:6e:ac:10:00:02");
        assert_eq!(mac.host_end().to_string(), "fe:6e:ac:10:00:02");
    }

    proptest! {
        #[test]
        fn derived_macs_are_valid(bits in any::<u128>(), four in any::<u32>()) {
            for ip in [IpAddr::V6(Ipv6Addr::from_bits(bits)), IpAddr::V4(Ipv4Addr::from_bits(four))] {
                let mac = Mac::of_address(ip);
                prop_assert_eq!(Mac::new(mac.bytes()).unwrap(), mac);
                prop_assert_eq!(Mac::new(mac.host_end().bytes()).unwrap(), mac.host_end());
                prop_assert_eq!(mac.to_string().parse::<Mac>().unwrap(), mac);
            }
        }

        #[test]
        fn prefixes_print_what_they_parse(bits in any::<u32>(), len in 0u8..=32) {
            let prefix = Prefix::holding(IpAddr::V4(Ipv4Addr::from_bits(bits)), len);
            prop_assert_eq!(prefix.to_string().parse::<Prefix>().unwrap(), prefix);
            prop_assert!(prefix.contains(prefix.base()) && prefix.contains(prefix.last()));
            prop_assert!(prefix.overlaps(prefix));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in ".{0,40}") {
            let _ = text.parse::<Prefix>();
            let _ = text.parse::<Mac>();
            let _ = IfName::parse(&text);
        }
    }
}
