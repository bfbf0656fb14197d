//! Does the series itself show the growth that is claimed of it? A second opinion on an alarm, by other means than the model.
//!
//! The model weighs shapes against one another; where none of them is the series', it can be sure of the wrong one. So an alarm
//! also needs what every leak shows, whatever its shape: that it goes on. The claimed growth is compared with what is left of the
//! series once level, warm-up and day cycle are fitted to it (least squares, all blocks alike), over the whole time since the onset
//! and over its later part alone. A warm-up that bends more slowly than any on the grid, a cache that is full, a day's edge that
//! lies behind: all of them claim more than their recent past holds.

use super::bank::{Noise, WARM, eliminate, pair, warm_shape};
use super::bends::straighter;
use super::blocks::Block;
use super::kept::{EVENING, Kept, segments};
use super::load::Work;
use super::regression::{Regression, prior};
use super::rivals::{self, Weighing};
use super::shifts::{self, Shift};

/// What is claimed.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// Onset, hours; 0 for the start of the run.
    pub onset_h: f64,
    /// Tolerances an hour (of its shift, where it has one), or per unit of requests.
    pub rate: f64,
    /// The share of it that is sure: less two standard deviations.
    pub sure: f64,
    /// Linear in requests rather than time.
    pub by_requests: bool,
    /// Linear in the hours of a shift.
    pub shift: Option<Shift>,
    /// Way of starting.
    pub warm: usize,
    /// How usual it is that the start goes the way it is said to go, as a logarithm.
    pub ln_start: f64,
    /// Whether anything comes and goes beside it: a day cycle, or what is held of requests.
    pub day: bool,
    /// Whether a day cycle does.
    pub comes_round: bool,
    /// Standard deviation of the noise.
    pub noise: f64,
    /// Its kind.
    pub kind: Noise,
    /// Drift over the horizon, tolerances.
    pub drift: f64,
    /// The likeliest account without a leak.
    pub still: Option<Still>,
}

/// How a series may be accounted for where nothing leaks.
#[derive(Debug, Clone, Copy)]
pub struct Still {
    /// Standard deviation of the noise.
    pub noise: f64,
    /// Its kind.
    pub kind: Noise,
    /// Way of starting.
    pub warm: usize,
}

/// How far a claim is borne out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Not.
    No,
    /// It was not asked: nothing creeps that steps do not explain.
    Stepped,
    /// It is.
    Yes,
    /// It is, as it is claimed, and much of the tolerance is gone for sure.
    ToleranceGone,
    /// The same, by more within the hour than any usual start takes.
    Steep,
}

/// Share of the claimed growth that the series must show ...
const SHOWN: f64 = 0.4;
/// ... at the end of the horizon ...
const SHOWN_AT_THE_END: f64 = 0.3;
/// ... and its later part by itself.
const SHOWN_LATELY: f64 = 0.35;
/// ... where it set in during the run: a late warm-up looks like a late leak until it bends.
const SHOWN_LATE_ONSET: f64 = 0.6;
/// ... and its last quarter ...
const SHOWN_LAST: f64 = 0.2;
/// ... then.
const SHOWN_LAST_LATE_ONSET: f64 = 0.3;
/// So much of the tolerance must have gone at least, by the claim, ...
const GONE_LEAST: f64 = 0.5;
/// ... and so much is much of it, ...
const GONE: f64 = 0.8;
/// ... where the series shows between so much and so much of what is claimed: more is growth of another kind.
pub const AS_CLAIMED: std::ops::Range<f64> = 0.6..1.7;
/// By this age what bends has bent; until then a leak that was there from the start must be straighter than a second warm-up by so much
/// (twice the logarithm).
const BENT_H: f64 = 8.0;
const STRAIGHTER: f64 = 4.0;
/// ... or its odds be higher than so much.
const ODDS_BENT: f64 = 6.0;
/// By how much a leak must be likelier than all that rises like one and is none (natural logarithm) ...
const ODDS: f64 = 4.0;
/// ... where much of the tolerance is gone for sure: waiting costs more than asking (but not asking twice), ...
const ODDS_GONE: f64 = 3.0;
/// ... at the end of the horizon, when no more looks are to come than two or three, ...
const ODDS_AT_THE_END: f64 = 2.0;
/// ... then even beside a day that has not come round where they are so high, ...
const ODDS_BEYOND_A_DAY: f64 = 8.0;
/// ... and of a leak in shifts: it was looked for in many places.
const ODDS_OF_SHIFTS: f64 = 8.0;
const ODDS_OF_SHIFTS_AT_THE_END: f64 = 4.0;
/// ... and across restarts, but at the end of the horizon: each incarnation starts a little differently, and no rival knows how.
const ODDS_BETWEEN_RESTARTS: f64 = 8.0;
/// What grows from the start on may be a start for so long, hours, unless more than any usual one takes has gone.
const STARTS_H: f64 = 1.6;
/// An alarm that comes later than this, as a multiple of the time by which the tolerance was gone for sure, is overdue: too late to be
/// ahead of it, it can as well wait ...
const OVERDUE: f64 = 1.25;
/// ... where all grows from the start, until the run is so old, hours: a cache that fills evenly is mostly full by then, ...
const FULL_H: f64 = 8.0;
/// ... or until more than any usual one holds is gone, tolerances (500 MB); ...
const FULL: f64 = 10.0;
/// ... but what is clear within so many hours is told at once unless it gains more than so much an hour (60 MB): who loses 50 MB an hour
/// wants to know it within two.
const CLEAR_H: f64 = 3.3;
const CLEAR_RATE: f64 = 1.2;
/// For so long what is said to shrink must lie below where it began, hours.
const FALLEN_H: f64 = 12.0;
/// ... and, as long as an evening and a night may last, by more than what they take of a busy day.
const NIGHT_H: f64 = 16.0;
/// Of what incarnations are said to have lost, their falls from the highest of each must show such a share.
const FALLEN_BETWEEN: f64 = 0.3;
/// Within so many hours ...
const STEEP_H: f64 = 1.0;
/// ... more than any usual start takes, tolerances (325 MB).
const STEEP: f64 = 6.5;
/// Growth that set in with or after the latest restart is its warm-up until it has gone on for so long, hours.
const AFTER_RESTART_H: f64 = 6.0;
/// A day and a half: what a day cycle needs to be told from growth.
const DAY_KNOWN_H: f64 = 36.0;

/// What is claimed of the troughs of a slow saw-tooth must be so much at least to be asked of them, tolerances (25 MB).
const FLOORS_SAID: f64 = 0.5;
const FLOORS_MIN: usize = 4;

impl Kept {
    /// Shares of the claimed growth that the series shows: `None` where there is too little to tell.
    pub fn shares(&self, claim: &Claim) -> Option<Shares> {
        let rows = self.rows(claim, &|b: &Block| grown(claim, b));
        let all = rows.last()?.claimed;
        let whole = share(rows.iter().filter(|r| r.t_h >= claim.onset_h - 2.0), |r| r.left + r.stepped)?;
        // What steps and does not creep grows too.
        let later = |from: f64| {
            let rows = || rows.iter().filter(|r| r.claimed.abs() >= from * all.abs());
            Some(share(rows(), |r| r.left)?.max(share(rows(), |r| r.left + r.stepped)?))
        };
        let lately = later(0.5)?;
        Some(Shares { whole, lately, last: later(0.75).unwrap_or(lately) })
    }

    /// Whether what is said to shrink has fallen at all: a start that is said to rise meanwhile could hide anything.
    pub fn has_fallen(&self, claim: &Claim) -> bool {
        let (Some(first), Some(last)) = (self.blocks.first(), self.blocks.last()) else { return false };
        claim.rate > 0.0 || first.segment != last.segment || last.y - first.y < 0.4 * grown(claim, last)
    }

    /// The same across restarts: each incarnation must end below its highest, all of them together by a part of what they are said to have
    /// lost. Warm-ups of a shape that is not quite the model's could hide anything.
    fn has_fallen_between(&self, claim: &Claim) -> bool {
        if claim.rate > 0.0 || claim.by_requests {
            return true;
        }
        let runs = segments(&self.blocks);
        if runs.len() < 2 {
            return true;
        }
        let (mut fallen, mut said) = (0.0, 0.0);
        for run in runs {
            let (first, last) = (&self.blocks[run.start], &self.blocks[run.end - 1]);
            let highest = self.blocks[run.clone()].iter().map(|b| b.y).fold(last.y, f64::max);
            fallen += highest - last.y;
            said += grown(claim, first) - grown(claim, last);
        }
        fallen > FALLEN_BETWEEN * said
    }

    /// The claim and its rivals weighed; `None` where nothing is claimed.
    pub fn weigh(&self, claim: &Claim, horizon_h: f64) -> Option<Weighing> {
        let own = claim.shift.map(|shift| shift.steps_outside(&self.blocks, &self.stepped));
        let stepped = own.as_deref().unwrap_or(&self.stepped);
        rivals::weigh(&self.blocks, stepped, claim, horizon_h, &|b| grown(claim, b))
    }

    /// How far the claim has come by now, tolerances.
    pub fn claimed(&self, claim: &Claim) -> f64 {
        self.blocks.last().map_or(0.0, |last| grown(claim, last))
    }

    /// What a leak in shifts would claim instead.
    pub fn in_shifts(&self, claim: &Claim, horizon_h: f64) -> Option<Claim> {
        shifts::claim(&self.blocks, claim, horizon_h)
    }

    /// Whether the series itself bears the claim out; `stepped` where its steps are a leak whatever creeps between them.
    /// `at_the_end` where the horizon is about to end; `again` where part of a run is asked what the whole did not show.
    pub fn shows(&self, claim: &Claim, horizon_h: f64, at_the_end: bool, stepped: bool, again: bool) -> Shown {
        let Some(last) = self.blocks.last() else { return Shown::No };
        let young = self.blocks.iter().rev().take_while(|b| b.segment == last.segment).last().map_or(0.0, |b| b.from_h);
        let age_h = last.t_h - claim.onset_h;
        let late = claim.onset_h > 0.0;
        if late && young > claim.onset_h - 1.0 && age_h < AFTER_RESTART_H {
            return Shown::No;
        }
        let gone = claim.sure * grown(claim, last).abs();
        // What gains hundreds of megabytes within the hour is not waited for until it bends.
        let steep = age_h < STEEP_H && gone > STEEP;
        if age_h < FALLEN_H && !self.has_fallen(claim) || !self.has_fallen_between(claim) {
            return Shown::No;
        }
        let so_far = grown(claim, last).abs();
        if claim.rate < 0.0 && (age_h < NIGHT_H || again) && so_far.min(self.fallen()) < EVENING {
            return Shown::No;
        }
        // ... nor is part of a run asked where its incarnations may each have begun lower than the last.
        if claim.rate < 0.0 && again && self.restarted() {
            return Shown::No;
        }
        // What would be tolerated for good rings only at the end, when it is known what it comes to.
        if so_far < GONE_LEAST && !at_the_end {
            return Shown::No;
        }
        if !late && age_h < STARTS_H && so_far < STEEP {
            return Shown::No;
        }
        if !late && !steep && claim.rate > 0.0 && !at_the_end && self.may_be_filling(claim) {
            return Shown::No;
        }
        // A day that has not come round can be made to hide that nothing grows any more.
        let young_day = claim.comes_round && age_h < DAY_KNOWN_H;
        let beyond_a_day = || self.weigh(claim, horizon_h).is_some_and(|weighed| weighed.ln_odds > ODDS_BEYOND_A_DAY);
        let young_day = young_day && !(at_the_end && beyond_a_day());
        let days: &[bool] = if young_day { &[true, false] } else { &[claim.day] };
        let mut as_claimed = true;
        let shown = days.iter().enumerate().all(|(i, day)| {
            let shares = self.shares(&Claim { day: *day, ..*claim });
            // Steps that make up for what creeps the other way leave nothing grown.
            let (least, last) =
                if late { (SHOWN_LATE_ONSET, SHOWN_LAST_LATE_ONSET) } else { (SHOWN_LATELY, SHOWN_LAST) };
            as_claimed &= i > 0 || shares.is_some_and(|s| AS_CLAIMED.contains(&s.whole));
            let whole = |s: Shares| if at_the_end { s.whole > SHOWN_AT_THE_END } else { s.whole.abs() > SHOWN };
            shares.is_some_and(|s| whole(s) && s.lately > least && s.last > last)
        });
        if !shown || !self.on_floors(claim) {
            return Shown::No;
        }
        // What else it might be is asked last: that costs more than all before.
        let enough = match claim.shift {
            Some(_) if at_the_end => ODDS_OF_SHIFTS_AT_THE_END,
            Some(_) => ODDS_OF_SHIFTS,
            // A rival is no larger than so much: beyond that only what is straight is no start.
            None if !late && age_h < BENT_H && !steep && !self.straight(claim, horizon_h) => {
                if so_far < STEEP {
                    ODDS_BENT
                } else {
                    f64::INFINITY
                }
            }
            None if at_the_end => ODDS_AT_THE_END,
            None if gone > GONE && !again => ODDS_GONE,
            None => ODDS,
        };
        let enough = if self.restarted() && !at_the_end { enough.max(ODDS_BETWEEN_RESTARTS) } else { enough };
        if self.weigh(claim, horizon_h).is_none_or(|weighed| weighed.ln_odds < enough) {
            return if stepped { Shown::Stepped } else { Shown::No };
        }
        match as_claimed {
            true if steep => Shown::Steep,
            true if gone > GONE => Shown::ToleranceGone,
            _ => Shown::Yes,
        }
    }

    /// Whether the troughs of a slow saw-tooth show what is claimed, if there are four of them at least: what is taken back is no growth.
    fn on_floors(&self, claim: &Claim) -> bool {
        let Some(floors) = self.floors() else { return true };
        let since: Vec<Block> = floors.into_iter().filter(|b| b.t_h >= claim.onset_h).collect();
        if since.len() < FLOORS_MIN {
            return true;
        }
        let (mut risen, mut said) = (0.0, 0.0);
        for run in segments(&since) {
            let (first, last) = (&since[run.start], &since[run.end - 1]);
            risen += last.y - first.y;
            said += grown(claim, last) - grown(claim, first);
        }
        said.abs() < FLOORS_SAID || risen / said > SHOWN
    }

    /// Whether a claim from the start may be a cache that fills evenly, and is overdue: what nothing but time can tell from a leak.
    fn may_be_filling(&self, claim: &Claim) -> bool {
        let Some(last) = self.blocks.last() else { return false };
        let so_far = grown(claim, last).abs();
        if last.t_h > FULL_H || so_far > FULL || last.t_h < CLEAR_H && so_far < CLEAR_RATE * last.t_h {
            return false;
        }
        let gone = self.blocks.iter().find(|b| claim.sure * grown(claim, b).abs() > 1.0);
        gone.is_some_and(|b| last.t_h > OVERDUE * b.t_h)
    }

    /// Whether it is straighter than any second warm-up.
    fn straight(&self, claim: &Claim, horizon_h: f64) -> bool {
        let straight = |blocks: &[Block]| {
            straighter(blocks, &self.stepped, claim, horizon_h, &|b: &Block| grown(claim, b)) >= STRAIGHTER
        };
        // What is filled by requests bends with them.
        let by_work = || {
            let work = if claim.by_requests { Work::of(&self.blocks) } else { None };
            work.is_none_or(|work| {
                straight(&self.blocks.iter().map(|b| Block { t_h: work.at(b.t_h), ..*b }).collect::<Vec<_>>())
            })
        };
        straight(&self.blocks) && by_work()
    }

    /// Whether the claimed growth is missing from the later part of the run.
    pub fn faded(&self, claim: &Claim) -> bool {
        self.shares(claim).is_some_and(|s| s.lately < SHOWN_LATELY)
    }

    /// The blocks less what a fit says is level, warm-up or day.
    fn rows(&self, claim: &Claim, grown: &dyn Fn(&Block) -> f64) -> Vec<Row> {
        // Shared columns: day cycle (4), growth, series; each segment has three of its own, eliminated as it ends.
        const SHARED: usize = 6;
        const OWN: usize = 3;
        let mut shared = [[0.0; SHARED]; SHARED];
        let segments = segments(&self.blocks);
        let ridge = |sd: f64| (claim.noise / sd).powi(2);
        let kinds = pair(claim.warm).unwrap_or([claim.warm, WARM]);
        let own = |first: &Block, b: &Block| {
            let warm = |k: usize| if k < WARM { warm_shape(k, b.age_h(first.from_h)) } else { 0.0 };
            [1.0, warm(kinds[0]), warm(kinds[1])]
        };
        let own_ridge = [1e-9, ridge(12.0).max(1e-9), ridge(12.0).max(1e-9)];
        let columns = |i: usize| {
            let b = &self.blocks[i];
            let mut x = [0.0; SHARED];
            // What is held of requests needs no day to come round.
            let known = if claim.day { 4 } else { 2 * usize::from(b.worked.is_some()) };
            x[..known].copy_from_slice(&b.cycle()[..known]);
            x[4] = grown(b);
            x[5] = b.y - self.stepped[i];
            x
        };
        let n = OWN + SHARED;
        let mut eliminated = Vec::with_capacity(segments.len());
        for range in &segments {
            let mut m = vec![0.0; n * n];
            for i in range.clone() {
                let mut row = [0.0; OWN + SHARED];
                row[..OWN].copy_from_slice(&own(&self.blocks[range.start], &self.blocks[i]));
                row[OWN..].copy_from_slice(&columns(i));
                for p in 0..n {
                    for q in p..n {
                        m[p * n + q] += row[p] * row[q];
                    }
                }
            }
            eliminate(&mut m, n, OWN, &own_ridge);
            for p in 0..SHARED {
                for q in p..SHARED {
                    shared[p][q] += m[(OWN + p) * n + OWN + q];
                }
            }
            eliminated.push(m);
        }
        let [a, b, c, d] = prior::cycle(self.blocks.first().is_some_and(|b| b.worked.is_some())).map(ridge);
        let fitted = solve(&shared, [a, b, c, d, 1e-9].map(|r| r.max(1e-9)));
        let mut rows = Vec::with_capacity(self.blocks.len());
        for (range, m) in segments.into_iter().zip(eliminated) {
            let mut coefficients = [0.0; OWN];
            for p in (0..OWN).rev() {
                let known: f64 = (0..5).map(|c| m[p * n + OWN + c] * fitted[c]).sum();
                let later: f64 = (p + 1..OWN).map(|q| m[p * n + q] * coefficients[q]).sum();
                coefficients[p] = (m[p * n + n - 1] - known - later) / (m[p * n + p] + own_ridge[p]);
            }
            let first = self.blocks[range.start];
            for i in range {
                let b = &self.blocks[i];
                let x = columns(i);
                let day: f64 = (0..4).map(|c| x[c] * fitted[c]).sum();
                let start: f64 = own(&first, b).iter().zip(coefficients).map(|(x, c)| x * c).sum();
                let left = x[5] - day - start;
                rows.push(Row { t_h: b.t_h, segment: b.segment, claimed: x[4], left, stepped: self.stepped[i] });
            }
        }
        rows
    }
}

/// What the claim says has leaked by a block, tolerances.
fn grown(claim: &Claim, b: &Block) -> f64 {
    let by = if claim.by_requests {
        b.requests.unwrap_or(0.0) / Regression::REQUEST_UNIT
    } else if let Some(shift) = claim.shift {
        shift.worked_h(b.t_h)
    } else {
        (b.t_h - claim.onset_h).max(0.0)
    };
    claim.rate * by
}

/// Blocks that a slope needs.
const ROWS_MIN: usize = 5;

/// Shares of the claimed growth that the series shows.
#[derive(Debug, Clone, Copy)]
pub struct Shares {
    /// Since the onset, with its steps.
    pub whole: f64,
    /// In the later half.
    pub lately: f64,
    /// In the last quarter.
    pub last: f64,
}

/// One block beside what is claimed of it.
struct Row {
    t_h: f64,
    segment: u32,
    claimed: f64,
    left: f64,
    stepped: f64,
}

/// Slope of what is left on what is claimed, within segments. `None` from too few blocks.
fn share<'a>(rows: impl Iterator<Item = &'a Row>, value: impl Fn(&Row) -> f64) -> Option<f64> {
    let rows: Vec<&Row> = rows.collect();
    if rows.len() < ROWS_MIN {
        return None;
    }
    let (mut squares, mut products) = (0.0, 0.0);
    for group in rows.chunk_by(|a, b| a.segment == b.segment) {
        let n = group.len() as f64;
        let (x, y) = group.iter().fold((0.0, 0.0), |(x, y), r| (x + r.claimed / n, y + value(r) / n));
        for r in group {
            squares += (r.claimed - x).powi(2);
            products += (r.claimed - x) * (value(r) - y);
        }
    }
    (squares > 0.0).then(|| products / squares)
}

/// Ridge regression of the last column on the others (upper triangle).
fn solve(m: &[[f64; 6]; 6], ridge: [f64; 5]) -> [f64; 5] {
    let n = 6;
    let mut a: Vec<f64> = m.iter().flatten().copied().collect();
    eliminate(&mut a, n, 5, &ridge);
    let mut x = [0.0; 5];
    for i in (0..5).rev() {
        let known: f64 = (i + 1..5).map(|j| a[i * n + j] * x[j]).sum();
        x[i] = (a[i * n + 5] - known) / (a[i * n + i] + ridge[i]);
    }
    x
}
