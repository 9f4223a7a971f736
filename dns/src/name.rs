//! Owns the one form in which names are compared: lower case, no trailing dot, labels joined by dots.
//!
//! Pure. Never looks anything up.

/// Longest name in text form without its trailing dot (RFC 1035 section 2.3.4: 255 octets on the wire).
const MAX_NAME: usize = 253;
/// Longest label (RFC 1035 section 2.3.4).
const MAX_LABEL: usize = 63;

/// The stored form of a name that somebody configured, or `None` if no query could ever ask for it
/// (empty, an empty label, a label or the whole too long). Only ASCII letters fold (RFC 4343).
pub(crate) fn normalize(name: &str) -> Option<Box<str>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let fits = |label: &str| !label.is_empty() && label.len() <= MAX_LABEL;
    (name.len() <= MAX_NAME && name.split('.').all(fits))
        .then(|| name.to_ascii_lowercase().into_boxed_str())
}

/// The form to look a queried name up by, without an allocation.
#[derive(Debug)]
pub(crate) struct Key {
    bytes: [u8; MAX_NAME + 1],
    len: usize,
    /// How many labels it has; the root has none.
    pub(crate) labels: usize,
}

impl Key {
    /// The key of the uncompressed name that `wire` begins with. `None` when it has no such form: it is not whole, or
    /// a label is not UTF-8, or holds a dot of its own (`a\.b` must not be taken for `a.b`).
    pub(crate) fn of(wire: &[u8]) -> Option<Self> {
        let mut key = Self {
            bytes: [0; MAX_NAME + 1],
            len: 0,
            labels: 0,
        };
        let mut rest = wire;
        loop {
            let (&length, tail) = rest.split_first()?;
            if length == 0 {
                break;
            }
            let (label, tail) = tail.split_at_checked(usize::from(length))?;
            if key.labels > 0 {
                key.push(b'.')?;
            }
            for &byte in label {
                if byte == b'.' {
                    return None;
                }
                key.push(byte.to_ascii_lowercase())?;
            }
            key.labels += 1;
            rest = tail;
        }
        str::from_utf8(&key.bytes[..key.len]).ok()?;
        Some(key)
    }

    fn push(&mut self, byte: u8) -> Option<()> {
        *self.bytes.get_mut(self.len)? = byte;
        self.len += 1;
        Some(())
    }

    /// Lower case, labels joined by dots, no trailing dot; the root is the empty string.
    pub(crate) fn as_str(&self) -> &str {
        // Checked when it was made.
        str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

/// The uncompressed wire form of a stored name.
pub(crate) fn to_wire(key: &str) -> Vec<u8> {
    let mut wire = Vec::with_capacity(key.len() + 2);
    for label in key.split('.').filter(|label| !label.is_empty()) {
        // Stored names have no longer labels.
        wire.push(u8::try_from(label.len()).unwrap_or_default());
        wire.extend(label.as_bytes());
    }
    wire.push(0);
    wire
}

/// `localhost` and everything below it: always the loopback addresses (RFC 6761 section 6.3).
pub(crate) fn is_localhost(key: &str) -> bool {
    key.strip_suffix("localhost")
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalize_folds_case_and_the_trailing_dot() {
        assert_eq!(normalize("Web.Net1.").as_deref(), Some("web.net1"));
        assert_eq!(normalize("a_b-c").as_deref(), Some("a_b-c"));
    }

    #[test]
    fn normalize_refuses_what_no_query_can_ask() {
        for name in [
            "",
            ".",
            "a..b",
            ".a",
            "a..",
            &"x".repeat(64),
            &"x.".repeat(130),
        ] {
            assert_eq!(normalize(name), None, "{name:?}");
        }
    }

    #[test]
    fn a_key_is_what_normalize_stores() {
        let key = Key::of(b"\x03WEB\x04Net1\0rest").unwrap();
        assert_eq!((key.as_str(), key.labels), ("web.net1", 2));
        assert_eq!(to_wire(key.as_str()), b"\x03web\x04net1\0");
        assert_eq!(Key::of(b"\0").unwrap().as_str(), "");
        // A dot inside of a label, no UTF-8, cut off.
        for wire in [
            &b"\x03a.b\x01c\0"[..],
            b"\x02\xc3(\0",
            b"\x03we",
            b"\x03web",
            b"",
        ] {
            assert!(Key::of(wire).is_none(), "{wire:?}");
        }
        // Two halves of one character are not joined.
        assert!(Key::of(b"\x01\xc3\x01\xa4\0").is_none());
    }

    #[test]
    fn localhost_is_a_whole_label() {
        for name in ["localhost", "a.localhost", "a.b.localhost"] {
            assert!(is_localhost(name), "{name}");
        }
        for name in ["notlocalhost", "localhost.com", "", "local"] {
            assert!(!is_localhost(name), "{name}");
        }
    }
}
