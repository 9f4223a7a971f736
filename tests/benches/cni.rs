//! ADD and DEL of netd's CNI plugin beside the reference chain (bridge with host-local, portmap, firewall; Debian's
//! programs), pod by pod in turn, in one run; and 500 DELs at once.
//!
//!     cargo plugin
//!     NETD_CNI=$(ls $PWD/target/*-musl/plugin/netd-cni) cargo bench -p netd-tests --bench cni
//!
//! `-- alone` leaves the reference out. Each chain has a host namespace of its own. CPU is that of the plugins and of everything they start, and of the daemon.
//! The kernel's own removal of one pair, asked directly, is measured in turn with the pods; so is the kernel's part of netd's work, the operations
//! of the same attach and detach replayed straight to the kernel.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    reason = "a benchmark prints its figures, and ends where something fails"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use netd_model::Op;
use netd_tests::cni::{self, Cni, DEBIAN, Sandbox};
use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::{self, Netns};
use serde_json::{Value, json};

mod floor;
use floor::{Floor, timed};

/// Pairs measured at each size.
const ROUNDS: usize = 30;
/// Pods beside the measured one.
const SIZES: [usize; 3] = [0, 200, 1000];
/// The reference takes minutes to grow further.
const REFERENCE_MAX: usize = 200;
/// Removals at once.
const CROWD: usize = 500;

fn main() {
    cni::dispatch();
    lab::dispatch(PROGRAMS);
    lab::enter();
    let host = Host::start("netd");
    let plugin = Cni::new(&host);
    let mappings =
        json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
    let own = Chain {
        name: "netd-cni",
        plugins: vec![plugin.config(
            "1.0.0",
            "pods",
            json!({"podCIDRs": ["10.98.0.0/16"], "runtimeConfig": mappings}),
        )],
        fill: vec![plugin.config("1.0.0", "pods", json!({"podCIDRs": ["10.98.0.0/16"]}))],
        cni: Cni::new(&host),
        daemon: Some(host.pid()),
        pods: Vec::new(),
    };
    // The daemon of this one is not used: it only makes the host.
    let other = Host::start("reference");
    let alone = std::env::args().any(|arg| arg == "alone");
    let has_reference = Path::new(DEBIAN).join("bridge").exists();
    let reference = (has_reference && !alone).then(|| reference(&other, &mappings));
    println!(
        "start to exit without work (VERSION): {:.2} ms; size {} kB",
        start(),
        size() / 1024
    );
    let mut chains: Vec<Chain<'_>> = std::iter::once(own).chain(reference).collect();
    if !has_reference {
        println!("MISSING: the reference chain is not installed (containernetworking-plugins)");
    }
    for size in SIZES {
        println!("\nbeside {size} pods, one published port; medians of {ROUNDS}, ms");
        for chain in &mut chains {
            if size <= REFERENCE_MAX || chain.daemon.is_some() {
                chain.grow(size);
                chain.measure();
            }
        }
    }
    crowd(&chains[0]);
}

fn reference<'a>(host: &'a Host, mappings: &Value) -> Chain<'a> {
    let data = lab::scratch("leases");
    let of = |plugin: &str, extra: Value| {
        let mut config = json!({"cniVersion": "1.0.0", "name": "pods", "type": plugin});
        cni::merge(&mut config, extra);
        config
    };
    let bridge = of(
        "bridge",
        json!({"bridge": "cni0", "isGateway": true, "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
        "ipam": {"type": "host-local", "dataDir": data, "ranges": [[{"subnet": "10.97.0.0/16"}]]}}),
    );
    let portmap = |runtime: &Value| of("portmap", json!({"snat": true, "runtimeConfig": runtime}));
    let firewall = of("firewall", json!({}));
    Chain {
        name: "reference",
        plugins: vec![bridge.clone(), portmap(mappings), firewall.clone()],
        fill: vec![bridge, portmap(&json!({})), firewall],
        cni: Cni::new(host),
        daemon: None,
        pods: Vec::new(),
    }
}

struct Chain<'a> {
    name: &'static str,
    plugins: Vec<Value>,
    /// The same without a published port.
    fill: Vec<Value>,
    cni: Cni<'a>,
    daemon: Option<u32>,
    pods: Vec<Netns>,
}

impl Chain<'_> {
    fn grow(&mut self, size: usize) {
        while self.pods.len() < size {
            let pod = Netns::new(&format!("{}{}", self.name, self.pods.len()));
            self.cni
                .add_all(&Sandbox::of(&pod), &self.fill)
                .expect("an ADD succeeds");
            self.pods.push(pod);
        }
    }

    /// What the plugins took so far, with all that they started; and the daemon.
    fn cpu(&self) -> [Duration; 2] {
        use nix::sys::resource::{UsageWho, getrusage};
        use nix::sys::time::TimeValLike as _;
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("one's own usage");
        let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        let micros = micros.try_into().expect("time does not run backwards");
        let daemon = self.daemon.map_or(Duration::ZERO, lab::cpu_time);
        [Duration::from_micros(micros), daemon]
    }

    fn measure(&self) {
        let (mut adds, mut dels, mut floors) = (Vec::new(), Vec::new(), Vec::new());
        let mut cpu = [Duration::ZERO; 2];
        let mut part = self.daemon.map(|_| Part::new(self.cni.host));
        for round in 0..ROUNDS + 3 {
            let pod = Netns::new(&format!("measured{round}"));
            let sandbox = Sandbox::of(&pod);
            let before = self.cpu();
            let mut result = Value::Null;
            let add = timed(|| {
                let added = self.cni.add_all(&sandbox, &self.plugins);
                result = added.expect("an ADD succeeds");
            });
            if let Some(part) = part.as_mut().filter(|_| round == 0) {
                part.see(&sandbox);
            }
            let del = timed(|| self.cni.del_all(&sandbox, &self.plugins, &result));
            let used = self.cpu();
            let floor = floor(&self.cni.host.netns, &pod);
            if round >= 3 {
                for (sum, (used, before)) in cpu.iter_mut().zip(used.iter().zip(before)) {
                    *sum += used.saturating_sub(before);
                }
                adds.push(add);
                dels.push(del);
                floors.push(floor);
            }
        }
        // Not in turn with the others: the daemon sees what is done past it, and looks at everything.
        for round in 0..ROUNDS + 3 {
            let pod = Netns::new(&format!("replayed{round}"));
            if let Some(part) = &mut part {
                part.pair(&pod, round >= 3);
            }
        }
        let del = quantile(&mut dels, 50);
        let floor = quantile(&mut floors, 50);
        let [plugins, daemon] = cpu.map(|sum| sum.as_secs_f64() * 1e3 / ROUNDS as f64);
        println!(
            "  {:<10} ADD {:7.2} (p95 {:7.2})   DEL {del:7.2} (p95 {:7.2}), {:.2} of the kernel's {floor:.1}   CPU of a \
             pair {:6.2} (processes {plugins:.2}, daemon {daemon:.2})",
            self.name,
            quantile(&mut adds, 50),
            quantile(&mut adds, 95),
            quantile(&mut dels, 95),
            del / floor,
            plugins + daemon,
        );
        if let Some(part) = part {
            part.print(daemon);
        }
    }
}

/// The kernel's part of netd's work.
struct Part<'a> {
    host: &'a Host,
    floor: Floor,
    /// The network that pods join.
    network: String,
    plan: Vec<Op>,
    adds: Vec<f64>,
    dels: Vec<f64>,
    cpu: Duration,
}

impl<'a> Part<'a> {
    fn new(host: &'a Host) -> Self {
        Self {
            host,
            floor: Floor::new(host),
            network: String::new(),
            plan: Vec::new(),
            adds: Vec::new(),
            dels: Vec::new(),
            cpu: Duration::ZERO,
        }
    }

    /// Learns where a pod that is there is attached.
    fn see(&mut self, sandbox: &Sandbox) {
        let target = format!("/v1/containers/{}", sandbox.id);
        let container = self.host.api("GET", &target, "").body;
        let network = container["endpoints"][0]["network"].as_str();
        network
            .expect("a pod is on a network")
            .clone_into(&mut self.network);
    }

    fn pair(&mut self, pod: &Netns, counts: bool) {
        // One plan: the daemon may keep what it saw of the last pair for an orphan's.
        if self.plan.is_empty() {
            let body = json!({"netns": pod.path(), "name": "floor", "networks": [{"network": self.network}], "publish": ["80"]});
            let target = "/v1/containers?dry_run=true";
            let planned = self.host.api("POST", target, &body.to_string()).body["ops"].take();
            self.plan = serde_json::from_value(planned).expect("a dry run has operations");
        }
        let (add, del, used) = self.floor.pair(self.host, pod, &self.plan);
        if counts {
            self.cpu += used;
            self.adds.push(add);
            self.dels.push(del);
        }
    }

    fn print(mut self, daemon: f64) {
        let cpu = self.cpu.as_secs_f64() * 1e3 / ROUNDS as f64;
        println!(
            "  of which the kernel's part: attach {:.2}   detach {:.2}   CPU of a pair {cpu:.2}; the daemon's CPU is {:.2} of it",
            quantile(&mut self.adds, 50),
            quantile(&mut self.dels, 50),
            daemon / cpu,
        );
    }
}

/// Many removals at once, as after a reboot: what each plugin process takes is in it.
fn crowd(chain: &Chain<'_>) {
    let pods = &chain.pods[..CROWD];
    let before = chain.cpu();
    let took = timed(|| {
        std::thread::scope(|scope| {
            for pod in pods {
                scope.spawn(|| chain.cni.del(&Sandbox::of(pod), &chain.fill[0]));
            }
        });
    });
    let after = chain.cpu();
    let used = |n: usize| after[n].saturating_sub(before[n]).as_secs_f64();
    println!(
        "\n{CROWD} DELs at once: {:.2} s wall; CPU: processes {:.2} s, daemon {:.2} s",
        took / 1e3,
        used(0),
        used(1),
    );
}

/// A plugin process that has nothing to do.
fn start() -> f64 {
    let program = cni::plugin_dir().join("netd-cni");
    let mut times: Vec<f64> = (0..100)
        .map(|_| {
            timed(|| {
                let mut command = std::process::Command::new(&program);
                command.env("CNI_COMMAND", "VERSION");
                cni::execute(command, "").ok();
            })
        })
        .collect();
    quantile(&mut times, 50)
}

fn size() -> u64 {
    let program: PathBuf = cni::plugin_dir().join("netd-cni");
    std::fs::metadata(program)
        .expect("the plugin is there")
        .len()
}

/// What the kernel takes to remove one pair, asked directly.
fn floor(host: &Netns, pod: &Netns) -> f64 {
    lab::veth(host.end("floor0", &[]), pod.end("floor0", &[]));
    timed(|| host.del_link("floor0"))
}

fn quantile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() * percent / 100).min(values.len() - 1)]
}
