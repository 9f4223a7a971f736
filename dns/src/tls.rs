//! Owns the questions to upstreams over TLS (RFC 7858): whom to trust, and connections that are used again.
//!
//! IO. The strict profile (RFC 8310): an upstream whose certificate does not hold is no upstream; nothing is asked in clear
//! text instead.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
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

type Spare = Mutex<HashMap<(SocketAddr, Arc<str>), Vec<(TlsStream<TcpStream>, Instant)>>>;

/// The way to upstreams over TLS. The default trusts nobody and so asks nobody. Cloning shares.
#[derive(Clone, Default)]
pub struct Tls {
    connector: Option<TlsConnector>,
    /// Never locked across an await.
    spare: Arc<Spare>,
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

    /// Asks the upstream that shows a certificate for `name`. The reply has the id of this exchange.
    pub(crate) async fn ask(
        &self,
        upstream: SocketAddr,
        name: &Arc<str>,
        query: &[u8],
    ) -> io::Result<Vec<u8>> {
        let sent = with_random_id(query);
        while let Some(mut stream) = self.take(upstream, name) {
            // It may have been closed meanwhile: then the next, or a new one.
            if let Ok(reply) = exchange(&mut stream, &sent).await {
                self.keep(upstream, name, stream);
                return Ok(reply);
            }
        }
        let connector = self.connector.as_ref().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::Unsupported,
                "no certificates to check it by: see dns-tls-ca",
            )
        })?;
        let server = ServerName::try_from(name.to_string()).map_err(io::Error::other)?;
        let stream = TcpStream::connect(upstream).await?;
        stream.set_nodelay(true)?;
        let mut stream = connector.connect(server, stream).await?;
        let reply = exchange(&mut stream, &sent).await?;
        self.keep(upstream, name, stream);
        Ok(reply)
    }

    fn take(&self, upstream: SocketAddr, name: &Arc<str>) -> Option<TlsStream<TcpStream>> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = spare.get_mut(&(upstream, Arc::clone(name)))?;
        waiting.retain(|(_, since)| since.elapsed() < KEEP);
        waiting.pop().map(|(stream, _)| stream)
    }

    fn keep(&self, upstream: SocketAddr, name: &Arc<str>, stream: TlsStream<TcpStream>) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = spare.entry((upstream, Arc::clone(name))).or_default();
        if waiting.len() < SPARE {
            waiting.push((stream, Instant::now()));
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
