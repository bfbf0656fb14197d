//! Every way in which a target or its endpoint disappoints, over real processes and sockets: a clear message, recorded, no hang.

mod aim;

use aim::{Stranger, events, free_port, rows, soak, soak_with, stand_in, try_rows};
use std::process::{Command, Stdio};

#[test]
fn what_cannot_be_soaked_is_said_at_once() {
    let missing = |args: &[&str], command: &[&str], says: &str| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let out = soak(dir.path(), args, command);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{args:?} {command:?}: {said}");
        assert!(said.contains(says), "{args:?} {command:?}: {said:?} lacks {says:?}");
    };
    missing(&["--duration", "5m"], &["/nonexistent/server"], "command not found: /nonexistent/server");
    missing(&["--duration", "5m"], &["sh", "-c", "echo no model >&2; exit 3"], "before it was ready");
    missing(&["--duration", "5m", "--pid", "4194303"], &[], "there is no process 4194303");
    // Without a systemd that runs, that is said; with one, that it knows no such unit.
    let is_running = std::path::Path::new("/run/systemd/system").exists();
    let says = if is_running { "systemd knows no unit" } else { "--unit needs systemd, --pid does not" };
    missing(&["--duration", "5m", "--unit", "soakd-knows-none.service"], &[], says);
    missing(&["--duration", "5m", "--load", "openai:ftp://x/v1"], &["sleep", "60"], "is no load");
    missing(&["--duration", "5m", "--load", "openai:http://127.0.0.1:1/v1"], &[], "nothing to soak");
    missing(
        &["--duration", "5m", "--prompts", "/nonexistent.jsonl"],
        &["sleep", "60"],
        "/nonexistent.jsonl: No such file",
    );
}

#[test]
fn an_endpoint_that_is_none_is_said_before_the_soak_begins() {
    let port = free_port();
    let (server, text) = (stand_in(), port.to_string());
    let server = server.to_str().expect("text");
    let cases: [(&[&str], &str); 2] =
        [(&["sleep", "60"], "cannot connect to 127.0.0.1"), (&[server, &text, "--html-models"], "a page of HTML")];
    for (command, says) in cases {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let load = format!("openai:http://127.0.0.1:{port}/v1");
        let target = "[worker]\nstart_timeout = \"4s\"\n";
        let out = soak_with(dir.path(), target, &["--duration", "20s", "--load", &load], command);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{said}");
        assert!(said.contains("it took no requests within 4 s") && said.contains(says), "{said}");
        assert!(events(dir.path(), "note").iter().any(|note| note.contains("takes no requests yet")), "recorded too");
    }
}

#[test]
fn a_process_that_exits_while_it_is_watched_ends_the_run() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let stranger = Stranger(Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().expect("starts"));
    let pid = stranger.0.id().to_string();
    let (folder, mut stranger) = (dir.path().to_path_buf(), stranger);
    let reaper = std::thread::spawn(move || {
        let seen = "SELECT 1 FROM process_sample JOIN process USING (process_id) WHERE role = 'worker' LIMIT 1";
        while !try_rows(&folder, seen).is_ok_and(|rows| !rows.is_empty()) {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        stranger.0.kill().expect("it is our child");
        stranger.0.wait().expect("it ends"); // or it would be there still, as a zombie
    });
    let out = soak(dir.path(), &["--duration", "10m", "--pid", &pid], &[]);
    reaper.join().expect("reaped");
    assert_eq!(out.status.code(), Some(1), "{}", String::from_utf8_lossy(&out.stderr));
    let crashes = events(dir.path(), "worker_crash");
    assert!(crashes.len() == 1 && crashes[0].contains(&format!("process {pid} is gone")), "{crashes:?}");
    assert!(crashes[0].contains(&format!("the target sleep (process {pid}) ended")), "{crashes:?}");
    assert!(!crashes[0].contains("exited with code"), "that would be its keeper's: {crashes:?}");
    assert!(!crashes[0].contains("started again"), "nobody can: {crashes:?}");
    let mail = "SELECT body_text FROM outbox WHERE labels LIKE '%worker_crash%'";
    let mail = rows(dir.path(), mail)[0][0].to_string();
    assert!(mail.contains(&format!("sleep (process {pid}, life 1) ended unasked")), "{mail}");
}

/// A run of so many seconds of the stand-in with a fault that sets in after five requests.
fn faulty(seconds: u32, fault: &str, more: &[&str]) -> (tempfile::TempDir, Option<i32>) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (port, server) = (free_port(), stand_in());
    let load = format!("openai:http://127.0.0.1:{port}/v1");
    let command = [server.to_str().expect("text"), &port.to_string(), fault, "--after", "5"];
    let duration = format!("{seconds}s");
    let args = [&["--duration", &duration, "--load", &load, "--streams", "2"], more].concat();
    let out = soak(dir.path(), &args, &command);
    (dir, out.status.code())
}

#[test]
fn answers_that_are_none_are_failures_and_nothing_hangs() {
    let cases = [
        ("--html", "text/html"),
        ("--stall", "stalled"),
        ("--drip", "stalled"),
        ("--gigabyte", "no stream of tokens"),
        ("--endless", "does not end"),
        ("--busy", "HTTP 503"),
    ];
    for (fault, says) in cases {
        // Seven seconds are enough, unless the machine has no time for the server or for us.
        let mut seconds = 7;
        let (dir, found) = loop {
            let (dir, _) = faulty(seconds, fault, &[]);
            let found = events(dir.path(), "target_endpoint_down");
            if !found.is_empty() || seconds > 60 {
                break (dir, found);
            }
            seconds *= 3;
        };
        assert!(found.first().is_some_and(|summary| summary.contains(says)), "{fault}: {found:?}");
        assert!(found.len() < 5, "{fault}: a flood of {} events", found.len());
        let counts = &rows(dir.path(), "SELECT max(failures), max(requests) FROM work_sample")[0];
        let (failures, requests) = (counts[0].as_i64().expect("a count"), counts[1].as_i64().expect("a count"));
        // Two streams that back off from half a second: in seven seconds some eight attempts, and never a flood.
        assert!(
            (2..40 * i64::from(seconds) / 7).contains(&failures) && requests >= 5,
            "{fault}: {failures} failures, {requests} requests"
        );
    }
}

#[test]
fn nothing_said_another_thing_said_and_an_end_fail_the_run() {
    let cases: [(&str, &[&str], &str, &str); 3] = [
        ("--empty", &[], "empty_output", "gave no token"),
        ("--whim", &["--golden"], "golden_mismatch", "gave another output"),
        ("--die", &[], "worker_crash", ") ended by signal 6 (SIGABRT); started again in"),
    ];
    for (fault, more, kind, says) in cases {
        let (dir, code) = faulty(7, fault, more);
        let found = events(dir.path(), kind);
        assert!(found.first().is_some_and(|summary| summary.contains(says)), "{fault}: {found:?}");
        assert!(found.len() < 20, "{fault}: a flood of {} events", found.len());
        assert_eq!(code, Some(1), "{fault}");
        if fault == "--die" {
            let sql = "SELECT DISTINCT exit_signal FROM process WHERE role = 'worker' AND end_reason = 'crash'";
            assert_eq!(rows(dir.path(), sql), [[6]], "the row tells the target's own signal");
            assert!(found[0].starts_with("the target "), "and its event whose: {found:?}");
        }
        if fault == "--empty" {
            let failures = rows(dir.path(), "SELECT max(failures) FROM work_sample")[0][0].as_i64();
            assert!(failures > Some(0), "an empty answer is a failure: {failures:?}");
            // Who reads the report hears what the exit code said.
            let mut report = Command::new(env!("CARGO_BIN_EXE_soakd"));
            report.args(["report", "--format", "json"]).current_dir(dir.path());
            let report = report.output().expect("it runs").stdout;
            let report: serde_json::Value = serde_json::from_slice(&report).expect("JSON");
            assert_eq!(report["standing"], "failed", "{report}");
            assert_eq!(report["requests_failed"].as_i64(), failures, "{report}");
        }
    }
}
