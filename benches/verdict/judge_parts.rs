//! Judge A: simulated memory of servers, written without knowledge of the detector it judges.
//!
//! A figure is level + start-up curves (by the age of the incarnation) + waves (by the hour) + what has leaked in the
//! incarnation. What could hide a drift for all of the 48 hours is kept below a third of the margin to the tolerance.
use super::series::{Rng, Trace};
use soakd::model::series::Point;

/// Series in one seed.
pub const SERIES: u64 = LEAKY + LEAKING;
const CLEAN: u64 = 126;
const TOLERATED: u64 = 60;
const LEAKING: u64 = 124;
const LEAKY: u64 = CLEAN + TOLERATED;
const MB: f64 = 1e6;
const HOURS: f64 = 48.0;
const MINUTE: f64 = 1.0 / 60.0;
/// All nuisances; each comes alone as well.
const KINDS: &str = "warm settle cache arena graphs saw flush day slow pool spike batch dip swap restart outlier gap clock huge vram ragged";
/// All leaks.
const LEAKS: &str = "linear request late step burst load swap vram restart shrink";
/// Seconds between samples, as often as they come.
const INTERVALS: [u16; 16] = [1, 10, 10, 10, 15, 15, 20, 30, 30, 30, 60, 60, 60, 60, 120, 300];

/// How busy the server is, 0 to 1: shape, phase, least load, hours between batches, hours that a batch takes.
struct Load(u64, f64, f64, f64, f64);

impl Load {
    /// A flat load (not where it must be `busy`), a sine, office hours or batch runs.
    fn draw(r: &mut Rng, busy: bool) -> Self {
        let every = [4.0, 6.0, 8.0, 12.0][r.whole(0, 3) as usize];
        let shape = r.whole(u64::from(busy), 4);
        Load(shape, r.range(0.0, 24.0), r.log_range(0.02, 0.4), every, r.range(0.7, 2.5))
    }
    /// The load at hour `h`.
    fn at(&self, h: f64) -> f64 {
        let clock = (h + self.1) % 24.0;
        let edge = |from: f64, to: f64| ((clock - from) / (to - from)).clamp(0.0, 1.0);
        let shape = match self.0 {
            0 => 0.7,
            1 => 0.5 - 0.5 * (clock / 24.0 * std::f64::consts::TAU).cos(),
            2 | 3 => (edge(7.5, 9.5) - edge(16.5, 20.0)) * (1.0 - 0.2 * (-((clock - 12.7) / 0.6).powi(2)).exp()),
            _ => truth((h + self.1) % self.3 < self.4),
        };
        self.2 + (1.0 - self.2) * shape
    }
}

/// 1 for true.
fn truth(it: bool) -> f64 {
    f64::from(u8::from(it))
}

/// What an incarnation does by its age; it comes to an end.
enum Curve {
    /// Size, time constant and cap: saturates; with a cap below 1 it stops short at that part (a full cache).
    Exp(f64, f64, f64),
    /// Size, from, length: grows evenly, then stays.
    Ramp(f64, f64, f64),
    /// Ages and sizes.
    Steps(Vec<(f64, f64)>),
}

impl Curve {
    /// The curve of a start-up nuisance, if `kind` is one.
    fn draw(kind: &str, r: &mut Rng) -> Option<Self> {
        let late = if r.chance(0.3) { r.range(0.5, 10.0) } else { 0.0 };
        let cap = r.range(0.75, 0.97);
        Some(match kind {
            "warm" => Curve::Exp(r.log_range(50.0, 300.0) * MB, r.log_range(1.0 / 3.0, 3.0), 1.0),
            "settle" => Curve::Exp(-r.log_range(30.0, 400.0) * MB, r.log_range(0.02, 1.5), 1.0),
            "cache" if r.chance(0.6) => Curve::Exp(r.log_range(30.0, 400.0) * MB / cap, r.log_range(0.3, 3.0), cap),
            "cache" => Curve::Ramp(r.log_range(30.0, 400.0) * MB, late, r.log_range(0.3, 6.0)),
            "arena" => Self::arena(r),
            "graphs" => Self::graphs(r),
            _ => return None,
        })
    }
    /// Two to six arenas at ever longer distances; now and then one is given back.
    fn arena(r: &mut Rng) -> Self {
        let (last, size) = (r.log_range(2.0, 20.0), r.log_range(8.0, 64.0) * MB);
        let n = r.whole(2, 6);
        let mut step = |_| (last * r.range(0.1, 1.0).powi(2), size * r.range(0.5, 1.0));
        let mut steps: Vec<_> = (0..n).map(&mut step).collect();
        steps.sort_by(|a, b| a.0.total_cmp(&b.0));
        if r.chance(0.12) {
            steps.last_mut().unwrap().1 *= -1.0;
        }
        Curve::Steps(steps)
    }
    /// Graphs (plans, compiled kernels) kept for each shape of request: the rare shapes are met late.
    fn graphs(r: &mut Rng) -> Self {
        let (size, tau) = (r.log_range(2.0, 14.0) * MB, r.log_range(0.1, 3.0));
        let n = r.whole(6, 30);
        let mut step = |_| (-tau * r.range(0.01, 1.0).ln(), size * r.range(0.6, 1.4));
        Curve::Steps((0..n).map(&mut step).collect())
    }
    /// The same in another incarnation.
    fn vary(&self, r: &mut Rng) -> Self {
        let (a, t) = (r.range(0.8, 1.25), r.range(0.85, 1.15));
        match self {
            Curve::Exp(size, tau, cap) => Curve::Exp(size * a, tau * t, *cap),
            Curve::Ramp(size, from, len) => Curve::Ramp(size * a, from * t, len * t),
            Curve::Steps(steps) => Curve::Steps(steps.iter().map(|s| (s.0 * t * r.range(0.9, 1.1), s.1 * a)).collect()),
        }
    }
    /// Bytes at an age of `h` hours.
    fn at(&self, h: f64) -> f64 {
        match self {
            Curve::Exp(size, tau, cap) => size * (1.0 - (-h / tau).exp()).min(*cap) - size.min(0.0),
            Curve::Ramp(size, from, len) => size * ((h - from) / len).clamp(0.0, 1.0),
            Curve::Steps(steps) => steps.iter().filter(|s| s.0 <= h).map(|s| s.1).sum(),
        }
    }
    /// The age at which it is over, but for 4 MB.
    fn over_h(&self) -> f64 {
        match self {
            Curve::Exp(size, tau, cap) => tau * (-(1.0 - cap).max(4.0 * MB / size.abs()).ln()).max(0.0),
            Curve::Ramp(_, from, len) => from + len,
            Curve::Steps(steps) => steps.iter().map(|s| s.0).fold(0.0, f64::max),
        }
    }
}

/// What goes on by the hour, without end and without drift. The last figures of each are its state.
enum Wave {
    /// Deviation, whether it is one-sided: the noise of single samples.
    Noise(f64, bool),
    /// Deviation, time constant; now.
    Slow(f64, f64, f64),
    /// Deviation, how long a figure stays; now.
    Held(f64, f64, f64),
    /// Size of a place, places, how long a number stays; now.
    Pool(f64, u64, f64, u64),
    /// Size, period, jitter, minor collections to a major one, whether it grows by the load; now, threshold, count.
    Saw(f64, f64, f64, u64, bool, f64, f64, u64),
    /// Size, phase, second harmonic, whether it is by the load, the size of each day.
    Day(f64, f64, f64, bool, [f64; 4]),
    /// From, length, size, whether it fades away.
    Events(Vec<(f64, f64, f64, bool)>),
}

impl Wave {
    /// The waves of a nuisance.
    fn draw(kind: &str, r: &mut Rng) -> Vec<Self> {
        match kind {
            "saw" => vec![Self::saw(r, 7.0, 50.0, 20.0, 120.0)],
            "flush" => vec![Self::saw(r, 50.0, 240.0, 15.0, 100.0)],
            "day" => {
                let second = r.range(-0.5, 0.5).max(0.0);
                let days = [(); 4].map(|()| r.range(0.9, 1.1));
                let size = r.log_range(6.0, 40.0) * MB;
                vec![Wave::Day(size, r.range(0.0, 24.0), second, r.chance(0.4), days)]
            }
            "slow" => (0..r.whole(1, 3)).map(|_| Self::slow(r)).collect(),
            "pool" => {
                let size = r.log_range(3.0, 30.0) * MB;
                vec![Wave::Pool(size, r.whole(1, 4), r.log_range(0.08, 2.0), 0)]
            }
            "batch" => vec![Wave::Events(batches(r))],
            "spike" | "dip" | "swap" => vec![Wave::Events(events(kind, r))],
            _ => vec![],
        }
    }
    /// The noise that each series has of its own: even, one-sided, or held for a while.
    fn own(r: &mut Rng, most_mb: f64) -> Self {
        let sd = r.log_range(0.004, most_mb) * MB;
        match r.whole(0, 2) {
            2 => Wave::Held(sd, r.log_range(1.0, 20.0) * MINUTE, 0.0),
            shape => Wave::Noise(sd, shape == 1),
        }
    }
    /// Long-memory noise.
    fn slow(r: &mut Rng) -> Self {
        let (sd, tau) = (r.log_range(1.5, 20.0) * MB, r.log_range(3.0 * MINUTE, 6.0));
        Wave::Slow(sd, tau, sd * r.normal())
    }
    /// A collector's saw-tooth (or a write buffer's): grows to a threshold, falls to its floor or, at a minor one, not wholly.
    fn saw(r: &mut Rng, lo_min: f64, hi_min: f64, lo_mb: f64, hi_mb: f64) -> Self {
        let (size, by_load) = (r.log_range(lo_mb, hi_mb) * MB, r.chance(0.25));
        let period = r.log_range(lo_min, if by_load { hi_min / 2.0 } else { hi_min }) * MINUTE;
        let minors = if r.chance(0.3) { r.whole(2, 5) } else { 1 };
        let (jitter, now) = (r.log_range(0.03, 0.2), size * r.range(0.0, 1.0));
        Wave::Saw(size, period, jitter, minors, by_load, now, size, 0)
    }
    /// The next figure, `dt` hours after the last; `fresh` where an incarnation begins anew.
    fn at(&mut self, h: f64, dt: f64, load: f64, fresh: bool, r: &mut Rng) -> f64 {
        match self {
            Wave::Noise(sd, false) => *sd * r.normal(),
            Wave::Noise(sd, true) => -*sd * r.range(1e-9, 1.0).ln(),
            Wave::Slow(sd, tau, x) => {
                let keep = (-dt / *tau).exp();
                *x = *x * keep + *sd * (1.0 - keep * keep).sqrt() * r.normal();
                *x
            }
            Wave::Held(sd, stay, x) => {
                if r.chance(dt / *stay) {
                    *x = *sd * r.normal();
                }
                *x
            }
            Wave::Pool(size, most, stay, n) => {
                if h == 0.0 || r.chance(dt / *stay) {
                    *n = r.whole(0, *most);
                }
                *size * *n as f64
            }
            Wave::Saw(size, period, jitter, minors, by_load, x, top, count) => {
                *x += *size / *period * dt * if *by_load { (1.6 * load).clamp(0.5, 1.6) } else { 1.0 };
                if *x >= *top || fresh {
                    *count += 1;
                    let part = (*count % *minors) as f64 / *minors as f64 * 0.6;
                    *x = *size * (part + 0.3 * *jitter * r.normal()).max(0.0);
                    *top = *size * (1.0 + *jitter * r.normal()).clamp(0.7, 1.3);
                }
                *x
            }
            Wave::Day(size, phase, second, by_load, days) => {
                let (day, part) = ((h / 24.0) as usize, h / 24.0 % 1.0);
                let turn = (h + *phase) / 24.0 * std::f64::consts::TAU;
                let sine = (turn.sin() + *second * (2.0 * turn + *phase).sin()) / (1.0 + *second);
                *size
                    * (days[day] * (1.0 - part) + days[day + 1] * part)
                    * if *by_load { 2.0 * load - 1.0 } else { sine }
            }
            Wave::Events(list) => {
                let fades = |part: f64| (1.0 - part) * (-2.0 * part).exp();
                let there = list.iter().filter(|e| h >= e.0 && h < e.0 + e.1);
                there.map(|e| e.2 * if e.3 { fades((h - e.0) / e.1) } else { 1.0 }).sum()
            }
        }
    }
    /// How far it may mislead one who draws a line through 48 hours (one standard deviation, bytes).
    fn fog(&self) -> f64 {
        match self {
            Wave::Slow(sd, t, _) | Wave::Held(sd, t, _) => sd * (t / 2.0).sqrt(),
            Wave::Saw(size, t, ..) => 0.15 * size * (t / 8.0).sqrt(),
            Wave::Day(size, ..) => 0.12 * size,
            Wave::Pool(size, most, t, _) => size * ((most * (most + 2)) as f64 / 12.0 * t / 2.0).sqrt(),
            Wave::Noise(..) | Wave::Events(_) => 0.0,
        }
    }
    /// Makes what misleads smaller.
    fn tame(&mut self, by: f64) {
        match self {
            Wave::Slow(sd, _, x) | Wave::Held(sd, _, x) => (*sd, *x) = (*sd * by, *x * by),
            Wave::Pool(size, ..) => *size *= by,
            Wave::Saw(size, t, .., top, _) if *t > 0.9 => (*size, *top) = (*size * by, *top * by),
            Wave::Day(.., days) => days.iter_mut().for_each(|d| *d = 1.0 + (*d - 1.0) * by),
            _ => {}
        }
    }
}

/// Batch runs: hourly to daily, at much the same time.
fn batches(r: &mut Rng) -> Vec<(f64, f64, f64, bool)> {
    let every = [1.0, 6.0, 12.0, 24.0, 24.0][r.whole(0, 4) as usize];
    let (len, size, first) = (every * r.range(0.04, 0.15), r.log_range(30.0, 500.0) * MB, r.range(0.05, 0.8) - 1.0);
    let mut run = |k: u32| {
        let at = (f64::from(k) + first + r.range(0.0, 0.03)) * every;
        (at, len * r.range(0.8, 1.2), size * r.range(0.9, 1.1), false)
    };
    (0..=(HOURS / every) as u32).map(&mut run).collect()
}

/// Spikes, dips by reclaim, pages counted twice (or not at all) while they are swapped.
fn events(kind: &str, r: &mut Rng) -> Vec<(f64, f64, f64, bool)> {
    let (spike, n) = (kind == "spike", r.whole(3, 30));
    let size = r.log_range(15.0, if spike { 600.0 } else { 120.0 }) * MB;
    let longest = r.log_range(1.0, 20.0) * MINUTE * if spike { 1.0 } else { 3.0 };
    let mut event = |_| {
        let down = kind == "dip" || (kind == "swap" && r.chance(0.2));
        let size = size * r.range(0.3, 1.0) * (1.0 - 2.0 * truth(down));
        (r.range(0.0, 46.5), longest * r.range(0.2, 1.0), size, !spike || r.chance(0.3))
    };
    (0..n).map(&mut event).collect()
}

/// An incarnation: from, to, level, start-up.
type Life = (f64, f64, f64, Vec<Curve>);

/// All that a series is made from.
struct Plan {
    kinds: Vec<&'static str>,
    how: &'static str,
    drift: f64,
    dt: f64,
    load: Load,
    lives: Vec<Life>,
    waves: Vec<Wave>,
}

/// May this nuisance join these, with this leak?
fn fits(kind: &str, kinds: &[&'static str], leak: Option<&'static str>) -> bool {
    let has = |other: &str| kinds.contains(&other);
    let clash = match kind {
        "restart" => matches!(leak, Some("late" | "load" | "burst")),
        "vram" => has("huge") || has("swap") || has("dip"),
        "huge" | "swap" | "dip" => has("vram"),
        "cache" | "arena" => has("arena") || has("cache"),
        _ => false,
    };
    !clash && !has(kind)
}

/// Class, leak and nuisances of a series: quiet ones, single nuisances in turn, mixtures of two to four.
fn cast(r: &mut Rng, index: u64) -> (u8, Option<&'static str>, Vec<&'static str>) {
    let all: Vec<&str> = KINDS.split(' ').collect();
    let n = all.len() as u64;
    let small = ["linear", "linear", "request", "step", "burst"][r.whole(0, 4) as usize];
    let (class, mut leak, slot, quiet, turns) = match index {
        0..CLEAN => (0, None, index, 6, 3),
        CLEAN..LEAKY => (1, Some(small), index - CLEAN, 5, 1),
        _ => (2, LEAKS.split(' ').nth((index % 10) as usize), index / 10 % 12, 2, 0),
    };
    let forced = leak.filter(|l| matches!(*l, "swap" | "vram" | "restart"));
    let mut kinds: Vec<&str> = forced.into_iter().collect();
    let mut most = 2 + slot as usize % 3;
    if class == 2 {
        most = kinds.len() + [0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 4, 4][slot as usize];
    } else if slot < quiet + turns * n {
        most = 0;
        kinds.extend((slot >= quiet).then(|| all[((slot - quiet) % n) as usize]));
        leak = leak.map(|l| if kinds == ["restart"] { "linear" } else { l });
    }
    while kinds.len() < most.min(4) {
        let kind = all[r.whole(0, n - 1) as usize];
        kinds.extend(fits(kind, &kinds, leak).then_some(kind));
    }
    (class, leak, kinds)
}

/// Hours of the restarts: one a day, some at odd hours, or a crash or two soon after one another.
fn restarts(r: &mut Rng) -> Vec<f64> {
    let first = r.range(1.0, 23.0);
    let mut cuts = match r.whole(0, 2) {
        0 => vec![first, first + 24.0],
        1 => (0..r.whole(1, 4)).map(|_| r.range(0.3, 46.0)).collect(),
        _ => (0..r.whole(1, 3)).map(|k| first + k as f64 * r.range(0.2, 0.5)).collect(),
    };
    cuts.sort_by(f64::total_cmp);
    cuts.dedup_by(|b, a| *b < *a + 0.2);
    cuts
}

/// By how much the error of the drift grows because incarnations are short and start-ups take their time.
fn spread(lives: &[Life]) -> f64 {
    let over = |life: &Life| life.3.iter().map(Curve::over_h).fold(0.0, f64::max);
    let usable: f64 = lives.iter().map(|l| (l.1.min(HOURS) - l.0 - over(l)).max(0.0).powi(3)).sum();
    (HOURS.powi(3) / usable.max(1e-9)).sqrt()
}

/// The incarnations with their levels and start-ups, drawn until they leave enough to see.
fn incarnations(r: &mut Rng, kinds: &[&'static str], drift: f64) -> Vec<Life> {
    let room = 250.0 * MB * truth(kinds.iter().any(|k| matches!(*k, "dip" | "arena" | "day")));
    let least = if kinds.contains(&"vram") { 2000.0 } else { 200.0 };
    let level = r.log_range(least, 80_000.0) * MB + room - 1.2 * drift.min(0.0);
    loop {
        let curves: Vec<Curve> = kinds.iter().filter_map(|kind| Curve::draw(kind, r)).collect();
        let mut cuts = if kinds.contains(&"restart") { restarts(r) } else { Vec::new() };
        cuts.push(HOURS + 1.0);
        let (mut from, mut list) = (0.0, Vec::new());
        for to in cuts {
            let own = (0.1 * level).min(400.0 * MB) * r.range(-1.0, 1.0);
            list.push((from, to, level + own, curves.iter().map(|c| c.vary(r)).collect()));
            from = to + r.log_range(5.0, 600.0) / 3600.0;
        }
        if spread(&list) < 4.2 {
            return list;
        }
    }
}

/// Bytes that leak in 48 hours.
fn drift(r: &mut Rng, class: u8, leak: Option<&'static str>) -> f64 {
    match (class, leak) {
        (0, _) => 0.0,
        (1, _) => r.range(5.0, 25.0) * MB * if r.chance(0.35) { -1.0 } else { 1.0 },
        (_, Some("shrink")) => -r.log_range(76.0, 1500.0) * MB,
        (_, Some("late")) => r.log_range(90.0, 1200.0) * MB,
        _ if r.chance(0.06) => r.log_range(1500.0, 6000.0) * MB,
        _ => r.log_range(76.0, 1500.0) * MB,
    }
}

/// Draws the plan and keeps it decidable.
fn plan(r: &mut Rng, class: u8, leak: Option<&'static str>, kinds: Vec<&'static str>) -> Plan {
    let drift = drift(r, class, leak);
    let how = match leak.unwrap_or("none") {
        "vram" | "restart" | "shrink" => ["linear", "request", "linear", "step"][r.whole(0, 3) as usize],
        other => other,
    };
    let busy = how == "load" || kinds.contains(&"day") || (how == "request" && r.chance(0.5));
    let load = Load::draw(r, busy);
    let lives = incarnations(r, &kinds, drift);
    let mut waves: Vec<Wave> = kinds.iter().flat_map(|kind| Wave::draw(kind, r)).collect();
    waves.push(Wave::own(r, if kinds.contains(&"vram") { 1.0 } else { 6.0 }));
    let fog = spread(&lives) * waves.iter().map(|w| w.fog().powi(2)).sum::<f64>().sqrt();
    let sure = 3.0 + 1.5 * truth(matches!(how, "late" | "load" | "burst" | "step"));
    let by = ((drift.abs() - 50.0 * MB).abs() / sure / fog.max(1.0)).min(1.0);
    waves.iter_mut().for_each(|w| w.tame(by));
    let dt = f64::from(INTERVALS[r.whole(0, 15) as usize]) / 3600.0;
    Plan { kinds, how, drift, dt, load, lives, waves }
}

/// The hour, the load, requests finished since the last tick, the incarnation that lives.
type Tick = (f64, f64, f64, Option<usize>);

/// The ticks of 48 hours; the load has moods beside its shape.
fn ticks(r: &mut Rng, plan: &Plan) -> Vec<Tick> {
    let (rate, mut mood) = (r.log_range(0.05, 200.0) * 3600.0 * plan.dt, 1.0);
    let mut tick = |k: u64| {
        let h = k as f64 * plan.dt;
        if r.chance(plan.dt / 0.2) {
            mood = (0.2 * r.normal()).exp();
        }
        let (load, life) = (plan.load.at(h), plan.lives.iter().position(|l| h >= l.0 && h < l.1));
        let mean = rate * load * mood * truth(life.is_some() && k > 0);
        (h, load, (mean + mean.sqrt() * r.normal()).max(0.0), life)
    };
    (0..=(HOURS / plan.dt).round() as u64).map(&mut tick).collect()
}

/// What has leaked since hour 0 at each tick, as if nothing were given back.
fn leaked(r: &mut Rng, plan: &Plan, ticks: &[Tick]) -> Vec<f64> {
    let (onset, slots) = (r.range(5.0, 34.0), r.whole(10, 50));
    let slot = HOURS / slots as f64;
    let mut bout = |k| (slot * (k as f64 + r.range(0.1, 0.8)), r.range(0.6, 1.4));
    let bouts: Vec<_> = (0..slots).map(&mut bout).collect();
    let (len, mut sum) = ((slot * r.range(0.02, 0.2)).max(2.0 * plan.dt), 0.0);
    let mut add = |(h, load, requests, life): &Tick| {
        let (from, size) = bouts[((h / slot) as usize).min(bouts.len() - 1)];
        let active = match plan.how {
            "request" => *requests,
            "late" => truth(*h > onset),
            "load" => (load - 0.5).max(0.0),
            "step" => size * truth(*h >= from && h - plan.dt < from),
            "burst" => size * truth(*h >= from && *h < from + len),
            _ => truth(*h > 0.0),
        };
        sum += active * truth(life.is_some());
        sum
    };
    let list: Vec<f64> = ticks.iter().map(&mut add).collect();
    list.iter().map(|l| l / sum.max(1e-9) * plan.drift).collect()
}

/// What the watching does to a series: gaps and lost samples, clock steps and jitter, outliers, pages.
fn watch(r: &mut Rng, plan: &Plan, points: Vec<(f64, Point)>) -> Vec<Point> {
    let has = |kind: &str| plan.kinds.contains(&kind);
    let gaps = [(); 2].map(|()| (r.range(0.5, 39.0), r.log_range(0.1, 6.0)));
    let lost = r.log_range(0.01, 0.4) * truth(has("ragged"));
    let ragged = if has("ragged") { r.range(0.1, 0.9) } else { 0.02 };
    let (step_h, step_s) = (r.range(1.0, 40.0), r.log_range(1.0, 900.0) * (1.0 - 2.0 * truth(r.chance(0.5))));
    let back_h = r.range(step_h, 47.0) + 48.0 * truth(r.chance(0.4));
    let outliers = r.log_range(0.0005, 0.008).max(plan.dt / 16.0) * truth(has("outlier"));
    let page = if has("vram") || has("huge") { 2_097_152.0 } else { 4096.0 };
    let mut list = Vec::new();
    for (h, mut p) in points {
        if h > 0.0 && (r.chance(lost) || (has("gap") && gaps.iter().any(|g| h >= g.0 && h < g.0 + g.1))) {
            continue;
        }
        let shift = step_s * truth(has("clock") && h >= step_h && h < back_h);
        p.unix_s += shift + 3600.0 * plan.dt * r.range(0.0, ragged) * truth(h > 0.0);
        p.bytes = match r.whole(0, 3) {
            _ if !r.chance(outliers) => p.bytes,
            0 => 0.0,
            1 => p.bytes * r.range(0.3, 3.0),
            _ => p.bytes + 300.0 * MB * r.normal(),
        };
        p.bytes = (p.bytes.max(0.0) / page).floor() * page;
        list.push(p);
    }
    list
}

/// The `index`-th series under `seed`.
pub fn trace(seed: u64, index: u64) -> Trace {
    let of_seed = Rng::new(seed ^ 0xA5A5_0F0F_3C3C_6996).next();
    let of_both = Rng::new(of_seed.wrapping_add(index.wrapping_mul(0x94D0_49BB))).next();
    let mut r = Rng::new(of_both);
    let (class, leak, kinds) = cast(&mut r, index);
    let mut plan = plan(&mut r, class, leak, kinds);
    let told = plan.how == "request" || r.chance(0.4);
    let ticks = ticks(&mut r, &plan);
    let lost = leaked(&mut r, &plan, &ticks);
    let start = 1.7e9 + r.range(0.0, 3e7).floor();
    let (mut now, mut base, mut done, mut points) = (0, 0.0, 0.0, Vec::new());
    for (k, &(h, load, requests, life)) in ticks.iter().enumerate() {
        let Some(life) = life else { continue };
        let fresh = life != now;
        if fresh {
            (now, base, done) = (life, lost[k - 1], 0.0);
        }
        done += requests;
        let (from, _, level, curves) = &plan.lives[life];
        let mut bytes = level + lost[k] - base + curves.iter().map(|c| c.at(h - from)).sum::<f64>();
        bytes += plan.waves.iter_mut().map(|w| w.at(h, plan.dt, load, fresh, &mut r)).sum::<f64>();
        let (unix_s, segment, requests) = (start + h * 3600.0, life as u32, told.then(|| done.floor()));
        let p = Point { unix_s, bytes, segment, requests };
        points.push((h, p));
    }
    let points = watch(&mut r, &plan, points);
    let breach = lost.iter().position(|l| class == 2 && l.abs() >= 50.0 * MB);
    let (breach_h, interval_s) = (breach.map(|k| ticks[k].0), (plan.dt * 3600.0).round());
    let parts = if plan.kinds.is_empty() { vec!["quiet"] } else { plan.kinds }.join("+");
    Trace { points, class, parts, leak, drift_bytes: plan.drift, breach_h, interval_s }
}
