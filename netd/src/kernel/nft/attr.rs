//! Netlink messages and attributes as bytes: writing, and reading without trust.

use super::abi::{NFPROTO_UNSPEC, NLA_F_NESTED, NLA_TYPE_MASK};

/// Size of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Size of `struct nfgenmsg`, which every message of nfnetlink starts with.
const GENERIC: usize = 4;
/// Size of `struct nlattr`.
const ATTR_HEADER: usize = 4;
/// `NLMSG_ALIGNTO` and `NLA_ALIGNTO`.
const ALIGN: usize = 4;

/// What a message starts with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// `NFT_MSG_*` or another type.
    pub(super) kind: u16,
    /// `NLM_F_*`.
    pub(super) flags: u16,
    /// Sequence number, given back by the answer.
    pub(super) seq: u32,
    /// `NFPROTO_*`.
    pub(super) family: u8,
    /// `nfgenmsg.res_id`: the subsystem, in a batch's first and last message.
    pub(super) resource: u16,
}

impl Header {
    /// A header of a message about a table family; flags and number are added when it is sent.
    pub(super) const fn of(kind: u16, family: u8) -> Self {
        Self {
            kind,
            flags: 0,
            seq: 0,
            family,
            resource: 0,
        }
    }

    /// A header of a message that marks a batch of a subsystem.
    pub(super) const fn batch(kind: u16, subsystem: u16) -> Self {
        Self {
            kind,
            flags: 0,
            seq: 0,
            family: NFPROTO_UNSPEC,
            resource: subsystem,
        }
    }
}

/// Messages one after another in one buffer.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

/// Where something began whose length is written at its end.
#[derive(Debug)]
pub(super) struct Mark(usize);

impl Writer {
    /// What was written.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How much was written.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Starts a message.
    pub(super) fn start(&mut self, header: Header) -> Mark {
        let mark = Mark(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&header.kind.to_ne_bytes());
        self.bytes.extend_from_slice(&header.flags.to_ne_bytes());
        self.bytes.extend_from_slice(&header.seq.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[header.family, 0]);
        self.bytes.extend_from_slice(&header.resource.to_be_bytes());
        mark
    }

    /// Ends a message.
    pub(super) fn finish(&mut self, mark: &Mark) {
        // A batch of 4 GiB is refused by the socket long before.
        let len = u32::try_from(self.bytes.len() - mark.0).unwrap_or(u32::MAX);
        self.patch(mark.0, &len.to_ne_bytes());
    }

    /// Sets more flags on the message that began there.
    pub(super) fn add_flags(&mut self, mark: &Mark, flags: u16) {
        let at = mark.0 + 6;
        if let Some(field) = self.bytes.get_mut(at..at + 2) {
            let [low, high] = flags.to_ne_bytes();
            field[0] |= low;
            field[1] |= high;
        }
    }

    /// A whole message.
    pub(super) fn message(&mut self, header: Header, body: impl FnOnce(&mut Self)) -> Mark {
        let mark = self.start(header);
        body(self);
        self.finish(&mark);
        mark
    }

    /// Starts an attribute that holds attributes.
    pub(super) fn open(&mut self, kind: u16) -> Mark {
        let mark = Mark(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes
            .extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        mark
    }

    /// Ends it.
    pub(super) fn close(&mut self, mark: &Mark) {
        self.patch_attr_len(mark.0);
    }

    /// An attribute that holds attributes.
    pub(super) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let mark = self.open(kind);
        body(self);
        self.close(&mark);
    }

    /// An attribute of bytes.
    pub(super) fn put(&mut self, kind: u16, value: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.patch_attr_len(start);
        self.bytes
            .resize(self.bytes.len().next_multiple_of(ALIGN), 0);
    }

    /// An attribute of a number; nf_tables has them in network byte order.
    pub(super) fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// An attribute of text, with the zero that ends it.
    pub(super) fn put_text(&mut self, kind: u16, text: &str) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        self.patch_attr_len(start);
        self.bytes
            .resize(self.bytes.len().next_multiple_of(ALIGN), 0);
    }

    fn patch_attr_len(&mut self, start: usize) {
        // Who writes long lists keeps them below 64 KiB; a longer one is refused by the kernel, not cut.
        let len = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.patch(start, &len.to_ne_bytes());
    }

    fn patch(&mut self, at: usize, value: &[u8]) {
        if let Some(field) = self.bytes.get_mut(at..at + value.len()) {
            field.copy_from_slice(value);
        }
    }
}

/// A received message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    /// Its type.
    pub(super) kind: u16,
    /// Its flags.
    pub(super) flags: u16,
    /// The number of the request it answers.
    pub(super) seq: u32,
    /// What follows its header.
    pub(super) payload: &'a [u8],
}

/// The messages in a datagram; ends at the first that is malformed.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = usize::try_from(u32::from_ne_bytes(field(bytes, 0)?)).ok()?;
        let payload = bytes.get(HEADER..len)?;
        let message = Message {
            kind: u16::from_ne_bytes(field(bytes, 4)?),
            flags: u16::from_ne_bytes(field(bytes, 6)?),
            seq: u32::from_ne_bytes(field(bytes, 8)?),
            payload,
        };
        bytes = bytes.get(len.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some(message)
    })
}

impl<'a> Message<'a> {
    /// `NFPROTO_*` of a message of nfnetlink.
    pub(super) fn family(&self) -> u8 {
        self.payload.first().copied().unwrap_or(NFPROTO_UNSPEC)
    }

    /// The attributes of a message of nfnetlink.
    pub(super) fn attrs(&self) -> Attrs<'a> {
        Attrs(self.payload.get(GENERIC..).unwrap_or_default())
    }

    /// The error number in a message of type `NLMSG_ERROR` or `NLMSG_DONE`: 0, or negative.
    pub(super) fn error(&self) -> i32 {
        field(self.payload, 0).map_or(0, i32::from_ne_bytes)
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Attributes one after another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attrs<'a>(pub(super) &'a [u8]);

impl<'a> Attrs<'a> {
    /// Each with its number; ends at the first that is malformed.
    pub(super) fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut bytes = self.0;
        std::iter::from_fn(move || {
            let len = usize::from(u16::from_ne_bytes(field(bytes, 0)?));
            let kind = u16::from_ne_bytes(field(bytes, 2)?) & NLA_TYPE_MASK;
            let value = bytes.get(ATTR_HEADER..len)?;
            bytes = bytes.get(len.next_multiple_of(ALIGN)..).unwrap_or_default();
            Some((kind, value))
        })
    }

    /// The first of a number.
    pub(super) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.iter()
            .find(|(number, _)| *number == kind)
            .map(|(_, value)| value)
    }

    /// The attributes inside one; none without it.
    pub(super) fn inside(self, kind: u16) -> Attrs<'a> {
        Attrs(self.get(kind).unwrap_or_default())
    }

    /// The items of a list (`NFTA_LIST_ELEM`) inside one.
    pub(super) fn list(self, kind: u16) -> impl Iterator<Item = Attrs<'a>> {
        self.inside(kind).iter().map(|(_, item)| Attrs(item))
    }

    /// A number.
    pub(super) fn u32(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    /// A text; `None` also for one that is not UTF-8.
    pub(super) fn text(self, kind: u16) -> Option<&'a str> {
        std::str::from_utf8(until_zero(self.get(kind)?)).ok()
    }

    /// A text made fit for a terminal, whatever its bytes are.
    pub(super) fn printable(self, kind: u16) -> String {
        let text = String::from_utf8_lossy(until_zero(self.get(kind).unwrap_or_default()));
        text.escape_debug().to_string()
    }
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let mut writer = Writer::default();
        for seq in 0..3 {
            let header = Header {
                seq,
                ..Header::of(7, 2)
            };
            let mark = writer.message(header, |w| {
                w.put_text(1, "abc");
                w.nest(2, |w| {
                    w.put_u32(1, 99);
                    w.put(2, &[1, 2, 3, 4, 5]);
                });
            });
            writer.add_flags(&mark, 0x404);
        }
        let read: Vec<_> = messages(writer.bytes()).collect();
        assert_eq!(read.len(), 3);
        for (message, seq) in read.iter().zip(0..) {
            assert_eq!((message.kind, message.flags, message.seq), (7, 0x404, seq));
            assert_eq!(message.family(), 2);
            let attrs = message.attrs();
            assert_eq!(attrs.text(1), Some("abc"));
            assert_eq!(attrs.inside(2).u32(1), Some(99));
            assert_eq!(attrs.inside(2).get(2), Some(&[1, 2, 3, 4, 5][..]));
            assert_eq!(attrs.get(3), None);
        }
    }

    #[test]
    fn foreign_text_cannot_steer_a_terminal() {
        let mut writer = Writer::default();
        writer.put(1, b"a\x1b[2J\xff\0b");
        assert_eq!(Attrs(writer.bytes()).printable(1), "a\\u{1b}[2J\u{fffd}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes) {
                let _ = (message.error(), message.family());
                let attrs = message.attrs();
                let _ = (attrs.text(1), attrs.u32(1), attrs.printable(1), attrs.list(2).count());
            }
            prop_assert!(Attrs(&bytes).iter().count() <= bytes.len());
        }
    }
}
