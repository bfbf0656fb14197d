//! Configuration, rules and mail: what files and servers say.

use super::super::mail::setup;
use super::super::{CannotStart, gate};
use super::Findings;
use crate::config::units::{format_bytes, format_duration};
use crate::config::{Config, GateProfile, Mail, Transport};
use crate::mail::AnyCarrier;
use crate::rules::{RuleError, RuleSet};
use crate::store::sql::Reader;
use crate::store::{Mode, Store};
use crate::supervisor::alerting::{RuleSources, check_rules, load_rules};

/// The run in a sentence.
pub(super) fn describe(config: &Config) -> String {
    let on = match config.target.is_set() {
        true => String::new(),
        false => format!(" on {}", config.model.backend.as_str()),
    };
    format!(
        "{}: {} of {}{on}, tolerance {} over {}",
        config.source,
        format_duration(config.run.duration),
        config.soaks(),
        format_bytes(config.run.tolerance_bytes),
        format_duration(config.run.horizon),
    )
}

/// False when a rule file cannot be used.
pub(super) fn rules(config: &Config, findings: &mut Findings) -> bool {
    let sources = RuleSources { builtin: config.alerts.builtin, files: config.alerts.rules.clone() };
    let rules = match load_rules(&sources) {
        Ok(rules) => rules,
        Err(fault) => {
            refuse(&fault, findings);
            return false;
        }
    };
    if rules.rules.is_empty() {
        findings.warning("rules", "no rules at all: nothing will ever alert", "set alerts.builtin = true");
        return true;
    }
    match faults(&rules) {
        Err(error) => findings.warning("rules", format!("their SQL was not tried: {error}"), "see the message"),
        Ok(faults) if faults.is_empty() => {
            findings.ok("rules", format!("{} rules, their SQL fits the schema", rules.rules.len()));
        }
        Ok(faults) => {
            for fault in &faults {
                refuse(fault, findings);
            }
            return false;
        }
    }
    true
}

fn refuse(fault: &RuleError, findings: &mut Findings) {
    findings.blocker("rules", format!("{}:{}: {}", fault.file, fault.line, fault.what), fault.remedy.clone());
}

/// What will be watched, and how often.
pub(super) fn sampling(config: &Config, findings: &mut Findings) {
    let what = format!(
        "every {}: memory, threads, files and CPU of each process, the host, what the workers count, and each GPU that NVML shows",
        format_duration(config.run.sample_interval)
    );
    findings.ok("sampling", what);
}

/// The bounds that the run will be judged by.
pub(super) fn gates(config: &Config, findings: &mut Findings) {
    match gate::configured(&config.gates, GateProfile::None) {
        Ok(gates) if gates.is_empty() => {}
        Ok(gates) => findings.ok("gates", format!("{} bounds to judge the run by", gates.len())),
        Err(CannotStart(what)) => findings.blocker("gates", what, "correct [gates]"),
    }
}

/// Prepares every rule's SQL against an empty database of this version, which is made and removed.
fn faults(rules: &RuleSet) -> Result<Vec<RuleError>, String> {
    let folder = std::env::temp_dir().join(format!("soakd-check-{}", std::process::id()));
    std::fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let path = folder.join("empty.db");
    let faults = Store::open(&path, Mode::Write)
        .and_then(|_| Reader::open(&path))
        .map(|reader| check_rules(rules, &reader))
        .map_err(|error| error.to_string());
    let _ = std::fs::remove_dir_all(&folder); // a leftover in the folder for leftovers
    faults
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
    let carrier = setup::usable(config).and_then(|()| setup::routes(config)).and_then(|_| setup::carrier(config));
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
