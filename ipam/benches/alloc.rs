//! What one allocation costs, in an empty /12 and in ones that are nearly full and fragmented.
//!
//! `cargo bench -p netd-ipam`. The figures to watch are the ratios: they must not follow the
//! number of addresses in use. Each figure is the best of several rounds: other processes on
//! the machine only ever add time.
#![allow(clippy::print_stdout, reason = "a bench reports on stdout")]

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use netd_ipam::{AutoRange, Pool, pick};

const ROUNDS: usize = 7;
const ALLOCATIONS: usize = 100_000;
const SAMPLE: usize = 1_000;
/// 2^20 addresses less network and broadcast.
const SIZE: usize = (1 << 20) - 2;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Nanoseconds per allocation.
struct Figures {
    all: f64,
    first: f64,
    last: f64,
}

fn main() -> Result<()> {
    let empty = Pool::new("172.16.0.0/12".parse()?, None, None, &[])?;
    let fragmented = fragmented(&empty)?;
    let rested = resting(&empty, ALLOCATIONS)?;
    let baseline = report("/12, empty", &empty, ALLOCATIONS, None)?;
    report(
        "/12, 90% used, fragmented",
        &fragmented,
        ALLOCATIONS,
        Some(&baseline),
    )?;
    let rest = usize::try_from(fragmented.capacity() - fragmented.len_used())?;
    report(
        "the same, down to the last address",
        &fragmented,
        rest,
        Some(&baseline),
    )?;
    report(
        "/12, 100,000 in quarantine expire",
        &rested,
        ALLOCATIONS,
        Some(&baseline),
    )?;
    let v6 = Pool::new("fd00::/64".parse()?, None, None, &[])?;
    report("/64, empty", &v6, ALLOCATIONS, Some(&baseline))?;
    churn("/12, 90% used: allocate and release", &fragmented)?;
    report_pick()
}

/// 90% in use, with single free addresses strewn at random: the most intervals there can be.
fn fragmented(empty: &Pool) -> Result<Pool> {
    let mut pool = empty.clone();
    let mut addresses = Vec::with_capacity(SIZE);
    while let Ok(ip) = pool.allocate(Duration::ZERO) {
        addresses.push(ip);
    }
    // Fisher-Yates with a fixed seed: the same holes in every run.
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for i in (1..addresses.len()).rev() {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        addresses.swap(i, usize::try_from(seed >> 33)? % (i + 1));
    }
    for ip in &addresses[..SIZE / 10] {
        pool.unclaim(*ip)?;
    }
    Ok(pool)
}

/// A pool that has released `count` addresses, all at the moment zero.
fn resting(empty: &Pool, count: usize) -> Result<Pool> {
    let mut pool = empty.clone();
    let held = (0..count)
        .map(|_| pool.allocate(Duration::ZERO))
        .collect::<Vec<_>>();
    for ip in held {
        pool.release(ip?, Duration::ZERO)?;
    }
    Ok(pool)
}

fn report(what: &str, pool: &Pool, count: usize, baseline: Option<&Figures>) -> Result<Figures> {
    let rounds = (0..ROUNDS)
        .map(|_| round(pool.clone(), count))
        .collect::<Result<Vec<_>>>()?;
    let of = |figure: fn(&Figures) -> f64| fastest(rounds.iter().map(figure));
    let figures = Figures {
        all: of(|f| f.all),
        first: of(|f| f.first),
        last: of(|f| f.last),
    };
    let Figures { all, first, last } = figures;
    println!("{what}");
    println!("    {count} allocations: {all:.0} ns each");
    println!(
        "    first {SAMPLE}: {first:.0} ns, last {SAMPLE}: {last:.0} ns, ratio {:.2}",
        last / first
    );
    if let Some(baseline) = baseline {
        println!("    ratio to the empty /12: {:.2}", all / baseline.all);
    }
    Ok(figures)
}

fn round(mut pool: Pool, count: usize) -> Result<Figures> {
    let mut take = |n: usize| -> Result<Duration> {
        let start = Instant::now();
        for _ in 0..n {
            black_box(pool.allocate(Duration::from_secs(100))?);
        }
        Ok(start.elapsed())
    };
    let (first, middle, last) = (take(SAMPLE)?, take(count - 2 * SAMPLE)?, take(SAMPLE)?);
    Ok(Figures {
        all: each(first + middle + last, count),
        first: each(first, SAMPLE),
        last: each(last, SAMPLE),
    })
}

/// A container comes and one goes, with 10 ms between them: 6,000 addresses rest at any time.
fn churn(what: &str, pool: &Pool) -> Result<()> {
    let rounds = (0..ROUNDS)
        .map(|_| churn_round(pool.clone()))
        .collect::<Result<Vec<_>>>()?;
    println!(
        "{what}\n    {ALLOCATIONS} pairs: {:.0} ns each",
        fastest(rounds.into_iter())
    );
    Ok(())
}

fn churn_round(mut pool: Pool) -> Result<f64> {
    let start = Instant::now();
    for i in 0..ALLOCATIONS {
        let now = Duration::from_millis(10) * u32::try_from(i)?;
        let ip = pool.allocate(now)?;
        pool.release(black_box(ip), now)?;
    }
    Ok(each(start.elapsed(), ALLOCATIONS))
}

/// 4,000 networks exist: the next automatic subnet.
fn report_pick() -> Result<()> {
    let mut taken: Vec<IpNetwork> = Vec::new();
    for _ in 0..4_000 {
        taken.push(pick(&AutoRange::default_v4(), &taken)?);
    }
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        black_box(pick(&AutoRange::default_v4(), &taken)?);
        rounds.push(each(start.elapsed(), 1_000));
    }
    let best = fastest(rounds.into_iter());
    println!("subnet beside {} networks\n    {best:.0} us", taken.len());
    Ok(())
}

fn each(time: Duration, count: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]
    let count = count as f64;
    time.as_secs_f64() * 1e9 / count
}

fn fastest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::INFINITY, f64::min)
}
