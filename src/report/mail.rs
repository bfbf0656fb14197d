//! A mail's subject, text and HTML from plain facts. Pure: who is written to, when, and the picture are others' affairs.
//!
//! Text and HTML are two renderings of one [`Document`], so that neither says what the other leaves out. The reader is
//! on call at 03:00: the first lines say what broke, how much and since when; what to do comes before the evidence's detail.

mod evidence;
mod html;
mod own;
mod text;
mod words;

pub use evidence::evidence_from_row;
pub use own::{Silence, Unwritable, heartbeat_back, heartbeat_lost, standing, unwritable, writable_again};
pub use words::{duration, megabytes, utc};

use crate::model::alert::Severity;
use crate::model::mail::{MailFacts, MailKind, Rendered, RunStanding, Table};

/// Longest subject, characters. Phones show 40 to 70; a list view on a desktop about 120. What is cut is the summary,
/// never the severity, the host or the run.
const SUBJECT_CHARS_MAX: usize = 160;
/// Alerts listed in a group's mail; the rest is counted. A mail is read on a phone.
const MEMBERS_MAX: usize = 20;
/// Rows of the table of the last minutes.
const TABLE_ROWS_MAX: usize = 40;

/// Turns facts into a mail.
#[must_use]
pub fn render(facts: &MailFacts) -> Rendered {
    let document = document(facts);
    Rendered { subject: subject(facts), text: text::text(&document), html: html::html(&document) }
}

/// A mail before it is text or HTML.
struct Document {
    /// `PAGE`, `RESOLVED`, ...: the word that is not only a colour.
    badge: &'static str,
    /// Picks the accent colour.
    severity: Severity,
    /// Alert, resolved, digest, ...
    kind: MailKind,
    /// The summary.
    title: String,
    /// Name and value: host, run, since, rule.
    head: Vec<(String, String)>,
    /// What broke, in prose; last words line by line.
    lead: Vec<Block>,
    /// What the picture shows.
    plot_alt: Option<String>,
    /// The rest, in reading order.
    sections: Vec<(&'static str, Vec<Block>)>,
    /// Last line: who wrote this, and why the reader got it.
    foot: String,
}

/// One piece of a section.
enum Block {
    Prose(String),
    Bullets(Vec<String>),
    /// Numbered from `first` on: a command between two steps begins a list of its own.
    Steps {
        first: usize,
        items: Vec<String>,
    },
    Code(String),
    Facts(Vec<(String, String)>),
    Table(Table),
    Links(Vec<(String, String)>),
}

fn badge(facts: &MailFacts) -> &'static str {
    match (facts.kind, facts.severity) {
        (MailKind::Resolved, _) => "RESOLVED",
        (MailKind::Digest, _) => "DIGEST",
        (MailKind::Test, _) => "TEST",
        (_, Severity::Page) => "PAGE",
        (_, Severity::Ticket) => "TICKET",
        (_, Severity::Info) => "INFO",
    }
}

/// `hour 24 of 48`; minutes when the run is shorter than two hours.
fn hour_of(run: &RunStanding) -> String {
    const MINUTE_MS: i64 = 60_000;
    let (unit, name) = if run.duration_ms < 120 * MINUTE_MS { (MINUTE_MS, "minute") } else { (60 * MINUTE_MS, "hour") };
    // Whole units served, so that "hour 48 of 48" is said when 48 hours were served and not an hour before.
    format!("{name} {} of {}", run.elapsed_ms.max(0) / unit, (run.duration_ms + unit / 2) / unit)
}

fn subject(facts: &MailFacts) -> String {
    let tail = match (&facts.run, facts.kind) {
        (Some(run), MailKind::Digest) => format!(" (run {})", run.run_id),
        (Some(run), _) => format!(" (run {}, {})", run.run_id, hour_of(run)),
        (None, _) => String::new(),
    };
    let hour = match (&facts.run, facts.kind) {
        (Some(run), MailKind::Digest) => format!("{}: ", hour_of(run)),
        _ => String::new(),
    };
    let head = format!("[{}] {}: {hour}", badge(facts), words::cut(&words::one_line(&facts.host), 64));
    let room = SUBJECT_CHARS_MAX.saturating_sub(head.chars().count() + tail.chars().count());
    format!("{head}{}{tail}", words::cut(&words::one_line(&facts.summary), room))
}

fn document(facts: &MailFacts) -> Document {
    let mut sections: Vec<(&'static str, Vec<Block>)> = Vec::new();
    let mut add = |heading, blocks: Vec<Block>| {
        if !blocks.is_empty() {
            sections.push((heading, blocks));
        }
    };
    add("What it means", prose(&facts.meaning));
    add("What to do next", prose(&facts.runbook));
    add("Evidence", evidence_blocks(facts));
    add("Alerts in this mail", member_blocks(facts));
    add("The last minutes", facts.recent.iter().map(|t| Block::Table(cut_table(t))).collect());
    add("How to reproduce it", query_blocks(&facts.query));
    let links = facts.links.iter().map(|l| (words::one_line(&l.what), words::one_line(&l.target))).collect::<Vec<_>>();
    add("Where to read on", if links.is_empty() { vec![] } else { vec![Block::Links(links)] });
    Document {
        badge: badge(facts),
        severity: facts.severity,
        kind: facts.kind,
        title: words::one_line(&facts.summary),
        head: head(facts),
        lead: prose(&facts.description),
        plot_alt: facts.plot_alt.as_deref().map(words::one_line),
        sections,
        foot: format!("Written by soakd on {}, {}.", words::one_line(&facts.host), utc(facts.at)),
    }
}

fn head(facts: &MailFacts) -> Vec<(String, String)> {
    let mut head = vec![("Host".to_owned(), words::one_line(&facts.host))];
    if let Some(run) = &facts.run {
        head.push(("Run".to_owned(), format!("{}, {}: {}", run.run_id, hour_of(run), words::one_line(&run.what))));
    }
    // A verdict or a digest is no state that lasts.
    let lasts = !matches!(facts.kind, MailKind::Finished | MailKind::Digest);
    if let Some(since) = facts.since.filter(|_| lasts) {
        let ago = match facts.until {
            Some(until) => format!("{} (lasted {})", utc(since), duration(until.0 - since.0)),
            None => format!("{} ({} before this mail was written)", utc(since), duration(facts.at.0 - since.0)),
        };
        head.push(("Since".to_owned(), ago));
    }
    if let Some(until) = facts.until {
        head.push(("Until".to_owned(), utc(until)));
    }
    if !facts.rule.is_empty() {
        head.push(("Rule".to_owned(), format!("{} ({})", words::one_line(&facts.rule), facts.severity.as_str())));
    }
    head
}

fn evidence_blocks(facts: &MailFacts) -> Vec<Block> {
    if facts.evidence.is_empty() {
        return vec![];
    }
    let rows = facts.evidence.iter().map(|e| {
        let value = match &e.interval {
            Some(interval) => format!("{} ({})", words::one_line(&e.value), words::one_line(interval)),
            None => words::one_line(&e.value),
        };
        (words::one_line(&e.what), value)
    });
    vec![Block::Facts(rows.collect())]
}

fn member_blocks(facts: &MailFacts) -> Vec<Block> {
    if facts.members.len() < 2 {
        return vec![];
    }
    let mut lines: Vec<String> = facts
        .members
        .iter()
        .take(MEMBERS_MAX)
        .map(|m| {
            let since = m.since.map(|s| format!(", since {}", utc(s))).unwrap_or_default();
            format!("{} ({}{since})", words::one_line(&m.summary), words::one_line(&m.state))
        })
        .collect();
    let more = facts.members_count.max(facts.members.len()) - lines.len();
    if more > 0 {
        lines.push(format!("and {more} more: soakd alerts lists them all"));
    }
    vec![Block::Bullets(lines)]
}

fn cut_table(table: &Table) -> Table {
    let skipped = table.rows.len().saturating_sub(TABLE_ROWS_MAX);
    let clean = |row: &Vec<String>| row.iter().map(|cell| words::one_line(cell)).collect();
    let note = if skipped > 0 { format!(" (the newest {TABLE_ROWS_MAX} rows)") } else { String::new() };
    Table {
        caption: format!("{}{note}", words::one_line(&table.caption)),
        columns: clean(&table.columns),
        rows: table.rows.iter().skip(skipped).map(clean).collect(),
    }
}

fn query_blocks(query: &str) -> Vec<Block> {
    if query.trim().is_empty() {
        return vec![];
    }
    vec![
        Block::Prose("With sqlite3, or as the argument of soakd query:".to_owned()),
        Block::Code(words::printable(query.trim())),
    ]
}

/// Prose with the little markup that a runbook needs: blank lines part paragraphs, `- ` and `1. ` start list items, four
/// spaces indent a command. A line that does none of it goes on with the paragraph or item before it.
fn prose(source: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false; // whether the next plain line goes on with the last block
    for raw in words::printable(source).lines() {
        let line = raw.trim();
        let item = line.strip_prefix("- ").or_else(|| line.strip_prefix("* "));
        let step = line.split_once(". ").and_then(|(n, text)| Some((n.parse().ok()?, text.to_owned())));
        match blocks.last_mut() {
            _ if line.is_empty() => {
                open = false;
                continue;
            }
            Some(Block::Code(code)) if raw.starts_with("    ") && open => {
                code.push('\n');
                code.push_str(&raw[4..]);
            }
            _ if raw.starts_with("    ") && !open => blocks.push(Block::Code(raw[4..].to_owned())),
            Some(Block::Bullets(items)) if item.is_some() => items.push(item.unwrap_or_default().to_owned()),
            _ if item.is_some() => blocks.push(Block::Bullets(vec![item.unwrap_or_default().to_owned()])),
            Some(Block::Steps { items, .. }) if step.is_some() => items.extend(step.map(|(_, text)| text)),
            _ if step.is_some() => {
                blocks.extend(step.map(|(first, text)| Block::Steps { first, items: vec![text] }));
            }
            Some(Block::Prose(text)) if open => {
                text.push(' ');
                text.push_str(line);
            }
            Some(Block::Bullets(items) | Block::Steps { items, .. }) if open => {
                if let Some(last) = items.last_mut() {
                    last.push(' ');
                    last.push_str(line);
                }
            }
            _ => blocks.push(Block::Prose(line.to_owned())),
        }
        open = true;
    }
    blocks
}

#[cfg(test)]
mod tests;
