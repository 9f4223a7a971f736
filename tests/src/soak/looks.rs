//! Requests that look, and requests that are refused whatever there is.

use serde_json::{Value, json};

use crate::host::Answer;

use super::client::{begin, present, wait_if_silent};
use super::expect::{End, Expect, about_network, exists};
use super::facts::{Key, Was};
use super::{NETWORKS, PORTS, Shape, Shared, Slot, State, host_port, network_name};

pub(super) fn inspect_network(shared: &Shared, network: usize) {
    let target = format!("/v1/networks/{}", network_name(network));
    let watch = shared.facts(|facts| facts.begin(about_network(network), Vec::new()));
    let answer = shared.request("GET", &target, "");
    let there = shared.facts(|facts| exists(facts, &watch, network));
    let expect = Expect {
        success: 200,
        refusals: vec![("network_not_found", there.not())],
    };
    let end = expect.judge(shared, &target, &watch, &answer);
    if end == End::Done {
        shared.facts(|facts| facts.learn(&watch, Key::Network(network), true));
    }
    wait_if_silent(shared, end);
}

/// What a container is like by the API.
pub(super) fn shape_of(body: &Value) -> Shape {
    let of = |key: &str| body[key].as_array().cloned().unwrap_or_default();
    let networks = of("endpoints").into_iter().filter_map(|endpoint| {
        (0..NETWORKS).find(|network| endpoint["network"] == network_name(*network))
    });
    let ports = of("ports")
        .into_iter()
        .filter_map(|port| (0..PORTS).find(|wanted| port["host_port"] == host_port(*wanted)));
    Shape {
        networks: networks.collect(),
        ports: ports.collect(),
    }
}

/// The answer to a change shows the change.
pub(super) fn check_shape(
    shared: &Shared,
    answer: &Result<Answer, String>,
    end: End,
    dry: bool,
    then: &State,
) {
    if let (End::Done, false, Ok(answer), State::Attached { now, .. }) = (end, dry, answer, then)
        && shape_of(&answer.body) != *now
    {
        shared.violation(format!("the answer {answer:?} is not {now:?}"));
    }
}

pub(super) fn inspect(shared: &Shared, slot: &Slot) {
    let target = format!("/v1/containers/{}", slot.place.name());
    let watch = begin(shared, slot, Vec::new(), true);
    let answer = shared.request("GET", &target, "");
    let expect = Expect {
        success: 200,
        refusals: vec![("container_not_found", present(slot).not())],
    };
    let end = expect.judge(shared, &target, &watch, &answer);
    check_shape(shared, &answer, end, false, &slot.state);
    wait_if_silent(shared, end);
}

pub(super) fn list(shared: &Shared, slots: &[Slot]) {
    let watch = shared.facts(|facts| facts.begin([Key::Down, Key::Tampered], Vec::new()));
    let answer = shared.request("GET", "/v1/containers", "");
    let expect = Expect {
        success: 200,
        refusals: Vec::new(),
    };
    let end = expect.judge(shared, "GET /v1/containers", &watch, &answer);
    if let (End::Done, Ok(answer)) = (end, &answer) {
        slots
            .iter()
            .for_each(|slot| check_listed(shared, slot, &answer.body));
    }
    wait_if_silent(shared, end);
}

/// A container is in the list as its client knows it.
pub(super) fn check_listed(shared: &Shared, slot: &Slot, list: &Value) {
    let name = slot.place.name();
    let mut all = list.as_array().into_iter().flatten();
    let found = all.find(|container| container["name"] == name.as_str());
    let right = match &slot.state {
        State::Absent => found.is_none(),
        State::Attached { now, .. } => found.is_some_and(|container| shape_of(container) == *now),
        State::Leaving => true,
    };
    if !right {
        shared.violation(format!(
            "{name} is {:?}, and the list says {found:?}",
            slot.state
        ));
    }
}

/// Under load too there is nothing to repair, but for what is being changed.
pub(super) fn plan(shared: &Shared) {
    let watch =
        shared.facts(|facts| facts.begin([Key::Down, Key::Tampered, Key::Unsettled], Vec::new()));
    let answer = shared.request("GET", "/v1/plan", "");
    let expect = Expect {
        success: 200,
        refusals: Vec::new(),
    };
    let end = expect.judge(shared, "GET /v1/plan", &watch, &answer);
    let settled = shared.facts(|facts| {
        let keys = [Key::Down, Key::Tampered, Key::Unsettled];
        keys.iter().all(|key| facts.was(&watch, *key) == Was::No)
    });
    if let (End::Done, true, Ok(answer)) = (end, settled, &answer)
        && answer.body["text"] != json!([])
    {
        shared.violation(format!("a plan without a reason: {}", answer.body["text"]));
    }
    wait_if_silent(shared, end);
}

/// Requests that are refused whatever there is, each with its code.
const BAD: &[(&str, &str, &str, &str)] = &[
    ("POST", "/v1/networks", "{", "invalid_json"),
    (
        "POST",
        "/v1/networks",
        r#"{"name":"x","unknown":1}"#,
        "invalid_json",
    ),
    ("POST", "/v1/networks", r#"{"name":"-x"}"#, "invalid_name"),
    (
        "POST",
        "/v1/networks",
        r#"{"name":"x","subnets":["10.0.0.1/24"]}"#,
        "invalid_subnet",
    ),
    (
        "POST",
        "/v1/networks",
        r#"{"name":"x","driver":"none"}"#,
        "invalid_driver",
    ),
    (
        "POST",
        "/v1/containers",
        r#"{"netns":"/nowhere","name":"x"}"#,
        "invalid_netns",
    ),
    (
        "POST",
        "/v1/containers",
        r#"{"netns":"/proc/1/ns/net","name":"x","publish":["65536:80"]}"#,
        "invalid_publish",
    ),
    ("GET", "/v1/containers/nobody", "", "container_not_found"),
    ("DELETE", "/v1/containers/nobody", "", "container_not_found"),
    ("DELETE", "/v1/networks/bridge", "", "predefined_in_use"),
    ("GET", "/v1/nothing", "", "route_not_found"),
    ("PATCH", "/v1/networks", "", "route_not_found"),
];

pub(super) fn bad(shared: &Shared, which: usize) {
    let (method, target, body, code) = BAD[which % BAD.len()];
    let watch = shared.facts(|facts| facts.begin([Key::Down, Key::Tampered], Vec::new()));
    let answer = shared.request(method, target, body);
    let expect = Expect {
        success: 200,
        refusals: vec![(code, Was::Yes)],
    };
    let end = expect.judge(
        shared,
        &format!("{method} {target} {body}"),
        &watch,
        &answer,
    );
    wait_if_silent(shared, end);
}
