//! Single objects for people: aligned `key: value` lines.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use netd_model::api;
use netd_model::counters::{Both, Count};
use netd_model::net::Prefix;
use netd_model::skeleton::Reason;

use super::output::clean;
use super::session::lines;
use super::table::columns;

/// A network.
pub(super) fn network(network: &api::Network) -> String {
    let subnets = rows(network.subnets.iter().map(|subnet| {
        let range = subnet
            .ip_range
            .as_ref()
            .map(|range| format!("ip-range {range}"));
        vec![
            subnet.subnet.clone(),
            subnet
                .gateway
                .map_or_else(|| "no gateway".to_owned(), |ip| format!("gateway {ip}")),
            range.unwrap_or_default(),
        ]
    }));
    let containers = rows(network.endpoints.iter().map(|endpoint| {
        let addresses: Vec<&str> = [&endpoint.ipv4, &endpoint.ipv6]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        vec![
            endpoint.container_name.clone(),
            addresses.join(" "),
            format!("mac {}", endpoint.mac),
        ]
    }));
    let mut page = Fields::default();
    page.line("name", &network.name);
    page.line("id", &network.id);
    page.line("driver", &network.driver);
    page.line("mode", &network.mode);
    page.lines("mode6", network.mode6.iter().cloned().collect());
    page.line("icc", yes(network.icc));
    page.lines("options", labels(&network.opts));
    page.lines("subnets", subnets);
    page.lines("routes", rows(network.routes.iter().map(route)));
    let list = |list: &[Prefix]| list.iter().map(ToString::to_string).collect();
    page.lines("allow from", list(&network.access.allow_from));
    page.lines("block from", list(&network.access.block_from));
    page.lines(
        "reservations",
        rows(network.reservations.iter().map(reservation)),
    );
    page.line("ipv6", yes(network.ipv6));
    page.line("internal", yes(network.internal));
    page.line("encrypted", yes(network.encrypted));
    page.lines("vni", network.vni.iter().map(u32::to_string).collect());
    page.line("mtu", &network.mtu);
    page.line("interface", &network.interface);
    page.lines("dns", network.dns.iter().map(IpAddr::to_string).collect());
    page.lines("labels", labels(&network.labels));
    page.lines("containers", containers);
    page.lines("dropped packets", drops(network.drops.iter().flatten()));
    page.finish()
}

/// The reasons for which packets were dropped, with their number.
fn drops<'a>(drops: impl Iterator<Item = (&'a Reason, &'a u64)>) -> Vec<String> {
    let some = drops.filter(|(_, packets)| **packets > 0);
    some.map(|(reason, packets)| format!("{}: {packets}", reason.as_str()))
        .collect()
}

/// A host.
pub(super) fn node(node: &api::Node) -> String {
    let mut page = Fields::default();
    page.line("name", &node.name);
    page.line("id", &node.id);
    page.line("address", &node.address);
    page.line("state", &node.state);
    if let Some(seconds) = node.last_seen {
        page.line("last seen", &format_args!("{seconds} s ago"));
    }
    page.line("this host", yes(node.own));
    page.line("mtu", &node.mtu);
    page.line("version", &node.version);
    page.lines("networks", node.networks.clone());
    let way = |way: netd_model::probe::Way| {
        let (small, full) = (way.small.as_str(), way.full.as_str());
        let mangles = if way.mangles() {
            " (wrong checksums)"
        } else {
            ""
        };
        format!("small {small}, full {full}{mangles}")
    };
    let path = |path: &api::Path| {
        let (from, to) = (way(path.from), way(path.to));
        format!("{}: from it {from}; to it {to}", path.network)
    };
    page.lines("paths", node.paths.iter().map(path).collect());
    page.finish()
}

/// What a name resolves to.
pub(super) fn dns(answer: &api::DnsAnswer) -> String {
    let mut page = Fields::default();
    page.line("code", &answer.code);
    page.lines("answers", answer.answers.clone());
    page.line("source", &answer.source);
    page.lines("why", answer.steps.clone());
    page.finish()
}

/// What was found, each with its remedy.
pub(super) fn findings(found: &api::Findings) -> String {
    let line = |f: &netd_model::doctor::Finding| {
        format!(
            "{}: {}\n  remedy: {}\n",
            clean(&f.kind),
            clean(&f.message),
            clean(&f.remedy)
        )
    };
    found.findings.iter().map(line).collect()
}

/// The way of a packet.
pub(super) fn trace(trace: &netd_model::trace::Trace) -> String {
    let hops = trace.hops.iter();
    let mut text = columns(None, hops.map(|hop| vec![clean(&hop.at), clean(&hop.what)]));
    let word = if trace.delivered {
        "arrives"
    } else {
        "dropped"
    };
    let _ = writeln!(text, "{word}: {}", clean(&trace.verdict));
    if let Some(fault) = &trace.fault {
        let _ = writeln!(text, "fault: {}", clean(fault));
    }
    text
}

/// A container.
pub(super) fn container(container: &api::Container) -> String {
    let mut page = Fields::default();
    page.line("name", &container.name);
    page.line("id", &container.id);
    page.line("hostname", &container.hostname);
    page.line("netns", &container.netns);
    page.lines("networks", rows(container.endpoints.iter().map(endpoint)));
    page.lines("ports", ports(&container.ports));
    if let Some(counters) = &container.counters {
        page.lines(
            "port counters",
            rows(counters.ports.iter().map(port_counters)),
        );
        page.lines(
            "interface counters",
            rows(counters.endpoints.iter().map(endpoint_counters)),
        );
    }
    page.lines(
        "extra hosts",
        rows(container.extra_hosts.iter().map(extra_host)),
    );
    page.line("dns", &container.dns.nameserver);
    page.line("search", &container.dns.search.join(" "));
    page.line("options", &container.dns.options.join(" "));
    page.lines("labels", labels(&container.labels));
    page.lines("warnings", container.warnings.clone());
    page.finish()
}

fn both(both: &Both) -> [String; 2] {
    let text = |way: &str, count: &Count| {
        format!("{way} {} packets, {} bytes", count.packets, count.bytes)
    };
    [text("received", &both.received), text("sent", &both.sent)]
}

fn port_counters(port: &api::PortCounters) -> Vec<String> {
    let mut row = vec![format!("{}/{}", port.container_port, port.proto)];
    row.extend(both(&port.both));
    row
}

fn endpoint_counters(end: &api::EndpointCounters) -> Vec<String> {
    let mut row = vec![end.ifname.to_string()];
    row.extend(both(&end.count.both));
    row.push(format!("dropped {}", end.count.dropped));
    row
}

fn extra_host((name, ips): (&String, &Vec<IpAddr>)) -> Vec<String> {
    let ips: Vec<String> = ips.iter().map(ToString::to_string).collect();
    vec![name.clone(), ips.join(" ")]
}

fn route(route: &api::StaticRoute) -> Vec<String> {
    let via = route.gateway.as_ref().map(|ip| format!("via {ip}"));
    let metric = route.metric.map(|metric| format!("metric {metric}"));
    vec![
        route.destination.clone(),
        via.unwrap_or_default(),
        metric.unwrap_or_default(),
    ]
}

fn reservation((name, kept): (&String, &api::Reservation)) -> Vec<String> {
    let parts = [&kept.ip, &kept.ip6, &kept.mac];
    let parts: Vec<&str> = parts.into_iter().flatten().map(String::as_str).collect();
    vec![name.clone(), parts.join(" ")]
}

fn endpoint(endpoint: &api::Endpoint) -> Vec<String> {
    let named = |name: &str, value: String| {
        if value.is_empty() {
            value
        } else {
            format!("{name} {value}")
        }
    };
    let addresses: Vec<&str> = [&endpoint.ipv4, &endpoint.ipv6]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    let gateways: Vec<String> = [endpoint.gateway, endpoint.gateway6]
        .into_iter()
        .flatten()
        .map(|ip| ip.to_string())
        .collect();
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
    let changes = status
        .host_changes
        .iter()
        .map(|change| format!("{}: {} -> {}", change.sysctl, change.was, change.now));
    let features = status
        .features
        .iter()
        .map(|(name, there)| format!("{name}: {}", yes(*there)));
    let mut page = Fields::default();
    page.line("ready", yes(status.ready));
    page.line("version", &status.version);
    page.line("networks", &status.networks);
    page.line("containers", &status.containers);
    page.line("ports", &status.ports);
    if status.nodes > 0 || status.store != "embedded" {
        page.line("store", &status.store);
        page.line("nodes", &status.nodes);
    }
    page.lines("features", features.collect());
    page.lines("host changes", changes.collect());
    page.lines("orphans", status.orphans.clone());
    page.lines("dropped packets", drops(status.drops.iter()));
    page.lines("warnings", status.warnings.clone());
    page.finish()
}

/// What a file brought about, a line each.
pub(super) fn applied(applied: &api::Applied) -> String {
    let line = |what: &'static str| move |name: &String| format!("{what} {name}");
    let created = applied.created.iter().map(line("created"));
    let unchanged = applied.unchanged.iter().map(line("unchanged"));
    lines(&created.chain(unchanged).collect::<Vec<_>>())
}

/// What a purge removed.
pub(super) fn purged(purged: &api::Purged) -> String {
    let mut page = Fields::default();
    page.line("containers", &purged.containers);
    page.line("networks", &purged.networks);
    page.line("orphans", &purged.orphans);
    page.finish()
}

/// Published ports, neighbours as a range: `127.0.0.1:8000-8002->80-82/tcp`.
pub(super) fn ports(ports: &[api::Port]) -> Vec<String> {
    let follows = |one: &api::Port, next: &api::Port| {
        (one.proto, one.host_ip) == (next.proto, next.host_ip)
            && one.host_port.checked_add(1) == Some(next.host_port)
            && one.container_port.checked_add(1) == Some(next.container_port)
    };
    ports
        .chunk_by(follows)
        .filter_map(|run| Some(range(run.first()?, run.last()?)))
        .collect()
}

fn range(first: &api::Port, last: &api::Port) -> String {
    let host = match first.host_ip {
        Some(IpAddr::V6(ip)) => format!("[{ip}]:"),
        Some(IpAddr::V4(ip)) => format!("{ip}:"),
        None => String::new(),
    };
    let span = |from: u16, to: u16| {
        if from == to {
            from.to_string()
        } else {
            format!("{from}-{to}")
        }
    };
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

/// Labels, one to a line.
fn labels(labels: &BTreeMap<String, String>) -> Vec<String> {
    labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}

/// A table without a header, a line each.
fn rows(rows: impl IntoIterator<Item = Vec<String>>) -> Vec<String> {
    columns(None, rows).lines().map(str::to_owned).collect()
}

/// Keys and their lines.
#[derive(Default)]
struct Fields(Vec<(&'static str, Vec<String>)>);

impl Fields {
    /// A value of one line; an empty one is left out.
    fn line(&mut self, key: &'static str, value: &(impl ToString + ?Sized)) {
        let value = value.to_string();
        self.lines(
            key,
            if value.is_empty() {
                vec![]
            } else {
                vec![value]
            },
        );
    }

    /// A value of several lines, each below the other.
    fn lines(&mut self, key: &'static str, lines: Vec<String>) {
        self.0.push((key, lines));
    }

    fn finish(self) -> String {
        let shown = self.0.iter().filter(|(_, lines)| !lines.is_empty());
        let width = shown.map(|(key, _)| key.len() + 1).max().unwrap_or(0);
        let mut text = String::new();
        for (key, lines) in self.0 {
            let mut label = format!("{key}:");
            for line in lines {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{label:width$} {}", clean(&line));
                label.clear();
            }
        }
        text
    }
}
