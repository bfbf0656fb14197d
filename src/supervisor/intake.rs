//! What children say, taken in: readings become samples and points, words become events.
//!
//! The probe is asked once a second and answers when it can; while it does not, the supervisor reads the little that
//! needs no probe itself. Absent is not failed: a machine without a GPU is silent about it, a GPU that was there and is
//! gone is an event.

use super::children::Child;
use super::core::{Core, OURSELVES, millis};
use super::event::{ChildId, Effect, Life};
use super::ledger::Entry;
use super::watch::Whose;
use crate::config::{Scenario as ConfiguredScenario, Target};
use crate::lifecycle::child::ChildEvent;
use crate::lifecycle::run::RunEvent;
use crate::model::event::{Event as Happening, EventKind, EventSeverity};
use crate::model::process::{Golden, NewDevice};
use crate::model::sample::{LatencyInterval, ProcessReading, Role, WorkReading};
use crate::model::time::{MonoMillis, Now, UnixMillis};
use crate::probe::protocol::{
    FromProbe, GpuAnswer, GpuEvent, GpuEventKind, Gpus, Outcome, Readings, Setup, Tick, ToProbe, Tree, Watched,
};
use crate::worker::protocol::{FromWorker, GoldenOutput, LatencyReport, LoadPlan, Loaded, Scenario, TargetPlan};
use std::collections::BTreeMap;

/// Without an answer for this long beyond two sample intervals the supervisor reads for itself: longer than a slow answer.
const FALLBACK_GRACE_MS: i64 = 500;
/// Without any reading for this long, or for four sample intervals, there is a gap.
const GAP_MS_MIN: i64 = 5_000;
/// Questions that may be open at once. A probe that is further behind is asked no more until it answers.
const QUESTIONS_MAX: u64 = 3;
/// How long one answer may wait for the driver.
const GPU_GRACE_MS: u64 = 400;

/// The conversation with the probe.
#[derive(Debug)]
pub struct ProbeTalk {
    /// Our own process id, which is asked after like any other.
    pid: i32,
    /// Whether the present probe has said that it is ready, and which it is.
    ready: Option<Life>,
    asked: u64,
    ask_at: MonoMillis,
    answered: u64,
    /// The last reading, whoever took it.
    read: Now,
    /// The last answer.
    heard: MonoMillis,
    pss_at: MonoMillis,
    ours: ProcessReading,
    oom_kills: Option<i64>,
    gpus: BTreeMap<u32, Gpu>,
    gpus_failing: bool,
    vram_noted: bool,
}

/// A GPU as it was last seen.
#[derive(Debug)]
struct Gpu {
    uuid: String,
    lost: bool,
}

impl ProbeTalk {
    /// Nothing was said yet; `pid` is ours.
    #[must_use]
    pub fn new(pid: i32, now: Now) -> ProbeTalk {
        ProbeTalk {
            pid,
            ready: None,
            asked: 0,
            ask_at: now.mono,
            answered: 0,
            read: now,
            heard: now.mono,
            pss_at: now.mono,
            ours: ProcessReading::default(),
            oom_kills: None,
            gpus: BTreeMap::new(),
            gpus_failing: false,
            vram_noted: false,
        }
    }

    /// Nobody watched for so long: that is recorded already and is no fault of the probe.
    pub fn unwatched(&mut self, ms: i64) {
        self.read.mono = self.read.mono.plus(ms);
        self.heard = self.heard.plus(ms);
    }

    /// Our own last reading.
    #[must_use]
    pub fn ours(&self) -> ProcessReading {
        self.ours
    }
}

impl Core {
    pub(super) fn greet_probe(&mut self, life: Life) -> Effect {
        self.probe.ready = None;
        let path = self.ledger.store().path();
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let setup = Setup {
            nvml_library: self.config.probe.nvml_library.clone(),
            disk_path: folder.map_or_else(|| ".".into(), std::path::Path::to_path_buf),
            gpu_grace_ms: GPU_GRACE_MS,
        };
        Effect::ToProbe { life, order: ToProbe::Start(setup) }
    }

    /// The question of this second, to the probe or, if it is silent, to ourselves.
    pub(super) fn ask_probe(&mut self, now: Now, out: &mut Vec<Effect>) {
        if self.closing.is_some() || now.mono < self.probe.ask_at {
            return;
        }
        let interval_ms = millis(self.config.run.sample_interval);
        // A tick may be a little early; an ending run ticks much faster than it samples.
        self.probe.ask_at = now.mono.plus(interval_ms - interval_ms / 10);
        let pids: Vec<i32> = std::iter::once(self.probe.pid).chain(self.children.iter().filter_map(live_pid)).collect();
        if self.is_probe_silent(now) {
            // Trees are the probe's to read: the keeper's own figures would look like a fall of the target's.
            let single = pids.iter().copied().filter(|pid| self.tree_of(*pid) == Tree::Itself).collect();
            out.push(Effect::ReadFallback { pids: single });
        }
        let Some(life) = self.probe.ready else { return };
        if self.probe.asked - self.probe.answered >= QUESTIONS_MAX {
            return;
        }
        let read_pss = now.mono >= self.probe.pss_at;
        if read_pss {
            self.probe.pss_at = now.mono.plus(millis(self.config.probe.pss_every));
        }
        self.probe.asked += 1;
        let processes = pids.into_iter().map(|pid| Watched { pid, tree: self.tree_of(pid) }).collect();
        let tick = Tick { tick: self.probe.asked, processes, read_pss };
        out.push(Effect::ToProbe { life, order: ToProbe::Tick(tick) });
    }

    /// Whose memory is read for a child: its own, or, for the keeper of a target, the target's.
    fn tree_of(&self, pid: i32) -> Tree {
        let is_keeper = self.children.iter().any(|c| c.id.role == Role::Worker && c.pid == Some(pid));
        let target = &self.config.target;
        match (is_keeper && target.is_set(), target.pid, &self.target_cgroup) {
            (false, ..) => Tree::Itself,
            (true, Some(pid), _) => Tree::From(pid as i32),
            (true, None, Some(cgroup)) => Tree::Group(cgroup.clone()),
            (true, None, None) => Tree::Below,
        }
    }

    pub(super) fn heard_probe(&mut self, life: Life, message: FromProbe, now: Now, out: &mut Vec<Effect>) {
        let child = ChildId { role: Role::Probe, ordinal: 0 };
        let Some(probe) = self.find(child, life) else { return };
        probe.progress = Some(0); // it was ready: should it hang, that is what it does
        match message {
            FromProbe::Ready { .. } => {
                self.probe.ready = Some(life);
                self.probe.answered = self.probe.asked;
                // Whatever was due while it started was asked of nobody, and with long intervals the next question is far off.
                self.probe.ask_at = now.mono;
                self.step_life(child, life, ChildEvent::Ready, now, out);
            }
            FromProbe::Readings(readings) => {
                self.step_life(child, life, ChildEvent::Progress, now, out);
                self.probe.answered = readings.tick.min(self.probe.asked);
                self.take_readings(&readings, now);
            }
        }
    }

    fn take_readings(&mut self, readings: &Readings, now: Now) {
        self.probe.heard = now.mono;
        tracing::trace!("readings of {} are taken", now.wall.0);
        self.close_sampling_gap(now);
        // Before the processes, so that who is missing among them can be told from one who went by himself.
        if let Outcome::Present(cgroup) = &readings.cgroup {
            let before = std::mem::replace(&mut self.probe.oom_kills, cgroup.oom_kills.or(cgroup.host_oom_kills));
            if let Some((before, after)) = before.zip(self.probe.oom_kills).filter(|(before, after)| after > before) {
                self.roles.oom(now.mono, after - before);
            }
        }
        for answer in &readings.processes {
            if let Outcome::Present(figures) = &answer.reading {
                self.take_process(answer.pid, figures.reading, now);
            }
            let keeper = self.children.iter().find(|c| c.id.role == Role::Worker && live_pid(c) == Some(answer.pid));
            if let Some(requests) = keeper.map(|child| child.work.requests as f64)
                && self.config.target.is_set()
            {
                self.take_roles(&answer.roles, Some(requests), now);
            }
        }
        self.ledger.sample_host(now, readings.host);
        self.take_gpus(&readings.gpus, now);
        if let Some(note) = &readings.vram_note
            && !std::mem::replace(&mut self.probe.vram_noted, true)
        {
            self.note(now, EventKind::Note, EventSeverity::Warning, note.clone());
        }
        for event in &readings.gpu_events {
            self.take_gpu_event(event, now);
        }
        if readings.gpu_events_dropped > 0 {
            let summary = format!("{} driver events came faster than they could be read", readings.gpu_events_dropped);
            self.note(now, EventKind::GpuXid, EventSeverity::Warning, summary);
        }
        let gpus = match &readings.gpus {
            Gpus::Present(gpus) => Some(gpus.len() as u32),
            Gpus::Absent(_) | Gpus::Failed(_) => None,
            Gpus::Silent { .. } => return, // the driver may yet answer; the workers wait a moment for it
        };
        self.plan_workers(gpus, now);
    }

    /// What the supervisor read for itself, while the probe is silent.
    pub(super) fn take_fallback(&mut self, readings: &[(i32, ProcessReading)], now: Now) {
        if readings.is_empty() || !self.is_probe_silent(now) {
            return; // the probe was quicker
        }
        self.close_sampling_gap(now);
        for (pid, reading) in readings {
            self.take_process(*pid, *reading, now);
        }
    }

    fn is_probe_silent(&self, now: Now) -> bool {
        now.mono.since(self.probe.heard) > 2 * millis(self.config.run.sample_interval) + FALLBACK_GRACE_MS
    }

    fn close_sampling_gap(&mut self, now: Now) {
        let before = std::mem::replace(&mut self.probe.read, now);
        let silent_ms = now.mono.since(before.mono);
        if silent_ms > GAP_MS_MIN.max(4 * millis(self.config.run.sample_interval)) {
            self.ledger.put(Entry::Gap { from: now.wall.before(silent_ms), to: now.wall, reason: "probe_down" });
            let summary = format!("no readings for {:.1} s: the probe did not answer", silent_ms as f64 / 1e3);
            self.note(now, EventKind::SamplingGap, EventSeverity::Warning, summary);
        }
    }

    fn take_process(&mut self, pid: i32, reading: ProcessReading, now: Now) {
        let warm_up_ms = if self.config.target.is_set() { millis(self.config.target.warm_up) } else { 0 };
        let (role, ordinal, life, segment, requests, warming) = if pid == self.probe.pid {
            self.probe.ours = reading;
            let incarnation = self.ledger.process(OURSELVES).map_or(1, |row| row.incarnation);
            (Role::Supervisor, 0, OURSELVES, incarnation as u32, None, false)
        } else {
            let Some(child) = self.children.iter_mut().find(|child| live_pid(child) == Some(pid)) else { return };
            let Some(life) = child.life else { return };
            child.reading = reading;
            let requests = (child.id.role == Role::Worker).then_some(child.work.requests as f64);
            let row = self.ledger.process(life);
            let segment = row.map_or(child.incarnations, |row| row.incarnation as u32);
            let warming = child.id.role == Role::Worker && now.mono.since(child.began) < warm_up_ms;
            (child.id.role, child.id.ordinal, life, segment, requests, warming)
        };
        if !warming {
            self.watch.process(Whose { role, ordinal, segment, requests }, now.wall, &reading);
        }
        self.ledger.sample_process(life, now, reading);
    }

    fn take_gpus(&mut self, gpus: &Gpus, now: Now) {
        match gpus {
            Gpus::Present(answers) => {
                self.probe.gpus_failing = false;
                for answer in answers {
                    self.take_gpu(answer, now);
                }
            }
            Gpus::Failed(failure) if !std::mem::replace(&mut self.probe.gpus_failing, true) => {
                let summary = format!("the NVIDIA driver does not work: {} ({})", failure.meaning, failure.what);
                self.note(now, EventKind::GpuLost, EventSeverity::Error, summary);
            }
            Gpus::Silent { ticks } if *ticks >= 10 && !std::mem::replace(&mut self.probe.gpus_failing, true) => {
                let summary = format!("a call into the NVIDIA driver has not come back for {ticks} s");
                self.note(now, EventKind::GpuLost, EventSeverity::Error, summary);
            }
            Gpus::Absent(_) | Gpus::Failed(_) | Gpus::Silent { .. } => {}
        }
    }

    fn take_gpu(&mut self, answer: &GpuAnswer, now: Now) {
        if let Some(facts) = &answer.facts {
            let device = NewDevice {
                run_id: self.ledger.run_id(),
                ordinal: facts.ordinal,
                uuid: facts.uuid.clone(),
                name: facts.name.clone(),
                driver: facts.driver.clone(),
                pci_bus_id: facts.pci_bus_id.clone(),
                vram_total_bytes: facts.vram_total_bytes,
            };
            self.ledger.put(Entry::Device(device));
            self.ledger.flush(now);
            let lost = self.probe.gpus.get(&answer.ordinal).is_some_and(|gpu| gpu.lost);
            self.probe.gpus.insert(answer.ordinal, Gpu { uuid: facts.uuid.clone(), lost });
        }
        let Some(gpu) = self.probe.gpus.get_mut(&answer.ordinal) else { return };
        let uuid = gpu.uuid.clone();
        match &answer.reading {
            Outcome::Present(reading) => {
                let returned = std::mem::replace(&mut gpu.lost, false);
                self.ledger.sample_device(&uuid, now, *reading);
                let worker = self.children.iter().find(|c| c.id.role == Role::Worker && c.id.ordinal == answer.ordinal);
                let segment = worker.and_then(|c| self.ledger.process(c.life?)).map_or(0, |row| row.incarnation as u32);
                self.watch.device(answer.ordinal, segment, now.wall, reading);
                if returned {
                    let summary = format!("gpu-{} answers again", answer.ordinal);
                    let detail = serde_json::json!({});
                    self.note_gpu(&uuid, now, EventKind::GpuReturned, EventSeverity::Info, summary, detail);
                }
            }
            Outcome::Failed(why) | Outcome::Absent(why) => {
                if !std::mem::replace(&mut gpu.lost, true) {
                    let summary = format!("gpu-{} is lost: {why}", answer.ordinal);
                    let detail = serde_json::json!({ "why": why });
                    self.note_gpu(&uuid, now, EventKind::GpuLost, EventSeverity::Error, summary, detail);
                }
            }
        }
    }

    fn take_gpu_event(&mut self, event: &GpuEvent, now: Now) {
        let whose = event.ordinal.map_or_else(|| "a GPU".to_owned(), |ordinal| format!("gpu-{ordinal}"));
        let uuid = event.ordinal.and_then(|ordinal| self.probe.gpus.get(&ordinal)).map(|gpu| gpu.uuid.clone());
        let (kind, severity, summary) = match event.kind {
            GpuEventKind::Xid(xid) => (EventKind::GpuXid, EventSeverity::Error, format!("{whose} reported XID {xid}")),
            GpuEventKind::EccCorrected => {
                (EventKind::GpuEcc, EventSeverity::Warning, format!("{whose} corrected a memory error"))
            }
            GpuEventKind::EccUncorrected => {
                (EventKind::GpuEcc, EventSeverity::Error, format!("{whose} has an uncorrected memory error"))
            }
        };
        let detail = match event.kind {
            GpuEventKind::Xid(xid) => serde_json::json!({ "xid": xid }),
            GpuEventKind::EccCorrected => serde_json::json!({ "corrected": true }),
            GpuEventKind::EccUncorrected => serde_json::json!({ "corrected": false }),
        };
        self.note_gpu(&uuid.unwrap_or_default(), now, kind, severity, summary, detail);
    }

    fn note_gpu(
        &mut self,
        uuid: &str,
        now: Now,
        kind: EventKind,
        severity: EventSeverity,
        summary: String,
        detail: serde_json::Value,
    ) {
        self.counts.add(kind);
        let event = Happening { at: now.wall, kind, severity, process_id: None, device_id: None, summary, detail };
        self.ledger.put(Entry::Event { life: None, device: Some(uuid.to_owned()), event });
    }

    pub(super) fn heard_worker(
        &mut self,
        id: ChildId,
        life: Life,
        message: FromWorker,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        let Some(child) = self.find(id, life) else { return };
        child.heard = Some(now.wall);
        match message {
            FromWorker::Loaded(loaded) => {
                child.target.clone_from(&loaded.target);
                self.step_life(id, life, ChildEvent::Ready, now, out);
                self.worker_ready = true;
                self.take_loaded(id, life, &loaded, now);
            }
            FromWorker::Beat { progress, reading } => {
                let moved = child.progress.is_none_or(|before| progress > before);
                child.progress = Some(progress);
                if moved {
                    child.moved = Some(now.wall);
                    self.step_life(id, life, ChildEvent::Progress, now, out);
                }
                self.take_work(id, life, reading, now);
            }
            FromWorker::Latency(reports) => self.take_latencies(life, reports, false, now),
            FromWorker::LatencySoFar(reports) => self.take_latencies(life, reports, true, now),
            FromWorker::Golden(output) => self.take_golden(life, output, now),
            FromWorker::Mismatch(found) => self.take_mismatch(id, life, found, now),
            FromWorker::Empty { prompt, stream } => {
                let summary = format!("{id}: prompt {prompt} in stream {stream} gave no token");
                let detail = serde_json::json!({ "prompt": prompt, "stream": stream });
                self.note_worker(life, now, EventKind::EmptyOutput, EventSeverity::Error, summary, detail);
            }
            FromWorker::EndpointDown { reason } => {
                let (kind, summary) = (EventKind::TargetEndpointDown, format!("requests to the target fail: {reason}"));
                self.note_worker(life, now, kind, EventSeverity::Warning, summary, serde_json::json!({}));
            }
            FromWorker::EndpointUp { down_ms } => {
                let summary = format!("the target answers again after {:.1} s", down_ms as f64 / 1e3);
                let detail = serde_json::json!({ "down_ms": down_ms });
                self.note_worker(life, now, EventKind::TargetEndpointUp, EventSeverity::Info, summary, detail);
            }
            FromWorker::Reloaded { took_ms, held_before_bytes, held_after_bytes } => {
                let summary = format!("{id} unloaded the model and loaded it again in {took_ms} ms");
                let detail = serde_json::json!({
                    "took_ms": took_ms, "held_before_bytes": held_before_bytes, "held_after_bytes": held_after_bytes
                });
                self.note_worker(life, now, EventKind::ModelReloaded, EventSeverity::Info, summary, detail);
            }
            FromWorker::CannotLoad { reason } => self.take_refusal(id, life, reason, now, out),
            FromWorker::Waiting { reason } => {
                let (kind, summary) = (EventKind::Note, format!("the target takes no requests yet: {reason}"));
                self.note_worker(life, now, kind, EventSeverity::Info, summary, serde_json::json!({}));
            }
            FromWorker::EngineFailed { reason, oom } => (child.complaint, child.oom_told) = (Some(reason), oom),
            FromWorker::Stopped => {}
        }
    }

    fn take_loaded(&mut self, id: ChildId, life: Life, loaded: &Loaded, now: Now) {
        let Loaded { model, backend, took_ms, shape, types, .. } = loaded;
        let summary = match backend.as_str() {
            "none" => format!("{id} is {model}, ready after {took_ms} ms: {shape}; {types}"), // a target
            _ => format!("{id} loaded {model} on {backend} in {took_ms} ms: {shape}; {types}"),
        };
        let detail = serde_json::to_value(loaded).unwrap_or_default();
        self.note_worker(life, now, EventKind::ProcessStarted, EventSeverity::Info, summary, detail);
        if let Some(why) = &loaded.fallback {
            let summary = format!("{id} runs on {} instead of the back end asked for: {why}", loaded.backend);
            let detail = serde_json::json!({ "backend": loaded.backend });
            self.note_worker(life, now, EventKind::BackendFallback, EventSeverity::Warning, summary, detail);
        }
    }

    fn take_work(&mut self, id: ChildId, life: Life, reading: WorkReading, now: Now) {
        let Some(child) = self.find(id, life) else { return };
        let before = std::mem::replace(&mut child.work, reading);
        let incarnations = child.incarnations;
        self.work.add(id, now.mono, reading.tokens - before.tokens, reading.requests - before.requests);
        let segment = self.ledger.process(life).map_or(incarnations, |row| row.incarnation as u32);
        let requests = Some(reading.requests as f64);
        let whose = Whose { role: id.role, ordinal: id.ordinal, segment, requests };
        self.watch.work(whose, now.wall, &reading);
        self.ledger.sample_work(life, now, reading);
    }

    fn take_latencies(&mut self, life: Life, reports: Vec<LatencyReport>, so_far: bool, now: Now) {
        let Some(row) = self.ledger.process(life) else { return };
        let intervals = reports.into_iter().map(|report| LatencyInterval {
            process_id: row.process_id,
            from: UnixMillis(now.wall.0 - report.interval_ms),
            interval_ms: report.interval_ms,
            kind: report.kind,
            count: report.count as i64,
            p50_us: report.p50_us as i64,
            p95_us: report.p95_us as i64,
            p99_us: report.p99_us as i64,
            max_us: report.max_us as i64,
            histogram: report.histogram,
        });
        self.ledger.latencies(row.process_id, intervals.collect(), so_far);
    }

    fn take_golden(&mut self, life: Life, output: GoldenOutput, now: Now) {
        let golden = Golden {
            backend: output.backend.clone(),
            prompt: i64::from(output.prompt),
            tokens: output.tokens.clone(),
            hash: output.hash,
        };
        self.ledger.put(Entry::Golden { golden, at: now.wall });
        self.golden.push(output);
        if self.golden.len() as i64 == self.config.model.prompts {
            let summary =
                format!("the outputs of all {} prompts are recorded; every later loop is compared", self.golden.len());
            self.note_worker(life, now, EventKind::GoldenRecorded, EventSeverity::Info, summary, serde_json::json!({}));
        }
    }

    /// A model that cannot even be loaded the first time is a mistake of whoever started the run: say so at once.
    fn take_refusal(&mut self, id: ChildId, life: Life, reason: String, now: Now, out: &mut Vec<Effect>) {
        if let Some(child) = self.find(id, life) {
            child.complaint = Some(reason.clone());
        }
        if !self.worker_ready && !self.resumed {
            self.refused = Some(reason);
            self.step_run(RunEvent::WorkerGivenUp, now, out);
        }
    }

    fn note_worker(
        &mut self,
        life: Life,
        now: Now,
        kind: EventKind,
        severity: EventSeverity,
        summary: String,
        detail: serde_json::Value,
    ) {
        self.counts.add(kind);
        self.tell_of_worker(life, now, kind, severity, summary, detail);
    }

    /// The same of what is counted already.
    pub(super) fn tell_of_worker(
        &mut self,
        life: Life,
        now: Now,
        kind: EventKind,
        severity: EventSeverity,
        summary: String,
        detail: serde_json::Value,
    ) {
        if severity != EventSeverity::Info {
            tracing::warn!(run = self.ledger.run_id(), kind = kind.as_str(), "{summary}");
        }
        self.ledger.note_of(Some(life), now.wall, kind, severity, summary, detail);
    }

    pub(super) fn load_plan(&self, ordinal: u32) -> LoadPlan {
        let (model, run) = (&self.config.model, &self.config.run);
        let scenario = match run.scenario {
            ConfiguredScenario::Steady => Scenario::Steady,
            ConfiguredScenario::Churn => Scenario::Churn { every_ms: self.config.churn.every.as_millis() as u64 },
            ConfiguredScenario::Burst => Scenario::Burst {
                busy_ms: self.config.burst.on.as_millis() as u64,
                idle_ms: self.config.burst.off.as_millis() as u64,
            },
        };
        LoadPlan {
            backend: model.backend.as_str().to_owned(),
            fallback_to_cpu: model.fallback_to_cpu,
            model: model.model.clone(),
            variant: model.variant.as_str().to_owned(),
            streams: model.streams as usize,
            context_tokens: model.context() as usize,
            threads: model.threads.unwrap_or(0) as usize,
            device: ordinal,
            seed: run.seed as u64,
            prompts: model.prompts as u32,
            prompt_tokens: model.prompt_tokens as u32,
            answer_tokens: model.answer_tokens as u32,
            scenario,
            beat_ms: self.config.worker.heartbeat.as_millis() as u64,
            golden: self.golden.clone(),
            target: self
                .config
                .target
                .is_set()
                .then(|| target_plan(&self.config.target, self.config.worker.start_timeout)),
        }
    }
}

/// A target as its keeper is told of it.
#[must_use]
pub fn target_plan(target: &Target, start_timeout: std::time::Duration) -> TargetPlan {
    TargetPlan {
        command: target.command.clone(),
        pid: target.pid.map(|pid| pid as i32),
        unit: target.unit.clone(),
        load: target.load.clone(),
        model: target.model.clone(),
        rate_per_s: target.rate_per_s,
        golden: target.golden,
        stall_ms: millis(target.stall).unsigned_abs(),
        lengths: target.lengths,
        prompts_file: target.prompts_file.clone(),
        ca_file: target.ca_file.clone(),
        api_key_file: target.api_key_file.clone(),
        start_timeout_ms: millis(start_timeout).unsigned_abs(),
    }
}

/// The process id of a child while there is a process whose start is recorded.
fn live_pid(child: &Child) -> Option<i32> {
    child.pid.filter(|_| child.state.has_process() && child.life.is_some())
}
