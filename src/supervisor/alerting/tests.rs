//! Alerting over a real database: what is written is found, mailed once, and survives a restart.

use super::*;
use crate::model::event::{Event, EventKind, EventSeverity};
use crate::model::process::NewProcess;
use crate::model::run::RunPlan;
use crate::model::sample::Role;
use crate::model::time::MonoMillis;
use crate::store::Mode;

const START: i64 = 1_790_000_040_000;

struct Bench {
    _folder: tempfile::TempDir,
    store: Store,
    run_id: i64,
    worker: i64,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().expect("folder");
        let mut store = Store::open(folder.path().join("soak.db"), Mode::Write).expect("store");
        let plan = RunPlan {
            started: UnixMillis(START),
            duration_ms: 172_800_000,
            horizon_ms: 172_800_000,
            tolerance_bytes: 50_000_000,
            backend: "cpu".into(),
            model: "synthetic:tiny".into(),
            variant: "q4_k".into(),
            streams: 1,
            scenario: "steady".into(),
            seed: 7,
            host: "gpu7".into(),
            facts: json!({}),
            config_toml: String::new(),
        };
        let run_id = store.start_run(&plan).expect("run");
        let new =
            NewProcess { run_id, role: Role::Worker, ordinal: 0, pid: 42, name: None, started: UnixMillis(START) };
        let worker = store.start_process(&new).expect("worker").process_id;
        Bench { _folder: folder, store, run_id, worker }
    }

    fn context(&self) -> AlertContext {
        AlertContext {
            run_id: self.run_id,
            host: "gpu7".into(),
            started: UnixMillis(START),
            duration_ms: 172_800_000,
            horizon_ms: 172_800_000,
            tolerance_bytes: 50_000_000,
            what: "synthetic:tiny q4_k on cpu, 1 stream".into(),
            token_p95_max_us: None,
            first_token_p95_max_us: None,
            throughput_min: None,
            canary_due_ms: None,
            digest_every_ms: None,
        }
    }

    fn alerting(&self) -> Alerting {
        Alerting::open(&self.store, self.context(), RuleSet::builtin()).expect("alerting")
    }

    fn event(&mut self, at_s: i64, kind: EventKind) {
        let event = Event {
            at: UnixMillis(START + at_s * 1_000),
            kind,
            severity: EventSeverity::Error,
            process_id: Some(self.worker),
            device_id: None,
            summary: "worker-0 ended by signal 11 (SIGSEGV)".into(),
            detail: json!({}),
        };
        self.store.event(self.run_id, &event).expect("event");
    }

    fn rows(&self, sql: &str) -> Vec<Vec<Value>> {
        let reader = Reader::open(self.store.path()).expect("reader");
        let limits = Limits { rows_max: 20_000, expired: Box::new(|| false) };
        reader.query_rows(sql, &[], limits).expect(sql).rows
    }
}

fn at(seconds: i64) -> Now {
    Now { wall: UnixMillis(START + seconds * 1_000), mono: MonoMillis(5_000_000 + seconds * 1_000) }
}

#[test]
fn the_built_in_rules_pass_the_lint() {
    let bench = Bench::new();
    let reader = Reader::open(bench.store.path()).expect("reader");
    let faults: Vec<String> = check_rules(&RuleSet::builtin(), &reader).iter().map(ToString::to_string).collect();
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn a_crash_is_mailed_once_and_a_restart_does_not_mail_it_again() {
    let mut bench = Bench::new();
    let mut alerting = bench.alerting();
    assert_eq!(alerting.tick(&mut bench.store, at(0), Moment::Regular).expect("tick").failed, []);
    bench.event(20, EventKind::WorkerCrash);
    for seconds in [30, 45] {
        alerting.tick(&mut bench.store, at(seconds), Moment::Regular).expect("tick");
    }
    let mails = bench.rows("SELECT kind, route, subject, body_text FROM v_mails");
    assert_eq!(mails.len(), 1, "{mails:?}");
    let subject = mails[0][2].as_str().expect("subject");
    assert!(subject.contains("gpu7") && subject.contains("SIGSEGV"), "{subject}");
    let body = mails[0][3].as_str().expect("body");
    assert!(body.contains("worker_crash") && body.contains("journalctl") && body.contains("e.run_id = 1"), "{body}");
    drop(alerting);
    let mut again = bench.alerting();
    for seconds in [60, 120, 700, 800, 4_000] {
        again.tick(&mut bench.store, at(seconds), Moment::Regular).expect("tick");
    }
    assert_eq!(bench.rows("SELECT count(*) FROM outbox"), [[json!(1)]]);
    let decisions = bench.rows("SELECT action, reason FROM v_alert_decisions ORDER BY decision_id");
    let text = |row: &Vec<Value>| format!("{}: {}", row[0].as_str().unwrap_or(""), row[1].as_str().unwrap_or(""));
    assert_eq!(
        decisions.iter().map(text).collect::<Vec<_>>(),
        ["hold: waits 10 s for more of its group", "send: began to fire", "hold: ended; its rule sends no RESOLVED",]
    );
}
