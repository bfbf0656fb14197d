//! A file of an older soakd, to be looked at: what it holds, brought up to date in a copy. The file itself stays as it is, and so
//! does whoever may still be writing to it. Leaves the migrations to `open`.

use super::error::StoreError;
use super::open::migrate;
use rusqlite::{Connection, OpenFlags};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// A connection to a copy of `path` (which `source` has open) at the newest schema, that can only be read. The copy lies in the folder for
/// temporary files (`TMPDIR`) without a name, as large as the file itself, and is gone with the connection.
///
/// # Errors
/// [`StoreError::CannotOpen`] where that folder takes no file or has no room; what SQLite says of `path` otherwise.
pub(super) fn copy_up_to_date(path: &Path, source: &Connection) -> Result<Connection, StoreError> {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let name = format!("soakd-{}-{}.db", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
    let folder = std::env::temp_dir();
    let copy = folder.join(name);
    let cannot = |why: String| StoreError::CannotOpen {
        path: path.to_path_buf(),
        why: format!(
            "an older soakd wrote it, and the copy in which it would be read cannot be made in {} ({why}). Name a folder with room: \
             TMPDIR=/var/tmp",
            folder.display()
        ),
    };
    // Nobody else's to read, and not there before.
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&copy)
        .map_err(|error| cannot(error.to_string()))?;
    let made = fill(path, source, &copy).map_err(|error| match error {
        StoreError::DiskFull { .. } => cannot("no space left".into()),
        other => other,
    });
    // What is open stays readable without its name.
    let removed = std::fs::remove_file(&copy).map_err(|error| cannot(error.to_string()));
    let connection = made?;
    removed.map(|()| connection)
}

fn fill(path: &Path, source: &Connection, copy: &Path) -> Result<Connection, StoreError> {
    let sql = |error: rusqlite::Error| StoreError::from_sqlite(path, &error);
    source.execute("VACUUM INTO ?1", [copy.to_string_lossy()]).map_err(sql)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let mut connection = Connection::open_with_flags(copy, flags).map_err(sql)?;
    // Nothing here has to outlive a power cut, and a journal would need the name that is about to go.
    connection.pragma_update(None, "synchronous", "OFF").map_err(sql)?;
    connection.pragma_update_and_check(None, "journal_mode", "MEMORY", |_| Ok(())).map_err(sql)?;
    migrate(path, &mut connection)?;
    connection.pragma_update(None, "query_only", true).map_err(sql)?;
    Ok(connection)
}
