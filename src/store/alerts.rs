//! Alerts, their groups, decisions and silences as rows. What they mean and how they move on is left to `rules`.

use super::error::StoreError;
use super::write::Writing;
use super::{Store, read_json};
use crate::model::alert::{Alert, AlertGroup, AlertState, Decision, Severity, Silence};
use crate::model::time::UnixMillis;
use rusqlite::{Params, Row, params};
use std::collections::{BTreeMap, BTreeSet};

impl Writing<'_> {
    /// An alert as it is now. Acknowledgements are not touched: they come from another process.
    pub fn put_alert(&self, run_id: i64, alert: &Alert) -> Result<(), StoreError> {
        let fires: Vec<i64> = alert.fires.iter().map(|at| at.0).collect();
        let json = |value: serde_json::Result<String>| value.expect("plain data");
        self.execute(
            "INSERT INTO alert (alert_id, run_id, rule, fingerprint, labels, values_json, severity, route, state,
               active_unix_ms, fired_unix_ms, last_true_unix_ms, resolved_unix_ms, last_sent_unix_ms, resolved_sent_unix_ms,
               settled, group_key, fires, summary, description, runbook)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)
             ON CONFLICT (alert_id) DO UPDATE SET values_json = excluded.values_json, severity = excluded.severity,
               route = excluded.route, state = excluded.state, active_unix_ms = excluded.active_unix_ms,
               fired_unix_ms = excluded.fired_unix_ms, last_true_unix_ms = excluded.last_true_unix_ms,
               resolved_unix_ms = excluded.resolved_unix_ms, last_sent_unix_ms = excluded.last_sent_unix_ms,
               resolved_sent_unix_ms = excluded.resolved_sent_unix_ms, settled = excluded.settled,
               group_key = excluded.group_key, fires = excluded.fires, summary = excluded.summary,
               description = excluded.description, runbook = excluded.runbook",
            params![
                alert.alert_id,
                run_id,
                alert.rule,
                alert.fingerprint,
                json(serde_json::to_string(&alert.labels)),
                json(serde_json::to_string(&alert.values)),
                alert.severity.as_str(),
                alert.route,
                alert.state.as_str(),
                alert.active.0,
                alert.fired.map(|at| at.0),
                alert.last_true.0,
                alert.resolved.map(|at| at.0),
                alert.last_sent.map(|at| at.0),
                alert.resolved_sent.map(|at| at.0),
                alert.settled,
                alert.group,
                json(serde_json::to_string(&fires)),
                alert.summary,
                alert.description,
                alert.runbook,
            ],
        )
        .map(|_| ())
    }

    /// A group as it is now.
    pub fn put_alert_group(&self, run_id: i64, key: &str, group: &AlertGroup) -> Result<(), StoreError> {
        self.execute(
            "INSERT OR REPLACE INTO alert_group (run_id, group_key, rule, since_unix_ms, last_sent_unix_ms, thread,
               last_message, mails) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                run_id,
                key,
                group.rule,
                group.since.map(|at| at.0),
                group.last_sent.map(|at| at.0),
                group.thread,
                group.last_message,
                group.mails,
            ],
        )
        .map(|_| ())
    }

    /// A decision; `outbox_id` is the mail that came of it.
    pub fn put_decision(&self, at: UnixMillis, decision: &Decision, outbox_id: Option<i64>) -> Result<(), StoreError> {
        self.execute(
            "INSERT INTO alert_decision (alert_id, unix_ms, action, reason, outbox_id) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![decision.alert_id, at.0, if decision.send { "send" } else { "hold" }, decision.reason, outbox_id],
        )
        .map(|_| ())
    }

    /// A new silence; gives its row. `silence_id` of the argument is ignored.
    pub fn put_silence(&self, silence: &Silence) -> Result<i64, StoreError> {
        let labels = serde_json::to_string(&silence.labels).expect("a map of strings");
        self.execute(
            "INSERT INTO silence (rule, labels, from_unix_ms, until_unix_ms, why, who) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![silence.rule, labels, silence.from.0, silence.until.0, silence.why, silence.who],
        )?;
        Ok(self.last_row())
    }

    /// Ends a silence early. False if there is none that lasts beyond `at`.
    pub fn end_silence(&self, silence_id: i64, at: UnixMillis) -> Result<bool, StoreError> {
        let sql = "UPDATE silence SET until_unix_ms = ?2 WHERE silence_id = ?1 AND until_unix_ms > ?2";
        Ok(self.execute(sql, params![silence_id, at.0])? > 0)
    }

    /// "I have it": no repeats. False if that alert does not exist or has ended.
    pub fn acknowledge(&self, alert_id: i64, at: UnixMillis, who: &str) -> Result<bool, StoreError> {
        let sql = "UPDATE alert SET acked_unix_ms = ?2, acked_by = ?3 WHERE alert_id = ?1 AND state <> 'resolved'";
        Ok(self.execute(sql, params![alert_id, at.0, who])? > 0)
    }
}

impl Store {
    /// The alerts of a run that are not settled, or ended at or after `since`; of each fingerprint the last episode.
    pub fn alerts(&self, run_id: i64, since: UnixMillis) -> Result<Vec<Alert>, StoreError> {
        self.collect(
            "SELECT * FROM alert WHERE run_id = ?1 AND (settled = 0 OR state <> 'resolved' OR resolved_unix_ms >= ?2)
             ORDER BY alert_id",
            params![run_id, since.0],
            alert,
        )
    }

    /// The groups of a run.
    pub fn alert_groups(&self, run_id: i64) -> Result<BTreeMap<String, AlertGroup>, StoreError> {
        let pairs = self.collect("SELECT * FROM alert_group WHERE run_id = ?1", [run_id], |row| {
            let group = AlertGroup {
                rule: row.get("rule")?,
                since: moment(row, "since_unix_ms")?,
                last_sent: moment(row, "last_sent_unix_ms")?,
                thread: row.get("thread")?,
                last_message: row.get("last_message")?,
                mails: row.get("mails")?,
            };
            Ok((row.get::<_, String>("group_key")?, group))
        })?;
        Ok(pairs.into_iter().collect())
    }

    /// Who has acknowledged what, among the alerts of a run that have not ended.
    pub fn acknowledgements(&self, run_id: i64) -> Result<BTreeMap<i64, (UnixMillis, String)>, StoreError> {
        let pairs = self.collect(
            "SELECT alert_id, acked_unix_ms, coalesce(acked_by, 'someone') FROM alert
             WHERE state <> 'resolved' AND run_id = ?1 AND acked_unix_ms IS NOT NULL",
            [run_id],
            |row| Ok((row.get(0)?, (UnixMillis(row.get(1)?), row.get(2)?))),
        )?;
        Ok(pairs.into_iter().collect())
    }

    /// Silences that have not ended before `now`.
    pub fn silences(&self, now: UnixMillis) -> Result<Vec<Silence>, StoreError> {
        self.collect("SELECT * FROM silence WHERE until_unix_ms > ?1 ORDER BY silence_id", [now.0], |row| {
            Ok(Silence {
                silence_id: row.get("silence_id")?,
                rule: row.get("rule")?,
                labels: read_json(row, "labels")?,
                from: UnixMillis(row.get("from_unix_ms")?),
                until: UnixMillis(row.get("until_unix_ms")?),
                why: row.get("why")?,
                who: row.get("who")?,
            })
        })
    }

    /// Message-IDs that wait in the outbox, the newest thousand.
    pub fn waiting_messages(&self) -> Result<BTreeSet<String>, StoreError> {
        let sql = "SELECT message_id FROM outbox WHERE state = 'queued' ORDER BY outbox_id DESC LIMIT 1000";
        Ok(self.collect(sql, [], |row| row.get(0))?.into_iter().collect())
    }

    /// When mails about alerts of a run were written, from `since` on.
    pub fn mailed_since(&self, run_id: i64, since: UnixMillis) -> Result<Vec<UnixMillis>, StoreError> {
        self.collect(
            "SELECT created_unix_ms FROM outbox WHERE run_id = ?1 AND created_unix_ms >= ?2 AND kind IN ('alert', 'resolved')
             ORDER BY outbox_id",
            params![run_id, since.0],
            |row| Ok(UnixMillis(row.get(0)?)),
        )
    }

    /// The row that the next alert gets. Only the one writer asks.
    pub fn next_alert_id(&self) -> Result<i64, StoreError> {
        self.connection
            .query_row("SELECT coalesce(max(alert_id), 0) + 1 FROM alert", [], |row| row.get(0))
            .map_err(|error| self.sql_error(&error))
    }

    /// What a run's span by the wall clock has, up to now, that was not watched: gaps, and steps of that clock. Milliseconds.
    pub fn unwatched_ms(&self, run_id: i64) -> Result<i64, StoreError> {
        let sql = "SELECT coalesce((SELECT sum(to_unix_ms - from_unix_ms) FROM gap WHERE run_id = ?1), 0)
                     + coalesce((SELECT sum(detail ->> '$.by_ms') FROM event WHERE run_id = ?1 AND kind = 'clock_step'), 0)";
        self.connection.query_row(sql, [run_id], |row| row.get(0)).map_err(|error| self.sql_error(&error))
    }

    fn collect<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let rows = self.connection.prepare_cached(sql).and_then(|mut statement| {
            let rows = statement.query_map(params, read)?;
            rows.collect()
        });
        rows.map_err(|error| self.sql_error(&error))
    }
}

fn moment(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<UnixMillis>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(UnixMillis))
}

fn alert(row: &Row<'_>) -> rusqlite::Result<Alert> {
    let severity = match row.get::<_, String>("severity")?.as_str() {
        "page" => Severity::Page,
        "ticket" => Severity::Ticket,
        _ => Severity::Info,
    };
    let state = match row.get::<_, String>("state")?.as_str() {
        "pending" => AlertState::Pending,
        "firing" => AlertState::Firing,
        _ => AlertState::Resolved,
    };
    let acked_by: Option<String> = row.get("acked_by")?;
    let fires: Vec<i64> = read_json(row, "fires")?;
    Ok(Alert {
        alert_id: row.get("alert_id")?,
        rule: row.get("rule")?,
        fingerprint: row.get("fingerprint")?,
        labels: read_json(row, "labels")?,
        values: read_json(row, "values_json")?,
        severity,
        route: row.get("route")?,
        group: row.get("group_key")?,
        state,
        active: UnixMillis(row.get("active_unix_ms")?),
        fired: moment(row, "fired_unix_ms")?,
        last_true: UnixMillis(row.get("last_true_unix_ms")?),
        resolved: moment(row, "resolved_unix_ms")?,
        last_sent: moment(row, "last_sent_unix_ms")?,
        resolved_sent: moment(row, "resolved_sent_unix_ms")?,
        settled: row.get("settled")?,
        acked: moment(row, "acked_unix_ms")?.map(|at| (at, acked_by.unwrap_or_default())),
        fires: fires.into_iter().map(UnixMillis).collect(),
        last_reason: String::new(),
        summary: row.get("summary")?,
        description: row.get("description")?,
        runbook: row.get("runbook")?,
    })
}
