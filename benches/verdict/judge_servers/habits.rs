//! What a server does with memory for two days but leak: its load, what it holds for a while, its habits, what comes from outside, and
//! when it dies and starts again.

use super::super::series::Rng;
use super::{
    Cache, Day, GB, HOURS, MB, MIB, MINUTES, Noise, Replicas, Restart, Saw, Server, Step, WarmUp, either, running_sum,
};

/// Habits of which one is enough: with two, no quiet time would be left.
const VISITS: [&str; 4] = ["jobs", "on-demand", "reserve", "autoscale"];

impl Server {
    /// Load relative to its peak at an hour.
    pub fn busy(&self, h: f64) -> f64 {
        let clock = (h + self.clock_h).rem_euclid(24.0);
        let soft = |from: f64, to: f64| ((clock - from).min(to - clock) / 1.5 + 0.5).clamp(0.0, 1.0);
        match self.day {
            Day::Steady => 0.9,
            Day::Office => 0.08 + 0.92 * soft(8.5, 18.0),
            Day::Evening => 0.55 - 0.45 * ((clock - 8.0) / 24.0 * std::f64::consts::TAU).cos(),
            Day::Night => 0.15 + 0.85 * soft(1.0, 6.0),
        }
    }

    /// Requests by the minute; the wilder they are, the more they come in bursts.
    pub fn serve(&mut self, rng: &mut Rng, per_hour: f64) {
        let wild = rng.range(0.05, 0.5);
        let (mut wander, mut on) = (0.0, true);
        self.requests = (0..MINUTES)
            .map(|m| {
                wander = 0.9 * wander + 0.44 * rng.normal() * wild;
                on ^= wild > 0.38 && rng.chance(0.05);
                per_hour / 60.0 * self.busy(m as f64 / 60.0) * f64::exp(wander) * if on { 1.0 } else { 0.03 }
            })
            .collect();
    }

    /// Deaths and starts, by cause. What has to settle settles so early that the last incarnation, too, is settled by hour 30, or within
    /// three hours where it starts late.
    pub fn restart(&mut self, rng: &mut Rng, drive: Option<&'static str>) {
        let drift = self.drift.abs();
        let mut deaths: Vec<f64> = Vec::new();
        let what = rng.range(0.0, 1.0);
        let cause = if drift > 0.8 * GB && what < 0.5 && matches!(drive, Some("time" | "request" | "swap")) {
            // Each time that the leak has come to the limit.
            let n = rng.whole(1, 3);
            let drives = running_sum(if drive == Some("time") { &[1.0; MINUTES] } else { &self.requests });
            for k in 1..=n {
                let goal = drives[MINUTES] * k as f64 / (n as f64 + 0.8);
                deaths.push(drives.partition_point(|x| *x < goal) as f64 / 60.0);
            }
            "oom"
        } else if what < 0.14 {
            deaths.push(rng.range(3.0, 40.0));
            "crash"
        } else if what < 0.22 {
            let first = rng.range(4.0, 16.0);
            deaths.extend([first, first + rng.range(9.0, 22.0)]);
            "deploys"
        } else if what < 0.25 {
            let first = rng.range(3.0, 36.0);
            deaths.extend([first, first + 0.15, first + 0.34]);
            "crash-loop"
        } else if what < 0.28 && (drift == 0.0 || drift > 400.0 * MB) {
            let every = rng.range(4.5, 11.0);
            deaths.extend((1..10).map(|k| every * f64::from(k)).filter(|h| *h < 46.0));
            "recycled"
        } else {
            return;
        };
        let down = rng.log_range(0.004, if cause == "crash" { 0.5 } else { 0.1 });
        self.restarts = deaths.iter().map(|h| Restart { dead_h: *h, back_h: h + down * rng.range(0.8, 1.2) }).collect();
        let last = self.restarts[self.restarts.len() - 1].back_h;
        let short = if cause == "recycled" { 0.35 * self.restarts[0].dead_h } else { 3.0 };
        self.settled_h = self.settled_h.min((30.0 - last).max(short.min(3.0)));
        self.parts.push(cause);
    }

    /// Takes on one to three habits, or none if it does next to nothing but serve.
    pub fn live(&mut self, rng: &mut Rng, habits: &[&'static str], plain: bool) {
        if plain {
            self.parts.push("plain");
            return;
        }
        for _ in 0..rng.whole(1, 3) {
            let habit = habits[rng.next() as usize % habits.len()];
            let twice = self.parts.contains(&habit)
                || VISITS.contains(&habit) && self.parts.iter().any(|part| VISITS.contains(part));
            if !twice && self.take(rng, habit) {
                self.parts.push(habit);
            }
        }
        self.outside(rng);
    }

    /// Takes on a habit, if it fits the figure.
    fn take(&mut self, rng: &mut Rng, habit: &str) -> bool {
        let vram = self.is_vram();
        match habit {
            "lazy" => {
                let top = either(vram, 512.0 * MIB, 200.0 * MB);
                self.stairs(rng, 8, 2.0 * MIB, top.min(0.1 * self.level).max(8.0 * MIB));
            }
            "adapters" => {
                let one = rng.log_range(20.0 * MB, 300.0 * MB);
                self.stairs(rng, 8, one, one * 1.0001);
            }
            "jobs" => {
                let top = either(vram, 12.0 * GB, 5.0 * GB);
                self.visit(rng, [0.01, 0.25], [0.03, 0.7], [0.1 * GB, top], true);
            }
            "on-demand" => {
                self.level = rng.log_range(0.3 * GB, 1.6 * GB);
                let top = either(vram, 40.0 * GB, 4.0 * GB);
                self.visit(rng, [0.12, 2.5], [0.15, 2.0], [0.4 * GB, top], true);
            }
            "reserve" if vram => {
                let top = (0.3 * self.level).max(200.0 * MB);
                self.visit(rng, [0.1, 1.2], [0.2, 1.5], [20.0 * MIB, top], false);
                self.visits_at.clear();
            }
            _ => return !vram && self.take_on_host(rng, habit),
        }
        true
    }

    /// Takes on a habit of the host's memory alone, if it fits the server.
    fn take_on_host(&mut self, rng: &mut Rng, habit: &str) -> bool {
        match habit {
            "warm-up" => {
                let bytes = rng.log_range(8.0 * MB, 300.0 * MB);
                let slowest = self.settled_h / (bytes / (3.0 * MB)).ln().max(1.0);
                self.warm_ups.push(WarmUp { bytes, tau_h: rng.log_range(0.1, 5.0).min(slowest) });
            }
            "arenas" => self.stairs(rng, 12, 2.0 * MB, 64.0 * MIB),
            "cache" => {
                let entry = rng.log_range(0.1 * MB, 20.0 * MB);
                let limit = rng.log_range(200.0 * MB, 8192.0 * MIB).max(10.0 * entry);
                let hours = rng.log_range(0.15 * self.settled_h, self.settled_h);
                self.caches.push(Cache { limit, hours, entry: self.room(entry * 5.0) / 5.0 });
            }
            "day" if matches!(self.day, Day::Office | Day::Evening) && self.settled_h < 14.0 => {
                self.swing = self.room(rng.range(10.0 * MB, 80.0 * MB));
            }
            "gc" => {
                let (bytes, period_h) = (rng.range(20.0 * MB, 120.0 * MB), rng.range(7.0, 50.0) / 60.0);
                self.saws.push(Saw { bytes, period_h, phase: rng.range(0.0, 1.0) });
            }
            "workers" => {
                let (n, period) = (rng.whole(1, 6), rng.log_range(0.4, 5.0));
                let bytes = rng.log_range(20.0 * MB, 250.0 * MB);
                let bytes = self.room(bytes * n as f64) / n as f64;
                for _ in 0..n {
                    let period_h = period * rng.range(0.85, 1.15);
                    self.saws.push(Saw { bytes, period_h, phase: rng.range(0.0, 1.0) });
                }
            }
            "autoscale" if self.day != Day::Steady && (self.drift == 0.0 || self.drift > 400.0 * MB) => {
                self.replicas = Replicas { most: rng.whole(1, 4) as f64, bytes: rng.log_range(60.0 * MB, 900.0 * MB) };
            }
            "checkpoints" => {
                let (every, last) = (rng.log_range(0.5, 4.0), rng.log_range(0.006, 0.08));
                let (bytes, first) = (rng.log_range(0.3 * GB, 10.0 * GB), rng.range(0.2, 1.0));
                for k in 0..(HOURS / every) as usize {
                    self.hold(every * (k as f64 + first), every * (k as f64 + first) + last, bytes, 20.0);
                }
            }
            _ => return false,
        }
        true
    }

    /// An upper bound for what moves slowly, so that the drift stays visible.
    fn room(&self, want: f64) -> f64 {
        let share = 0.5 * self.drift.abs().max(60.0 * MB) / (self.parts.len() - 1) as f64;
        either(self.drift == 0.0, want, want.min(share))
    }

    /// Holds bytes from one hour to another; they come on a ramp of so many seconds, and go at once.
    fn hold(&mut self, from: f64, to: f64, bytes: f64, ramp_s: f64) {
        let (first, last) = ((from * 360.0) as usize, (to * 360.0) as usize);
        for k in first..=last.max(first) {
            if let Some(held) = self.visits.get_mut(k) {
                *held += bytes * (((k - first) as f64 * 10.0 + 10.0) / ramp_s.max(10.0)).min(1.0);
            }
        }
    }

    /// Steps that come to an end within the settling time, rarer and rarer.
    fn stairs(&mut self, rng: &mut Rng, most: u64, lo: f64, hi: f64) {
        for _ in 0..rng.whole(2, most) {
            let anywhen = rng.chance(0.15);
            let age_h = either(anywhen, rng.range(0.01, self.settled_h), rng.log_range(0.01, self.settled_h));
            self.steps.push(Step { age_h, bytes: rng.log_range(lo, hi) });
        }
    }

    /// Jobs, sessions of models, or held reserves, with quiet times between; with `all_work`, requests come in them alone.
    fn visit(&mut self, rng: &mut Rng, busy_h: [f64; 2], idle_h: [f64; 2], bytes: [f64; 2], all_work: bool) {
        let sizes: Vec<f64> = (0..rng.whole(1, 4)).map(|_| rng.log_range(bytes[0], bytes[1])).collect();
        let ramp_s = rng.log_range(5.0, 60.0);
        let mut quiet = vec![true; MINUTES];
        let mut h = rng.range(0.3, 1.0);
        while h < HOURS {
            let busy = rng.log_range(busy_h[0], busy_h[1]);
            let size = sizes[rng.next() as usize % sizes.len()] * if all_work { 1.0 } else { rng.range(0.3, 1.0) };
            self.hold(h, h + busy, size, ramp_s);
            self.visits_at.push(h);
            quiet.iter_mut().skip((h * 60.0) as usize).take((busy * 60.0) as usize + 1).for_each(|q| *q = false);
            let idle = rng.log_range(idle_h[0], idle_h[1]) / self.busy(h).max(0.3);
            h += busy + idle.max(0.9 * busy);
        }
        if all_work {
            self.requests.iter_mut().zip(&quiet).filter(|(_, quiet)| **quiet).for_each(|(r, _)| *r = 0.0);
        }
    }

    /// What comes from outside the server: a tenant of the device, page cache of a cgroup, bursts, cold pages that go out.
    fn outside(&mut self, rng: &mut Rng) {
        if self.figure == "vram-device" && rng.chance(0.25) {
            let top = rng.log_range(0.5 * GB, 20.0 * GB);
            let mut h = rng.range(0.5, 10.0);
            while h < HOURS {
                let busy = rng.log_range(0.2, 4.0);
                self.hold(h, h + busy, top * rng.range(0.5, 1.0), 60.0);
                h += busy + rng.range(1.5, 14.0).max(busy);
            }
            self.parts.push("tenant");
        }
        if self.figure == "cgroup" && rng.chance(0.6) {
            let bytes = self.room(rng.log_range(10.0 * MB, 300.0 * MB));
            let period_h = rng.log_range(0.7, 6.0);
            self.saws.push(Saw { bytes, period_h, phase: rng.range(0.0, 1.0) });
            self.parts.push("page-cache");
        }
        if rng.chance(0.25) {
            let top = rng.log_range(30.0 * MB, (0.3 * self.level).clamp(60.0 * MB, 2.0 * GB));
            for _ in 0..rng.whole(5, 60) {
                let h = rng.range(0.5, 47.5);
                self.hold(h, h + rng.log_range(0.01, 0.3), top * rng.range(0.2, 1.0), 20.0);
            }
            self.parts.push("bursts");
        }
        if self.figure == "rss" && self.level > 2.0 * GB && self.replicas.most == 0.0 && rng.chance(0.2) {
            let age_h = self.age_h + rng.range(1.0, 14.0);
            self.steps.push(Step { age_h, bytes: -rng.range(0.02, 0.12) * self.level });
            self.parts.push("cold-out");
        }
    }

    /// Noise that fits the figure, and loading that fits the server.
    pub fn temper(&mut self, rng: &mut Rng, plain: bool) {
        let vram = self.is_vram();
        let of_vram = rng.range(0.3, 0.85);
        let of_host = either(rng.chance(0.5), 1.0, rng.range(1.05, 1.9));
        self.loading.share = either(vram, of_vram, of_host);
        self.loading.seconds = rng.range(8.0, 90.0) + self.level / rng.log_range(0.05 * GB, 3.0 * GB);
        self.loading.shards = rng.whole(1, 18) as f64;
        self.loading.capture_s = rng.range(20.0, 150.0);
        let calm = if plain { 0.4 } else { 1.0 };
        let white = match self.figure {
            "vram-device" | "vram-process" => rng.range(-1.0, 0.6).max(0.0) * MIB,
            "anon-swap" => rng.log_range(0.05 * MB, 3.0 * MB),
            _ => rng.log_range(0.1 * MB, 6.0 * MB),
        };
        let visible = either(self.drift == 0.0, 300.0 * MB, self.drift.abs().max(75.0 * MB)) / 25.0;
        let most = if self.settled_h > 14.0 { 5.0 * MB } else { 12.0 * MB };
        let slow = if vram { 0.0 } else { rng.log_range(0.2 * MB, 12.0 * MB) * calm };
        self.noise = Noise { white: white * calm, slow: slow.min(visible).min(most), slow_h: rng.log_range(0.03, 2.0) };
    }

    /// Counts the requests, of which there are none while it is down, and holds enough for what shrinks.
    pub fn account(&mut self) {
        for r in &self.restarts {
            let (from, to) = ((r.dead_h * 60.0) as usize, (r.back_h * 60.0) as usize);
            (from..=to.min(MINUTES - 1)).for_each(|m| self.requests[m] = 0.0);
        }
        self.requests_done = running_sum(&self.requests);
        if self.drift < 0.0 {
            self.level = self.level.max(1.6 * -self.drift + 0.3 * GB);
        }
    }
}
