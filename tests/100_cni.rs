//! The CNI plugin against a running daemon: verbs, versions, errors, what is left behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is how a test fails"
)]

use netd_tests::cni::{self, Cni, Sandbox, ip};
use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::hickory_proto::rr::RecordType;
use netd_tests::lab::{self, Netns, PATIENCE, Proto, Transport};
use serde_json::{Value, json};

#[path = "cni/failures.rs"]
mod failures;
#[path = "cni/traffic.rs"]
mod traffic;

fn main() -> std::process::ExitCode {
    cni::dispatch();
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![
        lab::test(
            "add_check_and_del_in_every_version",
            add_check_and_del_in_every_version,
        ),
        lab::test(
            "a_second_add_is_an_error_even_when_it_is_the_same",
            a_second_add_is_an_error,
        ),
        lab::test(
            "one_container_has_several_attachments",
            one_container_has_several_attachments,
        ),
        lab::test(
            "del_succeeds_whatever_is_missing",
            del_succeeds_whatever_is_missing,
        ),
        lab::test(
            "without_a_daemon_add_waits_and_del_is_kept",
            failures::without_a_daemon,
        ),
        lab::test(
            "gc_removes_what_its_own_network_does_not_list",
            gc_removes_what_is_not_listed,
        ),
        lab::test("pods_have_their_names", pods_have_their_names),
        lab::test(
            "a_pod_may_come_back_before_its_predecessor_is_deleted",
            a_pod_may_come_back,
        ),
        lab::test(
            "ports_are_published_on_the_addresses_asked_for",
            traffic::ports_are_published,
        ),
        lab::test(
            "rates_are_limited_in_both_directions",
            traffic::rates_are_limited,
        ),
        lab::test(
            "the_list_is_installed_last_and_removed_first",
            failures::the_list_is_installed_last,
        ),
        lab::test(
            "addresses_and_macs_can_be_asked_for",
            addresses_and_macs_can_be_asked_for,
        ),
        lab::test("a_failed_add_leaves_nothing", a_failed_add_leaves_nothing),
        lab::test(
            "status_says_whether_an_add_would_be_served",
            failures::status,
        ),
        lab::test(
            "environment_and_configuration_errors_have_their_codes",
            failures::errors_have_their_codes,
        ),
        lab::test(
            "a_container_that_ended_without_del_is_collected_at_start",
            dead_namespaces_are_collected,
        ),
        lab::test("fifty_pods_at_once_come_and_go", fifty_pods_at_once),
    ])
}

fn add_check_and_del_in_every_version() {
    let host = Host::start("h1");
    let plugin = Cni::new(&host);
    for version in [
        "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
    ] {
        let extra = json!({"subnets": ["10.99.0.0/24", "fd99::/64"]});
        let config = plugin.config(version, "pods", extra);
        let (a, b) = (Netns::new("a"), Netns::new("b"));
        let (sa, sb) = (Sandbox::of(&a), Sandbox::of(&b));
        let made = plugin.add(&sa, &config);
        plugin.add(&sb, &config);
        assert_eq!(made["cniVersion"], version);
        let (v4, v6) = addresses_of(version, &made, &sa);
        let _server = a.tcp_server("a", 80);
        for address in [&v4, &v6] {
            assert_eq!(
                b.probe(Proto::Tcp, (address.as_str(), 80), PATIENCE).name(),
                Some("a"),
                "{version}"
            );
            // The kubelet's probes come from the node.
            let probe = host
                .netns
                .probe(Proto::Tcp, (address.as_str(), 80), PATIENCE);
            assert_eq!(probe.name(), Some("a"), "{version}");
        }
        let mut check = config.clone();
        check["prevResult"] = made;
        let said = plugin.call("CHECK", Some(&sa), &check);
        if ["0.4.0", "1.0.0", "1.1.0"].contains(&version) {
            assert_eq!(said.ok(), Value::Null);
        } else {
            assert_eq!(said.error_code(), 1, "CHECK came with 0.4.0");
        }
        plugin.del(&sa, &config);
        plugin.del(&sb, &config);
        assert!(
            a.links().iter().all(|link| link.name == "lo"),
            "{:?}",
            a.links()
        );
        assert_eq!(host.ok(&["ps"]), json!([]));
    }
    host.done();
}

/// The addresses of a result, after a look at its form.
fn addresses_of(version: &str, made: &Value, sandbox: &Sandbox) -> (String, String) {
    if ["0.1.0", "0.2.0"].contains(&version) {
        assert!(made.get("interfaces").is_none() && made.get("ips").is_none());
        assert_eq!(made["ip4"]["gateway"], "10.99.0.1");
        assert_eq!(
            made["ip4"]["routes"],
            json!([{"dst": "0.0.0.0/0", "gw": "10.99.0.1"}])
        );
        let text = |key: &str| {
            made[key]["ip"]
                .as_str()
                .unwrap()
                .split('/')
                .next()
                .unwrap()
                .to_owned()
        };
        return (text("ip4"), text("ip6"));
    }
    let own = &made["interfaces"][2];
    assert_eq!(
        (own["name"].as_str(), own["sandbox"].as_str()),
        (Some("eth0"), Some(sandbox.netns.as_str()))
    );
    assert!(made["interfaces"][0].get("sandbox").is_none());
    assert_eq!(own.get("mtu").is_some(), version == "1.1.0");
    for (at, (family, gateway)) in [("4", "10.99.0.1"), ("6", "fd99::1")]
        .into_iter()
        .enumerate()
    {
        let ip = &made["ips"][at];
        assert_eq!(ip["interface"], 2);
        assert_eq!(ip["gateway"], gateway);
        assert_eq!(
            ip.get("version").and_then(Value::as_str),
            version.starts_with("0.").then_some(family)
        );
    }
    assert_eq!(
        made["routes"][0],
        json!({"dst": "0.0.0.0/0", "gw": "10.99.0.1"})
    );
    assert_eq!(made["dns"]["nameservers"], json!(["127.0.0.11"]));
    (ip(made, false), ip(made, true))
}

fn a_second_add_is_an_error() {
    let host = Host::start("h1");
    let plugin = Cni::new(&host);
    let config = plugin.config("1.1.0", "pods", json!({"subnet": "10.99.0.0/24"}));
    let a = Netns::new("a");
    plugin.add(&Sandbox::of(&a), &config);
    let before = host.state();
    let error = plugin.call("ADD", Some(&Sandbox::of(&a)), &config).error();
    assert_eq!(error["code"], 101);
    assert!(error["msg"].as_str().unwrap().contains("eth0"), "{error}");
    netd_tests::host::assert_same("a refused ADD", &before, &host.state());
    plugin.del(&Sandbox::of(&a), &config);
    host.done();
}

fn one_container_has_several_attachments() {
    let host = Host::start("h1");
    let plugin = Cni::new(&host);
    let first = plugin.config("1.1.0", "front", json!({"subnet": "10.98.0.0/24"}));
    let second = plugin.config(
        "1.1.0",
        "back",
        json!({"subnet": "10.99.0.0/24", "routes": [{"dst": "192.0.2.0/24"}]}),
    );
    let a = Netns::new("a");
    let (eth0, net1) = (Sandbox::of(&a), Sandbox::of(&a).on("net1"));
    plugin.add(&eth0, &first);
    let made = plugin.add(&net1, &second);
    assert_eq!(made["interfaces"][2]["name"], "net1");
    // The default route stays with the first; the second has the one asked for.
    assert_eq!(made["routes"], json!([{"dst": "192.0.2.0/24"}]));
    let routes: Vec<String> = a
        .routes()
        .iter()
        .map(|route| format!("{route:?}"))
        .collect();
    assert!(
        routes
            .iter()
            .any(|route| route.contains("192.0.2.0") && route.contains("10.99.0.1")),
        "{routes:?}"
    );
    assert_eq!(host.ok(&["ps"]).as_array().unwrap().len(), 1);
    host.assert_healthy();
    // In any order: the first may go first.
    plugin.del(&eth0, &first);
    let names: Vec<String> = a.links().into_iter().map(|link| link.name).collect();
    assert!(
        names.contains(&"net1".to_owned()) && !names.contains(&"eth0".to_owned()),
        "{names:?}"
    );
    host.assert_healthy();
    plugin.add(&eth0, &first);
    plugin.del(&net1, &second);
    plugin.del(&eth0, &first);
    assert_eq!(host.ok(&["ps"]), json!([]));
    host.done();
}

fn del_succeeds_whatever_is_missing() {
    let host = Host::start("h1");
    let plugin = Cni::new(&host);
    let config = plugin.config("1.1.0", "pods", json!({"subnet": "10.99.0.0/24"}));
    let a = Netns::new("a");
    let sandbox = Sandbox::of(&a);
    // Never added: not the container, not the network.
    plugin.del(&sandbox, &config);
    plugin.add(&sandbox, &config);
    // Another interface, and ids that begin like this one's or are its name.
    plugin.del(&sandbox.on("eth7"), &config);
    let short = Sandbox {
        id: sandbox.id[..12].to_owned(),
        ..sandbox.clone()
    };
    plugin.del(&short, &config);
    assert_eq!(host.ok(&["ps"]).as_array().unwrap().len(), 1);
    // The namespace is not said, then gone; the second time there is nothing.
    let unsaid = Sandbox {
        netns: String::new(),
        ..sandbox.clone()
    };
    plugin.del(&unsaid, &config);
    assert_eq!(host.ok(&["ps"]), json!([]));
    plugin.add(&sandbox, &config);
    drop(a);
    plugin.del(&sandbox, &config);
    plugin.del(&sandbox, &config);
    host.done();
}

fn gc_removes_what_is_not_listed() {
    let host = Host::start("h1");
    let plugin = Cni::new(&host);
    // Two CNI networks on one network of netd, and a container that CNI knows nothing of.
    let one = plugin.config(
        "1.1.0",
        "one",
        json!({"network": "pods", "subnet": "10.99.0.0/24"}),
    );
    let other = plugin.config("1.1.0", "other", json!({"network": "pods"}));
    let spaces: Vec<Netns> = ["a", "b", "c", "d"].into_iter().map(Netns::new).collect();
    let sandboxes: Vec<Sandbox> = spaces.iter().map(Sandbox::of).collect();
    plugin.add(&sandboxes[0], &one);
    plugin.add(&sandboxes[1], &one);
    plugin.add(&sandboxes[2], &other);
    host.attach(&spaces[3], &["--network", "pods"]);
    let attached = || {
        let ids = host.ok(&["ps"]);
        let ids = ids
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    let gc = |config: &Value, valid: Value| {
        let mut config = config.clone();
        cni::merge(&mut config, valid);
        plugin.call("GC", None, &config)
    };
    // Without a list nothing may go.
    assert_eq!(gc(&one, json!({})).error_code(), 7);
    assert_eq!(attached().len(), 4);
    let keep = json!([{"containerID": sandboxes[0].id, "ifname": "eth0"}, {"containerID": sandboxes[1].id, "ifname": "eth9"}]);
    gc(&one, json!({"cni.dev/valid-attachments": keep})).ok();
    assert_eq!(attached().len(), 3);
    assert!(!attached().contains(&sandboxes[1].id));
    gc(&one, json!({"cni.dev/attachments": []})).ok();
    assert!(!attached().contains(&sandboxes[0].id));
    assert!(attached().contains(&sandboxes[2].id));
    gc(&other, json!({"cni.dev/valid-attachments": []})).ok();
    assert_eq!(attached().len(), 1, "what CNI did not attach stays");
    let old = plugin.config("1.0.0", "one", json!({"cni.dev/valid-attachments": []}));
    assert_eq!(plugin.call("GC", None, &old).error_code(), 1);
    host.done();
}

fn pods_have_their_names() {
    let host = Host::start("h1");
    let plugin = Cni::new(&host);
    let config = plugin.config(
        "1.0.0",
        "pods",
        json!({"subnet": "10.99.0.0/24", "runtimeConfig": {"aliases": ["db"]}}),
    );
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let made = plugin.add(&Sandbox::pod(&a, "shop", "web-0"), &config);
    plugin.add(&Sandbox::pod(&b, "other", "web-0"), &config);
    let ps = host.ok(&["ps"]);
    let names: Vec<&str> = ps
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["web-0.other", "web-0.shop"]);
    let ask = |name: &str| {
        let reply = b.dns_query(
            "127.0.0.11:53".parse().unwrap(),
            name,
            RecordType::A,
            Transport::Udp,
        );
        reply.unwrap().ips()
    };
    assert_eq!(
        ask("web-0.shop"),
        [ip(&made, false).parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(ask("db").len(), 2, "an alias of both");
    host.ok(&["detach", "web-0.shop"]);
    host.done();
}

fn a_pod_may_come_back() {
    let host = Host::start("h1");
    let plugin = Cni::new(&host);
    let config = plugin.config("1.0.0", "pods", json!({"subnet": "10.99.0.0/24"}));
    let (old, new) = (Netns::new("old"), Netns::new("new"));
    let first = plugin.add(&Sandbox::pod(&old, "shop", "web-0"), &config);
    let second = plugin.add(&Sandbox::pod(&new, "shop", "web-0"), &config);
    let ask = || {
        let reply = new.dns_query(
            "127.0.0.11:53".parse().unwrap(),
            "web-0.shop",
            RecordType::A,
            Transport::Udp,
        );
        let mut ips: Vec<String> = reply
            .unwrap()
            .ips()
            .iter()
            .map(ToString::to_string)
            .collect();
        ips.sort();
        ips
    };
    let mut both = vec![ip(&first, false), ip(&second, false)];
    both.sort();
    assert_eq!(ask(), both);
    plugin.del(&Sandbox::pod(&old, "shop", "web-0"), &config);
    assert_eq!(ask(), [ip(&second, false)]);
    plugin.del(&Sandbox::pod(&new, "shop", "web-0"), &config);
    host.done();
}

fn addresses_and_macs_can_be_asked_for() {
    let host = Host::start("h1");
    let plugin = Cni::new(&host);
    let net = json!({"subnets": ["10.99.0.0/24", "fd99::/64"]});
    let add = |sandbox: &Sandbox, extra: Value| {
        let mut config = plugin.config("1.0.0", "pods", net.clone());
        cni::merge(&mut config, extra);
        let said = plugin.call("ADD", Some(sandbox), &config);
        (said, config)
    };
    let a = Netns::new("a");
    let sandbox = Sandbox::of(&a);
    let runtime = json!({"runtimeConfig": {"ips": ["10.99.0.77/24", "fd99::77"], "mac": "02:42:00:00:00:77"}});
    let (said, config) = add(&sandbox, runtime.clone());
    let made = said.ok();
    assert_eq!(
        (ip(&made, false), ip(&made, true)),
        ("10.99.0.77".to_owned(), "fd99::77".to_owned())
    );
    assert_eq!(made["interfaces"][2]["mac"], "02:42:00:00:00:77");
    assert_eq!(a.link("eth0").unwrap().mac, [2, 0x42, 0, 0, 0, 0x77]);
    let b = Netns::new("b");
    assert_eq!(
        add(&Sandbox::of(&b), runtime).0.error_code(),
        101,
        "the address is taken"
    );
    plugin.del(&sandbox, &config);
    let args = Sandbox {
        args: "IP=10.99.0.78;MAC=02:42:00:00:00:78".to_owned(),
        ..sandbox.clone()
    };
    let (said, config) = add(&args, json!({}));
    let made = said.ok();
    assert_eq!(ip(&made, false), "10.99.0.78");
    assert_eq!(made["interfaces"][2]["mac"], "02:42:00:00:00:78");
    plugin.del(&args, &config);
    let (said, _) = add(&sandbox, json!({"runtimeConfig": {"ips": ["192.0.2.1"]}}));
    assert_eq!(said.error_code(), 7, "outside of the network");
    let unknown = Sandbox {
        args: "FOO=bar".to_owned(),
        ..sandbox
    };
    assert_eq!(add(&unknown, json!({})).0.error_code(), 4);
    host.done();
}

fn a_failed_add_leaves_nothing() {
    let host = Host::start("h1");
    let plugin = Cni::new(&host);
    let config = plugin.config("1.0.0", "pods", json!({"subnet": "10.99.0.0/24"}));
    let a = Netns::new("a");
    // The name of the interface is taken in the container: the last thing that the kernel says.
    a.add_bridge("eth0");
    let error = plugin.call("ADD", Some(&Sandbox::of(&a)), &config).error();
    assert_eq!(error["code"], 101, "{error}");
    assert_eq!(host.ok(&["ps"]), json!([]));
    host.assert_healthy();
    plugin.add(&Sandbox::of(&a).on("eth1"), &config);
    plugin.del(&Sandbox::of(&a).on("eth1"), &config);
    host.done();
}

fn dead_namespaces_are_collected() {
    let mut host = Host::start("h1");
    let config = Cni::new(&host).config("1.0.0", "pods", json!({"subnet": "10.99.0.0/24"}));
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    Cni::new(&host).add(&Sandbox::of(&a), &config);
    Cni::new(&host).add(&Sandbox::of(&b), &config);
    host.kill_daemon();
    drop(a);
    host.start_daemon();
    lab::wait_for("the dead container's end", PATIENCE, || {
        host.ok(&["ps"]).as_array().unwrap().len() == 1
    });
    Cni::new(&host).del(&Sandbox::of(&b), &config);
    host.done();
}

fn fifty_pods_at_once() {
    let host = Host::start("h1");
    let plugin = Cni::new(&host);
    let config = plugin.config("1.0.0", "pods", json!({"subnet": "10.99.0.0/24"}));
    let spaces: Vec<Netns> = (0..50).map(|n| Netns::new(&format!("p{n}"))).collect();
    let all = |verb: &str| -> Vec<Value> {
        std::thread::scope(|scope| {
            let calls: Vec<_> = spaces
                .iter()
                .map(|netns| {
                    let (plugin, config) = (&plugin, &config);
                    scope.spawn(move || plugin.call(verb, Some(&Sandbox::of(netns)), config).ok())
                })
                .collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        })
    };
    // The network too is made by whoever comes first.
    let made = all("ADD");
    let addresses: std::collections::BTreeSet<String> =
        made.iter().map(|result| ip(result, false)).collect();
    assert_eq!(addresses.len(), 50);
    host.assert_healthy();
    all("DEL");
    assert_eq!(host.ok(&["ps"]), json!([]));
    host.done();
}
