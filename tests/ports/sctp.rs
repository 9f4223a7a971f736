//! SCTP, with packets made by hand: the kernel may have no sockets for it.

use netd_tests::lab::{self, Netns, PATIENCE};

use super::{attach, world};

/// SCTP is translated by the kernel whether or not it has sockets for it; only then there is something to hold.
pub(super) fn sctp() {
    let (host, outside) = world();
    let container = Netns::new("c");
    let shown = attach(&host, &container, &["9899:9898/sctp"]);
    assert_eq!(shown["ports"][0]["proto"], "sctp");
    let mac = |netns: &Netns, link: &str| {
        let links = netns.links();
        let found = links.into_iter().find(|l| l.name == link).expect("a link");
        <lab::frame::Mac>::try_from(found.mac).expect("six bytes")
    };
    let (from, to) = (mac(&outside, "eth0"), mac(&host.netns, "wan"));
    let sniffer = container.sniff("eth0");
    outside.send_frame("eth0", &init((from, to), 5000, 9899));
    let seen = sniffer.wait_for(PATIENCE, |frame| sctp_ports(frame) == Some((5000, 9898)));
    let seen = seen.expect("the INIT arrives with the container's port");
    assert_eq!(
        checksum(&seen[34..]),
        [seen[42], seen[43], seen[44], seen[45]]
    );
    // A second container cannot have the port, though no socket need hold it.
    let other = Netns::new("other");
    let refused = host.refuses_attach(&other, &["--network=n1", "--publish=9899:1/sctp"]);
    assert_eq!(refused, "port_in_use");
    assert!(host.ok(&["status"])["features"]["sctp"].is_boolean());
    host.done();
}

/// An SCTP INIT (RFC 9260 section 3.3.2) in a frame to 192.0.2.1.
fn init(macs: (lab::frame::Mac, lab::frame::Mac), from: u16, to: u16) -> Vec<u8> {
    use lab::etherparse::{IpNumber, PacketBuilder};
    let mut packet = Vec::new();
    packet.extend(from.to_be_bytes());
    packet.extend(to.to_be_bytes());
    packet.extend([0; 8]);
    // INIT, 20 bytes: initiate tag, receiver window, streams out and in, TSN.
    packet.extend([1, 0, 0, 20, 0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = checksum(&packet);
    packet[8..12].copy_from_slice(&sum);
    let link = PacketBuilder::ethernet2(macs.0, macs.1);
    let net = link.ipv4([192, 0, 2, 9], [192, 0, 2, 1], 64);
    let mut frame = Vec::new();
    net.write(&mut frame, IpNumber::SCTP, &packet)
        .expect("writing to memory");
    frame
}

/// CRC32c of a packet whose own field counts as zero, as it is sent.
fn checksum(packet: &[u8]) -> [u8; 4] {
    let mut crc = u32::MAX;
    for (at, byte) in packet.iter().enumerate() {
        let byte = if (8..12).contains(&at) { 0 } else { *byte };
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
        }
    }
    (!crc).to_le_bytes()
}

fn sctp_ports(frame: &[u8]) -> Option<(u16, u16)> {
    let is_sctp = frame.get(12..14)? == [8, 0] && *frame.get(23)? == 132;
    let port = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    is_sctp.then_some((port(34)?, port(36)?))
}
