//! `soakd report`: one run as a page to send around, as text, or as JSON. Reading is left to `store`, words and pictures
//! to `report`.

use super::{CannotStart, Done, Outcome};
use crate::clock;
use crate::model::facts::RunFacts;
use crate::report::gates::Evidence;
use crate::report::{gates, html, json, text};
use crate::store::{Mode, Store};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

/// What a run found, as a page to send around.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  soakd report                                  the newest run, as text
  soakd report --out report.html                one file, no network: open it, mail it, print it
  soakd report 3 --db soak.db --format json | jq '.series[] | {name, verdict, drift_bytes}'
  soakd report 3 --format html > run3.html

Without --format, --out says it: .json is JSON, .txt is text, anything else HTML. The exit code is 0 when the report was \
made, whatever it says; `soakd gate` is the command that judges.")]
pub struct Args {
    /// Which run, as `soakd runs` numbers them; the newest if left out
    run: Option<i64>,
    /// The database
    #[arg(long, value_name = "FILE", default_value = "soak.db")]
    db: PathBuf,
    /// Where to write it; standard output if left out
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// What to write
    #[arg(long, value_enum)]
    format: Option<ReportFormat>,
}

/// Forms of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ReportFormat {
    /// For terminals
    Text,
    /// For people: one self-contained file
    Html,
    /// For programs; field names are a contract
    Json,
}

/// A column a minute over 48 h: as fine as anyone zooms, and a page of about a megabyte.
pub(super) const COLUMNS_MAX: usize = 2_880;
/// Width of text where there is no terminal to ask.
const TEXT_WIDTH: usize = 100;

/// Reads, renders, writes.
pub fn execute(args: &Args) -> Done {
    let facts = read_run(&args.db, args.run, COLUMNS_MAX)?;
    let results = gates::judge(&Evidence { run: Some(&facts), ..Evidence::default() }, &super::gate::of_run(&facts)?);
    let rendered = match form(args) {
        ReportFormat::Text => text::render(&facts, &results, TEXT_WIDTH),
        ReportFormat::Html => html::render(&facts, &results).map_err(CannotStart::because)?,
        ReportFormat::Json => format!("{:#}\n", json::render(&facts, &results)),
    };
    match &args.out {
        Some(path) => {
            std::fs::write(path, &rendered).map_err(|e| {
                CannotStart(format!("cannot write {}: {e}. Check the folder and its permissions", path.display()))
            })?;
            if std::io::stderr().is_terminal() {
                eprintln!("wrote {} ({} kB)", path.display(), rendered.len().div_ceil(1000));
            }
        }
        None => print(&rendered)?,
    }
    Ok(Outcome::Passed)
}

fn form(args: &Args) -> ReportFormat {
    args.format.unwrap_or_else(|| match args.out.as_deref().map(|p| p.extension().and_then(|e| e.to_str())) {
        None | Some(Some("txt")) => ReportFormat::Text,
        Some(Some("json")) => ReportFormat::Json,
        Some(_) => ReportFormat::Html,
    })
}

/// To standard output; a reader that went away (`| head`) is no error.
pub(super) fn print(text: &str) -> Result<(), CannotStart> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(CannotStart::because(error)),
        _ => Ok(()),
    }
}

/// The facts of a run, the newest if none is named.
pub(super) fn read_run(db: &Path, run: Option<i64>, columns_max: usize) -> Result<RunFacts, CannotStart> {
    let store = Store::open(db, Mode::ReadOnly).map_err(CannotStart::because)?;
    let newest = || store.newest_run().map_err(CannotStart::because);
    let run_id = match run {
        Some(run_id) => run_id,
        None => newest()?.ok_or_else(|| {
            CannotStart(format!("{} holds no run yet: `soakd run --db {}` makes one", db.display(), db.display()))
        })?,
    };
    let facts = store.run_facts(run_id, columns_max, clock::now().wall).map_err(CannotStart::because)?;
    if let Some(facts) = facts {
        return Ok(facts);
    }
    let remedy = match newest()? {
        Some(last) => format!("its newest is run {last}; `soakd runs --db {}` lists them", db.display()),
        None => "it holds none yet".into(),
    };
    Err(CannotStart(format!("there is no run {run_id} in {}: {remedy}", db.display())))
}
