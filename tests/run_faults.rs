//! `soakd run` with real processes, broken on purpose: what dies is recorded with its last words and started again, what
//! hangs is found out, nothing is left behind, and a run that was cut off goes on.
//!
//! Tests wait for what the database says, with limits far beyond what a loaded machine needs; none measures time.

mod soak;

use soak::{Soak, is_alive};

#[test]
fn a_killed_worker_is_recorded_with_its_last_words_mailed_and_replaced() {
    let mut soak = Soak::start(&[]);
    soak.until("SELECT count(*) > 3 FROM work_sample");
    soak.kill(soak.pid("worker"), nix::libc::SIGKILL);
    soak.until("SELECT count(*) = 1 FROM event WHERE kind = 'worker_crash'");
    soak.until("SELECT count(*) > 1 FROM work_sample JOIN process USING (process_id) WHERE incarnation = 2");
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
    let mut soak = Soak::start(&["--duration", "4s"]);
    assert!([0, 3].contains(&soak.wait()), "a clean short run passes or says that it cannot tell: {}", soak.said());
    let said = soak.said();
    for place in ["Verdict: ", "soak.db", "soak-run-1.html", "mail/", "worker-0.anon_swap", "Latency of a token"] {
        assert!(said.contains(place), "{place:?} is not in {said}");
    }
    assert!(soak.folder().join("soak-run-1.html").exists());
    let mails = std::fs::read_dir(soak.folder().join("mail")).map_or(0, Iterator::count);
    assert!(mails > 0, "the mail that tells the end was delivered");
    assert_eq!(soak.number("SELECT count(*) FROM run WHERE state = 'finished'"), 1);
    assert_eq!(soak.number("SELECT count(*) FROM process WHERE ended_unix_ms IS NULL"), 0, "every process has its end");
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
