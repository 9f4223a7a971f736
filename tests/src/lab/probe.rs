//! Probes: who reaches whom.
//!
//! Owns the clients of the echo servers and the words for what came of an attempt.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::Netns;

/// A transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A server answered.
    Reached {
        /// The name of the server.
        name: String,
        /// The address and port from which the server saw the probe come.
        seen_source: SocketAddr,
    },
    /// Somebody said that nobody listens there (RST or port unreachable).
    Refused,
    /// Connected, then closed without an answer.
    Closed,
    /// Silence until the deadline.
    Timeout,
    /// No route, no neighbour, prohibited, or dropped by a local rule.
    Unreachable,
}

/// The answer of an echo server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The name of the server.
    pub name: String,
    /// The address and port from which the server saw the question come.
    pub seen_source: SocketAddr,
}

/// An open TCP connection to an echo server, to see whether it survives.
#[derive(Debug)]
pub struct Conversation {
    stream: BufReader<TcpStream>,
}

impl Outcome {
    /// Whether a server answered.
    pub fn reached(&self) -> bool {
        matches!(self, Self::Reached { .. })
    }

    /// The name of the server that answered.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Reached { name, .. } => Some(name),
            _ => None,
        }
    }

    fn of(result: io::Result<Answer>) -> Self {
        match result {
            Ok(Answer { name, seen_source }) => Self::Reached { name, seen_source },
            Err(error) => Self::of_error(&error),
        }
    }

    fn of_error(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::Timeout,
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                Self::Closed
            }
            // A rule that drops or rejects in the output hook is EPERM, a prohibit route EACCES.
            ErrorKind::NetworkUnreachable
            | ErrorKind::HostUnreachable
            | ErrorKind::AddrNotAvailable
            | ErrorKind::NetworkDown
            | ErrorKind::InvalidInput
            | ErrorKind::PermissionDenied => Self::Unreachable,
            _ => panic!("a probe ended in an unforeseen way: {error}"),
        }
    }
}

impl Netns {
    /// Asks the server at `to`, waiting at most `timeout`.
    pub fn probe(&self, proto: Proto, to: impl ToSocketAddrs, timeout: Duration) -> Outcome {
        self.probe_between(proto, None, address(to), timeout)
    }

    /// Asks from a chosen source address and port (0: any).
    pub fn probe_from(
        &self,
        proto: Proto,
        from: impl ToSocketAddrs,
        to: impl ToSocketAddrs,
        timeout: Duration,
    ) -> Outcome {
        self.probe_between(proto, Some(address(from)), address(to), timeout)
    }

    /// `probe` for TCP.
    pub fn tcp_probe(&self, to: impl ToSocketAddrs, timeout: Duration) -> Outcome {
        self.probe(Proto::Tcp, to, timeout)
    }

    /// `probe` for UDP; asks again a few times before the deadline.
    pub fn udp_probe(&self, to: impl ToSocketAddrs, timeout: Duration) -> Outcome {
        self.probe(Proto::Udp, to, timeout)
    }

    /// Opens a TCP connection that stays.
    pub fn tcp_open(&self, to: impl ToSocketAddrs, timeout: Duration) -> io::Result<Conversation> {
        let to = address(to);
        self.run(|| Conversation::open(None, to, timeout))
    }

    fn probe_between(
        &self,
        proto: Proto,
        from: Option<SocketAddr>,
        to: SocketAddr,
        timeout: Duration,
    ) -> Outcome {
        let ask = match proto {
            Proto::Tcp => ask_tcp,
            Proto::Udp => ask_udp,
        };
        Outcome::of(self.run(|| ask(from, to, timeout)))
    }
}

impl Conversation {
    fn open(from: Option<SocketAddr>, to: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        if let Some(from) = from {
            socket.set_reuse_address(true)?;
            socket.bind(&from.into())?;
        }
        socket.connect_timeout(&to.into(), timeout)?;
        Ok(Self {
            stream: BufReader::new(socket.into()),
        })
    }

    /// Asks the server once more over the same connection.
    pub fn ask(&mut self, timeout: Duration) -> io::Result<Answer> {
        self.stream
            .get_ref()
            .set_read_timeout(Some(timeout.max(SHORTEST)))?;
        self.stream.get_mut().write_all(b"?\n")?;
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        parse(line.trim_end())
    }
}

/// A socket takes a timeout of zero for "for ever".
const SHORTEST: Duration = Duration::from_millis(1);

/// How long a datagram may be under way before it is sent again.
const RESEND: Duration = Duration::from_millis(250);

fn ask_tcp(from: Option<SocketAddr>, to: SocketAddr, timeout: Duration) -> io::Result<Answer> {
    let end = Instant::now() + timeout;
    let mut conversation = Conversation::open(from, to, timeout)?;
    conversation.ask(end.saturating_duration_since(Instant::now()))
}

fn ask_udp(from: Option<SocketAddr>, to: SocketAddr, timeout: Duration) -> io::Result<Answer> {
    let any: SocketAddr = if to.is_ipv4() {
        ([0; 4], 0).into()
    } else {
        ([0; 16], 0).into()
    };
    let socket = UdpSocket::bind(from.unwrap_or(any))?;
    socket.connect(to)?;
    let end = Instant::now() + timeout;
    let mut buffer = [0; 2048];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        socket.send(b"?\n")?;
        socket.set_read_timeout(Some(left.min(RESEND).max(SHORTEST)))?;
        match socket.recv(&mut buffer) {
            Ok(length) => return parse(&String::from_utf8_lossy(&buffer[..length])),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

fn parse(line: &str) -> io::Result<Answer> {
    let strange = || io::Error::other(format!("not the answer of an echo server: {line:?}"));
    let mut fields = line.rsplitn(3, '|');
    let port = fields
        .next()
        .and_then(|port| port.parse().ok())
        .ok_or_else(strange)?;
    let ip = fields
        .next()
        .and_then(|ip| ip.parse().ok())
        .ok_or_else(strange)?;
    let name = fields.next().ok_or_else(strange)?.to_owned();
    Ok(Answer {
        name,
        seen_source: SocketAddr::new(ip, port),
    })
}

fn address(to: impl ToSocketAddrs) -> SocketAddr {
    let mut found = to.to_socket_addrs().expect("an address and a port");
    found.next().expect("an address and a port")
}
