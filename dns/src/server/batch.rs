//! Owns the buffers for datagrams that are read and written together: `recvmmsg` and `sendmmsg`.
//!
//! One per thread, so that an idle container holds none. Reading also saves the call that would only say that nothing more
//! is there: a batch that is not full was all.

use std::cell::Cell;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrLike, recvmmsg, sendmmsg,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::listener::MAX_QUERY;

/// Datagrams taken before the connections, the stop signal and other containers get their turn.
pub(super) const BATCH: usize = 32;

thread_local! {
    static SPARE: Cell<Option<Box<Batch>>> = const { Cell::new(None) };
}

/// Queries that came in together, and their replies.
pub(super) struct Batch {
    input: Vec<u8>,
    v4: MultiHeaders<SockaddrIn>,
    v6: MultiHeaders<SockaddrIn6>,
    /// Headers for sending are never used to receive: `sendmmsg` leaves pointers to the addresses of its caller in them, and
    /// `recvmmsg` would write there.
    to_v4: MultiHeaders<SockaddrIn>,
    to_v6: MultiHeaders<SockaddrIn6>,
    /// Length and sender of each query.
    pub(super) queries: Vec<(usize, SocketAddr)>,
    replies: Vec<Vec<u8>>,
    /// Which of the replies goes to whom; the others are free.
    to: Vec<SocketAddr>,
}

impl Batch {
    /// The thread's batch, empty.
    pub(super) fn take() -> Box<Self> {
        SPARE.take().unwrap_or_else(|| {
            Box::new(Self {
                input: vec![0; BATCH * MAX_QUERY],
                v4: MultiHeaders::preallocate(BATCH, None),
                v6: MultiHeaders::preallocate(BATCH, None),
                to_v4: MultiHeaders::preallocate(BATCH, None),
                to_v6: MultiHeaders::preallocate(BATCH, None),
                queries: Vec::with_capacity(BATCH),
                replies: (0..BATCH).map(|_| Vec::with_capacity(512)).collect(),
                to: Vec::with_capacity(BATCH),
            })
        })
    }

    /// Gives the buffers back to the thread.
    pub(super) fn give_back(self: Box<Self>) {
        SPARE.set(Some(self));
    }

    /// Reads the datagrams that are there, at most [`BATCH`]. The rest of one that is longer than [`MAX_QUERY`] is cut off.
    pub(super) fn receive(&mut self, socket: &UdpSocket, v4: bool) -> io::Result<()> {
        self.queries.clear();
        self.to.clear();
        let mut received = Ok(());
        let _ = socket.try_io(Interest::READABLE, || {
            let result = if v4 {
                receive(socket, &mut self.v4, &mut self.input, &mut self.queries)
            } else {
                receive(socket, &mut self.v6, &mut self.input, &mut self.queries)
            };
            match result {
                // Not full: nothing is left, so wait for the next.
                Ok(()) if self.queries.len() < BATCH => Err(io::ErrorKind::WouldBlock.into()),
                Ok(()) => Ok(()),
                Err(error) => {
                    let again = io::Error::from(error.kind());
                    received = Err(error);
                    Err(again)
                }
            }
        });
        match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            other => other,
        }
    }

    /// The n-th query, and the buffer for its reply.
    pub(super) fn pair(&mut self, number: usize) -> (&[u8], &mut Vec<u8>) {
        let begin = number * MAX_QUERY;
        let length = self.queries[number].0;
        (
            &self.input[begin..begin + length],
            &mut self.replies[self.to.len()],
        )
    }

    /// The buffer that [`pair`](Self::pair) gave last is a reply to this client.
    pub(super) fn reply_to(&mut self, client: SocketAddr) {
        self.to.push(client);
    }

    /// Sends the replies. Not waited for: over loopback and to a bridge a datagram is delivered or dropped at once, and a
    /// client whose reply is lost asks again.
    pub(super) fn send(&mut self, socket: &UdpSocket) {
        if let [client] = self.to[..] {
            drop(socket.try_send_to(&self.replies[0], client));
            return;
        }
        let mut sent = 0;
        while sent < self.to.len() {
            let (to, replies) = (&self.to[sent..], &self.replies[sent..]);
            // An error is about the first of them, which is given up.
            let count = if to[0].is_ipv4() {
                send(
                    socket,
                    &mut self.to_v4,
                    replies,
                    to,
                    |address| match address {
                        SocketAddr::V4(v4) => Some((*v4).into()),
                        SocketAddr::V6(_) => None,
                    },
                )
            } else {
                send(
                    socket,
                    &mut self.to_v6,
                    replies,
                    to,
                    |address| match address {
                        SocketAddr::V4(_) => None,
                        SocketAddr::V6(v6) => Some((*v6).into()),
                    },
                )
            };
            sent += count.unwrap_or(0).max(1);
        }
    }
}

fn receive<S: SockaddrLike + Copy + Into<SocketAddr>>(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<S>,
    input: &mut [u8],
    queries: &mut Vec<(usize, SocketAddr)>,
) -> io::Result<()> {
    let mut slices: Vec<[IoSliceMut<'_>; 1]> = input
        .chunks_exact_mut(MAX_QUERY)
        .map(|chunk| [IoSliceMut::new(chunk)])
        .collect();
    let results = recvmmsg(
        socket.as_raw_fd(),
        headers,
        slices.iter_mut(),
        MsgFlags::MSG_DONTWAIT,
        None,
    )?;
    for message in results {
        // A datagram without a sender cannot be answered, but has its place.
        let from = message
            .address
            .map_or_else(|| SocketAddr::from(([0; 4], 0)), Into::into);
        queries.push((message.bytes, from));
    }
    Ok(())
}

fn send<S>(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<S>,
    replies: &[Vec<u8>],
    to: &[SocketAddr],
    address: impl Fn(&SocketAddr) -> Option<S>,
) -> io::Result<usize>
where
    S: SockaddrLike + Copy,
{
    let slices: Vec<[IoSlice<'_>; 1]> = replies[..to.len()]
        .iter()
        .map(|reply| [IoSlice::new(reply)])
        .collect();
    let addresses: Vec<Option<S>> = to.iter().map(address).collect();
    socket.try_io(Interest::WRITABLE, || {
        let flags = MsgFlags::MSG_DONTWAIT;
        let sent = sendmmsg(socket.as_raw_fd(), headers, &slices, &addresses, [], flags);
        sent.map(Iterator::count).map_err(|error| match error {
            Errno::EAGAIN => io::ErrorKind::WouldBlock.into(),
            other => other.into(),
        })
    })
}
