//! What the tracks say, as a [`Finding`]: verdict, interval, shape, crossing, what could be detected.
//!
//! When the alarm rings is decided in `mod.rs`; here it is only taken into account.

use super::bank::{self, FILL_H, WARM, WARM_EXP, pair, warm_tau_h};
use super::kept::Gained;
use super::mixture::{self, Part, Posterior};
use super::posterior::{Hypothesis, Leak};
use super::regression::Regression;
use super::steps::StepLeak;
use super::{Detector, Params};
use crate::model::finding::{Finding, Shape, Verdict};

/// Blocks that a slope, a level and their error need at least.
pub const BLOCKS_MIN: u64 = 8;
/// Half-width of the interval where nothing can be said yet, in tolerances: no process drifts by ten thousand of them.
const UNKNOWN: f64 = 1e4;
/// Standard deviations between no drift and one that is detected nineteen times in twenty, while none is taken for one
/// but once in a hundred: 2.33 + 1.64.
const DETECTABLE: f64 = 3.97;
/// What a run over the whole horizon is expected to detect before anything is known, in tolerances: floors scatter by 2 MB with a memory of
/// half an hour, over 48 hours that is 1 MB of drift; the day cycle and the start add as much again.
const EXPECTED_DETECTABLE: f64 = 0.12;
/// Growth smaller than this (2 MB in tolerances) has no shape.
const SHAPELESS: f64 = 0.04;

/// Once it has rung, steps that are a leak with this probability are one.
const DECIDED: f64 = 0.8;

/// Beside a saw-tooth, steps that sum to less than this (20 MB in tolerances) are its own leavings.
const STEP_BESIDE_SAW: f64 = 0.4;

/// From which share of the horizon on what was gained tells a drift, how far it may be off (1 MB in tolerances, 3 %), and how far outside an
/// interval it must lie, as a share of the drift.
const GAINED_FROM: f64 = 0.5;
const GAINED_MIN: f64 = 0.02;
const GAINED_ERROR: f64 = 0.03;
const GAINED_ASIDE: f64 = 0.05;
/// ... and how much the start may have given where it is to tell what steps add, as a share of it, and until which share of the horizon.
const GAINED_START: f64 = 0.5;
const GAINED_UNTIL: f64 = 1.02;

/// Drift and its 95 % interval, in tolerances.
type Estimate = (f64, [f64; 2]);

/// Works the finding out.
pub fn finding(d: &Detector) -> Finding {
    let span_s = d.first_unix_s.map_or(0.0, |first| (d.last_unix_s - first).max(0.0));
    let Params { tolerance_bytes: tolerance, horizon_s, .. } = d.params;
    let horizon_h = horizon_s / 3600.0;
    let judged = d.judged();
    let steps = stepping(d);
    let known = judged.regression.blocks >= BLOCKS_MIN;
    let (estimate, by_sum) = if known { estimate(d, &steps) } else { ((0.0, [-UNKNOWN, UNKNOWN]), false) };
    // What grew far and is flat now is judged by what it does now. What goes on in steps is not flat, however flat it is between them.
    let rang = known && d.first_alarm_unix_s.is_some() && d.fine.stepped_later().abs() < 1.0;
    let flat_now = rang.then(|| d.fine.later()).flatten().map(|p| widely(p.interval(0.025))).filter(|e| inside(*e));
    let estimate = flat_now.unwrap_or(estimate);
    let (drift, interval) = estimate;
    let verdict = verdict(d, estimate, &steps);
    let best = judged.posterior.best.filter(|_| known && flat_now.is_none() && floors(d, &steps).is_none());
    let shape = if flat_now.is_some() { Shape::Saturating } else { shape(d, estimate, &steps, by_sum, verdict) };
    let factor = match best {
        Some(Hypothesis { leak: Leak::Since(k), factor, .. }) if k > 0 && !by_sum => factor,
        _ => 1.0,
    };
    let rate = drift / factor; // tolerances per horizon, at the present pace
    Finding {
        verdict,
        shape,
        drift_bytes: drift * tolerance,
        drift_ci95_bytes: interval.map(|x| x * tolerance),
        slope_bytes_per_hour: rate * tolerance / horizon_h,
        slope_bytes_per_request: per_request(d, shape).map(|x| x * tolerance),
        minimum_detectable_drift_bytes: tolerance
            * if known { DETECTABLE * (interval[1] - interval[0]) / 3.92 } else { EXPECTED_DETECTABLE },
        samples: d.samples,
        span_s,
        crossing_unix_s: crossing(d, interval, factor),
        asymptote_bytes: (shape == Shape::Saturating).then(|| asymptote(d)).flatten(),
        alarmed: d.first_alarm_unix_s.is_some(),
        first_alarm_unix_s: d.first_alarm_unix_s,
    }
}

/// What is said of the drift; true if its steps probably are a leak. Where it surely drifts, and a rival explains that better than a leak
/// does, there are two accounts: the drift is what grows beside the rival, and the interval spans both.
fn estimate(d: &Detector, steps: &StepLeak) -> (Estimate, bool) {
    let by_sum = steps.probability > 0.5;
    let plain = &d.judged().posterior.flat;
    if plain.is_empty() {
        return ((0.0, [-UNKNOWN, UNKNOWN]), false);
    }
    if let Some(floors) = floors(d, steps) {
        return (widely(with_steps(&floors.flat, steps)), false);
    }
    let (mean, [lo, hi]) = widely(with_steps(plain, steps));
    let doubtful = d.first_alarm_unix_s.is_none() && (lo > 0.0 || hi < 0.0);
    match doubtful.then(|| d.judged().beside_a_rival()).flatten() {
        Some(drift) => {
            let (mean, [least, most]) = widely(with_steps(drift, steps));
            ((mean, [least.min(lo), most.max(hi)]), by_sum)
        }
        None if by_sum => (by_gained(d, (mean, [lo, hi])), by_sum),
        None => (with_gained(d, (mean, [lo, hi])), by_sum),
    }
}

/// What a slow saw-tooth gives back again and again is none of a drift: its troughs tell more than all that lies between them.
fn floors<'a>(d: &'a Detector, steps: &StepLeak) -> Option<&'a Posterior> {
    d.judged().on_floors().map(|track| &track.posterior).filter(|_| steps.probability <= 0.5)
}

/// Where the steps are a leak, the drift is what was gained, end against beginning, if the start was a small part of it: what rises before a step
/// is named counts twice, in the step's size and in the slope between steps. From half the horizon on, and until it is over: then the
/// beginning is older than what is judged.
fn by_gained(d: &Detector, (mean, [lo, hi]): Estimate) -> Estimate {
    let compares =
        d.fine.regression.now_h < GAINED_UNTIL * d.params.horizon_s / 3600.0 && !d.judged().is_within_a_day();
    match gained(d).filter(|g| compares && g.drift * mean > 0.0 && g.by_start.abs() < GAINED_START) {
        Some(Gained { drift, .. }) => (drift, [lo, hi].map(|end| end - mean + drift)),
        None => with_gained(d, (mean, [lo, hi])),
    }
}

/// Where it has rung and half the horizon is over, what was gained, end against beginning, is an account too: of a leak that comes in bursts or
/// works now and then a line sees but a part. Where that lies well outside, the interval spans both.
fn with_gained(d: &Detector, (mean, [lo, hi]): Estimate) -> Estimate {
    let aside = GAINED_MIN + GAINED_ASIDE * mean.abs();
    match gained(d) {
        Some(Gained { drift: gained, .. }) if gained * mean > 0.0 && !(lo - aside..=hi + aside).contains(&gained) => {
            let off = GAINED_MIN.hypot(GAINED_ERROR * gained);
            (mean, [lo.min(gained - off), hi.max(gained + off)])
        }
        _ => (mean, [lo, hi]),
    }
}

/// What was gained, where it has rung and that tells a drift.
fn gained(d: &Detector) -> Option<Gained> {
    let late = d.fine.regression.now_h > GAINED_FROM * d.params.horizon_s / 3600.0;
    let rang = d.first_alarm_unix_s.is_some();
    if rang && late { d.judged().gained() } else { None }
}

/// What the steps amount to: where it has rung and they probably are a leak, they are one.
fn stepping(d: &Detector) -> StepLeak {
    let mut steps = d.judged().stepping();
    if d.first_alarm_unix_s.is_some() && steps.probability > DECIDED {
        steps.probability = 1.0;
    }
    steps
}

/// What grows smoothly, and with the probability that the steps are a leak, what they add.
fn with_steps(smooth: &[Part], steps: &StepLeak) -> Estimate {
    let parts = if steps.probability > 1e-3 {
        // What has not been counted as a step, and counted as one that was none, errs by a step or so.
        let sd = steps.sd.hypot(STEP_ERROR * steps.drift.abs() / (steps.count.max(1) as f64).sqrt());
        let with = smooth.iter().map(|p| Part {
            weight: p.weight * steps.probability,
            mean: p.mean + steps.drift,
            sd: p.sd.hypot(sd),
        });
        let without = smooth.iter().map(|p| Part { weight: p.weight * (1.0 - steps.probability), ..*p });
        with.chain(without).collect()
    } else {
        smooth.to_vec()
    };
    mixture::interval(&parts, 0.025)
}

/// With the interval widened to what it is worth.
fn widely((mean, [lo, hi]): Estimate) -> Estimate {
    (mean, [mean - widened(mean - lo, mean), mean + widened(hi - mean, mean)])
}

/// The whole interval lies within the tolerance.
fn inside((_, [lo, hi]): Estimate) -> bool {
    lo > -1.0 && hi < 1.0
}

/// Standard error of a sum of steps as a share of their mean size, times the root of their number: measured on simulated series.
const STEP_ERROR: f64 = 0.3;

/// Half-widths of the model's own intervals are too small where no shape on the grids is quite that of the series. By how
/// much was measured on simulated series (docs/verdict.md): half, three quarters of a megabyte, and 9 % of the drift: leaks come in lumps.
fn widened(half: f64, drift: f64) -> f64 {
    (1.5 * half).hypot(0.015).hypot(0.09 * drift)
}

/// Outside: it rang, the drift lies beyond the tolerance, none is not in its interval, and it was not all given back since.
/// Within: the whole interval lies inside.
fn verdict(d: &Detector, estimate: Estimate, steps: &StepLeak) -> Verdict {
    let (drift, [lo, hi]) = estimate;
    let drifts = drift.abs() > 1.0 && (lo > 0.0 || hi < 0.0);
    let given_back = || drift > 0.0 && steps.probability < 0.5 && d.fine.kept.refills();
    if d.first_alarm_unix_s.is_some() && drifts && !given_back() {
        return Verdict::Outside;
    }
    let long_enough = d.fine.regression.blocks >= 3 * BLOCKS_MIN;
    // What has stepped by the whole tolerance since the start is not within it, however likely it is that it will step no more.
    let stays = !d.fine.stepped_beyond();
    if long_enough && stays && inside(estimate) { Verdict::Within } else { Verdict::Inconclusive }
}

fn shape(d: &Detector, (drift, [lo, hi]): Estimate, steps: &StepLeak, by_sum: bool, verdict: Verdict) -> Shape {
    let p = &d.judged().posterior;
    let of_leak = || {
        if by_sum {
            Shape::Step
        } else if p.p_requests > 0.8 {
            Shape::PerRequest
        } else {
            Shape::Linear
        }
    };
    if verdict == Verdict::Outside {
        return of_leak();
    }
    if d.fine.regression.blocks < BLOCKS_MIN {
        return Shape::None;
    }
    let significant = if lo > 0.0 || hi < 0.0 { drift.abs() } else { 0.0 };
    // Of the start the whole run tells, whatever is told by what came after it.
    let start = &d.fine.posterior;
    let warming = 1.0 - start.warm_weights.0[WARM];
    let warm = start.top.filter(|_| warming > 0.9).map_or(0.0, |h| h.warm_size);
    let stepped =
        d.fine.steps.iter().map(|s| s.1).sum::<f64>().abs().max(if steps.count > 0 { SHAPELESS } else { 0.0 });
    let largest = significant.max(warm).max(stepped);
    let slow = floors(d, steps).is_some();
    if largest <= SHAPELESS {
        return if slow || d.sawtooth.period_h.is_some() { Shape::Sawtooth } else { Shape::None };
    }
    if warm >= largest {
        Shape::Saturating
    } else if stepped >= largest {
        // What is left of a saw-tooth's falls is no step.
        let left_over = slow || d.sawtooth.period_h.is_some() && stepped < STEP_BESIDE_SAW;
        if left_over { Shape::Sawtooth } else { Shape::Step }
    } else {
        of_leak()
    }
}

/// Hours until the run's start had warmed up; `None` if it did not, and after a restart, when each incarnation has its own.
pub fn warm_up_h(d: &Detector) -> Option<f64> {
    let p = &d.fine.posterior;
    let top = p.top.filter(|h| 1.0 - p.warm_weights.0[WARM] > 0.9 && h.warm_size.abs() > SHAPELESS)?;
    let slowest = pair(top.warm).map_or(top.warm, |[_, slow]| slow);
    if slowest >= WARM {
        return None;
    }
    let long_h = bank::warm_up_h(slowest);
    (d.fine.regression.segment_start_h() == 0.0 && long_h < 0.5 * d.fine.regression.now_h).then_some(long_h)
}

/// Tolerances per request.
fn per_request(d: &Detector, shape: Shape) -> Option<f64> {
    let best = d.judged().posterior.best.filter(|h| h.leak == Leak::Requests && shape == Shape::PerRequest)?;
    Some(best.mean / best.factor / Regression::REQUEST_UNIT)
}

/// When the tolerance will have been used up: with the interval's steeper bound at the earliest, with its flatter at the latest.
fn crossing(d: &Detector, [lo, hi]: [f64; 2], factor: f64) -> Option<[f64; 2]> {
    let first = d.first_unix_s?;
    let (fast, slow) = if lo > 0.0 {
        (hi, lo)
    } else if hi < 0.0 {
        (-lo, -hi)
    } else {
        return None;
    };
    // The drift over the horizon is what the rate makes of the share `factor` of it that comes after the onset.
    let onset_s = (1.0 - factor).max(0.0) * d.params.horizon_s;
    let at = |drift: f64| onset_s + d.params.horizon_s * factor / drift;
    let ten = 10.0 * d.params.horizon_s;
    (at(fast) <= ten).then(|| [first + at(fast), first + at(slow).min(ten)])
}

/// The present level and what the warm-up has still to give.
fn asymptote(d: &Detector) -> Option<f64> {
    let top = d.fine.posterior.top?;
    let since_h = d.fine.regression.now_h - d.fine.regression.segment_start_h();
    // Of two warm-ups the slow one is what is left.
    let warm = pair(top.warm).map_or(top.warm, |[_, slow]| slow);
    // Level again after having grown: what there is is what there will be.
    if top.leak != Leak::None {
        return d.fine.level_bytes();
    }
    let left = if warm < WARM_EXP {
        (-since_h / warm_tau_h(warm)).exp()
    } else if warm < WARM {
        (1.0 - since_h / FILL_H[warm - WARM_EXP]).max(0.0)
    } else {
        0.0
    };
    Some(d.fine.level_bytes()? + left * top.warm_size * d.params.tolerance_bytes)
}
