//! One process, from /proc: status, stat, smaps_rollup and the number of open files.

use super::protocol::{Outcome, ProcessFigures};
use crate::model::sample::ProcessReading;
use procfs::ProcError;
use procfs::process::Process;

/// Reads process `pid`, with Pss if `read_pss`. What /proc refuses to this user (files and Pss of another user's
/// process) is `None`; VRAM is not read here.
#[must_use]
pub fn read(pid: i32, read_pss: bool) -> Outcome<ProcessFigures> {
    match try_read(pid, read_pss) {
        Ok(Some(figures)) => Outcome::Present(figures),
        Ok(None) => Outcome::Absent(format!("process {pid} has ended and is a zombie")),
        Err(ProcError::NotFound(_)) => Outcome::Absent(format!("there is no process {pid}")),
        // A process that ends while it is read gives ESRCH from files that were opened before.
        Err(ProcError::Io(error, _)) if error.raw_os_error() == Some(libc::ESRCH) => {
            Outcome::Absent(format!("process {pid} ended while it was read"))
        }
        Err(error) => Outcome::Failed(format!("process {pid}: {error}")),
    }
}

fn try_read(pid: i32, read_pss: bool) -> Result<Option<ProcessFigures>, ProcError> {
    let process = Process::new(pid)?;
    let stat = process.stat()?;
    if matches!(stat.state, 'Z' | 'X') {
        return Ok(None);
    }
    let status = process.status()?;
    let pss_bytes = if read_pss {
        process.smaps_rollup().ok().and_then(|rollup| {
            let map = rollup.memory_map_rollup.into_iter().next()?;
            map.extension.map.get("Pss").map(|bytes| *bytes as i64) // procfs has turned kB into bytes
        })
    } else {
        None
    };
    let bytes = |kilobytes: Option<u64>| kilobytes.map(|kb| kb as i64 * 1024);
    let reading = ProcessReading {
        rss_bytes: bytes(status.vmrss),
        rss_anon_bytes: bytes(status.rssanon),
        swap_bytes: bytes(status.vmswap),
        pss_bytes,
        vram_bytes: None,
        threads: Some(status.threads as i64),
        open_fds: process.fd_count().ok().map(|count| count as i64),
        cpu_ms: Some(((stat.utime + stat.stime) * 1_000 / procfs::ticks_per_second().max(1)) as i64),
        cgroup_bytes: None,
    };
    Ok(Some(ProcessFigures { reading, start_ticks: stat.starttime, parent: stat.ppid, stack: stat.startstack }))
}

/// Clock ticks since boot, as a process's start is told in; 0 where /proc does not say.
#[must_use]
pub fn now_ticks() -> u64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds: Option<f64> = text.split(' ').next().and_then(|s| s.parse().ok());
    (seconds.unwrap_or(0.0) * procfs::ticks_per_second() as f64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_figures_are_plausible() {
        let Outcome::Present(figures) = read(std::process::id() as i32, true) else { panic!("we exist") };
        let reading = figures.reading;
        let rss = reading.rss_bytes.expect("VmRSS");
        assert!(rss > 1 << 20 && rss % 1024 == 0, "RSS {rss}");
        let (anon, pss) = (reading.rss_anon_bytes.expect("RssAnon"), reading.pss_bytes.expect("Pss"));
        assert!(anon > 0 && anon <= rss, "anonymous {anon} of {rss}");
        assert!(pss > 0 && pss <= rss + (1 << 20), "Pss {pss} of {rss}");
        assert!(reading.threads >= Some(1) && reading.open_fds >= Some(3), "{reading:?}");
        assert_eq!(reading.vram_bytes, None, "VRAM is NVML's to tell");
    }

    #[test]
    fn pss_is_read_only_when_asked_for() {
        let Outcome::Present(figures) = read(std::process::id() as i32, false) else { panic!("we exist") };
        assert_eq!(figures.reading.pss_bytes, None);
    }

    #[test]
    fn no_process_is_absent_and_not_failed() {
        // Above the kernel's limit of 2^22 no process can be.
        assert!(matches!(read(1 << 23, true), Outcome::Absent(_)));
    }

    #[test]
    fn a_zombie_is_absent() {
        let mut child = std::process::Command::new("true").spawn().expect("true");
        let pid = child.id() as i32;
        let zombie =
            std::iter::repeat_with(|| read(pid, false)).take(100_000).find(|o| matches!(o, Outcome::Absent(_)));
        assert!(matches!(zombie, Some(Outcome::Absent(why)) if why.contains("zombie")));
        child.wait().expect("reaped");
    }
}
