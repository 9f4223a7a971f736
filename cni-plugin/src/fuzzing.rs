//! What has to hold for any input on standard input: checked by the fuzz target, and here by random documents.

use serde_json::Value;

use crate::config::Config;
use crate::env::Env;
use crate::error::CniError;
use crate::request;
use crate::result::{CniResult, VERSIONS};

/// Takes an input through everything that the plugin does with it before it asks the daemon. Panics where something does
/// not hold.
#[expect(clippy::missing_panics_doc, reason = "a panic is the finding")]
pub fn any_input(input: &[u8]) {
    let env = Env {
        command: Some("ADD".to_owned()),
        container: "c1".to_owned(),
        netns: "/run/netns/c1".to_owned(),
        ifname: "eth0".to_owned(),
        args: String::from_utf8_lossy(input).into_owned(),
        ..Env::default()
    };
    if let Ok(value) = serde_json::from_slice::<Value>(input) {
        any_result(&value);
        if let Some(previous) = value.get("prevResult") {
            any_result(previous);
        }
    }
    let refused = |error: CniError| {
        let document: Value =
            serde_json::from_str(&error.document(input)).expect("an error is JSON");
        assert!(document["code"].is_u64() && document["cniVersion"].is_string());
    };
    let config = match Config::parse(input) {
        Ok(config) => config,
        Err(error) => return refused(error),
    };
    let quiet = Env {
        args: String::new(),
        ..env.clone()
    };
    let text = String::from_utf8_lossy(input);
    for env in [&env, &quiet] {
        match request::add(&config, env, Some(&text), None) {
            Ok(add) => {
                // What goes to the daemon is what the daemon reads.
                let sent = serde_json::to_string(&add).expect("a request is JSON");
                let read: netd_model::cni::Add =
                    serde_json::from_str(&sent).expect("and reads back");
                assert_eq!(read, add);
                // And the daemon judges it without a panic.
                let _ = add
                    .define
                    .clone()
                    .map(netd_model::request::CreateNetwork::try_from);
                let _ = netd_model::cni::AddRequest::try_from(add);
            }
            Err(error) => refused(error),
        }
    }
}

/// A result that is read is written in every version, and reads back with the same addresses.
fn any_result(value: &Value) {
    let Ok(result) = CniResult::read(value) else {
        return;
    };
    for version in VERSIONS {
        let written = result.write(version).expect("a known version");
        let read = CniResult::read(&written).expect("what was written is read");
        if version == "1.1.0" {
            assert_eq!(read, result);
        }
    }
    let _ = result.clone().followed_by(result);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, json};

    use super::*;

    /// Texts that mean something somewhere, and some that do not.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            prop::sample::select(vec![
                "1.1.0",
                "0.2.0",
                "pods",
                "netd-cni",
                "bridge",
                "netd",
                "host-local",
                "10.1.0.0/24",
                "10.1.0.5/24",
                "10.1.0.5",
                "fd00::/64",
                "fd00::5/64",
                "0.0.0.0/0",
                "::/0",
                "127.0.0.11",
                "02:00:00:00:00:01",
                "routed",
                "tcp",
                "sctp",
                "",
            ])
            .prop_map(ToOwned::to_owned),
            "\\PC{0,12}",
        ]
    }

    fn leaf() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (0u64..70_000).prop_map(Value::from),
            text().prop_map(Value::from),
        ]
    }

    /// Documents with the keys that the parser knows, at any depth.
    fn document() -> impl Strategy<Value = Value> {
        const KEYS: [&str; 44] = [
            "cniVersion",
            "name",
            "type",
            "socket",
            "network",
            "subnet",
            "subnets",
            "gateway",
            "ranges",
            "rangeStart",
            "rangeEnd",
            "subnetFile",
            "mode",
            "mtu",
            "bridge",
            "ipMasq",
            "isGateway",
            "dns",
            "nameservers",
            "search",
            "options",
            "routes",
            "dst",
            "gw",
            "ipam",
            "runtimeConfig",
            "portMappings",
            "hostPort",
            "containerPort",
            "protocol",
            "hostIP",
            "bandwidth",
            "ingressRate",
            "ingressBurst",
            "ips",
            "mac",
            "args",
            "cni",
            "prevResult",
            "interfaces",
            "address",
            "interface",
            "ip4",
            "ip",
        ];
        leaf().prop_recursive(5, 64, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((prop::sample::select(KEYS.to_vec()), inner), 0..8).prop_map(
                    |pairs| {
                        let map: Map<String, Value> = pairs
                            .into_iter()
                            .map(|(key, value)| (key.to_owned(), value))
                            .collect();
                        Value::Object(map)
                    }
                ),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_document_breaks_it(document in document(), with_names in any::<bool>()) {
            let mut document = document;
            if let (true, Some(map)) = (with_names, document.as_object_mut()) {
                map.insert("cniVersion".to_owned(), json!("1.1.0"));
                map.insert("name".to_owned(), json!("pods"));
            }
            any_input(document.to_string().as_bytes());
        }

        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            any_input(&bytes);
        }
    }
}
