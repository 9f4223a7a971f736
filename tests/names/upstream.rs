//! A name server for the tests: the host's resolver, or a container's own.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use netd_tests::lab::Netns;
use netd_tests::lab::hickory_proto::op::{Message, ResponseCode};
use netd_tests::lab::hickory_proto::rr::rdata::{A, TXT};
use netd_tests::lab::hickory_proto::rr::{RData, Record, RecordType};

/// What a server does with questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Answers A with this address and TXT with a long text, if the name ends with "example"; else NXDOMAIN.
    Answers(Ipv4Addr),
    /// Takes them and says nothing.
    Silent,
    /// Answers SERVFAIL.
    #[allow(dead_code, reason = "one of the two test files needs it")]
    Fails,
}

/// How long a text is that does not fit into a datagram of old.
pub(crate) const LONG: usize = 2000;

/// A running server; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Upstream {
    seen: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
}

impl Upstream {
    /// Serves UDP and TCP on this address in a namespace.
    pub(crate) fn start(netns: &Netns, address: &str, manner: Manner) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        let (udp, tcp) = netns.run(|| {
            (
                UdpSocket::bind(address).unwrap(),
                TcpListener::bind(address).unwrap(),
            )
        });
        udp.set_read_timeout(Some(LOOK)).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let over = Arc::new(AtomicBool::new(false));
        let role = Role {
            manner,
            seen: Arc::clone(&seen),
            over: Arc::clone(&over),
        };
        let other = role.clone();
        let workers = vec![
            std::thread::spawn(move || role.serve_udp(&udp)),
            std::thread::spawn(move || other.serve_tcp(&tcp)),
        ];
        Self {
            seen,
            over,
            workers,
        }
    }

    /// How many questions for this name came.
    #[allow(dead_code, reason = "one of the two test files counts")]
    pub(crate) fn count(&self, name: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|seen| *seen == name).count()
    }

    /// Whether a question for this name came.
    pub(crate) fn saw(&self, name: &str) -> bool {
        self.seen.lock().unwrap().iter().any(|seen| seen == name)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

/// Between two looks whether the end has come.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Clone)]
struct Role {
    manner: Manner,
    seen: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
}

impl Role {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn serve_udp(&self, socket: &UdpSocket) {
        let mut buffer = [0; 4096];
        while self.goes_on() {
            let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
                continue;
            };
            if let Some(reply) = self.reply(&buffer[..length], 512) {
                let _ = socket.send_to(&reply, peer);
            }
        }
    }

    fn serve_tcp(&self, listener: &TcpListener) {
        while self.goes_on() {
            match listener.accept() {
                Ok((stream, _)) => drop(self.serve_stream(stream)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(LOOK),
                Err(_) => return,
            }
        }
    }

    /// One question.
    fn serve_stream(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut question)?;
        let Some(reply) = self.reply(&question, usize::from(u16::MAX)) else {
            return Ok(());
        };
        let length = u16::try_from(reply.len()).unwrap().to_be_bytes();
        stream.write_all(&[&length[..], &reply[..]].concat())
    }

    fn reply(&self, question: &[u8], room: usize) -> Option<Vec<u8>> {
        let question = Message::from_vec(question).ok()?;
        let query = question.queries.first()?.clone();
        let name = query.name().to_ascii().to_ascii_lowercase();
        let name = name.trim_end_matches('.');
        self.seen.lock().unwrap().push(name.to_owned());
        let mut message = question.into_response();
        message.metadata.recursion_available = true;
        message.metadata.response_code = match self.manner {
            Manner::Silent => return None,
            Manner::Fails => ResponseCode::ServFail,
            Manner::Answers(_) if name.ends_with("example") => ResponseCode::NoError,
            Manner::Answers(_) => ResponseCode::NXDomain,
        };
        let known = message.metadata.response_code == ResponseCode::NoError;
        if let Some(data) = self.data(query.query_type()).filter(|_| known) {
            message.add_answer(Record::from_rdata(query.name().clone(), 60, data));
        }
        let bytes = message.to_vec().unwrap();
        if bytes.len() <= room {
            return Some(bytes);
        }
        message.answers.clear();
        message.metadata.truncation = true;
        message.to_vec().ok()
    }

    fn data(&self, kind: RecordType) -> Option<RData> {
        match (self.manner, kind) {
            (Manner::Answers(ip), RecordType::A) => Some(RData::A(A(ip))),
            (_, RecordType::TXT) => {
                let piece = "x".repeat(200);
                Some(RData::TXT(TXT::new(vec![piece; LONG / 200])))
            }
            _ => None,
        }
    }
}

/// The name asked for, and a reply with one address.
#[allow(dead_code, reason = "one of the two test files needs it")]
pub(crate) fn reply_with(question: &[u8], answer: Ipv4Addr) -> Option<(String, Vec<u8>)> {
    let question = Message::from_vec(question).ok()?;
    let name = question.queries.first()?.name().clone();
    let mut message = question.into_response();
    message.add_answer(Record::from_rdata(name.clone(), 60, RData::A(A(answer))));
    let text = name.to_ascii().trim_end_matches('.').to_owned();
    Some((text, message.to_vec().ok()?))
}

/// The address that `Manner::Answers` gives.
pub(crate) fn address(ip: [u8; 4]) -> (Manner, IpAddr) {
    let ip = Ipv4Addr::from(ip);
    (Manner::Answers(ip), ip.into())
}
