//! The HTTP API on the unix socket.
//!
//! Reads requests, has `model` validate them, passes them to the owner task and answers; reads are served from the
//! owner's snapshot. It decides nothing and never touches the kernel but to open the namespace of an attach.
//!
//! - Bodies and answers are JSON, whatever the content type says. A body has at most [`BODY_MAX`] bytes.
//! - `POST /v1/networks` and `POST /v1/containers` answer 201, also when the same request is repeated; everything
//!   else answers 200. A dry run answers 200 with [`DryRun`](netd_model::api::DryRun), `DELETE` answers `{}`.
//! - Every error, unknown paths and methods included, is `{"error":{"code","message","details"}}`.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::http::{Method, Uri};
use axum::routing::{delete, get, post, put};
use netd_model::error::{Code, Error};
use netd_model::id::shorten;

use self::metrics::Registry;
use crate::kernel::Kernel;
use crate::names::Names;
use crate::reconcile::handle::Handle;

mod answer;
pub(crate) mod apply;
pub(crate) mod cni;
mod containers;
mod dns;
mod events;
pub(crate) mod find;
mod input;
pub mod metrics;
mod networks;
mod nodes;
pub(crate) mod serve;
pub(crate) mod system;
#[cfg(test)]
pub(crate) mod tests;

pub use input::BODY_MAX;
pub use serve::{GRACE, serve};

/// What the handlers need.
#[derive(Clone, Debug)]
pub struct ApiState {
    /// The way to the owner.
    pub handle: Handle,
    /// Opens the namespaces of attaches.
    pub kernel: Arc<dyn Kernel>,
    /// DELs of the CNI plugin that came while no daemon answered.
    pub spool: Arc<cni::Spool>,
    /// What `status` warns of beside the owner's warnings.
    pub notices: Notices,
    /// The DNS of the containers, to be asked why it answers as it does.
    pub names: Option<Arc<Names>>,
    /// What `/metrics` shows.
    pub metrics: Registry,
}

/// Warnings about the daemon itself, such as a configuration that cannot be read.
#[derive(Clone, Debug, Default)]
pub struct Notices {
    config: Arc<ArcSwap<Vec<String>>>,
    declared: Arc<ArcSwap<Vec<String>>>,
}

impl Notices {
    /// Replaces those about the configuration.
    pub fn set(&self, notices: Vec<String>) {
        self.config.store(Arc::new(notices));
    }

    /// Replaces those about declared networks.
    pub fn set_declared(&self, notices: Vec<String>) {
        self.declared.store(Arc::new(notices));
    }

    /// All of them.
    pub fn all(&self) -> Vec<String> {
        [self.config.load().to_vec(), self.declared.load().to_vec()].concat()
    }
}

/// The routes.
pub fn router(state: ApiState) -> Router {
    Router::new()
        .route("/v1/networks", get(networks::list).post(networks::create))
        .route(
            "/v1/networks/{network}",
            get(networks::inspect)
                .delete(networks::remove)
                .patch(networks::change)
                .post(networks::prune),
        )
        .route(
            "/v1/containers",
            get(containers::list).post(containers::attach),
        )
        .route(
            "/v1/containers/{container}",
            get(containers::inspect).delete(containers::detach),
        )
        .route(
            "/v1/containers/{container}/endpoints",
            post(containers::connect),
        )
        .route(
            "/v1/containers/{container}/endpoints/{network}",
            delete(containers::disconnect),
        )
        .route("/v1/cni/add", post(cni::add))
        .route("/v1/cni/del", post(cni::del))
        .route("/v1/cni/check", post(cni::check))
        .route("/v1/cni/gc", post(cni::gc))
        .route("/v1/cni/status", post(cni::status))
        .route(
            "/v1/networks/{network}/reservations/{container}",
            put(networks::reserve).delete(networks::unreserve),
        )
        .route("/v1/nodes", get(nodes::list))
        .route(
            "/v1/nodes/{node}",
            get(nodes::inspect).delete(nodes::remove),
        )
        .route("/v1/apply", post(apply::apply))
        .route("/v1/plan", get(system::plan))
        .route("/v1/doctor", get(system::doctor))
        .route("/v1/trace", get(system::trace))
        .route("/v1/audit", post(system::audit))
        .route("/v1/status", get(system::status))
        .route("/v1/events", get(events::events))
        .route("/v1/purge", post(system::purge))
        .route("/v1/dns/query", get(dns::query))
        .route("/metrics", get(metrics::metrics))
        .route("/healthz", get(system::healthz))
        .route("/readyz", get(system::readyz))
        .fallback(no_route)
        .method_not_allowed_fallback(no_route)
        .with_state(state)
}

async fn no_route(method: Method, uri: Uri) -> answer::Refusal {
    let what = format!("{method} {}", shorten(uri.path()));
    Error::new(
        Code::RouteNotFound,
        format!("the API has no {what}: look for the path and method in its documentation"),
    )
    .into()
}
