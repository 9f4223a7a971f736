//! How names on a network are answered: the `dns_*` options of a network.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result};
use crate::id::shorten;
use crate::request::is_dns_name;

/// Longest TTL that may be asked for, in seconds: addresses move with containers.
const TTL_MAX: u32 = 3600;
/// Search domains a network may have; the C library of old took no more.
const SEARCH_MAX: usize = 6;

/// How names on a network are answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Naming {
    /// TTL of its names in seconds (`--opt dns_ttl=N`); the daemon's default without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
    /// Its search domains (`--opt dns_search=A,B`), lower case: every name on it is also a name in these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Whether its gateway addresses answer on port 53 too (`--opt dns_gateway=true`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gateway: bool,
    /// Whether the queries of its containers leave from their own namespaces (`--opt dns_from=container`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_container: bool,
    /// Whether holders of a name on the asker's host stand first in answers (`--opt dns_order=local`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub local_first: bool,
}

/// The options that are read here.
pub const OPTIONS: [&str; 5] = [
    "dns_ttl",
    "dns_search",
    "dns_gateway",
    "dns_from",
    "dns_order",
];

impl Naming {
    /// Reads the options of a network; those of others are left alone.
    pub fn from_options(options: &BTreeMap<String, String>) -> Result<Self> {
        let mut naming = Self::default();
        if let Some(text) = options.get("dns_ttl") {
            let ttl = text.parse().ok().filter(|ttl| *ttl <= TTL_MAX);
            naming.ttl = Some(ttl.ok_or_else(|| {
                invalid(
                    "dns_ttl",
                    text,
                    &format!("a number of seconds, at most {TTL_MAX}"),
                )
            })?);
        }
        if let Some(text) = options.get("dns_search") {
            naming.search = text
                .split(',')
                .map(|domain| {
                    domain
                        .strip_suffix('.')
                        .unwrap_or(domain)
                        .to_ascii_lowercase()
                })
                .collect();
            if naming.search.len() > SEARCH_MAX || !naming.search.iter().all(|d| is_dns_name(d)) {
                let wanted = format!("at most {SEARCH_MAX} domains with commas between them");
                return Err(invalid("dns_search", text, &wanted));
            }
        }
        if let Some(text) = options.get("dns_gateway") {
            naming.gateway = text
                .parse()
                .map_err(|_| invalid("dns_gateway", text, "true or false"))?;
        }
        naming.from_container = match options.get("dns_from").map(String::as_str) {
            None | Some("host") => false,
            Some("container") => true,
            Some(text) => return Err(invalid("dns_from", text, "host or container")),
        };
        naming.local_first = match options.get("dns_order").map(String::as_str) {
            None | Some("rotate") => false,
            Some("local") => true,
            Some(text) => return Err(invalid("dns_order", text, "rotate or local")),
        };
        Ok(naming)
    }

    /// Whether nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

fn invalid(option: &str, text: &str, wanted: &str) -> Error {
    let text = shorten(text);
    Error::new(
        Code::InvalidOpt,
        format!("option {option}={text:?} is not understood: give {wanted}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &[(&str, &str)]) -> Result<Naming> {
        let options = options
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Naming::from_options(&options.collect())
    }

    #[test]
    fn options_are_read() {
        let naming = read(&[
            ("dns_ttl", "60"),
            ("dns_search", "Corp.Example.,lan"),
            ("dns_gateway", "true"),
            ("dns_from", "container"),
            ("dns_order", "local"),
            ("bridge", "br0"),
        ]);
        let expected = Naming {
            ttl: Some(60),
            search: vec!["corp.example".into(), "lan".into()],
            gateway: true,
            from_container: true,
            local_first: true,
        };
        assert_eq!(naming.unwrap(), expected);
        assert!(read(&[]).unwrap().is_default());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (option, text) in [
            ("dns_ttl", "soon"),
            ("dns_ttl", "3601"),
            ("dns_ttl", "-1"),
            ("dns_search", ""),
            ("dns_search", "a..b"),
            ("dns_search", "a,,b"),
            ("dns_search", "a b"),
            ("dns_search", "a,b,c,d,e,f,g"),
            ("dns_gateway", "yes"),
            ("dns_from", "here"),
            ("dns_order", "nearest"),
        ] {
            let error = read(&[(option, text)]).unwrap_err();
            assert_eq!(error.code, Code::InvalidOpt, "{option}={text}");
            assert!(error.message.contains(option), "{}", error.message);
        }
    }
}
