//! From notices of the kernel to what they say about netd's objects. Pure: bytes in, [`Noticed`] out.

use std::collections::HashMap;

use netd_model::net::Family;
use netd_model::object::{Address, Route, Sysctl};
use netd_model::skeleton::{DNS_TABLE, TABLE, TUNNEL_TABLE};
use netd_model::{ContainerId, IfName, Key, Ns, Object, Owner, desired};

use super::super::inet::{AddressView, LOCAL, MAIN, PROTOCOL, RouteView, UNICAST};
use super::super::link::LinkView;
use super::super::neighbour;
use super::super::wire::{Attrs, text, u32_at};
use crate::kernel::{Noticed, Process};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWNETCONF: u16 = 80;

/// Attributes of `struct netconfmsg` (linux/netconf.h), behind its one byte and padding.
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_FORWARDING: u16 = 2;
const NETCONFMSG: usize = 4;
/// `NETCONFA_IFINDEX_ALL`: the setting of all interfaces.
const ALL: u32 = u32::MAX;
const AF_INET6: u8 = 10;

/// `NFNL_SUBSYS_NFTABLES << 8`.
const NFTABLES: u16 = 10 << 8;
/// A commit is over; who made it.
const NFT_MSG_NEWGEN: u16 = NFTABLES | 15;
const NFTA_GEN_PROC_PID: u16 = 2;
const NFTA_GEN_PROC_NAME: u16 = 3;
/// The name of the table: number 1 in every kind of notice.
const TABLE_NAME: u16 = 1;
const NFGENMSG: usize = 4;
const NFPROTO_INET: u8 = 1;
const NFPROTO_BRIDGE: u8 = 7;

/// What is known of a link.
#[derive(Clone, Debug)]
struct Known {
    name: IfName,
    owner: Option<Owner>,
}

/// What was learnt of one namespace.
#[derive(Debug)]
pub(super) struct Place {
    ns: Ns,
    links: HashMap<u32, Known>,
    /// Somebody else's commit to netd's table is under way.
    table: bool,
}

impl Place {
    pub(super) fn new(ns: Ns) -> Self {
        Self {
            ns,
            links: HashMap::new(),
            table: false,
        }
    }

    /// Takes in a link that was there before.
    pub(super) fn learn(&mut self, view: &LinkView) {
        if let Ok(name) = IfName::parse(&view.name) {
            let owner = view.owner.clone();
            self.links.insert(view.index, Known { name, owner });
        }
    }

    /// A notice of rtnetlink.
    pub(super) fn route(&mut self, kind: u16, body: &[u8]) -> Vec<Noticed> {
        match kind {
            // Bridges tell about their ports with a family; links as such come without.
            RTM_NEWLINK | RTM_DELLINK if body.first() != Some(&0) => Vec::new(),
            RTM_NEWLINK => LinkView::read(body).map_or_else(Vec::new, |view| self.link(&view)),
            RTM_DELLINK => LinkView::read(body).map_or_else(Vec::new, |view| self.gone(&view)),
            RTM_NEWADDR | RTM_DELADDR => self.address(body, kind == RTM_NEWADDR),
            RTM_NEWROUTE | RTM_DELROUTE => self.path(body, kind == RTM_NEWROUTE),
            RTM_NEWNETCONF => self.forwarding(body).into_iter().collect(),
            _ => Vec::new(),
        }
    }

    /// A notice of an entry that was taken out of a table of stations.
    pub(super) fn station(&self, kind: u16, body: &[u8]) -> Option<Noticed> {
        let view = neighbour::View::read(body).filter(|_| kind == neighbour::RTM_DELNEIGH)?;
        let known = self.links.get(&view.index)?;
        let owner = known.owner.clone()?;
        Some(object(owner, view.gone(&known.name)?, None))
    }

    fn link(&mut self, view: &LinkView) -> Vec<Noticed> {
        if let (Ns::Container(id), "lo") = (&self.ns, view.name.as_str()) {
            let owner = Owner::Container(id.clone());
            let lo = Object::Loopback(owner.clone());
            return vec![object(owner, lo.key(), view.up.then_some(lo))];
        }
        let before = self.links.get(&view.index).cloned();
        self.learn(view);
        let mut noticed = Vec::new();
        if let Some(Known {
            name,
            owner: Some(owner),
        }) = before
            && (name.as_str() != view.name || view.owner.as_ref() != Some(&owner))
        {
            noticed.push(self.lost(name, owner));
        }
        let master = view.master.and_then(|index| self.links.get(&index));
        let master = master.map(|known| known.name.clone());
        if let Some(link) = view.object(&self.ns, master) {
            let owner = link.owner.clone();
            let link = Object::Link(link);
            noticed.push(object(owner, link.key(), Some(link)));
        }
        noticed
    }

    fn gone(&mut self, view: &LinkView) -> Vec<Noticed> {
        match self.links.remove(&view.index) {
            Some(Known {
                name,
                owner: Some(owner),
            }) => vec![self.lost(name, owner)],
            Some(_) => Vec::new(),
            None => {
                let link = view.object(&self.ns, None);
                let lost = link.map(|link| self.lost(link.name, link.owner));
                lost.into_iter().collect()
            }
        }
    }

    fn lost(&self, name: IfName, owner: Owner) -> Noticed {
        let ns = self.ns.clone();
        object(owner, Key::Link { ns, name }, None)
    }

    fn address(&self, body: &[u8], there: bool) -> Vec<Noticed> {
        let Some(view) = AddressView::read(body).filter(|view| view.protocol == PROTOCOL) else {
            return Vec::new();
        };
        let made = |known: &Known, owner: &Owner| {
            Object::Address(Address {
                ns: self.ns.clone(),
                ifname: known.name.clone(),
                ip: view.ip,
                prefix_len: view.prefix_len,
                owner: owner.clone(),
            })
        };
        self.on_link(Some(view.index), there, made)
    }

    fn path(&self, body: &[u8], there: bool) -> Vec<Noticed> {
        let Some(view) = RouteView::read(body).filter(|view| view.protocol == PROTOCOL) else {
            return Vec::new();
        };
        let local = view.kind == LOCAL;
        if !local && (view.kind != UNICAST || view.table != MAIN) {
            return Vec::new();
        }
        let made = |known: &Known, owner: &Owner| {
            Object::Route(Route {
                ns: self.ns.clone(),
                dst: view.dst,
                via: view.via,
                dev: known.name.clone(),
                local,
                metric: view.metric,
                src: view.src,
                owner: owner.clone(),
            })
        };
        self.on_link(view.oif, there, made)
    }

    /// What stands on a link of netd. On one that is not known it cannot be told whose it is.
    fn on_link(
        &self,
        index: Option<u32>,
        there: bool,
        made: impl Fn(&Known, &Owner) -> Object,
    ) -> Vec<Noticed> {
        let known = index.and_then(|index| self.links.get(&index));
        match known.map(|known| (known, known.owner.as_ref())) {
            Some((known, Some(owner))) => {
                let made = made(known, owner);
                vec![object(owner.clone(), made.key(), there.then_some(made))]
            }
            Some((_, None)) => Vec::new(),
            None => vec![self.somewhere("an address or a route", None)],
        }
    }

    /// `net.ipv4.ip_forward` and its like for IPv6 are the only settings that the kernel tells of.
    fn forwarding(&self, body: &[u8]) -> Option<Noticed> {
        let attrs = Attrs::behind(body, NETCONFMSG);
        let all = attrs.u32(NETCONFA_IFINDEX)? == ALL && self.ns == Ns::Host;
        let on = attrs.u32(NETCONFA_FORWARDING).filter(|_| all)?;
        let family = match body.first() {
            Some(&AF_INET6) => Family::V6,
            _ => Family::V4,
        };
        let setting = Object::Sysctl(Sysctl {
            ns: Ns::Host,
            path: desired::forwarding_path(family).to_owned(),
            value: on.to_string(),
            ifname: None,
            owner: Owner::Host,
        });
        Some(object(Owner::Host, setting.key(), Some(setting)))
    }

    /// A notice of nftables, sent because of somebody else's request.
    pub(super) fn table(&mut self, kind: u16, body: &[u8]) -> Option<Noticed> {
        let attrs = Attrs::behind(body, NFGENMSG);
        if kind == NFT_MSG_NEWGEN {
            let by = process(&attrs);
            return std::mem::take(&mut self.table).then(|| self.somewhere("netd's table", by));
        }
        let ours: &[&str] = match self.ns {
            Ns::Host => &[TABLE, TUNNEL_TABLE],
            Ns::Container(_) => &[DNS_TABLE],
        };
        let named = attrs.find(TABLE_NAME).map(text);
        let family = matches!(body.first(), Some(&(NFPROTO_INET | NFPROTO_BRIDGE)));
        self.table |= family && named.is_some_and(|named| ours.contains(&named.as_str()));
        None
    }

    fn somewhere(&self, what: &str, by: Option<Process>) -> Noticed {
        Noticed::Place {
            ns: self.ns.clone(),
            what: what.to_owned(),
            by,
        }
    }
}

fn object(owner: Owner, key: Key, now: Option<Object>) -> Noticed {
    Noticed::Object {
        owner,
        key,
        now: now.map(Box::new),
    }
}

/// Number and name of the process are in network byte order and as text; the number is that of the first PID namespace.
fn process(attrs: &Attrs<'_>) -> Option<Process> {
    let pid = attrs.find(NFTA_GEN_PROC_PID)?.try_into().ok()?;
    Some(Process {
        pid: u32::from_be_bytes(pid),
        name: attrs.find(NFTA_GEN_PROC_NAME).map(text).unwrap_or_default(),
    })
}

/// The number of a namespace in the answer to RTM_GETNSID; none when it has none yet.
pub(super) fn nsid(body: &[u8]) -> Option<i32> {
    const NETNSA_NSID: u16 = 1;
    const RTGENMSG: usize = 4;
    let value = Attrs::behind(body, RTGENMSG).u32(NETNSA_NSID)?;
    Some(value.cast_signed()).filter(|nsid| *nsid >= 0)
}

/// The number of a namespace in RTM_DELNSID.
pub(super) fn ended(kind: u16, body: &[u8]) -> Option<i32> {
    const RTM_DELNSID: u16 = 89;
    (kind == RTM_DELNSID).then(|| nsid(body)).flatten()
}

/// Which container a place belongs to.
pub(super) fn container(place: &Place) -> Option<&ContainerId> {
    match &place.ns {
        Ns::Host => None,
        Ns::Container(id) => Some(id),
    }
}

/// The first number of a datagram's control message.
pub(super) fn number(bytes: &[u8]) -> Option<i32> {
    u32_at(bytes, 0).map(u32::cast_signed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            messages in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..200)), 0..8),
            container: bool,
        ) {
            let kinds = [neighbour::RTM_DELNEIGH, RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELROUTE, RTM_NEWNETCONF, NFT_MSG_NEWGEN];
            let ns = if container {
                Ns::Container(ContainerId::parse("c").unwrap())
            } else {
                Ns::Host
            };
            let mut place = Place::new(ns);
            for (kind, body) in messages {
                let known = kinds[usize::from(kind) % kinds.len()];
                for kind in [kind, known] {
                    place.route(kind, &body);
                    place.table(kind, &body);
                    place.station(kind, &body);
                    ended(kind, &body);
                }
            }
        }
    }

    #[test]
    fn only_commits_to_the_own_table_are_told_with_their_maker() {
        let attribute = |kind: u16, value: &[u8]| {
            let mut bytes = u16::try_from(value.len() + 4)
                .unwrap()
                .to_ne_bytes()
                .to_vec();
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let body = |family: u8, attributes: &[Vec<u8>]| {
            [&[family, 0, 0, 0][..], &attributes.concat()].concat()
        };
        let mut place = Place::new(Ns::Host);
        let deletion = NFTABLES | 2;
        let made = body(
            0,
            &[attribute(2, &77u32.to_be_bytes()), attribute(3, b"nft\0")],
        );
        for (family, name, told) in [
            (1, &b"netd\0"[..], true),
            (1, b"other\0", false),
            (2, b"netd\0", false),
        ] {
            assert_eq!(
                place.table(deletion, &body(family, &[attribute(1, name)])),
                None
            );
            let noticed = place.table(NFT_MSG_NEWGEN, &made);
            assert_eq!(noticed.is_some(), told, "{name:?}");
            if let Some(Noticed::Place { by, .. }) = noticed {
                let name = "nft".to_owned();
                assert_eq!(by, Some(Process { pid: 77, name }));
            }
        }
    }
}
