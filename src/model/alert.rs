//! Alerts as plain data: what a rule found, and what became of it.

use super::time::UnixMillis;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Who should be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// For the record.
    Info,
    /// In working hours.
    Ticket,
    /// Now.
    Page,
}

impl Severity {
    /// The `severity` column.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Ticket => "ticket",
            Severity::Page => "page",
        }
    }
}

/// Prometheus's states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertState {
    /// True, but not yet for as long as the rule asks.
    Pending,
    /// True for long enough.
    Firing,
    /// Was firing, and is no longer true.
    Resolved,
}

impl AlertState {
    /// The `state` column.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            AlertState::Pending => "pending",
            AlertState::Firing => "firing",
            AlertState::Resolved => "resolved",
        }
    }
}

/// One row that a rule returned: column → value.
pub type Row = BTreeMap<String, serde_json::Value>;

/// One episode of one alert: from the moment it became true to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Alert {
    /// Row of the `alert` table; given by the book.
    pub alert_id: i64,
    /// Rule that found it.
    pub rule: String,
    /// Rule and labels, hashed: what makes it the same alert next time.
    pub fingerprint: String,
    /// What tells it apart.
    pub labels: BTreeMap<String, String>,
    /// The row as the rule returned it last.
    pub values: Row,
    /// Who should be woken.
    pub severity: Severity,
    /// Key into the routes.
    pub route: String,
    /// Which mail it goes into.
    pub group: String,
    /// Pending, firing or resolved.
    pub state: AlertState,
    /// Since when it has been true.
    pub active: UnixMillis,
    /// When it began to fire, if it did.
    pub fired: Option<UnixMillis>,
    /// When its row was last there.
    pub last_true: UnixMillis,
    /// When it ended.
    pub resolved: Option<UnixMillis>,
    /// When a mail last said that it fires.
    pub last_sent: Option<UnixMillis>,
    /// When a mail said that it ended.
    pub resolved_sent: Option<UnixMillis>,
    /// Nothing more is to be said of it.
    pub settled: bool,
    /// When someone said "I have it", and who.
    pub acked: Option<(UnixMillis, String)>,
    /// When it began to fire, lately (over episodes): how flapping is told.
    pub fires: Vec<UnixMillis>,
    /// The last decision's reason, so that only a new one is stored.
    pub last_reason: String,
    /// Rendered texts.
    pub summary: String,
    /// Rendered.
    pub description: String,
    /// Rendered.
    pub runbook: String,
}

/// Alerts that go out as one mail.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AlertGroup {
    /// Rule of all its alerts.
    pub rule: String,
    /// When the first alert of the present episode fired.
    pub since: Option<UnixMillis>,
    /// When a mail was last written.
    pub last_sent: Option<UnixMillis>,
    /// Message-ID of the first mail of the present episode: what the others follow.
    pub thread: Option<String>,
    /// Message-ID of the last mail.
    pub last_message: Option<String>,
    /// Mails ever written for it: makes Message-IDs unique and stable.
    pub mails: i64,
}

/// A silence: alerts that match are not mailed while it lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silence {
    /// Row of the `silence` table.
    pub silence_id: i64,
    /// Which rule; `None`: any.
    pub rule: Option<String>,
    /// Labels that must be equal.
    pub labels: BTreeMap<String, String>,
    /// From.
    pub from: UnixMillis,
    /// To.
    pub until: UnixMillis,
    /// Why.
    pub why: String,
    /// Who.
    pub who: String,
}

impl Silence {
    /// Whether it silences `alert` at `now`.
    #[must_use]
    pub fn covers(&self, alert: &Alert, now: UnixMillis) -> bool {
        self.from <= now
            && now < self.until
            && self.rule.as_ref().is_none_or(|rule| *rule == alert.rule)
            && self.labels.iter().all(|(name, value)| alert.labels.get(name) == Some(value))
    }
}

/// To send or not, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// About which alert; `None`: about a group or all of them.
    pub alert_id: Option<i64>,
    /// A mail says so, or none does.
    pub send: bool,
    /// Why.
    pub reason: String,
    /// Index into the list of mails of that step if it is sent.
    pub notice: Option<usize>,
}

/// A mail to be written into the outbox, in the same transaction as what it tells of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutboxMail {
    /// When it was written.
    pub at: UnixMillis,
    /// `alert`, `resolved`, `digest`, `finished`, `heartbeat` or `test`.
    pub kind: String,
    /// Stable: a repeat carries the same one.
    pub message_id: String,
    /// The Message-ID of the mail this one follows.
    pub in_reply_to: Option<String>,
    /// Key into the configured routes; who that is, is decided at delivery.
    pub route: String,
    /// Subject, one line.
    pub subject: String,
    /// The text part: stands alone.
    pub text: String,
    /// The HTML part; refers to the plot as `cid:plot`.
    pub html: String,
    /// What the inline picture shows: series names and the time window; drawn at delivery from the database.
    pub plot: Option<PlotSpec>,
    /// Labels, for `soakd alerts` and for grouping.
    pub labels: BTreeMap<String, String>,
}

/// Says which picture belongs into a mail or a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlotSpec {
    /// Row of the `run` table.
    pub run_id: i64,
    /// Series by name, such as `worker-0.anon_swap`.
    pub series: Vec<String>,
    /// From.
    pub from: UnixMillis,
    /// To.
    pub to: UnixMillis,
}
