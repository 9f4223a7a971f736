//! What was typed becomes the request that the API takes.
//!
//! Only the form is judged here (`K=V`, `NET,ip=A`, numbers); the values are the daemon's to judge.

use std::collections::BTreeMap;
use std::path::Path;

use netd_model::api;
use netd_model::error::{Code, Error, Result};
use netd_model::id::shorten;

use super::args::{Attach, Connect, NetworkCreate};

/// Keys of an attachment, for messages.
const KEYS: &str = "ip, ip6, mac, ifname, alias, allow, gw-priority, sysctl";

/// The body of `POST /v1/networks`.
pub(super) fn network_create(args: NetworkCreate) -> Result<api::NetworkCreate> {
    Ok(api::NetworkCreate {
        icc: args
            .icc
            .as_deref()
            .map(|text| flag("icc", Code::InvalidIcc, text))
            .transpose()?,
        ipv4: args
            .ipv4
            .as_deref()
            .map(|text| flag("ipv4", Code::InvalidSubnet, text))
            .transpose()?,
        mtu: args.mtu.as_deref().map(mtu).transpose()?,
        labels: pairs(&args.label, "label", Code::InvalidLabel)?,
        opts: pairs(&args.opt, "opt", Code::InvalidOpt)?,
        name: args.name,
        driver: args.driver,
        subnets: args.subnet,
        ip_ranges: args.ip_range,
        gateways: args.gateway,
        ipv6: args.ipv6,
        internal: args.internal,
        mode: args.mode,
        encrypted: args.encrypted,
        dns: args.dns,
        routes: args
            .route
            .iter()
            .map(|text| route(text))
            .collect::<Result<_>>()?,
        allow_from: args.allow_from,
        block_from: args.block_from,
    })
}

/// `CIDR[,via=IP][,metric=N]`.
fn route(text: &str) -> Result<api::StaticRoute> {
    let invalid = |why: &str| {
        let text = shorten(text);
        let form = "CIDR[,via=IP][,metric=N]";
        Error::new(
            Code::InvalidRoute,
            format!("route {text:?}: {why} ({form})"),
        )
    };
    let mut parts = text.split(',');
    let mut route = api::StaticRoute {
        destination: parts.next().unwrap_or_default().to_owned(),
        ..api::StaticRoute::default()
    };
    for part in parts {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| invalid("a key has no value"))?;
        match key {
            "via" if route.gateway.is_none() => route.gateway = Some(value.to_owned()),
            "metric" if route.metric.is_none() => {
                let metric = value
                    .parse()
                    .map_err(|_| invalid("its metric is no number"))?;
                route.metric = Some(metric);
            }
            "via" | "metric" => return Err(invalid("a key is given twice")),
            _ => return Err(invalid("it takes the keys via and metric")),
        }
    }
    Ok(route)
}

/// The body of `POST /v1/containers`.
pub(super) fn attach(args: Attach) -> Result<api::ContainerAttach> {
    Ok(api::ContainerAttach {
        netns: netns(args.netns),
        networks: args
            .network
            .iter()
            .map(|text| join(text, &[]))
            .collect::<Result<_>>()?,
        labels: pairs(&args.label, "label", Code::InvalidLabel)?,
        name: args.name,
        id: args.id,
        hostname: args.hostname,
        publish: args.publish,
        dns: args.dns,
        extra_hosts: args.add_host,
        create_only: false,
    })
}

/// The body of `POST /v1/containers/{c}/endpoints`: the keys may stand in three places.
pub(super) fn connect(args: Connect) -> Result<api::Join> {
    let mut keys = args.keys;
    for (key, value) in [
        ("ip", args.ip),
        ("ip6", args.ip6),
        ("mac", args.mac),
        ("ifname", args.ifname),
        ("gw-priority", args.gw_priority),
    ] {
        keys.extend(value.map(|value| format!("{key}={value}")));
    }
    keys.extend(args.alias.into_iter().map(|alias| format!("alias={alias}")));
    keys.extend(args.sysctl.into_iter().map(|text| format!("sysctl={text}")));
    join(&args.network, &keys)
}

/// `NET[,KEY=VALUE]…` and further keys.
fn join(text: &str, more: &[String]) -> Result<api::Join> {
    let mut parts = text.split(',');
    let network = parts.next().unwrap_or_default();
    if network.is_empty() || network.contains('=') {
        return Err(invalid_network(
            text,
            "it begins with the name of the network",
        ));
    }
    let mut join = api::Join {
        network: network.to_owned(),
        ..api::Join::default()
    };
    for part in parts.chain(more.iter().flat_map(|text| text.split(','))) {
        let (key, value) = part.split_once('=').ok_or_else(|| {
            invalid_network(text, &format!("{:?} is not KEY=VALUE", shorten(part)))
        })?;
        if value.is_empty() {
            return Err(invalid_network(
                text,
                &format!("the key {:?} has no value", shorten(key)),
            ));
        }
        set(&mut join, key, value).map_err(|why| invalid_network(text, &why))?;
    }
    Ok(join)
}

fn set(join: &mut api::Join, key: &str, value: &str) -> Result<(), String> {
    let slot = match key {
        "alias" => {
            join.aliases.push(value.to_owned());
            return Ok(());
        }
        "allow" => {
            join.allow.push(value.to_owned());
            return Ok(());
        }
        "sysctl" => {
            let (key, value) = value
                .split_once('=')
                .ok_or_else(|| "a sysctl is KEY=VALUE".to_owned())?;
            return match join.sysctls.insert(key.to_owned(), value.to_owned()) {
                Some(_) => Err(format!("the sysctl {:?} is given twice", shorten(key))),
                None => Ok(()),
            };
        }
        "gw-priority" => {
            let number = value
                .parse()
                .map_err(|_| "gw-priority is no number".to_owned())?;
            return match join.gw_priority.replace(number) {
                Some(_) => Err("the key gw-priority is given twice".to_owned()),
                None => Ok(()),
            };
        }
        "ip" => &mut join.ip,
        "ip6" => &mut join.ip6,
        "mac" => &mut join.mac,
        "ifname" => &mut join.ifname,
        _ => return Err(format!("the key {:?} is unknown, use {KEYS}", shorten(key))),
    };
    match slot.replace(value.to_owned()) {
        Some(_) => Err(format!("the key {key} is given twice")),
        None => Ok(()),
    }
}

fn invalid_network(text: &str, why: &str) -> Error {
    let form = "NET[,ip=A][,ip6=A][,mac=M][,ifname=I][,alias=A]…[,allow=CIDR]…[,gw-priority=N][,sysctl=K=V]…";
    Error::new(
        Code::InvalidNetwork,
        format!("network {:?}: {why} ({form})", shorten(text)),
    )
}

fn pairs(texts: &[String], what: &str, code: Code) -> Result<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    for text in texts {
        let (key, value) = text.split_once('=').ok_or_else(|| {
            Error::new(code, format!("{what} {:?} is not KEY=VALUE", shorten(text)))
        })?;
        if map.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Error::new(
                code,
                format!("{what} {:?} is given twice", shorten(key)),
            ));
        }
    }
    Ok(map)
}

fn flag(name: &str, code: Code, text: &str) -> Result<bool> {
    text.parse().map_err(|_| {
        Error::new(
            code,
            format!("{name} {:?} is neither true nor false", shorten(text)),
        )
    })
}

fn mtu(text: &str) -> Result<u32> {
    text.parse().map_err(|_| {
        Error::new(
            Code::InvalidMtu,
            format!("mtu {:?} is no number of bytes", shorten(text)),
        )
    })
}

/// The daemon has another working directory, so an existing relative path is made absolute. Symbolic links stay:
/// the target of `/proc/PID/ns/net` is no path.
fn netns(text: String) -> String {
    if !text.contains('/') || text.starts_with('/') || !Path::new(&text).exists() {
        return text;
    }
    let absolute = std::path::absolute(&text).ok();
    absolute
        .and_then(|path| path.into_os_string().into_string().ok())
        .unwrap_or(text)
}
