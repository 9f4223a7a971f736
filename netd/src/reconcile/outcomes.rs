//! The end of each job: keep or take back what was reserved, show it, answer.

use netd_model::api;
use netd_model::doctor;
use netd_model::error::{Code, Error, Result};
use netd_model::record::{Network, Phase};
use netd_model::{ContainerId, NetworkId};

use crate::reconcile::handle::Answer;
use crate::reconcile::job::{Outcome, Token, Unmake, Work};
use crate::reconcile::journal::Entry;
use crate::reconcile::making::Making;
use crate::reconcile::naming;
use crate::reconcile::owner::{Owner, Pending, Reply, Then, Touches};
use crate::reconcile::queue::Subject;
use crate::reconcile::requests::answer;
use crate::reconcile::view;
use crate::reconcile::world::GiveBack;

impl Owner {
    /// Takes the outcome of a job.
    pub(crate) fn end(&mut self, token: Token, outcome: Outcome) {
        let Some(Pending { takes, then, .. }) = self.pending.remove(&token) else {
            tracing::error!(token, ?outcome, "an outcome of no job");
            return;
        };
        takes.iter().for_each(|subject| {
            self.busy.remove(subject);
        });
        self.finish(then, outcome);
        // What changed on other hosts may have waited for this.
        self.follow();
    }

    fn finish(&mut self, then: Then, outcome: Outcome) {
        match then {
            Then::CreateNetwork {
                request,
                dry_run,
                reply,
            } => match outcome {
                Outcome::Facts(facts) => {
                    self.world.facts = *facts;
                    self.make_network(&request, dry_run, reply);
                }
                other => answer(reply, Err(failure(other))),
            },
            Then::NetworkMade { id, reply } => self.network_made(&id, outcome, reply),
            Then::Reserved { old, reply } => {
                let id = old.id.clone();
                let result = match outcome {
                    Outcome::Done => Ok(()),
                    other => {
                        self.world.set_reservations(*old);
                        Err(failure(other))
                    }
                };
                if let Some(record) = self.world.network(&id) {
                    self.network_views.insert(id.clone(), view::network(record));
                }
                self.publish();
                answer(reply, result.and_then(|()| self.network_answer(&id)));
            }
            Then::NetworksRemoved { ids, prune, reply } => {
                self.networks_removed(&ids, prune, outcome, reply);
            }
            Then::Attached { id, again, reply } => self.attach_ended(&id, again, outcome, reply),
            Then::Detached { id, was, reply } => self.detach_ended(&id, was, outcome, reply),
            Then::Connected { id, network, reply } => {
                self.connect_ended(&id, &network, outcome, reply);
            }
            Then::Disconnected { id, network, reply } => {
                self.disconnect_ended(&id, &network, outcome, reply);
            }
            Then::Observed { purpose } => self.audit_observed(purpose, outcome),
            Then::Repaired { plan, why } => self.audit_repaired(*plan, why, outcome),
            Then::Purged { purged, reply } => self.purge_ended(purged, outcome, reply),
            Then::Refreshed { reply } => match outcome {
                Outcome::Facts(facts) => {
                    self.world.facts = *facts;
                    self.see_own_mtu();
                    self.publish();
                    answer(reply, Ok(Answer::Done));
                }
                other => answer(reply, Err(failure(other))),
            },
            Then::Examined { reply } => match outcome {
                Outcome::Facts(facts) => {
                    self.world.facts = *facts;
                    self.publish();
                    let networks: Vec<_> = self.world.networks().collect();
                    let mut findings = doctor::examine(&self.world.facts, &networks);
                    let crowded = |network: &&Network| {
                        doctor::crowded(network, self.world.members(&network.id).count())
                    };
                    findings.extend(networks.iter().filter_map(crowded));
                    answer(reply, Ok(Answer::Findings(findings)));
                }
                other => answer(reply, Err(failure(other))),
            },
            Then::Saved { id } => match outcome {
                Outcome::Repaired(_) => {
                    self.unsaved.remove(&id);
                }
                other => self.failures.push(failure(other).message),
            },
            Then::Followed => self.followed(outcome),
            Then::Tidied => {
                if let Outcome::Failed { error, .. } = outcome {
                    self.failures.push(error.message);
                }
            }
        }
    }

    /// A job that brought the host's share along has succeeded.
    fn host_is_held(&mut self) {
        self.predefined_saved = true;
        self.host_share_is_held();
    }

    fn network_made(&mut self, id: &NetworkId, outcome: Outcome, reply: Reply) {
        match outcome {
            Outcome::Done => {
                self.host_is_held();
                if let Some(record) = self.world.network(id) {
                    self.zone
                        .update(|zone| zone.set_network(&record.id, naming::of_network(record)));
                    tracing::info!(network = %record.name, id = %record.id, "network created");
                    self.tell("network_created", &record.name, format!("id {}", record.id));
                }
                self.publish();
                answer(reply, self.network_answer(id));
            }
            Outcome::Failed { error, clean: true } => {
                self.leave_network(id);
                answer(reply, Err(error));
            }
            // Not all could be taken back: the record stays until an audit, or a removal, has done that.
            other => {
                self.world.set_going(id);
                self.network_views.remove(id);
                self.publish();
                answer(reply, Err(failure(other)));
            }
        }
    }

    fn network_answer(&self, id: &NetworkId) -> Result<Answer> {
        let view = self.network_views.get(id);
        let view =
            view.ok_or_else(|| Error::new(Code::Internal, format!("network {id} has no view")))?;
        Ok(Answer::Network(Box::new(api::Network::clone(view))))
    }

    fn networks_removed(
        &mut self,
        ids: &[NetworkId],
        prune: bool,
        outcome: Outcome,
        reply: Option<Reply>,
    ) {
        if !matches!(outcome, Outcome::Done) {
            // Some of it is gone: the next audit removes the rest, as with a container.
            ids.iter().for_each(|id| self.world.set_going(id));
            let error = failure(outcome);
            tracing::warn!(%error, "networks could not be removed completely");
            if let Some(reply) = reply {
                answer(reply, Err(error));
            }
            return;
        }
        let names: Vec<String> = ids
            .iter()
            .filter_map(|id| self.leave_network(id))
            .map(|net| net.name.to_string())
            .collect();
        tracing::info!(networks = ?names, "networks removed");
        for name in &names {
            self.tell("network_removed", name, String::new());
        }
        self.publish();
        if let Some(reply) = reply {
            let removed = Answer::Removed(names);
            answer(reply, Ok(if prune { removed } else { Answer::Done }));
        }
    }

    fn attach_ended(
        &mut self,
        id: &ContainerId,
        again: Option<Box<Making>>,
        outcome: Outcome,
        reply: Reply,
    ) {
        match outcome {
            Outcome::Done => {
                self.host_is_held();
                self.world.set_phase(id, Phase::Attached);
                let now = self.now();
                self.world.forget_orphan(id, now);
                let answered = self.shown(id, None);
                self.tell_of("attached", id, None);
                self.publish();
                answer(reply, answered);
            }
            Outcome::Failed { error, clean } => {
                let mut reply = Some(reply);
                if clean {
                    // Rolled back: the address was perhaps announced already, so it rests.
                    let now = self.now();
                    self.world.remove_container(id, GiveBack::Used(now));
                    reply = reply.and_then(|reply| self.attach_again(again, &error, reply));
                } else {
                    self.world.set_phase(id, Phase::Detaching);
                }
                let Some(reply) = reply else { return };
                self.tidy_networks();
                self.publish();
                answer(reply, Err(error));
            }
            other => answer(reply, Err(failure(other))),
        }
    }

    /// Shows a container and gives the answer that says so, with what hinders it.
    fn shown(
        &mut self,
        id: &ContainerId,
        old: Option<&netd_model::record::Container>,
    ) -> Result<Answer> {
        let view = self.show(id, old);
        let view = view
            .ok_or_else(|| Error::new(Code::Internal, format!("container {id} has no record")))?;
        let mut shown = api::Container::clone(&view);
        shown.warnings = self.forward_warnings();
        Ok(Answer::Container(Box::new(shown)))
    }

    fn detach_ended(
        &mut self,
        id: &ContainerId,
        was: Phase,
        outcome: Outcome,
        reply: Option<Reply>,
    ) {
        if matches!(outcome, Outcome::Failed { clean: true, .. }) {
            // The record could not be written and the kernel was not touched: the container is what it was.
            self.world.set_phase(id, was);
            if was == Phase::Attached {
                self.show(id, None);
            }
        }
        let result = if matches!(outcome, Outcome::Done) {
            let now = self.now();
            self.tell_of("detached", id, None);
            self.container_views.remove(id);
            self.missing.remove(id);
            self.world.remove_container(id, GiveBack::Used(now));
            Ok(Answer::Done)
        } else {
            Err(failure(outcome))
        };
        if let Err(error) = &result {
            tracing::warn!(container = %id, %error, "a container could not be removed completely");
        }
        self.publish();
        if let Some(reply) = reply {
            answer(reply, result);
        }
    }

    fn connect_ended(
        &mut self,
        id: &ContainerId,
        network: &NetworkId,
        outcome: Outcome,
        reply: Reply,
    ) {
        if matches!(outcome, Outcome::Done) {
            self.host_is_held();
            let old = self.world.container(id).cloned();
            let answered = self.shown(id, old.as_ref());
            self.tell_of("connected", id, Some(network));
            self.publish();
            return answer(reply, answered);
        }
        let now = self.now();
        if let Err(error) = self.world.disconnect(id, network, GiveBack::Used(now)) {
            tracing::error!(%error, "a failed connect could not be forgotten");
        }
        if !matches!(outcome, Outcome::Failed { clean: true, .. }) {
            self.unsaved.insert(id.clone());
        }
        self.tidy_networks();
        self.publish();
        answer(reply, Err(failure(outcome)));
    }

    fn disconnect_ended(
        &mut self,
        id: &ContainerId,
        network: &NetworkId,
        outcome: Outcome,
        reply: Reply,
    ) {
        if let Outcome::Failed { error, clean: true } = outcome {
            // Not even the record could be written: nothing has happened.
            return answer(reply, Err(error));
        }
        let now = self.now();
        let old = self.world.container(id).cloned();
        // The record without the endpoint is written: what the kernel kept is drift, which the next audit removes.
        if let Err(error) = self.world.disconnect(id, network, GiveBack::Used(now)) {
            tracing::error!(%error, "a disconnect could not be entered");
        }
        let answered = self.shown(id, old.as_ref());
        self.tell_of("disconnected", id, Some(network));
        self.publish();
        answer(
            reply,
            if matches!(outcome, Outcome::Done) {
                answered
            } else {
                Err(failure(outcome))
            },
        );
    }

    fn tell(&self, kind: &'static str, object: &str, message: String) {
        self.journal
            .add(Entry::new(kind, object.to_owned(), message));
    }

    /// An event of a container.
    fn tell_of(&self, kind: &'static str, id: &ContainerId, network: Option<&NetworkId>) {
        let Some(record) = self.world.container(id) else {
            return;
        };
        let network = network.and_then(|id| self.world.network(id));
        let network = network.map_or_else(String::new, |net| format!(", network {}", net.name));
        let message = format!("id {}, netns {}{network}", id.short(), record.netns);
        self.tell(kind, &record.name, message);
    }

    /// After a failure a network that comes with its first container may be in the kernel without one.
    fn tidy_networks(&mut self) {
        let absent = self.world.networks().filter(|net| {
            let stood = net.overlay.is_none() || netd_model::overlay::parts(net).is_some();
            net.comes_and_goes()
                && stood
                && !self.world.is_present(&net.id)
                && !self.busy.contains(&Subject::Network(net.name.clone()))
        });
        let absent: Vec<_> = absent
            .map(|net| (net.id.clone(), net.name.clone()))
            .collect();
        for (id, name) in absent {
            let Some(record) = self.world.network(&id) else {
                continue;
            };
            let ops = self.ops(self.world.network_objects(record), &[]);
            let work = Work::Unmake(Unmake {
                ops,
                ..Unmake::default()
            });
            let takes = vec![Subject::Network(name)];
            self.submit(work, takes, Touches::of(None, &[id]), Then::Tidied);
        }
    }
}

/// The error of a job that did not end well.
pub(crate) fn failure(outcome: Outcome) -> Error {
    match outcome {
        Outcome::Failed { error, .. } => error,
        other => Error::new(
            Code::Internal,
            format!("a job ended with an unexpected outcome: {other:?}"),
        ),
    }
}
