//! Are the steps a leak? An allocator's arenas step a few times and stop; a leak in steps goes on.
//!
//! Two accounts of the steps are weighed against each other (a Bayes factor; Kass and Raftery, "Bayes Factors", 1995). Arenas and what
//! else steps a few times (`arenas`). A leak: a Poisson process that goes
//! on at its rate for the whole run, its steps alike in size (log-normal, more or less narrow). The time without a step counts
//! too: it speaks for arenas that are done.

use super::arenas::{LEAK_STEPS, START_MOST, Span, ln_alike, ln_dying, ln_no_leak};
use super::special::{ln_mean, ln_weighed};
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
/// ... and what the one leaves of the other is a step of its own if it is larger than this, tolerances (5 MB).
const LEAVES_MIN: f64 = 0.1;
/// So many visits, of which each was as large as this share of another, make that other a visit that is not over.
const VISITS: usize = 2;
const VISITS_LIKE: f64 = 0.7;
/// One takes the other back, wherever they lie, if they differ by less than this share.
const AS_LARGE: f64 = 0.2;
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
/// ... and this share becomes ever rarer: what is filled at random.
const DYING: f64 = 0.02;
/// Sizes of a leak's steps, tolerances: from 3 MB to 500 MB.
const LEAK_SIZES: (f64, f64) = (0.06, 10.0);
/// A step larger than any start, and so many times as large as most, is none of a leak's.
const APART: f64 = 10.0;
/// Against the common direction: probability of such a step in a leak, and otherwise.
const AGAINST: (f64, f64) = (1e-3, 0.1);

/// Judges the steps of the last horizon, at `now_h`, but none before `from_h`; `starts_h` are the beginnings of the incarnations.
pub fn judge(steps: &VecDeque<Step>, starts_h: &[f64], from_h: f64, now_h: f64, horizon_h: f64) -> StepLeak {
    let from = (now_h - horizon_h).max(from_h);
    let span = Span { starts_h, from_h: from, now_h, horizon_h };
    weigh(come_to_stay(merged(steps, from)), &span, false)
}

/// The same of steps that were found looking back: smaller ones, slower ones, and more of those that are noise. Those go down as often as up.
pub fn judge_back(steps: &VecDeque<Step>, starts_h: &[f64], from_h: f64, now_h: f64, horizon_h: f64) -> StepLeak {
    let from = (now_h - horizon_h).max(from_h);
    let span = Span { starts_h, from_h: from, now_h, horizon_h };
    weigh((left_over(merged(steps, from)), 0.0), &span, true)
}

fn weigh((mut events, returned): (Vec<Step>, f64), span: &Span<'_>, looking_back: bool) -> StepLeak {
    let others = take_apart(&mut events);
    let n = events.len();
    let sum: f64 = events.iter().map(|e| e.1).sum();
    let with: Vec<f64> = events.iter().map(|e| e.1 * sum.signum()).filter(|s| *s > 0.0).collect();
    if with.len() < COUNT_MIN || sum == 0.0 {
        return StepLeak { count: n, others: others + sum, ..StepLeak::default() };
    }
    // A leak gives nothing back; what goes to and fro may be a load that comes and goes.
    let gone_up = with.iter().sum::<f64>() + returned;
    let to_and_fro = gone_up - sum.abs() > FELL_MAX * gone_up;
    let against = (n - with.len()) as f64;
    let (long_h, horizon_h) = (span.long_h(), span.horizon_h);
    let leak = ln_rate(with.len(), long_h, horizon_h) + ln_alike(&with, LEAK_SIZES) + against * AGAINST.0.ln();
    // What goes the other way has its price below, and is none of those.
    let ups: Vec<Step> = events.iter().copied().filter(|e| e.1 * sum > 0.0).collect();
    let arenas = ln_no_leak(&ups, span) + against * AGAINST.1.ln();
    let arenas = if looking_back {
        // What wanders goes up and down alike, at any time, by steps of any size.
        let alike = ln_alike(&with, LEAK_SIZES);
        let wanders = ln_rate(with.len(), long_h, horizon_h) + alike - n as f64 * std::f64::consts::LN_2;
        let dies = ln_dying(&ups, span) + alike + against * AGAINST.1.ln();
        ln_weighed(ln_weighed(arenas, dies, DYING), wanders, WANDER)
    } else {
        arenas
    };
    let down = if looking_back { ODDS_DOWN_BACK } else { ODDS_DOWN };
    let odds = if sum > 0.0 { ODDS } else { down } * (leak - arenas).clamp(-50.0, 50.0).exp();
    let scale = (horizon_h / long_h).max(1.0);
    let squares: f64 = events.iter().map(|e| e.1 * e.1).sum();
    let leak = StepLeak {
        probability: odds / (1.0 + odds),
        drift: sum * scale,
        sd: squares.sqrt() * (scale - 1.0).max(0.0),
        count: n,
        others,
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

/// A step that the next one takes back, being of about the same size, is a level that comes and goes: of both only the difference is counted,
/// what a visit leaves behind. Returns what is left, and what was taken back.
fn come_to_stay(events: Vec<Step>) -> (Vec<Step>, f64) {
    let mut left: Vec<Step> = Vec::with_capacity(events.len());
    let mut returned = 0.0;
    for event in events {
        match left.last() {
            Some((_, size)) if size * event.1 < 0.0 && (size + event.1).abs() < ALIKE * event.1.abs() => {
                returned += size.abs();
                let leaves = size + event.1;
                left.pop();
                if leaves.abs() > LEAVES_MIN {
                    left.push((event.0, leaves));
                }
            }
            _ => left.push(event),
        }
    }
    (left, returned)
}

/// What steps since some time (hours) have brought, tolerances, but for levels that came and went, and for one more such visit at the end, if two
/// as large have gone again.
pub fn brought(steps: &VecDeque<Step>, from_h: f64) -> f64 {
    let (mut left, _) = come_to_stay(steps.iter().copied().filter(|s| s.0 >= from_h).collect());
    if let Some((_, last)) = left.last().filter(|last| last.1 > 0.0) {
        let gone =
            |pair: (&Step, &Step)| pair.0.1 > VISITS_LIKE * last && (pair.0.1 + pair.1.1).abs() < ALIKE * pair.0.1;
        if steps.iter().zip(steps.iter().skip(1)).filter(|pair| gone(*pair)).count() >= VISITS {
            left.pop();
        }
    }
    left.iter().map(|(_, size)| size).sum()
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
    fn a_few_large_blocks_are_no_leak_yet_and_what_goes_on_with_them_is() {
        let blocks = [(2.6, 3.2), (3.5, 2.1), (11.8, 3.2)];
        assert!(probability(&blocks, 12.5) < 0.9, "{}", probability(&blocks, 12.5));
        let goes_on = |until_h: f64| {
            let steps: Vec<Step> = (1..12).map(|k| (4.0 * f64::from(k), 2.0)).filter(|s| s.0 < until_h).collect();
            probability(&steps, until_h)
        };
        assert!(goes_on(13.0) < 0.9 && goes_on(32.0) > 0.98, "{} {}", goes_on(13.0), goes_on(32.0));
    }

    fn across(steps: &[Step], starts_h: &[f64], now_h: f64) -> f64 {
        judge(&steps.iter().copied().collect(), starts_h, 0.0, now_h, 48.0).probability
    }

    #[test]
    fn what_each_incarnation_does_again_is_a_start_unless_it_goes_on_until_it_dies() {
        let again =
            [(1.2, 1.9), (5.1, 3.1), (13.3, 1.9), (17.2, 3.0), (25.2, 1.9), (29.0, 3.1), (37.2, 1.9), (41.1, 3.1)];
        assert!(across(&again, &[12.0, 24.0, 36.0], 47.0) < 0.1, "{}", across(&again, &[12.0, 24.0, 36.0], 47.0));
        let on: Vec<Step> =
            (0..3).flat_map(|life| [4.0, 8.0, 12.0].map(|age| (16.0 * f64::from(life) + age, 2.0))).collect();
        assert!(across(&on[..4], &[16.0], 21.0) > 0.98, "{}", across(&on[..4], &[16.0], 21.0));
        assert!(across(&on, &[16.0, 32.0], 47.0) > 0.98, "{}", across(&on, &[16.0, 32.0], 47.0));
    }

    #[test]
    fn a_visit_leaves_what_it_does_not_take_along_and_one_more_is_no_gain() {
        let visits = |each: f64, last: bool| {
            let visit = |k: u32| [(6.0 * f64::from(k), 40.0), (6.0 * f64::from(k) + 1.0, each - 40.0)];
            let mut steps: VecDeque<Step> = (1..7).flat_map(visit).collect();
            if last {
                steps.push_back((47.0, 40.0));
            }
            steps
        };
        assert!((brought(&visits(0.0, true), 12.0)).abs() < 1e-9);
        assert!((brought(&visits(0.4, true), 12.0) - 2.0).abs() < 1e-9, "{}", brought(&visits(0.4, true), 12.0));
        // To and fro as it goes, it never rings by itself, but is part of the interval.
        let leak = judge(&visits(0.4, false), &[], 0.0, 44.0, 48.0);
        assert!(leak.probability > 0.2 && (leak.drift - 2.6).abs() < 0.3, "{leak:?}");
        assert!(judge(&visits(0.0, false), &[], 0.0, 44.0, 48.0).probability < 0.01);
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
