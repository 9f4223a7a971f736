//! The netlink socket: batches out, their outcome and dumps in. Knows nothing of what is inside a message.

use std::io;
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr};
use nix::libc::{MSG_DONTWAIT, MSG_TRUNC};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::abi::*;
use super::attr::{Header, Message, Writer, messages};

/// Longest datagram that the kernel sends (`netlink_recvmsg`: 32 KiB), with room to spare.
const RECEIVE: usize = 64 * 1024;
/// Room for the errors of a batch of which everything fails.
const RECEIVE_QUEUE: usize = 4 * 1024 * 1024;
/// Some 400,000 elements.
const BATCH_MAX: usize = 64 * 1024 * 1024;
/// What `netlink_sendmsg` (net/netlink/af_netlink.c) keeps back from the send buffer.
const SEND_OVERHEAD: usize = 32;
/// How often a dump is repeated that others' changes interrupt.
const DUMP_ATTEMPTS: u64 = 32;
/// The kernel answers from within the call that asks. A wait this long is a bug, and must not hang an executor.
const PATIENCE_SECONDS: i64 = 10;

/// A socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Transport {
    socket: Socket,
    /// Number of the socket in its namespace: notices of what it did carry it.
    pub(super) port: u32,
    seq: u32,
    send_queue: usize,
    /// A batch that is longer is cut even where the kernel would take it.
    pub(super) batch_max: usize,
    buffer: Vec<u8>,
}

/// A message of a batch that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// Which: 0 is the first after the message that begins the batch; `None` for the batch as a whole.
    pub(super) message: Option<usize>,
    /// The error number, positive.
    pub(super) errno: i32,
}

/// The answers to a dump.
#[derive(Debug)]
pub(super) struct Dump {
    bytes: Vec<u8>,
    seq: u32,
}

impl Dump {
    /// Each object.
    pub(super) fn iter(&self) -> impl Iterator<Item = Message<'_>> {
        messages(&self.bytes).filter(|message| message.seq == self.seq && message.kind > NLMSG_DONE)
    }
}

impl Transport {
    /// Opens a socket in the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        let port = socket.bind_auto()?.port_number();
        // An error repeats the header of what failed, not all of it.
        socket.set_cap_ack(true)?;
        let patience = TimeVal::new(PATIENCE_SECONDS, 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
        // Beyond net.core.rmem_max only with CAP_NET_ADMIN in the first user namespace.
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_QUEUE)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_QUEUE))?;
        let send_queue = getsockopt(&socket, sockopt::SndBuf)?;
        let buffer = Vec::with_capacity(RECEIVE);
        Ok(Self {
            socket,
            port,
            seq: 1,
            send_queue,
            batch_max: BATCH_MAX,
            buffer,
        })
    }

    /// The number of the next message.
    pub(super) const fn next_seq(&self) -> u32 {
        self.seq
    }

    /// Whether a batch of this length can be sent, after the send buffer was grown as far as the kernel allows.
    pub(super) fn has_room(&mut self, len: usize) -> io::Result<bool> {
        if len > self.batch_max {
            return Ok(false);
        }
        let need = len.saturating_add(SEND_OVERHEAD);
        if need > self.send_queue {
            // The kernel doubles it, so it is not grown for each batch that is a little longer than the last.
            setsockopt(&self.socket, sockopt::SndBufForce, &need)
                .or_else(|_| setsockopt(&self.socket, sockopt::SndBuf, &need))?;
            self.send_queue = getsockopt(&self.socket, sockopt::SndBuf)?;
        }
        Ok(need <= self.send_queue)
    }

    /// Sends a batch of so many messages, numbered from [`Self::next_seq`], the first and last being the frame. The
    /// last within the frame asks for an acknowledgement. Returns what failed: nothing if the batch was committed.
    pub(super) fn commit(&mut self, batch: &[u8], messages: usize) -> io::Result<Vec<Failure>> {
        let first = self.seq;
        self.seq = first.wrapping_add(u32::try_from(messages).unwrap_or(u32::MAX));
        self.send(batch)?;
        // Beginning, content, end: the last of the content is the one before the last.
        self.outcome(first, messages.saturating_sub(2))
    }

    /// Reads the errors of a batch. They lie ready when the batch was sent: the kernel works within the call.
    ///
    /// Errors are listed in the order of the messages, the acknowledgement of the last one after them. When they do
    /// not fit into the receive queue (`ENOBUFS`), it is the last ones that are lost.
    fn outcome(&mut self, first: u32, last: usize) -> io::Result<Vec<Failure>> {
        let mut failures = Vec::new();
        let mut acknowledged = false;
        while !(acknowledged && failures.is_empty()) {
            match self.receive(MSG_DONTWAIT) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if is(&error, nix::libc::ENOBUFS) => continue,
                Err(error) => return Err(error),
            }
            for message in messages(&self.buffer).filter(|m| m.kind == NLMSG_ERROR) {
                let index = usize::try_from(message.seq.wrapping_sub(first)).unwrap_or(usize::MAX);
                let errno = message.error().saturating_neg();
                match (index <= last, errno) {
                    (false, _) => {}
                    (true, 0) => acknowledged |= index == last,
                    (true, _) => failures.push(Failure {
                        message: index.checked_sub(1),
                        errno,
                    }),
                }
            }
        }
        if failures.is_empty() && !acknowledged {
            return Err(io::Error::from_raw_os_error(nix::libc::ENOBUFS));
        }
        Ok(failures)
    }

    /// Asks for all objects of a kind; `filter` writes attributes that narrow them.
    ///
    /// A dump that a change of the rules interrupted is repeated, so what is returned is consistent in itself.
    pub(super) fn dump(
        &mut self,
        kind: u16,
        family: u8,
        filter: impl Fn(&mut Writer),
    ) -> io::Result<Dump> {
        for attempt in 0..DUMP_ATTEMPTS {
            if let Some(dump) = self.dump_once(kind, family, &filter)? {
                return Ok(dump);
            }
            // Some program changes rules without pause: give it time to finish, more each time.
            std::thread::sleep(Duration::from_millis(attempt));
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "the rules are changed by others too often to be read",
        ))
    }

    /// One attempt; `None` if it was interrupted.
    fn dump_once(
        &mut self,
        kind: u16,
        family: u8,
        filter: impl Fn(&mut Writer),
    ) -> io::Result<Option<Dump>> {
        let seq = self.seq;
        self.seq = seq.wrapping_add(1);
        let mut request = Writer::default();
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        request.message(
            Header {
                flags,
                seq,
                ..Header::of(kind, family)
            },
            filter,
        );
        self.send(request.bytes())?;
        let mut dump = Dump {
            bytes: Vec::new(),
            seq,
        };
        let mut interrupted = false;
        loop {
            match self.receive(0) {
                Ok(()) => {}
                // Cannot happen while nobody else sends to this socket; if it does, something is missing.
                Err(error) if is(&error, nix::libc::ENOBUFS) => {
                    interrupted = true;
                    continue;
                }
                Err(error) => return Err(error),
            }
            // The end may come in one datagram with the last objects.
            dump.bytes.extend_from_slice(&self.buffer);
            for message in messages(&self.buffer).filter(|message| message.seq == seq) {
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                if matches!(message.kind, NLMSG_DONE | NLMSG_ERROR) {
                    return match message.error().saturating_neg() {
                        0 => Ok((!interrupted).then_some(dump)),
                        errno => Err(io::Error::from_raw_os_error(errno)),
                    };
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads one datagram of the kernel into the buffer.
    fn receive(&mut self, flags: i32) -> io::Result<()> {
        loop {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer, flags | MSG_TRUNC) {
                Ok((len, _)) if len > self.buffer.len() => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "a datagram was cut",
                    ));
                }
                Ok((_, sender)) if sender.port_number() == 0 => return Ok(()),
                // Not from the kernel.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn is(error: &io::Error, errno: i32) -> bool {
    error.raw_os_error() == Some(errno)
}
