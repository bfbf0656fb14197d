//! Facts as sentences, shared by the text form, the page and the documents: the headline, why, the causes of death.

use super::scale::{bytes, duration, grouped, moment, signed_bytes};
use crate::model::facts::{AlertFacts, ProcessFacts, RunFacts, SeriesFacts, Standing};
use crate::model::finding::{Finding, Verdict};
use crate::model::run::RunState;

/// One word, in capitals.
#[must_use]
pub fn standing_word(standing: Standing) -> &'static str {
    match standing {
        Standing::Passed => "PASSED",
        Standing::Failed => "FAILED",
        Standing::Inconclusive => "INCONCLUSIVE",
    }
}

/// Why the run is called that, in one or two sentences, whatever the reason.
#[must_use]
pub fn why(facts: &RunFacts) -> String {
    let mut parts = Vec::new();
    let (crashes, hangs) = (facts.crashes(), facts.hangs());
    let outside: Vec<&SeriesFacts> = judged(facts).filter(|s| verdict_of(s) == Some(Verdict::Outside)).collect();
    if let Some(worst) = worst(&outside) {
        let more = if outside.len() > 1 { format!(", and {} more", outside.len() - 1) } else { String::new() };
        parts.push(format!("memory drifts outside the tolerance: {}{more}", drift_words(worst, facts)));
    }
    if crashes > 0 {
        parts.push(plural(crashes, "crash", "crashes"));
    }
    if hangs > 0 {
        parts.push(plural(hangs, "hang", "hangs"));
    }
    if facts.golden_mismatches > 0 {
        parts.push(format!(
            "{} that differed from the golden one",
            plural(facts.golden_mismatches as usize, "output", "outputs")
        ));
    }
    if facts.empty_outputs > 0 {
        parts.push("answers came without a single token".into());
    }
    parts.extend(requests_failed(facts));
    if facts.state == RunState::Failed {
        parts.push("soakd gave the run up".into());
    }
    if outside.is_empty() {
        parts.push(calm(facts));
    }
    let mut text = parts.join("; ");
    if let Some(first) = text.get(..1) {
        text.replace_range(..1, &first.to_uppercase());
    }
    format!("{text}.")
}

/// `3 requests failed`, if any did.
#[must_use]
pub fn requests_failed(facts: &RunFacts) -> Option<String> {
    let failures = facts.throughput.failures;
    (failures > 0).then(|| format!("{} failed", plural(failures as usize, "request", "requests")))
}

/// What there is to say when nothing broke.
fn calm(facts: &RunFacts) -> String {
    if let Some(canary) = &facts.canary
        && canary.missed.is_some()
        && canary.found.is_none()
    {
        return "the leak on purpose (the canary) was not caught: what this run says of memory cannot be trusted"
            .into();
    }
    let all: Vec<&SeriesFacts> = judged(facts).collect();
    if all.is_empty() {
        return "no memory series has been judged yet".into();
    }
    let within = all.iter().filter(|s| verdict_of(s) == Some(Verdict::Within)).count();
    if within == all.len() {
        let worst =
            worst(&all).map_or_else(String::new, |s| format!("; the largest drift is {}", drift_words(s, facts)));
        return format!(
            "all {} memory series stay within ±{}{worst}",
            all.len(),
            bytes(facts.plan.tolerance_bytes as f64)
        );
    }
    let open: Vec<&SeriesFacts> = all.iter().copied().filter(|s| verdict_of(s) != Some(Verdict::Within)).collect();
    let seen = duration(facts.uptime.elapsed_ms as f64 / 1e3);
    let smallest =
        open.iter().filter_map(|s| s.finding.as_ref()).map(|f| f.minimum_detectable_drift_bytes).fold(0.0, f64::max);
    let detectable = if smallest.is_finite() && smallest > 0.0 {
        format!("; after {seen} it could tell drifts of {} and more over {}", bytes(smallest), horizon(facts))
    } else {
        format!("; {seen} is too short to say")
    };
    let first = open.first().map_or("", |s| s.name.as_str());
    format!(
        "{} of {} memory series cannot be told from the tolerance yet ({first}{}){detectable}",
        open.len(),
        all.len(),
        if open.len() > 1 { ", …" } else { "" }
    )
}

fn judged(facts: &RunFacts) -> impl Iterator<Item = &SeriesFacts> {
    facts.series.iter().filter(|s| s.judged)
}

fn verdict_of(s: &SeriesFacts) -> Option<Verdict> {
    s.finding.as_ref().map(|f| f.verdict)
}

/// The series with the largest drift, either way; the first one where no drift is known.
#[must_use]
pub fn worst<'a>(all: &[&'a SeriesFacts]) -> Option<&'a SeriesFacts> {
    let known = |s: &SeriesFacts| s.finding.as_ref().filter(|f| f.drift_is_known()).map(|f| f.drift_bytes.abs());
    let known = |s: &'a SeriesFacts| known(s).map(|drift| (drift, s));
    let largest = all.iter().copied().filter_map(known).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, s)| s);
    largest.or_else(|| all.iter().copied().find(|s| s.finding.is_some()))
}

/// `+83.0 MB`, or that it is not known.
#[must_use]
pub fn drift(finding: &Finding) -> String {
    if finding.drift_is_known() { signed_bytes(finding.drift_bytes) } else { "not known".into() }
}

/// `worker-0.anon_swap +83.0 MB over 48 h (95 % +77.0 MB to +89.0 MB)`.
fn drift_words(s: &SeriesFacts, facts: &RunFacts) -> String {
    let Some(f) = &s.finding else { return s.name.clone() };
    format!("{} {} over {} ({})", s.name, signed_bytes(f.drift_bytes), horizon(facts), interval(f.drift_ci95_bytes))
}

/// The horizon as people say it.
#[must_use]
pub fn horizon(facts: &RunFacts) -> String {
    duration(facts.plan.horizon_ms as f64 / 1e3)
}

/// `95 % +77.0 MB to +89.0 MB`, or that there is none yet.
#[must_use]
pub fn interval([lo, hi]: [f64; 2]) -> String {
    if lo.is_finite() && hi.is_finite() {
        format!("95 % {} to {}", signed_bytes(lo), signed_bytes(hi))
    } else {
        "no interval yet".into()
    }
}

/// What became of an alert. Once its run is over, nobody looks whether it still fires.
pub fn alert_end(facts: &RunFacts, alert: &AlertFacts) -> String {
    match alert.resolved {
        Some(at) => format!("resolved {}", moment(at.seconds())),
        None if facts.state == RunState::Running => "still firing".into(),
        None => "until the end of the run".into(),
    }
}

/// Of how many requests the latencies are, where not of all: a worker that is killed has not told its last ones.
pub fn latencies_told(facts: &RunFacts) -> Option<String> {
    let (told, all) = (facts.latency("request")?.count, facts.throughput.requests);
    (told < all).then(|| format!("{} of {} requests", grouped(told), grouped(all)))
}

/// A latency in milliseconds; a dash where it is not known (its histograms cannot be read).
#[must_use]
pub fn millis(value: f64, places: usize) -> String {
    if value.is_finite() { format!("{value:.places$}") } else { "–".into() }
}

/// `1 crash`, `2 crashes`.
#[must_use]
pub fn plural(n: usize, one: &str, many: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {many}") }
}

/// How a process ended: `crash: signal 9 (SIGKILL)`, `crash: exit code 3`, `hang`.
#[must_use]
pub fn cause(p: &ProcessFacts) -> String {
    let reason = p.end_reason.as_deref().unwrap_or("still alive");
    match (p.exit_signal, p.exit_code) {
        (Some(signal), _) => format!("{reason}: signal {signal}{}", signal_name(signal)),
        (None, Some(code)) if code != 0 => format!("{reason}: exit code {code}"),
        _ => reason.to_owned(),
    }
}

fn signal_name(signal: i64) -> &'static str {
    match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        13 => " (SIGPIPE)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

/// `99.98 %`: never rounded up to a hundred.
#[must_use]
pub fn percent(ratio: f64) -> String {
    let percent = ratio * 100.0;
    if percent >= 100.0 { "100 %".into() } else { format!("{:.2} %", (percent * 100.0).floor() / 100.0) }
}

/// What the run was doing, in a line.
#[must_use]
pub fn subject(facts: &RunFacts) -> String {
    let plan = &facts.plan;
    if plan.backend == "none" {
        return plan.model.clone(); // a target of the user's: it has no variant, back end or streams of ours
    }
    let streams = plural(plan.streams.max(0) as usize, "stream", "streams");
    format!("{} · {} · {} · {streams} · {}", plan.model, plan.variant, plan.backend, plan.scenario)
}

/// How much of the planned time was served, and where the run stands.
#[must_use]
pub fn served(facts: &RunFacts) -> String {
    let seen = duration(facts.uptime.elapsed_ms as f64 / 1e3);
    let planned = duration(facts.plan.duration_ms as f64 / 1e3);
    match facts.state {
        RunState::Running => format!("running: {seen} of {planned} so far"),
        RunState::Finished => format!("finished: {seen} of {planned} planned"),
        RunState::Interrupted => format!("interrupted after {seen} of {planned}"),
        RunState::Failed => format!("given up after {seen} of {planned}"),
    }
}
