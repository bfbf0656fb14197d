//! `soakd run`: the main job. Flags, live progress and the summary; the soaking itself is the supervisor's.

mod logs;
mod progress;
mod summary;

use super::check::model;
use super::gate;
use super::mail::setup;
use super::{CannotStart, Done, Format, Outcome};
use crate::config::units::{parse_bytes, parse_duration};
use crate::config::{self, Backend, Config, GateProfile, Overrides, Scenario, Variant};
use crate::model::finding::Verdict;
use crate::model::run::RunState;
use crate::supervisor::{self, Options, Summary};
use crate::worker::protocol::Sabotage;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Soak this machine: run the load, watch every byte, and say whether memory drifts.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  soakd run --duration 10m                    a first look, on the embedded default
  soakd run                                   48 hours; an unfinished run is gone on with
  soakd run --model SmolLM2.gguf --streams 4  a real model
  soakd run --backend cpu --scenario churn    load and unload the model again and again
  soakd run --config /etc/soakd/soak.toml     as `systemctl start soakd` does it
  soakd run --fresh                           leave an unfinished run and begin a new one
  soakd run --load openai:http://127.0.0.1:8000/v1 -- vllm serve MODEL
                                              start your own server and drive it
  soakd run --pid 4711                        watch a process that already runs

Ctrl-C ends a run with a verdict on what it saw. A second Ctrl-C does not wait for it: a run without a verdict is gone on \
with by the next start.

Exit code: 0 within tolerance and no crash, 1 a leak, a crash, a hang or a wrong token, 2 could not start, \
3 inconclusive.")]
pub struct Args {
    /// Configuration [default: ./soak.toml if it is there, else the embedded default]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How long to soak, in uptime, such as 10m or 48h
    #[arg(long, value_name = "TIME", value_parser = time)]
    duration: Option<Duration>,
    /// Over which time drift is stated, such as 48h
    #[arg(long, value_name = "TIME", value_parser = time)]
    horizon: Option<Duration>,
    /// Acceptable drift over the horizon, either way, such as 50MB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    tolerance: Option<u64>,
    /// The SQLite file that everything is written to
    #[arg(long, value_name = "FILE")]
    db: Option<PathBuf>,
    /// auto, cuda or cpu
    #[arg(long, value_parser = Backend::from_str)]
    backend: Option<Backend>,
    /// A GGUF file, or synthetic:NAME
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Quantization of a synthetic model: q2_k, q4_k, q5_k_m, q6_k, q8_0 or hybrid
    #[arg(long, value_parser = Variant::from_str)]
    variant: Option<Variant>,
    /// Concurrent streams per worker, 1 to 16
    #[arg(long, value_name = "N")]
    streams: Option<i64>,
    /// CPU threads per worker
    #[arg(long, value_name = "N")]
    threads: Option<i64>,
    /// steady, churn or burst
    #[arg(long, value_parser = Scenario::from_str)]
    scenario: Option<Scenario>,
    /// Seed of weights and prompts
    #[arg(long, value_name = "N")]
    seed: Option<i64>,
    /// Tokens of the longest prompt
    #[arg(long, value_name = "N")]
    prompt_tokens: Option<i64>,
    /// Tokens decoded for each prompt
    #[arg(long, value_name = "N")]
    answer_tokens: Option<i64>,
    /// Watch a process that already runs, with all that descends from it, instead of the built-in loop
    #[arg(long, value_name = "PID", conflicts_with_all = ["unit", "command"])]
    pid: Option<i64>,
    /// Watch a systemd unit
    #[arg(long, value_name = "NAME", conflicts_with = "command")]
    unit: Option<String>,
    /// Drive the target: openai:http://127.0.0.1:8000/v1, openai-chat:URL, command:TEXT or none
    #[arg(long, value_name = "LOAD")]
    load: Option<String>,
    /// Requests per second; without it, --streams at a time
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// Compare each answer with the first one to the same prompt
    #[arg(long)]
    golden: bool,
    /// Ask what is in this file, a JSON object a line: {"prompt": "..."} or {"messages": [...]}, with "answer_tokens"
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Begin a new run even if there is an unfinished one
    #[arg(long)]
    fresh: bool,
    /// Text for people or JSON for programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Damage on purpose, for tests: WHAT@TIME, as JSON of the protocol and a time of uptime
    #[arg(long, hide = true, value_parser = sabotage)]
    inject: Vec<(i64, Sabotage)>,
    /// Each second counts as so many for the analysis, for drills
    #[arg(long, hide = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=600))]
    pace: Option<u32>,
    /// Your own server or daemon, to start and soak instead of the built-in loop
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Soaks until the run is over.
pub fn execute(args: &Args) -> Done {
    let config = configuration(args)?;
    setup::usable(&config).map_err(CannotStart)?;
    gate::configured(&config.gates, GateProfile::None)?;
    if !config.target.is_set() {
        model::open(&config).map_err(CannotStart::because)?; // a worker would find it too, after the run has begun
    }
    let shown = Arc::new(progress::Display::new(&config, args.format));
    logs::init(shown.bars());
    let options = Options {
        config: config.clone(),
        fresh: args.fresh,
        sabotage: args.inject.clone(),
        pace: args.pace,
        ..Options::default()
    };
    let (telling, format, asked) = (Arc::clone(&shown), args.format, args.config.clone());
    let ended = supervisor::run(options, &mut |snapshot| shown.show(snapshot), move |ended| {
        telling.clear();
        tell(ended, &config, asked.as_deref(), format)
    });
    shown.clear();
    let (ended, told) = ended.map_err(CannotStart::because)?;
    if let Some(why) = &ended.refused {
        return Err(CannotStart(why.clone()));
    }
    told.unwrap_or(Ok(())).map(|()| outcome(&ended))
}

/// What is left behind of a run: the summary, the report, and the figures for whoever collects them.
fn tell(ended: &Summary, config: &Config, asked: Option<&Path>, format: Format) -> Result<(), CannotStart> {
    if ended.refused.is_some() {
        return Ok(());
    }
    summary::print(ended, config, asked, format);
    match &config.metrics.textfile {
        Some(path) => super::metrics::leave_textfile(&config.run.database, path).map_err(CannotStart),
        None => Ok(()),
    }
}

fn configuration(args: &Args) -> Result<Config, CannotStart> {
    let overrides = Overrides {
        duration: args.duration,
        horizon: args.horizon,
        tolerance_bytes: args.tolerance,
        scenario: args.scenario,
        seed: args.seed,
        database: args.db.clone(),
        model: args.model.clone(),
        backend: args.backend,
        variant: args.variant,
        streams: args.streams,
        threads: args.threads,
        prompt_tokens: args.prompt_tokens,
        answer_tokens: args.answer_tokens,
        command: (!args.command.is_empty()).then(|| args.command.clone()),
        pid: args.pid,
        unit: args.unit.clone(),
        load: args.load.clone(),
        rate_per_s: args.rate,
        golden: args.golden.then_some(true),
        prompts_file: args.prompts.clone(),
    };
    let config = config::load(args.config.as_deref()).map_err(CannotStart::because)?;
    config.with(overrides).map_err(CannotStart::because)
}

fn outcome(ended: &Summary) -> Outcome {
    let clean = ended.crashes == 0 && ended.hangs == 0 && ended.mismatches == 0;
    match ended.judgement.verdict {
        _ if ended.state == RunState::Running => Outcome::Inconclusive, // the host goes down; the run does not
        _ if !clean || ended.state == RunState::Failed => Outcome::Failed,
        Verdict::Outside => Outcome::Failed,
        Verdict::Within => Outcome::Passed,
        Verdict::Inconclusive => Outcome::Inconclusive,
    }
}

/// `48h`.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

fn size(text: &str) -> Result<u64, String> {
    parse_bytes(text).map_err(|error| error.to_string())
}

fn sabotage(text: &str) -> Result<(i64, Sabotage), String> {
    let (what, at) = text.rsplit_once('@').ok_or("want WHAT@TIME")?;
    let what = serde_json::from_str(what).map_err(|error| error.to_string())?;
    Ok((time(at)?.as_millis() as i64, what))
}
