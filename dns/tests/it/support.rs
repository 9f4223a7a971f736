//! Queries, a small zone and fake upstreams for the tests.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use netd_dns::{Asker, Outcome, Transport, Zone, answer};
use tokio::net::UdpSocket;

pub(crate) const WEB: &str = "web";
pub(crate) const INTERNAL: &str = "internal";

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Networks `front` and `back`; `web` asks on both, `internal` on `back` alone and not upstream.
/// On `front`: web (two families), api (two holders, IPv4). On `back`: db (IPv4), web, `odd.name`.
pub(crate) fn zone() -> Zone {
    let mut zone = Zone::default();
    zone.set_network("n1", "front");
    zone.set_network("n2", "back");
    let both = [ip("10.0.1.1"), ip("fd00::1")];
    zone.add_names("n1", ["web", "WWW", "0123456789ab"], &both, WEB);
    zone.add_names("n1", ["api"], &[ip("10.0.1.2")], "api-1");
    zone.add_names("n1", ["api"], &[ip("10.0.1.3")], "api-2");
    zone.add_names("n2", ["web"], &[ip("10.0.2.1")], WEB);
    zone.add_names("n2", ["db", "odd.name"], &[ip("10.0.2.2")], "db");
    zone.set_asker(WEB, asker(&["n1", "n2"], true));
    zone.set_asker(INTERNAL, asker(&["n2"], false));
    zone
}

pub(crate) fn asker(networks: &[&str], forward: bool) -> Asker {
    Asker {
        networks: networks.iter().map(|&id| Arc::from(id)).collect(),
        forward,
        ..Asker::default()
    }
}

pub(crate) fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let mut name = Name::from_ascii(name).unwrap();
    // As it is after the wire, so that questions can be compared.
    name.set_fqdn(true);
    message.add_query(Query::query(name, kind));
    message
}

pub(crate) fn with_edns(mut message: Message, size: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(size);
    message.set_edns(edns);
    message
}

/// What the container `asker` gets for the bytes.
pub(crate) fn outcome(zone: &Zone, asker: &str, query: &[u8]) -> Outcome {
    answer(query, Transport::Udp, asker, zone, 0)
}

/// The reply to `message`, read by hickory-proto.
pub(crate) fn ask(zone: &Zone, asker: &str, message: &Message) -> Message {
    match outcome(zone, asker, &message.to_vec().unwrap()) {
        Outcome::Reply(reply) => Message::from_vec(&reply).unwrap(),
        other => panic!("{other:?} for {message:?}"),
    }
}

pub(crate) fn addresses(message: &Message) -> Vec<IpAddr> {
    let address = |data: &RData| match data {
        RData::A(ip) => IpAddr::V4(ip.0),
        RData::AAAA(ip) => IpAddr::V6(ip.0),
        other => panic!("not an address: {other:?}"),
    };
    message.answers.iter().map(|r| address(&r.data)).collect()
}

/// A loopback socket that answers each datagram with what `reply` makes of it, until the test ends.
/// No datagram is answered for `None`.
pub(crate) async fn upstream<F>(reply: F) -> SocketAddr
where
    F: Fn(Vec<u8>) -> Vec<Vec<u8>> + Send + 'static,
{
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_535];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            for bytes in reply(buffer[..length].to_vec()) {
                socket.send_to(&bytes, client).await.unwrap();
            }
        }
    });
    address
}

/// The query as a reply with one TXT-like opaque record of the private type 65399, so that raw
/// pass-through shows: `marker` are its data.
pub(crate) fn reply_to(query: &[u8], marker: &[u8]) -> Vec<u8> {
    let mut reply = query.to_vec();
    reply[2] |= 0x80;
    reply[3] |= 0x80;
    // Whatever additional records the query had are cut off: the question, then one answer.
    let end = 12 + reply[12..].iter().position(|&b| b == 0).unwrap() + 5;
    reply.truncate(end);
    reply[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    reply.extend([0xc0, 12, 0xff, 0x77, 0, 1, 0, 0, 0, 9]);
    reply.extend(u16::try_from(marker.len()).unwrap().to_be_bytes());
    reply.extend(marker);
    reply
}

pub(crate) fn with_rcode(query: &[u8], code: u8) -> Vec<u8> {
    let mut reply = reply_to(query, b"");
    reply[3] = 0x80 | code;
    reply
}

/// Waits until `condition` holds. A hang is caught by the test runner, not by a clock in here.
pub(crate) async fn until<F: Future<Output = bool>>(mut condition: impl FnMut() -> F) {
    while !condition().await {
        tokio::task::yield_now().await;
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}
