//! What the DNS counts, for `/metrics`.

use netd_dns::stats::{CODES, LATENCY_MS};

use super::Names;
use crate::api::metrics::{Collect, Kind, Text};

impl Collect for Names {
    fn collect(&self, text: &mut Text) {
        let mut networks = self.server.zone().read().counters();
        networks.sort_by(|one, other| one.0.cmp(&other.0));
        let stats: Vec<_> = networks
            .iter()
            .map(|(name, counters)| (name, counters.stats()))
            .collect();

        text.metric(
            "netd_dns_queries_total",
            Kind::Counter,
            "Queries of the containers whose first network this is.",
        );
        for (network, stats) in &stats {
            text.value(
                "netd_dns_queries_total",
                &[("network", network)],
                stats.queries,
            );
        }
        text.metric(
            "netd_dns_replies_total",
            Kind::Counter,
            "Replies to them, by response code.",
        );
        for (network, stats) in &stats {
            for (code, count) in CODES.iter().zip(stats.codes) {
                text.value(
                    "netd_dns_replies_total",
                    &[("network", network), ("code", code)],
                    count,
                );
            }
        }
        text.metric(
            "netd_dns_answered_total",
            Kind::Counter,
            "Queries by where the answer came from.",
        );
        for (network, stats) in &stats {
            for (source, count) in [
                ("zone", stats.local),
                ("cache", stats.cached),
                ("upstream", stats.forwarded),
            ] {
                text.value(
                    "netd_dns_answered_total",
                    &[("network", network), ("source", source)],
                    count,
                );
            }
        }
        text.metric(
            "netd_dns_stale_total",
            Kind::Counter,
            "Answers past their TTL, since no upstream answered.",
        );
        for (network, stats) in &stats {
            text.value("netd_dns_stale_total", &[("network", network)], stats.stale);
        }
        text.metric(
            "netd_dns_upstream_seconds",
            Kind::Histogram,
            "How long forwarded queries took.",
        );
        for (network, counters) in &networks {
            let (up_to, all, time) = counters.latency();
            for (end, count) in LATENCY_MS.iter().zip(up_to) {
                // Thousandths, written without going through a binary fraction.
                let end = format!("{}.{:03}", end / 1000, end % 1000);
                text.value(
                    "netd_dns_upstream_seconds_bucket",
                    &[("network", network), ("le", &end)],
                    count,
                );
            }
            text.value(
                "netd_dns_upstream_seconds_bucket",
                &[("network", network), ("le", "+Inf")],
                all,
            );
            text.value(
                "netd_dns_upstream_seconds_sum",
                &[("network", network)],
                time.as_secs_f64(),
            );
            text.value(
                "netd_dns_upstream_seconds_count",
                &[("network", network)],
                all,
            );
        }
        let (entries, bytes) = self.server.forwarder().cache_size();
        text.metric(
            "netd_dns_cache_entries",
            Kind::Gauge,
            "Answers of upstreams that are kept.",
        );
        text.value("netd_dns_cache_entries", &[], entries);
        text.metric(
            "netd_dns_cache_bytes",
            Kind::Gauge,
            "Memory that they take, about.",
        );
        text.value("netd_dns_cache_bytes", &[], bytes);
        text.metric(
            "netd_dns_upstream_silent",
            Kind::Gauge,
            "Upstreams that did not answer last time.",
        );
        for upstream in self.server.forwarder().silent() {
            text.value(
                "netd_dns_upstream_silent",
                &[("upstream", &upstream.to_string())],
                1,
            );
        }
    }
}
