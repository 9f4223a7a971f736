//! The owner over the fake kernel and the store in memory: every rule of the reconciler, without root.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use netd_dns::{Zone, ZoneHandle};
use netd_model::api;
use netd_model::error::{Code, Error};
use netd_model::request::{Attach, CreateNetwork};
use netd_model::{Key, Ns, Object, Op};

use super::handle::{Answer, Handle, Request};
use super::{Timing, start};
use crate::kernel::fake::FakeKernel;
use crate::kernel::faulty::{Fault, FaultyKernel};
use crate::kernel::{Kernel, Sandbox};
use crate::state::{Memory, Store};

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
        let zone = ZoneHandle::new(Zone::default());
        let kernel: Arc<dyn Kernel> = kernel.unwrap_or_else(|| Arc::new(fake.clone()));
        let (handle, owner) = start(
            kernel,
            Arc::clone(&store) as Arc<dyn Store>,
            zone.clone(),
            FOREVER,
        )
        .unwrap();
        Self {
            kernel: fake,
            store,
            zone,
            handle,
            owner: tokio::spawn(owner),
        }
    }

    /// Ends the daemon as a kill does, and starts the next one.
    async fn restart(self) -> Self {
        self.owner.abort();
        let _ = self.owner.await;
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
            .filter(|object| !matches!(object, Object::Element(e) if e.key.set == "forwarding"))
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

#[tokio::test]
async fn what_is_attached_is_there_and_what_is_detached_is_gone() {
    let lab = Lab::start().await;
    let network = lab.network("web", true).await;
    let container = lab
        .attach("a", "web", &["8080:80", "53:53/udp"])
        .await
        .unwrap();
    assert_eq!(container.endpoints[0].network_id, network.id);
    assert_eq!(container.ports.len(), 2);
    assert_eq!(
        lab.handle.snapshot().networks()[1].endpoints[0].container_name,
        "a"
    );
    lab.assert_healthy().await;
    lab.detach("a").await.unwrap();
    lab.handle
        .ask(Request::RemoveNetwork("web".to_owned()), false)
        .await
        .unwrap();
    lab.assert_empty().await;
    assert!(lab.handle.snapshot().containers().is_empty());
}

#[tokio::test]
async fn the_predefined_network_comes_with_its_first_container_and_leaves_with_its_last() {
    let lab = Lab::start().await;
    lab.assert_empty().await;
    let (a, b) = tokio::join!(
        lab.attach("a", "bridge", &[]),
        lab.attach("b", "bridge", &[])
    );
    assert_ne!(a.unwrap().endpoints[0].ipv4, b.unwrap().endpoints[0].ipv4);
    lab.assert_healthy().await;
    let (a, b) = tokio::join!(lab.detach("a"), lab.detach("b"));
    a.and(b).unwrap();
    lab.assert_empty().await;
    assert_eq!(
        code(
            lab.handle
                .ask(Request::RemoveNetwork("bridge".to_owned()), false)
                .await
        ),
        Code::NetworkPredefined
    );
}

#[tokio::test]
async fn the_same_request_again_gets_the_same_answer() {
    let lab = Lab::start().await;
    lab.network("web", false).await;
    let (first, second) = tokio::join!(
        lab.attach("a", "web", &["1:1"]),
        lab.attach("a", "web", &["1:1"])
    );
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(
        code(lab.attach("a", "web", &["2:2"]).await),
        Code::ContainerExists
    );
    let Request::Attach {
        attach, sandbox, ..
    } = lab.attach_request("a", "web", &["1:1"])
    else {
        panic!()
    };
    let only = Request::Attach {
        attach,
        sandbox,
        create_only: true,
    };
    assert_eq!(
        code(lab.handle.ask(only, false).await),
        Code::ContainerExists
    );
    lab.kernel.remove_namespace("/ns/a");
    lab.kernel.add_namespace("/ns/a", 99);
    assert_eq!(
        code(lab.attach("a", "web", &["1:1"]).await),
        Code::ContainerExists
    );
}

#[tokio::test]
async fn a_conflict_names_the_holder_and_leaves_nothing() {
    let lab = Lab::start().await;
    lab.network("web", false).await;
    lab.attach("a", "web", &["8080:80"]).await.unwrap();
    let held = lab.kernel.held();
    let error = lab.attach("b", "web", &["8080:81"]).await.unwrap_err();
    assert_eq!(error.code, Code::PortInUse);
    assert!(error.message.contains("container a"), "{error}");
    let second = lab.attach_raw(api::ContainerAttach {
        netns: "/ns/a".to_owned(),
        name: "c".to_owned(),
        ..api::ContainerAttach::default()
    });
    assert_eq!(code(lab.handle.ask(second, false).await), Code::NetnsInUse);
    assert_eq!(
        code(lab.attach("b", "nowhere", &[]).await),
        Code::NetworkNotFound
    );
    assert_eq!(
        code(lab.handle.ask(create("web", false), false).await),
        Code::NetworkExists
    );
    assert_eq!(
        code(
            lab.handle
                .ask(Request::RemoveNetwork("web".to_owned()), false)
                .await
        ),
        Code::NetworkInUse
    );
    assert_eq!(lab.kernel.held(), held);
    lab.attach("b", "web", &["8081:81"]).await.unwrap();
    lab.assert_healthy().await;
}

#[tokio::test]
async fn a_dry_run_tells_the_operations_and_does_none() {
    let lab = Lab::start().await;
    lab.network("web", true).await;
    lab.kernel.take_applied();
    let request = lab.attach_request("a", "web", &["8080:80"]);
    let Answer::DryRun(told) = lab.handle.ask(request, true).await.unwrap() else {
        panic!()
    };
    assert!(
        matches!(told.ops[0], Op::Add(Object::HostPort(_))),
        "{:#?}",
        told.text
    );
    assert!(told.ops.iter().any(|op| matches!(op, Op::AddPair { .. })));
    assert_eq!(lab.kernel.take_applied(), Vec::new());
    assert!(lab.handle.snapshot().containers().is_empty());
    // The same request for real does the same operations, with the same addresses; only the id is drawn anew.
    lab.attach("a", "web", &["8080:80"]).await.unwrap();
    let applied = lab.kernel.take_applied();
    assert_eq!(applied.len(), told.ops.len());
    let addresses = |ops: &[Op]| -> Vec<IpAddr> {
        let of = |op: &Op| match op {
            Op::Add(Object::Address(address)) => Some(address.ip),
            _ => None,
        };
        ops.iter().filter_map(of).collect()
    };
    assert_eq!(addresses(&applied), addresses(&told.ops));
    let Answer::DryRun(told) = lab
        .handle
        .ask(Request::Detach("a".to_owned()), true)
        .await
        .unwrap()
    else {
        panic!()
    };
    lab.detach("a").await.unwrap();
    assert_eq!(lab.kernel.take_applied(), told.ops);
}

#[tokio::test]
async fn attaches_pass_while_detaches_wait_for_the_kernel_and_detaches_share_the_wait() {
    let lab = Lab::start().await;
    lab.network("web", false).await;
    for n in 0..20 {
        lab.attach(&format!("c{n}"), "web", &[]).await.unwrap();
    }
    lab.kernel.take_link_requests();
    lab.kernel.hold_link_removals(true);
    let detaches: Vec<_> = (0..20)
        .map(|n| {
            let handle = lab.handle.clone();
            tokio::spawn(async move { handle.ask(Request::Detach(format!("c{n}")), false).await })
        })
        .collect();
    // All removals are under way, none can end; an attach does, and so does one more network.
    lab.network("more", false).await;
    lab.attach("late", "web", &["80:80"]).await.unwrap();
    assert!(detaches.iter().all(|detach| !detach.is_finished()));
    lab.kernel.hold_link_removals(false);
    for detach in detaches {
        detach.await.unwrap().unwrap();
    }
    let requests = lab.kernel.take_link_requests();
    assert_eq!(requests.iter().sum::<usize>(), 20);
    assert!(requests.len() < 20, "one wait each: {requests:?}");
    lab.assert_healthy().await;
}

#[tokio::test]
async fn requests_on_one_container_queue_in_order() {
    let lab = Lab::start().await;
    lab.network("web", false).await;
    lab.attach("a", "web", &[]).await.unwrap();
    lab.kernel.hold_link_removals(true);
    let ask = |request: Request| {
        let handle = lab.handle.clone();
        tokio::spawn(async move { handle.ask(request, false).await })
    };
    let detach = ask(Request::Detach("a".to_owned()));
    tokio::task::yield_now().await;
    let again = ask(lab.attach_request("a", "web", &["9:9"]));
    let third = ask(lab.attach_request("a", "web", &["9:9"]));
    tokio::task::yield_now().await;
    lab.kernel.hold_link_removals(false);
    detach.await.unwrap().unwrap();
    let Answer::Container(again) = again.await.unwrap().unwrap() else {
        panic!()
    };
    let Answer::Container(third) = third.await.unwrap().unwrap() else {
        panic!()
    };
    assert_eq!(again, third);
    lab.assert_healthy().await;
}

#[tokio::test]
async fn every_failing_operation_of_an_attach_is_rolled_back() {
    for publish in [&["8080:80", "9:9/udp"][..], &[]] {
        let mut at = 0;
        loop {
            let fake = FakeKernel::new();
            let before = Lab::over(fake.clone(), Arc::new(Memory::default()), None).await;
            before.network("web", true).await;
            let held = fake.held();
            let faulty = Arc::new(FaultyKernel::new(
                Arc::new(fake.clone()),
                at,
                Fault::Errno(nix::libc::ENOMEM),
            ));
            before.owner.abort();
            let _ = before.owner.await;
            let lab = Lab::over(fake, before.store, Some(faulty)).await;
            let result = lab.attach("a", "web", publish).await;
            if result.is_ok() {
                break;
            }
            assert_eq!(code(result), Code::KernelFailed);
            let mut left = lab.kernel.held();
            left.objects
                .retain(|key, _| !matches!(key, Key::Loopback(_)));
            assert_eq!(left, held, "operation {at}");
            lab.assert_healthy().await;
            assert_eq!(lab.store.load().unwrap().containers, Vec::new());
            lab.attach("a", "web", publish).await.unwrap();
            at += 1;
        }
        assert!(at > 8, "only {at} operations were tried");
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_written_leaves_nothing() {
    let lab = Lab::start().await;
    lab.network("web", false).await;
    let held = lab.kernel.held();
    for nth in 1..=2 {
        lab.store.fail_at(nth);
        assert_eq!(
            code(lab.attach("a", "web", &["8080:80"]).await),
            Code::StoreUnavailable
        );
        let mut left = lab.kernel.held();
        left.objects
            .retain(|key, _| !matches!(key, Key::Loopback(_)));
        assert_eq!(left, held);
    }
    lab.attach("a", "web", &["8080:80"]).await.unwrap();
    lab.assert_healthy().await;
}

#[tokio::test]
async fn a_next_daemon_touches_nothing_that_is_right() {
    let lab = Lab::start().await;
    lab.network("web", true).await;
    let container = lab.attach("a", "web", &["8080:80"]).await.unwrap();
    let network = lab.handle.snapshot().networks();
    lab.kernel.take_applied();
    let lab = lab.restart().await;
    assert_eq!(lab.kernel.take_applied(), Vec::new());
    assert_eq!(lab.handle.snapshot().containers(), vec![container]);
    assert_eq!(lab.handle.snapshot().networks(), network);
    lab.detach("a").await.unwrap();
    lab.handle
        .ask(Request::RemoveNetwork("web".to_owned()), false)
        .await
        .unwrap();
    lab.assert_empty().await;
}

#[tokio::test]
async fn drift_is_planned_and_repaired() {
    let lab = Lab::start().await;
    lab.network("web", false).await;
    lab.attach("a", "web", &["8080:80"]).await.unwrap();
    let held = lab.kernel.held();
    for object in held
        .objects
        .values()
        .filter(|o| !matches!(o, Object::Sysctl(_) | Object::Loopback(_)))
    {
        lab.kernel
            .tamper(|observed| observed.apply(&Op::Remove(object.clone())).unwrap());
        assert!(!lab.plan().await.ops.is_empty(), "unseen: {object}");
        lab.handle.ask(Request::Audit, false).await.unwrap();
        lab.assert_healthy().await;
        assert_eq!(lab.kernel.held(), held);
    }
}

#[tokio::test]
async fn objects_of_a_wiped_run_dir_are_orphans_and_stay() {
    let lab = Lab::start().await;
    lab.network("web", false).await;
    lab.attach("a", "web", &[]).await.unwrap();
    let id = lab.store.load().unwrap().containers[0].id.clone();
    lab.store.delete_container(&id).unwrap();
    let held = lab.kernel.held();
    let lab = lab.restart().await;
    assert_eq!(lab.kernel.held(), held);
    let plan = lab.plan().await;
    assert!(plan.ops.is_empty() && !plan.orphans.is_empty(), "{plan:#?}");
    assert!(
        lab.handle
            .snapshot()
            .warnings
            .iter()
            .any(|w| w.contains("netctl purge"))
    );
    let Answer::Purged(purged) = lab
        .handle
        .ask(Request::Purge { force: false }, false)
        .await
        .unwrap()
    else {
        panic!()
    };
    assert!(purged.orphans > 0);
    let left = lab.kernel.held();
    assert!(
        left.objects
            .values()
            .all(|o| matches!(o, Object::Sysctl(_) | Object::Loopback(_))),
        "{left:#?}"
    );
}

#[tokio::test]
async fn a_purge_gives_the_host_back_and_nothing_comes_again_unasked() {
    let lab = Lab::start().await;
    lab.network("web", true).await;
    lab.attach("a", "web", &["8080:80"]).await.unwrap();
    assert_eq!(
        code(lab.handle.ask(Request::Purge { force: false }, false).await),
        Code::ContainersAttached
    );
    lab.handle
        .ask(Request::Purge { force: true }, false)
        .await
        .unwrap();
    let settings: BTreeMap<String, String> = lab
        .kernel
        .held()
        .objects
        .values()
        .filter_map(|object| match object {
            Object::Sysctl(s) if s.ifname.is_none() => Some((s.path.clone(), s.value.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(settings["net/ipv4/ip_forward"], "0");
    assert_eq!(settings["net/ipv6/conf/all/forwarding"], "0");
    let held = lab.kernel.held();
    lab.assert_healthy().await;
    let lab = lab.restart().await;
    assert_eq!(lab.kernel.held(), held);
    assert!(lab.handle.snapshot().networks().is_empty());
    lab.attach("b", "bridge", &["8080:80"]).await.unwrap();
    lab.assert_healthy().await;
    assert_eq!(lab.handle.snapshot().networks().len(), 1);
}

#[tokio::test]
async fn an_attach_that_nobody_was_told_of_is_taken_back_and_a_removal_is_finished() {
    for phase in [
        netd_model::record::Phase::Attaching,
        netd_model::record::Phase::Detaching,
    ] {
        let lab = Lab::start().await;
        lab.network("web", false).await;
        lab.attach("a", "web", &["8080:80"]).await.unwrap();
        let mut record = lab.store.load().unwrap().containers.remove(0);
        record.phase = phase;
        lab.store.put_container(&record).unwrap();
        let lab = lab.restart().await;
        // The removal is a request like any other: one more on the container comes after it.
        assert_eq!(code(lab.detach("a").await), Code::ContainerNotFound);
        lab.handle
            .ask(Request::RemoveNetwork("web".to_owned()), false)
            .await
            .unwrap();
        lab.assert_empty().await;
    }
}

#[tokio::test]
async fn a_container_whose_namespace_vanished_while_nobody_looked_is_let_go() {
    let lab = Lab::start().await;
    lab.network("web", false).await;
    lab.attach("a", "web", &["8080:80"]).await.unwrap();
    lab.kernel.remove_namespace("/ns/a");
    let lab = lab.restart().await;
    assert_eq!(code(lab.detach("a").await), Code::ContainerNotFound);
    lab.handle
        .ask(Request::RemoveNetwork("web".to_owned()), false)
        .await
        .unwrap();
    lab.assert_empty().await;
}

#[tokio::test]
async fn connect_and_disconnect_change_routes_names_and_ports() {
    let lab = Lab::start().await;
    lab.network("one", false).await;
    lab.network("two", false).await;
    lab.attach("a", "one", &["8080:80"]).await.unwrap();
    let before = lab.kernel.held();
    let join = |network: &str| Request::Connect {
        container: "a".to_owned(),
        join: netd_model::request::Join::try_from(api::Join {
            network: network.to_owned(),
            aliases: vec!["alias".to_owned()],
            ..api::Join::default()
        })
        .unwrap(),
    };
    lab.handle.ask(join("two"), false).await.unwrap();
    assert_eq!(
        code(lab.handle.ask(join("two"), false).await),
        Code::EndpointExists
    );
    assert_eq!(
        code(lab.handle.ask(join("none"), false).await),
        Code::NetworkNotFound
    );
    lab.assert_healthy().await;
    let snapshot = lab.handle.snapshot().containers();
    assert_eq!(snapshot[0].endpoints.len(), 2);
    assert_eq!(snapshot[0].endpoints[1].ifname.as_str(), "eth1");
    let asker = |lab: &Lab| {
        let zone = lab.zone.read();
        let asker = zone.asker("id-of-a").unwrap().clone();
        zone.lookup(&asker, "alias").is_some()
    };
    assert!(asker(&lab));
    let leave = |network: &str| Request::Disconnect {
        container: "a".to_owned(),
        network: network.to_owned(),
    };
    // The published port moves to the network that is left.
    lab.handle.ask(leave("one"), false).await.unwrap();
    lab.assert_healthy().await;
    // Without any network it could not be served.
    assert_eq!(
        code(lab.handle.ask(leave("two"), false).await),
        Code::InvalidPublish
    );
    lab.handle.ask(join("one"), false).await.unwrap();
    lab.handle.ask(leave("two"), false).await.unwrap();
    assert_eq!(
        code(lab.handle.ask(leave("two"), false).await),
        Code::EndpointNotFound
    );
    assert_eq!(lab.kernel.held().objects.len(), before.objects.len());
    lab.assert_healthy().await;
}

#[tokio::test]
async fn names_are_answered_with_the_attach_and_no_longer_with_the_detach() {
    let lab = Lab::start().await;
    lab.network("web", false).await;
    lab.attach("a", "web", &[]).await.unwrap();
    lab.attach("b", "web", &[]).await.unwrap();
    let known = |name: &str| {
        let zone = lab.zone.read();
        zone.asker("id-of-b")
            .is_some_and(|asker| zone.lookup(asker, name).is_some())
    };
    for name in ["a", "a.web", "b", "id-of-a"] {
        assert!(known(name), "{name}");
    }
    lab.detach("a").await.unwrap();
    assert!(!known("a") && known("b"));
}

#[tokio::test]
async fn prune_removes_networks_without_containers() {
    let lab = Lab::start().await;
    for name in ["one", "two", "three"] {
        lab.network(name, false).await;
    }
    lab.attach("a", "two", &[]).await.unwrap();
    let Answer::Removed(mut names) = lab.handle.ask(Request::PruneNetworks, false).await.unwrap()
    else {
        panic!()
    };
    names.sort();
    assert_eq!(names, ["one", "three"]);
    lab.assert_healthy().await;
}

#[tokio::test]
async fn a_foreign_drop_policy_is_warned_of_with_its_remedy() {
    let fake = FakeKernel::new();
    fake.set_facts(|facts| facts.forward_drop = vec!["ip filter FORWARD".to_owned()]);
    let lab = Lab::over(fake, Arc::new(Memory::default()), None).await;
    lab.network("web", false).await;
    let container = lab.attach("a", "web", &[]).await.unwrap();
    for warnings in [&container.warnings, &lab.handle.snapshot().warnings] {
        assert!(
            warnings[0].contains("nft insert rule ip filter FORWARD"),
            "{warnings:?}"
        );
    }
}

#[tokio::test]
async fn ipv6_is_refused_where_the_host_has_none_and_ipv4_works() {
    let fake = FakeKernel::new();
    fake.set_facts(|facts| facts.ipv6 = false);
    let lab = Lab::over(fake, Arc::new(Memory::default()), None).await;
    assert_eq!(
        code(lab.handle.ask(create("web", true), false).await),
        Code::InvalidIpv6
    );
    lab.network("web", false).await;
    lab.attach("a", "web", &["8080:80"]).await.unwrap();
    lab.assert_healthy().await;
}

#[tokio::test]
async fn the_predefined_network_is_written_again_when_its_first_write_failed() {
    let lab = Lab::start().await;
    lab.handle
        .ask(Request::Purge { force: false }, false)
        .await
        .unwrap();
    lab.store.fail_at(1);
    assert_eq!(
        code(lab.attach("a", "bridge", &[]).await),
        Code::StoreUnavailable
    );
    lab.attach("a", "bridge", &[]).await.unwrap();
    let lab = lab.restart().await;
    assert_eq!(lab.handle.snapshot().containers().len(), 1);
    lab.assert_healthy().await;
}

#[tokio::test]
async fn a_refresh_sees_a_chain_that_somebody_just_added() {
    let lab = Lab::start().await;
    assert!(lab.handle.snapshot().warnings.is_empty());
    lab.kernel
        .set_facts(|facts| facts.forward_drop = vec!["ip filter FORWARD".to_owned()]);
    lab.handle.ask(Request::Refresh, false).await.unwrap();
    assert_eq!(lab.handle.snapshot().warnings.len(), 1);
}
