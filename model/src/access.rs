//! From where flows may be opened into a network or to a published port.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result};
use crate::id::shorten;
use crate::net::Prefix;

/// Most prefixes of one list: they are intervals, whose cost grows with their number.
const MANY: usize = 256;

/// Lists of sources. Nobody of `block_from` may, and where `allow_from` has any, nobody else may: of neither family.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Access {
    /// Only these may; without any, everybody may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_from: Vec<Prefix>,
    /// These may not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub block_from: Vec<Prefix>,
}

impl Access {
    /// Whether everybody may.
    pub fn is_open(&self) -> bool {
        self.allow_from.is_empty() && self.block_from.is_empty()
    }

    /// Whether one may who has this address.
    pub fn admits(&self, ip: IpAddr) -> bool {
        let holds = |list: &[Prefix]| list.iter().any(|prefix| prefix.contains(ip));
        !holds(&self.block_from) && (self.allow_from.is_empty() || holds(&self.allow_from))
    }
}

/// A list of prefixes or addresses, without those that others cover: intervals in the kernel must not overlap.
pub fn sources(texts: &[String]) -> Result<Vec<Prefix>> {
    if texts.len() > MANY {
        let count = texts.len();
        let text = format!("{count} sources are too many: at most {MANY} in a list");
        return Err(Error::new(Code::InvalidSource, text));
    }
    let all = texts
        .iter()
        .map(|text| source(text))
        .collect::<Result<Vec<_>>>()?;
    let mut kept: Vec<Prefix> = Vec::new();
    for (at, prefix) in all.iter().enumerate() {
        let covered = |(other_at, other): (usize, &Prefix)| {
            other.covers(*prefix) && (*other != *prefix || other_at < at)
        };
        if !all.iter().enumerate().any(covered) {
            kept.push(*prefix);
        }
    }
    kept.sort();
    Ok(kept)
}

fn source(text: &str) -> Result<Prefix> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(Prefix::holding(ip, u8::MAX));
    }
    text.parse().map_err(|error: Error| {
        let text = shorten(text);
        Error::new(
            Code::InvalidSource,
            format!("source {text:?} is neither a prefix nor an address: {error}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Vec<Prefix> {
        sources(&texts.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn blocked_goes_before_allowed_and_an_empty_list_allows_all() {
        let access = |allow: &[&str], block: &[&str]| Access {
            allow_from: list(allow),
            block_from: list(block),
        };
        let admits = |access: &Access, ip: &str| access.admits(ip.parse().unwrap());
        let open = access(&[], &[]);
        assert!(open.is_open() && admits(&open, "192.0.2.1") && admits(&open, "::1"));
        let some = access(&["192.0.2.0/24"], &["192.0.2.9"]);
        assert!(admits(&some, "192.0.2.1"));
        for ip in ["192.0.2.9", "198.51.100.1", "2001:db8::1"] {
            assert!(!admits(&some, ip), "{ip}");
        }
        assert!(admits(&access(&[], &["10.0.0.0/8"]), "2001:db8::1"));
    }

    #[test]
    fn lists_do_not_overlap() {
        let texts = [
            "10.1.0.0/16",
            "10.0.0.0/8",
            "10.2.3.4",
            "10.0.0.0/8",
            "fd00::/8",
            "11.0.0.1",
        ];
        let shown: Vec<String> = list(&texts).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.0/8", "11.0.0.1/32", "fd00::/8"]);
        for wrong in ["", "x", "10.0.0.1/8", "10.0.0.0/33"] {
            assert_eq!(
                sources(&[wrong.to_owned()]).unwrap_err().code,
                Code::InvalidSource
            );
        }
    }
}
