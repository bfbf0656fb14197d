//! What else might it be? The likeliest leak against all that rises like one for hours and is none.
//!
//! The model of `posterior` knows an incarnation's own start, but no start in the middle of it, no first busy day, no growth that flattens
//! ever more slowly, no arenas too small to be seen as steps: too many hypotheses for every look. So the likeliest leak alone is held
//! against them, when an alarm is near. Each rival may stand beside a leak too: what counts is whether, whichever rival there is, there
//! is a leak (as claimed, or steady from the start) or a drift that would be tolerated. Priors are those of leaks, and of each rival.

use super::bank::pair;
use super::beliefs::{
    P_ARENAS, P_BUSY_DAY, P_EDGE, P_FILLING, P_FOLLOWS, P_FROM_START, P_LEAK, P_RAMP, P_SECOND_START, P_SHIFTS, P_SLOW,
    P_TWO_PARTS, TOLERATED_SD, odds_of_sign, usual_filling,
};
use super::blocks::Block;
use super::design::{Column, Design, Extra, Place, Products};
use super::growth::Claim;
use super::load::{Load, Work};
use super::mixture::Part;
use super::shifts::Shift;
use super::special::normal_above;

/// A rival: how it goes from its onset.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// A second warm-up of this time constant, hours.
    WarmUp(f64),
    /// A busy day that rises for so many hours, and falls for as many.
    Day(f64),
    /// The edge of a working day, of this width, hours: the other one comes in the evening.
    Edge(f64),
    /// The same as a straight ramp of so many hours.
    Ramp(f64),
    /// A stretched exponential: time constant, hours, and exponent.
    Stretched(f64, f64),
    /// A logarithm with this knee, hours.
    Log(f64),
    /// As the load goes: a place among those that are weighed.
    Load(usize),
}

impl Shape {
    fn at(self, since_h: f64) -> f64 {
        let x = since_h.max(0.0);
        match self {
            Shape::WarmUp(tau) => 1.0 - (-x / tau).exp(),
            Shape::Day(rise) => 0.5 - 0.5 * (std::f64::consts::PI * (x / rise).min(2.0)).cos(),
            Shape::Edge(width) => 1.0 / (1.0 + (-since_h / width).exp()),
            Shape::Ramp(long) => (x / long).min(1.0),
            Shape::Stretched(tau, power) => 1.0 - (-(x / tau).powf(power)).exp(),
            Shape::Log(knee) => (1.0 + x / knee).ln(),
            // It has no onset: see [`Weighed::at`].
            Shape::Load(_) => 0.0,
        }
    }
}

/// Time constants of second warm-ups, hours.
const TAUS_H: [f64; 5] = [0.35, 0.7, 1.3, 2.2, 3.5];
/// Hours for which the memory of a busy day rises.
const RISES_H: [f64; 4] = [6.0, 9.0, 12.0, 15.0];
/// Widths of edges, hours.
const EDGES_H: [f64; 3] = [0.25, 0.5, 0.9];
/// Lengths of ramps, hours, and what the best of them is multiplied by where it is looked for once more.
const RAMPS_H: [f64; 4] = [1.1, 1.9, 3.0, 4.2];
const RAMPS_BETWEEN: [f64; 3] = [0.85, 1.0, 1.18];
/// Size of a ramp, usual and largest.
const RAMP: (f64, f64) = (1.0, 1.65);
/// How long requests take to fill a cache at a steady rate, hours of work.
const FILLS_H: [f64; 8] = [0.7, 1.1, 1.6, 2.2, 3.0, 4.0, 5.2, 6.5];
/// Exponents, time constants and knees of growth that flattens.
const POWERS: [f64; 3] = [0.45, 0.6, 0.8];
const SLOW_TAUS_H: [f64; 5] = [0.5, 1.0, 2.0, 4.0, 8.0];
const KNEES_H: [f64; 4] = [0.05, 0.2, 0.6, 2.0];
/// For how long memory that follows the load is held, hours, and whether it begins with nothing.
const HELD_H: [(f64, bool); 4] = [(0.15, false), (0.15, true), (0.6, false), (0.6, true)];
/// Onsets that are tried, evenly over an incarnation.
const ONSETS: usize = 20;
/// Where the best is looked for once more, as parts of their distance.
const BETWEEN: [f64; 6] = [-0.6, -0.4, -0.2, 0.2, 0.4, 0.6];
/// A day that began longer ago shows its evening.
const DAY_H: f64 = 16.0;
/// Usual size (standard deviation) and largest size, tolerances: of starts ...
const START: (f64, f64) = (4.0, 6.5);
/// ... of what begins with an incarnation ...
const FIRST_START: (f64, f64) = (6.0, 12.0);
/// ... and of days.
const BUSY: (f64, f64) = (1.0, 1.8);
/// Of a logarithm, what the second half of the horizon adds.
const AHEAD: (f64, f64) = (0.2, 0.25);
/// How sharply the largest size ends, as a share of it.
const SIZE_EDGE: f64 = 0.08;
/// Incarnations, the last ones, in which rivals are looked for.
const INCARNATIONS: usize = 2;
/// A run younger than this may have a first start that the claim took for growth, hours; its time constants.
const YOUNG_H: f64 = 12.0;
const FIRST_STARTS_H: [f64; 2] = [0.8, 1.7];
/// The second parts of starts that are in two, where there are several incarnations.
const PARTS: [Shape; 6] =
    [Shape::WarmUp(0.8), Shape::WarmUp(1.7), Shape::WarmUp(3.5), Shape::Ramp(1.7), Shape::Ramp(3.4), Shape::Ramp(6.0)];
/// A day cycle younger than this may rise by itself, hours.
const DAY_KNOWN_H: f64 = 36.0;
/// Growth less than this under a rival is no leak, tolerances.
const LEAK_MIN: f64 = 0.5;
/// Places where steps may be, steps at most, their usual size, and by when an allocator has made its arenas, hours.
const PLACES: usize = 40;
const ARENAS: usize = 5;
const ARENA_SD: f64 = 0.8;
const ARENAS_UNTIL_H: f64 = 14.0;

/// A sum of exponentials, as its logarithm.
#[derive(Debug, Clone, Copy)]
struct LnSum(f64);

impl LnSum {
    fn add(&mut self, ln: f64) {
        let top = self.0.max(ln);
        if top > f64::NEG_INFINITY {
            self.0 = top + ((self.0 - top).exp() + (ln - top).exp()).ln();
        }
    }
}

/// What grows beside a rival: column, standard deviation of its prior (tolerances), prior, and whether that is a leak.
struct Growth {
    column: Column,
    sd: f64,
    prior: f64,
    leaks: bool,
}

/// What a leak and its rivals come to.
#[derive(Debug, Clone)]
pub struct Weighing {
    /// How much likelier a leak is than none, whichever rival there is beside it (natural logarithm, priors included).
    pub ln_odds: f64,
    /// How much likelier it is that there is a rival than that there is none.
    pub ln_rival: f64,
    /// The drift, whichever rival there is.
    pub drift: Vec<Part>,
}

/// Weighs the claim against all its rivals. `None` where nothing is claimed.
pub fn weigh(
    blocks: &[Block],
    stepped: &[f64],
    claim: &Claim,
    horizon_h: f64,
    grown: &dyn Fn(&Block) -> f64,
) -> Option<Weighing> {
    blocks.last().filter(|_| claim.drift != 0.0)?;
    let late = claim.onset_h > 0.0;
    let leak = P_LEAK * odds_of_sign(claim.rate);
    let sd = 3.0_f64.hypot(claim.drift);
    // A late onset is one of the two dozen of its grid.
    let of_shift = P_SHIFTS / Shift::COUNT as f64;
    let claimed = match claim.shift {
        Some(_) => leak * of_shift,
        None if late => leak * (1.0 - P_FROM_START) / 24.0,
        None => leak * P_FROM_START,
    } * claim.ln_start.exp();
    let mut growths = vec![
        Growth { column: Column::Steady, sd: TOLERATED_SD, prior: 1.0 - P_LEAK, leaks: false },
        Growth { column: Column::Claimed, sd, prior: claimed, leaks: true },
    ];
    if claim.shift.is_some() {
        let prior = (1.0 - P_LEAK) * of_shift;
        growths.push(Growth { column: Column::Claimed, sd: TOLERATED_SD, prior, leaks: false });
    }
    if late || claim.by_requests || claim.shift.is_some() {
        growths.push(Growth { column: Column::Steady, sd, prior: leak * P_FROM_START, leaks: true });
    }
    let mut weighed = Weighed {
        leak: LnSum(f64::NEG_INFINITY),
        other: LnSum(f64::NEG_INFINITY),
        claim,
        growths,
        loads: HELD_H.iter().filter_map(|(held_h, anew)| Load::of(blocks, *held_h, *anew)).collect(),
        work: if claim.by_requests { Work::of(blocks) } else { None },
        parts: Vec::new(),
        alone: f64::NEG_INFINITY,
        beside: None,
    };
    let run = Run { blocks, stepped, horizon_h, grown };
    weighed.under(claim, &run);
    // Noise that suits a leak may be too short for what is none: then its growth is noise. So both accounts of the noise are heard.
    if let Some(still) = claim.still.filter(|still| still.kind != claim.kind && weighed.odds() > 0.0) {
        weighed.under(&Claim { noise: still.noise, kind: still.kind, warm: still.warm, ..*claim }, &run);
    }
    Some(weighed.come_to())
}

/// A rival: how it goes, from when on (hours) and in which incarnations.
#[derive(Debug, Clone, Copy)]
struct Rival {
    place: Place,
    onset_h: f64,
    shape: Shape,
    /// Whether its time is that of requests.
    worked: bool,
}

impl Rival {
    fn at(&self, t_h: f64, loads: &[Load], work: Option<&Work>) -> f64 {
        match (self.shape, work.filter(|_| self.worked)) {
            (Shape::Load(i), _) => loads[i].at(t_h),
            (shape, Some(work)) => shape.at(work.at(t_h) - self.onset_h),
            (shape, None) => shape.at(t_h - self.onset_h),
        }
    }
}

/// The rival that stands best beside a leak.
#[derive(Debug, Clone, Copy)]
struct Beside {
    rival: Rival,
    sd: f64,
    ln_prior: f64,
    /// By how much the leak is likelier with it (natural logarithm).
    gain: f64,
    ln: f64,
}

/// What is weighed.
struct Run<'a> {
    blocks: &'a [Block],
    stepped: &'a [f64],
    horizon_h: f64,
    /// What the claim says has leaked by a block.
    grown: &'a dyn Fn(&Block) -> f64,
}

impl Run<'_> {
    fn design(&self, claim: &Claim, extra: Option<Extra>) -> Design {
        Design::new(self.blocks, self.stepped, claim, extra, self.horizon_h, self.grown)
    }
}

/// The logarithm of a hypothesis' weight, whether it has a rival in it, and the drift that it says, with its standard deviation.
#[derive(Debug, Clone, Copy)]
struct Case {
    ln: f64,
    rival: bool,
    drift: (f64, f64),
}

struct Weighed<'a> {
    leak: LnSum,
    other: LnSum,
    claim: &'a Claim,
    growths: Vec<Growth>,
    /// The load, where requests tell it.
    loads: Vec<Load>,
    /// Time as requests measure it, where the claim is one by requests.
    work: Option<Work>,
    /// Each hypothesis.
    parts: Vec<Case>,
    /// Of a leak without a rival the likeliest.
    alone: f64,
    beside: Option<Beside>,
}

impl Weighed<'_> {
    /// All that is weighed under the claim's noise, and beside its start.
    fn under(&mut self, claim: &Claim, run: &Run) {
        let horizon_h = run.horizon_h;
        let now_h = run.blocks.last().map_or(0.0, |b| b.t_h);
        let late = claim.onset_h > 0.0;
        let design = run.design(claim, None);
        let young_day = claim.comes_round && now_h < DAY_KNOWN_H;
        self.without_rival(&design, young_day, 0.0, false);
        let ln_prior = (P_FOLLOWS / self.loads.len().max(1) as f64).ln();
        for i in 0..self.loads.len() {
            let rival = Rival { place: Place::All, onset_h: 0.0, shape: Shape::Load(i), worked: false };
            self.rival(&design, rival, BUSY, ln_prior);
        }
        // The claim may have taken a first start for growth: then the rival is a second one.
        if !late && pair(claim.warm).is_none() && now_h < YOUNG_H {
            let ln_share = -((1 + FIRST_STARTS_H.len()) as f64).ln();
            self.rivals(&design, horizon_h, ln_share);
            for start_h in FIRST_STARTS_H {
                if self.odds() > 0.0 {
                    let shape = |since_h: f64| Shape::WarmUp(start_h).at(since_h);
                    let extra = Extra { shape: &shape, place: Place::Each, sd: START.0 };
                    let other = run.design(claim, Some(extra));
                    self.rivals(&other, horizon_h, ln_share);
                }
            }
        } else {
            self.rivals(&design, horizon_h, 0.0);
        }
        // Incarnations of one program that start in two parts: something warms up, and something else fills.
        if design.incarnations.len() > 1 {
            let ln_prior = (P_TWO_PARTS / PARTS.len() as f64).ln();
            for part in PARTS {
                if self.odds() > 0.0 {
                    let shape = |since_h: f64| part.at(since_h);
                    let extra = Extra { shape: &shape, place: Place::Each, sd: START.0 };
                    let other = run.design(claim, Some(extra));
                    self.without_rival(&other, true, ln_prior, true);
                }
            }
        }
        // What a leak needs beside it, whatever is no leak may have beside it too.
        if let Some(beside) = self.beside.filter(|b| b.gain > 0.0 && self.odds() > 0.0) {
            let shape = |t_h: f64| beside.rival.at(t_h, &self.loads, self.work.as_ref());
            let extra = Extra { shape: &shape, place: beside.rival.place, sd: beside.sd };
            let other = run.design(claim, Some(extra));
            self.rivals(&other, horizon_h, beside.ln_prior);
        }
        if self.odds() > 0.0 {
            self.arenas(&design);
        }
    }

    fn odds(&self) -> f64 {
        self.leak.0 - self.other.0
    }

    /// The sum of it.
    fn come_to(&self) -> Weighing {
        let sum = |of: &dyn Fn(&Case) -> bool| {
            let mut sum = LnSum(f64::NEG_INFINITY);
            self.parts.iter().filter(|part| of(part)).for_each(|part| sum.add(part.ln));
            sum.0
        };
        let all = sum(&|_| true);
        let part = |h: &Case| Part { weight: (h.ln - all).exp(), mean: h.drift.0, sd: h.drift.1 };
        Weighing {
            ln_odds: self.odds(),
            ln_rival: sum(&|h| h.rival) - sum(&|h| !h.rival),
            drift: self.parts.iter().map(part).filter(|part| part.weight > 1e-9).collect(),
        }
    }

    /// Takes a hypothesis, of which the growth is so much, give or take its standard deviation (tolerances, the claim's way): what would
    /// be tolerated is no more than [`LEAK_MIN`], and what lies beyond is a leak by whatever name.
    fn add(&mut self, leaks: bool, rival: bool, ln: f64, (growth, sd): (f64, f64)) {
        self.parts.push(Case { ln, rival, drift: (growth * self.claim.rate.signum(), sd) });
        if leaks {
            self.leak.add(ln);
            return;
        }
        let beyond = normal_above((LEAK_MIN - growth) / sd.max(1e-9));
        self.leak.add(ln + beyond.max(1e-300).ln());
        self.other.add(ln + (1.0 - beyond).max(1e-300).ln());
    }

    /// Leaks without a rival, and where the design itself holds one (a young day, an extra column) what would be `tolerated` without another.
    fn without_rival(&mut self, d: &Design, tolerated: bool, ln_prior: f64, rival: bool) {
        for i in 0..self.growths.len() {
            let g = &self.growths[i];
            let (own, y) = d.growth(g.column);
            let (ridge, pivot) = (d.ridge(g.sd), own + d.ridge(g.sd));
            if if g.leaks { y * self.claim.rate <= 0.0 } else { !tolerated } {
                continue;
            }
            let squares = d.squares() - y * y / pivot;
            let ln = ln_prior + g.prior.ln() + d.ln_likelihood_of_noise(squares, (pivot / ridge).ln());
            let growth = (y / pivot * self.claim.rate.signum(), (d.variance(squares) / pivot).sqrt());
            if g.leaks && d.extra_is_free() {
                self.alone = self.alone.max(ln);
            }
            self.add(g.leaks, rival, ln, growth);
        }
    }

    /// All rivals but arenas.
    fn rivals(&mut self, d: &Design, horizon_h: f64, ln_share: f64) {
        for (place, of) in d.incarnations.iter().enumerate().rev().take(INCARNATIONS) {
            let rival = |onset_h: f64, shape: Shape| Rival { place: Place::One(place), onset_h, shape, worked: false };
            let spacing_h = (of.until_h - of.from_h) / ONSETS as f64;
            let share = |p: f64, grid: usize| ln_share + (p * spacing_h / horizon_h / grid as f64).ln();
            let mut best = (f64::NEG_INFINITY, 0.0, 0.0);
            for i in 0..ONSETS {
                let onset_h = of.from_h + (i as f64 + 0.3) * spacing_h;
                let size = if i == 0 { FIRST_START } else { START };
                for tau in TAUS_H {
                    let ln =
                        self.rival(d, rival(onset_h, Shape::WarmUp(tau)), size, share(P_SECOND_START, TAUS_H.len()));
                    if ln > best.0 {
                        best = (ln, onset_h, tau);
                    }
                }
                if onset_h > of.until_h - DAY_H {
                    for width in EDGES_H {
                        self.rival(d, rival(onset_h, Shape::Edge(width)), BUSY, share(P_EDGE, EDGES_H.len()));
                    }
                    for rise in RISES_H {
                        self.rival(d, rival(onset_h, Shape::Day(rise)), BUSY, share(P_BUSY_DAY, RISES_H.len()));
                    }
                }
            }
            // The grid is coarse where a run is old: the best is looked for once more between its places.
            for part in BETWEEN {
                let (_, onset_h, tau) = best;
                if tau > 0.0 {
                    let ln_prior = share(P_SECOND_START, TAUS_H.len()) - (BETWEEN.len() as f64).ln();
                    self.rival(d, rival(onset_h + part * spacing_h, Shape::WarmUp(tau)), START, ln_prior);
                }
            }
            self.ramps(d, place, horizon_h, ln_share);
            if self.work.is_some() {
                self.fillings(d, place, ln_share);
            }
            let share = |grid: usize| ln_share + (P_SLOW / grid as f64).ln();
            for power in POWERS {
                for tau in SLOW_TAUS_H {
                    let ln_prior = share(POWERS.len() * SLOW_TAUS_H.len());
                    self.rival(d, rival(of.from_h, Shape::Stretched(tau, power)), START, ln_prior);
                }
            }
            for knee in KNEES_H {
                // No more than a tolerable part of it may be left.
                let ahead = ((1.0 + horizon_h / knee) / (1.0 + 0.5 * horizon_h / knee)).ln();
                let size = (AHEAD.0 / ahead, AHEAD.1 / ahead);
                self.rival(d, rival(of.from_h, Shape::Log(knee)), size, share(KNEES_H.len()));
            }
        }
    }

    /// Caches that requests fill, from the beginning of an incarnation on: ever more slowly, or until they are full.
    fn fillings(&mut self, d: &Design, place: usize, ln_share: f64) {
        let onset_h = d.incarnations[place].from_h;
        let rival = |shape: Shape| Rival { place: Place::One(place), onset_h, shape, worked: true };
        for tau in TAUS_H {
            let ln_prior = ln_share + (P_FILLING / TAUS_H.len() as f64).ln();
            self.rival(d, rival(Shape::WarmUp(tau)), START, ln_prior);
        }
        for long_h in FILLS_H {
            let ln_prior = ln_share + (P_FILLING * usual_filling(long_h) / FILLS_H.len() as f64).ln();
            self.rival(d, rival(Shape::Ramp(long_h)), START, ln_prior);
        }
        let ln_prior = ln_share + (P_SLOW / (POWERS.len() * SLOW_TAUS_H.len()) as f64).ln();
        for power in POWERS {
            for tau in SLOW_TAUS_H {
                self.rival(d, rival(Shape::Stretched(tau, power)), START, ln_prior);
            }
        }
    }

    /// Edges of working days that are straight ramps, in the last hours of an incarnation; the best is looked for once more about its place.
    fn ramps(&mut self, d: &Design, place: usize, horizon_h: f64, ln_share: f64) {
        let of = &d.incarnations[place];
        let rival = |onset_h: f64, long_h: f64| Rival {
            place: Place::One(place),
            onset_h,
            shape: Shape::Ramp(long_h),
            worked: false,
        };
        let spacing_h = (of.until_h - of.from_h) / ONSETS as f64;
        let ln_prior = ln_share + (P_RAMP * spacing_h / horizon_h / RAMPS_H.len() as f64).ln();
        let mut best = (f64::NEG_INFINITY, 0.0, 0.0);
        for i in 0..ONSETS {
            let onset_h = of.from_h + (i as f64 + 0.3) * spacing_h;
            if onset_h <= of.until_h - DAY_H {
                continue;
            }
            for long_h in RAMPS_H {
                let ln = self.rival(d, rival(onset_h, long_h), RAMP, ln_prior);
                if ln > best.0 {
                    best = (ln, onset_h, long_h);
                }
            }
        }
        let (_, onset_h, long_h) = best;
        let ln_prior = ln_prior - ((BETWEEN.len() * RAMPS_BETWEEN.len()) as f64).ln();
        for part in BETWEEN.iter().filter(|_| long_h > 0.0) {
            for by in RAMPS_BETWEEN {
                self.rival(d, rival(onset_h + part * spacing_h, long_h * by), RAMP, ln_prior);
            }
        }
    }

    /// One rival, with each growth beside it. Returns what it came to without a leak.
    fn rival(&mut self, d: &Design, rival: Rival, (usual, most): (f64, f64), ln_prior: f64) -> f64 {
        let mut without = f64::NEG_INFINITY;
        let shape = |t_h: f64| rival.at(t_h, &self.loads, self.work.as_ref());
        let c = match rival.place {
            Place::One(i) => d.column(&d.incarnations[i], shape),
            Place::Each | Place::All => d.shared(shape),
        };
        let ridge = d.ridge(usual);
        let sign = self.claim.rate.signum();
        for i in 0..self.growths.len() {
            let g = &self.growths[i];
            let (own, y) = d.growth(g.column);
            let (growth_ridge, pivot) = (d.ridge(g.sd), own + d.ridge(g.sd));
            let tied = c.growth[g.column as usize];
            let left = c.own - tied * tied / pivot;
            if left < 1e-9 * c.own {
                continue;
            }
            let size = (c.y - tied * y / pivot) / (left + ridge);
            let growth = (y - size * tied) / pivot;
            if if g.leaks { growth * sign < LEAK_MIN } else { size * sign <= 0.0 } {
                continue;
            }
            let over = ((size.abs() - most) / (SIZE_EDGE * most)).clamp(0.0, 7.0);
            let squares = d.squares() - y * y / pivot - size * size * (left + ridge);
            let ln_det = (pivot / growth_ridge).ln() + ((left + ridge) / ridge).ln();
            let ln = ln_prior + g.prior.ln() - 0.5 * over * over + d.ln_likelihood_of_noise(squares, ln_det);
            let leaks = g.leaks;
            if !leaks {
                without = ln;
            } else if self.beside.is_none_or(|b| b.ln < ln) && d.extra_is_free() {
                let gain = ln - self.alone;
                self.beside = Some(Beside { rival, sd: usual, ln_prior, gain, ln });
            }
            let sd = (d.variance(squares) / (pivot - tied * tied / (c.own + ridge))).sqrt();
            self.add(leaks, true, ln, (growth * sign, sd));
        }
        without
    }

    /// Steps at free times in the last incarnation, the best ones found one after another: an allocator's arenas.
    fn arenas(&mut self, d: &Design) {
        let times_h = d.times_h();
        let n = PLACES;
        let (Some(from_h), Some(to_h)) = (times_h.first(), times_h.last()) else { return };
        if times_h.len() < n {
            return;
        }
        let at: Vec<usize> = (0..n).map(|i| 1 + i * (times_h.len() - 2) / n).collect();
        let (columns, gram) = d.steps(&at);
        let density = ((to_h - from_h) / n as f64 / ARENAS_UNTIL_H).min(0.5);
        for i in 0..self.growths.len() {
            let g = &self.growths[i];
            let ln_prior = (g.prior * P_ARENAS / ARENAS as f64).ln();
            let leaks = g.leaks;
            for (ln, growth) in staircase(d, g, &columns, &gram, self.claim.rate.signum(), density) {
                self.add(leaks, true, ln_prior + ln, growth);
            }
        }
    }
}

/// ln of the likelihood with one step more each time, up to as many as arenas make, and what then grows between them (with its standard
/// deviation); `density` is a place's share of the time in which they do.
fn staircase(
    d: &Design,
    g: &Growth,
    columns: &[Products],
    gram: &[f64],
    sign: f64,
    density: f64,
) -> Vec<(f64, (f64, f64))> {
    let n = columns.len();
    let (own, y) = d.growth(g.column);
    let (growth_ridge, pivot) = (d.ridge(g.sd), own + d.ridge(g.sd));
    let ridge = d.ridge(ARENA_SD);
    let tied: Vec<f64> = columns.iter().map(|c| c.growth[g.column as usize]).collect();
    let mut with_y: Vec<f64> = columns.iter().zip(&tied).map(|(c, tied)| c.y - tied * y / pivot).collect();
    let mut with_growth = tied.clone();
    let (mut growth, mut spread) = (y / pivot, 1.0 / pivot);
    let mut gram = gram.to_vec();
    for i in 0..n {
        for j in i..n {
            gram[i * n + j] -= tied[i] * tied[j] / pivot;
        }
    }
    let mut squares = d.squares() - y * y / pivot;
    let mut ln_det = (pivot / growth_ridge).ln();
    let mut ln_ways = 0.0;
    let mut out = Vec::with_capacity(ARENAS);
    let mut used = vec![false; n];
    for count in 1..=ARENAS {
        let gain = |i: usize| with_y[i] * with_y[i] / (gram[i * n + i] + ridge);
        let free = (0..n).filter(|i| !used[*i] && gram[i * n + i] > 1e-6 * columns[*i].own && with_y[*i] * sign > 0.0);
        let Some(b) = free.max_by(|i, j| gain(*i).total_cmp(&gain(*j))) else { break };
        used[b] = true;
        let p = gram[b * n + b] + ridge;
        squares -= gain(b);
        ln_det += (p / ridge).ln();
        let row: Vec<f64> = (0..n).map(|j| gram[b.min(j) * n + b.max(j)]).collect();
        let (share, tied) = (with_y[b] / p, with_growth[b] / p);
        growth -= share * with_growth[b] / pivot;
        spread += tied * with_growth[b] / (pivot * pivot);
        for i in 0..n {
            with_y[i] -= share * row[i];
            with_growth[i] -= tied * row[i];
            for j in i..n {
                gram[i * n + j] -= row[i] * row[j] / p;
            }
        }
        // Which step comes first does not matter; each goes the claim's way.
        ln_ways += (2.0 * count as f64 * density).ln();
        let sd = (d.variance(squares) * spread).sqrt();
        out.push((ln_ways + d.ln_likelihood_of_noise(squares, ln_det), (growth * sign, sd)));
    }
    out
}
