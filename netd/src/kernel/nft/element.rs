//! Elements to attributes and back.
//!
//! A set of intervals over one field is a tree of bounds: an element for the first key and, flagged, one for the first
//! key *behind* the interval; an interval that reaches to the last address has only the first. Two intervals side by side
//! share a key, once as end and once as start. A set of intervals over several fields holds first and last key in one
//! element.

use netd_model::Owner;
use netd_model::counters::Count;
use netd_model::nft::{
    Datum, Element, ElementData, ElementKey, Field, Rate, SetKind, SetSpec, TableRef, Verdict, wire,
};

use super::abi::*;
use super::attr::{Attrs, Writer};
use super::{compile, userdata};

/// The expression that counts.
const COUNTER: &str = "counter";

/// Why an element is not one of a set.
pub(super) fn mismatch(spec: &SetSpec, element: &Element) -> Option<&'static str> {
    let types = |parts: &[Datum]| parts.iter().map(Datum::field).collect::<Vec<_>>();
    let key = &element.key;
    let (first, last) = (wire::encode(&key.first), wire::encode(&key.last));
    let data_fits = match (&spec.kind, &element.data) {
        (SetKind::Set, ElementData::None) | (SetKind::VerdictMap, ElementData::Verdict(_)) => true,
        (SetKind::Map(fields), ElementData::Values(values)) => types(values) == *fields,
        _ => false,
    };
    if types(&key.first) != spec.key || types(&key.last) != spec.key {
        Some("its key has other types than its set")
    } else if !spec.interval && first != last {
        Some("its set takes no intervals")
    } else if first > last {
        Some("its interval is empty")
    } else if data_fits {
        None
    } else {
        Some("its data has other types than its set")
    }
}

/// Whether intervals of this set are pairs of bounds.
fn in_bounds(spec: &SetSpec) -> bool {
    spec.interval && spec.key.len() == 1
}

/// Writes what `NFT_MSG_NEWSETELEM` takes of an element.
pub(super) fn write(spec: &SetSpec, element: &Element, w: &mut Writer) {
    let first = wire::encode(&element.key.first);
    let last = wire::encode(&element.key.last);
    let end = after(&last);
    let open = in_bounds(spec) && end.is_none();
    w.nest(NFTA_LIST_ELEM, |w| {
        put_key(NFTA_SET_ELEM_KEY, &first, w);
        if spec.interval && !in_bounds(spec) {
            put_key(NFTA_SET_ELEM_KEY_END, &last, w);
        }
        put_data(&element.data, w);
        let mark = if open {
            userdata::owner_of_open_interval(&element.owner)
        } else {
            userdata::owner(&element.owner)
        };
        w.put(NFTA_SET_ELEM_USERDATA, &mark);
        if spec.counter {
            put_counter(w);
        }
        if let Some(rate) = spec.limit {
            put_limit(rate, w);
        }
    });
    if in_bounds(spec) {
        put_end(end.as_deref(), w);
    }
}

/// Writes what `NFT_MSG_DELSETELEM` takes of an element.
pub(super) fn write_removal(spec: &SetSpec, key: &ElementKey, w: &mut Writer) {
    let last = wire::encode(&key.last);
    w.nest(NFTA_LIST_ELEM, |w| {
        put_key(NFTA_SET_ELEM_KEY, &wire::encode(&key.first), w);
        if spec.interval && !in_bounds(spec) {
            put_key(NFTA_SET_ELEM_KEY_END, &last, w);
        }
    });
    if in_bounds(spec) {
        put_end(after(&last).as_deref(), w);
    }
}

fn put_key(kind: u16, key: &[u8], w: &mut Writer) {
    w.nest(kind, |w| w.put(NFTA_DATA_VALUE, key));
}

fn put_end(end: Option<&[u8]>, w: &mut Writer) {
    let Some(end) = end else { return };
    w.nest(NFTA_LIST_ELEM, |w| {
        put_key(NFTA_SET_ELEM_KEY, end, w);
        w.put_u32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
    });
}

fn put_counter(w: &mut Writer) {
    w.nest(NFTA_SET_ELEM_EXPR, |w| {
        w.put_text(NFTA_EXPR_NAME, COUNTER);
        w.nest(NFTA_EXPR_DATA, |w| {
            w.put(NFTA_COUNTER_BYTES, &0_u64.to_be_bytes());
            w.put(NFTA_COUNTER_PACKETS, &0_u64.to_be_bytes());
        });
    });
}

fn put_limit(rate: Rate, w: &mut Writer) {
    w.nest(NFTA_SET_ELEM_EXPR, |w| {
        w.put_text(NFTA_EXPR_NAME, "limit");
        w.nest(NFTA_EXPR_DATA, |w| {
            w.put(NFTA_LIMIT_RATE, &rate.second.to_be_bytes());
            w.put(NFTA_LIMIT_UNIT, &1_u64.to_be_bytes());
            w.put_u32(NFTA_LIMIT_BURST, rate.burst);
            w.put_u32(NFTA_LIMIT_TYPE, NFT_LIMIT_PKTS);
        });
    });
}

/// What an element has counted; none if it has no counter.
pub(super) fn read_counter(item: Attrs<'_>) -> Option<Count> {
    let expression = item.inside(NFTA_SET_ELEM_EXPR);
    if expression.text(NFTA_EXPR_NAME) != Some(COUNTER) {
        return None;
    }
    let data = expression.inside(NFTA_EXPR_DATA);
    let number = |kind| Some(u64::from_be_bytes(data.get(kind)?.try_into().ok()?));
    Some(Count {
        packets: number(NFTA_COUNTER_PACKETS)?,
        bytes: number(NFTA_COUNTER_BYTES)?,
    })
}

fn put_data(data: &ElementData, w: &mut Writer) {
    match data {
        ElementData::None => {}
        ElementData::Values(values) => put_key(NFTA_SET_ELEM_DATA, &wire::encode(values), w),
        ElementData::Verdict(verdict) => {
            w.nest(NFTA_SET_ELEM_DATA, |w| compile::verdict(verdict, w));
        }
    }
}

/// The next key; `None` after the last.
fn after(key: &[u8]) -> Option<Vec<u8>> {
    step(key, 0xff, 0, |byte| byte.wrapping_add(1))
}

/// The key before; `None` before the first.
fn before(key: &[u8]) -> Option<Vec<u8>> {
    step(key, 0, 0xff, |byte| byte.wrapping_sub(1))
}

/// Counts a number of many bytes: those at its end that are `full` turn to `turned`, the one before them is counted.
fn step(key: &[u8], full: u8, turned: u8, count: fn(u8) -> u8) -> Option<Vec<u8>> {
    let at = key.iter().rposition(|byte| *byte != full)?;
    let mut next = key.to_vec();
    for (index, byte) in next.iter_mut().enumerate().skip(at) {
        *byte = if index == at { count(*byte) } else { turned };
    }
    Some(next)
}

/// What was found in a set.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Its elements.
    pub(super) elements: Vec<Element>,
    /// How many more there are that netd cannot have written and cannot name.
    pub(super) unreadable: usize,
}

/// Reads the elements of a set from the attributes that a dump gave of each.
pub(super) fn read<'a>(
    table: &TableRef,
    spec: &SetSpec,
    items: impl Iterator<Item = Attrs<'a>>,
) -> Found {
    let raw = items.filter_map(|item| {
        let key = item
            .inside(NFTA_SET_ELEM_KEY)
            .get(NFTA_DATA_VALUE)?
            .to_vec();
        let last = item
            .inside(NFTA_SET_ELEM_KEY_END)
            .get(NFTA_DATA_VALUE)
            .map(<[u8]>::to_vec);
        let flags = item.u32(NFTA_SET_ELEM_FLAGS).unwrap_or_default();
        let owner = item
            .get(NFTA_SET_ELEM_USERDATA)
            .and_then(userdata::read_owner);
        Some(Raw {
            last: last.unwrap_or_else(|| key.clone()),
            key,
            is_end: flags & NFT_SET_ELEM_INTERVAL_END != 0,
            data: read_data(&spec.kind, item.inside(NFTA_SET_ELEM_DATA)),
            owner: owner.unwrap_or(Owner::Host),
        })
    });
    let raw: Vec<Raw> = if in_bounds(spec) {
        join(raw.collect())
    } else {
        raw.collect()
    };
    let mut found = Found::default();
    for item in raw {
        match item.named(table, spec) {
            Some(element) => found.elements.push(element),
            None => found.unreadable += 1,
        }
    }
    found
}

/// An element in bytes.
struct Raw {
    key: Vec<u8>,
    last: Vec<u8>,
    is_end: bool,
    data: ElementData,
    owner: Owner,
}

impl Raw {
    fn named(self, table: &TableRef, spec: &SetSpec) -> Option<Element> {
        let key = ElementKey {
            table: table.clone(),
            set: spec.name.clone(),
            first: wire::decode(&spec.key, &self.key)?,
            last: wire::decode(&spec.key, &self.last)?,
        };
        Some(Element {
            key,
            data: self.data,
            owner: self.owner,
        })
    }
}

/// Joins bounds to intervals. An end without a start says nothing; a start that no end follows reaches to the next
/// start, as it does in the kernel's lookup, or to the last key.
fn join(mut bounds: Vec<Raw>) -> Vec<Raw> {
    // An end stands before a start of the same key.
    bounds.sort_by(|a, b| a.key.cmp(&b.key).then(b.is_end.cmp(&a.is_end)));
    let mut intervals: Vec<Raw> = Vec::with_capacity(bounds.len() / 2 + 1);
    let mut open = false;
    for bound in bounds {
        if let (true, Some(interval)) = (open, intervals.last_mut()) {
            interval.last = before(&bound.key).unwrap_or_default();
        }
        open = !bound.is_end;
        if open {
            let last = vec![0xff; bound.key.len()];
            intervals.push(Raw { last, ..bound });
        }
    }
    intervals
}

/// Data that netd cannot have written reads as none: that differs from all that can be wanted of a map.
fn read_data(kind: &SetKind, data: Attrs<'_>) -> ElementData {
    match kind {
        SetKind::Set => ElementData::None,
        SetKind::Map(fields) => read_values(fields, data).unwrap_or(ElementData::None),
        SetKind::VerdictMap => read_verdict(data).map_or(ElementData::None, ElementData::Verdict),
    }
}

fn read_values(fields: &[Field], data: Attrs<'_>) -> Option<ElementData> {
    wire::decode(fields, data.get(NFTA_DATA_VALUE)?).map(ElementData::Values)
}

fn read_verdict(data: Attrs<'_>) -> Option<Verdict> {
    let verdict = data.inside(NFTA_DATA_VERDICT);
    let chain = || verdict.text(NFTA_VERDICT_CHAIN).map(str::to_owned);
    Some(match verdict.u32(NFTA_VERDICT_CODE)? {
        NF_ACCEPT => Verdict::Accept,
        NF_DROP => Verdict::Drop,
        NFT_RETURN => Verdict::Return,
        NFT_GOTO => Verdict::Goto(chain()?),
        NFT_JUMP => Verdict::Jump(chain()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
