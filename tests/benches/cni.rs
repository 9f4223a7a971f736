//! ADD and DEL of netd's CNI plugin beside the reference chain (bridge with host-local, portmap, firewall; Debian's
//! programs), pod by pod in turn, in one run; and 500 DELs at once.
//!
//!     cargo build --profile plugin -p netd-cni
//!     NETD_CNI=target/plugin/netd-cni cargo bench -p netd-tests --bench cni
//!
//! Each chain has a host namespace of its own. CPU is that of the plugins and of everything they start, and of the daemon.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    reason = "a benchmark prints its figures, and ends where something fails"
)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use netd_tests::cni::{self, Cni, DEBIAN, Sandbox};
use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::{self, Netns};
use serde_json::{Value, json};

/// Pairs measured at each size.
const ROUNDS: usize = 30;
/// Pods beside the measured one.
const SIZES: [usize; 2] = [0, 200];
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
            json!({"subnet": "10.98.0.0/16", "runtimeConfig": mappings}),
        )],
        fill: vec![plugin.config("1.0.0", "pods", json!({"subnet": "10.98.0.0/16"}))],
        cni: Cni::new(&host),
        daemon: Some(host.pid()),
        pods: Vec::new(),
    };
    // The daemon of this one is not used: it only makes the host.
    let other = Host::start("reference");
    let reference = Path::new(DEBIAN)
        .join("bridge")
        .exists()
        .then(|| reference(&other, &mappings));
    println!(
        "start to exit without work (VERSION): {:.2} ms; size {} kB",
        start(),
        size() / 1024
    );
    println!(
        "removal of one veth pair by the kernel alone: {:.1} ms",
        floor(&host)
    );
    let mut chains: Vec<Chain<'_>> = std::iter::once(own).chain(reference).collect();
    if chains.len() == 1 {
        println!("MISSING: the reference chain is not installed (containernetworking-plugins)");
    }
    for size in SIZES {
        println!("\nbeside {size} pods, one published port; medians of {ROUNDS}, ms");
        for chain in &mut chains {
            chain.grow(size);
            chain.measure();
        }
    }
    crowd(&mut chains[0]);
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

    fn cpu(&self) -> Duration {
        use nix::sys::resource::{UsageWho, getrusage};
        use nix::sys::time::TimeValLike as _;
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("one's own usage");
        let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        let children =
            Duration::from_micros(micros.try_into().expect("time does not run backwards"));
        children + self.daemon.map_or(Duration::ZERO, lab::cpu_time)
    }

    fn measure(&self) {
        let (mut adds, mut dels) = (Vec::new(), Vec::new());
        let mut cpu = Duration::ZERO;
        for round in 0..ROUNDS + 3 {
            let pod = Netns::new(&format!("measured{round}"));
            let sandbox = Sandbox::of(&pod);
            let before = self.cpu();
            let mut result = Value::Null;
            let add = timed(|| {
                let added = self.cni.add_all(&sandbox, &self.plugins);
                result = added.expect("an ADD succeeds");
            });
            let del = timed(|| self.cni.del_all(&sandbox, &self.plugins, &result));
            let used = self.cpu().saturating_sub(before);
            if round >= 3 {
                cpu += used;
                adds.push(add);
                dels.push(del);
            }
        }
        println!(
            "  {:<10} ADD {:7.2} (p95 {:7.2})   DEL {:7.2} (p95 {:7.2})   CPU of a pair {:6.2}",
            self.name,
            quantile(&mut adds, 50),
            quantile(&mut adds, 95),
            quantile(&mut dels, 50),
            quantile(&mut dels, 95),
            cpu.as_secs_f64() * 1e3 / ROUNDS as f64,
        );
    }
}

/// Many removals at once, as after a reboot: what each plugin process takes is in it.
fn crowd(chain: &mut Chain<'_>) {
    chain.grow(CROWD);
    let before = chain.cpu();
    let took = timed(|| {
        let chain = &*chain;
        std::thread::scope(|scope| {
            for pod in &chain.pods {
                scope.spawn(|| chain.cni.del(&Sandbox::of(pod), &chain.fill[0]));
            }
        });
    });
    let cpu = chain.cpu().saturating_sub(before).as_secs_f64();
    println!(
        "\n{CROWD} DELs at once: {:.2} s wall, {cpu:.2} s CPU",
        took / 1e3
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
fn floor(host: &Host) -> f64 {
    let mut times: Vec<f64> = (0..20)
        .map(|_| {
            let pod = Netns::new("floor");
            lab::veth(host.netns.end("floor0", &[]), pod.end("eth0", &[]));
            timed(|| host.netns.del_link("floor0"))
        })
        .collect();
    quantile(&mut times, 50)
}

/// In milliseconds.
fn timed(work: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    work();
    begin.elapsed().as_secs_f64() * 1e3
}

fn quantile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() * percent / 100).min(values.len() - 1)]
}
