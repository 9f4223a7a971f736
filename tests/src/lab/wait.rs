//! Waiting for conditions.
//!
//! Owns the one way tests wait: until something is true, with a deadline that only a broken
//! program reaches. Nothing here makes a test pass because time went by.

use std::time::{Duration, Instant};

/// The deadline for what should happen soon. Long, because the machine may be busy; it is only
/// ever used up by a test that fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

const STEP: Duration = Duration::from_millis(10);

/// Waits until `condition` holds; panics with `what` when `deadline` has passed first.
#[track_caller]
pub fn wait_for(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    poll_until(what, deadline, || condition().then_some(()));
}

/// Waits until `attempt` gives a value and returns it; panics with `what` after `deadline`.
#[track_caller]
pub fn poll_until<T>(what: &str, deadline: Duration, mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < end, "waited {deadline:?} in vain: {what}");
        std::thread::sleep(STEP);
    }
}
