//! One function per command: asks the daemon, makes the page.

use hyper::Method;
use netd_model::api;
use serde_json::{Map, Value, json};

use super::OfflinePurge;
use super::args::{Attach, Command, Connect, Dns, Network, NetworkCreate, Node, PurgeOptions};
use super::client::segment;
use super::failure::{Failure, NO_DAEMON, RESOLV_CONF_FAILED};
use super::output::Terminal;
use super::session::{Ops, Page, Session, change, lines, path, warnings};
use super::{request, resolv, table, view};

/// How long `status --wait` waits between two looks.
const WAIT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

impl Session {
    /// Carries a command out.
    pub(super) fn execute(
        &self,
        command: Command,
        terminal: &mut Terminal<'_>,
        offline_purge: OfflinePurge,
    ) -> Result<Page, Failure> {
        match command {
            Command::Network(command) => self.network(command),
            Command::Attach(args) => self.attach(*args),
            Command::Detach { container, change } => {
                self.remove(&["containers", &container], change.dry_run)
            }
            Command::Connect(args) => self.connect(*args),
            Command::Disconnect {
                network,
                container,
                change,
            } => self.remove(
                &["containers", &container, "endpoints", &network],
                change.dry_run,
            ),
            Command::Ps => self.get(&["containers"], |list: &Vec<api::Container>| {
                table::containers(list)
            }),
            Command::Inspect { container } => {
                self.get(&["containers", &container], view::container)
            }
            Command::Node(Node::Ls) => {
                self.get(&["nodes"], |list: &Vec<api::Node>| table::nodes(list))
            }
            Command::Node(Node::Inspect { node }) => self.get(&["nodes", &node], view::node),
            Command::Node(Node::Rm { node, change }) => {
                self.remove(&["nodes", &node], change.dry_run)
            }
            Command::Status { wait: false } => self.get(&["status"], view::status),
            Command::Status { wait: true } => self.wait(terminal),
            Command::Apply { file, change } => self.apply(&file, change.dry_run),
            Command::Plan => self.plan(),
            Command::Doctor => self.doctor(),
            Command::Trace { from, to } => self.trace(&from, &to),
            Command::Events { follow, since } => self.events(terminal, follow, since.as_deref()),
            Command::Dns(Dns::Query {
                name,
                container,
                kind,
            }) => {
                let mut target = format!(
                    "/v1/dns/query?name={}&type={}",
                    segment(&name),
                    segment(&kind)
                );
                if let Some(container) = container {
                    target.push_str("&as=");
                    target.push_str(&segment(&container));
                }
                self.show(&self.ask(Method::GET, &target)?, view::dns)
            }
            Command::Purge { purge, change } => self.purge(&purge, change.dry_run, offline_purge),
            // Needs no daemon: done before there is a session.
            Command::Completion { .. } => Ok(Page::default()),
        }
    }

    fn network(&self, command: Network) -> Result<Page, Failure> {
        match command {
            Network::Create(args) => self.network_create(*args),
            Network::Ls => self.get(&["networks"], |list: &Vec<api::Network>| {
                table::networks(list)
            }),
            Network::Inspect { network } => self.get(&["networks", &network], view::network),
            Network::Rm { networks, change } if change.dry_run => self.network_rm_dry(&networks),
            Network::Rm { networks, .. } => self.network_rm(&networks),
            Network::Prune { change } => self.network_prune(change.dry_run),
            Network::Set {
                network,
                allow_from,
                block_from,
                change: how,
            } => {
                let list = |texts: Vec<String>| match &texts[..] {
                    [] => None,
                    [none] if none == "none" => Some(Vec::new()),
                    _ => Some(texts),
                };
                let body = api::NetworkChange {
                    allow_from: list(allow_from),
                    block_from: list(block_from),
                };
                let target = change(&path(&["networks", &network])?, how.dry_run);
                let body = self.call(Method::PATCH, &target, Some(&body))?;
                if how.dry_run {
                    self.ops(&body)
                } else {
                    self.show(&body, view::network)
                }
            }
            Network::Reserve {
                network,
                container,
                ip,
                ip6,
                mac,
                change,
            } => {
                let body = api::Reservation { ip, ip6, mac };
                self.reserve(&network, &container, &body, change.dry_run)
            }
            Network::Unreserve {
                network,
                container,
                change,
            } => self.remove(
                &["networks", &network, "reservations", &container],
                change.dry_run,
            ),
        }
    }

    fn get<T: serde::de::DeserializeOwned>(
        &self,
        parts: &[&str],
        view: fn(&T) -> String,
    ) -> Result<Page, Failure> {
        self.show(&self.ask(Method::GET, &path(parts)?)?, view)
    }

    fn remove(&self, parts: &[&str], dry_run: bool) -> Result<Page, Failure> {
        let body = self.ask(Method::DELETE, &change(&path(parts)?, dry_run))?;
        if dry_run {
            self.ops(&body)
        } else {
            self.show(&body, |_: &Map<String, Value>| String::new())
        }
    }

    fn network_create(&self, args: NetworkCreate) -> Result<Page, Failure> {
        let dry_run = args.change.dry_run;
        let request = request::network_create(args)?;
        let body = self.call(
            Method::POST,
            &change("/v1/networks", dry_run),
            Some(&request),
        )?;
        if dry_run {
            self.ops(&body)
        } else {
            self.show(&body, view::network)
        }
    }

    fn reserve(
        &self,
        network: &str,
        container: &str,
        body: &api::Reservation,
        dry_run: bool,
    ) -> Result<Page, Failure> {
        let path = path(&["networks", network, "reservations", container])?;
        let body = self.call(Method::PUT, &change(&path, dry_run), Some(body))?;
        if dry_run {
            self.ops(&body)
        } else {
            self.show(&body, view::network)
        }
    }

    fn apply(&self, file: &std::path::Path, dry_run: bool) -> Result<Page, Failure> {
        let declared = crate::declared::read(file)?;
        let body = self.call(Method::POST, &change("/v1/apply", dry_run), Some(&declared))?;
        if dry_run {
            self.ops(&body)
        } else {
            self.show(&body, view::applied)
        }
    }

    fn network_prune(&self, dry_run: bool) -> Result<Page, Failure> {
        let body = self.ask(Method::POST, &change("/v1/networks/prune", dry_run))?;
        if dry_run {
            self.ops(&body)
        } else {
            self.show(&body, |done: &api::Removed| lines(&done.removed))
        }
    }

    /// Removes what can be removed and then reports every failure.
    fn network_rm(&self, networks: &[String]) -> Result<Page, Failure> {
        let mut removed = Vec::new();
        let mut failures = Vec::new();
        for network in networks {
            match path(&["networks", network]).and_then(|path| self.ask(Method::DELETE, &path)) {
                Ok(_) => removed.push(network.clone()),
                // There is nobody to go on with.
                Err(failure) if failure.is_absence() => {
                    return Err(failure.with("removed", removed));
                }
                Err(failure) => failures.push(failure),
            }
        }
        if failures.is_empty() {
            let text = lines(&removed);
            return self.own(&api::Removed { removed }, text);
        }
        Err(all_of(failures, networks.len()).with("removed", removed))
    }

    fn network_rm_dry(&self, networks: &[String]) -> Result<Page, Failure> {
        let mut all = Ops::default();
        for network in networks {
            let body = self.ask(
                Method::DELETE,
                &change(&path(&["networks", network])?, true),
            )?;
            let ops: Ops = self.read(&body)?;
            all.ops.extend(ops.ops);
            all.text.extend(ops.text);
        }
        let text = lines(&all.text);
        self.own(&all, text)
    }

    fn attach(&self, args: Attach) -> Result<Page, Failure> {
        let dry_run = args.change.dry_run;
        let resolv_conf = args.resolv_conf.clone();
        let request = request::attach(args)?;
        let body = self.call(
            Method::POST,
            &change("/v1/containers", dry_run),
            Some(&request),
        )?;
        if dry_run {
            return self.ops(&body);
        }
        if let Some(file) = resolv_conf {
            let container: api::Container = self.read(&body)?;
            let written = resolv::write(&file, &container.dns.resolv_conf());
            written.map_err(|error| unwritten(&container, &file, &error))?;
        }
        self.attached(&body)
    }

    fn connect(&self, args: Connect) -> Result<Page, Failure> {
        let path = path(&["containers", &args.container, "endpoints"])?;
        let dry_run = args.change.dry_run;
        let body = self.call(
            Method::POST,
            &change(&path, dry_run),
            Some(&request::connect(args)?),
        )?;
        if dry_run {
            self.ops(&body)
        } else {
            self.attached(&body)
        }
    }

    /// A container that was changed, and its warnings as notes.
    fn attached(&self, body: &[u8]) -> Result<Page, Failure> {
        let mut container: api::Container = self.read(body)?;
        let notes = warnings(&mut container);
        let page = self.show(body, |_: &api::Container| view::container(&container))?;
        Ok(Page { notes, ..page })
    }

    fn wait(&self, terminal: &mut Terminal<'_>) -> Result<Page, Failure> {
        let mut told = false;
        loop {
            match self.ask(Method::GET, "/v1/status") {
                Ok(body) if self.read::<Ready>(&body)?.ready => {
                    return self.show(&body, view::status);
                }
                Err(failure) if !failure.is_absence() => return Err(failure),
                Ok(_) | Err(_) => {}
            }
            if !std::mem::replace(&mut told, true) {
                terminal.note(&format!(
                    "waiting for netd at {}",
                    self.client.socket().display()
                ));
            }
            std::thread::sleep(WAIT_PAUSE);
        }
    }

    fn plan(&self) -> Result<Page, Failure> {
        let body = self.ask(Method::GET, "/v1/plan")?;
        let plan: PlanText = self.read(&body)?;
        let mut page = self.show(&body, |plan: &PlanText| lines(&plan.text))?;
        if plan.text.is_empty() {
            page.notes.push("healthy: nothing to do".to_owned());
        }
        Ok(page)
    }

    fn doctor(&self) -> Result<Page, Failure> {
        let body = self.ask(Method::GET, "/v1/doctor")?;
        let found: api::Findings = self.read(&body)?;
        let mut page = self.show(&body, view::findings)?;
        if found.findings.is_empty() {
            page.notes.push("healthy: nothing found".to_owned());
        }
        Ok(page)
    }

    fn trace(&self, from: &str, to: &str) -> Result<Page, Failure> {
        let target = format!("/v1/trace?from={}&to={}", segment(from), segment(to));
        self.show(&self.ask(Method::GET, &target)?, view::trace)
    }

    fn purge(
        &self,
        purge: &PurgeOptions,
        dry_run: bool,
        offline_purge: OfflinePurge,
    ) -> Result<Page, Failure> {
        let target = format!("/v1/purge?force={}&dry_run={dry_run}", purge.force);
        match self.ask(Method::POST, &target) {
            Ok(body) if dry_run => self.ops(&body),
            Ok(body) => self.show(&body, view::purged),
            Err(failure) if failure.code == NO_DAEMON && !dry_run => {
                // The only call of the purge without a daemon.
                let purged = offline_purge(purge)?;
                self.own(&purged, view::purged(&purged))
            }
            Err(failure) => Err(failure),
        }
    }
}

/// What `plan` needs of the answer to be shown to people.
#[derive(serde::Deserialize)]
struct PlanText {
    text: Vec<String>,
}

/// What `status --wait` needs of the answer.
#[derive(serde::Deserialize)]
struct Ready {
    ready: bool,
}

/// One failure that tells of all; with the code of the first.
fn all_of(mut failures: Vec<Failure>, of: usize) -> Failure {
    if failures.len() == 1 {
        return failures.remove(0);
    }
    let messages: Vec<&str> = failures
        .iter()
        .map(|failure| failure.message.as_str())
        .collect();
    let message = format!(
        "{} of {of} networks were not removed: {}",
        failures.len(),
        messages.join("; ")
    );
    let code = failures
        .first()
        .map_or(String::new(), |failure| failure.code.clone());
    let errors: Vec<Value> = failures
        .into_iter()
        .map(|failure| json!({"code": failure.code, "message": failure.message, "details": failure.details}))
        .collect();
    Failure::new(&code, message).with("errors", errors)
}

fn unwritten(
    container: &api::Container,
    file: &std::path::Path,
    error: &std::io::Error,
) -> Failure {
    let (name, file) = (&container.name, file.to_string_lossy());
    let remedy =
        format!("repeat the command with a file that can be written, or netctl detach {name}");
    let message =
        format!("container {name} is attached, but {file} was not written: {error}: {remedy}");
    Failure::new(RESOLV_CONF_FAILED, message)
        .with("container_id", container.id.as_str())
        .with("file", file)
}

/// The completion script of a shell.
pub(super) fn completion(shell: clap_complete::Shell, command: &mut clap::Command) -> Page {
    let mut script = Vec::new();
    clap_complete::generate(shell, command, "netctl", &mut script);
    Page {
        text: String::from_utf8_lossy(&script).into_owned(),
        notes: Vec::new(),
    }
}
