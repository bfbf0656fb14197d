//! Variants and concurrency as text and JSON: the table, the roofline, the decisions with their rules.
//!
//! Every decision is a stated rule over the measured rows, so that who disagrees with the rule can read the rows; what
//! was not measured is not decided.

use crate::model::bench::Expectation;
use crate::model::measure::{LoadRow, NewBench, VariantRow};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// A need, and which variant meets it.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Such as `speed first`.
    pub need: &'static str,
    /// The variant, or why there is none.
    pub variant: Result<String, String>,
    /// The rule.
    pub rule: &'static str,
}

/// Fewest of the positions at which a variant must choose the reference's token to pass for precise.
const SAME_TOP_MIN: f64 = 0.95;

/// Which variant for which need.
#[must_use]
pub fn decide(rows: &[VariantRow]) -> Vec<Decision> {
    let fastest = |rows: &[&VariantRow]| {
        rows.iter().max_by(|a, b| a.tokens_per_s.value.total_cmp(&b.tokens_per_s.value)).map(|row| row.variant.clone())
    };
    let all: Vec<&VariantRow> = rows.iter().collect();
    let judged: Vec<&VariantRow> = rows.iter().filter(|row| row.quality.is_some()).collect();
    let kl = |row: &VariantRow| row.quality.as_ref().map_or(f64::INFINITY, |quality| quality.kl_mean_nats);
    let same = |row: &VariantRow| row.quality.as_ref().map_or(0.0, |quality| quality.same_top_ratio);
    let nothing = || "nothing was measured".to_string();
    let not_judged = || "precision was not measured".to_string();
    let precise: Vec<&VariantRow> = judged.iter().copied().filter(|row| same(row) >= SAME_TOP_MIN).collect();
    vec![
        Decision { need: "speed first", variant: fastest(&all).ok_or_else(nothing), rule: "most tokens a second" },
        Decision {
            need: "memory first",
            variant: rows.iter().min_by_key(|row| row.weight_bytes).map(|row| row.variant.clone()).ok_or_else(nothing),
            rule: "fewest weight bytes",
        },
        Decision {
            need: "precision first",
            variant: judged
                .iter()
                .min_by(|a, b| kl(a).total_cmp(&kl(b)))
                .map(|row| row.variant.clone())
                .ok_or_else(not_judged),
            rule: "least divergence from the unquantised weights",
        },
        Decision {
            need: "speed without losing tokens",
            variant: match (judged.is_empty(), fastest(&precise)) {
                (true, _) => Err(not_judged()),
                (false, Some(variant)) => Ok(variant),
                (false, None) => Err(format!("no variant keeps {:.0} % of the tokens", 100.0 * SAME_TOP_MIN)),
            },
            rule: "most tokens a second among those that choose the unquantised weights' token at 95 % of positions",
        },
    ]
}

/// Is the hybrid worth having? Yes or no, with the reasons; `Err` if it was not measured.
pub fn hybrid(rows: &[VariantRow]) -> Result<(bool, String), String> {
    let find =
        |name: &str| rows.iter().find(|row| row.variant == name).ok_or_else(|| format!("{name} was not measured"));
    let (hybrid, four, two) = (find("hybrid")?, find("q4_k")?, find("q2_k")?);
    let faster = hybrid.tokens_per_s.lo > four.tokens_per_s.hi;
    let smaller = hybrid.weight_bytes < four.weight_bytes;
    let speed = format!(
        "{:.1} tok/s against {:.1} of q4_k ({})",
        hybrid.tokens_per_s.value,
        four.tokens_per_s.value,
        if faster { "intervals apart" } else { "no faster beyond its interval" }
    );
    let size = format!("{:.2} GB against {:.2}", gb(hybrid.weight_bytes), gb(four.weight_bytes));
    let (precise, precision) = match (&hybrid.quality, &two.quality) {
        (Some(ours), Some(theirs)) => (
            ours.kl_mean_nats < theirs.kl_mean_nats,
            format!("divergence {:.4} nats against {:.4} of q2_k", ours.kl_mean_nats, theirs.kl_mean_nats),
        ),
        _ => return Err("its precision was not measured".into()),
    };
    Ok((faster && smaller && precise, format!("{speed}; {size}; {precision}")))
}

fn gb(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

/// A row's step, taken apart: floor (weights at the ceiling), attention, and the rest, milliseconds.
fn apart(row: &VariantRow, ceiling: Option<f64>) -> Option<(f64, f64, f64)> {
    let floor = row.weight_bytes_per_token as f64 / ceiling? * 1e3;
    let attention = row.attention_ms.unwrap_or(0.0);
    Some((floor, attention, row.step_ms[2] - floor - attention))
}

/// The bench as text.
#[must_use]
pub fn variants_text(bench: &NewBench, rows: &[VariantRow], expectations: &[Expectation], streams: usize) -> String {
    let mut text = String::new();
    let ceiling = bench.read_ceiling_bytes_per_s;
    let driver = bench.driver.as_ref().map_or(String::new(), |driver| format!(", driver {driver}"));
    let _ = writeln!(text, "{} on {} ({}{driver}), {streams} stream(s)", bench.model, bench.device, bench.backend);
    if let Some(ceiling) = ceiling {
        let copy = bench.copy_bytes_per_s.map_or(String::new(), |copy| format!(", copying {:.1} GB/s", copy / 1e9));
        let _ = writeln!(text, "reading memory {:.1} GB/s{copy}, measured in this bench", ceiling / 1e9);
    }
    let _ = writeln!(
        text,
        "\n{:8} {:>24} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9} {:>8} {:>7}",
        "variant", "tok/s [interval]", "ms mean", "sd", "p50", "p95", "p99", "weights", "GB/s", "ceiling"
    );
    for row in rows {
        let speed = row.tokens_per_s;
        let rate = row.weight_bytes_per_token as f64 * speed.value / streams as f64;
        let share = ceiling.map_or("-".into(), |ceiling| format!("{:.0} %", 100.0 * rate / ceiling));
        let _ = writeln!(
            text,
            "{:8} {:>24} {:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>6.2} GB {:>8.1} {:>7}",
            row.variant,
            format!("{:.1} [{:.1}, {:.1}]", speed.value, speed.lo, speed.hi),
            row.step_ms[0],
            row.step_ms[1],
            row.step_ms[2],
            row.step_ms[3],
            row.step_ms[4],
            gb(row.weight_bytes),
            rate / 1e9,
            share
        );
    }
    if let Some(row) = rows.first() {
        let confidence = 100.0 * row.tokens_per_s.confidence;
        let _ = writeln!(text, "tok/s: median of {} repetitions, with its {confidence:.0} % interval", row.repetitions);
    }
    circumstances(&mut text, rows);
    roofline_text(&mut text, rows, ceiling);
    precision_text(&mut text, rows);
    expectations_text(&mut text, rows, expectations);
    let _ = writeln!(text, "\nwhich variant for which need");
    for decision in decide(rows) {
        let variant = decision.variant.unwrap_or_else(|why| format!("none: {why}"));
        let _ = writeln!(text, "  {:28} {variant:10} ({})", decision.need, decision.rule);
    }
    let _ = match hybrid(rows) {
        Ok((true, why)) => writeln!(text, "hybrid: yes. {why}"),
        Ok((false, why)) => writeln!(text, "hybrid: no. {why}"),
        Err(why) => writeln!(text, "hybrid: not decided, {why}"),
    };
    text
}

/// What computed it, and how hot the card was.
fn circumstances(text: &mut String, rows: &[VariantRow]) {
    let mut kernels: Vec<&str> = rows.iter().filter_map(|row| row.kernel.as_deref()).collect();
    kernels.sort_unstable();
    kernels.dedup();
    if !kernels.is_empty() {
        let _ = writeln!(text, "computed by: {}", kernels.join(", "));
    }
    let ends = rows.iter().filter_map(|row| row.temperature_celsius);
    if let Some([low, high]) = ends.reduce(|a, b| [a[0].min(b[0]), a[1].max(b[1])]) {
        let _ = writeln!(text, "the card: {low} degrees C after the first repetition, {high} after the last");
    }
}

/// Where the time of a step goes, as bars: weights at the ceiling (#), attention (a), everything else (.).
fn roofline_text(text: &mut String, rows: &[VariantRow], ceiling: Option<f64>) {
    let parts: Vec<_> = rows.iter().filter_map(|row| Some((row, apart(row, ceiling)?))).collect();
    let longest = parts.iter().map(|(row, _)| row.step_ms[2]).fold(0.0, f64::max);
    if longest <= 0.0 {
        return;
    }
    let _ = writeln!(
        text,
        "\nwhere a step goes: # weights at the read ceiling, a attention, . the rest (launches, small matrices, arithmetic)"
    );
    for (row, (floor, attention, rest)) in parts {
        let bar = |ms: f64, c: char| c.to_string().repeat((ms.max(0.0) / longest * 50.0).round() as usize);
        let attention_text =
            if row.attention_ms.is_some() { format!("{attention:.2}") } else { "not measured".to_string() };
        let _ = writeln!(
            text,
            "{:8} {}{}{}  {floor:.2} + {attention_text} + {rest:.2} ms",
            row.variant,
            bar(floor, '#'),
            bar(attention, 'a'),
            bar(rest, '.'),
        );
    }
}

fn precision_text(text: &mut String, rows: &[VariantRow]) {
    let Some(first) = rows.iter().find_map(|row| row.quality.as_ref()) else { return };
    let _ = writeln!(
        text,
        "\nprecision against the unquantised weights of {}, {} positions\n{:8} {:>12} {:>16} {:>12} {:>12}",
        first.reference, first.positions, "variant", "bits/weight", "divergence nats", "p95", "same token"
    );
    for row in rows {
        if let Some(quality) = &row.quality {
            let _ = writeln!(
                text,
                "{:8} {:>12.2} {:>16.5} {:>12.5} {:>10.1} %",
                row.variant,
                quality.bits_per_weight,
                quality.kl_mean_nats,
                quality.kl_p95_nats,
                100.0 * quality.same_top_ratio
            );
        }
    }
}

fn expectations_text(text: &mut String, rows: &[VariantRow], expectations: &[Expectation]) {
    if expectations.is_empty() {
        return;
    }
    let _ = writeln!(
        text,
        "\nbeside what was expected\n{:8} {:>12} {:>12} {:>8} {:>12} {:>12}",
        "variant", "expected", "measured", "ratio", "expected GB", "held GB"
    );
    for expected in expectations {
        let _ = match rows.iter().find(|row| row.variant == expected.variant) {
            Some(row) => writeln!(
                text,
                "{:8} {:>12.1} {:>12.1} {:>8.2} {:>12.1} {:>12.2}",
                expected.variant,
                expected.tokens_per_s,
                row.tokens_per_s.value,
                row.tokens_per_s.value / expected.tokens_per_s,
                expected.vram_bytes / 1e9,
                gb(row.held_bytes)
            ),
            None => writeln!(text, "{:8} {:>12.1} {:>12}", expected.variant, expected.tokens_per_s, "not measured"),
        };
    }
}

/// The bench as JSON.
#[must_use]
pub fn variants_json(bench_id: i64, bench: &NewBench, rows: &[VariantRow], expectations: &[Expectation]) -> Value {
    let rows_json: Vec<Value> = rows
        .iter()
        .map(|row| {
            let quality = row.quality.as_ref().map(|quality| {
                json!({
                    "reference": quality.reference, "positions": quality.positions, "kl_mean_nats": quality.kl_mean_nats,
                    "kl_p95_nats": quality.kl_p95_nats, "same_top_ratio": quality.same_top_ratio,
                    "bits_per_weight": quality.bits_per_weight,
                })
            });
            let parts = apart(row, bench.read_ceiling_bytes_per_s);
            json!({
                "variant": row.variant, "repetitions": row.repetitions, "tokens_per_s": row.tokens_per_s,
                "step_ms": { "mean": row.step_ms[0], "sd": row.step_ms[1], "p50": row.step_ms[2], "p95": row.step_ms[3], "p99": row.step_ms[4] },
                "weight_bytes": row.weight_bytes, "weight_bytes_per_token": row.weight_bytes_per_token, "held_bytes": row.held_bytes,
                "floor_ms": parts.map(|parts| parts.0), "attention_ms": row.attention_ms, "rest_ms": parts.map(|parts| parts.2),
                "quality": quality, "kernel": row.kernel, "temperature_celsius": row.temperature_celsius,
            })
        })
        .collect();
    let decisions: Vec<Value> = decide(rows)
        .into_iter()
        .map(|decision| json!({ "need": decision.need, "variant": decision.variant.ok(), "rule": decision.rule }))
        .collect();
    let (feasible, why) = match hybrid(rows) {
        Ok((feasible, why)) => (Some(feasible), why),
        Err(why) => (None, why),
    };
    json!({
        "bench": bench_id, "model": bench.model, "backend": bench.backend, "device": bench.device, "driver": bench.driver,
        "read_ceiling_bytes_per_s": bench.read_ceiling_bytes_per_s, "copy_bytes_per_s": bench.copy_bytes_per_s,
        "variants": rows_json, "decisions": decisions, "hybrid": { "feasible": feasible, "why": why },
        "expectations": expectations,
    })
}

/// The targets that a load is held against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Targets {
    /// p50, p95, p99 of tokens, milliseconds, at most.
    pub token_ms: [f64; 3],
    /// Streams at which throughput and efficiency are asked for.
    pub streams: usize,
    /// Tokens a second at those, at least.
    pub tokens_per_s: f64,
    /// Efficiency at those, at least.
    pub efficiency: f64,
}

/// Where adding streams stops paying: the last level at which each added stream still brought at least half of what the
/// first one brings. `None` with fewer than two levels.
#[must_use]
pub fn knee(rows: &[LoadRow]) -> Option<usize> {
    let closed: Vec<&LoadRow> = rows.iter().filter(|row| row.arrivals_per_s.is_none()).collect();
    let first = closed.first()?;
    let single = first.tokens_per_s.value / first.streams as f64;
    let mut knee = first.streams;
    for pair in closed.windows(2) {
        let gain =
            (pair[1].tokens_per_s.value - pair[0].tokens_per_s.value) / (pair[1].streams - pair[0].streams) as f64;
        if gain < single / 2.0 {
            break;
        }
        knee = pair[1].streams;
    }
    (closed.len() > 1).then_some(knee)
}

/// A target, what was measured, and whether it is kept.
#[must_use]
pub fn against(rows: &[LoadRow], targets: &Targets) -> Vec<(String, Option<f64>, bool)> {
    let row = rows.iter().find(|row| row.arrivals_per_s.is_none() && row.streams == targets.streams);
    let at = targets.streams;
    let mut lines = Vec::new();
    for (i, name) in ["p50", "p95", "p99"].into_iter().enumerate() {
        let bound = targets.token_ms[i];
        let measured = row.map(|row| row.token_ms[i]);
        lines.push((format!("{name} at {at} streams ≤ {bound} ms"), measured, measured.is_some_and(|ms| ms <= bound)));
    }
    let speed = row.map(|row| row.tokens_per_s.value);
    let bound = targets.tokens_per_s;
    lines.push((format!("tok/s at {at} streams ≥ {bound}"), speed, speed.is_some_and(|speed| speed >= bound)));
    let efficiency = row.and_then(|row| row.efficiency).map(|efficiency| efficiency.value);
    let bound = targets.efficiency;
    lines.push((format!("efficiency at {at} streams ≥ {bound}"), efficiency, efficiency.is_some_and(|e| e >= bound)));
    lines
}

/// The load as text.
#[must_use]
pub fn load_text(bench: &NewBench, rows: &[LoadRow], targets: &Targets) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{} on {} ({})", bench.model, bench.device, bench.backend);
    let _ = writeln!(
        text,
        "\n{:>7} {:>10} {:>26} {:>22} {:>24} {:>26} {:>8}",
        "streams",
        "arrivals/s",
        "tok/s [interval]",
        "efficiency",
        "token ms p50/p95/p99",
        "first token ms p50/p95/p99",
        "fairness"
    );
    for row in rows {
        let speed = row.tokens_per_s;
        let three = |ms: [f64; 3]| format!("{:.1} / {:.1} / {:.1}", ms[0], ms[1], ms[2]);
        let efficiency = row
            .efficiency
            .map_or("-".into(), |e| format!("{:.0} % [{:.0}, {:.0}]", 100.0 * e.value, 100.0 * e.lo, 100.0 * e.hi));
        let _ = writeln!(
            text,
            "{:>7} {:>10} {:>26} {efficiency:>22} {:>24} {:>26} {:>8}",
            row.streams,
            row.arrivals_per_s.map_or("closed".into(), |rate| format!("{rate:.2}")),
            format!("{:.1} [{:.1}, {:.1}]", speed.value, speed.lo, speed.hi),
            three(row.token_ms),
            three(row.first_token_ms),
            row.fairness.map_or("-".into(), |fairness| format!("{fairness:.3}"))
        );
    }
    let _ = match knee(rows) {
        Some(knee) => writeln!(
            text,
            "\nknee: {knee} streams (beyond it a stream adds less than half of what the first one gives)"
        ),
        None => writeln!(text, "\nknee: not measured, two levels of concurrency are needed"),
    };
    for (target, measured, kept) in against(rows, targets) {
        let measured_text = measured.map_or("not measured".into(), |value| format!("{value:.2}"));
        let verdict = if measured.is_none() {
            "not measured"
        } else if kept {
            "kept"
        } else {
            "missed"
        };
        let _ = writeln!(text, "  {target:34} {measured_text:>14}  {verdict}");
    }
    text
}

/// The load as JSON.
#[must_use]
pub fn load_json(bench_id: i64, bench: &NewBench, rows: &[LoadRow], targets: &Targets) -> Value {
    let three = |ms: [f64; 3]| json!({ "p50": ms[0], "p95": ms[1], "p99": ms[2] });
    let rows_json: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "streams": row.streams, "arrivals_per_s": row.arrivals_per_s, "repetitions": row.repetitions,
                "tokens_per_s": row.tokens_per_s, "efficiency": row.efficiency, "token_ms": three(row.token_ms),
                "first_token_ms": three(row.first_token_ms), "fairness": row.fairness,
            })
        })
        .collect();
    let targets: Vec<Value> = against(rows, targets)
        .into_iter()
        .map(|(target, measured, kept)| json!({ "target": target, "measured": measured, "kept": measured.map(|_| kept) }))
        .collect();
    json!({
        "bench": bench_id, "model": bench.model, "backend": bench.backend, "device": bench.device,
        "levels": rows_json, "knee_streams": knee(rows), "targets": targets,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::measure::{BenchQuality, Estimate};

    fn estimate(value: f64) -> Estimate {
        Estimate { value, lo: value * 0.98, hi: value * 1.02, confidence: 0.75 }
    }

    fn row(variant: &str, tokens_per_s: f64, gigabytes: u64, kl: f64, same: f64) -> VariantRow {
        let quality = BenchQuality {
            variant: variant.into(),
            reference: "synthetic:small".into(),
            positions: 128,
            kl_mean_nats: kl,
            kl_p95_nats: 2.0 * kl,
            same_top_ratio: same,
            bits_per_weight: 4.5,
        };
        VariantRow {
            variant: variant.into(),
            repetitions: 3,
            weight_bytes: gigabytes * 1_000_000_000,
            weight_bytes_per_token: gigabytes * 1_000_000_000,
            held_bytes: gigabytes * 1_000_000_000,
            tokens_per_s: estimate(tokens_per_s),
            step_ms: [1e3 / tokens_per_s; 5],
            attention_ms_per_1000_tokens: None,
            attention_ms: None,
            quality: Some(quality),
            temperature_celsius: None,
            kernel: Some("avx2".into()),
        }
    }

    #[test]
    fn decisions_follow_their_rules() {
        let rows =
            [row("q2_k", 110.0, 8, 0.5, 0.6), row("q4_k", 80.0, 12, 0.02, 0.96), row("q8_0", 55.0, 23, 0.001, 0.99)];
        let picked: Vec<_> = decide(&rows).into_iter().map(|decision| decision.variant.unwrap()).collect();
        assert_eq!(picked, ["q2_k", "q2_k", "q8_0", "q4_k"]);
        let blind: Vec<_> = rows.iter().cloned().map(|row| VariantRow { quality: None, ..row }).collect();
        assert!(decide(&blind)[2].variant.is_err() && decide(&blind)[0].variant.is_ok());
    }

    #[test]
    fn the_hybrid_must_be_faster_smaller_and_more_precise_than_its_parts() {
        let parts = [row("q2_k", 110.0, 8, 0.5, 0.6), row("q4_k", 80.0, 12, 0.02, 0.96)];
        let with = |hybrid: VariantRow| [parts[0].clone(), parts[1].clone(), hybrid];
        assert!(hybrid(&with(row("hybrid", 90.0, 10, 0.1, 0.9))).unwrap().0);
        assert!(!hybrid(&with(row("hybrid", 81.0, 10, 0.1, 0.9))).unwrap().0, "within the interval");
        assert!(!hybrid(&with(row("hybrid", 90.0, 10, 0.6, 0.9))).unwrap().0, "worse than q2_k");
        assert!(hybrid(&parts).is_err());
    }

    #[test]
    fn the_knee_is_where_streams_stop_paying() {
        let level = |streams: usize, tokens_per_s: f64| LoadRow {
            streams,
            arrivals_per_s: None,
            repetitions: 3,
            tokens_per_s: estimate(tokens_per_s),
            efficiency: None,
            token_ms: [1.0; 3],
            first_token_ms: [1.0; 3],
            fairness: Some(1.0),
        };
        assert_eq!(knee(&[level(1, 100.0), level(2, 190.0), level(4, 340.0), level(8, 400.0)]), Some(4));
        assert_eq!(knee(&[level(1, 100.0)]), None);
    }

    #[test]
    fn the_text_says_what_was_not_measured() {
        let bench = NewBench {
            kind: crate::model::measure::BenchKind::Bench,
            started: crate::model::time::UnixMillis(0),
            settings: "{}".into(),
            backend: "cuda".into(),
            device: "a GPU".into(),
            seed: 1,
            context_tokens: 1024,
            model: "synthetic:22b".into(),
            host: "host".into(),
            driver: Some("580.1".into()),
            read_ceiling_bytes_per_s: Some(3e12),
            copy_bytes_per_s: None,
        };
        let expected = [Expectation { variant: "q6_k".into(), tokens_per_s: 52.0, vram_bytes: 17e9 }];
        let text = variants_text(&bench, &[row("q4_k", 80.0, 12, 0.02, 0.96)], &expected, 1);
        assert!(text.contains("q4_k") && text.contains("32 %") && text.contains("not measured"), "{text}");
        assert!(text.contains("hybrid: not decided, hybrid was not measured"), "{text}");
    }
}
