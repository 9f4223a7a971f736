//! A kernel without a kernel: operations are applied to observed data ([`netd_model::fake`]). For tests without root.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use netd_model::fake::Refusal;
use netd_model::object::Sysctl;
use netd_model::observed::{HostFacts, Observed};
use netd_model::{ContainerId, Ns, Object, Op};

use super::{ApplyError, Executor, Kernel, KernelError, KernelErrorKind, Sandbox, SandboxError};

/// The fake. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct FakeKernel {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when a held operation may go on.
    released: Condvar,
}

#[derive(Debug, Default)]
struct State {
    observed: Observed,
    facts: HostFacts,
    /// Namespaces that exist: path and identity.
    namespaces: BTreeMap<PathBuf, (u64, u64)>,
    sandboxes: HashMap<ContainerId, Sandbox>,
    /// The namespace of each container that ever had a sandbox.
    inside: HashMap<ContainerId, (PathBuf, (u64, u64))>,
    /// While set, removals of links wait: the kernel's RCU grace period, as long as a test wants it.
    hold_link_removals: bool,
    /// Removals of links asked for so far, by request.
    link_requests: Vec<usize>,
    applied: Vec<Op>,
}

impl FakeKernel {
    /// A host with IPv6, forwarding off and nothing else.
    pub fn new() -> Self {
        let fake = Self::default();
        fake.state().facts = HostFacts {
            ipv6: true,
            bridge_tables: true,
            uplink_mtu: Some(1500),
            ..HostFacts::default()
        };
        fake
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked with the lock held has failed already.
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a namespace that can be attached.
    pub fn add_namespace(&self, path: &str, inode: u64) {
        self.state()
            .namespaces
            .insert(PathBuf::from(path), (1, inode));
    }

    /// A namespace vanishes, with everything inside and with the links that lead there, once no sandbox keeps it.
    pub fn remove_namespace(&self, path: &str) {
        let mut state = self.state();
        state.namespaces.remove(Path::new(path));
        state.reap();
    }

    /// The daemon's process has ended: its sockets and its hold on namespaces end with it, all else stays.
    pub fn process_ended(&self) {
        let mut state = self.state();
        state
            .observed
            .objects
            .retain(|_, object| !is_of_process(object));
        state.sandboxes.clear();
        state.reap();
    }

    /// The containers whose namespaces are held open.
    pub fn held_sandboxes(&self) -> Vec<ContainerId> {
        let mut ids: Vec<_> = self.state().sandboxes.keys().cloned().collect();
        ids.sort();
        ids
    }

    /// Changes the facts.
    pub fn set_facts(&self, change: impl FnOnce(&mut HostFacts)) {
        change(&mut self.state().facts);
    }

    /// Everything the kernel holds.
    pub fn held(&self) -> Observed {
        self.state().observed.clone()
    }

    /// Changes what the kernel holds behind netd's back.
    pub fn tamper(&self, change: impl FnOnce(&mut Observed)) {
        change(&mut self.state().observed);
    }

    /// The operations applied since the last call.
    pub fn take_applied(&self) -> Vec<Op> {
        std::mem::take(&mut self.state().applied)
    }

    /// Lets removals of links wait, or go on.
    pub fn hold_link_removals(&self, hold: bool) {
        self.state().hold_link_removals = hold;
        self.shared.released.notify_all();
    }

    /// How many links each request for removal named, since the last call.
    pub fn take_link_requests(&self) -> Vec<usize> {
        std::mem::take(&mut self.state().link_requests)
    }
}

impl State {
    /// Empties the namespaces that nothing leads to and nobody holds.
    fn reap(&mut self) {
        let Self {
            observed,
            namespaces,
            sandboxes,
            inside,
            ..
        } = self;
        inside.retain(|id, (path, identity)| {
            let stays = sandboxes.contains_key(id) || namespaces.get(path) == Some(identity);
            if !stays {
                empty(observed, id);
            }
            stays
        });
    }

    /// The container in whose namespace an operation works, if no sandbox leads there.
    fn closed(&self, op: &Op) -> bool {
        let ns = match op {
            Op::AddPair { container, .. } => container.ns.clone(),
            Op::Add(object) | Op::Remove(object) | Op::Change { to: object, .. } => object.ns(),
            Op::Announce { container, .. } => Ns::Container(container.clone()),
            Op::ForgetUdpFlows { .. } => Ns::Host,
        };
        matches!(ns, Ns::Container(id) if !self.sandboxes.contains_key(&id))
    }
}

/// What lives in the daemon's process, not in the kernel.
pub fn is_of_process(object: &Object) -> bool {
    matches!(object, Object::HostPort(_) | Object::DnsSocket(_))
}

/// A namespace ends: what is inside, and the links that lead there.
fn empty(observed: &mut Observed, id: &ContainerId) {
    let ends: Vec<Object> = observed
        .objects
        .values()
        .filter(|object| matches!(object, Object::Link(link) if link.owner.container() == Some(id)))
        .cloned()
        .collect();
    for end in ends {
        // A link that goes takes its peer along: it may be gone already, which is fine.
        let _ = observed.apply(&Op::Remove(end));
    }
    observed
        .objects
        .retain(|_, object| object.ns() != Ns::Container(id.clone()));
}

impl Kernel for FakeKernel {
    fn executor(&self) -> Result<Box<dyn Executor>, KernelError> {
        Ok(Box::new(FakeExecutor {
            kernel: self.clone(),
        }))
    }

    fn open_sandbox(&self, path: &Path) -> Result<Sandbox, SandboxError> {
        match self.state().namespaces.get(path) {
            Some(identity) => Ok(Sandbox {
                path: path.to_owned(),
                fd: None,
                identity: *identity,
            }),
            None => Err(SandboxError::Open {
                path: path.to_owned(),
                source: io::ErrorKind::NotFound.into(),
            }),
        }
    }

    fn add_sandbox(&self, id: &ContainerId, sandbox: Sandbox) {
        let mut state = self.state();
        let namespace = (sandbox.path.clone(), sandbox.identity);
        state.inside.insert(id.clone(), namespace);
        state.sandboxes.insert(id.clone(), sandbox);
    }

    fn remove_sandbox(&self, id: &ContainerId) {
        let mut state = self.state();
        state.sandboxes.remove(id);
        state.reap();
    }

    fn sandbox_is_there(&self, id: &ContainerId) -> bool {
        let state = self.state();
        state
            .sandboxes
            .get(id)
            .is_some_and(|s| state.namespaces.get(&s.path) == Some(&s.identity))
    }

    fn observe(&self, wanted: &[Object]) -> Result<Observed, KernelError> {
        let state = self.state();
        let closed = |object: &Object| match object.ns() {
            Ns::Container(id) => (!state.sandboxes.contains_key(&id)).then_some(id),
            Ns::Host => None,
        };
        let mut observed = state.observed.clone();
        observed.unseen = wanted.iter().filter_map(closed).collect();
        // Of a container that is on no record, the other end of its veth pair shows links and addresses.
        let shows = |object: &Object| match closed(object) {
            None => true,
            Some(id) => {
                !observed.unseen.contains(&id)
                    && matches!(object, Object::Link(_) | Object::Address(_))
            }
        };
        observed.objects.retain(|_, object| shows(object));
        Ok(observed)
    }

    fn settings(&self, wanted: Vec<Sysctl>) -> Vec<Sysctl> {
        let state = self.state();
        let now = wanted.into_iter().filter_map(|sysctl| {
            match state.observed.objects.get(&Object::Sysctl(sysctl).key())? {
                Object::Sysctl(now) => Some(now.clone()),
                _ => None,
            }
        });
        now.collect()
    }

    fn facts(&self) -> Result<HostFacts, KernelError> {
        let state = self.state();
        let mut facts = state.facts.clone();
        for object in state.observed.objects.values() {
            if let Object::Sysctl(sysctl) = object {
                match sysctl.path.as_str() {
                    "net/ipv4/ip_forward" => facts.forwarding4 = sysctl.value == "1",
                    "net/ipv6/conf/all/forwarding" => facts.forwarding6 = sysctl.value == "1",
                    path => facts.accept_ra.retain(|name| {
                        path != format!("net/ipv6/conf/{name}/accept_ra") || sysctl.value == "1"
                    }),
                }
            }
        }
        Ok(facts)
    }
}

#[derive(Debug)]
struct FakeExecutor {
    kernel: FakeKernel,
}

impl Executor for FakeExecutor {
    fn apply(&mut self, ops: &[Op]) -> Result<(), ApplyError> {
        let is_link = |op: &Op| matches!(op, Op::Remove(Object::Link(_)));
        let mut state = self.kernel.state();
        let links = ops.iter().filter(|op| is_link(op)).count();
        if links > 0 {
            state.link_requests.push(links);
        }
        for (done, op) in ops.iter().enumerate() {
            while is_link(op) && state.hold_link_removals {
                state = self
                    .kernel
                    .shared
                    .released
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if state.closed(op) {
                let error = KernelError::new(op, io::Error::from_raw_os_error(nix::libc::ENOENT));
                return Err(ApplyError {
                    done,
                    failed: Some(op.clone()),
                    error: error.of_kind(KernelErrorKind::NoSandbox),
                });
            }
            match state.observed.apply(op) {
                Ok(()) => state.applied.push(op.clone()),
                Err(refusal) => {
                    return Err(ApplyError {
                        done,
                        failed: Some(op.clone()),
                        error: refused(op, refusal),
                    });
                }
            }
        }
        Ok(())
    }
}

fn refused(op: &Op, refusal: Refusal) -> KernelError {
    let errno = match refusal {
        Refusal::Exists => nix::libc::EEXIST,
        Refusal::NoDevice => nix::libc::ENODEV,
        Refusal::NotFound => nix::libc::ENOENT,
        Refusal::InUse => nix::libc::EADDRINUSE,
    };
    let kind = match (op, refusal) {
        (Op::AddPair { .. }, Refusal::Exists) => KernelErrorKind::IfnameInUse,
        (_, Refusal::InUse) => KernelErrorKind::PortInUse,
        _ => KernelErrorKind::Other,
    };
    KernelError::new(op, io::Error::from_raw_os_error(errno)).of_kind(kind)
}
