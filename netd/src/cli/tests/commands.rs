//! Every command against the real routes: what is asked, what is printed.

use serde_json::{Value, json};

use super::{Outcome, netctl, say};
use crate::api::tests::daemon::{CONTAINER_ID, Daemon};
use crate::cli::Exit;

fn run(daemon: &Daemon, line: &str) -> Outcome {
    say(daemon.client.socket(), line)
}

/// Runs with `-o json`; the one document and the exit code.
fn json_of(daemon: &Daemon, line: &str) -> (Exit, Value) {
    let outcome = run(daemon, &format!("{line} -o json"));
    (
        outcome.exit,
        serde_json::from_str(&outcome.out)
            .unwrap_or_else(|error| panic!("{line}: {error}: {outcome:?}")),
    )
}

#[test]
fn lists_are_arrays_and_objects_objects() {
    let daemon = Daemon::start();
    for (line, key) in [("network ls", "interface"), ("ps", "netns")] {
        let (exit, document) = json_of(&daemon, line);
        assert_eq!(exit, Exit::Done);
        assert!(document[0].get(key).is_some(), "{document}");
    }
    for (line, key) in [
        ("network inspect front", "interface"),
        ("inspect web", "netns"),
        ("status", "ready"),
        ("plan", "orphans"),
        ("network create n", "interface"),
        ("attach n --name n", "netns"),
        ("connect back web", "netns"),
        ("network prune", "removed"),
        ("network rm a b", "removed"),
        ("purge --force", "orphans"),
    ] {
        let (exit, document) = json_of(&daemon, line);
        assert_eq!(exit, Exit::Done);
        assert!(document.get(key).is_some(), "{line}: {document}");
    }
    for line in ["detach web", "disconnect back web"] {
        assert_eq!(json_of(&daemon, line), (Exit::Done, json!({})), "{line}");
    }
}

#[test]
fn json_keeps_the_daemons_order_of_keys() {
    let daemon = Daemon::start();
    let outcome = run(&daemon, "inspect web -o json");
    assert!(
        outcome.out.starts_with(&format!(
            "{{\n  \"id\": \"{CONTAINER_ID}\",\n  \"name\": \"web\""
        )),
        "{outcome:?}"
    );
    let outcome = run(&daemon, "inspect web -o yaml");
    assert!(
        outcome.out.starts_with(&format!(
            "id: {CONTAINER_ID}\nname: web\nhostname: web.local\n"
        )),
        "{outcome:?}"
    );
}

#[test]
fn tables_are_for_people() {
    let daemon = Daemon::start();
    for (line, begins) in [
        ("network ls", "NAME "),
        ("ps", "NAME "),
        ("network inspect front", "name:       front\n"),
        ("inspect web", "name:          web\n"),
        ("status", "ready:        yes\n"),
        ("network create n", "name:      n\n"),
        ("network rm a b", "a\nb\n"),
        ("network prune", "a\nb\n"),
        (
            "purge --force",
            "containers: 1\nnetworks:   2\norphans:    3\n",
        ),
    ] {
        let outcome = run(&daemon, line);
        assert_eq!(
            (outcome.exit, outcome.err.as_str()),
            (Exit::Done, ""),
            "{line}"
        );
        assert!(outcome.out.starts_with(begins), "{line}: {}", outcome.out);
    }
    for line in ["detach web", "disconnect back web"] {
        let nothing = Outcome {
            exit: Exit::Done,
            out: String::new(),
            err: String::new(),
        };
        assert_eq!(run(&daemon, line), nothing, "{line}");
    }
}

#[test]
fn a_healthy_plan_is_empty() {
    let daemon = Daemon::start();
    let outcome = run(&daemon, "plan");
    assert_eq!(outcome.exit, Exit::Done);
    assert_eq!(
        (outcome.out.as_str(), outcome.err.as_str()),
        ("", "healthy: nothing to do\n")
    );
    assert_eq!(
        json_of(&daemon, "plan").1,
        json!({"ops": [], "text": [], "orphans": []})
    );
}

#[test]
fn warnings_of_an_attach_go_to_standard_error() {
    let daemon = Daemon::start();
    for line in [
        "attach web --name web",
        "connect back web",
        "attach web --name web -o json",
    ] {
        let outcome = run(&daemon, line);
        assert_eq!(outcome.exit, Exit::Done);
        assert_eq!(
            outcome.err, "warning: ufw drops forwarded packets: allow them\n",
            "{line}"
        );
        assert_eq!(
            outcome.out.contains("warnings"),
            line.ends_with("json"),
            "{line}: {}",
            outcome.out
        );
    }
}

#[test]
fn a_dry_run_prints_operations_and_is_one_to_the_owner() {
    let daemon = Daemon::start();
    for line in [
        "network create n",
        "network rm a",
        "network prune",
        "attach web --name web",
        "detach web",
        "connect back web",
        "disconnect back web",
        "purge",
    ] {
        let outcome = run(&daemon, &format!("{line} --dry-run"));
        assert_eq!(
            (outcome.exit, outcome.err.as_str()),
            (Exit::Done, ""),
            "{line}"
        );
        assert_eq!(
            outcome.out, "forget udp flows to 192.0.2.1 port 53\n",
            "{line}"
        );
        let (_, document) = json_of(&daemon, &format!("{line} --dry-run"));
        assert_eq!(document["ops"][0]["op"], "forget_udp_flows");
        assert!(
            daemon
                .asked()
                .iter()
                .all(|request| request.ends_with(" dry")),
            "{line}"
        );
    }
    let outcome = run(&daemon, "network rm a b --dry-run");
    assert_eq!(outcome.out.lines().count(), 2);
    let (_, document) = json_of(&daemon, "network rm a b --dry-run");
    assert_eq!(
        (
            document["ops"].as_array().unwrap().len(),
            document["text"].as_array().unwrap().len()
        ),
        (2, 2)
    );
}

#[test]
fn removing_networks_goes_on_after_a_failure_and_tells_all() {
    let daemon = Daemon::start();
    let outcome = run(&daemon, "network rm a nope b busy c");
    assert_eq!((outcome.exit, outcome.out.as_str()), (Exit::Failed, ""));
    assert_eq!(
        outcome.err,
        "netctl: 2 of 5 networks were not removed: no network has the name or id \"nope\"; network busy has containers: \
         detach them first [network_not_found]\n"
    );
    assert_eq!(daemon.asked().len(), 5);
    let (exit, document) = json_of(&daemon, "network rm a nope b busy c");
    assert_eq!(exit, Exit::Failed);
    let details = &document["error"]["details"];
    assert_eq!(details["removed"], json!(["a", "b", "c"]));
    assert_eq!(details["errors"][1]["code"], "network_in_use");
    let (_, document) = json_of(&daemon, "network rm a busy");
    assert_eq!(document["error"]["code"], "network_in_use");
    assert_eq!(
        document["error"]["message"],
        "network busy has containers: detach them first"
    );
    assert_eq!(document["error"]["details"], json!({"removed": ["a"]}));
}

#[test]
fn a_reference_is_one_segment_of_the_path() {
    let daemon = Daemon::start();
    assert_eq!(
        netctl(
            daemon.client.socket(),
            &["network", "rm", "a/../b?force=true"]
        )
        .exit,
        Exit::Done
    );
    assert_eq!(daemon.asked(), ["RemoveNetwork(\"a/../b?force=true\")"]);
    for nothing in ["", ".", ".."] {
        let outcome = netctl(daemon.client.socket(), &["detach", nothing]);
        assert_eq!(outcome.exit, Exit::Failed);
        assert!(
            outcome.err.ends_with("[invalid_reference]\n"),
            "{}",
            outcome.err
        );
    }
    assert_eq!(daemon.asked(), [""; 0]);
}

#[test]
fn status_answers_before_the_daemon_is_ready_and_wait_waits() {
    let daemon = Daemon::start();
    daemon.change(|snapshot| snapshot.ready = false);
    let (exit, document) = json_of(&daemon, "status");
    assert_eq!((exit, &document["ready"]), (Exit::Done, &json!(false)));
    let outcome = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| run(&daemon, "status --wait -o json"));
        std::thread::sleep(std::time::Duration::from_millis(250));
        assert!(!waiting.is_finished());
        daemon.change(|snapshot| snapshot.ready = true);
        waiting.join().unwrap()
    });
    assert_eq!(outcome.exit, Exit::Done);
    assert_eq!(outcome.err.lines().count(), 1, "{}", outcome.err);
    assert!(
        outcome.err.starts_with("waiting for netd at "),
        "{}",
        outcome.err
    );
    assert_eq!(
        serde_json::from_str::<Value>(&outcome.out).unwrap()["ready"],
        true
    );
}
