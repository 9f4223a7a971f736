//! `/v1/dns/query`: what a container gets for a name, and why.

use axum::extract::State;
use netd_model::api::{Container, DnsAnswer};
use netd_model::error::{Code, Error};

use super::ApiState;
use super::answer::{Reply, ok};
use super::find::find;
use super::input::{DnsQuery, Params};

/// Asks as a container would; without one, says which networks know the name.
pub(super) async fn query(State(state): State<ApiState>, Params(query): Params<DnsQuery>) -> Reply {
    let Some(names) = state.names else {
        return Err(Error::new(
            Code::NotReady,
            "this daemon answers no DNS: try again when it is ready",
        )
        .into());
    };
    let kind = query.kind.unwrap_or_else(|| "A".to_owned());
    let Some(container) = query.container else {
        let answers = names.server().locate(&query.name);
        let known = !answers.is_empty();
        return Ok(ok(&DnsAnswer {
            code: if known { "NOERROR" } else { "NXDOMAIN" }.to_owned(),
            answers,
            source: "zone".to_owned(),
            steps: vec![if known {
                "these networks know it; a container gets the addresses on its own networks"
                    .to_owned()
            } else {
                "no network knows it; to see what a container gets from outside, ask as one (--as)"
                    .to_owned()
            }],
        }));
    };
    let snapshot = state.handle.snapshot();
    let views = snapshot.container_views.iter().map(AsRef::as_ref);
    let id = find::<Container>(views, &container)?.id.clone();
    match names.explain(id, query.name, kind).await {
        Some(Ok(explained)) => Ok(ok(&DnsAnswer {
            code: explained.code,
            answers: explained.answers,
            source: explained.source,
            steps: explained.steps,
        })),
        Some(Err(why)) => Err(Error::new(Code::InvalidDnsQuery, why).into()),
        None => {
            let text = format!(
                "container {container} is not answered by netd: it is being attached or detached"
            );
            Err(Error::new(Code::NotReady, text).into())
        }
    }
}
