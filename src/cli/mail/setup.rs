//! Configuration to carrier: which way mails go, and to whom.

use crate::config::{Config, Mail, MailerRunsAs, Tls, Transport};
use crate::mail::{
    Account, AnyCarrier, Backoff, Folder, Routes, Secret, Security, Sendmail, Smtp, SmtpSettings, Timeouts,
};
use std::path::PathBuf;
use std::time::Duration;

/// Where the sendmail program is, by the Linux Standard Base.
const SENDMAIL: &str = "/usr/sbin/sendmail";
/// The server's answer to a whole message may take ten times as long as to a command: it scans and stores before it
/// promises. At the default of 30 s these are five minutes.
const MESSAGE_FACTOR: u32 = 10;

/// The configured way, checked. The error is prose with its remedy.
pub(in crate::cli) fn carrier(config: &Config) -> Result<AnyCarrier, String> {
    let mail = &config.mail;
    match mail.transport {
        Transport::Folder => Ok(AnyCarrier::Folder(Folder::new(mail.folder.clone()))),
        Transport::Sendmail => {
            Ok(AnyCarrier::Sendmail(Sendmail::new(PathBuf::from(SENDMAIL), mail.timeout * MESSAGE_FACTOR)))
        }
        Transport::Smtp => {
            let smtp = Smtp::new(smtp(mail)?).map_err(|e| format!("{}: [mail] {e}", config.source))?;
            Ok(AnyCarrier::Smtp(Box::new(smtp)))
        }
        Transport::None => Err(format!(
            "{}: mail.transport is \"none\": mails stay in the outbox table (soakd query 'SELECT * FROM v_mails'). Set it \
             to \"folder\", \"smtp\" or \"sendmail\"",
            config.source
        )),
    }
}

/// Who gets what.
pub(in crate::cli) fn routes(config: &Config) -> Result<Routes, String> {
    Routes::parse(&config.mail.from, &config.mail.routes)
        .map(|routes| routes.with_subject_prefix(config.mail.subject_prefix.clone()))
        .map_err(|e| format!("{}: [mail] {e}", config.source))
}

/// What would keep a run's own mailer from sending anything, found before the run starts: routes, settings, the password
/// file. A mailer that is a unit of its own has its own credentials and is not asked here.
pub(in crate::cli) fn usable(config: &Config) -> Result<(), String> {
    if config.mailer.runs_as == MailerRunsAs::Unit || config.mail.transport == Transport::None {
        return Ok(());
    }
    routes(config)?;
    carrier(config)?;
    if config.mail.transport == Transport::Smtp
        && let Some(account) = smtp(&config.mail)?.account
    {
        account.secret.read().map_err(|e| format!("{}: [mail] {e}", config.source))?;
    }
    Ok(())
}

/// Between two attempts.
pub(super) fn backoff(mail: &Mail) -> Backoff {
    Backoff { first_ms: millis(mail.retry_min), max_ms: millis(mail.retry_max) }
}

/// In words, for people.
pub(in crate::cli) fn destination(mail: &Mail) -> String {
    match mail.transport {
        Transport::Folder => format!("the folder {}", mail.folder.display()),
        Transport::Smtp => format!("{}:{}", mail.host, mail.port()),
        Transport::Sendmail => SENDMAIL.to_owned(),
        Transport::None => "nowhere".to_owned(),
    }
}

fn smtp(mail: &Mail) -> Result<SmtpSettings, String> {
    let secret = mail.password_path(std::env::var_os("CREDENTIALS_DIRECTORY").as_deref())?.map(|path| {
        let from_systemd = mail.password_file.as_ref().is_some_and(|given| *given != path);
        if from_systemd { Secret::Credential(path) } else { Secret::File(path) }
    });
    Ok(SmtpSettings {
        host: mail.host.clone(),
        port: mail.port(),
        via: mail.via.is_some().then(|| mail.address()),
        security: match mail.tls {
            Tls::Starttls => Security::StartTls,
            Tls::Implicit => Security::Tls,
            Tls::None => Security::Plain,
        },
        ca_file: mail.ca_file.clone(),
        account: mail.username.clone().zip(secret).map(|(user, secret)| Account { user, secret }),
        hello: None,
        timeouts: Timeouts { session: mail.timeout, command: mail.timeout, message: mail.timeout * MESSAGE_FACTOR },
    })
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
