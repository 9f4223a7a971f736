//! Bad requests on the raw socket: what netctl never sends.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Barrier;

use netd_tests::host::{Answer, Host, assert_same};
use netd_tests::lab::Netns;
use serde_json::{Value, json};

use super::Stage;

const NETWORKS: &str = "/v1/networks";
const CONTAINERS: &str = "/v1/containers";

/// Status, code, method, target, body.
const REQUESTS: &str = r#"
400 invalid_json POST /v1/networks
400 invalid_json POST /v1/networks {
400 invalid_json POST /v1/networks []
400 invalid_json POST /v1/networks ["new"]
400 invalid_json POST /v1/networks null
400 invalid_json POST /v1/networks "new"
400 invalid_json POST /v1/networks {}
400 invalid_json POST /v1/networks {'name':'new'}
400 invalid_json POST /v1/networks {"name":"new"} x
400 invalid_json POST /v1/networks {"name":"new",}
400 invalid_json POST /v1/networks {"name":"new","name":"other"}
400 invalid_json POST /v1/networks {"name":"new","nope":1}
400 invalid_json POST /v1/networks {"Name":"new"}
400 invalid_json POST /v1/networks {"name":5}
400 invalid_json POST /v1/networks {"name":null}
400 invalid_json POST /v1/networks {"name":["new"]}
400 invalid_json POST /v1/networks {"name":"new","subnets":"10.30.0.0/24"}
400 invalid_json POST /v1/networks {"name":"new","subnets":[10]}
400 invalid_json POST /v1/networks {"name":"new","ipv6":"yes"}
400 invalid_json POST /v1/networks {"name":"new","mtu":"1500"}
400 invalid_json POST /v1/networks {"name":"new","mtu":-1}
400 invalid_json POST /v1/networks {"name":"new","mtu":1500.5}
400 invalid_json POST /v1/networks {"name":"new","mtu":1e99}
400 invalid_json POST /v1/networks {"name":"new","labels":{"a":1}}
400 invalid_json POST /v1/networks {"name":"new","labels":["a=b"]}
400 invalid_name POST /v1/networks {"name":"a\u0000b"}
400 invalid_json POST /v1/networks {"name":"\ud800"}
409 network_exists POST /v1/networks {"name":"web"}
409 subnet_in_use POST /v1/networks {"name":"new","subnets":["10.20.0.0/24"]}
400 invalid_opt POST /v1/networks?dry_run=maybe {"name":"new"}
400 invalid_opt POST /v1/networks?dryrun=true {"name":"new"}
400 invalid_json POST /v1/containers
400 invalid_json POST /v1/containers {"name":"new"}
400 invalid_json POST /v1/containers {"netns":"x"}
400 invalid_json POST /v1/containers {"netns":7,"name":"new"}
400 invalid_json POST /v1/containers {"netns":"x","name":"new","network":[]}
400 invalid_json POST /v1/containers {"netns":"x","name":"new","networks":["web"]}
400 invalid_json POST /v1/containers {"netns":"x","name":"new","networks":[{"network":"web","nope":1}]}
400 invalid_json POST /v1/containers {"netns":"x","name":"new","networks":[{}]}
400 invalid_json POST /v1/containers {"netns":"x","name":"new","publish":[80]}
400 invalid_netns POST /v1/containers {"netns":"x\u0000y","name":"new"}
400 invalid_netns POST /v1/containers {"netns":"/nowhere","name":"new"}
400 invalid_json POST /v1/containers/held/endpoints {}
400 invalid_network POST /v1/containers/held/endpoints {"network":""}
404 network_not_found POST /v1/containers/held/endpoints {"network":"nope"}
409 endpoint_exists POST /v1/containers/held/endpoints {"network":"web"}
404 container_not_found POST /v1/containers/nope/endpoints {"network":"web"}
404 endpoint_not_found DELETE /v1/containers/held/endpoints/inner
404 container_not_found DELETE /v1/containers/nope
404 network_not_found DELETE /v1/networks/nope
409 network_in_use DELETE /v1/networks/web
409 predefined_in_use DELETE /v1/networks/bridge
400 invalid_reference GET /v1/networks/%ff
404 network_not_found GET /v1/networks/a%2f..%2fb
400 invalid_opt GET /v1/networks?all=1
400 invalid_opt POST /v1/purge?force=maybe
409 containers_attached POST /v1/purge
404 route_not_found GET /
404 route_not_found GET /v2/networks
404 route_not_found GET /v1/networks/
404 route_not_found GET /v1/../v1/networks
404 route_not_found PUT /v1/networks {}
404 route_not_found DELETE /v1/networks
404 route_not_found PATCH /v1/containers/held {}
404 route_not_found BREW /v1/containers
"#;

fn judge(stage: &Stage, what: &str, answer: &Answer, status: u16, code: &str, before: &[String]) {
    let got = answer.body["error"]["code"].as_str();
    assert_eq!(
        (answer.status, got),
        (status, Some(code)),
        "{what}: {answer:?}"
    );
    let message = answer.body["error"]["message"].as_str().unwrap_or_default();
    assert!(
        !message.is_empty() && !message.contains('\n'),
        "{what}: {message:?}"
    );
    assert_same(what, before, &stage.state());
}

pub(super) fn bodies() {
    let stage = Stage::set();
    let before = stage.state();
    for line in REQUESTS.lines().filter(|line| !line.is_empty()) {
        let mut parts = line.splitn(5, ' ');
        let mut part = || parts.next().unwrap_or_default();
        let (status, code, method, target) = (part(), part(), part(), part());
        let answer = stage.host.api(method, target, part());
        judge(
            &stage,
            line,
            &answer,
            status.parse().unwrap(),
            code,
            &before,
        );
    }
    let long = |bytes: usize| json!({"name": "n".repeat(bytes)}).to_string();
    let deep = format!("{{\"name\":{}", "[".repeat(100_000));
    for (body, code) in [
        (long(300), "invalid_name"),
        (long(1 << 19), "invalid_name"),
        (long(1 << 21), "invalid_json"),
        (long(1 << 25), "invalid_json"),
        (deep, "invalid_json"),
    ] {
        let answer = stage.host.api("POST", NETWORKS, &body);
        let what = format!("a body of {} bytes", body.len());
        judge(&stage, &what, &answer, 400, code, &before);
    }
    let path = stage.spare.path().to_string_lossy();
    for body in [
        json!({"name": "new"}),
        json!({"name": "other", "subnets": ["10.31.0.0/24"]}),
    ] {
        assert_eq!(
            stage.host.api("POST", NETWORKS, &body.to_string()).status,
            201
        );
    }
    let body = json!({"name": "new", "netns": path, "id": "one", "create_only": true}).to_string();
    assert_eq!(stage.host.api("POST", CONTAINERS, &body).status, 201);
    let before = stage.state();
    let again = stage.host.api("POST", CONTAINERS, &body);
    judge(
        &stage,
        "create_only",
        &again,
        409,
        "container_exists",
        &before,
    );
    stage.done();
}

/// Clients that speak no HTTP, stop in the middle, or hang up: the daemon goes on, and nothing is there.
pub(super) fn broken_clients() {
    let stage = Stage::set();
    let before = stage.state();
    let invalid = b"POST /v1/networks HTTP/1.1\r\nhost: n\r\nconnection: close\r\ncontent-length: 13\r\n\r\n{\"name\":\"\xff\xfe\"}";
    let answer = stage.host.http(invalid);
    judge(&stage, "no UTF-8", &answer, 400, "invalid_json", &before);
    assert_eq!(stage.host.http(b"no HTTP at all\r\n\r\n").status, 400);
    let head = b"POST /v1/networks HTTP/1.1\r\nhost: n\r\ncontent-length: 100\r\n\r\n".as_slice();
    let unsaid = [head, br#"{"name":"#].concat();
    let all = head.len();
    for said in [0, 1, all / 2, all, unsaid.len()] {
        let mut stream = UnixStream::connect(stage.host.socket()).unwrap();
        stream.write_all(&unsaid[..said]).unwrap();
        drop(stream);
        assert_same(
            &format!("hung up after {said} bytes"),
            &before,
            &stage.state(),
        );
    }
    // A client that waits in the middle of its request keeps nobody else.
    let mut slow = UnixStream::connect(stage.host.socket()).unwrap();
    slow.write_all(&unsaid).unwrap();
    stage.succeed("attach {spare} --name=new");
    stage.done();
}

/// Requests that race: one is served, the other gets the same answer or the one error, and both mean the same state.
pub(super) fn two_attaches_at_once() {
    let host = Host::start("h1");
    host.ok(&["network", "create", "web", "--subnet", "10.20.0.0/24"]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let (a, b) = (a.path().to_string_lossy(), b.path().to_string_lossy());
    let web = json!([{"network": "web"}]);
    let address = json!([{"network": "web", "ip": "10.20.0.9"}]);
    let one = json!({"netns": a, "name": "one", "id": "one", "networks": web});
    let with = |key: &str, value: Value| {
        let mut request = one.clone();
        request[key] = value;
        request
    };
    for round in 0..4 {
        let bodies = at_once(&host, &one, &one, None);
        assert_eq!(bodies[0], bodies[1], "round {round}");
        for (other, code) in [
            (with("hostname", json!("other")), "container_exists"),
            (with("networks", address.clone()), "container_exists"),
            (
                json!({"netns": b, "name": "one", "id": "two"}),
                "container_exists",
            ),
            (
                json!({"netns": a, "name": "two", "id": "two"}),
                "netns_in_use",
            ),
        ] {
            at_once(&host, &one, &other, Some(code));
        }
        let mine = json!({"netns": a, "name": "one", "networks": address, "publish": ["8080:80"]});
        for (networks, publish, code) in [
            (address.clone(), json!([]), "address_in_use"),
            (web.clone(), json!(["8080:80"]), "port_in_use"),
        ] {
            let other =
                json!({"netns": b, "name": "two", "networks": networks, "publish": publish});
            at_once(&host, &mine, &other, Some(code));
        }
    }
    host.done();
}

/// Sends both at the same moment, looks at the outcome, and detaches what came of it. Without `code` both succeed.
#[track_caller]
fn at_once(host: &Host, one: &Value, two: &Value, code: Option<&str>) -> Vec<Value> {
    let barrier = Barrier::new(2);
    let send = |body: &Value| {
        barrier.wait();
        host.api("POST", CONTAINERS, &body.to_string())
    };
    let answers = std::thread::scope(|scope| {
        let second = scope.spawn(|| send(two));
        [send(one), second.join().unwrap()]
    });
    let served = answers.iter().filter(|answer| answer.status == 201).count();
    let codes = answers
        .iter()
        .filter_map(|answer| answer.body["error"]["code"].as_str());
    let refused = answers.iter().filter(|answer| answer.status == 409).count();
    assert_eq!(
        codes.collect::<Vec<_>>(),
        code.into_iter().collect::<Vec<_>>(),
        "{answers:?}"
    );
    assert_eq!(
        (served, refused),
        code.map_or((2, 0), |_| (1, 1)),
        "{answers:?}"
    );
    let kept = host.ok(&["ps"]);
    let winner = answers.iter().find(|answer| answer.status == 201).unwrap();
    assert_eq!(
        kept,
        json!([winner.body]),
        "what was answered is what there is"
    );
    host.assert_healthy();
    host.ok(&["detach", winner.body["id"].as_str().unwrap()]);
    answers.into_iter().map(|answer| answer.body).collect()
}
