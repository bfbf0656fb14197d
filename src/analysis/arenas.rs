//! What steps and is no leak: how likely its times and sizes are.
//!
//! An allocator makes arenas, a few in each incarnation, early rather than late, of 5 to 70 MB. A caching allocator of device memory, and a server
//! that takes adapters in, do so in blocks of up to 600 MB. The edges of working days lift what follows the load. A start in leaps has each of them
//! smaller than the one before. And what a program does when it starts it does again in its next incarnation, at the same age.

use super::special::{ln_mean, ln_weighed};
use super::steps::Step;

/// When the steps were looked for, hours.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "every name carries its unit")]
pub struct Span<'a> {
    /// Beginnings of incarnations, but the first.
    pub starts_h: &'a [f64],
    /// What is older is not judged.
    pub from_h: f64,
    /// Now.
    pub now_h: f64,
    /// Over which time a drift is stated.
    pub horizon_h: f64,
}

impl Span<'_> {
    /// How long it is.
    pub fn long_h(&self) -> f64 {
        (self.now_h - self.from_h).max(1e-3)
    }

    /// Beginning and end of each incarnation within it; what began before it begins with it.
    pub fn lives(&self) -> Vec<(f64, f64)> {
        let mut starts = vec![self.from_h];
        starts.extend(self.starts_h.iter().copied().filter(|s| *s > self.from_h));
        let ends = starts.iter().skip(1).copied().chain([self.now_h]);
        starts.iter().copied().zip(ends).collect()
    }

    /// When the incarnation began that it begins in, as far as is known.
    fn first_start_h(&self) -> f64 {
        self.starts_h.iter().copied().filter(|s| *s <= self.from_h).reduce(f64::max).unwrap_or(self.from_h)
    }
}

/// Arenas of one incarnation at most.
const ARENAS_MAX: usize = 6;
/// By which share of the horizon arenas have all been made.
const ARENAS_UNTIL: [f64; 5] = [0.04, 0.12, 0.25, 0.5, 0.8];
/// Of what steps and is no leak, this share rises a few times at most, at any time: the edges of working days, of which each may be seen as
/// several steps. How long such an edge is, hours, how many there are at most, and how large (90 MB, in tolerances).
const EDGES: f64 = 0.1;
const EDGE_H: f64 = 3.0;
const EDGES_MAX: usize = 3;
const EDGE_MOST: f64 = 1.8;
/// ... and this share does so once it has made its arenas.
const BOTH: f64 = 0.02;
/// The largest start that comes once, tolerances (325 MB).
pub const START_MOST: f64 = 6.5;
/// Usual sizes of arenas, tolerances: 5 to 70 MB ...
const ARENA_SIZES: (f64, f64) = (0.1, 1.4);
/// ... and the share of those that are of any size from 1 MB to 1 GB.
const ARENA_ODD: f64 = 0.1;
/// Any size, tolerances.
const ANY: (f64, f64) = (0.02, 20.0);
/// Of arenas, the share that are alike in size, as an allocator's are that come from the same settings: then the sizes say nothing.
const ARENAS_ALIKE: f64 = 0.02;
/// Of what steps and is no leak, the share of what a caching allocator takes in blocks, and of adapters; how large these are, tolerances (20 to
/// 600 MB), how often they are alike, and by which share of the horizon all of them are there.
const LARGE: f64 = 0.1;
const LARGE_SIZES: (f64, f64) = (0.4, 12.0);
const LARGE_ALIKE: f64 = 0.3;
const LARGE_UNTIL: [f64; 4] = [0.04, 0.12, 0.25, 0.5];
/// Of programs that step and start again, the share whose incarnations repeat one another; in which part of an incarnation all its steps are, how
/// likely each comes again, within how many hours or which share of its age, and how much its size may differ.
const REPEATING: f64 = 0.3;
const START_SHARE: f64 = 0.6;
const AGAIN: f64 = 0.85;
const AGAIN_H: f64 = 0.3;
const AGAIN_SHARE: f64 = 0.15;
const AGAIN_SIZE: f64 = 0.15;
/// Of what steps and is no leak, this share is a start or a cache that was taken for steps: each is smaller than the one before.
const DWINDLING: f64 = 0.2;
/// How much steps differ in size that are alike: standard deviations of their logarithms.
const SPREADS: [f64; 3] = [0.12, 0.35, 0.9];
/// After so many hours what becomes ever rarer does so as one over time.
const DYING_H: [f64; 3] = [0.7, 2.0, 5.0];
/// Steps in a horizon that a leak makes, or what becomes ever rarer, on a logarithmic grid.
pub const LEAK_STEPS: [f64; 6] = [4.0, 7.0, 12.0, 22.0, 40.0, 75.0];
/// Usual sizes between the smallest and the largest that are tried.
const SIZES: usize = 24;

/// How likely these steps, which all go one way, are where they are no leak: the density of their times and sizes, as a logarithm.
pub fn ln_no_leak(events: &[Step], span: &Span<'_>) -> f64 {
    let apart = ln_weighed(ln_times(events, span) + ln_sizes(events), ln_large(events, span), LARGE);
    ln_repeating(events, span).map_or(apart, |repeating| ln_weighed(apart, repeating, REPEATING))
}

/// Sizes of what is no leak.
fn ln_sizes(events: &[Step]) -> f64 {
    let sizes = sizes(events);
    if sizes.is_empty() {
        return 0.0;
    }
    let usual = (1.0 - ARENA_ODD) / (ARENA_SIZES.1 - ARENA_SIZES.0);
    let (low, high) = ANY;
    let density = |s: f64| {
        let odd = ARENA_ODD / (s.clamp(low, 50.0) * (high / low).ln());
        if s >= ARENA_SIZES.0 && s <= ARENA_SIZES.1 { usual + odd } else { odd }
    };
    let apart: f64 = sizes.iter().map(|s| density(*s).ln()).sum();
    let alike = ln_alike(&sizes, ARENA_SIZES);
    let arenas = ln_weighed(apart, alike, ARENAS_ALIKE);
    if sizes.windows(2).any(|pair| pair[1] >= pair[0]) {
        return arenas;
    }
    // The first is of any size, each further one anything below the last.
    let further: f64 = sizes.windows(2).map(|pair| -pair[0].ln()).sum();
    let dwindling = further - (sizes[0] * (high / low).ln()).ln();
    ln_weighed(arenas, dwindling, DWINDLING)
}

/// What a caching allocator takes once for all, and adapters, among arenas: each of a size of its own, or all alike, a few in each incarnation, early. Not
/// where one stepped until it died: that goes on.
fn ln_large(events: &[Step], span: &Span<'_>) -> f64 {
    let log = |s: f64, (low, high): (f64, f64)| {
        if (low..=high).contains(&s) { 1.0 / (s * (high / low).ln()) } else { 0.0 }
    };
    let arena = |s: f64| {
        if (ARENA_SIZES.0..=ARENA_SIZES.1).contains(&s) { 1.0 / (ARENA_SIZES.1 - ARENA_SIZES.0) } else { 0.0 }
    };
    let shares = [0.5 * (1.0 - ARENA_ODD), ARENA_ODD];
    let density = |s: f64| shares[0] * (log(s, LARGE_SIZES) + arena(s)) + shares[1] * log(s.clamp(ANY.0, ANY.1), ANY);
    let sizes = sizes(events);
    let apart: f64 = sizes.iter().map(|s| density(*s).ln()).sum();
    let lives = span.lives();
    let on = |(start, end): &(f64, f64)| {
        let mut of = events.iter().map(|e| e.0 - start).filter(|age| (0.0..end - start).contains(age));
        of.next_back().is_some_and(|last| last > START_SHARE * (end - start)) && of.next().is_some()
    };
    if lives[..lives.len() - 1].iter().any(on) {
        return f64::NEG_INFINITY;
    }
    ln_arenas(events, span, &LARGE_UNTIL) + ln_weighed(apart, ln_alike(&sizes, LARGE_SIZES), LARGE_ALIKE)
}

fn sizes(events: &[Step]) -> Vec<f64> {
    events.iter().map(|e| e.1.abs()).collect()
}

/// Steps that come again in each incarnation, at the same age and of the same size, are what the program does when it starts; what does not come
/// again is judged as ever. Nothing, where no incarnation repeats another.
fn ln_repeating(events: &[Step], span: &Span<'_>) -> Option<f64> {
    let mut lives = span.lives();
    lives[0].0 = span.first_start_h();
    let within = |&(start, end): &(f64, f64)| {
        let of = events.iter().filter(|e| (start..end).contains(&e.0)).map(|e| (e.0 - start, e.1));
        (end - start, of.collect::<Vec<Step>>())
    };
    let made: Vec<(f64, Vec<Step>)> = lives.iter().map(within).collect();
    let (mut repeated, mut fresh) = (0.0, Vec::new());
    for (i, (life, of)) in made.iter().enumerate() {
        // What steps until it dies is no start, however like one another the incarnations are.
        let starts = |(life, before): &&(f64, Vec<Step>)| before.last().is_some_and(|last| last.0 < START_SHARE * life);
        let likeliest = made[..i].iter().filter(starts).map(|(_, before)| again(before, of, *life));
        let likeliest = likeliest.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(_, left)| left.len() < of.len());
        let (ln, left) = likeliest.map_or((0.0, of.clone()), |(ln, left)| (ln - (i as f64).ln(), left));
        repeated += ln;
        fresh.extend(left.iter().map(|e| (e.0 + lives[i].0, e.1)));
    }
    (fresh.len() < events.len()).then(|| repeated + ln_sizes(&fresh) + ln_times(&fresh, span))
}

/// How likely it is that an incarnation of this age makes these steps where an earlier one made those, and which it made besides.
fn again(before: &[Step], of: &[Step], life: f64) -> (f64, Vec<Step>) {
    let mut left = of.to_vec();
    let mut ln = 0.0;
    for (age, size) in before {
        let near = AGAIN_H.max(AGAIN_SHARE * age);
        let found = left.iter().position(|e| (e.0 - age).abs() < near && (e.1 / size - 1.0).abs() < AGAIN_SIZE);
        match found {
            Some(at) => {
                left.remove(at);
                ln += AGAIN.ln() - (2.0 * near).ln() - (2.0 * AGAIN_SIZE * size.abs()).ln();
            }
            None if age + near < life => ln += (1.0 - AGAIN).ln(),
            None => {}
        }
    }
    (ln + left.len() as f64 * (1.0 - AGAIN).ln(), left)
}

/// Times of arenas: in each incarnation some number of them, uniform until some time.
fn ln_arenas(events: &[Step], span: &Span<'_>, until: &[f64]) -> f64 {
    let of_one = |(start, end): (f64, f64)| {
        let times: Vec<f64> = events.iter().map(|e| e.0 - start).filter(|t| (0.0..end - start).contains(t)).collect();
        ln_arenas_of_one(&times, end - start, span.horizon_h, until)
    };
    span.lives().into_iter().map(of_one).sum()
}

/// Times of arenas, of edges of working days, or of arenas first and edges then.
fn ln_times(events: &[Step], span: &Span<'_>) -> f64 {
    let terms = (0..=events.len()).map(|arenas| {
        let (arenas, edges) = events.split_at(arenas);
        let share = match (arenas.len(), edges.len()) {
            (_, 0) => 1.0 - EDGES - BOTH,
            (0, _) => EDGES,
            _ => BOTH / (events.len() - 1) as f64,
        };
        let edges = if edges.is_empty() { 0.0 } else { ln_edges(edges, span.long_h(), span.horizon_h) };
        // Most ways to divide many steps leave more than edges may be: arenas, which cost more, are not asked then.
        if edges == f64::NEG_INFINITY {
            return edges;
        }
        share.ln() + ln_arenas(arenas, span, &ARENAS_UNTIL) + edges
    });
    ln_mean(terms) + (events.len() as f64 + 1.0).ln()
}

/// Times of edges: few, uniform over the horizon, and each one's steps within its length.
fn ln_edges(events: &[Step], span: f64, horizon_h: f64) -> f64 {
    let mut edges: Vec<Step> = Vec::new();
    for event in events {
        match edges.last_mut() {
            Some(edge) if event.0 <= edge.0 + EDGE_H => edge.1 += event.1,
            _ => edges.push(*event),
        }
    }
    // One of them may be a second start.
    let mut sizes: Vec<f64> = edges.iter().map(|e| e.1.abs()).collect();
    sizes.sort_by(|a, b| b.total_cmp(a));
    if sizes[0] > START_MOST || sizes.get(1).is_some_and(|size| *size > EDGE_MOST) {
        return f64::NEG_INFINITY;
    }
    let edges = edges.len();
    if edges > EDGES_MAX {
        return f64::NEG_INFINITY;
    }
    let ahead = 1.0 - (span / horizon_h).min(1.0);
    let terms = (edges..=EDGES_MAX).map(|all| {
        let ways: f64 = (0..edges).map(|k| ((all - k) as f64).ln()).sum();
        let left = if all == edges { 0.0 } else { (all - edges) as f64 * ahead.max(1e-12).ln() };
        ways - edges as f64 * horizon_h.ln() + left
    });
    let grid = EDGES_MAX as f64;
    (terms.map(f64::exp).sum::<f64>() / grid).max(1e-300).ln() - (events.len() - edges) as f64 * EDGE_H.ln()
}

fn ln_arenas_of_one(times: &[f64], span: f64, horizon_h: f64, by: &[f64]) -> f64 {
    let n = times.len();
    if n == 0 {
        return 0.0;
    }
    let last = times.iter().copied().fold(0.0, f64::max);
    let terms = by.iter().flat_map(|share| {
        let until = share * horizon_h;
        let ahead = 1.0 - (span / until).min(1.0);
        (n..=ARENAS_MAX).map(move |all| {
            if last > until {
                return f64::NEG_INFINITY;
            }
            let ways: f64 = (0..n).map(|k| ((all - k) as f64).ln()).sum();
            let left = if all == n { 0.0 } else { (all - n) as f64 * ahead.max(1e-12).ln() };
            ways - n as f64 * until.ln() + left
        })
    });
    // More than arenas make, or later: still not impossible, once in a million.
    let rate = 6.0 / horizon_h;
    let odd = n as f64 * rate.ln() - rate * span + (1e-6_f64).ln();
    let grid = (by.len() * ARENAS_MAX) as f64;
    let sum: f64 = terms.map(f64::exp).sum::<f64>() / grid;
    (sum + odd.exp()).max(1e-300).ln()
}

/// Times of steps that become ever rarer as an incarnation grows older, however many.
pub fn ln_dying(events: &[Step], span: &Span<'_>) -> f64 {
    let lives = span.lives();
    let age = |t: f64| t - lives.iter().rev().find(|(start, _)| *start <= t).map_or(span.from_h, |(start, _)| *start);
    let terms = DYING_H.iter().flat_map(|knee| {
        let whole: f64 =
            lives.iter().map(|(start, end)| (1.0 + (end - start).max(0.0) / knee).ln()).sum::<f64>().max(1e-3);
        let at: f64 = events.iter().map(|e| -((age(e.0) + knee) * whole).ln()).sum();
        LEAK_STEPS.iter().map(move |all| events.len() as f64 * all.ln() - all + at)
    });
    ln_mean(terms)
}

/// Sizes of steps that are alike: log-normal about an unknown size, with an unknown spread.
pub fn ln_alike(sizes: &[f64], (low, high): (f64, f64)) -> f64 {
    let logs: Vec<f64> = sizes.iter().map(|s| s.max(1e-6).ln()).collect();
    let n = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / n;
    let scatter: f64 = logs.iter().map(|l| (l - mean).powi(2)).sum();
    let jacobian: f64 = logs.iter().sum();
    let terms = SPREADS.iter().flat_map(|spread| {
        (0..SIZES).map(move |i| {
            let middle = low.ln() + (high / low).ln() * i as f64 / (SIZES - 1) as f64;
            let squares = scatter + n * (mean - middle).powi(2);
            // A grid coarser than the spread would miss sizes between its points.
            let wide = spread.hypot(0.5 * (high / low).ln() / (SIZES - 1) as f64 / n.sqrt());
            -0.5 * squares / (wide * wide) - n * (wide.ln() + 0.919)
        })
    });
    ln_mean(terms) - jacobian
}
