//! The text form of a published port: `[HOSTIP:]HOSTPORT[-END]:PORT[-END][/tcp|udp]`.

use std::net::IpAddr;

use crate::error::{Code, Error, Result};
use crate::id::shorten;
use crate::net::Proto;
use crate::record::Port;

/// Parses a published port or range; an IPv6 host address stands in brackets. A range gives one [`Port`] each.
pub fn parse_publish(text: &str) -> Result<Vec<Port>> {
    let invalid = |why: &str| {
        Error::new(
            Code::InvalidPublish,
            format!(
                "publish {:?}: {why} ([HOSTIP:]HOSTPORT[-END]:PORT[-END][/tcp|udp])",
                shorten(text)
            ),
        )
    };
    let (rest, proto) = match text.rsplit_once('/') {
        None => (text, Proto::Tcp),
        Some((rest, "tcp")) => (rest, Proto::Tcp),
        Some((rest, "udp")) => (rest, Proto::Udp),
        Some((_, "sctp")) => return Err(invalid("sctp is not available in this version")),
        Some(_) => return Err(invalid("the protocol is tcp or udp")),
    };
    let (host, container) = rest
        .rsplit_once(':')
        .ok_or_else(|| invalid("a host port and a container port are needed"))?;
    let (host_ip, host) =
        split_host(host).ok_or_else(|| invalid("the host address is no IP address"))?;
    let host = range(host)
        .ok_or_else(|| invalid("the host port is no port from 1 to 65535, or a range of them"))?;
    let container = range(container).ok_or_else(|| {
        invalid("the container port is no port from 1 to 65535, or a range of them")
    })?;
    if host.1 - host.0 != container.1 - container.0 {
        return Err(invalid("the two ranges differ in length"));
    }
    if host_ip.is_some_and(|ip| ip.is_multicast()) {
        return Err(invalid("the host address is multicast"));
    }
    Ok((host.0..=host.1)
        .zip(container.0..=container.1)
        .map(|(host_port, container_port)| Port {
            proto,
            host_ip,
            host_port,
            container_port,
        })
        .collect())
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
        assert_eq!(one("8080:80"), "8080:80/tcp");
        assert_eq!(one("53:5353/udp"), "53:5353/udp");
        assert_eq!(one("127.0.0.1:8080:80"), "127.0.0.1:8080:80/tcp");
        assert_eq!(one("[::1]:8080:80/tcp"), "[::1]:8080:80/tcp");
        let range = parse_publish("8000-8002:80-82").unwrap();
        assert_eq!(
            range
                .iter()
                .map(|p| (p.host_port, p.container_port))
                .collect::<Vec<_>>(),
            [(8000, 80), (8001, 81), (8002, 82)]
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, why) in [
            ("80", "host port and a container port"),
            ("0:80", "host port is no port"),
            ("65536:80", "host port is no port"),
            ("+80:80", "host port is no port"),
            ("8080:", "container port"),
            ("x:8080:80", "no IP address"),
            ("::1:8080:80", "no IP address"),
            ("8000-8002:80-81", "differ in length"),
            ("8002-8000:80-82", "host port"),
            ("8080:80/icmp", "tcp or udp"),
            ("8080:80/sctp", "sctp is not available"),
            ("224.0.0.1:80:80", "multicast"),
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
