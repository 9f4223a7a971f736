//! The owner task (invariant I2): the only place that changes state. It takes a message, decides, hands the work to the
//! executors and goes on; it never awaits the kernel or the disk.
//!
//! `queue.rs` says whose turn it is, `requests.rs` starts what a request asks for, `outcomes.rs` ends it, `audit.rs`
//! observes and repairs.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use netd_dns::ZoneHandle;
use netd_model::api;
use netd_model::diff::diff;
use netd_model::doctor;
use netd_model::error::{Code, Error, Result};
use netd_model::id::Name;
use netd_model::naming::Naming;
use netd_model::net::Family;
use netd_model::observed::Observed;
use netd_model::record::{Container, Mode, Network, PREDEFINED, Phase, Policy, Unknown};
use netd_model::request::CreateNetwork;
use netd_model::{ContainerId, NetworkId, Object, Op, Owner as ObjectOwner};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{mpsc, oneshot};

use crate::cluster::Told;
use crate::reconcile::cluster::Cluster;
use crate::reconcile::drift::Drift;
use crate::reconcile::handle::{Answer, Handle, Message, QUEUE, Snapshot};
use crate::reconcile::job::{Outcome, Token, Tools, Work, Write};
use crate::reconcile::journal::Journal;
use crate::reconcile::making::Making;
use crate::reconcile::notices::Notices;
use crate::reconcile::pool::Pool;
use crate::reconcile::queue::Subject;
use crate::reconcile::world::{HostHeld, World};
use crate::reconcile::{audit, view};
use crate::state::HostState;

/// Where an answer goes.
pub(crate) type Reply = oneshot::Sender<Result<Answer>>;

/// What to do when a job has ended.
#[derive(Debug)]
pub(crate) enum Then {
    CreateNetwork {
        request: Box<CreateNetwork>,
        dry_run: bool,
        reply: Reply,
    },
    NetworkMade {
        id: NetworkId,
        reply: Reply,
    },
    Reserved {
        /// The record before.
        old: Box<Network>,
        reply: Reply,
    },
    NetworksRemoved {
        ids: Vec<NetworkId>,
        prune: bool,
        reply: Option<Reply>,
    },
    Attached {
        id: ContainerId,
        /// For another choice of host ports.
        again: Option<Box<Making>>,
        reply: Reply,
    },
    Detached {
        id: ContainerId,
        /// What it was before.
        was: Phase,
        reply: Option<Reply>,
    },
    Connected {
        id: ContainerId,
        network: NetworkId,
        reply: Reply,
    },
    Disconnected {
        id: ContainerId,
        network: NetworkId,
        reply: Reply,
    },
    Observed {
        purpose: audit::Purpose,
    },
    Repaired {
        plan: Box<api::Plan>,
        why: audit::Why,
    },
    Purged {
        purged: api::Purged,
        reply: Reply,
    },
    Refreshed {
        reply: Reply,
    },
    /// The facts were read for an examination.
    Examined {
        reply: Reply,
    },
    /// The predefined network was taken out of the kernel.
    Tidied,
    /// A container's record is as it should be.
    Saved {
        id: ContainerId,
    },
    /// What changed on other hosts was carried out.
    Followed,
}

/// A job under way.
#[derive(Debug)]
pub(crate) struct Pending {
    /// What it keeps others from.
    pub(crate) takes: Vec<Subject>,
    /// Whose objects it changes.
    pub(crate) touches: Touches,
    pub(crate) then: Then,
}

/// The owners of objects that jobs changed while an audit was looking.
#[derive(Clone, Debug, Default)]
pub(crate) struct Touches {
    pub(crate) containers: HashSet<ContainerId>,
    pub(crate) networks: HashSet<NetworkId>,
    /// The host's share: settings and elements that come with the first network.
    pub(crate) host: bool,
}

impl Touches {
    pub(crate) fn of(container: Option<&ContainerId>, networks: &[NetworkId]) -> Self {
        Self {
            host: false,
            containers: container.cloned().into_iter().collect(),
            networks: networks.iter().cloned().collect(),
        }
    }

    /// Whether objects of this owner are among them.
    pub(crate) fn holds(&self, owner: &ObjectOwner) -> bool {
        match owner {
            ObjectOwner::Host => self.host,
            ObjectOwner::Network(network) => self.networks.contains(network),
            ObjectOwner::Container(id) => self.containers.contains(id),
            ObjectOwner::Endpoint(id, network) => {
                self.containers.contains(id) || self.networks.contains(network)
            }
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.containers.extend(other.containers.iter().cloned());
        self.networks.extend(other.networks.iter().cloned());
        self.host |= other.host;
    }
}

/// Whether an operation changes the host's share, which no container or network owns.
fn is_of_host(op: &Op) -> bool {
    match op {
        Op::Add(object) | Op::Remove(object) | Op::Change { to: object, .. } => {
            *object.owner() == netd_model::Owner::Host
        }
        _ => false,
    }
}

/// Settings of the owner.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Between two full audits.
    pub audit: Duration,
    /// Between two looks whether the namespaces of containers are still there.
    pub sweep: Duration,
    /// Between two looks at the settings of the host that netd made, of whose changes the kernel tells nobody.
    pub settings: Duration,
    /// After a first audit that failed, how long until the next.
    pub retry: Duration,
    /// How an executor waits before it tries an operation again.
    pub pause: fn(Duration),
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            audit: Duration::from_mins(5),
            sweep: Duration::from_secs(5),
            settings: Duration::from_millis(500),
            retry: Duration::from_secs(1),
            pause: std::thread::sleep,
        }
    }
}

/// The owner of all state.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) world: World,
    pub(crate) tools: Tools,
    pub(crate) pool: Pool,
    pub(crate) zone: ZoneHandle,
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) network_views: BTreeMap<NetworkId, Arc<api::Network>>,
    pub(crate) container_views: BTreeMap<ContainerId, Arc<api::Container>>,
    pub(crate) pending: HashMap<Token, Pending>,
    pub(crate) next_token: Token,
    pub(crate) busy: HashSet<Subject>,
    pub(crate) waiting: VecDeque<Message>,
    /// Owners changed since the audit under way began to look.
    pub(crate) touched: Option<Touches>,
    /// A purge under way: everything else waits.
    pub(crate) purging: bool,
    /// The first audit is done.
    pub(crate) ready: bool,
    /// What somebody else changed.
    pub(crate) drift: Drift,
    /// What happened.
    pub(crate) journal: Arc<Journal>,
    /// Standing problems, such as a damaged record.
    pub(crate) problems: Vec<String>,
    /// Repairs that failed in the last audit.
    pub(crate) failures: Vec<String>,
    pub(crate) orphans: Vec<String>,
    /// Containers whose namespace was missing at the last look.
    pub(crate) missing: HashSet<ContainerId>,
    /// What the kernel holds of the host's share.
    pub(crate) host_held: HostHeld,
    /// Whether the record of the predefined network is on disk; until then every attach and create writes it.
    pub(crate) predefined_saved: bool,
    /// How many records of the host were made.
    pub(crate) host_records: u64,
    /// Containers whose record on disk has a network that a failed connect gave up.
    pub(crate) unsaved: HashSet<ContainerId>,
    /// What a newer version wrote about the host.
    pub(crate) host_unknown: Unknown,
    pub(crate) started: Instant,
    pub(crate) timing: Timing,
    /// What this host shares with others.
    pub(crate) cluster: Cluster,
}

impl Owner {
    /// The time since the start, for quarantines.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Serves until every handle is gone.
    pub(crate) async fn run(
        mut self,
        mut messages: mpsc::Receiver<Message>,
        mut outcomes: UnboundedReceiver<(Token, Outcome)>,
        mut notices: Notices,
        mut told: Option<mpsc::UnboundedReceiver<Told>>,
    ) {
        let (gone_sender, mut gone) = mpsc::channel(1);
        let mut audits = tokio::time::interval(self.timing.audit);
        let mut sweeps = tokio::time::interval(self.timing.sweep);
        let (read_sender, mut read) = mpsc::channel(1);
        let (route_sender, mut routes) = mpsc::channel(1);
        self.cluster.routes = Some(route_sender);
        let mut settings = tokio::time::interval(self.timing.settings);
        settings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        audits.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        sweeps.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // Ends make room for beginnings.
                biased;
                Some((token, outcome)) = outcomes.recv() => {
                    self.end(token, outcome);
                    self.wake();
                }
                () = until(self.drift.due()), if self.drift.due().is_some() => {
                    // The last notice of an object counts, and may wait still.
                    notices.waiting().into_iter().for_each(|noticed| self.drift.notice(noticed, Instant::now()));
                    self.look_after();
                }
                _ = audits.tick() => self.start_audit(audit::Purpose::Repair { reply: None }),
                _ = sweeps.tick() => {
                    self.start_sweep(&gone_sender);
                    self.look_at_cluster();
                }
                Some(missing) = gone.recv() => self.after_sweep(missing),
                _ = settings.tick() => self.start_settings(&read_sender),
                Some(mtus) = routes.recv() => self.after_routes(&mtus),
                Some(read) = read.recv() => self.after_settings(read),
                // The first audit failed: nothing is served before one succeeds.
                () = tokio::time::sleep(self.timing.retry), if !self.ready && self.pending.is_empty() => {
                    self.start_audit(audit::Purpose::Repair { reply: None });
                }
                Some(told) = hear(&mut told) => self.hear(told),
                message = messages.recv() => match message {
                    Some(message) => self.accept(message),
                    None => return,
                },
                // Last: whoever floods the kernel with changes must not keep requests waiting. Before a look that is near,
                // which takes all that wait, none is worth waking up for.
                Some(noticed) = notices.recv(), if !self.drift.is_due_soon(Instant::now()) => {
                    self.drift.notice(noticed, Instant::now());
                }
            }
        }
    }

    /// Hands a job to the executors.
    pub(crate) fn submit(
        &mut self,
        work: Work,
        takes: Vec<Subject>,
        mut touches: Touches,
        then: Then,
    ) {
        touches.host |= matches!(&work, Work::Make { ops, .. } if ops.iter().any(is_of_host));
        let token = self.next_token;
        self.next_token += 1;
        self.busy.extend(takes.iter().cloned());
        if let Some(touched) = &mut self.touched {
            touched.add(&touches);
        }
        self.pending.insert(
            token,
            Pending {
                takes,
                touches,
                then,
            },
        );
        self.pool.submit(token, work);
    }

    /// Everything a new record changes in the kernel: from the objects before to those after.
    pub(crate) fn ops(&self, before: Vec<Object>, after: &[Object]) -> Vec<Op> {
        let mut held = Observed::default();
        before.into_iter().for_each(|object| held.insert(object));
        let mut ops = diff(after, &held, |_| true).ops;
        for op in &mut ops {
            if let Op::ForgetUdpFlows { ip, port, except } = op
                && ip.is_unspecified()
            {
                *except = self.world.exact_publishes(Family::of(*ip), *port);
            }
        }
        ops
    }

    /// The record of the host's state as it is now, unless it is on disk already.
    pub(crate) fn save_host(&mut self) -> Option<Write> {
        let state = HostState {
            changes: self.world.host_changes.clone(),
            purged: self.world.purged,
            unknown: self.host_unknown.clone(),
        };
        (self.tools.host.saved().as_ref() != Some(&state)).then(|| self.host_write(state))
    }

    pub(crate) fn host_write(&mut self, state: HostState) -> Write {
        self.host_records += 1;
        Write::Host(self.host_records, state)
    }

    /// Makes sure that the predefined network is there, and that nothing is held back by an earlier purge. What has to
    /// be written for that comes back.
    pub(crate) fn ensure_predefined(&mut self) -> Result<Vec<Write>> {
        if self.world.find_network(PREDEFINED).is_err() {
            let record = predefined(&self.world)?;
            self.enter_network(record)?;
            self.predefined_saved = false;
        }
        self.world.purged = false;
        if self.predefined_saved {
            return Ok(Vec::new());
        }
        Ok(self.predefined_write().into_iter().collect())
    }

    pub(crate) fn predefined_write(&self) -> Option<Write> {
        let id = self.world.find_network(PREDEFINED).ok()?;
        let record = self.world.network(&id).cloned()?;
        Some(Write::Network(Box::new(record)))
    }

    /// Puts a network into the tables.
    pub(crate) fn enter_network(&mut self, record: Network) -> Result<()> {
        self.network_views
            .insert(record.id.clone(), view::network(&record));
        self.world.insert_network(record)
    }

    /// Takes a network out of the tables.
    pub(crate) fn leave_network(&mut self, id: &NetworkId) -> Option<Network> {
        self.network_views.remove(id);
        self.zone.update(|zone| zone.remove_network(id));
        self.world.remove_network(id)
    }

    /// Shows a container as it is on record now, to readers and to the DNS.
    pub(crate) fn show(
        &mut self,
        id: &ContainerId,
        old: Option<&Container>,
    ) -> Option<Arc<api::Container>> {
        let record = self.world.container(id)?;
        let view = view::container(&self.world, record);
        let record = record.clone();
        self.container_views.insert(id.clone(), Arc::clone(&view));
        self.zone.update(|zone| {
            if let Some(old) = old {
                view::leave_names(zone, old);
            }
            view::enter_names(zone, &self.world, &record);
        });
        self.tell_cluster(id, false);
        Some(view)
    }

    /// Hides a container from readers and from the DNS.
    pub(crate) fn hide(&mut self, id: &ContainerId) {
        if let Some(record) = self.world.container(id) {
            self.zone.update(|zone| view::leave_names(zone, record));
        }
        self.tell_cluster(id, true);
    }

    /// Publishes a new snapshot: before the answer, so that who was answered sees at least that.
    pub(crate) fn publish(&self) {
        self.snapshot.store(Arc::new(Snapshot {
            network_views: self.network_views.values().cloned().collect(),
            container_views: self.container_views.values().cloned().collect(),
            ready: self.ready,
            warnings: self.warnings(),
            nodes: self.world.node_views(),
            store: self.store_state(),
            host_changes: self.world.host_changes.clone(),
            orphans: self.orphans.clone(),
            features: self.features(),
        }));
    }

    fn features(&self) -> BTreeMap<String, bool> {
        [
            ("ipv6", self.world.facts.ipv6),
            (
                "bridge_netfilter",
                !self.world.facts.bridge_netfilter.is_empty(),
            ),
            ("bridge_tables", self.world.facts.bridge_tables),
            ("sctp", self.world.facts.sctp),
        ]
        .into_iter()
        .map(|(name, there)| (name.to_owned(), there))
        .collect()
    }

    /// What is wrong, each with its remedy.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = self.problems.clone();
        warnings.extend(self.failures.iter().cloned());
        warnings.extend(self.drift.alarms(Instant::now()));
        warnings.extend(self.forward_warnings());
        warnings.extend(self.cluster_warnings());
        if !self.orphans.is_empty() {
            warnings.push(format!(
                "{} objects carry netd's mark but serve nothing on record: attach their containers again, or remove \
                 them with `netctl purge`",
                self.orphans.len()
            ));
        }
        warnings
    }

    /// Foreign chains that drop what netd forwards, each with its remedy.
    pub(crate) fn forward_warnings(&self) -> Vec<String> {
        if self.world.facts.forward_drop.is_empty() {
            return Vec::new();
        }
        let networks: Vec<_> = self.world.networks().collect();
        doctor::forward_policies(&self.world.facts, &networks)
            .into_iter()
            .map(|finding| format!("{}: {}", finding.message, finding.remedy))
            .collect()
    }
}

/// The record of the network that always exists.
pub(crate) fn predefined(world: &World) -> Result<Network> {
    let name = Name::parse(PREDEFINED)?;
    let request = CreateNetwork {
        driver: netd_model::record::Driver::Bridge,
        name,
        subnets: Vec::new(),
        families: vec![Family::V4],
        modes: [Mode::Nat; 2],
        policy: Policy::default(),
        internal: false,
        mtu: None,
        dns: Vec::new(),
        labels: BTreeMap::new(),
        bridge: None,
        overlay: None,
        naming: Naming::default(),
        routes: Vec::new(),
        access: netd_model::access::Access::default(),
    };
    world.plan_network(&request, NetworkId::from_bytes(random()?), 0)
}

/// What the cluster tells; for ever nothing without one.
async fn hear(told: &mut Option<mpsc::UnboundedReceiver<Told>>) -> Option<Told> {
    match told {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

/// Waits until then; for ever without a time.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// Bytes of the kernel's random source.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        Error::new(
            Code::Internal,
            format!("the kernel gives no random bytes: {error}"),
        )
    })?;
    Ok(bytes)
}

/// The two ends of the way to an owner.
pub(crate) fn channel(
    snapshot: &Arc<ArcSwap<Snapshot>>,
    journal: &Arc<Journal>,
) -> (Handle, mpsc::Receiver<Message>) {
    let (messages, receiver) = mpsc::channel(QUEUE);
    (
        Handle {
            messages,
            snapshot: Arc::clone(snapshot),
            journal: Arc::clone(journal),
        },
        receiver,
    )
}
