//! Owns the DNS sockets at the gateway addresses of networks that ask for them (`--opt dns_gateway=true`).
//!
//! They are in the daemon's own namespace and belong to no container, so they are no objects of the kernel seam: what is
//! there follows the snapshot. A socket is bound to its bridge, so nothing that comes another way reaches it.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use netd_dns::DNS_PORT;
use netd_model::api;
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};

use super::Names;
use crate::reconcile::handle::Handle;

/// Pause before what could not be opened is tried again: the bridge comes with its first container.
const AGAIN: Duration = Duration::from_secs(1);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// What one network's sockets are bound to. If that changes they are opened anew.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    bridge: String,
    /// A bridge that was made again has another.
    index: u32,
    addresses: Vec<IpAddr>,
}

/// Opens and closes what the snapshot says. Never ends.
pub async fn follow(names: Arc<Names>, handle: Handle) {
    let mut open: BTreeMap<String, Place> = BTreeMap::new();
    let mut news = handle.journal.follow();
    loop {
        let wanted = wanted(&handle.snapshot().network_views);
        let stale: Vec<String> = open
            .iter()
            .filter(|(id, place)| wanted.get(*id) != Some(*place))
            .map(|(id, _)| id.clone())
            .collect();
        for id in stale {
            names.close_gateway(&id).await;
            open.remove(&id);
        }
        let mut failed = false;
        for (id, place) in wanted {
            if place.index == 0 || open.contains_key(&id) {
                failed |= place.index == 0;
                continue;
            }
            match sockets(&place).and_then(|sockets| names.open_gateway(&id, sockets)) {
                Ok(()) => drop(open.insert(id, place)),
                Err(error) => {
                    failed = true;
                    tracing::warn!(bridge = place.bridge, %error, "no DNS at the gateway address; it is tried again");
                }
            }
        }
        let again = async {
            // A bridge that somebody removed is made again without news of ours.
            tokio::time::sleep(if failed || !open.is_empty() {
                AGAIN
            } else {
                Duration::MAX
            })
            .await;
        };
        tokio::select! {
            changed = news.changed() => if changed.is_err() { return },
            () = again => {}
        }
    }
}

fn wanted(networks: &[Arc<api::Network>]) -> BTreeMap<String, Place> {
    let asking = networks
        .iter()
        .filter(|network| network.dns_options.gateway);
    let place = |network: &Arc<api::Network>| Place {
        bridge: network.interface.to_string(),
        index: if_nametoindex(network.interface.as_str()).unwrap_or(0),
        addresses: network
            .subnets
            .iter()
            .filter_map(|subnet| subnet.gateway)
            .collect(),
    };
    asking
        .map(|network| (network.id.clone(), place(network)))
        .collect()
}

/// A pair for each address.
fn sockets(place: &Place) -> io::Result<Vec<(UdpSocket, TcpListener)>> {
    let pair = |ip: &IpAddr| {
        Ok((
            open(place, *ip, Type::DGRAM)?.into(),
            open(place, *ip, Type::STREAM)?.into(),
        ))
    };
    place.addresses.iter().map(pair).collect()
}

fn open(place: &Place, ip: IpAddr, kind: Type) -> io::Result<Socket> {
    let address = SocketAddr::new(ip, DNS_PORT);
    let proto = if kind == Type::STREAM {
        Protocol::TCP
    } else {
        Protocol::UDP
    };
    let socket = Socket::new(Domain::for_address(address), kind, Some(proto))?;
    socket.set_reuse_address(kind == Type::STREAM)?;
    if ip.is_ipv6() {
        socket.set_only_v6(true)?;
        // The address may still be in the making (duplicate address detection).
        socket.set_freebind_v6(true)?;
    }
    socket.bind_device(Some(place.bridge.as_bytes()))?;
    socket.bind(&address.into())?;
    if kind == Type::STREAM {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}
