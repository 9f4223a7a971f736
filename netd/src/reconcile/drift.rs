//! Changes that somebody else makes: what was noticed is compared with what is wanted, what differs is audited and
//! repaired.
//!
//! netd's own changes are noticed like any other. They are told apart by what they are, not by who made them: once a
//! change has settled, the kernel holds what is wanted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use netd_model::object::Sysctl;
use netd_model::{ContainerId, Key, NetworkId, Ns, Object, Owner as ObjectOwner, api};
use tokio::sync::mpsc;

use crate::kernel::{Noticed, Process};
use crate::reconcile::audit::Purpose;
use crate::reconcile::journal::Entry;
use crate::reconcile::owner::{Owner, Touches};

/// From the first notice to the look: a change comes in several notices.
const SETTLE: Duration = Duration::from_millis(50);
/// After a look, the place is left alone for this many times the look's duration: no storm takes more of the processor.
const SHARE: u32 = 9;
/// A place is never left alone for longer.
const LONGEST: Duration = Duration::from_secs(5);
/// Repairs of a place within [`WINDOW`] that make an alarm.
const ALARM: u32 = 30;
const WINDOW: Duration = Duration::from_mins(1);
/// Places remembered for their repairs.
const PLACES: usize = 1024;

/// Who changed what, by namespace.
pub(crate) type Places = BTreeMap<Ns, Option<Process>>;

/// What was noticed and not looked at yet.
#[derive(Debug, Default)]
pub(crate) struct Drift {
    seen: BTreeMap<Key, (ObjectOwner, Option<Box<Object>>)>,
    places: Places,
    /// Notices were lost: everything has to be looked at.
    lost: bool,
    /// When to look.
    due: Option<Instant>,
    history: HashMap<Ns, History>,
}

/// The repairs of one place.
#[derive(Clone, Debug)]
struct History {
    not_before: Instant,
    /// Beginning of the window, and the repairs in it.
    since: Instant,
    repairs: u32,
    last_by: Option<Process>,
}

impl Drift {
    /// Takes a notice.
    pub(crate) fn notice(&mut self, noticed: Noticed, now: Instant) {
        match noticed {
            Noticed::Object { owner, key, now } => {
                self.seen.insert(key, (owner, now));
            }
            Noticed::Place { ns, by, .. } => {
                self.places.insert(ns, by);
            }
            Noticed::Lost => self.lost = true,
        }
        self.due.get_or_insert(now + SETTLE);
    }

    /// When to look next.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether the next look comes before the queue of notices can be full.
    pub(crate) fn is_due_soon(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now + SETTLE)
    }

    /// Compares what was noticed with what is wanted: places that differ are to be looked at. Objects that a job of
    /// netd's is changing now wait for its end. What a container's namespace holds when the container is off the records is
    /// none of netd's affairs: `lo` stays up, and of routes that go with their link the kernel tells nothing.
    fn compare(
        &mut self,
        wanted: impl Fn(&ObjectOwner) -> Vec<Object>,
        is_known: impl Fn(&ContainerId) -> bool,
        is_in_flight: impl Fn(&ObjectOwner) -> bool,
        now: Instant,
    ) {
        let mut known: HashMap<ObjectOwner, BTreeMap<Key, Object>> = HashMap::new();
        for (key, (owner, held)) in std::mem::take(&mut self.seen) {
            if is_in_flight(&owner) {
                self.seen.insert(key, (owner, held));
                continue;
            }
            if inside(&key).is_some_and(|id| !is_known(id)) {
                continue;
            }
            let objects = known.entry(owner.clone()).or_insert_with(|| {
                let objects = wanted(&owner).into_iter();
                objects.map(|object| (object.key(), object)).collect()
            });
            let is_right = match (objects.get(&key), &held) {
                (None, None) => true,
                (Some(wanted), Some(held)) => wanted.is_held_as(held),
                _ => false,
            };
            if !is_right {
                self.places.entry(place(&key, &owner)).or_insert(None);
            }
        }
        self.due = (!self.seen.is_empty()).then_some(now + SETTLE);
    }

    /// Entries of stations elsewhere that are gone. A network may have tens of thousands, so each is asked for by itself.
    fn compare_stations(
        &mut self,
        is_wanted: impl Fn(&NetworkId, &Key) -> bool,
        is_in_flight: impl Fn(&ObjectOwner) -> bool,
    ) {
        let seen = std::mem::take(&mut self.seen).into_iter();
        let (stations, others) = seen.partition(|(key, (owner, _))| {
            let elsewhere = matches!(owner, ObjectOwner::Network(_));
            elsewhere && key.is_station() && !is_in_flight(owner)
        });
        self.seen = others;
        let stations: BTreeMap<Key, _> = stations;
        for (key, (owner, _)) in stations {
            if let ObjectOwner::Network(id) = &owner
                && is_wanted(id, &key)
            {
                self.places.entry(place(&key, &owner)).or_insert(None);
            }
        }
    }

    /// The places that may be looked at now; the others wait for their time.
    fn ready(&mut self, now: Instant) -> Places {
        let waits = |ns: &Ns| {
            let history = self.history.get(ns);
            history.map(|h| h.not_before).filter(|at| *at > now)
        };
        let (later, ready): (Places, Places) = std::mem::take(&mut self.places)
            .into_iter()
            .partition(|(ns, _)| waits(ns).is_some());
        let next = later.keys().filter_map(waits).min();
        self.due = self.due.into_iter().chain(next).min();
        self.places = later;
        ready
    }

    /// Notes a look, how long it took, and whether there was something to repair.
    fn looked(&mut self, places: &Places, took: Duration, repaired: bool, now: Instant) {
        if self.history.len() > PLACES {
            self.history.retain(|_, h| now < h.since + WINDOW);
            let quiet = |h: &History| h.repairs < ALARM && h.not_before <= now;
            if self.history.len() > PLACES {
                self.history.retain(|_, h| !quiet(h));
            }
        }
        for (ns, by) in places {
            let history = self.history.entry(ns.clone()).or_insert_with(|| History {
                not_before: now,
                since: now,
                repairs: 0,
                last_by: None,
            });
            if now >= history.since + WINDOW {
                (history.since, history.repairs) = (now, 0);
            }
            history.not_before = now + (took * SHARE).min(LONGEST);
            history.repairs += u32::from(repaired);
            if by.is_some() {
                history.last_by.clone_from(by);
            }
        }
    }

    /// Places that somebody keeps changing.
    pub(crate) fn alarms(&self, now: Instant) -> Vec<String> {
        let mut alarms: Vec<String> = self
            .history
            .iter()
            .filter(|(_, h)| h.repairs >= ALARM && now < h.since + 2 * WINDOW)
            .map(|(ns, h)| {
                let by = h.last_by.as_ref().map_or_else(String::new, |by| {
                    format!(", last by {} (process {})", by.name, by.pid)
                });
                format!(
                    "{ns} was changed and repaired {} times within a minute{by}: find out who does it; `netctl events` \
                     lists what",
                    h.repairs
                )
            })
            .collect();
        alarms.sort();
        alarms
    }
}

/// The container in whose namespace the kernel told of an object.
fn inside(key: &Key) -> Option<&ContainerId> {
    match key {
        Key::Link { ns, .. }
        | Key::Address { ns, .. }
        | Key::Route { ns, .. }
        | Key::Loopback(ns) => match ns {
            Ns::Container(id) => Some(id),
            Ns::Host => None,
        },
        _ => None,
    }
}

/// Where to look for an object: an end of a veth pair on the host is made again together with its peer.
fn place(key: &Key, owner: &ObjectOwner) -> Ns {
    let of_owner = || match owner {
        ObjectOwner::Container(id) | ObjectOwner::Endpoint(id, _) => Ns::Container(id.clone()),
        ObjectOwner::Host | ObjectOwner::Network(_) => Ns::Host,
    };
    inside(key).map_or_else(of_owner, |id| Ns::Container(id.clone()))
}

impl Owner {
    /// Looks after what was noticed, as far as it is time.
    pub(crate) fn look_after(&mut self) {
        let now = Instant::now();
        if !self.ready || self.purging {
            self.drift.due = Some(now + SETTLE);
            return;
        }
        let mut touched = Touches::default();
        let pending = self.pending.values();
        pending.for_each(|pending| touched.add(&pending.touches));
        let world = &self.world;
        let wanted = |owner: &ObjectOwner| match owner {
            ObjectOwner::Host => world.host_objects(),
            ObjectOwner::Network(id) => world.objects([id], []),
            ObjectOwner::Container(id) | ObjectOwner::Endpoint(id, _) => world.objects([], [id]),
        };
        let is_known = |id: &ContainerId| world.container(id).is_some();
        self.drift.compare_stations(
            |id, key| world.is_station_wanted(id, key),
            |owner| touched.holds(owner),
        );
        self.drift
            .compare(wanted, is_known, |owner| touched.holds(owner), now);
        if std::mem::take(&mut self.drift.lost) {
            self.start_audit(Purpose::Repair { reply: None });
        }
        let places = self.drift.ready(now);
        if !places.is_empty() {
            self.start_audit(Purpose::Drift { places, begun: now });
        }
    }

    /// Reads, on a thread that may block, the host's settings that netd made.
    pub(crate) fn start_settings(&self, read: &mpsc::Sender<Vec<Sysctl>>) {
        if !self.ready || self.purging || read.capacity() == 0 {
            return;
        }
        let wanted = self.world.settings();
        if wanted.is_empty() {
            return;
        }
        let (kernel, read) = (std::sync::Arc::clone(&self.tools.kernel), read.clone());
        tokio::task::spawn_blocking(move || {
            // A full channel: the last reading is not dealt with yet, the next one sees the same.
            let _ = read.try_send(kernel.settings(wanted));
        });
    }

    /// A setting that is not as wanted is noticed like any other object.
    pub(crate) fn after_settings(&mut self, read: Vec<Sysctl>) {
        let wanted = self.world.settings();
        let now = Instant::now();
        for sysctl in read.into_iter().filter(|sysctl| !wanted.contains(sysctl)) {
            let object = Object::Sysctl(sysctl);
            self.drift.notice(
                Noticed::Object {
                    owner: object.owner().clone(),
                    key: object.key(),
                    now: Some(Box::new(object)),
                },
                now,
            );
        }
    }

    /// The look is over, and so are the repairs.
    pub(crate) fn looked_after(&mut self, places: &Places, begun: Instant, repairs: &api::Plan) {
        let now = Instant::now();
        let repaired = !repairs.ops.is_empty();
        self.drift.looked(places, now - begun, repaired, now);
        if !repaired {
            return;
        }
        let by = places.values().flatten().next();
        let names: Vec<String> = places.keys().map(ToString::to_string).collect();
        self.record_repairs(repairs, &names.join(", "), by);
    }

    /// An event for each repair.
    pub(crate) fn record_repairs(&self, repairs: &api::Plan, place: &str, by: Option<&Process>) {
        for text in repairs.text.iter().take(repairs.ops.len()) {
            let entry = Entry::new("repaired", place.to_owned(), text.clone());
            self.journal.add(Entry {
                by: by.cloned(),
                ..entry
            });
        }
    }

    /// The containers to look into.
    pub(crate) fn insides(places: &Places) -> BTreeSet<ContainerId> {
        let insides = places.keys().filter_map(|ns| match ns {
            Ns::Host => None,
            Ns::Container(id) => Some(id.clone()),
        });
        insides.collect()
    }
}

#[cfg(test)]
mod tests;
