//! What a report, a gate, a comparison and the documents are made of: one run, read from the database, as plain facts.
//! Reading them is `store::facts`' business, saying them is `report`'s.

use super::alert::{AlertState, Severity};
use super::columns::Column;
use super::event::EventSeverity;
use super::finding::{Finding, Verdict};
use super::run::{RunPlan, RunState};
use super::time::UnixMillis;
use serde::{Deserialize, Serialize};

/// Everything about one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFacts {
    /// Row of the `run` table.
    pub run_id: i64,
    /// Where it stands.
    pub state: RunState,
    /// Which soakd ran it.
    pub soakd_version: String,
    /// What it was to be.
    pub plan: RunPlan,
    /// When it ended, if it did.
    pub ended: Option<UnixMillis>,
    /// The last moment from which anything of it is stored.
    pub last_seen: UnixMillis,
    /// The moment of these facts.
    pub asked: UnixMillis,
    /// As written at its end.
    pub verdict: Option<Verdict>,
    /// Why, in a sentence.
    pub verdict_reason: Option<String>,
    /// Times in which nothing was watched.
    pub gaps: Vec<GapFacts>,
    /// Time served and time lost.
    pub uptime: Uptime,
    /// Memory series, judged ones first.
    pub series: Vec<SeriesFacts>,
    /// Every incarnation of every process, by start.
    pub processes: Vec<ProcessFacts>,
    /// GPUs.
    pub devices: Vec<DeviceFacts>,
    /// Memory, load and disk of the host over time.
    pub host: Vec<Measured>,
    /// Events by time; the errors are all here, of the rest at most a few thousand.
    pub events: Vec<EventFacts>,
    /// Events that were left out of `events`.
    pub events_left_out: u64,
    /// Alerts by time, pending ones that never fired left out.
    pub alerts: Vec<AlertFacts>,
    /// Latencies by kind, where anything was measured.
    pub latencies: Vec<LatencyFacts>,
    /// Tokens and requests.
    pub throughput: Throughput,
    /// Outputs that differed from the golden ones.
    pub golden_mismatches: u64,
    /// Golden outputs that every loop was compared with.
    pub golden_outputs: u64,
    /// Times that an answer without a token was told of; a target's are told at most once a minute.
    #[serde(default)]
    pub empty_outputs: u64,
    /// The leak on purpose, if one was set up.
    pub canary: Option<CanaryFacts>,
}

/// A time in which nothing was watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapFacts {
    /// From.
    pub from: UnixMillis,
    /// To.
    pub to: UnixMillis,
    /// `supervisor_down`, `suspend`, ...
    pub reason: String,
}

/// Time of a run, milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uptime {
    /// From start to end (or to when it was last seen).
    pub elapsed_ms: i64,
    /// In which nothing was watched.
    pub unwatched_ms: i64,
    /// In which it was watched, but some worker was dead, hung or not yet back.
    pub worker_down_ms: i64,
}

impl Uptime {
    /// Share of the elapsed time in which the workers served and soakd watched; `None` for a run of no length.
    #[must_use]
    pub fn ratio(self) -> Option<f64> {
        let lost = (self.unwatched_ms + self.worker_down_ms).min(self.elapsed_ms);
        (self.elapsed_ms > 0).then(|| 1.0 - lost as f64 / self.elapsed_ms as f64)
    }
}

/// One memory series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeriesFacts {
    /// Such as `worker-0.anon_swap`.
    pub name: String,
    /// Such as `anon_swap`.
    pub kind: String,
    /// Whose; `None` for a device.
    pub role: Option<String>,
    /// The command, for a role of a target.
    #[serde(default)]
    pub command: Option<String>,
    /// Counts towards the verdict.
    pub judged: bool,
    /// The newest finding.
    pub finding: Option<Finding>,
    /// When that was, and whether it is the last word.
    pub found: Option<(UnixMillis, bool)>,
    /// How the estimate came about: seconds since the epoch, drift, low and high end of its 95 % interval.
    pub history: Vec<(f64, f64, f64, f64)>,
    /// Its samples, thinned.
    pub columns: Vec<Column>,
    /// Largest sample.
    pub bytes_max: Option<f64>,
}

impl SeriesFacts {
    /// `target_child-1.anon_swap (VLLM::EngineCore/1)`: the name, and whose it is where that does not say.
    #[must_use]
    pub fn title(&self) -> String {
        match &self.command {
            Some(command) => format!("{} ({command})", self.name),
            None => self.name.clone(),
        }
    }
}

/// One incarnation of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessFacts {
    /// Row of the `process` table.
    pub process_id: i64,
    /// `worker-0`, `supervisor`, ...
    pub name: String,
    /// The role alone.
    pub role: String,
    /// Which life, from 1.
    pub incarnation: i64,
    /// By the kernel.
    pub pid: i64,
    /// When it was started.
    pub started: UnixMillis,
    /// When it ended.
    pub ended: Option<UnixMillis>,
    /// `clean`, `crash`, `hang`, ...
    pub end_reason: Option<String>,
    /// If it exited.
    pub exit_code: Option<i64>,
    /// If a signal ended it.
    pub exit_signal: Option<i64>,
    /// Its last words.
    pub stderr_tail: Option<String>,
    /// When it was last heard of.
    pub heartbeat: Option<UnixMillis>,
    /// VmRSS at its end.
    pub rss_bytes_at_end: Option<i64>,
    /// RssAnon + VmSwap at its end.
    pub anon_swap_bytes_at_end: Option<i64>,
    /// VRAM at its end.
    pub vram_bytes_at_end: Option<i64>,
    /// CPU time it used, milliseconds.
    pub cpu_ms: Option<i64>,
}

impl ProcessFacts {
    /// It died unasked (crash, out of memory, could not start, spoke garbage).
    #[must_use]
    pub fn is_crash(&self) -> bool {
        matches!(self.end_reason.as_deref(), Some("crash" | "oom" | "refused" | "protocol"))
    }

    /// It stopped answering and was killed.
    #[must_use]
    pub fn is_hang(&self) -> bool {
        self.end_reason.as_deref() == Some("hang")
    }

    /// What is soaked, as opposed to what watches.
    #[must_use]
    pub fn is_soaked(&self) -> bool {
        matches!(self.role.as_str(), "worker" | "target" | "target_child")
    }
}

/// A GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceFacts {
    /// NVML's index.
    pub ordinal: i64,
    /// Product name.
    pub name: String,
    /// Driver version.
    pub driver: String,
    /// What stays the same when indices change.
    pub uuid: String,
    /// VRAM built in.
    pub vram_total_bytes: Option<i64>,
    /// Largest use seen.
    pub vram_used_bytes_max: Option<i64>,
    /// Uncorrected ECC errors counted during the run.
    pub ecc_uncorrected: Option<i64>,
    /// Share of the samples with any throttle reason that slows (power, thermal, hardware).
    pub throttled_ratio: Option<f64>,
    /// Temperature, power, clock, utilisation over time.
    pub measured: Vec<Measured>,
}

/// A figure over time that is shown, not judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// With its unit, such as `temperature, °C`.
    pub name: String,
    /// True if it is bytes.
    pub is_bytes: bool,
    /// Its samples, thinned.
    pub columns: Vec<Column>,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventFacts {
    /// When.
    pub at: UnixMillis,
    /// What, in snake_case.
    pub kind: String,
    /// How bad.
    pub severity: EventSeverity,
    /// Whose, such as `worker-0` or `gpu-1`.
    pub about: Option<String>,
    /// One sentence.
    pub summary: String,
}

/// An alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertFacts {
    /// Which rule.
    pub rule: String,
    /// Who should be woken.
    pub severity: Severity,
    /// Firing or resolved.
    pub state: AlertState,
    /// Since when it was true.
    pub active: UnixMillis,
    /// When it fired.
    pub fired: Option<UnixMillis>,
    /// When it was over.
    pub resolved: Option<UnixMillis>,
    /// When a mail was written last.
    pub last_sent: Option<UnixMillis>,
    /// One line.
    pub summary: String,
    /// What to do.
    pub runbook: String,
}

/// Latencies of one kind over the whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LatencyFacts {
    /// `token`, `first_token` or `request`.
    pub kind: String,
    /// How many were measured.
    pub count: u64,
    /// Median, from all intervals' histograms merged.
    pub p50_ms: f64,
    /// 95th percentile.
    pub p95_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Largest.
    pub max_ms: f64,
    /// Each interval's median, thinned.
    pub p50: Vec<Column>,
    /// Each interval's 95th percentile, thinned.
    pub p95: Vec<Column>,
    /// Each interval's 99th percentile, thinned.
    pub p99: Vec<Column>,
}

/// What the workers did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// Tokens decoded, over all incarnations.
    pub tokens: u64,
    /// Requests finished.
    pub requests: u64,
    /// Requests to a target that failed, answers without a token among them.
    #[serde(default)]
    pub failures: u64,
    /// Tokens over the time in which workers served; `None` if nothing was decoded.
    pub tokens_per_s: Option<f64>,
    /// By the minute, summed over workers, thinned.
    pub over_time: Vec<Column>,
}

/// The leak on purpose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CanaryFacts {
    /// What it was told to leak over the horizon, as the run's configuration writes it.
    pub planned: Option<String>,
    /// When the detector caught it.
    pub found: Option<UnixMillis>,
    /// When it should have been caught and was not.
    pub missed: Option<UnixMillis>,
    /// The newest finding on its series.
    pub finding: Option<Finding>,
}

/// How a run is to be called, all things considered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Every judged series within tolerance, no crash, no hang, no wrong token.
    Passed,
    /// A leak, a crash, a hang or a wrong token.
    Failed,
    /// Not enough was seen to say either.
    Inconclusive,
}

impl RunFacts {
    /// Alerts that fire, or did when the run ended; news is none of them.
    pub fn alerts_firing(&self) -> impl Iterator<Item = &AlertFacts> + Clone {
        self.alerts.iter().filter(|alert| alert.state == AlertState::Firing && alert.severity != Severity::Info)
    }

    /// What crashed or hung, in the order of their ends.
    #[must_use]
    pub fn deaths(&self) -> Vec<&ProcessFacts> {
        let mut deaths: Vec<_> = self.processes.iter().filter(|p| p.is_crash() || p.is_hang()).collect();
        deaths.sort_by_key(|p| (p.ended, p.process_id));
        deaths
    }

    /// Crashes of what is soaked.
    #[must_use]
    pub fn crashes(&self) -> usize {
        self.processes.iter().filter(|p| p.is_soaked() && p.is_crash()).count()
    }

    /// Hangs of what is soaked.
    #[must_use]
    pub fn hangs(&self) -> usize {
        self.processes.iter().filter(|p| p.is_soaked() && p.is_hang()).count()
    }

    /// The written verdict, or, while it runs, what the newest findings say: outside if any judged series is, within if all are.
    #[must_use]
    pub fn verdict_now(&self) -> Verdict {
        let judged = || self.series.iter().filter(|s| s.judged).map(|s| s.finding.as_ref().map(|f| f.verdict));
        self.verdict.unwrap_or_else(|| {
            if judged().any(|v| v == Some(Verdict::Outside)) {
                Verdict::Outside
            } else if judged().count() > 0 && judged().all(|v| v == Some(Verdict::Within)) {
                Verdict::Within
            } else {
                Verdict::Inconclusive
            }
        })
    }

    /// All things considered, the crashes too. A blind run (its canary was missed) cannot pass.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let blind = self.canary.as_ref().is_some_and(|c| c.missed.is_some() && c.found.is_none());
        let broken = self.crashes() + self.hangs() > 0 || self.golden_mismatches + self.empty_outputs > 0;
        match self.verdict_now() {
            Verdict::Outside => Standing::Failed,
            _ if broken || self.state == RunState::Failed => Standing::Failed,
            Verdict::Within if !blind => Standing::Passed,
            _ => Standing::Inconclusive,
        }
    }

    /// Seconds from the start of the run to `at`.
    #[must_use]
    pub fn seconds_in(&self, at: UnixMillis) -> f64 {
        (at.0 - self.plan.started.0) as f64 / 1e3
    }

    /// Latencies of one kind.
    #[must_use]
    pub fn latency(&self, kind: &str) -> Option<&LatencyFacts> {
        self.latencies.iter().find(|l| l.kind == kind)
    }

    /// Largest VRAM use of any device, or of any process where devices were not read.
    #[must_use]
    pub fn vram_bytes_max(&self) -> Option<f64> {
        let of = |kind: &str| {
            let all = self.series.iter().filter(|s| s.kind == kind).filter_map(|s| s.bytes_max);
            all.fold(None, |max: Option<f64>, v| Some(max.map_or(v, |m| m.max(v))))
        };
        let devices = self.devices.iter().filter_map(|d| d.vram_used_bytes_max).max().map(|b| b as f64);
        devices.or_else(|| of("device_vram")).or_else(|| of("process_vram"))
    }
}
