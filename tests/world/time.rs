//! What time does in the simulated world: it passes, stands still for everybody but the clocks, and steps by the wall.

use super::{Event, Role, Sleep, World};

impl World {
    /// That many seconds of a run of one's own making, which is begun if it is not.
    pub fn play(&mut self, seconds: u32) {
        if self.core.is_none() {
            self.begin();
        }
        (0..seconds).for_each(|_| self.second());
    }

    pub(super) fn advance_to(&mut self, mono: i64) {
        let by = (mono - self.now.mono.0).max(0);
        self.now.mono.0 += by;
        self.now.wall.0 += by;
    }

    pub(super) fn step_clock(&mut self) {
        let by_ms = 3_600_000 - (self.next_random() % 7_200_000) as i64;
        self.step_clock_by(by_ms);
    }

    /// By so much.
    pub fn step_clock_by(&mut self, ms: i64) {
        self.now.wall.0 += ms;
        self.clocks.push((self.now.mono.0, self.now.wall.0 - self.now.mono.0));
    }

    /// For longer than a tick may be late: that is told, and no time of the run.
    pub(super) fn sleep_through(&mut self, ms: i64, suspended: bool) {
        if self.number("SELECT count(*) FROM run WHERE state = 'running'") > 0 {
            self.truth.slept_ms += ms;
            self.truth.sleeps += 1;
        }
        self.stand_still(ms);
        self.suspended_ms += if suspended { ms } else { 0 };
        if self.faults.sleep == Sleep::WakesElsewhere {
            self.step_clock();
        }
    }

    /// A host so busy that soakd and its children get a moment every few seconds: never late enough for a gap, and three times what
    /// a child may be silent for.
    pub fn starve(&mut self) {
        let allowed_ms = self.config.worker.hang_after.max(self.config.probe.hang_after).as_millis() as i64;
        // Two such times in a row, with not even a beat between them, are more than is promised.
        if self.now.mono.0 < self.starved_ms.saturating_add(allowed_ms) {
            return;
        }
        let mut left_ms = 3 * allowed_ms;
        while left_ms > 0 && !self.over {
            self.apply(Event::Tick { suspended_ms: self.suspended_ms });
            self.stand_still(NAP_MS);
            self.apply(Event::Tick { suspended_ms: self.suspended_ms });
            left_ms -= NAP_MS;
        }
        self.starved_ms = self.now.mono.0;
    }

    /// Nothing moves but the clocks. What was due is late by as much.
    fn stand_still(&mut self, ms: i64) {
        self.now.mono.0 += ms;
        self.now.wall.0 += ms;
        self.due =
            std::mem::take(&mut self.due).into_iter().map(|((at, order), event)| ((at + ms, order), event)).collect();
    }

    /// The probe hangs, and whoever asks in its place learns nothing either.
    pub fn silence_probe(&mut self) {
        self.blind = true;
        self.hang(Role::Probe);
    }

    /// The worker is there, and does nothing.
    pub fn hang_worker(&mut self) {
        self.hang(Role::Worker);
    }

    fn hang(&mut self, role: Role) {
        let life = self.scripts.iter().find(|(_, script)| script.child.role == role).map(|(life, _)| *life);
        self.freeze(life.expect("it lives"));
    }
}

/// Not late enough for a gap.
const NAP_MS: i64 = 4_900;
