//! Addresses, routes, settings, and the facts of a host.

use netlink_packet_core::NLM_F_CREATE;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::{LinkUnspec, RouteMessageBuilder};

use super::links::foreign_bridge;
use super::*;
use crate::kernel::KernelErrorKind;
use crate::kernel::real::netlink::Request;

fn foreign_address(space: &mut Space, link: &str, text: &str, prefix_len: u8) {
    let index = space.link(&name(link)).unwrap().unwrap().index;
    let mut message = AddressMessage::default();
    message.header.family = if ip(text).is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    message.header.prefix_len = prefix_len;
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(ip(text)),
        AddressAttribute::Address(ip(text)),
    ];
    let request = Request::set(&RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE);
    space.route.call(&request).unwrap();
}

fn foreign_route(space: &mut Space, dst: &str, via: Option<&str>, link: &str, metric: u32) {
    let index = space.link(&name(link)).unwrap().unwrap().index;
    let dst = prefix(dst);
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(dst.base(), dst.len())
        .unwrap()
        .output_interface(index)
        .priority(metric)
        .protocol(RouteProtocol::Static);
    if let Some(via) = via {
        builder = builder.gateway(ip(via)).unwrap();
    }
    let message = RouteNetlinkMessage::NewRoute(builder.build());
    space
        .route
        .call(&Request::set(&message, NLM_F_CREATE))
        .unwrap();
}

/// A container with a pair on bridge 1, and that bridge.
fn attached(lab: &mut Lab) -> (ContainerId, Link) {
    let id = lab.container(1);
    lab.add(&bridge(1));
    let both = pair(&id, 1, 1);
    lab.apply(&[add_pair(&both)]).unwrap();
    (id, both.1)
}

#[test]
fn addresses_of_both_families_come_and_go() {
    in_lab("addresses_of_both_families_come_and_go", |lab| {
        let (_, eth0) = attached(lab);
        for link in [bridge(1), eth0] {
            for (text, len) in [
                ("10.1.0.1", 24),
                ("10.1.1.2", 31),
                ("10.1.2.3", 32),
                ("fd00:1::1", 64),
            ] {
                let want = address(&link, text, len);
                lab.add(&want);
                assert!(lab.holds(&want), "{want:?}");
                let wider = Address {
                    prefix_len: len - 1,
                    ..want.clone()
                };
                let change = Op::Change {
                    from: want.object(),
                    to: wider.object(),
                };
                let back = change.inverse().unwrap();
                lab.apply(&[change]).unwrap();
                assert!(lab.holds(&wider));
                lab.apply(&[back]).unwrap();
                lab.remove(&want);
                assert!(!lab.holds(&want));
                lab.remove(&want);
            }
        }
        lab.remove(&address(&bridge(2), "10.1.0.1", 24));
        let error = lab
            .try_add(&address(&bridge(2), "10.1.0.1", 24))
            .unwrap_err();
        assert_eq!(error.kind, KernelErrorKind::NoSuchDevice, "{error}");
        // One of somebody else's interface that has just gone needs no setting.
        let of_host = |name: &str| Sysctl {
            ns: Ns::Host,
            path: format!("net/ipv6/conf/gone0/{name}"),
            value: "2".to_owned(),
            ifname: None,
            owner: Owner::Host,
        };
        lab.add(&of_host("accept_ra"));
        let unknown = Sysctl {
            path: "net/ipv6/conf/lo/no_such_setting".to_owned(),
            ..of_host("")
        };
        lab.try_add(&unknown).unwrap_err();
    });
}

#[test]
fn an_ipv6_address_is_usable_at_once() {
    in_lab("an_ipv6_address_is_usable_at_once", |lab| {
        let (id, eth0) = attached(lab);
        lab.add(&address(&eth0, "fd00:1::2", 64));
        lab.inside(&id, || UdpSocket::bind("[fd00:1::2]:0"))
            .unwrap();
    });
}

#[test]
fn foreign_addresses_and_routes_are_never_seen() {
    in_lab("foreign_addresses_and_routes_are_never_seen", |lab| {
        let (_, eth0) = attached(lab);
        foreign_bridge(&mut lab.space, "foreign");
        foreign_address(&mut lab.space, "foreign", "192.0.2.1", 24);
        foreign_address(&mut lab.space, "br1", "192.0.2.77", 32);
        foreign_address(&mut lab.space, "br1", "fd99::1", 64);
        foreign_route(
            &mut lab.space,
            "198.51.100.0/24",
            Some("192.0.2.9"),
            "foreign",
            0,
        );
        foreign_route(&mut lab.space, "203.0.113.0/24", None, "br1", 0);
        assert_eq!(
            lab.observe().objects.len(),
            3,
            "the bridge and the pair: {:?}",
            lab.observe()
        );
        // An address that somebody else set on netd's link becomes netd's when it is wanted.
        let taken = address(&bridge(1), "fd99::1", 64);
        lab.add(&taken);
        assert!(lab.holds(&taken));
        let taken = address(&bridge(1), "192.0.2.77", 32);
        lab.add(&taken);
        assert!(lab.holds(&taken));
        assert!(!lab.holds(&address(&eth0, "192.0.2.77", 32)));
    });
}

fn route(link: &Link, dst: &str, via: Option<&str>) -> Route {
    Route {
        ns: link.ns.clone(),
        dst: prefix(dst),
        via: via.map(ip),
        dev: link.name.clone(),
        local: false,
        metric: 0,
        src: None,
        owner: link.owner.clone(),
    }
}

#[test]
fn routes_of_both_families_come_and_go() {
    in_lab("routes_of_both_families_come_and_go", |lab| {
        let (_, eth0) = attached(lab);
        for (own, len, dst, via) in [
            ("10.1.0.2", 24, "0.0.0.0/0", "10.1.0.1"),
            ("10.1.0.2", 24, "10.9.0.0/16", "10.1.0.7"),
            ("fd00:1::2", 64, "::/0", "fd00:1::1"),
            ("fd00:1::2", 64, "fd00:9::/48", "fd00:1::7"),
        ] {
            lab.add(&address(&eth0, own, len));
            for want in [
                route(&eth0, dst, Some(via)),
                Route {
                    metric: 7,
                    ..route(&eth0, dst, Some(via))
                },
                route(&eth0, dst, None),
            ] {
                lab.add(&want);
                assert!(lab.holds(&want), "{want:?}");
                lab.remove(&want);
                assert!(!lab.holds(&want));
                lab.remove(&want);
            }
        }
        let wrong = route(&eth0, "10.9.0.0/16", Some("fd00:1::1"));
        assert!(
            lab.try_add(&wrong)
                .unwrap_err()
                .to_string()
                .contains("two families")
        );
    });
}

#[test]
fn a_route_changes_and_a_foreign_one_stays() {
    in_lab("a_route_changes_and_a_foreign_one_stays", |lab| {
        let (id, eth0) = attached(lab);
        lab.add(&address(&eth0, "10.1.0.2", 24));
        let first = route(&eth0, "0.0.0.0/0", Some("10.1.0.1"));
        let second = route(&eth0, "0.0.0.0/0", Some("10.1.0.9"));
        lab.add(&first);
        lab.apply(&[Op::Change {
            from: first.object(),
            to: second.object(),
        }])
        .unwrap();
        assert!(lab.holds(&second));
        lab.remove(&second);
        let mut inner = lab.inside(&id, || Space::open(Ns::Host).unwrap());
        foreign_route(&mut inner, "0.0.0.0/0", Some("10.1.0.8"), "eth0", 0);
        let error = lab.try_add(&first).unwrap_err();
        assert!(error.to_string().contains("not netd's"), "{error}");
        lab.remove(&route(&eth0, "0.0.0.0/0", Some("10.1.0.8")));
        assert!(lab.try_add(&first).is_err(), "the foreign route stayed");
    });
}

#[test]
fn each_bridge_has_its_local_route_to_the_loopback_address() {
    in_lab(
        "each_bridge_has_its_local_route_to_the_loopback_address",
        |lab| {
            let local = |number: u8| Route {
                local: true,
                metric: 0x6e00_0000 + u32::from(number),
                ..route(&bridge(number), "::1/128", None)
            };
            for number in [1, 2] {
                lab.add(&bridge(number));
                lab.add(&address(&bridge(number), &format!("fd00:{number}::1"), 64));
                lab.add(&local(number));
            }
            assert!(lab.holds(&local(1)) && lab.holds(&local(2)));
            lab.remove(&local(1));
            assert!(!lab.holds(&local(1)) && lab.holds(&local(2)));
        },
    );
}

#[test]
fn settings_are_those_of_the_right_namespace() {
    in_lab("settings_are_those_of_the_right_namespace", |lab| {
        let (_, eth0) = attached(lab);
        let setting = |link: &Link, value: &str| Sysctl {
            ns: link.ns.clone(),
            path: format!("net/ipv4/conf/{}/route_localnet", link.name),
            value: value.to_owned(),
            ifname: Some(link.name.clone()),
            owner: link.owner.clone(),
        };
        for link in [&bridge(1), &eth0] {
            assert!(lab.holds(&setting(link, "0")));
            lab.add(&setting(link, "1"));
            assert!(lab.holds(&setting(link, "1")));
            lab.remove(&setting(link, "1"));
        }
        let error = lab
            .try_add(&Sysctl {
                ns: Ns::Host,
                ..setting(&eth0, "1")
            })
            .unwrap_err();
        assert_eq!(error.kind, KernelErrorKind::NoSuchDevice, "{error}");
        for bad in ["", "/net", "../etc/x", "net/../../x", "net//x"] {
            let error = lab.try_add(&Sysctl {
                path: bad.to_owned(),
                ..setting(&bridge(1), "1")
            });
            assert!(
                error.unwrap_err().to_string().contains("not a path below"),
                "{bad}"
            );
        }
        let wrong = Sysctl {
            value: "many".to_owned(),
            ..setting(&bridge(1), "1")
        };
        assert_eq!(lab.try_add(&wrong).unwrap_err().errno(), Some(22));
    });
}

#[test]
fn ipv6_that_is_switched_off_is_told() {
    in_lab("ipv6_that_is_switched_off_is_told", |lab| {
        let (_, eth0) = attached(lab);
        lab.add(&Sysctl {
            ns: eth0.ns.clone(),
            path: "net/ipv6/conf/eth0/disable_ipv6".to_owned(),
            value: "1".to_owned(),
            ifname: Some(eth0.name.clone()),
            owner: eth0.owner.clone(),
        });
        let error = lab.try_add(&address(&eth0, "fd00::1", 64)).unwrap_err();
        assert_eq!(error.kind, KernelErrorKind::Ipv6Off, "{error}");
    });
}

#[test]
fn facts_are_read_without_what_is_ours() {
    in_lab("facts_are_read_without_what_is_ours", |lab| {
        foreign_bridge(&mut lab.space, "up1");
        foreign_bridge(&mut lab.space, "up2");
        let slim = LinkUnspec::new_with_name("up2").mtu(1450).build();
        let slim = Request::set(&RouteNetlinkMessage::SetLink(slim), 0);
        lab.space.route.call(&slim).unwrap();
        foreign_address(&mut lab.space, "up1", "192.0.2.1", 24);
        foreign_address(&mut lab.space, "up2", "198.51.100.1", 24);
        foreign_route(&mut lab.space, "0.0.0.0/0", Some("192.0.2.9"), "up1", 200);
        foreign_route(
            &mut lab.space,
            "0.0.0.0/0",
            Some("198.51.100.9"),
            "up2",
            100,
        );
        foreign_route(&mut lab.space, "10.64.0.0/12", Some("192.0.2.9"), "up1", 0);
        lab.add(&bridge(1));
        lab.add(&address(&bridge(1), "10.1.0.1", 24));
        lab.add(&address(&bridge(1), "fd00:1::1", 64));
        foreign_route(&mut lab.space, "10.99.0.0/16", Some("10.1.0.9"), "br1", 0);
        let facts = lab.kernel.facts().unwrap();
        let mut routes: Vec<String> = facts.routes.iter().map(ToString::to_string).collect();
        routes.sort();
        assert_eq!(
            routes,
            [
                "10.64.0.0/12",
                "10.99.0.0/16",
                "192.0.2.0/24",
                "198.51.100.0/24"
            ]
        );
        assert_eq!(facts.uplink_mtu, Some(1450));
        let (up1, up2) = (name("up1"), name("up2"));
        assert_eq!(
            facts.accept_ra,
            if facts.ipv6 { vec![up1, up2] } else { vec![] }
        );
    });
}
