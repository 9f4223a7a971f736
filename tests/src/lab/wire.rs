//! Wiring namespaces together.
//!
//! Owns the changes a test makes to its namespaces: links, addresses, routes and sysctls, by
//! netlink through rtnetlink on a small runtime inside the namespace. It shares no code with netd.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::packet_route::route::{RouteProtocol, RouteScope};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

use super::{Netns, has_ipv6, skip, wait};

/// One end of a wire: a namespace, the name of the link there, and its addresses.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    netns: &'a Netns,
    link: &'a str,
    addresses: &'a [&'a str],
}

/// A link message in the making, as `Netns::set_link` takes it.
/// What [`Netns::set_link`] changes.
pub type LinkChange = LinkMessageBuilder<LinkUnspec>;

/// Joins two namespaces with a veth pair, gives the ends their addresses, sets them up and waits
/// until frames can flow: `veth(a.end("eth0", &["10.0.0.1/24"]), b.end("eth0", &[]))`. IPv6
/// addresses are left out on a kernel without IPv6.
pub fn veth(a: End<'_>, b: End<'_>) {
    create_veth(a, b).unwrap_or_else(|e| panic!("veth {} - {}: {e:#}", a.describe(), b.describe()));
    for end in [a, b] {
        for address in known_families(end.addresses) {
            end.netns.add_address(end.link, address);
        }
        end.netns.up(end.link);
    }
    frames_flow(a, b);
    frames_flow(b, a);
}

/// Sends frames of the type kept for experiments until one comes through. The flags of a link
/// say "running" a moment before the kernel stops dropping what is sent.
fn frames_flow(from: End<'_>, to: End<'_>) {
    const READY: &[u8] = b"\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x01\x88\xb5lab: ready?";
    const ROUND: Duration = Duration::from_millis(20);
    let sniffer = to.netns.sniff(to.link);
    let what = format!("frames from {} to {}", from.describe(), to.describe());
    wait::wait_for(&what, wait::PATIENCE, || {
        // A link without a carrier may refuse the frame: that too is "not yet".
        let _ = from.netns.try_send_frame(from.link, READY);
        sniffer.wait_for(ROUND, |frame| frame == READY).is_some()
    });
}

impl End<'_> {
    fn describe(&self) -> String {
        format!("{}:{}", self.netns.name(), self.link)
    }
}

impl Netns {
    /// Names an end of a wire for `veth`.
    pub fn end<'a>(&'a self, link: &'a str, addresses: &'a [&'a str]) -> End<'a> {
        End {
            netns: self,
            link,
            addresses,
        }
    }

    /// Sets a link up.
    pub fn up(&self, link: &str) {
        self.set_link(link, LinkMessageBuilder::up);
    }

    /// Sets a link down.
    pub fn down(&self, link: &str) {
        self.set_link(link, LinkMessageBuilder::down);
    }

    /// Changes a link: `ns.set_link("eth0", |link| link.mtu(1400).alias("x"))`.
    pub fn set_link(&self, link: &str, change: impl FnOnce(LinkChange) -> LinkChange + Send) {
        let message = change(LinkUnspec::new_with_name(link)).build();
        self.netlink(&format!("changing {link}"), async |handle| {
            Ok(handle.link().set(message).execute().await?)
        });
    }

    /// Gives a link, which has to be down, another name.
    pub fn rename_link(&self, link: &str, name: &str) {
        let message = LinkUnspec::new_with_index(self.index(link)).name(name.to_owned());
        self.netlink(&format!("renaming {link}"), async |handle| {
            Ok(handle.link().set(message.build()).execute().await?)
        });
    }

    /// Makes a bridge and sets it up.
    pub fn add_bridge(&self, name: &str) {
        let message = LinkBridge::new(name).up().build();
        self.netlink(&format!("adding bridge {name}"), async |handle| {
            Ok(handle.link().add(message).execute().await?)
        });
    }

    /// Makes `link` a port of `bridge`.
    pub fn set_master(&self, link: &str, bridge: &str) {
        let master = self.index(bridge);
        self.set_link(link, |change| change.controller(master));
    }

    /// Removes a link.
    pub fn del_link(&self, link: &str) {
        let index = self.index(link);
        self.netlink(&format!("removing {link}"), async |handle| {
            Ok(handle.link().del(index).execute().await?)
        });
    }

    /// Removes a link that somebody else may remove at the same time; false when nothing was done.
    pub fn try_del_link(&self, link: &str) -> bool {
        self.try_netlink(link, async |handle, index| {
            Ok(handle.link().del(index).execute().await?)
        })
    }

    /// Sets a link down that somebody else may remove at the same time; false when nothing was done.
    pub fn try_down(&self, link: &str) -> bool {
        self.try_netlink(link, async |handle, index| {
            let message = LinkUnspec::new_with_index(index).down().build();
            Ok(handle.link().set(message).execute().await?)
        })
    }

    fn try_netlink(
        &self,
        link: &str,
        request: impl AsyncFnOnce(Handle, u32) -> Result<()> + Send,
    ) -> bool {
        let done = self.run(|| {
            let index = if_nametoindex(link)?;
            with_netlink(async |handle| request(handle, index).await)
        });
        done.is_ok()
    }

    /// Index of a link; panics when there is none.
    pub fn index(&self, link: &str) -> u32 {
        let index = self.run(|| if_nametoindex(link));
        index.unwrap_or_else(|errno| panic!("no link {link} in {}: {errno}", self.name()))
    }

    /// Adds an address such as "10.0.0.1/24" or "fd00::1/64", the latter without DAD.
    pub fn add_address(&self, link: &str, address: &str) {
        let (ip, prefix) = parse_prefix(address);
        let index = self.index(link);
        self.netlink(&format!("adding {address} to {link}"), async |handle| {
            let mut request = handle.address().add(index, ip, prefix);
            if ip.is_ipv6() {
                let message = request.message_mut();
                message.header.flags |= AddressHeaderFlags::Nodad;
                message
                    .attributes
                    .push(AddressAttribute::Flags(AddressFlags::Nodad));
            }
            Ok(request.execute().await?)
        });
    }

    /// Adds a route through a neighbour: `add_route("10.1.0.0/16", "10.0.0.1")`. The target
    /// "default" takes the family of `via`.
    pub fn add_route(&self, target: &str, via: &str) {
        let gateway: IpAddr = via.parse().expect("an address");
        let route = route_to(target, gateway)
            .gateway(gateway)
            .expect("one family");
        self.insert_route(&format!("{target} via {via}"), route);
    }

    /// Removes the routes to a target, `0.0.0.0/0` or `10.1.0.0/16`, from the main table.
    pub fn del_route(&self, target: &str) {
        let (family, _) = parse_prefix(target);
        // Whoever made it, whatever its scope.
        let route = route_to(target, family)
            .protocol(RouteProtocol::Unspec)
            .scope(RouteScope::NoWhere)
            .build();
        self.netlink(&format!("removing the route to {target}"), async |handle| {
            Ok(handle.route().del(route).execute().await?)
        });
    }

    /// Adds a route straight out of a link: `add_link_route("10.1.0.0/16", "wg0")`.
    pub fn add_link_route(&self, target: &str, link: &str) {
        let (family, _) = parse_prefix(target);
        let route = route_to(target, family).output_interface(self.index(link));
        self.insert_route(&format!("{target} dev {link}"), route);
    }

    /// Writes a sysctl by its file below /proc/sys: `set_sysctl("net/ipv4/ip_forward", "1")`.
    pub fn set_sysctl(&self, key: &str, value: &str) {
        let written = self.run(|| std::fs::write(sysctl_path(key), value));
        written.unwrap_or_else(|e| panic!("writing {value} to {key} in {}: {e}", self.name()));
    }

    /// Reads a sysctl; none when this kernel does not have it.
    pub fn sysctl(&self, key: &str) -> Option<String> {
        let text = self.run(|| std::fs::read_to_string(sysctl_path(key)));
        text.ok().map(|text| text.trim().to_owned())
    }

    /// Switches duplicate address detection off for present and future links.
    pub fn no_dad(&self) {
        let scopes: &[&str] = if has_ipv6() { &["all", "default"] } else { &[] };
        for scope in scopes {
            self.set_sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0");
        }
    }

    /// Sets whether bridged packets pass the hooks of IP and ARP too, as `br_netfilter` has them do. Where nobody loaded that
    /// module they do not, and a test that wants it is skipped.
    pub fn filter_bridged(&self, on: bool) {
        for program in ["iptables", "ip6tables", "arptables"] {
            let key = format!("net/bridge/bridge-nf-call-{program}");
            match (self.sysctl(&key), on) {
                (Some(_), _) => self.set_sysctl(&key, if on { "1" } else { "0" }),
                (None, false) => {}
                (None, true) => skip(&format!("/proc/sys/{key} is missing: no br_netfilter")),
            }
        }
    }

    /// Makes the namespace a router for the families the kernel has.
    pub fn forwarding(&self) {
        self.set_sysctl("net/ipv4/ip_forward", "1");
        if has_ipv6() {
            self.set_sysctl("net/ipv6/conf/all/forwarding", "1");
        }
    }

    fn insert_route(&self, what: &str, route: RouteMessageBuilder<IpAddr>) {
        let message = route.build();
        self.netlink(&format!("adding route {what}"), async |handle| {
            Ok(handle.route().add(message).execute().await?)
        });
    }

    /// Runs requests over a netlink socket of this namespace; panics with `what` on an error.
    pub(super) fn netlink<T: Send>(
        &self,
        what: &str,
        requests: impl AsyncFnOnce(Handle) -> Result<T> + Send,
    ) -> T {
        let result = self.run(|| with_netlink(requests));
        result.unwrap_or_else(|error| panic!("{what} in {}: {error:#}", self.name()))
    }
}

/// Sets lo up in the calling thread's namespace.
pub(super) fn loopback_up() -> Result<()> {
    let message = LinkUnspec::new_with_name("lo").up().build();
    with_netlink(async |handle| Ok(handle.link().set(message).execute().await?))
}

/// Opens a netlink socket in the calling thread's namespace and drives `requests` to their end.
fn with_netlink<T>(requests: impl AsyncFnOnce(Handle) -> Result<T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().context("netlink socket")?;
        let connection = tokio::spawn(connection);
        let result = requests(handle).await;
        connection.abort();
        result
    })
}

fn create_veth(a: End<'_>, b: End<'_>) -> Result<()> {
    // The peer is born in its own namespace: no moving and renaming afterwards.
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(b.link)
        .setns_by_fd(b.netns.raw_fd());
    let pair = LinkMessageBuilder::<LinkVeth>::new(a.link, b.link)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())))
        .build();
    a.netns
        .run(|| with_netlink(async |handle| Ok(handle.link().add(pair).execute().await?)))
}

/// The addresses, without those of IPv6 on a kernel that has none.
pub(super) fn known_families<'a>(addresses: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    let known = addresses
        .iter()
        .filter(|text| has_ipv6() || !text.contains(':'));
    known.copied()
}

/// Splits "ADDRESS/LENGTH"; without a length the whole address counts.
pub(super) fn parse_prefix(text: &str) -> (IpAddr, u8) {
    let (ip, length) = text.split_once('/').unwrap_or((text, ""));
    let ip: IpAddr = ip.parse().unwrap_or_else(|e| panic!("address {text}: {e}"));
    let whole = if ip.is_ipv4() { 32 } else { 128 };
    let length = if length.is_empty() {
        whole
    } else {
        length.parse().expect("a prefix length")
    };
    (ip, length)
}

/// A route message to `target`; "default" means the family of `family`.
fn route_to(target: &str, family: IpAddr) -> RouteMessageBuilder<IpAddr> {
    let (ip, length) = match (target, family) {
        ("default", IpAddr::V4(_)) => parse_prefix("0.0.0.0/0"),
        ("default", IpAddr::V6(_)) => parse_prefix("::/0"),
        _ => parse_prefix(target),
    };
    let route = RouteMessageBuilder::<IpAddr>::new();
    route
        .destination_prefix(ip, length)
        .expect("a prefix that fits its family")
}

fn sysctl_path(key: &str) -> String {
    format!("/proc/sys/{key}")
}
