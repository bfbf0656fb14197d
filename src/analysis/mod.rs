//! Samples to findings: the drift regression and its verdict.
//!
//! Pure: no IO, no clock, time comes in with the points. Where the points come from and what is done about a finding is
//! left to others. The method is argued for in `docs/verdict.md`; in reading order:
//!
//! 1. `ticks`: points to one robust figure a minute, on a clock that never steps back;
//! 2. `outliers`: minutes that no neighbour confirms are set aside;
//! 3. `sawtooth`: the period of a garbage collector, so that blocks are its troughs;
//! 4. `blocks`: minutes to floors; what loads (`loading`) and excursions are set aside, lasting jumps named;
//! 5. `bank`: for each kind of noise, whitened sums of products of all that could explain the series;
//! 6. `regression`: which columns those are at a given time; `starts`: how incarnations may have started, each much like the others;
//! 7. `posterior`: every hypothesis weighed, and what they say of the drift together;
//!    `load`: the same run as it is seen where memory goes by requests (hours of work, what is held of them), if they come unevenly;
//! 8. `mixture`: what that amounts to; `beliefs`: what was believed beforehand;
//! 9. `steps`: are the steps a leak, or what steps a few times and stops (`arenas`); `staircase`: the steps of the whole run, found looking back;
//! 10. `growth`: does the series itself (`kept`) show what an alarm would claim of it, and the troughs of a slow saw-tooth (`floors`);
//! 11. `bends`: might a second warm-up be what is taken for a leak from the start; `rivals`: what else might it be that rises like that (`design` is the regression that asks it);
//!     `shifts`: does it leak in some hours of each day alone;
//! 12. `conclude`: verdict, interval, shape; `course`: how the drift came about, which is told and drawn.
//!
//! [`fleet`] compares hosts and is a subject of its own.

mod arenas;
mod bank;
mod beliefs;
mod bends;
mod blocks;
pub mod compare;
mod conclude;
mod course;
mod design;
pub mod fleet;
mod floors;
mod growth;
mod kept;
mod load;
#[cfg(test)]
mod load_tests;
mod loading;
mod mixture;
mod outliers;
mod posterior;
mod regression;
mod rivals;
mod sawtooth;
#[cfg(test)]
mod server_tests;
mod shifts;
mod special;
mod staircase;
mod starts;
mod steps;
pub mod summary;
#[cfg(test)]
mod tests;
mod ticks;
mod track;

use crate::model::finding::{self as model, Finding};
use crate::model::series::Point;
use growth::Shown;
use outliers::Outliers;
use sawtooth::Sawtooth;
use steps::StepLeak;
use ticks::{Tick, Ticker};
use track::Track;

/// The question that is asked of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Params {
    /// Drift over the horizon that is still acceptable, bytes, either way.
    pub tolerance_bytes: f64,
    /// Over which time the drift is stated, seconds.
    pub horizon_s: f64,
    /// Series watched together: the chance of a false alarm is shared among them.
    pub series_count: u32,
}

impl Default for Params {
    /// ±50 MB over 48 hours, one series.
    fn default() -> Self {
        Params { tolerance_bytes: 50e6, horizon_s: 48.0 * 3600.0, series_count: 1 }
    }
}

/// Which account of the run a finding is read off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum By {
    /// The whole run, as it came in.
    #[default]
    Whole,
    /// What was left without its start.
    Settled,
    /// The whole run, its steps found looking back.
    LookingBack,
    /// The troughs of a slow saw-tooth.
    Floors,
    /// The whole run, as it is seen where memory goes by requests.
    Worked,
}

/// Watches one series. One more sample costs O(1) amortised, and memory is bounded for a run of any length.
#[derive(Debug, Clone)]
pub struct Detector {
    params: Params,
    ticker: Ticker,
    outliers: Outliers,
    ticks: Vec<Tick>,
    log: Vec<Tick>,
    log_whole: bool,
    sawtooth: Sawtooth,
    fine: Track,
    first_unix_s: Option<f64>,
    last_unix_s: f64,
    samples: u64,
    first_alarm_unix_s: Option<f64>,
    /// Since when the evidence stands (hours), and which way it points.
    evident: Option<(f64, f64)>,
    /// By what it rang.
    by: By,
    /// When the run was last looked back upon, hours.
    looked_back_h: f64,
    segment: Option<u32>,
    /// Whether the end of the horizon was seen.
    over: bool,
}

impl Detector {
    /// A detector that has seen nothing.
    #[must_use]
    pub fn new(params: Params) -> Self {
        Detector {
            params,
            ticker: Ticker::default(),
            outliers: Outliers::default(),
            ticks: Vec::new(),
            log: Vec::new(),
            log_whole: true,
            sawtooth: Sawtooth::default(),
            fine: Track::new(params.tolerance_bytes, params.horizon_s / 3600.0),
            first_unix_s: None,
            last_unix_s: 0.0,
            samples: 0,
            first_alarm_unix_s: None,
            evident: None,
            by: By::default(),
            looked_back_h: 0.0,
            segment: None,
            over: false,
        }
    }

    /// Takes the next point. Points come in time order; a step back is taken for a step of the wall clock. The series is
    /// judged, and the alarm may ring, whenever a block is complete: looking more often or less changes nothing.
    pub fn push(&mut self, point: Point) {
        self.samples += 1;
        if point.unix_s.is_finite() {
            self.first_unix_s.get_or_insert(point.unix_s);
            self.last_unix_s = point.unix_s;
        }
        if let Some(tick) = self.ticker.push(point) {
            self.outliers.push(tick, self.params.tolerance_bytes, &mut self.ticks);
            for tick in std::mem::take(&mut self.ticks) {
                self.take(tick);
            }
        }
    }

    /// What can be said now: the error is controlled however often this is asked.
    #[must_use]
    pub fn look(&self) -> Finding {
        conclude::conclude(self)
    }

    /// Whether the alarm has rung, at far less cost than a whole finding.
    #[must_use]
    pub fn alarmed(&self) -> bool {
        self.first_alarm_unix_s.is_some()
    }

    /// How the drift of the [`look`](Self::look) came about, in order of time: a row for each block that is kept.
    #[must_use]
    pub fn course(&self) -> Vec<model::CourseRow> {
        conclude::course(self)
    }

    /// Times that the wall clock stepped back and the step was taken out.
    #[must_use]
    pub fn clock_steps(&self) -> u64 {
        self.ticker.clock_steps()
    }

    /// Points set aside because their time or figure was not finite.
    #[must_use]
    pub fn unusable(&self) -> u64 {
        self.ticker.unusable()
    }

    /// Minutes set aside as outliers.
    #[must_use]
    pub fn outliers(&self) -> u64 {
        self.outliers.dropped()
    }

    /// How long what was set aside as no part of the level took, seconds: excursions that came back, and loading.
    #[must_use]
    pub fn set_aside_s(&self) -> f64 {
        3600.0 * self.fine.set_aside_h
    }

    /// How long the run's start warmed up, seconds, if it did: until 95 % of it was over. What came before says nothing of the drift.
    #[must_use]
    pub fn warm_up_s(&self) -> Option<f64> {
        conclude::warm_up_h(self).map(|hours| hours * 3600.0)
    }

    fn take(&mut self, tick: Tick) {
        if self.segment.replace(tick.segment).is_some_and(|last| last != tick.segment) {
            self.sawtooth.restart();
        }
        if self.log.len() < LOG {
            self.log.push(tick);
        } else {
            self.log_whole = false;
        }
        match self.sawtooth.push(&tick, self.params.tolerance_bytes) {
            Some(period_h) => self.begin_anew(period_h),
            None => self.fine.push(tick),
        }
        // Once the horizon is over it is asked what there is, though the last blocks are not through yet.
        let over = self.fine.is_over() && !std::mem::replace(&mut self.over, self.fine.is_over());
        if (self.fine.judge() || over) && self.first_alarm_unix_s.is_none() && self.rings() {
            self.first_alarm_unix_s = Some(self.last_unix_s);
        }
    }

    /// A saw-tooth became known: all is done over with blocks of its troughs, if the ticks are still at hand.
    fn begin_anew(&mut self, period_h: f64) {
        let ticks = std::mem::take(&mut self.log);
        let ticks = if self.log_whole { ticks.as_slice() } else { &ticks[ticks.len()..] };
        self.fine.begin_anew(period_h, self.log_whole);
        ticks.iter().for_each(|tick| self.fine.push(*tick));
    }

    /// The evidence must stand for a while: what misfits for a moment mends itself as data come in.
    fn rings(&mut self) -> bool {
        let now_h = self.fine.regression.now_h;
        let last = self.fine.at_the_end();
        let mut evidence = self.evidence(&self.fine);
        // Later on it is asked once more, of a run that had settled. What falls in a day and a half may be a weekend.
        self.by = By::Whole;
        if evidence.is_none() {
            // ... and explains its part as well as the whole is explained, or it has misunderstood it.
            let settled = self.fine.settled().filter(|track| track.is_old() && track.explains() > self.fine.explains());
            evidence = settled.and_then(|track| self.evidence(track));
            self.by = By::Settled;
        }
        if evidence.is_none() && (last || self.evident.is_some() || now_h > LOOK_BACK_GROWTH * self.looked_back_h) {
            self.looked_back_h = now_h;
            evidence = self.fine.looked_back().and_then(|track| self.evidence(track));
            self.by = By::LookingBack;
            // What comes and goes with the load hides what is left beneath it.
            if evidence.is_none() && self.fine.has_settled() {
                let worked = self.worked(GOES_BY_REQUESTS).filter(|track| track.is_old() && track.goes_on_as_claimed());
                evidence = worked.and_then(|track| self.evidence(track)).filter(|(side, _)| *side > 0.0);
                self.by = By::Worked;
            }
        }
        // What is taken back again and again hides what its troughs tell.
        if evidence.is_none() {
            evidence = self.fine.on_floors().and_then(|track| self.evidence(track));
            self.by = By::Floors;
        }
        if let Some((side, doubt)) = evidence
            && self.by != By::Worked
        {
            evidence = self.by_requests(side, doubt);
        }
        let Some((side, doubt)) = evidence else {
            (self.evident, self.by) = (None, By::Whole);
            // What nobody asks again is not held until the next judgement.
            self.fine.forget();
            return false;
        };
        let since = match self.evident {
            Some((since, before)) if before * side > 0.0 => since,
            _ => now_h,
        };
        self.evident = Some((since, side));
        if last {
            return true;
        }
        // What is beyond doubt need not stand as long.
        let stands_h = if doubt < BEYOND_DOUBT { STANDS_BEYOND_DOUBT_H } else { STANDS_H };
        now_h - since >= stands_h.max(STANDS_SHARE * now_h)
    }

    /// Which way a drift goes that would ring, and what doubt is left of it.
    fn evidence(&self, track: &Track) -> Option<(f64, f64)> {
        let now_h = track.regression.now_h;
        let (side, doubt) = doubt(track);
        let last = track.at_the_end();
        let most = if last { DOUBT_AT_THE_END } else { DOUBT_GONE };
        if doubt > most {
            return None;
        }
        let left = match track.shown() {
            // However little doubt is left, to a figure's last digit.
            Shown::No => return None,
            Shown::Yes | Shown::ToleranceGone | Shown::Steep if side > 0.0 && self.fine.kept.refills() => return None,
            Shown::Stepped if last => most,
            Shown::Stepped => DOUBT_STEPPED,
            Shown::Steep => most,
            Shown::ToleranceGone if now_h > FIRST_H => most,
            Shown::Yes | Shown::ToleranceGone => DOUBT,
        };
        let rings = doubt <= left / f64::from(self.params.series_count.max(1)).sqrt();
        rings.then_some((side, doubt))
    }

    /// What the finding is read off.
    fn judged(&self) -> &Track {
        let judged = match self.by {
            By::Whole => self.clearer().or_else(|| self.worked(0.5)),
            By::Settled => {
                let settled = self.fine.settled();
                let better = |worked: &&Track| settled.is_none_or(|settled| worked.explains() > settled.explains());
                self.worked(0.5).filter(better).or(settled)
            }
            By::Worked => self.worked(0.5),
            By::LookingBack => self.fine.looked_back(),
            By::Floors => self.fine.on_floors(),
        };
        judged.unwrap_or(&self.fine)
    }

    /// The run as it is seen where memory goes by requests, if that is likelier than so much.
    fn worked(&self, likely: f64) -> Option<&Track> {
        self.fine.worked().filter(|(_, probability)| *probability > likely).map(|(track, _)| track)
    }

    /// What is left of evidence if memory may go by requests: where there is little doubt either way it stands, and where that is likelier, the run as it is
    /// seen there must ring by itself.
    fn by_requests(&mut self, side: f64, doubt: f64) -> Option<(f64, f64)> {
        let part = match self.by {
            By::Whole | By::Worked => None,
            By::Settled => self.fine.settled(),
            By::LookingBack => self.fine.looked_back(),
            By::Floors => return Some((side, doubt)),
        };
        // What is explained better in another way has not misunderstood the load.
        let better = |worked: &Track| part.is_none_or(|part| worked.explains() > part.explains());
        let Some((worked, probability)) = self.fine.worked().filter(|(worked, _)| better(worked)) else {
            return Some((side, doubt));
        };
        let steps = worked.stepping();
        let beyond = |x: f64| probability * beyond(worked, &steps, x * side) + (1.0 - probability);
        let (last, doubt) = (self.fine.at_the_end(), doubt * (1.0 - probability) + 1.0 - beyond(0.5));
        let (most, likely) = if last { (DOUBT_AT_THE_END, LIKELY_AT_THE_END) } else { (DOUBT_GONE, LIKELY) };
        let most = most / f64::from(self.params.series_count.max(1)).sqrt();
        // Of the steps that looking back has found the other account knows nothing.
        let either = self.by != By::LookingBack || probability < 0.5;
        if either && doubt < most && beyond(1.0) > likely {
            return Some((side, doubt));
        }
        let evidence = self.evidence(worked).filter(|(worked, _)| worked * side > 0.0 && probability > 0.5);
        self.by = By::Worked;
        evidence
    }

    /// What came after the start, where that is explained far better than the whole is, block for block: then no shape of a start is that of
    /// this one, and what it leaves went into the noise.
    fn clearer(&self) -> Option<&Track> {
        let settled = self.fine.settled()?;
        // Of fewer blocks each is explained better by itself: the noise's variance is as free.
        let fewer = 0.5 * (self.fine.regression.blocks as f64 / settled.regression.blocks.max(1) as f64).ln();
        let whole = self.worked(0.5).unwrap_or(&self.fine);
        if settled.explains() < whole.explains() + CLEARER + fewer {
            return None;
        }
        // What set in later the start did not hide.
        let late = self.fine.claim().is_some_and(|claim| claim.onset_h > 0.0);
        (!late && self.fine.stepping().probability < 0.5).then_some(settled)
    }

    /// Posterior probability that the drift is less than half the tolerance after all; 1 while it is not likely beyond the tolerance itself. The alarm rings when this is small and stays so.
    #[must_use]
    pub fn doubt(&self) -> f64 {
        doubt(&self.fine).1
    }
}

/// Posterior probability left for a drift of less than half the tolerance when the alarm rings. Looking all the time is priced in:
/// on simulated series watched throughout, these values ring falsely in about one in a hundred: where growth creeps, ...
const DOUBT: f64 = 0.05;
/// ... where all rests on steps: no rival was weighed against them but arenas, ...
const DOUBT_STEPPED: f64 = 0.02;
/// ... where much of the tolerance is gone for sure: waiting costs more than asking, but for the first hour, when any start is steep.
const DOUBT_GONE: f64 = 0.1;
/// ... and at the end of the horizon, there and where all rests on steps.
const DOUBT_AT_THE_END: f64 = 0.2;
/// How long the first hour is.
const FIRST_H: f64 = 1.0;
/// Probability that the drift exceeds the tolerance itself that an alarm needs.
const LIKELY: f64 = 0.85;
/// ... and at the end of the horizon, when it is not to be had any surer.
const LIKELY_AT_THE_END: f64 = 0.5;
/// Hours for which the evidence must stand before the alarm rings ...
const STANDS_H: f64 = 0.1;
/// ... or, where the doubt is less than this ...
const BEYOND_DOUBT: f64 = 1e-3;
/// ... for so long ...
const STANDS_BEYOND_DOUBT_H: f64 = 0.04;
/// ... and the same as a share of the run so far.
const STANDS_SHARE: f64 = 0.01;
/// What comes after the start is what is told where its likeliest account is better by this much a block, in the mean (natural logarithm).
const CLEARER: f64 = 0.7;
/// From this probability on memory goes by requests without a doubt: what is seen then may ring by itself.
const GOES_BY_REQUESTS: f64 = 0.95;
/// The run has to grow by this factor before it is looked back upon anew.
const LOOK_BACK_GROWTH: f64 = 1.04;

/// Which way the drift probably goes, and what doubt is left of that: see [`Detector::doubt`].
fn doubt(t: &Track) -> (f64, f64) {
    if t.regression.blocks < conclude::BLOCKS_MIN {
        return (0.0, 1.0);
    }
    let steps = t.stepping();
    let likely = if t.at_the_end() { LIKELY_AT_THE_END } else { LIKELY };
    for side in [1.0, -1.0] {
        let half = beyond(t, &steps, 0.5 * side);
        if half > 0.5 {
            return (side, if beyond(t, &steps, side) > likely { 1.0 - half } else { 1.0 });
        }
    }
    (0.0, 1.0)
}

/// P(drift > x) for positive `x`, P(drift < x) for negative: the steps are a leak or they are not, and add to what grows smoothly.
fn beyond(t: &Track, steps: &StepLeak, x: f64) -> f64 {
    let p = &t.posterior;
    let smooth = |x: f64, positive: bool| if positive { p.above(x) } else { p.below(x) };
    let without = smooth(x, x > 0.0);
    if steps.probability < 1e-4 {
        return without;
    }
    // What the steps are sure to add.
    let adds = steps.drift.signum() * (steps.drift.abs() - 2.0 * steps.sd).max(0.3 * steps.drift.abs());
    steps.probability * smooth(x - adds, x > 0.0) + (1.0 - steps.probability) * without
}

/// Ticks kept so that everything can be done over when a saw-tooth becomes known: eight hours.
const LOG: usize = 480;

/// The finding on a whole series at once: the same as pushing every point and looking once at the end.
#[must_use]
pub fn batch(points: &[Point], params: Params) -> Finding {
    let mut detector = Detector::new(params);
    for point in points {
        detector.push(*point);
    }
    detector.look()
}
