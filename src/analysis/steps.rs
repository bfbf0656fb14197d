//! Are the steps a leak? An allocator's arenas step a few times and stop; a leak in steps goes on.
//!
//! With `n` steps of like size, the sum over the root of the sum of squares is about the square root of `n`, and steps up and
//! down cancel: a distribution-free measure (a self-normalised sum, bounded in its tails whatever the sizes: de la Peña, Lai
//! and Shao, "Self-Normalized Processes", 2009) of steps that go one way only. It has to exceed what a handful of arenas can reach, and the steps must not have stopped.

use super::track::Step;
use std::collections::VecDeque;

/// What the steps amount to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepLeak {
    /// True if they are believed to be a leak.
    pub leaking: bool,
    /// What they add to the drift over the horizon, tolerances.
    pub drift: f64,
    /// Its standard deviation: what is left of the horizon may see more steps or fewer.
    pub sd: f64,
    /// Steps that count.
    pub count: usize,
}

/// Steps nearer than this are one event, hours.
const MERGE_H: f64 = 0.8;
/// Self-normalised sum beyond which steps are a leak: six of equal size, or more of unequal. Five arenas reach √5 = 2.24.
const LEAK_SCORE: f64 = 2.4;
/// Steps that add up to more than arenas do (400 MB, in tolerances) need only be three.
const MANY_ARENAS: f64 = 8.0;
const LEAK_SCORE_LARGE: f64 = 1.7;
/// A leak's next step is due; one that keeps us waiting for this many of its intervals has stopped.
const STOPPED_AFTER: f64 = 4.0;

/// Judges the steps of the last horizon, at `now_h`.
pub fn judge(steps: &VecDeque<Step>, now_h: f64, horizon_h: f64) -> StepLeak {
    let from = (now_h - horizon_h).max(0.0);
    let mut events: Vec<Step> = Vec::new();
    for &(t, size) in steps.iter().filter(|s| s.0 >= from) {
        match events.last_mut() {
            Some(last) if t - last.0 < MERGE_H => last.1 += size,
            _ => events.push((t, size)),
        }
    }
    let n = events.len();
    if n < 3 {
        return StepLeak::default();
    }
    let sum: f64 = events.iter().map(|e| e.1).sum();
    let squares: f64 = events.iter().map(|e| e.1 * e.1).sum();
    let score = sum.abs() / squares.sqrt();
    let gap = (events[n - 1].0 - events[0].0) / (n - 1) as f64;
    let going_on = now_h - events[n - 1].0 < STOPPED_AFTER * gap;
    let span = (now_h - from).max(1.0);
    let scale = (horizon_h / span).max(1.0);
    StepLeak {
        leaking: going_on && score > if sum.abs() > MANY_ARENAS { LEAK_SCORE_LARGE } else { LEAK_SCORE },
        drift: sum * scale,
        sd: sum.abs() * (scale - 1.0) / score,
        count: n,
    }
}
