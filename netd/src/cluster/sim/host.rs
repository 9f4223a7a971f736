//! One host of the simulation: a core, and the little that an owner does with it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use netd_model::id::{ContainerId, Name, NetworkId};
use netd_model::net::Prefix;
use netd_model::record::{Network, Unknown};

use super::super::claims::router_address;
use super::super::core::{Core, Input, Link, Token};
use super::super::keys::Key;
use super::super::records::Node;
use super::super::store::{Revision, Txn};

/// A watch that was opened: what it tells next, and when that arrives once there is something.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) next: Revision,
    pub(super) ready: Option<Duration>,
}

/// What arrives at a host.
#[derive(Debug)]
pub(super) enum Mail {
    Input(Input),
    /// A watch was opened from here on.
    Watch(Revision),
}

/// One host.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: Name,
    pub(super) node: Node,
    pub(super) core: Option<Core>,
    /// What its disk holds of the cluster.
    pub(super) disk: BTreeMap<String, Vec<u8>>,
    /// Answers on their way: when they arrive.
    pub(super) mail: VecDeque<(Duration, Mail)>,
    /// Transactions on their way to the store: when they arrive.
    pub(super) sent: VecDeque<(Duration, u64, Txn)>,
    pub(super) watch: Option<Watch>,
    /// Its containers and their addresses: what runs there, whether a daemon does or not.
    pub(super) containers: BTreeMap<ContainerId, IpAddr>,
    /// Those whose addresses are another host's by now.
    pub(super) cut_off: Vec<ContainerId>,
    /// Whether an operator says that nothing of it runs any more.
    pub(super) written_off: bool,
    /// What it has claimed, as its core told it.
    pub(super) claims: BTreeMap<Prefix, bool>,
    /// Addresses of that which no container has.
    pub(super) spare: BTreeSet<IpAddr>,
    /// What it believes of others' containers.
    pub(super) believed: BTreeMap<(Name, ContainerId), IpAddr>,
    /// Whether a network is between it and the store.
    pub(super) connected: bool,
    pub(super) link: Option<Link>,
    pub(super) waiting: BTreeMap<Token, ContainerId>,
    pub(super) token: Token,
    pub(super) alarms: Vec<String>,
    pub(super) lists: usize,
}

impl Host {
    pub(super) fn new(n: usize) -> Self {
        let name = Name::parse(&format!("h{n}")).unwrap();
        let [high, low] = u16::try_from(n + 1).unwrap().to_be_bytes();
        let node = Node {
            id: format!("{n:032x}"),
            incarnation: "0".to_owned(),
            address: IpAddr::from([198, 18, high, low]),
            mtu: 1500,
            software: String::new(),
            unknown: Unknown::new(),
        };
        Self {
            name,
            node,
            core: None,
            disk: BTreeMap::new(),
            mail: VecDeque::new(),
            sent: VecDeque::new(),
            watch: None,
            containers: BTreeMap::new(),
            cut_off: Vec::new(),
            written_off: false,
            claims: BTreeMap::new(),
            spare: BTreeSet::new(),
            believed: BTreeMap::new(),
            connected: true,
            link: None,
            waiting: BTreeMap::new(),
            token: 0,
            alarms: Vec::new(),
            lists: 0,
        }
    }

    /// Its claims are others: so are the addresses that it may give out.
    pub(super) fn settle(&mut self, network: &Network) {
        let subnet = &network.subnets[0];
        let router = self.claims.iter().find(|(_, router)| **router);
        let router =
            router.and_then(|(prefix, _)| router_address(subnet.subnet, subnet.gateway, *prefix));
        let used: BTreeSet<IpAddr> = self.containers.values().copied().collect();
        let is_spare = |ip: &IpAddr| {
            !used.contains(ip)
                && Some(*ip) != router
                && *ip != subnet.gateway
                && *ip != subnet.subnet.base()
                && *ip != subnet.subnet.last()
        };
        let all = self.claims.keys().flat_map(|prefix| addresses(*prefix));
        self.spare = all.filter(is_spare).collect();
    }

    /// Another host has these addresses now: the containers that had them are cut off, and told of no more.
    pub(super) fn give_up(&mut self, net: &NetworkId, prefix: Prefix) -> Vec<Key> {
        let lost: Vec<ContainerId> = self
            .containers
            .iter()
            .filter(|(_, ip)| prefix.contains(**ip))
            .map(|(id, _)| id.clone())
            .collect();
        let keys = lost.iter().map(|id| self.key(net, id)).collect();
        for id in lost {
            self.containers.remove(&id);
            self.cut_off.push(id);
        }
        keys
    }

    /// A container gave its address back.
    pub(super) fn settle_one(&mut self, ip: IpAddr) {
        if self.claims.keys().any(|prefix| prefix.contains(ip)) {
            self.spare.insert(ip);
        }
    }

    pub(super) fn key(&self, net: &NetworkId, id: &ContainerId) -> Key {
        Key::Endpoint(self.name.clone(), net.clone(), id.clone())
    }
}

fn addresses(prefix: Prefix) -> impl Iterator<Item = IpAddr> {
    let (IpAddr::V4(first), IpAddr::V4(last)) = (prefix.base(), prefix.last()) else {
        unreachable!("the simulated network has IPv4 alone");
    };
    (first.to_bits()..=last.to_bits()).map(|bits| IpAddr::V4(bits.into()))
}
