//! The process around what is soaked: orders in, beats out, an end when the target ends or the supervisor says so.

use super::kept::Kept;
use super::load::{Job, Load, ready};
use crate::worker::protocol::{FromWorker, Loaded, TargetPlan, ToWorker};
use crate::{clock, probe, wire};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;
use tokio::sync::mpsc;

/// Between two looks at orders and at the target.
const LOOK: Duration = Duration::from_millis(100);
/// Beats to the supervisor.
const BEAT_US: i64 = 1_000_000;
/// Latencies are reported once a minute.
const LATENCY_US: i64 = 60_000_000;
/// Orphans that were adopted are buried this often.
const REAP_US: i64 = 5_000_000;
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
    let (orders_in, orders) = mpsc::channel(16);
    std::thread::spawn(move || read_orders(&orders_in));
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, Keeper { frames, orders }.keep())
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
}

impl Keeper {
    async fn keep(mut self) -> ExitCode {
        let Some(ToWorker::Load(plan)) = self.orders.recv().await else { return ExitCode::SUCCESS };
        let began_us = clock::micros();
        let refuse = |keeper: &mut Keeper, reason: String| {
            eprintln!("target: {reason}");
            keeper.say(&FromWorker::CannotLoad { reason });
            ExitCode::from(1)
        };
        let Some(target) = plan.target.clone() else { return refuse(&mut self, "no target was named".to_owned()) };
        let load = match Load::parse(&target.load) {
            Ok(load) => load,
            Err(reason) => return refuse(&mut self, reason),
        };
        let mut kept = match Kept::begin(&target) {
            Ok(kept) => kept,
            Err(reason) => return refuse(&mut self, reason),
        };
        match self.wait_until_ready(&load, &mut kept).await {
            Ok(Some(model)) => {
                self.say(&FromWorker::Loaded(loaded(&target, &model, (clock::micros() - began_us) / 1_000)));
                let model = target.model.clone().unwrap_or(model);
                self.soak(kept, Job::new(load, model, *plan, target)).await
            }
            Ok(None) => {
                kept.end(END_PATIENCE).await;
                ExitCode::SUCCESS
            }
            Err(reason) => refuse(&mut self, reason),
        }
    }

    /// The first model that the server names; `None`: told to stop first. How long it may take is the supervisor's to say.
    async fn wait_until_ready(&mut self, load: &Load, kept: &mut Kept) -> Result<Option<String>, String> {
        let mut said = String::new();
        // Without an endpoint to ask, a command that is still there after a second counts as started.
        let settled_us = clock::micros() + if matches!(kept, Kept::Command(_)) { 1_000_000 } else { 0 };
        loop {
            if let Some(how) = kept.ended() {
                return Err(format!("{how}, before it was ready{said}"));
            }
            match ready(load).await {
                Ok(_) if *load == Load::None && clock::micros() < settled_us => {}
                Ok(model) => return Ok(Some(model.unwrap_or_else(|| "default".to_owned()))),
                Err(error) => said = format!(" ({error})"),
            }
            if matches!(self.orders.try_recv(), Ok(ToWorker::Stop)) {
                return Ok(None);
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
            if let Some(how) = kept.ended() {
                self.report(&job, alive, now_us - latency_us);
                eprintln!("target: {how}");
                super::kept::end_leftovers(); // or the next life would find its port taken
                self.say(&FromWorker::EngineFailed { reason: how });
                return ExitCode::from(1);
            }
            if matches!(self.orders.try_recv(), Ok(ToWorker::Stop) | Err(mpsc::error::TryRecvError::Disconnected)) {
                self.report(&job, alive, now_us - latency_us);
                kept.end(END_PATIENCE).await;
                self.say(&FromWorker::Stopped);
                return ExitCode::SUCCESS;
            }
            if now_us - beat_us >= BEAT_US {
                beat_us = now_us;
                alive += 1;
                self.beat(&job, alive);
            }
            if now_us - latency_us >= LATENCY_US {
                self.latencies(&job, now_us - latency_us);
                latency_us = now_us;
            }
            if now_us - reap_us >= REAP_US {
                reap_us = now_us;
                bury(child);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The last words: counters and latencies of the present interval.
    fn report(&mut self, job: &Job, alive: u64, interval_us: i64) {
        self.beat(job, alive);
        self.latencies(job, interval_us);
    }

    fn beat(&mut self, job: &Job, alive: u64) {
        let (messages, progress, reading) = {
            let mut stats = job.stats.borrow_mut();
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
        shape: format!("serves {model}"),
        took_ms,
    }
}

/// Adopted orphans that have ended are buried; the target itself is left to its owner.
fn bury(child: Option<u32>) {
    for pid in probe::tree::descendants(std::process::id().cast_signed()) {
        if Some(pid.cast_unsigned()) != child {
            let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)); // not ours, or alive: nothing happens
        }
    }
}
