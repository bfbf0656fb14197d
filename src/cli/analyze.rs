//! `soakd analyze`: the verdict on a memory series in a CSV file. The mathematics is left to `analysis`.

mod csv_points;

use super::{CannotStart, Done, Format, Outcome};
use crate::analysis::{Detector, Params};
use crate::model::finding::{Finding, Verdict};
use crate::model::series::Point;
use csv_points::Notes;
use std::path::PathBuf;

/// Judge whether the memory in a file drifts by more than the tolerance.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  soakd analyze rss.csv
  soakd analyze rss.csv --tolerance 20MB --horizon 24h --replay
  soakd analyze rss.csv --format json | jq .verdict

The file has the header unix_s,bytes[,segment[,requests]]: seconds since the epoch, bytes, optionally a number that
changes whenever the process restarts, and the requests finished so far.

Exit code: 0 within, 1 outside, 2 the file could not be read, 3 inconclusive.")]
pub struct Args {
    /// CSV with the header unix_s,bytes[,segment[,requests]]
    file: PathBuf,
    /// Acceptable drift over the horizon, either way, such as 50MB or 20MiB
    #[arg(long, default_value = "50MB", value_parser = parse_bytes)]
    tolerance: f64,
    /// The time over which drift is stated, such as 48h or 30m
    #[arg(long, default_value = "48h", value_parser = parse_seconds)]
    horizon: f64,
    /// Also say when a live run, looked at every minute, would have rung
    #[arg(long)]
    replay: bool,
    /// Text for people or JSON for programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Seconds between two looks of a live run.
const LOOK_S: f64 = 60.0;

/// Reads, judges, prints.
pub fn execute(args: &Args) -> Done {
    let params = Params { tolerance_bytes: args.tolerance, horizon_s: args.horizon, series_count: 1 };
    let mut watch = Watch::new(params, args.replay);
    let notes = csv_points::read(&args.file, &mut |point| watch.push(point))?;
    let finding = watch.detector.look();
    match args.format {
        Format::Json => println!("{}", json(&finding, &notes, args.replay)?),
        Format::Text => print!("{}", text(&finding, args)),
    }
    Ok(match finding.verdict {
        Verdict::Within => Outcome::Passed,
        Verdict::Outside => Outcome::Failed,
        Verdict::Inconclusive => Outcome::Inconclusive,
    })
}

/// A detector that is looked at every minute of the series' own time, as in a live run.
struct Watch {
    detector: Detector,
    replay: bool,
    next_look_unix_s: f64,
}

impl Watch {
    fn new(params: Params, replay: bool) -> Self {
        Watch { detector: Detector::new(params), replay, next_look_unix_s: f64::NEG_INFINITY }
    }

    fn push(&mut self, point: Point) {
        let now = point.unix_s;
        self.detector.push(point);
        if self.replay && (now >= self.next_look_unix_s || now < self.next_look_unix_s - 2.0 * LOOK_S) {
            self.next_look_unix_s = now + LOOK_S;
            self.detector.look();
        }
    }
}

fn json(finding: &Finding, notes: &Notes, replay: bool) -> Result<String, CannotStart> {
    let mut value = serde_json::to_value(finding).map_err(CannotStart::because)?;
    if let Some(object) = value.as_object_mut() {
        if !replay {
            object.remove("first_alarm_unix_s");
        }
        object.insert("notes".into(), serde_json::Value::from(notes.sentences()));
    }
    serde_json::to_string_pretty(&value).map_err(CannotStart::because)
}

fn text(f: &Finding, args: &Args) -> String {
    format!(
        "{}: drift {:.1} MB over {:.0} h (95 % interval {:.1} to {:.1}); tolerance ±{:.1} MB\n",
        f.verdict.as_str(),
        f.drift_bytes / 1e6,
        args.horizon / 3600.0,
        f.drift_ci95_bytes[0] / 1e6,
        f.drift_ci95_bytes[1] / 1e6,
        args.tolerance / 1e6
    )
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
