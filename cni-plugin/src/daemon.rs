//! One request to netd's daemon: HTTP/1.1 on its unix socket, without a library.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use netd_model::api::ErrorBody;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{CniError, FAILED, IO, LATER};

/// How long an answer may take: the daemon gives up after two minutes, the kubelet after four.
const PATIENCE: Duration = Duration::from_secs(130);
/// Most bytes of an answer.
const ANSWER_MAX: u64 = 16 << 20;

/// Why there was no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No daemon listens.
    NoDaemon(CniError),
    /// It answered with an error, or the answer was lost.
    Other(CniError),
}

impl Failure {
    pub(crate) fn error(self) -> CniError {
        match self {
            Self::NoDaemon(error) | Self::Other(error) => error,
        }
    }
}

/// Asks the daemon behind `socket`.
pub(crate) fn ask<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    body: &impl Serialize,
) -> Result<T, Failure> {
    let lost = |error: std::io::Error| {
        let timeout = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        let text = format!(
            "the answer of netd at {} was lost: {error}",
            socket.display()
        );
        Failure::Other(CniError::new(if timeout { LATER } else { IO }, text))
    };
    let mut stream = UnixStream::connect(socket).map_err(|error| no_daemon(socket, &error))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(lost)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(lost)?;
    let body = serde_json::to_vec(body).map_err(|error| {
        Failure::Other(CniError::new(
            FAILED,
            format!("a request is no JSON: {error}"),
        ))
    })?;
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nhost: netd\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(&body);
    // Whoever is refused early may find the other end closed: the answer counts.
    let written = stream.write_all(&request);
    let mut answer = Vec::new();
    let read = stream.take(ANSWER_MAX).read_to_end(&mut answer);
    let parsed = parse(&answer);
    if parsed.is_none() {
        written.map_err(lost)?;
        read.map_err(lost)?;
    }
    let Some((status, body)) = parsed else {
        let text = format!(
            "netd at {} closed the connection without an answer: try again",
            socket.display()
        );
        return Err(Failure::Other(CniError::new(LATER, text)));
    };
    if (200..300).contains(&status) {
        return serde_json::from_slice(body)
            .map_err(|error| unreadable(socket, &error.to_string()));
    }
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(refused) => Err(Failure::Other(refused.error.into())),
        Err(_) => Err(unreadable(socket, &format!("status {status}"))),
    }
}

/// The status and the body of an answer that is whole.
fn parse(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    })?;
    Some((status, answer.get(end + 4..end + 4 + length)?))
}

fn no_daemon(socket: &Path, error: &std::io::Error) -> Failure {
    let text = format!(
        "netd does not answer at {}: {error}; start it, or name its socket in the configuration (\"socket\")",
        socket.display()
    );
    let error = CniError::new(LATER, text);
    Failure::NoDaemon(error)
}

fn unreadable(socket: &Path, why: &str) -> Failure {
    let text = format!(
        "the answer of netd at {} is not understood ({why}): plugin and daemon may be of different versions",
        socket.display()
    );
    Failure::Other(CniError::new(FAILED, text))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn an_answer_that_is_cut_is_none() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{ } ";
        assert_eq!(parse(whole), Some((200, &b"{ } "[..])));
        for len in 0..whole.len() {
            assert_eq!(parse(&whole[..len]), None, "{len}");
        }
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n\r\n{}"), None);
    }
}
