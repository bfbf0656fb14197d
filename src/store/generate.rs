//! A database as a long run leaves it, made quickly through the same writes: for tests of size and speed, and for whoever
//! wants a report to look at without soaking for two days. Deterministic from its seed.

use super::{Store, StoreError};
use crate::model::alert::{Alert, AlertState, Decision, OutboxMail, Severity};
use crate::model::event::{Event, EventKind, EventSeverity};
use crate::model::finding::{Finding, Shape, Verdict};
use crate::model::process::{NewDevice, NewProcess};
use crate::model::run::{Absence, RunEnd, RunPlan, RunState, UnfinishedRun};
use crate::model::sample::{
    DeviceReading, HostReading, LatencyInterval, LatencyKind, ProcessReading, Role, SampleBatch, WorkReading,
};
use crate::model::series::{SeriesKey, SeriesKind};
use crate::model::time::UnixMillis;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2Serializer};

/// What to make.
#[derive(Debug, Clone)]
pub struct Fill {
    /// When the run started.
    pub started: UnixMillis,
    /// Seconds of samples, one a second.
    pub seconds: i64,
    /// Workers, each with a GPU of its own.
    pub workers: u32,
    /// Bytes that every worker gains per hour.
    pub leak_bytes_per_hour: i64,
    /// Times that everything was started, soakd itself too: all lives are equally long.
    pub lives: i64,
    /// Alerts that fired and ended, evenly spread: each with its event, its decisions and two mails.
    pub incidents: i64,
    /// Of the noise.
    pub seed: u64,
    /// Whether the run gets its verdict.
    pub finish: bool,
}

impl Default for Fill {
    fn default() -> Self {
        Fill {
            started: UnixMillis(1_790_000_040_000),
            seconds: 48 * 3_600,
            workers: 1,
            leak_bytes_per_hour: 0,
            lives: 1,
            incidents: 0,
            seed: 1,
            finish: true,
        }
    }
}

/// Ticks written in one transaction: the minute of the roll-up.
const TICKS_PER_BATCH: i64 = 60;

/// Writes the run; gives its row.
pub fn fill(store: &mut Store, fill: &Fill) -> Result<i64, StoreError> {
    let run_id = store.start_run(&plan(fill))?;
    let mut noise = Noise(fill.seed);
    let mut processes = start_processes(store, run_id, fill, fill.started)?;
    let devices = (0..fill.workers).map(|ordinal| store.start_device(&device(run_id, ordinal)));
    let devices = devices.collect::<Result<Vec<i64>, _>>()?;
    let series = start_series(store, run_id, fill.workers)?;
    let life_seconds = (fill.seconds / fill.lives.max(1)).max(TICKS_PER_BATCH);
    let mut born = 0;
    for from in (0..fill.seconds).step_by(TICKS_PER_BATCH as usize) {
        if from - born >= life_seconds {
            born = from;
            restart(store, run_id, fill, &mut processes, UnixMillis(fill.started.0 + from * 1_000))?;
        }
        let mut batch = SampleBatch::default();
        for second in from..(from + TICKS_PER_BATCH).min(fill.seconds) {
            let at = UnixMillis(fill.started.0 + second * 1_000 + noise.below(8));
            let sources = Sources { run_id, processes: &processes, devices: &devices };
            tick(&mut batch, &sources, at, second - born, fill, &mut noise);
        }
        store.append(&batch)?;
        minute(store, run_id, &processes, &series, fill, from, &mut noise)?;
    }
    (0..fill.incidents).try_for_each(|number| incident(store, run_id, fill, number))?;
    if fill.finish {
        let at = UnixMillis(fill.started.0 + fill.seconds * 1_000);
        let reason = "every judged series stays inside its tolerance".into();
        store.finish_run(run_id, &RunEnd { at, state: RunState::Finished, verdict: Verdict::Within, reason })?;
    }
    Ok(run_id)
}

type Process = (i64, Role, u32);

fn start_processes(store: &mut Store, run_id: i64, fill: &Fill, at: UnixMillis) -> Result<Vec<Process>, StoreError> {
    let others = [Role::Supervisor, Role::Probe, Role::Canary, Role::Mailer].map(|role| (role, 0));
    let all = others.into_iter().chain((0..fill.workers).map(|n| (Role::Worker, n)));
    let start = |(n, (role, ordinal)): (usize, (Role, u32))| {
        let new = NewProcess { run_id, role, ordinal, pid: 1_000 + n as i64, name: None, started: at };
        Ok((store.start_process(&new)?.process_id, role, ordinal))
    };
    all.enumerate().map(start).collect()
}

/// soakd was killed, and what it had started with it; the next one goes on two seconds later.
fn restart(
    store: &mut Store,
    run_id: i64,
    fill: &Fill,
    processes: &mut Vec<Process>,
    at: UnixMillis,
) -> Result<(), StoreError> {
    let (last_seen, plan) = (UnixMillis(at.0 - 2_000), plan(fill));
    let run = UnfinishedRun {
        run_id,
        plan,
        last_seen,
        unwatched_ms: 0,
        stepped_ms: 0,
        resumes: 0,
        boot_id: None,
        was_shut_down: false,
    };
    store.resume(&run, at, Absence::SupervisorDown, "")?;
    *processes = start_processes(store, run_id, fill, at)?;
    Ok(())
}

struct Sources<'a> {
    run_id: i64,
    processes: &'a [Process],
    devices: &'a [i64],
}

fn tick(batch: &mut SampleBatch, sources: &Sources<'_>, at: UnixMillis, second: i64, fill: &Fill, noise: &mut Noise) {
    let leaked = fill.leak_bytes_per_hour * second / 3_600;
    for (process_id, role, _) in sources.processes {
        let worker = *role == Role::Worker;
        let base: i64 = if worker { 900_000_000 } else { 20_000_000 };
        let held = base + if worker { leaked } else { 0 } + noise.below(64) * 4_096;
        let reading = ProcessReading {
            rss_bytes: Some(held + 12_000_000),
            rss_anon_bytes: Some(held),
            swap_bytes: Some(0),
            pss_bytes: (second % 10 == 0).then_some(held + 6_000_000),
            vram_bytes: worker.then_some(6_400_000_000 + leaked),
            threads: Some(if worker { 18 } else { 2 }),
            open_fds: Some(24),
            cpu_ms: Some(second * if worker { 1_900 } else { 4 }),
            cgroup_bytes: None,
        };
        batch.processes.push((*process_id, at, reading));
        if worker {
            batch.work.push((*process_id, at, work(second, leaked, noise)));
        }
    }
    for device_id in sources.devices {
        batch.devices.push((*device_id, at, gpu(second, leaked, noise)));
    }
    let host = HostReading {
        memory_available_bytes: Some(58_000_000_000 - noise.below(5_000) * 4_096),
        memory_used_bytes: Some(6_000_000_000 + noise.below(5_000) * 4_096),
        swap_used_bytes: Some(0),
        disk_free_bytes: Some(250_000_000_000 - second * 800),
        load1_milli: Some(2_000 + noise.below(400)),
    };
    batch.hosts.push((sources.run_id, at, host));
}

fn work(second: i64, leaked: i64, noise: &mut Noise) -> WorkReading {
    WorkReading {
        tokens: second * 92 + noise.below(40),
        requests: second * 92 / 64,
        prompt_tokens: second * 46,
        loops: second / 12,
        golden_mismatches: 0,
        failures: 0,
        held_host_bytes: 880_000_000 + leaked,
        held_device_bytes: Some(6_300_000_000),
    }
}

fn gpu(second: i64, leaked: i64, noise: &mut Noise) -> DeviceReading {
    DeviceReading {
        vram_used_bytes: Some(6_900_000_000 + leaked + noise.below(4) * 65_536),
        vram_free_bytes: Some(142_000_000_000 - leaked),
        temperature_celsius: Some(61 + noise.below(5)),
        power_milliwatts: Some(412_000 + noise.below(40_000)),
        sm_clock_mhz: Some(1_980 - 15 * noise.below(3)),
        memory_clock_mhz: Some(2_619),
        utilization_percent: Some(96 + noise.below(4)),
        throttle_reasons: Some(if second % 500 == 0 { 4 } else { 0 }),
        ecc_corrected: Some(0),
        ecc_uncorrected: Some(0),
        pcie_replays: Some(second / 40_000),
    }
}

/// Once a minute: latencies and findings; once an hour an event.
fn minute(
    store: &mut Store,
    run_id: i64,
    processes: &[Process],
    series: &[i64],
    fill: &Fill,
    second: i64,
    noise: &mut Noise,
) -> Result<(), StoreError> {
    let from = UnixMillis(fill.started.0 + second * 1_000);
    let mut latencies = Vec::new();
    for (process_id, ..) in processes.iter().filter(|(_, role, _)| *role == Role::Worker) {
        for (kind, base_us) in
            [(LatencyKind::Token, 21_000), (LatencyKind::FirstToken, 180_000), (LatencyKind::Request, 1_500_000)]
        {
            latencies.push(latency(*process_id, from, kind, base_us, noise));
        }
    }
    store.latencies(&latencies)?;
    let finding = finding(fill, second + TICKS_PER_BATCH, noise);
    let at = UnixMillis(from.0 + TICKS_PER_BATCH * 1_000);
    store.jot(|to| series.iter().try_for_each(|series_id| to.finding(*series_id, at, false, &finding)))?;
    if second % 3_600 == 0 {
        let event = Event {
            at: from,
            kind: EventKind::Note,
            severity: EventSeverity::Info,
            process_id: None,
            device_id: None,
            summary: format!("hour {}", second / 3_600),
            detail: serde_json::json!({}),
        };
        store.jot(|to| to.event(run_id, &event))?;
    }
    Ok(())
}

/// The GPU was throttled for ten minutes, somebody was told when it began and when it ended.
fn incident(store: &mut Store, run_id: i64, fill: &Fill, number: i64) -> Result<(), StoreError> {
    let from = UnixMillis(fill.started.0 + fill.seconds * 1_000 * (2 * number + 1) / (2 * fill.incidents));
    let until = UnixMillis(from.0 + 600_000);
    let summary = format!("GPU 0 is throttled: incident {number}");
    let event = Event {
        at: from,
        kind: EventKind::GpuThrottle,
        severity: EventSeverity::Warning,
        process_id: None,
        device_id: None,
        summary: summary.clone(),
        detail: serde_json::json!({"reasons": 4}),
    };
    let alert = Alert {
        alert_id: store.next_alert_id()?,
        rule: "gpu_throttled".into(),
        fingerprint: format!("{number:016x}"),
        labels: [("gpu".to_owned(), "0".to_owned())].into(),
        values: [("gpu".to_owned(), serde_json::json!(0))].into(),
        severity: Severity::Ticket,
        route: "default".into(),
        group: "gpu_throttled".into(),
        state: AlertState::Resolved,
        active: from,
        fired: Some(from),
        last_true: until,
        resolved: Some(until),
        last_sent: Some(from),
        resolved_sent: Some(until),
        settled: true,
        acked: None,
        fires: vec![from],
        last_reason: String::new(),
        summary: summary.clone(),
        description: "Its clock is held below what was asked for.".into(),
        runbook: "Look at its power limit and at the air in front of it.".into(),
    };
    store.jot(|to| {
        to.event(run_id, &event)?;
        to.put_alert(run_id, &alert)?;
        for (at, kind) in [(from, "alert"), (until, "resolved")] {
            let mail = OutboxMail {
                at,
                kind: kind.into(),
                message_id: format!("<{number}.{kind}@gpu7>"),
                in_reply_to: None,
                route: alert.route.clone(),
                subject: summary.clone(),
                text: "A line of a mail's text, as long as such lines are.\n".repeat(50),
                html: "<p>A line of a mail's markup, as long as such lines are with their styles.</p>\n".repeat(100),
                plot: None,
                labels: alert.labels.clone(),
            };
            let outbox_id = to.enqueue(Some(run_id), &mail)?;
            let reason = format!("{kind} of its own group");
            let decision = Decision { alert_id: Some(alert.alert_id), send: true, reason, notice: None };
            to.put_decision(at, &decision, Some(outbox_id))?;
        }
        Ok(())
    })
}

fn latency(process_id: i64, from: UnixMillis, kind: LatencyKind, base_us: i64, noise: &mut Noise) -> LatencyInterval {
    // The worker's own bounds and digits. A few hundred occupied buckets, as in a real minute: most are near the base, and
    // some take up to twice as long.
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 3_600_000_000, 2).expect("the constant bounds are valid");
    for _ in 0..400 {
        let late = noise.below(1_000).pow(3) / 1_000_000; // in thousandths of the base: mostly little
        histogram.saturating_record_n(
            (base_us + base_us * late / 1_000).cast_unsigned(),
            1 + noise.below(26).cast_unsigned(),
        );
    }
    let mut bytes = Vec::new();
    V2Serializer::new().serialize(&histogram, &mut bytes).expect("a Vec takes every write");
    let at = |quantile: f64| histogram.value_at_quantile(quantile).cast_signed();
    LatencyInterval {
        process_id,
        from,
        interval_ms: 60_000,
        kind,
        count: histogram.len().cast_signed(),
        p50_us: at(0.50),
        p95_us: at(0.95),
        p99_us: at(0.99),
        max_us: histogram.max().cast_signed(),
        histogram: bytes,
    }
}

fn finding(fill: &Fill, seconds: i64, noise: &mut Noise) -> Finding {
    let drift = (fill.leak_bytes_per_hour * 48) as f64 + noise.below(400_000) as f64;
    let half = 4e8 / (seconds as f64 / 600.0).max(1.0) + 6e6;
    let verdict = match (drift.abs() + half < 50e6, drift.abs() - half > 50e6) {
        (true, _) => Verdict::Within,
        (_, true) => Verdict::Outside,
        _ => Verdict::Inconclusive,
    };
    Finding {
        verdict,
        shape: if fill.leak_bytes_per_hour == 0 { Shape::None } else { Shape::Linear },
        drift_bytes: drift,
        drift_ci95_bytes: [drift - half, drift + half],
        slope_bytes_per_hour: drift / 48.0,
        minimum_detectable_drift_bytes: 2.0 * half,
        samples: seconds as u64,
        span_s: seconds as f64,
        alarmed: verdict == Verdict::Outside,
        ..Finding::default()
    }
}

fn start_series(store: &mut Store, run_id: i64, workers: u32) -> Result<Vec<i64>, StoreError> {
    let mut keys: Vec<(SeriesKey, bool)> = Vec::new();
    for ordinal in 0..workers {
        for kind in [SeriesKind::Rss, SeriesKind::AnonSwap, SeriesKind::ProcessVram, SeriesKind::EngineHeld] {
            keys.push((SeriesKey { kind, role: Some(Role::Worker), ordinal }, true));
        }
        keys.push((SeriesKey { kind: SeriesKind::DeviceVram, role: None, ordinal }, true));
    }
    for role in [Role::Supervisor, Role::Probe, Role::Canary, Role::Mailer] {
        for kind in [SeriesKind::Rss, SeriesKind::AnonSwap] {
            keys.push((SeriesKey { kind, role: Some(role), ordinal: 0 }, role != Role::Canary));
        }
    }
    keys.iter().map(|(key, judged)| store.record(|to| to.series(run_id, key, *judged))).collect()
}

fn plan(fill: &Fill) -> RunPlan {
    RunPlan {
        started: fill.started,
        duration_ms: fill.seconds * 1_000,
        horizon_ms: 172_800_000,
        tolerance_bytes: 50_000_000,
        backend: "cuda".into(),
        model: "synthetic:small".into(),
        variant: "q4_k".into(),
        streams: 2,
        scenario: "steady".into(),
        seed: fill.seed.cast_signed(),
        host: "gpu7".into(),
        facts: serde_json::json!({"kernel": "6.1.0", "cpu": "generated"}),
        config_toml: String::new(),
    }
}

fn device(run_id: i64, ordinal: u32) -> NewDevice {
    NewDevice {
        run_id,
        ordinal,
        uuid: format!("GPU-{ordinal:08}"),
        name: "Generated GPU".into(),
        driver: "570.00".into(),
        pci_bus_id: None,
        vram_total_bytes: Some(150_000_000_000),
    }
}

/// SplitMix64.
struct Noise(u64);

impl Noise {
    fn below(&mut self, n: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as i64
    }
}
