//! The forwarder against fake upstreams on loopback.
//!
//! Tests that need a reply use real time with a budget far beyond any delay, so no clock decides them;
//! tests where nothing ever replies pause the clock and measure in it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use netd_dns::{Forwarder, Timing, Tls, Transport, Upstream};
use tokio::net::UdpSocket;
use tokio::time::Instant;

use crate::support::{question, reply_to, upstream, with_edns, with_rcode};

/// Short attempts, and all the time in the world.
pub(crate) const PATIENT: Timing = Timing {
    attempt: Duration::from_millis(50),
    budget: Duration::from_secs(600),
    avoid: Duration::from_secs(600),
    hedge: Duration::from_millis(300),
    stale: Duration::from_secs(600),
};

pub(crate) fn forwarder(timing: Timing) -> Forwarder {
    Forwarder::with_timing(Arc::default(), timing)
}

pub(crate) fn query() -> Vec<u8> {
    question("www.example.com", RecordType::A).to_vec().unwrap()
}

pub(crate) fn edns_query() -> Vec<u8> {
    with_edns(question("www.example.com", RecordType::A), 1232)
        .to_vec()
        .unwrap()
}

/// A socket that takes queries and never answers.
async fn silent() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Where nobody listens: no test binds this loopback address, so no other test can be there by chance.
fn nobody() -> SocketAddr {
    "127.0.0.99:9".parse().unwrap()
}

fn code(reply: &[u8]) -> ResponseCode {
    Message::from_vec(reply).unwrap().metadata.response_code
}

fn extended_error(reply: &[u8]) -> Option<u16> {
    let message = Message::from_vec(reply).unwrap();
    let edns = message.edns?;
    match edns.option(EdnsCode::Unknown(15))? {
        EdnsOption::Unknown(15, data) => Some(u16::from_be_bytes([data[0], data[1]])),
        other => panic!("{other:?}"),
    }
}

/// An upstream that counts, and what it was asked.
async fn counting(count: &Arc<AtomicUsize>) -> SocketAddr {
    let count = Arc::clone(count);
    upstream(move |query| {
        count.fetch_add(1, Ordering::SeqCst);
        vec![reply_to(&query, b"counted")]
    })
    .await
}

#[tokio::test]
async fn bytes_pass_through_with_the_clients_id() {
    // The upstream hears every byte but the id, and its reply of an unknown type comes back whole.
    let mut sent = edns_query();
    let expected = sent[2..].to_vec();
    let server = upstream(move |query| {
        assert_eq!(query[2..], expected);
        vec![reply_to(&query, b"raw")]
    })
    .await;
    let reply = forwarder(PATIENT)
        .forward(&sent, Transport::Udp, Some(&[server]))
        .await;
    assert_eq!(reply, reply_to(&sent, b"raw"));
    // The client's spelling is restored, whatever the upstream made of it.
    sent[13] = b'W';
    let lower = upstream(|query| vec![reply_to(&query.to_ascii_lowercase(), b"raw")]).await;
    let reply = forwarder(PATIENT)
        .forward(&sent, Transport::Udp, Some(&[lower]))
        .await;
    assert_eq!(reply[12..17], sent[12..17]);
}

#[tokio::test]
async fn ids_differ_from_query_to_query() {
    let (socket, address) = silent().await;
    let reader = tokio::spawn(async move {
        let mut seen = Vec::new();
        let mut buffer = [0; 512];
        while seen.len() < 8 {
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            seen.push((buffer[0], buffer[1], client.port()));
            socket
                .send_to(&reply_to(&buffer[..length], b""), client)
                .await
                .unwrap();
        }
        seen
    });
    let forwarder = forwarder(PATIENT);
    for _ in 0..8 {
        forwarder
            .forward(&query(), Transport::Udp, Some(&[address]))
            .await;
    }
    let mut seen = reader.await.unwrap();
    seen.sort_unstable();
    seen.dedup();
    assert!(seen.len() > 1, "every query had the same id and port");
}

#[tokio::test]
async fn wrong_replies_are_ignored() {
    let server = upstream(|query| {
        let good = reply_to(&query, b"good");
        let mut id = reply_to(&query, b"bad");
        id[0] ^= 0xff;
        let mut name = reply_to(&query, b"bad");
        name[13] = b'x';
        let mut kind = reply_to(&query, b"bad");
        let end = 12 + "\x03www\x07example\x03com\0".len();
        kind[end + 1] = 28;
        let mut not_a_reply = reply_to(&query, b"bad");
        not_a_reply[2] &= 0x7f;
        let mut no_question = reply_to(&query, b"bad");
        no_question[5] = 0;
        let short = good[..8].to_vec();
        vec![
            id,
            name,
            kind,
            not_a_reply,
            no_question,
            short,
            Vec::new(),
            good,
        ]
    })
    .await;
    let reply = forwarder(PATIENT)
        .forward(&query(), Transport::Udp, Some(&[server]))
        .await;
    assert_eq!(reply, reply_to(&query(), b"good"));
}

#[tokio::test]
async fn a_dead_upstream_is_passed_over_and_remembered() {
    let (dead, dead_address) = silent().await;
    let count = Arc::new(AtomicUsize::new(0));
    let live = counting(&count).await;
    let forwarder = forwarder(PATIENT);
    for _ in 0..5 {
        let reply = forwarder
            .forward(&query(), Transport::Udp, Some(&[dead_address, live]))
            .await;
        assert_eq!(reply, reply_to(&query(), b"counted"));
    }
    // A slow machine may cost the live one a try or two, but the dead one is not asked first each time.
    let mut asked = 0;
    while dead.try_recv_from(&mut [0; 512]).is_ok() {
        asked += 1;
    }
    let answered = count.load(Ordering::SeqCst);
    assert!(
        asked >= 1 && (asked == 1 || answered > 5),
        "dead asked {asked} times"
    );
}

#[tokio::test]
async fn an_upstream_that_came_back_is_asked_first_again() {
    let timing = Timing {
        avoid: Duration::ZERO,
        ..PATIENT
    };
    let (first, second) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let address = nobody();
    let live = counting(&second).await;
    let forwarder = forwarder(timing);
    forwarder
        .forward(&query(), Transport::Udp, Some(&[address, live]))
        .await;
    assert_eq!(second.load(Ordering::SeqCst), 1);
    let back = counting(&first).await;
    forwarder
        .forward(&query(), Transport::Udp, Some(&[back, live]))
        .await;
    assert_eq!(first.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_unreachable_upstream_is_passed_over_at_once() {
    let live = upstream(|query| vec![reply_to(&query, b"live")]).await;
    let timing = Timing {
        attempt: Duration::from_secs(300),
        ..PATIENT
    };
    let upstreams = [nobody(), live];
    let reply = forwarder(timing)
        .forward(&query(), Transport::Udp, Some(&upstreams))
        .await;
    assert_eq!(reply, reply_to(&query(), b"live"));
}

#[tokio::test]
async fn servfail_and_refused_go_to_the_next() {
    for bad in [2, 5] {
        let failing = upstream(move |query| vec![with_rcode(&query, bad)]).await;
        let live = upstream(|query| vec![reply_to(&query, b"live")]).await;
        let reply = forwarder(PATIENT)
            .forward(&query(), Transport::Udp, Some(&[failing, live]))
            .await;
        assert_eq!(reply, reply_to(&query(), b"live"));
    }
}

#[tokio::test]
async fn other_codes_are_final() {
    // FORMERR, NXDOMAIN, NOTIMP.
    for last in [1, 3, 4] {
        let first = upstream(move |query| vec![with_rcode(&query, last)]).await;
        let count = Arc::new(AtomicUsize::new(0));
        let second = counting(&count).await;
        let reply = forwarder(PATIENT)
            .forward(&query(), Transport::Udp, Some(&[first, second]))
            .await;
        assert_eq!(reply, with_rcode(&query(), last));
        assert_eq!(count.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test]
async fn an_upstreams_own_servfail_is_better_than_none() {
    let timing = Timing {
        attempt: Duration::from_secs(300),
        ..PATIENT
    };
    let upstreams = [
        upstream(|query| vec![with_rcode(&query, 2)]).await,
        nobody(),
    ];
    let reply = forwarder(timing)
        .forward(&query(), Transport::Udp, Some(&upstreams))
        .await;
    assert_eq!(reply, with_rcode(&query(), 2));
}

#[tokio::test]
async fn refused_by_all_is_servfail() {
    let timing = Timing {
        attempt: Duration::from_secs(300),
        ..PATIENT
    };
    let upstreams = [
        upstream(|query| vec![with_rcode(&query, 5)]).await,
        nobody(),
    ];
    let reply = forwarder(timing)
        .forward(&edns_query(), Transport::Udp, Some(&upstreams))
        .await;
    assert_eq!(code(&reply), ResponseCode::ServFail);
    assert_eq!(extended_error(&reply), Some(22));
}

#[tokio::test]
async fn unreachable_by_all_is_a_network_error() {
    let timing = Timing {
        attempt: Duration::from_secs(300),
        ..PATIENT
    };
    let reply = forwarder(timing)
        .forward(&edns_query(), Transport::Udp, Some(&[nobody()]))
        .await;
    assert_eq!(code(&reply), ResponseCode::ServFail);
    assert_eq!(extended_error(&reply), Some(23));
}

#[tokio::test(start_paused = true)]
async fn silence_is_servfail_within_two_seconds() {
    for count in 1..=4 {
        let mut sockets = Vec::new();
        for _ in 0..count {
            sockets.push(silent().await);
        }
        let upstreams: Vec<SocketAddr> = sockets.iter().map(|(_, address)| *address).collect();
        let begin = Instant::now();
        let forwarder = forwarder(Timing::default());
        let reply = forwarder
            .forward(&edns_query(), Transport::Udp, Some(&upstreams))
            .await;
        assert_eq!(code(&reply), ResponseCode::ServFail);
        assert_eq!(extended_error(&reply), Some(22));
        assert!(
            begin.elapsed() < Duration::from_secs(2),
            "{:?}",
            begin.elapsed()
        );
        // Without EDNS there is no place for the reason.
        let reply = forwarder
            .forward(&query(), Transport::Udp, Some(&upstreams))
            .await;
        assert_eq!(code(&reply), ResponseCode::ServFail);
        assert!(Message::from_vec(&reply).unwrap().edns.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_to_ask_is_servfail_at_once() {
    let begin = Instant::now();
    let ourselves: SocketAddr = "127.0.0.11:53".parse().unwrap();
    let mapped: SocketAddr = "[::ffff:127.0.0.11]:53".parse().unwrap();
    let host = Arc::new(ArcSwap::from_pointee(vec![Upstream::from(ourselves)]));
    let forwarder = Forwarder::new(host, 0, Tls::default());
    for upstreams in [None, Some(&[][..]), Some(&[ourselves, mapped][..])] {
        let reply = forwarder
            .forward(&edns_query(), Transport::Udp, upstreams)
            .await;
        assert_eq!(code(&reply), ResponseCode::ServFail);
        assert_eq!(extended_error(&reply), Some(22));
    }
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn the_hosts_upstreams_can_change() {
    let host = Arc::new(ArcSwap::from_pointee(vec![Upstream::from(nobody())]));
    let forwarder = Forwarder::with_timing(Arc::clone(&host), PATIENT);
    let reply = forwarder.forward(&query(), Transport::Udp, None).await;
    assert_eq!(code(&reply), ResponseCode::ServFail);
    host.store(Arc::new(vec![
        upstream(|query| vec![reply_to(&query, b"new")])
            .await
            .into(),
    ]));
    let reply = forwarder.forward(&query(), Transport::Udp, None).await;
    assert_eq!(reply, reply_to(&query(), b"new"));
}

#[tokio::test]
async fn an_ipv6_upstream() {
    let Ok(socket) = UdpSocket::bind("[::1]:0").await else {
        eprintln!("SKIPPED an_ipv6_upstream: no IPv6 loopback here");
        return;
    };
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            socket
                .send_to(&reply_to(&buffer[..length], b"six"), client)
                .await
                .unwrap();
        }
    });
    let reply = forwarder(PATIENT)
        .forward(&query(), Transport::Udp, Some(&[address]))
        .await;
    assert_eq!(reply, reply_to(&query(), b"six"));
}
