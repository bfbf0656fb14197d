//! Who differs from the fleet: each figure of each host against its fellows that do the same work, with the error held
//! over all comparisons together. Whether a difference is good or bad is left to the reader.
//!
//! A fellow's figure scatters; how much is read off the fleet itself, robustly: median and median absolute deviation
//! (Rousseeuw and Croux 1993; factor 1.4826 for a normal core), so that the odd hosts do not hide themselves by widening
//! the scatter. Two-sided p-values come from Student's t with the degrees of freedom that a MAD of n values is worth
//! (its efficiency is 37 % of a standard deviation's), and Holm's step-down (1979) keeps the chance of even one false
//! accusation on the whole page under 1 %.

use crate::model::fleet::{Difference, HostSummary};
use statrs::distribution::{ContinuousCDF, StudentsT};
use std::collections::BTreeMap;

/// Chance of one or more false accusations on a page.
pub const FAMILY_ERROR: f64 = 0.01;
/// Fewer fellows than this cannot say what is normal.
pub const FELLOWS_MIN: usize = 5;
/// Efficiency of the MAD at the normal distribution.
const MAD_EFFICIENCY: f64 = 0.37;

/// A figure that hosts are compared by.
struct Figure {
    name: &'static str,
    read: fn(&HostSummary) -> Option<f64>,
    /// Differences below this share of the median are noise of the measurement, however alike the others are.
    floor_ratio: f64,
    /// The same as an absolute, in the figure's unit.
    floor: f64,
}

const FIGURES: [Figure; 5] = [
    Figure { name: "throughput_tokens_per_s", read: |h| h.throughput_tokens_per_s, floor_ratio: 0.005, floor: 0.0 },
    Figure { name: "latency_p95_ms", read: |h| h.latency_p95_ms, floor_ratio: 0.01, floor: 0.0 },
    Figure { name: "drift_bytes", read: |h| h.worst.as_ref().map(|w| w.drift_bytes), floor_ratio: 0.0, floor: 1e6 },
    Figure {
        name: "vram_bytes_max",
        read: |h| h.vram_bytes_max.map(|b| b as f64),
        floor_ratio: 0.0,
        floor: 4_194_304.0,
    },
    Figure { name: "uptime_ratio", read: |h| h.uptime_ratio, floor_ratio: 0.0, floor: 0.001 },
];

/// Differences that chance does not explain, surest first, and the number of comparisons made.
#[must_use]
pub fn differences(hosts: &[HostSummary]) -> (Vec<Difference>, usize) {
    let mut cohorts: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, host) in hosts.iter().enumerate() {
        cohorts.entry(&host.work).or_default().push(index);
    }
    let mut all = Vec::new();
    for members in cohorts.values() {
        for figure in &FIGURES {
            compare(hosts, members, figure, &mut all);
        }
    }
    let comparisons = all.len();
    (holm(all), comparisons)
}

fn compare(hosts: &[HostSummary], members: &[usize], figure: &Figure, all: &mut Vec<Difference>) {
    let values: Vec<(usize, f64)> =
        members.iter().filter_map(|&i| (figure.read)(&hosts[i]).filter(|v| v.is_finite()).map(|v| (i, v))).collect();
    if values.len() < FELLOWS_MIN {
        return;
    }
    let center = median(values.iter().map(|v| v.1).collect());
    let mad = median(values.iter().map(|v| (v.1 - center).abs()).collect());
    let scale = (1.4826 * mad).max(figure.floor).max(figure.floor_ratio * center.abs());
    let freedom = (MAD_EFFICIENCY * (values.len() - 1) as f64).max(1.0);
    all.extend(values.into_iter().map(|(host, value)| Difference {
        host,
        figure: figure.name.to_owned(),
        value,
        median: center,
        p_adjusted: if scale > 0.0 { t_two_sided((value - center).abs() / scale, freedom) } else { 1.0 },
    }));
}

/// Keeps what Holm's procedure rejects at [`FAMILY_ERROR`]; `p_adjusted` comes in raw and goes out adjusted.
fn holm(mut all: Vec<Difference>) -> Vec<Difference> {
    all.sort_by(|a, b| a.p_adjusted.total_cmp(&b.p_adjusted).then(a.host.cmp(&b.host)));
    let count = all.len();
    let mut least = 0.0_f64;
    for (rank, difference) in all.iter_mut().enumerate() {
        least = least.max((difference.p_adjusted * (count - rank) as f64).min(1.0));
        difference.p_adjusted = least;
    }
    all.retain(|difference| difference.p_adjusted <= FAMILY_ERROR);
    all
}

fn median(mut values: Vec<f64>) -> f64 {
    let middle = values.len() / 2;
    values.sort_by(f64::total_cmp);
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

/// Two-sided tail of Student's t.
fn t_two_sided(t: f64, freedom: f64) -> f64 {
    let student = StudentsT::new(0.0, 1.0, freedom).expect("a positive scale and at least one degree of freedom");
    2.0 * student.sf(t)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::finding::Verdict;
    use crate::model::run::RunState;
    use crate::model::time::UnixMillis;

    fn host(tokens_per_s: f64) -> HostSummary {
        HostSummary {
            file: "x.db".into(),
            host: "x".into(),
            run: 1,
            started: UnixMillis(0),
            state: RunState::Finished,
            verdict: Verdict::Within,
            work: "cpu".into(),
            watched_hours: 48.0,
            uptime_ratio: None,
            crashes: 0,
            hangs: 0,
            golden_mismatches: 0,
            alerts_firing: 0,
            throughput_tokens_per_s: Some(tokens_per_s),
            latency_p95_ms: None,
            vram_bytes_max: None,
            worst: None,
        }
    }

    /// A deterministic stand-in for normal scatter: sums of twelve uniforms.
    fn scatter(seed: &mut u64) -> f64 {
        let mut uniform = || {
            *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (*seed >> 11) as f64 / (1u64 << 53) as f64
        };
        (0..12).map(|_| uniform()).sum::<f64>() - 6.0
    }

    #[test]
    fn tails_of_students_t_are_those_of_the_tables() {
        for (t, freedom, p) in
            [(2.776, 4.0, 0.05), (1.96, 1e6, 0.05), (3.169, 10.0, 0.01), (0.0, 3.0, 1.0), (12.706, 1.0, 0.05)]
        {
            assert!((t_two_sided(t, freedom) - p).abs() < 2e-4, "t {t} with {freedom}: {}", t_two_sided(t, freedom));
        }
    }

    #[test]
    fn a_fleet_that_only_scatters_accuses_nobody_in_99_of_100() {
        let mut seed = 7;
        let accused = (0..400).filter(|_| {
            let hosts: Vec<_> = (0..60).map(|_| host(100.0 + scatter(&mut seed))).collect();
            !differences(&hosts).0.is_empty()
        });
        assert!(accused.count() <= 8, "more than 2 % of 400 clean fleets were accused");
    }

    #[test]
    fn the_slow_host_is_named_and_only_it() {
        let mut seed = 3;
        let mut hosts: Vec<_> = (0..200).map(|_| host(100.0 + scatter(&mut seed))).collect();
        hosts[17].throughput_tokens_per_s = Some(91.0);
        let (found, comparisons) = differences(&hosts);
        assert_eq!(found.iter().map(|d| d.host).collect::<Vec<_>>(), [17]);
        assert_eq!(comparisons, 200);
    }

    #[test]
    fn other_work_and_too_few_fellows_are_not_compared() {
        let mut hosts: Vec<_> = (0..4).map(|_| host(100.0)).collect();
        hosts.push(HostSummary { work: "cuda".into(), ..host(5000.0) });
        assert_eq!(differences(&hosts), (Vec::new(), 0));
    }
}
