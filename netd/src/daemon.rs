//! The daemon: puts the parts together, serves until it is told to stop. Stopping removes nothing.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use clap::Parser as _;
use netd_dns::{Forwarder, Tls, Zone, ZoneHandle};
use netd_model::api::Purged;
use netd_model::error::{Code, Error};
use netd_model::id::hex;
use netd_model::record::Unknown;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::api::cni::Spool;
use crate::api::metrics::{Collect, Registry};
use crate::api::{ApiState, Notices};
use crate::cli::args::PurgeOptions;
use crate::cluster;
use crate::cluster::etcd::Etcd;
use crate::cluster::meter::Meter;
use crate::cluster::records::Node;
use crate::config::{Args, Config, Shared};
use crate::declared;
use crate::kernel::real::{self, RealKernel};
use crate::kernel::{DnsSink, Kernel};
use crate::limits::Limits;
use crate::names::{self, ConfPath, HostResolvers, Names, Ways, conf_path};
use crate::notify::{heartbeat, notify, ready, reloading, watchdog_of_environment};
use crate::reconcile::handle::Handle;
use crate::reconcile::{self, Timing, random};
use crate::reload::{LogLevel, Reload};
use crate::socket;
use crate::state::{self, Disk, Loaded, RunLock};

/// Where Debian, Arch, Alpine and others keep the certificates that they trust.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Threads that answer DNS queries.
const DNS_THREADS: usize = 2;
/// Bytes of stack for each of the runtimes' threads.
const STACK: usize = 512 * 1024;
/// Descriptors that 1,000 containers need, and then some: netlink, namespace, two DNS sockets and ports for each.
const NOFILE: u64 = 65_536;
/// With fewer that may last, the log says so: 250 containers.
const ENOUGH: u64 = 1000;

/// Runs the daemon with these arguments, the program's name first. The exit code is that of the process.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        // `--help` and `--version` come this way too, with exit code 0.
        Err(error) => {
            let _ = error.print();
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    // First of all, as long as nothing else can have taken the descriptor's number.
    let outcome = socket::passed().and_then(|passed| {
        let config = Config::load(args.clone())?;
        let log_level = LogLevel::init(&config);
        run(args, config, log_level, passed)
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the last words of a daemon that may have no log yet"
)]
fn report(error: &anyhow::Error) {
    eprintln!("netd: {error:#}");
}

fn run(
    args: Args,
    config: Config,
    log_level: LogLevel,
    passed: Option<StdListener>,
) -> anyhow::Result<()> {
    let limits = descriptor_limits();
    let (runtime, dns) = runtimes().context("the runtime cannot start")?;
    let signals = {
        let _runtime = runtime.enter();
        Signals::receive()?
    };
    let _lock = RunLock::acquire(&config.run_dir)?;
    let resolv_conf = conf_path(&config.resolv_conf);
    let resolvers = HostResolvers::new(Arc::clone(&resolv_conf));
    let zone = ZoneHandle::new(Zone::default());
    let forwarder = forwarder(&config, &resolvers)?;
    let names = Arc::new(Names::new(dns.handle().clone(), zone.clone(), forwarder));
    names.server().set_log(config.dns_log);
    let sink = Arc::clone(&names) as Arc<dyn DnsSink>;
    let kernel: Arc<dyn Kernel> =
        Arc::new(RealKernel::new(kernel_config(&resolv_conf, true), sink)?);
    let ways = Arc::new(Ways(Arc::clone(&kernel)));
    names.server().forwarder().set_inside(ways);
    let store = Arc::new(Disk::open(&config.state_dir, &config.run_dir)?);
    let mut cluster_task = None;
    let meter = Arc::new(Meter::default());
    let records = Arc::clone(&store) as Arc<dyn state::Store>;
    let (handle, owner) = reconcile::start(
        Arc::clone(&kernel),
        store,
        zone,
        Timing::default(),
        &mut |loaded| {
            let Some(shared) = &config.shared else {
                return Ok(None);
            };
            let (ends, task) = cluster::start(cluster_setup(
                shared,
                loaded,
                Arc::clone(&records),
                Arc::clone(&meter),
            )?);
            cluster_task = Some(task);
            Ok(Some(ends))
        },
    )?;
    let shares = config.shared.is_some();
    let notices = Notices::default();
    let config_socket = config.socket.clone();
    runtime.block_on(async {
        let listener = socket::listen(passed, &config.socket)?;
        tracing::info!(address = ?listener.local_addr(), version = env!("CARGO_PKG_VERSION"), "listening");
        tokio::spawn(owner);
        if let Some(task) = cluster_task {
            tokio::spawn(task);
        }
        let reload = Reload::new(args, config, log_level, resolv_conf, notices.clone());
        tokio::spawn(names::follow(resolvers, Arc::clone(&reload.resolv_conf_changed)));
        tokio::spawn(tell(handle.clone(), notices.clone(), reload.networks_dir()));
        let stop = signals.until_stop(reload, handle.clone(), notices.clone());
        let metrics = Registry::default();
        metrics.add(Arc::clone(&names) as Arc<dyn Collect>);
        if shares {
            metrics.add(meter);
        }
        tokio::spawn(names::gateway::follow(Arc::clone(&names), handle.clone()));
        let spool = Arc::new(Spool::beside(&config_socket));
        tokio::spawn(drain(Arc::clone(&spool), handle.clone()));
        let state = ApiState { handle, kernel, spool, notices, names: Some(names), metrics };
        crate::api::serve(listener, state, limits, stop).await.context("the API stopped")
    })?;
    tracing::info!("stopped; networks and containers stay as they are");
    // Threads that wait in the kernel are not waited for: their work is on record, the next daemon finishes it.
    runtime.shutdown_timeout(Duration::from_secs(1));
    dns.shutdown_timeout(Duration::from_secs(1));
    Ok(())
}

/// This host as a member of its cluster, as its records and its configuration have it.
fn cluster_setup(
    shared: &Shared,
    loaded: &mut Loaded,
    records: Arc<dyn state::Store>,
    meter: Arc<Meter>,
) -> Result<cluster::Setup, Error> {
    let id = if let Some(id) = loaded.node_id.clone() {
        id
    } else {
        let id = hex(&random::<16>()?);
        records.put_node_id(&id)?;
        id
    };
    let start = hex(&random::<4>()?);
    let store =
        Etcd::new(shared.etcd.clone()).map_err(|error| Error::new(Code::InvalidConfig, error))?;
    let unknown = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let node = Node {
        id,
        incarnation: format!("{}-{start}", state::boot_id()?),
        address: shared.advertise.unwrap_or(unknown),
        mtu: 1500,
        software: env!("CARGO_PKG_VERSION").to_owned(),
        unknown: Unknown::new(),
    };
    Ok(cluster::Setup {
        name: shared.node.clone(),
        node,
        fixed: shared.advertise.is_some(),
        view: std::mem::take(&mut loaded.cluster),
        store: Arc::new(store),
        records,
        meter,
        seed: u64::from_le_bytes(random()?),
    })
}

/// Carries out what the CNI plugin left while no daemon answered.
async fn drain(spool: Arc<Spool>, handle: Handle) {
    if handle.ready().await {
        spool.drain(&handle).await;
    }
}

/// Tells the service manager when netd is ready, and from then on that it lives.
async fn tell(handle: Handle, notices: Notices, networks_dir: PathBuf) {
    if !handle.ready().await {
        return;
    }
    notices.set_declared(declared::make(&handle, networks_dir).await);
    notify(&ready(&handle.snapshot(), &notices));
    heartbeat(handle, notices, watchdog_of_environment(), notify).await;
}

/// One thread for the API and the owner: a request passes from one to the other without waking anybody, which with
/// several threads takes more than the work itself. DNS has threads of its own, so neither waits for the other.
fn runtimes() -> std::io::Result<(Runtime, Runtime)> {
    let build = |builder: &mut Builder| {
        let builder = builder.max_blocking_threads(8).thread_stack_size(STACK);
        builder.enable_all().build()
    };
    let dns = build(
        Builder::new_multi_thread()
            .worker_threads(DNS_THREADS)
            .thread_name("dns"),
    )?;
    Ok((build(&mut Builder::new_current_thread())?, dns))
}

fn kernel_config(resolv_conf: &ConfPath, daemon: bool) -> real::Config {
    real::Config {
        resolv_conf: Arc::clone(resolv_conf),
        daemon,
    }
}

/// The signals that netd answers. Received from the start on: what comes earlier waits.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn receive() -> anyhow::Result<Self> {
        let receive = |kind| signal(kind).context("signals cannot be received");
        Ok(Self {
            terminate: receive(SignalKind::terminate())?,
            interrupt: receive(SignalKind::interrupt())?,
            hangup: receive(SignalKind::hangup())?,
        })
    }

    /// Answers SIGHUP until it is time to stop.
    async fn until_stop(mut self, mut reload: Reload, handle: Handle, notices: Notices) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                _ = self.hangup.recv() => {
                    // Before that READY=1 would be a lie.
                    let was_ready = handle.snapshot().ready;
                    if was_ready {
                        notify(&reloading());
                    }
                    reload.reload().await;
                    let declared = declared::make(&handle, reload.networks_dir()).await;
                    notices.set_declared(declared);
                    if was_ready {
                        notify(&ready(&handle.snapshot(), &notices));
                    }
                }
            }
        }
        notify("STOPPING=1\nSTATUS=Stopping: requests under way are finished");
        tracing::info!("stopping; requests under way are finished");
    }
}

/// Who is asked for names that are not the containers': the resolvers of the configuration, else the host's.
fn forwarder(config: &Config, resolvers: &HostResolvers) -> anyhow::Result<Forwarder> {
    let upstreams = if config.dns.is_empty() {
        resolvers.upstreams()
    } else {
        Arc::new(ArcSwap::from_pointee(config.dns.clone()))
    };
    let tls = if config.dns.iter().any(|upstream| upstream.tls.is_some()) {
        let roots = config
            .dns_tls_ca
            .as_deref()
            .unwrap_or_else(|| Path::new(SYSTEM_CA));
        let named = || {
            format!(
                "certificates for resolvers over TLS: {}: name others with dns-tls-ca",
                roots.display()
            )
        };
        Tls::with_roots(&std::fs::read(roots).with_context(named)?).with_context(named)?
    } else {
        Tls::default()
    };
    Ok(Forwarder::new(upstreams, config.dns_cache, tls))
}

/// Raises the limit of open files as far as is useful and allowed; what fits it is the answer.
fn descriptor_limits() -> Limits {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return Limits::of(NOFILE);
    };
    let wanted = NOFILE.min(hard).max(soft);
    let set = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard);
    let limits = Limits::of(if set.is_ok() { wanted } else { soft });
    if limits.lasting < ENOUGH {
        tracing::warn!(
            files = wanted,
            "the limit of open files is low: about {} containers fit; raise it (LimitNOFILE)",
            limits.lasting / 4
        );
    }
    limits
}

/// `netctl purge` without a daemon: takes the daemon's lock and does its work.
pub fn purge_offline(purge: &PurgeOptions) -> Result<Purged, Error> {
    let config = Config::load(Args {
        state_dir: purge.state_dir.clone(),
        run_dir: purge.run_dir.clone(),
        ..Args::default()
    })?;
    let _lock = RunLock::acquire(&config.run_dir)?;
    let zone = ZoneHandle::new(Zone::default());
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            Error::new(
                netd_model::error::Code::Internal,
                format!("the runtime cannot start: {error}"),
            )
        })?;
    let resolv_conf = conf_path(&config.resolv_conf);
    let resolvers = HostResolvers::new(Arc::clone(&resolv_conf));
    let forwarder = Forwarder::new(resolvers.upstreams(), 0, Tls::default());
    let names = Arc::new(Names::new(runtime.handle().clone(), zone, forwarder));
    let kernel = RealKernel::new(kernel_config(&resolv_conf, false), names)
        .map_err(|error| Error::new(netd_model::error::Code::KernelFailed, error))?;
    let store = Disk::open(&config.state_dir, &config.run_dir)?;
    reconcile::purge_offline(Arc::new(kernel), Arc::new(store), purge.force)
}
