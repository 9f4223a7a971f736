//! Claims that are given back. The owner has stopped using them before it says so, and gets them again only by a new claim.
//!
//! Two things may not happen: that this host goes on with addresses that the store gives to another, and that a removal which
//! is late takes back what was claimed anew. Therefore the disk forgets a claim before the store does (a daemon that starts
//! again in between does not use it), the removal is compared with the revision at which the claim was written, and a claim
//! that only the store ascribes to this host is never used as it is ([`super::Mirror`]).

use netd_model::{NetworkId, Prefix};

use super::super::claims;
use super::super::records;
use super::super::store::{Compare, Txn, Write};
use super::{Core, Output, Pending, Phase};

impl Core {
    /// The owner does not use these addresses any more.
    pub(super) fn release(&mut self, network: &NetworkId, prefix: Prefix) {
        self.mirror.let_go(network, prefix);
    }

    /// Gives back what is to be given back, as far as the store can be reached.
    pub(super) fn give_back(&mut self) {
        if self.phase != Phase::Online {
            return;
        }
        for (key, revision) in self.mirror.returning() {
            // The answer to a claim may come behind what the watch tells of it.
            let is_claiming = self.pending.values().any(|pending| match pending {
                Pending::Wish(.., writes) => writes.iter().any(|write| write.key() == key.text()),
                _ => false,
            });
            if is_claiming {
                continue;
            }
            self.mirror.give_back(&key, true);
            self.number += 1;
            let value = records::write(&claims::free());
            let txn = Txn {
                when: vec![Compare::At(key.text(), revision)],
                then: vec![Write::put(key.text(), value.clone())],
            };
            let kept = vec![(key.text(), Some(value))];
            self.pending
                .insert(self.number, Pending::Return(key, txn.then.clone()));
            self.out.push(if self.safeguards.forget_first {
                Output::TxnAfter(self.number, kept, txn)
            } else {
                Output::Txn(self.number, txn)
            });
        }
    }
}
