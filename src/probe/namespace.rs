//! Whose process id is it? In a container the driver may speak of another world: older NVIDIA drivers list processes by
//! the ids of the host, newer ones by those of whoever asks, and then often without their memory. An id is believed only
//! when it can be shown to be meant; what cannot be told is unknown, and said to be: not zero, and never somebody else's.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The pid namespace of the machine itself; this number is fixed in the kernel (PROC_PID_INIT_INO).
const OUTERMOST: &str = "pid:[4026531836]";
/// Where containers mount the host's /proc by custom, if the environment does not say.
const HOST_PROC: &str = "/host/proc";
/// Ids named in a note; the rest is counted.
const NAMED_MAX: usize = 4;

/// Memory of processes, by ids of this namespace, and what could not be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Bytes by process id, as this process sees ids.
    pub bytes: BTreeMap<i32, i64>,
    /// Why something is missing.
    pub note: Option<String>,
}

/// How ids that the driver lists become ids of this namespace.
#[derive(Debug)]
pub struct Namespace {
    own: PathBuf,
    /// /proc of the host, if we find ourselves in it.
    host: Option<PathBuf>,
    outermost: bool,
}

impl Namespace {
    /// That of this process. The host's /proc is looked for at `HOST_PROC`, or where that variable says.
    #[must_use]
    pub fn find() -> Self {
        let host = std::env::var_os("HOST_PROC").map_or_else(|| PathBuf::from(HOST_PROC), PathBuf::from);
        Namespace::new(Path::new("/proc"), &host)
    }

    fn new(own: &Path, host: &Path) -> Self {
        let outermost = namespace_of(own, "self").is_none_or(|name| name == OUTERMOST);
        // `self` of another /proc is who asks, in that namespace's ids: if it is there, that namespace is around ours.
        let host = (!outermost && ids(host, "self").is_some_and(|ids| ids.len() > 1)).then(|| host.to_path_buf());
        Namespace { own: own.to_path_buf(), host, outermost }
    }

    /// Takes what the driver lists: process id and bytes; no bytes where it does not say.
    #[must_use]
    pub fn tell(&self, listed: &[(i32, Option<i64>)]) -> Told {
        let mut told = Told::default();
        let (mut strangers, mut silent) = (Vec::new(), Vec::new());
        for (pid, bytes) in listed {
            match self.resolve(*pid) {
                Whose::Here(local) => match bytes {
                    // No process with a context holds nothing: drivers say zero of a container's, and mean that they do not know.
                    None | Some(0) => silent.push(local),
                    Some(bytes) => *told.bytes.entry(local).or_insert(0) += bytes,
                },
                Whose::Elsewhere => {}
                Whose::Unknown => strangers.push(*pid),
            }
        }
        if self.outermost {
            return told; // what is missing here is the driver's to refuse: WSL and some modes of operation do
        }
        let mut note = String::new();
        // Writing into a String cannot fail.
        if !strangers.is_empty() {
            let _ = write!(
                note,
                "the driver lists processes by ids of another pid namespace ({}), and whose they are cannot be told in here. \
                 Share the host's namespace (hostPID: true, docker run --pid=host), or mount its /proc read-only at {HOST_PROC}",
                some(&strangers)
            );
        }
        if !silent.is_empty() {
            let _ = write!(
                note,
                "{}the driver does not say how much VRAM processes of this pid namespace hold ({})",
                if note.is_empty() { "" } else { "; " },
                some(&silent)
            );
        }
        told.note =
            (!note.is_empty()).then(|| format!("VRAM by process is unknown, that of the whole GPU is watched: {note}"));
        told
    }

    fn resolve(&self, pid: i32) -> Whose {
        if self.outermost {
            return Whose::Here(pid);
        }
        if let Some(host) = &self.host
            && let Some(there) = ids(host, &pid.to_string())
        {
            let ours = ids(host, "self").map_or(usize::MAX, |ids| ids.len());
            let local = ours.checked_sub(1).and_then(|level| there.get(level)).copied();
            match local {
                Some(local) if self.is_same(host, pid, local, there.len() == ours) => return Whose::Here(local),
                // It may be an id of ours that somebody over there has too.
                _ if !self.has_gpu(pid) => return Whose::Elsewhere,
                _ => {}
            }
        }
        if self.has_gpu(pid) { Whose::Here(pid) } else { Whose::Unknown }
    }

    /// Whether the host's `pid` and our `local` are one process. Another container has a process of that id, too.
    fn is_same(&self, host: &Path, pid: i32, local: i32, directly: bool) -> bool {
        if directly
            && let (Some(over_there), Some(ours)) =
                (namespace_of(host, &pid.to_string()), namespace_of(&self.own, "self"))
        {
            return over_there == ours;
        }
        // Its namespace may not be looked at without privileges, and may lie inside ours. A process keeps its start.
        let born = |proc: &Path, pid: i32| {
            let stat = std::fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?;
            let (name, rest) = stat.rsplit_once(") ")?;
            Some((name.split_once('(')?.1.to_owned(), rest.split(' ').nth(19)?.to_owned()))
        };
        born(host, pid).is_some_and(|there| born(&self.own, local) == Some(there))
    }

    /// Whether our process `pid` has a device of the driver open.
    fn has_gpu(&self, pid: i32) -> bool {
        let open = std::fs::read_dir(self.own.join(pid.to_string()).join("fd"));
        open.into_iter().flatten().flatten().any(|fd| {
            std::fs::read_link(fd.path()).is_ok_and(|target| target.to_string_lossy().starts_with("/dev/nvidia"))
        })
    }
}

enum Whose {
    /// Ours, and its id here.
    Here(i32),
    /// Known to be none of ours.
    Elsewhere,
    Unknown,
}

/// A process's ids, outermost namespace first, beginning with that of this /proc.
fn ids(proc: &Path, who: &str) -> Option<Vec<i32>> {
    let status = std::fs::read_to_string(proc.join(who).join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().map(|id| id.parse().ok()).collect()
}

fn namespace_of(proc: &Path, who: &str) -> Option<String> {
    Some(std::fs::read_link(proc.join(who).join("ns/pid")).ok()?.to_string_lossy().into_owned())
}

fn some(pids: &[i32]) -> String {
    let named: Vec<String> = pids.iter().take(NAMED_MAX).map(i32::to_string).collect();
    let more = pids.len().saturating_sub(NAMED_MAX);
    if more == 0 { named.join(", ") } else { format!("{} and {more} more", named.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A process in a pretend /proc: its ids from there inwards, its namespace if it may be seen, name, start and devices.
    fn process(proc: &Path, who: &str, ids: &str, namespace: Option<&str>, born: (&str, u64), devices: &[&str]) {
        let folder = proc.join(who);
        std::fs::create_dir_all(folder.join("ns")).expect("folder");
        std::fs::create_dir_all(folder.join("fd")).expect("folder");
        std::fs::write(folder.join("status"), format!("Name:\tx\nNSpid:\t{ids}\n")).expect("written");
        let zeros = "0 ".repeat(18);
        std::fs::write(folder.join("stat"), format!("1 ({}) S {zeros}{} 0\n", born.0, born.1)).expect("written");
        if let Some(namespace) = namespace {
            symlink(namespace, folder.join("ns/pid")).expect("linked");
        }
        for (n, device) in devices.iter().enumerate() {
            symlink(device, folder.join("fd").join(n.to_string())).expect("linked");
        }
    }

    const OURS: &str = "pid:[4026532001]";
    const THEIRS: &str = "pid:[4026532002]";

    #[test]
    fn on_the_machine_itself_an_id_is_an_id() {
        let proc = tempfile::tempdir().expect("folder");
        process(proc.path(), "self", "77", Some(OUTERMOST), ("soakd", 5), &[]);
        let told = Namespace::new(proc.path(), Path::new("/no/such/proc")).tell(&[(4_711, Some(9)), (4_712, None)]);
        assert_eq!(told, Told { bytes: [(4_711, 9)].into(), note: None });
    }

    #[test]
    fn the_hosts_ids_are_found_through_its_proc() {
        let (own, host) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
        process(own.path(), "self", "8", Some(OURS), ("soakd", 50), &[]);
        process(own.path(), "12", "12", Some(OURS), ("vllm", 60), &[]);
        process(own.path(), "13", "13", None, ("VLLM::Worker 0) x", 61), &[]);
        process(own.path(), "14", "14 1", None, ("inner", 70), &[]);
        process(host.path(), "self", "90008 8", None, ("soakd", 50), &[]);
        process(host.path(), "90012", "90012 12", Some(OURS), ("vllm", 60), &[]);
        process(host.path(), "90013", "90013 13", None, ("VLLM::Worker 0) x", 61), &[]);
        process(host.path(), "90014", "90014 14 1", None, ("inner", 70), &[]); // a container in our container
        process(host.path(), "80012", "80012 12", Some(THEIRS), ("vllm", 60), &[]); // its twin in another container
        process(host.path(), "80013", "80013 13", None, ("vllm", 59), &[]);
        process(host.path(), "12", "12", None, ("kworker", 1), &[]); // of the host, with an id that one of ours has
        let namespace = Namespace::new(own.path(), host.path());
        let listed = [90_012, 90_013, 90_014, 80_012, 80_013, 12].map(|pid| (pid, Some(i64::from(pid))));
        let told = namespace.tell(&listed);
        assert_eq!(told.bytes, [(12, 90_012), (13, 90_013), (14, 90_014)].into());
        assert_eq!(told.note, None, "the others are known to be none of ours");
    }

    #[test]
    fn without_it_a_stranger_is_unknown_and_said_to_be() {
        let own = tempfile::tempdir().expect("folder");
        process(own.path(), "self", "8", Some(OURS), ("soakd", 50), &[]);
        process(own.path(), "12", "12", Some(OURS), ("vllm", 60), &["/dev/null", "/dev/nvidia0", "/dev/nvidia-uvm"]);
        process(own.path(), "13", "13", Some(OURS), ("sleep", 60), &["/dev/null"]);
        let namespace = Namespace::new(own.path(), Path::new("/no/such/proc"));
        // The driver may speak our ids: then who is named has its device open.
        assert_eq!(namespace.tell(&[(12, Some(5))]), Told { bytes: [(12, 5)].into(), note: None });
        // One of ours happens to have the host's id; it has no GPU, so it is not meant.
        let told = namespace.tell(&[(13, Some(5)), (90_012, Some(7))]);
        assert_eq!(told.bytes, BTreeMap::new());
        let note = told.note.expect("said");
        assert!(note.contains("(13, 90012)") && note.contains("hostPID") && note.contains("whole GPU"), "{note}");
    }

    #[test]
    fn zero_is_what_newer_drivers_say_for_unknown() {
        let own = tempfile::tempdir().expect("folder");
        process(own.path(), "self", "8", Some(OURS), ("soakd", 50), &[]);
        process(own.path(), "12", "12", Some(OURS), ("vllm", 60), &["/dev/nvidiactl"]);
        let told = Namespace::new(own.path(), Path::new("/no/such/proc")).tell(&[(12, Some(0))]);
        assert_eq!(told.bytes, BTreeMap::new(), "NULL and not zero");
        assert!(told.note.expect("said").contains("does not say how much VRAM"));
    }
}
