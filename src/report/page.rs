//! What the HTML report shows, as display-ready strings and pictures: the template only places them.

use super::chart_rows::table;
use super::plot::{self, Mark, Panel, Picture, Span, Tolerance};
use super::scale::{Unit, bytes, duration, grouped, moment, signed_bytes};
use super::{forest, gates, svg, text, words};
use crate::model::columns::Column;
use crate::model::event::EventSeverity;
use crate::model::facts::{Measured, ProcessFacts, RunFacts, SeriesFacts};
use crate::model::finding::Verdict;
use crate::model::gate::GateResult;
use serde::Serialize;

/// Width of a chart, logical pixels; a page scales it down.
const WIDTH: f64 = 1_080.0;
/// Rows of the table of events; the rest is a query away.
const EVENT_ROWS_MAX: usize = 400;

/// Everything that the template places.
#[derive(Debug, Serialize)]
pub struct Page {
    title: String,
    standing: &'static str,
    why: String,
    reason: Option<String>,
    subject: String,
    served: String,
    from: String,
    to: String,
    generated: String,
    version: String,
    run_id: i64,
    host: String,
    tiles: Vec<Tile>,
    forest: Option<String>,
    horizon: String,
    tolerance: String,
    series: Vec<SeriesView>,
    other_series: Vec<SeriesView>,
    charts: Vec<Chart>,
    machine: Vec<Chart>,
    latencies: Vec<Vec<String>>,
    latencies_told: Option<String>,
    deaths: Vec<Death>,
    gaps: Vec<Vec<String>>,
    alerts: Vec<AlertView>,
    gates: Vec<GateView>,
    events: Vec<EventView>,
    events_more: u64,
    processes: Vec<Vec<String>>,
    facts: Vec<(String, String)>,
    config: String,
    canary: String,
    queries: Vec<(String, String)>,
}

#[derive(Debug, Serialize)]
struct Tile {
    name: &'static str,
    value: String,
    detail: String,
    tone: &'static str,
}

#[derive(Debug, Serialize)]
struct SeriesView {
    name: String,
    verdict: &'static str,
    tone: &'static str,
    sentence: String,
    cells: Vec<String>,
    svg: String,
    table: String,
    history: Option<String>,
}

#[derive(Debug, Serialize)]
struct Chart {
    name: String,
    note: String,
    svg: String,
    table: String,
}

#[derive(Debug, Serialize)]
struct Death {
    who: String,
    cause: String,
    when: String,
    lived: String,
    memory: String,
    silent: String,
    words: String,
}

#[derive(Debug, Serialize)]
struct AlertView {
    severity: &'static str,
    rule: String,
    summary: String,
    fired: String,
    state: String,
    runbook: String,
}

#[derive(Debug, Serialize)]
struct GateView {
    milestone: String,
    name: String,
    outcome: &'static str,
    tone: &'static str,
    measured: String,
    bound: String,
    margin: String,
    evidence: String,
    query: String,
    note: String,
}

#[derive(Debug, Serialize)]
struct EventView {
    at: String,
    into: String,
    unix_s: f64,
    severity: &'static str,
    kind: String,
    about: String,
    summary: String,
}

/// Lays a run out as a page.
#[must_use]
pub fn build(facts: &RunFacts, results: &[GateResult]) -> Page {
    let time = TimeAxis::new(facts);
    let view = |s: &SeriesFacts| series_view(s, facts, &time);
    let (judged, others): (Vec<&SeriesFacts>, Vec<&SeriesFacts>) = facts.series.iter().partition(|s| s.judged);
    let shown = facts.events.len().min(EVENT_ROWS_MAX);
    Page {
        title: format!("{}: run {} on {}", words::standing_word(facts.standing()), facts.run_id, facts.plan.host),
        standing: words::standing_word(facts.standing()),
        why: words::why(facts).replace("95 % ", "95\u{a0}% "), // no line ends between them
        reason: facts.verdict_reason.clone().filter(|r| !r.is_empty()),
        subject: words::subject(facts),
        served: words::served(facts),
        from: moment(facts.plan.started.seconds()),
        to: moment(facts.last_seen.seconds()),
        generated: moment(facts.asked.seconds()),
        version: facts.soakd_version.clone(),
        run_id: facts.run_id,
        host: facts.plan.host.clone(),
        tiles: tiles(facts),
        forest: forest::scene(facts, WIDTH).map(|scene| svg::fragment(&scene, "forest")),
        horizon: words::horizon(facts),
        tolerance: bytes(facts.plan.tolerance_bytes as f64),
        series: judged.into_iter().map(view).collect(),
        other_series: others.into_iter().filter(|s| !s.columns.is_empty()).map(view).collect(),
        charts: service_charts(facts, &time),
        machine: machine_charts(facts, &time),
        latencies_told: words::latencies_told(facts),
        latencies: facts
            .latencies
            .iter()
            .map(|l| {
                let all = [l.p50_ms, l.p95_ms, l.p99_ms, l.max_ms].map(|ms| words::millis(ms, 2));
                [l.kind.replace('_', " "), grouped(l.count)].into_iter().chain(all).collect()
            })
            .collect(),
        deaths: facts.deaths().into_iter().map(|p| death(p, facts)).collect(),
        gaps: facts
            .gaps
            .iter()
            .map(|g| {
                let length = duration((g.to.0 - g.from.0) as f64 / 1e3);
                vec![moment(g.from.seconds()), moment(g.to.seconds()), length, g.reason.replace('_', " ")]
            })
            .collect(),
        alerts: facts
            .alerts
            .iter()
            .map(|a| AlertView {
                severity: a.severity.as_str(),
                rule: a.rule.clone(),
                summary: a.summary.clone(),
                fired: a.fired.map_or_else(String::new, |at| moment(at.seconds())),
                state: words::alert_end(facts, a),
                runbook: a.runbook.clone(),
            })
            .collect(),
        gates: results.iter().map(gate_view).collect(),
        events: facts.events[..shown]
            .iter()
            .map(|e| EventView {
                at: moment(e.at.seconds()),
                into: duration(facts.seconds_in(e.at)),
                unix_s: e.at.seconds(),
                severity: severity_word(e.severity),
                kind: e.kind.replace('_', " "),
                about: e.about.clone().unwrap_or_default(),
                summary: e.summary.clone(),
            })
            .collect(),
        events_more: facts.events_left_out + (facts.events.len() - shown) as u64,
        processes: facts.processes.iter().map(|p| process_row(p, facts)).collect(),
        facts: host_facts(facts),
        config: facts.plan.config_toml.clone(),
        canary: text::canary(facts),
        queries: queries(facts.run_id),
    }
}

fn severity_word(severity: EventSeverity) -> &'static str {
    match severity {
        EventSeverity::Info => "info",
        EventSeverity::Warning => "warning",
        EventSeverity::Error => "error",
    }
}

/// What all charts share: the run's time, its events and its gaps.
struct TimeAxis {
    window: (f64, f64),
    marks: Vec<Mark>,
    gaps: Vec<Span>,
}

impl TimeAxis {
    fn new(facts: &RunFacts) -> Self {
        let (from, to) = (facts.plan.started.seconds(), facts.last_seen.seconds());
        let worth = |severity: EventSeverity, kind: &str| {
            severity != EventSeverity::Info || matches!(kind, "canary_found" | "model_reloaded" | "run_resumed")
        };
        let marks = facts.events.iter().filter(|e| worth(e.severity, &e.kind)).take(500);
        TimeAxis {
            window: if to > from { (from, to) } else { (from, from + 1.0) },
            marks: marks
                .map(|e| Mark {
                    unix_s: e.at.seconds(),
                    severity: e.severity,
                    label: format!("{}: {}", e.kind.replace('_', " "), e.summary),
                })
                .collect(),
            gaps: facts
                .gaps
                .iter()
                .map(|g| Span { from_s: g.from.seconds(), to_s: g.to.seconds(), label: g.reason.replace('_', " ") })
                .collect(),
        }
    }

    fn chart(&self, panel: Panel, id: &str, height: f64) -> String {
        let picture = Picture {
            panels: vec![panel],
            marks: self.marks.clone(),
            gaps: self.gaps.clone(),
            window: Some(self.window),
            width: WIDTH,
            panel_height: height,
            headed: false,
        };
        svg::fragment(&plot::scene(&picture), id)
    }
}

fn panel(title: &str, unit: Unit, columns: &[Column]) -> Panel {
    Panel {
        title: title.to_owned(),
        unit,
        columns: columns.to_vec(),
        finding: None,
        tolerance: None,
        course: Vec::new(),
        warm_up: None,
        others: Vec::new(),
    }
}

fn series_view(s: &SeriesFacts, facts: &RunFacts, time: &TimeAxis) -> SeriesView {
    let tolerance =
        Tolerance { bytes: facts.plan.tolerance_bytes as f64, horizon_s: facts.plan.horizon_ms as f64 / 1e3 };
    let id = format!("s-{}", s.name.replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
    let mut p = panel(&s.title(), Unit::Bytes, &s.columns);
    p.finding.clone_from(&s.finding);
    p.tolerance = Some(tolerance);
    let verdict = s.finding.as_ref().map_or("not judged yet", |f| f.verdict.as_str());
    SeriesView {
        name: s.title(),
        verdict,
        tone: tone(s.finding.as_ref().map(|f| f.verdict)),
        sentence: s
            .finding
            .as_ref()
            .map_or_else(|| "Not judged yet: too little was seen.".into(), |f| plot::sentence(f, Some(tolerance))),
        cells: cells(s),
        table: table(&s.name, &s.columns, Unit::Bytes),
        svg: time.chart(p, &id, 190.0),
        history: history(s, time, tolerance, &id),
    }
}

/// The estimate and its interval over time, against the tolerance: how the verdict came about.
fn history(s: &SeriesFacts, time: &TimeAxis, tolerance: Tolerance, id: &str) -> Option<String> {
    let known: Vec<_> = s.history.iter().filter(|(_, _, lo, hi)| lo.is_finite() && hi.is_finite()).collect();
    let clip = 3.0 * tolerance.bytes;
    let columns: Vec<Column> = known
        .iter()
        .map(|&&(unix_s, drift, lo, hi)| Column {
            unix_s,
            min: lo.max(-clip),
            median: drift.clamp(-clip, clip),
            max: hi.min(clip),
            count: 1,
            segment: 0,
        })
        .collect();
    if columns.len() < 3 {
        return None;
    }
    let edge =
        |bytes: f64| columns.iter().map(|c| Column { min: bytes, median: bytes, max: bytes, ..*c }).collect::<Vec<_>>();
    let mut p = panel(&format!("{}: drift estimate and its 95 % interval over time", s.name), Unit::Bytes, &columns);
    p.others = vec![("+tolerance".into(), edge(tolerance.bytes)), ("−tolerance".into(), edge(-tolerance.bytes))];
    Some(time.chart(p, &format!("{id}-h"), 130.0))
}

fn cells(s: &SeriesFacts) -> Vec<String> {
    let Some(f) = &s.finding else { return vec!["-".into(); 6] };
    let finite = |b: f64| if b.is_finite() { signed_bytes(b) } else { "-".into() };
    let [lo, hi] = f.drift_ci95_bytes;
    let crossing =
        f.crossing_unix_s.map_or_else(|| "-".into(), |[from, to]| format!("{} to {}", moment(from), moment(to)));
    let detectable =
        if f.minimum_detectable_drift_bytes.is_finite() { bytes(f.minimum_detectable_drift_bytes) } else { "-".into() };
    vec![
        words::drift(f),
        if lo.is_finite() && hi.is_finite() { format!("{} to {}", finite(lo), finite(hi)) } else { "none yet".into() },
        f.shape.as_str().replace('_', " "),
        detectable,
        grouped(f.samples),
        crossing,
    ]
}

fn tone(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        Some(Verdict::Within) => "good",
        Some(Verdict::Outside) => "bad",
        _ => "open",
    }
}

fn tiles(facts: &RunFacts) -> Vec<Tile> {
    let judged: Vec<&SeriesFacts> = facts.series.iter().filter(|s| s.judged).collect();
    let worst = words::worst(&judged);
    let zero = |n: usize| if n == 0 { "good" } else { "bad" };
    let token = facts.latency("token");
    let detectable = gates::metric("minimum_detectable_drift_bytes").and_then(|metric| gates::read(metric, facts));
    vec![
        Tile {
            name: "Largest drift",
            value: worst.and_then(|s| s.finding.as_ref()).map_or("not judged".into(), words::drift),
            detail: worst.map_or(String::new(), |s| {
                format!(
                    "{}; {}",
                    s.title(),
                    s.finding.as_ref().map_or(String::new(), |f| words::interval(f.drift_ci95_bytes))
                )
            }),
            tone: tone(worst.and_then(|s| s.finding.as_ref()).map(|f| f.verdict)),
        },
        Tile {
            name: "Could have seen",
            value: detectable.filter(|b| b.is_finite()).map_or("nothing yet".into(), |b| format!("≥ {}", bytes(b))),
            detail: format!("smallest drift over {} that this run could tell in every series", words::horizon(facts)),
            tone: if detectable.is_some_and(|b| b <= 2.0 * facts.plan.tolerance_bytes as f64) {
                "good"
            } else {
                "open"
            },
        },
        Tile {
            name: "Crashes and hangs",
            value: format!("{} · {}", facts.crashes(), facts.hangs()),
            detail: words::plural(
                facts.processes.iter().filter(|p| p.is_soaked()).count(),
                "process life watched",
                "process lives watched",
            ),
            tone: zero(facts.crashes() + facts.hangs()),
        },
        Tile {
            name: "Uptime",
            value: facts.uptime.ratio().map_or("not measured".into(), words::percent),
            detail: format!(
                "{} unwatched, {} without a worker",
                duration(facts.uptime.unwatched_ms as f64 / 1e3),
                duration(facts.uptime.worker_down_ms as f64 / 1e3)
            ),
            tone: if facts.uptime.ratio().is_some_and(|r| r >= 0.995) { "good" } else { "open" },
        },
        Tile {
            name: "Throughput",
            value: facts.throughput.tokens_per_s.map_or("not measured".into(), |r| format!("{r:.1} tokens/s")),
            detail: format!(
                "{} tokens, {} requests{}",
                grouped(facts.throughput.tokens),
                grouped(facts.throughput.requests),
                match facts.throughput.failures {
                    0 => String::new(),
                    failures => format!(", {} failed", grouped(failures)),
                }
            ),
            tone: if facts.throughput.failures == 0 { "plain" } else { "open" },
        },
        Tile {
            name: "Time per token",
            value: token.map_or("not measured".into(), |l| format!("p95 {} ms", words::millis(l.p95_ms, 1))),
            detail: token.map_or(String::new(), |l| {
                let [p50, p99, max] = [l.p50_ms, l.p99_ms, l.max_ms].map(|ms| words::millis(ms, 1));
                format!("p50 {p50} ms, p99 {p99} ms, longest {max} ms")
            }),
            tone: "plain",
        },
        Tile {
            name: "Golden tokens",
            value: if facts.golden_outputs == 0 {
                "not compared".into()
            } else {
                words::plural(facts.golden_mismatches as usize, "mismatch", "mismatches")
            },
            detail: format!("{} outputs compared in every loop", facts.golden_outputs),
            tone: if facts.golden_outputs == 0 { "plain" } else { zero(facts.golden_mismatches as usize) },
        },
        Tile {
            name: "Largest VRAM",
            value: facts.vram_bytes_max().map_or("no GPU".into(), bytes),
            detail: facts
                .devices
                .iter()
                .map(|d| format!("{}, driver {}", d.name, d.driver))
                .collect::<Vec<_>>()
                .join("; "),
            tone: "plain",
        },
    ]
}

fn service_charts(facts: &RunFacts, time: &TimeAxis) -> Vec<Chart> {
    let mut charts = Vec::new();
    if !facts.throughput.over_time.is_empty() {
        let p = panel("tokens per second", Unit::Plain, &facts.throughput.over_time);
        charts.push(Chart {
            name: "Throughput".into(),
            note: "tokens per second, by the minute".into(),
            svg: time.chart(p, "throughput", 130.0),
            table: table("Tokens per second", &facts.throughput.over_time, Unit::Plain),
        });
    }
    for l in facts.latencies.iter().filter(|l| !l.p50.is_empty()) {
        let name = l.kind.replace('_', " ");
        let mut p = panel(&format!("{name} latency"), Unit::Millis, &l.p50);
        p.others = vec![("p95".into(), l.p95.clone()), ("p99".into(), l.p99.clone())];
        let note = "median (blue), 95th (violet) and 99th percentile (teal) of each minute".into();
        charts.push(Chart {
            name: format!("Latency, {name}"),
            note,
            svg: time.chart(p, &format!("latency-{}", l.kind), 150.0),
            table: table(&format!("Median {name} latency"), &l.p50, Unit::Millis),
        });
    }
    charts
}

fn machine_charts(facts: &RunFacts, time: &TimeAxis) -> Vec<Chart> {
    let chart = |owner: &str, m: &Measured, id: String| {
        let unit = if m.is_bytes { Unit::Bytes } else { Unit::Plain };
        Chart {
            name: format!("{owner}: {}", m.name),
            note: String::new(),
            svg: time.chart(panel(&format!("{owner} {}", m.name), unit, &m.columns), &id, 100.0),
            table: table(&format!("{owner} {}", m.name), &m.columns, unit),
        }
    };
    let gpus = facts
        .devices
        .iter()
        .flat_map(|d| d.measured.iter().enumerate().map(move |(i, m)| (format!("gpu-{}", d.ordinal), i, m)));
    let host = facts.host.iter().enumerate().map(|(i, m)| ("host".to_owned(), i, m));
    gpus.chain(host).map(|(owner, i, m)| chart(&owner, m, format!("m-{owner}-{i}"))).collect()
}

fn death(p: &ProcessFacts, facts: &RunFacts) -> Death {
    let ended = p.ended.unwrap_or(facts.last_seen);
    let held = |name: &str, bytes_held: Option<i64>| bytes_held.map(|b| format!("{name} {}", bytes(b as f64)));
    let memory: Vec<String> = [
        held("RSS", p.rss_bytes_at_end),
        held("anonymous + swap", p.anon_swap_bytes_at_end),
        held("VRAM", p.vram_bytes_at_end),
    ]
    .into_iter()
    .flatten()
    .collect();
    Death {
        who: format!("{} (life {}, pid {})", p.name, p.incarnation, p.pid),
        cause: words::cause(p),
        when: format!("{}, {} into the run", moment(ended.seconds()), duration(facts.seconds_in(ended))),
        lived: duration((ended.0 - p.started.0) as f64 / 1e3),
        memory: if memory.is_empty() { "not read".into() } else { memory.join(", ") },
        silent: p.heartbeat.map_or_else(
            || "never heard of".into(),
            |at| format!("{} before its end", duration((ended.0 - at.0) as f64 / 1e3)),
        ),
        words: p.stderr_tail.as_deref().map_or("", str::trim_end).to_owned(),
    }
}

fn process_row(p: &ProcessFacts, facts: &RunFacts) -> Vec<String> {
    let ended = p.ended.unwrap_or(facts.last_seen);
    let lived_s = (ended.0 - p.started.0) as f64 / 1e3;
    let cpu = p
        .cpu_ms
        .filter(|_| lived_s > 0.0)
        .map_or_else(|| "-".into(), |ms| format!("{:.2} %", ms as f64 / 10.0 / lived_s));
    vec![
        p.name.clone(),
        p.incarnation.to_string(),
        p.pid.to_string(),
        moment(p.started.seconds()),
        duration(lived_s),
        words::cause(p),
        cpu,
    ]
}

fn gate_view(g: &GateResult) -> GateView {
    use crate::model::gate::GateOutcome;
    let (measured, bound, margin) = gates::written(g);
    GateView {
        milestone: g.gate.milestone.clone(),
        name: g.gate.name.clone(),
        outcome: g.outcome.as_str(),
        tone: match g.outcome {
            GateOutcome::Pass => "good",
            GateOutcome::Fail => "bad",
            GateOutcome::Inconclusive | GateOutcome::NotMeasured => "open",
        },
        measured,
        bound,
        margin,
        evidence: g.evidence.clone(),
        query: g.query.clone(),
        note: g.note.clone(),
    }
}

fn host_facts(facts: &RunFacts) -> Vec<(String, String)> {
    let mut out = Vec::new();
    if let Some(object) = facts.plan.facts.as_object() {
        for (name, value) in object {
            let said = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let said = match value.as_f64() {
                Some(b) if name.ends_with("_bytes") => bytes(b),
                _ => said,
            };
            out.push((name.replace('_', " "), said));
        }
    }
    for d in &facts.devices {
        let memory = d.vram_total_bytes.map_or(String::new(), |b| format!(", {}", bytes(b as f64)));
        let slowed = d
            .throttled_ratio
            .map_or(String::new(), |r| format!(", slowed down in {} of the samples", words::percent(r)));
        let ecc = d.ecc_uncorrected.map_or(String::new(), |n| format!(", {n} uncorrected ECC errors"));
        out.push((
            format!("gpu-{}", d.ordinal),
            format!("{}{memory}, driver {}, {}{slowed}{ecc}", d.name, d.driver, d.uuid),
        ));
    }
    out.push(("seed".into(), facts.plan.seed.to_string()));
    out
}

/// Where each part of the page comes from, for whoever wants to see for themselves.
fn queries(run_id: i64) -> Vec<(String, String)> {
    [
        ("verdicts and intervals", "SELECT * FROM v_drift"),
        ("memory by the minute", "SELECT * FROM v_memory"),
        ("deaths and last words", "SELECT * FROM v_crashes"),
        ("events", "SELECT * FROM v_events"),
        ("latency by the minute", "SELECT * FROM v_latency"),
        ("throughput by the minute", "SELECT * FROM v_throughput"),
        ("time watched", "SELECT * FROM v_uptime"),
    ]
    .into_iter()
    .map(|(what, sql)| (what.to_owned(), format!("soakd query \"{sql} WHERE run_id = {run_id}\"")))
    .collect()
}
