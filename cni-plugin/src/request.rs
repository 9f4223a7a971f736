//! From a configuration to a request to the daemon. Pure: what came is decided here, nothing is done.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netd_model::Prefix;
use netd_model::api::NetworkCreate;
use netd_model::cni::{Add, StaticRoute};

use crate::args::Args;
use crate::config::{Config, Ipam, PortMapping, Range};
use crate::env::Env;
use crate::error::{CONFIG, CniError, UNSUPPORTED};
use crate::result::cidr::Address;
use crate::result::{CniResult, Dns, Interface, Ip, Route};

/// The network to join, and how to make it where the configuration says that.
pub(crate) struct Target {
    pub(crate) network: String,
    pub(crate) define: Option<NetworkCreate>,
}

/// The network of a configuration. `file` is the text of its `subnetFile`, `leased` what a foreign IPAM chose.
pub(crate) fn target(
    config: &Config,
    file: Option<&str>,
    leased: Option<&CniResult>,
) -> Result<Target, CniError> {
    let ipam = config.ipam.as_ref();
    let named = config
        .network
        .clone()
        .or_else(|| ipam.and_then(|ipam| ipam.network.clone()));
    let ranges = ranges(config);
    let defines = !config.define.is_empty()
        || config.ip_masq.is_some()
        || config.is_gateway.is_some()
        || !ranges.is_empty();
    if named.is_some() && !defines {
        return Ok(Target {
            network: named.unwrap_or_default(),
            define: None,
        });
    }
    let network = named.unwrap_or_else(|| config.name.clone());
    let mut define = NetworkCreate {
        name: network.clone(),
        mtu: config.define.mtu,
        ipv6: config.define.ipv6.unwrap_or(false),
        mode: config.define.mode.clone(),
        icc: config.define.icc,
        opts: config.define.opts.clone(),
        driver: config.is_ipam().then(|| "ipam".to_owned()),
        ..NetworkCreate::default()
    };
    let mut default = |key: &str, value: String| {
        define.opts.entry(key.to_owned()).or_insert(value);
    };
    if let Some(bridge) = &config.define.bridge {
        default("bridge", bridge.clone());
    }
    if !config.define.non_masquerade.is_empty() {
        default("non_masquerade", config.define.non_masquerade.join(","));
    }
    if !config.define.pod_cidrs.is_empty() {
        // What kube-proxy balances has to come back by the host.
        default("l3", "on".to_owned());
    }
    match (config.ip_masq, define.mode.as_deref()) {
        (Some(false), None) => define.mode = Some("routed".to_owned()),
        (Some(true), Some(mode)) if mode != "nat" => {
            return Err(CniError::new(
                CONFIG,
                format!("ipMasq true and mode {mode:?} exclude each other: leave one of them out"),
            ));
        }
        _ => {}
    }
    match (config.is_gateway, define.mode.as_deref()) {
        (_, Some("internal")) => (define.mode, define.internal) = (None, true),
        // A bridge without an address of the host is one without a way out.
        (Some(false), None) => define.mode = Some("isolated".to_owned()),
        _ => {}
    }
    define.subnets.extend(config.define.subnet.clone());
    define.subnets.extend(config.define.subnets.iter().cloned());
    define
        .subnets
        .extend(config.define.pod_cidrs.iter().cloned());
    define.gateways.extend(config.define.gateway.clone());
    define
        .subnets
        .extend(file.iter().flat_map(|text| prefixes(text)));
    check_lists(&ranges)?;
    for range in ranges.iter().flatten() {
        add_range(&mut define, range)?;
    }
    if let Some(leased) = leased {
        add_leased(&mut define, config, leased)?;
    }
    // With prefixes of IPv6 alone, nothing says that there shall be IPv4.
    if !define.subnets.is_empty() && define.subnets.iter().all(|subnet| subnet.contains(':')) {
        define.ipv4 = Some(false);
    }
    Ok(Target {
        network,
        define: Some(define),
    })
}

/// The pools: those of the runtime, or of the configuration, or of its `ipam`.
fn ranges(config: &Config) -> Vec<Vec<Range>> {
    let mut ranges = config.runtime_config.ip_ranges.clone();
    if !ranges.is_empty() {
        return ranges;
    }
    ranges.extend(config.define.ranges.iter().cloned());
    if let Some(ipam) = config
        .ipam
        .as_ref()
        .filter(|_| config.foreign_ipam().is_none())
    {
        ranges.extend(ranges_of(ipam));
    }
    ranges
}

/// The pools that an `ipam` names, as host-local has them.
fn ranges_of(ipam: &Ipam) -> Vec<Vec<Range>> {
    let mut ranges = Vec::new();
    if let Some(subnet) = ipam.subnet.clone().filter(|subnet| !subnet.is_empty()) {
        ranges.push(vec![Range {
            subnet,
            range_start: ipam.range_start.clone(),
            range_end: ipam.range_end.clone(),
            gateway: ipam.gateway.clone(),
        }]);
    }
    ranges.extend(ipam.ranges.iter().cloned());
    ranges
}

/// Each list is the pools for one address, and a container has one address of each family.
fn check_lists(lists: &[Vec<Range>]) -> Result<(), CniError> {
    let is_v6 = |range: &Range| range.subnet.contains(':');
    let mut seen: Vec<bool> = Vec::new();
    for list in lists {
        let Some(first) = list.first().map(is_v6) else {
            return Err(CniError::new(
                CONFIG,
                "ranges: a list is empty: give it a pool, or leave it out",
            ));
        };
        if let Some(other) = list.iter().find(|range| is_v6(range) != first) {
            return Err(CniError::new(
                CONFIG,
                format!(
                    "ranges: {:?} is not of the family of the pools before it: give it a list of its own",
                    other.subnet
                ),
            ));
        }
        if seen.contains(&first) {
            return Err(unsupported(
                "ranges",
                "two lists of one family",
                "a container has one address of each family: put the pools into one list",
            ));
        }
        seen.push(first);
    }
    Ok(())
}

fn add_range(define: &mut NetworkCreate, range: &Range) -> Result<(), CniError> {
    let invalid = |why: &str| CniError::new(CONFIG, format!("range {:?}: {why}", range.subnet));
    let subnet: Address = range
        .subnet
        .parse()
        .map_err(|()| invalid("it is no prefix"))?;
    define.subnets.push(range.subnet.clone());
    define.gateways.extend(range.gateway.clone());
    if range.range_start.is_none() && range.range_end.is_none() {
        return Ok(());
    }
    let bound = |text: &Option<String>, default: IpAddr| {
        text.as_deref().map_or(Ok(default), |text| {
            text.parse::<IpAddr>()
                .map_err(|_| invalid(&format!("{text:?} is no IP address")))
        })
    };
    let prefix = Prefix::holding(subnet.ip, subnet.len);
    let first = bound(&range.range_start, prefix.base())?;
    let last = bound(&range.range_end, prefix.last())?;
    let pool = block(first, last).ok_or_else(|| {
        unsupported(
            "rangeStart, rangeEnd",
            &format!("{first} to {last}"),
            "netd takes pools that are a prefix, such as .64 to .127",
        )
    })?;
    define.ip_ranges.push(pool);
    Ok(())
}

/// The prefix that holds exactly the addresses from `first` to `last`.
fn block(first: IpAddr, last: IpAddr) -> Option<String> {
    let bits = |ip| match ip {
        IpAddr::V4(v4) => (u128::from(Ipv4Addr::to_bits(v4)), 32),
        IpAddr::V6(v6) => (Ipv6Addr::to_bits(v6), 128),
    };
    let ((low, width), (high, other)) = (bits(first), bits(last));
    // The size less one, so that the whole of IPv6 fits.
    let span = high.checked_sub(low).filter(|_| width == other)?;
    let is_power = span & span.wrapping_add(1) == 0;
    let len = width - (128 - span.leading_zeros());
    (is_power && low & span == 0).then(|| format!("{first}/{len}"))
}

/// What a foreign IPAM chose says what the network looks like. Where its configuration names the subnets that it chooses from, as
/// that of host-local does, the network has all of them from the beginning: it stays as it was made, and the next container may
/// get an address of another one.
fn add_leased(
    define: &mut NetworkCreate,
    config: &Config,
    leased: &CniResult,
) -> Result<(), CniError> {
    let mut taken = Vec::new();
    for ip in &leased.ips {
        let address: Address = ip.address.parse().map_err(|()| {
            CniError::new(
                CONFIG,
                format!("address {:?} has no prefix length", ip.address),
            )
        })?;
        let prefix = Prefix::holding(address.ip, address.len);
        taken.push((prefix.to_string(), ip.gateway.clone()));
    }
    let named: Vec<_> = config.ipam.iter().flat_map(named_subnets).collect();
    // Another IPAM may mean something else by the same words.
    let is_named = |(prefix, gateway): &(String, Option<String>)| {
        named
            .iter()
            .any(|(of, at)| of == prefix && (gateway.is_none() || gateway == at))
    };
    let subnets = if taken.iter().all(is_named) {
        named
    } else {
        taken
    };
    for (prefix, gateway) in subnets {
        if !define.subnets.contains(&prefix) {
            define.subnets.push(prefix);
            define.gateways.extend(gateway);
        }
    }
    Ok(())
}

/// The subnets that a foreign IPAM names, with the gateways that host-local gives them: the first address, if no other is named.
fn named_subnets(ipam: &Ipam) -> Vec<(String, Option<String>)> {
    let subnet = |range: &Range| {
        let address: Address = range.subnet.parse().ok()?;
        let prefix = Prefix::holding(address.ip, address.len);
        let first = match prefix.base() {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() | 1).to_string(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() | 1).to_string(),
        };
        let gateway = range.gateway.clone().unwrap_or(first);
        Some((prefix.to_string(), Some(gateway)))
    };
    let ranges = ranges_of(ipam);
    ranges.iter().flatten().filter_map(subnet).collect()
}

/// The prefixes in a file: words that are one, and values of `NAME=PREFIX`, as node agents write them
/// (`FLANNEL_SUBNET=10.244.1.1/24` is the gateway's address, and means its prefix).
fn prefixes(text: &str) -> Vec<String> {
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim());
    let values = lines.filter_map(|line| match line.split_once('=') {
        // The cluster's network is not this node's.
        Some((name, value)) => name
            .trim()
            .to_ascii_uppercase()
            .ends_with("SUBNET")
            .then_some(value),
        None => Some(line),
    });
    let words = values.flat_map(|value| value.split([' ', ',', '\t', '"']));
    let addresses = words.filter_map(|word| word.parse::<Address>().ok());
    addresses
        .map(|address| Prefix::holding(address.ip, address.len).to_string())
        .collect()
}

fn unsupported(key: &str, value: &str, remedy: &str) -> CniError {
    CniError::new(
        UNSUPPORTED,
        format!("{key} {value} is not supported: {remedy}"),
    )
}

/// ADD.
pub(crate) fn add(
    config: &Config,
    env: &Env,
    file: Option<&str>,
    leased: Option<&CniResult>,
) -> Result<Add, CniError> {
    let args = Args::parse(&env.args)?;
    let Target { network, define } = target(config, file, leased)?;
    let runtime = &config.runtime_config;
    let static_bandwidth = config.bandwidth != crate::config::RawBandwidth::default();
    Ok(Add {
        container: env.container.clone(),
        ifname: env.ifname.clone(),
        netns: env.netns.clone(),
        cni_network: config.name.clone(),
        network,
        define,
        ips: addresses(config, &args, leased)?,
        // The address of an interface that another plugin makes is not netd's affair.
        mac: runtime
            .mac
            .clone()
            .or_else(|| config.args.cni.mac.clone())
            .or(args.mac)
            .filter(|_| !config.is_ipam()),
        pod: args.pod,
        publish: publish(&runtime.port_mappings)?,
        dns: nameservers(config),
        aliases: runtime.aliases.clone(),
        labels: config.labels(),
        routes: routes(config, leased)?,
        // As in the reference plugin, what the administrator wrote wins.
        bandwidth: if static_bandwidth {
            config.bandwidth
        } else {
            runtime.bandwidth
        }
        .into(),
        address_only: config.is_ipam(),
    })
}

/// The runtime's addresses beat those of `args`, and they those of `CNI_ARGS`.
fn addresses(
    config: &Config,
    args: &Args,
    leased: Option<&CniResult>,
) -> Result<Vec<IpAddr>, CniError> {
    let from_args: Vec<String> = args.ip.iter().cloned().collect();
    let leased: Vec<String> = leased
        .iter()
        .flat_map(|result| &result.ips)
        .map(|ip| ip.address.clone())
        .collect();
    let lists = [
        &leased,
        &config.runtime_config.ips,
        &config.args.cni.ips,
        &from_args,
    ];
    let list = lists.into_iter().find(|list| !list.is_empty());
    let parse = |text: &String| {
        let ip = text.split('/').next().unwrap_or_default();
        ip.parse().map_err(|_| {
            CniError::new(
                CONFIG,
                format!("requested address {text:?} is no IP address"),
            )
        })
    };
    list.map_or_else(|| Ok(Vec::new()), |list| list.iter().map(parse).collect())
}

/// `[HOSTIP:]HOSTPORT:PORT/PROTO` of each mapping.
fn publish(mappings: &[PortMapping]) -> Result<Vec<String>, CniError> {
    let text = |mapping: &PortMapping| {
        let is_port = |port: u32| (1..=65_535).contains(&port);
        if !is_port(mapping.host_port) || !is_port(mapping.container_port) {
            return Err(CniError::new(
                CONFIG,
                format!(
                    "portMappings: hostPort {} to containerPort {}: a port is 1 to 65535",
                    mapping.host_port, mapping.container_port
                ),
            ));
        }
        let proto = match mapping.protocol.to_ascii_lowercase() {
            empty if empty.is_empty() => "tcp".to_owned(),
            proto => proto,
        };
        let host = match mapping.host_ip.as_str() {
            "" => String::new(),
            ip if ip.contains(':') => format!("[{ip}]:"),
            ip => format!("{ip}:"),
        };
        Ok(format!(
            "{host}{}:{}/{proto}",
            mapping.host_port, mapping.container_port
        ))
    };
    mappings.iter().map(text).collect()
}

/// Resolvers behind netd's; its own address would lead in a circle.
fn nameservers(config: &Config) -> Vec<String> {
    let runtime = config.runtime_config.dns.as_ref().map(|dns| &dns.servers);
    let list = runtime
        .filter(|list| !list.is_empty())
        .unwrap_or(&config.dns.nameservers);
    list.iter()
        .filter(|ip| ip.as_str() != "127.0.0.11")
        .cloned()
        .collect()
}

/// Routes of the configuration, of its `ipam`, and of a foreign IPAM; the default route is netd's own affair.
fn routes(config: &Config, leased: Option<&CniResult>) -> Result<Vec<StaticRoute>, CniError> {
    let own_ipam = config
        .ipam
        .iter()
        .filter(|_| config.foreign_ipam().is_none());
    let all = config
        .routes
        .iter()
        .chain(own_ipam.flat_map(|ipam| &ipam.routes))
        .chain(leased.iter().flat_map(|result| &result.routes));
    let parse = |route: &Route| {
        let invalid = || {
            CniError::new(
                CONFIG,
                format!("route to {:?} via {:?} is no route", route.dst, route.gw),
            )
        };
        let dst: Address = route.dst.parse().map_err(|()| invalid())?;
        let via = route.gw.as_deref().filter(|gw| !gw.is_empty());
        let via = via
            .map(str::parse::<IpAddr>)
            .transpose()
            .map_err(|_| invalid())?;
        Ok(StaticRoute {
            dst: Prefix::holding(dst.ip, dst.len),
            via,
        })
    };
    let routes: Vec<StaticRoute> = all.map(parse).collect::<Result<_, CniError>>()?;
    let mut kept: Vec<StaticRoute> = Vec::new();
    let is_default = |dst: Prefix| dst == Prefix::default_route(dst.family());
    for route in routes.into_iter().filter(|route| !is_default(route.dst)) {
        if !kept.iter().any(|other| other.dst == route.dst) {
            kept.push(route);
        }
    }
    Ok(kept)
}

/// The answer to an ADD: what the daemon made, behind what the plugins before made.
pub(crate) fn result(
    config: &Config,
    env: &Env,
    added: &netd_model::cni::Added,
    before: Option<CniResult>,
) -> CniResult {
    let is_ipam = config.is_ipam();
    let interface = |of: &netd_model::cni::Interface, sandbox: Option<&str>| Interface {
        name: of.name.to_string(),
        mac: Some(of.mac.to_string()),
        mtu: Some(of.mtu),
        sandbox: sandbox.map(ToOwned::to_owned),
        ..Interface::default()
    };
    let mut interfaces: Vec<Interface> = Vec::new();
    if !is_ipam {
        interfaces.extend(added.bridge.iter().map(|bridge| interface(bridge, None)));
        interfaces.extend(added.host.iter().map(|host| interface(host, None)));
        interfaces.push(interface(&added.container, Some(&env.netns)));
    }
    let own = (!is_ipam).then(|| interfaces.len() - 1);
    let ips = added.ips.iter().map(|ip| Ip {
        address: ip.address.clone(),
        gateway: ip.gateway.map(|gateway| gateway.to_string()),
        interface: own,
    });
    let made = added.routes.iter().map(|route| Route {
        dst: route.dst.to_string(),
        gw: route.via.map(|via| via.to_string()),
        ..Route::default()
    });
    let routes = match &config.ipam {
        // The plugin that asked for the address makes the routes, the default route too.
        Some(ipam) if is_ipam => ipam.routes.clone(),
        _ => made.collect(),
    };
    let result = CniResult {
        interfaces,
        ips: ips.collect(),
        routes,
        dns: dns(config, added),
    };
    match before {
        Some(before) => before.followed_by(result),
        None => result,
    }
}

/// What belongs into resolv.conf. Where netd only keeps addresses it does not answer names either.
fn dns(config: &Config, added: &netd_model::cni::Added) -> Dns {
    let mut dns = config.dns.clone();
    if let Some(runtime) = &config.runtime_config.dns {
        let sides = [
            (&runtime.searches, &mut dns.search),
            (&runtime.options, &mut dns.options),
        ];
        for (said, kept) in sides {
            if !said.is_empty() {
                kept.clone_from(said);
            }
        }
    }
    if !config.is_ipam() {
        dns.nameservers = vec![added.nameserver.to_string()];
    }
    dns
}

#[cfg(test)]
mod tests;
