//! Judges gates by the facts of a run. Which gates there are is data; which figures they may name is here.

use super::scale::bytes;
use super::words;
use crate::model::bench::{BenchFacts, LoadFacts, VariantFacts};
use crate::model::facts::{RunFacts, SeriesFacts};
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
    /// SQL that gives it (or what it is computed from); `:run_id` stands for the run, `:bench_id` for the bench or load test.
    pub query: &'static str,
    /// Where it is read.
    read: Reading,
}

impl Metric {
    /// Whether a soak gives it, rather than a bench or a load test.
    #[must_use]
    pub fn is_of_a_run(&self) -> bool {
        matches!(self.read, Run(_))
    }
}

/// Where a figure is read; `None` if it was not measured.
#[derive(Debug, Clone, Copy)]
enum Reading {
    /// In a soak.
    Run(fn(&RunFacts) -> Option<f64>),
    /// In a bench of variants.
    Bench(fn(&BenchFacts) -> Option<f64>),
    /// At one level of concurrency of a load test.
    Load(fn(&LoadFacts) -> Option<f64>),
}
use Reading::{Bench, Load, Run};

/// What gates are judged by. A part that is missing was not measured.
#[derive(Debug, Clone, Copy, Default)]
pub struct Evidence<'a> {
    /// The soak.
    pub run: Option<&'a RunFacts>,
    /// Phase 1.
    pub bench: Option<&'a BenchFacts>,
    /// Phase 2.
    pub load: Option<&'a BenchFacts>,
}

/// A figure, and where it comes from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Found {
    /// The figure; `None` if not measured.
    pub value: Option<f64>,
    /// `run 3`, `bench 5`, `load test 6 (12 streams)`; empty if there is no such thing.
    pub source: String,
    /// SQL that gives it again.
    pub query: String,
}

impl Evidence<'_> {
    /// The figure of a metric; for one of the load test at `streams`, or at the most that were measured.
    #[must_use]
    pub fn find(&self, metric: &Metric, streams: Option<u32>) -> Found {
        match metric.read {
            Run(read) => self.run.map_or_else(Found::default, |run| Found {
                value: read(run).filter(|value| value.is_finite()),
                source: format!("run {}", run.run_id),
                query: metric.query.replace(":run_id", &run.run_id.to_string()),
            }),
            Bench(read) => self.bench.map_or_else(Found::default, |bench| Found {
                value: read(bench).filter(|value| value.is_finite()),
                source: format!("bench {}", bench.bench_id),
                query: metric.query.replace(":bench_id", &bench.bench_id.to_string()),
            }),
            Load(read) => self.load.map_or_else(Found::default, |load| {
                let point = level(load, streams);
                let at = point.map_or_else(String::new, |point| format!(" ({} streams)", point.streams));
                Found {
                    value: point.and_then(read).filter(|value| value.is_finite()),
                    source: format!("load test {}{at}", load.bench_id),
                    query: metric.query.replace(":bench_id", &load.bench_id.to_string()),
                }
            }),
        }
    }
}

/// The closed loop's point at `streams`, or at the most that were measured.
fn level(load: &BenchFacts, streams: Option<u32>) -> Option<&LoadFacts> {
    let closed = load.points.iter().filter(|point| point.arrivals == "closed");
    match streams {
        Some(streams) => closed.into_iter().find(|point| point.streams == i64::from(streams)),
        None => closed.max_by_key(|point| point.streams),
    }
}

macro_rules! latency {
    ($kind:literal, $field:ident) => {
        |f| f.latency($kind).map(|l| l.$field).filter(|v| v.is_finite())
    };
}

const LATENCY_QUERY: &str = "SELECT kind, sum(count), max(p95_us) / 1e3 AS worst_minute_p95_ms FROM latency JOIN process USING (process_id) WHERE run_id = :run_id GROUP BY kind";
const DEATHS_QUERY: &str = "SELECT * FROM v_crashes WHERE run_id = :run_id";
const BENCH_QUERY: &str = "SELECT * FROM v_bench WHERE bench_id = :bench_id";
const LOAD_QUERY: &str = "SELECT * FROM v_load WHERE bench_id = :bench_id";
const DRIFT_QUERY: &str = "SELECT * FROM v_drift WHERE run_id = :run_id";

/// Every figure that a gate on a run may name.
pub const METRICS: &[Metric] = &[
    Metric {
        name: "token_p50_ms",
        measure: Measure::Millis,
        meaning: "median time from one token to the next",
        query: LATENCY_QUERY,
        read: Run(latency!("token", p50_ms)),
    },
    Metric {
        name: "token_p95_ms",
        measure: Measure::Millis,
        meaning: "95th percentile of the time from one token to the next",
        query: LATENCY_QUERY,
        read: Run(latency!("token", p95_ms)),
    },
    Metric {
        name: "token_p99_ms",
        measure: Measure::Millis,
        meaning: "99th percentile of the time from one token to the next",
        query: LATENCY_QUERY,
        read: Run(latency!("token", p99_ms)),
    },
    Metric {
        name: "first_token_p95_ms",
        measure: Measure::Millis,
        meaning: "95th percentile of the time to the first token",
        query: LATENCY_QUERY,
        read: Run(latency!("first_token", p95_ms)),
    },
    Metric {
        name: "request_p95_ms",
        measure: Measure::Millis,
        meaning: "95th percentile of the time of a whole request",
        query: LATENCY_QUERY,
        read: Run(latency!("request", p95_ms)),
    },
    Metric {
        name: "throughput_tokens_per_s",
        measure: Measure::TokensPerSecond,
        meaning: "tokens over the time in which workers served",
        query: "SELECT avg(tokens_per_s) FROM v_throughput WHERE run_id = :run_id",
        read: Run(|f| f.throughput.tokens_per_s),
    },
    Metric {
        name: "crashes",
        measure: Measure::Count,
        meaning: "deaths unasked of what is soaked",
        query: DEATHS_QUERY,
        read: Run(|f| watched(f).then(|| f.crashes() as f64)),
    },
    Metric {
        name: "hangs",
        measure: Measure::Count,
        meaning: "times that what is soaked stopped answering",
        query: DEATHS_QUERY,
        read: Run(|f| watched(f).then(|| f.hangs() as f64)),
    },
    Metric {
        name: "golden_mismatches",
        measure: Measure::Count,
        meaning: "outputs that differed from the golden ones",
        query: "SELECT golden_mismatches FROM v_runs WHERE run_id = :run_id",
        read: Run(|f| (f.golden_outputs > 0).then_some(f.golden_mismatches as f64)),
    },
    Metric {
        name: "requests_failed",
        measure: Measure::Count,
        meaning: "requests to a target that failed, answers without a token among them",
        query: "SELECT process, incarnation, max(failures) FROM v_throughput WHERE run_id = :run_id GROUP BY 1, 2",
        read: Run(|f| watched(f).then_some(f.throughput.failures as f64)),
    },
    Metric {
        name: "drift_bytes",
        measure: Measure::Bytes,
        meaning: "the far end of the widest 95 % interval of drift over the horizon, without its sign, of all judged series",
        query: DRIFT_QUERY,
        read: Run(drift),
    },
    Metric {
        name: "minimum_detectable_drift_bytes",
        measure: Measure::Bytes,
        meaning: "the smallest drift that the run could tell in every judged series",
        query: DRIFT_QUERY,
        read: Run(detectable),
    },
    Metric {
        name: "uptime_ratio",
        measure: Measure::Ratio,
        meaning: "share of the time in which soakd watched and every worker served",
        query: "SELECT * FROM v_uptime WHERE run_id = :run_id",
        read: Run(|f| watched(f).then(|| f.uptime.ratio()).flatten()),
    },
    Metric {
        name: "duration_hours",
        measure: Measure::Hours,
        meaning: "hours from start to end",
        query: "SELECT span_hours FROM v_uptime WHERE run_id = :run_id",
        read: Run(|f| Some(f.uptime.elapsed_ms as f64 / 3.6e6)),
    },
    Metric {
        name: "vram_bytes_max",
        measure: Measure::Bytes,
        meaning: "largest use of VRAM",
        query: "SELECT gpu, max(vram_used_mb_max) FROM v_gpus WHERE run_id = :run_id GROUP BY gpu",
        read: Run(RunFacts::vram_bytes_max),
    },
    Metric {
        name: "canary_found",
        measure: Measure::Count,
        meaning: "1 if the leak on purpose was caught, 0 if it was missed",
        query: "SELECT at, kind FROM v_events WHERE run_id = :run_id AND kind LIKE 'canary%'",
        read: Run(canary),
    },
    Metric {
        name: "bench_variants",
        measure: Measure::Count,
        meaning: "variants that were measured side by side, each repeatedly",
        query: BENCH_QUERY,
        read: Bench(|b| Some(b.variants.iter().filter(|v| v.repetitions > 1).count() as f64)),
    },
    Metric {
        name: "bench_peak_tokens_per_s",
        measure: Measure::TokensPerSecond,
        meaning: "tokens per second of the fastest variant",
        query: BENCH_QUERY,
        read: Bench(|b| peak(b).map(|v| v.tokens_per_s)),
    },
    Metric {
        name: "load_tokens_per_s",
        measure: Measure::TokensPerSecond,
        meaning: "tokens per second of all streams together, closed loop",
        query: LOAD_QUERY,
        read: Load(|p| Some(p.tokens_per_s)),
    },
    Metric {
        name: "load_scaling_efficiency",
        measure: Measure::Ratio,
        meaning: "tokens per second over streams times those of one stream",
        query: LOAD_QUERY,
        read: Load(|p| p.scaling_efficiency),
    },
    Metric {
        name: "load_token_p50_ms",
        measure: Measure::Millis,
        meaning: "median time from one token to the next under load",
        query: LOAD_QUERY,
        read: Load(|p| Some(p.token_p50_ms)),
    },
    Metric {
        name: "load_token_p95_ms",
        measure: Measure::Millis,
        meaning: "95th percentile of the time from one token to the next under load",
        query: LOAD_QUERY,
        read: Load(|p| Some(p.token_p95_ms)),
    },
    Metric {
        name: "load_token_p99_ms",
        measure: Measure::Millis,
        meaning: "99th percentile of the time from one token to the next under load",
        query: LOAD_QUERY,
        read: Load(|p| Some(p.token_p99_ms)),
    },
    Metric {
        name: "load_errors",
        measure: Measure::Count,
        meaning: "requests that failed under load",
        query: LOAD_QUERY,
        read: Load(|p| Some(p.errors as f64)),
    },
];

/// The figure of that name.
#[must_use]
pub fn metric(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|m| m.name == name)
}

/// The figure of a run; `None` if not measured, or not a run's.
#[must_use]
pub fn read(metric: &Metric, facts: &RunFacts) -> Option<f64> {
    Evidence { run: Some(facts), ..Evidence::default() }.find(metric, None).value
}

/// The fastest variant.
fn peak(bench: &BenchFacts) -> Option<&VariantFacts> {
    bench.variants.iter().max_by(|a, b| a.tokens_per_s.total_cmp(&b.tokens_per_s))
}

fn watched(facts: &RunFacts) -> bool {
    facts.uptime.elapsed_ms > facts.uptime.unwatched_ms
}

fn drift(facts: &RunFacts) -> Option<f64> {
    let known = |s: &SeriesFacts| s.finding.as_ref().filter(|f| f.drift_is_known()).map(|f| f.drift_ci95_bytes);
    let mut ends = facts.series.iter().filter(|s| s.judged).map(known);
    ends.try_fold(None, |worst: Option<f64>, interval| {
        let [lo, hi] = interval?;
        Some(Some(worst.unwrap_or(0.0).max(lo.abs()).max(hi.abs())))
    })?
}

fn detectable(facts: &RunFacts) -> Option<f64> {
    let known =
        |s: &SeriesFacts| s.finding.as_ref().filter(|f| f.drift_is_known()).map(|f| f.minimum_detectable_drift_bytes);
    let mut all = facts.series.iter().filter(|s| s.judged).map(known);
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

/// Judges `gates` by what was measured.
#[must_use]
pub fn judge(evidence: &Evidence<'_>, gates: &[Gate]) -> Vec<GateResult> {
    gates.iter().map(|gate| judge_one(evidence, gate)).collect()
}

fn judge_one(evidence: &Evidence<'_>, gate: &Gate) -> GateResult {
    let known = metric(&gate.metric);
    let found = known.map(|m| evidence.find(m, gate.streams)).unwrap_or_default();
    let margin = found.value.and_then(|value| margin(gate, value));
    let (outcome, note) = outcome(evidence, gate, &found, margin);
    GateResult {
        gate: gate.clone(),
        measured: found.value,
        margin,
        outcome,
        evidence: if found.value.is_some() { found.source } else { String::new() },
        query: found.query,
        note,
    }
}

/// How it was met, and one sentence where there is more to say.
fn outcome(evidence: &Evidence<'_>, gate: &Gate, found: &Found, margin: Option<f64>) -> (GateOutcome, String) {
    let undecided = || evidence.run.is_some_and(|run| run.verdict_now() != Verdict::Outside);
    match margin {
        None if found.source.is_empty() => {
            (GateOutcome::NotMeasured, format!("{} was not measured: {}", gate.metric, todo(gate)))
        }
        None if gate.metric == "drift_bytes" => {
            (GateOutcome::Inconclusive, "too little was seen to state the drift of every judged series".into())
        }
        None => (GateOutcome::NotMeasured, format!("no {} in {}", gate.metric, found.source)),
        Some(m) if m >= 0.0 => {
            let named = if gate.metric == "bench_peak_tokens_per_s" { evidence.bench.and_then(peak) } else { None };
            (GateOutcome::Pass, named.map_or_else(String::new, |v| format!("peak variant: {}", v.variant)))
        }
        Some(_) if gate.metric == "drift_bytes" && undecided() => (
            GateOutcome::Inconclusive,
            "the interval reaches beyond the bound: the run was too short, or too noisy, to rule such a drift out"
                .into(),
        ),
        Some(_) => {
            let promised = metric(&gate.metric)
                .is_some_and(|m| m.measure != Measure::Count && m.name != "drift_bytes" && m.name != "duration_hours");
            let supported = found.value.filter(|_| promised);
            let note = supported.map_or_else(String::new, |v| {
                format!("unrealistic on this evidence, which supports {}", write_for(gate, v))
            });
            (GateOutcome::Fail, note)
        }
    }
}

/// The command that measures a gate's figure.
fn todo(gate: &Gate) -> &'static str {
    match metric(&gate.metric).map(|m| m.read) {
        Some(Bench(_)) => "`soakd bench` measures it",
        Some(Load(_)) => "`soakd load` measures it",
        _ => "`soakd run` measures it",
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

/// A value of a figure as people read it.
#[must_use]
pub fn write(metric: &Metric, value: f64) -> String {
    match metric.measure {
        Measure::Bytes => bytes(value),
        Measure::Millis => format!("{value:.1} ms"),
        Measure::Ratio => words::percent(value),
        Measure::TokensPerSecond => format!("{value:.1} tokens/s"),
        Measure::Hours => format!("{value:.1} h"),
        Measure::Count => format!("{value:.0}"),
    }
}

/// Likewise of a gate's figure, which may be one that is not known.
fn write_for(gate: &Gate, value: f64) -> String {
    metric(&gate.metric).map_or_else(|| format!("{value}"), |m| write(m, value))
}

/// Measured, bound and margin as people read them.
#[must_use]
pub fn written(result: &GateResult) -> (String, String, String) {
    let gate = &result.gate;
    let bound = match (gate.at_least, gate.at_most) {
        (Some(lo), Some(hi)) => format!("{} to {}", write_for(gate, lo), write_for(gate, hi)),
        (Some(lo), None) => format!("≥ {}", write_for(gate, lo)),
        (None, Some(hi)) => format!("≤ {}", write_for(gate, hi)),
        (None, None) => "no bound".into(),
    };
    let measured = result.measured.map_or_else(|| "not measured".into(), |v| write_for(gate, v));
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
    write_for(gate, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench() -> BenchFacts {
        let variant = |name: &str, tokens_per_s| VariantFacts {
            variant: name.into(),
            repetitions: 6,
            tokens_per_s,
            tokens_per_s_ci95: None,
            token_mean_ms: 1.0,
            token_sd_ms: 0.1,
            token_p50_ms: 1.0,
            token_p95_ms: 1.1,
            token_p99_ms: 1.2,
            weight_bytes_per_token: 1e9,
            weight_bytes: 1e9,
            vram_bytes: None,
            perplexity: None,
            kl_nats: None,
            temperature_celsius: None,
            kernel: None,
        };
        let point = |arrivals: &str, streams, tokens_per_s| LoadFacts {
            variant: "q4_k".into(),
            arrivals: arrivals.into(),
            streams,
            offered_requests_per_s: None,
            repetitions: 3,
            tokens_per_s,
            scaling_efficiency: Some(0.7),
            token_p50_ms: 5.0,
            token_p95_ms: 6.0,
            token_p99_ms: 7.0,
            first_token_p95_ms: None,
            fairness_ratio: None,
            errors: 0,
            kernel: None,
        };
        BenchFacts {
            bench_id: 4,
            started: crate::model::time::UnixMillis(0),
            host: "gpu7".into(),
            backend: "cuda".into(),
            device: None,
            driver: None,
            model: "synthetic:22b".into(),
            read_bytes_per_s: None,
            variants: vec![variant("q2_k", 90.0), variant("q4_k", 120.0)],
            points: vec![point("closed", 1, 100.0), point("closed", 12, 840.0), point("poisson", 16, 10.0)],
        }
    }

    #[test]
    fn a_gate_says_where_its_figure_is_from_what_it_supports_and_what_would_measure_it() {
        let bench = bench();
        let evidence = Evidence { run: None, bench: Some(&bench), load: Some(&bench) };
        for (metric, bound, outcome, evidence_says, note_says) in [
            ("bench_peak_tokens_per_s", ">= 75", GateOutcome::Pass, "bench 4", "peak variant: q4_k"),
            ("bench_variants", ">= 6", GateOutcome::Fail, "bench 4", ""),
            ("load_tokens_per_s", ">= 800", GateOutcome::Pass, "load test 4 (12 streams)", ""),
            (
                "load_tokens_per_s",
                ">= 800 at 1 streams",
                GateOutcome::Fail,
                "load test 4 (1 streams)",
                "supports 100.0",
            ),
            ("load_scaling_efficiency", ">= 0.75 at 12 streams", GateOutcome::Fail, "load test 4", "supports 70"),
            ("load_token_p95_ms", "<= 50 at 8 streams", GateOutcome::NotMeasured, "", "no load_token_p95_ms"),
            ("crashes", "<= 0", GateOutcome::NotMeasured, "", "`soakd run` measures it"),
        ] {
            let gate = Gate::of_bound(metric, bound).expect("a bound");
            let result = judge(&evidence, &[gate]).remove(0);
            assert_eq!(result.outcome, outcome, "{metric} {bound}: {result:?}");
            assert!(result.evidence.starts_with(evidence_says), "{metric} {bound}: {result:?}");
            assert!(result.note.contains(note_says), "{metric} {bound}: {result:?}");
        }
    }
}
