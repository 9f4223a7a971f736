//! The variables that a runtime sets.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::error::{CniError, ENVIRONMENT};

/// The verbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Make an attachment.
    Add,
    /// Remove one.
    Del,
    /// Compare one with what it should be.
    Check,
    /// Remove what the runtime does not know.
    Gc,
    /// Whether ADD would be served.
    Status,
    /// The versions of the protocol.
    Version,
}

/// The environment of a request, as it is.
#[derive(Clone, Debug, Default)]
pub struct Env {
    /// `CNI_COMMAND`.
    pub command: Option<String>,
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_NETNS`.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: String,
    /// `CNI_PATH`, a list.
    pub path: Vec<PathBuf>,
    /// `CNI_NETNS_OVERRIDE`: the namespace may be the runtime's own.
    pub netns_override: bool,
}

impl Env {
    /// The environment of this process.
    pub fn of_process() -> Self {
        let text = |name: &str| {
            std::env::var_os(name)
                .map(|value: OsString| value.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        Self {
            command: Some(text("CNI_COMMAND")).filter(|command| !command.is_empty()),
            container: text("CNI_CONTAINERID"),
            netns: text("CNI_NETNS"),
            ifname: text("CNI_IFNAME"),
            args: text("CNI_ARGS"),
            path: std::env::var_os("CNI_PATH")
                .map(|list| std::env::split_paths(&list).collect())
                .unwrap_or_default(),
            netns_override: matches!(
                text("CNI_NETNS_OVERRIDE").as_str(),
                "1" | "true" | "True" | "TRUE"
            ),
        }
    }

    /// The verb, with everything that it needs (CNI spec 1.1.0, section 2); every missing variable is named.
    pub fn verb(&self) -> Result<Verb, CniError> {
        let verb = match self.command.as_deref() {
            Some("ADD") => Verb::Add,
            Some("DEL") => Verb::Del,
            Some("CHECK") => Verb::Check,
            Some("GC") => Verb::Gc,
            Some("STATUS") => Verb::Status,
            Some("VERSION") => Verb::Version,
            None => return Err(missing("CNI_COMMAND")),
            Some(other) => {
                let text = format!(
                    "CNI_COMMAND {other:?} is unknown: it is ADD, DEL, CHECK, STATUS, GC or VERSION"
                );
                return Err(CniError::new(ENVIRONMENT, text));
            }
        };
        let needed: &[(&str, bool)] = match verb {
            Verb::Add | Verb::Check => &[
                ("CNI_CONTAINERID", self.container.is_empty()),
                ("CNI_NETNS", self.netns.is_empty()),
                ("CNI_IFNAME", self.ifname.is_empty()),
            ],
            Verb::Del => &[
                ("CNI_CONTAINERID", self.container.is_empty()),
                ("CNI_IFNAME", self.ifname.is_empty()),
            ],
            Verb::Gc => &[("CNI_PATH", self.path.is_empty())],
            Verb::Status | Verb::Version => &[],
        };
        let names: Vec<&str> = needed
            .iter()
            .filter_map(|(name, is_missing)| is_missing.then_some(*name))
            .collect();
        if !names.is_empty() {
            return Err(missing(&names.join(", ")));
        }
        if matches!(verb, Verb::Add | Verb::Check | Verb::Del) {
            let words = [
                (
                    "CNI_CONTAINERID",
                    netd_model::ContainerId::parse(&self.container).err(),
                ),
                ("CNI_IFNAME", netd_model::IfName::parse(&self.ifname).err()),
            ];
            for (name, error) in words {
                if let Some(error) = error {
                    return Err(CniError::new(
                        ENVIRONMENT,
                        format!("{name}: {}", error.message),
                    ));
                }
            }
        }
        Ok(verb)
    }
}

fn missing(names: &str) -> CniError {
    CniError::new(
        ENVIRONMENT,
        format!("required variables of the environment are missing: {names}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_missing_variable_is_named() {
        let with = |command: &str| Env {
            command: Some(command.to_owned()),
            ..Env::default()
        };
        for (command, names) in [
            ("ADD", vec!["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
            ("CHECK", vec!["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
            ("DEL", vec!["CNI_CONTAINERID", "CNI_IFNAME"]),
            ("GC", vec!["CNI_PATH"]),
        ] {
            let error = with(command).verb().unwrap_err();
            assert_eq!(error.code, ENVIRONMENT);
            for name in names {
                assert!(error.msg.contains(name), "{command}: {error:?}");
            }
        }
        assert_eq!(with("STATUS").verb(), Ok(Verb::Status));
        assert_eq!(with("VERSION").verb(), Ok(Verb::Version));
        assert_eq!(Env::default().verb().unwrap_err().code, ENVIRONMENT);
        assert_eq!(with("add").verb().unwrap_err().code, ENVIRONMENT);
    }

    #[test]
    fn ids_and_interface_names_are_checked() {
        let with = |container: &str, ifname: &str| Env {
            command: Some("DEL".to_owned()),
            container: container.to_owned(),
            ifname: ifname.to_owned(),
            ..Env::default()
        };
        assert!(with("abc_.-1", "eth0").verb().is_ok());
        for (container, ifname) in [
            ("_a", "eth0"),
            ("a/b", "eth0"),
            ("a", "a/b"),
            ("a", "sixteen-letters-"),
        ] {
            assert_eq!(
                with(container, ifname).verb().unwrap_err().code,
                ENVIRONMENT,
                "{container} {ifname}"
            );
        }
    }
}
