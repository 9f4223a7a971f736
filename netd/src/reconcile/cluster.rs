//! The owner and the cluster: takes in what other hosts say, says what this host has, and has requests wait for addresses that
//! have to be claimed first.
//!
//! A change elsewhere becomes operations on the objects it is about and no others. One job of these is under way at a time;
//! what comes meanwhile is gathered, so that the kernel is told the latest and never the older one last.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netd_model::id::{ContainerId, Name, NetworkId};
use netd_model::request::CreateNetwork;
use netd_model::{Ns, Object, Op, Owner as ObjectOwner};
use tokio::sync::{mpsc, watch};

use crate::cluster::core::{Input, Link, Token, Wish};
use crate::cluster::keys::Key;
use crate::cluster::mirror::News;
use crate::cluster::probing::Sites;
use crate::cluster::{Ends, Told};
use crate::kernel::Noticed;
use crate::reconcile::handle::Message;
use crate::reconcile::job::{Outcome, Work};
use crate::reconcile::journal::Entry;
use crate::reconcile::naming;
use crate::reconcile::outcomes::failure;
use crate::reconcile::owner::{Owner, Reply, Then, Touches};
use crate::reconcile::queue::Subject;
use crate::reconcile::world::overlay::{Shared, StationKey, is_overlay};

mod news;
mod requests;

/// How often it is asked by which routes the other hosts are reached; and when their addresses changed.
const ROUTES: Duration = Duration::from_mins(1);

/// What this host shares, and waits for.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    inputs: Option<mpsc::UnboundedSender<Input>>,
    /// Who is to be probed.
    sites: Option<watch::Sender<Sites>>,
    /// Where it is told what the routes to other hosts take, and when to ask again.
    pub(crate) routes: Option<mpsc::Sender<BTreeMap<IpAddr, u32>>>,
    routes_at: Duration,
    /// Whether the address of this host was configured.
    fixed: bool,
    /// What the core was told to keep in the store of this host's.
    own: BTreeMap<Key, Vec<u8>>,
    waiting: BTreeMap<Token, Waiting>,
    next: Token,
    /// Networks that more is being claimed for, before it is needed.
    ahead: BTreeSet<NetworkId>,
    /// What the kernel holds, or will when the jobs under way are done, of stations that changed since.
    stale: BTreeMap<StationKey, Vec<Object>>,
    /// The same of networks whose own part changed.
    stale_networks: BTreeMap<NetworkId, Vec<Object>>,
    /// The same of the host's share.
    stale_host: Option<Vec<Object>>,
    busy: bool,
    /// Networks whose names elsewhere are in the zone.
    named: BTreeSet<NetworkId>,
    faults: BTreeMap<String, String>,
}

/// Who waits for an answer of the store.
#[derive(Debug)]
enum Waiting {
    /// A request that needs addresses, with how often it has waited for some.
    Message(Box<Message>, Vec<Subject>, usize),
    /// A new network.
    Network(Box<CreateNetwork>, NetworkId, usize, Reply),
    /// The end of a network.
    Removal(Option<Reply>),
    /// Addresses ahead of time.
    Ahead(NetworkId),
    /// The end of a host.
    Node(String, Reply),
}

impl Owner {
    /// Joins the cluster: takes in what an earlier life knew of it.
    pub(crate) fn join_cluster(&mut self, ends: Ends) -> mpsc::UnboundedReceiver<Told> {
        let Ends {
            name,
            node,
            fixed,
            restored,
            inputs,
            sites,
            told,
        } = ends;
        let mut shared = Shared::new(name, node);
        if shared.node.address.is_unspecified() {
            // Until the store is reached it is where it was.
            let earlier = restored.iter().find_map(|news| match news {
                News::Node(of, Some(node)) if *of == shared.name => Some((node.address, node.mtu)),
                _ => None,
            });
            if let Some((address, mtu)) = earlier {
                shared.node.address = address;
                shared.node.mtu = mtu;
            }
        }
        if let Some(mtu) = self.world.facts.mtus.get(&shared.node.address) {
            shared.node.mtu = *mtu;
        }
        let node = shared.node.clone();
        self.world.shared = Some(shared);
        self.cluster.inputs = Some(inputs);
        self.cluster.sites = Some(sites);
        self.cluster.fixed = fixed;
        self.world.take_in(restored);
        let ids: Vec<NetworkId> = self.world.overlays().map(|net| net.id.clone()).collect();
        ids.iter().for_each(|id| self.show_network(id));
        self.say(Input::Self_(node));
        told
    }

    /// Says who is to be probed.
    fn probe(&self) {
        if let Some(sites) = &self.cluster.sites {
            let wanted = self.world.probe_sites();
            sites.send_if_modified(|held| {
                let differs = **held != wanted;
                if differs {
                    *held = Arc::new(wanted);
                }
                differs
            });
        }
    }

    fn say(&self, input: Input) {
        if let Some(inputs) = &self.cluster.inputs {
            // Its end is the end of the daemon.
            let _ = inputs.send(input);
        }
    }

    fn wish(&mut self, wish: Wish, waiting: Waiting) {
        let token = self.cluster.next;
        self.cluster.next += 1;
        self.cluster.waiting.insert(token, waiting);
        self.say(Input::Ask(token, wish));
    }

    /// Takes what the cluster tells.
    pub(crate) fn hear(&mut self, told: Told) {
        match told {
            Told::News(news) => self.take_news(news),
            Told::Reply(token, answer) => self.replied(token, answer),
            Told::Alarm(text) => {
                tracing::warn!("{text}");
                self.journal.add(Entry::new("cluster", String::new(), text));
            }
            Told::Faults(faults) => {
                for (key, why) in &faults {
                    if !self.cluster.faults.contains_key(key) {
                        let text = format!("it is not used: {why}");
                        tracing::warn!(key, why, "a record of the cluster is not used");
                        self.journal
                            .add(Entry::new("bad_record", key.clone(), text));
                    }
                }
                self.cluster.faults = faults;
            }
            Told::Local(address) => self.found_at(address),
            Told::Probed(paths) => self.world.take_paths(paths),
        }
        let now = self.now();
        self.world.age(now);
        self.publish();
    }

    /// What is wrong with the cluster, each with its remedy.
    pub(crate) fn cluster_warnings(&self) -> Vec<String> {
        let mut warnings = self.world.cluster_warnings();
        warnings.extend(self.cluster.faults.iter().map(|(key, why)| {
            format!(
                "record {key} of the shared store is not used: {why}; what was known before stays"
            )
        }));
        warnings
    }

    /// Networks whose own part news may change.
    fn changing(&self, news: &[News]) -> BTreeSet<NetworkId> {
        let id = |news: &News| match news {
            News::Claim(id, prefix, claim) => {
                let own = self.world.is_own_claim(id, *prefix, claim.as_ref());
                own.then(|| id.clone())
            }
            _ => None,
        };
        news.iter()
            .filter_map(id)
            .filter(|id| self.world.is_present(id))
            .collect()
    }

    fn note_stale(&mut self, keys: &BTreeSet<StationKey>) {
        for key in keys {
            if !self.cluster.stale.contains_key(key) {
                let held = self.world.station_objects(key);
                self.cluster.stale.insert(key.clone(), held);
            }
        }
    }

    fn note_stale_networks(&mut self, ids: &BTreeSet<NetworkId>) {
        for id in ids {
            if !self.cluster.stale_networks.contains_key(id) {
                let mut held = self.world.objects([id], []);
                // Of stations whose change is not carried out yet the kernel holds what it did before.
                let of_network = |((of, ..), _): &(&StationKey, &Vec<Object>)| of == id;
                let stale = || self.cluster.stale.iter().filter(of_network);
                let now = stale().flat_map(|(key, _)| self.world.station_objects(key));
                let now: BTreeSet<netd_model::Key> = now.map(|object| object.key()).collect();
                held.retain(|object| !now.contains(&object.key()));
                held.extend(stale().flat_map(|(_, was)| was.iter().cloned()));
                self.cluster.stale_networks.insert(id.clone(), held);
            }
        }
    }

    fn note_stale_host(&mut self) {
        self.cluster
            .stale_host
            .get_or_insert_with(|| self.world.host_objects());
    }

    /// The address that this host is reached at, as the way to the store shows.
    fn found_at(&mut self, found: IpAddr) {
        let address = match &self.world.shared {
            Some(shared) if self.cluster.fixed => shared.node.address,
            _ => found,
        };
        self.be_at(address, self.world.mtu_of(address));
    }

    /// Facts were read anew: the MTU of the own interface may be another.
    pub(crate) fn see_own_mtu(&mut self) {
        let Some(address) = self.world.shared.as_ref().map(|shared| shared.node.address) else {
            return;
        };
        self.be_at(address, self.world.mtu_of(address));
    }

    /// Asks, on a thread that may block, by which routes the other hosts are reached.
    fn start_routes(&mut self) {
        let Some(routes) = self.cluster.routes.clone() else {
            return;
        };
        let now = self.now();
        if now < self.cluster.routes_at || routes.capacity() == 0 {
            return;
        }
        self.cluster.routes_at = now + ROUTES;
        let others = self.world.addresses_of_others();
        let kernel = Arc::clone(&self.tools.kernel);
        tokio::task::spawn_blocking(move || match kernel.path_mtus(&others) {
            // A full channel: the last answer is not dealt with yet.
            Ok(mtus) => drop(routes.try_send(mtus)),
            Err(error) => tracing::warn!(%error, "the MTU to other hosts is not known"),
        });
    }

    /// What the routes to other hosts take.
    pub(crate) fn after_routes(&mut self, mtus: &BTreeMap<IpAddr, u32>) {
        self.world.take_routes(mtus);
        self.see_own_mtu();
        self.publish();
    }

    fn be_at(&mut self, address: IpAddr, mtu: Option<u32>) {
        let Some(shared) = &self.world.shared else {
            return;
        };
        let mtu = mtu.unwrap_or(shared.node.mtu);
        if (shared.node.address, shared.node.mtu) == (address, mtu) {
            return;
        }
        let ids: BTreeSet<NetworkId> = self.world.overlays().map(|net| net.id.clone()).collect();
        self.note_stale_networks(&ids);
        self.note_stale_host();
        self.world.move_to(address, mtu);
        tracing::info!(%address, mtu, "other hosts reach this one at");
        if let Some(shared) = &self.world.shared {
            self.say(Input::Self_(shared.node.clone()));
        }
        ids.iter().for_each(|id| self.tell_part(id, None));
        self.probe();
        self.follow();
    }

    /// Carries out what changed elsewhere, unless that is being done already.
    pub(crate) fn follow(&mut self) {
        if self.cluster.busy || !self.ready || self.purging {
            return;
        }
        let free = |id: &NetworkId| {
            let name = self
                .world
                .network(id)
                .map(|net| Subject::Network(net.name.clone()));
            name.is_none_or(|subject| !self.busy.contains(&subject))
        };
        let (networks, later): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.cluster.stale_networks)
                .into_iter()
                .partition(|(id, _)| free(id));
        let (stations, wait): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.cluster.stale)
                .into_iter()
                .partition(|((id, ..), _)| free(id) && !later.contains_key(id));
        self.cluster.stale_networks = later;
        self.cluster.stale = wait;
        let mut touched: BTreeSet<NetworkId> = networks.keys().cloned().collect();
        let mut before: Vec<Object> = networks.values().flatten().cloned().collect();
        let mut after = self.world.objects(networks.keys(), []);
        // Those of networks that are done as a whole are among their objects.
        for (key, held) in stations
            .into_iter()
            .filter(|((id, ..), _)| !networks.contains_key(id))
        {
            after.extend(self.world.station_objects(&key));
            before.extend(held);
            touched.insert(key.0);
        }
        // A job that brings the host's share along is planned from what was before: what changed since comes after it.
        let is_brought = self.pending.values().any(|pending| pending.touches.host);
        if let Some(held) = self.cluster.stale_host.take_if(|_| !is_brought) {
            self.host_held.set(self.world.host_share());
            before.extend(held);
            after.extend(self.host_held.objects().iter().cloned());
        }
        let ops = self.ops(before, &after);
        if ops.is_empty() {
            return;
        }
        self.cluster.busy = true;
        let ids: Vec<NetworkId> = touched.into_iter().collect();
        let mut touches = Touches::of(None, &ids);
        let is_of_host =
            |op: &Op| matches!(op, Op::Add(o) | Op::Remove(o) if *o.owner() == ObjectOwner::Host);
        touches.host = ops.iter().any(is_of_host);
        let work = Work::Repair {
            before: Vec::new(),
            ops,
        };
        self.submit(work, Vec::new(), touches, Then::Followed);
    }

    pub(crate) fn followed(&mut self, outcome: Outcome) {
        self.cluster.busy = false;
        let failed = match outcome {
            Outcome::Repaired(failures) => {
                for (op, why) in &failures {
                    tracing::warn!(%op, why, "a change of the cluster could not be carried out: the host is looked at");
                }
                !failures.is_empty()
            }
            other => {
                tracing::warn!(error = %failure(other), "a change of the cluster could not be carried out");
                true
            }
        };
        if failed {
            let place = Noticed::Place {
                ns: Ns::Host,
                what: "an overlay network".to_owned(),
                by: None,
            };
            self.drift.notice(place, Instant::now());
        }
        self.follow();
    }

    /// What time brings about: hosts are silent for longer, addresses have rested.
    pub(crate) fn look_at_cluster(&mut self) {
        if self.world.shared.is_none() {
            return;
        }
        let now = self.now();
        self.world.age(now);
        self.world.judge_all();
        self.return_idle();
        self.start_routes();
        self.publish();
    }

    /// Gives back what this host has claimed and does not need.
    fn return_idle(&mut self) {
        if !self.ready || self.purging {
            return;
        }
        let now = self.now();
        for (id, prefix) in self.world.idle_claims(now) {
            let name = self.world.network(&id).map(|net| net.name.clone());
            let Some(name) = name.filter(|_| !self.cluster.ahead.contains(&id)) else {
                continue;
            };
            if self.busy.contains(&Subject::Network(name.clone())) {
                continue;
            }
            tracing::info!(network = %name, %prefix, "addresses are given back to the cluster");
            self.world.let_go(&id, prefix);
            self.say(Input::Release(id, prefix));
        }
    }

    // ---- what readers see -----------------------------------------------------------------------------------------

    fn show_network(&mut self, id: &NetworkId) {
        let Some(record) = self.world.network(id) else {
            return;
        };
        let view = crate::reconcile::view::network(record);
        let spec = naming::of_network(record);
        let fresh = self.network_views.insert(id.clone(), view).is_none();
        self.zone.update(|zone| zone.set_network(id, spec));
        if fresh {
            let name = record.name.clone();
            tracing::info!(network = %name, %id, "a network of the cluster");
            self.journal.add(Entry::new(
                "network_created",
                name.to_string(),
                format!("id {id}, overlay"),
            ));
        }
    }

    fn forget_network(&mut self, id: &NetworkId) {
        self.cluster.named.remove(id);
        if let Some(record) = self.leave_network(id) {
            tracing::info!(network = %record.name, "a network of the cluster was removed");
            self.journal.add(Entry::new(
                "network_removed",
                record.name.to_string(),
                "overlay".to_owned(),
            ));
        }
    }

    /// Puts the names of a station into the zone, where this host's containers can ask for them.
    fn name(&mut self, key: &StationKey) {
        let (net, node, id) = key;
        let Some(id) = id.as_ref().filter(|_| self.cluster.named.contains(net)) else {
            return;
        };
        let holder = holder(node, id);
        let names = self.world.names_elsewhere(key);
        self.zone.update(|zone| {
            zone.remove_names(net, &holder);
            if let Some((names, ips)) = names {
                zone.add_names_elsewhere(net, names, &ips, &holder);
            }
        });
    }

    /// A network came to this host, or left it: the names of its containers elsewhere come and go with it.
    fn name_network(&mut self, id: &NetworkId) {
        let present = self.world.network(id).is_some_and(is_overlay) && self.world.is_present(id);
        if present == self.cluster.named.contains(id) {
            return;
        }
        self.probe();
        let keys = self.world.stations_on(id);
        if present {
            self.cluster.named.insert(id.clone());
            keys.iter().for_each(|key| self.name(key));
        } else {
            self.cluster.named.remove(id);
            self.zone.update(|zone| {
                for (net, node, container) in &keys {
                    if let Some(container) = container {
                        zone.remove_names(net, &holder(node, container));
                    }
                }
            });
        }
    }

    // ---- what others are told -------------------------------------------------------------------------------------

    /// Tells the cluster what a container has now; nothing, when it is leaving.
    pub(crate) fn tell_cluster(&mut self, id: &ContainerId, leaving: bool) {
        if self.world.shared.is_none() {
            return;
        }
        let own: BTreeMap<Key, Vec<u8>> = if leaving {
            BTreeMap::new()
        } else {
            self.world.own_stations(id).into_iter().collect()
        };
        let told = self
            .cluster
            .own
            .keys()
            .filter(|key| matches!(key, Key::Endpoint(_, _, of) if of == id));
        let told: BTreeSet<Key> = told.cloned().collect();
        let mut networks: BTreeSet<NetworkId> = BTreeSet::new();
        for key in told.iter().chain(own.keys()) {
            if let Key::Endpoint(_, net, _) = key {
                networks.insert(net.clone());
            }
        }
        if networks.is_empty() {
            return;
        }
        // The host's part before what stands on it.
        let gone_from = leaving.then_some(id);
        networks
            .iter()
            .for_each(|net| self.tell_part(net, gone_from));
        let gone = told
            .into_iter()
            .filter(|key| !own.contains_key(key))
            .map(|key| (key, None));
        let gone: Vec<_> = gone.collect();
        let changes = own
            .into_iter()
            .map(|(key, value)| (key, Some(value)))
            .chain(gone);
        self.tell_own(changes.collect());
        for net in &networks {
            self.name_network(net);
            if let Some(ask) = self.world.foresight(net)
                && !leaving
                && self.cluster.ahead.insert(net.clone())
            {
                self.wish(Wish::Claim(ask), Waiting::Ahead(net.clone()));
            }
        }
    }

    fn tell_part(&mut self, net: &NetworkId, leaving: Option<&ContainerId>) {
        let part = self.world.own_part(net, leaving);
        self.tell_own(part.into_iter().collect());
    }

    fn tell_own(&mut self, changes: Vec<(Key, Option<Vec<u8>>)>) {
        let mut told = Vec::new();
        for (key, value) in changes {
            if self.cluster.own.get(&key) != value.as_ref() {
                match &value {
                    Some(value) => self.cluster.own.insert(key.clone(), value.clone()),
                    None => self.cluster.own.remove(&key),
                };
                told.push((key, value));
            }
        }
        if !told.is_empty() {
            self.say(Input::Own(told));
        }
    }

    /// A job that brought the host's share along has ended: what the kernel holds of it is what was wanted before the changes
    /// that are not carried out yet.
    pub(crate) fn host_share_is_held(&mut self) {
        match self.cluster.stale_host.clone() {
            Some(objects) => self.host_held.set_objects(objects),
            None => self.host_held.set(self.world.host_share()),
        }
    }

    /// How it stands with the store, for readers.
    pub(crate) fn store_state(&self) -> String {
        match self.world.shared.as_ref().map(|shared| &shared.link) {
            None => "embedded".to_owned(),
            Some(Link::Starting) => "connecting".to_owned(),
            Some(Link::Online) => "connected".to_owned(),
            Some(Link::Offline(why)) => format!("unavailable: {why}"),
        }
    }
}

/// Who holds a name in the zone, for a container elsewhere: a container's own id may be that of another on another host.
fn holder(node: &Name, container: &ContainerId) -> String {
    format!("{node}/{container}")
}
