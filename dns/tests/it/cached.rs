//! The forwarder with its cache, and what many who ask the same cost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use netd_dns::{Begun, Forwarder, Source, Timing, Tls, Transport, Upstream};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use crate::forward::{PATIENT, edns_query, query};
use crate::support::{question, reply_to, until, upstream, with_rcode};

const CACHE: usize = 1 << 20;

fn forwarder(upstreams: &[SocketAddr], timing: Timing) -> Forwarder {
    let host = upstreams.iter().copied().map(Upstream::from).collect();
    Forwarder::with(
        Arc::new(ArcSwap::from_pointee(host)),
        timing,
        CACHE,
        Tls::default(),
    )
}

/// An upstream that counts, and answers as long as it is told to; the TTL of `reply_to` is nine seconds.
async fn switched(count: &Arc<AtomicUsize>, dead: &Arc<AtomicUsize>) -> SocketAddr {
    let (count, dead) = (Arc::clone(count), Arc::clone(dead));
    upstream(move |query| {
        count.fetch_add(1, Ordering::SeqCst);
        if dead.load(Ordering::SeqCst) > 0 {
            Vec::new()
        } else {
            vec![reply_to(&query, b"counted")]
        }
    })
    .await
}

fn counters() -> (Arc<AtomicUsize>, Arc<AtomicUsize>) {
    (Arc::default(), Arc::default())
}

#[tokio::test]
async fn an_answer_is_asked_for_once() {
    let (count, dead) = counters();
    let forwarder = forwarder(&[switched(&count, &dead).await], PATIENT);
    for transport in [Transport::Udp, Transport::Tcp, Transport::Udp] {
        let reply = forwarder.forward(&query(), transport, None).await;
        let message = Message::from_vec(&reply).unwrap();
        assert_eq!((message.metadata.id, message.answers.len()), (0x1234, 1));
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
    let (entries, bytes) = forwarder.cache_size();
    assert!(entries == 1 && bytes > 0);
    forwarder.flush();
    forwarder.forward(&query(), Transport::Udp, None).await;
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn many_who_ask_the_same_are_one_question() {
    let (count, dead) = counters();
    let forwarder = forwarder(&[switched(&count, &dead).await], PATIENT);
    let mut askers = JoinSet::new();
    for id in 0..100_u8 {
        let forwarder = forwarder.clone();
        askers.spawn(async move {
            let mut query = query();
            query[1] = id;
            let reply = forwarder.forward(&query, Transport::Udp, None).await;
            assert_eq!(reply[1], id);
            assert_eq!(Message::from_vec(&reply).unwrap().answers.len(), 1);
        });
    }
    while let Some(done) = askers.join_next().await {
        done.unwrap();
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

/// A name server that asks us what we asked it: the question does not go round.
#[tokio::test]
async fn a_loop_ends_in_one_round() {
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let address = socket.local_addr().unwrap();
    let timing = Timing {
        budget: Duration::from_millis(300),
        ..PATIENT
    };
    let forwarder = forwarder(&[address], timing);
    let asked = Arc::new(AtomicUsize::new(0));
    let (looping, count) = (forwarder.clone(), Arc::clone(&asked));
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            count.fetch_add(1, Ordering::SeqCst);
            let (query, forwarder, socket) = (
                buffer[..length].to_vec(),
                looping.clone(),
                Arc::clone(&socket),
            );
            tokio::spawn(async move {
                let reply = forwarder.forward(&query, Transport::Udp, None).await;
                drop(socket.send_to(&reply, client).await);
            });
        }
    });
    let reply = forwarder.forward(&edns_query(), Transport::Udp, None).await;
    assert_eq!(
        Message::from_vec(&reply).unwrap().metadata.response_code,
        ResponseCode::ServFail
    );
    // Only the tries of the one question, none for its own echo.
    let tries = asked.load(Ordering::SeqCst);
    assert!(tries <= 300 / 50 + 1, "asked {tries} times");
}

#[tokio::test]
async fn a_stale_answer_is_better_than_none() {
    let (count, dead) = counters();
    let forwarder = forwarder(&[switched(&count, &dead).await], PATIENT);
    forwarder.forward(&edns_query(), Transport::Udp, None).await;
    dead.store(1, Ordering::SeqCst);
    // Only now: with a paused clock a socket's answer may come after any time.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(60)).await;
    let before = count.load(Ordering::SeqCst);
    let Begun::Ask(ask) = forwarder.begin(&edns_query(), Transport::Udp, None) else {
        panic!("the TTL is over");
    };
    let (reply, source) = forwarder.finish(&edns_query(), Transport::Udp, ask).await;
    assert!(matches!(source, Source::Stale(_)), "{source:?}");
    let message = Message::from_vec(&reply).unwrap();
    assert_eq!((message.answers.len(), message.answers[0].ttl), (1, 30));
    assert!(count.load(Ordering::SeqCst) > before, "it was asked first");
    // For a while nobody waits for the dead again.
    let begun = forwarder.begin(&edns_query(), Transport::Udp, None);
    assert!(
        matches!(begun, Begun::Reply(_, Source::Stale(_))),
        "{begun:?}"
    );
}

#[tokio::test]
async fn a_failure_is_not_asked_for_again_at_once() {
    let count = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&count);
    let failing = upstream(move |query| {
        asked.fetch_add(1, Ordering::SeqCst);
        vec![with_rcode(&query, 2)]
    })
    .await;
    let forwarder = forwarder(&[failing], PATIENT);
    let first = forwarder.forward(&query(), Transport::Udp, None).await;
    let second = forwarder.begin(&query(), Transport::Udp, None);
    assert_eq!(first[3] & 0x0f, 2);
    assert!(
        matches!(second, Begun::Reply(_, Source::Nobody(_))),
        "{second:?}"
    );
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

/// The one that came first in the list is asked again beside the others, and nobody waits for it.
#[tokio::test]
async fn a_dead_first_upstream_is_tried_beside_the_others() {
    let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let live = upstream(|query| vec![reply_to(&query, b"live")]).await;
    let upstreams = [dead.local_addr().unwrap(), live];
    let timing = Timing {
        attempt: Duration::from_secs(60),
        hedge: Duration::from_millis(20),
        budget: Duration::from_secs(600),
        avoid: Duration::ZERO,
        stale: Duration::from_secs(600),
    };
    let forwarder = forwarder(&upstreams, timing);
    for number in 0..5 {
        let query = question(&format!("n{number}.example"), RecordType::A)
            .to_vec()
            .unwrap();
        let reply = forwarder.forward(&query, Transport::Udp, None).await;
        assert_eq!(reply, reply_to(&query, b"live"));
    }
    assert_eq!(forwarder.silent(), [Upstream::from(upstreams[0])]);
    // It was asked each time; once it answers it is as good as any.
    let mut buffer = [0; 512];
    for _ in 0..5 {
        let (length, client) = dead.recv_from(&mut buffer).await.unwrap();
        dead.send_to(&reply_to(&buffer[..length], b"late"), client)
            .await
            .unwrap();
    }
    until(async || forwarder.silent().is_empty()).await;
}
