//! Two clocks, two types: wall time may step, monotonic time never does. Durations are measured on the second.

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00 UTC, from the wall clock. It may step; never subtract two to get a duration
/// that a decision rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub i64);

/// Milliseconds since boot, suspend included (`CLOCK_BOOTTIME`). Never steps; means nothing after a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MonoMillis(pub i64);

/// One reading of both clocks: what every pure module is handed as `now`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// Wall clock: for people and for the database.
    pub wall: UnixMillis,
    /// Monotonic clock: for timeouts, backoff and durations.
    pub mono: MonoMillis,
}

impl UnixMillis {
    /// Seconds since the epoch, as the analysis uses them.
    #[must_use]
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1_000.0
    }

    /// This moment less `ms`.
    #[must_use]
    pub fn before(self, ms: i64) -> UnixMillis {
        UnixMillis(self.0.saturating_sub(ms))
    }
}

impl MonoMillis {
    /// Milliseconds from `earlier` to `self`; zero if `earlier` is later (another boot's reading).
    #[must_use]
    pub fn since(self, earlier: MonoMillis) -> i64 {
        (self.0 - earlier.0).max(0)
    }

    /// This moment plus `ms`.
    #[must_use]
    pub fn plus(self, ms: i64) -> MonoMillis {
        MonoMillis(self.0.saturating_add(ms))
    }
}
