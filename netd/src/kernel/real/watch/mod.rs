//! Watching what the kernel tells of changes, whoever made them.
//!
//! One route socket and one nftables socket in the host's namespace hear about every namespace that the host's has a
//! number for (NETLINK_LISTEN_ALL_NSID), which each container's has since its veth pair was made. A thread reads them,
//! [`decode`] picks what bears netd's mark. It never judges whether a change is right: netd's own come by here too.

mod decode;

use std::collections::HashMap;
use std::io::{self, IoSliceMut, PipeReader, PipeWriter};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use netd_model::{ContainerId, Ns};
use netlink_sys::Socket;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, NetlinkAddr, recvmsg, setsockopt, sockopt};

use self::decode::Place;
use super::Shared;
use super::link::{self, LinkView};
use super::neighbour::RTM_DELNEIGH;
use super::netlink::{Messages, Netlink, Request, listen_for};
use crate::kernel::Noticed;

/// RTNLGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE, IPV4_NETCONF, IPV6_NETCONF, NSID.
const ROUTE_GROUPS: [u32; 8] = [1, 5, 7, 9, 11, 24, 25, 28];
/// NFNLGRP_NFTABLES.
const NFT_GROUPS: [u32; 1] = [7];
/// A burst, such as the end of many namespaces, must not overflow at once; an overflow costs a full audit.
const QUEUE: usize = 4 << 20;
/// Longest notice: a link with all its statistics has a few KiB, a batch of nftables 32.
const BUFFER: usize = 64 << 10;
/// From the first notice to its reading. An attach makes some thirty: each by itself would wake two threads.
const GATHER: Duration = Duration::from_millis(2);
const RTNLGRP_NEIGH: u32 = 3;
const RTM_GETNSID: u16 = 90;
const NETNSA_FD: u16 = 3;
const SOL_NETLINK: i32 = 270;
const NETLINK_LISTEN_ALL_NSID: i32 = 8;

/// Keeps the watching thread running.
#[derive(Debug)]
pub(super) struct Watch {
    _running: PipeWriter,
}

/// Where notices go.
pub(super) type Sink = Box<dyn Fn(Noticed) + Send>;

/// Begins to watch the namespace that the calling thread is in, the host's, and those of containers.
pub(super) fn start(shared: &Arc<Shared>, sink: Sink) -> io::Result<Watch> {
    let route = listen(NETLINK_ROUTE, &ROUTE_GROUPS)?;
    let nft = listen(NETLINK_NETFILTER, &NFT_GROUPS)?;
    // Entries that come are not told: netd adds tens of thousands at once, and what others add is of no matter as long as
    // netd's are there.
    let stations = listen_for(RTM_DELNEIGH, RTNLGRP_NEIGH)?;
    let mut asking = Netlink::open(NETLINK_ROUTE)?;
    let mut host = Place::new(Ns::Host);
    // Listed after the sockets listen: what comes in between is noticed.
    let links = asking.dump(&link::all(), LinkView::read);
    links
        .map_err(|refusal| refusal.source)?
        .iter()
        .for_each(|view| host.learn(view));
    let (stop, running) = io::pipe()?;
    let mut watcher = Watcher {
        shared: Arc::clone(shared),
        asking,
        host,
        places: HashMap::new(),
        asked_up_to: 0,
        unnumbered: Vec::new(),
        sink,
    };
    std::thread::Builder::new()
        .name("watch".to_owned())
        .stack_size(256 << 10)
        .spawn(move || watcher.run(&route, &nft, &stations, &stop))?;
    Ok(Watch { _running: running })
}

fn listen(protocol: isize, groups: &[u32]) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    setsockopt(&socket, sockopt::RcvBufForce, &QUEUE)
        .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &QUEUE))?;
    socket.bind_auto()?;
    socket
        .set_listen_all_namespaces(true)
        .map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                let needed =
                    "netd needs the capability CAP_NET_BROADCAST to hear of all namespaces";
                io::Error::new(error.kind(), needed)
            }
            _ => error,
        })?;
    socket.set_non_blocking(true)?;
    for group in groups {
        socket.add_membership(*group)?;
    }
    Ok(socket)
}

struct Watcher {
    shared: Arc<Shared>,
    /// For questions.
    asking: Netlink,
    host: Place,
    /// Namespaces of containers, by the number that the host's namespace has for them.
    places: HashMap<i32, Place>,
    /// The last addition to the sandboxes whose number was asked for.
    asked_up_to: u64,
    /// Containers whose namespace had no number when it was asked for.
    unnumbered: Vec<ContainerId>,
    sink: Sink,
}

impl Watcher {
    fn run(&mut self, route: &Socket, nft: &Socket, stations: &Socket, stop: &PipeReader) {
        let mut buffer = vec![0; BUFFER];
        loop {
            let mut fds = [route.as_fd(), nft.as_fd(), stations.as_fd(), stop.as_fd()]
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!(%error, "watching the kernel ended: only full audits see changes now");
                    return;
                }
                Ok(_) => {}
            }
            let [first, second, third, ended] = fds.map(|fd| fd.any().unwrap_or(true));
            if ended {
                return;
            }
            std::thread::sleep(GATHER);
            if first {
                self.drain(route, &mut buffer, Self::route);
            }
            if second {
                self.drain(nft, &mut buffer, Self::nft);
            }
            if third {
                self.drain(stations, &mut buffer, Self::station);
            }
        }
    }

    /// Reads what lies ready.
    fn drain(
        &mut self,
        socket: &Socket,
        buffer: &mut [u8],
        take: fn(&mut Self, Option<i32>, &[u8]),
    ) {
        loop {
            match receive(socket, buffer) {
                Ok((nsid, length)) => take(self, nsid, &buffer[..length]),
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                Err(error) => {
                    // ENOBUFS: more came than the queue takes.
                    tracing::warn!(%error, "notices of the kernel were lost");
                    (self.sink)(Noticed::Lost);
                    return;
                }
            }
        }
    }

    fn route(&mut self, nsid: Option<i32>, datagram: &[u8]) {
        for message in Messages(datagram) {
            if let Some(ended) = decode::ended(message.kind, message.body) {
                self.places.remove(&ended);
            } else if let Some(place) = self.place(nsid) {
                let noticed = place.route(message.kind, message.body);
                noticed.into_iter().for_each(|noticed| (self.sink)(noticed));
            }
        }
    }

    fn station(&mut self, _: Option<i32>, datagram: &[u8]) {
        for message in Messages(datagram) {
            let noticed = self.host.station(message.kind, message.body);
            noticed.into_iter().for_each(|noticed| (self.sink)(noticed));
        }
    }

    fn nft(&mut self, nsid: Option<i32>, datagram: &[u8]) {
        for message in Messages(datagram) {
            if self.shared.own_sockets.holds(message.port) {
                continue;
            }
            if let Some(place) = self.place(nsid)
                && let Some(noticed) = place.table(message.kind, message.body)
            {
                (self.sink)(noticed);
            }
        }
    }

    /// The namespace of a notice; none if it is no container of netd's.
    fn place(&mut self, nsid: Option<i32>) -> Option<&mut Place> {
        let Some(nsid) = nsid else {
            return Some(&mut self.host);
        };
        let known = self.places.get(&nsid).and_then(decode::container);
        // The same namespace may be attached again as another container.
        let is_current = known.is_some_and(|id| self.shared.sandboxes.holds(id));
        if !is_current {
            self.places.remove(&nsid);
            self.find_places();
        }
        self.places.get_mut(&nsid)
    }

    /// Asks for the numbers of the namespaces that came since it was last asked. Notices of namespaces that are not netd's
    /// may be many, so all others are not looked at.
    fn find_places(&mut self) {
        let (last, later) = self.shared.sandboxes.after(self.asked_up_to);
        self.asked_up_to = last;
        let asked = std::mem::take(&mut self.unnumbered)
            .into_iter()
            .chain(later);
        for id in asked {
            let sandbox = self.shared.sandboxes.get(&id);
            let Some(fd) = sandbox.as_ref().and_then(|sandbox| sandbox.fd.as_ref()) else {
                continue;
            };
            let answer = self.asking.call(&number_of(fd.as_raw_fd().cast_unsigned()));
            match answer.ok().and_then(|answer| decode::nsid(&answer)) {
                Some(nsid) => drop(self.places.insert(nsid, Place::new(Ns::Container(id)))),
                None => self.unnumbered.push(id),
            }
        }
    }
}

/// RTM_GETNSID for a descriptor of this process.
fn number_of(fd: u32) -> Request {
    // `struct rtgenmsg`: AF_UNSPEC, padded; then one attribute.
    let mut body = vec![0; 4];
    body.extend_from_slice(&8u16.to_ne_bytes());
    body.extend_from_slice(&NETNSA_FD.to_ne_bytes());
    body.extend_from_slice(&fd.to_ne_bytes());
    Request::raw(RTM_GETNSID, 0, body)
}

/// One datagram, and the number of the namespace it tells of; none for the host's.
fn receive(socket: &Socket, buffer: &mut [u8]) -> Result<(Option<i32>, usize), Errno> {
    let mut control = cmsg_space!(i32, [u8; 64]);
    let mut io = [IoSliceMut::new(buffer)];
    let message = recvmsg::<NetlinkAddr>(
        socket.as_raw_fd(),
        &mut io,
        Some(&mut control),
        MsgFlags::empty(),
    )?;
    let mut nsid = None;
    for found in message.cmsgs()? {
        if let ControlMessageOwned::Unknown(found) = found
            && found.cmsg_header.cmsg_level == SOL_NETLINK
            && found.cmsg_header.cmsg_type == NETLINK_LISTEN_ALL_NSID
        {
            nsid = decode::number(&found.data_bytes);
        }
    }
    // Longer than any notice netd needs: what was cut off counts as lost.
    if message.flags.contains(MsgFlags::MSG_TRUNC) {
        return Err(Errno::EMSGSIZE);
    }
    Ok((nsid, message.bytes))
}
