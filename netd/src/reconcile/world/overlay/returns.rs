//! Which claims this host gives back: those that nothing was in for as long as a released address rests.
//!
//! While the network has containers here, the claim with the host's own address stays, and others as long as without them more
//! than half of what is left would be in use: more is claimed at three quarters, and nothing shall go back and forth. Once the
//! last container has left, all of them go.

use std::time::Duration;

use netd_ipam::{DEFAULT_QUARANTINE, Pool};
use netd_model::NetworkId;
use netd_model::desired::FAMILIES;
use netd_model::net::Prefix;

use super::super::World;
use super::super::pools::Net;
use super::{Shared, range_of};
use crate::cluster::core::Link;

impl World {
    /// What to give back now. Nothing while the store cannot be reached: who knows when it gives again.
    pub(crate) fn idle_claims(&mut self, now: Duration) -> Vec<(NetworkId, Prefix)> {
        let Some(shared) = &mut self.shared else {
            return Vec::new();
        };
        let mut idle = std::mem::take(&mut shared.idle);
        idle.retain(|key, _| shared.claims.contains_key(key));
        for (id, net) in &self.networks {
            for (prefix, _) in shared.claims_on(id) {
                let key = (id.clone(), prefix);
                // A daemon that starts again knows of no rest: it begins when nothing is seen in use.
                if pool(net, prefix).is_some_and(|pool| pool.len_used() == 0) {
                    idle.entry(key).or_insert(now);
                } else {
                    idle.remove(&key);
                }
            }
        }
        shared.idle = idle;
        if shared.link != Link::Online {
            return Vec::new();
        }
        let nets = self.networks.iter();
        nets.flat_map(|(id, net)| {
            let prefixes = rested(shared, id, net, now);
            prefixes.into_iter().map(|prefix| (id.clone(), prefix))
        })
        .collect()
    }

    /// Stops using what was claimed.
    pub(crate) fn let_go(&mut self, id: &NetworkId, prefix: Prefix) {
        if let Some(shared) = &mut self.shared {
            let key = (id.clone(), prefix);
            shared.claims.remove(&key);
            shared.idle.remove(&key);
        }
        self.settle(id);
    }

    /// A network is gone, and with it all that was claimed on it.
    pub(in crate::reconcile::world) fn forget_claims(&mut self, id: &NetworkId) {
        if let Some(shared) = &mut self.shared {
            shared.claims.retain(|(of, _), _| of != id);
            shared.removed.remove(id);
        }
    }
}

fn pool(net: &Net, prefix: Prefix) -> Option<&Pool> {
    net.pools.iter().find(|pool| range_of(pool) == prefix)
}

/// The claims on a network that have rested and are not needed.
fn rested(shared: &Shared, id: &NetworkId, net: &Net, now: Duration) -> Vec<Prefix> {
    let has_rested = |prefix: Prefix| {
        let since = shared.idle.get(&(id.clone(), prefix));
        since.is_some_and(|since| now >= *since + DEFAULT_QUARANTINE)
            && pool(net, prefix).is_some_and(|pool| pool.is_idle(now))
    };
    let claims = || shared.claims_on(id);
    if net.members.is_empty() {
        let prefixes = claims().map(|(prefix, _)| prefix);
        return prefixes.filter(|prefix| has_rested(*prefix)).collect();
    }
    let mut given = Vec::new();
    for family in FAMILIES {
        let pools = || net.pools.iter().filter(|p| range_of(p).family() == family);
        let used: u128 = pools().map(Pool::len_used_in_range).sum();
        let mut left: u128 = pools().map(Pool::capacity).sum();
        for (prefix, claim) in claims().filter(|(prefix, _)| prefix.family() == family) {
            let size = pool(net, prefix).map_or(0, Pool::capacity);
            let enough = used * 2 <= left.saturating_sub(size);
            if !claim.router && enough && has_rested(prefix) {
                left -= size;
                given.push(prefix);
            }
        }
    }
    given
}

#[cfg(test)]
mod tests;
