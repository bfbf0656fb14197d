//! The outbox: mails wait here until they are delivered. [`Writing::enqueue`] puts one in within the transaction that
//! records what it tells of; the mailer takes them out in order. Delivery itself is left to `mail`.

use super::error::StoreError;
use super::write::Writing;
use super::{Store, read_json};
use crate::model::alert::OutboxMail;
use crate::model::time::UnixMillis;
use rusqlite::{OptionalExtension, Row, params};

/// A queued mail with its row.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboxRow {
    /// Row of the `outbox` table; delivery is in this order.
    pub outbox_id: i64,
    /// Run it belongs to.
    pub run_id: Option<i64>,
    /// The mail.
    pub mail: OutboxMail,
    /// Times it was tried.
    pub attempts: i64,
    /// Not to be tried before.
    pub next: UnixMillis,
    /// What the server said last.
    pub last_error: Option<String>,
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

    /// The server took it.
    pub fn mail_sent(&self, outbox_id: i64, at: UnixMillis) -> Result<(), StoreError> {
        self.execute(
            "UPDATE outbox SET state = 'sent', attempts = attempts + 1, sent_unix_ms = ?2 WHERE outbox_id = ?1",
            params![outbox_id, at.0],
        )
        .map(|_| ())
    }

    /// It was tried and is to be tried again, not before `next`.
    pub fn mail_retry(&self, outbox_id: i64, next: UnixMillis, error: &str) -> Result<(), StoreError> {
        self.execute(
            "UPDATE outbox SET attempts = attempts + 1, next_unix_ms = ?2, last_error = ?3 WHERE outbox_id = ?1",
            params![outbox_id, next.0, error],
        )
        .map(|_| ())
    }

    /// The server said never: set aside.
    pub fn mail_failed(&self, outbox_id: i64, error: &str) -> Result<(), StoreError> {
        self.execute(
            "UPDATE outbox SET state = 'failed', attempts = attempts + 1, last_error = ?2 WHERE outbox_id = ?1",
            params![outbox_id, error],
        )
        .map(|_| ())
    }
}

impl Store {
    /// The mails that wait, oldest first.
    pub fn outbox_queued(&self, limit: usize) -> Result<Vec<OutboxRow>, StoreError> {
        let read = || -> rusqlite::Result<Vec<OutboxRow>> {
            let mut statement = self
                .connection
                .prepare_cached("SELECT * FROM outbox WHERE state = 'queued' ORDER BY outbox_id LIMIT ?1")?;
            let rows = statement.query_map([limit as i64], outbox_row)?;
            rows.collect()
        };
        read().map_err(|error| self.sql_error(&error))
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

    /// See [`Writing::mail_sent`].
    pub fn mail_sent(&mut self, outbox_id: i64, at: UnixMillis) -> Result<(), StoreError> {
        self.record(|to| to.mail_sent(outbox_id, at))
    }

    /// See [`Writing::mail_retry`].
    pub fn mail_retry(&mut self, outbox_id: i64, next: UnixMillis, error: &str) -> Result<(), StoreError> {
        self.record(|to| to.mail_retry(outbox_id, next, error))
    }

    /// See [`Writing::mail_failed`].
    pub fn mail_failed(&mut self, outbox_id: i64, error: &str) -> Result<(), StoreError> {
        self.record(|to| to.mail_failed(outbox_id, error))
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
}

fn outbox_row(row: &Row<'_>) -> rusqlite::Result<OutboxRow> {
    let plot: Option<String> = row.get("plot")?;
    Ok(OutboxRow {
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
        last_error: row.get("last_error")?,
    })
}
