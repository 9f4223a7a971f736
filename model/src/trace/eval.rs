//! What rules make of a packet: the rulesets of this model, run on paper.
//!
//! The first packet of a flow, as `nft` would treat it: connection tracking calls it new, and nothing was translated yet
//! but what the trace itself has translated.

use std::net::IpAddr;

use crate::net::{Family, IfName, Mac};
use crate::nft::text::render_rule;
use crate::nft::{
    Chain, ChainKind, CtState, Datum, Element, ElementData, Expr, HookPoint, Ruleset, Stmt,
    TableFamily, Verdict,
};
use crate::object::{Key, Object};
use crate::observed::Observed;
use crate::skeleton;

/// A packet, as far as rules look at it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Packet {
    pub(super) iif: Option<IfName>,
    pub(super) oif: Option<IfName>,
    pub(super) mac: Option<Mac>,
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) proto: u8,
    pub(super) sport: u16,
    pub(super) dport: u16,
    /// Whether its destination was translated.
    pub(super) dnat: bool,
    /// Whether its destination is an address of the host.
    pub(super) local: bool,
}

/// What a base chain says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ruled {
    /// It goes on.
    Pass,
    /// It ends here.
    Drop,
    /// It goes on to another address and port.
    Dnat(IpAddr, u16),
    /// It leaves under another address; none for that of the output interface.
    Snat(Option<IpAddr>),
}

/// What a base chain says, and by which rule.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ruling {
    pub(super) ruled: Ruled,
    /// `chain: rule`, where a rule decided.
    pub(super) rule: Option<String>,
    /// The elements that the way through the rules went by.
    pub(super) elements: Vec<Key>,
}

/// Runs the base chains of a kind at a hook of one of netd's tables, as a view of the kernel has them. Without the table
/// everything passes.
pub(super) fn run(
    view: &Observed,
    ruleset: &Ruleset,
    point: HookPoint,
    kind: ChainKind,
    packet: &Packet,
) -> Ruling {
    let mut run = Run {
        view,
        ruleset,
        packet,
        elements: Vec::new(),
    };
    let table = Key::Ruleset(ruleset.table.clone());
    let is_held = view.objects.get(&table) == Some(&Object::Ruleset(ruleset.clone()));
    let mut end = End::None;
    if is_held {
        let is_there = |chain: &&Chain| {
            chain
                .hook
                .is_some_and(|hook| hook.point == point && hook.kind == kind)
        };
        let hooked = ruleset.chains.iter().filter(is_there);
        for chain in hooked {
            end = run.chain(chain);
            if let End::Ruled(..) = end {
                break;
            }
        }
    }
    let (ruled, rule) = match end {
        End::Ruled(ruled, rule) => (ruled, Some(rule)),
        End::None => (Ruled::Pass, None),
    };
    Ruling {
        ruled,
        rule,
        elements: run.elements,
    }
}

enum End {
    /// The chain ran out, or returned.
    None,
    Ruled(Ruled, String),
}

/// What a statement says about the rest of its rule.
enum Next {
    On,
    Miss,
    Return,
    End(End),
}

struct Run<'a> {
    view: &'a Observed,
    ruleset: &'a Ruleset,
    packet: &'a Packet,
    elements: Vec<Key>,
}

impl Run<'_> {
    fn chain(&mut self, chain: &Chain) -> End {
        for rule in chain.rules.iter().flatten() {
            let text = || format!("{}: {}", chain.name, render_rule(rule));
            for stmt in rule {
                match self.stmt(stmt, &text) {
                    Next::On => {}
                    Next::Miss => break,
                    Next::Return => return End::None,
                    Next::End(end) => return end,
                }
            }
        }
        End::None
    }

    fn stmt(&mut self, stmt: &Stmt, text: &dyn Fn() -> String) -> Next {
        let go_on = |on: bool| if on { Next::On } else { Next::Miss };
        let ruled = |ruled| Next::End(End::Ruled(ruled, text()));
        match stmt {
            Stmt::Match {
                left,
                right,
                invert,
            } => go_on(self.value(*left).is_some_and(|v| (v == *right) != *invert)),
            Stmt::InPrefix { left, prefix } => {
                let inside = |datum: Datum| match datum {
                    Datum::Ip4(ip) => prefix.contains(ip.into()),
                    Datum::Ip6(ip) => prefix.contains(ip.into()),
                    _ => false,
                };
                go_on(self.value(*left).is_some_and(inside))
            }
            Stmt::Lookup { key, set, invert } => {
                let Some(key) = self.key(key) else {
                    return Next::Miss;
                };
                let found = self.find(set, &key).is_some();
                go_on(found != *invert)
            }
            Stmt::VerdictMap { key, map } => {
                let found = self.key(key).and_then(|key| self.find(map, &key));
                match found {
                    Some(ElementData::Verdict(verdict)) => self.verdict(&verdict, text),
                    _ => Next::Miss,
                }
            }
            Stmt::DnatMap { family, key, map } => {
                if Family::of(self.packet.dst) != *family {
                    return Next::Miss;
                }
                let found = self.key(key).and_then(|key| self.find(map, &key));
                match found.as_ref().and_then(address_and_port) {
                    Some((ip, port)) => ruled(Ruled::Dnat(ip, port)),
                    None => Next::Miss,
                }
            }
            Stmt::SnatMap { family, key, map } => {
                if Family::of(self.packet.src) != *family {
                    return Next::Miss;
                }
                let found = self.key(key).and_then(|key| self.find(map, &key));
                match found {
                    Some(ElementData::Values(values)) => {
                        ruled(Ruled::Snat(values.first().and_then(address)))
                    }
                    _ => Next::Miss,
                }
            }
            Stmt::CtState(state) => go_on(*state == CtState::New),
            Stmt::CtStatusDnat => go_on(self.packet.dnat),
            // A traced packet has one destination.
            Stmt::CtReply | Stmt::CtStatusSnat | Stmt::ToGroup => Next::Miss,
            Stmt::FibDaddrLocal => go_on(self.packet.local),
            Stmt::Masquerade => ruled(Ruled::Snat(None)),
            Stmt::CtOriginal | Stmt::Notrack | Stmt::SetSport(_) | Stmt::SetDport(_) => Next::On,
            Stmt::Verdict(verdict) => self.verdict(verdict, text),
        }
    }

    fn verdict(&mut self, verdict: &Verdict, text: &dyn Fn() -> String) -> Next {
        let to = |name: &str| self.ruleset.chains.iter().find(|chain| chain.name == *name);
        match verdict {
            Verdict::Accept => Next::End(End::Ruled(Ruled::Pass, text())),
            Verdict::Drop => Next::End(End::Ruled(Ruled::Drop, text())),
            Verdict::Return => Next::Return,
            // The rule that leads there is the one to name.
            Verdict::Goto(name) if skeleton::is_drop(name) => {
                Next::End(End::Ruled(Ruled::Drop, text()))
            }
            Verdict::Goto(name) => match to(name).map(|chain| self.chain(chain)) {
                Some(End::Ruled(Ruled::Drop, rule)) => {
                    Next::End(End::Ruled(Ruled::Drop, format!("{}; {rule}", text())))
                }
                Some(end) => Next::End(end),
                None => Next::Miss,
            },
            Verdict::Jump(name) => match to(name).map(|chain| self.chain(chain)) {
                Some(end @ End::Ruled(..)) => Next::End(end),
                _ => Next::Miss,
            },
        }
    }

    fn key(&self, parts: &[Expr]) -> Option<Vec<Datum>> {
        parts.iter().map(|part| self.value(*part)).collect()
    }

    /// What an expression yields; none where the packet has no such part.
    fn value(&self, expr: Expr) -> Option<Datum> {
        let packet = self.packet;
        let of_family = |ip: IpAddr, family| (Family::of(ip) == family).then(|| ip.into());
        let is_bridge = self.ruleset.table.family == TableFamily::Bridge;
        match expr {
            Expr::Iifname => packet.iif.clone().map(Datum::Ifname),
            Expr::Oifname => packet.oif.clone().map(Datum::Ifname),
            Expr::NfProto => Some(Datum::NfProto(Family::of(packet.src).nfproto())),
            Expr::L4Proto => Some(Datum::L4Proto(packet.proto)),
            Expr::Saddr(family) => of_family(packet.src, family),
            Expr::Daddr(family) => of_family(packet.dst, family),
            Expr::Sport => Some(Datum::Port(packet.sport)),
            Expr::Dport => Some(Datum::Port(packet.dport)),
            Expr::EtherType if is_bridge => Some(Datum::EtherType(match Family::of(packet.src) {
                Family::V4 => 0x0800,
                Family::V6 => 0x86dd,
            })),
            Expr::EtherSaddr => packet.mac.map(Datum::Mac),
            // An echo request, if it is ICMPv6 at all: no message of neighbour discovery.
            Expr::Icmp6Type if packet.proto == 58 => Some(Datum::Icmp6Type(128)),
            _ => None,
        }
    }

    /// The data of the element that holds a key.
    fn find(&mut self, set: &str, key: &[Datum]) -> Option<ElementData> {
        let holds = |element: &&Element| {
            let (first, last) = (&element.key.first, &element.key.last);
            let bounds = first.iter().zip(last);
            element.key.set == set
                && element.key.table == self.ruleset.table
                && first.len() == key.len()
                && key
                    .iter()
                    .zip(bounds)
                    .all(|(part, (low, high))| low <= part && part <= high)
        };
        let elements = self
            .view
            .objects
            .values()
            .filter_map(|object| match object {
                Object::Element(element) => Some(element),
                _ => None,
            });
        let found = elements.into_iter().find(holds)?;
        self.elements.push(Key::Element(found.key.clone()));
        Some(found.data.clone())
    }
}

fn address(datum: &Datum) -> Option<IpAddr> {
    match datum {
        Datum::Ip4(ip) => Some((*ip).into()),
        Datum::Ip6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn address_and_port(data: &ElementData) -> Option<(IpAddr, u16)> {
    match data {
        ElementData::Values(values) => match values.as_slice() {
            [ip, Datum::Port(port)] => Some((address(ip)?, *port)),
            _ => None,
        },
        _ => None,
    }
}
