//! Any bytes as a TCP stream, in pieces of any size: the same messages come out, and each is a query to the zone's reader.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netd_dns::server::frames::{Frames, TooLong};
use netd_dns::{Transport, Zone, answer};

const LONGEST: usize = 4096;

fuzz_target!(|data: &[u8]| {
    let Some((&size, stream)) = data.split_first() else {
        return;
    };
    let whole = read(stream, stream.len().max(1));
    assert_eq!(whole, read(stream, usize::from(size) + 1), "pieces of {size}");
    let zone = Zone::default();
    for message in &whole.0 {
        answer(message, Transport::Tcp, "nobody", &zone, 0);
    }
});

/// The messages of a stream that comes in pieces, and whether it ended because one was too long.
fn read(stream: &[u8], piece: usize) -> (Vec<Vec<u8>>, bool) {
    let mut frames = Frames::new(LONGEST);
    let mut messages = Vec::new();
    for bytes in stream.chunks(piece) {
        frames.room().extend_from_slice(bytes);
        loop {
            match frames.message() {
                Ok(Some(message)) => messages.push(message.to_vec()),
                Ok(None) => break,
                Err(TooLong) => return (messages, true),
            }
        }
        assert!(frames.room().len() < 2 + LONGEST);
    }
    (messages, false)
}
