//! Removing links without waiting until the kernel has forgotten them.
//!
//! A request that removes links is answered when nothing in the kernel looks at them any more: an RCU grace period or two,
//! 15 to 45 ms (net/core/dev.c, `netdev_run_todo`). The links, with their names, addresses and routes, are gone after the
//! first 1 to 2 ms of that, and the kernel says so. So threads of their own make the requests, and who asked goes on when
//! the links are gone.

use std::collections::HashSet;
use std::io::{self, PipeWriter};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::Builder;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use super::link;
use super::netlink::{Answer, Netlink, Refusal, Request, listen_for};
use super::space::Space;
use super::wire::u32_at;

/// Requests that wait at the same time; the kernel lets them share what they wait for. Further ones queue up.
const TOGETHER: usize = 4;
const RTM_DELLINK: u16 = 17;
const RTNLGRP_LINK: u32 = 1;
/// Room for the notices of as many links as go at once, in the kernel's own count.
const QUEUE: usize = 1 << 20;
/// `sizeof(struct nlmsghdr)`; `struct ifinfomsg` follows it.
const HEADER: usize = 16;

/// The way to the threads that make the requests. They end with it.
#[derive(Debug)]
pub(super) struct Unlinker(Sender<Errand>);

/// A request to make.
struct Errand {
    request: Request,
    answer: Sender<Answer>,
    /// Closed when there is an answer.
    _open: PipeWriter,
}

impl Unlinker {
    /// Starts the threads in the namespace of the calling one, the host's.
    pub(super) fn start() -> io::Result<Self> {
        let (sender, errands) = channel();
        let errands = Arc::new(Mutex::new(errands));
        for n in 0..TOGETHER {
            let route = Netlink::open(NETLINK_ROUTE)?;
            let errands = Arc::clone(&errands);
            Builder::new()
                .name(format!("netd-unlink-{n}"))
                .stack_size(128 << 10)
                .spawn(move || run(route, &errands))?;
        }
        Ok(Self(sender))
    }

    /// Makes a request that removes the links of these indexes. The answer comes when they are gone, or the request has
    /// failed. The calling thread has to be in the namespace of `space`, the host's.
    pub(super) fn remove(&self, space: &mut Space, request: Request, indexes: &[u32]) -> Answer {
        let notices = listen()?;
        let (ended, open) = io::pipe()?;
        let (sender, answer) = channel();
        let errand = Errand {
            request,
            answer: sender,
            _open: open,
        };
        if let Err(unsent) = self.0.send(errand) {
            // Without the threads it is made here, with the wait.
            return space.route.call(&unsent.0.request);
        }
        let mut left: HashSet<u32> = indexes.iter().copied().collect();
        while !left.is_empty() {
            let mut fds =
                [notices.as_fd(), ended.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            let heard = match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                Err(errno) => Err(io::Error::from(errno)),
                Ok(_) if fds[1].any().unwrap_or(true) => break,
                Ok(_) => hear(&notices, &mut left),
            };
            if heard.is_err() {
                // Notices were lost: the answer itself says when the links are gone.
                break;
            }
        }
        if left.is_empty() {
            // The request still holds, for a moment, what all requests on links take turns at; what follows is not to
            // meet it there.
            return match indexes.first() {
                Some(index) => space.route.call(&link::by_index(*index)).or_else(gone),
                None => Ok(Vec::new()),
            };
        }
        answer
            .recv()
            .unwrap_or_else(|_| Err(Errno::ECANCELED.into()))
    }
}

fn gone(refusal: Refusal) -> Answer {
    match refusal.errno() {
        Errno::ENODEV => Ok(Vec::new()),
        _ => Err(refusal),
    }
}

fn run(mut route: Netlink, errands: &Mutex<Receiver<Errand>>) {
    loop {
        let errand = match errands.lock() {
            Ok(errands) => errands.recv(),
            Err(_) => return,
        };
        let Ok(errand) = errand else { return };
        let answer = route.call(&errand.request);
        // Who has seen the links go does not want it any more.
        let refused = errand.answer.send(answer);
        if let Err(unheard) = refused
            && let Err(refusal) = unheard.0
        {
            tracing::debug!(error = %refusal.source, "links went, and their removal was refused");
        }
    }
}

/// Hears of links that go from the namespace of the calling thread.
fn listen() -> io::Result<Socket> {
    let socket = listen_for(RTM_DELLINK, RTNLGRP_LINK)?;
    setsockopt(&socket, sockopt::RcvBufForce, &QUEUE)
        .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &QUEUE))?;
    Ok(socket)
}

/// Takes out of `left` what lies ready. A bridge tells of its ports in its own family.
fn hear(notices: &Socket, left: &mut HashSet<u32>) -> io::Result<()> {
    // Only the beginning of each is of interest.
    let mut buffer = [0; 64];
    loop {
        match notices.recv(&mut &mut buffer[..], 0) {
            Ok(length) => {
                let body = buffer.get(HEADER..length).unwrap_or_default();
                if body.first() == Some(&0)
                    && let Some(index) = u32_at(body, 4)
                {
                    left.remove(&index);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
