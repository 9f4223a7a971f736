//! Closing nftables sockets beside the work.
//!
//! When the kernel still frees what a batch removed, closing any nftables socket waits for that, and so for an RCU grace
//! period (net/netfilter/nf_tables_api.c, nft_rcv_nl_event): 10 to 20 ms, as long as the removal of a link. One that
//! waits lets all behind it pass at once.

use std::io;
use std::sync::mpsc::{Sender, channel};
use std::thread::Builder;

use crate::kernel::nft::NftSocket;

/// The way to the closing thread. The thread ends with the last of them.
#[derive(Clone, Debug)]
pub(super) struct Closer(Sender<NftSocket>);

impl Closer {
    /// Starts the thread. A socket is closed in whatever namespace the thread is.
    pub(super) fn start() -> io::Result<Self> {
        let (sender, sockets) = channel::<NftSocket>();
        Builder::new()
            .name("netd-close".to_owned())
            .stack_size(128 << 10)
            .spawn(move || sockets.into_iter().for_each(drop))?;
        Ok(Self(sender))
    }

    /// Closes a socket soon; without the thread at once, with the wait.
    pub(super) fn close(&self, socket: NftSocket) {
        drop(self.0.send(socket));
    }
}
