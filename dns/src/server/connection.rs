//! Owns one TCP connection of a container: length-prefixed messages, one after the other (RFC 7766).
//!
//! Messages of one connection are answered in order: a client that wants its queries independent of each
//! other uses UDP or several connections. Never outlives its listener.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::listener::{Listener, MAX_QUERY, Step};
use crate::answer::Transport;
use crate::exchange;

/// How long a client may take to send the next message, or to take a reply.
const IDLE: Duration = Duration::from_secs(10);

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
pub(super) async fn run(listener: Arc<Listener>, stream: TcpStream) {
    let mut connection = Connection {
        stream,
        ended: false,
    };
    while let Ok(true) = turn(&listener, &mut connection.stream).await {}
    connection.ended = true;
}

/// One message and its reply. `false` when the connection is to be closed.
async fn turn(listener: &Listener, stream: &mut TcpStream) -> io::Result<bool> {
    let Some(query) = timeout(IDLE, read(stream)).await?? else {
        return Ok(false);
    };
    let reply = match listener.step(&query, Transport::Tcp) {
        Step::Nothing => return Ok(true),
        Step::Reply(reply) => reply,
        Step::Forward(forward) => listener.forward(&query, Transport::Tcp, forward).await,
    };
    timeout(IDLE, stream.write_all(&exchange::framed(&reply))).await??;
    Ok(true)
}

/// One message, or `None` if it is longer than any query.
async fn read(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_QUERY {
        return Ok(None);
    }
    let mut query = vec![0; length];
    stream.read_exact(&mut query).await?;
    Ok(Some(query))
}
