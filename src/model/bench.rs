//! What `soakd bench` and `soakd load` measured, as plain facts. `None` is "not measured".

use super::time::UnixMillis;
use serde::{Deserialize, Serialize};

/// One bench or load test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchFacts {
    /// Row of the `bench` table.
    pub bench_id: i64,
    /// When it started.
    pub started: UnixMillis,
    /// Host name.
    pub host: String,
    /// `cpu` or `cuda`.
    pub backend: String,
    /// Product name of the GPU.
    pub device: Option<String>,
    /// Its driver.
    pub driver: Option<String>,
    /// Which model.
    pub model: String,
    /// Fastest read of memory seen in the same run, bytes per second.
    pub read_bytes_per_s: Option<f64>,
    /// Variants at one stream, fastest first.
    pub variants: Vec<VariantFacts>,
    /// Points of a load test, by variant and streams.
    pub points: Vec<LoadFacts>,
}

/// One variant at one stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VariantFacts {
    /// `q2_k`, `q4_k`, ...
    pub variant: String,
    /// Timed repetitions.
    pub repetitions: i64,
    /// Mean speed.
    pub tokens_per_s: f64,
    /// Its interval: 95 % from six repetitions on, with fewer the smallest and the largest.
    pub tokens_per_s_ci95: Option<[f64; 2]>,
    /// Mean time per token.
    pub token_mean_ms: f64,
    /// Its standard deviation.
    pub token_sd_ms: f64,
    /// Median time per token.
    pub token_p50_ms: f64,
    /// 95th percentile.
    pub token_p95_ms: f64,
    /// 99th percentile.
    pub token_p99_ms: f64,
    /// Weight bytes read for one token.
    pub weight_bytes_per_token: f64,
    /// All weight bytes.
    pub weight_bytes: f64,
    /// VRAM held.
    pub vram_bytes: Option<f64>,
    /// Perplexity on the bench's tokens.
    pub perplexity: Option<f64>,
    /// Kullback-Leibler divergence of the logits from the unquantised weights', nats.
    pub kl_nats: Option<f64>,
    /// The GPU after the first and the last repetition, degrees Celsius.
    pub temperature_celsius: Option<[i64; 2]>,
    /// What computed it.
    pub kernel: Option<String>,
}

/// One point of a load test, its repetitions put together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadFacts {
    /// Which variant.
    pub variant: String,
    /// `closed` or `poisson`.
    pub arrivals: String,
    /// Concurrent streams.
    pub streams: i64,
    /// Poisson only.
    pub offered_requests_per_s: Option<f64>,
    /// Repetitions.
    pub repetitions: i64,
    /// All streams together.
    pub tokens_per_s: f64,
    /// Against as many times one closed stream.
    pub scaling_efficiency: Option<f64>,
    /// Median time per token, the worst repetition's.
    pub token_p50_ms: f64,
    /// 95th percentile, likewise.
    pub token_p95_ms: f64,
    /// 99th percentile, likewise.
    pub token_p99_ms: f64,
    /// 95th percentile of the time to the first token.
    pub first_token_p95_ms: Option<f64>,
    /// Slowest stream's tokens over the fastest's.
    pub fairness_ratio: Option<f64>,
    /// Requests that failed.
    pub errors: i64,
    /// What computed it.
    pub kernel: Option<String>,
}

/// What someone expects of a variant: data that users replace with their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// Which variant.
    pub variant: String,
    /// Speed at one stream.
    pub tokens_per_s: f64,
    /// Memory, bytes.
    pub vram_bytes: f64,
}
