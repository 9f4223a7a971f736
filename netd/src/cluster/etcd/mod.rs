//! etcd as the store: gRPC over one connection at a time, to the first endpoint that answers.
//!
//! Every call has a deadline, and the connection is probed, so that one that died without a word is noticed within seconds. After
//! a failure the next list goes to the next endpoint.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::uri::PathAndQuery;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::sync::mpsc;
use tonic::Request;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic_prost::ProstCodec;

use self::failure::{explain, of_status};
use super::store::{
    Answer, Compare, Event, Events, KeyValue, Known, Lease, Listing, Revision, Store, StoreError,
    Txn, TxnEnd, Write,
};

mod failure;
mod proto;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(3);
/// How long a call may take.
const CALL: Duration = Duration::from_secs(5);
/// A connection that is silent for this long is asked whether it lives, and has as long to answer.
const PROBE: Duration = Duration::from_secs(3);
/// Keys in one answer to a list: each answer fits into what gRPC takes at once.
const PAGE: i64 = 1000;
/// Largest message that is taken, in bytes.
const MESSAGE: usize = 64 << 20;
/// Changes that wait for the core.
const QUEUE: usize = 64;

/// Where etcd is, and how to get in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `host:port`, in the order they are tried.
    pub endpoints: Vec<String>,
    /// The name of the cluster: what is below `/netd/v1/CLUSTER/` is its own.
    pub cluster: String,
    /// Certificates that etcd's is checked by; with it, TLS is used.
    pub ca: Option<PathBuf>,
    /// The certificate that this host shows, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// User and password.
    pub login: Option<Login>,
}

/// User and password. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// A connection, and what goes with each call.
#[derive(Clone)]
struct Connection {
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    /// The endpoint to try next.
    next: usize,
    local: Option<IpAddr>,
}

/// etcd.
pub struct Etcd {
    config: Config,
    tls: Option<ClientTlsConfig>,
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// Why the configuration of etcd cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Etcd {
    /// Reads the certificates. Connects to nothing yet.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        let read = |what, path: &PathBuf| {
            std::fs::read(path).map_err(|source| ConfigError::File {
                what,
                path: path.clone(),
                source,
            })
        };
        let mut tls = None;
        if let Some(ca) = &config.ca {
            let roots = Certificate::from_pem(read("etcd-ca", ca)?);
            tls = Some(ClientTlsConfig::new().ca_certificate(roots));
        }
        if let Some((certificate, key)) = &config.identity {
            let identity =
                Identity::from_pem(read("etcd-cert", certificate)?, read("etcd-key", key)?);
            tls = tls.map(|tls| tls.identity(identity));
        }
        Ok(Self {
            config,
            tls,
            state: Arc::default(),
        })
    }

    fn caller(&self) -> Caller {
        Caller {
            config: self.config.clone(),
            tls: self.tls.clone(),
            state: Arc::clone(&self.state),
        }
    }
}

/// What one call needs, by itself.
struct Caller {
    config: Config,
    tls: Option<ClientTlsConfig>,
    state: Arc<Mutex<State>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Each change is an assignment: a panic elsewhere leaves it whole.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Caller {
    fn prefix(&self) -> String {
        format!("/netd/v1/{}/", self.config.cluster)
    }

    fn key(&self, key: &str) -> Vec<u8> {
        [self.prefix().as_bytes(), key.as_bytes()].concat()
    }

    fn own(&self, key: &[u8]) -> Option<String> {
        let text = std::str::from_utf8(key).ok()?;
        text.strip_prefix(&self.prefix()).map(str::to_owned)
    }

    /// A new connection, to the first endpoint from the next one on that answers.
    async fn connect(&self) -> Result<Connection, StoreError> {
        let count = self.config.endpoints.len();
        let first = lock(&self.state).next;
        let mut why = StoreError::Unavailable("no endpoint is configured".to_owned());
        for n in 0..count {
            let at = (first + n) % count;
            match self.reach(&self.config.endpoints[at]).await {
                Ok((connection, local)) => {
                    let mut state = lock(&self.state);
                    // Should it not work, the next one comes first.
                    state.next = (at + 1) % count;
                    state.connection = Some(connection.clone());
                    state.local = local.or(state.local);
                    return Ok(connection);
                }
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    async fn reach(&self, at: &str) -> Result<(Connection, Option<IpAddr>), StoreError> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let failed = |error: tonic::transport::Error| StoreError::Unavailable(explain(at, &error));
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{at}"))
            .map_err(failed)?
            .connect_timeout(CONNECT)
            .timeout(CALL)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PROBE)
            .keep_alive_timeout(PROBE)
            .keep_alive_while_idle(true);
        if let Some(tls) = &self.tls {
            endpoint = endpoint.tls_config(tls.clone()).map_err(failed)?;
        }
        let connected = tokio::time::timeout(CONNECT, endpoint.connect()).await;
        let channel = connected
            .map_err(|_| StoreError::Unavailable(format!("etcd at {at} does not answer")))?
            .map_err(failed)?;
        let mut connection = Connection {
            channel,
            token: None,
        };
        if let Some(login) = &self.config.login {
            let request = proto::AuthenticateRequest {
                name: login.user.clone(),
                password: login.password.clone(),
            };
            let path = "/etcdserverpb.Auth/Authenticate";
            let answer: proto::AuthenticateResponse = call(&connection, path, request).await?;
            let token = answer.token.parse();
            connection.token = token.ok();
        }
        Ok((connection, local_towards(at).await))
    }

    fn connection(&self) -> Result<Connection, StoreError> {
        let connection = lock(&self.state).connection.clone();
        connection
            .ok_or_else(|| StoreError::Unavailable("there is no connection to etcd".to_owned()))
    }

    async fn list(&self, known: Option<Known>) -> Result<Listing, StoreError> {
        let connection = self.connect().await?;
        let prefix = self.prefix().into_bytes();
        let end = after(&prefix);
        let mut request = proto::RangeRequest {
            key: prefix,
            range_end: end,
            limit: PAGE,
            revision: 0,
        };
        let mut kvs = Vec::new();
        loop {
            let path = "/etcdserverpb.KV/Range";
            let page = call(&connection, path, request.clone()).await;
            let page: proto::RangeResponse = page.map_err(|error| self.hint(error))?;
            let revision = page.header.map_or(0, |header| header.revision);
            if request.revision == 0 {
                // All pages are of one revision.
                request.revision = revision;
            }
            let last = page.kvs.last().map(|kv| kv.key.clone());
            kvs.extend(page.kvs.into_iter().filter_map(|kv| self.key_value(kv)));
            match last.filter(|_| page.more) {
                // The least key behind it.
                Some(mut key) => {
                    key.push(0);
                    request.key = key;
                }
                None => break,
            }
        }
        let mut listing = Listing {
            revision: request.revision,
            kvs,
            knows: None,
        };
        if let Some(known) = known {
            listing.knows = match listing.knows(&known) {
                Some(knows) => Some(knows),
                None => self.has_written(&connection, &known).await?,
            };
        }
        Ok(listing)
    }

    /// Whether the history has a write; none, when that part of it was compacted.
    async fn has_written(
        &self,
        connection: &Connection,
        known: &Known,
    ) -> Result<Option<bool>, StoreError> {
        let request = proto::RangeRequest {
            key: self.key(&known.key),
            range_end: Vec::new(),
            limit: 1,
            revision: known.revision,
        };
        let answer = call(connection, "/etcdserverpb.KV/Range", request).await;
        match answer {
            Ok(answer) => {
                let answer: proto::RangeResponse = answer;
                let mut kvs = answer.kvs.iter();
                Ok(Some(kvs.any(|kv| kv.mod_revision == known.revision)))
            }
            Err(StoreError::Compacted) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A connection that ends without a word may be one that the other end wants otherwise: TLS 1.3 says so only after it
    /// is open.
    fn hint(&self, error: StoreError) -> StoreError {
        let StoreError::Unavailable(text) = error else {
            return error;
        };
        let silent = text.contains("transport error") && !text.contains(';');
        let hint = match (&self.tls, &self.config.identity) {
            (None, _) if silent => "; if it speaks TLS, set etcd-ca",
            (Some(_), None) if silent => {
                "; if it wants a certificate of this host, set etcd-cert and etcd-key"
            }
            _ => "",
        };
        StoreError::Unavailable(format!("{text}{hint}"))
    }

    fn key_value(&self, kv: proto::KeyValue) -> Option<KeyValue> {
        Some(KeyValue {
            key: self.own(&kv.key)?,
            value: kv.value,
            revision: kv.mod_revision,
        })
    }

    fn compare(&self, compare: Compare) -> proto::Compare {
        const EQUAL: i32 = 0;
        const LESS: i32 = 2;
        const CREATE: i32 = 1;
        const MOD: i32 = 2;
        let of = |key: &str, result, target, value| proto::Compare {
            result,
            target,
            key: self.key(key),
            value: Some(value),
            range_end: Vec::new(),
        };
        match compare {
            Compare::Absent(key) => of(&key, EQUAL, CREATE, proto::Target::Create(0)),
            Compare::At(key, revision) => of(&key, EQUAL, MOD, proto::Target::Mod(revision)),
            Compare::NoneAfter(prefix, revision) => proto::Compare {
                range_end: after(&self.key(&prefix)),
                ..of(&prefix, LESS, MOD, proto::Target::Mod(revision + 1))
            },
        }
    }

    fn write(&self, write: Write) -> proto::RequestOp {
        let op = match write {
            Write::Put { key, value, lease } => proto::Op::Put(proto::PutRequest {
                key: self.key(&key),
                value,
                lease: lease.unwrap_or(0),
            }),
            Write::Delete(key) => proto::Op::Delete(proto::DeleteRangeRequest {
                key: self.key(&key),
            }),
        };
        proto::RequestOp { op: Some(op) }
    }

    async fn watch(
        &self,
        from: Revision,
    ) -> Result<mpsc::Receiver<Result<Events, StoreError>>, StoreError> {
        let connection = self.connection()?;
        let prefix = self.prefix().into_bytes();
        let create = proto::WatchCreate {
            range_end: after(&prefix),
            key: prefix,
            start_revision: from,
        };
        let request = proto::WatchRequest {
            create: Some(create),
        };
        // The request stream stays open for as long as the watch shall last.
        let (hold, requests) = mpsc::channel(1);
        let sent = hold.send(request).await;
        sent.map_err(|_| StoreError::Unavailable("the watch ended at once".to_owned()))?;
        let requests = stream::unfold(requests, |mut requests| async {
            Some((requests.recv().await?, requests))
        });
        let mut grpc = ready(&connection).await?;
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let codec: ProstCodec<proto::WatchRequest, proto::WatchResponse> = ProstCodec::default();
        let opened = grpc.streaming(with_token(&connection, requests), path, codec);
        let opened = tokio::time::timeout(CALL, opened).await;
        let opened =
            opened.map_err(|_| StoreError::Unavailable("etcd opens no watch".to_owned()))?;
        let mut answers = opened.map_err(|status| of_status(&status))?.into_inner();
        let (sender, receiver) = mpsc::channel(QUEUE);
        let own = Caller {
            config: self.config.clone(),
            tls: None,
            state: Arc::clone(&self.state),
        };
        tokio::spawn(async move {
            let _hold = hold;
            loop {
                let answer = tokio::select! {
                    answer = answers.next() => answer,
                    () = sender.closed() => return,
                };
                let told = match answer {
                    Some(Ok(answer)) => own.told(answer),
                    Some(Err(status)) => Err(of_status(&status)),
                    None => Err(StoreError::Unavailable("etcd ended the watch".to_owned())),
                };
                let ends = told.is_err();
                if told.as_ref().is_ok_and(Vec::is_empty) {
                    continue;
                }
                if sender.send(told).await.is_err() || ends {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    fn told(&self, answer: proto::WatchResponse) -> Result<Events, StoreError> {
        if answer.compact_revision != 0 {
            return Err(StoreError::Compacted);
        }
        if answer.canceled {
            let why = answer.cancel_reason;
            return Err(StoreError::Unavailable(format!(
                "etcd ended the watch: {why}"
            )));
        }
        let event = |event: proto::Event| {
            let kv = self.key_value(event.kv?)?;
            Some(match event.kind {
                0 => Event::Put(kv),
                _ => Event::Delete {
                    key: kv.key,
                    revision: kv.revision,
                },
            })
        };
        Ok(answer.events.into_iter().filter_map(event).collect())
    }
}

/// The address of this host that packets to an endpoint come from. Sends none.
async fn local_towards(at: &str) -> Option<IpAddr> {
    let to: SocketAddr = tokio::net::lookup_host(at).await.ok()?.next()?;
    let any: SocketAddr = if to.is_ipv4() {
        ([0; 4], 0).into()
    } else {
        ([0; 16], 0).into()
    };
    let socket = tokio::net::UdpSocket::bind(any).await.ok()?;
    socket.connect(to).await.ok()?;
    let local = socket.local_addr().ok()?.ip();
    (!local.is_loopback()).then_some(local)
}

/// The key behind all that begin with a prefix.
fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    // Prefixes of netd end with `/`, which is no 0xff.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

async fn ready(connection: &Connection) -> Result<Grpc<Channel>, StoreError> {
    let mut grpc = Grpc::new(connection.channel.clone()).max_decoding_message_size(MESSAGE);
    let is_ready = tokio::time::timeout(CALL, grpc.ready()).await;
    let is_ready =
        is_ready.map_err(|_| StoreError::Unavailable("etcd does not answer".to_owned()))?;
    is_ready.map_err(|error| StoreError::Unavailable(explain("etcd", &error)))?;
    Ok(grpc)
}

fn with_token<T>(connection: &Connection, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = &connection.token {
        request
            .metadata_mut()
            .insert("authorization", token.clone());
    }
    request
}

async fn call<A, B>(
    connection: &Connection,
    path: &'static str,
    message: A,
) -> Result<B, StoreError>
where
    A: prost::Message + Default + Send + Sync + 'static,
    B: prost::Message + Default + Send + Sync + 'static,
{
    let mut grpc = ready(connection).await?;
    let codec: ProstCodec<A, B> = ProstCodec::default();
    let path = PathAndQuery::from_static(path);
    let answer = grpc.unary(with_token(connection, message), path, codec);
    let answer = tokio::time::timeout(CALL, answer).await;
    let answer = answer.map_err(|_| StoreError::Unavailable("etcd does not answer".to_owned()))?;
    Ok(answer.map_err(|status| of_status(&status))?.into_inner())
}

impl Store for Etcd {
    fn list(&self, known: Option<Known>) -> Answer<Listing> {
        let caller = self.caller();
        async move { caller.list(known).await }.boxed()
    }

    fn txn(&self, txn: Txn) -> Answer<TxnEnd> {
        let caller = self.caller();
        async move {
            let connection = caller.connection()?;
            let request = proto::TxnRequest {
                compare: txn.when.into_iter().map(|c| caller.compare(c)).collect(),
                success: txn.then.into_iter().map(|w| caller.write(w)).collect(),
            };
            let path = "/etcdserverpb.KV/Txn";
            let answer: proto::TxnResponse = call(&connection, path, request).await?;
            Ok(TxnEnd {
                done: answer.succeeded,
                revision: answer.header.map_or(0, |header| header.revision),
            })
        }
        .boxed()
    }

    fn watch(&self, from: Revision) -> Answer<mpsc::Receiver<Result<Events, StoreError>>> {
        let caller = self.caller();
        async move { caller.watch(from).await }.boxed()
    }

    fn grant(&self, seconds: u32) -> Answer<Lease> {
        let caller = self.caller();
        async move {
            let connection = caller.connection()?;
            let request = proto::LeaseGrantRequest {
                ttl: seconds.into(),
            };
            let path = "/etcdserverpb.Lease/LeaseGrant";
            let answer: proto::LeaseGrantResponse = call(&connection, path, request).await?;
            if answer.error.is_empty() {
                Ok(answer.id)
            } else {
                Err(StoreError::Unavailable(answer.error))
            }
        }
        .boxed()
    }

    fn keep_alive(&self, lease: Lease) -> Answer<()> {
        let caller = self.caller();
        async move {
            let connection = caller.connection()?;
            let mut grpc = ready(&connection).await?;
            let path = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseKeepAlive");
            let codec: ProstCodec<proto::LeaseKeepAliveRequest, proto::LeaseKeepAliveResponse> =
                ProstCodec::default();
            let once = stream::iter([proto::LeaseKeepAliveRequest { id: lease }]);
            let kept = async {
                let answers = grpc
                    .streaming(with_token(&connection, once), path, codec)
                    .await;
                let mut answers = answers.map_err(|status| of_status(&status))?.into_inner();
                match answers.next().await {
                    Some(Ok(answer)) if answer.ttl > 0 => Ok(()),
                    Some(Ok(_)) => Err(StoreError::LeaseGone),
                    Some(Err(status)) => Err(of_status(&status)),
                    None => Err(StoreError::Unavailable("etcd does not answer".to_owned())),
                }
            };
            let kept = tokio::time::timeout(CALL, kept).await;
            kept.map_err(|_| StoreError::Unavailable("etcd does not answer".to_owned()))?
        }
        .boxed()
    }

    fn local_address(&self) -> Option<IpAddr> {
        lock(&self.state).local
    }
}
