//! Owns one question to one upstream: one socket, one query, one reply that belongs to it.
//!
//! IO. Never chooses the upstream, never limits the time (the caller drops the future), and never takes
//! the reply apart.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UdpSocket;

use crate::raw;
use crate::reach::Reach;
use crate::resolv::Upstream;

/// Largest message there can be: what the length prefix over TCP can say.
const MAX_MESSAGE: usize = 65_535;

/// Asks over UDP, from a socket of its own, so that neither the source port (the kernel picks a free one
/// at random) nor the id can be guessed from outside (RFC 5452 section 9). The reply has the id of this exchange.
pub(crate) async fn udp(reach: &Reach, upstream: &Upstream, query: &[u8]) -> io::Result<Vec<u8>> {
    let socket = reach.udp(upstream).await?;
    let sent = with_random_id(query);
    socket.send(&sent).await?;
    loop {
        // Waited for by name: an ICMP error alone does not make a socket readable.
        let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
        let received = if ready.is_error() {
            socket.try_io(Interest::ERROR, || Err(pending_error(&socket)))
        } else {
            receive(&socket)
        };
        match received {
            Ok(reply) if raw::is_reply_to(&sent, &reply) => return Ok(reply),
            // Somebody guesses, or an old reply to this port: wait on (RFC 5452 section 9.1).
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// The error that waits in the socket; `WouldBlock`, which lets the runtime wait anew, if none does.
fn pending_error(socket: &UdpSocket) -> io::Error {
    match socket.take_error() {
        Ok(None) => io::ErrorKind::WouldBlock.into(),
        Ok(Some(error)) | Err(error) => error,
    }
}

/// Takes one datagram. The buffer for the largest one exists only here, not while a query waits.
fn receive(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(MAX_MESSAGE);
    socket.try_recv_buf(&mut buffer)?;
    buffer.shrink_to_fit();
    Ok(buffer)
}

/// Asks over TCP on a connection of its own (RFC 1035 section 4.2.2). The reply has the id of this
/// exchange.
pub(crate) async fn tcp(reach: &Reach, upstream: &Upstream, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = reach.tcp(upstream).await?;
    let sent = with_random_id(query);
    stream.write_all(&framed(&sent)).await?;
    let length = stream.read_u16().await?;
    let mut reply = vec![0; usize::from(length)];
    stream.read_exact(&mut reply).await?;
    if raw::is_reply_to(&sent, &reply) {
        Ok(reply)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// The message behind its length, in one piece: two writes could become two segments.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    // What was read or encoded as a message is never longer than the prefix can say.
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut bytes = Vec::with_capacity(2 + message.len());
    bytes.extend(length.to_be_bytes());
    bytes.extend(&message[..usize::from(length)]);
    bytes
}

pub(crate) fn with_random_id(query: &[u8]) -> Vec<u8> {
    let mut message = query.to_vec();
    message[..2].copy_from_slice(&rand::random::<[u8; 2]>());
    message
}
