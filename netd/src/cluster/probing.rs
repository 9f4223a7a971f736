//! Sends and receives the probes of [`netd_model::probe`], and tells the owner what they show. It decides nothing.
//!
//! One socket for each overlay network that is on this host, at the host's own address there and bound to the network's
//! bridge. Rules let nobody in but the other hosts' addresses (`skeleton::ROUTERS`).

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket as StdSocket};
use std::sync::Arc;
use std::time::Duration;

use netd_model::id::Name;
use netd_model::net::Family;
use netd_model::probe::{HEADER, PORT, Paths, Prober, Size, Target};
use netd_model::{IfName, NetworkId, overlay};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::setsockopt;
use nix::{libc, setsockopt_impl, sockopt_impl};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::task::Told;

/// How often the state of all paths is looked at, and sockets that are missing are opened.
const LOOK: Duration = Duration::from_secs(1);
/// Datagrams that may wait. More are dropped: a probe comes again.
const QUEUE: usize = 256;
/// Most that are sent in one go.
const BURST: usize = 32;
/// Larger than any packet of a network.
const BUFFER: usize = 64 << 10;
/// `IP_PMTUDISC_PROBE` and `IPV6_PMTUDISC_PROBE` (linux/in.h): never in fragments, whatever was learnt of the path.
const UNFRAGMENTED: i32 = 3;

sockopt_impl!(
    /// Whether packets may be sent in fragments, IPv4.
    MtuDiscover,
    SetOnly,
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    i32
);
sockopt_impl!(
    /// The same, IPv6.
    MtuDiscover6,
    SetOnly,
    libc::IPPROTO_IPV6,
    libc::IPV6_MTU_DISCOVER,
    i32
);

/// An overlay network that is on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The network.
    pub network: NetworkId,
    /// Its bridge.
    pub bridge: IfName,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// This host's own address there.
    pub own: IpAddr,
    /// The other hosts there, each with its own address.
    pub peers: BTreeMap<Name, IpAddr>,
}

/// All of them, as the owner has them.
pub type Sites = Arc<Vec<Site>>;

/// What a socket is bound to. If that changes it is opened anew.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    own: IpAddr,
    /// A bridge that was made again has another.
    index: u32,
}

#[derive(Debug)]
struct Open {
    place: Place,
    socket: Arc<UdpSocket>,
    reader: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

type Arrived = (NetworkId, IpAddr, Vec<u8>);

/// Probes what `sites` says, until the owner ends.
pub async fn run(
    mut sites: watch::Receiver<Sites>,
    tell: mpsc::UnboundedSender<Told>,
    session: u64,
) {
    let (sender, mut arrived) = mpsc::channel(QUEUE);
    let mut probing = Probing {
        prober: Prober::new(session),
        started: Instant::now(),
        sites: Sites::default(),
        names: HashMap::new(),
        open: BTreeMap::new(),
        sender,
        told: BTreeMap::new(),
    };
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let due = probing.prober.due();
        let wake = due.and_then(|due| probing.started.checked_add(due));
        tokio::select! {
            changed = sites.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = Arc::clone(&sites.borrow_and_update());
                probing.follow(now);
            }
            Some(datagram) = arrived.recv() => probing.take(&datagram),
            () = until(wake) => probing.send(),
            _ = looks.tick() => {
                probing.open_missing();
                if let Some(paths) = probing.changed()
                    && tell.send(Told::Probed(paths)).is_err()
                {
                    return;
                }
            }
        }
    }
}

struct Probing {
    prober: Prober,
    started: Instant,
    sites: Sites,
    /// Who has an address on a network.
    names: HashMap<(NetworkId, IpAddr), Name>,
    open: BTreeMap<NetworkId, Open>,
    sender: mpsc::Sender<Arrived>,
    told: BTreeMap<Target, Paths>,
}

impl Probing {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn follow(&mut self, sites: Sites) {
        let mut wanted = BTreeMap::new();
        self.names.clear();
        for site in sites.iter() {
            let full = overlay::payload(site.mtu, Family::of(site.own));
            for (name, ip) in &site.peers {
                let target = Target {
                    network: site.network.clone(),
                    host: name.clone(),
                };
                wanted.insert(target, full);
                self.names.insert((site.network.clone(), *ip), name.clone());
            }
        }
        self.open
            .retain(|id, _| sites.iter().any(|site| site.network == *id));
        self.sites = sites;
        let now = self.now();
        self.prober.set(&wanted, now);
        self.open_missing();
    }

    /// Opens a socket for each network with peers that has none, or one that stands on what is gone.
    fn open_missing(&mut self) {
        for site in self.sites.iter().filter(|site| !site.peers.is_empty()) {
            let place = Place {
                own: site.own,
                index: if_nametoindex(site.bridge.as_str()).unwrap_or(0),
            };
            let held = self.open.get(&site.network);
            if place.index == 0 || held.is_some_and(|open| open.place == place) {
                continue;
            }
            match socket(&site.bridge, site.own) {
                Ok(socket) => {
                    let socket = Arc::new(socket);
                    let reader = read(
                        site.network.clone(),
                        Arc::clone(&socket),
                        self.sender.clone(),
                    );
                    let open = Open {
                        place,
                        reader: tokio::spawn(reader),
                        socket,
                    };
                    self.open.insert(site.network.clone(), open);
                }
                Err(error) => {
                    tracing::warn!(bridge = %site.bridge, %error, "hosts are not probed there; it is tried again");
                }
            }
        }
    }

    fn take(&mut self, (network, from, payload): &Arrived) {
        let Some(host) = self.names.get(&(network.clone(), *from)) else {
            return;
        };
        let target = Target {
            network: network.clone(),
            host: host.clone(),
        };
        let now = self.now();
        self.prober.take(&target, payload, now);
    }

    fn send(&mut self) {
        let now = self.now();
        for _ in 0..BURST {
            let Some((target, payloads)) = self.prober.poll(now) else {
                return;
            };
            let site = self
                .sites
                .iter()
                .find(|site| site.network == target.network);
            let to = site.and_then(|site| site.peers.get(&target.host));
            let (Some(to), Some(open)) = (to, self.open.get(&target.network)) else {
                continue;
            };
            let to = SocketAddr::new(*to, PORT);
            for (size, payload) in payloads {
                // What cannot be sent is lost, and that is what the peer will say.
                let _ = match size {
                    Size::Small | Size::Full => open.socket.try_send_to(&payload, to),
                    Size::Plain => send_plain(&open.socket, &payload, to),
                };
            }
        }
    }

    /// How it stands with all peers, when that is another than was told.
    fn changed(&mut self) -> Option<BTreeMap<Target, Paths>> {
        let paths = self.prober.paths(self.now());
        if paths == self.told {
            return None;
        }
        self.told.clone_from(&paths);
        Some(paths)
    }
}

/// Sends a datagram whose checksum the kernel computes itself. It does so for one that is put together from several pieces
/// (net/ipv4/ip_output.c, __ip_append_data: MSG_MORE excludes CHECKSUM_PARTIAL), and leaves all others to the device.
fn send_plain(socket: &UdpSocket, payload: &[u8], to: SocketAddr) -> io::Result<usize> {
    let (begin, end) = payload.split_at(HEADER.min(payload.len()));
    let (socket, to) = (SockRef::from(socket), SockAddr::from(to));
    socket.send_to_with_flags(begin, &to, libc::MSG_MORE)?;
    // The kernel drops both if this fails: no piece stays behind for the next one.
    socket.send_to_with_flags(end, &to, 0)
}

async fn read(network: NetworkId, socket: Arc<UdpSocket>, sender: mpsc::Sender<Arrived>) {
    let mut buffer = vec![0; BUFFER];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                // Full: dropped, as on the way.
                let _ = sender.try_send((network.clone(), from.ip(), buffer[..length].to_vec()));
            }
            // An answer by ICMP to an earlier datagram, or a bridge that is going.
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

fn socket(bridge: &IfName, own: IpAddr) -> io::Result<UdpSocket> {
    let address = SocketAddr::new(own, PORT);
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if own.is_ipv6() {
        socket.set_only_v6(true)?;
        // The address may still be in the making (duplicate address detection).
        socket.set_freebind_v6(true)?;
        setsockopt(&socket, MtuDiscover6, &UNFRAGMENTED)?;
    } else {
        setsockopt(&socket, MtuDiscover, &UNFRAGMENTED)?;
    }
    socket.bind_device(Some(bridge.as_str().as_bytes()))?;
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(StdSocket::from(socket))
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
