//! What one endpoint or network can be given beside its addresses: whose default route counts, routes, settings of the
//! interface, extra hosts; and the names that mean something without being networks.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is how a test fails"
)]

use std::net::IpAddr;
use std::process::ExitCode;

use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::hickory_proto::rr::RecordType;
use netd_tests::lab::{self, Netns, PATIENCE, Proto, Transport};
use serde_json::Value;

fn main() -> ExitCode {
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![
        lab::test("gateway_priority", gateway_priority),
        lab::test("static_routes", static_routes),
        lab::test("settings_of_an_interface", settings_of_an_interface),
        lab::test("extra_hosts", extra_hosts),
        lab::test("host_and_none", host_and_none),
    ])
}

fn host_with_outside() -> (Host, Netns) {
    let (host, outside) = lab::uplink();
    (Host::on(host), outside)
}

/// The default routes of a family, as interface and metric, best first.
fn defaults(container: &Netns, v6: bool) -> Vec<(String, u32)> {
    let names: Vec<_> = container
        .links()
        .into_iter()
        .map(|l| (l.index, l.name))
        .collect();
    let name = |index: Option<u32>| {
        let found = names.iter().find(|(number, _)| Some(*number) == index);
        found.map_or_else(String::new, |(_, name)| name.clone())
    };
    let routes = container.routes().into_iter();
    let of_family = routes.filter(|r| r.target.is_ipv6() == v6 && r.prefix == 0 && r.via.is_some());
    let mut found: Vec<_> = of_family.map(|r| (name(r.link), r.metric)).collect();
    found.sort_by_key(|(_, metric)| *metric);
    found
}

fn names(found: Vec<(String, u32)>) -> Vec<String> {
    found.into_iter().map(|(name, _)| name).collect()
}

/// The network of the highest priority has the default route and the published ports; the others wait behind it.
fn gateway_priority() {
    let (mut host, outside) = host_with_outside();
    let v6: &[&str] = if lab::has_ipv6() { &["--ipv6"] } else { &[] };
    for name in ["n1", "n2", "n3"] {
        host.ok(&[&["network", "create", name], v6].concat());
    }
    host.ok(&["network", "create", "inside", "--internal"]);
    let c = Netns::new("c");
    let _server = c.tcp_server("c", 80);
    host.attach(
        &c,
        &[
            "--network=inside,gw-priority=99",
            "--network=n1",
            "--network=n2,gw-priority=-1",
            "--publish=8080:80",
        ],
    );
    assert_eq!(names(defaults(&c, false)), ["eth1", "eth2"]);
    let shown = host.ok(&["connect", "n3", "c", "--gw-priority", "10"]);
    assert_eq!(shown["endpoints"][3]["gw_priority"], 10);
    assert_eq!(names(defaults(&c, false)), ["eth3", "eth1", "eth2"]);
    if lab::has_ipv6() {
        assert_eq!(names(defaults(&c, true)), ["eth3", "eth1", "eth2"]);
        assert_eq!(
            outside.tcp_probe("[2001:db8::1]:8080", PATIENCE).name(),
            Some("c")
        );
    }
    assert_eq!(
        outside.tcp_probe("192.0.2.1:8080", PATIENCE).name(),
        Some("c")
    );
    host.assert_healthy();
    host.kill_daemon();
    host.start_daemon();
    host.assert_healthy();
    host.ok(&["disconnect", "n3", "c"]);
    assert_eq!(names(defaults(&c, false)), ["eth1", "eth2"]);
    assert_eq!(
        outside.tcp_probe("192.0.2.1:8080", PATIENCE).name(),
        Some("c")
    );
    host.assert_healthy();
    host.ok(&["connect", "n3", "c", "--ifname=eth3", "--gw-priority=10"]);
    assert_eq!(names(defaults(&c, false)), ["eth3", "eth1", "eth2"]);
    assert_eq!(
        outside.tcp_probe("192.0.2.1:8080", PATIENCE).name(),
        Some("c")
    );
    host.assert_healthy();
    host.done();
}

/// Each container of a network gets the network's routes; they are gone with it.
fn static_routes() {
    let host = Host::start("host");
    host.ok(&[
        "network",
        "create",
        "n1",
        "--subnet=10.1.0.0/24",
        "--route=10.99.0.0/16,via=10.1.0.254",
        "--route=10.98.0.0/16,metric=7",
    ]);
    let shown = host.ok(&["network", "inspect", "n1"]);
    assert_eq!(shown["routes"][0]["gateway"], "10.1.0.254");
    let (router, c) = (Netns::new("router"), Netns::new("c"));
    host.attach(&router, &["--network=n1,ip=10.1.0.254,allow=10.99.0.0/16"]);
    router.add_address("lo", "10.99.0.1/32");
    let _server = router.tcp_server("router", 80);
    host.attach(&c, &["--network=n1"]);
    assert_eq!(c.tcp_probe("10.99.0.1:80", PATIENCE).name(), Some("router"));
    let on_link = |c: &Netns| {
        let routes = c.routes();
        let target: IpAddr = "10.98.0.0".parse().unwrap();
        routes
            .iter()
            .any(|r| r.target == target && r.metric == 7 && r.via.is_none())
    };
    assert!(on_link(&c));
    // Somebody removes one: it comes back.
    c.del_route("10.99.0.0/16");
    lab::wait_for("the route is back", PATIENCE, || {
        c.probe(Proto::Tcp, "10.99.0.1:80", PATIENCE).reached()
    });
    host.assert_healthy();
    for (words, code) in [
        ("--route=10.99.0.0/16,via=10.2.0.1", "invalid_route"),
        ("--route=10.99.0.0/16,via=fd00::1", "invalid_route"),
        ("--route=0.0.0.0/0,via=10.3.0.9", "invalid_route"),
        ("--route=10.99.0.0", "invalid_route"),
        ("--route=10.99.0.0/16,color=red", "invalid_route"),
    ] {
        let create = ["network", "create", "n2", "--subnet=10.3.0.0/24", words];
        assert_eq!(host.refused(&create), code, "{words}");
    }
    host.done();
}

fn settings_of_an_interface() {
    let host = Host::start("host");
    host.ok(&["network", "create", "n1"]);
    host.ok(&["network", "create", "n2"]);
    let c = Netns::new("c");
    let setting = "sysctl=net.ipv4.conf.IFNAME.rp_filter=2";
    let shown = host.attach(&c, &["--network", &format!("n1,ifname=front,{setting}")]);
    let kept = &shown["endpoints"][0]["sysctls"];
    assert_eq!(kept["net.ipv4.conf.IFNAME.rp_filter"], "2");
    assert_eq!(
        c.sysctl("net/ipv4/conf/front/rp_filter").as_deref(),
        Some("2")
    );
    host.ok(&[
        "connect",
        "n2",
        "c",
        "--ifname=back",
        "--sysctl=net.ipv4.conf.IFNAME.log_martians=1",
    ]);
    assert_eq!(
        c.sysctl("net/ipv4/conf/back/log_martians").as_deref(),
        Some("1")
    );
    assert_eq!(
        c.sysctl("net/ipv4/conf/front/log_martians").as_deref(),
        Some("0")
    );
    c.set_sysctl("net/ipv4/conf/front/rp_filter", "0");
    let plan = host.plan();
    assert!(
        plan.len() == 1 && plan[0].contains("rp_filter=2"),
        "{plan:?}"
    );
    c.set_sysctl("net/ipv4/conf/front/rp_filter", "2");
    host.ok(&["detach", "c"]);
    for (setting, code) in [
        ("net.ipv4.ip_forward=1", "invalid_sysctl"),
        ("net.ipv4.conf.all.rp_filter=1", "invalid_sysctl"),
        ("net.ipv4.conf.IFNAME.rp_filter", "invalid_network"),
        // The kernel knows no such setting, or takes no such value.
        ("net.ipv4.conf.IFNAME.nope=1", "kernel_failed"),
        ("net.ipv4.conf.IFNAME.rp_filter=x", "kernel_failed"),
    ] {
        let network = format!("n1,sysctl={setting}");
        let refused = host.refuses_attach(&c, &["--network", &network]);
        assert_eq!(refused, code, "{setting}");
    }
    host.assert_healthy();
    host.done();
}

fn resolve(container: &Netns, name: &str, kind: RecordType) -> Vec<IpAddr> {
    let server = "127.0.0.11:53".parse().unwrap();
    let reply = container.dns_query(server, name, kind, Transport::Udp);
    reply.expect("an answer").ips()
}

fn gateway(container: &Value, endpoint: usize) -> IpAddr {
    let text = container["endpoints"][endpoint]["gateway"]
        .as_str()
        .unwrap();
    text.parse().unwrap()
}

fn extra_hosts() {
    let mut host = Host::start("host");
    host.ok(&["network", "create", "n1"]);
    host.ok(&["network", "create", "n2"]);
    let (c, other) = (Netns::new("c"), Netns::new("other"));
    let shown = host.attach(
        &c,
        &[
            "--network=n1",
            "--add-host=db.test:10.0.0.5",
            "--add-host=db.test:fd00::5",
            "--add-host=other:10.0.0.6",
            "--add-host=host.docker.internal:host-gateway",
        ],
    );
    let other_ip = host.attach(&other, &["--network=n1"])["endpoints"][0]["ipv4"].clone();
    let other_ip: IpAddr = other_ip
        .as_str()
        .unwrap()
        .split('/')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let v4 = |text: &str| -> Vec<IpAddr> { vec![text.parse().unwrap()] };
    assert_eq!(resolve(&c, "db.test", RecordType::A), v4("10.0.0.5"));
    assert_eq!(resolve(&c, "DB.test.", RecordType::AAAA), v4("fd00::5"));
    // Its own names go before those of its networks, and are nobody else's.
    assert_eq!(resolve(&c, "other", RecordType::A), v4("10.0.0.6"));
    assert_eq!(resolve(&c, "other.n1", RecordType::A), [other_ip]);
    assert_eq!(resolve(&other, "other", RecordType::A), [other_ip]);
    assert_eq!(
        resolve(&other, "db.test", RecordType::A),
        Vec::<IpAddr>::new()
    );
    let first = gateway(&shown, 0);
    assert_eq!(resolve(&c, "host.docker.internal", RecordType::A), [first]);
    // The host answers there.
    let _server = host.netns.tcp_server("host", 7000);
    assert_eq!(c.tcp_probe((first, 7000), PATIENCE).name(), Some("host"));

    let shown = host.ok(&["connect", "n2", "c", "--gw-priority=1"]);
    let second = gateway(&shown, 1);
    assert_eq!(resolve(&c, "host.docker.internal", RecordType::A), [second]);
    host.kill_daemon();
    host.start_daemon();
    assert_eq!(resolve(&c, "host.docker.internal", RecordType::A), [second]);
    assert_eq!(resolve(&c, "db.test", RecordType::A), v4("10.0.0.5"));
    for text in ["db", "db:x", "a b:10.0.0.5"] {
        let refused = host.refuses_attach(&other, &["--add-host", text]);
        assert_eq!(refused, "invalid_host", "{text}");
    }
    host.done();
}

/// `host` and `none` say what they mean, wherever they are used.
fn host_and_none() {
    let host = Host::start("host");
    let c = Netns::new("c");
    let path = c.path().to_string_lossy().into_owned();
    for (name, means) in [
        ("host", "host's own network namespace"),
        ("none", "nothing but lo"),
    ] {
        let network = format!("--network={name}");
        let commands: [&[&str]; 4] = [
            &["network", "create", name],
            &["network", "inspect", name],
            &["network", "rm", name],
            &["attach", &path, "--name=c", &network],
        ];
        for words in commands {
            let refused = host.netctl(words);
            assert_eq!(refused.error_code(), "predefined_in_use", "{words:?}");
            assert!(refused.stderr.contains(means), "{refused:?}");
        }
    }
    host.done();
}
