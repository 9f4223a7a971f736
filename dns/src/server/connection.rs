//! Owns one TCP connection of a container: length-prefixed messages (RFC 7766).
//!
//! What is known here is answered at once; what goes upstream is answered when it comes, so a slow name does not hold up
//! the others (RFC 7766 section 6.2.1.1). Never outlives its listener.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::frames::{Frames, frame};
use super::listener::{Listener, MAX_QUERY, Step};
use crate::answer::Transport;

/// How long a client may take to send the next whole message, or to take a reply. Bytes that are no message do not count:
/// a client that sends one now and then is as idle as one that sends none.
const IDLE: Duration = Duration::from_secs(10);
/// Queries of one connection that are with upstreams; beyond that nothing more is read.
const MAX_WAITING: usize = 32;

/// A connection that is reset when it is dropped before its end: a socket that still had bytes to deliver
/// would keep the namespace for as long as the peer leaves them unread.
struct Connection {
    stream: TcpStream,
    ended: bool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.ended {
            // Fails only on a socket that is broken already.
            let _ = self.stream.set_zero_linger();
        }
    }
}

/// Answers until the client is done or idle.
pub(super) async fn run(listener: Arc<Listener>, stream: TcpStream, client: IpAddr) {
    let mut connection = Connection {
        stream,
        ended: false,
    };
    // An error is the client's: it went, was idle, or sent what is no query.
    let _ = converse(&listener, &mut connection.stream, client).await;
    connection.ended = true;
}

async fn converse(
    listener: &Arc<Listener>,
    stream: &mut TcpStream,
    client: IpAddr,
) -> io::Result<()> {
    let mut frames = Frames::new(MAX_QUERY);
    let mut waiting: JoinSet<Vec<u8>> = JoinSet::new();
    let mut replies = Vec::new();
    let mut idle_at = Instant::now() + IDLE;
    let mut ended = false;
    loop {
        tokio::select! {
            read = stream.read_buf(frames.room()), if !ended && waiting.len() < MAX_WAITING => {
                // The client may close its side and still wait for what it asked.
                ended = read? == 0;
            }
            Some(reply) = waiting.join_next(), if !waiting.is_empty() => {
                frame(&mut replies, &reply.map_err(io::Error::other)?);
            }
            () = sleep_until(idle_at), if waiting.is_empty() => return Err(io::ErrorKind::TimedOut.into()),
        }
        while let Some(query) = frames.message().map_err(|_| io::ErrorKind::InvalidData)? {
            idle_at = Instant::now() + IDLE;
            match listener.step(query, Transport::Tcp, client) {
                Step::Nothing => {}
                Step::Reply(reply) => frame(&mut replies, &reply),
                Step::Forward(forward) => {
                    let (listener, query) = (Arc::clone(listener), query.to_vec());
                    waiting.spawn(async move {
                        listener.forward(&query, Transport::Tcp, forward).await
                    });
                }
            }
        }
        if !replies.is_empty() {
            timeout(IDLE, stream.write_all(&replies)).await??;
            replies.clear();
            idle_at = Instant::now() + IDLE;
        }
        if ended && waiting.is_empty() {
            return Ok(());
        }
    }
}
