//! Mails that no rule writes: the daily digest, and the mailer's own alarm when the supervisor falls silent.

use super::words::{duration, megabytes, utc};
use crate::model::alert::{PlotSpec, Severity};
use crate::model::event::EventSeverity;
use crate::model::facts::{RunFacts, SeriesFacts};
use crate::model::finding::Verdict;
use crate::model::mail::{Evidence, Link, MailFacts, MailKind, RunStanding, Table};
use crate::model::time::UnixMillis;

/// Series in the digest's picture: more would be too small on a phone.
const DIGEST_PLOTS_MAX: usize = 3;
/// Events listed in a digest.
const DIGEST_EVENTS_MAX: usize = 8;

/// Where a run stands.
#[must_use]
pub fn standing(run: &RunFacts) -> RunStanding {
    let plan = &run.plan;
    RunStanding {
        run_id: run.run_id,
        elapsed_ms: (run.uptime.elapsed_ms - run.uptime.unwatched_ms).max(0),
        duration_ms: plan.duration_ms,
        what: format!(
            "{} {} on {}, {} streams, {}",
            plan.model, plan.variant, plan.backend, plan.streams, plan.scenario
        ),
    }
}

/// The daily word that all goes on, and what picture belongs to it: "within so far, can see ≥ 14 MB, 0 crashes".
#[must_use]
pub fn digest(run: &RunFacts, host: &str, at: UnixMillis) -> (MailFacts, Option<PlotSpec>) {
    let verdict = run.verdict_now();
    let sight = match sight(run) {
        Some(bytes) => format!("can see ≥ {} MB", round_up_mb(bytes)),
        None => "cannot yet see a leak of any size".to_owned(),
    };
    let crashes = count(run.crashes(), "crash", "crashes");
    let hangs = if run.hangs() > 0 { format!(", {}", count(run.hangs(), "hang", "hangs")) } else { String::new() };
    let summary = format!("{} so far, {sight}, {crashes}{hangs}", verdict.as_str());
    let names: Vec<String> = judged(run).map(|s| s.name.clone()).take(DIGEST_PLOTS_MAX).collect();
    let plot = (!names.is_empty()).then(|| PlotSpec {
        run_id: run.run_id,
        series: names.clone(),
        from: run.plan.started,
        to: run.last_seen,
    });
    let facts = MailFacts {
        description: describe(run, verdict, &sight),
        evidence: digest_evidence(run),
        meaning: meaning(run, verdict),
        recent: events(run),
        query: format!("SELECT * FROM v_drift WHERE run_id = {}", run.run_id),
        // The supervisor beats now, even if the last sample is a moment old.
        run: Some(RunStanding {
            elapsed_ms: (at.0 - run.plan.started.0 - run.uptime.unwatched_ms).max(0),
            ..standing(run)
        }),
        links: vec![
            Link { what: "the whole report".into(), target: format!("soakd report {}", run.run_id) },
            Link { what: "how it stands now".into(), target: "soakd status".into() },
        ],
        plot_alt: plot.as_ref().map(|_| format!("Memory since the start of the run: {}", names.join(", "))),
        ..MailFacts::new(MailKind::Digest, Severity::Info, host, at, &summary)
    };
    (facts, plot)
}

/// What is known of a supervisor that fell silent.
#[derive(Debug, Clone, PartialEq)]
pub struct Silence {
    /// Its last beat.
    pub last_beat: UnixMillis,
    /// Its process.
    pub pid: i64,
    /// Whether there still is a process of that number; `None` if that could not be found out.
    pub alive: Option<bool>,
    /// Where the run stood.
    pub run: Option<RunStanding>,
    /// The last minutes, if the database could tell.
    pub recent: Option<Table>,
}

/// soakd itself is silent.
#[must_use]
pub fn heartbeat_lost(silence: &Silence, host: &str, at: UnixMillis) -> MailFacts {
    let (summary, process) = match silence.alive {
        Some(false) => ("soakd itself died", "it is gone".to_owned()),
        Some(true) => ("soakd itself hangs", "it is still there, but writes nothing".to_owned()),
        None => ("soakd itself is silent", "whether it is still there could not be found out".to_owned()),
    };
    let evidence = |what: &str, value: String| Evidence { what: what.into(), value, interval: None };
    let pid = silence.pid;
    MailFacts {
        rule: "heartbeat".into(),
        description: format!(
            "The supervisor of the soak has given no sign of life since {}. The mailer, a process of its own, noticed and \
             wrote this mail. Since then nothing is measured and no rule is evaluated.",
            utc(silence.last_beat)
        ),
        since: Some(silence.last_beat),
        evidence: vec![
            evidence("last sign of life", utc(silence.last_beat)),
            evidence("silent for", duration(at.0 - silence.last_beat.0)),
            evidence("supervisor", format!("process {pid}: {process}")),
        ],
        meaning: "The run is interrupted, not lost: what was written is in the database, and the next start resumes the same \
                  run. The time in between counts as a gap."
            .into(),
        runbook: format!(
            "1. See why it stopped:\n\n    systemctl status soakd\n    journalctl -u soakd -n 100\n    dmesg | tail -50\n\n\
             2. If it hangs (process {pid} is there), look where before you end it:\n\n    cat /proc/{pid}/stack /proc/{pid}/wchan\n\n\
             3. Start it again; it resumes the run:\n\n    systemctl restart soakd"
        ),
        recent: silence.recent.clone(),
        query: "SELECT role, datetime(unix_ms / 1000, 'unixepoch') AS beat, pid, run_id FROM heartbeat".into(),
        run: silence.run.clone(),
        ..MailFacts::new(
            MailKind::Heartbeat,
            Severity::Page,
            host,
            at,
            &format!("{summary}: no sign of life for {}", duration(at.0 - silence.last_beat.0)),
        )
    }
}

/// It is back, or ended after all.
#[must_use]
pub fn heartbeat_back(lost_at: UnixMillis, run: Option<RunStanding>, host: &str, at: UnixMillis) -> MailFacts {
    let silent = duration(at.0 - lost_at.0);
    MailFacts {
        rule: "heartbeat".into(),
        description: format!("The supervisor gives signs of life again. It was silent for {silent}."),
        since: Some(lost_at),
        until: Some(at),
        meaning: "The run goes on. The time of silence is recorded as a gap and is not counted as uptime.".into(),
        query: "SELECT * FROM v_gaps ORDER BY since DESC LIMIT 5".into(),
        run,
        ..MailFacts::new(
            MailKind::Resolved,
            Severity::Page,
            host,
            at,
            &format!("soakd is back after {silent} of silence"),
        )
    }
}

fn judged(run: &RunFacts) -> impl Iterator<Item = &SeriesFacts> {
    run.series.iter().filter(|s| s.judged)
}

/// The smallest drift that every judged series could show; `None` as long as one cannot show any.
fn sight(run: &RunFacts) -> Option<f64> {
    let each: Option<Vec<f64>> = judged(run)
        .map(|s| s.finding.as_ref().map(|f| f.minimum_detectable_drift_bytes).filter(|bytes| bytes.is_finite()))
        .collect();
    each?.into_iter().reduce(f64::max)
}

/// Whole MB, rounded up: a promise of what can be seen is never rounded in our favour.
fn round_up_mb(bytes: f64) -> u64 {
    (bytes / 1e6).ceil().max(1.0) as u64
}

fn count(n: usize, one: &str, many: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {many}") }
}

fn describe(run: &RunFacts, verdict: Verdict, sight: &str) -> String {
    let tolerance = run.plan.tolerance_bytes as f64 / 1e6;
    let horizon = run.plan.horizon_ms / 3_600_000;
    let verdict = match verdict {
        Verdict::Within => format!("every judged series stays within ±{tolerance} MB over {horizon} h"),
        Verdict::Outside => format!("at least one series drifts by more than ±{tolerance} MB over {horizon} h"),
        Verdict::Inconclusive => {
            format!("it cannot yet be said whether all series stay within ±{tolerance} MB over {horizon} h")
        }
    };
    let ratio = run.uptime.ratio().map(|r| format!(" Uptime so far: {:.3} %.", r * 100.0)).unwrap_or_default();
    format!("The soak goes on. So far {verdict}; with what it has seen, it {sight}.{ratio}")
}

fn digest_evidence(run: &RunFacts) -> Vec<Evidence> {
    let mut evidence: Vec<Evidence> = judged(run)
        .filter_map(|s| {
            let f = s.finding.as_ref()?;
            let [lo, hi] = f.drift_ci95_bytes;
            let interval = (lo.is_finite() && hi.is_finite())
                .then(|| format!("95 % interval {} to {}", megabytes(lo), megabytes(hi)));
            let value = format!("{}, {}", f.verdict.as_str(), megabytes(f.drift_bytes));
            Some(Evidence { what: s.name.clone(), value, interval })
        })
        .collect();
    let mut add = |what: &str, value: String| evidence.push(Evidence { what: what.into(), value, interval: None });
    add("crashes, hangs", format!("{}, {}", run.crashes(), run.hangs()));
    add("wrong outputs", run.golden_mismatches.to_string());
    if let Some(rate) = run.throughput.tokens_per_s {
        add("throughput", format!("{rate:.1} tokens/s"));
    }
    if let Some(latency) = run.latency("token") {
        add(
            "token latency",
            format!("p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms", latency.p50_ms, latency.p95_ms, latency.p99_ms),
        );
    }
    let firing = run.alerts.iter().filter(|a| a.resolved.is_none()).count();
    add("alerts", format!("{} fired, {firing} still firing", run.alerts.len()));
    add("not watched", duration(run.uptime.unwatched_ms));
    evidence
}

fn meaning(run: &RunFacts, verdict: Verdict) -> String {
    let trouble = run.crashes() + run.hangs() > 0 || run.golden_mismatches > 0;
    match verdict {
        Verdict::Outside => {
            "The run will fail unless this turns out to be a cache that fills up. An alert told of it.".into()
        }
        _ if trouble => "Memory aside, this run has failed already: see the events below.".into(),
        Verdict::Within => "Nothing to do. If the next digest does not come, look at the machine.".into(),
        Verdict::Inconclusive => {
            "Nothing to do: more hours narrow the interval. If the next digest does not come, look at \
                                  the machine."
                .into()
        }
    }
}

fn events(run: &RunFacts) -> Option<Table> {
    let notable: Vec<_> = run.events.iter().filter(|e| e.severity != EventSeverity::Info).collect();
    let shown = notable.iter().rev().take(DIGEST_EVENTS_MAX).rev();
    let rows: Vec<Vec<String>> = shown.map(|e| vec![utc(e.at), e.kind.clone(), e.summary.clone()]).collect();
    (!rows.is_empty()).then(|| Table {
        caption: format!("Events that are not part of a normal run: the last {} of {}", rows.len(), notable.len()),
        columns: ["time", "kind", "what"].map(str::to_owned).into(),
        rows,
    })
}
