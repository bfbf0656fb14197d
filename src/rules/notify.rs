//! Who is told what: groups, inhibition, silences, acknowledgement, repeats, and a budget of mails for storms. Every
//! alert gets a decision with its reason. The words of a mail are left to `report::mail`.

use super::book::{Book, Notice, NoticeMember, hash};
use super::parse::Rule;
use super::step::{Changes, Moment, RULE_FAILED, Scene, rule_failed, span};
use crate::model::alert::{Alert, AlertGroup, AlertState, Decision, Severity};
use crate::model::mail::MailKind;
use crate::model::time::UnixMillis;
use std::collections::{BTreeMap, BTreeSet};

/// Alerts that one mail names; it says how many there are beyond.
pub const MEMBERS_MAX: usize = 50;
/// Mails an hour, over all groups, while only tickets and notes are at stake: one every two minutes is all that a person reads.
const MAILS_PER_HOUR_MAX: usize = 30;
/// Mails an hour when a page is at stake.
const PAGES_PER_HOUR_MAX: usize = 60;
const HOUR_MS: i64 = 3_600_000;

/// What is to be said of one group now.
enum Verdict {
    Send { kind: MailKind, reason: String },
    Hold(String),
    Nothing,
}

pub(super) fn notify(book: &mut Book, scene: &Scene<'_>, changes: &mut Changes) {
    book.mailed.retain(|at| scene.now.0 - at.0 < HOUR_MS);
    let withheld = withheld(book, scene);
    let mut storm: Vec<String> = Vec::new();
    for (key, prints) in groups_by_urgency(book) {
        let Some(rule) = rule_of(book, &prints, scene) else { continue };
        let prints = settle_withheld(book, &prints, &withheld, changes);
        if prints.is_empty() {
            continue;
        }
        match judge(book, &key, &rule, &prints, scene) {
            Verdict::Nothing => {}
            Verdict::Hold(reason) => hold_untold(book, &prints, &reason, changes),
            Verdict::Send { kind: MailKind::Resolved, .. } if !rule.send_resolved => {
                close_quietly(book, &key, &prints, changes);
            }
            Verdict::Send { kind, reason } => {
                if within_budget(book, kind, worst(book, &prints)) {
                    send(book, &key, &rule, &prints, (kind, reason), scene, changes);
                } else {
                    let reason = "more mails than a person reads: told as soon as the hour's budget allows";
                    hold_untold(book, &prints, reason, changes);
                    storm.extend(prints);
                }
            }
        }
    }
    if !storm.is_empty() && book.storm_sent.is_none_or(|at| scene.now.0 - at.0 >= HOUR_MS) {
        send_storm(book, &storm, scene, changes);
    }
}

/// Groups that have anything open, the most severe first, then the oldest.
fn groups_by_urgency(book: &Book) -> Vec<(String, Vec<String>)> {
    let mut groups: BTreeMap<&str, (Severity, UnixMillis, Vec<String>)> = BTreeMap::new();
    for (print, alert) in &book.alerts {
        if alert.settled || alert.fired.is_none() {
            continue;
        }
        let entry = groups.entry(&alert.group).or_insert((alert.severity, alert.active, Vec::new()));
        entry.0 = entry.0.max(alert.severity);
        entry.1 = entry.1.min(alert.active);
        entry.2.push(print.clone());
    }
    let mut sorted: Vec<_> = groups.into_iter().collect();
    sorted.sort_by_key(|(_, (severity, active, _))| (std::cmp::Reverse(*severity), *active));
    sorted.into_iter().map(|(key, (_, _, prints))| (key.to_owned(), prints)).collect()
}

fn rule_of(book: &Book, prints: &[String], scene: &Scene<'_>) -> Option<Rule> {
    let name = &book.alerts.get(prints.first()?)?.rule;
    if name == RULE_FAILED { Some(rule_failed()) } else { scene.rules.get(name).cloned() }
}

/// Alerts that a silence or an inhibition covers: fingerprint → reason.
fn withheld(book: &Book, scene: &Scene<'_>) -> BTreeMap<String, String> {
    let sources: Vec<(&Rule, &Alert)> = book
        .firing()
        .filter_map(|alert| Some((scene.rules.get(&alert.rule)?, alert)))
        .filter(|(rule, _)| !rule.inhibits.is_empty())
        .collect();
    let mut reasons = BTreeMap::new();
    for (print, alert) in &book.alerts {
        if alert.settled {
            continue;
        }
        if let Some(silence) = scene.silences.iter().find(|silence| silence.covers(alert, scene.now)) {
            let reason = format!("silenced (#{}) by {}: {}", silence.silence_id, silence.who, silence.why);
            reasons.insert(print.clone(), reason);
        } else if let Some((rule, source)) = sources.iter().find(|(rule, source)| inhibits(rule, source, alert)) {
            let reason = format!("inhibited: a consequence of {} (alert {})", rule.name, source.alert_id);
            reasons.insert(print.clone(), reason);
        }
    }
    reasons
}

fn inhibits(rule: &Rule, source: &Alert, alert: &Alert) -> bool {
    source.alert_id != alert.alert_id
        && rule.inhibits.contains(&alert.rule)
        && rule.inhibit_equal.iter().all(|label| source.labels.get(label) == alert.labels.get(label))
}

/// Leaves out what is withheld; gives the rest. What fired in a mail is told when it ends, silenced or not: an open FIRING
/// in the mailbox would be a lie.
fn settle_withheld(
    book: &mut Book,
    prints: &[String],
    withheld: &BTreeMap<String, String>,
    changes: &mut Changes,
) -> Vec<String> {
    let mut rest = Vec::new();
    for print in prints {
        let Some(alert) = book.alerts.get_mut(print) else { continue };
        let over = alert.state == AlertState::Resolved;
        match withheld.get(print) {
            Some(reason) if !(over && alert.last_sent.is_some()) => {
                changes.hold(alert, reason.clone());
                if over {
                    alert.settled = true;
                    changes.began(print);
                }
            }
            _ => rest.push(print.clone()),
        }
    }
    rest
}

/// Send, hold, or nothing new, for one group.
fn judge(book: &Book, key: &str, rule: &Rule, prints: &[String], scene: &Scene<'_>) -> Verdict {
    let now = scene.now;
    let alerts: Vec<&Alert> = prints.iter().filter_map(|print| book.alerts.get(print)).collect();
    let untold: Vec<&&Alert> = alerts.iter().filter(|alert| alert.last_sent.is_none()).collect();
    let firing = || alerts.iter().filter(|alert| alert.state == AlertState::Firing);
    let group = book.groups.get(key);
    let told_before = group.filter(|group| group.thread.is_some()).and_then(|group| group.last_sent);
    if !untold.is_empty() {
        let first = untold.iter().filter_map(|alert| alert.fired).min().unwrap_or(now);
        let due = match told_before {
            Some(last) => (last.0 + rule.group_interval_ms).max(first.0 + rule.group_wait_ms),
            None => first.0 + rule.group_wait_ms,
        };
        if now.0 < due && scene.moment == Moment::Regular {
            return Verdict::Hold(match told_before {
                Some(_) => {
                    format!("told with the next mail of its group (at most one every {})", span(rule.group_interval_ms))
                }
                None => format!("waits {} for more of its group", span(rule.group_wait_ms)),
            });
        }
        let reason = match told_before {
            Some(_) => format!("{} new in its group", untold.len()),
            None if firing().next().is_none() => "fired and ended before a mail could go".into(),
            None => "began to fire".into(),
        };
        return Verdict::Send { kind: rule.kind, reason };
    }
    if firing().next().is_none() {
        return Verdict::Send { kind: MailKind::Resolved, reason: "all of its group have ended".into() };
    }
    judge_repeat(group, rule, &alerts, scene)
}

/// Nothing new, something still fires.
fn judge_repeat(group: Option<&AlertGroup>, rule: &Rule, alerts: &[&Alert], scene: &Scene<'_>) -> Verdict {
    let Some(last) = group.and_then(|group| group.last_sent) else { return Verdict::Nothing };
    if rule.repeat_ms == 0 || scene.now.0 - last.0 < rule.repeat_ms {
        return Verdict::Nothing;
    }
    let mut firing = alerts.iter().filter(|alert| alert.state == AlertState::Firing);
    if firing.clone().all(|alert| alert.acked.is_some()) {
        let who = firing.find_map(|alert| alert.acked.as_ref().map(|(_, who)| who.clone())).unwrap_or_default();
        return Verdict::Hold(format!("acknowledged by {who}: not repeated"));
    }
    let waiting = group.and_then(|group| group.last_message.as_ref()).is_some_and(|id| scene.waiting.contains(id));
    if waiting {
        return Verdict::Hold("no repeat while the last mail still waits in the outbox".into());
    }
    Verdict::Send { kind: rule.kind, reason: format!("still firing; repeated every {}", span(rule.repeat_ms)) }
}

/// A reason for each member that is not yet told, or for all if none is new.
fn hold_untold(book: &Book, prints: &[String], reason: &str, changes: &mut Changes) {
    let alerts: Vec<&Alert> = prints.iter().filter_map(|print| book.alerts.get(print)).collect();
    let any_untold = alerts.iter().any(|alert| alert.last_sent.is_none());
    for alert in alerts.into_iter().filter(|alert| !any_untold || alert.last_sent.is_none()) {
        changes.hold(alert, reason.to_owned());
    }
}

/// A rule that sends no RESOLVED: its group ends without a word.
fn close_quietly(book: &mut Book, key: &str, prints: &[String], changes: &mut Changes) {
    for print in prints {
        let Some(alert) = book.alerts.get_mut(print) else { continue };
        alert.settled = true;
        changes.hold(alert, "ended; its rule sends no RESOLVED".into());
        changes.began(print);
    }
    end_episode(book, key, changes);
}

fn end_episode(book: &mut Book, key: &str, changes: &mut Changes) {
    if let Some(group) = book.groups.get_mut(key) {
        group.since = None;
        group.thread = None;
        changes.groups.insert(key.to_owned());
    }
}

fn worst(book: &Book, prints: &[String]) -> Severity {
    let severities = prints.iter().filter_map(|print| book.alerts.get(print)).map(|alert| alert.severity);
    severities.max().unwrap_or(Severity::Info)
}

/// Digests, verdicts and ends of what was told are few by nature and always go.
fn within_budget(book: &Book, kind: MailKind, severity: Severity) -> bool {
    let most = if severity == Severity::Page { PAGES_PER_HOUR_MAX } else { MAILS_PER_HOUR_MAX };
    matches!(kind, MailKind::Digest | MailKind::Finished) || book.mailed.len() < most
}

fn send(
    book: &mut Book,
    key: &str,
    rule: &Rule,
    prints: &[String],
    (kind, reason): (MailKind, String),
    scene: &Scene<'_>,
    changes: &mut Changes,
) {
    let severity = worst(book, prints);
    let (sequence, message_id, in_reply_to) = next_message(book, key, &rule.name, scene.now);
    changes.groups.insert(key.to_owned());
    let notice = changes.notices.len();
    let mut members: Vec<NoticeMember> = Vec::new();
    let mut any_firing = false;
    for print in prints {
        let Some(alert) = book.alerts.get_mut(print) else { continue };
        members.push(NoticeMember { alert: alert.clone(), is_new: alert.last_sent.is_none() });
        if alert.state == AlertState::Firing {
            any_firing = true;
            alert.last_sent = Some(scene.now);
        } else {
            alert.last_sent = alert.last_sent.or(Some(scene.now));
            alert.resolved_sent = Some(scene.now);
            alert.settled = true;
        }
        let reason = reason.clone();
        changes.decisions.push(Decision { alert_id: Some(alert.alert_id), send: true, reason, notice: Some(notice) });
        changes.began(print);
    }
    members.sort_by_key(|m| {
        (!m.is_new, m.alert.state == AlertState::Resolved, std::cmp::Reverse(m.alert.active), m.alert.alert_id)
    });
    let members_count = members.len();
    members.truncate(MEMBERS_MAX);
    let (group, rule_name, route) = (key.to_owned(), rule.name.clone(), rule.route.clone());
    changes.notices.push(Notice {
        group,
        rule: rule_name,
        kind,
        severity,
        route,
        sequence,
        message_id,
        in_reply_to,
        reason,
        members,
        members_count,
    });
    if !any_firing {
        end_episode(book, key, changes);
    }
}

/// The next mail of a group: its number, its Message-ID, and the one it follows.
fn next_message(book: &mut Book, key: &str, rule: &str, now: UnixMillis) -> (i64, String, Option<String>) {
    let (tag, host) = (book.run_tag.clone(), message_host(&book.host));
    let group = book.groups.entry(key.to_owned()).or_default();
    rule.clone_into(&mut group.rule);
    group.mails += 1;
    let message_id = format!("<soakd.{tag}.{}.{}@{host}>", hash(&[key]), group.mails);
    let in_reply_to = group.thread.clone();
    group.thread.get_or_insert_with(|| message_id.clone());
    group.since.get_or_insert(now);
    group.last_sent = Some(now);
    group.last_message = Some(message_id.clone());
    let sequence = group.mails;
    book.mailed.push(now);
    (sequence, message_id, in_reply_to)
}

/// The right-hand side of a Message-ID: a host name can hold nothing else, but nobody checked.
fn message_host(host: &str) -> String {
    let clean: String =
        host.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-')).take(200).collect();
    if clean.is_empty() { "localhost".into() } else { clean }
}

/// Key of the group under which storm notices go out.
pub const STORM_GROUP: &str = "|storm";

/// One mail an hour that says how much more there is.
fn send_storm(book: &mut Book, prints: &[String], scene: &Scene<'_>, changes: &mut Changes) {
    let severity = worst(book, prints);
    let (sequence, message_id, in_reply_to) = next_message(book, STORM_GROUP, "", scene.now);
    changes.groups.insert(STORM_GROUP.to_owned());
    book.storm_sent = Some(scene.now);
    let alerts = prints.iter().filter_map(|print| book.alerts.get(print));
    let mut members: Vec<NoticeMember> =
        alerts.map(|alert| NoticeMember { alert: alert.clone(), is_new: alert.last_sent.is_none() }).collect();
    let groups: BTreeSet<&str> = members.iter().map(|member| member.alert.group.as_str()).collect();
    let reason = format!("{} groups of alerts wait for the hour's budget of mails", groups.len());
    let route = members.first().map_or_else(|| "default".into(), |member| member.alert.route.clone());
    let members_count = members.len();
    members.truncate(MEMBERS_MAX);
    let notice = Some(changes.notices.len());
    changes.decisions.push(Decision { alert_id: None, send: true, reason: reason.clone(), notice });
    changes.notices.push(Notice {
        group: STORM_GROUP.into(),
        rule: String::new(),
        kind: MailKind::Alert,
        severity,
        route,
        sequence,
        message_id,
        in_reply_to,
        reason,
        members,
        members_count,
    });
}
