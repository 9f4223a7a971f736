//! Overlay networks under trials: an underlay that loses packets, one of IPv6, one of jumbo frames; first packets to containers
//! that were just attached; an etcd with users, with certificates that are wrong in each way, restored from an older copy, and
//! with hostile records in it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "test code: a panic is how a test fails"
)]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use netd_tests::cluster::{Cluster, addresses};
use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::{self, Netns, PATIENCE, Proto};
use netd_tests::load::ByteServer;
use netd_tests::overlay::{self, Guest, Stream, store_is, until_store_is};
use serde_json::{Value, json};

fn main() -> std::process::ExitCode {
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![
        lab::test("an_underlay_that_loses_packets", losses),
        lab::test("an_underlay_of_ipv6", ipv6_underlay),
        lab::test("an_underlay_of_jumbo_frames", jumbo_frames),
        lab::test("the_first_packet_arrives", first_packet_arrives),
        lab::test("etcd_holds_hosts_to_their_keys", roles),
        lab::test("each_way_a_certificate_is_wrong", wrong_certificates),
        lab::test("a_store_from_an_older_copy", older_copy),
        lab::test("hostile_records_stay_out", hostile_records),
        lab::test("the_guide_works_as_it_is_written", guide),
    ])
}

fn warnings(host: &Host) -> String {
    let status = host.api("GET", "/v1/status", "").body;
    status["warnings"].to_string()
}

fn losses() {
    const BYTES: usize = 4 << 20;
    let cluster = Cluster::start(&["h1", "h2"], 1);
    cluster.network("web", &[]);
    let a = Guest::attach(&cluster.hosts[0], "a", &["--network", "web"]);
    let b = Guest::attach(&cluster.hosts[1], "b", &["--network", "web"]);
    let _echo = ByteServer::start(&b.netns, 7000);
    overlay::resolves(&a.netns, "b", &b.ips);
    // Of everything: VXLAN, and what hosts speak with etcd.
    let rules = "add table bridge lossy; \
        add chain bridge lossy forward { type filter hook forward priority 0; }; \
        add rule bridge lossy forward numgen random mod 100 < 5 counter drop";
    nft(&cluster.switch, rules);
    let stream = a
        .netns
        .run(|| std::net::TcpStream::connect((b.ips[0], 7000)));
    let stream = stream.unwrap();
    let mut sender = stream.try_clone().unwrap();
    let sent: Vec<u8> = (0..=250).cycle().take(BYTES).collect();
    let copy = sent.clone();
    let sending = std::thread::spawn(move || std::io::Write::write_all(&mut sender, &copy));
    let mut back = vec![0; BYTES];
    std::io::Read::read_exact(&mut &stream, &mut back).unwrap();
    sending.join().unwrap().unwrap();
    assert!(back == sent, "TCP carries all bytes as they were");
    overlay::resolves(&a.netns, "b", &b.ips);
    // Hosts hear of each other all the same.
    let c = Guest::attach(&cluster.hosts[1], "c", &["--network", "web"]);
    overlay::resolves(&a.netns, "c", &c.ips);
    let reached = a.netns.probe(Proto::Tcp, (c.ips[0], 80), PATIENCE);
    assert_eq!(reached.name(), Some("c"), "{reached:?}");
    for host in &cluster.hosts {
        host.assert_healthy();
        assert!(store_is(host, "connected"));
        assert_eq!(warnings(host), "[]", "nothing of netd's is wrong");
    }
    let output = cluster
        .switch
        .command("nft", &["list chain bridge lossy forward"])
        .output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(
        !text.contains("packets 0 "),
        "the underlay lost nothing: {text}"
    );
}

fn nft(netns: &Netns, rules: &str) {
    let made = netns.command("nft", &[rules]).output();
    let Ok(made) = made else {
        assert!(
            std::env::var_os("NETD_CI").is_none(),
            "nft is not installed"
        );
        lab::skip("nft is not installed: apt-get install nftables");
    };
    assert!(made.status.success(), "nft {rules}: {made:?}");
}

fn ipv6_underlay() {
    if !lab::has_ipv6() {
        lab::skip("this kernel has no IPv6");
    }
    let mut cluster = Cluster::prepare(&["h1", "h2", "h3"], 1);
    for n in 0..3 {
        let [_, address] = cluster.address(n);
        cluster.hosts[n].add_args(&[&format!("--advertise={address}")]);
    }
    cluster.start_daemons();
    overlay::every_pair_talks(&cluster, 1430);
    // No way around it: what passes between the hosts is VXLAN over IPv6.
    for host in &cluster.hosts {
        host.netns.down("eth0");
        host.netns
            .set_sysctl("net/ipv6/conf/eth0/disable_ipv6", "1");
        host.netns.up("eth0");
    }
    let containers = cluster.hosts[1].ok(&["inspect", "b1"]);
    let to = SocketAddr::new(addresses(&containers)[0], 80);
    let host = &cluster.hosts[0].netns;
    let closed = host.probe(Proto::Tcp, to, Duration::from_millis(500));
    assert!(!closed.reached(), "{closed:?}");
}

fn jumbo_frames() {
    let mut cluster = Cluster::prepare(&["h1", "h2", "h3"], 1);
    cluster.set_mtu(9000);
    cluster.start_daemons();
    overlay::every_pair_talks(&cluster, 8950);
    for host in &cluster.hosts {
        assert_eq!(warnings(host), "[]");
    }
}

/// One datagram, sent as soon as the attach is answered: its answer comes, though the sender's host has not heard of the
/// container, and of its host, yet.
/// Quicker than a question for an Ethernet address is repeated: the first one was answered.
const NOT_ASKED_AGAIN: Duration = Duration::from_millis(900);

fn first_packet_arrives() {
    let cluster = Cluster::start(&["h1", "h2"], 1);
    // The first container of its host on a network that others are on, and one more.
    let mut times = [Vec::new(), Vec::new()];
    for n in 0..5 {
        let network = format!("net{n}");
        cluster.network(&network, &[]);
        let a = Guest::attach(
            &cluster.hosts[0],
            &format!("a{n}"),
            &["--network", &network],
        );
        for (times, name) in times.iter_mut().zip(["first", "second"]) {
            times.push(first_packet(&cluster, &a, &network, &format!("{name}{n}")));
        }
    }
    for (mut times, what) in times.into_iter().zip(["the first of its host", "one more"]) {
        times.sort();
        let (p50, worst) = (times[times.len() / 2], times[times.len() - 1]);
        eprintln!("{what}: answered {p50:.1?} after its attach, {worst:.1?} at worst");
        assert!(worst < NOT_ASKED_AGAIN, "{what}: {times:?}");
    }
}

/// How long after the attach the answer is there.
fn first_packet(cluster: &Cluster, from: &Guest, network: &str, name: &str) -> Duration {
    let netns = Netns::new(name);
    let _server = netns.udp_server(name, 80);
    let socket = from.netns.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let body = json!({"netns": netns.path(), "name": name, "networks": [{"network": network}]});
    let made = cluster.hosts[1].api("POST", "/v1/containers", &body.to_string());
    let begin = Instant::now();
    assert_eq!(made.status, 201, "{made:?}");
    let to = SocketAddr::new(addresses(&made.body)[0], 80);
    socket.send_to(b"first", to).unwrap();
    let answered = socket.recv(&mut [0; 100]);
    let time = begin.elapsed();
    assert!(
        answered.is_ok(),
        "{name}: the first packet was lost: {answered:?}"
    );
    time
}

fn roles() {
    let mut cluster = Cluster::prepare(&["h1", "h2"], 1);
    let password = cluster.hosts[0].dir().join("password");
    std::fs::write(&password, "secret\n").unwrap();
    let users = |kinds: &[&str]| {
        ["h1", "h2"].map(|node| {
            // As docs/overlay.md says.
            let own = [
                format!("nodes/{node}"),
                format!("nodes/{node}/"),
                format!("endpoints/{node}/"),
            ];
            let shared = kinds.iter().map(ToString::to_string);
            (node, own.into_iter().chain(shared).collect())
        })
    };
    cluster.store[0].until_ready();
    cluster.store[0].add_users(&users(&["meta", "networks/", "blocks/", "addrs/"]));
    for host in &mut cluster.hosts {
        let user = format!("--etcd-user={}", host.netns.name());
        let file = format!("--etcd-password-file={}", password.display());
        host.add_args(&[&user, &file]);
    }
    cluster.start_daemons();
    cluster.network("web", &[]);
    let stream = Stream::start(&cluster, "web");
    stream.go_on();
    // Each forbidden write of one host is refused, each of its own is not.
    let token = cluster.store[0].token("h1");
    let write = |key: &str| cluster.store[0].put_as(&token, key, b"{}")["message"].clone();
    for key in [
        "nodes/h2",
        "nodes/h2/alive",
        "nodes/h11",
        "endpoints/h2/x",
        "endpoints/h2/x/y",
        "other",
    ] {
        assert_eq!(write(key), "etcdserver: permission denied", "{key}");
    }
    for key in [
        "nodes/h1/x",
        "endpoints/h1/x/y",
        "networks/x",
        "blocks/x",
        "addrs/x",
    ] {
        assert_eq!(write(key), Value::Null, "{key}");
    }
    // A host that may not write what it has to is told so; what runs goes on.
    let revoke =
        json!({"role": "h2", "key": BASE64_ENDPOINTS_H2, "range_end": BASE64_ENDPOINTS_H2_END});
    let root = cluster.store[0].token("root");
    let revoked = cluster.store[0].ask("/v3/auth/role/revoke", &root, &revoke);
    assert!(revoked["error"].is_null(), "{revoked}");
    let c = Netns::new("c");
    cluster.hosts[1].attach(&c, &["--network", "web"]);
    lab::wait_for("the refusal is in status", PATIENCE, || {
        let store = cluster.hosts[1].api("GET", "/v1/status", "").body["store"].to_string();
        store.contains("permission denied")
    });
    stream.go_on();
    let grant = json!({"name": "h2", "perm": {"permType": "READWRITE", "key": BASE64_ENDPOINTS_H2,
        "range_end": BASE64_ENDPOINTS_H2_END}});
    let granted = cluster.store[0].ask("/v3/auth/role/grant", &root, &grant);
    assert!(granted["error"].is_null(), "{granted}");
    until_store_is(&cluster.hosts[1], "connected");
    let attached = cluster.hosts[1].ok(&["inspect", "c"]);
    overlay::resolves(&stream.a, "c", &addresses(&attached));
    stream.end();
}

/// `/netd/v1/default/endpoints/h2/`, and what is behind all that begin so.
const BASE64_ENDPOINTS_H2: &str = "L25ldGQvdjEvZGVmYXVsdC9lbmRwb2ludHMvaDIv";
const BASE64_ENDPOINTS_H2_END: &str = "L25ldGQvdjEvZGVmYXVsdC9lbmRwb2ludHMvaDIw";

/// A certificate that signs itself, and its key.
fn certificate(dir: &Path, name: &str, of: &str, last_year: i32) -> [PathBuf; 2] {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new([of.to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(last_year, 1, 1);
    let made = params.self_signed(&key).unwrap();
    let [certificate, keys] = ["pem", "key"].map(|end| dir.join(format!("{name}.{end}")));
    std::fs::write(&certificate, made.pem()).unwrap();
    std::fs::write(&keys, key.serialize_pem()).unwrap();
    [certificate, keys]
}

/// Beside those of `210_overlay_life`: etcd's certificate has expired, is for another name, or there is none; a client's is not
/// the one that etcd trusts, or has expired. Each is said with what to look at, and heals by itself once it is right.
fn wrong_certificates() {
    let mut cluster = Cluster::prepare(&["h1", "h2", "h3"], 1);
    let dir = lab::scratch("certificates");
    let good = certificate(&dir, "good", "192.0.2.100", 2100);
    let expired = certificate(&dir, "expired", "192.0.2.100", 2001);
    let other = certificate(&dir, "other", "192.0.2.200", 2100);
    let clients = ["client", "stranger"].map(|name| certificate(&dir, name, "netd", 2100));
    let late = certificate(&dir, "late", "netd", 2001);
    let all = dir.join("all.pem");
    let trusted: String = [&good, &expired, &other]
        .map(|[pem, _]| std::fs::read_to_string(pem).unwrap())
        .concat();
    std::fs::write(&all, trusted).unwrap();
    let of_clients = dir.join("clients.pem");
    let known = [&clients[0], &late].map(|[pem, _]| std::fs::read_to_string(pem).unwrap());
    std::fs::write(&of_clients, known.concat()).unwrap();
    let serve = |cluster: &mut Cluster, with: Option<&[PathBuf; 2]>| {
        cluster.store[0].kill();
        cluster.store[0].tls =
            with.map(|[pem, key]| [pem.clone(), key.clone(), of_clients.clone()]);
        cluster.store[0].start();
    };
    serve(&mut cluster, Some(&good));
    for (n, [pem, key]) in [&clients[0], &clients[1], &late].into_iter().enumerate() {
        let flag = |name: &str, path: &Path| format!("--etcd-{name}={}", path.display());
        let flags = [flag("ca", &all), flag("cert", pem), flag("key", key)];
        cluster.hosts[n].add_args(&flags.each_ref().map(String::as_str));
        cluster.hosts[n].start_daemon();
    }
    until_store_is(&cluster.hosts[0], "connected");
    let says = |host: &Host, words: &str| {
        let what = format!("{} says {words:?}", host.netns.name());
        let store = || host.api("GET", "/v1/status", "").body["store"].to_string();
        lab::poll_until(&what, PATIENCE, || {
            let text = store();
            let is_said = text.contains("unavailable") && text.contains(words);
            is_said.then_some(())
        });
    };
    says(&cluster.hosts[1], "etcd-cert");
    says(&cluster.hosts[2], "etcd-cert");
    for (with, words) in [
        (Some(&expired), "validity"),
        (Some(&other), "not for that name"),
        (None, "does not speak TLS"),
    ] {
        serve(&mut cluster, with);
        says(&cluster.hosts[0], words);
    }
    serve(&mut cluster, Some(&good));
    until_store_is(&cluster.hosts[0], "connected");
}

fn older_copy() {
    let mut cluster = Cluster::start(&["h1", "h2"], 1);
    cluster.network("web", &[]);
    let stream = Stream::start(&cluster, "web");
    let gone = Guest::attach(&cluster.hosts[1], "gone", &["--network", "web"]);
    overlay::resolves(&stream.a, "gone", &gone.ips);
    let copy = cluster.store[0].copy();
    cluster
        .hosts
        .iter()
        .for_each(|host| until_store_is(host, "unavailable"));
    cluster.store[0].start();
    cluster
        .hosts
        .iter()
        .for_each(|host| until_store_is(host, "connected"));
    // Since then one came and one went.
    let c = Guest::attach(&cluster.hosts[1], "c", &["--network", "web"]);
    cluster.hosts[1].ok(&["detach", "gone"]);
    overlay::resolves(&stream.a, "c", &c.ips);
    cluster.store[0].restore(&copy);
    for host in &cluster.hosts {
        until_store_is(host, "unavailable");
    }
    cluster.store[0].start();
    cluster
        .hosts
        .iter()
        .for_each(|host| until_store_is(host, "connected"));
    assert_eq!(
        stream.a.probe(Proto::Tcp, (c.ips[0], 80), PATIENCE).name(),
        Some("c")
    );
    overlay::resolves(&stream.a, "c", &c.ips);
    lab::wait_for("the store has what is, and no more", PATIENCE, || {
        let keys = cluster.store[0].keys();
        let of_h2 = keys
            .iter()
            .filter(|(key, ..)| key.starts_with("endpoints/h2/"));
        // Its part in the network, b and c.
        of_h2.count() == 3
    });
    let events = cluster.hosts[0].netctl_raw(&["events"]).stdout;
    assert!(events.contains("emptied or restored"), "{events}");
    stream.go_on();
    stream.end();
    for host in &cluster.hosts {
        host.assert_healthy();
        assert_eq!(warnings(host), "[]");
    }
}

/// Records of a host `e` that are well formed, and say that it has what others have. One is named here.
fn mislead(
    cluster: &Cluster,
    network: &Value,
    own_ip: &str,
    station: &dyn Fn(&str, &[&str]) -> String,
) {
    let net = network["id"].as_str().unwrap();
    let gateway = network["subnets"][0]["gateway"].as_str().unwrap();
    let free = "02:00:00:00:00:99";
    // In the shared block, where nobody has claimed anything.
    let idle = match gateway.parse().unwrap() {
        IpAddr::V4(gateway) => std::net::Ipv4Addr::from(gateway.to_bits() + 1).to_string(),
        IpAddr::V6(_) => unreachable!(),
    };
    let b = cluster.hosts[1].ok(&["inspect", "b"]);
    let mac_of_b = b["endpoints"][0]["mac"].as_str().unwrap();
    for (id, mac, ip) in [
        ("d1", free, own_ip),
        ("d2", free, gateway),
        ("d3", free, "8.8.8.8"),
        // Its own address, and another's Ethernet address: frames to that one are not led astray.
        ("d4", mac_of_b, &idle),
    ] {
        let key = format!("endpoints/e/{net}/{id}");
        cluster.store[0].put(&key, station(mac, &[ip]).as_bytes());
    }
    lab::wait_for("it is named", PATIENCE, || {
        warnings(&cluster.hosts[0]).contains("that of a station of host h2")
    });
}

/// Values as nobody of good will writes them. Each is named, none is used, and what runs goes on.
fn hostile_records() {
    let cluster = Cluster::start(&["h1", "h2"], 1);
    let network = cluster.network("web", &[]);
    let stream = Stream::start(&cluster, "web");
    let net = network["id"].as_str().unwrap();
    let own = cluster.hosts[0].ok(&["inspect", "a"]);
    let own_ip = addresses(&own)[0].to_string();
    let version = json!({"major": 1, "minor": 0});
    let station = |mac: &str, ips: &[&str]| {
        json!({"version": version, "mac": mac, "ips": ips, "name": "evil"}).to_string()
    };
    let node = |address: &str| {
        json!({"version": version, "id": "e", "incarnation": "1", "address": address, "mtu": 1500, "software": "x"})
            .to_string()
    };
    let free = "02:00:00:00:00:99";
    let deep = format!("{}1{}", "[".repeat(20_000), "]".repeat(20_000));
    let bad: Vec<(String, String)> = [
        ("nodes/e1", node("0.0.0.0")),
        ("nodes/e2", node("224.0.0.1")),
        ("nodes/e3", node("127.0.0.1")),
        ("nodes/e4", deep),
        ("nodes/e5", "x".repeat(70 << 10)),
        ("nodes/e6", "\u{0}\u{1}".to_owned()),
        (
            "nodes/e7",
            json!({"version": {"major": -1, "minor": "x"}}).to_string(),
        ),
        (
            "endpoints/e/NET/c1",
            station("01:00:5e:00:00:01", &["10.9.9.9"]),
        ),
        ("endpoints/e/NET/c2", station(free, &[])),
        ("endpoints/e/NET/c3", station(free, &["ff02::1"])),
        (
            "endpoints/e/NET/c4",
            station(free, &["10.0.0.1", "10.0.0.2"]),
        ),
        ("blocks/NET/10.0.0.0-30", "[]".to_owned()),
        ("networks/NET", network.to_string()),
        ("networks/00000000000000000000000000000001", "{}".to_owned()),
    ]
    .map(|(key, value)| (key.replace("NET", net), value))
    .into();
    for (key, value) in &bad {
        cluster.store[0].put(key, value.as_bytes());
    }
    for host in &cluster.hosts {
        lab::wait_for("all bad records are named", PATIENCE, || {
            let warnings = warnings(host);
            bad.iter().all(|(key, _)| warnings.contains(key.as_str()))
        });
    }
    // Well formed, but of what is this host's own, or nobody's: a host that exists says so of its containers.
    cluster.store[0].put("nodes/e", node("192.0.2.200").as_bytes());
    mislead(&cluster, &network, &own_ip, &station);
    // Keys that nobody knows, and many of them.
    for n in 0..50 {
        cluster.store[0].put(&format!("later/{n}"), b"x");
    }
    stream.go_on();
    let c = Guest::attach(&cluster.hosts[1], "c", &["--network", "web"]);
    assert_eq!(
        stream.a.probe(Proto::Tcp, (c.ips[0], 80), PATIENCE).name(),
        Some("c")
    );
    for host in &cluster.hosts {
        host.assert_healthy();
        let warnings = warnings(host);
        assert_eq!(
            warnings.matches("a record of host e is not used").count(),
            4,
            "{warnings}"
        );
    }
    // All of it gone again: so are the warnings.
    for (key, _) in bad
        .iter()
        .filter(|(key, _)| !key.starts_with(&format!("networks/{net}")))
    {
        cluster.store[0].delete(key);
    }
    for host in &cluster.hosts {
        lab::wait_for("the warnings end with the records", PATIENCE, || {
            let warnings = warnings(host);
            !bad.iter().any(|(key, _)| {
                key != &format!("networks/{net}") && warnings.contains(key.as_str())
            })
        });
    }
    stream.end();
}

const GUIDE: &str = include_str!("../docs/overlay.md");

/// The lines of the guide that are commands, `host$ command`: who runs them, and the words.
fn commands() -> Vec<(&'static str, Vec<&'static str>)> {
    let line = |line: &'static str| {
        let (who, command) = line.strip_prefix("    ")?.split_once("$ ")?;
        Some((who, command.split(' ').collect()))
    };
    GUIDE.lines().filter_map(line).collect()
}

/// Every command of the guide, from nothing to a working overlay and back. Only the containers' process ids are others.
fn guide() {
    let mut cluster = Cluster::prepare(&["h1", "h2"], 1);
    cluster.store[0].wipe();
    for host in &mut cluster.hosts {
        host.clear_args();
    }
    let containers = [Netns::process("a"), Netns::process("b")];
    let pids = containers
        .each_ref()
        .map(|one| format!("pid:{}", one.pid()));
    let mut ran = 0;
    let mut etcd = None;
    for (who, words) in commands() {
        let [program, args @ ..] = &words[..] else {
            panic!("{who} runs nothing")
        };
        let args: Vec<String> = args
            .iter()
            .map(|word| {
                word.replace("pid:4711", &pids[0])
                    .replace("pid:4712", &pids[1])
            })
            .collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        if who == "etcd" {
            let mut command = cluster.store[0].netns.command(program, &args);
            command.current_dir(lab::scratch("guide"));
            etcd = Some(cluster.store[0].netns.start("etcd", command));
            cluster.store[0].until_ready();
        } else {
            let host = &mut cluster.hosts[usize::from(who == "h2")];
            assert_eq!(host.netns.name(), who);
            match (*program, &args[..]) {
                ("netd", args) => {
                    host.add_args(args);
                    host.start_daemon();
                }
                ("netctl", args) => step(&cluster, usize::from(who == "h2"), args, &containers),
                other => panic!("the guide has {other:?}"),
            }
        }
        ran += 1;
    }
    assert!(ran >= 12, "{ran} commands were found in the guide");
    assert!(etcd.is_some());
    for host in &cluster.hosts {
        host.assert_clean();
    }
}

/// A command of the guide, with what it says of it.
fn step(cluster: &Cluster, at: usize, args: &[&str], containers: &[Netns; 2]) {
    let host = &cluster.hosts[at];
    match args {
        ["node", "ls"] => {
            cluster.settle();
            let nodes = host.ok(args);
            let alive = nodes.as_array().unwrap().iter();
            assert!(
                alive
                    .map(|node| &node["state"])
                    .all(|state| state == "alive"),
                "{nodes}"
            );
        }
        ["network", "ls"] => lab::wait_for("the network is there too", PATIENCE, || {
            let networks = host.ok(args);
            networks
                .as_array()
                .unwrap()
                .iter()
                .any(|net| net["name"] == "web")
        }),
        ["dns", ..] => {
            lab::wait_for("the name is known", PATIENCE, || {
                !host.ok(args)["answers"].as_array().unwrap().is_empty()
            });
            let ip = addresses(&cluster.hosts[1].ok(&["inspect", "b"]))[0];
            let _server = containers[1].tcp_server("b", 80);
            let reached = containers[0].probe(Proto::Tcp, (ip, 80), PATIENCE);
            assert_eq!(reached.name(), Some("b"), "{reached:?}");
        }
        ["network", "rm", ..] => lab::wait_for("the other host has heard", PATIENCE, || {
            host.netctl(args).code == 0
        }),
        _ => drop(host.ok(args)),
    }
}
