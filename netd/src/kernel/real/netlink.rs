//! A blocking netlink socket: requests with acknowledgements, and dumps.
//!
//! Requests are built by the typed messages of `netlink-packet-route`. Replies are not decoded by it: one attribute
//! of a foreign interface that the crate does not understand would fail a whole dump. [`super::wire`] picks the few
//! attributes that netd needs.

use std::fmt;
use std::io;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NLMSG_DONE, NLMSG_ERROR, NetlinkSerializable,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use socket2::{SockFilter, SockRef};

use super::wire::{Attrs, text, u16_at, u32_at};
use crate::kernel::{KernelError, KernelErrorKind};

/// Datagrams of a dump are at most 32 KiB (net/netlink/af_netlink.c, netlink_dump), unless one message needs more.
const DUMP_BUFFER: usize = 64 << 10;
/// For acknowledgements and single messages; a link's is 1 to 2 KiB.
const BUFFER: usize = 16 << 10;
/// Messages sent at once: their replies have to fit into the default receive buffer of 208 KiB together.
const WINDOW: usize = 32;
/// How often a dump that something changed under is taken again (NLM_F_DUMP_INTR).
const DUMP_TRIES: usize = 20;
/// The kernel answers inside the call that sends the request; a reply that is not there by then was lost.
const LOST: Duration = Duration::from_secs(20);
/// `NLMSGERR_ATTR_MSG` (linux/netlink.h).
const ERROR_TEXT: u16 = 1;
// Instructions of a socket filter (linux/bpf_common.h).
const BPF_LOAD_HALF: u16 = 0x28;
const BPF_EQUAL: u16 = 0x15;
const BPF_RETURN: u16 = 0x06;
/// `sizeof(struct nlmsghdr)`.
const HEADER: usize = 16;

/// A request without its header.
#[derive(Clone, Debug)]
pub(super) struct Request {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Request {
    /// A request that is answered by an acknowledgement.
    pub(super) fn set(message: &impl NetlinkSerializable, flags: u16) -> Self {
        let mut body = vec![0; message.buffer_len()];
        message.serialize(&mut body);
        Self {
            kind: message.message_type(),
            flags: NLM_F_REQUEST | NLM_F_ACK | flags,
            body,
        }
    }

    /// A request that is answered by one message.
    pub(super) fn get(message: &impl NetlinkSerializable) -> Self {
        Self {
            flags: NLM_F_REQUEST,
            ..Self::set(message, 0)
        }
    }

    /// A request that is answered by many messages.
    pub(super) fn list(message: &impl NetlinkSerializable) -> Self {
        Self {
            flags: NLM_F_REQUEST | NLM_F_DUMP,
            ..Self::set(message, 0)
        }
    }

    /// A request given as bytes, for protocols without typed messages.
    pub(super) fn raw(kind: u16, flags: u16, body: Vec<u8>) -> Self {
        Self {
            kind,
            flags: NLM_F_REQUEST | flags,
            body,
        }
    }

    fn emit(&self, seq: u32, out: &mut Vec<u8>) {
        let len = u32::try_from(HEADER + self.body.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&len.to_ne_bytes());
        out.extend_from_slice(&self.kind.to_ne_bytes());
        out.extend_from_slice(&self.flags.to_ne_bytes());
        out.extend_from_slice(&seq.to_ne_bytes());
        out.extend_from_slice(&0u32.to_ne_bytes());
        out.extend_from_slice(&self.body);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

/// Why something was not done, before it is known for which operation.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The error number.
    pub(super) source: io::Error,
    /// The extended acknowledgement of netlink, or words of ours.
    pub(super) text: Option<String>,
    /// What it means.
    pub(super) kind: KernelErrorKind,
}

impl Refusal {
    /// The error number as a name.
    pub(super) fn errno(&self) -> Errno {
        Errno::from_raw(self.source.raw_os_error().unwrap_or(0))
    }

    /// The same with a meaning.
    pub(super) fn of_kind(self, kind: KernelErrorKind) -> Self {
        Self { kind, ..self }
    }

    /// The same with words of ours, in front of the kernel's.
    pub(super) fn because(self, why: impl Into<String>) -> Self {
        let mut text = why.into();
        if let Some(own) = &self.text {
            text = format!("{text}: {own}");
        }
        Self {
            text: Some(text),
            ..self
        }
    }

    /// As an error of an operation.
    pub(super) fn on(self, what: impl fmt::Display) -> KernelError {
        let error = KernelError::new(what, self.source).of_kind(self.kind);
        KernelError {
            detail: self.text,
            ..error
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(source: io::Error) -> Self {
        Self {
            source,
            text: None,
            kind: KernelErrorKind::Other,
        }
    }
}
impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}

/// A refusal with one of these numbers is no failure: what shall be gone is gone.
pub(super) fn gone_is_done(answer: Answer, gone: &[Errno]) -> Result<(), Refusal> {
    match answer {
        Err(refusal) if !gone.contains(&refusal.errno()) => Err(refusal),
        _ => Ok(()),
    }
}

impl fmt::Debug for Netlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without 64 KiB of buffer.
        f.debug_struct("Netlink")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

/// Opens a socket in the thread's current namespace that hears, of what a group is told, the messages of one type. The
/// kernel sorts out all others.
pub(super) fn listen_for(kind: u16, group: u32) -> io::Result<Socket> {
    // Of `struct nlmsghdr`, the type; what is loaded is taken for network byte order.
    let kind = u16::from_be_bytes(kind.to_ne_bytes());
    let load = SockFilter::new(BPF_LOAD_HALF, 0, 0, 4);
    let compare = SockFilter::new(BPF_EQUAL, 0, 1, kind.into());
    let [all, none] = [u32::MAX, 0].map(|bytes| SockFilter::new(BPF_RETURN, 0, 0, bytes));
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    SockRef::from(&socket).attach_filter(&[load, compare, all, none])?;
    socket.bind_auto()?;
    socket.set_non_blocking(true)?;
    socket.add_membership(group)?;
    Ok(socket)
}

/// The answer to one request: the payload of its reply, empty for a bare acknowledgement.
pub(super) type Answer = Result<Vec<u8>, Refusal>;

/// A netlink socket. It belongs to the namespace that the thread was in when it was opened.
pub(super) struct Netlink {
    socket: Socket,
    seq: u32,
    buffer: Vec<u8>,
    out: Vec<u8>,
}

impl Netlink {
    /// Opens a socket of a protocol (`netlink_sys::protocols`) in the thread's current namespace.
    pub(super) fn open(protocol: isize) -> io::Result<Self> {
        let socket = Socket::new(protocol)?;
        // Connected to the kernel, nobody else in that namespace can put a message in between.
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        // Without it a dump ignores its filters, and a request fields that the kernel does not know (4.20).
        socket.set_netlink_get_strict_chk(true)?;
        let lost = TimeVal::new(LOST.as_secs().try_into().unwrap_or(i64::MAX), 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &lost)?;
        Ok(Self {
            socket,
            seq: 0,
            buffer: vec![0; BUFFER],
            out: Vec::new(),
        })
    }

    /// One request and its answer.
    pub(super) fn call(&mut self, request: &Request) -> Answer {
        let mut answers = self.batch(std::slice::from_ref(request))?;
        answers.pop().unwrap_or_else(|| Err(Errno::EPROTO.into()))
    }

    /// Sends several requests in one go; the kernel works on all of them, in order, whatever becomes of each.
    ///
    /// A failure of the call itself leaves the outcome of the requests open.
    pub(super) fn batch(&mut self, requests: &[Request]) -> Result<Vec<Answer>, Refusal> {
        let mut answers = Vec::with_capacity(requests.len());
        for window in requests.chunks(WINDOW) {
            self.send(window)?;
            self.collect(window.len(), &mut answers)?;
        }
        Ok(answers)
    }

    fn send(&mut self, requests: &[Request]) -> io::Result<()> {
        self.out.clear();
        for request in requests {
            self.seq = self.seq.wrapping_add(1);
            request.emit(self.seq, &mut self.out);
        }
        let sent = self.socket.send(&self.out, 0)?;
        if sent == self.out.len() {
            Ok(())
        } else {
            Err(Errno::EMSGSIZE.into())
        }
    }

    /// Gathers the answers to the last `count` requests.
    fn collect(&mut self, count: usize, answers: &mut Vec<Answer>) -> io::Result<()> {
        let first = self
            .seq
            .wrapping_sub(u32::try_from(count).unwrap_or(0))
            .wrapping_add(1);
        let mut got = 0;
        while got < count {
            let len = self.receive()?;
            for message in Messages(&self.buffer[..len]) {
                // An answer to an earlier request whose wait was given up.
                if message.seq.wrapping_sub(first) as usize != got {
                    continue;
                }
                got += 1;
                answers.push(match message.kind {
                    NLMSG_ERROR => message.outcome().map(|()| Vec::new()),
                    _ => Ok(message.body.to_vec()),
                });
            }
        }
        Ok(())
    }

    /// Reads one datagram; one that does not fit is an error (EMSGSIZE) and makes the buffer grow for the next time.
    fn receive(&mut self) -> io::Result<usize> {
        loop {
            // With MSG_TRUNC the length is that of the datagram, not of the part that was copied.
            match self
                .socket
                .recv(&mut &mut self.buffer[..], nix::libc::MSG_TRUNC)
            {
                Ok(len) if len > self.buffer.len() => {
                    self.buffer.resize(len.next_power_of_two(), 0);
                    return Err(Errno::EMSGSIZE.into());
                }
                Ok(len) => return Ok(len),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// All messages of a dump, each through `read`. Taken again when the kernel says that something changed under it.
    pub(super) fn dump<T>(
        &mut self,
        request: &Request,
        mut read: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Refusal> {
        for _ in 0..DUMP_TRIES {
            let mut found = Vec::new();
            match self.dump_once(request, &mut |body| found.extend(read(body))) {
                Ok(true) => return Ok(found),
                Ok(false) => {}
                Err(refusal) => match refusal.errno() {
                    Errno::ENOBUFS | Errno::EMSGSIZE => self.drain(),
                    _ => return Err(refusal),
                },
            }
        }
        Err(Refusal::from(Errno::EINTR).because("the table kept changing while it was read"))
    }

    /// One dump; false when it is not consistent.
    fn dump_once(
        &mut self,
        request: &Request,
        read: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, Refusal> {
        if self.buffer.len() < DUMP_BUFFER {
            self.buffer.resize(DUMP_BUFFER, 0);
        }
        self.send(std::slice::from_ref(request))?;
        let mut whole = true;
        loop {
            let len = self.receive()?;
            for message in Messages(&self.buffer[..len]) {
                if message.seq != self.seq {
                    continue;
                }
                whole &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_DONE | NLMSG_ERROR => return message.outcome().map(|()| whole),
                    _ => read(message.body),
                }
            }
        }
    }

    /// Throws away what is left of a dump that was given up.
    fn drain(&mut self) {
        if self.socket.set_non_blocking(true).is_ok() {
            while self.receive().is_ok() {}
        }
        // A socket that stays non-blocking would only make later calls fail with EAGAIN.
        let _ = self.socket.set_non_blocking(false);
    }
}

/// One message of a datagram.
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    flags: u16,
    seq: u32,
    /// The socket whose request it is about; 0 is the kernel itself.
    pub(super) port: u32,
    pub(super) body: &'a [u8],
}

impl Message<'_> {
    /// Reads NLMSG_ERROR and NLMSG_DONE: both start with an error number, negative or 0.
    fn outcome(&self) -> Result<(), Refusal> {
        let code = u32_at(self.body, 0).map_or(0, u32::cast_signed);
        if code == 0 {
            return Ok(());
        }
        let source = io::Error::from_raw_os_error(code.saturating_neg());
        Err(Refusal {
            text: self.error_text(),
            ..source.into()
        })
    }

    /// The words that come with an error. Before them is the header of the request, and the request itself
    /// unless the kernel capped it.
    fn error_text(&self) -> Option<String> {
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let skip = match (self.kind, self.flags & NLM_F_CAPPED) {
            (NLMSG_DONE, _) => 4,
            (_, 0) => 4 + (u32_at(self.body, 4)? as usize).next_multiple_of(4),
            _ => 4 + HEADER,
        };
        let attrs = Attrs::new(self.body.get(skip..)?);
        attrs.find(ERROR_TEXT).map(text)
    }
}

/// The messages of one datagram.
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let len = u32_at(self.0, 0)? as usize;
        let message = Message {
            body: self.0.get(HEADER..len)?,
            kind: u16_at(self.0, 4)?,
            flags: u16_at(self.0, 6)?,
            seq: u32_at(self.0, 8)?,
            port: u32_at(self.0, 12)?,
        };
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(flags: u16, code: i32, rest: &[u8]) -> Vec<u8> {
        let mut body = code.to_ne_bytes().to_vec();
        body.extend_from_slice(rest);
        let mut out = Vec::new();
        Request::raw(NLMSG_ERROR, flags, body).emit(7, &mut out);
        out
    }

    #[test]
    fn errors_carry_the_kernels_words() {
        let mut rest = vec![0; HEADER];
        rest.extend_from_slice(&[8, 0, 1, 0, b'n', b'o', b'!', 0]);
        let bytes = error(NLM_F_CAPPED | NLM_F_ACK_TLVS, -17, &rest);
        let refusal = Messages(&bytes).next().unwrap().outcome().unwrap_err();
        assert_eq!(refusal.errno(), Errno::EEXIST);
        assert_eq!(refusal.text.as_deref(), Some("no!"));

        let plain = error(0, -17, &[0; HEADER]);
        assert!(
            Messages(&plain)
                .next()
                .unwrap()
                .outcome()
                .unwrap_err()
                .text
                .is_none()
        );
        assert!(
            Messages(&error(0, 0, &[]))
                .next()
                .unwrap()
                .outcome()
                .is_ok()
        );
    }

    #[test]
    fn cut_datagrams_end_the_list() {
        let mut bytes = error(0, 0, &[0; HEADER]);
        let whole = bytes.clone();
        bytes.extend_from_slice(&whole[..20]);
        assert_eq!(Messages(&bytes).count(), 1);
        for len in 0..whole.len() {
            assert_eq!(Messages(&whole[..len]).count(), 0, "{len}");
        }
    }
}
