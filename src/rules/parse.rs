//! A rule file: TOML text → raw tables → rules. Whatever is wrong is said with file, line and remedy; nothing invalid gets
//! past here, except SQL, which only a database can judge (`soakd check` and `soakd rules check` do).

use super::template;
use crate::model::alert::Severity;
use crate::model::mail::MailKind;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use toml::Spanned;

/// Parameters that a rule's SQL may use, with what they hold.
pub const PARAMETERS: &[(&str, &str)] = &[
    (":run", "row of the run table that is going on"),
    (":now_ms", "now, milliseconds since 1970"),
    (":recent_ms", "ten minutes ago, or the last evaluation if that is longer ago: what events are looked for from"),
    (":started_ms", "when the run started"),
    (":elapsed_ms", "how long the run has served, without gaps"),
    (":duration_ms", "how long it is to serve"),
    (":horizon_ms", "over which time drift is stated"),
    (":tolerance_bytes", "drift over the horizon that is still no leak"),
    (":host", "name of this host"),
    (":database_bytes", "size of the database with its WAL"),
    (":token_p95_max_us", "limit from the configuration, or NULL"),
    (":first_token_p95_max_us", "limit from the configuration, or NULL"),
    (":throughput_min", "tokens per second from the configuration, or NULL"),
    (":canary_due_ms", "the canary must have been found this long after the run's start, or NULL without a canary"),
    (":digest_every_ms", "between two digests, or NULL"),
];

/// What is wrong with a rule file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {what}. {remedy}")]
pub struct RuleError {
    /// File name as given.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub remedy: String,
}

/// A figure for the mail: templates over the row's columns.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// What was measured.
    pub what: String,
    /// How much.
    pub value: String,
    /// How sure.
    pub interval: Option<String>,
}

/// One rule, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Unique; what `soakd silence --rule` takes.
    pub name: String,
    /// Where it stands: file and line.
    pub file: String,
    /// Line of its SQL.
    pub line: usize,
    /// Who should be woken.
    pub severity: Severity,
    /// One row per alert.
    pub sql: String,
    /// A row must be there for so long before the alert fires.
    pub for_ms: i64,
    /// A firing alert goes on for so long after its row was last there.
    pub keep_firing_for_ms: i64,
    /// A firing alert is mailed again so often; 0: never.
    pub repeat_ms: i64,
    /// Key into `[mail] routes`.
    pub route: String,
    /// Columns that tell alerts of this rule apart; `None`: every text column.
    pub labels: Option<Vec<String>>,
    /// Labels by which alerts are gathered into one mail; empty: all alerts of the rule.
    pub group_by: Vec<String>,
    /// The first mail of a group waits so long for more of the same.
    pub group_wait_ms: i64,
    /// News of a group that was mailed waits so long.
    pub group_interval_ms: i64,
    /// Rules whose alerts are consequences of this one.
    pub inhibits: Vec<String>,
    /// Labels that both must share for that; empty: none.
    pub inhibit_equal: Vec<String>,
    /// Which mail it makes.
    pub kind: MailKind,
    /// Whether the end is worth a mail.
    pub send_resolved: bool,
    /// Template: one line.
    pub summary: String,
    /// Template: a few sentences.
    pub description: String,
    /// Template: what it means for the machine.
    pub meaning: String,
    /// Template: what to do next.
    pub runbook: String,
    /// Templates: figures.
    pub evidence: Vec<Evidence>,
    /// Templates: names of the series in the mail's picture.
    pub plot: Vec<String>,
}

/// All rules that are in force.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RuleSet {
    /// In the order of the files.
    pub rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    rule: Vec<Spanned<RawRule>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    name: Spanned<String>,
    #[serde(default = "yes")]
    enabled: bool,
    severity: Option<Spanned<String>>,
    sql: Option<Spanned<String>>,
    #[serde(rename = "for")]
    hold: Option<Spanned<String>>,
    keep_firing_for: Option<Spanned<String>>,
    repeat: Option<Spanned<String>>,
    route: Option<Spanned<String>>,
    labels: Option<Vec<String>>,
    #[serde(default)]
    group_by: Vec<String>,
    group_wait: Option<Spanned<String>>,
    group_interval: Option<Spanned<String>>,
    #[serde(default)]
    inhibits: Vec<Spanned<String>>,
    #[serde(default)]
    inhibit_equal: Vec<String>,
    kind: Option<Spanned<String>>,
    #[serde(default = "yes")]
    send_resolved: bool,
    summary: Option<Spanned<String>>,
    description: Option<Spanned<String>>,
    meaning: Option<Spanned<String>>,
    runbook: Option<Spanned<String>>,
    #[serde(default)]
    evidence: Vec<Evidence>,
    #[serde(default)]
    plot: Vec<String>,
}

fn yes() -> bool {
    true
}

/// A rule that is silent on it is mailed again after four hours, as in Alertmanager.
const REPEAT_DEFAULT: &str = "4h";
/// Ten workers that crash together are seen within one or two evaluations (every 15 s).
const GROUP_WAIT_DEFAULT: &str = "10s";
/// As in Alertmanager: a second mail of a group within five minutes tells on-call nothing to act on.
const GROUP_INTERVAL_DEFAULT: &str = "5m";

impl RuleSet {
    /// Reads one file. Names are unique in it.
    pub fn parse(file_name: &str, text: &str) -> Result<RuleSet, RuleError> {
        Ok(RuleSet { rules: parse_file(file_name, text)?.0 })
    }

    /// Reads several files, in order. A rule in a later file replaces one of the same name from an earlier file, and
    /// `enabled = false` there takes it away.
    pub fn parse_all(files: &[(String, String)]) -> Result<RuleSet, RuleError> {
        let mut rules: Vec<Rule> = Vec::new();
        for (file_name, text) in files {
            let (new, disabled) = parse_file(file_name, text)?;
            rules.retain(|rule| !disabled.contains(&rule.name) && !new.iter().any(|n| n.name == rule.name));
            rules.extend(new);
        }
        let set = RuleSet { rules };
        set.check_references()?;
        Ok(set)
    }

    /// The rules that every soakd carries.
    #[must_use]
    pub fn builtin() -> RuleSet {
        RuleSet::parse(super::DEFAULT_RULES_NAME, super::DEFAULT_RULES).expect("a test parses the built-in rules")
    }

    /// By name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.name == name)
    }

    fn check_references(&self) -> Result<(), RuleError> {
        let names: BTreeSet<&str> = self.rules.iter().map(|rule| rule.name.as_str()).collect();
        for rule in &self.rules {
            if let Some(unknown) = rule.inhibits.iter().find(|name| !names.contains(name.as_str())) {
                return Err(RuleError {
                    file: rule.file.clone(),
                    line: rule.line,
                    what: format!("rule {:?} inhibits {unknown:?}, which is no rule", rule.name),
                    remedy: format!("Rules: {}", names.iter().copied().collect::<Vec<_>>().join(", ")),
                });
            }
        }
        Ok(())
    }
}

fn parse_file(file: &str, text: &str) -> Result<(Vec<Rule>, BTreeSet<String>), RuleError> {
    let raw: RawFile = toml::from_str(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        RuleError {
            file: file.to_owned(),
            line: line_of(text, offset),
            what: error.message().trim_end().to_owned(),
            remedy: "docs/alert-rules.md lists every key of a [[rule]]".into(),
        }
    })?;
    let (mut rules, mut disabled) = (Vec::new(), BTreeSet::new());
    let mut lines: BTreeMap<String, usize> = BTreeMap::new();
    for raw in raw.rule {
        let reader = Reader { file, text, offset: raw.span().start };
        let raw = raw.into_inner();
        let name = raw.name.get_ref().clone();
        if let Some(first) = lines.insert(name.clone(), line_of(text, raw.name.span().start)) {
            let what = format!("a second rule {name:?}; the first stands on line {first}");
            return Err(reader.error(Some(raw.name.span().start), what, "Rename one of them"));
        }
        if raw.enabled {
            rules.push(reader.resolve(raw)?);
        } else {
            disabled.insert(name);
        }
    }
    Ok((rules, disabled))
}

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    /// Of the rule's table.
    offset: usize,
}

impl Reader<'_> {
    fn error(&self, offset: Option<usize>, what: impl Into<String>, remedy: impl Into<String>) -> RuleError {
        let line = line_of(self.text, offset.unwrap_or(self.offset));
        RuleError { file: self.file.to_owned(), line, what: what.into(), remedy: remedy.into() }
    }

    fn resolve(&self, raw: RawRule) -> Result<Rule, RuleError> {
        let name = self.name(&raw.name)?;
        let sql = self.required(raw.sql, &name, "sql", "the SELECT that returns one row per alert")?;
        let summary = self.required(raw.summary, &name, "summary", "one line that says what and how much")?;
        let rule = Rule {
            file: self.file.to_owned(),
            line: line_of(self.text, sql.span().start),
            severity: self.severity(raw.severity, &name)?,
            for_ms: self.duration(raw.hold, "for", "0s")?,
            keep_firing_for_ms: self.duration(raw.keep_firing_for, "keep_firing_for", "0s")?,
            repeat_ms: self.duration(raw.repeat, "repeat", REPEAT_DEFAULT)?,
            route: raw.route.map_or_else(|| "default".to_owned(), Spanned::into_inner),
            labels: raw.labels,
            group_by: raw.group_by,
            group_wait_ms: self.duration(raw.group_wait, "group_wait", GROUP_WAIT_DEFAULT)?,
            group_interval_ms: self.duration(raw.group_interval, "group_interval", GROUP_INTERVAL_DEFAULT)?,
            inhibits: raw.inhibits.into_iter().map(Spanned::into_inner).collect(),
            inhibit_equal: raw.inhibit_equal,
            kind: self.kind(raw.kind)?,
            send_resolved: raw.send_resolved,
            summary: self.template("summary", Some(summary))?,
            description: self.template("description", raw.description)?,
            meaning: self.template("meaning", raw.meaning)?,
            runbook: self.template("runbook", raw.runbook)?,
            evidence: raw.evidence,
            plot: raw.plot,
            sql: sql.into_inner(),
            name,
        };
        let figures = rule.evidence.iter().flat_map(|e| [Some(&e.what), Some(&e.value), e.interval.as_ref()]).flatten();
        for source in figures.chain(&rule.plot) {
            template::check(source)
                .map_err(|error| self.error(None, format!("rule {:?}: {error}", rule.name), TEMPLATE_REMEDY))?;
        }
        Ok(rule)
    }

    fn name(&self, name: &Spanned<String>) -> Result<String, RuleError> {
        let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !name.get_ref().is_empty() && name.get_ref().len() <= 64 && name.get_ref().chars().all(ok) {
            return Ok(name.get_ref().clone());
        }
        let what = format!("{:?} is no name of a rule", name.get_ref());
        Err(self.error(Some(name.span().start), what, "Use up to 64 of a-z, 0-9 and _"))
    }

    fn required(
        &self,
        value: Option<Spanned<String>>,
        rule: &str,
        key: &str,
        meaning: &str,
    ) -> Result<Spanned<String>, RuleError> {
        match value {
            Some(value) if !value.get_ref().trim().is_empty() => Ok(value),
            _ => {
                Err(self.error(None, format!("rule {rule:?} has no {key}"), format!("Add {key} = \"...\": {meaning}")))
            }
        }
    }

    fn severity(&self, value: Option<Spanned<String>>, rule: &str) -> Result<Severity, RuleError> {
        let remedy = "severity is \"page\" (wakes someone), \"ticket\" (working hours) or \"info\" (for the record)";
        let value = value.ok_or_else(|| self.error(None, format!("rule {rule:?} has no severity"), remedy))?;
        match value.get_ref().as_str() {
            "page" => Ok(Severity::Page),
            "ticket" => Ok(Severity::Ticket),
            "info" => Ok(Severity::Info),
            other => Err(self.error(Some(value.span().start), format!("{other:?} is no severity"), remedy)),
        }
    }

    fn kind(&self, value: Option<Spanned<String>>) -> Result<MailKind, RuleError> {
        let Some(value) = value else { return Ok(MailKind::Alert) };
        match value.get_ref().as_str() {
            "alert" => Ok(MailKind::Alert),
            "digest" => Ok(MailKind::Digest),
            "finished" => Ok(MailKind::Finished),
            other => {
                let what = format!("{other:?} is no kind of mail");
                Err(self.error(Some(value.span().start), what, "kind is \"alert\", \"digest\" or \"finished\""))
            }
        }
    }

    fn duration(&self, value: Option<Spanned<String>>, key: &str, default: &str) -> Result<i64, RuleError> {
        let Some(value) = value else {
            return Ok(millis_from(default).expect("the defaults above are durations"));
        };
        millis_from(value.get_ref()).ok_or_else(|| {
            let what = format!("{key} = {:?} is no duration", value.get_ref());
            self.error(
                Some(value.span().start),
                what,
                "Write a number and a unit, such as \"90s\", \"5m\", \"2h\" or \"1d\"",
            )
        })
    }

    fn template(&self, key: &str, value: Option<Spanned<String>>) -> Result<String, RuleError> {
        let Some(value) = value else { return Ok(String::new()) };
        template::check(value.get_ref())
            .map_err(|error| self.error(Some(value.span().start), format!("{key}: {error}"), TEMPLATE_REMEDY))?;
        Ok(value.into_inner())
    }
}

const TEMPLATE_REMEDY: &str = "Templates are {{ column }} with the filters mb, signed_mb, duration, time, percent, round; see docs/alert-rules.md";

/// "90s", "5m", "2h", "1d", "250ms", and sums such as "1h30m", in milliseconds. `None` for anything else.
#[must_use]
pub fn millis_from(text: &str) -> Option<i64> {
    let mut rest = text.trim();
    let mut total: i64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..].find(|c: char| !c.is_ascii_alphabetic()).map_or(rest.len(), |n| digits + n);
        let unit = match &rest[digits..unit_end] {
            "ms" => 1.0,
            "s" => 1_000.0,
            "m" | "min" => 60_000.0,
            "h" => 3_600_000.0,
            "d" => 86_400_000.0,
            _ => return None,
        };
        let millis = number * unit;
        // A century: longer than any run, far from overflow.
        if !(0.0..=3.2e12).contains(&millis) {
            return None;
        }
        total += millis.round() as i64;
        rest = &rest[unit_end..];
    }
    Some(total)
}

fn line_of(text: &str, offset: usize) -> usize {
    text.get(..offset).unwrap_or(text).matches('\n').count() + 1
}
