//! A DNS query each millisecond, from a client like a resolver: without an answer it asks once more after a second.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

use super::{Beats, Figures, Load};
use crate::lab::{Netns, PATIENCE};

/// After this time a resolver asks again.
const RETRY: Duration = Duration::from_secs(1);

/// How a query fails whose repetition was not answered either.
pub const NO_ANSWER: &str = "no answer to a query and its repetition";

/// A query that waits for its answer, on a socket of its own as resolvers have it.
struct Waiting {
    socket: UdpSocket,
    id: u16,
    sent: Instant,
    again: bool,
}

/// What came of a look at a query.
enum Look {
    Waits,
    Answered,
    Failed(String),
}

/// Asks for the IPv4 address of `host`, which has to be `expected`. The gaps it shows are those between two answers.
pub fn queries(netns: &Netns, name: &str, host: &str, expected: IpAddr) -> Load {
    let question = question(host);
    Load::start(netns, name, move |meter| {
        let mut figures = Figures::default();
        let mut waiting: VecDeque<Waiting> = VecDeque::new();
        let mut beats = Beats::new();
        let mut heard = Instant::now();
        let mut id = 0_u16;
        while meter.goes_on() || !waiting.is_empty() {
            meter.waiting.store(waiting.len() as u64, Ordering::Relaxed);
            if meter.goes_on() {
                id = id.wrapping_add(1);
                match ask(&question, id) {
                    Ok(query) => waiting.push_back(query),
                    Err(error) => figures.lose(error),
                }
            }
            waiting.retain_mut(|query| match look(query, &question, expected) {
                Look::Waits => true,
                Look::Answered => {
                    meter.tick(heard.elapsed());
                    heard = Instant::now();
                    figures.done += 1;
                    figures.retried += u64::from(query.again);
                    false
                }
                Look::Failed(why) => {
                    figures.lose(why);
                    false
                }
            });
            beats.wait();
        }
        figures
    })
}

fn question(host: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    let name = Name::from_ascii(host).expect("a name");
    message.add_query(Query::query(name, RecordType::A));
    message.to_vec().expect("a question")
}

fn send(socket: &UdpSocket, question: &[u8], id: u16) -> io::Result<()> {
    let bytes = [&id.to_be_bytes(), &question[2..]].concat();
    socket.send(&bytes).map(drop)
}

fn ask(question: &[u8], id: u16) -> io::Result<Waiting> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(SocketAddr::from(([127, 0, 0, 11], 53)))?;
    socket.set_nonblocking(true)?;
    send(&socket, question, id)?;
    Ok(Waiting {
        socket,
        id,
        sent: Instant::now(),
        again: false,
    })
}

fn look(query: &mut Waiting, question: &[u8], expected: IpAddr) -> Look {
    let mut buffer = [0; 1500];
    // While no daemon runs the kernel refuses: that is no answer, and the resolver waits.
    if let Ok(length) = query.socket.recv(&mut buffer) {
        return check(&buffer[..length], query.id, expected);
    }
    let waited = query.sent.elapsed();
    if !query.again && waited > RETRY {
        query.again = true;
        // The first call may only tell of the refusal.
        let _ = send(&query.socket, question, query.id)
            .or_else(|_| send(&query.socket, question, query.id));
    }
    if waited > RETRY + PATIENCE / 6 {
        return Look::Failed(NO_ANSWER.to_owned());
    }
    Look::Waits
}

fn check(bytes: &[u8], id: u16, expected: IpAddr) -> Look {
    let Ok(message) = Message::from_vec(bytes) else {
        return Look::Failed("the answer is no DNS message".to_owned());
    };
    let addresses = message.answers.iter().filter_map(|r| match &r.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        _ => None,
    });
    let right = message.metadata.id == id
        && message.metadata.response_code == ResponseCode::NoError
        && addresses.eq([expected]);
    if right {
        Look::Answered
    } else {
        Look::Failed(format!("a wrong answer: {message}"))
    }
}
