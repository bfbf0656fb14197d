//! `soakd query`: free SQL over the database, read-only, as a table, JSON or CSV. What the tables mean is told by
//! docs/database.md and, without SQL, by the command itself.

pub(super) mod table;

use super::{CannotStart, Done, Outcome, pager};
use crate::clock;
use crate::store::sql::{Limits, Reader, Rows};
use serde_json::{Map, Value};
use std::io::{Read, Write};
use std::path::PathBuf;

/// Ask the database with SQL.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  soakd query                                          what there is, and five queries to begin with
  soakd query 'SELECT * FROM v_runs'
  soakd query 'SELECT minute, rss_mb FROM v_memory WHERE run_id = 3' --format csv > memory.csv
  soakd query --db /var/lib/soakd/soak.db 'SELECT * FROM v_events ORDER BY at DESC' --limit 20
  soakd query - < question.sql

Only SELECT on soakd's tables and views. :now_ms is the present time in milliseconds. In a terminal the answer comes a page at a \
time, by $PAGER or less; PAGER=cat for all at once.")]
pub struct Args {
    /// One SELECT; - reads it from standard input; nothing lists views and queries to begin with
    #[arg(allow_hyphen_values = true)] // a query that is pasted begins with its comment: -- ...
    sql: Option<String>,
    /// The database
    #[arg(long, value_name = "FILE", default_value = "soak.db")]
    db: PathBuf,
    /// A table for people, JSON (an array of objects) or CSV
    #[arg(long, value_enum, default_value_t)]
    format: Output,
    /// Rows at most
    #[arg(long, default_value_t = 10_000)]
    limit: usize,
    /// Seconds at most
    #[arg(long, default_value_t = 30)]
    timeout: u32,
}

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(super) enum Output {
    /// A table.
    #[default]
    Text,
    /// An array of objects.
    Json,
    /// Comma-separated values with a header; NULL is empty.
    Csv,
}

/// Five queries that an analyst runs first: what each answers, and the SQL.
const FIRST: [(&str, &str); 5] = [
    (
        "How did the runs end?",
        "SELECT run_id, state, verdict, verdict_reason, watched_hours, crashes, hangs FROM v_runs",
    ),
    (
        "Which series drifts, how sure are we?",
        "SELECT series, verdict, shape, drift_mb, drift_lo_mb, drift_hi_mb, can_see_mb FROM v_drift WHERE run_id = (SELECT max(run_id) FROM run) ORDER BY abs(drift_mb) DESC",
    ),
    (
        "What happened, and when?",
        "SELECT hour, severity, kind, process, summary FROM v_events WHERE severity <> 'info' ORDER BY at",
    ),
    (
        "How did memory go, hour by hour?",
        "SELECT substr(minute, 1, 13) AS hour, process, round(avg(anon_swap_mb), 1) AS anon_swap_mb, max(rss_mb_max) AS rss_mb_max, max(vram_mb_max) AS vram_mb_max FROM v_memory WHERE run_id = (SELECT max(run_id) FROM run) GROUP BY 1, 2",
    ),
    (
        "Who was told what, and why not?",
        "SELECT at, action, reason, rule FROM v_alert_decisions ORDER BY decision_id DESC LIMIT 20",
    ),
];

/// Reads, asks, prints.
pub fn execute(args: &Args) -> Done {
    let reader = Reader::open(&args.db).map_err(CannotStart::because)?;
    let sql = match args.sql.as_deref() {
        None => return introduce(&reader, args),
        Some("-") => {
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            read.map_err(|error| CannotStart(format!("cannot read the SQL from standard input: {error}")))?;
            text
        }
        Some(sql) => sql.to_owned(),
    };
    let rows = ask(&reader, &sql, args.limit, i64::from(args.timeout) * 1_000)?;
    print(&rows, args.format)?;
    if rows.truncated {
        eprintln!("soakd: there are more than {} rows; raise --limit to see them", args.limit);
    }
    Ok(Outcome::Passed)
}

/// One SELECT with a limit of rows and of time.
pub(super) fn ask(reader: &Reader, sql: &str, rows_max: usize, millis_max: i64) -> Result<Rows, CannotStart> {
    let now = clock::now();
    let until = now.mono.plus(millis_max);
    let limits = Limits { rows_max, expired: Box::new(move || clock::now().mono >= until) };
    reader.query_rows(sql, &[(":now_ms", now.wall.0.into())], limits).map_err(CannotStart::because)
}

/// Rows on standard output. A reader that has gone (`| head`) is no error.
pub(super) fn print(rows: &Rows, format: Output) -> Result<(), CannotStart> {
    let text = match format {
        Output::Text => table::render(rows),
        Output::Json => json(rows)?,
        Output::Csv => csv(rows)?,
    };
    if pager::show(&text) {
        return Ok(());
    }
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CannotStart(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

fn json(rows: &Rows) -> Result<String, CannotStart> {
    let object = |cells: &Vec<Value>| -> Map<String, Value> {
        rows.columns.iter().cloned().zip(cells.iter().cloned()).collect()
    };
    let objects: Vec<Map<String, Value>> = rows.rows.iter().map(object).collect();
    let text = serde_json::to_string_pretty(&objects).map_err(CannotStart::because)?;
    Ok(text + "\n")
}

fn csv(rows: &Rows) -> Result<String, CannotStart> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(&rows.columns).map_err(CannotStart::because)?;
    for cells in &rows.rows {
        let plain = |cell: &Value| match cell {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        writer.write_record(cells.iter().map(plain)).map_err(CannotStart::because)?;
    }
    let bytes = writer.into_inner().map_err(|error| CannotStart::because(error.error()))?;
    String::from_utf8(bytes).map_err(CannotStart::because)
}

/// Without SQL: what there is, and how to begin.
fn introduce(reader: &Reader, args: &Args) -> Done {
    if args.format != Output::Text {
        let names: Map<String, Value> =
            reader.schema().iter().map(|(name, columns)| (name.clone(), columns.clone().into())).collect();
        println!("{}", serde_json::to_string_pretty(&names).map_err(CannotStart::because)?);
        return Ok(Outcome::Passed);
    }
    println!("Views for people (ISO times, MB):");
    for (name, columns) in reader.schema().iter().filter(|(name, _)| name.starts_with("v_")) {
        println!("  {name:<18} {}", columns.join(", "));
    }
    let tables: Vec<&str> = reader.schema().keys().map(String::as_str).filter(|name| !name.starts_with("v_")).collect();
    println!(
        "\nTables (raw readings: milliseconds since 1970, bytes):\n  {}\n\nFive queries to begin with:",
        tables.join(", ")
    );
    for (question, sql) in FIRST {
        println!("\n  {question}\n    soakd query --db {} \"{sql}\"", args.db.display());
    }
    Ok(Outcome::Passed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Mode, Store};

    #[test]
    fn the_first_five_queries_run() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("soak.db");
        drop(Store::open(&path, Mode::Write).expect("store"));
        let reader = Reader::open(&path).expect("reader");
        for (question, sql) in FIRST {
            ask(&reader, sql, 10, 10_000).unwrap_or_else(|error| panic!("{question}: {error}"));
        }
    }

    #[test]
    fn json_and_csv_keep_null_apart_from_zero() {
        let rows = Rows {
            columns: vec!["a".into(), "b".into()],
            rows: vec![vec![Value::Null, 0.into()], vec!["x,\"y".into(), 1.5.into()]],
            truncated: false,
        };
        assert_eq!(csv(&rows).expect("csv"), "a,b\n,0\n\"x,\"\"y\",1.5\n");
        let back: Value = serde_json::from_str(&json(&rows).expect("json")).expect("valid");
        assert_eq!(back[0], serde_json::json!({"a": null, "b": 0}));
    }
}
