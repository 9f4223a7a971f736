//! Which container has which host port, and which one comes next where netd chooses.

use std::collections::HashMap;
use std::net::IpAddr;

use netd_model::ContainerId;
use netd_model::error::{Code, Error, Result};
use netd_model::net::{Family, Proto};
use netd_model::observed::HostFacts;
use netd_model::record::Port;
use netd_model::request::Publish;

/// Where netd chooses if the kernel does not tell its own range (IANA's dynamic ports).
const DYNAMIC: (u16, u16) = (49_152, 65_535);

type Number = (Proto, u16);

/// The published ports of this host. Looking one up does not depend on how many there are.
#[derive(Debug, Default)]
pub(super) struct HostPorts {
    held: HashMap<Number, Vec<(ContainerId, Port)>>,
    /// The last port that netd chose from the kernel's range: the next one comes behind it, so that a port which was
    /// given back rests for a while.
    last: u16,
}

impl HostPorts {
    pub(super) fn last(&self) -> u16 {
        self.last
    }

    pub(super) fn set_last(&mut self, last: u16) {
        self.last = last;
    }

    pub(super) fn enter(&mut self, id: &ContainerId, ports: &[Port]) {
        for port in ports {
            let entry = self.held.entry((port.proto, port.host_port)).or_default();
            entry.push((id.clone(), port.clone()));
        }
    }

    pub(super) fn leave(&mut self, id: &ContainerId, ports: &[Port]) {
        for port in ports {
            let number = (port.proto, port.host_port);
            if let Some(list) = self.held.get_mut(&number) {
                list.retain(|(holder, _)| holder != id);
                if list.is_empty() {
                    self.held.remove(&number);
                }
            }
        }
    }

    /// Who stands in the way of a port.
    pub(super) fn holder(&self, port: &Port) -> Option<(&ContainerId, &Port)> {
        let holders = self.held.get(&(port.proto, port.host_port))?;
        let found = holders.iter().find(|(_, held)| held.conflicts(port))?;
        Some((&found.0, &found.1))
    }

    /// Addresses of a family on which a port belongs to a publish of its own.
    pub(super) fn exact(&self, proto: Proto, family: Family, port: u16) -> Vec<IpAddr> {
        let holders = self.held.get(&(proto, port)).into_iter().flatten();
        let ips = holders.filter_map(|(_, port)| port.host_ip);
        ips.filter(|ip| Family::of(*ip) == family && !ip.is_unspecified())
            .collect()
    }

    /// Gives each port that was asked for its host port. Those that name one are free, which was checked before.
    /// `avoid` are ports that another program turned out to hold.
    ///
    /// One container port on several addresses gets one and the same host port on them, as far as that is left to netd.
    pub(super) fn choose(
        &mut self,
        asked: &[Publish],
        avoid: &[Number],
        facts: &HostFacts,
    ) -> Result<Vec<Port>> {
        let mut own: HashMap<Number, Vec<Port>> = HashMap::new();
        for port in asked.iter().filter_map(Publish::exact) {
            let entry = own.entry((port.proto, port.host_port)).or_default();
            entry.push(port);
        }
        let mut chosen = Vec::with_capacity(asked.len());
        let mut before: HashMap<(Proto, u16, u16, Option<u16>), u16> = HashMap::new();
        for publish in asked {
            if let Some(port) = publish.exact() {
                chosen.push(port);
                continue;
            }
            let choice = (
                publish.proto,
                publish.container_port,
                publish.host_port,
                publish.host_end,
            );
            let again = before.get(&choice).copied();
            let number = again
                .filter(|number| self.is_free(&publish.on(*number), &own))
                .or_else(|| self.next(publish, avoid, &own, facts))
                .ok_or_else(|| all_taken(publish))?;
            before.insert(choice, number);
            let port = publish.on(number);
            let entry = own.entry((port.proto, number)).or_default();
            entry.push(port.clone());
            chosen.push(port);
        }
        Ok(chosen)
    }

    fn is_free(&self, port: &Port, own: &HashMap<Number, Vec<Port>>) -> bool {
        let number = (port.proto, port.host_port);
        self.holder(port).is_none()
            && own
                .get(&number)
                .is_none_or(|ports| ports.iter().all(|other| !other.conflicts(port)))
    }

    /// The next host port that nobody has on any address: the first of the range that was asked for, or the one behind
    /// the last one chosen.
    fn next(
        &mut self,
        publish: &Publish,
        avoid: &[Number],
        own: &HashMap<Number, Vec<Port>>,
        facts: &HostFacts,
    ) -> Option<u16> {
        let is_free = |ports: &Self, number: u16| {
            let key = (publish.proto, number);
            !ports.held.contains_key(&key) && !own.contains_key(&key) && !avoid.contains(&key)
        };
        if let Some(mut range) = publish.choice() {
            return range.find(|number| is_free(self, *number));
        }
        let (first, last) = facts.local_ports.unwrap_or(DYNAMIC);
        let reserved = |number: &u16| {
            let ranges = facts.reserved_ports.iter();
            ranges.clone().any(|(a, b)| (*a..=*b).contains(number))
        };
        let behind = self
            .last
            .checked_add(1)
            .filter(|n| (first..=last).contains(n));
        let start = behind.unwrap_or(first);
        let found = (start..=last)
            .chain(first..start)
            .filter(|number| !reserved(number))
            .find(|number| is_free(self, *number));
        self.last = found.unwrap_or(self.last);
        found
    }
}

fn all_taken(publish: &Publish) -> Error {
    let (from, remedy) = match publish.choice() {
        Some(range) => (
            format!("of {}-{}", range.start(), range.end()),
            "give a larger range",
        ),
        None => (
            "of net.ipv4.ip_local_port_range".to_owned(),
            "name a host port outside of it",
        ),
    };
    Error::new(
        Code::PortInUse,
        format!(
            "publish {publish}: no {} port {from} is free: {remedy}",
            publish.proto
        ),
    )
}

#[cfg(test)]
mod tests {
    use netd_model::request::parse_publish;

    use super::*;

    fn facts() -> HostFacts {
        HostFacts {
            local_ports: Some((40_000, 40_004)),
            reserved_ports: vec![(40_001, 40_002)],
            ..HostFacts::default()
        }
    }

    fn asked(texts: &[&str]) -> Vec<Publish> {
        let parsed = texts.iter().map(|text| parse_publish(text).unwrap());
        parsed.flatten().collect()
    }

    fn id(n: u8) -> ContainerId {
        ContainerId::from_bytes([n; 32])
    }

    fn texts(ports: &[Port]) -> Vec<String> {
        ports.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn automatic_ports_go_round_and_leave_the_reserved_ones_out() {
        let mut ports = HostPorts::default();
        let mut seen = Vec::new();
        for n in 0..3 {
            let chosen = ports.choose(&asked(&["80"]), &[], &facts()).unwrap();
            ports.enter(&id(n), &chosen);
            seen.push(chosen[0].host_port);
        }
        assert_eq!(seen, [40_000, 40_003, 40_004]);
        let error = ports.choose(&asked(&["80"]), &[], &facts()).unwrap_err();
        assert_eq!(error.code, Code::PortInUse);
        assert!(error.message.contains("ip_local_port_range"), "{error}");
        // UDP has numbers of its own.
        let udp = ports.choose(&asked(&["80/udp"]), &[], &facts()).unwrap();
        assert_eq!(texts(&udp), ["40000:80/udp"]);

        let given_back = asked(&["40003:80"])[0].exact().unwrap();
        ports.leave(&id(1), &[given_back]);
        let again = ports.choose(&asked(&["80"]), &[], &facts()).unwrap();
        assert_eq!(texts(&again), ["40003:80/tcp"]);
    }

    #[test]
    fn a_port_that_was_given_back_rests() {
        let mut ports = HostPorts::default();
        let first = ports.choose(&asked(&["80"]), &[], &facts()).unwrap();
        ports.enter(&id(1), &first);
        ports.leave(&id(1), &first);
        let second = ports.choose(&asked(&["80"]), &[], &facts()).unwrap();
        assert_ne!(first, second);
    }

    #[test]
    fn one_container_port_gets_one_number_on_all_its_addresses() {
        let mut ports = HostPorts::default();
        let wanted = asked(&["127.0.0.1::80", "[::1]::80", "127.0.0.1::81"]);
        let chosen = ports.choose(&wanted, &[], &facts()).unwrap();
        assert_eq!(
            texts(&chosen),
            [
                "127.0.0.1:40000:80/tcp",
                "[::1]:40000:80/tcp",
                "127.0.0.1:40003:81/tcp"
            ]
        );
        // The same twice cannot be one number.
        let twice = ports
            .choose(&asked(&["80/udp", "80/udp"]), &[], &facts())
            .unwrap();
        assert_ne!(twice[0].host_port, twice[1].host_port);
    }

    #[test]
    fn a_range_gives_its_first_free_port() {
        let mut ports = HostPorts::default();
        ports.enter(&id(1), &[asked(&["127.0.0.1:8000:1"])[0].exact().unwrap()]);
        let wanted = asked(&["8000-8003:80", "8001:81"]);
        let chosen = ports.choose(&wanted, &[], &facts()).unwrap();
        assert_eq!(texts(&chosen), ["8002:80/tcp", "8001:81/tcp"]);
        let chosen = ports
            .choose(&wanted, &[(Proto::Tcp, 8002)], &facts())
            .unwrap();
        assert_eq!(texts(&chosen), ["8003:80/tcp", "8001:81/tcp"]);
        let error = ports
            .choose(&wanted, &[(Proto::Tcp, 8002), (Proto::Tcp, 8003)], &facts())
            .unwrap_err();
        assert!(error.message.contains("8000-8003"), "{error}");
    }
}
