//! Networks with several subnets of one family: each is used up in turn, and all of them are one link, with one set of
//! rules around it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is how a test fails"
)]

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use netd_tests::cni::{self, Cni, Sandbox};
use netd_tests::host::{Host, PROGRAMS, assert_same};
use netd_tests::lab::hickory_proto::rr::RecordType;
use netd_tests::lab::{self, Netns, Outcome, PATIENCE, Proto, Server, Transport, frame};
use serde_json::{Value, json};

fn main() -> ExitCode {
    cni::dispatch();
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![
        lab::test("used_up_in_turn", used_up_in_turn),
        lab::test("one_link", || one_link(false)),
        lab::test("one_link_bridge_nf_on", || one_link(true)),
        lab::test("kept_apart", kept_apart),
        lab::test("modes", modes),
        lab::test("a_liar_in_the_second_subnet", a_liar_in_the_second_subnet),
        lab::test("kept_and_declared", kept_and_declared),
        lab::test("pools_of_cni", pools_of_cni),
    ])
}

/// A small one first, so that it fills up.
const V4: [&str; 2] = ["10.1.0.0/29", "10.2.0.0/24"];
const V6: [&str; 2] = ["fd00:1::/125", "fd00:2::/64"];
const OUTSIDE: [&str; 2] = ["192.0.2.9", "2001:db8::9"];
const WAN: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// How many families there are to test.
fn families() -> usize {
    if lab::has_ipv6() { 2 } else { 1 }
}

/// A host on a wire to a neighbour that answers as `outside`.
fn world() -> (Host, Netns, [Server; 2]) {
    world_with(false)
}

fn world_with(bridge_nf: bool) -> (Host, Netns, [Server; 2]) {
    let (host, outside) = lab::uplink();
    host.filter_bridged(bridge_nf);
    let servers = [Proto::Tcp, Proto::Udp].map(|proto| outside.serve(proto, "outside", 80));
    (Host::on(host), outside, servers)
}

/// The options that give a network two subnets of each family, the second with a gateway of its own choice.
fn subnets() -> Vec<&'static str> {
    let v4 = [
        "--subnet=10.1.0.0/29",
        "--subnet=10.2.0.0/24",
        "--gateway=10.2.0.254",
        "--ip-range=10.2.0.128/25",
    ];
    let v6 = ["--subnet=fd00:1::/125", "--subnet=fd00:2::/64"];
    let v6 = v6.into_iter().filter(|_| lab::has_ipv6());
    v4.into_iter().chain(v6).collect()
}

fn create(host: &Host, name: &str, options: &[&str]) -> Value {
    host.ok(&[&["network", "create", name], &*subnets(), options].concat())
}

/// A container with its addresses, in both families where there are two.
struct Member {
    netns: Netns,
    ips: Vec<IpAddr>,
    shown: Value,
}

impl Member {
    fn new(host: &Host, name: &str, network: &str, options: &[&str]) -> Self {
        let netns = Netns::new(name);
        let network = format!("--network={network}");
        let shown = host.attach(&netns, &[&[&*network], options].concat());
        let endpoint = &shown["endpoints"][0];
        let ip = |key: &str| endpoint[key].as_str()?.split('/').next()?.parse().ok();
        Self {
            ips: ["ipv4", "ipv6"].into_iter().filter_map(ip).collect(),
            netns,
            shown,
        }
    }

    /// One with an address in each of the second subnets.
    fn in_second(host: &Host, name: &str, network: &str, options: &[&str]) -> Self {
        let ip6 = if lab::has_ipv6() {
            ",ip6=fd00:2::77"
        } else {
            ""
        };
        Self::new(host, name, &format!("{network},ip=10.2.0.77{ip6}"), options)
    }

    fn serve(&self) -> [Server; 2] {
        let name = self.netns.name();
        [Proto::Tcp, Proto::Udp].map(|proto| self.netns.serve(proto, name, 80))
    }
}

#[track_caller]
fn assert_seen_as(from: &Netns, to: SocketAddr, by: &str, source: IpAddr) {
    for proto in [Proto::Tcp, Proto::Udp] {
        let answer = from.probe(proto, to, PATIENCE);
        let seen = match &answer {
            Outcome::Reached { name, seen_source } => Some((name.as_str(), seen_source.ip())),
            _ => None,
        };
        assert_eq!(
            seen,
            Some((by, source)),
            "{} -> {to}: {answer:?}",
            from.name()
        );
    }
}

#[track_caller]
fn assert_refused(from: &Netns, to: SocketAddr) {
    let answer = from.tcp_probe(to, Duration::from_secs(1));
    assert!(!answer.reached(), "{} -> {to}: {answer:?}", from.name());
}

/// The first subnet is used up, then the second; an address that was asked for is from the subnet that has it, whatever
/// is free elsewhere. What is shown is what was asked for, over a restart too.
fn used_up_in_turn() {
    let (mut host, _outside, _servers) = world();
    let made = create(&host, "web", &[]);
    let shown = |at: usize| {
        (
            made["subnets"][at]["subnet"].as_str(),
            made["subnets"][at]["gateway"].as_str(),
        )
    };
    assert_eq!(shown(0), (Some(V4[0]), Some("10.1.0.1")));
    assert_eq!(shown(1), (Some(V4[1]), Some("10.2.0.254")));
    assert_eq!(made["subnets"][1]["ip_range"], "10.2.0.128/25");
    if lab::has_ipv6() {
        assert_eq!(shown(2), (Some(V6[0]), Some("fd00:1::1")));
        assert_eq!(shown(3), (Some(V6[1]), Some("fd00:2::1")));
    }
    let listed = host.netctl_raw(&["network", "ls"]).stdout;
    assert!(listed.contains("10.1.0.0/29, 10.2.0.0/24"), "{listed}");

    let mut members = vec![Member::in_second(&host, "asked", "web", &[])];
    // A /29 and a /125 have room for five and six beside the gateway.
    for n in 0..7 {
        members.push(Member::new(&host, &format!("m{n}"), "web", &[]));
    }
    let text = |at: usize, key: &str| members[at].shown["endpoints"][0][key].clone();
    assert_eq!(text(0, "ipv4"), "10.2.0.77/24");
    assert_eq!(
        (text(1, "ipv4"), text(1, "gateway")),
        (json!("10.1.0.2/29"), json!("10.1.0.1"))
    );
    assert_eq!(text(5, "ipv4"), "10.1.0.6/29");
    assert_eq!(
        (text(6, "ipv4"), text(6, "gateway")),
        (json!("10.2.0.128/24"), json!("10.2.0.254"))
    );
    assert_eq!(text(7, "ipv4"), "10.2.0.129/24");
    if lab::has_ipv6() {
        assert_eq!(text(0, "ipv6"), "fd00:2::77/64");
        assert_eq!(text(6, "ipv6"), "fd00:1::7/125");
        assert_eq!(
            (text(7, "ipv6"), text(7, "gateway6")),
            (json!("fd00:2::2/64"), json!("fd00:2::1"))
        );
    }
    assert_eq!(
        host.refused(&[
            "attach",
            &members[0].netns.path().to_string_lossy(),
            "--name=x",
            "--network=web,ip=10.3.0.1"
        ]),
        "netns_in_use"
    );
    let free = Netns::new("free");
    for (ip, code) in [
        ("10.3.0.1", "invalid_ip"),
        ("10.2.0.254", "invalid_ip"),
        ("10.1.0.3", "address_in_use"),
    ] {
        let network = format!("--network=web,ip={ip}");
        assert_eq!(host.refuses_attach(&free, &[&network]), code, "{ip}");
    }
    let before = host.state();
    host.kill_daemon();
    host.start_daemon();
    host.assert_healthy();
    assert_same("state over a restart", &before, &host.state());
    host.done();
}

/// Whatever subnet a container is in: neighbours by the link, both ways; outwards under the host's address; published ports
/// from outside, from the host and from the other subnet; nobody from outside at its own address; names.
fn one_link(bridge_nf: bool) {
    let (mut host, outside, _servers) = world_with(bridge_nf);
    let web = create(&host, "web", &[]);
    let a = Member::new(
        &host,
        "a",
        "web",
        &["--publish=8081:80", "--publish=8081:80/udp"],
    );
    let b = Member::in_second(
        &host,
        "b",
        "web",
        &["--publish=8080:80", "--publish=8080:80/udp"],
    );
    let _answering = [a.serve(), b.serve()];
    let bridge = web["interface"].as_str().unwrap();
    let routers = [
        ["10.1.0.0/29", "10.2.0.0/24"],
        ["fd00:1::/125", "fd00:2::/64"],
    ];
    for (prefixes, wan) in routers.iter().zip(WAN).take(families()) {
        for prefix in prefixes {
            outside.add_route(prefix, wan);
        }
    }
    for round in ["made", "adopted"] {
        for family in 0..families() {
            check_family(&host, &outside, (&a, &b), family);
        }
        on_the_wire(&a, &b, bridge, &host);
        names(&a, &b);
        host.assert_healthy();
        if round == "made" {
            host.kill_daemon();
            host.start_daemon();
            host.assert_healthy();
        }
    }
    // Somebody removes the way to the other subnet: it comes back.
    b.netns.del_route(V4[0]);
    lab::wait_for("the route is back", PATIENCE, || {
        b.netns.routes().iter().any(|route| route.prefix == 29)
    });
    host.assert_healthy();
    host.done();
}

fn check_family(host: &Host, outside: &Netns, (a, b): (&Member, &Member), family: usize) {
    let (ip_a, ip_b) = (a.ips[family], b.ips[family]);
    let gateway = |member: &Member| -> IpAddr {
        let key = ["gateway", "gateway6"][family];
        member.shown["endpoints"][0][key]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    };
    let at = |ip: IpAddr, port| SocketAddr::new(ip, port);
    let wan = WAN[family].parse().unwrap();
    let beyond: IpAddr = OUTSIDE[family].parse().unwrap();
    assert_seen_as(&a.netns, at(ip_b, 80), "b", ip_a);
    assert_seen_as(&b.netns, at(ip_a, 80), "a", ip_b);
    for (member, name, port) in [(a, "a", 8081), (b, "b", 8080)] {
        assert_seen_as(&member.netns, at(beyond, 80), "outside", wan);
        assert_seen_as(outside, at(wan, port), name, beyond);
        let own = gateway(member);
        assert_seen_as(&host.netns, at(member.ips[family], 80), name, own);
        assert_refused(outside, at(member.ips[family], 80));
        // By the host and back into the same bridge, from the other subnet and from its own.
        for from in [a, b] {
            assert_seen_as(&from.netns, at(wan, port), name, own);
            assert_seen_as(&from.netns, at(gateway(from), port), name, own);
        }
        assert_seen_as(&host.netns, at(own, port), name, own);
    }
    for (from, to) in [
        ("a", at(ip_b, 80)),
        ("b", at(ip_a, 80)),
        ("b", at(beyond, 80)),
        ("host", at(ip_b, 80)),
    ] {
        let trace = host.ok(&["trace", from, &to.to_string()]);
        assert_eq!(trace["delivered"], true, "{trace}");
    }
    let trace = host.ok(&["trace", OUTSIDE[family], &at(ip_b, 80).to_string()]);
    let verdict = trace["verdict"].as_str().unwrap();
    assert!(verdict.contains("drop_direct"), "{trace}");
}

/// What goes from subnet to subnet is sent to the neighbour's Ethernet address: no frame of it goes by the gateway.
fn on_the_wire(a: &Member, b: &Member, bridge: &str, host: &Host) {
    let mac = |netns: &Netns, link: &str| -> Vec<u8> { netns.link(link).unwrap().mac };
    let (mac_a, mac_b) = (mac(&a.netns, "eth0"), mac(&b.netns, "eth0"));
    assert_ne!(mac_a, mac(&host.netns, bridge));
    for (from, to) in a.ips.iter().zip(&b.ips) {
        let sniffer = b.netns.sniff("eth0");
        let to = SocketAddr::new(*to, 80);
        assert!(a.netns.udp_probe(to, PATIENCE).reached());
        let asked = sniffer.wait_for(PATIENCE, |seen| {
            frame::parse_udp(seen)
                .is_some_and(|(source, target, _)| source.ip() == *from && target == to)
        });
        let asked = asked.expect("the question");
        assert_eq!((&asked[..6], &asked[6..12]), (&*mac_b, &*mac_a));
    }
}

fn names(a: &Member, b: &Member) {
    let resolver = "127.0.0.11:53".parse().unwrap();
    let ask = |name: &str, kind| {
        let reply = a.netns.dns_query(resolver, name, kind, Transport::Udp);
        reply.unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    assert_eq!(ask("b", RecordType::A).ips(), [b.ips[0]]);
    if let Some(ip) = b.ips.get(1) {
        assert_eq!(ask("b", RecordType::AAAA).ips(), [*ip]);
    }
    for (name, word) in [
        ("77.0.2.10.in-addr.arpa", "b.web"),
        ("254.0.2.10.in-addr.arpa", "host"),
    ] {
        let reply = ask(name, RecordType::PTR);
        let told = format!("{:?}", reply.answers);
        assert!(told.contains(word), "{name}: {told}");
    }
    // Nobody has it, and it is ours: nobody outside is asked.
    assert!(
        ask("99.0.2.10.in-addr.arpa", RecordType::PTR)
            .answers
            .is_empty()
    );
}

/// Another network's containers, and with `icc=false` the neighbours in the other subnet, stay away from both.
fn kept_apart() {
    let (host, _outside, _servers) = world();
    create(&host, "web", &["--icc=false"]);
    host.ok(&["network", "create", "other", "--ipv6"]);
    let a = Member::new(&host, "a", "web", &[]);
    let b = Member::in_second(&host, "b", "web", &["--publish=8080:80"]);
    let other = Member::new(&host, "other", "other", &["--publish=8090:80"]);
    let _answering = [a.serve(), b.serve(), other.serve()];
    for (family, wan) in WAN.into_iter().enumerate().take(families()) {
        let at = |member: &Member| SocketAddr::new(member.ips[family], 80);
        for (from, to) in [
            (&a, &b),
            (&b, &a),
            (&other, &a),
            (&other, &b),
            (&a, &other),
            (&b, &other),
        ] {
            assert_refused(&from.netns, at(to));
        }
        // What is published is for all.
        let wan = |port| SocketAddr::new(wan.parse().unwrap(), port);
        for (from, port, name) in [(&a, 8080, "b"), (&other, 8080, "b"), (&b, 8090, "other")] {
            let answer = from.netns.tcp_probe(wan(port), PATIENCE);
            assert_eq!(answer.name(), Some(name), "{answer:?}");
        }
    }
    host.assert_healthy();
    host.done();
}

/// The modes of a network are those of all its subnets.
fn modes() {
    let (host, outside, _servers) = world();
    for (prefix, wan) in [(V4[1], WAN[0]), (V6[1], WAN[1])]
        .into_iter()
        .take(families())
    {
        outside.add_route(prefix, wan);
    }
    for (options, leads_out, is_reached, on_host) in [
        (&["--internal"][..], false, false, true),
        (&["--mode=isolated"], false, false, false),
        (&["--mode=routed"], true, true, true),
        (&["--opt=l3=on"], true, false, true),
    ] {
        create(&host, "web", options);
        let publish: &[&str] = if leads_out {
            &["--publish=8080:80"]
        } else {
            &[]
        };
        let a = Member::new(&host, "a", "web", &[]);
        let b = Member::in_second(&host, "b", "web", publish);
        let _answering = [a.serve(), b.serve()];
        if options == ["--opt=l3=on"] && families() == 2 {
            // The host tells of another way; who takes it meets nobody there, and waits for half a minute.
            let setting = a.netns.sysctl("net/ipv6/conf/eth0/accept_redirects");
            assert_eq!(setting.as_deref(), Some("0"));
        }
        for family in 0..families() {
            let at = |ip: IpAddr| SocketAddr::new(ip, 80);
            let (ip_a, ip_b) = (a.ips[family], b.ips[family]);
            assert_seen_as(&a.netns, at(ip_b), "b", ip_a);
            assert_seen_as(&b.netns, at(ip_a), "a", ip_b);
            let beyond: IpAddr = OUTSIDE[family].parse().unwrap();
            let seen = if is_reached {
                ip_b
            } else {
                WAN[family].parse().unwrap()
            };
            if leads_out {
                assert_seen_as(&b.netns, at(beyond), "outside", seen);
            } else {
                assert_refused(&b.netns, at(beyond));
            }
            let reached = outside
                .tcp_probe(at(ip_b), Duration::from_secs(1))
                .reached();
            assert_eq!(reached, is_reached, "{options:?}: from outside");
            let reached = host
                .netns
                .tcp_probe(at(ip_b), Duration::from_secs(1))
                .reached();
            assert_eq!(reached, on_host, "{options:?}: from the host");
        }
        host.assert_healthy();
        for name in ["a", "b"] {
            host.ok(&["detach", name]);
        }
        host.ok(&["network", "rm", "web"]);
    }
    host.done();
}

/// A container of the second subnet takes no address of the first, nor a gateway's: what it sends so is dropped, where
/// the guard is off it arrives.
fn a_liar_in_the_second_subnet() {
    const TIMES: u64 = 3;
    let (host, _outside, _servers) = world();
    for (options, passes) in [(&["--opt=antispoof=off"][..], true), (&[], false)] {
        let web = create(&host, "web", options);
        let victim = Member::new(&host, "victim", "web", &[]);
        let witness = Member::in_second(&host, "witness", "web", &[]);
        let liar = Member::new(&host, "liar", "web,ip=10.2.0.88", &[]);
        let mac =
            |netns: &Netns| -> frame::Mac { netns.link("eth0").unwrap().mac.try_into().unwrap() };
        let macs = (mac(&liar.netns), mac(&witness.netns));
        let mut stolen: Vec<IpAddr> = victim.ips.clone();
        let subnets = web["subnets"].as_array().unwrap();
        stolen.extend(
            subnets
                .iter()
                .map(|s| s["gateway"].as_str().unwrap().parse::<IpAddr>().unwrap()),
        );
        for ip in stolen {
            let target = witness.ips[usize::from(ip.is_ipv6())];
            let (from, to) = (SocketAddr::new(ip, 4000), SocketAddr::new(target, 4000));
            let forged = frame::udp(macs, from, to, b"I am somebody else");
            let count = || host.ok(&["status"])["drops"]["spoofed"].as_u64().unwrap();
            let before = count();
            let sniffer = witness.netns.sniff("eth0");
            for _ in 0..TIMES {
                liar.netns.send_frame("eth0", &forged);
            }
            if passes {
                let arrived =
                    |seen: &[u8]| frame::parse_udp(seen).is_some_and(|(source, ..)| source == from);
                assert!(sniffer.wait_for(PATIENCE, arrived).is_some(), "{ip}");
            } else {
                lab::wait_for(&format!("{ip} is refused"), PATIENCE, || {
                    count() >= before + TIMES
                });
            }
        }
        for name in ["victim", "witness", "liar"] {
            host.ok(&["detach", name]);
        }
        host.ok(&["network", "rm", "web"]);
    }
    host.done();
}

/// Reservations in either subnet, and networks of files: the order of the subnets counts.
fn kept_and_declared() {
    let (mut host, _outside, _servers) = world();
    let file = |subnets: &str| {
        let path = host.dir().join("web.toml");
        std::fs::write(
            &path,
            format!("[[network]]\nname = \"web\"\nsubnets = [{subnets}]\n"),
        )
        .unwrap();
        path.to_string_lossy().into_owned()
    };
    let both = file("\"10.1.0.0/29\", \"10.2.0.0/24\"");
    for (made, was) in [(json!(["web"]), json!([])), (json!([]), json!(["web"]))] {
        let answer = host.ok(&["apply", "-f", &both]);
        assert_eq!(answer, json!({"created": made, "unchanged": was}));
    }
    for other in ["\"10.2.0.0/24\", \"10.1.0.0/29\"", "\"10.1.0.0/29\""] {
        assert_eq!(
            host.refused(&["apply", "-f", &file(other)]),
            "network_exists"
        );
    }
    let kept = host.ok(&["network", "reserve", "web", "db", "--ip=10.2.0.9"]);
    assert_eq!(kept["reservations"]["db"]["ip"], "10.2.0.9");
    host.kill_daemon();
    host.start_daemon();
    assert_eq!(
        host.refused(&["network", "reserve", "web", "x", "--ip=10.2.0.9"]),
        "address_in_use"
    );
    assert_eq!(
        host.refused(&["network", "reserve", "web", "x", "--ip=10.3.0.9"]),
        "invalid_ip"
    );
    let db = Member::new(&host, "db", "web", &[]);
    assert_eq!(db.shown["endpoints"][0]["ipv4"], "10.2.0.9/24");
    for (subnets, code) in [
        (["10.8.0.0/24", "10.8.0.0/25"], "invalid_subnet"),
        (["10.8.0.0/24", "10.2.0.0/16"], "subnet_in_use"),
        (["10.8.0.0/24", "192.0.2.0/24"], "subnet_in_use"),
    ] {
        let [first, second] = subnets.map(|subnet| format!("--subnet={subnet}"));
        assert_eq!(
            host.refused(&["network", "create", "n", &first, &second]),
            code,
            "{subnets:?}"
        );
    }
    host.assert_healthy();
    host.done();
}

/// Several pools in one of the lists that host-local calls ranges: the next one where those before it are full.
fn pools_of_cni() {
    let host = Host::start("h1");
    let plugin = Cni::new(&host);
    let pools = json!({"ranges": [[{"subnet": "10.1.0.0/30"}, {"subnet": "10.2.0.0/30", "gateway": "10.2.0.2"}]]});
    let config = plugin.config("1.1.0", "pods", pools);
    let pods = ["a", "b", "c"].map(Netns::new);
    let [a, b, _] = &pods;
    let sandboxes = pods.each_ref().map(Sandbox::of);
    let expected = [("10.1.0.2/30", "10.1.0.1"), ("10.2.0.1/30", "10.2.0.2")];
    for (sandbox, (address, gateway)) in sandboxes.iter().zip(expected) {
        assert_eq!(plugin.call("STATUS", None, &config).ok(), Value::Null);
        let made = plugin.add(sandbox, &config);
        let first = &made["ips"][0];
        assert_eq!(
            (&first["address"], &first["gateway"]),
            (&json!(address), &json!(gateway))
        );
        let mut check = config.clone();
        check["prevResult"] = made;
        plugin.call("CHECK", Some(sandbox), &check).ok();
    }
    let servers = [a, b].map(|pod| pod.tcp_server(pod.name(), 80));
    for (from, to, name) in [(a, "10.2.0.1:80", "b"), (b, "10.1.0.2:80", "a")] {
        assert_eq!(from.tcp_probe(to, PATIENCE).name(), Some(name));
    }
    drop(servers);
    let full = plugin.call("STATUS", None, &config).error();
    assert_eq!(
        (&full["code"], &full["details"]),
        (&json!(50), &json!("pool_exhausted"))
    );
    let refused = plugin.call("ADD", Some(&sandboxes[2]), &config).error();
    assert!(
        refused["msg"]
            .as_str()
            .unwrap()
            .contains("10.1.0.0/30, 10.2.0.0/30"),
        "{refused}"
    );
    for sandbox in &sandboxes[..2] {
        plugin.del(sandbox, &config);
    }
    host.done();
}
