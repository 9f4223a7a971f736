//! What the plugin says when it cannot, and what it does without a daemon.

use netd_tests::cni::{self, Cni, Sandbox};
use netd_tests::host::Host;
use netd_tests::lab::{self, Netns, PATIENCE};
use serde_json::{Value, json};

pub(super) fn without_a_daemon() {
    let mut host = Host::start("h1");
    let config = Cni::new(&host).config("1.1.0", "pods", json!({"subnet": "10.99.0.0/24"}));
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    Cni::new(&host).add(&Sandbox::of(&a), &config);
    host.stop_daemon();
    let plugin = Cni::new(&host);
    let socket = host.socket().to_string_lossy().into_owned();
    let error = plugin.call("ADD", Some(&Sandbox::of(&b)), &config).error();
    assert_eq!(error["code"], 11);
    assert!(error["msg"].as_str().unwrap().contains(&socket), "{error}");
    let error = plugin.call("STATUS", None, &config).error();
    assert_eq!(error["code"], 50);
    assert!(error["msg"].as_str().unwrap().contains(&socket), "{error}");
    plugin.del(&Sandbox::of(&a), &config);
    plugin.del(&Sandbox::of(&a), &config);
    assert_eq!(spooled(&host), 1);
    drop(plugin);
    host.start_daemon();
    lab::wait_for("the removal that waited", PATIENCE, || {
        host.ok(&["ps"]) == json!([]) && spooled(&host) == 0
    });
    // And what waits for an attachment comes before its next ADD.
    let plugin = Cni::new(&host);
    plugin.add(&Sandbox::of(&a), &config);
    plugin.del(&Sandbox::of(&a), &config);
    host.done();
}

fn spooled(host: &Host) -> usize {
    std::fs::read_dir(host.dir().join("run/cni-spool")).map_or(0, Iterator::count)
}

pub(super) fn status() {
    let host = Host::start("h1");
    let plugin = Cni::new(&host);
    let config = plugin.config("1.1.0", "pods", json!({"subnet": "10.99.0.0/30"}));
    assert_eq!(plugin.call("STATUS", None, &config).ok(), Value::Null);
    // One address beside the gateway: then the pool is empty.
    let a = Netns::new("a");
    plugin.add(&Sandbox::of(&a), &config);
    let error = plugin.call("STATUS", None, &config).error();
    assert_eq!(
        (error["code"].as_u64(), error["details"].as_str()),
        (Some(50), Some("pool_exhausted"))
    );
    plugin.del(&Sandbox::of(&a), &config);
    let missing = plugin.config("1.1.0", "pods", json!({"network": "nowhere"}));
    let error = plugin.call("STATUS", None, &missing).error();
    assert_eq!(error["code"], 50);
    assert!(error["msg"].as_str().unwrap().contains("nowhere"));
    let old = plugin.config("1.0.0", "pods", json!({}));
    assert_eq!(plugin.call("STATUS", None, &old).error_code(), 1);
    let awaited = plugin.config("1.1.0", "pods", json!({"subnetFile": "/does/not/exist"}));
    assert_eq!(plugin.call("STATUS", None, &awaited).error_code(), 50);
    let error = plugin.call("ADD", Some(&Sandbox::of(&a)), &awaited).error();
    assert_eq!(error["code"], 11);
    assert!(
        error["msg"].as_str().unwrap().contains("/does/not/exist"),
        "it says what is awaited: {error}"
    );
    host.done();
}

pub(super) fn errors_have_their_codes() {
    let host = Host::start("h1");
    let plugin = Cni::new(&host);
    let a = Netns::new("a");
    let sandbox = Sandbox::of(&a);
    let config = plugin.config("1.1.0", "pods", json!({"subnet": "10.99.0.0/24"}));
    let add =
        |sandbox: Option<&Sandbox>, config: &Value| plugin.call("ADD", sandbox, config).error();
    let with = |extra: Value| {
        let mut config = config.clone();
        cni::merge(&mut config, extra);
        config
    };
    assert_eq!(add(None, &config)["code"], 4);
    assert_eq!(
        add(
            Some(&Sandbox {
                id: "a/b".to_owned(),
                ..sandbox.clone()
            }),
            &config
        )["code"],
        4
    );
    assert_eq!(
        add(Some(&sandbox.on("far-too-long-a-name")), &config)["code"],
        4
    );
    let gone = Sandbox {
        netns: "/run/netns/nothing".to_owned(),
        ..sandbox.clone()
    };
    assert_eq!(add(Some(&gone), &config)["code"], 4);
    // The namespace of the host is none to attach.
    let own = Sandbox {
        netns: host.netns.path().to_string_lossy().into_owned(),
        ..sandbox.clone()
    };
    assert_eq!(add(Some(&own), &config)["code"], 4);
    let error = add(Some(&sandbox), &with(json!({"cniVersion": "7.0.0"})));
    assert_eq!(error["code"], 1);
    assert!(
        error["details"].as_str().unwrap().contains("1.1.0"),
        "{error}"
    );
    let error = add(
        Some(&sandbox),
        &with(json!({"ranges": [[{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.3"}]]})),
    );
    assert_eq!(error["code"], 2);
    assert!(
        error["msg"].as_str().unwrap().contains("10.1.0.3"),
        "{error}"
    );
    assert_eq!(add(Some(&sandbox), &with(json!({"mtu": "x"})))["code"], 6);
    assert_eq!(add(Some(&sandbox), &with(json!({"mtu": 10})))["code"], 7);
    assert_eq!(
        add(Some(&sandbox), &with(json!({"name": "a b"})))["code"],
        7
    );
    assert_eq!(
        add(
            Some(&sandbox),
            &with(json!({"runtimeConfig": {"bandwidth": {"ingressRate": 1000}}}))
        )["code"],
        7
    );
    assert_eq!(
        plugin
            .call_text("ADD", Some(&sandbox), "netd-cni", "{")
            .error_code(),
        6
    );
    assert_eq!(plugin.call("FROB", Some(&sandbox), &config).error_code(), 4);
    // A definition that differs from the network that is there.
    plugin.add(&sandbox, &config);
    let b = Netns::new("b");
    let error = add(
        Some(&Sandbox::of(&b)),
        &with(json!({"subnet": "10.98.0.0/24"})),
    );
    assert_eq!(
        (error["code"].as_u64(), error["details"].as_str()),
        (Some(101), Some("network_exists")),
        "{error}"
    );
    plugin.del(&sandbox, &config);
    assert_eq!(host.ok(&["ps"]), json!([]));
    host.done();
}

pub(super) fn the_list_is_installed_last() {
    let mut host = Host::prepare(Netns::host("h1"));
    host.set_resolvers("");
    let dir = lab::scratch("install");
    let (bin, conf) = (dir.join("bin"), dir.join("net.d"));
    let run = |host: &Host, command: &str, wait: &str| {
        let program = cni::plugin_dir().join("netd-cni");
        let mut process = host.netns.command(
            program,
            &[command, "--subnet", "10.99.0.0/24", "--wait", wait],
        );
        process
            .arg("--bin-dir")
            .arg(&bin)
            .arg("--conf-dir")
            .arg(&conf)
            .arg("--socket")
            .arg(host.socket());
        cni::execute(process, "")
    };
    let names = |dir: &std::path::Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    // Without a daemon that serves: the programs, and no list.
    let said = run(&host, "install", "0");
    assert_eq!(said.code, 1, "{said:?}");
    assert_eq!(
        (names(&bin), names(&conf)),
        (vec!["netd".to_owned(), "netd-cni".to_owned()], vec![])
    );
    host.start_daemon();
    let said = run(&host, "install", "30");
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(names(&conf), ["10-netd.conflist"]);
    // Once more over what is there, and what is installed works.
    assert_eq!(run(&host, "install", "30").code, 0);
    let list: Value =
        serde_json::from_slice(&std::fs::read(conf.join("10-netd.conflist")).unwrap()).unwrap();
    let mut config = list["plugins"][0].clone();
    cni::merge(
        &mut config,
        json!({"cniVersion": list["cniVersion"], "name": list["name"]}),
    );
    let mut plugin = Cni::new(&host);
    plugin.path = vec![bin.clone()];
    let a = Netns::new("a");
    plugin.add(&Sandbox::of(&a), &config);
    plugin.del(&Sandbox::of(&a), &config);
    assert_eq!(run(&host, "uninstall", "0").code, 0);
    assert_eq!(
        run(&host, "uninstall", "0").code,
        0,
        "nothing left to remove"
    );
    assert_eq!((names(&bin), names(&conf)), (vec![], vec![]));
    host.done();
}
