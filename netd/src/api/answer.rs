//! Answers and errors as HTTP.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use netd_model::api;
use netd_model::error::{Code, Error};
use serde::Serialize;

use crate::reconcile::handle::Answer;

/// What a handler answers.
pub(super) type Reply = Result<Response, Refusal>;

/// An error on its way to the client.
#[derive(Debug)]
pub(super) struct Refusal(Error);

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = status_of(self.0.code);
        if status.is_server_error() {
            tracing::warn!(code = %self.0.code, "request failed: {}", self.0.message);
        } else {
            tracing::debug!(code = %self.0.code, "request refused: {}", self.0.message);
        }
        render(status, &api::ErrorBody { error: self.0 })
    }
}

fn status_of(code: Code) -> StatusCode {
    StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// A value with status 200.
pub(super) fn ok(value: &impl Serialize) -> Response {
    render(StatusCode::OK, value)
}

/// The owner's answer to a change or question, with status 200.
pub(super) fn done(answer: Answer) -> Response {
    carry(StatusCode::OK, answer)
}

/// The owner's answer to a creation, with status 201; nothing is created by a dry run.
pub(super) fn created(answer: Answer) -> Response {
    let status = if matches!(answer, Answer::DryRun(_)) {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    carry(status, answer)
}

/// The owner's answer to a removal: `{}`, or the operations of a dry run.
pub(super) fn removed(answer: Answer) -> Response {
    match answer {
        Answer::DryRun(_) => done(answer),
        _ => done(Answer::Done),
    }
}

fn carry(status: StatusCode, answer: Answer) -> Response {
    match answer {
        Answer::Network(network) => render(status, &network),
        Answer::Container(container) => render(status, &container),
        Answer::Removed(removed) => render(status, &api::Removed { removed }),
        Answer::Done | Answer::Unchanged => render(status, &serde_json::Map::new()),
        Answer::DryRun(dry_run) => render(status, &dry_run),
        Answer::Plan(plan) => render(status, &plan),
        Answer::Purged(purged) => render(status, &purged),
        Answer::Findings(findings) => render(status, &api::Findings { findings }),
        Answer::Trace(trace) => render(status, &trace),
    }
}

fn render(status: StatusCode, value: &impl Serialize) -> Response {
    let json = HeaderValue::from_static("application/json");
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            (status, [(header::CONTENT_TYPE, json)], body).into_response()
        }
        Err(error) => {
            tracing::error!("an answer cannot be written as JSON: {error}");
            let body = r#"{"error":{"code":"internal","message":"the answer cannot be written as JSON: please report it"}}"#;
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                [(header::CONTENT_TYPE, json)],
                body,
            )
                .into_response()
        }
    }
}
