//! The probe's main loop: frames in, readings out, and a driver that may hang without stopping either.
//!
//! The main thread reads stdin, /proc and cgroups and always answers. The driver has a thread of its own, which is asked
//! over a channel and given a moment; when it has not answered, the GPUs are [`Gpus::Silent`] and the rest goes out.

use super::gpu::{self, GpuReadings};
use super::namespace::{Namespace, Told};
use super::protocol::{
    FromProbe, GpuEvent, GpuFailure, Gpus, Outcome, ProcessAnswer, ProcessFigures, Readings, Setup, Tick, ToProbe,
    Tree, Watched,
};
use super::{cgroup, host, process, tree};
use crate::wire::{self, Decoder};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// Why the probe ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The supervisor sent what is no message.
    #[error("the supervisor's frames: {0}")]
    Wire(#[from] wire::WireError),
    /// A pipe broke.
    #[error("the supervisor's pipe: {0}")]
    Io(#[from] std::io::Error),
    /// The first frame was not `Start`, or a later one was.
    #[error("a frame out of order: {0}")]
    Order(&'static str),
}

/// Answers frames from `input` on `output` until `input` ends.
pub fn serve(mut input: impl Read, mut output: impl Write) -> Result<(), ProbeError> {
    let (mut decoder, mut buffer) = (Decoder::default(), vec![0u8; 64 << 10]);
    let mut probe: Option<Probe> = None;
    loop {
        let count = match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        decoder.push(&buffer[..count]);
        while let Some(message) = decoder.next::<ToProbe>()? {
            let answer = match (message, &mut probe) {
                (ToProbe::Start(setup), None) => {
                    probe = Some(Probe::new(setup));
                    FromProbe::Ready { pid: std::process::id() as i32 }
                }
                (ToProbe::Start(_), Some(_)) => return Err(ProbeError::Order("start came twice")),
                (ToProbe::Tick(_), None) => return Err(ProbeError::Order("a tick came before start")),
                (ToProbe::Tick(tick), Some(probe)) => FromProbe::Readings(Box::new(probe.read(&tick))),
            };
            output.write_all(&wire::encode(&answer))?;
            output.flush()?;
        }
    }
}

/// The state between two ticks.
struct Probe {
    setup: Setup,
    cgroup: Outcome<PathBuf>,
    namespace: Namespace,
    driver: Driver,
}

impl Probe {
    fn new(setup: Setup) -> Self {
        let driver = Driver::start(setup.nvml_library.clone());
        Probe { setup, cgroup: cgroup::own(), namespace: Namespace::find(), driver }
    }

    fn read(&mut self, tick: &Tick) -> Readings {
        // The driver works while /proc is read.
        self.driver.ask();
        let trees: Vec<tree::Members> =
            tick.processes.iter().map(|watched| tree::members(watched.pid, &watched.tree)).collect();
        let each: Vec<_> = trees.iter().map(|members| tree::read_each(&members.pids, tick.read_pss)).collect();
        let host = host::read(&self.setup.disk_path);
        let cgroup = cgroup::read(&self.cgroup);
        let GpuReadings { gpus, listed } = self.driver.answer(Duration::from_millis(self.setup.gpu_grace_ms));
        let Told { bytes: vram_bytes, note: vram_note } = self.namespace.tell(&listed);
        let answer = |((watched, members), each): ((&Watched, &tree::Members), &Vec<_>)| {
            whole(watched, members, each, &vram_bytes)
        };
        let processes = tick.processes.iter().zip(&trees).zip(&each).map(answer).collect();
        let (gpu_events, gpu_events_dropped) = self.driver.events();
        Readings { tick: tick.tick, processes, host, cgroup, gpus, vram_note, gpu_events, gpu_events_dropped }
    }
}

/// The answer for one that was asked after: its figures, those of its roles, and VRAM where the driver knows it.
fn whole(
    watched: &Watched,
    members: &tree::Members,
    each: &[(i32, Outcome<ProcessFigures>)],
    vram_bytes: &BTreeMap<i32, i64>,
) -> ProcessAnswer {
    // A process that the driver does not list has no context, or is not known to be meant: not zero.
    let vram_of = |pids: &mut dyn Iterator<Item = i32>| {
        pids.filter_map(|pid| vram_bytes.get(&pid).copied()).reduce(|a: i64, b| a + b)
    };
    let (mut reading, mut roles) = match watched.tree {
        Tree::Itself => (each.first().map_or(Outcome::Absent("nobody".to_owned()), |(_, one)| one.clone()), vec![]),
        _ => (tree::sum(each), tree::roles(members, each, process::now_ticks())),
    };
    if let Outcome::Present(figures) = &mut reading {
        figures.reading.vram_bytes = vram_of(&mut members.pids.iter().copied());
        figures.reading.cgroup_bytes = members.group.as_deref().and_then(cgroup::memory_bytes);
    }
    if !roles.is_empty() && !vram_bytes.is_empty() {
        let role_of = tree::role_of(members, each);
        for role in &mut roles {
            let mut pids = role_of.iter().filter(|(_, name)| **name == role.name).map(|(pid, _)| *pid);
            role.reading.vram_bytes = vram_of(&mut pids);
        }
    }
    ProcessAnswer { pid: watched.pid, reading, roles }
}

/// Events that wait to be fetched, and how many found no room.
type Queue = Arc<Mutex<(Vec<GpuEvent>, u64)>>;

/// The thread that talks to the driver, seen from the one that must not wait for it.
struct Driver {
    requests: mpsc::Sender<()>,
    answers: mpsc::Receiver<GpuReadings>,
    queue: Queue,
    /// Ticks for which an answer has been outstanding.
    outstanding_ticks: u64,
}

impl Driver {
    fn start(library: Option<PathBuf>) -> Self {
        let (requests, asked) = mpsc::channel();
        let (reply, answers) = mpsc::channel();
        let queue = Queue::default();
        let events = Arc::clone(&queue);
        // The thread is left to itself: when the process ends, so does it, hung or not.
        let spawned = std::thread::Builder::new().name("gpu-driver".to_owned()).spawn(move || {
            gpu::serve(library.as_deref(), &asked, &reply, &move |event| {
                let mut queue = events.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if queue.0.len() < gpu::EVENTS_MAX {
                    queue.0.push(event);
                } else {
                    queue.1 += 1;
                }
            });
        });
        // Without the thread both channels are closed, which `answer` tells as a failure.
        drop(spawned);
        Driver { requests, answers, queue, outstanding_ticks: 0 }
    }

    /// Asks, unless an earlier question is still open.
    fn ask(&mut self) {
        if self.outstanding_ticks > 0 && self.answers.try_recv().is_ok() {
            self.outstanding_ticks = 0; // it came late: figures of an earlier tick, not of this one
        }
        if self.outstanding_ticks == 0 {
            let _ = self.requests.send(()); // a thread that is gone is found out by `answer`
        }
        self.outstanding_ticks += 1;
    }

    fn answer(&mut self, grace: Duration) -> GpuReadings {
        // What did not answer one tick's question will not answer the next one's in time either.
        let grace = if self.outstanding_ticks > 1 { Duration::ZERO } else { grace };
        let gpus = match self.answers.recv_timeout(grace) {
            Ok(readings) if self.outstanding_ticks == 1 => {
                self.outstanding_ticks = 0;
                return readings;
            }
            Ok(_) => {
                let ticks = std::mem::take(&mut self.outstanding_ticks);
                Gpus::Silent { ticks }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => Gpus::Silent { ticks: self.outstanding_ticks },
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let what = "driver thread".to_owned();
                let meaning = "the thread that reads the driver could not start, or has panicked".to_owned();
                Gpus::Failed(GpuFailure { what, code: 999, meaning, lost: false })
            }
        };
        GpuReadings { gpus, listed: Vec::new() }
    }

    fn events(&self) -> (Vec<GpuEvent>, u64) {
        let mut queue = self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (std::mem::take(&mut queue.0), std::mem::take(&mut queue.1))
    }
}

/// Takes stdout for frames and points file descriptor 1 at stderr, so that a library which prints does not garble them.
pub fn claim_stdout() -> std::io::Result<std::fs::File> {
    let frames = nix::unistd::dup(std::io::stdout())?;
    nix::unistd::dup2_stdout(std::io::stderr())?;
    Ok(std::fs::File::from(frames))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pretend group: machines that run tests often give theirs no memory controller.
    #[test]
    fn a_groups_memory_is_read_with_that_of_its_processes() {
        let group = tempfile::tempdir().expect("folder");
        let own = std::process::id().cast_signed();
        std::fs::create_dir(group.path().join("inside")).expect("folder");
        std::fs::write(group.path().join("cgroup.procs"), "").expect("written");
        std::fs::write(group.path().join("inside/cgroup.procs"), format!("{own}\n")).expect("written");
        let none = Some("/no/such/libnvidia-ml.so.1".into());
        let mut probe = Probe::new(Setup { nvml_library: none, disk_path: "/".into(), gpu_grace_ms: 0 });
        let mut read = || {
            let watched = Watched { pid: own, tree: Tree::Group(group.path().to_path_buf()) };
            let readings = probe.read(&Tick { tick: 1, processes: vec![watched], read_pss: false });
            readings.processes[0].reading.present().expect("we live").reading
        };
        let without = read();
        assert_eq!(without.cgroup_bytes, None, "no memory controller is no figure, and not zero");
        std::fs::write(group.path().join("memory.current"), "123456789\n").expect("written");
        let with = read();
        assert_eq!(with.cgroup_bytes, Some(123_456_789));
        assert!(with.rss_anon_bytes > Some(0), "a process of a group inside it counts: {with:?}");
    }
}
