//! The roles inside a target: a row and a series for each name at each depth of its tree, as long as there are not too many.
//!
//! A role's life ends when another process is in it (a worker of a pool that was replaced, a program that began another), and
//! its series goes on as a new segment. The probe says who is there; what a vanished process means is decided here.

use super::core::{Core, millis};
use super::event::{EndOf, Life};
use super::ledger::Entry;
use super::watch::Whose;
use crate::model::event::{EventKind, EventSeverity};
use crate::model::process::{EndReason, NewProcess, ProcessEnd};
use crate::model::sample::{ProcessReading, Role};
use crate::model::time::{MonoMillis, Now};
use crate::probe::protocol::RoleAnswer;
use std::collections::BTreeMap;

/// Roles that get a series. A server has a front, an engine and a few workers; each series costs a detector.
pub const ROLES_MAX: usize = 8;
/// Lives of one role in a run. A pool that replaces its members more often than this is one population, and is followed as
/// one from then on.
const LIVES_MAX: u32 = 200;
/// Who is not seen for so long is gone; when its whole tree is gone by then, that is told instead.
const GONE_MS: i64 = 3_000;
/// A rise of the kernel's count of OOM kills this long before somebody vanished explains it.
const OOM_MS: i64 = 10_000;

/// What is known of one role.
#[derive(Debug, Clone)]
struct Known {
    ordinal: u32,
    lives: u32,
    present: Option<Present>,
}

/// Its present life.
#[derive(Debug, Clone)]
struct Present {
    life: Life,
    roster: u64,
    pid: i32,
    processes: u32,
    began: MonoMillis,
    seen: MonoMillis,
    last: ProcessReading,
}

/// How somebody left a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gone {
    /// It did not: the process is in another role now, or others joined it.
    Renamed,
    /// Killed by the kernel for memory.
    Oom,
    /// Nobody can tell how.
    Somehow,
}

/// All roles of the target.
#[derive(Debug, Clone, Default)]
pub struct Roles {
    known: BTreeMap<String, Known>,
    oom: Option<Oom>,
}

/// Kills of the kernel's that nobody has been found for yet.
#[derive(Debug, Clone, Copy)]
struct Oom {
    rose: MonoMillis,
    kills: i64,
}

impl Oom {
    fn explains(&self, now: MonoMillis) -> bool {
        self.kills > 0 && now.since(self.rose) <= OOM_MS
    }
}

impl Roles {
    /// Those that an earlier supervisor has named: ordinal, name and lives so far.
    #[must_use]
    pub fn known_before(rows: Vec<(u32, String, u32)>) -> Roles {
        let known = rows.into_iter().map(|(ordinal, name, lives)| (name, Known { ordinal, lives, present: None }));
        Roles { known: known.collect(), oom: None }
    }

    /// The kernel has killed for memory, so many times.
    pub fn oom(&mut self, now: MonoMillis, kills: i64) {
        self.oom = Some(Oom { rose: now, kills });
    }

    /// Whom the kernel killed: of all that are missing the largest, as it chooses too.
    fn victim(&self, now: MonoMillis) -> Option<String> {
        self.oom.filter(|oom| oom.explains(now))?;
        let missing = self.known.iter().filter_map(|(name, known)| {
            let present = known.present.as_ref().filter(|present| present.seen < now)?;
            Some((present.last.rss_anon_bytes, name))
        });
        missing.max().map(|(_, name)| name.clone())
    }

    /// One of the kernel's kills is explained; false: there was none of late.
    fn take_kill(&mut self, now: MonoMillis) -> bool {
        let Some(oom) = self.oom.as_mut().filter(|oom| oom.explains(now)) else { return false };
        oom.kills -= 1;
        true
    }

    /// Each ordinal's name.
    pub fn names(&self) -> impl Iterator<Item = (u32, &str)> {
        self.known.iter().map(|(name, known)| (known.ordinal, name.as_str()))
    }
}

impl Core {
    /// What the probe saw of the target's tree. A tree of one role is that role, and needs no second series.
    pub(super) fn take_roles(&mut self, answers: &[RoleAnswer], requests: Option<f64>, now: Now) {
        if answers.len() < 2 && self.roles.known.values().all(|known| known.present.is_none()) {
            return;
        }
        for answer in answers {
            self.take_role(answer, requests, now);
        }
        let victim = self.roles.victim(now.mono);
        let gone: Vec<String> =
            self.roles.known.iter().filter(|(_, k)| is_gone(k, now.mono)).map(|(n, _)| n.clone()).collect();
        for name in gone {
            let was = self.roles.known.get_mut(&name).and_then(|known| known.present.take());
            let Some(was) = was else { continue };
            // Who goes on under another name has begun another program.
            let how = if answers.iter().any(|answer| answer.pid == was.pid) {
                Gone::Renamed
            } else if victim.as_ref() == Some(&name) && self.roles.take_kill(now.mono) {
                Gone::Oom
            } else {
                Gone::Somehow
            };
            self.close_role(&name, &was, how, now);
        }
    }

    fn take_role(&mut self, answer: &RoleAnswer, requests: Option<f64>, now: Now) {
        if !self.roles.known.contains_key(&answer.name) {
            if self.roles.known.len() >= ROLES_MAX {
                return;
            }
            let ordinal = self.roles.known.len() as u32;
            self.watch.name_role(ordinal, &answer.name);
            self.roles.known.insert(answer.name.clone(), Known { ordinal, lives: 0, present: None });
        }
        let Some(known) = self.roles.known.get(&answer.name) else { return };
        let changed = known.present.as_ref().is_none_or(|present| present.roster != answer.roster);
        if changed && (known.lives < LIVES_MAX || known.present.is_none()) {
            self.begin_role(answer, now);
        }
        let Some(known) = self.roles.known.get_mut(&answer.name) else { return };
        let (ordinal, segment) = (known.ordinal, known.lives);
        let Some(present) = &mut known.present else { return };
        present.seen = now.mono;
        present.last = answer.reading;
        present.processes = answer.processes;
        let life = present.life;
        let whose = Whose { role: Role::TargetChild, ordinal, segment, requests };
        if now.mono.since(present.began) >= millis(self.config.target.warm_up) {
            self.watch.process(whose, now.wall, &answer.reading);
        }
        self.ledger.sample_process(life, now, answer.reading);
    }

    fn begin_role(&mut self, answer: &RoleAnswer, now: Now) {
        let was = self.roles.known.get_mut(&answer.name).and_then(|known| known.present.take());
        let fewer = was.as_ref().is_some_and(|was| answer.processes <= was.processes);
        if let Some(was) = was {
            // One that joined has replaced nobody. Of several alike, the one that is missing may be whom the kernel chose.
            let killed = fewer && self.roles.victim(now.mono).is_none_or(|victim| victim == answer.name);
            let how = match fewer {
                true if killed && self.roles.take_kill(now.mono) => Gone::Oom,
                true => Gone::Somehow,
                false => Gone::Renamed,
            };
            self.close_role(&answer.name, &was, how, now);
        }
        let life = self.next_life();
        let Some(known) = self.roles.known.get_mut(&answer.name) else { return };
        known.lives += 1;
        known.present = Some(Present {
            life,
            roster: answer.roster,
            pid: answer.pid,
            processes: answer.processes,
            began: now.mono,
            seen: now.mono,
            last: answer.reading,
        });
        let process = NewProcess {
            run_id: self.ledger.run_id(),
            role: Role::TargetChild,
            ordinal: known.ordinal,
            pid: i64::from(answer.pid),
            name: Some(answer.name.clone()),
            started: now.wall,
        };
        self.ledger.put(Entry::Started { life, process });
        self.ledger.flush(now); // its first sample needs the row
    }

    /// Ends a role's row, and tells of it where somebody is gone while the rest of the tree lives on.
    fn close_role(&mut self, name: &str, was: &Present, how: Gone, now: Now) {
        let reason = if how == Gone::Oom { EndReason::Oom } else { EndReason::Unknown };
        self.put_end(was, reason, now);
        let (kind, severity, how) = match how {
            Gone::Renamed => return,
            Gone::Oom => (EventKind::WorkerOom, EventSeverity::Error, "was killed by the kernel for memory"),
            Gone::Somehow => (EventKind::ProcessEnded, EventSeverity::Warning, "is gone"),
        };
        self.counts.add(kind);
        let summary = format!("a process of the target ({name}, pid {}) {how}; the rest of it lives on", was.pid);
        tracing::warn!("{summary}");
        let detail = serde_json::json!({ "name": name, "pid": was.pid, "end_reason": reason.as_str() });
        self.ledger.note_of(Some(was.life), now.wall, kind, severity, summary, detail);
    }

    /// The whole target has ended, or the run has: that is told elsewhere.
    pub(super) fn end_roles(&mut self, now: Now) {
        let present: Vec<Present> = self.roles.known.values_mut().filter_map(|known| known.present.take()).collect();
        for was in present {
            self.put_end(&was, EndReason::Unknown, now);
        }
    }

    fn put_end(&mut self, was: &Present, reason: EndReason, now: Now) {
        let last = was.last;
        let end = ProcessEnd {
            process_id: 0,
            at: now.wall,
            reason,
            exit_code: None,
            exit_signal: None,
            stderr_tail: None,
            heartbeat: Some(now.wall),
            rss_bytes: last.rss_bytes,
            anon_swap_bytes: last.rss_anon_bytes.map(|anon| anon + last.swap_bytes.unwrap_or(0)),
            vram_bytes: last.vram_bytes,
        };
        self.ledger.put(Entry::Ended(EndOf { life: was.life, end }));
    }
}

fn is_gone(known: &Known, now: MonoMillis) -> bool {
    known.present.as_ref().is_some_and(|present| now.since(present.seen) > GONE_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(ordinal: u32, seen_ms: i64, anon: i64) -> Known {
        let last = ProcessReading { rss_anon_bytes: Some(anon), ..ProcessReading::default() };
        let (began, seen) = (MonoMillis(0), MonoMillis(seen_ms));
        let present = Present { life: Life(1), roster: 1, pid: 7, processes: 1, began, seen, last };
        Known { ordinal, lives: 1, present: Some(present) }
    }

    #[test]
    fn the_kernels_victim_is_the_largest_of_those_that_are_missing() {
        let mut roles = Roles::default();
        roles.known.insert("front".into(), known(0, 10_000, 900));
        roles.known.insert("engine/1".into(), known(1, 8_000, 500));
        roles.known.insert("helper/2".into(), known(2, 7_000, 10));
        let now = MonoMillis(10_000);
        assert_eq!(roles.victim(now), None, "the kernel has killed nobody");
        roles.oom(MonoMillis(9_000), 1);
        assert_eq!(roles.victim(now).as_deref(), Some("engine/1"), "the front is larger, and there");
        assert!(roles.take_kill(now));
        assert_eq!(roles.victim(now), None, "one kill has one victim");
        roles.oom(MonoMillis(9_000), 1);
        assert_eq!(roles.victim(MonoMillis(9_000 + OOM_MS + 1)), None, "that was long ago");
    }

    #[test]
    fn who_is_not_seen_for_a_moment_is_not_gone() {
        let one = known(0, 5_000, 1);
        assert!(!is_gone(&one, MonoMillis(5_000 + GONE_MS)) && is_gone(&one, MonoMillis(5_001 + GONE_MS)));
    }
}
