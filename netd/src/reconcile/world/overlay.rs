//! Networks that other hosts share: what is known of them, what this host may give out of their addresses, and what it says of
//! itself. Pure, as all of the world.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netd_ipam::Pool;
use netd_model::desired::FAMILIES;
use netd_model::error::{Code, Error, Result};
use netd_model::id::{ContainerId, Name, NetworkId};
use netd_model::net::{Family, Mac, Prefix};
use netd_model::overlay::Place;
use netd_model::record::{Driver, Network, Subnet};
use netd_model::request::Join;

use self::shared::Holder;
pub(crate) use self::shared::{Host, Shared};
use super::World;
use super::pools::{Net, ipam_error};
use crate::cluster::claims::{Ask, Want, router_address};
use crate::cluster::mirror::News;
use crate::cluster::records::Claim;

mod known;
mod life;
mod lost;
mod returns;
mod shared;
mod stations;
mod told;

/// Blocks are asked for when this share of the addresses is in use: three of four.
const FULL: (u128, u128) = (3, 4);

/// A station elsewhere: a host's own part in a network, or a container.
pub(crate) type StationKey = (NetworkId, Name, Option<ContainerId>);

/// What a change of the cluster means here.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Networks that are new, or differ.
    pub(crate) networks: BTreeSet<NetworkId>,
    /// Networks that are gone.
    pub(crate) gone: BTreeSet<NetworkId>,
    /// Stations whose names, or who is asked for them, may be others.
    pub(crate) names: BTreeSet<StationKey>,
    /// Whether other hosts may be to be probed.
    pub(crate) sites: bool,
}

impl World {
    /// Takes in what changed.
    pub(crate) fn take_in(&mut self, news: Vec<News>) -> Effects {
        let mut effects = Effects::default();
        for one in news {
            self.take(one, &mut effects);
        }
        self.judge(&effects.names);
        effects
    }

    fn take(&mut self, news: News, effects: &mut Effects) {
        let Some(shared) = &mut self.shared else {
            return;
        };
        effects.names.extend(shared.keys_of(&news));
        effects.sites |= matches!(
            &news,
            News::Member(..) | News::Node(..) | News::Network(..) | News::Claim(..)
        );
        match news {
            News::Link(link) => shared.link = link,
            News::Node(name, record) => {
                let host = shared.hosts.entry(name.clone()).or_default();
                host.record = record;
                if host.record.is_none() && !host.alive {
                    shared.hosts.remove(&name);
                }
            }
            News::Alive(name, alive) => {
                let host = shared.hosts.entry(name.clone()).or_default();
                host.alive = alive;
                // Who is silent is asked for only where nobody alive has the name.
                let of_silent = shared.stations_of_silent();
                let keys = shared.stations.all().map(|(key, _)| key);
                let of_host = keys.filter(|(_, of, _)| *of == name);
                effects.names.extend(of_host.cloned().chain(of_silent));
            }
            News::Member(node, net, station) => {
                shared.stations.put(&(net, node, None), station);
            }
            News::Endpoint(node, net, id, station) => {
                let key = (net, node, Some(id));
                // Under the name that it had, and under the one that it has.
                effects.names.extend(shared.silent_namesakes(&key));
                shared.stations.put(&key, station);
                let shared = self.shared.iter();
                effects
                    .names
                    .extend(shared.flat_map(|shared| shared.silent_namesakes(&key)));
            }
            News::Claim(net, prefix, claim) => self.take_claim(net, prefix, claim, effects),
            News::Network(id, Some(record)) => {
                shared.removed.remove(&id);
                self.take_network(*record, effects);
            }
            News::Network(id, None) => {
                if self.members(&id).next().is_some() {
                    // Its containers keep what they have until they end.
                    self.shared.as_mut().map(|shared| shared.removed.insert(id));
                } else if self.network(&id).is_some() {
                    effects.gone.insert(id);
                }
            }
        }
    }

    fn take_claim(
        &mut self,
        net: NetworkId,
        prefix: Prefix,
        claim: Option<Claim>,
        effects: &mut Effects,
    ) {
        let Some(shared) = &mut self.shared else {
            return;
        };
        let key = (net.clone(), prefix);
        let (mine, others) = match claim.filter(|claim| claim.node.is_some()) {
            Some(claim) if claim.id == shared.node.id => (Some(claim), None),
            claim => (None, claim.and_then(Holder::of)),
        };
        match others {
            Some(holder) => shared.holders.insert(key.clone(), holder),
            None => shared.holders.remove(&key),
        };
        let has = mine.is_some();
        if !has && shared.claims.contains_key(&key) && shared.removed.contains(&net) {
            // The network is gone, and what its containers stand on stays until they end.
            return;
        }
        let had = match mine {
            Some(claim) => shared.claims.insert(key, claim),
            None => shared.claims.remove(&key),
        };
        if had.is_some() != has && self.networks.contains_key(&net) {
            self.settle(&net);
            effects.networks.insert(net);
        }
    }

    fn take_network(&mut self, record: Network, effects: &mut Effects) {
        let id = record.id.clone();
        if self.networks.contains_key(&id) {
            // Records of networks do not change.
            return;
        }
        let clash = self
            .network_names
            .get(&record.name)
            .and_then(|id| self.network(id));
        let reason = clash.map(|other| {
            format!(
                "this host has a network of that name already (id {}): remove or rename one",
                other.id
            )
        });
        let reason = reason.or_else(|| {
            let route = self.facts.routes.iter().find(|route| {
                let mut subnets = record.subnets.iter();
                subnets.any(|s| s.subnet.covers(**route))
            })?;
            Some(format!("its subnet overlaps this host's route to {route}"))
        });
        let name = format!("network {}", record.name);
        if let (Some(reason), Some(shared)) = (reason, &mut self.shared) {
            shared.conflicts.insert(name, reason);
            return;
        }
        if let Some(shared) = &mut self.shared {
            shared.conflicts.remove(&name);
        }
        if let Err(error) = self.insert_network(record) {
            let shared = self.shared.as_mut();
            shared.map(|shared| shared.conflicts.insert(name, error.message));
            return;
        }
        self.settle(&id);
        effects.networks.insert(id);
    }

    /// Makes the pools and the own addresses of an overlay network from what is claimed. What is in use stays in use.
    fn settle(&mut self, id: &NetworkId) {
        let Some(shared) = &self.shared else {
            return;
        };
        let endpoints = self.containers.values().flat_map(|c| &c.endpoints);
        let held: Vec<IpAddr> = endpoints
            .filter(|endpoint| endpoint.network == *id)
            .flat_map(|endpoint| endpoint.ips.iter().copied())
            .collect();
        let Some(net) = self.networks.get_mut(id) else {
            return;
        };
        let own: Vec<(Prefix, bool)> = shared
            .claims_on(id)
            .map(|(prefix, claim)| (prefix, claim.router))
            .collect();
        let router = |subnet: &Subnet| {
            let (from, _) = own
                .iter()
                .find(|(prefix, router)| *router && subnet.subnet.covers(*prefix))?;
            router_address(subnet.subnet, subnet.gateway, *from)
        };
        let ips: Vec<IpAddr> = net.record.subnets.iter().filter_map(router).collect();
        let address = shared.node.address;
        let whole = ips.len() == net.record.subnets.len() && !address.is_unspecified();
        let place = ips.first().filter(|_| whole).map(|first| Place {
            mac: Mac::of_address(*first),
            ips: ips.clone(),
            host: address,
        });
        if let Some(overlay) = &mut net.record.overlay {
            overlay.router = place;
        }
        net.macs.insert(net.record.mac());
        let is_own = |range: &Prefix| own.iter().any(|(prefix, _)| range == prefix);
        net.pools
            .retain(|pool| is_own(&range_of(pool)) || pool.len_used() > 0);
        let ranges = net.pools.iter().map(range_of);
        net.lost = ranges.filter(|range| !is_own(range)).collect();
        for (prefix, _) in own {
            if net.pools.iter().any(|pool| range_of(pool) == prefix) {
                continue;
            }
            match overlay_pool(&net.record, prefix, &ips) {
                Ok(mut pool) => {
                    // A claim that is told late may have containers in it already.
                    for ip in held.iter().filter(|ip| prefix.contains(**ip)) {
                        if let Err(error) = pool.adopt(*ip) {
                            tracing::error!(%ip, %error, "an address in use cannot be taken over");
                        }
                    }
                    net.pools.push(pool);
                }
                Err(error) => {
                    tracing::error!(network = %net.record.name, %prefix, %error, "a claim cannot be used");
                }
            }
        }
    }

    /// Whether a claim is this host's, or was.
    pub(crate) fn is_own_claim(
        &self,
        net: &NetworkId,
        prefix: Prefix,
        claim: Option<&Claim>,
    ) -> bool {
        self.shared.as_ref().is_some_and(|shared| {
            claim.is_some_and(|claim| claim.id == shared.node.id)
                || shared.claims.contains_key(&(net.clone(), prefix))
        })
    }

    /// Where the other hosts are.
    pub(crate) fn addresses_of_others(&self) -> Vec<IpAddr> {
        let shared = self.shared.iter();
        let hosts = shared.flat_map(|shared| {
            let others = shared
                .hosts
                .iter()
                .filter(|(name, _)| **name != shared.name);
            others.filter_map(|(_, host)| Some(host.record.as_ref()?.address))
        });
        hosts.collect()
    }

    /// Takes in how large packets may be by the routes to other hosts.
    pub(crate) fn take_routes(&mut self, mtus: &BTreeMap<IpAddr, u32>) {
        let Some(shared) = &mut self.shared else {
            return;
        };
        let hosts = shared.hosts.iter();
        let others = hosts.filter(|(name, _)| **name != shared.name);
        let known = others.filter_map(|(name, host)| {
            let address = host.record.as_ref()?.address;
            Some((name.clone(), *mtus.get(&address)?))
        });
        shared.narrowest = known.min_by_key(|(_, mtu)| *mtu);
    }

    /// How large packets from one of this host's addresses may be so that they reach all others: what its interface takes, and
    /// the routes. None if it is not known.
    pub(crate) fn mtu_of(&self, address: IpAddr) -> Option<u32> {
        let own = self.facts.mtus.get(&address).copied();
        let shared = self.shared.as_ref();
        let route = shared.and_then(|shared| Some(shared.narrowest.as_ref()?.1));
        own.into_iter().chain(route).min()
    }

    /// This host's address is another: its part in each network is too.
    pub(crate) fn move_to(&mut self, address: IpAddr, mtu: u32) {
        if let Some(shared) = &mut self.shared {
            shared.node.address = address;
            shared.node.mtu = mtu;
        }
        let ids: Vec<NetworkId> = self.overlays().map(|net| net.id.clone()).collect();
        ids.iter().for_each(|id| self.settle(id));
    }

    /// The overlay networks.
    pub(crate) fn overlays(&self) -> impl Iterator<Item = &Network> {
        self.networks().filter(|net| net.overlay.is_some())
    }

    /// What has to be claimed before these networks can be joined; nothing if this host has enough.
    pub(crate) fn lacking(&self, joins: &[Join]) -> Result<Option<Ask>> {
        for join in joins {
            let Ok(id) = self.find_network(&join.network) else {
                continue;
            };
            let Some(net) = self
                .networks
                .get(&id)
                .filter(|net| net.record.overlay.is_some())
            else {
                continue;
            };
            let wants = self.wants(net, join, |pool| pool.len_used_in_range() < pool.capacity());
            if let Some(ask) = ask(net, wants) {
                return Ok(Some(ask));
            }
            let address = self.shared.as_ref().map(|shared| shared.node.address);
            if address.is_none_or(|ip| ip.is_unspecified()) {
                return Err(Error::new(
                    Code::StoreUnavailable,
                    format!(
                        "network {}: the address that other hosts reach this one at is not known before the shared store \
                         answers: say it with --advertise",
                        net.record.name
                    ),
                ));
            }
        }
        Ok(None)
    }

    /// What is worth to be claimed before it is needed.
    pub(crate) fn foresight(&self, id: &NetworkId) -> Option<Ask> {
        let net = self
            .networks
            .get(id)
            .filter(|net| net.record.overlay.is_some())?;
        let any = Join::any(net.record.name.as_str());
        let mut wants = Vec::new();
        for family in FAMILIES {
            let of_family = || net.own_pools().filter(|p| range_of(p).family() == family);
            let used: u128 = of_family().map(Pool::len_used_in_range).sum();
            let all: u128 = of_family().map(Pool::capacity).sum();
            // Without an address of its own it has lost that, and the network stands still here.
            if used * FULL.1 >= all * FULL.0 || !self.has_router(id, family) {
                let full = self.wants(net, &any, |_| false);
                wants.extend(
                    full.into_iter()
                        .filter(|want| want.subnet.family() == family),
                );
            }
        }
        ask(net, wants)
    }

    fn wants(&self, net: &Net, join: &Join, has_room: impl Fn(&Pool) -> bool) -> Vec<Want> {
        let mut wants = Vec::new();
        for subnet in &net.record.subnets {
            let family = subnet.subnet.family();
            let asked = match family {
                Family::V4 => join.ip.map(IpAddr::V4),
                Family::V6 => join.ip6.map(IpAddr::V6),
            };
            let pools = || net.own_pools().filter(|p| range_of(p).family() == family);
            let claimed = self.has_router(&net.record.id, family);
            let want = |ip, router| Want {
                subnet: subnet.subnet,
                gateway: subnet.gateway,
                ip,
                router,
            };
            if !claimed {
                wants.push(want(None, true));
            }
            match asked {
                Some(ip) if subnet.subnet.contains(ip) && !pools().any(|p| holds(p, ip)) => {
                    wants.push(want(Some(ip), false));
                }
                None if claimed && !pools().any(&has_room) => {
                    wants.push(want(None, false));
                }
                _ => {}
            }
        }
        wants
    }
}

impl World {
    /// Whether this host has claimed an address of its own on a network.
    fn has_router(&self, id: &NetworkId, family: Family) -> bool {
        self.shared.as_ref().is_some_and(|shared| {
            let mut claims = shared.claims_on(id);
            claims.any(|(prefix, claim)| prefix.family() == family && claim.router)
        })
    }
}

fn ask(net: &Net, wants: Vec<Want>) -> Option<Ask> {
    (!wants.is_empty()).then(|| Ask {
        network: net.record.id.clone(),
        name: net.record.name.clone(),
        wants,
    })
}

/// What of a subnet a pool gives out.
pub(super) fn range_of(pool: &Pool) -> Prefix {
    Prefix::from(pool.range())
}

/// Whether a pool decides on an address.
pub(super) fn holds(pool: &Pool, ip: IpAddr) -> bool {
    range_of(pool).contains(ip)
}

fn overlay_pool(network: &Network, prefix: Prefix, own: &[IpAddr]) -> Result<Pool> {
    let mut subnets = network.subnets.iter();
    let Some(subnet) = subnets.find(|s| s.subnet.covers(prefix)) else {
        return Err(Error::new(
            Code::InvalidSubnet,
            format!("{prefix} is no part of network {}", network.name),
        ));
    };
    let own: Vec<ipnetwork::IpNetwork> = own.iter().map(|ip| (*ip).into()).collect();
    let gateway = Some(subnet.gateway);
    Pool::new(
        subnet.subnet.network(),
        Some(prefix.network()),
        gateway,
        &own,
    )
    .map_err(ipam_error)
}

/// Whether a network is one that hosts share.
pub(crate) fn is_overlay(network: &Network) -> bool {
    network.driver == Driver::Overlay
}
