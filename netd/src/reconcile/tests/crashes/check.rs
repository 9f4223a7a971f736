//! What must be true after a crash or a failure, whatever it was. A violation is a line of text.

use std::collections::BTreeSet;

use super::super::*;
use super::kinds::{Kind, attach_request};
use super::machine::{Daemon, Machine, Told};
use crate::kernel::fake::is_of_process;

/// What a user sees of a daemon, a line for each network and container; without ids drawn by chance.
pub(super) type Seen = BTreeSet<String>;

pub(super) fn seen(lab: &Lab) -> Seen {
    let snapshot = lab.handle.snapshot();
    let mut lines = Seen::new();
    for network in snapshot.networks() {
        let subnets = network.subnets.iter().map(|s| s.subnet.clone());
        // An automatic subnet of IPv6 is of a random prefix.
        let subnets: Vec<_> = subnets.filter(|s| !s.starts_with("fd")).collect();
        lines.insert(format!(
            "network {} {subnets:?} {} {}",
            network.name, network.ipv6, network.internal
        ));
    }
    for container in snapshot.containers() {
        let endpoints = container.endpoints.iter();
        let endpoints: Vec<_> = endpoints
            .map(|e| format!("{} {:?} {} {}", e.network, e.ipv4, e.mac, e.ifname))
            .collect();
        let ports = container.ports.len();
        lines.insert(format!(
            "container {} {endpoints:?} {ports} ports",
            container.name
        ));
    }
    lines
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
        let removal = matches!(
            self.kind,
            Kind::Detach
                | Kind::DetachLast
                | Kind::Remove
                | Kind::Prune
                | Kind::Disconnect
                | Kind::DisconnectPredefined
                | Kind::Purge
        );
        // A prune is a removal of each network by itself.
        let some =
            self.kind == Kind::Prune && now.is_subset(&self.before) && now.is_superset(&self.after);
        let fine = match told {
            Told::Done => *now == self.after,
            Told::Refused(_) => *now == self.before || removal && (*now == self.after || some),
            Told::Nothing => *now == self.before || *now == self.after || some,
        };
        let text = || {
            format!(
                "told {told:?}\n  before {:#?}\n  after {:#?}\n  now {now:#?}",
                self.before, self.after
            )
        };
        if fine { Ok(()) } else { Err(text()) }
    }

    /// Everything, on a machine whose daemon is alive and well again; takes it apart.
    pub(super) async fn check(
        &self,
        machine: &Machine,
        daemon: Daemon,
        told: &Told,
    ) -> Result<(), String> {
        let now = seen(&daemon.lab);
        self.judge(told, &now)?;
        whole(&daemon).await?;
        daemon.end().await;
        let daemon = machine.boot_well().await;
        whole(&daemon)
            .await
            .map_err(|why| format!("after one more start: {why}"))?;
        let again = seen(&daemon.lab);
        same("one more start changes what is there", &now, &again)?;
        self.repeat(&daemon, &now).await?;
        empty(machine, &daemon).await
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
    let recorded = lab.store.load().unwrap();
    let ids: Vec<String> = recorded
        .containers
        .iter()
        .map(|c| c.id.to_string())
        .collect();
    let half = recorded
        .containers
        .iter()
        .filter(|c| c.phase != netd_model::record::Phase::Attached);
    none(
        "records are half done",
        &half
            .map(|c| format!("{} {:?}", c.name, c.phase))
            .collect::<Vec<_>>(),
    )?;
    let shown = lab.handle.snapshot().containers().into_iter().map(|c| c.id);
    same("records and list differ", &ids, &shown.collect())?;
    let held = lab.kernel.held_sandboxes();
    let held: Vec<String> = held.iter().map(ToString::to_string).collect();
    same("records and open namespaces differ", &ids, &held)?;
    let mut networks: Vec<String> = recorded
        .networks
        .iter()
        .map(|n| n.name.to_string())
        .collect();
    networks.sort();
    let shown = lab.handle.snapshot().networks().into_iter().map(|n| n.name);
    same(
        "records and list of networks differ",
        &networks,
        &shown.collect(),
    )?;
    for name in ["a", "b", "c", "d", "e"] {
        let known = lab.zone.read().asker(&format!("id-of-{name}")).is_some();
        let there = ids.contains(&format!("id-of-{name}"));
        same(
            &format!("{name} is in the DNS, but not there, or the other way round"),
            &there,
            &known,
        )?;
    }
    settings(lab)
}

/// What was changed on the host is on record.
fn settings(lab: &Lab) -> Result<(), String> {
    let changes = lab.store.load().unwrap().host.changes;
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
            || matches!(o, Object::Element(e) if e.key.set == "forwarding")
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

/// What the kernel holds of ours; settings only where they are not as they were.
fn left(machine: &Machine, stays: impl Fn(&Object) -> bool) -> Vec<String> {
    let held = machine.fake.held();
    let left = held.objects.values().filter(|object| match object {
        Object::Sysctl(s) => {
            s.ifname.is_some() || (s.value != unchanged(&s.path) && !stays(object) && !is_shared(s))
        }
        Object::Loopback(_) => false,
        object => is_of_process(object) || !stays(object),
    });
    left.map(ToString::to_string).collect()
}

/// Settings of the host stay until the purge.
fn is_shared(_: &netd_model::object::Sysctl) -> bool {
    true
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
