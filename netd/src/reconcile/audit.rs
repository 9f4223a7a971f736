//! Observe all, diff, repair; and what is built on that: `plan`, `purge`, the sweep for vanished namespaces.

use std::time::Instant;

use netd_model::api;
use netd_model::desired;
use netd_model::diff::{Plan, diff};
use netd_model::error::{Code, Error};
use netd_model::observed::Observed;
use netd_model::record::{Container, Network, Phase};
use netd_model::trace::{Known, Question, Trace, trace};
use netd_model::{ContainerId, NetworkId, Object, Op, Owner as ObjectOwner};
use tokio::sync::mpsc;

use crate::reconcile::drift::Places;
use crate::reconcile::handle::Answer;
use crate::reconcile::job::{Outcome, Unmake, Work, Write};
use crate::reconcile::journal::Entry;
use crate::reconcile::outcomes::failure;
use crate::reconcile::owner::{Owner, Reply, Then, Touches};
use crate::reconcile::queue::Subject;
use crate::reconcile::requests::answer;
use crate::reconcile::world::{GiveBack, HostHeld};
use crate::state::HostState;

/// What an observation is for.
#[derive(Debug)]
pub(crate) enum Purpose {
    /// To tell.
    Plan { reply: Reply },
    /// To follow a packet.
    Trace { question: Question, reply: Reply },
    /// To repair; without a reply, by the clock.
    Repair { reply: Option<Reply> },
    /// To repair what somebody changed in these places.
    Drift { places: Places, begun: Instant },
    /// To tell what differs on one container.
    Check { id: ContainerId, reply: Reply },
    /// To remove everything.
    Purge { dry_run: bool, reply: Reply },
}

/// Why something is repaired.
#[derive(Debug)]
pub(crate) enum Why {
    /// By the clock, or because somebody asked.
    Audit(Option<Reply>),
    /// Somebody changed something in these places; since when it is looked at.
    Drift(Places, Instant),
}

impl Why {
    fn purpose(self) -> Purpose {
        match self {
            Self::Audit(reply) => Purpose::Repair { reply },
            Self::Drift(places, begun) => Purpose::Drift { places, begun },
        }
    }
}

impl Owner {
    /// Begins to observe; one observation at a time, a later one waits for the executors like any job.
    pub(crate) fn start_audit(&mut self, purpose: Purpose) {
        if self.touched.is_some() {
            // One is under way already. The clock's can be left out, a user's is answered from its own look.
            if let Purpose::Repair { reply: None } = purpose {
                return;
            }
        }
        let mut touched = self.touched.take().unwrap_or_default();
        self.pending
            .values()
            .for_each(|pending| touched.add(&pending.touches));
        self.touched = Some(touched);
        let wanted = self.world.all_objects();
        let only = match &purpose {
            Purpose::Drift { places, .. } => Some(Self::insides(places)),
            Purpose::Check { id, .. } => Some([id.clone()].into()),
            _ => None,
        };
        self.submit(
            Work::Observe { wanted, only },
            Vec::new(),
            Touches::default(),
            Then::Observed { purpose },
        );
    }

    pub(crate) fn audit_observed(&mut self, purpose: Purpose, outcome: Outcome) {
        let still = self
            .pending
            .values()
            .any(|pending| matches!(pending.then, Then::Observed { .. }));
        let touched = if still {
            self.touched.clone()
        } else {
            self.touched.take()
        }
        .unwrap_or_default();
        let Outcome::Observed(seen) = outcome else {
            return self.audit_failed(purpose, failure(outcome));
        };
        let (facts, observed) = *seen;
        self.world.facts = facts;
        let now = self.now();
        let stable = |owner: &ObjectOwner| !touched.holds(owner);
        self.world.set_orphans(&observed, stable, now);
        if stable(&ObjectOwner::Host) {
            self.world.forget_gone_changes(&observed);
        }
        match purpose {
            Purpose::Purge { dry_run, reply } => self.purge_observed(&observed, dry_run, reply),
            Purpose::Plan { reply } => {
                let plan = self.audit_plan(observed, &touched);
                self.orphans = plan.orphans.iter().map(ToString::to_string).collect();
                self.publish();
                answer(reply, Ok(Answer::Plan(Box::new(shown(&plan)))));
            }
            Purpose::Check { id, reply } => {
                let differences = self.differences(&id, observed, &touched);
                answer(reply, Ok(Answer::Plan(Box::new(shown(&differences)))));
            }
            Purpose::Trace { question, reply } => {
                let traced = self.traced(&question, &observed);
                answer(reply, Ok(Answer::Trace(Box::new(traced))));
            }
            Purpose::Repair { reply } => self.repair(observed, &touched, Why::Audit(reply)),
            Purpose::Drift { places, begun } => {
                self.repair(observed, &touched, Why::Drift(places, begun));
            }
        }
    }

    fn audit_failed(&mut self, purpose: Purpose, error: Error) {
        tracing::error!(%error, "the kernel could not be observed");
        self.failures = vec![format!("the last audit failed: {}", error.message)];
        match purpose {
            Purpose::Plan { reply }
            | Purpose::Check { reply, .. }
            | Purpose::Trace { reply, .. }
            | Purpose::Repair { reply: Some(reply) } => {
                answer(reply, Err(error));
            }
            Purpose::Purge { reply, .. } => {
                self.purging = false;
                answer(reply, Err(error));
            }
            Purpose::Repair { reply: None } | Purpose::Drift { .. } => {}
        }
        self.publish();
    }

    fn traced(&self, question: &Question, held: &Observed) -> Trace {
        let mut wanted = Observed::default();
        self.world
            .all_objects()
            .into_iter()
            .for_each(|object| wanted.insert(object));
        let networks: Vec<_> = self.world.networks().collect();
        let containers: Vec<_> = self.world.containers().collect();
        let known = Known {
            networks: &networks,
            containers: &containers,
            facts: &self.world.facts,
        };
        trace(question, &known, &wanted, held)
    }

    /// What differs, less what changed while we looked.
    fn audit_plan(&self, mut observed: Observed, touched: &Touches) -> Plan {
        let stable = |owner: &ObjectOwner| !touched.holds(owner);
        observed.objects.retain(|_, object| stable(object.owner()));
        let mut wanted = self.world.all_objects();
        wanted.retain(|object| stable(object.owner()));
        diff(&wanted, &observed, |owner| {
            self.world.knows(owner) || self.world.has_ended(owner)
        })
    }

    fn repair(&mut self, observed: Observed, touched: &Touches, why: Why) {
        // Settings that netd made before its record was wiped, and those that a network needs and the host lost or never
        // had: they are wanted from now on.
        let forgotten = desired::forgotten_changes(&self.world.host_changes, &observed);
        self.world.host_changes.extend(forgotten);
        let missing = self.world.missing_host_changes();
        self.world.host_changes.extend(missing);
        let mut before: Vec<Write> = self.save_host().into_iter().collect();
        if !self.world.purged && !self.predefined_saved {
            // A request that brought it back could not write it.
            before.extend(self.predefined_write());
        }
        before.extend(self.adopt_macs(&observed, touched));
        let plan = self.audit_plan(observed, touched);
        self.orphans = plan.orphans.iter().map(ToString::to_string).collect();
        for op in &plan.ops {
            tracing::info!(%op, "repair");
        }
        let told = Box::new(shown(&plan));
        if plan.ops.is_empty() && before.is_empty() {
            return self.audit_repaired(*told, why, Outcome::Repaired(Vec::new()));
        }
        let mut touches = Touches::default();
        plan.ops.iter().for_each(|op| touch(&mut touches, op));
        let takes = self.subjects_of(&touches);
        self.submit(
            Work::Repair {
                before,
                ops: plan.ops,
            },
            takes,
            touches,
            Then::Repaired { plan: told, why },
        );
    }

    pub(crate) fn audit_repaired(&mut self, plan: api::Plan, why: Why, outcome: Outcome) {
        let Outcome::Repaired(failures) = outcome else {
            return self.audit_failed(why.purpose(), failure(outcome));
        };
        self.failures = failures
            .iter()
            .map(|(op, why)| format!("a repair failed: {op}: {why}"))
            .collect();
        for text in &self.failures {
            tracing::error!("{text}");
        }
        if self.failures.is_empty() {
            self.host_share_is_held();
        }
        match &why {
            Why::Drift(places, begun) => self.looked_after(places, *begun, &plan),
            // The first one makes what only a running daemon has: sockets.
            Why::Audit(_) if self.ready => self.record_repairs(&plan, "", None),
            Why::Audit(_) => {}
        }
        // Also when a repair failed: a port that somebody else holds must not keep what was detached.
        let mut unclean = Touches::default();
        failures.iter().for_each(|(op, _)| touch(&mut unclean, op));
        self.finish_removals(&unclean);
        if !self.ready {
            self.ready = true;
            tracing::info!(
                networks = self.network_views.len(),
                containers = self.container_views.len(),
                "ready"
            );
        }
        self.publish();
        if let Why::Audit(Some(reply)) = why {
            answer(reply, Ok(Answer::Plan(Box::new(plan))));
        }
    }

    fn subjects_of(&self, touches: &Touches) -> Vec<Subject> {
        let containers = touches
            .containers
            .iter()
            .filter_map(|id| self.world.container(id));
        let networks = touches
            .networks
            .iter()
            .filter_map(|id| self.world.network(id));
        containers
            .flat_map(|c| {
                [
                    Subject::Container(c.id.clone()),
                    Subject::ContainerName(c.name.clone()),
                ]
            })
            .chain(networks.map(|net| Subject::Network(net.name.clone())))
            .collect()
    }

    /// Removals that an earlier daemon, or a failure, left half done: the kernel is clean now, so the records go, but for
    /// those where it is not.
    fn finish_removals(&mut self, unclean: &Touches) {
        let busy = |record: &Container| {
            self.pending
                .values()
                .any(|pending| pending.touches.containers.contains(&record.id))
        };
        let left: Vec<ContainerId> = self
            .world
            .containers()
            .filter(|record| record.phase == Phase::Detaching && !busy(record))
            .filter(|record| !unclean.containers.contains(&record.id))
            .map(|record| record.id.clone())
            .collect();
        for id in left {
            self.detach(id, false, None);
        }
        let going = self.world.going().filter(|net| self.is_idle(net));
        let clean = going
            .map(|net| &net.id)
            .filter(|id| !unclean.networks.contains(*id));
        let going: Vec<NetworkId> = clean.cloned().collect();
        if !going.is_empty() {
            self.remove_networks(going, true, false, None);
        }
        self.save_containers();
    }

    fn is_idle(&self, network: &Network) -> bool {
        !self.busy.contains(&Subject::Network(network.name.clone()))
    }

    /// Writes the records that a failed connect could not put right.
    fn save_containers(&mut self) {
        for id in self.unsaved.clone() {
            let record = self.world.container(&id).cloned();
            let Some(record) = record.filter(|record| record.phase == Phase::Attached) else {
                self.unsaved.remove(&id);
                continue;
            };
            let takes = vec![
                Subject::Container(id.clone()),
                Subject::ContainerName(record.name.clone()),
            ];
            if takes.iter().any(|subject| self.busy.contains(subject)) {
                continue;
            }
            let work = Work::Repair {
                before: vec![Write::Container(Box::new(record))],
                ops: Vec::new(),
            };
            self.submit(work, takes, Touches::default(), Then::Saved { id });
        }
    }

    // ---- purge ----------------------------------------------------------------------------------------------------

    pub(crate) fn purge(&mut self, force: bool, dry_run: bool, reply: Reply) {
        let attached = self.world.containers().count();
        if attached > 0 && !force {
            return answer(reply, Err(attached_error(attached)));
        }
        self.purging = true;
        self.start_audit(Purpose::Purge { dry_run, reply });
    }

    fn purge_observed(&mut self, observed: &Observed, dry_run: bool, reply: Reply) {
        let ops = purge_ops(observed, &self.world.host_changes);
        if dry_run {
            self.purging = false;
            return answer(reply, Ok(Answer::DryRun(api::DryRun::new(ops))));
        }
        let containers: Vec<ContainerId> = self.world.containers().map(|c| c.id.clone()).collect();
        let networks: Vec<NetworkId> = self.world.networks().map(|n| n.id.clone()).collect();
        let known = |object: &&Object| self.world.knows(object.owner());
        let orphans = observed
            .objects
            .values()
            .filter(|object| !known(object))
            .count();
        let purged = api::Purged {
            containers: containers.len(),
            networks: networks.len(),
            orphans,
        };
        let host = HostState {
            changes: Vec::new(),
            purged: true,
            unknown: self.host_unknown.clone(),
        };
        // The last one decides: until the records are gone, a purge has not happened.
        let after = vec![self.host_write(host), Write::Clear];
        let work = Work::Unmake(Unmake {
            before: Vec::new(),
            ops,
            after,
            close: containers,
        });
        self.submit(
            work,
            Vec::new(),
            Touches::default(),
            Then::Purged { purged, reply },
        );
    }

    pub(crate) fn purge_ended(&mut self, purged: api::Purged, outcome: Outcome, reply: Reply) {
        self.purging = false;
        if !matches!(outcome, Outcome::Done) {
            answer(reply, Err(failure(outcome)));
            // What is on record still is made again.
            return self.start_audit(Purpose::Repair { reply: None });
        }
        self.world.purged = true;
        self.world.host_changes.clear();
        self.host_held = HostHeld::default();
        self.predefined_saved = false;
        let now = self.now();
        self.world.forget_orphans(now);
        let containers: Vec<ContainerId> = self.world.containers().map(|c| c.id.clone()).collect();
        for id in containers {
            self.hide(&id);
            self.world.remove_container(&id, GiveBack::Unused);
        }
        let networks = self.world.networks();
        // What hosts share is not this host's to remove.
        let networks: Vec<NetworkId> = networks
            .filter(|net| net.overlay.is_none())
            .map(|net| net.id.clone())
            .collect();
        for id in networks {
            self.leave_network(&id);
        }
        self.container_views.clear();
        self.orphans.clear();
        self.failures.clear();
        self.publish();
        answer(reply, Ok(Answer::Purged(purged)));
    }

    // ---- vanished namespaces --------------------------------------------------------------------------------------

    /// Looks, on a thread that may block, whether the namespaces are still where they were (invariant I4).
    pub(crate) fn start_sweep(&mut self, gone: &mpsc::Sender<Vec<ContainerId>>) {
        let attached = self
            .world
            .containers()
            .filter(|c| c.phase == Phase::Attached);
        let ids: Vec<ContainerId> = attached.map(|c| c.id.clone()).collect();
        let (kernel, gone) = (std::sync::Arc::clone(&self.tools.kernel), gone.clone());
        if ids.is_empty() || !self.ready || gone.capacity() == 0 {
            return;
        }
        tokio::task::spawn_blocking(move || {
            let missing = ids
                .into_iter()
                .filter(|id| !kernel.sandbox_is_there(id))
                .collect();
            // A full channel: the last look is not dealt with yet, the next one sees the same.
            let _ = gone.try_send(missing);
        });
    }

    /// A namespace that was missing twice is gone: the container is detached.
    pub(crate) fn after_sweep(&mut self, missing: Vec<ContainerId>) {
        let twice: Vec<ContainerId> = missing
            .iter()
            .filter(|id| self.missing.contains(*id))
            .cloned()
            .collect();
        self.missing = missing.into_iter().collect();
        for id in twice {
            let Some(record) = self
                .world
                .container(&id)
                .filter(|c| c.phase == Phase::Attached)
            else {
                continue;
            };
            tracing::warn!(container = %record.name, netns = record.netns, "the namespace is gone: detaching");
            let text = format!("network namespace {} is gone: detaching", record.netns);
            self.journal
                .add(Entry::new("vanished", record.name.to_string(), text));
            // By the queue, so that a request under way on the container comes first.
            let (reply, _) = tokio::sync::oneshot::channel();
            let request = crate::reconcile::handle::Request::Detach(id.to_string());
            self.accept(crate::reconcile::handle::Message {
                request,
                dry_run: false,
                reply,
            });
        }
    }
}

/// Why a purge without `--force` does nothing.
pub(crate) fn attached_error(attached: usize) -> Error {
    Error::new(
        Code::ContainersAttached,
        format!("{attached} containers are attached: detach them, or purge with --force"),
    )
    .with("containers", attached)
}

/// Everything of ours goes, known or not; the host's settings become what they were, unless somebody changed them since.
pub(crate) fn purge_ops(observed: &Observed, changes: &[api::HostChange]) -> Vec<Op> {
    let mut ops = diff(&[], observed, |_| true).ops;
    for change in changes.iter().rev() {
        let path = change.sysctl.clone();
        let held = observed.objects.get(&netd_model::Key::Sysctl {
            ns: netd_model::Ns::Host,
            path,
        });
        if let Some(Object::Sysctl(now)) = held
            && now.value == change.now
        {
            let was = netd_model::object::Sysctl {
                value: change.was.clone(),
                ..now.clone()
            };
            ops.push(Op::Change {
                from: Object::Sysctl(now.clone()),
                to: Object::Sysctl(was),
            });
        }
    }
    ops
}

fn shown(plan: &Plan) -> api::Plan {
    let orphans: Vec<String> = plan.orphans.iter().map(ToString::to_string).collect();
    let mut text: Vec<String> = plan.ops.iter().map(ToString::to_string).collect();
    text.extend(orphans.iter().map(|orphan| format!("orphan {orphan}")));
    api::Plan {
        ops: plan.ops.clone(),
        text,
        orphans,
    }
}

fn touch(touches: &mut Touches, op: &Op) {
    let owner = match op {
        Op::AddPair { host, .. } => Some(&host.owner),
        Op::Add(object) | Op::Remove(object) | Op::Change { to: object, .. } => {
            Some(object.owner())
        }
        Op::Announce { .. } | Op::ForgetUdpFlows { .. } => None,
    };
    match owner {
        Some(ObjectOwner::Network(id)) => {
            touches.networks.insert(id.clone());
        }
        Some(owner) => touches.containers.extend(owner.container().cloned()),
        None => {}
    }
}
