//! A `soakd run` of one's own, in a folder of its own, with limits short enough to see them reached.

#[path = "../support/process.rs"]
mod process;

#[allow(unused_imports)] // not every test binary needs it
pub use process::is_alive;
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Far beyond what a loaded machine needs; reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(240);

const CONFIG: &str = r#"
[run]
duration = "1h"
horizon = "1h"

[model]
model = "synthetic:tiny"
backend = "cpu"
prompts = 2
prompt_tokens = 4
answer_tokens = 4
threads = 1

[worker]
hang_after = "12s"
backoff_min = "200ms"
crash_loop_limit = 3
healthy_after = "1h"

[probe]
hang_after = "5s"
"#;

/// A run that is going on, or was.
pub struct Soak {
    folder: tempfile::TempDir,
    process: Child,
    environment: Vec<(&'static str, PathBuf)>,
}

impl Soak {
    /// Starts a run with further `flags`.
    pub fn start(flags: &[&str]) -> Soak {
        // A test that breaks many workers in a row is not about the limit.
        let config = if flags.len() > 6 {
            CONFIG.replace("crash_loop_limit = 3", "crash_loop_limit = 9")
        } else {
            CONFIG.into()
        };
        Soak::configured(&config, flags)
    }

    /// The same with more `sections` of configuration.
    #[allow(dead_code)] // not every test binary needs it
    pub fn with(sections: &str, flags: &[&str]) -> Soak {
        Soak::configured(&format!("{CONFIG}{sections}"), flags)
    }

    fn configured(config: &str, flags: &[&str]) -> Soak {
        Soak::prepared(config, flags, |_| {})
    }

    /// The same in a folder that is not empty, with the default configuration if none is given.
    #[allow(dead_code)] // not every test binary needs it
    pub fn prepared(config: &str, flags: &[&str], prepare: impl FnOnce(&Path)) -> Soak {
        let config = if config.is_empty() { CONFIG } else { config };
        let folder = tempfile::tempdir().expect("a folder");
        prepare(folder.path());
        // A run in a hurry samples as much faster, and is looked at as often.
        let hurry = "[run]\nsample_interval = \"200ms\"\nlook_every = \"1s\"";
        let config = if flags.contains(&"--pace") { config.replacen("[run]", hurry, 1) } else { config.to_owned() };
        std::fs::write(folder.path().join("soak.toml"), config).expect("written");
        let process = spawn(folder.path(), flags, &[]);
        Soak { folder, process, environment: Vec::new() }
    }

    /// The same with variables in its environment, which `prepare` gives.
    #[allow(dead_code)] // not every test binary needs it
    pub fn under(flags: &[&str], prepare: impl FnOnce(&Path) -> Vec<(&'static str, PathBuf)>) -> Soak {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("soak.toml"), CONFIG.replace("limit = 3", "limit = 9")).expect("written");
        let environment = prepare(folder.path());
        let process = spawn(folder.path(), flags, &environment);
        Soak { folder, process, environment }
    }

    /// The same with more `sections` of configuration, in a session of its own with all of its words on `terminal`.
    #[allow(dead_code)] // not every test binary needs it
    pub fn on_terminal(terminal: &std::fs::File, sections: &str, flags: &[&str]) -> Soak {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("soak.toml"), format!("{CONFIG}{sections}")).expect("written");
        let side = || Stdio::from(terminal.try_clone().expect("one more"));
        let mut command = command(folder.path(), flags);
        command.env("TERM", "xterm").stdin(side()).stdout(side()).stderr(side());
        let begin_session = || {
            nix::unistd::setsid()?;
            // SAFETY: TIOCSCTTY takes a number, and makes the terminal on stdin that of the session just begun.
            nix::errno::Errno::result(unsafe { nix::libc::ioctl(0, nix::libc::TIOCSCTTY, 0) })?;
            Ok(())
        };
        // SAFETY: two system calls, which are safe after a fork.
        unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, begin_session) };
        let process = command.spawn().expect("soakd starts");
        Soak { folder, process, environment: Vec::new() }
    }

    /// Starts it again on the same database.
    pub fn again(&mut self, flags: &[&str]) {
        self.process = spawn(self.folder.path(), flags, &self.environment);
    }

    /// The same with another value of a variable that [`Soak::under`] gave.
    #[allow(dead_code)] // not every test binary needs it
    pub fn again_with(&mut self, name: &'static str, value: &str) {
        self.environment.retain(|(known, _)| *known != name);
        self.environment.push((name, value.into()));
        self.again(&[]);
    }

    /// Another one on the same database while this one goes on: exit code and what it said.
    pub fn beside(&self, flags: &[&str]) -> (i32, String) {
        once(self.folder.path(), flags)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn supervisor(&self) -> i32 {
        self.process.id().cast_signed()
    }

    /// Both outputs so far.
    pub fn said(&self) -> String {
        said(self.folder.path())
    }

    /// The process id of the newest life of `role`.
    pub fn pid(&self, role: &str) -> i32 {
        let sql = format!(
            "SELECT pid FROM process WHERE role = '{role}' AND ended_unix_ms IS NULL ORDER BY process_id DESC LIMIT 1"
        );
        i32::try_from(self.number(&sql)).expect("a process id")
    }

    pub fn kill(&self, pid: i32, signal: i32) {
        assert!(pid > 1, "no such process: {}", self.said());
        let signal = nix::sys::signal::Signal::try_from(signal).expect("a signal");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("the process is there");
    }

    /// Ctrl-C, and the exit code.
    pub fn interrupt(&mut self) -> i32 {
        self.kill(self.supervisor(), nix::libc::SIGINT);
        self.wait()
    }

    /// Waits for the end; -1 for a signal.
    pub fn wait(&mut self) -> i32 {
        let folder = self.folder.path();
        process::end_of(&mut self.process, PATIENCE, || said(folder))
    }

    /// Waits until `sql` gives 1.
    pub fn until(&self, sql: &str) {
        self.wait_for(sql, || self.try_number(sql) == Some(1));
    }

    pub fn wait_for(&self, what: &str, done: impl Fn() -> bool) {
        let started = Instant::now();
        while !done() {
            let log = || self.try_text("SELECT group_concat(kind || ': ' || summary, char(10)) FROM event");
            assert!(started.elapsed() < PATIENCE, "waited in vain for {what}\n{}\n{:?}", self.said(), log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub fn number(&self, sql: &str) -> i64 {
        self.wait_for(sql, || self.try_number(sql).is_some());
        self.try_number(sql).expect("it was there")
    }

    pub fn text(&self, sql: &str) -> String {
        self.try_text(sql).expect("one row of text")
    }

    fn try_number(&self, sql: &str) -> Option<i64> {
        self.open()?.query_row(sql, [], |row| row.get(0)).ok()
    }

    fn try_text(&self, sql: &str) -> Option<String> {
        self.open()?.query_row(sql, [], |row| row.get(0)).ok()
    }

    fn open(&self) -> Option<Connection> {
        let path = self.folder.path().join("soak.db");
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).ok()
    }
}

impl Drop for Soak {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it has ended, unless the test fails
        let _ = self.process.wait();
    }
}

/// The program under test; `SOAKD_TEST_BINARY` names another one, such as a release build.
pub fn binary() -> std::ffi::OsString {
    std::env::var_os("SOAKD_TEST_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_soakd").into())
}

fn said(folder: &Path) -> String {
    let read = |name| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    format!("{}\n{}", read("stdout"), read("stderr"))
}

fn spawn(folder: &Path, flags: &[&str], environment: &[(&str, PathBuf)]) -> Child {
    let file = |name| std::fs::File::create(folder.join(name)).expect("a file");
    command(folder, flags)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(file("stdout"))
        .stderr(file("stderr"))
        .spawn()
        .expect("soakd starts")
}

fn command(folder: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("run").args(flags).current_dir(folder).env_remove("JOURNAL_STREAM");
    command
}

/// A run that is expected to end by itself: exit code and what it said on stderr.
pub fn once(folder: &Path, flags: &[&str]) -> (i32, String) {
    let output = Command::new(binary()).arg("run").args(flags).current_dir(folder).output();
    let output = output.expect("soakd starts");
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}
