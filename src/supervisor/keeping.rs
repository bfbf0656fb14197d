//! The run's children from their planning to their end: what the state machines of `lifecycle` say is written down and handed
//! on as effects. What they say themselves is taken in by `intake`, how their ends are told is `children`'s.

use super::children::{self, Child};
use super::core::{Core, millis};
use super::event::{ChildId, Effect, EndOf, LastWords, Life};
use super::ledger::Entry;
use crate::config::Config;
use crate::lifecycle::child::{self, ChildEffect, ChildEvent, Policy};
use crate::lifecycle::run::{self, Phase, RunEvent};
use crate::model::event::{EventKind, EventSeverity};
use crate::model::process::{EndReason, NewProcess};
use crate::model::sample::Role;
use crate::model::time::Now;
use crate::worker::protocol::ToWorker;

impl Core {
    /// One worker a GPU, or one on the CPU. Called with the GPUs that the probe saw, or `None` if it did not say.
    pub(super) fn plan_workers(&mut self, gpus: Option<u32>, now: Now) {
        use crate::config::{Backend, Devices};
        if std::mem::replace(&mut self.workers_planned, true) || self.phase != Phase::Soaking {
            return;
        }
        if self.config.target.is_set() {
            self.children.push(Child::new(Role::Worker, 0, worker_policy(&self.config), now.mono));
            return;
        }
        let ordinals: Vec<u32> = match (self.config.model.backend, &self.config.model.devices) {
            (Backend::Cpu, _) => vec![0],
            (_, Devices::These(ordinals)) => ordinals.clone(),
            (_, Devices::All) => (0..gpus.unwrap_or(1).max(1)).collect(),
        };
        for ordinal in ordinals {
            self.children.push(Child::new(Role::Worker, ordinal, worker_policy(&self.config), now.mono));
        }
    }

    pub(super) fn spawned(
        &mut self,
        child: ChildId,
        life: Life,
        pid: i32,
        oom_kills: Option<i64>,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        let run_id = self.ledger.run_id();
        let Some(child) = self.find(child, life) else { return };
        child.pid = Some(pid);
        child.recorded = true;
        child.oom_kills = oom_kills;
        let (role, ordinal) = (child.id.role, child.id.ordinal);
        let process = NewProcess { run_id, role, ordinal, pid: i64::from(pid), name: None, started: now.wall };
        self.ledger.put(Entry::Started { life, process });
        match role {
            Role::Worker => {
                let plan = Box::new(self.load_plan(ordinal));
                out.push(Effect::ToWorker { life, order: ToWorker::Load(plan) });
            }
            Role::Probe => out.push(self.greet_probe(life)),
            _ => self.step_life(ChildId { role, ordinal }, life, ChildEvent::Ready, now, out),
        }
    }

    pub(super) fn exited(&mut self, child: ChildId, life: Life, words: &LastWords, now: Now, out: &mut Vec<Effect>) {
        let Some(index) = self.children.iter().position(|c| c.id == child && c.life == Some(life)) else {
            return; // abandoned long ago
        };
        let event = if words.is_fault() { ChildEvent::Died } else { ChildEvent::Exited };
        self.step_child(index, event, words, now, out);
    }

    /// The child of this incarnation, unless it is another by now.
    pub(super) fn find(&mut self, child: ChildId, life: Life) -> Option<&mut Child> {
        self.children.iter_mut().find(|c| c.id == child && c.life == Some(life))
    }

    pub(super) fn step_life(&mut self, child: ChildId, life: Life, event: ChildEvent, now: Now, out: &mut Vec<Effect>) {
        if let Some(index) = self.children.iter().position(|c| c.id == child && c.life == Some(life)) {
            self.step_child(index, event, &LastWords::default(), now, out);
        }
    }

    pub(super) fn step_child(
        &mut self,
        index: usize,
        event: ChildEvent,
        words: &LastWords,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        let child = &mut self.children[index];
        let (state, effects) = child::step(child.state, event, now.mono, &child.policy);
        child.state = state;
        for effect in effects {
            self.perform(index, effect, words, now, out);
        }
    }

    fn perform(&mut self, index: usize, effect: ChildEffect, words: &LastWords, now: Now, out: &mut Vec<Effect>) {
        let child = &mut self.children[index];
        match effect {
            ChildEffect::Spawn => {
                let life = self.next_life();
                let child = &mut self.children[index];
                child.begin(life, now.mono);
                out.push(Effect::Spawn { child: child.id, life });
            }
            ChildEffect::AskToStop => {
                let Some(life) = child.life else { return };
                out.push(match child.id.role {
                    Role::Worker => Effect::ToWorker { life, order: ToWorker::Stop },
                    Role::Probe | Role::Canary => Effect::CloseStdin { life },
                    _ => Effect::AskToLeave { life },
                });
            }
            ChildEffect::Kill(_) => out.extend(child.life.map(|life| Effect::Kill { life })),
            ChildEffect::Ended { reason, restart_in_ms } => {
                // Who was watched by process id and is gone comes back under another one, if at all.
                let child = &self.children[index];
                let gone =
                    self.config.target.pid.is_some() && child.id.role == Role::Worker && child.complaint.is_some();
                let gone = gone && self.phase == Phase::Soaking;
                self.ended(index, reason, restart_in_ms.filter(|_| !gone), words, now);
                if gone {
                    self.step_run(RunEvent::WorkerGivenUp, now, out);
                }
            }
            ChildEffect::GiveUp { failures } => {
                let summary = format!(
                    "{} is given up: it ended {failures} times in a row within {} s of its start",
                    child.id,
                    child.policy.stable_ms / 1_000
                );
                self.note(now, EventKind::CrashLoop, EventSeverity::Error, summary);
                self.step_run(RunEvent::WorkerGivenUp, now, out);
            }
        }
    }

    fn ended(&mut self, index: usize, reason: EndReason, restart_in_ms: Option<i64>, words: &LastWords, now: Now) {
        let ending = self.is_ending();
        let id = self.children[index].id;
        self.sum_up_mismatches(|child| child.id == id, now);
        let child = &mut self.children[index];
        let Some(life) = child.life.take() else { return };
        let is_target = child.id.role == Role::Worker && self.config.target.is_set();
        let reason = if child.was_oom(words, reason) { EndReason::Oom } else { reason };
        // An end while the run ends is what was asked for, unless it is the work that fails.
        let reason = if ending && child.id.role != Role::Worker { EndReason::Clean } else { reason };
        let end = child.end(now.wall, reason, words);
        let story = children::story(child, reason, words, restart_in_ms);
        let (recorded, moved, target) = (child.recorded, child.moved, child.target.clone());
        if recorded {
            self.ledger.put(Entry::Ended(EndOf { life, end: end.clone() }));
        }
        if let Some((kind, severity, summary)) = story {
            let detail = serde_json::json!({
                "end_reason": reason.as_str(),
                "exit_code": words.exit_code,
                "exit_signal": words.exit_signal,
                "stderr_tail": end.stderr_tail,
                "heartbeat_unix_ms": end.heartbeat.map(|at| at.0),
                "rss_bytes_at_end": end.rss_bytes,
                "anon_swap_bytes_at_end": end.anon_swap_bytes,
                "vram_bytes_at_end": end.vram_bytes,
                "restart_in_ms": restart_in_ms,
                "target_pid": target.as_ref().map(|target| target.pid),
                "target_name": target.as_ref().map(|target| &target.name),
                "since_unix_ms": moved.filter(|_| reason == EndReason::Hang).map(|at| at.0),
            });
            self.counts.add(kind);
            tracing::warn!(run = self.ledger.run_id(), kind = kind.as_str(), process = %child.id, end = reason.as_str(), "{summary}");
            self.ledger.note_of(recorded.then_some(life), now.wall, kind, severity, summary, detail);
        }
        if is_target {
            self.end_roles(now);
        }
    }

    /// A number for the next process.
    pub(super) fn next_life(&mut self) -> Life {
        self.lives += 1;
        Life(self.lives)
    }

    /// Asks children of these roles to end.
    pub(super) fn stop(&mut self, roles: &[Role], now: Now, out: &mut Vec<Effect>) {
        for index in 0..self.children.len() {
            if roles.contains(&self.children[index].id.role) {
                self.step_child(index, ChildEvent::Stop, &LastWords::default(), now, out);
            }
        }
    }

    /// True when no process of these roles is left.
    pub(super) fn are_gone(&self, roles: &[Role]) -> bool {
        self.children.iter().all(|child| !roles.contains(&child.id.role) || !child.state.has_process())
    }
}

fn worker_policy(config: &Config) -> Policy {
    let worker = &config.worker;
    Policy {
        start_timeout_ms: millis(worker.start_timeout),
        silence_timeout_ms: millis(worker.hang_after),
        stop_timeout_ms: millis(worker.stop_timeout).min(run::ENDING_MS - 1_000),
        abandon_timeout_ms: Policy::WORKER.abandon_timeout_ms,
        backoff_min_ms: millis(worker.backoff_min),
        backoff_max_ms: millis(worker.backoff_max),
        stable_ms: millis(worker.healthy_after),
        failures_max: u32::try_from(worker.crash_loop_limit).ok(),
    }
}

pub(super) fn probe_policy(config: &Config) -> Policy {
    Policy { silence_timeout_ms: millis(config.probe.hang_after), ..Policy::PROBE }
}
