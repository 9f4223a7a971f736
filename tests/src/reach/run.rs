//! Sending the packets.
//!
//! Owns the order of the attempts, the watch over what must stay silent, and the report. What
//! should be answered goes first and has all the time it needs. Then, while nothing else is sent,
//! all that should be silent is tried: no answer may come, and at no server may a question arrive,
//! for a packet that gets in is a leak even when its answer does not get out.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::rows::{Expect, Row, Via, rows};
use super::table::{Circumstances, Who};
use super::world::{Place, World};
use crate::lab::etherparse::{NetSlice, SlicedPacket, TransportSlice};
use crate::lab::{self, Outcome, PATIENCE, Proto, Sniffer};
use netd::cli::client::segment;

/// How long to wait for an answer that must not come. Arrivals are watched too, so this decides
/// nothing alone.
const SILENCE: Duration = Duration::from_millis(400);

/// Attempts under way at once. Those that must stay silent only wait; the others are work for an emulated machine.
const CROWD: usize = 96;
const WORKERS: usize = 32;

/// What came of a run.
#[derive(Debug, Default)]
pub struct Report {
    checks: usize,
    failures: Vec<String>,
    summary: String,
}

impl Report {
    /// Notes a group of checks and those of them that failed.
    pub fn add(&mut self, title: &str, note: &str, checks: usize, failures: Vec<String>) {
        let failed = failures.len();
        let _ = write!(
            self.summary,
            "\n  {title}: {checks} checks, {failed} failed{note}"
        );
        self.checks += checks;
        let failures = failures.into_iter();
        self.failures
            .extend(failures.map(|text| format!("  {title}: {text}")));
    }

    /// Prints the counts; panics with all that failed.
    pub fn finish(self, test: &str) {
        let families = if lab::has_ipv6() {
            ""
        } else {
            " over IPv4 only: this kernel has no IPv6"
        };
        eprintln!("{test}: {} checks{families}{}", self.checks, self.summary);
        assert!(
            self.failures.is_empty(),
            "{} of {} checks failed\n{}",
            self.failures.len(),
            self.checks,
            self.failures.join("\n")
        );
    }
}

/// Tries the whole table.
pub fn check(world: &World, now: Circumstances, title: &str, report: &mut Report) {
    let start = Instant::now();
    let rows = rows(world, now);
    let (silent, loud): (Vec<_>, Vec<_>) =
        rows.iter().partition(|row| row.expect == Expect::Silence);
    let answered = loud.iter().filter(|row| row.expect != Expect::Lost).count();
    let mut failures = attempt_all(world, &loud, WORKERS);
    failures.extend(watched(world, || attempt_all(world, &silent, CROWD)));
    let note = format!(
        ": {answered} answered, {} silent, {:.1} s",
        rows.len() - answered,
        start.elapsed().as_secs_f64()
    );
    report.add(title, &note, rows.len(), failures);
}

/// Asks netd about every n-th row what would happen, and compares that with what is right.
pub fn check_traces(world: &World, now: Circumstances, title: &str, report: &mut Report) {
    // A number without a common factor with the numbers of places and servers.
    const EACH: usize = 37;
    let rows = rows(world, now);
    let asked: Vec<_> = rows
        .iter()
        .step_by(EACH)
        .filter(|row| row.is_traceable())
        .collect();
    let failures = asked.iter().filter_map(|row| {
        let from = match row.from.who {
            Who::Host => "host".to_owned(),
            Who::Outside | Who::Trusted => {
                let own = row
                    .from
                    .ips
                    .iter()
                    .find(|ip| ip.is_ipv4() == row.to.is_ipv4());
                own.map_or_else(String::new, IpAddr::to_string)
            }
            _ => row.from.name.to_owned(),
        };
        let to = match row.via {
            Via::Ping => row.to.ip().to_string(),
            Via::Tcp => row.to.to_string(),
            Via::Udp => format!("{}/udp", row.to),
        };
        // Not by netctl: on an emulated machine each process costs a second.
        let target = format!("/v1/trace?from={}&to={}", segment(&from), segment(&to));
        let trace = world.host.api("GET", &target, "").body;
        let arrives = matches!(row.expect, Expect::Answer { .. });
        let is_right = trace["delivered"] == arrives && trace["fault"].is_null();
        (!is_right).then(|| format!("{row}: expected {:?}, traced {trace}", row.expect))
    });
    let failures = failures.collect();
    report.add(&format!("{title}, traced"), "", asked.len(), failures);
}

/// Makes the attempts beside each other; what went wrong, in the order of the rows.
fn attempt_all(world: &World, rows: &[&Row<'_>], at_once: usize) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let work = || {
        while let Some((number, row)) = take(rows, &next) {
            if let Some(failure) = attempt(world, row) {
                failures.lock().unwrap().push((number, failure));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(work);
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    failures.into_iter().map(|(_, text)| text).collect()
}

fn take<'a, 'b>(rows: &[&'a Row<'b>], next: &AtomicUsize) -> Option<(usize, &'a Row<'b>)> {
    let number = next.fetch_add(1, Ordering::Relaxed);
    rows.get(number).map(|row| (number, *row))
}

/// Sends one question; none when it went as it should.
fn attempt(world: &World, row: &Row<'_>) -> Option<String> {
    let timeout = match row.expect {
        Expect::Answer { .. } => PATIENCE,
        Expect::Lost | Expect::Silence => SILENCE,
    };
    let netns = world.netns(row.from);
    let (is_right, got) = match row.via {
        Via::Ping => {
            let answered = netns.ping(row.to.ip(), timeout);
            let is_right = answered == matches!(row.expect, Expect::Answer { .. });
            (is_right, format!("answered: {answered}"))
        }
        Via::Tcp | Via::Udp => {
            let proto = if row.via == Via::Tcp {
                Proto::Tcp
            } else {
                Proto::Udp
            };
            let outcome = netns.probe(proto, row.to, timeout);
            (is_expected(&row.expect, &outcome), format!("{outcome:?}"))
        }
    };
    (!is_right).then(|| format!("{row}: expected {:?}, got {got}", row.expect))
}

fn is_expected(expect: &Expect, outcome: &Outcome) -> bool {
    match (expect, outcome) {
        (
            Expect::Answer { name, seen },
            Outcome::Reached {
                name: by,
                seen_source,
            },
        ) => name == by && seen.contains(&seen_source.ip()),
        (Expect::Answer { .. }, _) => false,
        (Expect::Lost | Expect::Silence, outcome) => !outcome.reached(),
    }
}

/// Runs something and adds every question that arrived meanwhile at a container or outside.
fn watched(world: &World, work: impl FnOnce() -> Vec<String>) -> Vec<String> {
    let over = AtomicBool::new(false);
    let places = world.places.iter().filter(|place| place.who != Who::Host);
    let sniffers: Vec<_> = places
        .map(|place| (place, world.netns(place).sniff("eth0")))
        .collect();
    std::thread::scope(|scope| {
        let watches: Vec<_> = sniffers
            .iter()
            .map(|(place, sniffer)| scope.spawn(|| watch(place, sniffer, &over)))
            .collect();
        let mut failures = work();
        over.store(true, Ordering::Relaxed);
        for watch in watches {
            failures.extend(watch.join().expect("a watch"));
        }
        failures
    })
}

/// Notes the questions that arrive until it is over and all that came is looked at.
fn watch(place: &Place, sniffer: &Sniffer, over: &AtomicBool) -> Vec<String> {
    const ROUND: Duration = Duration::from_millis(50);
    let mut seen = Vec::new();
    loop {
        let is_last = over.load(Ordering::Relaxed);
        let wanted =
            |frame: &[u8]| question(frame).is_some_and(|(_, to, _)| place.ips.contains(&to));
        match sniffer.wait_for(ROUND, wanted) {
            Some(frame) => {
                if let Some((from, to, what)) = question(&frame) {
                    seen.push(format!(
                        "LEAK: {what} from {from} arrived at {} as {to}",
                        place.name
                    ));
                }
            }
            None if is_last => return seen,
            None => {}
        }
    }
}

/// The ends of a packet that asks for something, and what it asks for.
fn question(frame: &[u8]) -> Option<(IpAddr, IpAddr, String)> {
    const ECHO_V4: u8 = 8;
    const ECHO_V6: u8 = 128;
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (from, to): (IpAddr, IpAddr) = match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
            )
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
            )
        }
        NetSlice::Arp(_) => return None,
    };
    let what = match packet.transport? {
        TransportSlice::Tcp(tcp) if tcp.syn() && !tcp.ack() => {
            format!("a SYN to port {}", tcp.destination_port())
        }
        TransportSlice::Udp(udp) if udp.payload() == b"?\n" => {
            format!("a datagram to port {}", udp.destination_port())
        }
        TransportSlice::Icmpv4(icmp) if icmp.type_u8() == ECHO_V4 => "a ping".to_owned(),
        TransportSlice::Icmpv6(icmp) if icmp.type_u8() == ECHO_V6 => "a ping".to_owned(),
        _ => return None,
    };
    Some((from, to, what))
}
