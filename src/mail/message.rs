//! The MIME message: text beside HTML with an inline picture, and headers that a label cannot reach into.

use super::settings::Routes;
use crate::model::mail::{Fate, NOTE_MARK, PLOT_CID, PLOT_CLOSE, PLOT_OPEN, QueuedMail};
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Attachment, Message, MultiPart, SinglePart};
use std::time::{Duration, SystemTime};

/// A message ready to be handed over.
#[derive(Debug, Clone)]
pub struct Parcel {
    /// The envelope's sender.
    pub from: lettre::Address,
    /// Recipients that are not yet settled.
    pub to: Vec<lettre::Address>,
    /// As in the header.
    pub message_id: String,
    /// Starts the file's name in a folder: when it was written, and its kind.
    pub file_stem: String,
    /// The whole message, CRLF line ends, ASCII only.
    pub bytes: Vec<u8>,
}

/// Why a message could not be made. Trying again would not help.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    /// The configuration has no route at all.
    #[error("no route is configured: nobody to send it to")]
    NoRoute,
    /// A part that MIME cannot hold.
    #[error("the message cannot be built: {0}")]
    Mime(String),
}

/// Builds the message for everyone on its route who is not settled yet. `note` is what the mailer learned at delivery;
/// `picture` is a PNG, and without one the HTML loses its figure.
pub fn compose(
    queued: &QueuedMail,
    routes: &Routes,
    note: Option<&str>,
    picture: Option<Vec<u8>>,
) -> Result<Parcel, ComposeError> {
    let mail = &queued.mail;
    let recipients = routes.recipients(&mail.route);
    if recipients.is_empty() {
        return Err(ComposeError::NoRoute);
    }
    let message_id = token(&mail.message_id);
    let written = SystemTime::UNIX_EPOCH + Duration::from_millis(mail.at.0.max(0) as u64);
    let mut builder = Message::builder()
        .from(routes.from().clone())
        .subject(one_line(&routes.subject(&mail.subject)))
        .date(written)
        .message_id(Some(message_id.clone()))
        .raw_header(header("Auto-Submitted", "auto-generated")) // RFC 3834: no out-of-office answers
        .raw_header(header("X-Soakd-Kind", &one_word(&mail.kind)))
        .raw_header(header("X-Soakd-Route", &one_word(&mail.route)));
    for recipient in recipients {
        builder = builder.to(recipient.clone());
    }
    if let Some(parent) = &mail.in_reply_to {
        builder = builder.in_reply_to(token(parent)).references(token(parent));
    }
    let message = builder.multipart(body(queued, note, picture)).map_err(|e| ComposeError::Mime(e.to_string()))?;
    let done = |address: &lettre::Address| queued.settled.contains_key(&address.to_string());
    Ok(Parcel {
        from: routes.from().email.clone(),
        to: recipients.iter().map(|r| r.email.clone()).filter(|a| !done(a)).collect(),
        message_id,
        file_stem: file_stem(mail.at.0, &one_word(&mail.kind)),
        bytes: message.formatted(),
    })
}

fn body(queued: &QueuedMail, note: Option<&str>, picture: Option<Vec<u8>>) -> MultiPart {
    let text = match note {
        Some(note) => format!("{note}\n\n{}", queued.mail.text),
        None => queued.mail.text.clone(),
    };
    let note = note.map(|n| format!("<p class=\"note\" role=\"note\">{}</p>", escape(n))).unwrap_or_default();
    let html = line_ends(&queued.mail.html.replacen(NOTE_MARK, &note, 1));
    let alternative = MultiPart::alternative().singlepart(SinglePart::plain(line_ends(&text)));
    match picture {
        Some(png) => {
            let kind = ContentType::parse("image/png").expect("a constant that parses");
            let related = MultiPart::related()
                .singlepart(SinglePart::html(html))
                .singlepart(Attachment::new_inline(PLOT_CID.to_owned()).body(png, kind));
            alternative.multipart(related)
        }
        None => alternative.singlepart(SinglePart::html(without_figure(&html))),
    }
}

/// One kind of line end, which `lettre` then writes as CRLF: a carriage return by itself, as in the last words of a program that
/// drew a progress bar, may not stand in a mail (RFC 5322, 2.3).
fn line_ends(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// Takes out what refers to the picture.
fn without_figure(html: &str) -> String {
    match (html.find(PLOT_OPEN), html.find(PLOT_CLOSE)) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &html[..from], &html[to + PLOT_CLOSE.len()..]),
        _ => html.to_owned(),
    }
}

/// Whether all recipients of the route are settled, and how many of them have it.
pub(super) fn standing(queued: &QueuedMail, routes: &Routes) -> (bool, usize) {
    let fates = routes.recipients(&queued.mail.route).iter().map(|r| queued.settled.get(&r.email.to_string()));
    let (mut all, mut have) = (true, 0);
    for fate in fates {
        all &= fate.is_some();
        have += usize::from(fate == Some(&Fate::Delivered));
    }
    (all, have)
}

fn header(name: &'static str, value: &str) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned())
}

/// Header text: one line, whatever came in. `lettre` encodes what is not ASCII.
fn one_line(s: &str) -> String {
    let s: String =
        s.chars().map(|c| if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c }).collect();
    s.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A word of our own choosing, such as a route's name.
fn one_word(s: &str) -> String {
    s.chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' })
        .take(64)
        .collect()
}

/// A Message-ID with nothing in it that could end the header: `<left@right>` of harmless characters.
fn token(id: &str) -> String {
    let bare: String = id
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@' | '+' | '='))
        .take(240)
        .collect();
    if bare.contains('@') { format!("<{bare}>") } else { format!("<{bare}@soakd>") }
}

/// `20260301T030405Z-alert`: a folder sorts by time.
fn file_stem(at_ms: i64, kind: &str) -> String {
    let when = chrono::DateTime::<chrono::Utc>::from_timestamp_millis(at_ms).unwrap_or_default();
    format!("{}-{kind}", when.format("%Y%m%dT%H%M%SZ"))
}

fn escape(s: &str) -> String {
    s.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::compose;
    use crate::mail::settings::Routes;
    use crate::model::alert::OutboxMail;
    use crate::model::mail::{Fate, NOTE_MARK, PLOT_CLOSE, PLOT_OPEN, QueuedMail};
    use crate::model::time::UnixMillis;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn routes() -> Routes {
        let map = BTreeMap::from([("default".to_owned(), vec!["Ops <ops@x.org>".to_owned(), "b@x.org".to_owned()])]);
        Routes::parse("soakd <soakd@x.org>", &map).expect("parses")
    }

    fn queued() -> QueuedMail {
        QueuedMail {
            outbox_id: 7,
            run_id: Some(1),
            mail: OutboxMail {
                at: UnixMillis(1_772_333_600_000),
                kind: "alert".into(),
                message_id: "<alert.1.7@gpu-07.soakd>".into(),
                in_reply_to: Some("<alert.1.3@gpu-07.soakd>".into()),
                route: "default".into(),
                subject: "[PAGE] gpu-07: ±50 MB".into(),
                text: "text".into(),
                html: format!("<body>{NOTE_MARK}{PLOT_OPEN}<img src=\"cid:plot\">{PLOT_CLOSE}end</body>"),
                plot: None,
                labels: BTreeMap::new(),
            },
            attempts: 0,
            next: UnixMillis(0),
            failing_since: None,
            last_error: None,
            settled: BTreeMap::new(),
        }
    }

    /// Header names of the message, lower case, unfolded.
    fn header_names(bytes: &[u8]) -> BTreeSet<String> {
        let text = std::str::from_utf8(bytes).expect("ASCII");
        let head = text.split("\r\n\r\n").next().expect("a head");
        head.split("\r\n")
            .filter(|l| !l.starts_with([' ', '\t']))
            .map(|l| l.split(':').next().expect("a name").to_ascii_lowercase())
            .collect()
    }

    #[test]
    fn a_mail_threads_and_says_that_a_machine_wrote_it() {
        let parcel = compose(&queued(), &routes(), None, Some(vec![1, 2, 3])).expect("composes");
        let text = String::from_utf8(parcel.bytes).expect("ASCII");
        for line in [
            "Message-ID: <alert.1.7@gpu-07.soakd>\r\n",
            "In-Reply-To: <alert.1.3@gpu-07.soakd>\r\n",
            "References: <alert.1.3@gpu-07.soakd>\r\n",
            "Auto-Submitted: auto-generated\r\n",
            "Date: Sun, 01 Mar 2026 02:53:20 +0000\r\n",
            "Content-ID: <plot>\r\n",
            "multipart/alternative",
            "multipart/related",
        ] {
            assert!(text.contains(line), "lacks {line:?}:\n{text}");
        }
        assert_eq!(parcel.file_stem, "20260301T025320Z-alert");
        assert_eq!(parcel.to.len(), 2);
    }

    #[test]
    fn without_a_picture_nothing_refers_to_one() {
        let parcel = compose(&queued(), &routes(), Some("late & <sorry>"), None).expect("composes");
        let text = String::from_utf8(parcel.bytes).expect("ASCII");
        assert!(!text.contains("cid:plot") && text.contains("end</body>"), "{text}");
        assert!(text.contains("late & <sorry>\r\n") && text.contains("late &amp; &lt;sorry&gt;</p>"), "{text}");
    }

    #[test]
    fn who_has_it_is_left_out() {
        let mut mail = queued();
        mail.settled.insert("ops@x.org".into(), Fate::Delivered);
        let parcel = compose(&mail, &routes(), None, None).expect("composes");
        assert_eq!(parcel.to.iter().map(ToString::to_string).collect::<Vec<_>>(), ["b@x.org"]);
    }

    #[test]
    fn a_lone_carriage_return_is_a_line_end() {
        let mut mail = queued();
        mail.mail.text = "10 %\r20 %\r\ndied\n".into();
        mail.mail.html = "<pre>10 %\r20 %\r\ndied</pre>".into();
        let parcel = compose(&mail, &routes(), Some("a\rb"), None).expect("composes");
        let text = String::from_utf8(parcel.bytes).expect("ASCII");
        for line in ["10 %\r\n20 %\r\ndied\r\n", "<pre>10 %\r\n20 %\r\ndied</pre>", "a\r\nb\r\n"] {
            assert!(text.contains(line), "lacks {line:?}:\n{text}");
        }
    }

    proptest! {
        /// Header injection: no label, host or route can add a header, end the head, or leave ASCII.
        #[test]
        fn nothing_adds_a_header(evil in "(?s:.{0,60})", word in "[a-z]{1,10}") {
            let clean = header_names(&compose(&queued(), &routes(), None, None).expect("composes").bytes);
            let evil = format!("{evil}\r\nBcc: {word}@evil.org\r\n\r\nX{evil}\n.\n");
            let mut mail = queued();
            mail.mail.subject.clone_from(&evil);
            mail.mail.kind.clone_from(&evil);
            mail.mail.route.clone_from(&evil);
            mail.mail.message_id.clone_from(&evil);
            mail.mail.in_reply_to = Some(evil.clone());
            mail.mail.text.clone_from(&evil);
            mail.mail.html.clone_from(&evil);
            let parcel = compose(&mail, &routes(), Some(&evil), None).expect("composes");
            prop_assert!(parcel.bytes.is_ascii());
            prop_assert_eq!(header_names(&parcel.bytes), clean);
            prop_assert!(!parcel.file_stem.contains(['/', '\n', '\0']));
            let text = String::from_utf8(parcel.bytes).expect("ASCII");
            prop_assert!(text.split("\r\n").all(|l| l.len() <= 998 && !l.contains('\n') && !l.contains('\r')));
        }
    }
}
