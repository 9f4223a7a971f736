//! What holds for any record and any bytes.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::state::testing::{add_fields, new_fields};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn fields_of_a_newer_minor_version_survive(minor in 0u32..9, outer in new_fields(), inner in new_fields()) {
        let scratch = Scratch::new();
        let volatile = open(&scratch);
        let mut record = container_json("c1");
        add_fields(&mut record, &outer);
        add_fields(&mut record["endpoints"][0], &inner);
        plant(&scratch, envelope(minor, &record).to_string());
        let (loaded, _) = volatile.load().unwrap();
        prop_assert_eq!(&loaded.problems, &[]);
        volatile.put_container(&loaded.records[0]).unwrap();
        let written: Value = serde_json::from_slice(&fs::read(path_of(&scratch, "c1")).unwrap()).unwrap();
        prop_assert_eq!(written, envelope(0, &record));
    }

    #[test]
    fn fields_of_the_host_file_survive(fields in new_fields()) {
        let scratch = Scratch::new();
        let volatile = open(&scratch);
        let host = HostState { purged: true, unknown: fields, ..HostState::default() };
        volatile.put_host(&host).unwrap();
        prop_assert_eq!(volatile.load().unwrap().1, host);
    }

    #[test]
    fn no_bytes_make_a_load_panic_or_lose_them(bytes in damage()) {
        let scratch = Scratch::new();
        let volatile = open(&scratch);
        volatile.put_container(&container("good")).unwrap();
        plant(&scratch, &bytes);
        let loaded = volatile.load();
        let kept = files_below(scratch.path());
        prop_assert!(kept.iter().any(|(_, content)| *content == bytes), "{:?}", kept);
        if let Ok((loaded, _)) = loaded {
            prop_assert!(loaded.records.contains(&container("good")));
            prop_assert!(loaded.records.len() == 2 || loaded.problems.len() == 1);
        }
    }
}

/// Any bytes, and records with some bytes changed.
fn damage() -> impl Strategy<Value = Vec<u8>> {
    let good = envelope(0, &container_json("c1")).to_string().into_bytes();
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        r#"\{"version":\{"major":[0-3],"minor":[0-3]\}.{0,40}\}"#.prop_map(String::into_bytes),
        changes.prop_map(move |changes| {
            let mut bytes = good.clone();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        }),
    ]
}
