//! A new TCP connection each millisecond.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{Beats, Figures, Load};
use crate::lab::{Netns, PATIENCE};

/// Connects to an echo server of the laboratory, asks one line and wants the answer of `server`.
pub fn connects(netns: &Netns, name: &str, to: SocketAddr, server: &str) -> Load {
    let server = server.to_owned();
    Load::start(netns, name, move |meter| {
        let mut figures = Figures::default();
        let mut beats = Beats::new();
        while meter.goes_on() {
            let begin = Instant::now();
            match ask(to, &server) {
                Ok(()) => {
                    meter.tick(begin.elapsed());
                    figures.done += 1;
                }
                Err(error) => figures.lose(error),
            }
            beats.wait();
        }
        figures
    })
}

fn ask(to: SocketAddr, server: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"?\n")?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    // Ends with a reset: thousands of connections that rest would use up the client's ports.
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    if line.starts_with(&format!("{server}|")) {
        Ok(())
    } else {
        Err(io::Error::other(format!("not {server} answered: {line:?}")))
    }
}
