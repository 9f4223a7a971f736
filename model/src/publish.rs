//! A port to publish, as it is asked for: `[HOSTIP:][HOSTPORT[-END]:]PORT[-END][/tcp|udp|sctp]`.
//!
//! Without a host port netd chooses one; from a range of host ports for one container port it takes the first that is
//! free. What was chosen is a [`Port`].

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::access::{Access, sources};
use crate::error::{Code, Error, Result};
use crate::id::shorten;
use crate::net::{Prefix, Proto};
use crate::record::Port;

/// The form, for messages.
const FORM: &str =
    "[HOSTIP:][HOSTPORT[-END]:]PORT[-END][/tcp|udp|sctp][,allow-from=CIDR]…[,block-from=CIDR]…";
const ALLOW: &str = "allow-from";
const BLOCK: &str = "block-from";

/// A port to publish. One that names its host port reads and writes like a [`Port`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Publish {
    /// The transport.
    pub proto: Proto,
    /// The host's address; none for every address of the families the container has.
    pub host_ip: Option<IpAddr>,
    /// The host's port, or the first that netd may choose; 0 for any.
    pub host_port: u16,
    /// The last that netd may choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_end: Option<u16>,
    /// The container's port.
    pub container_port: u16,
    /// From where flows may be opened to the container's port.
    #[serde(default, skip_serializing_if = "Access::is_open")]
    pub access: Access,
}

impl Publish {
    /// The host port asked for; none if netd chooses.
    pub fn exact(&self) -> Option<Port> {
        (self.host_port != 0 && self.host_end.is_none()).then(|| self.on(self.host_port))
    }

    /// The host ports asked for to choose from; none for any.
    pub fn choice(&self) -> Option<RangeInclusive<u16>> {
        (self.host_port != 0).then(|| self.host_port..=self.host_end.unwrap_or(self.host_port))
    }

    /// Published on this host port.
    pub fn on(&self, host_port: u16) -> Port {
        Port {
            proto: self.proto,
            host_ip: self.host_ip,
            host_port,
            container_port: self.container_port,
            access: self.access.clone(),
        }
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:")?,
            Some(IpAddr::V4(ip)) => write!(f, "{ip}:")?,
            None => {}
        }
        match (self.host_port, self.host_end, self.host_ip) {
            (0, _, None) => {}
            (0, _, Some(_)) => f.write_str(":")?,
            (first, Some(last), _) => write!(f, "{first}-{last}:")?,
            (port, None, _) => write!(f, "{port}:")?,
        }
        write!(f, "{}/{}", self.container_port, self.proto)?;
        let list = |f: &mut fmt::Formatter<'_>, key: &str, list: &[Prefix]| {
            list.iter()
                .try_for_each(|prefix| write!(f, ",{key}={prefix}"))
        };
        list(f, ALLOW, &self.access.allow_from)?;
        list(f, BLOCK, &self.access.block_from)
    }
}

/// Parses a published port or range; an IPv6 host address stands in brackets. A range of container ports gives one
/// [`Publish`] each.
pub fn parse_publish(text: &str) -> Result<Vec<Publish>> {
    let invalid = |why: &str| {
        let text = shorten(text);
        Error::new(
            Code::InvalidPublish,
            format!("publish {text:?}: {why} ({FORM})"),
        )
    };
    let (text, access) = match text.split_once(',') {
        None => (text, Access::default()),
        Some((text, lists)) => (text, access(lists).map_err(|why| invalid(&why))?),
    };
    let (rest, proto) = match text.rsplit_once('/') {
        None => (text, Proto::Tcp),
        Some((rest, "tcp")) => (rest, Proto::Tcp),
        Some((rest, "udp")) => (rest, Proto::Udp),
        Some((rest, "sctp")) => (rest, Proto::Sctp),
        Some(_) => return Err(invalid("the protocol is tcp, udp or sctp")),
    };
    let (host, container) = rest.rsplit_once(':').unwrap_or(("", rest));
    let (host_ip, host) =
        split_host(host).ok_or_else(|| invalid("the host address is no IP address"))?;
    if host_ip.is_some_and(|ip| ip.is_multicast()) {
        return Err(invalid("the host address is multicast"));
    }
    let host = match host {
        "" | "0" => None,
        text => Some(range(text).ok_or_else(|| {
            invalid("the host port is no port from 1 to 65535, or a range of them; without one netd chooses")
        })?),
    };
    let container = range(container).ok_or_else(|| {
        invalid("the container port is no port from 1 to 65535, or a range of them")
    })?;
    let one = |container_port, host_port, host_end| Publish {
        proto,
        host_ip,
        host_port,
        host_end,
        container_port,
        access: access.clone(),
    };
    let ports = container.0..=container.1;
    match host {
        None => Ok(ports.map(|port| one(port, 0, None)).collect()),
        Some((first, last)) if last - first == container.1 - container.0 => Ok(ports
            .zip(first..=last)
            .map(|(port, host)| one(port, host, None))
            .collect()),
        Some((first, last)) if container.0 == container.1 => {
            Ok(vec![one(container.0, first, Some(last))])
        }
        Some(_) => Err(invalid("the two ranges differ in length")),
    }
}

/// The lists behind a port.
fn access(lists: &str) -> Result<Access, String> {
    let (mut allow, mut block) = (Vec::new(), Vec::new());
    for part in lists.split(',') {
        match part.split_once('=') {
            Some((ALLOW, source)) => allow.push(source.to_owned()),
            Some((BLOCK, source)) => block.push(source.to_owned()),
            _ => {
                return Err(format!(
                    "behind the port come {ALLOW}=CIDR and {BLOCK}=CIDR"
                ));
            }
        }
    }
    let list = |texts: Vec<String>| sources(&texts).map_err(|error| error.message);
    Ok(Access {
        allow_from: list(allow)?,
        block_from: list(block)?,
    })
}

fn split_host(text: &str) -> Option<(Option<IpAddr>, &str)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (ip, port) = rest.split_once("]:")?;
        return Some((Some(IpAddr::V6(ip.parse().ok()?)), port));
    }
    match text.split_once(':') {
        None => Some((None, text)),
        Some((ip, port)) => Some((Some(IpAddr::V4(ip.parse().ok()?)), port)),
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| -> Option<u16> {
        let digits = (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|port| digits && *port != 0)
    };
    match text.split_once('-') {
        None => port(text).map(|p| (p, p)),
        Some((first, last)) => {
            let (first, last) = (port(first)?, port(last)?);
            (first <= last).then_some((first, last))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_documented_form_is_read() {
        let one = |text: &str| parse_publish(text).unwrap()[0].to_string();
        for (text, read) in [
            ("8080:80", "8080:80/tcp"),
            ("53:5353/udp", "53:5353/udp"),
            ("127.0.0.1:8080:80", "127.0.0.1:8080:80/tcp"),
            ("[::1]:8080:80/tcp", "[::1]:8080:80/tcp"),
            ("9899:9899/sctp", "9899:9899/sctp"),
            ("80", "80/tcp"),
            ("0:80/udp", "80/udp"),
            (":80", "80/tcp"),
            ("127.0.0.1::80", "127.0.0.1::80/tcp"),
            ("[::1]::80", "[::1]::80/tcp"),
            ("127.0.0.1:0:80", "127.0.0.1::80/tcp"),
            ("8000-8010:80", "8000-8010:80/tcp"),
            ("[::]:8000-8010:80", "[::]:8000-8010:80/tcp"),
            (
                "80:80,allow-from=10.0.0.0/8,allow-from=10.1.0.0/16,block-from=fd00::1",
                "80:80/tcp,allow-from=10.0.0.0/8,block-from=fd00::1/128",
            ),
        ] {
            assert_eq!(one(text), read, "{text}");
        }
        let ports = |text: &str| -> Vec<(u16, u16)> {
            let parsed = parse_publish(text).unwrap().into_iter();
            parsed.map(|p| (p.host_port, p.container_port)).collect()
        };
        assert_eq!(
            ports("8000-8002:80-82"),
            [(8000, 80), (8001, 81), (8002, 82)]
        );
        assert_eq!(ports("80-81"), [(0, 80), (0, 81)]);
    }

    #[test]
    fn what_is_left_to_netd_is_told_apart() {
        let one = |text: &str| parse_publish(text).unwrap().remove(0);
        assert_eq!(one("8080:80").exact().unwrap().host_port, 8080);
        assert_eq!(one("8080:80").choice(), Some(8080..=8080));
        assert_eq!(one("8000-8010:80").exact(), None);
        assert_eq!(one("8000-8010:80").choice(), Some(8000..=8010));
        assert_eq!(one("80").exact(), None);
        assert_eq!(one("80").choice(), None);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, why) in [
            ("", "container port"),
            ("127.0.0.1:80", "host port is no port"),
            ("65536:80", "host port is no port"),
            ("+80:80", "host port is no port"),
            ("8080:", "container port"),
            ("8080:0", "container port"),
            ("x:8080:80", "no IP address"),
            ("::1:8080:80", "no IP address"),
            ("8000-8002:80-81", "differ in length"),
            ("8002-8000:80-82", "host port"),
            ("8080:80/icmp", "tcp, udp or sctp"),
            ("224.0.0.1:80:80", "multicast"),
            ("80:80,", "behind the port"),
            ("80:80,allow=10.0.0.0/8", "behind the port"),
            ("80:80,allow-from=x", "neither a prefix"),
        ] {
            let error = parse_publish(text).unwrap_err();
            assert_eq!(error.code, Code::InvalidPublish);
            assert!(error.message.contains(why), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9:.\\[\\]/a-z-]{0,40}") {
            for port in parse_publish(&text).unwrap_or_default() {
                prop_assert_eq!(parse_publish(&port.to_string()).unwrap(), vec![port]);
            }
        }
    }
}
