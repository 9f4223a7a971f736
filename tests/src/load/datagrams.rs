//! Numbered datagrams, each of which has to come back.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::{Beats, Figures, Load, Meter};
use crate::lab::{Netns, PATIENCE};

/// So few are under way that no buffer can overflow on a busy machine: what is lost was lost on the way.
const UNDER_WAY: usize = 64;

/// Sends one each millisecond to a `DatagramServer`. After `flow` datagrams the next ones come from another port.
pub fn datagrams(netns: &Netns, name: &str, to: SocketAddr, flow: u64) -> Load {
    Load::start(netns, name, move |meter| {
        let mut figures = Figures::default();
        while meter.goes_on() {
            if let Err(error) = run(to, flow, meter, &mut figures) {
                figures.lose(error);
                break;
            }
        }
        figures
    })
}

fn run(to: SocketAddr, flow: u64, meter: &Meter, figures: &mut Figures) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    let mut missing = BTreeSet::new();
    let mut beats = Beats::new();
    let mut heard = Instant::now();
    let mut sent = 0;
    loop {
        let sends = sent < flow && meter.goes_on();
        if sends && missing.len() < UNDER_WAY {
            missing.insert(sent);
            send(&socket, sent, figures);
            sent += 1;
        }
        while let Some(number) = receive(&socket, figures)? {
            if missing.remove(&number) {
                meter.tick(heard.elapsed());
                figures.done += 1;
                heard = Instant::now();
            }
        }
        let given_up = heard.elapsed() > patience();
        if given_up {
            missing
                .iter()
                .for_each(|number| figures.lose(format!("datagram {number} of {sent}")));
            missing.clear();
            heard = Instant::now();
        }
        if missing.is_empty() && !sends {
            return Ok(());
        }
        beats.wait();
    }
}

/// Nothing for so long: what is under way will not come any more.
fn patience() -> Duration {
    PATIENCE / 6
}

/// A refusal that came back for an earlier datagram is told by the next call: it counts, and this one was not sent.
fn send(socket: &UdpSocket, number: u64, figures: &mut Figures) {
    if let Err(error) = socket.send(&number.to_be_bytes()) {
        figures.failure.get_or_insert_with(|| error.to_string());
    }
}

fn receive(socket: &UdpSocket, figures: &mut Figures) -> io::Result<Option<u64>> {
    let mut number = [0; 8];
    match socket.recv(&mut number) {
        Ok(8) => Ok(Some(u64::from_be_bytes(number))),
        Ok(length) => Err(io::Error::other(format!("{length} bytes came back"))),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => {
            figures.failure.get_or_insert_with(|| error.to_string());
            Ok(None)
        }
    }
}
