//! What must be true after a crash or a failure, whatever it was. A violation is a line of text.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netd_model::access::Access;
use netd_model::id::Name;
use netd_model::net::Family;
use netd_model::record::{Container, Endpoint, Network, Phase, Reservation};

use super::super::*;
use super::kinds::{Kind, attach_request};
use super::machine::{Daemon, Machine, Told};

/// What a user sees of a daemon, a line for each network and container; without ids drawn by chance.
pub(super) type Seen = BTreeSet<String>;

pub(super) fn seen(lab: &Lab) -> Seen {
    let snapshot = lab.handle.snapshot();
    let network = |net: api::Network| {
        let subnets = net.subnets.into_iter().map(|s| s.subnet);
        let kept = net.reservations.iter();
        let kept: Vec<_> = kept
            .map(|(name, kept)| format!("{name} {:?}", kept.ip))
            .collect();
        network_line(&net.name, subnets, net.ipv6, net.internal) + &rules(&net.access, &kept)
    };
    let container = |container: api::Container| {
        let endpoints = container.endpoints.iter();
        let endpoints =
            endpoints.map(|e| format!("{} {:?} {} {}", e.network, e.ipv4, e.mac, e.ifname));
        container_line(&container.name, endpoints, container.ports.len())
    };
    let networks = snapshot.networks().into_iter().map(network);
    networks
        .chain(snapshot.containers().into_iter().map(container))
        .collect()
}

fn network_line(
    name: &str,
    subnets: impl Iterator<Item = String>,
    ipv6: bool,
    internal: bool,
) -> String {
    // An automatic subnet of IPv6 is of a random prefix.
    let subnets: Vec<_> = subnets.filter(|s| !s.starts_with("fd")).collect();
    format!("network {name} {subnets:?} {ipv6} {internal}")
}

/// Who may open flows to a network, and what is kept there for whom.
fn rules(access: &Access, kept: &[String]) -> String {
    format!(" {access:?} {kept:?}")
}

fn container_line(name: &str, endpoints: impl Iterator<Item = String>, ports: usize) -> String {
    let endpoints = endpoints.collect::<Vec<_>>().join(", ");
    format!("container {name} [{endpoints}] {ports} ports")
}

/// Names only: an address that was given back rests for a while.
fn names(seen: &Seen) -> BTreeSet<Vec<&str>> {
    seen.iter()
        .map(|line| line.split(' ').take(2).collect())
        .collect()
}

/// What is right after a request of this kind.
#[derive(Debug)]
pub(super) struct Right {
    pub(super) kind: Kind,
    pub(super) before: Seen,
    pub(super) after: Seen,
}

impl Right {
    /// Told success: it is there. Told an error: nothing happened, or a removal is finished all the same. Told nothing:
    /// wholly there or wholly gone.
    fn judge(&self, told: &Told, now: &Seen) -> Result<(), String> {
        let removal = self.kind.is_removal();
        // The predefined network always exists, but between a purge and the next request.
        let other = |seen: &Seen| -> Seen {
            let purged = self.kind == Kind::AttachAfterPurge;
            let lines = seen
                .iter()
                .filter(|l| !purged || !l.starts_with("network bridge "));
            lines.cloned().collect()
        };
        let (now, before, after) = (&other(now), &other(&self.before), &other(&self.after));
        // A prune is a removal of each network by itself.
        let some =
            self.kind == Kind::Prune && now.is_subset(&self.before) && now.is_superset(&self.after);
        let fine = match told {
            Told::Done => now == after,
            Told::Refused(_) => now == before || removal && (now == after || some),
            Told::Nothing => now == before || now == after || some,
        };
        let text =
            || format!("told {told:?}\n  before {before:#?}\n  after {after:#?}\n  now {now:#?}");
        if fine { Ok(()) } else { Err(text()) }
    }

    /// Everything, on a machine whose daemon is alive and well again; takes it apart.
    pub(super) async fn check(
        &self,
        machine: &Machine,
        daemon: &Daemon,
        told: &Told,
    ) -> Result<(), String> {
        let now = seen(&daemon.lab);
        self.judge(told, &now)?;
        whole(daemon).await?;
        self.repeat(daemon, &now).await?;
        empty(machine, daemon).await
    }

    /// The same request again does what it would have done.
    async fn repeat(&self, daemon: &Daemon, now: &Seen) -> Result<(), String> {
        if self.kind.is_start() {
            return Ok(());
        }
        let told = daemon.ask(self.kind.request(&daemon.lab)).await;
        daemon.settle().await;
        if *now == self.before && !matches!(told, Told::Done) {
            return Err(format!("the request cannot be repeated: {told:?}"));
        }
        let then = seen(&daemon.lab);
        if names(&then) != names(&self.after) {
            return Err(format!("the request repeated: {told:?}, but now {then:#?}"));
        }
        whole(daemon)
            .await
            .map_err(|why| format!("after the repeated request: {why}"))
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, before: &T, after: &T) -> Result<(), String> {
    if before == after {
        return Ok(());
    }
    Err(format!("{what}:\n  {before:#?}\n  {after:#?}"))
}

fn none(what: &str, left: &[String]) -> Result<(), String> {
    same(what, &Vec::new().as_slice(), &left)
}

/// Records, kernel, names and what the daemon holds agree.
async fn whole(daemon: &Daemon) -> Result<(), String> {
    let lab = &daemon.lab;
    let plan = lab.handle.ask(Request::Plan, false).await;
    let Ok(Answer::Plan(plan)) = plan else {
        return Err(format!("no plan: {plan:?}"));
    };
    none("the plan is not empty", &plan.text)?;
    let recorded = recorded(lab);
    same("list and records differ", &seen(lab), &recorded)?;
    let loaded = lab.store.load().unwrap();
    let ids: Vec<String> = loaded.containers.iter().map(|c| c.id.to_string()).collect();
    let half = loaded
        .containers
        .iter()
        .filter(|c| c.phase != Phase::Attached);
    let half: Vec<_> = half.map(|c| format!("{} {:?}", c.name, c.phase)).collect();
    none("records are half done", &half)?;
    let held = lab.kernel.held_sandboxes();
    let held: Vec<String> = held.iter().map(ToString::to_string).collect();
    same("records and open namespaces differ", &ids, &held)?;
    for name in ["a", "b", "c", "d", "e"] {
        let id = format!("id-of-{name}");
        let known = lab.zone.read().asker(&id).is_some();
        same(
            &format!("records and DNS differ on {name}"),
            &ids.contains(&id),
            &known,
        )?;
    }
    settings(lab)
}

/// What a next daemon would see, by the records.
fn recorded(lab: &Lab) -> Seen {
    let loaded = lab.store.load().unwrap();
    let networks = &loaded.networks;
    let network = |net: &Network| {
        let subnets = net.subnets.iter().map(|s| s.subnet.to_string());
        let ipv6 = net.has(Family::V6);
        let kept = net.reservations.iter();
        let v4 = |kept: &Reservation| {
            kept.ips
                .iter()
                .find(|ip| ip.is_ipv4())
                .map(IpAddr::to_string)
        };
        let kept: Vec<_> = kept
            .map(|(name, kept)| format!("{name} {:?}", v4(kept)))
            .collect();
        network_line(net.name.as_str(), subnets, ipv6, net.internal) + &rules(&net.access, &kept)
    };
    let container = |record: &Container| {
        let endpoint = |e: &Endpoint| {
            let net = networks.iter().find(|net| net.id == e.network);
            let cidr = |ip| {
                let len = net.and_then(|net| net.container_len(ip));
                format!("{ip}/{}", len.unwrap_or(0))
            };
            let ip = e.ip(Family::V4).map(cidr);
            let name = net.map_or("?", |net| net.name.as_str());
            format!("{name} {ip:?} {} {}", e.mac, e.ifname)
        };
        let endpoints = record.endpoints.iter().map(endpoint);
        container_line(record.name.as_str(), endpoints, record.ports.len())
    };
    let containers = loaded.containers.iter().map(container);
    networks.iter().map(network).chain(containers).collect()
}

/// What was changed on the host is on record.
fn settings(lab: &Lab) -> Result<(), String> {
    let changes = lab.store.load().unwrap().host.changes;
    same(
        "changes shown and on record differ",
        &lab.handle.snapshot().host_changes,
        &changes,
    )?;
    let held = lab.kernel.held();
    let host = held.objects.values().filter_map(|object| match object {
        Object::Sysctl(s) if s.ifname.is_none() && s.value != unchanged(&s.path) => {
            Some(s.path.clone())
        }
        _ => None,
    });
    let forgotten = host.filter(|path| changes.iter().all(|change| change.sysctl != *path));
    none(
        "changes of the host are on no record",
        &forgotten.collect::<Vec<_>>(),
    )
}

fn unchanged(path: &str) -> &'static str {
    if path.ends_with("accept_ra") {
        "1"
    } else {
        "0"
    }
}

/// Takes everything away: nothing is left, and every address is free again.
async fn empty(machine: &Machine, daemon: &Daemon) -> Result<(), String> {
    let lab = &daemon.lab;
    for container in lab.handle.snapshot().containers() {
        told(
            lab.detach(&container.name).await,
            &format!("detach {}", container.name),
        )?;
    }
    for network in lab.handle.snapshot().networks() {
        for name in network.reservations.keys() {
            let request = Request::Reserve {
                network: network.name.clone(),
                container: Name::parse(name).unwrap(),
                reservation: None,
            };
            told(lab.handle.ask(request, false).await, "end of a reservation")?;
        }
        if network.subnets[0].subnet.ends_with("/29") {
            fill(lab, &network.name).await?;
        }
        if network.name != "bridge" {
            let request = Request::RemoveNetwork(network.name.clone());
            told(
                lab.handle.ask(request, false).await,
                &format!("rm {}", network.name),
            )?;
        }
    }
    daemon.settle().await;
    let of_host = |o: &Object| {
        matches!(o, Object::Ruleset(r) if r.table.ns == Ns::Host)
            || matches!(o, Object::Element(e) if e.owner == Owner::Host)
    };
    none("left when all is removed", &left(machine, of_host))?;
    whole(daemon).await?;
    told(
        lab.handle.ask(Request::Purge { force: true }, false).await,
        "purge",
    )?;
    none("left by the purge", &left(machine, |_| false))?;
    let host = lab.store.load().unwrap().host;
    same(
        "changes on record after the purge",
        &Vec::new(),
        &host.changes,
    )
}

fn told<T>(answer: Result<T, Error>, what: &str) -> Result<T, String> {
    answer.map_err(|error| format!("{what}: {error}"))
}

/// What the kernel holds of ours, but for settings of the host, which [`settings`] looks at, and for `lo`, which stays
/// up.
fn left(machine: &Machine, stays: impl Fn(&Object) -> bool) -> Vec<String> {
    let held = machine.fake.held();
    let left = held.objects.values().filter(|object| match object {
        Object::Sysctl(s) => s.ifname.is_some(),
        Object::Loopback(_) => false,
        object => !stays(object),
    });
    left.map(ToString::to_string).collect()
}

/// Five containers fill a /29, and a sixth finds no room: no address is lost.
async fn fill(lab: &Lab, network: &str) -> Result<(), String> {
    for n in 0..5 {
        let request = attach_request(lab, &format!("fill{n}"), &[network], &[]);
        told(
            lab.handle.ask(request, false).await,
            &format!("an address of {network} is lost"),
        )?;
    }
    let request = attach_request(lab, "fill5", &[network], &[]);
    let sixth = lab.handle.ask(request, false).await;
    let code = sixth.err().map(|error| error.code);
    same("a /29 is full", &Some(Code::PoolExhausted), &code)?;
    for n in 0..5 {
        let name = format!("fill{n}");
        told(lab.detach(&name).await, &name)?;
    }
    Ok(())
}
