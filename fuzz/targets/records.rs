//! Any bytes as what the shared store holds: a key, a line's end, its value. What is read is written again as it was, and holds
//! nothing that netd could not use.
#![no_main]

use libfuzzer_sys::fuzz_target;
use keys::Key;
use records::Record;

// The files of netd that read records, and none else of it: all of netd takes many minutes to build with instrumentation.
#[allow(dead_code, reason = "what is not about reading is not used here")]
#[path = "../../netd/src/cluster/keys.rs"]
mod keys;
#[allow(dead_code, reason = "see above")]
#[path = "../../netd/src/cluster/records.rs"]
mod records;
#[allow(dead_code, reason = "see above")]
#[path = "../../netd/src/state/envelope.rs"]
mod state;

fuzz_target!(|data: &[u8]| {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let value = data.get(end + 1..).unwrap_or_default();
    let Ok(text) = std::str::from_utf8(&data[..end]) else {
        return;
    };
    let Some(key) = Key::parse(text) else {
        return;
    };
    assert_eq!(key.text(), text, "one spelling of each key");
    let Ok(record) = records::read(&key, value) else {
        return;
    };
    match &record {
        Record::Node(node) => assert!(!node.address.is_unspecified() && !node.address.is_multicast()),
        Record::Station(station) => assert!(matches!(station.ips.len(), 1 | 2)),
        Record::Network(network) => {
            assert!(network.overlay.is_some());
            assert!(matches!(network.subnets.len(), 1 | 2));
        }
        Record::Meta(_) | Record::Alive(_) | Record::Claim(_) | Record::Removed(_) => {}
    }
    assert_eq!(records::read(&key, &write(&record)), Ok(record), "what was written is read");
});

fn write(record: &Record) -> Vec<u8> {
    match record {
        Record::Meta(meta) => records::write(meta),
        Record::Node(node) => records::write(node),
        Record::Alive(alive) => records::write(alive),
        Record::Network(network) => records::write(&**network),
        Record::Station(station) => records::write(station),
        Record::Claim(claim) => records::write(claim),
        Record::Removed(removed) => records::write(removed),
    }
}
