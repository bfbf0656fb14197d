//! The book over virtual time: states, groups, inhibition, silences, acknowledgements, repeats, flapping, restarts, storms.

use crate::model::alert::{AlertState, Row, Silence};
use crate::model::mail::MailKind;
use crate::model::time::UnixMillis;
use crate::rules::{Book, Found, Moment, Notice, RuleSet, Step, Templates};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

/// A book with its surroundings; `tick` says which rows each rule returns.
struct World {
    rules: RuleSet,
    book: Book,
    silences: Vec<Silence>,
    waiting: BTreeSet<String>,
    now: i64,
    mails: Vec<Notice>,
    reasons: Vec<String>,
}

impl World {
    fn new(rules: &str) -> World {
        World {
            rules: RuleSet::parse_all(&[("r.toml".into(), rules.into())]).expect("rules"),
            book: Book { run_tag: "1".into(), host: "gpu7".into(), next_alert_id: 1, ..Book::default() },
            silences: Vec::new(),
            waiting: BTreeSet::new(),
            now: 1_790_000_000_000,
            mails: Vec::new(),
            reasons: Vec::new(),
        }
    }

    /// One evaluation after `millis`: (rule, value of its label x) for every row.
    fn tick(&mut self, millis: i64, rows: &[(&str, &str)]) -> Step {
        self.now += millis;
        let found = self.rules.rules.iter().map(|rule| Found {
            rule: rule.name.clone(),
            rows: Ok(rows.iter().filter(|(name, _)| *name == rule.name).map(|(_, x)| row(x)).collect()),
        });
        let found: Vec<Found> = found.collect();
        self.step(&found, Moment::Regular)
    }

    fn step(&mut self, found: &[Found], moment: Moment) -> Step {
        let now = UnixMillis(self.now);
        let templates = Templates::default();
        let step = self.book.step(&self.rules, &templates, found, &self.silences, &self.waiting, now, moment);
        self.mails.extend(step.notices.iter().cloned());
        self.reasons.extend(step.decisions.iter().map(|decision| decision.reason.clone()));
        step
    }

    /// The mails so far, as "kind members".
    fn told(&self) -> Vec<String> {
        self.mails.iter().map(|mail| format!("{} {}", mail.kind.as_str(), mail.members_count)).collect()
    }
}

fn row(x: &str) -> Row {
    Row::from([("x".into(), json!(x))])
}

fn rule(name: &str, more: &str) -> String {
    format!(
        "[[rule]]\nname = \"{name}\"\nseverity = \"page\"\nsummary = \"{name} {{{{ x }}}}\"\nsql = \"SELECT 'a' AS x\"\n{more}\n"
    )
}

#[test]
fn pending_then_firing_then_resolved_and_the_mails_thread() {
    let mut world = World::new(&rule("a", "for = \"1m\"\ngroup_wait = \"0s\""));
    world.tick(0, &[("a", "1")]);
    assert_eq!(world.book.pending().count(), 1);
    world.tick(59 * SECOND, &[("a", "1")]);
    assert_eq!((world.book.firing().count(), world.told().len()), (0, 0), "not yet a minute");
    world.tick(SECOND, &[("a", "1")]);
    assert_eq!(world.told(), ["alert 1"]);
    world.tick(15 * SECOND, &[]);
    assert_eq!(world.told(), ["alert 1", "resolved 1"]);
    assert_eq!(world.mails[0].in_reply_to, None);
    assert_eq!(world.mails[1].in_reply_to.as_ref(), Some(&world.mails[0].message_id));
    assert_ne!(world.mails[1].message_id, world.mails[0].message_id);
}

#[test]
fn what_was_pending_only_is_never_mailed_and_leaves_one_row() {
    let mut world = World::new(&rule("a", "for = \"1m\""));
    for _ in 0..5 {
        world.tick(15 * SECOND, &[("a", "1")]);
        world.tick(15 * SECOND, &[]);
    }
    assert_eq!(world.told(), Vec::<String>::new());
    assert_eq!(world.book.next_alert_id, 2, "an episode that never fired is written over");
    assert!(world.reasons.iter().any(|reason| reason.contains("60 s are asked for")), "{:?}", world.reasons);
}

#[test]
fn keep_firing_for_bridges_a_hole() {
    let mut world = World::new(&rule("a", "keep_firing_for = \"5m\"\ngroup_wait = \"0s\""));
    world.tick(0, &[("a", "1")]);
    world.tick(4 * MINUTE, &[]);
    world.tick(MINUTE / 2, &[("a", "1")]);
    world.tick(4 * MINUTE, &[]);
    assert_eq!(world.told(), ["alert 1"]);
    world.tick(MINUTE, &[]);
    assert_eq!(world.told(), ["alert 1", "resolved 1"]);
}

#[test]
fn one_mail_for_a_group_and_the_next_waits_for_the_interval() {
    let mut world = World::new(&rule("a", ""));
    world.tick(0, &[("a", "1"), ("a", "2")]);
    world.tick(15 * SECOND, &[("a", "1"), ("a", "2"), ("a", "3")]);
    assert_eq!(world.told(), ["alert 3"], "the third came while the group waited");
    world.tick(15 * SECOND, &[("a", "1"), ("a", "2"), ("a", "3"), ("a", "4")]);
    assert_eq!(world.told().len(), 1);
    world.tick(5 * MINUTE, &[("a", "1"), ("a", "3"), ("a", "4")]);
    assert_eq!(world.told(), ["alert 3", "alert 4"], "news of the group, with what ended meanwhile");
    let states: Vec<(&str, bool)> = world.mails[1]
        .members
        .iter()
        .map(|m| (m.alert.labels["x"].as_str(), m.alert.state == AlertState::Resolved))
        .collect();
    assert_eq!(states[0], ("4", false), "the newest first: {states:?}");
    assert!(states.contains(&("2", true)));
    world.tick(MINUTE, &[]);
    assert_eq!(
        world.told().last().map(String::as_str),
        Some("resolved 3"),
        "the one that was told as ended is not told again"
    );
}

#[test]
fn group_by_parts_a_rule_into_groups() {
    let mut world = World::new(&rule("a", "group_by = [\"x\"]\ngroup_wait = \"0s\""));
    world.tick(0, &[("a", "1"), ("a", "2")]);
    assert_eq!(world.told(), ["alert 1", "alert 1"]);
    assert_ne!(world.mails[0].message_id, world.mails[1].message_id);
}

#[test]
fn an_alert_that_ends_before_its_mail_is_still_told_but_not_as_resolved() {
    let mut world = World::new(&rule("a", ""));
    world.tick(0, &[("a", "1")]);
    world.tick(5 * SECOND, &[]);
    assert_eq!(world.told(), Vec::<String>::new());
    world.tick(10 * SECOND, &[]);
    assert_eq!(world.told(), ["alert 1"]);
    assert_eq!(world.mails[0].reason, "fired and ended before a mail could go");
    world.tick(HOUR, &[]);
    assert_eq!(world.told().len(), 1, "no RESOLVED for it");
}

#[test]
fn repeats_stop_with_an_acknowledgement_and_while_the_last_mail_waits() {
    let mut world = World::new(&rule("a", "repeat = \"1h\"\ngroup_wait = \"0s\""));
    world.tick(0, &[("a", "1")]);
    world.tick(HOUR, &[("a", "1")]);
    assert_eq!(world.told().len(), 2);
    assert_eq!(world.mails[1].in_reply_to.as_ref(), Some(&world.mails[0].message_id));
    world.waiting.insert(world.mails[1].message_id.clone());
    world.tick(HOUR, &[("a", "1")]);
    assert_eq!(world.told().len(), 2, "an outage must not fill the outbox with repeats");
    world.waiting.clear();
    world.tick(SECOND, &[("a", "1")]);
    assert_eq!(world.told().len(), 3);
    for alert in world.book.alerts.values_mut() {
        alert.acked = Some((UnixMillis(world.now), "ada".into()));
    }
    world.tick(HOUR, &[("a", "1")]);
    assert_eq!(world.told().len(), 3);
    assert!(world.reasons.contains(&"acknowledged by ada: not repeated".to_owned()));
    world.tick(HOUR, &[]);
    assert_eq!(world.told()[3], "resolved 1", "its end is told all the same");
}

#[test]
fn a_silence_holds_mails_back_and_says_why() {
    let mut world = World::new(&format!("{}{}", rule("a", "group_wait = \"0s\""), rule("b", "group_wait = \"0s\"")));
    let until = UnixMillis(world.now + HOUR);
    world.silences.push(Silence {
        silence_id: 7,
        rule: Some("a".into()),
        labels: BTreeMap::from([("x".into(), "1".into())]),
        from: UnixMillis(world.now),
        until,
        why: "backup".into(),
        who: "ada".into(),
    });
    world.tick(0, &[("a", "1"), ("b", "1")]);
    assert_eq!(world.mails.iter().map(|mail| mail.rule.as_str()).collect::<Vec<_>>(), ["b"]);
    assert!(world.reasons.contains(&"silenced (#7) by ada: backup".to_owned()));
    world.tick(MINUTE, &[("a", "1"), ("a", "2"), ("b", "1")]);
    assert_eq!(world.mails.last().map(|mail| mail.members_count), Some(1), "another label is not silenced");
    world.tick(HOUR, &[("a", "1"), ("b", "1")]);
    let last = world.mails.last().expect("mail");
    assert!(last.members.iter().any(|m| m.alert.labels["x"] == "1"), "the silence is over and it still fires");
}

#[test]
fn what_ended_under_a_silence_is_never_told() {
    let mut world = World::new(&rule("a", "group_wait = \"0s\""));
    let (from, until) = (UnixMillis(world.now), UnixMillis(world.now + HOUR));
    let silence =
        Silence { silence_id: 1, rule: None, labels: BTreeMap::new(), from, until, why: "w".into(), who: "a".into() };
    world.silences.push(silence);
    world.tick(0, &[("a", "1")]);
    world.tick(MINUTE, &[]);
    world.silences.clear();
    world.tick(2 * HOUR, &[]);
    assert_eq!(world.told(), Vec::<String>::new(), "no RESOLVED for what was never FIRING in the mailbox");
}

#[test]
fn a_cause_inhibits_its_consequences_where_labels_agree() {
    let cause = rule("cause", "inhibits = [\"effect\"]\ninhibit_equal = [\"x\"]\ngroup_wait = \"0s\"");
    let mut world = World::new(&format!("{cause}{}", rule("effect", "group_wait = \"0s\"")));
    world.tick(0, &[("cause", "gpu-0"), ("effect", "gpu-0"), ("effect", "gpu-1")]);
    let mails: Vec<(&str, usize)> = world.mails.iter().map(|mail| (mail.rule.as_str(), mail.members_count)).collect();
    assert_eq!(mails, [("cause", 1), ("effect", 1)]);
    assert_eq!(world.mails[1].members[0].alert.labels["x"], "gpu-1");
    assert!(world.reasons.iter().any(|reason| reason.starts_with("inhibited: a consequence of cause")));
}

#[test]
fn flapping_makes_three_mails_of_firing_and_then_rests() {
    let mut world = World::new(&rule("a", "group_wait = \"0s\"\nrepeat = \"0s\""));
    for _ in 0..60 {
        world.tick(15 * SECOND, &[("a", "1")]);
        world.tick(15 * SECOND, &[]);
    }
    let firing = world.mails.iter().filter(|mail| mail.kind == MailKind::Alert).count();
    assert_eq!((firing, world.told().len()), (3, 5), "{:?}", world.told());
    assert!(world.reasons.iter().any(|reason| reason.starts_with("flapping: fired 3 times within an hour")));
    world.tick(30 * MINUTE, &[]);
    assert_eq!(world.told().len(), 6, "quiet for half an hour: it is over");
}

#[test]
fn a_rule_that_fails_raises_its_own_alert_and_keeps_its_alerts_as_they_were() {
    let mut world = World::new(&format!("{}{}", rule("a", "group_wait = \"0s\""), rule("b", "group_wait = \"0s\"")));
    world.tick(0, &[("a", "1")]);
    for _ in 0..8 {
        world.now += 15 * SECOND;
        let found = [
            Found { rule: "a".into(), rows: Err("no such table: x".into()) },
            Found { rule: "b".into(), rows: Ok(vec![row("1")]) },
        ];
        world.step(&found, Moment::Regular);
    }
    let mails: Vec<&str> = world.mails.iter().map(|mail| mail.rule.as_str()).collect();
    assert_eq!(mails, ["a", "b", "rule_failed"], "a stays firing, b goes on");
    assert!(world.mails[2].members[0].alert.description.contains("no such table: x"));
}

#[test]
fn a_rule_that_is_taken_away_ends_its_alerts_quietly() {
    let mut world = World::new(&rule("a", "group_wait = \"0s\""));
    world.tick(0, &[("a", "1")]);
    world.rules = RuleSet::default();
    world.tick(MINUTE, &[]);
    assert_eq!((world.told(), world.book.firing().count()), (vec!["alert 1".to_owned()], 0));
}

#[test]
fn the_last_evaluation_waits_for_no_company() {
    let mut world = World::new(&rule("a", "group_wait = \"5m\""));
    world.step(&[Found { rule: "a".into(), rows: Ok(vec![row("1")]) }], Moment::Final);
    assert_eq!(world.told(), ["alert 1"]);
}

#[test]
fn a_stepped_clock_neither_fires_nor_resolves() {
    let mut world = World::new(&rule("a", "for = \"10m\"\ngroup_wait = \"0s\""));
    world.tick(0, &[("a", "1")]);
    world.tick(5 * MINUTE, &[("a", "1")]);
    world.now += HOUR;
    world.book.shift(HOUR);
    world.tick(MINUTE, &[("a", "1")]);
    assert_eq!(world.book.pending().count(), 1, "six minutes of ten");
    world.tick(4 * MINUTE, &[("a", "1")]);
    assert_eq!(world.told(), ["alert 1"]);
}

#[test]
fn ten_thousand_alerts_are_one_mail() {
    let mut world = World::new(&rule("a", ""));
    let names: Vec<String> = (0..10_000).map(|i| i.to_string()).collect();
    let rows: Vec<(&str, &str)> = names.iter().map(|name| ("a", name.as_str())).collect();
    for _ in 0..20 {
        world.tick(15 * SECOND, &rows);
    }
    assert_eq!(world.told(), ["alert 10000"]);
    assert_eq!(world.mails[0].members.len(), 50, "the mail names fifty and says how many there are");
    assert_eq!(world.reasons.len(), 20_000, "one hold and one send each, no more");
}

#[test]
fn ten_thousand_groups_keep_to_the_hours_budget_and_all_are_told_in_time() {
    let mut world = World::new(&rule("a", "group_by = [\"x\"]\nrepeat = \"0s\""));
    let names: Vec<String> = (0..10_000).map(|i| i.to_string()).collect();
    let rows: Vec<(&str, &str)> = names.iter().map(|name| ("a", name.as_str())).collect();
    for _ in 0..5 {
        world.tick(MINUTE, &rows);
    }
    assert_eq!(world.mails.len(), 61, "sixty pages and one mail that says how much waits");
    let storm = world.mails.iter().find(|mail| mail.rule.is_empty()).expect("storm notice");
    assert_eq!((storm.members_count, storm.members.len()), (9_940, 50));
    world.tick(HOUR, &rows);
    assert_eq!(world.mails.len(), 61 + 60 + 1, "an hour later the next sixty");
    assert!(world.reasons.iter().any(|reason| reason.contains("budget")));
}

mod invariants {
    use super::*;
    use proptest::prelude::*;

    /// Per tick: how long after the last, and which of three alerts are there.
    fn script() -> impl Strategy<Value = Vec<(i64, [bool; 3])>> {
        proptest::collection::vec((1..400_i64, any::<[bool; 3]>()), 1..120)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Whatever comes and goes: what fired is told in the end, RESOLVED follows only FIRING, Message-IDs are unique, and
        /// every mail of an episode after its first follows that first.
        #[test]
        fn hold(script in script(), wait in 0..60_i64, keep in 0..300_i64) {
            let more = format!("group_wait = \"{wait}s\"\nkeep_firing_for = \"{keep}s\"\nrepeat = \"30m\"");
            let mut world = World::new(&rule("a", &more));
            let mut fired: BTreeSet<i64> = BTreeSet::new();
            for (seconds, there) in script {
                let rows: Vec<(&str, &str)> =
                    ["1", "2", "3"].into_iter().zip(there).filter(|(_, there)| *there).map(|(x, _)| ("a", x)).collect();
                let step = world.tick(seconds * SECOND, &rows);
                fired.extend(step.changed.iter().filter(|alert| alert.fired.is_some()).map(|alert| alert.alert_id));
            }
            for _ in 0..4 {
                world.tick(HOUR, &[]);
            }
            let mut told: BTreeSet<i64> = BTreeSet::new();
            let mut ids: BTreeSet<&str> = BTreeSet::new();
            for mail in &world.mails {
                prop_assert!(ids.insert(&mail.message_id), "a Message-ID twice");
                if let Some(parent) = &mail.in_reply_to {
                    prop_assert!(ids.contains(parent.as_str()), "a reply before its parent");
                }
                let members: BTreeSet<i64> = mail.members.iter().map(|m| m.alert.alert_id).collect();
                if mail.kind == MailKind::Resolved {
                    prop_assert!(members.is_subset(&told), "RESOLVED for what was never FIRING");
                }
                told.extend(members);
            }
            prop_assert_eq!(told, fired);
            prop_assert_eq!(world.book.firing().count(), 0);
            prop_assert!(world.book.alerts.is_empty() && world.book.groups.len() <= 1, "memory is bounded");
        }
    }
}
