//! The SMTP dialogue against a server over real sockets: protection, login, and every way in which a server fails.

#[path = "support/smtp_server.rs"]
mod smtp_server;

use smtp_server::{Certificates, Fault, SmtpServer, Stage, Tls};
use soakd::mail::{
    Account, Attempt, Carrier, Outcome, Parcel, Routes, Secret, Security, Smtp, SmtpSettings, Timeouts, compose,
};
use soakd::model::alert::OutboxMail;
use soakd::model::mail::{Fate, QueuedMail};
use soakd::model::time::UnixMillis;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

fn parcel(to: &[&str]) -> Parcel {
    let map = BTreeMap::from([("default".to_owned(), to.iter().map(|s| (*s).to_owned()).collect())]);
    let routes = Routes::parse("soakd <soakd@x.org>", &map).expect("parses");
    let mail = OutboxMail {
        at: UnixMillis(1_772_333_600_000),
        kind: "alert".into(),
        message_id: "<alert.1@gpu-07.soakd>".into(),
        in_reply_to: None,
        route: "default".into(),
        subject: "[PAGE] gpu-07: ±50 MB".into(),
        text: "first line\n.\n..a line that starts with dots\nlast line\n".into(),
        html: "<p>html</p>".into(),
        plot: None,
        labels: BTreeMap::new(),
    };
    let queued = QueuedMail {
        outbox_id: 1,
        run_id: None,
        mail,
        attempts: 0,
        next: UnixMillis(0),
        failing_since: None,
        last_error: None,
        settled: BTreeMap::new(),
    };
    compose(&queued, &routes, None, Some(vec![0x89; 3_000])).expect("composes")
}

fn settings(server: &SmtpServer, security: Security) -> SmtpSettings {
    let quick = Duration::from_millis(1_500);
    SmtpSettings {
        host: "localhost".into(),
        via: None,
        port: server.address.port(),
        security,
        ca_file: None,
        account: None,
        hello: Some("gpu-07.example.org".into()),
        timeouts: Timeouts { session: quick, command: quick, message: quick },
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

fn send(settings: SmtpSettings, to: &[&str]) -> Attempt {
    run(async {
        let mut smtp = Smtp::new(settings).expect("good settings");
        let attempt = smtp.send(&parcel(to)).await;
        smtp.rest().await;
        attempt
    })
}

fn password(dir: &Path, text: &str) -> Secret {
    let path = dir.join("password");
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    Secret::File(path)
}

fn retry_reason(attempt: &Attempt) -> (&str, bool) {
    match &attempt.outcome {
        Outcome::Retry { reason, answer_lost } => (reason, *answer_lost),
        other => panic!("expected a retry, got {other:?}"),
    }
}

#[test]
fn a_mail_arrives_as_it_was_written() {
    let server = SmtpServer::start();
    let attempt = send(settings(&server, Security::Plain), &["ops@x.org", "b@x.org"]);
    assert_eq!(attempt.outcome, Outcome::Delivered { answer: "2.0.0 queued".into() });
    let got = server.received();
    assert_eq!(got.len(), 1);
    assert_eq!((got[0].from.as_str(), got[0].to.len()), ("soakd@x.org", 2));
    assert_eq!(got[0].header("Message-ID"), "<alert.1@gpu-07.soakd>");
    assert!(got[0].data.contains("first line\r\n.\r\n..a line that starts with dots\r\nlast line"), "{}", got[0].data);
}

#[test]
fn starttls_and_implicit_tls_with_a_private_ca_and_a_login() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let certificates = Certificates::make(dir.path());
    for (tls, security) in [(Tls::Starttls, Security::StartTls), (Tls::Implicit, Security::Tls)] {
        let server = SmtpServer::with(tls, Some(&certificates), Some(("soakd", "s3cret")), |_, _| Fault::None);
        let with = SmtpSettings {
            ca_file: Some(certificates.ca_file.clone()),
            account: Some(Account { user: "soakd".into(), secret: password(dir.path(), "s3cret\n") }),
            ..settings(&server, security)
        };
        assert!(matches!(send(with.clone(), &["ops@x.org"]).outcome, Outcome::Delivered { .. }), "{tls:?}");
        let got = server.received();
        assert!(got[0].encrypted && got[0].user.as_deref() == Some("soakd"), "{tls:?}");
        let told = run(async { Smtp::new(with).expect("good settings").hello().await });
        assert!(told.as_ref().is_ok_and(|t| t.contains("certificate verified") && t.contains("soakd")), "{told:?}");
    }
}

#[test]
fn nothing_is_sent_to_a_server_that_cannot_be_trusted() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let certificates = Certificates::make(dir.path());
    let other = tempfile::tempdir().expect("a temporary folder");
    let stranger = Certificates::make(other.path());
    let encrypted = SmtpServer::with(Tls::Implicit, Some(&certificates), None, |_, _| Fault::None);
    let plain = SmtpServer::start();
    let ca = |c: &Certificates| Some(c.ca_file.clone());
    let cases = [
        ("an unknown CA", settings(&encrypted, Security::Tls)),
        ("another CA", SmtpSettings { ca_file: ca(&stranger), ..settings(&encrypted, Security::Tls) }),
        (
            "a certificate for another name",
            SmtpSettings {
                host: "127.0.0.1".into(),
                ca_file: ca(&certificates),
                ..settings(&encrypted, Security::Tls)
            },
        ),
        ("no STARTTLS on offer", settings(&plain, Security::StartTls)),
        ("TLS to a plain port", SmtpSettings { ca_file: ca(&certificates), ..settings(&plain, Security::Tls) }),
    ];
    for (what, settings) in cases {
        let attempt = send(settings, &["ops@x.org"]);
        let (reason, answer_lost) = retry_reason(&attempt);
        assert!(!answer_lost && reason.contains(':'), "{what}: {reason}");
    }
    assert!(encrypted.received().is_empty() && plain.received().is_empty());
    let missing = SmtpSettings { ca_file: Some("/nonexistent/ca.pem".into()), ..settings(&encrypted, Security::Tls) };
    assert!(Smtp::new(missing).err().is_some_and(|e| e.to_string().contains("/nonexistent/ca.pem")));
    let wrong = SmtpSettings { ca_file: Some(certificates.key_file), ..settings(&encrypted, Security::Tls) };
    assert!(Smtp::new(wrong).err().is_some_and(|e| e.to_string().contains("no PEM certificate")));
}

#[test]
fn a_wrong_password_never_costs_a_mail_and_never_shows() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = SmtpServer::with(Tls::None, None, Some(("soakd", "right")), |_, _| Fault::None);
    let with = |text: &str| SmtpSettings {
        account: Some(Account { user: "soakd".into(), secret: password(dir.path(), text) }),
        ..settings(&server, Security::Plain)
    };
    let attempt = send(with("wr0ng"), &["ops@x.org"]);
    let (reason, _) = retry_reason(&attempt);
    assert!(reason.contains("login as soakd") && reason.contains("535") && !reason.contains("wr0ng"), "{reason}");
    assert!(matches!(send(with("right"), &["ops@x.org"]).outcome, Outcome::Delivered { .. }), "mended meanwhile");
    let without = send(settings(&server, Security::Plain), &["ops@x.org"]);
    assert!(retry_reason(&without).0.contains("530"), "a missing login is no fault of the mail");
}

#[test]
fn each_way_of_failing_is_told_apart() {
    // What the server does at which stage; whether to try again; whether the mail may have arrived; what the reason says.
    let cases: Vec<(Stage, Fault, bool, bool, &str)> = vec![
        (Stage::Greeting, Fault::Reply("421 too busy"), true, false, "too busy"),
        (Stage::Greeting, Fault::Reply("554 go away"), true, false, "go away"),
        (Stage::Greeting, Fault::Close, true, false, "connecting to"),
        (Stage::Greeting, Fault::Hang, true, false, "within"),
        (Stage::Greeting, Fault::Reply("<html>this is a web server"), true, false, "connecting to"),
        (Stage::Ehlo, Fault::Hang, true, false, "within"),
        (Stage::Mail, Fault::Reply("451 try later"), true, false, "try later"),
        (Stage::Mail, Fault::Reply("552 too large"), false, false, "too large"),
        (Stage::Mail, Fault::Hang, true, false, "no answer within"),
        (Stage::Rcpt("ops@x.org".into()), Fault::Reply("450 greylisted"), true, false, "greylisted"),
        (Stage::Rcpt("ops@x.org".into()), Fault::Reply("550 no such user"), false, false, "no such user"),
        (Stage::Rcpt("ops@x.org".into()), Fault::Close, true, false, "recipient ops@x.org"),
        (Stage::Data, Fault::Reply("451 disk full"), true, false, "disk full"),
        (Stage::Data, Fault::Reply("554 no"), false, false, "no"),
        (Stage::Data, Fault::Hang, true, false, "no answer within"),
        (Stage::InsideMessage, Fault::Close, true, true, "on the message"),
        (Stage::Message, Fault::Reply("452 out of space"), true, false, "out of space"),
        (Stage::Message, Fault::Reply("554 spam"), false, false, "spam"),
        (Stage::Message, Fault::Close, true, true, "on the message"),
        (Stage::Message, Fault::TakeAndClose, true, true, "on the message"),
        (Stage::Message, Fault::Hang, true, true, "no answer within"),
    ];
    for (stage, fault, again, may_have_arrived, says) in cases {
        let (at, how) = (stage.clone(), fault.clone());
        let server = SmtpServer::faulty(move |_, s| if *s == at { how.clone() } else { Fault::None });
        let attempt = send(settings(&server, Security::Plain), &["ops@x.org"]);
        match &attempt.outcome {
            Outcome::Retry { reason, answer_lost } if again => {
                assert_eq!(*answer_lost, may_have_arrived, "{stage:?} {fault:?}: {reason}");
                assert!(reason.contains(says), "{stage:?} {fault:?}: {reason:?} lacks {says:?}");
            }
            Outcome::Permanent { reason } if !again => {
                assert!(reason.contains(says), "{stage:?} {fault:?}: {reason:?} lacks {says:?}");
            }
            other => panic!("{stage:?} {fault:?}: {other:?}"),
        }
        let kept = server.received().len();
        assert_eq!(kept, usize::from(fault == Fault::TakeAndClose), "{stage:?} {fault:?}");
    }
}

#[test]
fn a_slow_server_is_waited_for() {
    let server = SmtpServer::faulty(|_, stage| match stage {
        Stage::Greeting | Stage::Mail | Stage::Data | Stage::Message => Fault::Slow(Duration::from_millis(300)),
        _ => Fault::None,
    });
    assert!(matches!(send(settings(&server, Security::Plain), &["ops@x.org"]).outcome, Outcome::Delivered { .. }));
    assert_eq!(server.received().len(), 1);
}

#[test]
fn a_refused_connection_names_the_server() {
    let server = SmtpServer::start();
    let settings = settings(&server, Security::Plain);
    drop(server);
    let attempt = send(settings.clone(), &["ops@x.org"]);
    let (reason, _) = retry_reason(&attempt);
    assert!(reason.contains(&format!("localhost:{}", settings.port)) && reason.contains("refused"), "{reason}");
}

#[test]
fn one_recipients_refusal_does_not_cost_the_others_theirs() {
    let server = SmtpServer::faulty(|_, stage| match stage {
        Stage::Rcpt(a) if a == "gone@x.org" => Fault::Reply("550 no such user"),
        Stage::Rcpt(a) if a == "later@x.org" => Fault::Reply("450 greylisted"),
        _ => Fault::None,
    });
    let two = send(settings(&server, Security::Plain), &["gone@x.org", "ops@x.org"]);
    assert!(matches!(two.outcome, Outcome::Delivered { .. }), "{two:?}");
    assert_eq!(two.settled["ops@x.org"], Fate::Delivered);
    assert!(matches!(&two.settled["gone@x.org"], Fate::Rejected(why) if why.contains("no such user")));
    let three = send(settings(&server, Security::Plain), &["gone@x.org", "later@x.org", "ops@x.org"]);
    assert!(retry_reason(&three).0.contains("greylisted"));
    assert_eq!(three.settled.len(), 2, "the greylisted one stays open: {three:?}");
    assert_eq!(server.received().iter().map(|m| m.to.clone()).collect::<Vec<_>>(), [["ops@x.org"], ["ops@x.org"]]);
}

#[test]
fn a_connection_is_kept_and_one_that_the_server_closed_is_opened_again() {
    // Connection 0 is closed by the server after its first mail; the second mail must not notice.
    let mails = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&mails);
    let server = SmtpServer::faulty(move |connection, stage| match stage {
        Stage::Mail if connection == 0 => {
            if count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 1 {
                Fault::Close
            } else {
                Fault::None
            }
        }
        _ => Fault::None,
    });
    run(async {
        let mut smtp = Smtp::new(settings(&server, Security::Plain)).expect("good settings");
        for _ in 0..3 {
            let attempt = smtp.send(&parcel(&["ops@x.org"])).await;
            assert!(matches!(attempt.outcome, Outcome::Delivered { .. }), "{attempt:?}");
        }
        smtp.rest().await;
    });
    assert_eq!(server.received().iter().map(|m| m.connection).collect::<Vec<_>>(), [0, 1, 1]);
}
