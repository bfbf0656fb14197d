//! `soakd mail`: takes mails from the outbox to where they go, for as long as it takes, and watches whether the supervisor
//! still beats. What a mail says was decided when it was written; this file reads flags and picks what to do.

mod desk;
mod disk;
pub(super) mod setup;
mod test_mail;
mod tour;
mod watch;

use super::{CannotStart, Done, Format};
use clap::Args as ClapArgs;
use std::path::PathBuf;

/// Takes mails from the outbox to the mail server, for as long as that takes.
#[derive(Debug, ClapArgs)]
#[allow(clippy::struct_excessive_bools)] // flags of a command line
#[command(after_help = "\
Examples:
  soakd mail --test                        send a test mail on every route and say what happened
  soakd mail --config /etc/soakd/soak.toml drain the outbox and watch the supervisor until stopped
  soakd mail --once                        send what is due, then end
  soakd mail --requeue --once              try again what was set aside as undeliverable

Exit codes: 0 all sent (or stopped on request), 1 some mail could not be sent, 2 could not start.")]
pub struct Args {
    /// The configuration [default: soak.toml if it is there, else the embedded default]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The database [default: as configured]
    #[arg(long, value_name = "FILE")]
    db: Option<PathBuf>,
    /// Send a test mail on every route (or on --route) and say what happened. Needs no database
    #[arg(long, conflicts_with_all = ["db", "once", "requeue"])]
    test: bool,
    /// With --test: this route only
    #[arg(long, value_name = "NAME", requires = "test")]
    route: Option<String>,
    /// Send what is due, then end
    #[arg(long)]
    once: bool,
    /// First put what was set aside as undeliverable back into the queue
    #[arg(long)]
    requeue: bool,
    /// Started by `soakd run`, the process PID: end by itself when that one has ended and the queue is empty
    #[arg(long, hide = true, value_name = "PID", conflicts_with = "once")]
    supervised: Option<i32>,
    /// How to say it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Runs the mailer.
pub fn execute(args: &Args) -> Done {
    let config = crate::config::load(args.config.as_deref()).map_err(CannotStart::because)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CannotStart(format!("cannot start the event loop: {error}")))?;
    if args.test {
        return runtime.block_on(test_mail::send(&config, args.route.as_deref(), args.format));
    }
    let database = args.db.clone().unwrap_or_else(|| config.run.database.clone());
    let mode = match (args.once, args.supervised) {
        (true, _) => tour::Mode::Once,
        (false, Some(supervisor)) => tour::Mode::Supervised { supervisor },
        (false, None) => tour::Mode::Daemon,
    };
    let again = super::shell::mail("--requeue --once", args.config.as_deref(), args.db.as_deref());
    runtime.block_on(tour::run(&config, &database, mode, args.requeue, args.format, &again))
}

/// A line for people. Nobody may be there to read it: the supervisor whose pipe this was may be dead, and then it is just
/// this process that must go on.
fn say(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{line}");
}
