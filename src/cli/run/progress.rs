//! Live progress: a few lines that stay in place on a terminal, a plain line now and then in a pipe, nothing as JSON.

use super::Format;
use crate::cli::terminal::Lines;
use crate::config::Config;
use crate::model::finding::Verdict;
use crate::model::sample::Role;
use crate::model::series::SeriesKind;
use crate::supervisor::Snapshot;
use crate::supervisor::watch::{megabytes, signed_megabytes};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::Write;
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
    lines: Lines,
    screen: ProgressBar,
}

/// Columns of the bar, where there is room.
const BAR: usize = 30;

impl Display {
    /// A display for a run of `config`.
    pub fn new(config: &Config, format: Format) -> Display {
        let duration_ms = config.run.duration.as_millis() as i64;
        Display {
            bars: Lines::on_stderr().filter(|_| format == Format::Text).map(Bars::new),
            next_line_ms: AtomicI64::new(0),
            // A log of two days has some two hundred lines; one of half a minute still shows that something happens.
            line_every_ms: (duration_ms / 20).clamp(10_000, 900_000),
            quiet: format == Format::Json,
        }
    }

    /// The bars, for whoever wants to write past them.
    pub fn bars(&self) -> Option<Lines> {
        self.bars.as_ref().map(|bars| bars.lines.clone())
    }

    /// Takes the bars away.
    pub fn clear(&self) {
        if let Some(bars) = &self.bars {
            bars.screen.finish_and_clear();
        }
    }

    /// Shows a snapshot.
    pub fn show(&self, snapshot: &Snapshot) {
        if self.quiet {
            return;
        }
        if let Some(bars) = &self.bars {
            bars.screen.set_message(screen(snapshot, bars.lines.columns()));
        } else if snapshot.uptime_ms >= self.next_line_ms.load(Ordering::Relaxed) {
            self.next_line_ms.store(snapshot.uptime_ms + self.line_every_ms, Ordering::Relaxed);
            let times = format!("{} of {}", clock(snapshot.uptime_ms), clock(snapshot.duration_ms));
            // A pipe that nobody reads is no reason to stop soaking.
            let _ = writeln!(std::io::stderr(), "{} {times}: {}", snapshot.what, facts(snapshot).join(BETWEEN));
        }
    }
}

impl Bars {
    fn new(lines: Lines) -> Bars {
        let screen = lines.all.add(ProgressBar::no_length());
        screen.set_style(ProgressStyle::with_template("{msg}").expect("a template of ours"));
        Bars { lines, screen }
    }
}

/// What a terminal of so many columns shows: how far the run is, then the facts in as many lines as they take.
fn screen(snapshot: &Snapshot, columns: usize) -> String {
    let room = columns.saturating_sub(1); // not all: some terminals break a line that is full
    let elapsed_ms = snapshot.uptime_ms.clamp(0, snapshot.duration_ms.max(0));
    let (begin, end) = (format!("run {} {} [", snapshot.run_id, snapshot.doing), clock(snapshot.uptime_ms));
    let end = format!("] {end} elapsed, {} left", clock(snapshot.duration_ms - elapsed_ms));
    let bar = room.saturating_sub(begin.len() + end.len()).min(BAR);
    let done = (bar as i64 * elapsed_ms / snapshot.duration_ms.max(1)) as usize;
    let arrow = if done < bar { ">" } else { "" };
    let mut lines = vec![format!("{begin}{:<bar$}{end}", format!("{}{arrow}", "=".repeat(done)))];
    let mut line = format!("  {}", snapshot.what);
    for fact in facts(snapshot) {
        if line.chars().count() + BETWEEN.len() + fact.len() <= room {
            line += &format!("{BETWEEN}{fact}");
        } else {
            lines.push(std::mem::replace(&mut line, format!("  {fact}")));
        }
    }
    lines.push(line);
    lines.iter().map(|line| line.chars().take(room).collect::<String>()).collect::<Vec<_>>().join("\n")
}

/// Between two facts in one line.
const BETWEEN: &str = " | ";

/// Everything but the time.
fn facts(snapshot: &Snapshot) -> Vec<String> {
    let mut parts = Vec::new();
    parts.push(match snapshot.tokens_per_second {
        Some(rate) => format!("{rate:.1} tok/s"),
        None => snapshot.doing.to_owned(),
    });
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
    if let Some(rss) = snapshot.worker_rss_bytes {
        let anon = snapshot
            .worker_anon_swap_bytes
            .map_or(String::new(), |anon| format!(", anon+swap {}", megabytes(anon as f64)));
        parts.push(format!("RSS {}{anon}", megabytes(rss as f64)));
    }
    parts.push(drift(snapshot));
    parts
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

    fn snapshot(crashes: i64) -> Snapshot {
        Snapshot {
            run_id: 12,
            uptime_ms: 21_000,
            duration_ms: 48 * 3_600_000,
            what: "synthetic:tiny (steady, 16 streams)".into(),
            doing: "loading the model",
            tokens_per_second: Some(123_456.7),
            looks: Vec::new(),
            worker_rss_bytes: Some(12_345_678_901),
            worker_anon_swap_bytes: Some(12_345_678_901),
            own_rss_bytes: None,
            judgement: None,
            crashes,
            hangs: 0,
            mismatches: 0,
            alerts: (1, 12),
            is_disk_in_trouble: crashes > 0,
        }
    }

    #[test]
    fn a_narrow_terminal_shows_all_of_it_and_breaks_no_line() {
        for columns in [60, 80, 200] {
            let shown = screen(&snapshot(3), columns);
            let lines: Vec<&str> = shown.lines().collect();
            assert!(lines.iter().all(|line| line.chars().count() < columns), "{columns} columns:\n{shown}");
            assert!(lines[0].contains("[>") && lines[0].ends_with("0:00:21 elapsed, 47:59:39 left"), "{shown}");
            for what in ["crashes: 3", "alerts: 1 firing, 12 fired", "no verdict yet", "RSS 12346 MB, anon", "CANNOT"] {
                assert!(shown.contains(what), "{columns} columns, {what}:\n{shown}");
            }
        }
        assert_eq!(screen(&snapshot(0), 200).lines().count(), 2, "and a wide one takes no more lines than it needs");
        assert!(screen(&snapshot(0), 9).lines().all(|line| line.len() < 9));
    }

    #[test]
    fn time_reads_as_a_clock() {
        assert_eq!(clock(0), "0:00:00");
        assert_eq!(clock(48 * 3_600_000 + 61_999), "48:01:01");
    }
}
