//! Small typed reads that the supervisor needs to go on: the unfinished run, golden outputs. What a report is made of is
//! read elsewhere (`facts`), and free SQL goes through `sql`.

use super::Store;
use super::error::StoreError;
use crate::model::process::Golden;
use crate::model::run::{RunEnd, RunPlan, RunState, UnfinishedRun};
use crate::model::time::UnixMillis;
use rusqlite::{OptionalExtension, Row, params};

impl Store {
    /// The newest run of `host` that has no verdict yet.
    pub fn unfinished_run(&self, host: &str) -> Result<Option<UnfinishedRun>, StoreError> {
        let found = self
            .connection
            .query_row(
                "SELECT run_id, started_unix_ms, duration_ms, horizon_ms, tolerance_bytes, backend, model, variant, streams,
                   scenario, seed, host, facts, config
                 FROM run WHERE state = 'running' AND host = ?1 ORDER BY run_id DESC LIMIT 1",
                [host],
                |row| Ok((row.get::<_, i64>(0)?, plan(row)?)),
            )
            .optional()
            .map_err(|error| self.sql_error(&error))?;
        let Some((run_id, plan)) = found else { return Ok(None) };
        self.as_it_was_left(run_id, plan).map(Some)
    }

    /// The newest run of `host`, if it has its verdict but its supervisor never said that it left: it was killed in between.
    /// `soaked_before` is the run that whoever starts us saw die: it is told again, even if it had left.
    pub fn untold_run(
        &self,
        host: &str,
        soaked_before: Option<i64>,
    ) -> Result<Option<(UnfinishedRun, RunEnd)>, StoreError> {
        let found = self
            .connection
            .query_row(
                "SELECT *, EXISTS (SELECT 1 FROM process AS p WHERE p.run_id = run.run_id AND role = 'supervisor'
                     AND p.ended_unix_ms IS NULL) OR run_id IS ?2 AS untold
                 FROM run WHERE host = ?1 ORDER BY run_id DESC LIMIT 1",
                params![host, soaked_before],
                |row| {
                    Ok((row.get::<_, i64>("run_id")?, plan(row)?, end(row)?.filter(|_| row.get("untold") == Ok(true))))
                },
            )
            .optional()
            .map_err(|error| self.sql_error(&error))?;
        let Some((run_id, plan, Some(end))) = found else { return Ok(None) };
        Ok(Some((self.as_it_was_left(run_id, plan)?, end)))
    }

    fn as_it_was_left(&self, run_id: i64, plan: RunPlan) -> Result<UnfinishedRun, StoreError> {
        let last_seen = self.last_seen(run_id)?.unwrap_or(plan.started);
        let since =
            "event_id > coalesce((SELECT max(event_id) FROM event WHERE run_id = ?1 AND kind = 'run_resumed'), 0)";
        let (unwatched_ms, resumes, boot_id, was_shut_down) = self
            .connection
            .query_row(
                &format!(
                    "SELECT coalesce((SELECT sum(to_unix_ms - from_unix_ms) FROM gap WHERE run_id = ?1), 0)
                         + coalesce((SELECT sum(detail ->> '$.by_ms') FROM event WHERE run_id = ?1 AND kind = 'clock_step'), 0),
                       (SELECT count(*) FROM event WHERE run_id = ?1 AND kind = 'run_resumed'),
                       coalesce((SELECT CASE WHEN json_valid(detail) THEN detail ->> '$.boot_id' END FROM event
                                 WHERE run_id = ?1 AND kind = 'run_resumed' ORDER BY event_id DESC LIMIT 1),
                                (SELECT CASE WHEN json_valid(facts) THEN facts ->> '$.boot_id' END FROM run WHERE run_id = ?1)),
                       EXISTS (SELECT 1 FROM event WHERE run_id = ?1 AND kind = 'host_shutdown' AND {since})"
                ),
                [run_id],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
            )
            .map_err(|error| self.sql_error(&error))?;
        Ok(UnfinishedRun { run_id, plan, last_seen, unwatched_ms, stepped_ms: 0, resumes, boot_id, was_shut_down })
    }

    /// The last moment from which anything of a run is stored.
    pub fn last_seen(&self, run_id: i64) -> Result<Option<UnixMillis>, StoreError> {
        let sql = "SELECT max(at) FROM (
               SELECT max((SELECT max(unix_ms) FROM process_sample AS s WHERE s.process_id = p.process_id)) AS at
                 FROM process AS p WHERE p.run_id = ?1
               UNION ALL SELECT max(unix_ms) FROM host_sample WHERE run_id = ?1
               UNION ALL SELECT max(unix_ms) FROM event WHERE run_id = ?1
               UNION ALL SELECT unix_ms FROM heartbeat WHERE run_id = ?1 AND role = 'supervisor')";
        self.connection
            .query_row(sql, [run_id], |row| row.get::<_, Option<i64>>(0))
            .map(|at| at.map(UnixMillis))
            .map_err(|error| self.sql_error(&error))
    }

    /// The golden outputs of a run on one back end, by prompt.
    pub fn golden(&self, run_id: i64, backend: &str) -> Result<Vec<Golden>, StoreError> {
        let read = || -> rusqlite::Result<Vec<Golden>> {
            let mut statement = self.connection.prepare_cached(
                "SELECT prompt, tokens, hash FROM golden WHERE run_id = ?1 AND backend = ?2 ORDER BY prompt",
            )?;
            let rows = statement.query_map(params![run_id, backend], |row| {
                let bytes: Vec<u8> = row.get(1)?;
                let tokens = bytes
                    .chunks_exact(4)
                    .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
                    .collect();
                let hash = row.get::<_, i64>(2)?.cast_unsigned();
                Ok(Golden { backend: backend.to_owned(), prompt: row.get(0)?, tokens, hash })
            })?;
            rows.collect()
        };
        read().map_err(|error| self.sql_error(&error))
    }
}

/// How a run ended; `None` while it has not.
fn end(row: &Row<'_>) -> rusqlite::Result<Option<RunEnd>> {
    let word = |column: &str| row.get::<_, Option<String>>(column).map(|text| text.map(serde_json::Value::from));
    let state = word("state")?.and_then(|text| serde_json::from_value::<RunState>(text).ok());
    let verdict = word("verdict")?.and_then(|text| serde_json::from_value(text).ok());
    let (at, reason) = (row.get::<_, Option<i64>>("ended_unix_ms")?, row.get::<_, Option<String>>("verdict_reason")?);
    let (Some(state), Some(verdict), Some(at)) = (state.filter(|state| *state != RunState::Running), verdict, at)
    else {
        return Ok(None);
    };
    Ok(Some(RunEnd { at: UnixMillis(at), state, verdict, reason: reason.unwrap_or_default() }))
}

pub(super) fn plan(row: &Row<'_>) -> rusqlite::Result<RunPlan> {
    Ok(RunPlan {
        started: UnixMillis(row.get("started_unix_ms")?),
        duration_ms: row.get("duration_ms")?,
        horizon_ms: row.get("horizon_ms")?,
        tolerance_bytes: row.get("tolerance_bytes")?,
        backend: row.get("backend")?,
        model: row.get("model")?,
        variant: row.get("variant")?,
        streams: row.get("streams")?,
        scenario: row.get("scenario")?,
        seed: row.get("seed")?,
        host: row.get("host")?,
        facts: serde_json::from_str(&row.get::<_, String>("facts")?).unwrap_or_default(),
        config_toml: row.get("config")?,
    })
}
