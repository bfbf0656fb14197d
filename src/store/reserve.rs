//! A reserve for a full disk: a file of a few megabytes beside the database that is given up when an event cannot be
//! written. Samples are shed until it could be set aside again, so events come first. Best effort: without the reserve
//! everything works as it does without one.

use super::open::beside;
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// An event with its mail takes a few pages of 4 KiB in the WAL and again in the file: 8 MiB hold some hundreds.
pub const RESERVE_BYTES: i64 = 8 << 20;
/// Set aside again only when so much is free beyond it: otherwise samples would fill the disk again at once, and the reserve
/// would come and go every second.
const HEADROOM_BYTES: u64 = 4 << 20;

/// Whether there is a reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Set aside.
    Held,
    /// Given up for an event.
    Spent,
    /// Never asked for: not the supervisor.
    Without,
}

/// The reserve of one database.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    state: State,
}

impl Reserve {
    /// None at all.
    pub fn without(database: &Path) -> Reserve {
        Reserve { path: beside(database, "-reserve"), state: State::Without }
    }

    /// Sets it aside if the disk has room.
    pub fn take(database: &Path) -> Reserve {
        let mut reserve = Reserve { path: beside(database, "-reserve"), state: State::Spent };
        reserve.restore();
        reserve
    }

    /// Gives it up. True if that made room.
    pub fn spend(&mut self) -> bool {
        let held = std::mem::replace(&mut self.state, State::Spent) == State::Held;
        // Emptied before it goes: a child that is just being started may hold a copy of the handle that allocated it, and with that its room.
        held && {
            drop(OpenOptions::new().write(true).truncate(true).open(&self.path));
            std::fs::remove_file(&self.path).is_ok()
        }
    }

    /// True if samples may be written: nothing was given up, or it could be set aside again.
    pub fn is_whole(&mut self) -> bool {
        if self.state == State::Spent {
            self.restore();
        }
        self.state != State::Spent
    }

    fn restore(&mut self) {
        match self.allocate() {
            Ok(true) => self.state = State::Held,
            // A file system that cannot say how much is free, or a folder of another user: go on without a reserve.
            Err(error) if error.kind() != std::io::ErrorKind::StorageFull => self.state = State::Without,
            Ok(false) | Err(_) => {}
        }
    }

    fn allocate(&self) -> std::io::Result<bool> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let stat = nix::sys::statvfs::statvfs(folder)?;
        #[allow(clippy::useless_conversion, clippy::unnecessary_cast)] // their types differ between platforms
        let free = stat.blocks_available() as u64 * stat.fragment_size() as u64;
        if free < RESERVE_BYTES as u64 + HEADROOM_BYTES {
            return Ok(false);
        }
        let file: File = OpenOptions::new().create(true).truncate(true).write(true).open(&self.path)?;
        let done = nix::fcntl::posix_fallocate(file.as_fd(), 0, RESERVE_BYTES);
        if done.is_err() {
            drop(std::fs::remove_file(&self.path));
        }
        done?;
        Ok(true)
    }
}

impl Drop for Reserve {
    /// A clean end leaves one file behind, not two.
    fn drop(&mut self) {
        if self.state == State::Held {
            drop(std::fs::remove_file(&self.path));
        }
    }
}
