//! One series: blocks, regression and posterior together, and the record of its steps.

use super::bank;
use super::blocks::{Blocker, FINE, Ruling};
use super::mixture::Posterior;
use super::posterior;
use super::regression::Regression;
use super::sawtooth::News;
use super::steps::{self, Step, StepLeak};
use super::ticks::Tick;
use std::collections::VecDeque;

/// Steps remembered.
const STEPS: usize = 256;
/// Incarnations remembered.
const STARTS: usize = 256;
/// The run has to grow by this factor before it is judged anew: half an hour at the end of two days. The evidence of one
/// per cent more data is not worth its cost.
const JUDGE_GROWTH: f64 = 1.015;

/// See the module.
#[derive(Debug, Clone)]
pub struct Track {
    tolerance_bytes: f64,
    blocker: Blocker,
    /// The regression, for those who want to see what it rests on.
    pub regression: Regression,
    /// What was said last.
    pub posterior: Posterior,
    /// Lasting jumps, newest last.
    pub steps: VecDeque<Step>,
    /// Beginnings of incarnations, hours; the newest of them.
    starts_h: Vec<f64>,
    horizon_h: f64,
    rulings: Vec<Ruling>,
    judged_blocks: u64,
    judged_h: f64,
}

impl Track {
    /// Nothing seen.
    pub fn new(tolerance_bytes: f64, horizon_h: f64) -> Self {
        Track {
            tolerance_bytes,
            blocker: Blocker::new(tolerance_bytes, FINE),
            regression: Regression::new(horizon_h, bank::noises()),
            posterior: Posterior::default(),
            steps: VecDeque::new(),
            starts_h: Vec::new(),
            horizon_h,
            rulings: Vec::new(),
            judged_blocks: 0,
            judged_h: 0.0,
        }
    }

    /// Something regular became known. If the ticks so far are at hand, they are to be pushed once more.
    pub fn begin_anew(&mut self, news: News, whole: bool) {
        if whole {
            *self = Track::new(self.tolerance_bytes, self.horizon_h);
        } else {
            // Another statistic of the same series: its level is free once more.
            self.regression.step(self.regression.now_h);
        }
        self.blocker.set_regular(news);
    }

    /// Takes a tick.
    pub fn push(&mut self, tick: Tick) {
        self.blocker.push(tick, &mut self.rulings);
        for ruling in std::mem::take(&mut self.rulings) {
            self.apply(&ruling);
            match ruling {
                Ruling::Step { t_h, size } => {
                    if self.steps.len() == STEPS {
                        self.steps.pop_front();
                    }
                    self.steps.push_back((t_h, size));
                }
                Ruling::Restart(t_h) => {
                    if self.starts_h.len() == STARTS {
                        self.starts_h.remove(0);
                    }
                    self.starts_h.push(t_h);
                }
                Ruling::Use(_) | Ruling::Drop(_) => {}
            }
        }
    }

    /// Weighs what has come in, if there is enough of it. True if there is something new.
    pub fn judge(&mut self) -> bool {
        let now_h = self.regression.now_h;
        if self.judged_blocks == self.regression.blocks || now_h < JUDGE_GROWTH * self.judged_h {
            return false;
        }
        self.judged_h = now_h;
        self.judged_blocks = self.regression.blocks;
        self.posterior = posterior::weigh(&mut self.regression, self.horizon_h);
        true
    }

    /// What the steps amount to.
    pub fn stepping(&self) -> StepLeak {
        steps::judge(&self.steps, &self.starts_h, self.regression.now_h, self.horizon_h)
    }

    /// Median of the last blocks, bytes.
    pub fn level_bytes(&self) -> Option<f64> {
        self.blocker.level_bytes()
    }

    fn apply(&mut self, ruling: &Ruling) {
        match ruling {
            Ruling::Restart(t_h) => self.regression.restart(*t_h),
            Ruling::Step { t_h, .. } => self.regression.step(*t_h),
            Ruling::Use(block) => self.regression.push(block),
            Ruling::Drop(_) => {}
        }
    }
}
