//! What is tried: each kind of request, with what is there before it.

use netd_model::cni::{Add, AddRequest, Attachment, Bandwidth};
use netd_model::id::Name;
use netd_model::observed::Observed;
use netd_model::record::{Phase, Reservation};
use netd_model::request::Join;

use super::super::*;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    CreateV4,
    CreateDual,
    CreateInternal,
    Remove,
    Prune,
    Attach,
    AttachTwo,
    AttachPredefined,
    Detach,
    DetachLast,
    Connect,
    ConnectPredefined,
    Disconnect,
    DisconnectPredefined,
    SetAccess,
    Reserve,
    Unreserve,
    CniAdd,
    CniAddSecond,
    CniDel,
    Purge,
    PurgeOffline,
    AttachAfterPurge,
    Audit,
    FirstStart,
    Adoption,
}

impl Kind {
    pub(super) const ALL: [Self; 26] = [
        Self::CreateV4,
        Self::CreateDual,
        Self::CreateInternal,
        Self::Remove,
        Self::Prune,
        Self::Attach,
        Self::AttachTwo,
        Self::AttachPredefined,
        Self::Detach,
        Self::DetachLast,
        Self::Connect,
        Self::ConnectPredefined,
        Self::Disconnect,
        Self::DisconnectPredefined,
        Self::SetAccess,
        Self::Reserve,
        Self::Unreserve,
        Self::CniAdd,
        Self::CniAddSecond,
        Self::CniDel,
        Self::Purge,
        Self::PurgeOffline,
        Self::AttachAfterPurge,
        Self::Audit,
        Self::FirstStart,
        Self::Adoption,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::CreateV4 => "network create",
            Self::CreateDual => "network create, IPv6",
            Self::CreateInternal => "network create, internal",
            Self::Remove => "network rm",
            Self::Prune => "prune",
            Self::Attach => "attach",
            Self::AttachTwo => "attach, two networks",
            Self::AttachPredefined => "attach, predefined network",
            Self::Detach => "detach",
            Self::DetachLast => "detach, last of predefined",
            Self::Connect => "connect",
            Self::ConnectPredefined => "connect, predefined network",
            Self::Disconnect => "disconnect",
            Self::DisconnectPredefined => "disconnect, last of predefined",
            Self::SetAccess => "network set",
            Self::Reserve => "network reserve",
            Self::Unreserve => "end of a reservation",
            Self::CniAdd => "CNI ADD",
            Self::CniAddSecond => "CNI ADD, second interface",
            Self::CniDel => "CNI DEL",
            Self::Purge => "purge",
            Self::PurgeOffline => "purge without a daemon",
            Self::AttachAfterPurge => "attach after a purge",
            Self::Audit => "audit",
            Self::FirstStart => "first start",
            Self::Adoption => "adoption",
        }
    }

    /// Whether the request is the daemon's own start.
    pub(super) fn is_start(self) -> bool {
        matches!(self, Self::FirstStart | Self::Adoption)
    }

    /// Whether it takes something away.
    pub(super) fn is_removal(self) -> bool {
        matches!(
            self,
            Self::Detach
                | Self::DetachLast
                | Self::Remove
                | Self::Prune
                | Self::Disconnect
                | Self::DisconnectPredefined
                | Self::CniDel
                | Self::Purge
                | Self::PurgeOffline
        )
    }

    /// Whether no daemon runs when it begins.
    pub(super) fn is_without_daemon(self) -> bool {
        self.is_start() || self == Self::PurgeOffline
    }

    /// Makes what has to be there.
    pub(super) async fn prepare(self, lab: &Lab) {
        match self {
            Self::CreateV4
            | Self::CreateDual
            | Self::CreateInternal
            | Self::AttachPredefined
            | Self::FirstStart => {}
            Self::Remove | Self::Reserve | Self::CniAdd => small(lab, "web", 1, true).await,
            Self::Prune => {
                for (name, n) in [("one", 1), ("two", 2), ("three", 3)] {
                    small(lab, name, n, n == 3).await;
                }
                attach(lab, "a", &["two"], &[]).await;
            }
            Self::Attach => small(lab, "web", 1, false).await,
            Self::AttachTwo => two_networks(lab).await,
            Self::Detach => {
                two_networks(lab).await;
                attach(lab, "a", &["web", "two"], PORTS).await;
                attach(lab, "b", &["web"], &[]).await;
            }
            Self::DetachLast => attach(lab, "a", &["bridge"], PORTS).await,
            Self::Connect | Self::ConnectPredefined => {
                two_networks(lab).await;
                attach(lab, "a", &["web"], PORTS).await;
            }
            Self::Disconnect => {
                two_networks(lab).await;
                attach(lab, "a", &["web", "two"], PORTS).await;
            }
            Self::DisconnectPredefined => {
                two_networks(lab).await;
                attach(lab, "a", &["web", "bridge"], PORTS).await;
            }
            Self::SetAccess => {
                small(lab, "web", 1, true).await;
                attach(lab, "a", &["web"], PORTS).await;
            }
            Self::Unreserve => {
                small(lab, "web", 1, true).await;
                let request = reserve(Some("10.9.1.5"));
                lab.handle.ask(request, false).await.unwrap();
            }
            Self::CniAddSecond => {
                two_networks(lab).await;
                let request = cni_add(lab, "eth0", "web");
                lab.handle.ask(request, false).await.unwrap();
            }
            Self::CniDel => {
                two_networks(lab).await;
                for (ifname, network) in [("eth0", "web"), ("eth1", "two")] {
                    let request = cni_add(lab, ifname, network);
                    lab.handle.ask(request, false).await.unwrap();
                }
            }
            Self::Purge | Self::PurgeOffline => several(lab).await,
            Self::AttachAfterPurge => {
                several(lab).await;
                let purge = Request::Purge { force: true };
                lab.handle.ask(purge, false).await.unwrap();
            }
            Self::Audit => {
                several(lab).await;
                lab.kernel.tamper(drift);
            }
            Self::Adoption => {
                several(lab).await;
                half_done(lab).await;
            }
        }
    }

    /// The request itself; the daemon's start is none.
    pub(super) fn request(self, lab: &Lab) -> Request {
        let to = |network: &str| Request::Connect {
            container: "a".to_owned(),
            join: join(network),
        };
        let from = |network: &str| Request::Disconnect {
            container: "a".to_owned(),
            network: network.to_owned(),
        };
        match self {
            Self::CreateV4 => create_small("new", 4, false, false),
            Self::CreateDual => create_small("new", 4, true, false),
            Self::CreateInternal => create_small("new", 4, true, true),
            Self::Remove => Request::RemoveNetwork("web".to_owned()),
            Self::Prune => Request::PruneNetworks,
            Self::Attach => attach_request(lab, "a", &["web"], PORTS),
            Self::AttachTwo => attach_request(lab, "a", &["web", "two"], PORTS),
            Self::AttachPredefined | Self::AttachAfterPurge => {
                attach_request(lab, "a", &["bridge"], PORTS)
            }
            Self::Detach | Self::DetachLast => Request::Detach("a".to_owned()),
            Self::Connect => to("two"),
            Self::ConnectPredefined => to("bridge"),
            Self::Disconnect => from("two"),
            Self::DisconnectPredefined => from("bridge"),
            Self::SetAccess => Request::SetAccess {
                network: "web".to_owned(),
                allow_from: Some(vec!["192.0.2.0/24".parse().unwrap()]),
                block_from: Some(vec!["2001:db8::/64".parse().unwrap()]),
            },
            Self::Reserve => reserve(Some("10.9.1.5")),
            Self::Unreserve => reserve(None),
            Self::CniAdd => cni_add(lab, "eth0", "web"),
            Self::CniAddSecond => cni_add(lab, "eth1", "two"),
            Self::CniDel => Request::CniDel(Attachment {
                container: "id-of-a".to_owned(),
                ifname: "eth1".to_owned(),
            }),
            Self::Purge | Self::PurgeOffline => Request::Purge { force: true },
            Self::Audit => Request::Audit,
            Self::FirstStart | Self::Adoption => Request::Ready,
        }
    }
}

const PORTS: &[&str] = &["8080:80", "127.0.0.1:9000:90", "53:53/udp"];

fn join(network: &str) -> Join {
    let raw = api::Join {
        network: network.to_owned(),
        ..api::Join::default()
    };
    Join::try_from(raw).unwrap()
}

/// A network of a /29: five containers fill it.
pub(super) fn create_small(name: &str, n: u8, ipv6: bool, internal: bool) -> Request {
    let raw = api::NetworkCreate {
        name: name.to_owned(),
        subnets: vec![format!("10.9.{n}.0/29")],
        ipv6,
        internal,
        ..api::NetworkCreate::default()
    };
    Request::CreateNetwork(CreateNetwork::try_from(raw).unwrap())
}

async fn small(lab: &Lab, name: &str, n: u8, ipv6: bool) {
    let request = create_small(name, n, ipv6, false);
    lab.handle.ask(request, false).await.unwrap();
}

async fn two_networks(lab: &Lab) {
    small(lab, "web", 1, false).await;
    small(lab, "two", 2, true).await;
}

pub(super) fn attach_request(
    lab: &Lab,
    name: &str,
    networks: &[&str],
    publish: &[&str],
) -> Request {
    let path = format!("/ns/{name}");
    if lab.kernel.open_sandbox(path.as_ref()).is_err() {
        lab.kernel.add_namespace(&path, inode(name));
    }
    let joins = networks.iter().map(|network| api::Join {
        network: (*network).to_owned(),
        ..api::Join::default()
    });
    lab.attach_raw(api::ContainerAttach {
        netns: path,
        name: name.to_owned(),
        id: Some(format!("id-of-{name}")),
        networks: joins.collect(),
        publish: publish.iter().map(ToString::to_string).collect(),
        ..api::ContainerAttach::default()
    })
}

/// Keeps an address of `web` for a container, or keeps none any longer.
fn reserve(ip: Option<&str>) -> Request {
    Request::Reserve {
        network: "web".to_owned(),
        container: Name::parse("keeper").unwrap(),
        reservation: ip.map(|ip| Reservation {
            ips: vec![ip.parse().unwrap()],
            mac: None,
        }),
    }
}

/// An attachment with published ports and limited rates in both directions.
fn cni_add(lab: &Lab, ifname: &str, network: &str) -> Request {
    let path = "/ns/a";
    if lab.kernel.open_sandbox(path.as_ref()).is_err() {
        lab.kernel.add_namespace(path, inode("a"));
    }
    // The first attachment alone publishes ports.
    let publish: &[&str] = if ifname == "eth0" { PORTS } else { &[] };
    let raw = Add {
        container: "id-of-a".to_owned(),
        ifname: ifname.to_owned(),
        netns: path.to_owned(),
        cni_network: "pods".to_owned(),
        network: network.to_owned(),
        publish: publish.iter().map(ToString::to_string).collect(),
        bandwidth: Bandwidth {
            ingress_rate: 8_000_000,
            ingress_burst: 800_000,
            egress_rate: 8_000_000,
            egress_burst: 800_000,
        },
        ..Add::default()
    };
    Request::CniAdd {
        request: Box::new(AddRequest::try_from(raw).unwrap()),
        sandbox: lab.sandbox(path),
    }
}

async fn attach(lab: &Lab, name: &str, networks: &[&str], publish: &[&str]) {
    let request = attach_request(lab, name, networks, publish);
    lab.handle.ask(request, false).await.unwrap();
}

/// Containers on every sort of network.
async fn several(lab: &Lab) {
    two_networks(lab).await;
    attach(lab, "a", &["web", "two"], PORTS).await;
    attach(lab, "b", &["bridge"], &["8081:80"]).await;
}

/// Somebody was here: links, elements, settings, rules and routes are gone or changed. Nothing is chosen by a name or an
/// order that chance has drawn.
fn drift(observed: &mut Observed) {
    let all: Vec<Object> = observed.objects.values().cloned().collect();
    let bridge = all.iter().find_map(|object| match object {
        Object::Address(address) if address.ip.to_string() == "10.9.2.1" => Some(&address.ifname),
        _ => None,
    });
    let of = |object: &Object, id: &str| {
        let container = object.owner().container();
        container.is_some_and(|container| container.as_str() == id)
    };
    let gone = |object: &&Object| match object {
        Object::Link(link) => {
            link.ns == Ns::Host && (of(object, "id-of-b") || Some(&link.name) == bridge)
        }
        Object::Element(_) => of(object, "id-of-a"),
        Object::Ruleset(ruleset) => ruleset.table.ns != Ns::Host,
        Object::Route(route) => route.ns != Ns::Host,
        _ => false,
    };
    for object in all.iter().filter(gone) {
        // It may have gone with the one it stood on.
        let _ = observed.apply(&Op::Remove(object.clone()));
    }
    for held in observed.objects.values_mut() {
        if let Object::Sysctl(sysctl) = held
            && sysctl.ifname.is_some()
        {
            "changed".clone_into(&mut sysctl.value);
        }
    }
}

/// What a daemon can leave for the next: an attach and a removal half done, a namespace that is gone.
async fn half_done(lab: &Lab) {
    for name in ["c", "d", "e"] {
        attach(lab, name, &["web"], &[]).await;
    }
    for mut record in lab.store.load().unwrap().containers {
        match record.name.as_str() {
            "c" => record.phase = Phase::Attaching,
            "d" => record.phase = Phase::Detaching,
            _ => continue,
        }
        lab.store.put_container(&record).unwrap();
    }
    lab.kernel.remove_namespace("/ns/e");
    let of_c = |object: &Object| {
        object
            .owner()
            .container()
            .is_some_and(|id| id.as_str() == "id-of-c")
            && matches!(object, Object::Element(_) | Object::Address(_))
    };
    lab.kernel
        .tamper(|observed| observed.objects.retain(|_, object| !of_c(object)));
}
