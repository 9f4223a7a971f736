//! With a DNS server that is not ours as the upstream: hickory-server with a zone in memory.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{SOA, TXT};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};
use hickory_server::net::runtime::TokioRuntimeProvider;
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use netd_dns::{Forwarder, Timing, Transport};
use tokio::net::{TcpListener, UdpSocket};

use crate::support::{addresses, question, with_edns};

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

/// `example.com` with `many` (100 addresses) and `text` (a TXT record).
fn catalog() -> Catalog {
    let origin = name("example.com.");
    let mut zone = InMemoryZoneHandler::<TokioRuntimeProvider>::empty(
        origin.clone(),
        ZoneType::Primary,
        AxfrPolicy::Deny,
    );
    let mut add = |owner: &str, data| {
        assert!(zone.upsert_mut(Record::from_rdata(name(owner), 60, data), 1));
    };
    let soa = SOA::new(origin.clone(), origin.clone(), 1, 60, 60, 60, 60);
    add("example.com.", RData::SOA(soa));
    for last in 0..100 {
        add(
            "many.example.com.",
            RData::A(Ipv4Addr::new(192, 0, 2, last).into()),
        );
    }
    add(
        "text.example.com.",
        RData::TXT(TXT::new(vec!["hello".into()])),
    );
    let mut catalog = Catalog::new();
    catalog.upsert(LowerName::new(&origin), vec![Arc::new(zone)]);
    catalog
}

/// Runs until the returned server is dropped.
async fn start() -> (hickory_server::Server<Catalog>, SocketAddr) {
    let mut server = hickory_server::Server::new(catalog());
    let (udp, tcp) = loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    server.register_socket(udp);
    server.register_listener(tcp, Duration::from_secs(60), 1024);
    (server, address)
}

#[tokio::test]
async fn a_real_server_upstream() {
    let (_server, address) = start().await;
    let timing = Timing {
        attempt: Duration::from_secs(60),
        budget: Duration::from_secs(600),
        ..Timing::default()
    };
    let host = Arc::new(ArcSwap::from_pointee(vec![address.into()]));
    let forwarder = Forwarder::with_timing(host, timing);
    let ask = async |message: Message, transport| {
        let query = message.to_vec().unwrap();
        let reply = forwarder.forward(&query, transport, None).await;
        let reply = Message::from_vec(&reply).unwrap();
        assert_eq!(reply.metadata.id, message.metadata.id);
        assert!(reply.queries[0].name().eq_case(message.queries[0].name()));
        reply
    };

    let text = ask(
        question("TeXt.example.com", RecordType::TXT),
        Transport::Udp,
    )
    .await;
    assert!(matches!(text.answers[0].data, RData::TXT(_)));
    let none = ask(question("none.example.com", RecordType::A), Transport::Udp).await;
    assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);

    let many = question("many.example.com", RecordType::A);
    let cut = ask(many.clone(), Transport::Udp).await;
    assert!(cut.metadata.truncation);
    let whole = ask(many.clone(), Transport::Tcp).await;
    assert!(!whole.metadata.truncation);
    assert_eq!(addresses(&whole).len(), 100);
    let large = ask(with_edns(many, 4096), Transport::Udp).await;
    assert_eq!(addresses(&large).len(), 100);
}
