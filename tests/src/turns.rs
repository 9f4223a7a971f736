//! What benchmarks of paths have in common: one processor for client and server, the servers and what is said to them, short
//! turns, path by path, and their ratios.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Instant;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::lab::{Netns, PATIENCE};

/// Rounds that are not counted.
const WARM_UP: usize = 5;

/// A turn on a path: how many of what it carries passed a second.
pub type Turn<P> = fn(&mut P) -> io::Result<f64>;

/// The first byte on a connection: what the client means to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Turns of [`send`].
    Stream = b's' as isize,
    /// Single bytes, each sent back: [`exchange`].
    Exchange = b't' as isize,
    /// The byte itself is sent back, and the connection closed.
    Once = b'o' as isize,
}

impl Traffic {
    /// The byte.
    pub const fn byte(self) -> u8 {
        self as u8
    }
}

/// Keeps this thread, and all that it starts, on one processor.
pub fn pin() {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).expect("the processors");
    let is_allowed = |cpu: &usize| allowed.is_set(*cpu).unwrap_or(false);
    let last = (0..CpuSet::count()).rfind(is_allowed).expect("a processor");
    let mut one = CpuSet::new();
    one.set(last).expect("a processor");
    sched_setaffinity(this, &one).expect("a thread may stay where it is");
}

/// How many rounds: the number in `NETD_ROUNDS`, or this many.
pub fn rounds(otherwise: usize) -> usize {
    std::env::var("NETD_ROUNDS").map_or(otherwise, |text| {
        text.parse().expect("NETD_ROUNDS is a number")
    })
}

/// Turns of each kind, one after the other, path by path in changing order. The rates, by path and kind, a value a round.
pub fn compare<P, const PATHS: usize, const KINDS: usize>(
    paths: &mut [P; PATHS],
    kinds: &[(&str, Turn<P>); KINDS],
    rounds: usize,
) -> [[Vec<f64>; KINDS]; PATHS] {
    let mut rates = [(); PATHS].map(|()| [(); KINDS].map(|()| Vec::new()));
    for round in 0..rounds + WARM_UP {
        for (kind, (_, turn)) in kinds.iter().enumerate() {
            for step in 0..PATHS {
                let which = (round + step) % PATHS;
                let rate = turn(&mut paths[which]).expect("traffic passes");
                if round >= WARM_UP {
                    rates[which][kind].push(rate);
                }
            }
        }
    }
    rates
}

/// The servers of a path, TCP and UDP. Of datagrams each of so many is answered by one byte. They end with the process.
pub fn serve(netns: &Netns, port: u16, datagrams: usize) {
    let listener = netns.run(|| TcpListener::bind(("0.0.0.0", port)));
    let listener = listener.expect("a free port");
    netns.spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut first = [0];
            stream.read_exact(&mut first).expect("the kind of traffic");
            if first == [Traffic::Once.byte()] {
                stream.write_all(&first).expect("the client listens");
            } else if first == [Traffic::Stream.byte()] {
                std::thread::spawn(|| take(stream));
            } else {
                std::thread::spawn(|| echo(stream));
            }
        }
    });
    let socket = netns.run(|| UdpSocket::bind(("0.0.0.0", port)));
    let socket = socket.expect("a free port");
    netns.spawn(move || {
        let mut buffer = [0; 2000];
        let mut got = 0;
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            got += 1;
            if got % datagrams == 0 {
                socket.send_to(&[0], from).expect("the client is there");
            }
        }
    });
}

/// Takes turns of a stream, each after its length, and confirms each.
fn take(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let mut length = [0; 8];
        stream.read_exact(&mut length)?;
        let mut left = usize::try_from(u64::from_be_bytes(length)).expect("it is small");
        while left > 0 {
            let most = left.min(buffer.len());
            left -= match stream.read(&mut buffer[..most])? {
                0 => return Ok(()),
                got => got,
            };
        }
        stream.write_all(&[0])?;
    }
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte)?;
        stream.write_all(&byte)?;
    }
}

/// A connection to [`serve`], for one kind of traffic.
pub fn open(client: &Netns, to: SocketAddr, traffic: Traffic) -> TcpStream {
    let open = || {
        let mut stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.write_all(&[traffic.byte()])?;
        Ok::<_, io::Error>(stream)
    };
    client.run(open).expect("the server answers")
}

/// A socket that sends datagrams to [`serve`].
pub fn datagrams(client: &Netns, to: SocketAddr) -> UdpSocket {
    let socket = client.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok::<_, io::Error>(socket)
    });
    socket.expect("a socket")
}

/// Sends so many bytes, and waits until the server has all of them.
pub fn send(stream: &mut TcpStream, bytes: usize) -> io::Result<()> {
    let buffer = vec![0; 64 << 10];
    stream.write_all(&u64::try_from(bytes).expect("it is small").to_be_bytes())?;
    let mut left = bytes;
    while left > 0 {
        left -= stream.write(&buffer[..left.min(buffer.len())])?;
    }
    stream.read_exact(&mut [0])
}

/// So many bytes there and back, one by one, in thousands a second.
pub fn exchange(stream: &mut TcpStream, count: u32) -> io::Result<f64> {
    let begin = Instant::now();
    for _ in 0..count {
        stream.write_all(&[1])?;
        stream.read_exact(&mut [0])?;
    }
    Ok(f64::from(count) / 1e3 / begin.elapsed().as_secs_f64())
}

/// Turns of one path beside those of another, round by round: the median of the ratios and its quartiles.
pub fn ratio(of: &[f64], to: &[f64]) -> String {
    let ratios: Vec<f64> = of.iter().zip(to).map(|(of, to)| of / to).collect();
    let [low, middle, high] = [0.25, 0.5, 0.75].map(|q| quantile(&ratios, q));
    format!("{middle:.3} [{low:.2}..{high:.2}]")
}

/// The value below which this share of all lies.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in the list"
    )]
    let place = (q * (values.len() - 1) as f64).round() as usize;
    values[place]
}
