//! Reads what a report is made of: one run, as [`RunFacts`]. Every figure comes from rows as they were written; series are
//! thinned while they are read (`facts_series`), so that 48 h of seconds never stand in memory. Saying it is `report`'s.

use super::Store;
use super::error::StoreError;
use super::facts_series::Window;
use crate::model::alert::{AlertState, PlotSpec, Severity};
use crate::model::event::EventSeverity;
use crate::model::facts::{
    AlertFacts, CanaryFacts, EventFacts, GapFacts, ProcessFacts, RunFacts, SeriesFacts, Throughput, Uptime,
};
use crate::model::finding::{Finding, Shape, Steps, Verdict};
use crate::model::run::RunState;
use crate::model::time::UnixMillis;
use rusqlite::{OptionalExtension, Params, Row};

/// Events beyond this many are left out of a report, the least severe first: a page of 3 000 is read by nobody.
const EVENTS_MAX: i64 = 3_000;
/// Points of the history of a drift estimate.
const HISTORY_MAX: i64 = 300;

impl Store {
    /// The newest run, if there is one.
    pub fn newest_run(&self) -> Result<Option<i64>, StoreError> {
        self.fact_row("SELECT max(run_id) FROM run", [], |row| row.get::<_, Option<i64>>(0)).map(Option::flatten)
    }

    /// Everything about a run, or `None` if there is no such run. Series are thinned to about `columns_max` columns.
    pub fn run_facts(
        &self,
        run_id: i64,
        columns_max: usize,
        asked: UnixMillis,
    ) -> Result<Option<RunFacts>, StoreError> {
        // One snapshot: a run that goes on meanwhile cannot make one half of a report disagree with the other.
        let _snapshot = self.connection.unchecked_transaction().map_err(|error| self.sql_error(&error))?;
        let Some(mut facts) = self.run_row(run_id, asked)? else { return Ok(None) };
        facts.last_seen = facts.ended.or(self.last_seen(run_id)?).unwrap_or(facts.plan.started);
        facts.gaps = self.gap_rows(run_id)?;
        facts.processes = self.process_rows(run_id)?;
        facts.uptime = uptime(&facts, self.stepped_ms(run_id)?);
        let window = Window::new(facts.plan.started, facts.last_seen, columns_max);
        facts.series = self.series_rows(run_id)?;
        self.fill_series(run_id, &mut facts.series, window)?;
        facts.devices = self.device_facts(run_id, window)?;
        facts.host = self.host_measured(run_id, window)?;
        (facts.events, facts.events_left_out) = self.event_rows(run_id)?;
        facts.alerts = self.alert_rows(run_id)?;
        facts.latencies = self.latency_facts(run_id, window)?;
        facts.throughput = self.throughput(run_id, window, &facts)?;
        (facts.golden_outputs, facts.golden_mismatches, facts.empty_outputs) = self.golden_counts(run_id)?;
        facts.canary = canary(&facts);
        Ok(Some(facts))
    }

    /// What a picture of some series over some time needs: those series, gaps and events; the rest stays empty.
    pub fn plot_facts(&self, spec: &PlotSpec, columns_max: usize) -> Result<Option<RunFacts>, StoreError> {
        let _snapshot = self.connection.unchecked_transaction().map_err(|error| self.sql_error(&error))?;
        let Some(mut facts) = self.run_row(spec.run_id, spec.to)? else { return Ok(None) };
        facts.gaps = self.gap_rows(spec.run_id)?;
        facts.series = self.series_rows(spec.run_id)?;
        facts.series.retain(|series| spec.series.contains(&series.name));
        self.fill_series(spec.run_id, &mut facts.series, Window::new(spec.from, spec.to, columns_max))?;
        let inside = |unix_s: f64| (spec.from.seconds()..=spec.to.seconds()).contains(&unix_s);
        facts.series.iter_mut().for_each(|series| series.columns.retain(|column| inside(column.unix_s)));
        facts.events = self.event_rows(spec.run_id)?.0;
        facts.events.retain(|event| inside(event.at.seconds()));
        Ok(Some(facts))
    }

    pub(super) fn fact_rows<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let run =
            || -> rusqlite::Result<Vec<T>> { self.connection.prepare_cached(sql)?.query_map(params, read)?.collect() };
        run().map_err(|error| self.sql_error(&error))
    }

    pub(super) fn fact_row<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        let run = || self.connection.prepare_cached(sql)?.query_row(params, read).optional();
        run().map_err(|error: rusqlite::Error| self.sql_error(&error))
    }

    fn run_row(&self, run_id: i64, asked: UnixMillis) -> Result<Option<RunFacts>, StoreError> {
        self.fact_row("SELECT * FROM run WHERE run_id = ?1", [run_id], |row| {
            Ok(RunFacts {
                run_id,
                state: match row.get::<_, String>("state")?.as_str() {
                    "running" => RunState::Running,
                    "finished" => RunState::Finished,
                    "interrupted" => RunState::Interrupted,
                    _ => RunState::Failed,
                },
                soakd_version: row.get("soakd_version")?,
                plan: super::read::plan(row)?,
                ended: row.get::<_, Option<i64>>("ended_unix_ms")?.map(UnixMillis),
                last_seen: asked,
                asked,
                verdict: row.get::<_, Option<String>>("verdict")?.as_deref().map(verdict),
                verdict_reason: row.get("verdict_reason")?,
                gaps: Vec::new(),
                uptime: Uptime::default(),
                series: Vec::new(),
                processes: Vec::new(),
                devices: Vec::new(),
                host: Vec::new(),
                events: Vec::new(),
                events_left_out: 0,
                alerts: Vec::new(),
                latencies: Vec::new(),
                throughput: Throughput::default(),
                golden_mismatches: 0,
                golden_outputs: 0,
                empty_outputs: 0,
                canary: None,
            })
        })
    }

    fn gap_rows(&self, run_id: i64) -> Result<Vec<GapFacts>, StoreError> {
        let sql = "SELECT from_unix_ms, to_unix_ms, reason FROM gap WHERE run_id = ?1 ORDER BY from_unix_ms";
        self.fact_rows(sql, [run_id], |row| {
            Ok(GapFacts { from: UnixMillis(row.get(0)?), to: UnixMillis(row.get(1)?), reason: row.get(2)? })
        })
    }

    /// How far the wall clock was stepped in all.
    fn stepped_ms(&self, run_id: i64) -> Result<i64, StoreError> {
        let sql = "SELECT coalesce(sum(detail ->> '$.by_ms'), 0) FROM event WHERE run_id = ?1 AND kind = 'clock_step'";
        self.fact_row(sql, [run_id], |row| row.get(0)).map(Option::unwrap_or_default)
    }

    fn process_rows(&self, run_id: i64) -> Result<Vec<ProcessFacts>, StoreError> {
        let sql =
            "SELECT p.*, CASE p.role WHEN 'worker' THEN p.role || '-' || p.ordinal
               WHEN 'target_child' THEN p.role || '-' || p.ordinal || coalesce(' (' || p.name || ')', '') ELSE p.role END
             AS full_name, (SELECT max(cpu_ms) FROM process_sample AS s WHERE s.process_id = p.process_id)
             AS cpu_ms FROM process AS p WHERE p.run_id = ?1
             ORDER BY started_unix_ms, process_id";
        self.fact_rows(sql, [run_id], |row| {
            Ok(ProcessFacts {
                process_id: row.get("process_id")?,
                name: row.get("full_name")?,
                role: row.get("role")?,
                incarnation: row.get("incarnation")?,
                pid: row.get("pid")?,
                started: UnixMillis(row.get("started_unix_ms")?),
                ended: row.get::<_, Option<i64>>("ended_unix_ms")?.map(UnixMillis),
                end_reason: row.get("end_reason")?,
                exit_code: row.get("exit_code")?,
                exit_signal: row.get("exit_signal")?,
                stderr_tail: row.get("stderr_tail")?,
                heartbeat: row.get::<_, Option<i64>>("heartbeat_unix_ms")?.map(UnixMillis),
                rss_bytes_at_end: row.get("rss_bytes_at_end")?,
                anon_swap_bytes_at_end: row.get("anon_swap_bytes_at_end")?,
                vram_bytes_at_end: row.get("vram_bytes_at_end")?,
                cpu_ms: row.get("cpu_ms")?,
            })
        })
    }

    /// The series of a run with their newest findings; judged ones first, no samples yet.
    fn series_rows(&self, run_id: i64) -> Result<Vec<SeriesFacts>, StoreError> {
        let sql =
            "SELECT series_id, name, kind, role, judged, CASE role WHEN 'target_child' THEN (SELECT p.name FROM process AS p
               WHERE p.run_id = series.run_id AND p.role = 'target_child' AND p.ordinal = series.ordinal LIMIT 1) END
             FROM series WHERE run_id = ?1 ORDER BY judged DESC, role IS NOT NULL,
             CASE role WHEN 'worker' THEN 0 WHEN 'target_tree' THEN 1 WHEN 'target' THEN 2 WHEN 'target_child' THEN 3
               WHEN 'supervisor' THEN 4 ELSE 5 END, ordinal, series_id";
        let rows = self.fact_rows(sql, [run_id], |row| {
            let series = SeriesFacts {
                name: row.get(1)?,
                kind: row.get(2)?,
                role: row.get(3)?,
                judged: row.get::<_, i64>(4)? != 0,
                command: row.get(5)?,
                finding: None,
                found: None,
                history: Vec::new(),
                columns: Vec::new(),
                bytes_max: None,
            };
            Ok((row.get::<_, i64>(0)?, series))
        })?;
        rows.into_iter()
            .map(|(series_id, mut series)| {
                let newest = "SELECT * FROM finding WHERE series_id = ?1 ORDER BY finding_id DESC LIMIT 1";
                if let Some((finding, at, is_final)) = self.fact_row(newest, [series_id], read_finding)? {
                    series.finding = Some(finding);
                    series.found = Some((at, is_final));
                }
                series.history = self.history(series_id)?;
                Ok(series)
            })
            .collect()
    }

    fn history(&self, series_id: i64) -> Result<Vec<(f64, f64, f64, f64)>, StoreError> {
        let sql = "SELECT unix_ms, drift_bytes, drift_lo_bytes, drift_hi_bytes FROM
               (SELECT *, row_number() OVER (ORDER BY unix_ms) AS n, count(*) OVER () AS total FROM finding WHERE series_id = ?1)
             WHERE n % max(1, total / ?2) = 0 OR n = total ORDER BY unix_ms";
        self.fact_rows(sql, [series_id, HISTORY_MAX], |row| {
            let bytes = |i: usize| row.get::<_, i64>(i).map(endless);
            Ok((row.get::<_, i64>(0)? as f64 / 1e3, bytes(1)?, bytes(2)?, bytes(3)?))
        })
    }

    fn event_rows(&self, run_id: i64) -> Result<(Vec<EventFacts>, u64), StoreError> {
        let total: i64 = self
            .fact_row("SELECT count(*) FROM event WHERE run_id = ?1", [run_id], |row| row.get(0))?
            .unwrap_or_default();
        let sql = "SELECT * FROM (SELECT e.unix_ms, e.event_id, e.kind, e.severity, e.summary,
               CASE WHEN p.role IN ('worker', 'target_child') THEN p.role || '-' || p.ordinal
                    WHEN p.role IS NOT NULL THEN p.role ELSE 'gpu-' || d.ordinal END AS about
             FROM event AS e LEFT JOIN process AS p USING (process_id) LEFT JOIN device AS d USING (device_id)
             WHERE e.run_id = ?1
             ORDER BY CASE e.severity WHEN 'error' THEN 0 WHEN 'warning' THEN 1 ELSE 2 END, e.event_id LIMIT ?2)
             ORDER BY unix_ms, event_id";
        let events = self.fact_rows(sql, [run_id, EVENTS_MAX], |row| {
            Ok(EventFacts {
                at: UnixMillis(row.get(0)?),
                kind: row.get(2)?,
                severity: match row.get::<_, String>(3)?.as_str() {
                    "error" => EventSeverity::Error,
                    "warning" => EventSeverity::Warning,
                    _ => EventSeverity::Info,
                },
                summary: row.get(4)?,
                about: row.get(5)?,
            })
        })?;
        let left_out = total.unsigned_abs().saturating_sub(events.len() as u64);
        Ok((events, left_out))
    }

    fn alert_rows(&self, run_id: i64) -> Result<Vec<AlertFacts>, StoreError> {
        let sql = "SELECT * FROM alert WHERE run_id = ?1 AND fired_unix_ms IS NOT NULL ORDER BY fired_unix_ms, alert_id
             LIMIT ?2";
        self.fact_rows(sql, [run_id, EVENTS_MAX], |row| {
            let moment = |name: &str| row.get::<_, Option<i64>>(name).map(|at| at.map(UnixMillis));
            Ok(AlertFacts {
                rule: row.get("rule")?,
                severity: match row.get::<_, String>("severity")?.as_str() {
                    "page" => Severity::Page,
                    "ticket" => Severity::Ticket,
                    _ => Severity::Info,
                },
                state: match row.get::<_, String>("state")?.as_str() {
                    "firing" => AlertState::Firing,
                    "pending" => AlertState::Pending,
                    _ => AlertState::Resolved,
                },
                active: UnixMillis(row.get("active_unix_ms")?),
                fired: moment("fired_unix_ms")?,
                resolved: moment("resolved_unix_ms")?,
                last_sent: moment("last_sent_unix_ms")?,
                summary: row.get("summary")?,
                runbook: row.get("runbook")?,
            })
        })
    }

    /// Golden outputs, the mismatches that workers counted (or that events tell of, whichever is more: a worker that
    /// died took its count along), and answers without a token.
    fn golden_counts(&self, run_id: i64) -> Result<(u64, u64, u64), StoreError> {
        let sql = "SELECT (SELECT count(*) FROM golden WHERE run_id = ?1),
             max((SELECT coalesce(sum(coalesce(detail ->> '$.count', 1)), 0) FROM event
                   WHERE run_id = ?1 AND kind = 'golden_mismatch'),
                 coalesce((SELECT sum((SELECT max(golden_mismatches) FROM work_sample AS w
                    WHERE w.process_id = p.process_id)) FROM process AS p WHERE p.run_id = ?1), 0)),
             (SELECT count(*) FROM event WHERE run_id = ?1 AND kind = 'empty_output')";
        let count = |row: &Row<'_>, column| row.get::<_, i64>(column).map(i64::unsigned_abs);
        let counts = self.fact_row(sql, [run_id], |row| Ok((count(row, 0)?, count(row, 1)?, count(row, 2)?)))?;
        Ok(counts.unwrap_or_default())
    }
}

fn verdict(text: &str) -> Verdict {
    match text {
        "within" => Verdict::Within,
        "outside" => Verdict::Outside,
        _ => Verdict::Inconclusive,
    }
}

fn shape(text: &str) -> Shape {
    let all = [Shape::Linear, Shape::PerRequest, Shape::Saturating, Shape::Step, Shape::Sawtooth];
    all.into_iter().find(|s| s.as_str() == text).unwrap_or(Shape::None)
}

/// The column is an integer; an interval without an end was written as the largest there is.
fn endless(bytes: i64) -> f64 {
    match bytes {
        ..=-9_000_000_000_000_000_000 => f64::NEG_INFINITY,
        9_000_000_000_000_000_000.. => f64::INFINITY,
        b => b as f64,
    }
}

/// Soakds before 2026-11-26 wrote an interval of thousands of tolerances where they knew nothing: no machine holds so much.
const UNKNOWN_BYTES: f64 = 1e11;

fn read_finding(row: &Row<'_>) -> rusqlite::Result<(Finding, UnixMillis, bool)> {
    let bytes = |name: &str| row.get::<_, i64>(name).map(endless);
    let moment = |name: &str| row.get::<_, Option<i64>>(name).map(|at| at.map(|ms| ms as f64 / 1e3));
    let (mut interval, mut detectable) =
        ([bytes("drift_lo_bytes")?, bytes("drift_hi_bytes")?], bytes("minimum_detectable_drift_bytes")?);
    if interval[0] < -UNKNOWN_BYTES && interval[1] > UNKNOWN_BYTES {
        (interval, detectable) = ([f64::NEG_INFINITY, f64::INFINITY], f64::INFINITY);
    }
    let finding = Finding {
        verdict: verdict(&row.get::<_, String>("verdict")?),
        shape: shape(&row.get::<_, String>("shape")?),
        drift_bytes: bytes("drift_bytes")?,
        drift_ci95_bytes: interval,
        slope_bytes_per_hour: row.get("slope_bytes_per_hour")?,
        slope_bytes_per_request: row.get("slope_bytes_per_request")?,
        minimum_detectable_drift_bytes: detectable,
        samples: row.get::<_, i64>("samples")?.unsigned_abs(),
        span_s: row.get("span_s")?,
        crossing_unix_s: moment("crossing_from_unix_ms")?.zip(moment("crossing_to_unix_ms")?).map(|(a, b)| [a, b]),
        day_swing_bytes: row.get::<_, Option<i64>>("day_swing_bytes")?.map(|b| b as f64),
        onset_unix_s: moment("onset_unix_ms")?,
        steps: read_steps(row)?,
        unsettled_bytes: row.get::<_, Option<i64>>("unsettled_bytes")?.map(|b| b as f64),
        load_swing_bytes: row.get::<_, Option<i64>>("load_swing_bytes")?.map(|b| b as f64),
        asymptote_bytes: row.get::<_, Option<i64>>("asymptote_bytes")?.map(|b| b as f64),
        alarmed: row.get::<_, i64>("alarmed")? != 0,
        first_alarm_unix_s: moment("first_alarm_unix_ms")?,
    };
    Ok((finding, UnixMillis(row.get("unix_ms")?), row.get::<_, i64>("is_final")? != 0))
}

fn read_steps(row: &Row<'_>) -> rusqlite::Result<Option<Steps>> {
    let bytes = |name: &str| row.get::<_, i64>(name).map(|b| b as f64);
    let Some(count) = row.get::<_, Option<u32>>("steps")? else { return Ok(None) };
    Ok(Some(Steps {
        count,
        sum_bytes: bytes("stepped_bytes")?,
        moved_bytes: bytes("moved_bytes")?,
        largest_bytes: bytes("largest_step_bytes")?,
        largest_unix_s: bytes("largest_step_unix_ms")? / 1e3,
    }))
}

/// Time that passed, whatever the wall clock did (`stepped_ms`); in it unwatched time and, beside it, time in which a worker was gone: from its last heartbeat (a hang) or its end to the start
/// of its next life. A worker that ended as asked is not missed.
fn uptime(facts: &RunFacts, stepped_ms: i64) -> Uptime {
    let (start, end) = (facts.plan.started.0, facts.last_seen.0);
    let gaps: Vec<(i64, i64)> = facts.gaps.iter().map(|g| (g.from.0, g.to.0)).collect();
    let mut lost = gaps.clone();
    for life in
        facts.processes.iter().filter(|p| p.is_soaked() && p.role != "target_child" && (p.is_crash() || p.is_hang()))
    {
        let Some(ended) = life.ended else { continue };
        let from = if life.is_hang() { life.heartbeat.unwrap_or(ended).min(ended) } else { ended };
        let next = facts.processes.iter().find(|p| p.name == life.name && p.incarnation > life.incarnation);
        lost.push((from.0, next.map_or(end, |p| p.started.0)));
    }
    let unwatched_ms = covered(gaps, start, end);
    let elapsed_ms = (end - start - stepped_ms).max(0);
    Uptime { elapsed_ms, unwatched_ms, worker_down_ms: covered(lost, start, end) - unwatched_ms }
}

/// Length of the union of intervals, within `[start, end]`.
fn covered(mut intervals: Vec<(i64, i64)>, start: i64, end: i64) -> i64 {
    intervals.sort_unstable();
    let (total, _) = intervals.into_iter().fold((0, start), |(total, reached), (from, to)| {
        let (from, to) = (from.max(reached), to.min(end));
        (total + (to - from).max(0), reached.max(to))
    });
    total
}

/// The canary, if the run had one: its series is there, or an event tells of it.
fn canary(facts: &RunFacts) -> Option<CanaryFacts> {
    let series = facts.series.iter().find(|s| s.role.as_deref() == Some("canary") && s.finding.is_some());
    let event = |kind: &str| facts.events.iter().find(|e| e.kind == kind).map(|e| e.at);
    let (found, missed) = (event("canary_found"), event("canary_missed"));
    let lived = facts.processes.iter().any(|p| p.role == "canary");
    if series.is_none() && found.is_none() && missed.is_none() && !lived {
        return None;
    }
    let config: Option<toml::Table> = facts.plan.config_toml.parse().ok();
    let planned = config.as_ref().and_then(|c| c.get("canary")?.get("leak")).map(|leak| match leak {
        toml::Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    Some(CanaryFacts { planned, found, missed, finding: series.and_then(|s| s.finding.clone()) })
}

#[cfg(test)]
mod tests {
    use super::covered;

    #[test]
    fn overlapping_losses_count_once_and_only_within_the_run() {
        assert_eq!(covered(vec![], 0, 100), 0);
        assert_eq!(covered(vec![(10, 20), (15, 30), (12, 13)], 0, 100), 20);
        assert_eq!(covered(vec![(-50, 10), (90, 500)], 0, 100), 20);
        assert_eq!(covered(vec![(30, 10)], 0, 100), 0, "a clock that stepped back loses nothing");
    }
}
