//! Owns the query log: one line for each query that was answered, if it is switched on.

use std::sync::Arc;

use hickory_proto::op::Query;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use crate::forward::Source;
use crate::raw::{self, HEADER};
use crate::stats::CODES;

/// Says who asked what, with which outcome, and where it came from (`None`: the zone).
pub(super) fn query(asker: Option<&Arc<str>>, query: &[u8], reply: &[u8], source: Option<&Source>) {
    let question = query
        .get(HEADER..)
        .and_then(|rest| Query::read(&mut BinDecoder::new(rest)).ok());
    let question =
        question.map_or_else(String::new, |q| format!("{} {}", q.name(), q.query_type()));
    let code = reply.get(..HEADER).map_or(0, raw::rcode);
    let code = CODES[usize::from(code).min(CODES.len() - 1)];
    let asker = asker.map_or("", |id| id.get(..12).unwrap_or(id));
    let from = source.map_or_else(|| "zone".to_owned(), describe);
    tracing::info!(target: "netd::query", asker, question, code, from, "dns");
}

/// Where an answer came from, in words.
pub(super) fn describe(source: &Source) -> String {
    match source {
        Source::Upstream(upstream) => format!("upstream {upstream}"),
        Source::Cache(age) => format!("cache, {} s old", age.as_secs()),
        Source::Stale(age) => format!("stale cache, {} s old", age.as_secs()),
        Source::Nobody(why) => format!("nobody: {why}"),
    }
}
