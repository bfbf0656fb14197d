//! Memory of a tree of processes as one figure: all that descend from one, or all of a control group. A process that forks
//! and ends is followed by what descends from it as long as its keeper adopts orphans.

use super::process;
use super::protocol::{Outcome, ProcessFigures, Tree};
use crate::model::sample::ProcessReading;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Groups inside groups that are looked into.
const DEPTH_MAX: u32 = 8;

/// The processes of `tree`, as seen from `pid`, which is asked for.
#[must_use]
pub fn pids(pid: i32, tree: &Tree) -> Vec<i32> {
    match tree {
        Tree::Itself => vec![pid],
        Tree::Below => descendants(pid).into_iter().filter(|p| *p != pid).collect(),
        Tree::From(root) => descendants(*root),
        Tree::Group(path) => group_pids(path),
    }
}

/// Their figures summed. Absent when none of them is left. What one of them lacks counts as nothing: a sum with a hole in
/// it would be no sum at all, so a figure that none has stays absent.
#[must_use]
pub fn read(pids: &[i32], read_pss: bool) -> Outcome<ProcessFigures> {
    let mut sum: Option<ProcessFigures> = None;
    let mut why = "no process of it is left".to_owned();
    for pid in pids {
        match process::read(*pid, read_pss) {
            Outcome::Present(figures) => {
                sum = Some(match sum {
                    None => figures,
                    Some(before) => ProcessFigures { reading: add(before.reading, figures.reading), ..before },
                });
            }
            Outcome::Failed(error) => why = error,
            Outcome::Absent(_) => {}
        }
    }
    sum.map_or(Outcome::Absent(why), Outcome::Present)
}

fn add(a: ProcessReading, b: ProcessReading) -> ProcessReading {
    let sum = |a: Option<i64>, b: Option<i64>| match (a, b) {
        (Some(a), Some(b)) => Some(a + b),
        (one, other) => one.or(other),
    };
    ProcessReading {
        rss_bytes: sum(a.rss_bytes, b.rss_bytes),
        rss_anon_bytes: sum(a.rss_anon_bytes, b.rss_anon_bytes),
        swap_bytes: sum(a.swap_bytes, b.swap_bytes),
        pss_bytes: sum(a.pss_bytes, b.pss_bytes),
        vram_bytes: sum(a.vram_bytes, b.vram_bytes),
        threads: sum(a.threads, b.threads),
        open_fds: sum(a.open_fds, b.open_fds),
        cpu_ms: sum(a.cpu_ms, b.cpu_ms),
    }
}

/// `root` and all that descend from it. Orphans that another has adopted are not found this way.
#[must_use]
pub fn descendants(root: i32) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default(); // it may have ended meanwhile
        // The name in parentheses may hold anything; what follows the last one is fields.
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<i32>().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut found, mut open) = (BTreeSet::new(), vec![root]);
    while let Some(pid) = open.pop() {
        if found.insert(pid) {
            open.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found.into_iter().collect()
}

/// All processes of a control group and of those inside it.
#[must_use]
pub fn group_pids(path: &Path) -> Vec<i32> {
    let (mut found, mut open) = (BTreeSet::new(), vec![(path.to_path_buf(), 0)]);
    while let Some((path, depth)) = open.pop() {
        let list = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default(); // gone meanwhile: nobody in it
        found.extend(list.lines().filter_map(|line| line.trim().parse::<i32>().ok()));
        if depth < DEPTH_MAX {
            let inside = std::fs::read_dir(&path).into_iter().flatten().flatten();
            open.extend(inside.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| (e.path(), depth + 1)));
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_shell_and_its_children_are_one_tree() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 60 & sleep 60 & read line"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        let root = shell.id().cast_signed();
        let found = std::iter::repeat_with(|| descendants(root)).take(100_000).find(|pids| pids.len() == 3);
        let pids = found.expect("the shell and two sleeps");
        let Outcome::Present(all) = read(&pids, false) else { panic!("they live") };
        let Outcome::Present(one) = read(&[root], false) else { panic!("it lives") };
        assert!(all.reading.rss_bytes > one.reading.rss_bytes && all.reading.threads == Some(3), "{all:?}");
        for pid in pids.iter().filter(|pid| **pid != root) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL);
        }
        drop(shell.stdin.take());
        shell.wait().expect("reaped");
        assert!(matches!(read(&[root], false), Outcome::Absent(_)));
    }
}
