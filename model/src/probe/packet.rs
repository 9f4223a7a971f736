//! A probe on the wire. All numbers in network byte order.

use std::time::Duration;

use super::Size;

/// Bytes of a probe without padding, and so of a small one.
pub const HEADER: usize = 52;
/// Bytes of a plain one, which says one thing more.
pub const PLAIN: usize = HEADER + 8;
/// What a probe begins with, its version included.
const MAGIC: [u8; 5] = *b"netd\x01";

/// What a host says of the other's probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The other's session; 0: nothing was heard.
    pub session: u64,
    /// The highest number that arrived, by [`Size`]; 0: none. Of plain ones only plain ones tell.
    pub numbers: [u64; 3],
}

/// A probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Which of them.
    pub size: Size,
    /// Until the sender's next one, in whole milliseconds.
    pub round: Duration,
    /// The sender's daemon.
    pub session: u64,
    /// Counted from 1, the same for both sizes.
    pub number: u64,
    /// What the sender heard.
    pub heard: Heard,
}

impl Packet {
    /// The payload; that of a full one is filled up to `full` bytes (as a UDP payload, at most 65,535).
    pub fn encode(&self, full: usize) -> Vec<u8> {
        let (size, length) = match self.size {
            Size::Small => (0, HEADER),
            Size::Full => (1, full.clamp(HEADER, usize::from(u16::MAX))),
            Size::Plain => (2, PLAIN),
        };
        let round = u32::try_from(self.round.as_millis()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&MAGIC);
        bytes.push(size);
        bytes.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend_from_slice(&round.to_be_bytes());
        let [small, full, plain] = self.heard.numbers;
        for number in [self.session, self.number, self.heard.session, small, full] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        if self.size == Size::Plain {
            bytes.extend_from_slice(&plain.to_be_bytes());
        }
        bytes.resize(length, 0);
        bytes
    }

    /// Reads a payload; none if it is no probe, or not whole.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, more) = bytes.split_first_chunk::<HEADER>()?;
        let rest = head.strip_prefix(&MAGIC)?;
        let size = match rest.first()? {
            0 => Size::Small,
            1 => Size::Full,
            2 => Size::Plain,
            _ => return None,
        };
        let length = u16::from_be_bytes(rest.get(1..3)?.try_into().ok()?);
        let is_whole = match size {
            Size::Small => bytes.len() == HEADER,
            Size::Full => true,
            Size::Plain => bytes.len() == PLAIN,
        };
        if usize::from(length) != bytes.len() || !is_whole {
            return None;
        }
        let plain = match size {
            Size::Plain => u64::from_be_bytes(more.try_into().ok()?),
            _ => 0,
        };
        let round = u32::from_be_bytes(rest.get(3..7)?.try_into().ok()?);
        let number = |n: usize| {
            let at = 7 + 8 * n;
            Some(u64::from_be_bytes(rest.get(at..at + 8)?.try_into().ok()?))
        };
        Some(Self {
            size,
            round: Duration::from_millis(round.into()),
            session: number(0)?,
            number: number(1)?,
            heard: Heard {
                session: number(2)?,
                numbers: [number(3)?, number(4)?, plain],
            },
        })
    }
}
