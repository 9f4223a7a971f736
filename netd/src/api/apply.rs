//! `POST /v1/apply`: networks and reservations that shall be there.

use axum::extract::State;
use netd_model::api::{self, Applied, DryRun};
use netd_model::error::{Error, Result};
use netd_model::request::{Declared, Reserve};

use super::ApiState;
use super::answer::{Reply, ok};
use super::input::{Change, Json, Params};
use crate::reconcile::handle::{Answer, Handle, Request};

pub(super) async fn apply(
    State(state): State<ApiState>,
    Params(query): Params<Change>,
    Json(raw): Json<api::Apply>,
) -> Reply {
    let declared = Declared::try_from(raw)?;
    // All of it first as a dry run: what would be refused is found before anything is made.
    let planned = plan(&state.handle, &declared).await?;
    if query.dry_run {
        return Ok(ok(&planned));
    }
    Ok(ok(&make(&state.handle, declared).await?))
}

/// What would be done. Reservations on a network that is still to be made are judged when it is there.
async fn plan(handle: &Handle, declared: &Declared) -> Result<DryRun> {
    let mut ops = Vec::new();
    for network in &declared.networks {
        let request = Request::EnsureNetwork(network.clone());
        if let Answer::DryRun(run) = handle.ask(request, true).await? {
            ops.extend(run.ops);
        }
    }
    let to_come = |reserve: &Reserve| {
        let mut networks = declared.networks.iter();
        networks.any(|network| network.name.as_str() == reserve.network)
    };
    for reserve in declared.reservations.iter().filter(|r| !to_come(r)) {
        handle.ask(request(reserve.clone()), true).await?;
    }
    Ok(DryRun::new(ops))
}

/// Makes what is not there, in order; stops at the first failure, and the same again goes on from there.
pub(crate) async fn make(handle: &Handle, declared: Declared) -> Result<Applied> {
    let mut applied = Applied::default();
    let mut note = |what: String, answer: &Answer| match answer {
        Answer::Unchanged => applied.unchanged.push(what),
        _ => applied.created.push(what),
    };
    for network in declared.networks {
        let name = network.name.to_string();
        let answer = handle.ask(Request::EnsureNetwork(network), false).await;
        note(
            name.clone(),
            &answer.map_err(|error| about(&format!("network {name}"), error))?,
        );
    }
    for reserve in declared.reservations {
        let what = format!("{}/{}", reserve.network, reserve.container);
        let answer = handle.ask(request(reserve), false).await;
        note(
            what.clone(),
            &answer.map_err(|error| about(&format!("reservation {what}"), error))?,
        );
    }
    Ok(applied)
}

fn request(reserve: Reserve) -> Request {
    Request::Reserve {
        network: reserve.network,
        container: reserve.container,
        reservation: Some(reserve.reservation),
    }
}

fn about(what: &str, error: Error) -> Error {
    if error.message.contains(what) {
        return error;
    }
    Error {
        message: format!("{what}: {}", error.message),
        ..error
    }
}
