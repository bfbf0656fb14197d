//! `soakd compare`: did it get worse? The intervals are `analysis::compare`'s, the figures those of `report::gates`.

use super::report::{print, read_run};
use super::{CannotStart, Done, Outcome};
use crate::analysis::compare::{Claim, Contrast, FAMILY_ERROR, contrast};
use crate::model::facts::RunFacts;
use crate::report::gates::{self, Measure, Metric};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Did it get worse? Replicated runs, group against group.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  soakd compare 1,2,3 4,5,6            three runs on the old driver against three on the new one
  soakd compare 1 2 3 4 5 6            runs of one setup (model, GPU, driver, ...) are one group
  soakd compare old.db:1,2 new.db:1,2  across databases
  soakd compare old.db new.db          the newest run of each: shown, and nothing is claimed
  soakd compare 1,2 3,4 --format csv | awk -F, '$10 == \"worse\"'

The first group is what the others are held against. Intervals are 95 % over all comparisons together (Welch, Bonferroni). \
One run in a group has no scatter to judge by: its figures are shown, and nothing is claimed.

Exit code: 0 nothing is worse, 1 something is, 2 could not start, 3 nothing could be claimed for want of replicates.")]
pub struct Args {
    /// Runs: an id, several with commas (one group), FILE:ids, or FILE for its newest run
    #[arg(required = true, num_args = 2.., value_name = "RUNS")]
    runs: Vec<String>,
    /// The database of runs without a FILE
    #[arg(long, value_name = "FILE", default_value = "soak.db")]
    db: PathBuf,
    /// Text for people, JSON or CSV for programs
    #[arg(long, value_enum, default_value_t)]
    format: CompareFormat,
}

/// Forms of a comparison.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum CompareFormat {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
    /// A line for each figure and group, plain numbers
    Csv,
}

/// Figures that are compared, and whether more of them is better.
const FIGURES: [(&str, bool); 9] = [
    ("throughput_tokens_per_s", true),
    ("token_p50_ms", false),
    ("token_p95_ms", false),
    ("token_p99_ms", false),
    ("first_token_p95_ms", false),
    ("drift_bytes", false),
    ("vram_bytes_max", false),
    ("crashes", false),
    ("uptime_ratio", true),
];

struct Group {
    name: String,
    runs: Vec<RunFacts>,
}

struct Line {
    metric: &'static Metric,
    other: usize,
    contrast: Contrast,
    worse: bool,
}

/// Reads, compares, prints.
pub fn execute(args: &Args) -> Done {
    let groups = groups(args)?;
    let lines = compare(&groups);
    let rendered = match args.format {
        CompareFormat::Text => text(&groups, &lines),
        CompareFormat::Json => format!("{:#}\n", json(&groups, &lines)),
        CompareFormat::Csv => csv(&lines),
    };
    print(&rendered)?;
    Ok(if lines.iter().any(|l| l.worse) {
        Outcome::Failed
    } else if lines.iter().all(|l| l.contrast.claim == Claim::TooFewRuns) {
        Outcome::Inconclusive
    } else {
        Outcome::Passed
    })
}

fn groups(args: &Args) -> Result<Vec<Group>, CannotStart> {
    let mut groups = Vec::new();
    for word in &args.runs {
        let (db, ids) = match word.rsplit_once(':') {
            Some((file, ids)) => (Path::new(file), ids),
            None => (args.db.as_path(), word.as_str()),
        };
        let mut runs = Vec::new();
        if Path::new(word).is_file() && word.parse::<i64>().is_err() {
            runs.push(read_run(Path::new(word), None, 64)?);
        } else {
            for id in ids.split(',') {
                let id: i64 = id.trim().parse().map_err(|_| {
                    CannotStart(format!(
                        "{word:?} names no runs and no file; write ids like 3, or 1,2,3, or FILE:1,2 (`soakd runs` lists them)"
                    ))
                })?;
                runs.push(read_run(db, Some(id), 64)?);
            }
        }
        groups.push(Group { name: word.clone(), runs });
    }
    let listed = groups.iter().any(|g| g.runs.len() > 1);
    if listed || groups.len() == 2 {
        return Ok(groups);
    }
    let mut alike: Vec<Group> = Vec::new();
    for run in groups.iter().flat_map(|g| &g.runs) {
        let name = setup(run);
        match alike.iter_mut().find(|g| g.name == name) {
            Some(group) => group.runs.push(run.clone()),
            None => alike.push(Group { name, runs: vec![run.clone()] }),
        }
    }
    Ok(if alike.len() >= 2 { alike } else { groups })
}

/// What makes runs replicates of one another.
fn setup(run: &RunFacts) -> String {
    let p = &run.plan;
    let devices: Vec<String> = run.devices.iter().map(|d| format!("{} driver {}", d.name, d.driver)).collect();
    let machine = if devices.is_empty() { p.backend.clone() } else { devices.join(", ") };
    if p.backend == "none" {
        // A target of the user's has no variant and no streams of ours.
        return if devices.is_empty() { p.model.clone() } else { format!("{} on {machine}", p.model) };
    }
    format!("{} {} × {} {} on {machine}", p.model, p.variant, p.streams, p.scenario)
}

fn compare(groups: &[Group]) -> Vec<Line> {
    let comparisons = FIGURES.len() * (groups.len() - 1);
    let mut lines = Vec::new();
    for (name, more_is_better) in FIGURES {
        let Some(metric) = gates::metric(name) else { continue };
        let values = |g: &Group| g.runs.iter().filter_map(|run| gates::read(metric, run)).collect::<Vec<f64>>();
        let first = values(&groups[0]);
        for (other, group) in groups.iter().enumerate().skip(1) {
            let contrast = contrast(&first, &values(group), comparisons);
            let worse = contrast.claim == if more_is_better { Claim::Lower } else { Claim::Higher };
            lines.push(Line { metric, other, contrast, worse });
        }
    }
    lines
}

fn said(line: &Line) -> &'static str {
    match line.contrast.claim {
        Claim::Higher | Claim::Lower if line.worse => "worse",
        Claim::Higher | Claim::Lower => "better",
        Claim::NotSeen => "no difference seen",
        Claim::NoScatter => "no scatter to judge by",
        Claim::TooFewRuns if line.contrast.first.is_none() || line.contrast.second.is_none() => "not measured",
        Claim::TooFewRuns => "cannot say: one run has no scatter",
    }
}

fn text(groups: &[Group], lines: &[Line]) -> String {
    let mut out = String::new();
    for (i, group) in groups.iter().enumerate() {
        let ids: Vec<String> = group.runs.iter().map(|r| r.run_id.to_string()).collect();
        let mut setups: Vec<String> = group.runs.iter().map(setup).collect();
        setups.sort();
        setups.dedup();
        let runs = if ids.len() == 1 { "run" } else { "runs" };
        let _ = writeln!(out, "{}: {runs} {} ({})", letter(i), ids.join(", "), setups.join(" | "));
        if setups.len() > 1 {
            let _ = writeln!(out, "   these are no replicates of one another");
        }
    }
    for other in 1..groups.len() {
        let name = letter(other);
        let head = ["", "A", &name.to_string(), "difference", "95 % interval", &format!("{name} against A")]
            .map(str::to_owned);
        let rows = lines.iter().filter(|line| line.other == other).map(cells);
        out.push('\n');
        aligned(&mut out, &std::iter::once(head).chain(rows).collect::<Vec<_>>());
    }
    if lines.iter().all(|l| l.contrast.claim == Claim::TooFewRuns) {
        out.push_str("\nNothing is claimed: runs differ from one another even when nothing was changed, and one run each does not show by how much.\nSoak each side at least twice (three times is better) and compare the groups: soakd compare 1,2,3 4,5,6\n");
    }
    out
}

fn cells(line: &Line) -> [String; 6] {
    let write = |v: Option<f64>| v.map_or_else(|| "-".into(), |v| gates::write(line.metric, v));
    let (difference, interval) = match line.contrast.difference {
        Some((d, [lo, hi])) => {
            (signed(line.metric, d), format!("{} to {}", signed(line.metric, lo), signed(line.metric, hi)))
        }
        None => ("-".into(), "-".into()),
    };
    let [first, second] = [line.contrast.first, line.contrast.second].map(write);
    [line.metric.name.to_owned(), first, second, difference, interval, said(line).to_owned()]
}

/// Figures to the right, words to the left; no column is narrower than what is in it.
fn aligned(out: &mut String, rows: &[[String; 6]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let [name, first, second, difference, interval] = [0, 1, 2, 3, 4].map(width);
    for [a, b, c, d, e, f] in rows {
        let _ = writeln!(out, "{a:name$}  {b:>first$}  {c:>second$}  {d:>difference$}  {e:>interval$}  {f}");
    }
}

/// One line each; empty where nothing is known.
fn csv(lines: &[Line]) -> String {
    let mut out =
        "metric,group,first_mean,second_mean,first_runs,second_runs,difference,difference_low,difference_high,says\n"
            .to_owned();
    for line in lines {
        let number = |v: Option<f64>| v.map_or_else(String::new, |v| v.to_string());
        let (d, interval) = line.contrast.difference.unzip();
        let fields = [
            line.metric.name.to_owned(),
            letter(line.other).to_string(),
            number(line.contrast.first),
            number(line.contrast.second),
            line.contrast.runs[0].to_string(),
            line.contrast.runs[1].to_string(),
            number(d),
            number(interval.map(|i| i[0])),
            number(interval.map(|i| i[1])),
            said(line).to_owned(),
        ];
        let _ = writeln!(out, "{}", fields.join(","));
    }
    out
}

fn letter(i: usize) -> char {
    char::from(b'A' + (i.min(25)) as u8)
}

fn signed(metric: &Metric, value: f64) -> String {
    let size = if metric.measure == Measure::Ratio {
        format!("{:.2} points", value.abs() * 100.0)
    } else {
        gates::write(metric, value.abs())
    };
    let sign = if size.chars().any(|c| ('1'..='9').contains(&c)) { if value < 0.0 { "−" } else { "+" } } else { "" };
    format!("{sign}{size}")
}

fn json(groups: &[Group], lines: &[Line]) -> serde_json::Value {
    serde_json::json!({
        "family_error": FAMILY_ERROR,
        "groups": groups.iter().map(|g| serde_json::json!({
            "name": g.name, "runs": g.runs.iter().map(|r| r.run_id).collect::<Vec<_>>(),
            "setups": g.runs.iter().map(setup).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
        "comparisons": lines.iter().map(|l| serde_json::json!({
            "metric": l.metric.name, "first": 0, "second": l.other, "first_mean": l.contrast.first,
            "second_mean": l.contrast.second, "runs": l.contrast.runs, "difference": l.contrast.difference.map(|d| d.0),
            "difference_ci95": l.contrast.difference.map(|d| d.1), "worse": l.worse, "says": said(l),
        })).collect::<Vec<_>>(),
    })
}
