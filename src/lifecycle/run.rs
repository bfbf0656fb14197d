//! The run: how much of it has been watched, and how it comes to an end.
//!
//! A run's duration is *uptime*: time in which somebody watched. [`Timekeeper`] turns the two clocks of successive ticks
//! into uptime and into facts about time itself (a wall clock that stepped, a suspend, a supervisor that stalled). [`step`] is
//! the run's own machine. What a run *found* is none of its business.

use crate::model::run::RunState;
use crate::model::time::{MonoMillis, Now, UnixMillis};

/// Ticks come every second. One that is later than this by the monotonic clock means that nobody watched meanwhile: long
/// enough that a loaded host or a slow disk does not make gaps, short enough that one lost batch of samples does.
pub const STALL_MS: i64 = 5_000;
/// How often somebody looks, at least.
pub const TICK_MS: i64 = 1_000;
/// A tick that is later than this was late for want of CPU or for a slow disk, and not by a timer's inexactness.
const LATE_MS: i64 = 2 * TICK_MS;
/// A wall clock that moves against the monotonic one by more than this between two ticks has stepped. NTP slews at
/// 500 ppm, half a millisecond a tick.
pub const CLOCK_STEP_MS: i64 = 500;

/// What a tick told about time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeFact {
    /// The wall clock stepped by this much (negative: back).
    ClockStep {
        /// How far.
        by_ms: i64,
    },
    /// Nothing was watched from `from` to now.
    Unwatched {
        /// When that began, by the wall clock as it reads now: a clock that was stepped meanwhile makes a gap neither longer
        /// nor shorter, nor lets it end before it began.
        from: UnixMillis,
        /// How long, by the monotonic clock.
        ms: i64,
        /// Of that, how long the host was suspended.
        suspended_ms: i64,
    },
    /// The tick came late, by a gap or by less: for this long nobody looked whether a child lives. However long ago the last look
    /// was, it is worth one second of a child's silence, so that who watches late does not take others for dead, and who is
    /// always late still sees the dead some time.
    Late {
        /// How long, by the monotonic clock.
        ms: i64,
    },
}

/// Counts uptime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timekeeper {
    last: Now,
    suspended_total_ms: i64,
    uptime_ms: i64,
}

impl Timekeeper {
    /// Starts counting at `now`, with `uptime_ms` served before (a resumed run).
    #[must_use]
    pub fn new(now: Now, suspended_total_ms: i64, uptime_ms: i64) -> Timekeeper {
        Timekeeper { last: now, suspended_total_ms, uptime_ms }
    }

    /// Uptime so far, milliseconds.
    #[must_use]
    pub fn uptime_ms(&self) -> i64 {
        self.uptime_ms
    }

    /// Whether a tick is so late that it will tell of time in which nobody watched.
    #[must_use]
    pub fn is_behind(&self, now: Now) -> bool {
        now.mono.since(self.last.mono) > STALL_MS
    }

    /// Takes a tick. `suspended_total_ms`: how long the host has been suspended since boot.
    pub fn tick(&mut self, now: Now, suspended_total_ms: i64) -> Vec<TimeFact> {
        let mut facts = Vec::new();
        let elapsed = now.mono.since(self.last.mono);
        let by_ms = (now.wall.0 - self.last.wall.0) - elapsed;
        if by_ms.abs() > CLOCK_STEP_MS {
            facts.push(TimeFact::ClockStep { by_ms });
        }
        if self.is_behind(now) {
            let suspended_ms = (suspended_total_ms - self.suspended_total_ms).max(0);
            facts.push(TimeFact::Unwatched { from: now.wall.before(elapsed), ms: elapsed, suspended_ms });
        } else {
            self.uptime_ms += elapsed;
        }
        if elapsed > LATE_MS {
            facts.push(TimeFact::Late { ms: elapsed - TICK_MS });
        }
        self.suspended_total_ms = suspended_total_ms;
        self.last = now;
        facts
    }
}

/// How far the wall clock was stepped while no supervisor was there, from the last beat to `now`. `beat`: both clocks then, if it
/// was on the same boot. Of another boot nobody knows; but the clock went back by all that it now lacks to `last_seen`.
#[must_use]
pub fn stepped_unseen(beat: Option<Now>, last_seen: UnixMillis, now: Now) -> i64 {
    match beat {
        Some(beat) => {
            let by_ms = (now.wall.0 - beat.wall.0) - now.mono.since(beat.mono);
            if by_ms.abs() > CLOCK_STEP_MS { by_ms } else { 0 }
        }
        None => (now.wall.0 - last_seen.0 - 1).min(0),
    }
}

/// Why a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndCause {
    /// Its duration was served.
    Served,
    /// SIGINT or SIGTERM.
    Asked,
    /// A worker was given up.
    CrashLoop,
    /// The host is being shut down: nobody is done with the run, and the next boot goes on with it.
    HostDown,
}

impl EndCause {
    /// The state that the run's row ends in.
    #[must_use]
    pub fn state(self) -> RunState {
        match self {
            EndCause::Served => RunState::Finished,
            EndCause::Asked => RunState::Interrupted,
            EndCause::CrashLoop => RunState::Failed,
            EndCause::HostDown => RunState::Running,
        }
    }

    /// The cause of an end that is on record; `None` for a run that goes on.
    #[must_use]
    pub fn of(state: RunState) -> Option<EndCause> {
        [EndCause::Served, EndCause::Asked, EndCause::CrashLoop].into_iter().find(|cause| cause.state() == state)
    }
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Going on.
    Soaking,
    /// The children were asked to end.
    Ending {
        /// Why.
        cause: EndCause,
        /// The verdict is spoken at this time whether they did or not.
        deadline: MonoMillis,
    },
    /// The verdict was spoken.
    Over {
        /// Why it ended.
        cause: EndCause,
    },
}

/// What can happen to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEvent {
    /// Time passed; this much has been watched.
    Tick {
        /// Uptime, milliseconds.
        uptime_ms: i64,
    },
    /// SIGINT or SIGTERM.
    Asked,
    /// The host is being shut down.
    HostGoesDown,
    /// A worker was given up.
    WorkerGivenUp,
    /// No child is left.
    ChildrenGone,
}

/// What the supervisor has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEffect {
    /// Ask every child to end.
    StopChildren,
    /// Speak the verdict and write the end; when the host goes down, leave without either.
    Finish(EndCause),
}

/// Seconds from a request to end to the verdict. The contract is 10 s; the rest is for the verdict and the report.
pub const ENDING_MS: i64 = 6_000;

/// The transition.
#[must_use]
pub fn step(phase: Phase, event: RunEvent, now: MonoMillis, duration_ms: i64) -> (Phase, Vec<RunEffect>) {
    let ending = |cause| (Phase::Ending { cause, deadline: now.plus(ENDING_MS) }, vec![RunEffect::StopChildren]);
    match (phase, event) {
        (Phase::Soaking, RunEvent::Tick { uptime_ms }) if uptime_ms >= duration_ms => ending(EndCause::Served),
        (Phase::Soaking, RunEvent::Asked) => ending(EndCause::Asked),
        (Phase::Soaking, RunEvent::HostGoesDown) => ending(EndCause::HostDown),
        (Phase::Soaking, RunEvent::WorkerGivenUp) => ending(EndCause::CrashLoop),
        (Phase::Ending { cause, .. }, RunEvent::ChildrenGone) => {
            (Phase::Over { cause }, vec![RunEffect::Finish(cause)])
        }
        (Phase::Ending { cause, deadline }, RunEvent::Tick { .. }) if now >= deadline => {
            (Phase::Over { cause }, vec![RunEffect::Finish(cause)])
        }
        _ => (phase, vec![]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(wall: i64, mono: i64) -> Now {
        Now { wall: UnixMillis(wall), mono: MonoMillis(mono) }
    }

    #[test]
    fn time_is_taken_from_the_clock_that_does_not_step() {
        let unwatched = |from, ms, suspended_ms| TimeFact::Unwatched { from: UnixMillis(from), ms, suspended_ms };
        let late = |ms| TimeFact::Late { ms };
        let cases: [(&str, Now, i64, Vec<TimeFact>, i64); 10] = [
            ("a plain second", now(1_001_000, 6_000), 0, vec![], 1_000),
            ("a second that took two", now(1_002_000, 7_000), 0, vec![], 2_000),
            (
                "one that took four: somebody watched, but not closely",
                now(1_004_000, 9_000),
                0,
                vec![late(3_000)],
                4_000,
            ),
            ("NTP slews by 400 ms", now(1_001_400, 6_000), 0, vec![], 1_000),
            (
                "the wall steps an hour on",
                now(4_601_000, 6_000),
                0,
                vec![TimeFact::ClockStep { by_ms: 3_600_000 }],
                1_000,
            ),
            (
                "the wall steps a day back",
                now(1_001_000 - 86_400_000, 6_000),
                0,
                vec![TimeFact::ClockStep { by_ms: -86_400_000 }],
                1_000,
            ),
            (
                "an hour's suspend",
                now(4_601_000, 3_606_000),
                3_600_000,
                vec![unwatched(1_000_000, 3_601_000, 3_600_000), late(3_600_000)],
                0,
            ),
            (
                "a supervisor stopped for 20 s",
                now(1_020_000, 25_000),
                0,
                vec![unwatched(1_000_000, 20_000, 0), late(19_000)],
                0,
            ),
            (
                "the wall steps an hour back in these 20 s",
                now(1_020_000 - 3_600_000, 25_000),
                0,
                vec![
                    TimeFact::ClockStep { by_ms: -3_600_000 },
                    unwatched(1_000_000 - 3_600_000, 20_000, 0),
                    late(19_000),
                ],
                0,
            ),
            (
                "the wall steps an hour on in a suspend of two",
                now(1_000_000 + 3 * 3_600_000, 5_000 + 2 * 3_600_000),
                7_190_000,
                vec![
                    TimeFact::ClockStep { by_ms: 3_600_000 },
                    unwatched(1_000_000 + 3_600_000, 7_200_000, 7_190_000),
                    late(7_199_000),
                ],
                0,
            ),
        ];
        for (what, then, suspended, facts, uptime) in cases {
            let mut keeper = Timekeeper::new(now(1_000_000, 5_000), 0, 0);
            assert_eq!(keeper.tick(then, suspended), facts, "{what}");
            assert_eq!(keeper.uptime_ms(), uptime, "{what}");
        }
    }

    #[test]
    fn what_the_clock_did_while_nobody_was_there_is_told_by_the_other_one() {
        let beat = Some(now(1_000_000, 5_000));
        let cases = [
            ("a minute passed by both", beat, now(1_060_000, 65_000), 0),
            ("and the wall went an hour on", beat, now(4_660_000, 65_000), 3_600_000),
            ("or back", beat, now(1_060_000 - 3_600_000, 65_000), -3_600_000),
            ("another boot, later by the wall: nobody knows", None, now(4_660_000, 1_000), 0),
            ("another boot, earlier by the wall: at least that much", None, now(900_000, 1_000), -104_001),
        ];
        for (what, beat, now, by_ms) in cases {
            assert_eq!(stepped_unseen(beat, UnixMillis(1_004_000), now), by_ms, "{what}");
        }
    }

    #[test]
    fn a_run_ends_once_and_for_one_reason() {
        let (phase, effects) = step(Phase::Soaking, RunEvent::Tick { uptime_ms: 10 }, MonoMillis(0), 10);
        assert_eq!(effects, vec![RunEffect::StopChildren], "served");
        let (phase, effects) = step(phase, RunEvent::ChildrenGone, MonoMillis(5), 10);
        assert_eq!(effects, vec![RunEffect::Finish(EndCause::Served)]);
        assert_eq!(step(phase, RunEvent::ChildrenGone, MonoMillis(6), 10).1, vec![], "and only once");
    }

    #[test]
    fn a_run_is_not_over_because_its_host_goes_down() {
        let (phase, effects) = step(Phase::Soaking, RunEvent::HostGoesDown, MonoMillis(0), 10);
        assert_eq!(effects, vec![RunEffect::StopChildren]);
        let (phase, effects) = step(phase, RunEvent::ChildrenGone, MonoMillis(5), 10);
        assert_eq!(effects, vec![RunEffect::Finish(EndCause::HostDown)]);
        assert_eq!(phase, Phase::Over { cause: EndCause::HostDown });
        assert_eq!(EndCause::HostDown.state(), RunState::Running, "the next boot goes on with it");
        assert_eq!(EndCause::of(RunState::Running), None, "and finds no end to tell");
    }

    #[test]
    fn a_child_that_will_not_go_does_not_hold_the_verdict() {
        let (phase, _) = step(Phase::Soaking, RunEvent::Asked, MonoMillis(0), 10);
        let (_, effects) = step(phase, RunEvent::Tick { uptime_ms: 1 }, MonoMillis(ENDING_MS), 10);
        assert_eq!(effects, vec![RunEffect::Finish(EndCause::Asked)]);
    }
}
