//! Reports of written runs: what they say, what they weigh, and that a browser can show them.

#[path = "support/history.rs"]
mod history;

use history::{START, Script};
use serde_json::Value;
use soakd::model::facts::{RunFacts, Standing};
use soakd::model::time::UnixMillis;
use soakd::report::{html, json, text};
use soakd::store::{Mode, Store};
use std::path::Path;

const ASKED: UnixMillis = UnixMillis(START + 200_000_000);

fn facts(path: &Path, run_id: i64) -> RunFacts {
    let store = Store::open(path, Mode::ReadOnly).expect("reads");
    store.run_facts(run_id, 2_880, ASKED).expect("facts").expect("the run is there")
}

fn written(script: Script) -> (tempfile::TempDir, RunFacts) {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("soak.db");
    let run_id = history::write(&path, script);
    let facts = facts(&path, run_id);
    (folder, facts)
}

const SHORT: Script = Script { seconds: 7_200, every: 10, leak_bytes: 4e6, crash: true, tokens_per_s: 81.0, seed: 1 };

#[test]
fn facts_are_what_was_written() {
    let (_folder, facts) = written(SHORT);
    assert_eq!((facts.crashes(), facts.hangs()), (1, 0));
    assert_eq!(facts.standing(), Standing::Failed, "a crash fails a run whose memory is fine");
    assert_eq!(facts.uptime.unwatched_ms, 95_000, "the gap");
    assert_eq!(facts.uptime.worker_down_ms, 8_000, "from the crash to the next life");
    assert_eq!(facts.series.len(), 8);
    let anon = facts.series.iter().find(|s| s.name == "worker-0.anon_swap").expect("judged");
    let lives: Vec<u32> = anon.columns.chunk_by(|a, b| a.segment == b.segment).map(|c| c[0].segment).collect();
    assert_eq!(lives, [1, 2], "two lives, not mixed");
    assert_eq!(
        anon.columns.iter().map(|c| c.count).sum::<u32>(),
        719,
        "every sample counts once; one fell into the restart"
    );
    let token = facts.latency("token").expect("measured");
    assert!(token.p50_ms > 10.0 && token.p50_ms < 14.0 && token.p99_ms > 25.0, "{} {}", token.p50_ms, token.p99_ms);
    let rate = facts.throughput.tokens_per_s.expect("decoded");
    assert!((rate - 81.0).abs() < 2.0, "{rate}");
    assert_eq!(facts.vram_bytes_max(), Some(13_421_772_800.0));
}

#[test]
fn deaths_are_told_in_the_order_in_which_they_came() {
    let (_folder, mut facts) = written(SHORT);
    let mut earlier = facts.deaths()[0].clone();
    earlier.ended = earlier.ended.map(|at| UnixMillis(at.0 - 60_000));
    earlier.pid = 4711;
    facts.processes.push(earlier); // of a worker that was started later
    assert_eq!(facts.deaths()[0].pid, 4711);
    let text = text::render(&facts, &[], 100);
    let (first, second) = (text.find("(pid 4711, "), text.rfind("worker-0 (pid "));
    assert!(first.is_some() && first < second, "{text}");
}

/// The README's fifth question joins the two views by the minute; histograms are handed over at any second of it.
#[test]
fn throughput_and_latency_join_by_the_minute() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("soak.db");
    history::write(&path, SHORT);
    let database = rusqlite::Connection::open(&path).expect("SQLite");
    let sql = "SELECT count(*), count(l.p99_ms) FROM v_throughput AS t LEFT JOIN v_latency AS l
               ON l.run_id = t.run_id AND l.minute = t.minute AND l.kind = 'token'";
    let (minutes, joined): (i64, i64) =
        database.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).expect("a row");
    assert!(minutes > 100 && joined > minutes * 9 / 10, "{joined} of {minutes} minutes have a latency");
}

#[test]
fn the_text_report_is_the_golden_one() {
    let (_folder, facts) = written(SHORT);
    let text = text::render(&facts, &[], 100);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/report.txt");
    if std::env::var_os("SOAKD_WRITE_GOLDEN").is_some() {
        std::fs::write(&golden, &text).expect("written");
    }
    assert_eq!(text, std::fs::read_to_string(&golden).expect("golden"), "SOAKD_WRITE_GOLDEN=1 writes it anew");
}

#[test]
fn json_keeps_its_contract() {
    let (_folder, facts) = written(SHORT);
    let json = json::render(&facts, &[]);
    for field in [
        "run",
        "verdict",
        "series",
        "crashes",
        "hangs",
        "uptime_ratio",
        "throughput_tokens_per_s",
        "latency_ms",
        "vram_bytes_max",
        "golden_mismatches",
        "gates",
        "alerts",
        "canary",
    ] {
        assert!(json.get(field).is_some_and(|v| !v.is_null()), "{field}");
    }
    for field in [
        "verdict",
        "shape",
        "drift_bytes",
        "drift_ci95_bytes",
        "slope_bytes_per_hour",
        "minimum_detectable_drift_bytes",
        "samples",
        "span_s",
    ] {
        assert!(json["series"][0].get(field).is_some(), "series: {field}");
    }
    assert_eq!(json["crashes"], Value::from(1));
    assert_eq!(json["verdict"], "within");
    assert_eq!(json["deaths"][0]["exit_signal"], 11);
    assert!(json["latency_ms"]["p95"].is_number());
}

#[test]
fn the_page_stands_alone() {
    let (_folder, facts) = written(SHORT);
    let page = html::render(&facts, &[]).expect("rendered");
    for outside in ["http://", "https://", "src=", "@import", "url("] {
        let foreign = page.replace("http://www.w3.org/2000/svg", "").replace("url(#", "(#");
        assert!(!foreign.contains(outside), "nothing is fetched: {outside}");
    }
    assert!(page.contains("&lt;launch&gt;") && !page.contains("<launch>"), "last words are escaped");
    for said in
        ["FAILED", "signal 11 (SIGSEGV)", "CUDA_ERROR_ILLEGAL_ADDRESS", "worker-0.anon_swap", "caught after", "suspend"]
    {
        assert!(page.contains(said), "{said}");
    }
    let pictures = page.matches("<svg ").count();
    assert_eq!(
        page.matches("role=\"img\" aria-labelledby=").count(),
        pictures,
        "every picture is named for those who listen"
    );
    let mut ids: Vec<&str> = page.split(" id=\"").skip(1).filter_map(|s| s.split('"').next()).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "ids are unique in the page");
    assert!(!page.contains("NaN"), "no figure is nonsense");
    let charts = page.matches("data-timed=\"true\" clip-path").count();
    let tables = page.matches("as a table</summary>").count();
    let histories = page.matches("How the estimate came about").count();
    assert_eq!(tables, charts - histories + 1, "each chart is there as a table, and the verdicts are");
}

#[test]
fn histograms_that_cannot_be_read_are_no_figures() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("soak.db");
    let run_id = history::write(&path, SHORT);
    let raw = rusqlite::Connection::open(&path).expect("raw");
    raw.execute("UPDATE latency SET histogram = x'00'", []).expect("spoilt");
    let facts = facts(&path, run_id);
    for said in [html::render(&facts, &[]).expect("rendered"), text::render(&facts, &[], 100)] {
        assert!(!said.contains("NaN") && said.contains("p95 – ms"), "{said}");
    }
    assert!(json::render(&facts, &[])["latency_ms"]["p95"].is_null());
}

#[test]
fn a_run_that_has_just_begun_has_a_report_too() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("soak.db");
    let run_id = history::write(&path, Script { seconds: 20, every: 1, crash: false, ..SHORT });
    let raw = rusqlite::Connection::open(&path).expect("raw");
    raw.execute_batch("UPDATE run SET state = 'running', ended_unix_ms = NULL, verdict = NULL, verdict_reason = NULL; DELETE FROM finding;")
        .expect("unfinished");
    let facts = facts(&path, run_id);
    assert_eq!(facts.standing(), Standing::Inconclusive);
    assert!(text::render(&facts, &[], 80).contains("running: "));
    assert!(html::render(&facts, &[]).expect("rendered").contains("INCONCLUSIVE"));
    assert_eq!(json::render(&facts, &[])["verdict"], "inconclusive");
}

/// Writes a page (and keeps its database) where `SOAKD_REPORT_DIR` says, to be looked at and timed.
#[test]
fn pages_to_look_at() {
    let Some(dir) = std::env::var_os("SOAKD_REPORT_DIR").map(std::path::PathBuf::from) else { return };
    let path = dir.join("history.db");
    if !path.exists() {
        history::write(&path, Script::default());
        history::write(&path, Script { leak_bytes: 83e6, crash: false, seed: 2, ..Script::default() });
    }
    for run_id in [1, 2] {
        std::fs::write(dir.join(format!("run{run_id}.html")), html::render(&facts(&path, run_id), &[]).expect("page"))
            .expect("written");
    }
}

fn soakd(args: &[&str]) -> std::process::Output {
    std::process::Command::new(env!("CARGO_BIN_EXE_soakd")).args(args).output().expect("soakd starts")
}

/// East of all others, and half an hour beside most: as rules, so that no table of zones need be installed.
const ZONES: [&str; 3] = ["UTC", "LINT-14", "NST3:30NDT,M3.2.0,M11.1.0"];

#[test]
fn what_is_told_is_the_same_in_every_time_zone() {
    let folder = tempfile::tempdir().expect("folder");
    let (path, page) = (folder.path().join("soak.db"), folder.path().join("page.html"));
    history::write(&path, SHORT);
    let (path, page) = (path.display().to_string(), page.display().to_string());
    let told = |zone: &str, args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_soakd"));
        let output = command.args(args).args(["--db", &path]).env("TZ", zone).output().expect("soakd starts");
        // When a page was made is the one thing that three pages made after each other do not share.
        let page = std::fs::read_to_string(&page).unwrap_or_default();
        let page: Vec<&str> = page.lines().filter(|line| !line.contains("<p>Made by soakd ")).collect();
        let page = page.join("\n");
        assert!(!output.stdout.is_empty() || !page.is_empty(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), page)
    };
    let commands: [&[&str]; 9] = [
        &["report"],
        &["report", "--format", "json"],
        &["report", "--out", &page],
        &["runs"],
        &["status"],
        &["alerts"],
        &["gate"],
        &["query", "SELECT * FROM v_events"],
        &["query", "SELECT * FROM v_memory"],
    ];
    for args in commands {
        let [utc, east, west] = ZONES.map(|zone| told(zone, args));
        for other in [&east, &west] {
            assert_eq!((utc.0, &utc.1), (other.0, &other.1), "{args:?}");
            let lines = utc.2.lines().zip(other.2.lines()).find(|(a, b)| a != b);
            assert!(lines.is_none() && utc.2.len() == other.2.len(), "{args:?}: {lines:?}");
        }
    }
}

#[test]
fn compare_claims_from_replicates_and_refuses_to_from_one_run_each() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("soak.db");
    for seed in 1..=6 {
        let tokens_per_s = if seed <= 3 { 81.0 } else { 74.0 } + seed as f64 * 0.1;
        history::write(&path, Script { seconds: 1_800, every: 10, crash: false, seed, tokens_per_s, ..SHORT });
    }
    let db = path.to_str().expect("utf-8");
    let one = soakd(&["compare", "1", "4", "--db", db]);
    let said = String::from_utf8_lossy(&one.stdout);
    assert_eq!(one.status.code(), Some(3), "{said}");
    assert!(said.contains("Nothing is claimed") && !said.contains("worse\n"), "{said}");
    let many = soakd(&["compare", "1,2,3", "4,5,6", "--db", db, "--format", "json"]);
    let json: Value = serde_json::from_slice(&many.stdout).expect("json");
    let speed = json["comparisons"]
        .as_array()
        .expect("list")
        .iter()
        .find(|c| c["metric"] == "throughput_tokens_per_s")
        .expect("there");
    assert_eq!(many.status.code(), Some(1), "seven tokens a second less is worse");
    assert_eq!(speed["worse"], true);
    assert!(speed["difference_ci95"][1].as_f64().expect("number") < 0.0, "{speed}");
    let csv = soakd(&["compare", "1,2,3", "4,5,6", "--db", db, "--format", "csv"]);
    let csv = String::from_utf8_lossy(&csv.stdout).into_owned();
    let line = csv.lines().find(|line| line.starts_with("throughput_tokens_per_s,B,")).expect("a line of it");
    assert!(
        line.ends_with(",worse") && line.split(',').count() == csv.lines().next().expect("a head").split(',').count()
    );
    let files = soakd(&["compare", db, db]);
    assert_eq!(files.status.code(), Some(3), "a file is its newest run, and one run each claims nothing");
    let same = soakd(&["compare", "1,3", "2", "--db", db]);
    assert_eq!(same.status.code(), Some(3), "one run in the second group");
    let wrong = soakd(&["compare", "1", "x", "--db", db]);
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn gate_judges_and_its_exit_code_says_so() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("soak.db");
    history::write(&path, SHORT);
    let db = path.to_str().expect("utf-8");
    let roadmap = soakd(&["gate", "--db", db, "--format", "json"]);
    assert_eq!(roadmap.status.code(), Some(1), "a crash, and two hours are not 48");
    let results: Value = serde_json::from_slice(&roadmap.stdout).expect("json");
    let outcome = |metric: &str| {
        results
            .as_array()
            .expect("list")
            .iter()
            .find(|g| g["metric"] == metric)
            .map(|g| g["outcome"].clone())
            .expect("there")
    };
    assert_eq!(
        (outcome("crashes"), outcome("token_p95_ms"), outcome("drift_bytes")),
        ("fail".into(), "pass".into(), "pass".into())
    );
    let mine = folder.path().join("gates.toml");
    std::fs::write(&mine, "[[gate]]\nname = \"slow\"\nmetric = \"token_p95_ms\"\nat_most = 100\n").expect("written");
    let gates = mine.to_str().expect("utf-8");
    assert_eq!(soakd(&["gate", "--db", db, "--gates", gates]).status.code(), Some(0));
    assert_eq!(soakd(&["gate", "7", "--db", db]).status.code(), Some(2), "no such run");
    let report = soakd(&["report", "--db", db, "--format", "json"]);
    let json: Value = serde_json::from_slice(&report.stdout).expect("json");
    assert_eq!(json["run"]["run_id"], 1);
}

/// With a browser at hand: the page's script runs, finds its charts and offers zooming, and nothing is reported broken.
#[test]
fn a_browser_runs_the_page() {
    let Some(browser) = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| std::process::Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success()))
    else {
        eprintln!("no chromium here: the page was not opened");
        return;
    };
    let (folder, facts) = written(SHORT);
    let page = folder.path().join("report.html");
    std::fs::write(&page, html::render(&facts, &[]).expect("rendered")).expect("written");
    let out = std::process::Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--enable-logging=stderr",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .expect("the browser starts");
    let (dom, log) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(!log.contains("Uncaught") && !log.contains("Refused to"), "{log}");
    assert!(dom.contains("whole run (2.0 h)"), "the script has run: the shown range is written\n{dom}\n{log}");
    assert!(dom.contains("<div class=\"controls\">"), "zooming is offered");
}
