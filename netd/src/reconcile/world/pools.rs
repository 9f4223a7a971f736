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
use super::overlay::holds;

/// A network with its addresses.
#[derive(Debug)]
pub(super) struct Net {
    pub(super) record: Network,
    pub(super) pools: Vec<Pool>,
    pub(super) members: BTreeSet<ContainerId>,
    pub(super) macs: HashSet<Mac>,
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
            let held = had(family).filter(|ip| asked.is_none_or(|asked| asked == *ip));
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
        let of_family = |pool: &Pool| Prefix::from(pool.prefix()).family() == family;
        // An overlay has a pool for each of its blocks. One that is asked for an address is asked the pool it belongs to.
        let fits = |pool: &Pool| match asked {
            Some(ip) => holds(pool, ip),
            None => pool.len_used_in_range() < pool.capacity(),
        };
        let at = self
            .pools
            .iter()
            .position(|pool| of_family(pool) && fits(pool));
        let at = at.or_else(|| self.pools.iter().position(of_family));
        let pool = at.and_then(|at| self.pools.get_mut(at));
        let name = &self.record.name;
        match (pool, asked) {
            // The pools of an overlay are what this host has claimed of it.
            (None, _) if self.record.subnet(family).is_some() => Err(Error::new(
                Code::PoolExhausted,
                format!("network {name}: this host holds no block of its addresses: try again"),
            )),
            (None, None) => Ok(None),
            (None, Some(ip)) => Err(Error::new(
                Code::InvalidIp,
                format!(
                    "address {ip} was asked for, but network {name} has no subnet of its family"
                ),
            )),
            (Some(pool), None) => pool
                .allocate(now)
                .map(Some)
                .map_err(|e| in_network(ipam_error(e), name)),
            (Some(pool), Some(ip)) => pool
                .claim(ip)
                .map(|()| Some(ip))
                .map_err(|e| in_network(ipam_error(e), name)),
        }
    }

    /// The pool that decides on an address: the one it was taken from.
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
