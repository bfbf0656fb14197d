//! `soakd fleet report` over a thousand databases: who leaks, who crashed and who is slow is found, and nobody else.

use rusqlite::Connection;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use soakd::model::finding::{Finding, Shape, Verdict};
use soakd::model::run::{RunEnd, RunPlan, RunState};
use soakd::model::sample::Role;
use soakd::model::series::{SeriesKey, SeriesKind};
use soakd::model::time::UnixMillis;
use soakd::store::{Mode, Store};

const HOSTS: usize = 1_000;
const HOUR_MS: i64 = 3_600_000;
const START: UnixMillis = UnixMillis(1_790_000_000_000);

fn soakd(args: &[&str], databases: &[PathBuf]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_soakd"));
    command.args(["fleet", "report"]).args(args).args(databases).output().expect("soakd starts")
}

/// One finished 48 h run, written through the store.
fn template(path: &Path) {
    let mut store = Store::open(path, Mode::Write).expect("a new database");
    let plan = RunPlan {
        started: START,
        duration_ms: 48 * HOUR_MS,
        horizon_ms: 48 * HOUR_MS,
        tolerance_bytes: 50_000_000,
        backend: "cpu".into(),
        model: "synthetic:small".into(),
        variant: "q4_k".into(),
        streams: 2,
        scenario: "steady".into(),
        seed: 1,
        host: "node".into(),
        facts: serde_json::json!({}),
        config_toml: String::new(),
    };
    let run = store.start_run(&plan).expect("a run");
    let finding = Finding {
        verdict: Verdict::Within,
        shape: Shape::None,
        drift_bytes: 0.0,
        drift_ci95_bytes: [-5e6, 5e6],
        minimum_detectable_drift_bytes: 9e6,
        samples: 172_800,
        span_s: 172_800.0,
        ..Finding::default()
    };
    let end = UnixMillis(START.0 + 48 * HOUR_MS);
    store
        .record(|tx| {
            let key = SeriesKey { kind: SeriesKind::AnonSwap, role: Some(Role::Worker), ordinal: 0 };
            let series = tx.series(run, &key, true)?;
            tx.finding(series, end, true, &finding)?;
            tx.finish_run(
                run,
                &RunEnd { at: end, state: RunState::Finished, verdict: Verdict::Within, reason: "flat".into() },
            )
        })
        .expect("a finding and an end");
}

/// A copy of `template` under its own name, with a figure of its own.
fn host(template: &[u8], folder: &Path, index: usize) -> PathBuf {
    let path = folder.join(format!("{index:04}.db"));
    std::fs::write(&path, template).expect("a copy");
    let db = Connection::open(&path).expect("the copy opens");
    db.pragma_update(None, "synchronous", "OFF").expect("a pragma");
    // Scatter of the drift, about 2 MB, from a fixed sequence.
    let scatter = ((index * 7_919) % 1_000) as f64 / 1_000.0 - 0.5;
    let (drift, verdict) = if index == 500 { (180e6, "outside") } else { (scatter * 8e6, "within") };
    db.execute("UPDATE run SET host = ?1, verdict = ?2", (format!("node{index:04}"), verdict)).expect("a host");
    db.execute(
        "UPDATE finding SET drift_bytes = ?1, drift_lo_bytes = ?1 - 5000000, drift_hi_bytes = ?1 + 5000000, verdict = ?2",
        (drift as i64, verdict),
    )
    .expect("a drift");
    if index == 77 {
        db.execute(
            "INSERT INTO event (run_id, unix_ms, kind, severity, summary, detail) VALUES (1, 1, 'worker_crash', 'error', 'x', '{}')",
            [],
        )
        .expect("a crash");
    }
    path
}

fn fleet(folder: &Path, hosts: usize) -> Vec<PathBuf> {
    let first = folder.join("template.db");
    template(&first);
    let db = Connection::open(&first).expect("it opens");
    db.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(())).expect("one file");
    drop(db);
    let bytes = std::fs::read(&first).expect("its bytes");
    (0..hosts).map(|index| host(&bytes, folder, index)).collect()
}

#[test]
fn a_thousand_hosts_one_leak_one_crash_one_broken_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut databases = fleet(folder.path(), HOSTS);
    let broken = folder.path().join("broken.db");
    std::fs::write(&broken, b"not a database at all, not even close to one").expect("a file");
    databases.push(broken);

    let output = soakd(&["--format", "json"], &databases);
    assert_eq!(output.status.code(), Some(1), "a leak fails: {}", String::from_utf8_lossy(&output.stderr));
    let facts: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let hosts = facts["hosts"].as_array().expect("hosts");
    assert_eq!(hosts.len(), HOSTS);
    assert_eq!(
        (&hosts[0]["host"], &hosts[0]["verdict"]),
        (&"node0500".into(), &"outside".into()),
        "the leak comes first"
    );
    assert_eq!((&hosts[1]["host"], &hosts[1]["crashes"]), (&"node0077".into(), &1.into()), "then the crash");
    let odd: Vec<_> = facts["differences"].as_array().expect("differences").iter().map(|d| &d["host"]).collect();
    assert_eq!(odd, [&Value::from(0)], "only the leaking host differs: {:?}", facts["differences"]);
    assert!(facts["unreadable"][0]["why"].as_str().expect("a reason").contains("broken.db"));
}

#[test]
fn the_page_holds_every_host_and_nothing_from_outside() {
    let folder = tempfile::tempdir().expect("a folder");
    let databases = fleet(folder.path(), 12);
    let db = Connection::open(&databases[3]).expect("it opens");
    db.execute("UPDATE run SET host = '<script>alert(1)</script>'", []).expect("a nasty name");
    drop(db);
    let page = folder.path().join("fleet.html");
    let output = soakd(&["--out", page.to_str().expect("a path")], &databases);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let html = std::fs::read_to_string(&page).expect("the page");
    for index in (0..12).filter(|index| *index != 3) {
        assert!(html.contains(&format!("node{index:04}")), "host {index}");
    }
    assert!(!html.contains("<script>alert"), "a host's name is text");
    assert!(!html.contains("http://") && !html.contains("https://"), "one file, no network");
}

#[test]
fn nothing_readable_is_exit_code_2() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = soakd(&[], &[folder.path().join("missing.db")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("missing.db"));
}
