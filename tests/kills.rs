//! SIGKILL at random moments over a live run, from a seed: to the supervisor, the worker, the probe and the mailer. The
//! database stays whole, what was written stays written, time is sampled or its gap recorded, nothing is left behind,
//! and no alert is lost or torn from its thread.
//!
//! A dozen kills in a test run; `SOAKD_KILLS=1000 SOAKD_SEED=7 SOAKD_KILLS_BINARY=target/release/soakd cargo test --test
//! kills -- --nocapture` for more (the path must be absolute).

#[path = "support/smtp_server.rs"]
mod smtp_server;

use rusqlite::{Connection, OpenFlags};
use smtp_server::{Fault, SmtpServer, Stage};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Far beyond what a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(180);

const CONFIG: &str = r#"
[run]
duration = "24h"
horizon = "48h"
[model]
model = "synthetic:tiny"
backend = "cpu"
prompts = 2
prompt_tokens = 4
answer_tokens = 4
threads = 1
streams = 1
[worker]
backoff_min = "100ms"
backoff_max = "300ms"
healthy_after = "1s"
crash_loop_limit = 1000
[canary]
enabled = false
"#;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end.max(1)
    }
}

/// A run that is killed and started again.
struct Victim {
    folder: tempfile::TempDir,
    process: Child,
}

impl Victim {
    fn start(config: &str) -> Victim {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("soak.toml"), config).expect("written");
        let process = spawn(folder.path());
        Victim { folder, process }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("soak.db")
    }

    /// SIGKILL to the supervisor, and gone.
    fn kill_supervisor(&mut self) {
        self.process.kill().expect("it is our child");
        self.process.wait().expect("reaped");
    }

    fn resume(&mut self) {
        self.process = spawn(self.folder.path());
    }

    fn connection(&self) -> Option<Connection> {
        let connection = Connection::open_with_flags(self.path(), OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
        connection.busy_timeout(Duration::from_secs(10)).ok()?;
        Some(connection)
    }

    fn try_number(&self, sql: &str) -> Option<i64> {
        self.connection()?.query_row(sql, [], |row| row.get(0)).ok()
    }

    fn number(&self, sql: &str) -> i64 {
        self.wait_for(sql, || self.try_number(sql).is_some());
        self.try_number(sql).unwrap_or_else(|| panic!("{sql}"))
    }

    fn until(&self, sql: &str) {
        self.wait_for(sql, || self.try_number(sql) == Some(1));
    }

    fn wait_for(&self, what: &str, done: impl Fn() -> bool) {
        let started = Instant::now();
        while !done() {
            let left = || self.others();
            assert!(started.elapsed() < PATIENCE, "waited in vain for {what}\n{}\nliving: {:?}", self.said(), left());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn said(&self) -> String {
        let text = std::fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Integrity, by another connection, whatever the supervisor does meanwhile.
    fn is_whole(&self) -> String {
        let connection = self.connection().expect("it opens");
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap_or_else(|error| error.to_string())
    }

    /// The living processes of `role`, by the database.
    fn pid(&self, role: &str) -> Option<i32> {
        let sql = format!(
            "SELECT pid FROM process WHERE role = '{role}' AND ended_unix_ms IS NULL ORDER BY process_id DESC LIMIT 1"
        );
        self.try_number(&sql).and_then(|pid| i32::try_from(pid).ok()).filter(|pid| is_ours(*pid, self.folder.path()))
    }

    /// Whose turn it is: the supervisor's in one case of four, else that of a child which is there now. Workers take a moment
    /// to come after a kill of the supervisor, and would hardly ever be met if nobody waited for them.
    fn somebody(&self, dice: &mut Dice) -> &'static str {
        if dice.below(4) == 0 {
            return "supervisor";
        }
        if dice.below(2) == 0 {
            self.wait_for("a worker", || self.pid("worker").is_some());
        }
        let there: Vec<&str> =
            ["worker", "probe", "mailer"].into_iter().filter(|role| self.pid(role).is_some()).collect();
        there.get(dice.below(there.len() as u64) as usize).copied().unwrap_or("supervisor")
    }

    fn end(&mut self) -> i32 {
        let pid = nix::unistd::Pid::from_raw(self.process.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it lives");
        let started = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().expect("our child") {
                return status.code().unwrap_or(-1);
            }
            assert!(started.elapsed() < PATIENCE, "it does not end: {}", self.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Living processes that work in our folder, but for the supervisor itself.
    fn others(&self) -> Vec<(i32, String)> {
        let entries = std::fs::read_dir("/proc").expect("Linux");
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        let ours = pids.filter(|pid| *pid != self.process.id().cast_signed() && is_ours(*pid, self.folder.path()));
        ours.map(|pid| (pid, command(pid))).collect()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it has ended, unless the test fails
        let _ = self.process.wait();
    }
}

/// The program under test; `SOAKD_KILLS_BINARY` names a release build for thousands of kills.
fn binary() -> std::ffi::OsString {
    std::env::var_os("SOAKD_KILLS_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_soakd").into())
}

fn spawn(folder: &Path) -> Child {
    let log = |name| std::fs::File::options().create(true).append(true).open(folder.join(name)).expect("a log");
    Command::new(binary())
        .arg("run")
        .current_dir(folder)
        .env_remove("JOURNAL_STREAM")
        .stdin(Stdio::null())
        .stdout(log("stdout"))
        .stderr(log("stderr"))
        .spawn()
        .expect("soakd starts")
}

fn command(pid: i32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

/// Whether it lives (a zombie does not) and works in `folder`: a number that was given to another process is not ours.
fn is_ours(pid: i32, folder: &Path) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let alive = stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'));
    let real = folder.canonicalize().expect("it is there");
    alive && std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == real)
}

/// Whether there was somebody to kill.
fn kill(pid: i32) -> bool {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).is_ok()
}

#[test]
fn whatever_is_killed_the_database_is_whole_and_nothing_written_is_lost() {
    let seed = number("SOAKD_SEED").unwrap_or(7);
    let kills = number("SOAKD_KILLS").unwrap_or(16);
    println!("seed {seed}, {kills} kills");
    let mut done = 0;
    while done < kills {
        let some = KILLS_PER_RUN.min(kills - done);
        one_run(seed + done, some);
        done += some;
        println!("{done} of {kills} kills");
    }
}

/// A run of two days that is restarted so often is a machine to be thrown away, and not what is tested: then comes the next.
const KILLS_PER_RUN: u64 = 40;

fn one_run(seed: u64, kills: u64) {
    let mut dice = Dice(seed);
    let mut victim = Victim::start(CONFIG);
    victim.until("SELECT count(*) > 2 FROM work_sample");
    let mut killed: BTreeMap<&str, u64> = BTreeMap::new();
    let mut batches_lost: Vec<i64> = Vec::new();
    for n in 0..kills {
        std::thread::sleep(Duration::from_millis(dice.below(700)));
        let role = victim.somebody(&mut dice);
        *killed.entry(role).or_default() += 1;
        let seen = "SELECT (SELECT coalesce(max(event_id), 0) FROM event)";
        let last_event = victim.number(seen);
        let count = format!(
            "SELECT (SELECT count(*) FROM event WHERE event_id <= {last_event}) * 1000000 + (SELECT count(*) FROM process_sample)"
        );
        let before = victim.number(&count);
        if role == "supervisor" {
            let children: Vec<i32> = ["worker", "probe"].iter().filter_map(|role| victim.pid(role)).collect();
            let mono =
                "SELECT max(unix_ms) FROM process_sample JOIN process USING (process_id) WHERE role = 'supervisor'";
            victim.kill_supervisor();
            let at = soakd::clock::now().wall.0;
            // Samples come once a second and are written in the next tick: whole seconds beyond that are batches lost.
            if let Some(last) = victim.try_number(mono) {
                batches_lost.push((at - last) / 1_000 - 1);
            }
            let folder = victim.folder.path().to_path_buf();
            victim.wait_for("its children to end", || children.iter().all(|pid| !is_ours(*pid, &folder)));
            assert_eq!(victim.is_whole(), "ok", "seed {seed}, kill {n}: {role}");
            victim.resume();
            let resumed = format!("SELECT count(*) = {} FROM event WHERE kind = 'run_resumed'", killed["supervisor"]);
            victim.until(&resumed);
        } else {
            // It may have ended by itself meanwhile, which is no less a death.
            let hit = victim.pid(role).is_some_and(kill);
            *killed.entry(role).or_default() -= u64::from(!hit);
            assert_eq!(victim.is_whole(), "ok", "seed {seed}, kill {n}: {role}");
        }
        let after = victim.number(&count);
        assert!(after / 1_000_000 == before / 1_000_000, "seed {seed}, kill {n} of {role}: an event is gone");
        assert!(after >= before, "seed {seed}, kill {n} of {role}: samples that had been written are gone");
    }
    victim.until("SELECT count(*) > 0 FROM process WHERE role = 'worker' AND ended_unix_ms IS NULL");
    victim.end();
    assert_eq!(victim.is_whole(), "ok", "seed {seed}");
    victim.wait_for("everything to end", || victim.others().is_empty());

    assert_eq!(victim.number("SELECT count(*) FROM run"), 1, "one run");
    let supervisors = killed.get("supervisor").copied().unwrap_or(0) as i64;
    // One that is killed right after it has said that it resumes has no row of its own yet.
    let rows = victim.number("SELECT count(*) FROM process WHERE role = 'supervisor'");
    assert!((1..=supervisors + 1).contains(&rows), "{rows} rows for {supervisors} kills");
    assert_eq!(
        victim.number("SELECT count(*) FROM process WHERE ended_unix_ms IS NULL"),
        0,
        "every process has its end"
    );
    assert_eq!(victim.number("SELECT count(*) FROM gap WHERE reason = 'supervisor_down'"), supervisors);
    // Each end that was not asked for is told once, or belongs to a supervisor that died before it could be told.
    let ends =
        "SELECT count(*) FROM process WHERE role = 'worker' AND end_reason IN ('crash', 'refused', 'oom', 'protocol')";
    let told = victim.number("SELECT count(*) FROM event WHERE kind IN ('worker_crash', 'worker_oom')");
    assert_eq!(victim.number(ends), told, "crashes are counted once");
    let workers = killed.get("worker").copied().unwrap_or(0) as i64;
    let lost = victim.number("SELECT count(*) FROM process WHERE role = 'worker' AND end_reason = 'lost'");
    assert!(told + lost >= workers, "{workers} workers killed, {told} told of, {lost} lost with their supervisor");
    let hole = "SELECT count(*) FROM (
        SELECT s.unix_ms - lag(s.unix_ms) OVER (ORDER BY s.unix_ms) AS hole_ms, s.unix_ms AS until
        FROM process_sample AS s JOIN process USING (process_id) WHERE role = 'supervisor')
      WHERE hole_ms - coalesce((SELECT sum(min(to_unix_ms, until) - max(from_unix_ms, until - hole_ms)) FROM gap
          WHERE to_unix_ms > until - hole_ms AND from_unix_ms < until), 0) > 10000";
    assert_eq!(victim.number(hole), 0, "a silence that nothing tells of");
    assert_eq!(
        victim.number("SELECT count(*) FROM event WHERE kind = 'golden_mismatch'"),
        0,
        "same weights, same tokens"
    );
    batches_lost.sort_unstable();
    let within = batches_lost.iter().filter(|lost| **lost <= 1).count();
    println!(
        "{kills} kills from seed {seed} ({killed:?}): integrity ok each time, events lost 0, orphans 0; {told} crashes told, {lost} lost with \
         their supervisor; batches lost per kill of the supervisor: {within} of {} at most one, worst {:?}",
        batches_lost.len(),
        batches_lost.last()
    );
}

/// An alert that comes and goes, each time with another label.
const FLICKER: &str = r#"
[[rule]]
name = "flicker"
severity = "page"
group_wait = "0s"
group_by = ["turn"]
repeat = "1h"
labels = ["turn"]
sql = "SELECT CAST(:now_ms / TURN AS TEXT) AS turn WHERE :now_ms % TURN < TURN / 2"
summary = "turn {{ turn }}"
"#;

#[test]
fn killed_supervisor_and_mailer_lose_no_alert_and_tear_no_thread() {
    let seed = number("SOAKD_SEED").unwrap_or(11);
    let kills = number("SOAKD_KILLS").unwrap_or(10);
    println!("seed {seed}, {kills} kills");
    let mut dice = Dice(seed);
    let server = SmtpServer::faulty(|connection, stage| match stage {
        // One connection in seven loses its answer though nobody was killed.
        Stage::Message if connection % 7 == 6 => Fault::TakeAndClose,
        Stage::Message => Fault::Slow(Duration::from_millis(5)),
        _ => Fault::None,
    });
    let mail = format!(
        "[alerts]\nbuiltin = false\nrules = [\"flicker.toml\"]\nevaluate_every = \"500ms\"\n[mail]\ntransport = \"smtp\"\nhost = \"127.0.0.1\"\n\
         port = {}\ntls = \"none\"\nfrom = \"soakd@x.org\"\nretry_min = \"100ms\"\nretry_max = \"500ms\"\nheartbeat_every = \"none\"\n\
         [mail.routes]\ndefault = [\"ops@x.org\"]\n",
        server.address.port()
    );
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("soak.toml"), format!("{CONFIG}{mail}")).expect("written");
    // A mail for its beginning and one for its end, and sixty an hour is all that a person reads.
    let turn_ms = (kills * 200).max(4_000).to_string();
    std::fs::write(folder.path().join("flicker.toml"), FLICKER.replace("TURN", &turn_ms)).expect("written");
    let process = spawn(folder.path());
    let mut victim = Victim { folder, process };
    victim.until("SELECT count(*) > 0 FROM outbox");
    let mut killed = [0_u64; 2];
    for _ in 0..kills {
        std::thread::sleep(Duration::from_millis(200 + dice.below(2_000)));
        let mailer = victim.pid("mailer").filter(|_| dice.below(2) == 0);
        if let Some(mailer) = mailer {
            killed[1] += u64::from(kill(mailer));
        } else {
            victim.kill_supervisor();
            killed[0] += 1;
            std::thread::sleep(Duration::from_millis(dice.below(500)));
            victim.resume();
            let resumed = format!("SELECT count(*) = {} FROM event WHERE kind = 'run_resumed'", killed[0]);
            victim.until(&resumed);
        }
    }
    victim.until("SELECT count(*) > 0 FROM outbox WHERE state = 'sent'");
    victim.end();
    // What the last mailer did not manage in its few seconds is the next one's.
    let once = Command::new(binary()).args(["mail", "--once"]).current_dir(victim.folder.path()).output();
    victim.wait_for("everything to end", || victim.others().is_empty());
    let again = Command::new(binary()).args(["mail", "--once"]).current_dir(victim.folder.path()).output();
    assert_eq!(victim.number("SELECT count(*) FROM outbox WHERE state <> 'sent'"), 0, "{once:?} {again:?}");

    assert_eq!(victim.is_whole(), "ok");
    let fired = victim.number("SELECT count(*) FROM alert WHERE fired_unix_ms IS NOT NULL");
    let unmailed = "SELECT count(*) FROM alert WHERE fired_unix_ms IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM alert_decision AS d JOIN outbox AS o USING (outbox_id) WHERE d.alert_id = alert.alert_id AND o.kind = 'alert')";
    assert_eq!(victim.number(unmailed), 0, "seed {seed}: every alert that fired has its mail");
    let unresolved = "SELECT count(*) FROM alert WHERE state = 'resolved' AND fired_unix_ms IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM alert_decision AS d JOIN outbox AS o USING (outbox_id) WHERE d.alert_id = alert.alert_id AND o.kind = 'resolved')";
    assert_eq!(victim.number(unresolved), 0, "seed {seed}: every alert that ended has its RESOLVED");

    let got = server.received();
    let (mut seen, mut repeats) = (BTreeMap::<String, String>::new(), 0);
    for mail in &got {
        let (id, parent, subject) = (mail.header("Message-ID"), mail.header("In-Reply-To"), mail.header("Subject"));
        assert!(
            parent.is_empty() || seen.contains_key(&parent),
            "seed {seed}: {subject:?} came before what it answers"
        );
        if subject.starts_with("[RESOLVED]") && !subject.contains("soakd") {
            assert!(!parent.is_empty(), "seed {seed}: {subject:?} is torn from its thread");
            let turn =
                |subject: &str| subject.split("turn ").nth(1).and_then(|t| t.split(' ').next()).map(str::to_owned);
            assert_eq!(turn(&subject), turn(&seen[&parent]), "seed {seed}: it answers another alert");
        }
        if let Some(before) = seen.insert(id, subject.clone()) {
            assert_eq!(before, subject, "seed {seed}: two mails under one Message-ID");
            repeats += 1;
        }
    }
    assert_eq!(
        seen.len() as i64,
        victim.number("SELECT count(*) FROM outbox"),
        "seed {seed}: each arrived, under its own id"
    );
    let lost_answers = got.iter().filter(|mail| !mail.answered).count() as u64;
    assert!(repeats as u64 <= killed[0] + killed[1] + lost_answers, "seed {seed}: {repeats} repeats");
    assert!(fired > 0, "seed {seed}: the alerts came and went");
    println!(
        "{kills} kills from seed {seed} (supervisor {}, mailer {}): {fired} alerts fired, {} mails, none lost, none torn from its thread, \
         {repeats} repeats ({lost_answers} answers lost by the server)",
        killed[0],
        killed[1],
        seen.len()
    );
}
