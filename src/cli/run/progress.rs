//! Live progress: two lines that stay in place on a terminal, a plain line now and then in a pipe, nothing as JSON.

use super::Format;
use crate::config::Config;
use crate::model::finding::Verdict;
use crate::model::sample::Role;
use crate::model::series::SeriesKind;
use crate::supervisor::Snapshot;
use crate::supervisor::watch::{megabytes, signed_megabytes};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicI64, Ordering};

/// Shows where a run stands.
///
/// What soaks is named by the snapshot: a run that goes on does so as it was begun, whatever was asked for now.
pub struct Display {
    bars: Option<Bars>,
    /// Uptime at which the next plain line is due, and how far apart they are, milliseconds.
    next_line_ms: AtomicI64,
    line_every_ms: i64,
    quiet: bool,
}

struct Bars {
    all: MultiProgress,
    time: ProgressBar,
    facts: ProgressBar,
}

impl Display {
    /// A display for a run of `config`.
    pub fn new(config: &Config, format: Format) -> Display {
        let on_terminal = std::io::stderr().is_terminal() && format == Format::Text;
        let duration_ms = config.run.duration.as_millis() as i64;
        Display {
            bars: on_terminal.then(|| Bars::new(duration_ms)),
            next_line_ms: AtomicI64::new(0),
            // A log of two days has some two hundred lines; one of half a minute still shows that something happens.
            line_every_ms: (duration_ms / 20).clamp(10_000, 900_000),
            quiet: format == Format::Json,
        }
    }

    /// The bars, for whoever wants to write past them.
    pub fn bars(&self) -> Option<MultiProgress> {
        self.bars.as_ref().map(|bars| bars.all.clone())
    }

    /// Takes the bars away.
    pub fn clear(&self) {
        if let Some(bars) = &self.bars {
            bars.time.finish_and_clear();
            bars.facts.finish_and_clear();
        }
    }

    /// Shows a snapshot.
    pub fn show(&self, snapshot: &Snapshot) {
        if self.quiet {
            return;
        }
        if let Some(bars) = &self.bars {
            bars.show(snapshot);
        } else if snapshot.uptime_ms >= self.next_line_ms.load(Ordering::Relaxed) {
            self.next_line_ms.store(snapshot.uptime_ms + self.line_every_ms, Ordering::Relaxed);
            let times = format!("{} of {}", clock(snapshot.uptime_ms), clock(snapshot.duration_ms));
            // A pipe that nobody reads is no reason to stop soaking.
            let _ = writeln!(std::io::stderr(), "{} {times}: {}", snapshot.what, facts(snapshot));
        }
    }
}

impl Bars {
    fn new(duration_ms: i64) -> Bars {
        let all = MultiProgress::new();
        let time = all.add(ProgressBar::new(duration_ms.max(1) as u64));
        let style = |template: &str| ProgressStyle::with_template(template).expect("a template of ours");
        time.set_style(style("{prefix} [{bar:30}] {msg}").progress_chars("=> "));
        let facts = all.add(ProgressBar::no_length());
        facts.set_style(style("  {wide_msg}"));
        Bars { all, time, facts }
    }

    fn show(&self, snapshot: &Snapshot) {
        let left_ms = (snapshot.duration_ms - snapshot.uptime_ms).max(0);
        self.time.set_prefix(format!("run {} {} {}", snapshot.run_id, snapshot.doing, snapshot.what));
        self.time.set_position(snapshot.uptime_ms.clamp(0, snapshot.duration_ms) as u64);
        self.time.set_message(format!("{} elapsed, {} left", clock(snapshot.uptime_ms), clock(left_ms)));
        self.facts.set_message(facts(snapshot));
    }
}

/// Everything but the time, in one line.
fn facts(snapshot: &Snapshot) -> String {
    let mut parts = Vec::new();
    parts.push(match snapshot.tokens_per_second {
        Some(rate) => format!("{rate:.1} tok/s"),
        None => snapshot.doing.to_owned(),
    });
    if let Some(rss) = snapshot.worker_rss_bytes {
        let anon = snapshot
            .worker_anon_swap_bytes
            .map_or(String::new(), |anon| format!(", anon+swap {}", megabytes(anon as f64)));
        parts.push(format!("RSS {}{anon}", megabytes(rss as f64)));
    }
    parts.push(drift(snapshot));
    parts.push(match &snapshot.judgement {
        Some(judgement) if judgement.verdict != Verdict::Inconclusive => {
            format!("so far {}", judgement.verdict.as_str())
        }
        _ => "no verdict yet".to_owned(),
    });
    let (firing, fired) = snapshot.alerts;
    parts.push(format!("alerts: {firing} firing, {fired} fired"));
    for (count, what) in
        [(snapshot.crashes, "crashes"), (snapshot.hangs, "hangs"), (snapshot.mismatches, "golden mismatches")]
    {
        if count > 0 {
            parts.push(format!("{what}: {count}"));
        }
    }
    if snapshot.is_disk_in_trouble {
        parts.push("THE DATABASE CANNOT BE WRITTEN".to_owned());
    }
    parts.join(" | ")
}

/// The drift of what the first worker really holds.
fn drift(snapshot: &Snapshot) -> String {
    let of_worker = |kind| {
        move |look: &&crate::supervisor::watch::Look| look.key.role == Some(Role::Worker) && look.key.kind == kind
    };
    let look = snapshot.looks.iter().find(of_worker(SeriesKind::AnonSwap));
    match look {
        Some(look) if look.finding.drift_is_known() => {
            let [lo, hi] = look.finding.drift_ci95_bytes;
            let drift = signed_megabytes(look.finding.drift_bytes);
            format!("drift {drift} (95 %: {} to {})", signed_megabytes(lo), signed_megabytes(hi))
        }
        _ => "drift not known yet".to_owned(),
    }
}

/// `1:02:03`.
fn clock(ms: i64) -> String {
    let seconds = ms / 1_000;
    format!("{}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_reads_as_a_clock() {
        assert_eq!(clock(0), "0:00:00");
        assert_eq!(clock(48 * 3_600_000 + 61_999), "48:01:01");
    }
}
