//! `soakd runs`: what has been soaked on this host, and how it ended.

use super::query::{Output, ask, print};
use super::{CannotStart, Done, Format, Outcome};
use crate::store::sql::Reader;
use std::path::PathBuf;

/// List the runs in the database.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  soakd runs
  soakd runs --db /var/lib/soakd/soak.db --format json | jq '.[] | select(.verdict == \"outside\")'")]
pub struct Args {
    /// The database
    #[arg(long, value_name = "FILE", default_value = "soak.db")]
    db: PathBuf,
    /// Text for people or JSON (all columns) for programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const TEXT_SQL: &str = "
SELECT run_id AS run, state, coalesce(verdict, 'not yet') AS verdict, started, watched_hours AS watched_h, planned_hours AS planned_h,
  model, variant, backend, streams, crashes, hangs, golden_mismatches AS mismatches FROM v_runs ORDER BY run_id";

/// Reads and prints.
pub fn execute(args: &Args) -> Done {
    let reader = Reader::open(&args.db).map_err(CannotStart::because)?;
    let (sql, output) = match args.format {
        Format::Text => (TEXT_SQL, Output::Text),
        Format::Json => ("SELECT * FROM v_runs ORDER BY run_id", Output::Json),
    };
    print(&ask(&reader, sql, 100_000, 30_000)?, output)?;
    Ok(Outcome::Passed)
}
