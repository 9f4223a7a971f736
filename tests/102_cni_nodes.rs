//! Nodes of a Kubernetes cluster: pods of two nodes, services balanced by somebody else's rules, host ports, prefixes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is how a test fails"
)]

use std::net::IpAddr;
use std::time::Duration;

use netd_tests::cni::{self, Cni, Sandbox, ip};
use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::{self, Netns, Outcome, PATIENCE, Proto};
use serde_json::{Value, json};

const BOTH: [Proto; 2] = [Proto::Tcp, Proto::Udp];
/// How long nothing has to arrive where nothing may.
const SILENCE: Duration = Duration::from_millis(300);

fn main() -> std::process::ExitCode {
    cni::dispatch();
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![
        lab::test("pods_of_two_nodes_reach_each_other_untranslated", || {
            pods_of_two_nodes(Filter::Off);
        }),
        lab::test("the_same_with_br_netfilter", || {
            pods_of_two_nodes(Filter::On);
        }),
        lab::test("a_service_leads_to_a_pod_of_the_same_node", || {
            a_service_leads_to_a_pod(Filter::Off);
        }),
        lab::test("the_same_service_with_br_netfilter", || {
            a_service_leads_to_a_pod(Filter::On);
        }),
        lab::test(
            "a_pod_comes_back_with_its_name_address_and_ports",
            a_pod_comes_back,
        ),
        lab::test(
            "a_prefix_is_not_changed_under_running_pods",
            a_prefix_is_not_changed,
        ),
        lab::test("install_makes_a_node", install_makes_a_node),
        lab::test("a_wide_prefix_spreads_over_bridges", a_wide_prefix_spreads),
        lab::test(
            "the_pieces_of_a_prefix_are_one_network",
            pieces_are_one_network,
        ),
        lab::test("two_hundred_dels_come_at_once", two_hundred_dels),
    ])
}

/// br_netfilter.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Filter {
    On,
    Off,
}

/// A node: its daemon, and the configuration of its pods.
struct Node {
    host: Host,
    number: u8,
}

impl Node {
    /// A node on the wire `fabric`, with ways to the pods of the others.
    fn new(number: u8, fabric: &Netns, others: &[u8], filter: Filter) -> Self {
        let netns = Netns::host(&format!("node{number}"));
        let port = format!("n{number}");
        let own = [
            format!("192.0.2.{number}/24"),
            format!("2001:db8::{number}/64"),
        ];
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        lab::veth(netns.end("uplink", &own), fabric.end(&port, &[]));
        fabric.set_master(&port, "fabric");
        for other in others {
            netns.add_route(&format!("10.244.{other}.0/24"), &format!("192.0.2.{other}"));
            netns.add_route(&format!("fd44:{other}::/64"), &format!("2001:db8::{other}"));
        }
        netns.filter_bridged(filter == Filter::On);
        Self {
            host: Host::on(netns),
            number,
        }
    }

    fn config(&self, extra: Value) -> Value {
        let number = self.number;
        let mut config = Cni::new(&self.host).config(
            "1.0.0",
            "pods",
            json!({
                "podCIDRs": [format!("10.244.{number}.0/24"), format!("fd44:{number}::/64")],
                "nonMasquerade": ["10.244.0.0/16", "fd44::/16", "192.0.2.0/25", "2001:db8::/112"],
            }),
        );
        cni::merge(&mut config, extra);
        config
    }

    /// Attaches a pod; its addresses.
    fn add(&self, pod: &Netns, extra: Value) -> [IpAddr; 2] {
        let made = Cni::new(&self.host).add(&Sandbox::of(pod), &self.config(extra));
        [ip(&made, false), ip(&made, true)].map(|text| text.parse().unwrap())
    }

    fn del(&self, pod: &Netns) {
        Cni::new(&self.host).del(&Sandbox::of(pod), &self.config(json!({})));
    }
}

fn fabric() -> Netns {
    let fabric = Netns::host("fabric");
    fabric.add_bridge("fabric");
    fabric
}

/// Who answered, and as whom it saw the asker.
#[track_caller]
fn reached(outcome: Outcome) -> (String, IpAddr) {
    match outcome {
        Outcome::Reached { name, seen_source } => (name, seen_source.ip().to_canonical()),
        other => panic!("{other:?}"),
    }
}

fn pods_of_two_nodes(filter: Filter) {
    let fabric = fabric();
    let (one, two) = (
        Node::new(1, &fabric, &[2], filter),
        Node::new(2, &fabric, &[1], filter),
    );
    // A host outside of the cluster, which knows the way to the pods all the same.
    let stranger = Netns::host("stranger");
    lab::veth(
        stranger.end("eth0", &["192.0.2.200/24", "2001:db8::c8:0/64"]),
        fabric.end("s", &[]),
    );
    fabric.set_master("s", "fabric");
    stranger.add_route("10.244.2.0/24", "192.0.2.2");
    stranger.add_route("fd44:2::/64", "2001:db8::2");
    let (a, b, c) = (Netns::new("a"), Netns::new("b"), Netns::new("c"));
    let of_a = one.add(&a, json!({}));
    let of_b = two.add(&b, json!({}));
    let of_c = two.add(&c, json!({}));
    let _servers = BOTH.map(|proto| {
        [(&b, "b"), (&a, "a"), (&stranger, "stranger")]
            .map(|(netns, name)| netns.serve(proto, name, 80))
    });
    let nodes: [[IpAddr; 2]; 2] = [1, 2].map(|n| {
        [format!("192.0.2.{n}"), format!("2001:db8::{n}")].map(|text| text.parse().unwrap())
    });
    let outside: [IpAddr; 2] = ["192.0.2.200", "2001:db8::c8:0"].map(|text| text.parse().unwrap());
    for family in 0..2 {
        for proto in BOTH {
            let ask = |from: &Netns, to: IpAddr| reached(from.probe(proto, (to, 80), PATIENCE));
            // Pods of two nodes, in both directions, and of one node.
            assert_eq!(ask(&a, of_b[family]), ("b".to_owned(), of_a[family]));
            assert_eq!(ask(&b, of_a[family]), ("a".to_owned(), of_b[family]));
            assert_eq!(ask(&c, of_b[family]), ("b".to_owned(), of_c[family]));
            // The pod's own node (the kubelet), and another one, whose address is in the cluster's prefixes.
            assert_eq!(ask(&two.host.netns, of_b[family]).0, "b");
            assert_eq!(
                ask(&one.host.netns, of_b[family]),
                ("b".to_owned(), nodes[0][family])
            );
            // Out of the cluster under the node's address, and nothing back in.
            assert_eq!(
                ask(&b, outside[family]),
                ("stranger".to_owned(), nodes[1][family])
            );
            assert!(!stranger.probe(proto, (of_b[family], 80), SILENCE).reached());
        }
        assert!(a.ping(of_b[family], PATIENCE));
    }
    for node in [&one, &two] {
        node.host.assert_healthy();
    }
    one.del(&a);
    two.del(&b);
    two.del(&c);
    one.host.done();
    two.host.done();
}

/// What kube-proxy does in its nftables mode, for one service with one endpoint.
fn proxy(node: &Node, pod: [IpAddr; 2]) {
    let [v4, v6] = pod;
    let rules = format!(
        "table inet kube-proxy {{
            chain services {{
                ip daddr 10.96.0.10 tcp dport 80 dnat ip to {v4}:80
                ip daddr 10.96.0.10 udp dport 80 dnat ip to {v4}:80
                ip6 daddr fd96::10 tcp dport 80 dnat ip6 to [{v6}]:80
                ip6 daddr fd96::10 udp dport 80 dnat ip6 to [{v6}]:80
            }}
            chain prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
            chain output {{ type nat hook output priority -100; jump services; }}
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                ip saddr {v4} ip daddr {v4} masquerade
                ip6 saddr {v6} ip6 daddr {v6} masquerade
            }}
        }}"
    );
    let said = node
        .host
        .netns
        .command("nft", &[rules.as_str()])
        .output()
        .expect("nft runs");
    assert!(said.status.success(), "{said:?}");
    // The node has a route to the service, so that it can send to it itself.
    node.host.netns.add_route("default", "192.0.2.254");
    node.host.netns.add_route("::/0", "2001:db8::fe");
}

fn a_service_leads_to_a_pod(filter: Filter) {
    let fabric = fabric();
    let node = Node::new(1, &fabric, &[], filter);
    let mappings = json!({"runtimeConfig": {"portMappings": [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 8080, "containerPort": 80, "protocol": "udp"},
        {"hostPort": 8081, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"},
        {"hostPort": 8082, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.1"},
    ]}});
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let of_a = node.add(&a, mappings);
    let of_b = node.add(&b, json!({}));
    let _servers = BOTH.map(|proto| a.serve(proto, "a", 80));
    proxy(&node, of_a);
    let services: [IpAddr; 2] = ["10.96.0.10", "fd96::10"].map(|text| text.parse().unwrap());
    let addresses: [IpAddr; 2] = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap());
    let host = &node.host.netns;
    for family in 0..2 {
        for proto in BOTH {
            let ask =
                |from: &Netns, to: IpAddr, port| reached(from.probe(proto, (to, port), PATIENCE));
            // Another pod of the node keeps its address; the pod itself is masqueraded, else it would answer itself.
            assert_eq!(
                ask(&b, services[family], 80),
                ("a".to_owned(), of_b[family]),
                "{proto:?}"
            );
            assert_eq!(ask(&a, services[family], 80).0, "a", "{proto:?}");
            assert_eq!(ask(host, services[family], 80).0, "a", "{proto:?}");
            // Host ports, of the node's own address: other pod, own pod, node.
            for from in [&b, &a, host] {
                assert_eq!(ask(from, addresses[family], 8080).0, "a", "{proto:?}");
            }
        }
    }
    let local: [IpAddr; 2] = ["127.0.0.1", "192.0.2.1"].map(|text| text.parse().unwrap());
    for proto in BOTH {
        assert_eq!(
            reached(host.probe(proto, (local[0], 8080), PATIENCE)).0,
            "a"
        );
    }
    assert_eq!(
        reached(host.probe(Proto::Tcp, (local[0], 8081), PATIENCE)).0,
        "a"
    );
    assert_eq!(
        reached(b.probe(Proto::Tcp, (local[1], 8082), PATIENCE)).0,
        "a"
    );
    assert!(!b.probe(Proto::Tcp, (local[1], 8081), SILENCE).reached());
    // The administrator's or the kubelet's other rules stay.
    node.host.assert_healthy();
    node.del(&a);
    node.del(&b);
    let removed = host
        .command("nft", &["delete table inet kube-proxy"])
        .status()
        .expect("nft runs");
    assert!(removed.success());
    node.host.done();
}

/// A pod that is made again at once: same name, same address, same host ports, another container.
fn a_pod_comes_back() {
    let fabric = fabric();
    let node = Node::new(1, &fabric, &[], Filter::Off);
    let plugin = Cni::new(&node.host);
    let client = Netns::new("client");
    node.add(&client, json!({}));
    let extra = json!({"runtimeConfig": {
        "ips": ["10.244.1.77/24", "fd44:1::77/64"],
        "portMappings": [
            {"hostPort": 5300, "containerPort": 53, "protocol": "udp"},
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        ],
    }});
    let config = node.config(extra);
    let own: IpAddr = "10.244.1.77".parse().unwrap();
    let address: IpAddr = "192.0.2.1".parse().unwrap();
    let mut before: Option<(Netns, Sandbox)> = None;
    for round in 0..5 {
        let name = format!("round{round}");
        let pod = Netns::new(&name);
        let sandbox = Sandbox::pod(&pod, "shop", "web-0");
        if let Some((_, old)) = &before {
            // While the old one is there, neither its address nor its port can be had.
            let error = plugin.call("ADD", Some(&sandbox), &config).error();
            assert_eq!(error["code"], 101, "{error}");
            plugin.del(old, &config);
        }
        let made = plugin.add(&sandbox, &config);
        assert_eq!(ip(&made, false), own.to_string());
        let _servers = [pod.tcp_server(&name, 80), pod.udp_server(&name, 53)];
        // From one socket each time, as a client does that knows nothing of the change.
        let from = (IpAddr::from([0, 0, 0, 0]), 40000);
        let answers = [
            client.probe_from(Proto::Udp, from, (address, 5300), PATIENCE),
            client.probe(Proto::Tcp, (own, 80), PATIENCE),
            client.probe(Proto::Tcp, (address, 8080), PATIENCE),
            node.host.netns.probe(Proto::Udp, (own, 53), PATIENCE),
        ];
        for answer in answers {
            assert_eq!(answer.name(), Some(name.as_str()), "{answer:?}");
        }
        before = Some((pod, sandbox));
    }
    plugin.del(&before.as_ref().unwrap().1, &config);
    node.del(&client);
    node.host.done();
}

/// A node that gets another prefix: pods that run keep theirs, and only when the last has gone the network is made anew.
fn a_prefix_is_not_changed() {
    let host = Host::start("node");
    let plugin = Cni::new(&host);
    let file = host.dir().join("prefixes");
    let config = plugin.config("1.1.0", "pods", json!({"subnetFile": file}));
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let error = plugin.call("ADD", Some(&Sandbox::of(&a)), &config).error();
    assert_eq!(error["code"], 11, "{error}");
    std::fs::write(&file, "10.244.1.0/24\nfd44:1::/64\n").unwrap();
    let first = plugin.add(&Sandbox::of(&a), &config);
    assert!(ip(&first, false).starts_with("10.244.1.") && ip(&first, true).starts_with("fd44:1::"));
    std::fs::write(&file, "10.244.9.0/24\nfd44:9::/64\n").unwrap();
    let error = plugin.call("ADD", Some(&Sandbox::of(&b)), &config).error();
    assert_eq!(error["code"], 101, "{error}");
    let text = error["msg"].as_str().unwrap();
    assert!(
        text.contains("10.244.1.0/24") && text.contains("10.244.9.0/24"),
        "{text}"
    );
    assert_eq!(plugin.call("STATUS", None, &config).error()["code"], 50);
    plugin.del(&Sandbox::of(&a), &config);
    plugin.call("STATUS", None, &config).ok();
    let second = plugin.add(&Sandbox::of(&b), &config);
    assert!(
        ip(&second, false).starts_with("10.244.9.") && ip(&second, true).starts_with("fd44:9::")
    );
    plugin.del(&Sandbox::of(&b), &config);
    // What an administrator made is not replaced.
    host.ok(&["network", "create", "mine", "--subnet", "10.97.0.0/24"]);
    let other = plugin.config("1.0.0", "mine", json!({"subnet": "10.98.0.0/24"}));
    let error = plugin.call("ADD", Some(&Sandbox::of(&b)), &other).error();
    assert_eq!(error["code"], 101, "{error}");
    host.done();
}

fn install_makes_a_node() {
    let host = Host::start("node");
    let plugin = Cni::new(&host);
    let (bin, conf) = (host.dir().join("bin"), host.dir().join("net.d"));
    let socket = host.socket();
    let words = [
        "install",
        "--bin-dir",
        bin.to_str().unwrap(),
        "--conf-dir",
        conf.to_str().unwrap(),
        "--socket",
        socket.to_str().unwrap(),
        "--pod-cidr",
        "10.244.1.0/24",
        "--pod-cidr",
        "fd44:1::/64",
        "--non-masquerade",
        "10.244.0.0/16,fd44::/16",
        "--non-masquerade",
        "192.0.2.0/24",
    ];
    let program = cni::plugin_dir().join("netd-cni");
    let status = host.netns.command(&program, &words).status().unwrap();
    assert!(status.success());
    let text = std::fs::read_to_string(conf.join("10-netd.conflist")).unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    let mut config = list["plugins"][0].clone();
    cni::merge(
        &mut config,
        json!({"cniVersion": list["cniVersion"], "name": list["name"]}),
    );
    let pod = Netns::new("a");
    plugin.add(&Sandbox::of(&pod), &config);
    let network = host.ok(&["network", "inspect", "pods"]);
    let opts = &network["opts"];
    assert_eq!(
        opts["non_masquerade"], "10.244.0.0/16,fd44::/16,192.0.2.0/24",
        "{network}"
    );
    assert_eq!(opts["l3"], "on", "{network}");
    plugin.del(&Sandbox::of(&pod), &config);
    host.done();
}

/// More pods than share a bridge: by the API alone, since what processes cost is measured elsewhere.
fn a_wide_prefix_spreads() {
    /// Addresses of the first piece, a /24, less the network's, the gateway's and the broadcast address.
    const FIRST: usize = 253;
    let host = Host::start("node");
    let plugin = Cni::new(&host);
    let config = plugin.config("1.1.0", "pods", json!({"podCIDRs": ["10.244.0.0/16"]}));
    let pods: Vec<Netns> = (0..=FIRST).map(|n| Netns::new(&format!("p{n}"))).collect();
    let define = json!({"name": "pods", "subnets": ["10.244.0.0/16"], "opts": {"l3": "on"}});
    let add = |pod: &Netns| {
        let sandbox = Sandbox::of(pod);
        let body = json!({
            "container": sandbox.id, "ifname": "eth0", "netns": sandbox.netns, "cni_network": "pods",
            "network": "pods", "define": define,
        });
        let answer = host.api("POST", "/v1/cni/add", &body.to_string());
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    std::thread::scope(|scope| {
        for part in pods[..FIRST].chunks(FIRST.div_ceil(8)) {
            scope.spawn(|| part.iter().for_each(add));
        }
    });
    let names = || -> Vec<String> {
        let networks = host.ok(&["network", "ls"]);
        let names = networks
            .as_array()
            .unwrap()
            .iter()
            .map(|network| network["name"].clone());
        names
            .map(|name| name.as_str().unwrap().to_owned())
            .filter(|name| name != "bridge")
            .collect()
    };
    assert_eq!(names(), ["pods"]);
    // The first bridge is full, and the plugin says that it can serve.
    plugin.call("STATUS", None, &config).ok();
    let made = plugin.add(&Sandbox::of(&pods[FIRST]), &config);
    assert_eq!(names(), ["pods", "pods-2"]);
    let address = ip(&made, false);
    assert!(address.starts_with("10.244.1."), "{address}");
    let _server = pods[FIRST].tcp_server("last", 80);
    let answer = pods[7].tcp_probe((address.as_str(), 80), PATIENCE);
    assert!(reached(answer).1.to_string().starts_with("10.244.0."));
    // What is left of all of them goes at once.
    let gc = json!({"cni_network": "pods", "valid": []}).to_string();
    let answer = host.api("POST", "/v1/cni/gc", &gc);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(host.ok(&["ps"]), json!([]));
    host.done();
}

/// Pods on several bridges of one node are neighbours like any others.
fn pieces_are_one_network() {
    let host = Host::start("node");
    let plugin = Cni::new(&host);
    let node = json!({"podCIDRs": ["10.244.0.0/16", "fd44::/64"]});
    let config = plugin.config("1.0.0", "pods", node);
    let pods: Vec<Netns> = ["a", "b", "c"].map(Netns::new).into();
    let asked = ["10.244.0.9", "10.244.4.9", "10.244.255.9"];
    let mut ips = Vec::new();
    for (pod, asked) in pods.iter().zip(asked) {
        let mut config = config.clone();
        cni::merge(&mut config, json!({"runtimeConfig": {"ips": [asked]}}));
        let made = plugin.add(&Sandbox::of(pod), &config);
        assert_eq!(ip(&made, false), asked);
        ips.push([ip(&made, false), ip(&made, true)]);
    }
    let _servers: Vec<_> = pods
        .iter()
        .map(|pod| pod.tcp_server(pod.name(), 80))
        .collect();
    for (from, own) in pods.iter().zip(&ips) {
        for (to, addresses) in pods.iter().zip(&ips) {
            for (family, address) in addresses.iter().enumerate() {
                let (name, source) = reached(from.tcp_probe((address.as_str(), 80), PATIENCE));
                assert_eq!(
                    (name.as_str(), source.to_string()),
                    (to.name(), own[family].clone())
                );
            }
        }
    }
    for pod in &pods {
        plugin.del(&Sandbox::of(pod), &config);
    }
    host.done();
}

/// As after a reboot, or when a node is drained: the DELs of all pods at the same time, those of unknown ones among them.
fn two_hundred_dels() {
    let host = Host::start("node");
    let plugin = Cni::new(&host);
    let config = plugin.config("1.0.0", "pods", json!({"podCIDRs": ["10.244.1.0/24"]}));
    let pods: Vec<Netns> = (0..200).map(|n| Netns::new(&format!("p{n}"))).collect();
    let at_once = |verb: &str, pods: &[Netns]| {
        std::thread::scope(|scope| {
            for pod in pods {
                let (plugin, config) = (&plugin, &config);
                scope.spawn(move || plugin.call(verb, Some(&Sandbox::of(pod)), config).ok());
            }
        });
    };
    for some in pods[..100].chunks(25) {
        at_once("ADD", some);
    }
    at_once("DEL", &pods);
    assert_eq!(host.ok(&["ps"]), json!([]));
    for pod in &pods[..100] {
        assert_eq!(pod.links().len(), 1, "only lo is left");
    }
    host.done();
}
