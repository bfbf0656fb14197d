//! The alert rules as the core uses them: evaluated every so often, read again on SIGHUP, and their troubles told.
//!
//! What a rule means, when it fires and what its mail says is all in [`super::alerting`]; here is only when it is asked.

use super::alerting::{AlertContext, Alerting, Fault, RuleSources, check_rules, load_rules};
use super::core::{Core, millis};
use super::start::StartError;
use crate::config::Config;
use crate::model::alert::Severity;
use crate::model::event::{EventKind, EventSeverity};
use crate::model::run::RunPlan;
use crate::model::time::{Now, UnixMillis};
use crate::rules::Moment;
use crate::store::Store;
use crate::store::sql::Reader;
use std::collections::BTreeSet;

/// The rules in force and what they last said.
#[derive(Debug)]
pub struct Alarms {
    alerting: Alerting,
    sources: RuleSources,
    firing: i64,
    fired: i64,
    failing: BTreeSet<String>,
}

impl Alarms {
    /// Reads the rules and takes up the alerts of the run. A rule that cannot work stops the start: better now than at
    /// the first leak.
    pub fn open(store: &Store, config: &Config, run_id: i64, plan: &RunPlan) -> Result<Alarms, StartError> {
        let sources = RuleSources { builtin: config.alerts.builtin, files: config.alerts.rules.clone() };
        let rules = load_rules(&sources).map_err(|fault| StartError::Rules(fault.to_string()))?;
        let reader = Reader::open(store.path())?;
        let faults = check_rules(&rules, &reader);
        if !faults.is_empty() {
            return Err(StartError::Rules(prose(&faults)));
        }
        let alerting = Alerting::open(store, context(config, run_id, plan), rules)?;
        let mut alarms = Alarms { alerting, sources, firing: 0, fired: 0, failing: BTreeSet::new() };
        alarms.count(store, run_id);
        Ok(alarms)
    }

    /// Alerts that fire now, and those that fired in this run. What is only for the record is not counted.
    #[must_use]
    pub fn counts(&self) -> (i64, i64) {
        (self.firing, self.fired)
    }

    fn count(&mut self, store: &Store, run_id: i64) {
        if let Ok(alerts) = store.alerts(run_id, UnixMillis(i64::MIN)) {
            let fired = alerts.iter().filter(|alert| alert.severity != Severity::Info && alert.fired.is_some());
            self.fired = fired.count() as i64;
        }
    }
}

impl Core {
    /// Asks every rule. What changed is in the database, with its mails, when this returns true; else nothing has.
    pub(super) fn evaluate_rules(&mut self, now: Now, moment: Moment) -> bool {
        self.ledger.flush_samples(now); // rules read the database
        let run_id = self.ledger.run_id();
        let alarms = &mut self.alarms;
        let said = match alarms.alerting.tick(self.ledger.store(), now, moment) {
            Ok(said) => said,
            Err(error) => {
                tracing::warn!("the alert rules could not be evaluated: {error}");
                return false; // nothing has changed: the next evaluation makes up for it
            }
        };
        let firing_before = std::mem::replace(&mut alarms.firing, said.firing as i64);
        if !said.mails.is_empty() || alarms.firing != firing_before {
            alarms.count(self.ledger.store(), run_id);
        }
        for subject in &said.mails {
            tracing::info!("to be mailed: {subject}");
        }
        let failing: BTreeSet<String> = said.failed.iter().map(|(rule, _)| rule.clone()).collect();
        let before = std::mem::replace(&mut self.alarms.failing, failing);
        for (rule, why) in said.failed.into_iter().filter(|(rule, _)| !before.contains(rule)) {
            let summary = format!("the rule {rule:?} cannot be evaluated: {why}");
            self.note(now, EventKind::RuleFailed, EventSeverity::Warning, summary);
        }
        true
    }

    pub(super) fn reload_rules(&mut self, now: Now) {
        match self.alarms.alerting.reload(&self.alarms.sources) {
            Ok(count) => {
                let summary = format!("{count} alert rules were read again and are in force");
                self.note(now, EventKind::RulesReloaded, EventSeverity::Info, summary);
            }
            Err(faults) => {
                let summary = format!("the rules were not reloaded, the old ones stay in force: {}", prose(&faults));
                self.note(now, EventKind::RulesRejected, EventSeverity::Warning, summary);
            }
        }
    }
}

fn prose(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn context(config: &Config, run_id: i64, plan: &RunPlan) -> AlertContext {
    let micros = |limit: Option<std::time::Duration>| limit.map(|limit| limit.as_micros() as i64);
    AlertContext {
        run_id,
        host: plan.host.clone(),
        started: plan.started,
        duration_ms: plan.duration_ms,
        horizon_ms: plan.horizon_ms,
        tolerance_bytes: plan.tolerance_bytes,
        what: match plan.backend.as_str() {
            "none" => plan.model.clone(), // a target of the user's
            backend => format!("{} {} on {backend}, {} streams", plan.model, plan.variant, plan.streams),
        },
        token_p95_max_us: micros(config.alerts.token_p95_max),
        first_token_p95_max_us: micros(config.alerts.first_token_p95_max),
        throughput_min: config.alerts.throughput_min,
        canary_due_ms: config.canary.enabled.then(|| millis(config.canary.found_within)),
        digest_every_ms: config.mail.heartbeat_every.map(millis),
    }
}
