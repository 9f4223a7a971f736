//! Published ports that the daemon passes on itself, for what the kernel cannot translate: a host's IPv6 port to a
//! container without IPv6, and `[::1]` with br_netfilter. The container sees the host as the client.
//!
//! A thread of its own, made when the first such port is: most hosts never have one.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use nix::cmsg_space;
use nix::libc::in6_pktinfo;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use socket2::Socket;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Runtime;
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::{AbortHandle, JoinSet};

use netd_model::access::Access;
use netd_model::net::Proto;
use netd_model::object;

/// Most connections, or clients that send datagrams, of one port at a time. A connection takes two descriptors.
const CLIENTS: usize = 256;
/// How long the container may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a client that sends datagrams is remembered without an answer from the container.
const IDLE: Duration = Duration::from_secs(90);
/// Before another attempt when no descriptor is left to accept with.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the end of a relay may take.
const END: Duration = Duration::from_secs(1);
/// The longest datagram.
const DATAGRAM: usize = 65_535;

/// The thread of all relays.
#[derive(Debug, Default)]
pub(super) struct Relays(Option<Runtime>);

/// A port that is passed on, until this is dropped; its connections end with it.
#[derive(Debug)]
pub(super) struct Relay {
    task: AbortHandle,
    /// Its other end goes with the last task that holds the port's socket, after the socket.
    ended: mpsc::Receiver<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
        // The port is free when the task is gone: whoever comes next binds it.
        let _ = self.ended.recv_timeout(END);
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Relays {
    /// Passes on what comes in on a bound socket.
    pub(super) fn start(
        &mut self,
        socket: Socket,
        proto: Proto,
        relay: &object::Relay,
    ) -> io::Result<Relay> {
        let (to, admit) = (relay.to, relay.admit.clone());
        socket.set_nonblocking(true)?;
        let runtime = self.runtime()?;
        let _inside = runtime.enter();
        let (alive, ended) = mpsc::channel();
        let task = match proto {
            Proto::Tcp => {
                socket.listen(1024)?;
                let listener = TcpListener::from_std(socket.into())?;
                runtime.spawn(until_dropped(alive, streams(listener, to, admit)))
            }
            Proto::Udp => {
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
                let socket = UdpSocket::from_std(socket.into())?;
                let bound = Bound {
                    socket,
                    _alive: alive,
                };
                runtime.spawn(datagrams(Arc::new(bound), to, admit))
            }
            Proto::Sctp => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(Relay {
            task: task.abort_handle(),
            ended,
        })
    }

    fn runtime(&mut self) -> io::Result<&Runtime> {
        if self.0.is_none() {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            let builder = builder.worker_threads(1).thread_name("relay").enable_all();
            self.0 = Some(builder.build()?);
        }
        self.0.as_ref().ok_or_else(|| io::ErrorKind::Other.into())
    }
}

/// The socket of a port, which all tasks of that port share: the last of them to end lets `_alive` go. The fields of a
/// struct are dropped in the order of their declaration, so the socket goes first.
struct Bound {
    socket: UdpSocket,
    _alive: mpsc::Sender<()>,
}

/// Runs the work and then, or when it is aborted, lets `alive` go: the fields of a future are dropped in the order of
/// their declaration, so the sockets go first.
async fn until_dropped(alive: mpsc::Sender<()>, work: impl Future<Output = ()>) {
    let alive = alive;
    {
        let work = std::pin::pin!(work);
        work.await;
    }
    drop(alive);
}

async fn streams(listener: TcpListener, to: SocketAddr, admit: Vec<Access>) {
    let room = Arc::new(Semaphore::new(CLIENTS));
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        // Above the limit clients wait in the kernel's queue.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            // Too late for silence: the kernel has accepted it.
            Ok((client, from)) if !admitted(&admit, from.ip()) => drop(client),
            Ok((client, _)) => {
                open.spawn(async move {
                    let done = stream(client, to).await;
                    drop(permit);
                    if let Err(error) = done {
                        tracing::debug!(%to, %error, "a relayed connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%to, %error, "a connection to a relayed port was not accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn stream(mut client: TcpStream, to: SocketAddr) -> io::Result<()> {
    let connected = tokio::time::timeout(CONNECT, TcpStream::connect(to)).await;
    let mut server = match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(server) => server,
        Err(error) => {
            // The client learns of it as it would from the container: by a reset.
            client.set_zero_linger()?;
            return Err(error);
        }
    };
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// A client, and which address of the host it asked: the answer has to come from there.
type Client = (SocketAddrV6, Ipv6Addr);

fn admitted(lists: &[Access], ip: IpAddr) -> bool {
    lists.iter().all(|access| access.admits(ip))
}

async fn datagrams(bound: Arc<Bound>, to: SocketAddr, admit: Vec<Access>) {
    let mut clients: HashMap<Client, Arc<OnceCell<UdpSocket>>> = HashMap::new();
    let mut tasks: JoinSet<Client> = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        tokio::select! {
            Some(done) = tasks.join_next() => {
                if let Ok(client) = done {
                    clients.remove(&client);
                }
            }
            received = receive(&bound.socket, &mut buffer) => {
                let (length, client) = match received {
                    Ok(received) => received,
                    Err(error) => {
                        tracing::debug!(%to, %error, "a datagram to a relayed port was not received");
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                };
                if !admitted(&admit, client.0.ip().to_owned().into()) {
                    continue;
                }
                if !clients.contains_key(&client) {
                    if clients.len() >= CLIENTS {
                        continue;
                    }
                    let cell = Arc::new(OnceCell::new());
                    if let Ok(server) = open(to).await {
                        let _ = cell.set(server);
                        tasks.spawn(answers(Arc::clone(&bound), Arc::clone(&cell), client));
                        clients.insert(client, cell);
                    }
                }
                if let Some(server) = clients.get(&client).and_then(|cell| cell.get()) {
                    // Refused while the container does not listen: so are datagrams.
                    let _ = server.send(&buffer[..length]).await;
                }
            }
        }
    }
}

async fn open(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = if to.is_ipv4() {
        ([0; 4], 0).into()
    } else {
        ([0; 16], 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(to).await?;
    Ok(socket)
}

/// Passes answers back until none came for a while; the client, so that it is forgotten.
async fn answers(bound: Arc<Bound>, server: Arc<OnceCell<UdpSocket>>, client: Client) -> Client {
    let mut buffer = vec![0; DATAGRAM];
    let Some(server) = server.get() else {
        return client;
    };
    loop {
        match tokio::time::timeout(IDLE, server.recv(&mut buffer)).await {
            Ok(Ok(length)) => {
                let _ = send(&bound.socket, &buffer[..length], client).await;
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Ok(Err(_)) | Err(_) => return client,
        }
    }
}

async fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Client)> {
    socket
        .async_io(Interest::READABLE, || {
            let mut space = cmsg_space!(in6_pktinfo);
            let mut parts = [IoSliceMut::new(buffer)];
            let flags = MsgFlags::MSG_DONTWAIT;
            let message =
                recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
            let asked = message.cmsgs()?.find_map(|part| match part {
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    Some(Ipv6Addr::from(info.ipi6_addr.s6_addr))
                }
                _ => None,
            });
            let from = message.address.map(SocketAddrV6::from);
            let from = from.ok_or(io::ErrorKind::InvalidData)?;
            Ok((
                message.bytes,
                (from, asked.unwrap_or(Ipv6Addr::UNSPECIFIED)),
            ))
        })
        .await
}

async fn send(socket: &UdpSocket, bytes: &[u8], (to, from): Client) -> io::Result<usize> {
    socket
        .async_io(Interest::WRITABLE, || {
            let info = in6_pktinfo {
                ipi6_addr: nix::libc::in6_addr {
                    s6_addr: from.octets(),
                },
                // For a link-local client the interface it came by, which its scope names.
                ipi6_ifindex: to.scope_id(),
            };
            let parts = [IoSlice::new(bytes)];
            let control = [ControlMessage::Ipv6PacketInfo(&info)];
            let address = SockaddrIn6::from(to);
            let flags = MsgFlags::MSG_DONTWAIT;
            Ok(sendmsg(
                socket.as_raw_fd(),
                &parts,
                &control,
                flags,
                Some(&address),
            )?)
        })
        .await
}
