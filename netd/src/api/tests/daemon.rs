//! A daemon without a kernel: the real router on a socket in a directory of its own, and a scripted owner.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use hyper::Method;
use netd_model::error::{Code, Error, Result};
use netd_model::observed::{HostFacts, Observed};
use netd_model::{ContainerId, Object, Op, api};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::api::{ApiState, Notices, serve};
use crate::cli::client::{Client, Reply};
use crate::kernel::{Executor, Kernel, KernelError, Sandbox, SandboxError};
use crate::limits::Limits;
use crate::reconcile::handle::{Answer, Handle, Message, Request, Snapshot};

pub(crate) const NETWORK_ID: &str = "0123456789abcdef0123456789abcdef";
pub(crate) const CONTAINER_ID: &str =
    "feedc0ffee00112233445566778899aabbccddeeff00112233445566778899aa";

/// A directory that goes away with the value.
pub(crate) struct Dir(pub(crate) PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "netd-api-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running daemon.
pub(crate) struct Daemon {
    pub(crate) dir: Dir,
    pub(crate) runtime: Runtime,
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
    pub(crate) client: Client,
}

impl Daemon {
    /// With an owner that knows the objects of [`snapshot`].
    pub(crate) fn start() -> Self {
        let dir = Dir::new();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot()));
        let requests = Arc::default();
        let (messages, inbox) = mpsc::channel(16);
        runtime.spawn(own(inbox, Arc::clone(&requests)));
        let handle = Handle {
            journal: std::sync::Arc::default(),
            messages,
            snapshot: Arc::clone(&snapshot),
        };
        let socket = dir.0.join("netd.sock");
        let listener = runtime.block_on(async { UnixListener::bind(&socket).unwrap() });
        runtime.spawn(serve(
            listener,
            ApiState {
                spool: std::sync::Arc::default(),
                handle,
                kernel: no_kernel(),
                notices: Notices::default(),
                names: None,
                metrics: crate::api::metrics::Registry::default(),
            },
            Limits::of(1024),
            std::future::pending(),
        ));
        Self {
            dir,
            runtime,
            snapshot,
            requests,
            client: Client::new(socket),
        }
    }

    pub(crate) fn call(&self, method: Method, target: &str, body: &[u8]) -> Reply {
        self.runtime
            .block_on(self.client.call(method, target, body.to_vec()))
            .unwrap()
    }

    /// Status and JSON of an answer.
    pub(crate) fn json(&self, method: Method, target: &str, body: &[u8]) -> (u16, Value) {
        let reply = self.call(method, target, body);
        (reply.status, serde_json::from_slice(&reply.body).unwrap())
    }

    /// What the owner was asked since the last look.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut snapshot = Snapshot::clone(&self.snapshot.load());
        change(&mut snapshot);
        self.snapshot.store(Arc::new(snapshot));
    }
}

async fn own(mut inbox: mpsc::Receiver<Message>, requests: Arc<Mutex<Vec<String>>>) {
    while let Some(Message {
        request,
        dry_run,
        reply,
    }) = inbox.recv().await
    {
        let text = format!("{request:?}{}", if dry_run { " dry" } else { "" });
        requests.lock().unwrap().push(text);
        let _ = reply.send(answer(&request, dry_run));
    }
}

fn answer(request: &Request, dry_run: bool) -> Result<Answer> {
    let refuse = |code, message: &str| Err(Error::new(code, message));
    match request {
        Request::RemoveNetwork(name) if name == "nope" => refuse(
            Code::NetworkNotFound,
            "no network has the name or id \"nope\"",
        ),
        Request::RemoveNetwork(name) if name == "busy" => refuse(
            Code::NetworkInUse,
            "network busy has containers: detach them first",
        ),
        Request::CreateNetwork(network) if network.name.as_str() == "taken" => refuse(
            Code::NetworkExists,
            "network taken exists: choose another name",
        ),
        Request::Purge { force: false } if !dry_run => refuse(
            Code::ContainersAttached,
            "1 container is attached: use --force",
        ),
        _ if dry_run => Ok(Answer::DryRun(api::DryRun::new(vec![op()]))),
        Request::CreateNetwork(wanted) => Ok(Answer::Network(Box::new(api::Network {
            name: wanted.name.to_string(),
            ..network()
        }))),
        Request::PruneNetworks => Ok(Answer::Removed(vec!["a".to_owned(), "b".to_owned()])),
        Request::Attach { attach, .. } => Ok(Answer::Container(Box::new(api::Container {
            name: attach.name.to_string(),
            ..warned()
        }))),
        Request::Connect { .. } => Ok(Answer::Container(Box::new(warned()))),
        Request::Plan | Request::Audit => Ok(Answer::Plan(Box::default())),
        Request::Purge { .. } => Ok(Answer::Purged(api::Purged {
            containers: 1,
            networks: 2,
            orphans: 3,
        })),
        _ => Ok(Answer::Done),
    }
}

fn warned() -> api::Container {
    api::Container {
        warnings: vec!["ufw drops forwarded packets: allow them".to_owned()],
        ..container()
    }
}

/// Some operation.
pub(crate) fn op() -> Op {
    Op::ForgetUdpFlows {
        ip: "192.0.2.1".parse().unwrap(),
        port: 53,
        except: vec![],
    }
}

/// Two networks and a container.
pub(crate) fn snapshot() -> Snapshot {
    let other = "0123f0000000000000000000000000ff";
    let back = api::Network {
        id: other.to_owned(),
        name: "back".to_owned(),
        ..network()
    };
    Snapshot {
        network_views: vec![Arc::new(network()), Arc::new(back)],
        container_views: vec![Arc::new(container())],
        ready: true,
        nodes: Vec::new(),
        store: "embedded".to_owned(),
        warnings: vec!["old kernel: use 6.1 or newer".to_owned()],
        host_changes: vec![api::HostChange {
            sysctl: "net/ipv4/ip_forward".to_owned(),
            was: "0".to_owned(),
            now: "1".to_owned(),
        }],
        orphans: vec!["link nd-dead".to_owned()],
        features: [("nft".to_owned(), true), ("wireguard".to_owned(), false)].into(),
    }
}

/// A network with all there is.
pub(crate) fn network() -> api::Network {
    serde_json::from_value(json!({
        "id": NETWORK_ID, "name": "front", "driver": "bridge", "internal": false, "mode": "nat", "mtu": 1500,
        "subnets": [
            {"subnet": "10.1.0.0/24", "gateway": "10.1.0.1", "ip_range": "10.1.0.128/25"},
            {"subnet": "fd00:1::/64", "gateway": "fd00:1::1", "ip_range": null}
        ],
        "ipv6": true, "encrypted": false, "vni": null, "interface": "nd-01234567", "dns": ["9.9.9.9"],
        "labels": {"tier": "web"}, "endpoints": []
    }))
    .unwrap()
}

/// A container with all there is, but warnings.
pub(crate) fn container() -> api::Container {
    serde_json::from_value(json!({
        "id": CONTAINER_ID, "name": "web", "hostname": "web.local", "netns": "/run/netns/web",
        "endpoints": [
            {"network": "front", "network_id": NETWORK_ID, "ifname": "eth0", "host_ifname": "ndv-0123456789",
             "mac": "02:6e:0a:01:00:05", "ipv4": "10.1.0.5/24", "ipv6": "fd00:1::5/64", "gateway": "10.1.0.1",
             "gateway6": "fd00:1::1", "aliases": ["www", "shop"]},
            {"network": "db", "network_id": "ff", "ifname": "eth1", "host_ifname": "ndv-aaaaaaaaaa",
             "mac": "02:6e:0a:02:00:05", "ipv4": "10.2.0.5/24", "ipv6": null, "gateway": null, "gateway6": null,
             "aliases": []}
        ],
        "ports": [
            {"proto": "tcp", "host_ip": null, "host_port": 8000, "container_port": 80},
            {"proto": "tcp", "host_ip": null, "host_port": 8001, "container_port": 81},
            {"proto": "udp", "host_ip": "::1", "host_port": 53, "container_port": 5353}
        ],
        "dns": {"nameserver": "127.0.0.11", "search": ["front.local"], "options": ["ndots:0"]},
        "labels": {"app": "shop"}
    }))
    .unwrap()
}

/// A kernel that opens namespaces.
pub(crate) fn no_kernel() -> Arc<dyn Kernel> {
    Arc::new(NoKernel)
}

/// Opens every namespace but those with a telling name; does nothing else.
#[derive(Debug)]
struct NoKernel;

impl Kernel for NoKernel {
    fn executor(&self) -> Result<Box<dyn Executor>, KernelError> {
        unreachable!("the API applies nothing")
    }

    fn open_sandbox(&self, path: &Path) -> Result<Sandbox, SandboxError> {
        let path = path.to_owned();
        match path.file_name().and_then(|name| name.to_str()) {
            Some("gone") => Err(SandboxError::Open {
                path,
                source: std::io::ErrorKind::NotFound.into(),
            }),
            Some("file") => Err(SandboxError::NotNetns { path }),
            Some("host") => Err(SandboxError::Host { path }),
            Some("bug") => panic!("a bug in the kernel layer"),
            _ => Ok(Sandbox {
                path,
                fd: None,
                identity: (4, 2),
            }),
        }
    }

    fn add_sandbox(&self, _: &ContainerId, _: Sandbox) {}

    fn remove_sandbox(&self, _: &ContainerId) {}

    fn sandbox_is_there(&self, _: &ContainerId) -> bool {
        true
    }

    fn observe(&self, _: &[Object]) -> Result<Observed, KernelError> {
        unreachable!("the API observes nothing")
    }

    fn settings(
        &self,
        _wanted: Vec<netd_model::object::Sysctl>,
    ) -> Vec<netd_model::object::Sysctl> {
        Vec::new()
    }

    fn facts(&self) -> Result<HostFacts, KernelError> {
        unreachable!("the API needs no facts")
    }
}
