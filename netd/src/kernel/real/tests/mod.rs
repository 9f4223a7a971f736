//! Tests against the kernel this runs on, each in network namespaces of its own.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use netd_model::object::{Address, BridgePort, HostPort, Link, LinkKind, Route, Sysctl};
use netd_model::observed::Observed;
use netd_model::{ContainerId, IfName, Mac, NetworkId, Ns, Object, Op, Owner, Prefix};
use nix::sched::{CloneFlags, setns, unshare};

use super::space::Space;
use super::{Config, RealKernel, ns};
use crate::kernel::{ApplyError, DnsSink, Executor, Kernel, KernelError};

mod flows;
mod inet;
mod links;
mod ports;
mod spaces;

/// Keeps the sockets it is given.
#[derive(Debug, Default)]
struct Sink(Mutex<HashMap<ContainerId, (UdpSocket, TcpListener)>>);

impl DnsSink for Sink {
    fn listen(&self, id: &ContainerId, udp: UdpSocket, tcp: TcpListener) -> io::Result<()> {
        self.0.lock().unwrap().insert(id.clone(), (udp, tcp));
        Ok(())
    }
    fn close(&self, id: &ContainerId) {
        self.0.lock().unwrap().remove(id);
    }
    fn is_listening(&self, id: &ContainerId) -> bool {
        self.0.lock().unwrap().contains_key(id)
    }
}

/// What objects are made of.
trait Part {
    fn object(&self) -> Object;
}
macro_rules! parts {
    ($($part:ident)*) => {$(
        impl Part for $part {
            fn object(&self) -> Object {
                Object::$part(self.clone())
            }
        }
    )*};
}
parts!(Link Address Route BridgePort Sysctl HostPort);
impl Part for Object {
    fn object(&self) -> Object {
        self.clone()
    }
}

/// A host of its own: the thread's namespace.
struct Lab {
    kernel: RealKernel,
    sink: Arc<Sink>,
    executor: Box<dyn Executor>,
    /// For what netd does not do itself.
    space: Space,
    /// Descriptors that keep the containers' namespaces.
    containers: Vec<OwnedFd>,
}

/// Runs a test in a new namespace, on a thread that ends with it.
fn in_lab(test: &'static str, body: impl FnOnce(&mut Lab) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
            println!("SKIPPED: needs root: {test} ({errno})");
            return;
        }
        body(&mut Lab::new());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn config() -> Config {
    Config {
        resolv_conf: Arc::new(arc_swap::ArcSwap::from_pointee(PathBuf::from(
            "/etc/resolv.conf",
        ))),
        daemon: true,
    }
}

impl Lab {
    fn new() -> Self {
        let sink = Arc::new(Sink::default());
        let kernel = RealKernel::new(config(), Arc::clone(&sink) as Arc<dyn DnsSink>).unwrap();
        let executor = kernel.executor().unwrap();
        let space = Space::open(Ns::Host).unwrap();
        Self {
            kernel,
            sink,
            executor,
            space,
            containers: Vec::new(),
        }
    }

    /// A container with a namespace of its own.
    fn container(&mut self, number: u16) -> ContainerId {
        let id = ContainerId::parse(&format!("container-{number:04}")).unwrap();
        let fd = new_namespace();
        let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let sandbox = self.kernel.open_sandbox(&path).unwrap();
        self.kernel.add_sandbox(&id, sandbox);
        self.containers.push(fd);
        id
    }

    fn apply(&mut self, ops: &[Op]) -> Result<(), ApplyError> {
        self.executor.apply(ops)
    }

    fn add(&mut self, part: &impl Part) {
        self.try_add(part).unwrap();
    }

    fn try_add(&mut self, part: &impl Part) -> Result<(), KernelError> {
        self.apply(&[Op::Add(part.object())])
            .map_err(|failed| failed.error)
    }

    fn remove(&mut self, part: &impl Part) {
        self.apply(&[Op::Remove(part.object())]).unwrap();
    }

    fn observe(&self) -> Observed {
        self.kernel.observe(&[]).unwrap()
    }

    /// Whether the kernel holds the object as it is wanted.
    fn holds(&self, part: &impl Part) -> bool {
        let object = part.object();
        let observed = self.kernel.observe(std::slice::from_ref(&object)).unwrap();
        observed
            .objects
            .get(&object.key())
            .is_some_and(|have| object.is_held_as(have))
    }

    /// Runs `work` with the thread inside the container's namespace.
    fn inside<T>(&self, id: &ContainerId, work: impl FnOnce() -> T) -> T {
        let shared = &self.kernel.shared;
        shared
            .sandboxes
            .inside(shared.host(), id, |_| work())
            .unwrap()
    }
}

/// Makes a namespace; the thread comes back.
fn new_namespace() -> OwnedFd {
    let host = ns::own().unwrap();
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let made = ns::own().unwrap();
    setns(&host, CloneFlags::CLONE_NEWNET).unwrap();
    made
}

fn network(number: u8) -> NetworkId {
    NetworkId::from_bytes([number; 16])
}

fn name(text: &str) -> IfName {
    IfName::parse(text).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// The bridge of a network.
fn bridge(number: u8) -> Link {
    Link {
        ns: Ns::Host,
        name: name(&format!("br{number}")),
        kind: LinkKind::Bridge,
        mac: Mac::new([2, 0x6e, 0, number, 0, 1]).unwrap(),
        mtu: 1500,
        up: true,
        master: None,
        link_local: false,
        tunable: false,
        tunnel: None,
        owner: Owner::Network(network(number)),
    }
}

/// The two ends of a container's link to a network.
fn pair(id: &ContainerId, net: u8, number: u16) -> (Link, Link) {
    let [high, low] = number.to_be_bytes();
    let mac = Mac::new([2, 0x6e, 10, net, high, low]).unwrap();
    let host = Link {
        name: name(&format!("ve{net}-{number}")),
        kind: LinkKind::Veth,
        mac: mac.host_end(),
        master: Some(bridge(net).name),
        owner: Owner::Endpoint(id.clone(), network(net)),
        ..bridge(net)
    };
    let container = Link {
        ns: Ns::Container(id.clone()),
        name: name(&format!("eth{}", net - 1)),
        mac,
        master: None,
        ..host.clone()
    };
    (host, container)
}

fn add_pair((host, container): &(Link, Link)) -> Op {
    Op::AddPair {
        host: host.clone(),
        container: container.clone(),
    }
}

fn address(link: &Link, text: &str, prefix_len: u8) -> Address {
    Address {
        ns: link.ns.clone(),
        ifname: link.name.clone(),
        ip: ip(text),
        prefix_len,
        owner: link.owner.clone(),
    }
}

/// Whether a link of this name is in the thread's namespace, anyone's.
fn exists(space: &mut Space, link: &str) -> bool {
    space.link(&name(link)).unwrap().is_some()
}
