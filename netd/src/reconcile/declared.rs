//! Requests on a network that is there: is it as asked for, who may enter it, what it keeps for containers.

use netd_model::NetworkId;
use netd_model::api::DryRun;
use netd_model::error::{Code, Error};
use netd_model::net::Prefix;
use netd_model::record::Network;
use netd_model::request::{CreateNetwork, difference};

use crate::reconcile::handle::Answer;
use crate::reconcile::job::{Work, Write};
use crate::reconcile::owner::{Owner, Reply, Then, Touches};
use crate::reconcile::queue::Subject;
use crate::reconcile::requests::answer;

impl Owner {
    /// Whether a network is there as it is asked for.
    pub(crate) fn is_there(&self, request: &CreateNetwork) -> netd_model::Result<bool> {
        let Ok(id) = self.world.find_network(&request.name) else {
            return Ok(false);
        };
        let named = self.world.network(&id);
        let Some(have) = named.filter(|have| have.name == request.name) else {
            return Ok(false);
        };
        match difference(request, have) {
            None => Ok(true),
            Some(how) => Err(Error::new(
                Code::NetworkExists,
                format!(
                    "network {} is there, but differs ({how}): remove it first, or change what is asked for",
                    request.name
                ),
            )),
        }
    }

    pub(crate) fn set_access(
        &mut self,
        id: &NetworkId,
        allow_from: Option<Vec<Prefix>>,
        block_from: Option<Vec<Prefix>>,
        dry_run: bool,
        reply: Reply,
    ) {
        let Some(mut record) = self.world.network(id).cloned() else {
            let error = Error::new(Code::NetworkNotFound, "the network is gone");
            return answer(reply, Err(error));
        };
        record.access.allow_from = allow_from.unwrap_or(record.access.allow_from);
        record.access.block_from = block_from.unwrap_or(record.access.block_from);
        let relayed = self.world.relayed_on(id);
        let held = self.world.objects([id], &relayed);
        let Some(old) = self.world.set_reservations(record.clone()) else {
            return;
        };
        let after = self.world.objects([id], &relayed);
        let ops = self.ops(held, &after);
        if dry_run {
            self.world.set_reservations(old);
            return answer(reply, Ok(Answer::DryRun(DryRun::new(ops))));
        }
        let takes = vec![Subject::Network(record.name.clone())];
        let mut touches = Touches::of(None, std::slice::from_ref(id));
        touches.containers.extend(relayed);
        let work = Work::Make {
            sandbox: None,
            before: vec![Write::Network(Box::new(record))],
            replaced: Vec::new(),
            ops,
            after: Vec::new(),
            undo: vec![Write::Network(Box::new(old.clone()))],
        };
        let old = Box::new(old);
        self.submit(work, takes, touches, Then::Reserved { old, reply });
    }

    /// Writes down what a network keeps for containers. The kernel has no part in it.
    pub(crate) fn reserve(&mut self, record: Network, dry_run: bool, reply: Reply) {
        let unchanged = self.world.network(&record.id) == Some(&record);
        if unchanged || dry_run {
            let none = Answer::DryRun(DryRun::new(Vec::new()));
            return answer(reply, Ok(if dry_run { none } else { Answer::Unchanged }));
        }
        let takes = vec![Subject::Network(record.name.clone())];
        // Entered at once: an attach to another network must not be handed the address meanwhile.
        let Some(old) = self.world.set_reservations(record.clone()) else {
            let error = Error::new(Code::NetworkNotFound, "the network is gone");
            return answer(reply, Err(error));
        };
        let work = Work::Make {
            sandbox: None,
            before: vec![Write::Network(Box::new(record))],
            replaced: Vec::new(),
            ops: Vec::new(),
            after: Vec::new(),
            undo: Vec::new(),
        };
        let old = Box::new(old);
        self.submit(
            work,
            takes,
            Touches::default(),
            Then::Reserved { old, reply },
        );
    }
}
