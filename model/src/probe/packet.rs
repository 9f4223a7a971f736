//! A probe on the wire. All numbers in network byte order.

use std::time::Duration;

use super::Size;

/// Bytes of a probe without padding, and so of a small one.
pub const HEADER: usize = 52;
/// What a probe begins with, its version included.
const MAGIC: [u8; 5] = *b"netd\x01";

/// What a host says of the other's probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The other's session; 0: nothing was heard.
    pub session: u64,
    /// The highest number that arrived, by [`Size`]; 0: none.
    pub numbers: [u64; 2],
}

/// A probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Which of the two.
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
    /// The payload, filled up to `length` bytes (as a UDP payload, at most 65,535).
    pub fn encode(&self, length: usize) -> Vec<u8> {
        let length = length.clamp(HEADER, usize::from(u16::MAX));
        let size = match self.size {
            Size::Small => 0,
            Size::Full => 1,
        };
        let round = u32::try_from(self.round.as_millis()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&MAGIC);
        bytes.push(size);
        bytes.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend_from_slice(&round.to_be_bytes());
        let [small, full] = self.heard.numbers;
        for number in [self.session, self.number, self.heard.session, small, full] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.resize(length, 0);
        bytes
    }

    /// Reads a payload; none if it is no probe, or not whole.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, _) = bytes.split_first_chunk::<HEADER>()?;
        let rest = head.strip_prefix(&MAGIC)?;
        let size = match rest.first()? {
            0 => Size::Small,
            1 => Size::Full,
            _ => return None,
        };
        let length = u16::from_be_bytes(rest.get(1..3)?.try_into().ok()?);
        if usize::from(length) != bytes.len() || (size == Size::Small && bytes.len() != HEADER) {
            return None;
        }
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
                numbers: [number(3)?, number(4)?],
            },
        })
    }
}
