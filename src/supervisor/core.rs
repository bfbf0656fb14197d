//! The decisions: an event and the time go in, effects come out. The only IO is the store's.
//!
//! Whatever happens is turned into rows first and into effects afterwards: [`Core::apply`] writes what it queued before it
//! returns. That, and time as an argument, is what lets a simulation drive 48 hours through it in seconds. This file
//! holds the run; its children are kept in `keeping`, readings taken in `intake`, the end of a run in `closing`.

use super::alarms::Alarms;
use super::children::Child;
use super::closing::Closing;
use super::event::{Effect, Event, LastWords, Life};
use super::intake::ProbeTalk;
use super::keeping::probe_policy;
use super::ledger::{Entry, Ledger};
use super::roles::{self, Roles};
use super::tally::{Counts, Work};
use super::watch::{Judgement, Look, Watch, judge};
use crate::analysis::Params;
use crate::config::{Config, MailerRunsAs, Transport};
use crate::lifecycle::child::{self, ChildEvent, ChildState, Policy};
use crate::lifecycle::run::{self, Phase, RunEffect, RunEvent, TimeFact, Timekeeper};
use crate::model::event::{EventKind, EventSeverity};
use crate::model::process::NewProcess;
use crate::model::run::RunEnd;
use crate::model::sample::Role;
use crate::model::time::{MonoMillis, Now, UnixMillis};
use crate::rules::Moment;
use crate::worker::heap::trim_heap;
use crate::worker::protocol::{GoldenOutput, Sabotage, ToWorker};

/// Signs of life in the database; the mailer misses them after two minutes by default.
const HEARTBEAT_MS: i64 = 10_000;
/// Looks and rules weigh things in megabytes that nobody needs afterwards. What the allocator keeps of them is given back this often:
/// there is more to weigh as a run grows old, and the watcher must not look as if it leaked.
const TRIM_MS: i64 = 60_000;
/// The supervisor's own incarnation.
pub(super) const OURSELVES: Life = Life(0);

/// What a core begins with.
#[derive(Debug)]
pub struct Beginning {
    /// The configuration.
    pub config: Config,
    /// The open database and the run's row in it.
    pub ledger: Ledger,
    /// Uptime served before, milliseconds.
    pub served_ms: i64,
    /// Whether this is a run that was begun by an earlier supervisor.
    pub resumed: bool,
    /// The verdict it has already: nothing is soaked, and that is told.
    pub ended: Option<RunEnd>,
    /// Golden outputs recorded before.
    pub golden: Vec<GoldenOutput>,
    /// Counts of before.
    pub counts: Counts,
    /// Series with the points of before.
    pub watch: Watch,
    /// Roles of the target that were named before.
    pub roles: Roles,
    /// Our own process id.
    pub pid: i32,
    /// Time.
    pub now: Now,
    /// How long the host has been suspended since boot, milliseconds.
    pub suspended_ms: i64,
    /// Damage on purpose: uptime from which on, milliseconds, and what.
    pub sabotage: Vec<(i64, Sabotage)>,
    /// The alert rules in force.
    pub alarms: Alarms,
}

/// The canary's part in the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CanaryState {
    /// There is none in this run.
    Absent,
    /// It leaks, and has not been found yet.
    Pending,
    /// It was found.
    Found,
    /// It should have been found by now, and was not.
    Missed,
}

/// All that the supervisor knows.
#[derive(Debug)]
pub struct Core {
    /// First, for its reader must be closed before the store, which then can put the WAL away.
    pub(super) alarms: Alarms,
    pub(super) config: Config,
    pub(super) params: Params,
    pub(super) ledger: Ledger,
    pub(super) children: Vec<Child>,
    pub(super) watch: Watch,
    pub(super) roles: Roles,
    pub(super) looks: Vec<Look>,
    pub(super) keeper: Timekeeper,
    pub(super) phase: Phase,
    pub(super) resumed: bool,
    pub(super) golden: Vec<GoldenOutput>,
    pub(super) counts: Counts,
    pub(super) work: Work,
    pub(super) probe: ProbeTalk,
    pub(super) canary: CanaryState,
    pub(super) refused: Option<String>,
    pub(super) judgement: Option<Judgement>,
    pub(super) unwritten: Option<String>,
    pub(super) closing: Option<Closing>,
    pub(super) workers_planned: bool,
    pub(super) worker_ready: bool,
    /// Of the unit under soak, if it is one.
    pub(super) target_cgroup: Option<std::path::PathBuf>,
    /// Of the host, for beats; empty if it cannot be told.
    boot: String,
    sabotage: Vec<(i64, Sabotage)>,
    /// The incarnation that was told to end itself; it is told nothing more.
    sabotaged: Option<Life>,
    pub(super) lives: u64,
    began: MonoMillis,
    look_at: MonoMillis,
    rules_at: MonoMillis,
    trim_at: MonoMillis,
    pub(super) heartbeat_at: MonoMillis,
}

impl Core {
    /// A supervisor with nothing started yet; the first tick starts it.
    #[must_use]
    pub fn new(beginning: Beginning) -> Core {
        let Beginning { config, mut ledger, now, .. } = beginning;
        let process = NewProcess {
            run_id: ledger.run_id(),
            role: Role::Supervisor,
            ordinal: 0,
            pid: i64::from(beginning.pid),
            name: None,
            started: now.wall,
        };
        ledger.put(Entry::Started { life: OURSELVES, process });
        let ended = beginning.ended.as_ref().and_then(|end| Some((end, run::EndCause::of(end.state)?)));
        let mut children = Vec::new();
        if ended.is_none() {
            children.push(Child::new(Role::Probe, 0, probe_policy(&config), now.mono));
        }
        if config.mailer.runs_as == MailerRunsAs::Child && config.mail.transport != Transport::None {
            children.push(Child::new(Role::Mailer, 0, Policy::HELPER, now.mono));
        }
        if config.canary.enabled && ended.is_none() {
            children.push(Child::new(Role::Canary, 0, Policy::HELPER, now.mono));
        }
        let canary = beginning.counts.canary().unwrap_or(match config.canary.enabled {
            true => CanaryState::Pending,
            false => CanaryState::Absent,
        });
        Core {
            params: params(&config),
            children,
            watch: beginning.watch,
            roles: beginning.roles,
            looks: Vec::new(),
            keeper: Timekeeper::new(now, beginning.suspended_ms, beginning.served_ms),
            phase: ended.map_or(Phase::Soaking, |(_, cause)| Phase::Over { cause }),
            resumed: beginning.resumed,
            golden: beginning.golden,
            counts: beginning.counts,
            work: Work::default(),
            probe: ProbeTalk::new(beginning.pid, now),
            canary,
            refused: None,
            judgement: ended.map(|(end, _)| Judgement { verdict: end.verdict, reason: end.reason.clone() }),
            unwritten: None,
            closing: ended.map(|_| Closing::begin(now)),
            workers_planned: false,
            worker_ready: false,
            target_cgroup: config.target.unit.as_deref().and_then(|unit| crate::target::kept::unit_cgroup(unit).ok()),
            boot: crate::probe::host::boot(),
            sabotage: beginning.sabotage,
            sabotaged: None,
            lives: 0,
            began: now.mono,
            look_at: now.mono.plus(millis(config.run.look_every)),
            rules_at: now.mono.plus(millis(config.alerts.evaluate_every)),
            trim_at: now.mono.plus(TRIM_MS),
            alarms: beginning.alarms,
            heartbeat_at: now.mono,
            ledger,
            config,
        }
    }

    /// Decides. What has to be on the disk is there when this returns, unless the disk is full.
    pub fn apply(&mut self, event: Event, now: Now) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Tick { suspended_ms } => self.tick(suspended_ms, now, &mut out),
            Event::Spawned { child, life, pid, oom_kills } => self.spawned(child, life, pid, oom_kills, now, &mut out),
            Event::NotSpawned { child, life, why } => {
                let words = LastWords { stderr_tail: why, ..LastWords::default() };
                self.exited(child, life, &words, now, &mut out);
            }
            Event::Worker { child, life, message } => self.heard_worker(child, life, message, now, &mut out),
            Event::Probe { life, message } => self.heard_probe(life, message, now, &mut out),
            Event::Garbled { child, life, error } => {
                let summary = format!("{child}: {error}");
                let (kind, severity) = (EventKind::ProtocolFault, EventSeverity::Warning);
                self.ledger.note_of(Some(life), now.wall, kind, severity, summary, serde_json::json!({}));
                self.step_life(child, life, ChildEvent::Misbehaved, now, &mut out);
            }
            Event::Exited { child, life, words } => self.exited(child, life, &words, now, &mut out),
            Event::OrphanKilled { pid, name } => {
                let summary = format!("{name} (pid {pid}) outlived the process that had started it and was killed");
                self.note(now, EventKind::OrphanKilled, EventSeverity::Warning, summary);
            }
            Event::Fallback { readings } => self.take_fallback(&readings, now),
            Event::AskedToEnd => {
                self.note(now, EventKind::Note, EventSeverity::Info, "asked to end the run early".to_owned());
                self.step_run(RunEvent::Asked, now, &mut out);
            }
            Event::HostGoesDown => {
                let summary = "the host is being shut down; the next boot goes on with this run".to_owned();
                self.note(now, EventKind::HostShutdown, EventSeverity::Info, summary);
                self.step_run(RunEvent::HostGoesDown, now, &mut out);
            }
            Event::AskedToReload => self.reload_rules(now),
        }
        self.ledger.flush(now);
        out
    }

    /// Nobody has watched for a while. A tick must come before whatever else has happened, which would be taken for late.
    #[must_use]
    pub fn is_behind(&self, now: Now) -> bool {
        self.keeper.is_behind(now)
    }

    /// How often to tick: once a second, or as often as samples are asked for.
    #[must_use]
    pub fn tick_interval(&self) -> std::time::Duration {
        self.config.run.sample_interval.min(std::time::Duration::from_secs(1))
    }

    /// True once the run is ending: ticks should come faster, for children end in milliseconds.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.phase != Phase::Soaking
    }

    fn tick(&mut self, suspended_ms: i64, now: Now, out: &mut Vec<Effect>) {
        for fact in self.keeper.tick(now, suspended_ms) {
            self.take_time(fact, now);
        }
        if !self.workers_planned && now.mono.since(self.began) > millis(self.config.probe.hang_after) {
            self.plan_workers(None, now); // a probe that does not answer does not hold up the run
        }
        for index in 0..self.children.len() {
            self.step_child(index, ChildEvent::Tick, &LastWords::default(), now, out);
        }
        self.sum_up_mismatches(|_| false, now);
        self.ask_probe(now, out);
        self.ledger.flush_samples(now);
        if now.mono >= self.heartbeat_at {
            self.beat(now);
        }
        if self.phase == Phase::Soaking {
            self.sabotage_if_due(now, out);
            if now.mono >= self.look_at {
                self.look_at = now.mono.plus(millis(self.config.run.look_every));
                self.look(now, out);
            }
        }
        if self.closing.is_none() && now.mono >= self.rules_at {
            self.rules_at = now.mono.plus(millis(self.config.alerts.evaluate_every));
            self.evaluate_rules(now, Moment::Regular);
        }
        self.await_past(now);
        // Served, but for what is still read back of it: its verdict is one on all of it.
        if self.watch.is_caught_up() || self.phase != Phase::Soaking {
            self.step_run(RunEvent::Tick { uptime_ms: self.keeper.uptime_ms() }, now, out);
        }
        self.close_if_ready(now, out);
        if now.mono >= self.trim_at {
            self.trim_at = now.mono.plus(TRIM_MS);
            trim_heap();
        }
    }

    pub(super) fn beat(&mut self, now: Now) {
        self.heartbeat_at = now.mono.plus(HEARTBEAT_MS);
        self.say_alive(now, true);
    }

    /// A sign of life in the database; unless another `is_expected`, the last one.
    pub(super) fn say_alive(&mut self, now: Now, is_expected: bool) {
        let silence_ms = HEARTBEAT_MS + millis(self.config.mailer.supervisor_silent_after);
        let expects = is_expected.then_some(UnixMillis(now.wall.0 + silence_ms));
        let (run_id, boot) = (Some(self.ledger.run_id()), &self.boot);
        let beaten = self.ledger.store().record(|to| {
            to.heartbeat("supervisor", now.wall, run_id, expects)?;
            if boot.is_empty() { Ok(()) } else { to.heartbeat_clock("supervisor", boot, now.mono) }
        });
        if let Err(error) = beaten {
            tracing::debug!("heartbeat: {error}"); // samples meet the same error and say it loudly
        }
    }

    fn take_time(&mut self, fact: TimeFact, now: Now) {
        match fact {
            // What comes after the end is no time of the run. A host that slept has given its helpers no time to end, though.
            TimeFact::ClockStep { .. } if self.closing.is_some() => {}
            TimeFact::Unwatched { ms, .. } if self.closing.is_some() => {
                self.closing = self.closing.map(|closing| Closing { until: closing.until.plus(ms), ..closing });
            }
            TimeFact::Late { ms } => self.forgive(ms, now),
            TimeFact::ClockStep { by_ms } => {
                let summary = format!(
                    "the wall clock stepped by {:+.1} s; durations are measured on the monotonic clock",
                    by_ms as f64 / 1e3
                );
                let detail = serde_json::json!({ "by_ms": by_ms });
                self.ledger.note_of(None, now.wall, EventKind::ClockStep, EventSeverity::Warning, summary, detail);
                self.heartbeat_at = now.mono; // once that is written: a restart must not find the same step again
            }
            TimeFact::Unwatched { from, ms, suspended_ms } => {
                let suspended = suspended_ms * 2 > ms;
                let (kind, reason, what) = if suspended {
                    (EventKind::Suspend, "suspend", "the host was suspended")
                } else {
                    (EventKind::SamplingGap, "stalled", "soakd was not given the CPU, or waited for the disk")
                };
                let summary = format!("nothing was watched for {:.1} s: {what}", ms as f64 / 1e3);
                self.note(now, kind, EventSeverity::Warning, summary);
                self.ledger.put(Entry::Gap { from, to: now.wall, reason });
                self.probe.unwatched(ms);
            }
        }
    }

    /// Silence while nobody listened proves nothing.
    fn forgive(&mut self, ms: i64, now: Now) {
        for child in &mut self.children {
            child.state = child::step(child.state, ChildEvent::Unwatched { ms }, now.mono, &child.policy).0;
        }
    }

    pub(super) fn step_run(&mut self, event: RunEvent, now: Now, out: &mut Vec<Effect>) {
        let duration_ms = millis(self.config.run.duration);
        let (phase, effects) = run::step(self.phase, event, now.mono, duration_ms);
        self.phase = phase;
        for effect in effects {
            match effect {
                RunEffect::StopChildren => self.stop(&[Role::Worker, Role::Canary], now, out),
                RunEffect::Finish(cause) => self.finish(cause, now),
            }
        }
    }

    /// Looks at every series: findings are stored, new alarms become events.
    pub(super) fn look(&mut self, now: Now, out: &mut Vec<Effect>) {
        if !self.watch.is_caught_up() {
            return;
        }
        self.looks = self.watch.look();
        let findings = self.looks.iter().map(|l| (l.key, l.judged, l.finding.clone())).collect();
        self.ledger.put(Entry::Findings { at: now.wall, is_final: false, findings });
        let rang: Vec<Look> = self.looks.iter().filter(|look| look.rang).cloned().collect();
        for look in rang {
            self.take_alarm(&look, now, out);
        }
        self.watch_canary(now);
        let judgement = judge(&self.looks, self.params, self.blind().as_deref());
        let before = self.judgement.as_ref().map(|judgement| judgement.verdict);
        if before != Some(judgement.verdict) {
            let (kind, severity) = (EventKind::VerdictChanged, EventSeverity::Info);
            let summary = format!("verdict so far: {} ({})", judgement.verdict.as_str(), judgement.reason);
            self.note(now, kind, severity, summary);
        }
        self.judgement = Some(judgement);
    }

    fn take_alarm(&mut self, look: &Look, now: Now, out: &mut Vec<Effect>) {
        if look.key.role == Some(Role::Canary) {
            return; // that is what it is for
        }
        let finding = &look.finding;
        let each = finding.slope_bytes_per_request.map_or_else(String::new, |b| format!(", {b:.0} bytes a request"));
        let since = finding
            .onset_unix_s
            .map_or_else(String::new, |onset| format!(" since about {}", crate::report::scale::minute(onset)));
        let beside = finding
            .load_swing_bytes
            .map_or_else(String::new, |swing| format!("; {:.1} MB come and go with the requests besides", swing / 1e6));
        let summary = format!(
            "{} drifts by {} over the horizon (95 % interval {} to {}), {} shape{since}{each}{beside}",
            look.title(),
            super::watch::signed_megabytes(finding.drift_bytes),
            super::watch::signed_megabytes(finding.drift_ci95_bytes[0]),
            super::watch::signed_megabytes(finding.drift_ci95_bytes[1]),
            finding.shape.as_str()
        );
        let detail = serde_json::json!({ "series": look.key.to_string(), "judged": look.judged });
        let severity = if look.judged { EventSeverity::Error } else { EventSeverity::Warning };
        self.ledger.note_of(None, now.wall, EventKind::DriftAlarm, severity, summary, detail);
        if look.key.role == Some(Role::Worker) {
            // What remains after the allocator gave back what it hoards is held by the program.
            let workers =
                self.children.iter().filter(|c| c.id.role == Role::Worker && c.id.ordinal == look.key.ordinal);
            out.extend(workers.filter_map(|c| c.life).map(|life| Effect::ToWorker { life, order: ToWorker::Trim }));
        }
    }

    fn watch_canary(&mut self, now: Now) {
        if self.canary != CanaryState::Pending {
            return;
        }
        let found = self.looks.iter().any(|look| look.key.role == Some(Role::Canary) && look.finding.alarmed);
        let due = self.keeper.uptime_ms() >= millis(self.config.canary.found_within);
        if found {
            self.canary = CanaryState::Found;
            let summary = "the canary's leak was found: the detector sees".to_owned();
            self.note(now, EventKind::CanaryFound, EventSeverity::Info, summary);
        } else if due {
            self.canary = CanaryState::Missed;
            let summary =
                "the canary leaks on purpose and was not found in time: this run is blind to leaks of its size";
            self.note(now, EventKind::CanaryMissed, EventSeverity::Error, summary.to_owned());
        }
    }

    pub(super) fn blind(&self) -> Option<String> {
        let missed = "the canary's leak was not found in time, so the detector cannot be trusted in this run";
        (self.canary == CanaryState::Missed).then(|| missed.to_owned()).or_else(|| self.watch.past_unknown())
    }

    /// Says once that the past has been read back, or that it cannot be.
    fn await_past(&mut self, now: Now) {
        if !self.watch.try_catch_up() {
            return;
        }
        match self.watch.past_unknown() {
            None => tracing::info!("what run {} has seen before is read back", self.ledger.run_id()),
            Some(why) => self.note(now, EventKind::StoreFault, EventSeverity::Error, why),
        }
    }

    fn sabotage_if_due(&mut self, now: Now, out: &mut Vec<Effect>) {
        let uptime = self.keeper.uptime_ms();
        let ready = |c: &&Child| c.id.role == Role::Worker && matches!(c.state, ChildState::Running { .. });
        let Some(life) = self.children.iter().find(ready).and_then(|c| c.life) else { return };
        // Wrong results are only wrong once the right ones are known.
        let known = self.golden.len() as i64 >= self.config.model.prompts;
        let needs_golden = |what: &Sabotage| matches!(what, Sabotage::CorruptToken | Sabotage::FlipWeight);
        let due = |(at, what): &(i64, Sabotage)| *at <= uptime && (known || !needs_golden(what));
        if self.sabotaged == Some(life) {
            return; // it is about to end: what comes next is for its successor
        }
        if let Some(index) = self.sabotage.iter().position(due) {
            let (_, what) = self.sabotage.remove(index);
            let survives = Sabotage::CorruptToken == what
                || matches!(what, Sabotage::FlipWeight | Sabotage::FloodStderr { .. })
                || matches!(what, Sabotage::Leak { .. } | Sabotage::LeakDevice { .. });
            if !survives {
                self.sabotaged = Some(life);
            }
            let detail = serde_json::json!({ "sabotage": what });
            let summary = format!("damage on purpose: {what:?}");
            let (kind, severity) = (EventKind::Note, EventSeverity::Info);
            self.ledger.note_of(Some(life), now.wall, kind, severity, summary, detail);
            out.push(Effect::ToWorker { life, order: ToWorker::Sabotage(what) });
        }
    }

    pub(super) fn note(&mut self, now: Now, kind: EventKind, severity: EventSeverity, summary: String) {
        self.counts.add(kind);
        if severity != EventSeverity::Info {
            tracing::warn!(run = self.ledger.run_id(), kind = kind.as_str(), "{summary}");
        }
        self.ledger.note(now.wall, kind, severity, summary);
    }
}

/// A duration of the configuration as milliseconds of either clock.
pub(super) fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The question that every series of a run is asked.
#[must_use]
pub fn params(config: &Config) -> Params {
    // Judged series: worker (RssAnon + VmSwap, its own count, and VRAM), and RssAnon + VmSwap of supervisor, probe and
    // mailer, and one device: seven for a run with one GPU. The chance of a false alarm is shared among all of them, and
    // with the roles of a target, if there is one.
    let roles = if config.target.is_set() { roles::ROLES_MAX as u32 } else { 0 };
    Params {
        tolerance_bytes: config.run.tolerance_bytes as f64,
        horizon_s: config.run.horizon.as_secs_f64(),
        series_count: 8 + roles,
    }
}
