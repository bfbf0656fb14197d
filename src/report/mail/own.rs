//! The mail that no rule can write: the mailer's own alarm when the supervisor falls silent, and its end.

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
