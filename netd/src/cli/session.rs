//! Questions to the daemon and what comes back, in the form asked for.

use hyper::Method;
use netd_model::api;
use netd_model::error::{Code, Error};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use super::args::Format;
use super::client::{Client, Reply, segment};
use super::doc::Doc;
use super::failure::{BAD_ANSWER, Failure};
use super::output::encode;

/// A result: what goes to standard output, and lines for standard error.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) text: String,
    pub(super) notes: Vec<String>,
}

/// A daemon to ask and a form to answer in.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) runtime: Runtime,
    pub(super) client: Client,
    pub(super) format: Format,
}

/// The operations of a dry run, or of a plan: whatever the daemon calls an operation.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Ops {
    pub(super) ops: Vec<Doc>,
    pub(super) text: Vec<String>,
}

impl Session {
    /// Sends a request; an answer that is an error becomes a failure.
    pub(super) fn call(
        &self,
        method: Method,
        target: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Vec<u8>, Failure> {
        let body = match body.map(serde_json::to_vec).transpose() {
            Ok(body) => body.unwrap_or_default(),
            Err(error) => return Err(Failure::new(Code::InvalidJson.as_str(), error.to_string())),
        };
        let reply = self
            .runtime
            .block_on(self.client.call(method, target, body))?;
        self.judge(reply)
    }

    /// The body of a good answer, the error of a bad one.
    pub(super) fn judge(&self, reply: Reply) -> Result<Vec<u8>, Failure> {
        if (200..300).contains(&reply.status) {
            return Ok(reply.body);
        }
        Err(match serde_json::from_slice::<ErrorBody>(&reply.body) {
            Ok(body) => body.error,
            Err(_) => self.bad_answer(&format!(
                "status {} without an error that is understood",
                reply.status
            )),
        })
    }

    /// A request without a body.
    pub(super) fn ask(&self, method: Method, target: &str) -> Result<Vec<u8>, Failure> {
        self.call(method, target, None::<&()>)
    }

    /// The answer in the machine formats as it came, in the other as `view` shows it.
    pub(super) fn show<T: DeserializeOwned>(
        &self,
        body: &[u8],
        view: impl FnOnce(&T) -> String,
    ) -> Result<Page, Failure> {
        let text = match self.format {
            Format::Table => view(&self.read(body)?),
            Format::Json | Format::Yaml => self.encode(&self.read::<Doc>(body)?)?,
        };
        Ok(Page {
            text,
            notes: Vec::new(),
        })
    }

    /// A document of netctl's own in the machine formats, else a text.
    pub(super) fn own(&self, document: &impl Serialize, text: String) -> Result<Page, Failure> {
        let text = encode(self.format, document).unwrap_or(Ok(text))?;
        Ok(Page {
            text,
            notes: Vec::new(),
        })
    }

    /// Operations, a line each.
    pub(super) fn ops(&self, body: &[u8]) -> Result<Page, Failure> {
        let ops: Ops = self.read(body)?;
        let mut page = self.show(body, |_: &Doc| lines(&ops.text))?;
        if ops.text.is_empty() {
            page.notes.push("nothing to do".to_owned());
        }
        Ok(page)
    }

    /// An answer of a type.
    pub(super) fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, Failure> {
        serde_json::from_slice(body).map_err(|error| self.bad_answer(&error.to_string()))
    }

    fn encode(&self, value: &impl Serialize) -> Result<String, Failure> {
        encode(self.format, value).unwrap_or_else(|| Ok(String::new()))
    }

    pub(super) fn bad_answer(&self, why: &str) -> Failure {
        let socket = self.client.socket().display();
        Failure::new(
            BAD_ANSWER,
            format!(
                "the answer from {socket} is not understood: {why}: are netd and netctl of one version?"
            ),
        )
    }
}

#[derive(Deserialize)]
struct ErrorBody {
    error: Failure,
}

/// A path of the API: names and ids are one segment each, whatever they hold.
pub(super) fn path(parts: &[&str]) -> Result<String, Failure> {
    parts.iter().try_fold("/v1".to_owned(), |mut path, part| {
        // An empty segment, or one that is only dots, would mean another path.
        if part.is_empty() || *part == "." || *part == ".." {
            return Err(Error::new(
                Code::InvalidReference,
                format!("{part:?} is neither a name nor an id"),
            )
            .into());
        }
        path.push('/');
        path.push_str(&segment(part));
        Ok(path)
    })
}

/// The target of a change.
pub(super) fn change(path: &str, dry_run: bool) -> String {
    if dry_run {
        format!("{path}?dry_run=true")
    } else {
        path.to_owned()
    }
}

/// Lines as a text.
pub(super) fn lines(lines: &[String]) -> String {
    lines
        .iter()
        .map(|line| super::output::clean(line) + "\n")
        .collect()
}

/// Warnings of an attach, taken out of it: they go to standard error.
pub(super) fn warnings(container: &mut api::Container) -> Vec<String> {
    std::mem::take(&mut container.warnings)
        .into_iter()
        .map(|warning| format!("warning: {warning}"))
        .collect()
}
