//! Looking into namespaces.
//!
//! Owns the lists of what a namespace holds, in plain values that tests compare: a leak is a
//! difference between two snapshots.

use std::net::IpAddr;
use std::pin::pin;

use anyhow::Result;
use futures_util::TryStreamExt;
use futures_util::stream::Stream;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    LinkAttribute, LinkFlags, LinkInfo as Detail, LinkMessage, Prop,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteVia};

use super::Netns;

/// A network link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkInfo {
    /// Name.
    pub name: String,
    /// Index.
    pub index: u32,
    /// Kind such as "veth" or "bridge"; empty for lo and hardware.
    pub kind: String,
    /// Alias (IFLA_IFALIAS).
    pub alias: Option<String>,
    /// Alternative names.
    pub altnames: Vec<String>,
    /// Index of the bridge it is a port of.
    pub master: Option<u32>,
    /// Hardware address, empty where there is none.
    pub mac: Vec<u8>,
    /// MTU.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Up and with a carrier: frames can flow.
    pub running: bool,
}

/// An address of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressInfo {
    /// Index of the link.
    pub link: u32,
    /// The address.
    pub ip: IpAddr,
    /// Length of its prefix.
    pub prefix: u8,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteInfo {
    /// Where it leads; prefix length 0 is the default route.
    pub target: IpAddr,
    /// Length of the target's prefix.
    pub prefix: u8,
    /// The neighbour it goes through.
    pub via: Option<IpAddr>,
    /// Index of the link it leaves by.
    pub link: Option<u32>,
    /// Routing table; 254 is main, 255 local.
    pub table: u32,
    /// Who made it (RTPROT number): 2 kernel, 3 boot, 4 static.
    pub protocol: u8,
    /// Metric.
    pub metric: u32,
}

impl Netns {
    /// All links, by index.
    pub fn links(&self) -> Vec<LinkInfo> {
        let messages = self.netlink("listing links", async |handle| {
            collect(handle.link().get().execute()).await
        });
        let mut links: Vec<_> = messages.into_iter().map(link_info).collect();
        links.sort_by_key(|link| link.index);
        links
    }

    /// The link of this name.
    pub fn link(&self, name: &str) -> Option<LinkInfo> {
        self.links().into_iter().find(|link| link.name == name)
    }

    /// All addresses, those of lo and link-local ones included.
    pub fn addresses(&self) -> Vec<AddressInfo> {
        let messages = self.netlink("listing addresses", async |handle| {
            collect(handle.address().get().execute()).await
        });
        messages.iter().filter_map(address_info).collect()
    }

    /// All routes of both families and all tables.
    pub fn routes(&self) -> Vec<RouteInfo> {
        let v4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().build();
        let messages = self.netlink("listing routes", async |handle| {
            let mut all = collect(handle.route().get(v4).execute()).await?;
            all.extend(collect(handle.route().get(v6).execute()).await?);
            Ok(all)
        });
        messages.iter().filter_map(route_info).collect()
    }

    /// Links, addresses and routes as sorted lines, to be compared with `assert_eq!` before and
    /// after: whatever differs is a leak or a loss.
    pub fn snapshot(&self) -> Vec<String> {
        let links = self.links().into_iter().map(|link| format!("{link:?}"));
        let addresses = self
            .addresses()
            .into_iter()
            .map(|address| format!("{address:?}"));
        let routes = self.routes().into_iter().map(|route| format!("{route:?}"));
        let mut lines: Vec<_> = links.chain(addresses).chain(routes).collect();
        lines.sort();
        lines
    }
}

async fn collect<T>(replies: impl Stream<Item = Result<T, rtnetlink::Error>>) -> Result<Vec<T>> {
    Ok(pin!(replies).try_collect().await?)
}

fn link_info(message: LinkMessage) -> LinkInfo {
    let flags = message.header.flags;
    let mut link = LinkInfo {
        index: message.header.index,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::Running | LinkFlags::LowerUp),
        ..LinkInfo::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::LinkInfo(details) => link.kind = kind_of(&details),
            LinkAttribute::PropList(props) => link.altnames = altnames(props),
            _ => {}
        }
    }
    link
}

fn kind_of(details: &[Detail]) -> String {
    let kind = details.iter().find_map(|detail| match detail {
        Detail::Kind(kind) => Some(kind.to_string()),
        _ => None,
    });
    kind.unwrap_or_default()
}

fn altnames(props: Vec<Prop>) -> Vec<String> {
    let names = props.into_iter().filter_map(|prop| match prop {
        Prop::AltIfName(name) => Some(name),
        _ => None,
    });
    names.collect()
}

fn address_info(message: &AddressMessage) -> Option<AddressInfo> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
        message.attributes.iter().find_map(wanted)
    };
    // On a point-to-point link ADDRESS is the peer's; LOCAL is ours and is only there for IPv4.
    let local = find(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let own = find(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    let ip = local.or(own)?;
    Some(AddressInfo {
        link: message.header.index,
        ip,
        prefix: message.header.prefix_len,
    })
}

fn route_info(message: &RouteMessage) -> Option<RouteInfo> {
    let unspecified = match message.header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let mut route = RouteInfo {
        target: unspecified,
        prefix: message.header.destination_prefix_length,
        via: None,
        link: None,
        table: u32::from(message.header.table),
        protocol: message.header.protocol.into(),
        metric: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => route.target = plain(address)?,
            RouteAttribute::Gateway(address) => route.via = plain(address),
            RouteAttribute::Via(RouteVia::Inet6(address)) => route.via = Some((*address).into()),
            RouteAttribute::Oif(index) => route.link = Some(*index),
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            _ => {}
        }
    }
    Some(route)
}

fn plain(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}
