//! One series at one scale: blocks, regression and posterior together, and the record of its steps.

use super::bank;
use super::blocks::{Blocker, Ruling, Scale};
use super::posterior::{self, Posterior};
use super::regression::Regression;
use super::sawtooth::Sawtooth;
use super::ticks::Tick;
use std::collections::VecDeque;

/// Rulings kept so that the regression can be done over when a saw-tooth is recognised.
const LOG: usize = 512;
/// Steps remembered.
const STEPS: usize = 256;
/// The run has to grow by this factor before it is judged anew: half an hour at the end of two days. The evidence of one
/// per cent more data is not worth its cost.
const JUDGE_GROWTH: f64 = 1.01;

/// A lasting jump: when (hours) and how far (tolerances).
pub type Step = (f64, f64);

fn noises_of(net: bool) -> Vec<bank::Noise> {
    if net { bank::walks() } else { bank::noises() }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Track {
    blocker: Blocker,
    /// The regression, for those who want to see what it rests on.
    pub regression: Regression,
    /// What was said last.
    pub posterior: Posterior,
    /// Lasting jumps, newest last.
    pub steps: VecDeque<Step>,
    horizon_h: f64,
    net: bool,
    log: Vec<Ruling>,
    log_whole: bool,
    rulings: Vec<Ruling>,
    judged_blocks: u64,
    judged_h: f64,
}

impl Track {
    /// Nothing seen.
    ///
    /// With `net`, steps get no coefficient of their own and all noise is a random walk: whatever was gained counts.
    pub fn new(tolerance_bytes: f64, horizon_h: f64, scale: Scale, net: bool) -> Self {
        Track {
            blocker: Blocker::new(tolerance_bytes, scale),
            regression: Regression::new(horizon_h, noises_of(net)),
            net,
            posterior: Posterior::default(),
            steps: VecDeque::new(),
            horizon_h,
            log: Vec::new(),
            log_whole: true,
            rulings: Vec::new(),
            judged_blocks: 0,
            judged_h: 0.0,
        }
    }

    /// Takes a tick; `recognised` at the moment a saw-tooth is, for then everything is done over with its column.
    pub fn push(&mut self, tick: Tick, saw: &Sawtooth, recognised: bool) {
        self.blocker.push(tick, &mut self.rulings);
        if recognised && self.log_whole {
            self.regression = Regression::new(self.horizon_h, noises_of(self.net));
            for ruling in std::mem::take(&mut self.log) {
                self.apply(&ruling, saw);
                self.log.push(ruling);
            }
        }
        for ruling in std::mem::take(&mut self.rulings) {
            self.apply(&ruling, saw);
            if let Ruling::Step { t_h, size } = ruling {
                if self.steps.len() == STEPS {
                    self.steps.pop_front();
                }
                self.steps.push_back((t_h, size));
            }
            if self.log.len() < LOG {
                self.log.push(ruling);
            } else {
                self.log_whole = false;
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

    /// Median of the last blocks, bytes.
    pub fn level_bytes(&self) -> Option<f64> {
        self.blocker.level_bytes()
    }

    fn apply(&mut self, ruling: &Ruling, saw: &Sawtooth) {
        match ruling {
            Ruling::Restart(t_h) => self.regression.restart(*t_h),
            Ruling::Step { .. } if self.net => {}
            Ruling::Step { t_h, .. } => self.regression.step(*t_h),
            Ruling::Use(block) => self.regression.push(block, saw),
            Ruling::Drop(_) => {}
        }
    }
}
