//! `[mail]` and `[mailer]`: how mails leave the machine, to whom, and who drains the outbox.

use super::raw::Choice;
use super::resolved::{auto_or_integer, hours, minutes, none_or_path, none_or_text, seconds};
use super::units;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// `[mail]`: how mails leave the machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mail {
    /// By which way.
    pub transport: Transport,
    /// Where .eml files go when transport is folder; relative to the working directory.
    pub folder: PathBuf,
    /// The sender's address.
    pub from: String,
    /// The mail server.
    pub host: String,
    /// Its port; `None` is the usual one for `tls` (587, 465, 25).
    #[serde(serialize_with = "auto_or_integer")]
    pub port: Option<i64>,
    /// `host:port` to connect to instead (a tunnel); the certificate must still be that of `host`.
    #[serde(serialize_with = "none_or_text")]
    pub via: Option<String>,
    /// How the connection is protected.
    pub tls: Tls,
    /// Login; `None` sends without one.
    #[serde(serialize_with = "none_or_text")]
    pub username: Option<String>,
    /// File with the password, readable by its owner only; `credential:NAME` is systemd's.
    #[serde(serialize_with = "none_or_path")]
    pub password_file: Option<PathBuf>,
    /// More trusted certificates (PEM).
    #[serde(serialize_with = "none_or_path")]
    pub ca_file: Option<PathBuf>,
    /// For connecting, and for each answer of the server.
    #[serde(serialize_with = "units::serialize_duration")]
    pub timeout: Duration,
    /// Wait after the first failed attempt; it doubles with each one,
    #[serde(serialize_with = "units::serialize_duration")]
    pub retry_min: Duration,
    /// up to this. A mail is never given up because of its age.
    #[serde(serialize_with = "units::serialize_duration")]
    pub retry_max: Duration,
    /// In front of every subject, such as `[staging]`.
    #[serde(serialize_with = "none_or_text")]
    pub subject_prefix: Option<String>,
    /// A sign of life by mail; `None` sends none.
    #[serde(serialize_with = "units::serialize_duration_or_none")]
    pub heartbeat_every: Option<Duration>,
    /// Route (as the rules name it) → addresses. `default` takes what no other route takes.
    pub routes: BTreeMap<String, Vec<String>>,
}

impl Default for Mail {
    fn default() -> Self {
        Mail {
            transport: Transport::Folder,
            folder: PathBuf::from("mail"),
            from: "soakd@localhost".to_owned(),
            host: "localhost".to_owned(),
            port: None,
            via: None,
            tls: Tls::Starttls,
            username: None,
            password_file: None,
            ca_file: None,
            timeout: seconds(30),
            retry_min: seconds(10),
            retry_max: minutes(15),
            subject_prefix: None,
            heartbeat_every: Some(hours(24)),
            routes: BTreeMap::from([("default".to_owned(), vec!["root@localhost".to_owned()])]),
        }
    }
}

/// The prefix of a password file that systemd hands over (`LoadCredential=`).
pub(super) const CREDENTIAL: &str = "credential:";

impl Mail {
    /// Where to connect to: `via` if it is given, else the server itself.
    #[must_use]
    pub fn address(&self) -> (String, u16) {
        let tunnel = self.via.as_deref().and_then(|via| via.rsplit_once(':'));
        let tunnel = tunnel.and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
        tunnel.unwrap_or_else(|| (self.host.clone(), self.port()))
    }

    /// The server's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        let usual = match self.tls {
            Tls::Starttls => 587,
            Tls::Implicit => 465,
            Tls::None => 25,
        };
        self.port.and_then(|port| u16::try_from(port).ok()).unwrap_or(usual)
    }

    /// The file that holds the password, with `credential:NAME` looked up in `credentials`, which is systemd's
    /// `$CREDENTIALS_DIRECTORY`. The error is prose with its remedy.
    pub fn password_path(&self, credentials: Option<&std::ffi::OsStr>) -> Result<Option<PathBuf>, String> {
        let Some(path) = &self.password_file else { return Ok(None) };
        let Some(name) = path.to_str().and_then(|text| text.strip_prefix(CREDENTIAL)) else {
            return Ok(Some(path.clone()));
        };
        match credentials {
            Some(directory) => Ok(Some(PathBuf::from(directory).join(name))),
            None => Err(format!(
                "mail.password_file is the systemd credential {name:?}, but CREDENTIALS_DIRECTORY is not set: start soakd \
                 by its unit with LoadCredential={name}:FILE, or name a file"
            )),
        }
    }
}

/// How mails leave the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One .eml file each in a folder.
    Folder,
    /// A mail server.
    Smtp,
    /// The local `sendmail` command.
    Sendmail,
    /// Not at all: they stay in the outbox table.
    None,
}

impl Choice for Transport {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("folder", Transport::Folder),
        ("smtp", Transport::Smtp),
        ("sendmail", Transport::Sendmail),
        ("none", Transport::None),
    ];
}

/// How a connection to a mail server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// Plain at first, then STARTTLS, which must succeed.
    Starttls,
    /// TLS from the first byte.
    Implicit,
    /// Not at all. Refused together with a password unless the host is this one.
    None,
}

impl Choice for Tls {
    const WORDS: &'static [(&'static str, Self)] =
        &[("starttls", Tls::Starttls), ("implicit", Tls::Implicit), ("none", Tls::None)];
}

/// `[mailer]`: who drains the outbox.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mailer {
    /// As what it runs.
    pub runs_as: MailerRunsAs,
    /// Silence of the supervisor in the database after which the mailer mails its death.
    #[serde(serialize_with = "units::serialize_duration")]
    pub supervisor_silent_after: Duration,
}

impl Default for Mailer {
    fn default() -> Self {
        Mailer { runs_as: MailerRunsAs::Child, supervisor_silent_after: minutes(2) }
    }
}

/// Who starts the mailer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailerRunsAs {
    /// `soakd run`.
    Child,
    /// systemd, so that it outlives the supervisor.
    Unit,
}

impl Choice for MailerRunsAs {
    const WORDS: &'static [(&'static str, Self)] = &[("child", MailerRunsAs::Child), ("unit", MailerRunsAs::Unit)];
}
