//! Configuration in two stages: text → [`raw`] (tables with the place of every key) → [`Config`] (plain resolved data).
//!
//! Nothing invalid gets past [`Config`]: units are applied, unknown keys refused, impossible combinations caught, and
//! every complaint names file, line, column and remedy. Flags of the command line go through [`Config::with`], and so
//! through the same validation. What a value means to the machine (does the database open, does the mail server
//! answer) is `soakd check`'s business.

mod error;
mod gates;
mod mail;
mod overrides;
pub mod raw;
mod resolve;
mod resolved;
mod target;
pub mod units;
mod validate;

pub use error::{ConfigError, Place, Problem};
pub use gates::{GateProfile, Gates};
pub use mail::{Mail, Mailer, MailerRunsAs, Tls, Transport};
pub use overrides::Overrides;
pub use resolved::{
    Alerts, Backend, Burst, Canary, Churn, Config, Devices, Model, Probe, Run, Scenario, Source, Variant, Worker,
};
pub use target::{Metrics, Target};

use std::path::Path;

/// The name that is looked for in the working directory when no `--config` is given.
pub const DEFAULT_FILE: &str = "soak.toml";
/// Longest configuration file. A real one has 10 kB; what is larger was given by mistake (a model, a database).
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads `path`; without one, `soak.toml` in the working directory if it is there, else the embedded default.
pub fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
    match path {
        Some(path) => load_file(path),
        None if Path::new(DEFAULT_FILE).exists() => load_file(Path::new(DEFAULT_FILE)),
        None => Ok(Config::default()),
    }
}

fn load_file(path: &Path) -> Result<Config, ConfigError> {
    let unreadable = |what: String| ConfigError {
        source: path.display().to_string(),
        problems: vec![Problem {
            key: String::new(),
            place: None,
            what,
            remedy: "give a readable soak.toml with --config, or leave --config out for the embedded default"
                .to_owned(),
        }],
    };
    let facts = std::fs::metadata(path).map_err(|e| unreadable(format!("cannot be read: {e}")))?;
    if !facts.is_file() {
        return Err(unreadable("is not a file".to_owned()));
    }
    if facts.len() > FILE_BYTES_MAX {
        return Err(unreadable(format!("has {} bytes; no configuration is that long", facts.len())));
    }
    let bytes = std::fs::read(path).map_err(|e| unreadable(format!("cannot be read: {e}")))?;
    let text = String::from_utf8(bytes).map_err(|e| unreadable(format!("is not UTF-8 text ({e})")))?;
    let mut config = load_text(&path.display().to_string(), &text, path.parent().unwrap_or(Path::new("")))?;
    config.source = Source::File(path.to_path_buf());
    Ok(config)
}

/// The mail settings of a file that [`load`] refuses because of something else: whoever mails that soakd cannot start needs
/// just these. `None` if they are not there, or cannot be used themselves.
#[must_use]
pub fn salvage_mail(path: &Path) -> Option<Mail> {
    let text = String::from_utf8_lossy(&std::fs::read(path).ok()?).into_owned();
    resolve::salvage_mail(&text, path.parent().unwrap_or(Path::new("")))
}

/// Resolves `text`, which complaints call `name`. What it reads (rules, certificates, password, model) is looked for
/// beside it, in `base`; what it writes (database, mails) lies in the working directory.
pub fn load_text(name: &str, text: &str, base: &Path) -> Result<Config, ConfigError> {
    resolve::resolve(name, text, base)
}
