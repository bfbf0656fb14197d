//! The control group (v2) that soakd runs in: how much memory it has, and whether the kernel killed in it. That is what
//! tells an OOM kill from any other SIGKILL.

use super::protocol::{CgroupReading, Outcome};
use std::path::{Path, PathBuf};

/// Where the folder of this process's group is, or why there is none.
#[must_use]
pub fn own() -> Outcome<PathBuf> {
    match std::fs::read_to_string("/proc/self/cgroup") {
        Ok(text) => folder(&text, Path::new("/sys/fs/cgroup")),
        Err(error) => Outcome::Absent(format!("/proc/self/cgroup: {error}")),
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
    fn version_1_is_absent() {
        assert!(matches!(folder("5:memory:/x\n", Path::new("/nowhere")), Outcome::Absent(_)));
    }
}
