//! What the mailer must know of the world: routes and the SMTP server. Checked here, so that nothing impossible gets to
//! the dialogue: an address that does not parse, a plain connection to another machine.

use super::secret::Secret;
use lettre::message::Mailbox;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The route that is used when a mail names one that is no longer configured.
const FALLBACK: &str = "default";

/// Why a setting cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SettingsError {
    /// Not a mail address.
    #[error("{whose}: {address:?} is not a mail address ({why}); write ops@example.org or \"Ops <ops@example.org>\"")]
    Address {
        /// `the sender`, or which route.
        whose: String,
        /// As given.
        address: String,
        /// What the parser says.
        why: String,
    },
    /// A route with nobody on it.
    #[error("route {0:?} has no recipients")]
    NoRecipients(String),
    /// A plain connection that leaves the machine.
    #[error(
        "mail to {0} would go unencrypted over the network: use starttls or tls; plain SMTP is for this machine only"
    )]
    Plain(String),
    /// The private CA cannot be used.
    #[error("the CA file {path}: {why}")]
    CaFile {
        /// Which file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
}

/// Who gets what.
#[derive(Debug, Clone)]
pub struct Routes {
    from: Mailbox,
    recipients: BTreeMap<String, Vec<Mailbox>>,
    prefix: Option<String>,
}

impl Routes {
    /// Parses the sender and every route's recipients.
    pub fn parse(from: &str, routes: &BTreeMap<String, Vec<String>>) -> Result<Self, SettingsError> {
        let mut parsed = BTreeMap::new();
        for (name, addresses) in routes {
            let mut recipients: Vec<Mailbox> = Vec::new();
            for address in addresses {
                let mailbox = mailbox(&format!("route {name:?}"), address)?;
                if !recipients.iter().any(|known| known.email == mailbox.email) {
                    recipients.push(mailbox);
                }
            }
            if recipients.is_empty() {
                return Err(SettingsError::NoRecipients(name.clone()));
            }
            parsed.insert(name.clone(), recipients);
        }
        Ok(Routes { from: mailbox("the sender", from)?, recipients: parsed, prefix: None })
    }

    /// The same with `prefix` in front of every subject.
    #[must_use]
    pub fn with_subject_prefix(self, prefix: Option<String>) -> Self {
        Routes { prefix, ..self }
    }

    /// A subject as it leaves.
    #[must_use]
    pub fn subject(&self, subject: &str) -> String {
        match &self.prefix {
            Some(prefix) => format!("{prefix} {subject}"),
            None => subject.to_owned(),
        }
    }

    /// The sender.
    #[must_use]
    pub fn from(&self) -> &Mailbox {
        &self.from
    }

    /// Who is on `route`. A route that is no longer configured falls back to `default`, then to the first one: an alert
    /// must not get lost over a renamed route. Empty only if there is no route at all.
    #[must_use]
    pub fn recipients(&self, route: &str) -> &[Mailbox] {
        self.recipients
            .get(route)
            .or_else(|| self.recipients.get(FALLBACK))
            .or_else(|| self.recipients.values().next())
            .map_or(&[], Vec::as_slice)
    }

    /// The names of the routes.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.recipients.keys().map(String::as_str)
    }
}

fn mailbox(whose: &str, address: &str) -> Result<Mailbox, SettingsError> {
    let refused = |why: String| SettingsError::Address { whose: whose.to_owned(), address: address.to_owned(), why };
    let mailbox: Mailbox =
        address.trim().parse().map_err(|why: lettre::address::AddressError| refused(why.to_string()))?;
    // Many servers still lack SMTPUTF8, and an alert must not depend on it. A name before the address may be anything.
    if !mailbox.email.to_string().is_ascii() {
        return Err(refused("it has letters beyond ASCII; write the domain in its xn-- form".to_owned()));
    }
    Ok(mailbox)
}

/// How the connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Plain first, then STARTTLS; a server that does not offer it is refused. Port 587 or 25.
    StartTls,
    /// TLS from the first byte. Port 465.
    Tls,
    /// None: only to this machine.
    Plain,
}

/// A user name and where its password is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// User name.
    pub user: String,
    /// Password.
    pub secret: Secret,
}

/// How long each part of a dialogue may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Name look-up, connection, TLS, greeting and login together.
    pub session: Duration,
    /// One command and its answer.
    pub command: Duration,
    /// The message and the answer to it. RFC 5321 (4.5.3.2.6) asks for ten minutes, lest a server that was only slow
    /// gets the mail twice; a hung one blocks the alerts behind it for as long, so half of it.
    pub message: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            session: Duration::from_secs(30),
            command: Duration::from_secs(60),
            message: Duration::from_secs(300),
        }
    }
}

/// The SMTP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Smtp {
    /// Host name or address; the name that the certificate must bear.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Where to connect to instead: a tunnel's near end. The certificate must still bear `host`.
    pub via: Option<(String, u16)>,
    /// Protection.
    pub security: Security,
    /// A PEM file with certificates to trust besides the system's own.
    pub ca_file: Option<PathBuf>,
    /// Login, if the server asks for one.
    pub account: Option<Account>,
    /// The name to greet with; `None`: this host's.
    pub hello: Option<String>,
    /// Time limits.
    pub timeouts: Timeouts,
}

impl Smtp {
    /// Refuses what must not be tried.
    pub fn check(&self) -> Result<(), SettingsError> {
        if self.security == Security::Plain && !is_loopback(&self.host) {
            return Err(SettingsError::Plain(self.host.clone()));
        }
        Ok(())
    }
}

/// By its text: a name that merely resolves to 127.0.0.1 today is not this machine tomorrow.
fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::{Routes, Security, Smtp, Timeouts};
    use std::collections::BTreeMap;

    fn routes(of: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
        of.iter().map(|(n, a)| ((*n).to_owned(), a.iter().map(|s| (*s).to_owned()).collect())).collect()
    }

    #[test]
    fn an_unknown_route_falls_back_and_a_double_address_counts_once() {
        let map = routes(&[("default", &["ops@x.org", "Ops <ops@x.org>"]), ("cto", &["a@x.org", "b@x.org"])]);
        let parsed = Routes::parse("soakd@x.org", &map).expect("parses");
        assert_eq!(parsed.recipients("cto").len(), 2);
        assert_eq!(parsed.recipients("renamed").len(), 1, "falls back to default, where an address stood twice");
    }

    #[test]
    fn a_bad_address_is_named_with_its_route() {
        for bad in ["ops", "ops@", "a@b\r\nBcc: c@d", "<>"] {
            let error = Routes::parse("soakd@x.org", &routes(&[("cto", &[bad])])).expect_err(bad).to_string();
            assert!(error.contains("cto") && !error.contains('\n'), "{error}");
        }
        assert!(Routes::parse("soakd@x.org", &routes(&[("cto", &[])])).is_err());
    }

    #[test]
    fn plain_smtp_stays_on_this_machine() {
        let smtp = |host: &str, security| Smtp {
            host: host.into(),
            port: 25,
            via: None,
            security,
            ca_file: None,
            account: None,
            hello: None,
            timeouts: Timeouts::default(),
        };
        for host in ["localhost", "127.0.0.1", "127.8.9.1", "::1", "[::1]"] {
            assert_eq!(smtp(host, Security::Plain).check(), Ok(()), "{host}");
        }
        for host in ["mail.example.org", "10.0.0.1", "localhost.example.org", "127.0.0.1.nip.io"] {
            assert!(smtp(host, Security::Plain).check().is_err(), "{host}");
            assert_eq!(smtp(host, Security::StartTls).check(), Ok(()), "{host}");
        }
    }
}
