//! SIGKILL at random moments over a live run, from a seed: to the supervisor, the worker, the probe and the mailer. The
//! database stays whole, what was written stays written, time is sampled or its gap recorded, nothing is left behind,
//! and (in `mails`) no alert is lost or torn from its thread.
//!
//! A dozen kills in a test run; `SOAKD_KILLS=1000 SOAKD_SEED=7 SOAKD_KILLS_BINARY=target/release/soakd cargo test --test
//! kills -- --nocapture` for more (the path must be absolute).

#[path = "kills/mails.rs"]
mod mails;
#[path = "support/smtp_server.rs"]
mod smtp_server;
#[path = "kills/victim.rs"]
mod victim;

use std::collections::BTreeMap;
use std::time::Duration;
use victim::{CONFIG, Dice, Victim, is_ours, kill, number};

#[test]
fn whatever_is_killed_the_database_is_whole_and_nothing_written_is_lost() {
    let seed = number("SOAKD_SEED").unwrap_or(7);
    let kills = number("SOAKD_KILLS").unwrap_or(16);
    println!("seed {seed}, {kills} kills");
    let (mut done, mut killed, mut lost) = (0, BTreeMap::<_, u64>::new(), BTreeMap::<_, u64>::new());
    while done < kills {
        let some = KILLS_PER_RUN.min(kills - done);
        let (who, readings) = one_run(seed + done, some);
        who.into_iter().for_each(|(role, n)| *killed.entry(role).or_default() += n);
        readings.into_iter().for_each(|(readings, n)| *lost.entry(readings).or_default() += n);
        done += some;
        println!("{done} of {kills} kills");
    }
    println!(
        "in all {kills} kills ({killed:?}): integrity ok each time, events lost 0, orphans 0, batches lost per kill at most 1 (readings in \
         it: how often: {lost:?})"
    );
}

/// Then comes the next run.
const KILLS_PER_RUN: u64 = 1_000;

type Tally = (BTreeMap<&'static str, u64>, BTreeMap<usize, u64>);

/// Who was killed how often, and how many readings went with how many supervisors.
fn one_run(seed: u64, kills: u64) -> Tally {
    let mut dice = Dice(seed);
    let mut victim = Victim::start(CONFIG);
    victim.until("SELECT count(*) > 2 FROM work_sample");
    let mut killed: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut lost: BTreeMap<usize, u64> = BTreeMap::new();
    for n in 0..kills {
        std::thread::sleep(Duration::from_millis(dice.below(700)));
        let role = victim.somebody(&mut dice);
        *killed.entry(role).or_default() += 1;
        let seen = "SELECT (SELECT coalesce(max(event_id), 0) FROM event)";
        let last_event = victim.number(seen);
        let count = format!(
            "SELECT (SELECT count(*) FROM event WHERE event_id <= {last_event}) * 1000000 + (SELECT count(*) FROM process_sample)"
        );
        let before = victim.number(&count);
        if role == "supervisor" {
            let children: Vec<i32> = ["worker", "probe"].iter().filter_map(|role| victim.pid(role)).collect();
            victim.kill_supervisor();
            let (batches, readings) = victim.lost();
            assert!(
                batches <= 1,
                "seed {seed}, kill {n}: {batches} batches ({readings} readings) are lost\n{}",
                victim.said()
            );
            *lost.entry(readings).or_default() += 1;
            let folder = victim.folder.path().to_path_buf();
            victim.wait_for("its children to end", || children.iter().all(|pid| !is_ours(*pid, &folder)));
            assert_eq!(victim.is_whole(), "ok", "seed {seed}, kill {n}: {role}");
            victim.resume();
            let resumed = format!("SELECT count(*) = {} FROM event WHERE kind = 'run_resumed'", killed["supervisor"]);
            victim.until(&resumed);
        } else {
            // It may have ended by itself meanwhile, which is no less a death.
            let hit = victim.pid(role).is_some_and(kill);
            *killed.entry(role).or_default() -= u64::from(!hit);
            assert_eq!(victim.is_whole(), "ok", "seed {seed}, kill {n}: {role}");
        }
        let after = victim.number(&count);
        assert!(after / 1_000_000 == before / 1_000_000, "seed {seed}, kill {n} of {role}: an event is gone");
        assert!(after >= before, "seed {seed}, kill {n} of {role}: samples that had been written are gone");
    }
    victim.until("SELECT count(*) > 0 FROM process WHERE role = 'worker' AND ended_unix_ms IS NULL");
    victim.end();
    assert_eq!(victim.is_whole(), "ok", "seed {seed}");
    victim.wait_for("everything to end", || victim.others().is_empty());

    assert_eq!(victim.number("SELECT count(*) FROM run"), 1, "one run");
    let supervisors = killed.get("supervisor").copied().unwrap_or(0) as i64;
    // One that is killed right after it has said that it resumes has no row of its own yet.
    let rows = victim.number("SELECT count(*) FROM process WHERE role = 'supervisor'");
    assert!((1..=supervisors + 1).contains(&rows), "{rows} rows for {supervisors} kills");
    assert_eq!(
        victim.number("SELECT count(*) FROM process WHERE ended_unix_ms IS NULL"),
        0,
        "every process has its end"
    );
    assert_eq!(victim.number("SELECT count(*) FROM gap WHERE reason = 'supervisor_down'"), supervisors);
    // Each end that was not asked for is told once, or belongs to a supervisor that died before it could be told.
    let ends =
        "SELECT count(*) FROM process WHERE role = 'worker' AND end_reason IN ('crash', 'refused', 'oom', 'protocol')";
    let told = victim.number("SELECT count(*) FROM event WHERE kind IN ('worker_crash', 'worker_oom')");
    assert_eq!(victim.number(ends), told, "crashes are counted once");
    let workers = killed.get("worker").copied().unwrap_or(0) as i64;
    let lost_workers = victim.number("SELECT count(*) FROM process WHERE role = 'worker' AND end_reason = 'lost'");
    assert!(
        told + lost_workers >= workers,
        "{workers} workers killed, {told} told of, {lost_workers} lost with their supervisor"
    );
    let hole = "SELECT count(*) FROM (
        SELECT s.unix_ms - lag(s.unix_ms) OVER (ORDER BY s.unix_ms) AS hole_ms, s.unix_ms AS until
        FROM process_sample AS s JOIN process USING (process_id) WHERE role = 'supervisor')
      WHERE hole_ms - coalesce((SELECT sum(min(to_unix_ms, until) - max(from_unix_ms, until - hole_ms)) FROM gap
          WHERE to_unix_ms > until - hole_ms AND from_unix_ms < until), 0) > 10000";
    assert_eq!(victim.number(hole), 0, "a silence that nothing tells of");
    assert_eq!(
        victim.number("SELECT count(*) FROM event WHERE kind = 'golden_mismatch'"),
        0,
        "same weights, same tokens"
    );
    println!(
        "{kills} kills from seed {seed} ({killed:?}): integrity ok each time, events lost 0, orphans 0; {told} crashes told, {lost_workers} lost \
         with their supervisor; of a second's readings lost with a supervisor, at most one batch each time: {}",
        lost.iter().map(|(readings, times)| format!("{readings} in {times} kills")).collect::<Vec<_>>().join(", ")
    );
    (killed, lost)
}
