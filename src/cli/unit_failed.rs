//! `soakd unit-failed UNIT`: the failure hook of the systemd units. It mails that a unit has failed, with the end of its
//! journal, and needs neither the database nor a configuration that is right beyond its `[mail]`.

use super::mail::setup;
use super::{CannotStart, Done, Outcome};
use crate::clock;
use crate::config::{self, Config};
use crate::mail::{Carrier, Folder, Outcome as Sent, Parcel, compose};
use crate::model::alert::{OutboxMail, Severity};
use crate::model::mail::{Evidence, MailFacts, MailKind, QueuedMail, Table, message_id};
use crate::model::time::UnixMillis;
use crate::probe::host;
use crate::report::mail::render;
use clap::Args as ClapArgs;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Waits before each attempt to reach the mail server; together they stay below the unit's TimeoutStartSec.
const ATTEMPTS_AFTER: [Duration; 3] = [Duration::ZERO, Duration::from_secs(10), Duration::from_secs(45)];
/// Lines of the journal that go into the mail.
const JOURNAL_LINES: &str = "30";
/// Longest line of them, characters.
const JOURNAL_LINE_MAX: usize = 240;
/// Where the mail is left when no server takes it, in the working directory.
const UNSENT: &str = "mail-unsent";

/// Mail that a systemd unit has failed (the units' OnFailure= hook).
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  soakd unit-failed soakd.service                                        as systemd calls it
  soakd unit-failed --config /etc/soakd/soak.toml backup-of-weights.service   for a unit of yours

Exit codes: 0 mailed, 1 no server took it (then it lies in mail-unsent/).")]
pub struct Args {
    /// The configuration; only its [mail] must be right
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The unit that failed
    unit: String,
}

/// Mails, or leaves the mail in a folder.
pub fn execute(args: &Args) -> Done {
    let (config, complaint) = settings(args.config.as_deref());
    let routes = setup::routes(&config).map_err(CannotStart)?;
    let mail = QueuedMail {
        outbox_id: 0,
        run_id: None,
        mail: write(&args.unit, complaint.as_deref()),
        attempts: 0,
        next: UnixMillis(0),
        failing_since: None,
        last_error: None,
        settled: BTreeMap::new(),
    };
    let parcel = compose(&mail, &routes, None, None).map_err(CannotStart::because)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CannotStart::because)?;
    let reason = match runtime.block_on(send(&config, &parcel)) {
        Ok(answer) => {
            println!("mailed that {} failed: {answer}", args.unit);
            return Ok(Outcome::Passed);
        }
        Err(reason) => reason,
    };
    let attempt = runtime.block_on(Folder::new(PathBuf::from(UNSENT)).send(&parcel));
    let left = match attempt.outcome {
        Sent::Delivered { answer } => answer,
        Sent::Retry { reason, .. } | Sent::Permanent { reason } => {
            format!("and not left in {UNSENT}/ either: {reason}")
        }
    };
    eprintln!("soakd: the mail that {} failed could not be sent: {reason}; {left}", args.unit);
    Ok(Outcome::Failed)
}

/// The configuration, or as much of it as a mail needs, with what is wrong with the rest.
fn settings(path: Option<&Path>) -> (Config, Option<String>) {
    match config::load(path) {
        Ok(config) => (config, None),
        Err(error) => {
            let saved = config::salvage_mail(path.unwrap_or(Path::new(config::DEFAULT_FILE)));
            let config = Config { mail: saved.unwrap_or_default(), ..Config::default() };
            (config, Some(error.to_string()))
        }
    }
}

async fn send(config: &Config, parcel: &Parcel) -> Result<String, String> {
    let mut carrier = setup::carrier(config)?;
    let mut reason = String::new();
    for wait in ATTEMPTS_AFTER {
        tokio::time::sleep(wait).await;
        let attempt = carrier.send(parcel).await;
        match attempt.outcome {
            Sent::Delivered { answer } => {
                carrier.rest().await;
                return Ok(answer);
            }
            Sent::Retry { reason: why, .. } => reason = why,
            Sent::Permanent { reason } => return Err(reason),
        }
    }
    Err(reason)
}

fn write(unit: &str, complaint: Option<&str>) -> OutboxMail {
    let (now, host) = (clock::now().wall, host::hostname());
    let told = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    // systemd tells the hook how the unit ended (version 251 and newer).
    let result = told("MONITOR_SERVICE_RESULT");
    let how = result.as_ref().map_or(String::new(), |result| format!(": {result}"));
    let status = match (told("MONITOR_EXIT_CODE"), told("MONITOR_EXIT_STATUS")) {
        (Some(code), Some(status)) => format!("{code}, status {status}"),
        _ => "not told".to_owned(),
    };
    let evidence = |what: &str, value: String| Evidence { what: what.into(), value, interval: None };
    let lines = journal(unit);
    let mut figures =
        vec![evidence("result", result.unwrap_or_else(|| "not told".to_owned())), evidence("ended", status)];
    figures.extend(complaint.map(|text| evidence("configuration", text.replace('\n', " | "))));
    let facts = MailFacts {
        rule: "unit_failed".into(),
        description: format!(
            "systemd has given up {unit} on {host}. It is not running and will not be started again by itself; what it \
             watched is not watched."
        ),
        evidence: figures,
        meaning:
            "No samples are taken and no alerts are evaluated until it is started again. An unfinished run is kept \
                  and will be resumed; the time in between counts as downtime."
                .into(),
        runbook: format!(
            "1. See why:\n\n    journalctl -u {unit} -e\n\n2. See what would stop it:\n\n    soakd check --config \
             /etc/soakd/soak.toml\n\n3. Put it right, then:\n\n    systemctl reset-failed {unit}\n    systemctl start {unit}"
        ),
        recent: (!lines.is_empty()).then(|| Table {
            caption: format!("The end of the journal of {unit}"),
            columns: vec!["line".to_owned()],
            rows: lines.into_iter().map(|line| vec![line]).collect(),
        }),
        ..MailFacts::new(MailKind::Heartbeat, Severity::Page, &host, now, &format!("{unit} has failed{how}"))
    };
    let rendered = render(&facts);
    OutboxMail {
        at: now,
        kind: MailKind::Heartbeat.as_str().into(),
        message_id: message_id(&["unit-failed", unit, &now.0.to_string()], &host),
        in_reply_to: None,
        route: "default".into(),
        subject: rendered.subject,
        text: rendered.text,
        html: rendered.html,
        plot: None,
        labels: BTreeMap::from([("unit".to_owned(), unit.to_owned())]),
    }
}

/// The last lines of the unit's journal; none if it cannot be read.
fn journal(unit: &str) -> Vec<String> {
    let output = Command::new("journalctl")
        .args(["--unit", unit, "--lines", JOURNAL_LINES, "--no-pager", "--quiet", "--output", "short-iso"])
        .output();
    let Ok(output) = output else { return Vec::new() };
    String::from_utf8_lossy(&output.stdout).lines().map(|line| line.chars().take(JOURNAL_LINE_MAX).collect()).collect()
}
