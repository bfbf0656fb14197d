//! The outbox of the database as the courier sees it, with what belongs to it: a line for each mail, an event and a mail
//! to someone else when one could not be delivered, and the picture drawn at delivery.

use super::say;
use crate::mail::{Outbox, Retry, Routes, Settled, Waiting};
use crate::model::alert::{OutboxMail, PlotSpec, Severity};
use crate::model::event::{Event, EventKind, EventSeverity};
use crate::model::mail::{Evidence, MailFacts, MailKind, QueuedMail, message_id, refusals};
use crate::model::time::UnixMillis;
use crate::report::mail::render;
use crate::store::{MailRetry, Store, StoreError};
use std::collections::{BTreeMap, BTreeSet};

/// Marks a mail that reports another one's failure: its own failure is not reported by mail again.
const REPORT_LABEL: &str = "undeliverable";

/// The mailer's desk.
pub(super) struct Desk {
    /// The database.
    pub store: Store,
    /// Who gets what.
    pub routes: Routes,
    /// This machine's name.
    pub host: String,
    /// Whether to say a line for each mail.
    pub talks: bool,
}

impl Outbox for Desk {
    type Error = StoreError;

    fn heads(&mut self) -> Result<Vec<QueuedMail>, StoreError> {
        self.store.outbox_heads()
    }

    fn waiting(&mut self) -> Result<Waiting, StoreError> {
        let counts = self.store.outbox_counts()?;
        Ok(Waiting { count: counts.queued.max(0).cast_unsigned(), oldest: counts.oldest_queued })
    }

    fn settle(&mut self, mail: &QueuedMail, at: UnixMillis, how: &Settled) -> Result<(), StoreError> {
        let refusals = refusals(&mail.settled);
        let report = match how {
            Settled::SetAside(why) => self.report(mail, at, why),
            Settled::Sent => None,
        };
        self.store.record(|to| {
            match how {
                Settled::Sent => to.mail_sent(mail.outbox_id, at, &mail.settled)?,
                Settled::SetAside(why) => to.mail_failed(mail.outbox_id, why, &mail.settled)?,
            }
            if let (Some(run_id), Some(event)) = (mail.run_id, failure_event(mail, at, how, &refusals)) {
                to.event(run_id, &event)?;
            }
            if let Some(report) = &report {
                to.enqueue(mail.run_id, report)?;
            }
            Ok(())
        })?;
        self.tell(mail, how, &refusals);
        Ok(())
    }

    fn retry(&mut self, mail: &QueuedMail, retry: &Retry) -> Result<(), StoreError> {
        let row = MailRetry {
            attempts: retry.attempts,
            next: retry.next,
            failing_since: retry.failing_since,
            error: retry.error.clone(),
        };
        self.store.record(|to| to.mail_retry(mail.outbox_id, &row, &mail.settled))?;
        if self.talks {
            let (id, subject, attempts) = (mail.outbox_id, &mail.mail.subject, retry.attempts);
            say(&format!("not yet   {id}  {subject}  (attempt {attempts}: {})", retry.error));
        }
        Ok(())
    }

    fn picture(&mut self, spec: &PlotSpec) -> Option<Vec<u8>> {
        super::watch::picture(&self.store, spec)
    }
}

impl Desk {
    /// Writes a mail of the mailer's own. The same Message-ID again changes nothing.
    pub fn enqueue(&mut self, run_id: Option<i64>, mail: &OutboxMail) -> Result<(), StoreError> {
        self.store.enqueue(run_id, mail).map(|_| ())
    }

    fn tell(&self, mail: &QueuedMail, how: &Settled, refusals: &str) {
        if !self.talks {
            return;
        }
        let (id, subject) = (mail.outbox_id, &mail.mail.subject);
        match how {
            Settled::Sent if refusals.is_empty() => say(&format!("sent      {id}  {subject}")),
            Settled::Sent => say(&format!("sent      {id}  {subject}  (refused for {refusals})")),
            Settled::SetAside(why) => say(&format!("set aside {id}  {subject}  ({why})")),
        }
    }

    /// Tells someone else that a mail could not be delivered, if no rule can: the first route with a recipient who did not
    /// refuse it.
    fn report(&self, mail: &QueuedMail, at: UnixMillis, why: &str) -> Option<OutboxMail> {
        if mail.mail.labels.contains_key(REPORT_LABEL) {
            return None;
        }
        let on = |route: &str| -> BTreeSet<String> {
            self.routes.recipients(route).iter().map(|r| r.email.to_string()).collect()
        };
        let refused = on(&mail.mail.route);
        // The rule `mail_refused` tells the default route, where that is someone else and a run evaluates rules.
        if mail.run_id.is_some() && !on("default").is_subset(&refused) {
            return None;
        }
        let route = self.routes.names().find(|name| !on(name).is_subset(&refused))?.to_owned();
        let facts = undeliverable(mail, &self.host, at, why);
        let rendered = render(&facts);
        let number = mail.outbox_id.to_string();
        Some(OutboxMail {
            at,
            kind: facts.kind.as_str().to_owned(),
            message_id: message_id(&[REPORT_LABEL, &number, &mail.mail.at.0.to_string()], &self.host),
            in_reply_to: None,
            route,
            subject: rendered.subject,
            text: rendered.text,
            html: rendered.html,
            plot: None,
            labels: BTreeMap::from([(REPORT_LABEL.to_owned(), number)]),
        })
    }
}

fn undeliverable(mail: &QueuedMail, host: &str, at: UnixMillis, why: &str) -> MailFacts {
    let evidence = |what: &str, value: &str| Evidence { what: what.into(), value: value.into(), interval: None };
    MailFacts {
        description: format!(
            "The mail server refused this mail for good, so nobody on the route {:?} has it. Its text:\n\n{}",
            mail.mail.route, mail.mail.text
        ),
        since: Some(mail.mail.at),
        evidence: vec![
            evidence("refused mail", &mail.mail.subject),
            evidence("route", &mail.mail.route),
            evidence("the server said", why),
        ],
        meaning: "Until this is mended, whoever should be told is not.".into(),
        runbook: "1. Correct the addresses of the route under [mail.routes] in soak.toml, or mend the mail server.\n\
                  2. Check it:\n\n    soakd mail --test\n\n3. Send what was set aside:\n\n    soakd mail --requeue --once"
            .into(),
        query: "SELECT outbox_id, route, subject, last_error FROM v_mails WHERE state = 'failed'".into(),
        ..MailFacts::new(
            MailKind::Alert,
            Severity::Ticket,
            host,
            at,
            &format!("a mail to the route {:?} cannot be delivered: {}", mail.mail.route, mail.mail.subject),
        )
    }
}

fn failure_event(mail: &QueuedMail, at: UnixMillis, how: &Settled, refusals: &str) -> Option<Event> {
    let (severity, summary) = match how {
        Settled::SetAside(why) => {
            (EventSeverity::Error, format!("a mail to the route {:?} cannot be delivered: {why}", mail.mail.route))
        }
        Settled::Sent if refusals.is_empty() => return None,
        Settled::Sent => {
            let route = &mail.mail.route;
            (EventSeverity::Warning, format!("some on the route {route:?} refused a mail: {refusals}"))
        }
    };
    let detail = serde_json::json!({
        "outbox_id": mail.outbox_id, "message_id": mail.mail.message_id, "subject": mail.mail.subject,
    });
    Some(Event { at, kind: EventKind::MailFailed, severity, process_id: None, device_id: None, summary, detail })
}
