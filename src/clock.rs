//! The only real clock. Everything else is handed the time.

use crate::model::time::{MonoMillis, Now, UnixMillis};
use nix::libc;

/// Reads both clocks: `CLOCK_REALTIME` and `CLOCK_BOOTTIME` (which goes on through a suspend).
#[must_use]
pub fn now() -> Now {
    Now { wall: UnixMillis(read(libc::CLOCK_REALTIME)), mono: MonoMillis(read(libc::CLOCK_BOOTTIME)) }
}

fn read(clock: libc::clockid_t) -> i64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a valid, writable timespec; both clock ids exist on every Linux since 2.6.39.
    let rc = unsafe { libc::clock_gettime(clock, &raw mut ts) };
    assert_eq!(rc, 0, "clock_gettime({clock}) failed: the kernel lacks a clock that soakd needs");
    ts.tv_sec * 1_000 + ts.tv_nsec / 1_000_000
}
