//! The store under real conditions: writers killed at random with SIGKILL, disks that fill up, and a database as two days of
//! samples leave it. Children are this very test binary, started again with a task in the environment.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use serde_json::json;
use soakd::model::event::{Event, EventKind, EventSeverity};
use soakd::model::process::NewProcess;
use soakd::model::run::RunPlan;
use soakd::model::sample::{ProcessReading, Role, SampleBatch};
use soakd::model::time::UnixMillis;
use soakd::store::generate::{Fill, fill};
use soakd::store::sql::{Limits, Reader};
use soakd::store::{Mode, Store, StoreError};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Names the database for a child and makes it one.
const CHILD: &str = "SOAKD_TEST_STORE_CHILD";
const START: i64 = 1_790_000_040_000;

fn plan() -> RunPlan {
    RunPlan {
        started: UnixMillis(START),
        duration_ms: 172_800_000,
        horizon_ms: 172_800_000,
        tolerance_bytes: 50_000_000,
        backend: "cpu".into(),
        model: "synthetic:tiny".into(),
        variant: "q4_k".into(),
        streams: 1,
        scenario: "steady".into(),
        seed: 7,
        host: "gpu7".into(),
        facts: json!({}),
        config_toml: String::new(),
    }
}

fn event(at: i64, n: i64) -> Event {
    Event {
        at: UnixMillis(at),
        kind: EventKind::Note,
        severity: EventSeverity::Info,
        process_id: None,
        device_id: None,
        summary: format!("note {n}"),
        detail: json!({ "n": n }),
    }
}

fn batch(process_id: i64, at: i64) -> SampleBatch {
    let reading = ProcessReading { rss_bytes: Some(at), rss_anon_bytes: Some(at), ..ProcessReading::default() };
    SampleBatch { processes: vec![(process_id, UnixMillis(at), reading)], ..SampleBatch::default() }
}

fn new_worker(store: &mut Store, run_id: i64) -> i64 {
    let new = NewProcess { run_id, role: Role::Worker, ordinal: 0, pid: 1, name: None, started: UnixMillis(START) };
    store.start_process(&new).expect("process").process_id
}

fn count(path: &Path, sql: &str) -> i64 {
    let reader = Reader::open(path).expect("reader");
    let limits = Limits { rows_max: 1, expired: Box::new(|| false) };
    let rows = reader.query_rows(sql, &[], limits).expect(sql).rows;
    rows[0][0].as_i64().expect("a number")
}

/// Not a test of its own: the writer that [`writers_killed_at_random_lose_nothing_that_was_promised`] kills. It says on
/// stdout what the store has promised: `s N` samples up to N, `e N` event N.
#[test]
fn child_writer() {
    let Some(path) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let mut store = Store::open(&path, Mode::Write).expect("the last kill must leave a sound database");
    let run_id = match store.unfinished_run("gpu7").expect("query") {
        Some(run) => run.run_id,
        None => store.start_run(&plan()).expect("run"),
    };
    let process_id = new_worker(&mut store, run_id);
    let mut out = std::io::stdout().lock();
    writeln!(out).expect("the parent listens"); // the harness has begun a line: what it says first is not to be lost in that
    for n in 0.. {
        let at = START + n * 1_000;
        store.append(&batch(process_id, at)).expect("append");
        writeln!(out, "s {process_id} {n}").and_then(|()| out.flush()).expect("the parent listens");
        if n % 3 == 0 {
            let row = store.event(run_id, &event(at, n)).expect("event");
            writeln!(out, "e {row} {n}").and_then(|()| out.flush()).expect("the parent listens");
        }
    }
}

/// From when a child's last milliseconds count.
#[derive(Clone, Copy, PartialEq)]
enum After {
    /// While it opens, recovers or migrates the database.
    Start,
    /// While it writes.
    FirstPromise,
}

/// What a child said before it was killed, `millis` after its start or after its first promise.
fn run_and_kill(path: &Path, after: After, millis: u64) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "child_writer", "--nocapture", "--test-threads=1"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("child");
    let pipe = child.stdout.take().expect("piped");
    let (promised, first_promise) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let lines = BufReader::new(pipe).lines().map_while(Result::ok);
        let promises = lines.filter(|line| line.starts_with("s ") || line.starts_with("e "));
        promises.inspect(|_| promised.send(()).unwrap_or_default()).collect::<Vec<_>>()
    });
    if after == After::FirstPromise {
        // However slow the machine: without this a busy one would kill each child before it wrote anything.
        first_promise.recv_timeout(Duration::from_secs(60)).expect("the child writes");
    }
    std::thread::sleep(Duration::from_millis(millis));
    child.kill().expect("SIGKILL");
    child.wait().expect("reaped");
    reader.join().expect("reader")
}

#[test]
fn writers_killed_at_random_lose_nothing_that_was_promised() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("soak.db");
    let seed = std::env::var("SOAKD_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7_u64);
    let kills: u64 = std::env::var("SOAKD_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(120);
    let (mut random, mut promised_events, mut promised_samples) = (seed, 0, 0);
    for kill in 0..kills {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let after = if kill % 3 == 0 { After::Start } else { After::FirstPromise };
        let said = run_and_kill(&path, after, (random >> 33) % 90);
        promised_events += said.iter().filter(|line| line.starts_with("e ")).count() as i64;
        promised_samples += said.iter().filter(|line| line.starts_with("s ")).count() as i64;
        if kill % 20 != 19 {
            continue; // the next child checks the database as it opens it; counting each time would only be slower
        }
        let raw = rusqlite::Connection::open(&path).expect("open");
        let whole: String = raw.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("check");
        assert_eq!(whole, "ok", "seed {seed}, kill {kill}");
        let events = count(&path, "SELECT count(*) FROM event WHERE kind = 'note'");
        let samples = count(&path, "SELECT count(*) FROM process_sample");
        let lives = kill as i64 + 1;
        assert!(
            events >= promised_events && events <= promised_events + lives,
            "seed {seed}: {events} of {promised_events}"
        );
        assert!(
            samples >= promised_samples && samples <= promised_samples + lives,
            "seed {seed}: {samples} of {promised_samples}"
        );
    }
    let rolled = count(&path, "SELECT coalesce(sum(samples), 0) FROM process_minute");
    Store::open(&path, Mode::Write).expect("the next start");
    let samples = count(&path, "SELECT count(*) FROM process_sample");
    let rolled_after = count(&path, "SELECT coalesce(sum(samples), 0) FROM process_minute");
    assert!(rolled <= samples);
    assert_eq!(rolled_after, samples, "the minutes that kills interrupted are rolled up at the next start");
    println!(
        "{kills} kills from seed {seed}: {promised_events} events and {promised_samples} samples promised, all there"
    );
    assert!(promised_events > kills as i64 / 4, "the children got to write: {promised_events}");
}

/// A tmpfs of 24 MB if this user may mount one, else `None`: said on stderr, for a test that does less must not look the same.
struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    fn mount(folder: &Path) -> Option<SmallDisk> {
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "soakd-test"]).arg(folder).output();
        match done {
            Ok(output) if output.status.success() => Some(SmallDisk { folder: folder.to_path_buf() }),
            _ => None,
        }
    }

    /// Leaves no byte free.
    fn fill_up(&self) {
        let mut filler = std::fs::File::create(self.folder.join("filler")).expect("filler");
        for size in [1 << 20, 4_096, 1] {
            while filler.write_all(&vec![0x55; size]).is_ok() {}
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.folder.join("filler")).expect("filler");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.folder).status());
    }
}

#[test]
fn a_full_disk_sheds_samples_before_events_and_recovers_a_hundred_times() {
    let folder = tempfile::tempdir().expect("folder");
    let Some(disk) = SmallDisk::mount(folder.path()) else {
        eprintln!("not root: the full disk is played by a file-size limit only (see the next test)");
        return;
    };
    let path = folder.path().join("soak.db");
    let mut store = Store::open(&path, Mode::Write).expect("store");
    let run_id = store.start_run(&plan()).expect("run");
    let worker = new_worker(&mut store, run_id);
    let (mut at, mut stored, mut events) = (START, 0, 0);
    for round in 0..100 {
        // A child that is just being started has a copy of every handle, that of the reserve too, until it becomes another program.
        let _copy = std::fs::File::open(folder.path().join("soak.db-reserve")).expect("reserve");
        disk.fill_up();
        let mut shed = 0;
        for n in 0..60 {
            at += 1_000;
            match store.append(&batch(worker, at)) {
                Ok(()) => stored += 1, // the WAL has room of its own until it must grow
                Err(error) => {
                    assert!(error.is_disk_full(), "round {round}: {error}");
                    shed += 1;
                }
            }
            if n % 10 == 5 {
                let kept = store.event(run_id, &event(at, n));
                events += 1;
                kept.unwrap_or_else(|error| panic!("round {round}: an event was lost to a full disk: {error}"));
            }
        }
        disk.make_room();
        // There is room when the last handle on the filler is gone: a child that another test is just starting may have a copy
        // of it until it becomes another program.
        let recovered = (0..500).find_map(|_| {
            at += 1_000;
            let kept = store.append(&batch(worker, at)).ok();
            kept.or_else(|| {
                std::thread::sleep(std::time::Duration::from_millis(20));
                None
            })
        });
        assert!(recovered.is_some(), "round {round}: no recovery");
        stored += 1;
        assert!(round > 0 || shed <= 60);
    }
    drop(store);
    assert_eq!(count(&path, "SELECT count(*) FROM event WHERE kind = 'note'"), events);
    assert_eq!(count(&path, "SELECT count(*) FROM process_sample"), stored);
    println!("100 full disks: {events} events kept, {stored} samples stored, {} shed", (at - START) / 1_000 - stored);
    Store::open(&path, Mode::Write).expect("sound");
}

/// Not a test of its own: [`a_file_size_limit_is_typed_and_leaves_the_database_sound`] runs it in a process whose limit it may lower.
#[test]
fn child_limited() {
    let Some(path) = std::env::var_os("SOAKD_TEST_STORE_LIMITED").map(PathBuf::from) else { return };
    // SAFETY: ignoring a signal installs no handler; SIGXFSZ would end the process instead of failing the write.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.expect("ignore");
    let mut store = Store::open(&path, Mode::Write).expect("store");
    let run_id = store.start_run(&plan()).expect("run");
    let worker = new_worker(&mut store, run_id);
    let hard = getrlimit(Resource::RLIMIT_FSIZE).expect("limit").1;
    let (mut stored, mut refused) = (0, 0);
    for n in 0..400 {
        // Two seconds in four the files may not grow beyond what they are.
        let limit = if n % 4 < 2 { hard } else { 65_536 };
        setrlimit(Resource::RLIMIT_FSIZE, limit, hard).expect("limit");
        match store.append(&batch(worker, START + n * 1_000)) {
            Ok(()) => stored += 1,
            Err(error) => {
                assert!(matches!(error, StoreError::WriteFailed { .. } | StoreError::DiskFull { .. }), "{error}");
                refused += 1;
            }
        }
    }
    setrlimit(Resource::RLIMIT_FSIZE, hard, hard).expect("limit");
    store.event(run_id, &event(START, 1)).expect("recovered");
    drop(store);
    assert_eq!(count(&path, "SELECT count(*) FROM process_sample"), stored);
    assert!(refused > 0, "the limit was never met");
    println!("LIMITED {stored} stored, {refused} refused");
}

#[test]
fn a_file_size_limit_is_typed_and_leaves_the_database_sound() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("soak.db");
    let output = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "child_limited", "--nocapture", "--test-threads=1"])
        .env("SOAKD_TEST_STORE_LIMITED", &path)
        .output()
        .expect("child");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("LIMITED"), "{said}");
    Store::open(&path, Mode::Write).expect("sound");
}

#[test]
fn two_days_of_everything_stay_small_and_every_view_is_cheap() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("soak.db");
    let mut store = Store::open(&path, Mode::Write).expect("store");
    fill(&mut store, &Fill::default()).expect("48 h");
    drop(store);
    let bytes = std::fs::metadata(&path).expect("file").len();
    println!("48 h at one sample a second of everything: {:.1} MB", bytes as f64 / 1e6);
    assert!(bytes < 150_000_000, "{bytes} bytes");
    assert_eq!(count(&path, "SELECT count(*) FROM host_sample"), 172_800);
    assert_eq!(count(&path, "SELECT count(*) FROM v_memory WHERE process = 'worker-0'"), 2_880);

    let reader = Reader::open(&path).expect("reader");
    let views: Vec<&String> = reader.schema().keys().filter(|name| name.starts_with("v_")).collect();
    for view in views {
        // Work instead of time, for machines differ: a look every 4,000 steps of SQLite's machine, of which it makes well
        // over 50 million a second; benches/store measures seconds.
        let looks = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let counter = std::sync::Arc::clone(&looks);
        let expired = Box::new(move || {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            false
        });
        let limits = Limits { rows_max: 1_000_000, expired };
        let rows = reader.query_rows(&format!("SELECT * FROM {view}"), &[], limits).expect(view);
        let steps = looks.load(std::sync::atomic::Ordering::Relaxed) * 4_000;
        println!("{view}: {} rows, {:.1} million steps", rows.rows.len(), steps as f64 / 1e6);
        assert!(steps < 20_000_000, "{view} takes {steps} steps");
    }
}
