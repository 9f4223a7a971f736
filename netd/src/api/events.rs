//! `/v1/events`: a line of JSON for each event (NDJSON).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use netd_model::api::Event;
use netd_model::error::{Code, Error, Result};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;

use super::ApiState;
use super::answer::Reply;
use super::input::{Events, Params};
use crate::reconcile::journal::{CLOSED, Journal};

/// The events after `since`, and with `follow` those to come, until the client hangs up.
pub(super) async fn events(State(state): State<ApiState>, Params(query): Params<Events>) -> Reply {
    let journal = Arc::clone(&state.handle.journal);
    let follow = query.follow.then(|| journal.follow());
    let seq = match query.since.as_deref() {
        None => 0,
        Some(since) => since_of(since, &journal)?,
    };
    let cursor = Cursor {
        ready: journal.after(seq).into(),
        seq,
        journal,
        follow,
    };
    let lines = futures_util::stream::unfold(cursor, |mut cursor| async move {
        let event = cursor.next().await?;
        Some((Ok::<_, Infallible>(line(&event)), cursor))
    });
    let response = Response::builder()
        .header(CONTENT_TYPE, "application/x-ndjson")
        .body(Body::from_stream(lines));
    Ok(response.map_err(|error| Error::new(Code::Internal, error))?)
}

/// A number of an event, or a time.
fn since_of(since: &str, journal: &Journal) -> Result<u64> {
    if let Ok(seq) = since.parse() {
        return Ok(seq);
    }
    let time = OffsetDateTime::parse(since, &Rfc3339).map_err(|_| {
        let text = format!(
            "since {since:?} is neither the number of an event nor a time such as 2026-11-21T08:00:00Z"
        );
        Error::new(Code::InvalidOpt, text)
    })?;
    Ok(journal.before(time))
}

fn line(event: &Event) -> Bytes {
    let mut text = serde_json::to_vec(event).unwrap_or_default();
    text.push(b'\n');
    text.into()
}

struct Cursor {
    ready: VecDeque<Event>,
    seq: u64,
    journal: Arc<Journal>,
    follow: Option<watch::Receiver<u64>>,
}

impl Cursor {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.seq = event.seq;
                return Some(event);
            }
            let follow = self.follow.as_mut()?;
            if *follow.borrow_and_update() == CLOSED {
                return None;
            }
            follow.changed().await.ok()?;
            self.ready = self.journal.after(self.seq).into();
        }
    }
}
