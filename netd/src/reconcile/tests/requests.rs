//! What each request does, and what others notice of it.

use super::*;

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
        code(lab.handle.ask(join("nothing"), false).await),
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
async fn a_refresh_sees_a_chain_that_somebody_just_added() {
    let lab = Lab::start().await;
    assert!(lab.handle.snapshot().warnings.is_empty());
    lab.kernel
        .set_facts(|facts| facts.forward_drop = vec!["ip filter FORWARD".to_owned()]);
    lab.handle.ask(Request::Refresh, false).await.unwrap();
    assert_eq!(lab.handle.snapshot().warnings.len(), 1);
}
