//! Ready-made wirings.
//!
//! Owns the shapes that most tests begin with. Anything else is wired with `veth`.

use super::wire::{known_families, parse_prefix};
use super::{End, Netns, veth};

/// Two hosts "a" and "b" on one wire: eth0 with 10.0.0.1 and .2, fd00::1 and ::2.
pub fn pair() -> (Netns, Netns) {
    let (a, b) = (Netns::host("a"), Netns::host("b"));
    veth(
        a.end("eth0", &["10.0.0.1/24", "fd00::1/64"]),
        b.end("eth0", &["10.0.0.2/24", "fd00::2/64"]),
    );
    (a, b)
}

/// Joins a host outside to the host: eth0 there, `link` here; its default routes lead here.
pub fn wire(host: &Netns, link: &str, ours: &[&str], outside: &Netns, theirs: &[&str]) {
    veth(outside.end("eth0", theirs), host.end(link, ours));
    let mut families = Vec::new();
    for gateway in known_families(ours) {
        let (ip, _) = parse_prefix(gateway);
        if !families.contains(&ip.is_ipv4()) {
            outside.add_route("default", &ip.to_string());
            families.push(ip.is_ipv4());
        }
    }
}

/// "host" and "outside" on a wire: wan with 192.0.2.1 and 2001:db8::1 - eth0 with 192.0.2.9 and 2001:db8::9. What is outside
/// has its default routes to the host.
pub fn uplink() -> (Netns, Netns) {
    let (host, outside) = (Netns::host("host"), Netns::host("outside"));
    wire(
        &host,
        "wan",
        &["192.0.2.1/24", "2001:db8::1/64"],
        &outside,
        &["192.0.2.9/24", "2001:db8::9/64"],
    );
    (host, outside)
}

/// Client, router and server: eth0 10.0.1.2 - left 10.0.1.1, right 10.0.2.1 - eth0 10.0.2.2, and
/// the same ends in fd00:1::/64 and fd00:2::/64. The router forwards both families.
pub fn routed() -> (Netns, Netns, Netns) {
    let [client, router, server] = ["client", "router", "server"].map(Netns::host);
    veth(
        client.end("eth0", &["10.0.1.2/24", "fd00:1::2/64"]),
        router.end("left", &["10.0.1.1/24", "fd00:1::1/64"]),
    );
    veth(
        router.end("right", &["10.0.2.1/24", "fd00:2::1/64"]),
        server.end("eth0", &["10.0.2.2/24", "fd00:2::2/64"]),
    );
    router.forwarding();
    for gateway in known_families(&["10.0.1.1", "fd00:1::1"]) {
        client.add_route("default", gateway);
    }
    for gateway in known_families(&["10.0.2.1", "fd00:2::1"]) {
        server.add_route("default", gateway);
    }
    (client, router, server)
}

/// Joins all ends in one Ethernet. Returns the switch: a namespace with a bridge "lan" and the
/// ports "port0", "port1" and so on, in the order of the ends.
pub fn lan(ends: &[End<'_>]) -> Netns {
    let switch = Netns::host("switch");
    switch.add_bridge("lan");
    for (number, end) in ends.iter().enumerate() {
        let port = format!("port{number}");
        veth(*end, switch.end(&port, &[]));
        switch.set_master(&port, "lan");
    }
    switch
}
