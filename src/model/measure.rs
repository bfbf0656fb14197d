//! What phases 1 and 2 measure while they measure it: benches, their cells, and what a variant costs in precision. What is
//! read again from the database for documents and gates is in `bench`.

use super::time::UnixMillis;
use serde::{Deserialize, Serialize};

/// Which phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BenchKind {
    /// Variants side by side.
    Bench,
    /// Concurrency.
    Load,
}

impl BenchKind {
    /// The `kind` column.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            BenchKind::Bench => "bench",
            BenchKind::Load => "load",
        }
    }
}

/// A bench as it is begun.
#[derive(Debug, Clone, PartialEq)]
pub struct NewBench {
    /// Which phase.
    pub kind: BenchKind,
    /// When.
    pub started: UnixMillis,
    /// Everything that was asked for, as JSON; a bench is resumed only by the same.
    pub settings: String,
    /// `cpu` or `cuda`.
    pub backend: String,
    /// Name of the processor or GPU.
    pub device: String,
    /// Seed of the weights.
    pub seed: u64,
    /// Context that each stream has room for, tokens.
    pub context_tokens: usize,
    /// The model asked for.
    pub model: String,
    /// Host name.
    pub host: String,
    /// The GPU's driver.
    pub driver: Option<String>,
    /// Bytes a second that reading this memory gives.
    pub read_ceiling_bytes_per_s: Option<f64>,
    /// Bytes a second that copying gives, read + write.
    pub copy_bytes_per_s: Option<f64>,
}

/// One repetition of one measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct BenchCell {
    /// Variant.
    pub variant: String,
    /// Streams.
    pub streams: usize,
    /// Open loop: arrivals a second.
    pub arrivals_per_s: Option<f64>,
    /// Its place among the measurements of its kind (bench: of the whole bench; load: of its variant, arrivals and streams).
    pub sequence: u32,
    /// When it began.
    pub at: UnixMillis,
    /// How long it took, microseconds.
    pub took_us: i64,
    /// Tokens decoded.
    pub tokens: u64,
    /// Requests finished.
    pub requests: u64,
    /// Tokens a second, all streams together.
    pub tokens_per_s: f64,
    /// All weight bytes.
    pub weight_bytes: u64,
    /// Weight bytes read to decode one token at one stream.
    pub weight_bytes_per_token: u64,
    /// Host bytes the engine held.
    pub held_host_bytes: u64,
    /// Device bytes it held.
    pub held_device_bytes: Option<u64>,
    /// What computed it, if that is known.
    pub kernel: Option<String>,
    /// The GPU right after it.
    pub temperature_celsius: Option<i64>,
    /// Likewise.
    pub sm_clock_mhz: Option<i64>,
    /// Latency of tokens, microseconds: HDR histogram, V2.
    pub token_histogram: Vec<u8>,
    /// Time to first token, likewise.
    pub first_token_histogram: Option<Vec<u8>>,
    /// The slowest stream's tokens over the fastest's.
    pub fairness: Option<f64>,
    /// Context lengths at which decoding was measured, and the median step at the long one.
    pub long_context: Option<LongContext>,
}

/// Decoding with a long context beside the short one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongContext {
    /// Tokens in the context of the cell's own figures, on average.
    pub short_tokens: u32,
    /// Tokens in the long one.
    pub long_tokens: u32,
    /// Median step with the long one.
    pub step_us: i64,
}

/// What a variant costs in precision.
#[derive(Debug, Clone, PartialEq)]
pub struct BenchQuality {
    /// Variant.
    pub variant: String,
    /// Whose weights.
    pub reference: String,
    /// Positions compared.
    pub positions: usize,
    /// Mean Kullback-Leibler divergence, nats.
    pub kl_mean_nats: f64,
    /// 95th percentile.
    pub kl_p95_nats: f64,
    /// Share of positions at which both choose the same token.
    pub same_top_ratio: f64,
    /// Mean bits a weight.
    pub bits_per_weight: f64,
}

/// A value with an interval around it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The sample's own.
    pub value: f64,
    /// Lower end.
    pub lo: f64,
    /// Upper end.
    pub hi: f64,
    /// Probability that the interval holds the true value: 0.95, or less where there were too few values.
    pub confidence: f64,
}

/// A variant, summed up over its repetitions.
#[derive(Debug, Clone, PartialEq)]
pub struct VariantRow {
    /// Variant.
    pub variant: String,
    /// Repetitions.
    pub repetitions: usize,
    /// All weight bytes.
    pub weight_bytes: u64,
    /// Weight bytes read to decode one token.
    pub weight_bytes_per_token: u64,
    /// Bytes that the engine held: on the device, or on the CPU in host memory.
    pub held_bytes: u64,
    /// Median over repetitions.
    pub tokens_per_s: Estimate,
    /// Milliseconds a step: mean, standard deviation, p50, p95, p99 over all repetitions.
    pub step_ms: [f64; 5],
    /// Milliseconds that attention adds for each 1000 tokens of context; `None`: not measured.
    pub attention_ms_per_1000_tokens: Option<f64>,
    /// Milliseconds of attention at the context of the measurement.
    pub attention_ms: Option<f64>,
    /// Precision.
    pub quality: Option<BenchQuality>,
    /// The GPU after the first and after the last repetition, degrees Celsius.
    pub temperature_celsius: Option<[i64; 2]>,
    /// What computed it, if that is known; several if it changed under way.
    pub kernel: Option<String>,
}

/// A level of concurrency, summed up over its repetitions. Times are milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadRow {
    /// Streams.
    pub streams: usize,
    /// Open loop: arrivals a second.
    pub arrivals_per_s: Option<f64>,
    /// Repetitions.
    pub repetitions: usize,
    /// All streams together; median over repetitions.
    pub tokens_per_s: Estimate,
    /// Aggregate over streams × one stream; `None` in the open loop.
    pub efficiency: Option<Estimate>,
    /// p50, p95, p99 of tokens, from the merged histograms.
    pub token_ms: [f64; 3],
    /// p50, p95, p99 of first tokens, waiting counted.
    pub first_token_ms: [f64; 3],
    /// The slowest stream's tokens over the fastest's, in the worst repetition.
    pub fairness: Option<f64>,
}
