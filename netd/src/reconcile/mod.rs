//! The owner of all state: takes requests, decides, has the kernel changed, answers.

mod audit;
mod cluster;
mod cni;
mod declared;
mod drift;
pub mod handle;
mod job;
pub mod journal;
mod making;
mod naming;
mod notices;
mod outcomes;
mod owner;
mod pool;
mod queue;
mod requests;
#[cfg(test)]
mod tests;
mod view;
mod world;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use netd_dns::ZoneHandle;
use netd_model::error::{Code, Error, Result};
use netd_model::observed::HostFacts;
use netd_model::record::{Container, Phase};
use netd_model::{Object, Op, Owner as ObjectOwner, api, desired};
use tokio::sync::mpsc;

use crate::cluster::Ends;
use crate::kernel::{Kernel, Sandbox, SandboxError};
use crate::reconcile::drift::Drift;
use crate::reconcile::handle::{Handle, Snapshot};
use crate::reconcile::job::{Outcome, Tools, Work};
use crate::reconcile::journal::Journal;
pub(crate) use crate::reconcile::owner::random;
use crate::reconcile::owner::{Owner, channel, predefined};
use crate::reconcile::pool::Pool;
use crate::reconcile::world::{HostHeld, World};
use crate::state::{Loaded, Store};

pub use crate::reconcile::owner::Timing;

/// Reads the records, makes the owner and its threads. Blocks: call it before the runtime serves anything.
///
/// The future is the owner itself: it ends when every handle is gone. The first audit is its first work; requests wait
/// until it is done.
pub fn start(
    kernel: Arc<dyn Kernel>,
    store: Arc<dyn Store>,
    zone: ZoneHandle,
    timing: Timing,
    cluster: &mut dyn FnMut(&mut Loaded) -> Result<Option<Ends>>,
) -> Result<(Handle, impl Future<Output = ()> + Send + use<>)> {
    let mut loaded = store.load()?;
    let ends = cluster(&mut loaded)?;
    let seed = if let Some(seed) = loaded.ula_seed {
        seed
    } else {
        let seed = random()?;
        store.put_ula_seed(seed)?;
        seed
    };
    let tools = Tools {
        kernel,
        store,
        pause: timing.pause,
        host: Arc::default(),
    };
    let facts = tools.look(|| tools.kernel.facts())?;
    let (outcome_sender, outcomes) = mpsc::unbounded_channel();
    let pool = Pool::start(&tools, &outcome_sender)
        .map_err(|error| Error::new(Code::KernelFailed, error))?;
    let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
    let journal = Arc::new(Journal::default());
    let (handle, messages) = channel(&snapshot, &journal);
    // Before anything is read: what changes from here on is noticed.
    let (notices, sink) = notices::queue();
    tools
        .kernel
        .watch(sink)
        .map_err(|error| Error::new(Code::KernelFailed, error))?;
    let mut owner = Owner {
        world: World::new(facts, seed),
        tools,
        pool,
        zone,
        snapshot,
        network_views: BTreeMap::new(),
        container_views: BTreeMap::new(),
        pending: HashMap::new(),
        next_token: 0,
        busy: HashSet::new(),
        waiting: VecDeque::new(),
        touched: None,
        purging: false,
        ready: false,
        drift: Drift::default(),
        journal,
        problems: Vec::new(),
        failures: Vec::new(),
        orphans: Vec::new(),
        missing: HashSet::new(),
        host_held: HostHeld::default(),
        predefined_saved: true,
        host_records: 0,
        unsaved: HashSet::new(),
        host_unknown: netd_model::record::Unknown::new(),
        started: Instant::now(),
        timing,
        cluster: cluster::Cluster::default(),
    };
    // Before the containers: they are on its networks.
    let told = ends.map(|ends| owner.join_cluster(ends));
    owner.restore(loaded)?;
    owner.answer_names();
    Ok((handle, owner.run(messages, outcomes, notices, told)))
}

impl Owner {
    /// Takes over what an earlier daemon left on record.
    fn restore(&mut self, loaded: Loaded) -> Result<()> {
        self.problems = loaded.problems.iter().map(ToString::to_string).collect();
        self.tools.host.set_saved(Some(loaded.host.clone()));
        self.host_unknown = loaded.host.unknown;
        self.world.host_changes = loaded.host.changes;
        // With records left, a purge did not come to its end: it has not happened.
        self.world.purged =
            loaded.host.purged && loaded.networks.is_empty() && loaded.containers.is_empty();
        for network in loaded.networks {
            self.zone
                .update(|zone| zone.set_network(&network.id, naming::of_network(&network)));
            self.enter_network(network)?;
        }
        if !self.world.purged
            && self
                .world
                .find_network(netd_model::record::PREDEFINED)
                .is_err()
        {
            // With the records a bridge may have been forgotten: its subnet is in use.
            let left = self.tools.look(|| self.tools.kernel.observe(&[]))?;
            self.world.set_orphan_subnets(&left);
            let record = predefined(&self.world)?;
            self.tools
                .write(&[job::Write::Network(Box::new(record.clone()))])?;
            self.enter_network(record)?;
        }
        for container in loaded.containers {
            self.restore_container(container)?;
        }
        self.publish();
        Ok(())
    }

    /// Nobody answers the containers' questions since the last daemon ended, and the first audit may have to wait for
    /// others who hold the kernel's links: the DNS sockets come before it. What fails is the audit's to repair.
    fn answer_names(&self) {
        let attached = self
            .world
            .containers()
            .filter(|c| c.phase == Phase::Attached);
        let sockets = attached.map(|c| Object::DnsSocket(ObjectOwner::Container(c.id.clone())));
        let ops: Vec<Op> = sockets.map(Op::Add).collect();
        let mut failures = Vec::new();
        match self.tools.kernel.executor() {
            Ok(mut executor) => self.tools.apply_all(&mut *executor, &ops, &mut failures),
            Err(error) => tracing::warn!(%error, "DNS waits for the first audit"),
        }
        for (op, why) in failures {
            tracing::warn!(%op, why, "the first audit tries again");
        }
    }

    /// A container is believed when its namespace is still the one on record; an attach that nobody was told of is
    /// taken back, a removal is finished.
    fn restore_container(&mut self, mut container: Container) -> Result<()> {
        if let Some(sandbox) = open_recorded(&*self.tools.kernel, &container)? {
            self.tools.kernel.add_sandbox(&container.id, sandbox);
            if container.phase == Phase::Attaching {
                container.phase = Phase::Detaching;
            }
        } else {
            tracing::warn!(container = %container.name, netns = container.netns, "the namespace is gone: detaching");
            container.phase = Phase::Detaching;
        }
        let (id, name, attached) = (
            container.id.clone(),
            container.name.clone(),
            container.phase == Phase::Attached,
        );
        if let Err(error) = self.world.adopt(container) {
            self.problems.push(format!(
                "container {name} cannot be taken over: {}; detach it",
                error.message
            ));
        }
        if attached {
            self.show(&id, None);
        }
        Ok(())
    }
}

/// Why a start is given up; containers keep working meanwhile.
fn unseen(container: &Container, error: &SandboxError) -> Error {
    let (code, remedy) = if error.is_lack_of_files() {
        (
            Code::TooManyFiles,
            "raise netd's limit of open files (LimitNOFILE)",
        )
    } else {
        (
            Code::InvalidNetns,
            "let netd open it, or end the container first",
        )
    };
    Error::new(
        code,
        format!("container {}: {error}: {remedy}", container.name),
    )
}

/// The namespace of a container on record; none if it is gone, or another stands in its place. One that cannot be opened
/// for another reason, such as too many open files, is neither: nothing may be concluded from that.
fn open_recorded(kernel: &dyn Kernel, container: &Container) -> Result<Option<Sandbox>> {
    match kernel.open_sandbox(Path::new(&container.netns)) {
        Ok(sandbox) => Ok(Some(sandbox).filter(|s| s.identity == container.netns_identity)),
        Err(error) if error.says_nothing() => Err(unseen(container, &error)),
        Err(_) => Ok(None),
    }
}

/// Removes everything of ours without a daemon: kernel objects and records. The caller holds the run-dir's lock.
pub fn purge_offline(
    kernel: Arc<dyn Kernel>,
    store: Arc<dyn Store>,
    force: bool,
) -> Result<api::Purged> {
    let tools = Tools {
        kernel,
        store,
        pause: std::thread::sleep,
        host: Arc::default(),
    };
    purge_with(&tools, force)
}

fn purge_with(tools: &Tools, force: bool) -> Result<api::Purged> {
    let kernel = &tools.kernel;
    let loaded = tools.store.load()?;
    let mut live = Vec::new();
    for container in &loaded.containers {
        live.extend(open_recorded(&**kernel, container)?.map(|sandbox| (&container.id, sandbox)));
    }
    if !live.is_empty() && !force {
        return Err(audit::attached_error(live.len()));
    }
    for (id, sandbox) in live {
        kernel.add_sandbox(id, sandbox);
    }
    let failed = |error: crate::kernel::KernelError| Error::new(Code::KernelFailed, error);
    // To see what forwarding is now, whoever switched it on.
    let forwarding = desired::FAMILIES.map(desired::forwarding_change);
    let wanted = desired::host(
        &[&loaded.host.changes[..], &forwarding].concat(),
        HostFacts::default().bridge_tables,
    );
    let observed = tools.look(|| kernel.observe(&wanted))?;
    let on_record = |owner: &ObjectOwner| match owner {
        ObjectOwner::Host => true,
        ObjectOwner::Network(id) => loaded.networks.iter().any(|network| network.id == *id),
        ObjectOwner::Container(id) | ObjectOwner::Endpoint(id, _) => {
            loaded.containers.iter().any(|c| c.id == *id)
        }
    };
    let purged = api::Purged {
        containers: loaded.containers.len(),
        networks: loaded.networks.len(),
        orphans: observed
            .objects
            .values()
            .filter(|object| !on_record(object.owner()))
            .count(),
    };
    let host = crate::state::HostState {
        purged: true,
        changes: Vec::new(),
        unknown: loaded.host.unknown,
    };
    let after = vec![job::Write::Host(1, host), job::Write::Clear];
    let mut changes = loaded.host.changes;
    changes.extend(desired::forgotten_changes(&changes, &observed));
    let ops = audit::purge_ops(&observed, &changes);
    let mut executor = kernel.executor().map_err(failed)?;
    let close = loaded
        .containers
        .iter()
        .map(|container| container.id.clone())
        .collect();
    let work = Work::Unmake(job::Unmake {
        before: Vec::new(),
        ops,
        after,
        close,
    });
    match tools.run(&mut *executor, work) {
        Outcome::Done => Ok(purged),
        other => Err(outcomes::failure(other)),
    }
}
