//! nftables over netlink: the only place that knows how a [`Ruleset`] and an [`Element`] look to the kernel.
//!
//! Written by hand over a plain netlink socket. Of `netlink-socket2` only the transport would have been of use, and it
//! asks for an answer to each message of a batch, stops reading at the first error and has no say over the socket's
//! buffers: a batch of 10,000 elements needs the opposite of each.
#![allow(
    clippy::wildcard_imports,
    reason = "of `abi` only, which is a table of numbers"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::LazyLock;

use netd_model::counters::{Both, Dropped};
use netd_model::nft::digest::RulesetDigest;
use netd_model::nft::{Element, Ruleset};
use netd_model::{Ns, Object, Op, skeleton};
use nix::libc::ENOENT;

use self::abi::*;
use self::batch::{Batch, Packing, Sealed};
use self::table::Table;
use self::transport::{Failure, Transport};
use super::KernelError;

#[allow(dead_code, reason = "a table of numbers reads better whole")]
mod abi;
mod attr;
mod batch;
mod compile;
mod element;
mod observe;
mod shape;
mod table;
#[cfg(test)]
mod tests;
mod transport;
mod userdata;

/// A socket to nf_tables in one network namespace: that of the thread which opened it, whatever thread uses it.
#[derive(Debug)]
pub struct NftSocket {
    transport: Transport,
}

/// A ruleset of ours with what it is compared by.
#[derive(Debug)]
struct Known {
    ruleset: Ruleset,
    digest: RulesetDigest,
}

impl Known {
    fn new(ruleset: Ruleset) -> Self {
        let digest = ruleset.digest();
        Self { ruleset, digest }
    }
}

/// The host's ruleset: the same all the time, and needed for each element.
static HOST: LazyLock<Known> = LazyLock::new(|| Known::new(skeleton::host()));
/// The ruleset of the bridges, likewise.
static BRIDGE: LazyLock<Known> = LazyLock::new(|| Known::new(skeleton::bridge()));

/// The ruleset of tunnels, likewise.
static TUNNELS: LazyLock<Known> = LazyLock::new(|| Known::new(skeleton::tunnels()));

/// All of them. The tables of containers have no sets.
fn of_host() -> [&'static Known; 3] {
    [&HOST, &TUNNELS, &BRIDGE]
}

/// What one operation comes down to.
#[derive(Clone, Copy, Debug)]
enum Action<'a> {
    Install(&'a Ruleset),
    RemoveTable(&'a Ruleset),
    Add(&'a Element),
    Remove(&'a Element),
}

#[derive(Clone, Copy, Debug)]
struct Step<'a> {
    /// The operation it belongs to.
    op: &'a Op,
    action: Action<'a>,
}

impl Step<'_> {
    /// Whether it only takes something away: if that is gone already, the aim is reached.
    const fn is_removal(&self) -> bool {
        matches!(self.action, Action::Remove(_) | Action::RemoveTable(_))
    }
}

impl NftSocket {
    /// Opens a socket in the calling thread's current network namespace.
    pub fn open() -> Result<Self, KernelError> {
        let transport = Transport::open()
            .map_err(|error| KernelError::new("open a netlink socket for nftables", error))?;
        Ok(Self { transport })
    }

    /// The number of the socket in its namespace (`nlmsg_pid`).
    pub fn port(&self) -> u32 {
        self.transport.port
    }

    /// Carries out operations on rulesets and elements, together or not at all.
    ///
    /// What is as it should be is left alone: a ruleset that the kernel holds, an equal element, the removal of what is
    /// gone. An element with other data under the same key is an error, and no rule of the administrator is touched.
    ///
    /// One batch, except where the kernel does not grant a send buffer of the batch's size (without CAP_NET_ADMIN in
    /// the first user namespace: `net.core.wmem_max`, about 2,500 elements). Then it is cut in halves, and the first is
    /// taken back when the second fails.
    pub fn apply(&mut self, ops: &[Op]) -> Result<(), KernelError> {
        if self.apply_at_once(ops)? {
            return Ok(());
        }
        let (first, second) = ops.split_at(ops.len() / 2);
        self.apply(first)?;
        self.apply(second).inspect_err(|_| {
            let back = first
                .iter()
                .rev()
                .filter(|op| !matches!(op, Op::Add(Object::Ruleset(_))));
            // A ruleset stays: it was there before, for all that is known here, and holds the administrator's chain.
            let back: Vec<Op> = back.filter_map(Op::inverse).collect();
            if let Err(error) = self.apply(&back) {
                tracing::warn!(%error, "half of a batch could not be taken back");
            }
        })
    }

    /// Whether the kernel has tables for bridges with chains that filter frames: it is asked to make one, in a batch that
    /// is not committed.
    pub fn has_bridge_tables(&mut self) -> Result<bool, KernelError> {
        let mut batch = Batch::new(self.transport.next_seq(), Packing::Singly);
        table::probe(&skeleton::bridge(), &mut batch);
        let sealed = batch.leave_open();
        let failures = self
            .transport
            .commit(sealed.bytes(), sealed.messages())
            .map_err(|error| KernelError::new("ask for nftables of bridges", error))?;
        Ok(failures.is_empty())
    }

    /// What is ours in this socket's namespace, which is called `ns`: rulesets and elements.
    pub fn observe(&mut self, ns: &Ns) -> Result<Vec<Object>, KernelError> {
        observe::objects(&mut self.transport, ns).map_err(|error| {
            KernelError::new(format_args!("read the nftables rules in {ns}"), error)
        })
    }

    /// Chains of others that drop what they do not accept themselves in the forward hook, as `family table chain`.
    pub fn forward_drop(&mut self) -> Result<Vec<String>, KernelError> {
        observe::forward_drop(&mut self.transport)
            .map_err(|error| KernelError::new("read the chains that see forwarded packets", error))
    }

    /// What the published ports of the host have counted, by the container's address, protocol and port.
    pub fn counters(&mut self) -> Result<BTreeMap<(IpAddr, u8, u16), Both>, KernelError> {
        observe::counters(&mut self.transport)
            .map_err(|error| KernelError::new("read the counters of published ports", error))
    }

    /// What the rules of the host's tables have dropped, by reason.
    pub fn drops(&mut self) -> Result<Dropped, KernelError> {
        observe::drops(&mut self.transport)
            .map_err(|error| KernelError::new("read the counters of dropped packets", error))
    }

    /// Carries out operations as one batch; false if that is too long to be sent.
    fn apply_at_once(&mut self, ops: &[Op]) -> Result<bool, KernelError> {
        let mut steps = steps(ops)?;
        let mut packing = Packing::Together;
        while !steps.is_empty() {
            let batch = self.encode(&steps, packing)?;
            if batch.is_empty() {
                return Ok(true);
            }
            let failures = match self.send(&batch, ops.len() > 1) {
                Ok(Some(failures)) => failures,
                Ok(None) => return Ok(false),
                Err(error) => return Err(KernelError::new(summary(ops), error)),
            };
            if failures.is_empty() {
                return Ok(true);
            }
            // The batch left nothing. Once more with a message for each element tells which of them it was.
            if std::mem::replace(&mut packing, Packing::Singly) == Packing::Singly {
                let gone = gone(&steps, &batch, &failures)?;
                let mut index = 0..;
                steps.retain(|_| index.next().is_some_and(|i: usize| !gone.contains(&i)));
            }
        }
        Ok(true)
    }

    fn send(&mut self, batch: &Sealed, can_be_cut: bool) -> io::Result<Option<Vec<Failure>>> {
        if !self.transport.has_room(batch.bytes().len())? && can_be_cut {
            return Ok(None);
        }
        self.transport
            .commit(batch.bytes(), batch.messages())
            .map(Some)
    }

    fn encode(&mut self, steps: &[Step<'_>], packing: Packing) -> Result<Sealed, KernelError> {
        // Before the batch takes its numbers: reading takes numbers too.
        let mut tables = self.read_tables(steps)?;
        let mut batch = Batch::new(self.transport.next_seq(), packing);
        for (index, step) in steps.iter().enumerate() {
            match (step.action, tables.remove(&index)) {
                (Action::Install(ruleset), Some(table)) => {
                    table::install(ruleset, table.as_ref(), index, &mut batch)
                        .map_err(|why| refused(step.op, io::ErrorKind::AlreadyExists, why))?;
                }
                (Action::RemoveTable(ruleset), Some(_)) => {
                    table::remove(ruleset, index, &mut batch);
                }
                (Action::Install(_) | Action::RemoveTable(_), None) => {}
                (Action::Add(element), _) => {
                    encode_element(step, index, element, true, &mut batch)?;
                }
                (Action::Remove(element), _) => {
                    encode_element(step, index, element, false, &mut batch)?;
                }
            }
        }
        Ok(batch.seal())
    }

    /// The tables that rulesets are to be installed in or removed with, by step. A step whose aim is reached is left
    /// out: the table holds its ruleset, or there is no table of ours to remove.
    fn read_tables(
        &mut self,
        steps: &[Step<'_>],
    ) -> Result<BTreeMap<usize, Option<Table>>, KernelError> {
        let mut tables = BTreeMap::new();
        // Tables that steps before this one make (true) or remove, whatever the kernel holds now.
        let mut changed = BTreeMap::new();
        for (index, step) in steps.iter().enumerate() {
            let (Action::Install(ruleset) | Action::RemoveTable(ruleset)) = step.action else {
                continue;
            };
            let install = matches!(step.action, Action::Install(_));
            let before = changed.insert(&ruleset.table, install);
            if before == Some(!install) {
                tables.insert(index, None);
                continue;
            }
            let table = self
                .read_table(ruleset, install)
                .map_err(|error| KernelError::new(step.op, error))?;
            let is_held = |table: &Table| table.difference(ruleset, &ruleset.digest()).is_none();
            let is_ours = |table: &Table| table.owner.as_ref() == Some(&ruleset.owner);
            let reached = match &table {
                Some(table) if install => is_held(table),
                Some(table) => !is_ours(table),
                None => !install,
            };
            if !reached {
                tables.insert(index, table);
            }
        }
        Ok(tables)
    }

    fn read_table(&mut self, ruleset: &Ruleset, wake: bool) -> io::Result<Option<Table>> {
        let mut table = Table::read(&mut self.transport, ruleset)?;
        if let Some(table) = table.as_mut().filter(|_| wake) {
            table.wake(&mut self.transport, ruleset)?;
        }
        Ok(table)
    }
}

fn encode_element(
    step: &Step<'_>,
    index: usize,
    element: &Element,
    add: bool,
    batch: &mut Batch,
) -> Result<(), KernelError> {
    let invalid = |why| refused(step.op, io::ErrorKind::InvalidInput, why);
    let key = &element.key;
    let spec = of_host()
        .into_iter()
        .find(|known| known.ruleset.table == key.table)
        .and_then(|known| known.ruleset.set(&key.set));
    let spec = spec.ok_or_else(|| invalid("netd has no such set"))?;
    // What is to be removed was observed, and may have been put there by someone else with other data.
    if let Some(why) = element::mismatch(spec, element).filter(|_| add) {
        return Err(invalid(why));
    }
    let place = (&key.table, key.set.as_str());
    if add {
        batch.element(index, NFT_MSG_NEWSETELEM, place, |w| {
            element::write(spec, element, w);
        });
    } else {
        batch.element(index, NFT_MSG_DELSETELEM, place, |w| {
            element::write_removal(spec, key, w);
        });
    }
    Ok(())
}

fn steps(ops: &[Op]) -> Result<Vec<Step<'_>>, KernelError> {
    let mut steps = Vec::with_capacity(ops.len());
    for op in ops {
        let mut push = |action| steps.push(Step { op, action });
        match op {
            Op::Add(Object::Ruleset(r))
            | Op::Change {
                to: Object::Ruleset(r),
                ..
            } => {
                push(Action::Install(r));
            }
            Op::Remove(Object::Ruleset(r)) => push(Action::RemoveTable(r)),
            Op::Add(Object::Element(e)) => push(Action::Add(e)),
            Op::Remove(Object::Element(e)) => push(Action::Remove(e)),
            Op::Change {
                from: Object::Element(from),
                to: Object::Element(to),
            } => {
                push(Action::Remove(from));
                push(Action::Add(to));
            }
            _ => {
                let why = "it is not for nftables";
                return Err(refused(op, io::ErrorKind::InvalidInput, why));
            }
        }
    }
    Ok(steps)
}

/// The steps that failed because what they remove is gone; an error if any failed for another reason.
fn gone(
    steps: &[Step<'_>],
    batch: &Sealed,
    failures: &[Failure],
) -> Result<BTreeSet<usize>, KernelError> {
    let mut gone = BTreeSet::new();
    for failure in failures {
        let error = io::Error::from_raw_os_error(failure.errno);
        let label = failure.message.and_then(|message| batch.label(message));
        let Some((label, step)) = label.and_then(|l| Some((l, steps.get(l.step)?))) else {
            let what = format!("a batch of {} nftables operations", steps.len());
            return Err(KernelError::new(what, error));
        };
        if failure.errno == ENOENT && step.is_removal() {
            gone.insert(label.step);
        } else if label.part.is_empty() {
            return Err(KernelError::new(step.op, error));
        } else {
            return Err(KernelError::new(
                format_args!("{}: {}", step.op, label.part),
                error,
            ));
        }
    }
    Ok(gone)
}

fn refused(op: &Op, kind: io::ErrorKind, why: impl Into<String>) -> KernelError {
    KernelError::new(op, io::Error::new(kind, why.into()))
}

fn summary(ops: &[Op]) -> String {
    match ops {
        [] => "no operation".to_owned(),
        [op] => op.to_string(),
        [op, ..] => format!("{op} and {} more", ops.len() - 1),
    }
}
