//! How the server begins and ends: sockets must not outlive `close`.

use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;

use hickory_proto::rr::RecordType;
use netd_dns::{Forwarder, ListenError, Server, Tls, ZoneHandle};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::server::{Client, read, setup, sockets, write};
use crate::support::{WEB, addresses, question, until, upstream};

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed() {
    let setup = setup(&[]);
    let mut idle = TcpStream::connect(setup.tcp).await.unwrap();
    // Half a message is as idle as none.
    idle.write_u8(0).await.unwrap();
    assert!(read(&mut idle).await.is_err());
}

#[tokio::test]
async fn close_frees_the_addresses_and_ends_connections() {
    let silent = upstream(|_| Vec::new()).await;
    let setup = setup(&[silent]);
    // A connection, a query that waits over UDP and one that waits over TCP.
    let mut stream = TcpStream::connect(setup.tcp).await.unwrap();
    write(&mut stream, &question("www.example.com", RecordType::A)).await;
    let client = Client::to(setup.udp).await;
    client
        .send(&question("www.example.com", RecordType::A))
        .await;
    until(async || setup.server.stats(WEB).unwrap().forwarded == 2).await;
    assert_eq!(setup.server.listening(), [Arc::from(WEB)]);

    assert!(setup.server.close(WEB).await);
    // std sets SO_REUSEADDR for TCP, so only a listener that is still open is in the way.
    let again = (
        UdpSocket::bind(setup.udp).unwrap(),
        TcpListener::bind(setup.tcp).unwrap(),
    );
    assert!(read(&mut stream).await.is_err());
    assert!(setup.server.listening().is_empty());
    assert_eq!(setup.server.stats(WEB), None);
    assert!(!setup.server.close(WEB).await);

    setup.server.listen(WEB, again.0, again.1).unwrap();
    let reply = Client::to(setup.udp)
        .await
        .ask(&question("web", RecordType::A))
        .await;
    assert_eq!(addresses(&reply).len(), 1);
}

#[tokio::test]
async fn everybody_who_closes_waits_for_the_end() {
    let setup = setup(&[]);
    let (first, second) = tokio::join!(setup.server.close(WEB), setup.server.close(WEB));
    assert!(first && second);
    assert!(UdpSocket::bind(setup.udp).is_ok());
}

#[tokio::test]
async fn close_all_closes_all() {
    let setup = setup(&[]);
    for asker in ["a", "b", "c"] {
        let (udp, tcp) = sockets();
        setup.server.listen(asker, udp, tcp).unwrap();
    }
    assert_eq!(setup.server.listening().len(), 4);
    setup.server.close_all().await;
    assert!(setup.server.listening().is_empty());
    assert!(UdpSocket::bind(setup.udp).is_ok());
}

#[tokio::test]
async fn one_pair_of_sockets_for_a_container() {
    let setup = setup(&[]);
    let (udp, tcp) = sockets();
    let error = setup.server.listen(WEB, udp, tcp).unwrap_err();
    assert!(
        matches!(error, ListenError::AlreadyListening { .. }),
        "{error}"
    );
    let reply = Client::to(setup.udp)
        .await
        .ask(&question("web", RecordType::A))
        .await;
    assert_eq!(addresses(&reply).len(), 1);
}

#[test]
fn without_a_runtime_nothing_listens() {
    let server = Server::new(
        ZoneHandle::default(),
        Forwarder::new(Arc::default(), 0, Tls::default()),
    );
    let (udp, tcp) = sockets();
    let error = server.listen(WEB, udp, tcp).unwrap_err();
    assert!(matches!(error, ListenError::NoRuntime { .. }), "{error}");
}

#[tokio::test]
async fn dropping_the_server_ends_its_tasks() {
    let setup = setup(&[]);
    drop(setup.server);
    until(async || UdpSocket::bind(setup.udp).is_ok()).await;
}
