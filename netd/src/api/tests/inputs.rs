//! Bad input of every kind: never a panic, always a 4xx with the form of an error.

use hyper::Method;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::daemon::Daemon;
use crate::api::BODY_MAX;

const BODY_ROUTES: [&str; 3] = [
    "/v1/networks",
    "/v1/containers",
    "/v1/containers/web/endpoints",
];

/// The code and message of an error, if the answer has the form of one.
fn error(answer: &Value) -> (&str, &str) {
    let error = answer["error"]
        .as_object()
        .unwrap_or_else(|| panic!("no error: {answer}"));
    let message = error["message"].as_str().unwrap();
    assert!(
        !message.is_empty() && !message.chars().any(char::is_control),
        "not one line: {message:?}"
    );
    assert!(message.len() < 1500, "too long: {}", message.len());
    assert!(error.get("details").is_none_or(Value::is_object));
    (error["code"].as_str().unwrap(), message)
}

#[test]
fn bad_bodies_say_what_is_wrong_and_where() {
    let daemon = Daemon::start();
    let long_key = format!("{{\"name\":\"a\",\"{}\\n\\u001b\":1}}", "x".repeat(10_000));
    for (body, expected) in [
        (&b""[..], "the body is empty"),
        (b"  \n", "the body is empty"),
        (b"{", "EOF while parsing"),
        (
            b"{\"name\":\"a\"} x",
            "trailing characters at line 1 column 14",
        ),
        (b"[\"a\"]", "the body is a list"),
        (b"null", "invalid type: null"),
        (b"\"a\"", "invalid type: string"),
        (
            b"{\"name\":\"\xff\"}",
            "invalid unicode code point at line 1",
        ),
        (b"{\"name\":\"a\",\"nmae\":1}", "unknown field `nmae`"),
        (b"{\"name\":7}", "expected a string at line 1 column 9"),
        (b"{\"name\":\"a\",\"name\":\"b\"}", "duplicate field `name`"),
        (long_key.as_bytes(), "at line 1 column"),
    ] {
        let (status, answer) = daemon.json(Method::POST, "/v1/networks", body);
        let (code, message) = error(&answer);
        assert_eq!((status, code), (400, "invalid_json"), "{message}");
        assert!(
            message.contains(expected),
            "{message:?} has no {expected:?}"
        );
    }
    for target in BODY_ROUTES {
        let (status, answer) = daemon.json(Method::POST, target, b"{\"nmae\":1}");
        assert_eq!(
            (status, error(&answer).0),
            (400, "invalid_json"),
            "{target}"
        );
    }
    let (_, answer) = daemon.json(Method::POST, "/v1/networks", b"{\n\"name\": 7}");
    assert_eq!(answer["error"]["details"], json!({"line": 2, "column": 9}));
    assert_eq!(daemon.asked(), [""; 0], "nothing of this reaches the owner");
}

#[test]
fn bad_values_have_the_code_of_their_field() {
    let daemon = Daemon::start();
    for (target, body, expected) in [
        ("/v1/networks", r#"{"name":"a b"}"#, "invalid_name"),
        ("/v1/networks", r#"{"name":"../a"}"#, "invalid_name"),
        (
            "/v1/networks",
            r#"{"name":"a","subnets":["10.0.0.1/8"]}"#,
            "invalid_subnet",
        ),
        ("/v1/networks", r#"{"name":"a","mtu":10}"#, "invalid_mtu"),
        (
            "/v1/networks",
            r#"{"name":"a","opts":{"x":"y"}}"#,
            "invalid_opt",
        ),
        (
            "/v1/containers",
            r#"{"netns":"a/b","name":"a"}"#,
            "invalid_netns",
        ),
        (
            "/v1/containers",
            r#"{"netns":"a","name":""}"#,
            "invalid_name",
        ),
        (
            "/v1/containers",
            r#"{"netns":"a","name":"a","id":"/"}"#,
            "invalid_id",
        ),
        (
            "/v1/containers",
            r#"{"netns":"a","name":"a","publish":["80:"]}"#,
            "invalid_publish",
        ),
        (
            "/v1/containers/a/endpoints",
            r#"{"network":"a","ip":"x"}"#,
            "invalid_ip",
        ),
        (
            "/v1/containers/a/endpoints",
            r#"{"network":""}"#,
            "invalid_network",
        ),
    ] {
        let (status, answer) = daemon.json(Method::POST, target, body.as_bytes());
        assert_eq!((status, error(&answer).0), (400, expected), "{body}");
    }
}

#[test]
fn a_path_that_is_no_sandbox_is_refused_with_a_remedy() {
    let daemon = Daemon::start();
    for (netns, expected) in [
        ("gone", "cannot be opened"),
        (
            "/tmp/file",
            "/tmp/file is not a network namespace: give /run/netns/NAME",
        ),
        ("/proc/1/host", "is the host's own network namespace"),
    ] {
        let body = json!({"netns": netns, "name": "web"}).to_string();
        let (status, answer) = daemon.json(Method::POST, "/v1/containers", body.as_bytes());
        let (code, message) = error(&answer);
        assert_eq!((status, code), (400, "invalid_netns"));
        assert!(message.contains(expected), "{message}");
    }
    let body = json!({"netns": "/a\n\u{1b}[31m/file", "name": "web"}).to_string();
    error(
        &daemon
            .json(Method::POST, "/v1/containers", body.as_bytes())
            .1,
    );
    assert_eq!(daemon.asked(), [""; 0]);
}

#[test]
fn a_panic_below_is_an_internal_error_and_not_the_end() {
    let daemon = Daemon::start();
    let (status, answer) = daemon.json(
        Method::POST,
        "/v1/containers",
        br#"{"netns":"bug","name":"web"}"#,
    );
    assert_eq!((status, error(&answer).0), (500, "internal"));
    assert_eq!(daemon.call(Method::GET, "/healthz", b"").status, 200);
}

#[test]
fn a_body_has_a_limit_and_the_client_hears_of_it() {
    let daemon = Daemon::start();
    for length in [BODY_MAX + 1, 2 * BODY_MAX] {
        for target in BODY_ROUTES {
            let (status, answer) = daemon.json(Method::POST, target, &vec![b' '; length]);
            let (code, message) = error(&answer);
            assert_eq!((status, code), (400, "invalid_json"));
            assert!(message.contains("too long"), "{message}");
            assert_eq!(answer["error"]["details"]["limit"], BODY_MAX);
        }
    }
    let mut body = br#"{"name":"n"}"#.to_vec();
    body.resize(BODY_MAX, b' ');
    assert_eq!(daemon.call(Method::POST, "/v1/networks", &body).status, 201);
}

#[test]
fn a_query_that_is_not_understood_changes_nothing() {
    let daemon = Daemon::start();
    for (method, target) in [
        (Method::DELETE, "/v1/networks/n?dry_run=1"),
        (Method::DELETE, "/v1/networks/n?dryrun=true"),
        (Method::DELETE, "/v1/networks/n?dry_run=true&dry_run=false"),
        (Method::POST, "/v1/networks/prune?force=true"),
        (Method::POST, "/v1/purge?force=yes"),
        (Method::DELETE, "/v1/containers/c?%ff=%fe"),
        (Method::GET, "/v1/networks?label=x"),
        (Method::GET, "/v1/plan?dry_run=true"),
    ] {
        let (status, answer) = daemon.json(method, target, b"");
        assert_eq!((status, error(&answer).0), (400, "invalid_opt"), "{target}");
    }
    assert_eq!(daemon.asked(), [""; 0]);
}

#[test]
fn a_path_that_is_not_utf8_is_refused() {
    let daemon = Daemon::start();
    for target in ["/v1/networks/%ff", "/v1/containers/%c3%28"] {
        let (status, answer) = daemon.json(Method::GET, target, b"");
        assert_eq!(
            (status, error(&answer).0),
            (400, "invalid_reference"),
            "{target}"
        );
    }
    let (status, answer) = daemon.json(Method::DELETE, "/v1/containers/a/endpoints/%ff", b"");
    assert_eq!((status, error(&answer).0), (400, "invalid_reference"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn arbitrary_bodies_are_refused_with_the_form_of_an_error(
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 8),
        texts in proptest::collection::vec("[{}\\[\\]\",:a-z0-9 ]{0,80}", 8),
    ) {
        let daemon = Daemon::start();
        for body in bodies.into_iter().chain(texts.into_iter().map(String::into_bytes)) {
            for target in BODY_ROUTES {
                let (status, answer) = daemon.json(Method::POST, target, &body);
                prop_assert_eq!(status, 400);
                prop_assert_eq!(error(&answer).0, "invalid_json");
            }
        }
    }

    #[test]
    fn arbitrary_values_of_the_right_form_never_break_the_form_of_the_answer(
        name in ".{0,20}", netns in ".{0,20}", network in ".{0,20}", subnet in ".{0,20}", key in ".{0,8}",
    ) {
        let daemon = Daemon::start();
        let network_create = json!({"name": name, "subnets": [subnet], "labels": {key.clone(): subnet.clone()}});
        let attach = json!({"name": name, "netns": netns, "networks": [{"network": network, "ip": subnet}]});
        for (target, body) in [("/v1/networks", network_create), ("/v1/containers", attach), ("/v1/networks", json!({key: name}))] {
            let (status, answer) = daemon.json(Method::POST, target, body.to_string().as_bytes());
            if status != 201 {
                prop_assert!((400..500).contains(&status), "{}", answer);
                error(&answer);
            }
        }
    }

    #[test]
    fn arbitrary_segments_reach_the_owner_as_they_are(name in ".{1,20}") {
        prop_assume!(!["nope", "busy"].contains(&name.as_str()));
        let daemon = Daemon::start();
        let target = format!("/v1/networks/{}", crate::cli::client::segment(&name));
        prop_assert_eq!(daemon.json(Method::DELETE, &target, b""), (200, json!({})));
        prop_assert_eq!(daemon.asked(), [format!("RemoveNetwork({name:?})")]);
    }
}
