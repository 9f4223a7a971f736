//! Whether anything grows with the number of attaches: the daemon's memory and descriptors after many pairs of attach and
//! detach, beside those after the first thousand.
//!
//! `cargo bench -p netd-tests --bench pairs`; `NETD_PAIRS=100000` for more than 20,000 pairs. Many are under way at once,
//! for a detach waits for the kernel and many wait no longer than one. The machine's own network is not touched.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark prints its figures, and ends where something fails"
)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use netd_tests::host::{Host, PROGRAMS};
use netd_tests::lab::{self, Netns, PATIENCE, wait_for};
use serde_json::json;

/// Containers that come and go at the same time.
const CLIENTS: usize = 32;
/// The daemon has reached its working size after so many pairs.
const FIRST: u64 = 1_000;
/// An address that was released rests for so long and takes some bytes meanwhile: memory grows with the pairs of the
/// last minute, and from then on not any more.
const REST: Duration = Duration::from_secs(60);
/// What memory may grow by after that, in kB: more addresses rest when the machine makes more pairs in a minute, and the
/// allocator keeps what it had. A leak of 20 bytes shows after 100,000 pairs.
const MARGIN: u64 = 2_048;

fn main() {
    lab::dispatch(PROGRAMS);
    lab::enter();
    let pairs = std::env::var("NETD_PAIRS").map_or(20_000, |n| n.parse().expect("a number"));
    let host = Host::start("pairs");
    host.ok(&["network", "create", "web", "--ipv6"]);
    let sandboxes: Vec<Netns> = (0..CLIENTS).map(|n| Netns::new(&format!("c{n}"))).collect();
    let fresh = Size::of(&host);
    println!("at the start: {fresh}");
    let begin = Instant::now();
    let first = rounds(&host, &sandboxes, FIRST);
    let (mut last, mut settled) = (first, None);
    let mut done = FIRST;
    while done < pairs || settled.is_none() {
        let step = (pairs / 10).clamp(1, FIRST * 2);
        let is_settled = begin.elapsed() > REST;
        last = rounds(&host, &sandboxes, step);
        done += step;
        println!("after {done} pairs: {last}");
        if is_settled {
            settled.get_or_insert((done, last));
        }
    }
    let (at, settled) = settled.expect("a minute has passed");
    println!(
        "after {FIRST} pairs: {first}; after {at} pairs and a minute: {settled}; after {done}: {last}"
    );
    // A thread that looks at the kernel just now has sockets of its own; a leak stays.
    lab::wait_for("as few descriptors as at first", PATIENCE, || {
        Size::of(&host).descriptors <= first.descriptors
    });
    assert_eq!(last.threads, first.threads, "threads leak");
    assert!(
        last.resident <= settled.resident + MARGIN,
        "memory grew by more than {MARGIN} kB"
    );
    host.done();
}

/// So many pairs, shared among the clients; the daemon's size afterwards, at rest.
fn rounds(host: &Host, sandboxes: &[Netns], pairs: u64) -> Size {
    let begin = Instant::now();
    let left = AtomicU64::new(pairs);
    std::thread::scope(|scope| {
        for (n, sandbox) in sandboxes.iter().enumerate() {
            let left = &left;
            scope.spawn(move || {
                let take = || {
                    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                };
                while take().is_ok() {
                    pair(host, sandbox, n);
                }
            });
        }
    });
    let rate = pairs * 1_000
        / u64::try_from(begin.elapsed().as_millis())
            .expect("some time")
            .max(1);
    println!("{pairs} pairs, {rate} a second");
    at_rest(host)
}

fn pair(host: &Host, sandbox: &Netns, n: usize) {
    let name = sandbox.name();
    let mut publish = vec![format!("{}:80", 8000 + n)];
    if n == 0 {
        // One of the clients only: to forget UDP flows the kernel goes through its whole table, and that takes longer
        // than everything else.
        publish.push(format!("{}:80/udp", 8000 + n));
    }
    let body = json!({"netns": sandbox.path(), "name": name, "networks": [{"network": "web", "aliases": ["db"]}],
        "publish": publish});
    let made = host.api("POST", "/v1/containers", &body.to_string());
    assert_eq!(made.status, 201, "{made:?}");
    let gone = host.api("DELETE", &format!("/v1/containers/{name}"), "");
    assert_eq!(gone.status, 200, "{gone:?}");
}

/// The size once connections are closed and removed sockets are let go: when three looks are the same.
fn at_rest(host: &Host) -> Size {
    let mut looks = [None; 3];
    wait_for("the daemon to rest", PATIENCE, || {
        looks.rotate_left(1);
        looks[2] = Some(Size::of(host));
        looks[0].is_some() && looks.windows(2).all(|two| two[0] == two[1])
    });
    looks[2].expect("a look")
}

/// What the daemon holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size {
    resident: u64,
    descriptors: usize,
    threads: u64,
}

impl Size {
    fn of(host: &Host) -> Self {
        let proc = format!("/proc/{}", host.pid());
        let text = std::fs::read_to_string(format!("{proc}/status")).expect("the daemon runs");
        let number = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            let word = line.and_then(|line| line.split_whitespace().next());
            word.and_then(|word| word.parse().ok()).expect("a number")
        };
        Self {
            resident: number("VmRSS:"),
            descriptors: std::fs::read_dir(format!("{proc}/fd"))
                .expect("the daemon runs")
                .count(),
            threads: number("Threads:"),
        }
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            resident,
            descriptors,
            threads,
        } = self;
        write!(
            f,
            "{resident} kB, {descriptors} descriptors, {threads} threads"
        )
    }
}
