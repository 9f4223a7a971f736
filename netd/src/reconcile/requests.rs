//! The beginning of each request: decide, reserve, hand over. Nothing here waits.

use netd_model::error::{Code, Error};
use netd_model::record::{Container, Network, Phase};
use netd_model::request::{Attach, Join};
use netd_model::trace::Question;
use netd_model::{ContainerId, NetworkId, Object, Op};

use netd_model::api::DryRun;

use crate::kernel::Sandbox;
use crate::reconcile::audit::Purpose;
use crate::reconcile::handle::{Answer, Message, Request};
use crate::reconcile::job::{Unmake, Work, Write};
use crate::reconcile::making::Making;
use crate::reconcile::owner::{Owner, Reply, Then, Touches, random};
use crate::reconcile::queue::Subject;
use crate::reconcile::world::GiveBack;
use crate::reconcile::world::overlay::is_overlay;

mod networks;

/// An answer that needs no work, or the reason why there is none.
type Now = netd_model::Result<Answer>;

impl Owner {
    /// Starts a request that is free to start.
    pub(crate) fn begin(&mut self, message: Message) {
        if let Some(message) = self.claim_first(message, 0) {
            self.begin_claimed(message);
        }
    }

    /// The same for one that has what it needs of the cluster.
    #[expect(clippy::too_many_lines, reason = "an arm for each kind of request")]
    pub(crate) fn begin_claimed(&mut self, message: Message) {
        let Message {
            request,
            dry_run,
            reply,
        } = message;
        match request {
            Request::CreateNetwork(request) => self.create_network(request, dry_run, reply),
            Request::EnsureNetwork(request) => match self.is_there(&request) {
                Ok(true) => answer(reply, Ok(Answer::Unchanged)),
                Ok(false) => self.create_network(request, dry_run, reply),
                Err(error) => answer(reply, Err(error)),
            },
            Request::SetAccess {
                network,
                allow_from,
                block_from,
            } => match self.find_own(&network) {
                Ok(id) => self.set_access(&id, allow_from, block_from, dry_run, reply),
                Err(error) => answer(reply, Err(error)),
            },
            Request::Reserve {
                network,
                container,
                reservation,
            } => {
                let planned = self
                    .find_own(&network)
                    .and_then(|id| self.world.plan_reservation(&id, &container, reservation));
                match planned {
                    Ok(record) => self.reserve(record, dry_run, reply),
                    Err(error) => answer(reply, Err(error)),
                }
            }
            Request::RemoveNetwork(reference) => {
                let found = self.world.find_network(&reference);
                let checked = found.and_then(|id| self.world.check_removal(&id).map(|()| id));
                match checked {
                    Ok(id) if self.world.network(&id).is_some_and(is_overlay) => {
                        self.unshare_network(id, dry_run, Some(reply));
                    }
                    Ok(id) => self.remove_networks(vec![id], false, dry_run, Some(reply)),
                    Err(error) => answer(reply, Err(error)),
                }
            }
            Request::PruneNetworks => {
                let empty = self
                    .world
                    .networks()
                    .filter(|net| self.is_prunable(net))
                    .map(|net| net.id.clone());
                let ids = empty.collect();
                self.remove_networks(ids, true, dry_run, Some(reply));
            }
            Request::Attach {
                attach,
                sandbox,
                create_only,
            } => {
                self.attach(*attach, sandbox, create_only, dry_run, reply);
            }
            Request::Detach(reference) => match self.world.find_container(&reference) {
                Ok(id) => self.detach(id, dry_run, Some(reply)),
                Err(error) => answer(reply, Err(error)),
            },
            Request::Connect { container, join } => self.connect(&container, &join, dry_run, reply),
            Request::Disconnect { container, network } => {
                self.disconnect(&container, &network, dry_run, reply);
            }
            Request::CniAdd { request, sandbox } => self.cni_add(*request, sandbox, reply),
            Request::CniDel(attachment) => self.cni_del(&attachment, reply),
            Request::CniCheck(attachment) => self.cni_check(&attachment, reply),
            Request::CniNetwork { define, room } => self.cni_network(define, room, reply),
            Request::CniStatus { network, define } => {
                answer(reply, self.cni_status(&network, define.as_deref()));
            }
            Request::RemoveNode(reference) => self.remove_node(&reference, dry_run, reply),
            Request::Ready | Request::Alive => answer(reply, Ok(Answer::Done)),
            Request::Refresh => {
                let then = Then::Refreshed { reply };
                self.submit(Work::Facts, Vec::new(), Touches::default(), then);
            }
            Request::Doctor => {
                let then = Then::Examined { reply };
                self.submit(Work::Facts, Vec::new(), Touches::default(), then);
            }
            Request::Trace { from, to } => {
                let find = |name: &str| {
                    let id = self.world.find_container(name)?;
                    self.world.container(&id).ok_or_else(|| {
                        Error::new(Code::ContainerNotFound, format!("container {name} is gone"))
                    })
                };
                match Question::parse(&from, &to, find) {
                    Ok(question) => self.start_audit(Purpose::Trace { question, reply }),
                    Err(error) => answer(reply, Err(error)),
                }
            }
            Request::Audit if dry_run => self.start_audit(Purpose::Plan { reply }),
            Request::Plan => self.start_audit(Purpose::Plan { reply }),
            Request::Audit => self.start_audit(Purpose::Repair { reply: Some(reply) }),
            Request::Purge { force } => self.purge(force, dry_run, reply),
        }
    }

    /// Adds the host's share to what a request changes, where the kernel does not hold it yet: settings that a network
    /// needs, the ruleset after a purge. The answer is what the kernel holds of it.
    fn with_host(&mut self, after: &mut Vec<Object>, writes: &mut Vec<Write>) -> Vec<Object> {
        let missing = self.world.missing_host_changes();
        self.world.host_changes.extend(missing);
        writes.extend(self.save_host());
        let share = self.world.host_share();
        if self.host_held.is(&share) {
            return Vec::new();
        }
        after.extend(share.objects());
        self.host_held.objects().to_vec()
    }

    pub(crate) fn attach(
        &mut self,
        attach: Attach,
        sandbox: Sandbox,
        create_only: bool,
        dry_run: bool,
        reply: Reply,
    ) {
        if let Some(known) = self.repeated(&attach, &sandbox, create_only) {
            return answer(reply, known);
        }
        if dry_run {
            let ops = self.dry_attach(attach, &sandbox);
            return answer(reply, ops.map(|ops| Answer::DryRun(DryRun::new(ops))));
        }
        self.make_container(Making::new(attach, sandbox), reply);
    }

    fn make_container(&mut self, making: Making, reply: Reply) {
        let again = making.again();
        match self.try_attach(making) {
            Ok((work, takes, touches, id)) => {
                self.submit(work, takes, touches, Then::Attached { id, again, reply });
            }
            Err(error) => answer(reply, Err(error)),
        }
    }

    /// Attaches once more with another choice of host ports, if one that netd chose turned out to be another program's.
    /// Gives the reply back if that is not the reason, or was tried often enough.
    pub(crate) fn attach_again(
        &mut self,
        again: Option<Box<Making>>,
        error: &Error,
        reply: Reply,
    ) -> Option<Reply> {
        let Some(making) = again.and_then(|making| making.without(error)) else {
            return Some(reply);
        };
        self.make_container(making, reply);
        None
    }

    /// The answer to an attach of an id that exists.
    fn repeated(&self, attach: &Attach, sandbox: &Sandbox, create_only: bool) -> Option<Now> {
        let record = attach.id.as_ref().and_then(|id| self.world.container(id))?;
        let view = self.container_views.get(&record.id)?;
        let refuse = |why: &str| {
            Some(Err(Error::new(
                Code::ContainerExists,
                format!("container {} exists{why}", record.id),
            )))
        };
        if record.phase != Phase::Attached {
            return refuse(" and is being removed: try again when `netctl plan` is empty");
        }
        if create_only {
            return refuse(": detach it first");
        }
        if record.request != *attach {
            return refuse(" with another request: detach it first, or repeat the same request");
        }
        if record.netns_identity != sandbox.identity {
            return refuse(" with another network namespace at the same path: detach it first");
        }
        Some(Ok(Answer::Container(Box::new(
            netd_model::api::Container::clone(view),
        ))))
    }

    fn dry_attach(&mut self, attach: Attach, sandbox: &Sandbox) -> netd_model::Result<Vec<Op>> {
        let id = new_id(&attach)?;
        let networks = self.predefined_of(&attach);
        let now = self.now();
        let before = self.world.objects(&networks, []);
        let rounds = self.world.rounds();
        self.world
            .reserve(attach, id.clone(), sandbox.identity, now, &[])?;
        let after = self.world.objects(&networks, [&id]);
        let mut ops = self.world.orphan_removal(&id);
        ops.extend(self.ops(before, &after));
        self.world.remove_container(&id, GiveBack::Unused);
        self.world.set_rounds(rounds);
        Ok(ops)
    }

    fn try_attach(
        &mut self,
        making: Making,
    ) -> netd_model::Result<(Work, Vec<Subject>, Touches, ContainerId)> {
        let Making {
            attach,
            sandbox,
            avoid,
        } = making;
        let id = new_id(&attach)?;
        let mut before = self.ensure_predefined()?;
        let networks = self.predefined_of(&attach);
        before.extend(self.world.shared_records(&networks).map(Write::Shared));
        let held = self.world.objects(&networks, []);
        let now = self.now();
        let record = self
            .world
            .reserve(attach, id.clone(), sandbox.identity, now, &avoid)?
            .clone();
        let mut after = self.world.objects(&networks, [&id]);
        let mut held_all = self.with_host(&mut after, &mut before);
        held_all.extend(held);
        let ops = self.ops(held_all, &after);
        let replaced = self.world.orphan_removal(&id);
        before.push(Write::Container(Box::new(record.clone())));
        let mut takes = self.predefined_subjects(&networks);
        takes.extend([
            Subject::Container(id.clone()),
            Subject::ContainerName(record.name.clone()),
        ]);
        let attached = Container {
            phase: Phase::Attached,
            ..record
        };
        let work = Work::Make {
            sandbox: Some((id.clone(), sandbox)),
            before,
            replaced,
            ops,
            after: vec![Write::Container(Box::new(attached))],
            undo: vec![Write::DropContainer(id.clone())],
        };
        Ok((work, takes, Touches::of(Some(&id), &networks), id))
    }

    /// The predefined network, if a request joins it while it is not in the kernel yet.
    fn predefined_of(&self, attach: &Attach) -> Vec<NetworkId> {
        let joined = attach
            .networks
            .iter()
            .filter_map(|join| self.world.find_network(&join.network).ok());
        joined.filter(|id| !self.world.is_present(id)).collect()
    }

    fn predefined_subjects(&self, networks: &[NetworkId]) -> Vec<Subject> {
        let records = networks.iter().filter_map(|id| self.world.network(id));
        records
            .map(|net| Subject::Network(net.name.clone()))
            .collect()
    }

    /// The predefined network, if a container is the last on it.
    fn leaves_last(&self, container: &Container, networks: &[NetworkId]) -> Vec<NetworkId> {
        let leaves = |id: &ContainerId| {
            *id == container.id
                || self
                    .world
                    .container(id)
                    .is_some_and(|c| c.phase == Phase::Detaching)
        };
        let is_last = |id: &&NetworkId| {
            self.world.network(id).is_some_and(Network::comes_and_goes)
                && self.world.members(id).all(leaves)
                && !self.world.has_orphans(id)
        };
        networks.iter().filter(is_last).cloned().collect()
    }

    /// Detaches a container; without a reply, one whose namespace vanished or whose removal was left half done.
    pub(crate) fn detach(&mut self, id: ContainerId, dry_run: bool, reply: Option<Reply>) {
        let Some(record) = self.world.container(&id).cloned() else {
            return;
        };
        let joined: Vec<NetworkId> = record.endpoints.iter().map(|e| e.network.clone()).collect();
        let last = self.leaves_last(&record, &joined);
        let mut held = self.world.objects(&last, []);
        held.extend(self.world.container_objects(&record));
        let ops = self.ops(held, &[]);
        if dry_run {
            if let Some(reply) = reply {
                answer(reply, Ok(Answer::DryRun(DryRun::new(ops))));
            }
            return;
        }
        let was = record.phase;
        // Out of the answers first, then out of the kernel.
        self.hide(&id);
        self.world.set_phase(&id, Phase::Detaching);
        let mut takes = self.predefined_subjects(&last);
        takes.extend([
            Subject::Container(id.clone()),
            Subject::ContainerName(record.name.clone()),
        ]);
        let work = Work::Unmake(Unmake {
            before: vec![Write::Container(Box::new(Container {
                phase: Phase::Detaching,
                ..record
            }))],
            ops,
            after: vec![Write::DropContainer(id.clone())],
            close: vec![id.clone()],
        });
        let touches = Touches::of(Some(&id), &last);
        self.submit(work, takes, touches, Then::Detached { id, was, reply });
    }

    pub(crate) fn connect(&mut self, container: &str, join: &Join, dry_run: bool, reply: Reply) {
        match self.try_connect(container, join, dry_run) {
            Ok((ops, None)) => answer(reply, Ok(Answer::DryRun(DryRun::new(ops)))),
            Ok((ops, Some((old, network, before)))) => {
                let id = old.id.clone();
                let mut takes = vec![
                    Subject::Container(id.clone()),
                    Subject::ContainerName(old.name.clone()),
                ];
                let comes = self
                    .world
                    .network(&network)
                    .is_some_and(Network::comes_and_goes);
                if comes {
                    takes.extend(self.predefined_subjects(std::slice::from_ref(&network)));
                }
                let undo = vec![Write::Container(old)];
                let work = Work::Make {
                    sandbox: None,
                    before,
                    replaced: Vec::new(),
                    ops,
                    after: Vec::new(),
                    undo,
                };
                let touches = Touches::of(Some(&id), std::slice::from_ref(&network));
                self.submit(work, takes, touches, Then::Connected { id, network, reply });
            }
            Err(error) => answer(reply, Err(error)),
        }
    }

    #[expect(
        clippy::type_complexity,
        reason = "the parts of one decision, taken apart by its only caller"
    )]
    fn try_connect(
        &mut self,
        container: &str,
        join: &Join,
        dry_run: bool,
    ) -> netd_model::Result<(Vec<Op>, Option<(Box<Container>, NetworkId, Vec<Write>)>)> {
        let id = self.world.find_container(container)?;
        let network = self.world.find_network(&join.network)?;
        let old = self.attached(&id)?;
        let absent: Vec<NetworkId> = if self.world.is_present(&network) {
            Vec::new()
        } else {
            vec![network.clone()]
        };
        let held = self.world.objects(&absent, [&id]);
        let now = self.now();
        let rounds = self.world.rounds();
        let record = self.world.connect(&id, join, now)?.clone();
        let mut after = self.world.objects(&absent, [&id]);
        if dry_run {
            let ops = self.ops(held, &after);
            self.world.disconnect(&id, &network, GiveBack::Unused)?;
            self.world.set_rounds(rounds);
            return Ok((ops, None));
        }
        let mut before: Vec<Write> = Vec::new();
        before.extend(self.world.shared_records(&absent).map(Write::Shared));
        let mut held_all = self.with_host(&mut after, &mut before);
        held_all.extend(held);
        let ops = self.ops(held_all, &after);
        before.push(Write::Container(Box::new(record)));
        Ok((ops, Some((Box::new(old), network, before))))
    }

    /// The record of a container that is attached, not one whose removal is under way.
    fn attached(&self, id: &ContainerId) -> netd_model::Result<Container> {
        let record = self
            .world
            .container(id)
            .filter(|record| record.phase == Phase::Attached);
        record.cloned().ok_or_else(|| {
            Error::new(
                Code::ContainerNotFound,
                format!("container {} is being removed", id.short()),
            )
        })
    }

    fn disconnect(&mut self, container: &str, network: &str, dry_run: bool, reply: Reply) {
        let found = self.world.find_container(container).and_then(|id| {
            let network = self.world.find_network(network)?;
            let old = self.attached(&id)?;
            if old.endpoints.iter().any(|e| e.network == network) {
                self.world.check_disconnect(&id, &network)?;
                return Ok((old, network));
            }
            let name = self
                .world
                .network(&network)
                .map_or_else(|| network.to_string(), |net| net.name.to_string());
            Err(Error::new(
                Code::EndpointNotFound,
                format!("container {} is not on network {name}", old.name),
            ))
        });
        match found {
            Ok((old, network)) => self.leave(&old, network, dry_run, reply),
            Err(error) => answer(reply, Err(error)),
        }
    }

    fn leave(&mut self, old: &Container, network: NetworkId, dry_run: bool, reply: Reply) {
        let mut new = old.clone();
        new.endpoints.retain(|endpoint| endpoint.network != network);
        self.become_less(old, new, network, dry_run, reply);
    }

    /// Takes from the kernel what a container's new record, without its endpoint on `network`, does not have any more.
    pub(crate) fn become_less(
        &mut self,
        old: &Container,
        new: Container,
        network: NetworkId,
        dry_run: bool,
        reply: Reply,
    ) {
        let id = old.id.clone();
        let last = self.leaves_last(old, std::slice::from_ref(&network));
        let mut held = self.world.objects(&last, []);
        held.extend(self.world.container_objects(old));
        let ops = self.ops(held, &self.world.container_objects(&new));
        if dry_run {
            return answer(reply, Ok(Answer::DryRun(DryRun::new(ops))));
        }
        let mut takes = self.predefined_subjects(&last);
        takes.extend([
            Subject::Container(id.clone()),
            Subject::ContainerName(old.name.clone()),
        ]);
        // The new record first: a daemon that starts in between finishes the removal.
        let before = vec![Write::Container(Box::new(new))];
        let work = Work::Unmake(Unmake {
            before,
            ops,
            ..Unmake::default()
        });
        let touches = Touches::of(Some(&id), std::slice::from_ref(&network));
        self.submit(
            work,
            takes,
            touches,
            Then::Disconnected { id, network, reply },
        );
    }
}

fn new_id(attach: &Attach) -> netd_model::Result<ContainerId> {
    attach
        .id
        .clone()
        .map_or_else(|| random().map(ContainerId::from_bytes), Ok)
}

/// Sends an answer; a client that hung up does not want it any more.
pub(crate) fn answer(reply: Reply, answer: netd_model::Result<Answer>) {
    let _ = reply.send(answer);
}
