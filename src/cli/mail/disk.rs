//! The mailer's alarm for a database that cannot be written: sent past the outbox, for that is in it. When and how often is
//! left to `mail::DeadDisk`.

use super::desk::Desk;
use super::say;
use super::watch::{ALARM_ROUTE, COLUMNS_MAX, id_of, is_alive, outbox_mail};
use crate::mail::{AnyCarrier, Courier, DeadDisk, DiskWord, Outcome};
use crate::model::mail::{QueuedMail, RunStanding};
use crate::model::time::{Now, UnixMillis};
use crate::report::mail::{Unwritable, standing, unwritable, writable_again};
use crate::store::{HeartbeatRow, StoreError};
use std::collections::BTreeMap;

/// Watches whether the mailer's own beats can be written.
#[derive(Debug, Default)]
pub(super) struct Disk {
    dead: DeadDisk,
    /// The alarm on its way: some of its recipients may have it.
    alarm: Option<QueuedMail>,
    /// Its Message-ID once it has left.
    told: Option<String>,
}

impl Disk {
    /// After an attempt to write: `error` is why it failed.
    pub async fn look<K: Fn() -> UnixMillis>(
        &mut self,
        error: Option<&StoreError>,
        desk: &mut Desk,
        courier: &mut Courier<AnyCarrier, K>,
        now: Now,
    ) {
        // A database that somebody holds for long can be written by whoever holds it.
        if matches!(error, Some(StoreError::Locked { .. })) {
            return;
        }
        match (self.dead.look(error.is_none(), now), error) {
            (Some(DiskWord::Dead { since }), Some(error)) => {
                let fresh = || alarm(desk, since, error, now.wall);
                let mut mail = self.alarm.take().unwrap_or_else(fresh);
                let id = mail.mail.message_id.clone();
                match courier.send_past_outbox(&mut mail).await {
                    Outcome::Delivered { .. } => {
                        say(&format!("sent past the outbox  {}", mail.mail.subject));
                        self.dead.told();
                        self.told = Some(id);
                    }
                    Outcome::Permanent { reason } => {
                        say(&format!("nobody takes  {}  ({reason})", mail.mail.subject));
                        self.dead.told();
                    }
                    Outcome::Retry { reason, .. } => {
                        say(&format!("not yet  {}  ({reason})", mail.mail.subject));
                        let wait_ms = courier.wait_ms(self.dead.failed());
                        self.dead.wait_until(now.mono.plus(wait_ms));
                        self.alarm = Some(mail);
                    }
                }
            }
            (Some(DiskWord::Back { since }), _) => {
                let beat = last_beat(desk);
                let facts = writable_again(since, run(desk, beat, now.wall), &desk.host, now.wall);
                let back = id_of(&["disk", "back"], now.wall.0, &desk.host);
                let mail = outbox_mail(&facts, back, self.told.take(), ALARM_ROUTE, BTreeMap::new());
                if let Err(error) = desk.enqueue(beat.and_then(|beat| beat.run_id), &mail) {
                    say(&format!("soakd mail: {error}")); // it has failed again at once, and that will be told
                }
            }
            _ => {}
        }
    }
}

/// The supervisor's, as far as it could be written.
fn last_beat(desk: &Desk) -> Option<HeartbeatRow> {
    desk.store.heartbeat_of("supervisor").ok().flatten()
}

fn run(desk: &Desk, beat: Option<HeartbeatRow>, at: UnixMillis) -> Option<RunStanding> {
    let facts = desk.store.run_facts(beat?.run_id?, COLUMNS_MAX, at).ok().flatten()?; // the alarm goes without it too
    Some(standing(&facts))
}

fn alarm(desk: &Desk, since: UnixMillis, error: &StoreError, at: UnixMillis) -> QueuedMail {
    let beat = last_beat(desk);
    let what = match error {
        StoreError::DiskFull { .. } => "the disk is full",
        StoreError::ReadOnly { .. } => "it is read-only",
        _ => "writes to it fail",
    };
    let found = Unwritable {
        since,
        what: what.to_owned(),
        why: error.to_string(),
        path: std::fs::canonicalize(desk.store.path())
            .unwrap_or_else(|_| desk.store.path().to_owned())
            .display()
            .to_string(),
        supervisor: beat.map(|beat| (beat.pid, is_alive(beat.pid, beat.at))),
        run: run(desk, beat, at),
    };
    // By the last beat that could be written: a mailer that is started again meanwhile repeats this mail under the same id.
    let id = id_of(&["disk", "dead"], beat.map_or(since, |beat| beat.at).0, &desk.host);
    QueuedMail {
        outbox_id: 0,
        run_id: beat.and_then(|beat| beat.run_id),
        mail: outbox_mail(&unwritable(&found, &desk.host, at), id, None, ALARM_ROUTE, BTreeMap::new()),
        attempts: 0,
        next: at,
        failing_since: None,
        last_error: None,
        settled: BTreeMap::new(),
    }
}
