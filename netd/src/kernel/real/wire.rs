//! Reading and writing netlink attributes by hand: replies, and the protocols without typed messages.

use std::net::IpAddr;

/// Length and type of an attribute.
const HEADER: usize = 4;
/// All but `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
const TYPE_MASK: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

/// Two bytes in host order.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Four bytes in host order.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A text that ends with a zero byte.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// An address of 4 or 16 bytes.
pub(super) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// The attributes in a piece of a message, as (type, value). A malformed one ends the list.
#[derive(Debug)]
pub(super) struct Attrs<'a>(&'a [u8]);

impl<'a> Attrs<'a> {
    /// Reads from these bytes.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Reads behind a fixed header of the message.
    pub(super) fn behind(bytes: &'a [u8], header: usize) -> Self {
        Self(bytes.get(header..).unwrap_or_default())
    }

    /// The value of the first attribute of a type.
    pub(super) fn find(&self, kind: u16) -> Option<&'a [u8]> {
        Self(self.0).find_map(|(found, value)| (found == kind).then_some(value))
    }

    /// The attributes nested in the first attribute of a type; none when it is missing.
    pub(super) fn nested(&self, kind: u16) -> Self {
        Self(self.find(kind).unwrap_or_default())
    }

    /// A number of four bytes in host order.
    pub(super) fn u32(&self, kind: u16) -> Option<u32> {
        u32_at(self.find(kind)?, 0)
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & TYPE_MASK;
        let value = self.0.get(HEADER..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// Writes attributes.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// Starts behind a fixed header.
    pub(super) fn behind(header: &[u8]) -> Self {
        Self(header.to_vec())
    }

    /// Adds an attribute.
    #[must_use]
    pub(super) fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        let len = u16::try_from(HEADER + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds an attribute that holds others.
    #[must_use]
    pub(super) fn nest(self, kind: u16, inner: &Self) -> Self {
        self.attr(kind | NESTED, &inner.0)
    }

    /// The bytes.
    pub(super) fn done(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let bytes = Writer::default()
            .attr(1, b"abc")
            .nest(2, &Writer::default().attr(3, &7u32.to_ne_bytes()))
            .done();
        assert_eq!(Attrs::new(&bytes).count(), 2);
        let attrs = Attrs::new(&bytes);
        assert_eq!(attrs.find(1), Some(&b"abc"[..]));
        assert_eq!(attrs.nested(2).u32(3), Some(7));
        assert_eq!(attrs.nested(9).count(), 0);
    }

    #[test]
    fn malformed_attributes_end_the_list_and_never_panic() {
        for bytes in [
            &[][..],
            &[4],
            &[0, 0, 0, 0],
            &[3, 0, 1, 0],
            &[9, 0, 1, 0, 1, 2, 3, 4],
        ] {
            assert_eq!(Attrs::new(bytes).count(), 0, "{bytes:?}");
        }
    }
}
