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
