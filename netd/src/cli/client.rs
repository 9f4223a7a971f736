//! HTTP over the daemon's unix socket: one connection per request.
//!
//! Knows nothing of what is asked or answered. Used by netctl and by tests.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// How often a connection is tried again while the daemon's queue of connections is full.
const BUSY_TRIES: u32 = 500;
/// The pause between two of these tries.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody is there.
    #[error("nobody listens at {}: {source}", socket.display())]
    NoDaemon {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket may not be used by this user.
    #[error("permission denied on {}", socket.display())]
    Denied {
        /// The socket.
        socket: PathBuf,
    },
    /// The path cannot be that of a socket.
    #[error("{} is no path of a socket: {source}", socket.display())]
    BadSocket {
        /// The path.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The target is not one of HTTP.
    #[error("{0} is no target of a request")]
    BadTarget(String),
    /// The connection ended before the answer did.
    #[error("the connection broke before the answer was complete: {0}")]
    Broken(#[from] hyper::Error),
}

/// An answer as it came.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// The way to a daemon.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the daemon at this socket. Connects with the first request.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// Where the daemon is expected.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends a request and reads the answer, whatever its status. `target` is a path, already encoded, and maybe a
    /// query.
    pub async fn call(
        &self,
        method: Method,
        target: &str,
        body: Vec<u8>,
    ) -> Result<Reply, CallError> {
        let (status, pieces, connection) = self.begin(method, target, body).await?;
        let body = pieces.collect().await;
        connection.abort();
        Ok(Reply {
            status,
            body: body?.to_bytes().to_vec(),
        })
    }

    /// Reads an answer that comes in pieces: each goes to `take` as it comes, until the end or until `take` says false.
    /// An answer with another status than 200 comes back whole.
    pub async fn stream(
        &self,
        target: &str,
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> Result<Reply, CallError> {
        let (status, mut pieces, connection) = self.begin(Method::GET, target, Vec::new()).await?;
        let mut body = Vec::new();
        while let Some(frame) = pieces.frame().await {
            let data = frame?.into_data().unwrap_or_default();
            if status != 200 {
                body.extend_from_slice(&data);
            } else if !take(&data) {
                break;
            }
        }
        connection.abort();
        Ok(Reply { status, body })
    }

    /// Sends a request; what comes back is the status and the body that is still to be read.
    async fn begin(
        &self,
        method: Method,
        target: &str,
        body: Vec<u8>,
    ) -> Result<(u16, Incoming, JoinHandle<hyper::Result<()>>), CallError> {
        let uri: Uri = target
            .parse()
            .map_err(|_| CallError::BadTarget(target.to_owned()))?;
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(header::HOST, "netd")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| CallError::BadTarget(target.to_owned()))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(self.connect().await?)).await?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        Ok((response.status().as_u16(), response.into_body(), connection))
    }

    async fn connect(&self) -> Result<UnixStream, CallError> {
        let mut tries = 0;
        loop {
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => return Ok(stream),
                // A unix socket does not wait for room in the listener's backlog when it must not block.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries < BUSY_TRIES => {
                    tries += 1;
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                Err(error) => return Err(self.unreachable(error)),
            }
        }
    }

    fn unreachable(&self, source: io::Error) -> CallError {
        let socket = self.socket.clone();
        match source.kind() {
            io::ErrorKind::PermissionDenied => CallError::Denied { socket },
            io::ErrorKind::InvalidInput => CallError::BadSocket { socket, source },
            _ => CallError::NoDaemon { socket, source },
        }
    }
}

/// A text as one segment of a path: everything but `A-Z a-z 0-9 - . _ ~` becomes `%XX` (RFC 3986, section 2.3).
pub fn segment(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes()
        .fold(String::with_capacity(text.len()), |mut encoded, byte| {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                encoded.push(char::from(byte));
            } else {
                // Writing to a string cannot fail.
                let _ = write!(encoded, "%{byte:02X}");
            }
            encoded
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hinders_a_connection_is_told_apart() {
        let error = |kind: io::ErrorKind| Client::new("/s").unreachable(kind.into());
        assert!(matches!(
            error(io::ErrorKind::PermissionDenied),
            CallError::Denied { .. }
        ));
        assert!(matches!(
            error(io::ErrorKind::InvalidInput),
            CallError::BadSocket { .. }
        ));
        for kind in [
            io::ErrorKind::NotFound,
            io::ErrorKind::ConnectionRefused,
            io::ErrorKind::NotADirectory,
        ] {
            assert!(matches!(error(kind), CallError::NoDaemon { .. }), "{kind}");
        }
    }

    #[test]
    fn a_segment_never_ends_its_path_or_begins_a_query() {
        assert_eq!(segment("web-1.a_b~"), "web-1.a_b~");
        assert_eq!(segment("a/b?c#d e%ä"), "a%2Fb%3Fc%23d%20e%25%C3%A4");
    }
}
