//! An operation on the kernel, as plain data: printed by `--dry-run` and `plan`, asserted in tests.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::id::ContainerId;
use crate::net::{IfName, Mac};
use crate::object::{Link, Object, Owner};

/// One operation. A plan is a list of them, in the order of execution.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// Make a veth pair: the peer is created inside the container's namespace, with its name, MAC and MTU.
    AddPair {
        /// The end in the host's namespace.
        host: Link,
        /// The end in the container's.
        container: Link,
    },
    /// Make an object.
    Add(Object),
    /// Give an object of ours the wanted form.
    Change {
        /// What the kernel holds.
        from: Object,
        /// What it shall hold.
        to: Object,
    },
    /// Remove an object of ours.
    Remove(Object),
    /// Tell the neighbours who has these addresses now: gratuitous ARP (RFC 5227) and unsolicited NA (RFC 4861).
    Announce {
        /// In whose namespace.
        container: ContainerId,
        /// From which interface.
        ifname: IfName,
        /// Its Ethernet address.
        mac: Mac,
        /// The addresses.
        ips: Vec<IpAddr>,
    },
    /// Forget the UDP flows to a published port whose backend changes, by their original destination; flows to other
    /// addresses and ports, and all of TCP, stay.
    ForgetUdpFlows {
        /// The published address; unspecified for every local address of its family less `except`.
        ip: IpAddr,
        /// The published port.
        port: u16,
        /// Local addresses on which the port belongs to another publish.
        except: Vec<IpAddr>,
    },
}

impl Op {
    /// The operation that takes this one back, for the roll-back of a half-done request; none where there is
    /// nothing to take back.
    pub fn inverse(&self) -> Option<Op> {
        match self {
            Self::AddPair { host, .. } => Some(Self::Remove(Object::Link(host.clone()))),
            // The host's share serves everybody: another request may stand on it by now.
            Self::Add(object) if *object.owner() == Owner::Host => None,
            Self::Add(Object::Loopback(_) | Object::Sysctl(_))
            | Self::Announce { .. }
            | Self::ForgetUdpFlows { .. } => None,
            Self::Add(object) => Some(Self::Remove(object.clone())),
            Self::Change { from, to } => Some(Self::Change {
                from: to.clone(),
                to: from.clone(),
            }),
            Self::Remove(object) => Some(Self::Add(object.clone())),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddPair { host, container } => {
                write!(
                    f,
                    "add veth {} to {} in {}",
                    host.name, container.name, container.ns
                )?;
                write!(f, " mac {} mtu {}", container.mac, container.mtu)?;
                host.master
                    .as_ref()
                    .map_or(Ok(()), |master| write!(f, " on {master}"))
            }
            Self::Add(object) => write!(f, "add {object}"),
            Self::Change { from, to } => write!(f, "change {from} to {to}"),
            Self::Remove(object) => write!(f, "remove {object}"),
            Self::Announce {
                container,
                ifname,
                mac,
                ips,
            } => {
                write!(
                    f,
                    "announce {} is at {mac} on {ifname} in {}",
                    list(ips),
                    container.short()
                )
            }
            Self::ForgetUdpFlows { ip, port, .. } => {
                write!(f, "forget udp flows to {ip} port {port}")
            }
        }
    }
}

const fn on(flag: bool) -> &'static str {
    if flag { "on" } else { "off" }
}

fn list(ips: &[IpAddr]) -> String {
    ips.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" ")
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostPort(p) => {
                write!(f, "host port {} {}/{}", p.ip, p.port, p.proto)?;
                match &p.relay {
                    Some(relay) => write!(f, " relayed to {}", relay.to),
                    None => Ok(()),
                }
            }
            Self::Ruleset(r) => write!(
                f,
                "ruleset of table {} {} in {}",
                r.table.family.as_str(),
                r.table.name,
                r.table.ns
            ),
            Self::Link(l) => {
                write!(f, "link {} in {} mac {} mtu {}", l.name, l.ns, l.mac, l.mtu)?;
                if let Some(master) = &l.master {
                    write!(f, " on {master}")?;
                }
                if let Some(tunnel) = &l.tunnel {
                    write!(f, " vni {} from {}", tunnel.vni, tunnel.local)?;
                    write!(f, " port {}", tunnel.port)?;
                    if !tunnel.udpcsum {
                        f.write_str(" noudpcsum")?;
                    }
                }
                f.write_str(if l.up { " up" } else { " down" })
            }
            Self::Loopback(owner) => write!(f, "lo up in {}", crate::object::container_ns(owner)),
            Self::BridgePort(p) => {
                write!(
                    f,
                    "port {} hairpin {} isolated {}",
                    p.ifname,
                    on(p.hairpin),
                    on(p.isolated)
                )?;
                if !p.learning || !p.flood || p.suppress {
                    let flags = [on(p.learning), on(p.flood), on(p.suppress)];
                    let [learning, flood, suppress] = flags;
                    write!(f, " learning {learning} flood {flood} suppress {suppress}")?;
                }
                Ok(())
            }
            Self::Remote(r) => write!(f, "station {} on host {} by {}", r.mac, r.host, r.ifname),
            Self::Flood(r) => write!(f, "host {} gets what {} floods", r.host, r.ifname),
            Self::Station(s) => write!(f, "station {} behind {}", s.mac, s.ifname),
            Self::Neighbour(n) => write!(f, "neighbour {} is at {} on {}", n.ip, n.mac, n.ifname),
            Self::Address(a) => write!(
                f,
                "address {}/{} on {} in {}",
                a.ip, a.prefix_len, a.ifname, a.ns
            ),
            Self::Route(r) => {
                write!(f, "route {}{}", if r.local { "local " } else { "" }, r.dst)?;
                if let Some(via) = r.via {
                    write!(f, " via {via}")?;
                }
                write!(f, " dev {}", r.dev)?;
                if let Some(src) = r.src {
                    write!(f, " src {src}")?;
                }
                write!(f, " in {}", r.ns)
            }
            Self::Shaper(s) => write!(
                f,
                "limit of {} to {} bytes/s, burst {}",
                s.ifname, s.rate, s.burst
            ),
            Self::Redirect(r) => write!(f, "redirect of what comes in on {} to {}", r.ifname, r.to),
            Self::Sysctl(s) => write!(f, "sysctl {}={} in {}", s.path, s.value, s.ns),
            Self::Element(e) => write!(f, "element {e}"),
            Self::DnsSocket(owner) => {
                write!(f, "dns sockets in {}", crate::object::container_ns(owner))
            }
        }
    }
}

impl fmt::Display for crate::nft::Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use crate::nft::{Datum, ElementData};
        let join = |parts: &[Datum]| {
            parts
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" . ")
        };
        write!(f, "{} {{ {}", self.key.set, join(&self.key.first))?;
        if self.key.first != self.key.last {
            write!(f, " - {}", join(&self.key.last))?;
        }
        match &self.data {
            ElementData::None => {}
            ElementData::Values(values) => write!(f, " : {}", join(values))?,
            ElementData::Verdict(verdict) => write!(f, " : {verdict:?}")?,
        }
        f.write_str(" }")
    }
}

impl fmt::Display for crate::nft::Datum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ifname(name) => write!(f, "{name}"),
            Self::Ip4(ip) => write!(f, "{ip}"),
            Self::Ip6(ip) => write!(f, "{ip}"),
            Self::L4Proto(6) => f.write_str("tcp"),
            Self::L4Proto(17) => f.write_str("udp"),
            Self::L4Proto(1) => f.write_str("icmp"),
            Self::L4Proto(58) => f.write_str("ipv6-icmp"),
            Self::L4Proto(132) => f.write_str("sctp"),
            Self::NfProto(2) => f.write_str("ipv4"),
            Self::NfProto(10) => f.write_str("ipv6"),
            Self::NfProto(number) => write!(f, "nfproto {number}"),
            Self::Mac(mac) => write!(f, "{mac}"),
            Self::EtherType(0x0800) => f.write_str("ip"),
            Self::EtherType(0x0806) => f.write_str("arp"),
            Self::EtherType(0x86dd) => f.write_str("ip6"),
            Self::EtherType(number) => write!(f, "{number:#06x}"),
            Self::ArpOp(1) => f.write_str("request"),
            Self::ArpOp(2) => f.write_str("reply"),
            Self::ArpOp(number) | Self::Port(number) => write!(f, "{number}"),
            Self::Icmp6Type(131) => f.write_str("mld-listener-report"),
            Self::Icmp6Type(132) => f.write_str("mld-listener-done"),
            Self::Icmp6Type(134) => f.write_str("nd-router-advert"),
            Self::Icmp6Type(135) => f.write_str("nd-neighbor-solicit"),
            Self::Icmp6Type(136) => f.write_str("nd-neighbor-advert"),
            Self::Icmp6Type(137) => f.write_str("nd-redirect"),
            Self::Icmp6Type(143) => f.write_str("mld2-listener-report"),
            Self::L4Proto(number) | Self::Icmp6Type(number) => write!(f, "{number}"),
            Self::Vni(number) => write!(f, "{number}"),
        }
    }
}
