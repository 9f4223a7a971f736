//! The addresses of one prefix: who may have which, and which one is next.
//!
//! Owns the state of every address (free, in use, reserved, in quarantine). Never reads a clock,
//! never stores anything, never knows who holds an address.
//!
//! The order of automatic allocation:
//! 1. the next free address after the one handed out last, round and round (next-fit), so that a
//!    released address is met again as late as possible;
//! 2. when no other is free, the address longest in quarantine. An expired one always comes before
//!    an unexpired one, and an unexpired one before an error: soon reused beats no address.
//!
//! While other addresses are free, those whose quarantine has expired become ordinary free
//! addresses again, a few per call, so that no call has to move thousands of them at once and the
//! quarantine of a busy IPv6 /64 does not grow for ever.

use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::addr::{Family, Span, normalised};
use crate::error::{Error, ReservedAs};
use crate::intervals::IntervalSet;
use crate::quarantine::Quarantine;

/// How long a released address rests unless [`Pool::set_quarantine`] says otherwise.
pub const DEFAULT_QUARANTINE: Duration = Duration::from_secs(60);

/// Addresses that rest at most. The round comes back to one only after all others, so in a large prefix an early end of
/// its rest is not noticed; without a limit every released address of a minute would take memory.
pub const MOST_QUARANTINED: usize = 4096;

/// Expired addresses freed per call. A call adds at most one, so anything above one drains them.
const FREED_PER_CALL: usize = 8;

/// The addresses of one IPv4 or IPv6 prefix.
///
/// Every operation is O(log n) in the number of stretches of busy addresses plus those in
/// quarantine; memory grows with these too and never with the size of the prefix.
///
/// `now` is a monotonic time since any moment the caller picks and sticks to.
#[derive(Clone, Debug)]
pub struct Pool {
    prefix: IpNetwork,
    all: Span,
    range: Option<IpNetwork>,
    /// Where automatic allocation looks: the range, or all of the prefix.
    auto: Span,
    gateway: Option<u128>,
    reserved: IntervalSet,
    /// Reserved, in use and in quarantine: everything step 1 of the allocation skips.
    busy: IntervalSet,
    /// Only addresses of `auto`: others are never handed out unasked, so they need no rest.
    quarantine: Quarantine,
    rest: Duration,
    /// Where the next search starts, inside `auto`.
    cursor: u128,
    capacity: u128,
    used: u128,
    used_in_auto: u128,
}

impl Pool {
    /// A pool with every address free but the reserved ones: the network and broadcast address of
    /// IPv4 prefixes shorter than /31, the subnet-router anycast address of IPv6 prefixes shorter
    /// than /127, `gateway`, and what `extra_reserved` covers (parts outside `prefix` do not
    /// matter, so whole lists of a host's addresses may be passed).
    ///
    /// Host bits of `prefix` and `range` are ignored. An IPv6 gateway may be the anycast address.
    ///
    /// # Errors
    /// `RangeOutsidePrefix`, `GatewayOutsidePrefix`, and `GatewayReserved` for an IPv4 gateway
    /// that is the network or broadcast address.
    pub fn new(
        prefix: IpNetwork,
        range: Option<IpNetwork>,
        gateway: Option<IpAddr>,
        extra_reserved: &[IpNetwork],
    ) -> Result<Self, Error> {
        let (prefix, range) = (normalised(prefix), range.map(normalised));
        let all = Span::of(prefix);
        let auto = auto_span(prefix, range)?;
        let gateway = gateway.map(|ip| check_gateway(prefix, ip)).transpose()?;
        let reserved = reserved_set(prefix, gateway, extra_reserved);
        Ok(Self {
            prefix,
            all,
            range,
            auto,
            gateway,
            busy: reserved.clone(),
            capacity: reserved.count_gaps(auto.first, auto.last),
            reserved,
            quarantine: Quarantine::default(),
            rest: DEFAULT_QUARANTINE,
            cursor: auto.first,
            used: 0,
            used_in_auto: 0,
        })
    }

    /// How long addresses released from now on rest. Zero turns the quarantine off.
    pub fn set_quarantine(&mut self, rest: Duration) {
        self.rest = rest;
    }

    /// Hands out an address in the order the module describes.
    ///
    /// # Errors
    /// `Exhausted` when every address of the range (of the prefix, without a range) is in use.
    pub fn allocate(&mut self, now: Duration) -> Result<IpAddr, Error> {
        let value = self
            .next_free()
            .or_else(|| self.quarantine.pop_oldest())
            .ok_or_else(|| self.exhausted())?;
        self.mark_used(value);
        self.cursor = if value < self.auto.last {
            value + 1
        } else {
            self.auto.first
        };
        self.free_expired(now);
        Ok(self.all.family.addr(value))
    }

    /// Takes one particular address, in quarantine or not, inside the range or not.
    ///
    /// # Errors
    /// `OutOfPrefix`, `Reserved`, `InUse`.
    pub fn claim(&mut self, ip: IpAddr) -> Result<(), Error> {
        let prefix = self.prefix;
        let value = self.all.find(ip).ok_or(Error::OutOfPrefix { ip, prefix })?;
        if let Some(what) = self.reserved_as(value) {
            return Err(Error::Reserved { ip, prefix, what });
        }
        if !self.quarantine.remove(value) && self.busy.contains(value) {
            return Err(Error::InUse { ip, prefix });
        }
        self.mark_used(value);
        Ok(())
    }

    /// Takes an address that a record says is held, when the pool is rebuilt at start. As
    /// [`Pool::claim`]; restore the round as well with [`Pool::set_cursor`], else it starts again
    /// at the lowest address and reuses what was released just before the restart.
    ///
    /// # Errors
    /// `OutOfPrefix`, `Reserved`, `InUse`: the records contradict the network or each other.
    pub fn adopt(&mut self, ip: IpAddr) -> Result<(), Error> {
        self.claim(ip)
    }

    /// Whether [`Pool::allocate`] would hand out an address that nobody had lately: one that was not released, or has rested
    /// since.
    pub fn has_rested(&self, now: Duration) -> bool {
        let resting = self.quarantine.len() as u128;
        self.used_in_auto + resting < self.capacity || self.quarantine.has_expired(now)
    }

    /// Gives back an address that was on the wire; it rests before it is handed out again, unless
    /// [`MOST_QUARANTINED`] others are released before that.
    ///
    /// # Errors
    /// `OutOfPrefix`, `NotInUse`; nothing has changed then.
    pub fn release(&mut self, ip: IpAddr, now: Duration) -> Result<(), Error> {
        let value = self.mark_unused(ip)?;
        if self.auto.holds(value) {
            self.quarantine.push(value, now.saturating_add(self.rest));
            if self.quarantine.len() > MOST_QUARANTINED
                && let Some(oldest) = self.quarantine.pop_oldest()
            {
                self.busy.remove(oldest);
            }
        } else {
            self.busy.remove(value);
        }
        self.free_expired(now);
        Ok(())
    }

    /// Gives back an address that was never on the wire (a rolled back attach): free at once. The
    /// cursor stays where it is, and an address that was claimed out of quarantine does not return
    /// there.
    ///
    /// # Errors
    /// `OutOfPrefix`, `NotInUse`; nothing has changed then.
    pub fn unclaim(&mut self, ip: IpAddr) -> Result<(), Error> {
        let value = self.mark_unused(ip)?;
        self.busy.remove(value);
        Ok(())
    }

    /// Whether `ip` belongs to the prefix, reserved or not.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.all.find(ip).is_some()
    }

    /// Whether somebody holds `ip`. Reserved addresses and those in quarantine are not in use.
    pub fn is_used(&self, ip: IpAddr) -> bool {
        self.all
            .find(ip)
            .is_some_and(|value| self.holds_used(value))
    }

    /// Addresses in use, inside and outside the range.
    pub fn len_used(&self) -> u128 {
        self.used
    }

    /// Addresses in use that count against [`Pool::capacity`].
    pub fn len_used_in_range(&self) -> u128 {
        self.used_in_auto
    }

    /// Released addresses that have not become ordinary free ones again.
    pub fn len_quarantined(&self) -> usize {
        self.quarantine.len()
    }

    /// Whether nobody holds an address, and every released one has rested.
    pub fn is_idle(&self, now: Duration) -> bool {
        self.used == 0 && self.quarantine.latest().is_none_or(|until| until <= now)
    }

    /// How many addresses automatic allocation can hand out when none is in use: those of the
    /// range (of the prefix, without a range) less the reserved ones.
    pub fn capacity(&self) -> u128 {
        self.capacity
    }

    /// The prefix, host bits cleared.
    pub fn prefix(&self) -> IpNetwork {
        self.prefix
    }

    /// Where automatic allocation looks: the range, or all of the prefix.
    pub fn range(&self) -> IpNetwork {
        self.range.unwrap_or(self.prefix)
    }

    /// Where the search for the next free address starts.
    pub fn cursor(&self) -> IpAddr {
        self.all.family.addr(self.cursor)
    }

    /// Goes on with the round at `ip`, a former [`Pool::cursor`]. An address outside the range
    /// (it may have been changed since) starts the round at the range's first one.
    pub fn set_cursor(&mut self, ip: IpAddr) {
        self.cursor = self.auto.find(ip).unwrap_or(self.auto.first);
    }

    fn next_free(&self) -> Option<u128> {
        let last = self.auto.last;
        let ahead = self.busy.next_gap(self.cursor, last);
        ahead.or_else(|| self.busy.next_gap(self.auto.first, last))
    }

    fn mark_used(&mut self, value: u128) {
        // One that was in quarantine is in `busy` already.
        self.busy.insert(value);
        self.used += 1;
        self.used_in_auto += u128::from(self.auto.holds(value));
    }

    /// Counts `ip` out; the caller decides what becomes of it.
    fn mark_unused(&mut self, ip: IpAddr) -> Result<u128, Error> {
        let prefix = self.prefix;
        let value = self.all.find(ip).ok_or(Error::OutOfPrefix { ip, prefix })?;
        if !self.holds_used(value) {
            return Err(Error::NotInUse { ip, prefix });
        }
        self.used -= 1;
        self.used_in_auto -= u128::from(self.auto.holds(value));
        Ok(value)
    }

    fn holds_used(&self, value: u128) -> bool {
        self.busy.contains(value)
            && !self.reserved.contains(value)
            && !self.quarantine.contains(value)
    }

    fn reserved_as(&self, value: u128) -> Option<ReservedAs> {
        if !self.reserved.contains(value) {
            return None;
        }
        if self.gateway == Some(value) {
            return Some(ReservedAs::Gateway);
        }
        Some(reserved_edge(self.prefix, value).unwrap_or(ReservedAs::Excluded))
    }

    /// Turns expired addresses into free ones, unless they are the only ones left: then their
    /// order (oldest first) is the better one.
    fn free_expired(&mut self, now: Duration) {
        if self.used_in_auto + self.quarantine.len() as u128 == self.capacity {
            return;
        }
        for _ in 0..FREED_PER_CALL {
            let Some(value) = self.quarantine.pop_expired(now) else {
                return;
            };
            self.busy.remove(value);
        }
    }

    fn exhausted(&self) -> Error {
        Error::Exhausted {
            prefix: self.prefix,
            range: self.range,
            capacity: self.capacity,
        }
    }
}

fn auto_span(prefix: IpNetwork, range: Option<IpNetwork>) -> Result<Span, Error> {
    let Some(range) = range else {
        return Ok(Span::of(prefix));
    };
    if !Span::of(prefix).covers(Span::of(range)) {
        return Err(Error::RangeOutsidePrefix { range, prefix });
    }
    Ok(Span::of(range))
}

fn check_gateway(prefix: IpNetwork, gateway: IpAddr) -> Result<u128, Error> {
    let span = Span::of(prefix);
    let value = span
        .find(gateway)
        .ok_or(Error::GatewayOutsidePrefix { gateway, prefix })?;
    match reserved_edge(prefix, value) {
        // Routers answer on the anycast address, so it can be a gateway somebody else runs.
        None | Some(ReservedAs::Anycast) => Ok(value),
        Some(what) => Err(Error::GatewayReserved {
            gateway,
            prefix,
            what,
        }),
    }
}

/// What the first or last address of the prefix is reserved as. The two shortest prefixes of each
/// family use all their addresses (RFC 3021, RFC 6164).
fn reserved_edge(prefix: IpNetwork, value: u128) -> Option<ReservedAs> {
    let span = Span::of(prefix);
    if span.last - span.first <= 1 {
        return None;
    }
    match span.family {
        Family::V4 if value == span.first => Some(ReservedAs::Network),
        Family::V4 if value == span.last => Some(ReservedAs::Broadcast),
        Family::V6 if value == span.first => Some(ReservedAs::Anycast),
        _ => None,
    }
}

fn reserved_set(prefix: IpNetwork, gateway: Option<u128>, extra: &[IpNetwork]) -> IntervalSet {
    let span = Span::of(prefix);
    let mut set = IntervalSet::default();
    for edge in [span.first, span.last] {
        if reserved_edge(prefix, edge).is_some() {
            set.insert(edge);
        }
    }
    if let Some(gateway) = gateway {
        set.insert(gateway);
    }
    for part in extra
        .iter()
        .filter_map(|&net| span.intersect(Span::of(net)))
    {
        set.insert_range(part.first, part.last);
    }
    set
}

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
