//! Latencies and repetitions summed up: mean, spread, percentiles, and intervals that need no bell curve.
//!
//! Intervals of percentiles are order statistics: of n independent values, the number below the true p-quantile is
//! binomial, so two of the sorted values enclose it with at least the stated confidence, whatever the distribution.
//! Where n is too small for that confidence, the whole range stands, and the confidence that it does have is given.

use crate::model::measure::Estimate;

/// What a set of values looks like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// How many.
    pub count: usize,
    /// Arithmetic mean.
    pub mean: f64,
    /// Standard deviation (of the sample; 0 for one value).
    pub sd: f64,
    /// Median.
    pub p50: Estimate,
    /// 95th percentile.
    pub p95: Estimate,
    /// 99th percentile.
    pub p99: Estimate,
    /// Largest.
    pub max: f64,
}

/// Wanted confidence of intervals.
const CONFIDENCE: f64 = 0.95;

impl Summary {
    /// Sums up `values`; `None` if there are none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Summary> {
        if values.is_empty() {
            return None;
        }
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let mean = sorted.iter().sum::<f64>() / count as f64;
        let square: f64 = sorted.iter().map(|value| (value - mean).powi(2)).sum();
        Some(Summary {
            count,
            mean,
            sd: if count > 1 { (square / (count - 1) as f64).sqrt() } else { 0.0 },
            p50: quantile(&sorted, 0.50),
            p95: quantile(&sorted, 0.95),
            p99: quantile(&sorted, 0.99),
            max: sorted[count - 1],
        })
    }
}

/// The `p`-quantile of sorted values, with its order-statistic interval.
///
/// # Panics
/// If there are no values.
#[must_use]
pub fn quantile(sorted: &[f64], p: f64) -> Estimate {
    let n = sorted.len();
    // Nearest rank, as HDR histograms have it; the median of an even number is the mean of the middle two.
    let rank = ((p * n as f64).ceil() as usize).clamp(1, n);
    let middle = p == 0.5 && n.is_multiple_of(2);
    let value = if middle { f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]) } else { sorted[rank - 1] };
    // B = number of values below the true quantile ~ Binomial(n, p). [x(l), x(u)] encloses it when l ≤ B < u.
    let tail = (1.0 - CONFIDENCE) / 2.0;
    let (mut below, mut l, mut u) = (0.0, 0, n + 1);
    let (mut left_out_low, mut left_out_high) = (0.0, 0.0);
    for b in 0..=n {
        let probability = binomial(n, b, p);
        if below + probability <= tail {
            l = b + 1; // P(B < l) = P(B ≤ b) ≤ tail
            left_out_low = below + probability;
        }
        if below >= 1.0 - tail && u == n + 1 {
            u = b; // P(B ≥ u) = 1 − P(B ≤ u − 1) ≤ tail
            left_out_high = 1.0 - below;
        }
        below += probability;
    }
    // Where the outermost values are not far enough out, they stand, with what they leave out.
    if l == 0 {
        l = 1;
        left_out_low = binomial(n, 0, p);
    }
    if u > n {
        u = n;
        left_out_high = binomial(n, n, p);
    }
    let confidence = (1.0 - left_out_low - left_out_high).max(0.0);
    Estimate {
        value,
        lo: sorted[l - 1].min(value),
        hi: sorted[u - 1].max(value),
        confidence: confidence.min(CONFIDENCE),
    }
}

/// Probability of `k` of `n`.
fn binomial(n: usize, k: usize, p: f64) -> f64 {
    let ln_choose = ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k);
    let weighted = |count: usize, p: f64| if count == 0 { 0.0 } else { count as f64 * p.ln() };
    (ln_choose + weighted(k, p) + weighted(n - k, 1.0 - p)).exp()
}

/// ln n!, by Stirling's series above 20 (relative error below 1e-12).
fn ln_factorial(n: usize) -> f64 {
    if n <= 20 {
        return (2..=n).map(|k| (k as f64).ln()).sum();
    }
    let x = n as f64;
    x * x.ln() - x + 0.5 * (std::f64::consts::TAU * x).ln() + 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3))
}

/// The smallest share over the largest: 1 when all are equal. `None` without shares.
#[must_use]
pub fn fairness(shares: &[u64]) -> Option<f64> {
    let (least, most) = (shares.iter().min()?, shares.iter().max()?);
    (*most > 0).then(|| *least as f64 / *most as f64)
}

/// Bootstrap interval of median(a) / median(b), each resampled on its own; `seed` makes it repeatable. `None` without values.
#[must_use]
pub fn ratio_of_medians(a: &[f64], b: &[f64], seed: u64) -> Option<Estimate> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let mut state = seed;
    let mut draw = |values: &[f64]| -> f64 {
        let mut picked: Vec<f64> = (0..values.len())
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                values[(state >> 33) as usize % values.len()]
            })
            .collect();
        picked.sort_by(f64::total_cmp);
        quantile_value(&picked)
    };
    let mut ratios: Vec<f64> = (0..2_000).map(|_| draw(a) / draw(b)).collect();
    ratios.sort_by(f64::total_cmp);
    let sorted = |values: &[f64]| {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        values
    };
    let value = quantile_value(&sorted(a)) / quantile_value(&sorted(b));
    Some(Estimate { value, lo: ratios[50].min(value), hi: ratios[1_949].max(value), confidence: CONFIDENCE })
}

/// Median of sorted values.
fn quantile_value(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    if n.is_multiple_of(2) { f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]) } else { sorted[n / 2] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_a_median_of_ten_is_the_second_and_the_ninth() {
        // From any table of the sign test: n = 10 gives ranks 2 and 9 at 97.9 %.
        let values: Vec<f64> = (1..=10).map(f64::from).collect();
        let median = Summary::of(&values).unwrap().p50;
        assert_eq!((median.value, median.lo, median.hi), (5.5, 2.0, 9.0));
    }

    #[test]
    fn few_values_say_how_little_they_know() {
        let three = Summary::of(&[3.0, 1.0, 2.0]).unwrap().p50;
        assert_eq!((three.lo, three.value, three.hi), (1.0, 2.0, 3.0));
        assert!((three.confidence - 0.75).abs() < 1e-9, "1 − 2 × ⅛: {}", three.confidence);
    }

    #[test]
    fn intervals_cover_as_often_as_they_say() {
        // Uniform values: the true quantile is p itself.
        let mut state = 1_u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / 9_007_199_254_740_992.0
        };
        for (p, n) in [(0.5, 25), (0.95, 400), (0.99, 1000)] {
            let covered = (0..400)
                .filter(|_| {
                    let mut values: Vec<f64> = (0..n).map(|_| uniform()).collect();
                    values.sort_by(f64::total_cmp);
                    let estimate = quantile(&values, p);
                    (estimate.lo..=estimate.hi).contains(&p)
                })
                .count();
            assert!(covered >= 366, "{covered} of 400 at p = {p}"); // 380 expected, at least; three deviations below
        }
    }

    #[test]
    fn shares_are_fair_or_not() {
        assert_eq!(fairness(&[5, 5, 5, 5]), Some(1.0));
        assert_eq!(fairness(&[8, 4, 6, 8]), Some(0.5));
        assert_eq!(fairness(&[]), None);
    }

    #[test]
    fn a_ratio_of_equal_sets_encloses_one() {
        let ratio = ratio_of_medians(&[2.0, 2.1, 1.9, 2.05], &[1.0, 1.02, 0.98, 1.01], 3).unwrap();
        assert!(ratio.lo < 2.0 && ratio.hi > 2.0 && ratio.lo > 1.7 && ratio.hi < 2.3, "{ratio:?}");
    }
}
