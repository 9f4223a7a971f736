//! The API's socket: our own, or one that the service manager made (sd_listen_fds(3)).

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike as _, UnixAddr, getsockname, getsockopt, sockopt,
};
use tokio::net::UnixListener;

/// The first descriptor that a service manager passes.
const FIRST: i32 = 3;

/// The socket that was passed to this process, if one was. Call it first of all: until then nobody owns the descriptor.
pub(crate) fn passed() -> anyhow::Result<Option<StdListener>> {
    let variable = |name| std::env::var(name).ok();
    let count = announced(
        variable("LISTEN_PID").as_deref(),
        variable("LISTEN_FDS").as_deref(),
        std::process::id(),
    )?;
    if count == 0 {
        return Ok(None);
    }
    #[expect(
        unsafe_code,
        reason = "a descriptor that came with the process has no owner in Rust yet"
    )]
    // SAFETY: the service manager says that this number is open and ours; nothing has been opened or taken before, and
    // whether it is open indeed is asked before it is used or closed.
    let fd = unsafe {
        ensure!(
            nix::libc::fcntl(FIRST, nix::libc::F_GETFD) != -1,
            "LISTEN_FDS is set, but descriptor {FIRST} is not open: start netd by its socket unit"
        );
        OwnedFd::from_raw_fd(FIRST)
    };
    check(&fd)?;
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).context("the passed socket")?;
    Ok(Some(StdListener::from(fd)))
}

/// How many descriptors are meant for us. Pure.
fn announced(pid: Option<&str>, count: Option<&str>, own: u32) -> anyhow::Result<u32> {
    let (Some(pid), Some(count)) = (pid, count) else {
        return Ok(0);
    };
    // Another process's: the variables were inherited.
    if pid.parse() != Ok(own) {
        return Ok(0);
    }
    match count.parse() {
        Ok(count @ (0 | 1)) => Ok(count),
        _ => bail!(
            "netd takes one socket, and LISTEN_FDS={count}: name one ListenStream= in netd.socket"
        ),
    }
}

fn check(fd: &OwnedFd) -> anyhow::Result<()> {
    let wrong = |what: &str| {
        format!(
            "descriptor {} that was passed to netd is {what}: netd.socket has to say ListenStream= with the path of a unix socket",
            fd.as_raw_fd()
        )
    };
    let kind = getsockopt(fd, sockopt::SockType).with_context(|| wrong("no socket"))?;
    let family = getsockname::<UnixAddr>(fd.as_raw_fd()).map(|address| address.family());
    ensure!(
        family == Ok(Some(AddressFamily::Unix)),
        wrong("not a unix socket")
    );
    ensure!(kind == SockType::Stream, wrong("not a stream socket"));
    let listens =
        getsockopt(fd, sockopt::AcceptConn).with_context(|| wrong("not a socket that listens"))?;
    ensure!(listens, wrong("not a socket that listens"));
    Ok(())
}

/// The passed socket, or a new one at `path`, on the current runtime.
pub(crate) fn listen(passed: Option<StdListener>, path: &Path) -> anyhow::Result<UnixListener> {
    let Some(passed) = passed else {
        return make(path);
    };
    passed.set_nonblocking(true).context("the passed socket")?;
    UnixListener::from_std(passed).context("the passed socket")
}

/// The socket of the API, for its owner and the group `netd`. Membership of that group equals root.
fn make(path: &Path) -> anyhow::Result<UnixListener> {
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    #[test]
    fn only_what_is_meant_for_this_process_is_taken() {
        assert_eq!(announced(None, Some("1"), 7).unwrap(), 0);
        assert_eq!(announced(Some("7"), None, 7).unwrap(), 0);
        assert_eq!(announced(Some("8"), Some("1"), 7).unwrap(), 0);
        assert_eq!(announced(Some("7"), Some("1"), 7).unwrap(), 1);
        for count in ["2", "-1", "x"] {
            let error = announced(Some("7"), Some(count), 7)
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(count) && error.contains("ListenStream="),
                "{error}"
            );
        }
    }

    #[test]
    fn only_a_listening_unix_stream_socket_will_do() {
        let why = |fd: OwnedFd| format!("{:#}", check(&fd).unwrap_err());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(why(file.into()).contains("no socket"));
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(why(tcp.into()).contains("not a unix socket"));
        let datagram = UnixDatagram::unbound().unwrap();
        assert!(why(datagram.into()).contains("not a stream socket"));
        let (stream, _other) = UnixStream::pair().unwrap();
        assert!(why(stream.into()).contains("not a socket that listens"));
    }
}
