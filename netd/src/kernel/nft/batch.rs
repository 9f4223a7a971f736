//! A batch: messages that the kernel carries out together or not at all.

use super::attr::{Header, Mark, Writer};
use super::{abi::*, shape};
use netd_model::nft::{TableFamily, TableRef};

/// Longest list of elements in one message; an attribute's length has 16 bits, its header included.
const LIST_MAX: usize = 48 * 1024;

/// What a message is for, to say so when it fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Label {
    /// The number of the step that it belongs to.
    pub(super) step: usize,
    /// Which part of it, in words; empty for all.
    pub(super) part: String,
}

impl Label {
    /// All of a step.
    pub(super) const fn step(step: usize) -> Self {
        Self {
            step,
            part: String::new(),
        }
    }

    /// A part of a step.
    pub(super) fn part(step: usize, part: impl Into<String>) -> Self {
        Self {
            step,
            part: part.into(),
        }
    }
}

/// How elements are put into messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// Many in one: quick, but an error tells only that one of them failed.
    Together,
    /// One in each: an error tells which one failed.
    Singly,
}

/// A batch that is being written.
#[derive(Debug)]
pub(super) struct Batch {
    writer: Writer,
    first: u32,
    packing: Packing,
    labels: Vec<Label>,
    last: Option<Mark>,
    list: Option<List>,
}

/// A message of elements that can take more.
#[derive(Debug)]
struct List {
    kind: u16,
    family: TableFamily,
    table: String,
    set: String,
    message: Mark,
    elements: Mark,
    start: usize,
}

impl Batch {
    /// An empty batch, numbered from `first`.
    pub(super) fn new(first: u32, packing: Packing) -> Self {
        let mut writer = Writer::default();
        let begin = Header::batch(NFNL_MSG_BATCH_BEGIN, NFNL_SUBSYS_NFTABLES);
        writer.message(
            Header {
                flags: NLM_F_REQUEST,
                seq: first,
                ..begin
            },
            |_| (),
        );
        Self {
            writer,
            first,
            packing,
            labels: Vec::new(),
            last: None,
            list: None,
        }
    }

    /// Adds a message about a table of a family.
    pub(super) fn message(
        &mut self,
        label: Label,
        family: TableFamily,
        (kind, flags): (u16, u16),
        body: impl FnOnce(&mut Writer),
    ) {
        self.end_list();
        let header = self.header(family, kind, flags);
        self.last = Some(self.writer.message(header, body));
        self.labels.push(label);
    }

    /// Adds a message about a table of another family, as other programs do.
    #[cfg(test)]
    pub(super) fn message_of(&mut self, family: u8, kind: u16, body: impl FnOnce(&mut Writer)) {
        let header = Header {
            family,
            ..self.header(TableFamily::Inet, kind, NLM_F_CREATE)
        };
        self.last = Some(self.writer.message(header, body));
        self.labels.push(Label::step(0));
    }

    /// Adds an element to the message before, if that is of the same kind about the same set, or begins one. `kind` is
    /// `NFT_MSG_NEWSETELEM` or `NFT_MSG_DELSETELEM`; `body` writes items of a list.
    pub(super) fn element(
        &mut self,
        step: usize,
        kind: u16,
        (table, set): (&TableRef, &str),
        body: impl FnOnce(&mut Writer),
    ) {
        let room = self.writer.len();
        let fits = self.list.as_ref().is_some_and(|list| {
            self.packing == Packing::Together
                && room - list.start < LIST_MAX
                && (list.kind, list.family) == (kind, table.family)
                && (list.table.as_str(), list.set.as_str()) == (table.name.as_str(), set)
        });
        if !fits {
            self.begin_list(step, kind, table, set);
        }
        body(&mut self.writer);
    }

    fn begin_list(&mut self, step: usize, kind: u16, table: &TableRef, set: &str) {
        self.end_list();
        let flags = if kind == NFT_MSG_NEWSETELEM {
            NLM_F_CREATE
        } else {
            0
        };
        let header = self.header(table.family, kind, flags);
        let message = self.writer.start(header);
        self.labels.push(Label::step(step));
        self.writer.put_text(NFTA_SET_ELEM_LIST_TABLE, &table.name);
        self.writer.put_text(NFTA_SET_ELEM_LIST_SET, set);
        let elements = self.writer.open(NFTA_SET_ELEM_LIST_ELEMENTS);
        let start = self.writer.len();
        self.list = Some(List {
            kind,
            family: table.family,
            table: table.name.clone(),
            set: set.to_owned(),
            message,
            elements,
            start,
        });
    }

    fn end_list(&mut self) {
        if let Some(list) = self.list.take() {
            self.writer.close(&list.elements);
            self.writer.finish(&list.message);
            self.last = Some(list.message);
        }
    }

    fn header(&self, family: TableFamily, kind: u16, flags: u16) -> Header {
        let flags = NLM_F_REQUEST | flags;
        Header {
            flags,
            seq: self.seq(self.labels.len() + 1),
            ..Header::of(kind, shape::nfproto(family))
        }
    }

    fn seq(&self, index: usize) -> u32 {
        // Numbers wrap, and no batch has four thousand million messages.
        self.first
            .wrapping_add(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// Leaves the batch without its end: the kernel answers to it and carries nothing out.
    pub(super) fn leave_open(mut self) -> Sealed {
        self.ask_for_answer();
        Sealed {
            writer: self.writer,
            labels: self.labels,
        }
    }

    fn ask_for_answer(&mut self) {
        self.end_list();
        if let Some(last) = &self.last {
            // Answered only when all before it was looked at.
            self.writer.add_flags(last, NLM_F_ACK);
        }
    }

    /// Ends the batch.
    pub(super) fn seal(mut self) -> Sealed {
        self.ask_for_answer();
        let end = Header::batch(NFNL_MSG_BATCH_END, NFNL_SUBSYS_NFTABLES);
        let seq = self.seq(self.labels.len() + 1);
        self.writer.message(
            Header {
                flags: NLM_F_REQUEST,
                seq,
                ..end
            },
            |_| (),
        );
        Sealed {
            writer: self.writer,
            labels: self.labels,
        }
    }
}

/// A batch that can be sent.
#[derive(Debug)]
pub(super) struct Sealed {
    writer: Writer,
    labels: Vec<Label>,
}

impl Sealed {
    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.writer.bytes()
    }

    /// The number of its messages, with the two that frame it.
    pub(super) fn messages(&self) -> usize {
        self.labels.len() + 2
    }

    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// What a message is for.
    pub(super) fn label(&self, message: usize) -> Option<&Label> {
        self.labels.get(message)
    }
}

#[cfg(test)]
mod tests {
    use netd_model::skeleton;

    use super::super::attr::messages;
    use super::*;

    fn fill(packing: Packing, count: usize) -> Sealed {
        let mut batch = Batch::new(u32::MAX - 1, packing);
        let t = &skeleton::host_table();
        for step in 0..count {
            batch.element(step, NFT_MSG_NEWSETELEM, (t, "s"), |w| {
                w.put(NFTA_LIST_ELEM, &[7; 96]);
            });
        }
        batch.element(count, NFT_MSG_DELSETELEM, (t, "s"), |w| {
            w.put(NFTA_LIST_ELEM, &[7; 96]);
        });
        batch.element(count + 1, NFT_MSG_DELSETELEM, (t, "u"), |_| ());
        batch.seal()
    }

    #[test]
    fn elements_share_messages_that_stay_below_the_limit() {
        let sealed = fill(Packing::Together, 1000);
        let read: Vec<_> = messages(sealed.bytes()).collect();
        assert_eq!(read.len(), sealed.messages());
        assert_eq!(read.len(), 2 + 1000 * 100 / LIST_MAX + 1 + 2);
        let lists = |m: &super::super::attr::Message<'_>| {
            m.attrs().inside(NFTA_SET_ELEM_LIST_ELEMENTS).iter().count()
        };
        assert_eq!(read[1..].iter().map(lists).sum::<usize>(), 1001);
        assert_eq!(fill(Packing::Singly, 10).messages(), 2 + 10 + 2);
    }

    #[test]
    fn numbers_follow_each_other_and_only_the_last_asks_for_an_answer() {
        let sealed = fill(Packing::Singly, 3);
        let read: Vec<_> = messages(sealed.bytes()).collect();
        let seqs: Vec<_> = read.iter().map(|m| m.seq).collect();
        assert_eq!(seqs, [u32::MAX - 1, u32::MAX, 0, 1, 2, 3, 4]);
        let asking: Vec<_> = read.iter().map(|m| m.flags & NLM_F_ACK != 0).collect();
        assert_eq!(asking, [false, false, false, false, false, true, false]);
        assert_eq!(sealed.label(4), Some(&Label::step(4)));
    }
}
