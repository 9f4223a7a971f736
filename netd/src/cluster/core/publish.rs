//! Own records: what the store holds of this host's is compared with what it shall hold, and the difference written.

use netd_model::record::Unknown;

use super::super::keys::{Key, META};
use super::super::records::{self, Alive, Meta, Record};
use super::super::store::{Compare, TXN_WRITES, Txn, Write};
use super::{Core, Pending, Phase};

impl Core {
    /// Writes what the store does not hold as this host wants it, a step at a time: the next follows the answer.
    pub(super) fn publish(&mut self) {
        let busy = |pending: &Pending| !matches!(pending, Pending::Wish(..) | Pending::Return(..));
        let unknown = self.node.address.is_unspecified();
        if self.phase != Phase::Online || unknown || self.pending.values().any(busy) {
            return;
        }
        if self.mirror.meta().is_none() {
            return self.found();
        }
        let key = Key::Node(self.name.clone());
        match self.mirror.record(&key) {
            Some(Record::Node(held)) if held.id != self.node.id => {
                let name = &self.name;
                self.alarm(format!(
                    "another host is called {name} in this cluster: start netd with another --node-name, or remove the \
                     other with `netctl node rm {name}` on a third host if it is gone"
                ));
                return;
            }
            _ => {}
        }
        if self.mirror.removal().is_some() && self.claim_again() {
            return;
        }
        let writes = self.missing();
        if !writes.is_empty() {
            let then: Vec<Write> = writes.into_iter().take(TXN_WRITES).collect();
            let mut when = Vec::new();
            for write in &then {
                let key = write.key();
                if let Some(Key::Claim(..) | Key::Network(_)) = Key::parse(key) {
                    when.push(Compare::Absent(key.to_owned()));
                }
            }
            let txn = Txn {
                when,
                then: then.clone(),
            };
            return self.txn(txn, Pending::Own(then));
        }
        let alive = Key::Alive(self.name.clone());
        let value = records::write(&Alive {
            incarnation: self.own_node().incarnation,
            unknown: Unknown::new(),
        });
        let (Some(lease), held) = (self.lease, self.mirror.raw(&alive)) else {
            return;
        };
        if self.mirror.alive_lease == Some(lease) && held == Some(&value) {
            return self.be_back();
        }
        let put = Write::Put {
            key: alive.text(),
            value,
            lease: Some(lease),
        };
        let txn = Txn {
            when: Vec::new(),
            then: vec![put],
        };
        self.txn(txn, Pending::Alive);
    }

    /// The first host marks the store as that of a cluster.
    pub(super) fn found(&mut self) {
        let id = self.mirror.cluster.clone();
        let id = id.unwrap_or_else(|| {
            let (high, low) = (self.draw(), self.draw());
            format!("{high:016x}{low:016x}")
        });
        let meta = Meta {
            id,
            unknown: Unknown::new(),
        };
        let then = vec![Write::put(META, records::write(&meta))];
        let txn = Txn {
            when: vec![Compare::Absent(META.to_owned())],
            then: then.clone(),
        };
        self.txn(txn, Pending::Meta(then));
    }

    /// What has to be written or removed so that the store holds what this host wants of its own keys.
    pub(super) fn missing(&mut self) -> Vec<Write> {
        if !self.safeguards.republish && self.mirror.lists > 1 {
            return Vec::new();
        }
        let mut writes = Vec::new();
        // Networks and claims first: who reads the stations has seen what they stand on.
        for (key, value) in self.mirror.lost() {
            writes.push(Write::put(key.text(), value));
        }
        let node_key = Key::Node(self.name.clone());
        let node = records::write(&self.own_node());
        if self.mirror.raw(&node_key) != Some(&node) {
            writes.push(Write::put(node_key.text(), node));
        }
        for (key, value) in &self.own {
            if self.mirror.raw(key) != Some(value) && !self.is_taken(key, value) {
                writes.push(Write::put(key.text(), value.clone()));
            }
        }
        for key in self.mirror.of_node(&self.name) {
            let is_kept = matches!(key, Key::Node(_) | Key::Alive(_)) || self.own.contains_key(key);
            if !is_kept {
                writes.push(Write::Delete(key.text()));
            }
        }
        writes
    }
}
