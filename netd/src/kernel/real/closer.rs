//! Closing packet sockets beside the work.
//!
//! The kernel waits for an RCU grace period in the close of one (net/packet/af_packet.c, packet_release): 15 ms, ten
//! times an attach. Those that are closed at the same time wait together.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, Builder};

use socket2::Socket;

/// How many are closed at the same time, each by a thread of its own.
const TOGETHER: usize = 16;

/// The way to the closing thread. The thread ends with it.
#[derive(Debug)]
pub(super) struct Closer(Sender<Socket>);

impl Closer {
    /// Starts the thread. It stays in the caller's namespace, which therefore is the host's.
    pub(super) fn start() -> io::Result<Self> {
        let (sender, receiver) = channel();
        Builder::new()
            .name("netd-close".to_owned())
            .spawn(move || run(&receiver))?;
        Ok(Self(sender))
    }

    /// Closes a socket soon.
    pub(super) fn close(&self, socket: Socket) {
        // Without the thread it is closed here, with the wait.
        let _ = self.0.send(socket);
    }
}

fn run(sockets: &Receiver<Socket>) {
    while let Ok(first) = sockets.recv() {
        thread::scope(|scope| {
            for socket in sockets.try_iter().take(TOGETHER - 1) {
                // If there can be no thread the closure, and the socket with it, is dropped here.
                let _ = Builder::new().spawn_scoped(scope, move || drop(socket));
            }
            drop(first);
        });
    }
}
