//! The daemon as a whole: plan, audit, status, purge, health.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use netd_model::api;
use netd_model::counters::Drops;
use netd_model::error::{Code, Error};
use serde_json::json;

use super::ApiState;
use super::answer::{Reply, done, ok};
use super::containers::drops;
use super::input::{Change, Nothing, Params, Purge, Trace};
use crate::reconcile::handle::{Request, Snapshot};

/// How long `status` waits for fresh facts.
const FRESH: Duration = Duration::from_secs(2);

pub(super) async fn plan(State(state): State<ApiState>, _: Params<Nothing>) -> Reply {
    Ok(done(state.handle.ask(Request::Plan, false).await?))
}

pub(super) async fn doctor(State(state): State<ApiState>, _: Params<Nothing>) -> Reply {
    Ok(done(state.handle.ask(Request::Doctor, false).await?))
}

pub(super) async fn trace(State(state): State<ApiState>, Params(query): Params<Trace>) -> Reply {
    let request = Request::Trace {
        from: query.from,
        to: query.to,
    };
    Ok(done(state.handle.ask(request, false).await?))
}

pub(super) async fn audit(State(state): State<ApiState>, Params(query): Params<Change>) -> Reply {
    Ok(done(state.handle.ask(Request::Audit, query.dry_run).await?))
}

pub(super) async fn purge(State(state): State<ApiState>, Params(query): Params<Purge>) -> Reply {
    Ok(done(
        state
            .handle
            .ask(Request::Purge { force: query.force }, query.dry_run)
            .await?,
    ))
}

pub(super) async fn status(State(state): State<ApiState>, _: Params<Nothing>) -> Response {
    if state.handle.snapshot().ready {
        // Fresh facts, so that a chain that somebody just added is warned of. Without them the last ones do: status
        // answers in every state.
        let fresh = state.handle.ask(Request::Refresh, false);
        let _ = tokio::time::timeout(FRESH, fresh).await;
    }
    let mut status = status_of(&state.handle.snapshot());
    status.warnings.extend(state.notices.all());
    // Status answers in every state: without the counters too.
    status.drops = drops(&state).await.unwrap_or_default().host;
    ok(&status)
}

pub(crate) fn status_of(snapshot: &Snapshot) -> api::Status {
    api::Status {
        ready: snapshot.ready,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        networks: snapshot.network_views.len(),
        containers: snapshot.container_views.len(),
        ports: snapshot
            .container_views
            .iter()
            .map(|container| container.ports.len())
            .sum(),
        features: snapshot.features.clone(),
        warnings: snapshot.warnings.clone(),
        store: snapshot.store.clone(),
        nodes: snapshot.nodes.len(),
        host_changes: snapshot.host_changes.clone(),
        orphans: snapshot.orphans.clone(),
        drops: Drops::new(),
    }
}

/// Whether the daemon answers and its owner task lives.
pub(super) async fn healthz(State(state): State<ApiState>) -> Reply {
    if state.handle.messages.is_closed() {
        return Err(Error::new(
            Code::NotReady,
            "netd is stopping: try again when it is back",
        )
        .into());
    }
    Ok(ok(&json!({"healthy": true})))
}

/// Whether networks are programmed and DNS sockets are bound.
pub(super) async fn readyz(State(state): State<ApiState>) -> Reply {
    if !state.handle.snapshot().ready {
        let why = "netd is starting and has not finished its first audit: try again, or wait with netctl status --wait";
        return Err(Error::new(Code::NotReady, why).into());
    }
    Ok(ok(&json!({"ready": true})))
}
