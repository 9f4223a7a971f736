//! A disk that fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use nix::errno::Errno;
use redb::StorageBackend;

use super::*;

/// A disk that is full, or gone, after some writes.
#[derive(Debug)]
struct Failing {
    file: FileBackend,
    left: Arc<AtomicI64>,
}

impl Failing {
    fn count(&self) -> std::io::Result<()> {
        match self.left.fetch_sub(1, Ordering::SeqCst) {
            left if left > 0 => Ok(()),
            _ => Err(Errno::ENOSPC.into()),
        }
    }
}

impl StorageBackend for Failing {
    fn len(&self) -> std::io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.count()?;
        self.file.set_len(len)
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.count()
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.count()?;
        self.file.write(offset, data)
    }
}

fn open_failing(scratch: &Scratch, left: &Arc<AtomicI64>) -> Durable {
    let left = Arc::clone(left);
    let open = move |path: &Path| {
        let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
        let left = Arc::clone(&left);
        Ok(open_backend(Failing {
            file: FileBackend::new(file)?,
            left,
        })?)
    };
    Durable::open_with(scratch.path(), Box::new(open)).unwrap()
}

#[test]
fn when_the_disk_has_space_again_the_next_write_succeeds() {
    let scratch = filled();
    let left = Arc::new(AtomicI64::new(i64::MAX));
    let durable = open_failing(&scratch, &left);
    left.store(0, Ordering::SeqCst);
    for _ in 0..3 {
        let error = durable.put_network(&network(4)).unwrap_err();
        assert_eq!(error.code(), Code::StoreUnavailable);
        assert!(
            error.to_string().ends_with("free some space there"),
            "{error}"
        );
    }
    left.store(i64::MAX, Ordering::SeqCst);
    assert_eq!(durable.networks().unwrap().records.len(), 3);
    durable.put_network(&network(4)).unwrap();
    assert_eq!(durable.networks().unwrap().records.len(), 4);
}

#[test]
fn a_crash_at_any_write_leaves_the_old_or_the_new_records() {
    let (mut old, mut new) = (0, 0);
    for writes in 0.. {
        let scratch = filled();
        let left = Arc::new(AtomicI64::new(i64::MAX));
        let durable = open_failing(&scratch, &left);
        left.store(writes, Ordering::SeqCst);
        let result = durable.put_network(&network(4));
        // Nothing more reaches the disk, not even when the database is closed.
        left.store(0, Ordering::SeqCst);
        drop(durable);
        let loaded = open(&scratch).networks().unwrap();
        assert_eq!(loaded.problems, []);
        match loaded.records.len() {
            3 => old += 1,
            4 => new += 1,
            other => panic!("{other} networks after a crash at write {writes}"),
        }
        if result.is_ok() {
            assert_eq!(loaded.records.len(), 4, "what was acknowledged is there");
            break;
        }
    }
    assert!(old > 0 && new > 0, "{old} {new}");
}
