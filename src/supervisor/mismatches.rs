//! Golden mismatches, told without a flood: a lasting bit flip makes hundreds a second. A life's first ones are an event each,
//! afterwards one event a minute tells of all that came since. Counted are all of them.

use super::children::Child;
use super::core::Core;
use super::event::{ChildId, Life};
use crate::model::event::{EventKind, EventSeverity};
use crate::model::time::{MonoMillis, Now};
use crate::worker::protocol::Mismatch;

/// Mismatches of one life that are an event each: enough to see whether a prompt, a stream or a token is at fault.
const SINGLE_MAX: u32 = 10;
/// After those, between two events.
const SUM_UP_MS: i64 = 60_000;

/// What came of one life.
#[derive(Debug, Default)]
pub struct Mismatches {
    /// Told by an event each.
    single: u32,
    /// Not told yet.
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    since: MonoMillis,
    count: i64,
    /// The last one; the last one of another token, if there was any.
    last: Mismatch,
}

impl Mismatches {
    /// Gives the mismatch back if it is to be told by itself.
    fn take(&mut self, found: Mismatch, now: MonoMillis) -> Option<Mismatch> {
        if self.single < SINGLE_MAX {
            self.single += 1;
            return Some(found);
        }
        match &mut self.waiting {
            Some(waiting) => {
                waiting.count += 1;
                if found.at_token.is_some() || waiting.last.at_token.is_none() {
                    waiting.last = found;
                }
            }
            None => self.waiting = Some(Waiting { since: now, count: 1, last: found }),
        }
        None
    }

    /// How many wait, and the last of them, if it is time to tell or the life `is_over`.
    fn due(&mut self, now: MonoMillis, is_over: bool) -> Option<(i64, Mismatch)> {
        self.waiting
            .take_if(|waiting| is_over || now.since(waiting.since) >= SUM_UP_MS)
            .map(|waiting| (waiting.count, waiting.last))
    }
}

impl Core {
    pub(super) fn take_mismatch(&mut self, id: ChildId, life: Life, found: Mismatch, now: Now) {
        self.counts.add(EventKind::GoldenMismatch);
        let Some(child) = self.find(id, life) else { return };
        if let Some(found) = child.mismatches.take(found, now.mono) {
            let told = format!("prompt {} gave another output than in the first loop", found.prompt);
            self.tell_mismatch(id, life, &told, 1, &found, now);
        }
    }

    /// Of all children whose minute is over, or all that wait.
    pub(super) fn sum_up_mismatches(&mut self, is_over: impl Fn(&Child) -> bool, now: Now) {
        let due = |child: &mut Child| {
            let (is_over, life) = (is_over(child), child.life?);
            Some((child.id, life, child.mismatches.due(now.mono, is_over)?))
        };
        let all: Vec<_> = self.children.iter_mut().filter_map(due).collect();
        for (id, life, (count, last)) in all {
            let told = format!(
                "{count} more outputs differed from those of the first loop; the last one, of prompt {}",
                last.prompt
            );
            self.tell_mismatch(id, life, &told, count, &last, now);
        }
    }

    fn tell_mismatch(&mut self, id: ChildId, life: Life, told: &str, count: i64, last: &Mismatch, now: Now) {
        let summary = format!("{id}: {told} ({})", last.difference());
        let mut detail = serde_json::to_value(last).unwrap_or_default();
        detail["count"] = count.into();
        self.tell_of_worker(life, now, EventKind::GoldenMismatch, EventSeverity::Error, summary, detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_ten_events_and_one_a_minute_and_none_is_lost() {
        let found = |at_token| Mismatch {
            prompt: 1,
            stream: 0,
            at_loop: 2,
            at_token,
            expected: None,
            got: None,
            expected_hash: 1,
            got_hash: 2,
        };
        let (mut mismatches, mut told, mut events) = (Mismatches::default(), 0, 0);
        for n in 0..60_000 {
            let now = MonoMillis(n * 2); // two minutes
            let single = mismatches.take(found((n == 400).then_some(3)), now).map(|_| 1);
            let summed = mismatches.due(now, false).map(|(count, last)| {
                assert_eq!(last.at_token.is_some(), n < 40_000, "another token is what matters");
                count
            });
            for count in [single, summed].into_iter().flatten() {
                told += count;
                events += 1;
            }
        }
        told += mismatches.due(MonoMillis(120_000), true).expect("what is left at its end").0;
        assert_eq!((told, events), (60_000, 11));
        assert!(mismatches.due(MonoMillis(900_000), true).is_none(), "told once");
    }
}
