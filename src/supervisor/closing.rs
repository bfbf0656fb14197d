//! The end of a run: last look, verdict, the mail that tells it, and a moment for the mailer to deliver it.
//!
//! The order matters. Workers end first, so that their last samples count; then the verdict is written; then the mailer
//! may empty the outbox, for a few seconds and no longer: what it does not manage stays in the database for the next one.

use super::core::{CanaryState, Core, millis};
use super::event::Effect;
use super::ledger::Entry;
use super::watch::{Judgement, Look, judge};
use crate::lifecycle::run::{EndCause, Phase, RunEvent};
use crate::model::finding::Verdict;
use crate::model::run::{RunEnd, RunState};
use crate::model::sample::Role;
use crate::model::time::{MonoMillis, Now};
use crate::rules::Moment;
use crate::store::OutboxCounts;

/// How long the mailer may take to empty the outbox after the verdict.
const MAILING_MS: i64 = 2_500;

/// Where a run stands, for people who watch it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The run's row.
    pub run_id: i64,
    /// Watched so far, milliseconds.
    pub uptime_ms: i64,
    /// Planned, milliseconds.
    pub duration_ms: i64,
    /// What soaks.
    pub what: String,
    /// In a few words: `loading the model`, `soaking`, `ending`.
    pub doing: &'static str,
    /// Tokens per second over the last ten seconds.
    pub tokens_per_second: Option<f64>,
    /// Every series with the last finding.
    pub looks: Vec<Look>,
    /// The first worker's RSS, bytes.
    pub worker_rss_bytes: Option<i64>,
    /// The first worker's RssAnon + VmSwap, bytes.
    pub worker_anon_swap_bytes: Option<i64>,
    /// Our own RSS, bytes.
    pub own_rss_bytes: Option<i64>,
    /// The verdict so far.
    pub judgement: Option<Judgement>,
    /// Workers that died unasked.
    pub crashes: i64,
    /// Workers that hung.
    pub hangs: i64,
    /// Outputs that differed from the golden ones, or were not there.
    pub mismatches: i64,
    /// Alerts that fire now, and that fired in this run.
    pub alerts: (i64, i64),
    /// Nothing can be written now.
    pub is_disk_in_trouble: bool,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The run's row.
    pub run_id: i64,
    /// As stored.
    pub state: RunState,
    /// The verdict, and why.
    pub judgement: Judgement,
    /// Every series with its final finding.
    pub looks: Vec<Look>,
    /// Watched, milliseconds.
    pub uptime_ms: i64,
    /// Workers that died unasked.
    pub crashes: i64,
    /// Workers that hung.
    pub hangs: i64,
    /// Outputs that differed from the golden ones, or were not there.
    pub mismatches: i64,
    /// Why the model could not be loaded at all, if that is how it ended.
    pub refused: Option<String>,
    /// What became of the canary.
    pub canary: CanaryState,
    /// What lies in the outbox.
    pub mails: OutboxCounts,
    /// Alerts that fired in this run.
    pub alerts_fired: i64,
    /// The end could not be written to the database: why.
    pub unwritten: Option<String>,
}

/// A run that has its verdict and is not over yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closing {
    /// Until when it may go on mailing.
    pub until: MonoMillis,
    /// The rules have seen the verdict.
    pub told: bool,
}

impl Closing {
    /// From now on.
    pub fn begin(now: Now) -> Closing {
        Closing { until: now.mono.plus(MAILING_MS), told: false }
    }
}

impl Core {
    pub(super) fn finish(&mut self, cause: EndCause, now: Now) {
        if cause == EndCause::HostDown {
            self.ledger.flush_samples(now);
            self.closing = Some(Closing { told: true, ..Closing::begin(now) });
            return;
        }
        self.looks = self.watch.look();
        let findings = self.looks.iter().map(|l| (l.key, l.judged, l.finding.clone())).collect();
        self.ledger.put(Entry::Findings { at: now.wall, is_final: true, findings });
        let mut judgement = judge(&self.looks, self.params, self.blind().as_deref());
        if let Some(reason) = self.watch.past_unknown().filter(|_| judgement.verdict != Verdict::Outside) {
            judgement = Judgement { verdict: Verdict::Inconclusive, reason };
        }
        if cause == EndCause::CrashLoop && judgement.verdict == Verdict::Within {
            let reason = format!("the worker could not be kept running; what was seen: {}", judgement.reason);
            judgement = Judgement { verdict: Verdict::Inconclusive, reason };
        }
        if let Some(why) = &self.refused {
            let what = if self.config.target.is_set() {
                "the target could not be soaked"
            } else {
                "the model could not be loaded"
            };
            let reason = format!("{what}: {why}");
            judgement = Judgement { verdict: Verdict::Inconclusive, reason };
        }
        self.ledger.flush_samples(now);
        self.ledger.give_samples_up(now);
        if self.refused.is_none() {
            self.evaluate_rules(now, Moment::Regular); // what fires only now counts among the run's alerts
        }
        let end =
            RunEnd { at: now.wall, state: cause.state(), verdict: judgement.verdict, reason: judgement.reason.clone() };
        let run_id = self.ledger.run_id();
        self.unwritten = self.ledger.store().finish_run(run_id, &end).err().map(|error| error.to_string());
        self.judgement = Some(judgement);
        self.closing = Some(Closing { told: self.refused.is_some(), ..Closing::begin(now) });
        self.tell_end(now);
    }

    /// The rules see the verdict, and what they say of it is mailed. If that cannot be written now, then at the next tick.
    fn tell_end(&mut self, now: Now) {
        let Some(closing) = self.closing.filter(|closing| !closing.told) else { return };
        self.closing = Some(Closing { told: self.evaluate_rules(now, Moment::Final), ..closing });
    }

    /// After each tick of an ending run: whether its children are gone, then whether the outbox is empty, then whether
    /// the helpers are gone.
    pub(super) fn close_if_ready(&mut self, now: Now, out: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Ending { .. })
            && self.are_gone(&[Role::Worker, Role::Canary])
            && self.watch.is_caught_up()
        {
            self.step_run(RunEvent::ChildrenGone, now, out);
        }
        self.tell_end(now);
        let Some(Closing { until: deadline, told }) = self.closing else { return };
        let queued = self.ledger.store().outbox_counts().map_or(0, |counts| counts.queued);
        let has_mailer = !self.are_gone(&[Role::Mailer]);
        if (!told || (queued > 0 && has_mailer)) && now.mono < deadline {
            return;
        }
        self.stop(&[Role::Mailer, Role::Probe], now, out);
        let overdue = now.mono >= deadline.plus(1_000);
        if overdue {
            out.extend(self.children.iter().filter_map(|child| child.life).map(|life| Effect::Kill { life }));
        }
        if self.are_gone(&[Role::Mailer, Role::Probe]) || overdue {
            out.push(Effect::Leave);
        }
    }

    /// A run that is over and is being told: to be called once a second.
    pub fn linger(&mut self, now: Now) {
        if now.mono >= self.heartbeat_at {
            self.beat(now);
        }
    }

    /// The end of the supervisor itself, written when all that a run ends with is done: while this is not there, the next start
    /// takes the end for untold, tells it and soaks nothing. Nothing but the exit may come after it.
    pub fn leave(&mut self, now: Now) {
        use super::event::{EndOf, LastWords};
        use crate::model::process::EndReason;
        let end =
            super::children::Child::new(Role::Supervisor, 0, crate::lifecycle::child::Policy::HELPER, MonoMillis(0));
        let ours = self.probe.ours();
        let mut end = end.end(now.wall, EndReason::Clean, &LastWords::default());
        end.heartbeat = Some(now.wall);
        end.rss_bytes = ours.rss_bytes;
        end.anon_swap_bytes = ours.rss_anon_bytes.map(|anon| anon + ours.swap_bytes.unwrap_or(0));
        self.ledger.put(Entry::Ended(EndOf { life: super::core::OURSELVES, end }));
        self.sum_up_mismatches(|_| true, now);
        // A helper that did not end in time is killed with us; its row gets its end all the same.
        for child in &self.children {
            if let Some(life) = child.life.filter(|_| child.recorded && child.state.has_process()) {
                let end = child.end(now.wall, EndReason::Lost, &LastWords::default());
                self.ledger.put(Entry::Ended(EndOf { life, end }));
            }
        }
        self.ledger.flush_samples(now);
        // Who leaves a run unfinished is expected back: a mailer that does not see that after the boot says so.
        let is_expected = matches!(self.phase, Phase::Over { cause: EndCause::HostDown });
        self.say_alive(now, is_expected);
    }

    /// The run's row.
    #[must_use]
    pub fn run_id(&self) -> i64 {
        self.ledger.run_id()
    }

    /// Where the run stands.
    pub fn snapshot(&mut self, now: Now) -> Snapshot {
        let worker = self.children.iter().find(|child| child.id.role == Role::Worker);
        let reading = worker.map(|child| child.reading).unwrap_or_default();
        let doing = match self.phase {
            Phase::Soaking if !self.worker_ready && self.config.target.is_set() => "waiting for the target",
            Phase::Soaking if !self.worker_ready => "loading the model",
            Phase::Soaking => "soaking",
            Phase::Ending { .. } => "ending",
            Phase::Over { .. } => "over",
        };
        Snapshot {
            run_id: self.ledger.run_id(),
            uptime_ms: self.keeper.uptime_ms(),
            duration_ms: millis(self.config.run.duration),
            what: self.config.soaks(),
            doing,
            tokens_per_second: self.work.tokens_per_second(now.mono),
            looks: self.looks.clone(),
            worker_rss_bytes: reading.rss_bytes,
            worker_anon_swap_bytes: reading.rss_anon_bytes.map(|anon| anon + reading.swap_bytes.unwrap_or(0)),
            own_rss_bytes: self.probe.ours().rss_bytes,
            judgement: self.judgement.clone(),
            crashes: self.counts.crashes(),
            hangs: self.counts.hangs(),
            mismatches: self.counts.mismatches(),
            alerts: self.alarms.counts(),
            is_disk_in_trouble: self.ledger.is_in_trouble(),
        }
    }

    /// How the run ended. Meant for after [`Effect::Leave`], and before [`Core::leave`].
    pub fn summary(&mut self) -> Summary {
        let (Phase::Over { cause } | Phase::Ending { cause, .. }) = self.phase else {
            unreachable!("a summary is of a run that is over");
        };
        Summary {
            run_id: self.ledger.run_id(),
            state: cause.state(),
            judgement: self.judgement.clone().unwrap_or_else(|| judge(&[], self.params, None)),
            looks: self.looks.clone(),
            uptime_ms: self.keeper.uptime_ms(),
            crashes: self.counts.crashes(),
            hangs: self.counts.hangs(),
            mismatches: self.counts.mismatches(),
            refused: self.refused.clone(),
            canary: self.canary,
            mails: self.ledger.store().outbox_counts().unwrap_or_default(),
            alerts_fired: self.alarms.counts().1,
            unwritten: self.unwritten.clone(),
        }
    }
}
