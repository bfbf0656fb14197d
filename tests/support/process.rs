//! Processes of a test: whether one is there, and how one ended.

use std::process::Child;
use std::time::{Duration, Instant};

/// Whether there is such a process that still runs: a zombie that nobody buries is as good as gone.
pub fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

/// Waits for the end of `child`: its exit code, -1 for a signal.
pub fn end_of(child: &mut Child, patience: Duration, said: impl Fn() -> String) -> i32 {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("our child") {
            return status.code().unwrap_or(-1);
        }
        assert!(started.elapsed() < patience, "it does not end: {}", said());
        std::thread::sleep(Duration::from_millis(50));
    }
}
