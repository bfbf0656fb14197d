//! One series: blocks, regression and posterior together, and the record of its steps.

use super::bank::{self, Noise, WARM, pair, warm_shape};
use super::beliefs::ln_grows;
use super::blocks::{Block, Blocker, FINE, Ruling};
use super::growth::{AS_CLAIMED, Claim, Shown, Still};
use super::kept::{Gained, Kept};
use super::load;
use super::mixture::{self, Part, Posterior};
use super::posterior::{self, Leak};
use super::regression::Regression;
use super::staircase;
use super::steps::{self, Step, StepLeak};
use super::ticks::Tick;
use std::collections::VecDeque;
use std::sync::OnceLock;

/// Steps remembered.
const STEPS: usize = 256;
/// Incarnations remembered.
const STARTS: usize = 256;
/// Blocks from which the later half of a run is looked at by itself.
const LATER_BLOCKS: u64 = 60;
/// Troughs of a slow saw-tooth from which they are looked at by themselves.
const FLOORS_MIN: usize = 8;
/// By which share of the horizon a run has settled: its starts are over, its arenas made.
const SETTLED: f64 = 0.25;
/// From which share of the horizon on what comes after that is judged by itself.
const SETTLED_FROM: f64 = 0.55;
/// By which share of that time it is judged as often as the whole run, and before that only when it has grown by such a factor.
const SETTLED_AHEAD: f64 = 0.9;
const IDLE_GROWTH: f64 = 1.08;
/// From this probability on steps leave no doubt by themselves ...
const STEPS_SURE: f64 = 0.98;
/// ... and from this one on at the end of the horizon, looking back.
const DECIDED: f64 = 0.8;
/// Of what steps are said to add, looking back, the series must lie so much above where it began.
const RISEN: f64 = 0.5;
/// What goes down in an incarnation's steps by more than this, tolerances, takes back what creeps up, looking back.
const TAKEN_BACK: f64 = 0.5;
/// ... and so do so many falls that together come to half of it.
const FALLS_MIN: usize = 5;
/// A leak in shifts must come to so much over the horizon, tolerances.
const SHIFTS_MIN: f64 = 0.8;
/// Prior odds that memory goes by requests where these come unevenly (natural logarithm), and what is negligible.
const LN_WORKED: f64 = -3.0;
const NEGLIGIBLE: f64 = 0.01;
/// By how much a run is usually explained better at most, where more kinds of noise are weighed (natural logarithm).
const FEW_NOISES: f64 = 5.0;
/// What is less likely by this much at first sight is not looked at twice (natural logarithm).
const HOPELESS: f64 = 8.0;
/// Looking back may explain a block worse by this much (natural logarithm).
const WORSE: f64 = 0.3;
/// The end of the horizon has come, as a share of it, ...
const FINAL: f64 = 0.96;
/// ... and so it has where nothing more is waited for.
const OVER: f64 = 0.995;
/// From this probability on a leak is known.
const KNOWN: f64 = 0.9;
/// The run has to grow by this factor before it is judged anew: half an hour at the end of two days. The evidence of one
/// per cent more data is not worth its cost.
const JUDGE_GROWTH: f64 = 1.015;

/// What lies so far beyond all that was seen, tolerances, has not been there before.
const NEW_LEVEL: f64 = 0.5;
/// A day, hours.
const DAY_H: f64 = 24.0;
/// How far the end of a run may be off the hour at which it began for its ends to compare, hours.
const DAY_OFF_H: f64 = 2.0;

/// A claim of less than this (5 MB in tolerances) is not held against rivals for the estimate's sake.
const DRIFT_MIN: f64 = 0.1;
/// By how much it must be likelier that there is a rival than that there is none for the estimate to be that beside rivals.
const LN_RIVAL: f64 = 2.0;

/// What is held of requests, tolerances.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// The most above the least.
    pub swing: f64,
    /// At the last block, above the least.
    pub now: f64,
}

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
    /// The blocks themselves, for a second opinion.
    pub kept: Kept,
    /// How long what was set aside took, hours.
    pub set_aside_h: f64,
    /// What the steps of this segment sum to.
    stepped: f64,
    horizon_h: f64,
    /// The last tick, hours: blocks of a slow saw-tooth come long after it.
    seen_h: f64,
    /// What is older is not judged, hours.
    from_h: f64,
    rulings: Vec<Ruling>,
    judged_blocks: u64,
    judged_h: f64,
    later: OnceLock<Option<Posterior>>,
    /// The troughs of a slow saw-tooth, when last judged, and the run of them alone.
    floors: Option<Vec<Block>>,
    on_floors: OnceLock<Option<Box<Track>>>,
    beside: OnceLock<Option<Vec<Part>>>,
    worked: OnceLock<Option<(Box<Track>, f64)>>,
    /// The run without its first quarter of a horizon, weighed by itself under fewer kinds of noise: what started, warmed up and made its
    /// arenas in those hours misleads it no more. There from the beginning, or its memory would look like growth.
    settled: Option<Box<Track>>,
    /// The run looked back upon: see [`looked_back`](Self::looked_back).
    back: OnceLock<Option<Box<Track>>>,
    /// Whether its steps were found looking back.
    looks_back: bool,
    /// Whether its blocks were another statistic of the same series once.
    changed: bool,
}

impl Track {
    /// Nothing seen.
    pub fn new(tolerance_bytes: f64, horizon_h: f64) -> Self {
        let settled = Track::since(SETTLED * horizon_h, tolerance_bytes, horizon_h, bank::few_noises());
        let settled = Some(Box::new(settled));
        Track { settled, ..Track::since(0.0, tolerance_bytes, horizon_h, bank::noises()) }
    }

    fn since(from_h: f64, tolerance_bytes: f64, horizon_h: f64, noises: Vec<Noise>) -> Self {
        Track {
            tolerance_bytes,
            blocker: Blocker::new(tolerance_bytes, FINE),
            regression: Regression::since(from_h, horizon_h, noises),
            posterior: Posterior::default(),
            steps: VecDeque::new(),
            starts_h: Vec::new(),
            kept: Kept::default(),
            set_aside_h: 0.0,
            stepped: 0.0,
            horizon_h,
            seen_h: 0.0,
            from_h,
            rulings: Vec::new(),
            judged_blocks: 0,
            judged_h: 0.0,
            later: OnceLock::new(),
            floors: None,
            on_floors: OnceLock::new(),
            beside: OnceLock::new(),
            worked: OnceLock::new(),
            settled: None,
            back: OnceLock::new(),
            looks_back: false,
            changed: false,
        }
    }

    /// A saw-tooth became known. If the ticks so far are at hand, they are to be pushed once more.
    pub fn begin_anew(&mut self, period_h: f64, whole: bool) {
        if whole {
            *self = Track::new(self.tolerance_bytes, self.horizon_h);
        } else {
            // Another statistic of the same series: its level is free once more.
            self.regression.step(f64::NAN);
            self.changed = true;
            if let Some(settled) = &mut self.settled {
                settled.regression.step(f64::NAN);
            }
        }
        self.blocker.set_period(period_h);
    }

    /// Takes a tick.
    pub fn push(&mut self, tick: Tick) {
        self.seen_h = tick.t_s / 3600.0;
        if let Some(settled) = &mut self.settled {
            settled.seen_h = self.seen_h;
        }
        self.blocker.push(tick, &mut self.rulings);
        for ruling in std::mem::take(&mut self.rulings) {
            self.apply(ruling);
        }
    }

    /// Weighs what has come in, if there is enough of it. True if there is something new.
    pub fn judge(&mut self) -> bool {
        let now_h = self.regression.now_h;
        // As long as nothing is asked of what comes after the start, it only needs to know its noise when an incarnation ends.
        let idle = self.from_h > 0.0 && now_h < SETTLED_AHEAD * SETTLED_FROM * self.horizon_h;
        let growth = if idle { IDLE_GROWTH } else { JUDGE_GROWTH };
        if self.judged_blocks == self.regression.blocks || now_h < growth * self.judged_h {
            return false;
        }
        self.judged_h = now_h;
        self.judged_blocks = self.regression.blocks;
        self.posterior = posterior::weigh(&mut self.regression, self.horizon_h);
        self.later = OnceLock::new();
        let enough = |floors: &Vec<Block>| floors.len() >= FLOORS_MIN && self.kept.spans(floors);
        self.floors = self.kept.floors().filter(enough);
        self.on_floors = OnceLock::new();
        self.beside = OnceLock::new();
        self.worked = OnceLock::new();
        self.back = OnceLock::new();
        if let Some(settled) = &mut self.settled {
            settled.judge();
        }
        true
    }

    /// Whether the series itself shows what the likeliest leak claims. Where the leak is one in steps, the steps are shown.
    pub fn shown(&self) -> Shown {
        let steps = self.stepping();
        let creeps = self.posterior.above(0.5).max(self.posterior.below(-0.5)) > 0.5;
        if steps.probability > 0.5 && !creeps {
            return Shown::Stepped;
        }
        // Steps that leave no doubt by themselves need no growth between them to be weighed against its rivals.
        let alone = self.stepping_alone().probability > STEPS_SURE && steps.drift.abs() - 2.0 * steps.sd > 1.0;
        // Looking back they are shown as they are claimed.
        let decided =
            alone || self.at_the_end() && steps.probability > DECIDED && steps.drift.abs() - 2.0 * steps.sd > 1.0;
        if decided && self.looks_back {
            // What steps up and creeps down again has grown by nothing.
            let said = steps.drift * (self.regression.now_h / self.horizon_h).min(1.0);
            let shown = self.kept.risen() * said.signum() > RISEN * said.abs();
            return if shown { Shown::Stepped } else { Shown::No };
        }
        let Some(claim) = self.claim() else { return Shown::Stepped };
        // What falls in steps is no part of what rises between them: a kernel that takes back what it let grow.
        if self.looks_back && claim.drift > 0.0 && (self.stepped < -TAKEN_BACK || self.is_taken_back(&claim)) {
            return Shown::No;
        }
        // What comes after the start is asked again.
        let again = self.from_h > 0.0;
        let shown = self.kept.shows(&claim, self.horizon_h, self.at_the_end(), alone, again);
        if shown != Shown::No {
            return shown;
        }
        // Hours of the day take two whole days, and the steps that looking back finds are edges of such hours.
        if again || self.looks_back {
            return Shown::No;
        }
        // ... and must themselves add up to what rings.
        let enough =
            |claim: &Claim| self.kept.claimed(claim).abs() * (self.horizon_h / self.regression.now_h) > SHIFTS_MIN;
        let in_shifts = self.kept.in_shifts(&claim, self.horizon_h).filter(enough);
        in_shifts.map_or(Shown::No, |claim| self.kept.shows(&claim, self.horizon_h, self.at_the_end(), alone, false))
    }

    /// Whether falls, again and again, take back most of what is claimed: a cache of pages, or a collector, whose teeth are small.
    fn is_taken_back(&self, claim: &Claim) -> bool {
        let falls = || self.steps.iter().map(|(_, size)| *size).filter(|size| *size < 0.0);
        falls().count() >= FALLS_MIN && -falls().sum::<f64>() > 0.5 * self.kept.claimed(claim)
    }

    /// The same run with its steps found anew, looking back, where they could decide: they are a leak, or the horizon is about to end.
    /// Worked out once a judgement, if anyone asks.
    pub fn looked_back(&self) -> Option<&Track> {
        let weigh = || {
            let rulings = staircase::rulings(&self.kept.without_visits());
            if !self.at_the_end() && !self.steps_decide(&rulings) {
                return None;
            }
            let begin = || Track {
                looks_back: true,
                seen_h: self.seen_h,
                ..Track::since(self.from_h, self.tolerance_bytes, self.horizon_h, bank::few_noises())
            };
            let mut track = begin();
            rulings.iter().for_each(|ruling| track.apply(*ruling));
            track.judge();
            // Priors are as wide as they are beside the noise, and how much noise there is nobody knew until now.
            let variance = std::mem::take(&mut track.regression.variance);
            track = begin();
            track.regression.variance = variance;
            rulings.into_iter().for_each(|ruling| track.apply(ruling));
            track.judge();
            // Steps found anew that explain less than those which were seen at the time are the wrong ones.
            (track.explains() > self.explains() - WORSE).then(|| Box::new(track))
        };
        self.back.get_or_init(weigh).as_deref()
    }

    /// The same run as it is seen where memory goes by requests, if these come unevenly: what starts is filled by them, and what is held of them
    /// comes and goes as they do. With the probability that it is so, unless that is negligible. Worked out once a judgement, if anyone asks.
    pub fn worked(&self) -> Option<(&Track, f64)> {
        self.worked.get_or_init(|| self.weigh_worked()).as_ref().map(|(track, probability)| (&**track, *probability))
    }

    fn weigh_worked(&self) -> Option<(Box<Track>, f64)> {
        // Of what was judged: the posterior knows no more.
        let blocks = &self.kept.blocks[..self.kept.blocks.partition_point(|b| b.t_h <= self.judged_h)];
        let requests = load::uneven(blocks).filter(|_| !self.changed)?;
        let began_h = |first: &Block| {
            let began = self.starts_h.iter().rev().find(|start| **start <= first.t_h);
            began.copied().unwrap_or(self.from_h).min(first.from_h)
        };
        let ln = |track: &Track| track.posterior.ln_evidence;
        let few = bank::few_noises;
        let by_time = self.seen_as(blocks, few(), None, true);
        let see = |way: load::Way, requests: &[f64]| {
            let seen = way.see(blocks, requests, &began_h)?;
            Some((way, self.seen_as(&seen, few(), None, true), seen))
        };
        let ways: Vec<_> = load::Way::all().filter_map(|way| see(way, &requests)).collect();
        let of_ways = mixture::ln_mean(ways.iter().map(|(_, track, _)| ln(track)));
        if LN_WORKED + of_ways < ln(&by_time) - HOPELESS {
            return None;
        }
        let (way, best, seen) = ways.into_iter().max_by(|a, b| ln(&a.1).total_cmp(&ln(&b.1)))?;
        // Priors are as wide as they are beside the noise, and how much noise there is nobody knew until now.
        let again = |track: &Track, blocks: &[Block], steps: bool| {
            self.seen_as(blocks, few(), Some(track.regression.variance.clone()), steps)
        };
        // Edges of the load are taken for steps.
        let (stepped, smooth) = (again(&best, &seen, true), again(&best, &seen, false));
        let of_worked = of_ways - ln(&best) + mixture::ln_mean([ln(&stepped), ln(&smooth)].into_iter());
        // What a load that never changes explains as well, requests do not explain: each incarnation starts with what is held of it.
        let hours: Vec<f64> = blocks.iter().map(|b| b.t_h).collect();
        let even = see(way, &hours).map_or(f64::NEG_INFINITY, |(_, track, seen)| ln(&again(&track, &seen, true)));
        // As the run came in more kinds of noise were weighed; where one of them is its own, the few explain nothing. Of a run whose blocks
        // were thinned since, these are weighed so once more.
        let whole = blocks.len() as u64 == self.judged_blocks;
        let came_in = if whole { ln(self) } else { ln(&self.seen_as(blocks, bank::noises(), None, true)) } - FEW_NOISES;
        let otherwise = ln(&again(&by_time, blocks, true)).max(even).max(came_in);
        let probability = 1.0 / (1.0 + (otherwise - of_worked - LN_WORKED).exp());
        let worked = if ln(&smooth) > ln(&stepped) { smooth } else { stepped };
        (probability > NEGLIGIBLE).then(|| (Box::new(worked), probability))
    }

    /// The same run with these blocks in place of its own, and with its steps or without, under these kinds of noise; `variance` of each, where that is
    /// known.
    fn seen_as(&self, blocks: &[Block], noises: Vec<Noise>, variance: Option<Vec<f64>>, steps: bool) -> Track {
        let mut track =
            Track { seen_h: self.seen_h, ..Track::since(self.from_h, self.tolerance_bytes, self.horizon_h, noises) };
        if let Some(variance) = variance {
            track.regression.variance = variance;
        }
        let mut at = 0;
        for run in blocks.chunk_by(|a, b| a.segment == b.segment) {
            if at > 0 {
                let began = self.starts_h.iter().rev().find(|start| **start <= run[0].t_h);
                track.apply(Ruling::Restart(began.copied().unwrap_or(run[0].from_h)));
            }
            let mut stepped = 0.0;
            for b in run {
                let now = self.kept.stepped[at];
                if now != stepped && steps {
                    track.apply(Ruling::Level { t_h: b.from_h, size: now - stepped });
                }
                stepped = now;
                track.apply(Ruling::Use(*b));
                at += 1;
            }
        }
        if steps {
            track.steps.clone_from(&self.steps);
        }
        track.judge();
        track
    }

    /// How well the likeliest account explains a block, in the mean (natural logarithm).
    pub fn explains(&self) -> f64 {
        let top = self.posterior.top.map_or(f64::NEG_INFINITY, |top| top.ln_peak);
        top / self.regression.blocks.max(1) as f64
    }

    /// Gives back what [`looked_back`](Self::looked_back) and [`worked`](Self::worked) have worked out.
    pub fn forget(&mut self) {
        self.back = OnceLock::new();
        self.worked = OnceLock::new();
    }

    /// Whether the steps that were found looking back leave no doubt by themselves.
    fn steps_decide(&self, rulings: &[Ruling]) -> bool {
        let steps = rulings.iter().filter_map(|ruling| match ruling {
            Ruling::Step { t_h, size } => Some((*t_h, *size)),
            _ => None,
        });
        let now_h = self.regression.now_h;
        let steps = steps::judge_back(&steps.collect(), &self.starts_h, self.from_h, now_h, self.horizon_h);
        steps.probability > STEPS_SURE && steps.drift > 1.0
    }

    /// What the later half of the run says by itself, where it does not show the growth that the whole run is said to have: a cache
    /// that was filled is flat now, however it got there. `None` where growth goes on, and where there is too little to tell.
    /// Worked out once a judgement, if anyone asks.
    pub fn later(&self) -> Option<&Posterior> {
        self.later.get_or_init(|| self.weigh_later_half()).as_ref()
    }

    /// What the steps of that half sum to, at their pace over the horizon, tolerances: [`later`](Self::later) does not see them.
    pub fn stepped_later(&self) -> f64 {
        let half_h = 0.5 * self.regression.now_h;
        let sum: f64 = self.steps.iter().filter(|(t_h, _)| *t_h >= half_h).map(|(_, size)| size).sum();
        sum * self.horizon_h / half_h.max(f64::MIN_POSITIVE)
    }

    /// Whether steps since the run has settled have brought it where it had not been before, by the whole tolerance. Of a fall what is left counts beside
    /// the rise that it may take back, which may have come before, in the same incarnation.
    pub fn stepped_beyond(&self) -> bool {
        let late = steps::brought(&self.steps, SETTLED * self.horizon_h);
        let all = steps::brought(&self.steps, self.starts_h.last().copied().unwrap_or(0.0));
        let stepped = if late < 0.0 && all.abs() < -late { all } else { late };
        stepped.abs() >= 1.0 && !(stepped > 0.0 && self.kept.has_been_here())
    }

    /// What was gained, end against beginning, but for the start and for steps that are no leak; see [`Kept::gained`].
    pub fn gained(&self) -> Option<Gained> {
        let h = self.posterior.best.or(self.posterior.top)?;
        let slowest = pair(h.warm).map_or(h.warm, |[_, slow]| slow);
        let started = |t_h: f64| {
            let since_h = self.kept.age_h(t_h, self.regression.segment_start_h());
            if slowest < WARM { h.warm_size * warm_shape(slowest, since_h) } else { 0.0 }
        };
        self.kept.gained(&started, self.stepping_alone().others, self.horizon_h)
    }

    /// Whether the likeliest account has a day, and the run does not end at the hour at which it began: then its ends do not compare.
    pub fn is_within_a_day(&self) -> bool {
        let days = self.regression.now_h / DAY_H;
        self.posterior.best.is_some_and(|h| h.comes_round) && (days - days.round()).abs() * DAY_H > DAY_OFF_H
    }

    /// What grows beside a rival, where one explains the series better than a leak does. Worked out once a judgement, if anyone asks.
    pub fn beside_a_rival(&self) -> Option<&[Part]> {
        let weigh = || {
            let claim = self.claim().filter(|claim| claim.drift.abs() > DRIFT_MIN)?;
            let weighed = self.kept.weigh(&claim, self.horizon_h)?;
            (weighed.ln_rival > LN_RIVAL && weighed.ln_odds < 0.0).then_some(weighed.drift)
        };
        self.beside.get_or_init(weigh).as_deref()
    }

    fn weigh_later_half(&self) -> Option<Posterior> {
        if self.regression.blocks < LATER_BLOCKS || !self.claim().is_some_and(|claim| self.kept.faded(&claim)) {
            return None;
        }
        let mut r = Regression::new(self.horizon_h, bank::few_noises());
        let (mut segment, mut from_h) = (None, None);
        for b in self.kept.later_half() {
            let since_h = *from_h.get_or_insert(b.from_h);
            if segment.replace(b.segment).is_some_and(|segment| segment != b.segment) {
                r.restart(b.from_h - since_h);
            }
            r.push(&Block { t_h: b.t_h - since_h, from_h: b.from_h - since_h, to_h: b.to_h - since_h, ..b });
        }
        Some(posterior::weigh(&mut r, self.horizon_h)).filter(|p| !p.flat.is_empty())
    }

    /// The troughs of a slow saw-tooth alone, where it is one and they tell of most of the run: the blocks themselves go up and down by more than
    /// they tell. Of the time of the last judgement; worked out if anyone asks.
    pub fn on_floors(&self) -> Option<&Track> {
        let weigh = || {
            let floors = self.floors.as_ref()?;
            let mut track = Track {
                seen_h: self.seen_h,
                ..Track::since(0.0, self.tolerance_bytes, self.horizon_h, bank::few_noises())
            };
            for (i, run) in floors.chunk_by(|a, b| a.segment == b.segment).enumerate() {
                if i > 0 {
                    track.apply(Ruling::Restart(run[0].from_h));
                }
                run.iter().for_each(|b| track.apply(Ruling::Use(*b)));
            }
            track.judge();
            (!track.posterior.flat.is_empty()).then(|| Box::new(track))
        };
        self.on_floors.get_or_init(weigh).as_deref()
    }

    /// Whether the later half of what is claimed is there as it is claimed.
    pub fn goes_on_as_claimed(&self) -> bool {
        let shares = self.claim().and_then(|claim| self.kept.shares(&claim));
        shares.is_some_and(|shares| AS_CLAIMED.contains(&shares.lately))
    }

    /// Whether it is the run as it is seen where memory goes by requests.
    pub fn goes_by_requests(&self) -> bool {
        self.regression.worked
    }

    /// What comes and goes with the hours of the day, from its least to its most, tolerances, where by the likeliest account there is any and a day is over.
    pub fn day_swing(&self) -> Option<f64> {
        let top = self.posterior.top.filter(|top| top.comes_round)?;
        (self.regression.now_h >= DAY_H).then_some(2.0 * top.day_size)
    }

    /// Hours of work of the last incarnation, where memory goes by requests.
    pub fn worked_h(&self) -> Option<f64> {
        self.kept.blocks.last()?.worked.map(|worked| worked.age_h)
    }

    /// What comes and goes with the requests, tolerances, where memory goes by them and by the likeliest account there is any.
    pub fn held(&self) -> Option<Held> {
        let [short, long] = self.posterior.top?.held;
        let held = |b: &Block| b.worked.map(|worked| short * worked.held[0] + long * worked.held[1]);
        let all = || self.kept.blocks.iter().filter_map(held);
        let (least, most) = all().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, m), x| (l.min(x), m.max(x)));
        // What falls as the load rises is not held of requests.
        (short + long > 0.0 && most > least)
            .then(|| Held { swing: most - least, now: all().next_back().unwrap_or(least) - least })
    }

    /// What the likeliest leak claims.
    pub fn claim(&self) -> Option<Claim> {
        let h = self.posterior.best?;
        let (onset_h, by_requests) = match h.leak {
            Leak::None => return None,
            Leak::Requests => (0.0, true),
            Leak::Since(k) => (*self.regression.onsets_h.get(k)?, false),
        };
        let per_unit = h.mean / h.factor.max(f64::MIN_POSITIVE);
        let rate = if by_requests { per_unit } else { per_unit / self.horizon_h };
        let sure = (1.0 - 2.0 * h.variance.sqrt() / h.mean.abs().max(f64::MIN_POSITIVE)).max(0.0);
        let (noise, kind) = (h.noise_variance.sqrt(), self.regression.filters[h.noise].noise);
        let ln_start = ln_grows(&h);
        Some(Claim {
            onset_h,
            rate,
            sure,
            by_requests,
            shift: None,
            warm: h.warm,
            ln_start,
            day: h.day,
            comes_round: h.comes_round,
            noise,
            kind,
            drift: h.mean,
            still: self.posterior.still.map(|s| Still {
                noise: s.noise_variance.sqrt(),
                kind: self.regression.filters[s.noise].noise,
                warm: s.warm,
            }),
        })
    }

    /// Whether the horizon is about to end: the looks then decide, with all the data that there will be. What doubt is left is what is left for good.
    pub fn at_the_end(&self) -> bool {
        (FINAL..1.02).contains(&(self.seen_h / self.horizon_h))
    }

    /// Whether it is as good as over.
    pub fn is_over(&self) -> bool {
        self.seen_h >= OVER * self.horizon_h
    }

    /// What the steps amount to, at the end of the horizon beside what leaks between them.
    pub fn stepping(&self) -> StepLeak {
        let steps = self.stepping_alone();
        let p = &self.posterior;
        let leaks = if steps.drift > 0.0 { p.above(0.5) } else { p.below(-0.5) };
        if self.seen_h < FINAL * self.horizon_h || leaks < KNOWN {
            return steps;
        }
        let beside = steps.beside_leak();
        if beside.probability > 0.5 { beside } else { steps }
    }

    fn stepping_alone(&self) -> StepLeak {
        let judge = if self.looks_back { steps::judge_back } else { steps::judge };
        judge(&self.steps, &self.starts_h, self.from_h, self.regression.now_h, self.horizon_h)
    }

    /// How far the last minutes lie from where the series was, tolerances, if that is beyond the tolerance and beyond all that there was before.
    pub fn unsettled(&self) -> Option<f64> {
        let (least, most) = self.kept.range();
        let anew = |(off, y): &(f64, f64)| off.abs() > 1.0 && (*y > most + NEW_LEVEL || *y < least - NEW_LEVEL);
        self.blocker.unsettled().filter(anew).map(|(off, _)| off)
    }

    /// Whether it tells of the run from its beginning.
    pub fn is_whole(&self) -> bool {
        self.from_h == 0.0
    }

    /// Median of the last blocks, bytes.
    pub fn level_bytes(&self) -> Option<f64> {
        self.blocker.level_bytes()
    }

    /// The run since it had settled, once that is enough to judge by.
    pub fn settled(&self) -> Option<&Track> {
        self.settled.as_deref().filter(|settled| settled.regression.now_h > SETTLED_FROM * self.horizon_h)
    }

    /// Whether the run is as old as that.
    pub fn has_settled(&self) -> bool {
        self.regression.now_h >= SETTLED * self.horizon_h
    }

    /// Whether the likeliest leak has gone on for as long as a run takes to settle: what set in later, the start did not hide.
    pub fn is_old(&self) -> bool {
        self.claim().is_some_and(|claim| self.regression.now_h - claim.onset_h >= SETTLED * self.horizon_h)
    }

    fn apply(&mut self, ruling: Ruling) {
        if let Some(settled) = &mut self.settled {
            settled.apply(ruling);
        }
        match ruling {
            _ if ruling.since_h() < self.from_h => {}
            Ruling::Step { t_h, size } => {
                if self.steps.len() == STEPS {
                    self.steps.pop_front();
                }
                self.steps.push_back((t_h, size));
                self.stepped += self.regression.step(size);
            }
            Ruling::Level { size, .. } => self.stepped += self.regression.step(size),
            Ruling::Restart(t_h) => {
                if self.starts_h.len() == STARTS {
                    self.starts_h.remove(0);
                }
                self.starts_h.push(t_h);
                self.stepped = 0.0;
                self.regression.restart(t_h);
            }
            Ruling::Use(block) => {
                self.regression.push(&block);
                self.kept.push(block, self.stepped);
            }
            Ruling::Drop(block) => {
                self.set_aside_h += block.to_h - block.from_h;
                self.kept.set_aside(block, self.stepped);
            }
        }
    }
}
