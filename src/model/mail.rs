//! What a mail is made of, as plain data. Whoever raises the alert fills this in; `report::mail` turns it into subject,
//! text and HTML. Nothing here is markup, and nothing here decides whether a mail is sent.

use super::alert::{OutboxMail, Severity};
use super::time::UnixMillis;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Why a mail is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MailKind {
    /// Something fires (or still fires, when repeated).
    Alert,
    /// What fired is no longer true.
    Resolved,
    /// The daily word that all goes on: its absence is an alarm too.
    Digest,
    /// The run is over, with its verdict.
    Finished,
    /// The mailer's own alarm: the supervisor's heartbeat stopped, or it came back.
    Heartbeat,
    /// `soakd mail --test`.
    Test,
}

impl MailKind {
    /// The `kind` column of the outbox.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            MailKind::Alert => "alert",
            MailKind::Resolved => "resolved",
            MailKind::Digest => "digest",
            MailKind::Finished => "finished",
            MailKind::Heartbeat => "heartbeat",
            MailKind::Test => "test",
        }
    }
}

/// Where the run stood when the mail was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunStanding {
    /// Row of the `run` table.
    pub run_id: i64,
    /// Served so far, milliseconds.
    pub elapsed_ms: i64,
    /// Planned, milliseconds.
    pub duration_ms: i64,
    /// What soaks, such as `synthetic:tiny q4_k on cuda, 4 streams`.
    pub what: String,
}

/// One figure with its name and, where one is known, its interval. All of it is ready to print.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// What was measured: `drift over 48 h`.
    pub what: String,
    /// How much: `+212 MB`.
    pub value: String,
    /// How sure: `95 % interval +198 MB to +227 MB`.
    pub interval: Option<String>,
}

/// A small table, such as the last ten minutes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Table {
    /// Read before the table, by eye or by a screen reader.
    pub caption: String,
    /// Headings, units included.
    pub columns: Vec<String>,
    /// Rows; each as long as `columns`.
    pub rows: Vec<Vec<String>>,
}

/// One alert of a group that goes out as one mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// One line.
    pub summary: String,
    /// Since when it has been true.
    pub since: Option<UnixMillis>,
    /// `firing` or `resolved`.
    pub state: String,
}

/// Where to read on: a file path, a command or an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// What it is.
    pub what: String,
    /// Where it is; made clickable only if it starts with `https://` or `http://`.
    pub target: String,
}

/// All that a mail says. Empty strings and empty lists leave their section out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MailFacts {
    /// Why.
    pub kind: MailKind,
    /// Who should be woken.
    pub severity: Severity,
    /// Which machine.
    pub host: String,
    /// When this was written.
    pub at: UnixMillis,
    /// Which rule found it; empty for a digest or a test.
    pub rule: String,
    /// What and how much, one line: it becomes the middle of the subject.
    pub summary: String,
    /// What broke, in a few sentences.
    pub description: String,
    /// Since when it has been true.
    pub since: Option<UnixMillis>,
    /// Until when it was true, once resolved.
    pub until: Option<UnixMillis>,
    /// Figures, with intervals.
    pub evidence: Vec<Evidence>,
    /// What it means for the machine.
    pub meaning: String,
    /// What to do next. Blank lines part paragraphs, `- ` and `1. ` start list items, four spaces indent a command.
    pub runbook: String,
    /// The last ten minutes.
    pub recent: Option<Table>,
    /// The SQL that reproduces it, bound parameters filled in.
    pub query: String,
    /// Where the run stands; `None` when no run is known.
    pub run: Option<RunStanding>,
    /// The alerts of the group. One or none: the mail is about the summary alone.
    pub members: Vec<Member>,
    /// How many alerts the group has, when `members` was cut short.
    pub members_count: usize,
    /// Where to read on.
    pub links: Vec<Link>,
    /// What the inline picture shows, in words; `None`: the mail has no picture.
    pub plot_alt: Option<String>,
}

impl MailFacts {
    /// A mail with nothing but its head; fill in the rest with struct update syntax.
    #[must_use]
    pub fn new(kind: MailKind, severity: Severity, host: &str, at: UnixMillis, summary: &str) -> Self {
        MailFacts {
            kind,
            severity,
            host: host.to_owned(),
            at,
            rule: String::new(),
            summary: summary.to_owned(),
            description: String::new(),
            since: None,
            until: None,
            evidence: Vec::new(),
            meaning: String::new(),
            runbook: String::new(),
            recent: None,
            query: String::new(),
            run: None,
            members: Vec::new(),
            members_count: 0,
            links: Vec::new(),
            plot_alt: None,
        }
    }
}

/// A mail ready for the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendered {
    /// One line, without control characters.
    pub subject: String,
    /// The text part: stands alone.
    pub text: String,
    /// The HTML part: a whole document; shows the picture as `cid:plot`.
    pub html: String,
}

/// Stands once in the HTML where the mailer puts what it learned at delivery (how long SMTP was down, what waits).
pub const NOTE_MARK: &str = "<!--delivery-note-->";
/// Opens the part of the HTML that goes when the picture cannot be drawn.
pub const PLOT_OPEN: &str = "<!--plot-->";
/// Closes it.
pub const PLOT_CLOSE: &str = "<!--/plot-->";
/// Content-ID of the inline picture.
pub const PLOT_CID: &str = "plot";

/// A row of the outbox that waits, as the mailer takes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueuedMail {
    /// Row of the `outbox` table; smaller is older.
    pub outbox_id: i64,
    /// The run it tells of.
    pub run_id: Option<i64>,
    /// What to send.
    pub mail: OutboxMail,
    /// Attempts so far.
    pub attempts: u32,
    /// Not before.
    pub next: UnixMillis,
    /// When its first attempt failed; `None` before that.
    pub failing_since: Option<UnixMillis>,
    /// What the last attempt failed with.
    pub last_error: Option<String>,
    /// Recipients who need no further attempt: they have it, or their server will never take it.
    pub settled: BTreeMap<String, Fate>,
}

/// What became of a mail for one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The server took it.
    Delivered,
    /// The server will never take it, and says why.
    Rejected(String),
}

/// Who refused it, and why: `a@x.org: 550 no such user; ...`, empty if all have it.
#[must_use]
pub fn refusals(settled: &BTreeMap<String, Fate>) -> String {
    let each = settled.iter().filter_map(|(address, fate)| match fate {
        Fate::Rejected(why) => Some(format!("{address}: {why}")),
        Fate::Delivered => None,
    });
    each.collect::<Vec<_>>().join("; ")
}

/// A Message-ID from parts that name the mail for good (kind, run, alert, how often sent), so that a repeat carries the
/// same one. Whatever the parts and the host hold, the result is one `<left@right>` token.
#[must_use]
pub fn message_id(parts: &[&str], host: &str) -> String {
    let clean = |s: &str, max: usize| {
        let s: String =
            s.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).take(max).collect();
        if s.is_empty() { "x".to_owned() } else { s }
    };
    let left: Vec<String> = parts.iter().map(|part| clean(part, 64)).collect();
    let right: Vec<String> = host.split('.').take(8).map(|label| clean(label, 63)).collect();
    format!("<{}@{}.soakd>", left.join("."), right.join("."))
}
