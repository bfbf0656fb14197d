//! A run as JSON for programs. The field names at the top level are a contract; new ones may be added.

use crate::model::facts::{LatencyFacts, ProcessFacts, RunFacts, SeriesFacts};
use crate::model::gate::GateResult;
use serde_json::{Map, Value, json};

/// The report as one JSON object. What was not measured is null, never zero.
#[must_use]
pub fn render(facts: &RunFacts, gates: &[GateResult]) -> Value {
    json!({
        "run": run(facts),
        "verdict": facts.verdict_now(),
        "verdict_reason": facts.verdict_reason,
        "standing": facts.standing(),
        "series": facts.series.iter().map(series).collect::<Vec<_>>(),
        "crashes": facts.crashes(),
        "hangs": facts.hangs(),
        "deaths": facts.deaths().into_iter().map(death).collect::<Vec<_>>(),
        "uptime_ratio": facts.uptime.ratio(),
        "uptime": facts.uptime,
        "throughput_tokens_per_s": facts.throughput.tokens_per_s,
        "tokens": facts.throughput.tokens,
        "requests": facts.throughput.requests,
        "requests_failed": facts.throughput.failures,
        "latency_ms": facts.latency("token").map(latency),
        "first_token_latency_ms": facts.latency("first_token").map(latency),
        "request_latency_ms": facts.latency("request").map(latency),
        "vram_bytes_max": facts.vram_bytes_max(),
        "golden_mismatches": facts.golden_mismatches,
        "golden_outputs": facts.golden_outputs,
        "empty_outputs": facts.empty_outputs,
        "gates": gates,
        "alerts": facts.alerts.iter().map(|a| json!({
            "rule": a.rule, "severity": a.severity, "state": a.state, "summary": a.summary,
            "active_unix_ms": a.active, "fired_unix_ms": a.fired, "resolved_unix_ms": a.resolved,
        })).collect::<Vec<_>>(),
        "alerts_firing": facts.alerts_firing().count(),
        "canary": facts.canary.as_ref().map(|c| json!({
            "planned": c.planned, "found": c.found.is_some(), "found_unix_ms": c.found, "missed": c.missed.is_some(),
            "finding": c.finding,
        })),
        "gaps": facts.gaps,
        "devices": facts.devices.iter().map(|d| json!({
            "ordinal": d.ordinal, "name": d.name, "driver": d.driver, "uuid": d.uuid,
            "vram_total_bytes": d.vram_total_bytes, "vram_used_bytes_max": d.vram_used_bytes_max,
            "ecc_uncorrected": d.ecc_uncorrected, "throttled_ratio": d.throttled_ratio,
        })).collect::<Vec<_>>(),
    })
}

fn run(facts: &RunFacts) -> Value {
    let plan = &facts.plan;
    json!({
        "run_id": facts.run_id, "state": facts.state, "host": plan.host, "backend": plan.backend, "model": plan.model,
        "variant": plan.variant, "streams": plan.streams, "scenario": plan.scenario, "seed": plan.seed,
        "started_unix_ms": plan.started, "ended_unix_ms": facts.ended, "last_seen_unix_ms": facts.last_seen,
        "planned_ms": plan.duration_ms, "elapsed_ms": facts.uptime.elapsed_ms, "horizon_ms": plan.horizon_ms,
        "tolerance_bytes": plan.tolerance_bytes, "soakd_version": facts.soakd_version, "host_facts": plan.facts,
    })
}

/// The fields of `soakd analyze`, and whose they are. A series without a finding has them as null.
fn series(s: &SeriesFacts) -> Value {
    let mut fields = Map::new();
    fields.insert("name".into(), json!(s.name));
    if let Some(command) = &s.command {
        fields.insert("command".into(), json!(command));
    }
    fields.insert("judged".into(), json!(s.judged));
    fields.insert("bytes_max".into(), json!(s.bytes_max));
    match &s.finding {
        Some(finding) => fields.extend(finding.fields()),
        None => {
            for name in ["verdict", "shape", "drift_bytes", "drift_ci95_bytes", "minimum_detectable_drift_bytes"] {
                fields.insert(name.into(), Value::Null);
            }
        }
    }
    fields.insert("is_final".into(), json!(s.found.map(|(_, is_final)| is_final)));
    Value::Object(fields)
}

fn latency(l: &LatencyFacts) -> Value {
    json!({"p50": l.p50_ms, "p95": l.p95_ms, "p99": l.p99_ms, "max": l.max_ms, "count": l.count})
}

fn death(p: &ProcessFacts) -> Value {
    json!({
        "process": p.name, "incarnation": p.incarnation, "pid": p.pid, "reason": p.end_reason, "exit_code": p.exit_code,
        "exit_signal": p.exit_signal, "started_unix_ms": p.started, "ended_unix_ms": p.ended,
        "heartbeat_unix_ms": p.heartbeat, "rss_bytes": p.rss_bytes_at_end, "anon_swap_bytes": p.anon_swap_bytes_at_end,
        "vram_bytes": p.vram_bytes_at_end, "stderr_tail": p.stderr_tail,
    })
}
