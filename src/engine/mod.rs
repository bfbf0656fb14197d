//! The inference engine: GGUF weights, one llama forward pass, and two back ends for it.
//!
//! [`Engine`] is all that the worker sees. A back end owns its weights, its KV cache and its buffers; everything is
//! allocated when it is made and nothing in the loop. Tokens are greedy (argmax; the lowest id wins a tie), and a
//! slot's tokens do not depend on what else is in the batch, bit for bit.
//!
//! Reading order: [`block`] (tensor types), [`gguf`] (the container), [`arch`] (the llama architecture), [`recipe`] and
//! [`synth`] (variants and generated weights), [`weights`] (a model before a back end takes it), then the back ends.

pub mod arch;
pub mod block;
pub mod cpu;
pub mod cuda;
pub mod gguf;
pub mod recipe;
pub mod synth;
pub mod weights;

pub use recipe::Variant;

/// Where the model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// Threads of this machine.
    Cpu,
    /// One NVIDIA GPU, by its CUDA ordinal.
    Cuda {
        /// As `CUDA_VISIBLE_DEVICES` leaves them, from 0.
        device: u32,
    },
}

/// What to load, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOptions {
    /// A GGUF file's path, or `synthetic:NAME` ([`synth::SHAPES`]).
    pub model: String,
    /// Where it runs.
    pub backend: Backend,
    /// Types of a synthetic model's weights; a file has its own.
    pub variant: Variant,
    /// Streams.
    pub slots: usize,
    /// Positions of each stream's cache; `None`: what the model was made for, at most [`CONTEXT_DEFAULT`].
    pub context_tokens: Option<usize>,
    /// CPU threads, the caller's included; 0: as many as there are cores.
    pub threads: usize,
    /// Seed of a synthetic model's weights.
    pub seed: u64,
}

/// Longest context unless one is asked for: enough for prompts of a soak, and 16 streams of it fit beside a 22B model.
pub const CONTEXT_DEFAULT: usize = 2048;

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions {
            model: "synthetic:small".into(),
            backend: Backend::Cpu,
            variant: Variant::Q4_K,
            slots: 1,
            context_tokens: None,
            threads: 0,
            seed: 1,
        }
    }
}

/// Loads a model into a back end.
pub fn load(options: &LoadOptions) -> Result<Box<dyn Engine>, EngineError> {
    let model = weights::Model::open(&options.model, options.variant, options.seed)?;
    let context_tokens = options.context_tokens.unwrap_or_else(|| model.arch.context_tokens.min(CONTEXT_DEFAULT));
    match options.backend {
        Backend::Cpu => {
            let threads = match options.threads {
                0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
                given => given,
            };
            let options = cpu::CpuOptions { slots: options.slots, context_tokens, threads };
            Ok(Box::new(cpu::CpuEngine::new(&model, options)?))
        }
        Backend::Cuda { device } => {
            let tuning = cuda::Tuning::default();
            let options = cuda::CudaOptions { device, slots: options.slots, context_tokens, path: None, tuning };
            Ok(Box::new(cuda::CudaEngine::new(&model, options)?))
        }
    }
}

/// The greedy choice: the highest logit; the lowest id wins a tie, and NaN never wins.
#[must_use]
pub fn greedy(logits: &[f32]) -> u32 {
    let mut best = (f32::NEG_INFINITY, 0);
    for (id, &logit) in logits.iter().enumerate() {
        if logit > best.0 {
            best = (logit, id as u32);
        }
    }
    best.1
}

/// Hash of the bits of a row of logits: the wrapping sum of `mix(id × 2^32 + bits)` over the tokens, with
/// [`synth::mix`]. A sum has no order, so a GPU can take it in parallel; every back end uses it, and hashes of equal
/// logits are equal.
#[must_use]
pub fn hash_logits(logits: &[f32]) -> u64 {
    let token = |(id, logit): (usize, &f32)| synth::mix((id as u64) << 32 | u64::from(logit.to_bits()));
    logits.iter().enumerate().map(token).fold(0, u64::wrapping_add)
}

/// What a loaded model is.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFacts {
    /// `general.name` of the file, or `synthetic:NAME`.
    pub name: String,
    /// Tokens in the vocabulary.
    pub vocab: u32,
    /// Transformer blocks.
    pub layers: u32,
    /// Model width (embedding length).
    pub width: u32,
    /// Longest context that a slot can hold, tokens.
    pub context_tokens: u32,
    /// Weight bytes read to decode one token at one stream (the embedding row, not its table).
    pub weight_bytes_per_token: u64,
    /// All weight bytes.
    pub weight_bytes: u64,
    /// Tensor types and how many tensors have each, such as `Q4_K: 193, Q6_K: 33, F32: 65`.
    pub types: String,
    /// What computes it: the CPU's instruction set, or the CUDA path and which PTX it is made of.
    pub kernel: String,
}

/// Bytes that an engine knows it holds. Mapped weights on the CPU are the page cache's and are not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Host memory: KV cache, buffers, weights generated or repacked.
    pub host_bytes: u64,
    /// Device memory allocated through the driver; `None` on the CPU.
    pub device_bytes: Option<u64>,
}

/// Tokens to feed into one slot in one step: a whole prompt (prefill), or the one token decoded last.
#[derive(Debug, Clone, Copy)]
pub struct Feed<'a> {
    /// Which stream; each has its own KV cache and position.
    pub slot: usize,
    /// At least one token; each below `vocab`.
    pub tokens: &'a [u32],
}

/// What a step gave for one fed slot, in the order of the feeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    /// Which stream.
    pub slot: usize,
    /// Greedy choice after the last fed token.
    pub token: u32,
    /// Hash of the bits of that position's logits: what silent corruption changes first.
    pub logits_hash: u64,
}

/// A loaded model with `slots` streams. Made by a back end's own constructor.
pub trait Engine: Send {
    /// What is loaded.
    fn facts(&self) -> &ModelFacts;
    /// How many streams it was made for.
    fn slots(&self) -> usize;
    /// Bytes it holds now.
    fn held(&self) -> Held;
    /// Feeds all of `batch` (distinct slots) and appends one [`Next`] per feed to `out`.
    fn step(&mut self, batch: &[Feed<'_>], out: &mut Vec<Next>) -> Result<(), EngineError>;
    /// Empties a slot: its next feed starts at position 0.
    fn reset(&mut self, slot: usize);
    /// Logits of the last position that `slot` was fed, `[vocab]`, as of its last step.
    fn logits(&mut self, slot: usize) -> Result<Vec<f32>, EngineError>;
    /// Damage on purpose, for `soakd drill` and tests. What a back end cannot do it refuses.
    fn damage(&mut self, what: Damage) -> Result<(), EngineError> {
        Err(EngineError::Request(format!("this back end cannot be damaged so: {what:?}")))
    }
}

/// What can be done to a loaded model on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// Flips one bit of one weight, as a cosmic ray would: no error, no crash, only other results.
    FlipWeight,
    /// Allocates so much device memory and forgets it.
    LeakDevice {
        /// How much.
        bytes: u64,
    },
}

/// Why an engine could not be made, or could not go on.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EngineError {
    /// The file cannot be read or mapped.
    #[error("{path}: {reason}")]
    File {
        /// Which file.
        path: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The file is not what it says it is, or has something that this engine does not run.
    #[error("{path}: {what}: {reason}")]
    Model {
        /// Which file, or `synthetic:NAME`.
        path: String,
        /// Which tensor or metadata key.
        what: String,
        /// Why, and what to do.
        reason: String,
    },
    /// Too little memory.
    #[error("{what} needs {needed_bytes} bytes, and {free_bytes} are free")]
    Memory {
        /// What did not fit.
        what: String,
        /// How much it needed.
        needed_bytes: u64,
        /// How much there was.
        free_bytes: u64,
    },
    /// The device or its driver failed; the worker must end.
    #[error("{operation}: CUDA error {code} ({name})")]
    Device {
        /// Which call.
        operation: String,
        /// The driver's number.
        code: i32,
        /// The driver's name for it, or `unknown`.
        name: String,
    },
    /// The caller asked for what cannot be (slot, token or context out of range).
    #[error("{0}")]
    Request(String),
}
