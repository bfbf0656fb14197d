//! Recognises a garbage collector's saw-tooth in the ticks: gradual rises that a sudden fall undoes, again and again.
//!
//! Once recognised, the time since the last fall explains the ramp, so that neither a ramp is taken for a leak nor the
//! saw-tooth's height for noise. Periods shorter than a few ticks are left to the block floors.

use super::ticks::Tick;
use std::collections::VecDeque;

/// Ticks remembered: two hours, twice the longest period that is looked for.
const TICKS: usize = 120;
/// Falls remembered.
const FALLS: usize = 4096;
/// Cycles in a row that must look alike before a saw-tooth is believed in.
const CYCLES: usize = 3;

/// What is known of a collector's cycles.
#[derive(Debug, Clone, Default)]
pub struct Sawtooth {
    ticks: VecDeque<(f64, f64)>,
    falls_h: VecDeque<f64>,
    last_low: Option<(f64, f64)>,
    good: usize,
    seen: usize,
    period_h: f64,
    /// True from the moment that a saw-tooth is believed in; it stays true.
    pub recognised: bool,
}

impl Sawtooth {
    /// Takes one tick, bytes in units of the tolerance. Returns true at the moment of recognition.
    pub fn push(&mut self, tick: &Tick, tolerance_bytes: f64) -> bool {
        if self.ticks.len() == TICKS {
            self.ticks.pop_front();
        }
        self.ticks.push_back((tick.t_s / 3600.0, tick.bytes / tolerance_bytes));
        let n = self.ticks.len();
        if n < 9 {
            return false;
        }
        // A fall is judged once two ticks after it are in: the tick in the middle may straddle it.
        let y = |i: usize| self.ticks[n - 1 - i].1;
        let drop = y(3).max(y(4)) - y(2).max(y(1)).max(y(0));
        let typical = self.typical_step();
        if drop < (6.0 * typical).max(0.12) || y(2) > y(3) - 0.3 * drop && y(1) > y(3) - 0.8 * drop {
            return false;
        }
        let at_h = 0.5 * (self.ticks[n - 3].0 + self.ticks[n - 4].0);
        if self.falls_h.back().is_some_and(|last| at_h - last < 0.03) {
            return false;
        }
        self.judge_cycle(at_h, y(3).max(y(4)), y(2).min(y(1)))
    }

    /// A new incarnation: the heap starts anew.
    pub fn restart(&mut self, t_h: f64) {
        self.ticks.clear();
        self.last_low = None;
        self.good = 0;
        if self.recognised {
            self.falls_h.push_back(t_h);
        }
    }

    /// Time since the last fall at `t_h`, in periods; before the first fall, what the period says it must have been.
    pub fn ramp(&self, t_h: f64) -> f64 {
        if !self.recognised {
            return 0.0;
        }
        let after = self.falls_h.partition_point(|f| *f <= t_h);
        let since =
            if after == 0 { (self.period_h - (self.falls_h[0] - t_h)).max(0.0) } else { t_h - self.falls_h[after - 1] };
        (since / self.period_h).min(3.0)
    }

    fn judge_cycle(&mut self, at_h: f64, high: f64, low: f64) -> bool {
        let period = self.falls_h.back().map(|last| at_h - last);
        if self.falls_h.len() == FALLS {
            self.falls_h.pop_front();
        }
        self.falls_h.push_back(at_h);
        if let (Some(period), Some((low_h, before))) = (period, self.last_low) {
            let (rise, fall) = (high - before, high - low);
            let middle_h = 0.5 * (low_h + at_h);
            let middle = self.ticks.iter().find(|t| t.0 >= middle_h).map_or(0.0, |t| (t.1 - before) / rise);
            self.seen += 1;
            let alike = (rise - fall).abs() < 0.4 * fall && (0.2..0.8).contains(&middle) && period < 1.6;
            if alike {
                self.good += 1;
                self.period_h += (period - self.period_h) / self.good as f64;
            } else {
                self.good = 0;
            }
        }
        self.last_low = Some((at_h, low));
        let news = !self.recognised && self.good >= CYCLES;
        self.recognised |= news;
        news
    }

    /// The median change from tick to tick: what is usual.
    fn typical_step(&self) -> f64 {
        let mut steps: Vec<f64> =
            self.ticks.iter().zip(self.ticks.iter().skip(1)).map(|(a, b)| (b.1 - a.1).abs()).collect();
        let middle = steps.len() / 2;
        *steps.select_nth_unstable_by(middle, f64::total_cmp).1
    }
}
