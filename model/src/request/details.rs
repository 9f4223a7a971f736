//! The smaller parts of a request: routes of a network, settings of an interface and what it may send from, extra hosts.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::is_dns_name;
use crate::api;
use crate::error::{Code, Error, Result};
use crate::id::shorten;
use crate::net::{Family, Prefix};
use crate::record::{ExtraHost, StaticRoute};

/// Most routes of a network, settings of an interface, or extra hosts of a container.
const MANY: usize = 256;
/// Stands for the name of the interface in a setting.
pub(crate) const IFNAME: &str = "IFNAME";

/// Where the settings of one interface are: those of other interfaces, and of the host, are nobody's to set here.
const SYSCTLS: [&str; 4] = [
    "net.ipv4.conf.IFNAME.",
    "net.ipv6.conf.IFNAME.",
    "net.ipv4.neigh.IFNAME.",
    "net.ipv6.neigh.IFNAME.",
];

pub(super) fn routes(raw: &[api::StaticRoute]) -> Result<Vec<StaticRoute>> {
    at_most(raw.len(), "routes", Code::InvalidRoute)?;
    let mut routes: Vec<StaticRoute> = Vec::new();
    for one in raw {
        let route = route(one)?;
        let same = |other: &StaticRoute| {
            (other.destination, other.metric) == (route.destination, route.metric)
        };
        if routes.iter().any(same) {
            return Err(invalid_route(
                one,
                "it is there twice: give one of them a metric",
            ));
        }
        routes.push(route);
    }
    Ok(routes)
}

fn route(raw: &api::StaticRoute) -> Result<StaticRoute> {
    let destination: Prefix = raw
        .destination
        .parse()
        .map_err(|error: Error| invalid_route(raw, &error.message))?;
    let gateway = match &raw.gateway {
        None => None,
        Some(text) => Some(
            text.parse::<IpAddr>()
                .map_err(|_| invalid_route(raw, "its gateway is no IP address"))?,
        ),
    };
    if gateway.is_some_and(|ip| Family::of(ip) != destination.family()) {
        return Err(invalid_route(
            raw,
            "destination and gateway are of two families",
        ));
    }
    if destination.is_empty() {
        return Err(invalid_route(
            raw,
            "a default route comes with the network: say which network's with gw-priority",
        ));
    }
    Ok(StaticRoute {
        destination,
        gateway,
        metric: raw.metric.unwrap_or(0),
    })
}

/// Whether the gateways of routes are neighbours on a network with these subnets.
pub fn check_gateways(routes: &[StaticRoute], subnets: &[Prefix]) -> Result<()> {
    for route in routes {
        let family = route.destination.family();
        let fits = match route.gateway {
            Some(gateway) => subnets.iter().any(|subnet| subnet.contains(gateway)),
            None => subnets.iter().any(|subnet| subnet.family() == family),
        };
        if !fits {
            let why = route.gateway.map_or_else(
                || "the network has no subnet of its family".to_owned(),
                |ip| format!("gateway {ip} is in no subnet of the network"),
            );
            return Err(Error::new(
                Code::InvalidRoute,
                format!("route to {}: {why}", route.destination),
            ));
        }
    }
    Ok(())
}

fn invalid_route(raw: &api::StaticRoute, why: &str) -> Error {
    let destination = shorten(&raw.destination);
    Error::new(
        Code::InvalidRoute,
        format!("route to {destination:?}: {why} (CIDR[,via=IP][,metric=N])"),
    )
}

/// Settings in the form of sysctl(8), as paths.
pub(super) fn sysctls(raw: BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    at_most(raw.len(), "settings", Code::InvalidSysctl)?;
    let refuse = |key: &str, why: &str| {
        let key = shorten(key);
        Error::new(Code::InvalidSysctl, format!("setting {key:?}: {why}"))
    };
    let mut settings = BTreeMap::new();
    for (key, value) in raw {
        let rest = SYSCTLS.iter().find_map(|prefix| key.strip_prefix(prefix));
        let is_word = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        if !rest.is_some_and(is_word) {
            let why = format!(
                "it begins with one of {}, and a name follows",
                SYSCTLS.join(" ")
            );
            return Err(refuse(&key, &why));
        }
        if value.is_empty() || value.len() > 64 || !value.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(refuse(
                &key,
                "its value is 1 to 64 printable characters without white space",
            ));
        }
        settings.insert(key.replace('.', "/"), value);
    }
    Ok(settings)
}

pub(super) fn extra_hosts(raw: &[String]) -> Result<Vec<ExtraHost>> {
    at_most(raw.len(), "extra hosts", Code::InvalidHost)?;
    raw.iter().map(|text| extra_host(text)).collect()
}

fn extra_host(text: &str) -> Result<ExtraHost> {
    let invalid = |why: &str| {
        let text = shorten(text);
        Error::new(
            Code::InvalidHost,
            format!("extra host {text:?}: {why} (NAME:IP or NAME:host-gateway)"),
        )
    };
    let (name, address) = text
        .split_once([':', '='])
        .ok_or_else(|| invalid("an address is missing"))?;
    if !is_dns_name(name) {
        return Err(invalid("the name is not a DNS name"));
    }
    let bare = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(address);
    let address = if address == "host-gateway" {
        None
    } else {
        Some(
            bare.parse()
                .map_err(|_| invalid("the address is no IP address"))?,
        )
    };
    Ok(ExtraHost {
        name: name.to_owned(),
        address,
    })
}

/// Most prefixes that one endpoint may send from beside its own addresses: they are looked up as intervals, which cost
/// more than addresses.
const ALLOWED_MAX: usize = 16;

/// A prefix or a single address each.
pub(super) fn allowed(texts: &[String]) -> Result<Vec<Prefix>> {
    let mut prefixes: Vec<Prefix> = Vec::new();
    for text in texts {
        let single = text.parse::<IpAddr>().map(|ip| Prefix::holding(ip, 128));
        let prefix = single.or_else(|_| text.parse::<Prefix>());
        let prefix = prefix.map_err(|error| Error::new(Code::InvalidAllow, error.message))?;
        if let Some(other) = prefixes.iter().find(|other| other.overlaps(prefix)) {
            return Err(Error::new(
                Code::InvalidAllow,
                format!("{prefix} and {other} overlap: allow one of them"),
            ));
        }
        prefixes.push(prefix);
    }
    if prefixes.len() > ALLOWED_MAX {
        return Err(Error::new(
            Code::InvalidAllow,
            format!("an endpoint is allowed at most {ALLOWED_MAX} prefixes: give larger ones"),
        ));
    }
    Ok(prefixes)
}

fn at_most(count: usize, what: &str, code: Code) -> Result<()> {
    if count > MANY {
        return Err(Error::new(
            code,
            format!("{count} {what} are too many: at most {MANY}"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_those_of_the_interface() {
        let one = |key: &str, value: &str| sysctls([(key.to_owned(), value.to_owned())].into());
        let read = one("net.ipv4.conf.IFNAME.rp_filter", "2").unwrap();
        assert_eq!(read["net/ipv4/conf/IFNAME/rp_filter"], "2");
        assert!(one("net.ipv6.neigh.IFNAME.gc_stale_time", "30").is_ok());
        for (key, value) in [
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv4.conf.all.rp_filter", "1"),
            ("net.ipv4.conf.eth0.rp_filter", "1"),
            ("net.ipv4.conf.IFNAME.", "1"),
            ("net.ipv4.conf.IFNAME.a/../../b", "1"),
            ("net.ipv4.conf.IFNAME.a.b", "1"),
            ("kernel.IFNAME.x", "1"),
            ("net.ipv4.conf.IFNAME.rp_filter", ""),
            ("net.ipv4.conf.IFNAME.rp_filter", "1\n"),
        ] {
            let error = one(key, value).unwrap_err();
            assert_eq!(error.code, Code::InvalidSysctl, "{key} {value:?}");
        }
    }

    #[test]
    fn extra_hosts_are_names_with_addresses() {
        let one = |text: &str| extra_host(text).unwrap();
        assert_eq!(
            one("db:10.0.0.5").address,
            Some("10.0.0.5".parse().unwrap())
        );
        assert_eq!(one("db.test=10.0.0.5").name, "db.test");
        assert_eq!(one("db:fd00::5").address, Some("fd00::5".parse().unwrap()));
        assert_eq!(
            one("db:[fd00::5]").address,
            Some("fd00::5".parse().unwrap())
        );
        assert_eq!(one("host.docker.internal:host-gateway").address, None);
        for text in [
            "",
            "db",
            "db:",
            ":10.0.0.5",
            "a b:10.0.0.5",
            "db:10.0.0",
            "db:gateway",
        ] {
            assert_eq!(
                extra_host(text).unwrap_err().code,
                Code::InvalidHost,
                "{text}"
            );
        }
    }

    #[test]
    fn routes_lead_through_neighbours() {
        let one = |destination: &str, gateway: &str| {
            routes(&[api::StaticRoute {
                destination: destination.to_owned(),
                gateway: (!gateway.is_empty()).then(|| gateway.to_owned()),
                metric: None,
            }])
        };
        let subnets: [Prefix; 1] = ["10.1.0.0/24".parse().unwrap()];
        let near = one("10.9.0.0/16", "10.1.0.254").unwrap();
        assert!(check_gateways(&near, &subnets).is_ok());
        assert!(check_gateways(&one("10.9.0.0/16", "").unwrap(), &subnets).is_ok());
        for wrong in [
            one("10.9.0.0/16", "10.2.0.1").unwrap(),
            one("fd00::/64", "").unwrap(),
        ] {
            let error = check_gateways(&wrong, &subnets).unwrap_err();
            assert_eq!(error.code, Code::InvalidRoute);
        }
        for (destination, gateway) in [
            ("10.9.0.1/16", ""),
            ("0.0.0.0/0", "10.1.0.254"),
            ("10.9.0.0/16", "fd00::1"),
            ("10.9.0.0/16", "x"),
            ("", ""),
        ] {
            let error = one(destination, gateway).unwrap_err();
            assert_eq!(error.code, Code::InvalidRoute, "{destination} {gateway}");
        }
        let twice = api::StaticRoute {
            destination: "10.9.0.0/16".to_owned(),
            ..api::StaticRoute::default()
        };
        let with_metric = api::StaticRoute {
            metric: Some(5),
            ..twice.clone()
        };
        assert!(routes(&[twice.clone(), with_metric]).is_ok());
        assert!(routes(&[twice.clone(), twice]).is_err());
    }
}
