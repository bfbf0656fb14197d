//! Raw points to ticks: one robust figure a minute, whatever the sampling rate.
//!
//! A tick is the median of what arrived within one minute (or the sample itself where samples are rarer), so that one
//! sample's outlier cannot be seen by anything downstream. This file also decides what time it is: it mends steps of the
//! wall clock. What the ticks mean is left to the rest of the analysis.

use crate::model::series::Point;

/// Length of a tick, seconds. A minute is short against the fastest saw-tooth that matters (7 minutes) and long enough
/// that ten samples a second become one figure.
pub const TICK_S: f64 = 60.0;

/// Samples kept of one tick; beyond it every second one is dropped, again and again, which leaves the median unbiased.
const TICK_SAMPLES_MAX: usize = 1024;

/// One minute of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tick {
    /// Seconds since the first sample, on a clock that never steps back.
    pub t_s: f64,
    /// Seconds since the epoch, as the samples had it.
    pub unix_s: f64,
    /// Median of the samples, bytes.
    pub bytes: f64,
    /// Samples in it.
    pub samples: u32,
    /// Incarnation of the process.
    pub segment: u32,
    /// Requests finished since the first sample, over all segments, at the middle of the tick; `None` if unknown.
    pub requests: Option<f64>,
}

/// Collects points until a minute is full.
#[derive(Debug, Clone, Default)]
pub struct Ticker {
    /// What is added to wall time to undo its steps, less the first sample's time.
    offset_s: f64,
    last_t_s: Option<f64>,
    typical_interval_s: f64,
    values: Vec<f64>,
    stride: u32,
    skip: u32,
    t_sum_s: f64,
    unix_sum_s: f64,
    count: u64,
    slot: i64,
    segment: u32,
    requests_base: f64,
    requests_last: Option<f64>,
    /// Requests finished, summed over the samples of this tick, and how many of those told.
    requests_sum: f64,
    requests_told: u32,
    clock_steps: u64,
    unusable: u64,
}

impl Ticker {
    /// Takes one point; returns the tick it completes, if it does. A point whose time or figure is not finite is counted and
    /// set aside.
    pub fn push(&mut self, p: Point) -> Option<Tick> {
        if !p.unix_s.is_finite() || !p.bytes.is_finite() {
            self.unusable += 1;
            return None;
        }
        let t_s = self.steady_time(p.unix_s);
        let slot = (t_s / TICK_S).floor() as i64;
        let full = self.count > 0 && (slot != self.slot || p.segment != self.segment);
        let done = if full { self.flush() } else { None };
        if self.count == 0 {
            self.slot = slot;
        }
        self.count_requests(p);
        self.segment = p.segment;
        self.t_sum_s += t_s;
        self.unix_sum_s += p.unix_s;
        self.count += 1;
        self.keep(p.bytes);
        done
    }

    /// Times that the wall clock stepped back and was mended.
    pub fn clock_steps(&self) -> u64 {
        self.clock_steps
    }

    /// Points set aside because a figure was not finite.
    pub fn unusable(&self) -> u64 {
        self.unusable
    }

    /// The tick under way, completed early.
    pub fn flush(&mut self) -> Option<Tick> {
        if self.count == 0 {
            return None;
        }
        let n = self.count as f64;
        let tick = Tick {
            t_s: self.t_sum_s / n,
            unix_s: self.unix_sum_s / n,
            bytes: quantile(&mut self.values, 0.5),
            samples: u32::try_from(self.count).unwrap_or(u32::MAX),
            segment: self.segment,
            requests: match self.requests_told {
                0 => self.requests_last.map(|last| self.requests_base + last),
                told => Some(self.requests_sum / f64::from(told)),
            },
        };
        self.requests_sum = 0.0;
        self.requests_told = 0;
        self.values.clear();
        self.stride = 0;
        self.skip = 0;
        self.count = 0;
        self.t_sum_s = 0.0;
        self.unix_sum_s = 0.0;
        Some(tick)
    }

    /// Wall time to time since the first sample. A step back is taken out, as if the next sample had come after the
    /// usual interval; a step forward looks like a gap and is left alone, for a gap does no harm.
    fn steady_time(&mut self, unix_s: f64) -> f64 {
        let Some(last) = self.last_t_s else {
            self.offset_s = -unix_s;
            self.last_t_s = Some(0.0);
            return 0.0;
        };
        let mut t = unix_s + self.offset_s;
        if t < last {
            self.clock_steps += 1;
            self.offset_s += last + self.typical_interval_s - t;
            t = last + self.typical_interval_s;
        } else {
            let interval = t - last;
            let known = self.typical_interval_s > 0.0;
            // A slow average that a gap cannot spoil.
            if !known {
                self.typical_interval_s = interval;
            } else if interval < 3.0 * self.typical_interval_s {
                self.typical_interval_s += 0.05 * (interval - self.typical_interval_s);
            }
        }
        self.last_t_s = Some(t);
        t
    }

    /// Requests count anew in each segment, and a counter that falls was reset: either way the sum goes on.
    fn count_requests(&mut self, p: Point) {
        let Some(now) = p.requests.filter(|r| r.is_finite()) else { return };
        if let Some(last) = self.requests_last {
            if now < last {
                self.requests_base += last;
            }
        } else {
            self.requests_base = -now;
        }
        self.requests_last = Some(now);
        self.requests_sum += self.requests_base + now;
        self.requests_told += 1;
    }

    fn keep(&mut self, bytes: f64) {
        if self.stride == 0 {
            self.stride = 1;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        if self.values.len() >= TICK_SAMPLES_MAX {
            let mut odd = false;
            self.values.retain(|_| {
                odd = !odd;
                odd
            });
            self.stride *= 2;
        }
        self.values.push(bytes);
        self.skip = self.stride - 1;
    }
}

/// The `q`-quantile by linear interpolation; reorders `values`. Zero for an empty slice.
pub fn quantile(values: &mut [f64], q: f64) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    values.sort_unstable_by(f64::total_cmp);
    let at = q * (values.len() - 1) as f64;
    let low = at.floor() as usize;
    let high = (low + 1).min(values.len() - 1);
    values[low] + (at - low as f64) * (values[high] - values[low])
}
