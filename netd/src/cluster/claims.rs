//! Which addresses a host claims (invariant I6): blocks of a subnet, or single addresses of its shared block. Inside what it
//! has claimed a host decides alone. Pure.

use std::net::IpAddr;

use netd_model::NetworkId;
use netd_model::error::{Code, Error, Result};
use netd_model::id::Name;
use netd_model::net::{Family, Prefix};
use netd_model::overlay::{block, block_len, shared_block, whole};
use netd_model::record::Unknown;

use super::mirror::Mirror;
use super::records::Claim;

/// Blocks and addresses that are looked at for a free one. An IPv6 subnet has more than anybody looks at.
const LOOKED_AT: u64 = 1 << 16;

/// What a host asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The network.
    pub network: NetworkId,
    /// Its name, for messages.
    pub name: Name,
    /// What of it.
    pub wants: Vec<Want>,
}

/// One part of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// The subnet.
    pub subnet: Prefix,
    /// Its gateway, which nobody claims.
    pub gateway: IpAddr,
    /// A certain address; none: whatever is free.
    pub ip: Option<IpAddr>,
    /// Whether the host has no address of its own there yet: the first of what it gets becomes that.
    pub router: bool,
}

/// What to claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// A block, or one address.
    pub prefix: Prefix,
    /// Whether the host's own address comes from it.
    pub router: bool,
}

/// A claim that was given back. The key stays: one that is missing may be one that the store forgot.
pub fn free() -> Claim {
    Claim {
        node: None,
        id: String::new(),
        router: false,
        unknown: Unknown::new(),
    }
}

/// Chooses what to claim. Nothing, if the host has it already.
pub fn choose(ask: &Ask, mirror: &Mirror, id: &str, random: u64) -> Result<Vec<Choice>> {
    let mut choices: Vec<Choice> = Vec::new();
    for want in &ask.wants {
        let taken: Vec<Prefix> = choices.iter().map(|choice| choice.prefix).collect();
        let search = Search {
            ask,
            want,
            mirror,
            random,
            taken,
        };
        match want.ip {
            Some(ip) => choices.extend(search.certain(ip, id)?),
            None => choices.extend(search.any()?),
        }
    }
    Ok(choices)
}

struct Search<'a> {
    ask: &'a Ask,
    want: &'a Want,
    mirror: &'a Mirror,
    random: u64,
    taken: Vec<Prefix>,
}

impl Search<'_> {
    fn is_free(&self, prefix: Prefix) -> bool {
        !self.taken.contains(&prefix) && self.mirror.is_free(&self.ask.network, prefix)
    }

    /// A free block, else addresses of the shared block. The search starts anywhere, so that hosts that come at once do not all
    /// want the same.
    fn any(&self) -> Result<Vec<Choice>> {
        let subnet = self.want.subnet;
        let bits = block_len(subnet) - subnet.len();
        let count = 1_u64.checked_shl(bits.into()).unwrap_or(u64::MAX);
        // The first is the shared one.
        let blocks = self.round(count - 1).filter_map(|n| block(subnet, n + 1));
        let router = self.want.router;
        if let Some(prefix) = blocks.into_iter().find(|prefix| self.is_free(*prefix)) {
            return Ok(vec![Choice { prefix, router }]);
        }
        // The host's own address is one more.
        let wanted = 1 + usize::from(router);
        let singles: Vec<Prefix> = self.singles().take(wanted).collect();
        if singles.len() < wanted {
            return Err(Error::new(
                Code::PoolExhausted,
                format!(
                    "network {}: no block and no single address of {subnet} is free for this host",
                    self.ask.name
                ),
            ));
        }
        let choice = |(n, prefix): (usize, Prefix)| Choice {
            prefix,
            router: router && n == 0,
        };
        Ok(singles.into_iter().enumerate().map(choice).collect())
    }

    /// Free addresses of the shared block.
    fn singles(&self) -> impl Iterator<Item = Prefix> + '_ {
        let shared = shared_block(self.want.subnet);
        let host_bits = whole(shared.family()) - shared.len();
        let count = 1_u64.checked_shl(host_bits.into()).unwrap_or(u64::MAX);
        self.round(count)
            .filter_map(move |n| nth(shared, n))
            .filter(|ip| self.is_usable(*ip))
            .map(|ip| Prefix::holding(ip, 128))
            .filter(|prefix| self.is_free(*prefix))
    }

    fn is_usable(&self, ip: IpAddr) -> bool {
        let subnet = self.want.subnet;
        let is_edge = match subnet.family() {
            Family::V4 => ip == subnet.base() || ip == subnet.last(),
            Family::V6 => ip == subnet.base(),
        };
        !is_edge && ip != self.want.gateway
    }

    /// All numbers below a count, from a random one on, as far as anybody looks.
    fn round(&self, count: u64) -> impl Iterator<Item = u64> + use<> {
        let start = if count == 0 { 0 } else { self.random % count };
        (0..count.min(LOOKED_AT)).map(move |n| (start + n) % count)
    }

    fn certain(&self, ip: IpAddr, id: &str) -> Result<Vec<Choice>> {
        let subnet = self.want.subnet;
        let block = Prefix::holding(ip, block_len(subnet));
        let prefix = if block == shared_block(subnet) {
            Prefix::holding(ip, 128)
        } else {
            block
        };
        if self.taken.contains(&prefix) {
            return Ok(Vec::new());
        }
        if self.mirror.holds(&self.ask.network, prefix) {
            return Ok(Vec::new());
        }
        if self.is_free(prefix) {
            let router = false;
            return Ok(vec![Choice { prefix, router }]);
        }
        match self.mirror.holder(&self.ask.network, prefix) {
            Some(claim) if claim.id == id => Err(Error::new(
                Code::Conflict,
                format!(
                    "network {}: the range of address {ip} is being given back by this host: try again",
                    self.ask.name
                ),
            )),
            holder => {
                let host = holder.and_then(|claim| claim.node.as_ref());
                let whose =
                    host.map_or_else(|| "another host".to_owned(), |host| format!("host {host}"));
                Err(Error::new(
                    Code::AddressInUse,
                    format!(
                        "network {}: address {ip} is in a range that belongs to {whose}: choose another, or attach the container \
                         there",
                        self.ask.name
                    ),
                ))
            }
        }
    }
}

/// The n-th address of a prefix.
fn nth(prefix: Prefix, n: u64) -> Option<IpAddr> {
    let ip = match prefix.base() {
        IpAddr::V4(base) => IpAddr::V4(base.to_bits().checked_add(u32::try_from(n).ok()?)?.into()),
        IpAddr::V6(base) => IpAddr::V6(base.to_bits().checked_add(n.into())?.into()),
    };
    prefix.contains(ip).then_some(ip)
}

/// The host's own address in what it has claimed for that: the first that is not reserved.
pub fn router_address(subnet: Prefix, gateway: IpAddr, claimed: Prefix) -> Option<IpAddr> {
    (0..4).filter_map(|n| nth(claimed, n)).find(|ip| {
        *ip != gateway
            && *ip != subnet.base()
            && (subnet.family() == Family::V6 || *ip != subnet.last())
    })
}
