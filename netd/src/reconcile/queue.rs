//! Whose turn it is: requests on one container or network come one after the other, all others pass.

use std::collections::HashSet;

use netd_model::ContainerId;
use netd_model::id::Name;

use crate::reconcile::handle::{Answer, Message, QUEUE, Request, too_many};
use crate::reconcile::owner::Owner;

/// What one request at a time may work on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Container(ContainerId),
    ContainerName(Name),
    Network(Name),
    /// A reference that leads nowhere yet: it may name something under way.
    Text(String),
}

impl Owner {
    /// Takes a message, or lets it wait for its turn.
    pub(crate) fn accept(&mut self, message: Message) {
        if matches!(message.request, Request::Alive) {
            let _ = message.reply.send(Ok(Answer::Done));
            return;
        }
        if self.waiting.len() >= QUEUE {
            // Who hung up does not want the answer.
            let _ = message.reply.send(Err(too_many(QUEUE)));
            return;
        }
        if !self.ready
            || self.purging
            || !self.waiting.is_empty()
            || !self.is_free(&message.request)
        {
            self.waiting.push_back(message);
            if self.ready && !self.purging {
                self.wake();
            }
            return;
        }
        self.begin(message);
    }

    /// Starts what waited and is free now, in order: a message never overtakes one on the same subject.
    pub(crate) fn wake(&mut self) {
        if !self.ready || self.waiting.is_empty() {
            return;
        }
        let mut blocked: HashSet<Subject> = HashSet::new();
        for message in std::mem::take(&mut self.waiting) {
            let needs = self.needs(&message.request);
            let exclusive = matches!(message.request, Request::Purge { .. });
            let free = !self.purging
                && self.is_free(&message.request)
                && needs.iter().all(|subject| !blocked.contains(subject))
                && (!exclusive || blocked.is_empty());
            if free {
                self.begin(message);
            } else {
                blocked.extend(needs);
                self.waiting.push_back(message);
            }
        }
    }

    fn is_free(&self, request: &Request) -> bool {
        match request {
            Request::Purge { .. } => self.pending.is_empty(),
            _ => self
                .needs(request)
                .iter()
                .all(|subject| !self.busy.contains(subject)),
        }
    }

    /// What has to be free before a request can start.
    pub(crate) fn needs(&self, request: &Request) -> Vec<Subject> {
        match request {
            Request::CreateNetwork(create)
            | Request::EnsureNetwork(create)
            | Request::CniNetwork { define: create, .. } => {
                vec![Subject::Network(create.name.clone())]
            }
            Request::RemoveNetwork(reference)
            | Request::SetAccess {
                network: reference, ..
            }
            | Request::Reserve {
                network: reference, ..
            } => vec![self.network_subject(reference)],
            Request::Attach { attach, .. } => {
                let mut needs = vec![Subject::ContainerName(attach.name.clone())];
                needs.extend(attach.id.clone().map(Subject::Container));
                needs.extend(
                    attach
                        .networks
                        .iter()
                        .map(|join| self.network_subject(&join.network)),
                );
                needs
            }
            Request::Detach(reference) => self.container_subjects(reference),
            Request::Connect { container, join } => {
                let mut needs = self.container_subjects(container);
                needs.push(self.network_subject(&join.network));
                needs
            }
            Request::Disconnect { container, network } => {
                let mut needs = self.container_subjects(container);
                needs.push(self.network_subject(network));
                needs
            }
            Request::CniAdd { request, .. } => {
                let attach = &request.attach;
                let mut needs = vec![Subject::ContainerName(attach.name.clone())];
                needs.extend(attach.id.iter().flat_map(|id| self.container_subjects(id)));
                let joined = attach.networks.iter();
                needs.extend(joined.map(|join| self.network_subject(&join.network)));
                needs
            }
            Request::CniDel(attachment) | Request::CniCheck(attachment) => {
                self.container_subjects(&attachment.container)
            }
            Request::CniStatus { network, .. } => vec![self.network_subject(network)],
            Request::PruneNetworks
            | Request::Ready
            | Request::Alive
            | Request::Refresh
            | Request::Plan
            | Request::Doctor
            | Request::RemoveNode(_)
            | Request::Trace { .. }
            | Request::Audit
            | Request::Purge { .. } => Vec::new(),
        }
    }

    fn network_subject(&self, reference: &str) -> Subject {
        let record = self
            .world
            .find_network(reference)
            .ok()
            .and_then(|id| self.world.network(&id));
        let name = record
            .map(|record| record.name.clone())
            .or_else(|| Name::parse(reference).ok());
        name.map_or_else(|| Subject::Text(reference.to_owned()), Subject::Network)
    }

    fn container_subjects(&self, reference: &str) -> Vec<Subject> {
        let record = self
            .world
            .find_container(reference)
            .ok()
            .and_then(|id| self.world.container(&id));
        match record {
            Some(record) => {
                let mut subjects = vec![
                    Subject::Container(record.id.clone()),
                    Subject::ContainerName(record.name.clone()),
                ];
                // The predefined network comes and goes with its containers.
                let predefined = record
                    .endpoints
                    .iter()
                    .filter_map(|e| self.world.network(&e.network));
                subjects.extend(
                    predefined
                        .filter(|net| net.comes_and_goes())
                        .map(|net| Subject::Network(net.name.clone())),
                );
                subjects
            }
            None => match (ContainerId::parse(reference), Name::parse(reference)) {
                (Ok(id), Ok(name)) => vec![Subject::Container(id), Subject::ContainerName(name)],
                _ => vec![Subject::Text(reference.to_owned())],
            },
        }
    }
}
