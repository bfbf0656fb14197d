//! The mails that no rule can write: the mailer's own alarms when the supervisor falls silent or the database cannot be
//! written, and their ends.

use super::words::{duration, utc};
use crate::model::alert::Severity;
use crate::model::facts::RunFacts;
use crate::model::mail::{Evidence, MailFacts, MailKind, RunStanding, Table};
use crate::model::time::UnixMillis;

/// Where a run stands.
#[must_use]
pub fn standing(run: &RunFacts) -> RunStanding {
    let plan = &run.plan;
    RunStanding {
        run_id: run.run_id,
        elapsed_ms: (run.uptime.elapsed_ms - run.uptime.unwatched_ms).max(0),
        duration_ms: plan.duration_ms,
        what: match plan.backend.as_str() {
            "none" => plan.model.clone(), // a target of the user's
            backend => {
                format!("{} {} on {backend}, {} streams, {}", plan.model, plan.variant, plan.streams, plan.scenario)
            }
        },
    }
}

/// What is known of a supervisor that fell silent.
#[derive(Debug, Clone, PartialEq)]
pub struct Silence {
    /// Its last beat.
    pub last_beat: UnixMillis,
    /// Its process.
    pub pid: i64,
    /// Whether there still is a process of that number; `None` if that could not be found out.
    pub alive: Option<bool>,
    /// Where the run stood.
    pub run: Option<RunStanding>,
    /// The last minutes, if the database could tell.
    pub recent: Option<Table>,
}

/// soakd itself is silent.
#[must_use]
pub fn heartbeat_lost(silence: &Silence, host: &str, at: UnixMillis) -> MailFacts {
    let (summary, process) = match silence.alive {
        Some(false) => ("soakd itself died", "it is gone".to_owned()),
        Some(true) => ("soakd itself hangs", "it is still there, but writes nothing".to_owned()),
        None => ("soakd itself is silent", "whether it is still there could not be found out".to_owned()),
    };
    let evidence = |what: &str, value: String| Evidence { what: what.into(), value, interval: None };
    let pid = silence.pid;
    MailFacts {
        rule: "heartbeat".into(),
        description: format!(
            "The supervisor of the soak has given no sign of life since {}. The mailer, a process of its own, noticed and \
             wrote this mail. Since then nothing is measured and no rule is evaluated.",
            utc(silence.last_beat)
        ),
        since: Some(silence.last_beat),
        evidence: vec![
            evidence("last sign of life", utc(silence.last_beat)),
            evidence("silent for", duration(at.0 - silence.last_beat.0)),
            evidence("supervisor", format!("process {pid}: {process}")),
        ],
        meaning: "The run is interrupted, not lost: what was written is in the database, and the next start resumes the same \
                  run. The time in between counts as a gap."
            .into(),
        runbook: format!(
            "1. See why it stopped:\n\n    systemctl status soakd\n    journalctl -u soakd -n 100\n    dmesg | tail -50\n\n\
             2. If it hangs (process {pid} is there), look where before you end it:\n\n    cat /proc/{pid}/stack /proc/{pid}/wchan\n\n\
             3. Start it again; it resumes the run:\n\n    systemctl restart soakd"
        ),
        recent: silence.recent.clone(),
        query: "SELECT role, datetime(unix_ms / 1000, 'unixepoch') AS beat, pid, run_id FROM heartbeat".into(),
        run: silence.run.clone(),
        ..MailFacts::new(
            MailKind::Heartbeat,
            Severity::Page,
            host,
            at,
            &format!("{summary}: no sign of life for {}", duration(at.0 - silence.last_beat.0)),
        )
    }
}

/// It is back, or ended after all.
#[must_use]
pub fn heartbeat_back(lost_at: UnixMillis, run: Option<RunStanding>, host: &str, at: UnixMillis) -> MailFacts {
    let silent = duration(at.0 - lost_at.0);
    MailFacts {
        rule: "heartbeat".into(),
        description: format!("The supervisor gives signs of life again. It was silent for {silent}."),
        since: Some(lost_at),
        until: Some(at),
        meaning: "The run goes on. The time of silence is recorded as a gap and is not counted as uptime.".into(),
        query: "SELECT * FROM v_gaps ORDER BY since DESC LIMIT 5".into(),
        run,
        ..MailFacts::new(
            MailKind::Resolved,
            Severity::Page,
            host,
            at,
            &format!("soakd is back after {silent} of silence"),
        )
    }
}

/// What is known of a database that cannot be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Unwritable {
    /// Since when, as far as the mailer has seen.
    pub since: UnixMillis,
    /// In a few words: `the disk is full`.
    pub what: String,
    /// The whole error, with its remedy.
    pub why: String,
    /// The file.
    pub path: String,
    /// The supervisor's process, and whether it is there; `None` if nobody ever beat.
    pub supervisor: Option<(i64, Option<bool>)>,
    /// Where the run stood.
    pub run: Option<RunStanding>,
}

/// Nothing can be recorded, not even this mail.
#[must_use]
pub fn unwritable(found: &Unwritable, host: &str, at: UnixMillis) -> MailFacts {
    let evidence = |what: &str, value: String| Evidence { what: what.into(), value, interval: None };
    let supervisor = found.supervisor.map(|(pid, alive)| {
        let is = match alive {
            Some(true) => "there, and goes on watching",
            Some(false) => "GONE",
            None => "not known to be there",
        };
        evidence("supervisor", format!("process {pid}: {is}"))
    });
    let folder = std::path::Path::new(&found.path).parent().map(|folder| folder.display().to_string());
    let folder = folder.filter(|folder| !folder.is_empty()).unwrap_or_else(|| ".".to_owned());
    MailFacts {
        rule: "database_unwritable".into(),
        description: format!(
            "Nothing can be written to {} since {}. The mailer noticed and sent this past the outbox, which cannot be written \
             either.",
            found.path,
            utc(found.since)
        ),
        since: Some(found.since),
        evidence: [Some(evidence("error", found.why.clone())), supervisor].into_iter().flatten().collect(),
        meaning: "The soak goes on and is watched. Its events wait in the supervisor's memory and are written, and their alerts \
                  mailed, when there is room again; samples of this time are lost and will be booked as a gap. Until then this \
                  mail stands for all others."
            .into(),
        runbook: format!(
            "1. A full disk, no inodes, read-only, or failing?\n\n    df -h {folder}; df -i {folder}\n    dmesg | tail -50\n\n\
             2. Make room, or mount it writable again. Nothing needs to be restarted; another mail says when it works.\n\n\
             3. What happened meanwhile is in the log:\n\n    journalctl -u soakd -n 100"
        ),
        query: "SELECT * FROM v_gaps ORDER BY since DESC LIMIT 5".into(),
        run: found.run.clone(),
        ..MailFacts::new(
            MailKind::Heartbeat,
            Severity::Page,
            host,
            at,
            &format!("soakd cannot write its database: {}", found.what),
        )
    }
}

/// It can be written again.
#[must_use]
pub fn writable_again(since: UnixMillis, run: Option<RunStanding>, host: &str, at: UnixMillis) -> MailFacts {
    let lasted = duration(at.0 - since.0);
    MailFacts {
        rule: "database_unwritable".into(),
        description: format!("The database can be written again. It could not be for {lasted}."),
        since: Some(since),
        until: Some(at),
        meaning:
            "What happened meanwhile has been written, and its alerts follow in mails of their own. Samples that were \
                  shed are booked as a gap."
                .into(),
        query: "SELECT * FROM v_gaps ORDER BY since DESC LIMIT 5".into(),
        run,
        ..MailFacts::new(
            MailKind::Resolved,
            Severity::Page,
            host,
            at,
            &format!("soakd writes its database again, after {lasted}"),
        )
    }
}
