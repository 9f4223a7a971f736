//! Single operations on links, addresses, routes and settings.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use netd_model::object::{Address, BridgePort, Link, LinkKind, Route, Sysctl, Tunnel};
use netd_model::{IfName, Ns, Owner};
use nix::errno::Errno;

use super::inet;
use super::link::{self, GROUPS, LinkView};
use super::netlink::{Refusal, Request, gone_is_done};
use super::space::Space;
use crate::kernel::KernelErrorKind;

type Done = Result<(), Refusal>;

/// Whether the kernel has IPv6, in whatever state: with `ipv6.disable=1` there is no such directory.
pub(super) fn has_ipv6() -> bool {
    // What is there stays. The way through /proc/sys/net takes the kernel the longer the more namespaces there are.
    static THERE: AtomicBool = AtomicBool::new(false);
    if !THERE.load(Ordering::Relaxed) {
        THERE.store(Path::new("/proc/sys/net/ipv6").exists(), Ordering::Relaxed);
    }
    THERE.load(Ordering::Relaxed)
}

/// Sends requests that belong together; the first refusal is the answer.
fn all(space: &mut Space, requests: &[Request]) -> Done {
    for answer in space.route.batch(requests)? {
        answer?;
    }
    Ok(())
}

/// Makes a link that stands alone: a bridge or an ifb device.
pub(super) fn add_link(space: &mut Space, link: &Link) -> Done {
    let request = match link.kind {
        LinkKind::Bridge => link::create_bridge(link),
        LinkKind::Ifb => link::create_ifb(link),
        LinkKind::Vxlan => return add_tunnel(space, link),
        LinkKind::Veth => {
            return Err(Refusal::from(Errno::EINVAL).because("a veth is made as a pair"));
        }
    };
    create(space, &link.name, &request)?;
    complete(space, link)
}

/// Makes a VXLAN device, a port of its bridge from the start.
fn add_tunnel(space: &mut Space, link: &Link) -> Done {
    let (Some(tunnel), Some(master)) = (&link.tunnel, &link.master) else {
        return Err(Refusal::from(Errno::EINVAL).because("a tunnel has ends and a bridge"));
    };
    let master = space.index(master)?;
    create(space, &link.name, &link::create_vxlan(link, tunnel))?;
    let done = join_bridge(space, link, master).map_err(|refusal| name_the_tunnel(refusal, tunnel));
    if done.is_err() {
        take_back(space, &link.name);
    }
    done
}

/// The flags of the port come before the device is up: the first frames that it passed would be duplicate address detection
/// meeting the gateway of other hosts.
fn join_bridge(space: &mut Space, link: &Link, master: u32) -> Done {
    let down = Link {
        up: false,
        ..link.clone()
    };
    all(space, &link::complete(&down, has_ipv6()))?;
    let index = space.index(&link.name)?;
    let port = BridgePort {
        ifname: link.name.clone(),
        hairpin: false,
        isolated: false,
        learning: false,
        flood: true,
        suppress: true,
        owner: link.owner.clone(),
    };
    let requests = [
        link::enslave(index, master),
        link::set_port(index, &port),
        link::set_up(&link.name),
    ];
    all(space, &requests)
}

/// drivers/net/vxlan/vxlan_core.c, vxlan_open and vxlan_sock_add: the port is bound when the device goes up.
fn name_the_tunnel(refusal: Refusal, tunnel: &Tunnel) -> Refusal {
    match refusal.errno() {
        Errno::EADDRINUSE => refusal.because(format!(
            "another program listens on UDP port {}: stop it, or create the network with --opt port=N",
            tunnel.port
        )),
        Errno::EADDRNOTAVAIL => refusal.because(format!("{} is no address of this host", tunnel.local)),
        _ => refusal,
    }
}

/// Sends a request that creates a link of this name in the space. What a killed netd left half-made is replaced.
fn create(space: &mut Space, name: &IfName, request: &Request) -> Done {
    let Err(refusal) = space.route.call(request) else {
        return Ok(());
    };
    if refusal.errno() != Errno::EEXIST {
        return Err(refusal);
    }
    let Some(view) = space.link(name)? else {
        return Err(refusal);
    };
    if view.group == GROUPS && view.owner.is_none() {
        gone_is_done(
            space.route.call(&link::remove(view.index)),
            &[Errno::ENODEV],
        )?;
        return space.route.call(request).map(drop);
    }
    Err(Refusal::from(Errno::EEXIST)
        .of_kind(KernelErrorKind::HostIfnameInUse)
        .because(format!(
            "an interface {name} is there already and is not netd's to replace"
        )))
}

/// Completes a link that was just made; removes it if that fails.
fn complete(space: &mut Space, link: &Link) -> Done {
    let done = all(space, &link::complete(link, has_ipv6()));
    if done.is_err() {
        take_back(space, &link.name);
    }
    done
}

/// Removes a link that was made by the operation that now fails.
fn take_back(space: &mut Space, name: &IfName) {
    if let Err(refusal) = space.route.call(&link::remove_named(name)) {
        tracing::warn!(link = %name, error = %refusal.source, "cannot take back a half-made link");
    }
}

/// Makes a veth pair with one end inside the namespace `fd`, whose sockets `inside` has.
pub(super) fn add_pair(
    host: &mut Space,
    inside: &mut Space,
    fd: BorrowedFd<'_>,
    outer: &Link,
    inner: &Link,
) -> Done {
    let master = match &outer.master {
        Some(name) => Some(host.index(name)?),
        None => None,
    };
    let request = link::create_pair(outer, master, inner, fd);
    create(host, &outer.name, &request).map_err(|refusal| name_the_end(refusal, inner))?;
    complete(host, outer)?;
    // Should netd be killed here, the inner end has no mark; the outer one has, and its removal takes both.
    let done = complete_inner(inside, inner);
    if done.is_err() {
        take_back(host, &outer.name);
    }
    done
}

/// EEXIST that is not about the outer name is about the inner one.
fn name_the_end(refusal: Refusal, inner: &Link) -> Refusal {
    match (refusal.errno(), refusal.kind) {
        (Errno::EEXIST, KernelErrorKind::Other) => refusal
            .of_kind(KernelErrorKind::IfnameInUse)
            .because(format!(
                "the container has an interface {} already",
                inner.name
            )),
        // net/bridge/br_if.c, find_portno.
        (Errno::EXFULL, _) => refusal
            .of_kind(KernelErrorKind::BridgeFull)
            .because("a bridge takes at most 1023 ports"),
        _ => refusal,
    }
}

fn complete_inner(inside: &mut Space, inner: &Link) -> Done {
    let mut requests = link::complete(inner, has_ipv6());
    requests.push(link::by_name(&inner.name));
    for answer in inside.route.batch(&requests)? {
        if let Some(view) = LinkView::read(&answer?) {
            inside.learn(&inner.name, &view);
        }
    }
    Ok(())
}

/// Gives a link of netd the wanted form.
pub(super) fn change_link(space: &mut Space, to: &Link) -> Done {
    let index = space.index(&to.name)?;
    let master = match &to.master {
        Some(name) => Some(space.index(name)?),
        None => None,
    };
    all(space, &[link::change(index, to, master)])
}

/// Sets the flags of a bridge port.
pub(super) fn set_port(host: &mut Space, port: &BridgePort) -> Done {
    let index = host.index(&port.ifname)?;
    all(host, &[link::set_port(index, port)])
}

/// Brings `lo` up.
pub(super) fn loopback(space: &mut Space) -> Done {
    all(space, &[link::set_up(&IfName::lo())])
}

/// Adds an address.
pub(super) fn add_address(space: &mut Space, address: &Address) -> Done {
    let index = space.index(&address.ifname)?;
    all(space, &[inet::add_address(address, index)]).map_err(|refusal| {
        // net/ipv6/addrconf.c, ipv6_add_addr: the interface has disable_ipv6 set; or it has no IPv6 at all.
        let off = matches!(
            refusal.errno(),
            Errno::EACCES | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT
        );
        if address.ip.is_ipv6() && off {
            ipv6_off(refusal)
        } else {
            refusal
        }
    })
}

fn ipv6_off(refusal: Refusal) -> Refusal {
    refusal
        .of_kind(KernelErrorKind::Ipv6Off)
        .because("IPv6 is switched off there")
}

/// Removes an address; one that is gone, with its link or without, is removed.
pub(super) fn remove_address(space: &mut Space, address: &Address) -> Done {
    let Some(index) = index_if_there(space, &address.ifname)? else {
        return Ok(());
    };
    let answer = space.route.call(&inet::remove_address(address, index));
    gone_is_done(answer, &[Errno::ENODEV, Errno::EADDRNOTAVAIL])
}

fn index_if_there(space: &mut Space, name: &IfName) -> Result<Option<u32>, Refusal> {
    match space.index(name) {
        Ok(index) => Ok(Some(index)),
        Err(refusal) if refusal.kind == KernelErrorKind::NoSuchDevice => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

fn two_families() -> Refusal {
    Refusal::from(Errno::EINVAL).because("destination and gateway are of two families")
}

/// Adds a route.
pub(super) fn add_route(space: &mut Space, route: &Route) -> Done {
    let index = space.index(&route.dev)?;
    let request = inet::add_route(route, index).ok_or_else(two_families)?;
    all(space, &[request]).map_err(|refusal| match refusal.errno() {
        Errno::EEXIST => {
            refusal.because("a route to the same destination is there that is not netd's")
        }
        Errno::EACCES if route.dst.base().is_ipv6() => ipv6_off(refusal),
        _ => refusal,
    })
}

/// Removes a route; one that is gone, with its link or without, is removed.
pub(super) fn remove_route(space: &mut Space, route: &Route) -> Done {
    let Some(index) = index_if_there(space, &route.dev)? else {
        return Ok(());
    };
    let request = inet::remove_route(route, index).ok_or_else(two_families)?;
    gone_is_done(space.route.call(&request), &[Errno::ENODEV, Errno::ESRCH])
}

/// Writes a kernel setting. `/proc/sys/net` shows the namespace of the thread that opens a file in it. One of an interface
/// of somebody else's that has gone since the facts were read needs none.
pub(super) fn set_sysctl(sysctl: &Sysctl) -> Done {
    let path = sysctl_path(&sysctl.path)?;
    let Err(source) = fs::write(&path, &sysctl.value) else {
        return Ok(());
    };
    let refusal = Refusal::from(source);
    let is_foreign = sysctl.owner == Owner::Host && sysctl.path.starts_with("net/ipv6/conf/");
    let is_gone = || Path::new(&path).parent().is_some_and(|dir| !dir.exists());
    if refusal.errno() == Errno::ENOENT && is_foreign && has_ipv6() && is_gone() {
        return Ok(());
    }
    Err(match refusal.errno() {
        Errno::ENOENT if sysctl.path.starts_with("net/ipv6/") && !has_ipv6() => ipv6_off(refusal),
        Errno::ENOENT => match &sysctl.ifname {
            Some(name) => refusal
                .of_kind(KernelErrorKind::NoSuchDevice)
                .because(format!(
                    "interface {name} is gone, or the kernel has no such setting"
                )),
            None => refusal.because("the kernel has no such setting"),
        },
        Errno::EROFS => refusal.because("/proc/sys is mounted read-only"),
        _ => refusal,
    })
}

/// Reads a kernel setting; none if there is no such file.
pub(super) fn read_sysctl(path: &str) -> Result<Option<String>, Refusal> {
    match fs::read_to_string(sysctl_path(path)?) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn sysctl_path(path: &str) -> Result<String, Refusal> {
    // An interface may be called anything but "." and "..".
    let good = !path.is_empty() && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if good {
        return Ok(format!("/proc/sys/{path}"));
    }
    Err(Refusal::from(Errno::EINVAL).because("not a path below /proc/sys"))
}

/// Whether an operation on this namespace is one on the host.
pub(super) fn is_host(ns: &Ns) -> bool {
    *ns == Ns::Host
}
