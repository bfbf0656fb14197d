//! What the tracks say, as a [`Finding`]: verdict, interval, shape, crossing, what could be detected.
//!
//! When the alarm rings is decided in `mod.rs`; here it is only taken into account.

use super::bank::{self, FILL_H, WARM, WARM_EXP, pair, warm_tau_h};
use super::blocks::Block;
use super::course::Course;
use super::kept::Gained;
use super::load;
use super::mixture::{self, Part, Posterior};
use super::posterior::{Hypothesis, Leak};
use super::regression::Regression;
use super::steps::StepLeak;
use super::track::Track;
use super::{Detector, Params};
use crate::model::finding::{self, Finding, Shape, Steps, Verdict};

/// Blocks that a slope, a level and their error need at least.
pub const BLOCKS_MIN: u64 = 8;
/// Half-width of the interval where nothing can be said yet, in tolerances: no process drifts by ten thousand of them.
const UNKNOWN: f64 = 1e4;
/// An interval that reaches this many tolerances both ways says only that too little was seen: it is given on without ends.
const KNOWN_MOST: f64 = 1e3;
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
pub fn conclude(d: &Detector) -> Finding {
    let span_s = d.first_unix_s.map_or(0.0, |first| (d.last_unix_s - first).max(0.0));
    let Params { tolerance_bytes: tolerance, horizon_s, .. } = d.params;
    let horizon_h = horizon_s / 3600.0;
    let judged = d.judged();
    let steps = stepping(d);
    let known = judged.regression.blocks >= BLOCKS_MIN;
    let Told { estimate, by_sum, flat } = told(d, &steps);
    let (drift, interval) = estimate;
    let verdict = verdict(d, estimate, &steps);
    let best = best(d, &steps, flat);
    let shape = if flat { Shape::Saturating } else { shape(d, estimate, &steps, by_sum, verdict) };
    let factor = match best {
        Some(Hypothesis { leak: Leak::Since(k), factor, .. }) if k > 0 && !by_sum => factor,
        _ => 1.0,
    };
    let rate = drift / factor; // tolerances per horizon, at the present pace
    let course = Course::of(judged, best, &d.fine, by_sum, horizon_h);
    let at = |t_h: f64| d.first_unix_s.map(|first| first + 3600.0 * t_h);
    // Of what is told by its later half the rest has misunderstood what came and went.
    let swing = |swing: Option<f64>| swing.filter(|swing| !flat && *swing > SHAPELESS).map(|swing| swing * tolerance);
    let grows = verdict == Verdict::Outside || d.first_alarm_unix_s.is_some();
    Finding {
        verdict,
        shape,
        drift_bytes: drift * tolerance,
        drift_ci95_bytes: if interval[0] < -KNOWN_MOST && interval[1] > KNOWN_MOST {
            [f64::NEG_INFINITY, f64::INFINITY]
        } else {
            interval.map(|x| x * tolerance)
        },
        slope_bytes_per_hour: rate * tolerance / horizon_h,
        slope_bytes_per_request: per_request(d, shape, grows.then_some(rate / horizon_h)).map(|x| x * tolerance),
        minimum_detectable_drift_bytes: tolerance
            * if known { DETECTABLE * unwidened(estimate) / 1.96 } else { EXPECTED_DETECTABLE },
        samples: d.samples,
        span_s,
        onset_unix_s: course.onset_h.filter(|_| shape == Shape::Linear && grows).and_then(at),
        crossing_unix_s: crossing(interval, &course, horizon_h)
            .filter(|_| shape != Shape::Saturating)
            .and_then(|[early, late]| at(early).zip(at(late)))
            .map(|(early, late)| [early, late]),
        steps: steps_of(d),
        unsettled_bytes: d.fine.unsettled().map(|off| off * tolerance),
        day_swing_bytes: swing(judged.day_swing()),
        load_swing_bytes: swing(judged.held().map(|held| held.swing)),
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
    (1.5 * half).hypot(WIDER_MIN).hypot(WIDER * drift)
}

/// By how much intervals are widened at least, tolerances, and by which share of the drift.
const WIDER_MIN: f64 = 0.015;
const WIDER: f64 = 0.09;

/// Half-width of an interval without what was added to it because the drift is large: what would tell a small drift from none.
fn unwidened((drift, [lo, hi]): Estimate) -> f64 {
    let half = 0.5 * (hi - lo);
    (half * half - (WIDER * drift).powi(2)).max(WIDER_MIN * WIDER_MIN).sqrt()
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
    let stays = !whole(d).stepped_beyond() && d.fine.unsettled().is_none();
    if long_enough && stays && inside(estimate) { Verdict::Within } else { Verdict::Inconclusive }
}

/// How what is told of the drift came about.
pub fn course(d: &Detector) -> Vec<finding::CourseRow> {
    let (judged, steps) = (d.judged(), stepping(d));
    let seen = if judged.is_whole() { judged } else { &d.fine };
    if judged.regression.blocks < BLOCKS_MIN {
        return Vec::new();
    }
    let Told { estimate: (drift, _), by_sum, flat } = told(d, &steps);
    // What the steps add is in the level.
    let grows = if by_sum { drift - steps.drift } else { drift };
    let tolerance = d.params.tolerance_bytes;
    let course = Course::of(judged, best(d, &steps, flat), &d.fine, false, d.params.horizon_s / 3600.0);
    let row = |(b, stepped): (&Block, &f64)| {
        let share = course.share(b.t_h);
        finding::CourseRow {
            unix_s: b.unix_s,
            segment: b.segment,
            stepped_bytes: stepped * tolerance,
            grown_bytes: share * grows * tolerance,
            share,
        }
    };
    seen.kept.blocks.iter().zip(&seen.kept.stepped).map(row).collect()
}

/// The likeliest leak, where what is told is its drift: not where the later half or the troughs of a slow saw-tooth tell it.
fn best(d: &Detector, steps: &StepLeak, flat: bool) -> Option<Hypothesis> {
    let judged = d.judged();
    let known = judged.regression.blocks >= BLOCKS_MIN;
    judged.posterior.best.filter(|_| known && !flat && floors(d, steps).is_none())
}

/// What is told of the drift: how large it is, whether its steps are a leak, and whether it is that of the later half, which is flat.
struct Told {
    estimate: Estimate,
    by_sum: bool,
    flat: bool,
}

/// What grew far and is flat now is judged by what it does now. What goes on in steps is not flat, however flat it is between them, and what is within
/// as requests tell it has not grown.
fn told(d: &Detector, steps: &StepLeak) -> Told {
    if d.judged().regression.blocks < BLOCKS_MIN {
        return Told { estimate: (0.0, [-UNKNOWN, UNKNOWN]), by_sum: false, flat: false };
    }
    let (estimate, by_sum) = estimate(d, steps);
    let flat = || d.fine.later().map(|p| widely(p.interval(0.025))).filter(|e| inside(*e));
    let rang = d.first_alarm_unix_s.is_some() && d.fine.stepped_later().abs() < 1.0;
    let follows = d.judged().goes_by_requests() && inside(estimate);
    match (rang && !follows).then(flat).flatten() {
        Some(estimate) => Told { estimate, by_sum, flat: true },
        None => Told { estimate, by_sum, flat: false },
    }
}

/// The whole run, as it is seen by requests, if it is told so: edges of the load are no steps then.
fn whole(d: &Detector) -> &Track {
    let judged = d.judged();
    if judged.goes_by_requests() { judged } else { &d.fine }
}

/// Where the level changed suddenly.
fn steps_of(d: &Detector) -> Option<Steps> {
    let (judged, tolerance, first) = (d.judged(), d.params.tolerance_bytes, d.first_unix_s?);
    let seen = if judged.is_whole() { judged } else { &d.fine };
    let changes: Vec<(f64, f64)> = seen.kept.changes().collect();
    let largest = changes.iter().copied().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()))?;
    Some(Steps {
        count: u32::try_from(changes.len()).unwrap_or(u32::MAX),
        sum_bytes: changes.iter().map(|change| change.1).sum::<f64>() * tolerance,
        moved_bytes: changes.iter().map(|change| change.1.abs()).sum::<f64>() * tolerance,
        largest_bytes: largest.1 * tolerance,
        largest_unix_s: first + 3600.0 * largest.0,
    })
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
    let start = &whole(d).posterior;
    let warming = 1.0 - start.warm_weights.0[WARM];
    let warm = start.top.filter(|_| warming > 0.9).map_or(0.0, |h| h.warm_size);
    // What goes to and fro is none.
    let stays = steps_of(d).is_some_and(|steps| !steps.come_back());
    let stepped = if stays { whole(d).steps.iter().map(|s| s.1).sum::<f64>().abs() } else { 0.0 };
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

/// Hours until the run's start had warmed up, or what filled was full; `None` if it did not, and after a restart, when each incarnation has its own.
pub fn warm_up_h(d: &Detector) -> Option<f64> {
    // What was filled and is level now: the half by which that is told.
    if told(d, &stepping(d)).flat {
        return Some(0.5 * d.fine.regression.now_h);
    }
    let whole = whole(d);
    let p = &whole.posterior;
    let top = p.top.filter(|h| 1.0 - p.warm_weights.0[WARM] > 0.9 && h.warm_size.abs() > SHAPELESS)?;
    let slowest = pair(top.warm).map_or(top.warm, |[_, slow]| slow);
    if slowest >= WARM {
        return None;
    }
    // Where it goes by requests, when so much work was done.
    let long_h = bank::warm_up_h(slowest);
    let long_h =
        if whole.goes_by_requests() { whole.kept.blocks.iter().find(|b| b.age_h(0.0) >= long_h)?.t_h } else { long_h };
    (d.fine.regression.segment_start_h() == 0.0 && long_h < 0.5 * d.fine.regression.now_h).then_some(long_h)
}

/// Tolerances per request, where it grows by them, or may as well: at `rate` an hour, where it grows, and they came evenly.
fn per_request(d: &Detector, shape: Shape, rate: Option<f64>) -> Option<f64> {
    let best = d.judged().posterior.best.filter(|_| matches!(shape, Shape::PerRequest | Shape::Linear))?;
    match (shape, best.leak) {
        (Shape::PerRequest, Leak::Requests) => Some(best.mean / best.factor / Regression::REQUEST_UNIT),
        (Shape::Linear, _) => {
            let blocks = &d.fine.kept.blocks;
            let (first, last) = (blocks.first()?, blocks.last()?);
            let an_hour = (last.requests? - first.requests?) / (last.t_h - first.t_h);
            (an_hour > 0.0 && load::uneven(blocks).is_none()).then(|| rate.map(|rate| rate / an_hour))?
        }
        _ => None,
    }
}

/// When the tolerance will have been used up, hours: with the interval's steeper bound at the earliest, with its flatter at the latest. Not in ten horizons,
/// if not at all.
fn crossing([lo, hi]: [f64; 2], course: &Course, horizon_h: f64) -> Option<[f64; 2]> {
    let (fast, slow) = if lo > 0.0 {
        (hi, lo)
    } else if hi < 0.0 {
        (-lo, -hi)
    } else {
        return None;
    };
    let most_h = 10.0 * horizon_h;
    let early = course.when(1.0 / fast);
    (early <= most_h).then(|| [early, course.when(1.0 / slow).min(most_h)])
}

/// The present level, less what is held of requests, and what the warm-up has still to give.
fn asymptote(d: &Detector) -> Option<f64> {
    let whole = whole(d);
    let top = whole.posterior.top?;
    let since_h = whole.worked_h().unwrap_or(whole.regression.now_h - whole.regression.segment_start_h());
    let held = whole.held().map_or(0.0, |held| held.now);
    // Of two warm-ups the slow one is what is left.
    let warm = pair(top.warm).map_or(top.warm, |[_, slow]| slow);
    let left = if top.leak != Leak::None {
        // Level again after having grown: what there is is what there will be.
        0.0
    } else if warm < WARM_EXP {
        (-since_h / warm_tau_h(warm)).exp()
    } else if warm < WARM {
        (1.0 - since_h / FILL_H[warm - WARM_EXP]).max(0.0)
    } else {
        0.0
    };
    Some(d.fine.level_bytes()? + (left * top.warm_size - held) * d.params.tolerance_bytes)
}
