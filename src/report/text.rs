//! A run as text for terminals: verdict first, then what it rests on. No colours; a caller may add them.

use super::scale::{Unit, bytes, duration, moment, signed_bytes};
use super::words;
use super::{plot, term};
use crate::model::event::EventSeverity;
use crate::model::facts::RunFacts;
use crate::model::gate::GateResult;
use std::fmt::Write;

/// The report, at most about `width` characters wide.
#[must_use]
pub fn render(facts: &RunFacts, gates: &[GateResult], width: usize) -> String {
    let mut out = String::new();
    heading(&mut out, facts);
    series(&mut out, facts, width);
    figures(&mut out, facts);
    deaths(&mut out, facts);
    alerts(&mut out, facts);
    out.push_str(&gate_table(gates));
    out
}

fn heading(out: &mut String, facts: &RunFacts) {
    let _ = writeln!(out, "{}  run {} on {}", words::standing_word(facts.standing()), facts.run_id, facts.plan.host);
    let _ = writeln!(out, "{}", words::why(facts));
    if let Some(reason) = facts.verdict_reason.as_deref().filter(|r| !r.is_empty()) {
        let _ = writeln!(out, "As recorded: {reason}");
    }
    let _ = writeln!(out, "\n{}", words::subject(facts));
    let _ = writeln!(
        out,
        "{}, from {} to {}\n",
        words::served(facts),
        moment(facts.plan.started.seconds()),
        moment(facts.last_seen.seconds())
    );
}

fn series(out: &mut String, facts: &RunFacts, width: usize) {
    let named = facts.series.iter().map(|s| s.title().chars().count()).max().unwrap_or(0).max(6);
    if facts.series.is_empty() {
        out.push_str("No memory series has been judged yet.\n\n");
        return;
    }
    let tolerance = bytes(facts.plan.tolerance_bytes as f64);
    let _ = writeln!(out, "Drift over {} (tolerance ±{tolerance})", words::horizon(facts));
    let _ = writeln!(
        out,
        "{:named$}  {:12}  {:>10}  {:>26}  {:>10}  shape",
        "series", "verdict", "drift", "95 % interval", "detectable"
    );
    for s in &facts.series {
        let note = if s.judged { "" } else { "  (shown, not judged)" };
        let Some(f) = &s.finding else {
            let _ = writeln!(out, "{:named$}  {:12}{note}", s.title(), "not judged");
            continue;
        };
        let [lo, hi] = f.drift_ci95_bytes;
        let interval = if lo.is_finite() && hi.is_finite() {
            format!("{} to {}", signed_bytes(lo), signed_bytes(hi))
        } else {
            "none yet".into()
        };
        let detectable = if f.minimum_detectable_drift_bytes.is_finite() {
            bytes(f.minimum_detectable_drift_bytes)
        } else {
            "-".into()
        };
        let _ = writeln!(
            out,
            "{:named$}  {:12}  {:>10}  {interval:>26}  {detectable:>10}  {}{note}",
            s.title(),
            f.verdict.as_str(),
            words::drift(f),
            f.shape.as_str().replace('_', " "),
        );
    }
    out.push('\n');
    let judged: Vec<_> = facts.series.iter().filter(|s| s.judged).collect();
    if let Some(worst) = words::worst(&judged).filter(|s| s.columns.len() > 2) {
        let _ = writeln!(out, "{}", worst.title());
        out.push_str(&term::plot(&worst.columns, Unit::Bytes, width, 8));
        out.push('\n');
    }
}

fn figures(out: &mut String, facts: &RunFacts) {
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:19}  {value}");
    };
    line("crashes, hangs", format!("{}, {}", facts.crashes(), facts.hangs()));
    line("uptime", facts.uptime.ratio().map_or("not measured".into(), words::percent));
    line(
        "tokens",
        facts
            .throughput
            .tokens_per_s
            .map_or("not measured".into(), |r| format!("{} ({r:.2} tokens/s)", facts.throughput.tokens)),
    );
    if facts.throughput.failures > 0 {
        let work = &facts.throughput;
        line("requests", format!("{} answered, {} failed", work.requests, work.failures));
    }
    for l in &facts.latencies {
        let name = l.kind.replace('_', " ");
        line(&format!("{name} latency"), {
            let [p50, p95, p99, max] = [l.p50_ms, l.p95_ms, l.p99_ms, l.max_ms].map(|ms| words::millis(ms, 1));
            format!("p50 {p50} ms, p95 {p95} ms, p99 {p99} ms, longest {max} ms")
        });
    }
    if let Some(told) = words::latencies_told(facts) {
        line("latencies are of", told);
    }
    line("VRAM, largest", facts.vram_bytes_max().map_or("not measured".into(), bytes));
    line("golden", format!("{} of {} outputs differed", facts.golden_mismatches, facts.golden_outputs));
    line("canary", canary(facts));
    if !facts.gaps.is_empty() {
        line(
            "not watched",
            format!(
                "{} in {}",
                duration(facts.uptime.unwatched_ms as f64 / 1e3),
                words::plural(facts.gaps.len(), "gap", "gaps")
            ),
        );
    }
    out.push('\n');
}

/// What became of the leak on purpose.
#[must_use]
pub fn canary(facts: &RunFacts) -> String {
    let Some(c) = &facts.canary else { return "none in this run".into() };
    match (c.found, c.missed) {
        (Some(at), _) => {
            format!("caught after {}: the detector sees leaks in this run", duration(facts.seconds_in(at)))
        }
        (None, Some(at)) => {
            format!("not caught by {}: the detector is blind in this run", duration(facts.seconds_in(at)))
        }
        (None, None) => match &c.finding {
            Some(f) => format!("not caught yet ({})", plot::sentence(f, None)),
            None => "not caught yet".into(),
        },
    }
}

fn deaths(out: &mut String, facts: &RunFacts) {
    for p in facts.deaths() {
        let Some(ended) = p.ended else { continue };
        let _ = writeln!(
            out,
            "{} {} (pid {}, life {}): {}",
            moment(ended.seconds()),
            p.name,
            p.pid,
            p.incarnation,
            words::cause(p)
        );
        for words in p.stderr_tail.iter().flat_map(|t| t.lines().rev().take(5).collect::<Vec<_>>().into_iter().rev()) {
            let _ = writeln!(out, "    {}", words.trim_end());
        }
    }
    let errors = facts.events.iter().filter(|e| e.severity == EventSeverity::Error).count();
    if errors > 0 {
        let _ = writeln!(
            out,
            "{}; all of them: soakd query \"SELECT * FROM v_events WHERE run_id = {}\"\n",
            words::plural(errors, "event is an error", "events are errors"),
            facts.run_id
        );
    }
}

fn alerts(out: &mut String, facts: &RunFacts) {
    for a in &facts.alerts {
        let fired = a.fired.map_or_else(|| "-".into(), |at| moment(at.seconds()));
        let over = words::alert_end(facts, a);
        let _ = writeln!(out, "alert {fired} {} [{}] {} ({over})", a.rule, a.severity.as_str(), a.summary);
    }
    if !facts.alerts.is_empty() {
        out.push('\n');
    }
}

/// Gates as a table of text; empty for no gates.
#[must_use]
pub fn gate_table(gates: &[GateResult]) -> String {
    let mut out = String::new();
    let Some(named) = gates.iter().map(|g| g.gate.name.chars().count()).max() else { return out };
    let mut milestone = None;
    for g in gates {
        if milestone != Some(&g.gate.milestone) {
            milestone = Some(&g.gate.milestone);
            let _ = writeln!(out, "{}", if g.gate.milestone.is_empty() { "Gates" } else { &g.gate.milestone });
        }
        let (measured, bound, margin) = super::gates::written(g);
        let _ = writeln!(
            out,
            "  {:12}  {:named$}  {measured:>14}  {bound:>16}  {margin:>14}  {}",
            g.outcome.as_str(),
            g.gate.name,
            g.evidence
        );
        if !g.note.is_empty() {
            let _ = writeln!(out, "  {:12}  {}", "", g.note);
        }
    }
    out.push('\n');
    out
}
