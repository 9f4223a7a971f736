//! The way of one packet through one view of the kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::eval::{Packet, Ruled, run};
use super::{Hop, Known, Place, Question, Walked};
use crate::net::{Family, IfName, Prefix};
use crate::nft::{ChainKind, HookPoint, TableFamily};
use crate::object::{Key, Ns, Object};
use crate::observed::Observed;
use crate::record::{Container, Endpoint, Network};
use crate::skeleton;

/// A port that programs send from.
const EPHEMERAL: u16 = 40_000;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Which of two routes is used: that of the longer prefix, then that of the lower metric.
type Rank = (u8, std::cmp::Reverse<u32>);

/// The walk is over: the packet got as far as it gets.
struct Over;
type Step<T = ()> = Result<T, Over>;

pub(super) fn walk(question: &Question, known: &Known<'_>, view: &Observed) -> Walked {
    let mut walk = Walk {
        known,
        view,
        walked: Walked::default(),
    };
    // Either way the end is on record.
    let _ = walk.start(question);
    walk.walked
}

struct Walk<'a> {
    known: &'a Known<'a>,
    view: &'a Observed,
    walked: Walked,
}

impl<'a> Walk<'a> {
    fn start(&mut self, question: &Question) -> Step {
        let (proto, dport) = match question.port {
            Some((proto, port)) => (proto.number(), port),
            None if question.to.is_ipv4() => (ICMP, 0),
            None => (ICMPV6, 0),
        };
        let packet = Packet {
            iif: None,
            oif: None,
            mac: None,
            src: Family::of(question.to).unspecified(),
            dst: question.to,
            proto,
            sport: EPHEMERAL,
            dport,
            dnat: false,
            local: self.is_local(question.to),
        };
        match &question.from {
            Place::Container(id) => match self.known.container(id) {
                Some(container) => self.leave_container(container, packet),
                None => self.stop("the container is gone"),
            },
            Place::Host => self.leave_host(packet),
            Place::Outside(ip) => {
                let iif = self.way_out(*ip);
                self.hop(
                    iif.as_ref().map_or("outside", IfName::as_str),
                    format!("arrives from {ip}"),
                );
                self.arrive(Packet {
                    iif,
                    src: *ip,
                    ..packet
                })
            }
        }
    }

    fn hop(&mut self, at: impl Into<String>, what: impl Into<String>) {
        self.walked.hops.push(Hop {
            at: at.into(),
            what: what.into(),
        });
    }

    /// The packet ends here without having arrived.
    fn stop<T>(&mut self, why: impl Into<String>) -> Step<T> {
        self.walked.verdict = why.into();
        Err(Over)
    }

    fn deliver<T>(&mut self, to: impl Into<String>) -> Step<T> {
        self.walked.delivered = true;
        self.walked.verdict = to.into();
        Err(Over)
    }

    /// Notes that the way depends on an object, and returns it.
    fn need(&mut self, key: Key) -> Option<&'a Object> {
        let found = self.view.objects.get(&key);
        self.walked.keys.push(key);
        found
    }

    /// The interface is there and up; and, with a bridge, a port of it.
    fn link(&mut self, ns: &Ns, name: &IfName, master: Option<&IfName>) -> Step {
        let key = Key::Link {
            ns: ns.clone(),
            name: name.clone(),
        };
        match self.need(key) {
            Some(Object::Link(link)) if !link.up => self.stop(format!("{name} is down")),
            Some(Object::Link(link)) if master.is_some() && link.master.as_ref() != master => {
                self.stop(format!("{name} is not on its bridge"))
            }
            Some(Object::Link(_)) => Ok(()),
            _ => self.stop(format!("there is no {name}")),
        }
    }

    fn leave_container(&mut self, container: &Container, packet: Packet) -> Step {
        let family = Family::of(packet.dst);
        let ns = Ns::Container(container.id.clone());
        let (dev, via) = self.route_inside(&ns, packet.dst)?;
        let Some(endpoint) = container.endpoints.iter().find(|e| e.ifname == dev) else {
            return self.stop(format!("{dev} is no interface of {}", container.name));
        };
        let Some(network) = self.known.network(&endpoint.network) else {
            return self.stop("its network is gone");
        };
        self.link(&ns, &dev, None)?;
        let Some(src) = endpoint.ip(family) else {
            return self.stop(format!("{} has no address of that family", container.name));
        };
        let address = Key::Address {
            ns: ns.clone(),
            ifname: dev.clone(),
            ip: src,
        };
        if self.need(address).is_none() {
            return self.stop(format!("{dev} does not have the address {src}"));
        }
        let by = via.map_or_else(String::new, |via| format!(" via {via}"));
        self.hop(
            container.name.as_str(),
            format!("sends from {src} on {dev}{by}"),
        );
        let packet = Packet {
            src,
            mac: Some(endpoint.mac),
            iif: Some(endpoint.host_ifname.clone()),
            ..packet
        };
        self.through_port(endpoint, network, &packet)?;
        let next = via.unwrap_or(packet.dst);
        if packet.local || network.gateways(family).any(|gateway| gateway == next) {
            return self.reach_gateway(network, next, packet);
        }
        self.on_the_link(endpoint, network, next, &packet)
    }

    /// The interface and the next hop by the container's own routes: the longest prefix, then the lowest metric.
    fn route_inside(&mut self, ns: &Ns, dst: IpAddr) -> Step<(IfName, Option<IpAddr>)> {
        let mut best: Option<(Rank, Key, IfName, Option<IpAddr>)> = None;
        for (key, object) in &self.view.objects {
            let (prefix, metric, dev, via) = match object {
                Object::Address(a) if a.ns == *ns => {
                    (Prefix::holding(a.ip, a.prefix_len), 0, &a.ifname, None)
                }
                Object::Route(r) if r.ns == *ns => (r.dst, r.metric, &r.dev, r.via),
                _ => continue,
            };
            if prefix.family() != Family::of(dst) || !prefix.contains(dst) {
                continue;
            }
            let rank = (prefix.len(), std::cmp::Reverse(metric));
            if best.as_ref().is_none_or(|(other, ..)| rank > *other) {
                best = Some((rank, key.clone(), dev.clone(), via));
            }
        }
        match best {
            Some((_, key, dev, via)) => {
                self.walked.keys.push(key);
                Ok((dev, via))
            }
            None => self.stop(format!("the container has no route to {dst}")),
        }
    }

    /// Into the bridge: the port, and what it may send.
    fn through_port(&mut self, endpoint: &Endpoint, network: &Network, packet: &Packet) -> Step {
        let port = &endpoint.host_ifname;
        self.link(&Ns::Host, port, Some(&network.interface))?;
        self.link(&Ns::Host, &network.interface, None)?;
        let rules = skeleton::bridge();
        self.filter(&rules, HookPoint::Prerouting, packet, port.as_str())
    }

    /// From port to port of one bridge.
    fn on_the_link(
        &mut self,
        from: &Endpoint,
        network: &Network,
        next: IpAddr,
        packet: &Packet,
    ) -> Step {
        let holder = self.holder(network, next);
        let Some((container, endpoint)) = holder else {
            return self.stop(format!("nobody on network {} has {next}", network.name));
        };
        let isolated = [from, endpoint].map(|e| {
            let key = Key::BridgePort(e.host_ifname.clone());
            matches!(self.need(key), Some(Object::BridgePort(port)) if port.isolated)
        });
        if isolated == [true, true] {
            return self.stop(format!(
                "{} keeps its containers apart (icc=false)",
                network.interface
            ));
        }
        if self
            .known
            .facts
            .bridge_netfilter
            .contains(&Family::of(next))
        {
            let bridge = Some(network.interface.clone());
            let packet = Packet {
                iif: bridge.clone(),
                oif: bridge,
                ..packet.clone()
            };
            self.forwarded(&packet)?;
        }
        self.enter_container(network, container, endpoint)
    }

    fn holder(&self, network: &Network, ip: IpAddr) -> Option<(&'a Container, &'a Endpoint)> {
        self.known.containers.iter().copied().find_map(|container| {
            let mut endpoints = container.endpoints.iter();
            let found = endpoints.find(|e| e.network == network.id && e.ips.contains(&ip))?;
            Some((container, found))
        })
    }

    /// From a container to its bridge's own address in the subnet of the next hop.
    fn reach_gateway(&mut self, network: &Network, next: IpAddr, packet: Packet) -> Step {
        // The host answers for its addresses on every bridge, so the next hop may be none of the network's.
        let gateway = network.gateway_of(next);
        let Some(gateway) = gateway.or_else(|| network.gateway_of(packet.src)) else {
            return self.stop(format!("the host has no address on {}", network.interface));
        };
        let key = Key::Address {
            ns: Ns::Host,
            ifname: network.interface.clone(),
            ip: gateway,
        };
        if self.need(key).is_none() {
            return self.stop(format!("{} does not have {gateway}", network.interface));
        }
        self.hop(network.interface.as_str(), "reaches the host");
        self.arrive(Packet {
            iif: Some(network.interface.clone()),
            ..packet
        })
    }

    fn leave_host(&mut self, packet: Packet) -> Step {
        let src = match (packet.dst.is_loopback(), self.network_of(packet.dst)) {
            (true, _) => packet.dst,
            (false, Some(network)) => network.gateway_of(packet.dst).unwrap_or(packet.src),
            (false, None) if packet.local => packet.dst,
            (false, None) => packet.src,
        };
        self.hop("host", "a program sends");
        let packet = Packet { src, ..packet };
        let packet = self.translate(HookPoint::Output, packet)?;
        if packet.local && !packet.dnat {
            return self.deliver("a program of the host, if one listens there");
        }
        match self.network_of(packet.dst) {
            Some(network) => self.out_of_bridge(network, &packet),
            None if self.way_out(packet.dst).is_none() => {
                self.stop(format!("the host has no route to {}", packet.dst))
            }
            None => self.deliver("leaves the host"),
        }
    }

    /// At the host: from outside, or by a bridge.
    fn arrive(&mut self, packet: Packet) -> Step {
        let rules = skeleton::host();
        let from_loopback = packet.dst.is_loopback();
        let packet = self.translate(HookPoint::Prerouting, packet)?;
        if packet.local && !packet.dnat {
            if from_loopback {
                return self.stop("a loopback address is reached by the host alone");
            }
            self.filter(&rules, HookPoint::Input, &packet, "input")?;
            return self.deliver("a program of the host, if one listens there");
        }
        let network = self.network_of(packet.dst);
        let oif = match network {
            Some(network) => Some(network.interface.clone()),
            None => self.way_out(packet.dst),
        };
        if network.is_none() && oif.is_none() {
            return self.stop(format!("the host has no route to {}", packet.dst));
        }
        let packet = Packet { oif, ..packet };
        self.forwarding(&packet)?;
        self.forwarded(&packet)?;
        if let Some(network) = network {
            return self.out_of_bridge(network, &packet);
        }
        self.translate(HookPoint::Postrouting, packet)?;
        self.deliver("leaves the host")
    }

    fn forwarding(&mut self, packet: &Packet) -> Step {
        let facts = self.known.facts;
        let (on, path) = match Family::of(packet.dst) {
            Family::V4 => (facts.forwarding4, "net.ipv4.ip_forward"),
            Family::V6 => (facts.forwarding6, "net.ipv6.conf.all.forwarding"),
        };
        if on {
            return Ok(());
        }
        self.stop(format!("the host does not forward: {path} is 0"))
    }

    fn forwarded(&mut self, packet: &Packet) -> Step {
        let rules = skeleton::host();
        self.filter(&rules, HookPoint::Forward, packet, "forward")?;
        let foreign = &self.known.facts.forward_drop;
        if let Some(chain) = foreign.first() {
            return self.stop(format!(
                "chain {chain} of another program drops what it does not accept: see `netctl status` for the remedy"
            ));
        }
        Ok(())
    }

    fn out_of_bridge(&mut self, network: &Network, packet: &Packet) -> Step {
        self.link(&Ns::Host, &network.interface, None)?;
        let packet = Packet {
            oif: Some(network.interface.clone()),
            ..packet.clone()
        };
        let packet = self.translate(HookPoint::Postrouting, packet)?;
        match self.holder(network, packet.dst) {
            Some((container, endpoint)) => self.enter_container(network, container, endpoint),
            None => self.stop(format!(
                "nobody on network {} has {}",
                network.name, packet.dst
            )),
        }
    }

    fn enter_container(
        &mut self,
        network: &Network,
        container: &Container,
        endpoint: &Endpoint,
    ) -> Step {
        let ns = Ns::Container(container.id.clone());
        self.link(&Ns::Host, &endpoint.host_ifname, Some(&network.interface))?;
        self.link(&ns, &endpoint.ifname, None)?;
        for ip in &endpoint.ips {
            let key = Key::Address {
                ns: ns.clone(),
                ifname: endpoint.ifname.clone(),
                ip: *ip,
            };
            if self.need(key).is_none() {
                return self.stop(format!(
                    "{} does not have the address {ip}",
                    endpoint.ifname
                ));
            }
        }
        self.hop(
            container.name.as_str(),
            format!("arrives on {}", endpoint.ifname),
        );
        self.deliver(format!("container {}", container.name))
    }

    /// A filter hook of one of netd's tables.
    fn filter(
        &mut self,
        rules: &crate::nft::Ruleset,
        point: HookPoint,
        packet: &Packet,
        at: &str,
    ) -> Step {
        self.walked.keys.push(Key::Ruleset(rules.table.clone()));
        let ruling = run(self.view, rules, point, ChainKind::Filter, packet);
        self.walked.keys.extend(ruling.elements);
        let table = rules.table.family;
        match (ruling.ruled, ruling.rule) {
            (Ruled::Drop, rule) => self.dropped(table, at, rule),
            (_, Some(rule)) => {
                let table = table.as_str();
                self.hop(at, format!("passes by table {table} netd, {rule}"));
                Ok(())
            }
            (_, None) => Ok(()),
        }
    }

    fn dropped<T>(&mut self, table: TableFamily, at: &str, rule: Option<String>) -> Step<T> {
        let (table, rule) = (table.as_str(), rule.unwrap_or_default());
        self.hop(at, format!("dropped by table {table} netd, {rule}"));
        self.stop(format!("dropped by table {table} netd, {rule}"))
    }

    /// A nat hook. It drops as well: what it sees first must not be translated.
    fn translate(&mut self, point: HookPoint, packet: Packet) -> Step<Packet> {
        let rules = skeleton::host();
        let ruling = run(self.view, &rules, point, ChainKind::Nat, &packet);
        self.walked.keys.push(Key::Ruleset(rules.table.clone()));
        self.walked.keys.extend(ruling.elements);
        let rule = ruling.rule;
        let by = rule.clone().unwrap_or_default();
        match ruling.ruled {
            Ruled::Dnat(ip, port) => {
                self.hop(
                    "nat",
                    format!("its destination becomes {ip} port {port} ({by})"),
                );
                Ok(Packet {
                    dst: ip,
                    dport: port,
                    dnat: true,
                    ..packet
                })
            }
            Ruled::Snat(to) => {
                let to = to.map_or_else(|| "the host's".to_owned(), |ip| ip.to_string());
                self.hop("nat", format!("its source becomes {to} ({by})"));
                Ok(packet)
            }
            Ruled::Pass => Ok(packet),
            Ruled::Drop => self.dropped(rules.table.family, "nat", rule),
        }
    }

    /// The network whose bridge the host sends to this address by.
    fn network_of(&self, ip: IpAddr) -> Option<&'a Network> {
        let mut networks = self.known.networks.iter().copied();
        networks.find(|network| {
            let gateway = network.gateway_of(ip);
            gateway.is_some_and(|gateway| gateway != ip)
        })
    }

    /// Whether it is an address of the host.
    fn is_local(&self, ip: IpAddr) -> bool {
        let on_bridge = self.view.objects.values().any(|object| match object {
            Object::Address(a) => a.ns == Ns::Host && a.ip == ip,
            _ => false,
        });
        on_bridge
            || self.known.facts.addresses.contains(&ip)
            || ip == IpAddr::V6(Ipv6Addr::LOCALHOST)
            || matches!(ip, IpAddr::V4(v4) if v4.is_loopback() || v4 == Ipv4Addr::UNSPECIFIED)
    }

    /// The interface by which the host reaches an address outside.
    fn way_out(&self, ip: IpAddr) -> Option<IfName> {
        let ways = self.known.facts.ways.iter();
        let ways = ways.filter(|way| way.to.family() == Family::of(ip) && way.to.contains(ip));
        let best = ways.max_by_key(|way| (way.to.len(), std::cmp::Reverse(way.metric)));
        best.map(|way| way.dev.clone())
    }
}
