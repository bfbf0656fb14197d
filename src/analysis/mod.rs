//! Samples to findings: the drift regression and its verdict.
//!
//! Pure: no IO, no clock, time comes in with the points. Where the points come from and what is done about a finding is
//! left to others.

pub mod fleet;
mod ticks;

use crate::model::finding::{Finding, Shape, Verdict};
use crate::model::series::Point;
use ticks::{Tick, Ticker, quantile};

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
    first_unix_s: Option<f64>,
    last_unix_s: f64,
    samples: u64,
    block: Vec<Tick>,
    blocks: Vec<(f64, f64)>,
    first_alarm_unix_s: Option<f64>,
}

/// Length of a block of floors, seconds.
const BLOCK_S: f64 = 600.0;

impl Detector {
    /// A detector that has seen nothing.
    #[must_use]
    pub fn new(params: Params) -> Self {
        Detector {
            params,
            ticker: Ticker::default(),
            first_unix_s: None,
            last_unix_s: 0.0,
            samples: 0,
            block: Vec::new(),
            blocks: Vec::new(),
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
        if let Some(first) = self.block.first()
            && (first.segment != tick.segment || tick.t_s - first.t_s >= BLOCK_S)
        {
            let mut values: Vec<f64> = self.block.iter().map(|t| t.bytes).collect();
            let floor = quantile(&mut values, 0.25);
            let t = self.block.iter().map(|t| t.t_s).sum::<f64>() / self.block.len() as f64;
            self.blocks.push((t, floor));
            self.block.clear();
        }
        self.block.push(tick);
    }

    /// What can be said now. Cheap enough for every minute; it may ring the alarm, which then stays rung.
    pub fn look(&mut self) -> Finding {
        let span_s = self.first_unix_s.map_or(0.0, |first| (self.last_unix_s - first).max(0.0));
        let (drift, sd) = self.slope(span_s);
        let tolerance = self.params.tolerance_bytes;
        let interval = [drift - 1.96 * sd, drift + 1.96 * sd];
        if self.first_alarm_unix_s.is_none() && drift.abs() - 6.0 * sd > tolerance {
            self.first_alarm_unix_s = Some(self.last_unix_s);
        }
        let alarmed = self.first_alarm_unix_s.is_some();
        let outside = interval[0] > tolerance || interval[1] < -tolerance;
        let verdict = if outside && alarmed {
            Verdict::Outside
        } else if interval[0] > -tolerance && interval[1] < tolerance {
            Verdict::Within
        } else {
            Verdict::Inconclusive
        };
        Finding {
            verdict,
            shape: if verdict == Verdict::Outside { Shape::Linear } else { Shape::None },
            drift_bytes: drift,
            drift_ci95_bytes: interval,
            slope_bytes_per_hour: drift / self.params.horizon_s * 3600.0,
            slope_bytes_per_request: None,
            minimum_detectable_drift_bytes: tolerance + 6.0 * sd,
            samples: self.samples,
            span_s,
            crossing_unix_s: None,
            asymptote_bytes: None,
            alarmed,
            first_alarm_unix_s: self.first_alarm_unix_s,
        }
    }

    /// Drift over the horizon and its standard error: least squares on the floors past the warm-up, corrected for
    /// autocorrelation.
    fn slope(&self, span_s: f64) -> (f64, f64) {
        let warm_s = (3.0 * 3600.0_f64).min(span_s / 3.0);
        let late: Vec<(f64, f64)> = self.blocks.iter().copied().filter(|b| b.0 >= warm_s).collect();
        let n = late.len() as f64;
        if late.len() < 6 {
            return (0.0, 1e12);
        }
        let mean_t = late.iter().map(|b| b.0).sum::<f64>() / n;
        let mean_y = late.iter().map(|b| b.1).sum::<f64>() / n;
        let stt: f64 = late.iter().map(|b| (b.0 - mean_t).powi(2)).sum();
        let sty: f64 = late.iter().map(|b| (b.0 - mean_t) * (b.1 - mean_y)).sum();
        let slope = sty / stt;
        let residual: Vec<f64> = late.iter().map(|b| b.1 - mean_y - slope * (b.0 - mean_t)).collect();
        let ss: f64 = residual.iter().map(|r| r * r).sum();
        let lag: f64 = residual.windows(2).map(|w| w[0] * w[1]).sum();
        let rho = if ss > 0.0 { (lag / ss + 2.0 / n).clamp(0.0, 0.95) } else { 0.0 };
        let effective = ((1.0 + rho) / (1.0 - rho)).sqrt();
        let sd = (ss / (n - 2.0) / stt).sqrt() * effective;
        (slope * self.params.horizon_s, sd * self.params.horizon_s)
    }
}

/// The finding on a whole series at once: the same as pushing every point and looking once at the end.
#[must_use]
pub fn batch(points: &[Point], params: Params) -> Finding {
    let mut detector = Detector::new(params);
    for point in points {
        detector.push(*point);
    }
    detector.look()
}
