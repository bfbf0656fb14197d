//! The supervisor's decisions on a virtual clock: real SQLite, real rules, scripted children, faults drawn from a seed.
//!
//! A failing seed is printed and replays: `SOAKD_SIM_SEED=7 cargo test --test simulation`. `SOAKD_SIM_SEEDS=1000` runs more
//! of them than a test run has time for. What holds throughout is in `check`: every sample is stored or its gap
//! recorded, every crash and hang is counted once, what fires is mailed, restarts keep their distance, and the verdict of
//! a clean run is never outside, of a leaking one never within.

mod world;

use std::time::Duration;
use world::{Faults, Memory, World};

const HOUR_MS: i64 = 3_600_000;

/// Seeds to run: one if it is named, else as many as asked for.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("SOAKD_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SOAKD_SIM_SEEDS").unwrap_or(usual),
    }
}

#[test]
fn whatever_breaks_nothing_is_lost_and_nothing_is_counted_twice() {
    for seed in seeds(2) {
        let faults = Faults { per_hour: 30.0, supervisor_dies: true, clocks_jump: true };
        let mut world = World::new(seed, Duration::from_secs(2_400), faults, Memory::Flat);
        world.run_to_its_end();
        world.check();
    }
}

#[test]
fn a_quiet_run_has_no_event_that_is_not_quiet() {
    for seed in seeds(2) {
        let mut world = World::new(seed, Duration::from_secs(3_600), Faults::NONE, Memory::Flat);
        world.run_to_its_end();
        world.check();
        assert_eq!(world.number("SELECT count(*) FROM event WHERE severity <> 'info'"), 0, "seed {seed}");
        assert_eq!(world.number("SELECT count(*) FROM gap"), 0, "seed {seed}: nothing was missed");
        assert_eq!(world.number("SELECT count(*) FROM run WHERE state = 'finished'"), 1, "seed {seed}");
    }
}

#[test]
fn a_worker_that_never_starts_ends_the_run_within_minutes() {
    let mut world = World::new(1, Duration::from_secs(48 * 3_600), Faults::NONE, Memory::Flat);
    world.refuse_after(HOUR_MS);
    world.run_to_its_end();
    world.check();
    assert_eq!(world.number("SELECT count(*) FROM run WHERE state = 'failed'"), 1);
    let hours = world.number("SELECT (ended_unix_ms - started_unix_ms) / 3600000 FROM run");
    assert_eq!(hours, 1, "ten refusals with backoff take minutes, not hours");
}

#[test]
fn two_clean_days_are_not_called_a_leak() {
    for seed in seeds(1) {
        let mut world = World::new(seed, Duration::from_secs(48 * 3_600), Faults::FEW, Memory::Flat);
        world.run_to_its_end();
        world.check();
        assert_eq!(world.number("SELECT count(*) FROM run WHERE verdict = 'outside'"), 0, "seed {seed}");
        assert_eq!(world.number("SELECT count(*) FROM event WHERE kind = 'drift_alarm'"), 0, "seed {seed}");
    }
}

#[test]
fn two_leaking_days_are_not_called_clean() {
    for seed in seeds(1) {
        let leak = Memory::Leak { bytes_per_hour: 4.0e6 };
        let mut world = World::new(seed, Duration::from_secs(48 * 3_600), Faults::FEW, leak);
        world.run_to_its_end();
        world.check();
        assert_eq!(
            world.number("SELECT count(*) FROM run WHERE verdict = 'within'"),
            0,
            "seed {seed}: 192 MB over 48 h"
        );
    }
}
