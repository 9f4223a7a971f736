//! Single objects for people: aligned `key: value` lines.

use std::fmt::Write as _;

use netd_model::api;

use super::output::clean;
use super::table::columns;

/// A network.
pub(super) fn network(network: &api::Network) -> String {
    let subnets = columns(
        None,
        network.subnets.iter().map(|subnet| {
            let range = subnet.ip_range.as_ref().map(|range| format!("ip-range {range}"));
            vec![subnet.subnet.clone(), format!("gateway {}", subnet.gateway), range.unwrap_or_default()]
        }),
    );
    let containers = columns(
        None,
        network.endpoints.iter().map(|endpoint| {
            let addresses: Vec<&str> = [&endpoint.ipv4, &endpoint.ipv6].into_iter().flatten().map(String::as_str).collect();
            vec![endpoint.container_name.clone(), addresses.join(" "), format!("mac {}", endpoint.mac)]
        }),
    );
    let mut page = Fields::default();
    page.line("name", &network.name);
    page.line("id", &network.id);
    page.line("driver", &network.driver);
    page.line("mode", &network.mode);
    page.line("subnets", &subnets);
    page.line("ipv6", yes(network.ipv6));
    page.line("internal", yes(network.internal));
    page.line("encrypted", yes(network.encrypted));
    page.line("vni", &network.vni.map(|vni| vni.to_string()).unwrap_or_default());
    page.line("mtu", &network.mtu.to_string());
    page.line("interface", network.interface.as_str());
    page.line("dns", &lines(&network.dns));
    page.line("labels", &lines(network.labels.iter().map(|(key, value)| format!("{key}={value}"))));
    page.line("containers", &containers);
    page.finish()
}

/// A container.
pub(super) fn container(container: &api::Container) -> String {
    let mut page = Fields::default();
    page.line("name", &container.name);
    page.line("id", &container.id);
    page.line("hostname", &container.hostname);
    page.line("netns", &container.netns);
    page.line("networks", &columns(None, container.endpoints.iter().map(endpoint)));
    page.line("ports", &lines(ports(&container.ports)));
    page.line("dns", &container.dns.nameserver.to_string());
    page.line("search", &container.dns.search.join(" "));
    page.line("options", &container.dns.options.join(" "));
    page.line("labels", &lines(container.labels.iter().map(|(key, value)| format!("{key}={value}"))));
    page.line("warnings", &lines(&container.warnings));
    page.finish()
}

fn endpoint(endpoint: &api::Endpoint) -> Vec<String> {
    let named = |name: &str, value: String| if value.is_empty() { value } else { format!("{name} {value}") };
    let addresses: Vec<&str> = [&endpoint.ipv4, &endpoint.ipv6].into_iter().flatten().map(String::as_str).collect();
    let gateways: Vec<String> =
        [endpoint.gateway, endpoint.gateway6].into_iter().flatten().map(|ip| ip.to_string()).collect();
    vec![
        endpoint.network.clone(),
        endpoint.ifname.to_string(),
        addresses.join(" "),
        named("gateway", gateways.join(" ")),
        format!("mac {}", endpoint.mac),
        format!("host {}", endpoint.host_ifname),
        named("aliases", endpoint.aliases.join(" ")),
    ]
}

/// The daemon's status.
pub(super) fn status(status: &api::Status) -> String {
    let changes = status.host_changes.iter().map(|change| format!("{}: {} -> {}", change.sysctl, change.was, change.now));
    let mut page = Fields::default();
    page.line("ready", yes(status.ready));
    page.line("version", &status.version);
    page.line("networks", &status.networks.to_string());
    page.line("containers", &status.containers.to_string());
    page.line("ports", &status.ports.to_string());
    page.line("features", &lines(status.features.iter().map(|(name, there)| format!("{name}: {}", yes(*there)))));
    page.line("host changes", &lines(changes));
    page.line("orphans", &lines(&status.orphans));
    page.line("warnings", &lines(&status.warnings));
    page.finish()
}

/// What a purge removed.
pub(super) fn purged(purged: &api::Purged) -> String {
    let mut page = Fields::default();
    page.line("containers", &purged.containers.to_string());
    page.line("networks", &purged.networks.to_string());
    page.line("orphans", &purged.orphans.to_string());
    page.finish()
}

/// Published ports, neighbours as a range: `127.0.0.1:8000-8002->80-82/tcp`.
pub(super) fn ports(ports: &[api::Port]) -> Vec<String> {
    let follows = |one: &api::Port, next: &api::Port| {
        (one.proto, one.host_ip) == (next.proto, next.host_ip)
            && one.host_port.checked_add(1) == Some(next.host_port)
            && one.container_port.checked_add(1) == Some(next.container_port)
    };
    ports.chunk_by(follows).filter_map(|run| Some(range(run.first()?, run.last()?))).collect()
}

fn range(first: &api::Port, last: &api::Port) -> String {
    let host = match first.host_ip {
        Some(std::net::IpAddr::V6(ip)) => format!("[{ip}]:"),
        Some(std::net::IpAddr::V4(ip)) => format!("{ip}:"),
        None => String::new(),
    };
    let span = |from: u16, to: u16| if from == to { from.to_string() } else { format!("{from}-{to}") };
    let host_ports = span(first.host_port, last.host_port);
    let container_ports = span(first.container_port, last.container_port);
    format!("{host}{host_ports}->{container_ports}/{}", first.proto)
}

/// An address without its prefix length.
pub(super) fn address(cidr: &str) -> &str {
    cidr.split_once('/').map_or(cidr, |(address, _)| address)
}

/// A truth value for people.
pub(super) fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// Items, one to a line.
fn lines<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| clean(&item.to_string()) + "\n").collect()
}

/// Keys and values; a value of several lines continues below itself, an empty one is left out.
#[derive(Default)]
struct Fields(Vec<(&'static str, String)>);

impl Fields {
    fn line(&mut self, key: &'static str, value: &str) {
        if !value.is_empty() {
            self.0.push((key, value.to_owned()));
        }
    }

    fn finish(self) -> String {
        let width = self.0.iter().map(|(key, _)| key.len() + 1).max().unwrap_or(0);
        let mut text = String::new();
        for (key, value) in self.0 {
            let mut label = format!("{key}:");
            for line in value.lines() {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{label:width$} {}", clean(line));
                label.clear();
            }
        }
        text
    }
}
