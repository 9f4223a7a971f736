//! Owns the framing of messages over TCP: a length of two bytes before each (RFC 1035 section 4.2.2).
//!
//! Pure: whatever pieces the bytes come in, the same messages come out.

/// The message behind its length, at the end of `out`. What was read or encoded as a message is never longer than the
/// prefix can say; were it, it would be left out.
pub(crate) fn frame(out: &mut Vec<u8>, message: &[u8]) {
    if let Ok(length) = u16::try_from(message.len()) {
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(message);
    }
}

/// A client announced a message that is longer than any query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// Bytes that came in and are not yet messages.
#[derive(Clone, Debug)]
pub struct Frames {
    buffer: Vec<u8>,
    /// Where the next message's length stands.
    at: usize,
    longest: usize,
}

impl Frames {
    /// Nothing yet, of messages of at most `longest` bytes.
    pub fn new(longest: usize) -> Self {
        Self {
            buffer: Vec::new(),
            at: 0,
            longest,
        }
    }

    /// Where the next bytes go. What was taken out is forgotten first, so that the buffer stays as small as what is in it.
    pub fn room(&mut self) -> &mut Vec<u8> {
        self.buffer.drain(..self.at);
        self.at = 0;
        &mut self.buffer
    }

    /// The next whole message, if there is one.
    pub fn message(&mut self) -> Result<Option<&[u8]>, TooLong> {
        let Some((&[a, b], rest)) = self.buffer[self.at..].split_first_chunk() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([a, b]));
        if length > self.longest {
            return Err(TooLong);
        }
        let Some(message) = rest.get(..length) else {
            return Ok(None);
        };
        self.at += 2 + length;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn too_long_is_said_at_once() {
        let mut frames = Frames::new(10);
        frames.room().extend([0, 11]);
        assert_eq!(frames.message(), Err(TooLong));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..10),
            pieces in prop::collection::vec(1_usize..50, 1..50),
        ) {
            let mut bytes = Vec::new();
            messages.iter().for_each(|message| frame(&mut bytes, message));
            let mut frames = Frames::new(40);
            let mut got = Vec::new();
            let mut pieces = pieces.into_iter().cycle();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let piece = pieces.next().unwrap().min(rest.len());
                frames.room().extend(&rest[..piece]);
                rest = &rest[piece..];
                while let Some(message) = frames.message().unwrap() {
                    got.push(message.to_vec());
                }
            }
            prop_assert_eq!(got, messages);
            prop_assert!(frames.room().is_empty());
        }
    }
}
