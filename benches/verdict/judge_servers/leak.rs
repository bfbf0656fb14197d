//! The leak: how large it is, what drives it, and when it has taken what. A restart gives back what its incarnation had lost, and the
//! next one loses at the same rate.

use super::super::series::Rng;
use super::{Day, GB, MB, MIB, MINUTES, Server, at_hour, either, running_sum};

/// Draws bytes of drift and what drives it.
pub fn draw(rng: &mut Rng, class: u8, figure: &str, drives: &[&'static str]) -> (f64, Option<&'static str>) {
    if class == 0 {
        return (0.0, None);
    }
    if class == 1 {
        let sign = if rng.chance(0.12) { -1.0 } else { 1.0 };
        let drive = if rng.chance(0.5) { "time" } else { "request" };
        return (sign * rng.range(5.0 * MB, 25.0 * MB), Some(drive));
    }
    let drift = rng.log_range(76.0 * MB, 6.0 * GB);
    let own = drives[rng.next() as usize % drives.len()];
    let drive = match rng.range(0.0, 1.0) {
        x if x < 0.10 => "time",
        x if x < 0.22 => "late",
        x if x < 0.27 => "night",
        x if x < 0.33 => "office",
        x if x < 0.37 => return (-drift.min(1.2 * GB), Some("shrink")),
        _ if own == "request" && figure == "anon-swap" && rng.chance(0.4) => "swap",
        _ if own == "swap" && figure != "anon-swap" => "request",
        _ if own == "steps" && !figure.starts_with("vram") && rng.chance(0.5) => "request",
        _ => own,
    };
    (either(matches!(drive, "night" | "office"), drift.max(120.0 * MB), drift), Some(drive))
}

impl Server {
    /// Lays the leak out, as large as promised after steps and restarts. The name of what drives it: time, where what should does not
    /// spread over the two days so that it can be told.
    pub fn leak(&mut self, rng: &mut Rng, drive: &'static str) -> &'static str {
        let restarts = self.restarts.clone();
        let is_down = |m: usize| {
            m > 2878 || restarts.iter().any(|r| (m as f64 + 1.0) / 60.0 > r.dead_h && (m as f64) / 60.0 < r.back_h)
        };
        let (mut drive, mut taken) = (drive, vec![]);
        for attempt in 0..9 {
            drive = if attempt < 8 { drive } else { "time" };
            let mut weights = self.weights(rng, drive);
            (0..MINUTES).filter(|m| is_down(*m)).for_each(|m| weights[m] = 0.0);
            taken = running_sum(&weights);
            let all = taken[MINUTES].max(1e-9);
            let second_day = 1.0 - at_hour(&taken, 24.0) / all;
            let spread = weights.iter().all(|x| x / all < 0.12);
            if spread && second_day > 0.24 && (drive == "late" || second_day < 0.76) {
                break;
            }
        }
        // What follows the same hours as the leak must not hide it.
        self.swing *= either(matches!(drive, "night" | "office"), 0.3, 1.0);
        let scale = self.drift / taken[MINUTES];
        self.lost = taken.iter().map(|x| x * scale).collect();
        if drive == "steps" {
            self.take_in_blocks(rng);
        }
        drive
    }

    /// From 2 to 512 MiB are taken at once, of which there are enough in each incarnation; and 75 MB in all, whatever is left of them.
    fn take_in_blocks(&mut self, rng: &mut Rng) {
        let most = self.drift / (9.0 + 4.0 * self.restarts.len() as f64) / MIB;
        let power = rng.range(1.0, (most.log2() + 1.0).min(10.0)).floor();
        self.block = 2_f64.powf(power.max(1.0)) * MIB;
        for _ in 0..20 {
            if self.total(48.0) < 75.5 * MB {
                self.lost.iter_mut().for_each(|x| *x *= 1.08);
            }
        }
    }

    /// What drives the leak in each minute.
    fn weights(&mut self, rng: &mut Rng, drive: &str) -> Vec<f64> {
        let requests = self.requests.clone();
        let clock = |m: usize| (m as f64 / 60.0 + self.clock_h).rem_euclid(24.0);
        let mut weights = vec![0.0; MINUTES];
        match drive {
            "time" | "shrink" => return vec![1.0; MINUTES],
            "session" | "request" | "steps" | "swap" => return requests,
            "night" => return (0..MINUTES).map(|m| either(clock(m) < 7.0, requests[m], 0.0)).collect(),
            "office" => {
                return (0..MINUTES).map(|m| either((8.5..18.5).contains(&clock(m)), requests[m], 0.0)).collect();
            }
            "late" => {
                let from = match self.restarts.first() {
                    Some(r) if r.back_h < 34.0 => r.back_h,
                    _ => rng.range(5.0, 34.0),
                };
                let by_requests = matches!(self.day, Day::Evening | Day::Night);
                let weight = |m: usize| either(by_requests, requests[m], 1.0);
                return (0..MINUTES).map(|m| either(m as f64 / 60.0 < from, 0.0, weight(m))).collect();
            }
            // Some requests of all.
            "unusual" => {
                let done = running_sum(&requests);
                for _ in 0..rng.whole(20, 120) {
                    let goal = rng.range(0.0, done[MINUTES]);
                    weights[done.partition_point(|x| *x < goal).saturating_sub(1)] += rng.range(0.5, 1.5);
                }
            }
            // The starts of sessions and jobs; where there are few, some of its own.
            "reload" => {
                if self.visits_at.len() < 12 {
                    let n = rng.whole(14, 70);
                    self.visits_at = (0..n).map(|_| rng.range(0.2, 47.5)).collect();
                }
                for h in &self.visits_at {
                    weights[((h * 60.0) as usize).min(MINUTES - 1)] += 1.0;
                }
            }
            // "abort": clients that go away, many at a time.
            _ => {
                for _ in 0..rng.whole(12, 36) {
                    let (from, minutes) = (rng.whole(10, 2860) as usize, rng.whole(3, 30) as usize);
                    weights.iter_mut().zip(&requests).skip(from).take(minutes).for_each(|(w, r)| *w += 1.0 + r);
                }
            }
        }
        weights
    }

    /// What the running incarnation has lost by an hour.
    pub fn leaked(&self, h: f64) -> f64 {
        let lost = at_hour(&self.lost, h) - at_hour(&self.lost, self.incarnation(h).0);
        either(self.block > 0.0, (lost / self.block + 1e-9).floor() * self.block, lost)
    }

    /// What all incarnations have lost by an hour.
    pub fn total(&self, h: f64) -> f64 {
        let dead = self.restarts.iter().filter(|r| h >= r.dead_h);
        self.leaked(h) + dead.map(|r| self.leaked(r.dead_h - 1e-7)).sum::<f64>()
    }
}
