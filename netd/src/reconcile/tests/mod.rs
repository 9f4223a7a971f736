//! The owner over the fake kernel and the store in memory: every rule of the reconciler, without root.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use netd_dns::{Zone, ZoneHandle};
use netd_model::api;
use netd_model::error::{Code, Error};
use netd_model::request::{Attach, CreateNetwork};
use netd_model::{Key, Ns, Object, Op, Owner};

use super::handle::{Answer, Handle, Request};
use super::{Timing, start};
use crate::kernel::fake::FakeKernel;
use crate::kernel::faulty::{Fault, Faults, FaultyKernel};
use crate::kernel::{Kernel, Sandbox};
use crate::state::{Memory, Store};

mod attachments;
mod crashes;
mod lasting;
mod limits;
mod orphans;
mod requests;
mod settings;
mod shared;
mod subnets;

/// A daemon's inside, with a handle to everything.
struct Lab {
    kernel: FakeKernel,
    store: Arc<Memory>,
    zone: ZoneHandle,
    handle: Handle,
    owner: tokio::task::JoinHandle<()>,
}

const FOREVER: Timing = Timing {
    audit: Duration::from_hours(24),
    sweep: Duration::from_hours(24),
    settings: Duration::from_hours(24),
    retry: Duration::from_millis(1),
    pause: |_| {},
};

impl Lab {
    async fn start() -> Self {
        Self::over(FakeKernel::new(), Arc::new(Memory::default()), None).await
    }

    /// A daemon over what an earlier one left; with `kernel`, through that one.
    async fn over(fake: FakeKernel, store: Arc<Memory>, kernel: Option<Arc<dyn Kernel>>) -> Self {
        let lab = Self::unready(fake, store, kernel);
        lab.handle.ready().await;
        lab
    }

    fn unready(fake: FakeKernel, store: Arc<Memory>, kernel: Option<Arc<dyn Kernel>>) -> Self {
        let kernel: Arc<dyn Kernel> = kernel.unwrap_or_else(|| Arc::new(fake.clone()));
        let through = Arc::clone(&store) as Arc<dyn Store>;
        Self::through(fake, store, kernel, through).unwrap()
    }

    /// A daemon that reaches kernel and store through others.
    fn through(
        fake: FakeKernel,
        memory: Arc<Memory>,
        kernel: Arc<dyn Kernel>,
        store: Arc<dyn Store>,
    ) -> Result<Self, Error> {
        let zone = ZoneHandle::new(Zone::default());
        let (handle, owner) = start(kernel, store, zone.clone(), FOREVER, &mut |_| Ok(None))?;
        Ok(Self {
            kernel: fake,
            store: memory,
            zone,
            handle,
            owner: tokio::spawn(owner),
        })
    }

    /// Ends the daemon as a kill does, and starts the next one.
    async fn restart(self) -> Self {
        self.owner.abort();
        let _ = self.owner.await;
        self.kernel.process_ended();
        Self::over(self.kernel, self.store, None).await
    }

    async fn network(&self, name: &str, ipv6: bool) -> api::Network {
        match self.handle.ask(create(name, ipv6), false).await.unwrap() {
            Answer::Network(network) => *network,
            other => panic!("{other:?}"),
        }
    }

    fn attach_request(&self, name: &str, network: &str, publish: &[&str]) -> Request {
        let path = format!("/ns/{name}");
        if self.kernel.open_sandbox(path.as_ref()).is_err() {
            self.kernel.add_namespace(&path, inode(name));
        }
        self.attach_raw(api::ContainerAttach {
            netns: path,
            name: name.to_owned(),
            id: Some(format!("id-of-{name}")),
            networks: vec![api::Join {
                network: network.to_owned(),
                ..api::Join::default()
            }],
            publish: publish.iter().map(ToString::to_string).collect(),
            ..api::ContainerAttach::default()
        })
    }

    fn attach_raw(&self, raw: api::ContainerAttach) -> Request {
        let create_only = raw.create_only;
        let attach = Attach::try_from(raw).unwrap();
        let sandbox = self.sandbox(&attach.netns);
        Request::Attach {
            attach: Box::new(attach),
            sandbox,
            create_only,
        }
    }

    fn sandbox(&self, path: &str) -> Sandbox {
        self.kernel.open_sandbox(path.as_ref()).unwrap()
    }

    async fn attach(
        &self,
        name: &str,
        network: &str,
        publish: &[&str],
    ) -> Result<api::Container, Error> {
        match self
            .handle
            .ask(self.attach_request(name, network, publish), false)
            .await?
        {
            Answer::Container(container) => Ok(*container),
            other => panic!("{other:?}"),
        }
    }

    async fn detach(&self, name: &str) -> Result<(), Error> {
        self.handle
            .ask(Request::Detach(name.to_owned()), false)
            .await
            .map(|_| ())
    }

    async fn plan(&self) -> api::Plan {
        match self.handle.ask(Request::Plan, false).await.unwrap() {
            Answer::Plan(plan) => *plan,
            other => panic!("{other:?}"),
        }
    }

    async fn assert_healthy(&self) {
        let plan = self.plan().await;
        assert!(
            plan.ops.is_empty() && plan.orphans.is_empty(),
            "{:#?}",
            plan.text
        );
    }

    /// Nothing is left but the ruleset, and what was done to the host.
    async fn assert_empty(&self) {
        self.assert_healthy().await;
        let left: Vec<String> = self
            .kernel
            .held()
            .objects
            .values()
            .filter(|object| !matches!(object, Object::Ruleset(r) if r.table.ns == Ns::Host))
            .filter(|object| !matches!(object, Object::Sysctl(_) | Object::Loopback(_)))
            .filter(|object| !matches!(object, Object::Element(e) if e.owner == Owner::Host))
            .map(ToString::to_string)
            .collect();
        assert_eq!(left, Vec::<String>::new());
        assert_eq!(self.store.load().unwrap().containers, Vec::new());
    }
}

fn create(name: &str, ipv6: bool) -> Request {
    let raw = api::NetworkCreate {
        name: name.to_owned(),
        ipv6,
        ..api::NetworkCreate::default()
    };
    Request::CreateNetwork(CreateNetwork::try_from(raw).unwrap())
}

fn inode(name: &str) -> u64 {
    name.bytes().fold(7, |sum, byte| sum * 31 + u64::from(byte))
}

fn code(result: Result<impl std::fmt::Debug, Error>) -> Code {
    result.unwrap_err().code
}
