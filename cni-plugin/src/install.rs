//! `netd-cni install` and `uninstall`: the program and the configuration list, each put in place at once, and the list
//! last. A runtime that finds a list calls what it names, so the list may stand only while netd serves.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use netd_model::cni::StatusOf;
use serde_json::{Map, Value, json};

use crate::config::{Config, DEFAULT_SOCKET};
use crate::error::CniError;
use crate::{daemon, request, say, verbs};

const USAGE: &str = "\
Usage: netd-cni install [OPTIONS]
       netd-cni uninstall [OPTIONS]

Run without arguments, netd-cni is a CNI plugin: its request is in the environment and on standard input.

  --bin-dir DIR    where runtimes look for plugins [default: /opt/cni/bin]
  --conf-dir DIR   where runtimes look for configuration lists [default: /etc/cni/net.d]
  --conf-name F    name of the list; the first in the alphabet counts [default: 10-netd.conflist]
  --conflist FILE  this list instead of netd's own
  --name NAME      name of the CNI network, and of netd's [default: pods]
  --subnet CIDR    its prefix, once for each family
  --pod-cidr CIDR  this node's prefix for pods of Kubernetes, once for each family (node.spec.podCIDRs)
  --pod-cidr-file F
                   the file that has them, or will
  --non-masquerade CIDR[,CIDR]
                   prefixes of the cluster, pods' and nodes', which pods reach and are reached from untranslated
  --mode MODE      nat, routed or isolated
  --socket PATH    netd's socket [default: /run/netd/netd.sock]
  --wait SECONDS   how long netd may take until it serves [default: 60]
  --stay           do not end when all is in place (a container of a DaemonSet)

Example: netd-cni install --pod-cidr 10.244.1.0/24 --pod-cidr fd00:244:1::/64 --non-masquerade 10.244.0.0/16,fd00:244::/32";

/// What the words say.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    bin_dir: PathBuf,
    conf_dir: PathBuf,
    conf_name: String,
    conflist: Option<PathBuf>,
    name: String,
    subnets: Vec<String>,
    pod_cidrs: Vec<String>,
    pod_cidr_file: Option<PathBuf>,
    non_masquerade: Vec<String>,
    mode: Option<String>,
    socket: PathBuf,
    wait: Duration,
    stay: bool,
}

impl Options {
    fn parse(words: &[String]) -> Result<Self, String> {
        let mut options = Self {
            bin_dir: "/opt/cni/bin".into(),
            conf_dir: "/etc/cni/net.d".into(),
            conf_name: "10-netd.conflist".to_owned(),
            conflist: None,
            name: "pods".to_owned(),
            subnets: Vec::new(),
            pod_cidrs: Vec::new(),
            pod_cidr_file: None,
            non_masquerade: Vec::new(),
            mode: None,
            socket: DEFAULT_SOCKET.into(),
            wait: Duration::from_mins(1),
            stay: false,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (flag, inline) = word
                .split_once('=')
                .map_or((word.as_str(), None), |(flag, value)| {
                    (flag, Some(value.to_owned()))
                });
            let mut value = || {
                let next = inline.clone().or_else(|| words.next().cloned());
                next.ok_or_else(|| format!("{flag} needs a value"))
            };
            match flag {
                "--bin-dir" => options.bin_dir = value()?.into(),
                "--conf-dir" => options.conf_dir = value()?.into(),
                "--conf-name" => options.conf_name = conf_name(value()?)?,
                "--conflist" => options.conflist = Some(value()?.into()),
                "--stay" => options.stay = true,
                "--name" => options.name = value()?,
                "--subnet" => options.subnets.push(value()?),
                "--pod-cidr" => options.pod_cidrs.push(value()?),
                "--pod-cidr-file" => options.pod_cidr_file = Some(value()?.into()),
                "--non-masquerade" => {
                    let given = value()?;
                    options
                        .non_masquerade
                        .extend(given.split(',').map(str::to_owned));
                }
                "--mode" => options.mode = Some(value()?),
                "--socket" => options.socket = value()?.into(),
                "--wait" => {
                    let seconds = value()?;
                    let parsed = seconds
                        .parse()
                        .map_err(|_| format!("--wait {seconds:?} is no number of seconds"))?;
                    options.wait = Duration::from_secs(parsed);
                }
                _ => return Err(format!("{word:?} is unknown")),
            }
        }
        Ok(options)
    }

    /// The list to install.
    fn list(&self) -> Result<Value, CniError> {
        let Some(path) = &self.conflist else {
            let mut plugin = json!({
                "type": "netd-cni",
                "socket": self.socket,
                "capabilities": {"portMappings": true, "bandwidth": true, "ips": true, "mac": true, "dns": true, "aliases": true},
            });
            for (key, prefixes) in [
                ("subnets", &self.subnets),
                ("podCIDRs", &self.pod_cidrs),
                ("nonMasquerade", &self.non_masquerade),
            ] {
                if !prefixes.is_empty() {
                    plugin[key] = json!(prefixes);
                }
            }
            if let Some(file) = &self.pod_cidr_file {
                plugin["subnetFile"] = json!(file);
                plugin["opts"] = json!({"l3": "on"});
            }
            if let Some(mode) = &self.mode {
                plugin["mode"] = json!(mode);
            }
            return Ok(
                json!({"cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"], "name": self.name, "plugins": [plugin]}),
            );
        };
        let failed =
            |why: String| CniError::new(crate::error::CONFIG, format!("{}: {why}", path.display()));
        let text = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
        serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))
    }
}

/// The ending says to runtimes what a file is.
fn conf_name(name: String) -> Result<String, String> {
    let plain = !name.contains('/') && !name.starts_with('.') && name.ends_with(".conflist");
    if plain {
        Ok(name)
    } else {
        Err(format!(
            "--conf-name {name:?} is no name that ends with .conflist"
        ))
    }
}

/// Runs a command of the administrator's.
pub(crate) fn main(words: &[String]) -> ExitCode {
    let (command, rest) = words
        .split_first()
        .map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    if matches!(command, "help" | "--help" | "-h") {
        say(USAGE);
        return ExitCode::SUCCESS;
    }
    let run = match command {
        "install" => install,
        "uninstall" => uninstall,
        other => {
            say(&format!("netd-cni: {other:?} is no command\n{USAGE}"));
            return ExitCode::from(2);
        }
    };
    let options = match Options::parse(rest) {
        Ok(options) => options,
        Err(why) => {
            say(&format!("netd-cni: {why}\n{USAGE}"));
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("netd-cni: {}", error.msg));
            ExitCode::FAILURE
        }
    }
}

/// The program under both of its names, then, when netd serves, the list.
fn install(options: &Options) -> Result<(), CniError> {
    let list = options.list()?;
    let own = std::env::current_exe().map_err(|error| io(&"this program", &error))?;
    let program = std::fs::read(&own).map_err(|error| io(&own.display(), &error))?;
    for name in ["netd-cni", "netd"] {
        // `netd` is what `"ipam": {"type": "netd"}` of another plugin means.
        place(&options.bin_dir.join(name), &program, 0o755)?;
    }
    wait(options, &list)?;
    let mut text = serde_json::to_vec_pretty(&list).unwrap_or_default();
    text.push(b'\n');
    let path = options.conf_dir.join(&options.conf_name);
    place(&path, &text, 0o644)?;
    say(&format!(
        "netd-cni: installed in {}, list {}",
        options.bin_dir.display(),
        path.display()
    ));
    if options.stay {
        loop {
            std::thread::park();
        }
    }
    Ok(())
}

/// The list first: from then on no runtime makes pods by it. Pods that run keep their network.
fn uninstall(options: &Options) -> Result<(), CniError> {
    let list = options.conf_dir.join(&options.conf_name);
    let programs = ["netd", "netd-cni"].map(|name| options.bin_dir.join(name));
    for path in std::iter::once(&list).chain(&programs) {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(io(&path.display(), &error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Until the daemon would serve an ADD by this list, as STATUS asks it.
fn wait(options: &Options, list: &Value) -> Result<(), CniError> {
    let configs = configs(list)?;
    let begin = Instant::now();
    loop {
        match configs
            .iter()
            .try_for_each(|config| serves(options, config))
        {
            Ok(()) => return Ok(()),
            Err(error) if begin.elapsed() >= options.wait => {
                return Err(CniError {
                    msg: format!(
                        "netd does not serve, so no list was installed: {}",
                        error.msg
                    ),
                    ..error
                });
            }
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// The configurations of a list that netd is asked by, as a runtime completes them.
fn configs(list: &Value) -> Result<Vec<Config>, CniError> {
    let is_ours = |plugin: &&Value| {
        let names = [&plugin["type"], &plugin["ipam"]["type"]];
        let ours = ["netd-cni", "netd"];
        names
            .iter()
            .any(|name| name.as_str().is_some_and(|name| ours.contains(&name)))
    };
    let plugins = list["plugins"].as_array().into_iter().flatten();
    let configs: Vec<Config> = plugins
        .filter(is_ours)
        .map(|plugin| {
            let mut config = plugin.clone();
            config["cniVersion"] = list["cniVersion"].clone();
            config["name"] = list["name"].clone();
            Config::parse(config.to_string().as_bytes())
        })
        .collect::<Result<_, _>>()?;
    if configs.is_empty() {
        let text = "no plugin of the list is netd-cni, or has netd for its IPAM";
        return Err(CniError::new(crate::error::CONFIG, text));
    }
    Ok(configs)
}

fn serves(options: &Options, config: &Config) -> Result<(), CniError> {
    let file = verbs::subnet_file(config)?;
    let target = request::target(config, file.as_deref(), None)?;
    let of = StatusOf {
        network: target.network,
        define: target.define,
    };
    daemon::ask::<Map<String, Value>>(&options.socket, "/v1/cni/status", &of)
        .map(drop)
        .map_err(daemon::Failure::error)
}

/// A file in place at once: a temporary name that no runtime takes for a list, written through, renamed. A plain copy over
/// a program that runs fails (ETXTBSY).
fn place(path: &Path, content: &[u8], mode: u32) -> Result<(), CniError> {
    use std::os::unix::fs::PermissionsExt as _;
    let failed = |error: std::io::Error| io(&path.display(), &error);
    let dir = path.parent().unwrap_or_else(|| Path::new("."));
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let fresh = dir.join(format!(".{name}.{}.tmp", std::process::id()));
    let write = || {
        std::fs::create_dir_all(dir)?;
        let mut file = std::fs::File::create(&fresh)?;
        file.write_all(content)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)?;
        std::fs::File::open(dir)?.sync_all()
    };
    write().map_err(|error| {
        let _ = std::fs::remove_file(&fresh);
        failed(error)
    })
}

fn io(what: &impl std::fmt::Display, error: &std::io::Error) -> CniError {
    CniError::new(crate::error::IO, format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options, String> {
        Options::parse(&words.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn words_are_read_in_both_forms_and_others_refused() {
        let options = parse(&[
            "--subnet",
            "10.1.0.0/24",
            "--subnet=fd00::/64",
            "--wait",
            "5",
        ])
        .unwrap();
        assert_eq!(options.subnets, ["10.1.0.0/24", "fd00::/64"]);
        assert_eq!(options.wait, Duration::from_secs(5));
        for wrong in [
            &["--subnet"][..],
            &["--wait", "x"],
            &["--frob", "1"],
            &["--conf-name", "a/b.conflist"],
            &["--conf-name", "a.json"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_list_is_one_that_the_plugin_reads() {
        let list = parse(&["--subnet", "10.1.0.0/24"]).unwrap().list().unwrap();
        assert_eq!(configs(&list).unwrap()[0].define.subnets, ["10.1.0.0/24"]);
        let words = [
            "--pod-cidr-file",
            "/run/prefixes",
            "--non-masquerade",
            "10.0.0.0/8,fd00::/8",
        ];
        let list = parse(&words).unwrap().list().unwrap();
        let define = &configs(&list).unwrap()[0].define;
        assert_eq!(define.non_masquerade, ["10.0.0.0/8", "fd00::/8"]);
        assert_eq!(define.opts["l3"], "on");
        assert!(configs(&json!({"name": "a", "plugins": [{"type": "bridge"}]})).is_err());
    }
}
