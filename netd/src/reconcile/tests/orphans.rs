//! Containers that are on no record run on: nobody else gets what they use, and attached again they get it back.

use super::*;
use crate::kernel::fake::is_of_process;

/// A daemon that knows nothing of the container `a`, which has a published port on `network`.
async fn with_orphan(network: &str, v6: bool) -> (Lab, api::Container) {
    let lab = Lab::start().await;
    if network != "bridge" {
        lab.network(network, v6).await;
    }
    let a = lab.attach("a", network, &["8080:80"]).await.unwrap();
    let id = lab.store.load().unwrap().containers[0].id.clone();
    lab.store.delete_container(&id).unwrap();
    let mut held = lab.kernel.held();
    held.objects.retain(|_, object| !is_of_process(object));
    let lab = lab.restart().await;
    assert_eq!(lab.kernel.held(), held, "the start touches nothing");
    (lab, a)
}

fn ip(container: &api::Container) -> String {
    let ip = container.endpoints[0].ipv4.clone().unwrap();
    ip.split('/').next().unwrap().to_owned()
}

/// An attach with an address asked for.
fn at(lab: &Lab, name: &str, network: &str, ip: &str) -> Request {
    let path = format!("/ns/{name}");
    lab.kernel.add_namespace(&path, inode(name));
    lab.attach_raw(api::ContainerAttach {
        netns: path,
        name: name.to_owned(),
        networks: vec![api::Join {
            network: network.to_owned(),
            ip: Some(ip.to_owned()),
            ..api::Join::default()
        }],
        ..api::ContainerAttach::default()
    })
}

#[tokio::test]
async fn an_address_of_an_orphan_is_nobody_elses() {
    let (lab, a) = with_orphan("web", true).await;
    let refused = lab
        .handle
        .ask(at(&lab, "b", "web", &ip(&a)), false)
        .await
        .unwrap_err();
    assert_eq!(refused.code, Code::AddressInUse);
    assert!(refused.message.contains("on no record"), "{refused}");
    let other = lab.attach("c", "web", &[]).await.unwrap();
    assert_ne!(ip(&other), ip(&a));
    assert_ne!(other.endpoints[0].ipv6, a.endpoints[0].ipv6);
    assert_ne!(other.endpoints[0].mac, a.endpoints[0].mac);
}

#[tokio::test]
async fn a_full_round_passes_the_orphan_by() {
    let lab = Lab::start().await;
    let raw = api::NetworkCreate {
        name: "small".to_owned(),
        subnets: vec!["10.9.0.0/29".to_owned()],
        ..api::NetworkCreate::default()
    };
    let create = Request::CreateNetwork(CreateNetwork::try_from(raw).unwrap());
    lab.handle.ask(create, false).await.unwrap();
    let a = lab.attach("a", "small", &[]).await.unwrap();
    let id = lab.store.load().unwrap().containers[0].id.clone();
    lab.store.delete_container(&id).unwrap();
    let lab = lab.restart().await;
    for name in ["b", "c", "d", "e"] {
        let made = lab.attach(name, "small", &[]).await.unwrap();
        assert_ne!(ip(&made), ip(&a));
    }
    assert_eq!(
        code(lab.attach("f", "small", &[]).await),
        Code::PoolExhausted
    );
    // The orphan ends: with the next look its address is free.
    lab.kernel.remove_namespace("/ns/a");
    lab.handle.ask(Request::Audit, false).await.unwrap();
    assert!(lab.plan().await.orphans.is_empty());
    let f = lab.attach("f", "small", &[]).await.unwrap();
    assert_eq!(ip(&f), ip(&a));
    lab.assert_healthy().await;
}

#[tokio::test]
async fn a_port_of_an_orphan_is_not_free() {
    let (lab, _) = with_orphan("web", false).await;
    let refused = lab.attach("b", "web", &["8080:81"]).await.unwrap_err();
    assert_eq!(refused.code, Code::PortInUse);
    assert!(refused.message.contains("on no record"), "{refused}");
    lab.attach("b", "web", &["8080:81/udp"]).await.unwrap();
}

#[tokio::test]
async fn an_orphan_attached_again_gets_what_it_had() {
    for network in ["web", "bridge"] {
        let (lab, a) = with_orphan(network, network == "web").await;
        let again = lab.attach("a", network, &["8080:80"]).await.unwrap();
        assert_eq!(again.endpoints, a.endpoints);
        lab.assert_healthy().await;
        lab.detach("a").await.unwrap();
        if network == "web" {
            let removed = Request::RemoveNetwork("web".to_owned());
            lab.handle.ask(removed, false).await.unwrap();
        }
        lab.assert_empty().await;
    }
}

#[tokio::test]
async fn an_orphan_attached_elsewhere_frees_what_it_had() {
    let (lab, a) = with_orphan("web", false).await;
    lab.network("other", false).await;
    lab.attach("a", "other", &[]).await.unwrap();
    lab.assert_healthy().await;
    lab.attach("b", "web", &["8080:80"]).await.unwrap();
    lab.handle
        .ask(at(&lab, "c", "web", &ip(&a)), false)
        .await
        .unwrap();
    lab.assert_healthy().await;
}

#[tokio::test]
async fn the_network_of_an_orphan_stays() {
    // The predefined network goes with its last container: an orphan is one.
    let (lab, _) = with_orphan("bridge", false).await;
    assert!(lab.plan().await.ops.is_empty());
    lab.attach("b", "bridge", &[]).await.unwrap();
    lab.detach("b").await.unwrap();
    assert!(lab.plan().await.ops.is_empty());
    let bridges = |lab: &Lab| {
        let held = lab.kernel.held();
        let mut objects = held.objects.into_values();
        objects
            .any(|o| matches!(o, Object::Link(l) if l.kind == netd_model::object::LinkKind::Bridge))
    };
    assert!(bridges(&lab));
    lab.kernel.remove_namespace("/ns/a");
    lab.handle.ask(Request::Audit, false).await.unwrap();
    assert!(
        !bridges(&lab),
        "with the orphan it goes, and its published port too"
    );
    lab.assert_empty().await;
    let (lab, _) = with_orphan("web", false).await;
    let removed = Request::RemoveNetwork("web".to_owned());
    assert_eq!(
        code(lab.handle.ask(removed, false).await),
        Code::NetworkInUse
    );
}

#[tokio::test]
async fn a_bridge_on_no_record_keeps_its_subnet() {
    let lab = Lab::start().await;
    lab.attach("a", "bridge", &[]).await.unwrap();
    let subnet = lab.handle.snapshot().networks()[0].subnets[0]
        .subnet
        .clone();
    lab.owner.abort();
    lab.kernel.process_ended();
    let lab = Lab::over(lab.kernel, Arc::new(Memory::default()), None).await;
    let new = lab.handle.snapshot().networks()[0].subnets[0]
        .subnet
        .clone();
    assert_ne!(new, subnet);
    let raw = api::NetworkCreate {
        name: "web".to_owned(),
        subnets: vec![subnet],
        ..api::NetworkCreate::default()
    };
    let create = Request::CreateNetwork(CreateNetwork::try_from(raw).unwrap());
    assert_eq!(code(lab.handle.ask(create, false).await), Code::SubnetInUse);
}
