//! Raw readings, as taken. Units are in the names; `None` means absent (the thing does not exist here), never zero.

use super::time::UnixMillis;
use serde::{Deserialize, Serialize};

/// Who a process is in a run. The string form is the `role` column of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The event loop: soakd itself.
    Supervisor,
    /// A child that does inference.
    Worker,
    /// The child in which NVML and /proc are read.
    Probe,
    /// The child that leaks on purpose at a known rate.
    Canary,
    /// The child that drains the outbox.
    Mailer,
    /// The user's own process under soak (root of a tree).
    Target,
    /// A child of the user's own process, by role name of its command.
    TargetChild,
    /// All processes of the target together.
    TargetTree,
}

impl Role {
    /// The `role` column.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Supervisor => "supervisor",
            Role::Worker => "worker",
            Role::Probe => "probe",
            Role::Canary => "canary",
            Role::Mailer => "mailer",
            Role::Target => "target",
            Role::TargetChild => "target_child",
            Role::TargetTree => "target_tree",
        }
    }
}

/// One reading of one process. Bytes are exact as the kernel gave them (kB × 1024).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessReading {
    /// VmRSS.
    pub rss_bytes: Option<i64>,
    /// RssAnon.
    pub rss_anon_bytes: Option<i64>,
    /// VmSwap. RssAnon + VmSwap is the honest figure: a page swapped out is still held.
    pub swap_bytes: Option<i64>,
    /// Pss from smaps_rollup; costlier than the rest, so it may be read less often.
    pub pss_bytes: Option<i64>,
    /// VRAM of this process, summed over devices, by NVML.
    pub vram_bytes: Option<i64>,
    /// Threads.
    pub threads: Option<i64>,
    /// Open file descriptors.
    pub open_fds: Option<i64>,
    /// User + system CPU time since the process started, milliseconds.
    pub cpu_ms: Option<i64>,
    /// `memory.current` of the control group that it has to itself, if it has: the page cache of its files included.
    #[serde(default)]
    pub cgroup_bytes: Option<i64>,
}

/// One reading of one GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceReading {
    /// Used VRAM of the whole device.
    pub vram_used_bytes: Option<i64>,
    /// Free VRAM of the whole device.
    pub vram_free_bytes: Option<i64>,
    /// Core temperature.
    pub temperature_celsius: Option<i64>,
    /// Board power draw.
    pub power_milliwatts: Option<i64>,
    /// Streaming multiprocessor clock.
    pub sm_clock_mhz: Option<i64>,
    /// Memory clock.
    pub memory_clock_mhz: Option<i64>,
    /// GPU utilisation, percent.
    pub utilization_percent: Option<i64>,
    /// NVML's bit mask of clock throttle (event) reasons.
    pub throttle_reasons: Option<i64>,
    /// Corrected ECC errors since the driver loaded.
    pub ecc_corrected: Option<i64>,
    /// Uncorrected ECC errors since the driver loaded.
    pub ecc_uncorrected: Option<i64>,
    /// PCIe replay counter.
    pub pcie_replays: Option<i64>,
}

/// One reading of the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct HostReading {
    /// MemAvailable.
    pub memory_available_bytes: Option<i64>,
    /// MemTotal - MemAvailable.
    pub memory_used_bytes: Option<i64>,
    /// SwapTotal - SwapFree.
    pub swap_used_bytes: Option<i64>,
    /// Free bytes, for unprivileged users, of the file system that holds the database.
    pub disk_free_bytes: Option<i64>,
    /// One-minute load average times 1000.
    pub load1_milli: Option<i64>,
}

/// What a worker counts about itself, since that process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkReading {
    /// Tokens decoded (prompt tokens are not counted).
    pub tokens: i64,
    /// Requests (one prompt and its answer) finished.
    pub requests: i64,
    /// Prompt tokens processed.
    pub prompt_tokens: i64,
    /// Times the whole set of prompts was gone through.
    pub loops: i64,
    /// Outputs that differed from the golden ones.
    pub golden_mismatches: i64,
    /// Requests that failed, empty answers among them.
    #[serde(default)]
    pub failures: i64,
    /// Host bytes that the engine knows it holds (weights mapped are not counted; caches and buffers are).
    pub held_host_bytes: i64,
    /// Device bytes that the engine knows it holds; `None` on the CPU.
    pub held_device_bytes: Option<i64>,
}

/// What is written in one transaction, about once a second: all that was read since the last one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SampleBatch {
    /// Readings of processes, by row of the `process` table.
    pub processes: Vec<(i64, UnixMillis, ProcessReading)>,
    /// What workers count, by row of the `process` table.
    pub work: Vec<(i64, UnixMillis, WorkReading)>,
    /// Readings of GPUs, by row of the `device` table.
    pub devices: Vec<(i64, UnixMillis, DeviceReading)>,
    /// Readings of the host, by row of the `run` table.
    pub hosts: Vec<(i64, UnixMillis, HostReading)>,
}

impl SampleBatch {
    /// Rows in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.processes.len() + self.work.len() + self.devices.len() + self.hosts.len()
    }

    /// Nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Which latency. The string form is the `kind` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LatencyKind {
    /// From one token to the next.
    Token,
    /// From the request to its first token.
    FirstToken,
    /// From the request to its last token.
    Request,
}

impl LatencyKind {
    /// The `kind` column.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            LatencyKind::Token => "token",
            LatencyKind::FirstToken => "first_token",
            LatencyKind::Request => "request",
        }
    }
}

/// Latencies of one process in one interval (a minute), ready to be stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyInterval {
    /// Row of the `process` table.
    pub process_id: i64,
    /// Start of the interval.
    pub from: UnixMillis,
    /// Its length.
    pub interval_ms: i64,
    /// Which latency.
    pub kind: LatencyKind,
    /// Values in it.
    pub count: i64,
    /// Median.
    pub p50_us: i64,
    /// 95th percentile.
    pub p95_us: i64,
    /// 99th percentile.
    pub p99_us: i64,
    /// Largest.
    pub max_us: i64,
    /// The HDR histogram (V2, microseconds), so that intervals can be merged.
    pub histogram: Vec<u8>,
}
