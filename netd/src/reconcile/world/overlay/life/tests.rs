use netd_model::observed::HostFacts;

use super::*;
use crate::cluster::mirror::News;
use crate::cluster::records::Station;
use crate::cluster::samples::{name, network, network_id, node, station};

const SECOND: Duration = Duration::from_secs(1);

/// A host that knows another, which is alive.
fn world() -> World {
    let mut world = World::new(HostFacts::default(), [0; 5]);
    world.shared = Some(Shared::new(name("h1"), node(1)));
    world.take_in(vec![
        News::Link(Link::Online),
        News::Node(name("h1"), Some(node(1))),
        News::Alive(name("h1"), true),
        News::Node(name("h2"), Some(node(2))),
        News::Alive(name("h2"), true),
    ]);
    world
}

fn paths(from: State, to: State) -> BTreeMap<Target, Paths> {
    let way = |state| Way {
        small: state,
        full: state,
        plain: State::Unknown,
    };
    let target = Target {
        network: network_id(),
        host: name("h2"),
    };
    let paths = Paths {
        from: way(from),
        to: way(to),
    };
    BTreeMap::from([(target, paths)])
}

/// The state of the other host, and the seconds since its last sign of life.
fn state(world: &World) -> (String, Option<u64>) {
    let views = world.node_views();
    let view = views.iter().find(|view| view.name == "h2").unwrap();
    (view.state.clone(), view.last_seen)
}

fn is(word: &str, seconds: Option<u64>) -> (String, Option<u64>) {
    (word.to_owned(), seconds)
}

#[test]
fn a_host_is_dead_when_nothing_is_heard_of_it_in_any_way() {
    let mut world = world();
    world.take_paths(paths(State::Ok, State::Ok));
    world.age(SECOND);
    assert_eq!(state(&world), is("alive", None));
    world.take_in(vec![News::Alive(name("h2"), false)]);
    // Its daemon does not reach the store, but is heard.
    world.age(200 * SECOND);
    assert_eq!(state(&world), is("suspect", None));
    world.take_paths(paths(State::Lost, State::Unknown));
    world.age(201 * SECOND);
    assert_eq!(state(&world), is("suspect", Some(0)));
    world.age(260 * SECOND);
    assert_eq!(state(&world), is("suspect", Some(59)));
    world.age(261 * SECOND);
    assert_eq!(state(&world), is("dead", Some(60)));
    assert!(
        world
            .cluster_warnings()
            .iter()
            .any(|text| text.contains("host h2 is dead"))
    );
    world.take_paths(paths(State::Ok, State::Ok));
    world.age(262 * SECOND);
    assert_eq!(state(&world), is("suspect", None));
    world.take_in(vec![News::Alive(name("h2"), true)]);
    world.age(263 * SECOND);
    assert_eq!(state(&world), is("alive", None));
}

#[test]
fn who_shares_no_network_with_it_never_says_so() {
    let mut world = world();
    world.take_in(vec![News::Alive(name("h2"), false)]);
    world.age(SECOND);
    world.age(10_000 * SECOND);
    assert_eq!(state(&world), is("suspect", Some(9_999)));
}

#[test]
fn a_store_that_is_away_proves_nothing() {
    let mut world = world();
    world.take_paths(paths(State::Lost, State::Unknown));
    world.take_in(vec![
        News::Alive(name("h2"), false),
        News::Link(Link::Offline("away".to_owned())),
    ]);
    world.age(SECOND);
    world.age(1_000 * SECOND);
    assert_eq!(state(&world), is("suspect", Some(0)));
    world.take_in(vec![News::Link(Link::Online)]);
    world.age(1_001 * SECOND);
    assert_eq!(state(&world), is("suspect", Some(1)));
    world.age(1_061 * SECOND);
    assert_eq!(state(&world), is("dead", Some(61)));
}

#[test]
fn a_way_that_does_not_work_is_named_with_host_direction_and_size() {
    let (ok, lost) = (State::Ok, State::Lost);
    let plainly = |small, full, plain| Way { small, full, plain };
    let way = |small, full| plainly(small, full, State::Unknown);
    let web = network("10.0.0.0/24");
    let text = |from, to| warning(&name("h2"), &web, Paths { from, to }).unwrap_or_default();
    let well = way(ok, ok);
    assert_eq!(text(well, well), "");
    assert_eq!(text(way(State::Unknown, ok), well), "");
    for (from, to, words) in [
        (
            way(ok, lost),
            well,
            "packets of 1450 bytes are lost from host h2 to this one",
        ),
        (
            well,
            way(ok, lost),
            "packets of 1450 bytes are lost from this host to host h2",
        ),
        (
            way(lost, lost),
            Way::default(),
            "nothing arrives from host h2",
        ),
        (
            well,
            way(lost, lost),
            "nothing that this host sends arrives at host h2",
        ),
        (
            plainly(lost, lost, ok),
            well,
            "what host h2 sends to this one arrives only if",
        ),
        (
            well,
            plainly(lost, lost, ok),
            "on this host with `ethtool -K ndx-09090909 tx off`",
        ),
        (way(lost, ok), well, "small packets from host h2 are lost"),
        (well, way(lost, ok), "small packets to host h2 are lost"),
    ] {
        let text = text(from, to);
        assert!(
            text.starts_with("network web: ") && text.contains(words),
            "{text}"
        );
    }
}

#[test]
fn a_silent_hosts_names_return_when_nobody_alive_has_them() {
    let mut world = world();
    let net = network_id();
    let station = |ip: [u8; 4]| Station {
        name: Some(name("db")),
        ..station(ip.into())
    };
    let id = |text: &str| netd_model::ContainerId::parse(text).unwrap();
    world.take_in(vec![
        News::Node(name("h3"), Some(node(3))),
        News::Alive(name("h3"), true),
        News::Endpoint(
            name("h2"),
            net.clone(),
            id("c2"),
            Some(station([10, 0, 0, 2])),
        ),
        News::Alive(name("h2"), false),
    ]);
    let silent = (net.clone(), name("h2"), Some(id("c2")));
    // One that lives has the name now, and then not any more: the silent one is looked at each time.
    let here = Some(station([10, 0, 0, 3]));
    for station in [here, None] {
        let news = News::Endpoint(name("h3"), net.clone(), id("c3"), station);
        assert!(world.take_in(vec![news]).names.contains(&silent));
    }
    let effects = world.take_in(vec![News::Alive(name("h2"), true)]);
    assert!(effects.names.contains(&silent));
}
