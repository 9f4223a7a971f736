//! What tests of shared networks have in common.

use std::time::Duration;

use netd_model::api;
use netd_model::id::ContainerId;
use netd_model::request::Attach;

use crate::reconcile::world::World;

/// A container on the network `web`, at this address or at any.
pub(super) fn attach(world: &mut World, name: &str, ip: Option<&str>) -> ContainerId {
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
    id
}
