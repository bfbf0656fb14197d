//! Words to systemd: READY, STATUS, WATCHDOG, RELOADING, STOPPING. Silent when nobody asked (no NOTIFY_SOCKET).
//!
//! Only the event loop calls these, so a loop that is stuck feeds no watchdog.

use sd_notify::NotifyState;

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
