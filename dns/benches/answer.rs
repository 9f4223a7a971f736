//! What answering costs: time per answer, queries per second through the server, memory per container.
//!
//! Prints; never fails on a number. `cargo bench -p netd-dns`

#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::hint::black_box;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use netd_dns::{Asker, Forwarder, Server, Tls, Transport, Verdict, Zone, ZoneHandle, answer_into};

/// A query for the A record of `c7` on the network, with RD.
const QUERY: &[u8] = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x02c7\0\0\x01\0\x01";
/// The same with an OPT offering 1232 bytes.
const EDNS_QUERY: &[u8] =
    b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\x01\x02c7\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0";
const NETWORK: &str = "5f7f7b1c9e6a4d21";
/// Containers of the zone the answers come from.
const CONTAINERS: u32 = 1000;
/// Listener pairs for the memory.
const PAIRS: usize = 100;

#[expect(clippy::print_stdout, reason = "the numbers are the result")]
fn main() {
    println!("answer: {:>8.0} ns per local A", nanoseconds(QUERY));
    println!(
        "answer: {:>8.0} ns per local A with EDNS",
        nanoseconds(EDNS_QUERY)
    );
    println!(
        "zone:   {:>8.0} ns per attach and detach of one of {CONTAINERS}",
        churn()
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    println!("memory: {}", runtime.block_on(memory()));
    for clients in [1, 8] {
        let rate = runtime.block_on(throughput(clients));
        println!("server: {rate:>8.0} queries/s over loopback UDP, {clients} in flight");
    }
}

fn id(number: u32) -> String {
    format!("{number:064x}")
}

fn attach(zone: &mut Zone, number: u32) {
    let id = id(number);
    let name = format!("c{number}");
    let address = IpAddr::V4((0x0a00_0000 + number).into());
    zone.add_names(NETWORK, [&name, &id[52..]], &[address], &id);
    let asker = Asker {
        networks: vec![NETWORK.into()],
        forward: true,
        ..Asker::default()
    };
    zone.set_asker(&id, asker);
}

fn zone() -> Zone {
    let mut zone = Zone::default();
    zone.set_network(NETWORK, "net");
    (0..CONTAINERS).for_each(|number| attach(&mut zone, number));
    zone
}

fn nanoseconds(query: &[u8]) -> f64 {
    const ROUNDS: u32 = 300_000;
    let handle = ZoneHandle::new(zone());
    let asker = id(1);
    let mut reply = Vec::with_capacity(512);
    let mut once = |rotation| {
        let zone = handle.read();
        let view = zone.view(&asker);
        let verdict = answer_into(query, Transport::Udp, view.as_ref(), rotation, &mut reply);
        assert_eq!(verdict, Verdict::Reply);
        black_box(reply.len());
    };
    for rotation in 0..1000 {
        once(rotation);
    }
    let begin = Instant::now();
    for rotation in 0..ROUNDS {
        once(rotation as usize);
    }
    begin.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS)
}

fn churn() -> f64 {
    const ROUNDS: u32 = 50_000;
    let handle = ZoneHandle::new(zone());
    let begin = Instant::now();
    for number in CONTAINERS..CONTAINERS + ROUNDS {
        handle.update(|zone| attach(zone, number));
        let id = id(number);
        handle.update(|zone| {
            zone.remove_names(NETWORK, &id);
            zone.remove_asker(&id);
        });
    }
    begin.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS)
}

fn server() -> Server {
    Server::new(
        ZoneHandle::new(zone()),
        Forwarder::new(Arc::default(), 0, Tls::default()),
    )
}

fn listen(server: &Server, number: u32) -> SocketAddr {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = udp.local_addr().unwrap();
    server
        .listen(&id(number), udp, TcpListener::bind("127.0.0.1:0").unwrap())
        .unwrap();
    address
}

/// Resident memory in KiB.
fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The growth by [`PAIRS`] containers, idle and after each was asked.
async fn memory() -> String {
    let server = server();
    let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let before = resident();
    let mut addresses = Vec::new();
    for number in 0..u32::try_from(PAIRS).unwrap() {
        addresses.push(listen(&server, number));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let idle = resident();
    let mut buffer = [0; 512];
    for address in &addresses {
        for _ in 0..10 {
            client.send_to(QUERY, address).await.unwrap();
            client.recv_from(&mut buffer).await.unwrap();
        }
    }
    let asked = resident();
    server.close_all().await;
    format!(
        "{PAIRS} listener pairs take {} KiB idle, {} KiB after queries; process {asked} KiB",
        idle - before,
        asked - before
    )
}

/// Queries per second with `clients` sockets, each waiting for its answer before it asks again.
async fn throughput(clients: u32) -> f64 {
    const EACH: u32 = 20_000;
    let server = Arc::new(server());
    let address = listen(&server, 1);
    let begin = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..clients {
        tasks.push(tokio::spawn(async move {
            let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
            socket.connect(address).await.unwrap();
            let mut buffer = [0; 512];
            for _ in 0..EACH {
                socket.send(QUERY).await.unwrap();
                socket.recv(&mut buffer).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let rate = f64::from(clients * EACH) / begin.elapsed().as_secs_f64();
    server.close_all().await;
    rate
}
