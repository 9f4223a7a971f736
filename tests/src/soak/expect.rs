//! Which answers a request may get.

use crate::host::Answer;

use super::Shared;
use super::facts::{Facts, Key, Was, Watch};

/// Refusals with how surely they apply, and the status of success.
#[derive(Debug)]
pub(super) struct Expect {
    pub(super) success: u16,
    pub(super) refusals: Vec<(&'static str, Was)>,
}

/// What a request came to.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) enum End {
    Done,
    /// Refused; nothing has changed.
    Refused,
    /// Failed half way, in a way that is allowed now.
    Failed,
    /// The daemon died: it may have happened or not.
    Silent,
}

/// The code of an error, or nothing.
pub(super) fn code(answer: &Answer) -> &str {
    answer.body["error"]["code"].as_str().unwrap_or_default()
}

impl Expect {
    /// Judges an answer; an unlawful one is a violation.
    pub(super) fn judge(
        &self,
        shared: &Shared,
        what: &str,
        watch: &Watch,
        answer: &Result<Answer, String>,
    ) -> End {
        let (down, tampered) =
            shared.facts(|facts| (facts.was(watch, Key::Down), facts.was(watch, Key::Tampered)));
        let (end, lawful) = match answer {
            Err(_) => (End::Silent, down != Was::No),
            Ok(answer) if answer.status < 300 => {
                let certain = self.refusals.iter().any(|(_, was)| *was == Was::Yes);
                (End::Done, answer.status == self.success && !certain)
            }
            Ok(answer) => match code(answer) {
                "not_ready" => (End::Refused, down != Was::No),
                "kernel_failed" => (End::Failed, tampered != Was::No),
                code => (
                    End::Refused,
                    self.refusals
                        .iter()
                        .any(|(other, was)| *other == code && *was != Was::No),
                ),
            },
        };
        let certain = self.refusals.iter().all(|(_, was)| *was != Was::Maybe);
        let kind = answer
            .as_ref()
            .map_or("no answer", |answer| match code(answer) {
                "" => "done",
                code => code,
            });
        let how = if certain && down == Was::No && tampered == Was::No {
            "certain"
        } else {
            "uncertain"
        };
        Shared::count(&shared.answers, &format!("{kind}, {how}"));
        if !lawful {
            shared.violation(format!(
                "{what}: {answer:?}, with {self:?}, down {down:?}, tampered {tampered:?}"
            ));
        }
        end
    }
}

/// Whether a network existed: it is known, or a container was on it all the time.
pub(super) fn exists(facts: &mut Facts, watch: &Watch, network: usize) -> Was {
    if has_members(facts, watch, network) == Was::Yes {
        return Was::Yes;
    }
    facts.was(watch, Key::Network(network))
}

/// Whether a container was on the network.
pub(super) fn has_members(facts: &mut Facts, watch: &Watch, network: usize) -> Was {
    let members: Vec<Was> = super::Place::all()
        .map(|place| facts.was(watch, Key::Member(place, network)))
        .collect();
    Was::any(members)
}

/// The facts on which the existence of a network depends.
pub(super) fn about_network(network: usize) -> impl Iterator<Item = Key> {
    let members = super::Place::all().map(move |place| Key::Member(place, network));
    members.chain([
        Key::Network(network),
        Key::Down,
        Key::Tampered,
        Key::Unsettled,
    ])
}
