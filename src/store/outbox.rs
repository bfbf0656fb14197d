//! The outbox: mails wait here until they are delivered. [`Writing::enqueue`] puts one in within the transaction that
//! records what it tells of; the mailer takes them out in order. Delivery itself is left to `mail`.

use super::error::StoreError;
use super::write::Writing;
use super::{Store, read_json};
use crate::model::alert::OutboxMail;
use crate::model::mail::{Fate, QueuedMail, refusals};
use crate::model::time::{MonoMillis, Now, UnixMillis};
use rusqlite::{OptionalExtension, Row, params};
use std::collections::BTreeMap;

/// What an attempt that failed leaves behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailRetry {
    /// Attempts so far.
    pub attempts: u32,
    /// Not before.
    pub next: UnixMillis,
    /// When its first attempt failed.
    pub failing_since: UnixMillis,
    /// Why the last one did.
    pub error: String,
}

/// A mail of the past or of the queue, as far as who wrote it needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct SentMail {
    /// `queued`, `sent` or `failed`.
    pub state: String,
    /// When it was written.
    pub at: UnixMillis,
    /// Its Message-ID.
    pub message_id: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// How much lies in the outbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutboxCounts {
    /// Waiting.
    pub queued: i64,
    /// Delivered.
    pub sent: i64,
    /// Set aside: the server said never.
    pub failed: i64,
    /// When the oldest waiting one was written.
    pub oldest_queued: Option<UnixMillis>,
}

/// A row of the `heartbeat` table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeartbeatRow {
    /// The last sign of life.
    pub at: UnixMillis,
    /// Whose.
    pub pid: i64,
    /// Run it was about.
    pub run_id: Option<i64>,
    /// The next is due by then; `None` after a clean end.
    pub expects: Option<UnixMillis>,
}

impl Writing<'_> {
    /// Queues a mail; gives its row. The same Message-ID again gives the row that is there.
    pub fn enqueue(&self, run_id: Option<i64>, mail: &OutboxMail) -> Result<i64, StoreError> {
        let plot = mail.plot.as_ref().map(|plot| serde_json::to_string(plot).expect("plain data"));
        let labels = serde_json::to_string(&mail.labels).expect("a map of strings");
        let new = self.execute(
            "INSERT INTO outbox (run_id, created_unix_ms, kind, message_id, in_reply_to, route, subject, body_text, body_html,
               plot, labels, state, next_unix_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, 'queued', ?2) ON CONFLICT (message_id) DO NOTHING",
            params![
                run_id,
                mail.at.0,
                mail.kind,
                mail.message_id,
                mail.in_reply_to,
                mail.route,
                mail.subject,
                mail.text,
                mail.html,
                plot,
                labels,
            ],
        )?;
        if new > 0 {
            return Ok(self.last_row());
        }
        let row =
            self.row("SELECT outbox_id FROM outbox WHERE message_id = ?1", [&mail.message_id], |row| row.get(0))?;
        row.ok_or_else(|| self.missing(format!("mail {}", mail.message_id)))
    }

    /// The server took it, for at least one recipient; who refused it stands in its last error.
    pub fn mail_sent(
        &self,
        outbox_id: i64,
        at: UnixMillis,
        settled: &BTreeMap<String, Fate>,
    ) -> Result<(), StoreError> {
        self.execute(
            "UPDATE outbox SET state = 'sent', attempts = attempts + 1, sent_unix_ms = ?2, settled = ?3,
               last_error = coalesce(nullif(?4, ''), last_error) WHERE outbox_id = ?1",
            params![outbox_id, at.0, json(settled), refusals(settled)],
        )
        .map(|_| ())
    }

    /// It was tried and is to be tried again.
    pub fn mail_retry(
        &self,
        outbox_id: i64,
        retry: &MailRetry,
        settled: &BTreeMap<String, Fate>,
    ) -> Result<(), StoreError> {
        self.execute(
            "UPDATE outbox SET attempts = ?2, next_unix_ms = ?3, failing_since_unix_ms = ?4, last_error = ?5, settled = ?6
             WHERE outbox_id = ?1",
            params![outbox_id, retry.attempts, retry.next.0, retry.failing_since.0, retry.error, json(settled)],
        )
        .map(|_| ())
    }

    /// Nobody will ever take it: set aside.
    pub fn mail_failed(&self, outbox_id: i64, error: &str, settled: &BTreeMap<String, Fate>) -> Result<(), StoreError> {
        self.execute(
            "UPDATE outbox SET state = 'failed', attempts = attempts + 1, last_error = ?2, settled = ?3
             WHERE outbox_id = ?1",
            params![outbox_id, error, json(settled)],
        )
        .map(|_| ())
    }

    /// Puts what was set aside back into the queue, for everyone who did not get it. Gives how many.
    pub fn requeue_failed(&self, at: UnixMillis) -> Result<usize, StoreError> {
        self.execute(
            "UPDATE outbox SET state = 'queued', next_unix_ms = ?1, settled = '{}' WHERE state = 'failed'",
            [at.0],
        )
    }
}

impl Store {
    /// The oldest waiting mail of every route, oldest first: within a route none overtakes another.
    pub fn outbox_heads(&self) -> Result<Vec<QueuedMail>, StoreError> {
        let read = || -> rusqlite::Result<Vec<QueuedMail>> {
            let mut statement = self.connection.prepare_cached(
                "SELECT * FROM outbox WHERE outbox_id IN
                   (SELECT min(outbox_id) FROM outbox WHERE state = 'queued' GROUP BY route) ORDER BY outbox_id",
            )?;
            let rows = statement.query_map([], queued_mail)?;
            rows.collect()
        };
        read().map_err(|error| self.sql_error(&error))
    }

    /// The newest mail of a kind, whatever became of it.
    pub fn last_mail(&self, kind: &str) -> Result<Option<SentMail>, StoreError> {
        let sql = "SELECT state, created_unix_ms, message_id, labels FROM outbox WHERE kind = ?1 ORDER BY outbox_id DESC LIMIT 1";
        self.sent_mail(sql, kind)
    }

    /// The mail with this Message-ID.
    pub fn mail_by_id(&self, message_id: &str) -> Result<Option<SentMail>, StoreError> {
        self.sent_mail(
            "SELECT state, created_unix_ms, message_id, labels FROM outbox WHERE message_id = ?1",
            message_id,
        )
    }

    fn sent_mail(&self, sql: &str, key: &str) -> Result<Option<SentMail>, StoreError> {
        self.connection
            .query_row(sql, [key], |row| {
                Ok(SentMail {
                    state: row.get("state")?,
                    at: UnixMillis(row.get("created_unix_ms")?),
                    message_id: row.get("message_id")?,
                    labels: read_json(row, "labels")?,
                })
            })
            .optional()
            .map_err(|error| self.sql_error(&error))
    }

    /// How much lies in the outbox.
    pub fn outbox_counts(&self) -> Result<OutboxCounts, StoreError> {
        self.connection
            .query_row(
                "SELECT count(*) FILTER (WHERE state = 'queued'), count(*) FILTER (WHERE state = 'sent'),
                   count(*) FILTER (WHERE state = 'failed'), min(created_unix_ms) FILTER (WHERE state = 'queued')
                 FROM outbox",
                [],
                |row| {
                    Ok(OutboxCounts {
                        queued: row.get(0)?,
                        sent: row.get(1)?,
                        failed: row.get(2)?,
                        oldest_queued: row.get::<_, Option<i64>>(3)?.map(UnixMillis),
                    })
                },
            )
            .map_err(|error| self.sql_error(&error))
    }

    /// Queues a mail in a transaction of its own (`soakd mail --test`, the mailer's own alarm).
    pub fn enqueue(&mut self, run_id: Option<i64>, mail: &OutboxMail) -> Result<i64, StoreError> {
        self.record(|to| to.enqueue(run_id, mail))
    }

    /// Signs of life of `role` (`supervisor`, `mailer`).
    pub fn heartbeat_of(&self, role: &str) -> Result<Option<HeartbeatRow>, StoreError> {
        self.connection
            .query_row("SELECT unix_ms, pid, run_id, expects_unix_ms FROM heartbeat WHERE role = ?1", [role], |row| {
                Ok(HeartbeatRow {
                    at: UnixMillis(row.get(0)?),
                    pid: row.get(1)?,
                    run_id: row.get(2)?,
                    expects: row.get::<_, Option<i64>>(3)?.map(UnixMillis),
                })
            })
            .optional()
            .map_err(|error| self.sql_error(&error))
    }

    /// Both clocks at the last beat of `role`, if that was on the present `boot`.
    pub fn clocks_of(&self, role: &str, boot: &str) -> Result<Option<Now>, StoreError> {
        let sql = "SELECT unix_ms, mono_ms FROM heartbeat WHERE role = ?1 AND boot = ?2 AND mono_ms IS NOT NULL";
        let both = |row: &Row<'_>| Ok(Now { wall: UnixMillis(row.get(0)?), mono: MonoMillis(row.get(1)?) });
        self.connection.query_row(sql, [role, boot], both).optional().map_err(|error| self.sql_error(&error))
    }
}

fn queued_mail(row: &Row<'_>) -> rusqlite::Result<QueuedMail> {
    let plot: Option<String> = row.get("plot")?;
    Ok(QueuedMail {
        outbox_id: row.get("outbox_id")?,
        run_id: row.get("run_id")?,
        mail: OutboxMail {
            at: UnixMillis(row.get("created_unix_ms")?),
            kind: row.get("kind")?,
            message_id: row.get("message_id")?,
            in_reply_to: row.get("in_reply_to")?,
            route: row.get("route")?,
            subject: row.get("subject")?,
            text: row.get("body_text")?,
            html: row.get("body_html")?,
            plot: plot.as_deref().and_then(|plot| serde_json::from_str(plot).ok()),
            labels: read_json(row, "labels")?,
        },
        attempts: row.get("attempts")?,
        next: UnixMillis(row.get("next_unix_ms")?),
        failing_since: row.get::<_, Option<i64>>("failing_since_unix_ms")?.map(UnixMillis),
        last_error: row.get("last_error")?,
        settled: read_json(row, "settled")?,
    })
}

fn json(settled: &BTreeMap<String, Fate>) -> String {
    serde_json::to_string(settled).expect("a map of plain data")
}
