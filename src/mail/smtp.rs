//! One dialogue with an SMTP server, step by step, so that each failure is known for what it is.
//!
//! What the server says about the session (greeting, TLS, login) is never held against a mail: someone will mend it, and
//! until then the mail waits. Only an answer to the mail itself (sender, recipient, message) can be final. The connection
//! is kept while mails follow one another, and every step has a time limit: `lettre`'s own covers connecting only.

use super::Carrier;
use super::message::Parcel;
use super::outcome::{Attempt, Outcome};
use super::settings::{Security, SettingsError, Smtp as Settings};
use crate::model::mail::Fate;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::response::Response;
use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

/// How long to wait for a goodbye; nothing depends on it.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Hands mails to an SMTP server.
pub struct Smtp {
    settings: Settings,
    connection: Option<AsyncSmtpConnection>,
}

/// Why a step did not succeed.
enum Trouble {
    /// The server said no.
    Answer { code: u16, text: String },
    /// There was no answer, or none that makes sense.
    Lost(String),
}

impl Trouble {
    fn of(error: &Error) -> Self {
        let text = flat(&error_chain(error));
        match error.status() {
            Some(code) => Trouble::Answer { code: code.into(), text },
            None => Trouble::Lost(text),
        }
    }

    fn is_final(&self) -> bool {
        // 530, 534, 535 and 538 speak of the login and not of the mail, whenever they come.
        matches!(self, Trouble::Answer { code, .. } if *code >= 500 && !matches!(code, 530 | 534 | 535 | 538))
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Answer { text, .. } | Trouble::Lost(text) => f.write_str(text),
        }
    }
}

impl Smtp {
    /// Checks the settings; connects to nobody yet.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        settings.check()?;
        tls_parameters(&settings)?; // a CA file that cannot be read is better known now
        Ok(Smtp { settings, connection: None })
    }

    /// Connects, protects the connection, logs in and says goodbye: what can be found out without sending anything.
    pub async fn hello(&mut self) -> Result<String, String> {
        self.connection = None;
        let connection = self.open().await?;
        let protection = if connection.is_encrypted() { "encrypted, certificate verified" } else { "not encrypted" };
        let login = match &self.settings.account {
            Some(account) => format!("logged in as {}", account.user),
            None => "no login".to_owned(),
        };
        let told = format!("{}: {protection}, {login}", self.server());
        self.connection = Some(connection);
        self.rest().await;
        Ok(told)
    }

    fn server(&self) -> String {
        let Smtp { settings, .. } = self;
        match &settings.via {
            Some((host, port)) => format!("{}:{} (by way of {host}:{port})", settings.host, settings.port),
            None => format!("{}:{}", settings.host, settings.port),
        }
    }

    async fn open(&self) -> Result<AsyncSmtpConnection, String> {
        let limit = self.settings.timeouts.session;
        match tokio::time::timeout(limit, self.open_unbounded()).await {
            Ok(done) => done,
            Err(_) => Err(format!(
                "{} did not get through greeting and login within {} s",
                self.server(),
                limit.as_secs_f32()
            )),
        }
    }

    async fn open_unbounded(&self) -> Result<AsyncSmtpConnection, String> {
        let settings = &self.settings;
        let tls = tls_parameters(settings).map_err(|e| e.to_string())?;
        let hello = match &settings.hello {
            Some(name) => ClientId::Domain(name.clone()),
            None => ClientId::default(),
        };
        let implicit = (settings.security == Security::Tls).then(|| tls.clone()).flatten();
        let (host, port) = settings.via.as_ref().map_or((&settings.host, settings.port), |(host, port)| (host, *port));
        let address = (host.trim_start_matches('[').trim_end_matches(']'), port);
        let at = |what: &str, e: &Error| format!("{what} {}: {}", self.server(), flat(&error_chain(e)));
        let mut connection = AsyncSmtpConnection::connect_tokio1(address, None, &hello, implicit, None)
            .await
            .map_err(|e| at("connecting to", &e))?;
        if let (Security::StartTls, Some(tls)) = (settings.security, tls) {
            if !connection.can_starttls() {
                return Err(format!("{} does not offer STARTTLS; nothing was sent in the clear", self.server()));
            }
            connection.starttls(tls, &hello).await.map_err(|e| at("STARTTLS with", &e))?;
        }
        if let Some(account) = &settings.account {
            let secret = account.secret.read().map_err(|e| e.to_string())?;
            let credentials = Credentials::new(account.user.clone(), secret);
            connection
                .auth(&[Mechanism::Plain, Mechanism::Login], &credentials)
                .await
                .map_err(|e| at(&format!("login as {} at", account.user), &e))?;
        }
        Ok(connection)
    }

    async fn step<F: Future<Output = Result<Response, Error>>>(limit: Duration, step: F) -> Result<Response, Trouble> {
        match tokio::time::timeout(limit, step).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Trouble::of(&error)),
            Err(_) => Err(Trouble::Lost(format!("no answer within {} s", limit.as_secs_f32()))),
        }
    }

    /// A connection on which `MAIL FROM` was accepted. A kept one may have been closed by the server meanwhile: then, and
    /// only then, a fresh one is tried at once.
    async fn begin(&mut self, parcel: &Parcel) -> Result<AsyncSmtpConnection, Attempt> {
        let limit = self.settings.timeouts.command;
        let mail = || Mail::new(Some(parcel.from.clone()), vec![]);
        if let Some(mut kept) = self.connection.take() {
            if Self::step(limit, kept.command(mail())).await.is_ok() {
                return Ok(kept);
            }
            say_goodbye(kept).await;
        }
        let mut fresh = self.open().await.map_err(Attempt::retry)?;
        match Self::step(limit, fresh.command(mail())).await {
            Ok(_) => Ok(fresh),
            Err(trouble) => {
                let reason = format!("{} on the sender {}: {trouble}", self.server(), parcel.from);
                say_goodbye(fresh).await;
                Err(if trouble.is_final() { Attempt::permanent(reason) } else { Attempt::retry(reason) })
            }
        }
    }
}

impl Carrier for Smtp {
    async fn send(&mut self, parcel: &Parcel) -> Attempt {
        let mut connection = match self.begin(parcel).await {
            Ok(connection) => connection,
            Err(attempt) => return attempt,
        };
        let limits = self.settings.timeouts;
        let mut rcpt = Recipients::default();
        for address in &parcel.to {
            let answer = Self::step(limits.command, connection.command(Rcpt::new(address.clone(), vec![]))).await;
            if let Err(trouble @ Trouble::Lost(_)) = &answer {
                return Attempt::retry(format!("{} on the recipient {address}: {trouble}", self.server()));
            }
            rcpt.note(address, answer.err());
        }
        if rcpt.accepted.is_empty() {
            say_goodbye(connection).await;
            return rcpt.nobody(&self.server());
        }
        if let Err(trouble) = Self::step(limits.command, connection.command(Data)).await {
            say_goodbye(connection).await;
            return rcpt.refused(&format!("{} on DATA: {trouble}", self.server()), &trouble, false);
        }
        match Self::step(limits.message, connection.message(&parcel.bytes)).await {
            Ok(response) => {
                self.connection = Some(connection);
                rcpt.taken(flat(&response.message().collect::<Vec<_>>().join(" ")))
            }
            Err(trouble) => {
                let lost = matches!(trouble, Trouble::Lost(_));
                if !lost {
                    say_goodbye(connection).await;
                }
                rcpt.refused(&format!("{} on the message: {trouble}", self.server()), &trouble, lost)
            }
        }
    }

    async fn rest(&mut self) {
        if let Some(connection) = self.connection.take() {
            say_goodbye(connection).await;
        }
    }
}

/// What the server said to each recipient.
#[derive(Default)]
struct Recipients {
    accepted: Vec<lettre::Address>,
    deferred: Vec<String>,
    settled: BTreeMap<String, Fate>,
}

impl Recipients {
    fn note(&mut self, address: &lettre::Address, trouble: Option<Trouble>) {
        match trouble {
            None => self.accepted.push(address.clone()),
            Some(trouble) if trouble.is_final() => {
                self.settled.insert(address.to_string(), Fate::Rejected(trouble.to_string()));
            }
            Some(trouble) => self.deferred.push(format!("{address}: {trouble}")),
        }
    }

    fn rejections(&self) -> String {
        let each = self.settled.iter().filter_map(|(address, fate)| match fate {
            Fate::Rejected(why) => Some(format!("{address}: {why}")),
            Fate::Delivered => None,
        });
        each.collect::<Vec<_>>().join("; ")
    }

    /// No recipient was accepted.
    fn nobody(self, server: &str) -> Attempt {
        let outcome = if self.deferred.is_empty() {
            Outcome::Permanent { reason: format!("{server} takes it for nobody: {}", self.rejections()) }
        } else {
            let reason = format!("{server} puts recipients off: {}", self.deferred.join("; "));
            Outcome::Retry { reason, answer_lost: false }
        };
        Attempt { outcome, settled: self.settled }
    }

    /// The accepted recipients have it.
    fn taken(mut self, answer: String) -> Attempt {
        self.settled.extend(self.accepted.iter().map(|a| (a.to_string(), Fate::Delivered)));
        let outcome = if self.deferred.is_empty() {
            Outcome::Delivered { answer }
        } else {
            let reason = format!("put off for some recipients: {}", self.deferred.join("; "));
            Outcome::Retry { reason, answer_lost: false }
        };
        Attempt { outcome, settled: self.settled }
    }

    /// The server would not take the message, or we do not know.
    fn refused(mut self, reason: &str, trouble: &Trouble, answer_lost: bool) -> Attempt {
        if !trouble.is_final() {
            let outcome = Outcome::Retry { reason: reason.to_owned(), answer_lost };
            return Attempt { outcome, settled: self.settled };
        }
        let fate = Fate::Rejected(trouble.to_string());
        self.settled.extend(self.accepted.iter().map(|a| (a.to_string(), fate.clone())));
        let outcome = if self.deferred.is_empty() {
            Outcome::Permanent { reason: reason.to_owned() }
        } else {
            Outcome::Retry { reason: format!("{reason}; put off: {}", self.deferred.join("; ")), answer_lost: false }
        };
        Attempt { outcome, settled: self.settled }
    }
}

async fn say_goodbye(mut connection: AsyncSmtpConnection) {
    let _ = tokio::time::timeout(QUIT_TIMEOUT, connection.quit()).await; // a server that is gone needs no goodbye
}

fn tls_parameters(settings: &Settings) -> Result<Option<TlsParameters>, SettingsError> {
    if settings.security == Security::Plain {
        return Ok(None);
    }
    let mut builder = TlsParameters::builder(settings.host.trim_start_matches('[').trim_end_matches(']').to_owned());
    if let Some(path) = &settings.ca_file {
        let refused = |why: String| SettingsError::CaFile { path: path.clone(), why };
        let pem = std::fs::read(path).map_err(|e| refused(e.to_string()))?;
        if !pem.windows(27).any(|w| w == b"-----BEGIN CERTIFICATE-----") {
            return Err(refused("holds no PEM certificate (-----BEGIN CERTIFICATE-----)".to_owned()));
        }
        builder = builder.add_root_certificate(Certificate::from_pem(&pem).map_err(|e| refused(e.to_string()))?);
    }
    builder
        .build_rustls()
        .map(Some)
        .map_err(|e| SettingsError::CaFile { path: settings.ca_file.clone().unwrap_or_default(), why: error_chain(&e) })
}

/// The error with its causes, each said once.
fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let said = e.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = e.source();
    }
    text
}

/// One line of bounded length: it comes from a stranger, and goes to a log and into a mail.
fn flat(s: &str) -> String {
    let line: String = s.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}
