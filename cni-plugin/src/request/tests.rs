use serde_json::{Value, json};

use super::*;
use crate::error;

#[expect(
    clippy::needless_pass_by_value,
    reason = "callers write json! in place"
)]
fn config(extra: Value) -> Config {
    let mut value = json!({"cniVersion": "1.1.0", "name": "pods", "type": "netd-cni"});
    value
        .as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    Config::parse(value.to_string().as_bytes()).unwrap()
}

fn env(args: &str) -> Env {
    Env {
        command: Some("ADD".to_owned()),
        container: "c1".to_owned(),
        netns: "/run/netns/c1".to_owned(),
        ifname: "eth0".to_owned(),
        args: args.to_owned(),
        ..Env::default()
    }
}

fn define(extra: Value) -> Result<Option<NetworkCreate>, CniError> {
    target(&config(extra), None, None).map(|target| target.define)
}

#[test]
fn a_named_network_is_only_joined_and_everything_else_defines_one() {
    let joined = target(&config(json!({"network": "web"})), None, None).unwrap();
    assert_eq!(joined.network, "web");
    assert!(joined.define.is_none());
    let made = target(&config(json!({"subnet": "10.1.0.0/16"})), None, None).unwrap();
    assert_eq!(made.network, "pods");
    assert_eq!(made.define.unwrap().subnets, ["10.1.0.0/16"]);
    let both = target(&config(json!({"network": "web", "mtu": 1400})), None, None).unwrap();
    assert_eq!(both.define.unwrap().name, "web");
    assert!(define(json!({})).unwrap().unwrap().subnets.is_empty());
}

#[test]
fn masquerading_and_gateways_become_modes() {
    let mode = |extra| {
        let define = define(extra).unwrap().unwrap();
        (define.mode, define.internal)
    };
    assert_eq!(mode(json!({"ipMasq": true})), (None, false));
    assert_eq!(
        mode(json!({"ipMasq": false})),
        (Some("routed".to_owned()), false)
    );
    assert_eq!(
        mode(json!({"isGateway": false})),
        (Some("isolated".to_owned()), false)
    );
    assert_eq!(mode(json!({"mode": "internal"})), (None, true));
    let error = define(json!({"ipMasq": true, "mode": "routed"})).unwrap_err();
    assert_eq!(error.code, error::CONFIG);
}

#[test]
fn ranges_of_host_local_are_pools_where_they_are_prefixes() {
    let of = |start: &str, end: &str| {
        define(
            json!({"ranges": [[{"subnet": "10.1.0.0/24", "rangeStart": start, "rangeEnd": end,
            "gateway": "10.1.0.254"}], [{"subnet": "fd00:1::/64"}]]}),
        )
    };
    let made = of("10.1.0.64", "10.1.0.127").unwrap().unwrap();
    assert_eq!(made.subnets, ["10.1.0.0/24", "fd00:1::/64"]);
    assert_eq!(made.ip_ranges, ["10.1.0.64/26"]);
    assert_eq!(made.gateways, ["10.1.0.254"]);
    let error = of("10.1.0.10", "10.1.0.99").unwrap_err();
    assert_eq!(error.code, error::UNSUPPORTED);
    assert!(error.msg.contains("10.1.0.10"), "{error:?}");
    let one_list =
        define(json!({"ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "10.2.0.0/24"}]]}));
    let made = one_list.unwrap().unwrap();
    assert_eq!(made.subnets, ["10.1.0.0/24", "10.2.0.0/24"]);
    for (ranges, code) in [
        (
            json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]),
            error::UNSUPPORTED,
        ),
        (
            json!([[{"subnet": "10.1.0.0/24"}, {"subnet": "fd00::/64"}]]),
            error::CONFIG,
        ),
        (json!([[]]), error::CONFIG),
    ] {
        let refused = define(json!({ "ranges": ranges })).unwrap_err();
        assert_eq!(refused.code, code, "{refused:?}");
    }
    let runtime = define(
        json!({"runtimeConfig": {"ipRanges": [[{"subnet": "10.9.0.0/24"}]]},
        "ipam": {"type": "netd", "subnet": "10.1.0.0/24"}}),
    );
    assert_eq!(runtime.unwrap().unwrap().subnets, ["10.9.0.0/24"]);
}

#[test]
fn blocks_are_found_at_every_size() {
    let of = |first: &str, last: &str| block(first.parse().unwrap(), last.parse().unwrap());
    assert_eq!(of("10.0.0.0", "10.0.0.255").as_deref(), Some("10.0.0.0/24"));
    assert_eq!(of("10.0.0.7", "10.0.0.7").as_deref(), Some("10.0.0.7/32"));
    assert_eq!(
        of("0.0.0.0", "255.255.255.255").as_deref(),
        Some("0.0.0.0/0")
    );
    assert_eq!(
        of("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff").as_deref(),
        Some("::/0")
    );
    for (first, last) in [
        ("10.0.0.1", "10.0.0.2"),
        ("10.0.0.9", "10.0.0.1"),
        ("10.0.0.0", "::1"),
        ("10.0.0.0", "10.0.0.2"),
    ] {
        assert_eq!(of(first, last), None, "{first} {last}");
    }
}

#[test]
fn requested_addresses_have_an_order() {
    let all = json!({"runtimeConfig": {"ips": ["10.0.0.3/24"], "mac": "02:00:00:00:00:03"},
        "args": {"cni": {"ips": ["10.0.0.2"], "mac": "02:00:00:00:00:02"}}});
    let words = "IP=10.0.0.1;MAC=02:00:00:00:00:01";
    let of = |extra: Value| {
        let add = add(&config(extra), &env(words), None, None).unwrap();
        (add.ips[0].to_string(), add.mac.unwrap())
    };
    assert_eq!(
        of(all.clone()),
        ("10.0.0.3".to_owned(), "02:00:00:00:00:03".to_owned())
    );
    let args = json!({"args": all["args"]});
    assert_eq!(
        of(args),
        ("10.0.0.2".to_owned(), "02:00:00:00:00:02".to_owned())
    );
    assert_eq!(
        of(json!({})),
        ("10.0.0.1".to_owned(), "02:00:00:00:00:01".to_owned())
    );
}

#[test]
fn port_mappings_are_published_and_impossible_ones_named() {
    let of = |mapping: Value| {
        add(
            &config(json!({"runtimeConfig": {"portMappings": [mapping]}})),
            &env(""),
            None,
            None,
        )
        .map(|add| add.publish)
    };
    let mapping =
        json!({"hostPort": 8080, "containerPort": 80, "protocol": "UDP", "hostIP": "127.0.0.1"});
    assert_eq!(of(mapping).unwrap(), ["127.0.0.1:8080:80/udp"]);
    assert_eq!(
        of(json!({"hostPort": 80, "containerPort": 80})).unwrap(),
        ["80:80/tcp"]
    );
    assert_eq!(
        of(json!({"hostPort": 80, "containerPort": 80, "hostIP": "::1"})).unwrap(),
        ["[::1]:80:80/tcp"]
    );
    // As containerd writes it: Go reads keys in any case.
    let in_go =
        json!({"HostPort": 80, "ContainerPort": 81, "Protocol": "tcp", "HostIP": "10.0.0.1"});
    assert_eq!(of(in_go).unwrap(), ["10.0.0.1:80:81/tcp"]);
    for bad in [
        json!({"hostPort": 80, "containerPort": 0}),
        json!({"hostPort": 70000, "containerPort": 1}),
        json!({"hostPort": 0, "containerPort": 80}),
    ] {
        assert_eq!(of(bad).unwrap_err().code, error::CONFIG);
    }
}

#[test]
fn a_foreign_ipam_says_what_the_network_is() {
    let leased = CniResult::read(
        &json!({"cniVersion": "1.0.0", "ips": [{"address": "10.22.0.5/16", "gateway": "10.22.0.1"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.0.0.0/8", "gw": "10.22.0.9"}]}),
    )
    .unwrap();
    let config = config(json!({"ipam": {"type": "host-local", "subnet": "10.22.0.0/16"}}));
    let add = add(&config, &env(""), None, Some(&leased)).unwrap();
    let define = add.define.unwrap();
    assert_eq!(
        (define.subnets, define.gateways),
        (
            vec!["10.22.0.0/16".to_owned()],
            vec!["10.22.0.1".to_owned()]
        )
    );
    assert_eq!(add.ips[0].to_string(), "10.22.0.5");
    assert_eq!(add.routes.len(), 1);
    assert_eq!(add.routes[0].dst.to_string(), "10.0.0.0/8");
}

#[test]
fn a_network_has_all_subnets_that_its_ipam_names_from_the_beginning() {
    let leased = |address: &str, gateway: &str| {
        let ips = json!([{"address": address, "gateway": gateway}]);
        CniResult::read(&json!({"cniVersion": "1.0.0", "ips": ips})).unwrap()
    };
    let config = config(json!({"ipam": {"type": "host-local", "ranges": [[
        {"subnet": "10.22.0.0/24"}, {"subnet": "10.22.1.0/24", "gateway": "10.22.1.9"}]]}}));
    let define = |leased: &CniResult| {
        let define = target(&config, None, Some(leased)).unwrap().define.unwrap();
        (define.subnets.join(" "), define.gateways.join(" "))
    };
    let both = (
        "10.22.0.0/24 10.22.1.0/24".to_owned(),
        "10.22.0.1 10.22.1.9".to_owned(),
    );
    assert_eq!(define(&leased("10.22.0.5/24", "10.22.0.1")), both);
    assert_eq!(define(&leased("10.22.1.5/24", "10.22.1.9")), both);
    // What does not fit those words is believed alone.
    for (address, gateway, subnet) in [
        ("10.22.0.5/16", "10.22.0.1", "10.22.0.0/16"),
        ("10.22.0.5/24", "10.22.0.3", "10.22.0.0/24"),
    ] {
        let alone = (subnet.to_owned(), gateway.to_owned());
        assert_eq!(define(&leased(address, gateway)), alone);
    }
}

#[test]
fn prefixes_are_read_from_the_files_that_node_agents_write() {
    let flannel = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
    assert_eq!(prefixes(flannel), ["10.244.1.0/24"]);
    assert_eq!(
        prefixes("# pods\n10.1.0.0/24, fd00::/64\n"),
        ["10.1.0.0/24", "fd00::/64"]
    );
    assert!(prefixes("nothing here").is_empty());
}
