//! What the figure holds at an hour, and what a monitor reads of it.

use super::super::series::Rng;
use super::{HOURS, MB, MIB, Server, at_hour, either};
use soakd::model::series::Point;

impl Server {
    /// The server's own level so many seconds after its start: shards with pauses, a peak, profiling, capture.
    fn own_level(&self, seconds: f64) -> f64 {
        let (load, vram) = (&self.loading, self.is_vram());
        let empty = either(vram, 2.0 * MIB, 12.0 * MB).min(self.level);
        if seconds < load.seconds {
            let shards = seconds / load.seconds * load.shards;
            let loaded = (shards.floor() + (shards.fract() * 2.0).min(1.0)) / load.shards;
            return empty + (self.level * load.share - empty) * loaded;
        }
        let x = (seconds - load.seconds) / load.capture_s;
        let graphs = 0.97 + 0.03 * ((x - 0.3) / 0.7 * 12.0).floor() / 12.0;
        let share = match vram {
            _ if x >= 1.0 => 1.0,
            true => either(x < 0.3, load.share + 0.06, graphs),
            false => load.share + (1.0 - load.share) * x,
        };
        self.level * share
    }

    /// Hours that the incarnation has been up which runs at an hour.
    fn age(&self, h: f64) -> f64 {
        let (start, n) = self.incarnation(h);
        h - start + if n == 0 { self.age_h } else { 0.0 }
    }

    /// Requests done by the incarnation that runs at an hour.
    fn served(&self, h: f64) -> f64 {
        at_hour(&self.requests_done, h) - at_hour(&self.requests_done, self.incarnation(h).0)
    }

    /// All that the figure holds at an hour but noise; `needs` as [`Server::needs`] has it.
    fn holds(&self, h: f64, needs: &[f64]) -> f64 {
        let (age, served) = (self.age(h), self.served(h));
        let mut held = self.own_level(age * 3600.0) + self.leaked(h);
        held += self.warm_ups.iter().map(|w| w.bytes * (1.0 - (-age / w.tau_h).exp())).sum::<f64>();
        held += self.steps.iter().filter(|s| age >= s.age_h).map(|s| s.bytes).sum::<f64>();
        for (cache, need) in self.caches.iter().zip(needs) {
            let before = if self.incarnation(h).1 == 0 { self.age_h / cache.hours } else { 0.0 };
            let full = served / need + before;
            held += either(full < 1.0, cache.limit * full, cache.limit - cache.entry * (served * 0.618).fract());
        }
        for saw in &self.saws {
            let x = h / saw.period_h + saw.phase;
            held += saw.bytes * (x + 0.1 * (x * 2.3).sin()).fract();
        }
        held += (self.replicas.most * self.busy(h)).round() * self.replicas.bytes;
        held + self.swing * self.busy(h) + self.visits[((h * 360.0) as usize).min(self.visits.len() - 1)]
    }

    /// Requests after which each cache is full in every incarnation.
    fn needs(&self) -> Vec<f64> {
        let starts: Vec<f64> = std::iter::once(0.0).chain(self.restarts.iter().map(|r| r.back_h)).collect();
        let done =
            |from: f64, hours: f64| at_hour(&self.requests_done, from + hours) - at_hour(&self.requests_done, from);
        let least = |hours: f64| starts.iter().map(|from| done(*from, hours)).fold(f64::MAX, f64::min);
        let need = |hours: f64| least(hours).max(done(0.0, 48.0) * hours / 240.0).max(1.0);
        self.caches.iter().map(|cache| need(cache.hours)).collect()
    }

    /// Samples it all, as monitors do: with gaps, steps of the clock, readings that are wrong, some that are late.
    pub fn sample(&self, rng: &mut Rng, interval_s: f64, counted: bool) -> Vec<Point> {
        let needs = self.needs();
        let page = either(self.is_vram(), either(rng.chance(0.7), 2.0 * MIB, MIB), 4096.0);
        let gaps: Vec<[f64; 2]> = (0..if rng.chance(0.2) { rng.whole(1, 4) } else { 0 })
            .map(|_| [rng.range(1.0, 46.0), rng.log_range(0.02, 1.5)])
            .collect();
        let clock_steps_h = either(rng.chance(0.06), rng.range(4.0, 44.0), 99.0);
        let clock_step_s = rng.range(-20.0, 90.0);
        let wrong = if rng.chance(0.12) { rng.log_range(1e-4, 2e-3) } else { 0.0 };
        let (late, seen_starting) = (rng.chance(0.4), rng.chance(0.35));
        let epoch = 1.76e9 + (rng.next() % 10_000_000) as f64;
        // No incarnation holds quite what another did.
        let apart = either(self.is_vram(), 0.0, (0.003 * self.level).min(25.0 * MB));
        let shifts: Vec<f64> = (0..=self.restarts.len()).map(|_| rng.normal() * apart).collect();
        let keep = (-interval_s / 3600.0 / self.noise.slow_h).exp();
        let mut slow = rng.normal() * self.noise.slow;
        let mut points = Vec::new();
        for k in 0..=(HOURS * 3600.0 / interval_s) as usize {
            let delay = either(late && k > 0, rng.range(-0.02, 0.1) * interval_s.min(30.0), 0.0);
            let seconds = k as f64 * interval_s + delay;
            let h = seconds / 3600.0;
            slow = slow * keep + self.noise.slow * (1.0 - keep * keep).sqrt() * rng.normal();
            let (start, n) = self.incarnation(h);
            let down = h < start;
            let unseen = down && !(seen_starting && start - h < 0.04);
            if unseen || gaps.iter().any(|gap| h >= gap[0] && h < gap[0] + gap[1]) {
                continue;
            }
            let loaded = (self.age(h) * 3600.0 / self.loading.seconds).clamp(0.0, 1.0);
            let noise = self.noise.white * rng.normal() * (0.5 + 0.6 * self.busy(h)) + slow + shifts[n];
            let mut bytes = if down { 4.0 * MIB } else { self.holds(h, &needs) + loaded * noise };
            if rng.chance(wrong) {
                bytes *= rng.range(0.2, 1.3);
            }
            points.push(Point {
                unix_s: epoch + seconds + if h > clock_steps_h { clock_step_s } else { 0.0 },
                bytes: (bytes / page).floor().max(1.0) * page,
                segment: n as u32,
                requests: counted.then(|| self.served(h).max(0.0).floor()),
            });
        }
        points
    }
}
