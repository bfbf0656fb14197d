//! What is known of every alert, as plain data: the book that a restart restores. How it moves on is left to `step` (states)
//! and `notify` (mails).

use crate::model::alert::{Alert, AlertGroup, AlertState, Decision, Severity};
use crate::model::mail::MailKind;
use crate::model::time::UnixMillis;
use std::collections::BTreeMap;

/// An alert as it stands in a notice.
#[derive(Debug, Clone, PartialEq)]
pub struct NoticeMember {
    /// The alert.
    pub alert: Alert,
    /// It is in this mail because it is new (not yet told).
    pub is_new: bool,
}

/// A mail to be written: who it is about, not yet its words.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    /// Group key.
    pub group: String,
    /// Rule of all members; empty for soakd's own storm notice.
    pub rule: String,
    /// Alert, resolved, digest or finished.
    pub kind: MailKind,
    /// The worst of its members.
    pub severity: Severity,
    /// Key into the routes.
    pub route: String,
    /// Which mail of this group it is, from 1.
    pub sequence: i64,
    /// Stable: a repeat carries the same one.
    pub message_id: String,
    /// The Message-ID of the mail that it follows.
    pub in_reply_to: Option<String>,
    /// Why it is sent.
    pub reason: String,
    /// The alerts, the newest first; cut at [`super::notify::MEMBERS_MAX`].
    pub members: Vec<NoticeMember>,
    /// How many there are.
    pub members_count: usize,
}

/// What one step changed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Step {
    /// Rows of the `alert` table to write: each as it is now.
    pub changed: Vec<Alert>,
    /// Groups to write.
    pub groups: Vec<(String, AlertGroup)>,
    /// Decisions to store.
    pub decisions: Vec<Decision>,
    /// Mails to write.
    pub notices: Vec<Notice>,
    /// True if something began or ended or is to be mailed: then the transaction must survive a power cut.
    pub matters: bool,
}

/// Everything that is known of alerts of one run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Book {
    /// Put into Message-IDs: unique for a run on a host.
    pub run_tag: String,
    /// Right-hand side of Message-IDs.
    pub host: String,
    /// By fingerprint: the present or the last episode.
    pub alerts: BTreeMap<String, Alert>,
    /// By group key.
    pub groups: BTreeMap<String, AlertGroup>,
    /// Moments at which mails were written in the last hour: the budget.
    pub mailed: Vec<UnixMillis>,
    /// When the storm notice was last written.
    pub storm_sent: Option<UnixMillis>,
    /// The next row of the `alert` table.
    pub next_alert_id: i64,
}

impl Book {
    /// Alerts that fire now.
    pub fn firing(&self) -> impl Iterator<Item = &Alert> {
        self.alerts.values().filter(|alert| alert.state == AlertState::Firing)
    }

    /// Alerts that may fire soon.
    pub fn pending(&self) -> impl Iterator<Item = &Alert> {
        self.alerts.values().filter(|alert| alert.state == AlertState::Pending)
    }

    /// The wall clock was stepped by `delta_ms`: all moments move along, so that what has lasted five minutes has still
    /// lasted five minutes.
    pub fn shift(&mut self, delta_ms: i64) {
        let shift = |at: &mut UnixMillis| at.0 += delta_ms;
        for alert in self.alerts.values_mut() {
            shift(&mut alert.active);
            shift(&mut alert.last_true);
            let moments = [&mut alert.fired, &mut alert.resolved, &mut alert.last_sent, &mut alert.resolved_sent];
            moments.into_iter().flatten().for_each(shift);
            alert.fires.iter_mut().for_each(shift);
        }
        for group in self.groups.values_mut() {
            [&mut group.since, &mut group.last_sent].into_iter().flatten().for_each(shift);
        }
        self.mailed.iter_mut().for_each(shift);
        self.storm_sent.iter_mut().for_each(shift);
    }
}

/// FNV-1a, 64 bits, as hex: stable over builds and machines, unlike the standard library's hashers.
pub(super) fn hash(parts: &[&str]) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        // A byte that no UTF-8 text holds keeps ("ab", "c") and ("a", "bc") apart.
        for byte in part.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    format!("{hash:016x}")
}
