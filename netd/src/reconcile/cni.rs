//! CNI attachments: endpoints that are known by container id and interface name.
//!
//! The first attachment of a container id makes a container of netd, each further one adds an endpoint; the last DEL
//! removes the container.

use netd_model::cni::{AddRequest, Attachment, MADE_BY};
use netd_model::desired::{self, FAMILIES};
use netd_model::diff::{Plan, diff};
use netd_model::error::{Code, Error, Result};
use netd_model::id::Name;
use netd_model::net::{Family, Mac};
use netd_model::object::Link;
use netd_model::observed::Observed;
use netd_model::record::{Container, Endpoint, Phase};
use netd_model::request::{Attach, CreateNetwork, is_dns_name};
use netd_model::{ContainerId, NetworkId, Ns, Object, Op};

use crate::kernel::Sandbox;
use crate::reconcile::audit::Purpose;
use crate::reconcile::handle::Answer;
use crate::reconcile::job::Write;
use crate::reconcile::owner::{Owner, Reply, Touches};
use crate::reconcile::requests::answer;

impl Owner {
    /// Makes an attachment. One that exists is an error, even when it is the same (CNI spec 1.1.0, ADD).
    pub(crate) fn cni_add(&mut self, request: AddRequest, sandbox: Sandbox, reply: Reply) {
        let known = request.attach.id.as_ref();
        let Some(record) = known.and_then(|id| self.world.container(id)) else {
            let attach = self.with_free_name(self.with_served_ports(request.attach));
            return self.attach(attach, sandbox, true, false, reply);
        };
        match further(record, &request, &sandbox) {
            Ok(id) => match request.attach.networks.first() {
                Some(join) => self.connect(&id, join, false, reply),
                None => answer(reply, Err(Error::new(Code::InvalidNetwork, "no network"))),
            },
            Err(error) => answer(reply, Err(error)),
        }
    }

    /// A host address of a family that the network does not have is passed over, as the portmap plugin does: runtimes ask
    /// for both families whatever the network has.
    fn with_served_ports(&self, mut attach: Attach) -> Attach {
        let joined = attach.networks.iter();
        let networks: Vec<NetworkId> = joined
            .filter_map(|join| self.world.find_network(&join.network).ok())
            .collect();
        let has = |family| {
            let mut records = networks.iter().filter_map(|id| self.world.network(id));
            records.any(|network| network.has(family))
        };
        attach
            .publish
            .retain(|port| port.host_ip.is_none_or(|ip| has(Family::of(ip))));
        attach
    }

    /// A pod that is made again before the DEL of its predecessor came: both answer to the name until then.
    fn with_free_name(&self, mut attach: Attach) -> Attach {
        let Some(id) = &attach.id else {
            return attach;
        };
        if self.world.find_container(&attach.name).is_err() {
            return attach;
        }
        let taken = attach.name.to_string();
        let Ok(free) = Name::parse(id) else {
            return attach;
        };
        attach.name = free;
        for join in attach.networks.iter_mut().filter(|_| is_dns_name(&taken)) {
            join.aliases.push(taken.clone());
        }
        attach
    }

    /// Removes an attachment; one that is not there is removed.
    pub(crate) fn cni_del(&mut self, attachment: &Attachment, reply: Reply) {
        let Some((record, endpoint)) = self.cni_endpoint(attachment) else {
            return answer(reply, Ok(Answer::Done));
        };
        let (record, network) = (record.clone(), endpoint.network.clone());
        let others = record.endpoints.iter().filter(|e| e.network != network);
        if record.phase == Phase::Detaching || !others.clone().any(|e| e.cni.is_some()) {
            return self.detach(record.id, false, Some(reply));
        }
        let mut new = record.clone();
        new.endpoints.retain(|e| e.network != network);
        if self.serves_ports(&record, &network) {
            // They came with this attachment, and go with it.
            new.ports.clear();
            self.world.drop_ports(&record.id);
        }
        self.become_less(&record, new, network, false, reply);
    }

    /// Whether an endpoint is the one that published ports lead to.
    fn serves_ports(&self, record: &Container, network: &NetworkId) -> bool {
        FAMILIES.into_iter().any(|family| {
            desired::gateway_endpoint(record, family, |id| self.world.network(id))
                .is_some_and(|(endpoint, _)| endpoint.network == *network)
        })
    }

    /// Looks at what the kernel holds of an attachment; the answer is a plan, empty when all is there.
    pub(crate) fn cni_check(&mut self, attachment: &Attachment, reply: Reply) {
        match self.cni_endpoint(attachment) {
            Some((record, _)) if record.phase == Phase::Attached => {
                let id = record.id.clone();
                self.start_audit(Purpose::Check { id, reply });
            }
            _ => answer(
                reply,
                Err(Error::new(
                    Code::EndpointNotFound,
                    format!(
                        "container {} has no attachment {} by CNI: ADD it again",
                        attachment.container, attachment.ifname
                    ),
                )),
            ),
        }
    }

    /// Ethernet addresses that a plugin behind netd's gave the interfaces of containers become those of the endpoints, so
    /// that their ports send from them; but none that is in use on the network. What has to be written comes back.
    pub(crate) fn adopt_macs(&mut self, observed: &Observed, touched: &Touches) -> Vec<Write> {
        let mut writes = Vec::new();
        for (id, network, mac) in self.tuned(observed) {
            let busy = touched.containers.contains(&id)
                || self
                    .pending
                    .values()
                    .any(|pending| pending.touches.containers.contains(&id));
            if busy {
                continue;
            }
            let Some(record) = self.world.change_mac(&id, &network, mac).cloned() else {
                tracing::warn!(container = id.short(), %mac, "the address of its interface is in use on the network: it is set back");
                continue;
            };
            tracing::info!(container = id.short(), %mac, "another plugin changed the interface's address: taken over");
            self.show(&id, None);
            writes.push(Write::Container(Box::new(record)));
        }
        writes
    }

    /// The attachments whose interface has another Ethernet address than is on record.
    fn tuned(&self, observed: &Observed) -> Vec<(ContainerId, NetworkId, Mac)> {
        let links = observed.objects.values().filter_map(|object| match object {
            Object::Link(link) => Some(link),
            _ => None,
        });
        let tuned = links.filter_map(|link| {
            let (Ns::Container(id), netd_model::Owner::Endpoint(_, network)) =
                (&link.ns, &link.owner)
            else {
                return None;
            };
            let record = self
                .world
                .container(id)
                .filter(|c| c.phase == Phase::Attached)?;
            let mut endpoints = record.endpoints.iter();
            let endpoint = endpoints.find(|e| e.network == *network && e.ifname == link.name)?;
            let changed = endpoint.cni.is_some() && endpoint.mac != link.mac;
            changed.then(|| (id.clone(), network.clone(), link.mac))
        });
        tuned.collect()
    }

    /// What differs on one container and on its networks.
    pub(crate) fn differences(
        &self,
        id: &ContainerId,
        mut observed: Observed,
        touched: &Touches,
    ) -> Plan {
        let Some(record) = self.world.container(id) else {
            return Plan::default();
        };
        let networks: Vec<NetworkId> = record.endpoints.iter().map(|e| e.network.clone()).collect();
        let concerns = |owner: &netd_model::Owner| {
            let mine = match owner {
                netd_model::Owner::Host => true,
                netd_model::Owner::Network(network) => networks.contains(network),
                other => other.container() == Some(id),
            };
            mine && !touched.holds(owner)
        };
        let mut wanted = self.world.host_objects();
        wanted.extend(self.world.objects(&networks, [id]));
        wanted.retain(|object| concerns(object.owner()));
        observed
            .objects
            .retain(|_, object| concerns(object.owner()));
        let tuned = self.tuned(&observed).iter().any(|(other, ..)| other == id);
        let mut plan = diff(&wanted, &observed, |owner| self.world.knows(owner));
        if tuned {
            // Called straight after an ADD whose last plugin changed the address: netd is about to take it over.
            plan.ops.retain(|op| !is_about_macs(op));
        }
        plan
    }

    /// Whether a network can take one more container. One that is not there yet, or will be made anew, can.
    pub(crate) fn cni_status(
        &self,
        network: &str,
        define: Option<&CreateNetwork>,
    ) -> Result<Answer> {
        let Ok(id) = self.world.find_network(network) else {
            return Ok(Answer::Done);
        };
        match define.map_or(Ok(Standing::There), |define| self.standing(define))? {
            Standing::There => self.world.check_room(&id)?,
            Standing::Missing | Standing::Outdated(_) => {}
        }
        Ok(Answer::Done)
    }

    /// Makes the network of a configuration. When a node gets another prefix, the network is made anew as soon as the last
    /// pod with an address of the old one has gone, and not before. With `room`, one that is there and full is an error.
    pub(crate) fn cni_network(&mut self, mut request: CreateNetwork, room: bool, reply: Reply) {
        match self.standing(&request) {
            Ok(Standing::There) => {
                let found = self.world.find_network(&request.name).ok();
                let full = found
                    .filter(|_| room)
                    .and_then(|id| self.world.check_room(&id).err());
                answer(reply, full.map_or(Ok(Answer::Unchanged), Err));
            }
            Ok(Standing::Missing) => {
                let (key, value) = MADE_BY;
                request.labels.insert(key.to_owned(), value.to_owned());
                self.create_network(request, false, reply);
            }
            Ok(Standing::Outdated(id)) => self.remove_networks(vec![id], true, false, Some(reply)),
            Err(error) => answer(reply, Err(error)),
        }
    }

    /// How the network of a configuration stands; an error if it is otherwise and stays so.
    fn standing(&self, request: &CreateNetwork) -> Result<Standing> {
        let found = self.world.find_network(&request.name).ok();
        let named = found.and_then(|id| self.world.network(&id));
        let Some(have) = named.filter(|have| have.name == request.name) else {
            return Ok(Standing::Missing);
        };
        // A configuration has no labels to compare.
        let asked = CreateNetwork {
            labels: have.labels.clone(),
            ..request.clone()
        };
        let (key, value) = MADE_BY;
        let is_made_by_one = have.labels.get(key).is_some_and(|label| label == value);
        match self.is_there(&asked) {
            Err(_) if is_made_by_one && self.world.check_removal(&have.id).is_ok() => {
                Ok(Standing::Outdated(have.id.clone()))
            }
            other => other.map(|_| Standing::There),
        }
    }

    /// The attachment with the container's exact id: a name or the beginning of an id is not one.
    fn cni_endpoint(&self, attachment: &Attachment) -> Option<(&Container, &Endpoint)> {
        let id = ContainerId::parse(&attachment.container).ok()?;
        let record = self.world.container(&id)?;
        let endpoint = record
            .endpoints
            .iter()
            .find(|e| e.cni.is_some() && e.ifname.as_str() == attachment.ifname)?;
        Some((record, endpoint))
    }
}

/// How the network of a configuration stands.
enum Standing {
    There,
    Missing,
    /// It differs, a configuration made it, and it has no containers.
    Outdated(NetworkId),
}

/// Whether a container can have one attachment more.
fn further(record: &Container, request: &AddRequest, sandbox: &Sandbox) -> Result<ContainerId> {
    let refuse = |why: String| Err(Error::new(Code::EndpointExists, why));
    let (id, ifname) = (record.id.short(), &request.ifname);
    if record.phase != Phase::Attached {
        return refuse(format!(
            "container {id} is being removed: add it when that is done"
        ));
    }
    if record.endpoints.iter().any(|e| e.ifname == *ifname) {
        return refuse(format!(
            "interface {ifname} of container {id} is attached: DEL it first"
        ));
    }
    if record.netns_identity != sandbox.identity {
        return refuse(format!(
            "container {id} is attached in another network namespace, {}: DEL it first",
            record.netns
        ));
    }
    if !request.attach.publish.is_empty() {
        return Err(Error::new(
            Code::InvalidPublish,
            format!(
                "interface {ifname} is not the first of container {id}: ports are published by the first attachment"
            ),
        ));
    }
    Ok(record.id.clone())
}

fn is_about_macs(op: &Op) -> bool {
    match op {
        Op::Change {
            from: Object::Link(from),
            to: Object::Link(to),
        } => {
            Link {
                mac: to.mac,
                ..from.clone()
            } == *to
                || to.tunable
        }
        _ => false,
    }
}
