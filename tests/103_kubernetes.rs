//! `examples/kubernetes`: the manifest says what a node needs, and what a node does with it works, as far as that can be
//! seen without a cluster. The image is made of the `Dockerfile`'s lines on the machine's own C library.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is how a test fails"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use netd_tests::cni::{self, Sandbox, ip};
use netd_tests::host::PROGRAMS;
use netd_tests::lab::{self, Netns, PATIENCE};
use nix::mount::{MsFlags, mount};
use serde::Deserialize as _;
use serde_json::{Value, json};

const MANIFEST: &str = include_str!("../examples/kubernetes/netd.yaml");
const DOCKERFILE: &str = include_str!("../examples/kubernetes/Dockerfile");

fn main() -> std::process::ExitCode {
    cni::dispatch();
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![
        lab::test("the_manifest_has_what_a_node_needs", manifest_is_complete),
        lab::test("a_node_serves_pods_by_the_manifest", a_node_serves_pods),
    ])
}

fn documents() -> Vec<Value> {
    serde_norway::Deserializer::from_str(MANIFEST)
        .map(|document| Value::deserialize(document).expect("the manifest is YAML"))
        .collect()
}

/// The document of a kind.
fn of_kind(kind: &str) -> Value {
    let mut found = documents()
        .into_iter()
        .filter(|document| document["kind"] == kind);
    let one = found.next().expect("the manifest has that kind");
    assert!(found.next().is_none(), "{kind} twice");
    one
}

fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.map(|word| word.as_str().expect("a word is text").to_owned())
        .collect()
}

fn manifest_is_complete() {
    let set = of_kind("DaemonSet");
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(set["apiVersion"], "apps/v1");
    assert_eq!(
        set["spec"]["selector"]["matchLabels"],
        set["spec"]["template"]["metadata"]["labels"]
    );
    assert_eq!(pod["hostNetwork"], true);
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    let volume = |name: &Value| {
        let mut volumes = pod["volumes"].as_array().unwrap().iter();
        volumes
            .find(|volume| volume["name"] == *name)
            .unwrap_or_else(|| panic!("no volume {name}"))
    };
    let mut mounted = Vec::new();
    for container in pod["containers"].as_array().unwrap() {
        for mount in container["volumeMounts"].as_array().unwrap() {
            let path = &volume(&mount["name"])["hostPath"]["path"];
            mounted.push((
                container["name"].clone(),
                mount["mountPath"].clone(),
                path.clone(),
            ));
            if *path == "/run/netns" {
                // Else the daemon would see the namespaces of its own start only.
                assert_eq!(mount["mountPropagation"], "HostToContainer", "{mount}");
            }
        }
    }
    for (container, at, path) in [
        // The records of containers, and the socket, outlive the daemon's pod.
        ("netd", "/run/netd", "/run/netd"),
        ("netd", "/var/lib/netd", "/var/lib/netd"),
        ("netd", "/run/netns", "/run/netns"),
        ("netd", "/var/run/netns", "/run/netns"),
        ("install", "/run/netd", "/run/netd"),
        ("install", "/host/bin", "/opt/cni/bin"),
        ("install", "/host/net.d", "/etc/cni/net.d"),
    ] {
        let row = (json!(container), json!(at), json!(path));
        assert!(mounted.contains(&row), "{row:?} in {mounted:?}");
    }
    assert_eq!(pod["containers"][0]["securityContext"]["privileged"], true);
    assert!(pod["containers"][0]["readinessProbe"]["exec"]["command"].is_array());
    // The list in the map is the one that is installed.
    let name = volume(&json!("conflist"))["configMap"]["name"].clone();
    let map = of_kind("ConfigMap");
    assert_eq!(map["metadata"]["name"], name);
    assert_eq!(map["metadata"]["namespace"], set["metadata"]["namespace"]);
}

/// Whatever the node's files are called in the manifest, here they lie below this directory; `/run` is the laboratory's own.
struct Node {
    netns: Netns,
    root: PathBuf,
}

impl Node {
    fn path(&self, path: &str) -> PathBuf {
        if path.starts_with("/run/") {
            return path.into();
        }
        self.root.join(path.trim_start_matches('/'))
    }

    /// A container of the DaemonSet: the image and the volumes in a mount namespace of its own, the node's network.
    fn container(&self, container: &Value, pod: &Value, command: &[String]) -> Command {
        let image = lab::scratch("image");
        let exe = std::env::current_exe().unwrap();
        let exe = exe.display();
        let mut script = vec![
            "set -eu; I=$0".to_owned(),
            "mount -t tmpfs -o mode=755 image $I; mount --make-private $I".to_owned(),
            "mkdir -p $I/bin $I/etc $I/proc $I/sys $I/dev $I/usr $I/lib $I/lib64 $I/run $I/var/lib $I/opt".to_owned(),
            "ln -s /run $I/var/run".to_owned(),
            // What stands for the base image: the machine's libraries and shell.
            "for d in usr lib lib64 proc sys dev; do if [ -e /$d ]; then mount --rbind /$d $I/$d; fi; done".to_owned(),
            "ln -s /usr/bin/sh $I/bin/sh".to_owned(),
            "echo nameserver 192.0.2.53 > $I/etc/resolv.conf".to_owned(),
        ];
        for (program, own) in copied() {
            // The plugin is known by its name, and copies itself; the others are called by a word.
            let file = own.map_or_else(|| program.clone(), |word| format!("/opt/{word}"));
            script.push(format!("touch $I{file}; mount --bind {exe} $I{file}"));
            if let Some(word) = own {
                script.push(format!(
                    "printf '#!/bin/sh\\nexec {file} {word} \"$@\"\\n' > $I{program}; chmod 755 $I{program}"
                ));
            }
        }
        for mount in container["volumeMounts"].as_array().unwrap() {
            let mut volumes = pod["volumes"].as_array().unwrap().iter();
            let volume = volumes
                .find(|volume| volume["name"] == mount["name"])
                .unwrap();
            let source = match volume["hostPath"]["path"].as_str() {
                Some(path) => self.path(path),
                None => self.root.join("configmap"),
            };
            let (source, at) = (source.display(), mount["mountPath"].as_str().unwrap());
            let form = match mount["mountPropagation"].as_str() {
                Some("HostToContainer") => "rslave",
                _ => "rprivate",
            };
            script.push(format!(
                "mkdir -p {source} $I{at}; mount --rbind {source} $I{at}"
            ));
            script.push(format!("mount --make-{form} $I{at}"));
        }
        script.push("exec chroot $I \"$@\"".to_owned());
        let script = script.join("\n");
        let words = [
            "--mount",
            "--propagation",
            "slave",
            "sh",
            "-c",
            &script,
            image.to_str().unwrap(),
        ];
        let mut started = self.netns.command("unshare", &words);
        started.args(command);
        started
    }
}

/// The programs that the `Dockerfile` copies, where to, and what the test binary is called by to be one.
fn copied() -> Vec<(String, Option<&'static str>)> {
    let line = DOCKERFILE
        .lines()
        .find_map(|line| line.strip_prefix("COPY "))
        .expect("a COPY");
    let (sources, to) = line.rsplit_once(' ').unwrap();
    let of = |source: &str| {
        let name = source.rsplit('/').next().unwrap();
        let own = match name {
            "netd" => Some("__netd"),
            "netctl" => Some("__netctl"),
            "netd-cni" => None,
            other => panic!("no target of the workspace is called {other}"),
        };
        (format!("{to}{name}"), own)
    };
    sources.split(' ').map(of).collect()
}

/// The words of `ENTRYPOINT`.
fn entrypoint() -> Vec<String> {
    let words = DOCKERFILE
        .lines()
        .find_map(|line| line.strip_prefix("ENTRYPOINT "))
        .expect("an ENTRYPOINT");
    serde_json::from_str(words).expect("a list of words")
}

fn a_node_serves_pods() {
    let node = Node {
        netns: Netns::host("node"),
        root: lab::scratch("node"),
    };
    // As systemd has it on a node: mounts below /run/netns reach whoever listens.
    let netns_dir = Path::new("/run/netns");
    std::fs::create_dir_all(netns_dir).unwrap();
    let none = None::<&str>;
    mount(Some(netns_dir), netns_dir, none, MsFlags::MS_BIND, none).expect("a bind mount");
    mount(none, netns_dir, none, MsFlags::MS_SHARED, none).expect("shared mounts");
    let set = of_kind("DaemonSet");
    let pod = &set["spec"]["template"]["spec"];
    let of = |name: &str| {
        let mut containers = pod["containers"].as_array().unwrap().iter();
        containers
            .find(|container| container["name"] == name)
            .expect("the container")
    };
    let map = of_kind("ConfigMap");
    std::fs::create_dir_all(node.root.join("configmap")).unwrap();
    for (file, text) in map["data"].as_object().unwrap() {
        std::fs::write(
            node.root.join("configmap").join(file),
            text.as_str().unwrap(),
        )
        .unwrap();
    }
    let (netd, install) = (of("netd"), of("install"));
    let command = [entrypoint(), strings(&netd["args"])].concat();
    let daemon = node
        .netns
        .start("netd", node.container(netd, pod, &command));
    let list = node.path("/etc/cni/net.d/10-netd.conflist");
    let installing = node.netns.start(
        "install",
        node.container(install, pod, &strings(&install["command"])),
    );
    // The probe of the manifest, carried out as the kubelet does: in the container, until it succeeds.
    let probe = strings(&netd["readinessProbe"]["exec"]["command"]);
    lab::wait_for("the readiness probe", PATIENCE, || {
        node.container(netd, pod, &probe)
            .output()
            .unwrap()
            .status
            .success()
    });
    // The programs come first; the list waits for the node's prefix.
    let plugin = node.path("/opt/cni/bin/netd-cni");
    lab::wait_for("the plugin", PATIENCE, || plugin.exists());
    assert!(!list.exists());
    std::fs::write("/run/netd/node-prefix", "10.244.3.0/24\nfd44:3::/64\n").unwrap();
    lab::wait_for("the list", PATIENCE, || list.exists());
    // A pod whose namespace came after the daemon.
    let sandbox = Netns::new("pod");
    let bound = sandbox.bind(netns_dir.join("cni-1234"));
    let list_text: Value = serde_json::from_slice(&std::fs::read(&list).unwrap()).unwrap();
    let mut config = list_text["plugins"][0].clone();
    cni::merge(
        &mut config,
        json!({"cniVersion": list_text["cniVersion"], "name": list_text["name"]}),
    );
    let call = |verb: &str| {
        let mut command = node.netns.command::<&str>(&plugin, &[]);
        let own = Sandbox::pod(&sandbox, "shop", "web-0");
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_PATH", node.path("/opt/cni/bin"));
        command
            .env("CNI_CONTAINERID", own.id)
            .env("CNI_NETNS", bound.path())
            .env("CNI_IFNAME", "eth0");
        command.env("CNI_ARGS", own.args);
        cni::execute(command, &config.to_string())
    };
    let made = call("ADD").ok();
    let _server = sandbox.tcp_server("web-0", 80);
    for v6 in [false, true] {
        let answer = node.netns.tcp_probe((ip(&made, v6).as_str(), 80), PATIENCE);
        assert_eq!(answer.name(), Some("web-0"), "{answer:?}");
    }
    call("DEL").ok();
    // What the manifest says to do afterwards: the list first, then the programs.
    assert!(MANIFEST.contains("/opt/cni/bin/netd-cni uninstall"));
    drop(installing);
    let mut uninstall = node.netns.command(&plugin, &["uninstall"]);
    uninstall
        .arg("--bin-dir")
        .arg(node.path("/opt/cni/bin"))
        .arg("--conf-dir")
        .arg(node.path("/etc/cni/net.d"));
    assert!(uninstall.status().unwrap().success());
    assert!(!list.exists() && !plugin.exists());
    drop(daemon);
}
