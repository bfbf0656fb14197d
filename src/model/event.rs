//! What happens, as opposed to what is measured. Each kind is a row of the `event` table, kept for ever.

use super::time::UnixMillis;
use serde::{Deserialize, Serialize};

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventSeverity {
    /// Part of a normal run.
    Info,
    /// Someone should know.
    Warning,
    /// The run, or the machine, is not what was promised.
    Error,
}

/// The closed list of kinds. The string form (snake_case) is the `kind` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the names are the documentation; `as_str` gives the column's value
pub enum EventKind {
    RunStarted,
    RunResumed,
    RunFinished,
    RunInterrupted,
    ProcessStarted,
    ProcessEnded,
    WorkerCrash,
    WorkerHang,
    WorkerOom,
    CrashLoop,
    ProtocolFault,
    OrphanKilled,
    ProbeCrash,
    ProbeHang,
    MailerCrash,
    MailFailed,
    CanaryMissed,
    CanaryFound,
    GoldenRecorded,
    GoldenMismatch,
    EmptyOutput,
    ModelReloaded,
    BackendFallback,
    GpuLost,
    GpuXid,
    GpuEcc,
    GpuThrottle,
    GpuReturned,
    ClockStep,
    Suspend,
    HostShutdown,
    SamplingGap,
    DiskLow,
    DiskFull,
    DiskRecovered,
    StoreFault,
    LowMemory,
    RulesReloaded,
    RulesRejected,
    RuleFailed,
    DriftAlarm,
    VerdictChanged,
    TargetEndpointDown,
    TargetEndpointUp,
    Note,
}

impl EventKind {
    /// The `kind` column: the name in snake_case, as serde writes it.
    #[must_use]
    pub fn as_str(self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(s)) => s,
            _ => unreachable!("a unit variant serialises to a string"),
        }
    }
}

/// One event, before it has a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, by the wall clock.
    pub at: UnixMillis,
    /// What.
    pub kind: EventKind,
    /// How bad.
    pub severity: EventSeverity,
    /// Row of the `process` table it is about, if any.
    pub process_id: Option<i64>,
    /// Row of the `device` table it is about, if any.
    pub device_id: Option<i64>,
    /// One sentence for people.
    pub summary: String,
    /// The rest, as JSON (an object).
    pub detail: serde_json::Value,
}
