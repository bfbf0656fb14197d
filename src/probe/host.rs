//! The machine: memory, swap, load and free disk space, and the facts that a run is described by.

use crate::model::sample::HostReading;
use procfs::Current;
use std::path::Path;

/// Reads the machine; `disk_path` is any path of the file system whose free space matters. What cannot be read is `None`.
#[must_use]
pub fn read(disk_path: &Path) -> HostReading {
    let memory = procfs::Meminfo::current().ok();
    let load = procfs::LoadAverage::current().ok();
    let bytes = |value: Option<u64>| value.and_then(|bytes| i64::try_from(bytes).ok());
    let available = memory.as_ref().and_then(|m| m.mem_available);
    HostReading {
        memory_available_bytes: bytes(available),
        memory_used_bytes: bytes(memory.as_ref().and_then(|m| available.map(|a| m.mem_total.saturating_sub(a)))),
        swap_used_bytes: bytes(memory.as_ref().map(|m| m.swap_total.saturating_sub(m.swap_free))),
        disk_free_bytes: disk_free_bytes(disk_path),
        load1_milli: load.map(|load| (f64::from(load.one) * 1_000.0).round() as i64),
    }
}

/// Free bytes for unprivileged users. A path that does not exist yet is answered by its nearest parent.
#[must_use]
pub fn disk_free_bytes(path: &Path) -> Option<i64> {
    let absolute = std::path::absolute(path).ok()?;
    let existing = absolute.ancestors().find(|ancestor| ancestor.exists())?;
    let facts = nix::sys::statvfs::statvfs(existing).ok()?;
    i64::try_from(facts.blocks_available().saturating_mul(facts.fragment_size())).ok()
}

/// What a run's `facts` column says of the machine: kernel, CPU, memory, limits. Read once, at the start.
#[must_use]
pub fn facts() -> serde_json::Value {
    let cpu = procfs::CpuInfo::current().ok();
    let memory = procfs::Meminfo::current().ok();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok();
    let system = std::fs::read_to_string("/etc/os-release").ok();
    serde_json::json!({
        "hostname": hostname(),
        "kernel": kernel.map(|text| text.trim().to_owned()),
        "system": system.as_deref().and_then(|text| value_of(text, "PRETTY_NAME")),
        "cpu": cpu.as_ref().and_then(|cpu| cpu.model_name(0).map(str::to_owned)),
        "cores": std::thread::available_parallelism().ok().map(std::num::NonZero::get),
        "memory_total_bytes": memory.as_ref().map(|m| m.mem_total),
        "swap_total_bytes": memory.as_ref().map(|m| m.swap_total),
        "boot_id": boot(),
        "page_bytes": procfs::page_size(),
        "nvidia_driver": std::fs::read_to_string("/proc/driver/nvidia/version").ok()
            .and_then(|text| text.lines().next().map(str::to_owned)),
        "soakd": env!("CARGO_PKG_VERSION"),
    })
}

/// Which boot of the machine this is: readings of the monotonic clock can be compared within one. Empty if it cannot be told.
#[must_use]
pub fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// The machine's name, for mails and reports.
#[must_use]
pub fn hostname() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "localhost".to_owned())
}

/// `KEY="value"` or `KEY=value` in a shell-like file.
fn value_of(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(line.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory_and_a_disk() {
        let reading = read(Path::new("/"));
        let available = reading.memory_available_bytes.expect("MemAvailable");
        assert!(available > 0 && reading.memory_used_bytes > Some(0), "{reading:?}");
        assert!(reading.disk_free_bytes >= Some(0) && reading.load1_milli >= Some(0), "{reading:?}");
    }

    #[test]
    fn a_folder_that_is_yet_to_be_made_lies_on_its_parents_disk() {
        assert!(disk_free_bytes(Path::new("/no/such/folder")).is_some());
    }

    #[test]
    fn facts_name_kernel_and_cpu() {
        let facts = facts();
        assert!(facts["kernel"].is_string() && facts["memory_total_bytes"].as_u64() > Some(0), "{facts}");
    }

    #[test]
    fn values_with_and_without_quotes() {
        let text = "NAME=x\nPRETTY_NAME=\"Debian 12\"\n";
        assert_eq!(value_of(text, "PRETTY_NAME").as_deref(), Some("Debian 12"));
        assert_eq!(value_of(text, "NAME").as_deref(), Some("x"));
        assert_eq!(value_of(text, "ID"), None);
    }
}
