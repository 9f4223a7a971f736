//! What the plugin is asked to do to packets: published ports, limits of the rate.

use netd_tests::cni::{Cni, Sandbox, ip};
use netd_tests::host::Host;
use netd_tests::lab::{self, Netns, PATIENCE, Proto};
use serde_json::json;

pub(super) fn ports_are_published() {
    let host = Host::start("h1");
    let plugin = Cni::new(&host);
    let mappings = json!([
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 8081, "containerPort": 80, "protocol": "TCP", "hostIP": "127.0.0.1"},
        {"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "0.0.0.0"},
        // Of a family that the network does not have: passed over, as portmap does.
        {"hostPort": 8083, "containerPort": 80, "protocol": "tcp", "hostIP": "::1"},
    ]);
    let config = plugin.config(
        "1.0.0",
        "pods",
        json!({"subnet": "10.99.0.0/24", "runtimeConfig": {"portMappings": mappings}}),
    );
    let plain = plugin.config("1.0.0", "pods", json!({"subnet": "10.99.0.0/24"}));
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    plugin.add(&Sandbox::of(&a), &config);
    plugin.add(&Sandbox::of(&b), &plain);
    let (_tcp, _udp) = (a.tcp_server("a", 80), a.udp_server("u", 53));
    let from = |netns: &Netns, proto, to: &str, port| {
        netns
            .probe(proto, (to, port), PATIENCE)
            .name()
            .map(ToOwned::to_owned)
    };
    for (netns, who) in [
        (&host.netns, "host"),
        (&b, "another pod"),
        (&a, "the pod itself"),
    ] {
        let address = if who == "host" {
            "127.0.0.1"
        } else {
            "10.99.0.1"
        };
        assert_eq!(
            from(netns, Proto::Tcp, address, 8080).as_deref(),
            Some("a"),
            "{who}"
        );
        assert_eq!(
            from(netns, Proto::Udp, address, 5353).as_deref(),
            Some("u"),
            "{who}"
        );
    }
    assert_eq!(
        from(&host.netns, Proto::Tcp, "127.0.0.1", 8081).as_deref(),
        Some("a")
    );
    assert!(
        !b.probe(
            Proto::Tcp,
            ("10.99.0.1", 8081),
            std::time::Duration::from_millis(300)
        )
        .reached()
    );
    // Two pods cannot have one host port.
    let c = Netns::new("c");
    let error = plugin.call("ADD", Some(&Sandbox::of(&c)), &config).error();
    assert_eq!(error["code"], 101, "{error}");
    assert_eq!(error["details"], "port_in_use");
    plugin.del(&Sandbox::of(&a), &config);
    plugin.add(&Sandbox::of(&c), &config);
    plugin.del(&Sandbox::of(&c), &config);
    plugin.del(&Sandbox::of(&b), &plain);
    host.done();
}

/// Bytes sent in one transfer, as fast as they go.
const TRANSFER: usize = 1_000_000;

/// How long a transfer takes until the last byte is there.
fn transfer(from: &Netns, to: &Netns, address: &str, port: u16) -> std::time::Duration {
    use std::io::{Read as _, Write as _};
    let address: std::net::SocketAddr = format!("{address}:{port}").parse().unwrap();
    let listener = to.run(|| std::net::TcpListener::bind(address).unwrap());
    let begin = std::time::Instant::now();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            got.len()
        });
        from.run(|| {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.write_all(&vec![0; TRANSFER]).unwrap();
        });
        assert_eq!(receiver.join().unwrap(), TRANSFER);
    });
    begin.elapsed()
}

pub(super) fn rates_are_limited() {
    let mut host = Host::start("h1");
    let slow = json!({"bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 16_000_000, "egressBurst": 800_000}});
    let config = Cni::new(&host).config(
        "1.0.0",
        "pods",
        json!({"subnet": "10.99.0.0/24", "runtimeConfig": slow}),
    );
    let plain = Cni::new(&host).config("1.0.0", "pods", json!({"subnet": "10.99.0.0/24"}));
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let made = Cni::new(&host).add(&Sandbox::of(&a), &config);
    let other = Cni::new(&host).add(&Sandbox::of(&b), &plain);
    // What is not in the first burst has to go at the rate: never faster.
    let least = |bytes_per_second: f64| {
        std::time::Duration::from_secs_f64(0.85 * (1e6 - 1e5) / bytes_per_second)
    };
    let check = |host: &Host| {
        let took = transfer(&b, &a, &ip(&made, false), 1001);
        assert!(took > least(1e6), "to the container: {took:?}");
        let took = transfer(&a, &b, &ip(&other, false), 1001);
        assert!(took > least(2e6), "from the container: {took:?}");
        host.assert_healthy();
    };
    check(&host);
    // A new daemon finds its queues.
    host.kill_daemon();
    host.start_daemon();
    check(&host);
    // Somebody takes the device away: it comes back with the limit.
    let ifb = host
        .netns
        .links()
        .into_iter()
        .find(|link| link.kind == "ifb")
        .unwrap();
    host.netns.del_link(&ifb.name);
    lab::wait_for("the device", PATIENCE, || {
        host.netns.link(&ifb.name).is_some() && host.plan().is_empty()
    });
    check(&host);
    let mut with_result = config.clone();
    with_result["prevResult"] = made.clone();
    Cni::new(&host).call("CHECK", Some(&Sandbox::of(&a)), &with_result);
    Cni::new(&host).del(&Sandbox::of(&a), &config);
    Cni::new(&host).del(&Sandbox::of(&b), &plain);
    host.done();
}
