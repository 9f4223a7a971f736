//! Announcing beside the work.
//!
//! An announcement floods the bridge in the time of who sends it, and closing the packet socket that sent it waits for
//! an RCU grace period (net/packet/af_packet.c, packet_release): 15 ms, ten times an attach. Those that are made at the
//! same time wait together.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, Builder};

use super::announce::Announcement;

/// How many are made at the same time, each by a thread of its own.
const TOGETHER: usize = 16;

/// The way to the announcing thread. The thread ends with it.
#[derive(Debug)]
pub(super) struct Announcer(Sender<Announcement>);

impl Announcer {
    /// Starts the thread. It stays in the caller's namespace, which therefore is the host's.
    pub(super) fn start() -> io::Result<Self> {
        let (sender, receiver) = channel();
        Builder::new()
            .name("netd-announce".to_owned())
            .spawn(move || run(&receiver))?;
        Ok(Self(sender))
    }

    /// Makes an announcement soon.
    pub(super) fn make(&self, announcement: Announcement) {
        // Without the thread it is made here, with the wait.
        if let Err(unsent) = self.0.send(announcement) {
            unsent.0.make();
        }
    }
}

fn run(announcements: &Receiver<Announcement>) {
    while let Ok(first) = announcements.recv() {
        thread::scope(|scope| {
            for other in announcements.try_iter().take(TOGETHER - 1) {
                // If there can be no thread the closure, and the socket with it, is dropped here.
                let _ = Builder::new().spawn_scoped(scope, move || other.make());
            }
            first.make();
        });
    }
}
