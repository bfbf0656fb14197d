//! The place where things are broken: a folder with a database of its own for each fault, and the configuration of the user
//! with as little changed as a drill needs.

use super::super::CannotStart;
use super::fault::Fault;
use crate::config::{Config, Devices, MailerRunsAs, Scenario, Target, Transport};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Rules that would only mail that a drill's run is over.
const QUIET_RULES: &str =
    "[[rule]]\nname = \"run_finished\"\nenabled = false\n[[rule]]\nname = \"digest\"\nenabled = false\n";
/// How many seconds a second counts as for the analysis while a leak is drilled: 48 h are 9.6 minutes.
pub const PACE: u32 = 300;
/// What a leak is judged over, as if it were [`PACE`] times slower: two days, whatever the configuration's horizon.
const HORIZON: Duration = Duration::from_secs(48 * 3_600);
/// A leak gains so many tolerances over the horizon: plain, but far from what fills a machine within the drill.
pub const LEAK_TOLERANCES: u64 = 20;
/// Sampling while a leak is drilled: [`PACE`] times this is a minute, the detector's own grain.
const LEAK_SAMPLES: Duration = Duration::from_millis(200);
/// How long the mailer may wait for a dead supervisor; more would only make the drill longer.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Between two evaluations of the rules at most: the default.
const EVALUATE_MAX: Duration = Duration::from_secs(15);
/// Before the first repeated attempt to deliver at most: the default.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// A drill's run ends when all is seen; this is for one that nobody ends.
const RUN: Duration = Duration::from_secs(3_600);

/// The folder of the whole drill, and what each fault's soak is made of.
pub struct Scratch {
    root: PathBuf,
    keep: bool,
    config: Config,
    /// How long an alarm may take.
    pub patience: Duration,
}

impl Scratch {
    /// Makes the folder.
    pub fn new(config: &Config, keep: Option<&Path>, model: &str, patience: Duration) -> Result<Scratch, CannotStart> {
        let root = match keep {
            Some(folder) => folder.to_path_buf(),
            None => std::env::temp_dir().join(format!("soakd-drill-{}", std::process::id())),
        };
        let trouble = |error: std::io::Error| CannotStart(format!("{}: {error}", root.display()));
        std::fs::create_dir_all(&root).map_err(trouble)?;
        let root = root.canonicalize().map_err(trouble)?;
        let config = prepare(config.clone(), &root, model).map_err(trouble)?;
        Ok(Scratch { root, keep: keep.is_some(), config, patience })
    }

    /// Where the mails of the drill go.
    pub fn mail_folder(&self) -> Option<&Path> {
        (self.config.mail.transport == Transport::Folder).then_some(self.config.mail.folder.as_path())
    }

    /// A folder for one fault, and the configuration of its soak.
    pub fn room(&self, fault: Fault) -> std::io::Result<(PathBuf, Config)> {
        let folder = self.root.join(fault.name());
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?; // of an earlier drill with the same --keep
        }
        std::fs::create_dir_all(&folder)?;
        let mut config = self.config.clone();
        config.run.database = folder.join("drill.db");
        match fault {
            Fault::LeakRss | Fault::LeakVram => {
                config.run.horizon = HORIZON / PACE;
                config.run.sample_interval = LEAK_SAMPLES;
                config.run.look_every = Duration::from_secs(1);
            }
            Fault::Supervisor => {
                config.mailer.supervisor_silent_after = config.mailer.supervisor_silent_after.min(SILENCE_MAX);
            }
            _ => {}
        }
        Ok((folder, config))
    }

    /// Throws everything away if all went well and nobody wants to keep it; else says where it is.
    pub fn clean_up(self, all_well: bool) -> Option<PathBuf> {
        let own_mails = self.mail_folder().is_some_and(|folder| folder.starts_with(&self.root));
        if self.keep || !all_well || own_mails || std::fs::remove_dir_all(&self.root).is_err() {
            return Some(self.root);
        }
        None
    }
}

/// What all soaks of a drill share. Paths become absolute, for the file lies elsewhere.
fn prepare(mut config: Config, root: &Path, model: &str) -> std::io::Result<Config> {
    let absolute = |path: &mut PathBuf| -> std::io::Result<()> {
        *path = std::path::absolute(&*path)?;
        Ok(())
    };
    match model {
        "configured" => {}
        other => other.clone_into(&mut config.model.model),
    }
    if !config.model.model.starts_with("synthetic:") {
        config.model.model = std::path::absolute(&config.model.model)?.to_string_lossy().into_owned();
    }
    config.target = Target::default(); // a drill does not start a second server of the user's
    config.model.devices = match &config.model.devices {
        Devices::These(ordinals) => Devices::These(ordinals.iter().take(1).copied().collect()),
        Devices::All => Devices::These(vec![0]),
    };
    // Short answers, so that a loop over all prompts, in which a wrong token is found, takes no time.
    (config.model.prompts, config.model.prompt_tokens, config.model.answer_tokens) = (2, 8, 16);
    config.model.context_tokens = None;
    config.model.threads = Some(1); // several soaks go on at a time
    config.worker.crash_loop_limit = config.worker.crash_loop_limit.max(3); // one crash is the drill, not the end of it
    config.run.duration = RUN;
    config.run.scenario = Scenario::Steady;
    config.canary.enabled = false;
    config.mailer.runs_as = MailerRunsAs::Child; // the unit's mailer looks after the user's own database
    config.mail.heartbeat_every = None;
    config.mail.subject_prefix = Some("[DRILL]".to_owned());
    config.mail.retry_min = config.mail.retry_min.min(RETRY_MAX);
    config.alerts.evaluate_every = config.alerts.evaluate_every.min(EVALUATE_MAX);
    for path in &mut config.alerts.rules {
        absolute(path)?;
    }
    let quiet = root.join("quiet-rules.toml");
    std::fs::write(&quiet, QUIET_RULES)?;
    if config.alerts.builtin {
        config.alerts.rules.push(quiet);
    }
    if config.mail.transport == Transport::None {
        config.mail.transport = Transport::Folder;
        config.mail.folder = root.join("mail");
    }
    absolute(&mut config.mail.folder)?;
    if let Some(path) =
        config.mail.password_file.as_mut().filter(|path| !path.to_string_lossy().starts_with("credential:"))
    {
        absolute(path)?;
    }
    for path in [&mut config.mail.ca_file, &mut config.probe.nvml_library].into_iter().flatten() {
        absolute(path)?;
    }
    Ok(config)
}
