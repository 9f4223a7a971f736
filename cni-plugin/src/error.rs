//! Errors as CNI has them: a number, a line, and details.

use serde::Serialize;
use serde_json::Value;

use crate::result::{NEWEST, VERSIONS};

/// The version asked for is not supported.
pub const VERSION: u32 = 1;
/// A field of the configuration is not supported.
pub const UNSUPPORTED: u32 = 2;
/// A variable of the environment is missing or wrong.
pub const ENVIRONMENT: u32 = 4;
/// Reading or writing failed.
pub const IO: u32 = 5;
/// The configuration is no JSON, or not of the right shape.
pub const DECODE: u32 = 6;
/// The configuration cannot be used.
pub const CONFIG: u32 = 7;
/// Try again later.
pub const LATER: u32 = 11;
/// STATUS: the plugin cannot serve ADD.
pub const UNAVAILABLE: u32 = 50;
/// netd: something else has what was asked for.
pub const CONFLICT: u32 = 101;
/// netd: what was asked for does not exist.
pub const NOT_FOUND: u32 = 102;
/// netd: no address, port or interface is left.
pub const EXHAUSTED: u32 = 103;
/// netd: the kernel refused, or a bug.
pub const FAILED: u32 = 104;
/// CHECK: the attachment is not what it should be.
pub const DIFFERS: u32 = 105;

/// An error on its way to the runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniError {
    /// The number.
    pub code: u32,
    /// One line: what, which object, why, what to do.
    pub msg: String,
    /// More of it, possibly empty.
    pub details: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    cni_version: &'a str,
    code: u32,
    msg: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    details: &'a str,
}

impl CniError {
    /// An error without details.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: String::new(),
        }
    }

    /// The same with details.
    #[must_use]
    pub fn with(self, details: impl Into<String>) -> Self {
        Self {
            details: details.into(),
            ..self
        }
    }

    /// The error object, in the version that the request asked for, if it can be read.
    pub fn document(&self, request: &[u8]) -> String {
        let asked = serde_json::from_slice::<Value>(request).ok();
        let asked = asked
            .as_ref()
            .and_then(|value| value["cniVersion"].as_str());
        let known = asked.filter(|version| VERSIONS.contains(version));
        let document = Document {
            cni_version: known.unwrap_or(NEWEST),
            code: self.code,
            msg: &self.msg,
            details: &self.details,
        };
        // Strings and a number always make JSON.
        serde_json::to_string(&document).unwrap_or_default()
    }
}

/// What netd's daemon refused.
impl From<netd_model::Error> for CniError {
    fn from(error: netd_model::Error) -> Self {
        use netd_model::error::Code;
        let code = match error.code {
            Code::NotReady
            | Code::TooManyRequests
            | Code::RequestTimeout
            | Code::TimedOut
            | Code::StoreUnavailable
            | Code::TooManyFiles => LATER,
            Code::InvalidNetns | Code::InvalidId | Code::InvalidIfname => ENVIRONMENT,
            code => match code.http_status() {
                400 => CONFIG,
                404 => NOT_FOUND,
                409 => CONFLICT,
                507 => EXHAUSTED,
                _ => FAILED,
            },
        };
        Self::new(code, error.message).with(error.code.as_str())
    }
}
