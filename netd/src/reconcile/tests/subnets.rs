//! Networks with several subnets of one family: in which of them a container gets its address.

use super::*;

const SUBNETS: [&str; 3] = ["10.9.0.0/30", "fd00:9::/64", "10.9.1.0/29"];

impl Lab {
    async fn network_of(&self, subnets: &[&str]) -> Result<(), Error> {
        let raw = api::NetworkCreate {
            name: "web".to_owned(),
            subnets: subnets.iter().map(ToString::to_string).collect(),
            ..api::NetworkCreate::default()
        };
        let create = Request::CreateNetwork(CreateNetwork::try_from(raw)?);
        self.handle.ask(create, false).await.map(|_| ())
    }

    async fn attach_at(&self, name: &str, ip: Option<&str>) -> Result<String, Error> {
        self.kernel
            .add_namespace(&format!("/ns/{name}"), inode(name));
        let request = self.attach_raw(api::ContainerAttach {
            netns: format!("/ns/{name}"),
            name: name.to_owned(),
            id: Some(format!("id-of-{name}")),
            networks: vec![api::Join {
                network: "web".to_owned(),
                ip: ip.map(str::to_owned),
                ..api::Join::default()
            }],
            ..api::ContainerAttach::default()
        });
        match self.handle.ask(request, false).await? {
            Answer::Container(made) => Ok(made.endpoints[0].ipv4.clone().unwrap()),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn they_are_used_up_one_after_the_other_and_a_resting_address_is_the_last() {
    let lab = Lab::start().await;
    lab.network_of(&SUBNETS).await.unwrap();
    assert_eq!(lab.attach_at("a", None).await.unwrap(), "10.9.0.2/30");
    assert_eq!(lab.attach_at("b", None).await.unwrap(), "10.9.1.2/29");
    lab.detach("a").await.unwrap();
    for (name, ip) in [
        // It was somebody's a moment ago, and others are free.
        ("c", "10.9.1.3/29"),
        ("d", "10.9.1.4/29"),
        ("e", "10.9.1.5/29"),
        ("f", "10.9.1.6/29"),
        ("g", "10.9.0.2/30"),
    ] {
        assert_eq!(lab.attach_at(name, None).await.unwrap(), ip, "{name}");
    }
    lab.assert_healthy().await;
    let full = lab.attach_at("h", None).await.unwrap_err();
    assert_eq!(full.code, Code::PoolExhausted);
    assert!(full.message.contains("10.9.0.0/30, 10.9.1.0/29"), "{full}");
    lab.detach("d").await.unwrap();
    assert_eq!(lab.attach_at("h", None).await.unwrap(), "10.9.1.4/29");
}

#[tokio::test]
async fn a_certain_address_comes_from_the_subnet_that_holds_it() {
    let lab = Lab::start().await;
    lab.network_of(&SUBNETS).await.unwrap();
    let a = lab.attach_at("a", Some("10.9.1.6")).await.unwrap();
    assert_eq!(a, "10.9.1.6/29");
    assert_eq!(
        code(lab.attach_at("b", Some("10.9.1.6")).await),
        Code::AddressInUse
    );
    // The gateway of the second subnet is nobody's, as that of the first.
    for ip in ["10.9.0.1", "10.9.1.1", "10.9.1.0"] {
        assert_eq!(code(lab.attach_at("b", Some(ip)).await), Code::InvalidIp);
    }
    let outside = lab.attach_at("b", Some("10.9.2.1")).await.unwrap_err();
    assert_eq!(outside.code, Code::InvalidIp);
    assert!(
        outside.message.contains("10.9.0.0/30, 10.9.1.0/29"),
        "{outside}"
    );
    assert_eq!(lab.attach_at("b", None).await.unwrap(), "10.9.0.2/30");
    lab.assert_healthy().await;
}

/// An address of the second subnet stays taken over a restart, by a container and by one whose record is lost.
#[tokio::test]
async fn what_is_taken_stays_taken() {
    let lab = Lab::start().await;
    lab.network_of(&SUBNETS).await.unwrap();
    lab.attach_at("a", Some("10.9.1.5")).await.unwrap();
    lab.attach_at("b", Some("10.9.1.6")).await.unwrap();
    let records = lab.store.load().unwrap().containers;
    let lost = records.iter().find(|c| c.name.as_str() == "b").unwrap();
    lab.store.delete_container(&lost.id).unwrap();
    let lab = lab.restart().await;
    for ip in ["10.9.1.5", "10.9.1.6"] {
        assert_eq!(
            code(lab.attach_at("c", Some(ip)).await),
            Code::AddressInUse,
            "{ip}"
        );
    }
    let again = lab.attach_at("b", None).await.unwrap();
    assert_eq!(again, "10.9.1.6/29");
    lab.assert_healthy().await;
}

#[tokio::test]
async fn each_keeps_away_from_those_of_others() {
    let lab = Lab::start().await;
    lab.network_of(&SUBNETS).await.unwrap();
    let raw = api::NetworkCreate {
        name: "other".to_owned(),
        subnets: vec!["10.8.0.0/24".to_owned(), "10.9.1.0/24".to_owned()],
        ..api::NetworkCreate::default()
    };
    let create = Request::CreateNetwork(CreateNetwork::try_from(raw).unwrap());
    let refused = lab.handle.ask(create, false).await.unwrap_err();
    assert_eq!(refused.code, Code::SubnetInUse);
    assert!(refused.message.contains("10.9.1.0/29"), "{refused}");
}
