//! Judge "curves": the question taken literally, written without knowledge of the detector it judges. Every nuisance of its list, alone and in
//! mixtures of two to four, over the ranges it names; every leak of its list over quiet series, single nuisances and mixtures. MB are 10^6 bytes.
use super::series::{Rng, Trace};
use soakd::model::series::Point;
use std::f64::consts::TAU;

/// Series in one seed.
pub const SERIES: u64 = 310;
const CLEAN: u64 = 130;
const TOLERATED: u64 = 60;
const HOURS: f64 = 48.0;
const MB: f64 = 1e6;
/// Cells of the grids of leak and load: 10 s each.
const CELLS: usize = 17_280;
/// Nuisances, one bit each.
const NAMES: &str = "noise sawtooth day warmup arenas cache spikes restarts outliers gaps clock pages";
/// Leak kinds, and how many of the leaking series have each.
const LEAKS: &str = "linear request late step burst load swap vram restart shrinking";
const LEAK_COUNTS: [usize; 10] = [38, 18, 12, 12, 10, 10, 5, 6, 5, 4];

/// Which nuisances a series has.
#[derive(Clone, Copy)]
struct Mix(u64);

impl Mix {
    /// Is the nuisance in it?
    fn has(self, nuisance: &str) -> bool {
        NAMES.split(' ').position(|name| name == nuisance).is_some_and(|bit| self.0 >> bit & 1 == 1)
    }
    /// With this nuisance as well, still at most four in all.
    fn with(self, nuisance: &str) -> Self {
        let kept = if self.0.count_ones() == 4 { self.0 & (self.0 - 1) } else { self.0 };
        Mix(kept | 1 << NAMES.split(' ').position(|name| name == nuisance).unwrap_or(0))
    }
    /// Of the `nth` series of a class: first quiet ones, then each nuisance alone `each` times, then mixtures of two to four.
    fn of(rng: &mut Rng, nth: u64, quiet: u64, each: u64) -> Self {
        if nth < quiet {
            return Mix(0);
        } else if nth < quiet + 12 * each {
            return Mix(1 << ((nth - quiet) % 12));
        }
        let (count, mut bits) = (rng.whole(2, 4), 0_u64);
        while u64::from(bits.count_ones()) < count {
            bits |= 1 << rng.whole(0, 11);
        }
        Mix(bits)
    }
    /// Names joined by '+'.
    fn name(self) -> String {
        let names: Vec<&str> = NAMES.split(' ').filter(|name| self.has(name)).collect();
        if names.is_empty() { "quiet".into() } else { names.join("+") }
    }
}

/// Something that rises in every incarnation and comes to an end: a warm-up, a cache, a step of an arena.
struct Rise {
    /// Hours since the incarnation's start.
    start: f64,
    mb: f64,
    /// Time constant, or hours until it is full.
    hours: f64,
    /// Saturating, or steadily to its limit.
    soft: bool,
}

impl Rise {
    /// Height at `h` hours, for an incarnation with its own height and slowness (0.7 to 1.4, 0.75 to 1.2).
    fn at(&self, h: f64, own: (f64, f64)) -> f64 {
        let x = ((h / own.1 - self.start) / self.hours).max(0.0);
        self.mb * own.0 * if self.soft { 1.0 - (-x).exp() } else { x.min(1.0) }
    }
    /// Hours until less than 5 MB are left to come.
    fn settle(&self) -> f64 {
        1.2 * (self.start + self.hours * if self.soft { (1.4 * self.mb / 5.0).ln() } else { 1.0 })
    }
}

/// The rises of a series. One with restarts always warms up anew in each incarnation.
fn rises(rng: &mut Rng, mix: Mix) -> Vec<Rise> {
    let (mut all, again) = (Vec::new(), mix.has("restarts"));
    if mix.has("warmup") || again {
        all.push(Rise { start: 0.0, mb: rng.range(71.0, 215.0), hours: rng.log_range(0.44, 2.5), soft: true });
    }
    if mix.has("cache") {
        let (soft, start) = (rng.chance(0.6), if again || rng.chance(0.7) { 0.0 } else { rng.range(0.5, 4.0) });
        let hours = if soft { rng.log_range(0.4, 2.5) } else { rng.log_range(0.5, 5.0) };
        all.push(Rise { start, mb: rng.log_range(60.0, 400.0), hours, soft });
    }
    if mix.has("arenas") {
        let end = rng.log_range(2.0, if again { 8.0 } else { 20.0 });
        for _ in 0..rng.whole(2, 6) {
            all.push(Rise {
                start: end * rng.range(0.02, 1.0),
                mb: rng.log_range(5.0, 48.0),
                hours: 1e-3,
                soft: false,
            });
        }
    }
    all
}

/// Starts of the incarnations: few enough, and early enough for what follows the last one to be judged.
fn starts(rng: &mut Rng, mix: Mix, settle: f64, leak: &str, class: u8) -> Vec<f64> {
    let mut all = vec![0.0];
    if mix.has("restarts") {
        let uneven = ["late", "step", "burst", "load"].contains(&leak);
        let latest =
            (30.0 - settle).min(if mix.has("day") { 14.0 } else { HOURS }).min(if uneven { 16.0 } else { HOURS });
        let count = rng.whole(1, if class == 0 { 4 } else { 3 }).min((latest / 4.0) as u64).max(1);
        let slot = latest / count as f64;
        all.extend((0..count).map(|k| slot * (k as f64 + rng.range(0.45, 1.0))));
    }
    all
}

/// The longest stretch of hours that shows the leak by itself: within one incarnation, mostly after its rises.
fn usable(starts: &[f64], settle: f64) -> f64 {
    let end = |k: usize| starts.get(k + 1).copied().unwrap_or(HOURS);
    (0..starts.len()).map(|k| end(k) - starts[k] - 0.6 * settle).fold(0.0, f64::max)
}

/// When load is on, for duty cycles: period, share of it, phase (hours).
type Duty = (f64, f64, f64);

/// Load at `h` hours under a duty cycle, 0 or 1.
fn on(duty: Duty, h: f64) -> f64 {
    f64::from(u8::from(((h + duty.2) / duty.0).fract() < duty.1))
}

/// A number of events with this mean.
fn poisson(rng: &mut Rng, mean: f64) -> f64 {
    if mean > 30.0 {
        return (mean + mean.sqrt() * rng.normal()).round().max(0.0);
    }
    let (mut count, mut product, floor) = (0.0, rng.range(0.0, 1.0), (-mean).exp());
    while product > floor {
        product *= rng.range(0.0, 1.0);
        count += 1.0;
    }
    count
}

/// Requests finished by the end of each cell, under a duty cycle, or a load with a day of its own and a slow wander.
fn load(rng: &mut Rng, duty: Option<Duty>) -> Vec<f64> {
    let per_cell = 10.0 * rng.log_range(0.005, 150.0);
    let (day, phase) = (rng.range(0.2, 0.9), rng.range(0.0, TAU));
    let (wander, keep) = (rng.range(0.1, 0.6), (-10.0 / rng.log_range(1200.0, 14_400.0)).exp());
    let (mut state, mut sum, mut all) = (rng.normal(), 0.0, vec![0.0]);
    for cell in 0..CELLS {
        let h = cell as f64 / 360.0;
        state = state * keep + (1.0 - keep * keep).sqrt() * rng.normal();
        let varying = (1.0 + day * (TAU * h / 24.0 + phase).sin()) * (wander * state - wander * wander / 2.0).exp();
        sum += poisson(rng, per_cell * duty.map_or(varying, |duty| on(duty, h)));
        all.push(sum);
    }
    all
}

/// The value of a grid at `h` hours.
fn lookup(grid: &[f64], h: f64) -> f64 {
    let x = (h * 360.0).clamp(0.0, CELLS as f64);
    let k = (x as usize).min(CELLS - 1);
    grid[k] + (grid[k + 1] - grid[k]) * (x - k as f64)
}

/// Ramps, one in each of `count` equal spans of the run: (start, hours, size), sizes between a half and one and a half.
fn ramps(rng: &mut Rng, count: u64, hours: (f64, f64)) -> Vec<(f64, f64, f64)> {
    let span = HOURS / count as f64;
    let one = |k: u64| {
        let long = rng.log_range(hours.0, hours.1).min(0.5 * span);
        (span * k as f64 + rng.range(0.0, span - long), long, rng.range(0.5, 1.5))
    };
    (0..count).map(one).collect()
}

/// The share of the leak that is gone at the end of each cell, from 0 to 1.
fn leak_grid(rng: &mut Rng, leak: &str, duty: Duty, requests: &[f64]) -> Vec<f64> {
    let (many, onset) = (rng.whole(10, 40), rng.range(6.0, 28.0));
    let spans = match leak {
        "step" => ramps(rng, many, (0.002, 0.02)),
        "burst" => ramps(rng, many / 2 + 2, (0.15, 1.2)),
        "late" => vec![(onset, HOURS - onset, 1.0)],
        _ => vec![(0.0, HOURS, 1.0)],
    };
    let (mut under_load, mut grid) = (0.0, Vec::with_capacity(CELLS + 1));
    for cell in 0..=CELLS {
        let h = cell as f64 / 360.0;
        grid.push(match leak {
            "request" => requests.get(cell).copied().unwrap_or(0.0),
            "load" => under_load,
            _ => spans.iter().map(|s| s.2 * ((h - s.0) / s.1).clamp(0.0, 1.0)).sum(),
        });
        under_load += on(duty, h);
    }
    let all = grid[CELLS];
    grid.iter_mut().for_each(|share| *share /= all);
    grid
}

/// The smallest leak that a careful person would see in this series (megabytes).
fn floor_mb(mix: Mix, leak: &str, usable_h: f64) -> f64 {
    let (day, uneven) = (mix.has("day"), ["late", "burst", "load", "step", "request"].contains(&leak));
    let beside_day = if day && (uneven || mix.has("restarts")) { 150.0 } else { 75.0 };
    let beside_arenas = if mix.has("arenas") && uneven { 120.0 } else { 75.0 };
    let beside_noise = if mix.has("noise") && uneven { 100.0 } else { 75.0 };
    (40.0 * HOURS / usable_h).max(beside_day).max(beside_arenas).max(beside_noise)
}

/// Long-memory noise, of one time constant or three far apart: (state, what is kept of it each sample, standard deviation).
/// Drawn over its ranges, then held down until the drift it feigns is a third at most of the way from the true one to 50 MB.
fn noise(rng: &mut Rng, dt: f64, usable_h: f64, drift_mb: f64) -> Vec<(f64, f64, f64)> {
    let (sigma, slowest) = (rng.log_range(3.0, 20.0), rng.log_range(1.0 / 6.0, 6.0));
    let taus = [slowest, slowest / 5.0, slowest / 25.0];
    let taus = &taus[..if rng.chance(0.5) { 1 } else { 3 }];
    let mean_tau = taus.iter().sum::<f64>() / taus.len() as f64;
    let feigned = sigma * (24.0 * mean_tau / usable_h).sqrt() * (HOURS / usable_h);
    let held = sigma * ((drift_mb.abs() - 50.0).abs().min(60.0) / 3.0 / feigned).min(1.0);
    let most = if drift_mb.abs() > 50.0 { drift_mb.abs() / 8.0 } else { 20.0 };
    let each = held.min(most) / (taus.len() as f64).sqrt();
    taus.iter().map(|tau| (rng.normal(), (-dt / 3600.0 / tau).exp(), each)).collect()
}

/// The next sample's noise.
fn next_noise(rng: &mut Rng, noise: &mut [(f64, f64, f64)]) -> f64 {
    let mut sum = 0.0;
    for (state, keep, sd) in noise {
        *state = *state * *keep + (1.0 - *keep * *keep).sqrt() * rng.normal();
        sum += *sd * *state;
    }
    sum
}

/// The cycles of a collector's saw-tooth, each a little unlike the last: (start, hours, height).
fn saw_cycles(rng: &mut Rng) -> Vec<(f64, f64, f64)> {
    let (period, height) = (rng.range(7.0, 50.0), rng.range(20.0, 120.0));
    let (mut start, mut all) = (-rng.range(0.0, 7.0) / 60.0, Vec::new());
    while start < HOURS + 1.0 {
        let hours = (period * rng.range(0.9, 1.1)).clamp(7.0, 50.0) / 60.0;
        all.push((start, hours, (height * rng.range(0.9, 1.1)).clamp(20.0, 120.0)));
        start += hours;
    }
    all
}

/// Height of the saw-tooth at `h` hours.
fn saw_at(cycles: &[(f64, f64, f64)], h: f64) -> f64 {
    let after = cycles.partition_point(|cycle| cycle.0 <= h);
    cycles.get(after.wrapping_sub(1)).map_or(0.0, |cycle| cycle.2 * (h - cycle.0) / cycle.1)
}

/// Stretches that come and go: (start, end, height), how many, how long and how high drawn from the ranges.
fn stretches(
    rng: &mut Rng,
    present: bool,
    count: (u64, u64),
    hours: (f64, f64),
    height: (f64, f64),
) -> Vec<(f64, f64, f64)> {
    let mut all = Vec::new();
    for _ in 0..if present { rng.whole(count.0, count.1) } else { 0 } {
        let start = rng.range(0.3, 42.0);
        all.push((start, start + rng.log_range(hours.0, hours.1), rng.log_range(height.0, height.1)));
    }
    all
}

/// The sum of the stretches at `h` hours.
fn sum_at(stretches: &[(f64, f64, f64)], h: f64) -> f64 {
    stretches.iter().filter(|s| s.0 <= h && h < s.1).map(|s| s.2).sum()
}

/// What is read instead of the figure when a sample is an outlier: nothing, too little, or too much.
fn outlier(rng: &mut Rng, mb: f64) -> f64 {
    let off = rng.log_range(50.0, 1000.0);
    [0.0, mb - off, mb + off, mb + off][rng.whole(0, 3) as usize]
}

/// Class, nuisances and kind of drift of the `index`-th series.
fn cast(rng: &mut Rng, seed: u64, index: u64) -> (u8, Mix, &'static str) {
    let at = index % SERIES;
    if at < CLEAN {
        return (0, Mix::of(rng, at, 14, 6), "");
    } else if at < CLEAN + TOLERATED {
        let other = ["request", "late", "step", "shrinking", "shrinking"];
        let kind = other.get(rng.whole(0, 14) as usize).unwrap_or(&"linear");
        return (1, Mix::of(rng, at - CLEAN, 8, 2), kind);
    }
    let mut kinds: Vec<&'static str> =
        LEAKS.split(' ').zip(LEAK_COUNTS).flat_map(|(name, count)| vec![name; count]).collect();
    let mut order = Rng::new(seed ^ 0x0C0C_5EED);
    for k in (1..kinds.len()).rev() {
        kinds.swap(k, order.whole(0, k as u64) as usize);
    }
    let nth = at - CLEAN - TOLERATED;
    let mix = Mix::of(rng, nth, 20, 4);
    match kinds[nth as usize] {
        "restart" => (2, mix.with("restarts"), "restart"),
        "vram" => (2, mix.with("pages"), "vram"),
        kind => (2, mix, kind),
    }
}

/// Seconds between samples.
fn interval(rng: &mut Rng) -> f64 {
    if rng.chance(0.1) {
        return [1.0, 120.0, 300.0][rng.whole(0, 2) as usize];
    }
    [10.0, 10.0, 15.0, 15.0, 20.0, 30.0, 30.0, 60.0][rng.whole(0, 7) as usize]
}

/// The `index`-th series under `seed`.
pub fn trace(seed: u64, index: u64) -> Trace {
    let mut own = Rng::new(Rng::new(seed ^ 0x00C0_FFEE).next() ^ (index + 1).wrapping_mul(0xD6E8_FEB8_6659_FD93));
    let rng = &mut own;
    let (class, mix, kind) = cast(rng, seed, index);
    let interval_s = interval(rng);
    // The shape behind the name: VRAM leaks by time or by request, shrinking is a drift with the other sign.
    let shape = match kind {
        "vram" if rng.chance(0.5) => "request",
        "shrinking" if rng.chance(0.25) => "late",
        other => other,
    };
    let rises = rises(rng, mix);
    let settle = rises.iter().map(Rise::settle).fold(0.0, f64::max);
    let starts = starts(rng, mix, settle, shape, class);
    let usable_h = usable(&starts, settle);
    let size = match class {
        0 => 0.0,
        1 => rng.range(5.0, 25.0),
        _ => rng.log_range(floor_mb(mix, shape, usable_h), 1500.0),
    };
    let drift = if kind == "shrinking" { -size } else { size };
    let daily = !mix.has("day") && size > 150.0 && rng.chance(0.25);
    let duty = (if daily { 24.0 } else { rng.log_range(2.0, 10.0) }, rng.range(0.2, 0.7), rng.range(0.0, 24.0));
    let counted = shape == "request" || rng.chance(if shape == "load" { 0.5 } else { 0.25 });
    let requests = if counted { load(rng, (shape == "load").then_some(duty)) } else { Vec::new() };
    let leaked = leak_grid(rng, shape, duty, &requests);
    let gone = leaked.iter().position(|share| share * size >= 50.0);
    let noise = if mix.has("noise") { noise(rng, interval_s, usable_h, drift) } else { Vec::new() };
    let even = rises.iter().any(|rise| !rise.soft && rise.hours > 0.1);
    let lowest = if kind == "vram" { 2000.0 } else { 200.0 - 1.2 * drift.min(0.0) };
    let points = points(rng, mix, interval_s, lowest, (&starts, &rises), noise, (drift, &leaked, &requests));
    let (leak, breach_h) = ((class > 0).then_some(kind), gone.map(|cell| cell as f64 / 360.0));
    Trace {
        points,
        class,
        // A cache that fills evenly is counted apart: until it is full nothing tells it from a leak.
        parts: if even { mix.name().replace("cache", "even_cache") } else { mix.name() },
        leak,
        drift_bytes: drift * MB,
        breach_h,
        interval_s,
    }
}

/// Truth, as (drift, its course, requests finished).
type Truth<'a> = (f64, &'a [f64], &'a [f64]);
/// Long-memory noise as `noise` makes it.
type Slow = Vec<(f64, f64, f64)>;

/// Plays the series: the truth, and all that disturbs it.
fn points(
    rng: &mut Rng,
    mix: Mix,
    dt: f64,
    lowest: f64,
    lives: (&[f64], &[Rise]),
    mut slow: Slow,
    truth: Truth,
) -> Vec<Point> {
    let ((starts, rises), (drift, leaked, requests)) = (lives, truth);
    let (level, sample_sd) = (rng.log_range(lowest, 80_000.0), rng.log_range(0.1, 4.0));
    let saw = if mix.has("sawtooth") { saw_cycles(rng) } else { Vec::new() };
    let day = (if mix.has("day") { rng.range(5.0, 40.0) } else { 0.0 }, rng.range(0.0, TAU));
    let (spike_h, gap_h) = ((1.0_f64.max(dt / 60.0) / 60.0, 1.0 / 3.0), (0.1_f64.max(dt / 1200.0), 5.0));
    let spikes = stretches(rng, mix.has("spikes"), (2, 20), spike_h, (30.0, 500.0));
    let gaps = stretches(rng, mix.has("gaps"), (1, 6), gap_h, (1.0, 2.0));
    let mut clock = stretches(rng, mix.has("clock"), (1, 2), (0.2, 3.0), (10.0, 3600.0));
    clock.extend(stretches(rng, mix.has("clock"), (0, 2), (100.0, 200.0), (1.0, 30.0)));
    let sign = if rng.chance(0.5) { 1.0 } else { -1.0 };
    let outliers = if mix.has("outliers") { rng.log_range(0.0005, 0.01).max(3.0 * dt / 172_800.0) } else { 0.0 };
    let page = if mix.has("pages") { 2_097_152.0 } else { 4096.0 };
    let begin = (1.7e9 + rng.range(0.0, 3e7)).round();
    let each: Vec<f64> = starts.iter().map(|_| level + rng.range(-0.1, 0.1) * level.min(1500.0)).collect();
    let own: Vec<(f64, f64)> = starts.iter().map(|_| (rng.range(0.7, 1.4), rng.range(0.75, 1.2))).collect();
    let (first_pid, down_h) = (rng.whole(1, 30_000) as u32, rng.range(0.0, 0.05));
    let finished = |h: f64| lookup(requests, h).floor();
    let mut all = Vec::new();
    for i in 0..=(HOURS * 3600.0 / dt) as usize {
        let h = i as f64 * dt / 3600.0;
        let life = starts.iter().rposition(|start| *start <= h).unwrap_or(0);
        let since = h - starts[life];
        let mut mb = each[life] + drift * (lookup(leaked, h) - lookup(leaked, starts[life]));
        mb += rises.iter().map(|rise| rise.at(since, own[life])).sum::<f64>() + sum_at(&spikes, h);
        mb += saw_at(&saw, h)
            + day.0 * (TAU * h / 24.0 + day.1).sin()
            + next_noise(rng, &mut slow)
            + sample_sd * rng.normal();
        if rng.chance(outliers) {
            mb = outlier(rng, mb);
        }
        if sum_at(&gaps, h) > 0.0 || life > 0 && since < down_h {
            continue;
        }
        all.push(Point {
            unix_s: begin + h * 3600.0 + sign * sum_at(&clock, h),
            bytes: (mb.max(0.0) * MB / page).floor() * page,
            segment: first_pid + 17 * life as u32,
            requests: (!requests.is_empty()).then(|| finished(h) - finished(starts[life])),
        });
    }
    all
}
