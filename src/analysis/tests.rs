//! What must hold of the detector whatever the series: units do not matter, looking does not matter, a constant never drifts,
//! nothing panics. How good it is on simulated series is `tests/verdict.rs`'s and `benches/verdict`'s business.

use super::{Detector, Params, batch};
use crate::model::finding::{Shape, Verdict};
use crate::model::series::Point;
use proptest::prelude::*;

pub const START_UNIX_S: f64 = 1_760_000_000.0;

/// Deterministic scatter between -0.5 and 0.5.
fn scatter(i: usize) -> f64 {
    let mut z = (i as u64).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    ((z ^ (z >> 27)) >> 11) as f64 / (1_u64 << 53) as f64 - 0.5
}

/// `hours` of a series every `interval_s`: MB as a function of hours, plus scatter of ±1 MB, in whole bytes.
pub fn series(hours: f64, interval_s: f64, megabytes: impl Fn(f64) -> f64) -> Vec<Point> {
    (0..(hours * 3600.0 / interval_s) as usize)
        .map(|i| {
            let t_s = i as f64 * interval_s;
            Point {
                unix_s: START_UNIX_S + t_s,
                bytes: (1e6 * (megabytes(t_s / 3600.0) + 2.0 * scatter(i))).round(),
                segment: 0,
                requests: None,
            }
        })
        .collect()
}

#[test]
fn a_fast_leak_rings_and_its_slope_is_right() {
    let f = batch(&series(10.0, 60.0, |h| 900.0 + 20.0 * h), Params::default());
    assert_eq!((f.verdict, f.shape), (Verdict::Outside, Shape::Linear), "{f:?}");
    assert!((f.slope_bytes_per_hour / 1e6 - 20.0).abs() < 2.0, "{f:?}");
    assert!(f.drift_ci95_bytes[0] < 960e6 && f.drift_ci95_bytes[1] > 960e6, "{f:?}");
    let crossing = f.crossing_unix_s.expect("it crosses");
    assert!(crossing[0] < START_UNIX_S + 2.5 * 3600.0 && crossing[1] > START_UNIX_S + 2.5 * 3600.0, "{f:?}");
}

#[test]
fn what_goes_on_in_steps_is_not_flat_for_being_flat_between_them() {
    // A start that flattens for a day, and 31 MB every hour and a quarter to the end. It rings, and what the later half does between its
    // steps must not take that back.
    let start = |h: f64| 200.0 * (1.0 - (-(h / 6.0).powf(0.6)).exp());
    let f = batch(&series(48.0, 60.0, |h| 900.0 + start(h) + 31.5 * (h / 1.23).floor()), Params::default());
    assert_eq!((f.verdict, f.shape), (Verdict::Outside, Shape::Step), "{f:?}");
    assert!((f.drift_bytes / 1229e6 - 1.0).abs() < 0.15, "{f:?}");
}

#[test]
fn a_model_that_loads_is_no_start_to_fit() {
    // Tens of gigabytes, ever more slowly or evenly, at once or after some idle minutes: what comes then is judged as if it had always been there.
    let eased =
        |gigabytes: f64, minutes: f64| move |h: f64| 1e3 * gigabytes * (1.0 - (-h.max(0.0) * 60.0 / minutes).exp());
    let evenly = |gigabytes: f64, minutes: f64| move |h: f64| 1e3 * gigabytes * (h * 60.0 / minutes).clamp(0.0, 1.0);
    let loads: [(&str, &dyn Fn(f64) -> f64); 5] = [
        ("20 GB, a time constant of 5 min", &eased(20.0, 5.0)),
        ("80 GB, a time constant of 9 min", &eased(80.0, 9.0)),
        ("80 GB in 20 min", &evenly(80.0, 20.0)),
        ("40 GB in 10 min, after 6", &move |h| evenly(40.0, 10.0)(h - 0.1)),
        ("20 GB in 5 min, after 18", &move |h| evenly(20.0, 5.0)(h - 0.3)),
    ];
    for (what, load) in loads {
        let f = batch(&series(48.0, 60.0, |h| 900.0 + load(h)), Params::default());
        assert_eq!((f.verdict, f.alarmed), (Verdict::Within, false), "{what}: {f:?}");
        assert!(f.drift_ci95_bytes.iter().all(|end| end.abs() < 10e6), "{what}: {f:?}");
        let f = batch(&series(48.0, 60.0, |h| 900.0 + load(h) + 4.0 * h), Params::default());
        let after_h = (f.first_alarm_unix_s.expect(what) - START_UNIX_S) / 3600.0;
        assert!(after_h < 14.0, "{what}: it rang after {after_h:.1} h");
        assert!((f.drift_bytes / 192e6 - 1.0).abs() < 0.05, "{what}: {f:?}");
    }
}

#[test]
fn what_gains_gigabytes_an_hour_and_does_not_slow_down_is_a_leak_and_no_load() {
    for gigabytes in [2.0, 5.0, 30.0] {
        let f = batch(&series(1.0, 15.0, |h| 900.0 + 1e3 * gigabytes * h), Params::default());
        let after_h = (f.first_alarm_unix_s.expect("it rings") - START_UNIX_S) / 3600.0;
        assert!(after_h < 0.75, "{gigabytes} GB an hour rang after {after_h:.2} h");
        assert!((f.slope_bytes_per_hour / (1e9 * gigabytes) - 1.0).abs() < 0.01, "{f:?}");
    }
}

#[test]
fn a_jump_of_gigabytes_hides_nothing_and_is_no_drift() {
    for (at_h, gigabytes) in [(1.0, 5.0), (1.0, 20.0), (5.0, 20.0), (9.0, 60.0)] {
        let jump = |h: f64| if h > at_h { 1e3 * gigabytes } else { 0.0 };
        let f = batch(&series(48.0, 60.0, |h| 900.0 + jump(h)), Params::default());
        assert_eq!((f.verdict, f.shape), (Verdict::Within, Shape::Step), "{f:?}");
        let f = batch(&series(48.0, 60.0, |h| 900.0 + jump(h) + 2.0 * h), Params::default());
        let after_h = (f.first_alarm_unix_s.expect("it rings") - START_UNIX_S) / 3600.0;
        // Half the tolerance has gone after 12.5 h: before that nothing rings.
        assert!((12.5..14.0).contains(&after_h), "{gigabytes} GB after {at_h} h: it rang after {after_h:.1} h");
        let [lo, hi] = f.drift_ci95_bytes.map(|end| end / 1e6);
        assert!(lo > 80.0 && hi < 112.0, "{f:?}");
    }
}

#[test]
fn what_jumps_before_it_has_settled_and_falls_back_then_is_within() {
    let day = |h: f64| if (7.0..16.0).contains(&(h % 24.0)) { 300.0 } else { 0.0 };
    let f = batch(&series(48.0, 60.0, |h| 900.0 + day(h)), Params::default());
    assert_eq!((f.verdict, f.alarmed), (Verdict::Within, false), "{f:?}");
}

#[test]
fn a_leak_that_leaps_by_hundreds_of_megabytes_is_no_load_that_begins_anew() {
    for (minutes, most_h) in [(15.0, 3.5), (18.0, 6.0)] {
        let f = batch(&series(8.0, 60.0, |h| 900.0 + 600.0 * (h * 60.0 / minutes).floor()), Params::default());
        let after_h = (f.first_alarm_unix_s.expect("it rings") - START_UNIX_S) / 3600.0;
        assert!(after_h < most_h, "600 MB every {minutes} min rang after {after_h:.2} h");
    }
    // Nor are its leaps left out because there are more arenas than leaps.
    let arenas = |h: f64| (0..7).map(|k| if h > 0.7 + 1.3 * f64::from(k) { 20.0 } else { 0.0 }).sum::<f64>();
    let f = batch(&series(48.0, 60.0, |h| 900.0 + arenas(h) + 400.0 * (h / 7.0).floor()), Params::default());
    assert_eq!((f.verdict, f.shape), (Verdict::Outside, Shape::Step), "{f:?}");
}

#[test]
fn a_fall_of_an_incarnation_that_is_gone_takes_nothing_back() {
    let step = |h: f64, at: f64, size: f64| if h > at { size } else { 0.0 };
    let bytes =
        |h: f64| 1500.0 + if h < 10.0 { step(h, 5.0, -90.0) } else { step(h, 20.0, 45.0) + step(h, 40.0, 45.0) };
    let of = |p: Point| Point { segment: u32::from(p.unix_s - START_UNIX_S > 36_000.0), ..p };
    let points: Vec<Point> = series(48.0, 60.0, bytes).into_iter().map(of).collect();
    assert_eq!(batch(&points, Params::default()).verdict, Verdict::Inconclusive);
}

#[test]
fn incarnations_that_each_load_anew_are_told_from_what_leaks() {
    for (gigabytes, minutes) in [(0.3, 4.0), (20.0, 4.0), (20.0, 3.0)] {
        let load = |h: f64| 1e3 * gigabytes * ((h % 9.0) * 60.0 / minutes).min(1.0);
        let eased = |h: f64| 1e3 * gigabytes * (1.0 - (-(h % 9.0) * 60.0 / minutes).exp());
        let load: &dyn Fn(f64) -> f64 = if minutes < 4.0 { &eased } else { &load };
        let restarted = |megabytes: &dyn Fn(f64) -> f64| {
            let of = |p: Point| Point { segment: ((p.unix_s - START_UNIX_S) / (9.0 * 3600.0)) as u32, ..p };
            series(48.0, 60.0, megabytes).into_iter().map(of).collect::<Vec<_>>()
        };
        let f = batch(&restarted(&|h| 900.0 + load(h)), Params::default());
        assert_eq!((f.verdict, f.alarmed), (Verdict::Within, false), "{gigabytes} GB in {minutes} min: {f:?}");
        let f = batch(&restarted(&|h| 900.0 + load(h) + 4.0 * h), Params::default());
        assert_eq!(f.verdict, Verdict::Outside, "{gigabytes} GB in {minutes} min: {f:?}");
        assert!((f.drift_bytes / 192e6 - 1.0).abs() < 0.1, "{gigabytes} GB in {minutes} min: {f:?}");
    }
}

#[test]
fn what_bursts_add_is_counted_once() {
    // Half of each burst is taken for a step, and steepens the line between the steps, too: the sum of both was 12 to 26 % too large.
    for draw in 0..6 {
        let bursts: Vec<f64> = (0..11).map(|k| 2.0 + 4.0 * k as f64 + 2.0 * scatter(50 * draw + k)).collect();
        let grown = |h: f64| bursts.iter().map(|at| 17.0 * ((h - at) / 0.5).clamp(0.0, 1.0)).sum::<f64>();
        let f = batch(&series(48.0, 60.0, |h| 900.0 + grown(h)), Params::default());
        assert_eq!((f.verdict, f.shape), (Verdict::Outside, Shape::Step), "{f:?}");
        assert!((f.drift_bytes / 187e6 - 1.0).abs() < 0.08, "draw {draw}: {f:?}");
    }
}

#[test]
fn a_line_that_is_steep_and_straight_rings_within_the_hour_and_its_slope_is_right() {
    let f = batch(&series(1.0, 5.0, |h| 30.0 + 720.0 * h), Params::default());
    assert_eq!((f.verdict, f.shape), (Verdict::Outside, Shape::Linear), "{f:?}");
    assert!(f.first_alarm_unix_s.expect("it rang") < START_UNIX_S + 2400.0, "{f:?}");
    assert!((f.slope_bytes_per_hour / 720e6 - 1.0).abs() < 0.01, "{f:?}");
    assert!(f.drift_ci95_bytes[0] < 34_560e6 && f.drift_ci95_bytes[1] > 34_560e6, "{f:?}");
}

#[test]
fn hundreds_of_megabytes_within_the_hour_are_not_waited_for_until_they_bend() {
    // A request now and then, each of which costs 4 MB: as uneven as that, and 1.5 GB in an hour. Of 40 such draws 39 rang when this was written (the one
    // of 9000 does not), so that nearly all must, not all.
    let mut missed = Vec::new();
    for start in (0..20).map(|k| 1000 * k) {
        let served: Vec<f64> = (0..720)
            .scan(0.0, |sum, i| {
                *sum += f64::from(u8::from(scatter(start + i) > 0.0));
                Some(*sum)
            })
            .collect();
        let f = batch(&series(1.0, 5.0, |h| 900.0 + 4.2 * served[(h * 720.0).round() as usize]), Params::default());
        if !f.alarmed || f.verdict != Verdict::Outside {
            missed.push((start, f.verdict));
        }
    }
    assert!(missed.len() <= 1, "of 20 draws these were missed: {missed:?}");
}

#[test]
fn what_filled_for_hours_and_is_flat_since_is_a_cache_in_the_end() {
    let f = batch(&series(30.0, 60.0, |h| 900.0 + 600.0 * h.min(5.0)), Params::default());
    assert!(f.alarmed, "while it filled nobody could know: {f:?}");
    assert_eq!((f.verdict, f.shape), (Verdict::Within, Shape::Saturating), "{f:?}");
    let asymptote = f.asymptote_bytes.expect("a saturating shape has one") / 1e6;
    assert!((asymptote - 3900.0).abs() < 10.0, "{asymptote}");
}

#[test]
fn what_is_late_anyway_waits_until_a_cache_would_be_full() {
    let rang_h = |hours: f64, megabytes: &dyn Fn(f64) -> f64| {
        let f = batch(&series(hours, 60.0, |h| 900.0 + megabytes(h)), Params::default());
        (f.first_alarm_unix_s.map(|at| (at - START_UNIX_S) / 3600.0), f)
    };
    // Nothing tells them apart until one of them is full, or larger than caches are.
    let (filled, f) = rang_h(30.0, &|h| 90.0 * h.min(4.5));
    assert_eq!((filled, f.verdict, f.shape), (None, Verdict::Within, Shape::Saturating), "{f:?}");
    let leaks = [90.0, 200.0, 400.0].map(|rate| rang_h(8.0, &|h| rate * h).0.expect("a leak rings"));
    assert!(
        leaks.is_sorted_by(|a, b| a > b) && leaks.iter().zip([6.0, 3.0, 1.0]).all(|(at, most)| *at < most),
        "{leaks:?}"
    );
    // Who loses 50 MB an hour wants to know it within two.
    let (at, f) = rang_h(3.0, &|h| 50.0 * h);
    assert!(at.is_some_and(|at| at < 2.0), "{f:?}");
}

#[test]
fn two_warm_ups_one_after_the_other_are_no_leak() {
    let both = |h: f64| 150.0 * (1.0 - (-h / 0.3).exp()) + 120.0 * (1.0 - (-h / 2.2).exp());
    let f = batch(&series(24.0, 60.0, |h| 900.0 + both(h)), Params::default());
    assert!(!f.alarmed, "{f:?}");
}

#[test]
fn what_warms_up_once_more_in_the_middle_of_a_run_is_no_leak() {
    // As others' simulations had it when the detector still rang within the hour.
    let warm = |h: f64, at: f64, tau: f64| 1.0 - (-(h - at).max(0.0) / tau).exp();
    for (first, first_tau, second, second_tau, at) in
        [(245.0, 0.65, 77.0, 1.83, 2.1), (127.0, 0.77, 75.0, 1.9, 3.0), (0.0, 1.0, 200.0, 2.5, 12.0)]
    {
        let both = |h: f64| first * warm(h, 0.0, first_tau) + second * warm(h, at, second_tau);
        let f = batch(&series(36.0, 60.0, |h| 900.0 + both(h)), Params::default());
        assert!(!f.alarmed && f.verdict != Verdict::Outside, "{second} MB from hour {at}: {f:?}");
        assert!(f.drift_ci95_bytes[0] <= 0.0 && f.drift_bytes.abs() < 25e6, "{second} MB from hour {at}: {f:?}");
    }
}

#[test]
fn a_start_that_fits_no_shape_does_not_hide_what_comes_after_it() {
    // A warm-up, a second one some hours later, and 80 MB in fifty bursts over two days.
    let warm = |since_h: f64, tau_h: f64| 1.0 - (-since_h.max(0.0) / tau_h).exp();
    for draw in [0, 4, 5] {
        let bursts: Vec<f64> = (0..50).map(|k| 48.0 * (0.5 + scatter(1000 * draw + k))).collect();
        let start = |h: f64| 100.0 * warm(h, 2.1) + 190.0 * warm(h - 6.4, 0.65);
        let leaked = |h: f64| 1.6 * bursts.iter().filter(|burst| **burst < h).count() as f64;
        let f = batch(&series(48.0, 60.0, |h| 900.0 + start(h) + leaked(h)), Params::default());
        assert_eq!((draw, f.verdict), (draw, Verdict::Outside), "{f:?}");
        assert!(f.drift_ci95_bytes[0] < 80e6 && f.drift_ci95_bytes[1] > 80e6, "{f:?}");
    }
    let f =
        batch(&series(48.0, 60.0, |h| 900.0 + 100.0 * warm(h, 2.1) + 190.0 * warm(h - 6.4, 0.65)), Params::default());
    assert_eq!((f.verdict, f.alarmed), (Verdict::Within, false), "{f:?}");
}

#[test]
fn memory_that_follows_a_load_that_is_known_is_no_leak() {
    // A load that comes and goes in bursts of an hour or two, and 100 MB that are held while it is high. Of 500 draws 150 and 344 ring without the
    // requests; one, which is not among these, rings with them (0). With 60 MB a dozen rang with them before the load was a rival: the others here.
    let mut rang = [Vec::new(), Vec::new()];
    for draw in [59, 60, 77, 150, 151, 304, 344, 364, 380] {
        let (mut wave, mut held, mut served) = (0.0_f64, 0.0, 0.0);
        let mut points = series(10.0, 60.0, |_| 900.0);
        for (i, point) in points.iter_mut().enumerate() {
            wave += -wave / 70.0 + 0.5 * scatter(10_000 * draw + i);
            let load = wave.exp();
            served += (60.0 * 8.0 * load).round();
            held += (load - held) / 10.0;
            point.bytes += 100e6 * (held / 3.0).min(1.2);
            point.requests = Some(served);
        }
        for (known, rang) in [true, false].into_iter().zip(&mut rang) {
            points.iter_mut().for_each(|point| point.requests = point.requests.filter(|_| known));
            if batch(&points, Params::default()).alarmed {
                rang.push(draw);
            }
        }
    }
    assert!(rang[0].is_empty() && !rang[1].is_empty(), "with and without requests: {rang:?}");
}

#[test]
fn what_shrinks_after_a_start_that_fits_no_shape_is_found() {
    // Two warm-ups, a third as large eight hours later, and 280 MB that go in two days: seen of what comes after the start.
    let warm = |since_h: f64, tau_h: f64| 1.0 - (-since_h.max(0.0) / tau_h).exp();
    let start =
        |h: f64| 118.0 * (1.0 - (-(h / 0.6).powf(0.5)).exp()) + 74.0 * warm(h, 2.8) + 192.0 * warm(h - 8.0, 1.4);
    let f = batch(&series(48.0, 60.0, |h| 900.0 + start(h) - 5.8 * h + 4.0 * (1.7 * h).sin()), Params::default());
    assert_eq!(f.verdict, Verdict::Outside, "{f:?}");
    assert!(f.drift_ci95_bytes[0] < -280e6 && f.drift_ci95_bytes[1] > -280e6, "{f:?}");
    // A weekend takes back what the week gave.
    let weekend = |h: f64| 80.0 * (1.0 - (h - 20.0).clamp(0.0, 14.0) / 14.0);
    let f = batch(&series(48.0, 60.0, |h| 900.0 + start(h) + weekend(h) + 4.0 * (1.7 * h).sin()), Params::default());
    assert!(!f.alarmed, "{f:?}");
}

#[test]
fn the_interval_of_a_leak_in_few_bursts_holds_what_was_gained() {
    // Ten bursts at any time, each as large as it happens to be, beside a collector: of a staircase a line sees but a part. Of 24 draws the
    // intervals of twenty hold it; without what was gained that of the first of these does not, and the other is called inconclusive. (A third,
    // whose five large bursts are over after 28 hours, may as well have been an allocator's blocks: it is inconclusive.)
    for (draw, held) in [(4, true), (1, false)] {
        let size = |k: usize| -560.0 * (0.5 + scatter(1000 * draw + 500 + k)).ln() / 10.0;
        let bursts: Vec<(f64, f64)> = (0..10).map(|k| (48.0 * (0.5 + scatter(1000 * draw + k)), size(k))).collect();
        let leaked = |h: f64| bursts.iter().map(|(at, size)| size * ((h - at) / 0.4).clamp(0.0, 1.0)).sum::<f64>();
        let collector = |h: f64| 29.0 * (h * 6.0).fract();
        let f = batch(&series(48.0, 60.0, |h| 900.0 + collector(h) + leaked(h)), Params::default());
        let [lo, hi] = f.drift_ci95_bytes.map(|bytes| bytes / 1e6);
        assert_eq!(f.verdict, Verdict::Outside, "draw {draw}: {f:?}");
        assert!(!held || (lo..=hi).contains(&leaked(48.0)), "draw {draw} lost {} MB: {f:?}", leaked(48.0));
    }
}

#[test]
fn incarnations_that_start_in_two_parts_are_no_leak() {
    // Each warms up and fills a cache, at another pace each time. Of 120 draws these three rang after a day and a half, and the others as often as now: in
    // the first hours, when a cache that fills steadily is a leak to anybody.
    for draw in [4, 50, 87] {
        let u = |k: usize| 0.5 + scatter(100 * draw + k);
        let starts = [0.0, 6.0 + 10.0 * u(0), 22.0 + 10.0 * u(1), 36.0 + 6.0 * u(2)];
        let (warm, tau, cache) = (60.0 + 120.0 * u(3), 0.6 + 1.2 * u(4), 60.0 + 200.0 * u(5));
        let of = |h: f64| starts.iter().rposition(|start| *start <= h).expect("the first is 0");
        let held = |h: f64| {
            let since = h - starts[of(h)];
            warm * (1.0 - (-since / tau).exp()) + cache * (since / (1.5 + 4.0 * u(10 + of(h)))).min(1.0)
        };
        let mut points = series(48.0, 60.0, |h| 900.0 + held(h));
        points.iter_mut().for_each(|point| point.segment = of((point.unix_s - START_UNIX_S) / 3600.0) as u32);
        let f = batch(&points, Params::default());
        assert!(!f.alarmed, "draw {draw}: {f:?}");
    }
}

#[test]
fn the_first_busy_day_is_no_leak() {
    // A Sunday with a third of the load, and Monday: 60 MB more within nine hours, and less again in the evening.
    let wave = |h: f64| 0.5 - 0.5 * (std::f64::consts::TAU * (h - 3.0) / 24.0).cos();
    let load = |h: f64| wave(h) * if h < 24.0 { 0.3 } else { 1.0 };
    let f = batch(&series(48.0, 60.0, |h| 900.0 + 60.0 * load(h + 8.0)), Params::default());
    assert!(!f.alarmed && f.verdict != Verdict::Outside, "{f:?}");
}

#[test]
fn working_days_with_straight_edges_ring_once_in_twelve_at_most() {
    // 76 MB more from ten in the morning to seven in the evening, up and down within three hours each, whatever the hour at which a run begins.
    let day = |h: f64| ((h - 7.0) / 3.0).clamp(0.0, 1.0) - ((h - 19.0) / 3.0).clamp(0.0, 1.0);
    let rang = (0..12).filter(|begins| {
        let f = batch(
            &series(48.0, 60.0, |h| 900.0 + 76.0 * day((h + 2.0 * f64::from(*begins)) % 24.0)),
            Params::default(),
        );
        assert!(f.verdict != Verdict::Outside, "begins at {} h: {f:?}", 2 * begins);
        f.alarmed
    });
    assert!(rang.count() <= 1);
}

/// The point in its incarnation, of those that begin at these hours.
fn in_its_incarnation(p: Point, from_h: &[f64]) -> Point {
    let h = (p.unix_s - START_UNIX_S) / 3600.0;
    Point { segment: from_h.iter().filter(|from| h >= **from).count() as u32, ..p }
}

/// Two days in incarnations that begin at these hours, each with a start of its own: 900 MB, and `more` by hours. Their warm-ups are of
/// `size` MB with a time constant of `tau_h`, give or take a tenth.
fn restarting(from_h: &[f64], size: f64, tau_h: f64, more: impl Fn(f64) -> f64) -> Vec<Point> {
    let megabytes = |h: f64| {
        let k = from_h.iter().filter(|from| h >= **from).count();
        let (size, tau_h) = (size * (1.0 + 0.2 * scatter(k)), tau_h * (1.0 + 0.2 * scatter(k + 100)));
        900.0 + 60.0 * scatter(k + 200) + size * (1.0 - (-(h - from_h[k - 1]) / tau_h).exp()) + more(h)
    };
    series(48.0, 60.0, megabytes).into_iter().map(|p| in_its_incarnation(p, from_h)).collect()
}

#[test]
fn what_leaks_is_not_hidden_by_warm_ups_that_are_larger_in_each_incarnation() {
    let from_h = [0.0, 11.0, 15.5, 24.5, 34.0, 46.5];
    let f = batch(&restarting(&from_h, 230.0, 0.9, |h| 90.0 * h / 48.0), Params::default());
    assert_eq!(f.verdict, Verdict::Outside, "{f:?}");
    assert!(f.drift_ci95_bytes[0] < 90e6 && f.drift_ci95_bytes[1] > 90e6, "{f:?}");
    let f = batch(&restarting(&from_h, 230.0, 0.9, |_| 0.0), Params::default());
    assert_eq!((f.verdict, f.alarmed), (Verdict::Within, false), "{f:?}");
}

#[test]
fn the_edges_of_a_day_that_is_cut_up_by_restarts_hide_no_leak() {
    // 44 MB more from eight in the morning to six in the evening of both days; no incarnation sees them come and go.
    let from_h = [0.0, 5.5, 9.8, 25.0, 30.5, 34.5];
    let busy = |h: f64| if (8.0..18.0).contains(&(h % 24.0)) { 44.0 } else { 0.0 };
    let f = batch(&restarting(&from_h, 130.0, 0.9, |h| busy(h) + 130.0 * h / 48.0), Params::default());
    assert_eq!(f.verdict, Verdict::Outside, "{f:?}");
    assert!(f.drift_ci95_bytes[0] < 130e6 && f.drift_ci95_bytes[1] > 130e6, "{f:?}");
    let f = batch(&restarting(&from_h, 130.0, 0.9, busy), Params::default());
    assert!(!f.alarmed && f.verdict != Verdict::Outside, "{f:?}");
}

#[test]
fn incarnations_that_begin_on_a_level_that_goes_hide_no_leak() {
    // 42 MB more for a third of the time, in the first hour of each incarnation too.
    let from_h = [0.0, 4.0, 11.0, 17.5, 29.5, 37.5];
    let level = |h: f64| {
        let since = h - from_h.iter().rev().find(|from| h >= **from).copied().unwrap_or(0.0);
        if since % 2.7 < 0.9 { 42.0 } else { 0.0 }
    };
    let f = batch(&restarting(&from_h, 80.0, 0.2, |h| level(h) + 85.0 * h / 48.0), Params::default());
    assert_eq!(f.verdict, Verdict::Outside, "{f:?}");
    assert!(f.drift_ci95_bytes[0] < 85e6 && f.drift_ci95_bytes[1] > 85e6, "{f:?}");
    let f = batch(&restarting(&from_h, 80.0, 0.2, level), Params::default());
    assert_eq!((f.verdict, f.alarmed), (Verdict::Within, false), "{f:?}");
}

#[test]
fn what_shrinks_across_restarts_must_be_seen_to_fall() {
    // Seven incarnations, each with a start of 245 MB: none of them ever falls.
    let from_h = [0.0, 4.0, 20.0, 23.0, 25.0, 39.0, 43.0];
    let points: Vec<Point> = series(48.0, 60.0, |h| {
        let since = h - from_h.iter().rev().find(|from| h >= **from).copied().unwrap_or(0.0);
        900.0 + 245.0 * (1.0 - (-since / 1.13_f64).exp())
    })
    .into_iter()
    .map(|p| in_its_incarnation(p, &from_h))
    .collect();
    let f = batch(&points, Params::default());
    assert!(!f.alarmed && f.verdict != Verdict::Outside, "{f:?}");
    // What does fall by 120 MB in 48 hours, as plainly as it warms up each time, is found.
    let falling: Vec<Point> =
        points.iter().map(|p| Point { bytes: p.bytes - 2.5e6 * (p.unix_s - START_UNIX_S) / 3600.0, ..*p }).collect();
    let f = batch(&falling, Params::default());
    assert!(f.alarmed && f.verdict == Verdict::Outside, "{f:?}");
}

#[test]
fn what_leaks_at_night_alone_is_found_by_the_second_night() {
    // A batch of three hours each night, 75 MB each time: a warm-up or a busy day once, a leak when it comes again.
    let worked = |h: f64| (0..2).map(|night| (h - 14.0 - 24.0 * f64::from(night)).clamp(0.0, 3.0)).sum::<f64>();
    let f = batch(&series(48.0, 60.0, |h| 900.0 + 25.0 * worked(h)), Params::default());
    assert!(f.verdict == Verdict::Outside, "{f:?}");
    // The second night ends at hour 41.
    assert!(f.first_alarm_unix_s.is_some_and(|at| at < START_UNIX_S + 43.0 * 3600.0), "{f:?}");
}

#[test]
fn a_level_that_comes_and_goes_is_no_leak_in_steps() {
    // Four arenas in the first hours, and a buffer of 25 MB that is taken and given back all day.
    let arenas = |h: f64| [0.3, 0.8, 1.2, 1.5].iter().filter(|at| h >= **at).count() as f64 * 26.0;
    let buffer = |h: f64| if h > 2.8 && (((h - 2.8) / 1.1) as u64).is_multiple_of(2) { 25.0 } else { 0.0 };
    let f = batch(&series(24.0, 60.0, |h| 900.0 + arenas(h) + buffer(h)), Params::default());
    assert!(!f.alarmed && f.verdict != Verdict::Outside, "{f:?}");
}

#[test]
fn bursts_too_small_and_too_slow_to_be_steps_are_found_looking_back() {
    // Half an hour each, 5 to 29 MB, beside a warm-up: too small or too slow to be named as they come, and few enough for arenas.
    let bursts = [(3.6, 29.0), (6.5, 5.0), (9.6, 23.0), (15.9, 16.0), (20.4, 18.0), (33.6, 13.0), (36.0, 14.0)];
    let grown = |h: f64| bursts.iter().map(|(at, size)| size * ((h - at) / 0.5).clamp(0.0, 1.0)).sum::<f64>();
    let warm = |h: f64| 267.0 * (1.0 - (-h / 0.85).exp());
    let f = batch(&series(48.0, 60.0, |h| 900.0 + warm(h) + grown(h)), Params::default());
    assert_eq!((f.verdict, f.shape), (Verdict::Outside, Shape::Step), "{f:?}");
    assert!(f.drift_ci95_bytes[0] < 118e6 && f.drift_ci95_bytes[1] > 118e6, "{f:?}");
    // As many of them, as large, of which every second one gives back what the one before took.
    let comes_and_goes = |h: f64| {
        let one = |(i, at): (usize, f64)| if i % 2 == 0 { 18.0 } else { -18.0 } * ((h - at) / 0.5).clamp(0.0, 1.0);
        bursts.iter().map(|b| b.0).enumerate().map(one).sum::<f64>()
    };
    let f = batch(&series(48.0, 60.0, |h| 900.0 + warm(h) + comes_and_goes(h)), Params::default());
    assert!(!f.alarmed, "{f:?}");
}

#[test]
fn a_leak_that_sets_in_late_is_found_all_the_same() {
    let f = batch(&series(30.0, 60.0, |h| 900.0 + 25.0 * (h - 10.0).max(0.0)), Params::default());
    assert_eq!((f.verdict, f.shape), (Verdict::Outside, Shape::Linear), "{f:?}");
    let after_h = (f.first_alarm_unix_s.expect("it rang") - START_UNIX_S) / 3600.0;
    assert!(after_h > 10.0 && after_h < 18.0, "50 MB were gone at hour 12, it rang at hour {after_h:.1}");
}

#[test]
fn a_collector_that_collects_unevenly_is_no_leak() {
    // Periods of 18 to 42 minutes and heights in proportion.
    let falls: Vec<f64> = (0..100)
        .scan(0.0, |at, i| {
            *at += 0.5 + 0.4 * scatter(i);
            Some(*at)
        })
        .collect();
    let since = |h: f64| h - falls.iter().copied().filter(|f| *f <= h).fold(0.0, f64::max);
    let f = batch(&series(24.0, 60.0, |h| 900.0 + 160.0 * since(h)), Params::default());
    assert!(!f.alarmed && f.verdict == Verdict::Within, "{f:?}");
}

#[test]
fn a_warm_up_is_no_leak_and_its_asymptote_is_known() {
    let f = batch(&series(10.0, 60.0, |h| 900.0 + 200.0 * (1.0 - (-h / 1.5_f64).exp())), Params::default());
    assert!(!f.alarmed, "{f:?}");
    assert_ne!(f.verdict, Verdict::Outside, "{f:?}");
    if f.shape == Shape::Saturating {
        let asymptote = f.asymptote_bytes.expect("a saturating shape has one") / 1e6;
        assert!((asymptote - 1100.0).abs() < 15.0, "{asymptote}");
    }
}

#[test]
fn a_collectors_saw_tooth_is_no_leak() {
    let f = batch(&series(8.0, 60.0, |h| 900.0 + 80.0 * (h / 0.4).fract()), Params::default());
    assert!(!f.alarmed, "{f:?}");
    assert!(f.drift_bytes.abs() < 50e6, "{f:?}");
}

#[test]
fn a_leak_linear_in_requests_is_said_to_be_one() {
    // 1000 bytes a request, at a rate that changes every two hours.
    let served = |h: f64| {
        let rates = [9e3, 1e3, 2.2e4, 3e3, 1.4e4, 2e3, 1.8e4, 6e3];
        let whole = (h / 2.0) as usize;
        rates.iter().take(whole).map(|r| 2.0 * r).sum::<f64>() + rates[whole.min(7)] * (h - 2.0 * whole as f64)
    };
    let points: Vec<Point> = series(14.0, 60.0, |h| 900.0 + 1e-3 * served(h))
        .into_iter()
        .map(|p| Point { requests: Some(served((p.unix_s - START_UNIX_S) / 3600.0).floor()), ..p })
        .collect();
    let f = batch(&points, Params::default());
    assert_eq!((f.verdict, f.shape), (Verdict::Outside, Shape::PerRequest), "{f:?}");
    let each = f.slope_bytes_per_request.expect("a slope per request");
    assert!((each - 1000.0).abs() < 50.0, "{each} bytes each");
}

#[test]
fn too_little_says_nothing() {
    assert_eq!(batch(&[], Params::default()).verdict, Verdict::Inconclusive);
    let f = batch(&series(0.1, 60.0, |h| 900.0 + 1e4 * h), Params::default());
    assert_eq!((f.verdict, f.alarmed), (Verdict::Inconclusive, false), "{f:?}");
}

#[test]
fn points_that_are_no_figures_are_counted_and_change_nothing() {
    let clean = series(3.0, 60.0, |_| 900.0);
    let mut detector = Detector::new(Params::default());
    for (i, p) in clean.iter().enumerate() {
        detector.push(*p);
        if i % 7 == 0 {
            detector.push(Point { bytes: f64::NAN, ..*p });
            detector.push(Point { unix_s: f64::INFINITY, ..*p });
        }
    }
    let (with, without) = (detector.look(), batch(&clean, Params::default()));
    assert_eq!(detector.unusable(), 2 * clean.len().div_ceil(7) as u64);
    assert_eq!((with.drift_bytes, with.drift_ci95_bytes), (without.drift_bytes, without.drift_ci95_bytes));
}

/// A short series of any make: level, slope, noise, a step, a restart.
fn any_series() -> impl Strategy<Value = Vec<Point>> {
    (1_u32..5, -40.0..40.0_f64, 0.0..20.0_f64, 0.0..80.0_f64, 0.3..2.5_f64, any::<bool>(), 1_usize..5).prop_map(
        |(hours, slope, noise, step, at_h, restart, minutes)| {
            let mut points = series(f64::from(hours), 60.0 * minutes as f64, |h| {
                2000.0 + slope * h + if h > at_h { step } else { 0.0 }
            });
            for (i, p) in points.iter_mut().enumerate() {
                p.bytes += (1e6 * noise * scatter(i + 1000)).round();
                p.segment = u32::from(restart && p.unix_s - START_UNIX_S > 3600.0 * at_h);
            }
            points
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn scaling_bytes_and_tolerance_scales_the_answer(points in any_series(), power in -3_i32..4) {
        let k = 2_f64.powi(power); // exact in binary, so that nothing but the units may change
        let scaled: Vec<Point> = points.iter().map(|p| Point { bytes: p.bytes * k, ..*p }).collect();
        let plain = Params::default();
        let a = batch(&points, plain);
        let b = batch(&scaled, Params { tolerance_bytes: plain.tolerance_bytes * k, ..plain });
        prop_assert_eq!((a.verdict, a.shape, a.first_alarm_unix_s), (b.verdict, b.shape, b.first_alarm_unix_s));
        prop_assert!((a.drift_bytes * k - b.drift_bytes).abs() <= 1e-9 * b.drift_bytes.abs().max(1.0));
        for i in 0..2 {
            let (a, b) = (a.drift_ci95_bytes[i] * k, b.drift_ci95_bytes[i]);
            prop_assert!(a == b || (a - b).abs() <= 1e-9 * b.abs().max(1.0)); // an end that is not known is infinite
        }
    }

    #[test]
    fn another_level_and_another_day_change_nothing(points in any_series(), gigabytes in 0_u32..50, days in 0_u32..3000) {
        let (more, later) = (1e9 * f64::from(gigabytes), 86_400.0 * f64::from(days));
        let moved: Vec<Point> =
            points.iter().map(|p| Point { unix_s: p.unix_s + later, bytes: p.bytes + more, ..*p }).collect();
        let (a, b) = (batch(&points, Params::default()), batch(&moved, Params::default()));
        prop_assert_eq!((a.verdict, a.shape), (b.verdict, b.shape));
        prop_assert_eq!(a.first_alarm_unix_s.map(|t| t + later), b.first_alarm_unix_s);
        prop_assert!((a.drift_bytes - b.drift_bytes).abs() < 1e3, "{} against {}", a.drift_bytes, b.drift_bytes);
    }

    #[test]
    fn looking_in_between_changes_nothing(points in any_series(), every in 1_usize..40) {
        let mut detector = Detector::new(Params::default());
        for (i, p) in points.iter().enumerate() {
            detector.push(*p);
            if i % every == 0 {
                let _ = detector.look();
            }
        }
        prop_assert_eq!(detector.look(), batch(&points, Params::default()));
    }

    #[test]
    fn a_constant_never_drifts(level in 0_u32..4_000_000, interval_s in 10_u32..300, hours in 1_u32..5) {
        let n = hours * 3600 / interval_s;
        let points: Vec<Point> = (0..n)
            .map(|i| Point {
                unix_s: START_UNIX_S + f64::from(i * interval_s),
                bytes: f64::from(level) * 4096.0,
                segment: 0,
                requests: None,
            })
            .collect();
        let f = batch(&points, Params::default());
        prop_assert!(!f.alarmed && f.verdict != Verdict::Outside, "{:?}", f);
        prop_assert!(f.drift_bytes.abs() < 1e6, "{:?}", f);
        prop_assert_eq!(f.shape, Shape::None);
    }

    #[test]
    fn whatever_comes_in_an_answer_comes_out(
        raw in prop::collection::vec(
            (prop_oneof![0.0..2e5_f64, -1e18..1e18_f64, Just(f64::NAN)],
             prop_oneof![0.0..1e10_f64, -1e300..1e300_f64, Just(f64::NEG_INFINITY)], 0_u32..3, prop::option::of(-1e9..1e12_f64)),
            0..150),
    ) {
        let points: Vec<Point> = raw
            .into_iter()
            .map(|(unix_s, bytes, segment, requests)| Point { unix_s, bytes, segment, requests })
            .collect();
        let f = batch(&points, Params::default());
        prop_assert_eq!(f.samples, points.len() as u64);
        prop_assert!(!f.drift_bytes.is_nan() && !f.drift_ci95_bytes.iter().any(|x| x.is_nan()), "{:?}", f);
        prop_assert!(f.drift_ci95_bytes[0] <= f.drift_ci95_bytes[1], "{:?}", f);
    }
}
