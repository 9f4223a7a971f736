//! Whether a table holds a ruleset, judged from what can be read back.
//!
//! The kernel gives rules back as bytecode. Instead of comparing that, each rule carries a [`tag`] of its content in
//! its userdata: a rule that another program put in, replaced or restored from a listing has none. A ruleset and a
//! table of the kernel are both brought into the form of [`RulesetDigest`] and compared there.

use std::collections::BTreeMap;

use super::{Chain, Field, Hook, Ruleset, SetKind, SetSpec, Stmt};
use crate::id;

/// Number of the netlink form of rules. It goes into every tag: raise it when the same statement is to be written
/// differently, or a table from the version before passes for up to date.
pub const ENCODING: &str = "1";

/// Length of a tag: 16 hex digits.
pub const TAG_LEN: usize = 16;

/// A name for the content of a rule, the same in every run.
pub fn tag(rule: &[Stmt]) -> String {
    match serde_json::to_string(rule) {
        Ok(json) => id::digest(&[ENCODING, &json], TAG_LEN),
        // Statements hold no map and no fallible type, and a String takes any write.
        Err(error) => unreachable!("a rule cannot be serialised: {error}"),
    }
}

/// What is compared of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetShape {
    /// The parts of its key.
    pub key: Vec<Field>,
    /// What it maps to.
    pub kind: SetKind,
    /// Whether its elements are intervals.
    pub interval: bool,
}

impl From<&SetSpec> for SetShape {
    fn from(set: &SetSpec) -> Self {
        Self {
            key: set.key.clone(),
            kind: set.kind.clone(),
            interval: set.interval,
        }
    }
}

/// What is compared of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainShape {
    /// Where it is hooked in.
    pub hook: Option<Hook>,
    /// Whether its policy is accept; true for a chain that is only jumped to.
    pub accepts: bool,
    /// Tags of its rules, an empty text for a rule without one; `None` where netd does not look.
    pub tags: Option<Vec<String>>,
}

impl From<&Chain> for ChainShape {
    fn from(chain: &Chain) -> Self {
        let tags = |rules: &Vec<Vec<Stmt>>| rules.iter().map(|rule| tag(rule)).collect();
        Self {
            hook: chain.hook,
            accepts: true,
            tags: chain.rules.as_ref().map(tags),
        }
    }
}

/// What is compared of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RulesetDigest {
    /// Its chains by name.
    pub chains: BTreeMap<String, ChainShape>,
    /// Its sets and maps by name. A set whose type no version of netd writes is `None`.
    pub sets: BTreeMap<String, Option<SetShape>>,
}

impl Ruleset {
    /// What a table that holds this ruleset looks like.
    pub fn digest(&self) -> RulesetDigest {
        RulesetDigest {
            chains: self
                .chains
                .iter()
                .map(|c| (c.name.clone(), c.into()))
                .collect(),
            sets: self
                .sets
                .iter()
                .map(|s| (s.name.clone(), Some(s.into())))
                .collect(),
        }
    }
}

impl RulesetDigest {
    /// The first thing in which a table differs from this, as a text for people; `None` if it does not.
    pub fn difference(&self, table: &Self) -> Option<String> {
        let chain = first_difference(&self.chains, &table.chains);
        let set = || first_difference(&self.sets, &table.sets);
        chain
            .map(|how| format!("chain {how}"))
            .or_else(|| set().map(|how| format!("set {how}")))
    }
}

fn first_difference<T: PartialEq>(
    want: &BTreeMap<String, T>,
    have: &BTreeMap<String, T>,
) -> Option<String> {
    let wrong = want.iter().find_map(|(name, shape)| match have.get(name) {
        None => Some(format!("{name} is missing")),
        Some(other) if other != shape => Some(format!("{name} differs")),
        Some(_) => None,
    });
    let surplus = || have.keys().find(|name| !want.contains_key(*name));
    wrong.or_else(|| surplus().map(|name| format!("{name} is not wanted any more")))
}

#[cfg(test)]
mod tests {
    use crate::skeleton;

    #[test]
    fn a_difference_is_named() {
        let want = skeleton::host().digest();
        assert_eq!(want.difference(&want), None);

        let mut table = want.clone();
        table
            .chains
            .get_mut("guard")
            .unwrap()
            .tags
            .as_mut()
            .unwrap()
            .pop();
        assert_eq!(want.difference(&table).unwrap(), "chain guard differs");
        table.chains.remove(skeleton::USER_FORWARD);
        assert_eq!(want.difference(&table).unwrap(), "chain guard differs");
        table.chains.remove("guard");
        assert_eq!(want.difference(&table).unwrap(), "chain guard is missing");

        let mut table = want.clone();
        table.sets.insert("old".to_owned(), None);
        assert_eq!(
            want.difference(&table).unwrap(),
            "set old is not wanted any more"
        );
        table.sets.insert("own4".to_owned(), None);
        assert_eq!(want.difference(&table).unwrap(), "set own4 differs");
    }

    #[test]
    fn what_is_in_user_forward_is_not_looked_at() {
        assert_eq!(
            skeleton::host().digest().chains[skeleton::USER_FORWARD].tags,
            None
        );
    }
}
