//! Any bytes as datagrams of a peer, one after another: what is read is what would be written, and nothing else has an effect.
#![no_main]

use std::collections::BTreeMap;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use netd_model::NetworkId;
use netd_model::id::Name;
use netd_model::probe::{HEADER, Packet, Prober, Target};

fuzz_target!(|data: &[u8]| {
    let Ok(host) = Name::parse("h1") else { return };
    let target = Target {
        network: NetworkId::from_bytes([1; 16]),
        host,
    };
    let mut prober = Prober::new(1);
    prober.set(&BTreeMap::from([(target.clone(), HEADER)]), Duration::ZERO);
    for (n, piece) in data.chunks(HEADER + 4).enumerate() {
        let now = Duration::from_secs(n as u64);
        if let Some(packet) = Packet::decode(piece) {
            let again = packet.encode(piece.len());
            assert_eq!(again.len(), piece.len());
            // Padding may be anything; all before it is what it says.
            assert_eq!(again[..HEADER], piece[..HEADER]);
        }
        let before = prober.paths(now);
        prober.take(&target, piece, now);
        if Packet::decode(piece).is_none() {
            assert_eq!(prober.paths(now), before);
        }
        prober.poll(now);
    }
});
