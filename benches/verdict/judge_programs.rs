//! Judge B: simulated memory series by kinds of program. Each program says what it does with memory in two days (its nuisances, its
//! load, its level) and which leaks befall it; a series takes none, one or two to four of the nuisances at once.

use super::series::{Rng, Trace};
use soakd::model::series::Point;

/// Series in one seed.
pub const SERIES: u64 = 310;
/// The first so many of them are clean, the next `TOLERATED` tolerated, the others leak.
const CLEAN: u64 = 126;
/// Series with a small drift.
const TOLERATED: u64 = 60;
/// Bytes of a megabyte.
const MB: f64 = 1e6;
/// Hours of a series.
const HOURS: f64 = 48.0;
/// Kinds of leak, taken in turn.
const LEAKS: &str = "linear requests late steps bursts load swap vram shrink restarts restarts-requests";

/// Programs, two lines each: name, level (MB, from and to), sample noise (MB, from and to), chance of counting by 2 MiB, loads; what it
/// does with memory (what it does often, twice). Then the leaks that befall it.
const PROGRAMS: &str = "\
llama-server 1500 45000 0.03 3 0.3 day restless office; load-in prompt-cache prompt-cache long-prompts page-in long-noise
linear requests late load steps restarts restarts-requests
vllm-vram 4000 80000 0.01 0.5 1 restless day even batch; load-in cuda-graphs allocator-blocks workspace pool
vram
cuda-context 800 24000 0.01 1 0.8 batch restless office; model-swap plan-cache workspaces long-noise
vram
jvm 400 16000 0.2 4 0.2 office day even restless; gc gc gc old-gc warm-up heap-growth day long-noise
linear requests late load bursts swap shrink restarts restarts-requests
go 200 4000 0.05 3 0.15 day office restless even; quick-gc quick-gc goroutines day warm-up pool
linear requests late load steps bursts restarts restarts-requests
python-pool 250 6000 0.1 3 0.15 office day restless; recycled-workers arenas warm-up day long-noise uploads
linear requests late load steps bursts swap restarts restarts-requests
redis 200 12000 0.02 2 0.35 even day restless; ttl-keys ttl-keys lru-cache snapshots day long-noise
linear requests late swap shrink restarts
database 500 64000 0.05 3 0.35 office office day restless; buffers buffers backup checkpoints day pool reclaim
linear requests late load steps shrink restarts
browser 300 3000 0.1 4 0.1 office batch restless; gc gc pool arenas warm-up long-noise reclaim
linear late load steps bursts shrink
batch-worker 200 20000 0.02 3 0.2 batch batch even; jobs high-water nightly long-noise
linear requests late load steps bursts
container-swap 300 30000 0.05 3 0.25 even day batch; swap-skew huge-pages reclaim day gc gc long-noise
linear swap swap shrink restarts
daemon 200 2000 0.01 1.5 0.2 even day office restless; arenas log-rotation warm-up day
linear requests late load steps bursts shrink restarts restarts-requests
";

/// Nuisances: name, shape, then from and to of a figure that depends on the shape (a number, a cache's bend, a job's period), of the
/// size in MB and of the duration in hours (time until full, time constant, period of a saw).
const NUISANCES: &str = "\
load-in start 1 1 1 1 0.005 0.15; warm-up warm 1 1 50 300 0.33 3; page-in warm 1 1 50 300 0.33 2;
huge-pages warm 1 1 50 200 0.4 3; gc saw 1 1 20 120 0.14 0.7; quick-gc saw 1 1 20 90 0.14 0.4;
old-gc saw 1 1 20 60 1 3; recycled-workers saw 2 8 30 120 0.5 3; day day 1 1 5 40 1 1;
arenas arena 2 6 8 64 1 18; heap-growth arena 2 6 16 64 1 16; cuda-graphs arena 3 8 6 40 0.3 4;
allocator-blocks arena 2 6 10 64 3 18; workspaces arena 2 5 8 64 1 14; high-water arena 3 7 10 50 3 18;
prompt-cache cache 1.2 4 60 400 1 14; plan-cache cache 1.2 4 50 250 1 10; lru-cache cache 1.2 4 80 400 2 16;
buffers cache 1.5 4 100 400 1 16; ttl-keys cache 0.2 1.5 50 400 0.7 5; long-noise long 1 1 1 1 0.1 4;
pool pool 1 1 10 50 0.1 0.7; long-prompts spikes 2 12 50 1500 0.02 0.6; goroutines spikes 2 15 50 600 0.03 0.5;
uploads spikes 1 9 50 900 0.03 0.3; workspace boxes 2 30 40 2000 0.01 0.3; model-swap boxes 3 14 300 2000 0.05 0.7;
snapshots forks 0.5 4 20 300 0.03 0.15; backup jobs 24 24 80 1500 0.3 2; checkpoints jobs 0.25 1.5 10 80 0.03 0.1;
jobs jobs 0.4 6 50 800 0.05 0.25; nightly jobs 24 24 100 2000 0.3 3; log-rotation jobs 3 12 5 60 0.05 0.5;
swap-skew skew 4 20 10 60 0.005 0.4; reclaim reclaim 1 4 30 120 0.3 2; gaps gaps 1 5 1 1 0.1 4;
clock clock 1 1 1 1 0.3 7; outliers outliers 1 1 1 1 1 1";

/// A nuisance as drawn: name, shape, figure, MB, hours.
type Part = (&'static str, &'static str, f64, f64, f64);

/// The time axis: hours, hours since the start of the incarnation, incarnation, load, work done in it, whether it is up.
#[derive(Default)]
struct Axis {
    t: Vec<f64>,
    age: Vec<f64>,
    seg: Vec<u32>,
    load: Vec<f64>,
    work: Vec<f64>,
    up: Vec<bool>,
}

/// The series in the making.
struct Sim {
    rng: Rng,
    axis: Axis,
    load: &'static str,
    /// Level in MB.
    base: f64,
    /// Incarnations in earnest.
    lives: f64,
    /// Hours after which caches and the like are full.
    full: f64,
    /// The standard error of the drift in MB that a long noise may cause: what keeps a series decidable.
    error: f64,
    bytes: Vec<f64>,
    /// For each sample: whether it is seen, by how many seconds the clock is wrong, the factor of an outlier.
    flaws: Vec<(bool, f64, f64)>,
}

/// A figure of a table.
fn number(text: &str) -> f64 {
    text.parse().expect("a figure")
}

/// Draws the nuisance of that name.
fn part(r: &mut Rng, name: &str) -> Part {
    let rows = NUISANCES.split(';').map(|row| row.split_whitespace().collect::<Vec<_>>());
    let row = rows.into_iter().find(|row| row[0] == name).expect("in the table");
    let x: Vec<f64> = row[2..].iter().map(|x| number(x)).collect();
    let (figure, mb, hours) = (r.log_range(x[0], x[1]), r.range(x[2], x[3]), r.log_range(x[4], x[5]));
    (row[0], row[1], figure, mb, hours)
}

/// One of several.
fn pick<T: Copy>(r: &mut Rng, of: &[T]) -> T {
    of[r.whole(0, of.len() as u64 - 1) as usize]
}

/// `n` times in [from, to), one in each n-th of it.
fn strata(r: &mut Rng, n: f64, from: f64, to: f64) -> Vec<f64> {
    let width = (to - from) / n.round();
    let at = |i: u64| from + (i as f64 + r.range(0.05, 0.95)) * width;
    (0..n.round() as u64).map(at).collect()
}

/// A noise of unit size with the time constant `tau`.
fn wander(r: &mut Rng, t: &[f64], tau: f64) -> Vec<f64> {
    let mut noise = vec![r.normal(); t.len()];
    for i in 1..t.len() {
        let a = ((t[i - 1] - t[i]) / tau).exp();
        noise[i] = a * noise[i - 1] + (1.0 - a * a).max(0.0).sqrt() * r.normal();
    }
    noise
}

/// A day's sine.
fn sun(hour: f64) -> f64 {
    (hour * std::f64::consts::TAU / 24.0).sin()
}

/// The load over the axis, 1 on average: even, by sine over the day, by office hours, in batches, or restless.
fn loads(r: &mut Rng, t: &[f64], load: &str) -> Vec<f64> {
    let (phase, depth, tau) = (r.range(0.0, 24.0), r.range(0.3, 0.95), r.log_range(0.3, 1.5));
    let (fine, slow, count) = (wander(r, t, 0.2), wander(r, t, tau), r.range(8.0, 24.0));
    let (jobs, width) = (strata(r, count, -2.0, HOURS), r.range(0.3, 0.7) * HOURS / count);
    let office = |h: f64| {
        let lunch = if (12.0..13.0).contains(&h) { 0.7 } else { 1.0 };
        0.12 + lunch * ((h - 7.5) / 2.0).clamp(0.0, 1.0) * ((19.0 - h) / 3.0).clamp(0.0, 1.0)
    };
    let shape = |i: usize| match load {
        "even" => 1.0,
        "day" => 1.0 + depth * sun(t[i] + phase),
        "office" => office((t[i] + phase) % 24.0),
        "batch" => 0.03 + f64::from(u8::from(jobs.iter().any(|&j| t[i] >= j && t[i] < j + width))),
        _ => (0.6 * slow[i]).exp(),
    };
    let raw: Vec<f64> = (0..t.len()).map(|i| shape(i) * (0.1 * fine[i]).exp()).collect();
    let mean = raw.iter().sum::<f64>() / raw.len() as f64;
    raw.iter().map(|x| x / mean).collect()
}

/// Hours of the restarts: `n` in earnest, some with a second one (rolled back) a few minutes later; the shortest life in earnest.
fn restarts(r: &mut Rng, n: u64) -> (Vec<f64>, f64) {
    let room = HOURS / (n + 1) as f64;
    let mut at: Vec<f64> = (1..=n).map(|i| room * (i as f64 + r.range(-0.2, 0.2))).collect();
    let edges: Vec<f64> = [0.0].into_iter().chain(at.iter().copied()).chain([HOURS]).collect();
    let shortest = edges.windows(2).map(|w| w[1] - w[0]).fold(HOURS, f64::min);
    let again: Vec<f64> = at.iter().filter(|_| r.chance(0.2)).copied().collect();
    at.extend(again.iter().map(|x| x + r.range(0.05, 0.3)));
    at.sort_by(f64::total_cmp);
    (at, shortest)
}

/// The axis of a run.
fn axis(r: &mut Rng, interval_s: f64, load: &str, starts: &[f64]) -> Axis {
    let jitter = if r.chance(0.5) { r.range(0.0, 0.3) } else { 0.0 };
    let n = (HOURS * 3600.0 / interval_s) as usize;
    let mut at = |i: usize| (i as f64 + jitter * r.range(-1.0, 1.0)) * interval_s / 3600.0;
    let mut t: Vec<f64> = (0..=n).map(&mut at).collect();
    t[0] = 0.0;
    let up_at: Vec<f64> = starts.iter().map(|s| s + r.log_range(0.001, 0.03)).collect();
    let load = loads(r, &t, load);
    let mut a = Axis { load, ..Axis::default() };
    let (mut work, mut last, mut seg) = (0.0, 0.0_f64, 0);
    for (i, &now) in t.iter().enumerate() {
        let lives = starts.partition_point(|&s| s <= now);
        let born = if lives == 0 { 0.0 } else { up_at[lives - 1] };
        work = a.load[i] * (now - last.max(born)).max(0.0) + if lives == seg { work } else { 0.0 };
        (last, seg) = (now, lives);
        a.age.push((now - born).max(0.0));
        a.up.push(now >= born);
        a.seg.push(lives as u32);
        a.work.push(work);
    }
    a.t = t;
    a
}

impl Sim {
    /// Adds `f(i)` MB to every sample.
    fn add(&mut self, f: impl Fn(&Axis, usize) -> f64) {
        for i in 0..self.bytes.len() {
            self.bytes[i] += MB * f(&self.axis, i);
        }
    }

    /// Does what a nuisance does; the name of it.
    fn apply(&mut self, part: Part) -> &'static str {
        let (name, shape, figure, size, hours) = part;
        let (base, full, error) = (self.base, self.full, self.error / (hours / 2.0).sqrt());
        let mb = if self.lives > 1.0 { 0.6 * size } else { size };
        let tau = hours.min(full / 3.0);
        match shape {
            "start" => self.add(|a, i| -0.9 * base * (1.0 - a.age[i] / hours).max(0.0)),
            "warm" => self.add(|a, i| mb * (1.0 - (-a.age[i] / tau).exp())),
            "saw" => (0..figure.round() as u64).for_each(|_| self.saw(size / figure.round(), tau)),
            "day" => self.day(size.min(7.0 * self.error)),
            "arena" => self.arenas(figure, mb, hours.min(full)),
            "cache" => self.cache(name == "prompt-cache", mb, hours.min(full), figure),
            "long" => {
                let size = self.rng.range(0.3, 1.0) * error.min(25.0);
                let noise = wander(&mut self.rng, &self.axis.t, hours);
                self.add(|_, i| size * noise[i]);
            }
            "pool" => {
                let (bar, mut held) = (self.rng.range(-0.7, 0.7), wander(&mut self.rng, &self.axis.t, hours));
                let mut on = false;
                for x in &mut held {
                    on = *x > bar + if on { -0.5 } else { 0.5 };
                    *x = f64::from(u8::from(on)) * size.min(2.5 * error);
                }
                self.add(|_, i| held[i]);
            }
            "gaps" | "clock" | "outliers" => self.watch(part),
            _ => self.excursions(part),
        }
        name
    }

    /// Arenas: `n` steps of about `mb` until the hour `until`, mostly early.
    fn arenas(&mut self, n: f64, mb: f64, until: f64) {
        let at = strata(&mut self.rng, n, 0.0, 1.0);
        let steps: Vec<(f64, f64)> = at.iter().map(|x| (until * x.powf(1.5), mb * self.rng.range(0.5, 1.0))).collect();
        self.add(|a, i| steps.iter().filter(|s| a.age[i] > s.0).map(|s| s.1).sum());
    }

    /// Spikes, jobs, skewed readings, pages taken: all that goes away again; a restart ends them.
    fn excursions(&mut self, (_, shape, figure, mb, hours): Part) {
        let (a, r, last) = (&self.axis, &mut self.rng, HOURS - 1.0 - 2.0 * hours);
        let first = r.range(0.1, 0.85) * figure.min(20.0);
        let at = match shape {
            "jobs" | "forks" => (0..200).map(|j| first + figure * f64::from(j)).filter(|&x| x < last).collect(),
            _ => strata(r, figure, 0.3, last),
        };
        let decays = matches!(shape, "spikes" | "forks" | "reclaim");
        for start in at {
            let (high, long) = match shape {
                "skew" => (mb * r.range(-1.0, 0.5), hours * r.log_range(0.2, 2.0)),
                "reclaim" => (-mb * r.range(0.4, 1.0), hours),
                "spikes" | "boxes" => (mb * r.range(0.3, 1.0), hours * r.range(0.4, 1.4)),
                _ => (mb * r.range(0.8, 1.0), hours * r.range(0.8, 1.2)),
            };
            for i in a.t.partition_point(|&t| t < start)
                ..a.t.partition_point(|&t| t < start + if decays { 5.0 * long } else { long })
            {
                let since = a.t[i] - start;
                let left = if decays { (-2.0 * since / long).exp() } else { 1.0 };
                self.bytes[i] += MB * high * left * f64::from(u8::from(a.age[i] >= since));
            }
        }
    }

    /// A collector's saw-tooth, or a recycled worker's; a little faster under load.
    fn saw(&mut self, mb: f64, period: f64) {
        let (a, r) = (&self.axis, &mut self.rng);
        let (mut phase, mut length, mut height, mut floor) = (0.0, 1.0, 1.0, 0.0);
        for i in 1..a.t.len() {
            phase += (a.t[i] - a.t[i - 1]) * (0.6 + 0.4 * a.load[i].clamp(0.4, 1.6)) / (period * length);
            if phase >= 1.0 || a.seg[i] != a.seg[i - 1] {
                (phase, length) = (0.0, (1.0 + 0.12 * r.normal()).clamp(0.6, 1.5));
                (height, floor) = (r.range(0.85, 1.0), r.range(0.0, 0.06));
            }
            self.bytes[i] += MB * mb * (floor + (height - floor) * phase);
        }
    }

    /// Day and night: with the load and a little after it, or by the sun.
    fn day(&mut self, mb: f64) {
        let (phase, a) = (self.rng.range(0.0, 24.0), &self.axis);
        let mut swing = a.load.clone();
        for i in 1..swing.len() {
            swing[i] = swing[i - 1] + (swing[i] - swing[i - 1]) * (1.0 - ((a.t[i - 1] - a.t[i]) / 0.8).exp());
        }
        if !matches!(self.load, "day" | "office") {
            swing = a.t.iter().map(|t| sun(t + phase)).collect();
        }
        let (low, high) = swing.iter().fold((f64::MAX, f64::MIN), |(l, h), &x| (l.min(x), h.max(x)));
        self.add(|_, i| mb * (2.0 * (swing[i] - low) / (high - low) - 1.0));
    }

    /// A cache that fills as work is done, ever slower, and stays; a prompt cache holds whole entries.
    fn cache(&mut self, entries: bool, mb: f64, hours: f64, bend: f64) {
        let hours = if bend < 0.5 { hours.min(5.0) } else { hours };
        let (churn, entry) = (wander(&mut self.rng, &self.axis.t, 0.3), self.rng.range(4.0, 16.0));
        self.add(|a, i| {
            let x = (0.5 * (a.age[i] + a.work[i]) / hours).min(1.0);
            let held = mb * (1.0 + 0.01 * churn[i]) * (1.0 - (-bend * x).exp()) / (1.0 - (-bend).exp());
            if entries { (held / entry).floor() * entry } else { held }
        });
    }

    /// What befalls the watcher: gaps, a clock that is set (back again, if it was set far), outliers.
    fn watch(&mut self, (_, shape, figure, _, hours): Part) {
        let (t, r) = (&self.axis.t, &mut self.rng);
        let between = |from: f64, to: f64| t.partition_point(|&t| t <= from)..t.partition_point(|&t| t < to);
        if shape == "gaps" {
            for from in strata(r, figure, 0.5, 43.0) {
                let to = from + r.log_range(0.1, 4.0);
                self.flaws[between(from, to)].iter_mut().for_each(|flaw| flaw.0 = false);
            }
        } else if shape == "clock" {
            let (from, once) = (r.range(1.0, 40.0), r.chance(0.5));
            let by = r.log_range(1.0, if once { 600.0 } else { 3600.0 }) * pick(r, &[-1.0, 1.0]);
            let to = if once { HOURS + 1.0 } else { from + hours };
            self.flaws[between(from, to)].iter_mut().for_each(|flaw| flaw.1 = by);
        } else {
            let rate = r.log_range(2e-4, 4e-3).max(3.0 / t.len() as f64);
            for flaw in self.flaws.iter_mut().skip(1).filter(|_| r.chance(rate)).collect::<Vec<_>>() {
                let near = [r.range(0.7, 1.4), r.range(0.9, 1.1)];
                flaw.2 = pick(r, &[0.0, 0.5, 2.0, near[0], near[1]]);
            }
        }
    }

    /// Adds a leak, which each restart gives back; what all incarnations have lost so far, MB at each sample and `drift` at the end.
    fn leak(&mut self, profile: &str, drift: f64) -> Vec<f64> {
        let (a, r) = (&self.axis, &mut self.rng);
        let (onset, length) = (r.range(5.0, 33.0), r.range(0.08, 0.6));
        let count = r.range(12.0, if profile == "steps" { 60.0 } else { 36.0 });
        let bouts: Vec<f64> = strata(r, count, 0.0, HOURS - 0.7);
        let sizes: Vec<f64> = bouts.iter().map(|_| r.range(0.6, 1.4)).collect();
        let mut so_far = vec![0.0; a.t.len()];
        for i in 1..a.t.len() {
            let (last, now) = (a.t[i - 1], a.t[i]);
            let due = bouts.iter().zip(&sizes).filter(|(at, _)| **at <= now && **at + length > last);
            let grown = match profile {
                "requests" => a.load[i] * (now - last),
                "late" => (now - last.max(onset)).max(0.0),
                "load" => (a.load[i] - 0.8).max(0.0) * (now - last),
                "steps" => due.filter(|(at, _)| **at > last).map(|(_, size)| size).sum(),
                "bursts" => due.map(|(at, size)| size * (now.min(at + length) - last.max(*at))).sum(),
                _ => now - last,
            };
            so_far[i] = so_far[i - 1] + grown * f64::from(u8::from(a.up[i]));
        }
        let (whole, mut born) = (so_far[so_far.len() - 1], 0.0);
        for (i, lost) in so_far.iter_mut().enumerate() {
            *lost *= drift / whole;
            born = if i > 0 && a.seg[i] != a.seg[i - 1] { *lost } else { born };
            self.bytes[i] += MB * (*lost - born);
        }
        so_far
    }

    /// What the watcher sees, with a noise on each sample; `rate` is requests per hour.
    fn points(&mut self, rate: Option<f64>, head: &[&str]) -> Vec<Point> {
        let (a, r) = (&self.axis, &mut self.rng);
        let (noise, wild) = (r.log_range(number(head[3]), number(head[4])), f64::from(u8::from(r.chance(0.2))));
        let quantum = if r.chance(number(head[5])) { 2_097_152.0 } else { 4096.0 };
        let epoch = r.range(1.6e9, 1.8e9).floor();
        let seen = |i: &usize| self.flaws[*i].0 && a.t[*i] + self.flaws[*i].1 / 3600.0 < HOURS + 0.02;
        let mut jolt = || MB * noise * r.normal() * (0.8 * wild * r.normal()).exp();
        let mut point = |i: usize| Point {
            unix_s: epoch + a.t[i] * 3600.0 + self.flaws[i].1,
            bytes: ((self.bytes[i] + jolt()).max(0.0) * self.flaws[i].2 / quantum).round() * quantum,
            segment: a.seg[i],
            requests: rate.map(|per_h| (a.work[i] * per_h).floor()),
        };
        (0..a.t.len()).filter(seen).map(&mut point).collect()
    }
}

/// Seconds between samples: mostly 10 to 60.
fn interval(r: &mut Rng) -> f64 {
    let usual = pick(r, &[10.0, 15.0, 20.0, 30.0, 45.0, 60.0]);
    let odd = pick(r, &[1.0, 5.0, 120.0, 120.0, 300.0, 300.0]);
    if r.chance(0.24) { odd } else { usual }
}

/// Some of a program's nuisances: none, one, or two to four, now and then with the watcher's own.
fn some(r: &mut Rng, own: &[&'static str], quiet: f64) -> Vec<Part> {
    let (u, many) = (r.range(0.0, 1.0), r.whole(2, 4) as usize);
    let n = [0, 1, many][usize::from(u >= quiet) + usize::from(u >= quiet + 0.25)];
    let mut names = own.to_vec();
    names.extend(["gaps", "clock", "outliers"].iter().filter(|_| r.chance(0.4)));
    let mut taken: Vec<&str> = Vec::new();
    while taken.len() < n {
        let name = pick(r, &names);
        names.retain(|other| *other != name);
        taken.push(name);
    }
    taken.into_iter().map(|name| part(r, name)).collect()
}

/// The drift of a class in MB, and how many incarnations in earnest the series has.
fn size(r: &mut Rng, class: u8, kind: &str) -> (f64, u64) {
    let may = matches!(kind, "" | "linear" | "requests" | "swap" | "vram");
    let restarted = kind.starts_with("restarts") || may && r.chance(if class == 0 { 0.2 } else { 0.12 });
    let more = r.whole(1, if class == 0 { 5 } else { 3 });
    let lives = if restarted { 1 + more } else { 1 };
    let back = kind == "shrink" || class == 1 && r.chance(0.25);
    let sign = if back { -1.0 } else { 1.0 };
    let least = if matches!(kind, "late" | "load" | "shrink") { 85.0 } else { 75.5 };
    let lost = match class {
        0 => 0.0,
        1 => r.range(5.0, 25.0),
        _ if r.chance(0.04) && sign > 0.0 => r.log_range(1500.0, 6000.0),
        _ => r.log_range(least * (0.5 + 0.5 * lives as f64), 1500.0),
    };
    (sign * lost, lives)
}

/// When a leak of the kind grows.
fn profile(r: &mut Rng, kind: &'static str) -> &'static str {
    match kind {
        "vram" => pick(r, &["linear", "requests", "steps"]),
        "shrink" => pick(r, &["linear", "linear", "steps"]),
        "swap" => pick(r, &["linear", "linear", "requests"]),
        "restarts" => "linear",
        "restarts-requests" => "requests",
        other => other,
    }
}

/// What the table says of a program that the leak befalls (of any, if there is none), and its nuisances.
fn program(r: &mut Rng, leak: Option<&str>) -> (Vec<&'static str>, Vec<&'static str>) {
    let rows: Vec<&str> = PROGRAMS.lines().collect();
    let befalls = |rows: &&[&'static str]| leak.is_none_or(|kind| rows[1].split(' ').any(|other| other == kind));
    let fit: Vec<_> = rows.chunks(2).filter(befalls).collect();
    let (head, own) = pick(r, &fit)[0].split_once("; ").expect("in the table");
    (head.split(' ').collect(), own.split(' ').collect())
}

/// The `index`-th series under `seed`.
pub fn trace(seed: u64, index: u64) -> Trace {
    let mut r = Rng::new(Rng::new(seed).next() ^ index.wrapping_mul(0xA076_1D64_78BD_642F));
    let at = index % SERIES;
    let class = u8::from(at >= CLEAN) + u8::from(at >= CLEAN + TOLERATED);
    let leak = LEAKS.split(' ').nth((at % 11) as usize).filter(|_| class > 0);
    let kind = leak.unwrap_or("");
    let ((drift, lives), profile) = (size(&mut r, class, kind), profile(&mut r, kind));
    let (head, own) = program(&mut r, leak);
    let mut load = pick(&mut r, &head[6..]);
    if matches!(profile, "requests" | "load") && load == "even" {
        load = "day";
    }
    let interval_s = interval(&mut r);
    let (starts, shortest) = restarts(&mut r, lives - 1);
    let axis = axis(&mut r, interval_s, load, &starts);
    let n = axis.t.len();
    let mut taken = some(&mut r, &own, if class == 0 { 0.08 } else { 0.15 });
    if kind == "swap" && !taken.iter().any(|p| p.1 == "skew") {
        taken.insert(0, part(&mut r, "swap-skew"));
    }
    let hard = class == 2 && taken.len() > 2;
    let error = if class < 2 { 6.0 } else { ((drift.abs() - 50.0) / 6.0).clamp(4.2, 25.0) };
    let error = error * if hard { 0.7 } else { 1.0 } / lives as f64;
    let whole = if class == 2 && drift.abs() < 120.0 { 9.0 } else { 18.0 };
    let full = if lives > 1 { 0.3 * shortest } else { whole };
    let base = r.log_range(number(head[1]), number(head[2])).max(200.0 - 1.4 * drift.min(0.0));
    let (bytes, flaws) = (vec![base * MB; n], axis.up.iter().map(|&up| (up, 0.0, 1.0)).collect());
    let mut sim = Sim { rng: r, axis, load, base, lives: lives as f64, full, error, bytes, flaws };
    let spread = sim.rng.log_range(2.0, 100.0).min(0.2 * base);
    let levels: Vec<f64> = (0..=starts.len()).map(|_| spread * sim.rng.range(-1.0, 1.0)).collect();
    sim.add(|a, i| levels[a.seg[i] as usize]);
    let mut parts = vec![head[0]];
    parts.extend(taken.into_iter().map(|part| sim.apply(part)));
    parts.extend((lives > 1).then_some("restarts"));
    parts.extend((parts.len() == 1).then_some("quiet"));
    let lost = sim.leak(profile, drift);
    let breach_h = lost.iter().position(|x| class == 2 && x.abs() >= 50.0).map(|i| sim.axis.t[i]);
    let counted = profile == "requests" || sim.rng.chance(if profile == "load" { 0.6 } else { 0.4 });
    let rate = counted.then(|| sim.rng.log_range(20.0, 200_000.0));
    let points = sim.points(rate, &head);
    Trace { points, class, parts: parts.join("+"), leak, drift_bytes: drift * MB, breach_h, interval_s }
}
