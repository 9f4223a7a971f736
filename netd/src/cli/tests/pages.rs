//! What people and programs see, to the letter.

use netd_model::api;

use crate::api::tests::daemon::{container, network, snapshot};
use crate::cli::{table, view};

#[test]
fn the_list_of_networks() {
    let expected = "\
NAME    ID             DRIVER   SUBNETS                    INTERNAL   MTU    INTERFACE     CONTAINERS
back    0123f0000000   bridge   10.1.0.0/24, fd00:1::/64   no         1500   nd-01234567   0
front   0123456789ab   bridge   10.1.0.0/24, fd00:1::/64   no         1500   nd-01234567   1
";
    assert_eq!(table::networks(&snapshot().networks()), expected);
}

#[test]
fn the_list_of_containers() {
    let expected = "\
NAME   ID             NETWORKS                                PORTS                                      NETNS
web    feedc0ffee00   front 10.1.0.5 fd00:1::5, db 10.2.0.5   8000-8001->80-81/tcp, [::1]:53->5353/udp   /run/netns/web
";
    assert_eq!(table::containers(&[container()]), expected);
}

#[test]
fn empty_lists_have_a_header() {
    assert_eq!(
        table::containers(&[]),
        "NAME   ID   NETWORKS   PORTS   NETNS\n"
    );
    assert_eq!(table::networks(&[]).lines().count(), 1);
}

#[test]
fn a_network() {
    let expected = "\
name:       front
id:         0123456789abcdef0123456789abcdef
driver:     bridge
mode:       nat
icc:        yes
subnets:    10.1.0.0/24   gateway 10.1.0.1    ip-range 10.1.0.128/25
            fd00:1::/64   gateway fd00:1::1
ipv6:       yes
internal:   no
encrypted:  no
mtu:        1500
interface:  nd-01234567
dns:        9.9.9.9
labels:     tier=web
containers: web   10.1.0.5/24 fd00:1::5/64   mac 02:6e:0a:01:00:05
";
    let networks = snapshot().networks();
    let front = networks
        .iter()
        .find(|network| network.name == "front")
        .unwrap();
    assert_eq!(view::network(front), expected);
}

#[test]
fn a_container() {
    let expected = "\
name:     web
id:       feedc0ffee00112233445566778899aabbccddeeff00112233445566778899aa
hostname: web.local
netns:    /run/netns/web
networks: front   eth0   10.1.0.5/24 fd00:1::5/64   gateway 10.1.0.1 fd00:1::1   mac 02:6e:0a:01:00:05   \
host ndv-0123456789   aliases www shop
          db      eth1   10.2.0.5/24                                             mac 02:6e:0a:02:00:05   \
host ndv-aaaaaaaaaa
ports:    8000-8001->80-81/tcp
          [::1]:53->5353/udp
dns:      127.0.0.11
search:   front.local
options:  ndots:0
labels:   app=shop
";
    assert_eq!(view::container(&container()), expected);
}

#[test]
fn a_status() {
    let expected = "\
ready:        yes
version:      0.1.0
networks:     2
containers:   1
ports:        3
features:     nft: yes
              wireguard: no
host changes: net/ipv4/ip_forward: 0 -> 1
orphans:      link nd-dead
warnings:     old kernel: use 6.1 or newer
"
    .replace("0.1.0", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        view::status(&crate::api::system::status_of(&snapshot())),
        expected
    );
}

#[test]
fn a_container_on_no_network_leaves_out_what_it_has_not() {
    let bare = api::Container {
        endpoints: vec![],
        ports: vec![],
        labels: std::collections::BTreeMap::new(),
        dns: api::Dns {
            search: vec![],
            options: vec![],
            ..container().dns
        },
        warnings: vec!["one".to_owned(), "two".to_owned()],
        ..container()
    };
    let expected = "\
name:     web
id:       feedc0ffee00112233445566778899aabbccddeeff00112233445566778899aa
hostname: web.local
netns:    /run/netns/web
dns:      127.0.0.11
warnings: one
          two
";
    assert_eq!(view::container(&bare), expected);
}

#[test]
fn what_a_text_holds_never_steers_the_terminal() {
    let evil = "/tmp/\u{1b}]0;owned\u{7}\nname: other";
    let container = api::Container {
        netns: evil.to_owned(),
        ..container()
    };
    for text in [
        table::containers(std::slice::from_ref(&container)),
        view::container(&container),
    ] {
        assert!(
            !text.chars().any(|c| c.is_control() && c != '\n'),
            "{text:?}"
        );
        assert!(!text.contains("\nname: other"), "{text:?}");
    }
}

#[test]
fn neighbouring_ports_are_a_range_and_others_are_not() {
    let port = |host_port, container_port| api::Port {
        host_port,
        container_port,
        ..container().ports[0].clone()
    };
    let text = |ports: &[api::Port]| view::ports(ports).join(" ");
    assert_eq!(text(&[]), "");
    assert_eq!(text(&[port(1, 2)]), "1->2/tcp");
    assert_eq!(
        text(&[port(1, 2), port(2, 3), port(3, 4), port(5, 6)]),
        "1-3->2-4/tcp 5->6/tcp"
    );
    assert_eq!(text(&[port(1, 2), port(2, 4)]), "1->2/tcp 2->4/tcp");
    assert_eq!(text(&[port(65535, 1), port(1, 2)]), "65535->1/tcp 1->2/tcp");
}

#[test]
fn a_network_shows_what_it_lacks_by_leaving_it_out() {
    let plain = api::Network {
        dns: vec![],
        labels: std::collections::BTreeMap::new(),
        ..network()
    };
    let text = view::network(&plain);
    assert!(
        !text.contains("dns:") && !text.contains("labels:") && !text.contains("vni:"),
        "{text}"
    );
}
