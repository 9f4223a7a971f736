//! Debian's etcd in namespaces, and its gateway of JSON for what tests do past the hosts.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::lab::{self, Netns, PATIENCE, Process};

/// What the keys of the default cluster begin with.
const PREFIX: &str = "/netd/v1/default/";

/// An etcd member in a namespace of its own.
#[derive(Debug)]
pub struct Member {
    /// Its namespace.
    pub netns: Netns,
    /// Its address.
    pub address: String,
    name: String,
    dir: PathBuf,
    peers: String,
    /// Its certificate, its key, and what clients have to show; with them it speaks TLS to clients.
    pub tls: Option<[PathBuf; 3]>,
    process: Option<Process>,
}

impl Member {
    /// A member at an address, with the other members' names and addresses of `--initial-cluster`. Not started.
    pub(crate) fn new(netns: Netns, address: String, name: &str, peers: &[String]) -> Self {
        Self {
            netns,
            address,
            name: name.to_owned(),
            dir: lab::scratch("etcd").join("data"),
            peers: peers.join(","),
            tls: None,
            process: None,
        }
    }

    /// Starts it, again if it was there before, and does not wait.
    pub fn start(&mut self) {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let client = format!("{scheme}://{}:2379", self.address);
        let url = |port: u16| format!("http://{}:{port}", self.address);
        let mut args = vec![
            "--name".to_owned(),
            self.name.clone(),
            "--data-dir".to_owned(),
            self.dir.to_string_lossy().into_owned(),
            "--listen-client-urls".to_owned(),
            client.clone(),
            "--advertise-client-urls".to_owned(),
            client,
            "--listen-peer-urls".to_owned(),
            url(2380),
            "--initial-advertise-peer-urls".to_owned(),
            url(2380),
            "--initial-cluster".to_owned(),
            self.peers.clone(),
            "--log-level".to_owned(),
            "error".to_owned(),
        ];
        if let Some([certificate, key, clients]) = &self.tls {
            let files = [
                ("--cert-file", certificate),
                ("--key-file", key),
                ("--trusted-ca-file", clients),
            ];
            for (flag, path) in files {
                args.extend([flag.to_owned(), path.to_string_lossy().into_owned()]);
            }
            args.push("--client-cert-auth".to_owned());
        }
        let command = self.netns.command(program(), &args);
        self.process = Some(self.netns.start("etcd", command));
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Everything it holds is gone.
    pub fn wipe(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }

    /// Where its data is.
    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// A copy of its data as it is now. It is not running meanwhile.
    pub fn copy(&mut self) -> PathBuf {
        self.kill();
        let to = lab::scratch("copy of etcd").join("data");
        copy(&self.dir, &to);
        to
    }

    /// Puts a copy of its data back. It is not running afterwards.
    pub fn restore(&mut self, from: &Path) {
        self.wipe();
        copy(from, &self.dir);
    }

    /// Waits until it answers, and has a leader.
    pub fn until_ready(&self) {
        let at = format!("{}:2379", self.address);
        let body = json!({"key": base64(b"x")}).to_string();
        lab::wait_for("etcd answers", PATIENCE, || {
            let answer = self.netns.run(|| post(&at, "/v3/kv/range", "", &body));
            answer.is_ok_and(|text| text.contains("revision"))
        });
    }

    /// Writes a key below the prefix of the default cluster, past all hosts.
    pub fn put(&self, key: &str, value: &[u8]) {
        let answer = self.put_as("", key, value);
        assert!(answer["header"]["revision"].is_string(), "{answer}");
    }

    /// Writes many keys, so many at once as etcd takes.
    pub fn put_all(&self, pairs: &[(String, String)]) {
        for part in pairs.chunks(100) {
            let put = |(key, value): &(String, String)| {
                let key = base64(format!("{PREFIX}{key}").as_bytes());
                json!({"requestPut": {"key": key, "value": base64(value.as_bytes())}})
            };
            let puts: Vec<Value> = part.iter().map(put).collect();
            let answer = self.ask("/v3/kv/txn", "", &json!({"success": puts}));
            assert_eq!(answer["succeeded"], true, "{answer}");
        }
    }

    /// The revision of the store: how often it was written.
    pub fn revision(&self) -> u64 {
        let answer = self.ask("/v3/kv/range", "", &json!({"key": base64(b"x")}));
        let text = answer["header"]["revision"].as_str();
        text.and_then(|text| text.parse().ok()).expect("a revision")
    }

    /// Its id, as etcd counts members.
    pub fn id(&self) -> String {
        let status = self.ask("/v3/maintenance/status", "", &json!({}));
        let id = status["header"]["member_id"].as_str();
        id.expect("an id").to_owned()
    }

    /// The id of the member that leads, as this one knows it.
    pub fn leader(&self) -> String {
        let status = self.ask("/v3/maintenance/status", "", &json!({}));
        status["leader"].as_str().expect("a leader").to_owned()
    }

    /// Has this member, which leads, make another the leader (`etcdctl move-leader`).
    pub fn hand_over_to(&self, id: &str) {
        let to = json!({"targetID": id});
        let answer = self.ask("/v3/maintenance/transfer-leadership", "", &to);
        assert!(answer["error"].is_null(), "{answer}");
    }

    /// The same with a user's token: etcd's answer, whatever it is.
    pub fn put_as(&self, token: &str, key: &str, value: &[u8]) -> Value {
        let key = base64(format!("{PREFIX}{key}").as_bytes());
        let body = json!({"key": key, "value": base64(value)});
        self.ask("/v3/kv/put", token, &body)
    }

    /// Removes a key the same way.
    pub fn delete(&self, key: &str) {
        let key = base64(format!("{PREFIX}{key}").as_bytes());
        let answer = self.ask("/v3/kv/deleterange", "", &json!({"key": key}));
        assert_eq!(answer["deleted"], "1", "{answer}");
    }

    /// All keys below the prefix, with how often each was written and how long its value is.
    pub fn keys(&self) -> Vec<(String, u64, usize)> {
        let (key, end) = (base64(PREFIX.as_bytes()), base64(&behind(PREFIX)));
        let answer = self.ask("/v3/kv/range", "", &json!({"key": key, "range_end": end}));
        let kvs = answer["kvs"].as_array().cloned().unwrap_or_default();
        let kv = |kv: &Value| {
            let bytes = |field: &str| from_base64(kv[field].as_str().unwrap_or_default());
            let key = String::from_utf8(bytes("key")).expect("keys are text");
            let version = kv["version"].as_str().and_then(|text| text.parse().ok());
            let key = key.trim_start_matches(PREFIX).to_owned();
            (key, version.expect("a version"), bytes("value").len())
        };
        kvs.iter().map(kv).collect()
    }

    /// A call through etcd's gateway of JSON; a token only where etcd has users.
    pub fn ask(&self, path: &str, token: &str, body: &Value) -> Value {
        let at = format!("{}:2379", self.address);
        let body = body.to_string();
        let text = self.netns.run(|| post(&at, path, token, &body));
        let text = text.unwrap_or_else(|error| panic!("etcd at {at}: {error}"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }

    /// Gives etcd users: `root`, and for each of these the keys that it may write below the prefix; one that ends with `/` stands
    /// for all that begin with it. All may read all. Passwords are `secret`.
    pub fn add_users(&self, users: &[(&str, Vec<String>)]) {
        let do_ = |path: &str, body: Value| {
            let answer = self.ask(path, "", &body);
            assert!(answer["error"].is_null(), "{path} {body}: {answer}");
        };
        let grant = |role: &str, kind: &str, key: &str| {
            let whole = format!("{PREFIX}{key}");
            let end = if whole.ends_with('/') {
                base64(&behind(&whole))
            } else {
                String::new()
            };
            let perm = json!({"permType": kind, "key": base64(whole.as_bytes()), "range_end": end});
            do_("/v3/auth/role/grant", json!({"name": role, "perm": perm}));
        };
        do_("/v3/auth/role/add", json!({"name": "root"}));
        let root = ("root", Vec::new());
        for (user, keys) in std::iter::once(&root).chain(users) {
            do_(
                "/v3/auth/user/add",
                json!({"name": user, "password": "secret"}),
            );
            if *user != "root" {
                do_("/v3/auth/role/add", json!({"name": user}));
                grant(user, "READ", "");
                keys.iter().for_each(|key| grant(user, "READWRITE", key));
            }
            do_("/v3/auth/user/grant", json!({"user": user, "role": user}));
        }
        do_("/v3/auth/enable", json!({}));
    }

    /// A token of a user.
    pub fn token(&self, user: &str) -> String {
        let login = json!({"name": user, "password": "secret"});
        let answer = self.ask("/v3/auth/authenticate", "", &login);
        let token = answer["token"].as_str();
        token.unwrap_or_else(|| panic!("{answer}")).to_owned()
    }
}

/// The first key behind all that begin with a prefix that ends with `/`.
fn behind(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    let last = end.last_mut().expect("a prefix");
    assert_eq!(*last, b'/');
    *last += 1;
    end
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn post(to: &str, path: &str, token: &str, body: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(to)?;
    let length = body.len();
    let token = if token.is_empty() {
        String::new()
    } else {
        format!("authorization: {token}\r\n")
    };
    write!(
        stream,
        "POST {path} HTTP/1.0\r\nhost: etcd\r\n{token}content-length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let end = answer.find("\r\n\r\n").map_or(0, |at| at + 4);
    Ok(answer.split_off(end))
}

/// The program; without it the test is skipped, and fails where nothing may be missing.
pub(crate) fn program() -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join("etcd"))
        .chain([PathBuf::from("/usr/bin/etcd")])
        .find(|program| program.is_file());
    found.unwrap_or_else(|| {
        let text = "etcd is not installed: apt-get install etcd-server";
        assert!(std::env::var_os("NETD_CI").is_none(), "{text}");
        lab::skip(text)
    })
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let number = part
            .iter()
            .fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte))
            << (8 * (3 - part.len()));
        for n in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * n)) as usize & 63];
            text.push(if n <= part.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    text
}

fn from_base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| {
        let mut digits = (0_u32..).zip(DIGITS);
        digits.find(|(_, d)| **d == c).map_or(0, |(n, _)| n)
    };
    let mut bytes = Vec::new();
    for part in text.as_bytes().chunks(4) {
        let number = part.iter().fold(0_u32, |sum, c| sum << 6 | digit(*c));
        let padding = part.iter().rev().take_while(|c| **c == b'=').count();
        bytes.extend_from_slice(&number.to_be_bytes()[1..4 - padding]);
    }
    bytes
}
