use netd_model::id::ContainerId;
use netd_model::observed::HostFacts;
use netd_model::record::Unknown;

use super::*;
use crate::cluster::core::Link;
use crate::cluster::records::Claim;
use crate::cluster::samples::{claimed, name, network, network_id, node, station};
use crate::reconcile::world::overlay::Shared;
use crate::reconcile::world::overlay::samples::attach;

/// A host with a container, which knows another with an address of its own and these containers.
fn world(others: &[&str]) -> World {
    let mut world = World::new(HostFacts::default(), [0; 5]);
    world.shared = Some(Shared::new(name("h1"), node(1)));
    let theirs = Claim {
        node: Some(name("h2")),
        id: node(2).id,
        router: true,
        unknown: Unknown::new(),
    };
    let block = "10.0.0.32/28".parse().unwrap();
    let mut news = vec![
        News::Link(Link::Online),
        News::Network(network_id(), Some(Box::new(network("10.0.0.0/24")))),
        claimed("10.0.0.16/28", true),
        News::Node(name("h2"), Some(node(2))),
        News::Claim(network_id(), block, Some(theirs)),
        member(Some("10.0.0.33")),
    ];
    news.extend(others.iter().map(|ip| elsewhere(ip, true)));
    world.take_in(news);
    attach(&mut world, "a", None);
    world
}

/// That `h2` takes part, or does no longer.
fn member(ip: Option<&str>) -> News {
    let station = ip.map(|ip| station(ip.parse().unwrap()));
    News::Member(name("h2"), network_id(), station)
}

/// That a container of `h2` has an address, or is gone.
fn elsewhere(ip: &str, is_there: bool) -> News {
    let id = ContainerId::parse(&format!("at-{ip}")).unwrap();
    let station = is_there.then(|| station(ip.parse().unwrap()));
    News::Endpoint(name("h2"), network_id(), id, station)
}

/// The entries of stations that the kernel shall hold.
fn entries(world: &World) -> BTreeSet<Key> {
    let objects = world.remote_objects(&network_id()).into_iter();
    let keys = objects.map(|object| object.key());
    keys.filter(Key::is_station).collect()
}

fn wanted(world: &World, keys: &BTreeSet<Key>) -> BTreeSet<Key> {
    let is_wanted = |key: &&Key| world.is_station_wanted(&network_id(), key);
    keys.iter().filter(is_wanted).cloned().collect()
}

#[test]
fn each_entry_is_wanted_by_itself_as_long_as_its_station_is_there() {
    let mut world = world(&["10.0.0.34", "10.0.0.35"]);
    let all = entries(&world);
    // Three stations: where, behind which port, and at which address; and a host that gets what is for all.
    assert_eq!(all.len(), 3 * 3 + 1, "{all:#?}");
    assert_eq!(wanted(&world, &all), all);

    world.take_in(vec![elsewhere("10.0.0.34", false)]);
    let left = entries(&world);
    assert_eq!(left.len(), 2 * 3 + 1, "{left:#?}");
    assert_eq!(wanted(&world, &all), left);

    // Its address stays claimed: what is for all goes there before it takes part, and after.
    world.take_in(vec![elsewhere("10.0.0.35", false), member(None)]);
    let left = entries(&world);
    assert_eq!(left.len(), 1, "{left:#?}");
    assert_eq!(wanted(&world, &all), left);

    let moved = node(3);
    world.take_in(vec![News::Node(name("h2"), Some(moved))]);
    assert_eq!(wanted(&world, &all), BTreeSet::new());
    let now = entries(&world);
    assert_eq!(wanted(&world, &now), now);
}

#[test]
fn an_entry_of_a_station_that_is_not_believed_is_not_wanted() {
    // Outside of what its host has claimed, and what this host itself has.
    let with = world(&["10.0.0.34", "10.0.0.17"]);
    let own = with.containers().next().unwrap().endpoints[0].ips[0];
    assert_eq!(own.to_string(), "10.0.0.17", "the sample meets it");
    let without = world(&["10.0.0.34"]);
    assert_eq!(entries(&with), entries(&without));
    let mac = station(own).mac;
    let keys = [
        Key::Neighbour {
            ifname: network("10.0.0.0/24").interface,
            ip: own,
        },
        Key::Remote {
            ifname: overlay::device(&network("10.0.0.0/24")),
            mac,
        },
    ];
    assert_eq!(wanted(&with, &keys.into()), BTreeSet::new());
}
