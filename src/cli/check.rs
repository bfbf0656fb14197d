//! `soakd check`: everything that would stop a 48 h run, found before it starts. This file gathers and prints; each
//! neighbour looks at one part of the machine. Nothing is changed: no database is created, no mail sent.

mod database;
mod drilled;
pub(super) mod gpu;
mod limits;
pub(super) mod model;
mod settings;
mod target;

use super::{CannotStart, Done, Format, Outcome};
use crate::config::{self, Config};
use clap::Args as ClapArgs;
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

/// Find everything that would stop a 48 h run, before it starts.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  soakd check                                  what 'soakd run' in this folder would find
  soakd check --config /etc/soakd/soak.toml    another configuration
  soakd check --offline                        do not connect to mail server and target
  soakd check --drill                          ready for production? breaks things on purpose, too
  soakd check --format json | jq '.checks[] | select(.state == \"blocker\")'

Looks at configuration, alert rules, model or target, database and disk space, GPU and driver, mail, and \
the limits of this session or unit. Each line says what was found; blockers and warnings come with \
the remedy. Nothing is changed or sent, unless --drill asks for it: then crash, hang, leak, corruption, \
outage of mail, death of soakd and the fallback to the CPU are tried in soaks of their own, and each \
must be recorded and mailed.

Exit codes: 0 nothing would stop a run (warnings may remain), 1 something would, 2 the \
configuration or a rule file cannot be used (the message names file, line and remedy).")]
pub struct Args {
    /// The configuration [default: soak.toml if it is there, else the embedded default]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The database [default: as configured]
    #[arg(long, value_name = "FILE")]
    db: Option<PathBuf>,
    /// Do not connect to the mail server, nor to a target
    #[arg(long)]
    offline: bool,
    /// Production readiness in one table: also break things on purpose, as `soakd drill` does (minutes; sends mails)
    #[arg(long, conflicts_with = "offline")]
    drill: bool,
    /// How to say it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// As it should be.
    Ok,
    /// A run would start; someone should know.
    Warning,
    /// A run would not start, or would not last.
    Blocker,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    /// Which part.
    check: &'static str,
    /// How bad it is.
    state: State,
    /// What was found.
    what: String,
    /// What to do; empty when there is nothing to do.
    remedy: String,
}

/// What was found so far.
#[derive(Debug, Default)]
struct Findings {
    list: Vec<Finding>,
}

impl Findings {
    fn ok(&mut self, check: &'static str, what: impl Into<String>) {
        self.list.push(Finding { check, state: State::Ok, what: what.into(), remedy: String::new() });
    }

    fn warning(&mut self, check: &'static str, what: impl Into<String>, remedy: impl Into<String>) {
        self.list.push(Finding { check, state: State::Warning, what: what.into(), remedy: remedy.into() });
    }

    fn blocker(&mut self, check: &'static str, what: impl Into<String>, remedy: impl Into<String>) {
        self.list.push(Finding { check, state: State::Blocker, what: what.into(), remedy: remedy.into() });
    }

    fn count(&self, state: State) -> usize {
        self.list.iter().filter(|finding| finding.state == state).count()
    }
}

/// Looks at everything and prints it.
pub fn execute(args: &Args) -> Done {
    let mut findings = Findings::default();
    let usable = match config::load(args.config.as_deref()) {
        Ok(mut config) => {
            if let Some(database) = &args.db {
                config.run.database.clone_from(database);
            }
            let usable = look(&config, args.offline, &mut findings);
            if args.drill && usable && findings.count(State::Blocker) == 0 {
                drilled::look(&config, &mut findings);
            }
            usable
        }
        Err(error) => {
            for problem in &error.problems {
                let one = config::ConfigError { source: error.source.clone(), problems: vec![problem.clone()] };
                let text = one.to_string();
                let what = text.strip_suffix(&format!("; {}", problem.remedy)).unwrap_or(&text).to_owned();
                findings.blocker("configuration", what, problem.remedy.clone());
            }
            false
        }
    };
    print(&findings, args.format).map_err(|error| CannotStart(format!("cannot print: {error}")))?;
    if !usable {
        return Err(CannotStart("the configuration or a rule file cannot be used; see above".to_owned()));
    }
    Ok(if findings.count(State::Blocker) == 0 { Outcome::Passed } else { Outcome::Failed })
}

/// False when configuration or rules cannot be used.
fn look(config: &Config, offline: bool, findings: &mut Findings) -> bool {
    findings.ok("configuration", settings::describe(config));
    let usable = settings::rules(config, findings);
    if config.target.is_set() {
        target::look(config, offline, findings);
    } else {
        model::look(config, findings);
    }
    database::look(config, findings);
    gpu::look(config, findings);
    settings::sampling(config, findings);
    settings::gates(config, findings);
    settings::mail(config, offline, findings);
    limits::look(config, findings);
    usable
}

fn print(findings: &Findings, format: Format) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let (blockers, warnings) = (findings.count(State::Blocker), findings.count(State::Warning));
    if format == Format::Json {
        let document = serde_json::json!({
            "passed": blockers == 0, "blockers": blockers, "warnings": warnings, "checks": findings.list,
        });
        return writeln!(out, "{document:#}");
    }
    let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let width = findings.list.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    for finding in &findings.list {
        let (word, colour) = match finding.state {
            State::Ok => ("ok     ", "32"),
            State::Warning => ("warning", "33"),
            State::Blocker => ("BLOCKER", "31"),
        };
        let word = if colours { format!("\x1b[{colour}m{word}\x1b[0m") } else { word.to_owned() };
        writeln!(out, "{word}  {:width$}  {}", finding.check, finding.what)?;
        if !finding.remedy.is_empty() {
            writeln!(out, "         {:width$}  -> {}", "", finding.remedy)?;
        }
    }
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    match blockers {
        0 => writeln!(out, "\nNothing here would stop a run ({}).", plural(warnings, "warning")),
        _ => writeln!(out, "\n{} would stop a run, {}.", plural(blockers, "thing"), plural(warnings, "warning")),
    }
}
