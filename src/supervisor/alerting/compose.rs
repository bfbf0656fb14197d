//! What a mail about alerts is made of: plain facts from the notice, its rule and the run. The words and the markup are left
//! to `report::mail`.

use super::AlertContext;
use crate::model::alert::{Alert, AlertState, PlotSpec, Row};
use crate::model::mail::{Evidence, MailFacts, MailKind, Member, RunStanding, Table};
use crate::model::time::UnixMillis;
use crate::rules::{Notice, Rule, Templates};
use crate::store::sql::Rows;
use serde_json::Value;
use std::collections::BTreeMap;

/// Series in one picture: more lines than this cannot be told apart.
const SERIES_MAX: usize = 4;
/// A picture shows at most so much time: what is older is in the report.
const PICTURE_MS: i64 = 86_400_000;

/// The last ten minutes of all workers together. Of a worker that was started again within a minute the life that held more counts,
/// and its tokens are a rate over all its lives there. A minute in which nobody lived is told, but not one that is just over and not yet written.
pub(super) const RECENT_SQL: &str = "
WITH RECURSIVE minute(at) AS (
  SELECT max(:now_ms - 600000, :started_ms) / 60000 * 60000
  UNION ALL SELECT at + 60000 FROM minute WHERE at + 60000 <= :now_ms),
held AS (
  SELECT at, sum(bytes) AS bytes, sum(vram) AS vram FROM (
    SELECT m.minute_unix_ms AS at, max(m.anon_swap_bytes) AS bytes, max(m.vram_bytes) AS vram
    FROM process AS p JOIN process_minute AS m USING (process_id)
    WHERE p.run_id = :run AND p.role IN ('worker', 'target') AND m.minute_unix_ms > :now_ms - 660000
    GROUP BY m.minute_unix_ms, p.role, p.ordinal) GROUP BY at),
made AS (
  SELECT at, sum(rate) AS rate FROM (
    SELECT w.minute_unix_ms AS at,
      sum(w.tokens_last - w.tokens_first) * 1000.0 / nullif(max(w.last_unix_ms) - min(w.first_unix_ms), 0) AS rate
    FROM process AS p JOIN work_minute AS w USING (process_id)
    WHERE p.run_id = :run AND w.minute_unix_ms > :now_ms - 660000
    GROUP BY w.minute_unix_ms, p.role, p.ordinal) GROUP BY at)
SELECT strftime('%H:%M', at / 1000, 'unixepoch') AS \"minute (UTC)\",
  CASE WHEN h.bytes IS NOT NULL THEN printf('%.1f', h.bytes / 1e6)
    WHEN EXISTS (SELECT 1 FROM gap WHERE run_id = :run AND from_unix_ms < at + 60000 AND to_unix_ms > at) THEN 'not watched'
    ELSE 'no worker' END AS \"memory held, MB\",
  CASE WHEN h.vram IS NULL THEN '–' ELSE printf('%.1f', h.vram / 1e6) END AS \"VRAM, MB\",
  CASE WHEN w.rate IS NULL THEN '–' ELSE printf('%.1f', w.rate) END AS \"tokens/s\",
  (SELECT count(*) FROM event AS e WHERE e.run_id = :run AND e.severity <> 'info'
    AND e.unix_ms >= at AND e.unix_ms < at + 60000) AS \"events\"
FROM minute LEFT JOIN held AS h USING (at) LEFT JOIN made AS w USING (at)
WHERE h.at IS NOT NULL OR at + 65000 <= :now_ms
ORDER BY at";

#[allow(clippy::too_many_arguments)] // one call; each is a different kind of thing
pub(super) fn facts(
    notice: &Notice,
    rule: Option<&Rule>,
    context: &AlertContext,
    templates: &Templates,
    now: UnixMillis,
    elapsed_ms: i64,
    recent: Option<Rows>,
    params: &[(&str, Value)],
) -> MailFacts {
    let first = notice.members.first().map(|member| &member.alert);
    let row = first.map(|alert| alert.values.clone()).unwrap_or_default();
    let text = |template: fn(&Rule) -> &str| {
        rule.map(|rule| templates.render(template(rule), &row)).unwrap_or_default().trim().to_owned()
    };
    let plot_series = series(notice, rule, templates);
    MailFacts {
        rule: notice.rule.clone(),
        description: description(notice, first),
        since: notice.members.iter().map(|member| since(&member.alert)).min(),
        until: until(notice),
        evidence: rule.map(|rule| evidence(rule, templates, &row)).unwrap_or_default(),
        meaning: text(|rule| &rule.meaning),
        runbook: first.map(|alert| alert.runbook.trim().to_owned()).unwrap_or_default(),
        recent: recent.filter(|rows| !rows.rows.is_empty()).map(table),
        query: rule.map(|rule| filled(&rule.sql, params)).unwrap_or_default(),
        run: Some(RunStanding {
            run_id: context.run_id,
            elapsed_ms,
            duration_ms: context.duration_ms,
            what: context.what.clone(),
        }),
        members: members(notice),
        members_count: notice.members_count,
        plot_alt: (!plot_series.is_empty())
            .then(|| format!("{} over the last hours, with the fitted drift", plot_series.join(", "))),
        ..MailFacts::new(notice.kind, notice.severity, &context.host, now, &summary(notice))
    }
}

/// The picture: the series that the rule names, from the run's start or the last day.
pub(super) fn plot(
    notice: &Notice,
    rule: Option<&Rule>,
    context: &AlertContext,
    templates: &Templates,
    now: UnixMillis,
) -> Option<PlotSpec> {
    let series = series(notice, rule, templates);
    if series.is_empty() {
        return None;
    }
    let from = UnixMillis(context.started.0.max(now.0 - PICTURE_MS));
    Some(PlotSpec { run_id: context.run_id, series, from, to: now })
}

/// The labels that all members share, with the rule.
pub(super) fn labels(notice: &Notice) -> BTreeMap<String, String> {
    let mut members = notice.members.iter();
    let mut shared = members.next().map(|member| member.alert.labels.clone()).unwrap_or_default();
    for member in members {
        shared.retain(|name, value| member.alert.labels.get(name) == Some(value));
    }
    shared.insert("rule".into(), notice.rule.clone());
    shared
}

fn summary(notice: &Notice) -> String {
    let first = notice.members.first().map(|member| member.alert.summary.clone()).unwrap_or_default();
    if notice.rule.is_empty() {
        return format!("{}; first: {first}", notice.reason);
    }
    match notice.members_count {
        0 | 1 => first,
        2 => format!("{first}, and 1 more"),
        n => format!("{first}, and {} more", n - 1),
    }
}

fn description(notice: &Notice, first: Option<&Alert>) -> String {
    let first = first.map(|alert| alert.description.trim()).unwrap_or_default();
    let why = match (notice.kind, notice.sequence) {
        (MailKind::Alert, n) if n > 1 => format!("Why this mail now: {}.", notice.reason),
        _ => String::new(),
    };
    [first, &why].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n\n")
}

/// Since when it has been so: by the rule's row, or else since a rule first saw it.
fn since(alert: &Alert) -> UnixMillis {
    let told = alert.values.get("since_unix_ms").and_then(Value::as_i64).map(UnixMillis);
    told.map_or(alert.active, |told| told.min(alert.active))
}

fn until(notice: &Notice) -> Option<UnixMillis> {
    let ends: Option<Vec<UnixMillis>> = notice.members.iter().map(|member| member.alert.resolved).collect();
    ends.and_then(|ends| ends.into_iter().max())
}

fn members(notice: &Notice) -> Vec<Member> {
    if notice.members_count <= 1 {
        return Vec::new();
    }
    let members = notice.members.iter().map(|member| Member {
        summary: member.alert.summary.clone(),
        since: Some(since(&member.alert)),
        state: match member.alert.state {
            AlertState::Resolved => "resolved".into(),
            _ => "firing".into(),
        },
    });
    members.collect()
}

fn evidence(rule: &Rule, templates: &Templates, row: &Row) -> Vec<Evidence> {
    let figures = rule.evidence.iter().map(|figure| Evidence {
        what: templates.render(&figure.what, row),
        value: templates.render(&figure.value, row),
        interval: figure.interval.as_ref().map(|text| templates.render(text, row)).filter(|text| !text.is_empty()),
    });
    figures.collect()
}

fn series(notice: &Notice, rule: Option<&Rule>, templates: &Templates) -> Vec<String> {
    let mut names = Vec::new();
    let Some(rule) = rule else { return names };
    for member in &notice.members {
        for template in &rule.plot {
            let name = templates.render(template, &member.alert.values);
            if !name.is_empty() && !names.contains(&name) && names.len() < SERIES_MAX {
                names.push(name);
            }
        }
    }
    names
}

fn table(rows: Rows) -> Table {
    let cell = |value: Value| match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text,
        other => other.to_string(),
    };
    let body = rows.rows.into_iter().map(|cells| cells.into_iter().map(cell).collect()).collect();
    Table { caption: "All workers together, minute by minute".into(), columns: rows.columns, rows: body }
}

/// The SQL with its parameters written out, so that it can be pasted into sqlite3.
fn filled(sql: &str, params: &[(&str, Value)]) -> String {
    let mut filled = String::new();
    let mut rest = sql.trim();
    while let Some(at) = rest.find(':') {
        let end =
            rest[at + 1..].find(|c: char| !c.is_ascii_alphanumeric() && c != '_').map_or(rest.len(), |n| at + 1 + n);
        filled.push_str(&rest[..at]);
        match params.iter().find(|(name, _)| *name == &rest[at..end]) {
            Some((_, Value::String(text))) => filled.push_str(&format!("'{}'", text.replace('\'', "''"))),
            Some((_, Value::Null)) => filled.push_str("NULL"),
            Some((_, value)) => filled.push_str(&value.to_string()),
            None => filled.push_str(&rest[at..end]),
        }
        rest = &rest[end..];
    }
    filled.push_str(rest);
    filled
}
