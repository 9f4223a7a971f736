//! A host with netd on it: a namespace, the real daemon in a process of its own, and netctl.
//!
//! Owns the leak check: [`Host::done`] says that nothing of netd's is left but its constant ruleset.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use netd_model::Object;
use serde_json::Value;

use crate::lab::{self, LinkInfo, Netns, PATIENCE, Process, Signal};

/// The programs that a test binary can be: pass it to `lab::dispatch`.
pub const PROGRAMS: &[(&str, lab::Program)] = &[("__netd", netd), ("__netctl", netctl)];

fn netd(args: &[String]) -> i32 {
    exit_code(netd::daemon::main(with_name("netd", args)))
}

fn netctl(args: &[String]) -> i32 {
    exit_code(netd::cli::main(
        with_name("netctl", args),
        netd::daemon::purge_offline,
    ))
}

fn with_name(name: &str, args: &[String]) -> impl Iterator<Item = std::ffi::OsString> {
    let name = std::iter::once(name.to_owned());
    name.chain(args.iter().cloned()).map(Into::into)
}

/// `ExitCode` cannot be read, but it can be compared.
pub(crate) fn exit_code(code: std::process::ExitCode) -> i32 {
    (0..=255u8)
        .find(|n| format!("{:?}", std::process::ExitCode::from(*n)) == format!("{code:?}"))
        .map_or(1, i32::from)
}

/// A host.
#[derive(Debug)]
pub struct Host {
    /// Its namespace.
    pub netns: Netns,
    dir: PathBuf,
    daemon: Option<Process>,
    links: BTreeSet<String>,
    args: Vec<String>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Output {
    /// The exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// The document on standard output.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {:?} {:?}", self.stdout, self.stderr))
    }

    /// The code of the error.
    pub fn error_code(&self) -> String {
        assert_ne!(self.code, 0, "{self:?}");
        self.json()["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

impl Host {
    /// A host with a running daemon.
    pub fn start(name: &str) -> Self {
        Self::on(Netns::host(name))
    }

    /// The same in a namespace that was prepared.
    pub fn on(netns: Netns) -> Self {
        Self::with_resolvers(netns, "")
    }

    /// A host whose daemon is not started yet.
    pub fn prepare(netns: Netns) -> Self {
        let dir = lab::scratch(netns.name());
        let links = netns.links().into_iter().map(|link| link.name).collect();
        Self {
            netns,
            dir,
            daemon: None,
            links,
            args: Vec::new(),
        }
    }

    /// Starts the daemon and waits until it is ready.
    pub fn start_daemon(&mut self) {
        let command = self.netns.self_command("__netd", &self.daemon_args());
        self.launch(command);
    }

    /// Starts the daemon and does not wait for it.
    pub fn spawn_daemon(&mut self) {
        let command = self.netns.self_command("__netd", &self.daemon_args());
        self.spawn(command);
    }

    /// The same as another program of the test binary, which becomes the daemon after it has prepared something. Its
    /// own arguments come before the daemon's.
    pub fn start_daemon_as(&mut self, program: &str, own: &[&str]) {
        self.launch(self.daemon_command(program, own));
    }

    /// The command of the daemon, to add to.
    pub fn daemon_command(&self, program: &str, own: &[&str]) -> std::process::Command {
        let args = own
            .iter()
            .map(ToString::to_string)
            .chain(self.daemon_args());
        self.netns.self_command(program, &args.collect::<Vec<_>>())
    }

    /// Starts a command as the daemon and waits until it is ready.
    pub fn launch(&mut self, command: std::process::Command) {
        self.spawn(command);
        let code = self.netctl(&["status", "--wait"]).code;
        assert_eq!(code, 0, "netd is not ready: {}", self.log());
    }

    fn spawn(&mut self, command: std::process::Command) {
        self.daemon = Some(
            self.netns
                .start(&format!("netd on {}", self.netns.name()), command),
        );
    }

    /// Adds arguments for the daemons that are started from now on.
    pub fn add_args(&mut self, args: &[&str]) {
        self.args.extend(args.iter().map(ToString::to_string));
    }

    /// Forgets the arguments that were added.
    pub fn clear_args(&mut self) {
        self.args.clear();
    }

    fn daemon_args(&self) -> Vec<String> {
        let dir = |name: &str| self.dir.join(name).to_string_lossy().into_owned();
        let own = [
            "--run-dir".to_owned(),
            dir("run"),
            "--state-dir".to_owned(),
            dir("state"),
            "--resolv-conf".to_owned(),
            dir("resolv.conf"),
            "--networks-dir".to_owned(),
            dir("networks.d"),
        ];
        own.into_iter().chain(self.args.iter().cloned()).collect()
    }

    /// What the daemon logged so far.
    pub fn log(&self) -> String {
        self.daemon
            .as_ref()
            .map_or_else(String::new, Process::stderr)
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("the daemon runs").pid()
    }

    /// Ends the daemon in order.
    pub fn stop_daemon(&mut self) {
        let status = self.daemon.take().expect("the daemon runs").stop();
        assert!(status.success(), "{status}");
    }

    /// Sends the daemon a signal.
    pub fn signal_daemon(&mut self, signal: Signal) {
        self.daemon
            .as_mut()
            .expect("the daemon runs")
            .signal(signal);
    }

    /// Waits until the daemon has ended, which is how: by itself, or because it was told to.
    pub fn daemon_ended(&mut self) -> std::process::ExitStatus {
        self.daemon
            .take()
            .expect("the daemon runs")
            .wait(lab::PATIENCE)
    }

    /// kill -9.
    pub fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("the daemon runs");
        daemon.signal(Signal::SIGKILL);
        daemon.wait(lab::PATIENCE);
    }

    /// The API's socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/netd.sock")
    }

    /// Directory of this host's files: `run`, `state`, `resolv.conf`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Names the host's resolvers. The daemon reads them at its start.
    pub fn set_resolvers(&self, text: &str) {
        std::fs::write(self.dir.join("resolv.conf"), text).unwrap();
    }

    /// Runs netctl on this host, whatever comes of it. Output is JSON.
    pub fn netctl(&self, args: &[&str]) -> Output {
        let mut words = vec!["-o", "json"];
        words.extend(args);
        self.netctl_raw(&words)
    }

    /// The same without `-o json`.
    pub fn netctl_raw(&self, args: &[&str]) -> Output {
        let mut command = self.netns.self_command("__netctl", args);
        command.env("NETD_SOCKET", self.socket());
        let mut process = self.netns.start("netctl", command);
        let status = process.wait(lab::PATIENCE * 2);
        Output {
            code: status.code().unwrap_or(-1),
            stdout: process.stdout(),
            stderr: process.stderr(),
        }
    }

    /// Runs netctl, which has to succeed; the answer is its document.
    pub fn ok(&self, args: &[&str]) -> Value {
        let output = self.netctl(args);
        assert_eq!(
            output.code,
            0,
            "netctl {args:?}: {output:?}\n{}",
            self.log()
        );
        output.json()
    }

    /// Attaches a namespace under its own name.
    pub fn attach(&self, container: &Netns, args: &[&str]) -> Value {
        self.ok(&Self::attach_words(container, args))
    }

    /// An attach of a namespace under its own name that is refused: the error's code.
    #[track_caller]
    pub fn refuses_attach(&self, container: &Netns, args: &[&str]) -> String {
        self.refused(&Self::attach_words(container, args))
    }

    /// What netctl is told to attach a namespace under its own name.
    pub fn attach_words<'a>(container: &'a Netns, args: &[&'a str]) -> Vec<&'a str> {
        let path = container.path().to_str().expect("a path of this program's");
        [&["attach", path, "--name", container.name()], args].concat()
    }

    /// The repairs the next audit would make; empty is healthy.
    pub fn plan(&self) -> Vec<String> {
        let plan = self.ok(&["plan"]);
        let lines = plan["text"].as_array().expect("a plan has text");
        lines
            .iter()
            .map(|line| line.as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// The daemon finds nothing to repair.
    pub fn assert_healthy(&self) {
        assert_eq!(self.plan(), Vec::<String>::new(), "\n{}", self.log());
    }

    /// Links that came since the start.
    pub fn new_links(&self) -> Vec<LinkInfo> {
        self.netns
            .links()
            .into_iter()
            .filter(|link| !self.links.contains(&link.name))
            .collect()
    }

    /// After detach and rm: no link, no element, no socket and no record of netd's is left, without `purge`.
    pub fn assert_clean(&self) {
        self.assert_healthy();
        assert_eq!(self.new_links(), Vec::new());
        let left: Vec<String> = self
            .nft_objects()
            .iter()
            .filter(|object| !matches!(object, Object::Ruleset(_)))
            .filter(|object| *object.owner() != netd_model::Owner::Host)
            .map(ToString::to_string)
            .collect();
        assert_eq!(left, Vec::<String>::new());
        // A question to an upstream that is dead waits until its time is over.
        lab::wait_for("netd's sockets are closed", PATIENCE, || {
            self.held_by_daemon().is_empty()
        });
        let records = std::fs::read_dir(self.dir.join("run/containers")).unwrap();
        let files: Vec<_> = records
            .filter_map(Result::ok)
            .filter(|entry| entry.path().extension().is_some_and(|e| e == "json"))
            .map(|entry| entry.path())
            .collect();
        assert_eq!(files, Vec::<PathBuf>::new());
    }

    /// What the daemon still holds: sockets of this host's addresses, namespaces of others.
    fn held_by_daemon(&self) -> Vec<String> {
        let own = format!("net:[{}]", self.netns.inode());
        let fds = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the daemon runs");
        let links = fds
            .flatten()
            .filter_map(|fd| std::fs::read_link(fd.path()).ok());
        let held: BTreeSet<String> = links
            .map(|link| link.to_string_lossy().into_owned())
            .collect();
        let mut left: Vec<String> = held
            .iter()
            .filter(|link| link.starts_with("net:[") && **link != own)
            .cloned()
            .collect();
        for table in ["tcp", "tcp6", "udp", "udp6"] {
            let path = format!("/proc/thread-self/net/{table}");
            // A kernel with ipv6.disable=1 has no tcp6.
            let text = self.netns.run(|| std::fs::read_to_string(path));
            let sockets = text.unwrap_or_default();
            // Its connection to etcd stays for as long as it runs.
            let to_etcd = |line: &&str| {
                let to = line.split_whitespace().nth(2);
                to.is_some_and(|to| to.ends_with(&format!(":{:04X}", 2379)))
            };
            let lines = sockets.lines().skip(1).filter(|line| !to_etcd(line));
            let of_daemon = lines.filter(|line| {
                let inode = line.split_whitespace().nth(9);
                inode.is_some_and(|inode| held.contains(&format!("socket:[{inode}]")))
            });
            left.extend(of_daemon.map(|line| format!("{table} {}", line.trim())));
        }
        left
    }

    /// Detaches every container, removes every network, and checks that nothing is left.
    pub fn done(&self) {
        for container in self.ok(&["ps"]).as_array().expect("ps is a list") {
            self.ok(&["detach", container["id"].as_str().unwrap_or_default()]);
        }
        for network in self
            .ok(&["network", "ls"])
            .as_array()
            .expect("ls is a list")
        {
            let name = network["name"].as_str().unwrap_or_default();
            if name != "bridge" {
                self.ok(&["network", "rm", name]);
            }
        }
        self.assert_clean();
    }
}

/// An answer of the API.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The document.
    pub body: Value,
}

/// Requests by hand, and looks at everything that a request can change.
impl Host {
    /// A host whose daemon starts with these resolvers.
    pub fn with_resolvers(netns: Netns, text: &str) -> Self {
        let mut host = Self::prepare(netns);
        host.set_resolvers(text);
        host.start_daemon();
        host
    }

    /// Tries to start a daemon, which has to give up by itself; what it said is in the output.
    pub fn start_refused(&self) -> Output {
        self.start_refused_as("__netd", &[])
    }

    /// The same as another program, see [`Host::start_daemon_as`].
    pub fn start_refused_as(&self, program: &str, own: &[&str]) -> Output {
        let command = self.daemon_command(program, own);
        let mut process = self.netns.start("refused netd", command);
        let status = process.wait(lab::PATIENCE);
        Output {
            code: status.code().unwrap_or(-1),
            stdout: process.stdout(),
            stderr: process.stderr(),
        }
    }

    /// Runs netctl, which has to fail with exit code 1: one line on standard error, one document on standard output.
    /// The answer is the error's code.
    #[track_caller]
    pub fn refused(&self, args: &[&str]) -> String {
        let output = self.netctl(args);
        assert_eq!(output.code, 1, "netctl {args:?}: {output:?}");
        assert_eq!(
            output.stderr.trim_end().lines().count(),
            1,
            "netctl {args:?}: {output:?}"
        );
        let code = output.error_code();
        let message = output.json()["error"]["message"].clone();
        let message = message.as_str().unwrap_or_default();
        assert!(
            !message.is_empty() && !message.contains('\n') && message.len() < 1000,
            "netctl {args:?}: {message:?}"
        );
        code
    }

    /// Sends bytes to the API's socket and reads the answer.
    #[track_caller]
    pub fn http(&self, request: &[u8]) -> Answer {
        self.try_http(request).unwrap_or_else(|why| panic!("{why}"))
    }

    /// The same with a daemon that may die meanwhile: without an answer of HTTP, why.
    pub fn try_http(&self, request: &[u8]) -> Result<Answer, String> {
        exchange(&self.socket(), request)
    }

    /// A request to the API.
    #[track_caller]
    pub fn api(&self, method: &str, target: &str, body: &str) -> Answer {
        self.try_api(method, target, body)
            .unwrap_or_else(|why| panic!("{why}"))
    }

    /// The same with a daemon that may die meanwhile.
    pub fn try_api(&self, method: &str, target: &str, body: &str) -> Result<Answer, String> {
        request(&self.socket(), method, target, body)
    }

    /// The page of metrics.
    #[track_caller]
    pub fn metrics(&self) -> String {
        use std::io::{Read as _, Write as _};
        let mut stream = std::os::unix::net::UnixStream::connect(self.socket()).unwrap();
        let request = "GET /metrics HTTP/1.1\r\nhost: netd\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        text
    }

    /// What nftables holds of netd's on the host.
    fn nft_objects(&self) -> Vec<Object> {
        let objects = self
            .netns
            .run(|| netd::kernel::nft::NftSocket::open()?.observe(&netd_model::Ns::Host));
        objects.expect("the rules can be read")
    }

    /// The same, a line for each object.
    pub fn rules(&self) -> Vec<String> {
        let objects = self.nft_objects();
        let mut lines: Vec<_> = objects.iter().map(|object| format!("{object:?}")).collect();
        lines.sort();
        lines
    }

    /// How many rules there are in all of netd's chains on the host.
    pub fn count_rules(&self) -> usize {
        let count = |object: &Object| match object {
            Object::Ruleset(rules) => {
                let chains = rules.chains.iter();
                let lists = chains.filter_map(|chain| chain.rules.as_ref());
                lists.map(Vec::len).sum()
            }
            _ => 0,
        };
        self.nft_objects().iter().map(count).sum()
    }

    /// The records of containers, a line for each file.
    pub fn records(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.dir.join("run/containers"));
        let mut lines: Vec<_> = files
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.path().is_file())
            .map(|entry| {
                let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                format!("{} {text}", entry.path().display())
            })
            .collect();
        lines.sort();
        lines
    }

    /// Links, addresses, routes, rules and records: everything that outlives the daemon.
    pub fn kernel_state(&self) -> Vec<String> {
        [lasting(&self.netns), self.rules(), self.records()].concat()
    }

    /// The same, and what the daemon says of it.
    pub fn state(&self) -> Vec<String> {
        let mut lines = self.kernel_state();
        for path in ["/v1/networks", "/v1/containers", "/v1/plan"] {
            let answer = self.api("GET", path, "");
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
            lines.push(format!("{path} {}", answer.body));
        }
        lines
    }
}

/// A request to the API behind a socket: without an answer of HTTP, why.
pub fn request(socket: &Path, method: &str, target: &str, body: &str) -> Result<Answer, String> {
    let length = body.len();
    let text = format!(
        "{method} {target} HTTP/1.1\r\nhost: netd\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    exchange(socket, text.as_bytes())
}

fn exchange(socket: &Path, request: &[u8]) -> Result<Answer, String> {
    use std::io::{Read, Write};
    let stream = std::os::unix::net::UnixStream::connect(socket);
    let mut stream = stream.map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(lab::PATIENCE)).unwrap();
    // Whoever is refused early may find the other end closed: the answer counts.
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or_else(|| format!("no answer of HTTP: {read:?} {text:?}"))?;
    Ok(Answer {
        status: head
            .split(' ')
            .nth(1)
            .and_then(|word| word.parse().ok())
            .unwrap_or(0),
        body: serde_json::from_str(body).unwrap_or(Value::Null),
    })
}

/// The snapshot of a namespace without what the kernel does in its own time: carriers, link-local addresses.
pub fn lasting(netns: &Netns) -> Vec<String> {
    let lines = netns.snapshot().into_iter();
    let lines = lines.filter(|line| !line.contains(": fe80::") && !line.contains(": ff00::"));
    lines
        .map(|line| line.replace(", running: true", ", running: false"))
        .collect()
}

/// Panics with the lines that came or went.
#[track_caller]
pub fn assert_same(what: &str, before: &[String], after: &[String]) {
    let only = |sign: char, of: &[String], less: &[String]| -> Vec<String> {
        of.iter()
            .filter(|line| !less.contains(line))
            .map(|line| format!("{sign} {line}"))
            .collect()
    };
    let changes = [only('-', before, after), only('+', after, before)].concat();
    assert!(changes.is_empty(), "{what}:\n{}", changes.join("\n"));
}
