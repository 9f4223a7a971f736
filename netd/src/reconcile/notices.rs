//! From the watching thread to the owner: a queue that never grows without bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

use crate::kernel::Noticed;

/// Notices that may wait. More are as good as lost ones: everything is looked at.
const QUEUE: usize = 4096;

/// The owner's end.
#[derive(Debug)]
pub(crate) struct Notices {
    receiver: mpsc::Receiver<Noticed>,
    overflowed: Arc<AtomicBool>,
}

/// A queue: its end for the owner, and the way in.
pub(crate) fn queue() -> (Notices, Box<dyn Fn(Noticed) + Send>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let overflowed = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&overflowed);
    let sink = move |noticed| {
        // A closed queue: the daemon is stopping, and the next one audits everything.
        if let Err(mpsc::error::TrySendError::Full(_)) = sender.try_send(noticed) {
            flag.store(true, Ordering::Relaxed);
        }
    };
    let notices = Notices {
        receiver,
        overflowed,
    };
    (notices, Box::new(sink))
}

impl Notices {
    /// Those that wait, as far as they came before now.
    pub(crate) fn waiting(&mut self) -> Vec<Noticed> {
        let count = self.receiver.len();
        std::iter::from_fn(|| self.receiver.try_recv().ok())
            .take(count)
            .collect()
    }

    /// The next one. After the watch has ended there is none any more.
    pub(crate) async fn recv(&mut self) -> Option<Noticed> {
        if self.overflowed.swap(false, Ordering::Relaxed) {
            return Some(Noticed::Lost);
        }
        self.receiver.recv().await
    }
}
