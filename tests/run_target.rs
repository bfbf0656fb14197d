//! `soakd run -- COMMAND` and `--pid`: a stand-in server that leaks a known number of bytes a request, and every way in
//! which a target or its endpoint disappoints.

use soakd::store::sql::{Limits, Reader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// The example that cargo built beside this test.
fn stand_in() -> PathBuf {
    let test = std::env::current_exe().expect("our own path");
    let path = test.parent().and_then(Path::parent).expect("target/PROFILE").join("examples/leaky_server");
    assert!(path.exists(), "{}: cargo test builds examples; with --test, add --example leaky_server", path.display());
    path
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// Runs `soakd run` in `dir` with mails to nowhere, no canary and quick timeouts.
fn soak(dir: &Path, args: &[&str], command: &[&str]) -> Output {
    let toml = "[mail]\ntransport = \"none\"\n[canary]\nenabled = false\n[target]\nstall = \"2s\"\n\
                [worker]\nbackoff_min = \"200ms\"\n";
    std::fs::write(dir.join("soak.toml"), toml).expect("written");
    let mut soakd = Command::new(env!("CARGO_BIN_EXE_soakd"));
    soakd.current_dir(dir).arg("run").args(args).stdin(Stdio::null());
    if !command.is_empty() {
        soakd.arg("--").args(command);
    }
    soakd.output().expect("runs")
}

fn rows(dir: &Path, sql: &str) -> Vec<Vec<serde_json::Value>> {
    let limits = Limits { rows_max: 10_000, expired: Box::new(|| false) };
    Reader::open(dir.join("soak.db")).expect("a database").query_rows(sql, &[], limits).expect("rows").rows
}

fn events(dir: &Path, kind: &str) -> Vec<String> {
    rows(dir, &format!("SELECT summary FROM event WHERE kind = '{kind}'"))
        .into_iter()
        .map(|row| row[0].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// A stand-in that is not soakd's child.
struct Stranger(Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended by itself
        let _ = self.0.wait();
    }
}

#[test]
fn a_servers_leak_is_measured_per_request_in_the_child_that_serves() {
    const LEAK: usize = 40_000;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (port, server, leak) = (free_port(), stand_in(), LEAK.to_string());
    let load = format!("openai:http://127.0.0.1:{port}/v1");
    let command = [server.to_str().expect("text"), &port.to_string(), "--worker", "--leak", &leak];
    let out = soak(dir.path(), &["--duration", "15s", "--rate", "60", "--load", &load, "--golden"], &command);
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(matches!(out.status.code(), Some(0 | 1 | 3)), "{said}{}", String::from_utf8_lossy(&out.stderr));
    // Memory against requests, both as they were stored; a sample and a count are up to half a second apart.
    let points = rows(
        dir.path(),
        "SELECT w.requests, s.rss_anon_bytes + coalesce(s.swap_bytes, 0) FROM process AS p JOIN process_sample AS s USING (process_id)
         JOIN work_sample AS w ON w.process_id = s.process_id AND abs(w.unix_ms - s.unix_ms) < 500
         WHERE p.role = 'worker' AND w.requests > 60 ORDER BY s.unix_ms",
    );
    assert!(points.len() >= 5, "{} points", points.len());
    let points: Vec<(f64, f64)> =
        points.iter().map(|r| (r[0].as_f64().expect("n"), r[1].as_f64().expect("n"))).collect();
    let n = points.len() as f64;
    let (mx, my) = (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let slope = points.iter().map(|p| (p.0 - mx) * (p.1 - my)).sum::<f64>()
        / points.iter().map(|p| (p.0 - mx).powi(2)).sum::<f64>();
    assert!((slope / LEAK as f64 - 1.0).abs() < 0.1, "{slope:.0} bytes per request where {LEAK} are leaked");
    let work = &rows(dir.path(), "SELECT max(requests), max(tokens), max(golden_mismatches) FROM work_sample")[0];
    assert!(work[1].as_i64() > work[0].as_i64() && work[2].as_i64() == Some(0), "{work:?}");
    assert_eq!(events(dir.path(), "orphan_killed"), Vec::<String>::new(), "its worker ended with it");
    assert!(!events(dir.path(), "golden_recorded").is_empty());
    let kinds = rows(dir.path(), "SELECT DISTINCT kind FROM latency ORDER BY kind");
    assert_eq!(kinds.len(), 3, "token, first token, request: {kinds:?}");
    let metrics =
        Command::new(env!("CARGO_BIN_EXE_soakd")).current_dir(dir.path()).arg("metrics").output().expect("runs");
    let text = String::from_utf8_lossy(&metrics.stdout);
    assert!(text.contains(&format!("soakd_requests_total {}\n", work[0])) && text.ends_with("# EOF\n"), "{text}");
}

#[test]
fn what_cannot_be_soaked_is_said_at_once() {
    let missing = |args: &[&str], command: &[&str], says: &str| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let out = soak(dir.path(), args, command);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{args:?} {command:?}: {said}");
        assert!(said.contains(says), "{args:?} {command:?}: {said:?} lacks {says:?}");
    };
    missing(&["--duration", "5s"], &["/nonexistent/server"], "command not found: /nonexistent/server");
    missing(&["--duration", "5s"], &["sh", "-c", "echo no model >&2; exit 3"], "before it was ready");
    missing(&["--duration", "5s", "--pid", "4194303"], &[], "there is no process 4194303");
    missing(&["--duration", "5s", "--load", "openai:https://x/v1"], &["sleep", "60"], "is no load");
    missing(&["--duration", "5s", "--load", "openai:http://127.0.0.1:1/v1"], &[], "nothing to soak");
}

#[test]
fn a_process_that_already_runs_is_watched_and_left_alone() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let port = free_port();
    let mut stranger =
        Stranger(Command::new(stand_in()).arg(port.to_string()).stderr(Stdio::null()).spawn().expect("starts"));
    let (pid, load) = (stranger.0.id().to_string(), format!("openai-chat:http://127.0.0.1:{port}/v1"));
    let out = soak(dir.path(), &["--duration", "5s", "--pid", &pid, "--load", &load, "--streams", "2"], &[]);
    assert!(matches!(out.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(stranger.0.try_wait().expect("asks"), None, "it was only watched");
    let seen = &rows(
        dir.path(),
        "SELECT max(requests), (SELECT count(*) FROM process_sample AS s JOIN process AS p USING (process_id)
        WHERE p.role = 'worker' AND s.rss_anon_bytes > 0) FROM work_sample",
    )[0];
    assert!(seen[0].as_i64() > Some(10) && seen[1].as_i64() > Some(2), "{seen:?}");
}

#[test]
fn answers_that_are_none_are_failures_and_nothing_hangs() {
    let cases = [
        ("--html", "target_endpoint_down", "text/html"),
        ("--stall", "target_endpoint_down", "stalled"),
        ("--empty", "empty_output", "gave no token"),
        ("--die", "worker_crash", "worker-0"),
    ];
    for (fault, kind, says) in cases {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (port, server) = (free_port(), stand_in());
        let load = format!("openai:http://127.0.0.1:{port}/v1");
        let command = [server.to_str().expect("text"), &port.to_string(), fault, "--after", "5"];
        let out = soak(dir.path(), &["--duration", "7s", "--load", &load, "--streams", "2"], &command);
        let found = events(dir.path(), kind);
        assert!(
            found.first().is_some_and(|summary| summary.contains(says)),
            "{fault}: {found:?}\n{}",
            String::from_utf8_lossy(&out.stdout)
        );
        assert!(found.len() < 20, "{fault}: a flood of {} events", found.len());
        if kind != "target_endpoint_down" {
            assert_eq!(out.status.code(), Some(1), "{fault}");
        }
    }
}

#[test]
fn every_profile_is_a_configuration_that_starts_something_and_drives_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("profiles") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "toml") {
            let config = soakd::config::load(Some(&path)).unwrap_or_else(|e| panic!("{e}"));
            assert!(config.target.is_set() && config.target.load.starts_with("openai"), "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 4, "{seen} profiles");
}
