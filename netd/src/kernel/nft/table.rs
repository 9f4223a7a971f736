//! A whole table: what the kernel holds of it, and the messages that make it hold a ruleset.

use std::collections::BTreeMap;
use std::io;

use netd_model::Owner;
use netd_model::nft::digest::{ChainShape, RulesetDigest, tag};
use netd_model::nft::{Chain, Ruleset};

use super::abi::*;
use super::attr::Attrs;
use super::batch::{Batch, Label, Packing};
use super::transport::Transport;
use super::{compile, shape, userdata};

/// A table in the kernel, as far as it is of one ruleset.
#[derive(Debug)]
pub(super) struct Table {
    /// The mark on it.
    pub(super) owner: Option<Owner>,
    /// Whether it is switched off as a whole.
    dormant: bool,
    /// Its chains and sets: those of the ruleset, and those that another version of netd left. Chains and sets that
    /// someone else put beside ours are not in here and stay alone.
    digest: RulesetDigest,
}

impl Table {
    /// Reads the table of a ruleset; `None` if there is none of its name.
    pub(super) fn read(transport: &mut Transport, ruleset: &Ruleset) -> io::Result<Option<Self>> {
        let name = ruleset.table.name.as_str();
        let tables = transport.dump(NFT_MSG_GETTABLE, family(ruleset), |_| ())?;
        let is_it = |attrs: &Attrs<'_>| attrs.text(NFTA_TABLE_NAME) == Some(name);
        let Some(attrs) = tables.iter().map(|message| message.attrs()).find(is_it) else {
            return Ok(None);
        };
        let flags = attrs.u32(NFTA_TABLE_FLAGS).unwrap_or_default();
        let owner = attrs
            .get(NFTA_TABLE_USERDATA)
            .and_then(userdata::read_owner);
        let mut digest = RulesetDigest::default();
        read_chains(transport, ruleset, &mut digest)?;
        read_sets(transport, ruleset, &mut digest)?;
        Ok(Some(Self {
            owner,
            dormant: flags & NFT_TABLE_F_DORMANT != 0,
            digest,
        }))
    }

    /// In what the table differs from the ruleset, in words.
    pub(super) fn difference(&self, ruleset: &Ruleset, digest: &RulesetDigest) -> Option<String> {
        if self.owner.as_ref() != Some(&ruleset.owner) {
            return Some("it is marked for another owner".to_owned());
        }
        if self.dormant {
            return Some("it is switched off".to_owned());
        }
        digest.difference(&self.digest)
    }

    /// Switches a table of the ruleset's owner on that someone switched off.
    ///
    /// In a batch of its own: the kernel refuses a batch that changes a table's flags and its base chains
    /// (`nft_table_pending_update`, net/netfilter/nf_tables_api.c).
    pub(super) fn wake(&mut self, transport: &mut Transport, ruleset: &Ruleset) -> io::Result<()> {
        if !self.dormant || self.owner.as_ref() != Some(&ruleset.owner) {
            return Ok(());
        }
        let mut batch = Batch::new(transport.next_seq(), Packing::Together);
        add_table(ruleset, 0, &mut batch);
        let sealed = batch.seal();
        if let Some(failure) = transport.commit(sealed.bytes(), sealed.messages())?.first() {
            return Err(io::Error::from_raw_os_error(failure.errno));
        }
        self.dormant = false;
        Ok(())
    }

    /// Whether a set is of the types that are wanted, so that its elements can be read.
    pub(super) fn has_set(&self, wanted: &RulesetDigest, name: &str) -> bool {
        let shape = self.digest.sets.get(name);
        shape.is_some_and(|shape| shape.is_some() && wanted.sets.get(name) == Some(shape))
    }
}

/// The number of the table's family.
const fn family(ruleset: &Ruleset) -> u8 {
    shape::nfproto(ruleset.table.family)
}

fn read_chains(
    transport: &mut Transport,
    ruleset: &Ruleset,
    digest: &mut RulesetDigest,
) -> io::Result<()> {
    let table = ruleset.table.name.as_str();
    let chains = transport.dump(NFT_MSG_GETCHAIN, family(ruleset), |_| ())?;
    let rules = transport.dump(NFT_MSG_GETRULE, family(ruleset), |w| {
        w.put_text(NFTA_RULE_TABLE, table);
    })?;
    let mut tags: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for attrs in rules.iter().map(|message| message.attrs()) {
        // Kernels that do not know the filter give the rules of all tables.
        if let (Some(of), Some(chain)) = (attrs.text(NFTA_RULE_TABLE), attrs.text(NFTA_RULE_CHAIN))
        {
            let tag = attrs
                .get(NFTA_RULE_USERDATA)
                .map(userdata::read_tag)
                .unwrap_or_default();
            if of == table {
                tags.entry(chain).or_default().push(tag);
            }
        }
    }
    for attrs in chains.iter().map(|message| message.attrs()) {
        let Some(name) = attrs.text(NFTA_CHAIN_NAME) else {
            continue;
        };
        let wanted = ruleset.chains.iter().find(|chain| chain.name == name);
        let left = || {
            attrs
                .get(NFTA_CHAIN_USERDATA)
                .is_some_and(userdata::is_ours)
        };
        if attrs.text(NFTA_CHAIN_TABLE) == Some(table) && (wanted.is_some() || left()) {
            let mut chain = shape::read_chain(attrs);
            if wanted.is_none_or(|chain| chain.rules.is_some()) {
                chain.tags = Some(tags.remove(name).unwrap_or_default());
            }
            digest.chains.insert(name.to_owned(), chain);
        }
    }
    Ok(())
}

fn read_sets(
    transport: &mut Transport,
    ruleset: &Ruleset,
    digest: &mut RulesetDigest,
) -> io::Result<()> {
    let table = ruleset.table.name.as_str();
    let sets = transport.dump(NFT_MSG_GETSET, family(ruleset), |w| {
        w.put_text(NFTA_SET_TABLE, table);
    })?;
    for attrs in sets.iter().map(|message| message.attrs()) {
        let Some(name) = attrs.text(NFTA_SET_NAME) else {
            continue;
        };
        let left = || attrs.get(NFTA_SET_USERDATA).is_some_and(userdata::is_ours);
        if attrs.text(NFTA_SET_TABLE) == Some(table) && (ruleset.set(name).is_some() || left()) {
            digest.sets.insert(name.to_owned(), shape::read_set(attrs));
        }
    }
    Ok(())
}

/// Adds to a batch what makes the table hold the ruleset, given what it holds now. Elements and the administrator's
/// chains stay as they are.
///
/// Fails, and says why in words, where that would take away what is not ours.
pub(super) fn install(
    ruleset: &Ruleset,
    table: Option<&Table>,
    step: usize,
    batch: &mut Batch,
) -> Result<(), String> {
    let table = keep(ruleset, table, step, batch)?;
    let empty = RulesetDigest::default();
    let have = table.map_or(&empty, |table| &table.digest);
    clear(ruleset, have, step, batch);
    if table.is_none() {
        add_table(ruleset, step, batch);
    }
    let (name, family) = (ruleset.table.name.as_str(), ruleset.table.family);
    for (set, id) in ruleset.sets.iter().zip(1..) {
        if !have.sets.contains_key(&set.name) {
            let label = Label::part(step, format!("set {}", set.name));
            batch.message(label, family, (NFT_MSG_NEWSET, NLM_F_CREATE), |w| {
                w.put_text(NFTA_SET_TABLE, name);
                shape::write_set(set, id, w);
            });
        }
    }
    for chain in &ruleset.chains {
        let right = |shape: &ChainShape| shape.hook == chain.hook && shape.accepts;
        if !have.chains.get(&chain.name).is_some_and(right) {
            add_chain(ruleset, chain, step, batch);
        }
    }
    for chain in &ruleset.chains {
        add_rules(ruleset, chain, step, batch)?;
    }
    Ok(())
}

/// Adds the table, or switches an existing one on.
fn add_table(ruleset: &Ruleset, step: usize, batch: &mut Batch) {
    batch.message(
        Label::step(step),
        ruleset.table.family,
        (NFT_MSG_NEWTABLE, NLM_F_CREATE),
        |w| {
            w.put_text(NFTA_TABLE_NAME, &ruleset.table.name);
            w.put_u32(NFTA_TABLE_FLAGS, 0);
            w.put(NFTA_TABLE_USERDATA, &userdata::owner(&ruleset.owner));
        },
    );
}

/// Decides what of an existing table can stay; removes it as a whole where nothing in it is the administrator's.
fn keep<'a>(
    ruleset: &Ruleset,
    table: Option<&'a Table>,
    step: usize,
    batch: &mut Batch,
) -> Result<Option<&'a Table>, String> {
    let Some(table) = table else { return Ok(None) };
    match &table.owner {
        None => return Err("a table of that name is there and not marked as netd's".to_owned()),
        Some(owner) if *owner == ruleset.owner => {}
        Some(owner) if ruleset.chains.iter().any(|chain| chain.rules.is_none()) => {
            return Err(format!("the table is marked as serving {owner}"));
        }
        Some(_) => {
            remove(ruleset, step, batch);
            return Ok(None);
        }
    }
    match in_the_way(ruleset, table) {
        Some(what) => Err(what),
        None => Ok(Some(table)),
    }
}

/// What cannot be changed without taking elements or the administrator's rules away.
fn in_the_way(ruleset: &Ruleset, table: &Table) -> Option<String> {
    let wanted = ruleset.digest();
    let other = |name: &&String| wanted.sets.contains_key(*name) && !table.has_set(&wanted, name);
    if let Some(name) = table.digest.sets.keys().find(other) {
        return Some(format!("the set {name} is there with another type"));
    }
    let users = ruleset.chains.iter().filter(|chain| chain.rules.is_none());
    let mut hooked = users.filter_map(|chain| {
        let shape = table.digest.chains.get(&chain.name)?;
        (shape.hook != chain.hook).then_some(chain.name.as_str())
    });
    hooked
        .next_back()
        .map(|name| format!("the chain {name} is there with another hook"))
}

/// Takes away all rules of netd, and the chains and sets that are not wanted any more or cannot be changed.
fn clear(ruleset: &Ruleset, have: &RulesetDigest, step: usize, batch: &mut Batch) {
    let (table, family) = (ruleset.table.name.as_str(), ruleset.table.family);
    let label = |what: &str, name: &str| Label::part(step, format!("{what} {name}"));
    for (name, _) in have.chains.iter().filter(|(_, chain)| chain.tags.is_some()) {
        batch.message(
            label("rules of chain", name),
            family,
            (NFT_MSG_DELRULE, 0),
            |w| {
                w.put_text(NFTA_RULE_TABLE, table);
                w.put_text(NFTA_RULE_CHAIN, name);
            },
        );
    }
    for (name, shape) in &have.chains {
        let wanted = ruleset.chains.iter().find(|chain| chain.name == *name);
        // Where a chain is hooked in cannot be changed, only its policy can.
        let unreadable = shape.hook.is_none() && !shape.accepts;
        if wanted.is_none_or(|chain| chain.hook != shape.hook || unreadable) {
            batch.message(label("chain", name), family, (NFT_MSG_DELCHAIN, 0), |w| {
                w.put_text(NFTA_CHAIN_TABLE, table);
                w.put_text(NFTA_CHAIN_NAME, name);
            });
        }
    }
    for name in have.sets.keys().filter(|name| ruleset.set(name).is_none()) {
        batch.message(label("set", name), family, (NFT_MSG_DELSET, 0), |w| {
            w.put_text(NFTA_SET_TABLE, table);
            w.put_text(NFTA_SET_NAME, name);
        });
    }
}

/// Adds a chain, or gives an existing one the policy it should have.
fn add_chain(ruleset: &Ruleset, chain: &Chain, step: usize, batch: &mut Batch) {
    let label = Label::part(step, format!("chain {}", chain.name));
    batch.message(
        label,
        ruleset.table.family,
        (NFT_MSG_NEWCHAIN, NLM_F_CREATE),
        |w| {
            w.put_text(NFTA_CHAIN_TABLE, &ruleset.table.name);
            w.put_text(NFTA_CHAIN_NAME, &chain.name);
            if let Some(hook) = chain.hook {
                shape::write_hook(hook, w);
            }
            if chain.rules.is_some() {
                w.put(NFTA_CHAIN_USERDATA, &userdata::chain());
            }
        },
    );
}

fn add_rules(
    ruleset: &Ruleset,
    chain: &Chain,
    step: usize,
    batch: &mut Batch,
) -> Result<(), String> {
    for (rule, number) in chain.rules.iter().flatten().zip(1..) {
        let part = format!("rule {number} of chain {}", chain.name);
        let mut compiled = Ok(());
        let flags = NLM_F_CREATE | NLM_F_APPEND;
        batch.message(
            Label::part(step, part.as_str()),
            ruleset.table.family,
            (NFT_MSG_NEWRULE, flags),
            |w| {
                w.put_text(NFTA_RULE_TABLE, &ruleset.table.name);
                w.put_text(NFTA_RULE_CHAIN, &chain.name);
                w.nest(NFTA_RULE_EXPRESSIONS, |w| {
                    compiled = compile::rule(ruleset.table.family, rule, w);
                });
                w.put(NFTA_RULE_USERDATA, &userdata::tag(&tag(rule)));
            },
        );
        compiled.map_err(|error| format!("{part}: {error}"))?;
    }
    Ok(())
}

/// Adds to a batch a table of a ruleset's family, of a name of its own, with the hooks of the ruleset.
pub(super) fn probe(ruleset: &Ruleset, batch: &mut Batch) {
    let mut scratch = Ruleset {
        sets: Vec::new(),
        ..ruleset.clone()
    };
    scratch.table.name.push_str("-probe");
    add_table(&scratch, 0, batch);
    for chain in ruleset.chains.iter().filter(|chain| chain.hook.is_some()) {
        add_chain(&scratch, chain, 0, batch);
    }
}

/// Adds to a batch what removes the table with all that is in it.
pub(super) fn remove(ruleset: &Ruleset, step: usize, batch: &mut Batch) {
    batch.message(
        Label::step(step),
        ruleset.table.family,
        (NFT_MSG_DELTABLE, 0),
        |w| {
            w.put_text(NFTA_TABLE_NAME, &ruleset.table.name);
        },
    );
}
