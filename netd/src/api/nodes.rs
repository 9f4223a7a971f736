//! `/v1/nodes`: the hosts of the cluster.

use axum::extract::State;
use axum::response::Response;
use netd_model::error::{Code, Error};
use netd_model::id::shorten;

use super::ApiState;
use super::answer::{Reply, ok, removed};
use super::input::{Change, Nothing, Params, Segments};
use crate::reconcile::handle::Request;

pub(super) async fn list(State(state): State<ApiState>, _: Params<Nothing>) -> Response {
    ok(&state.handle.snapshot().nodes)
}

pub(super) async fn inspect(
    State(state): State<ApiState>,
    Segments(node): Segments<String>,
    _: Params<Nothing>,
) -> Reply {
    let snapshot = state.handle.snapshot();
    let found = snapshot
        .nodes
        .iter()
        .find(|one| one.name == node || one.id == node);
    let missing = || {
        let text = format!(
            "no host has the name or id {:?}: `netctl node ls` lists them",
            shorten(&node)
        );
        Error::new(Code::NodeNotFound, text)
    };
    Ok(ok(found.ok_or_else(missing)?))
}

pub(super) async fn remove(
    State(state): State<ApiState>,
    Segments(node): Segments<String>,
    Params(query): Params<Change>,
) -> Reply {
    let request = Request::RemoveNode(node);
    Ok(removed(state.handle.ask(request, query.dry_run).await?))
}
