//! Ways in for the fuzz targets, which see nothing but the public interface. Only compiled for them.

use std::sync::Arc;
use std::time::Duration;

use crate::answer::Transport;
use crate::cache::{Cache, Hit, Key};
use crate::raw;
use crate::request::Request;

/// An upstream's reply to a query that fits it: kept, given out fresh and stale, and cut.
pub fn upstream_reply(reply: &[u8]) {
    if reply.len() < raw::HEADER {
        return;
    }
    let end = raw::question_end(reply)
        .unwrap_or(raw::HEADER)
        .min(reply.len());
    let mut query = reply[..end].to_vec();
    query[2] &= 0x01;
    query[3] &= 0x30;
    query[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 1]);
    // An OPT that offers 1232 bytes.
    query.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    let related = raw::is_reply_to(&query, reply);
    let Some((request, _)) = Request::read(&query) else {
        return;
    };
    if !related || request.question.is_none() {
        return;
    }
    for transport in [Transport::Udp, Transport::Tcp] {
        let restored = raw::restore(&request, reply, transport);
        assert_eq!(restored[..2], query[..2]);
    }
    let Some(key) = Key::of(&request, &Arc::default()) else {
        return;
    };
    let mut cache = Cache::new(1 << 20);
    cache.insert(key.clone(), reply, Duration::ZERO);
    for seconds in [0, 1, 3599, 86_401, 200_000] {
        let (Hit::Fresh { reply: kept, .. } | Hit::Stale { reply: kept, .. }) =
            cache.get(&key, &request, Duration::from_secs(seconds))
        else {
            continue;
        };
        assert_eq!(kept[..2], query[..2]);
        // Its records stand where they should. (Names in their data may point at TTLs, and then they are others now: whoever
        // sends such a reply gets no better one.)
        assert!(raw::records(&kept).is_some());
    }
}
