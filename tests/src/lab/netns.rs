//! Network namespaces: the hosts and containers of the tests.
//!
//! Owns the life of a namespace and the way code runs inside it. A namespace is held by a thread
//! of this process or, for tests that name a container by `pid:N`, by a process of its own. Code
//! runs in scoped threads that join the namespace first, so calls may overlap and may borrow.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::{Process, commands, sys};

/// A network namespace; it ends when this value and everything else that holds it is gone.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
    path: PathBuf,
    holder: Holder,
}

#[derive(Debug)]
enum Holder {
    /// The thread ends when the sender is dropped.
    Thread {
        end: Option<Sender<()>>,
        thread: Option<JoinHandle<()>>,
    },
    Process(Process),
}

/// A namespace bound to a file; dropping it removes the mount and the file.
#[derive(Debug)]
pub struct Bound {
    path: PathBuf,
}

impl Netns {
    /// A namespace as the kernel makes it and as a runtime hands it to netd: lo is down.
    pub fn new(name: &str) -> Self {
        let (opened_tx, opened) = channel();
        let (end, ended) = channel::<()>();
        let thread = Builder::new().name(format!("netns {name}")).spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare(CLONE_NEWNET)");
            let path = format!(
                "/proc/{}/task/{}/ns/net",
                nix::unistd::getpid(),
                nix::unistd::gettid()
            );
            let file = File::open(&path).expect("opening the namespace");
            opened_tx
                .send((PathBuf::from(path), file))
                .expect("the maker waits");
            let _ = ended.recv();
        });
        let thread = Some(thread.expect("a thread to hold the namespace"));
        let (path, file) = opened
            .recv()
            .expect("the holding thread made its namespace");
        let holder = Holder::Thread {
            end: Some(end),
            thread,
        };
        Self {
            name: name.to_owned(),
            file,
            path,
            holder,
        }
    }

    /// A namespace that plays a host: lo is up and IPv6 addresses work at once (no DAD).
    pub fn host(name: &str) -> Self {
        let host = Self::new(name);
        host.no_dad();
        host.up("lo");
        host
    }

    /// A namespace held by a process of its own, for `pid:N`. lo is down.
    pub fn process(name: &str) -> Self {
        let mut command = commands::self_command::<&str>(commands::PAUSE, &[]);
        sys::in_new_netns(&mut command);
        let process = Process::start(&format!("container {name}"), command);
        let path = PathBuf::from(format!("/proc/{}/ns/net", process.pid()));
        let file = File::open(&path).expect("opening the namespace of the process");
        Self {
            name: name.to_owned(),
            file,
            path,
            holder: Holder::Process(process),
        }
    }

    /// The name given at the start, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path another process can open, as long as this value lives.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The process that holds the namespace: its own for `Netns::process`, else this one.
    pub fn pid(&self) -> u32 {
        match &self.holder {
            Holder::Thread { .. } => std::process::id(),
            Holder::Process(process) => process.pid(),
        }
    }

    /// Number by which the kernel knows the namespace.
    pub fn inode(&self) -> u64 {
        self.file.metadata().expect("stat of a namespace").ino()
    }

    /// Has the kernel compute the checksums of what a link sends (`ethtool -K LINK tx off`).
    pub fn leave_no_checksums_to(&self, link: &str) {
        let done = self.run(|| sys::tx_checksums_off(link));
        done.unwrap_or_else(|error| panic!("{link} in {}: {error}", self.name));
    }

    /// Runs `work` inside the namespace and returns what it returns; a panic passes through.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let worker = Builder::new()
                .name(self.name.clone())
                .spawn_scoped(scope, || {
                    join(&self.file);
                    work()
                });
            let result = worker.expect("a thread to work in the namespace").join();
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `work` inside the namespace beside the test.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let fd = self.descriptor();
        let worker = Builder::new().name(self.name.clone()).spawn(move || {
            join(&fd);
            work()
        });
        worker.expect("a thread to work in the namespace")
    }

    /// A command that starts inside the namespace. Hand it to `start`, or use it as it is.
    pub fn command<S: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, args: &[S]) -> Command {
        let mut command = Command::new(program);
        command.args(args);
        sys::in_netns(&mut command, self.descriptor());
        command
    }

    /// One of this binary's own programs (see `dispatch`) as a command inside the namespace.
    pub fn self_command<S: AsRef<OsStr>>(&self, name: &str, args: &[S]) -> Command {
        let mut command = commands::self_command(name, args);
        sys::in_netns(&mut command, self.descriptor());
        command
    }

    /// Starts a command as a supervised process; `label` names it in the output of a failed test.
    pub fn start(&self, label: &str, command: Command) -> Process {
        Process::start(&format!("{label} in {}", self.name), command)
    }

    /// Binds the namespace to a file, as `ip netns add` and CNI runtimes do.
    pub fn bind(&self, path: impl AsRef<Path>) -> Bound {
        let path = path.as_ref().to_owned();
        std::fs::create_dir_all(path.parent().expect("a file in a directory")).unwrap();
        File::create(&path).unwrap();
        let none = None::<&str>;
        mount(Some(&self.path), &path, none, MsFlags::MS_BIND, none)
            .unwrap_or_else(|errno| panic!("bind mount on {}: {errno}", path.display()));
        Bound { path }
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    fn descriptor(&self) -> OwnedFd {
        self.file
            .as_fd()
            .try_clone_to_owned()
            .expect("a copy of the descriptor")
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let own = PathBuf::from(format!("net:[{}]", self.inode()));
        match &mut self.holder {
            Holder::Thread { end, thread } => {
                drop(end.take());
                let _ = thread.take().map(JoinHandle::join);
                // A joined thread is still leaving the kernel, and holds the namespace until then.
                while std::fs::read_link(&self.path).is_ok_and(|held| held == own) {
                    std::thread::yield_now();
                }
            }
            Holder::Process(process) => process.kill(),
        }
    }
}

impl Bound {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_file(&self.path);
    }
}

fn join(netns: impl AsFd) {
    setns(netns, CloneFlags::CLONE_NEWNET).expect("setns to a namespace of the laboratory");
}
