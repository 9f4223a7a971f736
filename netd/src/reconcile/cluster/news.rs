//! What changed in the cluster: the world takes it in, and what follows from that is begun.

use std::collections::BTreeSet;
use std::time::Duration;

use netd_model::id::{ContainerId, NetworkId};
use netd_model::record::Phase;

use super::Waiting;
use crate::cluster::core::Wish;
use crate::cluster::mirror::News;
use crate::reconcile::audit::Purpose;
use crate::reconcile::journal::Entry;
use crate::reconcile::owner::Owner;

impl Owner {
    pub(super) fn take_news(&mut self, news: Vec<News>) {
        let affected = self.world.affected(&news);
        self.note_stale(&affected);
        // Of what the cluster says, hosts and networks make the host's share.
        if news
            .iter()
            .any(|news| matches!(news, News::Node(..) | News::Network(..)))
        {
            self.note_stale_host();
        }
        let networks = self.changing(&news);
        self.note_stale_networks(&networks);
        let within = self.world.containers_within(&news);
        let within = within.into_iter().map(|id| {
            let cut_off = self.world.cut_off(&id);
            (id, cut_off)
        });
        let within: Vec<_> = within.collect();
        let claimed = news.iter().filter_map(|news| match news {
            News::Claim(id, ..) => Some(id.clone()),
            _ => None,
        });
        let claimed: BTreeSet<NetworkId> = claimed.collect();
        let stood = claimed.iter().any(|id| self.world.lacks_router(id));
        let effects = self.world.take_in(news);
        effects.networks.iter().for_each(|id| self.show_network(id));
        effects.names.iter().for_each(|key| self.name(key));
        if effects.sites {
            self.probe();
            self.cluster.routes_at = Duration::ZERO;
        }
        for id in effects.gone {
            self.forget_network(&id);
        }
        self.follow();
        let stands = claimed.iter().all(|id| !self.world.lacks_router(id));
        self.follow_lost(within, stood && stands);
        claimed.iter().for_each(|id| self.claim_router(id));
    }

    /// Addresses of containers went to another host, or came back: what is made of them follows.
    /// So it is when a network that stood still goes on.
    fn follow_lost(&mut self, were: Vec<(ContainerId, BTreeSet<NetworkId>)>, goes_on: bool) {
        let mut changed = goes_on;
        for (id, was) in were {
            let is = self.world.cut_off(&id);
            if is == was {
                continue;
            }
            changed = true;
            let Some(record) = self.world.container(&id).cloned() else {
                continue;
            };
            for net in is.difference(&was) {
                let name = self.world.network(net).map(|net| net.name.to_string());
                let network = name.unwrap_or_else(|| net.to_string());
                let text = format!("its address on network {network} is another host's");
                tracing::warn!(container = %record.name, network, "a container is cut off: another host has its address");
                self.journal
                    .add(Entry::new("cut_off", record.name.to_string(), text));
            }
            if record.phase == Phase::Attached {
                self.show(&id, Some(&record));
            }
        }
        if changed && self.ready {
            self.start_audit(Purpose::Repair { reply: None });
        }
    }

    /// Without an address of its own a network stands still on this host.
    fn claim_router(&mut self, id: &NetworkId) {
        if !self.world.lacks_router(id) {
            return;
        }
        if let Some(ask) = self.world.foresight(id)
            && self.cluster.ahead.insert(id.clone())
        {
            self.wish(Wish::Claim(ask), Waiting::Ahead(id.clone()));
        }
    }
}
