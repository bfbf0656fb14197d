//! Samples to findings: the drift regression and its verdict.
//!
//! Pure: no IO, no clock, time comes in with the points. Where the points come from and what is done about a finding is
//! left to others.

mod bank;
mod blocks;
pub mod compare;
pub mod fleet;
mod posterior;
mod regression;
mod sawtooth;
mod special;
mod steps;
mod ticks;
mod track;

use crate::model::finding::{Finding, Shape, Verdict};
use crate::model::series::Point;
use blocks::{COARSE, FINE};
use sawtooth::Sawtooth;
use ticks::{Tick, Ticker};
use track::Track;

/// The question that is asked of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Params {
    /// Drift over the horizon that is still acceptable, bytes, either way.
    pub tolerance_bytes: f64,
    /// Over which time the drift is stated, seconds.
    pub horizon_s: f64,
    /// Series watched together: the chance of a false alarm is shared among them.
    pub series_count: u32,
}

impl Default for Params {
    /// ±50 MB over 48 hours, one series.
    fn default() -> Self {
        Params { tolerance_bytes: 50e6, horizon_s: 48.0 * 3600.0, series_count: 1 }
    }
}

/// Watches one series. One more sample costs O(1) amortised, and memory is bounded for a run of any length.
#[derive(Debug, Clone)]
pub struct Detector {
    params: Params,
    ticker: Ticker,
    sawtooth: Sawtooth,
    fine: Track,
    coarse: Track,
    net: Track,
    first_unix_s: Option<f64>,
    last_unix_s: f64,
    samples: u64,
    first_alarm_unix_s: Option<f64>,
}

impl Detector {
    /// A detector that has seen nothing.
    #[must_use]
    pub fn new(params: Params) -> Self {
        let track = |scale, net| Track::new(params.tolerance_bytes, params.horizon_s / 3600.0, scale, net);
        Detector {
            params,
            ticker: Ticker::default(),
            sawtooth: Sawtooth::default(),
            fine: track(FINE, false),
            coarse: track(COARSE, false),
            net: track(COARSE, true),
            first_unix_s: None,
            last_unix_s: 0.0,
            samples: 0,
            first_alarm_unix_s: None,
        }
    }

    /// Takes the next point. Points come in time order; a step back is taken for a step of the wall clock.
    pub fn push(&mut self, point: Point) {
        self.samples += 1;
        self.first_unix_s.get_or_insert(point.unix_s);
        self.last_unix_s = point.unix_s;
        if let Some(tick) = self.ticker.push(point) {
            self.take(tick);
        }
    }

    fn take(&mut self, tick: Tick) {
        let recognised = self.sawtooth.push(&tick, self.params.tolerance_bytes);
        self.fine.push(tick, &self.sawtooth, recognised);
        self.coarse.push(tick, &self.sawtooth, recognised);
        self.net.push(tick, &self.sawtooth, recognised);
    }

    fn judge(&mut self) {
        let news = [self.fine.judge(), self.coarse.judge()];
        self.net.judge();
        if (news[0] || news[1]) && self.first_alarm_unix_s.is_none() && self.rings() {
            self.first_alarm_unix_s = Some(self.last_unix_s);
        }
    }

    /// LAB
    pub fn debug(&self) -> String {
        let one = |t: &Track| {
            let p = &t.posterior;
            let mut top = p.sceptical.clone();
            top.sort_by(|a, b| b.weight.total_cmp(&a.weight));
            let w: Vec<String> = p
                .warm_weights
                .0
                .iter()
                .enumerate()
                .filter(|w| *w.1 > 0.05)
                .map(|(k, w)| format!("{k}:{w:.2}"))
                .collect();
            format!(
                "now {:.1} n {} >1 {:.4} >.5 {:.5} <-1 {:.4} best {:?} noise {:?} warm {:?} steps {:?} {:?} saw {} parts {:?}",
                t.regression.now_h,
                t.regression.blocks,
                p.above(1.0),
                p.above(0.5),
                p.below(-1.0),
                p.best.map(|b| (
                    b.noise,
                    b.warm,
                    b.leak,
                    (b.mean * 1e2).round() / 1e2,
                    (b.variance.sqrt() * 1e2).round() / 1e2,
                    (b.noise_variance.sqrt() * 1e4).round() / 1e4
                )),
                p.best.map(|b| t.regression.filters[b.noise].noise).map(|n| (n.tau_h, n.white, n.walk, n.unsettled)),
                w,
                t.regression.steps_h.iter().map(|x| (x * 10.0).round() / 10.0).collect::<Vec<_>>(),
                t.regression.step_sizes().iter().map(|x| (x * 100.0).round() / 100.0).collect::<Vec<_>>(),
                t.regression.saw,
                top.iter()
                    .take(4)
                    .map(|p| ((p.weight * 1e3).round() / 1e3, (p.mean * 1e2).round() / 1e2, (p.sd * 1e3).round() / 1e3))
                    .collect::<Vec<_>>()
            )
        };
        println!(
            "S {:?} {:?}",
            steps::judge(&self.fine.steps, self.fine.regression.now_h, 48.0),
            self.fine
                .steps
                .iter()
                .map(|s| ((s.0 * 10.0).round() / 10.0, (s.1 * 100.0).round() / 100.0))
                .collect::<Vec<_>>()
        );
        format!("F {}\n   C {}", one(&self.fine), one(&self.coarse))
    }

    /// LAB: largest over tracks of min(-ln(1-p.5)), and p1
    pub fn score(&self) -> [(f64, f64); 2] {
        [&self.fine, &self.coarse].map(|t| {
            if t.regression.blocks < 12 {
                return (0.0, 0.0);
            }
            let p = &t.posterior;
            let steps = steps::judge(&t.steps, t.regression.now_h, self.params.horizon_s / 3600.0);
            let shift = if steps.leaking { steps.drift - 2.0 * steps.sd * steps.drift.signum() } else { 0.0 };
            let (a, b) = (p.above(0.5 - shift), p.below(-0.5 - shift));
            if a > b {
                (-(1.0 - a).max(1e-12).log10(), p.above(1.0 - shift))
            } else {
                (-(1.0 - b).max(1e-12).log10(), p.below(-1.0 - shift))
            }
        })
    }

    fn rings(&self) -> bool {
        [&self.fine, &self.coarse].iter().any(|t| rings(t, self.params.horizon_s / 3600.0))
    }

    /// Rings if it must, as [`Detector::look`] does, without working out the whole finding.
    pub fn watch(&mut self) -> bool {
        self.judge();
        self.first_alarm_unix_s.is_some()
    }

    /// Drift and its 95 % interval in tolerances: from the scale that sees more sharply; where steps or bursts make the
    /// leak, from what was gained in all.
    fn interval(&self) -> (f64, [f64; 2]) {
        let of = |t: &Track| {
            if t.regression.blocks < 4 || t.posterior.flat.is_empty() {
                return (0.0, [-1e6, 1e6]);
            }
            t.posterior.interval(0.025)
        };
        let horizon_h = self.params.horizon_s / 3600.0;
        let steps = steps::judge(&self.fine.steps, self.fine.regression.now_h, horizon_h);
        let (fine, coarse, net) = (of(&self.fine), of(&self.coarse), of(&self.net));
        let uneven = steps.count >= 4 && self.first_alarm_unix_s.is_some() && steps.drift > 0.2 * net.0.abs();
        let (mean, [lo, hi]) = if steps.leaking || uneven {
            net
        } else if coarse.1[1] - coarse.1[0] < 0.7 * (fine.1[1] - fine.1[0]) {
            coarse
        } else {
            fine
        };
        (mean, [mean - widened(mean - lo, mean), mean + widened(hi - mean, mean)])
    }

    /// What can be said now. Cheap enough for every minute; it may ring the alarm, which then stays rung.
    pub fn look(&mut self) -> Finding {
        self.judge();
        let span_s = self.first_unix_s.map_or(0.0, |first| (self.last_unix_s - first).max(0.0));
        let tolerance = self.params.tolerance_bytes;
        let (drift, interval) = self.interval();
        let alarmed = self.first_alarm_unix_s.is_some();
        let outside = interval[0] > 1.0 || interval[1] < -1.0;
        let verdict = if alarmed {
            Verdict::Outside
        } else if !outside && interval[0] > -1.0 && interval[1] < 1.0 {
            Verdict::Within
        } else {
            Verdict::Inconclusive
        };
        Finding {
            verdict,
            shape: if verdict == Verdict::Outside { Shape::Linear } else { Shape::None },
            drift_bytes: drift * tolerance,
            drift_ci95_bytes: interval.map(|x| x * tolerance),
            slope_bytes_per_hour: self.fine.posterior.rate * tolerance / self.params.horizon_s * 3600.0,
            slope_bytes_per_request: None,
            minimum_detectable_drift_bytes: tolerance * (1.0 + interval[1] - interval[0]),
            samples: self.samples,
            span_s,
            crossing_unix_s: None,
            asymptote_bytes: None,
            alarmed,
            first_alarm_unix_s: self.first_alarm_unix_s,
        }
    }
}

/// Half-widths of the model's own intervals are too small where no shape on the grids is quite that of the series. By how
/// much was measured on simulated series (docs/verdict.md).
fn widened(half: f64, drift: f64) -> f64 {
    (1.4 * half).hypot(0.01).hypot(0.015 * drift)
}

fn rings(t: &Track, horizon_h: f64) -> bool {
    if t.regression.blocks < 12 {
        return false;
    }
    let p = &t.posterior;
    // Steps that are believed to be a leak shift the drift; the smooth part must not undo that.
    let steps = steps::judge(&t.steps, t.regression.now_h, horizon_h);
    let shift = if steps.leaking { steps.drift - 2.0 * steps.sd * steps.drift.signum() } else { 0.0 };
    let half = p.above(0.5 - shift);
    if half > SURE {
        return p.above(1.0 - shift) > LIKELY;
    }
    half < 1.0 - SURE && p.below(-0.5 - shift) > SURE && p.below(-1.0 - shift) > LIKELY
}

/// LAB
pub const SURE: f64 = 0.999;
/// LAB
pub const LIKELY: f64 = 0.9;

/// The finding on a whole series at once: the same as pushing every point and looking once at the end.
#[must_use]
pub fn batch(points: &[Point], params: Params) -> Finding {
    let mut detector = Detector::new(params);
    for point in points {
        detector.push(*point);
    }
    detector.look()
}
