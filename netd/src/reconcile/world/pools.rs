//! The addresses of one network.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use netd_ipam::Pool;
use netd_model::ContainerId;
use netd_model::desired::FAMILIES;
use netd_model::error::{Code, Error, Result};
use netd_model::id::Name;
use netd_model::net::{Family, Mac, Prefix};
use netd_model::record::Network;
use netd_model::request::Join;

use super::GiveBack;
use super::overlay::{holds, range_of};

/// A network with its addresses.
#[derive(Debug)]
pub(super) struct Net {
    pub(super) record: Network,
    pub(super) pools: Vec<Pool>,
    pub(super) members: BTreeSet<ContainerId>,
    pub(super) macs: HashSet<Mac>,
    /// Ranges that this host has claimed no more, while containers still have addresses of them: nothing is given out there.
    pub(super) lost: BTreeSet<Prefix>,
}

impl Net {
    /// One address for each family of the network: the one asked for, else the one it `had` and still holds, else the
    /// next.
    pub(super) fn addresses(
        &mut self,
        join: &Join,
        name: &Name,
        had: impl Fn(Family) -> Option<IpAddr>,
        now: Duration,
    ) -> Result<Vec<IpAddr>> {
        let mut ips: Vec<IpAddr> = Vec::new();
        for family in FAMILIES {
            let asked = match family {
                Family::V4 => join.ip.map(IpAddr::V4),
                Family::V6 => join.ip6.map(IpAddr::V6),
            };
            let is_lost = |ip: &IpAddr| self.lost.iter().any(|range| range.contains(*ip));
            let held = had(family).filter(|ip| asked.is_none_or(|asked| asked == *ip));
            let held = held.filter(|ip| !is_lost(ip));
            let got = match held {
                Some(ip) => Ok(Some(ip)),
                None => self.address(family, asked, name, now),
            };
            match got {
                Ok(ip) => ips.extend(ip),
                Err(error) => {
                    ips.retain(|ip| had(Family::of(*ip)) != Some(*ip));
                    self.give_back(&ips, GiveBack::Unused);
                    return Err(error);
                }
            }
        }
        Ok(ips)
    }

    fn address(
        &mut self,
        family: Family,
        asked: Option<IpAddr>,
        container: &Name,
        now: Duration,
    ) -> Result<Option<IpAddr>> {
        if let Some((ip, kept)) = asked.and_then(|ip| Some((ip, self.kept_for(ip)?))) {
            if kept == container {
                return Ok(Some(ip));
            }
            let text = format!("address {ip} is kept for container {kept}: choose another");
            return Err(in_network(
                Error::new(Code::AddressInUse, text),
                &self.record.name,
            ));
        }
        match asked {
            Some(ip) => self.claim(ip).map(Some),
            None => self.allocate(family, now),
        }
    }

    /// One particular address, from the pool it belongs to.
    fn claim(&mut self, ip: IpAddr) -> Result<IpAddr> {
        if self.record.subnet_of(ip).is_none() {
            return Err(self.not_on(ip));
        }
        let is_lost = self.lost.iter().any(|range| range.contains(ip));
        let Some(pool) = self.pool_of(ip).filter(|_| !is_lost) else {
            return Err(self.no_block());
        };
        let claimed = pool.claim(ip);
        claimed.map_err(|error| in_network(ipam_error(error), &self.record.name))?;
        Ok(ip)
    }

    /// The next address, from the first pool with one that has rested; only when none has, from the first with any.
    fn allocate(&mut self, family: Family, now: Duration) -> Result<Option<IpAddr>> {
        let first = |fits: &dyn Fn(&Pool) -> bool| {
            let mut pools = self.pools.iter();
            pools.position(|pool| self.gives(pool) && family_of(pool) == family && fits(pool))
        };
        let rested = first(&|pool| pool.has_rested(now));
        let Some(at) = rested.or_else(|| first(&has_room)) else {
            return match (first(&|_| true), self.record.has(family)) {
                (Some(_), _) => Err(self.exhausted(family)),
                (None, true) => Err(self.no_block()),
                (None, false) => Ok(None),
            };
        };
        let allocated = self.pools[at].allocate(now).map(Some);
        allocated.map_err(|error| in_network(ipam_error(error), &self.record.name))
    }

    /// Whether a new container finds an address of each family.
    pub(super) fn check_room(&self) -> Result<()> {
        let is_full = |family: &Family| {
            let mut pools = self.own_pools().filter(|p| family_of(p) == *family);
            self.record.has(*family) && !pools.any(has_room)
        };
        match FAMILIES.into_iter().find(is_full) {
            Some(family) => Err(self.exhausted(family)),
            None => Ok(()),
        }
    }

    /// Whether a pool may give addresses out.
    fn gives(&self, pool: &Pool) -> bool {
        !self.lost.contains(&range_of(pool))
    }

    /// Those that may.
    pub(super) fn own_pools(&self) -> impl Iterator<Item = &Pool> {
        self.pools.iter().filter(|pool| self.gives(pool))
    }

    /// Why an address is none of the network's.
    pub(super) fn not_on(&self, ip: IpAddr) -> Error {
        let name = &self.record.name;
        let has = match &*self.prefixes(Family::of(ip)) {
            "" => "it has no subnet of that family".to_owned(),
            text => format!("choose one in {text}"),
        };
        Error::new(
            Code::InvalidIp,
            format!("address {ip} is not on network {name}: {has}"),
        )
    }

    fn exhausted(&self, family: Family) -> Error {
        let name = &self.record.name;
        let ranges = self.pools.iter().map(range_of);
        let ranges: Vec<Prefix> = ranges.filter(|range| range.family() == family).collect();
        Error::new(
            Code::PoolExhausted,
            format!(
                "network {name}: every address of {} is in use: detach containers, or create a network with a larger \
                 subnet or more of them",
                list(&ranges)
            ),
        )
    }

    /// The pools of an overlay are what this host has claimed of it.
    fn no_block(&self) -> Error {
        let name = &self.record.name;
        Error::new(
            Code::PoolExhausted,
            format!("network {name}: this host holds no block of its addresses: try again"),
        )
    }

    fn prefixes(&self, family: Family) -> String {
        let subnets = self.record.subnets_of(family).map(|s| s.subnet);
        list(&subnets.collect::<Vec<_>>())
    }

    /// The pool that decides on an address: the one it was taken from. An overlay has a pool for each of its blocks, with
    /// one prefix.
    pub(super) fn pool_of(&mut self, ip: IpAddr) -> Option<&mut Pool> {
        let at = self.pools.iter().position(|pool| holds(pool, ip));
        let at = at.or_else(|| self.pools.iter().position(|pool| pool.contains(ip)))?;
        self.pools.get_mut(at)
    }

    pub(super) fn give_back(&mut self, ips: &[IpAddr], how: GiveBack) {
        let kept: Vec<bool> = ips.iter().map(|ip| self.kept_for(*ip).is_some()).collect();
        for (ip, _) in ips.iter().zip(kept).filter(|(_, is_kept)| !is_kept) {
            let Some(pool) = self.pool_of(*ip) else {
                continue;
            };
            let given = match how {
                GiveBack::Unused => pool.unclaim(*ip),
                GiveBack::Used(now) => pool.release(*ip, now),
            };
            if let Err(error) = given {
                tracing::error!(%ip, network = %self.record.name, %error, "an address was given back twice");
            }
        }
    }
}

fn family_of(pool: &Pool) -> Family {
    Prefix::from(pool.prefix()).family()
}

/// Whether an address of a pool is free, rested or not.
fn has_room(pool: &Pool) -> bool {
    pool.len_used_in_range() < pool.capacity()
}

/// Prefixes as a list for people.
fn list(prefixes: &[Prefix]) -> String {
    let texts: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

fn in_network(error: Error, name: &Name) -> Error {
    Error {
        message: format!("network {name}: {}", error.message),
        ..error
    }
}

pub(super) fn ipam_error(error: netd_ipam::Error) -> Error {
    let code = Code::ALL
        .iter()
        .copied()
        .find(|code| code.as_str() == error.code())
        .unwrap_or(Code::Internal);
    Error::new(code, error)
}
