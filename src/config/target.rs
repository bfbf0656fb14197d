//! `[target]`: what of the user's own is soaked instead of the built-in loop, and the load on it.

use super::units;
use serde::{Serialize, Serializer};
use std::time::Duration;

/// What is soaked. None of `command`, `pid` and `unit` given: the built-in inference loop.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Target {
    /// To start: program and arguments.
    pub command: Vec<String>,
    /// To watch: a process that already runs.
    #[serde(serialize_with = "none_or")]
    pub pid: Option<i64>,
    /// To watch: a systemd unit.
    #[serde(serialize_with = "none_or")]
    pub unit: Option<String>,
    /// `none`, `openai:URL`, `openai-chat:URL` or `command:TEXT`.
    pub load: String,
    /// The model that requests name; `None`: the first that the server offers.
    #[serde(serialize_with = "none_or")]
    pub model: Option<String>,
    /// Requests per second; `None`: `model.streams` at a time, one after the other.
    #[serde(serialize_with = "none_or")]
    pub rate_per_s: Option<f64>,
    /// Whether each answer is compared with the first one to the same prompt.
    pub golden: bool,
    /// An answer in which nothing comes for so long has failed.
    #[serde(serialize_with = "units::serialize_duration")]
    pub stall: Duration,
}

impl Default for Target {
    fn default() -> Self {
        Target {
            command: Vec::new(),
            pid: None,
            unit: None,
            load: "none".to_owned(),
            model: None,
            rate_per_s: None,
            golden: false,
            stall: Duration::from_secs(60),
        }
    }
}

impl Target {
    /// Whether something of the user's is soaked.
    #[must_use]
    pub fn is_set(&self) -> bool {
        !self.command.is_empty() || self.pid.is_some() || self.unit.is_some()
    }

    /// `vllm serve X`, `process 4711`, `unit ollama.service`.
    #[must_use]
    pub fn describe(&self) -> String {
        match (self.pid, &self.unit) {
            (Some(pid), _) => format!("process {pid}"),
            (None, Some(unit)) => format!("unit {unit}"),
            (None, None) => self.command.join(" "),
        }
    }

    /// How many of the three ways to name it were used.
    pub(super) fn ways(&self) -> usize {
        usize::from(!self.command.is_empty()) + usize::from(self.pid.is_some()) + usize::from(self.unit.is_some())
    }
}

#[allow(clippy::ref_option)] // serde's signature
fn none_or<T: Serialize, S: Serializer>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => value.serialize(to),
        None => to.serialize_str("none"),
    }
}
