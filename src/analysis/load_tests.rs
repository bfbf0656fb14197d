//! Memory that goes by requests: sessions that are held for a while, caches that requests fill anew after each restart.

use super::tests::{START_UNIX_S, series};
use super::{Params, batch};
use crate::model::finding::{Finding, Shape, Verdict};
use crate::model::series::Point;

/// Five minutes, hours.
const STEP_H: f64 = 1.0 / 12.0;

/// Office hours from 9 to 18 of a run that begins at 6 in the morning, with moods of an hour or so; 1 at most.
fn office(h: f64) -> f64 {
    let of_day = (h + 6.0) % 24.0;
    let edge = |x: f64| 1.0 / (1.0 + (-2.0 * x).exp());
    (0.08 + 0.8 * edge(of_day - 9.0) * edge(18.0 - of_day)) * (1.0 + 0.12 * (5.3 * h).sin() + 0.08 * (11.9 * h).cos())
}

/// The load of two days, every five minutes: what of it was served by then (hours at full load), and what is held of it for `held_h`.
struct Served {
    served: Vec<f64>,
    held: Vec<f64>,
}

impl Served {
    fn new(load: impl Fn(f64) -> f64, held_h: f64) -> Self {
        let keep = (-STEP_H / held_h).exp();
        let (mut served, mut held) = (vec![0.0], vec![0.0]);
        for i in 0..=(48.0 / STEP_H) as usize {
            let load = load(i as f64 * STEP_H);
            served.push(served[i] + load * STEP_H);
            held.push(keep * held[i] + (1.0 - keep) * load);
        }
        Served { served, held }
    }

    fn at(of: &[f64], h: f64) -> f64 {
        let at = h / STEP_H;
        of[at as usize] + (of[at as usize + 1] - of[at as usize]) * at.fract()
    }

    fn served(&self, h: f64) -> f64 {
        Self::at(&self.served, h)
    }

    fn held(&self, h: f64) -> f64 {
        Self::at(&self.held, h)
    }

    /// What is found of a series in MB, 50,000 requests being served in an hour at full load.
    fn find(&self, megabytes: impl Fn(f64) -> f64) -> Finding {
        let hours = |p: &Point| (p.unix_s - START_UNIX_S) / 3600.0;
        let counted = |p: Point| Point { requests: Some((50e3 * self.served(hours(&p))).floor()), ..p };
        batch(&series(48.0, 60.0, megabytes).into_iter().map(counted).collect::<Vec<_>>(), Params::default())
    }
}

#[test]
fn memory_that_follows_the_load_is_within_and_a_leak_beneath_it_rings() {
    for (held_h, megabytes) in [(0.4, 60.0), (1.5, 120.0), (4.0, 90.0)] {
        let load = Served::new(office, held_h);
        let follows = |h: f64| 700.0 + megabytes * load.held(h);
        let f = load.find(follows);
        assert_eq!(f.verdict, Verdict::Within, "{megabytes} MB for {held_h} h: {f:?}");
        // What is held for four hours rises through the first morning as a leak does.
        assert!(!f.alarmed || held_h > 2.0, "{megabytes} MB for {held_h} h: {f:?}");
        // That is said, with how much it is: from its least to its most.
        let (least, most) = load.held.iter().fold((f64::MAX, 0.0_f64), |(l, m), held| (l.min(*held), m.max(*held)));
        let told = |f: &Finding| f.load_swing_bytes.unwrap_or(0.0) / 1e6 / (megabytes * (most - least));
        assert!((0.85..1.15).contains(&told(&f)) && f.shape == Shape::None, "{} of {megabytes} MB: {f:?}", told(&f));
        let f = load.find(|h| follows(h) + 14.0 * load.served(h));
        assert!((0.7..1.3).contains(&told(&f)), "{} of {megabytes} MB: {f:?}", told(&f));
        let (truth, [lo, hi]) = (14.0 * load.served(48.0), f.drift_ci95_bytes.map(|bytes| bytes / 1e6));
        assert!(f.alarmed && f.verdict == Verdict::Outside, "{megabytes} MB for {held_h} h: {f:?}");
        assert!(lo < truth && hi > truth && hi - lo < 120.0, "{truth} of {megabytes} MB for {held_h} h: {f:?}");
    }
}

#[test]
fn what_an_even_load_would_explain_as_well_is_not_explained_by_requests() {
    // Sixteen incarnations that start by time, alike but for a tenth, under a load that hardly varies, and 3 MB an hour. Short incarnations that
    // each seemed to hold requests for six hours hid that.
    let load = Served::new(|h| 0.8 + 0.2 * (std::f64::consts::TAU * h / 24.0).sin(), 1.0);
    let life = |h: f64| (h / 3.0).floor();
    let leaks = |h: f64| {
        let (start, age_h) = (60.0 * (1.0 + 0.1 * (7.7 * life(h)).sin()), h - 3.0 * life(h));
        let noise = 1.5 * ((13.1 * h).sin() + (7.3 * h).cos());
        600.0 + start * (1.0 - (-age_h / 0.8).exp()) + 3.0 * age_h + noise
    };
    let counted = |p: Point| {
        let h = (p.unix_s - START_UNIX_S) / 3600.0;
        let served = 50e3 * (load.served(h) - load.served(3.0 * life(h)));
        Point { requests: Some(served.floor()), segment: life(h) as u32, ..p }
    };
    let points: Vec<Point> = series(48.0, 60.0, leaks).into_iter().map(counted).collect();
    let by_time: Vec<Point> = points.iter().map(|p| Point { requests: None, ..*p }).collect();
    let (f, told) = (batch(&points, Params::default()), batch(&by_time, Params::default()));
    assert!(told.drift_ci95_bytes[0] > 50e6 && told.drift_ci95_bytes[1] > 144e6, "{told:?}");
    assert!((f.drift_bytes - told.drift_bytes).abs() < 25e6, "{f:?} {told:?}");
    assert!(f.drift_ci95_bytes[0] > 50e6 && f.load_swing_bytes.is_none(), "{f:?}");
}

#[test]
fn a_cache_that_requests_fill_anew_after_each_restart_is_not_outside() {
    let load = Served::new(office, 1.0);
    let starts_h = [0.0, 9.0, 22.0, 31.0, 40.0];
    let began = |h: f64| starts_h.iter().rev().find(|start| **start <= h).copied().unwrap_or(0.0);
    let find = |leak: f64| {
        let filled = |h: f64| {
            let work = load.served(h) - load.served(began(h));
            500.0 + 130.0 * (1.0 - (-work / 1.1).exp()) + leak * work
        };
        let hours = |p: &Point| (p.unix_s - START_UNIX_S) / 3600.0;
        let counted = |p: Point| {
            let (h, from_h) = (hours(&p), began(hours(&p)));
            let segment = starts_h.iter().filter(|start| **start <= h).count() as u32;
            Point { requests: Some((50e3 * (load.served(h) - load.served(from_h))).floor()), segment, ..p }
        };
        batch(&series(48.0, 60.0, filled).into_iter().map(counted).collect::<Vec<_>>(), Params::default())
    };
    let f = find(0.0);
    assert!(!f.alarmed && f.verdict != Verdict::Outside, "{f:?}");
    let f = find(20.0);
    assert!(f.alarmed && f.verdict == Verdict::Outside, "{f:?}");
}
