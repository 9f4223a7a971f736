//! What a pool leaves out from the start, and prefixes of extreme size or place.

use super::*;

#[test]
fn edges_and_gateway_are_reserved() {
    let cases: [(&str, Option<&str>, &[&str]); 11] = [
        (
            "10.0.0.0/29",
            Some("10.0.0.1"),
            &["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"],
        ),
        ("10.0.0.0/30", None, &["10.0.0.1", "10.0.0.2"]),
        ("10.0.0.0/30", Some("10.0.0.2"), &["10.0.0.1"]),
        ("10.0.0.0/31", None, &["10.0.0.0", "10.0.0.1"]),
        ("10.0.0.0/31", Some("10.0.0.0"), &["10.0.0.1"]),
        ("255.255.255.255/32", None, &["255.255.255.255"]),
        ("fd00::/126", Some("fd00::1"), &["fd00::2", "fd00::3"]),
        (
            "fd00::/126",
            Some("fd00::"),
            &["fd00::1", "fd00::2", "fd00::3"],
        ),
        ("fd00::/127", None, &["fd00::", "fd00::1"]),
        ("fd00::1/128", None, &["fd00::1"]),
        ("fd00::1/128", Some("fd00::1"), &[]),
    ];
    for (prefix, gateway, expected) in cases {
        let mut pool = Pool::new(net(prefix), None, gateway.map(ip), &[]).unwrap();
        assert_eq!(pool.capacity(), expected.len() as u128, "{prefix}");
        assert_eq!(drain(&mut pool), expected, "{prefix}");
    }
}

#[test]
fn ranges_at_the_edges_of_the_prefix() {
    for (prefix, range, expected) in [
        ("10.0.0.0/24", "10.0.0.0/31", vec!["10.0.0.1"]),
        ("10.0.0.0/24", "10.0.0.254/31", vec!["10.0.0.254"]),
        ("10.0.0.0/24", "10.0.0.255/32", vec![]),
        ("10.0.0.0/30", "10.0.0.99/30", vec![]),
        (
            "255.255.255.0/24",
            "255.255.255.252/30",
            vec!["255.255.255.252", "255.255.255.253", "255.255.255.254"],
        ),
        ("fd00::/64", "fd00::/127", vec!["fd00::1"]),
        (
            "ffff::/16",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
            vec!["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
        ),
    ] {
        match Pool::new(net(prefix), Some(net(range)), None, &[]) {
            Ok(mut pool) => assert_eq!(drain(&mut pool), expected, "{prefix} {range}"),
            Err(error) => assert_eq!(error.code(), "invalid_ip_range", "{prefix} {range}"),
        }
    }
}

#[test]
fn bad_ranges_and_gateways_are_refused() {
    for (prefix, range, gateway, code, message) in [
        (
            "10.0.0.0/24",
            Some("10.0.0.0/23"),
            None,
            "invalid_ip_range",
            "ip-range 10.0.0.0/23: not inside 10.0.0.0/24; choose a part of the subnet",
        ),
        (
            "10.0.0.0/24",
            Some("fd00::/64"),
            None,
            "invalid_ip_range",
            "ip-range fd00::/64: not inside 10.0.0.0/24; choose a part of the subnet",
        ),
        (
            "10.0.0.0/24",
            None,
            Some("10.0.1.1"),
            "invalid_gateway",
            "gateway 10.0.1.1: not an address of 10.0.0.0/24; choose one inside the subnet",
        ),
        (
            "10.0.0.0/24",
            None,
            Some("10.0.0.255"),
            "invalid_gateway",
            "gateway 10.0.0.255: is the broadcast address of 10.0.0.0/24; choose another address of the subnet",
        ),
    ] {
        let error = Pool::new(net(prefix), range.map(net), gateway.map(ip), &[]).unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), (code, message));
    }
}

#[test]
fn host_bits_are_ignored() {
    let pool = Pool::new(net("10.0.0.77/24"), Some(net("10.0.0.77/28")), None, &[]).unwrap();
    assert_eq!(pool.prefix(), net("10.0.0.0/24"));
    assert_eq!(pool.cursor(), ip("10.0.0.64"));
}

#[test]
fn huge_prefixes_neither_overflow_nor_cost_memory() {
    for (prefix, capacity, first) in [
        ("fd00::/64", u128::from(u64::MAX), "fd00::1"),
        ("::/0", u128::MAX, "::1"),
        ("8000::/1", (1 << 127) - 1, "8000::1"),
        ("0.0.0.0/0", (1 << 32) - 2, "0.0.0.1"),
    ] {
        let mut pool = pool(prefix);
        assert_eq!(pool.capacity(), capacity, "{prefix}");
        assert_eq!(take(&mut pool, 0), first);
        assert!(pool.contains(ip(first)));
    }
    let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let mut pool = pool("::/0");
    pool.set_cursor(ip(last));
    assert_eq!(take(&mut pool, 0), last);
    assert_eq!(take(&mut pool, 0), "::1");
    // At the end of time nothing can rest any longer, and nothing overflows.
    pool.release(ip(last), Duration::MAX).unwrap();
    assert_eq!((pool.len_used(), pool.len_quarantined()), (1, 0));
}

#[test]
fn excluding_everything_leaves_nothing() {
    let mut pool = Pool::new(net("fd00::/64"), None, None, &[net("::/0")]).unwrap();
    assert_eq!(pool.capacity(), 0);
    assert_eq!(pool.allocate(at(0)).unwrap_err().code(), "pool_exhausted");
}

#[test]
fn a_large_prefix_has_a_limit_of_resting_addresses() {
    let mut pool = Pool::new(net("fd00::/64"), None, None, &[]).unwrap();
    let now = Duration::from_secs(1);
    let all: Vec<IpAddr> = (0..2 * MOST_QUARANTINED)
        .map(|_| {
            let ip = pool.allocate(now).unwrap();
            pool.release(ip, now).unwrap();
            ip
        })
        .collect();
    assert_eq!(pool.len_quarantined(), MOST_QUARANTINED);
    assert_eq!(pool.len_used(), 0);
    // The round goes on, over the youngest and the oldest alike.
    let next = pool.allocate(now).unwrap();
    assert!(!all.contains(&next));
}
