//! What the database must say of a run, compared with what was really done to it.

use super::{Sleep, World, ask};
use rusqlite::Connection;

impl World {
    /// What must hold of every run, whatever was done to it. `SOAKD_KEEP` names a copy of the database to look at.
    pub fn check(&self) {
        if let Some(copy) = std::env::var_os("SOAKD_KEEP") {
            std::fs::copy(self.folder.path().join("soak.db"), copy).expect("copied");
        }
        let (seed, connection) = (self.seed, self.open());
        let number = |sql: &str| ask(&connection, sql);
        let events = |kind: &str| number(&format!("SELECT count(*) FROM event WHERE kind = '{kind}'"));
        assert_eq!(
            events("worker_crash") + events("worker_oom"),
            self.truth.crashes,
            "seed {seed}: crashes are counted once"
        );
        assert_eq!(events("worker_oom"), self.truth.ooms, "seed {seed}: kills for memory are told from crashes");
        assert_eq!(events("golden_mismatch"), self.truth.mismatches, "seed {seed}: mismatches are counted once");
        assert_eq!(events("orphan_killed"), self.truth.orphans, "seed {seed}: orphans");
        assert_eq!(events("worker_hang"), self.truth.hangs, "seed {seed}: hangs are counted once");
        assert_eq!(events("run_resumed"), self.truth.supervisor_kills, "seed {seed}: resumptions");
        assert_eq!(number("SELECT count(*) FROM run"), 1, "seed {seed}: one run");
        let ended = "SELECT count(*) FROM run WHERE state <> 'running' AND verdict IS NOT NULL";
        assert_eq!(number(ended), 1, "seed {seed}: a verdict");
        let open = "SELECT count(*) FROM process WHERE ended_unix_ms IS NULL";
        assert_eq!(number(open), 0, "seed {seed}: every process has its end");
        let close = format!(
            "SELECT count(*) FROM (SELECT started_unix_ms - lag(ended_unix_ms) OVER (ORDER BY process_id) AS wait_ms,
               lag(end_reason) OVER (ORDER BY process_id) AS before FROM process WHERE role = 'worker')
             WHERE before NOT IN ('lost') AND wait_ms BETWEEN 0 AND {}",
            self.config.worker.backoff_min.as_millis() as i64 - 1
        );
        if !self.faults.clocks_jump && self.faults.sleep == Sleep::Never {
            assert_eq!(number(&close), 0, "seed {seed}: restarts keep their distance");
        }
        self.check_holes(&connection);
        self.check_clocks(&connection);
        let undecided = "SELECT count(*) FROM alert WHERE fired_unix_ms IS NOT NULL AND severity = 'page'
            AND NOT EXISTS (SELECT 1 FROM alert_decision AS d WHERE d.alert_id = alert.alert_id)";
        assert_eq!(number(undecided), 0, "seed {seed}: what fires is decided upon");
        let unmailed = "SELECT count(*) FROM alert WHERE fired_unix_ms IS NOT NULL AND severity = 'page'
            AND NOT EXISTS (SELECT 1 FROM alert_decision AS d JOIN outbox USING (outbox_id) WHERE d.alert_id = alert.alert_id)
            AND NOT EXISTS (SELECT 1 FROM alert_decision AS d WHERE d.alert_id = alert.alert_id AND d.reason LIKE 'inhibited%')";
        if !self.config.alerts.builtin {
            let told = "SELECT count(*) FROM outbox WHERE kind = 'finished'";
            assert_eq!(number(told), 1, "seed {seed}: the verdict is mailed, and once");
            assert_eq!(number(unmailed), 0, "seed {seed}: each alert that fired has a mail");
        }
        if self.truth.crashes > 0 {
            let mails = "SELECT count(*) FROM outbox WHERE kind = 'alert'";
            assert!(number(mails) > 0, "seed {seed}: crashes are mailed");
        }
    }

    /// Whatever the wall clock did: gaps are as long as they were, and what passed from start to end is what really passed.
    fn check_clocks(&self, connection: &Connection) {
        let (seed, number) = (self.seed, |sql: &str| ask(connection, sql));
        let backward = "SELECT count(*) FROM gap WHERE to_unix_ms <= from_unix_ms";
        assert_eq!(number(backward), 0, "seed {seed}: a gap ends before it begins");
        let slept = number(
            "SELECT coalesce(sum(to_unix_ms - from_unix_ms), 0) FROM gap WHERE reason IN ('suspend', 'stalled')",
        );
        let most = self.truth.slept_ms + 2_000 * self.truth.sleeps;
        assert!((self.truth.slept_ms..=most).contains(&slept), "seed {seed}: {slept} ms of {}", self.truth.slept_ms);
        let down = "SELECT count(*) FROM gap WHERE reason = 'supervisor_down'";
        assert_eq!(number(down), self.truth.supervisor_kills, "seed {seed}: each time soakd was down is a gap");
        let (ended, told_ms) = (
            number("SELECT ended_unix_ms FROM run"),
            number("SELECT CAST(round(span_hours * 3.6e6) AS INTEGER) FROM v_uptime"),
        );
        let passed: Vec<i64> = self.really((ended, ended)).map(|(_, ended)| ended - self.began).collect();
        let is_told = passed.iter().any(|passed_ms| (told_ms - passed_ms).abs() <= 10);
        assert!(is_told, "seed {seed}: {passed:?} ms passed, and {told_ms} are told");
        // A run is over when it has served its time, and a restart forgets no more of that than is not on the disk.
        let gaps_ms =
            number("SELECT coalesce(sum(to_unix_ms - from_unix_ms), 0) FROM gap WHERE reason <> 'probe_down'");
        let (asked_ms, kills) = (self.config.run.duration.as_millis() as i64, self.truth.supervisor_kills);
        let served_ms = told_ms - gaps_ms;
        let is_finished = number("SELECT count(*) FROM run WHERE state = 'finished'") == 1;
        assert!(!is_finished || served_ms >= asked_ms - 1_000, "seed {seed}: over after {served_ms} of {asked_ms} ms");
        let most_ms = asked_ms + 15_000 * (kills + 1);
        assert!(served_ms <= most_ms, "seed {seed}: over only after {served_ms} ms, {kills} restarts");
    }

    /// Times between two samples of the supervisor that are too long are gaps, all but what an interval takes anyway.
    fn check_holes(&self, connection: &Connection) {
        let rows = |sql: &str| -> Vec<(i64, i64)> {
            let mut statement = connection.prepare(sql).expect("SQL");
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("rows");
            rows.collect::<Result<_, _>>().expect("two figures each")
        };
        let (samples, gaps) = (rows(SAMPLES), rows("SELECT from_unix_ms, to_unix_ms FROM gap ORDER BY gap_id"));
        let allowed_ms = 3 * self.config.run.sample_interval.as_millis() as i64 + 10_000;
        for pair in samples.windows(2) {
            let (from, to) = (pair[0].0, pair[1].0);
            let told = |gap: &(i64, i64)| self.really(*gap).map(|(a, b)| (b.min(to) - a.max(from)).max(0)).max();
            let untold_ms = to - from - gaps.iter().filter_map(told).sum::<i64>();
            let (seed, at) = (self.seed, pair[1].1);
            assert!(
                untold_ms <= allowed_ms,
                "seed {seed}: {untold_ms} of {} ms before {at} are no gap: {gaps:?}",
                to - from
            );
        }
    }

    /// When a gap really was, by the clock that does not step: it ends where the wall clock stood then, which it may have done more
    /// than once.
    fn really(&self, (from, to): (i64, i64)) -> impl Iterator<Item = (i64, i64)> + '_ {
        let ends = self.clocks.iter().skip(1).map(|(since, _)| *since).chain([i64::MAX]);
        self.clocks.iter().zip(ends).filter_map(move |(&(since, ahead), end)| {
            (since..=end).contains(&(to - ahead)).then_some((from - ahead, to - ahead))
        })
    }
}

/// Of the supervisor: when they were really taken, and what the wall clock said.
const SAMPLES: &str = "SELECT cpu_ms, unix_ms FROM process_sample JOIN process USING (process_id) WHERE role = 'supervisor' ORDER BY cpu_ms";
