//! What has to last: roll-back, restart, drift, purge.

use nix::errno::Errno;

use super::*;
use crate::kernel::fake::is_of_process;

#[tokio::test]
async fn every_failing_operation_of_an_attach_is_rolled_back() {
    for publish in [&["8080:80", "9:9/udp"][..], &[]] {
        let mut at = 0;
        loop {
            let fake = FakeKernel::new();
            let before = Lab::over(fake.clone(), Arc::new(Memory::default()), None).await;
            before.network("web", true).await;
            let held = fake.held();
            let faults = Arc::new(Faults::default());
            let faulty = FaultyKernel::new(Arc::new(fake.clone()), Arc::clone(&faults));
            before.owner.abort();
            let _ = before.owner.await;
            let lab = Lab::over(fake, before.store, Some(Arc::new(faulty))).await;
            faults.arm(at, Fault::Once(Errno::EPERM));
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
async fn a_busy_kernel_is_waited_for_but_not_for_ever() {
    let faults = Arc::new(Faults::default());
    let fake = FakeKernel::new();
    let kernel = FaultyKernel::new(Arc::new(fake.clone()), Arc::clone(&faults));
    let lab = Lab::over(fake, Arc::new(Memory::default()), Some(Arc::new(kernel))).await;
    lab.network("web", false).await;
    for (fault, tries) in [
        (Fault::Once(Errno::EBUSY), 2),
        (Fault::From(Errno::EBUSY), 4),
        (Fault::From(Errno::EPERM), 1),
    ] {
        faults.arm(2, fault);
        let result = lab.attach("a", "web", &[]).await;
        let steps = faults.steps();
        let same = steps.iter().filter(|step| step.what == steps[2].what);
        assert_eq!(same.count(), tries, "{fault:?}: {steps:#?}");
        faults.lift();
        match fault {
            Fault::Once(_) => lab.detach(&result.unwrap().name).await.unwrap(),
            _ => assert_eq!(code(result), Code::KernelFailed),
        }
        lab.handle.ask(Request::Audit, false).await.unwrap();
        assert_eq!(code(lab.detach("a").await), Code::ContainerNotFound);
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
    let applied = lab.kernel.take_applied();
    let of_process = |op: &Op| matches!(op, Op::Add(object) if is_of_process(object));
    assert!(applied.iter().all(of_process), "{applied:#?}");
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
    let mut held = lab.kernel.held();
    held.objects.retain(|_, object| !is_of_process(object));
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
            // Nobody knows any more where the container's namespace is.
            .filter(|o| o.ns() == Ns::Host)
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
