//! Whole messages, byte by byte: what a container reads on the wire.

use netd_dns::Outcome;

use crate::support::{INTERNAL, WEB, outcome, zone};

fn reply(asker: &str, query: &[u8]) -> Vec<u8> {
    match outcome(&zone(), asker, query) {
        Outcome::Reply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_address() {
    let query = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x03wEb\0\0\x01\0\x01";
    let expected = b"\x12\x34\x85\x80\0\x01\0\x01\0\0\0\0\x03wEb\0\0\x01\0\x01\
        \xc0\x0c\0\x01\0\x01\0\0\0\x05\0\x04\x0a\0\x01\x01";
    assert_eq!(reply(WEB, query), expected);
}

#[test]
fn an_ipv6_address_with_edns_and_do() {
    let query = b"\x12\x34\x01\x10\0\x01\0\0\0\0\0\x01\x03web\x05front\0\0\x1c\0\x01\
        \0\0\x29\x10\0\0\0\x80\0\0\0";
    let expected = b"\x12\x34\x85\x90\0\x01\0\x01\0\0\0\x01\x03web\x05front\0\0\x1c\0\x01\
        \xc0\x0c\0\x1c\0\x01\0\0\0\x05\0\x10\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\
        \0\0\x29\x04\xd0\0\0\x80\0\0\0";
    assert_eq!(reply(WEB, query), expected);
}

#[test]
fn no_such_name() {
    let query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x04nope\0\0\x01\0\x01";
    let expected = b"\0\x01\x85\x83\0\x01\0\0\0\x01\0\0\x04nope\0\0\x01\0\x01\
        \0\0\x06\0\x01\0\0\0\x05\0\x27\x04netd\0\x0ahostmaster\xc0\x21\
        \0\0\0\x01\0\0\0\x05\0\0\0\x05\0\0\0\x05\0\0\0\x05";
    assert_eq!(reply(WEB, query), expected);
}

#[test]
fn garbage_behind_a_header() {
    let query = b"\xab\xcd\x01\0\0\x01\0\0\0\0\0\0\xff\xff\xff";
    assert_eq!(reply(WEB, query), b"\xab\xcd\x81\x81\0\0\0\0\0\0\0\0");
}

#[test]
fn an_additional_record_that_is_cut_off() {
    let query = b"\xab\xcd\x01\0\0\x01\0\0\0\0\0\x01\x01a\0\0\x01\0\x01\0\0\x29";
    let expected = b"\xab\xcd\x81\x81\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";
    assert_eq!(reply(WEB, query), expected);
}

#[test]
fn a_compressed_question() {
    // A pointer into the header, which nobody sends in earnest.
    let query = b"\xab\xcd\x01\0\0\x01\0\0\0\0\0\0\xc0\x04\0\x01\0\x01";
    assert_eq!(reply(WEB, query), b"\xab\xcd\x81\x81\0\0\0\0\0\0\0\0");
}

#[test]
fn an_internal_container_gets_servfail_for_foreign_names() {
    let query = b"\0\x02\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01";
    let expected = b"\0\x02\x81\x82\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01";
    assert_eq!(reply(INTERNAL, query), expected);
}
