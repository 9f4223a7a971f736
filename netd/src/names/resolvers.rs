//! Owns the host's resolvers: reads them from resolv.conf, and again when that changes.
//!
//! Where resolv.conf names systemd-resolved, its own list of servers is read instead: they are asked without the hop. The
//! directories are watched, not the files, since these are replaced by rename; so are those that links lead to.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use netd_dns::{ResolvConf, Upstream};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::Notify;

/// The path of the host's resolv.conf, which a new configuration may exchange.
pub type ConfPath = Arc<ArcSwap<PathBuf>>;

/// Such a path.
pub fn conf_path(path: &Path) -> ConfPath {
    Arc::new(ArcSwap::from_pointee(path.to_owned()))
}

/// Where systemd-resolved writes the servers that it asks.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// How often the files are looked at although nothing was noticed: notices may get lost, and a directory may appear.
const LOOK: Duration = Duration::from_secs(60);
/// Several changes in a row are one.
const SETTLE: Duration = Duration::from_millis(20);
/// Links that are followed from one to the next, as far as the kernel goes.
const LINKS: usize = 40;

/// What tells one version of a file from the next: the path, the inode, the size, and the time of the change, which is
/// compared and never reckoned with.
type Version = (PathBuf, u64, u64, Option<SystemTime>);

/// The host's resolvers, read again when their file changes.
#[derive(Debug)]
pub struct HostResolvers {
    path: ConfPath,
    resolved: PathBuf,
    seen: Vec<Version>,
    upstreams: Arc<ArcSwap<Vec<Upstream>>>,
}

impl HostResolvers {
    /// Reads the file for the first time. A host without one has no resolvers.
    pub fn new(path: ConfPath) -> Self {
        Self::with_resolved(path, Path::new(RESOLVED))
    }

    /// The same, with another place for the servers of systemd-resolved.
    pub fn with_resolved(path: ConfPath, resolved: &Path) -> Self {
        let mut resolvers = Self {
            path,
            resolved: resolved.to_owned(),
            seen: Vec::new(),
            upstreams: Arc::new(ArcSwap::from_pointee(Vec::new())),
        };
        resolvers.refresh();
        resolvers
    }

    /// Where the forwarder finds them.
    pub fn upstreams(&self) -> Arc<ArcSwap<Vec<Upstream>>> {
        Arc::clone(&self.upstreams)
    }

    /// Reads the files if one of them changed. Blocks.
    pub fn refresh(&mut self) {
        let path = PathBuf::clone(&self.path.load());
        let versions = vec![version(&path), version(&self.resolved)];
        if self.seen == versions {
            return;
        }
        let read = |path: &Path| match read(path) {
            Ok(conf) => Some(conf),
            // The last ones still serve, and the next look tries again.
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the host's resolvers cannot be read");
                None
            }
        };
        let Some(mut conf) = read(&path) else {
            return;
        };
        let mut from = &path;
        if conf.is_resolved()
            && let Some(own) = read(&self.resolved)
            && !own.upstreams().is_empty()
        {
            (conf, from) = (own, &self.resolved);
        }
        let servers = conf.upstreams();
        if **self.upstreams.load() != servers {
            tracing::info!(path = %from.display(), servers = ?conf.nameservers, "resolvers of the host");
            self.upstreams.store(Arc::new(servers));
        }
        self.seen = versions;
    }

    /// The directories in which a change may mean other resolvers.
    fn directories(&self) -> BTreeSet<PathBuf> {
        let mut directories = BTreeSet::new();
        for start in [PathBuf::clone(&self.path.load()), self.resolved.clone()] {
            let mut path = start;
            for _ in 0..LINKS {
                let Some(directory) = path.parent() else {
                    break;
                };
                directories.insert(directory.to_owned());
                match std::fs::read_link(&path) {
                    Ok(target) => path = directory.join(target),
                    Err(_) => break,
                }
            }
        }
        directories
    }
}

fn version(path: &Path) -> Version {
    use std::os::unix::fs::MetadataExt as _;
    match std::fs::metadata(path) {
        Ok(meta) => (
            path.to_owned(),
            meta.ino(),
            meta.len(),
            meta.modified().ok(),
        ),
        Err(_) => (path.to_owned(), 0, 0, None),
    }
}

fn read(path: &Path) -> io::Result<ResolvConf> {
    match std::fs::read(path) {
        Ok(text) => Ok(ResolvConf::parse(&String::from_utf8_lossy(&text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(ResolvConf::default()),
        Err(error) => Err(error),
    }
}

/// Reads the host's resolvers again when something changes beside them, or when told to look. Never ends.
pub async fn follow(mut resolvers: HostResolvers, look: Arc<Notify>) {
    let mut watched = BTreeSet::new();
    let mut watch = None;
    loop {
        let refreshed = tokio::task::spawn_blocking(move || {
            let directories = resolvers.directories();
            // Watched first, read then: what changes in between is noticed.
            let fresh =
                (directories != watched || watch.is_none()).then(|| watch_all(&directories));
            resolvers.refresh();
            (resolvers, directories, fresh, watch)
        });
        let Ok((back, directories, fresh, old)) = refreshed.await else {
            return;
        };
        (resolvers, watched) = (back, directories);
        watch = match fresh {
            Some(made) => made
                .inspect_err(|error| tracing::warn!(%error, "the host's resolvers are not watched, only looked at"))
                .ok(),
            None => old,
        };
        let changed = async {
            match &watch {
                Some(watch) => next(watch).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => tokio::time::sleep(SETTLE).await,
            () = look.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
        if let Some(watch) = &watch {
            drain(watch);
        }
    }
}

fn watch_all(directories: &BTreeSet<PathBuf>) -> io::Result<Receiver> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let what = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_ONLYDIR;
    for directory in directories {
        // One that is not there cannot be watched; the clock looks after it.
        let _ = inotify.add_watch(directory, what);
    }
    // It is read like a pipe: what the runtime has for that serves, and asks for no `unsafe`.
    Receiver::from_owned_fd_unchecked(inotify.into())
}

/// Returns when something happened in a watched directory.
async fn next(watch: &Receiver) {
    while watch.readable().await.is_ok() {
        if drain(watch) {
            return;
        }
    }
}

/// Takes what was noticed; what it was does not matter. Whether there was anything.
fn drain(watch: &Receiver) -> bool {
    let mut buffer = [0; 4096];
    let mut any = false;
    while matches!(watch.try_read(&mut buffer), Ok(1..)) {
        any = true;
    }
    any
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

    use super::*;

    /// A directory that is removed in the end.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("netd-resolvers-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let (path, new) = (self.0.join(name), self.0.join("new"));
            std::fs::write(&new, text).unwrap();
            std::fs::rename(new, &path).unwrap();
            path
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn texts(upstreams: &ArcSwap<Vec<Upstream>>) -> Vec<String> {
        upstreams.load().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_servers_of_systemd_resolved_are_asked_themselves() {
        let dir = Dir::new("resolved");
        let conf = dir.write("resolv.conf", "nameserver 127.0.0.53\n");
        let resolved = dir.0.join("resolved.conf");
        let mut resolvers = HostResolvers::with_resolved(conf_path(&conf), &resolved);
        let upstreams = resolvers.upstreams();
        assert_eq!(
            texts(&upstreams),
            ["127.0.0.53:53"],
            "without its list the stub is all there is"
        );
        dir.write(
            "resolved.conf",
            "nameserver 192.0.2.1\nnameserver 192.0.2.2\n",
        );
        resolvers.refresh();
        assert_eq!(texts(&upstreams), ["192.0.2.1:53", "192.0.2.2:53"]);
        dir.write("resolv.conf", "nameserver 192.0.2.9\n");
        resolvers.refresh();
        assert_eq!(texts(&upstreams), ["192.0.2.9:53"]);
    }

    #[tokio::test]
    async fn a_file_replaced_by_rename_is_followed_behind_links() {
        let (dir, behind) = (Dir::new("links"), Dir::new("behind"));
        let real = behind.write("stub.conf", "nameserver 192.0.2.1\n");
        let conf = dir.0.join("resolv.conf");
        std::os::unix::fs::symlink(&real, &conf).unwrap();
        let resolvers = HostResolvers::with_resolved(conf_path(&conf), &dir.0.join("none"));
        let upstreams = resolvers.upstreams();
        let following = tokio::spawn(follow(resolvers, Arc::default()));
        // Far below the minute after which it looks by itself; each change is made again, since the first may come before
        // the watch, which is of no account.
        for last in 2..5 {
            let expected = format!("192.0.2.{last}:53");
            for round in 0.. {
                assert!(round < 400, "the change was not noticed");
                if round % 20 == 0 {
                    behind.write("stub.conf", &format!("nameserver 192.0.2.{last}\n"));
                }
                if texts(&upstreams) == [expected.as_str()] {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        // The link itself is led elsewhere.
        let other = dir.write("other.conf", "nameserver 192.0.2.77\n");
        std::fs::remove_file(&conf).unwrap();
        std::os::unix::fs::symlink(other, &conf).unwrap();
        while texts(&upstreams) != ["192.0.2.77:53"] {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        following.abort();
    }
}
