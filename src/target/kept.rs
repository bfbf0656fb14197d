//! What is soaked: a command of ours, a process that already runs, or a systemd unit. Whether it lives, and how to end it.

use crate::probe::protocol::Outcome;
use crate::probe::{self, cgroup};
use crate::worker::protocol::{TargetPlan, TargetProcess};
use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};

/// One of the three.
pub enum Kept {
    /// Started by us.
    Command(Box<Child>),
    /// By process id, and when it started, so that a reused id is not mistaken for it.
    Process {
        /// The id.
        pid: i32,
        /// Clock ticks after boot.
        start_ticks: u64,
        /// The kernel's count of OOM kills when it was found.
        oom_kills: Option<i64>,
    },
    /// By its control group.
    Unit {
        /// As systemd names it.
        name: String,
        /// Below /sys/fs/cgroup.
        cgroup: PathBuf,
        /// Processes in it at the last look, with their starts.
        members: BTreeSet<(i32, u64)>,
        /// The kernel's count of OOM kills when it was found.
        oom_kills: Option<i64>,
    },
}

/// How a target ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// In words.
    pub how: String,
    /// As its parent saw it, where that is us.
    pub status: Option<ExitStatus>,
    /// The kernel killed it for memory, as far as the count of its control group tells.
    pub oom: bool,
}

impl End {
    /// True if it may well have been asked for: no fault, no kill.
    #[must_use]
    pub fn is_orderly(&self) -> bool {
        use nix::libc::{SIGHUP, SIGINT, SIGTERM};
        self.status.is_some_and(|s| s.signal().is_none_or(|signal| matches!(signal, SIGTERM | SIGINT | SIGHUP)))
    }
}

impl Kept {
    /// Starts it, or finds it. The error is prose with its remedy.
    pub fn begin(plan: &TargetPlan) -> Result<Kept, String> {
        if let Some(pid) = plan.pid {
            return match start_of(pid) {
                Some(start_ticks) => Ok(Kept::Process { pid, start_ticks, oom_kills: oom_kills(&cgroup::of(pid)) }),
                None => Err(no_process(pid)),
            };
        }
        if let Some(name) = &plan.unit {
            let cgroup = unit_cgroup(name)?;
            let members = members_of(&cgroup);
            if members.is_empty() {
                return Err(unit_is_empty(name));
            }
            let oom_kills = oom_kills(&Outcome::Present(cgroup.clone()));
            return Ok(Kept::Unit { name: name.clone(), cgroup, members, oom_kills });
        }
        spawn(&plan.command)
    }

    /// The process that counts; `None`: there are several, or it is gone.
    #[must_use]
    pub fn process(&self) -> Option<TargetProcess> {
        let pid = match self {
            Kept::Command(child) => child.id()?.cast_signed(),
            Kept::Process { pid, .. } => *pid,
            Kept::Unit { .. } => return None,
        };
        let name = procfs::process::Process::new(pid).and_then(|process| process.stat()).ok()?.comm;
        Some(TargetProcess { pid, name })
    }

    /// How it ended, as soon as it has; `None` while it lives.
    pub fn ended(&mut self) -> Option<End> {
        match self {
            Kept::Command(child) => {
                let status = child.try_wait().ok().flatten()?;
                Some(of_command(status))
            }
            Kept::Process { pid, start_ticks, oom_kills: before } => {
                if start_of(*pid) == Some(*start_ticks) {
                    return None;
                }
                // Its group may be gone with it; the host's count is still there.
                let oom = rose(*before, oom_kills(&cgroup::of(*pid)));
                let how = format!("process {pid} is gone; how it ended only who started it can know");
                Some(End { how, status: None, oom })
            }
            Kept::Unit { name, cgroup, members, oom_kills: before } => {
                let now = members_of(cgroup);
                let how = if now.is_empty() {
                    format!("the unit {name} has no process any more")
                } else if now.is_disjoint(members) {
                    format!("the unit {name} was restarted")
                } else {
                    *members = now;
                    return None;
                };
                let oom = rose(*before, oom_kills(&Outcome::Present(cgroup.clone())));
                Some(End { how, status: None, oom })
            }
        }
    }

    /// Ends what was started here, gently first; leaves alone what was only watched. Something comes back if a fault came first.
    pub async fn end(mut self, patience: Duration) -> Option<End> {
        let Kept::Command(child) = &mut self else { return None };
        if let Some(pid) = child.id() {
            let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM); // gone already is as good
        }
        let ended = tokio::time::timeout(patience, child.wait()).await;
        if ended.is_err() {
            let _ = child.kill().await; // gone meanwhile is as good
        }
        end_leftovers();
        let status = ended.ok().and_then(Result::ok);
        status.map(of_command).filter(|end| !end.is_orderly())
    }
}

/// Kills what a command left behind when it ended. The keeper adopts orphans, so all of it is below us.
pub fn end_leftovers() {
    use nix::sys::wait::{WaitPidFlag, waitpid};
    let us = std::process::id().cast_signed();
    // A killed process takes a moment to die, and its children become ours only then. A second covers freeing a large
    // memory; what is left after that is the supervisor's to bury.
    for _ in 0..100 {
        let left: Vec<i32> = probe::tree::descendants(us).into_iter().filter(|pid| *pid != us).collect();
        if left.is_empty() {
            return;
        }
        for pid in left.into_iter().map(nix::unistd::Pid::from_raw) {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL); // dead already is as good
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG)); // not ours yet: in the next round
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn spawn(command: &[String]) -> Result<Kept, String> {
    let Some((program, args)) = command.split_first() else { return Err("no command was given".to_owned()) };
    // stdout belongs to frames; what the target says goes to stderr, whose end becomes its last words.
    let output = nix::unistd::dup(std::io::stderr()).map_err(|e| format!("cannot hand on stderr: {e}"))?;
    let mut process = Command::new(program);
    process.args(args).stdin(Stdio::null()).stdout(Stdio::from(output)).kill_on_drop(true);
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe.
    unsafe {
        process.pre_exec(|| {
            // A keeper that is killed takes its target along.
            match nix::libc::prctl(nix::libc::PR_SET_PDEATHSIG, nix::libc::SIGKILL, 0, 0, 0) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    match process.spawn() {
        Ok(child) => Ok(Kept::Command(Box::new(child))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(command_not_found(program)),
        Err(error) => Err(format!("cannot start {program}: {error}")),
    }
}

/// What there is to soak, in words, without starting or touching it; or why there is nothing, as a run would say it.
pub fn look_for(plan: &TargetPlan) -> Result<String, String> {
    if let Some(pid) = plan.pid {
        return start_of(pid).map(|_| format!("process {pid} runs")).ok_or_else(|| no_process(pid));
    }
    if let Some(name) = &plan.unit {
        return match members_of(&unit_cgroup(name)?).len() {
            0 => Err(unit_is_empty(name)),
            count => Ok(format!("the unit {name} runs, with {count} process(es)")),
        };
    }
    let program = plan.command.first().ok_or("no command was given")?;
    let path = find(program)?;
    Ok(format!("{} would be started by a run: {}", path.display(), plan.command.join(" ")))
}

/// Where a program is, by PATH as exec looks for it.
fn find(program: &str) -> Result<PathBuf, String> {
    use std::os::unix::fs::PermissionsExt as _;
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = match program.contains('/') {
        true => vec![PathBuf::from(program)],
        false => std::env::split_paths(&folders).map(|folder| folder.join(program)).collect(),
    };
    let files = || {
        places.iter().filter_map(|path| Some((path, std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?)))
    };
    if let Some((path, _)) = files().find(|(_, metadata)| metadata.permissions().mode() & 0o111 != 0) {
        return Ok(path.clone());
    }
    match files().next() {
        Some((path, _)) => Err(format!("cannot start {}: it is not executable (chmod +x)", path.display())),
        None => Err(command_not_found(program)),
    }
}

fn command_not_found(program: &str) -> String {
    format!("command not found: {program} (give a path, or look at PATH)")
}

fn no_process(pid: i32) -> String {
    format!("there is no process {pid}; ps -e lists those that run")
}

fn unit_is_empty(name: &str) -> String {
    format!("the unit {name} has no process: systemctl start {name}")
}

/// When a process started; `None`: there is none, or only its corpse.
fn start_of(pid: i32) -> Option<u64> {
    let stat = procfs::process::Process::new(pid).and_then(|process| process.stat()).ok()?;
    (!matches!(stat.state, 'Z' | 'X')).then_some(stat.starttime)
}

fn members_of(cgroup: &Path) -> BTreeSet<(i32, u64)> {
    probe::tree::group_pids(cgroup).into_iter().filter_map(|pid| Some((pid, start_of(pid)?))).collect()
}

fn oom_kills(group: &Outcome<PathBuf>) -> Option<i64> {
    let reading = cgroup::read(group);
    reading.present().and_then(|reading| reading.oom_kills.or(reading.host_oom_kills))
}

fn rose(before: Option<i64>, after: Option<i64>) -> bool {
    before.zip(after).is_some_and(|(before, after)| after > before)
}

/// The control group of a unit, from systemd.
pub fn unit_cgroup(name: &str) -> Result<PathBuf, String> {
    let output = std::process::Command::new("systemctl")
        .args(["show", "--property=LoadState,ControlGroup", "--", name])
        .output()
        .map_err(|error| format!("systemctl cannot be run ({error}); --unit needs systemd, --pid does not"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let field = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('=')).unwrap_or("").to_owned();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        return Err(format!("systemctl cannot tell of the unit {name} ({said}); --unit needs systemd, --pid does not"));
    }
    if field("LoadState") == "not-found" {
        return Err(format!("systemd knows no unit {name:?}; systemctl list-units shows them"));
    }
    match field("ControlGroup").trim_start_matches('/') {
        "" => Err(format!("the unit {name} is not running: systemctl start {name}")),
        group => Ok(Path::new("/sys/fs/cgroup").join(group)),
    }
}

fn of_command(status: ExitStatus) -> End {
    End { how: format!("the command ended: {status}"), status: Some(status), oom: false }
}
