//! Who reaches whom: the whole table with real packets, in every state the host can be in.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is how a test fails"
)]

use std::process::ExitCode;

use netd_tests::host::PROGRAMS;
use netd_tests::lab;
use netd_tests::reach::{Circumstances, Report, World, check, check_forged, foreign};
use serde_json::Value;

fn main() -> ExitCode {
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![
        lab::test("bridge_nf_off", || plain("bridge_nf_off", false)),
        lab::test("bridge_nf_on", || plain("bridge_nf_on", true)),
        lab::test("forward_drop", || forward_drop("forward_drop", false)),
        lab::test("forward_drop_bridge_nf_on", || {
            forward_drop("forward_drop_bridge_nf_on", true);
        }),
    ])
}

/// Nothing on the host but netd.
fn plain(test: &str, bridge_nf: bool) {
    let now = Circumstances {
        bridge_nf,
        forward_drop: false,
    };
    let world = World::new(now, |_| ());
    let mut report = Report::default();
    check(&world, now, "the table", &mut report);
    check_forged(&world, "the table", &mut report);
    finish(&world, test, report);
}

/// Beside another program's chain that drops what is forwarded: netd says what to do about it, and
/// that is enough.
fn forward_drop(test: &str, bridge_nf: bool) {
    let dropping = Circumstances {
        bridge_nf,
        forward_drop: true,
    };
    let world = World::new(dropping, foreign::create);
    let mut report = Report::default();
    for warnings in &world.warnings {
        assert_eq!(about_the_chain(warnings).len(), 1, "{warnings:?}");
    }
    let warnings = warnings(&world);
    let warning = about_the_chain(&warnings);
    assert_eq!(warning.len(), 1, "{warnings:?}");
    check(&world, dropping, "before the remedy", &mut report);

    foreign::obey(&world.host.netns, warning[0]);
    let open = Circumstances {
        bridge_nf,
        forward_drop: false,
    };
    check(&world, open, "after the remedy", &mut report);
    check_forged(&world, "after the remedy", &mut report);

    foreign::remove(&world.host.netns);
    world.host.assert_healthy();
    assert_eq!(
        about_the_chain(&self::warnings(&world)),
        Vec::<&String>::new()
    );
    finish(&world, test, report);
}

fn about_the_chain(warnings: &[String]) -> Vec<&String> {
    let named = warnings.iter().filter(|text| text.contains(foreign::NAME));
    named.collect()
}

fn warnings(world: &World) -> Vec<String> {
    let status = world.host.ok(&["status"]);
    let list = status["warnings"].as_array().cloned().unwrap_or_default();
    list.iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn finish(world: &World, test: &str, report: Report) {
    report.finish(test);
    world.host.assert_healthy();
    world.host.done();
}
