//! The beginning of requests on networks.

use netd_model::NetworkId;
use netd_model::api::DryRun;
use netd_model::error::{Code, Error};
use netd_model::record::Network;
use netd_model::request::CreateNetwork;

use super::answer;
use crate::reconcile::handle::Answer;
use crate::reconcile::job::{Unmake, Work, Write};
use crate::reconcile::owner::{Owner, Reply, Then, Touches, random};
use crate::reconcile::queue::Subject;
use crate::reconcile::world::overlay::is_overlay;

impl Owner {
    /// A network that this host alone decides on.
    pub(super) fn find_own(&self, reference: &str) -> netd_model::Result<NetworkId> {
        let id = self.world.find_network(reference)?;
        if self.world.network(&id).is_some_and(is_overlay) {
            return Err(Error::new(
                Code::InvalidNetwork,
                format!(
                    "network {} is shared with other hosts and stays as it was created",
                    netd_model::id::shorten(reference)
                ),
            ));
        }
        Ok(id)
    }

    pub(super) fn is_prunable(&self, network: &Network) -> bool {
        // Others may have containers on what hosts share.
        !is_overlay(network)
            && !self.busy.contains(&Subject::Network(network.name.clone()))
            && self.world.check_removal(&network.id).is_ok()
    }

    /// The facts first: an automatic subnet has to avoid the routes of now, not of the start.
    pub(crate) fn create_network(&mut self, request: CreateNetwork, dry_run: bool, reply: Reply) {
        let takes = vec![Subject::Network(request.name.clone())];
        let then = Then::CreateNetwork {
            request: Box::new(request),
            dry_run,
            reply,
        };
        self.submit(Work::Facts, takes, Touches::default(), then);
    }

    /// The second half, with fresh facts.
    pub(crate) fn make_network(&mut self, request: &CreateNetwork, dry_run: bool, reply: Reply) {
        if request.overlay.is_some() {
            return self.share_network(request.clone(), dry_run, 0, reply);
        }
        if let Err((error, reply)) = self.try_make_network(request, dry_run, reply) {
            answer(reply, Err(error));
        }
    }

    fn try_make_network(
        &mut self,
        request: &CreateNetwork,
        dry_run: bool,
        reply: Reply,
    ) -> Result<(), (Error, Reply)> {
        let planned = random()
            .map(NetworkId::from_bytes)
            .and_then(|id| self.world.plan_network(request, id, 0));
        let record = match planned {
            Ok(record) => record,
            Err(error) => return Err((error, reply)),
        };
        let id = record.id.clone();
        if dry_run {
            let entered = self.world.insert_network(record);
            let ops = self.ops(Vec::new(), &self.world.objects([&id], []));
            self.world.remove_network(&id);
            answer(reply, entered.map(|()| Answer::DryRun(DryRun::new(ops))));
            return Ok(());
        }
        let mut before = match self.ensure_predefined() {
            Ok(writes) => writes,
            Err(error) => return Err((error, reply)),
        };
        before.push(Write::Network(Box::new(record.clone())));
        let name = record.name.clone();
        if let Err(error) = self.enter_network(record) {
            self.leave_network(&id);
            return Err((error, reply));
        }
        let mut after = self.world.objects([&id], []);
        let held = self.with_host(&mut after, &mut before);
        let ops = self.ops(held, &after);
        let undo = vec![Write::DropNetwork(id.clone())];
        let work = Work::Make {
            sandbox: None,
            before,
            replaced: Vec::new(),
            ops,
            after: Vec::new(),
            undo,
        };
        let touches = Touches::of(None, std::slice::from_ref(&id));
        self.submit(
            work,
            vec![Subject::Network(name)],
            touches,
            Then::NetworkMade { id, reply },
        );
        Ok(())
    }

    /// Removes networks; without a reply, those whose removal was left half done.
    pub(crate) fn remove_networks(
        &mut self,
        ids: Vec<NetworkId>,
        prune: bool,
        dry_run: bool,
        reply: Option<Reply>,
    ) {
        let records = ids.iter().filter_map(|id| self.world.network(id));
        let before = records.flat_map(|net| self.world.network_objects(net));
        let ops = self.ops(before.collect(), &[]);
        if dry_run {
            if let Some(reply) = reply {
                answer(reply, Ok(Answer::DryRun(DryRun::new(ops))));
            }
            return;
        }
        let names = ids
            .iter()
            .filter_map(|id| self.world.network(id))
            .map(|net| Subject::Network(net.name.clone()));
        let takes = names.collect();
        let after = ids.iter().cloned().map(Write::DropNetwork).collect();
        let work = Work::Unmake(Unmake {
            ops,
            after,
            ..Unmake::default()
        });
        let touches = Touches::of(None, &ids);
        self.submit(
            work,
            takes,
            touches,
            Then::NetworksRemoved { ids, prune, reply },
        );
    }
}
