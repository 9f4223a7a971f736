//! `CNI_ARGS`: `KEY=VALUE;KEY=VALUE`.

use netd_model::cni::Pod;

use crate::error::{CniError, ENVIRONMENT};

/// What `CNI_ARGS` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Args {
    /// `IP`: a requested address, with or without the length of its prefix.
    pub(crate) ip: Option<String>,
    /// `MAC`.
    pub(crate) mac: Option<String>,
    /// `K8S_POD_NAME` and `K8S_POD_NAMESPACE`.
    pub(crate) pod: Option<Pod>,
}

impl Args {
    /// Reads the variable. An unknown key is an error unless `IgnoreUnknown` says otherwise.
    pub(crate) fn parse(text: &str) -> Result<Self, CniError> {
        let invalid = |why: String| CniError::new(ENVIRONMENT, format!("CNI_ARGS: {why}"));
        let mut args = Self::default();
        let (mut name, mut namespace) = (None, None);
        let mut unknown = Vec::new();
        let mut ignore = false;
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| invalid(format!("{pair:?} is not KEY=VALUE")))?;
            let value = value.to_owned();
            match key {
                "IgnoreUnknown" => {
                    let refused = || invalid(format!("{pair:?} is not 1 or 0"));
                    ignore = is_true(&value).ok_or_else(refused)?;
                }
                "IP" => args.ip = Some(value),
                "MAC" => args.mac = Some(value),
                "K8S_POD_NAME" => name = Some(value),
                "K8S_POD_NAMESPACE" => namespace = Some(value),
                "K8S_POD_INFRA_CONTAINER_ID" | "K8S_POD_UID" => {}
                other => unknown.push(other.to_owned()),
            }
        }
        if !ignore && !unknown.is_empty() {
            return Err(invalid(format!(
                "unknown keys {}: leave them out, or set IgnoreUnknown=1",
                unknown.join(", ")
            )));
        }
        let filled = |value: Option<String>| value.filter(|value| !value.is_empty());
        args.pod = match (filled(namespace), filled(name)) {
            (Some(namespace), Some(name)) => Some(Pod { namespace, name }),
            _ => None,
        };
        (args.ip, args.mac) = (filled(args.ip), filled(args.mac));
        Ok(args)
    }
}

fn is_true(text: &str) -> Option<bool> {
    // As strconv.ParseBool, which the reference plugins use.
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_sends_is_understood() {
        let text = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=ab;K8S_POD_UID=1-2;X=y";
        let args = Args::parse(text).unwrap();
        let pod = args.pod.unwrap();
        assert_eq!(
            (pod.name.as_str(), pod.namespace.as_str()),
            ("web-0", "shop")
        );
    }

    #[test]
    fn unknown_keys_are_refused_unless_told_otherwise() {
        assert!(Args::parse("FOO=bar").unwrap_err().msg.contains("FOO"));
        assert!(Args::parse("FOO=bar;IgnoreUnknown=true").is_ok());
        assert!(Args::parse("IgnoreUnknown=0;FOO=bar").is_err());
        assert!(Args::parse("IgnoreUnknown=maybe").is_err());
        assert!(Args::parse("IP").is_err());
        assert_eq!(Args::parse("").unwrap(), Args::default());
        let args = Args::parse("IP=10.0.0.5/24;MAC=02:00:00:00:00:01").unwrap();
        assert_eq!(args.ip.as_deref(), Some("10.0.0.5/24"));
        assert_eq!(args.mac.as_deref(), Some("02:00:00:00:00:01"));
    }
}
