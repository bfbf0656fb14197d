//! Puts samples on the disk soon after they were written, beside whoever writes them.
//!
//! A batch of samples is committed at `synchronous=NORMAL`: the kernel has it, so it outlives soakd, and a power cut takes what
//! the kernel has not written out yet. Left alone the kernel waits for up to half a minute. Asking for it in the commit (`FULL`)
//! would make the event loop wait for the disk once a second, and a disk that is busy for seconds would look like a stall. So a
//! thread of its own asks once a second: what a power cut can take is then the last batch or two. It needs no connection: the
//! frames of a WAL carry checksums, and those that are whole on the disk are found by the next opening, whoever asked for them.

use super::open::beside;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Between two requests; batches come about once a second.
const EVERY: Duration = Duration::from_secs(1);
/// The thread calls three functions, and may log; the usual two megabytes are only address space, but this is the watcher.
const STACK_BYTES: usize = 256 * 1024;

/// The thread, until it is dropped.
#[derive(Debug)]
pub struct Syncing {
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Syncing {
    /// Begins with the database at `path`.
    pub fn of(path: &Path) -> std::io::Result<Syncing> {
        let (wal, over) = (beside(path, "-wal"), Arc::new(AtomicBool::new(false)));
        let until = Arc::clone(&over);
        let thread = thread::Builder::new()
            .name("sync".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || sync_until(&until, &wal))?;
        Ok(Syncing { over, thread })
    }
}

impl Drop for Syncing {
    /// Not waited for: a disk that does not answer holds that thread and nobody else.
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
    }
}

fn sync_until(over: &AtomicBool, wal: &PathBuf) {
    while !over.load(Ordering::Relaxed) {
        // Opened each time, because SQLite may have put the file away and made another. No WAL, nothing to do; what is wrong with a
        // disk is met and told by who writes.
        if let Err(error) = File::open(wal).and_then(|file| file.sync_data()) {
            tracing::debug!("{}: {error}", wal.display());
        }
        thread::park_timeout(EVERY);
    }
}
