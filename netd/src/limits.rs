//! How many connections, requests and lasting descriptors fit the limit of open files. Pure.
//!
//! The API keeps a share of its own, so that `status` can be asked when everything else is used up.

/// Most connections to the API, however many descriptors there are: 1,000 containers started at once, and others beside.
const CONNECTIONS: u64 = 2048;
/// Descriptors that work for a moment: records, namespaces, netlink sockets, upstream queries.
const MOMENTARY: u64 = 64;

/// What fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections to the API at once. Above them the one that has been silent the longest is closed.
    pub connections: usize,
    /// Requests that may be under way. One more is refused with `too_many_requests`.
    pub requests: usize,
    /// Numbers of descriptors that stay open - namespaces, DNS sockets, host ports - are below this.
    pub lasting: u64,
}

impl Limits {
    /// What fits this many open files (`RLIMIT_NOFILE`).
    pub fn of(files: u64) -> Self {
        let connections = (files / 8).clamp(16, CONNECTIONS);
        let lasting = files.saturating_sub(connections + MOMENTARY);
        let connections = usize::try_from(connections).unwrap_or(usize::MAX);
        Self {
            connections,
            requests: connections / 2,
            lasting: lasting.max(files / 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_leaves_room_for_the_api() {
        for files in [256, 1024, 4096, 65_536, 1 << 20] {
            let limits = Limits::of(files);
            let api = u64::try_from(limits.connections).unwrap();
            assert!(limits.lasting + api < files, "{files}: {limits:?}");
            assert!(limits.requests < limits.connections, "{files}: {limits:?}");
        }
        assert_eq!(Limits::of(65_536).connections, 2048);
        assert_eq!(Limits::of(256).lasting, 160);
        // Too few to keep any apart: what there is, is used.
        assert_eq!(Limits::of(64).lasting, 32);
    }
}
