//! What supervisor and probe say to each other, as frames of [`crate::wire`]: the supervisor asks, the probe answers.

use crate::model::sample::{DeviceReading, HostReading, ProcessReading};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a reading came to. An absent sensor is no error; one that is there and fails is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome<T> {
    /// Read.
    Present(T),
    /// There is no such thing here, and why that is known.
    Absent(String),
    /// It is there, and could not be read: why.
    Failed(String),
}

impl<T> Outcome<T> {
    /// The reading, if there is one.
    pub fn present(&self) -> Option<&T> {
        match self {
            Outcome::Present(value) => Some(value),
            Outcome::Absent(_) | Outcome::Failed(_) => None,
        }
    }
}

/// Supervisor to probe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToProbe {
    /// The first frame, once.
    Start(Setup),
    /// Read everything and answer with [`FromProbe::Readings`]. The process ends when its stdin does.
    Tick(Tick),
}

/// What the probe needs to know before it reads.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// NVML by path; `None` is the system's.
    pub nvml_library: Option<PathBuf>,
    /// Any path of the file system whose free space matters: the database's folder.
    pub disk_path: PathBuf,
    /// How long one answer may wait for the driver, milliseconds. After it the answer goes out without the GPUs.
    pub gpu_grace_ms: u64,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tick {
    /// Comes back in the answer.
    pub tick: u64,
    /// Which processes.
    pub processes: Vec<Watched>,
    /// Whether to read Pss too, which costs the kernel a walk through the page tables.
    pub read_pss: bool,
}

/// A process to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// As the supervisor sees it.
    pub pid: i32,
    /// Whose figures are its.
    #[serde(default)]
    pub tree: Tree,
}

/// Which processes' figures are summed in the answer for one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tree {
    /// Its own.
    #[default]
    Itself,
    /// Those of all that descend from it, without its own.
    Below,
    /// Those of another and of all that descend from that.
    From(i32),
    /// Those of all in a control group (a folder below /sys/fs/cgroup).
    Group(PathBuf),
}

/// Probe to supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromProbe {
    /// It has understood [`ToProbe::Start`].
    Ready {
        /// Its own process id.
        pid: i32,
    },
    /// The answer to a [`Tick`].
    Readings(Box<Readings>),
}

/// Everything, once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Readings {
    /// Which question this answers.
    pub tick: u64,
    /// In the order asked.
    pub processes: Vec<ProcessAnswer>,
    /// The machine.
    pub host: HostReading,
    /// The control group that soakd and its children run in.
    pub cgroup: Outcome<CgroupReading>,
    /// The GPUs.
    pub gpus: Gpus,
    /// Why VRAM by process is not known, where the driver lists processes and it cannot be told whose they are.
    #[serde(default)]
    pub vram_note: Option<String>,
    /// What the driver told since the last answer, each one, in order.
    pub gpu_events: Vec<GpuEvent>,
    /// Driver events that were thrown away because nobody asked for too long.
    pub gpu_events_dropped: u64,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessAnswer {
    /// As asked.
    pub pid: i32,
    /// Its figures. Absent: there is no such process, or it is a zombie.
    pub reading: Outcome<ProcessFigures>,
    /// For a tree: the same by what its processes do.
    #[serde(default)]
    pub roles: Vec<RoleAnswer>,
}

/// All processes of a tree that have one name at one depth, as one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoleAnswer {
    /// The command's name and, below the root, how deep: `vllm`, `VLLM::Worker/2`.
    pub name: String,
    /// The oldest of them.
    pub pid: i32,
    /// How many there are.
    pub processes: u32,
    /// Another number when another process is among them, or one of them has begun another program.
    pub roster: u64,
    /// Their figures summed.
    pub reading: ProcessReading,
}

/// The figures of a process and what tells it from a later one with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ProcessFigures {
    /// Memory, threads, files, CPU.
    pub reading: ProcessReading,
    /// Clock ticks after boot at which it started: a reused process id has another.
    pub start_ticks: u64,
    /// Its parent.
    #[serde(default)]
    pub parent: i32,
    /// Where its stack begins, which changes when it begins another program; 0 where the kernel does not tell.
    #[serde(default)]
    pub stack: u64,
}

/// Memory of a control group (v2), and how often the kernel killed in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupReading {
    /// `memory.current`.
    pub memory_current_bytes: Option<i64>,
    /// `memory.max`; `None` is no limit.
    pub memory_max_bytes: Option<i64>,
    /// `oom_kill` of `memory.events`, since the group was made.
    pub oom_kills: Option<i64>,
    /// `oom_kill` of /proc/vmstat: the whole host, since boot.
    pub host_oom_kills: Option<i64>,
}

/// All GPUs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gpus {
    /// No driver, no library, or no GPU: why that is known.
    Absent(String),
    /// There is a driver, and it does not work.
    Failed(GpuFailure),
    /// A call into the driver has not come back for so many ticks (the present one included).
    Silent {
        /// Ticks.
        ticks: u64,
    },
    /// In the driver's order.
    Present(Vec<GpuAnswer>),
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GpuAnswer {
    /// What it is; sent with the first answer after the driver was (re)opened, `None` after.
    pub facts: Option<GpuFacts>,
    /// The driver's index.
    pub ordinal: u32,
    /// Its figures. Failed: lost, or none of them could be read.
    pub reading: Outcome<DeviceReading>,
    /// Figures that the GPU has but that could not be read. Those it does not have are just `None`.
    pub failures: Vec<GpuFailure>,
}

/// What a GPU is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuFacts {
    /// Same as CUDA's, unless CUDA_VISIBLE_DEVICES or CUDA_DEVICE_ORDER say otherwise: match by `uuid`.
    pub ordinal: u32,
    /// `GPU-...`.
    pub uuid: String,
    /// Product name.
    pub name: String,
    /// Driver version.
    pub driver: String,
    /// `00000000:65:00.0`.
    pub pci_bus_id: Option<String>,
    /// Total memory.
    pub vram_total_bytes: Option<i64>,
}

/// A call into NVML that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuFailure {
    /// What was asked for, such as `temperature`.
    pub what: String,
    /// NVML's number.
    pub code: u32,
    /// What it means, in words; `unknown code` when this soakd does not know it.
    pub meaning: String,
    /// The GPU fell off the bus, or needs a reset: nothing works on it until someone acts.
    pub lost: bool,
}

/// What the driver told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuEvent {
    /// Which GPU, if the driver said.
    pub ordinal: Option<u32>,
    /// What.
    pub kind: GpuEventKind,
}

/// Kinds of driver events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuEventKind {
    /// An XID error, by its number; 999 is NVML's "unknown".
    Xid(u64),
    /// A corrected memory error.
    EccCorrected,
    /// An uncorrected memory error.
    EccUncorrected,
}
