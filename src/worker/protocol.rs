//! What the supervisor and a worker say to each other, as [`crate::wire`] frames over the worker's stdin and stdout.
//!
//! The supervisor speaks first ([`ToWorker::Load`]); the worker answers [`FromWorker::Loaded`] or [`FromWorker::CannotLoad`] and
//! from then on reports about once a second until it is told to stop or its stdin closes. Nothing here knows how any of
//! it is stored.

use crate::model::run::Lengths;
use crate::model::sample::{LatencyKind, WorkReading};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How the load behaves over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Scenario {
    /// One model resident, every stream always busy.
    Steady,
    /// The model is unloaded and loaded again every so often: that is where leaks live.
    Churn {
        /// Milliseconds between two loads.
        every_ms: u64,
    },
    /// Load comes and goes.
    Burst {
        /// Milliseconds at work.
        busy_ms: u64,
        /// Milliseconds of rest after that.
        idle_ms: u64,
    },
}

/// Everything a worker needs to know to begin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadPlan {
    /// `cpu`, `cuda` or `auto`.
    pub backend: String,
    /// Whether to go on on the CPU when `cuda` was asked for and cannot be used.
    pub fallback_to_cpu: bool,
    /// Path of a GGUF file, or `synthetic:NAME`.
    pub model: String,
    /// Quantization variant of a synthetic model.
    pub variant: String,
    /// Concurrent streams.
    pub streams: usize,
    /// Longest context of a stream, tokens.
    pub context_tokens: usize,
    /// CPU threads; 0 for as many as there are.
    pub threads: usize,
    /// Which GPU, from 0.
    pub device: u32,
    /// Seed of weights and prompts.
    pub seed: u64,
    /// How many different prompts; one pass over all of them is a loop.
    pub prompts: u32,
    /// Tokens of the longest prompt; lengths vary from a quarter of it to all of it.
    pub prompt_tokens: u32,
    /// Tokens decoded for each prompt.
    pub answer_tokens: u32,
    /// How the load behaves.
    pub scenario: Scenario,
    /// Between two beats, milliseconds.
    pub beat_ms: u64,
    /// What the first loop gave, if an earlier incarnation of this run recorded it.
    pub golden: Vec<GoldenOutput>,
    /// What of the user's is soaked instead of the built-in loop.
    #[serde(default)]
    pub target: Option<TargetPlan>,
}

/// The user's own process under soak, and the load on it. One of `command`, `pid` and `unit` is given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TargetPlan {
    /// To start: program and arguments.
    pub command: Vec<String>,
    /// To watch: a process that already runs.
    pub pid: Option<i32>,
    /// To watch: a systemd unit.
    pub unit: Option<String>,
    /// `none`, `openai:URL`, `openai-chat:URL` or `command:TEXT`.
    pub load: String,
    /// The model that requests name; `None`: the first that the server offers.
    pub model: Option<String>,
    /// Requests per second; `None`: one after the other in each stream.
    pub rate_per_s: Option<f64>,
    /// Whether each answer is compared with the first one to the same prompt.
    pub golden: bool,
    /// An answer in which nothing comes for so long has failed, milliseconds.
    pub stall_ms: u64,
    /// How long prompts and answers are.
    #[serde(default)]
    pub lengths: Lengths,
    /// What is asked, as lines of JSON; `None`: prompts made of the seed.
    #[serde(default)]
    pub prompts_file: Option<PathBuf>,
    /// More trusted certificates, PEM.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Where the API's key is.
    #[serde(default)]
    pub api_key_file: Option<PathBuf>,
    /// It must take requests within this, milliseconds; 0: whenever it does.
    #[serde(default)]
    pub start_timeout_ms: u64,
}

impl TargetPlan {
    /// `vllm serve X`, `process 4711`, `unit ollama.service`.
    #[must_use]
    pub fn describe(&self) -> String {
        match (self.pid, &self.unit) {
            (Some(pid), _) => format!("process {pid}"),
            (None, Some(unit)) => format!("unit {unit}"),
            (None, None) => self.command.join(" "),
        }
    }
}

/// The output for one prompt that every later loop is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoldenOutput {
    /// Which back end made it: two back ends may round differently.
    pub backend: String,
    /// Which prompt, from 0.
    pub prompt: u32,
    /// The tokens decoded.
    pub tokens: Vec<u32>,
    /// Hash over the logits along the way.
    pub hash: u64,
}

/// Damage done on purpose, for `soakd drill` and the tests of what soakd promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum Sabotage {
    /// `exit(code)`.
    Exit {
        /// The code.
        code: i32,
    },
    /// `abort()`.
    Abort,
    /// Reads through a null pointer.
    Segfault,
    /// The inference loop waits for ever, as in a deadlock; the rest of the worker goes on.
    Deadlock,
    /// The inference loop spins for ever, at work and getting nowhere; the rest of the worker goes on.
    LoopForever,
    /// Allocates and touches this many bytes every second, for ever.
    Leak {
        /// How many.
        bytes_per_second: u64,
    },
    /// Allocates this many bytes of device memory every second, for ever; needs a GPU.
    LeakDevice {
        /// How many.
        bytes_per_second: u64,
    },
    /// One token of the next output is changed before it is compared.
    CorruptToken,
    /// One bit of one weight is flipped in the loaded model, as a cosmic ray would.
    FlipWeight,
    /// Writes bytes to stdout that are no frame.
    Garble,
    /// Writes this much to stderr.
    FloodStderr {
        /// Bytes.
        bytes: u64,
    },
    /// Starts a grandchild that leaves the process group and ignores SIGTERM, then exits.
    LeaveOrphan,
}

/// From the supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToWorker {
    /// First: what to load and how to work.
    Load(Box<LoadPlan>),
    /// Give free heap pages back to the kernel (`malloc_trim`): what is then still held is held by the program and not
    /// by the allocator.
    Trim,
    /// Finish and exit.
    Stop,
    /// Break something.
    Sabotage(Sabotage),
}

/// One kind of latency over one interval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyReport {
    /// Which.
    pub kind: LatencyKind,
    /// How long the interval was, milliseconds.
    pub interval_ms: i64,
    /// Values recorded.
    pub count: u64,
    /// Median, microseconds.
    pub p50_us: u64,
    /// 95th percentile, microseconds.
    pub p95_us: u64,
    /// 99th percentile, microseconds.
    pub p99_us: u64,
    /// Largest, microseconds.
    pub max_us: u64,
    /// The HDR histogram in its V2 form.
    pub histogram: Vec<u8>,
}

/// What was loaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Loaded {
    /// The back end that runs: `cpu` or `cuda`.
    pub backend: String,
    /// Why it is not the one asked for, if it is not.
    pub fallback: Option<String>,
    /// The model's name.
    pub model: String,
    /// Weight bytes.
    pub weight_bytes: u64,
    /// Weight bytes read for one token.
    pub weight_bytes_per_token: u64,
    /// Tensor types and their numbers.
    pub types: String,
    /// Layers, width, vocabulary and context in words.
    pub shape: String,
    /// How long it took, milliseconds.
    pub took_ms: i64,
    /// Who is soaked, where that is not who says so.
    #[serde(default)]
    pub target: Option<TargetProcess>,
}

/// The process under soak, as the kernel and `ps` name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetProcess {
    /// Its process id.
    pub pid: i32,
    /// Its command.
    pub name: String,
}

/// An output that differed from the golden one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatch {
    /// Which prompt.
    pub prompt: u32,
    /// Which stream ran it.
    pub stream: usize,
    /// In which loop, from 0.
    pub at_loop: i64,
    /// The first token that differs; `None` when only the logits' hash does.
    pub at_token: Option<u32>,
    /// What the golden run decoded there.
    pub expected: Option<u32>,
    /// What this one did.
    pub got: Option<u32>,
    /// Hash of the golden logits.
    pub expected_hash: u64,
    /// Hash of these.
    pub got_hash: u64,
}

impl Mismatch {
    /// What differs, in words.
    #[must_use]
    pub fn difference(&self) -> String {
        let token = |token: Option<u32>| token.map_or("the end".to_owned(), |id| id.to_string());
        match self.at_token {
            Some(at) => format!("its token {at} is {} instead of {}", token(self.got), token(self.expected)),
            None => "the same tokens, other logits".to_owned(),
        }
    }
}

/// From the worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromWorker {
    /// The model is there; work begins.
    Loaded(Loaded),
    /// It cannot be loaded, and trying again as before will not help by itself. The worker exits after this.
    CannotLoad {
        /// Why, in prose.
        reason: String,
    },
    /// Every `beat_ms`, from a thread of its own, and once more when the loop ends, with all that it counted. `progress` is what the inference loop counted: when it stands still while
    /// beats go on, the loop hangs.
    Beat {
        /// Steps of the inference loop (a rest in `burst` steps too).
        progress: u64,
        /// The counters.
        reading: WorkReading,
    },
    /// Once a minute.
    Latency(Vec<LatencyReport>),
    /// In between, the present minute so far: whoever is killed has told most of it.
    LatencySoFar(Vec<LatencyReport>),
    /// The first output of a prompt.
    Golden(GoldenOutput),
    /// Another output than the golden one.
    Mismatch(Mismatch),
    /// A stream that should have decoded a token and did not.
    Empty {
        /// Which prompt.
        prompt: u32,
        /// Which stream.
        stream: usize,
    },
    /// The target is not ready yet.
    Waiting {
        /// What it said when it was asked last.
        reason: String,
    },
    /// Requests to the target fail.
    EndpointDown {
        /// Why the first of them did.
        reason: String,
    },
    /// They succeed again.
    EndpointUp {
        /// For how long they did not, milliseconds.
        down_ms: i64,
    },
    /// `churn`: the model was unloaded and loaded again.
    Reloaded {
        /// How long it took, milliseconds.
        took_ms: i64,
        /// Host bytes the engine held before.
        held_before_bytes: u64,
        /// And after.
        held_after_bytes: u64,
    },
    /// The engine failed in the middle of work; the worker exits after this.
    EngineFailed {
        /// Why, in prose.
        reason: String,
        /// Whether the kernel killed it for memory, where that is known here and not from the exit.
        #[serde(default)]
        oom: bool,
    },
    /// It was asked to stop and has.
    Stopped,
}
