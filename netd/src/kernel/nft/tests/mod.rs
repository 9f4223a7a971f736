//! Against the kernel, each test in network namespaces of its own. Without root they are skipped, and say so.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::mpsc;

use netd_model::net::{Family, IfName, Mac};
use netd_model::nft::{
    Datum, Element, ElementData, ElementKey, Field, SetKind, SetSpec, TableFamily, Verdict,
};
use netd_model::{ContainerId, NetworkId, Object, Op, Owner};
use nix::sched::{CloneFlags, unshare};

use super::attr::Writer;
use super::batch::Label;
use super::*;

mod drift;
mod elements;
mod foreign;
mod judge;
mod rulesets;

/// Runs a test in a thread of its own with a new network namespace.
fn in_namespace(name: &str, test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || match unshare(CloneFlags::CLONE_NEWNET) {
            Ok(()) => test(),
            Err(errno) => println!("SKIPPED: needs root: {name} (unshare: {errno})"),
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// As `#[test] fn name()`, in a namespace.
macro_rules! kernel_test {
    ($(#[$doc:meta])* fn $name:ident() $body:block) => {
        $(#[$doc])*
        #[test]
        fn $name() {
            super::in_namespace(stringify!($name), || $body);
        }
    };
}
use kernel_test;

fn socket() -> NftSocket {
    NftSocket::open().unwrap()
}

/// A socket in a namespace that has the host's ruleset.
fn installed() -> NftSocket {
    let mut nft = socket();
    nft.apply(&[install()]).unwrap();
    nft
}

fn install() -> Op {
    Op::Add(Object::from(skeleton::host()))
}

fn container() -> ContainerId {
    ContainerId::parse("c0ffee").unwrap()
}

fn network() -> NetworkId {
    NetworkId::from_bytes([0x5a; 16])
}

fn endpoint() -> Owner {
    Owner::Endpoint(container(), network())
}

fn objects(nft: &mut NftSocket) -> Vec<Object> {
    nft.observe(&Ns::Host).unwrap()
}

/// The elements that are observed, sorted by key.
fn elements(nft: &mut NftSocket) -> Vec<Element> {
    let mut found: Vec<Element> = objects(nft)
        .into_iter()
        .filter_map(|object| match object {
            Object::Element(element) => Some(element),
            _ => None,
        })
        .collect();
    found.sort_by(|a, b| a.key.cmp(&b.key));
    found
}

fn sorted(mut elements: Vec<Element>) -> Vec<Element> {
    elements.sort_by(|a, b| a.key.cmp(&b.key));
    elements
}

/// The ruleset that is observed.
fn ruleset(nft: &mut NftSocket) -> Option<Arc<Ruleset>> {
    objects(nft).into_iter().find_map(|object| match object {
        Object::Ruleset(ruleset) => Some(ruleset),
        _ => None,
    })
}

/// Whether exactly the host's ruleset and these elements are observed. Not compared by `assert_eq`: what that prints of
/// a ruleset nobody can read.
fn holds(nft: &mut NftSocket, wanted: &[Element]) -> bool {
    let found = elements(nft);
    let wanted = sorted(wanted.to_vec());
    if found == wanted {
        return ruleset(nft).as_ref() == Some(&*desired::HOST);
    }
    for element in found.iter().filter(|element| !wanted.contains(element)) {
        println!("not wanted: {element} {}", element.owner);
    }
    for element in wanted.iter().filter(|element| !found.contains(element)) {
        println!("missing: {element} {}", element.owner);
    }
    false
}

fn add(elements: &[Element]) -> Vec<Op> {
    elements
        .iter()
        .cloned()
        .map(|element| Op::Add(Object::Element(element)))
        .collect()
}

fn remove(elements: &[Element]) -> Vec<Op> {
    elements
        .iter()
        .cloned()
        .map(|element| Op::Remove(Object::Element(element)))
        .collect()
}

fn name(text: &str) -> Datum {
    Datum::Ifname(IfName::parse(text).unwrap())
}

fn element(set: &str, first: Vec<Datum>, last: Vec<Datum>, data: ElementData) -> Element {
    let key = ElementKey {
        table: skeleton::host_table(),
        set: set.to_owned(),
        first,
        last,
    };
    Element {
        key,
        data,
        owner: endpoint(),
    }
}

fn single(set: &str, key: Vec<Datum>, data: ElementData) -> Element {
    element(set, key.clone(), key, data)
}

fn guard4(first: [u8; 4], last: [u8; 4]) -> Element {
    let ip = |octets: [u8; 4]| vec![Datum::Ip4(octets.into())];
    element("guard4", ip(first), ip(last), ElementData::None)
}

/// A port published on every address.
fn published(port: u16) -> Element {
    let to = ElementData::Values(vec![Datum::Ip4([10, 0, 0, 2].into()), Datum::Port(80)]);
    single("pubany4", vec![Datum::L4Proto(6), Datum::Port(port)], to)
}

/// Everything in nf_tables byte for byte, with handles and the number of the generation.
fn snapshot(nft: &mut NftSocket) -> Vec<u8> {
    let kinds = [
        NFT_MSG_GETTABLE,
        NFT_MSG_GETCHAIN,
        NFT_MSG_GETRULE,
        NFT_MSG_GETSET,
    ];
    let mut bytes = Vec::new();
    for kind in kinds {
        let dump = nft.transport.dump(kind, NFPROTO_UNSPEC, |_| ()).unwrap();
        bytes.extend(dump.iter().flat_map(|message| message.payload.to_vec()));
    }
    bytes
}

/// Does something to the rules as another program would: by hand, through a socket of its own.
fn by_hand(messages: impl FnOnce(&mut Batch)) {
    let mut transport = Transport::open().unwrap();
    let mut batch = Batch::new(transport.next_seq(), Packing::Singly);
    messages(&mut batch);
    let sealed = batch.seal();
    let failures = transport.commit(sealed.bytes(), sealed.messages()).unwrap();
    assert_eq!(failures, []);
}

/// A message of another program.
fn message(batch: &mut Batch, kind: u16, body: impl FnOnce(&mut Writer)) {
    batch.message(
        Label::step(0),
        TableFamily::Inet,
        (kind, NLM_F_CREATE),
        body,
    );
}

/// Adds a rule of another program that accepts everything to a chain.
fn foreign_rule(batch: &mut Batch, chain: &str) {
    message(batch, NFT_MSG_NEWRULE, |w| {
        w.put_text(NFTA_RULE_TABLE, skeleton::TABLE);
        w.put_text(NFTA_RULE_CHAIN, chain);
        w.nest(NFTA_RULE_EXPRESSIONS, |w| {
            let accept = [netd_model::nft::Stmt::Verdict(Verdict::Accept)];
            compile::rule(TableFamily::Inet, &accept, w).unwrap();
        });
    });
}

fn flush(batch: &mut Batch, chain: &str) {
    message(batch, NFT_MSG_DELRULE, |w| {
        w.put_text(NFTA_RULE_TABLE, skeleton::TABLE);
        w.put_text(NFTA_RULE_CHAIN, chain);
    });
}

fn delete_table(batch: &mut Batch, table: &str) {
    message(batch, NFT_MSG_DELTABLE, |w| {
        w.put_text(NFTA_TABLE_NAME, table);
    });
}

/// How many rules a chain has.
fn rules_in(nft: &mut NftSocket, chain: &str) -> usize {
    let dump = nft
        .transport
        .dump(NFT_MSG_GETRULE, NFPROTO_INET, |_| ())
        .unwrap();
    dump.iter()
        .filter(|message| message.attrs().text(NFTA_RULE_CHAIN) == Some(chain))
        .count()
}

/// Elements of every set, intervals of every kind.
#[expect(clippy::too_many_lines, reason = "one list")]
fn of_every_kind() -> Vec<Element> {
    let ip4 = |d| Datum::Ip4(Ipv4Addr::new(10, 0, 0, d));
    let ip6 = |d| Datum::Ip6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, d));
    let last6 = || Datum::Ip6(Ipv6Addr::from_bits(u128::MAX));
    let to4 = || ElementData::Values(vec![ip4(2), Datum::Port(80)]);
    let to6 = || ElementData::Values(vec![ip6(2), Datum::Port(80)]);
    let port = |p| Datum::Port(p);
    let (tcp, udp) = (|| Datum::L4Proto(6), || Datum::L4Proto(17));
    let proto = |family: Family| Datum::NfProto(family.nfproto());
    let none = || ElementData::None;
    let verdict = |verdict| ElementData::Verdict(verdict);
    let goto = || verdict(Verdict::Goto(skeleton::TO_NAT.to_owned()));
    vec![
        single("bridges", vec![name("br0")], none()),
        single("bridges", vec![name("a23456789012345")], none()),
        single("same", vec![name("br0"), name("br0")], none()),
        single("masq", vec![name("br0"), proto(Family::V4)], none()),
        single("masq", vec![name("br0"), proto(Family::V6)], none()),
        single("forwarding", vec![proto(Family::V6)], none()),
        single("apart", vec![name("br7"), name("br7")], none()),
        single("nohost", vec![name("br1"), proto(Family::V4)], none()),
        single("trusted", vec![name("wg0"), name("br0")], none()),
        single(
            "snat4",
            vec![name("br0")],
            ElementData::Values(vec![ip4(9)]),
        ),
        single(
            "snat6",
            vec![name("br0")],
            ElementData::Values(vec![ip6(9)]),
        ),
        single("open4", vec![ip4(1), tcp(), port(80)], none()),
        single("open6", vec![ip6(1), udp(), port(80)], none()),
        single(
            "egress",
            vec![name("br1"), proto(Family::V4)],
            verdict(Verdict::Drop),
        ),
        single(
            "egress",
            vec![name("br2"), proto(Family::V4)],
            verdict(Verdict::Accept),
        ),
        single(
            "egress",
            vec![name("br3"), proto(Family::V4)],
            verdict(Verdict::Return),
        ),
        single(
            "egress",
            vec![name("br4"), proto(Family::V6)],
            verdict(Verdict::Jump("to_nat".to_owned())),
        ),
        single("to", vec![name("br0"), proto(Family::V4)], goto()),
        single(
            "to",
            vec![name("br0"), proto(Family::V6)],
            verdict(Verdict::Drop),
        ),
        single("pub4", vec![ip4(1), tcp(), port(8000)], to4()),
        single("pub6", vec![ip6(1), udp(), port(8000)], to6()),
        single("pubany4", vec![tcp(), port(1)], to4()),
        single("pubany4", vec![tcp(), port(65535)], to4()),
        single("pubany6", vec![tcp(), port(1)], to6()),
        single(
            "lo4",
            vec![Datum::Ip4(Ipv4Addr::LOCALHOST), tcp(), port(1)],
            to4(),
        ),
        single(
            "lo6",
            vec![Datum::Ip6(Ipv6Addr::LOCALHOST), tcp(), port(1)],
            to6(),
        ),
        element(
            "own4",
            vec![name("br0"), ip4(0)],
            vec![name("br0"), ip4(255)],
            none(),
        ),
        element(
            "own4",
            vec![name("br1"), ip4(7)],
            vec![name("br1"), ip4(7)],
            none(),
        ),
        element(
            "own6",
            vec![name("br0"), ip6(0)],
            vec![name("br0"), last6()],
            none(),
        ),
        element(
            "direct4",
            vec![name("br0"), ip4(0)],
            vec![name("br0"), ip4(255)],
            none(),
        ),
        element(
            "direct6",
            vec![name("br0"), ip6(0)],
            vec![name("br0"), ip6(9)],
            none(),
        ),
        // Side by side, of one address, and up to the last.
        guard4([10, 0, 0, 0], [10, 0, 0, 0]),
        guard4([10, 0, 0, 1], [10, 0, 0, 9]),
        guard4([10, 0, 0, 10], [10, 0, 0, 255]),
        guard4([10, 0, 2, 0], [10, 0, 2, 255]),
        guard4([255, 255, 255, 254], [255, 255, 255, 255]),
        element("guard6", vec![ip6(0)], vec![ip6(1)], none()),
        element("guard6", vec![ip6(2)], vec![ip6(0xffff)], none()),
        element("guard6", vec![last6()], vec![last6()], none()),
    ]
}

/// Elements of every set of the bridges' table.
fn of_every_port() -> Vec<Element> {
    let mac = || Datum::Mac(Mac::of_address([10, 0, 0, 2].into()));
    let port = || name("ndv-1");
    let ip4 = |d| Datum::Ip4(Ipv4Addr::new(10, 0, 0, d));
    let ip6 = |d| Datum::Ip6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, d));
    let none = || ElementData::None;
    let interval = |set, first, last| element(set, vec![port(), first], vec![port(), last], none());
    let mut elements = vec![
        single("ports", vec![port()], none()),
        single("macs", vec![port(), mac()], none()),
        single("senders", vec![port(), mac(), mac(), ip4(2)], none()),
        single("src4", vec![port(), mac(), ip4(2)], none()),
        single("src6", vec![port(), mac(), ip6(2)], none()),
        interval("allow4", ip4(8), ip4(15)),
        interval("allow6", ip6(8), ip6(15)),
    ];
    for element in &mut elements {
        element.key.table = skeleton::bridge_table();
    }
    elements
}

/// A set that no version of netd makes.
fn other_set(set: &str, key: Vec<Field>) -> SetSpec {
    SetSpec {
        name: set.to_owned(),
        key,
        kind: SetKind::Set,
        interval: false,
        counter: false,
        limit: None,
        size: None,
    }
}

/// Runs something in the namespace of a thread that stays alive meanwhile.
fn with_second_namespace(test: impl FnOnce(NftSocket) + Send) {
    std::thread::scope(|scope| {
        let (send, receive) = mpsc::channel();
        scope.spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            send.send(socket()).unwrap();
        });
        // The thread is gone, its namespace lives on in the socket.
        test(receive.recv().unwrap());
    });
}
