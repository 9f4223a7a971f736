//! CNI attachments over the fake kernel: CHECK sees what is missing, addresses that other plugins set are taken over, an
//! attachment is known by its exact id.

use netd_model::cni::{Add, AddRequest, Attachment, Bandwidth};
use netd_model::{ContainerId, Mac};

use super::*;

const ID: &str = "0123456789";

fn attachment(container: &str, ifname: &str) -> Attachment {
    Attachment {
        container: container.to_owned(),
        ifname: ifname.to_owned(),
    }
}

impl Lab {
    async fn cni_add(
        &self,
        id: &str,
        ifname: &str,
        network: &str,
    ) -> Result<api::Container, Error> {
        let path = format!("/ns/{id}");
        if self.kernel.open_sandbox(path.as_ref()).is_err() {
            self.kernel.add_namespace(&path, inode(id));
        }
        let raw = Add {
            container: id.to_owned(),
            ifname: ifname.to_owned(),
            netns: path.clone(),
            cni_network: "pods".to_owned(),
            network: network.to_owned(),
            bandwidth: Bandwidth {
                egress_rate: 8_000_000,
                egress_burst: 800_000,
                ..Bandwidth::default()
            },
            ..Add::default()
        };
        let request = Box::new(AddRequest::try_from(raw).unwrap());
        let sandbox = self.sandbox(&path);
        match self
            .handle
            .ask(Request::CniAdd { request, sandbox }, false)
            .await?
        {
            Answer::Container(container) => Ok(*container),
            other => panic!("{other:?}"),
        }
    }

    async fn cni_del(&self, id: &str, ifname: &str) {
        self.handle
            .ask(Request::CniDel(attachment(id, ifname)), false)
            .await
            .unwrap();
    }

    async fn cni_check(&self, id: &str, ifname: &str) -> Result<Vec<String>, Error> {
        match self
            .handle
            .ask(Request::CniCheck(attachment(id, ifname)), false)
            .await?
        {
            Answer::Plan(plan) => Ok(plan.text),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_check_tells_what_is_missing_of_one_attachment() {
    let lab = Lab::start().await;
    lab.network("web", false).await;
    lab.cni_add(ID, "eth0", "web").await.unwrap();
    lab.cni_add("other", "eth0", "web").await.unwrap();
    assert_eq!(
        lab.cni_check(ID, "eth0").await.unwrap(),
        Vec::<String>::new()
    );
    let held = lab.kernel.held();
    let of = |id: &str| ContainerId::parse(id).unwrap();
    for object in held.objects.values() {
        let mine = object.owner().container() == Some(&of(ID));
        if mine
            && matches!(
                object,
                Object::Shaper(_) | Object::Redirect(_) | Object::Address(_)
            )
        {
            let gone = Op::Remove(object.clone());
            lab.kernel.tamper(|observed| observed.apply(&gone).unwrap());
            let told = lab.cni_check(ID, "eth0").await.unwrap();
            assert!(!told.is_empty(), "{object}");
            assert!(lab.cni_check("other", "eth0").await.unwrap().is_empty());
            lab.handle.ask(Request::Audit, false).await.unwrap();
        }
    }
    assert_eq!(
        code(lab.cni_check(ID, "eth9").await),
        Code::EndpointNotFound
    );
    lab.cni_del(ID, "eth0").await;
    assert_eq!(
        code(lab.cni_check(ID, "eth0").await),
        Code::EndpointNotFound
    );
    lab.cni_del("other", "eth0").await;
}

#[tokio::test]
async fn an_address_that_another_plugin_set_is_taken_over_unless_it_is_in_use() {
    let lab = Lab::start().await;
    lab.network("web", false).await;
    let first = lab.cni_add(ID, "eth0", "web").await.unwrap();
    lab.cni_add("other", "eth0", "web").await.unwrap();
    let set = |mac: Mac| {
        let held = lab.kernel.held();
        let link = held.objects.values().find_map(|object| match object {
            Object::Link(link)
                if link.name.as_str() == "eth0"
                    && link.owner.container().is_some_and(|id| &**id == "other") =>
            {
                Some(link.clone())
            }
            _ => None,
        });
        let from = link.unwrap();
        let to = netd_model::object::Link {
            mac,
            ..from.clone()
        };
        let change = Op::Change {
            from: Object::Link(from),
            to: Object::Link(to),
        };
        lab.kernel
            .tamper(|observed| observed.apply(&change).unwrap());
    };
    let mac_of = || {
        let snapshot = lab.handle.snapshot();
        let view = snapshot
            .container_views
            .iter()
            .find(|view| view.id == "other")
            .unwrap();
        view.endpoints[0].mac
    };
    let free: Mac = "02:42:00:00:00:07".parse().unwrap();
    set(free);
    assert!(
        lab.cni_check("other", "eth0").await.unwrap().is_empty(),
        "straight after the ADD"
    );
    lab.handle.ask(Request::Audit, false).await.unwrap();
    assert_eq!(mac_of(), free);
    lab.assert_healthy().await;
    // One that the neighbour has is set back.
    set(first.endpoints[0].mac);
    lab.handle.ask(Request::Audit, false).await.unwrap();
    assert_eq!(mac_of(), free);
    lab.assert_healthy().await;
    let lab = lab.restart().await;
    let snapshot = lab.handle.snapshot();
    let view = snapshot
        .container_views
        .iter()
        .find(|view| view.id == "other")
        .unwrap();
    assert_eq!(view.endpoints[0].mac, free, "it is on record");
}

#[tokio::test]
async fn an_attachment_is_known_by_its_exact_id_and_interface() {
    let lab = Lab::start().await;
    lab.network("web", false).await;
    lab.network("db", false).await;
    lab.cni_add(ID, "eth0", "web").await.unwrap();
    for (id, ifname) in [(&ID[..8], "eth0"), (ID, "eth1"), ("nobody", "eth0")] {
        lab.cni_del(id, ifname).await;
        assert_eq!(
            lab.handle.snapshot().container_views.len(),
            1,
            "{id} {ifname}"
        );
    }
    assert_eq!(
        code(lab.cni_add(ID, "eth0", "db").await),
        Code::EndpointExists
    );
    assert_eq!(
        code(lab.cni_add(ID, "eth1", "web").await),
        Code::EndpointExists
    );
    lab.cni_add(ID, "net1", "db").await.unwrap();
    lab.cni_del(ID, "eth0").await;
    lab.assert_healthy().await;
    lab.cni_del(ID, "net1").await;
    assert!(lab.handle.snapshot().container_views.is_empty());
}
