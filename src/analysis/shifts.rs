//! A leak that works in shifts: a batch at night, an office by day. It grows for some hours, always the same ones, and never else.
//!
//! To a model that knows lines such a leak is a late onset, then a day cycle, then a warm-up, then a line with too much noise, and each of
//! these claims more than the last hours hold. So where the likeliest leak is not borne out, and once a shift may have come round, the
//! hours are looked for in which all of it grew: the same whitened regression (`design`), under the noise that suits such a leak best.
//! What is found is a claim like any other: the series must show it, and no rival may explain it.

use super::bank::few_noises;
use super::blocks::Block;
use super::design::Design;
use super::growth::Claim;

/// Some hours of each day.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shift {
    /// When it begins, hours since the run began, 0 to 24.
    pub from_h: f64,
    /// How long it is, hours.
    pub long_h: f64,
}

/// A day.
const DAY_H: f64 = 24.0;
/// Lengths of a shift that are tried, hours.
const LONG_H: [f64; 6] = [1.0, 2.0, 3.0, 4.5, 6.5, 9.5];
/// Beginnings that are tried: so many a day, and about the best ones this much earlier or later, hours.
const BEGINNINGS: usize = 24;
const NEAR_H: [f64; 4] = [-0.5, -0.25, 0.25, 0.5];
/// Of one shift so much must have been worked on either of the last two days, as a share: once is an onset.
const WORKED: f64 = 0.3;
/// A shift of which so much was worked must show what it adds ...
const ENOUGH: f64 = 0.6;
/// ... as a share of what it is said to add, ...
const AS_SAID: std::ops::Range<f64> = 0.4..2.0;
/// ... of which no more than such a share is given back before the next, ...
const GIVEN_BACK: f64 = 0.35;
/// ... from so long before to so long after it, hours.
const ASIDE_H: f64 = 1.5;
/// In the first hours of an incarnation a rise says nothing, unless it is larger than any usual start (325 MB, in tolerances).
const START_H: f64 = 3.0;
const LARGE: f64 = 6.5;
/// Prior standard deviation of the drift, tolerances.
const DRIFT_SD: f64 = 8.0;
/// Jumps so near to a shift belong to it, hours.
const NEAR_JUMP_H: f64 = 0.35;

impl Shift {
    /// How many there are to choose from: what the prior of one of them is shared by.
    pub const COUNT: usize = BEGINNINGS * LONG_H.len();

    /// Hours worked since the run began.
    pub fn worked_h(self, t_h: f64) -> f64 {
        let until = |t_h: f64| {
            let since = t_h - self.from_h;
            let whole = (since / DAY_H).floor();
            whole * self.long_h + (since - whole * DAY_H).min(self.long_h)
        };
        until(t_h) - until(0.0)
    }

    /// Whether it is being worked, or nearly, at some time.
    fn is_near(self, t_h: f64) -> bool {
        let since = (t_h - self.from_h + NEAR_JUMP_H).rem_euclid(DAY_H);
        since < self.long_h + 2.0 * NEAR_JUMP_H
    }

    fn has_come_round(self, now_h: f64) -> bool {
        let before = self.worked_h(now_h - DAY_H);
        before.min(self.worked_h(now_h) - before) > WORKED * self.long_h
    }

    /// Whether each shift so far shows what it is said to add (`rate` an hour): twice at least, none of them not, and nothing of it is given
    /// back until the next.
    pub fn shows(self, blocks: &[Block], rate: f64) -> bool {
        let Some(now_h) = blocks.last().map(|b| b.t_h) else { return false };
        let (mut shown, mut left) = (0, None::<Rise>);
        let mut from_h = self.from_h - DAY_H;
        while from_h < now_h {
            let until_h = from_h + self.long_h;
            let worked = rate * (until_h.min(now_h) - from_h.max(0.0)).max(0.0);
            if worked.abs() > ENOUGH * (rate * self.long_h).abs()
                && let Some(rise) = Rise::of(blocks, from_h, until_h, worked)
            {
                let grew = rise.after - rise.before;
                let given_back = left.filter(|l| l.segment == rise.segment).map_or(0.0, |l| l.after - rise.before);
                if !AS_SAID.contains(&(grew / worked)) || given_back / worked > GIVEN_BACK {
                    return false;
                }
                // What is larger than any start need not come twice.
                shown += if grew.abs() > LARGE { 2 } else { 1 };
                left = Some(rise);
            }
            from_h += DAY_H;
        }
        shown > 1
    }

    /// What the steps outside the shift have added by each block: those within it are its own.
    pub fn steps_outside(self, blocks: &[Block], stepped: &[f64]) -> Vec<f64> {
        let (mut left, mut last) = (0.0, None::<(u32, f64)>);
        let mut out = Vec::with_capacity(stepped.len());
        for (b, sum) in blocks.iter().zip(stepped) {
            match last {
                Some((segment, before)) if segment == b.segment => {
                    left += if self.is_near(b.t_h) { 0.0 } else { sum - before };
                }
                _ => left = *sum,
            }
            last = Some((b.segment, *sum));
            out.push(left);
        }
        out
    }
}

/// What the series was shortly before and shortly after a shift, and in which incarnation.
#[derive(Debug, Clone, Copy)]
struct Rise {
    segment: u32,
    before: f64,
    after: f64,
}

impl Rise {
    /// `None` where an incarnation began at about the time, `worked` being no more than a start may be: a start rises too.
    fn of(blocks: &[Block], from_h: f64, until_h: f64, worked: f64) -> Option<Rise> {
        let mean = |from: f64, to: f64, other: Option<&Block>| {
            let near: Vec<&Block> = blocks.iter().filter(|b| b.t_h >= from && b.t_h <= to).collect();
            let Some(first) = near.first() else { return other.map(|b| (b.segment, b.y)) };
            Some((first.segment, near.iter().map(|b| b.y).sum::<f64>() / near.len() as f64))
        };
        // Where nothing is known about the time, and where a shift has only just ended or is not over, by the block before.
        let by = |t_h: f64| blocks.iter().rev().find(|b| b.t_h <= t_h).or(blocks.first());
        let (segment, before) = mean(from_h - ASIDE_H, from_h, by(from_h))?;
        let (segment_after, after) = mean(until_h, until_h + ASIDE_H, by(until_h))?;
        let began_h = blocks.iter().find(|b| b.segment == segment)?.from_h;
        let started = from_h < began_h + START_H && worked.abs() < LARGE;
        (segment == segment_after && !started).then_some(Rise { segment, before, after })
    }
}

/// What a leak in shifts would claim, if one fits at all; `claim` is the likeliest of the others.
pub fn claim(blocks: &[Block], claim: &Claim, horizon_h: f64) -> Option<Claim> {
    let now_h = blocks.last()?.t_h;
    if now_h < DAY_H {
        return None;
    }
    let none = vec![0.0; blocks.len()];
    let mut best: Option<(f64, Claim)> = None;
    for kind in std::iter::once(claim.kind).chain(few_noises()) {
        let of_kind = Claim { kind, day: false, onset_h: 0.0, by_requests: false, ..*claim };
        let Some(first) = search(&of_kind, blocks, &none, horizon_h) else { continue };
        // The noise that is left makes the ridges.
        let Some(found) = search(&first.1, blocks, &none, horizon_h) else { continue };
        if best.is_none_or(|b| found.0 > b.0) {
            best = Some(found);
        }
    }
    best.map(|b| b.1).filter(|found| found.shift.is_some_and(|shift| shift.shows(blocks, found.rate)))
}

/// The likeliest shift under one kind of noise, with the logarithm of its likelihood.
fn search(claim: &Claim, blocks: &[Block], stepped: &[f64], horizon_h: f64) -> Option<(f64, Claim)> {
    let now_h = blocks.last()?.t_h;
    let design = Design::new(blocks, stepped, claim, None, horizon_h, &|b| b.t_h);
    let mut best: Option<(f64, Shift, f64, f64)> = None;
    let attempt = |shift: Shift, best: &mut Option<(f64, Shift, f64, f64)>| {
        if !shift.has_come_round(now_h) {
            return;
        }
        let all = shift.worked_h(horizon_h.max(now_h));
        let c = design.shared(|t_h| shift.worked_h(t_h) / all);
        let pivot = c.own + design.ridge(DRIFT_SD);
        let gain = c.y * c.y / pivot;
        if c.y > 0.0 && best.is_none_or(|b| gain > b.0) {
            *best = Some((gain, shift, c.y / pivot, pivot));
        }
    };
    // Once a shift is known only its surroundings are looked at again.
    match claim.shift {
        Some(shift) => attempt(shift, &mut best),
        None => LONG_H.iter().for_each(|long_h| {
            (0..BEGINNINGS).for_each(|i| attempt(Shift { from_h: i as f64, long_h: *long_h }, &mut best));
        }),
    }
    let about = best?.1;
    for part in NEAR_H {
        attempt(Shift { from_h: (about.from_h + part).rem_euclid(DAY_H), ..about }, &mut best);
    }
    let (gain, shift, drift, pivot) = best?;
    let left = design.squares() - gain;
    let noise = design.variance(left).sqrt();
    let sure = (1.0 - 2.0 * noise / pivot.sqrt() / drift).max(0.0);
    let rate = drift / shift.worked_h(horizon_h.max(now_h));
    let ln = design.ln_likelihood_of_noise(left, (pivot / design.ridge(DRIFT_SD)).ln());
    Some((ln, Claim { shift: Some(shift), ln_start: 0.0, noise, sure, rate, drift, ..*claim }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(t_h: f64, from_h: f64) -> f64 {
        0.5 * (t_h - from_h).clamp(0.0, 2.0)
    }

    const NIGHT: Shift = Shift { from_h: 22.0, long_h: 3.0 };

    #[test]
    fn hours_are_counted_over_midnight_and_from_the_middle_of_a_shift() {
        let at: Vec<f64> = [0.0, 0.5, 1.0, 22.0, 23.0, 25.0, 46.0, 49.0].iter().map(|t| NIGHT.worked_h(*t)).collect();
        assert_eq!(at, [0.0, 0.5, 1.0, 1.0, 2.0, 4.0, 4.0, 7.0]);
    }

    #[test]
    fn steps_within_a_shift_are_its_own() {
        let block = |t_h: f64, segment| Block { t_h, segment, ..Block::default() };
        let blocks = [block(1.5, 0), block(12.0, 0), block(23.0, 0), block(30.0, 0), block(31.0, 1), block(32.0, 1)];
        let outside = NIGHT.steps_outside(&blocks, &[0.0, 2.0, 5.0, 6.0, 0.0, 0.5]);
        assert_eq!(outside, [0.0, 2.0, 2.0, 3.0, 0.0, 0.5]);
    }

    #[test]
    fn a_rise_that_comes_once_or_is_given_back_is_no_shift() {
        let run = |rise: fn(f64) -> f64| -> Vec<Block> {
            let at = |i: i32| f64::from(i) / 6.0;
            (0..288).map(|i| Block { t_h: at(i), y: rise(at(i)), ..Block::default() }).collect()
        };
        let shift = Shift { from_h: 10.0, long_h: 2.0 };
        assert!(shift.shows(&run(|t| ramp(t, 10.0) + ramp(t, 34.0)), 0.5));
        assert!(!shift.shows(&run(|t| ramp(t, 10.0)), 0.5));
        assert!(!shift.shows(&run(|t| ramp(t, 34.0)), 0.5));
        // An office, which gives back in the evening what it took in the morning.
        assert!(!shift.shows(&run(|t| ramp(t, 10.0) - ramp(t, 20.0) + ramp(t, 34.0)), 0.5));
    }
}
