//! Settings of the host: of their changes the kernel tells nobody.

use netd_model::api::HostChange;
use netd_model::object::Sysctl;

use super::*;

const RA: &str = "net/ipv6/conf/eth9/accept_ra";

fn setting(path: &str, value: &str) -> Object {
    Object::Sysctl(Sysctl {
        ns: Ns::Host,
        path: path.to_owned(),
        value: value.to_owned(),
        ifname: None,
        owner: netd_model::Owner::Host,
    })
}

fn host_changes(lab: &Lab) -> Vec<HostChange> {
    lab.store.load().unwrap().host.changes
}

#[tokio::test]
async fn the_setting_of_an_interface_that_is_gone_is_forgotten() {
    let lab = Lab::start().await;
    let uplink = netd_model::IfName::parse("eth9").unwrap();
    lab.kernel.set_facts(|facts| facts.accept_ra = vec![uplink]);
    lab.network("web", true).await;
    assert!(host_changes(&lab).iter().any(|change| change.sysctl == RA));
    // The interface goes, and its settings with it.
    lab.kernel.set_facts(|facts| facts.accept_ra.clear());
    lab.kernel.tamper(|held| {
        held.objects.remove(&setting(RA, "2").key()).unwrap();
    });
    lab.handle.ask(Request::Audit, false).await.unwrap();
    lab.assert_healthy().await;
    assert!(host_changes(&lab).iter().all(|change| change.sysctl != RA));
    assert!(!host_changes(&lab).is_empty(), "forwarding is still netd's");
    assert_eq!(lab.handle.snapshot().warnings, Vec::<String>::new());
}

#[tokio::test]
async fn what_interfaces_accept_changes_before_the_host_forwards() {
    let lab = Lab::start().await;
    let uplink = netd_model::IfName::parse("eth9").unwrap();
    lab.kernel.set_facts(|facts| facts.accept_ra = vec![uplink]);
    lab.network("web", true).await;
    let applied = lab.kernel.take_applied();
    let at = |path: &str| {
        let is_it = |op: &Op| matches!(op, Op::Add(Object::Sysctl(s)) if s.path == path);
        applied.iter().position(is_it).unwrap()
    };
    assert!(at(RA) < at("net/ipv6/conf/all/forwarding"));
}

#[tokio::test]
async fn a_changed_setting_is_put_back_without_a_notice() {
    let (fake, store) = (FakeKernel::new(), Arc::new(Memory::default()));
    let timing = Timing {
        settings: Duration::from_millis(5),
        ..FOREVER
    };
    let (handle, owner) = start(
        Arc::new(fake.clone()),
        Arc::clone(&store) as Arc<dyn Store>,
        ZoneHandle::new(Zone::default()),
        timing,
        &mut |_| Ok(None),
    )
    .unwrap();
    tokio::spawn(owner);
    handle.ready().await;
    handle.ask(create("web", true), false).await.unwrap();
    for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        fake.tamper(|held| {
            held.insert(setting(path, "0"));
        });
        let right = setting(path, "1");
        while fake.held().objects.get(&right.key()) != Some(&right) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
