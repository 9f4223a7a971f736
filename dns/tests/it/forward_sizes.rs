//! Replies that are cut, by the upstream or for the client.

use std::net::SocketAddr;

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use netd_dns::Transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use crate::forward::{PATIENT, edns_query, forwarder, query};
use crate::support::{question, reply_to, upstream, with_edns};

/// An upstream that says TC over UDP and, on the same port, `whole` over TCP.
async fn truncating(whole: &'static [u8]) -> SocketAddr {
    let (udp, tcp) = loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, client)) = udp.recv_from(&mut buffer).await {
            let mut reply = reply_to(&buffer[..length], b"cut");
            reply[2] |= 2;
            udp.send_to(&reply, client).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let length = stream.read_u16().await.unwrap();
            let mut query = vec![0; usize::from(length)];
            stream.read_exact(&mut query).await.unwrap();
            let reply = reply_to(&query, whole);
            stream
                .write_u16(u16::try_from(reply.len()).unwrap())
                .await
                .unwrap();
            stream.write_all(&reply).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn a_cut_reply_is_fetched_over_tcp() {
    static WHOLE: [u8; 30_000] = [b'x'; 30_000];
    let server = truncating(&WHOLE).await;
    let forwarder = forwarder(PATIENT);
    let reply = forwarder
        .forward(&query(), Transport::Tcp, Some(&[server]))
        .await;
    assert_eq!(reply, reply_to(&query(), &WHOLE));
    let reply = forwarder
        .forward(&query(), Transport::Udp, Some(&[server]))
        .await;
    let message = Message::from_vec(&reply).unwrap();
    assert!(message.metadata.truncation && message.answers.is_empty());
    // One that fits is whole even over UDP.
    let server = truncating(b"whole").await;
    let reply = forwarder
        .forward(&query(), Transport::Udp, Some(&[server]))
        .await;
    assert_eq!(reply, reply_to(&query(), b"whole"));
}

#[tokio::test]
async fn a_cut_reply_is_better_than_none() {
    let server = upstream(|query| {
        let mut reply = reply_to(&query, b"cut");
        reply[2] |= 2;
        vec![reply]
    })
    .await;
    let reply = forwarder(PATIENT)
        .forward(&query(), Transport::Udp, Some(&[server]))
        .await;
    let message = Message::from_vec(&reply).unwrap();
    assert!(message.metadata.truncation);
    assert_eq!(message.metadata.id, 0x1234);
}

#[tokio::test]
async fn a_reply_beyond_the_clients_size_is_cut() {
    let server = upstream(|query| vec![reply_to(&query, &[b'x'; 3000])]).await;
    let forwarder = forwarder(PATIENT);
    for (query, edns) in [(query(), false), (edns_query(), true)] {
        let reply = forwarder
            .forward(&query, Transport::Udp, Some(&[server]))
            .await;
        let message = Message::from_vec(&reply).unwrap();
        assert!(message.metadata.truncation && message.answers.is_empty());
        assert_eq!(message.metadata.id, 0x1234);
        assert_eq!(message.queries.len(), 1);
        assert_eq!(message.edns.is_some(), edns);
        // Over TCP all of it goes through.
        let reply = forwarder
            .forward(&query, Transport::Tcp, Some(&[server]))
            .await;
        assert_eq!(reply, reply_to(&query, &[b'x'; 3000]));
    }
    let large = with_edns(question("www.example.com", RecordType::A), 4096)
        .to_vec()
        .unwrap();
    let reply = forwarder
        .forward(&large, Transport::Udp, Some(&[server]))
        .await;
    assert_eq!(reply, reply_to(&large, &[b'x'; 3000]));
}
