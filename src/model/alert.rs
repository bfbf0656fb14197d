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
