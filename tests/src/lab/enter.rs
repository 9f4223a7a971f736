//! Entering the laboratory.
//!
//! Owns the step out of the machine's namespaces: afterwards this process has a network and a
//! mount table of its own and may do there what it likes. It fails loudly when it cannot; it
//! never lets a test run on the machine's own network.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// What kind of power the tests run with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privileges {
    /// Root of the machine, in a network and mount namespace of its own.
    Root,
    /// Root of a user namespace made by this uid.
    UserNamespace {
        /// The uid outside.
        uid: u32,
    },
}

#[derive(Debug)]
struct Lab {
    privileges: Privileges,
    scratch: PathBuf,
    on_disk: bool,
}

static LAB: OnceLock<Lab> = OnceLock::new();

const OWN_NETWORK: CloneFlags = CloneFlags::CLONE_NEWNET.union(CloneFlags::CLONE_NEWNS);

/// Leaves the machine's network and mounts for good. Call it in `main` before any thread starts;
/// exits with 1 and says what is missing when the kernel refuses.
pub fn enter() {
    let entered = try_enter().map(|lab| LAB.set(lab).expect("enter() is called once"));
    if let Err(error) = entered {
        eprintln!("The laboratory cannot be entered: {error:#}");
        eprintln!("{}", remedy());
        std::process::exit(1);
    }
}

/// What the tests run with. Panics before `enter`.
pub fn privileges() -> Privileges {
    lab().privileges
}

/// Whether this kernel has IPv6 at all; `ipv6.disable=1` takes it away.
pub fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// A new empty directory for state, sockets and files: `scratch("h1")`. Its path is short enough
/// for a unix socket, and it is gone when the test binary ends.
pub fn scratch(name: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let dir = lab().scratch.join(format!("{number}-{name}"));
    std::fs::create_dir_all(&dir).expect("a directory in the scratch space");
    dir
}

/// Removes what a lab without a tmpfs of its own left on the disk.
pub(super) fn clean_up() {
    if lab().on_disk {
        let _ = std::fs::remove_dir_all(&lab().scratch);
    }
}

fn lab() -> &'static Lab {
    LAB.get().expect("lab::enter() comes first in main")
}

fn try_enter() -> Result<Lab> {
    let privileges = leave_the_machine()?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .context("mount(/, MS_REC|MS_PRIVATE)")?;
    let (scratch, on_disk) = make_scratch()?;
    super::wire::loopback_up().context("setting lo up")?;
    // Orphans of a test come to us, so that the end of the run can name and kill them.
    nix::sys::prctl::set_child_subreaper(true).context("prctl(PR_SET_CHILD_SUBREAPER)")?;
    Ok(Lab {
        privileges,
        scratch,
        on_disk,
    })
}

/// Root simply leaves; anybody else, and a root without the capability, becomes root of a user
/// namespace first.
fn leave_the_machine() -> Result<Privileges> {
    let (uid, gid) = (geteuid(), getegid());
    if uid.is_root() {
        match unshare(OWN_NETWORK) {
            Ok(()) => return Ok(Privileges::Root),
            Err(Errno::EPERM) => {}
            Err(errno) => Err(errno).context("unshare(CLONE_NEWNET|CLONE_NEWNS) as root")?,
        }
    }
    unshare(CloneFlags::CLONE_NEWUSER).context("unshare(CLONE_NEWUSER)")?;
    write_proc("setgroups", "deny")?;
    write_proc("uid_map", &format!("0 {uid} 1"))?;
    write_proc("gid_map", &format!("0 {gid} 1"))?;
    unshare(OWN_NETWORK).context("unshare(CLONE_NEWNET|CLONE_NEWNS) in a user namespace")?;
    Ok(Privileges::UserNamespace { uid: uid.as_raw() })
}

fn write_proc(file: &str, text: &str) -> Result<()> {
    let path = format!("/proc/self/{file}");
    std::fs::write(&path, text).with_context(|| format!("writing \"{text}\" to {path}"))
}

/// A fresh tmpfs over /run, which also gives the tests a /run/netns and /run/netd of their own;
/// a plain temporary directory where mounting is refused. The flag says "on disk".
fn make_scratch() -> Result<(PathBuf, bool)> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let (base, on_disk) = match mount(Some("lab"), "/run", Some("tmpfs"), flags, Some("mode=755")) {
        Ok(()) => (Path::new("/run/lab").to_owned(), false),
        Err(errno) => {
            let dir = std::env::temp_dir().join(format!("netd-lab-{}", std::process::id()));
            eprintln!("lab: no tmpfs over /run ({errno}), using {}", dir.display());
            (dir, true)
        }
    };
    std::fs::create_dir_all(&base).with_context(|| format!("creating {}", base.display()))?;
    Ok((base, on_disk))
}

/// Everything that commonly stands in the way, with its present value.
fn remedy() -> String {
    let keys = [
        ("user/max_user_namespaces", "must be above 0"),
        ("user/max_net_namespaces", "must be above 0"),
        (
            "kernel/unprivileged_userns_clone",
            "must be 1 where it exists",
        ),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "must be 0 where it exists",
        ),
    ];
    let mut text = format!(
        "Needed: root with CAP_SYS_ADMIN, or user namespaces for uid {} (a container's seccomp \
         filter may forbid unshare and mount).",
        geteuid()
    );
    for (key, rule) in keys {
        let value = std::fs::read_to_string(format!("/proc/sys/{key}"));
        let value = value.map_or_else(|error| error.kind().to_string(), |v| v.trim().to_owned());
        let _ = write!(text, "\n  /proc/sys/{key} = {value} ({rule})");
    }
    text
}
