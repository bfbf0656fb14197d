//! Unit tests of rules, in the spirit of promtool: SQL that puts rows into an empty database at virtual moments, and the
//! alerts and mails that are expected at others. Everything runs in memory, on a virtual clock.

use crate::model::alert::AlertState;
use crate::model::time::UnixMillis;
use crate::rules::{Book, Found, Moment, Row, RuleSet, Templates, millis_from};
use crate::store::sql::{Limits, Sandbox};
use crate::supervisor::alerting::{AlertContext, found_rows};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use toml::Spanned;

/// When the run of every test starts: a whole minute, so that minutes begin where the test's do.
const START: UnixMillis = UnixMillis(1_790_000_040_000);
/// Evaluations of one test; at every 15 s this is more than 48 h.
const TICKS_MAX: i64 = 20_000;

/// What every test finds in its database: run 1 on the CPU, and its processes and GPU.
const FIXTURE: &str = "
INSERT INTO run (run_id, state, started_unix_ms, duration_ms, horizon_ms, tolerance_bytes, backend, model, variant, streams,
  scenario, seed, host, facts, config, soakd_version)
VALUES (1, 'running', 1790000040000, 172800000, 172800000, 50000000, 'cpu', 'synthetic:small', 'q4_k', 2, 'steady', 1, 'gpu7',
  '{}', '', 'test');
INSERT INTO process (process_id, run_id, role, ordinal, incarnation, pid, started_unix_ms)
VALUES (1, 1, 'worker', 0, 1, 1001, 1790000040000), (2, 1, 'supervisor', 0, 1, 1000, 1790000040000),
  (3, 1, 'canary', 0, 1, 1003, 1790000040000), (4, 1, 'target', 0, 1, 1004, 1790000040000);
INSERT INTO device (device_id, run_id, ordinal, uuid, name, driver) VALUES (1, 1, 0, 'GPU-1', 'Test GPU', '570.00');
INSERT INTO series (series_id, run_id, name, kind, role, ordinal, judged)
VALUES (1, 1, 'worker-0.anon_swap', 'anon_swap', 'worker', 0, 1), (2, 1, 'supervisor.anon_swap', 'anon_swap', 'supervisor', 0, 1);
";

/// How one test went.
#[derive(Debug)]
pub(super) struct TestResult {
    /// Its name.
    pub name: String,
    /// Its line in the file.
    pub line: usize,
    /// What was not as expected; empty: passed.
    pub problems: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Suite {
    #[serde(default)]
    test: Vec<Spanned<Test>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Test {
    name: String,
    /// Only these rules are evaluated; empty: all.
    #[serde(default)]
    rules: Vec<String>,
    /// Between two evaluations.
    #[serde(default = "every")]
    every: String,
    /// Parameters that differ from the usual ones, without the colon.
    #[serde(default)]
    params: BTreeMap<String, Value>,
    #[serde(default)]
    step: Vec<StepAt>,
    #[serde(default)]
    rows: Vec<RowsAt>,
    #[serde(default)]
    expect: Vec<Expect>,
}

fn every() -> String {
    "15s".into()
}

/// SQL that runs at a moment: `:t` is that moment, `:t0` the run's start, in milliseconds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepAt {
    at: String,
    sql: String,
}

/// A row that a rule returns beside those of its SQL, from a moment until another.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RowsAt {
    rule: String,
    from: String,
    until: String,
    row: Row,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    at: String,
    /// Pending and firing alerts, all of them.
    alerts: Option<Vec<Wanted>>,
    /// Mails so far, all of them, such as "alert worker_crash" or "resolved disk_low".
    mails: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    rule: String,
    #[serde(default = "firing")]
    state: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Must be part of the summary.
    summary: Option<String>,
}

fn firing() -> String {
    "firing".into()
}

/// Runs every test of a file. The error is prose with file and line.
pub(super) fn run_suite(file: &str, text: &str, rules: &RuleSet) -> Result<Vec<TestResult>, String> {
    let line_of = |offset: usize| text.get(..offset).unwrap_or(text).matches('\n').count() + 1;
    let suite: Suite = toml::from_str(text).map_err(|error| {
        let line = line_of(error.span().map_or(0, |span| span.start));
        format!("{file}:{line}: {}. docs/alert-rules.md shows how a test is written", error.message().trim_end())
    })?;
    let mut results = Vec::new();
    for test in suite.test {
        let line = line_of(test.span().start);
        let test = test.into_inner();
        let problems = Runner::new(&test, rules).and_then(|mut runner| runner.run(&test));
        let problems = problems.map_err(|error| format!("{file}:{line}: {}: {error}", test.name))?;
        results.push(TestResult { name: test.name, line, problems });
    }
    Ok(results)
}

struct Runner {
    sandbox: Sandbox,
    rules: RuleSet,
    templates: Templates,
    book: Book,
    context: AlertContext,
    mails: Vec<String>,
}

impl Runner {
    fn new(test: &Test, rules: &RuleSet) -> Result<Runner, String> {
        let sandbox = Sandbox::new().map_err(|error| error.to_string())?;
        sandbox.execute(FIXTURE, &[])?;
        if let Some(unknown) = test.rules.iter().find(|name| rules.get(name).is_none()) {
            return Err(format!("there is no rule {unknown:?}"));
        }
        let mut rules = rules.clone();
        rules.rules.retain(|rule| test.rules.is_empty() || test.rules.contains(&rule.name));
        let context = AlertContext {
            run_id: 1,
            host: "gpu7".into(),
            started: START,
            duration_ms: 172_800_000,
            horizon_ms: 172_800_000,
            tolerance_bytes: 50_000_000,
            what: "synthetic:small q4_k on cpu, 2 streams".into(),
            token_p95_max_us: None,
            first_token_p95_max_us: None,
            throughput_min: None,
            canary_due_ms: None,
            digest_every_ms: Some(86_400_000),
        };
        let book = Book { run_tag: "1".into(), host: "gpu7".into(), next_alert_id: 1, ..Book::default() };
        Ok(Runner { sandbox, rules, templates: Templates::default(), book, context, mails: Vec::new() })
    }

    fn run(&mut self, test: &Test) -> Result<Vec<String>, String> {
        let every = moment(&test.every)?.max(1);
        let mut steps =
            test.step.iter().map(|step| Ok((moment(&step.at)?, step))).collect::<Result<Vec<_>, String>>()?;
        let mut expects = test.expect.iter().map(|e| Ok((moment(&e.at)?, e))).collect::<Result<Vec<_>, String>>()?;
        steps.sort_by_key(|(at, _)| *at);
        expects.sort_by_key(|(at, _)| *at);
        let end = expects.last().ok_or("it expects nothing: add an [[test.expect]]")?.0;
        if end / every > TICKS_MAX {
            return Err(format!("more than {TICKS_MAX} evaluations: choose a longer `every`"));
        }
        let (mut steps, mut expects) = (steps.into_iter().peekable(), expects.into_iter().peekable());
        let mut problems = Vec::new();
        let mut t = 0;
        while expects.peek().is_some() {
            while let Some((at, step)) = steps.next_if(|(at, _)| *at <= t) {
                let params = [(":t", Value::from(START.0 + at)), (":t0", Value::from(START.0))];
                self.sandbox
                    .execute(&step.sql, &params)
                    .map_err(|error| format!("the step at {}: {error}", step.at))?;
            }
            self.evaluate(test, t, every)?;
            while let Some((_, expect)) = expects.next_if(|(at, _)| *at < t + every) {
                problems.extend(self.compare(expect));
            }
            t += every;
        }
        Ok(problems)
    }

    fn evaluate(&mut self, test: &Test, t: i64, every: i64) -> Result<(), String> {
        let now = UnixMillis(START.0 + t);
        let mut params = self.context.params(now, t, UnixMillis(now.0 - every), 10_000_000);
        for (name, value) in &test.params {
            let known = params.iter_mut().find(|(param, _)| param[1..] == **name);
            known.ok_or_else(|| format!("there is no parameter {name:?}"))?.1 = value.clone();
        }
        let mut found = Vec::new();
        for rule in &self.rules.rules {
            let limits = Limits { rows_max: 10_000, expired: Box::new(|| false) };
            let mut rows = found_rows(self.sandbox.reader().query_rows(&rule.sql, &params, limits));
            for given in test.rows.iter().filter(|given| given.rule == rule.name) {
                if moment(&given.from)? <= t && t < moment(&given.until)? {
                    rows = rows.map(|rows| rows.into_iter().chain([given.row.clone()]).collect());
                }
            }
            found.push(Found { rule: rule.name.clone(), rows });
        }
        let nothing = BTreeSet::new();
        let step = self.book.step(&self.rules, &self.templates, &found, &[], &nothing, now, Moment::Regular);
        for notice in step.notices {
            self.mails.push(format!("{} {}", notice.kind.as_str(), notice.rule));
        }
        Ok(())
    }

    fn compare(&self, expect: &Expect) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(wanted) = &expect.alerts {
            let mut open: Vec<_> =
                self.book.alerts.values().filter(|alert| alert.state != AlertState::Resolved).collect();
            for want in wanted {
                let fits = |alert: &&crate::model::alert::Alert| {
                    alert.rule == want.rule
                        && alert.state.as_str() == want.state
                        && want.labels.iter().all(|(name, value)| alert.labels.get(name) == Some(value))
                        && want.summary.as_ref().is_none_or(|part| alert.summary.contains(part))
                };
                match open.iter().position(fits) {
                    Some(at) => drop(open.remove(at)),
                    None => problems.push(format!("at {}: expected {want:?}", expect.at)),
                }
            }
            for alert in open {
                let (state, rule, labels, summary) = (alert.state.as_str(), &alert.rule, &alert.labels, &alert.summary);
                problems.push(format!("at {}: did not expect {state} {rule} {labels:?}: {summary}", expect.at));
            }
        }
        if let Some(wanted) = expect.mails.as_ref().filter(|wanted| **wanted != self.mails) {
            problems.push(format!("at {}: expected the mails {wanted:?}, got {:?}", expect.at, self.mails));
        }
        problems
    }
}

fn moment(text: &str) -> Result<i64, String> {
    millis_from(text).ok_or_else(|| format!("{text:?} is no duration; write 90s, 5m or 2h"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::DEFAULT_RULE_TESTS;

    #[test]
    fn the_built_in_rules_pass_their_tests_and_each_has_one() {
        let rules = RuleSet::builtin();
        let results = run_suite("default.test.toml", DEFAULT_RULE_TESTS, &rules).expect("a valid suite");
        let failed: Vec<&TestResult> = results.iter().filter(|result| !result.problems.is_empty()).collect();
        assert!(failed.is_empty(), "{failed:#?}");
        let suite: Suite = toml::from_str(DEFAULT_RULE_TESTS).expect("valid");
        let fires = |rule: &str| {
            let mut expected = suite.test.iter().flat_map(|test| &test.get_ref().expect);
            expected.any(|e| e.alerts.iter().flatten().any(|want| want.rule == rule && want.state == "firing"))
        };
        let untested: Vec<&str> = rules.rules.iter().map(|r| r.name.as_str()).filter(|name| !fires(name)).collect();
        assert_eq!(untested, Vec::<&str>::new(), "each shipped rule is seen firing in a test");
    }

    #[test]
    fn the_example_in_the_documentation_passes_its_test() {
        let text = include_str!("../../../docs/alert-rules.md");
        let blocks: Vec<&str> = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        let rules = RuleSet::parse("docs/alert-rules.md", blocks[0]).expect("the first example is a rule");
        let results = run_suite("docs/alert-rules.md", blocks[1], &rules).expect("the second is its test");
        assert!(results.len() == 1 && results[0].problems.is_empty(), "{results:?}");
    }

    #[test]
    fn a_wrong_expectation_fails() {
        let rules = RuleSet::builtin();
        let text = "[[test]]\nname = \"x\"\nrules = [\"disk_low\"]\n[[test.expect]]\nat = \"1m\"\nalerts = [{ rule = \"disk_low\" }]\n";
        let results = run_suite("x", text, &rules).expect("valid");
        assert_eq!(results[0].problems.len(), 1);
        assert!(
            run_suite("x", "[[test]]\nname = \"x\"\n", &rules)
                .expect_err("nothing expected")
                .starts_with("x:1: x: it expects")
        );
    }
}
