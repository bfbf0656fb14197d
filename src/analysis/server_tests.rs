//! What servers of models do, by the gigabyte: blocks that an allocator takes once for all, deploys, models that come and go, slow saw-tooths.

use super::tests::{START_UNIX_S, series};
use super::{Detector, Params, batch};
use crate::model::finding::{Shape, Verdict};
use crate::model::series::Point;

/// Two days of incarnations that begin at these hours: MB as a function of hours since and of the incarnation, a minute apart.
fn incarnations(starts_h: &[f64], megabytes: impl Fn(f64, usize) -> f64) -> Vec<Point> {
    let of = |h: f64| starts_h.iter().rposition(|start| *start <= h).expect("the first is 0");
    let mut points = series(48.0, 60.0, |h| megabytes(h - starts_h[of(h)], of(h)));
    points.iter_mut().for_each(|point| point.segment = of((point.unix_s - START_UNIX_S) / 3600.0) as u32);
    points
}

#[test]
fn a_server_that_takes_in_the_same_blocks_after_each_deploy_is_within() {
    let blocks = [(0.8, 160.0), (1.6, 105.0), (3.1, 420.0)];
    let held = |h: f64, _| 36e3 + blocks.iter().filter(|(at, _)| h >= *at).map(|(_, size)| size).sum::<f64>();
    let f = batch(&incarnations(&[0.0, 12.8, 28.0], held), Params::default());
    assert!(!f.alarmed && f.verdict == Verdict::Within, "{f:?}");
    // Blocks that are taken until it dies are a leak.
    let f = batch(&incarnations(&[0.0, 16.0, 32.0], |h, _| 36e3 + 100.0 * (h / 4.0).floor()), Params::default());
    assert!(f.alarmed && f.verdict == Verdict::Outside, "{f:?}");
}

#[test]
fn models_that_come_and_go_are_within_even_if_one_is_there_in_the_end() {
    let visits = |left: f64| {
        move |h: f64| {
            900.0 + if (h / 3.7 + 0.3).fract() < 0.35 { 5300.0 } else { 0.0 } + left * (h / 3.7 + 0.95).floor()
        }
    };
    assert!(visits(0.0)(47.99) > 6000.0, "one is there in the end");
    let f = batch(&series(48.0, 60.0, visits(0.0)), Params::default());
    assert!(!f.alarmed && f.verdict == Verdict::Within, "{f:?}");
    // Each leaves 15 MB: whatever that is called, it is not within.
    let f = batch(&series(48.0, 60.0, visits(15.0)), Params::default());
    assert!(f.verdict != Verdict::Within, "{f:?}");
}

/// Rises by so many MB within 2.4 hours or so, and falls at once.
fn tooth(h: f64, megabytes: f64) -> f64 {
    megabytes * (h / 2.4 + 0.05 * (h * 1.3).sin()).fract()
}

#[test]
fn a_slow_saw_tooth_is_told_by_its_troughs() {
    let pages = |rate: f64, size: f64| move |h: f64, of: usize| 3300.0 + tooth(h + 7.0 * of as f64, size) + rate * h;
    // Teeth of hundreds of megabytes were dropped whole, as excursions.
    for size in [70.0, 400.0] {
        let clean = batch(&incarnations(&[0.0, 7.2, 20.5], pages(0.0, size)), Params::default());
        assert!(!clean.alarmed && clean.shape == Shape::Sawtooth, "{clean:?}");
        assert!(clean.verdict != Verdict::Outside && clean.drift_bytes.abs() < 50e6, "{clean:?}");
        // What each incarnation loses between its teeth rings.
        let leak = batch(&incarnations(&[0.0, 7.2, 20.5], pages(4.0, size)), Params::default());
        let [lo, hi] = leak.drift_ci95_bytes.map(|bytes| bytes / 1e6);
        assert!(leak.alarmed && leak.verdict == Verdict::Outside, "{leak:?}");
        assert!(lo < 192.0 && hi > 192.0 && hi - lo < 150.0, "{leak:?}");
    }
    let small = batch(&incarnations(&[0.0, 7.2, 20.5], pages(0.0, 70.0)), Params::default());
    assert_eq!(small.verdict, Verdict::Within, "{small:?}");
    // What loads at each start is none of a tooth.
    let loads = |rate: f64| move |h: f64, _| 900.0 + 20e3 * (12.0 * h).min(1.0) + 70.0 * (h / 2.4).fract() + rate * h;
    let reloads = [0.0, 8.0, 15.0, 24.0, 31.0, 40.0];
    let clean = batch(&incarnations(&reloads, loads(0.0)), Params::default());
    assert_eq!((clean.verdict, clean.shape), (Verdict::Within, Shape::Sawtooth), "{clean:?}");
    let leak = batch(&incarnations(&reloads, loads(4.0)), Params::default());
    assert!(leak.alarmed && leak.verdict == Verdict::Outside, "{leak:?}");
    // A step that no tooth is as large as is none of them.
    let falls = |h: f64| 3300.0 + tooth(h, 70.0) - if h > 26.1 { 400.0 } else { 0.0 };
    let f = batch(&series(48.0, 60.0, falls), Params::default());
    assert!(f.drift_bytes.abs() < 50e6, "{f:?}");
}

#[test]
fn what_climbs_back_to_where_it_fell_from_has_gained_nothing() {
    let minutes = |megabytes: &dyn Fn(f64) -> f64| batch(&series(48.0, 60.0, megabytes), Params::default());
    // 4 GB, of which one is given back after six hours and taken again at 60 MB an hour.
    let given = |h: f64| if h < 6.0 { 4000.0 } else { 3000.0 + 60.0 * (h - 6.0) };
    let full = minutes(&|h| given(h).min(4000.0));
    assert!(!full.alarmed, "{full:?}");
    // ... and beyond what was held.
    let leak = minutes(&given);
    assert!(leak.alarmed && leak.verdict == Verdict::Outside, "{leak:?}");
    // What stays where it fell to, and leaks from hour 20 on, climbs back to nothing.
    let late = minutes(&|h| if h < 6.0 { 4000.0 } else { 3000.0 + 10.0 * (h - 20.0).max(0.0) });
    assert!(late.alarmed && late.verdict == Verdict::Outside, "{late:?}");
    // Nor does what is too slow to have been it: a model is unloaded, and ten megabytes an hour leak from then on.
    let unloaded = minutes(&|h| if h < 6.0 { 6000.0 } else { 5000.0 + 10.0 * (h - 6.0) });
    assert!(unloaded.alarmed && unloaded.verdict == Verdict::Outside, "{unloaded:?}");
    // What leaks before and after a fall has not given it back.
    let leaks_on = minutes(&|h| 3000.0 + 30.0 * h - if h < 44.0 { 0.0 } else { 400.0 });
    assert!(leaks_on.alarmed && leaks_on.verdict == Verdict::Outside, "{leaks_on:?}");
    // A rise that nobody can tell from a leak until it is given back, again and again.
    let given_back = minutes(&|h| 500.0 + 90.0 * (h % 16.0));
    assert!(given_back.alarmed && given_back.verdict == Verdict::Inconclusive, "{given_back:?}");
}

#[test]
fn what_comes_after_a_start_of_no_shape_is_told_by_itself() {
    // Four gigabytes in four hours, by fits and starts, and 14 MB in two days beside them.
    let filled = |h: f64| 4000.0 * (h.min(4.0) / 4.0) + 400.0 * (1.3 * h.min(4.0)).sin().abs();
    let f = batch(&series(48.0, 60.0, |h| 6000.0 + filled(h) + 14.0 * h / 48.0), Params::default());
    let [lo, hi] = f.drift_ci95_bytes.map(|bytes| bytes / 1e6);
    assert!(f.verdict == Verdict::Within && lo < 14.0 && hi > 14.0, "{f:?}");
}

#[test]
fn what_went_down_steeply_does_not_jump_up_where_it_goes_down_no_more() {
    // A peak while it loads, given back within minutes.
    let peak = |h: f64| 750.0 * (h / 0.6).min(1.0) - 350.0 * ((h - 0.7) / 0.3).clamp(0.0, 1.0);
    let mut detector = Detector::new(Params::default());
    series(12.0, 30.0, |h| 20e3 + peak(h)).into_iter().for_each(|point| detector.push(point));
    let jumps: f64 = detector.fine.steps.iter().map(|(_, size)| size.max(0.0)).sum();
    assert!(jumps < 2.0, "{:?}", detector.fine.steps);
}
