//! A run: one soak, from start to verdict, surviving restarts of soakd and of the host.

use super::time::UnixMillis;
use serde::{Deserialize, Serialize};

/// Where a run stands. The string form is the `state` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Going on, or interrupted without a word (then the next start resumes it).
    Running,
    /// Its planned duration was served.
    Finished,
    /// Ended early by the user; it has a verdict on what it saw.
    Interrupted,
    /// soakd gave it up (crash loop); it has a verdict on what it saw.
    Failed,
}

impl RunState {
    /// The `state` column.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            RunState::Running => "running",
            RunState::Finished => "finished",
            RunState::Interrupted => "interrupted",
            RunState::Failed => "failed",
        }
    }
}

/// What a run is, fixed when it starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunPlan {
    /// When it started.
    pub started: UnixMillis,
    /// How long it is to soak, milliseconds of uptime.
    pub duration_ms: i64,
    /// Over which time drift is stated, milliseconds.
    pub horizon_ms: i64,
    /// Tolerance, bytes over the horizon.
    pub tolerance_bytes: i64,
    /// `cpu` or `cuda`; `none` when only watching.
    pub backend: String,
    /// Path of a GGUF file, or `synthetic:NAME`, or the target's command.
    pub model: String,
    /// Quantization variant.
    pub variant: String,
    /// Concurrent streams.
    pub streams: i64,
    /// `steady`, `churn` or `burst`.
    pub scenario: String,
    /// Seed of weights and prompts.
    pub seed: i64,
    /// Host name.
    pub host: String,
    /// Facts of the host (kernel, CPU, memory, driver), as JSON.
    pub facts: serde_json::Value,
    /// The resolved configuration as TOML, without secrets.
    pub config_toml: String,
}

/// A run that has no verdict yet: what a start finds and resumes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnfinishedRun {
    /// Row of the `run` table.
    pub run_id: i64,
    /// What it is.
    pub plan: RunPlan,
    /// The last moment from which the database holds anything of it.
    pub last_seen: UnixMillis,
    /// What the span up to `last_seen` has by the wall clock that was not watched: gaps, and steps of that clock (back: negative).
    /// Milliseconds. What it has served is `last_seen - started - unwatched_ms`.
    pub unwatched_ms: i64,
    /// How far the wall clock was stepped since it was last seen, as far as that is known.
    pub stepped_ms: i64,
    /// How often it was resumed before.
    pub resumes: i64,
    /// The kernel's id of the boot in which it was last watched, where that is known.
    pub boot_id: Option<String>,
    /// The last thing that was heard of it is that the host was being shut down.
    pub was_shut_down: bool,
}

impl UnfinishedRun {
    /// Milliseconds of uptime it has served so far.
    #[must_use]
    pub fn served_ms(&self) -> i64 {
        (self.last_seen.0 - self.plan.started.0 - self.unwatched_ms).max(0)
    }

    /// Why nobody has watched it since. `boot_now` is empty where it cannot be told. By the boot's id, not by clocks: those of a host that was without power are
    /// whatever they are.
    #[must_use]
    pub fn absence(&self, boot_now: &str) -> Absence {
        match self.boot_id.as_deref() {
            Some(then) if !then.is_empty() && !boot_now.is_empty() && then != boot_now => {
                Absence::HostDown { in_order: self.was_shut_down }
            }
            _ => Absence::SupervisorDown,
        }
    }
}

/// Why nobody watched a run that is gone on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// soakd was killed, or stopped for a moment; the host ran on.
    SupervisorDown,
    /// The host was started again meanwhile.
    HostDown {
        /// It was shut down, rather than cut off.
        in_order: bool,
    },
}

impl Absence {
    /// The `reason` column of the gap.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Absence::SupervisorDown => "supervisor_down",
            Absence::HostDown { .. } => "host_down",
        }
    }

    /// For people.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Absence::SupervisorDown => "soakd was not running",
            Absence::HostDown { in_order: true } => "the host was shut down in order, and started again",
            Absence::HostDown { in_order: false } => {
                "the host went down without a word (power, a panic or a reset), and was started again"
            }
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEnd {
    /// When.
    pub at: UnixMillis,
    /// Finished, interrupted or failed.
    pub state: RunState,
    /// On what it saw.
    pub verdict: super::finding::Verdict,
    /// One sentence: why this verdict.
    pub reason: String,
}

/// How long prompts and answers are, against the longest that is allowed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lengths {
    /// All as long as the longest.
    Fixed,
    /// From a quarter of it to all of it, each as likely.
    #[default]
    Uniform,
    /// Many short ones and a few long ones: a median of a quarter of the longest.
    Lognormal,
}
