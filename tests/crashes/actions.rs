//! Random requests, and what each of them changes.

use std::collections::BTreeSet;

use netd_tests::lab::Netns;

use crate::State;

/// A request.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Attach {
        name: String,
        networks: Vec<&'static str>,
        port: Option<usize>,
    },
    Detach(String),
    Connect(String),
    Disconnect(String),
    Create(String),
    Remove(String),
    Purge,
}

/// The network that containers join and leave.
const SECOND: &str = "two";

/// Numbers that are the same in each run with the same seed (Knuth's constants, the upper half).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: usize) -> Self {
        Self(seed as u64)
    }

    /// A number from 0, less than the limit.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

impl Action {
    /// A few requests that can all be granted.
    pub(crate) fn choose(state: &State, containers: &[Netns], random: &mut Random) -> Vec<Self> {
        if random.one_in(12) {
            return vec![Self::Purge];
        }
        let mut actions: Vec<Self> = containers
            .iter()
            .enumerate()
            .map(|(n, netns)| Self::of_container(state, n, netns.name(), random))
            .collect();
        for name in ["n0", "n1"] {
            let name = name.to_owned();
            actions.push(if state.networks.contains(&name) {
                Self::Remove(name)
            } else {
                Self::Create(name)
            });
        }
        let count = 1 + random.below(4);
        while actions.len() > count {
            actions.remove(random.below(actions.len()));
        }
        actions
    }

    fn of_container(state: &State, n: usize, name: &str, random: &mut Random) -> Self {
        let name = name.to_owned();
        let Some(on) = state.containers.get(&name) else {
            let choices: [&[&'static str]; 3] = [&["web"], &["bridge"], &["web", SECOND]];
            return Self::Attach {
                name,
                networks: choices[random.below(3)].to_vec(),
                port: (!random.one_in(3)).then_some(8000 + n),
            };
        };
        match (random.below(2), on.contains(SECOND)) {
            (0, _) => Self::Detach(name),
            (_, true) => Self::Disconnect(name),
            (_, false) => Self::Connect(name),
        }
    }

    /// Method, path and body.
    pub(crate) fn request(&self, containers: &[Netns]) -> (&'static str, String, String) {
        let none = String::new;
        match self {
            Self::Attach {
                name,
                networks,
                port,
            } => {
                let netns = containers.iter().find(|netns| netns.name() == name);
                let path = netns.unwrap().path().display().to_string();
                let networks: Vec<_> = networks
                    .iter()
                    .map(|network| serde_json::json!({ "network": network }))
                    .collect();
                let publish = port.iter().map(|port| format!("{port}:80"));
                let body = serde_json::json!({
                    "netns": path, "name": name, "networks": networks, "publish": publish.collect::<Vec<_>>(),
                });
                ("POST", "/v1/containers".to_owned(), body.to_string())
            }
            Self::Detach(name) => ("DELETE", format!("/v1/containers/{name}"), none()),
            Self::Connect(name) => {
                let body = serde_json::json!({ "network": SECOND }).to_string();
                ("POST", format!("/v1/containers/{name}/endpoints"), body)
            }
            Self::Disconnect(name) => {
                let target = format!("/v1/containers/{name}/endpoints/{SECOND}");
                ("DELETE", target, none())
            }
            Self::Create(name) => {
                let body = serde_json::json!({ "name": name, "ipv6": true }).to_string();
                ("POST", "/v1/networks".to_owned(), body)
            }
            Self::Remove(name) => ("DELETE", format!("/v1/networks/{name}"), none()),
            Self::Purge => ("POST", "/v1/purge?force=true".to_owned(), none()),
        }
    }

    /// What it changes.
    pub(crate) fn apply(&self, state: &mut State) {
        match self {
            Self::Attach { name, networks, .. } => {
                let on = networks.iter().map(ToString::to_string).collect();
                state.containers.insert(name.clone(), on);
            }
            Self::Detach(name) => {
                state.containers.remove(name);
            }
            Self::Connect(name) => {
                let on = state.containers.get_mut(name).unwrap();
                on.insert(SECOND.to_owned());
            }
            Self::Disconnect(name) => {
                state.containers.get_mut(name).unwrap().remove(SECOND);
            }
            Self::Create(name) => {
                state.networks.insert(name.clone());
            }
            Self::Remove(name) => {
                state.networks.remove(name);
            }
            Self::Purge => *state = State::default(),
        }
    }

    /// Whether a state is as this request makes it.
    pub(crate) fn is_done(&self, state: &State) -> bool {
        let mut after = state.clone();
        match self {
            Self::Connect(name) | Self::Disconnect(name)
                if !state.containers.contains_key(name) =>
            {
                return false;
            }
            _ => self.apply(&mut after),
        }
        after == *state
    }

    /// Whether what it is about is as it was before.
    pub(crate) fn is_not_done(&self, before: &State, after: &State) -> bool {
        let of = |state: &State, name: &String| -> Option<BTreeSet<String>> {
            state.containers.get(name).cloned()
        };
        match self {
            Self::Attach { name, .. }
            | Self::Detach(name)
            | Self::Connect(name)
            | Self::Disconnect(name) => of(before, name) == of(after, name),
            Self::Create(name) | Self::Remove(name) => {
                before.networks.contains(name) == after.networks.contains(name)
            }
            Self::Purge => before == after,
        }
    }
}
