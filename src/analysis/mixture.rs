//! What is said of the drift: a mixture of normal distributions, one a hypothesis, and the questions that are asked of it.

use super::bank::STARTS;
use super::posterior::Hypothesis;
use super::special::normal_above;

/// A normal distribution with a weight.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// Posterior probability.
    pub weight: f64,
    /// Mean, tolerances.
    pub mean: f64,
    /// Standard deviation.
    pub sd: f64,
}

/// A probability for each way of starting.
#[derive(Debug, Clone)]
pub struct WarmWeights(pub [f64; STARTS]);

impl Default for WarmWeights {
    fn default() -> Self {
        WarmWeights([0.0; STARTS])
    }
}

/// All that can be said of the drift, in tolerances over the horizon.
#[derive(Debug, Clone, Default)]
pub struct Posterior {
    /// The drift, with the sceptical prior that alarms rest on.
    pub sceptical: Vec<Part>,
    /// The drift, with a prior that leaves its size to the data: what intervals rest on.
    pub flat: Vec<Part>,
    /// Best hypothesis with a leak.
    pub best: Option<Hypothesis>,
    /// Best hypothesis without a leak.
    pub still: Option<Hypothesis>,
    /// Best hypothesis of all.
    pub top: Option<Hypothesis>,
    /// How likely all of this makes the series (natural logarithm), up to what all accounts of it have in common.
    pub ln_evidence: f64,
    /// Posterior probability that the leak, if any, is linear in requests rather than time.
    pub p_requests: f64,
    /// Posterior probability of each way of starting.
    pub warm_weights: WarmWeights,
}

/// ln of the mean of what these are the logarithms of.
pub fn ln_mean(lns: impl Iterator<Item = f64> + Clone) -> f64 {
    let top = lns.clone().fold(f64::NEG_INFINITY, f64::max);
    let (sum, count) = lns.fold((0.0, 0.0), |(sum, count), ln| (sum + (ln - top).exp(), count + 1.0));
    if top.is_finite() { top + (sum / f64::max(count, 1.0)).ln() } else { top }
}

impl Posterior {
    /// P(drift > x) under the sceptical prior.
    pub fn above(&self, x: f64) -> f64 {
        self.sceptical.iter().map(|p| p.weight * tail(x - p.mean, p.sd)).sum()
    }

    /// P(drift < x) under the sceptical prior.
    pub fn below(&self, x: f64) -> f64 {
        self.sceptical.iter().map(|p| p.weight * tail(p.mean - x, p.sd)).sum()
    }

    /// Mean and the interval that holds `1 - 2 * tail` under the flat prior.
    pub fn interval(&self, tail_share: f64) -> (f64, [f64; 2]) {
        interval(&self.flat, tail_share)
    }
}

/// Mean of a mixture and the interval that holds `1 - 2 * tail` of it.
pub fn interval(parts: &[Part], tail_share: f64) -> (f64, [f64; 2]) {
    let mean: f64 = parts.iter().map(|p| p.weight * p.mean).sum();
    let widest = parts.iter().map(|p| (p.mean - mean).abs() + 8.0 * p.sd).fold(1e-9, f64::max);
    let above = |x: f64| parts.iter().map(|p| p.weight * tail(x - p.mean, p.sd)).sum::<f64>();
    let solve = |share: f64| {
        let (mut lo, mut hi) = (mean - widest, mean + widest);
        for _ in 0..50 {
            let mid = 0.5 * (lo + hi);
            if above(mid) > share { lo = mid } else { hi = mid }
        }
        0.5 * (lo + hi)
    };
    (mean, [solve(1.0 - tail_share), solve(tail_share)])
}

fn tail(distance: f64, sd: f64) -> f64 {
    // Beyond eight standard deviations nothing is left that matters (6e-16).
    if distance.abs() < 8.0 * sd { normal_above(distance / sd) } else { f64::from(u8::from(distance < 0.0)) }
}
