//! Finds what goes up gradually and falls back again and again, a garbage collector's saw-tooth above all, so that blocks can be made
//! of its troughs: what is held after a collection is the series, what is not yet collected is none of it.
//!
//! Collections need not be regular. Most saw-tooths are found by their falls: large, repeated, and without leaps up to match. Where
//! samples are too rare to show falls, the period is the first high peak of the autocorrelation of the series less its moving average.

use super::ticks::{Tick, quantile};
use std::collections::VecDeque;

/// Ticks looked back on: four hours at one a minute, five periods of the slowest collector.
const TICKS: usize = 250;
/// Ticks between two looks.
const EVERY: u32 = 10;
/// Periods that must be in before one is believed in.
const CYCLES: usize = 4;
/// Longest period that is looked for, hours: beyond it, blocks of that length would be too few.
const PERIOD_MAX_H: f64 = 1.1;
/// Shortest, in ticks: below, a block of ten minutes averages it away.
const LAG_MIN: usize = 3;
/// Half of the window of the moving average, hours.
const WINDOW_H: f64 = 0.55;
/// Autocorrelation at the period that is asked for.
const PEAK: f64 = 0.5;
/// Height that is worth it, in tolerances (12 MB).
const HEIGHT_MIN: f64 = 0.25;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Sawtooth {
    ticks: VecDeque<(f64, f64)>,
    wait: u32,
    /// The period, once it is known, hours.
    pub period_h: Option<f64>,
}

/// What goes up gradually leaps up this much more rarely than it falls.
const LEAPS_MAX: f64 = 0.34;
/// Part of the saw-tooth's height that a fall has.
const FALL: f64 = 0.55;
/// Ticks in a period from which on its ramps are gradual, and no leaps.
const GRADUAL: usize = 10;

impl Sawtooth {
    /// Takes one tick. Returns the period, hours, when it becomes known.
    pub fn push(&mut self, tick: &Tick, tolerance_bytes: f64) -> Option<f64> {
        if self.period_h.is_some() {
            return None;
        }
        if self.ticks.len() == TICKS {
            self.ticks.pop_front();
        }
        self.ticks.push_back((tick.t_s / 3600.0, tick.bytes / tolerance_bytes));
        self.wait += 1;
        if self.wait < EVERY {
            return None;
        }
        self.wait = 0;
        self.period_h = self.find();
        self.period_h
    }

    /// A new incarnation: the heap starts anew.
    pub fn restart(&mut self) {
        self.ticks.clear();
    }

    /// Longest usual time between falls, hours, if the series goes up gradually and falls again and again.
    fn between_falls(&self, height: f64) -> Option<f64> {
        let at = |i: usize| self.ticks[i];
        let (mut falls, mut leaps) = (Vec::new(), 0_usize);
        let (mut last_fall, mut last_leap) = (0, 0);
        for i in 2..self.ticks.len() {
            let change = at(i).1 - at(i - 2).1;
            if change < -FALL * height && i > last_fall + 2 {
                falls.push(at(i).0);
                last_fall = i;
            } else if change > FALL * height && i > last_leap + 2 {
                leaps += 1;
                last_leap = i;
            }
        }
        if falls.len() < CYCLES || leaps as f64 > LEAPS_MAX * falls.len() as f64 {
            return None;
        }
        let mut gaps: Vec<f64> = falls.windows(2).map(|w| w[1] - w[0]).collect();
        gaps.push(self.ticks[self.ticks.len() - 1].0 - falls[falls.len() - 1]);
        let longest = quantile(&mut gaps, 0.9);
        (longest < PERIOD_MAX_H * 1.1).then_some(longest)
    }

    /// How often the series fell so far within two ticks (`down` is 1), or rose (-1).
    fn falls(&self, height: f64, down: f64) -> usize {
        let (mut count, mut free) = (0, 0);
        for (i, (a, b)) in self.ticks.iter().zip(self.ticks.iter().skip(2)).enumerate() {
            if i >= free && down * (a.1 - b.1) > height {
                count += 1;
                free = i + 2;
            }
        }
        count
    }

    /// How long it takes at most, usually, from one trough to the next, hours.
    fn find(&self) -> Option<f64> {
        let n = self.ticks.len();
        if n < CYCLES * LAG_MIN * 2 {
            return None;
        }
        let mut gaps: Vec<f64> = self.ticks.iter().zip(self.ticks.iter().skip(1)).map(|(a, b)| b.0 - a.0).collect();
        let spacing_h = quantile(&mut gaps, 0.5);
        if spacing_h <= 0.0 {
            return None;
        }
        let values: Vec<f64> = self.ticks.iter().map(|t| t.1).collect();
        let mut r = detrended(&values, (WINDOW_H / spacing_h).round().max(4.0) as usize);
        let mut sizes: Vec<f64> = r.iter().map(|v| v.abs()).collect();
        let limit = 4.0 * quantile(&mut sizes, 0.5);
        r.iter_mut().for_each(|v| *v = v.clamp(-limit, limit));
        let power: f64 = r.iter().map(|v| v * v).sum();
        let mut sorted = r.clone();
        let height = quantile(&mut sorted, 0.95) - quantile(&mut sorted, 0.05);
        if height < HEIGHT_MIN || power <= 0.0 {
            return None;
        }
        if let Some(gap_h) = self.between_falls(height) {
            return Some(gap_h);
        }
        let lag_max = (r.len() / CYCLES).min((PERIOD_MAX_H / spacing_h) as usize);
        let at = |lag: usize| {
            let sum: f64 = r[lag..].iter().zip(&r).map(|(a, b)| a * b).sum();
            sum / power * r.len() as f64 / (r.len() - lag) as f64
        };
        let acf: Vec<f64> = (0..=lag_max + 1).map(at).collect();
        let dip = acf.iter().position(|a| *a < 0.0)?;
        let first =
            (dip.max(LAG_MIN)..=lag_max).find(|&l| acf[l] > PEAK && acf[l] >= acf[l - 1] && acf[l] >= acf[l + 1])?;
        // What goes up in turns, and never down, is no saw-tooth: its turns are not to be averaged away. Nor is what leaps up as often as it
        // falls: a level that comes and goes.
        let fallen = self.ticks.iter().zip(self.ticks.iter().skip(2)).filter(|(a, b)| a.1 - b.1 > 0.5 * height).count();
        if (fallen * first) as f64 / (n as f64) < 0.6
            || first > GRADUAL && self.falls(0.5 * height, 1.0) < 2 + self.falls(0.5 * height, -1.0)
        {
            return None;
        }
        // The peak at the highest multiple that can still be told is the most exact.
        let mut period = peak(&acf, first);
        for times in 2..=8 {
            let near = (period * f64::from(times)).round() as usize;
            if near + 2 > r.len() / 2 {
                break;
            }
            let around: Vec<f64> = (near - 2..=near + 2).map(at).collect();
            let best = (1..4).max_by(|a, b| around[*a].total_cmp(&around[*b]))?;
            if around[best] < 0.6 * acf[first] {
                break;
            }
            period = ((near - 2) as f64 + peak(&around, best)) / f64::from(times);
        }
        Some(period * spacing_h)
    }
}

/// Values less their moving average over `2 * half + 1`.
fn detrended(y: &[f64], half: usize) -> Vec<f64> {
    let Some(&first) = y.first() else { return Vec::new() };
    let mut sums = vec![0.0; y.len() + 1];
    for (i, v) in y.iter().enumerate() {
        sums[i + 1] = sums[i] + v - first;
    }
    let mut r: Vec<f64> = (0..y.len())
        .map(|i| {
            // Symmetric even at the ends, so that a trend leaves nothing.
            let half = half.min(i).min(y.len() - 1 - i);
            y[i] - first - (sums[i + half + 1] - sums[i - half]) / (2 * half + 1) as f64
        })
        .collect();
    // The ends, whose windows are short, say little.
    let cut = (half / 2).min(r.len() / 8);
    r.drain(..cut);
    r.truncate(r.len() - cut);
    r
}

/// Where a parabola through a peak and its neighbours is highest.
fn peak(values: &[f64], at: usize) -> f64 {
    let (a, b, c) = (values[at - 1], values[at], values[at + 1]);
    let bend = a - 2.0 * b + c;
    let off = if bend < 0.0 { 0.5 * (a - c) / bend } else { 0.0 };
    at as f64 + off.clamp(-0.5, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a saw-tooth is seen in eight hours of this, a tick a minute, bytes by minutes.
    fn is_seen(bytes: impl Fn(usize) -> f64) -> bool {
        let mut sawtooth = Sawtooth::default();
        (0..480).any(|i| {
            let t_s = 60.0 * i as f64;
            let tick = Tick { t_s, unix_s: t_s, bytes: bytes(i), samples: 1, segment: 0, requests: None };
            sawtooth.push(&tick, 50e6).is_some()
        })
    }

    #[test]
    fn what_leaps_up_as_often_as_it_falls_is_no_saw_tooth() {
        let flips = [132, 136, 168, 210, 230];
        assert!(!is_seen(|i| if flips.iter().filter(|at| i >= **at).count() % 2 == 1 { 48e6 } else { 0.0 }));
        assert!(!is_seen(|i| if i % 50 < 20 { 48e6 } else { 0.0 }));
        assert!(is_seen(|i| 48e6 * (i % 50) as f64 / 50.0));
    }
}
