//! `soakd silence`: no mails about something for a while, with a reason. The alerts themselves go on and are listed.

use super::query::{Output, ask, print};
use super::{CannotStart, Done, Format, Outcome};
use crate::clock;
use crate::config;
use crate::model::alert::Silence;
use crate::model::time::UnixMillis;
use crate::rules::millis_from;
use crate::store::sql::Reader;
use crate::store::{Mode, Store};
use crate::supervisor::alerting::{RuleSources, load_rules};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Send no mails about a rule or a label for a while.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  soakd silence --rule throughput_down --for 2h --why 'backup is running'
  soakd silence --label gpu=gpu-3 --for 1d --why 'card is being replaced'
  soakd silence list
  soakd silence end 4

What was mailed as FIRING is still mailed as RESOLVED when it ends."
)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    /// Name of a rule, as `soakd rules list` shows it
    #[arg(long)]
    rule: Option<String>,
    /// A label that the alert must have; may be given several times
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<String>,
    /// For how long, such as 2h or 1d
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    lasts: Option<i64>,
    /// Why: it is shown with every mail that is held back
    #[arg(long)]
    why: Option<String>,
    /// Who
    #[arg(long, env = "USER", default_value = "someone")]
    who: String,
    /// The database
    #[arg(long, value_name = "FILE", default_value = "soak.db")]
    db: PathBuf,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Silences that last, or all of them
    #[command(after_help = "Examples:
  soakd silence list
  soakd silence list --all            ended ones too")]
    List {
        /// Ended ones too
        #[arg(long)]
        all: bool,
        /// The database
        #[arg(long, value_name = "FILE", default_value = "soak.db")]
        db: PathBuf,
        /// Text for people or JSON for programs
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// End a silence now
    #[command(after_help = "Examples:
  soakd silence end 4                 its number is in `soakd silence list`")]
    End {
        /// Its number
        silence: i64,
        /// The database
        #[arg(long, value_name = "FILE", default_value = "soak.db")]
        db: PathBuf,
    },
}

fn duration(text: &str) -> Result<i64, String> {
    match millis_from(text) {
        Some(millis) if millis > 0 => Ok(millis),
        _ => Err("write a number and a unit, such as 30m, 2h or 1d".into()),
    }
}

/// Adds, lists or ends.
pub fn execute(args: &Args) -> Done {
    match &args.action {
        None => add(args),
        Some(Action::List { all, db, format }) => list(*all, db, *format),
        Some(Action::End { silence, db }) => end(*silence, db),
    }
}

fn add(args: &Args) -> Done {
    if args.rule.is_none() && args.labels.is_empty() {
        return Err(CannotStart("say what to silence: --rule NAME or --label NAME=VALUE".into()));
    }
    let lasts = args.lasts.ok_or_else(|| CannotStart("say for how long: --for 2h".into()))?;
    let why = args.why.clone().filter(|why| !why.trim().is_empty());
    let why = why.ok_or_else(|| CannotStart("say why: --why 'backup is running'".into()))?;
    let labels = args.labels.iter().map(|label| match label.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(CannotStart(format!("--label {label:?}: write NAME=VALUE, such as gpu=gpu-3"))),
    });
    let labels = labels.collect::<Result<BTreeMap<_, _>, _>>()?;
    let from = clock::now().wall;
    let until = UnixMillis(from.0 + lasts);
    let silence = Silence { silence_id: 0, rule: args.rule.clone(), labels, from, until, why, who: args.who.clone() };
    if let Some(rule) = &args.rule {
        must_exist(rule, &args.db)?;
    }
    let mut store = Store::open(&args.db, Mode::Join).map_err(CannotStart::because)?;
    let row = store.record(|to| to.put_silence(&silence)).map_err(CannotStart::because)?;
    println!("Silence {row} lasts until {}. End it earlier with: soakd silence end {row}", iso(until));
    Ok(Outcome::Passed)
}

/// A rule that nothing is called holds back no mail. Asked of the rules of the newest run, and of all that ever fired; where those
/// of the run cannot be read here, any name may be one.
fn must_exist(rule: &str, db: &Path) -> Result<(), CannotStart> {
    let reader = Reader::open(db).map_err(CannotStart::because)?;
    let column = |sql: &str| -> Result<Vec<String>, CannotStart> {
        let rows = ask(&reader, sql, 100_000, 30_000)?.rows;
        Ok(rows.iter().filter_map(|cells| cells.first()?.as_str().map(str::to_owned)).collect())
    };
    let configs = column("SELECT config FROM run ORDER BY run_id DESC LIMIT 1")?;
    let config = configs.first().and_then(|text| config::load_text("the run's", text, Path::new("")).ok());
    let sources = config.map(|config| RuleSources { builtin: config.alerts.builtin, files: config.alerts.rules });
    let Some(rules) = sources.and_then(|sources| load_rules(&sources).ok()) else { return Ok(()) };
    let fired = column("SELECT DISTINCT rule FROM alert")?;
    let known: Vec<&str> = rules.rules.iter().map(|rule| rule.name.as_str()).collect();
    if known.contains(&rule) || fired.iter().any(|name| name == rule) {
        return Ok(());
    }
    let nearest = config::raw::nearest(rule, &known, "rules");
    Err(CannotStart(format!("--rule {rule}: there is no such rule; {nearest}")))
}

fn list(all: bool, db: &PathBuf, format: Format) -> Done {
    let reader = Reader::open(db).map_err(CannotStart::because)?;
    let condition = if all { "" } else { "WHERE until > strftime('%Y-%m-%dT%H:%M:%SZ', :now_ms / 1000, 'unixepoch')" };
    let rows = ask(&reader, &format!("SELECT * FROM v_silences {condition} ORDER BY silence_id"), 100_000, 30_000)?;
    print(&rows, if format == Format::Json { Output::Json } else { Output::Text })?;
    Ok(Outcome::Passed)
}

fn end(silence: i64, db: &PathBuf) -> Done {
    let mut store = Store::open(db, Mode::Join).map_err(CannotStart::because)?;
    let at = clock::now().wall;
    if !store.record(|to| to.end_silence(silence, at)).map_err(CannotStart::because)? {
        return Err(CannotStart(format!(
            "there is no silence {silence} that still lasts; soakd silence list shows them"
        )));
    }
    println!("Silence {silence} has ended.");
    Ok(Outcome::Passed)
}

pub(super) fn iso(at: UnixMillis) -> String {
    chrono::DateTime::from_timestamp_millis(at.0)
        .map_or_else(|| at.0.to_string(), |at| at.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}
