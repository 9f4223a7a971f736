//! The daemon: puts the parts together, serves until it is told to stop. Stopping removes nothing.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use netd_dns::{Zone, ZoneHandle};
use netd_model::api::Purged;
use netd_model::error::Error;
use tokio::net::UnixListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::api::ApiState;
use crate::cli::args::PurgeOptions;
use crate::config::{Args, Config, LogFormat};
use crate::kernel::Kernel;
use crate::kernel::real::{self, RealKernel};
use crate::names::{HostResolvers, Names};
use crate::notify::notify;
use crate::reconcile::{self, Timing};
use crate::state::{Disk, RunLock};

/// How often the host's resolv.conf is looked at.
const RESOLV_CONF: Duration = Duration::from_secs(5);
/// Threads that answer DNS queries.
const DNS_THREADS: usize = 2;
/// Bytes of stack for each of the runtimes' threads.
const STACK: usize = 512 * 1024;
/// Descriptors that 1,000 containers need, and then some: netlink, namespace, two DNS sockets and ports for each.
const NOFILE: u64 = 65_536;

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
    let outcome = Config::load(args)
        .map_err(anyhow::Error::from)
        .and_then(|config| {
            init_tracing(config.log_format);
            run(&config)
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

fn init_tracing(format: LogFormat) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("NETD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    // A second subscriber in one process: a test that runs two daemons keeps the first.
    let _ = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

fn run(config: &Config) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let (runtime, dns) = runtimes().context("the runtime cannot start")?;
    let _lock = RunLock::acquire(&config.run_dir)?;
    let mut resolvers = HostResolvers::new(&config.resolv_conf);
    let zone = ZoneHandle::new(Zone::default());
    let names = Arc::new(Names::new(
        dns.handle().clone(),
        zone.clone(),
        resolvers.upstreams(),
    ));
    let kernel: Arc<dyn Kernel> = Arc::new(RealKernel::new(kernel_config(config, true), names)?);
    let store = Arc::new(Disk::open(&config.state_dir, &config.run_dir)?);
    let (handle, owner) = reconcile::start(Arc::clone(&kernel), store, zone, Timing::default())?;
    runtime.block_on(async {
        let listener = listen(&config.socket)?;
        tokio::spawn(owner);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(RESOLV_CONF).await;
                let refreshed = tokio::task::spawn_blocking(move || {
                    resolvers.refresh();
                    resolvers
                });
                match refreshed.await {
                    Ok(back) => resolvers = back,
                    Err(_) => return,
                }
            }
        });
        let ready = handle.clone();
        tokio::spawn(async move {
            ready.ready().await;
            notify("READY=1");
        });
        tracing::info!(socket = %config.socket.display(), version = env!("CARGO_PKG_VERSION"), "listening");
        crate::api::serve(listener, ApiState { handle, kernel }, stop()).await.context("the API stopped")
    })?;
    tracing::info!("stopped; networks and containers stay as they are");
    // Threads that wait in the kernel are not waited for: their work is on record, the next daemon finishes it.
    runtime.shutdown_timeout(Duration::from_secs(1));
    dns.shutdown_timeout(Duration::from_secs(1));
    Ok(())
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

fn kernel_config(config: &Config, daemon: bool) -> real::Config {
    real::Config {
        resolv_conf: config.resolv_conf.clone(),
        daemon,
    }
}

/// The socket of the API, for its owner and the group `netd`. Membership of that group equals root.
fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    // The run-dir's lock is ours, so a socket that is there belongs to nobody.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error)
                .with_context(|| format!("old socket {} cannot be removed", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path)
        .with_context(|| format!("socket {} cannot be made", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
        .with_context(|| format!("the mode of socket {} cannot be set", path.display()))?;
    if let Ok(Some(group)) = nix::unistd::Group::from_name("netd") {
        nix::unistd::chown(path, None, Some(group.gid)).with_context(|| {
            format!(
                "socket {} cannot be given to the group netd",
                path.display()
            )
        })?;
    }
    Ok(listener)
}

async fn stop() {
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        tracing::error!("signals cannot be received");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    notify("STOPPING=1");
}

fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    let wanted = NOFILE.min(hard);
    if soft < wanted
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)
    {
        tracing::warn!(%error, soft, "the limit of open files cannot be raised: about {} containers fit", soft / 4);
    }
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
    let resolvers = HostResolvers::new(&config.resolv_conf);
    let names = Arc::new(Names::new(
        runtime.handle().clone(),
        zone,
        resolvers.upstreams(),
    ));
    let kernel = RealKernel::new(kernel_config(&config, false), names)
        .map_err(|error| Error::new(netd_model::error::Code::KernelFailed, error))?;
    let store = Disk::open(&config.state_dir, &config.run_dir)?;
    reconcile::purge_offline(Arc::new(kernel), Arc::new(store), purge.force)
}
