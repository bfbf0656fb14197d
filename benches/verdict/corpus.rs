//! A simulated corpus of memory series whose true drift is known: nuisances that are no leak, alone and in mixtures, and leaks of
//! seven families laid over them. Everything follows from one seed.

use super::series::{Rng, Trace};
use soakd::model::series::Point;

/// Bytes in a megabyte.
pub const MB: f64 = 1e6;
/// Hours in a trace.
pub const HOURS: f64 = 48.0;

/// What is no leak. The first [`TUNED`] were at hand while the detector was tuned; the rest were held out, and what is claimed of
/// the detector outside its model is claimed of them. Those from `one_over_f` to `mix_of_4` were held out once, showed what was
/// wrong, and are no test of that any more. The last, from `loading` on, are what servers of models do by the gigabyte.
pub const NUISANCES: [&str; 41] = [
    "quiet",
    "long_memory",
    "sawtooth",
    "day_cycle",
    "warm_up",
    "arena_steps",
    "cache",
    "spikes",
    "restarts",
    "outliers",
    "gaps",
    "coarse_counter",
    "mix_of_2",
    "mix_of_3",
    "one_over_f",
    "jittered_gc",
    "office_hours",
    "two_warm_ups",
    "telegraph",
    "restarts_saw",
    "warm_day_saw",
    "mix_of_4",
    "late_warm_up",
    "flattening",
    "weekdays",
    "follows_load",
    "second_warm_up",
    "late_arenas",
    "first_busy_day",
    "log_growth",
    "wide_mix",
    // held out
    "batch_nights",
    "heavy_tails",
    "slow_wander",
    "doublings",
    "reclaims",
    "mix_of_5",
    // by the gigabyte
    "loading",
    "reloads",
    "large_jump",
    "visits",
];
/// How many of [`NUISANCES`] were used for tuning.
pub const TUNED: usize = 31;
/// Where those that were held out end.
pub const HELD: usize = 37;
/// Those of [`NUISANCES`] that mixtures are made of: from `long_memory` to `coarse_counter`.
const PARTS: (u64, u64) = (1, 11);
/// ... and those that `wide_mix` draws from beside them.
const WIDE_PARTS: [&str; 12] = [
    "one_over_f",
    "jittered_gc",
    "office_hours",
    "two_warm_ups",
    "telegraph",
    "flattening",
    "weekdays",
    "follows_load",
    "second_warm_up",
    "late_arenas",
    "first_busy_day",
    "log_growth",
];

/// How a leak goes.
pub const LEAKS: [&str; 7] = ["linear", "late", "stepped", "bursty", "duty_cycled", "per_request", "in_shifts"];

/// A series in the making, in MB.
struct Draft {
    t: Vec<f64>,
    y: Vec<f64>,
    segment: Vec<u32>,
    quantum: f64,
    gaps: bool,
    outliers: f64,
}

/// Adds Ornstein-Uhlenbeck noise of standard deviation `sd` and time constant `tau_h`.
fn add_ou(d: &mut Draft, sd: f64, tau_h: f64, rng: &mut Rng) {
    let dt_h = d.t[1] - d.t[0];
    let phi = (-dt_h / tau_h).exp();
    let q = sd * (1.0 - phi * phi).sqrt();
    let mut x = sd * rng.normal();
    for v in &mut d.y {
        *v += x;
        x = phi * x + q * rng.normal();
    }
}

fn add(d: &mut Draft, f: impl Fn(f64) -> f64) {
    for (v, t) in d.y.iter_mut().zip(&d.t) {
        *v += f(*t);
    }
}

fn add_saw(d: &mut Draft, amp: f64, period_h: f64, jitter: f64, rng: &mut Rng) {
    let mut start = -rng.range(0.0, 1.0) * period_h;
    let (mut p, mut a) = (period_h, amp);
    for (v, t) in d.y.iter_mut().zip(&d.t) {
        while *t - start >= p {
            start += p;
            p = period_h * (1.0 + jitter * rng.range(-1.0, 1.0));
            a = amp * (1.0 + jitter * rng.range(-1.0, 1.0));
        }
        *v += a * (*t - start) / p;
    }
}

fn add_warm(d: &mut Draft, amp: f64, tau_h: f64) {
    add(d, |t| amp * (1.0 - (-t / tau_h).exp()));
}

fn add_restarts(d: &mut Draft, rng: &mut Rng) {
    let mut at: Vec<f64> = (0..rng.whole(1, 6)).map(|_| rng.range(1.0, HOURS - 1.0)).collect();
    at.sort_by(f64::total_cmp);
    let (amp, tau) = (rng.range(20.0, 200.0), rng.log_range(0.2, 2.5));
    let mut from = 0.0;
    for (i, until) in at.iter().copied().chain([f64::INFINITY]).enumerate() {
        let (level, a, c) = (rng.range(-60.0, 60.0), amp * rng.range(0.7, 1.3), tau * rng.range(0.8, 1.25));
        for ((v, t), s) in d.y.iter_mut().zip(&d.t).zip(&mut d.segment) {
            if *t >= from && *t < until {
                *v += level + a * (1.0 - (-(t - from) / c).exp());
                *s = i as u32;
            }
        }
        from = until;
    }
}

/// How something comes in that takes minutes: evenly, or ever more slowly. From 0 to 1, by hours since it began.
fn load(rng: &mut Rng) -> impl Fn(f64) -> f64 + use<> {
    let (evenly, whole_h, tau_h) = (rng.chance(0.5), rng.log_range(1.0, 25.0) / 60.0, rng.log_range(0.5, 9.0) / 60.0);
    move |t: f64| if evenly { (t / whole_h).clamp(0.0, 1.0) } else { 1.0 - (-t.max(0.0) / tau_h).exp() }
}

/// One nuisance.
fn disturb(name: &str, d: &mut Draft, rng: &mut Rng) {
    let saw_h = |rng: &mut Rng| rng.range(7.0, 50.0) / 60.0;
    match name {
        "long_memory" => add_ou(d, rng.range(2.0, 14.0), rng.log_range(0.5, 5.0), rng),
        "sawtooth" => {
            let jitter = [0.0, 0.0, 0.05, 0.15][rng.whole(0, 3) as usize];
            let (amp, period_h) = (rng.range(20.0, 120.0), saw_h(rng));
            add_saw(d, amp, period_h, jitter, rng);
        }
        "day_cycle" => {
            let (amp, phase) = (rng.range(8.0, 40.0), rng.range(0.0, 24.0));
            let second = if rng.chance(0.3) { rng.range(0.0, 0.3) } else { 0.0 };
            add(d, |t| {
                let w = std::f64::consts::TAU * (t + phase) / 24.0;
                amp * (w.sin() + second * (2.0 * w).sin()) / (1.0 + 0.5 * second)
            });
        }
        "warm_up" => {
            let (amp, tau_h) = (rng.range(50.0, 300.0), rng.log_range(0.333, 3.0));
            add_warm(d, amp, tau_h);
        }
        "arena_steps" | "late_arenas" => {
            let (until, least, smallest) =
                if name == "arena_steps" { ((2.0, 36.0), 2, 8.0) } else { ((5.0, 14.0), 3, 5.0) };
            let until = rng.range(until.0, until.1);
            for _ in 0..rng.whole(least, 5) {
                let (at, size) = (rng.range(0.0, until), rng.range(smallest, 64.0));
                add(d, |t| if t >= at { size } else { 0.0 });
            }
        }
        "cache" => {
            // Steadily within two hours, or ever more slowly for up to three times as long.
            let (amp, full) = (rng.range(40.0, 300.0), rng.log_range(0.3, 2.2));
            let bent = rng.chance(0.5);
            add(d, |t| amp * if bent { 1.0 - (-t / full).exp() } else { (t / full).min(1.0) });
        }
        "spikes" => {
            for _ in 0..rng.whole(3, 40) {
                let (at, long) = (rng.range(0.0, HOURS), rng.log_range(0.01, 0.6));
                let size = rng.range(30.0, 600.0) * if rng.chance(0.15) { -0.3 } else { 1.0 };
                add(d, |t| if t >= at && t < at + long { size } else { 0.0 });
            }
        }
        "restarts" => add_restarts(d, rng),
        "outliers" => d.outliers = rng.log_range(0.0005, 0.02),
        "gaps" => d.gaps = true,
        "coarse_counter" => d.quantum = 2.0 * 1_048_576.0,
        "one_over_f" => {
            for tau in [0.2, 0.8, 3.0, 10.0] {
                add_ou(d, rng.range(1.0, 5.0), tau, rng);
            }
        }
        "jittered_gc" => {
            let (amp, period_h) = (rng.range(20.0, 120.0), saw_h(rng));
            add_saw(d, amp, period_h, 0.4, rng);
        }
        "office_hours" => {
            let (amp, phase) = (rng.range(10.0, 60.0), rng.range(0.0, 24.0));
            let edge = |x: f64| 1.0 / (1.0 + (-x / 0.5).exp());
            add(d, |t| {
                let h = (t + phase) % 24.0;
                amp * (edge(h - 8.0) - edge(h - 18.0)) * (1.0 + 0.15 * (h * 1.3).sin())
            });
        }
        "two_warm_ups" => {
            let (a, b) = (rng.range(30.0, 200.0), rng.log_range(0.2, 0.8));
            add_warm(d, a, b);
            let (a, b) = (rng.range(30.0, 150.0), rng.log_range(1.0, 3.0));
            add_warm(d, a, b);
        }
        "late_warm_up" => {
            let (at, amp, tau_h) = (rng.range(1.0, 30.0), rng.range(30.0, 120.0), rng.log_range(0.3, 2.5));
            add(d, |t| amp * (1.0 - (-(t - at).max(0.0) / tau_h).exp()));
        }
        "flattening" => {
            // A stretched exponential: quick at first, and slower and slower. Less than 5 MB of it is left after a day.
            let (stretch, amp) = (rng.range(0.45, 0.8), rng.range(50.0, 250.0));
            let left = (amp / 5.0).ln().powf(1.0 / stretch);
            let tau_h = rng.log_range(0.05, 1.0) * 24.0 / left;
            add(d, |t| amp * (1.0 - (-(t / tau_h).powf(stretch)).exp()));
        }
        "second_warm_up" => {
            // As large and as slow as a first one, at any time: another model is loaded, another endpoint is called for the first time.
            if rng.chance(0.5) {
                let (amp, tau_h) = (rng.range(50.0, 300.0), rng.log_range(0.333, 3.0));
                add_warm(d, amp, tau_h);
            }
            let (at, amp, tau_h) = (rng.log_range(0.7, 40.0), rng.range(50.0, 300.0), rng.log_range(0.333, 3.0));
            add(d, |t| amp * (1.0 - (-(t - at).max(0.0) / tau_h).exp()));
        }
        "first_busy_day" => {
            // A Sunday, and then Monday: the load of a day, twice to ten times that of the day before, in a smooth wave or with edges.
            let (amp, quiet, monday) = (rng.range(10.0, 80.0), rng.range(0.1, 0.5), rng.range(0.0, 24.0));
            let edged = rng.chance(0.5);
            let edge = |x: f64| 1.0 / (1.0 + (-x / 0.7).exp());
            add(d, |t| {
                let h = (t - monday).rem_euclid(24.0);
                let smooth = 0.5 - 0.5 * (std::f64::consts::TAU * (h - 3.0) / 24.0).cos();
                let wave = if edged { edge(h - 8.0) - edge(h - 19.0) } else { smooth };
                amp * wave * if t < monday { quiet } else { 1.0 }
            });
        }
        "log_growth" => {
            // Ever more slowly without an end: what fragments, what is interned. Less than 6 MB of it is left after a day.
            let (amp, knee_h) = (rng.range(50.0, 300.0), rng.log_range(0.05, 1.0));
            let whole = |t: f64| (1.0 + t / knee_h).ln() / (1.0 + HOURS / knee_h).ln();
            let amp = amp.min(6.0 / (1.0 - whole(24.0)));
            add(d, |t| amp * whole(t));
        }
        "weekdays" => {
            let (amp, phase, day) = (rng.range(5.0, 35.0), rng.range(0.0, 24.0), rng.whole(0, 6));
            let quiet = rng.range(0.1, 0.5);
            add(d, |t| {
                let weekday = (day + ((t + phase) / 24.0) as u64) % 7;
                let wave = 0.5 - 0.5 * (std::f64::consts::TAU * ((t + phase) - 3.0) / 24.0).cos();
                2.0 * amp * wave * if weekday >= 5 { quiet } else { 1.0 }
            });
        }
        "follows_load" => {
            let (amp, tau_h) = (rng.range(5.0, 60.0), rng.log_range(0.05, 1.0));
            let (mut load, mut until, mut held) = (0.0, 0.0, 0.0);
            let dt = d.t[1] - d.t[0];
            for (v, t) in d.y.iter_mut().zip(&d.t) {
                if *t >= until {
                    load = rng.range(0.0, 1.0);
                    until = t + rng.range(1.0, 8.0);
                }
                held += (load - held) * (1.0 - (-dt / tau_h).exp());
                *v += amp * held;
            }
        }
        "batch_nights" => {
            // A job of some hours each night, whose memory grows while it works and is given back when it ends.
            let (amp, at, long) = (rng.range(20.0, 200.0), rng.range(0.0, 24.0), rng.range(1.0, 5.0));
            add(d, |t| {
                let since = (t - at).rem_euclid(24.0);
                if since < long { amp * (0.3 + 0.7 * since / long) } else { 0.0 }
            });
        }
        "heavy_tails" => {
            // A wandering level whose leaps have no usual size (Student's t with two degrees of freedom), drawn back to its middle.
            let (size, tau_h) = (rng.range(0.5, 3.0), rng.log_range(0.3, 3.0));
            let (mut x, mut until) = (0.0, 0.0);
            let keep = (-(d.t[1] - d.t[0]) / tau_h).exp();
            for (v, t) in d.y.iter_mut().zip(&d.t) {
                x *= keep;
                if *t >= until {
                    until = t + 0.1;
                    let chi = rng.normal().powi(2) + rng.normal().powi(2);
                    x += (size * rng.normal() / (chi / 2.0).sqrt().max(1e-3)).clamp(-80.0, 80.0);
                }
                *v += x;
            }
        }
        "slow_wander" => add_ou(d, rng.range(3.0, 12.0), rng.log_range(5.0, 15.0), rng),
        "doublings" => {
            // A buffer that doubles when it is full: each step as large as all before, at twice the time of the last, and then it is large enough.
            let (first, mut size) = (rng.log_range(0.05, 0.5), rng.range(2.0, 8.0));
            let mut at = first;
            for _ in 0..rng.whole(3, 6) {
                let (from, step) = (at, size);
                add(d, |t| if t >= from { step } else { 0.0 });
                (at, size) = (2.0 * at, 2.0 * size);
            }
        }
        "reclaims" => {
            // What the kernel lets grow for hours and takes back at once, at no fixed time.
            let (rate, mut held) = (rng.range(3.0, 20.0), 0.0);
            let (dt, mut until) = (d.t[1] - d.t[0], rng.range(1.0, 6.0));
            for (v, t) in d.y.iter_mut().zip(&d.t) {
                if *t >= until {
                    until = t + rng.range(2.0, 8.0);
                    held = 0.0;
                }
                held += rate * dt;
                *v += held;
            }
        }
        "telegraph" => {
            let (mut on, mut until, size, mean) = (0.0, 0.0, rng.range(10.0, 120.0), rng.range(1.0, 8.0));
            for (v, t) in d.y.iter_mut().zip(&d.t) {
                if *t >= until {
                    on = 1.0 - on;
                    until = t - mean * rng.range(1e-3, 1.0).ln();
                }
                *v += on * size;
            }
        }
        "loading" => {
            // A model's weights, at once or after some minutes.
            let (size, way) = (rng.log_range(1e3, 80e3), load(rng));
            let at = if rng.chance(0.5) { 0.0 } else { rng.range(0.0, 0.35) };
            add(d, |t| size * way(t - at));
        }
        "reloads" => {
            // The same in each incarnation.
            add_restarts(d, rng);
            let (size, way) = (rng.log_range(200.0, 40e3), load(rng));
            let (mut from, mut segment) = (0.0, 0);
            for ((v, t), s) in d.y.iter_mut().zip(&d.t).zip(&d.segment) {
                if *s != segment {
                    (from, segment) = (*t, *s);
                }
                *v += size * way(t - from);
            }
        }
        "large_jump" => {
            // A second model that stays, before the run has settled.
            let (size, at, way) = (rng.log_range(500.0, 60e3), rng.log_range(0.3, 11.0), load(rng));
            add(d, |t| size * way(t - at));
        }
        "visits" => {
            // Another job comes, and goes when it is done.
            let (size, long) = (rng.log_range(300.0, 40e3), rng.log_range(0.1, 8.0));
            let mut at = rng.range(0.2, 12.0);
            while at + long < HOURS - 1.0 {
                add(d, |t| if t >= at && t < at + long { size } else { 0.0 });
                at += long + rng.range(2.0, 24.0);
            }
        }
        _ => {}
    }
}

/// The nuisances that `kind` is made of.
fn parts(kind: usize, rng: &mut Rng) -> Vec<&'static str> {
    let count = match NUISANCES[kind] {
        "mix_of_2" => 2,
        "mix_of_3" => 3,
        "mix_of_4" => 4,
        "mix_of_5" => 5,
        "wide_mix" => rng.whole(2, 4) as usize,
        "restarts_saw" => return vec!["restarts", "sawtooth"],
        "warm_day_saw" => return vec!["warm_up", "day_cycle", "sawtooth"],
        // Half of them beside one that is usual.
        "loading" | "large_jump" | "visits" if rng.chance(0.5) => {
            return vec![NUISANCES[rng.whole(PARTS.0, PARTS.1) as usize], NUISANCES[kind]];
        }
        one => return vec![one],
    };
    let wide = NUISANCES[kind] == "wide_mix";
    let mut out: Vec<&str> = Vec::new();
    while out.len() < count {
        let part = if wide && rng.chance(0.5) {
            WIDE_PARTS[rng.whole(0, WIDE_PARTS.len() as u64 - 1) as usize]
        } else {
            NUISANCES[rng.whole(PARTS.0, PARTS.1) as usize]
        };
        // A process has one start.
        let starts = ["warm_up", "cache", "restarts", "two_warm_ups", "flattening", "log_growth"];
        let clash = starts.contains(&part) && out.iter().any(|p| starts.contains(p));
        if !out.contains(&part) && !clash {
            out.push(part);
        }
    }
    out
}

/// Cumulative leak, any unit.
fn leak(kind: usize, t: &[f64], requests: &[f64], rng: &mut Rng) -> Vec<f64> {
    match LEAKS[kind] {
        "late" => {
            let onset = rng.range(4.0, 36.0);
            t.iter().map(|t| (t - onset).max(0.0)).collect()
        }
        "stepped" => {
            let n = rng.whole(6, 40) as f64;
            let at: Vec<f64> = (0..n as u64).map(|i| (i as f64 + rng.range(0.1, 0.9)) * HOURS / n).collect();
            t.iter().map(|t| at.iter().filter(|a| *a <= t).count() as f64).collect()
        }
        "bursty" => {
            let n = rng.whole(8, 60);
            let bursts: Vec<(f64, f64, f64)> =
                (0..n).map(|_| (rng.range(0.0, HOURS), rng.range(0.05, 0.7), rng.log_range(0.3, 3.0))).collect();
            t.iter().map(|t| bursts.iter().map(|b| b.2 * ((t - b.0) / b.1).clamp(0.0, 1.0)).sum()).collect()
        }
        "duty_cycled" => {
            let (period, duty, phase) = (rng.log_range(0.5, 12.0), rng.range(0.2, 0.7), rng.range(0.0, 1.0));
            let dt = t[1] - t[0];
            let mut sum = 0.0;
            t.iter()
                .map(|t| {
                    sum += if (t / period + phase) % 1.0 < duty { dt } else { 0.0 };
                    sum
                })
                .collect()
        }
        "per_request" => requests.to_vec(),
        "in_shifts" => {
            // Some hours each day: a batch at night, an office by day.
            let (from, long) = (rng.range(0.0, 24.0), rng.log_range(1.0, 10.0));
            let dt = t[1] - t[0];
            let mut sum = 0.0;
            t.iter()
                .map(|t| {
                    sum += if (t - from).rem_euclid(24.0) < long { dt } else { 0.0 };
                    sum
                })
                .collect()
        }
        _ => t.to_vec(),
    }
}

/// Requests served: a rate that changes every few hours.
fn requests(t: &[f64], rng: &mut Rng) -> Vec<f64> {
    let mean = rng.log_range(0.2, 150.0) * 3600.0;
    let (mut rate, mut until, mut sum) = (mean, 0.0, 0.0);
    let dt = t[1] - t[0];
    t.iter()
        .map(|t| {
            if *t >= until {
                rate = mean * rng.range(0.1, 2.0);
                until = t + rng.range(1.0, 8.0);
            }
            sum += rate * dt;
            sum.floor()
        })
        .collect()
}

/// The `index`-th trace of class `class` (0 clean, 1 tolerated, 2 leaking) under `seed`, over nuisance `kind`.
pub fn trace(seed: u64, index: u64, class: u8, kind: usize) -> Trace {
    let mut rng =
        Rng::new(seed ^ index.wrapping_mul(0x5851_F42D_4C95_7F2D) ^ (u64::from(class) << 60) ^ ((kind as u64) << 50));
    let dt_s = match rng.whole(0, 99) {
        0..=1 => 1.0,
        2..=11 => 10.0,
        12..=19 => 30.0,
        20..=69 => 60.0,
        70..=79 => 120.0,
        _ => 300.0,
    };
    let n = (HOURS * 3600.0 / dt_s) as usize + 1;
    let t: Vec<f64> = (0..n).map(|i| i as f64 * dt_s / 3600.0).collect();
    let level = rng.range(300.0, 6000.0);
    let mut d = Draft { y: vec![level; n], segment: vec![0; n], t, quantum: 4096.0, gaps: false, outliers: 0.0 };
    let white = rng.log_range(0.1, 3.0);
    d.y.iter_mut().for_each(|v| *v += white * rng.normal());
    let (sd, tau_h) = (rng.log_range(0.2, 3.0), rng.log_range(0.05, 1.0));
    add_ou(&mut d, sd, tau_h, &mut rng);
    let made_of = parts(kind, &mut rng);
    for part in &made_of {
        disturb(part, &mut d, &mut rng);
    }
    let served = requests(&d.t, &mut rng);
    let family = (class == 2).then_some((index % LEAKS.len() as u64) as usize);
    let counted = family.map_or(rng.chance(0.2), |f| LEAKS[f] == "per_request" || rng.chance(0.2));
    let sign = if rng.chance(0.12) { -1.0 } else { 1.0 };
    let total = match class {
        0 => 0.0,
        1 => rng.range(5.0, 25.0) * sign,
        _ => rng.log_range(75.0, 1500.0) * if family == Some(0) { sign } else { 1.0 },
    };
    let mut l = leak(family.unwrap_or(0), &d.t, &served, &mut rng);
    let last = l[n - 1].max(1e-9);
    l.iter_mut().for_each(|v| *v *= total / last);
    let (mut base, mut served_base) = (0.0, 0.0);
    let mut points = Vec::with_capacity(n);
    for i in 0..n {
        if i > 0 && d.segment[i] != d.segment[i - 1] {
            base = l[i]; // a new incarnation starts without what the old one had lost
            served_base = served[i];
        }
        let mut bytes = ((d.y[i] + l[i] - base) * MB / d.quantum).round() * d.quantum;
        if d.outliers > 0.0 && rng.chance(d.outliers) {
            bytes = if rng.chance(0.3) { 0.0 } else { bytes + rng.range(50.0, 2000.0) * MB };
        }
        points.push(Point {
            unix_s: 1_760_000_000.0 + d.t[i] * 3600.0,
            bytes,
            segment: d.segment[i],
            requests: counted.then(|| served[i] - served_base),
        });
    }
    let breach_h = (class == 2).then(|| d.t[l.iter().position(|l| l.abs() >= 50.0).unwrap_or(n - 1)]);
    if d.gaps {
        leave_gaps(&mut points, &mut rng);
    }
    Trace {
        points,
        class,
        parts: made_of.join("+"),
        leak: family.map(|f| LEAKS[f]),
        drift_bytes: total * MB,
        breach_h,
        interval_s: dt_s,
    }
}

fn leave_gaps(points: &mut Vec<Point>, rng: &mut Rng) {
    let start = points[0].unix_s;
    for _ in 0..rng.whole(1, 6) {
        let (from, long) = (rng.range(0.0, HOURS), rng.log_range(0.2, 5.0));
        let from = start + from * 3600.0;
        points.retain(|p| p.unix_s < from || p.unix_s > from + long * 3600.0);
    }
    if rng.chance(0.3) {
        let at = points.len() / 2;
        let step = rng.range(-3600.0, 1800.0);
        points[at..].iter_mut().for_each(|p| p.unix_s += step);
    }
}
