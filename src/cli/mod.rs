//! The command line: one file a subcommand. This file holds what they share: exit codes, `--format`, errors as prose.

pub mod alerts;
pub mod analyze;
pub mod bench;
pub mod check;
mod compare;
mod docs;
pub mod drill;
mod fleet;
mod gate;
pub mod internal_canary;
pub mod internal_devices;
pub mod internal_pages;
pub mod internal_probe;
pub mod internal_target;
pub mod internal_worker;
pub mod load;
pub mod mail;
pub mod metrics;
pub mod model;
mod pager;
pub mod query;
mod report;
pub mod rules;
pub mod run;
pub mod runs;
mod shell;
pub mod silence;
pub mod status;
mod terminal;
pub mod unit_failed;

use clap::{Parser, Subcommand, ValueEnum};
use nix::sys::signal::{SigHandler, Signal, signal};
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

/// How a command ended, when it could start. Maps to the exit code contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// 0: did what was asked; nothing wrong was found.
    Passed,
    /// 1: a leak, a crash, a gate that fails.
    Failed,
    /// 3: no answer either way.
    Inconclusive,
}

/// Why a command could not start (exit code 2): one message that names file, line and remedy.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CannotStart(pub String);

impl CannotStart {
    /// Prose from any displayable error.
    pub fn because(error: impl std::fmt::Display) -> Self {
        CannotStart(error.to_string())
    }
}

/// What every subcommand's `execute` returns.
pub type Done = Result<Outcome, CannotStart>;

/// Facts for people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs; field names are a contract.
    Json,
}

#[derive(Debug, Parser)]
#[command(
    name = "soakd",
    version,
    about = "Soak a GPU server for 48 hours, and know whether it leaks",
    max_term_width = 100,
    after_help = "Examples:
  soakd run --duration 10m         a first look at this machine, with or without a GPU
  soakd check && soakd drill       before a weekend: what would stop a run, and do the alarms ring?
  soakd run                        48 hours; an unfinished run is gone on with
  soakd status                     meanwhile
  soakd report --out report.html   afterwards
  soakd analyze rss.csv            a memory series of your own: does it leak?

`soakd COMMAND --help` has examples of each. Exit codes: 0 passed, 1 failed (a leak, a crash, a hang, a wrong token, a \
gate), 2 could not start (the message names file, line and remedy), 3 inconclusive."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Soak this machine: run the load, watch every byte, and say whether memory drifts.
    Run(run::Args),
    /// Find everything that would stop a 48 h run, before it starts.
    Check(check::Args),
    /// Break things on purpose, and show that the alarm rings.
    Drill(drill::Args),
    /// What a run found, as a page to send around.
    Report(report::Args),
    /// Judge a run by gates: go or no-go.
    Gate(gate::Args),
    /// Where the newest run stands.
    Status(status::Args),
    /// List the runs in the database.
    Runs(runs::Args),
    /// Ask the database with SQL.
    Query(query::Args),
    /// Did it get worse? Replicated runs, group against group.
    Compare(compare::Args),
    /// Judge whether the memory in a CSV file drifts by more than the tolerance.
    Analyze(analyze::Args),
    /// What fires, what fired, and why a mail was sent or was not.
    Alerts(alerts::Args),
    /// Send no mails about something for a while.
    Silence(silence::Args),
    /// List, check and test alert rules.
    Rules(rules::Args),
    /// Take mails from the outbox to the mail server, and watch the supervisor.
    Mail(mail::Args),
    /// Measure variants side by side: speed, memory, precision, and where the time goes.
    Bench(bench::Args),
    /// Measure concurrency: 1 to 16 streams, closed loop and Poisson arrivals.
    Load(load::Args),
    /// Write the documents from the database; every figure names its run.
    Docs(docs::Args),
    /// Write a synthetic model, look into a model file, or print logits.
    Model(model::Args),
    /// Many databases, one page: who leaks, who crashed, who differs.
    Fleet(fleet::Args),
    /// Print or serve the newest run's figures in OpenMetrics form.
    Metrics(metrics::Args),
    /// Mail that a systemd unit has failed (the units' OnFailure= hook).
    UnitFailed(unit_failed::Args),
    /// What CUDA says of this machine.
    #[command(hide = true)]
    InternalDevices(internal_devices::Args),
    /// Man pages and completions, for the package.
    #[command(hide = true)]
    InternalPages(internal_pages::Args),
    /// The child that reads /proc and NVML.
    #[command(hide = true)]
    InternalProbe(internal_probe::Args),
    /// The child that leaks on purpose.
    #[command(hide = true)]
    InternalCanary(internal_canary::Args),
    /// The child that does inference.
    #[command(hide = true)]
    InternalWorker(internal_worker::Args),
    /// The child that keeps the user's own process under soak.
    #[command(hide = true)]
    InternalTarget(internal_target::Args),
    /// The child of bench and load.
    #[command(hide = true)]
    InternalBench,
    /// The version, as `--version` prints it.
    #[command(hide = true)]
    Version,
}

impl Command {
    /// Commands that print facts and are done. All others write into pipes and sockets that may close under them, and must
    /// outlive that.
    fn only_prints(&self) -> bool {
        matches!(
            self,
            Command::Alerts(_)
                | Command::Analyze(_)
                | Command::Compare(_)
                | Command::Fleet(_)
                | Command::Gate(_)
                | Command::Model(_)
                | Command::Query(_)
                | Command::Report(_)
                | Command::Rules(_)
                | Command::Runs(_)
                | Command::Status(_)
        )
    }

    /// One that the supervisor starts and ends by its stdin.
    fn is_a_child(&self) -> bool {
        matches!(self, Command::InternalWorker(_) | Command::InternalProbe(_) | Command::InternalCanary(_))
    }
}

/// `soakd query ... | head` ends as any Unix tool does, instead of panicking about a closed pipe: Rust ignores SIGPIPE at
/// start, and this takes that back.
fn end_quietly_when_nobody_reads() {
    // SAFETY: called once, before any thread is started; the default action needs no handler of ours.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
}

/// Whoever stops a scope, or cancels a batch job, sends SIGTERM to every process of it at once. The supervisor takes it as
/// the end of the run; children that ended by themselves would be taken for crashed, and their last samples would be lost.
fn leave_sigterm_to_the_supervisor() {
    if let Err(error) = signal_hook::flag::register(signal_hook::consts::SIGTERM, std::sync::Arc::default()) {
        eprintln!("soakd: cannot listen for signals: {error}");
    }
}

/// Parses `args` (program name first), runs the subcommand, and maps its outcome to the exit code contract:
/// 0 passed, 1 failed, 2 could not start, 3 inconclusive.
pub fn run<I: IntoIterator<Item = OsString>>(args: I) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print(); // a closed stdout or stderr leaves nobody to tell
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    if cli.command.only_prints() {
        end_quietly_when_nobody_reads();
    }
    if cli.command.is_a_child() {
        leave_sigterm_to_the_supervisor();
    }
    let done: Done = match cli.command {
        Command::Alerts(args) => alerts::execute(&args),
        Command::Query(args) => query::execute(&args),
        Command::Rules(args) => rules::execute(&args),
        Command::Runs(args) => runs::execute(&args),
        Command::Silence(args) => silence::execute(&args),
        Command::Analyze(args) => analyze::execute(&args),
        Command::Fleet(args) => fleet::execute(&args),
        Command::Check(args) => check::execute(&args),
        Command::InternalDevices(args) => internal_devices::execute(&args),
        Command::InternalPages(args) => internal_pages::execute(&args),
        Command::InternalProbe(args) => internal_probe::execute(&args),
        Command::InternalCanary(args) => internal_canary::execute(&args),
        Command::InternalWorker(args) => return internal_worker::execute(&args),
        Command::InternalTarget(args) => return internal_target::execute(&args),
        Command::Run(args) => run::execute(&args),
        Command::Status(args) => status::execute(&args),
        Command::Drill(args) => drill::execute(&args),
        Command::Bench(args) => bench::execute(&args),
        Command::Load(args) => load::execute(&args),
        Command::InternalBench => return crate::worker::bench::run(),
        Command::Model(args) => model::execute(&args),
        Command::Mail(args) => mail::execute(&args),
        Command::Metrics(args) => metrics::execute(&args),
        Command::Compare(args) => compare::execute(&args),
        Command::Docs(args) => docs::execute(&args),
        Command::Gate(args) => gate::execute(&args),
        Command::Report(args) => report::execute(&args),
        Command::UnitFailed(args) => unit_failed::execute(&args),
        Command::Version => {
            println!("soakd {}", env!("CARGO_PKG_VERSION"));
            Ok(Outcome::Passed)
        }
    };
    match done {
        Ok(Outcome::Passed) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::from(1),
        Ok(Outcome::Inconclusive) => ExitCode::from(3),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "soakd: {error}"); // the terminal may be gone
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::{Command, CommandFactory};

    /// Calls `look` with each command that a user can see, its own first, and the words that call it.
    fn each(command: &Command, words: &str, look: &mut impl FnMut(&Command, &str)) {
        look(command, words);
        for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help") {
            each(inner, &format!("{words} {}", inner.get_name()), look);
        }
    }

    #[test]
    fn the_help_of_every_command_teaches_with_examples_of_itself_that_fit_the_screen() {
        let mut seen = 0;
        each(&Cli::command(), "soakd", &mut |command, words| {
            seen += 1;
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let mut lines = text.lines();
            assert_eq!(lines.next(), Some("Examples:"), "{words}: its help ends without examples");
            let examples: Vec<&str> = lines.take_while(|line| line.starts_with("  ")).collect();
            assert!(!examples.is_empty(), "{words}: no example");
            for example in examples {
                assert!(example.chars().count() <= 100, "{words}: a terminal would break {example:?}");
                let continues = example.starts_with("    ");
                assert!(continues || example.trim().starts_with(words), "{words}: {example:?} is another command's");
            }
        });
        assert!(seen > 30, "only {seen} commands");
    }
}
