//! `soakd status`: where the newest run stands, from the database alone, whether its supervisor lives or not.

use super::report::{print, read_run};
use super::{CannotStart, Done, Format, Outcome};
use crate::clock;
use crate::model::facts::RunFacts;
use crate::model::run::RunState;
use crate::model::time::UnixMillis;
use crate::report::words;
use crate::store::{HeartbeatRow, Mode, Store};
use crate::supervisor::watch::{duration, signed_megabytes};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Where the newest run stands.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  soakd status
  soakd status --db /var/lib/soakd/soak.db
  soakd status --format json | jq -r .verdict_so_far

Reads only; the run is not disturbed, and need not be going on. The exit code is 0 whatever it says: `soakd gate` judges.")]
pub struct Args {
    /// Which run, as `soakd runs` numbers them; the newest if left out
    run: Option<i64>,
    /// The database
    #[arg(long, value_name = "FILE", default_value = "soak.db")]
    db: PathBuf,
    /// Text for people or JSON for programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Columns of the series are not shown here: as few as the reader allows.
const COLUMNS: usize = 2;

/// How the supervisor is, by its heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// It beats.
    Alive,
    /// It ended on purpose, or never was.
    Ended,
    /// A beat is overdue.
    Silent,
}

/// Reads and prints.
pub fn execute(args: &Args) -> Done {
    let facts = read_run(&args.db, args.run, COLUMNS)?;
    let store = Store::open(&args.db, Mode::ReadOnly).map_err(CannotStart::because)?;
    let beat = store.heartbeat_of("supervisor").map_err(CannotStart::because)?;
    let beat = beat.filter(|beat| beat.run_id == Some(facts.run_id));
    let life = life(beat.as_ref(), clock::now().wall);
    let said = match args.format {
        Format::Text => text(&facts, beat.as_ref(), life),
        Format::Json => format!("{:#}\n", json(&facts, beat.as_ref(), life)),
    };
    print(&said)?;
    Ok(Outcome::Passed)
}

fn life(beat: Option<&HeartbeatRow>, now: UnixMillis) -> Life {
    match beat.and_then(|beat| beat.expects) {
        None => Life::Ended,
        Some(due) if now <= due => Life::Alive,
        Some(_) => Life::Silent,
    }
}

fn text(facts: &RunFacts, beat: Option<&HeartbeatRow>, life: Life) -> String {
    let mut out = String::new();
    let watched_ms = facts.uptime.elapsed_ms - facts.uptime.unwatched_ms;
    let (plan, pid) = (&facts.plan, beat.map_or(0, |beat| beat.pid));
    let doing = match (facts.state, life) {
        (RunState::Running, Life::Alive) => format!("running (process {pid})"),
        (RunState::Running, Life::Silent) => {
            format!("NOT WATCHED: process {pid} has not been heard of; `soakd run` goes on with it")
        }
        (RunState::Running, Life::Ended) => "unfinished; `soakd run` goes on with it".to_owned(),
        (state, _) => state.as_str().to_owned(),
    };
    // Writing into a String cannot fail.
    let _ = writeln!(out, "run {} on {}: {doing}", facts.run_id, plan.host);
    let _ = writeln!(out, "{}", words::subject(facts));
    let _ = writeln!(
        out,
        "{} of {} watched{}",
        duration(watched_ms.max(0) as f64 / 1e3),
        duration(plan.duration_ms as f64 / 1e3),
        facts.throughput.tokens_per_s.map_or(String::new(), |rate| format!(", {rate:.1} tokens/s"))
    );
    let _ = writeln!(out, "verdict{}: {}", so_far(facts), facts.verdict_now().as_str());
    if let Some(reason) = facts.verdict_reason.as_deref().filter(|_| facts.state != RunState::Running) {
        let _ = writeln!(out, "  {reason}");
    }
    for series in facts.series.iter().filter(|series| series.judged) {
        let Some(finding) = &series.finding else { continue };
        let [lo, hi] = finding.drift_ci95_bytes;
        let drift = if finding.drift_is_known() {
            let drift = signed_megabytes(finding.drift_bytes);
            format!("{drift} (95 % interval {} to {})", signed_megabytes(lo), signed_megabytes(hi))
        } else {
            "drift not known yet".to_owned()
        };
        let _ = writeln!(out, "  {:<24} {:<13} {drift}", series.name, finding.verdict.as_str());
    }
    let firing = facts.alerts_firing();
    let _ = writeln!(
        out,
        "crashes {}, hangs {}, golden mismatches {}{}, alerts firing {}",
        facts.crashes(),
        facts.hangs(),
        facts.golden_mismatches,
        words::requests_failed(facts).map_or(String::new(), |failed| format!(", {failed}")),
        firing.clone().count()
    );
    for alert in firing {
        let _ = writeln!(out, "  [{}] {}: {}", alert.severity.as_str(), alert.rule, alert.summary);
    }
    out
}

fn so_far(facts: &RunFacts) -> &'static str {
    if facts.verdict.is_some() { "" } else { " so far" }
}

fn json(facts: &RunFacts, beat: Option<&HeartbeatRow>, life: Life) -> serde_json::Value {
    let series: Vec<serde_json::Value> = facts
        .series
        .iter()
        .map(|series| serde_json::json!({ "series": series.name, "judged": series.judged, "finding": series.finding }))
        .collect();
    serde_json::json!({
        "run": facts.run_id,
        "state": facts.state,
        "supervisor_pid": beat.map(|beat| beat.pid),
        "supervisor": match life { Life::Alive => "alive", Life::Ended => "ended", Life::Silent => "silent" },
        "watched_ms": facts.uptime.elapsed_ms - facts.uptime.unwatched_ms,
        "duration_ms": facts.plan.duration_ms,
        "verdict_so_far": facts.verdict_now(),
        "series": series,
        "crashes": facts.crashes(),
        "hangs": facts.hangs(),
        "golden_mismatches": facts.golden_mismatches,
        "requests_failed": facts.throughput.failures,
        "alerts_firing": facts.alerts_firing().count(),
        "throughput_tokens_per_s": facts.throughput.tokens_per_s,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_supervisor_is_alive_until_its_next_beat_is_overdue() {
        let beat = |expects: Option<i64>| HeartbeatRow {
            at: UnixMillis(0),
            pid: 1,
            run_id: Some(1),
            expects: expects.map(UnixMillis),
        };
        let cases = [
            ("never was", None, Life::Ended),
            ("said goodbye", Some(beat(None)), Life::Ended),
            ("beats", Some(beat(Some(1_000))), Life::Alive),
            ("is overdue", Some(beat(Some(999))), Life::Silent),
        ];
        for (what, beat, expected) in cases {
            assert_eq!(life(beat.as_ref(), UnixMillis(1_000)), expected, "{what}");
        }
    }
}
