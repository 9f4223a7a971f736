//! netd's plugin among others: in front of Debian's in a chain, behind one, over a foreign IPAM, and as the IPAM of others.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is how a test fails"
)]

use std::path::Path;

use netd_tests::cni::{self, Cni, Sandbox, ip};
use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::{self, Netns, PATIENCE, Proto};
use serde_json::{Value, json};

fn main() -> std::process::ExitCode {
    cni::dispatch();
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![
        lab::test("tuning_may_change_mac_and_mtu_behind_netd", tuning),
        lab::test("portmap_and_firewall_behind_netd", portmap_and_firewall),
        lab::test("bandwidth_behind_netd", bandwidth),
        lab::test(
            "what_plugins_before_made_stays_in_the_result",
            behind_another,
        ),
        lab::test("host_local_chooses_the_addresses", host_local),
        lab::test(
            "host_local_goes_on_in_a_second_subnet",
            host_local_in_two_subnets,
        ),
        lab::test("static_chooses_the_addresses", static_addresses),
        lab::test("a_foreign_ipam_that_is_missing_is_named", a_missing_ipam),
        lab::test("netd_chooses_the_addresses_of_bridge", ipam_of_bridge),
    ])
}

fn base(plugin: &Cni<'_>, extra: Value) -> Value {
    let mut config = plugin.config("1.0.0", "pods", json!({"subnet": "10.99.0.0/24"}));
    cni::merge(&mut config, extra);
    config
}

fn chained(plugin: &str, extra: Value) -> Value {
    let mut config = json!({"cniVersion": "1.0.0", "name": "pods", "type": plugin});
    cni::merge(&mut config, extra);
    config
}

fn reaches(from: &Netns, to: &str, port: u16) -> Option<String> {
    let outcome = from.probe(Proto::Tcp, (to, port), PATIENCE);
    outcome.name().map(ToOwned::to_owned)
}

fn tuning() {
    cni::need(&["tuning"]);
    let host = Host::start("h1");
    let plugin = Cni::new(&host);
    let data = lab::scratch("tuning");
    let chain = [
        base(&plugin, json!({})),
        chained(
            "tuning",
            json!({"mac": "02:42:0a:63:00:99", "mtu": 1400, "dataDir": data,
                "sysctl": {"net.ipv4.conf.eth0.arp_announce": "2"}}),
        ),
    ];
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let made = plugin.add_all(&Sandbox::of(&a), &chain).unwrap();
    plugin.add(&Sandbox::of(&b), &chain[0]);
    assert_eq!(made["interfaces"][2]["mac"], "02:42:0a:63:00:99");
    let _server = a.tcp_server("a", 80);
    assert_eq!(reaches(&b, &ip(&made, false), 80).as_deref(), Some("a"));
    // netd looks at what was changed, and leaves it: an audit finds nothing to do.
    host.assert_healthy();
    host.ok(&["plan"]);
    let link = a.link("eth0").unwrap();
    assert_eq!(
        (link.mac.as_slice(), link.mtu),
        (&[2, 0x42, 0x0a, 0x63, 0, 0x99][..], 1400)
    );
    assert_eq!(reaches(&b, &ip(&made, false), 80).as_deref(), Some("a"));
    plugin.check_all(&Sandbox::of(&a), &chain, &made);
    plugin.del_all(&Sandbox::of(&a), &chain, &made);
    plugin.del(&Sandbox::of(&b), &chain[0]);
    host.done();
}

fn portmap_and_firewall() {
    cni::need(&["portmap", "firewall"]);
    let host = Host::start("h1");
    let plugin = Cni::new(&host);
    let mappings =
        json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
    let chain = [
        base(&plugin, json!({})),
        chained("portmap", json!({"snat": true, "runtimeConfig": mappings})),
        chained("firewall", json!({"backend": "iptables"})),
    ];
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let made = match plugin.add_all(&Sandbox::of(&a), &chain) {
        Ok(made) => made,
        Err(error) if error.to_string().contains("iptables") => {
            plugin.del(&Sandbox::of(&a), &chain[0]);
            assert!(std::env::var_os("NETD_CI").is_none(), "{error}");
            lab::skip(&format!("iptables does not work here: {error}"));
        }
        Err(error) => panic!("{error}"),
    };
    plugin.add(&Sandbox::of(&b), &chain[0]);
    let _server = a.tcp_server("a", 80);
    assert_eq!(
        reaches(&host.netns, "127.0.0.1", 8080).as_deref(),
        Some("a")
    );
    assert_eq!(reaches(&b, "10.99.0.1", 8080).as_deref(), Some("a"));
    assert_eq!(reaches(&b, &ip(&made, false), 80).as_deref(), Some("a"));
    // Without portmap: Debian's looks for a chain of IPv6 that it never made.
    plugin.check_all(&Sandbox::of(&a), &chain[..1], &made);
    plugin.del_all(&Sandbox::of(&a), &chain, &made);
    plugin.del(&Sandbox::of(&b), &chain[0]);
    host.done();
}

fn bandwidth() {
    cni::need(&["bandwidth"]);
    let host = Host::start("h1");
    let plugin = Cni::new(&host);
    let limits = json!({"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000});
    let chain = [
        base(&plugin, json!({})),
        chained("bandwidth", json!({"runtimeConfig": {"bandwidth": limits}})),
    ];
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let made = plugin.add_all(&Sandbox::of(&a), &chain).unwrap();
    plugin.add(&Sandbox::of(&b), &chain[0]);
    let _server = a.tcp_server("a", 80);
    assert_eq!(reaches(&b, &ip(&made, false), 80).as_deref(), Some("a"));
    assert!(
        host.netns.links().iter().any(|link| link.kind == "ifb"),
        "the limit of what the container sends"
    );
    host.assert_healthy();
    plugin.check_all(&Sandbox::of(&a), &chain, &made);
    plugin.del_all(&Sandbox::of(&a), &chain, &made);
    plugin.del(&Sandbox::of(&b), &chain[0]);
    host.done();
}

fn behind_another() {
    let host = Host::start("h1");
    let plugin = Cni::new(&host);
    let before = json!({"cniVersion": "1.0.0",
        "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": "/x"}],
        "ips": [{"address": "127.0.0.1/8", "interface": 0}], "routes": [], "dns": {"domain": "example.net"}});
    let a = Netns::new("a");
    let config = base(&plugin, json!({"prevResult": before}));
    let made = plugin.add(&Sandbox::of(&a), &config);
    let names: Vec<&str> = made["interfaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["name"].as_str().unwrap())
        .collect();
    assert_eq!((names[0], names[3], names.len()), ("lo", "eth0", 4));
    assert_eq!(made["ips"][0]["interface"], 0);
    assert_eq!(made["ips"][1]["interface"], 3);
    assert_eq!(made["dns"]["domain"], "example.net");
    plugin.del(&Sandbox::of(&a), &config);
    let nonsense = base(&plugin, json!({"prevResult": {"ips": [{"address": "x"}]}}));
    assert_eq!(
        plugin
            .call("ADD", Some(&Sandbox::of(&a)), &nonsense)
            .error_code(),
        6
    );
    assert_eq!(host.ok(&["ps"]), json!([]));
    host.done();
}

/// What host-local holds: a file for each address.
fn leases(dir: &Path) -> Vec<String> {
    let files = std::fs::read_dir(dir.join("pods"))
        .into_iter()
        .flatten()
        .flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("10.")).collect();
    names.sort();
    names
}

fn host_local() {
    cni::need(&["host-local"]);
    let host = Host::start("h1");
    let plugin = Cni::new(&host);
    let data = lab::scratch("leases");
    let ipam = json!({"ipam": {"type": "host-local", "dataDir": data, "routes": [{"dst": "192.0.2.0/24"}],
        "ranges": [[{"subnet": "10.22.0.0/16", "rangeStart": "10.22.0.10", "rangeEnd": "10.22.0.20"}]]}});
    let config = plugin.config("1.0.0", "pods", ipam);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let made = plugin.add(&Sandbox::of(&a), &config);
    plugin.add(&Sandbox::of(&b), &config);
    assert_eq!(ip(&made, false), "10.22.0.10");
    assert_eq!(made["ips"][0]["gateway"], "10.22.0.1");
    assert!(
        made["routes"]
            .as_array()
            .unwrap()
            .iter()
            .any(|route| route["dst"] == "192.0.2.0/24"),
        "{made}"
    );
    assert_eq!(leases(&data), ["10.22.0.10", "10.22.0.11"]);
    let _server = a.tcp_server("a", 80);
    assert_eq!(reaches(&b, "10.22.0.10", 80).as_deref(), Some("a"));
    let mut check = config.clone();
    check["prevResult"] = made;
    plugin.call("CHECK", Some(&Sandbox::of(&a)), &check).ok();
    // An ADD that fails behind the lease gives it back.
    let c = Netns::new("c");
    c.add_bridge("eth0");
    assert_eq!(
        plugin
            .call("ADD", Some(&Sandbox::of(&c)), &config)
            .error_code(),
        101
    );
    assert_eq!(leases(&data).len(), 2);
    for sandbox in [Sandbox::of(&a), Sandbox::of(&b)] {
        plugin.del(&sandbox, &config);
    }
    assert!(leases(&data).is_empty());
    host.done();
}

/// A range that is used up is followed by one of another subnet of the same family: the network has both.
fn host_local_in_two_subnets() {
    cni::need(&["host-local"]);
    let host = Host::start("h1");
    let plugin = Cni::new(&host);
    let data = lab::scratch("leases");
    let range =
        |subnet: &str, only: &str| json!({"subnet": subnet, "rangeStart": only, "rangeEnd": only});
    let ipam = json!({"ipam": {"type": "host-local", "dataDir": data, "ranges": [[
        range("10.22.0.0/24", "10.22.0.10"), range("10.22.1.0/24", "10.22.1.10")]]}});
    let config = plugin.config("1.0.0", "pods", ipam);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let made = [&a, &b].map(|netns| plugin.add(&Sandbox::of(netns), &config));
    assert_eq!(
        made.each_ref().map(|made| ip(made, false)),
        ["10.22.0.10", "10.22.1.10"]
    );
    assert_eq!(made[1]["ips"][0]["gateway"], "10.22.1.1");
    let _servers = [a.tcp_server("a", 80), b.tcp_server("b", 80)];
    assert_eq!(reaches(&b, "10.22.0.10", 80).as_deref(), Some("a"));
    assert_eq!(reaches(&a, "10.22.1.10", 80).as_deref(), Some("b"));
    assert_eq!(reaches(&host.netns, "10.22.1.10", 80).as_deref(), Some("b"));
    host.assert_healthy();
    for (netns, made) in [(&a, &made[0]), (&b, &made[1])] {
        let mut check = config.clone();
        check["prevResult"] = made.clone();
        plugin.call("CHECK", Some(&Sandbox::of(netns)), &check).ok();
        plugin.del(&Sandbox::of(netns), &config);
    }
    assert!(leases(&data).is_empty());
    host.done();
}

fn static_addresses() {
    cni::need(&["static"]);
    let host = Host::start("h1");
    let plugin = Cni::new(&host);
    let ipam = json!({"ipam": {"type": "static", "addresses": [{"address": "10.23.0.7/24", "gateway": "10.23.0.1"},
        {"address": "fd23::7/64", "gateway": "fd23::1"}]}});
    let config = plugin.config("1.0.0", "pods", ipam);
    let a = Netns::new("a");
    let made = plugin.add(&Sandbox::of(&a), &config);
    assert_eq!(
        (ip(&made, false), ip(&made, true)),
        ("10.23.0.7".to_owned(), "fd23::7".to_owned())
    );
    let _server = a.tcp_server("a", 80);
    assert_eq!(reaches(&host.netns, "fd23::7", 80).as_deref(), Some("a"));
    plugin.del(&Sandbox::of(&a), &config);
    host.done();
}

fn a_missing_ipam() {
    let host = Host::start("h1");
    let plugin = Cni::new(&host);
    let config = plugin.config(
        "1.0.0",
        "pods",
        json!({"ipam": {"type": "whereabouts-not"}}),
    );
    let a = Netns::new("a");
    let error = plugin.call("ADD", Some(&Sandbox::of(&a)), &config).error();
    assert_eq!(error["code"], 7);
    assert!(
        error["msg"].as_str().unwrap().contains("whereabouts-not"),
        "{error}"
    );
    // Who removed the program must not keep the pod.
    plugin.del(&Sandbox::of(&a), &config);
    let outside = plugin.config("1.0.0", "pods", json!({"ipam": {"type": "../../bin/true"}}));
    assert_eq!(
        plugin
            .call("ADD", Some(&Sandbox::of(&a)), &outside)
            .error_code(),
        7
    );
    host.done();
}

fn ipam_of_bridge() {
    cni::need(&["bridge"]);
    let host = Host::start("h1");
    let plugin = Cni::new(&host);
    for name in ["netd", "netd-cni"] {
        let config = json!({"cniVersion": "1.0.0", "name": "pods", "type": "bridge", "bridge": "cni0", "isGateway": true,
            "ipam": {"type": name, "socket": host.socket(), "subnet": "10.24.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]}});
        let (a, b) = (Netns::new("a"), Netns::new("b"));
        let made = plugin.add(&Sandbox::of(&a), &config);
        let other = plugin.add(&Sandbox::of(&b), &config);
        assert_ne!(ip(&made, false), ip(&other, false));
        assert_eq!(made["ips"][0]["gateway"], "10.24.0.1");
        assert_eq!(made["routes"], json!([{"dst": "0.0.0.0/0"}]), "{made}");
        let _server = a.tcp_server("a", 80);
        assert_eq!(reaches(&b, &ip(&made, false), 80).as_deref(), Some("a"));
        // netd made no interface, and leaves the other plugin's alone.
        assert!(a.links().iter().all(|link| link.alias.is_none()));
        host.assert_healthy();
        let mut check = config.clone();
        check["prevResult"] = made;
        plugin.call("CHECK", Some(&Sandbox::of(&a)), &check).ok();
        let again = plugin.call("ADD", Some(&Sandbox::of(&a)), &config);
        assert_ne!(again.code, 0, "bridge refuses it: {again:?}");
        assert_eq!(
            host.ok(&["ps"]).as_array().unwrap().len(),
            2,
            "a refused ADD keeps the address of the first"
        );
        plugin.del(&Sandbox::of(&a), &config);
        plugin.del(&Sandbox::of(&b), &config);
        assert_eq!(host.ok(&["ps"]), json!([]));
    }
    host.netns.del_link("cni0");
    host.done();
}
