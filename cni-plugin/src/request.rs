//! From a configuration to a request to the daemon. Pure: what came is decided here, nothing is done.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netd_model::Prefix;
use netd_model::api::NetworkCreate;
use netd_model::cni::{Add, StaticRoute};

use crate::args::Args;
use crate::config::{Config, PortMapping, Range};
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
        add_leased(&mut define, leased)?;
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
        if let Some(subnet) = ipam.subnet.clone().filter(|subnet| !subnet.is_empty()) {
            ranges.push(vec![Range {
                subnet,
                range_start: ipam.range_start.clone(),
                range_end: ipam.range_end.clone(),
                gateway: ipam.gateway.clone(),
            }]);
        }
        ranges.extend(ipam.ranges.iter().cloned());
    }
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

/// What a foreign IPAM chose says what the network looks like.
fn add_leased(define: &mut NetworkCreate, leased: &CniResult) -> Result<(), CniError> {
    for ip in &leased.ips {
        let address: Address = ip.address.parse().map_err(|()| {
            CniError::new(
                CONFIG,
                format!("address {:?} has no prefix length", ip.address),
            )
        })?;
        let prefix = Prefix::holding(address.ip, address.len);
        let known = define
            .subnets
            .iter()
            .any(|subnet| *subnet == prefix.to_string());
        if !known {
            define.subnets.push(prefix.to_string());
            define.gateways.extend(ip.gateway.clone());
        }
    }
    Ok(())
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
mod tests {
    use super::*;
    use crate::error;
    use serde_json::{Value, json};

    #[expect(
        clippy::needless_pass_by_value,
        reason = "callers write json! in place"
    )]
    fn config(extra: Value) -> Config {
        let mut value = json!({"cniVersion": "1.1.0", "name": "pods", "type": "netd-cni"});
        value
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        Config::parse(value.to_string().as_bytes()).unwrap()
    }

    fn env(args: &str) -> Env {
        Env {
            command: Some("ADD".to_owned()),
            container: "c1".to_owned(),
            netns: "/run/netns/c1".to_owned(),
            ifname: "eth0".to_owned(),
            args: args.to_owned(),
            ..Env::default()
        }
    }

    fn define(extra: Value) -> Result<Option<NetworkCreate>, CniError> {
        target(&config(extra), None, None).map(|target| target.define)
    }

    #[test]
    fn a_named_network_is_only_joined_and_everything_else_defines_one() {
        let joined = target(&config(json!({"network": "web"})), None, None).unwrap();
        assert_eq!(joined.network, "web");
        assert!(joined.define.is_none());
        let made = target(&config(json!({"subnet": "10.1.0.0/16"})), None, None).unwrap();
        assert_eq!(made.network, "pods");
        assert_eq!(made.define.unwrap().subnets, ["10.1.0.0/16"]);
        let both = target(&config(json!({"network": "web", "mtu": 1400})), None, None).unwrap();
        assert_eq!(both.define.unwrap().name, "web");
        assert!(define(json!({})).unwrap().unwrap().subnets.is_empty());
    }

    #[test]
    fn masquerading_and_gateways_become_modes() {
        let mode = |extra| {
            let define = define(extra).unwrap().unwrap();
            (define.mode, define.internal)
        };
        assert_eq!(mode(json!({"ipMasq": true})), (None, false));
        assert_eq!(
            mode(json!({"ipMasq": false})),
            (Some("routed".to_owned()), false)
        );
        assert_eq!(
            mode(json!({"isGateway": false})),
            (Some("isolated".to_owned()), false)
        );
        assert_eq!(mode(json!({"mode": "internal"})), (None, true));
        let error = define(json!({"ipMasq": true, "mode": "routed"})).unwrap_err();
        assert_eq!(error.code, error::CONFIG);
    }

    #[test]
    fn ranges_of_host_local_are_pools_where_they_are_prefixes() {
        let of = |start: &str, end: &str| {
            define(
                json!({"ranges": [[{"subnet": "10.1.0.0/24", "rangeStart": start, "rangeEnd": end,
                "gateway": "10.1.0.254"}], [{"subnet": "fd00:1::/64"}]]}),
            )
        };
        let made = of("10.1.0.64", "10.1.0.127").unwrap().unwrap();
        assert_eq!(made.subnets, ["10.1.0.0/24", "fd00:1::/64"]);
        assert_eq!(made.ip_ranges, ["10.1.0.64/26"]);
        assert_eq!(made.gateways, ["10.1.0.254"]);
        let error = of("10.1.0.10", "10.1.0.99").unwrap_err();
        assert_eq!(error.code, error::UNSUPPORTED);
        assert!(error.msg.contains("10.1.0.10"), "{error:?}");
        let one_list =
            define(json!({"ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "10.2.0.0/24"}]]}));
        let made = one_list.unwrap().unwrap();
        assert_eq!(made.subnets, ["10.1.0.0/24", "10.2.0.0/24"]);
        for (ranges, code) in [
            (
                json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]),
                error::UNSUPPORTED,
            ),
            (
                json!([[{"subnet": "10.1.0.0/24"}, {"subnet": "fd00::/64"}]]),
                error::CONFIG,
            ),
            (json!([[]]), error::CONFIG),
        ] {
            let refused = define(json!({ "ranges": ranges })).unwrap_err();
            assert_eq!(refused.code, code, "{refused:?}");
        }
        let runtime = define(
            json!({"runtimeConfig": {"ipRanges": [[{"subnet": "10.9.0.0/24"}]]},
            "ipam": {"type": "netd", "subnet": "10.1.0.0/24"}}),
        );
        assert_eq!(runtime.unwrap().unwrap().subnets, ["10.9.0.0/24"]);
    }

    #[test]
    fn blocks_are_found_at_every_size() {
        let of = |first: &str, last: &str| block(first.parse().unwrap(), last.parse().unwrap());
        assert_eq!(of("10.0.0.0", "10.0.0.255").as_deref(), Some("10.0.0.0/24"));
        assert_eq!(of("10.0.0.7", "10.0.0.7").as_deref(), Some("10.0.0.7/32"));
        assert_eq!(
            of("0.0.0.0", "255.255.255.255").as_deref(),
            Some("0.0.0.0/0")
        );
        assert_eq!(
            of("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff").as_deref(),
            Some("::/0")
        );
        for (first, last) in [
            ("10.0.0.1", "10.0.0.2"),
            ("10.0.0.9", "10.0.0.1"),
            ("10.0.0.0", "::1"),
            ("10.0.0.0", "10.0.0.2"),
        ] {
            assert_eq!(of(first, last), None, "{first} {last}");
        }
    }

    #[test]
    fn requested_addresses_have_an_order() {
        let all = json!({"runtimeConfig": {"ips": ["10.0.0.3/24"], "mac": "02:00:00:00:00:03"},
            "args": {"cni": {"ips": ["10.0.0.2"], "mac": "02:00:00:00:00:02"}}});
        let words = "IP=10.0.0.1;MAC=02:00:00:00:00:01";
        let of = |extra: Value| {
            let add = add(&config(extra), &env(words), None, None).unwrap();
            (add.ips[0].to_string(), add.mac.unwrap())
        };
        assert_eq!(
            of(all.clone()),
            ("10.0.0.3".to_owned(), "02:00:00:00:00:03".to_owned())
        );
        let args = json!({"args": all["args"]});
        assert_eq!(
            of(args),
            ("10.0.0.2".to_owned(), "02:00:00:00:00:02".to_owned())
        );
        assert_eq!(
            of(json!({})),
            ("10.0.0.1".to_owned(), "02:00:00:00:00:01".to_owned())
        );
    }

    #[test]
    fn port_mappings_are_published_and_impossible_ones_named() {
        let of = |mapping: Value| {
            add(
                &config(json!({"runtimeConfig": {"portMappings": [mapping]}})),
                &env(""),
                None,
                None,
            )
            .map(|add| add.publish)
        };
        let mapping = json!({"hostPort": 8080, "containerPort": 80, "protocol": "UDP", "hostIP": "127.0.0.1"});
        assert_eq!(of(mapping).unwrap(), ["127.0.0.1:8080:80/udp"]);
        assert_eq!(
            of(json!({"hostPort": 80, "containerPort": 80})).unwrap(),
            ["80:80/tcp"]
        );
        assert_eq!(
            of(json!({"hostPort": 80, "containerPort": 80, "hostIP": "::1"})).unwrap(),
            ["[::1]:80:80/tcp"]
        );
        // As containerd writes it: Go reads keys in any case.
        let in_go =
            json!({"HostPort": 80, "ContainerPort": 81, "Protocol": "tcp", "HostIP": "10.0.0.1"});
        assert_eq!(of(in_go).unwrap(), ["10.0.0.1:80:81/tcp"]);
        for bad in [
            json!({"hostPort": 80, "containerPort": 0}),
            json!({"hostPort": 70000, "containerPort": 1}),
            json!({"hostPort": 0, "containerPort": 80}),
        ] {
            assert_eq!(of(bad).unwrap_err().code, error::CONFIG);
        }
    }

    #[test]
    fn a_foreign_ipam_says_what_the_network_is() {
        let leased = CniResult::read(&json!({"cniVersion": "1.0.0", "ips": [{"address": "10.22.0.5/16", "gateway": "10.22.0.1"}],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.0.0.0/8", "gw": "10.22.0.9"}]})).unwrap();
        let config = config(json!({"ipam": {"type": "host-local", "subnet": "10.22.0.0/16"}}));
        let add = add(&config, &env(""), None, Some(&leased)).unwrap();
        let define = add.define.unwrap();
        assert_eq!(
            (define.subnets, define.gateways),
            (
                vec!["10.22.0.0/16".to_owned()],
                vec!["10.22.0.1".to_owned()]
            )
        );
        assert_eq!(add.ips[0].to_string(), "10.22.0.5");
        assert_eq!(add.routes.len(), 1);
        assert_eq!(add.routes[0].dst.to_string(), "10.0.0.0/8");
    }

    #[test]
    fn prefixes_are_read_from_the_files_that_node_agents_write() {
        let flannel = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
        assert_eq!(prefixes(flannel), ["10.244.1.0/24"]);
        assert_eq!(
            prefixes("# pods\n10.1.0.0/24, fd00::/64\n"),
            ["10.1.0.0/24", "fd00::/64"]
        );
        assert!(prefixes("nothing here").is_empty());
    }
}
