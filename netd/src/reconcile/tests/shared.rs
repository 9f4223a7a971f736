//! What other hosts of the cluster say, carried out here.

use netd_model::id::{ContainerId, Name, NetworkId};
use netd_model::net::{Mac, Prefix};
use netd_model::overlay::Overlay;
use netd_model::record::{Driver, Mode, Network, Policy, Subnet, Unknown};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::cluster::mirror::News;
use crate::cluster::records::{Claim, Node, Station};
use crate::cluster::{Ends, Told};

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn node(n: u8) -> Node {
    Node {
        id: n.to_string().repeat(32),
        incarnation: String::new(),
        address: [192, 0, 2, n].into(),
        mtu: 1500,
        software: String::new(),
        unknown: Unknown::new(),
    }
}

fn web() -> Network {
    let id = NetworkId::from_bytes([9; 16]);
    Network {
        interface: Network::default_interface(&id),
        name: name("web"),
        driver: Driver::Overlay,
        subnets: vec![Subnet {
            subnet: "10.9.0.0/24".parse().unwrap(),
            gateway: [10, 9, 0, 1].into(),
            ip_range: None,
        }],
        internal: false,
        mode: Mode::Nat,
        mode6: None,
        policy: Policy::default(),
        mtu: 1450,
        dns: Vec::new(),
        naming: netd_model::naming::Naming::default(),
        labels: BTreeMap::new(),
        routes: Vec::new(),
        access: netd_model::access::Access::default(),
        reservations: BTreeMap::new(),
        overlay: Some(Overlay {
            vni: 42,
            port: 4789,
            router: None,
        }),
        unknown: Unknown::new(),
        id,
    }
}

fn claimed(prefix: &str, router: bool) -> News {
    let prefix: Prefix = prefix.parse().unwrap();
    let claim = Claim {
        node: Some(name("h1")),
        id: node(1).id,
        router,
        unknown: Unknown::new(),
    };
    News::Claim(web().id, prefix, Some(claim))
}

fn container(last: u8) -> News {
    let ip = IpAddr::from([10, 9, 0, last]);
    let station = Station {
        mac: Mac::of_address(ip),
        ips: vec![ip],
        name: Some(name(&format!("c{last}"))),
        hostname: None,
        aliases: Vec::new(),
        unknown: Unknown::new(),
    };
    let id = ContainerId::parse(&format!("c{last}")).unwrap();
    News::Endpoint(name("h2"), web().id, id, Some(station))
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
            News::Network(web().id, Some(Box::new(web()))),
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
