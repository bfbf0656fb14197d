//! `soakd run` with real processes, broken on purpose: what dies is recorded with its last words and started again, what
//! hangs is found out, nothing is left behind, and a run that was cut off goes on.
//!
//! Tests wait for what the database says, with limits far beyond what a loaded machine needs; none measures time.

#[path = "run_faults/asked.rs"]
mod asked;
#[path = "run_faults/ending.rs"]
mod ending;
#[path = "run_faults/host.rs"]
mod host;
#[path = "run_faults/mails.rs"]
mod mails;
#[path = "support/smtp_server.rs"]
mod smtp_server;
mod soak;
#[path = "run_faults/terminal.rs"]
mod terminal;

use soak::{Soak, is_alive};

#[test]
fn a_killed_worker_is_recorded_with_its_last_words_mailed_and_replaced() {
    let mut soak = Soak::start(&[]);
    soak.until("SELECT max(unix_ms) - min(unix_ms) > 4000 FROM work_sample");
    soak.kill(soak.pid("worker"), nix::libc::SIGKILL);
    soak.until("SELECT count(*) = 1 FROM event WHERE kind = 'worker_crash'");
    soak.until("SELECT count(*) > 1 FROM work_sample JOIN process USING (process_id) WHERE incarnation = 2");
    for of_its_last_minute in ["process_minute", "work_minute", "latency"] {
        let sql = format!(
            "SELECT count(*) > 0 FROM {of_its_last_minute} JOIN process USING (process_id)
                           WHERE role = 'worker' AND incarnation = 1"
        );
        soak.until(&sql);
    }
    let code = soak.interrupt();
    assert_eq!(code, 1, "a crash fails a run: {}", soak.said());
    let row =
        "SELECT end_reason = 'crash' AND exit_signal = 9 AND heartbeat_unix_ms IS NOT NULL AND rss_bytes_at_end > 0
               FROM process WHERE role = 'worker' AND incarnation = 1";
    assert_eq!(soak.number(row), 1, "the last words");
    assert_eq!(soak.number("SELECT count(*) FROM event WHERE kind = 'worker_crash'"), 1, "counted once");
    assert!(
        soak.number("SELECT count(*) FROM outbox WHERE labels LIKE '%crash%' OR subject LIKE '%crash%'") > 0,
        "mailed"
    );
    assert_eq!(soak.number("SELECT count(*) FROM run WHERE state = 'interrupted' AND verdict IS NOT NULL"), 1);
}

#[test]
fn a_stopped_worker_is_a_hang_and_is_replaced() {
    let mut soak = Soak::start(&[]);
    soak.until("SELECT count(*) > 1 FROM work_sample");
    soak.kill(soak.pid("worker"), nix::libc::SIGSTOP);
    soak.until("SELECT count(*) = 1 FROM event WHERE kind = 'worker_hang'");
    soak.until("SELECT count(*) > 1 FROM work_sample JOIN process USING (process_id) WHERE incarnation = 2");
    assert_eq!(soak.interrupt(), 1, "{}", soak.said());
    assert_eq!(soak.number("SELECT count(*) FROM process WHERE end_reason = 'hang'"), 1);
    let since =
        "SELECT e.unix_ms - (e.detail ->> '$.since_unix_ms') >= 1000 FROM event AS e WHERE kind = 'worker_hang'";
    assert_eq!(soak.number(since), 1, "it has hung since before it was killed");
}

#[test]
fn an_abort_is_a_crash_with_its_signal() {
    let mut soak = Soak::start(&["--inject", r#"{"what":"abort"}@1s"#]);
    soak.until("SELECT count(*) = 1 FROM event WHERE kind = 'worker_crash' AND summary LIKE '%SIGABRT%'");
    soak.until("SELECT count(*) > 1 FROM work_sample JOIN process USING (process_id) WHERE incarnation = 2");
    assert_eq!(soak.interrupt(), 1, "{}", soak.said());
    assert_eq!(soak.number("SELECT count(*) FROM process WHERE end_reason = 'crash' AND exit_signal = 6"), 1);
}

#[test]
fn an_infinite_loop_is_a_hang_although_its_process_beats_and_works() {
    let mut soak = Soak::start(&["--inject", r#"{"what":"loop_forever"}@1s"#]);
    soak.until("SELECT count(*) = 1 FROM event WHERE kind = 'worker_hang'");
    soak.until("SELECT count(*) > 1 FROM work_sample JOIN process USING (process_id) WHERE incarnation = 2");
    assert_eq!(soak.interrupt(), 1, "{}", soak.said());
    assert_eq!(soak.number("SELECT count(*) FROM process WHERE end_reason = 'hang' AND exit_signal = 9"), 1);
    let busy = "SELECT max(cpu_ms) > 300 FROM process_sample JOIN process USING (process_id)
                WHERE role = 'worker' AND incarnation = 1";
    assert_eq!(soak.number(busy), 1, "it was at work, and got nowhere");
}

#[test]
fn a_deadlocked_loop_is_a_hang_although_its_process_beats() {
    let mut soak = Soak::start(&["--inject", r#"{"what":"deadlock"}@1s"#]);
    soak.until("SELECT count(*) = 1 FROM event WHERE kind = 'worker_hang'");
    soak.until("SELECT count(*) > 1 FROM work_sample JOIN process USING (process_id) WHERE incarnation = 2");
    assert_eq!(soak.interrupt(), 1, "{}", soak.said());
}

#[test]
fn every_way_to_misbehave_is_seen_for_what_it_is() {
    let mut soak = Soak::start(&[
        "--inject",
        r#"{"what":"flood_stderr","bytes":3000000}@1s"#,
        "--inject",
        r#"{"what":"garble"}@2s"#,
        "--inject",
        r#"{"what":"segfault"}@3s"#,
        "--inject",
        r#"{"what":"exit","code":42}@4s"#,
        "--inject",
        r#"{"what":"leave_orphan"}@5s"#,
    ]);
    let end = |reason: &str| format!("SELECT count(*) >= 1 FROM process WHERE role = 'worker' AND {reason}");
    soak.until(&end("end_reason = 'protocol'"));
    soak.until(&end("exit_signal = 11"));
    soak.until(&end("exit_code = 42"));
    soak.until("SELECT count(*) = 1 FROM event WHERE kind = 'orphan_killed'");
    assert_eq!(soak.interrupt(), 1, "{}", soak.said());
    assert_eq!(soak.number("SELECT count(*) FROM event WHERE kind = 'protocol_fault'"), 1);
    let tail = "SELECT max(length(stderr_tail)) FROM process WHERE role = 'worker'";
    assert!((1..=4096).contains(&soak.number(tail)), "three million bytes of last words are too many");
}

#[test]
fn a_corrupted_token_is_a_golden_mismatch() {
    let mut soak = Soak::start(&["--inject", r#"{"what":"corrupt_token"}@1s"#]);
    soak.until("SELECT count(*) = 1 FROM event WHERE kind = 'golden_mismatch'");
    assert_eq!(soak.interrupt(), 1, "silent corruption fails a run: {}", soak.said());
}

#[test]
fn a_worker_that_cannot_be_kept_running_fails_the_run_with_a_verdict() {
    let exit = r#"{"what":"exit","code":3}@0s"#;
    let mut soak = Soak::start(&["--inject", exit, "--inject", exit, "--inject", exit]);
    assert_eq!(soak.wait(), 1, "{}", soak.said());
    assert_eq!(soak.number("SELECT count(*) FROM event WHERE kind = 'crash_loop'"), 1);
    assert_eq!(soak.number("SELECT count(*) FROM process WHERE role = 'worker'"), 3, "the limit of this test is 3");
    assert_eq!(soak.number("SELECT count(*) FROM run WHERE state = 'failed' AND verdict IS NOT NULL"), 1);
    let told = "SELECT count(*) FROM outbox WHERE kind = 'finished' AND body_text NOT LIKE '%alerts 0.%'";
    assert_eq!(soak.number(told), 1, "the page that fired with it is no lie");
}

#[test]
fn a_killed_supervisor_leaves_no_process_and_its_run_goes_on() {
    let mut soak = Soak::start(&[]);
    soak.until("SELECT count(*) > 3 FROM work_sample");
    let children = [soak.pid("worker"), soak.pid("probe"), soak.pid("canary")];
    soak.kill(soak.supervisor(), nix::libc::SIGKILL);
    soak.wait();
    soak.wait_for("its children to end", || children.iter().all(|pid| !is_alive(*pid)));
    assert_eq!(soak.text("PRAGMA integrity_check"), "ok");
    let before = soak.number("SELECT count(*) FROM work_sample");

    soak.again(&[]);
    soak.until("SELECT count(*) = 1 FROM event WHERE kind = 'run_resumed'");
    soak.until(&format!("SELECT count(*) > {before} + 1 FROM work_sample"));
    soak.interrupt();
    assert_eq!(soak.number("SELECT count(*) FROM run"), 1, "one run, not two");
    assert_eq!(soak.number("SELECT count(*) FROM gap WHERE reason = 'supervisor_down'"), 1);
    assert_eq!(soak.number("SELECT count(*) FROM process WHERE role = 'worker' AND end_reason = 'lost'"), 1);
    assert_eq!(
        soak.number("SELECT count(*) FROM event WHERE kind = 'golden_mismatch'"),
        0,
        "same weights, same tokens"
    );
}

#[test]
fn a_run_that_is_given_up_is_not_told_as_resumed() {
    let mut soak = Soak::start(&[]);
    soak.until("SELECT count(*) > 1 FROM work_sample");
    soak.kill(soak.supervisor(), nix::libc::SIGKILL);
    soak.wait();
    soak.again(&["--fresh", "--duration", "2s"]);
    assert!([0, 3].contains(&soak.wait()), "{}", soak.said());
    assert!(soak.said().contains("run 1 is closed as interrupted: it was last seen "), "{}", soak.said());
    assert_eq!(soak.number("SELECT count(*) FROM event WHERE kind = 'run_resumed'"), 0);
    assert_eq!(soak.number("SELECT count(*) FROM event WHERE run_id = 1 AND kind = 'run_interrupted'"), 1);
    assert_eq!(soak.number("SELECT count(*) FROM process WHERE ended_unix_ms IS NULL"), 0);
    assert_eq!(soak.number("SELECT count(*) FROM run WHERE state = 'finished' AND run_id = 2"), 1);
}

#[test]
fn a_supervisor_killed_between_its_verdict_and_its_exit_soaks_nothing_again() {
    // Nobody listens there, so the end waits its full time for the mailer.
    let nobody = "[mail]\ntransport = \"smtp\"\nhost = \"127.0.0.1\"\nport = 1\ntls = \"none\"\nfrom = \"soakd@x.org\"\n\
                  [mail.routes]\ndefault = [\"ops@x.org\"]\n";
    let mut soak = Soak::with(nobody, &["--duration", "3s"]);
    soak.until("SELECT count(*) > 0 FROM run WHERE state = 'finished'");
    soak.kill(soak.supervisor(), nix::libc::SIGKILL);
    assert_eq!(soak.wait(), -1, "it was killed before it left: {}", soak.said());

    soak.again(&["--duration", "3s"]);
    assert!([0, 3].contains(&soak.wait()), "the verdict of the run that is over: {}", soak.said());
    assert!(soak.said().contains("has its verdict already"), "{}", soak.said());
    assert_eq!(soak.number("SELECT count(*) FROM run"), 1, "as after Restart=on-failure: no second run");
    assert_eq!(soak.number("SELECT count(*) FROM outbox WHERE kind = 'finished'"), 1, "its end is mailed, and once");
    assert_eq!(soak.number("SELECT count(*) FROM process WHERE ended_unix_ms IS NULL"), 0);
    assert_eq!(soak.number("SELECT count(*) FROM event WHERE kind IN ('run_finished', 'run_resumed')"), 1);

    soak.again(&["--duration", "3s"]);
    assert!([0, 3].contains(&soak.wait()), "{}", soak.said());
    assert_eq!(soak.number("SELECT count(*) FROM run WHERE state = 'finished'"), 2, "and then a new one");
}

#[test]
fn a_supervisor_killed_over_its_report_tells_again_and_soaks_nothing_again() {
    // A report that nobody takes: its writer waits there, with everything else of the run done.
    let mut soak = Soak::under(&["--duration", "3s"], |folder| {
        let pipe = folder.join("soak-run-1.html");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        Vec::new()
    });
    soak.until("SELECT count(*) = 1 FROM run WHERE state = 'finished'");
    soak.until("SELECT count(*) = 1 FROM process WHERE ended_unix_ms IS NULL"); // itself
    soak.kill(soak.supervisor(), nix::libc::SIGKILL);
    assert_eq!(soak.wait(), -1, "it was killed before it left: {}", soak.said());
    let report = soak.folder().join("soak-run-1.html");
    std::fs::remove_file(&report).expect("it was there");

    soak.again(&["--duration", "3s"]);
    assert!([0, 3].contains(&soak.wait()), "{}", soak.said());
    assert!(soak.said().contains("has its verdict already"), "{}", soak.said());
    assert_eq!(soak.number("SELECT count(*) FROM run"), 1, "no second run");
    assert!(report.is_file(), "and its report is there");
    assert_eq!(soak.number("SELECT count(*) FROM outbox WHERE kind = 'finished'"), 1);
    assert_eq!(soak.number("SELECT count(*) FROM process WHERE ended_unix_ms IS NULL"), 0);
}

#[test]
fn what_systemd_starts_again_after_all_was_written_soaks_nothing_again() {
    // systemd keeps what is in there over a restart, and throws it away when the unit has stopped.
    let kept = |folder: &std::path::Path| folder.join("kept");
    let mut soak = Soak::under(&["--duration", "3s"], |folder| {
        std::fs::create_dir(kept(folder)).expect("made");
        vec![("RUNTIME_DIRECTORY", kept(folder))]
    });
    assert!([0, 3].contains(&soak.wait()), "{}", soak.said());
    let runs = "SELECT count(*) FROM run";
    // As after a kill between the last row and the exit, which no test could time.
    soak.again(&["--duration", "3s"]);
    assert!([0, 3].contains(&soak.wait()), "the verdict of the run that is over: {}", soak.said());
    assert!(soak.said().contains("has its verdict already"), "{}", soak.said());
    assert_eq!(soak.number(runs), 1, "no second run");
    assert_eq!(soak.number("SELECT count(*) FROM outbox WHERE kind = 'finished'"), 1);

    // The unit had stopped, and somebody starts it.
    std::fs::remove_file(kept(soak.folder()).join("run")).expect("it was there");
    soak.again(&["--duration", "1h"]);
    soak.until("SELECT count(*) = 2 FROM run");
    soak.until("SELECT count(*) > 0 FROM process WHERE role = 'worker' AND ended_unix_ms IS NULL");
    // `systemctl restart`: it ends as asked, and the next start is one for somebody.
    soak.interrupt();
    soak.again(&["--duration", "1h"]);
    soak.until("SELECT count(*) = 3 FROM run");
    soak.interrupt();
    assert_eq!(soak.number("SELECT count(*) FROM process WHERE ended_unix_ms IS NULL"), 0);
}

/// What an unlucky run has behind it. `SOAKD_RESUME_HOURS=47 SOAKD_RESUME_LIVES=60` for one of two days.
fn unlucky(folder: &std::path::Path) -> i64 {
    let number = |name: &str, usual| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let (hours, lives): (i64, i64) = (number("SOAKD_RESUME_HOURS", 1), number("SOAKD_RESUME_LIVES", 12));
    let seconds = hours * 3_600;
    let started = soakd::model::time::UnixMillis(soakd::clock::now().wall.0 - (seconds + 60) * 1_000);
    let path = folder.join("soak.db");
    let mut store = soakd::store::Store::open(&path, soakd::store::Mode::Write).expect("a database");
    let past = soakd::store::generate::Fill { started, seconds, lives, finish: false, ..Default::default() };
    soakd::store::generate::fill(&mut store, &past).expect("filled");
    drop(store);
    let connection = rusqlite::Connection::open(&path).expect("it opens");
    let config = std::fs::read_to_string(folder.join("before.toml")).expect("written");
    let (host, duration_ms) = (soakd::probe::host::hostname(), 48 * 3_600_000);
    let ours = "UPDATE run SET host = ?1, config = ?2, duration_ms = ?3";
    connection.execute(ours, rusqlite::params![host, config, duration_ms]).expect("ours");
    seconds
}

#[test]
fn a_resume_after_dozens_of_restarts_waits_for_nothing_and_forgets_nothing() {
    let mut seconds = 0;
    let config = "[run]\nduration = \"48h\"\n[model]\nmodel = \"synthetic:tiny\"\nbackend = \"cpu\"\nprompts = 2\n\
                  prompt_tokens = 4\nanswer_tokens = 4\nthreads = 1\n";
    let mut soak = Soak::prepared(config, &[], |folder| {
        std::fs::write(folder.join("before.toml"), config).expect("written");
        seconds = unlucky(folder);
    });
    let (began, wall_ms) = (std::time::Instant::now(), soakd::clock::now().wall.0);
    soak.until(&format!("SELECT count(*) > 0 FROM process WHERE role = 'worker' AND started_unix_ms >= {wall_ms}"));
    let started = began.elapsed();
    soak.until(&format!("SELECT count(*) > 3 FROM work_sample WHERE unix_ms >= {wall_ms}"));
    println!("{seconds} s of past: a worker after {started:.2?}, its fourth sample after {:.2?}", began.elapsed());
    soak.wait_for("the past", || soak.said().contains("is read back"));
    println!("the past after {:.2?}", began.elapsed());
    let status = std::fs::read_to_string(format!("/proc/{}/status", soak.supervisor())).expect("it is there");
    let held_bytes = |field: &str| -> i64 {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
        line.trim().trim_end_matches(" kB").parse::<i64>().expect("a figure") * 1_024
    };
    let (rss, anonymous) = (held_bytes("VmRSS:"), held_bytes("RssAnon:"));
    println!("the supervisor then holds {:.1} MB, {:.1} of it anonymous", rss as f64 / 1e6, anonymous as f64 / 1e6);
    assert!(rss < 50_000_000, "the watcher is to be small: {rss} bytes");
    assert_ne!(soak.interrupt(), 2, "{}", soak.said());
    let stalls = soak.number("SELECT count(*) FROM event WHERE kind = 'sampling_gap'");
    assert_eq!(stalls, 0, "{}", soak.said());
    let known = "SELECT max(samples) FROM finding WHERE is_final";
    assert!(soak.number(known) > seconds * 9 / 10, "{} of {seconds} s are known", soak.number(known));
}

#[test]
fn a_second_supervisor_on_the_same_database_is_refused() {
    let mut soak = Soak::start(&[]);
    soak.until("SELECT count(*) > 0 FROM process WHERE role = 'worker'");
    let (code, said) = soak.beside(&[]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains(&soak.supervisor().to_string()), "it names the process that is there: {said}");
    soak.interrupt();
}

#[test]
fn a_run_serves_its_time_and_says_where_everything_lies() {
    let mut soak = Soak::start(&["--duration", "10s"]);
    assert!([0, 3].contains(&soak.wait()), "a clean short run passes or says that it cannot tell: {}", soak.said());
    let said = soak.said();
    for place in ["Verdict: ", "soak.db", "soak-run-1.html", "mail/", "worker-0.anon_swap", "Latency of a token"] {
        assert!(said.contains(place), "{place:?} is not in {said}");
    }
    assert!(soak.folder().join("soak-run-1.html").exists());
    assert_eq!(soak.number("SELECT count(*) FROM alert WHERE rule = 'run_finished' AND state = 'firing'"), 1);
    let ask = |what: &str| {
        let mut asked = std::process::Command::new(env!("CARGO_BIN_EXE_soakd"));
        asked.arg(what).current_dir(soak.folder()).output().expect("it runs")
    };
    assert_eq!(ask("alerts").status.code(), Some(0), "that it is over is no alarm");
    let report = String::from_utf8_lossy(&ask("report").stdout).into_owned();
    assert!(report.contains("run_finished") && !report.contains("still firing"), "nobody looks any more: {report}");
    let mails = std::fs::read_dir(soak.folder().join("mail")).map_or(0, Iterator::count);
    assert!(mails > 0, "the mail that tells the end was delivered");
    assert_eq!(soak.number("SELECT count(*) FROM run WHERE state = 'finished'"), 1);
    assert_eq!(soak.number("SELECT count(*) FROM process WHERE ended_unix_ms IS NULL"), 0, "every process has its end");
}

#[test]
fn the_last_interval_counts_however_long_intervals_are() {
    let config = "[run]\nduration = \"1h\"\n[model]\nmodel = \"synthetic:tiny\"\nbackend = \"cpu\"\nprompts = 2\nprompt_tokens = 4\n\
                  answer_tokens = 4\nthreads = 1\n[worker]\nheartbeat = \"1h\"\nhang_after = \"4h\"\n";
    let mut soak = Soak::prepared(config, &[], |_| {});
    soak.until("SELECT count(*) = 1 FROM event WHERE kind = 'golden_recorded'");
    assert!([0, 3].contains(&soak.interrupt()), "{}", soak.said());
    let tokens = soak.number("SELECT max(tokens) FROM work_sample");
    assert!(tokens >= 8, "two answers of four tokens are recorded, and {tokens} are counted");
    let timed = "SELECT coalesce(sum(count), 0) FROM latency WHERE kind IN ('token', 'first_token')";
    assert_eq!(soak.number(timed), tokens, "each token has its latency, in the last interval too");
}

#[test]
fn a_minute_between_samples_is_no_minute_before_the_work() {
    let config = "[run]\nduration = \"1h\"\nsample_interval = \"60s\"\n[model]\nmodel = \"synthetic:tiny\"\nbackend = \"cpu\"\n\
                  prompts = 2\nprompt_tokens = 4\nanswer_tokens = 4\nthreads = 1\n[probe]\nhang_after = \"1h\"\npss_every = \"60s\"\n";
    let mut soak = Soak::prepared(config, &[], |_| {});
    soak.until("SELECT count(*) = 1 FROM event WHERE kind = 'golden_recorded'");
    assert!([0, 3].contains(&soak.interrupt()), "{}", soak.said());
    let waited = "SELECT p.started_unix_ms - r.started_unix_ms FROM process AS p, run AS r WHERE p.role = 'worker'";
    assert!(soak.number(waited) < 54_000, "the next question came first: {} ms", soak.number(waited));
    assert_eq!(soak.number("SELECT count(*) FROM gap"), 0);
}

#[test]
fn what_is_no_model_is_refused_at_once_with_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("broken.gguf"), b"GGUF and then nothing").expect("written");
    std::fs::write(folder.path().join("text.gguf"), "no model at all").expect("written");
    for model in ["broken.gguf", "text.gguf", "missing.gguf"] {
        let (code, said) = soak::once(folder.path(), &["--model", model, "--db", &format!("{model}.db")]);
        assert_eq!(code, 2, "{model}: {said}");
        assert!(said.contains(model), "{model}: {said}");
    }
}

#[test]
fn a_frozen_probe_is_replaced_and_its_silence_leaves_no_gap_unrecorded() {
    let mut soak = Soak::start(&[]);
    soak.until("SELECT count(*) > 3 FROM process_sample");
    soak.kill(soak.pid("probe"), nix::libc::SIGSTOP);
    soak.until("SELECT count(*) = 1 FROM event WHERE kind = 'probe_hang'");
    soak.until("SELECT count(*) = 2 FROM process WHERE role = 'probe'");
    let sampled = soak.number("SELECT count(*) FROM host_sample");
    soak.until(&format!("SELECT count(*) > {sampled} + 2 FROM host_sample"));
    soak.interrupt();
    // Either the supervisor read for itself meanwhile, or there is a gap that says so.
    let hole = "SELECT count(*) FROM (
        SELECT s.unix_ms - lag(s.unix_ms) OVER (ORDER BY s.unix_ms) AS hole_ms, s.unix_ms AS until
        FROM process_sample AS s JOIN process USING (process_id) WHERE role = 'supervisor')
      WHERE hole_ms > 10000 AND NOT EXISTS (SELECT 1 FROM gap WHERE to_unix_ms >= until - 2000 AND from_unix_ms <= until)";
    assert_eq!(soak.number(hole), 0, "a silence that nothing tells of");
}

#[test]
fn a_dead_mailer_is_replaced() {
    let mut soak = Soak::start(&[]);
    soak.until("SELECT count(*) = 1 FROM process WHERE role = 'mailer'");
    soak.kill(soak.pid("mailer"), nix::libc::SIGKILL);
    soak.until("SELECT count(*) = 2 FROM process WHERE role = 'mailer'");
    assert_eq!(soak.number("SELECT count(*) FROM event WHERE kind = 'mailer_crash'"), 1);
    soak.interrupt();
}

/// Two days in under ten minutes, as `soakd drill` does it.
const HURRY: [&str; 4] = ["--horizon", "576s", "--pace", "300"];

#[test]
fn the_canary_is_found_and_left_out_of_every_total() {
    let canary = "[canary]\nleak = \"1GB\"\nfound_within = \"1h\"\n[alerts]\nevaluate_every = \"1s\"\n";
    let mut soak = Soak::with(canary, &HURRY);
    soak.until("SELECT count(*) = 1 FROM event WHERE kind = 'canary_found'");
    soak.interrupt();
    let alarmed = "SELECT count(*) > 0 FROM finding JOIN series USING (series_id) WHERE name = 'canary.anon_swap' AND alarmed = 1";
    assert_eq!(soak.number(alarmed), 1, "the detector saw it");
    assert_eq!(soak.number("SELECT count(*) FROM event WHERE kind = 'canary_missed'"), 0);
    assert_eq!(soak.number("SELECT count(*) FROM series WHERE role = 'canary' AND judged = 1"), 0, "it judges nothing");
    assert_eq!(soak.number("SELECT count(*) FROM event WHERE kind = 'drift_alarm' AND summary LIKE 'canary%'"), 0);
    assert_eq!(soak.number("SELECT count(*) FROM run WHERE verdict = 'outside'"), 0, "{}", soak.said());
    assert_eq!(soak.number("SELECT count(*) FROM outbox WHERE body_text LIKE '%canary.anon_swap leaks%'"), 0);
    assert!(soak.said().contains("The canary's leak was found."), "{}", soak.said());
}

#[test]
fn a_canary_that_is_missed_makes_the_run_blind_and_is_mailed() {
    // Not a minute is over by then, and no detector could have seen it.
    let canary = "[canary]\nfound_within = \"2s\"\n[alerts]\nevaluate_every = \"1s\"\n";
    let mut soak = Soak::with(canary, &HURRY);
    soak.until("SELECT count(*) = 1 FROM event WHERE kind = 'canary_missed'");
    soak.until("SELECT count(*) > 0 FROM outbox WHERE subject LIKE '%blind%' AND state = 'sent'");
    soak.interrupt();
    assert_eq!(soak.number("SELECT count(*) FROM event WHERE kind = 'canary_found'"), 0);
    assert_eq!(soak.number("SELECT count(*) FROM run WHERE verdict = 'within'"), 0, "a blind run cannot pass");
    assert!(soak.said().contains("this run is blind"), "{}", soak.said());
}

#[test]
fn a_flipped_weight_is_found_by_the_next_loop() {
    let mut soak = Soak::start(&["--inject", r#"{"what":"flip_weight"}@1s"#]);
    soak.until("SELECT count(*) > 0 FROM event WHERE kind = 'golden_mismatch'");
    soak.until("SELECT max(golden_mismatches) > 40 FROM work_sample");
    assert_eq!(soak.interrupt(), 1, "silent corruption fails a run: {}", soak.said());
    let told = "SELECT count(*) BETWEEN 11 AND 15 FROM event WHERE kind = 'golden_mismatch'";
    assert_eq!(soak.number(told), 1, "ten, and one a minute that tells of all the others");
    let all = "SELECT golden_mismatches = (SELECT max(golden_mismatches) FROM work_sample) FROM v_runs";
    assert_eq!(soak.number(all), 1, "every one of them counts");
    let before = "SELECT count(*) FROM event AS m WHERE kind = 'golden_mismatch' AND event_id <
                    (SELECT min(event_id) FROM event WHERE summary LIKE 'damage on purpose%')";
    assert_eq!(soak.number(before), 0, "nothing was wrong before");
}

#[test]
fn a_damaged_database_is_refused_with_its_remedy_and_kept_as_it_is() {
    let mut soak = Soak::start(&[]);
    soak.until("SELECT count(*) > 3 FROM host_sample");
    soak.interrupt();
    let path = soak.folder().join("soak.db");
    let mut bytes = std::fs::read(&path).expect("it is there");
    let page = 5 * 4_096;
    bytes[page..page + 2_000].fill(0xa5);
    std::fs::write(&path, &bytes).expect("written");
    let (code, said) = soak.beside(&[]);
    assert_eq!(code, 2, "{said}");
    for words in ["soak.db", "is damaged", ".recover", "--db"] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    assert_eq!(std::fs::read(&path).expect("it is there"), bytes, "the original is kept");
}

/// The pretend CUDA driver, compiled into `folder` under the name that the real one is looked for.
fn fake_cuda(folder: &std::path::Path) {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-cuda/cuda.c");
    for name in ["libcuda.so", "libcuda.so.1"] {
        let mut command = std::process::Command::new(&compiler);
        command.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(folder.join(name)).arg(&source);
        assert!(command.status().expect("a C compiler is installed").success(), "the pretend driver compiles");
    }
}

#[test]
fn whatever_the_cuda_driver_answers_the_worker_ends_and_says_what_it_was() {
    // A code that no header knows, too: with a closed enum of results it would be undefined behaviour.
    let answers = [
        (40, 700, "CUDA error 700 (CUDA_ERROR_ILLEGAL_ADDRESS)"),
        (90, 719, "CUDA error 719 (CUDA_ERROR_LAUNCH_FAILED)"),
        (140, 214, "CUDA error 214 (CUDA_ERROR_ECC_UNCORRECTABLE)"),
        (60, 46, "CUDA error 46 (CUDA_ERROR_DEVICE_UNAVAILABLE)"),
        (60, 9999, "CUDA error 9999 (unknown)"),
        (0, 100, "CUDA error 100 (CUDA_ERROR_NO_DEVICE)"),
        (0, -7, "CUDA error -7 (unknown)"),
    ];
    let mut soak = Soak::under(&["--backend", "cuda"], |folder| {
        fake_cuda(folder);
        let orders = folder.join("orders");
        std::fs::create_dir(&orders).expect("made");
        for (n, (after, code, _)) in answers.iter().enumerate() {
            std::fs::write(orders.join((n + 1).to_string()), format!("{after} {code}")).expect("written");
        }
        vec![("LD_LIBRARY_PATH", folder.to_path_buf()), ("FAKE_CUDA", orders)]
    });
    let lives = answers.len() + 1;
    soak.until(&format!(
        "SELECT count(*) > 2 FROM work_sample JOIN process USING (process_id) WHERE incarnation = {lives}"
    ));
    assert_eq!(soak.interrupt(), 1, "{}", soak.said());
    for (n, (_, code, words)) in answers.iter().enumerate() {
        let row = format!(
            "SELECT count(*) FROM process WHERE role = 'worker' AND incarnation = {} AND exit_code = 1 AND exit_signal IS NULL
               AND end_reason IN ('crash', 'refused') AND stderr_tail LIKE '%{words}%'",
            n + 1
        );
        assert_eq!(soak.number(&row), 1, "{code} in the last words of life {}: {}", n + 1, soak.said());
        let event = format!("SELECT count(*) FROM event WHERE kind = 'worker_crash' AND summary LIKE '%{words}%'");
        assert_eq!(soak.number(&event), 1, "{code}");
    }
    assert_eq!(soak.number("SELECT count(*) FROM process WHERE role = 'supervisor'"), 1);
}

/// Somebody who asks for another server while a run is unfinished must not read the wrong name for two days.
#[test]
fn a_run_that_goes_on_is_named_for_what_soaks_and_says_what_was_asked_for_in_vain() {
    let mut soak = Soak::start(&["--", "sleep", "4711"]);
    soak.until("SELECT count(*) = 1 FROM event WHERE kind = 'process_started'");
    soak.kill(soak.supervisor(), nix::libc::SIGKILL);
    soak.wait();
    soak.again(&["--", "sleep", "4712"]);
    soak.until("SELECT count(*) = 2 FROM event WHERE kind = 'process_started'");
    soak.interrupt();
    let said = soak.said();
    assert!(said.contains("run 1 goes on as it was begun: sleep 4711 (load none) for "), "{said}");
    assert!(said.contains("What was asked for now (sleep 4712 (load none) for "), "{said}");
    let lines: Vec<&str> = said.lines().filter(|line| line.contains(" | alerts: ")).collect();
    assert!(!lines.is_empty() && lines.iter().all(|line| line.starts_with("sleep 4711 (load none) ")), "{said}");
}

/// Whoever buries orphans must not take the end of a load command from who waits for it: that was a failed request.
#[test]
fn load_commands_that_end_while_the_keeper_stands_still_have_not_failed() {
    let mut soak = Soak::start(&["--load", "command:sleep 0.05", "--", "sleep", "4711"]);
    soak.until("SELECT count(*) > 1 FROM work_sample WHERE requests > 0");
    for _ in 0..6 {
        let (keeper, before) = (soak.pid("worker"), soak.number("SELECT max(requests) FROM work_sample"));
        soak.kill(keeper, nix::libc::SIGSTOP);
        std::thread::sleep(std::time::Duration::from_millis(1_200));
        soak.kill(keeper, nix::libc::SIGCONT);
        soak.until(&format!("SELECT max(requests) > {before} + 2 FROM work_sample"));
    }
    soak.interrupt();
    let told = soak
        .text("SELECT coalesce(group_concat(summary, '; '), 'nothing') FROM event WHERE kind = 'target_endpoint_down'");
    assert_eq!(told, "nothing", "{}", soak.said());
    assert_eq!(soak.number("SELECT max(failures) FROM work_sample"), 0);
}
