//! What benchmarks of paths have in common: one processor for client and server, short turns, path by path, and their ratios.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Keeps this thread, and all that it starts, on one processor.
pub fn pin() {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).expect("the processors");
    let is_allowed = |cpu: &usize| allowed.is_set(*cpu).unwrap_or(false);
    let last = (0..CpuSet::count()).rfind(is_allowed).expect("a processor");
    let mut one = CpuSet::new();
    one.set(last).expect("a processor");
    sched_setaffinity(this, &one).expect("a thread may stay where it is");
}

/// Turns of one path beside those of another, round by round: the median of the ratios and its quartiles.
pub fn ratio(of: &[f64], to: &[f64]) -> String {
    let ratios: Vec<f64> = of.iter().zip(to).map(|(of, to)| of / to).collect();
    let [low, middle, high] = [0.25, 0.5, 0.75].map(|q| quantile(&ratios, q));
    format!("{middle:.3} [{low:.2}..{high:.2}]")
}

/// The value below which this share of all lies.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in the list"
    )]
    let place = (q * (values.len() - 1) as f64).round() as usize;
    values[place]
}
