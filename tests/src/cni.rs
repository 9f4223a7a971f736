//! A container runtime's side of CNI: calls plugins as libcni does.
//!
//! Owns the rule that a test binary that is called `netd-cni` (or `netd`, without arguments) is netd's plugin, so that
//! runtimes and other plugins can execute it as a file. `NETD_CNI` names another file to test, such as the built program.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

use crate::host::Host;
use crate::lab::{self, Netns};

/// Where Debian's containernetworking-plugins are.
pub const DEBIAN: &str = "/usr/lib/cni";

/// Becomes the plugin if that is what this process was started as. Call it before everything else in `main`.
pub fn dispatch() {
    let mut args = std::env::args_os();
    let name = args.next().map(PathBuf::from);
    let name = name
        .as_deref()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str());
    let alone = args.next().is_none();
    if name == Some("netd-cni") || (name == Some("netd") && alone) {
        let code = netd_cni::main(std::env::args_os());
        std::process::exit(crate::host::exit_code(code));
    }
}

/// A directory with netd's plugin under both of its names, for `CNI_PATH`.
pub fn plugin_dir() -> PathBuf {
    let dir = lab::scratch("cni-bin");
    let program = match std::env::var_os("NETD_CNI") {
        Some(named) => std::fs::canonicalize(&named).expect("NETD_CNI names a file"),
        None => std::env::current_exe().expect("the path of the test binary"),
    };
    for name in ["netd-cni", "netd"] {
        std::os::unix::fs::symlink(&program, dir.join(name)).unwrap();
    }
    dir
}

/// What a plugin said.
#[derive(Debug)]
pub struct Said {
    /// The exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Said {
    /// It succeeded; its result, or null where the verb has none.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        if self.stdout.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// It failed, as the specification says: exit code, one error object. The error.
    #[track_caller]
    pub fn error(self) -> Value {
        assert_ne!(self.code, 0, "{self:?}");
        let error: Value =
            serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        assert!(
            error["code"].is_u64() && error["msg"].is_string(),
            "{error}"
        );
        assert!(error["cniVersion"].is_string(), "{error}");
        error
    }

    /// The number of its error.
    #[track_caller]
    pub fn error_code(self) -> u64 {
        self.error()["code"].as_u64().unwrap()
    }
}

/// A container to attach.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// `CNI_CONTAINERID`.
    pub id: String,
    /// `CNI_NETNS`.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: String,
}

impl Sandbox {
    /// A namespace under a long id made from its name, as runtimes have them.
    pub fn of(netns: &Netns) -> Self {
        Self {
            id: netd_model::id::digest(&[netns.name()], 64),
            netns: netns.path().to_string_lossy().into_owned(),
            ifname: "eth0".to_owned(),
            args: String::new(),
        }
    }

    /// As the kubelet's runtime has it.
    pub fn pod(netns: &Netns, namespace: &str, name: &str) -> Self {
        let sandbox = Self::of(netns);
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID=1-2-3",
            sandbox.id
        );
        Self { args, ..sandbox }
    }

    /// The same with another interface.
    #[must_use]
    pub fn on(&self, ifname: &str) -> Self {
        Self {
            ifname: ifname.to_owned(),
            ..self.clone()
        }
    }
}

/// Runs plugins on a host.
#[derive(Debug)]
pub struct Cni<'a> {
    /// Where they run.
    pub host: &'a Host,
    /// `CNI_PATH`.
    pub path: Vec<PathBuf>,
}

impl<'a> Cni<'a> {
    /// With netd's plugin first and Debian's behind it.
    pub fn new(host: &'a Host) -> Self {
        Self {
            host,
            path: vec![plugin_dir(), PathBuf::from(DEBIAN)],
        }
    }

    /// A configuration of netd's plugin in a list of this name.
    pub fn config(&self, version: &str, name: &str, extra: Value) -> Value {
        let mut config = json!({"cniVersion": version, "name": name, "type": "netd-cni", "socket": self.host.socket()});
        merge(&mut config, extra);
        config
    }

    /// Executes the plugin that a configuration names.
    pub fn call(&self, verb: &str, sandbox: Option<&Sandbox>, config: &Value) -> Said {
        self.call_text(
            verb,
            sandbox,
            config["type"].as_str().unwrap_or_default(),
            &config.to_string(),
        )
    }

    /// The same with any text on standard input.
    pub fn call_text(
        &self,
        verb: &str,
        sandbox: Option<&Sandbox>,
        plugin: &str,
        stdin: &str,
    ) -> Said {
        let found = self
            .path
            .iter()
            .map(|dir| dir.join(plugin))
            .find(|path| path.exists());
        let program = found.unwrap_or_else(|| panic!("no plugin {plugin} in {:?}", self.path));
        let mut command = Command::new(program);
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_PATH", std::env::join_paths(&self.path).unwrap());
        if let Some(sandbox) = sandbox {
            command
                .env("CNI_CONTAINERID", &sandbox.id)
                .env("CNI_NETNS", &sandbox.netns)
                .env("CNI_IFNAME", &sandbox.ifname)
                .env("CNI_ARGS", &sandbox.args);
        }
        // From a thread inside the namespace, as runtimes do: nothing has to run between fork and exec, so no page table
        // of this process is copied, whose cost would count for the plugin's.
        self.host.netns.run(|| execute(command, stdin))
    }

    /// ADD, which has to succeed.
    #[track_caller]
    pub fn add(&self, sandbox: &Sandbox, config: &Value) -> Value {
        self.call("ADD", Some(sandbox), config).ok()
    }

    /// DEL, which has to succeed.
    #[track_caller]
    pub fn del(&self, sandbox: &Sandbox, config: &Value) {
        assert_eq!(self.call("DEL", Some(sandbox), config).ok(), Value::Null);
    }

    /// ADD of a chain: the plugins in order, each with the result of the one before. The last result.
    pub fn add_all(&self, sandbox: &Sandbox, plugins: &[Value]) -> Result<Value, Value> {
        let mut last = Value::Null;
        for plugin in plugins {
            let mut config = plugin.clone();
            if !last.is_null() {
                config["prevResult"] = last.clone();
            }
            let said = self.call("ADD", Some(sandbox), &config);
            if said.code != 0 {
                return Err(said.error());
            }
            last = said.ok();
        }
        Ok(last)
    }

    /// CHECK of a chain with the result of its ADD.
    pub fn check_all(&self, sandbox: &Sandbox, plugins: &[Value], result: &Value) {
        for plugin in plugins {
            let mut config = plugin.clone();
            config["prevResult"] = result.clone();
            self.call("CHECK", Some(sandbox), &config).ok();
        }
    }

    /// DEL of a chain, in reverse order.
    pub fn del_all(&self, sandbox: &Sandbox, plugins: &[Value], result: &Value) {
        for plugin in plugins.iter().rev() {
            let mut config = plugin.clone();
            config["prevResult"] = result.clone();
            self.del(sandbox, &config);
        }
    }
}

/// Runs a plugin to its end.
pub fn execute(mut command: Command, stdin: &str) -> Said {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("a plugin starts");
    // One that does not read its input closes it.
    let _ = child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(stdin.as_bytes());
    let output = child.wait_with_output().expect("a plugin ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Said {
        code: output.status.code().unwrap_or(-1),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// Puts the keys of one object into another.
pub fn merge(into: &mut Value, extra: Value) {
    let extra: Map<String, Value> = serde_json::from_value(extra).expect("an object");
    into.as_object_mut().expect("an object").extend(extra);
}

/// Whether a plugin of Debian's is installed; if not, the test ends as skipped, or fails where `CI` says that nothing may
/// be missing.
pub fn need(plugins: &[&str]) {
    let missing: Vec<&&str> = plugins
        .iter()
        .filter(|name| !Path::new(DEBIAN).join(name).exists())
        .collect();
    if missing.is_empty() {
        return;
    }
    let text = format!("{missing:?} missing in {DEBIAN}: install containernetworking-plugins");
    assert!(std::env::var_os("NETD_CI").is_none(), "{text}");
    lab::skip(&text);
}

/// The address in a result, without the length of its prefix: the first of the family.
pub fn ip(result: &Value, v6: bool) -> String {
    let ips = result["ips"].as_array().expect("a result has addresses");
    let mut addresses = ips.iter().filter_map(|ip| ip["address"].as_str());
    let found = addresses.find(|address| address.contains(':') == v6);
    found
        .and_then(|address| address.split('/').next())
        .expect("an address of the family")
        .to_owned()
}
