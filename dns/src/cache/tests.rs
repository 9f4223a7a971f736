//! The cache alone, with a clock of the tests.

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const BIG: usize = 1 << 20;

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

fn query(text: &str, edns: bool) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(text), RecordType::A));
    if edns {
        message.set_edns(hickory_proto::op::Edns::new());
    }
    message
}

/// The reply of an upstream to a query, with these records.
fn reply(query: &Message, code: ResponseCode, answers: &[u32], soa: Option<(u32, u32)>) -> Vec<u8> {
    let mut reply = Message::response(query.metadata.id, OpCode::Query);
    reply.metadata.response_code = code;
    reply.metadata.authoritative = true;
    reply.queries.clone_from(&query.queries);
    for &ttl in answers {
        let data = RData::A(A([192, 0, 2, 1].into()));
        reply.add_answer(Record::from_rdata(
            query.queries[0].name().clone(),
            ttl,
            data,
        ));
    }
    if let Some((ttl, minimum)) = soa {
        let data = SOA::new(
            name("ns.example"),
            name("root.example"),
            1,
            2,
            3,
            4,
            minimum,
        );
        reply.add_authority(Record::from_rdata(name("example"), ttl, RData::SOA(data)));
    }
    reply.edns.clone_from(&query.edns);
    reply.to_vec().unwrap()
}

struct Lab {
    cache: Cache,
    upstreams: Arc<Vec<Upstream>>,
}

impl Lab {
    fn new(limit: usize) -> Self {
        Self {
            cache: Cache::new(limit),
            upstreams: Arc::new(vec!["192.0.2.53".parse().unwrap()]),
        }
    }

    fn key(&self, query: &[u8]) -> Option<Key> {
        Key::of(&Request::read(query).unwrap().0, &self.upstreams)
    }

    fn get(&mut self, query: &Message, now: Duration) -> Hit {
        let bytes = query.to_vec().unwrap();
        let key = self.key(&bytes).unwrap();
        self.cache.get(&key, &Request::read(&bytes).unwrap().0, now)
    }

    fn put(&mut self, query: &Message, reply: &[u8], now: Duration) {
        let key = self.key(&query.to_vec().unwrap()).unwrap();
        self.cache.insert(key, reply, now);
    }

    fn fail(&mut self, query: &Message, now: Duration) {
        let key = self.key(&query.to_vec().unwrap()).unwrap();
        self.cache.fail(&key, now);
    }

    /// What is kept, as a message; and whether it was fresh.
    fn kept(&mut self, query: &Message, now: Duration) -> Option<(Message, bool)> {
        match self.get(query, now) {
            Hit::Fresh { reply, .. } => Some((Message::from_vec(&reply).unwrap(), true)),
            Hit::Stale { reply, .. } => Some((Message::from_vec(&reply).unwrap(), false)),
            Hit::Failed | Hit::Unknown => None,
        }
    }
}

#[test]
fn an_answer_is_kept_for_its_shortest_ttl_and_grows_old() {
    let mut lab = Lab::new(BIG);
    let asked = query("www.example", false);
    lab.put(
        &asked,
        &reply(&asked, ResponseCode::NoError, &[60, 300], None),
        5 * SECOND,
    );
    let mut again = query("WWW.eXample", false);
    again.metadata.id = 77;
    let (kept, fresh) = lab.kept(&again, 15 * SECOND).unwrap();
    assert!(fresh && kept.metadata.id == 77 && !kept.metadata.authoritative);
    assert!(kept.metadata.recursion_available);
    assert!(kept.queries[0].name().eq_case(again.queries[0].name()));
    let ttls: Vec<u32> = kept.answers.iter().map(|record| record.ttl).collect();
    assert_eq!(ttls, [50, 290]);
    assert!(lab.kept(&again, 64 * SECOND).unwrap().1);
    assert!(!lab.kept(&again, 65 * SECOND).unwrap().1, "the TTL is over");
}

#[test]
fn a_denial_is_kept_as_its_soa_says() {
    for (code, soa, until) in [
        (ResponseCode::NXDomain, Some((300, 60)), 60),
        (ResponseCode::NoError, Some((20, 60)), 20),
        (ResponseCode::NXDomain, Some((1_000_000, 1_000_000)), 3600),
        // Without an SOA there is no saying how long (RFC 2308 section 5).
        (ResponseCode::NXDomain, None, 0),
        (ResponseCode::NoError, None, 0),
        (ResponseCode::ServFail, Some((300, 60)), 0),
        (ResponseCode::Refused, Some((300, 60)), 0),
    ] {
        let mut lab = Lab::new(BIG);
        let asked = query("nope.example", false);
        lab.put(&asked, &reply(&asked, code, &[], soa), SECOND);
        if until == 0 {
            assert_eq!(lab.get(&asked, SECOND), Hit::Unknown, "{code:?} {soa:?}");
            continue;
        }
        assert!(
            lab.kept(&asked, SECOND * until).unwrap().1,
            "{code:?} {soa:?}"
        );
        assert!(
            !lab.kept(&asked, SECOND * (until + 1)).unwrap().1,
            "{code:?} {soa:?}"
        );
    }
}

#[test]
fn what_must_not_be_kept_is_not() {
    let asked = query("www.example", false);
    let good = reply(&asked, ResponseCode::NoError, &[60], None);
    let mut cut = good.clone();
    cut[2] |= 0x02;
    let mut broken = good.clone();
    broken[7] = 9;
    let mut more = good.clone();
    more.push(0);
    let zero = reply(&asked, ResponseCode::NoError, &[60, 0], None);
    let huge = reply(&asked, ResponseCode::NoError, &[1 << 31], None);
    for bytes in [cut, broken, more, zero, huge] {
        let mut lab = Lab::new(BIG);
        lab.put(&asked, &bytes, SECOND);
        assert_eq!(lab.get(&asked, SECOND), Hit::Unknown);
    }
    // Questions whose answers are nobody else's.
    let lab = Lab::new(BIG);
    let mut options = query("www.example", true);
    let cookie = hickory_proto::rr::rdata::opt::EdnsOption::Unknown(10, vec![1; 8]);
    options.edns.as_mut().unwrap().options_mut().insert(cookie);
    assert_eq!(lab.key(&options.to_vec().unwrap()), None);
    for kind in [RecordType::ANY, RecordType::AXFR, RecordType::IXFR] {
        let mut other = query("www.example", false);
        other.queries[0].set_query_type(kind);
        assert_eq!(lab.key(&other.to_vec().unwrap()), None, "{kind}");
    }
}

#[test]
fn whoever_asks_otherwise_gets_nothing_of_it() {
    let mut lab = Lab::new(BIG);
    let asked = query("www.example", true);
    lab.put(
        &asked,
        &reply(&asked, ResponseCode::NoError, &[60], None),
        SECOND,
    );
    assert!(lab.kept(&asked, SECOND).is_some());
    let mut dnssec = asked.clone();
    dnssec.edns.as_mut().unwrap().set_dnssec_ok(true);
    let mut unchecked = asked.clone();
    unchecked.metadata.checking_disabled = true;
    for other in [
        query("www.example", false),
        dnssec,
        unchecked,
        query("www.example.org", true),
    ] {
        assert_eq!(lab.get(&other, SECOND), Hit::Unknown, "{other:?}");
    }
    lab.upstreams = Arc::new(vec!["192.0.2.54".parse().unwrap()]);
    assert_eq!(
        lab.get(&asked, SECOND),
        Hit::Unknown,
        "others may know another truth"
    );
}

#[test]
fn a_stale_answer_says_so() {
    let mut lab = Lab::new(BIG);
    let asked = query("www.example", true);
    lab.put(
        &asked,
        &reply(&asked, ResponseCode::NoError, &[60], None),
        SECOND,
    );
    let late = 100 * SECOND;
    let Hit::Stale {
        reply: bytes,
        at_once,
        ..
    } = lab.get(&asked, late)
    else {
        panic!("not stale");
    };
    assert!(!at_once, "the upstreams are to be asked first");
    let message = Message::from_vec(&bytes).unwrap();
    assert_eq!((message.answers[0].ttl, message.edns.is_some()), (30, true));
    assert!(
        bytes
            .windows(8)
            .any(|bytes| bytes[..2] == [0, 15] && bytes[4..6] == [0, 3]),
        "EDE 3"
    );
    lab.fail(&asked, late);
    for (after, expected) in [(0, true), (29, true), (31, false)] {
        let hit = lab.get(&asked, late + SECOND * after);
        assert!(
            matches!(hit, Hit::Stale { at_once, .. } if at_once == expected),
            "{after}: {hit:?}"
        );
    }
    assert_eq!(lab.get(&asked, late + STALE), Hit::Unknown);
    assert_eq!(lab.cache.size(), (0, 0));
}

#[test]
fn a_failure_is_remembered_for_a_moment() {
    let mut lab = Lab::new(BIG);
    let asked = query("www.example", true);
    lab.fail(&asked, 5 * SECOND);
    assert_eq!(lab.get(&asked, 5 * SECOND), Hit::Failed);
    assert_eq!(lab.get(&asked, 6 * SECOND), Hit::Unknown);
    lab.fail(&asked, 7 * SECOND);
    lab.put(
        &asked,
        &reply(&asked, ResponseCode::NoError, &[60], None),
        7 * SECOND,
    );
    assert!(lab.kept(&asked, 7 * SECOND).is_some());
}

#[test]
fn popular_names_are_fetched_before_they_expire() {
    let mut lab = Lab::new(BIG);
    let asked = query("www.example", false);
    lab.put(
        &asked,
        &reply(&asked, ResponseCode::NoError, &[100], None),
        Duration::ZERO,
    );
    let fetch =
        |lab: &mut Lab, at| matches!(lab.get(&asked, SECOND * at), Hit::Fresh { fetch: true, .. });
    for at in [10, 20, 50, 89] {
        assert!(!fetch(&mut lab, at), "early at {at}");
    }
    assert!(fetch(&mut lab, 91));
    assert!(!fetch(&mut lab, 92), "somebody is at it");
    // One that is asked for once in its last tenth is not popular.
    lab.put(
        &query("b.example", false),
        &reply(
            &query("b.example", false),
            ResponseCode::NoError,
            &[100],
            None,
        ),
        Duration::ZERO,
    );
    let hit = lab.get(&query("b.example", false), SECOND * 95);
    assert!(matches!(hit, Hit::Fresh { fetch: false, .. }));
}

#[test]
fn what_is_not_used_makes_room() {
    let mut lab = Lab::new(20_000);
    let hot = query("hot.example", false);
    lab.put(
        &hot,
        &reply(&hot, ResponseCode::NoError, &[600], None),
        SECOND,
    );
    for number in 0..1000 {
        assert!(lab.kept(&hot, SECOND).is_some(), "lost after {number}");
        let cold = query(&format!("c{number}.example"), false);
        lab.put(
            &cold,
            &reply(&cold, ResponseCode::NoError, &[600], None),
            SECOND,
        );
    }
    let (entries, bytes) = lab.cache.size();
    assert!(entries > 10 && bytes <= 20_000, "{entries} {bytes}");
    assert_eq!(lab.cache.order.len(), entries);
    let mut off = Lab::new(0);
    off.put(
        &hot,
        &reply(&hot, ResponseCode::NoError, &[600], None),
        SECOND,
    );
    assert_eq!(off.get(&hot, SECOND), Hit::Unknown);
}

/// What may happen to a cache.
#[derive(Clone, Debug)]
enum Step {
    Put(u8, u32),
    Get(u8),
    Fail(u8),
    Wait(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..20_u8, 0..200_u32).prop_map(|(name, ttl)| Step::Put(name, ttl)),
        (0..20_u8).prop_map(Step::Get),
        (0..20_u8).prop_map(Step::Fail),
        (0..500_u16).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    /// Against a plain map: what is said was put in, is never said as fresh past its TTL, and the size holds.
    #[test]
    fn any_history(steps in steps(), limit in 0_usize..8000) {
        let mut lab = Lab::new(limit);
        let mut model: HashMap<u8, (Duration, u32)> = HashMap::new();
        let mut now = Duration::ZERO;
        for step in steps {
            match step {
                Step::Wait(seconds) => now += SECOND * u32::from(seconds),
                Step::Put(number, ttl) => {
                    let asked = query(&format!("n{number}.example"), number % 2 == 0);
                    lab.put(&asked, &reply(&asked, ResponseCode::NoError, &[ttl], None), now);
                    if ttl > 0 {
                        model.insert(number, (now, ttl));
                    }
                }
                Step::Fail(number) => lab.fail(&query(&format!("n{number}.example"), number % 2 == 0), now),
                Step::Get(number) => {
                    let asked = query(&format!("n{number}.example"), number % 2 == 0);
                    if let Some((message, fresh)) = lab.kept(&asked, now) {
                        let (stored, ttl) = model[&number];
                        let left = (stored + SECOND * ttl).saturating_sub(now).as_secs();
                        prop_assert_eq!(fresh, left > 0);
                        let shown = u64::from(message.answers[0].ttl);
                        prop_assert_eq!(shown, if fresh { left } else { 30 });
                        prop_assert_eq!(message.edns.is_some(), asked.edns.is_some());
                        prop_assert_eq!(message.queries, asked.queries);
                    }
                }
            }
            let (entries, bytes) = lab.cache.size();
            prop_assert!(bytes <= limit);
            prop_assert_eq!(entries, lab.cache.order.len());
        }
    }

    #[test]
    fn any_bytes_are_kept_or_not(bytes in prop::collection::vec(any::<u8>(), 12..200), flips in any::<u16>()) {
        let mut lab = Lab::new(BIG);
        let asked = query("www.example", true);
        lab.put(&asked, &bytes, SECOND);
        let mut near = reply(&asked, ResponseCode::NoError, &[60], Some((1, 2)));
        let place = usize::from(flips) % near.len();
        near[place] ^= 1 << (flips >> 13);
        lab.put(&asked, &near, SECOND);
        lab.get(&asked, 2 * SECOND);
    }
}
