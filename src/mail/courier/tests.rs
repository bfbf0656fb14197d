//! The courier against a scripted carrier, a list of mails and a clock turned by hand.

use super::{Courier, Outbox, Retry, Settled, Waiting};
use crate::mail::message::Parcel;
use crate::mail::outcome::{Attempt, Outcome};
use crate::mail::settings::Routes;
use crate::mail::{Backoff, Carrier};
use crate::model::alert::{OutboxMail, PlotSpec};
use crate::model::mail::{Fate, QueuedMail};
use crate::model::time::UnixMillis;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

const START_MS: i64 = 1_772_000_000_000;

#[derive(Default)]
struct List {
    queued: Vec<QueuedMail>,
    settled: Vec<(i64, Settled)>,
    disk_full: bool,
}

impl Outbox for List {
    type Error = String;
    fn heads(&mut self) -> Result<Vec<QueuedMail>, String> {
        let mut heads: Vec<QueuedMail> = Vec::new();
        for mail in &self.queued {
            if !heads.iter().any(|h| h.mail.route == mail.mail.route) {
                heads.push(mail.clone());
            }
        }
        Ok(heads)
    }
    fn waiting(&mut self) -> Result<Waiting, String> {
        Ok(Waiting { count: self.queued.len() as u64, oldest: self.queued.first().map(|m| m.mail.at) })
    }
    fn settle(&mut self, mail: &QueuedMail, _: UnixMillis, how: &Settled) -> Result<(), String> {
        if self.disk_full {
            return Err("database or disk is full".into());
        }
        self.queued.retain(|m| m.outbox_id != mail.outbox_id);
        self.settled.push((mail.outbox_id, how.clone()));
        Ok(())
    }
    fn retry(&mut self, mail: &QueuedMail, retry: &Retry) -> Result<(), String> {
        let row = self.queued.iter_mut().find(|m| m.outbox_id == mail.outbox_id).expect("queued");
        row.settled.clone_from(&mail.settled);
        row.attempts = retry.attempts;
        row.next = retry.next;
        row.failing_since = Some(retry.failing_since);
        row.last_error = Some(retry.error.clone());
        Ok(())
    }
    fn picture(&mut self, _: &PlotSpec) -> Option<Vec<u8>> {
        None
    }
}

/// Asks `answer` at each attempt; keeps what was taken: when, Message-ID, text.
struct Script<F> {
    clock: Rc<Cell<i64>>,
    taken: Rc<RefCell<Vec<(i64, String, String)>>>,
    answer: F,
}

impl<F: FnMut(&Parcel, i64) -> Attempt> Carrier for Script<F> {
    async fn send(&mut self, parcel: &Parcel) -> Attempt {
        let attempt = (self.answer)(parcel, self.clock.get());
        if !matches!(attempt.outcome, Outcome::Permanent { .. })
            && attempt.settled.values().any(|fate| *fate == Fate::Delivered)
        {
            let text = String::from_utf8(parcel.bytes.clone()).expect("ASCII");
            self.taken.borrow_mut().push((self.clock.get(), parcel.message_id.clone(), text));
        }
        attempt
    }
    async fn rest(&mut self) {}
}

fn mail(outbox_id: i64, route: &str, at: i64) -> QueuedMail {
    QueuedMail {
        outbox_id,
        run_id: Some(1),
        mail: OutboxMail {
            at: UnixMillis(at),
            kind: "alert".into(),
            message_id: format!("<{outbox_id}@host.soakd>"),
            in_reply_to: None,
            route: route.into(),
            subject: format!("mail {outbox_id}"),
            text: "text".into(),
            html: "<p>html</p>".into(),
            plot: None,
            labels: BTreeMap::new(),
        },
        attempts: 0,
        next: UnixMillis(at),
        failing_since: None,
        last_error: None,
        settled: BTreeMap::new(),
    }
}

fn routes() -> Routes {
    let one = |a: &str| vec![a.to_owned()];
    let map = BTreeMap::from([("default".to_owned(), one("ops@x.org")), ("cto".to_owned(), one("cto@x.org"))]);
    Routes::parse("soakd@x.org", &map).expect("parses")
}

/// Runs rounds on the virtual clock until nothing is queued or `until`; gives what was taken.
fn drive(list: &mut List, until: i64, answer: impl FnMut(&Parcel, i64) -> Attempt) -> Vec<(i64, String, String)> {
    let clock = Rc::new(Cell::new(START_MS));
    let taken = Rc::default();
    let script = Script { clock: Rc::clone(&clock), taken: Rc::clone(&taken), answer };
    let reading = Rc::clone(&clock);
    let mut courier = Courier::new(script, routes(), move || UnixMillis(reading.get()), Backoff::default(), 7);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    while clock.get() < until {
        match runtime.block_on(courier.round(list)) {
            Ok(round) => match round.next {
                Some(next) => clock.set(next.0.max(clock.get() + 1)),
                None => break,
            },
            Err(_) => clock.set(clock.get() + 1_000),
        }
    }
    drop(courier);
    taken.take()
}

fn ids(taken: &[(i64, String, String)]) -> Vec<&str> {
    taken.iter().map(|(_, id, _)| id.trim_matches(['<', '>']).split('@').next().expect("an id")).collect()
}

fn ok(parcel: &Parcel) -> Attempt {
    Attempt::delivered(&parcel.to, "250 OK".into())
}

#[test]
fn after_an_hour_of_outage_all_mail_comes_once_in_order_and_the_first_tells_of_it() {
    const HOUR_MS: i64 = 3_600_000;
    // Ten alerts are written during the hour, one every six minutes.
    let mut list =
        List { queued: (0..10).map(|i| mail(i, "default", START_MS + i * 360_000)).collect(), ..List::default() };
    let mut attempts = 0;
    let taken = drive(&mut list, START_MS + 2 * HOUR_MS, |parcel, now| {
        attempts += 1;
        if now < START_MS + HOUR_MS { Attempt::retry("connection refused") } else { ok(parcel) }
    });
    assert_eq!(ids(&taken), (0..10).map(|i| i.to_string()).collect::<Vec<_>>(), "each once, in order");
    let late = taken[0].0 - START_MS - HOUR_MS;
    assert!((0..=Backoff::default().max_ms).contains(&late), "the first came {late} ms after the server");
    assert!(attempts < 45, "{attempts} attempts are no back-off");
    let first = taken[0].2.replace("=\r\n", "");
    for says in ["This mail is late.", "1 h", "connection refused", "9 more mails wait"] {
        assert!(first.contains(says), "the first mail lacks {says:?}:\n{first}");
    }
    assert!(!taken[1].2.contains("This mail is late"), "only the first one tells");
}

#[test]
fn a_route_that_is_stuck_keeps_its_order_and_holds_nobody_else_up() {
    let queued = vec![mail(1, "cto", START_MS), mail(2, "default", START_MS), mail(3, "cto", START_MS)];
    let mut list = List { queued, ..List::default() };
    let taken = drive(&mut list, START_MS + 3_600_000, |parcel, now| {
        if parcel.to[0].to_string() == "cto@x.org" && now < START_MS + 60_000 {
            return Attempt::retry("451 greylisted");
        }
        ok(parcel)
    });
    assert_eq!(ids(&taken), ["2", "1", "3"]);
}

#[test]
fn what_nobody_will_take_is_set_aside_and_blocks_no_one() {
    let mut list = List { queued: (1..=3).map(|i| mail(i, "default", START_MS)).collect(), ..List::default() };
    let taken = drive(&mut list, START_MS + 60_000, |parcel, _| {
        if parcel.message_id.starts_with("<2@") { Attempt::permanent("550 no such user") } else { ok(parcel) }
    });
    assert_eq!(ids(&taken), ["1", "3"]);
    assert_eq!(list.settled[1], (2, Settled::SetAside("550 no such user".into())));
}

#[test]
fn a_full_disk_does_not_send_the_same_mail_over_and_over() {
    let mut list = List { queued: vec![mail(1, "default", START_MS), mail(2, "default", START_MS)], ..List::default() };
    list.disk_full = true;
    let clock = Rc::new(Cell::new(START_MS));
    let taken: Rc<RefCell<Vec<_>>> = Rc::default();
    let script = Script { clock: Rc::clone(&clock), taken: Rc::clone(&taken), answer: |p: &Parcel, _| ok(p) };
    let mut courier = Courier::new(script, routes(), move || UnixMillis(clock.get()), Backoff::default(), 7);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for _ in 0..20 {
        assert!(runtime.block_on(courier.round(&mut list)).is_err(), "the outbox cannot be written");
    }
    assert_eq!(taken.borrow().len(), 1, "sent once, however often the result could not be recorded");
    list.disk_full = false;
    runtime.block_on(courier.round(&mut list)).expect("the disk has room again");
    assert_eq!(ids(&taken.borrow()), ["1", "2"]);
}

#[test]
fn a_recipient_who_has_it_does_not_get_it_again() {
    let map = BTreeMap::from([("default".to_owned(), vec!["a@x.org".to_owned(), "b@x.org".to_owned()])]);
    let mut list = List { queued: vec![mail(1, "default", START_MS)], ..List::default() };
    let mut asked: Vec<Vec<String>> = Vec::new();
    let clock = Rc::new(Cell::new(START_MS));
    let script = Script {
        clock: Rc::clone(&clock),
        taken: Rc::default(),
        answer: |parcel: &Parcel, _| {
            let to: Vec<String> = parcel.to.iter().map(ToString::to_string).collect();
            asked.push(to.clone());
            match asked.len() {
                1 => Attempt {
                    outcome: Outcome::Retry { reason: "b is greylisted".into(), answer_lost: false },
                    settled: BTreeMap::from([("a@x.org".to_owned(), Fate::Delivered)]),
                },
                _ => ok(parcel),
            }
        },
    };
    let reading = Rc::clone(&clock);
    let routes = Routes::parse("soakd@x.org", &map).expect("parses");
    let mut courier = Courier::new(script, routes, move || UnixMillis(reading.get()), Backoff::default(), 7);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(courier.round(&mut list)).expect("a round");
    clock.set(START_MS + Backoff::default().max_ms);
    runtime.block_on(courier.round(&mut list)).expect("a round");
    drop(courier);
    assert_eq!(asked, [vec!["a@x.org", "b@x.org"], vec!["b@x.org"]]);
    assert_eq!(list.settled, [(1, Settled::Sent)]);
}

#[test]
fn a_clock_set_back_by_a_day_does_not_hold_mail_for_a_day() {
    let mut late = mail(1, "default", START_MS);
    late.next = UnixMillis(START_MS + 86_400_000);
    let mut list = List { queued: vec![late], ..List::default() };
    assert_eq!(ids(&drive(&mut list, START_MS + 60_000, |p, _| ok(p))), ["1"]);
}
