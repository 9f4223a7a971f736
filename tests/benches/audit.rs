//! What a full audit costs beside many containers, and what the daemon takes while nothing happens.
//!
//! `cargo bench -p netd-tests --bench audit`; `NETD_CONTAINERS=5000` for more than 1,000. Each has two families, DNS and a
//! published port. The machine's own network is not touched.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark prints its figures, and ends where something fails"
)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::{self, Netns};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;

/// A bridge takes 1,023 ports, and looking up a name or a MAC is no slower on several.
const NETWORKS: usize = 4;
/// Requests under way at once while the host is filled.
const CLIENTS: usize = 8;
const AUDITS: usize = 11;
const REST: Duration = Duration::from_secs(20);

fn main() {
    lab::dispatch(PROGRAMS);
    lab::enter();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard).expect("a limit");
    let count = std::env::var("NETD_CONTAINERS").map_or(1000, |n| n.parse().expect("a number"));
    let host = Host::start("bench");
    for n in 0..NETWORKS {
        host.ok(&["network", "create", &format!("n{n}"), "--ipv6"]);
    }
    audits(&host, 0);
    let sandboxes: Vec<Netns> = (0..count).map(|n| Netns::new(&format!("c{n}"))).collect();
    let begin = Instant::now();
    fill(&host, &sandboxes);
    println!("{count} containers attached in {:?}", begin.elapsed());
    audits(&host, count);
    let before = lab::cpu_time(host.pid());
    std::thread::sleep(REST);
    let used = lab::cpu_time(host.pid()).saturating_sub(before);
    println!(
        "at rest with {count} containers: {used:?} CPU in {REST:?}, {:.3} % of a processor",
        100.0 * used.as_secs_f64() / REST.as_secs_f64()
    );
}

fn fill(host: &Host, sandboxes: &[Netns]) {
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || {
                for (n, sandbox) in sandboxes.iter().enumerate().skip(client).step_by(CLIENTS) {
                    let body = json!({"netns": sandbox.path(), "name": sandbox.name(),
                        "networks": [{"network": format!("n{}", n % NETWORKS)}],
                        "publish": [format!("{}:80", 10_000 + n)]});
                    let made = host.api("POST", "/v1/containers", &body.to_string());
                    assert_eq!(made.status, 201, "{made:?}");
                }
            });
        }
    });
}

/// Audits one after the other, and how long `status` takes meanwhile.
fn audits(host: &Host, count: usize) {
    let over = AtomicBool::new(false);
    let (mut times, cpu, status) = std::thread::scope(|scope| {
        let status = scope.spawn(|| {
            let mut worst = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let begin = Instant::now();
                assert_eq!(host.api("GET", "/v1/status", "").status, 200);
                worst = worst.max(begin.elapsed());
                std::thread::sleep(Duration::from_millis(1));
            }
            worst
        });
        // The asking for the status costs too, so the processor's time is taken without it.
        let times: Vec<Duration> = (0..AUDITS).map(|_| audit(host)).collect();
        over.store(true, Ordering::Relaxed);
        let status = status.join().expect("the status is answered");
        let before = lab::cpu_time(host.pid());
        for _ in 0..AUDITS {
            audit(host);
        }
        let cpu = lab::cpu_time(host.pid()).saturating_sub(before);
        (times, cpu, status)
    });
    times.sort();
    println!(
        "audit beside {count} containers: median {:?}, longest {:?}, {:?} CPU each; longest wait for the status {status:?}",
        times[times.len() / 2],
        times[times.len() - 1],
        cpu / u32::try_from(AUDITS).expect("a few")
    );
}

fn audit(host: &Host) -> Duration {
    let begin = Instant::now();
    let answer = host.api("POST", "/v1/audit", "");
    assert_eq!(answer.status, 200, "{answer:?}");
    begin.elapsed()
}
