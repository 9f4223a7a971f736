//! Servers that send back what they get, byte for byte.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::lab::Netns;

/// Echoes each connection on a thread of its own.
#[derive(Debug)]
pub struct ByteServer {
    listeners: Vec<socket2::Socket>,
    threads: Vec<JoinHandle<()>>,
}

impl ByteServer {
    /// On this port, in both families.
    pub fn start(netns: &Netns, port: u16) -> Self {
        let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let (mut listeners, mut threads) = (Vec::new(), Vec::new());
        for address in [v4, v6] {
            let listener = netns.run(|| listen(address)).expect("a free port");
            listeners.push(listener.try_clone().expect("a copy of a descriptor"));
            threads.push(netns.spawn(move || serve(&listener.into())));
        }
        Self { listeners, threads }
    }
}

impl Drop for ByteServer {
    fn drop(&mut self) {
        for listener in &self.listeners {
            // Wakes the thread that waits for connections.
            let _ = listener.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn listen(address: SocketAddr) -> std::io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        None,
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    Ok(socket)
}

fn serve(listener: &TcpListener) {
    while let Ok((stream, _)) = listener.accept() {
        std::thread::spawn(move || echo(stream));
    }
}

fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length) = stream.read(&mut buffer) {
        if length == 0 || stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// Echoes datagrams.
#[derive(Debug)]
pub struct DatagramServer {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DatagramServer {
    /// On this port of IPv4.
    pub fn start(netns: &Netns, port: u16) -> Self {
        let socket = netns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)));
        let socket = socket.expect("a free port");
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = netns.spawn(move || {
            let look = Duration::from_millis(100);
            socket.set_read_timeout(Some(look)).expect("a timeout");
            let mut buffer = [0; 2048];
            while !ended.load(Ordering::Relaxed) {
                // A peer that went away makes the next call fail; that is no end for a server.
                if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], peer);
                }
            }
        });
        Self {
            end,
            thread: Some(thread),
        }
    }
}

impl Drop for DatagramServer {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
