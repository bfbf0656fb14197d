//! The dead man's switch: soakd's own death is mailed too. The supervisor beats in the database; the mailer, another
//! process, looks at the beat and raises the alarm when it stops. Pure: whoever looks brings the beat and the time.
//!
//! Silence is what was watched, not the difference of two clocks: while the host slept, or the mailer hung at a mail
//! server, nobody watched, and that time does not count. So neither a resume from suspend nor a step of the wall clock
//! raises a false alarm.

use crate::model::time::{MonoMillis, Now, UnixMillis};

/// Longest time between two looks that counts as watched. The mailer looks about once a second.
const WATCHED_MS_MAX: i64 = 5_000;

/// The supervisor's row of the heartbeat table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    /// The last beat.
    pub at: UnixMillis,
    /// Who beat.
    pub pid: i64,
    /// The run it is about.
    pub run_id: Option<i64>,
    /// The next beat is due by then; `None` after a clean end.
    pub expects: Option<UnixMillis>,
}

/// What is to be mailed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// The beat stopped.
    Lost {
        /// The last one.
        last: Pulse,
        /// Milliseconds of silence that were watched.
        silent_ms: i64,
    },
    /// It beats again, or ended cleanly after all.
    Back {
        /// The last one before the silence.
        lost_at: UnixMillis,
        /// The newest.
        pulse: Pulse,
    },
}

/// Where the switch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadman {
    silent_after_ms: i64,
    /// The beat of which the loss was mailed.
    lost: Option<UnixMillis>,
    seen: Option<Pulse>,
    looked: Option<MonoMillis>,
    silent_ms: i64,
}

impl Deadman {
    /// `lost`: the beat whose loss was mailed last and not yet taken back, from the outbox.
    #[must_use]
    pub fn new(silent_after_ms: i64, lost: Option<UnixMillis>) -> Self {
        Deadman { silent_after_ms, lost, seen: None, looked: None, silent_ms: 0 }
    }

    /// Whether the supervisor is known to be dead.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// The newest beat that was seen.
    #[must_use]
    pub fn pulse(&self) -> Option<Pulse> {
        self.seen
    }

    /// One look. `None` for `pulse`: nobody ever beat.
    pub fn look(&mut self, pulse: Option<Pulse>, now: Now) -> Option<Word> {
        let pulse = pulse?;
        let passed_ms = self.looked.map_or(0, |at| now.mono.since(at)).min(WATCHED_MS_MAX);
        self.looked = Some(now.mono);
        if self.seen != Some(pulse) {
            let first_look = self.seen.is_none();
            self.seen = Some(pulse);
            self.silent_ms = 0;
            // After a restart of the mailer the old beat is new to it, and no sign of life.
            return self.lost.filter(|lost| !first_look || pulse.at != *lost).map(|lost_at| {
                self.lost = None;
                Word::Back { lost_at, pulse }
            });
        }
        self.silent_ms += passed_ms;
        let overdue = pulse.expects.is_some_and(|due| now.wall > due);
        if overdue && self.lost.is_none() && self.silent_ms >= self.silent_after_ms {
            self.lost = Some(pulse.at);
            return Some(Word::Lost { last: pulse, silent_ms: self.silent_ms });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{Deadman, Pulse, Word};
    use crate::model::time::{MonoMillis, Now, UnixMillis};

    const WALL_MS: i64 = 1_772_000_000_000;
    const AFTER_MS: i64 = 120_000;

    fn now(ms: i64) -> Now {
        Now { wall: UnixMillis(WALL_MS + ms), mono: MonoMillis(ms) }
    }

    fn beat(ms: i64) -> Pulse {
        let at = UnixMillis(WALL_MS + ms);
        Pulse { at, pid: 7, run_id: Some(1), expects: Some(UnixMillis(at.0 + 5_000)) }
    }

    /// Looks every second from `from` to `to`, always at the beat that `pulse` gives; tells when what was said.
    fn watch(dead: &mut Deadman, from: i64, to: i64, pulse: impl Fn(i64) -> Pulse) -> Vec<(i64, Word)> {
        (from / 1_000..to / 1_000)
            .filter_map(|s| dead.look(Some(pulse(s * 1_000)), now(s * 1_000)).map(|w| (s, w)))
            .collect()
    }

    #[test]
    fn a_supervisor_that_beats_and_one_that_ended_are_left_alone() {
        let mut dead = Deadman::new(AFTER_MS, None);
        assert_eq!(dead.look(None, now(0)), None, "nobody ever beat");
        assert_eq!(watch(&mut dead, 0, 3_600_000, beat), []);
        let ended = Pulse { expects: None, ..beat(3_600_000) };
        assert_eq!(watch(&mut dead, 3_600_000, 9_000_000, |_| ended), []);
    }

    #[test]
    fn a_beat_that_stops_is_mailed_once_and_its_return_too() {
        let mut dead = Deadman::new(AFTER_MS, None);
        let said = watch(&mut dead, 0, 3_600_000, |ms| beat(ms.min(60_000)));
        assert_eq!(said, [(180, Word::Lost { last: beat(60_000), silent_ms: AFTER_MS })]);
        let said = watch(&mut dead, 3_600_000, 3_700_000, beat);
        assert_eq!(said, [(3_600, Word::Back { lost_at: UnixMillis(WALL_MS + 60_000), pulse: beat(3_600_000) })]);
    }

    #[test]
    fn a_mailer_that_starts_anew_neither_repeats_the_alarm_nor_takes_it_back() {
        let mut dead = Deadman::new(AFTER_MS, Some(beat(60_000).at));
        assert_eq!(watch(&mut dead, 1_000_000, 2_000_000, |_| beat(60_000)), []);
        assert!(matches!(watch(&mut dead, 2_000_000, 2_002_000, beat)[..], [(2_000, Word::Back { .. })]));
    }

    #[test]
    fn time_that_nobody_watched_does_not_count() {
        // Asleep for eight hours: at the resume the mailer looks before the supervisor beats.
        let mut dead = Deadman::new(AFTER_MS, None);
        assert_eq!(watch(&mut dead, 0, 60_000, beat), []);
        assert_eq!(watch(&mut dead, 28_800_000, 28_830_000, |_| beat(59_000)), []);
        // The wall clock jumps a day ahead between two beats.
        let mut dead = Deadman::new(AFTER_MS, None);
        assert_eq!(dead.look(Some(beat(0)), now(0)), None);
        assert_eq!(
            dead.look(Some(beat(0)), Now { wall: UnixMillis(WALL_MS + 86_400_000), mono: MonoMillis(1_000) }),
            None
        );
    }
}
