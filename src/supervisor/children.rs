//! The children as the supervisor knows them: which state machine each is in, which process fills its place, and what was
//! last heard of it. Deciding is left to `lifecycle`, writing to `ledger`.

use super::event::{ChildId, LastWords, Life};
use super::mismatches::Mismatches;
use crate::lifecycle::child::{ChildState, Policy};
use crate::model::event::{EventKind, EventSeverity};
use crate::model::process::{EndReason, ProcessEnd};
use crate::model::sample::{ProcessReading, Role, WorkReading};
use crate::model::time::{MonoMillis, UnixMillis};
use crate::worker::protocol::TargetProcess;

/// One child.
#[derive(Debug)]
pub struct Child {
    /// Which.
    pub id: ChildId,
    /// The limits it lives under.
    pub policy: Policy,
    /// Where it stands.
    pub state: ChildState,
    /// The present incarnation, if there is a process or one is being made.
    pub life: Option<Life>,
    /// When the present incarnation was begun.
    pub began: MonoMillis,
    /// Its process id, once it exists.
    pub pid: Option<i32>,
    /// Incarnations so far in this run, restarts of soakd included.
    pub incarnations: u32,
    /// Whether this incarnation has been recorded as started.
    pub recorded: bool,
    /// The progress that it last reported, for a worker.
    pub progress: Option<u64>,
    /// When it was last heard of.
    pub heard: Option<UnixMillis>,
    /// When it last made progress, for a worker.
    pub moved: Option<UnixMillis>,
    /// Its last reading.
    pub reading: ProcessReading,
    /// What it last counted.
    pub work: WorkReading,
    /// Its outputs that differed.
    pub mismatches: Mismatches,
    /// The process that it keeps, for the keeper of a target.
    pub target: Option<TargetProcess>,
    /// OOM kills when it was started.
    pub oom_kills: Option<i64>,
    /// Why it says that it cannot go on.
    pub complaint: Option<String>,
    /// Whether it says that the kernel killed what it kept for memory.
    pub oom_told: bool,
}

impl Child {
    /// A child that is to be started at once.
    #[must_use]
    pub fn new(role: Role, ordinal: u32, policy: Policy, now: MonoMillis) -> Child {
        Child {
            id: ChildId { role, ordinal },
            policy,
            state: ChildState::new(now),
            life: None,
            began: now,
            pid: None,
            incarnations: 0,
            recorded: false,
            progress: None,
            heard: None,
            moved: None,
            reading: ProcessReading::default(),
            work: WorkReading::default(),
            mismatches: Mismatches::default(),
            target: None,
            oom_kills: None,
            complaint: None,
            oom_told: false,
        }
    }

    /// Forgets the last incarnation and begins the next.
    pub fn begin(&mut self, life: Life, now: MonoMillis) {
        self.life = Some(life);
        self.began = now;
        self.pid = None;
        self.incarnations += 1;
        self.recorded = false;
        self.progress = None;
        self.heard = None;
        self.moved = None;
        self.reading = ProcessReading::default();
        self.work = WorkReading::default();
        self.mismatches = Mismatches::default();
        self.target = None;
        self.oom_kills = None;
        self.complaint = None;
        self.oom_told = false;
    }

    /// True if the kernel killed it for memory: SIGKILL that was not ours, and a count of OOM kills that rose; or the word of
    /// who could count them.
    #[must_use]
    pub fn was_oom(&self, words: &LastWords, reason: EndReason) -> bool {
        let unasked = matches!(reason, EndReason::Crash | EndReason::Refused);
        let rose = match (self.oom_kills, words.oom_kills) {
            (Some(before), Some(after)) => after > before,
            _ => false,
        };
        unasked && (self.oom_told || (words.exit_signal == Some(nix::libc::SIGKILL) && rose))
    }

    /// What people know it by: the process that it keeps, or itself.
    #[must_use]
    pub fn called(&self) -> String {
        match &self.target {
            Some(TargetProcess { pid, name }) => format!("the target {name} (process {pid})"),
            None => self.id.to_string(),
        }
    }

    /// The end of the present incarnation, for its row.
    #[must_use]
    pub fn end(&self, at: UnixMillis, reason: EndReason, words: &LastWords) -> ProcessEnd {
        let tail = words.stderr_tail.trim_end();
        ProcessEnd {
            process_id: 0,
            at,
            reason,
            exit_code: words.exit_code,
            exit_signal: words.exit_signal,
            stderr_tail: (!tail.is_empty()).then(|| tail.to_owned()),
            heartbeat: self.heard,
            rss_bytes: self.reading.rss_bytes,
            anon_swap_bytes: self.reading.rss_anon_bytes.map(|anon| anon + self.reading.swap_bytes.unwrap_or(0)),
            vram_bytes: self.reading.vram_bytes,
        }
    }
}

/// How an end is told: its kind of event, how bad it is, and in words. `None`: it is not worth an event of its own.
#[must_use]
pub fn story(
    child: &Child,
    reason: EndReason,
    words: &LastWords,
    restart_in_ms: Option<i64>,
) -> Option<(EventKind, EventSeverity, String)> {
    let kind = match (child.id.role, reason) {
        (_, EndReason::Clean) => return None,
        (Role::Worker, EndReason::Oom) => EventKind::WorkerOom,
        (Role::Worker, EndReason::Hang | EndReason::Lost) => EventKind::WorkerHang,
        (Role::Worker, _) => EventKind::WorkerCrash,
        (Role::Probe, EndReason::Hang | EndReason::Lost) => EventKind::ProbeHang,
        (Role::Probe, _) => EventKind::ProbeCrash,
        (Role::Mailer, _) => EventKind::MailerCrash,
        (_, _) => EventKind::ProcessEnded,
    };
    let severity = match child.id.role {
        Role::Worker | Role::Target => EventSeverity::Error,
        _ => EventSeverity::Warning,
    };
    let how = match reason {
        EndReason::Hang if child.progress.is_none() => "was not ready in time and was killed".to_owned(),
        EndReason::Hang => {
            format!("made no progress for {} s and was killed", child.policy.silence_timeout_ms / 1_000)
        }
        EndReason::Lost => "does not even end on SIGKILL (stuck in the kernel) and was abandoned".to_owned(),
        EndReason::Protocol => "sent what is no message and was killed".to_owned(),
        EndReason::Oom => "was killed by the kernel for memory".to_owned(),
        EndReason::Refused => format!("could not start: {}", exit_words(words)),
        _ => exit_words(words),
    };
    let why = child.complaint.as_deref().filter(|why| !why.is_empty());
    let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
    let next = match restart_in_ms {
        Some(ms) => format!("; started again in {} s", (ms as f64 / 1_000.0).ceil()),
        None => String::new(),
    };
    // What soakd kills is the keeper; a target that it only watches lives on.
    let whose = match reason {
        EndReason::Hang | EndReason::Lost | EndReason::Protocol => child.id.to_string(),
        _ => child.called(),
    };
    // Who was watched by its id has left no exit code; its keeper's own says nothing.
    let how =
        if child.target.is_some() && reason == EndReason::Crash && !why.is_empty() { "ended".into() } else { how };
    Some((kind, severity, format!("{whose} {how}{why}{next}")))
}

fn exit_words(words: &LastWords) -> String {
    match (words.exit_code, words.exit_signal) {
        (_, Some(signal)) => format!("ended by signal {signal} ({})", signal_name(signal)),
        (Some(code), None) => format!("exited with code {code}"),
        (None, None) => "ended, nobody knows how".to_owned(),
    }
}

fn signal_name(signal: i32) -> &'static str {
    nix::sys::signal::Signal::try_from(signal).map_or("unknown", nix::sys::signal::Signal::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_oom_kill_needs_the_kernels_word() {
        let words = |signal, kills| LastWords { exit_signal: Some(signal), oom_kills: kills, ..LastWords::default() };
        let cases = [
            ("SIGKILL and the count rose", Some(3), words(9, Some(4)), EndReason::Crash, true),
            ("SIGKILL alone may be anybody's", Some(3), words(9, Some(3)), EndReason::Crash, false),
            ("our own kill is not the kernel's", Some(3), words(9, Some(4)), EndReason::Hang, false),
            ("a fault is no OOM", Some(3), words(11, Some(4)), EndReason::Crash, false),
            ("no count, no claim", None, words(9, None), EndReason::Crash, false),
        ];
        for (what, before, words, reason, oom) in cases {
            let mut child = Child::new(Role::Worker, 0, Policy::WORKER, MonoMillis(0));
            child.oom_kills = before;
            assert_eq!(child.was_oom(&words, reason), oom, "{what}");
        }
    }

    #[test]
    fn ends_are_told_in_words() {
        let mut child = Child::new(Role::Worker, 1, Policy::WORKER, MonoMillis(0));
        child.progress = Some(5);
        let kept = Child {
            target: Some(TargetProcess { pid: 6755, name: "python3".into() }),
            ..Child::new(Role::Worker, 0, Policy::WORKER, MonoMillis(0))
        };
        let words = LastWords { exit_signal: Some(11), ..LastWords::default() };
        let (kind, severity, told) = story(&child, EndReason::Crash, &words, Some(1_000)).expect("a story");
        assert_eq!((kind, severity), (EventKind::WorkerCrash, EventSeverity::Error));
        assert_eq!(told, "worker-1 ended by signal 11 (SIGSEGV); started again in 1 s");
        let told_of = |child: &Child, reason| story(child, reason, &words, None).expect("a story").2;
        assert_eq!(told_of(&kept, EndReason::Crash), "the target python3 (process 6755) ended by signal 11 (SIGSEGV)");
        assert_eq!(
            told_of(&kept, EndReason::Oom),
            "the target python3 (process 6755) was killed by the kernel for memory"
        );
        let gone = Child { complaint: Some("process 6755 is gone".into()), ..kept };
        assert_eq!(told_of(&gone, EndReason::Crash), "the target python3 (process 6755) ended (process 6755 is gone)");
        assert!(story(&child, EndReason::Clean, &words, None).is_none(), "a clean end is no event");
        let (kind, _, told) = story(&child, EndReason::Hang, &words, None).expect("a story");
        assert_eq!(kind, EventKind::WorkerHang);
        assert!(told.contains("made no progress for 60 s"), "{told}");
    }
}
