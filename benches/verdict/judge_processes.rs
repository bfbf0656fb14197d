//! Judge "processes": the question taken literally, written without knowledge of the detector it judges. What allocates, what frees, and when, is simulated on a tick of at most 10 s; a monitor looks on.
//! MB is 1e6 bytes. Clean: `0..126` (4 quiet, 48 with one nuisance, 74 mixtures of two to four), tolerated `126..186`, leaking `186..310`.

use super::series::{Rng, Trace};
use soakd::model::series::Point;
use std::f64::consts::TAU;

/// Series in one seed.
pub const SERIES: u64 = 310;
const MB: f64 = 1e6;
const MIB: f64 = 1_048_576.0;
/// The horizon, hours.
const END_H: f64 = 48.0;
/// Everything that the question names as a nuisance (the sampling interval is drawn for each series).
const PARTS: &str = "noise saw day warmup arenas cache spikes restarts outliers gaps clock pages";
/// Kinds of leak, and how many of each there are in each class.
const LEAKS: &str = "linear request late stepped duty bursty swap vram restarts shrinking";
const COUNTS: [[u64; 10]; 3] = [[0; 10], [46, 5, 3, 3, 3, 0, 0, 0, 0, 0], [38, 14, 11, 11, 11, 11, 6, 7, 8, 7]];

/// Something with a begin and a length (hours): a spike, a gap, a clock step, a pass of the swapper, a pour of the leak.
struct Event(&'static str, f64, f64, f64);

/// The traffic that the process serves: requests a second, swing over the day, wander; period and busy share if it comes in shifts.
struct Load(f64, f64, f64, Option<(f64, f64)>);

/// What is decided about a series before it is lived through.
struct Plan {
    class: u8,
    leak: &'static str,
    parts: Vec<&'static str>,
    /// True drift, bytes, and the blocks in which it is taken (0: byte by byte).
    size: f64,
    block: f64,
    interval_s: f64,
    tick_s: f64,
    vram: bool,
    base: f64,
    onset_h: f64,
    load: Load,
    phase_h: f64,
    column: bool,
    /// Deaths: hour, and hours away.
    cuts: Vec<(f64, f64)>,
    /// Bytes and time constant in hours.
    warm: (f64, f64),
    /// Limit, begin, span (hours), whether it fills evenly (else the span is a time constant).
    cache: (f64, f64, f64, bool),
    /// Bytes and period of the garbage.
    saw: (f64, f64),
    events: Vec<Event>,
}

/// Adds different nuisances until there are `count`; a day beside restarts only where `easy`.
fn mix(parts: &mut Vec<&'static str>, count: usize, may_restart: bool, easy: bool, rng: &mut Rng) {
    while parts.len() < count {
        let part = word(PARTS, rng.whole(0, 11) as usize);
        let clash =
            !easy && ((part == "day" && parts.contains(&"restarts")) || (part == "restarts" && parts.contains(&"day")));
        if !parts.contains(&part) && !clash && (may_restart || part != "restarts") {
            parts.push(part);
        }
    }
}

/// One or the other.
fn either<T>(yes: bool, this: T, that: T) -> T {
    if yes { this } else { that }
}

/// The `at`-th word of a list.
fn word(list: &'static str, at: usize) -> &'static str {
    list.split(' ').nth(at).unwrap_or("linear")
}

/// The kind of leak at place `at` of a class.
fn kind(class: usize, mut at: u64) -> &'static str {
    let mut name = 0;
    while at >= COUNTS[class][name] {
        at -= COUNTS[class][name];
        name += 1;
    }
    word(LEAKS, name)
}

/// Traffic: steady, with the day, wandering, or in shifts.
fn draw_load(leak: &str, rng: &mut Rng) -> Load {
    let kind = either(leak == "duty", 3, rng.whole(u64::from(leak == "request"), 3));
    let period = either(rng.chance(0.4), 24.0, rng.range(2.0, 10.0));
    let shifts = (period, rng.range(0.3, 0.65));
    let swing = if kind == 1 { rng.range(0.3, 0.9) } else { 0.0 };
    let wander = if kind == 2 { rng.range(0.3, 0.7) } else { 0.1 };
    Load(rng.log_range(0.05, 60.0), swing, wander, (kind == 3).then_some(shifts))
}

/// Times of death: all before hour 34; beside a day cycle or a `small` drift only one, which leaves a life of 32 h or more.
fn draw_cuts(parts: &[&str], small: bool, rng: &mut Rng) -> Vec<(f64, f64)> {
    let bands: &[(f64, f64)] = match (parts.contains(&"restarts"), small || parts.contains(&"day"), rng.whole(1, 3)) {
        (false, ..) => &[],
        (_, true, 1) => &[(32.0, 34.0)],
        (_, true, _) => &[(6.0, 15.0)],
        (.., 1) => &[(7.0, 33.0)],
        (.., 2) => &[(7.0, 17.0), (24.0, 33.0)],
        _ => &[(7.0, 11.0), (18.0, 22.0), (29.0, 33.0)],
    };
    bands.iter().map(|b| (rng.range(b.0, b.1), rng.log_range(0.003, 0.083))).collect()
}

/// Lengths of the lives, hours.
fn lives(cuts: &[(f64, f64)]) -> Vec<f64> {
    let mut marks: Vec<f64> = cuts.iter().map(|c| c.0).collect();
    marks.insert(0, 0.0);
    marks.push(END_H);
    marks.windows(2).map(|w| w[1] - w[0]).collect()
}

/// Warm-up (in each life of a restarting process too) and cache, at rest in each life and by hour 40 (30 without restarts).
fn draw_fills(parts: &[&str], cuts: &[(f64, f64)], rng: &mut Rng) -> ((f64, f64), (f64, f64, f64, bool)) {
    let shortest = lives(cuts).into_iter().fold(END_H, f64::min);
    let longest = (shortest / 4.5).min((40.0 - cuts.last().map_or(0.0, |c| c.0)) / 4.1);
    let longest = if parts.contains(&"day") && !cuts.is_empty() { 1.0 } else { longest };
    let warms = parts.contains(&"warmup") || !cuts.is_empty();
    let warm = either(warms, rng.range(50.0, 300.0) * MB, 0.0);
    let warm = (warm, rng.range(1.0 / 3.0, longest.min(3.0)));
    let even = rng.chance(0.4);
    let begin = either(cuts.is_empty() && rng.chance(0.3), rng.range(0.0, 5.0), 0.0);
    let span = rng.log_range(0.3, if even { (2.5 * longest).min(10.0) } else { longest.min(3.5) });
    let limit = either(parts.contains(&"cache"), rng.log_range(30.0, 600.0) * MB, 0.0);
    (warm, (limit, begin, span, even))
}

impl Plan {
    /// Decides everything about series `index`.
    fn draw(index: u64, rng: &mut Rng) -> Plan {
        let (class, leak) = match index {
            0..=125 => (0, ""),
            126..=185 => (1, kind(1, index - 126)),
            _ => (2, kind(2, index - 186)),
        };
        let sign = either(leak == "shrinking" || (class == 1 && rng.chance(0.3)), -MB, MB);
        let size = sign * [0.0, rng.range(5.0, 25.0), rng.log_range(75.0, 1500.0)][class];
        let mut parts: Vec<&str> = if leak == "restarts" { vec!["restarts"] } else { vec![] };
        let may_restart = ["", "linear", "request", "swap", "vram", "restarts"].contains(&leak);
        let count = match index {
            0..=3 => 0,
            4..=51 => 1,
            52..=125 => 2 + index as usize % 3,
            _ => [0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4][rng.whole(0, 19) as usize],
        };
        match index {
            4..=51 => parts.push(word(PARTS, (index - 4) as usize % 12)),
            _ => mix(&mut parts, count, may_restart, class == 0 || size > 250.0 * MB, rng),
        }
        let vram = leak == "vram" || (leak != "swap" && rng.chance(0.15));
        let blocks = [1.0, 1.0, 4.0, 10.0][rng.whole(0, 3) as usize];
        let blocks = either(size < 30.0 * MIB * blocks, 1.0, blocks);
        let block = either(leak == "vram", 2.0 * MIB * blocks, 0.0);
        let heap = either(parts.contains(&"saw"), rng.range(21.0, 120.0) * MB, 0.0);
        let interval_s = match rng.whole(0, 99) {
            0..=6 => 1.0,
            7..=80 => [10.0, 15.0, 20.0, 30.0, 60.0][rng.whole(0, 4) as usize],
            81..=90 => 120.0,
            _ => 300.0,
        };
        let cuts = draw_cuts(&parts, class > 0 && size.abs() < 150.0 * MB, rng);
        let (warm, cache) = draw_fills(&parts, &cuts, rng);
        let mut plan = Plan {
            class: class as u8,
            leak,
            size: if block > 0.0 { (size / block).ceil() * block } else { size },
            block,
            interval_s,
            tick_s: interval_s / (interval_s / 10.0).ceil(),
            vram,
            base: (rng.log_range(if vram { 2000.0 } else { 200.0 }, 8e4) * MB).max(200.0 * MB - size.min(0.0)),
            onset_h: if leak == "late" { rng.range(8.0, 30.0) } else { 0.0 },
            load: draw_load(leak, rng),
            phase_h: rng.range(0.0, 24.0),
            column: leak == "request" || rng.chance(if leak == "duty" { 0.7 } else { 0.4 }),
            cuts,
            warm,
            cache,
            saw: (heap, rng.range(7.8, 47.0) / 60.0),
            events: vec![],
            parts,
        };
        plan.happen(rng);
        plan
    }
    /// Whether a nuisance (or kind of leak) is in it.
    fn has(&self, part: &str) -> bool {
        self.parts.contains(&part) || self.leak == part
    }
    /// Hour of a tick.
    fn hour(&self, tick: usize) -> f64 {
        tick as f64 * self.tick_s / 3600.0
    }
    /// Whether the process lives at that hour.
    fn alive(&self, hour: f64) -> bool {
        !self.cuts.iter().any(|&(at, away)| hour >= at && hour < at + away)
    }
    /// Whether there is traffic at that hour.
    fn busy(&self, hour: f64) -> bool {
        self.load.3.is_none_or(|s| ((hour + self.phase_h) / s.0).fract() < s.1)
    }
    /// Draws what happens at moments, the pours of a leak spread over the whole run among it.
    fn happen(&mut self, rng: &mut Rng) {
        let tick = self.tick_s / 3600.0;
        let (steps, bursts) = (rng.log_range(10.0, 48.0) as u64, rng.whole(9, 32));
        for (name, count, latest, span, size) in [
            ("spikes", rng.whole(3, 14), 47.0, (0.5 / 60.0, 1.0 / 3.0), (30.0 * MB, 600.0 * MB)),
            ("gaps", rng.whole(1, 5), 42.0, (0.15, 4.0), (1.0, 1.1)),
            ("clock", rng.whole(1, 3), 46.0, (100.0, 200.0), (2.0, 3600.0)),
            ("swap", rng.whole(6, 16), 47.0, (1.0 / 30.0, 1.0 / 6.0), (2.0 * MB, 12.0 * MB)),
            ("stepped", steps, 0.8, (tick, tick * 1.000_001), (0.8, 1.2)),
            ("bursty", bursts, 0.95, (1.0 / 12.0, 2.0 / 3.0), (0.3, 3.0)),
        ] {
            for i in 0..if self.has(name) { count } else { 0 } {
                let pour = (i as f64 + 0.5 + latest * rng.range(-0.5, 0.5)) * END_H / count as f64;
                let at = if latest < 1.0 { pour } else { rng.range(0.5, latest) };
                let (span, size) = (rng.log_range(span.0, span.1), rng.log_range(size.0, size.1));
                let sign = if name == "clock" && rng.chance(0.5) { -1.0 } else { 1.0 };
                let size = either(latest < 1.0, size / span, size * sign);
                self.events.push(Event(name, at, span, size));
            }
        }
    }
    /// Sum of what goes on at that hour.
    fn going(&self, name: &str, hour: f64) -> f64 {
        let on = |e: &&Event| e.0 == name && hour >= e.1 && hour < e.1 + e.2;
        self.events.iter().filter(on).map(|e| e.3).sum()
    }
    /// Requests finished in each tick.
    fn served(&self, rng: &mut Rng) -> Vec<f64> {
        let mut mood = Ou::new(1.0, rng.range(1.0, 3.0), rng);
        let mut tick = |tick: usize| {
            let hour = self.hour(tick);
            let day = 1.0 + self.load.1 * (TAU * (hour + self.phase_h) / 24.0).sin();
            let rate = self.load.0 * day * (self.load.2 * mood.step(self.tick_s / 3600.0, rng)).exp();
            poisson(either(self.alive(hour) && self.busy(hour), rate * self.tick_s, 0.0), rng)
        };
        (0..=(48.02 * 3600.0 / self.tick_s) as usize).map(&mut tick).collect()
    }
    /// Bytes lost for good up to each tick, over all lives.
    fn lost(&self, served: &[f64]) -> Vec<f64> {
        let mut sum = 0.0;
        let mut lost: Vec<f64> = Vec::with_capacity(served.len());
        for (tick, &requests) in served.iter().enumerate() {
            let hour = self.hour(tick);
            let weight = match self.leak {
                "request" => requests,
                "late" => f64::from(u8::from(hour > self.onset_h)),
                "duty" => f64::from(u8::from(self.busy(hour))),
                "stepped" | "bursty" => self.going(self.leak, hour),
                _ => 1.0,
            };
            sum += if tick > 0 && self.alive(hour) { weight } else { 0.0 };
            lost.push(sum);
        }
        let scale = self.size / lost[(END_H * 3600.0 / self.tick_s + 0.5) as usize];
        let taken = |bytes: f64| {
            if self.block > 0.0 { (bytes / self.block + 1e-6).floor() * self.block } else { bytes }
        };
        lost.iter().map(|part| taken(part * scale)).collect()
    }
    /// Slow noise, held down where it would leave the truth open: who knows the form is to be four standard errors from 50 MB.
    fn noise(&self, rng: &mut Rng) -> Vec<Ou> {
        let slow = rng.log_range(1.0 / 6.0, 4.0);
        let taus = [slow, slow / 6.0, slow / 36.0];
        let taus = &taus[..either(rng.chance(0.6), 1, 3)];
        let fill = self.cache.1 + self.cache.2 * either(self.cache.3, 1.0, 4.0);
        let settle = either(self.warm.0 > 0.0, 4.0 * self.warm.1, 0.0);
        let settle = settle.max(either(self.cache.0 > 0.0, fill, 0.0));
        let horizon = END_H - self.onset_h;
        let (spans, settle) = either(self.leak == "late", (vec![horizon], 0.0), (lives(&self.cuts), settle));
        let worth: f64 = spans.iter().map(|life| (life - settle).max(1.0).powi(3)).sum();
        let mean_tau = taus.iter().sum::<f64>() / taus.len() as f64;
        let day = either(self.has("day"), either(self.cuts.is_empty(), 1.3, 2.5), 1.0);
        let cap = (self.size.abs() - 50.0 * MB).abs() / 4.0 / day / (24.0 * mean_tau * horizon.powi(2) / worth).sqrt();
        let sigma = (rng.log_range(2.0, 20.0) * MB).min(cap) / (taus.len() as f64).sqrt();
        let sigma = either(self.has("noise"), sigma, 0.0);
        taus.iter().map(|&tau| Ou::new(sigma, tau, rng)).collect()
    }
}

/// A number of arrivals with the given mean.
fn poisson(mean: f64, rng: &mut Rng) -> f64 {
    if mean > 20.0 {
        return (mean + mean.sqrt() * rng.normal()).round().max(0.0);
    }
    let (mut count, mut left) = (0.0, rng.range(1e-12, 1.0));
    while left > (-mean).exp() {
        left *= rng.range(0.0, 1.0);
        count += 1.0;
    }
    count
}

/// Ornstein-Uhlenbeck noise: standard deviation, time constant (hours), value.
struct Ou(f64, f64, f64);

impl Ou {
    /// In its stationary state.
    fn new(sigma: f64, tau_h: f64, rng: &mut Rng) -> Ou {
        Ou(sigma, tau_h, sigma * rng.normal())
    }
    /// Goes on by `hours`.
    fn step(&mut self, hours: f64, rng: &mut Rng) -> f64 {
        let keep = (-hours / self.1).exp();
        self.2 = keep * self.2 + self.0 * (1.0 - keep * keep).sqrt() * rng.normal();
        self.2
    }
}

/// One life of the process: what it holds apart from what it leaks.
struct Life {
    born_h: f64,
    level: f64,
    warm: (f64, f64),
    /// Hour of life and bytes. A new arena comes when the crowd of threads sets a record: log-uniform times.
    arenas: Vec<(f64, f64)>,
    /// Garbage now, the collector's mark, growth per hour.
    garbage: (f64, f64, f64),
}

impl Life {
    /// Born at that hour; the collector works with the same heap and pace in each life.
    fn new(plan: &Plan, born_h: f64, rng: &mut Rng) -> Life {
        let most = either(born_h > 0.0, (0.2 * plan.base).min(300.0 * MB), 0.0);
        let warm = (plan.warm.0 * rng.range(0.9, 1.0), plan.warm.1 * rng.range(0.9, 1.0));
        let level = plan.base + most * rng.range(-1.0, 1.0);
        let last = if plan.cuts.is_empty() { 16.0 } else { 5.0 };
        let count = if plan.has("arenas") { rng.whole(2, 6) } else { 0 };
        let mut arena = |_| (rng.log_range(0.05, last), rng.log_range(4.0, 64.0) * MB);
        let arenas = (0..count).map(&mut arena).collect();
        let garbage = (plan.saw.0 * rng.range(0.0, 0.9), plan.saw.0, plan.saw.0 / plan.saw.1);
        Life { born_h, level, warm, arenas, garbage }
    }
    /// Allocates garbage for a tick; past the mark the collector frees all but a few per cent.
    fn churn(&mut self, plan: &Plan, rng: &mut Rng) -> f64 {
        let (heap, period) = plan.saw;
        self.garbage.0 += self.garbage.2 * plan.tick_s / 3600.0;
        if heap > 0.0 && self.garbage.0 > self.garbage.1 {
            let (rest, mark) = (rng.range(0.0, 0.04), rng.range(0.95, 1.0));
            self.garbage = (heap * rest, heap * mark, heap / period * rng.range(0.95, 1.05));
        }
        self.garbage.0
    }
    /// Level, warm-up, arenas and cache at an hour of this life; `fed`: share of an evenly filling cache.
    fn holds(&self, plan: &Plan, age: f64, fed: f64) -> f64 {
        let arenas: f64 = self.arenas.iter().filter(|a| age >= a.0).map(|a| a.1).sum();
        let (limit, begin, span, even) = plan.cache;
        let full = either(even, fed.min(1.0), 1.0 - (-(age - begin).max(0.0) / span).exp());
        self.level + self.warm.0 * (1.0 - (-age / self.warm.1).exp()) + arenas + limit * full
    }
}

/// The counter: page size, sample noise (bytes; one-sided where it is buffers of requests in flight), chance of an outlier.
struct Counter(f64, f64, bool, f64);

impl Counter {
    /// Draws one for a plan.
    fn draw(plan: &Plan, rng: &mut Rng) -> Counter {
        let samples = END_H * 3600.0 / plan.interval_s;
        let outliers = rng.log_range(5.0, 50.0).min(0.01 * samples);
        let outliers = either(plan.has("outliers"), outliers, 0.0);
        let huge = plan.has("pages") || plan.leak == "vram" || (plan.vram && rng.chance(0.5));
        let jitter = rng.log_range(0.05, if plan.vram { 0.5 } else { 4.0 }) * MB;
        Counter(if huge { 2.0 * MIB } else { 4096.0 }, jitter, rng.chance(0.35), outliers / samples)
    }
    /// What it shows for so many bytes. While the swapper passes, RssAnon and VmSwap are not read at one instant.
    fn reads(&self, plan: &Plan, bytes: f64, hour: f64, rng: &mut Rng) -> f64 {
        let jitter = self.1 * if self.2 { -rng.range(1e-9, 1.0).ln() } else { rng.normal() };
        let mut seen = bytes + jitter + plan.going("spikes", hour) + plan.going("swap", hour) * rng.range(-1.0, 1.0);
        if rng.chance(self.3) {
            let off = rng.log_range(30.0, 2000.0) * MB;
            seen = either(rng.chance(0.5), seen + off, (seen - off).max(0.1 * seen));
        }
        (seen / self.0).floor() * self.0
    }
}

/// Lives the plan through and samples it.
fn simulate(plan: &Plan, served: &[f64], lost: &[f64], rng: &mut Rng) -> Vec<Point> {
    let counter = Counter::draw(plan, rng);
    let mut noise = plan.noise(rng);
    let amp = either(plan.has("day"), rng.range(10.0, 40.0) * MB, 0.0);
    let (bend, turn) = (rng.range(0.0, 0.25), rng.range(0.0, 6.0));
    let (_, begin, span, _) = plan.cache;
    let tick_of = |hour: f64| (hour * 3600.0 / plan.tick_s).ceil() as usize;
    let feed: f64 = served[tick_of(begin)..tick_of(begin + span)].iter().sum();
    let by_request = plan.cuts.is_empty() && plan.load.3.is_none() && feed > 0.0;
    let start = 1.7e9 + rng.range(0.0, 5e7).floor();
    let (mut life, mut before, mut segment) = (Life::new(plan, 0.0, rng), 0.0, rng.whole(1, 30_000) as u32);
    let (mut count, mut eaten, mut cut) = (0.0, 0.0, 0);
    let every = (plan.interval_s / plan.tick_s).round() as usize;
    let mut points = Vec::with_capacity(lost.len() / every + 1);
    for tick in 0..lost.len() {
        let hour = plan.hour(tick);
        if plan.cuts.get(cut).is_some_and(|c| hour >= c.0 + c.1) {
            (life, before, count, cut) = (Life::new(plan, hour, rng), lost[tick], 0.0, cut + 1);
            segment += rng.whole(1, 9000) as u32;
        }
        let age = hour - life.born_h;
        count += served[tick];
        eaten += if age >= begin { served[tick] } else { 0.0 };
        let fed = either(by_request, eaten / feed, ((age - begin) / span).max(0.0));
        let slow: f64 = noise.iter_mut().map(|n| n.step(plan.tick_s / 3600.0, rng)).sum();
        let angle = TAU * (hour + plan.phase_h) / 24.0;
        let day = amp * (angle.sin() + bend * (2.0 * angle + turn).sin()) / (1.0 + bend);
        let bytes = life.holds(plan, age, fed) + life.churn(plan, rng) + day + slow + lost[tick] - before;
        if tick % every == 0 && plan.alive(hour) && plan.going("gaps", hour) == 0.0 {
            let unix_s = start + hour * 3600.0 + plan.going("clock", hour);
            let (bytes, requests) = (counter.reads(plan, bytes, hour, rng), plan.column.then_some(count));
            points.push(Point { unix_s, bytes, segment, requests });
        }
    }
    points
}

/// The `index`-th series under `seed`.
pub fn trace(seed: u64, index: u64) -> Trace {
    let key = Rng::new(seed ^ 0x0D0D_0D0D).next();
    let mut rng = Rng::new(key ^ index.wrapping_add(1).wrapping_mul(0xD6E8_FEB8_6659_FD93));
    let plan = Plan::draw(index, &mut rng);
    let served = plan.served(&mut rng);
    let lost = plan.lost(&served);
    let points = simulate(&plan, &served, &lost, &mut rng);
    let gone = lost.iter().position(|bytes| bytes.abs() >= 50.0 * MB).map(|tick| plan.hour(tick));
    Trace {
        points,
        class: plan.class,
        // A cache that fills evenly is counted apart: until it is full nothing tells it from a leak.
        parts: either(plan.parts.is_empty(), "quiet".into(), plan.parts.join("+"))
            .replace("cache", either(plan.cache.3, "even_cache", "cache")),
        leak: (plan.class > 0).then_some(plan.leak),
        drift_bytes: plan.size,
        breach_h: gone.filter(|_| plan.class == 2),
        interval_s: plan.interval_s,
    }
}
