use std::net::IpAddr;
use std::time::Duration;

use netd_model::api;
use netd_model::net::Prefix;
use netd_model::observed::HostFacts;
use netd_model::record::{Phase, Unknown};
use netd_model::request::{Attach, Join};

use super::super::Shared;
use super::*;
use crate::cluster::core::Link;
use crate::cluster::records::{Claim, Station};
use crate::cluster::samples::{claimed, name, network, network_id, node, station};

/// A host with two blocks of the network, the first with its own address, that knows two others.
fn world() -> World {
    let mut world = World::new(HostFacts::default(), [0; 5]);
    world.shared = Some(Shared::new(name("h1"), node(1)));
    let mut news = vec![
        News::Link(Link::Online),
        News::Network(network_id(), Some(Box::new(network("10.0.0.0/24")))),
        claimed("10.0.0.16/28", true),
        claimed("10.0.0.32/28", false),
    ];
    for n in 1..=3 {
        news.push(News::Node(name(&format!("h{n}")), Some(node(n))));
    }
    world.take_in(news);
    world
}

fn attach(world: &mut World, name: &str, ip: Option<&str>) -> Container {
    let raw = api::ContainerAttach {
        netns: format!("/ns/{name}"),
        name: name.to_owned(),
        networks: vec![api::Join {
            network: "web".to_owned(),
            ip: ip.map(|ip| ip.parse().unwrap()),
            ..api::Join::default()
        }],
        ..api::ContainerAttach::default()
    };
    let id = ContainerId::parse(&format!("id-of-{name}")).unwrap();
    let inode = world.containers().count() as u64;
    let attach = Attach::try_from(raw).unwrap();
    world
        .reserve(attach, id.clone(), (1, inode), Duration::ZERO, &[])
        .unwrap();
    world.set_phase(&id, Phase::Attached);
    world.container(&id).unwrap().clone()
}

fn claimed_by(n: u8, prefix: &str) -> News {
    let claim = Claim {
        node: Some(name(&format!("h{n}"))),
        id: node(n).id,
        router: false,
        unknown: Unknown::new(),
    };
    News::Claim(network_id(), prefix.parse().unwrap(), Some(claim))
}

fn comes(n: u8, id: &str, station: Station) -> News {
    let id = ContainerId::parse(id).unwrap();
    News::Endpoint(name(&format!("h{n}")), network_id(), id, Some(station))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn what_another_host_has_by_now_is_not_used() {
    let mut world = world();
    let a = attach(&mut world, "a", Some("10.0.0.33"));
    let b = attach(&mut world, "b", Some("10.0.0.20"));
    let own = |world: &World, of: &Container| world.own_stations(&of.id).len();
    assert!(!world.container_objects(&a).is_empty());
    assert_eq!([own(&world, &a), own(&world, &b)], [1, 1]);

    world.take_in(vec![claimed_by(2, "10.0.0.32/28")]);
    assert!(
        world.container_objects(&a).is_empty(),
        "nothing of it is left"
    );
    assert!(!world.container_objects(&b).is_empty());
    assert_eq!([own(&world, &a), own(&world, &b)], [0, 1]);
    assert_eq!(world.cut_off(&a.id), [network_id()].into());
    let warnings = world.cluster_warnings();
    let is_named = |text: &String| {
        text.contains("container a is cut off")
            && text.contains("10.0.0.33")
            && text.contains("host h2")
    };
    assert!(warnings.iter().any(is_named), "{warnings:?}");

    // The one that has it now is believed, though it has the same Ethernet address too.
    world.take_in(vec![comes(2, "thief", station(ip("10.0.0.33")))]);
    let key = (
        network_id(),
        name("h2"),
        Some(ContainerId::parse("thief").unwrap()),
    );
    assert_eq!(world.station_objects(&key).len(), 3);

    // Nothing new comes from there, asked for or not.
    for n in 0..11 {
        let c = attach(&mut world, &format!("c{n}"), None);
        let block: Prefix = "10.0.0.16/28".parse().unwrap();
        assert!(c.endpoints[0].ips.iter().all(|ip| block.contains(*ip)));
    }
    let join = Join::any("web");
    let asked = Join {
        ip: Some([10, 0, 0, 34].into()),
        ..join.clone()
    };
    let wants = |join: Join| world.lacking(&[join]).unwrap_or_default();
    assert!(
        wants(asked).is_some(),
        "it has to be claimed, and that is refused"
    );

    // It is given back one day, and claimed again.
    world.take_in(vec![
        News::Endpoint(
            name("h2"),
            network_id(),
            ContainerId::parse("thief").unwrap(),
            None,
        ),
        claimed("10.0.0.32/28", false),
    ]);
    assert!(!world.container_objects(&a).is_empty());
    assert_eq!(world.cut_off(&a.id), BTreeSet::new());
}

#[test]
fn without_an_address_of_its_own_a_host_wants_another() {
    let mut world = world();
    attach(&mut world, "a", Some("10.0.0.33"));
    assert!(!world.lacks_router(&network_id()));
    world.take_in(vec![claimed_by(2, "10.0.0.16/28")]);
    assert!(world.lacks_router(&network_id()));
    let ask = world.foresight(&network_id()).unwrap();
    assert!(ask.wants.iter().any(|want| want.router), "{ask:?}");
}

/// The host of the entry that an Ethernet address has.
fn hosts_of(world: &World, mac: Mac) -> Vec<IpAddr> {
    let keys = world.stations_on(&network_id());
    let objects = keys.iter().flat_map(|key| world.station_objects(key));
    let remotes = objects.filter_map(|object| match object {
        netd_model::Object::Remote(remote) if remote.mac == mac => Some(remote.host),
        _ => None,
    });
    remotes.collect()
}

#[test]
fn an_ethernet_address_is_one_stations() {
    let mut world = world();
    attach(&mut world, "a", None);
    let made = station(ip("10.0.0.200"));
    let with = |mac, text: &str| Station {
        mac,
        ..station(ip(text))
    };
    let other = Mac::new([2, 0, 0, 0, 0, 0x77]).unwrap();
    let of = |n: u8| vec![node(n).address];
    // Whose address it is made from has it, whoever came first.
    world.take_in(vec![comes(3, "e", with(made.mac, "10.0.0.210"))]);
    assert_eq!(hosts_of(&world, made.mac), of(3));
    world.take_in(vec![comes(2, "good", made.clone())]);
    assert_eq!(hosts_of(&world, made.mac), of(2));
    let warnings = world.cluster_warnings().join(" ");
    assert!(
        warnings.contains("record of host h3 is not used"),
        "{warnings}"
    );
    assert!(
        warnings.contains("that of a station of host h2"),
        "{warnings}"
    );
    // Of others, who came first; also when it is told again, and until it goes.
    world.take_in(vec![comes(3, "first", with(other, "10.0.0.211"))]);
    world.take_in(vec![comes(2, "second", with(other, "10.0.0.212"))]);
    world.take_in(vec![comes(3, "first", with(other, "10.0.0.213"))]);
    assert_eq!(hosts_of(&world, other), of(3));
    let news = vec![News::Endpoint(
        name("h3"),
        network_id(),
        ContainerId::parse("first").unwrap(),
        None,
    )];
    // It is among what changes with that.
    let affected = world.affected(&news);
    assert_eq!(affected.len(), 2, "{affected:?}");
    world.take_in(news);
    assert_eq!(hosts_of(&world, other), of(2));
    // One that is not believed anyway takes it from nobody.
    world.take_in(vec![
        claimed_by(2, "10.0.0.224/28"),
        comes(3, "liar", station(ip("10.0.0.225"))),
        comes(2, "true", station(ip("10.0.0.225"))),
    ]);
    assert_eq!(hosts_of(&world, Mac::of_address(ip("10.0.0.225"))), of(2));
}
