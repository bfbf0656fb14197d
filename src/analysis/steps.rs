//! Are the steps a leak? An allocator's arenas step a few times and stop; a leak in steps goes on.
//!
//! Two accounts of the steps are weighed against each other (a Bayes factor; Kass and Raftery, "Bayes Factors", 1995). Arenas: up to
//! six in each incarnation, early rather than late, of 5 to 70 MB, now and then of any size. A leak: a Poisson process that goes
//! on at its rate for the whole run, its steps alike in size (log-normal, more or less narrow). The time without a step counts
//! too: it speaks for arenas that are done.

use super::ticks::quantile;
use std::collections::VecDeque;

/// A lasting jump: when (hours) and how far (tolerances).
pub type Step = (f64, f64);

/// What the steps amount to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepLeak {
    /// Probability that they are a leak.
    pub probability: f64,
    /// What they then add to the drift over the horizon, tolerances.
    pub drift: f64,
    /// Its standard deviation: what is left of the horizon may see more steps or fewer.
    pub sd: f64,
    /// Steps that count.
    pub count: usize,
    /// What those that stay and are none of a leak's sum to, tolerances: too few for one, or much larger than the others.
    pub others: f64,
    to_and_fro: bool,
}

impl StepLeak {
    /// The same where the process is known to leak between its steps: then they are most likely part of it.
    pub fn beside_leak(self) -> StepLeak {
        let odds = self.probability / (1.0 - self.probability).max(1e-9) * ODDS_IN_LEAK / ODDS;
        StepLeak { probability: (odds / (1.0 + odds)).min(self.most()), ..self }
    }

    fn most(self) -> f64 {
        if self.to_and_fro { DOUBTFUL } else { 1.0 }
    }
}

/// Steps nearer than this are one event, hours.
const MERGE_H: f64 = 0.5;
/// Fewer steps than this are no series of them.
const COUNT_MIN: usize = 3;
/// Share of what was stepped up that may have been stepped down again.
const FELL_MAX: f64 = 0.35;
/// Two steps are of about the same size if they differ by less than this share.
const ALIKE: f64 = 0.3;
/// ... and one takes the other back, wherever they lie, if they differ by less than this share.
const AS_LARGE: f64 = 0.2;
/// Of what steps and is no leak, this share is a start or a cache that was taken for steps: each is smaller than the one before.
const DWINDLING: f64 = 0.2;
/// How far steps to and fro are believed in at most: too little to ring, enough to be part of the interval.
const DOUBTFUL: f64 = 0.4;
/// Prior odds of a leak in steps against anything else that steps.
const ODDS: f64 = 0.08;
/// The same where the process is known to leak between its steps.
const ODDS_IN_LEAK: f64 = 4.0;
/// The same for steps down: what shrinks in steps is rare, and what falls after a spike that was taken for a step is not.
const ODDS_DOWN: f64 = 0.002;
/// ... but looking back no spike is.
const ODDS_DOWN_BACK: f64 = 0.02;
/// Of what steps and is no leak, this share goes up and down alike, where small steps are looked for.
const WANDER: f64 = 0.2;
/// ... and this share becomes ever rarer, after so many hours as one over time: what is filled at random.
const DYING: f64 = 0.02;
const DYING_H: [f64; 3] = [0.7, 2.0, 5.0];
/// Steps in a horizon that a leak makes, on a logarithmic grid.
const LEAK_STEPS: [f64; 6] = [4.0, 7.0, 12.0, 22.0, 40.0, 75.0];
/// How much a leak's steps differ in size: standard deviations of their logarithms.
const LEAK_SPREADS: [f64; 3] = [0.12, 0.35, 0.9];
/// Sizes of a leak's steps, tolerances: from 3 MB to 500 MB.
const LEAK_SIZES: (f64, f64, usize) = (0.06, 10.0, 24);
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
const START_MOST: f64 = 6.5;
/// ... and a step larger than that, and so many times as large as most, is none of theirs.
const APART: f64 = 10.0;
/// Usual sizes of arenas, tolerances: 5 to 70 MB ...
const ARENA_SIZES: (f64, f64) = (0.1, 1.4);
/// ... and the share of those that are of any size from 1 MB to 1 GB.
const ARENA_ODD: f64 = 0.1;
/// Of arenas, the share that are alike in size, as an allocator's are that come from the same settings: then the sizes say nothing.
const ARENAS_ALIKE: f64 = 0.02;
/// Against the common direction: probability of such a step in a leak, and otherwise.
const AGAINST: (f64, f64) = (1e-3, 0.1);

/// Judges the steps of the last horizon, at `now_h`, but none before `from_h`; `starts_h` are the beginnings of the incarnations.
pub fn judge(steps: &VecDeque<Step>, starts_h: &[f64], from_h: f64, now_h: f64, horizon_h: f64) -> StepLeak {
    let from = (now_h - horizon_h).max(from_h);
    weigh(come_to_stay(merged(steps, from)), starts_h, from, now_h, horizon_h, false)
}

/// The same of steps that were found looking back: smaller ones, slower ones, and more of those that are noise. Those go down as often as up.
pub fn judge_back(steps: &VecDeque<Step>, starts_h: &[f64], from_h: f64, now_h: f64, horizon_h: f64) -> StepLeak {
    let from = (now_h - horizon_h).max(from_h);
    weigh((left_over(merged(steps, from)), 0.0), starts_h, from, now_h, horizon_h, true)
}

fn weigh(
    (mut events, returned): (Vec<Step>, f64),
    starts_h: &[f64],
    from: f64,
    now_h: f64,
    horizon_h: f64,
    looking_back: bool,
) -> StepLeak {
    let apart = take_apart(&mut events);
    let n = events.len();
    let sum: f64 = events.iter().map(|e| e.1).sum();
    let with: Vec<f64> = events.iter().map(|e| e.1 * sum.signum()).filter(|s| *s > 0.0).collect();
    if with.len() < COUNT_MIN || sum == 0.0 {
        return StepLeak { count: n, others: apart + sum, ..StepLeak::default() };
    }
    // A leak gives nothing back; what goes to and fro may be a load that comes and goes.
    let gone_up = with.iter().sum::<f64>() + returned;
    let to_and_fro = gone_up - sum.abs() > FELL_MAX * gone_up;
    let against = (n - with.len()) as f64;
    let span = (now_h - from).max(1e-3);
    let leak = ln_rate(with.len(), span, horizon_h) + ln_alike(&with, LEAK_SIZES) + against * AGAINST.0.ln();
    // What goes the other way has its price below, and is none of those.
    let ups: Vec<Step> = events.iter().copied().filter(|e| e.1 * sum > 0.0).collect();
    let times = ln_not_going_on(&ups, starts_h, from, now_h, horizon_h);
    let arenas = times + ln_odd(&with) + against * AGAINST.1.ln();
    let arenas = if looking_back {
        // What wanders goes up and down alike, at any time, by steps of any size.
        let alike = ln_alike(&with, LEAK_SIZES);
        let wanders = ln_rate(with.len(), span, horizon_h) + alike - n as f64 * std::f64::consts::LN_2;
        let dies = ln_dying(&ups, starts_h, from, now_h) + alike + against * AGAINST.1.ln();
        ln_weighed(ln_weighed(arenas, dies, DYING), wanders, WANDER)
    } else {
        arenas
    };
    let down = if looking_back { ODDS_DOWN_BACK } else { ODDS_DOWN };
    let odds = if sum > 0.0 { ODDS } else { down } * (leak - arenas).clamp(-50.0, 50.0).exp();
    let scale = (horizon_h / span).max(1.0);
    let squares: f64 = events.iter().map(|e| e.1 * e.1).sum();
    let leak = StepLeak {
        probability: odds / (1.0 + odds),
        drift: sum * scale,
        sd: squares.sqrt() * (scale - 1.0).max(0.0),
        count: n,
        others: apart,
        to_and_fro,
    };
    StepLeak { probability: leak.probability.min(leak.most()), ..leak }
}

fn merged(steps: &VecDeque<Step>, from: f64) -> Vec<Step> {
    let mut events: Vec<Step> = Vec::new();
    for &(t, size) in steps.iter().filter(|s| s.0 >= from) {
        match events.last_mut() {
            Some(last) if t - last.0 < MERGE_H => last.1 += size,
            _ => events.push((t, size)),
        }
    }
    events.retain(|e| e.1.abs() > LEAK_SIZES.0);
    events
}

/// Takes out the steps that are much larger than most, if they are too few for a leak: another model was loaded. Returns their sum.
fn take_apart(events: &mut Vec<Step>) -> f64 {
    let mut sizes: Vec<f64> = events.iter().map(|(_, size)| size.abs()).collect();
    let least = START_MOST.max(APART * quantile(&mut sizes, 0.5));
    let sums = [1.0, -1.0].map(|side| {
        let apart = |e: &Step| e.1 * side > least;
        let few = events.iter().filter(|e| apart(e)).count() < COUNT_MIN;
        let sum: f64 = events.iter().filter(|e| few && apart(e)).map(|(_, size)| size).sum();
        events.retain(|e| !few || !apart(e));
        sum
    });
    sums.iter().sum()
}

/// A step that the next one takes back, being of about the same size, is a level that comes and goes: neither is counted. Returns what is
/// left, and what was taken back.
fn come_to_stay(events: Vec<Step>) -> (Vec<Step>, f64) {
    let mut left: Vec<Step> = Vec::with_capacity(events.len());
    let mut returned = 0.0;
    for event in events {
        match left.last() {
            Some((_, size)) if size * event.1 < 0.0 && (size + event.1).abs() < ALIKE * event.1.abs() => {
                returned += size.abs();
                left.pop();
            }
            _ => left.push(event),
        }
    }
    (left, returned)
}

/// What is left where a step down takes back a step up: one that is as large, whenever it came (a level that comes and goes, noise), or part of
/// a larger one (the edges of a working day, with what came to stay beside them).
fn left_over(mut events: Vec<Step>) -> Vec<Step> {
    let near = |a: f64, b: f64| a.min(b) / a.max(b);
    for larger in [false, true] {
        let downs: Vec<usize> = (0..events.len()).filter(|i| events[*i].1 < 0.0).collect();
        for down in downs {
            let size = -events[down].1;
            let fits = |i: &usize| if larger { events[*i].1 > size } else { near(events[*i].1, size) > 1.0 - AS_LARGE };
            let up = (0..events.len()).filter(|i| events[*i].1 > 0.0).filter(fits).max_by(|i, j| {
                // The one that is most alike, or the last before, or the first after.
                let rank =
                    |i: usize| if larger { (if i < down { i } else { 0 }) as f64 } else { near(events[i].1, size) };
                rank(*i).total_cmp(&rank(*j)).then(j.cmp(i))
            });
            let Some(up) = up else { continue };
            events[up].1 = if larger { events[up].1 - size } else { 0.0 };
            events[down].1 = 0.0;
        }
    }
    events.retain(|(_, size)| size.abs() > LEAK_SIZES.0);
    events
}

/// Times of a leak's steps: a Poisson process of unknown rate.
fn ln_rate(n: usize, span: f64, horizon_h: f64) -> f64 {
    let terms = LEAK_STEPS.iter().map(|per_horizon| {
        let rate = per_horizon / horizon_h;
        n as f64 * rate.ln() - rate * span
    });
    ln_mean(terms)
}

/// Times of steps that become ever rarer as an incarnation grows older, however many.
fn ln_dying(events: &[Step], starts_h: &[f64], from: f64, now_h: f64) -> f64 {
    let mut starts: Vec<f64> = vec![from];
    starts.extend(starts_h.iter().filter(|s| **s > from));
    let ends = starts.iter().skip(1).copied().chain([now_h]);
    let lives: Vec<f64> = starts.iter().zip(ends).map(|(start, end)| (end - start).max(0.0)).collect();
    let age = |t: f64| t - starts.iter().rev().find(|s| **s <= t).unwrap_or(&from);
    let terms = DYING_H.iter().flat_map(|knee| {
        let whole: f64 = lives.iter().map(|life| (1.0 + life / knee).ln()).sum::<f64>().max(1e-3);
        let at: f64 = events.iter().map(|e| -((age(e.0) + knee) * whole).ln()).sum();
        LEAK_STEPS.iter().map(move |all| events.len() as f64 * all.ln() - all + at)
    });
    ln_mean(terms)
}

/// Sizes of steps that are alike: log-normal about an unknown size, with an unknown spread.
fn ln_alike(sizes: &[f64], (low, high, count): (f64, f64, usize)) -> f64 {
    let logs: Vec<f64> = sizes.iter().map(|s| s.max(1e-6).ln()).collect();
    let n = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / n;
    let scatter: f64 = logs.iter().map(|l| (l - mean).powi(2)).sum();
    let jacobian: f64 = logs.iter().sum();
    let terms = LEAK_SPREADS.iter().flat_map(|spread| {
        (0..count).map(move |i| {
            let middle = low.ln() + (high / low).ln() * i as f64 / (count - 1) as f64;
            let squares = scatter + n * (mean - middle).powi(2);
            // A grid coarser than the spread would miss sizes between its points.
            let wide = spread.hypot(0.5 * (high / low).ln() / (count - 1) as f64 / n.sqrt());
            -0.5 * squares / (wide * wide) - n * (wide.ln() + 0.919)
        })
    });
    ln_mean(terms) - jacobian
}

/// Sizes of what is no leak.
fn ln_odd(sizes: &[f64]) -> f64 {
    let usual = (1.0 - ARENA_ODD) / (ARENA_SIZES.1 - ARENA_SIZES.0);
    let (low, high) = (0.02_f64, 20.0_f64);
    let density = |s: f64| {
        let odd = ARENA_ODD / (s.clamp(low, 50.0) * (high / low).ln());
        if s >= ARENA_SIZES.0 && s <= ARENA_SIZES.1 { usual + odd } else { odd }
    };
    let apart: f64 = sizes.iter().map(|s| density(*s).ln()).sum();
    let alike = ln_alike(sizes, (ARENA_SIZES.0, ARENA_SIZES.1, LEAK_SIZES.2));
    let arenas = ln_weighed(apart, alike, ARENAS_ALIKE);
    if sizes.windows(2).any(|pair| pair[1] >= pair[0]) {
        return arenas;
    }
    // The first is of any size, each further one anything below the last.
    let further: f64 = sizes.windows(2).map(|pair| -pair[0].ln()).sum();
    let dwindling = further - (sizes[0] * (high / low).ln()).ln();
    ln_weighed(arenas, dwindling, DWINDLING)
}

/// ln of the mean of two exponentials, of which the second has the weight `share`.
fn ln_weighed(a: f64, b: f64, share: f64) -> f64 {
    let top = a.max(b);
    top + ((1.0 - share) * (a - top).exp() + share * (b - top).exp()).ln()
}

/// Times of arenas: in each incarnation some number of them, uniform until some time.
fn ln_arenas(events: &[Step], starts_h: &[f64], from: f64, now_h: f64, horizon_h: f64) -> f64 {
    let mut starts: Vec<f64> = starts_h.iter().copied().filter(|s| *s > from).collect();
    starts.insert(0, from);
    let mut total = 0.0;
    for (i, start) in starts.iter().enumerate() {
        let end = starts.get(i + 1).copied().unwrap_or(now_h);
        let times: Vec<f64> = events.iter().map(|e| e.0 - start).filter(|t| *t >= 0.0 && *t < end - start).collect();
        total += ln_arenas_of_one(&times, end - start, horizon_h);
    }
    total
}

/// Times of arenas, of edges of working days, or of arenas first and edges then.
fn ln_not_going_on(events: &[Step], starts_h: &[f64], from: f64, now_h: f64, horizon_h: f64) -> f64 {
    let span = (now_h - from).max(1e-3);
    let terms = (0..=events.len()).map(|arenas| {
        let (arenas, edges) = events.split_at(arenas);
        let share = match (arenas.len(), edges.len()) {
            (_, 0) => 1.0 - EDGES - BOTH,
            (0, _) => EDGES,
            _ => BOTH / (events.len() - 1) as f64,
        };
        let edges = if edges.is_empty() { 0.0 } else { ln_edges(edges, span, horizon_h) };
        // Most ways to divide many steps leave more than edges may be: arenas, which cost more, are not asked then.
        if edges == f64::NEG_INFINITY {
            return edges;
        }
        share.ln() + ln_arenas(arenas, starts_h, from, now_h, horizon_h) + edges
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

fn ln_arenas_of_one(times: &[f64], span: f64, horizon_h: f64) -> f64 {
    let n = times.len();
    if n == 0 {
        return 0.0;
    }
    let last = times.iter().copied().fold(0.0, f64::max);
    let terms = ARENAS_UNTIL.iter().flat_map(|share| {
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
    let grid = (ARENAS_UNTIL.len() * ARENAS_MAX) as f64;
    let sum: f64 = terms.map(f64::exp).sum::<f64>() / grid;
    (sum + odd.exp()).max(1e-300).ln()
}

/// ln of the mean of exponentials.
fn ln_mean(terms: impl Iterator<Item = f64>) -> f64 {
    let terms: Vec<f64> = terms.collect();
    let top = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = terms.iter().map(|t| (t - top).exp()).sum();
    top + (sum / terms.len() as f64).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probability(steps: &[Step], now_h: f64) -> f64 {
        judge(&steps.iter().copied().collect(), &[], 0.0, now_h, 48.0).probability
    }

    #[test]
    fn leaps_that_dwindle_are_a_start_and_leaps_that_do_not_are_a_leak() {
        // A cache of two gigabytes that filled ever more slowly, as steps in tolerances.
        let start = [(1.77, 17.29), (2.6, 12.58), (3.58, 5.92), (4.42, 2.01), (5.67, 1.16)];
        assert!(probability(&start, 6.2) < 0.1, "{}", probability(&start, 6.2));
        let leak: Vec<Step> = (1..9).map(|i| (f64::from(i), 1.6 + 0.1 * f64::from(i % 3))).collect();
        assert!(probability(&leak, 8.5) > 0.98, "{}", probability(&leak, 8.5));
    }

    #[test]
    fn what_a_later_step_takes_back_is_not_counted() {
        let buffer = [(2.8, 0.5), (3.9, -0.5), (5.0, 0.52), (6.1, -0.49), (7.2, 0.5)];
        let (left, returned) = come_to_stay(buffer.to_vec());
        assert_eq!(left.len(), 1);
        assert!((returned - 1.02).abs() < 1e-9, "{returned}");
    }

    #[test]
    fn a_few_late_steps_are_part_of_a_leak_that_is_known() {
        let few = [(13.5, 0.5), (25.0, 0.4), (41.2, 0.8)].iter().copied().collect();
        let alone = judge(&few, &[], 0.0, 47.0, 48.0);
        assert!(alone.probability < 0.1 && alone.beside_leak().probability > 0.5, "{alone:?}");
        // Arenas are none for that.
        let arenas = [(1.2, 0.2), (3.2, 0.2), (4.5, 0.4), (6.0, 0.2), (8.5, 0.3)].iter().copied().collect();
        let beside = judge(&arenas, &[], 0.0, 47.0, 48.0).beside_leak();
        assert!(beside.probability < 0.2, "{beside:?}");
    }

    #[test]
    fn edges_of_working_days_are_no_leak_in_steps() {
        // One morning seen as three steps; the edges of two days; a load on three days.
        let morning = [(40.3, 0.6), (41.6, 0.6), (42.1, 0.2)];
        assert!(probability(&morning, 43.4) < 0.1, "{}", probability(&morning, 43.4));
        let two_days = [(1.5, 0.5), (2.1, 0.5), (2.8, 0.3), (16.0, 1.0), (24.9, -1.0), (40.0, 1.0)];
        assert!(probability(&two_days, 41.3) < 0.1, "{}", probability(&two_days, 41.3));
        // As many of twice the size are no day.
        let larger = [(1.5, 2.5), (16.0, 2.5), (28.0, 2.5), (41.0, 2.5)];
        assert!(probability(&larger, 42.0) > 0.9, "{}", probability(&larger, 42.0));
    }

    #[test]
    fn a_few_arenas_of_one_size_are_no_leak_yet() {
        let arenas = [(4.1, 0.3), (4.7, 0.3), (5.5, 0.3), (7.2, 0.3)];
        assert!(probability(&arenas, 8.0) < 0.9, "{}", probability(&arenas, 8.0));
        assert!(probability(&arenas, 30.0) < 0.1, "{}", probability(&arenas, 30.0));
    }

    #[test]
    fn arenas_with_a_working_day_after_them_are_no_leak() {
        let day = [(0.3, 0.9), (1.8, 0.6), (2.2, 0.55), (3.9, 0.59), (4.8, 0.67), (11.2, 0.17), (12.4, 0.53)];
        assert!(probability(&day, 16.6) < 0.9, "{}", probability(&day, 16.6));
        // What goes down later is no arena.
        let arenas = [(0.7, 0.79), (1.8, 0.68), (7.0, 0.87), (10.0, 0.94), (23.0, -0.25), (47.0, -0.33)];
        assert!(probability(&arenas, 47.4) < 0.1, "{}", probability(&arenas, 47.4));
    }

    #[test]
    fn looking_back_what_goes_down_in_steps_shrinks() {
        let shrinks = (0..14).map(|i| (1.5 + 3.3 * f64::from(i), -0.42 - 0.02 * f64::from(i % 4))).collect::<Vec<_>>();
        assert!(looking_back(&shrinks).probability > 0.8, "{:?}", looking_back(&shrinks));
        assert!(looking_back(&shrinks[..3]).probability < 0.1, "{:?}", looking_back(&shrinks[..3]));
    }

    fn looking_back(steps: &[Step]) -> StepLeak {
        judge_back(&steps.iter().copied().collect(), &[], 0.0, 47.7, 48.0)
    }

    #[test]
    fn looking_back_what_a_day_takes_back_is_not_counted_and_what_it_leaves_is() {
        // Two days of 47 MB, and bursts of 15 beside them, one of them within a morning.
        let days =
            [(2.4, 0.3), (4.7, 0.3), (7.1, 1.27), (10.4, 0.3), (16.7, -0.95), (30.4, 1.0), (41.5, -0.94), (43.2, 0.3)];
        let left = left_over(days.to_vec());
        assert_eq!(left.len(), 5, "{left:?}");
        assert!(left.iter().all(|(_, size)| (size - 0.3).abs() < 0.05), "{left:?}");
    }

    #[test]
    fn looking_back_steps_must_go_on_and_go_up() {
        // Of bursts, seven that were seen: from 5 to 30 MB, to the end.
        let bursts = [(3.6, 0.59), (6.5, 0.09), (9.6, 0.47), (15.9, 0.32), (20.4, 0.37), (33.6, 0.26), (40.0, 0.28)];
        assert!(looking_back(&bursts).probability > 0.8, "{:?}", looking_back(&bursts));
        // As many that stop half way; as many of which half go down.
        let stop = [(0.7, 0.26), (1.3, 0.27), (2.5, 0.29), (3.6, 0.26), (7.9, 0.18), (14.6, 0.12), (17.9, 0.1)];
        assert!(looking_back(&stop).probability < 0.2, "{:?}", looking_back(&stop));
        let wanders = bursts.map(|(t_h, size)| (t_h, if t_h < 16.0 && t_h > 5.0 { -0.45 * size } else { size }));
        assert!(looking_back(&wanders).probability < 0.2, "{:?}", looking_back(&wanders));
    }
}
