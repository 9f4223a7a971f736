//! Quiet points: nothing is under way, and everything has to be as the model says.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hickory_proto::rr::RecordType;
use serde_json::Value;

use crate::host::Host;
use crate::lab::{PATIENCE, Proto, Transport, wait_for};

use super::client::fact_of;
use super::expect::code;
use super::facts::{Key, Was};
use super::looks::check_listed;
use super::script::Dice;
use super::{CLIENTS, NETWORKS, PORTS, Shared, Slot, State, host_port, network_name};

/// Containers whose names and packets are tried at each quiet point.
const SAMPLES: usize = 4;

/// Compares everything.
pub(super) fn check(
    shared: &Shared,
    host: &Host,
    slots: &mut [Vec<Slot>],
    (seed, round): (u64, u64),
) {
    let mut dice = Dice::new(seed, round, CLIENTS + 1);
    settle(shared, slots, dice.below(4) == 0);
    repaired(shared);
    let (networks, containers) = (get(shared, "/v1/networks"), get(shared, "/v1/containers"));
    networks_are(shared, &networks);
    let slots: Vec<&Slot> = slots.iter().flatten().collect();
    containers_are(shared, &slots, &containers);
    addresses_are(shared, &networks, &containers);
    links_are(shared, host, &networks, &containers);
    let attached: Vec<&Slot> = slots
        .into_iter()
        .filter(|slot| matches!(slot.state, State::Attached { .. }))
        .collect();
    if attached.is_empty() {
        return;
    }
    for _ in 0..SAMPLES {
        let slot = attached[dice.below(attached.len())];
        let other = attached[dice.below(attached.len())];
        names_are(shared, slot, other, &containers);
        packets_reach(shared, host, slot, other, &containers);
    }
}

/// The end: everything is taken apart, and nothing is left.
pub(super) fn end(shared: &Shared, host: &Host) {
    // The namespaces are gone: the daemon may be quicker than we are.
    for container in get(shared, "/v1/containers")
        .as_array()
        .into_iter()
        .flatten()
    {
        let target = format!(
            "/v1/containers/{}",
            container["id"].as_str().unwrap_or_default()
        );
        let _ = shared.request("DELETE", &target, "");
    }
    wait_for("all containers to be gone", PATIENCE, || {
        get(shared, "/v1/containers") == Value::Array(Vec::new())
    });
    host.done();
}

/// Containers whose namespace vanished go: by themselves, or because their runtime says so.
fn settle(shared: &Shared, slots: &mut [Vec<Slot>], by_itself: bool) {
    for slot in slots
        .iter_mut()
        .flatten()
        .filter(|slot| slot.state == State::Leaving)
    {
        let target = format!("/v1/containers/{}", slot.place.name());
        if by_itself {
            wait_for("a vanished container to be forgotten", PATIENCE, || {
                let answer = shared.request("GET", &target, "");
                answer.is_ok_and(|answer| answer.status == 404)
            });
        } else {
            let answer = shared.request("DELETE", &target, "");
            if !answer
                .as_ref()
                .is_ok_and(|a| a.status == 200 || code(a) == "container_not_found")
            {
                shared.violation(format!("a vanished container is not detached: {answer:?}"));
            }
        }
        slot.state = State::Absent;
    }
    for slot in slots.iter().flatten() {
        set_facts(shared, slot);
    }
}

fn set_facts(shared: &Shared, slot: &Slot) {
    let members = (0..NETWORKS).map(|network| Key::Member(slot.place, network));
    let ports = (0..PORTS).map(|port| Key::Port(slot.place, port));
    shared.facts(|facts| {
        for key in members.chain(ports) {
            facts.set(key, fact_of(&slot.state, key) == Was::Yes);
        }
    });
}

/// After an audit there is nothing left to do.
fn repaired(shared: &Shared) {
    let audit = shared.request("POST", "/v1/audit", "");
    if !audit.as_ref().is_ok_and(|answer| answer.status == 200) {
        shared.violation(format!("an audit at rest: {audit:?}"));
    }
    let plan = get(shared, "/v1/plan");
    if plan["text"] != Value::Array(Vec::new()) {
        shared.violation(format!("the plan after an audit: {:#}", plan["text"]));
    }
    shared.facts(|facts| {
        facts.set(Key::Tampered, false);
        facts.set(Key::Unsettled, false);
    });
}

fn get(shared: &Shared, target: &str) -> Value {
    match shared.request("GET", target, "") {
        Ok(answer) if answer.status == 200 => answer.body,
        other => {
            shared.violation(format!("{target} at rest: {other:?}"));
            Value::Null
        }
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn networks_are(shared: &Shared, networks: &Value) {
    for network in 1..NETWORKS {
        let name = network_name(network);
        let there = list(networks).any(|other| other["name"] == name.as_str());
        let known = shared.facts(|facts| facts.known(Key::Network(network)));
        if known.is_some_and(|known| known != there) {
            shared.violation(format!(
                "network {name} is there: {there}, by the model: {known:?}"
            ));
        }
        shared.facts(|facts| facts.set(Key::Network(network), there));
    }
}

fn containers_are(shared: &Shared, slots: &[&Slot], containers: &Value) {
    slots
        .iter()
        .for_each(|slot| check_listed(shared, slot, containers));
    let attached = slots
        .iter()
        .filter(|slot| slot.state != State::Absent)
        .count();
    if list(containers).count() != attached {
        shared.violation(format!(
            "{attached} containers by the model, and listed: {containers}"
        ));
    }
}

/// Addresses are inside the subnets of their network and nobody has one twice; nor a port.
fn addresses_are(shared: &Shared, networks: &Value, containers: &Value) {
    let mut seen = BTreeSet::new();
    for container in list(containers) {
        for endpoint in list(&container["endpoints"]) {
            let network = list(networks).find(|network| network["name"] == endpoint["network"]);
            let subnets: Vec<&str> = network
                .into_iter()
                .flat_map(|network| list(&network["subnets"]))
                .flat_map(|subnet| [subnet["subnet"].as_str(), subnet["gateway"].as_str()])
                .flatten()
                .collect();
            for address in ["ipv4", "ipv6"]
                .iter()
                .filter_map(|key| endpoint[*key].as_str())
            {
                let ip = ip_of(address);
                let inside = subnets
                    .iter()
                    .any(|subnet| subnet.contains('/') && contains(subnet, ip));
                let gateway = subnets
                    .iter()
                    .any(|text| !text.contains('/') && ip_of(text) == ip);
                let fresh = seen.insert((endpoint["network"].to_string(), ip.to_string()));
                if !inside || gateway || !fresh {
                    shared.violation(format!("address {address} of {container}: inside {inside}, gateway {gateway}, alone {fresh}"));
                }
            }
        }
        for port in list(&container["ports"]) {
            if !seen.insert(("port".to_owned(), port["host_port"].to_string())) {
                shared.violation(format!("port {port} is published twice"));
            }
        }
    }
}

fn ip_of(text: &str) -> IpAddr {
    let ip = text.split('/').next().unwrap_or_default();
    ip.parse().expect("an address")
}

fn contains(subnet: &str, ip: IpAddr) -> bool {
    let (base, length) = subnet.split_once('/').expect("a prefix");
    let length: u32 = length.parse().expect("a length");
    match (base.parse().expect("an address"), ip) {
        (IpAddr::V4(base), IpAddr::V4(ip)) => {
            (base.to_bits() ^ ip.to_bits())
                .checked_shr(32 - length)
                .unwrap_or(0)
                == 0
        }
        (IpAddr::V6(base), IpAddr::V6(ip)) => {
            (base.to_bits() ^ ip.to_bits())
                .checked_shr(128 - length)
                .unwrap_or(0)
                == 0
        }
        _ => false,
    }
}

/// The host has a bridge for each network and a link for each endpoint, and nothing else that is new.
fn links_are(shared: &Shared, host: &Host, networks: &Value, containers: &Value) {
    let endpoints = || list(containers).flat_map(|container| list(&container["endpoints"]));
    let is_up = |network: &&Value| {
        network["name"] != "bridge" || endpoints().any(|e| e["network"] == "bridge")
    };
    let bridges = list(networks)
        .filter(is_up)
        .filter_map(|network| network["interface"].as_str());
    let ends = endpoints().filter_map(|endpoint| endpoint["host_ifname"].as_str());
    let wanted: BTreeSet<String> = bridges.chain(ends).map(str::to_owned).collect();
    let found: BTreeSet<String> = host.new_links().into_iter().map(|link| link.name).collect();
    if wanted != found {
        let missing: Vec<_> = wanted.difference(&found).collect();
        let left: Vec<_> = found.difference(&wanted).collect();
        shared.violation(format!("links: missing {missing:?}, too many {left:?}"));
    }
}

/// A container's addresses on each of its networks, in the order in which it came to them.
fn addresses(containers: &Value, slot: &Slot) -> Vec<(String, Vec<IpAddr>)> {
    let name = slot.place.name();
    let found = list(containers).find(|container| container["name"] == name.as_str());
    let endpoints = found
        .into_iter()
        .flat_map(|container| list(&container["endpoints"]));
    endpoints
        .map(|endpoint| {
            let ips = ["ipv4", "ipv6"]
                .iter()
                .filter_map(|key| endpoint[*key].as_str());
            let network = endpoint["network"].as_str().unwrap_or_default().to_owned();
            (network, ips.map(ip_of).collect())
        })
        .collect()
}

/// A name and an alias resolve to the addresses on the first of the asker's networks that knows them, and else to nothing.
fn names_are(shared: &Shared, asker: &Slot, other: &Slot, containers: &Value) {
    let (own, all) = (addresses(containers, asker), addresses(containers, other));
    if own.is_empty() {
        // Without a network there is no way to a server either.
        return;
    }
    let common = own
        .iter()
        .find_map(|(network, _)| all.iter().find(|(other, _)| other == network));
    let expected = common.into_iter().flat_map(|(_, ips)| ips.iter().copied());
    let expected: BTreeSet<IpAddr> = expected.collect();
    let name = other.place.name();
    for name in [name.clone(), format!("{name}-alias")] {
        let mut found = BTreeSet::new();
        for record in [RecordType::A, RecordType::AAAA] {
            let server = ([127, 0, 0, 11], 53).into();
            match asker
                .netns
                .dns_query(server, &format!("{name}."), record, Transport::Udp)
            {
                Ok(reply) => found.extend(reply.ips()),
                Err(error) => {
                    shared.violation(format!("{} asks for {name}: {error}", asker.place.name()));
                }
            }
        }
        if found != expected {
            shared.violation(format!(
                "{} sees {name} at {found:?} instead of {expected:?}",
                asker.place.name()
            ));
        }
    }
}

/// Packets reach a container from its networks, and through its published ports.
fn packets_reach(shared: &Shared, host: &Host, from: &Slot, to: &Slot, containers: &Value) {
    let (own, all) = (addresses(containers, from), addresses(containers, to));
    let name = to.place.name();
    let _server = to.netns.serve(Proto::Tcp, &name, 80);
    let common = all
        .iter()
        .filter(|(network, _)| own.iter().any(|(other, _)| other == network));
    for ip in common.flat_map(|(_, ips)| ips) {
        let outcome = from.netns.tcp_probe((*ip, 80), PATIENCE);
        if outcome.name() != Some(&name) {
            shared.violation(format!(
                "{} reaches {name} at {ip}: {outcome:?}",
                from.place.name()
            ));
        }
    }
    if let State::Attached { now, .. } = &to.state {
        for port in &now.ports {
            let outcome = host
                .netns
                .tcp_probe(("127.0.0.1", host_port(*port)), PATIENCE);
            if outcome.name() != Some(&name) {
                shared.violation(format!("port {} of {name}: {outcome:?}", host_port(*port)));
            }
        }
    }
}
