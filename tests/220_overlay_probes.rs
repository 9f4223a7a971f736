//! Overlay networks look after themselves: hosts probe each other over them, addresses that nobody uses go back to the cluster, and
//! what somebody takes out of the kernel's tables is put back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "test code: a panic is how a test fails"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use netd_tests::cluster::{Cluster, addresses};
use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::{self, Netns, PATIENCE, Proto, Transport};
use serde_json::Value;

/// Longer than a lease, a rest of addresses, and the looks in between.
const LONG: Duration = Duration::from_secs(150);

fn main() -> std::process::ExitCode {
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![
        lab::test(
            "losses_are_named_with_peer_way_and_size",
            losses_are_named_with_peer_way_and_size,
        ),
        lab::test("containers_do_not_probe", containers_do_not_probe),
        lab::test(
            "who_shouts_is_heard_so_often_and_no_more",
            who_shouts_is_heard_so_often_and_no_more,
        ),
        lab::test(
            "a_dead_host_is_called_dead_and_not_asked_for",
            a_dead_host_is_called_dead_and_not_asked_for,
        ),
        lab::test(
            "addresses_that_nobody_uses_go_to_others",
            addresses_that_nobody_uses_go_to_others,
        ),
        lab::test("the_route_decides_on_the_mtu", the_route_decides_on_the_mtu),
        lab::test("wrong_checksums_are_told_from_losses", wrong_checksums),
        lab::test("the_outer_checksum_is_a_choice", outer_checksum),
        lab::test(
            "entries_that_somebody_removes_come_back",
            entries_that_somebody_removes_come_back,
        ),
    ])
}

fn tool(netns: &Netns, words: &str) {
    let words: Vec<&str> = words.split_whitespace().collect();
    let output = netns.command(words[0], &words[1..]).output().unwrap();
    assert!(
        output.status.success(),
        "{words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn node(host: &Host, name: &str) -> Value {
    host.api("GET", &format!("/v1/nodes/{name}"), "").body
}

/// From small, from full, to small, to full, as a host sees another on its only network.
fn path(host: &Host, name: &str) -> [String; 4] {
    let path = node(host, name)["paths"][0].clone();
    let word = |way: &str, size: &str| path[way][size].as_str().unwrap_or("none").to_owned();
    [
        word("from", "small"),
        word("from", "full"),
        word("to", "small"),
        word("to", "full"),
    ]
}

fn until_path(host: &Host, name: &str, wanted: [&str; 4]) {
    let what = format!("{} sees {name} as {wanted:?}", host.netns.name());
    lab::wait_for(&what, Duration::from_secs(30), || {
        path(host, name) == wanted
    });
}

fn warnings(host: &Host) -> String {
    host.api("GET", "/v1/status", "").body["warnings"].to_string()
}

fn has_line(text: &str, line: &str) -> bool {
    text.lines().any(|one| one == line)
}

fn losses_are_named_with_peer_way_and_size() {
    let cluster = Cluster::start(&["h1", "h2"], 1);
    cluster.network("web", &["--ipv6"]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let [h1, h2] = &cluster.hosts[..] else {
        unreachable!()
    };
    h1.attach(&a, &["--network", "web"]);
    h2.attach(&b, &["--network", "web"]);
    let well = ["ok"; 4];
    until_path(h1, "h2", well);
    until_path(h2, "h1", well);
    assert_eq!(warnings(h1), "[]");
    // Large packets do not reach h2, as with a smaller MTU on the way that nobody tells of.
    let arriving = [
        "nft add table inet underlay",
        "nft add chain inet underlay in { type filter hook prerouting priority -400 ; }",
    ];
    arriving.iter().for_each(|words| tool(&h2.netns, words));
    tool(
        &h2.netns,
        "nft add rule inet underlay in udp dport 4789 meta length > 1000 drop",
    );
    until_path(h1, "h2", ["ok", "ok", "ok", "lost"]);
    until_path(h2, "h1", ["ok", "lost", "ok", "ok"]);
    let says = "packets of 1450 bytes are lost from this host to host h2";
    assert!(warnings(h1).contains(says), "{}", warnings(h1));
    let says = "packets of 1450 bytes are lost from host h1 to this one";
    assert!(warnings(h2).contains(says), "{}", warnings(h2));
    let metrics = h1.metrics();
    for (size, value) in [("small", 1), ("full", 0)] {
        let line = format!(
            "netd_path_ok{{node=\"h2\",network=\"web\",way=\"to\",size=\"{size}\"}} {value}"
        );
        assert!(has_line(&metrics, &line), "{line}: {metrics}");
    }
    for line in ["netd_nodes{state=\"alive\"} 2", "netd_store_up 1"] {
        assert!(has_line(&metrics, line), "{line}: {metrics}");
    }
    assert!(
        metrics.contains("netd_store_records{kind=\"endpoint\"} 2"),
        "{metrics}"
    );
    let shown = h1.netctl_raw(&["node", "inspect", "h2"]);
    let shown = shown.stdout;
    assert!(
        shown.contains("web: from it small ok, full ok; to it small ok, full lost"),
        "{shown}"
    );
    // Nothing at all.
    tool(
        &h2.netns,
        "nft add rule inet underlay in udp dport 4789 drop",
    );
    until_path(h1, "h2", ["ok", "ok", "lost", "lost"]);
    until_path(h2, "h1", ["lost", "lost", "unknown", "unknown"]);
    tool(&h2.netns, "nft delete table inet underlay");
    until_path(h1, "h2", well);
    until_path(h2, "h1", well);
    lab::wait_for("nothing is wrong any more", PATIENCE, || {
        warnings(h1) == "[]" && warnings(h2) == "[]"
    });
}

/// Hosts probe each other where containers may not reach them, and containers never reach the probes' port.
fn containers_do_not_probe() {
    let cluster = Cluster::start(&["h1", "h2"], 1);
    cluster.network("web", &["--opt", "host_access=off"]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let [h1, h2] = &cluster.hosts[..] else {
        unreachable!()
    };
    h1.attach(&a, &["--network", "web"]);
    h2.attach(&b, &["--network", "web"]);
    until_path(h1, "h2", ["ok"; 4]);
    let gateway = h1.ok(&["network", "inspect", "web"])["subnets"][0]["gateway"].clone();
    let to: IpAddr = gateway.as_str().unwrap().parse().unwrap();
    let dropped = || {
        let status = h1.api("GET", "/v1/status", "").body;
        status["drops"]["host_access"].as_u64().unwrap_or(0)
    };
    let before = dropped();
    let socket = a.run(|| UdpSocket::bind("0.0.0.0:4792").unwrap());
    socket
        .send_to(b"netd\x01", SocketAddr::new(to, 4792))
        .unwrap();
    lab::wait_for("it is dropped, and counted", PATIENCE, || {
        dropped() > before
    });
}

/// Broadcasts are copied to every host: a container may send so many, and its other packets pass meanwhile.
fn who_shouts_is_heard_so_often_and_no_more() {
    const SENT: u64 = 5000;
    let cluster = Cluster::start(&["h1", "h2"], 1);
    cluster.network("web", &[]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let [h1, h2] = &cluster.hosts[..] else {
        unreachable!()
    };
    h1.attach(&a, &["--network", "web"]);
    let ip = addresses(&h2.attach(&b, &["--network", "web"]))[0];
    let _server = b.udp_server("b", 80);
    let to = SocketAddr::new(ip, 80);
    assert!(a.probe(Proto::Udp, to, PATIENCE).reached());
    let listener = b.run(|| UdpSocket::bind("0.0.0.0:7777").unwrap());
    listener.set_read_timeout(Some(PATIENCE)).unwrap();
    let dropped = || {
        let status = h1.api("GET", "/v1/status", "").body;
        status["drops"]["flood"].as_u64().unwrap_or(0)
    };
    let before = dropped();
    let shouter = a.run(|| UdpSocket::bind("0.0.0.0:7777").unwrap());
    shouter.set_broadcast(true).unwrap();
    let begun = Instant::now();
    for _ in 0..SENT {
        shouter.send_to(b"hear", "255.255.255.255:7777").unwrap();
    }
    assert!(a.probe(Proto::Udp, to, PATIENCE).reached());
    let passed = 400 + 200 * (begun.elapsed().as_secs() + 1);
    let fewest = SENT.saturating_sub(passed);
    lab::wait_for("what is too much is dropped, and counted", PATIENCE, || {
        dropped() - before >= fewest
    });
    eprintln!(
        "{} of {SENT} broadcasts dropped in {:?}",
        dropped() - before,
        begun.elapsed()
    );
    let mut buffer = [0; 100];
    assert_eq!(
        listener.recv(&mut buffer).unwrap(),
        4,
        "the first are heard"
    );
    // Later it is heard again.
    listener.set_nonblocking(true).unwrap();
    while listener.recv(&mut buffer).is_ok() {}
    lab::wait_for("it is heard again", PATIENCE, || {
        shouter.send_to(b"hello", "255.255.255.255:7777").unwrap();
        listener.recv(&mut buffer).is_ok_and(|length| length == 5)
    });
}

fn a_dead_host_is_called_dead_and_not_asked_for() {
    use lab::hickory_proto::rr::RecordType::A;
    let mut cluster = Cluster::start(&["h1", "h2", "h3"], 1);
    cluster.network("web", &[]);
    let boxes = ["a", "db", "db"].map(Netns::new);
    let mut ips = Vec::new();
    for (host, netns) in cluster.hosts.iter().zip(&boxes) {
        ips.push(addresses(&host.attach(netns, &["--network", "web"]))[0]);
    }
    let asked = || {
        let server = "127.0.0.11:53".parse().unwrap();
        let reply = boxes[0].dns_query(server, "db", A, Transport::Udp);
        let mut ips = reply.map(|reply| reply.ips()).unwrap_or_default();
        ips.sort();
        ips
    };
    let mut both = ips[1..].to_vec();
    both.sort();
    lab::wait_for("both are named", PATIENCE, || asked() == both);
    until_path(&cluster.hosts[0], "h2", ["ok"; 4]);
    cluster.switch.down("port1");
    cluster.hosts[1].kill_daemon();
    let h1 = &cluster.hosts[0];
    lab::wait_for("h2 is suspect", Duration::from_secs(60), || {
        node(h1, "h2")["state"] == "suspect"
    });
    // The one that lives has the name alone.
    lab::wait_for("h3's is named alone", PATIENCE, || asked() == [ips[2]]);
    lab::wait_for("h2 is dead", LONG, || node(h1, "h2")["state"] == "dead");
    assert!(node(h1, "h2")["last_seen"].as_u64().unwrap() >= 60);
    assert!(warnings(h1).contains("host h2 is dead"), "{}", warnings(h1));
    // Its records stay: without the other, its container is named again.
    cluster.hosts[2].ok(&["detach", "db"]);
    lab::wait_for("h2's is named again", PATIENCE, || asked() == [ips[1]]);
    cluster.switch.up("port1");
    cluster.hosts[1].start_daemon();
    cluster.settle();
    until_path(&cluster.hosts[0], "h2", ["ok"; 4]);
}

fn addresses_that_nobody_uses_go_to_others() {
    let cluster = Cluster::start(&["h1", "h2"], 1);
    // Four blocks of four.
    cluster.network("small", &["--subnet", "10.77.0.0/28"]);
    let [h1, h2] = &cluster.hosts[..] else {
        unreachable!()
    };
    let mut boxes = Vec::new();
    let code = loop {
        let netns = Netns::new(&format!("x{}", boxes.len()));
        let path = netns.path().to_string_lossy().into_owned();
        let name = format!("x{}", boxes.len());
        let words = ["attach", &path, "--name", &name, "--network", "small"];
        let output = h1.netctl(&words);
        if output.code != 0 {
            break output.error_code();
        }
        boxes.push(netns);
    };
    assert_eq!(code, "pool_exhausted");
    assert!(boxes.len() >= 10, "{}", boxes.len());
    let y = Netns::new("y");
    let path = y.path().to_string_lossy().into_owned();
    let attach = ["attach", &path, "--name", "y", "--network", "small"];
    assert_eq!(h2.refused(&attach), "pool_exhausted");
    for n in 0..boxes.len() {
        h1.ok(&["detach", &format!("x{n}")]);
    }
    // They rest first.
    assert_eq!(h2.refused(&attach), "pool_exhausted");
    lab::wait_for("h2 gets what h1 gave back", LONG, || {
        h2.netctl(&attach).code == 0
    });
    // And h1 gets others again, and reaches it.
    let attached = h1.attach(&boxes[0], &["--network", "small"]);
    let ip = addresses(&attached)[0];
    let _server = boxes[0].udp_server("x0", 80);
    let reached = y.probe(Proto::Udp, SocketAddr::new(ip, 80), PATIENCE);
    assert_eq!(reached.name(), Some("x0"));
}

/// The address that a host has for itself on a network.
fn own_address(host: &Host, network: &Value) -> Ipv4Addr {
    let bridge = network["interface"].as_str().unwrap();
    let gateway = &network["subnets"][0]["gateway"];
    let words = ["-j", "-4", "address", "show", "dev", bridge];
    let output = host.netns.command("ip", &words).output().unwrap();
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    let all = shown[0]["addr_info"].as_array().unwrap();
    let own = all.iter().find(|one| one["local"] != *gateway).unwrap();
    own["local"].as_str().unwrap().parse().unwrap()
}

/// What the kernel leaves in the checksum of a UDP datagram for a device to complete: the sum over addresses, protocol and length.
fn incomplete(from: Ipv4Addr, to: Ipv4Addr, payload: u32) -> u32 {
    let half = |ip: Ipv4Addr| (ip.to_bits() >> 16) + (ip.to_bits() & 0xffff);
    let sum = half(from) + half(to) + 17 + payload + 8;
    let folded = (sum & 0xffff) + (sum >> 16);
    (folded & 0xffff) + (folded >> 16)
}

/// A network card that gets checksums inside VXLAN wrong, so that what it sends is dropped where it arrives: here what bears one
/// that is left to the card is dropped on the way out. That is told from a way that loses all, by both ends.
fn wrong_checksums() {
    let cluster = Cluster::start(&["h1", "h2"], 1);
    let network = cluster.network("web", &[]);
    let [h1, h2] = &cluster.hosts[..] else {
        unreachable!()
    };
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    h1.attach(&a, &["--network", "web"]);
    h2.attach(&b, &["--network", "web"]);
    until_path(h1, "h2", ["ok"; 4]);
    until_path(h2, "h1", ["ok"; 4]);
    let bridge = network["interface"].as_str().unwrap();
    let ips = [own_address(h1, &network), own_address(h2, &network)];
    let break_card = |n: usize| {
        let host = &cluster.hosts[n].netns;
        tool(host, "nft add table inet card");
        tool(
            host,
            "nft add chain inet card out { type filter hook output priority 400 ; }",
        );
        // Behind UDP, VXLAN, Ethernet and IP headers: 8 + 8 + 14 + 20 + 6 bytes.
        for payload in [52, 1422] {
            let sum = incomplete(ips[n], ips[1 - n], payload);
            tool(
                host,
                &format!("nft add rule inet card out udp dport 4789 @th,448,16 {sum} drop"),
            );
        }
    };
    break_card(0);
    until_path(h1, "h2", ["ok", "ok", "lost", "lost"]);
    until_path(h2, "h1", ["lost", "lost", "ok", "ok"]);
    let device = bridge.replace("nd-", "ndx-");
    let remedy = format!("ethtool -K {device} tx off");
    let says = |host: &Host, words: &str| {
        lab::wait_for(words, PATIENCE, || {
            let text = warnings(host);
            text.contains(words) && text.contains(&remedy)
        });
    };
    says(h1, "what this host sends to host h2 arrives only if");
    says(h2, "what host h1 sends to this one arrives only if");
    let shown = h1.netctl_raw(&["node", "inspect", "h2"]).stdout;
    assert!(shown.contains("full lost (wrong checksums)"), "{shown}");
    let line = "netd_path_ok{node=\"h2\",network=\"web\",way=\"to\",size=\"plain\"} 1";
    let metrics = h1.metrics();
    assert!(has_line(&metrics, line), "{metrics}");
    // At both ends, as where all hosts have the same card: each knows of both ways.
    break_card(1);
    until_path(h1, "h2", ["lost"; 4]);
    until_path(h2, "h1", ["lost"; 4]);
    says(h1, "what this host sends to host h2 arrives only if");
    says(h2, "what this host sends to host h1 arrives only if");
    // What the warning says helps.
    for host in [h1, h2] {
        host.netns.leave_no_checksums_to(&device);
    }
    until_path(h1, "h2", ["ok"; 4]);
    until_path(h2, "h1", ["ok"; 4]);
    // A way that loses everything is none of that.
    tool(&h2.netns, "nft add rule inet card out udp dport 4789 drop");
    lab::wait_for("nothing arrives", Duration::from_secs(30), || {
        warnings(h1).contains("nothing arrives from host h2")
    });
    assert!(!warnings(h1).contains("checksums"), "{}", warnings(h1));
    for host in [h1, h2] {
        tool(&host.netns, "nft delete table inet card");
    }
    until_path(h1, "h2", ["ok"; 4]);
    until_path(h2, "h1", ["ok"; 4]);
    lab::wait_for("nothing is wrong any more", PATIENCE, || {
        warnings(h1) == "[]" && warnings(h2) == "[]"
    });
}

/// Whether packets bear a checksum outside: on the wire, over each family, for each network.
fn outer_checksum() {
    for v6 in [false, true] {
        let mut cluster = Cluster::prepare(&["h1", "h2"], 1);
        for n in 0..2 {
            let address = cluster.address(n)[usize::from(v6)];
            cluster.hosts[n].add_args(&[&format!("--advertise={address}")]);
        }
        cluster.start_daemons();
        let network = cluster.network("web", &["--opt", "udpcsum=off"]);
        assert_eq!(network["opts"]["udpcsum"], "off");
        let other = ["--opt", if v6 { "port=4790" } else { "udpcsum=on" }];
        if v6 {
            let words = ["network", "create", "other", "--driver", "overlay"];
            assert_eq!(cluster.hosts[0].refused(&words), "invalid_opt");
        }
        cluster.network("other", &other);
        let [h1, h2] = &cluster.hosts[..] else {
            unreachable!()
        };
        // What bears a checksum outside is counted.
        tool(&h2.netns, "nft add table inet seen");
        tool(&h2.netns, "nft add counter inet seen summed");
        tool(
            &h2.netns,
            "nft add chain inet seen in { type filter hook input priority -400 ; }",
        );
        tool(
            &h2.netns,
            "nft add rule inet seen in udp dport 4789-4790 udp checksum != 0 counter name summed",
        );
        let summed = || {
            let words = ["-j", "list", "counter", "inet", "seen", "summed"];
            let output = h2.netns.command("nft", &words).output().unwrap();
            let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
            shown["nftables"][1]["counter"]["packets"].as_u64().unwrap()
        };
        let (a, b) = (Netns::new("a"), Netns::new("b"));
        h1.attach(&a, &["--network", "web"]);
        let attached = h2.attach(&b, &["--network", "web"]);
        let _server = b.udp_server("b", 80);
        let to = SocketAddr::new(addresses(&attached)[0], 80);
        assert_eq!(a.probe(Proto::Udp, to, PATIENCE).name(), Some("b"));
        until_path(h1, "h2", ["ok"; 4]);
        until_path(h2, "h1", ["ok"; 4]);
        assert_eq!(summed(), 0, "over {}", if v6 { "IPv6" } else { "IPv4" });
        let interface = network["interface"].as_str().unwrap();
        let device = interface.replace("nd-", "ndx-");
        assert!(h1.plan().is_empty(), "{:?}", h1.plan());
        let (c, d) = (Netns::new("c"), Netns::new("d"));
        h1.attach(&c, &["--network", "other"]);
        let attached = h2.attach(&d, &["--network", "other"]);
        let _server = d.udp_server("d", 80);
        let to = SocketAddr::new(addresses(&attached)[0], 80);
        assert_eq!(c.probe(Proto::Udp, to, PATIENCE).name(), Some("d"));
        assert!(summed() > 0, "the other network has them");
        let shown = h1
            .netns
            .command("ip", &["-d", "link", "show", "dev", &device]);
        let shown = { shown }.output().unwrap();
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        let word = if v6 { "udp6zerocsumtx" } else { "noudpcsum" };
        assert!(
            text.contains(word) && !text.contains("noudp6zerocsumtx"),
            "{text}"
        );
    }
}

fn the_route_decides_on_the_mtu() {
    let mut cluster = Cluster::prepare(&["h1", "h2"], 1);
    tool(
        &cluster.hosts[0].netns,
        "ip route add 192.0.2.2/32 dev eth0 mtu 1400",
    );
    cluster.start_daemons();
    lab::wait_for("h2 knows what h1's route takes", LONG, || {
        node(&cluster.hosts[1], "h1")["mtu"] == 1400
    });
    let network = cluster.network("web", &[]);
    assert_eq!(network["mtu"], 1350);
    cluster.network("wide", &["--mtu", "1450"]);
    let says = "network wide has MTU 1450, but only 1350 fit on the route to host h2";
    let h1 = &cluster.hosts[0];
    assert!(warnings(h1).contains(says), "{}", warnings(h1));
    tool(&h1.netns, "ip route del 192.0.2.2/32 dev eth0");
    lab::wait_for("the interface decides again", LONG, || {
        node(h1, "h1")["mtu"] == 1500
    });
}

fn entries_that_somebody_removes_come_back() {
    let cluster = Cluster::start(&["h1", "h2"], 1);
    let network = cluster.network("web", &[]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let h1 = &cluster.hosts[0];
    h1.attach(&a, &["--network", "web"]);
    let attached = cluster.hosts[1].attach(&b, &["--network", "web"]);
    let ip = addresses(&attached)[0];
    let mac = attached["endpoints"][0]["mac"].as_str().unwrap().to_owned();
    let bridge = network["interface"].as_str().unwrap().to_owned();
    let device = format!("ndx-{}", &network["id"].as_str().unwrap()[..8]);
    lab::wait_for("h1 knows b", PATIENCE, || h1.plan().is_empty());
    let repairs = || {
        let events = h1.netctl_raw(&["events"]).stdout;
        events.matches(" repaired ").count()
    };
    for (words, count) in [
        (format!("bridge fdb del {mac} dev {device} self"), 1),
        (format!("bridge fdb del {mac} dev {device} master"), 1),
        (format!("ip neigh del {ip} dev {bridge}"), 1),
        (
            format!("bridge fdb del 00:00:00:00:00:00 dev {device} dst 192.0.2.2 self"),
            1,
        ),
    ] {
        let before = repairs();
        tool(&h1.netns, &words);
        let begun = Instant::now();
        lab::wait_for(&words, PATIENCE, || repairs() >= before + count);
        eprintln!("{words}: repaired after {:?}", begun.elapsed());
        h1.assert_healthy();
    }
    // A container elsewhere that ends is no loss that anybody repairs.
    let before = repairs();
    cluster.hosts[1].ok(&["detach", "b"]);
    lab::wait_for("h1 hears of it", PATIENCE, || {
        node(h1, "h2")["networks"]
            .as_array()
            .is_some_and(Vec::is_empty)
    });
    h1.assert_healthy();
    assert_eq!(repairs(), before);
}
