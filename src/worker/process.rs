//! The process around the inference loop: commands in, reports out, and an end whenever the supervisor is gone.
//!
//! Three threads. The main one loads the model and runs the loop. One reads stdin and ends the process when it closes,
//! so that a worker never outlives its supervisor. One writes: the loop's messages as they come, a beat every second.
//! Beats carry the loop's own progress, so a deadlocked loop shows as a beat that stands still. stdout belongs to
//! frames alone: at the start it is moved away, and whatever a library prints goes to stderr, which is last words.

use super::heap::trim_heap;
use super::protocol::{FromWorker, LoadPlan, Loaded, Sabotage, Scenario, ToWorker};
use super::sabotage;
use super::soak::Soak;
use crate::engine::{Damage, Engine, EngineError};
use crate::model::sample::WorkReading;
use crate::{clock, wire};
use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long the writer sleeps at most before the plan says how often to beat.
const BEAT_UNKNOWN_US: i64 = 1_000_000;
/// Latencies are reported once a minute.
const LATENCY_US: i64 = 60_000_000;
/// And what the present minute has so far, this often: it is what is lost of a worker that is killed.
const LATENCY_SO_FAR_US: i64 = 2_000_000;
/// How long a rest in `burst` or a drained loop sleeps between two looks at its orders.
const REST: Duration = Duration::from_millis(50);
/// Messages that may wait for the pipe. When it is full the loop waits: a supervisor that does not read is a supervisor
/// that does not watch.
const OUTBOX_MESSAGES_MAX: usize = 256;

/// A loaded engine, and which back end it turned out to be.
pub struct Opened {
    /// The engine.
    pub engine: Box<dyn Engine>,
    /// `cpu` or `cuda`.
    pub backend: String,
    /// Why it is not the back end asked for, if it is not.
    pub fallback: Option<String>,
}

/// Makes an engine for a plan. The process calls it again for every reload of `churn`.
pub type Open<'a> = dyn FnMut(&LoadPlan) -> Result<Opened, EngineError> + 'a;

/// What goes down the pipe.
enum Out {
    Message(FromWorker),
    Raw(Vec<u8>),
}

/// What the threads share.
#[derive(Default)]
struct Shared {
    progress: AtomicU64,
    beat_us: AtomicI64,
    reading: Mutex<WorkReading>,
}

/// Runs a worker over the process's own stdin and stdout. Returns when told to stop or when the engine fails.
pub fn run(open: &mut Open<'_>) -> ExitCode {
    raise_oom_score();
    let pipe = match take_stdout() {
        Ok(pipe) => pipe,
        Err(error) => {
            eprintln!("worker: cannot take stdout for frames: {error}");
            return ExitCode::from(1);
        }
    };
    serve(std::io::stdin(), pipe, || std::process::exit(0), open)
}

/// Runs a worker over any pair of streams; `gone` is called when the other side closes either of them.
pub fn serve(
    input: impl Read + Send + 'static,
    output: impl Write + Send + 'static,
    gone: impl Fn() + Send + Clone + 'static,
    open: &mut Open<'_>,
) -> ExitCode {
    let shared = Arc::new(Shared::default());
    let (orders_in, orders) = sync_channel(16);
    let (outbox, out) = sync_channel(OUTBOX_MESSAGES_MAX);
    let writer = {
        let (shared, gone) = (Arc::clone(&shared), gone.clone());
        std::thread::Builder::new().name("beats".into()).spawn(move || write_out(output, &out, &shared, &gone))
    };
    let reader = std::thread::Builder::new().name("orders".into()).spawn(move || read_orders(input, &orders_in, &gone));
    let (Ok(writer), Ok(_reader)) = (writer, reader) else {
        eprintln!("worker: cannot start its threads");
        return ExitCode::from(1);
    };
    let code = match orders.recv() {
        Ok(ToWorker::Load(plan)) => work(*plan, &orders, &outbox, &shared, open),
        Ok(_) | Err(_) => ExitCode::SUCCESS, // stopped before it began
    };
    drop(outbox); // the writer empties its queue and ends
    let _ = writer.join(); // a panic there has said its last words on stderr
    code
}

fn work(
    plan: LoadPlan,
    orders: &Receiver<ToWorker>,
    outbox: &SyncSender<Out>,
    shared: &Shared,
    open: &mut Open<'_>,
) -> ExitCode {
    let began_us = clock::micros();
    let opened = match open(&plan) {
        Ok(opened) => opened,
        Err(error) => {
            eprintln!("worker: {error}");
            send(outbox, FromWorker::CannotLoad { reason: error.to_string() });
            return ExitCode::from(1);
        }
    };
    let facts = opened.engine.facts().clone();
    let needed = plan.prompt_tokens + plan.answer_tokens;
    if needed > facts.context_tokens {
        let reason = format!(
            "a prompt of {} and an answer of {} tokens need a context of {needed}; {} was opened with {}: lower prompt_tokens or answer_tokens, or raise context_tokens",
            plan.prompt_tokens, plan.answer_tokens, facts.name, facts.context_tokens
        );
        eprintln!("worker: {reason}");
        send(outbox, FromWorker::CannotLoad { reason });
        return ExitCode::from(1);
    }
    send(
        outbox,
        FromWorker::Loaded(Loaded {
            backend: opened.backend.clone(),
            fallback: opened.fallback.clone(),
            model: facts.name,
            weight_bytes: facts.weight_bytes,
            weight_bytes_per_token: facts.weight_bytes_per_token,
            types: facts.types,
            shape: format!(
                "{} layers of width {}, {} tokens in the vocabulary, context of {}",
                facts.layers, facts.width, facts.vocab, facts.context_tokens
            ),
            took_ms: (clock::micros() - began_us) / 1_000,
            target: None,
        }),
    );
    shared.beat_us.store((plan.beat_ms.max(1) * 1_000) as i64, Ordering::Relaxed);
    let scenario = plan.scenario;
    let soak = Soak::new(plan.clone(), &opened.backend, facts.vocab);
    let now = clock::micros();
    let mut room = Room {
        plan,
        soak,
        engine: Some(opened.engine),
        outbox,
        shared,
        loaded_us: now,
        began_us: now,
        latencies_due_us: now + LATENCY_US,
        so_far_due_us: now + LATENCY_SO_FAR_US,
        device_leak: None,
    };
    let ended = room.soak_until_stopped(scenario, orders, open);
    room.last_report();
    match ended {
        Ok(()) => {
            send(outbox, FromWorker::Stopped);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("worker: {error}");
            send(outbox, FromWorker::EngineFailed { reason: error.to_string(), oom: false });
            ExitCode::from(1)
        }
    }
}

/// What the main thread works with.
struct Room<'a> {
    plan: LoadPlan,
    soak: Soak,
    engine: Option<Box<dyn Engine>>,
    outbox: &'a SyncSender<Out>,
    shared: &'a Shared,
    loaded_us: i64,
    began_us: i64,
    latencies_due_us: i64,
    so_far_due_us: i64,
    /// Device memory to leak, bytes a second, and since when: damage on purpose.
    device_leak: Option<DeviceLeak>,
}

/// A leak of device memory under way.
struct DeviceLeak {
    bytes_per_second: u64,
    began_us: i64,
    leaked_bytes: u64,
}

impl Room<'_> {
    fn soak_until_stopped(
        &mut self,
        scenario: Scenario,
        orders: &Receiver<ToWorker>,
        open: &mut Open<'_>,
    ) -> Result<(), EngineError> {
        let mut messages = Vec::new();
        loop {
            while let Ok(order) = orders.try_recv() {
                match order {
                    ToWorker::Stop => return Ok(()),
                    ToWorker::Trim => trim_heap(),
                    ToWorker::Sabotage(sabotage) => self.damage(sabotage)?,
                    ToWorker::Load(_) => eprintln!("worker: a second order to load is ignored"),
                }
            }
            self.leak_device()?;
            if self.should_rest(scenario) {
                std::thread::sleep(REST);
            }
            if let Some(engine) = self.engine.as_deref_mut() {
                self.soak.turn(engine, &clock::micros, &mut messages)?;
            }
            if self.reload_is_due(scenario) {
                self.reload(open)?;
            }
            self.shared.progress.fetch_add(1, Ordering::Relaxed);
            if let Ok(mut reading) = self.shared.reading.lock() {
                *reading = self.soak.reading();
            }
            for message in messages.drain(..) {
                send(self.outbox, message);
            }
            self.report_if_due(clock::micros());
        }
    }

    fn report_if_due(&mut self, now: i64) {
        if now >= self.latencies_due_us {
            self.report(LATENCY_US);
            self.latencies_due_us += LATENCY_US;
        } else if now >= self.so_far_due_us {
            let interval_us = LATENCY_US - (self.latencies_due_us - now);
            let reports = self.soak.latencies_so_far((interval_us / 1_000).max(1));
            if !reports.is_empty() {
                send(self.outbox, FromWorker::LatencySoFar(reports));
            }
        } else {
            return;
        }
        self.so_far_due_us = now + LATENCY_SO_FAR_US;
    }

    fn report(&mut self, interval_us: i64) {
        let reports = self.soak.take_latencies((interval_us / 1_000).max(1));
        if !reports.is_empty() {
            send(self.outbox, FromWorker::Latency(reports));
        }
    }

    /// What was done since the last minute and the last beat: without it a run would be short of its last interval, and of that
    /// of every worker that failed.
    fn last_report(&mut self) {
        self.report(LATENCY_US - (self.latencies_due_us - clock::micros()).max(0));
        let progress = self.shared.progress.load(Ordering::Relaxed);
        send(self.outbox, FromWorker::Beat { progress, reading: self.soak.reading() });
    }

    /// In the idle part of `burst`, streams finish what they began and then rest.
    fn should_rest(&mut self, scenario: Scenario) -> bool {
        let Scenario::Burst { busy_ms, idle_ms } = scenario else { return false };
        let period_us = (busy_ms + idle_ms).max(1) as i64 * 1_000;
        let idle = (clock::micros() - self.began_us) % period_us >= busy_ms as i64 * 1_000;
        self.soak.drain(idle);
        idle && self.soak.is_idle()
    }

    /// In `churn`, long enough since the last load; then streams finish what they began, and it is time.
    fn reload_is_due(&mut self, scenario: Scenario) -> bool {
        let Scenario::Churn { every_ms } = scenario else { return false };
        let due = clock::micros() - self.loaded_us >= every_ms as i64 * 1_000;
        self.soak.drain(due);
        due && self.soak.is_idle()
    }

    fn reload(&mut self, open: &mut Open<'_>) -> Result<(), EngineError> {
        let began_us = clock::micros();
        let held_before_bytes = self.engine.take().map_or(0, |engine| engine.held().host_bytes); // and it is dropped here
        let opened = open(&self.plan)?;
        send(
            self.outbox,
            FromWorker::Reloaded {
                took_ms: (clock::micros() - began_us) / 1_000,
                held_before_bytes,
                held_after_bytes: opened.engine.held().host_bytes,
            },
        );
        self.engine = Some(opened.engine);
        self.loaded_us = clock::micros();
        self.soak.drain(false);
        Ok(())
    }

    /// As much as is due, in pieces of the driver's own page of 2 MiB.
    fn leak_device(&mut self) -> Result<(), EngineError> {
        const PIECE_BYTES: u64 = 2 << 20;
        let (Some(leak), Some(engine)) = (&mut self.device_leak, &mut self.engine) else { return Ok(()) };
        let due_bytes = (clock::micros() - leak.began_us).max(0) as u64 / 1_000 * leak.bytes_per_second / 1_000;
        if due_bytes < leak.leaked_bytes + PIECE_BYTES {
            return Ok(());
        }
        leak.leaked_bytes += PIECE_BYTES;
        engine.damage(Damage::LeakDevice { bytes: PIECE_BYTES })
    }

    fn damage(&mut self, what: Sabotage) -> Result<(), EngineError> {
        match what {
            Sabotage::Deadlock => loop {
                std::thread::park(); // spurious wake-ups go round again
            },
            Sabotage::LoopForever => loop {
                std::hint::spin_loop();
            },
            Sabotage::CorruptToken => self.soak.corrupt_next_output(),
            Sabotage::FlipWeight => {
                if let Some(engine) = &mut self.engine {
                    engine.damage(Damage::FlipWeight)?;
                }
            }
            Sabotage::LeakDevice { bytes_per_second } => {
                self.device_leak = Some(DeviceLeak { bytes_per_second, began_us: clock::micros(), leaked_bytes: 0 });
            }
            Sabotage::Garble => {
                let _ = self.outbox.send(Out::Raw(b"Warning: this is not a frame\n".to_vec()));
            }
            other => sabotage::perform(other),
        }
        Ok(())
    }
}

fn send(outbox: &SyncSender<Out>, message: FromWorker) {
    // The writer is gone only when the supervisor is, and then this process ends anyway.
    let _ = outbox.send(Out::Message(message));
}

fn read_orders(mut input: impl Read, orders: &SyncSender<ToWorker>, gone: &impl Fn()) {
    let (mut decoder, mut buffer) = (wire::Decoder::default(), vec![0; 64 * 1024]);
    loop {
        match input.read(&mut buffer) {
            Ok(0) => break gone(),
            Ok(read) => decoder.push(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break gone(),
        }
        loop {
            match decoder.next() {
                Ok(Some(order)) => {
                    if orders.send(order).is_err() {
                        return;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    eprintln!("worker: what came from the supervisor is no order: {error}");
                    return gone();
                }
            }
        }
    }
}

fn write_out(mut output: impl Write, out: &Receiver<Out>, shared: &Shared, gone: &impl Fn()) {
    let mut beat_due_us = clock::micros();
    let mut loaded = false; // as the supervisor has been told: no beat may overtake that
    loop {
        let now_us = clock::micros();
        if now_us >= beat_due_us {
            let every_us = match shared.beat_us.load(Ordering::Relaxed) {
                0 => BEAT_UNKNOWN_US,
                known => known,
            };
            beat_due_us = now_us.max(beat_due_us + every_us);
            if loaded && write(&mut output, &beat(shared)).is_err() {
                return gone();
            }
        }
        let wait_us = (beat_due_us - clock::micros()).max(0) as u64;
        let frame = match out.recv_timeout(Duration::from_micros(wait_us)) {
            Ok(Out::Message(message)) => {
                loaded |= matches!(message, FromWorker::Loaded(_));
                wire::encode(&message)
            }
            Ok(Out::Raw(bytes)) => bytes,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if write(&mut output, &frame).is_err() {
            return gone();
        }
    }
}

fn beat(shared: &Shared) -> Vec<u8> {
    let reading = shared.reading.lock().map(|reading| *reading).unwrap_or_default();
    wire::encode(&FromWorker::Beat { progress: shared.progress.load(Ordering::Relaxed), reading })
}

fn write(output: &mut impl Write, frame: &[u8]) -> std::io::Result<()> {
    output.write_all(frame)?;
    output.flush()
}

/// Moves stdout to a descriptor of our own and points descriptor 1 at stderr.
fn take_stdout() -> std::io::Result<std::fs::File> {
    use std::os::fd::FromRawFd;
    // SAFETY: plain descriptor calls on descriptors 1 and 2, which every process started by the supervisor has; the new
    // descriptor is owned by the returned File alone.
    unsafe {
        let pipe = nix::libc::fcntl(1, nix::libc::F_DUPFD_CLOEXEC, 3);
        if pipe < 0 || nix::libc::dup2(2, 1) < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(std::fs::File::from_raw_fd(pipe))
    }
}

/// When memory runs out the kernel should take the worker and not the watcher. Raising one's own score needs no privilege.
fn raise_oom_score() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "500"); // absent in some containers: then the kernel decides
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::sample::LatencyKind;
    use crate::worker::soak::tests::{Scripted, plan};
    use std::os::unix::net::UnixStream;

    /// A worker on a thread, with its two pipes.
    struct Worker {
        pipe: UnixStream,
        decoder: wire::Decoder,
        thread: std::thread::JoinHandle<u8>,
    }

    fn start(open: impl FnMut(&LoadPlan) -> Result<Opened, EngineError> + Send + 'static) -> Worker {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let mut open = open;
        let thread = std::thread::spawn(move || {
            let output = theirs.try_clone().expect("a second handle");
            let code = serve(theirs, output, || {}, &mut open);
            u8::from(code != ExitCode::SUCCESS)
        });
        Worker { pipe: ours, decoder: wire::Decoder::default(), thread }
    }

    #[allow(clippy::unnecessary_wraps)] // the signature that `serve` calls
    fn scripted(plan: &LoadPlan) -> Result<Opened, EngineError> {
        Ok(Opened { engine: Box::new(Scripted::new(plan.streams)), backend: "cpu".into(), fallback: None })
    }

    impl Worker {
        fn tell(&mut self, order: &ToWorker) {
            self.pipe.write_all(&wire::encode(order)).expect("the worker listens");
        }

        /// Reads until `wanted` says so, and gives everything read.
        fn until(&mut self, mut wanted: impl FnMut(&FromWorker) -> bool) -> Vec<FromWorker> {
            let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
            loop {
                while let Some(message) = self.decoder.next::<FromWorker>().expect("frames only") {
                    let done = wanted(&message);
                    seen.push(message);
                    if done {
                        return seen;
                    }
                }
                let read = self.pipe.read(&mut buffer).expect("readable");
                assert!(read > 0, "the worker ended; seen so far: {seen:?}");
                self.decoder.push(&buffer[..read]);
            }
        }
    }

    #[test]
    fn it_loads_works_beats_and_stops_with_its_latencies() {
        let mut worker = start(scripted);
        worker.tell(&ToWorker::Load(Box::new(plan(2))));
        let seen = worker.until(|m| matches!(m, FromWorker::Beat { reading, .. } if reading.requests > 10));
        assert!(matches!(&seen[0], FromWorker::Loaded(loaded) if loaded.backend == "cpu"), "{:?}", seen[0]);
        assert_eq!(seen.iter().filter(|m| matches!(m, FromWorker::Golden(_))).count(), 5);
        worker.tell(&ToWorker::Trim);
        worker.tell(&ToWorker::Stop);
        let seen = worker.until(|m| matches!(m, FromWorker::Stopped));
        assert!(seen.iter().any(|m| matches!(m, FromWorker::Latency(kinds) if kinds.len() == 3)), "{seen:?}");
        assert_eq!(worker.thread.join().expect("no panic"), 0);
    }

    /// Tokens as the last beat counts them, and as the latencies do, one of which each token has.
    fn counted(seen: &[FromWorker]) -> (i64, u64) {
        let mut beats =
            seen.iter().filter_map(|m| if let FromWorker::Beat { reading, .. } = m { Some(*reading) } else { None });
        let reports = seen.iter().filter_map(|m| if let FromWorker::Latency(kinds) = m { Some(kinds) } else { None });
        let of_tokens = reports.flatten().filter(|report| report.kind != LatencyKind::Request);
        (beats.next_back().map_or(0, |reading| reading.tokens), of_tokens.map(|report| report.count).sum())
    }

    #[test]
    fn nothing_is_short_of_its_last_interval_when_the_loop_ends() {
        let mut worker = start(scripted);
        worker.tell(&ToWorker::Load(Box::new(LoadPlan { beat_ms: 3_600_000, ..plan(2) })));
        let mut seen = worker.until(|m| matches!(m, FromWorker::Golden(output) if output.prompt == 4));
        worker.tell(&ToWorker::Stop);
        seen.extend(worker.until(|m| matches!(m, FromWorker::Stopped)));
        let (by_beats, by_latencies) = counted(&seen);
        assert!(by_beats >= 20, "five answers of four tokens, and no beat since: {by_beats}");
        assert_eq!(by_beats.unsigned_abs(), by_latencies);
    }

    #[test]
    fn a_loop_that_fails_tells_what_it_had_done() {
        let mut worker = start(|plan| {
            let mut engine = Scripted::new(plan.streams);
            engine.fail_at_step = Some(50);
            Ok(Opened { engine: Box::new(engine), backend: "cpu".into(), fallback: None })
        });
        worker.tell(&ToWorker::Load(Box::new(LoadPlan { beat_ms: 3_600_000, ..plan(2) })));
        let seen = worker.until(|m| matches!(m, FromWorker::EngineFailed { .. }));
        assert_eq!(counted(&seen), (98, 98), "49 steps of two streams");
        assert_eq!(worker.thread.join().expect("no panic"), 1);
    }

    #[test]
    fn a_deadlocked_loop_beats_without_progress() {
        let mut worker = start(scripted);
        worker.tell(&ToWorker::Load(Box::new(plan(1))));
        worker.until(|m| matches!(m, FromWorker::Beat { progress, .. } if *progress > 0));
        worker.tell(&ToWorker::Sabotage(Sabotage::Deadlock));
        let (mut last, mut still) = (0, 0);
        worker.until(|m| {
            if let FromWorker::Beat { progress, .. } = m {
                still = if *progress == last { still + 1 } else { 0 };
                last = *progress;
            }
            still == 2
        });
        // The thread is stuck for good, as intended; the test process ends with it.
    }

    #[test]
    fn a_model_that_cannot_be_opened_is_refused_in_prose() {
        let mut worker = start(|_| Err(EngineError::File { path: "no.gguf".into(), reason: "no such file".into() }));
        worker.tell(&ToWorker::Load(Box::new(plan(1))));
        let seen = worker.until(|m| matches!(m, FromWorker::CannotLoad { .. }));
        assert_eq!(seen, vec![FromWorker::CannotLoad { reason: "no.gguf: no such file".into() }]);
        assert_eq!(worker.thread.join().expect("no panic"), 1);
    }

    #[test]
    fn a_context_too_short_is_refused_with_its_remedy() {
        let mut worker = start(scripted);
        worker.tell(&ToWorker::Load(Box::new(LoadPlan { prompt_tokens: 1_000, ..plan(1) })));
        let seen = worker.until(|m| matches!(m, FromWorker::CannotLoad { .. }));
        assert!(format!("{seen:?}").contains("lower prompt_tokens"), "{seen:?}");
    }

    #[test]
    fn churn_unloads_and_loads_and_its_tokens_stay_the_same() {
        let mut worker = start(scripted);
        worker.tell(&ToWorker::Load(Box::new(LoadPlan { scenario: Scenario::Churn { every_ms: 1 }, ..plan(2) })));
        let mut reloads = 0;
        let seen = worker.until(|m| {
            reloads += i32::from(matches!(m, FromWorker::Reloaded { .. }));
            reloads == 3
        });
        assert!(!seen.iter().any(|m| matches!(m, FromWorker::Mismatch(_))), "{seen:?}");
        worker.tell(&ToWorker::Stop);
        worker.until(|m| matches!(m, FromWorker::Stopped));
    }

    #[test]
    fn a_supervisor_that_goes_away_is_noticed() {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let (noticed_in, noticed) = sync_channel(2);
        let output = theirs.try_clone().expect("a second handle");
        std::thread::spawn(move || {
            serve(
                theirs,
                output,
                move || {
                    let _ = noticed_in.try_send(()); // both threads notice; one is enough
                },
                &mut scripted,
            )
        });
        drop(ours);
        noticed.recv_timeout(Duration::from_secs(60)).expect("gone was called");
    }
}
