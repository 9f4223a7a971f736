//! Owns the reading of a `resolv.conf` text (resolv.conf(5)).
//!
//! Pure: the caller reads the file. Never decides which upstreams are usable, except that netd's own
//! address is not one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The port upstreams are asked on.
pub const DNS_PORT: u16 = 53;

/// Where containers find netd. Never an upstream: forwarding to it would ask ourselves.
pub const EMBEDDED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

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
    pub fn upstreams(&self) -> Vec<SocketAddr> {
        let foreign = self.nameservers.iter().filter(|&&ip| ip != EMBEDDED);
        foreign.map(|&ip| SocketAddr::new(ip, DNS_PORT)).collect()
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
        assert_eq!(conf.upstreams(), ["127.0.0.53:53".parse().unwrap()]);
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
