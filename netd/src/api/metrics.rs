//! `GET /metrics`: the text format of Prometheus 0.0.4. Made from the snapshot and one look at the counters.

use std::fmt::{self, Display, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use netd_model::api;
use netd_model::counters::{Both, Counters, Dropped};
use netd_model::probe;

use super::ApiState;
use super::answer::Reply;
use super::containers::{counters, drops};
use super::input::{Nothing, Params};
use crate::reconcile::handle::Snapshot;

pub(super) async fn metrics(State(state): State<ApiState>, _: Params<Nothing>) -> Reply {
    let counters = counters(&state).await?;
    let drops = drops(&state).await?;
    let mut page = page(&state.handle.snapshot(), &counters);
    dropped(&drops, &state.handle.snapshot(), &mut page);
    state.metrics.collect(&mut page);
    Ok(answer(page.0))
}

fn answer(text: String) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4");
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// A part of the daemon that counts by itself. Must not wait: it is asked on the runtime, when somebody reads.
pub trait Collect: fmt::Debug + Send + Sync {
    /// Writes its metrics.
    fn collect(&self, page: &mut Page);
}

/// The parts that count. Cloning shares.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Mutex<Vec<Arc<dyn Collect>>>>);

impl Registry {
    /// Adds one.
    pub fn add(&self, part: Arc<dyn Collect>) {
        self.lock().push(part);
    }

    fn collect(&self, page: &mut Page) {
        let parts = self.lock().clone();
        parts.iter().for_each(|part| part.collect(page));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<dyn Collect>>> {
        // Only ever added to.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes one number out of two directions.
type Value = fn(&Both) -> u64;

/// All metrics of this host.
fn page(snapshot: &Snapshot, counters: &Counters) -> Page {
    let mut page = Page::default();
    page.metric("netd_ready", "gauge", "Whether the first audit is done.")
        .sample(&[], u8::from(snapshot.ready));
    page.metric("netd_networks", "gauge", "Networks.")
        .sample(&[], snapshot.network_views.len());
    page.metric("netd_containers", "gauge", "Containers.")
        .sample(&[], snapshot.container_views.len());
    let containers = &snapshot.container_views;
    page.metric("netd_published_ports", "gauge", "Published host ports.")
        .sample(&[], containers.iter().map(|c| c.ports.len()).sum::<usize>());
    page.metric(
        "netd_warnings",
        "gauge",
        "Standing warnings of netctl status.",
    )
    .sample(&[], snapshot.warnings.len());
    nodes(&snapshot.nodes, &mut page);
    let counted: Vec<(&str, api::ContainerCounters)> = containers
        .iter()
        .map(|container| (container.name.as_str(), counters.of(container)))
        .collect();
    let ways: [(&str, Value, Value); 2] = [
        ("receive", |b| b.received.packets, |b| b.received.bytes),
        ("transmit", |b| b.sent.packets, |b| b.sent.bytes),
    ];
    for (way, packets, bytes) in ways {
        for (unit, value) in [("packets", packets), ("bytes", bytes)] {
            let help = format!(
                "{unit} of published ports that were forwarded, as the container sees them."
            );
            let name = format!("netd_port_{way}_{unit}_total");
            let mut metric = page.metric(&name, "counter", &help);
            for (container, counters) in &counted {
                for port in &counters.ports {
                    let (proto, number) = (port.proto.as_str(), port.container_port.to_string());
                    let labels = [
                        ("container", *container),
                        ("proto", proto),
                        ("port", &number),
                    ];
                    metric.sample(&labels, value(&port.both));
                }
            }
            let help = format!("{unit} of interfaces of containers, as the container sees them.");
            let name = format!("netd_endpoint_{way}_{unit}_total");
            let mut metric = page.metric(&name, "counter", &help);
            for (container, counters) in &counted {
                for end in &counters.endpoints {
                    metric.sample(&endpoint(container, end), value(&end.count.both));
                }
            }
        }
    }
    let help = "Packets dropped on their way to a container's interface.";
    let mut metric = page.metric("netd_endpoint_receive_drop_total", "counter", help);
    for (container, counters) in &counted {
        for end in &counters.endpoints {
            metric.sample(&endpoint(container, end), end.count.dropped);
        }
    }
    page
}

/// The other hosts of the cluster, and the ways to them. Nothing on a host that is in none.
fn nodes(nodes: &[api::Node], page: &mut Page) {
    if nodes.is_empty() {
        return;
    }
    let help = "Hosts of the cluster, this one too, by state.";
    let mut metric = page.metric("netd_nodes", "gauge", help);
    for state in ["alive", "suspect", "dead"] {
        let count = nodes.iter().filter(|node| node.state == state).count();
        metric.sample(&[("state", state)], count);
    }
    let help =
        "Whether probes arrive over an overlay network: 1 or 0; nothing while that is not known.";
    let mut metric = page.metric("netd_path_ok", "gauge", help);
    for node in nodes {
        for path in &node.paths {
            for (way, is) in [("from", path.from), ("to", path.to)] {
                let sizes = [("small", is.small), ("full", is.full), ("plain", is.plain)];
                for (size, state) in sizes {
                    let (node, network) = (node.name.as_str(), path.network.as_str());
                    let labels = [
                        ("node", node),
                        ("network", network),
                        ("way", way),
                        ("size", size),
                    ];
                    match state {
                        probe::State::Unknown => {}
                        probe::State::Ok => metric.sample(&labels, 1),
                        probe::State::Lost => metric.sample(&labels, 0),
                    }
                }
            }
        }
    }
}

fn dropped(dropped: &Dropped, snapshot: &Snapshot, page: &mut Page) {
    let help = "Packets that netd's rules dropped, by reason.";
    let mut metric = page.metric("netd_drops_total", "counter", help);
    for (reason, packets) in &dropped.host {
        metric.sample(&[("reason", reason.as_str())], packets);
    }
    let help = "Of these the packets that were from or for a network, as far as an interface or address tells it.";
    let mut metric = page.metric("netd_network_drops_total", "counter", help);
    for network in &snapshot.network_views {
        for (reason, packets) in dropped.at(network) {
            let labels = [("network", &*network.name), ("reason", reason.as_str())];
            metric.sample(&labels, packets);
        }
    }
}

fn endpoint<'a>(container: &'a str, end: &'a api::EndpointCounters) -> [(&'a str, &'a str); 3] {
    [
        ("container", container),
        ("network", &end.network),
        ("ifname", end.ifname.as_str()),
    ]
}

/// The page as far as it is written.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    /// Begins a metric; its samples follow at once.
    pub fn metric<'a>(&'a mut self, name: &'a str, kind: &str, help: &str) -> Metric<'a> {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Metric { page: self, name }
    }
}

/// A metric whose samples are being written.
#[derive(Debug)]
pub struct Metric<'a> {
    page: &'a mut Page,
    name: &'a str,
}

impl Metric<'_> {
    /// One value.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.part("", labels, value);
    }

    /// One value of a part of a histogram: `_bucket`, `_sum` or `_count`.
    pub fn part(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(key, value)| format!("{key}=\"{}\"", escaped(value)))
            .collect();
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(","))
        };
        let _ = writeln!(self.page.0, "{}{suffix}{labels} {value}", self.name);
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_metrics_typed() {
        let mut page = Page::default();
        page.metric("a_total", "counter", "Of a.")
            .sample(&[("name", "x\"y\\z\n")], 7);
        page.metric("b", "gauge", "Of b.").sample(&[], 1);
        assert_eq!(
            page.0,
            "# HELP a_total Of a.\n# TYPE a_total counter\na_total{name=\"x\\\"y\\\\z\\n\"} 7\n\
             # HELP b Of b.\n# TYPE b gauge\nb 1\n"
        );
    }

    #[test]
    fn a_page_of_an_empty_host_has_every_metric() {
        let text = page(&Snapshot::default(), &Counters::default()).0;
        for name in [
            "netd_ready 0",
            "netd_published_ports 0",
            "# TYPE netd_port_receive_bytes_total counter",
        ] {
            assert!(text.contains(name), "{name}: {text}");
        }
        let well_formed = |line: &str| line.starts_with("# ") || line.split(' ').count() == 2;
        assert!(text.lines().all(well_formed), "{text}");
    }
}
