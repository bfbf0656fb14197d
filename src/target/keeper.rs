//! The process around what is soaked: orders in, beats out, an end when the target ends or the supervisor says so.

use super::kept::{End, Kept};
use super::load::{Job, Means};
use super::prompts::Prompts;
use crate::worker::protocol::{FromWorker, LoadPlan, Loaded, TargetPlan, ToWorker};
use crate::{clock, probe, wire};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, raise, signal};
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Between two looks at orders and at the target.
const LOOK: Duration = Duration::from_millis(100);
/// Beats to the supervisor.
const BEAT_US: i64 = 1_000_000;
/// Latencies are reported once a minute.
const LATENCY_US: i64 = 60_000_000;
/// Orphans that were adopted are buried this often, and at most so many at a time.
const REAP_US: i64 = 1_000_000;
const REAP_MAX: usize = 256;
/// A target that is not ready by then is said to be waited for.
const WAITING_US: i64 = 10_000_000;
/// The supervisor kills what is not ready in time; whoever can say why does so this much earlier, or a quarter of the time.
const REFUSE_EARLY_US: i64 = 5_000_000;
/// Where everybody was asked to end, the supervisor's order follows within so many looks, or it is not on its way.
const ORDER_LOOKS: usize = 50;
/// From SIGTERM to SIGKILL; the supervisor's own patience is a second longer by default.
const END_PATIENCE: Duration = Duration::from_secs(4);

/// Runs the keeper over its stdin and stdout. Returns when told to stop, or when the target has ended.
pub fn run() -> ExitCode {
    let began = probe::child::claim_stdout()
        .and_then(|frames| Ok((frames, tokio::runtime::Builder::new_current_thread().enable_all().build()?)));
    let (frames, runtime) = match began {
        Ok(began) => began,
        Err(error) => {
            eprintln!("target: cannot start: {error}");
            return ExitCode::from(1);
        }
    };
    // Whatever the target leaves behind when it forks and ends stays below us, where it is counted.
    // SAFETY: PR_SET_CHILD_SUBREAPER takes one integer and touches no memory of ours.
    if unsafe { nix::libc::prctl(nix::libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } != 0 {
        eprintln!("target: orphans cannot be adopted: {}", std::io::Error::last_os_error());
    }
    // Whoever stops a scope or cancels a batch job asks all of us at once; how we end is the supervisor's to say.
    let all_asked = Arc::new(AtomicBool::new(false));
    if let Err(error) = signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&all_asked)) {
        eprintln!("target: cannot listen for signals: {error}");
    }
    let (orders_in, orders) = mpsc::channel(16);
    std::thread::spawn(move || read_orders(&orders_in));
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, Keeper { frames, orders, all_asked }.keep())
}

fn read_orders(orders: &mpsc::Sender<ToWorker>) {
    let (mut decoder, mut buffer) = (wire::Decoder::default(), vec![0u8; 64 << 10]);
    let mut input = std::io::stdin().lock();
    loop {
        match input.read(&mut buffer) {
            Ok(0) | Err(_) => std::process::exit(0), // the supervisor is gone; the target dies with us
            Ok(count) => decoder.push(&buffer[..count]),
        }
        loop {
            match decoder.next::<ToWorker>() {
                Ok(Some(order)) => {
                    if orders.blocking_send(order).is_err() {
                        return;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    eprintln!("target: the supervisor's frames: {error}");
                    std::process::exit(1);
                }
            }
        }
    }
}

struct Keeper {
    frames: std::fs::File,
    orders: mpsc::Receiver<ToWorker>,
    all_asked: Arc<AtomicBool>,
}

/// What a look at the target and at orders says.
enum Fate {
    /// On with it.
    Lives,
    /// The supervisor ends it.
    ToStop,
    /// It has ended by itself.
    Ended(End),
}

impl Keeper {
    /// An orderly end where everybody was asked to end is the beginning of the run's: the order to stop is on its way.
    async fn look(&mut self, kept: &mut Kept) -> Fate {
        let Some(end) = kept.ended() else {
            return if self.is_told_to_stop() { Fate::ToStop } else { Fate::Lives };
        };
        if end.is_orderly() {
            tokio::time::sleep(LOOK).await; // the signal that ended it may reach us a moment later
            let looks = if self.all_asked.load(Ordering::SeqCst) { ORDER_LOOKS } else { 0 };
            for _ in 0..looks {
                if self.is_told_to_stop() {
                    return Fate::ToStop;
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Fate::Ended(end)
    }

    fn is_told_to_stop(&mut self) -> bool {
        matches!(self.orders.try_recv(), Ok(ToWorker::Stop) | Err(mpsc::error::TryRecvError::Disconnected))
    }

    async fn keep(mut self) -> ExitCode {
        let Some(ToWorker::Load(plan)) = self.orders.recv().await else { return ExitCode::SUCCESS };
        let began_us = clock::micros();
        let refuse = |keeper: &mut Keeper, reason: String| {
            eprintln!("target: {reason}");
            keeper.say(&FromWorker::CannotLoad { reason });
            ExitCode::from(1)
        };
        let Some(target) = plan.target.clone() else { return refuse(&mut self, "no target was named".to_owned()) };
        let (means, prompts) = match (Means::of(&target), prompts_of(&plan, &target)) {
            (Ok(means), Ok(prompts)) => (means, prompts),
            (Err(reason), _) | (_, Err(reason)) => return refuse(&mut self, reason),
        };
        let mut kept = match Kept::begin(&target) {
            Ok(kept) => kept,
            Err(reason) => return refuse(&mut self, reason),
        };
        let timeout_us = i64::try_from(target.start_timeout_ms).unwrap_or(0).saturating_mul(1_000);
        match self.wait_until_ready(&means, &mut kept, timeout_us).await {
            Ok(Some(model)) => {
                let took_ms = (clock::micros() - began_us) / 1_000;
                self.say(&FromWorker::Loaded(Loaded { target: kept.process(), ..loaded(&target, &model, took_ms) }));
                let model = target.model.clone().unwrap_or(model);
                self.soak(kept, Job::new(means, model, prompts, *plan, target)).await
            }
            Ok(None) => {
                kept.end(END_PATIENCE).await;
                ExitCode::SUCCESS
            }
            Err(reason) => {
                let code = refuse(&mut self, reason);
                kept.end(END_PATIENCE).await;
                code
            }
        }
    }

    /// The first model that the server names; `None`: told to stop first.
    async fn wait_until_ready(
        &mut self,
        means: &Means,
        kept: &mut Kept,
        timeout_us: i64,
    ) -> Result<Option<String>, String> {
        let (mut said, began_us, mut told) = (String::new(), clock::micros(), false);
        // Without an endpoint to ask, a command that is still there after a second counts as started.
        let settled_us = began_us + if matches!(kept, Kept::Command(_)) { 1_000_000 } else { 0 };
        loop {
            match self.look(kept).await {
                Fate::Lives => {}
                Fate::ToStop => return Ok(None),
                Fate::Ended(End { how, .. }) => {
                    super::kept::end_leftovers();
                    return Err(format!("{how}, before it was ready{said}"));
                }
            }
            match means.ready().await {
                Ok(_) if !means.drives() && clock::micros() < settled_us => {}
                Ok(model) => return Ok(Some(model.unwrap_or_else(|| "default".to_owned()))),
                Err(error) => said = format!(" ({error})"),
            }
            let waited_us = clock::micros() - began_us;
            if !told && waited_us >= WAITING_US.min(timeout_us / 2) && !said.is_empty() {
                told = true;
                self.say(&FromWorker::Waiting { reason: said.trim().trim_matches(['(', ')']).to_owned() });
            }
            if timeout_us > 0 && waited_us >= timeout_us - REFUSE_EARLY_US.min(timeout_us / 4) {
                let limit = timeout_us / 1_000_000;
                return Err(format!("it took no requests within {limit} s, which is worker.start_timeout{said}"));
            }
            tokio::time::sleep(LOOK * 3).await;
        }
    }

    async fn soak(mut self, mut kept: Kept, job: std::rc::Rc<Job>) -> ExitCode {
        job.start();
        let child = if let Kept::Command(child) = &kept { child.id() } else { None };
        let (mut beat_us, mut latency_us, mut reap_us) = (0, clock::micros(), clock::micros());
        let mut alive: u64 = 0;
        loop {
            let now_us = clock::micros();
            match self.look(&mut kept).await {
                Fate::Lives => {}
                Fate::ToStop => {
                    self.report(&job, alive, now_us - latency_us);
                    if let Some(end) = kept.end(END_PATIENCE).await {
                        return self.fail(end);
                    }
                    self.say(&FromWorker::Stopped);
                    return ExitCode::SUCCESS;
                }
                Fate::Ended(end) => {
                    self.report(&job, alive, now_us - latency_us);
                    super::kept::end_leftovers(); // or the next life would find its port taken
                    return self.fail(end);
                }
            }
            if now_us - beat_us >= BEAT_US {
                beat_us = now_us;
                alive += 1;
                self.beat(&job, alive);
                self.latencies_so_far(&job, now_us - latency_us);
            }
            if now_us - latency_us >= LATENCY_US {
                self.latencies(&job, now_us - latency_us);
                latency_us = now_us;
            }
            if now_us - reap_us >= REAP_US {
                reap_us = now_us;
                bury(child, &job.commands.borrow());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Says how the target failed, and ends as it did.
    fn fail(&mut self, end: End) -> ExitCode {
        eprintln!("target: {}", end.how);
        // How a command ended is told by how we end.
        let reason = if end.status.is_some() { String::new() } else { end.how };
        self.say(&FromWorker::EngineFailed { reason, oom: end.oom });
        end.status.map_or(ExitCode::from(1), end_likewise)
    }

    /// The last words: counters and latencies of the present interval.
    fn report(&mut self, job: &Job, alive: u64, interval_us: i64) {
        self.beat(job, alive);
        self.latencies(job, interval_us);
    }

    fn beat(&mut self, job: &Job, alive: u64) {
        let is_idle = job.is_idle();
        let (messages, progress, reading) = {
            let mut stats = job.stats.borrow_mut();
            // Or a rate below one in worker.hang_after would make a hang of every pause.
            stats.progress += u64::from(is_idle);
            (std::mem::take(&mut stats.messages), stats.progress, stats.reading)
        };
        for message in messages {
            self.say(&message);
        }
        // Without load there is nothing to make progress but time itself.
        let progress = if job.drives() { progress } else { alive };
        self.say(&FromWorker::Beat { progress, reading });
    }

    fn latencies(&mut self, job: &Job, interval_us: i64) {
        let reports = job.stats.borrow_mut().latencies.take((interval_us / 1_000).max(1));
        if !reports.is_empty() {
            self.say(&FromWorker::Latency(reports));
        }
    }

    /// With each beat, for whoever is killed does not report.
    fn latencies_so_far(&mut self, job: &Job, interval_us: i64) {
        let reports = job.stats.borrow().latencies.so_far((interval_us / 1_000).max(1));
        if !reports.is_empty() {
            self.say(&FromWorker::LatencySoFar(reports));
        }
    }

    fn say(&mut self, message: &FromWorker) {
        if self.frames.write_all(&wire::encode(message)).is_err() {
            std::process::exit(0); // the supervisor is gone; the target dies with us
        }
    }
}

fn loaded(target: &TargetPlan, model: &str, took_ms: i64) -> Loaded {
    Loaded {
        backend: "none".to_owned(),
        fallback: None,
        model: target.describe(),
        weight_bytes: 0,
        weight_bytes_per_token: 0,
        types: format!("load {}", target.load),
        shape: if target.load == "none" { "it is only watched".to_owned() } else { format!("serves {model}") },
        took_ms,
        target: None,
    }
}

fn prompts_of(plan: &LoadPlan, target: &TargetPlan) -> Result<Prompts, String> {
    let made = Prompts::made(plan.seed, plan.prompts, plan.prompt_tokens, plan.answer_tokens, target.lengths);
    match &target.prompts_file {
        Some(path) => made.with_file(path),
        None => Ok(made),
    }
}

/// Ends as the target did, by the same signal or with the same code: to whoever watches us we stand for it, and the
/// kernel's SIGKILL for memory must look like one.
fn end_likewise(status: ExitStatus) -> ExitCode {
    let number = status.signal().and_then(|number| Signal::try_from(number).ok());
    if let Some(number) = number {
        let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0); // the core that matters is the target's
        // SAFETY: the default action is no function of ours that could run in a handler.
        let _ = unsafe { signal(number, SigHandler::SigDfl) }; // SIGKILL has no handler to reset
        let _ = raise(number); // one that does not end us leaves the code below
    }
    let code = status.code().or(status.signal().map(|number| 128 + number)).unwrap_or(1);
    ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1))
}

/// Adopted orphans that have ended are buried; the target and load commands are left to who waits for them. Does not look through /proc: that
/// would hold up requests on a machine with many processes.
fn bury(child: Option<u32>, commands: &BTreeSet<u32>) {
    for _ in 0..REAP_MAX {
        // Looked at without taking it, for it may be the target, whose end is its owner's to see.
        let seen = waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT);
        let Some(pid) = seen.ok().and_then(|status| status.pid()) else { return };
        let number = pid.as_raw().cast_unsigned();
        if Some(number) == child || commands.contains(&number) {
            return; // in a second it will have been seen
        }
        let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG)); // dead, so this does not wait
    }
}
