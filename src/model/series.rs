//! A series is one memory figure over time; a segment is the part of it that belongs to one incarnation of a process.

use super::sample::Role;
use serde::{Deserialize, Serialize};

/// Which memory figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeriesKind {
    /// Used VRAM of a device.
    DeviceVram,
    /// VRAM of a process.
    ProcessVram,
    /// Device or host bytes the engine says it holds.
    EngineHeld,
    /// VmRSS.
    Rss,
    /// RssAnon + VmSwap: what a process really holds.
    AnonSwap,
    /// Pss.
    Pss,
}

impl SeriesKind {
    /// The `kind` column.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            SeriesKind::DeviceVram => "device_vram",
            SeriesKind::ProcessVram => "process_vram",
            SeriesKind::EngineHeld => "engine_held",
            SeriesKind::Rss => "rss",
            SeriesKind::AnonSwap => "anon_swap",
            SeriesKind::Pss => "pss",
        }
    }
}

/// Names a series within a run; its text form, such as `worker-0.anon_swap` or `gpu-0.device_vram`, is what people type
/// after `--series`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SeriesKey {
    /// Which figure.
    pub kind: SeriesKind,
    /// Whose: `None` for a device.
    pub role: Option<Role>,
    /// Which worker or device, from 0.
    pub ordinal: u32,
}

impl std::fmt::Display for SeriesKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.role {
            Some(role @ (Role::Worker | Role::TargetChild)) => {
                write!(f, "{}-{}.{}", role.as_str(), self.ordinal, self.kind.as_str())
            }
            Some(role) => write!(f, "{}.{}", role.as_str(), self.kind.as_str()),
            None => write!(f, "gpu-{}.{}", self.ordinal, self.kind.as_str()),
        }
    }
}

/// One point of a series, as the analysis takes it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Seconds since the epoch.
    pub unix_s: f64,
    /// The figure.
    pub bytes: f64,
    /// Which incarnation: any number that changes when the process does.
    pub segment: u32,
    /// Requests finished so far in this segment, if known.
    pub requests: Option<f64>,
}
