//! One long TCP connection whose every byte is checked.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use super::{Beats, Figures, Load, Meter};
use crate::lab::{Netns, PATIENCE};

/// Sent at once.
const BLOCK: usize = 4096;

/// A connection to a `ByteServer` that sends block after block and wants each back. The first failure ends it.
pub fn stream(netns: &Netns, name: &str, to: SocketAddr) -> Load {
    Load::start(netns, name, move |meter| {
        let mut figures = Figures::default();
        if let Err(error) = run(to, meter, &mut figures) {
            figures.lose(error);
        }
        figures
    })
}

fn run(to: SocketAddr, meter: &Meter, figures: &mut Figures) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut block, mut back) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut beats = Beats::new();
    while meter.goes_on() {
        fill(&mut block, figures.bytes);
        let begin = Instant::now();
        stream.write_all(&block)?;
        stream.read_exact(&mut back)?;
        if block != back {
            return Err(io::Error::other(format!(
                "other bytes came back after {}",
                figures.bytes
            )));
        }
        meter.tick(begin.elapsed());
        figures.done += 1;
        figures.bytes += BLOCK as u64;
        beats.wait();
    }
    Ok(())
}

/// Each eight bytes say where in the stream they stand.
fn fill(block: &mut [u8], from: u64) {
    for (word, at) in block.chunks_exact_mut(8).zip((from..).step_by(8)) {
        word.copy_from_slice(&at.to_be_bytes());
    }
}
