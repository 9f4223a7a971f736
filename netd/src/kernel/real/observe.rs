//! Looking at what the kernel holds of netd's.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use netd_model::net::Family;
use netd_model::object::{Address, BridgePort, Route};
use netd_model::observed::Observed;
use netd_model::{ContainerId, IfName, Ns, Object, Owner};
use nix::errno::Errno;

use super::Shared;
use super::inet::{self, AddressView, LOCAL, MAIN, PROTOCOL, RouteView, UNICAST};
use super::link::{self, LinkView};
use super::neighbour;
use super::netlink::Refusal;
use super::ops::{has_ipv6, is_host, read_sysctl};
use super::space::Space;
use super::traffic;
use crate::kernel::KernelError;

/// The wanted objects by namespace.
type Wanted<'a> = BTreeMap<Ns, Vec<&'a Object>>;

/// Observes the host's namespace, which the calling thread is in, and those of all known sandboxes, or `only` of some.
pub(super) fn observe(
    shared: &Shared,
    host: &mut Space,
    wanted: &[Object],
    only: Option<&BTreeSet<ContainerId>>,
) -> Result<Observed, KernelError> {
    let mut by_ns = Wanted::new();
    for object in wanted {
        by_ns.entry(object.ns()).or_default().push(object);
    }
    let mut observed = Observed::default();
    let links = look(shared, host, by_ns.get(&Ns::Host), &mut observed)?;
    for port in shared.ports.all() {
        observed.insert(Object::HostPort(port));
    }
    let mut containers: BTreeSet<ContainerId> = shared
        .sandboxes
        .all()
        .into_iter()
        .map(|(id, _)| id)
        .collect();
    containers.extend(by_ns.keys().filter_map(|ns| match ns {
        Ns::Host => None,
        Ns::Container(id) => Some(id.clone()),
    }));
    for id in containers {
        if only.is_none_or(|only| only.contains(&id)) {
            container(shared, &id, &by_ns, &mut observed);
        } else {
            observed.unseen.insert(id);
        }
    }
    let is_open = |id: &ContainerId| {
        shared.sandboxes.get(id).is_some() || by_ns.contains_key(&Ns::Container(id.clone()))
    };
    for ((ns, id), owners) in closed(&links, is_open) {
        let mut inside = Observed::default();
        match look_from_outside(host, ns, &id, &owners, &mut inside) {
            Ok(()) => observed.objects.extend(inside.objects),
            // The namespace is ending, and the links with it.
            Err(refusal) if refusal.errno() == Errno::EINVAL => {}
            Err(refusal) => {
                let error = refusal.on("look at the other end of its veth pair");
                tracing::warn!(container = id.short(), %error, "the addresses of an orphan are not known");
                observed.unseen.insert(id);
            }
        }
    }
    Ok(observed)
}

/// The namespaces of containers that are on no record, by the number that they have on the host, with the owners of
/// the veth pairs that lead there.
fn closed(
    links: &[LinkView],
    is_open: impl Fn(&ContainerId) -> bool,
) -> BTreeMap<(i32, ContainerId), BTreeSet<Owner>> {
    let mut found: BTreeMap<_, BTreeSet<Owner>> = BTreeMap::new();
    for view in links {
        let id = view.owner.as_ref().and_then(Owner::container);
        if let (Some(ns), Some(id), Some(owner)) = (view.peer_ns, id, &view.owner)
            && !is_open(id)
        {
            let owners = found.entry((ns, id.clone())).or_default();
            owners.insert(owner.clone());
        }
    }
    found
}

/// Links and addresses of a container whose namespace cannot be entered, for nobody knows a path to it.
fn look_from_outside(
    host: &mut Space,
    number: i32,
    id: &ContainerId,
    owners: &BTreeSet<Owner>,
    observed: &mut Observed,
) -> Result<(), Refusal> {
    let ns = Ns::Container(id.clone());
    let mut links = host.route.dump(&link::all_in(number), LinkView::read)?;
    links.retain(|view| {
        view.owner
            .as_ref()
            .is_some_and(|owner| owners.contains(owner))
    });
    let addresses = host
        .route
        .dump(&inet::addresses_in(number), AddressView::read)?;
    look_at_links(&ns, &links, &[], observed);
    look_at_addresses(&ns, &addresses, &Space::ours(&links), observed);
    Ok(())
}

/// One container. It may keep changing its own tables, so a look that fails is no error of the whole: the container
/// is unseen.
fn container(shared: &Shared, id: &ContainerId, wanted: &Wanted<'_>, observed: &mut Observed) {
    let ns = Ns::Container(id.clone());
    let wanted = wanted.get(&ns);
    let mut inside = Observed::default();
    let seen = shared.sandboxes.inside(shared.host(), id, |_| {
        let space = Space::open(ns.clone())
            .map_err(|source| KernelError::new("open a netlink socket", source))?;
        let mut space = shared.adopt(space);
        look(shared, &mut space, wanted, &mut inside)
    });
    match seen.and_then(|seen| seen) {
        // `append` would build the whole map anew for each container.
        Ok(_) => observed.objects.extend(inside.objects),
        Err(error) => {
            tracing::warn!(container = id.short(), %error, "cannot look into the container's network namespace");
            observed.unseen.insert(id.clone());
        }
    }
    if let Some(owner) = dns_owner(shared, id, wanted) {
        observed.insert(Object::DnsSocket(owner));
    }
}

/// The owner of a container's DNS sockets, if they are served.
fn dns_owner(shared: &Shared, id: &ContainerId, wanted: Option<&Vec<&Object>>) -> Option<Owner> {
    if !shared.dns.is_listening(id) {
        return None;
    }
    let wanted = wanted
        .into_iter()
        .flatten()
        .find_map(|object| match object {
            Object::DnsSocket(owner) => Some(owner.clone()),
            _ => None,
        });
    Some(wanted.unwrap_or_else(|| Owner::Container(id.clone())))
}

/// One namespace: the sockets of `space` are in it, and so is the calling thread.
fn look(
    shared: &Shared,
    space: &mut Space,
    wanted: Option<&Vec<&Object>>,
    observed: &mut Observed,
) -> Result<Vec<LinkView>, KernelError> {
    let failed = |refusal: Refusal, what: &str| refusal.on(format_args!("list {what}"));
    let links = space
        .route
        .dump(&link::all(), LinkView::read)
        .map_err(|r| failed(r, "links"))?;
    if is_host(&space.ns) {
        shared.groups.seen(&links);
    }
    let wanted = wanted.map(Vec::as_slice).unwrap_or_default();
    look_at_links(&space.ns, &links, wanted, observed);
    let ours = Space::ours(&links);
    let addresses = space
        .route
        .dump(&inet::addresses(), AddressView::read)
        .map_err(|r| failed(r, "addresses"))?;
    look_at_addresses(&space.ns, &addresses, &ours, observed);
    look_at_routes(space, &ours, observed).map_err(|r| failed(r, "routes"))?;
    if is_host(&space.ns) {
        traffic::look(space, &ours, wanted, observed).map_err(|r| failed(r, "limits of rates"))?;
        neighbour::look(space, &links, &ours, observed).map_err(|r| failed(r, "stations"))?;
    }
    look_at_settings(&links, wanted, observed).map_err(|r| r.on("read kernel settings"))?;
    let ns = space.ns.clone();
    for object in space.nft()?.observe(&ns)? {
        observed.insert(object);
    }
    Ok(links)
}

fn look_at_links(ns: &Ns, links: &[LinkView], wanted: &[&Object], observed: &mut Observed) {
    let names: HashMap<u32, IfName> = links
        .iter()
        .filter_map(|view| Some((view.index, IfName::parse(&view.name).ok()?)))
        .collect();
    let ports: BTreeSet<&IfName> = wanted
        .iter()
        .filter_map(|object| match object {
            Object::BridgePort(port) => Some(&port.ifname),
            _ => None,
        })
        .collect();
    for view in links {
        let master = view.master.and_then(|index| names.get(&index).cloned());
        let Some(link) = view.object(ns, master) else {
            continue;
        };
        if let Some(hairpin) = view.hairpin
            && is_host(ns)
            && (hairpin || view.has_port_flags() || ports.contains(&link.name))
        {
            let port = BridgePort {
                ifname: link.name.clone(),
                hairpin,
                isolated: view.isolated,
                learning: view.learning,
                flood: view.flood,
                suppress: view.suppress,
                owner: link.owner.clone(),
            };
            observed.insert(Object::BridgePort(port));
        }
        observed.insert(Object::Link(link));
    }
}

fn look_at_addresses(
    ns: &Ns,
    addresses: &[AddressView],
    ours: &HashMap<u32, (IfName, Owner)>,
    observed: &mut Observed,
) {
    for view in addresses {
        if let Some((ifname, owner)) = ours.get(&view.index)
            && view.protocol == PROTOCOL
        {
            observed.insert(Object::Address(Address {
                ns: ns.clone(),
                ifname: ifname.clone(),
                ip: view.ip,
                prefix_len: view.prefix_len,
                owner: owner.clone(),
            }));
        }
    }
}

fn look_at_routes(
    space: &mut Space,
    ours: &HashMap<u32, (IfName, Owner)>,
    observed: &mut Observed,
) -> Result<(), Refusal> {
    let mut routes = space
        .route
        .dump(&inet::routes(Family::V4, PROTOCOL), RouteView::read)?;
    if has_ipv6() {
        routes.extend(
            space
                .route
                .dump(&inet::routes(Family::V6, PROTOCOL), RouteView::read)?,
        );
    }
    for view in routes.iter().filter(|view| view.protocol == PROTOCOL) {
        let Some((dev, owner)) = view.oif.and_then(|index| ours.get(&index)) else {
            continue;
        };
        let local = view.kind == LOCAL;
        if !local && (view.kind != UNICAST || view.table != MAIN) {
            continue;
        }
        observed.insert(Object::Route(Route {
            ns: space.ns.clone(),
            dst: view.dst,
            via: view.via,
            dev: dev.clone(),
            local,
            metric: view.metric,
            src: view.src,
            owner: owner.clone(),
        }));
    }
    Ok(())
}

/// What bears no mark: only what is wanted is looked at.
fn look_at_settings(
    links: &[LinkView],
    wanted: &[&Object],
    observed: &mut Observed,
) -> Result<(), Refusal> {
    let lo_is_up = links.iter().any(|view| view.name == "lo" && view.up);
    for object in wanted {
        match object {
            Object::Sysctl(sysctl) => {
                if let Some(value) = read_sysctl(&sysctl.path)? {
                    let have = netd_model::object::Sysctl {
                        value,
                        ..sysctl.clone()
                    };
                    observed.insert(Object::Sysctl(have));
                }
            }
            Object::Loopback(_) if lo_is_up => observed.insert((*object).clone()),
            _ => {}
        }
    }
    Ok(())
}
