//! What other hosts of the cluster say, carried out here.

use netd_model::id::ContainerId;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::cluster::mirror::News;
use crate::cluster::records::Station;
use crate::cluster::samples::{claimed, name, network, network_id, node, station};
use crate::cluster::{Ends, Told};

const SUBNET: &str = "10.9.0.0/24";

fn container(last: u8) -> News {
    let ip = IpAddr::from([10, 9, 0, last]);
    let station = Station {
        name: Some(name(&format!("c{last}"))),
        ..station(ip)
    };
    let id = ContainerId::parse(&format!("c{last}")).unwrap();
    News::Endpoint(name("h2"), network_id(), id, Some(station))
}

/// A claim of this host's comes while a container elsewhere waits for the job of the one before it: the network is then planned
/// as a whole, from what the kernel holds and not from what it will hold.
#[tokio::test]
async fn a_station_that_waits_is_made_though_its_network_changes_meanwhile() {
    let (inputs, _wanted) = mpsc::unbounded_channel();
    let (tell, told) = mpsc::unbounded_channel();
    let (sites, _probed) = watch::channel(crate::cluster::probing::Sites::default());
    let mut ends = Some(Ends {
        name: name("h1"),
        node: node(1),
        fixed: true,
        restored: vec![
            News::Node(name("h1"), Some(node(1))),
            News::Node(name("h2"), Some(node(2))),
            News::Network(network_id(), Some(Box::new(network(SUBNET)))),
            claimed("10.9.0.16/28", true),
        ],
        inputs,
        sites,
        told,
    });
    let (fake, store) = (FakeKernel::new(), Arc::new(Memory::default()));
    let zone = ZoneHandle::new(Zone::default());
    let kernel: Arc<dyn Kernel> = Arc::new(fake.clone());
    let through = Arc::clone(&store) as Arc<dyn Store>;
    let (handle, owner) = start(kernel, through, zone.clone(), FOREVER, &mut |_| {
        Ok(ends.take())
    })
    .unwrap();
    let lab = Lab {
        kernel: fake,
        store,
        zone,
        handle,
        owner: tokio::spawn(owner),
    };
    lab.handle.ready().await;
    lab.attach("a", "web", &[]).await.unwrap();
    for last in 100..110 {
        let messages = [
            vec![container(2 * last)],
            vec![container(2 * last + 1)],
            vec![claimed(&format!("10.9.0.{}/32", last - 97), false)],
        ];
        for news in messages {
            tell.send(Told::News(news)).unwrap();
        }
        let ip = IpAddr::from([10, 9, 0, 2 * last + 1]);
        let is_there = |object: &Object| matches!(object, Object::Neighbour(n) if n.ip == ip);
        let mut tries = 0;
        while !lab.kernel.held().objects.values().any(is_there) {
            tries += 1;
            assert!(
                tries < 1000,
                "{ip} is not made: {:#?}",
                lab.plan().await.text
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    lab.assert_healthy().await;
}
