//! One step of the book: what the rules found + now → pending, firing, resolved. Which of it is mailed is left to `notify`.

use super::book::{Book, Step, hash};
use super::parse::{Rule, RuleSet};
use super::template::Templates;
use super::{Row, notify};
use crate::model::alert::{Alert, AlertState, Decision, Severity, Silence};
use crate::model::mail::MailKind;
use crate::model::time::UnixMillis;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Name of the alert that soakd raises itself when a rule cannot be evaluated.
pub(super) const RULE_FAILED: &str = "rule_failed";

/// Fired so often within [`FLAP_WINDOW_MS`], an alert flaps: two FIRING mails tell the story, a third would be noise.
const FLAPS_MIN: usize = 3;
/// One hour: flapping slower than that is news each time.
const FLAP_WINDOW_MS: i64 = 3_600_000;
/// A flapping alert counts as firing until it has been quiet for so long.
const FLAP_QUIET_MS: i64 = 1_800_000;
/// Resolved alerts are remembered in memory for the flap window, then only in the database.
const FORGET_AFTER_MS: i64 = FLAP_WINDOW_MS;

/// What one rule's SQL returned.
#[derive(Debug)]
pub struct Found {
    /// Name of the rule.
    pub rule: String,
    /// Its rows, or why there are none to be had.
    pub rows: Result<Vec<Row>, String>,
}

/// Which step it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// One of many.
    Regular,
    /// The last of a run: what waits for company goes now.
    Final,
}

/// All that a step looks at beside the book.
pub(super) struct Scene<'a> {
    pub rules: &'a RuleSet,
    pub templates: &'a Templates,
    pub silences: &'a [Silence],
    /// Message-IDs that still wait in the outbox.
    pub waiting: &'a BTreeSet<String>,
    pub now: UnixMillis,
    pub moment: Moment,
}

impl Book {
    /// Moves the book on. `waiting`: Message-IDs that still lie in the outbox.
    #[allow(clippy::too_many_arguments)] // each is a different kind of thing, named at the one place that calls
    pub fn step(
        &mut self,
        rules: &RuleSet,
        templates: &Templates,
        found: &[Found],
        silences: &[Silence],
        waiting: &BTreeSet<String>,
        now: UnixMillis,
        moment: Moment,
    ) -> Step {
        let scene = Scene { rules, templates, silences, waiting, now, moment };
        let mut changes = Changes::default();
        for found in found {
            if let (Some(rule), Ok(rows)) = (rules.get(&found.rule), &found.rows) {
                self.apply(rule, rows, &scene, &mut changes);
            }
        }
        self.apply(&rule_failed(), &failures(found), &scene, &mut changes);
        self.drop_orphans(&scene, &mut changes);
        notify::notify(self, &scene, &mut changes);
        self.forget(now);
        changes.into_step(self)
    }

    /// One rule's rows against what is known of its alerts.
    fn apply(&mut self, rule: &Rule, rows: &[Row], scene: &Scene<'_>, changes: &mut Changes) {
        let mut there = BTreeSet::new();
        for row in rows {
            let labels = labels(rule, row);
            let print = fingerprint(rule, &labels);
            if there.insert(print.clone()) {
                self.row_is_there(rule, row, labels, &print, scene, changes);
            }
        }
        let gone: Vec<String> = self
            .alerts
            .values()
            .filter(|a| a.rule == rule.name && a.state != AlertState::Resolved && !there.contains(&a.fingerprint))
            .map(|a| a.fingerprint.clone())
            .collect();
        for print in gone {
            self.row_is_gone(rule, &print, scene.now, changes);
        }
    }

    fn row_is_there(
        &mut self,
        rule: &Rule,
        row: &Row,
        labels: BTreeMap<String, String>,
        print: &str,
        scene: &Scene<'_>,
        changes: &mut Changes,
    ) {
        let now = scene.now;
        let known = self.alerts.get(print);
        if known.is_some_and(|alert| alert.state == AlertState::Resolved && !alert.settled) {
            self.reopen(print, now, changes);
        } else if known.is_none_or(|alert| alert.state == AlertState::Resolved) {
            let alert = self.begin(rule, labels, print, now);
            if rule.for_ms > 0 {
                let reason = format!("pending: must be true for {} before it fires", span(rule.for_ms));
                changes.hold(&alert, reason);
            }
            changes.began(print);
            self.alerts.insert(print.to_owned(), alert);
        }
        let alert = self.alerts.get_mut(print).expect("just looked up or inserted");
        let fires_now = alert.state == AlertState::Pending && now.0 - alert.active.0 >= rule.for_ms;
        if fires_now {
            alert.state = AlertState::Firing;
            alert.fired = Some(now);
            alert.fires.retain(|at| now.0 - at.0 < FLAP_WINDOW_MS);
            alert.fires.push(now);
            changes.began(print);
        }
        if alert.values != *row || alert.summary.is_empty() || fires_now {
            alert.values = row.clone();
            alert.summary = one_line(&scene.templates.render(&rule.summary, row));
            alert.description = scene.templates.render(&rule.description, row);
            alert.runbook = scene.templates.render(&rule.runbook, row);
            // Rewritten in the database only once a minute unless something else changed: a drift moves all the time.
        }
        changes.touched(print, now.0.div_euclid(60_000) != alert.last_true.0.div_euclid(60_000));
        alert.last_true = now;
    }

    /// A new episode, pending. An episode that never fired is written over; one that did stays as history.
    fn begin(&mut self, rule: &Rule, labels: BTreeMap<String, String>, print: &str, now: UnixMillis) -> Alert {
        let before = self.alerts.get(print);
        let alert_id = match before {
            Some(alert) if alert.fired.is_none() => alert.alert_id,
            _ => {
                self.next_alert_id += 1;
                self.next_alert_id - 1
            }
        };
        Alert {
            alert_id,
            rule: rule.name.clone(),
            fingerprint: print.to_owned(),
            group: group_key(rule, &labels),
            labels,
            values: Row::new(),
            severity: rule.severity,
            route: rule.route.clone(),
            state: AlertState::Pending,
            active: now,
            fired: None,
            last_true: now,
            resolved: None,
            last_sent: None,
            resolved_sent: None,
            settled: false,
            acked: None,
            fires: before.map(|alert| alert.fires.clone()).unwrap_or_default(),
            last_reason: String::new(),
            summary: String::new(),
            description: String::new(),
            runbook: String::new(),
        }
    }

    /// Nobody has been told of its end yet, or not even of its beginning: then it has not ended. A new episode would take the
    /// place of one that is still to be told.
    fn reopen(&mut self, print: &str, now: UnixMillis, changes: &mut Changes) {
        let Some(alert) = self.alerts.get_mut(print) else { return };
        alert.state = AlertState::Firing;
        alert.resolved = None;
        alert.fires.retain(|at| now.0 - at.0 < FLAP_WINDOW_MS);
        alert.fires.push(now);
        changes.hold(alert, "true again before its end was told: counts as one".into());
        changes.began(print);
    }

    fn row_is_gone(&mut self, rule: &Rule, print: &str, now: UnixMillis, changes: &mut Changes) {
        let Some(alert) = self.alerts.get_mut(print) else { return };
        if alert.state == AlertState::Pending {
            let lasted = span(now.0 - alert.active.0);
            end(alert, now);
            alert.settled = true;
            changes.hold(alert, format!("was true for less than {lasted}; {} are asked for", span(rule.for_ms)));
            changes.began(print);
            return;
        }
        alert.fires.retain(|at| now.0 - at.0 < FLAP_WINDOW_MS);
        let flapping = alert.fires.len() >= FLAPS_MIN;
        let keep_ms = if flapping { rule.keep_firing_for_ms.max(FLAP_QUIET_MS) } else { rule.keep_firing_for_ms };
        if now.0 - alert.last_true.0 >= keep_ms {
            end(alert, now);
            changes.began(print);
        } else if flapping {
            let times = alert.fires.len();
            let reason = format!(
                "flapping: fired {times} times within an hour; counts as firing until quiet for {}",
                span(keep_ms)
            );
            changes.hold(alert, reason);
        }
    }

    /// Alerts whose rule was taken away by a reload end without a word.
    fn drop_orphans(&mut self, scene: &Scene<'_>, changes: &mut Changes) {
        for (print, alert) in &mut self.alerts {
            let orphan = alert.rule != RULE_FAILED && scene.rules.get(&alert.rule).is_none();
            if orphan && !alert.settled {
                if alert.state != AlertState::Resolved {
                    end(alert, scene.now);
                }
                alert.settled = true;
                changes.hold(alert, "its rule is no longer there".into());
                changes.began(print);
            }
        }
    }

    fn forget(&mut self, now: UnixMillis) {
        self.alerts.retain(|_, alert| {
            let over = alert.resolved.is_some_and(|at| now.0 - at.0 >= FORGET_AFTER_MS);
            !(alert.settled && over)
        });
        let used: BTreeSet<&str> = self.alerts.values().map(|alert| alert.group.as_str()).collect();
        let unused = |key: &String, since: Option<UnixMillis>| since.is_none() && !used.contains(key.as_str());
        self.groups.retain(|key, group| !unused(key, group.since));
    }
}

fn end(alert: &mut Alert, now: UnixMillis) {
    alert.state = AlertState::Resolved;
    alert.resolved = Some(now);
}

/// What a step has changed so far.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Fingerprint → whether it is worth a transaction of its own.
    touched: BTreeMap<String, bool>,
    pub groups: BTreeSet<String>,
    pub decisions: Vec<Decision>,
    pub notices: Vec<super::Notice>,
    matters: bool,
}

impl Changes {
    /// A beginning or an end.
    pub fn began(&mut self, print: &str) {
        self.touched.insert(print.to_owned(), true);
        self.matters = true;
    }

    /// Still true; `write` if it is time to say so in the database.
    fn touched(&mut self, print: &str, write: bool) {
        if write {
            self.touched.entry(print.to_owned()).or_insert(true);
        }
    }

    /// No mail, and why. The same reason again is not stored again.
    pub fn hold(&mut self, alert: &Alert, reason: String) {
        if alert.last_reason != reason {
            self.decisions.push(Decision { alert_id: Some(alert.alert_id), send: false, reason, notice: None });
        }
    }

    fn into_step(self, book: &mut Book) -> Step {
        let reasons: BTreeMap<i64, &String> =
            self.decisions.iter().filter_map(|decision| Some((decision.alert_id?, &decision.reason))).collect();
        for alert in book.alerts.values_mut() {
            if let Some(reason) = reasons.get(&alert.alert_id) {
                alert.last_reason.clone_from(reason);
            }
        }
        let changed = self.touched.keys().filter_map(|print| book.alerts.get(print).cloned()).collect();
        let groups = self.groups.iter().filter_map(|key| Some((key.clone(), book.groups.get(key)?.clone()))).collect();
        let matters = self.matters || !self.notices.is_empty() || !self.decisions.is_empty();
        Step { changed, groups, decisions: self.decisions, notices: self.notices, matters }
    }
}

/// What tells alerts of one rule apart: the columns it names, or every text column.
fn labels(rule: &Rule, row: &Row) -> BTreeMap<String, String> {
    match &rule.labels {
        Some(names) => names.iter().filter_map(|name| Some((name.clone(), plain(row.get(name)?)))).collect(),
        None => {
            row.iter().filter_map(|(name, value)| value.as_str().map(|text| (name.clone(), text.to_owned()))).collect()
        }
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn fingerprint(rule: &Rule, labels: &BTreeMap<String, String>) -> String {
    let parts = labels.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]);
    hash(&std::iter::once(rule.name.as_str()).chain(parts).collect::<Vec<_>>())
}

fn group_key(rule: &Rule, labels: &BTreeMap<String, String>) -> String {
    let values = rule.group_by.iter().map(|name| format!("{name}={}", labels.get(name).map_or("", String::as_str)));
    std::iter::once(rule.name.clone()).chain(values).collect::<Vec<_>>().join("|")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// "90 s", "5 min", "2 h": for reasons.
pub(super) fn span(millis: i64) -> String {
    match millis / 1_000 {
        s if s < 120 => format!("{s} s"),
        s if s < 7_200 => format!("{} min", s / 60),
        s => format!("{} h", s / 3_600),
    }
}

fn failures(found: &[Found]) -> Vec<Row> {
    let failed = found.iter().filter_map(|found| Some((found.rule.clone(), found.rows.as_ref().err()?.clone())));
    failed
        .map(|(rule, error)| Row::from([("failed_rule".into(), rule.into()), ("error".into(), error.into())]))
        .collect()
}

/// The rule that watches the rules. Built in, for a rule file cannot be trusted to say that it is broken.
pub(super) fn rule_failed() -> Rule {
    Rule {
        name: RULE_FAILED.into(),
        file: "soakd itself".into(),
        line: 0,
        severity: Severity::Ticket,
        sql: String::new(),
        // Four evaluations: a database that is locked for a moment is no news.
        for_ms: 60_000,
        keep_firing_for_ms: 300_000,
        repeat_ms: 86_400_000,
        route: "default".into(),
        labels: Some(vec!["failed_rule".into()]),
        group_by: Vec::new(),
        group_wait_ms: 10_000,
        group_interval_ms: 300_000,
        inhibits: Vec::new(),
        inhibit_equal: Vec::new(),
        kind: MailKind::Alert,
        send_resolved: true,
        summary: "alert rule {{ failed_rule }} cannot be evaluated".into(),
        description:
            "The rule {{ failed_rule }} fails: {{ error }}\n\nIts alerts stay as they were; the other rules go on."
                .into(),
        meaning: "What this rule watches for would not be noticed.".into(),
        runbook: "Run `soakd rules check`, mend the rule file, and send SIGHUP to soakd.".into(),
        evidence: Vec::new(),
        plot: Vec::new(),
    }
}
