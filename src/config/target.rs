//! `[target]`: what of the user's own is soaked instead of the built-in loop, and the load on it.

use super::raw::Choice;
use super::units;
use crate::model::run::Lengths;
use serde::{Serialize, Serializer};
use std::path::PathBuf;
use std::time::Duration;

impl Choice for Lengths {
    const WORDS: &'static [(&'static str, Self)] =
        &[("fixed", Lengths::Fixed), ("uniform", Lengths::Uniform), ("lognormal", Lengths::Lognormal)];
}

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
    /// How long prompts and answers are, against `model.prompt_tokens` and `model.answer_tokens`.
    pub lengths: Lengths,
    /// What is asked, as lines of JSON; `None`: prompts made of the seed.
    #[serde(serialize_with = "none_or")]
    pub prompts_file: Option<PathBuf>,
    /// More certificates to trust, PEM.
    #[serde(serialize_with = "none_or")]
    pub ca_file: Option<PathBuf>,
    /// The key that the API asks for.
    #[serde(serialize_with = "none_or")]
    pub api_key_file: Option<PathBuf>,
    /// The first part of each of its lives, which no series is judged by.
    #[serde(serialize_with = "units::serialize_duration")]
    pub warm_up: Duration,
    /// What its caches may take by design: growth within it is no leak as long as it may be that.
    #[serde(serialize_with = "units::serialize_bytes")]
    pub known_caches: u64,
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
            lengths: Lengths::default(),
            prompts_file: None,
            ca_file: None,
            api_key_file: None,
            warm_up: Duration::ZERO,
            known_caches: 0,
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

/// `[metrics]`: figures for others.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Metrics {
    /// Where the figures of a run are left when it is over, for the node exporter's textfile collector.
    #[serde(serialize_with = "none_or")]
    pub textfile: Option<PathBuf>,
}
