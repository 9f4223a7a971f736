//! Ends a process in the middle of its work: after a number of changes that the kernel announces.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use netd_tests::lab::{Netns, Signal};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

/// Links, addresses and routes of both families (the `RTMGRP_` bits of rtnetlink.h).
const ROUTE_GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// `NFNLGRP_NFTABLES` is group 7.
const NFTABLES_GROUP: u32 = 1 << 6;

/// The changes of one namespace.
#[derive(Debug)]
pub(crate) struct Changes {
    sockets: [OwnedFd; 2],
}

impl Changes {
    /// Listens from now on.
    pub(crate) fn of(netns: &Netns) -> Self {
        let open = |protocol, groups| {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).unwrap();
            bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups)).unwrap();
            fd
        };
        let sockets = netns.run(|| {
            [
                open(SockProtocol::NetlinkRoute, ROUTE_GROUPS),
                open(SockProtocol::NetlinkNetFilter, NFTABLES_GROUP),
            ]
        });
        Self { sockets }
    }

    /// Kills a process when that many changes were seen and a moment has passed, or when `enough` is set. The answer is
    /// how many were seen.
    pub(crate) fn kill_after(
        &self,
        changes: usize,
        moment: Duration,
        enough: &AtomicBool,
        pid: u32,
    ) -> usize {
        let mut seen = 0;
        while seen < changes && !enough.load(Ordering::SeqCst) {
            let mut fds =
                [0, 1].map(|n: usize| PollFd::new(self.sockets[n].as_fd(), PollFlags::POLLIN));
            // A timeout, to look whether it is enough.
            let _ = poll(&mut fds, PollTimeout::from(1u8));
            seen += self.pending();
        }
        // Between two changes there are records, sockets and other namespaces: a spin, for sleeping is too coarse.
        let begun = Instant::now();
        while begun.elapsed() < moment {
            std::hint::spin_loop();
        }
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        // One that has ended by itself is noticed by whoever waits for it.
        let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
        seen
    }

    fn pending(&self) -> usize {
        // What does not fit is cut off, which does not matter here.
        let mut buffer = [0; 8192];
        let mut seen = 0;
        for socket in &self.sockets {
            // Also an overrun is a change, and leaves the socket usable.
            while !matches!(
                recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT),
                Err(nix::errno::Errno::EAGAIN)
            ) {
                seen += 1;
            }
        }
        seen
    }
}
