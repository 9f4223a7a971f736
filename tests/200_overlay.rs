//! Overlay networks: three hosts, a real etcd, containers on each that are on one network.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is how a test fails"
)]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use netd_tests::cluster::Cluster;
use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::{self, Netns, PATIENCE, Proto, Transport};
use netd_tests::overlay::{self, Guest};

fn main() -> std::process::ExitCode {
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![
        lab::test("every_pair_talks", every_pair_talks),
        lab::test("with_bridge_netfilter_too", with_bridge_netfilter_too),
        lab::test("a_network_comes_and_goes", a_network_comes_and_goes),
        lab::test("out_and_in_as_on_a_bridge", out_and_in_as_on_a_bridge),
        lab::test("strangers_are_not_heard", strangers_are_not_heard),
        lab::test(
            "holders_on_the_own_host_first",
            holders_on_the_own_host_first,
        ),
    ])
}

fn every_pair_talks() {
    let cluster = Cluster::start(&["h1", "h2", "h3"], 1);
    overlay::every_pair_talks(&cluster, 1450);
    for host in &cluster.hosts {
        host.assert_healthy();
    }
}

/// What bridged frames pass depends on a setting that other programs switch on.
fn with_bridge_netfilter_too() {
    let cluster = Cluster::prepare(&["h1", "h2", "h3"], 1);
    let now = cluster.hosts[0]
        .netns
        .sysctl("net/bridge/bridge-nf-call-iptables");
    let Some(now) = now else {
        lab::skip("this kernel has no br_netfilter");
    };
    for host in &cluster.hosts {
        host.netns.filter_bridged(now != "1");
    }
    let mut cluster = cluster;
    cluster.start_daemons();
    overlay::every_pair_talks(&cluster, 1450);
}

/// `dns_order=local`: of several holders of a name those on the asker's host stand first, in turn; the others follow.
fn holders_on_the_own_host_first() {
    use lab::hickory_proto::rr::RecordType::A;
    let cluster = Cluster::start(&["h1", "h2"], 1);
    cluster.network("near", &["--opt", "dns_order=local"]);
    cluster.network("even", &[]);
    let args = ["--network", "near,alias=api", "--network", "even,alias=all"];
    let boxes = [("a1", 0), ("a2", 0), ("b1", 1)].map(|(name, at)| {
        let netns = Netns::new(name);
        let attached = cluster.hosts[at].attach(&netns, &args);
        (netns, attached)
    });
    let on = |n: usize, network: usize| -> IpAddr {
        let ip = boxes[n].1["endpoints"][network]["ipv4"].as_str().unwrap();
        ip.split('/').next().unwrap().parse().unwrap()
    };
    let ask = |n: usize, name: &str| {
        let server = "127.0.0.11:53".parse().unwrap();
        let reply = boxes[n].0.dns_query(server, name, A, Transport::Udp);
        reply.unwrap().ips()
    };
    for (n, name) in [(0, "api"), (0, "all"), (2, "api"), (2, "all")] {
        lab::wait_for("all holders to be known", PATIENCE, || {
            ask(n, name).len() == 3
        });
    }
    let firsts = |n: usize, name: &str| {
        let mut firsts: Vec<IpAddr> = (0..6).map(|_| ask(n, name)[0]).collect();
        firsts.sort();
        firsts.dedup();
        firsts
    };
    assert_eq!(firsts(0, "api"), [on(0, 0), on(1, 0)]);
    assert_eq!(firsts(2, "api"), [on(2, 0)]);
    assert_eq!(ask(0, "api")[2], on(2, 0));
    let mut all: Vec<IpAddr> = (0..3).map(|n| on(n, 1)).collect();
    all.sort();
    assert_eq!(firsts(0, "all"), all);
    let held = cluster.hosts[0].ok(&["dns", "query", "api"]).to_string();
    assert!(held.contains(" of host h2"), "{held}");
}

fn devices(host: &Host) -> Vec<String> {
    host.new_links().into_iter().map(|link| link.name).collect()
}

fn a_network_comes_and_goes() {
    let cluster = Cluster::start(&["h1", "h2"], 1);
    let [h1, h2] = &cluster.hosts[..] else {
        unreachable!()
    };
    cluster.network("web", &[]);
    assert_eq!(
        devices(h1),
        Vec::<String>::new(),
        "nothing before the first container"
    );
    let a = Guest::attach(h1, "a", &["--network", "web"]);
    assert!(devices(h1).iter().any(|name| name.starts_with("ndx-")));
    assert_eq!(devices(h2), Vec::<String>::new());
    let b = Guest::attach(h2, "b", &["--network", "web"]);
    assert_eq!(
        a.netns
            .probe(Proto::Tcp, SocketAddr::new(b.ips[0], 80), PATIENCE)
            .name(),
        Some("b")
    );
    assert_eq!(h1.refused(&["network", "rm", "web"]), "network_in_use");
    // Another host's containers keep it too, and its name is one for all.
    h1.ok(&["detach", "a"]);
    assert_eq!(devices(h1), Vec::<String>::new(), "nothing after the last");
    assert_eq!(h1.refused(&["network", "rm", "web"]), "network_in_use");
    assert_eq!(
        h2.refused(&["network", "create", "web", "--driver", "overlay"]),
        "network_exists"
    );
    h2.ok(&["detach", "b"]);
    lab::wait_for("h1 hears that it is free", PATIENCE, || {
        h1.netctl(&["network", "rm", "web"]).code == 0
    });
    lab::wait_for("h2 hears that it is gone", PATIENCE, || {
        h2.netctl(&["network", "inspect", "web"]).code != 0
    });
    for host in &cluster.hosts {
        host.assert_clean();
    }
}

fn out_and_in_as_on_a_bridge() {
    let cluster = Cluster::start(&["h1", "h2"], 1);
    let outside = &cluster.store[0].netns;
    let _server = outside.tcp_server("outside", 8000);
    cluster.network("web", &["--ipv6"]);
    cluster.network("inner", &["--internal"]);
    let a = Guest::attach(
        &cluster.hosts[0],
        "a",
        &["--network", "web", "--publish", "8080:80"],
    );
    let b = Guest::attach(&cluster.hosts[1], "b", &["--network", "web"]);
    for one in [&a, &b] {
        let reached = one.netns.probe(Proto::Tcp, ("192.0.2.100", 8000), PATIENCE);
        assert_eq!(
            reached.name(),
            Some("outside"),
            "egress of {}",
            one.netns.name()
        );
    }
    // Published on its own host; reached from outside, from the other host and from a container there.
    for from in [outside, &cluster.hosts[1].netns, &b.netns, &a.netns] {
        let reached = from.probe(Proto::Tcp, ("192.0.2.1", 8080), PATIENCE);
        assert_eq!(reached.name(), Some("a"), "{}", from.name());
    }
    // Nobody outside reaches a container's own address, though the host forwards.
    outside.add_route("172.16.0.0/12", "192.0.2.2");
    let closed = outside.probe(
        Proto::Tcp,
        SocketAddr::new(a.ips[0], 80),
        Duration::from_millis(500),
    );
    assert!(!closed.reached(), "{closed:?}");
    let c = Guest::attach(&cluster.hosts[0], "c", &["--network", "inner"]);
    let d = Guest::attach(&cluster.hosts[1], "d", &["--network", "inner"]);
    assert_eq!(
        c.netns
            .probe(Proto::Tcp, SocketAddr::new(d.ips[0], 80), PATIENCE)
            .name(),
        Some("d")
    );
    let closed = c.netns.probe(
        Proto::Tcp,
        ("192.0.2.100", 8000),
        Duration::from_millis(500),
    );
    assert!(
        !closed.reached(),
        "an internal network leads nowhere: {closed:?}"
    );
}

/// A VXLAN packet with a datagram for a container in it, from an address that is no host's.
fn strangers_are_not_heard() {
    let cluster = Cluster::start(&["h1", "h2"], 1);
    let network = cluster.network("web", &[]);
    let a = Guest::attach(&cluster.hosts[0], "a", &["--network", "web"]);
    let _b = Guest::attach(&cluster.hosts[1], "b", &["--network", "web"]);
    let vni = u32::try_from(network["vni"].as_u64().unwrap()).unwrap();
    let listener = a.netns.run(|| UdpSocket::bind((a.ips[0], 7777)).unwrap());
    listener
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let IpAddr::V4(to) = a.ips[0] else {
        unreachable!()
    };
    let [w, x, y, z] = to.octets();
    let inner = |payload: &[u8]| {
        let builder =
            lab::etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0x6e, w, x, y, z])
                .ipv4([w, x, y, z ^ 1], [w, x, y, z], 64)
                .udp(7777, 7777);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, payload).unwrap();
        let mut vxlan = vec![8, 0, 0, 0];
        vxlan.extend_from_slice(&(vni << 8).to_be_bytes());
        vxlan.extend_from_slice(&bytes);
        vxlan
    };
    let send = |from: &Netns, what: &[u8]| {
        let socket = from.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        socket.send_to(&inner(what), "192.0.2.1:4789").unwrap();
    };
    let mut buffer = [0; 100];
    let dropped = || cluster.hosts[0].ok(&["status"])["drops"]["tunnel"].as_u64();
    // A known host's is taken: the packet itself is right.
    send(&cluster.hosts[1].netns, b"peer");
    assert_eq!(listener.recv(&mut buffer).ok(), Some(4));
    assert_eq!(dropped(), Some(0));
    for _ in 0..5 {
        send(&cluster.store[0].netns, b"stranger");
    }
    assert!(listener.recv(&mut buffer).is_err(), "a stranger was heard");
    assert_eq!(dropped(), Some(5));
}
