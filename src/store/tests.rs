//! The store's promises on small files: what is opened and what is refused, what is written and read back.

use super::sql::{Limits, QueryError, Reader};
use super::*;
use crate::model::event::{Event, EventKind, EventSeverity};
use crate::model::finding::{Finding, Shape, Steps, Verdict};
use crate::model::process::{EndReason, Golden, NewDevice, NewProcess, ProcessEnd};
use crate::model::run::{Absence, RunEnd, RunPlan, RunState};
use crate::model::sample::{DeviceReading, HostReading, ProcessReading, Role, SampleBatch, WorkReading};
use crate::model::series::{SeriesKey, SeriesKind};
use serde_json::{Value, json};

const START: i64 = 1_790_000_040_000; // a whole minute

fn plan() -> RunPlan {
    RunPlan {
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
        facts: json!({"kernel": "6.1"}),
        config_toml: "duration = \"48h\"\n".into(),
    }
}

fn limits(rows_max: usize) -> Limits {
    Limits { rows_max, expired: Box::new(|| false) }
}

fn worker(run_id: i64) -> NewProcess {
    NewProcess { run_id, role: Role::Worker, ordinal: 0, pid: 42, name: None, started: UnixMillis(START) }
}

fn event(at: i64, kind: EventKind) -> Event {
    Event {
        at: UnixMillis(at),
        kind,
        severity: EventSeverity::Error,
        process_id: None,
        device_id: None,
        summary: "something".into(),
        detail: json!({"n": 1}),
    }
}

fn batch(run_id: i64, process_id: i64, at: i64, n: i64) -> SampleBatch {
    let process = ProcessReading {
        rss_bytes: Some(100_000_000 + n),
        rss_anon_bytes: Some(90_000_000),
        swap_bytes: Some(1_000_000),
        cpu_ms: Some(n * 500),
        cgroup_bytes: None,
        ..ProcessReading::default()
    };
    let work = WorkReading { tokens: n * 30, requests: n, ..WorkReading::default() };
    SampleBatch {
        processes: vec![(process_id, UnixMillis(at), process)],
        work: vec![(process_id, UnixMillis(at), work)],
        devices: vec![],
        hosts: vec![(run_id, UnixMillis(at), HostReading { disk_free_bytes: Some(5), ..HostReading::default() })],
    }
}

fn rows(store: &Store, sql: &str) -> Vec<Vec<Value>> {
    let reader = Reader::open(store.path()).expect("reader");
    reader.query_rows(sql, &[], limits(10_000)).expect("query").rows
}

#[test]
fn a_run_is_written_and_read_back() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("soak.db");
    let mut store = Store::open(&path, Mode::Write).expect("new");
    let run_id = store.start_run(&plan()).expect("run");
    let first = store.start_process(&worker(run_id)).expect("process");
    let gpu = NewDevice {
        run_id,
        ordinal: 0,
        uuid: "GPU-1".into(),
        name: "H".into(),
        driver: "570".into(),
        pci_bus_id: None,
        vram_total_bytes: Some(10),
    };
    let device = store.start_device(&gpu).expect("device");
    assert_eq!(store.start_device(&gpu).expect("again"), device, "the same UUID is the same device");
    for n in 0..150 {
        let mut seconds = batch(run_id, first.process_id, START + n * 1_000, n);
        let reading = DeviceReading { vram_used_bytes: Some(4_000_000), ..DeviceReading::default() };
        seconds.devices.push((device, UnixMillis(START + n * 1_000), reading));
        store.append(&seconds).expect("append");
    }
    let end = ProcessEnd {
        process_id: first.process_id,
        at: UnixMillis(START + 150_000),
        reason: EndReason::Crash,
        exit_code: None,
        exit_signal: Some(11),
        stderr_tail: Some("boom".into()),
        heartbeat: Some(UnixMillis(START + 149_000)),
        rss_bytes: Some(1),
        anon_swap_bytes: Some(2),
        vram_bytes: None,
    };
    store
        .record(|to| {
            to.end_process(&end)?;
            to.event(run_id, &event(START + 150_000, EventKind::WorkerCrash))
        })
        .expect("crash");
    let second = store.start_process(&worker(run_id)).expect("restart");
    assert_eq!((first.incarnation, second.incarnation), (1, 2));
    let run_end = RunEnd {
        at: UnixMillis(START + 151_000),
        state: RunState::Interrupted,
        verdict: Verdict::Inconclusive,
        reason: "too short".into(),
    };
    store.finish_run(run_id, &run_end).expect("finish");
    assert_eq!(
        rows(&store, "SELECT samples, rss_mb_max, anon_swap_mb FROM v_memory"),
        [
            [json!(60), json!(100.0), json!(91.0)],
            [json!(60), json!(100.0), json!(91.0)],
            [json!(30), json!(100.0), json!(91.0)],
        ]
    );
    assert_eq!(rows(&store, "SELECT tokens, tokens_per_s FROM v_throughput")[1], [json!(1800), json!(30.0)]);
    assert_eq!(rows(&store, "SELECT samples, vram_used_mb FROM v_gpus").len(), 3);
    assert_eq!(
        rows(&store, "SELECT process, exit_signal, silent_s_before_end FROM v_crashes"),
        [[json!("worker-0"), json!(11), json!(1.0)]]
    );
    assert_eq!(
        rows(&store, "SELECT verdict, crashes, state FROM v_runs"),
        [[json!("inconclusive"), json!(1), json!("interrupted")]]
    );
}

fn ended(process_id: i64, at: i64) -> ProcessEnd {
    ProcessEnd {
        process_id,
        at: UnixMillis(at),
        reason: EndReason::Crash,
        exit_code: None,
        exit_signal: Some(9),
        stderr_tail: None,
        heartbeat: None,
        rss_bytes: None,
        anon_swap_bytes: None,
        vram_bytes: None,
    }
}

fn minutes(store: &Store, process_id: i64) -> Vec<Value> {
    let sql = format!("SELECT samples FROM process_minute WHERE process_id = {process_id} ORDER BY minute_unix_ms");
    rows(store, &sql).into_iter().flatten().collect()
}

#[test]
fn the_last_minute_of_who_has_ended_is_there_at_once_and_whole_when_it_is_over() {
    let folder = tempfile::tempdir().expect("folder");
    let mut store = Store::open(folder.path().join("soak.db"), Mode::Write).expect("new");
    let run_id = store.start_run(&plan()).expect("run");
    let [killed, silent] = [(); 2].map(|()| store.start_process(&worker(run_id)).expect("process").process_id);
    for n in 0..80 {
        store.append(&batch(run_id, killed, START + n * 1_000, n)).expect("append");
        store.append(&batch(run_id, silent, START + n * 1_000, n)).expect("append");
    }
    store.end_process(&ended(killed, START + 80_000)).expect("end");
    assert_eq!(minutes(&store, killed), [json!(60), json!(20)], "at once");
    assert_eq!(rows(&store, "SELECT max(tokens_last) FROM work_minute"), [[json!(79 * 30)]]);
    // A reading of its last second that came later, and then nothing but the host's.
    store.append(&batch(run_id, killed, START + 80_000, 80)).expect("append");
    let host = |at: i64| SampleBatch { processes: vec![], work: vec![], ..batch(run_id, 0, at, 0) };
    store.append(&host(START + 119_000)).expect("append");
    assert_eq!(minutes(&store, silent), [json!(60)], "its minute is not over");
    store.append(&host(START + 120_000)).expect("append");
    assert_eq!(minutes(&store, killed), [json!(60), json!(21)]);
    assert_eq!(minutes(&store, silent), [json!(60), json!(20)], "whoever has no sample any more");
}

#[test]
fn two_lives_in_one_minute_are_no_doubled_rate() {
    let folder = tempfile::tempdir().expect("folder");
    let mut store = Store::open(folder.path().join("soak.db"), Mode::Write).expect("new");
    let run_id = store.start_run(&plan()).expect("run");
    for (from, to) in [(0, 29), (35, 60)] {
        let process_id = store.start_process(&worker(run_id)).expect("process").process_id;
        for n in from..=to {
            store.append(&batch(run_id, process_id, START + n * 1_000, n - from)).expect("append");
        }
    }
    let facts = store.run_facts(run_id, 100, UnixMillis(START + 60_000)).expect("facts").expect("a run");
    let rates: Vec<f64> = facts.throughput.over_time.iter().map(|column| column.max).collect();
    assert!(rates.iter().all(|rate| (20.0..=30.0).contains(rate)), "each life made 30 a second: {rates:?}");
    assert!(!rates.is_empty());
}

#[test]
fn the_end_of_a_run_completes_the_minutes_of_those_who_ended_long_before() {
    let folder = tempfile::tempdir().expect("folder");
    let mut store = Store::open(folder.path().join("soak.db"), Mode::Write).expect("new");
    let run_id = store.start_run(&plan()).expect("run");
    let killed = store.start_process(&worker(run_id)).expect("process").process_id;
    store.append(&batch(run_id, killed, START, 1)).expect("append");
    let end = RunEnd {
        at: UnixMillis(START + 3_600_000),
        state: RunState::Finished,
        verdict: Verdict::Inconclusive,
        reason: "too short".into(),
    };
    store.finish_run(run_id, &end).expect("finish");
    assert_eq!(rows(&store, "SELECT samples FROM v_memory"), [[json!(1)]]);
}

#[test]
fn an_unfinished_run_is_found_and_resumed_with_its_gap() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("soak.db");
    let mut store = Store::open(&path, Mode::Write).expect("new");
    assert_eq!(store.unfinished_run("gpu7").expect("none"), None);
    let run_id = store.start_run(&plan()).expect("run");
    let process = store.start_process(&worker(run_id)).expect("process");
    let golden = Golden { backend: "cpu".into(), prompt: 3, tokens: vec![1, u32::MAX, 7], hash: u64::MAX - 5 };
    store.record(|to| to.put_golden(run_id, &golden, UnixMillis(START))).expect("golden");
    store.append(&batch(run_id, process.process_id, START + 90_000, 1)).expect("append");
    drop(store); // as if killed

    let mut store = Store::open(&path, Mode::Write).expect("again");
    assert_eq!(rows(&store, "SELECT count(*) FROM v_memory"), [[json!(1)]], "the open minute is rolled up at start");
    assert_eq!(store.unfinished_run("other").expect("none"), None, "another host's run is not ours to resume");
    let found = store.unfinished_run("gpu7").expect("query").expect("found");
    assert_eq!((found.run_id, found.last_seen, found.served_ms()), (run_id, UnixMillis(START + 90_000), 90_000));
    assert_eq!(found.plan, plan());
    store.resume(&found, UnixMillis(START + 150_000), Absence::SupervisorDown, "").expect("resume");
    assert_eq!(store.golden(run_id, "cpu").expect("golden"), [golden]);
    assert_eq!(rows(&store, "SELECT seconds, reason FROM v_gaps"), [[json!(60.0), json!("supervisor_down")]]);
    assert_eq!(rows(&store, "SELECT end_reason FROM v_processes"), [[json!("lost")]]);
    let again = store.unfinished_run("gpu7").expect("query").expect("still unfinished");
    assert_eq!((again.served_ms(), again.resumes), (90_000, 1), "the gap is not counted as served");
}

#[test]
fn a_host_that_was_started_again_is_told_from_a_soakd_that_was() {
    let folder = tempfile::tempdir().expect("folder");
    let mut store = Store::open(folder.path().join("soak.db"), Mode::Write).expect("new");
    let run_id = store.start_run(&RunPlan { facts: json!({ "boot_id": "first" }), ..plan() }).expect("run");
    let found = |store: &Store| store.unfinished_run("gpu7").expect("query").expect("found");
    assert_eq!(found(&store).absence("first"), Absence::SupervisorDown, "the same boot");
    assert_eq!(found(&store).absence(""), Absence::SupervisorDown, "nobody knows");
    let cut_off = Absence::HostDown { in_order: false };
    assert_eq!(found(&store).absence("second"), cut_off, "nothing was heard of a shutdown");
    store.resume(&found(&store), UnixMillis(START + 60_000), cut_off, "second").expect("resume");
    assert_eq!(found(&store).absence("second"), Absence::SupervisorDown, "a boot is told once");
    store.event(run_id, &event(START + 90_000, EventKind::HostShutdown)).expect("event");
    let in_order = Absence::HostDown { in_order: true };
    assert_eq!(found(&store).absence("third"), in_order);
    store.resume(&found(&store), UnixMillis(START + 120_000), in_order, "third").expect("resume");
    assert_eq!(found(&store).absence("fourth"), cut_off, "that shutdown was of another boot");
    assert_eq!(
        rows(&store, "SELECT DISTINCT reason FROM v_gaps"),
        [[json!("host_down")]],
        "what was down is in the gap"
    );
}

#[test]
fn a_transaction_is_all_or_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let mut store = Store::open(folder.path().join("soak.db"), Mode::Write).expect("new");
    let run_id = store.start_run(&plan()).expect("run");
    let failed = store.record(|to| {
        to.event(run_id, &event(START, EventKind::Note))?;
        to.event(run_id + 1, &event(START, EventKind::Note)) // there is no such run
    });
    assert!(failed.is_err());
    assert_eq!(rows(&store, "SELECT count(*) FROM event WHERE kind = 'note'"), [[json!(0)]]);
}

#[test]
fn samples_of_one_millisecond_are_both_kept() {
    let folder = tempfile::tempdir().expect("folder");
    let mut store = Store::open(folder.path().join("soak.db"), Mode::Write).expect("new");
    let run_id = store.start_run(&plan()).expect("run");
    let process = store.start_process(&worker(run_id)).expect("process");
    for n in 0..3 {
        store.append(&batch(run_id, process.process_id, START, n)).expect("the clock was stepped back onto itself");
    }
    assert_eq!(rows(&store, "SELECT count(*) FROM process_sample"), [[json!(3)]]);
}

#[test]
fn what_is_no_database_of_ours_is_refused_and_kept() {
    let folder = tempfile::tempdir().expect("folder");
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("text.db"), "hello, this is a shopping list and no database\n".repeat(100)).expect("write");
    let other = Connection::open(at("other.db")).expect("open");
    other.execute_batch("CREATE TABLE invoices (x)").expect("table");
    let newer = at("newer.db");
    drop(Store::open(&newer, Mode::Write).expect("new"));
    Connection::open(&newer).expect("open").pragma_update(None, "user_version", 99).expect("version");
    let torn = at("torn.db");
    let mut store = Store::open(&torn, Mode::Write).expect("new");
    for _ in 0..50 {
        store.start_run(&plan()).expect("run");
    }
    drop(store);
    let mut bytes = std::fs::read(&torn).expect("read");
    let n = bytes.len();
    bytes[4096..n - 4096].fill(0x5a);
    std::fs::write(&torn, &bytes).expect("write");
    let cases = [
        ("text.db", "is not a SQLite database"),
        ("other.db", "\"invoices\""),
        ("newer.db", "newer soakd (schema 99"),
        ("torn.db", "is damaged"),
        ("no/such/folder/soak.db", "there is no folder"),
    ];
    for (name, words) in cases {
        let before = std::fs::read(at(name)).ok();
        let error = Store::open(at(name), Mode::Write).expect_err(name).to_string();
        assert!(error.contains(words) && error.contains(name), "{name}: {error}");
        assert_eq!(std::fs::read(at(name)).ok(), before, "{name} must be left as it was");
    }
}

#[test]
fn a_second_supervisor_is_refused_and_others_may_join() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("soak.db");
    assert!(matches!(Store::open(&path, Mode::Join), Err(StoreError::Missing { .. })));
    let store = Store::open(&path, Mode::Write).expect("first");
    let error = Store::open(&path, Mode::Write).expect_err("second").to_string();
    assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    let mut mailer = Store::open(&path, Mode::Join).expect("mailer");
    mailer.heartbeat("mailer", UnixMillis(START), None, None).expect("beat");
    assert_eq!(store.heartbeat_of("mailer").expect("read").expect("row").at, UnixMillis(START));
    drop(store);
    Store::open(&path, Mode::Write).expect("after the first has gone");
}

#[test]
fn free_sql_only_reads_and_only_ours() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("soak.db");
    let mut store = Store::open(&path, Mode::Write).expect("new");
    store.start_run(&plan()).expect("run");
    let reader = Reader::open(&path).expect("reader");
    let forbidden = [
        "DELETE FROM run",
        "INSERT INTO heartbeat VALUES ('x', 1, 1, NULL, NULL)",
        "SELECT * FROM sqlite_schema",
        "SELECT count(*) FROM sqlite_schema",
        "SELECT * FROM pragma_table_info('run')",
        "PRAGMA journal_mode = DELETE",
        "ATTACH '/tmp/x.db' AS x",
        "CREATE TEMP TABLE t (x)",
        "SELECT load_extension('x')",
        "SELECT 1; DROP TABLE run",
        "VACUUM INTO '/tmp/x.db'",
    ];
    for sql in forbidden {
        let got = reader.query_rows(sql, &[], limits(10));
        assert!(matches!(got, Err(QueryError::Forbidden(_))), "{sql}: {got:?}");
    }
    let allowed = [
        "SELECT upper(host), count(*) FROM run GROUP BY 1",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT sum(i) FROM n",
        "WITH x AS (SELECT 1 FROM run) SELECT count(*) FROM x",
        "SELECT e.key FROM run, json_each(facts) AS e",
        "SELECT * FROM v_runs",
    ];
    for sql in allowed {
        let got = reader.query_rows(sql, &[], limits(10)).expect(sql);
        assert_eq!(got.rows.len(), 1, "{sql}");
    }
}

#[test]
fn free_sql_has_limits_and_says_what_was_meant() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("soak.db");
    let mut store = Store::open(&path, Mode::Write).expect("new");
    store.start_run(&plan()).expect("run");
    let reader = Reader::open(&path).expect("reader");
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    let got = reader.query_rows(endless, &[], limits(7)).expect("cut");
    assert_eq!((got.rows.len(), got.truncated), (7, true));
    let mut looks = 0;
    let expired = Box::new(move || {
        looks += 1;
        looks > 100
    });
    let slow = format!("SELECT count(*) FROM ({endless})");
    let got = reader.query_rows(&slow, &[], Limits { rows_max: 7, expired });
    assert_eq!(got, Err(QueryError::TimedOut));
    assert!(reader.query_rows("SELECT 1", &[], limits(1)).is_ok(), "the limit ends with its query");
    let got = reader.query_rows(
        "SELECT :run + :n AS x",
        &[(":run", json!(2)), (":n", json!(1.5)), (":z", json!(1))],
        limits(1),
    );
    assert_eq!(got.expect("bound").rows, [[json!(3.5)]]);
    let cases = [
        ("SELECT * FROM v_memry", "Did you mean v_memory?"),
        ("SELECT rss_mbx FROM v_memory", "Did you mean rss_mb?"),
        ("SELECT :nope", "unknown parameter :nope"),
        ("SELEC 1", "syntax error"),
    ];
    for (sql, words) in cases {
        let error = reader.query_rows(sql, &[], limits(1)).expect_err(sql).to_string();
        assert!(error.contains(words), "{sql}: {error}");
    }
}

#[test]
fn every_view_opens_in_an_empty_database() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("soak.db");
    drop(Store::open(&path, Mode::Write).expect("new"));
    let reader = Reader::open(&path).expect("reader");
    let views: Vec<&String> = reader.schema().keys().filter(|name| name.starts_with("v_")).collect();
    assert!(views.len() >= 15, "{views:?}");
    for view in views {
        reader.query_rows(&format!("SELECT * FROM {view}"), &[], limits(10)).expect(view);
    }
}

#[test]
fn the_documentation_names_every_table_and_view() {
    let text = include_str!("../../docs/database.md");
    let reader = super::sql::Sandbox::new().expect("schema");
    let missing: Vec<&String> =
        reader.reader().schema().keys().filter(|name| !text.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "docs/database.md does not mention {missing:?}");
}

#[test]
fn a_finding_comes_back_as_it_was_said() {
    let folder = tempfile::tempdir().expect("folder");
    let mut store = Store::open(folder.path().join("soak.db"), Mode::Write).expect("new");
    let run = store.start_run(&plan()).expect("run");
    let said = Finding {
        verdict: Verdict::Outside,
        shape: Shape::Linear,
        drift_bytes: 80e6,
        drift_ci95_bytes: [70e6, 90e6],
        slope_bytes_per_hour: 3e6,
        slope_bytes_per_request: Some(12.5),
        minimum_detectable_drift_bytes: 4e6,
        samples: 9,
        span_s: 90.0,
        onset_unix_s: Some(1_790_000_001.0),
        crossing_unix_s: Some([1_790_000_002.0, 1_790_000_003.0]),
        steps: Some(Steps {
            count: 3,
            sum_bytes: -5e6,
            moved_bytes: 25e6,
            largest_bytes: -15e6,
            largest_unix_s: 1_790_000_004.0,
        }),
        unsettled_bytes: Some(-60e6),
        load_swing_bytes: Some(7e6),
        day_swing_bytes: Some(8e6),
        asymptote_bytes: Some(9e6),
        alarmed: true,
        first_alarm_unix_s: Some(1_790_000_005.0),
    };
    let nothing_known = Finding {
        drift_ci95_bytes: [f64::NEG_INFINITY, f64::INFINITY],
        minimum_detectable_drift_bytes: f64::INFINITY,
        drift_bytes: 0.0,
        steps: None,
        ..said.clone()
    };
    for (at, finding) in [(START + 1, &nothing_known), (START + 2, &said)] {
        store
            .record(|tx| {
                let key = SeriesKey { kind: SeriesKind::Rss, role: Some(Role::Worker), ordinal: 0 };
                let series = tx.series(run, &key, true)?;
                tx.finding(series, UnixMillis(at), false, finding)
            })
            .expect("written");
        let facts = store.run_facts(run, 10, UnixMillis(at)).expect("facts").expect("the run");
        assert_eq!(facts.series[0].finding.as_ref(), Some(finding));
    }
    let reader = Reader::open(folder.path().join("soak.db")).expect("reader");
    let drift = "SELECT drift_mb, grows_since, steps, load_swing_mb, day_swing_mb FROM v_drift";
    let row = [json!(80.0), json!("2026-09-21T14:13:21Z"), json!(3), json!(7.0), json!(8.0)];
    assert_eq!(reader.query_rows(drift, &[], limits(9)).expect(drift).rows, [row]);
    // What is not known has no figure.
    let history = "SELECT drift_mb FROM v_drift_history ORDER BY at";
    assert_eq!(reader.query_rows(history, &[], limits(9)).expect(history).rows, [[json!(null)], [json!(80.0)]]);
}
