//! This host was removed while it was away, and is back: others may hold by now what it held (invariant I6).
//!
//! `nodes/NODE/removed/ID` says so. What somebody else holds is theirs; what nobody does is claimed again, like anything else by a
//! transaction that fails where somebody was faster. Without that record a foreign claim on what this host holds is an attack or a
//! mistake, and changes nothing.

use std::net::IpAddr;

use netd_model::{NetworkId, Prefix, overlay};

use super::super::keys::Key;
use super::super::records::{Claim, Record};
use super::super::store::Revision;
use super::{Change, Mirror, news};

impl Mirror {
    /// When this host was removed, if it was and is not back yet.
    pub fn removal(&self) -> Option<Revision> {
        let (name, id) = self.me.as_ref().filter(|_| !self.ignores_removal)?;
        self.revision_of(&Key::Removed(name.clone(), id.clone()))
    }

    pub(super) fn is_own_removal(&self, key: &Key) -> bool {
        let me = self.me.as_ref();
        !self.ignores_removal
            && matches!(key, Key::Removed(name, id) if me.is_some_and(|me| (&me.0, &me.1) == (name, id)))
    }

    /// What looked like a foreign hand on own claims was the removal.
    pub(super) fn see_removal(&mut self, change: &mut Change) {
        for key in std::mem::take(&mut self.contested) {
            let Some(Record::Claim(claim)) = self.record(&key) else {
                continue;
            };
            let is_free = claim.node.is_none();
            if self.is_kept(&key, is_free) {
                continue;
            }
            if let Some(entry) = self.entries.get(&key) {
                change.news.extend(news(&key, entry.record.as_ref()));
                change.saved.push((key.text(), Some(entry.value.clone())));
            }
        }
    }

    /// Of an own claim that the store does not ascribe to this host any more: whether it stays this host's for now.
    pub(super) fn is_kept(&mut self, key: &Key, is_free: bool) -> bool {
        if is_free {
            self.reclaims.insert(key.clone());
        } else {
            self.reclaims.remove(key);
            self.held.remove(key);
            self.given_up.insert(key.clone());
        }
        is_free
    }

    /// Own claims to be made again: as they were freed, and what they shall be.
    pub fn reclaims(&self) -> Vec<(Key, Revision, Vec<u8>)> {
        let claims = self.reclaims.iter().filter_map(|key| {
            let value = self.held.get(key)?.clone();
            Some((key.clone(), self.revision_of(key)?, value))
        });
        claims.collect()
    }

    /// What the disk has to know before this host is back: who holds now what it held.
    pub fn given_up(&self) -> Vec<(String, Option<Vec<u8>>)> {
        let values = self.given_up.iter().filter_map(|key| {
            let entry = self.entries.get(key)?;
            Some((key.text(), Some(entry.value.clone())))
        });
        values.collect()
    }

    /// This host is back.
    pub fn is_back(&mut self) {
        self.given_up.clear();
    }

    /// Whether another host has claimed an address, alone or with its block, that this one does not hold.
    pub fn is_foreign(&self, net: &NetworkId, ip: IpAddr) -> bool {
        let Some(Record::Network(network)) = self.record(&Key::Network(net.clone())) else {
            return false;
        };
        let Some(subnet) = network.subnet_of(ip) else {
            return false;
        };
        let lens = [
            overlay::block_len(subnet.subnet),
            overlay::whole(subnet.subnet.family()),
        ];
        let is_other = |claim: &Claim| {
            claim.node.is_some() && self.me.as_ref().is_some_and(|me| claim.id != me.1)
        };
        lens.into_iter().any(|len| {
            let key = Key::Claim(net.clone(), Prefix::holding(ip, len));
            let Some(Record::Claim(claim)) = self.record(&key) else {
                return false;
            };
            !self.held.contains_key(&key) && is_other(claim)
        })
    }
}
