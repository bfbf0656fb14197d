//! The sums to probabilities: every way the series could have come about, weighed.
//!
//! A hypothesis is a kind of noise, a way of starting (none, a warm-up with one of many time constants, a cache that fills)
//! and a leak (none, in requests, or in time since one of the onsets). Given these the model is linear and Gaussian, so its
//! marginal likelihood and the posterior of the drift have closed forms. The variance of the noise is integrated out
//! (inverse gamma prior), and the drift has a prior of several scales.

use super::bank::{
    CLASSES, DAY_0, HINGE_0, ONSET_IN_SHARED, REQ, STARTS, STILL, WARM, WARM_0, Y, eliminate, eliminate_rows, pair,
};
use super::beliefs::{
    DAYS, LEAK_SIZES, P_FROM_START, P_LEAK, P_NONE, P_TOLERATED, TOLERATED_SD, ln_grows, ln_plausible,
    ln_plausible_cache, ln_prior_of_day, ln_prior_of_noise, ln_prior_of_sign, ln_prior_of_start,
};
use super::mixture::{Part, Posterior};
use super::regression::{NOISE_FLOOR, Regression, prior};
use super::starts::{Start, Starts, Sums, alike, class_of, ln_alike};

/// What leaks: nothing, requests, or time since onset `k`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leak {
    /// Nothing.
    None,
    /// Linear in requests.
    Requests,
    /// Linear in time since onset `k` of the grid; the first is the start of the run.
    Since(usize),
}

/// One hypothesis and what it says of the drift over the horizon, in tolerances.
#[derive(Debug, Clone, Copy)]
pub struct Hypothesis {
    /// Index into the bank.
    pub noise: usize,
    /// Way of starting; `WARM` for none, pairs beyond.
    pub warm: usize,
    /// What leaks.
    pub leak: Leak,
    /// Whether anything comes and goes: a day cycle, or what is held of requests.
    pub day: bool,
    /// Whether a day cycle does.
    pub comes_round: bool,
    /// Logarithm of the likelihood at its peak over the drift, all else integrated out, times the hypothesis' prior.
    pub ln_peak: f64,
    /// The same with the drift integrated out too, under a wide prior.
    pub ln_flat: f64,
    /// Drift by the data alone.
    pub mean: f64,
    /// Its variance by the data alone.
    pub variance: f64,
    /// Estimate of the noise variance.
    pub noise_variance: f64,
    /// What a leak in time from the start would be in its place, by the data alone: under a walk, what was gained.
    pub steady: f64,
    /// Drift per unit of the leak's coefficient.
    pub factor: f64,
    /// Amplitude of the warm-up over its standard deviation, and in tolerances.
    pub warm_z: f64,
    /// See above.
    pub warm_size: f64,
    /// What its amplitude would be if there were no drift, tolerances.
    pub warm_size_still: f64,
    /// Where memory goes by requests: what is held of them for a shorter and a longer time when most is, tolerances.
    pub held: [f64; 2],
    /// Amplitude of 24 h, tolerances.
    pub day_size: f64,
}

/// Inverse gamma prior of the noise variance: its shape. Its scale is the floor under the noise.
const NOISE_SHAPE: f64 = 1.5;
/// Hypotheses this much less likely than the best (natural logarithm) are left out.
const NEGLIGIBLE: f64 = 11.0;

/// Looks between two at which everything is weighed; in between, only what was not negligible then.
const REFRESH: u32 = 10;
/// What counts as negligible then (natural logarithm): more than at a look, for things may change in between.
const DORMANT: f64 = 12.0;

/// Weighs everything. Updates the regression's estimates of the noise variances, which the next look uses.
pub fn weigh(r: &mut Regression, horizon_h: f64) -> Posterior {
    let everything = r.refresh_in == 0 || r.blocks < 40;
    r.refresh_in = if everything { REFRESH } else { r.refresh_in - 1 };
    let mut list: Vec<Hypothesis> = Vec::with_capacity(1024);
    let mut leaks = Vec::new();
    leaks_of(r, horizon_h, &mut leaks);
    // What was likely at the last look comes first: it sets the mark that all else has to reach.
    let mut order: Vec<usize> = (0..r.filters.len()).collect();
    order.sort_by_key(|noise| std::cmp::Reverse(r.live[*noise].count_ones()));
    let mut top = Tops { none: f64::NEG_INFINITY, leak: f64::NEG_INFINITY };
    for noise in order {
        let live = if everything { u64::MAX } else { r.live[noise] };
        if live == 0 {
            continue;
        }
        r.variance[noise] = under_noise(r, noise, live, &leaks, &mut top, &mut list);
    }
    if everything {
        r.live.iter_mut().for_each(|bits| *bits = 0);
        for h in list.iter().filter(|h| h.ln_flat > top.of(h.leak) - DORMANT) {
            r.live[h.noise] |= 1 << h.warm;
        }
    }
    mix(&list, r, horizon_h)
}

/// The likeliest hypotheses so far (ln): without a leak, and with one. Each is weighed against its own kind, so that however little
/// speaks for a leak, the interval of its size is known.
#[derive(Debug, Clone, Copy)]
struct Tops {
    none: f64,
    leak: f64,
}

impl Tops {
    fn of(&self, leak: Leak) -> f64 {
        if leak == Leak::None { self.none.max(self.leak) } else { self.leak }
    }
}

/// Youngest leak that is thought of, as a share of the horizon (3 h of 48): a jump, or the edge of a working day, is no trend.
const ONSET_AGE_MIN: f64 = 1.0 / 16.0;

/// A leak that could be seen by now: which, its column, ln of its prior, the drift per unit of its coefficient.
type LeakColumn = (Leak, usize, f64, f64);

/// Hypotheses under one kind of noise, but those that are negligible against the likeliest so far. Returns the
/// estimate of the noise variance by the one that fits best.
fn under_noise(
    r: &Regression,
    noise: usize,
    live: u64,
    leaks: &[LeakColumn],
    top: &mut Tops,
    out: &mut Vec<Hypothesis>,
) -> f64 {
    let f = &r.filters[noise];
    let variance = r.variance[noise];
    let mut common: Vec<usize> = (0..=r.steps.len()).collect();
    let mut ridge = r.ridges_of_segment(variance);
    let square = |sd: f64| variance / (sd * sd);
    // The day's columns come last, so that it can be left out by not going on.
    let shared_common: Vec<usize> = (DAY_0..DAY_0 + 4).collect();
    let shared_ridge = prior::cycle(r.worked).map(square);
    let leak_columns: Vec<usize> = leaks.iter().map(|l| l.1).collect();
    let warm_ridge = |k: usize| square(prior::of_start(k));
    let ln_noise = ln_prior_of_noise(&f.noise);
    let shape = NOISE_SHAPE + 0.5 * r.blocks as f64;
    // The floor is one of what a block may be off its prediction, whatever the kind of noise: the mean innovation of a
    // noise of unit variance turns it into a floor of the variance.
    let innovation = (f.ln_s / r.blocks.max(1) as f64).exp();
    let scale = shape * NOISE_FLOOR * NOISE_FLOOR / innovation;
    let estimate = |rss: f64| (scale + 0.5 * rss.max(0.0)) / (shape - 1.0);
    let mut best = (f64::NEG_INFINITY, variance);
    let mut emit = |of: Of,
                    warm: usize,
                    day: usize,
                    ln_det: f64,
                    yy: f64,
                    leak_stats: &dyn Fn(usize) -> (f64, f64),
                    fitted: &Fitted| {
        let (place, comes_round) = (day, day > usize::from(r.worked));
        let leaks = if of == Of::Still { &[] } else { leaks };
        let base = -0.5 * (f.ln_s + ln_det) + ln_prior_of_start(warm) + ln_noise;
        let peak = |rss: f64| -shape * (scale + 0.5 * rss.max(0.0)).ln();
        // A residual beyond this is negligible whatever else is said for the hypothesis.
        let enough = |top: f64| 2.0 * (((base - top + DORMANT) / shape).exp() - scale);
        let mut rss_max = enough(top.leak);
        let rss_max_none = enough(top.of(Leak::None));
        let mut rss_min = yy;
        for (i, (_, _, _, factor)) in leaks.iter().enumerate() {
            let (g, gy) = leak_stats(i);
            if g > 1e-9 && *factor > 0.0 {
                rss_min = rss_min.min(yy - gy * gy / g);
            }
        }
        let ln_best = base + peak(rss_min);
        if ln_best > best.0 {
            best = (ln_best, estimate(rss_min));
        }
        if rss_min > rss_max.max(rss_max_none) {
            return;
        }
        let ln_peak = base + peak(yy);
        let (cycle, warm_size, warm_sd) = fitted(None, 0.0);
        let still = warm_size;
        let ln_peak = ln_peak + ln_plausible(cycle.day);
        let mut none = Hypothesis {
            noise,
            warm,
            leak: Leak::None,
            day: place > 0,
            comes_round,
            ln_peak,
            ln_flat: ln_peak,
            mean: 0.0,
            variance: 0.0,
            noise_variance: estimate(yy),
            steady: 0.0,
            factor: 0.0,
            warm_z: 0.0,
            warm_size: 0.0,
            warm_size_still: warm_size,
            held: cycle.held,
            day_size: cycle.day,
        };
        none.warm_size = warm_size;
        none.warm_z = warm_size / (warm_sd * none.noise_variance.sqrt());
        if yy <= rss_max_none && of != Of::Leaking {
            out.push(none);
            top.none = top.none.max(ln_peak);
        }
        let in_time = leaks.iter().position(|l| l.0 == Leak::Since(0)).map(leak_stats);
        let steady = in_time.filter(|(g, _)| *g > 1e-9).map_or(0.0, |(g, gy)| gy / g);
        for (i, (leak, _, ln_prior, factor)) in leaks.iter().enumerate() {
            let (g, gy) = leak_stats(i);
            if g <= 1e-9 || *factor <= 0.0 {
                continue;
            }
            let s = gy / g;
            // What sets in later and shrinks is a cache that was full, or a load that went: no leak.
            if s < 0.0 && matches!(leak, Leak::Since(k) if *k > 0) {
                continue;
            }
            let rss = yy - gy * s;
            if rss > rss_max {
                continue;
            }
            let s2 = estimate(rss);
            let (mean, variance) = (s * factor, s2 / g * factor * factor);
            let (cycle, warm_size, warm_sd) = fitted(Some(i), s);
            let ln_peak = base + peak(rss) + ln_prior + ln_plausible(cycle.day);
            let mut h = Hypothesis {
                noise,
                warm,
                leak: *leak,
                day: place > 0,
                comes_round,
                ln_peak,
                ln_flat: 0.0,
                mean,
                variance,
                noise_variance: s2,
                steady: if *leak == Leak::Requests { steady } else { mean },
                factor: *factor,
                warm_z: 0.0,
                warm_size: 0.0,
                warm_size_still: still,
                held: cycle.held,
                day_size: cycle.day,
            };
            // As wide as the drift is large: how large it is must not speak against it.
            h.ln_flat = ln_peak + ln_occam(&h, FLAT_SD * FLAT_SD + h.mean * h.mean);
            h.warm_size = warm_size;
            h.warm_z = warm_size / (warm_sd * s2.sqrt());
            if h.ln_flat > top.leak {
                top.leak = h.ln_flat;
                rss_max = enough(top.leak);
            }
            out.push(h);
        }
    };
    if f.history.is_empty() {
        common.extend(&shared_common);
        ridge.extend(&shared_ridge);
        let order: Vec<usize> = common
            .iter()
            .copied()
            .chain(WARM_0..WARM_0 + WARM)
            .chain(leak_columns.iter().copied())
            .chain([Y])
            .collect();
        let n = order.len();
        let mut m = gather(f, &order);
        let (w0, l0) = (common.len(), common.len() + WARM);
        let mut ln_det = 0.0;
        for day in 0..DAYS {
            let (from, to) = if day == 0 { (0, w0 - 4) } else { (w0 + 2 * day - 6, w0 + 2 * day - 4) };
            ln_det += eliminate_rows(&mut m, n, from..to, &ridge[from..]);
            let ln_day = ln_prior_of_day(day);
            for warm in (WARM + 1..STARTS).filter(|w| live >> w & 1 == 1) {
                let Some([a, b]) = pair(warm).map(|p| p.map(|k| w0 + k)) else { continue };
                let [ra, rb] = [warm_ridge(a - w0), warm_ridge(b - w0)];
                let pa = m[a * n + a] + ra;
                let tied = m[a * n + b] / pa;
                let rest = |c: usize| m[b * n + c] - tied * m[a * n + c];
                let pb = rest(b) + rb;
                let dot = |c: usize, d: usize| m[a * n + c] * m[a * n + d] / pa + rest(c) * rest(d) / pb;
                let y = n - 1;
                emit(
                    Of::Both,
                    warm,
                    day,
                    ln_det + (pa / ra).ln() + (pb / rb).ln() - 2.0 * ln_day,
                    m[y * n + y] - dot(y, y),
                    &|i| {
                        let c = l0 + i;
                        (m[c * n + c] - dot(c, c), m[c * n + y] - dot(c, y))
                    },
                    &|i, s| {
                        let of_leak = |f: &dyn Fn(usize) -> f64| i.map_or(0.0, |i| f(l0 + i) * s);
                        let slow = (rest(y) - of_leak(&rest)) / pb;
                        let at = |c: usize| m[a * n + c];
                        let quick = (at(y) - of_leak(&at) - slow * at(b)) / pa;
                        let known = [(a, quick), (b, slow), (l0 + i.unwrap_or(0), i.map_or(0.0, |_| s))];
                        let cycle = cycle_of(&m, n, w0 - 4, &shared_ridge[..2 * day], &known, r.worked);
                        // Both grow: the lesser speaks for the pair.
                        let least = (quick * pa.sqrt()).min(slow * pb.sqrt());
                        let sd = if least == 0.0 { 1.0 } else { (quick + slow) / least };
                        (cycle, quick + slow, sd)
                    },
                );
            }
            for warm in (0..=WARM).filter(|w| live >> w & 1 == 1) {
                let (extra, pivot) = if warm < WARM {
                    let p = m[(w0 + warm) * n + w0 + warm] + warm_ridge(warm);
                    ((p / warm_ridge(warm)).ln(), p)
                } else {
                    (0.0, f64::INFINITY)
                };
                let row = if warm < WARM { &m[(w0 + warm) * n..(w0 + warm + 1) * n] } else { &m[0..n] };
                let wy = row[n - 1] / pivot;
                let yy = m[n * n - 1] - wy * row[n - 1];
                emit(
                    Of::Both,
                    warm,
                    day,
                    ln_det + extra - 2.0 * ln_day,
                    yy,
                    &|i| {
                        let c = l0 + i;
                        (m[c * n + c] - row[c] * row[c] / pivot, m[c * n + n - 1] - wy * row[c])
                    },
                    &|i, s| {
                        let leak = i.map_or(0.0, |i| row[l0 + i]);
                        let w = (row[n - 1] - leak * s) / pivot;
                        let mut known = [(0, 0.0); 2];
                        if warm < WARM {
                            known[0] = (w0 + warm, w);
                        }
                        if let Some(i) = i {
                            known[1] = (l0 + i, s);
                        }
                        let cycle = cycle_of(&m, n, w0 - 4, &shared_ridge[..2 * day], &known, r.worked);
                        (cycle, w, (1.0 / pivot).sqrt())
                    },
                );
            }
        }
    } else {
        with_history(r, noise, live, &common, &ridge, &shared_common, &shared_ridge, &leak_columns, &mut emit);
    }
    best.1
}

/// What hypotheses are to be made of the sums: such without a leak, such with one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Both,
    Still,
    Leaking,
}

type Emit<'a> = dyn FnMut(Of, usize, usize, f64, f64, &dyn Fn(usize) -> (f64, f64), &Fitted) + 'a;

/// For a leak (by its place in the list) and its coefficient: what comes and goes, size of the warm-up (tolerances),
/// and the latter's standard deviation over that of the noise.
type Fitted<'a> = dyn Fn(Option<usize>, f64) -> (Cycle, f64, f64) + 'a;

/// What comes and goes, tolerances: amplitude of 24 h, and what is held of requests.
struct Cycle {
    day: f64,
    held: [f64; 2],
}

/// Coefficients of what comes and goes by back substitution in an eliminated matrix of width `n`: the rows from `first` on are theirs,
/// one for each of `ridge`; `known` are columns with their coefficients. Where memory goes by requests, 24 h are the second pair.
fn cycle_of(m: &[f64], n: usize, first: usize, ridge: &[f64], known: &[(usize, f64)], worked: bool) -> Cycle {
    let count = ridge.len();
    let mut b = [0.0; 4];
    for i in (0..count).rev() {
        let row = &m[(first + i) * n..(first + i + 1) * n];
        let mut v = row[n - 1];
        for (c, x) in known {
            v -= row[*c] * x;
        }
        for j in i + 1..count {
            v -= row[first + j] * b[j];
        }
        b[i] = v / (row[first + i] + ridge[i]);
    }
    if worked {
        Cycle { day: b[2].hypot(b[3]), held: [b[0], b[1]] }
    } else {
        Cycle { day: b[0].hypot(b[1]), held: [0.0; 2] }
    }
}

#[allow(clippy::too_many_arguments)] // one caller; the pieces have no life as a type
fn with_history(
    r: &Regression,
    noise: usize,
    live: u64,
    common: &[usize],
    ridge: &[f64],
    shared_common: &[usize],
    shared_ridge: &[f64],
    leak_columns: &[usize],
    emit: &mut Emit,
) {
    let f = &r.filters[noise];
    let shared: Vec<usize> = shared_common.iter().chain(leak_columns).copied().chain([Y]).collect();
    let order: Vec<usize> = common.iter().copied().chain(WARM_0..WARM_0 + WARM).chain(shared.iter().copied()).collect();
    let n = order.len();
    let mut m = gather(f, &order);
    let ln_det = eliminate(&mut m, n, common.len(), ridge);
    let (w0, s0) = (common.len(), common.len() + WARM);
    let place: Vec<usize> =
        shared.iter().map(|c| if *c < WARM_0 { c - DAY_0 } else { c - REQ + ONSET_IN_SHARED - 1 }).collect();
    let k = shared.len();
    let (mut a, mut b) = (vec![0.0; k * k], vec![0.0; STILL * STILL]);
    let steady = s0 + leak_columns.iter().position(|c| *c == HINGE_0).unwrap_or(0) + shared_common.len();
    let sums = Sums { m: &m, n, first: w0, steady };
    let starts = Starts::new(&sums, r.variance[noise]);
    for class in (0..CLASSES).filter(|class| (0..=WARM).any(|k| class_of(k) == Some(*class) && live >> k & 1 == 1)) {
        // Two ways of starting share the class.
        let ways: f64 = alike(class).map(|k| ln_alike(class, k as f64).exp()).sum();
        let ln_share = |s: &Start| ln_alike(class, s.place()) - (0.5 * ways.max(2.0)).ln();
        // Of the ways in which it may have started the best where nothing leaks, and whatever leaks.
        let (still, leaking) = (starts.best(class, 0), starts.best(class, 1));
        let other = leaking.filter(|l| still.is_some_and(|s| s.place() != l.place()));
        for start in [Some(still), other.map(Some)].into_iter().flatten() {
            let warm = start.map_or(WARM, |s| (s.place().round() as usize).clamp(2 * class, 2 * class + 1));
            let pivot = start.map_or(f64::INFINITY, |s| s.pivot);
            let extra = start.map_or(0.0, |s| s.ln_det - 2.0 * ln_share(s));
            let tied: Vec<f64> = (s0..n).map(|c| start.map_or(0.0, |s| s.product(&sums, c))).collect();
            let c = shared_common.len();
            let still = &f.history.still[class];
            for i in 0..k {
                let q = tied[i] / pivot;
                for j in i..k {
                    let (x, y) = (place[i].min(place[j]), place[i].max(place[j]));
                    let own = m[(s0 + i) * n + s0 + j] - q * tied[j];
                    a[i * k + j] = own + f.history.at(class, x, y);
                    let of = |i: usize| if i < c { Some(i) } else { (i + 1 == k).then_some(c) };
                    if let (Some(i), Some(j)) = (of(i), of(j)) {
                        b[i * STILL + j] = own + still.products[i][j];
                    }
                }
            }
            let own = ln_det + extra;
            let (mut still_det, mut leaking_det) = (own + still.ln_det, own + f.history.ln_det[class]);
            for day in 0..DAYS {
                let (from, to) = if day == 0 { (0, 0) } else { (2 * day - 2, 2 * day) };
                let (new, ridge) = (&shared_ridge[from..], &shared_ridge[..2 * day]);
                let rare = 2.0 * ln_prior_of_day(day);
                // Of this segment's warm-up only the coefficient without the shared columns is at hand: no sign is read off it.
                still_det += eliminate_rows(&mut b, STILL, from..to, new);
                emit(Of::Still, warm, day, still_det - rare, b[STILL * STILL - 1], &|_| (0.0, 0.0), &|_, _| {
                    (cycle_of(&b, STILL, 0, ridge, &[], r.worked), 0.0, 0.0)
                });
                leaking_det += eliminate_rows(&mut a, k, from..to, new);
                let stats = |i: usize| (a[(c + i) * k + c + i], a[(c + i) * k + k - 1]);
                emit(Of::Leaking, warm, day, leaking_det - rare, a[k * k - 1], &stats, &|i, s| {
                    let known = i.map_or((0, 0.0), |i| (c + i, s));
                    (cycle_of(&a, k, 0, ridge, &[known], r.worked), 0.0, 0.0)
                });
            }
        }
    }
}

fn gather(f: &super::bank::Filter, order: &[usize]) -> Vec<f64> {
    let n = order.len();
    let mut m = vec![0.0; n * n];
    for (i, &c) in order.iter().enumerate() {
        for (j, &d) in order.iter().enumerate().skip(i) {
            m[i * n + j] = f.at(c, d);
        }
    }
    m
}

/// Leaks that could be seen by now: which, its column, ln of its prior, and the drift per unit of its coefficient.
fn leaks_of(r: &Regression, horizon_h: f64, out: &mut Vec<LeakColumn>) {
    let span = r.now_h.max(1e-3);
    let from_start = if r.requests.is_some() { 0.5 * P_FROM_START } else { P_FROM_START };
    if let Some(requests) = r.requests {
        // At the mean rate so far, over the horizon.
        let factor = requests / Regression::REQUEST_UNIT * (horizon_h / span).max(f64::MIN_POSITIVE);
        out.push((Leak::Requests, REQ, from_start.ln(), factor));
    }
    let late = (1.0 - P_FROM_START) / horizon_h;
    for (k, onset) in r.onsets_h.iter().enumerate() {
        if k == 0 {
            out.push((Leak::Since(0), HINGE_0, from_start.ln(), 1.0));
        } else {
            if span - onset < ONSET_AGE_MIN * horizon_h {
                continue;
            }
            let width = onset - r.onsets_h[k - 1];
            let factor =
                if span <= horizon_h { (horizon_h - onset) / horizon_h } else { ((span - onset) / horizon_h).min(1.0) };
            out.push((Leak::Since(k), HINGE_0 + k, (late * width).ln(), factor));
        }
    }
}

/// Occam factor, ln: what a prior of variance `v` on the drift makes of the peak of the likelihood.
fn ln_occam(h: &Hypothesis, v: f64) -> f64 {
    let all = h.variance + v;
    0.5 * (h.variance / all).ln() - h.mean * h.mean / (2.0 * all)
}

/// The priors of a leak's size: ln of the weight, variance, ln of the variance.
fn sizes() -> [(f64, f64, f64); LEAK_SIZES.len()] {
    LEAK_SIZES.map(|(share, sd)| ((P_LEAK * share).ln(), sd * sd, (sd * sd).ln()))
}

/// ln(1 + x): where little is added, without a logarithm.
fn ln_1p(x: f64) -> f64 {
    if x < 1e-4 { x - 0.5 * x * x } else { x.ln_1p() }
}

/// The drift under a prior of variance `v`.
fn shrunk(h: &Hypothesis, v: f64) -> Part {
    let share = v / (v + h.variance);
    Part { weight: 0.0, mean: h.mean * share, sd: (h.variance * share).sqrt() }
}

/// The drift of a leak. Where the noise is a walk, what was gained so far is gained, however unsteadily; only what is left
/// of the horizon has to be foretold.
fn leaked(h: &Hypothesis, r: &Regression, v: f64, served: f64) -> Part {
    let part = shrunk(h, v);
    let noise = &r.filters[h.noise].noise;
    if !noise.walk {
        return part;
    }
    let ahead = 1.0 - served;
    let block = (h.noise_variance * (noise.white + 2e-3)).sqrt();
    Part { weight: 0.0, mean: served * h.steady + ahead * part.mean, sd: (ahead * part.sd).hypot(1.5 * block) }
}

/// Scale of the prior under which hypotheses are weighed for the interval, in tolerances.
const FLAT_SD: f64 = 3.0;

fn mix(list: &[Hypothesis], r: &Regression, horizon_h: f64) -> Posterior {
    let served = (r.now_h / horizon_h).min(1.0);
    let sizes = sizes();
    let mut sceptical: Vec<(f64, Part, usize)> = Vec::new();
    let mut flat: Vec<(f64, Part)> = Vec::new();
    let best_of = |leak: bool| {
        let kind = list.iter().filter(|h| (h.leak != Leak::None) == leak);
        kind.map(|h| h.ln_flat).fold(f64::NEG_INFINITY, f64::max)
    };
    let top = Tops { none: best_of(false), leak: best_of(true) };
    for (i, h) in list.iter().enumerate().filter(|(_, h)| h.ln_flat > top.of(h.leak) - NEGLIGIBLE) {
        let sign = ln_grows(h);
        // A drift of another size leaves another size to the cache.
        let cache = |drift: f64| {
            let share = if h.mean == 0.0 { 1.0 } else { drift / h.mean };
            ln_plausible_cache(h.warm, h.warm_size_still + share * (h.warm_size - h.warm_size_still))
        };
        if h.leak == Leak::None {
            let ln = h.ln_peak + P_NONE.ln() + sign + cache(0.0);
            sceptical.push((ln, Part { weight: 0.0, mean: 0.0, sd: 0.0 }, i));
            continue;
        }
        if h.leak == Leak::Since(0) || h.leak == Leak::Requests {
            let v = TOLERATED_SD * TOLERATED_SD;
            let ln = h.ln_peak + sign + ln_occam(h, v) + (P_TOLERATED / P_FROM_START).ln();
            let part = shrunk(h, v);
            sceptical.push((ln + cache(part.mean), part, i));
        }
        let grows = ln_prior_of_sign(h.mean / h.variance.sqrt());
        let ln_all = h.ln_peak + sign + grows + 0.5 * h.variance.ln();
        for (ln_share, v, ln_v) in sizes {
            // The same as `ln_occam`, with one logarithm for all sizes.
            let occam = -0.5 * (ln_v + ln_1p(h.variance / v)) - h.mean * h.mean / (2.0 * (h.variance + v));
            let ln = ln_all + occam + ln_share;
            let part = leaked(h, r, v, served);
            sceptical.push((ln + cache(part.mean), part, i));
        }
        let part = leaked(h, r, 1e6, served);
        flat.push((h.ln_flat + sign + cache(part.mean), part));
    }
    let best =
        sceptical.iter().filter(|s| list[s.2].leak != Leak::None).max_by(|a, b| a.0.total_cmp(&b.0)).map(|s| list[s.2]);
    let still =
        sceptical.iter().filter(|s| list[s.2].leak == Leak::None).max_by(|a, b| a.0.total_cmp(&b.0)).map(|s| list[s.2]);
    let first = sceptical.iter().max_by(|a, b| a.0.total_cmp(&b.0)).map(|s| list[s.2]);
    let top = sceptical.iter().map(|s| s.0).fold(f64::NEG_INFINITY, f64::max);
    // What is less likely than the best by this much (ln) has no weight.
    let weight = |below: f64| if below < -25.0 { 0.0 } else { below.exp() };
    sceptical.iter_mut().for_each(|s| s.1.weight = weight(s.0 - top));
    let sum: f64 = sceptical.iter().map(|s| s.1.weight).sum();
    let mut out = Posterior { best, top: first, still, ln_evidence: top + sum.ln(), ..Posterior::default() };
    let (mut by_requests, mut leaking) = (0.0, 1e-300);
    for (_, mut part, i) in sceptical {
        part.weight /= sum;
        let h = &list[i];
        if h.leak != Leak::None {
            leaking += part.weight;
            by_requests += part.weight * f64::from(u8::from(h.leak == Leak::Requests));
        }
        out.warm_weights.0[h.warm] += part.weight;
        if part.weight > 1e-7 {
            out.sceptical.push(part);
        }
    }
    out.p_requests = by_requests / leaking;
    let top = flat.iter().map(|s| s.0).fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = flat.iter().map(|s| (s.0 - top).exp()).sum();
    out.flat = flat
        .into_iter()
        .map(|(ln, part)| Part { weight: (ln - top).exp() / sum, ..part })
        .filter(|p| p.weight > 1e-6)
        .collect();
    out
}
