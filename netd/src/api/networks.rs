//! `/v1/networks`.

use axum::extract::State;
use axum::http::{Method, Uri};
use axum::response::Response;
use netd_model::api;
use netd_model::request::CreateNetwork;

use super::answer::{Reply, created, done, ok, removed};
use super::find::find;
use super::input::{Change, Json, Nothing, Params, Segments};
use super::{ApiState, no_route};
use crate::reconcile::handle::Request;

pub(super) async fn list(State(state): State<ApiState>, _: Params<Nothing>) -> Response {
    ok(&state.handle.snapshot().networks())
}

pub(super) async fn inspect(
    State(state): State<ApiState>,
    Segments(network): Segments<String>,
    _: Params<Nothing>,
) -> Reply {
    Ok(ok(find(
        state.handle.snapshot().networks().iter(),
        &network,
    )?))
}

pub(super) async fn create(
    State(state): State<ApiState>,
    Params(query): Params<Change>,
    Json(raw): Json<api::NetworkCreate>,
) -> Reply {
    let request = Request::CreateNetwork(CreateNetwork::try_from(raw)?);
    Ok(created(state.handle.ask(request, query.dry_run).await?))
}

pub(super) async fn remove(
    State(state): State<ApiState>,
    Segments(network): Segments<String>,
    Params(query): Params<Change>,
) -> Reply {
    Ok(removed(
        state
            .handle
            .ask(Request::RemoveNetwork(network), query.dry_run)
            .await?,
    ))
}

/// `POST /v1/networks/prune`. Not a route of its own: it would hide a network that is called prune.
pub(super) async fn prune(
    State(state): State<ApiState>,
    Segments(word): Segments<String>,
    Params(query): Params<Change>,
    method: Method,
    uri: Uri,
) -> Reply {
    if word != "prune" {
        return Err(no_route(method, uri).await);
    }
    Ok(done(
        state
            .handle
            .ask(Request::PruneNetworks, query.dry_run)
            .await?,
    ))
}
