//! Waits and acts: the tick, the children's pipes and the signals on one side, effects on the other. Decides nothing.
//!
//! One thread. The database is written in it too: its writes take milliseconds, and a loop that waits for a disk is late,
//! which the next tick notices and records.

use super::alive::{Alive, Facts};
use super::closing::{Snapshot, Summary};
use super::core::Core;
use super::event::{Effect, Event};
use super::notify::{self, Notifier, Stay};
use super::start::{self, Options, ReadPast, StartError};
use crate::config::Source;
use crate::model::run::RunState;
use crate::probe::protocol::Outcome;
use crate::store::sync::Syncing;
use crate::{clock, probe, wire};
use nix::libc::{SIGHUP, SIGINT, SIGTERM};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

/// Events that may wait for the loop; a child that talks faster waits at its pipe.
const EVENTS_MAX: usize = 1_024;
/// Ticks of a run that is over and is being told.
const LINGERING_TICK: Duration = Duration::from_secs(1);
/// Ticks of a run that is ending.
const ENDING_TICK: Duration = Duration::from_millis(50);
/// How long whoever tells the end may take, writing the report above all: that is seconds for two days, and a disk that needs
/// minutes for it is no reason never to leave.
const TELL_MAX: Duration = Duration::from_secs(600);
/// The same where systemd waits for us to stop (`TimeoutStopSec=20s`), which workers and mailer have had 10 s of.
const TELL_STOPPING_MAX: Duration = Duration::from_secs(8);
/// What a process that was told twice to end ends with: 128 + SIGINT, as shells have it.
const EXIT_AT_ONCE: i32 = 130;

/// Runs a soak to its end. `watch` is shown where it stands, about once a second; `tell` is given how it ended, in a thread beside
/// the loop, and whatever it does of that is done again by the next start if we are killed meanwhile. What it gives is given back
/// with the summary; `None` if it did not come to an end.
pub fn run<T: Send + 'static>(
    options: Options,
    watch: &mut dyn FnMut(&Snapshot),
    tell: impl FnOnce(&Summary) -> T + Send + 'static,
) -> Result<(Summary, Option<T>), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| StartError::Machine(format!("the event loop cannot be made: {error}")))?;
    let config_file = match &options.config.source {
        Source::File(path) => Some(path.clone()),
        Source::Embedded => None,
    };
    let canary = &options.config.canary;
    let per_second = canary.leak_bytes as f64 / options.config.run.horizon.as_secs_f64().max(1.0);
    let facts = Facts {
        database: options.config.run.database.clone(),
        config: config_file,
        target: options.config.target.is_set(),
        canary_bytes_per_second: per_second.ceil() as u64,
    };
    let stay = Stay::of_this_start();
    let options = Options { soaked_before: stay.soaked_before(), ..options };
    let core = start::begin(options, clock::now(), clock::suspended_ms(), ReadPast::Beside)?;
    stay.soaks(core.run_id());
    // Without it a power cut takes half a minute of samples instead of a second: no reason not to soak.
    let _syncing = Syncing::of(&facts.database)
        .map_err(|error| tracing::warn!("samples are left to the kernel to write out: {error}"))
        .ok();
    runtime.block_on(async {
        let mut reactor = Reactor::new(core, facts)?;
        reactor.turn_until_over(watch).await;
        let summary = reactor.core.summary();
        if summary.state == RunState::Running {
            tracing::info!("run {} is left for the next boot", summary.run_id);
            reactor.core.leave(clock::now());
            return Ok((summary, None));
        }
        let (sender, told) = oneshot::channel();
        let of_it = summary.clone();
        std::thread::Builder::new()
            .name("tell".to_owned())
            .spawn(move || sender.send(tell(&of_it)))
            .map_err(|error| StartError::Machine(format!("no thread can be started: {error}")))?;
        let stopping = summary.state == RunState::Interrupted && reactor.notifier.is_wanted();
        let told = reactor.linger(told, if stopping { TELL_STOPPING_MAX } else { TELL_MAX }).await;
        reactor.core.leave(clock::now());
        if summary.state == RunState::Interrupted {
            stay.over(); // who asks for an end and starts us again wants a new run
        }
        Ok((summary, told))
    })
}

struct Reactor {
    core: Core,
    alive: Alive,
    events: mpsc::Receiver<Event>,
    /// Events that effects gave at once.
    at_once: VecDeque<Event>,
    notifier: Notifier,
    signals: Signals,
    over: bool,
}

impl Reactor {
    fn new(core: Core, facts: Facts) -> Result<Reactor, StartError> {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let signals = Signals::new().map_err(|error| StartError::Machine(format!("signals: {error}")))?;
        let (alive, notifier) = (Alive::new(facts, sender), Notifier::default());
        Ok(Reactor { core, alive, events, at_once: VecDeque::new(), notifier, signals, over: false })
    }

    async fn turn_until_over(&mut self, watch: &mut dyn FnMut(&Snapshot)) {
        let mut ticks = interval(self.core.tick_interval());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut ending_ticks = interval(ENDING_TICK);
        ending_ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        self.notifier.ready();
        while !self.over {
            let event = tokio::select! {
                _ = ticks.tick() => {
                    let snapshot = self.core.snapshot(clock::now());
                    self.notifier.alive();
                    self.notifier.status(status_line(&snapshot));
                    watch(&snapshot);
                    self.alive.reap();
                    Event::Tick { suspended_ms: clock::suspended_ms() }
                }
                _ = ending_ticks.tick(), if self.core.is_ending() => Event::Tick { suspended_ms: clock::suspended_ms() },
                Some(event) = self.events.recv() => event,
                asked = self.signals.next() => match asked {
                    // Asked here, where nothing cancels the question: a second is not missed by a loop that is to end.
                    Asked::Terminate if notify::is_host_going_down().await => Event::HostGoesDown,
                    Asked::Interrupt | Asked::Terminate => Event::AskedToEnd,
                    Asked::Reload => Event::AskedToReload,
                },
            };
            self.take(event);
        }
        self.alive.kill_all();
    }

    /// The run is over and is told elsewhere, which can take as long as a disk is slow: the loop goes on and shows that it lives.
    /// `None` if the telling failed, or is not done after `at_most`.
    async fn linger<T>(&mut self, mut told: oneshot::Receiver<T>, at_most: Duration) -> Option<T> {
        let mut ticks = interval(LINGERING_TICK);
        let limit = tokio::time::sleep(at_most);
        tokio::pin!(limit);
        loop {
            tokio::select! {
                told = &mut told => {
                    if told.is_err() {
                        tracing::error!("the end of the run could not be told: see above");
                    }
                    return told.ok();
                },
                () = &mut limit => {
                    let run_id = self.core.run_id();
                    tracing::error!("no report after {} s; it is not waited for: soakd report {run_id}", at_most.as_secs());
                    return None;
                },
                _ = ticks.tick() => {
                    self.notifier.alive();
                    self.core.linger(clock::now());
                },
                _ = self.signals.next() => {} // it is ending already; a second SIGINT does not come here
            }
        }
    }

    fn take(&mut self, event: Event) {
        if self.core.is_behind(clock::now()) && !matches!(event, Event::Tick { .. }) {
            self.at_once.push_back(Event::Tick { suspended_ms: clock::suspended_ms() });
        }
        self.at_once.push_back(event);
        while let Some(event) = self.at_once.pop_front() {
            if let Event::Exited { life, .. } = &event {
                self.at_once.extend(self.alive.bury(*life));
            }
            match &event {
                Event::AskedToReload => self.notifier.reloading(),
                Event::AskedToEnd | Event::HostGoesDown => self.notifier.stopping(),
                _ => {}
            }
            let reloaded = event == Event::AskedToReload;
            for effect in self.core.apply(event, clock::now()) {
                self.perform(effect);
            }
            if reloaded {
                self.notifier.ready();
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Spawn { child, life } => self.at_once.push_back(self.alive.spawn(child, life)),
            Effect::ToWorker { life, order } => self.alive.tell(life, wire::encode(&order)),
            Effect::ToProbe { life, order } => self.alive.tell(life, wire::encode(&order)),
            Effect::AskToLeave { life } => self.alive.ask_to_leave(life),
            Effect::CloseStdin { life } => self.alive.close_stdin(life),
            Effect::Kill { life } => self.alive.kill(life),
            Effect::ReadFallback { pids } => {
                let read = |pid: i32| match probe::process::read(pid, false) {
                    Outcome::Present(figures) => Some((pid, figures.reading)),
                    Outcome::Absent(_) | Outcome::Failed(_) => None,
                };
                self.at_once.push_back(Event::Fallback { readings: pids.into_iter().filter_map(read).collect() });
            }
            Effect::Leave => self.over = true,
        }
    }
}

/// For `systemctl status`. Minutes rather than seconds, so that it does not change every second.
fn status_line(snapshot: &Snapshot) -> String {
    let verdict = snapshot.judgement.as_ref().map_or("not known yet", |judgement| judgement.verdict.as_str());
    format!(
        "run {}: {}, {:.2} h of {:.2} h; verdict so far: {verdict}; crashes: {}, hangs: {}",
        snapshot.run_id,
        snapshot.doing,
        (snapshot.uptime_ms / 60_000) as f64 / 60.0,
        snapshot.duration_ms as f64 / 3_600_000.0,
        snapshot.crashes,
        snapshot.hangs
    )
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Interrupt,
    Terminate,
    Reload,
}

/// Signals as bytes in sockets. The second SIGINT ends the process from within the handler, whatever the loop is doing.
struct Signals {
    interrupt: UnixStream,
    terminate: UnixStream,
    hangup: UnixStream,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        let armed = Arc::new(AtomicBool::new(false));
        // The order matters: the first SIGINT finds it unarmed, and arms it.
        signal_hook::flag::register_conditional_shutdown(SIGINT, EXIT_AT_ONCE, Arc::clone(&armed))?;
        signal_hook::flag::register(SIGINT, armed)?;
        Ok(Signals { interrupt: pipe(SIGINT)?, terminate: pipe(SIGTERM)?, hangup: pipe(SIGHUP)? })
    }

    async fn next(&mut self) -> Asked {
        let (mut first, mut second, mut third) = ([0], [0], [0]);
        tokio::select! {
            _ = self.interrupt.read(&mut first) => Asked::Interrupt,
            _ = self.terminate.read(&mut second) => Asked::Terminate,
            _ = self.hangup.read(&mut third) => Asked::Reload,
        }
    }
}

fn pipe(signal: i32) -> std::io::Result<UnixStream> {
    let (read, write) = std::os::unix::net::UnixStream::pair()?;
    signal_hook::low_level::pipe::register(signal, write)?;
    read.set_nonblocking(true)?;
    UnixStream::from_std(read)
}
