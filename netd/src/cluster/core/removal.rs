//! A host that was removed while it was away comes back: it claims again what nobody has claimed since, leaves the rest to those
//! who have, and is taken back as another incarnation ([`super::Mirror::removal`]).

use netd_model::id::Name;
use netd_model::record::Unknown;

use super::super::keys::Key;
use super::super::records::{self, Node, Record, Removed, Station};
use super::super::store::{Compare, TXN_WRITES, Txn, Write};
use super::{Core, Output, Pending};

impl Core {
    /// Notes that this host was removed.
    pub(super) fn see_removal(&mut self) {
        let Some(removed) = self.mirror.removal() else {
            return;
        };
        if self.removed.replace(removed).is_none() {
            self.alarm(
                "this host was removed from the cluster with `netctl node rm` while it was away: it is taken back, but addresses \
                 that other hosts have claimed since are theirs"
                    .to_owned(),
            );
        }
    }

    /// This host as others see it: after a removal it is another incarnation.
    pub(super) fn own_node(&self) -> Node {
        let mut node = self.node.clone();
        if let Some(removed) = self.removed {
            node.incarnation = format!("{}+{removed}", node.incarnation);
        }
        node
    }

    /// Claims again what was freed with this host's removal. Whether there is anything to claim.
    pub(super) fn claim_again(&mut self) -> bool {
        let mut txn = Txn::default();
        // Conditions count as operations too.
        for (key, revision, value) in self.mirror.reclaims().into_iter().take(TXN_WRITES) {
            txn.when.push(Compare::At(key.text(), revision));
            txn.then.push(Write::put(key.text(), value));
        }
        let any = !txn.then.is_empty();
        if any {
            let writes = txn.then.clone();
            self.txn(txn, Pending::Own(writes));
        }
        any
    }

    /// All is settled, and the disk knows it: the record of the removal goes. Not if a claim was written of which this host has
    /// not heard: a removal that takes several transactions may not be over.
    pub(super) fn be_back(&mut self) {
        let Some(removed) = self.mirror.removal() else {
            return;
        };
        let key = Key::Removed(self.name.clone(), self.node.id.clone()).text();
        let seen = self.mirror.revision;
        let none = |prefix: &str| Compare::NoneAfter(prefix.to_owned(), seen);
        let txn = Txn {
            when: vec![
                Compare::At(key.clone(), removed),
                none("blocks/"),
                none("addrs/"),
            ],
            then: vec![Write::Delete(key)],
        };
        self.number += 1;
        self.pending
            .insert(self.number, Pending::Back(txn.then.clone()));
        let kept = self.mirror.given_up();
        self.out.push(Output::TxnAfter(self.number, kept, txn));
    }

    /// The removal of a host leaves a record of it: should the host come back, it reads there that what it held may be another's.
    /// While it comes back, no further part of the removal can pass it by.
    pub(super) fn mark_removed(&self, name: &Name, when: &mut Vec<Compare>, then: &mut Vec<Write>) {
        let Some(Record::Node(record)) = self.mirror.record(&Key::Node(name.clone())) else {
            return;
        };
        let key = Key::Removed(name.clone(), record.id.clone());
        if Key::parse(&key.text()).as_ref() != Some(&key) {
            // An id that is none makes no key.
            return;
        }
        if let Some(revision) = self.mirror.revision_of(&key) {
            when.push(Compare::At(key.text(), revision));
            return;
        }
        when.push(Compare::Absent(key.text()));
        let removed = Removed {
            incarnation: record.incarnation.clone(),
            by: self.name.clone(),
            unknown: Unknown::new(),
        };
        then.insert(0, Write::put(key.text(), records::write(&removed)));
    }

    /// Whether an own station has an address that is another host's by now: the owner has yet to hear of that.
    pub(super) fn is_taken(&self, key: &Key, value: &[u8]) -> bool {
        let Key::Endpoint(_, net, _) = key else {
            return false;
        };
        let is_foreign = |station: &Station| {
            station
                .ips
                .iter()
                .any(|ip| self.mirror.is_foreign(net, *ip))
        };
        !self.mirror.ignores_removal
            && matches!(records::read(key, value), Ok(Record::Station(station)) if is_foreign(&station))
    }
}
