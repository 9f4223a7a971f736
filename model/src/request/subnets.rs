//! The subnets of a network that is asked for: which fit together, and whose the gateways and ranges are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::api;
use crate::error::{Code, Error, Result};
use crate::id::shorten;
use crate::net::{Family, Prefix};
use crate::record::{Driver, Subnet};

/// Most subnets of one network.
pub const SUBNETS_MAX: usize = 64;

/// A subnet asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubnetSpec {
    /// The prefix.
    pub subnet: Prefix,
    /// The gateway, if not the first address.
    pub gateway: Option<IpAddr>,
    /// Where automatic addresses come from.
    pub ip_range: Option<Prefix>,
}

impl SubnetSpec {
    /// The subnet with its gateway: the first host address unless one was asked for.
    pub fn with_gateway(&self) -> Subnet {
        let first = match self.subnet.base() {
            IpAddr::V4(base) if self.subnet.len() < 31 => {
                IpAddr::V4(Ipv4Addr::from_bits(base.to_bits() | 1))
            }
            IpAddr::V6(base) if self.subnet.len() < 127 => {
                IpAddr::V6(Ipv6Addr::from_bits(base.to_bits() | 1))
            }
            base => base,
        };
        Subnet {
            subnet: self.subnet,
            gateway: self.gateway.unwrap_or(first),
            ip_range: self.ip_range,
        }
    }
}

/// IPv4 unless it is switched off; IPv6 where it is asked for, or a subnet of it is given.
pub(super) fn families(raw: &api::NetworkCreate, subnets: &[SubnetSpec]) -> Result<Vec<Family>> {
    let given = |family| subnets.iter().find(|s| s.subnet.family() == family);
    let ipv4 = raw.ipv4 != Some(false);
    let refuse = |message: String| Err(Error::new(Code::InvalidSubnet, message));
    if let (false, Some(spec)) = (ipv4, given(Family::V4)) {
        return refuse(format!(
            "subnet {} is IPv4, which is switched off",
            spec.subnet
        ));
    }
    let mut families = Vec::new();
    families.extend(ipv4.then_some(Family::V4));
    families.extend((raw.ipv6 || given(Family::V6).is_some()).then_some(Family::V6));
    if families.is_empty() {
        return refuse(format!(
            "network {} has neither IPv4 nor IPv6: add --ipv6",
            shorten(&raw.name)
        ));
    }
    Ok(families)
}

/// The subnets asked for, each with its gateway and range, in the order in which they are used up.
pub(super) fn subnets(raw: &api::NetworkCreate, driver: Driver) -> Result<Vec<SubnetSpec>> {
    let mut specs: Vec<SubnetSpec> = Vec::new();
    for text in &raw.subnets {
        let subnet: Prefix = text.parse()?;
        check_subnet(subnet)?;
        check_beside(subnet, &specs, driver)?;
        specs.push(SubnetSpec {
            subnet,
            gateway: None,
            ip_range: None,
        });
    }
    for text in &raw.gateways {
        set_gateway(text, &mut specs)?;
    }
    for text in &raw.ip_ranges {
        set_range(text, &mut specs)?;
    }
    Ok(specs)
}

/// Whether a network may have a subnet beside those before it.
fn check_beside(subnet: Prefix, specs: &[SubnetSpec], driver: Driver) -> Result<()> {
    let refuse = |message: String| Err(Error::new(Code::InvalidSubnet, message));
    if let Some(other) = specs.iter().find(|s| s.subnet.overlaps(subnet)) {
        return refuse(format!(
            "subnets {subnet} and {} overlap: give one of them",
            other.subnet
        ));
    }
    if specs.len() == SUBNETS_MAX {
        return refuse(format!(
            "a network takes at most {SUBNETS_MAX} subnets, for its containers have a route to each: use larger ones"
        ));
    }
    let same = |s: &&SubnetSpec| s.subnet.family() == subnet.family();
    match specs.iter().find(same) {
        // Hosts claim blocks of it, and each has an address of its own there.
        Some(other) if driver == Driver::Overlay => refuse(format!(
            "an overlay network takes one subnet per family, and {subnet} comes after {}: use one larger subnet, or \
             a second network",
            other.subnet
        )),
        _ => Ok(()),
    }
}

fn set_gateway(text: &str, specs: &mut [SubnetSpec]) -> Result<()> {
    let refuse = |message: String| Error::new(Code::InvalidGateway, message);
    let gateway: IpAddr = text
        .parse()
        .map_err(|_| refuse(format!("gateway {:?} is no IP address", shorten(text))))?;
    let spec = specs.iter_mut().find(|s| s.subnet.contains(gateway));
    let spec = spec.ok_or_else(|| {
        refuse(format!(
            "gateway {gateway} is in no subnet of the network: give --subnet with a prefix that holds it"
        ))
    })?;
    check_gateway(spec.subnet, gateway)?;
    match spec.gateway.replace(gateway) {
        Some(_) => Err(refuse(format!("{} has two gateways", spec.subnet))),
        None => Ok(()),
    }
}

fn set_range(text: &str, specs: &mut [SubnetSpec]) -> Result<()> {
    let refuse = |message: String| Error::new(Code::InvalidIpRange, message);
    let range: Prefix = text.parse().map_err(|error: Error| refuse(error.message))?;
    let spec = specs.iter_mut().find(|s| s.subnet.covers(range));
    let spec =
        spec.ok_or_else(|| refuse(format!("ip-range {range} is in no subnet of the network")))?;
    match spec.ip_range.replace(range) {
        Some(_) => Err(refuse(format!("{} has two ip-ranges", spec.subnet))),
        None => Ok(()),
    }
}

fn check_subnet(subnet: Prefix) -> Result<()> {
    let refuse = |why: &str| {
        Err(Error::new(
            Code::InvalidSubnet,
            format!("subnet {subnet} cannot be used: {why}"),
        ))
    };
    let base = subnet.base();
    let special = match base {
        IpAddr::V4(ip) => {
            ip.is_loopback()
                || ip.is_multicast()
                || ip.is_link_local()
                || ip.octets()[0] >= 240
                || ip.octets()[0] == 0
        }
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_multicast()
                || ip.is_unicast_link_local()
                || ip.is_unspecified()
        }
    };
    match (subnet.family(), subnet.len()) {
        (Family::V4, 0..=7) => refuse("it is larger than a /8"),
        (Family::V6, 0..=15) => refuse("it is larger than a /16"),
        (Family::V4, 32) | (Family::V6, 128) => {
            refuse("it holds one address, and the gateway needs that: use a /31 (/127) or larger")
        }
        _ if special => refuse("it is loopback, link-local, multicast or reserved space"),
        _ => Ok(()),
    }
}

fn check_gateway(subnet: Prefix, gateway: IpAddr) -> Result<()> {
    let edge = match subnet.family() {
        Family::V4 => subnet.len() < 31 && (gateway == subnet.base() || gateway == subnet.last()),
        Family::V6 => subnet.len() < 127 && gateway == subnet.base(),
    };
    if edge {
        return Err(Error::new(
            Code::InvalidGateway,
            format!(
                "gateway {gateway} is the network or broadcast address of {subnet}: use a host address"
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(subnets: &[&str], gateways: &[&str], ranges: &[&str]) -> api::NetworkCreate {
        let list = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        api::NetworkCreate {
            name: "web".to_owned(),
            subnets: list(subnets),
            gateways: list(gateways),
            ip_ranges: list(ranges),
            ..api::NetworkCreate::default()
        }
    }

    #[test]
    fn gateways_and_ranges_belong_to_the_subnet_that_holds_them() {
        let raw = asked(
            &["10.1.0.0/24", "fd00:1::/64", "10.2.0.0/24", "fd00:2::/64"],
            &["fd00:2::9", "10.2.0.254"],
            &["10.2.0.128/25", "fd00:1::/80"],
        );
        let specs = subnets(&raw, Driver::Bridge).unwrap();
        let made: Vec<Subnet> = specs.iter().map(SubnetSpec::with_gateway).collect();
        let text = |s: &Subnet| {
            let range = s.ip_range.map_or_else(String::new, |r| r.to_string());
            format!("{} {} {range}", s.subnet, s.gateway)
        };
        assert_eq!(
            made.iter().map(text).collect::<Vec<_>>(),
            [
                "10.1.0.0/24 10.1.0.1 ",
                "fd00:1::/64 fd00:1::1 fd00:1::/80",
                "10.2.0.0/24 10.2.0.254 10.2.0.128/25",
                "fd00:2::/64 fd00:2::9 ",
            ]
        );
    }

    #[test]
    fn subnets_that_do_not_fit_together_are_refused() {
        let refused = |raw: api::NetworkCreate, driver, words: [&str; 2]| {
            let error = subnets(&raw, driver).unwrap_err();
            let named = words.iter().all(|word| error.message.contains(word));
            assert!(named, "{words:?}: {error}");
            error.code
        };
        let same = asked(&["10.1.0.0/24", "10.1.0.0/24"], &[], &[]);
        let wide = asked(&["10.1.7.0/24", "fd00::/64", "10.1.0.0/16"], &[], &[]);
        let two = asked(&["10.1.0.0/24", "10.2.0.0/24"], &[], &[]);
        for (raw, driver, words) in [
            (same, Driver::Bridge, ["10.1.0.0/24", "overlap"]),
            (wide, Driver::Bridge, ["10.1.7.0/24", "10.1.0.0/16"]),
            (two, Driver::Overlay, ["10.2.0.0/24", "a second network"]),
        ] {
            assert_eq!(refused(raw, driver, words), Code::InvalidSubnet);
        }
        let gateways = asked(
            &["10.1.0.0/24", "10.2.0.0/24"],
            &["10.2.0.3", "10.2.0.4"],
            &[],
        );
        let code = refused(gateways, Driver::Bridge, ["10.2.0.0/24", "two gateways"]);
        assert_eq!(code, Code::InvalidGateway);
        let many: Vec<String> = (0..=SUBNETS_MAX)
            .map(|n| format!("10.{n}.0.0/16"))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let code = refused(asked(&many, &[], &[]), Driver::Bridge, ["64", "larger"]);
        assert_eq!(code, Code::InvalidSubnet);
        assert_eq!(
            subnets(&asked(&many[1..], &[], &[]), Driver::Bridge)
                .unwrap()
                .len(),
            SUBNETS_MAX
        );
    }
}
