//! Did it get worse? Means of replicated runs, group against group: Welch's interval for the difference, with the error held
//! over all comparisons together. One run each has no scatter to judge by, and no claim is made from it.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// Chance that any interval on the page misses its difference.
pub const FAMILY_ERROR: f64 = 0.05;

/// What can be said of one figure in two groups.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Contrast {
    /// Mean of the first group; `None` if nothing was measured.
    pub first: Option<f64>,
    /// Mean of the second.
    pub second: Option<f64>,
    /// Runs with the figure in each group.
    pub runs: [usize; 2],
    /// Second minus first, and its interval.
    pub difference: Option<(f64, [f64; 2])>,
    /// What that amounts to.
    pub claim: Claim,
}

/// What may be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The whole interval lies above zero.
    Higher,
    /// The whole interval lies below zero.
    Lower,
    /// Zero lies in the interval: no difference was seen, and none larger than its ends is likely.
    NotSeen,
    /// A group has fewer than two runs with the figure.
    TooFewRuns,
    /// Every run of a group gave the very same figure: chance cannot be judged from that.
    NoScatter,
}

/// Contrasts two groups of one figure. `comparisons` is the number of contrasts made together.
#[must_use]
pub fn contrast(first: &[f64], second: &[f64], comparisons: usize) -> Contrast {
    let (a, b) = (moments(first), moments(second));
    let mut contrast = Contrast {
        first: a.map(|m| m.0),
        second: b.map(|m| m.0),
        runs: [first.len(), second.len()],
        difference: None,
        claim: Claim::TooFewRuns,
    };
    let (Some((mean_a, var_a)), Some((mean_b, var_b))) = (a, b) else { return contrast };
    if first.len() < 2 || second.len() < 2 {
        return contrast;
    }
    let (part_a, part_b) = (var_a / first.len() as f64, var_b / second.len() as f64);
    let difference = mean_b - mean_a;
    if part_a + part_b <= 0.0 {
        contrast.claim = Claim::NoScatter;
        return contrast;
    }
    // Welch-Satterthwaite.
    let freedom = (part_a + part_b).powi(2)
        / (part_a.powi(2) / (first.len() - 1) as f64 + part_b.powi(2) / (second.len() - 1) as f64);
    let tail = FAMILY_ERROR / 2.0 / comparisons.max(1) as f64;
    let Ok(t) = StudentsT::new(0.0, 1.0, freedom) else { return contrast };
    let half = t.inverse_cdf(1.0 - tail) * (part_a + part_b).sqrt();
    contrast.difference = Some((difference, [difference - half, difference + half]));
    contrast.claim = match difference {
        d if d > half => Claim::Higher,
        d if d < -half => Claim::Lower,
        _ => Claim::NotSeen,
    };
    contrast
}

/// Mean and variance (zero for one value).
fn moments(values: &[f64]) -> Option<(f64, f64)> {
    let n = values.len() as f64;
    if values.is_empty() {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    Some((mean, if values.len() > 1 { squares / (n - 1.0) } else { 0.0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_run_each_supports_no_claim_however_far_apart() {
        let c = contrast(&[80.0], &[20.0], 1);
        assert_eq!((c.claim, c.difference), (Claim::TooFewRuns, None));
        assert_eq!(contrast(&[80.0, 80.0], &[20.0, 20.0], 1).claim, Claim::NoScatter);
        assert_eq!(contrast(&[], &[1.0, 2.0], 1).first, None);
    }

    #[test]
    fn the_interval_is_welchs() {
        // By hand: means 20 and 23, variances 1 and 4, three runs each; standard error sqrt(5/3), freedom 50/17 = 2.941.
        // Of Student's t with 2.941 degrees of freedom 97.5 % lie below 3.2197 (scipy 1.14).
        let c = contrast(&[19.0, 20.0, 21.0], &[21.0, 23.0, 25.0], 1);
        let (difference, [lo, hi]) = c.difference.expect("an interval");
        assert!((difference - 3.0).abs() < 1e-12);
        assert!(((hi - lo) / 2.0 - 3.2197 * (5.0f64 / 3.0).sqrt()).abs() < 2e-3, "{}", (hi - lo) / 2.0);
        assert_eq!(c.claim, Claim::NotSeen);
    }

    #[test]
    fn a_large_difference_is_claimed_and_more_comparisons_ask_for_more() {
        let (a, b) = ([100.0, 101.0, 99.0, 100.5], [90.0, 91.5, 89.0, 90.2]);
        assert_eq!(contrast(&a, &b, 1).claim, Claim::Lower);
        assert_eq!(contrast(&b, &a, 1).claim, Claim::Higher);
        let width = |n| contrast(&a, &b, n).difference.map(|(_, [lo, hi])| hi - lo).expect("interval");
        assert!(width(10) > width(1));
    }
}
