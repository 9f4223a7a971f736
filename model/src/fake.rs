//! Operations applied to observed data: a kernel without a kernel.
//!
//! It knows what exists and what depends on what, as the real one does, and refuses what the real one refuses. It is
//! no simulation of packets.

use std::collections::BTreeSet;

use crate::nft::Element;
use crate::object::{Key, Link, LinkKind, Ns, Object, Owner};
use crate::observed::Observed;
use crate::op::Op;

/// Why the fake refuses an operation, by the error the real kernel would give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// EEXIST.
    #[error("exists")]
    Exists,
    /// ENODEV: the link it depends on is not there.
    #[error("no such device")]
    NoDevice,
    /// ENOENT: the object, table or set is not there.
    #[error("no such object")]
    NotFound,
    /// EADDRINUSE.
    #[error("address in use")]
    InUse,
}

impl Observed {
    /// Applies one operation.
    pub fn apply(&mut self, op: &Op) -> Result<(), Refusal> {
        match op {
            Op::AddPair { host, container } => self.add_pair(host, container),
            Op::Add(object) => self.add(object),
            Op::Change { from, to } => self.change(from, to),
            Op::Remove(object) => self.remove(object),
            Op::Announce {
                container, ifname, ..
            } => self.need_link(&Key::Link {
                ns: Ns::Container(container.clone()),
                name: ifname.clone(),
            }),
            Op::ForgetUdpFlows { .. } => Ok(()),
        }
    }

    fn need_link(&self, link: &Key) -> Result<(), Refusal> {
        if self.objects.contains_key(link) {
            Ok(())
        } else {
            Err(Refusal::NoDevice)
        }
    }

    fn add_pair(&mut self, host: &Link, container: &Link) -> Result<(), Refusal> {
        let ends = [Object::Link(host.clone()), Object::Link(container.clone())];
        if ends.iter().any(|end| self.objects.contains_key(&end.key())) {
            return Err(Refusal::Exists);
        }
        self.need_master(host)?;
        ends.into_iter().for_each(|end| self.insert(end));
        Ok(())
    }

    fn need_master(&self, link: &Link) -> Result<(), Refusal> {
        link.master.as_ref().map_or(Ok(()), |master| {
            self.need_link(&Key::Link {
                ns: link.ns.clone(),
                name: master.clone(),
            })
        })
    }

    fn add(&mut self, object: &Object) -> Result<(), Refusal> {
        if let Some(link) = object.link() {
            self.need_link(&link)?;
        }
        match (object, self.objects.get(&object.key())) {
            // Written, not created: whatever stood there before is overwritten.
            (Object::Sysctl(_) | Object::Loopback(_), _) => {}
            (Object::Element(element), have) => {
                self.need_set(element)?;
                if have.is_some_and(|have| have != object) {
                    return Err(Refusal::Exists);
                }
            }
            (Object::Ruleset(_), Some(have)) if have == object => {}
            (Object::HostPort(_), Some(_)) => return Err(Refusal::InUse),
            (_, Some(_)) => return Err(Refusal::Exists),
            (Object::Link(link), None) => self.need_master(link)?,
            (_, None) => {}
        }
        self.insert(object.clone());
        Ok(())
    }

    fn need_set(&self, element: &Element) -> Result<(), Refusal> {
        match self.objects.get(&Key::Ruleset(element.key.table.clone())) {
            Some(Object::Ruleset(rules))
                if rules.sets.iter().any(|set| set.name == element.key.set) =>
            {
                Ok(())
            }
            _ => Err(Refusal::NotFound),
        }
    }

    fn change(&mut self, from: &Object, to: &Object) -> Result<(), Refusal> {
        if !self.objects.contains_key(&from.key()) {
            return Err(Refusal::NotFound);
        }
        if let Object::Link(link) = to {
            self.need_master(link)?;
        }
        self.insert(to.clone());
        Ok(())
    }

    /// What is gone already counts as removed, as with the real kernel.
    fn remove(&mut self, object: &Object) -> Result<(), Refusal> {
        match object {
            Object::Link(link) => self.remove_link(link),
            Object::Ruleset(rules) => {
                self.objects.retain(|_, held| {
                    !matches!(held, Object::Element(element) if element.key.table == rules.table)
                });
                self.objects.remove(&object.key());
            }
            Object::Sysctl(_) | Object::Loopback(_) => return Err(Refusal::NotFound),
            _ => {
                self.objects.remove(&object.key());
            }
        }
        Ok(())
    }

    fn remove_link(&mut self, link: &Link) {
        let owner = &link.owner;
        let gone: BTreeSet<Key> = self
            .objects
            .iter()
            .filter(|(key, held)| match held {
                Object::Link(other) if link.kind == LinkKind::Veth => {
                    other.kind == LinkKind::Veth && other.owner == *owner
                }
                Object::Link(_) => {
                    **key
                        == Key::Link {
                            ns: link.ns.clone(),
                            name: link.name.clone(),
                        }
                }
                _ => false,
            })
            .map(|(key, _)| key.clone())
            .collect();
        self.objects.retain(|key, held| {
            !gone.contains(key) && !held.link().is_some_and(|on| gone.contains(&on))
        });
        if link.kind == LinkKind::Bridge {
            self.release_ports(link);
        }
    }

    fn release_ports(&mut self, bridge: &Link) {
        let mut freed = BTreeSet::new();
        for held in self.objects.values_mut() {
            if let Object::Link(port) = held
                && port.master.as_ref() == Some(&bridge.name)
                && port.ns == bridge.ns
            {
                port.master = None;
                freed.insert(port.name.clone());
            }
        }
        self.objects.retain(
            |_, held| !matches!(held, Object::BridgePort(port) if freed.contains(&port.ifname)),
        );
    }

    /// What is left of one owner: for leak checks.
    pub fn of_owner<'a>(&'a self, owner: &'a Owner) -> impl Iterator<Item = &'a Object> {
        self.objects
            .values()
            .filter(move |object| object.owner() == owner)
    }
}

#[cfg(test)]
pub(crate) mod tests;
