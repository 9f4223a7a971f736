//! Another program's firewall: a base chain in the forward hook whose policy is drop.
//!
//! Owns the few nf_tables messages for it, written by hand, and the few statements with which
//! netd's warning tells the administrator to open such a chain. A statement it does not know is a
//! failed test: the remedy that is tried here is the one that people are told.

use std::io::Read;

use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::Netns;

/// How the chain is called where it is talked about: family, table, chain.
pub const NAME: &str = "inet foreign forward";
const TABLE: &str = "foreign";
const CHAIN: &str = "forward";

// linux/netfilter/nfnetlink.h and nf_tables.h.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NFTABLES: u16 = 10;
const NEWTABLE: u16 = NFTABLES << 8;
const DELTABLE: u16 = (NFTABLES << 8) | 2;
const NEWCHAIN: u16 = (NFTABLES << 8) | 3;
const NEWRULE: u16 = (NFTABLES << 8) | 6;
const NFPROTO_INET: u8 = 1;
const NF_INET_FORWARD: u32 = 2;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const STATE_ESTABLISHED_RELATED: u32 = 0b110;
const STATUS_DST_NAT: u32 = 1 << 5;
const OP_EQ: u32 = 0;
const OP_NEQ: u32 = 1;
/// The first register, and that of the verdict.
const REG: u32 = 1;
const VERDICT: u32 = 0;

/// Makes the chain, without a rule: it drops all that it is shown.
pub fn create(netns: &Netns) {
    let hook = [number(1, NF_INET_FORWARD), number(2, 0)].concat();
    let chain = [
        text(1, TABLE),
        text(3, CHAIN),
        nest(4, &hook),
        number(5, NF_DROP),
        text(7, "filter"),
    ];
    commit(
        netns,
        &[(NEWTABLE, text(1, TABLE)), (NEWCHAIN, chain.concat())],
    );
}

/// Removes it with all its rules.
pub fn remove(netns: &Netns) {
    commit(netns, &[(DELTABLE, text(1, TABLE))]);
}

/// The rule set of firewalld 1.3.3 as `nft` sent it to the kernel (`tests/firewalls/try.sh` runs the program itself).
const FIREWALLD: &[u8] = include_bytes!("../../firewalls/firewalld-1.3.3.batch");

/// Loads the rule set of firewalld in its default form: all interfaces are in zone `public`.
pub fn firewalld(netns: &Netns) {
    let mut batch = FIREWALLD.to_vec();
    // An acknowledgement is asked for with the first change: refusals come in its place or before it.
    let first = usize::from(batch[0]);
    batch[first + 6] |= u8::try_from(libc::NLM_F_ACK).expect("a small flag");
    send(netns, &batch, 1);
}

/// Begins anew, as firewalld does at each reload.
pub fn firewalld_reload(netns: &Netns) {
    commit(netns, &[(DELTABLE, text(1, "firewalld"))]);
    firewalld(netns);
}

/// `nft flush ruleset`: a removal without a name is one of all tables.
pub fn flush_ruleset(netns: &Netns) {
    let mut batch = message(BATCH_BEGIN, 0, NFTABLES, &[]);
    let mut all = message(DELTABLE, libc::NLM_F_ACK, 0, &[]);
    // The first byte of nfnetlink's header: NFPROTO_UNSPEC.
    all[16] = 0;
    batch.extend(all);
    batch.extend(message(BATCH_END, 0, NFTABLES, &[]));
    send(netns, &batch, 1);
}

/// Does what a warning says: inserts the rule of each command that it quotes.
pub fn obey(netns: &Netns, warning: &str) {
    let commands: Vec<_> = warning.split('`').skip(1).step_by(2).collect();
    assert!(!commands.is_empty(), "no command in {warning:?}");
    for command in commands {
        let rule = command.strip_prefix(&format!("nft insert rule {NAME} "));
        let rule = rule.unwrap_or_else(|| panic!("a command for another chain: {command}"));
        let rule = [text(1, TABLE), text(2, CHAIN), nest(4, &expressions(rule))];
        commit(netns, &[(NEWRULE, rule.concat())]);
    }
}

fn expressions(rule: &str) -> Vec<u8> {
    let mut words = rule.split_whitespace();
    let mut out = Vec::new();
    while let Some(word) = words.next() {
        let mut next = || words.next().unwrap_or_default();
        out.extend(match word {
            "iifname" => named(META_IIFNAME, next()),
            "oifname" => named(META_OIFNAME, next()),
            "accept" => accept(),
            "ct" => match (next(), next()) {
                ("state", "established,related") => tracked(CT_STATE, STATE_ESTABLISHED_RELATED),
                ("status", "dnat") => tracked(CT_STATUS, STATUS_DST_NAT),
                other => panic!("this test does not know ct {other:?} of {rule:?}"),
            },
            other => panic!("this test does not know {other:?} of {rule:?}"),
        });
    }
    out
}

/// `iifname "nd-*"`: the beginning of the name is compared; without the star all of it.
fn named(key: u32, pattern: &str) -> Vec<u8> {
    let name = pattern.trim_matches('"');
    let value = match name.strip_suffix('*') {
        Some(prefix) => prefix.as_bytes().to_vec(),
        None => format!("{name:\0<16}").into_bytes(),
    };
    let load = [number(1, REG), number(2, key)].concat();
    [expression("meta", &load), compare(OP_EQ, &value)].concat()
}

/// `ct state` and `ct status`: some of these bits are set.
fn tracked(key: u32, bits: u32) -> Vec<u8> {
    let load = [number(1, REG), number(2, key)].concat();
    let mask = [
        number(1, REG),
        number(2, REG),
        number(3, 4),
        value(4, &bits.to_ne_bytes()),
        value(5, &[0; 4]),
    ];
    [
        expression("ct", &load),
        expression("bitwise", &mask.concat()),
        compare(OP_NEQ, &[0; 4]),
    ]
    .concat()
}

fn accept() -> Vec<u8> {
    let verdict = nest(2, &number(1, NF_ACCEPT));
    expression(
        "immediate",
        &[number(1, VERDICT), nest(2, &verdict)].concat(),
    )
}

fn compare(op: u32, with: &[u8]) -> Vec<u8> {
    expression(
        "cmp",
        &[number(1, REG), number(2, op), value(3, with)].concat(),
    )
}

fn expression(name: &str, data: &[u8]) -> Vec<u8> {
    nest(1, &[text(1, name), nest(2, data)].concat())
}

/// Data as expressions take it.
fn value(kind: u16, bytes: &[u8]) -> Vec<u8> {
    nest(kind, &attribute(1, bytes))
}

fn number(kind: u16, number: u32) -> Vec<u8> {
    attribute(kind, &number.to_be_bytes())
}

fn text(kind: u16, text: &str) -> Vec<u8> {
    attribute(kind, &[text.as_bytes(), b"\0"].concat())
}

fn nest(kind: u16, content: &[u8]) -> Vec<u8> {
    const NESTED: u16 = 1 << 15;
    attribute(kind | NESTED, content)
}

fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len() + 4).expect("a short attribute");
    let mut out = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    out.extend(content);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn message(kind: u16, flags: i32, resource: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 20).expect("a short message");
    let flags = u16::try_from(flags | libc::NLM_F_REQUEST).expect("flags are 16 bits");
    let mut out = length.to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    // Number and port; then family, version and resource of nfnetlink.
    out.extend([0; 8]);
    out.extend([NFPROTO_INET, 0]);
    out.extend(resource.to_be_bytes());
    out.extend(body);
    out
}

/// Sends messages as one batch and reads the answer to each.
fn commit(netns: &Netns, messages: &[(u16, Vec<u8>)]) {
    let mut batch = message(BATCH_BEGIN, 0, NFTABLES, &[]);
    for (kind, body) in messages {
        batch.extend(message(
            *kind,
            libc::NLM_F_ACK | libc::NLM_F_CREATE,
            0,
            body,
        ));
    }
    batch.extend(message(BATCH_END, 0, NFTABLES, &[]));
    send(netns, &batch, messages.len());
}

/// Sends a batch and reads so many answers, none of which may be a refusal.
#[track_caller]
fn send(netns: &Netns, batch: &[u8], answers: usize) {
    let answers: std::io::Result<Vec<i32>> = netns.run(|| {
        let protocol = Protocol::from(libc::NETLINK_NETFILTER);
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(protocol))?;
        socket.send(batch)?;
        (0..answers).map(|_| answer(&socket)).collect()
    });
    let answers = answers.expect("the kernel answers");
    assert!(answers.iter().all(|error| *error == 0), "{answers:?}");
}

/// The error number of one answer; 0 is success.
fn answer(mut socket: &Socket) -> std::io::Result<i32> {
    let mut buffer = [0; 4096];
    let length = socket.read(&mut buffer)?;
    let error = buffer[..length]
        .get(16..20)
        .and_then(|bytes| bytes.try_into().ok());
    error
        .map(i32::from_ne_bytes)
        .ok_or_else(|| std::io::Error::other("a short answer"))
}
