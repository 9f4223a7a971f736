//! A disk that takes nothing: what was refused has changed nothing.

use super::*;

#[tokio::test]
async fn what_cannot_be_recorded_changes_nothing() {
    let lab = Lab::start().await;
    lab.network("web", false).await;
    lab.network("more", false).await;
    lab.attach("a", "web", &["8080:80"]).await.unwrap();
    let join = |network: &str| Request::Connect {
        container: "a".to_owned(),
        join: netd_model::request::Join::try_from(api::Join {
            network: network.to_owned(),
            ..api::Join::default()
        })
        .unwrap(),
    };
    lab.handle.ask(join("bridge"), false).await.unwrap();
    let before = lab.handle.snapshot();
    lab.kernel.take_applied();
    let requests: [&dyn Fn() -> Request; 5] = [
        &|| Request::Detach("a".to_owned()),
        &|| join("more"),
        &|| Request::Disconnect {
            container: "a".to_owned(),
            network: "bridge".to_owned(),
        },
        &|| create("late", false),
        &|| lab.attach_request("b", "web", &[]),
    ];
    for request in requests {
        lab.store.fail_at(1);
        let text = format!("{:?}", request());
        let refused = lab.handle.ask(request(), false).await;
        assert_eq!(code(refused), Code::StoreUnavailable, "{text}");
        assert_eq!(lab.kernel.take_applied(), Vec::new(), "{text}");
        let after = lab.handle.snapshot();
        assert_eq!(before.container_views, after.container_views, "{text}");
        assert_eq!(before.network_views, after.network_views, "{text}");
        assert!(lab.plan().await.ops.is_empty(), "{text}");
    }
    // The name answers, the port is held, and the next try succeeds.
    lab.detach("a").await.unwrap();
    assert!(lab.handle.snapshot().container_views.is_empty());
}

#[tokio::test]
async fn an_owner_that_is_gone_is_not_alive() {
    let lab = Lab::start().await;
    assert!(lab.handle.is_alive().await);
    lab.owner.abort();
    let _ = lab.owner.await;
    assert!(!lab.handle.is_alive().await);
}
