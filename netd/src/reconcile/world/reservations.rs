//! Addresses and MACs that are kept for containers by name. The pool counts a kept address as in use, by the reservation.

use std::net::IpAddr;

use netd_model::error::{Code, Error, Result};
use netd_model::id::Name;
use netd_model::net::Mac;
use netd_model::record::{Network, Reservation};
use netd_model::request::Join;
use netd_model::{ContainerId, NetworkId, Object};

use super::pools::{Net, ipam_error};
use super::{GiveBack, World};

impl Net {
    /// For whom an address is kept.
    pub(super) fn kept_for(&self, ip: IpAddr) -> Option<&Name> {
        let kept = self.record.reservations.iter();
        let mut kept = kept.filter(|(_, reservation)| reservation.ips.contains(&ip));
        kept.next().map(|(name, _)| name)
    }

    /// For whom a MAC is kept.
    pub(super) fn mac_kept_for(&self, mac: Mac) -> Option<&Name> {
        let kept = self.record.reservations.iter();
        let mut kept = kept.filter(|(_, reservation)| reservation.mac == Some(mac));
        kept.next().map(|(name, _)| name)
    }

    /// A request with what is kept for its container, where it asks for nothing else.
    pub(super) fn with_kept(&self, name: &Name, join: &Join) -> Join {
        let mut join = join.clone();
        if let Some(kept) = self.record.reservations.get(name) {
            for ip in &kept.ips {
                match ip {
                    IpAddr::V4(v4) => join.ip = join.ip.or(Some(*v4)),
                    IpAddr::V6(v6) => join.ip6 = join.ip6.or(Some(*v6)),
                }
            }
            join.mac = join.mac.or(kept.mac);
        }
        join
    }

    /// Takes the addresses of the reservations on record out of the pools: at start.
    pub(super) fn keep_all(&mut self) -> Result<()> {
        let kept = self.record.reservations.values();
        let ips: Vec<IpAddr> = kept.flat_map(|kept| kept.ips.clone()).collect();
        for ip in ips {
            if let Some(pool) = self.pools.iter_mut().find(|pool| pool.contains(ip)) {
                pool.adopt(ip).map_err(ipam_error)?;
            }
        }
        Ok(())
    }
}

impl World {
    /// The record of a network with another reservation for a container, or with none; changes nothing. An empty
    /// reservation keeps what the container has now.
    pub(crate) fn plan_reservation(
        &self,
        id: &NetworkId,
        name: &Name,
        asked: Option<Reservation>,
    ) -> Result<Network> {
        let Some(net) = self.networks.get(id) else {
            return Err(Error::new(
                Code::NetworkNotFound,
                format!("network {id} is gone"),
            ));
        };
        let mut record = net.record.clone();
        let Some(asked) = asked else {
            if record.reservations.remove(name).is_none() {
                return Err(Error::new(
                    Code::ReservationNotFound,
                    format!("network {} keeps nothing for {name}", record.name),
                ));
            }
            return Ok(record);
        };
        let asked = if asked == Reservation::default() {
            self.held_by(id, name)?
        } else {
            asked
        };
        self.check_kept(net, id, name, &asked)?;
        record.reservations.insert(name.clone(), asked);
        Ok(record)
    }

    /// The containers on a network whose ports the daemon relays: they follow the network's lists themselves.
    pub(crate) fn relayed_on(&self, id: &NetworkId) -> Vec<ContainerId> {
        let is_relayed =
            |object: &Object| matches!(object, Object::HostPort(port) if port.relay.is_some());
        let members = self.members(id).filter(|id| {
            let container = self.containers.get(*id);
            let objects = container.map(|container| self.container_objects(container));
            objects.unwrap_or_default().iter().any(is_relayed)
        });
        members.cloned().collect()
    }

    /// What a container has on a network.
    fn held_by(&self, id: &NetworkId, name: &Name) -> Result<Reservation> {
        let container = self.container_names.get(name);
        let container = container.and_then(|id| self.containers.get(id));
        let endpoint = container.and_then(|c| c.endpoints.iter().find(|e| e.network == *id));
        let endpoint = endpoint.ok_or_else(|| {
            Error::new(
                Code::InvalidReservation,
                format!(
                    "{name} is not on that network now: say what to keep with --ip, --ip6 or --mac"
                ),
            )
        })?;
        Ok(Reservation {
            ips: endpoint.ips.clone(),
            mac: Some(endpoint.mac),
        })
    }

    fn check_kept(
        &self,
        net: &Net,
        id: &NetworkId,
        name: &Name,
        asked: &Reservation,
    ) -> Result<()> {
        let own = self.held_by(id, name).unwrap_or_default();
        let network = &net.record.name;
        for ip in &asked.ips {
            let pool = net.pools.iter().find(|pool| pool.contains(*ip));
            let pool = pool.ok_or_else(|| net.not_on(*ip))?;
            if let Some(other) = net.kept_for(*ip).filter(|other| *other != name) {
                return Err(Error::new(
                    Code::AddressInUse,
                    format!("network {network}: address {ip} is kept for {other}: choose another"),
                ));
            }
            let mine = own.ips.contains(ip) || net.kept_for(*ip).is_some();
            if !mine {
                // Reserved addresses and those in use are refused with the words of an attach.
                pool.clone().claim(*ip).map_err(ipam_error)?;
            }
        }
        let mac = asked.mac.filter(|mac| own.mac != Some(*mac));
        let kept = mac.and_then(|mac| net.mac_kept_for(mac));
        let taken =
            mac.is_some_and(|mac| net.macs.contains(&mac)) || kept.is_some_and(|n| n != name);
        if let (Some(mac), true) = (mac, taken) {
            return Err(Error::new(
                Code::MacInUse,
                format!("MAC address {mac} is in use on network {network}: choose another"),
            ));
        }
        Ok(())
    }

    /// Enters the record that [`World::plan_reservation`] made; the answer is the one before.
    pub(crate) fn set_reservations(&mut self, record: Network) -> Option<Network> {
        let used: Vec<IpAddr> = self
            .containers
            .values()
            .flat_map(|c| &c.endpoints)
            .filter(|e| e.network == record.id)
            .flat_map(|e| e.ips.clone())
            .collect();
        let net = self.networks.get_mut(&record.id)?;
        let old = std::mem::replace(&mut net.record, record);
        let ips = |record: &Network| -> Vec<IpAddr> {
            let kept = record.reservations.values();
            kept.flat_map(|kept| kept.ips.clone()).collect()
        };
        let (before, after) = (ips(&old), ips(&net.record));
        for ip in after
            .iter()
            .filter(|ip| !before.contains(ip) && !used.contains(ip))
        {
            if let Some(pool) = net.pools.iter_mut().find(|pool| pool.contains(*ip))
                && let Err(error) = pool.claim(*ip)
            {
                tracing::error!(%ip, %error, "a checked reservation could not be entered");
            }
        }
        let free: Vec<IpAddr> = before
            .into_iter()
            .filter(|ip| !after.contains(ip) && !used.contains(ip))
            .collect();
        net.give_back(&free, GiveBack::Unused);
        Some(old)
    }
}
