//! What the database must say of a run, compared with what was really done to it.

use super::{World, ask};
use std::time::Duration;

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
        if !self.faults.clocks_jump && !self.faults.host_sleeps {
            assert_eq!(number(&close), 0, "seed {seed}: restarts keep their distance");
        }
        // In a run of minutes a step of an hour puts all of it out of order; the longer ones step, too, and are checked.
        let brief = self.config.run.duration < Duration::from_secs(600);
        let stepped = brief && number("SELECT count(*) FROM event WHERE kind = 'clock_step'") > 0;
        assert_eq!(
            if stepped { 0 } else { number(&self.untold_holes()) },
            0,
            "seed {seed}: a hole that no gap tells of"
        );
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

    /// Times between two samples of the supervisor that are too long and in no gap. Steps of the wall clock make holes
    /// of their own, and are told as such.
    fn untold_holes(&self) -> String {
        let allowed_ms = 3 * self.config.run.sample_interval.as_millis() as i64 + 10_000;
        format!(
            "SELECT count(*) FROM (
               SELECT unix_ms AS until, unix_ms - lag(unix_ms) OVER (ORDER BY unix_ms) AS hole_ms
               FROM process_sample JOIN process USING (process_id) WHERE role = 'supervisor')
             WHERE hole_ms > {allowed_ms}
               AND NOT EXISTS (SELECT 1 FROM gap WHERE from_unix_ms <= until AND to_unix_ms >= until - hole_ms)
               AND NOT EXISTS (SELECT 1 FROM event WHERE kind = 'clock_step'
                               AND unix_ms BETWEEN until - hole_ms - 60000 AND until + 60000)"
        )
    }
}
