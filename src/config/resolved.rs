//! The configuration as everything else sees it: plain, typed, with units applied. `Default` is the embedded default.
//!
//! A new key is a field here, its default below, a line in `resolve.rs`, and its description in `soak.toml` (a test
//! compares them).

use super::mail::{Mail, Mailer, MailerRunsAs, Tls, Transport};
use super::raw::Choice;
use super::units;
use serde::{Serialize, Serializer};
use std::path::PathBuf;
use std::time::Duration;

/// Where a configuration came from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Source {
    /// Built into the binary.
    #[default]
    Embedded,
    /// A file.
    File(PathBuf),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Embedded => f.write_str("the embedded default"),
            Source::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Config {
    /// Where it came from.
    #[serde(skip)]
    pub source: Source,
    /// `[run]`.
    pub run: Run,
    /// `[model]`.
    pub model: Model,
    /// `[target]`.
    pub target: super::Target,
    /// `[churn]`: when scenario is churn.
    pub churn: Churn,
    /// `[burst]`: when scenario is burst.
    pub burst: Burst,
    /// `[worker]`.
    pub worker: Worker,
    /// `[probe]`.
    pub probe: Probe,
    /// `[canary]`.
    pub canary: Canary,
    /// `[alerts]`.
    pub alerts: Alerts,
    /// `[mail]`.
    pub mail: Mail,
    /// `[mailer]`.
    pub mailer: Mailer,
    /// `[gates]`.
    pub gates: super::Gates,
    /// Figures for others.
    pub metrics: super::Metrics,
}

impl Config {
    /// As TOML, for the run's row. It holds no secret: the password stays in its file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("plain tables of plain values serialise")
    }

    /// What soaks, in a few words: `vllm serve X (load none)`, `synthetic:small (steady, 2 streams)`.
    #[must_use]
    pub fn soaks(&self) -> String {
        if self.target.is_set() {
            return format!("{} (load {})", self.target.describe(), self.target.load);
        }
        let streams = if self.model.streams == 1 { "stream" } else { "streams" };
        format!("{} ({}, {} {streams})", self.model.model, self.run.scenario.as_str(), self.model.streams)
    }
}

/// `[run]`: how long, and what counts as a leak.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// Uptime to soak for.
    #[serde(serialize_with = "units::serialize_duration")]
    pub duration: Duration,
    /// Time over which drift is stated.
    #[serde(serialize_with = "units::serialize_duration")]
    pub horizon: Duration,
    /// Drift over the horizon that is still no leak, bytes, in either direction.
    #[serde(rename = "tolerance", serialize_with = "units::serialize_bytes")]
    pub tolerance_bytes: u64,
    /// Between two samples of everything.
    #[serde(serialize_with = "units::serialize_duration")]
    pub sample_interval: Duration,
    /// Between two looks of the analysis at every series.
    #[serde(serialize_with = "units::serialize_duration")]
    pub look_every: Duration,
    /// What the load does.
    pub scenario: Scenario,
    /// Of synthetic weights and of prompts; below 2^63, for the database.
    pub seed: i64,
    /// The SQLite file, relative to the working directory.
    pub database: PathBuf,
}

impl Default for Run {
    fn default() -> Self {
        Run {
            duration: hours(48),
            horizon: hours(48),
            tolerance_bytes: 50_000_000,
            sample_interval: seconds(1),
            look_every: seconds(60),
            scenario: Scenario::Steady,
            seed: 1,
            database: PathBuf::from("soak.db"),
        }
    }
}

/// What the load does over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// One model resident, all streams busy.
    Steady,
    /// The model is unloaded and loaded again every so often: that is where leaks live.
    Churn,
    /// Load comes and goes.
    Burst,
}

impl Choice for Scenario {
    const WORDS: &'static [(&'static str, Self)] =
        &[("steady", Scenario::Steady), ("churn", Scenario::Churn), ("burst", Scenario::Burst)];
}

/// `[model]`: what is run, and on what.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Model {
    /// Path of a GGUF file, or `synthetic:NAME`.
    pub model: String,
    /// CPU or GPU.
    pub backend: Backend,
    /// Which GPUs; one worker each. Ignored on the CPU, which has one worker.
    pub devices: Devices,
    /// Quantization of synthetic weights. A GGUF file has its own.
    pub variant: Variant,
    /// Concurrent streams per worker, 1 to 16.
    pub streams: i64,
    /// Prompts in the set that is gone through again and again.
    pub prompts: i64,
    /// Tokens per prompt.
    pub prompt_tokens: i64,
    /// Tokens decoded per answer.
    pub answer_tokens: i64,
    /// Context that each stream's cache holds, tokens; `None` is what prompt and answer need.
    #[serde(serialize_with = "auto_or_integer")]
    pub context_tokens: Option<i64>,
    /// CPU threads per worker; `None` is one per core.
    #[serde(serialize_with = "auto_or_integer")]
    pub threads: Option<i64>,
    /// Whether to go on on the CPU when CUDA cannot be used; recorded and alerted when it happens.
    pub fallback_to_cpu: bool,
}

impl Default for Model {
    fn default() -> Self {
        Model {
            model: "synthetic:small".to_owned(),
            backend: Backend::Auto,
            devices: Devices::All,
            variant: Variant::Q4K,
            streams: 2,
            prompts: 8,
            prompt_tokens: 32,
            answer_tokens: 64,
            context_tokens: None,
            threads: None,
            fallback_to_cpu: false,
        }
    }
}

impl Model {
    /// Context that each stream's cache holds, tokens.
    #[must_use]
    pub fn context(&self) -> i64 {
        self.context_tokens.unwrap_or(self.prompt_tokens + self.answer_tokens)
    }
}

/// Where the forward pass runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// CUDA if there is a usable GPU, else the CPU.
    Auto,
    /// CUDA, or nothing.
    Cuda,
    /// The CPU.
    Cpu,
}

impl Choice for Backend {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Backend::Auto), ("cuda", Backend::Cuda), ("cpu", Backend::Cpu)];
}

/// Which GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Devices {
    /// Every one that the driver shows.
    All,
    /// These, by the driver's ordinal.
    These(Vec<u32>),
}

impl Serialize for Devices {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Devices::All => to.serialize_str("all"),
            Devices::These(ordinals) => ordinals.serialize(to),
        }
    }
}

/// How synthetic weights are quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names of the GGUF world
pub enum Variant {
    Q2K,
    Q4K,
    Q5KM,
    Q6K,
    Q8_0,
    Hybrid,
}

impl Choice for Variant {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("q2_k", Variant::Q2K),
        ("q4_k", Variant::Q4K),
        ("q5_k_m", Variant::Q5KM),
        ("q6_k", Variant::Q6K),
        ("q8_0", Variant::Q8_0),
        ("hybrid", Variant::Hybrid),
    ];
}

/// `[churn]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Churn {
    /// Between two reloads of the model.
    #[serde(serialize_with = "units::serialize_duration")]
    pub every: Duration,
}

impl Default for Churn {
    fn default() -> Self {
        Churn { every: minutes(10) }
    }
}

/// `[burst]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Burst {
    /// Busy for so long,
    #[serde(serialize_with = "units::serialize_duration")]
    pub on: Duration,
    /// then idle for so long.
    #[serde(serialize_with = "units::serialize_duration")]
    pub off: Duration,
}

impl Default for Burst {
    fn default() -> Self {
        Burst { on: minutes(5), off: minutes(1) }
    }
}

/// `[worker]`: when it counts as hung, and how it is restarted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Worker {
    /// Between two signs of life.
    #[serde(serialize_with = "units::serialize_duration")]
    pub heartbeat: Duration,
    /// Silence after which it is a hang.
    #[serde(serialize_with = "units::serialize_duration")]
    pub hang_after: Duration,
    /// From its start to its first token: loading a large model takes its time.
    #[serde(serialize_with = "units::serialize_duration")]
    pub start_timeout: Duration,
    /// From the request to end to SIGKILL.
    #[serde(serialize_with = "units::serialize_duration")]
    pub stop_timeout: Duration,
    /// Wait before the first restart; it doubles with each one,
    #[serde(serialize_with = "units::serialize_duration")]
    pub backoff_min: Duration,
    /// up to this.
    #[serde(serialize_with = "units::serialize_duration")]
    pub backoff_max: Duration,
    /// A worker that has lived for so long starts again at `backoff_min`.
    #[serde(serialize_with = "units::serialize_duration")]
    pub healthy_after: Duration,
    /// So many ends in a row without having been healthy: the run has failed.
    pub crash_loop_limit: i64,
}

impl Default for Worker {
    fn default() -> Self {
        Worker {
            heartbeat: seconds(1),
            hang_after: seconds(30),
            start_timeout: minutes(5),
            stop_timeout: seconds(5),
            backoff_min: seconds(1),
            backoff_max: minutes(1),
            healthy_after: minutes(1),
            crash_loop_limit: 10,
        }
    }
}

/// `[probe]`: the child that reads /proc and NVML.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Probe {
    /// Silence after which it is killed and started again.
    #[serde(serialize_with = "units::serialize_duration")]
    pub hang_after: Duration,
    /// Between two readings of Pss, which costs the kernel a walk through the page tables.
    #[serde(serialize_with = "units::serialize_duration")]
    pub pss_every: Duration,
    /// NVML by path; `None` is the system's libnvidia-ml.so.1.
    #[serde(serialize_with = "none_or_path")]
    pub nvml_library: Option<PathBuf>,
}

impl Default for Probe {
    fn default() -> Self {
        Probe { hang_after: seconds(10), pss_every: seconds(10), nvml_library: None }
    }
}

/// `[canary]`: the child that leaks on purpose.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Canary {
    /// Whether there is one.
    pub enabled: bool,
    /// What it leaks over the horizon, bytes.
    #[serde(rename = "leak", serialize_with = "units::serialize_bytes")]
    pub leak_bytes: u64,
    /// It must have been found by then, or the run is blind.
    #[serde(serialize_with = "units::serialize_duration")]
    pub found_within: Duration,
}

impl Default for Canary {
    fn default() -> Self {
        Canary { enabled: true, leak_bytes: 200_000_000, found_within: hours(12) }
    }
}

/// `[alerts]`: which rules, how often, and the limits that some of them use.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alerts {
    /// Whether the built-in rules (`alert-rules/default.toml`) apply.
    pub builtin: bool,
    /// More rule files, beside the configuration.
    pub rules: Vec<PathBuf>,
    /// Between two evaluations of every rule.
    #[serde(serialize_with = "units::serialize_duration")]
    pub evaluate_every: Duration,
    /// p95 of a minute's token latencies above which to alert.
    #[serde(serialize_with = "units::serialize_duration_or_none")]
    pub token_p95_max: Option<Duration>,
    /// p95 of a minute's first-token latencies above which to alert.
    #[serde(serialize_with = "units::serialize_duration_or_none")]
    pub first_token_p95_max: Option<Duration>,
    /// Tokens per second below which to alert.
    #[serde(serialize_with = "none_or_number")]
    pub throughput_min: Option<f64>,
}

impl Default for Alerts {
    fn default() -> Self {
        Alerts {
            builtin: true,
            rules: Vec::new(),
            evaluate_every: seconds(15),
            token_p95_max: None,
            first_token_p95_max: None,
            throughput_min: None,
        }
    }
}

/// Words serialise as they are written in the file.
macro_rules! serialize_as_word {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.word())
            }
        }
        impl $name {
            /// As it is written in the configuration and stored.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                self.word()
            }
        }
        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                let words: Vec<&str> = Self::WORDS.iter().map(|(word, _)| *word).collect();
                let found = Self::WORDS.iter().find(|(word, _)| *word == text);
                found.map(|(_, value)| *value).ok_or_else(|| super::raw::nearest(text, &words, "choices"))
            }
        }
    )*};
}
serialize_as_word!(Scenario, Backend, Variant, Transport, Tls, MailerRunsAs, super::gates::GateProfile);

pub(super) const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
pub(super) const fn minutes(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}
pub(super) const fn hours(n: u64) -> Duration {
    Duration::from_secs(n * 3600)
}

#[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref)] // serde's signature
pub(super) fn auto_or_integer<S: Serializer>(value: &Option<i64>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(number) => to.serialize_i64(*number),
        None => to.serialize_str("auto"),
    }
}

#[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref)] // serde's signature
fn none_or_number<S: Serializer>(value: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(number) => to.serialize_f64(*number),
        None => to.serialize_str("none"),
    }
}

#[allow(clippy::ref_option)] // serde's signature
pub(super) fn none_or_text<S: Serializer>(value: &Option<String>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(value.as_deref().unwrap_or("none"))
}

#[allow(clippy::ref_option)] // serde's signature
pub(super) fn none_or_path<S: Serializer>(value: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&value.as_ref().map_or("none".into(), |path| path.to_string_lossy()))
}
