//! The story of the first use: create, attach, resolve, reach, publish, detach, remove; nothing is left.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is how a test fails"
)]

use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::{self, Netns, PATIENCE, Proto, Transport};

fn main() -> std::process::ExitCode {
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![lab::test("the_first_use", the_first_use)])
}

fn the_first_use() {
    let host = Host::start("h1");
    let network = host.ok(&["network", "create", "web", "--ipv6"]);
    assert_eq!(network["name"], "web");
    let (a, b) = (Netns::new("a"), Netns::process("b"));
    let made = host.attach(&a, &["--network", "web,alias=db", "--publish", "8080:80"]);
    host.ok(&[
        "attach",
        &format!("pid:{}", b.pid()),
        "--name",
        "b",
        "--network",
        "web",
    ]);
    let ip = made["endpoints"][0]["ipv4"]
        .as_str()
        .unwrap()
        .split('/')
        .next()
        .unwrap()
        .to_owned();
    let _server = a.tcp_server("a", 80);
    for name in ["a", "db", "A.web"] {
        let reply = b.dns_query(
            "127.0.0.11:53".parse().unwrap(),
            name,
            lab::hickory_proto::rr::RecordType::A,
            Transport::Udp,
        );
        assert_eq!(
            reply.unwrap().ips(),
            vec![ip.parse::<std::net::IpAddr>().unwrap()],
            "{name}"
        );
    }
    assert_eq!(
        b.probe(Proto::Tcp, (ip.as_str(), 80), PATIENCE).name(),
        Some("a")
    );
    assert_eq!(
        host.netns
            .probe(Proto::Tcp, ("127.0.0.1", 8080), PATIENCE)
            .name(),
        Some("a")
    );
    host.assert_healthy();
    host.done();
}
