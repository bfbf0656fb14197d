//! One child process, from its first start to its end: starting, running, killed, waiting to be started again.
//!
//! The intuition: a child is *alive* while it makes progress, not while its process exists. A process that exists but
//! does not progress is a hang and is killed like any other fault. Every end is followed by a wait that doubles with
//! each short life, so that the restart rate is bounded; a child that has lived long starts afresh. A child that
//! cannot even be reaped after SIGKILL (stuck in a driver call) is abandoned rather than waited for.

use crate::model::process::EndReason;
use crate::model::time::MonoMillis;

/// The limits that a kind of child lives under. All durations are milliseconds of monotonic time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// From spawning to the first sign of readiness. Generous: a worker may generate or load gigabytes of weights.
    pub start_timeout_ms: i64,
    /// From one sign of progress to the next; longer is a hang.
    pub silence_timeout_ms: i64,
    /// From a request to end to SIGKILL.
    pub stop_timeout_ms: i64,
    /// From SIGKILL to giving the process up for lost.
    pub abandon_timeout_ms: i64,
    /// First wait before a restart; doubles with every life shorter than `stable_ms`.
    pub backoff_min_ms: i64,
    /// Longest wait before a restart.
    pub backoff_max_ms: i64,
    /// A life this long counts as healthy: the next failure is a first failure.
    pub stable_ms: i64,
    /// Short lives in a row before it is given up; `None`: never.
    pub failures_max: Option<u32>,
}

impl Policy {
    /// The worker. Ten short lives in a row with waits of 1, 2, 4, ... 60 s take about six minutes: long enough for a driver
    /// to come back by itself, short enough that a machine that cannot start at all is known the same evening.
    pub const WORKER: Policy = Policy {
        start_timeout_ms: 600_000,
        silence_timeout_ms: 60_000,
        stop_timeout_ms: 4_000,
        abandon_timeout_ms: 60_000,
        backoff_min_ms: 1_000,
        backoff_max_ms: 60_000,
        stable_ms: 120_000,
        failures_max: Some(10),
    };

    /// The probe. It answers every second, so ten seconds of silence is a driver call that hangs. It is never given up: a
    /// driver may come back, and a run without readings is still a run.
    pub const PROBE: Policy = Policy {
        start_timeout_ms: 20_000,
        silence_timeout_ms: 10_000,
        stop_timeout_ms: 1_000,
        abandon_timeout_ms: 5_000,
        backoff_min_ms: 1_000,
        backoff_max_ms: 60_000,
        stable_ms: 60_000,
        failures_max: None,
    };

    /// The mailer and the canary: they are not waited for, only restarted when they die.
    pub const HELPER: Policy = Policy {
        start_timeout_ms: i64::MAX,
        silence_timeout_ms: i64::MAX,
        stop_timeout_ms: 5_000,
        abandon_timeout_ms: 5_000,
        backoff_min_ms: 2_000,
        backoff_max_ms: 300_000,
        stable_ms: 60_000,
        failures_max: None,
    };
}

/// Why the supervisor killed a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillCause {
    /// No progress for `silence_timeout_ms`.
    Hang,
    /// Not ready within `start_timeout_ms`.
    NeverReady,
    /// It spoke garbage.
    Protocol,
    /// It was asked to end and did not.
    StopIgnored,
}

/// Where a child stands, with what that state needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildState {
    /// To be started at `restart_at`, after `failures` short lives in a row.
    Backoff {
        /// When.
        restart_at: MonoMillis,
        /// Short lives so far, in a row.
        failures: u32,
    },
    /// Spawned (or being spawned), not ready yet.
    Starting {
        /// Since when.
        since: MonoMillis,
        /// Short lives before this one.
        failures: u32,
    },
    /// Ready and, as far as is known, at work.
    Running {
        /// Since when it was spawned.
        since: MonoMillis,
        /// The last sign of progress.
        progress: MonoMillis,
        /// Short lives before this one.
        failures: u32,
    },
    /// Asked to end.
    Stopping {
        /// SIGKILL at.
        kill_at: MonoMillis,
    },
    /// SIGKILL was sent; its exit has not been seen.
    Killed {
        /// Why.
        cause: KillCause,
        /// When it was spawned.
        since: MonoMillis,
        /// When it was killed.
        at: MonoMillis,
        /// Short lives before this one.
        failures: u32,
        /// Whether it is to be started again.
        restart: bool,
    },
    /// Given up after too many short lives.
    GivenUp {
        /// How many.
        failures: u32,
    },
    /// Over, on purpose.
    Ended,
}

/// What can happen to a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildEvent {
    /// Time passed.
    Tick,
    /// It said that it is ready, or did the first thing only a ready child does.
    Ready,
    /// It made progress.
    Progress,
    /// Nobody was looking for this long (suspend, a supervisor that is late): silence in that time proves nothing.
    Unwatched {
        /// How long.
        ms: i64,
    },
    /// It sent something that is no message.
    Misbehaved,
    /// Its process ended, or could not be spawned.
    Exited,
    /// Its process ended by a signal that nobody asks with: a fault, also while it is on its way out.
    Died,
    /// The run is ending.
    Stop,
}

/// What the supervisor has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildEffect {
    /// Spawn a new incarnation.
    Spawn,
    /// Ask it to end.
    AskToStop,
    /// SIGKILL to its process group.
    Kill(KillCause),
    /// Record the end of this incarnation.
    Ended {
        /// How.
        reason: EndReason,
        /// How long until the next start; `None`: there is none.
        restart_in_ms: Option<i64>,
    },
    /// Too many short lives in a row.
    GiveUp {
        /// How many.
        failures: u32,
    },
}

impl ChildState {
    /// A child that is to be started at once.
    #[must_use]
    pub fn new(now: MonoMillis) -> ChildState {
        ChildState::Backoff { restart_at: now, failures: 0 }
    }

    /// True while a process may exist.
    #[must_use]
    pub fn has_process(self) -> bool {
        matches!(
            self,
            ChildState::Starting { .. }
                | ChildState::Running { .. }
                | ChildState::Stopping { .. }
                | ChildState::Killed { .. }
        )
    }

    /// True once nothing more will come of it.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, ChildState::GivenUp { .. } | ChildState::Ended)
    }
}

/// The transition. At most two effects come of one event.
#[must_use]
pub fn step(state: ChildState, event: ChildEvent, now: MonoMillis, policy: &Policy) -> (ChildState, Vec<ChildEffect>) {
    use ChildState as S;
    match (state, event) {
        (_, ChildEvent::Tick) => tick(state, now, policy),
        (S::Stopping { .. }, ChildEvent::Died) => {
            (S::Ended, vec![ChildEffect::Ended { reason: EndReason::Crash, restart_in_ms: None }])
        }
        (_, ChildEvent::Exited | ChildEvent::Died) => exited(state, now, policy),
        (_, ChildEvent::Stop) => stop(state, now, policy),
        (
            S::Starting { since, failures } | S::Running { since, failures, .. },
            ChildEvent::Ready | ChildEvent::Progress,
        ) => (S::Running { since, progress: now, failures }, vec![]),
        (S::Starting { .. } | S::Running { .. }, ChildEvent::Misbehaved) => kill(state, KillCause::Protocol, now, true),
        (S::Stopping { .. }, ChildEvent::Misbehaved) => kill(state, KillCause::StopIgnored, now, false),
        (_, ChildEvent::Unwatched { ms }) => (unwatched(state, ms, now), vec![]),
        (_, ChildEvent::Ready | ChildEvent::Progress | ChildEvent::Misbehaved) => (state, vec![]),
    }
}

fn tick(state: ChildState, now: MonoMillis, policy: &Policy) -> (ChildState, Vec<ChildEffect>) {
    use ChildState as S;
    match state {
        S::Backoff { restart_at, failures } if now >= restart_at => {
            (S::Starting { since: now, failures }, vec![ChildEffect::Spawn])
        }
        S::Starting { since, .. } if now.since(since) > policy.start_timeout_ms => {
            kill(state, KillCause::NeverReady, now, true)
        }
        S::Running { progress, .. } if now.since(progress) > policy.silence_timeout_ms => {
            kill(state, KillCause::Hang, now, true)
        }
        S::Stopping { kill_at } if now >= kill_at => kill(state, KillCause::StopIgnored, now, false),
        S::Killed { at, since, failures, restart, .. } if now.since(at) > policy.abandon_timeout_ms => {
            after_life(EndReason::Lost, since, failures, restart, now, policy)
        }
        _ => (state, vec![]),
    }
}

fn exited(state: ChildState, now: MonoMillis, policy: &Policy) -> (ChildState, Vec<ChildEffect>) {
    use ChildState as S;
    match state {
        S::Starting { since, failures } => after_life(EndReason::Refused, since, failures, true, now, policy),
        S::Running { since, failures, .. } => after_life(EndReason::Crash, since, failures, true, now, policy),
        S::Stopping { .. } => (S::Ended, vec![ChildEffect::Ended { reason: EndReason::Clean, restart_in_ms: None }]),
        S::Killed { cause, since, failures, restart, .. } => {
            let reason = match cause {
                KillCause::Hang | KillCause::NeverReady => EndReason::Hang,
                KillCause::Protocol => EndReason::Protocol,
                KillCause::StopIgnored => EndReason::Clean,
            };
            after_life(reason, since, failures, restart, now, policy)
        }
        S::Backoff { .. } | S::GivenUp { .. } | S::Ended => (state, vec![]),
    }
}

fn stop(state: ChildState, now: MonoMillis, policy: &Policy) -> (ChildState, Vec<ChildEffect>) {
    use ChildState as S;
    match state {
        S::Starting { .. } | S::Running { .. } => {
            (S::Stopping { kill_at: now.plus(policy.stop_timeout_ms) }, vec![ChildEffect::AskToStop])
        }
        S::Killed { cause, since, at, failures, .. } => {
            (S::Killed { cause, since, at, failures, restart: false }, vec![])
        }
        S::Backoff { .. } => (S::Ended, vec![]),
        S::Stopping { .. } | S::GivenUp { .. } | S::Ended => (state, vec![]),
    }
}

fn kill(state: ChildState, cause: KillCause, now: MonoMillis, restart: bool) -> (ChildState, Vec<ChildEffect>) {
    let (since, failures) = match state {
        ChildState::Starting { since, failures } | ChildState::Running { since, failures, .. } => (since, failures),
        _ => (now, 0),
    };
    (ChildState::Killed { cause, since, at: now, failures, restart }, vec![ChildEffect::Kill(cause)])
}

fn after_life(
    reason: EndReason,
    since: MonoMillis,
    failures: u32,
    restart: bool,
    now: MonoMillis,
    policy: &Policy,
) -> (ChildState, Vec<ChildEffect>) {
    if !restart {
        return (ChildState::Ended, vec![ChildEffect::Ended { reason, restart_in_ms: None }]);
    }
    let failures = if now.since(since) >= policy.stable_ms { 1 } else { failures + 1 };
    if policy.failures_max.is_some_and(|max| failures >= max) {
        let ended = ChildEffect::Ended { reason, restart_in_ms: None };
        return (ChildState::GivenUp { failures }, vec![ended, ChildEffect::GiveUp { failures }]);
    }
    let wait = backoff_ms(failures, policy);
    let ended = ChildEffect::Ended { reason, restart_in_ms: Some(wait) };
    (ChildState::Backoff { restart_at: now.plus(wait), failures }, vec![ended])
}

/// The wait after `failures` short lives in a row: doubling from the least to the most.
fn backoff_ms(failures: u32, policy: &Policy) -> i64 {
    let doublings = failures.saturating_sub(1).min(30);
    policy.backoff_min_ms.saturating_mul(1 << doublings).min(policy.backoff_max_ms)
}

/// What has waited since before the time that does not count waits on; what is younger has waited for nothing of it.
fn unwatched(state: ChildState, ms: i64, now: MonoMillis) -> ChildState {
    use ChildState as S;
    let later = |at: MonoMillis| at.plus(ms).min(now);
    match state {
        S::Starting { since, failures } => S::Starting { since: later(since), failures },
        S::Running { since, progress, failures } => S::Running { since, progress: later(progress), failures },
        S::Killed { cause, since, at, failures, restart } => {
            S::Killed { cause, since, at: later(at), failures, restart }
        }
        S::Backoff { .. } | S::Stopping { .. } | S::GivenUp { .. } | S::Ended => state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const P: Policy = Policy::WORKER;

    fn at(ms: i64) -> MonoMillis {
        MonoMillis(ms)
    }

    fn running(since: i64, progress: i64) -> ChildState {
        ChildState::Running { since: at(since), progress: at(progress), failures: 0 }
    }

    #[test]
    fn a_table_of_lives() {
        use ChildEffect as E;
        let crash = |wait| vec![E::Ended { reason: EndReason::Crash, restart_in_ms: Some(wait) }];
        let cases: Vec<(&str, ChildState, ChildEvent, i64, Vec<E>)> = vec![
            ("a new child is spawned at the first tick", ChildState::new(at(5)), ChildEvent::Tick, 5, vec![E::Spawn]),
            (
                "before its backoff is over it is not",
                ChildState::Backoff { restart_at: at(10), failures: 1 },
                ChildEvent::Tick,
                9,
                vec![],
            ),
            ("an exit nobody asked for is a crash", running(0, 500), ChildEvent::Exited, 600, crash(1_000)),
            (
                "an exit before it was ready is a refusal",
                ChildState::Starting { since: at(0), failures: 3 },
                ChildEvent::Exited,
                100,
                vec![E::Ended { reason: EndReason::Refused, restart_in_ms: Some(8_000) }],
            ),
            (
                "the tenth short life in a row is the last",
                ChildState::Starting { since: at(0), failures: 9 },
                ChildEvent::Exited,
                100,
                vec![E::Ended { reason: EndReason::Refused, restart_in_ms: None }, E::GiveUp { failures: 10 }],
            ),
            (
                "a long life forgives what went before",
                ChildState::Running { since: at(0), progress: at(500_000), failures: 9 },
                ChildEvent::Exited,
                500_000,
                crash(1_000),
            ),
            (
                "on its way out it may take its time",
                ChildState::Stopping { kill_at: at(700) },
                ChildEvent::Exited,
                600,
                vec![E::Ended { reason: EndReason::Clean, restart_in_ms: None }],
            ),
            (
                "a fault on the way out is a crash all the same",
                ChildState::Stopping { kill_at: at(700) },
                ChildEvent::Died,
                600,
                vec![E::Ended { reason: EndReason::Crash, restart_in_ms: None }],
            ),
            ("silence up to the limit is patience", running(0, 0), ChildEvent::Tick, P.silence_timeout_ms, vec![]),
            (
                "silence beyond it is a hang",
                running(0, 0),
                ChildEvent::Tick,
                P.silence_timeout_ms + 1,
                vec![E::Kill(KillCause::Hang)],
            ),
            ("garbage is fatal", running(0, 0), ChildEvent::Misbehaved, 1, vec![E::Kill(KillCause::Protocol)]),
            ("a stop is asked for first", running(0, 0), ChildEvent::Stop, 1, vec![E::AskToStop]),
            (
                "and enforced later",
                ChildState::Stopping { kill_at: at(100) },
                ChildEvent::Tick,
                100,
                vec![E::Kill(KillCause::StopIgnored)],
            ),
            (
                "what SIGKILL does not end is given up for lost",
                ChildState::Killed { cause: KillCause::Hang, since: at(0), at: at(0), failures: 0, restart: true },
                ChildEvent::Tick,
                P.abandon_timeout_ms + 1,
                vec![E::Ended { reason: EndReason::Lost, restart_in_ms: Some(1_000) }],
            ),
        ];
        for (what, state, event, now, effects) in cases {
            assert_eq!(step(state, event, at(now), &P).1, effects, "{what}");
        }
    }

    #[test]
    fn silence_while_nobody_watched_is_no_hang() {
        let (state, _) = step(running(0, 0), ChildEvent::Unwatched { ms: 3_600_000 }, at(3_600_000), &P);
        assert_eq!(step(state, ChildEvent::Tick, at(3_601_000), &P).1, vec![], "an hour's suspend is not silence");
    }

    #[test]
    fn what_nobody_saw_forgives_no_silence_of_the_time_after_it() {
        // The worker beat just before the late tick came: it is silent since then, and not from some time in the future on.
        let (state, _) = step(running(0, 3_000), ChildEvent::Unwatched { ms: 3_000 }, at(4_000), &P);
        assert_eq!(state, running(0, 4_000));
        let tick = |ms| step(state, ChildEvent::Tick, at(ms), &P).1;
        assert_eq!(tick(4_000 + P.silence_timeout_ms), vec![]);
        assert_eq!(tick(4_001 + P.silence_timeout_ms), vec![ChildEffect::Kill(KillCause::Hang)]);
    }

    fn any_event() -> impl Strategy<Value = ChildEvent> {
        prop_oneof![
            8 => Just(ChildEvent::Tick),
            2 => Just(ChildEvent::Ready),
            2 => Just(ChildEvent::Progress),
            1 => (0i64..100_000).prop_map(|ms| ChildEvent::Unwatched { ms }),
            1 => Just(ChildEvent::Misbehaved),
            3 => Just(ChildEvent::Exited),
            2 => Just(ChildEvent::Died),
        ]
    }

    proptest! {
        /// Whatever happens: never two processes at once, an end for every life, and starts no closer than the backoff allows.
        #[test]
        fn one_process_at_a_time_and_a_bounded_restart_rate(
            events in proptest::collection::vec((any_event(), 0i64..5_000), 1..400),
            stop_at in 0usize..500,
        ) {
            let (mut state, mut now, mut alive, mut starts) = (ChildState::new(at(0)), 0, false, Vec::new());
            for (index, (event, dt)) in events.into_iter().enumerate() {
                now += dt;
                let event = if index == stop_at { ChildEvent::Stop } else { event };
                let (next, effects) = step(state, event, at(now), &P);
                state = next;
                for effect in effects {
                    match effect {
                        ChildEffect::Spawn => {
                            prop_assert!(!alive, "spawned while one is alive");
                            prop_assert!(index < stop_at || stop_at >= 400, "spawned after the stop");
                            alive = true;
                            starts.push(now);
                        }
                        ChildEffect::Ended { .. } => {
                            prop_assert!(alive, "an end without a life");
                            alive = false;
                        }
                        ChildEffect::AskToStop | ChildEffect::Kill(_) => prop_assert!(alive),
                        ChildEffect::GiveUp { failures } => prop_assert!(failures >= 10),
                    }
                }
                prop_assert_eq!(alive, state.has_process());
            }
            for pair in starts.windows(2) {
                prop_assert!(pair[1] - pair[0] >= P.backoff_min_ms);
            }
        }
    }
}
