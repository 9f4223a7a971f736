//! Files that are no longer what was written.

use super::*;

/// Opens a file with these bytes; whatever comes of it, a failure leaves every byte.
fn try_open(scratch: &Scratch, bytes: &[u8]) -> Result<Records<Network>, StateError> {
    fs::write(file(scratch), bytes).unwrap();
    let opened = Durable::open(scratch.path());
    if let Err(error) = &opened {
        assert_eq!(error.code(), Code::StateDamaged, "{error}");
        assert!(
            error
                .to_string()
                .ends_with("or move it away to start without it"),
            "{error}"
        );
        assert!(
            fs::read(file(scratch)).unwrap() == bytes,
            "changed: {error}"
        );
    }
    opened?.networks()
}

#[test]
fn a_truncated_database_is_damaged_and_kept() {
    let scratch = filled();
    let whole = fs::read(file(&scratch)).unwrap();
    let lengths = (0..400)
        .step_by(7)
        .chain((1..whole.len()).step_by(16 * 1024 - 1));
    for length in lengths {
        let error = try_open(&scratch, &whole[..length]).unwrap_err();
        assert!(
            error.to_string().contains("netd.redb is damaged: "),
            "{error}"
        );
    }
}

#[test]
fn a_database_that_is_none_is_damaged_and_kept() {
    let scratch = Scratch::new();
    for bytes in [b"hello".to_vec(), vec![0; 4096], vec![0xff; 70_000]] {
        try_open(&scratch, &bytes).unwrap_err();
    }
    fs::remove_file(file(&scratch)).unwrap();
    let database = open_backend(
        FileBackend::new(
            fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(file(&scratch))
                .unwrap(),
        )
        .unwrap(),
    )
    .unwrap();
    drop(database);
    let error = Durable::open(scratch.path()).unwrap_err();
    assert!(
        error.to_string().contains("netd did not make it"),
        "{error}"
    );
}

/// A database as a stop leaves it, and as `kill -9` does.
fn images() -> [Vec<u8>; 2] {
    let scratch = filled();
    let stopped = fs::read(file(&scratch)).unwrap();
    let durable = open(&scratch);
    durable.put_network(&network(4)).unwrap();
    let killed = fs::read(file(&scratch)).unwrap();
    drop(durable);
    [stopped, killed]
}

#[test]
fn no_damage_goes_unnoticed() {
    let scratch = Scratch::new();
    for whole in images() {
        let want = try_open(&scratch, &whole).unwrap();
        let mut noticed = 0;
        for (page, content) in whole.chunks(4096).enumerate() {
            if content.iter().all(|byte| *byte == 0) {
                continue;
            }
            for (start, length, mask) in [(0, 4096, None), (0, 64, Some(0x10)), (17, 1, Some(0x01))]
            {
                let mut bytes = whole.clone();
                let area = &mut bytes[page * 4096 + start..][..length];
                for byte in area {
                    *byte = mask.map_or(0, |mask| *byte ^ mask);
                }
                match try_open(&scratch, &bytes) {
                    Ok(loaded) => assert_eq!(loaded, want, "page {page} is one of the past"),
                    Err(_) => noticed += 1,
                }
            }
        }
        assert!(noticed > 10, "{noticed}");
    }
}
