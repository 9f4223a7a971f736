//! A client: carries steps out and judges the answers.

use serde_json::{Value, json};

use crate::lab::Netns;

use super::expect::{End, Expect, about_network, code, exists, has_members};
use super::facts::{Key, Was, Watch};
use super::looks::{bad, check_shape, inspect, inspect_network, list, plan, shape_of};
use super::script::Step;
use super::{NETWORKS, PORTS, Place, SLOTS, Shape, Shared, Slot, State, host_port, network_name};

/// The containers of a client.
pub(super) fn slots(client: usize) -> Vec<Slot> {
    let slots = (0..SLOTS).map(|slot| {
        let place = Place { client, slot };
        Slot {
            place,
            netns: Netns::new(&place.name()),
            state: State::Absent,
        }
    });
    slots.collect()
}

/// One step of a script.
pub(super) fn perform(shared: &Shared, slots: &mut [Slot], step: &Step) {
    match step {
        Step::CreateNetwork { network, dry } => create_network(shared, *network, *dry),
        Step::RemoveNetwork { network, dry } => remove_network(shared, *network, *dry),
        Step::InspectNetwork { network } => inspect_network(shared, *network),
        Step::Attach { slot, shape, dry } => attach(shared, &mut slots[*slot], shape, *dry),
        Step::Repeat { slot } => {
            if let State::Attached { asked, .. } = slots[*slot].state.clone() {
                attach(shared, &mut slots[*slot], &asked, false);
            }
        }
        Step::Detach { slot, dry } => detach(shared, &mut slots[*slot], *dry),
        Step::Connect { slot, network, dry } => connect(shared, &mut slots[*slot], *network, *dry),
        Step::Disconnect { slot, network, dry } => {
            disconnect(shared, &mut slots[*slot], *network, *dry);
        }
        Step::Inspect { slot } => inspect(shared, &slots[*slot]),
        Step::List => list(shared, slots),
        Step::Plan => plan(shared),
        Step::Bad { which } => bad(shared, *which),
        Step::Vanish { slot } => vanish(shared, &mut slots[*slot]),
    }
}

fn dry_run(dry: bool) -> &'static str {
    if dry { "?dry_run=true" } else { "" }
}

// ---- networks ---------------------------------------------------------------------------------------------------------

fn create_network(shared: &Shared, network: usize, dry: bool) {
    let name = network_name(network);
    let body =
        json!({"name": name, "ipv6": network % 2 == 1 && crate::lab::has_ipv6()}).to_string();
    let target = format!("/v1/networks{}", dry_run(dry));
    change_network(
        shared,
        network,
        dry,
        ("POST", &target, &body),
        Was::Yes,
        |there, _| Expect {
            success: if dry { 200 } else { 201 },
            refusals: vec![("network_exists", there)],
        },
    );
}

fn remove_network(shared: &Shared, network: usize, dry: bool) {
    let target = format!("/v1/networks/{}{}", network_name(network), dry_run(dry));
    change_network(
        shared,
        network,
        dry,
        ("DELETE", &target, ""),
        Was::No,
        |there, members| Expect {
            success: 200,
            refusals: vec![
                ("network_not_found", there.not()),
                ("predefined_in_use", Was::of(network == 0)),
                (
                    "network_in_use",
                    if network == 0 { Was::No } else { members },
                ),
            ],
        },
    );
}

/// A request that creates or removes a network; `expect` knows whether it is there and has members.
fn change_network(
    shared: &Shared,
    network: usize,
    dry: bool,
    (method, target, body): (&str, &str, &str),
    then: Was,
    expect: impl Fn(Was, Was) -> Expect,
) {
    let changes = if dry {
        Vec::new()
    } else {
        vec![Key::Network(network)]
    };
    let watch = shared.facts(|facts| facts.begin(about_network(network), changes));
    let answer = shared.request(method, target, body);
    let expect = shared.facts(|facts| {
        let there = exists(facts, &watch, network);
        expect(there, has_members(facts, &watch, network))
    });
    let end = expect.judge(shared, &format!("{method} {target}"), &watch, &answer);
    shared.facts(|facts| {
        facts.end(&watch, |_, was| match end {
            End::Done => then,
            End::Refused => was,
            End::Failed | End::Silent => Was::Maybe,
        });
    });
    wait_if_silent(shared, end);
}

/// After a crash a client goes on when the next daemon is there.
pub(super) fn wait_if_silent(shared: &Shared, end: End) {
    if end == End::Silent {
        shared.wait_ready();
    }
}

// ---- containers -------------------------------------------------------------------------------------------------------

fn attach(shared: &Shared, slot: &mut Slot, shape: &Shape, dry: bool) {
    let place = slot.place;
    let target = format!("/v1/containers{}", dry_run(dry));
    let body = attach_body(slot, shape);
    let others: Vec<Key> = shape
        .ports
        .iter()
        .flat_map(|port| others(place, *port))
        .collect();
    let reads = shape
        .networks
        .iter()
        .flat_map(|network| about_network(*network))
        .chain(others.clone());
    let watch = begin(shared, slot, reads.collect(), dry);
    let answer = shared.request("POST", &target, &body);
    let (missing, taken) = shared.facts(|facts| {
        let missing: Vec<Was> = shape
            .networks
            .iter()
            .map(|n| exists(facts, &watch, *n).not())
            .collect();
        let taken: Vec<Was> = others.iter().map(|key| facts.was(&watch, *key)).collect();
        (Was::any(missing), Was::any(taken))
    });
    let repeats = place.id().is_some()
        && matches!(&slot.state, State::Attached { asked, .. } if asked == shape);
    let refusals = match &slot.state {
        State::Attached { .. } => vec![("container_exists", Was::of(!repeats))],
        State::Absent => vec![("network_not_found", missing), ("port_in_use", taken)],
        // What leaves may still hold its own ports, or be gone.
        State::Leaving => [
            ("container_exists", Was::Maybe),
            ("network_not_found", missing),
            ("port_in_use", taken),
        ]
        .map(|(code, was)| (code, if was == Was::No { Was::No } else { Was::Maybe }))
        .to_vec(),
    };
    // A dry run of a request that is known is answered with the container.
    let success = if dry && !repeats { 200 } else { 201 };
    let expect = Expect { success, refusals };
    let end = expect.judge(shared, &format!("POST {target} {body}"), &watch, &answer);
    let then = match &slot.state {
        State::Attached { .. } => slot.state.clone(),
        _ => State::Attached {
            now: shape.clone(),
            asked: shape.clone(),
        },
    };
    check_shape(shared, &answer, end, dry, &then);
    finish(shared, slot, &watch, end, dry, &then);
}

/// The facts that say who else has a port.
fn others(place: Place, port: usize) -> impl Iterator<Item = Key> {
    let others = Place::all().filter(move |other| *other != place);
    others.map(move |other| Key::Port(other, port))
}

fn attach_body(slot: &Slot, shape: &Shape) -> String {
    let name = slot.place.name();
    let networks: Vec<Value> = shape
        .networks
        .iter()
        .map(|network| json!({"network": network_name(*network), "aliases": [format!("{name}-alias")]}))
        .collect();
    let publish: Vec<String> = shape
        .ports
        .iter()
        .map(|port| format!("{}:80", host_port(*port)))
        .collect();
    let mut body =
        json!({"netns": slot.netns.path(), "name": name, "networks": networks, "publish": publish});
    if let Some(id) = slot.place.id() {
        body["id"] = id.into();
    }
    body.to_string()
}

fn detach(shared: &Shared, slot: &mut Slot, dry: bool) {
    let target = format!("/v1/containers/{}{}", slot.place.name(), dry_run(dry));
    let watch = begin(shared, slot, vec![Key::Down, Key::Tampered], dry);
    let answer = shared.request("DELETE", &target, "");
    let expect = Expect {
        success: 200,
        refusals: vec![("container_not_found", present(slot).not())],
    };
    let end = expect.judge(shared, &format!("DELETE {target}"), &watch, &answer);
    let gone = answer.is_ok_and(|answer| code(&answer) == "container_not_found");
    let (end, dry) = if gone { (End::Done, false) } else { (end, dry) };
    finish(shared, slot, &watch, end, dry, &State::Absent);
}

fn connect(shared: &Shared, slot: &mut Slot, network: usize, dry: bool) {
    let target = format!(
        "/v1/containers/{}/endpoints{}",
        slot.place.name(),
        dry_run(dry)
    );
    let body = json!({"network": network_name(network), "aliases": [format!("{}-alias", slot.place.name())]}).to_string();
    let watch = begin(shared, slot, about_network(network).collect(), dry);
    let answer = shared.request("POST", &target, &body);
    let there = shared.facts(|facts| exists(facts, &watch, network));
    let refusals = vec![
        ("container_not_found", present(slot).not()),
        ("network_not_found", there.not()),
        ("endpoint_exists", is_on(slot, network)),
    ];
    let expect = Expect {
        success: 200,
        refusals,
    };
    let end = expect.judge(shared, &format!("POST {target} {body}"), &watch, &answer);
    let then = with_shape(&slot.state, |shape| {
        shape.networks.insert(network);
    });
    check_shape(shared, &answer, end, dry, &then);
    finish(shared, slot, &watch, end, dry, &then);
}

fn disconnect(shared: &Shared, slot: &mut Slot, network: usize, dry: bool) {
    let name = slot.place.name();
    let target = format!(
        "/v1/containers/{name}/endpoints/{}{}",
        network_name(network),
        dry_run(dry)
    );
    let watch = begin(shared, slot, about_network(network).collect(), dry);
    let answer = shared.request("DELETE", &target, "");
    let there = shared.facts(|facts| exists(facts, &watch, network));
    let last = match &slot.state {
        State::Absent => Was::No,
        State::Leaving => Was::Maybe,
        State::Attached { now, .. } => {
            Was::of(!now.ports.is_empty() && now.networks.iter().eq([&network]))
        }
    };
    let refusals = vec![
        ("container_not_found", present(slot).not()),
        ("network_not_found", there.not()),
        ("endpoint_not_found", is_on(slot, network).not()),
        ("invalid_publish", last),
    ];
    let expect = Expect {
        success: 200,
        refusals,
    };
    let end = expect.judge(shared, &format!("DELETE {target}"), &watch, &answer);
    let then = with_shape(&slot.state, |shape| {
        shape.networks.remove(&network);
    });
    finish(shared, slot, &watch, end, dry, &then);
}

/// The namespace ends, as when a process dies before its runtime says so. The container has a new one from now on.
fn vanish(shared: &Shared, slot: &mut Slot) {
    if slot.state == State::Leaving {
        return;
    }
    let watch = begin(shared, slot, Vec::new(), slot.state == State::Absent);
    shared.facts(|facts| facts.set(Key::Unsettled, true));
    slot.netns = Netns::new(&slot.place.name());
    if slot.state != State::Absent {
        Shared::count(&shared.faults, "namespaces vanished");
        slot.state = State::Leaving;
    }
    shared.facts(|facts| facts.end(&watch, |_, _| Was::Maybe));
}

pub(super) fn present(slot: &Slot) -> Was {
    match slot.state {
        State::Absent => Was::No,
        State::Attached { .. } => Was::Yes,
        State::Leaving => Was::Maybe,
    }
}

fn is_on(slot: &Slot, network: usize) -> Was {
    match &slot.state {
        State::Absent => Was::No,
        State::Attached { now, .. } => Was::of(now.networks.contains(&network)),
        State::Leaving => Was::Maybe,
    }
}

fn with_shape(state: &State, change: impl FnOnce(&mut Shape)) -> State {
    let mut state = state.clone();
    if let State::Attached { now, .. } = &mut state {
        change(now);
    }
    state
}

/// A request on a container begins: with everything that may change of it.
pub(super) fn begin(shared: &Shared, slot: &Slot, reads: Vec<Key>, dry: bool) -> Watch {
    let changes = if dry {
        Vec::new()
    } else {
        own_keys(slot.place).collect()
    };
    shared.facts(|facts| facts.begin(reads.into_iter().chain([Key::Down, Key::Tampered]), changes))
}

fn own_keys(place: Place) -> impl Iterator<Item = Key> {
    let members = (0..NETWORKS).map(move |network| Key::Member(place, network));
    members.chain((0..PORTS).map(move |port| Key::Port(place, port)))
}

/// What a fact about a container is in this state.
pub(super) fn fact_of(state: &State, key: Key) -> Was {
    match (state, key) {
        (State::Leaving, _) => Was::Maybe,
        (State::Attached { now, .. }, Key::Member(_, network)) => {
            Was::of(now.networks.contains(&network))
        }
        (State::Attached { now, .. }, Key::Port(_, port)) => Was::of(now.ports.contains(&port)),
        _ => Was::No,
    }
}

/// A request on a container has ended: what is its state now?
fn finish(shared: &Shared, slot: &mut Slot, watch: &Watch, end: End, dry: bool, then: &State) {
    let before = slot.state.clone();
    slot.state = match end {
        End::Done if !dry => then.clone(),
        End::Failed if !dry => after_failure(&before),
        End::Silent if !dry => resolve(shared, slot, &before, then),
        _ => before,
    };
    let state = &slot.state;
    shared.facts(|facts| facts.end(watch, |key, _| fact_of(state, key)));
    wait_if_silent(shared, end);
}

/// The kernel was tampered with and refused. A container that was there may be left half removed, one that was not is not.
fn after_failure(before: &State) -> State {
    match before {
        State::Absent => State::Leaving,
        other => other.clone(),
    }
}

/// The daemon died before it answered: its successor says what came of the request. It is what was, or what was asked for.
fn resolve(shared: &Shared, slot: &Slot, before: &State, then: &State) -> State {
    let target = format!("/v1/containers/{}", slot.place.name());
    let answer = loop {
        shared.wait_ready();
        match shared.request("GET", &target, "") {
            Ok(answer) if code(&answer) != "not_ready" => break answer,
            _ => {}
        }
    };
    let found = (answer.status == 200).then(|| shape_of(&answer.body));
    let is = |state: &State| match (state, &found) {
        (State::Absent, None) | (State::Leaving, _) => true,
        (State::Attached { now, .. }, Some(shape)) => now == shape,
        _ => false,
    };
    if let Some(state) = [then, before].into_iter().find(|state| is(state)) {
        return state.clone();
    }
    let name = slot.place.name();
    shared.violation(format!(
        "{name} after a crash: {found:?}, was {before:?}, asked for {then:?}"
    ));
    State::Leaving
}
