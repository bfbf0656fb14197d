//! Judges gates by the facts of a run. Which gates there are is data; which figures they may name is here.

use super::scale::bytes;
use super::words;
use crate::model::facts::RunFacts;
use crate::model::finding::Verdict;
use crate::model::gate::{Gate, GateOutcome, GateResult};

/// How a figure is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Bytes.
    Bytes,
    /// Milliseconds.
    Millis,
    /// A share of one.
    Ratio,
    /// Tokens per second.
    TokensPerSecond,
    /// Hours.
    Hours,
    /// A count.
    Count,
}

/// A figure that gates may name.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// As in the gate's `metric`.
    pub name: &'static str,
    /// How it is written.
    pub measure: Measure,
    /// What it is, for people who write gates.
    pub meaning: &'static str,
    /// SQL that gives it (or what it is computed from); `:run_id` stands for the run.
    pub query: &'static str,
    /// The figure; `None` if not measured.
    read: fn(&RunFacts) -> Option<f64>,
}

macro_rules! latency {
    ($kind:literal, $field:ident) => {
        |f| f.latency($kind).map(|l| l.$field).filter(|v| v.is_finite())
    };
}

const LATENCY_QUERY: &str = "SELECT kind, sum(count), max(p95_us) / 1e3 AS worst_minute_p95_ms FROM latency JOIN process USING (process_id) WHERE run_id = :run_id GROUP BY kind";
const DEATHS_QUERY: &str = "SELECT * FROM v_crashes WHERE run_id = :run_id";
const DRIFT_QUERY: &str = "SELECT * FROM v_drift WHERE run_id = :run_id";

/// Every figure that a gate on a run may name.
pub const METRICS: &[Metric] = &[
    Metric {
        name: "token_p50_ms",
        measure: Measure::Millis,
        meaning: "median time from one token to the next",
        query: LATENCY_QUERY,
        read: latency!("token", p50_ms),
    },
    Metric {
        name: "token_p95_ms",
        measure: Measure::Millis,
        meaning: "95th percentile of the time from one token to the next",
        query: LATENCY_QUERY,
        read: latency!("token", p95_ms),
    },
    Metric {
        name: "token_p99_ms",
        measure: Measure::Millis,
        meaning: "99th percentile of the time from one token to the next",
        query: LATENCY_QUERY,
        read: latency!("token", p99_ms),
    },
    Metric {
        name: "first_token_p95_ms",
        measure: Measure::Millis,
        meaning: "95th percentile of the time to the first token",
        query: LATENCY_QUERY,
        read: latency!("first_token", p95_ms),
    },
    Metric {
        name: "request_p95_ms",
        measure: Measure::Millis,
        meaning: "95th percentile of the time of a whole request",
        query: LATENCY_QUERY,
        read: latency!("request", p95_ms),
    },
    Metric {
        name: "throughput_tokens_per_s",
        measure: Measure::TokensPerSecond,
        meaning: "tokens over the time in which workers served",
        query: "SELECT avg(tokens_per_s) FROM v_throughput WHERE run_id = :run_id",
        read: |f| f.throughput.tokens_per_s,
    },
    Metric {
        name: "crashes",
        measure: Measure::Count,
        meaning: "deaths unasked of what is soaked",
        query: DEATHS_QUERY,
        read: |f| watched(f).then(|| f.crashes() as f64),
    },
    Metric {
        name: "hangs",
        measure: Measure::Count,
        meaning: "times that what is soaked stopped answering",
        query: DEATHS_QUERY,
        read: |f| watched(f).then(|| f.hangs() as f64),
    },
    Metric {
        name: "golden_mismatches",
        measure: Measure::Count,
        meaning: "outputs that differed from the golden ones",
        query: "SELECT count(*) FROM event WHERE run_id = :run_id AND kind = 'golden_mismatch'",
        read: |f| (f.golden_outputs > 0).then_some(f.golden_mismatches as f64),
    },
    Metric {
        name: "drift_bytes",
        measure: Measure::Bytes,
        meaning: "the far end of the widest 95 % interval of drift over the horizon, without its sign, of all judged series",
        query: DRIFT_QUERY,
        read: drift,
    },
    Metric {
        name: "minimum_detectable_drift_bytes",
        measure: Measure::Bytes,
        meaning: "the smallest drift that the run could tell in every judged series",
        query: DRIFT_QUERY,
        read: detectable,
    },
    Metric {
        name: "uptime_ratio",
        measure: Measure::Ratio,
        meaning: "share of the time in which soakd watched and every worker served",
        query: "SELECT * FROM v_uptime WHERE run_id = :run_id",
        read: |f| watched(f).then(|| f.uptime.ratio()).flatten(),
    },
    Metric {
        name: "duration_hours",
        measure: Measure::Hours,
        meaning: "hours from start to end",
        query: "SELECT span_hours FROM v_uptime WHERE run_id = :run_id",
        read: |f| Some(f.uptime.elapsed_ms as f64 / 3.6e6),
    },
    Metric {
        name: "vram_bytes_max",
        measure: Measure::Bytes,
        meaning: "largest use of VRAM",
        query: "SELECT gpu, max(vram_used_mb_max) FROM v_gpus WHERE run_id = :run_id GROUP BY gpu",
        read: RunFacts::vram_bytes_max,
    },
    Metric {
        name: "canary_found",
        measure: Measure::Count,
        meaning: "1 if the leak on purpose was caught, 0 if it was missed",
        query: "SELECT at, kind FROM v_events WHERE run_id = :run_id AND kind LIKE 'canary%'",
        read: canary,
    },
];

/// The figure of that name.
#[must_use]
pub fn metric(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|m| m.name == name)
}

/// The figure of a run; `None` if not measured.
#[must_use]
pub fn read(metric: &Metric, facts: &RunFacts) -> Option<f64> {
    (metric.read)(facts)
}

fn watched(facts: &RunFacts) -> bool {
    facts.uptime.elapsed_ms > facts.uptime.unwatched_ms
}

fn drift(facts: &RunFacts) -> Option<f64> {
    let mut ends = facts.series.iter().filter(|s| s.judged).map(|s| s.finding.as_ref().map(|f| f.drift_ci95_bytes));
    ends.try_fold(None, |worst: Option<f64>, interval| {
        let [lo, hi] = interval?;
        Some(Some(worst.unwrap_or(0.0).max(lo.abs()).max(hi.abs())))
    })?
}

fn detectable(facts: &RunFacts) -> Option<f64> {
    let mut all =
        facts.series.iter().filter(|s| s.judged).map(|s| Some(s.finding.as_ref()?.minimum_detectable_drift_bytes));
    all.try_fold(None, |worst: Option<f64>, one| Some(Some(worst.unwrap_or(0.0).max(one?))))?
}

fn canary(facts: &RunFacts) -> Option<f64> {
    let canary = facts.canary.as_ref()?;
    match (canary.found, canary.missed) {
        (Some(_), _) => Some(1.0),
        (None, Some(_)) => Some(0.0),
        (None, None) => None,
    }
}

/// Judges `gates` by one run.
#[must_use]
pub fn judge(facts: &RunFacts, gates: &[Gate]) -> Vec<GateResult> {
    gates.iter().map(|gate| judge_one(facts, gate)).collect()
}

fn judge_one(facts: &RunFacts, gate: &Gate) -> GateResult {
    let known = metric(&gate.metric);
    let measured = known.and_then(|m| (m.read)(facts));
    let margin = measured.and_then(|value| margin(gate, value));
    let mut note = String::new();
    let outcome = match margin {
        None => {
            note = format!("no {} in run {}", gate.metric, facts.run_id);
            GateOutcome::NotMeasured
        }
        Some(m) if m >= 0.0 => GateOutcome::Pass,
        Some(_) if gate.metric == "drift_bytes" && facts.verdict_now() != Verdict::Outside => {
            note =
                "the interval reaches beyond the bound: the run was too short, or too noisy, to rule such a drift out"
                    .into();
            GateOutcome::Inconclusive
        }
        Some(_) => {
            let promised = known
                .is_some_and(|m| m.measure != Measure::Count && m.name != "drift_bytes" && m.name != "duration_hours");
            if let Some(value) = measured.filter(|_| promised) {
                note = format!("unrealistic on this evidence, which supports {}", write(gate, value));
            }
            GateOutcome::Fail
        }
    };
    GateResult {
        gate: gate.clone(),
        measured,
        margin,
        outcome,
        evidence: if measured.is_some() { format!("run {}", facts.run_id) } else { String::new() },
        query: known.map_or_else(String::new, |m| m.query.replace(":run_id", &facts.run_id.to_string())),
        note,
    }
}

/// How far inside its bounds a value lies: the nearer one counts. `None` for a gate without a bound.
#[must_use]
pub fn margin(gate: &Gate, value: f64) -> Option<f64> {
    let below = gate.at_most.map(|bound| bound - value);
    let above = gate.at_least.map(|bound| value - bound);
    match (below, above) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

/// A value of the gate's figure as people read it.
#[must_use]
pub fn write(gate: &Gate, value: f64) -> String {
    match metric(&gate.metric).map(|m| m.measure) {
        Some(Measure::Bytes) => bytes(value),
        Some(Measure::Millis) => format!("{value:.1} ms"),
        Some(Measure::Ratio) => words::percent(value),
        Some(Measure::TokensPerSecond) => format!("{value:.1} tokens/s"),
        Some(Measure::Hours) => format!("{value:.1} h"),
        Some(Measure::Count) => format!("{value:.0}"),
        None => format!("{value}"),
    }
}

/// Measured, bound and margin as people read them.
#[must_use]
pub fn written(result: &GateResult) -> (String, String, String) {
    let gate = &result.gate;
    let bound = match (gate.at_least, gate.at_most) {
        (Some(lo), Some(hi)) => format!("{} to {}", write(gate, lo), write(gate, hi)),
        (Some(lo), None) => format!("≥ {}", write(gate, lo)),
        (None, Some(hi)) => format!("≤ {}", write(gate, hi)),
        (None, None) => "no bound".into(),
    };
    let measured = result.measured.map_or_else(|| "not measured".into(), |v| write(gate, v));
    let margin = result.margin.map_or_else(
        || "-".into(),
        |m| if m < 0.0 { format!("−{}", write_margin(gate, -m)) } else { write_margin(gate, m) },
    );
    (measured, bound, margin)
}

fn write_margin(gate: &Gate, value: f64) -> String {
    if metric(&gate.metric).map(|m| m.measure) == Some(Measure::Ratio) {
        return format!("{:.2} points", value * 100.0);
    }
    write(gate, value)
}
