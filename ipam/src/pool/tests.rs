//! One test per rule and per error of the pool.

use super::*;

mod limits;

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pool(prefix: &str) -> Pool {
    Pool::new(net(prefix), None, None, &[]).unwrap()
}

const fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn take(pool: &mut Pool, seconds: u64) -> String {
    pool.allocate(at(seconds)).unwrap().to_string()
}

/// All addresses of a fresh pool, in the order they come.
fn drain(pool: &mut Pool) -> Vec<String> {
    std::iter::from_fn(|| pool.allocate(at(0)).ok())
        .map(|ip| ip.to_string())
        .collect()
}

#[test]
fn the_next_one_is_never_the_lowest_one() {
    let mut pool = pool("10.0.0.0/29");
    assert_eq!(take(&mut pool, 0), "10.0.0.1");
    pool.unclaim(ip("10.0.0.1")).unwrap();
    assert_eq!(take(&mut pool, 0), "10.0.0.2");
    pool.claim(ip("10.0.0.3")).unwrap();
    assert_eq!(take(&mut pool, 0), "10.0.0.4");
    assert_eq!(take(&mut pool, 0), "10.0.0.5");
    assert_eq!(take(&mut pool, 0), "10.0.0.6");
    assert_eq!(take(&mut pool, 0), "10.0.0.1");
}

#[test]
fn whether_a_rested_address_is_free_is_told_beforehand() {
    let mut pool = pool("10.0.0.0/30");
    assert!(pool.has_rested(at(0)));
    drain(&mut pool);
    assert!(!pool.has_rested(at(0)));
    pool.release(ip("10.0.0.2"), at(10)).unwrap();
    assert!(!pool.has_rested(at(69)));
    assert!(pool.has_rested(at(70)));
    assert_eq!(take(&mut pool, 70), "10.0.0.2");
    assert!(!pool.has_rested(at(70)));
    pool.unclaim(ip("10.0.0.1")).unwrap();
    assert!(pool.has_rested(at(70)), "it was never on the wire");
}

#[test]
fn a_released_address_rests() {
    let mut pool = pool("10.0.0.0/29");
    drain(&mut pool);
    pool.unclaim(ip("10.0.0.5")).unwrap();
    pool.release(ip("10.0.0.2"), at(10)).unwrap();
    assert_eq!(pool.len_quarantined(), 1);
    assert!(!pool.is_used(ip("10.0.0.2")));
    // The round meets .2 first, but it rests.
    assert_eq!(take(&mut pool, 69), "10.0.0.5");
    // Only resting ones are left: soon reused beats no address.
    assert_eq!(take(&mut pool, 69), "10.0.0.2");
    assert_eq!(pool.allocate(at(69)).unwrap_err().code(), "pool_exhausted");
}

#[test]
fn a_pool_is_idle_when_nothing_is_in_use_and_all_have_rested() {
    let mut pool = pool("10.0.0.0/29");
    assert!(pool.is_idle(at(0)));
    for _ in 0..2 {
        take(&mut pool, 0);
    }
    pool.release(ip("10.0.0.1"), at(10)).unwrap();
    assert!(!pool.is_idle(at(1_000)));
    pool.release(ip("10.0.0.2"), at(20)).unwrap();
    assert!(!pool.is_idle(at(79)));
    assert!(pool.is_idle(at(80)));
}

#[test]
fn a_rested_address_joins_the_round_again() {
    let mut pool = pool("10.0.0.0/29");
    for _ in 0..3 {
        take(&mut pool, 0);
    }
    pool.release(ip("10.0.0.2"), at(10)).unwrap();
    assert_eq!(take(&mut pool, 69), "10.0.0.4");
    assert_eq!(pool.len_quarantined(), 1);
    assert_eq!(take(&mut pool, 70), "10.0.0.5");
    assert_eq!(pool.len_quarantined(), 0);
    assert_eq!(take(&mut pool, 70), "10.0.0.6");
    assert_eq!(take(&mut pool, 70), "10.0.0.2");
}

#[test]
fn when_all_rest_the_oldest_goes_first() {
    // Once with all of them expired, once with none.
    for now in [1_000, 5] {
        let mut pool = pool("10.0.0.0/29");
        drain(&mut pool);
        for (seconds, last) in [(1, 5), (2, 2), (3, 6), (3, 1)] {
            pool.release(ip(&format!("10.0.0.{last}")), at(seconds))
                .unwrap();
        }
        let order: Vec<_> = (0..4).map(|_| take(&mut pool, now)).collect();
        assert_eq!(
            order,
            ["10.0.0.5", "10.0.0.2", "10.0.0.6", "10.0.0.1"],
            "at {now}"
        );
        assert_eq!(pool.allocate(at(now)).unwrap_err().code(), "pool_exhausted");
    }
}

#[test]
fn the_quarantine_can_be_set_and_turned_off() {
    let mut pool = pool("10.0.0.0/29");
    pool.set_quarantine(at(5));
    pool.claim(ip("10.0.0.2")).unwrap();
    pool.release(ip("10.0.0.2"), at(10)).unwrap();
    take(&mut pool, 14);
    assert_eq!(pool.len_quarantined(), 1);
    take(&mut pool, 15);
    assert_eq!(pool.len_quarantined(), 0);
    pool.set_quarantine(Duration::ZERO);
    pool.release(ip("10.0.0.1"), at(15)).unwrap();
    assert_eq!(pool.len_quarantined(), 0);
    pool.set_quarantine(Duration::MAX);
    pool.release(ip("10.0.0.3"), at(15)).unwrap();
    assert_eq!(pool.len_quarantined(), 1);
}

#[test]
fn claim_says_what_is_wrong() {
    let excluded = [net("10.0.0.8/30"), net("10.0.1.0/24")];
    let mut pool = Pool::new(net("10.0.0.0/24"), None, Some(ip("10.0.0.1")), &excluded).unwrap();
    pool.claim(ip("10.0.0.2")).unwrap();
    for (address, code, message) in [
        (
            "10.0.0.0",
            "invalid_ip",
            "10.0.0.0: is the network address of 10.0.0.0/24; ask for another address or for none",
        ),
        (
            "10.0.0.255",
            "invalid_ip",
            "10.0.0.255: is the broadcast address of 10.0.0.0/24; ask for another address or for none",
        ),
        (
            "10.0.0.1",
            "invalid_ip",
            "10.0.0.1: is the gateway of 10.0.0.0/24; ask for another address or for none",
        ),
        (
            "10.0.0.9",
            "invalid_ip",
            "10.0.0.9: is a reserved address of 10.0.0.0/24; ask for another address or for none",
        ),
        (
            "10.0.1.9",
            "invalid_ip",
            "10.0.1.9: not an address of 10.0.0.0/24; ask for one inside it or for none",
        ),
        (
            "fd00::1",
            "invalid_ip",
            "fd00::1: not an address of 10.0.0.0/24; ask for one inside it or for none",
        ),
        (
            "::a00:3",
            "invalid_ip",
            "::a00:3: not an address of 10.0.0.0/24; ask for one inside it or for none",
        ),
        (
            "10.0.0.2",
            "address_in_use",
            "10.0.0.2: already in use in 10.0.0.0/24; ask for another address or for none",
        ),
    ] {
        for error in [pool.claim(ip(address)), pool.adopt(ip(address))].map(Result::unwrap_err) {
            assert_eq!((error.code(), error.to_string().as_str()), (code, message));
        }
    }
    assert_eq!(pool.len_used(), 1);
    let mut v6 = Pool::new(net("fd00::/64"), None, None, &[]).unwrap();
    let error = v6.claim(ip("fd00::")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "fd00::: is the subnet-router anycast address of fd00::/64; ask for another address or for none"
    );
}

#[test]
fn claim_takes_an_address_out_of_quarantine() {
    let mut pool = pool("10.0.0.0/29");
    drain(&mut pool);
    pool.release(ip("10.0.0.2"), at(0)).unwrap();
    pool.claim(ip("10.0.0.2")).unwrap();
    assert!(pool.is_used(ip("10.0.0.2")));
    assert_eq!(pool.len_quarantined(), 0);
    assert_eq!(pool.allocate(at(100)).unwrap_err().code(), "pool_exhausted");
    // Rolled back: free at once, the former quarantine does not come back.
    pool.unclaim(ip("10.0.0.2")).unwrap();
    assert_eq!(pool.len_quarantined(), 0);
    assert_eq!(take(&mut pool, 0), "10.0.0.2");
}

#[test]
fn only_what_is_in_use_can_be_given_back() {
    let mut pool = pool("10.0.0.0/29");
    take(&mut pool, 0);
    pool.release(ip("10.0.0.1"), at(0)).unwrap();
    for (address, code) in [
        ("10.0.0.1", "address_not_in_use"),
        ("10.0.0.2", "address_not_in_use"),
        ("10.0.0.0", "address_not_in_use"),
        ("10.0.0.8", "invalid_ip"),
        ("::1", "invalid_ip"),
    ] {
        assert_eq!(
            pool.release(ip(address), at(0)).unwrap_err().code(),
            code,
            "{address}"
        );
        assert_eq!(
            pool.unclaim(ip(address)).unwrap_err().code(),
            code,
            "{address}"
        );
    }
    assert_eq!((pool.len_used(), pool.len_quarantined()), (0, 1));
}

#[test]
fn a_range_limits_automatic_addresses_only() {
    let range = Some(net("10.0.0.4/30"));
    let mut pool = Pool::new(net("10.0.0.0/24"), range, Some(ip("10.0.0.5")), &[]).unwrap();
    assert_eq!(pool.capacity(), 3);
    pool.claim(ip("10.0.0.200")).unwrap();
    assert_eq!(drain(&mut pool), ["10.0.0.4", "10.0.0.6", "10.0.0.7"]);
    assert_eq!((pool.len_used(), pool.len_used_in_range()), (4, 3));
    // Free outside the range, but only on request; and it needs no rest there.
    pool.release(ip("10.0.0.200"), at(0)).unwrap();
    assert_eq!(pool.len_quarantined(), 0);
    assert_eq!(
        pool.allocate(at(1_000)).unwrap_err().to_string(),
        "10.0.0.0/24: all 3 addresses are in use in its ip-range 10.0.0.4/30; \
         ask for an address outside the range or create the network with a larger one"
    );
    pool.claim(ip("10.0.0.200")).unwrap();
}

#[test]
fn exhaustion_names_the_remedy() {
    for (prefix, gateway, message) in [
        (
            "172.18.0.0/24",
            Some("172.18.0.1"),
            "172.18.0.0/24: all 253 addresses are in use; detach a container or create the network with a larger subnet",
        ),
        (
            "10.0.0.1/32",
            None,
            "10.0.0.1/32: the only address is in use; detach a container or create the network with a larger subnet",
        ),
        (
            "10.0.0.1/32",
            Some("10.0.0.1"),
            "10.0.0.1/32: there is no address to give out; create the network with a larger subnet",
        ),
    ] {
        let mut pool = Pool::new(net(prefix), None, gateway.map(ip), &[]).unwrap();
        drain(&mut pool);
        assert_eq!(pool.allocate(at(0)).unwrap_err().to_string(), message);
    }
}

#[test]
fn the_round_survives_a_restart() {
    let mut before = pool("10.0.0.0/29");
    for _ in 0..3 {
        take(&mut before, 0);
    }
    before.release(ip("10.0.0.1"), at(0)).unwrap();
    let mut after = pool("10.0.0.0/29");
    for held in ["10.0.0.2", "10.0.0.3"] {
        after.adopt(ip(held)).unwrap();
    }
    after.set_cursor(before.cursor());
    assert_eq!(take(&mut after, 0), "10.0.0.4");
    after.set_cursor(ip("192.168.0.1"));
    assert_eq!(after.cursor(), ip("10.0.0.0"));
}

#[test]
fn the_quarantine_of_a_large_pool_stays_small() {
    let mut pool = pool("fd00::/64");
    for second in 0..10_000 {
        let held = pool.allocate(at(second)).unwrap();
        pool.release(held, at(second)).unwrap();
    }
    assert!(pool.len_quarantined() <= 61, "{}", pool.len_quarantined());
}

#[test]
fn expired_addresses_are_freed_a_few_per_call() {
    let mut pool = pool("10.0.0.0/24");
    let held: Vec<_> = (0..20).map(|_| pool.allocate(at(0)).unwrap()).collect();
    for ip in held {
        pool.release(ip, at(0)).unwrap();
    }
    for left in [20 - FREED_PER_CALL, 20 - 2 * FREED_PER_CALL, 0] {
        take(&mut pool, 100);
        assert_eq!(pool.len_quarantined(), left);
    }
}
