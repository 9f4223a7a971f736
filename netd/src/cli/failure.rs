//! What went wrong, and the exit code that says so.

use std::process::ExitCode;

use netd_model::error::{Code, Error};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::client::CallError;

/// The codes that netctl itself adds to [`Code`], each with its meaning. The documentation lists them too.
pub const CODES: &[(&str, &str)] = &[
    (NO_DAEMON, "Nobody listens on the socket (exit code 3)."),
    (SOCKET_DENIED, "This user may not use the daemon's socket."),
    (
        NO_ANSWER,
        "The daemon went away before it had answered; the change may have been made.",
    ),
    (
        BAD_ANSWER,
        "Something else than netd, or a much newer netd, answered.",
    ),
    (
        RESOLV_CONF_FAILED,
        "The container is attached, but the file of --resolv-conf was not written.",
    ),
    (
        OUTPUT_FAILED,
        "The result could not be written to standard output.",
    ),
    ("invalid_socket", "--socket is no path of a socket."),
    ("invalid_output", "--output is not table, json or yaml."),
    ("invalid_shell", "The shell has no completion."),
];

pub(super) const NO_DAEMON: &str = "no_daemon";
pub(super) const SOCKET_DENIED: &str = "socket_denied";
pub(super) const NO_ANSWER: &str = "no_answer";
pub(super) const BAD_ANSWER: &str = "bad_answer";
pub(super) const RESOLV_CONF_FAILED: &str = "resolv_conf_failed";
pub(super) const OUTPUT_FAILED: &str = "output_failed";

/// How netctl ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed, a bad value included.
    Failed = 1,
    /// Unknown flag or command, or a missing argument.
    Usage = 2,
    /// No daemon.
    NoDaemon = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error as netctl shows it. Its code is text: a newer daemon may have codes that this netctl does not know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) code: String,
    pub(super) message: String,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub(super) details: Map<String, Value>,
}

impl Failure {
    pub(super) fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            details: Map::new(),
        }
    }

    pub(super) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.details.insert(key.to_owned(), value.into());
        self
    }

    pub(super) fn exit(&self) -> Exit {
        if self.code == NO_DAEMON {
            Exit::NoDaemon
        } else {
            Exit::Failed
        }
    }

    /// Whether the daemon may still come up: nobody is there, or it went away.
    pub(super) fn is_absence(&self) -> bool {
        self.code == NO_DAEMON || self.code == NO_ANSWER
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            code: error.code.as_str().to_owned(),
            message: error.message,
            details: error.details,
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match &error {
            CallError::NoDaemon { socket, .. } => {
                let remedy = "start the daemon (systemctl start netd), or name its socket with --socket or NETD_SOCKET";
                Self::new(NO_DAEMON, format!("{error}: {remedy}"))
                    .with("socket", socket.to_string_lossy())
            }
            CallError::Denied { socket } => {
                let remedy =
                    "run as root, or as a member of the group netd, which is as powerful as root";
                Self::new(SOCKET_DENIED, format!("{error}: {remedy}"))
                    .with("socket", socket.to_string_lossy())
            }
            CallError::BadSocket { socket, .. } => {
                let message = format!("{error}: give another with --socket or NETD_SOCKET");
                Self::new("invalid_socket", message).with("socket", socket.to_string_lossy())
            }
            CallError::BadTarget(_) => {
                Self::new(Code::InvalidReference.as_str(), error.to_string())
            }
            CallError::Broken(_) => {
                let remedy = "the change may have been made, look with netctl ps and netctl status";
                Self::new(NO_ANSWER, format!("{error}: {remedy}"))
            }
        }
    }
}
