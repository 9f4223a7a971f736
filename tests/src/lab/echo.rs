//! Servers that say who they are and whom they see.
//!
//! Owns the TCP and UDP echo servers. To each line (TCP) or datagram (UDP) they answer
//! `name|peer-ip|peer-port`, so a probe learns who answered it and which source address arrived
//! there. A UDP answer leaves from the address that was asked, also on a host with many.

use std::io::{self, IoSlice, IoSliceMut, PipeReader, PipeWriter, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::thread::JoinHandle;

use nix::cmsg_space;
use nix::libc::{in_pktinfo, in6_pktinfo};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Netns, Proto, has_ipv6};

/// A running server; dropping it closes its sockets and connections.
#[derive(Debug)]
pub struct Server {
    port: u16,
    stop: Option<PipeWriter>,
    worker: Option<JoinHandle<()>>,
}

impl Netns {
    /// A server on this port of every address of the families the kernel has; port 0 picks one.
    pub fn serve(&self, proto: Proto, name: &str, port: u16) -> Server {
        let mut sockets = self.listen(proto, (Ipv4Addr::UNSPECIFIED, port).into());
        let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port_of(&sockets[0])));
        if has_ipv6() {
            sockets.extend(self.listen(proto, v6));
        }
        Server::start(name, proto, sockets)
    }

    /// A server on one address only.
    pub fn serve_on(&self, proto: Proto, name: &str, address: SocketAddr) -> Server {
        Server::start(name, proto, self.listen(proto, address))
    }

    /// `serve` for TCP.
    pub fn tcp_server(&self, name: &str, port: u16) -> Server {
        self.serve(Proto::Tcp, name, port)
    }

    /// `serve` for UDP.
    pub fn udp_server(&self, name: &str, port: u16) -> Server {
        self.serve(Proto::Udp, name, port)
    }

    fn listen(&self, proto: Proto, address: SocketAddr) -> Vec<Socket> {
        let socket = self.run(|| open(proto, address));
        vec![socket.unwrap_or_else(|e| panic!("{proto:?} {address} in {}: {e}", self.name()))]
    }
}

impl Server {
    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn start(name: &str, proto: Proto, sockets: Vec<Socket>) -> Self {
        let port = port_of(&sockets[0]);
        let (stopped, stop) = io::pipe().expect("a pipe");
        let name = name.to_owned();
        let worker = std::thread::spawn(move || match proto {
            Proto::Tcp => serve_tcp(&name, &sockets, &stopped),
            Proto::Udp => serve_udp(&name, &sockets, &stopped),
        });
        Self {
            port,
            stop: Some(stop),
            worker: Some(worker),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.worker.take().map(JoinHandle::join);
    }
}

fn open(proto: Proto, address: SocketAddr) -> io::Result<Socket> {
    let (kind, protocol) = match proto {
        Proto::Tcp => (Type::STREAM, Protocol::TCP),
        Proto::Udp => (Type::DGRAM, Protocol::UDP),
    };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    match proto {
        Proto::Tcp => socket.set_reuse_address(true)?,
        Proto::Udp if address.is_ipv4() => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
        Proto::Udp => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
    }
    socket.bind(&address.into())?;
    if proto == Proto::Tcp {
        socket.listen(1024)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn port_of(socket: &Socket) -> u16 {
    let address = socket
        .local_addr()
        .ok()
        .and_then(|address| address.as_socket());
    address.expect("a bound socket").port()
}

/// Waits until some of `sources` can be read and returns which; none when the server was stopped.
fn readable<'a>(stop: &'a PipeReader, sources: Vec<BorrowedFd<'a>>) -> Option<Vec<bool>> {
    let all = std::iter::once(stop.as_fd()).chain(sources);
    let mut polled: Vec<_> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    poll(&mut polled, PollTimeout::NONE).expect("poll");
    let mut ready = polled.iter().map(|fd| fd.any().unwrap_or(true));
    let stopped = ready.next().unwrap_or(true);
    if stopped { None } else { Some(ready.collect()) }
}

fn serve_tcp(name: &str, sockets: &[Socket], stop: &PipeReader) {
    let listeners = sockets
        .iter()
        .map(|socket| TcpListener::from(socket.try_clone().unwrap()));
    let listeners: Vec<_> = listeners.collect();
    let mut peers: Vec<(TcpStream, SocketAddr)> = Vec::new();
    loop {
        let sources = listeners
            .iter()
            .map(AsFd::as_fd)
            .chain(peers.iter().map(|p| p.0.as_fd()));
        let Some(ready) = readable(stop, sources.collect()) else {
            return;
        };
        let (new, old) = ready.split_at(listeners.len());
        let mut old = old.iter();
        peers.retain_mut(|(stream, peer)| {
            let is_ready = old.next().is_some_and(|ready| *ready);
            !is_ready || answer_lines(name, stream, *peer)
        });
        let ready = listeners.iter().zip(new).filter(|(_, ready)| **ready);
        peers.extend(ready.filter_map(|(listener, _)| listener.accept().ok()));
    }
}

/// Answers the lines that have come in; false when the connection is over.
fn answer_lines(name: &str, stream: &mut TcpStream, peer: SocketAddr) -> bool {
    let mut buffer = [0; 4096];
    let read = match stream.read(&mut buffer) {
        Ok(0) => return false,
        Ok(read) => read,
        Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
    };
    let lines = buffer[..read].split(|byte| *byte == b'\n').count() - 1;
    let answers = format!("{}\n", answer(name, peer)).repeat(lines);
    stream.write_all(answers.as_bytes()).is_ok()
}

fn serve_udp(name: &str, sockets: &[Socket], stop: &PipeReader) {
    while let Some(ready) = readable(stop, sockets.iter().map(AsFd::as_fd).collect()) {
        for (socket, _) in sockets.iter().zip(&ready).filter(|(_, ready)| **ready) {
            // A peer that does not listen makes the next call fail; that is no end for a server.
            let _ = answer_datagram(name, socket);
        }
    }
}

fn answer_datagram(name: &str, socket: &Socket) -> nix::Result<()> {
    let mut buffer = [0; 2048];
    let mut iov = [IoSliceMut::new(&mut buffer)];
    let mut space = cmsg_space!(in6_pktinfo);
    let fd = socket.as_raw_fd();
    let got = recvmsg::<SockaddrStorage>(fd, &mut iov, Some(&mut space), MsgFlags::empty())?;
    let Some((peer, from)) = got.address.and_then(|a| Some((a, socket_addr(&a)?))) else {
        return Ok(());
    };
    let text = answer(name, from);
    let iov = [IoSlice::new(text.as_bytes())];
    let send = |control: &[ControlMessage<'_>]| {
        sendmsg(fd, &iov, control, MsgFlags::empty(), Some(&peer)).map(drop)
    };
    match got.cmsgs()?.next() {
        Some(ControlMessageOwned::Ipv4PacketInfo(mut info)) => {
            free_route_v4(&mut info);
            send(&[ControlMessage::Ipv4PacketInfo(&info)])
        }
        Some(ControlMessageOwned::Ipv6PacketInfo(mut info)) => {
            free_route_v6(&mut info);
            send(&[ControlMessage::Ipv6PacketInfo(&info)])
        }
        _ => send(&[]),
    }
}

/// The source stays the address that was asked; the way back is found by routing.
fn free_route_v4(info: &mut in_pktinfo) {
    info.ipi_ifindex = 0;
}

/// As for IPv4; only a link-local address needs its link.
fn free_route_v6(info: &mut in6_pktinfo) {
    if !Ipv6Addr::from(info.ipi6_addr.s6_addr).is_unicast_link_local() {
        info.ipi6_ifindex = 0;
    }
}

fn socket_addr(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage
        .as_sockaddr_in()
        .map(|a| SocketAddr::from((a.ip(), a.port())));
    v4.or_else(|| {
        storage
            .as_sockaddr_in6()
            .map(|a| SocketAddr::from((a.ip(), a.port())))
    })
}

fn answer(name: &str, peer: SocketAddr) -> String {
    let ip: IpAddr = peer.ip();
    format!("{name}|{ip}|{}", peer.port())
}
