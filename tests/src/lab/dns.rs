//! A DNS client that shows everything.
//!
//! Owns the questions tests put to a name server and the reply with all its flags. It asks once
//! and never again by itself: a lost answer is something a test must see.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::Netns;

/// How a question travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One datagram.
    Udp,
    /// A TCP connection.
    Tcp,
}

/// What the server said.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Response code.
    pub rcode: ResponseCode,
    /// Records of the answer section.
    pub answers: Vec<Record>,
    /// Authoritative.
    pub aa: bool,
    /// Truncated.
    pub tc: bool,
    /// Recursion available.
    pub ra: bool,
    /// The whole message, parsed.
    pub message: Message,
    /// The whole message, as it came.
    pub raw: Vec<u8>,
}

impl Reply {
    /// The addresses among the answers, in their order.
    pub fn ips(&self) -> Vec<IpAddr> {
        let ips = self.answers.iter().filter_map(|record| match &record.data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        });
        ips.collect()
    }
}

/// Long enough for a busy machine; a test that wants quick answers measures them itself.
const TIMEOUT: Duration = Duration::from_secs(10);

impl Netns {
    /// `dns_query` from inside the namespace.
    pub fn dns_query(
        &self,
        server: SocketAddr,
        name: &str,
        record_type: RecordType,
        transport: Transport,
    ) -> io::Result<Reply> {
        self.run(|| dns_query(server, name, record_type, transport))
    }
}

/// Asks `server` one question, recursion desired, without EDNS.
pub fn dns_query(
    server: SocketAddr,
    name: &str,
    record_type: RecordType,
    transport: Transport,
) -> io::Result<Reply> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(
        Name::from_ascii(name).map_err(io::Error::other)?,
        record_type,
    ));
    dns_exchange(server, &message, transport)
}

/// Sends a message the test has made (EDNS, other opcodes, many questions) and reads the reply.
pub fn dns_exchange(
    server: SocketAddr,
    question: &Message,
    transport: Transport,
) -> io::Result<Reply> {
    let bytes = question.to_vec().map_err(io::Error::other)?;
    let raw = match transport {
        Transport::Udp => over_udp(server, &bytes)?,
        Transport::Tcp => over_tcp(server, &bytes)?,
    };
    let message = Message::from_vec(&raw).map_err(io::Error::other)?;
    if message.metadata.id != question.metadata.id {
        return Err(io::Error::other("the reply has the id of another question"));
    }
    Ok(Reply {
        rcode: message.metadata.response_code,
        answers: message.answers.clone(),
        aa: message.metadata.authoritative,
        tc: message.metadata.truncation,
        ra: message.metadata.recursion_available,
        message,
        raw,
    })
}

fn over_udp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any = if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.send(question)?;
    let mut buffer = vec![0; 65_535];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

fn over_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut reply)?;
    Ok(reply)
}
