//! Owns the one form in which names are compared: lower case, no trailing dot, labels joined by dots.
//!
//! Pure. Never looks anything up.

use hickory_proto::rr::Name;

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

/// The form to look a queried name up by. `None` when it has no such form: a label that is not UTF-8,
/// or holds a dot of its own (`a\.b` must not be taken for `a.b`). The root is the empty string.
pub(crate) fn key(name: &Name) -> Option<String> {
    let mut key = String::with_capacity(name.len());
    for label in name {
        let label = str::from_utf8(label).ok()?;
        if label.contains('.') {
            return None;
        }
        if !key.is_empty() {
            key.push('.');
        }
        key.push_str(label);
    }
    key.make_ascii_lowercase();
    Some(key)
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
    fn key_keeps_an_escaped_dot_apart() {
        let name = Name::from_labels([&b"a.b"[..], b"c"]).unwrap();
        assert_eq!(key(&name), None);
        assert_eq!(key(&Name::root()).as_deref(), Some(""));
        assert_eq!(
            key(&Name::from_ascii("WEB.Net1.").unwrap()).as_deref(),
            Some("web.net1")
        );
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
