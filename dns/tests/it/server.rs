//! The server over real loopback sockets.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use netd_dns::{Forwarder, Server, Timing, Upstream, ZoneHandle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{self, WEB, addresses, ip, question, reply_to, until, upstream};

const PATIENT: Timing = Timing {
    attempt: Duration::from_secs(60),
    budget: Duration::from_secs(600),
    avoid: Duration::ZERO,
    hedge: Duration::from_secs(60),
    stale: Duration::from_secs(600),
};

pub(crate) struct Setup {
    pub(crate) server: Server,
    zone: ZoneHandle,
    pub(crate) udp: SocketAddr,
    pub(crate) tcp: SocketAddr,
}

/// A pair on a loopback address of its own, so that a port that was closed stays free.
pub(crate) fn sockets() -> (UdpSocket, TcpListener) {
    static LAST: AtomicU8 = AtomicU8::new(0);
    let address = Ipv4Addr::new(127, 0, 78, LAST.fetch_add(1, Ordering::Relaxed));
    let udp = UdpSocket::bind((address, 0)).unwrap();
    (udp, TcpListener::bind((address, 0)).unwrap())
}

/// A server that listens for `web`, with these upstreams.
pub(crate) fn setup(upstreams: &[SocketAddr]) -> Setup {
    let zone = ZoneHandle::new(support::zone());
    let host = Arc::new(ArcSwap::from_pointee(
        upstreams.iter().copied().map(Upstream::from).collect(),
    ));
    let forwarder = Forwarder::with_timing(host, PATIENT);
    let server = Server::new(zone.clone(), forwarder);
    let (udp, tcp) = sockets();
    let addresses = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    server.listen(WEB, udp, tcp).unwrap();
    Setup {
        server,
        zone,
        udp: addresses.0,
        tcp: addresses.1,
    }
}

pub(crate) struct Client(tokio::net::UdpSocket);

impl Client {
    pub(crate) async fn to(address: SocketAddr) -> Self {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(address).await.unwrap();
        Self(socket)
    }

    pub(crate) async fn send(&self, message: &Message) {
        self.0.send(&message.to_vec().unwrap()).await.unwrap();
    }

    async fn receive(&self) -> Message {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).await.unwrap();
        Message::from_vec(&buffer[..length]).unwrap()
    }

    pub(crate) async fn ask(&self, message: &Message) -> Message {
        self.send(message).await;
        self.receive().await
    }
}

pub(crate) async fn write(stream: &mut TcpStream, message: &Message) {
    let bytes = message.to_vec().unwrap();
    stream
        .write_u16(u16::try_from(bytes.len()).unwrap())
        .await
        .unwrap();
    stream.write_all(&bytes).await.unwrap();
}

pub(crate) async fn read(stream: &mut TcpStream) -> std::io::Result<Message> {
    let mut bytes = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut bytes).await?;
    Ok(Message::from_vec(&bytes).unwrap())
}

#[tokio::test]
async fn udp_and_tcp_answer_from_the_zone() {
    let setup = setup(&[]);
    let query = question("web", RecordType::A);
    let client = Client::to(setup.udp).await;
    assert_eq!(addresses(&client.ask(&query).await), [ip("10.0.1.1")]);
    let mut stream = TcpStream::connect(setup.tcp).await.unwrap();
    // Several messages on one connection, also before the first was answered.
    for _ in 0..3 {
        write(&mut stream, &query).await;
        write(&mut stream, &question("db", RecordType::A)).await;
        assert_eq!(
            addresses(&read(&mut stream).await.unwrap()),
            [ip("10.0.1.1")]
        );
        assert_eq!(
            addresses(&read(&mut stream).await.unwrap()),
            [ip("10.0.2.2")]
        );
    }
}

#[tokio::test]
async fn a_change_of_the_zone_shows_at_once() {
    let setup = setup(&[]);
    let client = Client::to(setup.udp).await;
    let query = question("late", RecordType::A);
    assert_eq!(
        client.ask(&query).await.metadata.response_code,
        ResponseCode::NXDomain
    );
    setup
        .zone
        .update(|zone| zone.add_names("n1", ["late"], &[ip("10.0.1.9")], "late"));
    assert_eq!(addresses(&client.ask(&query).await), [ip("10.0.1.9")]);
    setup.zone.update(|zone| zone.remove_names("n1", "late"));
    assert_eq!(
        client.ask(&query).await.metadata.response_code,
        ResponseCode::NXDomain
    );
}

#[tokio::test]
async fn answers_rotate_from_query_to_query() {
    let setup = setup(&[]);
    let client = Client::to(setup.udp).await;
    let query = question("api", RecordType::A);
    let first = addresses(&client.ask(&query).await);
    let second = addresses(&client.ask(&query).await);
    assert_ne!(first[0], second[0]);
}

#[tokio::test]
async fn dropped_messages_do_not_end_the_service() {
    let setup = setup(&[]);
    let client = Client::to(setup.udp).await;
    client.0.send(b"short").await.unwrap();
    client.0.send(&[]).await.unwrap();
    let mut reply = question("web", RecordType::A);
    reply.metadata.message_type = hickory_proto::op::MessageType::Response;
    client.send(&reply).await;
    assert_eq!(
        addresses(&client.ask(&question("web", RecordType::A)).await).len(),
        1
    );
    let stats = setup.server.stats(WEB).unwrap();
    assert_eq!((stats.queries, stats.local), (4, 1));
}

#[tokio::test]
async fn a_query_that_waits_upstream_blocks_no_other() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let slow = upstream(move |query| match released.lock().unwrap().try_recv() {
        Ok(()) => vec![reply_to(&query, b"late")],
        // Not yet: say nothing, and let the client's query wait.
        Err(_) => Vec::new(),
    })
    .await;
    let setup = setup(&[slow]);
    let client = Client::to(setup.udp).await;
    client
        .send(&question("www.example.com", RecordType::A))
        .await;
    until(async || setup.server.stats(WEB).unwrap().forwarded == 1).await;
    for _ in 0..3 {
        let reply = client.ask(&question("web", RecordType::A)).await;
        assert_eq!(addresses(&reply), [ip("10.0.1.1")]);
    }
    release.send(()).unwrap();
    let reply = client
        .ask(&question("ftp.example.com", RecordType::A))
        .await;
    assert_eq!(reply.answers.len(), 1);
}

#[tokio::test]
async fn foreign_names_come_from_upstream_over_both() {
    let live = upstream(|query| vec![reply_to(&query, b"up")]).await;
    let setup = setup(&[live]);
    let query = question("www.example.com", RecordType::A);
    let reply = Client::to(setup.udp).await.ask(&query).await;
    assert_eq!((reply.answers.len(), reply.metadata.id), (1, 0x1234));
    let mut stream = TcpStream::connect(setup.tcp).await.unwrap();
    write(&mut stream, &query).await;
    assert_eq!(read(&mut stream).await.unwrap().answers.len(), 1);
    let stats = setup.server.stats(WEB).unwrap();
    assert_eq!(
        (
            stats.queries,
            stats.local,
            stats.forwarded,
            stats.servfail()
        ),
        (2, 0, 2, 0)
    );
}

#[tokio::test]
async fn a_containers_own_upstreams_come_before_the_hosts() {
    let hosts = upstream(|query| vec![support::with_rcode(&query, 3)]).await;
    let own = upstream(|query| vec![reply_to(&query, b"own")]).await;
    let setup = setup(&[hosts]);
    let mut asker = support::asker(&["n1"], true);
    asker.upstreams = Arc::new(vec![own.into()]);
    setup.zone.update(|zone| zone.set_asker(WEB, asker));
    let client = Client::to(setup.udp).await;
    let reply = client
        .ask(&question("www.example.com", RecordType::A))
        .await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
}

#[tokio::test]
async fn no_upstream_counts_as_servfail() {
    let setup = setup(&[]);
    let client = Client::to(setup.udp).await;
    let reply = client
        .ask(&question("www.example.com", RecordType::A))
        .await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    let stats = setup.server.stats(WEB).unwrap();
    assert_eq!((stats.forwarded, stats.servfail()), (1, 1));
    assert_eq!(setup.server.stats("nobody"), None);
}

#[tokio::test]
async fn more_than_256_waiting_queries_fail_at_once() {
    let silent = upstream(|_| Vec::new()).await;
    let setup = setup(&[silent]);
    let client = Client::to(setup.udp).await;
    for asked in 1..=256 {
        client
            .send(&question("www.example.com", RecordType::A))
            .await;
        // One at a time, so that no datagram is lost.
        until(async || setup.server.stats(WEB).unwrap().forwarded == asked).await;
    }
    let reply = client
        .ask(&question("ftp.example.com", RecordType::A))
        .await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    // Names of its own are still answered.
    assert_eq!(
        addresses(&client.ask(&question("web", RecordType::A)).await).len(),
        1
    );
    assert!(setup.server.close(WEB).await);
}

#[tokio::test]
async fn the_65th_connection_waits_for_a_place() {
    let setup = setup(&[]);
    let query = question("web", RecordType::A);
    let mut open = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(setup.tcp).await.unwrap();
        write(&mut stream, &query).await;
        read(&mut stream).await.unwrap();
        open.push(stream);
    }
    let mut late = TcpStream::connect(setup.tcp).await.unwrap();
    write(&mut late, &query).await;
    let client = Client::to(setup.udp).await;
    let before = setup.server.stats(WEB).unwrap().queries;
    // The server has been through its loop, and did not take the waiting one.
    client.ask(&query).await;
    client.ask(&query).await;
    assert_eq!(setup.server.stats(WEB).unwrap().queries, before + 2);
    open.pop();
    assert_eq!(addresses(&read(&mut late).await.unwrap()).len(), 1);
}

#[tokio::test]
async fn a_message_longer_than_any_query_ends_the_connection() {
    let setup = setup(&[]);
    let mut stream = TcpStream::connect(setup.tcp).await.unwrap();
    stream.write_u16(4097).await.unwrap();
    assert!(read(&mut stream).await.is_err());
}

#[tokio::test]
async fn each_container_is_told_by_its_socket() {
    let setup = setup(&[]);
    let (udp, tcp) = sockets();
    let other = udp.local_addr().unwrap();
    setup.server.listen(support::INTERNAL, udp, tcp).unwrap();
    let query = question("web", RecordType::A);
    assert_eq!(
        addresses(&Client::to(setup.udp).await.ask(&query).await),
        [ip("10.0.1.1")]
    );
    assert_eq!(
        addresses(&Client::to(other).await.ask(&query).await),
        [ip("10.0.2.1")]
    );
}

/// As many questions as a socket takes at once, over and over, on a runtime like the daemon's: none is left lying.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_answered_to_its_end() {
    const QUERIES: u16 = 20_000;
    const UNDER_WAY: u16 = 150;
    let setup = setup(&[]);
    let address = setup.udp;
    let client = std::thread::spawn(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(address).unwrap();
        // A question that is never answered is what this test is about.
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut query = question("web", RecordType::A).to_vec().unwrap();
        let mut answered = vec![false; usize::from(QUERIES)];
        let mut buffer = [0; 512];
        for number in 0..QUERIES + UNDER_WAY {
            if number < QUERIES {
                query[..2].copy_from_slice(&number.to_be_bytes());
                socket.send(&query).unwrap();
            }
            if number >= UNDER_WAY {
                let length = socket.recv(&mut buffer).unwrap();
                assert!(length > 12);
                let id = usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
                assert!(!std::mem::replace(&mut answered[id], true), "{id} twice");
            }
        }
        assert!(answered.iter().all(|answered| *answered));
    });
    tokio::task::spawn_blocking(|| client.join().unwrap())
        .await
        .unwrap();
}
