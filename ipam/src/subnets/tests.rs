//! Rules and errors of automatic subnets, and the choice against a naive walk over all pieces.

use proptest::prelude::*;

use super::*;
use crate::addr::overlaps;

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn nets(texts: &[&str]) -> Vec<IpNetwork> {
    texts.iter().map(|text| net(text)).collect()
}

fn range(base: &str, new_prefix: u8) -> AutoRange {
    AutoRange::new(net(base), new_prefix).unwrap()
}

/// What the defaults give when `avoid` is taken.
fn default_pick(avoid: &[&str]) -> String {
    pick(&AutoRange::default_v4(), &nets(avoid))
        .unwrap()
        .to_string()
}

#[test]
fn goes_round_what_is_taken_in_either_direction() {
    for (avoid, expected) in [
        (&[][..], "172.16.0.0/20"),
        (&["172.16.0.0/20"], "172.16.16.0/20"),
        // Contained: a resolver or a single host route.
        (&["172.16.3.4/32"], "172.16.16.0/20"),
        // Containing: a route of a VPN.
        (&["172.16.0.0/14"], "172.20.0.0/20"),
        (&["172.16.0.0/12"], "10.0.0.0/20"),
        (&["172.0.0.0/8", "10.0.0.0/9"], "10.128.0.0/20"),
        // Touching on both sides, out of order, repeated.
        (
            &["172.16.48.0/20", "172.16.0.0/19", "172.16.0.0/20"],
            "172.16.32.0/20",
        ),
        // The other family does not matter.
        (&["::/1", "::ac10:0/108"], "172.16.0.0/20"),
        (&["192.168.0.0/16"], "172.16.0.0/20"),
        // Host bits do not matter.
        (&["172.16.0.9/20"], "172.16.16.0/20"),
    ] {
        assert_eq!(default_pick(avoid), expected, "{avoid:?}");
    }
}

#[test]
fn default_routes_are_ignored_also_as_two_halves() {
    assert_eq!(default_pick(&["0.0.0.0/0"]), "172.16.0.0/20");
    assert_eq!(
        default_pick(&["0.0.0.0/1", "172.16.0.0/16", "128.0.0.0/1"]),
        "172.17.0.0/20"
    );
    // One half alone is a prefix like any other.
    assert_eq!(default_pick(&["128.0.0.0/1"]), "10.0.0.0/20");
    assert_eq!(default_pick(&["0.0.0.0/1", "8000::/1"]), "172.16.0.0/20");
    assert_eq!(
        pick(
            &AutoRange::default_v4(),
            &nets(&["128.0.0.0/1", "10.0.0.0/8"])
        )
        .unwrap_err()
        .code(),
        "pool_exhausted"
    );
    let v6 = [AutoRange::default_v6(net("fd00::/48")).unwrap()];
    assert_eq!(
        pick(&v6, &nets(&["::/0", "::/1", "8000::/1"])).unwrap(),
        net("fd00::/64")
    );
}

#[test]
fn ipv6_pieces_come_from_the_ula() {
    let ula = ula_prefix([0x12, 0x34, 0x56, 0x78, 0x9a]);
    assert_eq!(ula, net("fd12:3456:789a::/48"));
    assert_eq!(ula_prefix([0; 5]), net("fd00::/48"));
    assert_eq!(ula_prefix([0xff; 5]), net("fdff:ffff:ffff::/48"));
    let pieces = [AutoRange::default_v6(ula).unwrap()];
    assert_eq!(pick(&pieces, &[]).unwrap(), net("fd12:3456:789a::/64"));
    let avoid = nets(&["fd12:3456:789a::/49", "fd12:3456:789a:8000::1/128"]);
    assert_eq!(
        pick(&pieces, &avoid).unwrap(),
        net("fd12:3456:789a:8001::/64")
    );
}

#[test]
fn no_free_subnet_says_what_was_tried() {
    let error = pick(
        &AutoRange::default_v4(),
        &nets(&["172.16.0.0/12", "10.0.0.0/8"]),
    )
    .unwrap_err();
    assert_eq!(error.code(), "pool_exhausted");
    assert_eq!(
        error.to_string(),
        "no free subnet in 172.16.0.0/12 (as /20), 10.0.0.0/8 (as /20): all overlap routes, \
         resolvers or other networks; give a subnet or remove an unused network"
    );
    let error = pick(&[], &[]).unwrap_err();
    assert_eq!(error.code(), "pool_exhausted");
    assert!(
        error
            .to_string()
            .contains("no range for automatic subnets is set"),
        "{error}"
    );
}

#[test]
fn ranges_that_cannot_be_cut_are_refused() {
    for (base, new_prefix, ok) in [
        ("10.0.0.0/8", 7, false),
        ("10.0.0.0/8", 8, true),
        ("10.0.0.0/8", 32, true),
        ("10.0.0.0/8", 33, false),
        ("fd00::/48", 128, true),
        ("fd00::/48", 129, false),
        ("fd00::/65", 64, false),
        ("::/0", 0, true),
    ] {
        assert_eq!(
            AutoRange::new(net(base), new_prefix).is_ok(),
            ok,
            "{base} /{new_prefix}"
        );
    }
    let error = AutoRange::default_v6(net("10.0.0.0/8")).unwrap_err();
    assert_eq!(error.code(), "invalid_subnet");
    assert_eq!(
        error.to_string(),
        "10.0.0.0/8: cannot be cut into /64 subnets; choose /8 to /32"
    );
}

#[test]
fn the_ends_of_the_address_space_do_not_overflow() {
    let top = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128";
    assert_eq!(pick(&[range("::/0", 0)], &[]).unwrap(), net("::/0"));
    assert!(pick(&[range("::/0", 0)], &nets(&["fd00::/8"])).is_err());
    assert!(pick(&[range("8000::/1", 1)], &nets(&[top])).is_err());
    assert!(pick(&[range(top, 128)], &nets(&[top])).is_err());
    assert_eq!(pick(&[range(top, 128)], &[]).unwrap(), net(top));
    assert!(
        pick(
            &[range("255.255.255.0/24", 25)],
            &nets(&["255.255.255.0/24"])
        )
        .is_err()
    );
    let avoid = nets(&["255.255.255.255/32"]);
    assert_eq!(
        pick(&[range("255.255.255.0/24", 25)], &avoid).unwrap(),
        net("255.255.255.0/25")
    );
    assert!(pick(&[range("255.255.255.255/32", 32)], &avoid).is_err());
    let avoid = nets(&["255.255.255.254/32"]);
    assert_eq!(
        pick(&[range("255.255.255.254/31", 32)], &avoid).unwrap(),
        net("255.255.255.255/32")
    );
}

#[test]
fn jumps_past_millions_of_pieces() {
    // 2^80 pieces, the first seven eighths of them taken: a walk over pieces would never end.
    let avoid = nets(&["fd00::/49", "fd00:0:0:8000::/50", "fd00:0:0:c000::/51"]);
    assert_eq!(
        pick(&[range("fd00::/48", 128)], &avoid).unwrap(),
        net("fd00:0:0:e000::/128")
    );
}

/// The definition, spelt out: pieces in order, each against each avoided prefix.
fn naive_pick(ranges: &[AutoRange], avoid: &[IpNetwork]) -> Option<IpNetwork> {
    let halves = |v4: bool| {
        avoid
            .iter()
            .filter(|n| n.is_ipv4() == v4 && n.prefix() == 1)
            .any(|n| Span::of(*n).first == 0)
            && avoid
                .iter()
                .any(|n| n.is_ipv4() == v4 && n.prefix() == 1 && Span::of(*n).first != 0)
    };
    let ignored = |n: &IpNetwork| n.prefix() == 0 || (n.prefix() == 1 && halves(n.is_ipv4()));
    ranges.iter().find_map(|range| {
        let span = Span::of(range.base());
        let step = span.family.host_mask(range.new_prefix()) + 1;
        let count = (span.last - span.first) / step + 1;
        (0..count)
            .map(|i| {
                span.family
                    .network(span.first + i * step, range.new_prefix())
            })
            .find(|piece| !avoid.iter().any(|n| !ignored(n) && overlaps(*n, *piece)))
    })
}

/// Prefixes in and around a small base, of every length; sometimes far longer or shorter.
fn prefixes(base: &'static str) -> impl Strategy<Value = IpNetwork> {
    let span = Span::of(net(base));
    let (bits, inner) = (span.family.bits(), net(base).prefix());
    let lengths = prop_oneof![8 => inner..=bits, 1 => 0..=inner, 1 => 0..=1_u8];
    (any::<u128>(), lengths).prop_map(move |(value, length)| {
        let size = span.last - span.first + 1;
        // Twice the base, so that neighbours of it are drawn too.
        span.family.network(span.first + value % (2 * size), length)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn picks_the_first_free_piece(
        lengths in (0..=8_u8, 0..=8_u8, 0..=8_u8),
        avoid in prop::collection::vec(
            prop_oneof![prefixes("10.0.0.0/24"), prefixes("254.0.0.0/24"), prefixes("fd00::/120")],
            0..40,
        ),
    ) {
        let ranges = [
            range("10.0.0.0/24", 24 + lengths.0),
            range("254.0.0.0/24", 24 + lengths.1),
            range("fd00::/120", 120 + lengths.2),
        ];
        for ranges in [&ranges[..], &ranges[1..], &ranges[2..]] {
            let picked = pick(ranges, &avoid).ok();
            prop_assert_eq!(picked, naive_pick(ranges, &avoid));
        }
    }

    #[test]
    fn overlap_means_a_common_address(
        a in prefixes("10.0.0.0/28"), b in prefixes("10.0.0.0/28"),
    ) {
        let (small, large) = if a.prefix() >= b.prefix() { (a, b) } else { (b, a) };
        prop_assert_eq!(overlaps(a, b), large.contains(small.ip()));
        prop_assert_eq!(overlaps(b, a), overlaps(a, b));
    }
}
