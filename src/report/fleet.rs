//! A fleet on one page: who leaks, who crashed, who differs. Facts in, text or HTML out.

use crate::model::finding::Verdict;
use crate::model::fleet::{Difference, FleetFacts, HostSummary, WorstSeries};
use chrono::DateTime;
use comfy_table::{Cell, CellAlignment, Table, presets};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment};
use serde_json::json;

const PAGE: &str = include_str!("fleet.html");

/// `3 hosts: 1 outside, 2 within; 1 with crashes`.
#[must_use]
pub fn headline(facts: &FleetFacts) -> String {
    let count = |verdict| facts.hosts.iter().filter(|host| host.verdict == verdict).count();
    let crashed = facts.hosts.iter().filter(|host| host.crashes + host.hangs > 0).count();
    let mut parts =
        vec![format!("{} outside", count(Verdict::Outside)), format!("{} inconclusive", count(Verdict::Inconclusive))];
    parts.push(format!("{} within", count(Verdict::Within)));
    let mut text = format!("{}: {}", hosts(facts.hosts.len()), parts.join(", "));
    text.push_str(&format!("; {crashed} with crashes or hangs, {} that differ from the fleet", odd_hosts(facts)));
    if !facts.unreadable.is_empty() {
        text.push_str(&format!("; {} could not be read", facts.unreadable.len()));
    }
    text
}

fn hosts(count: usize) -> String {
    if count == 1 { "1 host".into() } else { format!("{count} hosts") }
}

fn odd_hosts(facts: &FleetFacts) -> usize {
    let mut odd: Vec<usize> = facts.differences.iter().map(|difference| difference.host).collect();
    odd.sort_unstable();
    odd.dedup();
    odd.len()
}

/// What a difference says: `throughput 91.2 tok/s, the fleet's median is 100.1 (p = 2e-9 after 400 comparisons)`.
#[must_use]
pub fn difference_text(difference: &Difference, comparisons: usize) -> String {
    let (name, unit, scale) = match difference.figure.as_str() {
        "throughput_tokens_per_s" => ("throughput", "tok/s", 1.0),
        "latency_p95_ms" => ("p95 latency", "ms", 1.0),
        "drift_bytes" => ("drift", "MB", 1e-6),
        "vram_bytes_max" => ("most VRAM", "MB", 1e-6),
        "uptime_ratio" => ("uptime", "%", 100.0),
        other => (other, "", 1.0),
    };
    let figure = |value: f64| format!("{:.2} {unit}", value * scale);
    let p =
        if difference.p_adjusted < 1e-12 { "p < 1e-12".into() } else { format!("p = {:.1e}", difference.p_adjusted) };
    format!(
        "{name} {}, the fleet's median is {} ({p} after {comparisons} comparisons)",
        figure(difference.value),
        figure(difference.median)
    )
}

/// `+61 MB (55 to 67)`.
fn drift_text(worst: &WorstSeries) -> String {
    let is_unknown = |bytes: f64| bytes.abs() > 9e15; // no bound: no machine has as much memory
    if worst.drift_ci95_bytes.iter().all(|end| is_unknown(*end)) {
        return "not known yet".into();
    }
    let mb = |bytes: f64| if is_unknown(bytes) { "?".into() } else { format!("{:+.1}", bytes / 1e6) };
    format!("{} MB ({} to {})", mb(worst.drift_bytes), mb(worst.drift_ci95_bytes[0]), mb(worst.drift_ci95_bytes[1]))
}

fn optional(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"))
}

fn day(host: &HostSummary) -> String {
    DateTime::from_timestamp_millis(host.started.0)
        .map_or_else(String::new, |at| at.format("%Y-%m-%d %H:%M").to_string())
}

/// For a terminal: hosts that need a look first, all of them in one table.
#[must_use]
pub fn text(facts: &FleetFacts) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "host",
        "run",
        "verdict",
        "hours",
        "worst series",
        "drift over the horizon",
        "crashes",
        "hangs",
        "tok/s",
        "p95 ms",
    ]);
    for host in &facts.hosts {
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        table.add_row([
            Cell::new(&host.host),
            right(host.run.to_string()),
            Cell::new(host.verdict.as_str()),
            right(format!("{:.1}", host.watched_hours)),
            Cell::new(host.worst.as_ref().map_or("-", |worst| &worst.name)),
            Cell::new(host.worst.as_ref().map_or_else(|| "-".into(), drift_text)),
            right(host.crashes.to_string()),
            right(host.hangs.to_string()),
            right(optional(host.throughput_tokens_per_s, 1)),
            right(optional(host.latency_p95_ms, 2)),
        ]);
    }
    let mut out = format!("{}\n\n{table}\n", headline(facts));
    if !facts.differences.is_empty() {
        out.push_str("\nDiffers from the hosts that do the same work:\n");
        for difference in &facts.differences {
            out.push_str(&format!(
                "  {}: {}\n",
                facts.hosts[difference.host].host,
                difference_text(difference, facts.comparisons)
            ));
        }
    } else if facts.comparisons == 0 {
        out.push_str("\nHosts were not compared with one another: that takes five that do the same work.\n");
    }
    for bad in &facts.unreadable {
        out.push_str(&format!("could not be read: {}\n", bad.why));
    }
    out
}

/// One self-contained page.
///
/// # Panics
/// Never: the template is part of the program and tested.
#[must_use]
pub fn html(facts: &FleetFacts) -> String {
    let rows: Vec<_> = facts
        .hosts
        .iter()
        .enumerate()
        .map(|(index, host)| {
            let odd: Vec<String> = facts
                .differences
                .iter()
                .filter(|difference| difference.host == index)
                .map(|difference| difference_text(difference, facts.comparisons))
                .collect();
            json!({
                "host": host.host, "file": host.file, "run": host.run, "started": day(host), "state": host.state.as_str(),
                "verdict": host.verdict.as_str(), "hours": format!("{:.1}", host.watched_hours), "work": host.work,
                "series": host.worst.as_ref().map(|worst| worst.name.clone()),
                "shape": host.worst.as_ref().map(|worst| worst.shape.as_str()),
                "drift": host.worst.as_ref().map(drift_text),
                "crashes": host.crashes, "hangs": host.hangs, "mismatches": host.golden_mismatches,
                "alerts": host.alerts_firing,
                "uptime": optional(host.uptime_ratio.map(|ratio| ratio * 100.0), 2),
                "tokens_per_s": optional(host.throughput_tokens_per_s, 1), "p95": optional(host.latency_p95_ms, 2),
                "odd": odd,
            })
        })
        .collect();
    let at = DateTime::from_timestamp_millis(facts.at.0)
        .map_or_else(String::new, |at| at.format("%Y-%m-%d %H:%M UTC").to_string());
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    let page = environment.template_from_str(PAGE).expect("the page's template parses");
    page.render(Serde(json!({ "headline": headline(facts), "at": at, "rows": rows, "unreadable": facts.unreadable, "comparisons": facts.comparisons })))
        .expect("the page's template renders plain data")
}
