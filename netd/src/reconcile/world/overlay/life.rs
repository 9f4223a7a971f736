//! Which hosts live, as far as this one can tell, and what probes show of the way to them.
//!
//! A host is `alive` while its lease is. Then it is `suspect`: its daemon may be down, or cut off from the store, and its
//! containers well. It is `dead` when in addition nothing was heard of it over any network that this host shares with it, for
//! [`DEAD`]. A host that shares no network with it never says so. The word takes nothing away: records go by `node rm` alone.

use std::collections::BTreeMap;
use std::time::Duration;

use netd_model::api;
use netd_model::id::Name;
use netd_model::net::{Family, IfName};
use netd_model::overlay;
use netd_model::probe::{Paths, State, Target, Way};
use netd_model::record::Network;

use super::super::World;
use super::{Host, Shared};
use crate::cluster::core::Link;
use crate::cluster::probing::Site;

/// Silence, in the store and over the overlay, behind the end of the lease.
const DEAD: Duration = Duration::from_mins(1);
/// Paths that `status` names one by one.
const NAMED: usize = 10;

impl World {
    /// Takes in what probes show: all of it.
    pub(crate) fn take_paths(&mut self, paths: BTreeMap<Target, Paths>) {
        if let Some(shared) = &mut self.shared {
            let paths = paths.into_iter();
            let paths = paths.map(|(target, paths)| ((target.host, target.network), paths));
            shared.paths = paths.collect();
        }
    }

    /// Notes who has been silent for how long. While the store is away nothing is concluded from it.
    pub(crate) fn age(&mut self, now: Duration) {
        let Some(shared) = &mut self.shared else {
            return;
        };
        let mut hosts = std::mem::take(&mut shared.hosts);
        for (name, host) in &mut hosts {
            let heard = shared.paths_to(name).any(|paths| paths.from.arrives());
            host.silent = match host.silent {
                _ if host.alive || heard => None,
                _ if shared.link != Link::Online => Some(now),
                since => Some(since.unwrap_or(now)),
            };
            host.silent_for = host.silent.map(|since| now.saturating_sub(since));
        }
        shared.hosts = hosts;
    }

    /// Who is to be probed, on which networks.
    pub(crate) fn probe_sites(&self) -> Vec<Site> {
        let Some(shared) = &self.shared else {
            return Vec::new();
        };
        let site = |network: &Network| {
            let (_, place) = overlay::parts(network)?;
            let own = *place.ips.first()?;
            let stations = shared.stations_of(&network.id);
            let others = stations.filter(|((_, node, id), _)| id.is_none() && *node != shared.name);
            let peers = others.filter_map(|(key, station)| {
                let node = &key.1;
                let mut ips = station.ips.iter();
                let ip = ips.find(|ip| Family::of(**ip) == Family::of(own))?;
                let believed = self.clash(network, key, station).is_none();
                believed.then(|| (node.clone(), *ip))
            });
            Some(Site {
                network: network.id.clone(),
                bridge: network.interface.clone(),
                mtu: network.mtu,
                own,
                peers: peers.collect(),
            })
        };
        let present = self.overlays().filter(|net| self.is_present(&net.id));
        present.filter_map(site).collect()
    }

    /// How it stands with a host on each network, for readers.
    pub(super) fn path_views(&self, shared: &Shared, name: &Name) -> Vec<api::Path> {
        let view = |((_, network), paths): (&(Name, netd_model::NetworkId), &Paths)| {
            Some(api::Path {
                network: self.network(network)?.name.to_string(),
                from: paths.from,
                to: paths.to,
            })
        };
        let all = shared.paths.iter().filter(|((host, _), _)| host == name);
        all.filter_map(view).collect()
    }

    /// Ways between hosts that do not work, each with what to look at.
    pub(super) fn path_warnings(&self, shared: &Shared) -> Vec<String> {
        let mut warnings: Vec<String> = shared
            .paths
            .iter()
            // Of a silent host the warning is that it is.
            .filter(|((name, _), paths)| {
                let alive = shared.hosts.get(name).is_some_and(|host| host.alive);
                alive || paths.from.arrives()
            })
            .filter_map(|((name, id), paths)| {
                let network = self.network(id)?;
                warning(name, network, *paths)
            })
            .collect();
        let more = warnings.len().saturating_sub(NAMED);
        warnings.truncate(NAMED);
        if more > 0 {
            warnings.push(format!(
                "{more} further ways between this host and others do not work: `netctl node inspect` and /metrics name them"
            ));
        }
        warnings
    }
}

impl Shared {
    fn paths_to<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = &'a Paths> {
        let first = (name.clone(), netd_model::NetworkId::from_bytes([0; 16]));
        self.paths
            .range(first..)
            .take_while(move |((host, _), _)| host == name)
            .map(|(_, paths)| paths)
    }

    /// The word for how it stands with a host.
    pub(super) fn state(&self, name: &Name, host: &Host) -> &'static str {
        let lost = |paths: &Paths| {
            let from = paths.from;
            !from.arrives() && from.small == State::Lost && from.full == State::Lost
        };
        let mut paths = self.paths_to(name).peekable();
        let probed = paths.peek().is_some() && paths.all(lost);
        if host.alive {
            "alive"
        } else if probed && host.silent_for.is_some_and(|silent| silent >= DEAD) {
            "dead"
        } else {
            "suspect"
        }
    }
}

impl Host {
    /// Whole seconds since its last sign of life; none while it gives them.
    pub(super) fn last_seen(&self) -> Option<u64> {
        self.silent_for.map(|silent| silent.as_secs())
    }
}

/// What does not work on the way between this host and another on a network.
fn warning(host: &Name, network: &Network, paths: Paths) -> Option<String> {
    use State::{Lost, Ok};
    let mtu = network.mtu;
    let device = overlay::device(network);
    let of = |way: Way| (way.small, way.full);
    let text = match (of(paths.from), of(paths.to)) {
        _ if paths.to.mangles() => checksums(
            &format!("what this host sends to host {host}"),
            "this host",
            &device,
        ),
        _ if paths.from.mangles() => checksums(
            &format!("what host {host} sends to this one"),
            &format!("host {host}"),
            &device,
        ),
        ((Lost, Lost), _) => format!(
            "nothing arrives from host {host}: see that UDP packets of the network's port pass between the hosts, and that \
             its netd answers"
        ),
        (_, (Lost, Lost)) => format!(
            "nothing that this host sends arrives at host {host}, whose own packets arrive here: see what drops UDP packets \
             of the network's port on the way there"
        ),
        ((Ok, Lost), _) => large(mtu, &format!("from host {host} to this one")),
        (_, (Ok, Lost)) => large(mtu, &format!("from this host to host {host}")),
        ((Lost, _), _) => format!("small packets from host {host} are lost, large ones arrive"),
        (_, (Lost, _)) => format!("small packets to host {host} are lost, large ones arrive"),
        _ => return None,
    };
    Some(format!("network {}: {text}", network.name))
}

/// A device that computes the checksums of what is inside VXLAN, and gets them wrong, or one that drops such packets.
fn checksums(what: &str, sender: &str, device: &IfName) -> String {
    format!(
        "{what} arrives only if no network card computes its checksums: have the kernel do that on {sender} with `ethtool -K \
         {device} tx off`, or switch checksum offload for tunnels off on its network card"
    )
}

fn large(mtu: u32, way: &str) -> String {
    format!(
        "packets of {mtu} bytes are lost {way}, small ones arrive: see the MTU on the way, or create the network anew with a \
         smaller --mtu"
    )
}

#[cfg(test)]
mod tests;
