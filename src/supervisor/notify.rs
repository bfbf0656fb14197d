//! Words to systemd: READY, STATUS, WATCHDOG, RELOADING, STOPPING. Silent when nobody asked (no NOTIFY_SOCKET).
//!
//! Only the event loop calls these, so a loop that is stuck feeds no watchdog. Also, whether systemd started us for
//! somebody, or once more because we had died.

use sd_notify::NotifyState;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

/// How long systemd may take to say whether it is shutting down: a host that does is busy. Well below the watchdog's 30 s.
const ANSWER: Duration = Duration::from_secs(5);

/// What systemd was told last, and whether it wants to be told.
#[derive(Debug)]
pub struct Notifier {
    wanted: bool,
    watchdog: bool,
    status: String,
}

impl Default for Notifier {
    fn default() -> Self {
        Notifier {
            wanted: std::env::var_os("NOTIFY_SOCKET").is_some(),
            watchdog: sd_notify::watchdog_enabled().is_some(),
            status: String::new(),
        }
    }
}

impl Notifier {
    /// Whether there is a systemd that waits for us.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// The loop runs.
    pub fn ready(&self) {
        self.send(&[NotifyState::Ready]);
    }

    /// Still alive. Called once a second; units ask for it every 30 s or more.
    pub fn alive(&self) {
        if self.watchdog {
            self.send(&[NotifyState::Watchdog]);
        }
    }

    /// One line for `systemctl status`, sent when it changes.
    pub fn status(&mut self, status: String) {
        if self.wanted && status != self.status {
            self.send(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// Rules are being read again. [`Notifier::ready`] follows.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.send(&[NotifyState::Reloading, now]),
            Err(_) => self.send(&[NotifyState::Reloading]),
        }
    }

    /// The run is ending.
    pub fn stopping(&self) {
        self.send(&[NotifyState::Stopping]);
    }

    fn send(&self, states: &[NotifyState<'_>]) {
        if self.wanted
            && let Err(error) = sd_notify::notify(states)
        {
            tracing::debug!("systemd was not told: {error}");
        }
    }
}

/// Whether systemd is shutting the machine down or restarting it. Its SIGTERM does not tell a reboot from `systemctl stop`, and
/// they are not the same thing: who stops the unit wants a verdict, who reboots wants the run to go on. Where there is no systemd,
/// or it cannot be asked (it answers unprivileged users over D-Bus), nobody reboots.
pub async fn is_host_going_down() -> bool {
    let mut systemctl = tokio::process::Command::new("systemctl");
    systemctl.arg("is-system-running").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(ANSWER, systemctl.output()).await {
        Ok(Ok(answer)) => answer.stdout.trim_ascii() == b"stopping",
        Ok(Err(_)) | Err(_) => false,
    }
}

/// What systemd keeps between a death and the restart after it, and throws away when the unit stops: the number of the run that
/// is soaked, in a file of the unit's `RuntimeDirectory` (`RuntimeDirectoryPreserve=restart`). With it a restart is told from a
/// start that somebody asked for. Without systemd there is no such place, and nothing is known.
#[derive(Debug)]
pub struct Stay {
    file: Option<PathBuf>,
}

impl Stay {
    /// As the environment has it.
    #[must_use]
    pub fn of_this_start() -> Stay {
        Stay { file: std::env::var_os("RUNTIME_DIRECTORY").map(|folder| PathBuf::from(folder).join("run")) }
    }

    /// The run of the process that died before us, if we are its restart.
    #[must_use]
    pub fn soaked_before(&self) -> Option<i64> {
        std::fs::read_to_string(self.file.as_ref()?).ok()?.trim().parse().ok()
    }

    /// From now on a restart is one of `run_id`.
    pub fn soaks(&self, run_id: i64) {
        if let Some(file) = &self.file
            && let Err(error) = std::fs::write(file, run_id.to_string())
        {
            tracing::warn!("{}: {error}: a restart will not know that it is one", file.display());
        }
    }

    /// The next start is one for somebody.
    pub fn over(&self) {
        if let Some(file) = &self.file {
            let _ = std::fs::remove_file(file); // it goes with the folder at the latest
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_knows_the_run_that_it_is_one_of() {
        let folder = tempfile::tempdir().expect("a folder");
        let stay = || Stay { file: Some(folder.path().join("run")) };
        assert_eq!(stay().soaked_before(), None, "a start for somebody");
        stay().soaks(7);
        assert_eq!(stay().soaked_before(), Some(7));
        stay().over();
        assert_eq!(stay().soaked_before(), None);
        std::fs::write(folder.path().join("run"), "seven").expect("written");
        assert_eq!(stay().soaked_before(), None, "what is no number is no run");
        let nowhere = Stay { file: None };
        nowhere.soaks(7);
        nowhere.over();
        assert_eq!(nowhere.soaked_before(), None, "no systemd");
    }
}
