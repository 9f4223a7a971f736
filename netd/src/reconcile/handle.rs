//! What the API can ask of the owner task: messages in, snapshots out.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use netd_model::api;
use netd_model::cni::{AddRequest, Attachment};
use netd_model::doctor::Finding;
use netd_model::error::{Code, Error, Result};
use netd_model::id::Name;
use netd_model::net::Prefix;
use netd_model::record::Reservation;
use netd_model::request::{Attach, CreateNetwork, Join};
use netd_model::trace::Trace;
use tokio::sync::{mpsc, oneshot};

use crate::kernel::Sandbox;
use crate::reconcile::journal::Journal;

/// Most requests that may wait for the owner; one more is refused with `too_many_requests`.
pub const QUEUE: usize = 1024;
/// How long a client waits for an answer. The work goes on without it.
const ANSWER: Duration = Duration::from_mins(2);
/// Until the owner is asked once more whether it is ready.
const AGAIN: Duration = Duration::from_millis(100);

/// One request to the owner task.
#[derive(Debug)]
pub enum Request {
    /// Create a network.
    CreateNetwork(CreateNetwork),
    /// Create a network unless it is there; one of the name that differs is an error.
    EnsureNetwork(CreateNetwork),
    /// Change from where flows may be opened to the containers of a network; none: as it is.
    SetAccess {
        /// The network.
        network: String,
        /// Who alone may.
        allow_from: Option<Vec<Prefix>>,
        /// Who may not.
        block_from: Option<Vec<Prefix>>,
    },
    /// Keep addresses for a container, or keep them no longer.
    Reserve {
        /// The network.
        network: String,
        /// The container's name.
        container: Name,
        /// What to keep; none to end it.
        reservation: Option<Reservation>,
    },
    /// Remove a network, by name, id or unique prefix of an id.
    RemoveNetwork(String),
    /// Remove every network without containers, but the predefined one.
    PruneNetworks,
    /// Attach a container.
    Attach {
        /// What is asked for.
        attach: Box<Attach>,
        /// Its namespace, opened and checked.
        sandbox: Sandbox,
        /// Refuse when the id exists, even with the same request.
        create_only: bool,
    },
    /// Detach a container, by name, id or unique prefix of an id.
    Detach(String),
    /// Join one more network.
    Connect {
        /// The container.
        container: String,
        /// The network, and how.
        join: Join,
    },
    /// Leave a network.
    Disconnect {
        /// The container.
        container: String,
        /// The network.
        network: String,
    },
    /// Make a CNI attachment; one that exists is refused.
    CniAdd {
        /// What is asked for.
        request: Box<AddRequest>,
        /// The namespace of the container, opened and checked.
        sandbox: Sandbox,
    },
    /// Remove a CNI attachment; one that does not exist is removed.
    CniDel(Attachment),
    /// What differs from what a CNI attachment should be.
    CniCheck(Attachment),
    /// Make the network of a CNI configuration unless it is there. One that a configuration made, that differs and that
    /// has no containers is removed: [`Answer::Removed`] says to ask again.
    CniNetwork {
        define: CreateNetwork,
        /// Whether it is an error if the network has no room for one container more.
        room: bool,
    },
    /// Whether a network of this name can take one more container, and may be as defined.
    CniStatus {
        /// The network.
        network: String,
        /// As it would be made.
        define: Option<Box<CreateNetwork>>,
    },
    /// Remove a host that is gone from the cluster, by name or id.
    RemoveNode(String),
    /// Nothing: the answer says that the first audit is done.
    Ready,
    /// Nothing: the answer says that the owner takes messages, ready or not.
    Alive,
    /// Read the host's facts again.
    Refresh,
    /// What the next audit would repair.
    Plan,
    /// What about the host hinders containers.
    Doctor,
    /// What happens to a packet.
    Trace {
        /// Who sends: a container, `host`, or an address.
        from: String,
        /// Where to: the same, and `:PORT[/PROTO]`.
        to: String,
    },
    /// Observe everything and repair.
    Audit,
    /// Remove everything of ours.
    Purge {
        /// Even with containers attached.
        force: bool,
    },
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A network.
    Network(Box<api::Network>),
    /// It is as it was asked for.
    Unchanged,
    /// A container.
    Container(Box<api::Container>),
    /// Names of the networks that were removed.
    Removed(Vec<String>),
    /// Nothing to tell.
    Done,
    /// What a dry run would have done.
    DryRun(api::DryRun),
    /// A plan, or what an audit did.
    Plan(Box<api::Plan>),
    /// What a purge removed.
    Purged(api::Purged),
    /// What hinders.
    Findings(Vec<Finding>),
    /// The way of a packet.
    Trace(Box<Trace>),
}

/// A request on its way to the owner.
#[derive(Debug)]
pub struct Message {
    /// The request.
    pub request: Request,
    /// Whether only the operations are asked for.
    pub dry_run: bool,
    /// Where the answer goes; a client that hung up cancels nothing.
    pub reply: oneshot::Sender<Result<Answer>>,
}

/// What readers see: complete, and never older than the last answer given.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The networks, in the order of their ids, without their endpoints: [`Snapshot::networks`] adds them. Shared, so
    /// that a new snapshot costs no copies.
    pub network_views: Vec<Arc<api::Network>>,
    /// The containers, in the order of their ids.
    pub container_views: Vec<Arc<api::Container>>,
    /// Whether the first audit is done.
    pub ready: bool,
    /// What is wrong, each with its remedy.
    pub warnings: Vec<String>,
    /// The hosts of the cluster, by name.
    pub nodes: Vec<api::Node>,
    /// How it stands with the shared store.
    pub store: String,
    /// What netd changed on the host.
    pub host_changes: Vec<api::HostChange>,
    /// Objects with our mark that serve nothing on record.
    pub orphans: Vec<String>,
    /// Kernel features probed.
    pub features: std::collections::BTreeMap<String, bool>,
}

impl Snapshot {
    /// The networks with their endpoints, by name.
    pub fn networks(&self) -> Vec<api::Network> {
        let mut networks: Vec<api::Network> = self
            .network_views
            .iter()
            .map(|view| api::Network::clone(view))
            .collect();
        for network in &mut networks {
            network.endpoints = self.endpoints_of(&network.id);
        }
        networks.sort_by(|a, b| a.name.cmp(&b.name));
        networks
    }

    /// The containers, by name.
    pub fn containers(&self) -> Vec<api::Container> {
        let mut containers: Vec<api::Container> = self
            .container_views
            .iter()
            .map(|view| api::Container::clone(view))
            .collect();
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        containers
    }

    fn endpoints_of(&self, network: &str) -> Vec<api::NetworkEndpoint> {
        let mut endpoints: Vec<api::NetworkEndpoint> = self
            .container_views
            .iter()
            .flat_map(|container| {
                container
                    .endpoints
                    .iter()
                    .map(move |endpoint| (container, endpoint))
            })
            .filter(|(_, endpoint)| endpoint.network_id == network)
            .map(|(container, endpoint)| api::NetworkEndpoint {
                container_id: container.id.clone(),
                container_name: container.name.clone(),
                ipv4: endpoint.ipv4.clone(),
                ipv6: endpoint.ipv6.clone(),
                mac: endpoint.mac,
            })
            .collect();
        endpoints.sort_by(|a, b| a.container_name.cmp(&b.container_name));
        endpoints
    }
}

/// The way to the owner task, for any number of users.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) messages: mpsc::Sender<Message>,
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    /// What happened.
    pub journal: Arc<Journal>,
}

impl Handle {
    /// Sends a request and waits for its answer.
    pub async fn ask(&self, request: Request, dry_run: bool) -> Result<Answer> {
        let (reply, answer) = oneshot::channel();
        self.messages
            .try_send(Message {
                request,
                dry_run,
                reply,
            })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => too_many(QUEUE),
                mpsc::error::TrySendError::Closed(_) => stopping(),
            })?;
        let answer = tokio::time::timeout(ANSWER, answer).await;
        let answer = answer.map_err(|_| {
            let seconds = ANSWER.as_secs();
            let text = format!(
                "no answer within {seconds} s, and the change may still be made: see netctl status and netctl ps"
            );
            Error::new(Code::TimedOut, text).with("seconds", seconds)
        })?;
        answer.map_err(|_| stopping())?
    }

    /// Whether the owner takes messages, asked of the owner itself; no answer comes from one that is stuck.
    pub async fn is_alive(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        let message = Message {
            request: Request::Alive,
            dry_run: false,
            reply,
        };
        self.messages.send(message).await.is_ok() && answer.await.is_ok()
    }

    /// Waits until the first audit is done; false when the owner ends before.
    pub async fn ready(&self) -> bool {
        loop {
            // The owner answers nothing before that.
            match self.ask(Request::Ready, false).await {
                Ok(_) => return true,
                Err(error) if error.code == Code::NotReady => return false,
                // Not yet: the kernel may refuse to be observed for long.
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    /// The state as of the last answer.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }
}

/// The refusal of one request above a limit.
pub(crate) fn too_many(limit: usize) -> Error {
    let text = format!("{limit} requests are under way already: try again when some are answered");
    Error::new(Code::TooManyRequests, text).with("limit", limit)
}

fn stopping() -> Error {
    Error::new(
        Code::NotReady,
        "netd is stopping: try again when it is back",
    )
}
