//! The configuration on standard input: one plugin object of a list, as the runtime completed it.
//!
//! Keys that netd does not know are passed over: they belong to the runtime or to another plugin (CNI spec 1.1.0,
//! section 1). A known key with a value that netd cannot serve is an error that names both.

use std::collections::BTreeMap;
use std::path::PathBuf;

use netd_model::cni::{Attachment, Bandwidth};
use serde::Deserialize;
use serde_json::Value;

use crate::error::{CONFIG, CniError, DECODE};
use crate::result::{self, Dns, Route, or_default};

/// Where netd's socket is if the configuration does not say.
pub const DEFAULT_SOCKET: &str = "/run/netd/netd.sock";

/// The configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    /// `cniVersion`; without one it is 0.1.0.
    pub cni_version: Option<String>,
    /// Name of the CNI network.
    pub name: String,
    /// The plugin that the object is for: something else than netd's where netd is its IPAM.
    #[serde(rename = "type")]
    pub plugin: String,
    /// netd's socket.
    pub socket: Option<PathBuf>,
    /// A network of netd; `name` if there is none.
    pub network: Option<String>,
    /// How to make that network.
    #[serde(flatten)]
    pub define: Define,
    /// `ipMasq`.
    pub ip_masq: Option<bool>,
    /// `isGateway`.
    pub is_gateway: Option<bool>,
    /// Resolvers behind netd's own, and what belongs into resolv.conf.
    #[serde(deserialize_with = "or_default")]
    pub dns: Dns,
    /// Further routes.
    #[serde(deserialize_with = "or_default")]
    pub routes: Vec<Route>,
    /// Limits of every attachment.
    #[serde(deserialize_with = "or_default")]
    pub bandwidth: RawBandwidth,
    /// Address management.
    pub ipam: Option<Ipam>,
    /// What the runtime passes for a declared capability.
    #[serde(deserialize_with = "or_default")]
    pub runtime_config: RuntimeConfig,
    /// `args.cni`.
    #[serde(deserialize_with = "or_default")]
    pub args: Args,
    /// The result of the plugins before, on ADD; of the whole list, on DEL and CHECK.
    pub prev_result: Option<Value>,
    /// GC: what stays.
    #[serde(rename = "cni.dev/valid-attachments")]
    pub valid: Option<Vec<RawAttachment>>,
    /// The same under the name that libcni used first.
    #[serde(rename = "cni.dev/attachments")]
    pub valid_older: Option<Vec<RawAttachment>>,
}

/// How a network is made.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Define {
    /// `nat`, `routed`, `isolated`, `internal`.
    pub mode: Option<String>,
    /// One prefix.
    pub subnet: Option<String>,
    /// Its prefixes; those of one family are used up in this order.
    #[serde(deserialize_with = "or_default")]
    pub subnets: Vec<String>,
    /// The host's address in `subnet`.
    pub gateway: Option<String>,
    /// As `ranges` of host-local.
    #[serde(deserialize_with = "or_default")]
    pub ranges: Vec<Vec<Range>>,
    /// The node's prefixes for pods, one per family, as `node.spec.podCIDRs` has them.
    #[serde(rename = "podCIDRs", deserialize_with = "or_default")]
    pub pod_cidrs: Vec<String>,
    /// The prefixes of the cluster: pods reach them, and are reached from there, untranslated.
    #[serde(deserialize_with = "or_default")]
    pub non_masquerade: Vec<String>,
    /// A file with prefixes, such as a node agent writes.
    pub subnet_file: Option<PathBuf>,
    /// Largest packet.
    pub mtu: Option<u32>,
    /// Give it IPv6 with an automatic subnet.
    pub ipv6: Option<bool>,
    /// Name of the bridge.
    pub bridge: Option<String>,
    /// Whether its containers reach each other.
    pub icc: Option<bool>,
    /// Driver options, such as `trusted`.
    #[serde(deserialize_with = "or_default")]
    pub opts: BTreeMap<String, String>,
}

impl Define {
    /// Whether anything is said.
    pub fn is_empty(&self) -> bool {
        self.mode.is_none()
            && self.subnet.is_none()
            && self.subnets.is_empty()
            && self.gateway.is_none()
            && self.ranges.is_empty()
            && self.pod_cidrs.is_empty()
            && self.non_masquerade.is_empty()
            && self.subnet_file.is_none()
            && self.mtu.is_none()
            && self.ipv6.is_none()
            && self.bridge.is_none()
            && self.icc.is_none()
            && self.opts.is_empty()
    }
}

/// A pool of addresses, as host-local has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Range {
    /// The prefix.
    #[serde(alias = "Subnet")]
    pub subnet: String,
    /// The first address to give out.
    #[serde(alias = "RangeStart")]
    pub range_start: Option<String>,
    /// The last.
    #[serde(alias = "RangeEnd")]
    pub range_end: Option<String>,
    /// The host's address.
    #[serde(alias = "Gateway")]
    pub gateway: Option<String>,
}

/// `ipam`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ipam {
    /// The plugin: `netd` or `netd-cni` is netd itself.
    #[serde(rename = "type")]
    pub plugin: String,
    /// netd's socket.
    pub socket: Option<PathBuf>,
    /// A network of netd.
    pub network: Option<String>,
    /// One prefix.
    pub subnet: Option<String>,
    /// The first address to give out.
    pub range_start: Option<String>,
    /// The last.
    pub range_end: Option<String>,
    /// The host's address.
    pub gateway: Option<String>,
    /// One list for each family, of the pools that an address is from.
    #[serde(deserialize_with = "or_default")]
    pub ranges: Vec<Vec<Range>>,
    /// Routes for the container.
    #[serde(deserialize_with = "or_default")]
    pub routes: Vec<Route>,
}

/// `runtimeConfig`. Runtimes in Go write some of its keys with capital letters (containerd does), since Go reads either.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuntimeConfig {
    /// Capability `portMappings`.
    #[serde(deserialize_with = "or_default")]
    pub port_mappings: Vec<PortMapping>,
    /// Capability `bandwidth`.
    #[serde(deserialize_with = "or_default")]
    pub bandwidth: RawBandwidth,
    /// Capability `ips`.
    #[serde(deserialize_with = "or_default")]
    pub ips: Vec<String>,
    /// Capability `mac`.
    pub mac: Option<String>,
    /// Capability `dns`.
    pub dns: Option<RuntimeDns>,
    /// Capability `aliases`.
    #[serde(deserialize_with = "or_default")]
    pub aliases: Vec<String>,
    /// Capability `ipRanges`.
    #[serde(deserialize_with = "or_default")]
    pub ip_ranges: Vec<Vec<Range>>,
}

/// A port to publish.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortMapping {
    /// 1 to 65535.
    #[serde(alias = "HostPort")]
    pub host_port: u32,
    /// 1 to 65535.
    #[serde(alias = "ContainerPort")]
    pub container_port: u32,
    /// `tcp`, `udp`, `sctp`, in any case; `tcp` without one.
    #[serde(alias = "Protocol", deserialize_with = "or_default")]
    pub protocol: String,
    /// Empty or unspecified for every address.
    #[serde(rename = "hostIP", alias = "HostIP", deserialize_with = "or_default")]
    pub host_ip: String,
}

/// Rates in bit/s, bursts in bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RawBandwidth {
    /// To the container.
    #[serde(alias = "IngressRate")]
    pub ingress_rate: u64,
    /// To the container.
    #[serde(alias = "IngressBurst")]
    pub ingress_burst: u64,
    /// From the container.
    #[serde(alias = "EgressRate")]
    pub egress_rate: u64,
    /// From the container.
    #[serde(alias = "EgressBurst")]
    pub egress_burst: u64,
}

impl From<RawBandwidth> for Bandwidth {
    fn from(raw: RawBandwidth) -> Self {
        Self {
            ingress_rate: raw.ingress_rate,
            ingress_burst: raw.ingress_burst,
            egress_rate: raw.egress_rate,
            egress_burst: raw.egress_burst,
        }
    }
}

/// Capability `dns`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RuntimeDns {
    /// Resolvers.
    #[serde(alias = "Servers", deserialize_with = "or_default")]
    pub servers: Vec<String>,
    /// Search list.
    #[serde(alias = "Searches", deserialize_with = "or_default")]
    pub searches: Vec<String>,
    /// Options.
    #[serde(alias = "Options", deserialize_with = "or_default")]
    pub options: Vec<String>,
}

/// `args`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Args {
    /// `args.cni`.
    #[serde(deserialize_with = "or_default")]
    pub cni: CniArgs,
}

/// `args.cni` (CNI conventions).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CniArgs {
    /// Requested addresses.
    #[serde(deserialize_with = "or_default")]
    pub ips: Vec<String>,
    /// Requested Ethernet address.
    pub mac: Option<String>,
    /// Labels.
    #[serde(deserialize_with = "or_default")]
    pub labels: Vec<Label>,
}

/// A label of `args.cni`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Label {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// An attachment in the list of GC.
#[derive(Clone, Debug, Deserialize)]
pub struct RawAttachment {
    /// The container.
    #[serde(rename = "containerID")]
    pub container: String,
    /// The interface.
    pub ifname: String,
}

impl From<RawAttachment> for Attachment {
    fn from(raw: RawAttachment) -> Self {
        Self {
            container: raw.container,
            ifname: raw.ifname,
        }
    }
}

impl Config {
    /// Reads a configuration and checks its version and name.
    pub fn parse(text: &[u8]) -> Result<Self, CniError> {
        let config: Self = serde_json::from_slice(text).map_err(|error| {
            CniError::new(
                DECODE,
                format!("the configuration on standard input is not understood: {error}"),
            )
        })?;
        result::has(config.version(), "0.1.0")?;
        let name = netd_model::id::Name::parse(&config.name);
        name.map_err(|error| {
            CniError::new(
                CONFIG,
                format!("\"name\" of the configuration: {}", error.message),
            )
        })?;
        if config.is_ipam() {
            return Ok(config.addresses_only());
        }
        Ok(config)
    }

    /// What a configuration of another plugin says to its IPAM: its other keys mean something else, or nothing, to netd.
    fn addresses_only(self) -> Self {
        let ipam_socket = self.ipam.as_ref().and_then(|ipam| ipam.socket.clone());
        Self {
            cni_version: self.cni_version,
            name: self.name,
            plugin: self.plugin,
            socket: self.socket.or(ipam_socket),
            ipam: self.ipam,
            args: self.args,
            prev_result: self.prev_result,
            valid: self.valid,
            valid_older: self.valid_older,
            runtime_config: RuntimeConfig {
                ips: self.runtime_config.ips,
                ip_ranges: self.runtime_config.ip_ranges,
                ..RuntimeConfig::default()
            },
            ..Self::default()
        }
    }

    /// The version that is asked for.
    pub fn version(&self) -> &str {
        match self.cni_version.as_deref() {
            None | Some("") => "0.1.0",
            Some(version) => version,
        }
    }

    /// netd's socket.
    pub fn socket(&self) -> PathBuf {
        self.socket
            .clone()
            .unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET))
    }

    /// Whether netd only keeps addresses for another plugin.
    pub fn is_ipam(&self) -> bool {
        !is_own(&self.plugin) && self.ipam.as_ref().is_some_and(|ipam| is_own(&ipam.plugin))
    }

    /// The IPAM plugin to delegate to, if it is not netd.
    pub fn foreign_ipam(&self) -> Option<&str> {
        let plugin = self.ipam.as_ref().map(|ipam| ipam.plugin.as_str());
        plugin.filter(|plugin| !plugin.is_empty() && !is_own(plugin) && !self.is_ipam())
    }

    /// What GC leaves.
    pub fn valid(&self) -> Option<Vec<Attachment>> {
        let list = self.valid.clone().or_else(|| self.valid_older.clone())?;
        Some(list.into_iter().map(Attachment::from).collect())
    }

    /// Labels of `args.cni`.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let labels = self.args.cni.labels.iter();
        labels
            .map(|label| (label.key.clone(), label.value.clone()))
            .collect()
    }
}

/// The names under which this program is installed.
pub fn is_own(plugin: &str) -> bool {
    matches!(plugin, "netd-cni" | "netd")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error;

    #[test]
    fn what_is_wrong_has_the_code_of_the_spec() {
        let code = |text: &str| Config::parse(text.as_bytes()).unwrap_err().code;
        assert_eq!(code(""), DECODE);
        assert_eq!(code("[]"), DECODE);
        assert_eq!(code("{"), DECODE);
        assert_eq!(code(r#"{"cniVersion":"2.0.0","name":"a"}"#), error::VERSION);
        assert_eq!(code(r#"{"cniVersion":"1.1.0"}"#), CONFIG);
        assert_eq!(code(r#"{"cniVersion":"1.1.0","name":"a/b"}"#), CONFIG);
        assert_eq!(
            code(r#"{"cniVersion":"1.1.0","name":"a","mtu":"big"}"#),
            DECODE
        );
    }

    #[test]
    fn nulls_and_unknown_keys_are_passed_over() {
        let text = r#"{"cniVersion":"1.0.0","name":"a","type":"netd-cni","prevResult":null,"dns":null,"subnets":null,
            "ranges":null,"runtimeConfig":{"portMappings":null,"ips":null,"bandwidth":null,"cgroupPath":"/x",
            "io.kubernetes.cri.pod-annotations":{"a":"b"}},"args":null,"ipam":{},"somethingElse":{"x":1}}"#;
        let config = Config::parse(text.as_bytes()).unwrap();
        assert!(config.define.is_empty());
        assert_eq!(config.foreign_ipam(), None);
        assert!(!config.is_ipam());
    }

    #[test]
    fn who_manages_addresses() {
        let config = |plugin: &str, ipam: &str| {
            let text = format!(
                r#"{{"cniVersion":"1.0.0","name":"a","type":"{plugin}","ipam":{{"type":"{ipam}"}}}}"#
            );
            Config::parse(text.as_bytes()).unwrap()
        };
        assert!(config("bridge", "netd").is_ipam());
        assert!(config("macvlan", "netd-cni").is_ipam());
        assert!(!config("netd-cni", "netd").is_ipam());
        assert_eq!(config("netd-cni", "netd").foreign_ipam(), None);
        assert_eq!(
            config("netd-cni", "host-local").foreign_ipam(),
            Some("host-local")
        );
    }
}
