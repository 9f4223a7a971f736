//! `/v1/networks`.

use axum::extract::State;
use axum::http::{Method, Uri};
use axum::response::Response;
use netd_model::access::sources;
use netd_model::api;
use netd_model::id::Name;
use netd_model::request::{CreateNetwork, meaning, reservation};

use super::answer::{Reply, created, done, ok, removed};
use super::containers::drops;
use super::find::find;
use super::input::{Change, Json, Nothing, Params, Segments};
use super::{ApiState, no_route};
use crate::reconcile::handle::{Answer, Request};

pub(super) async fn list(State(state): State<ApiState>, _: Params<Nothing>) -> Response {
    ok(&state.handle.snapshot().networks())
}

pub(super) async fn inspect(
    State(state): State<ApiState>,
    Segments(network): Segments<String>,
    _: Params<Nothing>,
) -> Reply {
    let networks = state.handle.snapshot().networks();
    let found = find(networks.iter(), &network);
    let found = found.map_err(|error| meaning(&network).unwrap_or(error))?;
    let mut shown = found.clone();
    shown.drops = Some(drops(&state).await?.at(&shown));
    Ok(ok(&shown))
}

pub(super) async fn create(
    State(state): State<ApiState>,
    Params(query): Params<Change>,
    Json(raw): Json<api::NetworkCreate>,
) -> Reply {
    let request = Request::CreateNetwork(CreateNetwork::try_from(raw)?);
    Ok(created(state.handle.ask(request, query.dry_run).await?))
}

pub(super) async fn change(
    State(state): State<ApiState>,
    Segments(network): Segments<String>,
    Params(query): Params<Change>,
    Json(raw): Json<api::NetworkChange>,
) -> Reply {
    let list = |texts: Option<Vec<String>>| texts.map(|texts| sources(&texts)).transpose();
    let request = Request::SetAccess {
        network,
        allow_from: list(raw.allow_from)?,
        block_from: list(raw.block_from)?,
    };
    Ok(done(state.handle.ask(request, query.dry_run).await?))
}

pub(super) async fn reserve(
    State(state): State<ApiState>,
    Segments((network, container)): Segments<(String, String)>,
    Params(query): Params<Change>,
    Json(raw): Json<api::Reservation>,
) -> Reply {
    let request = Request::Reserve {
        network: network.clone(),
        container: Name::parse(&container)?,
        reservation: Some(reservation(&raw)?),
    };
    let answer = state.handle.ask(request, query.dry_run).await?;
    if matches!(answer, Answer::Unchanged) {
        let networks = state.handle.snapshot().networks();
        return Ok(ok(find(networks.iter(), &network)?));
    }
    Ok(done(answer))
}

pub(super) async fn unreserve(
    State(state): State<ApiState>,
    Segments((network, container)): Segments<(String, String)>,
    Params(query): Params<Change>,
) -> Reply {
    let request = Request::Reserve {
        network,
        container: Name::parse(&container)?,
        reservation: None,
    };
    Ok(removed(state.handle.ask(request, query.dry_run).await?))
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
