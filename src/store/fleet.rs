//! One database boiled down to one line of a fleet report. Constant memory: every figure is an aggregate in SQL, over
//! minutes and not over samples. Who differs from whom is left to `analysis::fleet`.

use super::Store;
use super::error::StoreError;
use crate::model::finding::{Shape, Verdict};
use crate::model::fleet::{HostSummary, WorstSeries};
use crate::model::run::RunState;
use crate::model::time::UnixMillis;
use rusqlite::types::FromSql;
use rusqlite::{OptionalExtension, Row};
use serde::de::DeserializeOwned;

/// The run itself and what is counted of it. The newest run, as a fleet is soaked together.
const RUN: &str = "
SELECT r.run_id, r.host, r.started_unix_ms, r.state, r.verdict,
  r.backend || ', ' || r.model || ' ' || r.variant || ', ' || r.streams || ' streams, ' || r.scenario AS work,
  coalesce(u.watched_hours, 0.0) AS watched_hours, u.uptime_ratio,
  (SELECT count(*) FROM event AS e WHERE e.run_id = r.run_id AND e.kind IN ('worker_crash', 'worker_oom')) AS crashes,
  (SELECT count(*) FROM event AS e WHERE e.run_id = r.run_id AND e.kind = 'worker_hang') AS hangs,
  (SELECT coalesce(sum(coalesce(e.detail ->> '$.count', 1)), 0) FROM event AS e
     WHERE e.run_id = r.run_id AND e.kind = 'golden_mismatch') AS golden_mismatches,
  (SELECT count(*) FROM alert AS a WHERE a.run_id = r.run_id AND a.state = 'firing' AND a.severity <> 'info') AS alerts_firing,
  (SELECT sum(w.tokens) * 1000.0 / nullif(sum(w.ms), 0) FROM (
     SELECT max(m.tokens_last) - min(m.tokens_first) AS tokens, max(m.last_unix_ms) - min(m.first_unix_ms) AS ms
     FROM work_minute AS m JOIN process AS p USING (process_id) WHERE p.run_id = r.run_id GROUP BY p.process_id) AS w)
     * max((SELECT count(DISTINCT p.ordinal) FROM process AS p WHERE p.run_id = r.run_id AND p.role = 'worker'), 1)
     AS tokens_per_s,
  (SELECT max(m.vram_used_bytes_max) FROM device_minute AS m JOIN device AS d USING (device_id)
     WHERE d.run_id = r.run_id) AS vram_bytes_max
FROM run AS r LEFT JOIN v_uptime AS u USING (run_id) ORDER BY r.run_id DESC LIMIT 1";

const LATENCY: &str = "
SELECT l.p95_us / 1000.0 FROM latency AS l JOIN process AS p USING (process_id)
WHERE p.run_id = ?1 AND l.kind = 'token' ORDER BY l.p95_us
LIMIT 1 OFFSET (SELECT count(*) / 2 FROM latency AS l JOIN process AS p USING (process_id)
  WHERE p.run_id = ?1 AND l.kind = 'token')";

/// The last finding of each judged series: outside first, then what could not be said, then the largest drift.
const WORST: &str = "
SELECT s.name, f.verdict, f.shape, f.drift_bytes, f.drift_lo_bytes, f.drift_hi_bytes
FROM series AS s JOIN finding AS f ON f.finding_id =
  (SELECT max(l.finding_id) FROM finding AS l WHERE l.series_id = s.series_id)
WHERE s.run_id = ?1 AND s.judged = 1
ORDER BY CASE f.verdict WHEN 'outside' THEN 0 WHEN 'inconclusive' THEN 1 ELSE 2 END, abs(f.drift_bytes) DESC LIMIT 1";

impl Store {
    /// The newest run of this database; `None` if it has none yet.
    pub fn host_summary(&self) -> Result<Option<HostSummary>, StoreError> {
        let read = || -> rusqlite::Result<Option<HostSummary>> {
            let Some(mut host) = self.connection.query_row(RUN, [], summary).optional()? else { return Ok(None) };
            let run = [host.run];
            host.latency_p95_ms = self.connection.query_row(LATENCY, run, |row| row.get(0)).optional()?;
            host.worst = self.connection.query_row(WORST, run, worst).optional()?;
            if let (RunState::Running, Some(worst)) = (host.state, &host.worst) {
                host.verdict = worst.verdict;
            }
            Ok(Some(host))
        };
        let mut host = read().map_err(|error| self.sql_error(&error))?;
        if let Some(host) = &mut host {
            host.file = self.path().display().to_string();
        }
        Ok(host)
    }
}

fn summary(row: &Row<'_>) -> rusqlite::Result<HostSummary> {
    Ok(HostSummary {
        file: String::new(),
        run: row.get("run_id")?,
        host: row.get("host")?,
        started: UnixMillis(row.get("started_unix_ms")?),
        state: word(row, "state")?,
        verdict: if row.get::<_, Option<String>>("verdict")?.is_some() {
            word(row, "verdict")?
        } else {
            Verdict::Inconclusive
        },
        work: row.get("work")?,
        watched_hours: row.get("watched_hours")?,
        uptime_ratio: row.get("uptime_ratio")?,
        crashes: row.get("crashes")?,
        hangs: row.get("hangs")?,
        golden_mismatches: row.get("golden_mismatches")?,
        alerts_firing: row.get("alerts_firing")?,
        throughput_tokens_per_s: row.get("tokens_per_s")?,
        latency_p95_ms: None,
        vram_bytes_max: row.get("vram_bytes_max")?,
        worst: None,
    })
}

fn worst(row: &Row<'_>) -> rusqlite::Result<WorstSeries> {
    let bytes = |column: &str| row.get::<_, i64>(column).map(|bytes| bytes as f64);
    Ok(WorstSeries {
        name: row.get("name")?,
        verdict: word(row, "verdict")?,
        shape: word::<Shape>(row, "shape")?,
        drift_bytes: bytes("drift_bytes")?,
        drift_ci95_bytes: [bytes("drift_lo_bytes")?, bytes("drift_hi_bytes")?],
    })
}

/// A column that holds one of the words of an enum.
fn word<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    let text = String::column_result(row.get_ref(column)?)?;
    serde_json::from_value(serde_json::Value::String(text)).map_err(|error| {
        let index = row.as_ref().column_index(column).unwrap_or_default();
        rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Text, Box::new(error))
    })
}
