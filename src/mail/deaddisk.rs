//! When a database that cannot be written is mailed past the outbox, which is in it. Pure: whoever writes brings how it went,
//! and the time.
//!
//! One failure proves nothing: a disk that is full for a second has its reserve given up in the next, and the alert is mailed
//! as any other. What still fails after a while has nobody else to tell of it.

use crate::model::time::{MonoMillis, Now, UnixMillis};

/// From the first failed write to the mail.
const PATIENCE_MS: i64 = 10_000;

/// What is to be mailed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskWord {
    /// Nothing can be written. Said at every look, until [`DeadDisk::told`].
    Dead {
        /// Since then.
        since: UnixMillis,
    },
    /// It can, after it was told that it could not.
    Back {
        /// When that began.
        since: UnixMillis,
    },
}

/// Where the disk stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeadDisk {
    since: Option<Now>,
    told: bool,
    attempts: u32,
    not_before: Option<MonoMillis>,
}

impl DeadDisk {
    /// After a write, or after an attempt at one.
    pub fn look(&mut self, written: bool, now: Now) -> Option<DiskWord> {
        if written {
            let was = std::mem::take(self);
            return was.since.filter(|_| was.told).map(|since| DiskWord::Back { since: since.wall });
        }
        let since = *self.since.get_or_insert(now);
        let is_due = now.mono.since(since.mono) >= PATIENCE_MS && self.not_before.is_none_or(|at| now.mono >= at);
        (is_due && !self.told).then_some(DiskWord::Dead { since: since.wall })
    }

    /// The mail has left, or nobody will ever take it.
    pub fn told(&mut self) {
        self.told = true;
    }

    /// It has not: how often that was so, for the wait until the next attempt.
    pub fn failed(&mut self) -> u32 {
        self.attempts += 1;
        self.attempts
    }

    /// The next attempt comes then.
    pub fn wait_until(&mut self, at: MonoMillis) {
        self.not_before = Some(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(ms: i64) -> Now {
        Now { wall: UnixMillis(1_772_000_000_000 + ms), mono: MonoMillis(ms) }
    }

    #[test]
    fn a_disk_that_is_full_for_a_moment_is_not_worth_a_mail() {
        let mut disk = DeadDisk::default();
        assert_eq!(disk.look(false, now(0)), None);
        assert_eq!(disk.look(false, now(5_000)), None);
        assert_eq!(disk.look(true, now(9_000)), None, "nor is its end");
        assert_eq!(disk.look(false, now(12_000)), None, "and it counts anew");
    }

    #[test]
    fn a_dead_disk_is_told_until_the_mail_has_left_and_its_end_once() {
        let mut disk = DeadDisk::default();
        let since = now(0).wall;
        assert_eq!(disk.look(false, now(0)), None);
        assert_eq!(disk.look(false, now(10_000)), Some(DiskWord::Dead { since }));
        assert_eq!(disk.failed(), 1);
        disk.wait_until(MonoMillis(20_000));
        assert_eq!(disk.look(false, now(15_000)), None, "the server is down, too: not at every look");
        assert_eq!(disk.look(false, now(20_000)), Some(DiskWord::Dead { since }));
        disk.told();
        assert_eq!(disk.look(false, now(3_600_000)), None, "once");
        assert_eq!(disk.look(true, now(3_700_000)), Some(DiskWord::Back { since }));
        assert_eq!(disk.look(true, now(3_710_000)), None);
    }
}
