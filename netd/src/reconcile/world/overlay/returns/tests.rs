use netd_model::observed::HostFacts;

use super::*;
use crate::cluster::mirror::News;
use crate::cluster::samples::{claimed, name, network, network_id, node};
use crate::reconcile::world::GiveBack;
use crate::reconcile::world::overlay::samples::attach;

const MINUTE: Duration = Duration::from_secs(60);

/// A host with these blocks of the network, the first with its own address.
fn world(blocks: &[&str]) -> World {
    let mut world = World::new(HostFacts::default(), [0; 5]);
    world.shared = Some(Shared::new(name("h1"), node(1)));
    let mut news = vec![
        News::Link(Link::Online),
        News::Network(network_id(), Some(Box::new(network("10.0.0.0/24")))),
    ];
    let claims = blocks.iter().enumerate();
    news.extend(claims.map(|(n, prefix)| claimed(prefix, n == 0)));
    world.take_in(news);
    world
}

fn given(world: &mut World, now: Duration) -> Vec<String> {
    let given = world.idle_claims(now).into_iter();
    given.map(|(_, prefix)| prefix.to_string()).collect()
}

#[test]
fn all_go_a_rest_after_the_last_container() {
    let mut world = world(&["10.0.0.16/28", "10.0.0.3/32"]);
    let a = attach(&mut world, "a", None);
    assert_eq!(given(&mut world, Duration::ZERO), Vec::<String>::new());
    assert_eq!(given(&mut world, 10 * MINUTE), ["10.0.0.3/32"]);
    world.remove_container(&a, GiveBack::Used(10 * MINUTE));
    // Nothing is told of the rest that began with the removal but by looking.
    assert_eq!(given(&mut world, 10 * MINUTE), ["10.0.0.3/32"]);
    assert_eq!(
        given(&mut world, 11 * MINUTE),
        ["10.0.0.3/32", "10.0.0.16/28"]
    );
    world.let_go(&network_id(), "10.0.0.16/28".parse().unwrap());
    world.let_go(&network_id(), "10.0.0.3/32".parse().unwrap());
    assert_eq!(given(&mut world, 20 * MINUTE), Vec::<String>::new());
    let net = &world.networks[&network_id()];
    assert!(net.pools.is_empty());
}

#[test]
fn a_daemon_that_starts_again_waits_for_a_rest_that_it_does_not_know_of() {
    let mut world = world(&["10.0.0.16/28"]);
    assert_eq!(given(&mut world, MINUTE), Vec::<String>::new());
    assert_eq!(given(&mut world, 2 * MINUTE), ["10.0.0.16/28"]);
}

#[test]
fn while_there_are_containers_the_own_address_and_enough_room_stay() {
    let mut world = world(&["10.0.0.16/28", "10.0.0.32/28", "10.0.0.48/28"]);
    // In the second block: the first has the host's own address, and stays though it is empty.
    let a = attach(&mut world, "a", Some("10.0.0.40"));
    given(&mut world, Duration::ZERO);
    assert_eq!(given(&mut world, 2 * MINUTE), ["10.0.0.48/28"]);
    // Half of what would be left is in use: nothing goes that would be claimed again soon.
    for n in 0..15 {
        attach(&mut world, &format!("b{n}"), None);
    }
    assert_eq!(given(&mut world, 2 * MINUTE), Vec::<String>::new());
    assert!(world.container(&a).is_some());
}

#[test]
fn nothing_goes_while_the_store_is_away() {
    let mut world = world(&["10.0.0.16/28"]);
    given(&mut world, Duration::ZERO);
    world.take_in(vec![News::Link(Link::Offline("away".to_owned()))]);
    assert_eq!(given(&mut world, 2 * MINUTE), Vec::<String>::new());
    world.take_in(vec![News::Link(Link::Online)]);
    assert_eq!(given(&mut world, 2 * MINUTE), ["10.0.0.16/28"]);
}
