use std::collections::BTreeSet;

use super::*;
use crate::nft::{digest, text};

fn container() -> ContainerId {
    ContainerId::parse("c1").unwrap()
}

fn all() -> [Ruleset; 4] {
    [host(), tunnels(), bridge(), dns(&container())]
}

fn statements(ruleset: &Ruleset) -> impl Iterator<Item = (&Chain, &Vec<Stmt>, &Stmt)> {
    ruleset.chains.iter().flat_map(|chain| {
        let rules = chain.rules.iter().flatten();
        rules.flat_map(move |rule| rule.iter().map(move |stmt| (chain, rule, stmt)))
    })
}

fn keys(stmt: &Stmt) -> Option<(&[Expr], &str)> {
    match stmt {
        Stmt::Lookup { key, set: name, .. }
        | Stmt::VerdictMap { key, map: name }
        | Stmt::SnatMap { key, map: name, .. }
        | Stmt::DnatMap { key, map: name, .. } => Some((key, name)),
        _ => None,
    }
}

#[test]
fn names_are_unique_and_fit_the_kernel() {
    for ruleset in all() {
        let sets: BTreeSet<_> = ruleset.sets.iter().map(|set| &set.name).collect();
        assert_eq!(sets.len(), ruleset.sets.len());
        let chains: BTreeSet<_> = ruleset.chains.iter().map(|chain| &chain.name).collect();
        assert_eq!(chains.len(), ruleset.chains.len());
        // Older kernels keep 32 bytes of a name (NFT_NAME_MAXLEN before 4.14).
        assert!(
            sets.iter()
                .chain(&chains)
                .all(|name| (1..32).contains(&name.len()))
        );
    }
}

#[test]
fn chains_lead_to_earlier_chains_only() {
    for ruleset in all() {
        let mut earlier = BTreeSet::new();
        for chain in &ruleset.chains {
            for stmt in chain.rules.iter().flatten().flatten() {
                if let Stmt::Verdict(Verdict::Jump(to) | Verdict::Goto(to)) = stmt {
                    assert!(earlier.contains(to), "{} leads to {to}", chain.name);
                    let target = ruleset.chains.iter().find(|c| c.name == *to).unwrap();
                    assert_eq!(target.hook, None, "only chains without a hook are led to");
                }
            }
            earlier.insert(chain.name.clone());
        }
    }
    for led in [TO_NAT, TO_ROUTED] {
        assert!(
            host().chains.iter().any(|chain| chain.name == led),
            "elements of {TO} lead there"
        );
    }
}

#[test]
fn every_key_has_the_types_of_its_set() {
    for ruleset in all() {
        keys_fit(&ruleset);
    }
}

fn keys_fit(ruleset: &Ruleset) {
    let mut used = BTreeSet::new();
    for (_, _, stmt) in statements(ruleset) {
        let Some((key, name)) = keys(stmt) else {
            continue;
        };
        let set = ruleset.set(name).unwrap_or_else(|| panic!("no set {name}"));
        let types: Vec<Field> = key.iter().map(|part| part.field()).collect();
        assert_eq!(types, set.key, "{name}");
        // Four bytes a register, 16 registers (NFT_REG32_COUNT).
        assert!(crate::nft::wire::size(&set.key) <= 64);
        let kind_fits = match stmt {
            Stmt::Lookup { .. } => set.kind == SetKind::Set,
            Stmt::VerdictMap { .. } => set.kind == SetKind::VerdictMap,
            Stmt::SnatMap { family, .. } => {
                let field = if *family == Family::V4 {
                    Field::Ip4
                } else {
                    Field::Ip6
                };
                set.kind == SetKind::Map(vec![field])
            }
            Stmt::DnatMap {
                family: Family::V4, ..
            } => set.kind == SetKind::Map(vec![Field::Ip4, Field::Port]),
            _ => set.kind == SetKind::Map(vec![Field::Ip6, Field::Port]),
        };
        assert!(kind_fits, "{name}");
        used.insert(name);
    }
    assert_eq!(used.len(), ruleset.sets.len(), "a set that no rule reads");
}

#[test]
fn every_match_compares_values_of_one_type() {
    for ruleset in all() {
        for (_, _, stmt) in statements(&ruleset) {
            match stmt {
                Stmt::Match { left, right, .. } => assert_eq!(left.field(), right.field()),
                Stmt::InPrefix { left, prefix } => {
                    assert!(
                        matches!(left, Expr::Saddr(f) | Expr::Daddr(f) if *f == prefix.family())
                    );
                }
                _ => {}
            }
        }
    }
}

#[test]
fn tags_tell_the_rules_of_a_chain_apart() {
    for ruleset in all() {
        for chain in &ruleset.chains {
            let rules = chain.rules.clone().unwrap_or_default();
            let tags: BTreeSet<_> = rules.iter().map(|rule| digest::tag(rule)).collect();
            assert_eq!(tags.len(), rules.len(), "{}", chain.name);
            assert!(tags.iter().all(|tag| tag.len() == digest::TAG_LEN));
        }
    }
}

#[test]
fn statements_after_a_verdict_would_never_run() {
    for ruleset in all() {
        for (chain, rule, _) in statements(&ruleset) {
            let ends = |stmt: &Stmt| {
                matches!(
                    stmt,
                    Stmt::Verdict(_)
                        | Stmt::VerdictMap { .. }
                        | Stmt::DnatMap { .. }
                        | Stmt::SnatMap { .. }
                        | Stmt::Masquerade
                )
            };
            assert!(
                !rule[..rule.len() - 1].iter().any(ends),
                "{}: {rule:?}",
                chain.name
            );
        }
    }
}

#[test]
fn the_source_is_judged_before_the_destination() {
    let rules = decide();
    let at = |name: &str| {
        let found = |rule: &Vec<Stmt>| keys(&rule[0]).is_some_and(|(_, set)| set == name);
        rules.iter().position(found).unwrap()
    };
    assert!(at(EGRESS) < at(TO));
    assert!(at(SAME) < at(EGRESS), "an internal network reaches itself");
    assert!(
        at(APART) < at(TO),
        "icc=false holds in a routed network too"
    );
}

#[test]
fn what_goes_to_a_container_is_guarded_before_the_administrator_accepts_it() {
    let rules = forward();
    let at = |stmt: &Stmt| rules.iter().position(|rule| rule.contains(stmt)).unwrap();
    let guard = guard::jump();
    let user = Stmt::Verdict(Verdict::Jump(USER_FORWARD.to_owned()));
    assert!(at(&guard) < at(&user));
    let unguarded: Vec<_> = rules[..at(&guard)].iter().flatten().collect();
    let asked = Stmt::Verdict(Verdict::Goto(counts::ASKED.to_owned()));
    assert_eq!(
        unguarded,
        [&Stmt::CtOriginal, &Stmt::CtStatusDnat, &asked],
        "only what was sent to a published port"
    );
}

/// The committed form of the rules: a change of a rule is a change of these files.
#[test]
fn the_rules_are_those_of_the_golden_files() {
    for (name, text, golden) in [
        (
            "host",
            text::render(&host()),
            include_str!("golden/host.nft"),
        ),
        (
            "tunnels",
            text::render(&tunnels()),
            include_str!("golden/tunnels.nft"),
        ),
        (
            "bridge",
            text::render(&bridge()),
            include_str!("golden/bridge.nft"),
        ),
        (
            "dns",
            text::render(&dns(&container())),
            include_str!("golden/dns.nft"),
        ),
    ] {
        assert!(
            text == golden,
            "src/skeleton/golden/{name}.nft is to be\n{text}"
        );
    }
}
