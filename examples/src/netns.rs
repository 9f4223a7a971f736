//! Network namespaces by name, as people and netctl name them.

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use netd_tests::lab::Netns;
use nix::sched::{CloneFlags, setns};

/// This directory is on a throw-away host and nowhere else; it holds the pids of named processes.
pub(crate) const MARK: &str = "/run/nslab";

/// The file to which a namespace of this name is bound.
pub(crate) fn file(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// Makes a namespace that lives as long as its file, as `ip netns add` does.
pub(crate) fn make(name: &str) -> Result<()> {
    only_on_a_throw_away_host()?;
    let file = file(name);
    ensure!(!file.exists(), "{} is there already", file.display());
    std::mem::forget(Netns::new(name).bind(file));
    Ok(())
}

/// Gives the namespace of a process a name.
pub(crate) fn remember(name: &str, pid: u32) -> Result<()> {
    std::fs::write(Path::new(MARK).join(name), pid.to_string())
        .with_context(|| format!("writing down the pid of {name}"))
}

/// Moves this process, which has no second thread, into a namespace.
pub(crate) fn join(name: &str) -> Result<()> {
    only_on_a_throw_away_host()?;
    let path = find(name)?;
    let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {name}"))
}

/// The names of a namespace's links, one a line.
pub(crate) fn links(name: &str) -> Result<String> {
    join(name)?;
    let table = std::fs::read_to_string("/proc/self/net/dev").context("the list of links")?;
    let names = table.lines().filter_map(|line| line.split_once(':'));
    Ok(names.fold(String::new(), |mut text, (name, _)| {
        let _ = writeln!(text, "{}", name.trim());
        text
    }))
}

/// The commands below `host` would change the machine itself anywhere else.
pub(crate) fn only_on_a_throw_away_host() -> Result<()> {
    ensure!(
        Path::new(MARK).is_dir(),
        "this is no throw-away host: run it within `nslab host -- COMMAND...`"
    );
    Ok(())
}

fn find(name: &str) -> Result<PathBuf> {
    let of_process = |pid: &str| PathBuf::from(format!("/proc/{pid}/ns/net"));
    if let Some(pid) = name.strip_prefix("pid:") {
        return Ok(of_process(pid));
    }
    if file(name).exists() {
        return Ok(file(name));
    }
    match std::fs::read_to_string(Path::new(MARK).join(name)) {
        Ok(pid) => Ok(of_process(&pid)),
        Err(_) => bail!("no network namespace is called {name}"),
    }
}
