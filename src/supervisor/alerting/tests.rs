//! Alerting over a real database: what is written is found, mailed once, and survives a restart.

use super::*;
use crate::model::event::{Event, EventKind, EventSeverity};
use crate::model::process::NewProcess;
use crate::model::run::RunPlan;
use crate::model::sample::{HostReading, ProcessReading, Role, SampleBatch, WorkReading};
use crate::model::time::MonoMillis;
use crate::store::Mode;

const START: i64 = 1_790_000_040_000;

struct Bench {
    /// Goes away with its database when the test ends.
    folder: tempfile::TempDir,
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
        Bench { folder, store, run_id, worker }
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

#[test]
fn since_is_when_it_was_and_each_crash_has_its_own_number() {
    let mut bench = Bench::new();
    let mut alerting = bench.alerting();
    alerting.tick(&mut bench.store, at(0), Moment::Regular).expect("tick");
    bench.event(20, EventKind::WorkerCrash);
    bench.event(25, EventKind::WorkerCrash);
    for seconds in [30, 45] {
        alerting.tick(&mut bench.store, at(seconds), Moment::Regular).expect("tick");
    }
    let mails = bench.rows("SELECT body_text FROM outbox");
    let body = mails[0][0].as_str().expect("body");
    let since = body.lines().find(|line| line.trim_start().to_lowercase().starts_with("since")).expect(body);
    assert!(since.contains(&report::mail::utc(at(20).wall)), "{since}");
    for number in ["(crash 1 of this run)", "(crash 2 of this run)"] {
        assert!(body.contains(number), "{number}: {body}");
    }
}

#[test]
fn a_crash_loop_that_soakd_has_not_given_up_is_not_said_to_serve_nothing() {
    let mut bench = Bench::new();
    let mut alerting = bench.alerting();
    (0..5).for_each(|n| bench.event(20 + n, EventKind::WorkerCrash));
    for seconds in [30, 45] {
        alerting.tick(&mut bench.store, at(seconds), Moment::Regular).expect("tick");
    }
    let mails = bench.rows("SELECT body_text FROM outbox");
    let body = mails[0][0].as_str().expect("body");
    assert!(body.contains("crash_loop") && body.contains("started again each time"), "{body}");
    assert!(!body.contains("Nothing useful"), "{body}");
}

impl Bench {
    /// Seconds `from_s` to `to_s` of a life that holds `megabytes` and makes a hundred tokens a second.
    fn lives(&mut self, process_id: i64, from_s: i64, to_s: i64, megabytes: i64) {
        for second in from_s..=to_s {
            let bytes = Some(megabytes * 1_000_000);
            let reading = ProcessReading { rss_anon_bytes: bytes, swap_bytes: Some(0), ..ProcessReading::default() };
            let work = WorkReading { tokens: (second - from_s) * 100, ..WorkReading::default() };
            let batch = SampleBatch {
                processes: vec![(process_id, at(second).wall, reading)],
                work: vec![(process_id, at(second).wall, work)],
                ..SampleBatch::default()
            };
            self.store.append(&batch).expect("samples");
        }
    }
}

#[test]
fn lives_within_one_minute_are_not_summed_and_a_minute_without_any_is_shown() {
    let mut bench = Bench::new();
    let (run_id, first) = (bench.run_id, bench.worker);
    bench.lives(first, 0, 29, 3);
    let new = NewProcess { run_id, role: Role::Worker, ordinal: 0, pid: 43, name: None, started: at(35).wall };
    let second = bench.store.start_process(&new).expect("worker").process_id;
    bench.lives(second, 35, 59, 2);
    bench.lives(second, 120, 179, 2);
    let hosts = vec![(run_id, at(181).wall, HostReading::default())];
    bench.store.append(&SampleBatch { hosts, ..SampleBatch::default() }).expect("the next minute");
    let params = bench.context().params(at(190).wall, 190_000, at(180).wall, 0);
    let recent = bench.alerting().recent(&params).expect("a table");
    let rows: Vec<&[Value]> = recent.rows.iter().map(|row| &row[1..4]).collect();
    assert_eq!(
        rows,
        [
            [json!("3.0"), json!("–"), json!("89.8")],
            [json!("no worker"), json!("–"), json!("–")],
            [json!("2.0"), json!("–"), json!("100.0")],
        ]
    );
    bench.store.record(|to| to.gap(run_id, at(70).wall, at(80).wall, "supervisor_down")).expect("a gap");
    let recent = bench.alerting().recent(&params).expect("a table");
    assert_eq!(recent.rows[1][1], json!("not watched"));
}

#[test]
fn ten_thousand_crashes_are_one_mail_and_a_bounded_outbox() {
    let mut bench = Bench::new();
    let mut alerting = bench.alerting();
    alerting.tick(&mut bench.store, at(0), Moment::Regular).expect("tick");
    let (run_id, worker) = (bench.run_id, bench.worker);
    let crash = |n: i64| Event {
        at: UnixMillis(START + 20_000 + n),
        kind: EventKind::GoldenMismatch,
        severity: EventSeverity::Error,
        process_id: Some(worker),
        device_id: None,
        summary: format!("prompt {n} gave another output"),
        detail: json!({}),
    };
    bench.store.record(|to| (0..10_000).try_for_each(|n| to.event(run_id, &crash(n)).map(|_| ()))).expect("events");
    let rules = "[[rule]]\nname = \"each\"\nseverity = \"page\"\nrepeat = \"1h\"\nsummary = \"{{ n }}\"\n\
         sql = \"SELECT CAST(event_id AS TEXT) AS n FROM event WHERE run_id = :run AND kind = 'golden_mismatch'\"\n";
    let mut all = RuleSet::builtin();
    all.rules.extend(RuleSet::parse("storm.toml", rules).expect("rule").rules);
    alerting.replace_rules(all);
    for seconds in (30..600).step_by(90) {
        let report = alerting.tick(&mut bench.store, at(seconds), Moment::Regular).expect("tick");
        assert_eq!(report.failed, [], "at {seconds}");
    }
    let mails = bench.rows("SELECT json_extract(labels, '$.rule') AS rule, length(body_text) FROM v_mails ORDER BY 1");
    let names: Vec<&str> = mails.iter().filter_map(|row| row[0].as_str()).collect();
    assert_eq!(
        names,
        ["each", "golden_mismatch"],
        "the shipped rule sums up, and so does the mail of a rule that does not"
    );
    assert!(mails.iter().all(|row| row[1].as_i64().is_some_and(|chars| chars < 20_000)), "{mails:?}");
    assert_eq!(bench.rows("SELECT count(*) FROM alert WHERE rule = 'each' AND state = 'firing'"), [[json!(10_000)]]);
    let decisions = bench.rows("SELECT count(*) FROM alert_decision");
    assert_eq!(decisions, [[json!(20_002)]], "a hold and a send for each alert");
}

#[test]
fn a_storm_is_told_once_an_hour_though_soakd_is_killed_again_and_again() {
    let mut bench = Bench::new();
    let ten = "json_each('[1,2,3,4,5,6,7,8,9,10]')";
    let rule = format!(
        "[[rule]]\nname = \"each\"\nseverity = \"page\"\nrepeat = \"1h\"\ngroup_wait = \"0s\"\ngroup_by = [\"n\"]\n\
         summary = \"{{{{ n }}}}\"\nsql = \"SELECT a.value || '.' || b.value AS n FROM {ten} AS a, {ten} AS b\"\n"
    );
    let set = RuleSet::parse("storm.toml", &rule).expect("a rule");
    for life in 0..5 {
        let mut alerting = Alerting::open(&bench.store, bench.context(), set.clone()).expect("alerting");
        alerting.tick(&mut bench.store, at(10 + life * 20), Moment::Regular).expect("tick");
        alerting.tick(&mut bench.store, at(20 + life * 20), Moment::Regular).expect("tick");
    }
    let storms = bench.rows("SELECT count(*) FROM outbox WHERE subject LIKE '%wait for the hour%'");
    assert_eq!(storms, [[json!(1)]], "one mail tells of what waits");
    let mails = bench.rows("SELECT count(*) FROM outbox");
    assert!(mails[0][0].as_i64().is_some_and(|mails| mails <= 61), "the budget of an hour holds: {mails:?}");
}

#[test]
fn a_reload_with_a_mistake_keeps_the_old_rules_and_says_where() {
    let bench = Bench::new();
    let mut alerting = bench.alerting();
    let path = bench.folder.path().join("mine.toml");
    let good = "[[rule]]\nname = \"mine\"\nseverity = \"info\"\nsummary = \"{{ x }}\"\nsql = \"SELECT 'a' AS x\"\n";
    std::fs::write(&path, good).expect("write");
    let sources = RuleSources { builtin: true, files: vec![path.clone()] };
    let with_mine = alerting.reload(&sources).expect("good");
    assert_eq!(with_mine, RuleSet::builtin().rules.len() + 1);
    for (from, to, words) in [
        ("SELECT 'a' AS x", "SELECT a FROM v_memry", "Did you mean v_memory?"),
        ("SELECT 'a' AS x", "SELECT 'a' AS y", "uses x, which its SQL does not return"),
        ("SELECT 'a' AS x", "DELETE FROM run", "not authorized"),
        ("\"info\"", "\"loud\"", "mine.toml:3: \"loud\" is no severity"),
    ] {
        std::fs::write(&path, good.replace(from, to)).expect("write");
        let faults = alerting.reload(&sources).expect_err(to);
        assert!(faults[0].to_string().contains(words), "{to}: {}", faults[0]);
        assert!(faults[0].to_string().contains("mine.toml:"), "{}", faults[0]);
        assert_eq!(alerting.rules().rules.len(), with_mine);
        assert_eq!(alerting.rules().get("mine").expect("kept").sql, "SELECT 'a' AS x");
    }
}

#[test]
fn an_event_recorded_just_before_a_long_outage_is_still_mailed() {
    let mut bench = Bench::new();
    let mut alerting = bench.alerting();
    alerting.tick(&mut bench.store, at(0), Moment::Regular).expect("tick");
    bench.event(20, EventKind::WorkerCrash);
    drop(alerting); // killed before it looked, and down for five hours
    let mut again = bench.alerting();
    for seconds in [18_000, 18_015, 18_030, 18_045] {
        again.tick(&mut bench.store, at(seconds), Moment::Regular).expect("tick");
    }
    assert_eq!(bench.rows("SELECT count(*) FROM outbox WHERE kind = 'alert'"), [[json!(1)]]);
}

#[test]
fn a_stepped_wall_clock_moves_the_book_along() {
    let mut bench = Bench::new();
    let mut alerting = bench.alerting();
    bench.store.append(&low_disk(bench.run_id, 0)).expect("sample");
    alerting.tick(&mut bench.store, at(0), Moment::Regular).expect("tick");
    let stepped = |seconds: i64| Now { wall: UnixMillis(at(seconds).wall.0 + 7_200_000), mono: at(seconds).mono };
    let report = alerting.tick(&mut bench.store, stepped(30), Moment::Regular).expect("tick");
    assert_eq!((report.pending, report.firing), (1, 0), "half a minute of two has passed, whatever the wall says");
    let report = alerting.tick(&mut bench.store, stepped(130), Moment::Regular).expect("tick");
    assert_eq!((report.pending, report.firing), (0, 1));
}

fn low_disk(run_id: i64, seconds: i64) -> crate::model::sample::SampleBatch {
    let reading = crate::model::sample::HostReading { disk_free_bytes: Some(500_000_000), ..Default::default() };
    crate::model::sample::SampleBatch { hosts: vec![(run_id, at(seconds).wall, reading)], ..Default::default() }
}

#[test]
fn silences_and_acknowledgements_of_other_processes_are_seen() {
    let mut bench = Bench::new();
    let mut alerting = bench.alerting();
    bench.store.append(&low_disk(bench.run_id, 0)).expect("sample");
    let mut other = Store::open(bench.store.path(), Mode::Join).expect("another process");
    let silence = crate::model::alert::Silence {
        silence_id: 0,
        rule: Some("disk_low".into()),
        labels: std::collections::BTreeMap::new(),
        from: at(0).wall,
        until: at(600).wall,
        why: "moving data".into(),
        who: "ada".into(),
    };
    other.record(|to| to.put_silence(&silence)).expect("silence");
    for seconds in [0, 130, 300] {
        alerting.tick(&mut bench.store, at(seconds), Moment::Regular).expect("tick");
    }
    assert_eq!(bench.rows("SELECT count(*) FROM outbox"), [[json!(0)]]);
    let reasons = bench.rows("SELECT reason FROM alert_decision ORDER BY decision_id DESC LIMIT 1");
    assert_eq!(reasons, [[json!("silenced (#1) by ada: moving data")]]);
    alerting.tick(&mut bench.store, at(601), Moment::Regular).expect("tick");
    assert_eq!(bench.rows("SELECT count(*) FROM outbox"), [[json!(1)]], "the silence is over");
    assert!(other.record(|to| to.acknowledge(1, at(610).wall, "ada")).expect("ack"));
    alerting.tick(&mut bench.store, at(5 * 3_600), Moment::Regular).expect("tick");
    assert_eq!(bench.rows("SELECT count(*) FROM outbox"), [[json!(1)]], "four hours later: not repeated");
}
