//! A world for the supervisor's core: a clock that is only a number, children that are scripts, and a ledger of what was
//! really done to them, to compare the database with.

mod check;
mod time;

use rusqlite::Connection;
use soakd::config::{Backend, Config, MailerRunsAs};
use soakd::model::sample::{HostReading, ProcessReading, Role, WorkReading};
use soakd::model::time::{MonoMillis, Now, UnixMillis};
use soakd::probe::protocol::{FromProbe, Gpus, Outcome, ProcessAnswer, ProcessFigures, Readings, ToProbe};
use soakd::supervisor::Options;
use soakd::supervisor::core::Core;
use soakd::supervisor::event::{ChildId, Effect, Event, LastWords, Life};
use soakd::supervisor::start;
use soakd::wire::WireError;
use soakd::worker::protocol::{FromWorker, GoldenOutput, Loaded, Mismatch, ToWorker};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const SECOND_MS: i64 = 1_000;
const HOUR_MS: i64 = 3_600_000;

/// What breaks.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// How often something does.
    pub per_hour: f64,
    /// Whether soakd itself is killed.
    pub supervisor_dies: bool,
    /// Whether the wall clock steps.
    pub clocks_jump: bool,
    /// What comes of it when nobody is given the CPU.
    pub sleep: Sleep,
}

/// Whether the host is suspended, or gives soakd no CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sleep {
    /// Never.
    Never,
    /// It is, and its clocks go on.
    Sound,
    /// It is, and its wall clock is another one when it wakes.
    WakesElsewhere,
}

impl Faults {
    /// Nothing.
    pub const NONE: Faults = Faults { per_hour: 0.0, supervisor_dies: false, clocks_jump: false, sleep: Sleep::Never };
    /// Something every other hour.
    pub const FEW: Faults = Faults { per_hour: 0.2, supervisor_dies: true, clocks_jump: true, sleep: Sleep::Sound };
}

/// What the worker's memory does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Memory {
    /// Warms up and stays.
    Flat,
    /// Cannot be read: nothing is judged, which is nearly all of the arithmetic of a run.
    Unread,
    /// Grows for ever.
    Leak {
        /// How fast.
        bytes_per_hour: f64,
    },
}

/// A child that is a script.
#[derive(Debug)]
struct Script {
    child: ChildId,
    pid: i32,
    born: i64,
    /// It exists, but does nothing.
    frozen: bool,
    /// It said garbage and will be killed.
    garbled: bool,
    /// Its end is on the way.
    ending: bool,
    progress: u64,
    beat_ms: i64,
}

/// What was really done.
#[derive(Debug, Default)]
struct Truth {
    crashes: i64,
    /// Of the crashes, those by the kernel for memory.
    ooms: i64,
    hangs: i64,
    /// Time before the verdict in which the host slept or soakd got no CPU, milliseconds, and how often.
    slept_ms: i64,
    sleeps: i64,
    supervisor_kills: i64,
    mismatches: i64,
    orphans: i64,
    faults: u64,
    /// Killed when the run was over.
    cut_off: bool,
}

/// Rules enough for whatever a short run does; all forty are read in the longer ones.
const FEW_RULES: &str = r#"
[[rule]]
name = "worker_crash"
severity = "page"
group_wait = "0s"
repeat = "0s"
send_resolved = false
labels = ["crash"]
sql = "SELECT CAST(event_id AS TEXT) AS crash, summary AS what FROM event WHERE run_id = :run AND kind IN ('worker_crash', 'worker_oom', 'worker_hang') AND unix_ms >= :recent_ms"
summary = "{{ what }}"
[[rule]]
name = "no_tokens"
severity = "page"
group_wait = "0s"
repeat = "1h"
labels = ["silent"]
sql = "SELECT 'silent' AS silent WHERE NOT EXISTS (SELECT 1 FROM process WHERE run_id = :run AND role = 'worker' AND ended_unix_ms IS NULL)"
summary = "nothing works"
[[rule]]
name = "run_finished"
severity = "info"
kind = "finished"
group_wait = "0s"
repeat = "0s"
send_resolved = false
labels = ["ended"]
sql = "SELECT state AS ended FROM run WHERE run_id = :run AND state <> 'running'"
summary = "over"
"#;

/// An empty database, made once: migrations are not what a thousand seeds are about.
fn empty_database() -> &'static [u8] {
    static EMPTY: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    EMPTY.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("soak.db");
        drop(soakd::store::Store::open(&path, soakd::store::Mode::Write).expect("a database"));
        std::fs::read(path).expect("it is there")
    })
}

/// The figure that `sql` gives.
fn ask(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

pub struct World {
    seed: u64,
    random: u64,
    faults: Faults,
    memory: Memory,
    folder: tempfile::TempDir,
    config: Config,
    core: Option<Core>,
    now: Now,
    suspended_ms: i64,
    /// By time and order: what is on its way to the core.
    due: BTreeMap<(i64, u64), Event>,
    order: u64,
    scripts: BTreeMap<Life, Script>,
    pids: i32,
    truth: Truth,
    refuse_from: Option<i64>,
    /// The supervisor can read no process for itself.
    blind: bool,
    /// What systemd keeps over a restart, if it is systemd that restarts soakd.
    stay: Option<i64>,
    over: bool,
    /// When everybody had been starved last.
    starved_ms: i64,
    /// By the clock that does not step.
    began: i64,
    /// From when on, by the clock that does not step, the wall clock is how far ahead of it.
    clocks: Vec<(i64, i64)>,
}

impl World {
    pub fn new(seed: u64, duration: Duration, faults: Faults, memory: Memory) -> World {
        // In memory if there is such a place: a simulated power cut is not what is tested here.
        let place = Path::new("/dev/shm");
        let place = if place.is_dir() { place.to_path_buf() } else { std::env::temp_dir() };
        let folder = tempfile::tempdir_in(place).expect("a folder");
        let mut config = Config::default();
        config.run.database = folder.path().join("soak.db");
        config.run.duration = duration;
        config.model.backend = Backend::Cpu;
        config.mailer.runs_as = MailerRunsAs::Child;
        // The decisions are the same at any rate; a debug build in CI has only so much time.
        let long = duration > Duration::from_secs(10 * 3_600);
        config.run.sample_interval = Duration::from_secs(if long { 60 } else { 10 });
        config.worker.heartbeat = Duration::from_secs(if long { 60 } else { 10 });
        config.worker.hang_after = Duration::from_secs(200);
        config.probe.hang_after = Duration::from_secs(200);
        config.probe.pss_every = Duration::from_secs(300);
        config.canary.enabled = long;
        config.alerts.evaluate_every = Duration::from_secs(if long { 3_600 } else { 600 });
        config.run.look_every = Duration::from_secs(if long { 7_200 } else { 1_800 });
        if duration < Duration::from_secs(600) {
            let seconds = Duration::from_secs;
            config.run.sample_interval = seconds(2);
            config.run.look_every = seconds(60);
            (config.worker.heartbeat, config.worker.hang_after) = (seconds(2), seconds(8));
            (config.worker.healthy_after, config.worker.backoff_max) = (seconds(5), seconds(4));
            (config.probe.hang_after, config.probe.pss_every) = (seconds(8), seconds(30));
            config.alerts.evaluate_every = seconds(5);
            config.alerts.builtin = false;
            config.alerts.rules = vec![folder.path().join("few.toml")];
            std::fs::write(folder.path().join("few.toml"), FEW_RULES).expect("written");
            std::fs::write(folder.path().join("soak.db"), empty_database()).expect("written");
        }
        let now = Now { wall: UnixMillis(1_700_000_000_000), mono: MonoMillis(1_000_000) };
        World {
            seed,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5eed,
            faults,
            memory,
            folder,
            config,
            core: None,
            now,
            suspended_ms: 0,
            due: BTreeMap::new(),
            order: 0,
            scripts: BTreeMap::new(),
            pids: 100,
            truth: Truth::default(),
            refuse_from: None,
            blind: false,
            stay: None,
            over: false,
            starved_ms: i64::MIN,
            began: now.mono.0,
            clocks: vec![(now.mono.0, now.wall.0 - now.mono.0)],
        }
    }

    /// From that much time on, every worker ends before it is ready.
    pub fn refuse_after(&mut self, ms: i64) {
        self.refuse_from = Some(self.now.mono.0 + ms);
    }

    pub fn run_to_its_end(&mut self) {
        self.run_watched(HOUR_MS, |_| {});
    }

    /// The same, and `each` is told how much time is over, every so often.
    pub fn run_watched(&mut self, every_ms: i64, mut each: impl FnMut(i64)) {
        self.begin();
        let (began, mut next) = (self.now.mono.0, every_ms);
        // Ten times the duration: a run that does not end is a failure and not a test that hangs.
        let give_up = self.now.mono.0 + 10 * self.config.run.duration.as_millis() as i64 + 10 * 3_600_000;
        while !self.over {
            assert!(self.now.mono.0 < give_up, "seed {}: the run does not end", self.seed);
            self.second();
            if self.now.mono.0 - began >= next {
                each(next);
                next += every_ms;
            }
        }
        self.core = None;
    }

    fn begin(&mut self) {
        let options = Options { config: self.config.clone(), soaked_before: self.stay, ..Options::default() };
        let core = start::begin(options, self.now, self.suspended_ms, start::ReadPast::First);
        let core = core.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        if self.is_under_systemd() {
            self.stay = Some(core.run_id());
        }
        self.core = Some(core);
    }

    /// One second: what is due, the tick, and perhaps a fault.
    fn second(&mut self) {
        let until = self.now.mono.0 + SECOND_MS;
        while let Some(((at, order), _)) = self.due.first_key_value().map(|(key, event)| (*key, event)) {
            if at > until {
                break;
            }
            let event = self.due.remove(&(at, order)).expect("it was there");
            self.advance_to(at);
            self.deliver(event);
            if self.over {
                return;
            }
        }
        self.advance_to(until);
        self.apply(Event::Tick { suspended_ms: self.suspended_ms });
        if !self.over && self.chance(self.faults.per_hour / 3_600.0) {
            self.break_something();
        }
    }

    /// An event on its way arrives, if its child still is what it was.
    fn deliver(&mut self, event: Event) {
        match &event {
            Event::Worker { life, message, .. } => {
                let Some(script) = self.scripts.get_mut(life) else { return };
                if script.frozen || script.ending || script.garbled {
                    return;
                }
                if let FromWorker::Beat { .. } = message {
                    script.progress += 1;
                    let (child, life, at) = (script.child, *life, self.now.mono.0 + script.beat_ms);
                    let beat = self.beat(life);
                    self.later(at, Event::Worker { child, life, message: beat });
                }
            }
            Event::Probe { life, .. } if self.scripts.get(life).is_none_or(|script| script.frozen || script.ending) => {
                return;
            }
            Event::Exited { life, words, .. } => {
                let Some(script) = self.scripts.remove(life) else { return };
                if script.child.role == Role::Worker && words.exit_code != Some(0) {
                    self.truth.ooms += i64::from(!script.frozen && words.oom_kills > Some(0));
                    self.truth.hangs += i64::from(script.frozen);
                    self.truth.crashes += i64::from(!script.frozen);
                }
            }
            _ => {}
        }
        self.apply(event);
    }

    fn apply(&mut self, event: Event) {
        let is_behind = self.core.as_ref().is_some_and(|core| core.is_behind(self.now));
        if is_behind && !matches!(event, Event::Tick { .. }) {
            self.apply(Event::Tick { suspended_ms: self.suspended_ms });
        }
        let Some(core) = &mut self.core else { return };
        for effect in core.apply(event, self.now) {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Spawn { child, life } => {
                self.pids += 1;
                let (pid, born) = (self.pids, self.now.mono.0);
                let script = Script {
                    child,
                    pid,
                    born,
                    frozen: false,
                    garbled: false,
                    ending: false,
                    progress: 0,
                    beat_ms: 1_000,
                };
                self.scripts.insert(life, script);
                self.apply(Event::Spawned { child, life, pid, oom_kills: Some(0) });
            }
            Effect::ToWorker { life, order: ToWorker::Load(plan) } => self.load(life, &plan),
            Effect::ToWorker { life, order: ToWorker::Stop } => self.end(life, 200, Some(0), None),
            Effect::ToWorker { .. } => {}
            Effect::ToProbe { life, order: ToProbe::Start(_) } => {
                let pid = self.scripts[&life].pid;
                self.later(self.now.mono.0 + 50, Event::Probe { life, message: FromProbe::Ready { pid } });
            }
            Effect::ToProbe { life, order: ToProbe::Tick(tick) } => {
                let pids: Vec<i32> = tick.processes.iter().map(|watched| watched.pid).collect();
                let processes = self.read(&pids).into_iter().map(|(pid, reading)| ProcessAnswer {
                    pid,
                    reading: Outcome::Present(ProcessFigures { reading, start_ticks: 1, parent: 0, stack: 0 }),
                    roles: Vec::new(),
                });
                let readings = Readings {
                    tick: tick.tick,
                    processes: processes.collect(),
                    host: HostReading { disk_free_bytes: Some(500_000_000_000), ..HostReading::default() },
                    cgroup: Outcome::Absent("a simulation".into()),
                    gpus: Gpus::Absent("a simulation".into()),
                    gpu_events: vec![],
                    vram_note: None,
                    gpu_events_dropped: 0,
                };
                self.later(
                    self.now.mono.0 + 20,
                    Event::Probe { life, message: FromProbe::Readings(Box::new(readings)) },
                );
            }
            Effect::AskToLeave { life } | Effect::CloseStdin { life } => self.end(life, 50, Some(0), None),
            Effect::Kill { life } => self.end(life, 10, None, Some(9)),
            Effect::ReadFallback { pids } => {
                let readings = if self.blind { Vec::new() } else { self.read(&pids) };
                self.apply(Event::Fallback { readings });
            }
            Effect::Leave => self.leave(),
        }
    }

    fn is_under_systemd(&self) -> bool {
        self.seed & 8 == 0
    }

    /// The last instants: some are killed when all is written but that they left, and some, whom systemd starts again, even after
    /// that. Neither may begin a run.
    fn leave(&mut self) {
        let killed = self.faults.supervisor_dies && !self.truth.cut_off && self.chance(0.3);
        if !killed || self.is_under_systemd() {
            let now = self.now;
            self.core.as_mut().expect("a core that lives").leave(now);
        }
        if !killed {
            self.over = true;
            return;
        }
        self.truth.cut_off = true;
        self.kill_supervisor();
    }

    fn load(&mut self, life: Life, plan: &soakd::worker::protocol::LoadPlan) {
        let at = self.now.mono.0;
        if self.refuse_from.is_some_and(|from| at >= from) {
            return self.end(life, 100, Some(1), None);
        }
        let script = self.scripts.get_mut(&life).expect("it was spawned");
        script.beat_ms = plan.beat_ms as i64;
        let child = script.child;
        let loaded = Loaded {
            backend: "cpu".into(),
            fallback: None,
            model: plan.model.clone(),
            weight_bytes: 1,
            weight_bytes_per_token: 1,
            types: "F32: 1".into(),
            shape: "scripted".into(),
            took_ms: 900,
            target: None,
        };
        self.later(at + 900, Event::Worker { child, life, message: FromWorker::Loaded(loaded) });
        if plan.golden.is_empty() {
            for prompt in 0..plan.prompts {
                let output = GoldenOutput { backend: "cpu".into(), prompt, tokens: vec![1, 2, 3], hash: 9 };
                self.later(at + 950, Event::Worker { child, life, message: FromWorker::Golden(output) });
            }
        }
        let beat = self.beat(life);
        self.later(at + 1_000, Event::Worker { child, life, message: beat });
        if self.refuse_from.is_some() {
            // The one that works lives until the refusals begin.
            let words = LastWords { exit_signal: Some(11), ..LastWords::default() };
            self.later(self.refuse_from.unwrap_or(at), Event::Exited { child, life, words });
        }
    }

    fn beat(&self, life: Life) -> FromWorker {
        let script = &self.scripts[&life];
        let tokens = script.progress as i64 * 50;
        let reading = WorkReading {
            tokens,
            requests: tokens / 64,
            held_host_bytes: if self.memory == Memory::Unread { 0 } else { 30_000_000 },
            ..WorkReading::default()
        };
        FromWorker::Beat { progress: script.progress, reading }
    }

    fn end(&mut self, life: Life, after_ms: i64, exit_code: Option<i32>, exit_signal: Option<i32>) {
        let Some(script) = self.scripts.get_mut(&life) else { return };
        if std::mem::replace(&mut script.ending, true) {
            return;
        }
        let child = script.child;
        let words = LastWords { exit_code, exit_signal, stderr_tail: "scripted".into(), oom_kills: Some(0) };
        self.later(self.now.mono.0 + after_ms, Event::Exited { child, life, words });
    }

    fn read(&mut self, pids: &[i32]) -> Vec<(i32, ProcessReading)> {
        let mut readings = Vec::new();
        for pid in pids {
            let script = self.scripts.values().find(|script| script.pid == *pid);
            let age_h = script.map_or(0.0, |script| (self.now.mono.0 - script.born) as f64 / 3.6e6);
            let (base, growth) = match script.map(|script| script.child.role) {
                Some(Role::Worker) => match self.memory {
                    Memory::Flat | Memory::Unread => (300e6, 0.0),
                    Memory::Leak { bytes_per_hour } => (300e6, bytes_per_hour * age_h),
                },
                Some(Role::Canary) => (2e6, 200e6 / 48.0 * age_h),
                _ => (10e6, 0.0),
            };
            let warm_up = 5e6 * (1.0 - (-age_h * 20.0).exp());
            let noise = 4_096.0 * (self.roll() * 30.0).floor();
            let bytes = (base + growth + warm_up + noise) as i64;
            readings.push((
                *pid,
                ProcessReading {
                    // RSS is followed and judges nothing: one series less a process is half the arithmetic of a run.
                    rss_bytes: None,
                    rss_anon_bytes: (self.memory != Memory::Unread).then_some(bytes),
                    swap_bytes: Some(0),
                    threads: Some(3),
                    open_fds: Some(12),
                    // Not what it used, but when it was read, so that the order of samples is known whatever the clock does.
                    cpu_ms: Some(self.now.mono.0),
                    ..ProcessReading::default()
                },
            ));
        }
        readings
    }

    fn later(&mut self, at: i64, event: Event) {
        self.order += 1;
        self.due.insert((at, self.order), event);
    }

    /// Whether soakd was killed when the run was over.
    pub fn was_cut_off(&self) -> bool {
        self.truth.cut_off
    }

    /// How many faults there were.
    pub fn faults_made(&self) -> u64 {
        self.truth.faults
    }

    fn break_something(&mut self) {
        self.truth.faults += 1;
        let life_of = |world: &World, role: Role| {
            let alive = |(_, script): &(&Life, &Script)| script.child.role == role && !script.ending && !script.frozen;
            world.scripts.iter().find(alive).map(|(life, script)| (*life, script.child))
        };
        let mortal = self.faults.supervisor_dies && self.core.is_some();
        match (self.next_random() % 15, life_of(self, Role::Worker)) {
            (0, Some((life, _))) => self.end(life, 1, None, Some(11)),
            (1, Some((life, _))) => self.end(life, 1, Some(3), None),
            (2, Some((life, _))) => self.freeze(life),
            (3, Some((life, child))) => {
                self.scripts.get_mut(&life).expect("alive").garbled = true;
                self.apply(Event::Garbled { child, life, error: WireError::Garbled(b"oops".to_vec()) });
            }
            (4, _) => life_of(self, Role::Probe).into_iter().for_each(|(life, _)| self.freeze(life)),
            (5, _) => life_of(self, Role::Probe).into_iter().for_each(|(life, _)| self.end(life, 1, None, Some(6))),
            (6, _) => life_of(self, Role::Mailer).into_iter().for_each(|(life, _)| self.end(life, 1, Some(1), None)),
            (7, Some((life, child))) => self.kill_for_memory(life, child),
            (8, Some((life, child))) => {
                self.truth.mismatches += 1;
                let found = Mismatch {
                    prompt: 0,
                    stream: 0,
                    at_loop: 3,
                    at_token: Some(1),
                    expected: Some(2),
                    got: Some(3),
                    expected_hash: 9,
                    got_hash: 8,
                };
                self.apply(Event::Worker { child, life, message: FromWorker::Mismatch(found) });
            }
            (9, _) => {
                self.truth.orphans += 1;
                self.apply(Event::OrphanKilled { pid: 4_711, name: "sleep".into() });
            }
            (10, _) if self.faults.clocks_jump => self.step_clock(),
            (11, _) if self.faults.sleep != Sleep::Never => self.sleep_through(900_000, true),
            (12, _) if self.faults.sleep != Sleep::Never => self.sleep_through(20_000, false),
            (13, _) if mortal => self.kill_supervisor(),
            (14, _) if self.faults.sleep != Sleep::Never => self.starve(),
            _ => {}
        }
    }

    /// The kernel's own kill: SIGKILL that was not ours, and its count of such kills has risen.
    fn kill_for_memory(&mut self, life: Life, child: ChildId) {
        let Some(script) = self.scripts.get_mut(&life) else { return };
        if std::mem::replace(&mut script.ending, true) {
            return;
        }
        let words = LastWords { exit_code: None, exit_signal: Some(9), stderr_tail: String::new(), oom_kills: Some(1) };
        self.later(self.now.mono.0 + 1, Event::Exited { child, life, words });
    }

    fn freeze(&mut self, life: Life) {
        if let Some(script) = self.scripts.get_mut(&life) {
            script.frozen = true;
        }
    }

    fn kill_supervisor(&mut self) {
        // One that had spoken its verdict has no run to go on with: the next one only tells of it.
        let had_verdict = self.number("SELECT count(*) FROM run WHERE state <> 'running'") > 0;
        self.truth.supervisor_kills += i64::from(!had_verdict);
        self.core = None;
        self.scripts.clear();
        self.due.clear();
        let down_ms = 30_000 + (self.next_random() % 600_000) as i64;
        self.now.mono.0 += down_ms;
        self.now.wall.0 += down_ms;
        if self.faults.clocks_jump && self.chance(0.3) {
            self.step_clock();
        }
        self.begin();
    }

    pub fn number(&self, sql: &str) -> i64 {
        ask(&self.open(), sql)
    }

    fn open(&self) -> Connection {
        Connection::open(self.folder.path().join("soak.db")).expect("the database")
    }

    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn roll(&mut self) -> f64 {
        (self.next_random() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn chance(&mut self, of: f64) -> bool {
        self.roll() < of
    }
}
