//! What about this host hinders containers, each finding with its remedy.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::net::Family;
use crate::observed::HostFacts;
use crate::record::{Driver, Mode, Network};

/// Something that hinders, or may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What kind of thing: `forward_policy`, `bridge_netfilter`, `forwarding`, `rp_filter`, `kernel`, `mtu`, `route`, `snat`,
    /// `trusted` or `crowded`.
    pub kind: String,
    /// What is found, and what comes of it.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

fn finding(kind: &str, message: String, remedy: String) -> Finding {
    Finding {
        kind: kind.to_owned(),
        message,
        remedy,
    }
}

/// Looks at a host with these networks.
pub fn examine(facts: &HostFacts, networks: &[&Network]) -> Vec<Finding> {
    let mut findings = forward_policies(facts, networks);
    findings.extend(bridge_netfilter(facts, networks));
    findings.extend(forwarding(facts, networks));
    findings.extend(reverse_path(facts));
    findings.extend(kernel(facts, networks));
    for network in networks {
        findings.extend(mtu(facts, network));
        findings.extend(routes(facts, network));
        findings.extend(named_by_options(facts, network));
    }
    findings
}

/// Containers on one bridge from which on broadcasts get lost: the kernel copies each to every port, and queues 1,000
/// packets for a processor (`net.core.netdev_max_backlog`).
const CROWD: usize = 900;

/// Whether broadcasts on a network with so many containers still reach all of them.
pub fn crowded(network: &Network, containers: usize) -> Option<Finding> {
    if containers < CROWD || network.policy.l3 || network.driver == Driver::Ipam {
        return None;
    }
    Some(finding(
        "crowded",
        format!(
            "network {} has {containers} containers on one bridge, which takes 1023: the copies of a broadcast, such as an ARP request for \
             the gateway, fill a processor's queue, and its answer is dropped",
            network.name
        ),
        "use several networks, or --opt l3=on; `sysctl -w net.core.netdev_max_backlog=4096` holds back the loss".to_owned(),
    ))
}

/// Foreign chains that drop what netd forwards; nothing in our own table can undo that.
pub fn forward_policies(facts: &HostFacts, networks: &[&Network]) -> Vec<Finding> {
    let of_chain = |chain: &String| {
        let remedy = if chain.starts_with("inet firewalld ") {
            firewalld_remedy(networks)
        } else {
            let command = |rule: &String| format!("`nft insert rule {chain} {rule}`");
            let commands: Vec<String> = forward_rules(networks).iter().map(command).collect();
            format!("let it accept them with {}", commands.join(" and "))
        };
        finding(
            "forward_policy",
            format!(
                "chain {chain} drops forwarded packets that it does not accept, and with them the traffic of containers"
            ),
            remedy,
        )
    };
    facts.forward_drop.iter().map(of_chain).collect()
}

/// firewalld makes its whole table anew at each reload, so a rule in it would not last.
fn firewalld_remedy(networks: &[&Network]) -> String {
    let patterns: BTreeSet<&str> = networks.iter().map(|net| bridges(net, "nd-+")).collect();
    let options: Vec<String> = patterns
        .into_iter()
        .map(|pattern| format!("--add-interface={pattern}"))
        .collect();
    format!(
        "let firewalld trust netd's bridges with `firewall-cmd --permanent --zone=trusted {}` and `firewall-cmd --reload`",
        options.join(" ")
    )
}

/// How a rule names the bridge of a network: by the pattern of all that netd names, if it is one of those.
fn bridges<'a>(network: &'a Network, pattern: &'a str) -> &'a str {
    let bridge = network.interface.as_str();
    if bridge.starts_with("nd-") {
        pattern
    } else {
        bridge
    }
}

/// The rules that another program's forward chain needs, if its policy is drop, to let the networks' traffic pass. netd's
/// own chain still judges what they accept: a packet has to pass both.
fn forward_rules(networks: &[&Network]) -> Vec<String> {
    let mut rules = Vec::new();
    let mut direct = Vec::new();
    for network in networks {
        let pattern = bridges(network, "nd-*");
        for rule in [
            format!("iifname \"{pattern}\" accept"),
            format!("oifname \"{pattern}\" ct state established,related accept"),
            format!("oifname \"{pattern}\" ct status dnat accept"),
        ] {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        let routed = |family| network.mode_of(family) == Mode::Routed && network.is_open(family);
        // What goes to a container's own address is neither translated nor, at first, of a known flow.
        let policy = &network.policy;
        let peers = !policy.trusted.is_empty() || !policy.non_masquerade.is_empty();
        if FAMILIES.into_iter().any(routed) || peers {
            direct.push(format!("oifname \"{}\" accept", network.interface));
        }
    }
    rules.append(&mut direct);
    rules
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

const fn call_setting(family: Family) -> &'static str {
    match family {
        Family::V4 => "net.bridge.bridge-nf-call-iptables",
        Family::V6 => "net.bridge.bridge-nf-call-ip6tables",
    }
}

fn bridge_netfilter(facts: &HostFacts, networks: &[&Network]) -> Option<Finding> {
    let on: Vec<&str> = facts
        .bridge_netfilter
        .iter()
        .map(|f| call_setting(*f))
        .collect();
    if on.is_empty() {
        return None;
    }
    let apart = networks.iter().find(|network| !network.policy.icc);
    let mixed = apart.filter(|_| on.len() < FAMILIES.len());
    let more = mixed.map_or_else(String::new, |network| {
        format!(
            "; on network {} (icc=false) ports that its own containers publish do not answer them, since it is on for one family only",
            network.name
        )
    });
    Some(finding(
        "bridge_netfilter",
        format!(
            "{} is 1: frames between containers of one network also pass the forward rules of other programs, and each costs more{more}",
            on.join(" and ")
        ),
        format!(
            "unless kube-proxy or another program needs it: {}",
            on.iter()
                .map(|path| format!("`sysctl -w {path}=0`"))
                .collect::<Vec<_>>()
                .join(" and ")
        ),
    ))
}

fn forwarding(facts: &HostFacts, networks: &[&Network]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (family, on, path) in [
        (Family::V4, facts.forwarding4, "net.ipv4.ip_forward"),
        (
            Family::V6,
            facts.forwarding6,
            "net.ipv6.conf.all.forwarding",
        ),
    ] {
        let needs = |network: &&&Network| network.is_open(family) && !network.is_predefined();
        if let Some(network) = networks.iter().find(needs).filter(|_| !on) {
            findings.push(finding(
                "forwarding",
                format!("{path} is 0: containers of network {} reach nobody outside", network.name),
                format!("`sysctl -w {path}=1`, and look for what sets it back, in /etc/sysctl.d or another program"),
            ));
        }
    }
    findings
}

/// Strict filtering is harmless with one way out.
fn reverse_path(facts: &HostFacts) -> Option<Finding> {
    let mut ways: Vec<&str> = facts
        .ways
        .iter()
        .filter(|way| way.to.is_empty() && way.to.family() == Family::V4)
        .map(|way| way.dev.as_str())
        .collect();
    ways.dedup();
    (facts.strict_rp_filter && ways.len() > 1).then(|| {
        finding(
            "rp_filter",
            format!(
                "net.ipv4.conf.all.rp_filter is 1 and there are default routes by {}: what comes in by another than the \
                 best is dropped, connections to published ports among it",
                ways.join(" and ")
            ),
            "`sysctl -w net.ipv4.conf.all.rp_filter=2`".to_owned(),
        )
    })
}

fn kernel(facts: &HostFacts, networks: &[&Network]) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !facts.bridge_tables {
        findings.push(finding(
            "kernel",
            "the kernel has no nftables for bridges: containers can send from their neighbours' addresses".to_owned(),
            "use a kernel with CONFIG_NF_TABLES_BRIDGE, or load the module nf_tables_bridge".to_owned(),
        ));
    }
    let with_v6 = networks.iter().find(|network| network.has(Family::V6));
    if let Some(network) = with_v6.filter(|_| !facts.ipv6) {
        findings.push(finding(
            "kernel",
            format!(
                "IPv6 is switched off on this host: network {} has IPv4 alone",
                network.name
            ),
            "boot without ipv6.disable=1, and set net.ipv6.conf.default.disable_ipv6 to 0"
                .to_owned(),
        ));
    }
    findings
}

fn mtu(facts: &HostFacts, network: &Network) -> Option<Finding> {
    let uplink = facts.uplink_mtu.filter(|uplink| network.mtu > *uplink)?;
    let leaves = FAMILIES.into_iter().any(|family| network.is_open(family));
    leaves.then(|| {
        finding(
            "mtu",
            format!(
                "network {} has mtu {}, but the way out only {uplink}: large packets hang where somebody drops the ICMP \
                 messages that tell so",
                network.name, network.mtu
            ),
            format!("create it with `--mtu {uplink}`"),
        )
    })
}

/// A route of the host into the network's own addresses leads away from its containers.
fn routes(facts: &HostFacts, network: &Network) -> Vec<Finding> {
    let taken = facts.ways.iter().filter(|way| {
        let inside = |subnet: &crate::record::Subnet| subnet.subnet.covers(way.to);
        way.dev != network.interface && network.subnets.iter().any(inside)
    });
    taken
        .map(|way| {
            finding(
                "route",
                format!(
                    "the host's route to {} by {} is inside network {}: containers there are not reached",
                    way.to, way.dev, network.name
                ),
                format!(
                    "remove the route, or create the network with another `--subnet`: `ip route show {}`",
                    way.to
                ),
            )
        })
        .collect()
}

fn named_by_options(facts: &HostFacts, network: &Network) -> Vec<Finding> {
    let mut findings = Vec::new();
    for ip in &network.policy.snat {
        if !facts.addresses.contains(ip) {
            findings.push(finding(
                "snat",
                format!(
                    "network {} leaves as {ip}, which this host does not have: answers do not come back",
                    network.name
                ),
                format!("`ip address add {ip} dev INTERFACE`, or route {ip} to this host"),
            ));
        }
    }
    for name in &network.policy.trusted {
        if !facts.links.contains(name) {
            findings.push(finding(
                "trusted",
                format!("network {} trusts {name}, and there is no such interface", network.name),
                "start what makes the interface, or create the network with another `--opt trusted=`".to_owned(),
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::tests::network;
    use crate::net::IfName;
    use crate::observed::Way;
    use crate::record::Policy;

    fn healthy() -> HostFacts {
        HostFacts {
            ipv6: true,
            bridge_tables: true,
            forwarding4: true,
            forwarding6: true,
            uplink_mtu: Some(1500),
            ..HostFacts::default()
        }
    }

    fn name(text: &str) -> IfName {
        IfName::parse(text).unwrap()
    }

    fn way(to: &str, dev: &str) -> Way {
        Way {
            to: to.parse().unwrap(),
            dev: name(dev),
            metric: 0,
        }
    }

    #[test]
    fn a_healthy_host_has_no_findings() {
        let net = network(1, true, false);
        let mut facts = healthy();
        facts.ways = vec![way("0.0.0.0/0", "eth0"), way("10.0.0.0/8", "vpn0")];
        facts.strict_rp_filter = true;
        assert_eq!(examine(&facts, &[&net]), []);
    }

    #[test]
    fn each_trouble_is_found_and_has_a_remedy() {
        let net = network(1, true, false);
        let policy = Policy {
            icc: false,
            snat: vec!["192.0.2.9".parse().unwrap()],
            trusted: vec![name("wg0")],
            ..Policy::default()
        };
        let named = Network {
            policy,
            mtu: 9000,
            ..network(2, true, false)
        };
        for (kind, word, change) in [
            (
                "forward_policy",
                "`nft insert rule ip filter FORWARD iifname \"nd-*\" accept`",
                (|facts| facts.forward_drop = vec!["ip filter FORWARD".to_owned()])
                    as fn(&mut HostFacts),
            ),
            (
                "forward_policy",
                "`firewall-cmd --permanent --zone=trusted --add-interface=nd-+`",
                |facts| facts.forward_drop = vec!["inet firewalld filter_FORWARD".to_owned()],
            ),
            (
                "bridge_netfilter",
                "sysctl -w net.bridge.bridge-nf-call-iptables=0",
                |facts| {
                    facts.bridge_netfilter = [Family::V4].into();
                },
            ),
            ("forwarding", "sysctl -w net.ipv4.ip_forward=1", |facts| {
                facts.forwarding4 = false;
            }),
            ("forwarding", "conf.all.forwarding=1", |facts| {
                facts.forwarding6 = false;
            }),
            ("rp_filter", "rp_filter=2", |facts| {
                facts.strict_rp_filter = true;
                facts.ways = vec![way("0.0.0.0/0", "eth0"), way("0.0.0.0/0", "eth1")];
            }),
            ("kernel", "CONFIG_NF_TABLES_BRIDGE", |facts| {
                facts.bridge_tables = false;
            }),
            ("kernel", "ipv6.disable=1", |facts| facts.ipv6 = false),
            ("mtu", "--mtu 1400", |facts| facts.uplink_mtu = Some(1400)),
            ("route", "ip route show 10.1.7.0/24", |facts| {
                facts.ways = vec![way("10.1.7.0/24", "vpn0")];
            }),
        ] {
            let mut facts = healthy();
            change(&mut facts);
            let findings = examine(&facts, &[&net]);
            let found = findings
                .iter()
                .find(|f| f.kind == kind && f.remedy.contains(word));
            assert!(found.is_some(), "{kind}: {findings:#?}");
        }
        let kinds: Vec<String> = examine(&healthy(), &[&named])
            .into_iter()
            .map(|f| f.kind)
            .collect();
        assert_eq!(kinds, ["mtu", "snat", "trusted"]);
        assert_eq!(crowded(&net, CROWD - 1), None);
        let found = crowded(&net, CROWD).unwrap();
        assert!(found.message.contains("900 containers"), "{found:?}");
        let policy = Policy {
            l3: true,
            ..Policy::default()
        };
        assert_eq!(crowded(&Network { policy, ..net }, CROWD), None);
    }
}
