//! Rules to mails: every so often each rule's SQL is run, the book of alerts moves on, and what changed is written in one
//! transaction together with the mails that tell of it. The semantics are left to `rules`, the words to `report::mail`, and
//! delivery to the mailer.

mod compose;
mod sources;

#[cfg(test)]
mod tests;

pub use sources::{Fault, RuleSources, check_rules, load_rules};

use crate::clock;
use crate::model::alert::{OutboxMail, Row, Severity};
use crate::model::time::{Now, UnixMillis};
use crate::report;
use crate::rules::{Book, Found, Moment, Notice, RuleSet, STORM_GROUP, Step, Templates};
use crate::store::sql::{Limits, Reader, Rows};
use crate::store::{Store, StoreError};
use serde_json::{Value, json};

/// Rows of one rule in one evaluation: a storm that one mail sums up anyway.
pub const ROWS_MAX: usize = 10_000;
/// One rule in one evaluation: the shipped ones take a few milliseconds.
pub const RULE_MILLIS_MAX: i64 = 1_000;
/// All rules in one evaluation: below the hang limits and the watchdog, for the event loop waits meanwhile.
const ALL_MILLIS_MAX: i64 = 4_000;
/// A wall clock that differs by more than this from the monotonic one was stepped; below it is NTP's slewing.
const STEP_MILLIS_MIN: i64 = 2_000;
/// How far back "recent" reaches for events, at least; further after a time in which nobody looked.
const RECENT_MS: i64 = 600_000;

/// The run that is watched, as rules and mails see it.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertContext {
    /// Row of the `run` table.
    pub run_id: i64,
    /// Name of this host.
    pub host: String,
    /// When the run started.
    pub started: UnixMillis,
    /// How long it is to serve.
    pub duration_ms: i64,
    /// Over which time drift is stated.
    pub horizon_ms: i64,
    /// Drift that is still no leak.
    pub tolerance_bytes: i64,
    /// What soaks, such as `synthetic:small q4_k on cpu, 2 streams`.
    pub what: String,
    /// Limits from `[alerts]`, `None` where there is none.
    pub token_p95_max_us: Option<i64>,
    /// As above.
    pub first_token_p95_max_us: Option<i64>,
    /// As above, tokens per second.
    pub throughput_min: Option<f64>,
    /// The canary must have been found so long after the start; `None` without a canary.
    pub canary_due_ms: Option<i64>,
    /// Between two digests; `None`: none.
    pub digest_every_ms: Option<i64>,
}

impl AlertContext {
    /// What the SQL of rules may use, as `rules::PARAMETERS` lists it.
    #[must_use]
    pub fn params(
        &self,
        now: UnixMillis,
        elapsed_ms: i64,
        last_tick: UnixMillis,
        database_bytes: u64,
    ) -> Vec<(&'static str, Value)> {
        // An event that was recorded just before soakd was killed must still be seen when it is back.
        let recent = (last_tick.0 - 60_000).min(now.0 - RECENT_MS);
        vec![
            (":run", json!(self.run_id)),
            (":now_ms", json!(now.0)),
            (":recent_ms", json!(recent)),
            (":started_ms", json!(self.started.0)),
            (":elapsed_ms", json!(elapsed_ms)),
            (":duration_ms", json!(self.duration_ms)),
            (":horizon_ms", json!(self.horizon_ms)),
            (":tolerance_bytes", json!(self.tolerance_bytes)),
            (":host", json!(self.host)),
            (":database_bytes", json!(database_bytes)),
            (":token_p95_max_us", json!(self.token_p95_max_us)),
            (":first_token_p95_max_us", json!(self.first_token_p95_max_us)),
            (":throughput_min", json!(self.throughput_min)),
            (":canary_due_ms", json!(self.canary_due_ms)),
            (":digest_every_ms", json!(self.digest_every_ms)),
        ]
    }
}

/// What one evaluation came to: for the progress display and the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TickReport {
    /// Alerts that fire now.
    pub firing: usize,
    /// Alerts that may fire soon.
    pub pending: usize,
    /// Subjects of the mails that were written into the outbox.
    pub mails: Vec<String>,
    /// Rules that could not be evaluated: name and error.
    pub failed: Vec<(String, String)>,
}

/// Evaluates the rules of one run.
#[derive(Debug)]
pub struct Alerting {
    context: AlertContext,
    rules: RuleSet,
    templates: Templates,
    reader: Reader,
    book: Book,
    /// Both clocks when they last agreed: durations go by the monotonic one.
    base: Option<Now>,
    last_tick: Option<UnixMillis>,
}

impl Alerting {
    /// Takes up the alerts of the run as the database has them.
    pub fn open(store: &Store, context: AlertContext, rules: RuleSet) -> Result<Alerting, StoreError> {
        let run_id = context.run_id;
        let last_tick = store.heartbeat_of("alerting")?.filter(|beat| beat.run_id == Some(run_id)).map(|beat| beat.at);
        let since = UnixMillis(last_tick.map_or(i64::MIN, |at| at.0 - 3_600_000));
        let mut book = Book {
            run_tag: format!("{run_id}.{:x}", context.started.0),
            host: context.host.clone(),
            groups: store.alert_groups(run_id)?,
            mailed: store.mailed_since(run_id, since)?,
            next_alert_id: store.next_alert_id()?,
            ..Book::default()
        };
        // Or every restart within the hour would tell of the same storm again.
        book.storm_sent = book.groups.get(STORM_GROUP).and_then(|group| group.last_sent);
        for alert in store.alerts(run_id, since)? {
            book.alerts.insert(alert.fingerprint.clone(), alert);
        }
        let reader = Reader::open(store.path())?;
        Ok(Alerting { context, rules, templates: Templates::default(), reader, book, base: None, last_tick })
    }

    /// The rules in force.
    #[must_use]
    pub fn rules(&self) -> &RuleSet {
        &self.rules
    }

    /// Puts other rules in force. Alerts of rules that are gone end at the next tick.
    pub fn replace_rules(&mut self, rules: RuleSet) {
        self.rules = rules;
    }

    /// Reads the rule files again. On an error the rules stay as they are, and the error says why.
    pub fn reload(&mut self, sources: &RuleSources) -> Result<usize, Vec<Fault>> {
        let rules = load_rules(sources).map_err(|fault| vec![fault])?;
        let faults = check_rules(&rules, &self.reader);
        if !faults.is_empty() {
            return Err(faults);
        }
        self.rules = rules;
        Ok(self.rules.rules.len())
    }

    /// Evaluates every rule, and writes what changed with its mails in one transaction. Call it every 15 s or so, and with
    /// [`Moment::Final`] when the run has its verdict. After an error nothing has changed: the next call makes up for it.
    pub fn tick(&mut self, store: &mut Store, now: Now, moment: Moment) -> Result<TickReport, StoreError> {
        self.follow_clock(now);
        let elapsed_ms = (now.wall.0 - self.context.started.0 - store.unwatched_ms(self.context.run_id)?).max(0);
        let last_tick = self.last_tick.unwrap_or(self.context.started);
        let params = self.context.params(now.wall, elapsed_ms, last_tick, store.size_bytes());
        let found = self.evaluate(&params);
        let mut book = self.book.clone();
        for (alert_id, ack) in store.acknowledgements(self.context.run_id)? {
            if let Some(alert) = book.alerts.values_mut().find(|alert| alert.alert_id == alert_id) {
                alert.acked = Some(ack);
            }
        }
        let (silences, waiting) = (store.silences(now.wall)?, store.waiting_messages()?);
        let step = book.step(&self.rules, &self.templates, &found, &silences, &waiting, now.wall, moment);
        let mails: Vec<OutboxMail> =
            step.notices.iter().map(|notice| self.mail(notice, now.wall, elapsed_ms, &params)).collect();
        self.write(store, now.wall, &step, &mails)?;
        let failed = found.into_iter().filter_map(|found| Some((found.rule, found.rows.err()?))).collect();
        let report = TickReport {
            firing: book.firing().filter(|alert| alert.severity != Severity::Info).count(),
            pending: book.pending().count(),
            mails: mails.into_iter().map(|mail| mail.subject).collect(),
            failed,
        };
        self.book = book;
        self.last_tick = Some(now.wall);
        Ok(report)
    }

    /// Moments in the book follow a step of the wall clock.
    fn follow_clock(&mut self, now: Now) {
        let Some(base) = self.base.replace(now) else { return };
        let expected = base.wall.0 + now.mono.since(base.mono);
        let step = now.wall.0 - expected;
        if step.abs() >= STEP_MILLIS_MIN {
            self.book.shift(step);
            self.last_tick = self.last_tick.map(|at| UnixMillis(at.0 + step));
        }
    }

    fn evaluate(&self, params: &[(&str, Value)]) -> Vec<Found> {
        let all = clock::now().mono.plus(ALL_MILLIS_MAX);
        let run = |sql: &str| {
            let until = all.min(clock::now().mono.plus(RULE_MILLIS_MAX));
            let limits = Limits { rows_max: ROWS_MAX, expired: Box::new(move || clock::now().mono >= until) };
            found_rows(self.reader.query_rows(sql, params, limits))
        };
        self.rules.rules.iter().map(|rule| Found { rule: rule.name.clone(), rows: run(&rule.sql) }).collect()
    }

    fn mail(&self, notice: &Notice, now: UnixMillis, elapsed_ms: i64, params: &[(&str, Value)]) -> OutboxMail {
        let rule = self.rules.get(&notice.rule);
        let recent = self.recent(params);
        let facts = compose::facts(notice, rule, &self.context, &self.templates, now, elapsed_ms, recent, params);
        let rendered = report::mail::render(&facts);
        OutboxMail {
            at: now,
            kind: notice.kind.as_str().into(),
            message_id: notice.message_id.clone(),
            in_reply_to: notice.in_reply_to.clone(),
            route: notice.route.clone(),
            subject: rendered.subject,
            text: rendered.text,
            html: rendered.html,
            plot: compose::plot(notice, rule, &self.context, &self.templates, now),
            labels: compose::labels(notice),
        }
    }

    fn recent(&self, params: &[(&str, Value)]) -> Option<Rows> {
        let until = clock::now().mono.plus(RULE_MILLIS_MAX);
        let limits = Limits { rows_max: 12, expired: Box::new(move || clock::now().mono >= until) };
        self.reader.query_rows(compose::RECENT_SQL, params, limits).ok()
    }

    fn write(&self, store: &mut Store, now: UnixMillis, step: &Step, mails: &[OutboxMail]) -> Result<(), StoreError> {
        let run_id = self.context.run_id;
        let write = |to: &crate::store::Writing<'_>| {
            for alert in &step.changed {
                to.put_alert(run_id, alert)?;
            }
            for (key, group) in &step.groups {
                to.put_alert_group(run_id, key, group)?;
            }
            let rows = mails.iter().map(|mail| to.enqueue(Some(run_id), mail)).collect::<Result<Vec<i64>, _>>()?;
            for decision in &step.decisions {
                let row = decision.notice.and_then(|notice| rows.get(notice).copied());
                to.put_decision(now, decision, row)?;
            }
            to.heartbeat("alerting", now, Some(run_id), None)
        };
        if step.matters { store.record(write) } else { store.jot(write) }
    }
}

/// Rows as the rules take them; more rows than allowed is a fault of the rule.
pub(crate) fn found_rows(rows: Result<Rows, crate::store::sql::QueryError>) -> Result<Vec<Row>, String> {
    let rows = rows.map_err(|error| error.to_string())?;
    if rows.truncated {
        return Err(format!("it returns more than {ROWS_MAX} rows"));
    }
    let Rows { columns, rows, .. } = rows;
    Ok(rows.into_iter().map(|cells| columns.iter().cloned().zip(cells).collect()).collect())
}
