//! Templates of a rule: `{{ column }}` over the row that the rule returned, with filters for units. Bounded in work and in
//! length, for rules are written by users. What the text is for is left to `report::mail`.

use super::{Row, Rule};
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use std::collections::BTreeMap;

/// Instructions that one template may take; a loop over everything stops here.
const FUEL: u64 = 20_000;
/// Longest text that a template may make.
const TEXT_BYTES_MAX: usize = 20_000;

/// Renders the templates of rules.
pub struct Templates {
    environment: Environment<'static>,
}

impl std::fmt::Debug for Templates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Templates")
    }
}

impl Default for Templates {
    fn default() -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        environment.add_filter("mb", |value: Value| figure(&value, |bytes| format!("{} MB", decimals(bytes / 1e6))));
        environment.add_filter("signed_mb", |value: Value| {
            figure(&value, |bytes| {
                let sign = if bytes < 0.0 { "−" } else { "+" };
                format!("{sign}{} MB", decimals(bytes.abs() / 1e6))
            })
        });
        environment.add_filter("duration", |value: Value| figure(&value, duration));
        environment.add_filter("time", |value: Value| figure(&value, time));
        environment
            .add_filter("percent", |value: Value| figure(&value, |ratio| format!("{} %", decimals(ratio * 100.0))));
        Templates { environment }
    }
}

impl Templates {
    /// One template over one row. A mistake becomes part of the text: a mail with a flaw is better than none.
    #[must_use]
    pub fn render(&self, source: &str, row: &Row) -> String {
        match self.try_render(source, row) {
            Ok(text) => text,
            Err(error) => format!("{source} [template failed: {error}]"),
        }
    }

    /// One template over one row.
    pub fn try_render(&self, source: &str, row: &Row) -> Result<String, String> {
        let mut text = self.environment.render_str(source, context(row)).map_err(|error| prose(&error))?;
        if text.len() > TEXT_BYTES_MAX {
            let end = (0..=TEXT_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            text.truncate(end);
        }
        Ok(text)
    }

    /// Columns that the templates of `rule` use and its SQL does not return: (template, column).
    #[must_use]
    pub fn unknown_columns(&self, rule: &Rule, columns: &[String]) -> Vec<(String, String)> {
        let figures = rule.evidence.iter().flat_map(|e| [Some(&e.what), Some(&e.value), e.interval.as_ref()]).flatten();
        let sources = [&rule.summary, &rule.description, &rule.meaning, &rule.runbook];
        let mut unknown = Vec::new();
        for source in sources.into_iter().chain(figures).chain(&rule.plot) {
            let Ok(template) = self.environment.template_from_str(source) else { continue };
            let mut used: Vec<String> = template.undeclared_variables(false).into_iter().collect();
            used.sort();
            unknown.extend(used.into_iter().filter(|name| !columns.contains(name)).map(|name| (source.clone(), name)));
        }
        unknown
    }
}

fn context(row: &Row) -> Value {
    row.iter().map(|(name, value)| (name.clone(), cell(value))).collect::<BTreeMap<String, Value>>().into()
}

fn cell(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(integer) => Value::from(integer),
            None => Value::from(number.as_f64()),
        },
        serde_json::Value::String(text) => Value::from(text),
        other => Value::from(other.to_string()),
    }
}

/// Whether a template can be read at all.
pub(super) fn check(source: &str) -> Result<(), String> {
    Templates::default().environment.template_from_str(source).map(|_| ()).map_err(|error| prose(&error))
}

fn prose(error: &Error) -> String {
    let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    format!("{}{detail}", error.kind())
}

/// The store writes the end of an interval that has none as the largest integer; no figure of ours comes near.
const ENDLESS: f64 = 9e18;

/// NULL stays a dash, and so does an interval without ends: what is not known must not read as a figure.
fn figure(value: &Value, text: impl Fn(f64) -> String) -> Result<String, Error> {
    if value.is_none() || value.is_undefined() {
        return Ok("–".into());
    }
    let number = f64::try_from(value.clone())
        .map_err(|_| Error::new(ErrorKind::InvalidOperation, format!("{value} is no number")))?;
    Ok(if number.abs() >= ENDLESS { "–".into() } else { text(number) })
}

/// Three significant figures, no more than needed: 0.123, 1.23, 12.3, 123, 1234.
fn decimals(value: f64) -> String {
    let places = match value.abs() {
        x if x >= 100.0 => 0,
        x if x >= 10.0 => 1,
        x if x >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.places$}")
}

/// Milliseconds as people say it: "45 s", "12 min", "2 h 5 min", "3 d 4 h".
fn duration(millis: f64) -> String {
    let seconds = (millis / 1_000.0).round() as i64;
    match seconds.abs() {
        s if s < 120 => format!("{seconds} s"),
        s if s < 7_200 => format!("{} min", seconds / 60),
        s if s < 172_800 => match (seconds / 3_600, seconds % 3_600 / 60) {
            (hours, 0) => format!("{hours} h"),
            (hours, minutes) => format!("{hours} h {} min", minutes.abs()),
        },
        _ => match (seconds / 86_400, seconds % 86_400 / 3_600) {
            (days, 0) => format!("{days} d"),
            (days, hours) => format!("{days} d {} h", hours.abs()),
        },
    }
}

/// Milliseconds since 1970 as ISO time, UTC.
fn time(millis: f64) -> String {
    chrono::DateTime::from_timestamp_millis(millis as i64)
        .map_or_else(|| "–".into(), |at| at.format("%Y-%m-%d %H:%M:%S UTC").to_string())
}
