//! Opening the file: what it is, whether it is whole, whether this soakd understands it, and who may write. Leaves all
//! reading and writing of rows to its neighbours.

use super::error::StoreError;
use super::older::copy_up_to_date;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use rusqlite_migration::{M, Migrations};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the opener wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The supervisor: creates the file, brings its schema up to date, and is the only one of its kind; a second one is
    /// refused.
    Write,
    /// The mailer, `soakd silence` and the like: small writes beside the supervisor. The file must exist.
    Join,
    /// Looks only; a file of an older soakd by way of a copy that is brought up to date.
    ReadOnly,
}

/// Each migration is a folder; its place in this list is the schema version. Only ever append (after the first release).
const MIGRATIONS: &[M<'static>] = &[
    M::up(include_str!("../../migrations/01-initial/up.sql")),
    M::up(include_str!("../../migrations/02-views/up.sql")),
    M::up(include_str!("../../migrations/03-bench/up.sql")),
    M::up(include_str!("../../migrations/04-targets/up.sql")),
    M::up(include_str!("../../migrations/05-kernels/up.sql")),
    M::up(include_str!("../../migrations/06-clocks/up.sql")),
    M::up(include_str!("../../migrations/07-load/up.sql")),
    M::up(include_str!("../../migrations/08-steps/up.sql")),
    M::up(include_str!("../../migrations/09-mismatches/up.sql")),
];

/// `PRAGMA application_id` of a soakd database: "skd1". Set in the first migration.
const APPLICATION_ID: i64 = 0x736b_6431;

/// Older ones carry the WAL-reset bug, which can corrupt a database when a checkpoint and a writer meet.
const SQLITE_VERSION_MIN: (i32, &str) = (3_051_003, "3.51.3");

/// Pages that a connection which stays open for days keeps (`PRAGMA cache_size`): half a megabyte. A batch of samples touches a few
/// dozen, and the kernel has the rest; SQLite's two megabytes would only fill up, which in the watcher looks like a leak.
pub(super) const CACHE_PAGES: i32 = 128;
/// How long a statement waits for another process's lock. The mailer's transactions take milliseconds; five seconds
/// cover an fsync on a disk that is busy, and stay well below the systemd watchdog's period.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Pages (of 4 KiB) in the WAL after which a commit checkpoints: 4 MB, about two minutes of samples.
const WAL_AUTOCHECKPOINT_PAGES: i64 = 1_000;
/// Beside the database, however short the run: the reserve for a full disk, and the WAL.
pub const BESIDE_BYTES: i64 = super::reserve::RESERVE_BYTES + WAL_AUTOCHECKPOINT_PAGES * 4_096;

/// Newest schema version that this binary knows.
pub(super) const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// An opened connection and, for [`Mode::Write`], the lock that makes it the only one.
pub(super) struct Opened {
    pub connection: Connection,
    /// Held until drop; the kernel lets go of it when the process dies, however it dies.
    pub lock: Option<File>,
}

/// Opens `path` as `mode` allows.
pub(super) fn open(path: &Path, mode: Mode) -> Result<Opened, StoreError> {
    check_sqlite_version(rusqlite::version_number(), rusqlite::version())?;
    if mode != Mode::Write && !path.exists() {
        return Err(StoreError::Missing { path: path.to_path_buf() });
    }
    if path.is_dir() {
        return Err(StoreError::CannotOpen { path: path.to_path_buf(), why: "it is a folder".into() });
    }
    let lock = if mode == Mode::Write { Some(take_lock(path)?) } else { None };
    let mut connection = connect(path, mode)?;
    let sql = |error: rusqlite::Error| StoreError::from_sqlite(path, &error);
    // Until the file is known to be sound and ours, nothing may be copied from the WAL into it.
    if mode != Mode::ReadOnly {
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(sql)?;
    }
    connection.busy_timeout(BUSY_TIMEOUT).map_err(sql)?;
    check_identity(path, &connection)?;
    match mode {
        Mode::Write => {
            check_integrity(path, &connection)?;
            let journal: String =
                connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)).map_err(sql)?;
            if journal != "wal" {
                let why = format!("its file system does not support WAL mode (journal mode stays {journal:?})");
                return Err(StoreError::CannotOpen { path: path.to_path_buf(), why });
            }
            migrate(path, &mut connection)?;
        }
        Mode::ReadOnly if schema_version(path, &connection)? < SCHEMA_VERSION => {
            connection = copy_up_to_date(path, &connection)?;
        }
        Mode::Join | Mode::ReadOnly => check_schema(path, &connection)?,
    }
    if mode != Mode::ReadOnly {
        connection.pragma_update(None, "wal_autocheckpoint", WAL_AUTOCHECKPOINT_PAGES).map_err(sql)?;
        connection.pragma_update(None, "foreign_keys", true).map_err(sql)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(sql)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(sql)?;
    }
    if mode != Mode::ReadOnly {
        connection.pragma_update(None, "cache_size", CACHE_PAGES).map_err(sql)?;
    }
    connection.set_prepared_statement_cache_capacity(64);
    Ok(Opened { connection, lock })
}

fn check_sqlite_version(number: i32, name: &str) -> Result<(), StoreError> {
    if number >= SQLITE_VERSION_MIN.0 {
        return Ok(());
    }
    Err(StoreError::OldSqlite { found: name.to_owned(), least: SQLITE_VERSION_MIN.1 })
}

fn connect(path: &Path, mode: Mode) -> Result<Connection, StoreError> {
    let common = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let flags = match mode {
        Mode::Write => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        Mode::Join => OpenFlags::SQLITE_OPEN_READ_WRITE,
        Mode::ReadOnly => OpenFlags::SQLITE_OPEN_READ_ONLY,
    };
    let connection =
        Connection::open_with_flags(path, flags | common).map_err(|error| StoreError::from_sqlite(path, &error))?;
    if mode == Mode::ReadOnly && connection.query_row("SELECT 1 FROM sqlite_schema", [], |_| Ok(())).is_err() {
        // On a medium that cannot be written, a WAL database opens only if told that nobody else can change it either.
        if let Some(immutable) = connect_immutable(path, flags | common) {
            return Ok(immutable);
        }
    }
    Ok(connection)
}

/// A read-only folder without a WAL beside the file: a copy on a medium that cannot change.
fn connect_immutable(path: &Path, flags: OpenFlags) -> Option<Connection> {
    let wal_bytes = std::fs::metadata(beside(path, "-wal")).map_or(0, |meta| meta.len());
    if wal_bytes > 0 || !is_unwritable(path.parent()?) {
        return None;
    }
    let absolute = std::fs::canonicalize(path).ok()?;
    let mut uri = String::from("file:");
    for byte in absolute.to_str()?.bytes() {
        match byte {
            b'?' | b'#' | b'%' => uri.push_str(&format!("%{byte:02x}")),
            _ => uri.push(byte as char),
        }
    }
    uri.push_str("?immutable=1");
    let connection = Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI).ok()?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).ok()?;
    Some(connection)
}

fn is_unwritable(folder: &Path) -> bool {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    nix::unistd::access(folder, nix::unistd::AccessFlags::W_OK).is_err()
}

/// `soak.db` → `soak.db-lock` and the like, beside the file as SQLite does it.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A lock outlives its holder's handle by the moment in which a child that is being started still has a copy of it: from fork
/// to exec, which a busy machine stretches. Ten milliseconds at a time, half a second in all.
fn patiently(try_lock: impl Fn() -> Result<(), TryLockError>) -> Result<(), TryLockError> {
    for _ in 0..50 {
        match try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
            done => return done,
        }
    }
    try_lock()
}

/// A second supervisor on one database would count everything twice.
fn take_lock(path: &Path) -> Result<File, StoreError> {
    let lock_path = beside(path, "-lock");
    let cannot = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::StorageFull => StoreError::DiskFull { path: path.to_path_buf() },
        // A folder that is there and still has no room for a file, such as /proc, counts as read-only.
        std::io::ErrorKind::NotFound if !path.parent().is_some_and(Path::exists) => StoreError::NoFolder {
            path: path.to_path_buf(),
            folder: path.parent().unwrap_or(Path::new(".")).to_path_buf(),
        },
        _ => StoreError::ReadOnly { path: path.to_path_buf(), why: error.to_string() },
    };
    let mut file =
        OpenOptions::new().create(true).read(true).write(true).truncate(false).open(&lock_path).map_err(cannot)?;
    match patiently(|| file.try_lock()) {
        Ok(()) => {
            // Only for the message below; the lock itself does not need it, so a full disk may lose it.
            let _ =
                file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let what = format!(
                "another soakd (process {}) is soaking into it. Stop that one, or name another file with --db",
                if holder.trim().is_empty() { "unknown" } else { holder.trim() }
            );
            Err(StoreError::Locked { path: path.to_path_buf(), what })
        }
        Err(TryLockError::Error(error)) => Err(cannot(error)),
    }
}

/// Ours, or new and empty.
fn check_identity(path: &Path, connection: &Connection) -> Result<(), StoreError> {
    let sql = |error: rusqlite::Error| StoreError::from_sqlite(path, &error);
    let id: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(sql)?;
    if id == APPLICATION_ID {
        return Ok(());
    }
    let stranger = connection.query_row("SELECT name FROM sqlite_schema LIMIT 1", [], |row| row.get::<_, String>(0));
    match stranger {
        Ok(table) => Err(StoreError::NotOurs { path: path.to_path_buf(), table }),
        Err(rusqlite::Error::QueryReturnedNoRows) => Ok(()),
        Err(error) => Err(sql(error)),
    }
}

fn check_integrity(path: &Path, connection: &Connection) -> Result<(), StoreError> {
    let found = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    match found {
        Ok(answer) if answer == "ok" => Ok(()),
        Ok(answer) => {
            let found = answer.lines().filter(|line| !line.starts_with("***")).collect::<Vec<_>>().join("; ");
            Err(StoreError::Corrupt { path: path.to_path_buf(), found })
        }
        Err(error) => Err(StoreError::from_sqlite(path, &error)),
    }
}

fn schema_version(path: &Path, connection: &Connection) -> Result<i64, StoreError> {
    connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|error| StoreError::from_sqlite(path, &error))
}

fn check_schema(path: &Path, connection: &Connection) -> Result<(), StoreError> {
    let (path_buf, known) = (path.to_path_buf(), SCHEMA_VERSION);
    match schema_version(path, connection)? {
        found if found > known => Err(StoreError::Newer { path: path_buf, found, known }),
        found if found < known => Err(StoreError::Older { path: path_buf, found, known }),
        _ => Ok(()),
    }
}

pub(super) fn migrate(path: &Path, connection: &mut Connection) -> Result<(), StoreError> {
    let found = schema_version(path, connection)?;
    if found > SCHEMA_VERSION {
        return Err(StoreError::Newer { path: path.to_path_buf(), found, known: SCHEMA_VERSION });
    }
    Migrations::from_slice(MIGRATIONS).to_latest(connection).map_err(|error| match error {
        rusqlite_migration::Error::RusqliteError { err, .. } => StoreError::from_sqlite(path, &err),
        other => StoreError::Sqlite { path: path.to_path_buf(), message: other.to_string(), code: None },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sqlite_with_the_wal_reset_bug_is_refused() {
        let error = check_sqlite_version(3_051_002, "3.51.2").expect_err("too old");
        assert!(error.to_string().contains("3.51.2") && error.to_string().contains("3.51.3"), "{error}");
        assert!(check_sqlite_version(3_051_003, "3.51.3").is_ok());
    }

    #[test]
    fn the_linked_sqlite_is_new_enough() {
        check_sqlite_version(rusqlite::version_number(), rusqlite::version()).expect("bundled SQLite");
    }

    #[test]
    fn a_file_of_an_older_soakd_is_read_as_it_is_and_stays_as_it_was() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("soak.db");
        for version in 1..MIGRATIONS.len() {
            let _ = std::fs::remove_file(&path);
            let mut old = Connection::open(&path).expect("file");
            Migrations::from_slice(&MIGRATIONS[..version]).to_latest(&mut old).expect("old schema");
            old.execute("INSERT INTO heartbeat (role, pid, unix_ms) VALUES ('mailer', 7, 9)", []).expect("a row");
            drop(old);
            let before = std::fs::read(&path).expect("bytes");
            let opened = open(&path, Mode::ReadOnly).expect("readable");
            let found = |sql: &str| opened.connection.query_row(sql, [], |row| row.get::<_, i64>(0)).expect(sql);
            assert_eq!(found("PRAGMA user_version"), SCHEMA_VERSION);
            assert_eq!((found("SELECT pid FROM heartbeat"), found("SELECT count(*) FROM v_uptime")), (7, 0));
            opened.connection.execute("DELETE FROM heartbeat", []).expect_err("nothing is written");
            assert_eq!(std::fs::read(&path).expect("bytes"), before, "schema {version}");
            // The next supervisor brings the file itself up to date, with all that is in it.
            let opened = open(&path, Mode::Write).expect("writable");
            let pid = opened.connection.query_row("SELECT pid FROM heartbeat", [], |row| row.get::<_, i64>(0));
            assert_eq!((schema_version(&path, &opened.connection).expect("version"), pid), (SCHEMA_VERSION, Ok(7)));
        }
        let ours = format!("soakd-{}-", std::process::id());
        let left = std::fs::read_dir(std::env::temp_dir()).expect("folder").filter_map(Result::ok);
        assert_eq!(
            left.filter(|e| e.file_name().to_string_lossy().starts_with(&ours)).count(),
            0,
            "copies left behind"
        );
    }
}
