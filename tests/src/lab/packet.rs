//! Raw frames on a link.
//!
//! Owns packet sockets: sending a frame built by hand and waiting for a frame that matters.

use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::{Netns, sys};

/// Keeps what passes on a link, in both directions, from the moment it is made.
#[derive(Debug)]
pub struct Sniffer {
    socket: Socket,
}

impl Netns {
    /// Sends a whole Ethernet frame out of a link.
    pub fn send_frame(&self, link: &str, frame: &[u8]) {
        let sent = self.try_send_frame(link, frame);
        let sent = sent.unwrap_or_else(|e| panic!("a frame out of {link} in {}: {e}", self.name()));
        assert_eq!(sent, frame.len(), "the whole frame leaves");
    }

    pub(super) fn try_send_frame(&self, link: &str, frame: &[u8]) -> std::io::Result<usize> {
        self.run(|| packet_socket(link).and_then(|socket| socket.send(frame)))
    }

    /// Starts to listen on a link; frames are kept from now on.
    pub fn sniff(&self, link: &str) -> Sniffer {
        let socket = self.run(|| packet_socket(link));
        let socket = socket.unwrap_or_else(|e| panic!("sniffing {link} in {}: {e}", self.name()));
        Sniffer { socket }
    }
}

impl Sniffer {
    /// The first frame not yet looked at for which `wanted` holds; none when `timeout` has passed.
    pub fn wait_for(&self, timeout: Duration, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let end = Instant::now() + timeout;
        let mut buffer = vec![0; 65_536];
        loop {
            let left = end.checked_duration_since(Instant::now())?;
            // A timeout of zero would mean for ever.
            let left = left.max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(left)).expect("a timeout");
            match (&self.socket).read(&mut buffer) {
                Ok(length) if wanted(&buffer[..length]) => return Some(buffer[..length].to_vec()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                // The link went down or away: what was kept before can still be read.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENETDOWN) => {}
                Err(error) => panic!("sniffing: {error}"),
            }
        }
    }
}

fn packet_socket(link: &str) -> std::io::Result<Socket> {
    // Protocol 0 receives nothing until bind names the link, so no foreign frame gets in.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    let index = nix::net::if_::if_nametoindex(link)?;
    socket.bind(&sys::link_address(index)?)?;
    Ok(socket)
}
