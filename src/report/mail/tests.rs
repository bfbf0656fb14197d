//! What a mail must say, and what nobody can make it say.

use super::{evidence_from_row, prose, render};
use crate::model::alert::Severity;
use crate::model::mail::{Evidence, Link, MailFacts, MailKind, Member, RunStanding, Table};
use crate::model::time::UnixMillis;
use proptest::prelude::*;
use serde_json::json;

const HOUR_MS: i64 = 3_600_000;

fn leak() -> MailFacts {
    let run =
        RunStanding { run_id: 3, elapsed_ms: 24 * HOUR_MS + 5, duration_ms: 48 * HOUR_MS, what: "8B q4_k".into() };
    MailFacts {
        rule: "leak_outside".into(),
        description: "The worker holds more memory every hour.".into(),
        since: Some(UnixMillis(1_772_330_000_000)),
        evidence: vec![Evidence {
            what: "drift over 48 h".into(),
            value: "+212 MB".into(),
            interval: Some("95 % interval +198 MB to +227 MB".into()),
        }],
        meaning: "At this rate the tolerance is used up.".into(),
        runbook: "Look at the worker.\n\n1. First.\n2. Second\n   goes on.\n\n    soakd report 3\n    soakd runs"
            .into(),
        recent: Some(Table {
            caption: "worker-0".into(),
            columns: vec!["time".into(), "RSS MB".into()],
            rows: vec![vec!["03:00".into(), "812.0".into()]],
        }),
        query: "SELECT * FROM v_finding WHERE run_id = 3".into(),
        run: Some(run),
        links: vec![Link { what: "Database".into(), target: "/var/lib/soakd/soak.db".into() }],
        plot_alt: Some("Memory of worker-0 rises".into()),
        ..MailFacts::new(
            MailKind::Alert,
            Severity::Page,
            "gpu-07",
            UnixMillis(1_772_333_600_000),
            "worker-0 leaks +212 MB over 48 h",
        )
    }
}

#[test]
fn what_is_to_be_typed_is_set_as_code_and_a_stray_backtick_stays() {
    use super::html::prose;
    assert_eq!(prose("run `a && b`, then `c`."), "run <code>a &amp;&amp; b</code>, then <code>c</code>.");
    assert_eq!(prose("a ` b <c>"), "a ` b &lt;c&gt;");
}

#[test]
fn the_subject_tells_severity_host_what_how_much_run_and_hour() {
    assert_eq!(render(&leak()).subject, "[PAGE] gpu-07: worker-0 leaks +212 MB over 48 h (run 3, hour 24 of 48)");
    let resolved = MailFacts { kind: MailKind::Resolved, ..leak() };
    assert!(render(&resolved).subject.starts_with("[RESOLVED] gpu-07: "));
    let digest =
        MailFacts { kind: MailKind::Digest, summary: "within so far, can see ≥ 14 MB, 0 crashes".into(), ..leak() };
    assert_eq!(
        render(&digest).subject,
        "[DIGEST] gpu-07: hour 24 of 48: within so far, can see ≥ 14 MB, 0 crashes (run 3)"
    );
}

#[test]
fn a_long_summary_is_cut_before_the_run_is() {
    let subject = render(&MailFacts { summary: "x".repeat(4_000), ..leak() }).subject;
    assert!(subject.chars().count() <= 160, "{subject}");
    assert!(subject.starts_with("[PAGE] gpu-07: xx") && subject.ends_with("… (run 3, hour 24 of 48)"), "{subject}");
}

#[test]
fn text_and_html_both_say_everything() {
    let mail = render(&leak());
    for what in [
        "worker-0 leaks +212 MB over 48 h",
        "gpu-07",
        "The worker holds more memory every hour.",
        "2026-03-01 01:53:20 UTC",
        "1 h 0 min",
        "leak_outside",
        "95 % interval +198 MB to +227 MB",
        "At this rate the tolerance is used up.",
        "Second goes on.",
        "soakd report 3",
        "812.0",
        "SELECT * FROM v_finding WHERE run_id = 3",
        "/var/lib/soakd/soak.db",
    ] {
        assert!(mail.text.contains(what), "the text lacks {what:?}:\n{}", mail.text);
        assert!(mail.html.contains(what), "the HTML lacks {what:?}:\n{}", mail.html);
    }
    assert!(mail.html.contains("src=\"cid:plot\" alt=\"Memory of worker-0 rises\""));
    assert!(!mail.html.contains("src=\"http"), "a mail fetches nothing");
}

#[test]
fn text_lines_are_short_but_for_code_and_tables() {
    let facts = MailFacts { description: "word ".repeat(400), query: String::new(), ..leak() };
    let mail = render(&facts);
    let longest = mail.text.lines().map(|l| l.chars().count()).max().expect("lines");
    assert!(longest <= 78, "{longest} columns:\n{}", mail.text);
}

/// A traceback that runs on as prose tells nobody at night what broke.
#[test]
fn last_words_stay_line_by_line() {
    let description =
        "It ended unasked.\n\nIts last words on stderr:\n\n    Traceback:\n      File \"a.py\"\n    ValueError: 7";
    let mail = render(&MailFacts { description: description.into(), ..leak() });
    let lines = "stderr:\n\n    Traceback:\n      File \"a.py\"\n    ValueError: 7\n";
    assert!(mail.text.contains(lines), "{}", mail.text);
    let lines = "<pre><code>Traceback:\n  File &quot;a.py&quot;\nValueError: 7</code></pre>";
    assert!(mail.html.contains(lines), "{}", mail.html);
}

#[test]
fn figures_are_aligned_at_their_end_and_words_at_their_beginning() {
    let cells = |row: [&str; 3]| row.map(str::to_owned).to_vec();
    let table = Table {
        caption: "events".into(),
        columns: cells(["time", "MB", "what"]),
        rows: vec![cells(["03:00", "9.5", "started"]), cells(["03:01", "812.0", "what a long sentence"])],
    };
    let mail = render(&MailFacts { recent: Some(table), ..leak() });
    let drawn = "time      MB  what\n03:00    9.5  started\n03:01  812.0  what a long sentence\n";
    assert!(mail.text.contains(drawn), "{}", mail.text);
    assert!(mail.html.contains("<td>9.5</td><td class=\"words\">started</td>"), "{}", mail.html);
}

#[test]
fn a_group_is_listed_and_what_does_not_fit_is_counted() {
    let member = |i| Member { summary: format!("worker-{i} crashed"), since: None, state: "firing".into() };
    let facts = MailFacts { members: (0..30).map(member).collect(), members_count: 10_000, ..leak() };
    let mail = render(&facts);
    assert!(mail.text.contains("worker-19 crashed") && !mail.text.contains("worker-20 crashed"), "{}", mail.text);
    assert!(mail.text.contains("and 9980 more"), "{}", mail.text);
}

#[test]
fn a_runbook_keeps_its_lists_and_commands() {
    let kinds: Vec<&str> =
        prose("Do this:\n- a\n- b\n  more\n\n1. x\n2. y\n\n    cmd 1\n      cmd 2\n\n3. z\n\nEnd\nof it.")
            .iter()
            .map(|b| match b {
                super::Block::Prose(_) => "prose",
                super::Block::Bullets(items) if items == &["a", "b more"] => "bullets",
                super::Block::Steps { first: 1, items } if items == &["x", "y"] => "steps",
                super::Block::Steps { first: 3, items } if items == &["z"] => "third step",
                super::Block::Code(code) if code == "cmd 1\n  cmd 2" => "code",
                _ => "wrong",
            })
            .collect();
    assert_eq!(kinds, ["prose", "bullets", "steps", "code", "third step", "prose"]);
}

#[test]
fn evidence_reads_the_units_off_the_column_names() {
    let row = json!({
        "series": "worker-0.anon_swap", "drift_bytes": 212_000_000, "drift_lo_bytes": 198_000_000,
        "drift_hi_bytes": 227_000_000, "temperature_celsius": 91, "p95_us": 61_200, "crashes": 3,
    });
    let row = row.as_object().expect("an object");
    let evidence = evidence_from_row(row.iter().map(|(k, v)| (k.as_str(), v)));
    let mut lines: Vec<String> = evidence
        .iter()
        .map(|e| {
            format!("{}: {}{}", e.what, e.value, e.interval.as_ref().map(|i| format!(", {i}")).unwrap_or_default())
        })
        .collect();
    lines.sort();
    assert_eq!(
        lines,
        ["crashes: 3", "drift: +212 MB, 95 % interval +198 MB to +227 MB", "p95: 61.2 ms", "temperature: 91 °C"]
    );
}

proptest! {
    /// Whatever a label or a host name holds: the subject is one line and the HTML has no element of its making.
    #[test]
    fn nothing_breaks_out(evil in "\\PC*|(?s:.*)", host in "(?s:.{0,80})") {
        let facts = MailFacts {
            host: format!("{host}\r\nBcc: x@y"),
            summary: format!("<script>{evil}\u{202e}"),
            description: evil.clone(),
            runbook: evil.clone(),
            rule: evil.clone(),
            query: format!("{evil}</code>"),
            plot_alt: Some(format!("\" onload=\"{evil}")),
            links: vec![Link { what: evil.clone(), target: format!("javascript:{evil}") }],
            ..leak()
        };
        let mail = render(&facts);
        prop_assert!(!mail.subject.chars().any(|c| c.is_control() || c == '\u{202e}'), "{:?}", mail.subject);
        prop_assert!(!mail.html.contains("<script") && !mail.html.contains("\" onload"));
        prop_assert!(!mail.html.contains("href=\"javascript"));
        prop_assert_eq!(mail.html.matches("</code>").count(), mail.html.matches("<code>").count());
        prop_assert_eq!(mail.html.matches("<html").count(), 1);
    }
}
