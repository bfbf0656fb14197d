//! The database: does it open, may it be written, does the disk hold a run, and is nobody else running.

use super::Findings;
use crate::clock;
use crate::config::Config;
use crate::probe::host;
use crate::store::{BESIDE_BYTES, Mode, Store};
use std::path::{Path, PathBuf};

const CHECK: &str = "database";
/// What 48 h at one sample a second take, with room: the design asks for less than this.
const RUN_BYTES_PER_SAMPLE: f64 = 150e6 / (48.0 * 3600.0);
/// Below this much beside the run's own needs, whatever else writes to the disk will fill it.
const SPARE_BYTES: i64 = 500_000_000;
/// File systems on which SQLite's WAL does not work, by the magic number of statfs(2).
const NETWORK_FILE_SYSTEMS: [(i64, &str); 4] =
    [(0x6969, "NFS"), (0xff53_4d42, "CIFS"), (0xfe53_4d42, "SMB"), (0x0102_1997, "9p")];

pub(super) fn look(config: &Config, findings: &mut Findings) {
    let path = &config.run.database;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    if !folder.is_dir() {
        let what = format!("{} lies in {}, which is no folder", path.display(), folder.display());
        findings.blocker(CHECK, what, format!("mkdir -p {}", folder.display()));
        return;
    }
    if path.exists() {
        existing(path, findings);
    } else {
        fresh(path, &folder, findings);
    }
    file_system(&folder, findings);
    space(config, &folder, findings);
}

fn existing(path: &Path, findings: &mut Findings) {
    let store = match Store::open(path, Mode::ReadOnly) {
        Ok(store) => store,
        Err(error) => return findings.blocker(CHECK, error.to_string(), "see the message"),
    };
    for (what, file) in [("the file", path), ("its folder", path.parent().unwrap_or(Path::new(".")))] {
        let file = if file.as_os_str().is_empty() { Path::new(".") } else { file };
        if nix::unistd::access(file, nix::unistd::AccessFlags::W_OK).is_err() {
            let remedy = "give the user that runs soakd the right to write to it, or name another file with --db";
            return findings.blocker(CHECK, format!("{}: {what} cannot be written", path.display()), remedy);
        }
    }
    let now = clock::now().wall;
    match store.heartbeat_of("supervisor") {
        Ok(Some(beat)) if beat.expects.is_some_and(|due| due > now) => {
            let what = format!("{}: a supervisor (process {}) is writing to it", path.display(), beat.pid);
            findings.warning(
                CHECK,
                what,
                "a second `soakd run` on this file would be refused; `soakd status` shows the first",
            );
        }
        Ok(_) => findings.ok(CHECK, format!("{} opens, and may be written", path.display())),
        Err(error) => findings.blocker(CHECK, error.to_string(), "see the message"),
    }
}

fn fresh(path: &Path, folder: &Path, findings: &mut Findings) {
    // access(2) does not tell of read-only mounts by container or unit; a file that is made and gone does.
    match tempfile_in(folder) {
        Ok(()) => findings.ok(CHECK, format!("{} will be created", path.display())),
        Err(error) => findings.blocker(
            CHECK,
            format!("{} cannot be created: {error}", path.display()),
            "give the user that runs soakd the right to write to that folder, or name another file with --db",
        ),
    }
}

/// Makes a file in `folder` and removes it.
fn tempfile_in(folder: &Path) -> std::io::Result<()> {
    let path = folder.join(format!(".soakd-check-{}", std::process::id()));
    let made = std::fs::OpenOptions::new().write(true).create_new(true).open(&path).map(drop);
    made.and_then(|()| std::fs::remove_file(&path))
}

fn file_system(folder: &Path, findings: &mut Findings) {
    let Ok(facts) = nix::sys::statfs::statfs(folder) else { return };
    #[allow(clippy::unnecessary_cast)] // the type differs between C libraries
    let magic = facts.filesystem_type().0 as i64 & 0xffff_ffff;
    if let Some((_, name)) = NETWORK_FILE_SYSTEMS.iter().find(|(number, _)| *number == magic) {
        let what = format!("{} is on {name}, where SQLite's write-ahead log is not safe", folder.display());
        findings.blocker(CHECK, what, "name a file on a local disk with --db or run.database");
    }
}

fn space(config: &Config, folder: &Path, findings: &mut Findings) {
    let samples = config.run.duration.as_secs_f64() / config.run.sample_interval.as_secs_f64();
    let needed = (samples * RUN_BYTES_PER_SAMPLE) as i64 + BESIDE_BYTES;
    let Some(free) = host::disk_free_bytes(folder) else {
        return findings.warning(
            "disk",
            format!("the free space of {} cannot be read", folder.display()),
            "watch it yourself",
        );
    };
    let megabytes = |bytes: i64| format!("{} MB", bytes / 1_000_000);
    let facts = format!("{} free in {}, a run takes up to {}", megabytes(free), folder.display(), megabytes(needed));
    if free < needed {
        findings.blocker("disk", facts, "free some space, or name a file on another disk with --db");
    } else if free < needed + SPARE_BYTES {
        findings.warning(
            "disk",
            facts,
            format!("leave {} to spare, for others write there too", megabytes(SPARE_BYTES)),
        );
    } else {
        findings.ok("disk", facts);
    }
}
