//! The only user of SQLite: one file per host, one writer of samples, many readers.
//!
//! [`Store::open`] checks what the file is. [`Store::append`] writes the second's samples at `synchronous=NORMAL`: a power
//! cut may lose the last batches, never the database. [`Store::record`] writes what matters (events, ends of processes,
//! findings, verdicts, alerts with their mails) in one transaction at `FULL`: once it has returned, it is on the disk.
//! Deciding what to write is left to the supervisor; what the rows mean is in `migrations/` and docs/database.md.

mod alerts;
mod bench;
mod error;
mod facts;
mod facts_bench;
mod facts_series;
mod fleet;
#[doc(hidden)] // for tests and benchmarks
pub mod generate;
mod older;
mod open;
mod outbox;
mod read;
mod reserve;
mod samples;
pub mod sql;
pub mod sync;
mod write;

#[cfg(test)]
mod tests;

pub use error::StoreError;
pub use open::{BESIDE_BYTES, Mode};
pub use outbox::{HeartbeatRow, MailRetry, OutboxCounts, SentMail};
pub use write::Writing;

use crate::model::time::UnixMillis;
use rusqlite::{Connection, TransactionBehavior};
use std::path::{Path, PathBuf};

/// `PRAGMA synchronous`, which takes effect only outside transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durability {
    /// Survives a crash of the process; a power cut may take the last moments.
    Normal,
    /// Survives a power cut.
    Full,
}

/// An open database.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    mode: Mode,
    connection: Connection,
    durability: Durability,
    rollups: samples::Rollups,
    reserve: reserve::Reserve,
    /// Dropped last: the kernel lets the next supervisor in only when all else is closed.
    _lock: Option<std::fs::File>,
}

impl Store {
    /// Opens (and in [`Mode::Write`] creates, checks and migrates) the database at `path`.
    pub fn open(path: impl AsRef<Path>, mode: Mode) -> Result<Store, StoreError> {
        let path = path.as_ref().to_path_buf();
        let opened = open::open(&path, mode)?;
        let rollups = samples::Rollups::default();
        let reserve = match mode {
            Mode::Write => reserve::Reserve::take(&path),
            Mode::Join | Mode::ReadOnly => reserve::Reserve::without(&path),
        };
        let mut store = Store {
            path,
            mode,
            connection: opened.connection,
            durability: Durability::Full,
            rollups,
            reserve,
            _lock: opened.lock,
        };
        if mode == Mode::Write {
            store.roll_up_missed()?;
        }
        Ok(store)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// As it was opened.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Bytes of the database and its WAL on the disk.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        ["", "-wal"].iter().map(|end| std::fs::metadata(open::beside(&self.path, end)).map_or(0, |m| m.len())).sum()
    }

    /// Runs `work` in one transaction that is on the disk when this returns. All or nothing: an error of `work` rolls
    /// everything back. On a full disk the reserve is given up and `work` called a second time, hence `Fn`.
    pub fn record<T>(&mut self, work: impl Fn(&Writing) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match self.transact(Durability::Full, &work) {
            Err(error) if error.is_disk_full() && self.reserve.spend() => self.transact(Durability::Full, &work),
            done => done,
        }
    }

    /// As [`Store::record`], but a power cut may take it: for what will be written again soon anyway.
    pub fn jot<T>(&mut self, work: impl Fn(&Writing) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.transact(Durability::Normal, &work)
    }

    fn transact<T>(
        &mut self,
        durability: Durability,
        work: &dyn Fn(&Writing) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.set_durability(durability)?;
        let sql = |error: rusqlite::Error| StoreError::from_sqlite(&self.path, &error);
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
        let done = work(&Writing::new(&self.path, &transaction))?;
        transaction.commit().map_err(sql)?;
        Ok(done)
    }

    fn set_durability(&mut self, durability: Durability) -> Result<(), StoreError> {
        if self.durability == durability {
            return Ok(());
        }
        let level = match durability {
            Durability::Normal => "NORMAL",
            Durability::Full => "FULL",
        };
        self.connection
            .pragma_update(None, "synchronous", level)
            .map_err(|error| StoreError::from_sqlite(&self.path, &error))?;
        self.durability = durability;
        Ok(())
    }

    fn sql_error(&self, error: &rusqlite::Error) -> StoreError {
        StoreError::from_sqlite(&self.path, error)
    }
}

/// Start of the minute that `at` lies in.
fn minute_of(at: UnixMillis) -> i64 {
    at.0.div_euclid(60_000) * 60_000
}

/// A JSON column. What cannot be read (edited by hand) is empty rather than an error.
fn read_json<T: serde::de::DeserializeOwned + Default>(row: &rusqlite::Row<'_>, column: &str) -> rusqlite::Result<T> {
    Ok(serde_json::from_str(&row.get::<_, String>(column)?).unwrap_or_default())
}
