//! Everybody is asked to end at once, as when a scope is stopped or a batch job is cancelled: that is the end of a run and no
//! fault of anybody's, unless somebody ends by a fault on the way out.

use crate::soak::{Soak, is_alive};
use nix::libc::{SIGINT, SIGTERM};
use std::time::Duration;

const FAULTS: &str = "SELECT count(*) FROM event WHERE kind IN
    ('worker_crash', 'worker_oom', 'worker_hang', 'probe_crash', 'mailer_crash', 'process_ended', 'orphan_killed')";

/// Long enough for a child that takes the signal to be seen dead, or for the target's end to be seen.
fn a_moment() {
    std::thread::sleep(Duration::from_millis(700));
}

/// A run of `script` that ends by SIGTERM to everybody, or, where the script `dies` of it, to soakd alone.
fn target(script: &str, dies: bool) -> Soak {
    let mut soak = Soak::start(&["--", "sh", "-c", script]);
    soak.until("SELECT count(*) > 2 FROM process_sample JOIN process USING (process_id) WHERE role = 'worker'");
    let keeper = soak.pid("worker");
    let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).expect("a living keeper");
    let target = children.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("its target");
    if !dies {
        soak.kill(target, SIGTERM);
        soak.kill(keeper, SIGTERM);
        soak.wait_for("the target to take the signal", || !is_alive(target));
        a_moment();
    }
    soak.kill(soak.supervisor(), SIGTERM);
    let code = soak.wait();
    assert!([i32::from(dies), 3].contains(&code), "{code}: {}", soak.said());
    assert!(!is_alive(target));
    assert_eq!(soak.text("SELECT state FROM run"), "interrupted");
    soak
}

#[test]
fn a_stop_that_everybody_is_sent_is_the_runs_end_and_its_mails_still_leave() {
    let mut soak = Soak::with("[mail]\ntransport = \"folder\"\n", &[]);
    soak.until("SELECT count(*) > 1 FROM work_sample");
    soak.until("SELECT count(*) > 0 FROM heartbeat WHERE role = 'mailer'");
    for role in ["canary", "mailer", "probe", "worker"] {
        soak.until(&format!("SELECT count(*) > 0 FROM process WHERE role = '{role}'"));
        soak.kill(soak.pid(role), SIGTERM);
    }
    a_moment();
    soak.kill(soak.supervisor(), SIGTERM);
    let code = soak.wait();
    assert!([0, 3].contains(&code), "{code}: {}", soak.said());
    assert_eq!(soak.number(FAULTS), 0, "{}", soak.said());
    assert_eq!(soak.number("SELECT count(*) FROM process WHERE role <> 'supervisor' AND end_reason <> 'clean'"), 0);
    assert_eq!(soak.number("SELECT count(*) FROM outbox WHERE kind = 'finished' AND state = 'sent'"), 1);
    // One without a supervisor has only the signal to go by.
    soak.again(&[]);
    soak.until("SELECT count(*) > 1 FROM process WHERE role = 'mailer'");
    let mailer = soak.pid("mailer");
    soak.kill(soak.supervisor(), nix::libc::SIGKILL);
    soak.wait();
    soak.kill(mailer, SIGINT);
    soak.kill(mailer, SIGTERM);
    soak.wait_for("the end of the mailer", || !is_alive(mailer));
}

#[test]
fn a_target_that_was_asked_to_end_beside_us_has_not_crashed() {
    let soak = target("exec sleep 600", false);
    assert_eq!(soak.number(FAULTS), 0, "{}", soak.said());
}

#[test]
fn a_target_that_is_killed_on_its_way_out_has_crashed() {
    let soak = target("trap 'kill -9 $$' TERM; while :; do sleep 0.1; done", true);
    assert_eq!(soak.number("SELECT count(*) FROM event WHERE kind = 'worker_crash'"), 1, "{}", soak.said());
    let told = soak.text("SELECT end_reason || ' ' || exit_signal FROM process WHERE role = 'worker'");
    assert_eq!(told, "crash 9");
    assert_eq!(
        soak.number("SELECT count(*) FROM alert WHERE rule LIKE '%crash%'"),
        1,
        "it rings although the run ends"
    );
}
