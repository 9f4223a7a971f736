//! `/v1/cni`: what the CNI plugin asks, one request for each of its verbs; and the spool of DELs that came while no
//! daemon answered.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use axum::extract::State;
use axum::response::Response;
use futures_util::future::join_all;
use netd_model::api::{self, NetworkCreate};
use netd_model::cni::{
    self, Add, AddRequest, Added, Address, Attachment, Collected, Gc, Interface, SPOOL,
    StaticRoute, StatusOf,
};
use netd_model::error::{Code, Error, Result};
use netd_model::net::{Family, Mac, Prefix};
use netd_model::request::CreateNetwork;

use super::ApiState;
use super::answer::{Reply, ok};
use super::containers::open;
use super::input::{Json, Nothing, Params};
use crate::reconcile::handle::{Answer, Handle, Request, Snapshot};

pub(super) async fn add(
    State(state): State<ApiState>,
    _: Params<Nothing>,
    Json(raw): Json<Add>,
) -> Reply {
    let attachment = Attachment {
        container: raw.container.clone(),
        ifname: raw.ifname.clone(),
    };
    // A DEL of the same attachment that still waits came before.
    state.spool.settle(&attachment, &state.handle).await?;
    let mut full = None;
    let mut places = places(raw).peekable();
    while let Some(place) = places.next() {
        let (define, raw) = place?;
        // One that is full is passed over at once, but for the last: what is wrong besides is said there. Addresses that are
        // asked for may be kept for who asks.
        let room = raw.ips.is_empty() && places.peek().is_some();
        match attach(&state, define, raw.clone(), room).await {
            Ok(container) => {
                let snapshot = state.handle.snapshot();
                let added = added(&snapshot, &container, &attachment, &raw.routes)?;
                return Ok(ok(&added));
            }
            Err(error) if is_full(&error) => full = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    let none = || {
        Error::new(
            Code::PoolExhausted,
            "no bridge of the network has the addresses asked for: a node has 256 of 253 addresses",
        )
    };
    Err(full.unwrap_or_else(none).into())
}

/// Where a request can be served, in the order of trying: on the pieces of its network; for addresses out of them, on the
/// piece that has them.
fn places(raw: Add) -> impl Iterator<Item = Result<(Option<CreateNetwork>, Add)>> {
    let named = raw.define.is_none().then(|| Ok((None, raw.clone())));
    let holds = |define: &NetworkCreate, ip: &IpAddr| {
        let subnets = define.subnets.iter().map(|text| text.parse::<Prefix>());
        subnets.flatten().any(|subnet| subnet.contains(*ip))
    };
    let whole = raw.define.clone();
    let chosen = whole
        .as_ref()
        .is_some_and(|whole| raw.ips.iter().all(|ip| holds(whole, ip)));
    let pieces = whole.into_iter().flat_map(|whole| cni::pieces(&whole));
    let asked = raw.ips.clone();
    let pieces = pieces.filter(move |piece| !chosen || asked.iter().all(|ip| holds(piece, ip)));
    let made = pieces.map(move |piece| {
        let add = Add {
            network: piece.name.clone(),
            define: None,
            ..raw.clone()
        };
        Ok((Some(CreateNetwork::try_from(piece)?), add))
    });
    named.into_iter().chain(made)
}

fn is_full(error: &Error) -> bool {
    matches!(error.code, Code::NetworkFull | Code::PoolExhausted)
}

async fn attach(
    state: &ApiState,
    define: Option<CreateNetwork>,
    raw: Add,
    room: bool,
) -> Result<Box<api::Container>> {
    let request = Box::new(AddRequest::try_from(raw)?);
    if let Some(define) = define {
        ensure(&state.handle, &define, room).await?;
    }
    let netns = PathBuf::from(&request.attach.netns);
    let sandbox = open(std::sync::Arc::clone(&state.kernel), netns).await?;
    let request = Request::CniAdd { request, sandbox };
    match state.handle.ask(request, false).await? {
        Answer::Container(container) => Ok(container),
        _ => Err(Error::new(
            Code::Internal,
            "an attach answered something else",
        )),
    }
}

/// Makes the network of a configuration; one that was removed for that first is made at the next try.
async fn ensure(handle: &Handle, define: &CreateNetwork, room: bool) -> Result<()> {
    let request = || Request::CniNetwork {
        define: define.clone(),
        room,
    };
    if let Answer::Removed(_) = handle.ask(request(), false).await? {
        handle.ask(request(), false).await?;
    }
    Ok(())
}

pub(super) async fn del(
    State(state): State<ApiState>,
    _: Params<Nothing>,
    Json(attachment): Json<Attachment>,
) -> Reply {
    state.handle.ask(Request::CniDel(attachment), false).await?;
    Ok(ok(&serde_json::Map::new()))
}

/// The differences, a line each; none is healthy.
pub(super) async fn check(
    State(state): State<ApiState>,
    _: Params<Nothing>,
    Json(attachment): Json<Attachment>,
) -> Reply {
    let answer = state.handle.ask(Request::CniCheck(attachment), false);
    match answer.await? {
        Answer::Plan(plan) => Ok(ok(&plan)),
        _ => Err(Error::new(Code::Internal, "a check answered something else").into()),
    }
}

/// Removes everything of a CNI network that is not in the list; goes on after an error, and tells all of them.
pub(super) async fn gc(
    State(state): State<ApiState>,
    _: Params<Nothing>,
    Json(gc): Json<Gc>,
) -> Response {
    let stale: Vec<Attachment> = attachments(&state.handle.snapshot(), &gc.cni_network)
        .into_iter()
        .filter(|attachment| !gc.valid.contains(attachment))
        .collect();
    let dels = stale
        .iter()
        .map(|attachment| state.handle.ask(Request::CniDel(attachment.clone()), false));
    let mut collected = Collected::default();
    for (attachment, result) in stale.iter().zip(join_all(dels).await) {
        match result {
            Ok(_) => collected.removed.push(attachment.clone()),
            Err(error) => collected.errors.push(format!(
                "container {} interface {}: {}",
                attachment.container, attachment.ifname, error.message
            )),
        }
    }
    ok(&collected)
}

/// Whether an ADD would be served.
pub(super) async fn status(
    State(state): State<ApiState>,
    _: Params<Nothing>,
    Json(of): Json<StatusOf>,
) -> Reply {
    let snapshot = state.handle.snapshot();
    if !snapshot.ready {
        let why = "netd is starting and has not finished its first audit: try again";
        return Err(Error::new(Code::NotReady, why).into());
    }
    let mut views = snapshot.network_views.iter();
    if of.define.is_none() && !views.any(|view| view.name == of.network) {
        let why = format!("no network has the name {:?}: create it first", of.network);
        return Err(Error::new(Code::NetworkNotFound, why).into());
    }
    let raw = Add {
        network: of.network,
        define: of.define,
        ..Add::default()
    };
    let mut full = None;
    for place in places(raw) {
        let (define, Add { network, .. }) = place?;
        let define = define.map(Box::new);
        match state
            .handle
            .ask(Request::CniStatus { network, define }, false)
            .await
        {
            Ok(_) => return Ok(ok(&serde_json::Map::new())),
            Err(error) if is_full(&error) => full = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    full.map_or_else(
        || Ok(ok(&serde_json::Map::new())),
        |error| Err(error.into()),
    )
}

/// The attachments of a CNI network.
fn attachments(snapshot: &Snapshot, cni_network: &str) -> Vec<Attachment> {
    let of = |container: &api::Container| {
        let endpoints = container.endpoints.iter();
        let mine = endpoints.filter(|e| e.cni_network.as_deref() == Some(cni_network));
        mine.map(|e| Attachment {
            container: container.id.clone(),
            ifname: e.ifname.to_string(),
        })
        .collect::<Vec<_>>()
    };
    snapshot
        .container_views
        .iter()
        .flat_map(|view| of(view))
        .collect()
}

/// An attachment as the plugin needs it.
fn added(
    snapshot: &Snapshot,
    container: &api::Container,
    attachment: &Attachment,
    routes: &[StaticRoute],
) -> Result<Added> {
    let missing = || Error::new(Code::Internal, "an attachment has no endpoint or network");
    let is_it = |e: &&api::Endpoint| e.ifname.as_str() == attachment.ifname;
    let endpoint = container.endpoints.iter().find(is_it).ok_or_else(missing)?;
    let networks = &snapshot.network_views;
    let network = networks.iter().find(|net| net.id == endpoint.network_id);
    let network = network.ok_or_else(missing)?;
    let interface = |name, mac| Interface {
        name,
        mac,
        mtu: network.mtu,
    };
    let families = [
        (Family::V4, &endpoint.ipv4, endpoint.gateway),
        (Family::V6, &endpoint.ipv6, endpoint.gateway6),
    ];
    let mut all = Vec::new();
    let mut ips = Vec::new();
    for (family, address, gateway) in families {
        let Some(address) = address.clone() else {
            continue;
        };
        ips.push(Address { address, gateway });
        if let Some(via) = gateway.filter(|_| has_default_route(container, endpoint, family)) {
            let dst = Prefix::default_route(family);
            all.push(StaticRoute {
                dst,
                via: Some(via),
            });
        }
    }
    all.extend(routes.iter().cloned());
    let gateway = network.subnets.iter().find_map(|subnet| subnet.gateway);
    let bridge = gateway.map(|ip| interface(network.interface.clone(), Mac::of_address(ip)));
    let host = interface(endpoint.host_ifname.clone(), endpoint.mac.host_end());
    Ok(Added {
        bridge: bridge.filter(|_| !endpoint.address_only),
        host: Some(host).filter(|_| !endpoint.address_only),
        container: interface(endpoint.ifname.clone(), endpoint.mac),
        ips,
        routes: all,
        nameserver: container.dns.nameserver,
        warnings: container.warnings.clone(),
    })
}

/// The default route leads over the first endpoint with a gateway.
fn has_default_route(container: &api::Container, endpoint: &api::Endpoint, family: Family) -> bool {
    let gateway = |e: &api::Endpoint| match family {
        Family::V4 => e.ipv4.as_ref().and(e.gateway),
        Family::V6 => e.ipv6.as_ref().and(e.gateway6),
    };
    let mut endpoints = container.endpoints.iter().filter(|e| !e.address_only);
    let first = endpoints.find(|e| gateway(e).is_some());
    first.is_some_and(|first| first.network_id == endpoint.network_id)
}

/// The directory in which the plugin leaves the DELs that came while no daemon answered: a file for each attachment.
#[derive(Debug, Default)]
pub struct Spool(PathBuf);

impl Spool {
    /// The spool beside the API's socket, where the plugin looks for it too.
    pub fn beside(socket: &Path) -> Self {
        Self(
            socket
                .parent()
                .unwrap_or_else(|| Path::new("/"))
                .join(SPOOL),
        )
    }

    /// Carries out what waits. Called once the socket listens: a plugin that comes later finds it.
    pub async fn drain(&self, handle: &Handle) {
        let dir = self.0.clone();
        let read = tokio::task::spawn_blocking(move || waiting(&dir)).await;
        let dels = read.unwrap_or_default();
        if !dels.is_empty() {
            tracing::info!(count = dels.len(), "DELs of the CNI plugin were waiting");
        }
        join_all(dels.iter().map(|(path, attachment)| async move {
            if let Err(error) = carry_out(path, attachment, handle).await {
                tracing::error!(path = %path.display(), %error, "a waiting DEL could not be carried out: it waits on");
            }
        }))
        .await;
    }

    /// Carries out the DEL of one attachment, if it waits. The run-dir is in memory: looking there does not block.
    async fn settle(&self, attachment: &Attachment, handle: &Handle) -> Result<()> {
        let path = self.0.join(attachment.spool_name());
        if path.exists() {
            carry_out(&path, attachment, handle).await?;
        }
        Ok(())
    }
}

/// The files of the spool that can be read; one that cannot is told of, and stays.
fn waiting(dir: &Path) -> Vec<(PathBuf, Attachment)> {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let paths = files.map(|entry| entry.path());
    let named = paths.filter(|path| {
        path.extension()
            .is_some_and(|extension| extension == "json")
    });
    let parsed = named.filter_map(|path| {
        let text = std::fs::read(&path).map_err(|error| error.to_string());
        let parsed = text.and_then(|text| {
            serde_json::from_slice(&text).map_err(|error| error.to_string())
        });
        match parsed {
            Ok(attachment) => Some((path, attachment)),
            Err(error) => {
                tracing::error!(path = %path.display(), error, "a waiting DEL cannot be read: the file stays");
                None
            }
        }
    });
    parsed.collect()
}

async fn carry_out(path: &Path, attachment: &Attachment, handle: &Handle) -> Result<()> {
    handle
        .ask(Request::CniDel(attachment.clone()), false)
        .await?;
    // What cannot be removed is carried out once more at the next start, and finds nothing.
    let _ = std::fs::remove_file(path);
    Ok(())
}
