//! The only real clock. Everything else is handed the time.

use crate::model::time::{MonoMillis, Now, UnixMillis};
use nix::libc;

/// Reads both clocks: `CLOCK_REALTIME` and `CLOCK_BOOTTIME` (which goes on through a suspend).
#[must_use]
pub fn now() -> Now {
    Now {
        wall: UnixMillis(read_us(libc::CLOCK_REALTIME) / 1_000),
        mono: MonoMillis(read_us(libc::CLOCK_BOOTTIME) / 1_000),
    }
}

/// Microseconds of `CLOCK_MONOTONIC`, for latencies. It stands still in a suspend, so that a night's sleep is no latency.
#[must_use]
pub fn micros() -> i64 {
    read_us(libc::CLOCK_MONOTONIC)
}

/// How long the host has been suspended since boot, milliseconds: what `CLOCK_BOOTTIME` has and `CLOCK_MONOTONIC` has not.
#[must_use]
pub fn suspended_ms() -> i64 {
    let monotonic_us = read_us(libc::CLOCK_MONOTONIC);
    ((read_us(libc::CLOCK_BOOTTIME) - monotonic_us) / 1_000).max(0)
}

fn read_us(clock: libc::clockid_t) -> i64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a valid, writable timespec; these clock ids exist on every Linux since 2.6.39.
    let rc = unsafe { libc::clock_gettime(clock, &raw mut ts) };
    assert_eq!(rc, 0, "clock_gettime({clock}) failed: the kernel lacks a clock that soakd needs");
    ts.tv_sec * 1_000_000 + ts.tv_nsec / 1_000
}
