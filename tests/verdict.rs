//! A small simulated corpus with known truth: fails if the detector gets worse. `cargo bench --bench verdict` runs the large one.

#[path = "../benches/verdict/corpus.rs"]
#[allow(dead_code)] // the benchmark uses all of it
mod corpus;
#[path = "../benches/verdict/series.rs"]
#[allow(dead_code)] // the benchmark uses all of it
mod series;

use corpus::{NUISANCES, trace};
use series::Trace;
use soakd::analysis::{Params, batch};
use soakd::model::finding::{Finding, Verdict};

const SEED: u64 = 7;

/// The nuisance called `name`, as the `index`-th trace of `class` has it, and what was found.
fn judged(name: &str, class: u8, index: u64) -> (Trace, Finding) {
    let kind = NUISANCES.iter().position(|n| *n == name).expect("a nuisance of the corpus");
    let mut t = trace(SEED, index, class, kind);
    // One sample a second says no more than one every ten, and a debug build should not have to read it.
    if t.points.len() > 20_000 {
        t.points = t.points.into_iter().step_by(10).collect();
    }
    let f = batch(&t.points, Params::default());
    (t, f)
}

fn covered(t: &Trace, f: &Finding) -> bool {
    f.drift_ci95_bytes[0] <= t.drift_bytes && t.drift_bytes <= f.drift_ci95_bytes[1]
}

#[test]
fn what_is_no_leak_does_not_ring_and_is_found_to_be_within() {
    let quiet = [("quiet", 1), ("sawtooth", 0), ("day_cycle", 1), ("warm_up", 0), ("cache", 0), ("restarts", 0)];
    let (mut within, mut right) = (0, 0);
    for (index, (name, class)) in quiet.into_iter().enumerate() {
        let (t, f) = judged(name, class, index as u64);
        assert!(!f.alarmed, "seed {SEED}, {name} {class} {index}: {f:?}");
        within += usize::from(f.verdict == Verdict::Within);
        right += usize::from(covered(&t, &f));
    }
    assert!(within >= 5, "only {within} of {} are within", quiet.len());
    assert!(right >= 5, "only {right} of {} intervals hold the true drift", quiet.len());
}

#[test]
fn leaks_are_found_soon_after_the_tolerance_is_gone() {
    let names = ["quiet", "sawtooth", "day_cycle", "outliers"];
    let (mut soon, mut right) = (0, 0);
    for (index, name) in names.into_iter().enumerate() {
        let (t, f) = judged(name, 2, index as u64);
        let leak = t.leak.expect("a leaking trace");
        let what = format!("seed {SEED}, {leak} over {name}, {:.0} MB: {f:?}", t.drift_bytes / 1e6);
        assert!(f.alarmed && f.verdict == Verdict::Outside, "{what}");
        let after_h = (f.first_alarm_unix_s.expect("it rang") - t.points[0].unix_s) / 3600.0;
        soon += usize::from(after_h < 1.5 * t.breach_h.expect("a leaking trace"));
        right += usize::from(covered(&t, &f));
    }
    assert!(soon >= 3, "only {soon} of {} were found within 1.5 times the time in which 50 MB went", names.len());
    assert!(right >= 3, "only {right} of {} intervals hold the true drift", names.len());
}
