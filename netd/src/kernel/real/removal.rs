//! Removing links, many in one request.
//!
//! The kernel takes 20 ms for one link, nearly all of it waiting for others to stop looking at it, and 70 ms for 200
//! links that go by one group request. Links of the host are gone long before the end of that, see [`super::unlinker`].

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use netd_model::Ns;
use netd_model::object::Link;
use nix::errno::Errno;

use super::link::{self, GROUPS, LAST_GROUP, LinkView};
use super::netlink::{Refusal, Request, gone_is_done};
use super::space::Space;
use super::unlinker::Unlinker;

/// Links removed by one request: it holds up all other route requests, 10 to 20 ms for so many.
pub(super) const AT_ONCE: usize = 64;

/// Group numbers for removals: fresh ones from netd's range, at random places in it.
#[derive(Debug)]
pub(super) struct Groups(Mutex<State>);

#[derive(Debug)]
struct State {
    next: u32,
    /// Numbers of the range that were seen on links, or were left on links by a removal that failed.
    used: HashSet<u32>,
}

impl Groups {
    /// Starts at a random number.
    pub(super) fn new() -> Self {
        let random = RandomState::new().hash_one(std::process::id());
        let next = GROUPS | (u32::try_from(random & 0xffff).unwrap_or(0));
        Self(Mutex::new(State {
            next,
            used: HashSet::new(),
        }))
    }

    /// Notes the group numbers on links: none of them is fresh.
    pub(super) fn seen(&self, links: &[LinkView]) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.used = links
            .iter()
            .map(|view| view.group)
            .filter(|group| *group >= GROUPS)
            .collect();
    }

    /// A number that no link has; it is not given out again before the range is through.
    pub(super) fn fresh(&self) -> u32 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            // The first of the range marks links that are being made.
            state.next = if state.next >= LAST_GROUP {
                GROUPS + 1
            } else {
                state.next + 1
            };
            // The range is larger than any number of links, so this ends.
            if !state.used.contains(&state.next) {
                return state.next;
            }
        }
    }
}

/// Removes links of netd. One that is gone is removed; one of the same name that does not carry the owner's mark is
/// not netd's, and stays.
///
/// The error comes with the number of links that are done.
pub(super) fn remove_links(
    space: &mut Space,
    links: &[&Link],
    groups: &Groups,
    unlinker: &Unlinker,
) -> Result<(), (usize, Refusal)> {
    space.forget();
    for (done, part) in links.chunks(AT_ONCE).enumerate() {
        remove_part(space, part, groups, unlinker).map_err(|refusal| (done * AT_ONCE, refusal))?;
    }
    Ok(())
}

fn remove_part(
    space: &mut Space,
    links: &[&Link],
    groups: &Groups,
    unlinker: &Unlinker,
) -> Result<(), Refusal> {
    let indexes = find(space, links)?;
    let request = match indexes.as_slice() {
        [] => return Ok(()),
        [index] => link::remove(*index),
        indexes => {
            let group = groups.fresh();
            let requests: Vec<Request> = indexes
                .iter()
                .map(|index| link::set_group(*index, group))
                .collect();
            for answer in space.route.batch(&requests)? {
                gone_is_done(answer, &[Errno::ENODEV])?;
            }
            link::remove_group(group)
        }
    };
    let answer = match space.ns {
        Ns::Host => unlinker.remove(space, request, &indexes),
        Ns::Container(_) => space.route.call(&request),
    };
    gone_is_done(answer, &[Errno::ENODEV])
}

/// The indexes of those links that are there and carry their owner's mark.
fn find(space: &mut Space, links: &[&Link]) -> Result<Vec<u32>, Refusal> {
    let requests: Vec<Request> = links.iter().map(|link| link::by_name(&link.name)).collect();
    let mut found = Vec::with_capacity(links.len());
    for (answer, link) in space.route.batch(&requests)?.into_iter().zip(links) {
        let view = match answer {
            Ok(body) => LinkView::read(&body),
            Err(refusal) if refusal.errno() == Errno::ENODEV => None,
            Err(refusal) => return Err(refusal),
        };
        match view {
            Some(view) if view.owner.as_ref() == Some(&link.owner) => found.push(view.index),
            Some(_) => {
                tracing::warn!(link = %link.name, owner = %link.owner, "not removed: it lacks its owner's mark");
            }
            None => {}
        }
    }
    Ok(found)
}
