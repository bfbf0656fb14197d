//! Processes and devices of a run as the database knows them: one row per incarnation, with its last words.

use super::sample::Role;
use super::time::UnixMillis;
use serde::{Deserialize, Serialize};

/// A process that has just been started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewProcess {
    /// Row of the `run` table.
    pub run_id: i64,
    /// Who it is.
    pub role: Role,
    /// Which of them, from 0.
    pub ordinal: u32,
    /// By the kernel.
    pub pid: i64,
    /// The command, for a target's children.
    pub name: Option<String>,
    /// When.
    pub started: UnixMillis,
}

/// The row that a started process got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRow {
    /// Row of the `process` table.
    pub process_id: i64,
    /// Which life of this role and ordinal within the run, from 1.
    pub incarnation: i64,
}

/// Why a process is no more. The string form is the `end_reason` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// It was asked to end, and did.
    Clean,
    /// It died unasked: a signal or an exit code.
    Crash,
    /// It stopped answering and was killed.
    Hang,
    /// The kernel killed it for memory.
    Oom,
    /// It could not start.
    Refused,
    /// It spoke garbage and was killed.
    Protocol,
    /// soakd or the host went down and it was not seen to end.
    Lost,
    /// Nobody can tell.
    Unknown,
}

impl EndReason {
    /// The `end_reason` column.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            EndReason::Clean => "clean",
            EndReason::Crash => "crash",
            EndReason::Hang => "hang",
            EndReason::Oom => "oom",
            EndReason::Refused => "refused",
            EndReason::Protocol => "protocol",
            EndReason::Lost => "lost",
            EndReason::Unknown => "unknown",
        }
    }
}

/// The end of a process, with its last words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessEnd {
    /// Row of the `process` table.
    pub process_id: i64,
    /// When.
    pub at: UnixMillis,
    /// Why.
    pub reason: EndReason,
    /// If it exited.
    pub exit_code: Option<i32>,
    /// If a signal ended it.
    pub exit_signal: Option<i32>,
    /// The tail of its stderr.
    pub stderr_tail: Option<String>,
    /// When it was last heard of.
    pub heartbeat: Option<UnixMillis>,
    /// VmRSS in the last reading.
    pub rss_bytes: Option<i64>,
    /// RssAnon + VmSwap in the last reading.
    pub anon_swap_bytes: Option<i64>,
    /// VRAM in the last reading.
    pub vram_bytes: Option<i64>,
}

/// A GPU that this run uses or watches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewDevice {
    /// Row of the `run` table.
    pub run_id: i64,
    /// NVML's index.
    pub ordinal: u32,
    /// NVML's UUID: what stays the same when indices change.
    pub uuid: String,
    /// Product name.
    pub name: String,
    /// Driver version.
    pub driver: String,
    /// PCI bus id.
    pub pci_bus_id: Option<String>,
    /// VRAM built in.
    pub vram_total_bytes: Option<i64>,
}

/// The output of the first loop for one prompt: what every later loop is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Golden {
    /// `cpu` or `cuda`: greedy tokens of two back ends may differ.
    pub backend: String,
    /// Which prompt of the set.
    pub prompt: i64,
    /// Greedy tokens.
    pub tokens: Vec<u32>,
    /// Of the logits along the way.
    pub hash: u64,
}
