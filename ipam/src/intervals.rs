//! A set of numbers kept as merged inclusive intervals.
//!
//! Its size is the number of intervals, not of members, so a full /12 is one entry and an IPv6 /64
//! costs nothing. Because touching intervals are always merged, the number after the end of an
//! interval is never a member: the next free number is one lookup away, O(log intervals), however
//! full or fragmented the set is.

use std::collections::BTreeMap;

/// Start of each interval to its end, both included. Intervals never overlap or touch.
#[derive(Clone, Debug, Default)]
pub(crate) struct IntervalSet(BTreeMap<u128, u128>);

impl IntervalSet {
    pub(crate) fn contains(&self, value: u128) -> bool {
        self.last_overlap(value, value).is_some()
    }

    /// Adds one number; false when it was there.
    pub(crate) fn insert(&mut self, value: u128) -> bool {
        if self.contains(value) {
            return false;
        }
        let after = value.checked_add(1).and_then(|next| self.0.remove(&next));
        let end = after.unwrap_or(value);
        if let Some((_, before)) = self.0.range_mut(..value).next_back()
            && before.checked_add(1) == Some(value)
        {
            *before = end;
        } else {
            self.0.insert(value, end);
        }
        true
    }

    /// Adds all of `first..=last`, whatever of it was there.
    pub(crate) fn insert_range(&mut self, mut first: u128, mut last: u128) {
        let touch = last.saturating_add(1);
        while let Some((&start, &end)) = self.0.range(..=touch).next_back() {
            if end.saturating_add(1) < first {
                break;
            }
            self.0.remove(&start);
            first = first.min(start);
            last = last.max(end);
        }
        self.0.insert(first, last);
    }

    /// Takes one number out; false when it was not there.
    pub(crate) fn remove(&mut self, value: u128) -> bool {
        let Some((&start, end)) = self.0.range_mut(..=value).next_back() else {
            return false;
        };
        let old_end = *end;
        if old_end < value {
            return false;
        }
        if start == value {
            self.0.remove(&start);
        } else {
            *end = value - 1;
        }
        if value < old_end {
            self.0.insert(value + 1, old_end);
        }
        true
    }

    /// The lowest number in `from..=last` that is not a member.
    pub(crate) fn next_gap(&self, from: u128, last: u128) -> Option<u128> {
        let free = match self.last_overlap(from, from) {
            Some(end) => end.checked_add(1)?,
            None => from,
        };
        (free <= last).then_some(free)
    }

    /// How many numbers of `first..=last` are not members, at most `u128::MAX`. Walks all
    /// intervals of the span.
    pub(crate) fn count_gaps(&self, first: u128, last: u128) -> u128 {
        let (mut from, mut count) = (first, 0_u128);
        while let Some(gap) = self.next_gap(from, last) {
            let next = self.0.range(gap..).next().map(|(&start, _)| start);
            let end = next.map_or(last, |start| last.min(start - 1));
            count = count.saturating_add(end - gap).saturating_add(1);
            match end.checked_add(1) {
                Some(next) => from = next,
                None => break,
            }
        }
        count
    }

    /// The end of the last interval that shares a number with `first..=last`.
    pub(crate) fn last_overlap(&self, first: u128, last: u128) -> Option<u128> {
        let (_, &end) = self.0.range(..=last).next_back()?;
        (end >= first).then_some(end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn check_against(set: &IntervalSet, naive: &BTreeSet<u128>, base: u128) {
        let all = base..=base + 63;
        for value in all.clone() {
            assert_eq!(set.contains(value), naive.contains(&value));
            let gap = (value..=base + 63).find(|v| !naive.contains(v));
            assert_eq!(set.next_gap(value, base + 63), gap);
        }
        let free = all.filter(|v| !naive.contains(v)).count();
        assert_eq!(set.count_gaps(base, base + 63), free as u128);
        let entries: Vec<_> = set.0.iter().collect();
        assert!(entries.iter().all(|(start, end)| start <= end));
        assert!(
            entries.windows(2).all(|pair| pair[0].1 + 1 < *pair[1].0),
            "not merged: {set:?}"
        );
    }

    proptest! {
        #[test]
        fn behaves_like_a_set(
            // The top of the number space too, where end + 1 would overflow.
            base in prop_oneof![Just(0), Just(1 << 64), Just(u128::MAX - 63)],
            ops in prop::collection::vec((0..3_u8, 0..64_u128, 0..64_u128), 0..80),
        ) {
            let (mut set, mut naive) = (IntervalSet::default(), BTreeSet::new());
            for (op, a, b) in ops {
                let (a, b) = (base + a, base + b);
                match op {
                    0 => prop_assert_eq!(set.insert(a), naive.insert(a)),
                    1 => prop_assert_eq!(set.remove(a), naive.remove(&a)),
                    _ => {
                        set.insert_range(a.min(b), a.max(b));
                        naive.extend(a.min(b)..=a.max(b));
                    }
                }
                check_against(&set, &naive, base);
                let overlap = naive.range(a.min(b)..=a.max(b)).next_back().map(|_| ());
                prop_assert_eq!(set.last_overlap(a.min(b), a.max(b)).map(|_| ()), overlap);
            }
        }
    }

    #[test]
    fn counts_of_everything_saturate() {
        let mut set = IntervalSet::default();
        assert_eq!(set.count_gaps(0, u128::MAX), u128::MAX);
        set.insert(0);
        assert_eq!(set.count_gaps(0, u128::MAX), u128::MAX);
        set.insert(u128::MAX);
        assert_eq!(set.count_gaps(0, u128::MAX), u128::MAX - 1);
        set.insert_range(0, u128::MAX);
        assert_eq!(set.count_gaps(0, u128::MAX), 0);
        assert_eq!(set.next_gap(0, u128::MAX), None);
    }
}
