//! `netd-cni install` and `uninstall`: the program and the configuration list, each put in place at once, and the list
//! last. A runtime that finds a list calls what it names, so the list may stand only while netd serves.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use netd_model::cni::StatusOf;
use serde_json::{Map, Value, json};

use crate::config::DEFAULT_SOCKET;
use crate::error::CniError;
use crate::{daemon, say};

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
  --mode MODE      nat, routed or isolated
  --socket PATH    netd's socket [default: /run/netd/netd.sock]
  --wait SECONDS   how long netd may take until it serves [default: 60]
  --stay           do not end when all is in place (a container of a DaemonSet)

Example: netd-cni install --subnet 10.244.1.0/24 --subnet fd00:244:1::/64";

/// What the words say.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    bin_dir: PathBuf,
    conf_dir: PathBuf,
    conf_name: String,
    conflist: Option<PathBuf>,
    name: String,
    subnets: Vec<String>,
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
            if !self.subnets.is_empty() {
                plugin["subnets"] = json!(self.subnets);
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
    wait(options)?;
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

/// Until the daemon is ready, as STATUS asks it.
fn wait(options: &Options) -> Result<(), CniError> {
    let begin = Instant::now();
    let of = StatusOf {
        network: options.name.clone(),
        define: Some(netd_model::api::NetworkCreate {
            name: options.name.clone(),
            subnets: options.subnets.clone(),
            ..netd_model::api::NetworkCreate::default()
        }),
    };
    loop {
        match daemon::ask::<Map<String, Value>>(&options.socket, "/v1/cni/status", &of) {
            Ok(_) => return Ok(()),
            Err(failure) if begin.elapsed() >= options.wait => {
                let error = failure.error();
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
        let mut plugin = list["plugins"][0].clone();
        plugin["cniVersion"] = list["cniVersion"].clone();
        plugin["name"] = list["name"].clone();
        let config = crate::config::Config::parse(plugin.to_string().as_bytes()).unwrap();
        assert_eq!(config.define.subnets, ["10.1.0.0/24"]);
    }
}
