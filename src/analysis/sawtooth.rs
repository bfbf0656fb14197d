//! Finds what goes up gradually and falls back regularly, a garbage collector's saw-tooth above all, and takes it out.
//!
//! The period is the first high peak of the autocorrelation of the series less its moving average. If ramps between the falls
//! explain most of what is left, each tick is lowered by its place on its ramp, so that neither the saw-tooth nor its alias in
//! the blocks looks like noise or drift. If they do not, at least blocks can span whole periods.

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
    ramp: Option<Ramp>,
}

/// The ramp of a saw-tooth, and where on it the series is.
#[derive(Debug, Clone, Copy)]
struct Ramp {
    period_h: f64,
    /// Height, in tolerances.
    height: f64,
    last_fall_h: f64,
    /// The tick before, waiting to be told whether a fall goes through it, and the value before that.
    held: Option<(Tick, f64)>,
    before: Option<f64>,
}

/// What became known of a saw-tooth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum News {
    /// Ramps explain it: ticks come corrected from now on.
    Ramps,
    /// It is regular, but no saw-tooth: its period, hours.
    Period(f64),
}

/// Share of the variance that ramps must explain.
const EXPLAINED: f64 = 0.6;
/// Part of a ramp's height that a fall has.
const FALL: f64 = 0.55;

impl Ramp {
    /// Takes a tick, value in tolerances; returns the tick before and how much of it is ramp, unless a fall goes through it.
    fn push(&mut self, tick: Tick, y: f64) -> Option<(Tick, f64)> {
        let t_h = tick.t_s / 3600.0;
        let (held, held_y) = self.held.replace((tick, y))?;
        let held_h = held.t_s / 3600.0;
        let enough = FALL * self.height * (1.0 - ((t_h - held_h) / self.period_h).min(0.4));
        let before = self.before.replace(held_y);
        if held_y - y > enough {
            let part = (held, self.part(held_h));
            self.last_fall_h = 0.5 * (held_h + t_h);
            return Some(part);
        }
        // A fall through the tick before: that tick is neither up nor down.
        if before.is_some_and(|b| b - y > 1.1 * enough && b > held_y && held_y > y)
            && held_h - self.last_fall_h > 0.3 * self.period_h
        {
            self.last_fall_h = held_h;
            return None;
        }
        Some((held, self.part(held_h)))
    }

    /// How much of the series is ramp at `t_h`, tolerances.
    fn part(&self, t_h: f64) -> f64 {
        let mut phase = (t_h - self.last_fall_h) / self.period_h;
        // A fall that was missed, in a gap for example.
        if phase > 1.5 {
            phase = phase.fract();
        }
        self.height * phase.max(0.0)
    }
}

impl Sawtooth {
    /// Takes one tick. Returns what became known by it.
    pub fn push(&mut self, tick: &Tick, tolerance_bytes: f64) -> Option<News> {
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
        let (period_h, height, spacing_h) = self.find()?;
        self.period_h = Some(period_h);
        self.ramp = self.fit(period_h, height, spacing_h);
        Some(if self.ramp.is_some() { News::Ramps } else { News::Period(period_h) })
    }

    /// The tick before this one, less its ramp; the tick itself where there are no ramps.
    pub fn correct(&mut self, tick: Tick, tolerance_bytes: f64) -> Option<Tick> {
        let Some(ramp) = &mut self.ramp else { return Some(tick) };
        let (tick, part) = ramp.push(tick, tick.bytes / tolerance_bytes)?;
        Some(Tick { bytes: tick.bytes - part * tolerance_bytes, ..tick })
    }

    /// Height of the ramps and where they begin, if they explain what was seen.
    fn fit(&self, period_h: f64, height: f64, spacing_h: f64) -> Option<Ramp> {
        let y: Vec<(f64, f64)> = self.ticks.iter().copied().collect();
        let first = y.windows(2).find(|w| w[0].1 - w[1].1 > FALL * height)?;
        let first_fall_h = 0.5 * (first[0].0 + first[1].0);
        let cycles = ((first_fall_h - y[0].0) / period_h).ceil().max(1.0);
        let start = Ramp { period_h, height, last_fall_h: first_fall_h - cycles * period_h, held: None, before: None };
        // Phases by the falls, then the height by least squares on what both have above their moving averages.
        let mut ramp = Ramp { height, ..start };
        let mut phases = Vec::with_capacity(y.len());
        for &(t_h, value) in &y {
            let tick = Tick { t_s: t_h * 3600.0, unix_s: 0.0, bytes: value, samples: 1, segment: 0, requests: None };
            if let Some((held, part)) = ramp.push(tick, value) {
                phases.push((held.bytes, part / height));
            }
        }
        let half = (WINDOW_H / spacing_h).round().max(4.0) as usize;
        let r = detrended(&phases.iter().map(|p| p.0).collect::<Vec<_>>(), half);
        let p = detrended(&phases.iter().map(|p| p.1).collect::<Vec<_>>(), half);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let fitted = dot(&r, &p) / dot(&p, &p).max(1e-12);
        let explained = fitted * dot(&r, &p) / dot(&r, &r).max(1e-12);
        (explained > EXPLAINED && fitted > 0.0).then_some(Ramp { height: fitted, ..start })
    }

    /// A new incarnation: the heap starts anew.
    pub fn restart(&mut self) {
        self.ticks.clear();
    }

    /// Period, height, and the ticks' spacing.
    fn find(&self) -> Option<(f64, f64, f64)> {
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
        let lag_max = (r.len() / CYCLES).min((PERIOD_MAX_H / spacing_h) as usize);
        let at = |lag: usize| {
            let sum: f64 = r[lag..].iter().zip(&r).map(|(a, b)| a * b).sum();
            sum / power * r.len() as f64 / (r.len() - lag) as f64
        };
        let acf: Vec<f64> = (0..=lag_max + 1).map(at).collect();
        let dip = acf.iter().position(|a| *a < 0.0)?;
        let first =
            (dip.max(LAG_MIN)..=lag_max).find(|&l| acf[l] > PEAK && acf[l] >= acf[l - 1] && acf[l] >= acf[l + 1])?;
        // What goes up in turns, and never down, is no saw-tooth: its turns are not to be averaged away.
        let fallen = self.ticks.iter().zip(self.ticks.iter().skip(2)).filter(|(a, b)| a.1 - b.1 > 0.5 * height).count();
        if (fallen * first) as f64 / (n as f64) < 0.6 {
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
        Some((period * spacing_h, height, spacing_h))
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
