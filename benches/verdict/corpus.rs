//! A simulated corpus of memory series whose true drift is known: nuisances that are no leak, and leaks of five families
//! laid over them. Everything follows from one seed.

use soakd::model::series::Point;

/// SplitMix64: small, seedable, good enough for noise.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [lo, hi).
    pub fn range(&mut self, lo: f64, hi: f64) -> f64 {
        lo + (hi - lo) * ((self.next() >> 11) as f64 / (1_u64 << 53) as f64)
    }

    /// Log-uniform in [lo, hi).
    pub fn log_range(&mut self, lo: f64, hi: f64) -> f64 {
        self.range(lo.ln(), hi.ln()).exp()
    }

    /// A whole number in lo..=hi.
    pub fn whole(&mut self, lo: u64, hi: u64) -> u64 {
        lo + self.next() % (hi - lo + 1)
    }

    pub fn chance(&mut self, p: f64) -> bool {
        self.range(0.0, 1.0) < p
    }

    /// Standard normal.
    pub fn normal(&mut self) -> f64 {
        let u = self.range(1e-12, 1.0);
        let v = self.range(0.0, std::f64::consts::TAU);
        (-2.0 * u.ln()).sqrt() * v.cos()
    }
}

/// Bytes in a megabyte.
pub const MB: f64 = 1e6;
/// Hours in a trace.
pub const HOURS: f64 = 48.0;

/// What is no leak. The first twelve were at hand while the detector was tuned; the rest were held out.
pub const NUISANCES: [&str; 18] = [
    "quiet",
    "long_memory",
    "sawtooth",
    "day_cycle",
    "warm_up",
    "arena_steps",
    "restarts",
    "outliers",
    "gaps",
    "cache",
    "warm_day_saw",
    "mixed",
    // held out
    "one_over_f",
    "jittered_gc",
    "office_hours",
    "two_warm_ups",
    "restarts_saw",
    "telegraph",
];
/// How many of [`NUISANCES`] were used for tuning.
pub const TUNED: usize = 12;

/// How a leak goes.
pub const LEAKS: [&str; 5] = ["linear", "late", "stepped", "bursty", "duty_cycled"];

/// One simulated series and the truth about it.
pub struct Trace {
    pub points: Vec<Point>,
    pub nuisance: usize,
    /// Index into [`LEAKS`]; `None` where nothing leaks beyond the tolerance.
    pub leak: Option<usize>,
    /// Bytes leaked by the end.
    pub drift_bytes: f64,
    /// Hours until 50 MB were gone.
    pub breach_h: Option<f64>,
}

/// Adds Ornstein-Uhlenbeck noise of standard deviation `sd` and time constant `tau_h`.
fn add_ou(y: &mut [f64], dt_h: f64, sd: f64, tau_h: f64, rng: &mut Rng) {
    let phi = (-dt_h / tau_h).exp();
    let q = sd * (1.0 - phi * phi).sqrt();
    let mut x = sd * rng.normal();
    for v in y.iter_mut() {
        *v += x;
        x = phi * x + q * rng.normal();
    }
}

fn add_white(y: &mut [f64], sd: f64, rng: &mut Rng) {
    for v in y.iter_mut() {
        *v += sd * rng.normal();
    }
}

fn add_saw(y: &mut [f64], t: &[f64], amp: f64, period_h: f64, jitter: f64, rng: &mut Rng) {
    let mut start = -rng.range(0.0, 1.0) * period_h;
    let (mut p, mut a) = (period_h, amp);
    for (v, t) in y.iter_mut().zip(t) {
        while *t - start >= p {
            start += p;
            p = period_h * (1.0 + jitter * rng.range(-1.0, 1.0));
            a = amp * (1.0 + jitter * rng.range(-1.0, 1.0));
        }
        *v += a * (*t - start) / p;
    }
}

fn add_day(y: &mut [f64], t: &[f64], amp: f64, rng: &mut Rng) {
    let phase = rng.range(0.0, std::f64::consts::TAU);
    for (v, t) in y.iter_mut().zip(t) {
        *v += amp * (std::f64::consts::TAU * t / 24.0 + phase).sin();
    }
}

fn add_office(y: &mut [f64], t: &[f64], amp: f64, rng: &mut Rng) {
    let phase = rng.range(0.0, 24.0);
    for (v, t) in y.iter_mut().zip(t) {
        let h = (t + phase) % 24.0;
        let edge = |x: f64| 1.0 / (1.0 + (-x / 0.5).exp());
        *v += amp * (edge(h - 8.0) - edge(h - 18.0)) * (1.0 + 0.15 * (h * 1.3).sin());
    }
}

fn add_warm(y: &mut [f64], t: &[f64], from_h: f64, amp: f64, tau_h: f64) {
    for (v, t) in y.iter_mut().zip(t) {
        if *t >= from_h {
            *v += amp * (1.0 - (-(t - from_h) / tau_h).exp());
        }
    }
}

fn add_step(y: &mut [f64], t: &[f64], at_h: f64, size: f64) {
    for (v, t) in y.iter_mut().zip(t) {
        if *t >= at_h {
            *v += size;
        }
    }
}

fn add_spikes(y: &mut [f64], t: &[f64], rng: &mut Rng) {
    for _ in 0..rng.whole(3, 40) {
        let at = rng.range(0.0, HOURS);
        let long = rng.log_range(0.01, 0.6);
        let size = rng.range(30.0, 600.0) * if rng.chance(0.15) { -0.3 } else { 1.0 };
        for (v, t) in y.iter_mut().zip(t) {
            if *t >= at && *t < at + long {
                *v += size;
            }
        }
    }
}

fn add_arena(y: &mut [f64], t: &[f64], rng: &mut Rng) {
    let until = rng.range(3.0, 30.0);
    for _ in 0..rng.whole(2, 5) {
        let at = rng.range(0.0, until);
        add_step(y, t, at, rng.range(8.0, 64.0));
    }
}

fn restart_times(rng: &mut Rng) -> Vec<f64> {
    let mut at: Vec<f64> = (0..rng.whole(1, 6)).map(|_| rng.range(1.0, HOURS - 1.0)).collect();
    at.sort_by(f64::total_cmp);
    at
}

/// Everything but the leak, in MB; fills `segment`.
fn nuisance(kind: usize, t: &[f64], segment: &mut [u32], rng: &mut Rng) -> Vec<f64> {
    let dt = t[1] - t[0];
    let mut y = vec![rng.range(300.0, 6000.0); t.len()];
    add_white(&mut y, rng.log_range(0.1, 3.0), rng);
    add_ou(&mut y, dt, rng.log_range(0.2, 3.0), rng.log_range(0.05, 1.0), rng);
    let restarts = |y: &mut [f64], segment: &mut [u32], rng: &mut Rng| {
        let at = restart_times(rng);
        let (amp, tau) = (rng.range(30.0, 200.0), rng.log_range(0.2, 2.0));
        let mut from = 0.0;
        for (i, until) in at.iter().copied().chain([f64::INFINITY]).enumerate() {
            let (level, a, c) = (rng.range(-40.0, 40.0), amp * rng.range(0.7, 1.3), tau * rng.range(0.8, 1.25));
            for ((v, t), s) in y.iter_mut().zip(t).zip(segment.iter_mut()) {
                if *t >= from && *t < until {
                    *v += level + a * (1.0 - (-(t - from) / c).exp());
                    *s = i as u32;
                }
            }
            from = until;
        }
    };
    match NUISANCES[kind] {
        "long_memory" => add_ou(&mut y, dt, rng.range(3.0, 15.0), rng.log_range(0.5, 4.0), rng),
        "sawtooth" => add_saw(&mut y, t, rng.range(20.0, 120.0), rng.range(7.0, 50.0) / 60.0, 0.0, rng),
        "day_cycle" => add_day(&mut y, t, rng.range(10.0, 40.0), rng),
        "warm_up" => add_warm(&mut y, t, 0.0, rng.range(50.0, 300.0), rng.log_range(0.333, 3.0)),
        "arena_steps" => add_arena(&mut y, t, rng),
        "restarts" => restarts(&mut y, segment, rng),
        "outliers" => add_spikes(&mut y, t, rng),
        "cache" => {
            let (amp, full) = (rng.range(40.0, 300.0), rng.range(0.5, 6.0));
            for (v, t) in y.iter_mut().zip(t) {
                *v += amp * (t / full).min(1.0);
            }
        }
        "warm_day_saw" => {
            add_warm(&mut y, t, 0.0, rng.range(50.0, 300.0), rng.log_range(0.333, 3.0));
            add_day(&mut y, t, rng.range(5.0, 30.0), rng);
            add_saw(&mut y, t, rng.range(20.0, 80.0), rng.range(7.0, 50.0) / 60.0, 0.1, rng);
        }
        "mixed" => {
            add_ou(&mut y, dt, rng.range(2.0, 6.0), rng.log_range(0.3, 3.0), rng);
            add_spikes(&mut y, t, rng);
            restarts(&mut y, segment, rng);
            add_day(&mut y, t, rng.range(3.0, 15.0), rng);
        }
        "one_over_f" => {
            for tau in [0.2, 0.8, 3.0, 10.0] {
                add_ou(&mut y, dt, rng.range(1.0, 5.0), tau, rng);
            }
        }
        "jittered_gc" => add_saw(&mut y, t, rng.range(20.0, 120.0), rng.range(7.0, 50.0) / 60.0, 0.4, rng),
        "office_hours" => add_office(&mut y, t, rng.range(10.0, 60.0), rng),
        "two_warm_ups" => {
            add_warm(&mut y, t, 0.0, rng.range(30.0, 200.0), rng.log_range(0.2, 0.8));
            add_warm(&mut y, t, 0.0, rng.range(30.0, 150.0), rng.log_range(1.0, 3.0));
        }
        "restarts_saw" => {
            restarts(&mut y, segment, rng);
            add_saw(&mut y, t, rng.range(20.0, 100.0), rng.range(7.0, 50.0) / 60.0, 0.0, rng);
        }
        "telegraph" => {
            let (mut on, mut until, size, mean) = (0.0, 0.0, rng.range(10.0, 120.0), rng.range(1.0, 8.0));
            for (v, t) in y.iter_mut().zip(t) {
                if *t >= until {
                    on = 1.0 - on;
                    until = t - mean * rng.range(1e-3, 1.0).ln();
                }
                *v += on * size;
            }
        }
        _ => {}
    }
    y
}

/// Cumulative leak in MB: `total` by the end.
fn leak(kind: usize, total: f64, t: &[f64], rng: &mut Rng) -> Vec<f64> {
    let mut l: Vec<f64> = match LEAKS[kind] {
        "late" => {
            let onset = rng.range(6.0, 36.0);
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
        _ => t.to_vec(),
    };
    let last = l[l.len() - 1].max(1e-9);
    l.iter_mut().for_each(|v| *v *= total / last);
    l
}

/// The `index`-th trace of class `class` (0 clean, 1 tolerated, 2 leaking) under `seed`, over nuisance `kind`.
pub fn trace(seed: u64, index: u64, class: u8, kind: usize) -> Trace {
    let mut rng = Rng::new(seed ^ index.wrapping_mul(0x5851_F42D_4C95_7F2D) ^ (u64::from(class) << 60));
    let dt_s = [30.0, 60.0, 60.0, 60.0, 120.0, 300.0][rng.whole(0, 5) as usize];
    let n = (HOURS * 3600.0 / dt_s) as usize + 1;
    let t: Vec<f64> = (0..n).map(|i| i as f64 * dt_s / 3600.0).collect();
    let mut segment = vec![0; n];
    let mut y = nuisance(kind, &t, &mut segment, &mut rng);
    let family = (class == 2).then_some((index % 5) as usize);
    let total = match class {
        0 => 0.0,
        1 => rng.range(5.0, 25.0) * if rng.chance(0.15) { -1.0 } else { 1.0 },
        _ => rng.log_range(75.0, 1500.0),
    };
    let l = leak(family.unwrap_or(0), total, &t, &mut rng);
    let mut base = 0.0;
    for i in 0..n {
        if i > 0 && segment[i] != segment[i - 1] {
            base = l[i]; // a new incarnation starts without what the old one had lost
        }
        y[i] += l[i] - base;
    }
    let breach_h = (class == 2).then(|| t[l.iter().position(|l| *l >= 50.0).unwrap_or(n - 1)]);
    let quantum = if rng.chance(0.3) { 2.0 * 1_048_576.0 } else { 4096.0 };
    let mut points: Vec<Point> = (0..n)
        .map(|i| Point {
            unix_s: 1_760_000_000.0 + t[i] * 3600.0,
            bytes: (y[i] * MB / quantum).round() * quantum,
            segment: segment[i],
            requests: None,
        })
        .collect();
    if NUISANCES[kind] == "gaps" {
        for _ in 0..rng.whole(1, 6) {
            let (from, long) = (rng.range(0.0, HOURS), rng.log_range(0.2, 5.0));
            let start = points[0].unix_s + from * 3600.0;
            points.retain(|p| p.unix_s < start || p.unix_s > start + long * 3600.0);
        }
        if rng.chance(0.3) {
            let at = points.len() / 2;
            let step = rng.range(-3600.0, 1800.0);
            points[at..].iter_mut().for_each(|p| p.unix_s += step);
        }
    }
    Trace { points, nuisance: kind, leak: family, drift_bytes: total * MB, breach_h }
}
