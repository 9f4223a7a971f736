//! The success result in all versions of the protocol, read and written.
//!
//! Inside there is one form, that of 1.1.0; what a version does not have is left out when it is written.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::{self, CniError, DECODE};

/// The versions that are supported, in ascending order.
pub const VERSIONS: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];
/// The last of them.
pub const NEWEST: &str = "1.1.0";

/// Where a supported version stands among [`VERSIONS`].
fn rank(version: &str) -> Result<usize, CniError> {
    VERSIONS
        .iter()
        .position(|known| *known == version)
        .ok_or_else(|| {
            CniError::new(
                error::VERSION,
                format!("incompatible CNI version {version:?}"),
            )
            .with(format!("supported are {}", VERSIONS.join(", ")))
        })
}

/// Whether a version is supported and has what came with `since`.
pub fn has(version: &str, since: &str) -> Result<bool, CniError> {
    Ok(rank(version)? >= rank(since)?)
}

/// A result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CniResult {
    /// Every interface that was made or changed.
    #[serde(deserialize_with = "or_default")]
    pub interfaces: Vec<Interface>,
    /// Their addresses.
    #[serde(deserialize_with = "or_default")]
    pub ips: Vec<Ip>,
    /// Routes.
    #[serde(deserialize_with = "or_default")]
    pub routes: Vec<Route>,
    /// Name servers.
    #[serde(deserialize_with = "or_default")]
    pub dns: Dns,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its Ethernet address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Its MTU, since 1.1.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Path of its namespace; none on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// Since 1.1.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket_path: Option<String>,
    /// Since 1.1.0.
    #[serde(rename = "pciID", skip_serializing_if = "Option::is_none")]
    pub pci_id: Option<String>,
}

/// An address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ip {
    /// With the length of its prefix.
    pub address: String,
    /// The gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Index into the interfaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

/// A route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Route {
    /// Destination.
    pub dst: String,
    /// Next hop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gw: Option<String>,
    /// What 1.1.0 added: `mtu`, `advmss`, `priority`, `table`, `scope`.
    #[serde(flatten)]
    pub since_1_1: Map<String, Value>,
}

/// Name servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Addresses.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Search list.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options of resolv.conf(5).
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// `null` is written by programs in Go for a list that is not there.
pub(crate) fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// `ip4` and `ip6` of 0.1.0 and 0.2.0.
#[derive(Default, Deserialize)]
#[serde(default)]
struct OldIp {
    ip: String,
    gateway: Option<String>,
    #[serde(deserialize_with = "or_default")]
    routes: Vec<Route>,
}

impl CniResult {
    /// Reads a result of any version; the form tells which.
    pub fn read(value: &Value) -> Result<Self, CniError> {
        let failed = |error: serde_json::Error| {
            CniError::new(
                DECODE,
                format!("a result is not of the form that CNI has: {error}"),
            )
        };
        if !value.is_object() {
            return Err(CniError::new(DECODE, "a result is a JSON object"));
        }
        let mut result: Self = Self::deserialize(value).map_err(failed)?;
        for key in ["ip4", "ip6"] {
            let old = value.get(key).filter(|old| !old.is_null());
            if let Some(old) = old.map(OldIp::deserialize).transpose().map_err(failed)? {
                result.ips.push(Ip {
                    address: old.ip,
                    gateway: old.gateway,
                    interface: None,
                });
                result.routes.extend(old.routes);
            }
        }
        for ip in &result.ips {
            ip.address.parse::<cidr::Address>().map_err(|()| {
                CniError::new(
                    DECODE,
                    format!(
                        "{:?} is no address with the length of its prefix",
                        ip.address
                    ),
                )
            })?;
        }
        Ok(result)
    }

    /// The document of a version.
    pub fn write(&self, version: &str) -> Result<Value, CniError> {
        let with_interfaces = has(version, "0.3.0")?;
        let mut document = if with_interfaces {
            self.write_since_0_3(version)?
        } else {
            self.write_old()
        };
        document.insert("cniVersion".to_owned(), version.into());
        document.insert("dns".to_owned(), json!(self.dns));
        Ok(Value::Object(document))
    }

    fn write_since_0_3(&self, version: &str) -> Result<Map<String, Value>, CniError> {
        let newest = has(version, "1.1.0")?;
        let ip_versions = !has(version, "1.0.0")?;
        let interface = |interface: &Interface| {
            let mut interface = interface.clone();
            if !newest {
                (interface.mtu, interface.socket_path, interface.pci_id) = (None, None, None);
            }
            json!(interface)
        };
        let ip = |ip: &Ip| {
            let mut value = json!(ip);
            if ip_versions {
                value["version"] = if is_v6(&ip.address) { "6" } else { "4" }.into();
            }
            value
        };
        let route = |route: &Route| {
            let mut route = route.clone();
            if !newest {
                route.since_1_1.clear();
            }
            json!(route)
        };
        let lists = [
            (
                "interfaces",
                self.interfaces.iter().map(interface).collect::<Vec<_>>(),
            ),
            ("ips", self.ips.iter().map(ip).collect()),
            ("routes", self.routes.iter().map(route).collect()),
        ];
        Ok(lists
            .into_iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(name, list)| (name.to_owned(), list.into()))
            .collect())
    }

    /// One address per family, each with its routes; the first of each counts.
    fn write_old(&self) -> Map<String, Value> {
        let of = |v6: bool| {
            let ip = self.ips.iter().find(|ip| is_v6(&ip.address) == v6)?;
            let routes = self.routes.iter().filter(|route| is_v6(&route.dst) == v6);
            let routes: Vec<Value> = routes
                .map(|route| json!({"dst": route.dst, "gw": route.gw}))
                .collect();
            let mut value = json!({"ip": ip.address, "routes": routes});
            if let Some(gateway) = &ip.gateway {
                value["gateway"] = gateway.as_str().into();
            }
            Some(value)
        };
        [("ip4", of(false)), ("ip6", of(true))]
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect()
    }

    /// This result with another behind it: what an earlier plugin of the chain made stays.
    #[must_use]
    pub fn followed_by(mut self, other: Self) -> Self {
        let shift = self.interfaces.len();
        self.interfaces.extend(other.interfaces);
        self.ips.extend(other.ips.into_iter().map(|ip| Ip {
            interface: ip.interface.map(|index| index + shift),
            ..ip
        }));
        self.routes.extend(other.routes);
        if self.dns == Dns::default() {
            self.dns = other.dns;
        }
        self
    }
}

fn is_v6(address: &str) -> bool {
    address.contains(':')
}

/// Addresses with the length of their prefix: `10.0.0.5/16`, host bits kept.
pub(crate) mod cidr {
    use std::net::IpAddr;
    use std::str::FromStr;

    /// `10.0.0.5/16`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Address {
        pub(crate) ip: IpAddr,
        pub(crate) len: u8,
    }

    impl FromStr for Address {
        type Err = ();

        fn from_str(text: &str) -> Result<Self, ()> {
            let (ip, len) = text.split_once('/').ok_or(())?;
            let ip: IpAddr = ip.parse().map_err(|_| ())?;
            let len: u8 = len.parse().map_err(|_| ())?;
            let most = if ip.is_ipv4() { 32 } else { 128 };
            (len <= most).then_some(Self { ip, len }).ok_or(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dual() -> CniResult {
        CniResult {
            interfaces: vec![Interface {
                name: "eth0".to_owned(),
                mac: Some("02:00:00:00:00:01".to_owned()),
                mtu: Some(1450),
                sandbox: Some("/run/netns/a".to_owned()),
                ..Interface::default()
            }],
            ips: vec![
                Ip {
                    address: "10.1.0.5/16".to_owned(),
                    gateway: Some("10.1.0.1".to_owned()),
                    interface: Some(0),
                },
                Ip {
                    address: "fd00::5/64".to_owned(),
                    gateway: None,
                    interface: Some(0),
                },
            ],
            routes: vec![Route {
                dst: "0.0.0.0/0".to_owned(),
                gw: Some("10.1.0.1".to_owned()),
                since_1_1: json!({"priority": 7}).as_object().unwrap().clone(),
            }],
            dns: Dns {
                nameservers: vec!["127.0.0.11".to_owned()],
                ..Dns::default()
            },
        }
    }

    #[test]
    fn each_version_has_its_form() {
        for version in ["0.1.0", "0.2.0"] {
            let value = dual().write(version).unwrap();
            assert_eq!(value["cniVersion"], version);
            assert_eq!(value["ip4"]["ip"], "10.1.0.5/16");
            assert_eq!(value["ip4"]["routes"][0]["dst"], "0.0.0.0/0");
            assert_eq!(value["ip6"]["ip"], "fd00::5/64");
            assert!(value.get("interfaces").is_none() && value.get("ips").is_none());
        }
        for version in ["0.3.0", "0.3.1", "0.4.0"] {
            let value = dual().write(version).unwrap();
            assert_eq!(value["ips"][0]["version"], "4");
            assert_eq!(value["ips"][1]["version"], "6");
            assert!(value["interfaces"][0].get("mtu").is_none());
            assert!(value["routes"][0].get("priority").is_none());
        }
        let value = dual().write("1.0.0").unwrap();
        assert!(value["ips"][0].get("version").is_none());
        assert!(value["interfaces"][0].get("mtu").is_none());
        let value = dual().write("1.1.0").unwrap();
        assert_eq!(value["interfaces"][0]["mtu"], 1450);
        assert_eq!(value["routes"][0]["priority"], 7);
        assert_eq!(dual().write("9.9.9").unwrap_err().code, error::VERSION);
    }

    #[test]
    fn what_was_written_is_read_in_every_version() {
        for version in VERSIONS {
            let read = CniResult::read(&dual().write(version).unwrap()).unwrap();
            assert_eq!(read.ips.len(), 2, "{version}");
            assert_eq!(read.ips[0].address, dual().ips[0].address);
            assert_eq!(read.dns, dual().dns);
        }
        let read = CniResult::read(&dual().write("1.1.0").unwrap()).unwrap();
        assert_eq!(read, dual());
    }

    #[test]
    fn nulls_are_lists_that_are_not_there_and_nonsense_is_refused() {
        let read =
            CniResult::read(&json!({"interfaces": null, "ips": null, "routes": null, "dns": null}))
                .unwrap();
        assert_eq!(read, CniResult::default());
        for bad in [
            json!([]),
            json!("x"),
            json!({"ips": [{"address": "10.0.0.1"}]}),
            json!({"ips": 5}),
        ] {
            assert_eq!(CniResult::read(&bad).unwrap_err().code, DECODE, "{bad}");
        }
    }

    #[test]
    fn indexes_move_behind_the_interfaces_of_earlier_plugins() {
        let both = dual().followed_by(dual());
        assert_eq!(both.interfaces.len(), 2);
        assert_eq!(both.ips[2].interface, Some(1));
    }
}
