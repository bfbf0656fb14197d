//! `soakd analyze`: the verdict on a memory series in a CSV file or a database. The mathematics is left to `analysis`.

mod csv_points;
mod words;

use super::report::{print, read_run};
use super::{CannotStart, Done, Format, Outcome};
use crate::analysis::{Detector, Params};
use crate::model::columns::{Column, Thinner};
use crate::model::event::EventSeverity;
use crate::model::facts::RunFacts;
use crate::model::finding::{CourseRow, Finding, Verdict};
use crate::model::series::Point;
use crate::report::plot::{Mark, Panel, Picture, Span, Tolerance};
use crate::report::scale::Unit;
use csv_points::Notes;
use std::path::{Path, PathBuf};
use words::Context;

/// Judge whether memory drifts by more than the tolerance, from a CSV file or a run's database.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  soakd analyze rss.csv
  soakd analyze rss.csv --tolerance 20MB --horizon 24h --replay
  soakd analyze rss.csv --plot rss.png
  soakd analyze rss.csv --format json | jq .verdict
  soakd analyze --db soak.db --run 3 --series worker-0.anon_swap

The file has the header unix_s,bytes[,segment[,requests]]: seconds since the epoch, bytes, optionally a number that \
changes whenever the process restarts, and the requests finished so far. Any sampling interval will do, gaps too.

JSON has verdict, shape, drift_bytes, drift_ci95_bytes, slope_bytes_per_hour (per_request), when
the tolerance is used up (crossing_unix_s) and since when it grows (onset_unix_s); steps of the
level, what goes with the load and the day (load_swing_bytes, day_swing_bytes) and what has not
settled (unsettled_bytes) are told beside the drift. Null: none, or not known yet.

Exit code: 0 within, 1 outside, 2 the input could not be read, 3 inconclusive. docs/verdict.md explains the method.")]
pub struct Args {
    /// CSV with the header unix_s,bytes[,segment[,requests]]
    #[arg(required_unless_present = "db", conflicts_with = "db")]
    file: Option<PathBuf>,
    /// A database that soakd wrote, in place of a file
    #[arg(long)]
    db: Option<PathBuf>,
    /// Run in that database; the newest if not given
    #[arg(long, requires = "db")]
    run: Option<i64>,
    /// Series of that run, such as worker-0.anon_swap; may be left out if the run has only one
    #[arg(long, requires = "db")]
    series: Option<String>,
    /// Acceptable drift over the horizon, either way, such as 50MB or 20MiB
    #[arg(long, default_value = "50MB", value_parser = parse_bytes)]
    tolerance: f64,
    /// The time over which drift is stated, such as 48h or 30m
    #[arg(long, default_value = "48h", value_parser = parse_seconds)]
    horizon: f64,
    /// Also say when a live run, looked at every minute, would first have rung
    #[arg(long)]
    replay: bool,
    /// Draw samples, fit, tolerance and alarm into this file (.svg or .png)
    #[arg(long)]
    plot: Option<PathBuf>,
    /// Text for people or JSON for programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Columns of a run that are read from a database: one a minute for a fortnight, which is what the analysis makes of samples anyway.
const RUN_COLUMNS: usize = 20_160;
/// Width of the columns of a plot, seconds.
const COLUMN_S: f64 = 60.0;

/// Reads, judges, prints.
pub fn execute(args: &Args) -> Done {
    if let Some(path) = &args.plot {
        plot_kind(path)?;
    }
    let params = Params { tolerance_bytes: args.tolerance, horizon_s: args.horizon, series_count: 1 };
    let (name, judged, notes) = match (&args.file, &args.db) {
        (Some(path), _) => {
            let (judged, notes) = judge_file(path, params)?;
            (
                path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned()),
                judged,
                notes,
            )
        }
        (None, Some(db)) => {
            let facts = read_run(db, args.run, RUN_COLUMNS)?;
            judge_series(&facts, args.series.as_deref(), params)?
        }
        (None, None) => return Err(CannotStart("give a CSV file, or --db with a database".into())),
    };
    let finding = judged.detector.look();
    let notes =
        Notes { outliers: judged.detector.outliers(), aside_s: judged.detector.set_aside_s().round() as u64, ..notes };
    let columns = judged.columns.map(Thinner::finish).unwrap_or_default();
    if let Some(path) = &args.plot {
        let warm_up = judged.first_unix_s.zip(judged.detector.warm_up_s()).map(|(from_s, long_s)| Span {
            from_s,
            to_s: from_s + long_s,
            label: "set aside".into(),
        });
        draw(path, &name, &finding, (columns.clone(), judged.detector.course()), warm_up, params)?;
    }
    match args.format {
        Format::Json => print(&json(&finding, &notes, args.replay)?)?,
        Format::Text => {
            let context = Context {
                name: &name,
                tolerance_bytes: args.tolerance,
                horizon_s: args.horizon,
                first_unix_s: judged.first_unix_s,
                replay: args.replay,
                columns: &columns,
                notes: &notes,
            };
            print(&words::text(&finding, &context))?;
        }
    }
    Ok(match finding.verdict {
        Verdict::Within => Outcome::Passed,
        Verdict::Outside => Outcome::Failed,
        Verdict::Inconclusive => Outcome::Inconclusive,
    })
}

/// A series under judgement, and its columns for a picture.
struct Judged {
    detector: Detector,
    columns: Option<Thinner>,
    first_unix_s: Option<f64>,
}

impl Judged {
    fn new(params: Params) -> Self {
        Judged { detector: Detector::new(params), columns: None, first_unix_s: None }
    }

    fn push(&mut self, point: Point) {
        self.first_unix_s.get_or_insert(point.unix_s);
        self.columns.get_or_insert_with(|| Thinner::new(point.unix_s, COLUMN_S)).push(
            point.unix_s,
            point.bytes,
            point.segment,
        );
        self.detector.push(point);
    }
}

fn judge_file(path: &Path, params: Params) -> Result<(Judged, Notes), CannotStart> {
    let mut judged = Judged::new(params);
    let notes = csv_points::read(path, &mut |point| judged.push(point))?;
    if !notes.shuffled() {
        return Ok((judged, notes));
    }
    let mut judged = Judged::new(params);
    let notes = csv_points::read_sorted(path, &notes, &mut |point| judged.push(point))?;
    Ok((judged, notes))
}

fn judge_series(
    facts: &RunFacts,
    wanted: Option<&str>,
    params: Params,
) -> Result<(String, Judged, Notes), CannotStart> {
    let names: Vec<&str> = facts.series.iter().filter(|s| !s.columns.is_empty()).map(|s| s.name.as_str()).collect();
    let name = match (wanted, names.as_slice()) {
        (Some(name), _) => name,
        (None, [only]) => only,
        (None, _) => {
            return Err(CannotStart(format!("which series? Give --series with one of: {}", names.join(", "))));
        }
    };
    let Some(series) = facts.series.iter().find(|s| s.name == name && !s.columns.is_empty()) else {
        return Err(CannotStart(format!("the run has no samples of a series {name}; it has: {}", names.join(", "))));
    };
    let mut judged = Judged::new(params);
    for c in &series.columns {
        judged.push(Point { unix_s: c.unix_s, bytes: c.median, segment: c.segment, requests: None });
    }
    Ok((name.to_owned(), judged, Notes::default()))
}

/// `svg` or `png`, by the file's ending.
fn plot_kind(path: &Path) -> Result<&str, CannotStart> {
    match path.extension().and_then(|e| e.to_str()) {
        Some(kind @ ("svg" | "png")) => Ok(kind),
        _ => Err(CannotStart(format!("--plot {}: the file must end in .svg or .png", path.display()))),
    }
}

fn draw(
    path: &Path,
    name: &str,
    finding: &Finding,
    (columns, course): (Vec<Column>, Vec<CourseRow>),
    warm_up: Option<Span>,
    params: Params,
) -> Result<(), CannotStart> {
    let mut picture = Picture::of(Panel {
        title: name.to_owned(),
        unit: Unit::Bytes,
        columns,
        finding: Some(finding.clone()),
        tolerance: Some(Tolerance { bytes: params.tolerance_bytes, horizon_s: params.horizon_s }),
        course,
        warm_up,
        others: Vec::new(),
    });
    if let Some(unix_s) = finding.first_alarm_unix_s {
        picture.marks.push(Mark { unix_s, severity: EventSeverity::Error, label: "a live run would have rung".into() });
    }
    let bytes = match plot_kind(path)? {
        "svg" => picture.svg().into_bytes(),
        _ => picture.png(2).map_err(CannotStart::because)?,
    };
    std::fs::write(path, bytes)
        .map_err(|e| CannotStart(format!("cannot write {}: {e}. Check the folder and its permissions", path.display())))
}

fn json(finding: &Finding, notes: &Notes, replay: bool) -> Result<String, CannotStart> {
    let mut object = finding.fields();
    if !replay {
        object.remove("first_alarm_unix_s");
    }
    object.insert("notes".into(), serde_json::Value::from(notes.sentences()));
    let mut text = serde_json::to_string_pretty(&object).map_err(CannotStart::because)?;
    text.push('\n');
    Ok(text)
}

/// `50MB`, `20MiB`, `1.5GB`, or plain bytes.
fn parse_bytes(text: &str) -> Result<f64, String> {
    let units = [("", 1.0), ("b", 1.0), ("kb", 1e3), ("mb", 1e6), ("gb", 1e9), ("tb", 1e12)];
    let binary = [("kib", 1024.0), ("mib", 1_048_576.0), ("gib", 1_073_741_824.0)];
    let table: Vec<(&str, f64)> = units.into_iter().chain(binary).collect();
    parse_quantity(text, &table).ok_or_else(|| format!("'{text}' is not a size; write it like 50MB or 20MiB"))
}

/// `48h`, `90m`, `2d`, or plain seconds.
fn parse_seconds(text: &str) -> Result<f64, String> {
    let units = [("", 1.0), ("s", 1.0), ("m", 60.0), ("min", 60.0), ("h", 3600.0), ("d", 86_400.0)];
    parse_quantity(text, &units).ok_or_else(|| format!("'{text}' is not a time; write it like 48h or 30m"))
}

fn parse_quantity(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let text = text.trim();
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let number: f64 = text[..split].trim().parse().ok()?;
    let unit = text[split..].trim().to_ascii_lowercase();
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    let value = number * factor;
    (value.is_finite() && value > 0.0).then_some(value)
}
