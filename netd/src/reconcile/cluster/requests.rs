//! Requests that need the shared store: addresses to be claimed first, networks and hosts that come and go for all.

use netd_model::api::DryRun;
use netd_model::error::{Code, Error, Result};
use netd_model::id::NetworkId;
use netd_model::request::{CreateNetwork, Join};

use super::Waiting;
use crate::cluster::core::{Token, Wish};
use crate::reconcile::handle::{Answer, Message, Request};
use crate::reconcile::journal::Entry;
use crate::reconcile::owner::{Owner, Reply, random};
use crate::reconcile::queue::Subject;
use crate::reconcile::requests::answer;

/// How often a network is planned anew because another host was faster.
const TRIES: usize = 8;

impl Owner {
    /// Has a request wait for addresses, if it needs some that are not this host's yet: of one network after the other.
    pub(crate) fn claim_first(&mut self, message: Message, waited: usize) -> Option<Message> {
        let joins: &[Join] = match &message.request {
            Request::Attach { attach, .. } => &attach.networks,
            Request::CniAdd { request, .. } => &request.attach.networks,
            Request::Connect { join, .. } => std::slice::from_ref(join),
            _ => return Some(message),
        };
        // Others may take what was claimed for it, but not for ever.
        if self.world.shared.is_none() || waited > joins.len() + TRIES {
            return Some(message);
        }
        match self.world.lacking(joins) {
            Ok(None) => Some(message),
            Ok(Some(ask)) => {
                let takes = self.needs(&message.request);
                self.busy.extend(takes.iter().cloned());
                let waiting = Waiting::Message(Box::new(message), takes, waited + 1);
                self.wish(Wish::Claim(ask), waiting);
                None
            }
            Err(error) => {
                answer(message.reply, Err(error));
                None
            }
        }
    }

    /// Creates a network for all hosts.
    pub(crate) fn share_network(
        &mut self,
        request: CreateNetwork,
        dry_run: bool,
        tries: usize,
        reply: Reply,
    ) {
        let planned = random().and_then(|bytes: [u8; 20]| {
            let (id, rest) = bytes.split_at(16);
            let id = NetworkId::from_bytes(id.try_into().unwrap_or_default());
            let random = u32::from_le_bytes(rest.try_into().unwrap_or_default());
            self.world.plan_network(&request, id, random)
        });
        match planned {
            Err(error) => answer(reply, Err(error)),
            // Nothing is made on any host before a container comes.
            Ok(_) if dry_run => answer(reply, Ok(Answer::DryRun(DryRun::new(Vec::new())))),
            Ok(record) => {
                self.busy.insert(Subject::Network(request.name.clone()));
                let id = record.id.clone();
                let waiting = Waiting::Network(Box::new(request), id, tries, reply);
                self.wish(Wish::CreateNetwork(Box::new(record)), waiting);
            }
        }
    }

    /// Removes a network from all hosts.
    pub(crate) fn unshare_network(&mut self, id: NetworkId, dry_run: bool, reply: Option<Reply>) {
        match reply {
            Some(reply) if dry_run => answer(reply, Ok(Answer::DryRun(DryRun::new(Vec::new())))),
            reply => self.wish(Wish::RemoveNetwork(id), Waiting::Removal(reply)),
        }
    }

    /// Removes a host that is gone.
    pub(crate) fn remove_node(&mut self, reference: &str, dry_run: bool, reply: Reply) {
        let Some(shared) = &self.world.shared else {
            let text =
                "this host is in no cluster: netd was started without --store etcd://HOST:PORT";
            return answer(reply, Err(Error::new(Code::NodeNotFound, text)));
        };
        let found = shared.hosts.iter().find(|(name, host)| {
            let id = host.record.as_ref().map(|record| record.id.as_str());
            name.as_str() == reference || id == Some(reference)
        });
        let Some(name) = found.map(|(name, _)| name.clone()) else {
            let text = format!(
                "no host has the name or id {:?}: `netctl node ls` lists them",
                netd_model::id::shorten(reference)
            );
            return answer(reply, Err(Error::new(Code::NodeNotFound, text)));
        };
        if name == shared.name {
            let text = format!("host {name} is this one: stop its netd, and remove it on another");
            return answer(reply, Err(Error::new(Code::NodeInUse, text)));
        }
        if dry_run {
            return answer(reply, Ok(Answer::DryRun(DryRun::new(Vec::new()))));
        }
        self.wish(
            Wish::RemoveNode(name.clone()),
            Waiting::Node(name.to_string(), reply),
        );
    }

    pub(super) fn replied(&mut self, token: Token, replied: Result<()>) {
        let Some(waiting) = self.cluster.waiting.remove(&token) else {
            return;
        };
        match waiting {
            Waiting::Message(message, takes, waited) => {
                for subject in &takes {
                    self.busy.remove(subject);
                }
                match replied {
                    Ok(()) => {
                        if let Some(message) = self.claim_first(*message, waited) {
                            self.begin_claimed(message);
                        }
                    }
                    Err(error) => answer(message.reply, Err(error)),
                }
                self.wake();
            }
            Waiting::Network(request, id, tries, reply) => {
                self.busy.remove(&Subject::Network(request.name.clone()));
                match replied {
                    Ok(()) => {
                        let view = self.network_views.get(&id).cloned();
                        let made = view.map(|view| {
                            Answer::Network(Box::new(netd_model::api::Network::clone(&view)))
                        });
                        let missing = || {
                            let text = format!(
                                "network {} was created, but cannot be used here: see netctl status",
                                request.name
                            );
                            Error::new(Code::Conflict, text)
                        };
                        answer(reply, made.ok_or_else(missing));
                    }
                    Err(error) if error.code == Code::Conflict && tries < TRIES => {
                        self.share_network(*request, false, tries + 1, reply);
                    }
                    Err(error) => answer(reply, Err(error)),
                }
                self.wake();
            }
            Waiting::Removal(reply) => {
                if let Some(reply) = reply {
                    answer(reply, replied.map(|()| Answer::Done));
                }
            }
            Waiting::Ahead(net) => {
                self.cluster.ahead.remove(&net);
                if let Err(error) = replied {
                    tracing::info!(%error, "no addresses were claimed ahead");
                }
            }
            Waiting::Node(name, reply) => {
                if replied.is_ok() {
                    self.journal
                        .add(Entry::new("node_removed", name, String::new()));
                }
                answer(reply, replied.map(|()| Answer::Done));
            }
        }
    }
}
