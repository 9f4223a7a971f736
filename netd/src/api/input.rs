//! Paths, queries and bodies, read strictly: what is not understood is refused, never ignored (invariant I8).

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use http_body_util::BodyExt as _;
use netd_model::error::{Code, Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::answer::Refusal;

/// Most bytes of a body.
pub const BODY_MAX: usize = 1 << 20;

/// How long a client may take to send a body.
const BODY_TIME: Duration = Duration::from_secs(10);

/// Most bytes of a body that are read to be thrown away, so that the client, still writing, sees the answer.
const DISCARD_MAX: usize = 16 << 20;

/// Longest part of a parser's message that is repeated: it may hold a piece of the body.
const MESSAGE_MAX: usize = 400;

/// Query of every request that changes something.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    #[serde(default)]
    pub(super) dry_run: bool,
}

/// Query of a purge.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Purge {
    #[serde(default)]
    pub(super) dry_run: bool,
    #[serde(default)]
    pub(super) force: bool,
}

/// Query of a trace.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trace {
    pub(super) from: String,
    pub(super) to: String,
}

/// Query of the events.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Events {
    #[serde(default)]
    pub(super) follow: bool,
    pub(super) since: Option<String>,
}

/// Query of a look at a name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DnsQuery {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    #[serde(rename = "as")]
    pub(super) container: Option<String>,
}

/// Query of a request that takes none.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// The query of a request.
#[derive(Debug)]
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let query = Query::from_request_parts(parts, state).await;
        let Query(value) = query.map_err(|rejection| {
            let why = one_line(&rejection.body_text());
            Error::new(
                Code::InvalidOpt,
                format!("the query of the request is not understood: {why}"),
            )
        })?;
        Ok(Self(value))
    }
}

/// The variable segments of a path: names, ids or prefixes of ids.
#[derive(Debug)]
pub(super) struct Segments<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Segments<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::from_request_parts(parts, state).await;
        let Path(value) = path.map_err(|rejection| {
            let why = one_line(&rejection.body_text());
            Error::new(
                Code::InvalidReference,
                format!("the path of the request is not understood: {why}"),
            )
        })?;
        Ok(Self(value))
    }
}

/// The body of a request: a JSON object, whatever the content type says.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let body = tokio::time::timeout(BODY_TIME, read(request.into_body()));
        let bytes = body.await.map_err(|_| {
            let seconds = BODY_TIME.as_secs();
            let text = format!("the body did not come within {seconds} s: send the request again");
            Error::new(Code::RequestTimeout, text).with("seconds", seconds)
        })??;
        Ok(Self(parse(&bytes)?))
    }
}

async fn read(mut body: Body) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut length = 0;
    while length <= DISCARD_MAX {
        let Some(frame) = body.frame().await else {
            break;
        };
        let frame = frame.map_err(|error| {
            Error::new(
                Code::InvalidJson,
                format!("the body cannot be read: {error}"),
            )
        })?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        length += data.len();
        if length <= BODY_MAX {
            bytes.extend_from_slice(data);
        }
    }
    if length <= BODY_MAX {
        return Ok(bytes);
    }
    let refusal = format!("the body is too long: a request has at most {BODY_MAX} bytes");
    Err(Error::new(Code::InvalidJson, refusal).with("limit", BODY_MAX))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    // serde takes a list where an object is expected and fills the fields in the order of their declaration. The
    // contract knows no such form.
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None => {
            return Err(Error::new(
                Code::InvalidJson,
                "the body is empty: this request takes a JSON object",
            ));
        }
        Some(b'[') => {
            return Err(Error::new(
                Code::InvalidJson,
                "the body is a list: this request takes a JSON object",
            ));
        }
        Some(_) => {}
    }
    serde_json::from_slice(bytes).map_err(|error| {
        Error::new(
            Code::InvalidJson,
            format!(
                "the body is not what this request takes: {}",
                one_line(&error.to_string())
            ),
        )
        .with("line", error.line())
        .with("column", error.column())
    })
}

/// A parser's message cut to a bearable length, without what would break a line or a terminal.
fn one_line(text: &str) -> String {
    let cut = text.chars().count() > MESSAGE_MAX;
    // The end says where the error is, so the cut is made in the middle.
    let (head, tail) = if cut {
        (MESSAGE_MAX / 2, MESSAGE_MAX / 2)
    } else {
        (MESSAGE_MAX, 0)
    };
    let skip = text.chars().count().saturating_sub(tail);
    let head = text.chars().take(head);
    let tail = text.chars().skip(skip);
    let middle = if cut { "..." } else { "" };
    head.chain(middle.chars())
        .chain(tail)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_keeps_its_end_and_one_line() {
        let text = format!(
            "unknown field `{}\n\u{1b}[31m`, at line 1 column 70000",
            "x".repeat(70_000)
        );
        let line = one_line(&text);
        assert!(line.chars().count() <= MESSAGE_MAX + 3, "{}", line.len());
        assert!(line.ends_with("at line 1 column 70000"), "{line}");
        assert!(!line.chars().any(char::is_control));
        assert_eq!(one_line("short"), "short");
    }
}
