//! Owns the reading of a `resolv.conf` text (resolv.conf(5)).
//!
//! Pure: the caller reads the file. Never decides which upstreams are usable, except that netd's own
//! address is not one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use crate::zone::SHORT_ID;

/// The port upstreams are asked on.
pub const DNS_PORT: u16 = 53;

/// Where containers find netd. Never an upstream: forwarding to it would ask ourselves.
pub const EMBEDDED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

/// The port upstreams are asked on over TLS (RFC 7858 section 3.1).
pub const TLS_PORT: u16 = 853;

/// Where systemd-resolved answers for others: a hop that its own list of servers saves.
const RESOLVED_STUBS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)),
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54)),
];

/// One name server that is asked for others.
///
/// As text `IP`, `IP:PORT` (`[IP]:PORT` in IPv6) or, over TLS, `tls://IP[:PORT][#NAME]`, where NAME is what its
/// certificate must hold instead of the address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    /// Over TLS, and whose certificate it must show.
    pub tls: Option<Arc<str>>,
    /// The id of the container whose namespace it is asked from; from the daemon's without.
    pub from: Option<Arc<str>>,
}

impl Upstream {
    /// The same, asked from inside a container.
    #[must_use]
    pub fn inside(self, container: &Arc<str>) -> Self {
        Self {
            from: Some(Arc::clone(container)),
            ..self
        }
    }
}

impl From<SocketAddr> for Upstream {
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            tls: None,
            from: None,
        }
    }
}

impl From<IpAddr> for Upstream {
    fn from(ip: IpAddr) -> Self {
        SocketAddr::new(ip, DNS_PORT).into()
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tls {
            None => write!(f, "{}", self.address)?,
            Some(name) => write!(f, "tls://{}#{name}", self.address)?,
        }
        match &self.from {
            None => Ok(()),
            Some(id) => write!(f, " from inside {}", id.get(..SHORT_ID).unwrap_or(id)),
        }
    }
}

/// A text that is no name server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name server: give an IP address, IP:PORT, or tls://IP[:PORT][#NAME]")]
pub struct NoUpstream(String);

impl FromStr for Upstream {
    type Err = NoUpstream;

    fn from_str(text: &str) -> Result<Self, NoUpstream> {
        let wrong = || NoUpstream(text.chars().take(80).collect());
        let Some(rest) = text.strip_prefix("tls://") else {
            return endpoint(text, DNS_PORT).map(Self::from).ok_or_else(wrong);
        };
        let (place, name) = rest
            .split_once('#')
            .map_or((rest, None), |(a, n)| (a, Some(n)));
        let address = endpoint(place, TLS_PORT).ok_or_else(wrong)?;
        let name = match name {
            Some(name) => crate::name::normalize(name).ok_or_else(wrong)?.into(),
            None => address.ip().to_string().into(),
        };
        Ok(Self {
            address,
            tls: Some(name),
            from: None,
        })
    }
}

fn endpoint(text: &str, port: u16) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let ip = bare
        .unwrap_or(text)
        .parse()
        .map(|ip| SocketAddr::new(ip, port));
    let address = ip.or_else(|_| text.parse()).ok()?;
    (!address.ip().is_unspecified() && !address.ip().is_multicast() && address.port() > 0)
        .then_some(address)
}

/// What a `resolv.conf` says. Lists are in file order; unknown lines are skipped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// All name servers, each once; an IPv6 zone (`%eth0`) is dropped.
    pub nameservers: Vec<IpAddr>,
    /// The last `search` (or `domain`) line. `search .` clears it.
    pub search: Vec<String>,
    /// All options as written, such as `ndots:0`.
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads a text. Never fails: what cannot be understood is left out, as the C library does.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            conf.read_line(line);
        }
        conf
    }

    /// The name servers as upstreams: port 53, without netd's own address.
    pub fn upstreams(&self) -> Vec<Upstream> {
        let foreign = self.nameservers.iter().filter(|&&ip| ip != EMBEDDED);
        foreign.map(|&ip| ip.into()).collect()
    }

    /// Whether all it names is systemd-resolved on this host: then the servers stand in resolved's own file.
    pub fn is_resolved(&self) -> bool {
        !self.nameservers.is_empty()
            && self
                .nameservers
                .iter()
                .all(|ip| RESOLVED_STUBS.contains(ip))
    }

    fn read_line(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                let address = words.next().and_then(parse_address);
                if let Some(address) = address.filter(|a| !self.nameservers.contains(a)) {
                    self.nameservers.push(address);
                }
            }
            Some("search") => self.set_search(words),
            Some("domain") => self.set_search(words.take(1)),
            Some("options") => self.options.extend(words.map(str::to_owned)),
            // Comments (`#`, `;`), `sortlist` and whatever else there may be.
            _ => {}
        }
    }

    fn set_search<'a>(&mut self, words: impl Iterator<Item = &'a str>) {
        let domains = words.take_while(|word| !word.starts_with(['#', ';']));
        self.search = domains.filter(|&d| d != ".").map(str::to_owned).collect();
    }
}

fn parse_address(word: &str) -> Option<IpAddr> {
    let unscoped = word.split_once('%').map_or(word, |(address, _)| address);
    unscoped.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_every_kind_of_line() {
        let conf = ResolvConf::parse(
            "# written by hand\n; so is this\ndomain old.example\n\
             nameserver 192.0.2.1\nnameserver\t2001:db8::1\nnameserver fe80::1%eth0\n\
             nameserver 192.0.2.1\nnameserver not-an-address\nnameserver\n\
             search a.example b.example # tail\noptions ndots:2 timeout:1\noptions rotate\n\
             sortlist 130.155.160.0\nlookup file bind\n",
        );
        let expected = ["192.0.2.1", "2001:db8::1", "fe80::1"];
        assert_eq!(
            conf.nameservers,
            expected.map(|a| a.parse::<IpAddr>().unwrap())
        );
        assert_eq!(conf.search, ["a.example", "b.example"]);
        assert_eq!(conf.options, ["ndots:2", "timeout:1", "rotate"]);
    }

    #[test]
    fn the_last_search_or_domain_wins() {
        let search = |text| ResolvConf::parse(text).search;
        assert_eq!(search("search a b\ndomain c\n"), ["c"]);
        assert_eq!(search("domain c\nsearch a b\n"), ["a", "b"]);
        assert_eq!(search("search a\nsearch .\n"), [""; 0]);
    }

    #[test]
    fn netd_itself_is_no_upstream() {
        let conf = ResolvConf::parse("nameserver 127.0.0.11\nnameserver 127.0.0.53\n");
        assert_eq!(conf.upstreams(), ["127.0.0.53".parse().unwrap()]);
    }

    #[test]
    fn systemd_resolved_is_known_by_its_addresses() {
        let resolved = |text: &str| ResolvConf::parse(text).is_resolved();
        assert!(resolved("nameserver 127.0.0.53\noptions edns0 trust-ad\n"));
        assert!(!resolved("nameserver 127.0.0.53\nnameserver 192.0.2.1\n"));
        assert!(!resolved("") && !resolved("nameserver 127.0.0.1\n"));
    }

    #[test]
    fn upstreams_are_read_and_written() {
        for (text, written) in [
            ("192.0.2.1", Some("192.0.2.1:53")),
            ("192.0.2.1:5353", Some("192.0.2.1:5353")),
            ("2001:db8::1", Some("[2001:db8::1]:53")),
            ("[2001:db8::1]", Some("[2001:db8::1]:53")),
            ("[2001:db8::1]:54", Some("[2001:db8::1]:54")),
            ("tls://9.9.9.9", Some("tls://9.9.9.9:853#9.9.9.9")),
            (
                "tls://9.9.9.9#DNS.quad9.net.",
                Some("tls://9.9.9.9:853#dns.quad9.net"),
            ),
            (
                "tls://[2620:fe::fe]:8853#dns.quad9.net",
                Some("tls://[2620:fe::fe]:8853#dns.quad9.net"),
            ),
            ("tls://9.9.9.9#", None),
            ("tls://dns.quad9.net", None),
            ("https://9.9.9.9", None),
            ("0.0.0.0", None),
            ("224.0.0.1", None),
            ("192.0.2.1:0", None),
            ("", None),
        ] {
            let read = text.parse::<Upstream>();
            assert_eq!(
                read.as_ref().ok().map(Upstream::to_string).as_deref(),
                written,
                "{text}"
            );
            if let Ok(upstream) = read {
                assert_eq!(upstream.to_string().parse(), Ok(upstream));
            }
        }
    }

    #[test]
    fn windows_line_ends_and_no_last_newline() {
        let conf = ResolvConf::parse("nameserver 192.0.2.1\r\nsearch a\r\noptions x");
        assert_eq!(conf.nameservers.len(), 1);
        assert_eq!(
            (conf.search, conf.options),
            (vec!["a".into()], vec!["x".into()])
        );
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC*") {
            ResolvConf::parse(&text);
        }

        #[test]
        fn never_panics_near_the_grammar(
            lines in prop::collection::vec("(nameserver|search|domain|options|#)?[ \t]*[0-9a-f:.%#; ]{0,40}\r?", 0..20)
        ) {
            let conf = ResolvConf::parse(&lines.join("\n"));
            prop_assert!(conf.nameservers.len() <= lines.len());
        }
    }
}
