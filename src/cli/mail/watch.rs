//! What the mailer draws and writes by itself: pictures at delivery, and the alarm for a silent supervisor.

use super::desk::Desk;
use crate::clock;
use crate::mail::{Deadman, Pulse, Word};
use crate::model::alert::{OutboxMail, PlotSpec};
use crate::model::event::EventSeverity;
use crate::model::facts::RunFacts;
use crate::model::mail::{MailFacts, Table, message_id};
use crate::model::time::{Now, UnixMillis};
use crate::report::mail::{Silence, heartbeat_back, heartbeat_lost, render, standing};
use crate::report::plot::{Mark, Panel, Picture, Span, Tolerance};
use crate::report::scale::Unit;
use crate::store::{Store, StoreError};
use std::collections::BTreeMap;

/// Columns of a picture: one a pixel.
pub(super) const COLUMNS_MAX: usize = 700;
/// Width and height of a panel, logical pixels: on a phone a mail is about 400 wide, and what is drawn much wider than that
/// shrinks until its labels cannot be read.
pub(super) const PICTURE_SIZE: (f64, f64) = (640.0, 200.0);
/// Panels of a picture; a phone shows about two at once.
const PANELS_MAX: usize = 4;
/// The route of the mailer's own alarm.
pub(super) const ALARM_ROUTE: &str = "default";

/// The picture that a mail asks for, drawn from the database as it is now. `None` if there is nothing to draw.
pub(super) fn picture(store: &Store, spec: &PlotSpec) -> Option<Vec<u8>> {
    let facts = store.plot_facts(spec, COLUMNS_MAX).ok().flatten()?;
    let tolerance =
        Tolerance { bytes: facts.plan.tolerance_bytes as f64, horizon_s: facts.plan.horizon_ms as f64 / 1e3 };
    let panels: Vec<Panel> = facts
        .series
        .into_iter()
        .filter(|series| !series.columns.is_empty())
        .take(PANELS_MAX)
        .map(|series| Panel {
            title: series.name,
            unit: Unit::Bytes,
            columns: series.columns,
            finding: series.finding,
            tolerance: Some(tolerance),
            course: Vec::new(),
            warm_up: None,
            others: Vec::new(),
        })
        .collect();
    let mut picture = Picture::of(panels.first()?.clone());
    picture.panels = panels;
    (picture.width, picture.panel_height) = PICTURE_SIZE;
    picture.window = Some((spec.from.seconds(), spec.to.seconds()));
    let notable = facts.events.iter().filter(|event| event.severity != EventSeverity::Info);
    picture.marks =
        notable.map(|e| Mark { unix_s: e.at.seconds(), severity: e.severity, label: e.summary.clone() }).collect();
    picture.gaps = facts
        .gaps
        .iter()
        .map(|gap| Span { from_s: gap.from.seconds(), to_s: gap.to.seconds(), label: gap.reason.clone() })
        .collect();
    picture.png(2).ok()
}

/// Watches the supervisor's heartbeat.
pub(super) struct Watch {
    deadman: Deadman,
}

impl Watch {
    /// Takes up where an earlier mailer left off: whether the loss of a beat was mailed is read from the outbox.
    pub fn resume(store: &Store, host: &str, silent_after_ms: i64) -> Result<Self, StoreError> {
        let last = store.last_mail("heartbeat")?;
        let lost = last.and_then(|mail| mail.labels.get("lost_unix_ms").and_then(|at| at.parse().ok()));
        // Whether that one was taken back is told by the mail that took it back.
        let lost: Option<i64> = match lost {
            Some(at) if store.mail_by_id(&id_of(&["heartbeat", "back"], at, host))?.is_some() => None,
            other => other,
        };
        Ok(Watch { deadman: Deadman::new(silent_after_ms, lost.map(UnixMillis)) })
    }

    /// The supervisor's newest beat.
    pub fn pulse(&self) -> Option<Pulse> {
        self.deadman.pulse()
    }

    /// Whether its death was mailed and not yet taken back.
    pub fn is_lost(&self) -> bool {
        self.deadman.is_lost()
    }

    /// One look; writes into the outbox what is to be said.
    pub fn look(&mut self, desk: &mut Desk, now: Now) -> Result<(), StoreError> {
        let pulse = desk.store.heartbeat_of("supervisor")?.map(|row| Pulse {
            at: row.at,
            pid: row.pid,
            run_id: row.run_id,
            expects: row.expects,
        });
        let before = self.deadman;
        if let Some(word) = self.deadman.look(pulse, now)
            && let Err(error) = write_alarm(desk, &word, now.wall)
        {
            self.deadman = before; // say it again at the next look
            return Err(error);
        }
        Ok(())
    }
}

fn write_alarm(desk: &mut Desk, word: &Word, at: UnixMillis) -> Result<(), StoreError> {
    let run_facts = |store: &Store, run_id: Option<i64>| {
        run_id.and_then(|id| store.run_facts(id, COLUMNS_MAX, at).ok().flatten()) // the alarm goes without it too
    };
    match word {
        Word::Lost { last, .. } => {
            let run = run_facts(&desk.store, last.run_id);
            let silence = Silence {
                last_beat: last.at,
                pid: last.pid,
                alive: is_alive(last.pid, last.at),
                run: run.as_ref().map(standing),
                recent: run.as_ref().and_then(last_events),
            };
            let facts = heartbeat_lost(&silence, &desk.host, at);
            let id = id_of(&["heartbeat", "lost"], last.at.0, &desk.host);
            let labels = BTreeMap::from([("lost_unix_ms".to_owned(), last.at.0.to_string())]);
            desk.enqueue(last.run_id, &outbox_mail(&facts, id, None, ALARM_ROUTE, labels))
        }
        Word::Back { lost_at, pulse } => {
            let run = run_facts(&desk.store, pulse.run_id);
            let facts = heartbeat_back(*lost_at, run.as_ref().map(standing), &desk.host, at);
            let id = id_of(&["heartbeat", "back"], lost_at.0, &desk.host);
            let parent = id_of(&["heartbeat", "lost"], lost_at.0, &desk.host);
            desk.enqueue(pulse.run_id, &outbox_mail(&facts, id, Some(parent), ALARM_ROUTE, BTreeMap::new()))
        }
    }
}

pub(super) fn outbox_mail(
    facts: &MailFacts,
    message_id: String,
    in_reply_to: Option<String>,
    route: &str,
    labels: BTreeMap<String, String>,
) -> OutboxMail {
    let rendered = render(facts);
    OutboxMail {
        at: facts.at,
        kind: facts.kind.as_str().to_owned(),
        message_id,
        in_reply_to,
        route: route.to_owned(),
        subject: rendered.subject,
        text: rendered.text,
        html: rendered.html,
        plot: None,
        labels,
    }
}

pub(super) fn id_of(what: &[&str], at_ms: i64, host: &str) -> String {
    let at = at_ms.to_string();
    message_id(&[what, &[at.as_str()]].concat(), host)
}

/// Whether the process of that number, last heard of at `beat`, exists. One of an earlier boot does not, whoever has its number
/// now. Signal 0 is not delivered; it only asks.
pub(super) fn is_alive(pid: i64, beat: UnixMillis) -> Option<bool> {
    let now = clock::now();
    if beat.0 < now.wall.0 - now.mono.0 {
        return Some(false);
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).ok()?);
    match nix::sys::signal::kill(pid, None) {
        Ok(()) | Err(nix::errno::Errno::EPERM) => Some(true),
        Err(nix::errno::Errno::ESRCH) => Some(false),
        Err(_) => None,
    }
}

/// The last things that happened before the silence.
fn last_events(run: &RunFacts) -> Option<Table> {
    let rows: Vec<Vec<String>> = run
        .events
        .iter()
        .rev()
        .take(10)
        .rev()
        .map(|e| vec![crate::report::mail::utc(e.at), e.kind.clone(), e.summary.clone()])
        .collect();
    (!rows.is_empty()).then(|| Table {
        caption: "The last events before the silence".into(),
        columns: ["time", "kind", "what"].map(str::to_owned).into(),
        rows,
    })
}

#[cfg(test)]
mod tests {
    use super::is_alive;
    use crate::clock;
    use crate::model::time::UnixMillis;

    #[test]
    fn a_process_of_an_earlier_boot_is_dead_whoever_has_its_number() {
        let (now, ours) = (clock::now(), i64::from(std::process::id()));
        assert_eq!(is_alive(ours, now.wall), Some(true));
        let before_the_boot = UnixMillis(now.wall.0 - now.mono.0 - 60_000);
        assert_eq!(is_alive(ours, before_the_boot), Some(false), "it is another's number");
        assert_eq!(is_alive(i64::from(i32::MAX), now.wall), Some(false), "no such process");
    }
}
