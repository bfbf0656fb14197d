//! What a drill looks like: a line for each fault while it is played, and the table when it is over.

use super::super::Format;
use super::fault::{Fault, Played};
use crate::cli::mail::setup;
use crate::cli::terminal::{self, Lines};
use crate::config::{Config, Transport};
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// Columns of the table where the terminal does not say how many it has.
const WIDTH: u16 = 120;

/// The lines while it lasts: in place on a terminal, one after the other in a pipe, none as JSON.
pub struct Live {
    bars: Option<(Lines, Vec<(Fault, ProgressBar)>)>,
    quiet: bool,
}

impl Live {
    /// Says what is going to happen.
    pub fn new(chosen: &[Fault], config: &Config, format: Format) -> Live {
        let quiet = format == Format::Json;
        if !quiet {
            let to = match config.mail.transport {
                Transport::None => "nowhere but a folder of the drill's own: mail.transport is none".to_owned(),
                _ => setup::destination(&config.mail),
            };
            let plural = if chosen.len() == 1 { "" } else { "s" };
            tell(&format!(
                "Drill: {} fault{plural}, each in a soak of its own; your database is not touched.",
                chosen.len()
            ));
            tell(&format!("Mails go to {to}, with [DRILL] in the subject.\n"));
        }
        let style =
            ProgressStyle::with_template("{spinner} {prefix:<11} {wide_msg} {elapsed:>5}").expect("a template of ours");
        let bars = Lines::on_stderr().filter(|_| !quiet).map(|lines| {
            let bar = |fault: &Fault| {
                let bar = lines.all.add(ProgressBar::new_spinner().with_style(style.clone()).with_prefix(fault.name()));
                bar.set_message("its turn comes");
                (*fault, bar)
            };
            let bars = chosen.iter().map(bar).collect();
            (lines, bars)
        });
        Live { bars, quiet }
    }

    /// What a fault waits for now.
    pub fn say(&self, fault: Fault, what: &str) {
        match self.bar(fault) {
            Some(bar) => {
                if bar.message() == "its turn comes" {
                    bar.reset_elapsed();
                    bar.enable_steady_tick(Duration::from_millis(200));
                }
                bar.set_message(what.to_owned());
            }
            None if !self.quiet => tell(&format!("{:<11} {what}", fault.name())),
            None => {}
        }
    }

    /// A fault is over.
    pub fn end(&self, played: &Played) {
        let said = format!("{}: {}", word(played), played.skipped.as_deref().unwrap_or(&played.seen));
        match self.bar(played.fault) {
            Some(bar) => bar.finish_with_message(said),
            None if !self.quiet => tell(&format!("{:<11} {said}", played.fault.name())),
            None => {}
        }
    }

    /// Takes the lines away: the table says it all.
    pub fn clear(&self) {
        if let Some((lines, _)) = &self.bars {
            let _ = lines.all.clear(); // it cannot fail: see `terminal`
        }
    }

    fn bar(&self, fault: Fault) -> Option<&ProgressBar> {
        let (_, bars) = self.bars.as_ref()?;
        bars.iter().find(|(of, _)| *of == fault).map(|(_, bar)| bar)
    }
}

/// The faults, without doing anything.
pub fn list(chosen: &[Fault], format: Format) {
    if format == Format::Json {
        let faults: Vec<_> = chosen
            .iter()
            .map(|fault| serde_json::json!({ "fault": fault, "does": fault.does(), "expected": fault.expects() }))
            .collect();
        return put(&format!("{:#}\n", serde_json::json!({ "faults": faults })));
    }
    let mut table = table(&["fault", "what is done", "what should happen then"]);
    for fault in chosen {
        table.add_row([fault.name(), fault.does(), fault.expects()]);
    }
    put(&format!("{}\n", trimmed(&table)));
}

/// The result.
pub fn print(played: &[Played], config: &Config, kept: Option<&Path>, format: Format) {
    let passed = played.iter().all(|played| played.rang || played.skipped.is_some());
    if format == Format::Json {
        let document = serde_json::json!({
            "passed": passed,
            "mails_to": setup::destination(&config.mail),
            "kept": kept,
            "faults": played,
        });
        return put(&format!("{document:#}\n"));
    }
    let mut table = table(&["fault", "expected", "seen", "recorded", "mailed", "recovered", "alarm"]);
    for one in played {
        let seconds = |s: Option<f64>| s.map_or("-".to_owned(), |s| format!("{s:.1} s"));
        table.add_row([
            one.fault.name().to_owned(),
            one.expected.to_owned(),
            one.skipped.clone().unwrap_or_else(|| one.seen.clone()),
            seconds(one.recorded_s),
            seconds(one.mailed_s),
            seconds(one.recovered_s),
            word(one).to_owned(),
        ]);
    }
    let mut out =
        format!("{}\n\nSeconds count from the fault; - where there is nothing to wait for.\n", trimmed(&table));
    for one in played.iter().filter(|one| one.skipped.is_none()) {
        if let Some(how) = &one.speeded_up {
            out.push_str(&format!("Speeded up, {}: {how}.\n", one.fault.name()));
        }
    }
    let mails: Vec<&String> = played.iter().flat_map(|one| &one.mails).collect();
    if !mails.is_empty() {
        let to = match config.mail.transport {
            Transport::None => "the drill's own folder".to_owned(),
            _ => setup::destination(&config.mail),
        };
        out.push_str(&format!("\n{} mails were handed to {to}; look whether they arrived:\n", mails.len()));
        mails.iter().for_each(|subject| out.push_str(&format!("  {subject}\n")));
    }
    if let Some(kept) = kept {
        out.push_str(&format!("\nDatabases, logs and mails of the drill: {}\n", kept.display()));
    }
    let silent: Vec<&str> =
        played.iter().filter(|one| !one.rang && one.skipped.is_none()).map(|one| one.fault.name()).collect();
    out.push_str(&match silent.as_slice() {
        [] => "\nEvery alarm rang.\n".to_owned(),
        silent => format!("\nNOT EVERY ALARM RANG: {}.\n", silent.join(", ")),
    });
    put(&out);
}

fn word(played: &Played) -> &'static str {
    match (&played.skipped, played.rang) {
        (Some(_), _) => "skipped",
        (None, true) => "rang",
        (None, false) => "DID NOT RING",
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(terminal::size(std::io::stdout()).map_or(WIDTH, |(_, columns)| columns.max(80)));
    table.set_header(header.to_vec());
    table
}

/// Without the blanks that a table without lines ends its lines with.
fn trimmed(table: &Table) -> String {
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// A line to whoever watches; a pipe that nobody reads is no reason to stop drilling.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn put(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes()); // nobody may be there to read it
}
