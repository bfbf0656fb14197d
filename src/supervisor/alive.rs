//! Child processes that really exist: made, fed, listened to, killed, and buried with their last words.
//!
//! Every child is our own binary (by /proc/self/exe, so that a file replaced during a run does not matter), leads a
//! process group of its own, and dies with us (PR_SET_PDEATHSIG; the worker also when its stdin closes), but for the mailer,
//! which stays to mail our death and then ends. What a child leaves behind is adopted (PR_SET_CHILD_SUBREAPER) and killed. Nothing here decides anything.

use super::event::{ChildId, Event, LastWords, Life};
use crate::model::sample::Role;
use crate::probe::cgroup;
use crate::probe::protocol::{CgroupReading, FromProbe, Outcome};
use crate::wire;
use crate::worker::protocol::FromWorker;
use nix::libc;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::{BTreeMap, VecDeque};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child as Process, ChildStdin, Command};
use tokio::sync::mpsc;

/// Last words that are kept.
const STDERR_TAIL_BYTES: usize = 4_096;
/// Frames that may wait for a child's stdin. A child that does not read that many does not read at all, and will be
/// found out by its silence.
const ORDERS_MAX: usize = 64;
/// After a process ended, its pipes may hold the rest of what it said; a grandchild may hold them open for ever.
const DRAIN: Duration = Duration::from_millis(300);

/// What the children are started with.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The database, for the mailer.
    pub database: PathBuf,
    /// The configuration file, for the mailer; `None` for the embedded default.
    pub config: Option<PathBuf>,
    /// Whether a target of the user's is soaked instead of the built-in loop.
    pub target: bool,
    /// What the canary leaks.
    pub canary_bytes_per_second: u64,
}

/// One living child.
#[derive(Debug)]
struct Living {
    pid: i32,
    orders: Option<mpsc::Sender<Vec<u8>>>,
}

/// All of them.
#[derive(Debug)]
pub struct Alive {
    facts: Facts,
    events: mpsc::Sender<Event>,
    living: BTreeMap<Life, Living>,
    cgroup: Outcome<PathBuf>,
    /// Killed, not yet reaped.
    orphans: Vec<i32>,
}

impl Alive {
    /// No child yet. Makes this process the one that orphans are given to.
    #[must_use]
    pub fn new(facts: Facts, events: mpsc::Sender<Event>) -> Alive {
        // SAFETY: PR_SET_CHILD_SUBREAPER takes one integer and touches no memory of ours.
        if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } != 0 {
            tracing::warn!("orphans cannot be adopted: {}", std::io::Error::last_os_error());
        }
        Alive { facts, events, living: BTreeMap::new(), cgroup: cgroup::own(), orphans: Vec::new() }
    }

    /// Starts a process; what became of it is an event, given back at once.
    pub fn spawn(&mut self, child: ChildId, life: Life) -> Event {
        let oom_kills = oom_kills(&self.cgroup);
        match self.command(child).spawn() {
            Ok(mut process) => {
                let pid = process.id().map_or(0, u32::cast_signed);
                let orders = process.stdin.take().map(feed);
                self.living.insert(life, Living { pid, orders });
                let mind = Mind { child, life, events: self.events.clone(), cgroup: self.cgroup.clone() };
                tokio::spawn(mind.watch(process));
                Event::Spawned { child, life, pid, oom_kills }
            }
            Err(error) => Event::NotSpawned { child, life, why: format!("cannot start {child}: {error}") },
        }
    }

    fn command(&self, child: ChildId) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("soakd");
        match child.role {
            Role::Worker if self.facts.target => command.arg("internal-target"),
            Role::Worker => command.arg("internal-worker"),
            Role::Probe => command.arg("internal-probe"),
            Role::Canary => command
                .arg("internal-canary")
                .arg("--bytes-per-second")
                .arg(self.facts.canary_bytes_per_second.to_string()),
            _ => {
                let ours = std::process::id().to_string();
                command.arg("mail").arg("--supervised").arg(ours).arg("--db").arg(&self.facts.database);
                if let Some(config) = &self.facts.config {
                    command.arg("--config").arg(config);
                }
                &mut command
            }
        };
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .env_remove("WATCHDOG_PID")
            .process_group(0);
        if child.role == Role::Mailer {
            return command; // it outlives us on purpose: somebody has to mail that we died
        }
        let parent = std::process::id().cast_signed();
        // SAFETY: between fork and exec only prctl, getppid and _exit are called, all async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                if libc::getppid() != parent {
                    libc::_exit(0); // we died before the line above: nobody waits for this child
                }
                Ok(())
            });
        }
        command
    }

    /// Sends a frame. A child that is gone or does not read is found out elsewhere.
    pub fn tell(&self, life: Life, frame: Vec<u8>) {
        let orders = self.living.get(&life).and_then(|living| living.orders.as_ref());
        if orders.is_none_or(|orders| orders.try_send(frame).is_err()) {
            tracing::debug!("{life:?} was told something and does not listen");
        }
    }

    /// Closes a child's stdin.
    pub fn close_stdin(&mut self, life: Life) {
        if let Some(living) = self.living.get_mut(&life) {
            living.orders = None;
        }
    }

    /// SIGUSR1: what [`Effect::AskToLeave`](super::event::Effect::AskToLeave) is for.
    pub fn ask_to_leave(&self, life: Life) {
        if let Some(living) = self.living.get(&life) {
            let _ = kill(Pid::from_raw(living.pid), Signal::SIGUSR1); // gone already is as good
        }
    }

    /// SIGKILL to the whole group.
    pub fn kill(&self, life: Life) {
        if let Some(living) = self.living.get(&life) {
            let _ = killpg(Pid::from_raw(living.pid), Signal::SIGKILL); // gone already is as good
        }
    }

    /// To be called when the event of a child's end has been seen: forgets it, and kills what it left behind.
    pub fn bury(&mut self, life: Life) -> Vec<Event> {
        self.living.remove(&life);
        self.reap();
        let known: Vec<i32> =
            self.living.values().map(|living| living.pid).chain(self.orphans.iter().copied()).collect();
        let mut events = Vec::new();
        for pid in own_children().into_iter().filter(|pid| !known.contains(pid)) {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let is_zombie = stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'));
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            self.orphans.push(pid);
            if !is_zombie {
                events.push(Event::OrphanKilled { pid, name: name.trim().to_owned() });
            }
        }
        self.reap();
        events
    }

    /// Buries killed orphans. Never waits.
    pub fn reap(&mut self) {
        self.orphans.retain(|pid| {
            matches!(waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive))
        });
    }

    /// SIGKILL to every group, for the very end.
    pub fn kill_all(&self) {
        for life in self.living.keys() {
            self.kill(*life);
        }
    }
}

/// Children of all our threads. Empty where the kernel does not tell: then orphans are the user's to find.
fn own_children() -> Vec<i32> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    let of_task = |task: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(task.ok()?.path().join("children")).ok()?;
        Some(text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>())
    };
    tasks.filter_map(of_task).flatten().collect()
}

/// How often the kernel has killed for memory: in our control group if that is known, else on this host.
fn oom_kills(cgroup: &Outcome<PathBuf>) -> Option<i64> {
    match cgroup::read(cgroup) {
        Outcome::Present(CgroupReading { oom_kills, host_oom_kills, .. }) => oom_kills.or(host_oom_kills),
        Outcome::Absent(_) | Outcome::Failed(_) => None,
    }
}

/// A task that writes frames to a child's stdin, so that a child that does not read blocks only that task.
fn feed(mut stdin: ChildStdin) -> mpsc::Sender<Vec<u8>> {
    let (sender, mut orders) = mpsc::channel::<Vec<u8>>(ORDERS_MAX);
    tokio::spawn(async move {
        while let Some(frame) = orders.recv().await {
            if stdin.write_all(&frame).await.and(stdin.flush().await).is_err() {
                return; // its end will be seen where ends are seen
            }
        }
    });
    sender
}

/// What listens to one child.
struct Mind {
    child: ChildId,
    life: Life,
    events: mpsc::Sender<Event>,
    cgroup: Outcome<PathBuf>,
}

impl Mind {
    async fn watch(self, mut process: Process) {
        let (mut out, mut err) = (process.stdout.take(), process.stderr.take());
        let (mut out_buffer, mut err_buffer) = (vec![0; 16 * 1024], vec![0; 4 * 1024]);
        let (mut decoder, mut tail, mut status) = (Some(wire::Decoder::default()), VecDeque::new(), None);
        let mut oom_kills_then = None;
        let drained = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(drained);
        while status.is_none() || out.is_some() || err.is_some() {
            tokio::select! {
                read = read(&mut out, &mut out_buffer) => match read {
                    0 => out = None,
                    n => self.take(&out_buffer[..n], &mut decoder).await,
                },
                read = read(&mut err, &mut err_buffer) => match read {
                    0 => err = None,
                    n => keep_tail(&mut tail, &err_buffer[..n]),
                },
                ended = process.wait(), if status.is_none() => {
                    oom_kills_then = oom_kills(&self.cgroup);
                    status = Some(ended);
                    drained.as_mut().reset(tokio::time::Instant::now() + DRAIN);
                },
                () = &mut drained, if status.is_some() => break,
            }
        }
        let status = status.and_then(Result::ok);
        let words = LastWords {
            exit_code: status.and_then(|status| status.code()),
            exit_signal: status.and_then(|status| status.signal()),
            stderr_tail: String::from_utf8_lossy(&tail.into_iter().collect::<Vec<u8>>()).into_owned(),
            oom_kills: oom_kills_then,
        };
        self.send(Event::Exited { child: self.child, life: self.life, words }).await;
    }

    /// Bytes of a child's stdout. After the first that is no frame, nothing more is believed.
    async fn take(&self, bytes: &[u8], decoder: &mut Option<wire::Decoder>) {
        let (child, life) = (self.child, self.life);
        if !matches!(child.role, Role::Worker | Role::Probe) {
            return; // it has nothing to say to us
        }
        let Some(frames) = decoder else { return };
        frames.push(bytes);
        loop {
            let next = match child.role {
                Role::Worker => frames
                    .next::<FromWorker>()
                    .map(|message| message.map(|message| Event::Worker { child, life, message })),
                _ => frames.next::<FromProbe>().map(|message| message.map(|message| Event::Probe { life, message })),
            };
            match next {
                Ok(Some(event)) => self.send(event).await,
                Ok(None) => return,
                Err(error) => {
                    *decoder = None;
                    return self.send(Event::Garbled { child, life, error }).await;
                }
            }
        }
    }

    async fn send(&self, event: Event) {
        let _ = self.events.send(event).await; // a loop that is gone needs no news
    }
}

/// Reads from a pipe that may be closed; pends for ever if it is. An error ends it like its end does.
async fn read(pipe: &mut Option<impl AsyncReadExt + Unpin>, buffer: &mut [u8]) -> usize {
    match pipe {
        Some(pipe) => pipe.read(buffer).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

fn keep_tail(tail: &mut VecDeque<u8>, bytes: &[u8]) {
    tail.extend(bytes);
    let surplus = tail.len().saturating_sub(STDERR_TAIL_BYTES);
    tail.drain(..surplus);
}
