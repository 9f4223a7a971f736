//! Pods by a real runtime: Debian's containerd with its CRI plugin and netd's conflist, on a host of the laboratory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: a panic is how a test fails"
)]

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use netd_tests::cni;
use netd_tests::cri::{
    self, DnsConfig, Empty, PodSandboxConfig, PodSandboxMetadata, PortMapping, Runtime,
};
use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::{self, Netns, PATIENCE, Privileges, Process};
use serde_json::json;

const IMAGE: &str = "netd.test/busybox:1";

fn main() -> std::process::ExitCode {
    cni::dispatch();
    lab::dispatch(PROGRAMS);
    lab::enter();
    lab::main(vec![lab::test(
        "two_pods_of_containerd_come_talk_and_go",
        two_pods,
    )])
}

/// What has to be installed; without it the test is skipped, and fails where nothing may be missing.
fn need() {
    let missing: Vec<&str> = [
        "/usr/bin/containerd",
        "/usr/bin/ctr",
        "/usr/sbin/runc",
        "/bin/busybox",
        "/usr/lib/cni/loopback",
    ]
    .into_iter()
    .filter(|path| !Path::new(path).exists())
    .collect();
    let rights = lab::privileges() == Privileges::Root;
    if missing.is_empty() && rights {
        return;
    }
    let text = format!(
        "needs root ({rights}) and containerd, runc, busybox-static, containernetworking-plugins: missing {missing:?}"
    );
    assert!(std::env::var_os("NETD_CI").is_none() || !rights, "{text}");
    lab::skip(&text);
}

struct Containerd {
    process: Process,
    runtime: Runtime,
    pods: Mutex<Vec<String>>,
}

/// The processes of pods are no children of the runtime: a test that failed has to end them through it.
impl Drop for Containerd {
    fn drop(&mut self) {
        let pods = self
            .pods
            .lock()
            .map(|pods| pods.clone())
            .unwrap_or_default();
        for pod in pods {
            let _ = self.runtime.try_remove_pod(&pod);
        }
    }
}

impl Containerd {
    fn start(host: &Host, conflist: &serde_json::Value) -> Self {
        let dir = lab::scratch("containerd");
        let bin = cni::plugin_dir();
        std::os::unix::fs::symlink("/usr/lib/cni/loopback", bin.join("loopback")).unwrap();
        let conf = dir.join("net.d");
        std::fs::create_dir(&conf).unwrap();
        std::fs::write(conf.join("10-netd.conflist"), conflist.to_string()).unwrap();
        let socket = dir.join("containerd.sock");
        let config = dir.join("config.toml");
        std::fs::write(&config, settings(&dir, &socket, &bin, &conf)).unwrap();
        let command = host
            .netns
            .command("/usr/bin/containerd", &[Path::new("--config"), &config]);
        let process = host.netns.start("containerd", command);
        let runtime = Runtime::at(&socket);
        let mut problem = None;
        lab::wait_for("the runtime's network", PATIENCE, || {
            problem = runtime.network_problem();
            problem.is_none()
        });
        import(&socket, &dir);
        Self {
            process,
            runtime,
            pods: Mutex::default(),
        }
    }

    fn run_pod(&self, config: &PodSandboxConfig) -> String {
        let pod = self.runtime.run_pod(config).unwrap();
        self.pods.lock().unwrap().push(pod.clone());
        pod
    }
}

/// Everything below one directory; the last two settings are what a kernel without CAP_SYS_RESOURCE and AppArmor needs.
#[expect(
    clippy::unnecessary_debug_formatting,
    reason = "strings of TOML are in quotes"
)]
fn settings(dir: &Path, socket: &Path, bin: &Path, conf: &Path) -> String {
    let (root, state) = (dir.join("root"), dir.join("state"));
    format!(
        r#"version = 2
root = {root:?}
state = {state:?}
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = {socket:?}
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = {IMAGE:?}
stream_server_address = "127.0.0.1"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = {bin:?}
conf_dir = {conf:?}
"#
    )
}

fn import(socket: &Path, dir: &Path) {
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let files = [
        ("bin/busybox", busybox, 0o755),
        ("www/index.html", b"served by a pod\n".to_vec(), 0o644),
    ];
    let file: PathBuf = dir.join("image.tar");
    std::fs::write(
        &file,
        cri::image(IMAGE, &files, &["/bin/busybox", "sleep", "100000"]),
    )
    .unwrap();
    let mut ctr = std::process::Command::new("/usr/bin/ctr");
    ctr.arg("--address")
        .arg(socket)
        .args(["--namespace", "k8s.io", "images", "import"])
        .arg(&file);
    let output = ctr.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn pod(name: &str, dir: &Path) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            namespace: "shop".to_owned(),
        }),
        hostname: name.to_owned(),
        log_directory: dir.to_string_lossy().into_owned(),
        dns_config: Some(DnsConfig {
            servers: vec!["127.0.0.11".to_owned()],
            searches: vec!["shop.svc.cluster.local".to_owned()],
        }),
        port_mappings: Vec::new(),
        annotations: std::collections::HashMap::new(),
        linux: Some(Empty {}),
    }
}

fn two_pods() {
    need();
    let host = Host::start("node");
    let conflist = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "netd-cni", "socket": host.socket(),
        "subnets": ["10.99.0.0/24", "fd99::/64"],
        "capabilities": {"portMappings": true, "bandwidth": true, "dns": true, "ips": true, "mac": true}}]});
    let mut containerd = Containerd::start(&host, &conflist);
    let runtime = &containerd.runtime;
    let logs = lab::scratch("logs");
    let mut web = pod("web-0", &logs);
    web.port_mappings.push(PortMapping {
        protocol: 0,
        container_port: 80,
        host_port: 8080,
    });
    for side in ["ingress", "egress"] {
        web.annotations
            .insert(format!("kubernetes.io/{side}-bandwidth"), "16M".to_owned());
    }
    let client = pod("client", &logs);
    let web_pod = containerd.run_pod(&web);
    let client_pod = containerd.run_pod(&client);
    let ps = host.ok(&["ps"]);
    let names: Vec<&str> = ps
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["client.shop", "web-0.shop"]);
    assert_eq!(ps[1]["ports"][0]["host_port"], 8080, "{ps}");
    let web_ip = runtime.pod_ip(&web_pod);
    assert!(web_ip.starts_with("10.99.0."), "{web_ip}");

    let server = runtime.start(
        &web_pod,
        &web,
        IMAGE,
        &["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"],
    );
    let shell = runtime.start(
        &client_pod,
        &client,
        IMAGE,
        &["/bin/busybox", "sleep", "100000"],
    );
    let fetch = |container: &str, host: &str| {
        let url = format!("http://{host}/index.html");
        let done = runtime.exec(container, &["/bin/busybox", "wget", "-q", "-O", "-", &url]);
        let said = [done.stdout, done.stderr].concat();
        String::from_utf8_lossy(&said).into_owned()
    };
    lab::wait_for("the server in the pod", PATIENCE, || {
        fetch(&shell, &web_ip) == "served by a pod\n"
    });
    // By name, over netd's resolver. (A static busybox has no resolver of its own that reads resolv.conf.)
    let lookup = ["/bin/busybox", "nslookup", "web-0.shop", "127.0.0.11"];
    let asked = runtime.exec(&shell, &lookup);
    let text = String::from_utf8_lossy(&asked.stdout).into_owned();
    assert!(text.contains(&web_ip), "{text} {asked:?}");
    // The host port: from another pod, from the pod itself, from the node, on loopback.
    assert_eq!(fetch(&shell, "10.99.0.1:8080"), "served by a pod\n");
    assert_eq!(fetch(&server, "10.99.0.1:8080"), "served by a pod\n");
    assert!(get(&host.netns, "127.0.0.1:8080").ends_with("served by a pod\n"));
    // The kubelet's probe.
    assert!(get(&host.netns, &format!("{web_ip}:80")).ends_with("served by a pod\n"));
    // The annotations became limits, without a second plugin.
    let ifbs = host
        .netns
        .links()
        .into_iter()
        .filter(|link| link.kind == "ifb")
        .count();
    assert_eq!(ifbs, 1);
    host.assert_healthy();

    for pod in [client_pod, web_pod] {
        runtime.try_remove_pod(&pod).unwrap();
    }
    containerd.pods.lock().unwrap().clear();
    assert_eq!(host.ok(&["ps"]), json!([]));
    let left = std::fs::read_dir("/run/netns").map_or(0, Iterator::count);
    assert_eq!(left, 0, "namespaces of pods");
    assert!(containerd.process.stop().success());
    host.done();
}

fn get(netns: &Netns, address: &str) -> String {
    netns.run(|| {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
            .write_all(b"GET /index.html HTTP/1.0\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    })
}
