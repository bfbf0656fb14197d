//! Memory of a tree of processes as one figure, and of each role in it: all that descend from one, or all of a control
//! group. A process that forks and ends is followed by what descends from it as long as its keeper adopts orphans.

use super::protocol::{Outcome, ProcessFigures, RoleAnswer, Tree};
use super::{cgroup, process};
use crate::model::sample::ProcessReading;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Groups inside groups that are looked into.
const DEPTH_MAX: u32 = 8;
/// Roles that are told of one tree; those that hold least are left to the whole.
pub const ROLES_MAX: usize = 16;
/// A process younger than this is passing: it counts in the tree, and is no member of a role yet. Helpers that run for
/// a moment would otherwise make a new life of their role each time.
const SETTLED_S: u64 = 5;

/// Who belongs to a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// Process ids.
    pub pids: Vec<i32>,
    /// The control group that they have to themselves, if they have.
    pub group: Option<PathBuf>,
    /// Where depth is counted from; `None`: from the group's oldest.
    root: Option<i32>,
}

/// The processes of `tree`, as seen from `pid`, which is asked for.
#[must_use]
pub fn members(pid: i32, tree: &Tree) -> Members {
    match tree {
        Tree::Itself => Members { pids: vec![pid], group: None, root: Some(pid) },
        Tree::Below => {
            let pids = descendants(pid).into_iter().filter(|p| *p != pid).collect();
            Members { pids, group: None, root: Some(pid) }
        }
        Tree::From(root) => {
            // A daemon that forked twice has left its descent, but not its group.
            let group = cgroup::to_itself(*root);
            let all: BTreeSet<i32> =
                descendants(*root).into_iter().chain(group.iter().flat_map(|group| group_pids(group))).collect();
            Members { pids: all.into_iter().collect(), group, root: Some(*root) }
        }
        Tree::Group(path) => Members { pids: group_pids(path), group: Some(path.clone()), root: None },
    }
}

/// Figures of each, in the order of `pids`; those that are gone are left out.
#[must_use]
pub fn read_each(pids: &[i32], read_pss: bool) -> Vec<(i32, Outcome<ProcessFigures>)> {
    pids.iter().map(|pid| (*pid, process::read(*pid, read_pss))).collect()
}

/// Their figures summed. Absent when none of them is left. What one of them lacks counts as nothing: a sum with a hole in
/// it would be no sum at all, so a figure that none has stays absent.
#[must_use]
pub fn sum(each: &[(i32, Outcome<ProcessFigures>)]) -> Outcome<ProcessFigures> {
    let mut sum: Option<ProcessFigures> = None;
    let mut why = "no process of it is left".to_owned();
    for (_, one) in each {
        match one {
            Outcome::Present(figures) => {
                sum = Some(match sum {
                    None => *figures,
                    Some(before) => ProcessFigures { reading: add(before.reading, figures.reading), ..before },
                });
            }
            Outcome::Failed(error) => why.clone_from(error),
            Outcome::Absent(_) => {}
        }
    }
    sum.map_or(Outcome::Absent(why), Outcome::Present)
}

/// The roles among them: one for each name at each depth. `now_ticks`: clock ticks since boot.
#[must_use]
pub fn roles(members: &Members, each: &[(i32, Outcome<ProcessFigures>)], now_ticks: u64) -> Vec<RoleAnswer> {
    let settled_ticks = SETTLED_S * procfs::ticks_per_second();
    let mut found: BTreeMap<String, (RoleAnswer, u64)> = BTreeMap::new();
    let living: Vec<(i32, &ProcessFigures)> = each.iter().filter_map(|(p, o)| Some((*p, o.present()?))).collect();
    let parents: BTreeMap<i32, i32> = living.iter().map(|(pid, figures)| (*pid, figures.parent)).collect();
    for (pid, figures) in &living {
        if now_ticks.saturating_sub(figures.start_ticks) < settled_ticks {
            continue;
        }
        let depth = depth(*pid, members.root, &parents);
        let name = name(*pid, depth);
        if name.starts_with('?') {
            continue; // it ended while it was read
        }
        let member = identity(*pid, figures);
        let (role, oldest) = found.entry(name.clone()).or_insert_with(|| {
            let reading = ProcessReading::default();
            (RoleAnswer { name, pid: *pid, processes: 0, roster: 0, reading }, u64::MAX)
        });
        role.processes += 1;
        role.roster ^= member; // in any order
        role.reading = if role.processes == 1 { figures.reading } else { add(role.reading, figures.reading) };
        if figures.start_ticks < *oldest {
            (*oldest, role.pid) = (figures.start_ticks, *pid);
        }
    }
    let mut roles: Vec<RoleAnswer> = found.into_values().map(|(role, _)| role).collect();
    roles.sort_by_key(|role| std::cmp::Reverse(role.reading.rss_bytes));
    roles.truncate(ROLES_MAX);
    roles
}

/// The processes that make up a role, from what [`roles`] was given: for figures that come from elsewhere.
#[must_use]
pub fn role_of(members: &Members, each: &[(i32, Outcome<ProcessFigures>)]) -> BTreeMap<i32, String> {
    let living: Vec<(i32, &ProcessFigures)> = each.iter().filter_map(|(p, o)| Some((*p, o.present()?))).collect();
    let parents: BTreeMap<i32, i32> = living.iter().map(|(pid, figures)| (*pid, figures.parent)).collect();
    living.iter().map(|(pid, _)| (*pid, name(*pid, depth(*pid, members.root, &parents)))).collect()
}

/// Steps down from the root, or from the topmost of the group.
fn depth(pid: i32, root: Option<i32>, parents: &BTreeMap<i32, i32>) -> u32 {
    let (mut depth, mut at) = (0, pid);
    while Some(at) != root && depth < DEPTH_MAX {
        match parents.get(&at) {
            Some(parent) if parents.contains_key(parent) => (depth, at) = (depth + 1, *parent),
            _ => break,
        }
    }
    depth
}

/// Numbers in a name that tell one of many alike from another are left out, or each would be a role of its own.
fn name(pid: i32, depth: u32) -> String {
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let (mut name, mut digits) = (String::new(), String::new());
    for c in comm.trim().chars().chain(std::iter::once('\0')) {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        name.push_str(if digits.len() > 2 { "#" } else { &digits });
        digits.clear();
        if c != '\0' {
            name.push(c);
        }
    }
    let name = if name.is_empty() { "?".to_owned() } else { name };
    if depth == 0 { name } else { format!("{name}/{depth}") }
}

/// Of one life of one process: a reused id has another start, and a program begun by exec another stack.
fn identity(pid: i32, figures: &ProcessFigures) -> u64 {
    let mix = |h: u64, n: u64| (h ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    mix(mix(mix(0x51_7c_c1_b7_27_22_0a_95, pid.unsigned_abs().into()), figures.start_ticks), figures.stack)
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
        cgroup_bytes: sum(a.cgroup_bytes, b.cgroup_bytes),
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
        // A child is a shell itself until it has become a sleep.
        let sleeps = |pids: &Vec<i32>| pids.iter().filter(|pid| name(**pid, 0) == "sleep").count() == 2;
        let found = std::iter::repeat_with(|| descendants(root)).take(100_000).find(sleeps);
        let pids = found.expect("the shell and two sleeps");
        let each = read_each(&pids, false);
        let Outcome::Present(all) = sum(&each) else { panic!("they live") };
        let Outcome::Present(one) = process::read(root, false) else { panic!("it lives") };
        assert!(all.reading.rss_bytes > one.reading.rss_bytes && all.reading.threads == Some(3), "{all:?}");
        let members = Members { pids: pids.clone(), group: None, root: Some(root) };
        assert_eq!(roles(&members, &each, one.start_ticks), [], "nobody has settled yet");
        let later = one.start_ticks + 3_600 * procfs::ticks_per_second();
        let seen = roles(&members, &each, later);
        let named: Vec<(&str, u32)> = seen.iter().map(|role| (role.name.as_str(), role.processes)).collect();
        assert_eq!(BTreeMap::from_iter(named), BTreeMap::from([("sh", 1), ("sleep/1", 2)]));
        let parts: i64 = seen.iter().filter_map(|role| role.reading.rss_bytes).sum();
        assert_eq!(Some(parts), all.reading.rss_bytes, "the roles make up the whole");
        let fewer = roles(&members, &each[..2], later);
        let sleeps = |roles: &[RoleAnswer]| roles.iter().find(|r| r.name == "sleep/1").map(|r| r.roster);
        assert_ne!(sleeps(&seen), sleeps(&fewer), "a roster tells that somebody is gone");
        for pid in pids.iter().filter(|pid| **pid != root) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL);
        }
        drop(shell.stdin.take());
        shell.wait().expect("reaped");
        assert!(matches!(sum(&read_each(&[root], false)), Outcome::Absent(_)));
    }

    #[test]
    fn another_program_in_the_same_process_is_another_life() {
        let mut shell =
            Command::new("sh").args(["-c", "read line; exec sleep 60"]).stdin(Stdio::piped()).spawn().expect("a shell");
        let pid = shell.id().cast_signed();
        let named = |wanted: &'static str| {
            let look =
                move || matches!(std::fs::read_to_string(format!("/proc/{pid}/comm")), Ok(c) if c.trim() == wanted);
            assert!(std::iter::repeat_with(look).take(100_000).any(|is| is), "it became {wanted}");
            let Outcome::Present(figures) = process::read(pid, false) else { panic!("it lives") };
            figures
        };
        let before = named("sh");
        drop(shell.stdin.take());
        let after = named("sleep");
        assert_eq!(before.start_ticks, after.start_ticks);
        assert_ne!(identity(pid, &before), identity(pid, &after));
        shell.kill().expect("killed");
        shell.wait().expect("reaped");
    }

    #[test]
    fn numbers_that_tell_twins_apart_are_no_part_of_a_name() {
        // Our own name is the test's: cut to 15 bytes by the kernel, with a hash of many digits or letters.
        let own = name(std::process::id().cast_signed(), 0);
        assert!(!own.is_empty() && !own.as_bytes().windows(3).any(|w| w.iter().all(u8::is_ascii_digit)), "{own}");
        assert!(name(std::process::id().cast_signed(), 2).ends_with("/2"));
    }
}
