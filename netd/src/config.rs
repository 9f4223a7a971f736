//! The daemon's configuration: flags, and a TOML file with the same names.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Parser;
use netd_dns::Upstream;
use netd_model::error::{Code, Error, Result};
use netd_model::id::Name;
use serde::Deserialize;

use crate::cluster::etcd;

/// netd: networks and names for the containers of one host.
#[derive(Clone, Debug, Default, Parser)]
#[command(
    name = "netd",
    version,
    about,
    after_help = "Example: netd --run-dir /run/netd --log-format json"
)]
pub struct Args {
    /// TOML file with the same names as the flags; a flag wins over the file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Networks and other records that survive a reboot [default: /var/lib/netd].
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Containers and other records that do not [default: /run/netd].
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Unix socket of the API [default: RUN-DIR/netd.sock].
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Where shared state lives: `embedded`, on this host alone, or `etcd://HOST:PORT,...` [default: embedded].
    #[arg(long, value_name = "STORE")]
    pub store: Option<String>,
    /// Which of the clusters in the store this host is of [default: default].
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// This host's name in the cluster [default: its hostname].
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// The address that other hosts reach this one at [default: the one it reaches the store from].
    #[arg(long, value_name = "IP")]
    pub advertise: Option<IpAddr>,
    /// Certificates that etcd's is checked by, in PEM; with it, TLS is used.
    #[arg(long, value_name = "FILE")]
    pub etcd_ca: Option<PathBuf>,
    /// The certificate that this host shows to etcd, in PEM.
    #[arg(long, value_name = "FILE")]
    pub etcd_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE")]
    pub etcd_key: Option<PathBuf>,
    /// The user of etcd; its password is in the file of `--etcd-password-file`.
    #[arg(long, value_name = "NAME")]
    pub etcd_user: Option<String>,
    /// File with the password.
    #[arg(long, value_name = "FILE")]
    pub etcd_password_file: Option<PathBuf>,
    /// The host's resolvers are read from this file [default: /etc/resolv.conf].
    #[arg(long, value_name = "FILE")]
    pub resolv_conf: Option<PathBuf>,
    /// Resolver to ask instead of the host's: IP[:PORT], or tls://IP[:PORT][#NAME]; may be repeated.
    #[arg(long, value_name = "RESOLVER")]
    pub dns: Vec<String>,
    /// Bytes that answers of resolvers may take in memory; 0 keeps none [default: 8388608].
    #[arg(long, value_name = "BYTES")]
    pub dns_cache: Option<usize>,
    /// Log a line for each DNS query of a container.
    #[arg(long)]
    pub dns_log: bool,
    /// Certificates that resolvers over TLS are checked by, in PEM [default: those of the system].
    #[arg(long, value_name = "FILE")]
    pub dns_tls_ca: Option<PathBuf>,
    /// Files that declare networks, read at start and on SIGHUP [default: /etc/netd/networks.d].
    #[arg(long, value_name = "DIR")]
    pub networks_dir: Option<PathBuf>,
    /// text or json [default: text].
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// error, warn, info, debug or trace [default: what NETD_LOG says, or info].
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// The file: every flag but `--config`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[expect(
    clippy::struct_field_names,
    reason = "the names are those of the flags"
)]
struct File {
    state_dir: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    socket: Option<PathBuf>,
    store: Option<String>,
    cluster: Option<String>,
    node_name: Option<String>,
    advertise: Option<IpAddr>,
    etcd_ca: Option<PathBuf>,
    etcd_cert: Option<PathBuf>,
    etcd_key: Option<PathBuf>,
    etcd_user: Option<String>,
    etcd_password_file: Option<PathBuf>,
    resolv_conf: Option<PathBuf>,
    dns: Vec<String>,
    dns_cache: Option<usize>,
    dns_log: bool,
    dns_tls_ca: Option<PathBuf>,
    networks_dir: Option<PathBuf>,
    log_format: Option<String>,
    log_level: Option<String>,
}

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object a line.
    Json,
}

/// The configuration, complete and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Durable records.
    pub state_dir: PathBuf,
    /// Volatile records.
    pub run_dir: PathBuf,
    /// The API's socket.
    pub socket: PathBuf,
    /// The shared store, if there is one.
    pub shared: Option<Shared>,
    /// The host's resolv.conf.
    pub resolv_conf: PathBuf,
    /// Resolvers to ask instead of the host's.
    pub dns: Vec<Upstream>,
    /// Bytes that answers of resolvers may take in memory.
    pub dns_cache: usize,
    /// Whether each DNS query is logged.
    pub dns_log: bool,
    /// What resolvers over TLS are checked by, if not by the system's certificates.
    pub dns_tls_ca: Option<PathBuf>,
    /// Declared networks; it need not exist.
    pub networks_dir: PathBuf,
    /// How logs look.
    pub log_format: LogFormat,
    /// How much is logged; without it, the environment says.
    pub log_level: Option<String>,
}

/// This host in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// Its name.
    pub node: Name,
    /// Where others reach it, if that is said.
    pub advertise: Option<IpAddr>,
    /// The store.
    pub etcd: etcd::Config,
}

impl Config {
    /// The settings that differ in `new` and cannot change while the daemon runs.
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        [
            ("state-dir", self.state_dir != new.state_dir),
            ("run-dir", self.run_dir != new.run_dir),
            ("socket", self.socket != new.socket),
            ("store", self.shared != new.shared),
            ("dns", self.dns != new.dns),
            ("dns-cache", self.dns_cache != new.dns_cache),
            ("dns-log", self.dns_log != new.dns_log),
            ("dns-tls-ca", self.dns_tls_ca != new.dns_tls_ca),
            ("log-format", self.log_format != new.log_format),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }

    /// Flags over file over defaults. Reads the file, and nothing else.
    pub fn load(args: Args) -> Result<Self> {
        let file = args
            .config
            .as_deref()
            .map(read)
            .transpose()?
            .unwrap_or_default();
        let shared = shared(&args, &file)?;
        let run_dir = absolute(args.run_dir.or(file.run_dir), "/run/netd")?;
        Ok(Self {
            shared,
            state_dir: absolute(args.state_dir.or(file.state_dir), "/var/lib/netd")?,
            socket: args
                .socket
                .or(file.socket)
                .unwrap_or_else(|| run_dir.join("netd.sock")),
            resolv_conf: absolute(args.resolv_conf.or(file.resolv_conf), "/etc/resolv.conf")?,
            dns: resolvers(if args.dns.is_empty() {
                &file.dns
            } else {
                &args.dns
            })?,
            dns_cache: args
                .dns_cache
                .or(file.dns_cache)
                .unwrap_or(netd_dns::CACHE_BYTES),
            dns_log: args.dns_log || file.dns_log,
            dns_tls_ca: args.dns_tls_ca.or(file.dns_tls_ca),
            networks_dir: absolute(
                args.networks_dir.or(file.networks_dir),
                "/etc/netd/networks.d",
            )?,
            log_format: log_format(args.log_format.or(file.log_format).as_deref())?,
            log_level: args
                .log_level
                .or(file.log_level)
                .map(log_level)
                .transpose()?,
            run_dir,
        })
    }
}

/// The cluster that the settings describe; none with the embedded store.
fn shared(args: &Args, file: &File) -> Result<Option<Shared>> {
    fn first<T: Clone>(flag: Option<&T>, file: Option<&T>) -> Option<T> {
        flag.or(file).cloned()
    }
    let text = first(args.store.as_ref(), file.store.as_ref());
    let list = match text.as_deref() {
        None | Some("embedded") => return Ok(None),
        Some(text) => text.strip_prefix("etcd://").ok_or_else(|| {
            invalid(format!(
                "store {text:?} is unknown: use embedded, or etcd://HOST:PORT,..."
            ))
        })?,
    };
    let endpoints = list.split(',').map(endpoint).collect::<Result<_>>()?;
    let cluster = first(args.cluster.as_ref(), file.cluster.as_ref());
    let cluster = cluster.unwrap_or_else(|| "default".to_owned());
    // It is a part of keys.
    let cluster = Name::parse(&cluster).map_err(|error| invalid(format!("cluster: {error}")))?;
    let node = match first(args.node_name.as_ref(), file.node_name.as_ref()) {
        Some(name) => name,
        None => hostname()?,
    };
    let node = Name::parse(&node).map_err(|error| invalid(format!("node-name: {error}")))?;
    let advertise = args.advertise.or(file.advertise);
    if let Some(ip) =
        advertise.filter(|ip| ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
    {
        return Err(invalid(format!(
            "advertise {ip} is no address that other hosts reach this one at"
        )));
    }
    let certificate = first(args.etcd_cert.as_ref(), file.etcd_cert.as_ref());
    let key = first(args.etcd_key.as_ref(), file.etcd_key.as_ref());
    let ca = first(args.etcd_ca.as_ref(), file.etcd_ca.as_ref());
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) if ca.is_some() => Some((certificate, key)),
        (None, None) => None,
        (Some(_), Some(_)) => {
            return Err(invalid(
                "etcd-cert needs etcd-ca: TLS checks both ends".to_owned(),
            ));
        }
        _ => {
            return Err(invalid(
                "etcd-cert and etcd-key belong together: give both".to_owned(),
            ));
        }
    };
    let user = first(args.etcd_user.as_ref(), file.etcd_user.as_ref());
    let password = first(
        args.etcd_password_file.as_ref(),
        file.etcd_password_file.as_ref(),
    );
    let login = match (user, password) {
        (Some(user), Some(path)) => {
            let text = std::fs::read_to_string(&path);
            let text = text.map_err(|error| {
                invalid(format!("etcd-password-file {}: {error}", path.display()))
            })?;
            let password = text.trim_end_matches('\n').to_owned();
            Some(etcd::Login { user, password })
        }
        (None, None) => None,
        _ => {
            return Err(invalid(
                "etcd-user and etcd-password-file belong together: give both".to_owned(),
            ));
        }
    };
    Ok(Some(Shared {
        node,
        advertise,
        etcd: etcd::Config {
            endpoints,
            cluster: cluster.to_string(),
            ca,
            identity,
            login,
        },
    }))
}

/// `HOST:PORT`; etcd's own port by default.
fn endpoint(text: &str) -> Result<String> {
    let bad = || invalid(format!("store: {text:?} is not HOST:PORT"));
    if let Ok(IpAddr::V6(ip)) = text.parse() {
        return Ok(format!("[{ip}]:2379"));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse::<u16>().map_err(|_| bad())?),
        None => (text, 2379),
    };
    let good = !host.is_empty()
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-.:[]_".contains(&b));
    good.then(|| format!("{host}:{port}")).ok_or_else(bad)
}

fn hostname() -> Result<String> {
    let name = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty())
        .ok_or_else(|| invalid("this host has no name: give one with --node-name".to_owned()))
}

fn read(path: &Path) -> Result<File> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| invalid(format!("{} cannot be read: {error}", path.display())))?;
    toml::from_str(&text).map_err(|error| {
        let text = error.to_string();
        invalid(format!(
            "{}: {}",
            path.display(),
            text.trim_end().replace('\n', " ")
        ))
    })
}

fn absolute(path: Option<PathBuf>, default: &str) -> Result<PathBuf> {
    let path = path.unwrap_or_else(|| PathBuf::from(default));
    std::path::absolute(&path).map_err(|error| invalid(format!("path {}: {error}", path.display())))
}

fn resolvers(texts: &[String]) -> Result<Vec<Upstream>> {
    let read = |text: &String| {
        text.parse()
            .map_err(|error| invalid(format!("dns: {error}")))
    };
    texts.iter().map(read).collect()
}

fn log_format(text: Option<&str>) -> Result<LogFormat> {
    match text {
        None | Some("text") => Ok(LogFormat::Text),
        Some("json") => Ok(LogFormat::Json),
        Some(other) => Err(invalid(format!(
            "log-format {other:?} is unknown: use text or json"
        ))),
    }
}

fn log_level(text: String) -> Result<String> {
    if ["error", "warn", "info", "debug", "trace"].contains(&text.as_str()) {
        return Ok(text);
    }
    Err(invalid(format!(
        "log-level {text:?} is unknown: use error, warn, info, debug or trace"
    )))
}

fn invalid(message: String) -> Error {
    Error::new(Code::InvalidConfig, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Config> {
        Config::load(Args::parse_from([&["netd"], words].concat()))
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.state_dir, Path::new("/var/lib/netd"));
        assert_eq!(config.socket, Path::new("/run/netd/netd.sock"));
    }

    #[test]
    fn the_socket_follows_the_run_dir() {
        assert_eq!(
            parse(&["--run-dir", "/x"]).unwrap().socket,
            Path::new("/x/netd.sock")
        );
    }

    #[test]
    fn values_that_cannot_be_served_are_refused_by_name() {
        for words in [
            ["--store", "etcd:h"],
            ["--store", "consul://h:1"],
            ["--log-format", "xml"],
            ["--log-level", "loud"],
            ["--config", "/does/not/exist"],
            ["--dns", "tls://dns.example"],
        ] {
            let error = parse(&words).unwrap_err();
            assert_eq!(error.code, Code::InvalidConfig);
            assert!(error.message.contains(words[1]), "{error}");
        }
    }

    #[test]
    fn the_file_has_the_names_of_the_flags_and_no_others() {
        let dir = std::env::temp_dir().join(format!("netd-config-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("netd.toml");
        std::fs::write(&path, "run-dir = '/a'\nlog-format = 'json'\n").unwrap();
        let words = ["--config", path.to_str().unwrap(), "--run-dir", "/b"];
        let config = parse(&words).unwrap();
        assert_eq!(
            (config.run_dir.as_path(), config.log_format),
            (Path::new("/b"), LogFormat::Json)
        );
        std::fs::write(&path, "rundir = '/a'\n").unwrap();
        assert!(parse(&words).unwrap_err().message.contains("rundir"));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_cluster_is_described_by_flags() {
        let config = parse(&[
            "--store=etcd://192.0.2.1,[2001:db8::1]:1,h:2379",
            "--node-name=h1",
            "--advertise=192.0.2.7",
            "--cluster=blue",
        ]);
        let shared = config.unwrap().shared.unwrap();
        assert_eq!(
            shared.etcd.endpoints,
            ["192.0.2.1:2379", "[2001:db8::1]:1", "h:2379"]
        );
        assert_eq!(shared.node.as_str(), "h1");
        assert_eq!(shared.etcd.cluster, "blue");
        assert_eq!(parse(&[]).unwrap().shared, None);
        let etcd = "--store=etcd://h:1";
        for (words, why) in [
            ([etcd, "--advertise=127.0.0.1"], "other hosts"),
            ([etcd, "--node-name=a/b"], "node-name"),
            ([etcd, "--cluster=a/b"], "cluster"),
            ([etcd, "--etcd-cert=/x"], "etcd-key"),
            ([etcd, "--etcd-user=u"], "etcd-password-file"),
        ] {
            let error = parse(&words).unwrap_err();
            assert!(error.message.contains(why), "{words:?}: {error}");
        }
    }

    #[test]
    fn what_needs_a_restart_is_named() {
        let old = parse(&["--run-dir", "/a"]).unwrap();
        let new = parse(&["--run-dir", "/b", "--resolv-conf=/r", "--log-level=debug"]).unwrap();
        assert_eq!(old.needs_restart(&new), ["run-dir", "socket"]);
        assert!(old.needs_restart(&old).is_empty());
    }
}
