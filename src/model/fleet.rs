//! One host of a fleet, boiled down to what a page over a thousand hosts can say of it.

use super::finding::{Shape, Verdict};
use super::run::RunState;
use super::time::UnixMillis;
use serde::{Deserialize, Serialize};

/// The judged series that strays farthest from zero drift, with its interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorstSeries {
    /// Such as `worker-0.anon_swap`.
    pub name: String,
    /// What was said of it last.
    pub verdict: Verdict,
    /// The growth's shape.
    pub shape: Shape,
    /// Bytes over the horizon.
    pub drift_bytes: f64,
    /// 95 % interval of it.
    pub drift_ci95_bytes: [f64; 2],
}

/// The newest run of one database.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostSummary {
    /// The database's path, as given.
    pub file: String,
    /// Host name.
    pub host: String,
    /// Row of the `run` table.
    pub run: i64,
    /// When it started.
    pub started: UnixMillis,
    /// Where it stands.
    pub state: RunState,
    /// The run's verdict; while it goes on, the worst of its series'.
    pub verdict: Verdict,
    /// Only runs of the same work are compared: back end, model, variant, streams, scenario.
    pub work: String,
    /// Hours watched.
    pub watched_hours: f64,
    /// Share of the time that was watched.
    pub uptime_ratio: Option<f64>,
    /// Deaths of workers.
    pub crashes: i64,
    /// Workers that stopped answering.
    pub hangs: i64,
    /// Outputs that differed from the golden ones.
    pub golden_mismatches: i64,
    /// Alerts firing now.
    pub alerts_firing: i64,
    /// Mean over the run.
    pub throughput_tokens_per_s: Option<f64>,
    /// The median of the minutes' 95th percentiles.
    pub latency_p95_ms: Option<f64>,
    /// The most VRAM that any device held.
    pub vram_bytes_max: Option<i64>,
    /// The judged series that drifts most.
    pub worst: Option<WorstSeries>,
}

/// A figure in which one host differs from the others that do the same work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Index of the host.
    pub host: usize,
    /// Which figure.
    pub figure: String,
    /// This host's.
    pub value: f64,
    /// The median of its fellows, itself included.
    pub median: f64,
    /// Probability of a difference this large by chance, after accounting for every comparison made (Holm).
    pub p_adjusted: f64,
}

/// A database of which nothing could be said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    /// Its path, as given.
    pub file: String,
    /// Why, and what to do.
    pub why: String,
}

/// What a fleet report is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FleetFacts {
    /// When it was made.
    pub at: UnixMillis,
    /// One per database that could be read, worst first.
    pub hosts: Vec<HostSummary>,
    /// Who differs from the fleet, surest first.
    pub differences: Vec<Difference>,
    /// How many comparisons were made to find them.
    pub comparisons: usize,
    /// What could not be read.
    pub unreadable: Vec<Unreadable>,
}
