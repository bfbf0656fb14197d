//! What is said when a run is over: the verdict, each series with its drift and interval, crashes, latencies, and where
//! everything lies. Latencies and throughput come from the database, which has all of the run.

use super::super::report::{COLUMNS_MAX, read_run};
use super::super::{CannotStart, Format, shell};
use crate::config::{Config, Transport};
use crate::model::facts::RunFacts;
use crate::model::run::RunState;
use crate::report::gates::Evidence;
use crate::report::{gates, html, scale, words};
use crate::supervisor::Summary;
use crate::supervisor::core::CanaryState;
use crate::supervisor::watch::{Look, duration, megabytes, signed_megabytes};
use comfy_table::{Table, presets};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Prints the summary to stdout. `asked` is the configuration's file, where one was named.
pub fn print(ended: &Summary, config: &Config, asked: Option<&Path>, format: Format) {
    let facts = read_run(&config.run.database, Some(ended.run_id), COLUMNS_MAX);
    let written = facts.as_ref().map_err(CannotStart::because).and_then(|facts| write(facts, config));
    let report = match &written {
        Ok(path) => Some(path.as_path()),
        Err(error) => {
            tracing::warn!("no report was written: {error}");
            None
        }
    };
    let said = match format {
        Format::Text => text(ended, config, asked, facts.as_ref().ok(), report),
        Format::Json => format!("{}\n", json(ended, config, facts.as_ref().ok(), report)),
    };
    let _ = std::io::stdout().write_all(said.as_bytes()); // nobody may be there to read it
}

/// Writes the report beside the database: `soak.db` → `soak-run-3.html`.
fn write(facts: &RunFacts, config: &Config) -> Result<PathBuf, CannotStart> {
    let results =
        gates::judge(&Evidence { run: Some(facts), ..Evidence::default() }, &super::super::gate::of_run(facts)?);
    let page = html::render(facts, &results).map_err(CannotStart::because)?;
    let database = &config.run.database;
    let stem = database.file_stem().unwrap_or_default().to_string_lossy();
    let path = database.with_file_name(format!("{stem}-run-{}.html", facts.run_id));
    std::fs::write(&path, page).map_err(|error| CannotStart(format!("{}: {error}", path.display())))?;
    Ok(path)
}

fn text(
    ended: &Summary,
    config: &Config,
    asked: Option<&Path>,
    facts: Option<&RunFacts>,
    report: Option<&Path>,
) -> String {
    let mut out = String::new();
    let how = match ended.state {
        RunState::Finished => "finished",
        RunState::Interrupted => "ended early, as asked",
        RunState::Failed => "FAILED: the worker could not be kept running",
        RunState::Running => "unfinished",
    };
    let watched = duration(ended.uptime_ms as f64 / 1e3);
    let verdict = ended.judgement.verdict.as_str().to_uppercase();
    // Writing into a String cannot fail.
    let _ = writeln!(out, "\nrun {} {how}; {watched} watched\n", ended.run_id);
    let _ = writeln!(out, "Verdict: {verdict}: {}.", ended.judgement.reason);
    if let Some(why) = &ended.unwritten {
        let _ = writeln!(out, "The verdict could not be written to the database: {why}.");
    }
    if ended.looks.is_empty() {
        let _ = writeln!(out); // a run that was over before we came: its series are in the report
    } else {
        let _ = writeln!(out, "\n{}\n", series_table(&ended.looks, config));
        out.push_str(&seen(&ended.looks, config.run.horizon.as_secs_f64()));
    }
    let _ = writeln!(
        out,
        "Crashes {}, hangs {}, golden mismatches {}, alerts fired {}.{}",
        ended.crashes,
        ended.hangs,
        ended.mismatches,
        ended.alerts_fired,
        match ended.canary {
            CanaryState::Found => " The canary's leak was found.",
            CanaryState::Missed => " The canary's leak was MISSED: this run is blind to leaks of its size.",
            CanaryState::Absent | CanaryState::Pending => "",
        }
    );
    if let Some(facts) = facts {
        work(&mut out, facts);
    }
    places(&mut out, ended, config, asked, report);
    out
}

/// How small a drift every judged series could have shown; nothing where one is not known yet.
fn seen(looks: &[Look], horizon_s: f64) -> String {
    let judged = looks.iter().filter(|look| look.judged).map(|look| look.finding.minimum_detectable_drift_bytes);
    let least = judged.fold(0.0, f64::max);
    if least <= 0.0 || !least.is_finite() {
        return String::new();
    }
    let horizon = scale::duration(horizon_s);
    format!("A drift of {} over {horizon} would have stood out in every judged series.\n", scale::bytes(least))
}

fn series_table(looks: &[Look], config: &Config) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(vec![
        "series".to_owned(),
        "now".to_owned(),
        format!("drift over {}", duration(config.run.horizon.as_secs_f64())),
        "95 % interval".to_owned(),
        "verdict".to_owned(),
        "shape".to_owned(),
    ]);
    for look in looks {
        let finding = &look.finding;
        let [lo, hi] = finding.drift_ci95_bytes;
        let known = finding.drift_is_known();
        let verdict = finding.verdict.as_str();
        table.add_row(vec![
            look.title(),
            megabytes(look.bytes),
            if known { signed_megabytes(finding.drift_bytes) } else { "not known".to_owned() },
            if known { format!("{} to {}", signed_megabytes(lo), signed_megabytes(hi)) } else { "-".to_owned() },
            if look.judged { verdict.to_owned() } else { format!("({verdict})") },
            finding.shape.as_str().to_owned(),
        ]);
    }
    table
}

fn work(out: &mut String, facts: &RunFacts) {
    let work = &facts.throughput;
    let rate = work.tokens_per_s.map_or(String::new(), |rate| format!(" ({rate:.1} tokens/s)"));
    let failed = words::requests_failed(facts).map_or(String::new(), |failed| format!(" {failed}."));
    let _ = writeln!(out, "{} tokens in {} requests{rate}.{failed}", work.tokens, work.requests);
    if facts.empty_outputs > 0 {
        let _ = writeln!(out, "Answers came without a single token; each that was told of counts as a mismatch above.");
    }
    for latency in &facts.latencies {
        let _ = writeln!(
            out,
            "Latency of a {}: p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms.",
            latency.kind.replace('_', " "),
            latency.p50_ms,
            latency.p95_ms,
            latency.p99_ms
        );
    }
}

fn places(out: &mut String, ended: &Summary, config: &Config, asked: Option<&Path>, report: Option<&Path>) {
    let database = config.run.database.display();
    let _ = writeln!(out, "\nDatabase: {database} (run {})", ended.run_id);
    if let Some(path) = report {
        let _ = writeln!(out, "Report:   {}", path.display());
    }
    let _ = match config.mail.transport {
        Transport::Folder => writeln!(out, "Mails:    {}/", config.mail.folder.display()),
        Transport::Smtp => writeln!(out, "Mails:    by SMTP to {}", config.mail.host),
        Transport::Sendmail => writeln!(out, "Mails:    by sendmail"),
        Transport::None => writeln!(out, "Mails:    none are sent; they stay in the outbox table"),
    };
    let (queued, failed) = (ended.mails.queued, ended.mails.failed);
    let mail = |flags| shell::mail(flags, asked, Some(&config.run.database));
    if queued > 0 {
        let _ = writeln!(out, "          {queued} still wait in the outbox; `{}` sends them", mail("--once"));
    }
    if failed > 0 {
        let again = mail("--requeue --once");
        let _ = writeln!(out, "          REFUSED for good: {failed}; `{again}` tries again");
    }
}

fn json(ended: &Summary, config: &Config, facts: Option<&RunFacts>, report: Option<&Path>) -> serde_json::Value {
    let series: Vec<serde_json::Value> = ended
        .looks
        .iter()
        .map(|look| {
            let mut value = serde_json::to_value(&look.finding).unwrap_or_default();
            value["series"] = look.key.to_string().into();
            value["command"] = look.name.clone().into();
            value["judged"] = look.judged.into();
            value
        })
        .collect();
    serde_json::json!({
        "run": ended.run_id,
        "state": ended.state,
        "verdict": ended.judgement.verdict,
        "verdict_reason": ended.judgement.reason,
        "uptime_ms": ended.uptime_ms,
        "series": series,
        "crashes": ended.crashes,
        "hangs": ended.hangs,
        "golden_mismatches": ended.mismatches,
        "requests_failed": facts.map(|facts| facts.throughput.failures),
        "alerts_fired": ended.alerts_fired,
        "throughput_tokens_per_s": facts.and_then(|facts| facts.throughput.tokens_per_s),
        "database": config.run.database,
        "report": report,
        "mails_queued": ended.mails.queued,
        "mails_failed": ended.mails.failed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::finding::{Finding, Shape, Verdict};
    use crate::model::series::{SeriesKey, SeriesKind};

    fn look(judged: bool, minimum_detectable_drift_bytes: f64) -> Look {
        let finding = Finding {
            verdict: Verdict::Inconclusive,
            shape: Shape::None,
            drift_bytes: 0.0,
            drift_ci95_bytes: [-1e9, 1e9],
            minimum_detectable_drift_bytes,
            samples: 600,
            span_s: 600.0,
            ..Finding::default()
        };
        let key = SeriesKey { kind: SeriesKind::Rss, role: None, ordinal: 0 };
        Look { key, judged, finding, rang: false, bytes: 0.0, name: None }
    }

    #[test]
    fn a_short_run_says_how_small_a_drift_it_could_have_seen() {
        let said = seen(&[look(true, 2e9), look(true, 3.73e9), look(false, 9e9)], 172_800.0);
        assert_eq!(said, "A drift of 3.73 GB over 48 h would have stood out in every judged series.\n");
        assert_eq!(seen(&[look(true, 2e9), look(true, f64::INFINITY)], 172_800.0), "", "not known yet");
    }
}
