//! The control group (v2) that soakd runs in: how much memory it has, and whether the kernel killed in it. That is what
//! tells an OOM kill from any other SIGKILL.

use super::protocol::{CgroupReading, Outcome};
use std::path::{Path, PathBuf};

/// Where the folder of this process's group is, or why there is none.
#[must_use]
pub fn own() -> Outcome<PathBuf> {
    of_proc("self")
}

/// The same for another process.
#[must_use]
pub fn of(pid: i32) -> Outcome<PathBuf> {
    of_proc(&pid.to_string())
}

/// The group that process `pid` and its like have to themselves: a service's or a container's, and not ours. A group of a
/// login session or of a user holds everything that somebody runs, and is no one's own.
#[must_use]
pub fn to_itself(pid: i32) -> Option<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let ours = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    if ours.lines().any(|line| line.strip_prefix("0::/") == Some(path)) || !is_own(path) {
        return None;
    }
    let folder = Path::new("/sys/fs/cgroup").join(path);
    folder.join("cgroup.procs").exists().then_some(folder)
}

fn is_own(path: &str) -> bool {
    let last = path.rsplit('/').next().unwrap_or(path);
    let container = ["docker-", "libpod-", "cri-containerd-", "crio-"].iter().any(|start| last.starts_with(start));
    match last.rsplit_once('.').map(|(_, kind)| kind) {
        Some("service") => !last.starts_with("user@"),
        Some("scope") => container,
        _ => false,
    }
}

/// `memory.current` of the group in `folder`.
#[must_use]
pub fn memory_bytes(folder: &Path) -> Option<i64> {
    std::fs::read_to_string(folder.join("memory.current")).ok()?.trim().parse().ok()
}

fn of_proc(who: &str) -> Outcome<PathBuf> {
    match std::fs::read_to_string(format!("/proc/{who}/cgroup")) {
        Ok(text) => folder(&text, Path::new("/sys/fs/cgroup")),
        Err(error) => Outcome::Absent(format!("/proc/{who}/cgroup: {error}")),
    }
}

/// The folder that `text` (of /proc/self/cgroup) names below `root`.
fn folder(text: &str, root: &Path) -> Outcome<PathBuf> {
    let Some(path) = text.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return Outcome::Absent("this process is in no version 2 control group".to_owned());
    };
    // In a container the path may be of the host and the mount of the container: then the root is our own group.
    let full = root.join(path);
    let folder = if full.join("memory.current").exists() { full } else { root.to_path_buf() };
    if folder.join("memory.current").exists() {
        Outcome::Present(folder)
    } else {
        Outcome::Absent(format!("{} has no memory controller", root.join(path).display()))
    }
}

/// Reads the group in `folder`.
#[must_use]
pub fn read(folder: &Outcome<PathBuf>) -> Outcome<CgroupReading> {
    let vmstat = std::fs::read_to_string("/proc/vmstat").ok();
    let host_oom_kills = vmstat.as_deref().and_then(|text| counter(text, "oom_kill"));
    let folder = match folder {
        Outcome::Present(folder) => folder,
        // The host's counter alone still tells of OOM kills.
        Outcome::Absent(_) | Outcome::Failed(_) if host_oom_kills.is_some() => {
            return Outcome::Present(CgroupReading { host_oom_kills, ..CgroupReading::default() });
        }
        Outcome::Absent(why) => return Outcome::Absent(why.clone()),
        Outcome::Failed(why) => return Outcome::Failed(why.clone()),
    };
    let text = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let number = |name: &str| text(name).and_then(|text| text.trim().parse().ok());
    Outcome::Present(CgroupReading {
        memory_current_bytes: number("memory.current"),
        memory_max_bytes: number("memory.max"), // "max" is no number
        oom_kills: text("memory.events").as_deref().and_then(|text| counter(text, "oom_kill")),
        host_oom_kills,
    })
}

/// `name 12` in a file of such lines.
fn counter(text: &str, name: &str) -> Option<i64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(root: &Path, max: &str) {
        std::fs::create_dir_all(root).expect("folder");
        for (name, text) in [
            ("memory.current", "4096\n"),
            ("memory.max", max),
            ("memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 0\n"),
        ] {
            std::fs::write(root.join(name), text).expect("written");
        }
    }

    #[test]
    fn a_group_with_and_without_a_limit() {
        let root = tempfile::tempdir().expect("folder");
        for (max, expected) in [("8192\n", Some(8192)), ("max\n", None)] {
            group(&root.path().join("system.slice/soakd.service"), max);
            let folder = folder("0::/system.slice/soakd.service\n", root.path());
            let Outcome::Present(reading) = read(&folder) else { panic!("{folder:?}") };
            assert_eq!(reading.memory_current_bytes, Some(4096));
            assert_eq!(reading.memory_max_bytes, expected);
            assert_eq!(reading.oom_kills, Some(2), "oom_kill, not oom and not oom_group_kill");
        }
    }

    #[test]
    fn in_a_container_the_root_is_our_group() {
        let root = tempfile::tempdir().expect("folder");
        group(root.path(), "max\n");
        assert_eq!(folder("0::/docker/abc\n", root.path()), Outcome::Present(root.path().to_path_buf()));
    }

    #[test]
    fn a_service_and_a_container_have_a_group_to_themselves_and_a_session_has_not() {
        for (path, own) in [
            ("system.slice/ollama.service", true),
            ("user.slice/user-1000.slice/user@1000.service/app.slice/vllm.service", true),
            ("system.slice/docker-0123abcd.scope", true),
            ("user.slice/user-1000.slice/session-2.scope", false),
            ("user.slice/user-1000.slice/user@1000.service", false),
            ("", false),
        ] {
            assert_eq!(is_own(path), own, "{path}");
        }
        assert_eq!(to_itself(std::process::id().cast_signed()), None, "we are in our own group");
    }

    #[test]
    fn version_1_is_absent() {
        assert!(matches!(folder("5:memory:/x\n", Path::new("/nowhere")), Outcome::Absent(_)));
    }
}
