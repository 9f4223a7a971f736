//! Identifiers: network ids, container ids, and the names people give to both.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Code, Error, Result};

/// Longest container id accepted: it has to fit into a link alias beside a network id.
pub const CONTAINER_ID_MAX: usize = 128;
/// Longest name of a network or container.
pub const NAME_MAX: usize = 128;

macro_rules! text_newtype {
    ($(#[$doc:meta])* $name:ident, $parse:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Checks and wraps a text.
            pub fn parse(text: &str) -> Result<Self> {
                $parse(text).map(|()| Self(text.into()))
            }
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                Self::parse(&text)
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0.as_ref().to_owned()
            }
        }
        impl std::ops::Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

text_newtype!(
    /// A network id: 32 lower-case hex digits.
    NetworkId,
    check_network_id
);
text_newtype!(
    /// A container id: 1 to 128 characters of `[A-Za-z0-9_.-]`, starting with a letter or digit (CNI spec 1.1.0).
    ContainerId,
    check_container_id
);
text_newtype!(
    /// A name of a network or container: 1 to 128 characters of `[A-Za-z0-9_.-]`, starting with a letter or digit.
    Name,
    check_name
);

impl NetworkId {
    /// An id from 16 random bytes that the caller drew.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(hex(&bytes).into())
    }
}

impl ContainerId {
    /// An id of 64 hex digits from 32 random bytes that the caller drew.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(hex(&bytes).into())
    }

    /// The first 12 characters, the short id that people type and DNS answers.
    pub fn short(&self) -> &str {
        &self.0[..self.0.len().min(12)]
    }
}

/// Lower-case hex of some bytes.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// The first `digits` hex digits of SHA-256 over the parts: stable names for derived objects.
pub fn digest(parts: &[&str], digits: usize) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let mut text = hex(&hash.finalize());
    text.truncate(digits);
    text
}

fn check_network_id(text: &str) -> Result<()> {
    let good = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if good {
        Ok(())
    } else {
        Err(Error::new(
            Code::InvalidId,
            format!("network id {text:?} is not 32 hex digits"),
        ))
    }
}

fn word(text: &str, max: usize) -> bool {
    text.len() <= max
        && text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn check_container_id(text: &str) -> Result<()> {
    if word(text, CONTAINER_ID_MAX) {
        return Ok(());
    }
    Err(Error::new(
        Code::InvalidId,
        format!(
            "container id {:?} is not valid: use 1 to {CONTAINER_ID_MAX} characters of A-Z a-z 0-9 _ . - \
             that start with a letter or digit",
            shorten(text)
        ),
    ))
}

fn check_name(text: &str) -> Result<()> {
    if word(text, NAME_MAX) {
        return Ok(());
    }
    Err(Error::new(
        Code::InvalidName,
        format!(
            "name {:?} is not valid: use 1 to {NAME_MAX} characters of A-Z a-z 0-9 _ . - \
             that start with a letter or digit",
            shorten(text)
        ),
    ))
}

/// A text cut to what fits into one line of an error message.
pub fn shorten(text: &str) -> String {
    const LIMIT: usize = 64;
    if text.chars().count() <= LIMIT {
        return text.to_owned();
    }
    text.chars().take(LIMIT).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_what_would_break_a_path_a_dns_name_or_a_terminal() {
        for bad in [
            "",
            " ",
            "a b",
            "a/b",
            "-a",
            ".a",
            "_a",
            "ä",
            "a\n",
            &"x".repeat(129),
            "\u{202e}a",
        ] {
            assert_eq!(
                Name::parse(bad).unwrap_err().code,
                Code::InvalidName,
                "{bad:?}"
            );
            assert_eq!(
                ContainerId::parse(bad).unwrap_err().code,
                Code::InvalidId,
                "{bad:?}"
            );
        }
        for good in ["a", "0", "web-1", "A.b_c", &"x".repeat(128)] {
            assert_eq!(Name::parse(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn an_error_message_never_repeats_a_whole_long_input() {
        let error = Name::parse(&"x y".repeat(5000)).unwrap_err();
        assert!(error.message.len() < 300, "{}", error.message.len());
    }

    #[test]
    fn digests_depend_on_where_one_part_ends() {
        assert_ne!(digest(&["ab", "c"], 10), digest(&["a", "bc"], 10));
        assert_eq!(digest(&["ab", "c"], 10).len(), 10);
    }
}
