//! What happens to a packet, hop by hop, told from what netd wants the kernel to hold and from what it holds.
//!
//! The same walk is taken through both. Where they come to different ends, something in the kernel is not as it should be,
//! and the first object on the way that differs is the reason; where they come to the same end, that is what netd means.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result};
use crate::id::{ContainerId, NetworkId, shorten};
use crate::net::{Family, Proto};
use crate::object::Key;
use crate::observed::{HostFacts, Observed};
use crate::record::{Container, Network};

mod eval;
mod walk;

/// What is asked: who sends, and to where.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// Who sends.
    pub from: Place,
    /// Where to.
    pub to: IpAddr,
    /// A port, or a ping.
    pub port: Option<(Proto, u16)>,
}

/// Who sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A container.
    Container(ContainerId),
    /// A program of the host.
    Host,
    /// Another host.
    Outside(IpAddr),
}

/// Everything the walk knows beside the objects.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The networks.
    pub networks: &'a [&'a Network],
    /// The containers.
    pub containers: &'a [&'a Container],
    /// The host.
    pub facts: &'a HostFacts,
}

impl<'a> Known<'a> {
    fn network(&self, id: &NetworkId) -> Option<&'a Network> {
        self.networks.iter().copied().find(|n| n.id == *id)
    }

    fn container(&self, id: &ContainerId) -> Option<&'a Container> {
        self.containers.iter().copied().find(|c| c.id == *id)
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// Whether the packet arrives where somebody could answer it.
    pub delivered: bool,
    /// In a few words, where it ends and why.
    pub verdict: String,
    /// The way.
    pub hops: Vec<Hop>,
    /// What is wrong in the kernel, if that changes the packet's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// A step of the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hop {
    /// Where: a container, an interface, a hook.
    pub at: String,
    /// What happens.
    pub what: String,
}

/// Where a walk ended, and what it went by.
#[derive(Debug, Default)]
struct Walked {
    delivered: bool,
    verdict: String,
    hops: Vec<Hop>,
    keys: Vec<Key>,
}

/// Follows a packet through what the kernel holds and through what it should hold.
pub fn trace(question: &Question, known: &Known<'_>, wanted: &Observed, held: &Observed) -> Trace {
    let meant = walk::walk(question, known, wanted);
    let real = walk::walk(question, known, held);
    let same = meant.delivered == real.delivered && meant.verdict == real.verdict;
    let fault = (!same).then(|| reason(&meant, &real, wanted, held));
    Trace {
        delivered: real.delivered,
        verdict: real.verdict,
        hops: real.hops,
        fault,
    }
}

/// The first object on the way that is not held as it is wanted.
fn reason(meant: &Walked, real: &Walked, wanted: &Observed, held: &Observed) -> String {
    let differs = |key: &&Key| match (wanted.objects.get(key), held.objects.get(key)) {
        (Some(want), Some(have)) => !want.is_held_as(have),
        (None, None) => false,
        _ => true,
    };
    let Some(key) = meant.keys.iter().chain(&real.keys).find(differs) else {
        return "the kernel does otherwise, though what netd looks at is as it should be"
            .to_owned();
    };
    match (wanted.objects.get(key), held.objects.get(key)) {
        (Some(want), None) => format!("missing in the kernel: {want}"),
        (Some(want), Some(have)) => format!("in the kernel is {have}, it should be {want}"),
        (None, Some(have)) => format!("in the kernel is {have}, which netd does not want"),
        (None, None) => String::new(),
    }
}

impl Question {
    /// Reads what was typed: `from` a container, `host` or an address; `to` the same with an optional `:PORT[/PROTO]`.
    ///
    /// # Errors
    /// `invalid_trace` for what is neither, `container_not_found` by way of `find`.
    pub fn parse<'a>(
        from: &str,
        to: &str,
        find: impl Fn(&str) -> Result<&'a Container>,
    ) -> Result<Self> {
        let (from, asker) = match from.parse::<IpAddr>() {
            Ok(ip) => (Place::Outside(ip), None),
            Err(_) if from == "host" => (Place::Host, None),
            Err(_) => {
                let asker = find(from)?;
                (Place::Container(asker.id.clone()), Some(asker))
            }
        };
        let (name, port) = split_port(to)?;
        let to = match name.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(ip) => ip,
            Err(_) => address_of(find(name)?, &from, asker)?,
        };
        if let Place::Outside(ip) = &from
            && Family::of(*ip) != Family::of(to)
        {
            return Err(invalid(&format!("{ip} and {to} are of different families")));
        }
        Ok(Self { from, to, port })
    }
}

fn invalid(why: &str) -> Error {
    Error::new(
        Code::InvalidTrace,
        format!(
            "trace: {why}: give a container, host or an address, and behind the second :PORT[/tcp|udp|sctp]"
        ),
    )
}

/// An address, or a name with a port behind it. IPv6 with a port stands in brackets.
fn split_port(text: &str) -> Result<(&str, Option<(Proto, u16)>)> {
    if text.parse::<IpAddr>().is_ok() {
        return Ok((text, None));
    }
    let Some((name, port)) = text.rsplit_once(':').filter(|(_, p)| !p.contains(']')) else {
        return Ok((text, None));
    };
    let (number, proto) = port.split_once('/').unwrap_or((port, "tcp"));
    let proto = [Proto::Tcp, Proto::Udp, Proto::Sctp]
        .into_iter()
        .find(|known| known.as_str() == proto)
        .ok_or_else(|| invalid(&format!("{:?} is no protocol", shorten(proto))))?;
    let number = number.parse().ok().filter(|n| *n > 0);
    let number = number.ok_or_else(|| invalid(&format!("{:?} is no port", shorten(port))))?;
    Ok((name, Some((proto, number))))
}

/// The address by which a container is asked for by name: on a common network if there is one.
fn address_of(container: &Container, from: &Place, asker: Option<&Container>) -> Result<IpAddr> {
    let is_shared = |network: &NetworkId| {
        asker.is_some_and(|asker| asker.endpoints.iter().any(|e| e.network == *network))
    };
    let family = match from {
        Place::Outside(ip) => Some(Family::of(*ip)),
        _ => None,
    };
    let mut endpoints: Vec<_> = container.endpoints.iter().collect();
    endpoints.sort_by_key(|endpoint| !is_shared(&endpoint.network));
    let mut ips = endpoints
        .iter()
        .flat_map(|endpoint| endpoint.ips.iter().copied());
    ips.find(|ip| family.is_none_or(|family| Family::of(*ip) == family))
        .ok_or_else(|| {
            invalid(&format!(
                "container {} has no address of that family",
                container.name
            ))
        })
}

#[cfg(test)]
mod tests;
