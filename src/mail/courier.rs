//! The order of things: which row goes next, and what its outcome means for the outbox.
//!
//! Each route is a queue. Its oldest mail goes first, and while that one has to wait, so do those behind it: RESOLVED never
//! overtakes FIRING. A mail that nobody will take is set aside, so that it blocks no one. Time comes in through a clock
//! that tests can turn by hand.

use super::Carrier;
use super::backoff::Backoff;
use super::message::{compose, standing};
use super::outcome::{Attempt, Outcome};
use super::settings::Routes;
use crate::model::alert::PlotSpec;
use crate::model::mail::{Fate, QueuedMail};
use crate::model::time::UnixMillis;
use std::collections::{BTreeMap, BTreeSet};

/// Mails of one round. Between rounds the mailer looks at the supervisor's heartbeat.
const ROUND_MAILS_MAX: usize = 50;
/// A mail held up for less than this needs no word about it.
const NOTE_AFTER_MS: i64 = 60_000;

/// What the courier writes back after a failed attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Attempts so far.
    pub attempts: u32,
    /// Not before.
    pub next: UnixMillis,
    /// When the first attempt failed.
    pub failing_since: UnixMillis,
    /// Why this one did.
    pub error: String,
}

/// How a mail left the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// Sent, at least to one recipient.
    Sent,
    /// Set aside, with the reason.
    SetAside(String),
}

/// What waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waiting {
    /// Mails queued.
    pub count: u64,
    /// When the oldest of them was written.
    pub oldest: Option<UnixMillis>,
}

/// Where mails wait: the database, or a list in a test. Every write must be durable when it returns.
pub trait Outbox {
    /// What goes wrong with it.
    type Error: std::fmt::Display;
    /// The oldest queued mail of every route, oldest first.
    fn heads(&mut self) -> Result<Vec<QueuedMail>, Self::Error>;
    /// What waits, over all routes.
    fn waiting(&mut self) -> Result<Waiting, Self::Error>;
    /// The mail has left the queue.
    fn settle(&mut self, mail: &QueuedMail, at: UnixMillis, how: &Settled) -> Result<(), Self::Error>;
    /// The mail stays; `mail.settled` tells who has it already.
    fn retry(&mut self, mail: &QueuedMail, retry: &Retry) -> Result<(), Self::Error>;
    /// Draws the picture; `None` if it cannot be drawn: the mail goes without it.
    fn picture(&mut self, spec: &PlotSpec) -> Option<Vec<u8>>;
}

/// What one round did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Round {
    /// Mails that left as sent.
    pub sent: u64,
    /// Mails set aside.
    pub set_aside: u64,
    /// Attempts that failed and will be repeated.
    pub failed: u64,
    /// Why the last one failed.
    pub last_error: Option<String>,
    /// When to come again; `None` when nothing is queued.
    pub next: Option<UnixMillis>,
}

/// A result that the outbox could not yet take.
struct Unrecorded {
    mail: QueuedMail,
    at: UnixMillis,
    how: Settled,
}

/// Takes mails from an outbox to a carrier.
pub struct Courier<C, K> {
    carrier: C,
    clock: K,
    routes: Routes,
    backoff: Backoff,
    seed: u64,
    unrecorded: Option<Unrecorded>,
}

impl<C: Carrier, K: Fn() -> UnixMillis> Courier<C, K> {
    /// `seed` spreads the retries of many hosts.
    pub fn new(carrier: C, routes: Routes, clock: K, backoff: Backoff, seed: u64) -> Self {
        Courier { carrier, clock, routes, backoff, seed, unrecorded: None }
    }

    /// Sends what is due, route by route and oldest first, up to a bounded number.
    ///
    /// When the outbox cannot record that a mail was sent (a full disk), nothing more is sent until it can: sending the
    /// same mail over and over would be worse than silence.
    pub async fn round<O: Outbox>(&mut self, outbox: &mut O) -> Result<Round, O::Error> {
        if let Some(done) = self.unrecorded.take() {
            self.settle(outbox, done)?;
        }
        let mut round = Round::default();
        let mut blocked: BTreeSet<String> = BTreeSet::new();
        for _ in 0..ROUND_MAILS_MAX {
            let heads = outbox.heads()?;
            let now = (self.clock)();
            let wait = |mail: &QueuedMail| wait_ms(mail, now, self.backoff.max_ms);
            let free = |mail: &QueuedMail| !blocked.contains(&mail.mail.route) && wait(mail) == 0;
            let Some(mail) = heads.iter().find(|mail| free(mail)).cloned() else {
                let wait = heads.iter().map(wait).min();
                round.next = wait.map(|ms| UnixMillis(now.0 + ms));
                self.carrier.rest().await;
                return Ok(round);
            };
            let route = mail.mail.route.clone();
            if !self.deliver(outbox, mail, &mut round).await? {
                blocked.insert(route);
            }
        }
        round.next = Some((self.clock)());
        Ok(round)
    }

    /// Tries a mail that is in no outbox, once: for when the outbox itself cannot be written. Who has it already is read from and
    /// kept in `mail`.
    pub async fn send_past_outbox(&mut self, mail: &mut QueuedMail) -> Outcome {
        let attempt = match compose(mail, &self.routes, None, None) {
            Ok(parcel) if parcel.to.is_empty() => {
                Attempt::permanent("every recipient of the route has it or refused it")
            }
            Ok(parcel) => self.carrier.send(&parcel).await,
            Err(error) => Attempt::permanent(error.to_string()),
        };
        self.carrier.rest().await;
        mail.settled.extend(attempt.settled);
        attempt.outcome
    }

    /// Milliseconds to wait after the `attempts`-th failure.
    pub fn wait_ms(&self, attempts: u32) -> i64 {
        self.backoff.wait_ms(attempts, self.seed)
    }

    /// True when the mail has left the queue.
    async fn deliver<O: Outbox>(
        &mut self,
        outbox: &mut O,
        mut mail: QueuedMail,
        round: &mut Round,
    ) -> Result<bool, O::Error> {
        let attempt = self.attempt(outbox, &mail).await?;
        let at = (self.clock)();
        mail.settled.extend(attempt.settled);
        let how = match attempt.outcome {
            Outcome::Delivered { .. } => Settled::Sent,
            // Someone may have got it in an earlier attempt, and the rest refused it now.
            Outcome::Permanent { .. } if mail.settled.values().any(|fate| *fate == Fate::Delivered) => Settled::Sent,
            Outcome::Permanent { reason } => Settled::SetAside(reason),
            Outcome::Retry { reason, answer_lost } => {
                let attempts = mail.attempts.saturating_add(1);
                let wait = self
                    .backoff
                    .wait_ms(attempts, self.seed ^ (mail.outbox_id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let lost = if answer_lost { " (it may have arrived: the answer was lost)" } else { "" };
                let retry = Retry {
                    attempts,
                    next: UnixMillis(at.0 + wait),
                    failing_since: mail.failing_since.unwrap_or(at),
                    error: format!("{reason}{lost}"),
                };
                outbox.retry(&mail, &retry)?;
                round.failed += 1;
                round.last_error = Some(retry.error);
                return Ok(false);
            }
        };
        match how {
            Settled::Sent => round.sent += 1,
            Settled::SetAside(_) => round.set_aside += 1,
        }
        self.settle(outbox, Unrecorded { mail, at, how })?;
        Ok(true)
    }

    fn settle<O: Outbox>(&mut self, outbox: &mut O, done: Unrecorded) -> Result<(), O::Error> {
        let result = outbox.settle(&done.mail, done.at, &done.how);
        if result.is_err() {
            self.unrecorded = Some(done);
        }
        result
    }

    async fn attempt<O: Outbox>(&mut self, outbox: &mut O, mail: &QueuedMail) -> Result<Attempt, O::Error> {
        let (all_settled, have) = standing(mail, &self.routes);
        if all_settled && have > 0 {
            let outcome = Outcome::Delivered { answer: "every recipient has it".to_owned() };
            return Ok(Attempt { outcome, settled: BTreeMap::new() });
        }
        let note = note(mail, (self.clock)(), outbox.waiting()?);
        let picture = mail.mail.plot.as_ref().and_then(|spec| outbox.picture(spec));
        Ok(match compose(mail, &self.routes, note.as_deref(), picture) {
            Ok(parcel) if parcel.to.is_empty() => Attempt::permanent("every recipient of the route refused it"),
            Ok(parcel) => self.carrier.send(&parcel).await,
            Err(error) => Attempt::permanent(error.to_string()),
        })
    }
}

/// Milliseconds until `mail` is due. Never more than the longest wait: the wall clock may have been set back.
fn wait_ms(mail: &QueuedMail, now: UnixMillis, max_ms: i64) -> i64 {
    let wait = mail.next.0.saturating_sub(now.0);
    if wait > max_ms { 0 } else { wait.max(0) }
}

/// What the first mail through says about the outage that held it up.
fn note(mail: &QueuedMail, now: UnixMillis, waiting: Waiting) -> Option<String> {
    let since = mail.failing_since?;
    let held_ms = now.0 - since.0;
    if held_ms < NOTE_AFTER_MS {
        return None;
    }
    let why = mail.last_error.as_deref().unwrap_or("no reason was recorded");
    let behind = match waiting.count.saturating_sub(1) {
        0 => "No other mail waits.".to_owned(),
        1 => "One more mail waits and follows now.".to_owned(),
        n => format!("{n} more mails wait and follow now."),
    };
    let tries = if mail.attempts == 1 { "1 attempt".to_owned() } else { format!("{} attempts", mail.attempts) };
    Some(format!(
        "This mail is late. No mail could be delivered for {}, from {} on ({tries}). The last reason: {why}. {behind}",
        spell(held_ms),
        moment(since),
    ))
}

fn spell(ms: i64) -> String {
    let minutes = ms / 60_000;
    match (minutes / 60, minutes % 60) {
        (0, m) => format!("{m} min"),
        (h, m) => format!("{h} h {m} min"),
    }
}

fn moment(at: UnixMillis) -> String {
    let when = chrono::DateTime::<chrono::Utc>::from_timestamp_millis(at.0).unwrap_or_default();
    when.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests;
