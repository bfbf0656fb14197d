//! `soakd alerts`: what fires, what fired, why a mail was sent or was not; and "I have it". The rules themselves are left to
//! `soakd rules`.

use super::query::{Output, ask, print};
use super::{CannotStart, Done, Format, Outcome};
use crate::clock;
use crate::store::sql::Reader;
use crate::store::{Mode, Store};
use std::path::PathBuf;

/// List alerts, past ones too; say why a mail was sent or not; acknowledge.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  soakd alerts                 what fires or is pending now
  soakd alerts --all           past ones too
  soakd alerts why 12          every decision about alert 12, with its reason
  soakd alerts ack 12          I have it: no more repeats

Exit code: 0 nothing fires, 1 something does (only without --all)."
)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    /// Past alerts too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, clap::Args)]
struct Source {
    /// The database
    #[arg(long, value_name = "FILE", default_value = "soak.db")]
    db: PathBuf,
    /// Text for people or JSON for programs
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Every decision about an alert: sent or held, and why
    #[command(after_help = "Examples:
  soakd alerts why 12
  soakd alerts why 12 --format json | jq -r '.[].reason'")]
    Why {
        /// Number of the alert, as `soakd alerts` shows it
        alert: i64,
        #[command(flatten)]
        source: Source,
    },
    /// "I have it": this alert is not mailed again until it ends
    #[command(after_help = "Examples:
  soakd alerts ack 12                 as $USER
  soakd alerts ack 12 --who marie

It goes on to be listed, and its end is mailed.")]
    Ack {
        /// Number of the alert, as `soakd alerts` shows it
        alert: i64,
        /// Who has it
        #[arg(long, env = "USER", default_value = "someone")]
        who: String,
        #[command(flatten)]
        source: Source,
    },
}

const LIST_SQL: &str = "
SELECT alert_id AS alert, state, severity, rule, active_since, CASE mail_state WHEN 'failed' THEN 'REFUSED ' WHEN 'queued' THEN 'waits ' ELSE '' END
    || coalesce(last_sent, 'not mailed') AS last_mail,
  coalesce(acked_by, '') AS acked_by, summary FROM v_alerts";
/// What the last run's rules see now. The news of a run that is over (that it is over) calls nobody any more.
const OPEN: &str = "state <> 'resolved' AND run_id = (SELECT max(run_id) FROM run)
  AND (severity <> 'info' OR run_id IN (SELECT run_id FROM run WHERE state = 'running'))";

/// Reads and prints, or acknowledges.
pub fn execute(args: &Args) -> Done {
    match &args.action {
        None => list(args),
        Some(Action::Why { alert, source }) => why(*alert, source),
        Some(Action::Ack { alert, who, source }) => acknowledge(*alert, who, source),
    }
}

fn output(source: &Source) -> Output {
    match source.format {
        Format::Text => Output::Text,
        Format::Json => Output::Json,
    }
}

fn list(args: &Args) -> Done {
    let reader = Reader::open(&args.source.db).map_err(CannotStart::because)?;
    let condition = if args.all { "1" } else { OPEN };
    let sql = match args.source.format {
        Format::Text => format!("{LIST_SQL} WHERE {condition} ORDER BY alert_id"),
        Format::Json => format!("SELECT * FROM v_alerts WHERE {condition} ORDER BY alert_id"),
    };
    let rows = ask(&reader, &sql, 100_000, 30_000)?;
    if rows.rows.is_empty() && args.source.format == Format::Text {
        println!("{}", if args.all { "No alerts yet." } else { "Nothing fires. Past alerts: soakd alerts --all" });
        return Ok(Outcome::Passed);
    }
    print(&rows, output(&args.source))?;
    let state = rows.columns.iter().position(|name| name == "state");
    let fires = state.is_some_and(|at| rows.rows.iter().any(|cells| cells[at] == "firing"));
    Ok(if fires && !args.all { Outcome::Failed } else { Outcome::Passed })
}

fn why(alert: i64, source: &Source) -> Done {
    let reader = Reader::open(&source.db).map_err(CannotStart::because)?;
    let sql = format!(
        "SELECT at, action, reason, outbox_id AS mail FROM v_alert_decisions WHERE alert_id = {alert} ORDER BY decision_id"
    );
    let rows = ask(&reader, &sql, 100_000, 30_000)?;
    if rows.rows.is_empty() {
        return Err(CannotStart(format!("nothing was decided about an alert {alert}; soakd alerts --all lists them")));
    }
    print(&rows, output(source))?;
    Ok(Outcome::Passed)
}

fn acknowledge(alert: i64, who: &str, source: &Source) -> Done {
    let mut store = Store::open(&source.db, Mode::Join).map_err(CannotStart::because)?;
    let at = clock::now().wall;
    if !store.record(|to| to.acknowledge(alert, at, who)).map_err(CannotStart::because)? {
        return Err(CannotStart(format!(
            "there is no alert {alert} that fires or is pending; soakd alerts lists them"
        )));
    }
    println!("Alert {alert} is acknowledged by {who}: it is not mailed again until it ends.");
    Ok(Outcome::Passed)
}
