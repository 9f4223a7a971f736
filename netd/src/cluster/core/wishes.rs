//! Wishes: addresses, networks, the removal of what is gone. Each is a transaction that fails when somebody was faster, and is
//! then planned anew from what that somebody wrote.

use netd_model::NetworkId;
use netd_model::error::{Code, Error, Result};
use netd_model::id::Name;
use netd_model::record::{Network, Unknown};

use super::super::claims::{self, Ask, Choice};
use super::super::keys::{Key, NETWORKS};
use super::super::records::{self, Claim, Record};
use super::super::store::{Compare, TXN_WRITES, Txn, Write};
use super::{Core, Output, Pending, Phase, Token, Wish};

impl Core {
    pub(super) fn offline(&self, wish: &Wish) -> Error {
        let why = if self.why.is_empty() {
            "it has not answered yet"
        } else {
            &self.why
        };
        match wish {
            Wish::Claim(ask) => Error::new(
                Code::PoolExhaustedOffline,
                format!(
                    "network {}: this host's addresses are all in use, and the shared store cannot give more: {why}; detach a \
                     container, or bring the store back",
                    ask.name
                ),
            ),
            _ => Error::new(
                Code::StoreUnavailable,
                format!("the shared store is not available: {why}; nothing was changed"),
            ),
        }
    }

    pub(super) fn reply(&mut self, token: Token, answer: Result<()>) {
        self.out.push(Output::Reply(token, answer));
    }

    pub(super) fn wish(&mut self, token: Token, wish: Wish, tries: u32) {
        match self.phase {
            Phase::Online => {}
            _ if !self.tried => return self.early.push((token, wish)),
            // A list in between takes a moment.
            Phase::Listing | Phase::Opening if self.failures == 0 => {
                return self.early.push((token, wish));
            }
            _ => {
                let error = self.offline(&wish);
                return self.reply(token, Err(error));
            }
        }
        match self.plan(&wish) {
            Ok(Some(txn)) => {
                let writes = txn.then.clone();
                self.txn(txn, Pending::Wish(token, wish, tries, writes));
            }
            Ok(None) => self.reply(token, Ok(())),
            Err(error) => self.reply(token, Err(error)),
        }
    }

    /// What a wish writes; nothing if it is fulfilled already.
    pub(super) fn plan(&mut self, wish: &Wish) -> Result<Option<Txn>> {
        match wish {
            Wish::Claim(ask) => self.plan_claim(ask),
            Wish::CreateNetwork(record) => {
                let clash = self.mirror.networks().find(|other| {
                    other.name == record.name || vni(other) == vni(record) || overlap(other, record)
                });
                if let Some(other) = clash {
                    return Err(Error::new(
                        Code::Conflict,
                        format!(
                            "network {} was created by another host meanwhile",
                            other.name
                        ),
                    ));
                }
                let key = Key::Network(record.id.clone()).text();
                Ok(Some(Txn {
                    when: vec![
                        Compare::Absent(key.clone()),
                        Compare::NoneAfter(NETWORKS.to_owned(), self.mirror.revision),
                    ],
                    then: vec![Write::put(key, records::write(&**record))],
                }))
            }
            Wish::RemoveNetwork(id) => self.plan_removal(id),
            Wish::RemoveNode(name) => self.plan_node_removal(name),
        }
    }

    pub(super) fn plan_claim(&mut self, ask: &Ask) -> Result<Option<Txn>> {
        let random = self.draw();
        let choices = claims::choose(ask, &self.mirror, &self.node.id, random)?;
        let mut txn = Txn::default();
        for Choice { prefix, router } in choices {
            let key = Key::Claim(ask.network.clone(), prefix);
            let claim = Claim {
                node: Some(self.name.clone()),
                id: self.node.id.clone(),
                router,
                unknown: Unknown::new(),
            };
            if self.safeguards.create_if_absent {
                txn.when.push(match self.mirror.revision_of(&key) {
                    Some(revision) => Compare::At(key.text(), revision),
                    None => Compare::Absent(key.text()),
                });
            }
            txn.then
                .push(Write::put(key.text(), records::write(&claim)));
        }
        Ok((!txn.then.is_empty()).then_some(txn))
    }

    pub(super) fn plan_removal(&mut self, id: &NetworkId) -> Result<Option<Txn>> {
        let key = Key::Network(id.clone());
        let Some(revision) = self.mirror.revision_of(&key) else {
            return Ok(None);
        };
        let hosts: Vec<String> = self
            .mirror
            .members(id)
            .map(|(node, _)| node.to_string())
            .collect();
        if !hosts.is_empty() {
            return Err(Error::new(
                Code::NetworkInUse,
                format!(
                    "the network has containers on {}: detach them first, or remove a host that is gone with `netctl node rm`",
                    hosts.join(", ")
                ),
            ));
        }
        let mut then = vec![Write::Delete(key.text())];
        then.extend(
            self.mirror
                .claims(id)
                .map(|(prefix, _)| Write::Delete(Key::Claim(id.clone(), prefix).text())),
        );
        // The record decides; claims beyond one transaction's worth are of no use without it, and of no harm.
        then.truncate(TXN_WRITES);
        Ok(Some(Txn {
            when: vec![Compare::At(key.text(), revision)],
            then,
        }))
    }

    pub(super) fn plan_node_removal(&mut self, name: &Name) -> Result<Option<Txn>> {
        if self.mirror.raw(&Key::Alive(name.clone())).is_some() {
            return Err(Error::new(
                Code::NodeInUse,
                format!("host {name} is alive: stop netd there first"),
            ));
        }
        let mut then: Vec<Write> = self
            .mirror
            .of_node(name)
            .map(|key| Write::Delete(key.text()))
            .collect();
        let node = Key::Node(name.clone());
        if let (None, Some(Record::Node(record))) =
            (self.mirror.raw(&node), self.mirror.record(&node))
        {
            // The store has forgotten it, and tells nobody of the removal of what it does not have: first it is written
            // once more.
            then.push(Write::put(node.text(), records::write(record)));
        }
        let held = self.mirror.claims_of(name);
        let free = held.map(|key| Write::put(key.text(), records::write(&claims::free())));
        then.extend(free);
        if then.is_empty() {
            return Err(Error::new(
                Code::NodeNotFound,
                format!("no host is called {name}: `netctl node ls` lists them"),
            ));
        }
        // The host's own record is the first key of its, and goes last: a removal in parts can be repeated.
        then.reverse();
        let mut when = vec![Compare::Absent(Key::Alive(name.clone()).text())];
        self.mark_removed(name, &mut when, &mut then);
        then.truncate(TXN_WRITES);
        Ok(Some(Txn { when, then }))
    }
}

fn vni(network: &Network) -> Option<u32> {
    network.overlay.as_ref().map(|overlay| overlay.vni)
}

fn overlap(one: &Network, other: &Network) -> bool {
    let subnets = one.subnets.iter();
    subnets
        .into_iter()
        .any(|a| other.subnets.iter().any(|b| a.subnet.overlaps(b.subnet)))
}
