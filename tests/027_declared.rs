//! What is declared rather than done: networks and reservations in files, and what is kept for a container by its name.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is how a test fails"
)]

use std::process::ExitCode;

use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::{self, Netns, PATIENCE, Signal};
use serde_json::{Value, json};

fn main() -> ExitCode {
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![
        lab::test("the_same_file_twice", the_same_file_twice),
        lab::test("files_that_are_wrong", files_that_are_wrong),
        lab::test("networks_d", networks_d),
        lab::test("kept_addresses", kept_addresses),
    ])
}

const FILE: &str = r#"
[[network]]
name = "web"
subnets = ["10.1.0.0/24"]
mtu = 1400

[[network.routes]]
destination = "10.9.0.0/16"
gateway = "10.1.0.254"

[[network]]
name = "back"
internal = true

[[reservation]]
network = "web"
container = "db"
ip = "10.1.0.7"
mac = "02:00:00:00:00:07"
"#;

fn write(host: &Host, name: &str, text: &str) -> String {
    let path = host.dir().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path.to_string_lossy().into_owned()
}

fn the_same_file_twice() {
    let host = Host::start("host");
    let file = write(&host, "nets.toml", FILE);
    let before = host.state();
    let plan = host.ok(&["apply", "-f", &file, "--dry-run"]);
    assert!(plan["text"].as_array().unwrap().len() > 5, "{plan}");
    assert_eq!(host.state(), before, "a dry run changes nothing");

    let all = json!(["web", "back", "web/db"]);
    assert_eq!(
        host.ok(&["apply", "-f", &file]),
        json!({"created": all, "unchanged": []})
    );
    let web = host.ok(&["network", "inspect", "web"]);
    assert_eq!(
        (&web["mtu"], &web["reservations"]["db"]["ip"]),
        (&json!(1400), &json!("10.1.0.7"))
    );
    let made = host.state();
    assert_eq!(
        host.ok(&["apply", "-f", &file]),
        json!({"created": [], "unchanged": all})
    );
    let plan = host.ok(&["apply", "-f", &file, "--dry-run"]);
    assert_eq!(plan["text"], json!([]));
    assert_eq!(host.state(), made, "the same file twice changes nothing");

    // A network that is there and differs is told, and nothing of the file is made.
    let other = FILE.replace("1400", "1300").replace("back", "new");
    let file = write(&host, "other.toml", &other);
    let refused = host.netctl(&["apply", "-f", &file]);
    assert_eq!(refused.error_code(), "network_exists");
    assert!(refused.stderr.contains("mtu 1400, not 1300"), "{refused:?}");
    assert_eq!(host.state(), made);
    host.done();
}

fn files_that_are_wrong() {
    let host = Host::start("host");
    let before = host.state();
    for (text, code) in [
        ("[[network]]", "invalid_apply"),
        (
            "[[network]]\nname = \"a\"\ncolor = \"red\"",
            "invalid_apply",
        ),
        ("[[network]]\nname = \"a/b\"", "invalid_name"),
        (
            "[[network]]\nname = \"a\"\n[[network]]\nname = \"b\"\nmtu = 1",
            "invalid_mtu",
        ),
        (
            "[[network]]\nname = \"a\"\n[[network]]\nname = \"a\"\nmtu = 1400",
            "invalid_apply",
        ),
        ("[[network]]\nname = \"host\"", "predefined_in_use"),
        (
            "[[reservation]]\nnetwork = \"nope\"\ncontainer = \"c\"\nip = \"10.0.0.1\"",
            "network_not_found",
        ),
        (
            "[[reservation]]\nnetwork = \"bridge\"\ncontainer = \"c\"",
            "invalid_reservation",
        ),
        (
            "[[reservation]]\nnetwork = \"bridge\"\ncontainer = \"c\"\nip = \"1.2.3.4\"",
            "invalid_ip",
        ),
    ] {
        let file = write(&host, "wrong.toml", text);
        assert_eq!(host.refused(&["apply", "-f", &file]), code, "{text}");
    }
    assert_eq!(
        host.refused(&["apply", "-f", "/does/not/exist"]),
        "invalid_apply"
    );
    assert_eq!(host.state(), before);
    host.done();
}

/// The directory is read at start and on SIGHUP; what cannot be made is a warning, and the rest is there.
fn networks_d() {
    let mut host = Host::prepare(Netns::host("host"));
    host.set_resolvers("");
    write(&host, "networks.d/10-web.toml", FILE);
    write(
        &host,
        "networks.d/20-more.toml",
        "[[network]]\nname = \"more\"\n",
    );
    write(&host, "networks.d/README", "not TOML at all");
    host.start_daemon();
    let names = |host: &Host| -> Vec<String> {
        let list = host.ok(&["network", "ls"]);
        let names = list.as_array().unwrap().iter();
        names
            .map(|net| net["name"].as_str().unwrap().to_owned())
            .collect()
    };
    lab::wait_for("the declared networks are there", PATIENCE, || {
        names(&host).len() == 4
    });
    assert_eq!(names(&host), ["back", "bridge", "more", "web"]);
    host.assert_healthy();

    let web = host.ok(&["network", "inspect", "web"])["id"].clone();
    host.stop_daemon();
    write(
        &host,
        "networks.d/30-late.toml",
        "[[network]]\nname = \"late\"\n[[network]]\nname = \"more\"\nmtu = 1300\n",
    );
    host.start_daemon();
    let warning = |host: &Host| -> String {
        let status = host.ok(&["status"]);
        let warnings = status["warnings"].as_array().unwrap().iter();
        let warnings = warnings.filter_map(Value::as_str);
        warnings.filter(|w| w.contains("networks.d")).collect()
    };
    lab::wait_for("the contradiction is told", PATIENCE, || {
        !warning(&host).is_empty()
    });
    assert!(
        warning(&host).contains("network more is declared twice"),
        "{}",
        warning(&host)
    );
    assert_eq!(host.ok(&["network", "inspect", "web"])["id"], web);

    write(
        &host,
        "networks.d/30-late.toml",
        "[[network]]\nname = \"late\"\n",
    );
    host.signal_daemon(Signal::SIGHUP);
    lab::wait_for("the corrected file is used", PATIENCE, || {
        warning(&host).is_empty() && names(&host).contains(&"late".to_owned())
    });
    host.done();
}

fn ip(container: &Value) -> String {
    let text = container["endpoints"][0]["ipv4"].as_str().unwrap();
    text.split('/').next().unwrap().to_owned()
}

/// What is kept for a name nobody else gets, and the name gets nothing else: over detach, kill -9 and a reboot.
fn kept_addresses() {
    let mut host = Host::start("host");
    host.ok(&["network", "create", "web", "--subnet=10.1.0.0/29"]);
    let reserve = [
        "network",
        "reserve",
        "web",
        "db",
        "--ip=10.1.0.2",
        "--mac=02:00:00:00:00:07",
    ];
    let shown = host.ok(&reserve);
    assert_eq!(shown["reservations"]["db"]["ip"], "10.1.0.2");
    assert_eq!(host.ok(&reserve), shown, "the same again");

    // 10.1.0.2 would be the first; the others get the rest, to the last one.
    let others: Vec<Netns> = ["o1", "o2", "o3", "o4"].map(Netns::new).into();
    for (other, want) in others.iter().zip(3..) {
        assert_eq!(
            ip(&host.attach(other, &["--network=web"])),
            format!("10.1.0.{want}")
        );
    }
    let fifth = Netns::new("fifth");
    let path = fifth.path().to_string_lossy().into_owned();
    let attach = |network: &str| host.netctl(&["attach", &path, "--name=o5", "--network", network]);
    assert_eq!(attach("web").error_code(), "pool_exhausted");
    let refused = attach("web,ip=10.1.0.2");
    assert_eq!(refused.error_code(), "address_in_use");
    assert!(
        refused.stderr.contains("kept for container db"),
        "{refused:?}"
    );
    host.ok(&["detach", "o4"]);
    assert_eq!(
        attach("web,mac=02:00:00:00:00:07").error_code(),
        "mac_in_use"
    );

    let db = Netns::new("db");
    for _ in 0..2 {
        let shown = host.attach(&db, &["--network=web"]);
        assert_eq!(ip(&shown), "10.1.0.2");
        assert_eq!(shown["endpoints"][0]["mac"], "02:00:00:00:00:07");
        host.kill_daemon();
        host.start_daemon();
        host.assert_healthy();
        host.ok(&["detach", "db"]);
    }

    // What a container has can be kept as it is, and is then its own; ended while it has it, it goes back at detach.
    let held = host.ok(&["network", "reserve", "web", "o1"]);
    assert_eq!(held["reservations"]["o1"]["ip"], "10.1.0.3");
    let o5 = ["attach", &path, "--name=o5", "--network=web,ip=10.1.0.3"];
    host.ok(&["detach", "o1"]);
    assert_eq!(host.refused(&o5), "address_in_use");
    assert_eq!(ip(&host.attach(&others[0], &["--network=web"])), "10.1.0.3");
    host.ok(&["network", "unreserve", "web", "o1"]);
    assert_eq!(host.refused(&o5), "address_in_use");
    host.ok(&["detach", "o1"]);
    host.ok(&o5);
    for (words, code) in [
        (
            &["network", "reserve", "web", "x", "--ip=10.1.0.2"][..],
            "address_in_use",
        ),
        (
            &["network", "reserve", "web", "x", "--ip=10.1.0.4"],
            "address_in_use",
        ),
        (
            &["network", "reserve", "web", "x", "--ip=10.1.0.1"],
            "invalid_ip",
        ),
        (
            &["network", "reserve", "web", "x", "--ip=10.2.0.1"],
            "invalid_ip",
        ),
        (
            &["network", "reserve", "web", "x", "--mac=02:00:00:00:00:07"],
            "mac_in_use",
        ),
        (&["network", "reserve", "web", "x"], "invalid_reservation"),
        (&["network", "reserve", "nope", "x"], "network_not_found"),
        (
            &["network", "unreserve", "web", "x"],
            "reservation_not_found",
        ),
    ] {
        assert_eq!(host.refused(words), code, "{words:?}");
    }

    // A reboot empties the run directory; what is durable stays.
    for container in ["o2", "o3", "o5"] {
        host.ok(&["detach", container]);
    }
    host.kill_daemon();
    std::fs::remove_dir_all(host.dir().join("run")).unwrap();
    host.start_daemon();
    assert_eq!(ip(&host.attach(&others[1], &["--network=web"])), "10.1.0.3");
    assert_eq!(ip(&host.attach(&db, &["--network=web"])), "10.1.0.2");
    host.done();
}
