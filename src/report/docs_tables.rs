//! Tables and charts of the documents, as Markdown and as text. Each names the bench or run that its figures come from.

use super::docs::Sources;
use super::scale::{bytes, moment, signed_bytes};
use super::words;
use crate::model::bench::{BenchFacts, VariantFacts};
use crate::model::facts::{RunFacts, Standing};
use crate::model::gate::{GateOutcome, GateResult};

const NOT_MEASURED: &str = "not measured";
/// Divergence from the unquantised weights that still counts as the same quality, nats a token: a stated rule, not a law.
const KL_NATS_SAME: f64 = 0.05;

fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let line = |cells: Vec<String>| {
        format!("| {} |", cells.iter().map(|c| c.replace('|', "\\|")).collect::<Vec<_>>().join(" | "))
    };
    let mut out = vec![line(head.iter().map(|h| (*h).to_owned()).collect()), format!("|{}", "---|".repeat(head.len()))];
    out.extend(rows.into_iter().map(line));
    out.join("\n")
}

fn or_not(value: Option<f64>, write: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| NOT_MEASURED.into(), write)
}

/// Ship or not, in one sentence: what the executive summary opens with.
pub fn decision(sources: &Sources) -> String {
    let any = |o: GateOutcome| sources.gates.iter().any(|g| g.outcome == o);
    let names = |o: GateOutcome| {
        let all: Vec<&str> = sources.gates.iter().filter(|g| g.outcome == o).map(|g| g.gate.name.as_str()).collect();
        all.join("; ")
    };
    let Some(run) = &sources.run else { return "**Do not ship yet: nothing was soaked.**".into() };
    if any(GateOutcome::Fail) {
        format!("**Do not ship.** Failed: {}.", names(GateOutcome::Fail))
    } else if run.standing() == Standing::Failed {
        format!("**Do not ship.** {}", words::why(run))
    } else if any(GateOutcome::NotMeasured) || any(GateOutcome::Inconclusive) || sources.gates.is_empty() {
        let open = [names(GateOutcome::Inconclusive), names(GateOutcome::NotMeasured)];
        let open: Vec<&str> = open.iter().map(String::as_str).filter(|n| !n.is_empty()).collect();
        format!(
            "**Do not ship yet.** Nothing failed, but this is still open: {}.",
            if open.is_empty() { "no gate was judged".into() } else { open.join("; ") }
        )
    } else if run.standing() == Standing::Inconclusive {
        format!("**Do not ship yet.** {}", words::why(run))
    } else {
        "**Ship.** Every gate passes on the evidence below.".into()
    }
}

pub fn gates(results: &[GateResult]) -> String {
    if results.is_empty() {
        return "No gate was judged.".into();
    }
    let rows = results.iter().map(|g| {
        let (measured, bound, margin) = super::gates::written(g);
        let evidence = if g.query.is_empty() { g.evidence.clone() } else { format!("{} `{}`", g.evidence, g.query) };
        vec![
            g.gate.milestone.clone(),
            g.gate.name.clone(),
            g.outcome.as_str().to_owned(),
            measured,
            bound,
            margin,
            g.note.clone(),
            evidence.trim().to_owned(),
        ]
    });
    table(&["Milestone", "Gate", "Outcome", "Measured", "Bound", "Margin", "Note", "Evidence"], rows.collect())
}

pub fn series(run: Option<&RunFacts>) -> String {
    let Some(run) = run.filter(|r| !r.series.is_empty()) else { return format!("Memory drift: {NOT_MEASURED}.") };
    let rows = run.series.iter().filter(|s| s.judged).map(|s| match &s.finding {
        None => vec![s.name.clone(), NOT_MEASURED.into(), "-".into(), "-".into(), "-".into(), "-".into()],
        Some(f) => vec![
            s.name.clone(),
            f.verdict.as_str().into(),
            signed_bytes(f.drift_bytes),
            words::interval(f.drift_ci95_bytes),
            f.shape.as_str().replace('_', " "),
            if f.minimum_detectable_drift_bytes.is_finite() {
                bytes(f.minimum_detectable_drift_bytes)
            } else {
                "-".into()
            },
        ],
    });
    let head = ["Series", "Verdict", "Drift", "Interval", "Shape", "Could have seen"];
    format!(
        "{}\n\nFrom run {}: `SELECT * FROM v_drift WHERE run_id = {}`",
        table(&head, rows.collect()),
        run.run_id,
        run.run_id
    )
}

pub fn deaths(run: Option<&RunFacts>) -> String {
    let Some(run) = run else { return NOT_MEASURED.into() };
    let all: Vec<String> = run
        .deaths()
        .into_iter()
        .map(|p| {
            format!(
                "- {} (life {}): {}, {}",
                p.name,
                p.incarnation,
                words::cause(p),
                p.ended.map_or_else(String::new, |at| moment(at.seconds()))
            )
        })
        .collect();
    if all.is_empty() { format!("None in run {}.", run.run_id) } else { all.join("\n") }
}

pub fn alerts(run: Option<&RunFacts>) -> String {
    let Some(run) = run else { return NOT_MEASURED.into() };
    let all: Vec<String> =
        run.alerts.iter().map(|a| format!("- {} ({}): {}", a.rule, a.severity.as_str(), a.summary)).collect();
    if all.is_empty() { format!("None fired in run {}.", run.run_id) } else { all.join("\n") }
}

pub fn hardware(sources: &Sources) -> String {
    let mut out = Vec::new();
    if let Some(run) = &sources.run {
        for d in &run.devices {
            out.push(format!("- run {}: {}, driver {}, on {}", run.run_id, d.name, d.driver, run.plan.host));
        }
        if run.devices.is_empty() {
            out.push(format!("- run {}: no GPU ({}), on {}", run.run_id, run.plan.backend, run.plan.host));
        }
    }
    for bench in [&sources.bench, &sources.load].into_iter().flatten() {
        let device = bench.device.clone().unwrap_or_else(|| format!("no GPU ({})", bench.backend));
        let driver = bench.driver.as_ref().map_or_else(String::new, |d| format!(", driver {d}"));
        out.push(format!(
            "- bench {}: {device}{driver}, on {}, {}{}",
            bench.bench_id,
            bench.host,
            moment(bench.started.seconds()),
            circumstances(bench)
        ));
    }
    if out.is_empty() { NOT_MEASURED.into() } else { out.join("\n") }
}

/// How hot it was, and what computed it.
fn circumstances(bench: &BenchFacts) -> String {
    let mut out = String::new();
    let ends = bench.variants.iter().filter_map(|v| v.temperature_celsius);
    if let Some([low, high]) = ends.reduce(|a, b| [a[0].min(b[0]), a[1].max(b[1])]) {
        out.push_str(&format!(", {low} °C after the first repetition and {high} after the last"));
    }
    let of_variants = bench.variants.iter().filter_map(|v| v.kernel.as_deref());
    let mut kernels: Vec<&str> = of_variants.chain(bench.points.iter().filter_map(|p| p.kernel.as_deref())).collect();
    kernels.sort_unstable();
    kernels.dedup();
    if !kernels.is_empty() {
        out.push_str(&format!(", computed by {}", kernels.join(", ")));
    }
    out
}

fn source(bench: &BenchFacts, view: &str) -> String {
    format!("From bench {}: `SELECT * FROM {view} WHERE bench_id = {}`", bench.bench_id, bench.bench_id)
}

/// Every variant that was measured or expected, in the order of the expectations.
pub fn variants(sources: &Sources) -> String {
    let measured = |name: &str| sources.bench.as_ref().and_then(|b| b.variants.iter().find(|v| v.variant == name));
    let mut names: Vec<&str> = sources.expectations.iter().map(|e| e.variant.as_str()).collect();
    for v in sources.bench.iter().flat_map(|b| &b.variants) {
        if !names.contains(&v.variant.as_str()) {
            names.push(&v.variant);
        }
    }
    let rows = names.into_iter().map(|name| {
        let v = measured(name);
        let expected = sources.expectations.iter().find(|e| e.variant == name);
        let ms = |read: fn(&VariantFacts) -> f64| or_not(v.map(read), |x| format!("{x:.2}"));
        vec![
            name.to_owned(),
            v.map_or_else(|| NOT_MEASURED.into(), speed),
            expected.map_or_else(|| "-".into(), |e| format!("{:.1}", e.tokens_per_s)),
            ms(|v| v.token_mean_ms),
            ms(|v| v.token_sd_ms),
            ms(|v| v.token_p50_ms),
            ms(|v| v.token_p95_ms),
            ms(|v| v.token_p99_ms),
            or_not(v.and_then(|v| v.vram_bytes), bytes),
            expected.map_or_else(|| "-".into(), |e| bytes(e.vram_bytes)),
            or_not(v.and_then(|v| v.kl_nats), |x| format!("{x:.4}")),
        ]
    });
    let head = [
        "Variant",
        "tokens/s (interval of the median)",
        "expected",
        "mean ms",
        "sd ms",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "VRAM",
        "expected",
        "KL nats",
    ];
    let note = sources
        .bench
        .as_ref()
        .map_or_else(|| "No bench in this database: run `soakd bench`.".into(), |b| source(b, "v_bench"));
    format!("{}\n\n{note}", table(&head, rows.collect()))
}

/// How surely the interval that is stored with a median holds the true one: below six repetitions it reaches from the smallest to the
/// largest, which all lie on one side of it with a probability of 2^(1 − n); from six on it is made for 95 %.
fn confidence(repetitions: i64) -> f64 {
    match repetitions {
        ..=1 => 0.0,
        n @ 2..6 => 1.0 - 0.5_f64.powi(n as i32 - 1),
        _ => 0.95,
    }
}

fn speed(v: &VariantFacts) -> String {
    let confidence = confidence(v.repetitions) * 100.0;
    let interval =
        v.tokens_per_s_ci95.map_or_else(String::new, |[lo, hi]| format!(" ({lo:.1} to {hi:.1}, {confidence:.0} %)"));
    format!("{:.1}{interval}", v.tokens_per_s)
}

pub fn bandwidth(sources: &Sources) -> String {
    let Some(bench) = &sources.bench else { return format!("Bandwidth: {NOT_MEASURED}.") };
    let rows = bench.variants.iter().map(|v| {
        let achieved = v.weight_bytes_per_token * v.tokens_per_s;
        vec![
            v.variant.clone(),
            bytes(v.weight_bytes_per_token),
            format!("{:.1} GB/s", achieved / 1e9),
            or_not(bench.read_bytes_per_s, |c| words::percent(achieved / c)),
        ]
    });
    let ceiling = or_not(bench.read_bytes_per_s, |c| format!("{:.1} GB/s", c / 1e9));
    format!(
        "Read ceiling in the same run: {ceiling}.\n\n{}\n\n{}",
        table(&["Variant", "Weight bytes per token", "Achieved", "Share of the ceiling"], rows.collect()),
        source(bench, "v_bench")
    )
}

/// Which variant for which need, each by a rule that is stated.
pub fn matrix(sources: &Sources) -> String {
    let Some(bench) = sources.bench.as_ref().filter(|b| !b.variants.is_empty()) else {
        return format!("Decision matrix: {NOT_MEASURED}.");
    };
    let least = |read: fn(&VariantFacts) -> Option<f64>| {
        bench.variants.iter().filter_map(|v| read(v).map(|x| (v, x))).min_by(|a, b| a.1.total_cmp(&b.1)).map(|(v, _)| v)
    };
    let name = |v: Option<&VariantFacts>| v.map_or_else(|| NOT_MEASURED.to_owned(), |v| v.variant.clone());
    let same = bench.variants.iter().filter(|v| v.kl_nats.is_some_and(|k| k <= KL_NATS_SAME));
    let balance = same.max_by(|a, b| a.tokens_per_s.total_cmp(&b.tokens_per_s));
    let rows = vec![
        vec![
            "speed".into(),
            peak(bench),
            "highest tokens/s; named alone only if its interval lies above all others".into(),
        ],
        vec!["least memory".into(), name(least(|v| v.vram_bytes.or(Some(v.weight_bytes)))), "fewest bytes held".into()],
        vec![
            "quality".into(),
            name(least(|v| v.kl_nats)),
            "least divergence of the logits from the unquantised weights".into(),
        ],
        vec![
            "balance".into(),
            name(balance),
            format!("fastest of those within {KL_NATS_SAME} nats of the unquantised weights"),
        ],
        vec!["steady latency".into(), name(least(|v| Some(v.token_p99_ms))), "lowest 99th percentile per token".into()],
    ];
    format!("{}\n\n{}", table(&["Need", "Variant", "Rule"], rows), source(bench, "v_bench"))
}

fn peak(bench: &BenchFacts) -> String {
    let Some(first) = bench.variants.first() else { return NOT_MEASURED.into() };
    let Some([lo, _]) = first.tokens_per_s_ci95 else { return format!("{} (no interval)", first.variant) };
    let near: Vec<&str> = bench.variants[1..]
        .iter()
        .filter(|v| v.tokens_per_s_ci95.is_none_or(|[_, hi]| hi >= lo))
        .map(|v| v.variant.as_str())
        .collect();
    if near.is_empty() {
        first.variant.clone()
    } else {
        format!("{}, not told apart from {}", first.variant, near.join(", "))
    }
}

pub fn hybrid(sources: &Sources) -> String {
    let find = |name: &str| sources.bench.as_ref().and_then(|b| b.variants.iter().find(|v| v.variant == name));
    match (find("hybrid"), find("q4_k")) {
        (None, _) => format!("The hybrid's feasibility: {NOT_MEASURED}."),
        (Some(h), None) => {
            format!("The hybrid runs ({} tokens/s); q4_k, which it is to beat, was {NOT_MEASURED}.", speed(h))
        }
        (Some(h), Some(q)) => {
            let apart = h.tokens_per_s_ci95.zip(q.tokens_per_s_ci95).map(|(h, q)| {
                if h[0] > q[1] {
                    1
                } else if h[1] < q[0] {
                    -1
                } else {
                    0
                }
            });
            let answer = match apart {
                Some(1) => "yes: it is faster than q4_k",
                Some(-1) => "no: it is slower than q4_k",
                Some(_) => "open: its speed is not told apart from q4_k's",
                None => "open: there are no intervals to judge by",
            };
            let quality = match (h.kl_nats, q.kl_nats) {
                (Some(h), Some(q)) => format!("; divergence {h:.4} nats against {q:.4}"),
                _ => format!("; quality {NOT_MEASURED}"),
            };
            format!("Is the hybrid feasible? {answer} ({} against {} tokens/s{quality}).", speed(h), speed(q))
        }
    }
}

pub fn load(sources: &Sources) -> String {
    let Some(load) = sources.load.as_ref().filter(|l| !l.points.is_empty()) else {
        return format!("Concurrency: {NOT_MEASURED}. `soakd load` measures it.");
    };
    let rows = load.points.iter().map(|p| {
        let ms = |x: f64| format!("{x:.1}");
        vec![
            p.variant.clone(),
            p.offered_requests_per_s.map_or_else(|| p.arrivals.clone(), |r| format!("{} {r:.2}/s", p.arrivals)),
            p.streams.to_string(),
            format!("{:.1}", p.tokens_per_s),
            or_not(p.scaling_efficiency, words::percent),
            ms(p.token_p50_ms),
            ms(p.token_p95_ms),
            ms(p.token_p99_ms),
            or_not(p.first_token_p95_ms, ms),
            or_not(p.fairness_ratio, |r| format!("{r:.2}")),
            p.errors.to_string(),
        ]
    });
    let head = [
        "Variant",
        "Arrivals",
        "Streams",
        "tokens/s",
        "Efficiency",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "First token p95 ms",
        "Fairness",
        "Errors",
    ];
    format!("{}\n\n{}", table(&head, rows.collect()), source(load, "v_load"))
}

fn bars(rows: &[(String, f64, String)]) -> String {
    let most = rows.iter().map(|r| r.1).fold(0.0, f64::max);
    let named = rows.iter().map(|r| r.0.chars().count()).max().unwrap_or(0);
    let bar = |v: f64| "█".repeat(if most > 0.0 { (v / most * 40.0).round() as usize } else { 0 });
    rows.iter().map(|(name, v, said)| format!("{name:named$} {} {said}", bar(*v))).collect::<Vec<_>>().join("\n")
}

pub fn speed_chart(sources: &Sources) -> String {
    let Some(bench) = sources.bench.as_ref().filter(|b| !b.variants.is_empty()) else { return NOT_MEASURED.into() };
    let rows: Vec<_> = bench
        .variants
        .iter()
        .map(|v| (v.variant.clone(), v.tokens_per_s, format!("{} [bench {}]", speed(v), bench.bench_id)))
        .collect();
    bars(&rows)
}

pub fn load_chart(sources: &Sources) -> String {
    let Some(load) = sources.load.as_ref().filter(|l| !l.points.is_empty()) else { return NOT_MEASURED.into() };
    let closed = load.points.iter().filter(|p| p.arrivals == "closed");
    let rows: Vec<_> = closed
        .map(|p| {
            (
                format!("{} × {:2}", p.variant, p.streams),
                p.tokens_per_s,
                format!("{:.1} [bench {}]", p.tokens_per_s, load.bench_id),
            )
        })
        .collect();
    bars(&rows)
}

/// Each series' drift on a scale from minus to plus twice the tolerance; `[` and `]` are the tolerance.
pub fn drift_chart(run: Option<&RunFacts>) -> String {
    const HALF: i64 = 24;
    let Some(run) = run.filter(|r| r.series.iter().any(|s| s.judged && s.finding.is_some())) else {
        return NOT_MEASURED.into();
    };
    let tolerance = run.plan.tolerance_bytes as f64;
    let at = |b: f64| ((b / tolerance).clamp(-2.0, 2.0) * HALF as f64 / 2.0).round() as i64 + HALF;
    let rows: Vec<_> =
        run.series.iter().filter(|s| s.judged).filter_map(|s| s.finding.as_ref().map(|f| (s, f))).collect();
    let named = rows.iter().map(|(s, _)| s.name.chars().count()).max().unwrap_or(0);
    let line = |(s, f): &(&crate::model::facts::SeriesFacts, &crate::model::finding::Finding)| {
        let mut cells = vec![' '; (2 * HALF + 1) as usize];
        cells[at(-tolerance) as usize] = '[';
        cells[at(tolerance) as usize] = ']';
        let [lo, hi] = f.drift_ci95_bytes.map(at);
        for cell in &mut cells[lo as usize..=hi.max(lo) as usize] {
            *cell = '─';
        }
        cells[at(f.drift_bytes) as usize] = '◆';
        let text: String = cells.into_iter().collect();
        format!("{:named$} {text} {} {} [run {}]", s.name, f.verdict.as_str(), signed_bytes(f.drift_bytes), run.run_id)
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
