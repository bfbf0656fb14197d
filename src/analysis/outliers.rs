//! Sets aside ticks that no neighbour confirms: a garbled reading, a reading of another process, a moment's transient.
//!
//! Hampel's identifier (Hampel 1974; median and median absolute deviation of the neighbours), made one-sided in time: a tick far
//! from those before it is held back until the next ticks say whether the series stayed there (then all are released, in order)
//! or came back (then they are dropped). Jumps that last are left to the blocks.

use super::ticks::{Tick, quantile};
use std::collections::VecDeque;

/// Ticks that say where the series is.
const BACK: usize = 7;
/// Ticks in a row beyond the gate that are no outliers any more.
const CONFIRMED: usize = 3;
/// Beyond how many usual deviations a tick is held back ...
const GATE: f64 = 8.0;
/// ... and how far at least, in tolerances (15 MB).
const GATE_MIN: f64 = 0.3;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Outliers {
    recent: VecDeque<f64>,
    pending: Vec<Tick>,
    segment: Option<u32>,
    dropped: u64,
}

impl Outliers {
    /// Takes a tick; those that may go on are appended to `out`.
    pub fn push(&mut self, tick: Tick, tolerance_bytes: f64, out: &mut Vec<Tick>) {
        if self.segment.replace(tick.segment) != Some(tick.segment) {
            // What was held back at the end of an incarnation has no one to confirm it.
            self.dropped += self.pending.len() as u64;
            self.pending.clear();
            self.recent.clear();
        }
        if self.recent.len() < BACK {
            self.start(tick, tolerance_bytes, out);
        } else if self.far(&tick, tolerance_bytes) {
            self.pending.push(tick);
            if self.pending.len() == CONFIRMED {
                for tick in std::mem::take(&mut self.pending) {
                    self.accept(tick, out);
                }
            }
        } else {
            self.dropped += self.pending.len() as u64;
            self.pending.clear();
            self.accept(tick, out);
        }
    }

    /// The first ticks of an incarnation wait for one another; those far from all the others are dropped.
    fn start(&mut self, tick: Tick, tolerance_bytes: f64, out: &mut Vec<Tick>) {
        self.pending.push(tick);
        if self.pending.len() < BACK {
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        let values: Vec<f64> = pending.iter().map(|t| t.bytes).collect();
        for (i, tick) in pending.into_iter().enumerate() {
            let mut others: Vec<f64> = values.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, v)| *v).collect();
            let (low, high) = (quantile(&mut others, 0.0), quantile(&mut others, 1.0));
            let middle = quantile(&mut others, 0.5);
            let (near, far) = (quantile(&mut others, 0.2), quantile(&mut others, 0.8));
            let gate = (4.0 * (far - near)).max(GATE_MIN * tolerance_bytes);
            let alone = tick.bytes < low || tick.bytes > high || (tick.bytes - middle).abs() > 4.0 * gate;
            // The very first may be a level that loading left behind; it is no outlier of noise, but no part of the series either.
            if alone && (tick.bytes - middle).abs() > gate {
                self.dropped += 1;
                self.recent.push_back(middle);
            } else {
                self.accept(tick, out);
            }
        }
    }

    fn far(&self, tick: &Tick, tolerance_bytes: f64) -> bool {
        let mut values: Vec<f64> = self.recent.iter().copied().collect();
        let middle = quantile(&mut values, 0.5);
        let mut off: Vec<f64> = values.iter().map(|v| (v - middle).abs()).collect();
        let usual = 1.48 * quantile(&mut off, 0.5);
        (tick.bytes - middle).abs() > (GATE * usual).max(GATE_MIN * tolerance_bytes)
    }

    fn accept(&mut self, tick: Tick, out: &mut Vec<Tick>) {
        if self.recent.len() == BACK {
            self.recent.pop_front();
        }
        self.recent.push_back(tick.bytes);
        out.push(tick);
    }

    /// Ticks set aside so far.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}
