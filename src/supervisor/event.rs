//! What the event loop can be told, and what it can be asked to do: two closed lists.
//!
//! [`Event`] is everything that reaches `core`; [`Effect`] is everything that comes out of it. Who produces the one and
//! performs the other (the reactor, or a simulation) is not known here.

use crate::model::process::ProcessEnd;
use crate::model::sample::{ProcessReading, Role};
use crate::probe::protocol::{FromProbe, ToProbe};
use crate::wire::WireError;
use crate::worker::protocol::{FromWorker, ToWorker};
use nix::libc;

/// A place in the run that one process at a time fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChildId {
    /// What it is.
    pub role: Role,
    /// Which of them, from 0.
    pub ordinal: u32,
}

impl std::fmt::Display for ChildId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.role {
            Role::Worker => write!(f, "worker-{}", self.ordinal),
            role => f.write_str(role.as_str()),
        }
    }
}

/// One incarnation of a child, unique within a supervisor's life: what a late message is told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life(pub u64);

/// What is known of a process that ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastWords {
    /// If it exited.
    pub exit_code: Option<i32>,
    /// If a signal ended it.
    pub exit_signal: Option<i32>,
    /// The tail of its stderr, lossily as UTF-8.
    pub stderr_tail: String,
    /// The kernel's count of OOM kills in our control group, or on the host, read right after the exit.
    pub oom_kills: Option<i64>,
}

impl LastWords {
    /// True if a signal ended it that is no request to end: no orderly end comes by it.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        self.exit_signal.is_some_and(|signal| !matches!(signal, libc::SIGTERM | libc::SIGINT | libc::SIGHUP))
    }
}

/// Everything that can happen.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A second passed.
    Tick {
        /// How long the host has been suspended since boot, milliseconds.
        suspended_ms: i64,
    },
    /// A child process exists.
    Spawned {
        /// Which.
        child: ChildId,
        /// Which incarnation.
        life: Life,
        /// Its process id.
        pid: i32,
        /// The count of OOM kills at that time, as in [`LastWords::oom_kills`].
        oom_kills: Option<i64>,
    },
    /// A child process could not be made.
    NotSpawned {
        /// Which.
        child: ChildId,
        /// Which incarnation.
        life: Life,
        /// Why.
        why: String,
    },
    /// A worker spoke.
    Worker {
        /// Which.
        child: ChildId,
        /// Which incarnation.
        life: Life,
        /// What.
        message: FromWorker,
    },
    /// The probe spoke.
    Probe {
        /// Which incarnation.
        life: Life,
        /// What.
        message: FromProbe,
    },
    /// A child said something that is no message.
    Garbled {
        /// Which.
        child: ChildId,
        /// Which incarnation.
        life: Life,
        /// What was wrong with it.
        error: WireError,
    },
    /// A child process ended.
    Exited {
        /// Which.
        child: ChildId,
        /// Which incarnation.
        life: Life,
        /// What is known of it.
        words: LastWords,
    },
    /// A process that a child had left behind was killed.
    OrphanKilled {
        /// Its process id.
        pid: i32,
        /// Its command.
        name: String,
    },
    /// What the supervisor itself could read, while there is no probe.
    Fallback {
        /// Process id and reading.
        readings: Vec<(i32, ProcessReading)>,
    },
    /// SIGINT or SIGTERM.
    AskedToEnd,
    /// SIGTERM because the host is being shut down or restarted.
    HostGoesDown,
    /// SIGHUP.
    AskedToReload,
}

/// Everything that can be asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Start a process for this child.
    Spawn {
        /// Which.
        child: ChildId,
        /// Which incarnation.
        life: Life,
    },
    /// A frame to a worker.
    ToWorker {
        /// Which incarnation.
        life: Life,
        /// What.
        order: ToWorker,
    },
    /// A frame to the probe.
    ToProbe {
        /// Which incarnation.
        life: Life,
        /// What.
        order: ToProbe,
    },
    /// SIGUSR1, at which the mailer ends. SIGTERM may have been sent to all of us, and its last mails are still to come.
    AskToLeave {
        /// Which incarnation.
        life: Life,
    },
    /// Close its stdin, which ends it.
    CloseStdin {
        /// Which incarnation.
        life: Life,
    },
    /// SIGKILL to its process group.
    Kill {
        /// Which incarnation.
        life: Life,
    },
    /// Read these processes without a probe, and answer with [`Event::Fallback`].
    ReadFallback {
        /// Process ids.
        pids: Vec<i32>,
    },
    /// The run is over and everything of it is written: leave the loop, tell its end, and then let the core leave.
    Leave,
}

/// The end of a process before its row is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndOf {
    /// Which incarnation.
    pub life: Life,
    /// The rest; its `process_id` is filled in when it is written.
    pub end: ProcessEnd,
}
