//! What the tests of this module share.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use netd_model::record::{Container, Network};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// A directory of its own that goes away with it.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("netd-state-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The id of the n-th network.
pub(super) fn network_id(n: u8) -> String {
    format!("{n:032x}")
}

/// The record of a network as JSON.
pub(super) fn network_json(n: u8) -> Value {
    json!({
        "id": network_id(n), "name": format!("net{n}"), "driver": "bridge",
        "subnets": [{"subnet": format!("10.{n}.0.0/16"), "gateway": format!("10.{n}.0.1")}],
        "internal": false, "mode": "nat", "mtu": 1500, "interface": format!("nd-{n:08x}"),
        "dns": ["192.0.2.53"], "labels": {"team": "a"},
    })
}

pub(super) fn network(n: u8) -> Network {
    serde_json::from_value(network_json(n)).unwrap()
}

/// The record of a container as JSON.
pub(super) fn container_json(id: &str) -> Value {
    let port =
        json!({"proto": "tcp", "host_ip": "127.0.0.1", "host_port": 8080, "container_port": 80});
    json!({
        "id": id, "name": "web", "hostname": "web", "netns": "/run/netns/web",
        "netns_identity": [4, 4_026_532_000_u64],
        "endpoints": [{
            "network": network_id(1), "ifname": "eth0", "host_ifname": "ndv-0123456789",
            "mac": "02:6e:0a:01:00:02", "ips": ["10.1.0.2", "fd00::2"], "aliases": ["www"],
        }],
        "ports": [port], "dns": [], "labels": {}, "phase": "attached",
        "request": {
            "id": id, "name": "web", "hostname": "web", "netns": "/run/netns/web",
            "networks": [{
                "network": "net1", "ip": null, "ip6": null, "mac": null, "ifname": null, "aliases": ["www"],
            }],
            "publish": [port], "dns": [], "labels": {},
        },
    })
}

pub(super) fn container(id: &str) -> Container {
    serde_json::from_value(container_json(id)).unwrap()
}

/// Puts fields into a JSON object.
pub(super) fn add_fields(object: &mut Value, fields: &Map<String, Value>) {
    let object = object.as_object_mut().unwrap();
    object.extend(
        fields
            .iter()
            .map(|(key, value)| (key.clone(), value.clone())),
    );
}

/// Fields of a version that does not exist yet.
pub(super) fn new_fields() -> impl Strategy<Value = Map<String, Value>> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    prop::collection::btree_map("new_[a-z]{1,6}", value, 0..4)
        .prop_map(|map| map.into_iter().collect())
}

/// All files below a directory: path and content.
pub(super) fn files_below(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            let content = fs::read(&path).unwrap();
            found.push((path, content));
        }
    }
    found.sort();
    found
}
