//! A run that is killed at moments that a seed chooses, and started again.

#[path = "../support/process.rs"]
mod process;

use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Far beyond what a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(180);

pub const CONFIG: &str = r#"
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

pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// SplitMix64.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end.max(1)
    }
}

/// A run that is killed and started again.
pub struct Victim {
    pub folder: tempfile::TempDir,
    pub process: Child,
}

impl Victim {
    pub fn start(config: &str) -> Victim {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("soak.toml"), config).expect("written");
        let process = spawn(folder.path());
        Victim { folder, process }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("soak.db")
    }

    /// SIGKILL to the supervisor, and gone.
    pub fn kill_supervisor(&mut self) {
        self.process.kill().expect("it is our child");
        self.process.wait().expect("reaped");
    }

    pub fn resume(&mut self) {
        self.process = spawn(self.folder.path());
    }

    pub fn connection(&self) -> Option<Connection> {
        let connection = Connection::open_with_flags(self.path(), OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
        connection.busy_timeout(Duration::from_secs(10)).ok()?;
        Some(connection)
    }

    pub fn try_number(&self, sql: &str) -> Option<i64> {
        self.connection()?.query_row(sql, [], |row| row.get(0)).ok()
    }

    pub fn number(&self, sql: &str) -> i64 {
        self.wait_for(sql, || self.try_number(sql).is_some());
        self.try_number(sql).unwrap_or_else(|| panic!("{sql}"))
    }

    pub fn until(&self, sql: &str) {
        self.wait_for(sql, || self.try_number(sql) == Some(1));
    }

    pub fn wait_for(&self, what: &str, done: impl Fn() -> bool) {
        let started = Instant::now();
        while !done() {
            let left = || self.others();
            assert!(started.elapsed() < PATIENCE, "waited in vain for {what}\n{}\nliving: {:?}", self.said(), left());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn said(&self) -> String {
        said(self.folder.path())
    }

    /// Batches of samples that the last supervisor read and never wrote, and how many readings were in them. Meant for after a kill.
    pub fn lost(&self) -> (usize, usize) {
        let newest = "SELECT coalesce(max(unix_ms), 0) FROM process_sample JOIN process USING (process_id) WHERE role = 'supervisor'";
        let newest = self.number(newest);
        let log = std::fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default();
        let (mut batches, mut readings, mut open) = (0, 0, 0);
        for line in log.lines() {
            let taken =
                line.split_once("readings of ").and_then(|(_, rest)| rest.split(' ').next()?.parse::<i64>().ok());
            open += usize::from(taken.is_some_and(|at| at > newest));
            if line.contains(" goes on; ") {
                (batches, readings, open) = (0, 0, 0); // what went with an earlier life was counted then
            } else if line.contains("a batch of samples is written") {
                (batches, readings, open) = (batches + usize::from(open > 0), readings + open, 0);
            }
        }
        (batches + usize::from(open > 0), readings + open)
    }

    /// Integrity, by another connection, whatever the supervisor does meanwhile.
    pub fn is_whole(&self) -> String {
        let connection = self.connection().expect("it opens");
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap_or_else(|error| error.to_string())
    }

    /// The living processes of `role`, by the database.
    pub fn pid(&self, role: &str) -> Option<i32> {
        let sql = format!(
            "SELECT pid FROM process WHERE role = '{role}' AND ended_unix_ms IS NULL ORDER BY process_id DESC LIMIT 1"
        );
        self.try_number(&sql).and_then(|pid| i32::try_from(pid).ok()).filter(|pid| is_ours(*pid, self.folder.path()))
    }

    /// Whose turn it is: the supervisor's in one case of four, else that of a child which is there now. Workers take a moment
    /// to come after a kill of the supervisor, and would hardly ever be met if nobody waited for them.
    pub fn somebody(&self, dice: &mut Dice) -> &'static str {
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

    pub fn end(&mut self) -> i32 {
        let pid = nix::unistd::Pid::from_raw(self.process.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it lives");
        let folder = self.folder.path();
        process::end_of(&mut self.process, PATIENCE, || said(folder))
    }

    /// Living processes that work in our folder, but for the supervisor itself.
    pub fn others(&self) -> Vec<(i32, String)> {
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
pub fn binary() -> std::ffi::OsString {
    std::env::var_os("SOAKD_KILLS_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_soakd").into())
}

pub fn spawn(folder: &Path) -> Child {
    let log = |name| std::fs::File::options().create(true).append(true).open(folder.join(name)).expect("a log");
    Command::new(binary())
        .arg("run")
        .current_dir(folder)
        .env_remove("JOURNAL_STREAM")
        .env("SOAKD_LOG", "soakd=info,soakd::supervisor=trace")
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

/// The last of what it said.
fn said(folder: &Path) -> String {
    let text = std::fs::read_to_string(folder.join("stderr")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// Whether it lives (a zombie does not) and works in `folder`: a number that was given to another process is not ours.
pub fn is_ours(pid: i32, folder: &Path) -> bool {
    let real = folder.canonicalize().expect("it is there");
    process::is_alive(pid) && std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == real)
}

/// Whether there was somebody to kill.
pub fn kill(pid: i32) -> bool {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).is_ok()
}
