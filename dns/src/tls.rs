//! Owns the questions to upstreams over TLS (RFC 7858): whom to trust, and connections that are used again.
//!
//! IO. The strict profile (RFC 8310): an upstream whose certificate does not hold is no upstream; nothing is asked in clear
//! text instead.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::exchange::{framed, with_random_id};
use crate::raw;
use crate::reach::Reach;
use crate::resolv::Upstream;

/// Connections to one upstream that wait to be used again.
const SPARE: usize = 4;
/// How long they wait; servers close theirs after about as long.
const KEEP: Duration = Duration::from_secs(8);

/// No certificates to check upstreams by.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The text holds none, or a broken one.
    #[error("no certificates to check resolvers by: {0}")]
    Roots(String),
    /// The library refuses its own defaults.
    #[error("TLS cannot be used: {0}")]
    Library(#[from] rustls::Error),
}

/// Connections that wait to be used again, with the time since when.
#[derive(Default)]
struct Spare {
    waiting: HashMap<Upstream, Vec<(TlsStream<TcpStream>, Instant)>>,
    /// Whether a task closes those that waited too long.
    swept: bool,
}

/// The way to upstreams over TLS. The default trusts nobody and so asks nobody. Cloning shares.
#[derive(Clone, Default)]
pub struct Tls {
    connector: Option<TlsConnector>,
    /// Never locked across an await.
    spare: Arc<Mutex<Spare>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("trusts", &self.connector.is_some())
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Trusts the certificates of a PEM text.
    pub fn with_roots(pem: &[u8]) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| TlsError::Roots(error.to_string()))?;
            // Systems carry a few that are odd; the others serve.
            let _ = roots.add(certificate);
        }
        if roots.is_empty() {
            return Err(TlsError::Roots("there is no PEM certificate".to_owned()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            connector: Some(Arc::new(config).into()),
            spare: Arc::default(),
        })
    }

    /// Asks an upstream that has to show a certificate for `name`. The reply has the id of this exchange.
    pub(crate) async fn ask(
        &self,
        reach: &Reach,
        upstream: &Upstream,
        name: &str,
        query: &[u8],
    ) -> io::Result<Vec<u8>> {
        let sent = with_random_id(query);
        while let Some(mut stream) = self.take(upstream) {
            // It may have been closed meanwhile: then the next, or a new one.
            if let Ok(reply) = exchange(&mut stream, &sent).await {
                self.keep(upstream, stream);
                return Ok(reply);
            }
        }
        let connector = self.connector.as_ref().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::Unsupported,
                "no certificates to check it by: see dns-tls-ca",
            )
        })?;
        let server = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let stream = reach.tcp(upstream).await?;
        stream.set_nodelay(true)?;
        let mut stream = connector.connect(server, stream).await?;
        let reply = exchange(&mut stream, &sent).await?;
        self.keep(upstream, stream);
        Ok(reply)
    }

    fn spare(&self) -> MutexGuard<'_, Spare> {
        // Lists of connections: whole after any panic.
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, upstream: &Upstream) -> Option<TlsStream<TcpStream>> {
        let mut spare = self.spare();
        let waiting = spare.waiting.get_mut(upstream)?;
        waiting.retain(|(_, since)| since.elapsed() < KEEP);
        waiting.pop().map(|(stream, _)| stream)
    }

    fn keep(&self, upstream: &Upstream, stream: TlsStream<TcpStream>) {
        // A socket that waits would keep the namespace of a container that is gone.
        if upstream.from.is_some() {
            return;
        }
        let mut spare = self.spare();
        let waiting = spare.waiting.entry(upstream.clone()).or_default();
        if waiting.len() >= SPARE {
            return;
        }
        waiting.push((stream, Instant::now()));
        if !std::mem::replace(&mut spare.swept, true) {
            tokio::spawn(self.clone().sweep());
        }
    }

    /// Closes connections that nobody used for a while, until there are none.
    async fn sweep(self) {
        loop {
            tokio::time::sleep(KEEP).await;
            let mut spare = self.spare();
            spare.waiting.retain(|_, waiting| {
                waiting.retain(|(_, since)| since.elapsed() < KEEP);
                !waiting.is_empty()
            });
            spare.swept = !spare.waiting.is_empty();
            if !spare.swept {
                return;
            }
        }
    }
}

async fn exchange(stream: &mut TlsStream<TcpStream>, sent: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(&framed(sent)).await?;
    stream.flush().await?;
    let length = stream.read_u16().await?;
    let mut reply = vec![0; usize::from(length)];
    stream.read_exact(&mut reply).await?;
    if raw::is_reply_to(sent, &reply) {
        Ok(reply)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}
