//! What can go wrong with the database, typed; each message names the file and the remedy. Leaves it to callers what to
//! do about it, but says by [`StoreError::is_disk_full`] and [`StoreError::is_passing`] whether waiting may help.

use std::path::{Path, PathBuf};

/// An error of the store. `Display` is prose for people.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is something else.
    #[error(
        "{} is not a SQLite database; soakd has left it as it is. Name another file with --db, or move this one away",
        .path.display()
    )]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// A SQLite database of some other program.
    #[error(
        "{} is a SQLite database, but not one of soakd's (it holds the table {table:?}); soakd has left it as it is. \
         Name another file with --db",
        .path.display()
    )]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// One of its tables.
        table: String,
    },
    /// Written by a later version.
    #[error(
        "{} was written by a newer soakd (schema {found}, this soakd knows {known}). Use that soakd, \
         or name another file with --db",
        .path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest this binary knows.
        known: i64,
    },
    /// Written by an earlier version, and opened to be written to without the right to migrate it.
    #[error(
        "{} was written by an older soakd (schema {found}, this soakd writes {known}). `soakd run --db {}` brings it up to \
         date; until then it can be read, and written to by the soakd that wrote it",
        .path.display(), .path.display()
    )]
    Older {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The version this binary reads.
        known: i64,
    },
    /// The file is not there, and this mode does not create one.
    #[error("there is no database {}: `soakd run` creates it, or name another with --db", .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The folder, the file or the file system does not let itself be written.
    #[error(
        "cannot write to {}: {why}. Give the user that runs soakd the right to write to that folder (SQLite writes \
         files beside the database), or name another file with --db",
        .path.display()
    )]
    ReadOnly {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        why: String,
    },
    /// Its folder is not there.
    #[error("cannot make {}: there is no folder {}. Make it (mkdir -p {}), or name another file with --db", .path.display(), .folder.display(), .folder.display())]
    NoFolder {
        /// The file.
        path: PathBuf,
        /// Where it would be.
        folder: PathBuf,
    },
    /// It cannot even be read.
    #[error("cannot open {}: {why}. Check the path and its permissions", .path.display())]
    CannotOpen {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        why: String,
    },
    /// No space left.
    #[error("the disk that holds {} is full: free some space", .path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
    },
    /// The disk took no more: a quota, a size limit, or an error of the device.
    #[error(
        "a write to {} failed ({message}): a quota, a file-size limit, or the disk itself. See `df`, `ulimit -f` and \
         the kernel's log",
        .path.display()
    )]
    WriteFailed {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        message: String,
    },
    /// The file is damaged.
    #[error(
        "{} is damaged: {found}. soakd has left it as it is. Start with another file (--db), and recover this one \
         with: sqlite3 '{}' .recover | sqlite3 rescued.db",
        .path.display(), .path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What the integrity check said first.
        found: String,
    },
    /// Another process holds it for longer than we wait.
    #[error("{} is locked by another process: {what}", .path.display())]
    Locked {
        /// The file.
        path: PathBuf,
        /// Who, if known, and what to do.
        what: String,
    },
    /// The SQLite in this binary has a known corruption bug.
    #[error(
        "this soakd was built with SQLite {found}; versions before {least} can corrupt a database in WAL mode. \
         Build soakd with its bundled SQLite"
    )]
    OldSqlite {
        /// Linked version.
        found: String,
        /// Least allowed.
        least: &'static str,
    },
    /// A row that should be there is not: a bug of the caller, or a database edited by hand.
    #[error("{} has no {what}", .path.display())]
    NoRow {
        /// The file.
        path: PathBuf,
        /// Which row was looked for.
        what: String,
    },
    /// Anything else that SQLite says.
    #[error("{}: {message}", .path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        message: String,
        /// The primary and extended result code.
        code: Option<i32>,
    },
}

impl StoreError {
    /// True if the disk takes no more for now (full, over quota, failing): shed, and try again.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, StoreError::DiskFull { .. } | StoreError::WriteFailed { .. })
    }

    /// True if the same call may succeed later without anyone mending the file.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        self.is_disk_full() || matches!(self, StoreError::Locked { .. } | StoreError::ReadOnly { .. })
    }

    /// SQLite's error, sorted by what the user can do.
    #[must_use]
    pub fn from_sqlite(path: &Path, error: &rusqlite::Error) -> StoreError {
        use rusqlite::ErrorCode as Code;
        let path = path.to_path_buf();
        let message = error.to_string();
        let rusqlite::Error::SqliteFailure(failure, _) = error else {
            return StoreError::Sqlite { path, message, code: None };
        };
        match failure.code {
            Code::NotADatabase => StoreError::NotADatabase { path },
            Code::DatabaseCorrupt => StoreError::Corrupt { path, found: message },
            Code::DiskFull => StoreError::DiskFull { path },
            // The unix VFS reports ENOSPC as FULL; a quota or a size limit arrives as a failed write, and so does ENOSPC
            // when the shared-memory file grows.
            Code::SystemIoFailure
                if matches!(
                    failure.extended_code,
                    rusqlite::ffi::SQLITE_IOERR_WRITE
                        | rusqlite::ffi::SQLITE_IOERR_SHMSIZE
                        | rusqlite::ffi::SQLITE_IOERR_FSYNC
                        | rusqlite::ffi::SQLITE_IOERR_TRUNCATE
                ) =>
            {
                StoreError::WriteFailed { path, message }
            }
            Code::DatabaseBusy | Code::DatabaseLocked => StoreError::Locked {
                path,
                what: "it did not let go within the waiting time. Close other programs that write to it".into(),
            },
            Code::ReadOnly => StoreError::ReadOnly { path, why: message },
            Code::CannotOpen | Code::PermissionDenied => StoreError::CannotOpen { path, why: message },
            _ => StoreError::Sqlite { path, message, code: Some(failure.extended_code) },
        }
    }
}
