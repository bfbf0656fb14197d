//! `soakd mail --test`: one mail on every route, with a picture, sent at once and past the outbox; then what happened.

use super::super::{CannotStart, Done, Format, Outcome};
use super::{say, setup};
use crate::config::Config;
use crate::mail::{Attempt, Carrier, Outcome as Sent, Routes, compose};
use crate::model::alert::{OutboxMail, Severity};
use crate::model::mail::{Evidence, Fate, MailFacts, MailKind, QueuedMail, Table, message_id};
use crate::model::series::Point;
use crate::model::time::UnixMillis;
use crate::report::mail::render;
use crate::report::plot::{Panel, Picture};
use std::collections::BTreeMap;

/// Sends and tells. Passed only if every recipient's server took it.
pub(super) async fn send(config: &Config, route: Option<&str>, format: Format) -> Done {
    let mut carrier = setup::carrier(config).map_err(CannotStart)?;
    let routes = setup::routes(config).map_err(CannotStart)?;
    let names: Vec<&str> = routes.names().collect();
    if let Some(asked) = route.filter(|asked| !names.contains(asked)) {
        return Err(CannotStart(format!("there is no route {asked:?}; configured: {}", names.join(", "))));
    }
    let mut results = Vec::new();
    for name in names.iter().filter(|name| route.is_none_or(|asked| asked == **name)) {
        let parcel = compose(&test_mail(config, name), &routes, None, picture())
            .map_err(|error| CannotStart(error.to_string()))?;
        if format == Format::Text {
            let to: Vec<String> = parcel.to.iter().map(ToString::to_string).collect();
            say(&format!("{name}: to {} by way of {} ...", to.join(", "), setup::destination(&config.mail)));
        }
        let attempt = carrier.send(&parcel).await;
        if format == Format::Text {
            say(&format!("{name}: {}", in_words(&attempt)));
        }
        results.push(((*name).to_owned(), attempt));
    }
    carrier.rest().await;
    if format == Format::Json {
        say(&serde_json::to_string_pretty(&as_json(&results, &routes)).expect("plain data"));
    }
    let all = results.iter().all(|(_, attempt)| is_delivered(attempt));
    Ok(if all { Outcome::Passed } else { Outcome::Failed })
}

fn is_delivered(attempt: &Attempt) -> bool {
    matches!(attempt.outcome, Sent::Delivered { .. }) && attempt.settled.values().all(|fate| *fate == Fate::Delivered)
}

fn in_words(attempt: &Attempt) -> String {
    let refused: Vec<String> = attempt
        .settled
        .iter()
        .filter_map(|(address, fate)| match fate {
            Fate::Rejected(why) => Some(format!("{address} refused: {why}")),
            Fate::Delivered => None,
        })
        .collect();
    let refused = if refused.is_empty() { String::new() } else { format!(" BUT {}", refused.join("; ")) };
    match &attempt.outcome {
        Sent::Delivered { answer } => format!("sent ({answer}){refused}"),
        Sent::Retry { reason, .. } => format!("NOT SENT, an alert would be tried again: {reason}"),
        Sent::Permanent { reason } => format!("NOT SENT, an alert would be set aside: {reason}"),
    }
}

fn as_json(results: &[(String, Attempt)], routes: &Routes) -> serde_json::Value {
    let each = results.iter().map(|(route, attempt)| {
        let (outcome, said) = match &attempt.outcome {
            Sent::Delivered { answer } => ("delivered", answer),
            Sent::Retry { reason, .. } => ("retry", reason),
            Sent::Permanent { reason } => ("permanent", reason),
        };
        let to: Vec<String> = routes.recipients(route).iter().map(|r| r.email.to_string()).collect();
        serde_json::json!({
            "route": route, "to": to, "outcome": outcome, "said": said, "recipients": attempt.settled,
        })
    });
    serde_json::json!({ "routes": each.collect::<Vec<_>>() })
}

fn test_mail(config: &Config, route: &str) -> QueuedMail {
    let (now, host) = (crate::clock::now().wall, crate::probe::host::hostname());
    let evidence = |what: &str, value: String| Evidence { what: what.into(), value, interval: None };
    let facts = MailFacts {
        description:
            "If you read this, alerts of soakd reach you on this route. This is how they look: a real one tells \
                      what broke, how sure soakd is, and what to do next."
                .into(),
        evidence: vec![
            evidence("route", route.to_owned()),
            evidence("by way of", setup::destination(&config.mail)),
            evidence("configuration", config.source.to_string()),
        ],
        meaning: "Nothing is wrong.".into(),
        runbook:
            "- Does the subject show whole in your list of mails?\n- Does the picture show, and is the text readable \
                  in dark mode?\n- Is this mail in a folder that is looked at?"
                .into(),
        recent: Some(Table {
            caption: "A table looks like this".into(),
            columns: ["minute", "RSS MB", "VRAM MB"].map(str::to_owned).into(),
            rows: vec![
                ["1", "812.0", "4 222.1"].map(str::to_owned).into(),
                ["2", "812.4", "4 222.1"].map(str::to_owned).into(),
            ],
        }),
        plot_alt: Some(
            "A made-up series that rises by 2 MB in ten minutes, as a sample of the pictures in alerts".into(),
        ),
        ..MailFacts::new(MailKind::Test, Severity::Info, &host, now, "a test: alerts on this route reach you")
    };
    let rendered = render(&facts);
    let mail = OutboxMail {
        at: now,
        kind: MailKind::Test.as_str().into(),
        message_id: message_id(&["test", route, &now.0.to_string(), &std::process::id().to_string()], &host),
        in_reply_to: None,
        route: route.into(),
        subject: rendered.subject,
        text: rendered.text,
        html: rendered.html,
        plot: None,
        labels: BTreeMap::new(),
    };
    QueuedMail {
        outbox_id: 0,
        run_id: None,
        mail,
        attempts: 0,
        next: UnixMillis(0),
        failing_since: None,
        last_error: None,
        settled: BTreeMap::new(),
    }
}

/// A made-up series, so that inline pictures are tested too.
fn picture() -> Option<Vec<u8>> {
    let now_s = crate::clock::now().wall.seconds();
    let points: Vec<Point> = (0..600)
        .map(|i| Point {
            unix_s: now_s - 600.0 + f64::from(i),
            bytes: 812e6 + f64::from(i) * 3_333.0 + f64::from(i * 7_919 % 601) * 800.0,
            segment: 1,
            requests: None,
        })
        .collect();
    let mut picture = Picture::of(Panel::of_points("made up", &points, None, None));
    (picture.width, picture.panel_height) = super::watch::PICTURE_SIZE;
    picture.png(2).ok()
}
