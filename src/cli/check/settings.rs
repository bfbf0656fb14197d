//! Configuration, rules and mail: what files and servers say.

use super::super::mail::setup;
use super::Findings;
use crate::config::units::{format_bytes, format_duration};
use crate::config::{Config, Mail, Transport};
use crate::mail::AnyCarrier;

/// The run in a sentence.
pub(super) fn describe(config: &Config) -> String {
    format!(
        "{}: {} of {}, {} on {}, {} stream(s), tolerance {} over {}",
        config.source,
        format_duration(config.run.duration),
        config.run.scenario.as_str(),
        config.model.model,
        config.model.backend.as_str(),
        config.model.streams,
        format_bytes(config.run.tolerance_bytes),
        format_duration(config.run.horizon),
    )
}

/// False when a rule file cannot be used.
pub(super) fn rules(config: &Config, findings: &mut Findings) -> bool {
    let mut usable = true;
    for path in &config.alerts.rules {
        if let Err(error) = std::fs::read_to_string(path) {
            usable = false;
            let remedy = "correct alerts.rules; paths are relative to the configuration file";
            findings.blocker("rules", format!("{}: {error}", path.display()), remedy);
        }
    }
    if usable {
        findings.ok("rules", format!("{} file(s) beside the built-in rules", config.alerts.rules.len()));
    }
    if !config.alerts.builtin && config.alerts.rules.is_empty() {
        findings.warning("rules", "no rules at all: nothing will ever alert", "set alerts.builtin = true");
    }
    usable
}

/// Can a mail leave.
pub(super) fn mail(config: &Config, offline: bool, findings: &mut Findings) {
    let mail = &config.mail;
    match mail.transport {
        Transport::None => {
            let remedy = "set mail.transport to smtp, sendmail or folder";
            findings.warning("mail", "mail.transport is none: alerts stay in the database", remedy);
        }
        Transport::Folder => folder(mail, findings),
        Transport::Sendmail | Transport::Smtp => server(config, offline, findings),
    }
}

fn folder(mail: &Mail, findings: &mut Findings) {
    let nearest =
        mail.folder.ancestors().find(|folder| folder.exists()).filter(|folder| !folder.as_os_str().is_empty());
    let nearest = nearest.unwrap_or(std::path::Path::new("."));
    if !nearest.is_dir() || nix::unistd::access(nearest, nix::unistd::AccessFlags::W_OK).is_err() {
        let what = format!("mails go to {}, and {} cannot be written", mail.folder.display(), nearest.display());
        return findings.blocker("mail", what, "correct mail.folder, or the rights of that folder");
    }
    let what = format!("mails are left as files in {}: nobody is woken", mail.folder.display());
    findings.warning("mail", what, "for a run that matters set mail.transport = \"smtp\", then `soakd mail --test`");
}

fn server(config: &Config, offline: bool, findings: &mut Findings) {
    let carrier = setup::routes(config).and_then(|_| setup::carrier(config));
    let destination = setup::destination(&config.mail);
    match carrier {
        Err(error) => findings.blocker("mail", error, "correct [mail], then `soakd mail --test`"),
        Ok(AnyCarrier::Smtp(_)) if offline => {
            findings.warning("mail", format!("{destination} was not asked (--offline)"), "leave --offline out");
        }
        Ok(AnyCarrier::Smtp(mut smtp)) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let answer = match runtime {
                Ok(runtime) => runtime.block_on(smtp.hello()),
                Err(error) => Err(format!("cannot start the event loop: {error}")),
            };
            match answer {
                Ok(told) => findings.ok("mail", format!("{told}; `soakd mail --test` sends a mail on every route")),
                Err(error) => {
                    let remedy = "correct [mail]; alerts would wait in the database until the server answers";
                    findings.blocker("mail", error, remedy);
                }
            }
        }
        Ok(AnyCarrier::Sendmail(_)) if !std::path::Path::new(&destination).exists() => {
            findings.blocker(
                "mail",
                format!("{destination} is not there"),
                "install a mail server such as postfix, or use smtp",
            );
        }
        Ok(_) => findings.ok("mail", format!("by way of {destination}")),
    }
}
