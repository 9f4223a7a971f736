//! Who is where on an overlay network: the tables of VXLAN devices and bridges, and the neighbours of bridges, on the wire
//! (linux/neighbour.h).
//!
//! Entries of these tables carry no mark. They are netd's when they are on a link of netd's and of the form that netd
//! gives them: what a bridge learns, and what somebody adds in another form, is not looked at.

use std::collections::HashMap;
use std::net::IpAddr;

use netd_model::object::{Flood, Neighbour, Remote, Station};
use netd_model::observed::Observed;
use netd_model::{IfName, Key, Mac, Object, Op, Owner};
use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE};
use nix::errno::Errno;

use super::inet::PROTOCOL;
use super::link::LinkView;
use super::netlink::{Refusal, Request, gone_is_done};
use super::ops::has_ipv6;
use super::space::Space;
use super::wire::{Attrs, Writer, ip, u16_at, u32_at};
use crate::kernel::KernelErrorKind;

const RTM_NEWNEIGH: u16 = 28;
pub(super) const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
/// `sizeof(struct ndmsg)`.
const NDMSG: usize = 12;

const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;
const AF_INET6: u8 = 10;

const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
/// The device's own table, not that of its bridge.
const NTF_SELF: u8 = 0x02;
const NTF_MASTER: u8 = 0x04;
/// No frame moves the entry to another port.
const NTF_STICKY: u8 = 0x40;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_PROTOCOL: u16 = 12;

/// The station that stands for all others in a VXLAN device's table.
const EVERYBODY: [u8; 6] = [0; 6];

/// Whether an operation is one on these tables.
pub(super) fn is_one(object: &Object) -> bool {
    object.is_station()
}

fn ndmsg(family: u8, index: u32, state: u16, flags: u8) -> Vec<u8> {
    let mut bytes = vec![family, 0, 0, 0];
    bytes.extend_from_slice(&index.to_ne_bytes());
    bytes.extend_from_slice(&state.to_ne_bytes());
    bytes.extend_from_slice(&[flags, 0]);
    bytes
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The entry as the kernel takes it, for adding and for removing, and how it is added.
fn entry(object: &Object, index: u32) -> Option<(Vec<u8>, u16)> {
    let made = NLM_F_ACK | NLM_F_CREATE;
    Some(match object {
        Object::Remote(remote) => {
            let head = ndmsg(AF_BRIDGE, index, NUD_NOARP | NUD_PERMANENT, NTF_SELF);
            let entry = Writer::behind(&head)
                .attr(NDA_LLADDR, &remote.mac.bytes())
                .attr(NDA_DST, &octets(remote.host));
            (entry.done(), made | NLM_F_REPLACE)
        }
        Object::Flood(flood) => {
            let head = ndmsg(AF_BRIDGE, index, NUD_NOARP | NUD_PERMANENT, NTF_SELF);
            let entry = Writer::behind(&head)
                .attr(NDA_LLADDR, &EVERYBODY)
                .attr(NDA_DST, &octets(flood.host));
            // One entry with many destinations: each is added to those that are there.
            (entry.done(), made | NLM_F_APPEND)
        }
        Object::Station(station) => {
            let head = ndmsg(AF_BRIDGE, index, NUD_NOARP, NTF_MASTER | NTF_STICKY);
            let entry = Writer::behind(&head).attr(NDA_LLADDR, &station.mac.bytes());
            (entry.done(), made | NLM_F_REPLACE)
        }
        Object::Neighbour(neighbour) => {
            let family = if neighbour.ip.is_ipv4() {
                AF_INET
            } else {
                AF_INET6
            };
            let entry = Writer::behind(&ndmsg(family, index, NUD_PERMANENT, 0))
                .attr(NDA_DST, &octets(neighbour.ip))
                .attr(NDA_LLADDR, &neighbour.mac.bytes())
                .attr(NDA_PROTOCOL, &[PROTOCOL]);
            (entry.done(), made | NLM_F_REPLACE)
        }
        _ => return None,
    })
}

/// The link an entry stands on.
fn device(object: &Object) -> Option<&IfName> {
    Some(match object {
        Object::Remote(remote) => &remote.ifname,
        Object::Flood(flood) => &flood.ifname,
        Object::Station(station) => &station.ifname,
        Object::Neighbour(neighbour) => &neighbour.ifname,
        _ => return None,
    })
}

/// What to ask the kernel for an operation. Nothing, where the link that an entry is to be removed from is gone.
fn request(space: &mut Space, op: &Op) -> Result<Option<Request>, Refusal> {
    let (object, remove) = match op {
        Op::Add(object) | Op::Change { to: object, .. } => (object, false),
        Op::Remove(object) => (object, true),
        _ => return Err(Errno::EINVAL.into()),
    };
    let name = device(object).ok_or(Errno::EINVAL)?;
    let index = match space.index(name) {
        Err(refusal) if remove && refusal.kind == KernelErrorKind::NoSuchDevice => return Ok(None),
        index => index?,
    };
    let (body, flags) = entry(object, index).ok_or(Errno::EINVAL)?;
    Ok(Some(if remove {
        Request::raw(RTM_DELNEIGH, NLM_F_ACK, body)
    } else {
        Request::raw(RTM_NEWNEIGH, flags, body)
    }))
}

/// Carries out operations on these tables, in batches: tens of thousands come at once when a host joins a large network.
///
/// The error comes with the number of the operation. Those behind it may be done all the same: what is left of a list that
/// is taken back goes with its link, or is repaired by the next audit.
pub(super) fn apply(space: &mut Space, ops: &[Op]) -> Result<(), (usize, Refusal)> {
    let mut requests = Vec::with_capacity(ops.len());
    let mut numbers = Vec::with_capacity(ops.len());
    for (number, op) in ops.iter().enumerate() {
        if let Some(request) = request(space, op).map_err(|refusal| (number, refusal))? {
            requests.push(request);
            numbers.push(number);
        }
    }
    let answers = space
        .route
        .batch(&requests)
        .map_err(|refusal| (0, refusal))?;
    for (number, answer) in numbers.into_iter().zip(answers) {
        let gone: &[Errno] = match ops[number] {
            Op::Remove(_) => &[Errno::ENOENT, Errno::ENODEV],
            _ => &[],
        };
        gone_is_done(answer, gone).map_err(|refusal| (number, refusal))?;
    }
    Ok(())
}

/// An entry as read.
pub(super) struct View {
    family: u8,
    pub(super) index: u32,
    state: u16,
    flags: u8,
    dst: Option<IpAddr>,
    mac: Option<[u8; 6]>,
    protocol: u8,
}

impl View {
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let attrs = Attrs::behind(body, NDMSG);
        Some(Self {
            family: *body.first()?,
            index: u32_at(body, 4)?,
            state: u16_at(body, 8)?,
            flags: *body.get(10)?,
            dst: attrs.find(NDA_DST).and_then(ip),
            mac: attrs.find(NDA_LLADDR).and_then(|mac| mac.try_into().ok()),
            protocol: attrs
                .find(NDA_PROTOCOL)
                .and_then(|value| value.first().copied())
                .unwrap_or(0),
        })
    }

    /// As an object on a link of netd's; none if it is not of a form that netd makes.
    fn object(&self, ifname: &IfName, owner: &Owner) -> Option<Object> {
        let (ifname, owner) = (ifname.clone(), owner.clone());
        if self.family != AF_BRIDGE {
            let netds = self.state & NUD_PERMANENT != 0 && self.protocol == PROTOCOL;
            let (ip, mac) = (self.dst.filter(|_| netds)?, Mac::new(self.mac?).ok()?);
            return Some(Object::Neighbour(Neighbour {
                ifname,
                ip,
                mac,
                owner,
            }));
        }
        if self.flags & NTF_SELF == 0 {
            let netds = self.state & NUD_NOARP != 0 && self.flags & NTF_STICKY != 0;
            let mac = Mac::new(self.mac.filter(|_| netds)?).ok()?;
            return Some(Object::Station(Station { ifname, mac, owner }));
        }
        // Without a destination it is one of the device's own addresses.
        let host = self.dst.filter(|_| self.state & NUD_PERMANENT != 0)?;
        if self.mac? == EVERYBODY {
            return Some(Object::Flood(Flood {
                ifname,
                host,
                owner,
            }));
        }
        Some(Object::Remote(Remote {
            ifname,
            mac: Mac::new(self.mac?).ok()?,
            host,
            owner,
        }))
    }
}

impl View {
    /// Which object of netd's it was, on a link of netd's, when it is gone. What the kernel tells of it then has no state any
    /// more, and of a neighbour no Ethernet address.
    pub(super) fn gone(&self, ifname: &IfName) -> Option<Key> {
        let ifname = ifname.clone();
        if self.family != AF_BRIDGE {
            let ip = self.dst.filter(|_| self.protocol == PROTOCOL)?;
            return Some(Key::Neighbour { ifname, ip });
        }
        let mac = self.mac?;
        if self.flags & NTF_SELF == 0 {
            let mac = Mac::new(mac).ok()?;
            return Some(Key::Station { ifname, mac });
        }
        let host = self.dst?;
        Some(if mac == EVERYBODY {
            Key::Flood { ifname, host }
        } else {
            let mac = Mac::new(mac).ok()?;
            Key::Remote { ifname, mac }
        })
    }
}

/// Looks at these tables, where the host has an overlay network: a dump tells those of all links.
pub(super) fn look(
    host: &mut Space,
    links: &[LinkView],
    ours: &HashMap<u32, (IfName, Owner)>,
    observed: &mut Observed,
) -> Result<(), Refusal> {
    let is_tunnel = |view: &LinkView| view.kind == "vxlan" && view.owner.is_some();
    if !links.iter().any(is_tunnel) {
        return Ok(());
    }
    let families = [AF_BRIDGE, AF_INET, AF_INET6];
    for family in families
        .into_iter()
        .filter(|family| *family != AF_INET6 || has_ipv6())
    {
        let request = Request::raw(RTM_GETNEIGH, NLM_F_DUMP, ndmsg(family, 0, 0, 0));
        for view in host.route.dump(&request, View::read)? {
            if let Some((ifname, owner)) = ours.get(&view.index)
                && let Some(object) = view.object(ifname, owner)
            {
                observed.insert(object);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use netd_model::NetworkId;

    #[test]
    fn an_entry_reads_back_as_it_was_written() {
        let owner = Owner::Network(NetworkId::from_bytes([1; 16]));
        let name = IfName::parse("ndx-1").unwrap();
        let mac = Mac::new([2, 0, 0, 0, 0, 1]).unwrap();
        for host in ["192.0.2.1", "fd02::1"] {
            let host: IpAddr = host.parse().unwrap();
            let (ifname, owner) = (name.clone(), owner.clone());
            let with = || (ifname.clone(), owner.clone());
            let all = [
                with_owner(with(), |ifname, owner| {
                    Object::Remote(Remote {
                        ifname,
                        mac,
                        host,
                        owner,
                    })
                }),
                with_owner(with(), |ifname, owner| {
                    Object::Flood(Flood {
                        ifname,
                        host,
                        owner,
                    })
                }),
                with_owner(with(), |ifname, owner| {
                    Object::Station(Station { ifname, mac, owner })
                }),
                with_owner(with(), |ifname, owner| {
                    Object::Neighbour(Neighbour {
                        ifname,
                        ip: host,
                        mac,
                        owner,
                    })
                }),
            ];
            for object in all {
                let (bytes, _) = entry(&object, 7).unwrap();
                let view = View::read(&bytes).unwrap();
                assert_eq!(view.index, 7);
                assert_eq!(view.object(&name, &owner), Some(object));
            }
        }
    }

    fn with_owner(
        (ifname, owner): (IfName, Owner),
        make: impl FnOnce(IfName, Owner) -> Object,
    ) -> Object {
        make(ifname, owner)
    }

    #[test]
    fn what_others_make_is_not_looked_at() {
        let owner = Owner::Network(NetworkId::from_bytes([1; 16]));
        let name = IfName::parse("ndx-1").unwrap();
        let mac = [2, 0, 0, 0, 0, 1];
        let foreign = [
            // Learnt, static but not sticky, and the device's own address.
            ndmsg(AF_BRIDGE, 1, 2, 0),
            ndmsg(AF_BRIDGE, 1, NUD_NOARP, 0),
            ndmsg(AF_BRIDGE, 1, NUD_PERMANENT, NTF_SELF),
            // A neighbour that somebody else made permanent.
            ndmsg(AF_INET, 1, NUD_PERMANENT, 0),
        ];
        for head in foreign {
            let mut entry = Writer::behind(&head).attr(NDA_LLADDR, &mac);
            if head[0] == AF_INET {
                entry = entry.attr(NDA_DST, &[10, 0, 0, 1]);
            }
            let view = View::read(&entry.done()).unwrap();
            assert_eq!(view.object(&name, &owner), None, "{head:?}");
        }
    }
}
