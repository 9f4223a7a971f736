//! What somebody else changes, and what somebody else owns.

use netd::kernel::nft::NftSocket;
use netd_model::nft::Ruleset;
use netd_model::{Object, Op, skeleton};
use netd_tests::host::{Host, assert_same};
use netd_tests::lab::{LinkChange, Netns, PATIENCE, Proto, wait_for};
use serde_json::Value;

use super::{Stage, lasting};

/// What somebody changes is put back by itself and told, and nothing else is touched.
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
    let forward = "net/ipv4/ip_forward";
    let (netns, server) = (&host.netns, &stage.server);
    let redirects = format!("net/ipv4/conf/{bridge}/send_redirects");
    let advertisements = format!("net/ipv6/conf/{bridge}/accept_ra");
    let changes: [(&str, &str, &dyn Fn()); 15] = [
        ("the table is gone", "inet netd", &|| {
            remove_table(netns, skeleton::host());
        }),
        ("the table of bridges is gone", "bridge netd", &|| {
            remove_table(netns, skeleton::bridge());
        }),
        ("forwarding is off", "ip_forward", &|| {
            netns.set_sysctl(forward, "0");
        }),
        ("the bridge tells of redirects", &redirects, &|| {
            netns.set_sysctl(&redirects, "1");
        }),
        ("the bridge learns routes", &advertisements, &|| {
            netns.set_sysctl(&advertisements, "2");
        }),
        ("the bridge is down", &bridge, &|| netns.down(&bridge)),
        ("a port is down", &host_end, &|| netns.down(&host_end)),
        ("a port left its bridge", &host_end, &|| {
            netns.set_link(&host_end, LinkChange::nocontroller);
        }),
        ("a link is gone", &host_end, &|| netns.del_link(&host_end)),
        ("the bridge is gone", &bridge, &|| netns.del_link(&bridge)),
        ("a link inside is down", "eth0", &|| server.down("eth0")),
        ("a link inside has another name", "eth0", &|| rename(server)),
        ("lo inside is down", "lo", &|| server.down("lo")),
        ("the default route inside is gone", "0.0.0.0/0", &|| {
            server.del_route("0.0.0.0/0");
        }),
        ("the table inside is gone", "netd-dns", &|| {
            let id = host.ok(&["inspect", "server"])["id"].clone();
            let id = netd_model::ContainerId::parse(id.as_str().unwrap()).unwrap();
            remove_table(server, skeleton::dns(&id));
        }),
    ];
    for (what, named, change) in changes {
        let told = events(host).len();
        change();
        wait_for(what, PATIENCE, || {
            events(host)[told..].iter().any(|event| {
                event["kind"] == "repaired" && event["message"].as_str().unwrap().contains(named)
            })
        });
        host.assert_healthy();
        // Links that were made again have other numbers.
        let repaired = host.state();
        if !what.contains("link is gone")
            && !what.contains("bridge is gone")
            && !what.contains("name")
        {
            assert_same(what, &healthy, &repaired);
        }
        healthy = repaired;
        stage.assert_traffic();
        stage.assert_names();
        stage.assert_port_is_held();
    }
    host.done();
}

fn events(host: &Host) -> Vec<Value> {
    let output = host.netctl(&["events"]);
    assert_eq!(output.code, 0, "{output:?}");
    let lines = output.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn remove_table(netns: &Netns, ruleset: Ruleset) {
    let remove = Op::Remove(Object::Ruleset(ruleset));
    netns
        .run(|| NftSocket::open().unwrap().apply(&[remove]))
        .unwrap();
}

/// An interface can be renamed only while it is down.
fn rename(netns: &Netns) {
    netns.down("eth0");
    netns.rename_link("eth0", "other0");
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
