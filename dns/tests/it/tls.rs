//! Upstreams over TLS, with a certificate authority of the tests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::{Message, ResponseCode};
use netd_dns::{Forwarder, Tls, Transport, Upstream};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::forward::{PATIENT, query};
use crate::support::reply_to;

/// A server with a certificate for this name; the PEM text that vouches for it; how many connected.
async fn server(name: &str) -> (SocketAddr, String, Arc<AtomicUsize>) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connected = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connected);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, count) = (acceptor.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                // A client that does not trust us says so and goes.
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                count.fetch_add(1, Ordering::SeqCst);
                while let Ok(length) = stream.read_u16().await {
                    let mut query = vec![0; usize::from(length)];
                    stream.read_exact(&mut query).await.unwrap();
                    let reply = reply_to(&query, b"over TLS");
                    stream
                        .write_u16(u16::try_from(reply.len()).unwrap())
                        .await
                        .unwrap();
                    stream.write_all(&reply).await.unwrap();
                    stream.flush().await.unwrap();
                }
            });
        }
    });
    (address, made.cert.pem(), connected)
}

fn forwarder(address: SocketAddr, name: &str, tls: Tls) -> Forwarder {
    let upstream = Upstream {
        address,
        tls: Some(name.into()),
        from: None,
    };
    let host = Arc::new(arc_swap::ArcSwap::from_pointee(vec![upstream]));
    Forwarder::with(host, PATIENT, 0, tls)
}

fn is_servfail(reply: &[u8]) -> bool {
    Message::from_vec(reply).unwrap().metadata.response_code == ResponseCode::ServFail
}

#[tokio::test]
async fn a_trusted_upstream_is_asked_on_one_connection() {
    let (address, roots, connected) = server("dns.example").await;
    let forwarder = forwarder(
        address,
        "dns.example",
        Tls::with_roots(roots.as_bytes()).unwrap(),
    );
    for _ in 0..5 {
        let reply = forwarder.forward(&query(), Transport::Udp, None).await;
        assert_eq!(reply, reply_to(&query(), b"over TLS"));
    }
    assert_eq!(connected.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_upstream_that_is_not_trusted_is_none() {
    let (address, roots, _) = server("dns.example").await;
    let (_, others, _) = server("dns.example").await;
    let trust = |pem: &str| Tls::with_roots(pem.as_bytes()).unwrap();
    for (name, tls) in [
        ("other.example", trust(&roots)),
        ("dns.example", trust(&others)),
        ("dns.example", Tls::default()),
    ] {
        let reply = forwarder(address, name, tls)
            .forward(&query(), Transport::Udp, None)
            .await;
        assert!(is_servfail(&reply), "{name}");
    }
}

#[test]
fn roots_that_are_none_are_refused() {
    for text in [
        "",
        "no certificate",
        "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
    ] {
        assert!(Tls::with_roots(text.as_bytes()).is_err(), "{text}");
    }
}
