//! Owns the explanation of an answer: what a container gets for a name, and where that comes from.

use std::net::IpAddr;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};

use super::{Server, log};
use crate::answer::{self, Known, Transport, Verdict, answer_into, resolve};
use crate::forward::Begun;
use crate::request::Request;
use crate::zone::{SHORT_ID, View};

/// What a query came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The response code, such as `NOERROR`.
    pub code: String,
    /// The records of the answer, as in a zone file.
    pub answers: Vec<String>,
    /// Where it came from: `zone`, `cache`, `upstream`, ...
    pub source: String,
    /// Why, a sentence a line.
    pub steps: Vec<String>,
}

impl Server {
    /// Asks as the container `asker` would, over TCP so that nothing is cut, and says where the answer comes from. `None`
    /// for an unknown container; an error is a name or type that no query can ask for. It is counted nowhere.
    pub async fn explain(
        &self,
        asker: &str,
        name: &str,
        kind: &str,
    ) -> Option<Result<Explanation, String>> {
        let query = match question(name, kind) {
            Ok(query) => query,
            Err(error) => return Some(Err(error)),
        };
        let mut reply = Vec::new();
        let mut steps = Vec::new();
        let begun = {
            let zone = self.zone.read();
            let view = zone.view(asker)?;
            let verdict = answer_into(&query, Transport::Tcp, Some(&view), 0, &mut reply);
            steps.extend(reason(&query, &view));
            match verdict {
                Verdict::Forward => {
                    let own = Some(&view.asker.upstreams).filter(|own| !own.is_empty());
                    steps.push(match own {
                        Some(own) => format!("it is asked upstream: {}", list(own.iter())),
                        None => "it is asked upstream: the host's resolvers".to_owned(),
                    });
                    if view.asker.inside.is_some() {
                        steps.push("from the container's own namespace".to_owned());
                    }
                    let asker = Some(view.asker);
                    Some(self.forwarder.begin(&query, Transport::Tcp, asker))
                }
                Verdict::Reply | Verdict::Drop => None,
            }
        };
        let source = match begun {
            None => "zone".to_owned(),
            Some(Begun::Reply(cached, source)) => {
                reply = cached;
                log::describe(&source)
            }
            Some(Begun::Ask(ask)) => {
                let (fetched, source) = self.forwarder.finish(&query, Transport::Tcp, ask).await;
                reply = fetched;
                log::describe(&source)
            }
        };
        let silent = self.forwarder.silent();
        if source != "zone" && !silent.is_empty() {
            steps.push(format!(
                "these did not answer last time: {}",
                list(silent.iter())
            ));
        }
        Some(
            Message::from_vec(&reply)
                .map_err(|error| format!("the reply cannot be read: {error}"))
                .map(|message| Explanation {
                    code: format!("{:?}", message.metadata.response_code).to_uppercase(),
                    answers: message.answers.iter().map(ToString::to_string).collect(),
                    source,
                    steps,
                }),
        )
    }
}

impl Server {
    /// Which networks know a name: a line each.
    pub fn locate(&self, name: &str) -> Vec<String> {
        let holders = self.zone.read().holders(name);
        let line = |(network, address, holder): (String, IpAddr, std::sync::Arc<str>)| {
            let (node, id) = match holder.split_once('/') {
                Some((node, id)) => (format!(" of host {node}"), id),
                None => (String::new(), &*holder),
            };
            let id = id.get(..SHORT_ID).unwrap_or(id);
            format!("{address} on network {network}, container {id}{node}")
        };
        holders.into_iter().map(line).collect()
    }
}

fn question(name: &str, kind: &str) -> Result<Vec<u8>, String> {
    let kind: RecordType = kind
        .to_uppercase()
        .parse()
        .map_err(|_| format!("{kind:?} is no record type: try A, AAAA, TXT, SRV, PTR"))?;
    // An address is asked for by its reverse name.
    let name = match (name.parse::<IpAddr>(), kind) {
        (Ok(ip), RecordType::PTR) => Name::from(ip),
        _ => Name::from_utf8(name).map_err(|error| format!("{name:?} is no name: {error}"))?,
    };
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, kind));
    message.to_vec().map_err(|error| error.to_string())
}

fn list(items: impl Iterator<Item = impl ToString>) -> String {
    let texts: Vec<String> = items.map(|item| item.to_string()).collect();
    texts.join(", ")
}

/// What the zone makes of the name.
fn reason(query: &[u8], view: &View<'_>) -> Option<String> {
    let (request, _) = Request::read(query)?;
    Some(match resolve(&request.key()?, view) {
        Known::Host(found) => {
            let holders = answer::holders(&found);
            let ids = list(holders.iter().map(|id| id.get(..12).unwrap_or(id)).filter(|id| !id.is_empty()));
            match View::network_name(&found) {
                Some(network) => format!("the network {network} knows it: container {ids}"),
                None => "it is an extra host of this container".to_owned(),
            }
        }
        Known::Localhost => "localhost is always the container itself (RFC 6761)".to_owned(),
        Known::Service(..) => "a container offers this port".to_owned(),
        Known::Reverse(names, _) => format!("the address is held by {}", names.join(", ")),
        Known::Empty => "it exists only as the end of other names".to_owned(),
        Known::Nothing => "no network of the container knows it, and it is of a kind that is never asked outside".to_owned(),
        Known::Foreign if view.asker.forward => "no network of the container knows it".to_owned(),
        Known::Foreign => {
            "no network of the container knows it, and none of them has a way out, so nobody is asked".to_owned()
        }
    })
}
