//! The firewalls of others: their rules stay theirs, netd's come back, and what stands in the way is named.

use std::net::IpAddr;

use netd_tests::lab::{PATIENCE, Proto, wait_for};
use netd_tests::reach::foreign;

use super::Stage;

const CHAIN: &str = "inet firewalld filter_FORWARD";

/// firewalld accepts by policy and rejects by its last rule. Published ports pass it, connections outwards do not until it
/// trusts the bridges.
pub(super) fn firewalld() {
    let stage = Stage::set();
    let host = &stage.host;
    let _servers = (
        stage.server.tcp_server("server", 80),
        stage.outside.tcp_server("outside", 80),
    );
    let to = |ip: [u8; 4], port| (IpAddr::from(ip), port);
    let published = || {
        let outcome = stage
            .outside
            .probe(Proto::Tcp, to([192, 0, 2, 1], 8080), PATIENCE);
        outcome.name().map(str::to_owned)
    };
    let outwards = || {
        let outcome = stage
            .client
            .probe(Proto::Tcp, to([192, 0, 2, 2], 80), PATIENCE);
        outcome.name().map(str::to_owned)
    };
    let warned = || {
        let status = host.ok(&["status"])["warnings"].to_string();
        let named = status.contains(CHAIN);
        let remedy =
            status.contains("firewall-cmd --permanent --zone=trusted --add-interface=nd-+");
        assert_eq!(named, remedy, "{status}");
        named
    };
    assert_eq!(outwards().as_deref(), Some("outside"));
    assert!(!warned());
    let rules = host.rules();
    foreign::firewalld(&host.netns);
    for _ in 0..3 {
        assert_eq!(published().as_deref(), Some("server"));
        assert_eq!(outwards(), None, "these are not firewalld's rules");
        assert!(warned());
        host.assert_healthy();
        assert_eq!(host.rules(), rules);
        foreign::firewalld_reload(&host.netns);
    }
    foreign::flush_ruleset(&host.netns);
    wait_for("netd's rules to be back", PATIENCE, || {
        host.rules() == rules
    });
    assert_eq!(published().as_deref(), Some("server"));
    assert_eq!(outwards().as_deref(), Some("outside"));
    assert!(!warned());
    stage.host.assert_healthy();
    stage.host.done();
}
