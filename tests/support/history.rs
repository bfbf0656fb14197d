//! Writes a run's database through the store, on a clock that is only counted: any length, the same bytes every time. A GPU
//! run with a worker that leaks a little and dies once, a supervisor, a probe, a canary, alerts and a gap.

use soakd::model::event::{Event, EventKind, EventSeverity};
use soakd::model::finding::{Finding, Shape, Verdict};
use soakd::model::process::{EndReason, Golden, NewDevice, NewProcess, ProcessEnd};
use soakd::model::run::{RunEnd, RunPlan, RunState};
use soakd::model::sample::{
    DeviceReading, HostReading, LatencyInterval, LatencyKind, ProcessReading, Role, SampleBatch, WorkReading,
};
use soakd::model::series::{SeriesKey, SeriesKind};
use soakd::model::time::UnixMillis;
use soakd::store::{Mode, Store};
use std::path::Path;

/// A whole hour: 2026-09-21T14:00:00Z.
pub const START: i64 = 1_789_999_200_000;

/// What to write.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    /// Seconds soaked.
    pub seconds: i64,
    /// Seconds between samples.
    pub every: i64,
    /// Bytes that the worker gains over the horizon.
    pub leak_bytes: f64,
    /// Whether the worker dies at 60 % of the time.
    pub crash: bool,
    /// Tokens per second, so that runs can be told apart.
    pub tokens_per_s: f64,
    /// Seed of the noise.
    pub seed: u64,
}

impl Default for Script {
    fn default() -> Self {
        Script { seconds: 172_800, every: 1, leak_bytes: 4e6, crash: true, tokens_per_s: 81.0, seed: 1 }
    }
}

/// Noise that is the same every time: xorshift, from -0.5 to 0.5.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f64 / (1u64 << 24) as f64 - 0.5
    }
}

/// Writes a finished run into the database at `path` and gives its id.
pub fn write(path: &Path, script: Script) -> i64 {
    let mut store = Store::open(path, Mode::Write).expect("a new database");
    let run_id = store.start_run(&plan()).expect("run");
    let crash_at = if script.crash { START + script.seconds * 600 } else { i64::MAX };
    let at = UnixMillis(START);
    let start = |store: &mut Store, role: Role, pid: i64, started: UnixMillis| {
        let new = NewProcess { run_id, role, ordinal: 0, pid, name: None, started };
        store.start_process(&new).expect("process").process_id
    };
    let mut worker = start(&mut store, Role::Worker, 4242, at);
    let others = [(Role::Supervisor, 4240), (Role::Probe, 4241), (Role::Canary, 4243)]
        .map(|(role, pid)| (role, start(&mut store, role, pid, at)));
    let device = store.start_device(&gpu(run_id)).expect("device");
    let mut noise = Noise(script.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (mut batch, mut born, mut latencies) = (SampleBatch::default(), START, Vec::new());
    for second in (0..script.seconds).step_by(script.every as usize) {
        let now = START + second * 1_000;
        if now >= crash_at && born == START {
            born = now + 8_000;
            crash(&mut store, run_id, worker, now);
            worker = start(&mut store, Role::Worker, 5151, UnixMillis(born));
        }
        if now >= born {
            worker_sample(&mut batch, worker, now, born, &script, &mut noise);
        }
        for (role, id) in others {
            batch.processes.push((id, UnixMillis(now), small_process(role, second, &mut noise)));
        }
        batch.devices.push((device, UnixMillis(now), device_sample(second, &script, &mut noise)));
        batch.hosts.push((run_id, UnixMillis(now), host_sample(second, &mut noise)));
        if batch.hosts.len() as i64 * script.every >= 60 {
            store.append(&batch).expect("append");
            batch = SampleBatch::default();
        }
        if second % 60 == 0 && now >= born {
            latencies.extend(latency(worker, now, &mut noise));
        }
    }
    store.append(&batch).expect("append");
    store.latencies(&latencies).expect("latencies");
    findings(&mut store, run_id, &script);
    finish(&mut store, run_id, &script);
    run_id
}

fn plan() -> RunPlan {
    RunPlan {
        started: UnixMillis(START),
        duration_ms: 172_800_000,
        horizon_ms: 172_800_000,
        tolerance_bytes: 50_000_000,
        backend: "cuda".into(),
        model: "synthetic:22b".into(),
        variant: "q4_k".into(),
        streams: 12,
        scenario: "steady".into(),
        seed: 7,
        host: "gpu7".into(),
        facts: serde_json::json!({"kernel": "6.12.9", "cpu": "AMD EPYC 9554", "cpu_threads": 128, "memory_total_bytes": 1_100_000_000_000i64, "driver": "570.86.15"}),
        config_toml: "[run]\nduration = \"48h\"\ntolerance = \"50MB\"\n\n[canary]\nleak = \"200MB\"\n".into(),
    }
}

fn gpu(run_id: i64) -> NewDevice {
    NewDevice {
        run_id,
        ordinal: 0,
        uuid: "GPU-5e1f0c1a".into(),
        name: "NVIDIA H100 80GB HBM3".into(),
        driver: "570.86.15".into(),
        pci_bus_id: Some("0000:19:00.0".into()),
        vram_total_bytes: Some(85_520_809_984),
    }
}

fn pages(bytes: f64) -> i64 {
    (bytes / 4096.0).round() as i64 * 4096
}

fn worker_sample(batch: &mut SampleBatch, id: i64, now: i64, born: i64, script: &Script, noise: &mut Noise) {
    let age_s = (now - born) as f64 / 1e3;
    let day = 1.2e6 * (now as f64 / 86_400_000.0 * std::f64::consts::TAU).sin();
    let warm = -60e6 * (-age_s / 300.0).exp();
    let spike = if noise.next() > 0.4998 { 18e6 } else { 0.0 };
    let anon = 642e6 + warm + day + script.leak_bytes * age_s / 172_800.0 + 2.4e6 * noise.next() + spike;
    let reading = ProcessReading {
        rss_bytes: Some(pages(anon + 311e6 + 1e6 * noise.next())),
        rss_anon_bytes: Some(pages(anon)),
        swap_bytes: Some(0),
        pss_bytes: (now / 1_000 % 10 == 0).then(|| pages(anon + 300e6)),
        vram_bytes: Some(13_012_828_160),
        threads: Some(18),
        open_fds: Some(41),
        cpu_ms: Some((age_s * 310.0) as i64),
        ..ProcessReading::default()
    };
    batch.processes.push((id, UnixMillis(now), reading));
    let tokens = (age_s * script.tokens_per_s) as i64;
    let work = WorkReading {
        tokens,
        requests: tokens / 128,
        prompt_tokens: tokens * 2,
        loops: tokens / 4096,
        golden_mismatches: 0,
        held_host_bytes: 52_428_800,
        held_device_bytes: Some(12_884_901_888),
        ..WorkReading::default()
    };
    batch.work.push((id, UnixMillis(now), work));
}

fn small_process(role: Role, second: i64, noise: &mut Noise) -> ProcessReading {
    let base = match role {
        Role::Supervisor => 21e6,
        Role::Probe => 14e6,
        _ => 9e6 + 200e6 * second as f64 / 172_800.0,
    };
    let anon = base + 2e5 * noise.next();
    ProcessReading {
        rss_bytes: Some(pages(anon + 7e6)),
        rss_anon_bytes: Some(pages(anon)),
        swap_bytes: Some(0),
        pss_bytes: None,
        vram_bytes: None,
        threads: Some(4),
        open_fds: Some(22),
        cpu_ms: Some(second * 3),
        ..ProcessReading::default()
    }
}

fn device_sample(second: i64, script: &Script, noise: &mut Noise) -> DeviceReading {
    let hot = 62.0 + 4.0 * (second as f64 / 86_400.0 * std::f64::consts::TAU).sin() + 2.0 * noise.next();
    DeviceReading {
        vram_used_bytes: Some(
            13_421_772_800 + (script.leak_bytes * second as f64 / 172_800.0 / 2_097_152.0) as i64 * 2_097_152,
        ),
        vram_free_bytes: Some(72_099_037_184),
        temperature_celsius: Some(hot.round() as i64),
        power_milliwatts: Some((431_000.0 + 22_000.0 * noise.next()) as i64),
        sm_clock_mhz: Some(1_980),
        memory_clock_mhz: Some(2_619),
        utilization_percent: Some(97),
        throttle_reasons: Some(if hot > 66.5 { 0x20 } else { 0 }),
        ecc_corrected: Some(0),
        ecc_uncorrected: Some(0),
        pcie_replays: Some(0),
    }
}

fn host_sample(second: i64, noise: &mut Noise) -> HostReading {
    HostReading {
        memory_available_bytes: Some(pages(981e9 + 3e9 * noise.next())),
        memory_used_bytes: Some(pages(119e9)),
        swap_used_bytes: Some(0),
        disk_free_bytes: Some(pages(812e9 - second as f64 * 700.0)),
        load1_milli: Some((3_200.0 + 900.0 * noise.next()) as i64),
    }
}

fn latency(process_id: i64, now: i64, noise: &mut Noise) -> Vec<LatencyInterval> {
    use hdrhistogram::serialization::{Serializer, V2Serializer};
    let mut make = |kind: LatencyKind, middle_us: f64| {
        let mut histogram = hdrhistogram::Histogram::<u64>::new_with_bounds(1, 3_600_000_000, 2).expect("bounds");
        for _ in 0..120 {
            let value = middle_us * (1.0 + 0.3 * noise.next()) * if noise.next() > 0.48 { 2.6 } else { 1.0 };
            histogram.saturating_record(value as u64);
        }
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(&histogram, &mut bytes).expect("a Vec takes it");
        LatencyInterval {
            process_id,
            from: UnixMillis(now),
            interval_ms: 60_000,
            kind,
            count: histogram.len() as i64,
            p50_us: histogram.value_at_quantile(0.50) as i64,
            p95_us: histogram.value_at_quantile(0.95) as i64,
            p99_us: histogram.value_at_quantile(0.99) as i64,
            max_us: histogram.max() as i64,
            histogram: bytes,
        }
    };
    vec![make(LatencyKind::Token, 12_100.0), make(LatencyKind::FirstToken, 210_000.0)]
}

fn event(at: i64, kind: EventKind, severity: EventSeverity, process_id: Option<i64>, summary: &str) -> Event {
    let detail = serde_json::json!({});
    Event { at: UnixMillis(at), kind, severity, process_id, device_id: None, summary: summary.to_owned(), detail }
}

fn crash(store: &mut Store, run_id: i64, process_id: i64, now: i64) {
    let end = ProcessEnd {
        process_id,
        at: UnixMillis(now),
        reason: EndReason::Crash,
        exit_code: None,
        exit_signal: Some(11),
        stderr_tail: Some("soakd worker: cuda: cuMemAlloc_v2(67108864) = 700 (CUDA_ERROR_ILLEGAL_ADDRESS)\nthread 'main' panicked at kernels <launch>\n".into()),
        heartbeat: Some(UnixMillis(now - 900)),
        rss_bytes: Some(958_000_000),
        anon_swap_bytes: Some(645_000_000),
        vram_bytes: Some(13_012_828_160),
    };
    let what = "worker-0 (pid 4242) died: signal 11 (SIGSEGV)";
    store
        .record(|to| {
            to.end_process(&end)?;
            to.event(run_id, &event(now, EventKind::WorkerCrash, EventSeverity::Error, Some(process_id), what))
        })
        .expect("crash");
}

/// What the analysis would say: an interval that shrinks with time around the leak.
fn findings(store: &mut Store, run_id: i64, script: &Script) {
    let key = |kind, role| SeriesKey { kind, role, ordinal: 0 };
    let all = [
        (key(SeriesKind::AnonSwap, Some(Role::Worker)), script.leak_bytes, 9e6, true),
        (key(SeriesKind::DeviceVram, None), script.leak_bytes, 3e6, true),
        (key(SeriesKind::ProcessVram, Some(Role::Worker)), 0.0, 1e5, true),
        (key(SeriesKind::EngineHeld, Some(Role::Worker)), 0.0, 1e4, true),
        (key(SeriesKind::AnonSwap, Some(Role::Supervisor)), 0.1e6, 0.4e6, true),
        (key(SeriesKind::AnonSwap, Some(Role::Probe)), -0.05e6, 0.3e6, true),
        (key(SeriesKind::Rss, Some(Role::Worker)), script.leak_bytes, 12e6, false),
        (key(SeriesKind::AnonSwap, Some(Role::Canary)), 199.4e6, 5e6, false),
    ];
    let minutes = script.seconds / 60;
    store
        .record(|to| {
            for (key, drift, half, judged) in all {
                let series_id = to.series(run_id, &key, judged)?;
                for minute in (10..=minutes).step_by(((minutes / 500).max(1)) as usize).chain([minutes]) {
                    let span_s = minute as f64 * 60.0;
                    let half = half * (script.seconds as f64 / span_s).powf(1.5);
                    let mut finding = finding(drift, half, span_s);
                    finding.samples = (minute * 60 / script.every) as u64;
                    to.finding(series_id, UnixMillis(START + minute * 60_000), minute == minutes, &finding)?;
                }
            }
            Ok(())
        })
        .expect("findings");
}

fn finding(drift: f64, half: f64, span_s: f64) -> Finding {
    let (lo, hi) = (drift - half, drift + half);
    let verdict = match (lo, hi) {
        (lo, hi) if lo > -50e6 && hi < 50e6 => Verdict::Within,
        (lo, hi) if lo > 50e6 || hi < -50e6 => Verdict::Outside,
        _ => Verdict::Inconclusive,
    };
    Finding {
        verdict,
        shape: if verdict == Verdict::Outside { Shape::Linear } else { Shape::None },
        drift_bytes: drift,
        drift_ci95_bytes: [lo, hi],
        slope_bytes_per_hour: drift / 48.0,
        minimum_detectable_drift_bytes: 50e6 + 1.5 * half,
        samples: 0,
        span_s,
        crossing_unix_s: (verdict == Verdict::Outside)
            .then(|| [START as f64 / 1e3 + 86_400.0, START as f64 / 1e3 + 129_600.0]),
        alarmed: verdict == Verdict::Outside,
        first_alarm_unix_s: (verdict == Verdict::Outside).then_some(START as f64 / 1e3 + span_s),
        ..Finding::default()
    }
}

fn finish(store: &mut Store, run_id: i64, script: &Script) {
    let at = |share: f64| START + (script.seconds as f64 * 1e3 * share) as i64;
    let outside = script.leak_bytes > 60e6;
    let golden = Golden { backend: "cuda".into(), prompt: 0, tokens: vec![1, 2, 3], hash: 9 };
    let end = RunEnd {
        at: UnixMillis(at(1.0)),
        state: RunState::Finished,
        verdict: if outside { Verdict::Outside } else { Verdict::Within },
        reason: if outside {
            "worker-0.anon_swap drifts outside ±50 MB over 48 h"
        } else {
            "6 of 6 series within ±50 MB over 48 h"
        }
        .into(),
    };
    store
        .record(|to| {
            to.put_golden(run_id, &golden, UnixMillis(at(0.001)))?;
            to.event(
                run_id,
                &event(
                    at(0.11),
                    EventKind::CanaryFound,
                    EventSeverity::Info,
                    None,
                    "the canary's leak was caught after 5.3 h",
                ),
            )?;
            to.event(
                run_id,
                &event(
                    at(0.3),
                    EventKind::GpuThrottle,
                    EventSeverity::Warning,
                    None,
                    "gpu-0 slowed down for 40 s: thermal",
                ),
            )?;
            to.gap(run_id, UnixMillis(at(0.8)), UnixMillis(at(0.8) + 95_000), "suspend")?;
            to.finish_run(run_id, &end)
        })
        .expect("finish");
    if !script.crash {
        return;
    }
    let raw = rusqlite::Connection::open(store.path()).expect("the same file");
    raw.execute(
        "INSERT INTO alert (run_id, rule, fingerprint, labels, values_json, severity, route, state, active_unix_ms, fired_unix_ms,
           last_true_unix_ms, resolved_unix_ms, last_sent_unix_ms, summary, description, runbook, settled, group_key, fires)
         VALUES (?1, 'worker-crash', 'f', '{}', '{}', 'page', 'oncall', 'resolved', ?2, ?2, ?2, ?3, ?2,
           'worker-0 died: signal 11', '', 'Read its last words in the report; restart with --fresh if it happens again.', 1, 'g', '[]')",
        [run_id, at(0.6), at(0.61)],
    )
    .expect("alert");
}
