//! What `soakd bench` and `soakd load` say to their child, and what it answers: one order, one answer.

use serde::{Deserialize, Serialize};

/// What to load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchPlan {
    /// `cpu` or `cuda`.
    pub backend: String,
    /// Which GPU, from 0.
    pub device: u32,
    /// Path of a GGUF file, or `synthetic:NAME`.
    pub model: String,
    /// Variant of a synthetic model.
    pub variant: String,
    /// Streams to have room for.
    pub streams: usize,
    /// Context of each, tokens.
    pub context_tokens: usize,
    /// CPU threads; 0 for as many as there are.
    pub threads: usize,
    /// Seed of weights, prompts and arrivals.
    pub seed: u64,
}

/// A load of requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Streams that may be busy at once.
    pub streams: usize,
    /// `None`: closed loop, a stream begins its next request when it has ended one. Otherwise Poisson arrivals a second.
    pub arrivals_per_s: Option<f64>,
    /// Requests to finish.
    pub requests: usize,
    /// Requests before those, whose figures are thrown away.
    pub warm_up_requests: usize,
    /// Tokens of the longest prompt; lengths vary from half of it to all of it.
    pub prompt_tokens: usize,
    /// Tokens decoded for each.
    pub answer_tokens: usize,
    /// Which repetition: another seed for arrivals and prompts.
    pub repetition: u64,
}

/// To the child.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Drop what is loaded and load this.
    Open(BenchPlan),
    /// Plain decoding of all streams together: every step timed.
    Decode {
        /// Streams.
        streams: usize,
        /// Tokens of each prompt.
        prompt_tokens: usize,
        /// Steps before the timed ones.
        warm_up_steps: usize,
        /// Timed steps.
        steps: usize,
    },
    /// Requests.
    Serve(Load),
    /// How fast this memory is.
    Ceiling {
        /// `cpu` or `cuda`.
        backend: String,
        /// Which GPU.
        device: u32,
        /// CPU threads; 0 for as many as there are.
        threads: usize,
    },
    /// How far a variant is from unquantised weights. On the CPU, whatever is loaded.
    Quality {
        /// Whose weights: `synthetic:NAME` or a file.
        model: String,
        /// The variant.
        variant: String,
        /// Seed of synthetic weights and of the tokens.
        seed: u64,
        /// Positions to compare.
        positions: usize,
        /// CPU threads; 0 for as many as there are.
        threads: usize,
    },
}

/// What was opened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenedModel {
    /// Its name.
    pub name: String,
    /// Longest context it has room for, tokens.
    pub context_tokens: u32,
    /// All weight bytes.
    pub weight_bytes: u64,
    /// Weight bytes read to decode one token at one stream.
    pub weight_bytes_per_token: u64,
    /// Host bytes the engine holds.
    pub held_host_bytes: u64,
    /// Device bytes it holds; `None` on the CPU.
    pub held_device_bytes: Option<u64>,
    /// What computes it.
    pub kernel: String,
    /// How long opening took.
    pub took_us: i64,
}

/// What a measurement gave. All times are microseconds; latencies are in the order in which they were seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// From the first timed moment to the last.
    pub took_us: i64,
    /// Tokens decoded in that time.
    pub tokens: u64,
    /// Requests finished in it.
    pub requests: u64,
    /// From one token of a stream to its next. Decoding has one entry a step: all streams share it.
    pub token_us: Vec<u32>,
    /// From a request's arrival (not its start: waiting counts) to its first token.
    pub first_token_us: Vec<u32>,
    /// Tokens of each stream.
    pub stream_tokens: Vec<u64>,
}

/// The child's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Order::Open`].
    Opened(OpenedModel),
    /// To [`Order::Decode`] and [`Order::Serve`].
    Measured(Measured),
    /// To [`Order::Ceiling`], bytes a second.
    Ceiling {
        /// Reading.
        read_bytes_per_s: f64,
        /// Copying, read + write; `None` where it is not measured.
        copy_bytes_per_s: Option<f64>,
        /// Name of the device.
        device: String,
    },
    /// To [`Order::Quality`].
    Quality {
        /// Mean Kullback-Leibler divergence, nats.
        kl_mean_nats: f64,
        /// 95th percentile of it.
        kl_p95_nats: f64,
        /// Positions at which both choose the same token.
        same_top_ratio: f64,
        /// Mean bits a weight of the variant.
        bits_per_weight: f64,
    },
    /// To any order that could not be carried out.
    Failed {
        /// Why, in prose.
        reason: String,
    },
}
