//! What the command line says over the configuration, by the same rules.

use super::error::ConfigError;
use super::resolved::{Backend, Config, Scenario, Variant};
use super::validate;
use std::path::PathBuf;
use std::time::Duration;

/// Flags that were given; `None` leaves the configuration's value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides {
    /// `--duration`.
    pub duration: Option<Duration>,
    /// `--horizon`.
    pub horizon: Option<Duration>,
    /// `--tolerance`, bytes.
    pub tolerance_bytes: Option<u64>,
    /// `--scenario`.
    pub scenario: Option<Scenario>,
    /// `--seed`.
    pub seed: Option<i64>,
    /// `--db`.
    pub database: Option<PathBuf>,
    /// `--model`: relative to the working directory, as any path on a command line.
    pub model: Option<String>,
    /// `--backend`.
    pub backend: Option<Backend>,
    /// `--variant`.
    pub variant: Option<Variant>,
    /// `--streams`.
    pub streams: Option<i64>,
    /// `--threads`.
    pub threads: Option<i64>,
    /// `--prompt-tokens`.
    pub prompt_tokens: Option<i64>,
    /// `--answer-tokens`.
    pub answer_tokens: Option<i64>,
    /// What follows `--`.
    pub command: Option<Vec<String>>,
    /// `--pid`.
    pub pid: Option<i64>,
    /// `--unit`.
    pub unit: Option<String>,
    /// `--load`.
    pub load: Option<String>,
    /// `--rate`.
    pub rate_per_s: Option<f64>,
    /// `--golden`.
    pub golden: Option<bool>,
    /// `--prompts`: relative to the working directory.
    pub prompts_file: Option<PathBuf>,
}

/// Puts `$given` into `$field` and remembers which key the flag stands for.
macro_rules! over {
    ($flags:ident, $given:expr, $field:expr, $flag:literal, $key:literal) => {
        if let Some(value) = $given {
            $field = value.into();
            $flags.push(($key, $flag));
        }
    };
}

impl Config {
    /// This configuration with `flags` over it, validated again; complaints name the flag.
    pub fn with(mut self, given: Overrides) -> Result<Config, ConfigError> {
        let mut flags: Vec<(&str, &str)> = Vec::new();
        over!(flags, given.duration, self.run.duration, "--duration", "run.duration");
        over!(flags, given.horizon, self.run.horizon, "--horizon", "run.horizon");
        over!(flags, given.tolerance_bytes, self.run.tolerance_bytes, "--tolerance", "run.tolerance");
        over!(flags, given.scenario, self.run.scenario, "--scenario", "run.scenario");
        over!(flags, given.seed, self.run.seed, "--seed", "run.seed");
        over!(flags, given.database, self.run.database, "--db", "run.database");
        over!(flags, given.model, self.model.model, "--model", "model.model");
        over!(flags, given.backend, self.model.backend, "--backend", "model.backend");
        over!(flags, given.variant, self.model.variant, "--variant", "model.variant");
        over!(flags, given.streams, self.model.streams, "--streams", "model.streams");
        over!(flags, given.threads, self.model.threads, "--threads", "model.threads");
        over!(flags, given.prompt_tokens, self.model.prompt_tokens, "--prompt-tokens", "model.prompt_tokens");
        over!(flags, given.answer_tokens, self.model.answer_tokens, "--answer-tokens", "model.answer_tokens");
        over!(flags, given.command, self.target.command, "COMMAND", "target.command");
        over!(flags, given.pid, self.target.pid, "--pid", "target.pid");
        over!(flags, given.unit, self.target.unit, "--unit", "target.unit");
        over!(flags, given.load, self.target.load, "--load", "target.load");
        over!(flags, given.rate_per_s, self.target.rate_per_s, "--rate", "target.rate_per_s");
        over!(flags, given.golden, self.target.golden, "--golden", "target.golden");
        over!(flags, given.prompts_file, self.target.prompts_file, "--prompts", "target.prompts_file");
        let mut problems = validate::problems(&self, |_| None);
        for problem in &mut problems {
            if let Some((_, flag)) = flags.iter().find(|(key, _)| *key == problem.key) {
                problem.key = (*flag).to_owned();
            }
        }
        if problems.is_empty() { Ok(self) } else { Err(ConfigError { source: self.source.to_string(), problems }) }
    }
}
