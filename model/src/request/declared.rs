//! Networks and reservations that a file declares: what is there already stays untouched.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{CreateNetwork, SubnetSpec};
use crate::api;
use crate::error::{Code, Error, Result};
use crate::id::{Name, shorten};
use crate::net::{Family, Prefix};
use crate::record::{Network, Reservation, Subnet};

/// What files declare, each network and reservation once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Declared {
    /// The networks, in the order of the files.
    pub networks: Vec<CreateNetwork>,
    /// The reservations.
    pub reservations: Vec<Reserve>,
}

/// A reservation to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// Name, id or unique prefix of an id.
    pub network: String,
    /// The container's name.
    pub container: Name,
    /// What is kept for it.
    pub reservation: Reservation,
}

impl TryFrom<api::Apply> for Declared {
    type Error = Error;

    fn try_from(raw: api::Apply) -> Result<Self> {
        let mut declared = Self::default();
        let mut names: BTreeMap<Name, CreateNetwork> = BTreeMap::new();
        for network in raw.networks {
            let network = CreateNetwork::try_from(network)?;
            match names.insert(network.name.clone(), network.clone()) {
                None => declared.networks.push(network),
                Some(other) if other == network => {}
                Some(_) => return Err(twice(&format!("network {}", network.name))),
            }
        }
        for raw in raw.reservations {
            let reserve = Reserve {
                container: Name::parse(&raw.container)?,
                reservation: reservation(&api::Reservation {
                    ip: raw.ip,
                    ip6: raw.ip6,
                    mac: raw.mac,
                })?,
                network: raw.network,
            };
            if reserve.reservation == Reservation::default() {
                return Err(Error::new(
                    Code::InvalidReservation,
                    format!(
                        "reservation for {} on {:?} names neither ip, ip6 nor mac",
                        reserve.container,
                        shorten(&reserve.network)
                    ),
                ));
            }
            let same = |other: &&Reserve| {
                (&other.network, &other.container) == (&reserve.network, &reserve.container)
            };
            match declared.reservations.iter().find(same) {
                None => declared.reservations.push(reserve),
                Some(other) if *other == reserve => {}
                Some(_) => {
                    let what = format!(
                        "reservation for {} on {}",
                        reserve.container, reserve.network
                    );
                    return Err(twice(&what));
                }
            }
        }
        Ok(declared)
    }
}

fn twice(what: &str) -> Error {
    Error::new(
        Code::InvalidApply,
        format!("{what} is declared twice, and differently: remove one"),
    )
}

/// A reservation as it was asked for.
pub fn reservation(raw: &api::Reservation) -> Result<Reservation> {
    let bad = |text: &str, version: u8| {
        Error::new(
            Code::InvalidIp,
            format!("{:?} is no IPv{version} address", shorten(text)),
        )
    };
    let mut ips: Vec<IpAddr> = Vec::new();
    if let Some(text) = &raw.ip {
        ips.push(text.parse::<Ipv4Addr>().map_err(|_| bad(text, 4))?.into());
    }
    if let Some(text) = &raw.ip6 {
        ips.push(text.parse::<Ipv6Addr>().map_err(|_| bad(text, 6))?.into());
    }
    Ok(Reservation {
        ips,
        mac: raw.mac.as_deref().map(str::parse).transpose()?,
    })
}

/// In what a network differs from what is asked for, in words; none if it is that network. What was left to netd is
/// right as it is.
pub fn difference(asked: &CreateNetwork, have: &Network) -> Option<String> {
    let subnet = [Family::V4, Family::V6]
        .into_iter()
        .find_map(|family| subnets_differ(asked, have, family));
    let differs = |what: &str, is: bool| is.then(|| what.to_owned());
    subnet
        .or_else(|| differs("driver", asked.driver != have.driver))
        .or_else(|| {
            let other = |family: &Family| asked.families.contains(family) != have.has(*family);
            let family = [Family::V4, Family::V6].into_iter().find(other)?;
            Some(format!("ipv{}", family.digit()))
        })
        .or_else(|| {
            let [v4, v6] = [Family::V4, Family::V6].map(|family| have.mode_of(family));
            differs("mode", asked.modes != [v4, v6])
        })
        .or_else(|| differs("icc", asked.policy.icc != have.policy.icc))
        .or_else(|| differs("options", asked.policy != have.policy))
        .or_else(|| differs("internal", asked.internal != have.internal))
        .or_else(|| {
            let mtu = asked.mtu.filter(|mtu| *mtu != have.mtu)?;
            Some(format!("mtu {}, not {mtu}", have.mtu))
        })
        .or_else(|| differs("dns", asked.dns != have.dns))
        .or_else(|| differs("opts", asked.naming != have.naming))
        .or_else(|| differs("labels", asked.labels != have.labels))
        .or_else(|| differs("routes", asked.routes != have.routes))
        .or_else(|| differs("allow_from or block_from", asked.access != have.access))
        .or_else(|| {
            let bridge = asked.bridge.as_ref().filter(|b| **b != have.interface)?;
            Some(format!("bridge {}, not {bridge}", have.interface))
        })
}

/// In what the subnets of a family differ, if any were asked for: their order is the one in which they are used up.
fn subnets_differ(asked: &CreateNetwork, have: &Network, family: Family) -> Option<String> {
    let of_family = |spec: &&SubnetSpec| spec.subnet.family() == family;
    let specs: Vec<&SubnetSpec> = asked.subnets.iter().filter(of_family).collect();
    let held: Vec<&Subnet> = have.subnets_of(family).collect();
    let is = |(spec, held): (&&SubnetSpec, &&Subnet)| {
        held.subnet == spec.subnet
            && spec.gateway.is_none_or(|gateway| gateway == held.gateway)
            && held.ip_range == spec.ip_range
    };
    let same = specs.len() == held.len() && specs.iter().zip(&held).all(is);
    // Whether it has the family at all is another difference.
    if specs.is_empty() || held.is_empty() || same {
        return None;
    }
    let list = |all: Vec<Prefix>| {
        let texts: Vec<String> = all.iter().map(ToString::to_string).collect();
        texts.join(", ")
    };
    Some(format!(
        "subnet {}, not {}",
        list(held.iter().map(|s| s.subnet).collect()),
        list(specs.iter().map(|s| s.subnet).collect())
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NetworkId;
    use crate::record::{Driver, Mode};

    fn asked(change: impl FnOnce(&mut api::NetworkCreate)) -> CreateNetwork {
        let mut raw = api::NetworkCreate {
            name: "web".to_owned(),
            ..api::NetworkCreate::default()
        };
        change(&mut raw);
        CreateNetwork::try_from(raw).unwrap()
    }

    fn web() -> Network {
        let id = NetworkId::from_bytes([1; 16]);
        let spec = super::super::SubnetSpec {
            subnet: "10.1.0.0/24".parse().unwrap(),
            gateway: None,
            ip_range: None,
        };
        Network {
            interface: Network::default_interface(&id),
            id,
            name: Name::parse("web").unwrap(),
            driver: Driver::Bridge,
            subnets: vec![spec.with_gateway()],
            internal: false,
            mode: Mode::Nat,
            mode6: None,
            policy: crate::record::Policy::default(),
            naming: crate::naming::Naming::default(),
            mtu: 1400,
            dns: Vec::new(),
            labels: BTreeMap::new(),
            routes: Vec::new(),
            access: crate::access::Access::default(),
            reservations: BTreeMap::new(),
            overlay: None,
            unknown: serde_json::Map::new(),
        }
    }

    #[test]
    fn what_is_left_open_fits_and_what_is_said_must() {
        let text = |change: fn(&mut api::NetworkCreate)| difference(&asked(change), &web());
        assert_eq!(text(|_| ()), None);
        assert_eq!(
            text(|raw| raw.subnets = vec!["10.1.0.0/24".to_owned()]),
            None
        );
        assert_eq!(text(|raw| raw.mtu = Some(1400)), None);
        for (change, word) in [
            (
                (|raw| raw.subnets = vec!["10.2.0.0/24".to_owned()]) as fn(&mut api::NetworkCreate),
                "10.2.0.0/24",
            ),
            (
                |raw| raw.subnets = ["10.1.0.0/24", "10.2.0.0/24"].map(str::to_owned).into(),
                "10.1.0.0/24, not 10.1.0.0/24, 10.2.0.0/24",
            ),
            (|raw| raw.mtu = Some(1500), "1500"),
            (|raw| raw.ipv6 = true, "ipv6"),
            (|raw| raw.internal = true, "internal"),
            (|raw| raw.dns = vec!["9.9.9.9".to_owned()], "dns"),
            (
                |raw| drop(raw.labels.insert("a".to_owned(), "b".to_owned())),
                "labels",
            ),
            (
                |raw| drop(raw.opts.insert("bridge".to_owned(), "br9".to_owned())),
                "br9",
            ),
            (
                |raw| {
                    raw.subnets = vec!["10.1.0.0/24".to_owned()];
                    raw.gateways = vec!["10.1.0.9".to_owned()];
                },
                "subnet",
            ),
        ] {
            let found = text(change).unwrap_or_default();
            assert!(found.contains(word), "{word}: {found:?}");
        }
    }

    #[test]
    fn one_thing_is_said_of_one_network() {
        let named = |mtu| api::NetworkCreate {
            name: "web".to_owned(),
            mtu,
            ..api::NetworkCreate::default()
        };
        let apply = |networks| {
            Declared::try_from(api::Apply {
                networks,
                reservations: Vec::new(),
            })
        };
        assert_eq!(
            apply(vec![named(None), named(None)])
                .unwrap()
                .networks
                .len(),
            1
        );
        let error = apply(vec![named(None), named(Some(1400))]).unwrap_err();
        assert_eq!(error.code, Code::InvalidApply);
    }
}
