//! What somebody else changes, and what somebody else owns.

use netd_tests::host::assert_same;
use netd_tests::lab::{Netns, PATIENCE, Proto};

use super::{Stage, lasting};

/// `plan` names what is missing, an audit puts it back, and nothing else is touched.
pub(super) fn changes_by_others() {
    let stage = Stage::set();
    let host = &stage.host;
    let mut healthy = host.state();
    let bridge = host.ok(&["network", "inspect", "web"])["interface"].clone();
    let bridge = bridge.as_str().unwrap().to_owned();
    let host_end = host.new_links().into_iter();
    let host_end = host_end
        .map(|link| link.name)
        .find(|name| name.starts_with("ndv-"));
    let host_end = host_end.unwrap();
    let flush = || {
        use netd::kernel::nft::NftSocket;
        use netd_model::{Object, Op, skeleton};
        let remove = Op::Remove(Object::Ruleset(skeleton::host()));
        host.netns
            .run(|| NftSocket::open().unwrap().apply(&[remove]))
            .unwrap();
    };
    let changes: [(&str, &str, &dyn Fn()); 6] = [
        ("the table is gone", "inet netd", &flush),
        ("the bridge is down", &bridge, &|| host.netns.down(&bridge)),
        ("a port is down", &host_end, &|| host.netns.down(&host_end)),
        ("a link is gone", &host_end, &|| {
            host.netns.del_link(&host_end);
        }),
        ("the bridge is gone", &bridge, &|| {
            host.netns.del_link(&bridge);
        }),
        ("a link inside is down", "eth0", &|| {
            stage.server.down("eth0");
        }),
    ];
    for (what, named, change) in changes {
        change();
        let plan = host.plan();
        assert!(
            plan.iter().any(|line| line.contains(named)),
            "{what}: {plan:#?}"
        );
        let audit = host.api("POST", "/v1/audit", "");
        assert_eq!(audit.status, 200, "{what}: {audit:?}");
        host.assert_healthy();
        // Links that were made again have other numbers.
        let repaired = host.state();
        if !what.ends_with("gone") {
            assert_same(what, &healthy, &repaired);
        }
        healthy = repaired;
        stage.assert_traffic();
        stage.assert_names();
        stage.assert_port_is_held();
    }
    host.done();
}

/// Names and places like ours without our mark are somebody else's.
pub(super) fn what_is_not_ours_stays() {
    let stage = Stage::set();
    let host = &stage.host;
    let other = Netns::host("other");
    host.netns.add_bridge("nd-foreign");
    netd_tests::lab::veth(
        host.netns.end("ndv-foreign", &["198.51.100.1/24"]),
        other.end("eth0", &["198.51.100.2/24"]),
    );
    host.netns.add_route("203.0.113.0/24", "198.51.100.2");
    netd_tests::lab::veth(
        stage.server.end("mine0", &["198.51.100.5/28"]),
        other.end("eth1", &[]),
    );
    let foreign = |lines: Vec<String>| -> Vec<String> {
        let marks = ["foreign", "mine0", "198.51.100", "203.0.113"];
        let lines = lines.into_iter();
        lines
            .filter(|line| marks.iter().any(|mark| line.contains(mark)))
            .collect()
    };
    let theirs = || foreign([lasting(&host.netns), lasting(&stage.server)].concat());
    let before = theirs();
    assert!(before.len() > 5, "{before:#?}");
    host.assert_healthy();
    assert_eq!(host.api("POST", "/v1/audit", "").status, 200);
    assert_same("an audit", &before, &theirs());
    let _server = stage.server.tcp_server("server", 80);
    let reached = stage.client.probe(Proto::Tcp, (stage.ip, 80), PATIENCE);
    assert!(reached.reached(), "{reached:?}");
    host.ok(&["detach", "server"]);
    assert_same("a detach", &before, &theirs());
    host.ok(&["purge", "--force"]);
    assert_same("a purge", &before, &theirs());
}
