//! What one more published port costs on a host that has none, and on one that has 10,000; and what 10,000 take.
//!
//! `cargo bench -p netd-tests --bench ports` prints medians and ratios of one run. The machine's own network is not
//! touched. Memory of nftables is that of the machine's slabs before and after, so a busy machine blurs it.

#![allow(
    clippy::expect_used,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    reason = "a benchmark prints its figures, and ends where something fails"
)]

use std::time::Instant;

use netd::kernel::nft::NftSocket;
use netd_model::api::DryRun;
use netd_model::{ContainerId, Object, Op};
use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::{self, Netns};
use serde_json::json;

/// Attaches measured at each size.
const ROUNDS: usize = 60;
/// Ports of one container of the crowd, and how many of those there are.
const EACH: usize = 1000;
const CROWD: usize = 10;
/// Networks of the containers without ports: the kernel's own work grows with the ports of one bridge.
const NETWORKS: usize = 10;

fn main() {
    lab::dispatch(PROGRAMS);
    lab::enter();
    let host = Host::start("bench");
    host.ok(&["network", "create", "web"]);
    let first = measure(&host, 0);
    let rules = host.count_rules();
    let empty = resident(host.pid());
    let begin = Instant::now();
    let crowd: Vec<Netns> = (0..CROWD).map(|n| publish_many(&host, n)).collect();
    let all = begin.elapsed().as_secs_f64();
    println!(
        "\n{} ports by {CROWD} attaches: {all:.2} s, {:.0} us a port; daemon {} -> {} kB resident, {} descriptors",
        EACH * CROWD,
        all * 1e6 / (EACH * CROWD) as f64,
        empty,
        resident(host.pid()),
        std::fs::read_dir(format!("/proc/{}/fd", host.pid())).map_or(0, Iterator::count),
    );
    let last = measure(&host, EACH * CROWD);
    compare("beside 10,000 ports / beside none", &first, &last);
    let others = attach_others(&host);
    println!("\n{} more containers on {NETWORKS} networks", others.len());
    let both = measure(&host, EACH * CROWD);
    compare(
        "beside 10,000 ports and 1,000 containers / beside none",
        &first,
        &both,
    );
    println!("nft rules: {rules} at first, now {}", host.count_rules());
    let begin = Instant::now();
    assert_eq!(host.plan(), Vec::<String>::new());
    println!(
        "an audit of all: {:.0} ms",
        begin.elapsed().as_secs_f64() * 1e3
    );
    drop((crowd, others));
    memory();
}

fn compare(what: &str, first: &[(&str, f64)], now: &[(&str, f64)]) {
    println!("\n{what} (aim: at most 1.2)");
    for ((what, first), (_, now)) in first.iter().zip(now) {
        println!("  {what:<32} {:.2}", now / first);
    }
}

/// With the crowd a thousand containers.
fn attach_others(host: &Host) -> Vec<Netns> {
    let mut others = Vec::new();
    for network in 0..NETWORKS {
        let network = format!("net{network}");
        host.ok(&["network", "create", &network]);
        for n in 0..(1000 - CROWD) / NETWORKS {
            let netns = Netns::new(&format!("{network}-{n}"));
            host.attach(&netns, &["--network", &network]);
            others.push(netns);
        }
    }
    others
}

/// Medians in microseconds: an attach with a port, and the port's map element alone.
fn measure(host: &Host, beside: usize) -> [(&'static str, f64); 3] {
    let sandbox = Netns::new("measured");
    let mut times = [const { Vec::new() }; 3];
    let mut nft = host
        .netns
        .run(|| NftSocket::open().expect("nftables answers"));
    for round in 0..ROUNDS + 5 {
        let with = attach(host, &["9:80"]);
        let automatic = attach(host, &["80"]);
        let add = element(host, &sandbox);
        let remove = [add.inverse().expect("an element can be removed")];
        let element = timed(|| {
            nft.apply(std::slice::from_ref(&add)).expect("it is added");
            nft.apply(&remove).expect("it is removed");
        });
        if round >= 5 {
            let values = [with, automatic, element];
            times.iter_mut().zip(values).for_each(|(l, v)| l.push(v));
        }
    }
    let [with, automatic, element] = times.map(median);
    println!("\nbeside {beside} published ports; medians of {ROUNDS}, us");
    println!(
        "  attach with one port {with:.0}, with one that netd chooses {automatic:.0}, element in and out {element:.1}"
    );
    [
        ("attach with one port", with),
        ("attach, netd chooses the port", automatic),
        ("element in and out", element),
    ]
}

/// An attach in microseconds; it is detached again.
/// Into a namespace of its own: where the last container has just gone, the kernel may still be busy with that.
fn attach(host: &Host, publish: &[&str]) -> f64 {
    let sandbox = Netns::new("measured");
    let body = json!({"netns": sandbox.path(), "name": "measured", "networks": [{"network": "web"}], "publish": publish});
    let body = body.to_string();
    let time = timed(|| {
        let answer = host.api("POST", "/v1/containers", &body);
        assert_eq!(answer.status, 201, "{answer:?}");
    });
    let answer = host.api("DELETE", "/v1/containers/measured", "");
    assert_eq!(answer.status / 100, 2, "{answer:?}");
    time
}

/// The operation that adds the map element of a published port.
fn element(host: &Host, sandbox: &Netns) -> Op {
    let body = json!({"netns": sandbox.path(), "name": "measured", "networks": [{"network": "web"}], "publish": ["9:80"]});
    let answer = host.api("POST", "/v1/containers?dry_run=true", &body.to_string());
    let plan: DryRun = serde_json::from_value(answer.body).expect("a dry run");
    let is_element = |op: &Op| matches!(op, Op::Add(Object::Element(_)));
    plan.ops.into_iter().find(is_element).expect("an element")
}

fn publish_many(host: &Host, number: usize) -> Netns {
    let container = Netns::new(&format!("crowd{number}"));
    let first = 20_000 + number * EACH;
    let range = format!("{first}-{last}:{first}-{last}", last = first + EACH - 1);
    host.attach(&container, &["--network=web", "--publish", &range]);
    container
}

/// Slab memory of 10,000 elements of the map of published ports, in a namespace of their own.
fn memory() {
    let netns = Netns::host("memory");
    netns.run(|| {
        let mut nft = NftSocket::open().expect("nftables answers");
        let ruleset = Op::Add(Object::from(netd_model::skeleton::host()));
        nft.apply(&[ruleset]).expect("the ruleset is installed");
        let add: Vec<Op> = (10_000..20_000_u16).map(element_of).collect();
        let remove: Vec<Op> = add.iter().filter_map(Op::inverse).collect();
        let mut taken = Vec::new();
        for _ in 0..5 {
            let before = slab();
            nft.apply(&add).expect("the elements are added");
            taken.push((slab() - before) / add.len() as f64 * 1024.0);
            nft.apply(&remove).expect("the elements are removed");
            // The kernel frees them behind a grace period.
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        println!(
            "nftables: {:.0} bytes an element, {:.1} MB for 10,000",
            median(taken.clone()),
            median(taken) / 100.0
        );
    });
}

fn element_of(port: u16) -> Op {
    use netd_model::net::Family;
    use netd_model::nft::{Datum, Element, ElementData, ElementKey};
    let key = vec![Datum::L4Proto(6), Datum::Port(port)];
    Op::Add(Object::Element(Element {
        key: ElementKey {
            table: netd_model::skeleton::host_table(),
            set: netd_model::skeleton::of_family(netd_model::skeleton::PUBANY, Family::V4),
            last: key.clone(),
            first: key,
        },
        data: ElementData::Values(vec![Datum::Ip4([172, 16, 0, 2].into()), Datum::Port(80)]),
        owner: netd_model::Owner::Container(ContainerId::from_bytes([1; 32])),
    }))
}

/// Kilobytes.
fn slab() -> f64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("the kernel tells its memory");
    let line = text.lines().find_map(|line| line.strip_prefix("Slab:"));
    kilobytes(line.expect("a line of slabs"))
}

fn resident(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon runs");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    kilobytes(line.expect("a resident size"))
}

fn kilobytes(text: &str) -> f64 {
    text.trim()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .expect("a number")
}

fn timed(work: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    work();
    begin.elapsed().as_secs_f64() * 1e6
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
