//! Every route: its status, its answer, and what the owner is asked.

use hyper::Method;
use serde_json::{Value, json};

use super::daemon::{CONTAINER_ID, Daemon, NETWORK_ID};

fn code(answer: &Value) -> &str {
    answer["error"]["code"].as_str().unwrap_or("no error")
}

#[test]
fn lists_and_objects_come_from_the_snapshot() {
    let daemon = Daemon::start();
    let get = |target: &str| daemon.json(Method::GET, target, b"");
    let (status, networks) = get("/v1/networks");
    assert_eq!((status, networks.as_array().unwrap().len()), (200, 2));
    assert_eq!(
        (&networks[0]["name"], &networks[1]["name"]),
        (&json!("back"), &json!("front"))
    );
    let (status, containers) = get("/v1/containers");
    assert_eq!((status, &containers[0]["id"]), (200, &json!(CONTAINER_ID)));
    for reference in ["front", NETWORK_ID, "01234"] {
        let (status, network) = get(&format!("/v1/networks/{reference}"));
        assert_eq!(
            (status, &network["name"]),
            (200, &json!("front")),
            "{reference}"
        );
        assert_eq!(network["endpoints"][0]["container_name"], "web");
    }
    for reference in ["web", CONTAINER_ID, "feedc0ffee00", "f"] {
        let (status, container) = get(&format!("/v1/containers/{reference}"));
        assert_eq!(
            (status, &container["name"]),
            (200, &json!("web")),
            "{reference}"
        );
    }
    assert_eq!(daemon.asked(), [""; 0], "reading asks nobody");
}

#[test]
fn what_is_not_there_or_not_clear_is_said() {
    let daemon = Daemon::start();
    for (target, status, expected) in [
        ("/v1/networks/nope", 404, "network_not_found"),
        ("/v1/networks/0123", 400, "invalid_reference"),
        ("/v1/containers/nope", 404, "container_not_found"),
        ("/v1/containers/front", 404, "container_not_found"),
        ("/v1/networks/%66ront%2F", 404, "network_not_found"),
    ] {
        let (got, answer) = daemon.json(Method::GET, target, b"");
        assert_eq!((got, code(&answer)), (status, expected), "{target}");
    }
    let (_, answer) = daemon.json(Method::GET, "/v1/networks/0123", b"");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("front") && message.contains("back"),
        "{message}"
    );
}

#[test]
fn a_change_reaches_the_owner_and_its_answer_the_client() {
    let daemon = Daemon::start();
    let web = br#"{"netns":"web","name":"web"}"#;
    for (method, target, body, status, asked, key) in [
        (
            Method::POST,
            "/v1/networks",
            &br#"{"name":"n"}"#[..],
            201,
            "CreateNetwork(",
            "interface",
        ),
        (
            Method::DELETE,
            "/v1/networks/n",
            b"",
            200,
            "RemoveNetwork(\"n\")",
            "",
        ),
        (
            Method::POST,
            "/v1/networks/prune",
            b"",
            200,
            "PruneNetworks",
            "removed",
        ),
        (
            Method::POST,
            "/v1/containers",
            web,
            201,
            "Attach {",
            "endpoints",
        ),
        (
            Method::DELETE,
            "/v1/containers/web",
            b"",
            200,
            "Detach(\"web\")",
            "",
        ),
        (
            Method::POST,
            "/v1/containers/web/endpoints",
            br#"{"network":"db"}"#,
            200,
            "Connect {",
            "endpoints",
        ),
        (
            Method::DELETE,
            "/v1/containers/web/endpoints/db",
            b"",
            200,
            "Disconnect { container: \"web\", network: \"db\" }",
            "",
        ),
        (Method::GET, "/v1/plan", b"", 200, "Plan", "orphans"),
        (Method::POST, "/v1/audit", b"", 200, "Audit", "ops"),
        (
            Method::POST,
            "/v1/purge?force=true",
            b"",
            200,
            "Purge { force: true }",
            "orphans",
        ),
    ] {
        let (got, answer) = daemon.json(method, target, body);
        assert_eq!(got, status, "{target}: {answer}");
        if key.is_empty() {
            assert_eq!(answer, json!({}), "{target}");
        } else {
            assert!(answer.get(key).is_some(), "{target}: {answer}");
        }
        let requests = daemon.asked();
        assert!(
            requests.len() == 1 && requests[0].starts_with(asked),
            "{target}: {requests:?}"
        );
        assert!(!requests[0].ends_with(" dry"), "{target}");
    }
}

#[test]
fn a_dry_run_of_every_change_answers_operations() {
    let daemon = Daemon::start();
    let web = br#"{"netns":"web","name":"web"}"#;
    for (method, target, body) in [
        (Method::POST, "/v1/networks", &br#"{"name":"n"}"#[..]),
        (Method::DELETE, "/v1/networks/n", b""),
        (Method::POST, "/v1/networks/prune", b""),
        (Method::POST, "/v1/containers", web),
        (Method::DELETE, "/v1/containers/web", b""),
        (
            Method::POST,
            "/v1/containers/web/endpoints",
            br#"{"network":"db"}"#,
        ),
        (Method::DELETE, "/v1/containers/web/endpoints/db", b""),
        (Method::POST, "/v1/audit", b""),
        (Method::POST, "/v1/purge", b""),
    ] {
        let (status, answer) = daemon.json(method, &format!("{target}?dry_run=true"), body);
        assert_eq!(status, 200, "{target}: {answer}");
        assert_eq!(
            answer["text"],
            json!(["forget udp flows to 192.0.2.1 port 53"]),
            "{target}"
        );
        assert_eq!(answer["ops"][0]["op"], "forget_udp_flows");
        let requests = daemon.asked();
        assert!(
            requests.len() == 1 && requests[0].ends_with(" dry"),
            "{target}: {requests:?}"
        );
    }
}

#[test]
fn the_owners_refusals_keep_their_code_and_status() {
    let daemon = Daemon::start();
    for (method, target, body, status, expected) in [
        (
            Method::POST,
            "/v1/networks",
            &br#"{"name":"taken"}"#[..],
            409,
            "network_exists",
        ),
        (
            Method::DELETE,
            "/v1/networks/busy",
            b"",
            409,
            "network_in_use",
        ),
        (
            Method::DELETE,
            "/v1/networks/nope",
            b"",
            404,
            "network_not_found",
        ),
        (Method::POST, "/v1/purge", b"", 409, "containers_attached"),
    ] {
        let (got, answer) = daemon.json(method, target, body);
        assert_eq!((got, code(&answer)), (status, expected), "{target}");
    }
}

#[test]
fn create_only_and_the_opened_namespace_reach_the_owner() {
    let daemon = Daemon::start();
    let body = br#"{"netns":"pid:42","name":"web","create_only":true}"#;
    assert_eq!(
        daemon.call(Method::POST, "/v1/containers", body).status,
        201
    );
    let requests = daemon.asked();
    assert!(requests[0].contains("create_only: true"), "{requests:?}");
    assert!(
        requests[0].contains(r#"path: "/proc/42/ns/net""#),
        "{requests:?}"
    );
}

#[test]
fn status_counts_what_the_snapshot_holds() {
    let daemon = Daemon::start();
    let (status, answer) = daemon.json(Method::GET, "/v1/status", b"");
    assert_eq!(status, 200);
    assert_eq!(
        answer,
        json!({
            "ready": true, "version": env!("CARGO_PKG_VERSION"), "networks": 2, "containers": 1, "ports": 3,
            "features": {"nft": true, "wireguard": false},
            "warnings": ["old kernel: use 6.1 or newer"],
            "host_changes": [{"sysctl": "net/ipv4/ip_forward", "was": "0", "now": "1"}],
            "orphans": ["link nd-dead"], "store": "embedded", "nodes": 0,
            "drops": {}
        })
    );
}

#[test]
fn readiness_is_the_first_audits_end() {
    let daemon = Daemon::start();
    assert_eq!(
        daemon.json(Method::GET, "/healthz", b""),
        (200, json!({"healthy": true}))
    );
    assert_eq!(
        daemon.json(Method::GET, "/readyz", b""),
        (200, json!({"ready": true}))
    );
    daemon.change(|snapshot| snapshot.ready = false);
    let (status, answer) = daemon.json(Method::GET, "/readyz", b"");
    assert_eq!((status, code(&answer)), (503, "not_ready"));
    assert_eq!(daemon.call(Method::GET, "/healthz", b"").status, 200);
    let (status, answer) = daemon.json(Method::GET, "/v1/status", b"");
    assert_eq!((status, &answer["ready"]), (200, &json!(false)));
}

#[test]
fn unknown_paths_and_methods_are_one_kind_of_error() {
    let daemon = Daemon::start();
    for (method, target) in [
        (Method::GET, "/"),
        (Method::GET, "/v1"),
        (Method::GET, "/v2/networks"),
        (Method::GET, "/v1/networks/"),
        (Method::GET, "/v1/networks/a/b"),
        (Method::GET, "/v1/networks/prune/x"),
        (Method::PUT, "/v1/networks"),
        (Method::PATCH, "/v1/containers/front"),
        (Method::POST, "/v1/plan"),
        (Method::POST, "/v1/networks/front"),
        (Method::GET, "/v1/audit"),
        (Method::DELETE, "/healthz"),
    ] {
        let (status, answer) = daemon.json(method.clone(), target, b"");
        assert_eq!(
            (status, code(&answer)),
            (404, "route_not_found"),
            "{method} {target}"
        );
        assert!(
            answer["error"]["message"]
                .as_str()
                .unwrap()
                .contains(target),
            "{answer}"
        );
    }
}

#[test]
fn a_network_may_be_called_prune() {
    let daemon = Daemon::start();
    let (status, answer) = daemon.json(Method::GET, "/v1/networks/prune", b"");
    assert_eq!((status, code(&answer)), (404, "network_not_found"));
    assert_eq!(
        daemon
            .call(Method::DELETE, "/v1/networks/prune", b"")
            .status,
        200
    );
    assert_eq!(daemon.asked(), ["RemoveNetwork(\"prune\")"]);
}

#[test]
fn a_dead_owner_is_not_healthy() {
    let daemon = Daemon::start();
    let (messages, inbox) = tokio::sync::mpsc::channel(1);
    drop(inbox);
    let handle = crate::reconcile::handle::Handle {
        journal: std::sync::Arc::default(),
        messages,
        snapshot: daemon.snapshot.clone(),
    };
    let socket = daemon.dir.0.join("dead.sock");
    let listener = daemon
        .runtime
        .block_on(async { tokio::net::UnixListener::bind(&socket).unwrap() });
    let state = super::super::ApiState {
        spool: std::sync::Arc::default(),
        handle,
        kernel: super::daemon::no_kernel(),
        notices: crate::api::Notices::default(),
        names: None,
        metrics: crate::api::metrics::Registry::default(),
    };
    daemon.runtime.spawn(super::super::serve(
        listener,
        state,
        crate::limits::Limits::of(1024),
        std::future::pending(),
    ));
    let client = crate::cli::client::Client::new(socket);
    for target in ["/healthz", "/v1/plan"] {
        let reply = daemon
            .runtime
            .block_on(client.call(Method::GET, target, vec![]))
            .unwrap();
        assert_eq!(reply.status, 503, "{target}");
    }
}
