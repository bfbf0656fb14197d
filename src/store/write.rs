//! Typed writes inside one transaction at `synchronous=FULL`: runs, processes, devices, events, gaps, golden outputs,
//! series, findings, latencies, heartbeats. Leaves samples to `samples` and mails to `outbox`.

use super::error::StoreError;
use super::{Store, minute_of, samples};
use crate::model::event::{Event, EventKind, EventSeverity};
use crate::model::finding::Finding;
use crate::model::process::{Golden, NewDevice, NewProcess, ProcessEnd, ProcessRow};
use crate::model::run::{Absence, RunEnd, RunPlan, UnfinishedRun};
use crate::model::sample::{LatencyInterval, Role};
use crate::model::series::SeriesKey;
use crate::model::time::{MonoMillis, UnixMillis};
use rusqlite::{OptionalExtension, Params, Transaction, params};
use std::path::Path;

/// A step of the wall clock is told this much later at most: beyond that, a late tick is a gap.
const STEP_UNTOLD_MS: i64 = 6_000;

/// What a transaction can write. Obtained from [`Store::record`].
#[derive(Debug)]
pub struct Writing<'a> {
    path: &'a Path,
    transaction: &'a Transaction<'a>,
}

impl<'a> Writing<'a> {
    pub(super) fn new(path: &'a Path, transaction: &'a Transaction<'a>) -> Self {
        Writing { path, transaction }
    }

    /// One statement; gives the number of rows changed.
    pub(super) fn execute(&self, sql: &str, params: impl Params) -> Result<usize, StoreError> {
        self.transaction
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(params))
            .map_err(|error| self.error(&error))
    }

    /// One row, if there is one.
    pub(super) fn row<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        self.transaction
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row(params, read).optional())
            .map_err(|error| self.error(&error))
    }

    pub(super) fn error(&self, error: &rusqlite::Error) -> StoreError {
        StoreError::from_sqlite(self.path, error)
    }

    pub(super) fn last_row(&self) -> i64 {
        self.transaction.last_insert_rowid()
    }

    fn must_change(&self, changed: usize, what: impl Fn() -> String) -> Result<(), StoreError> {
        if changed > 0 {
            return Ok(());
        }
        Err(self.missing(what()))
    }

    pub(super) fn missing(&self, what: String) -> StoreError {
        StoreError::NoRow { path: self.path.to_path_buf(), what }
    }

    /// A new run, with its `run_started` event. Gives the run's row.
    pub fn start_run(&self, plan: &RunPlan) -> Result<i64, StoreError> {
        self.execute(
            "INSERT INTO run (state, started_unix_ms, duration_ms, horizon_ms, tolerance_bytes, backend, model, variant,
               streams, scenario, seed, host, facts, config, soakd_version)
             VALUES ('running', ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
            params![
                plan.started.0,
                plan.duration_ms,
                plan.horizon_ms,
                plan.tolerance_bytes,
                plan.backend,
                plan.model,
                plan.variant,
                plan.streams,
                plan.scenario,
                plan.seed,
                plan.host,
                plan.facts.to_string(),
                plan.config_toml,
                env!("CARGO_PKG_VERSION"),
            ],
        )?;
        let run_id = self.last_row();
        let summary =
            format!("run {run_id} started on {}: {} ({}, {})", plan.host, plan.model, plan.variant, plan.backend);
        self.event(run_id, &note(plan.started, EventKind::RunStarted, summary))?;
        Ok(run_id)
    }

    /// Takes up an unfinished run: what was still open is closed as lost, and the time since it was last seen is a gap. A
    /// supervisor that was killed before it had written a sample has watched nothing, whatever else it has said: the gap then
    /// goes on from where the last one ended.
    pub fn resume(&self, run: &UnfinishedRun, at: UnixMillis, absence: Absence, boot: &str) -> Result<(), StoreError> {
        self.close_processes(run.run_id, run.last_seen)?;
        let watched_until = self.row(
            "SELECT max(at) FROM (
               SELECT max((SELECT max(unix_ms) FROM process_sample AS s WHERE s.process_id = p.process_id)) AS at
                 FROM process AS p WHERE p.run_id = ?1
               UNION ALL SELECT max(unix_ms) FROM host_sample WHERE run_id = ?1
               UNION ALL SELECT max(to_unix_ms) FROM gap WHERE run_id = ?1)",
            [run.run_id],
            |row| row.get::<_, Option<i64>>(0),
        )?;
        // Never later than it was seen: the wall clock may have been stepped back since the newest row.
        let from = watched_until.flatten().map_or(Ok(run.last_seen), |at| {
            self.as_clock_was_last(run.run_id, UnixMillis(at)).map(|at| run.last_seen.min(at))
        })?;
        if run.stepped_ms != 0 {
            let summary =
                format!("the wall clock was stepped by {:+.1} s while soakd was down", run.stepped_ms as f64 / 1e3);
            let detail = serde_json::json!({ "by_ms": run.stepped_ms });
            self.event(run.run_id, &Event { detail, ..note(at, EventKind::ClockStep, summary) })?;
        }
        // As the clock reads now, so that the gap is as long as it was.
        let now = |then: UnixMillis| then.before(-run.stepped_ms);
        self.gap(run.run_id, now(from), at, absence.as_str())?;
        let minutes = (at.0 - now(run.last_seen).0).max(0) as f64 / 60_000.0;
        let why = absence.in_words();
        let summary = format!("run {} resumed after {minutes:.1} min in which nothing was watched: {why}", run.run_id);
        let detail = serde_json::json!({ "boot_id": boot, "why": why });
        self.event(run.run_id, &Event { detail, ..note(at, EventKind::RunResumed, summary) })?;
        Ok(())
    }

    /// A moment of the newest row, by the wall clock as it was after all steps on record: those that came after that row are added.
    /// A step is told by the tick after it; a row of just before that has the clock as it was stepped already.
    fn as_clock_was_last(&self, run_id: i64, at: UnixMillis) -> Result<UnixMillis, StoreError> {
        let sql =
            "SELECT unix_ms, coalesce(detail ->> '$.by_ms', 0) FROM event WHERE run_id = ?1 AND kind = 'clock_step'
                   ORDER BY event_id DESC";
        let read = |statement: &mut rusqlite::CachedStatement<'_>| -> rusqlite::Result<UnixMillis> {
            let mut now = at;
            for step in statement.query_map([run_id], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))? {
                let (told, by_ms) = step?;
                if at.0 >= told - STEP_UNTOLD_MS {
                    break;
                }
                now = now.before(-by_ms);
            }
            Ok(now)
        };
        self.transaction.prepare_cached(sql).and_then(|mut s| read(&mut s)).map_err(|error| self.error(&error))
    }

    /// Processes whose end nobody wrote ended when the run was last seen.
    pub fn close_processes(&self, run_id: i64, last_seen: UnixMillis) -> Result<(), StoreError> {
        self.execute(
            "UPDATE process SET ended_unix_ms = ?2, end_reason = 'lost', heartbeat_unix_ms = coalesce(heartbeat_unix_ms, ?2)
             WHERE run_id = ?1 AND ended_unix_ms IS NULL",
            params![run_id, last_seen.0],
        )?;
        Ok(())
    }

    /// The end of a run, with its event.
    pub fn finish_run(&self, run_id: i64, end: &RunEnd) -> Result<(), StoreError> {
        let changed = self.execute(
            "UPDATE run SET state = ?2, ended_unix_ms = ?3, verdict = ?4, verdict_reason = ?5 WHERE run_id = ?1",
            params![run_id, end.state.as_str(), end.at.0, end.verdict.as_str(), end.reason],
        )?;
        self.must_change(changed, || format!("run {run_id}"))?;
        let kind = match end.state {
            crate::model::run::RunState::Finished => EventKind::RunFinished,
            _ => EventKind::RunInterrupted,
        };
        let summary = format!("run {run_id} {}: {} ({})", end.state.as_str(), end.verdict.as_str(), end.reason);
        self.event(run_id, &note(end.at, kind, summary))?;
        Ok(())
    }

    /// A process that was started; its incarnation is counted here.
    pub fn start_process(&self, new: &NewProcess) -> Result<ProcessRow, StoreError> {
        let lives: Option<i64> = self
            .row(
                "SELECT max(incarnation) FROM process WHERE run_id = ?1 AND role = ?2 AND ordinal = ?3",
                params![new.run_id, new.role.as_str(), new.ordinal],
                |row| row.get(0),
            )?
            .flatten();
        let incarnation = lives.unwrap_or(0) + 1;
        self.execute(
            "INSERT INTO process (run_id, role, ordinal, incarnation, pid, name, started_unix_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![new.run_id, new.role.as_str(), new.ordinal, incarnation, new.pid, new.name, new.started.0],
        )?;
        Ok(ProcessRow { process_id: self.last_row(), incarnation })
    }

    /// The end of a process, and its minutes as far as its samples are written. Its event is the caller's, in the same transaction.
    pub fn end_process(&self, end: &ProcessEnd) -> Result<(), StoreError> {
        let changed = self.execute(
            "UPDATE process SET ended_unix_ms = ?2, end_reason = ?3, exit_code = ?4, exit_signal = ?5, stderr_tail = ?6,
               heartbeat_unix_ms = ?7, rss_bytes_at_end = ?8, anon_swap_bytes_at_end = ?9, vram_bytes_at_end = ?10
             WHERE process_id = ?1",
            params![
                end.process_id,
                end.at.0,
                end.reason.as_str(),
                end.exit_code,
                end.exit_signal,
                end.stderr_tail,
                end.heartbeat.map(|at| at.0),
                end.rss_bytes,
                end.anon_swap_bytes,
                end.vram_bytes,
            ],
        )?;
        self.must_change(changed, || format!("process {}", end.process_id))?;
        samples::roll_up_process(self, end.process_id)
    }

    /// A GPU of this run; the same UUID again gives the same row.
    pub fn start_device(&self, new: &NewDevice) -> Result<i64, StoreError> {
        self.execute(
            "INSERT INTO device (run_id, ordinal, uuid, name, driver, pci_bus_id, vram_total_bytes)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (run_id, uuid) DO UPDATE SET ordinal = excluded.ordinal, driver = excluded.driver",
            params![new.run_id, new.ordinal, new.uuid, new.name, new.driver, new.pci_bus_id, new.vram_total_bytes],
        )?;
        let row = self.row(
            "SELECT device_id FROM device WHERE run_id = ?1 AND uuid = ?2",
            params![new.run_id, new.uuid],
            |row| row.get(0),
        )?;
        row.ok_or_else(|| self.missing(format!("device {}", new.uuid)))
    }

    /// An event; gives its row.
    pub fn event(&self, run_id: i64, event: &Event) -> Result<i64, StoreError> {
        self.execute(
            "INSERT INTO event (run_id, unix_ms, kind, severity, process_id, device_id, summary, detail)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                run_id,
                event.at.0,
                event.kind.as_str(),
                severity(event.severity),
                event.process_id,
                event.device_id,
                event.summary,
                event.detail.to_string(),
            ],
        )?;
        Ok(self.last_row())
    }

    /// Time in which nothing was watched. An empty or backward interval writes nothing.
    pub fn gap(&self, run_id: i64, from: UnixMillis, to: UnixMillis, reason: &str) -> Result<(), StoreError> {
        if to <= from {
            return Ok(());
        }
        self.execute(
            "INSERT INTO gap (run_id, from_unix_ms, to_unix_ms, reason) VALUES (?1, ?2, ?3, ?4)",
            params![run_id, from.0, to.0, reason],
        )?;
        Ok(())
    }

    /// A golden output. The first one stays: a second for the same prompt changes nothing.
    pub fn put_golden(&self, run_id: i64, golden: &Golden, at: UnixMillis) -> Result<(), StoreError> {
        let tokens: Vec<u8> = golden.tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        self.execute(
            "INSERT INTO golden (run_id, backend, prompt, tokens, hash, unix_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT DO NOTHING",
            params![run_id, golden.backend, golden.prompt, tokens, golden.hash.cast_signed(), at.0],
        )?;
        Ok(())
    }

    /// The row of a series, made if it is new. `judged`: it counts towards the run's verdict.
    pub fn series(&self, run_id: i64, key: &SeriesKey, judged: bool) -> Result<i64, StoreError> {
        let name = key.to_string();
        self.execute(
            "INSERT INTO series (run_id, name, kind, role, ordinal, judged) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (run_id, name) DO UPDATE SET judged = excluded.judged",
            params![run_id, name, key.kind.as_str(), key.role.map(Role::as_str), key.ordinal, judged],
        )?;
        let row =
            self.row("SELECT series_id FROM series WHERE run_id = ?1 AND name = ?2", params![run_id, name], |row| {
                row.get(0)
            })?;
        row.ok_or_else(|| self.missing(format!("series {name}")))
    }

    /// What the analysis said of a series. `is_final`: with the run's verdict.
    pub fn finding(&self, series_id: i64, at: UnixMillis, is_final: bool, finding: &Finding) -> Result<(), StoreError> {
        let millis = |unix_s: f64| whole(unix_s * 1_000.0);
        self.execute(
            "INSERT INTO finding (series_id, unix_ms, is_final, verdict, shape, drift_bytes, drift_lo_bytes, drift_hi_bytes,
               slope_bytes_per_hour, slope_bytes_per_request, minimum_detectable_drift_bytes, samples, span_s,
               crossing_from_unix_ms, crossing_to_unix_ms, asymptote_bytes, alarmed, first_alarm_unix_ms,
               load_swing_bytes, day_swing_bytes, onset_unix_ms, steps, stepped_bytes, moved_bytes, largest_step_bytes, largest_step_unix_ms, unsettled_bytes)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23,
               ?24, ?25, ?26, ?27)",
            params![
                series_id,
                at.0,
                is_final,
                finding.verdict.as_str(),
                finding.shape.as_str(),
                whole(finding.drift_bytes),
                whole(finding.drift_ci95_bytes[0]),
                whole(finding.drift_ci95_bytes[1]),
                finite(finding.slope_bytes_per_hour),
                finding.slope_bytes_per_request.map(finite),
                whole(finding.minimum_detectable_drift_bytes),
                finding.samples.cast_signed(),
                finite(finding.span_s),
                finding.crossing_unix_s.map(|crossing| millis(crossing[0])),
                finding.crossing_unix_s.map(|crossing| millis(crossing[1])),
                finding.asymptote_bytes.map(whole),
                finding.alarmed,
                finding.first_alarm_unix_s.map(millis),
                finding.load_swing_bytes.map(whole),
                finding.day_swing_bytes.map(whole),
                finding.onset_unix_s.map(millis),
                finding.steps.map(|steps| steps.count),
                finding.steps.map(|steps| whole(steps.sum_bytes)),
                finding.steps.map(|steps| whole(steps.moved_bytes)),
                finding.steps.map(|steps| whole(steps.largest_bytes)),
                finding.steps.map(|steps| millis(steps.largest_unix_s)),
                finding.unsettled_bytes.map(whole),
            ],
        )?;
        Ok(())
    }

    /// Latencies of an interval; the same interval again replaces them.
    pub fn latency(&self, interval: &LatencyInterval) -> Result<(), StoreError> {
        self.execute(
            "INSERT OR REPLACE INTO latency (process_id, unix_ms, interval_ms, kind, count, p50_us, p95_us, p99_us, max_us,
               histogram) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            params![
                interval.process_id,
                interval.from.0,
                interval.interval_ms,
                interval.kind.as_str(),
                interval.count,
                interval.p50_us,
                interval.p95_us,
                interval.p99_us,
                interval.max_us,
                interval.histogram,
            ],
        )?;
        Ok(())
    }

    /// Signs of life of `role` (`supervisor`, `mailer`). `expects`: the next is due by then; `None` after a clean end.
    pub fn heartbeat(
        &self,
        role: &str,
        at: UnixMillis,
        run_id: Option<i64>,
        expects: Option<UnixMillis>,
    ) -> Result<(), StoreError> {
        self.execute(
            "INSERT INTO heartbeat (role, unix_ms, pid, run_id, expects_unix_ms) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (role) DO UPDATE SET unix_ms = excluded.unix_ms, pid = excluded.pid, run_id = excluded.run_id,
               expects_unix_ms = excluded.expects_unix_ms, boot = NULL, mono_ms = NULL",
            params![role, at.0, std::process::id(), run_id, expects.map(|at| at.0)],
        )?;
        Ok(())
    }

    /// What the other clock said at the beat that was just written, and since which boot it counts.
    pub fn heartbeat_clock(&self, role: &str, boot: &str, mono: MonoMillis) -> Result<(), StoreError> {
        self.execute("UPDATE heartbeat SET boot = ?2, mono_ms = ?3 WHERE role = ?1", params![role, boot, mono.0])?;
        Ok(())
    }
}

/// Each of these is one transaction of its own at `FULL`. To write several things together, use [`Store::record`].
impl Store {
    /// See [`Writing::start_run`].
    pub fn start_run(&mut self, plan: &RunPlan) -> Result<i64, StoreError> {
        self.record(|to| to.start_run(plan))
    }

    /// See [`Writing::resume`].
    pub fn resume(
        &mut self,
        run: &UnfinishedRun,
        at: UnixMillis,
        absence: Absence,
        boot: &str,
    ) -> Result<(), StoreError> {
        self.record(|to| to.resume(run, at, absence, boot))
    }

    /// See [`Writing::close_processes`].
    pub fn close_processes(&mut self, run: &UnfinishedRun) -> Result<(), StoreError> {
        self.record(|to| to.close_processes(run.run_id, run.last_seen))
    }

    /// See [`Writing::finish_run`]. Also rolls up the last, incomplete minute.
    pub fn finish_run(&mut self, run_id: i64, end: &RunEnd) -> Result<(), StoreError> {
        let upto = minute_of(end.at) + 60_000;
        self.record(|to| {
            samples::roll_up_run(to, run_id, upto)?;
            to.finish_run(run_id, end)
        })
    }

    /// See [`Writing::start_process`].
    pub fn start_process(&mut self, new: &NewProcess) -> Result<ProcessRow, StoreError> {
        self.record(|to| to.start_process(new))
    }

    /// See [`Writing::end_process`].
    pub fn end_process(&mut self, end: &ProcessEnd) -> Result<(), StoreError> {
        self.record(|to| to.end_process(end))
    }

    /// See [`Writing::start_device`].
    pub fn start_device(&mut self, new: &NewDevice) -> Result<i64, StoreError> {
        self.record(|to| to.start_device(new))
    }

    /// See [`Writing::event`].
    pub fn event(&mut self, run_id: i64, event: &Event) -> Result<i64, StoreError> {
        self.record(|to| to.event(run_id, event))
    }

    /// See [`Writing::heartbeat`]. Not worth an fsync: written as samples are.
    pub fn heartbeat(
        &mut self,
        role: &str,
        at: UnixMillis,
        run_id: Option<i64>,
        expects: Option<UnixMillis>,
    ) -> Result<(), StoreError> {
        self.transact(super::Durability::Normal, &|to| to.heartbeat(role, at, run_id, expects))
    }

    /// See [`Writing::latency`]. Not worth an fsync: written as samples are.
    pub fn latencies(&mut self, intervals: &[LatencyInterval]) -> Result<(), StoreError> {
        self.transact(super::Durability::Normal, &|to| intervals.iter().try_for_each(|interval| to.latency(interval)))
    }
}

fn note(at: UnixMillis, kind: EventKind, summary: String) -> Event {
    Event {
        at,
        kind,
        severity: EventSeverity::Info,
        process_id: None,
        device_id: None,
        summary,
        detail: serde_json::json!({}),
    }
}

fn severity(severity: EventSeverity) -> &'static str {
    match severity {
        EventSeverity::Info => "info",
        EventSeverity::Warning => "warning",
        EventSeverity::Error => "error",
    }
}

/// Whole bytes or milliseconds. An infinite interval (nothing is known yet) becomes the largest figure that SQLite holds.
fn whole(value: f64) -> i64 {
    (value.round() as i64).max(-i64::MAX) // saturates; NaN becomes 0; abs() of it must not overflow in SQL
}

/// STRICT REAL columns refuse nothing but NaN, which SQLite turns into NULL.
fn finite(value: f64) -> f64 {
    if value.is_nan() { 0.0 } else { value }
}

impl Writing<'_> {
    /// The first column of every row, as integers.
    pub(super) fn ids(&self, sql: &str) -> Result<Vec<i64>, StoreError> {
        let mut statement = self.transaction.prepare_cached(sql).map_err(|error| self.error(&error))?;
        let rows = statement.query_map([], |row| row.get(0)).map_err(|error| self.error(&error))?;
        rows.collect::<rusqlite::Result<Vec<i64>>>().map_err(|error| self.error(&error))
    }
}
