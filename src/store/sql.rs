//! Free SQL, read-only and on a leash: what alert rules and `soakd query` run. The connection cannot write, the authorizer
//! lets through SELECT on soakd's own tables and views with plain functions and nothing else, and every query has a
//! limit of rows and of time. What the rows mean is left to the caller.

use super::error::StoreError;
use super::open::{self, Mode};
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, Connection, Statement};
use serde_json::Value;
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Longest value, in bytes: stops `zeroblob(1e9)` and the like.
const VALUE_BYTES_MAX: i32 = 4_000_000;
/// Virtual machine steps between two looks at the time: well under a millisecond.
const STEPS_PER_LOOK: i32 = 4_000;

/// How far a query may go.
pub struct Limits {
    /// Rows; what is beyond them is not read, and [`Rows::truncated`] says so.
    pub rows_max: usize,
    /// Asked every fraction of a millisecond; `true` stops the query.
    pub expired: Box<dyn FnMut() -> bool + Send>,
}

impl std::fmt::Debug for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limits").field("rows_max", &self.rows_max).finish_non_exhaustive()
    }
}

/// What came back. Cells are null, integers, floats or text; a blob is text of the form `x'00ff'`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    /// Column names.
    pub columns: Vec<String>,
    /// One vector a row, as long as `columns`.
    pub rows: Vec<Vec<Value>>,
    /// There were more rows than the limit allows.
    pub truncated: bool,
}

/// Why a query gave no rows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// SQLite does not understand it.
    #[error("{message}{}", hint_text(.hint.as_deref()))]
    Sql {
        /// SQLite's words.
        message: String,
        /// Names that may have been meant.
        hint: Option<String>,
    },
    /// It wants more than to read soakd's tables.
    #[error("only SELECT on soakd's own tables and views is allowed here: {0}")]
    Forbidden(String),
    /// It took too long.
    #[error("the query took longer than its time limit; select fewer rows (WHERE run_id = ...), or a v_... view")]
    TimedOut,
    /// A parameter that nobody gives.
    #[error("unknown parameter {name}; known here: {known}")]
    Parameter {
        /// As written.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// The database cannot be read now.
    #[error("{0}")]
    Store(String),
}

fn hint_text(hint: Option<&str>) -> String {
    hint.map(|hint| format!(". {hint}")).unwrap_or_default()
}

/// A read-only connection on a leash.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    connection: Connection,
    names: BTreeSet<String>,
    /// Tables and views, each with its columns: read when somebody asks, for SQLite resolves every view for it.
    schema: OnceCell<BTreeMap<String, Vec<String>>>,
}

impl Reader {
    /// Opens `path` read-only.
    pub fn open(path: impl AsRef<Path>) -> Result<Reader, StoreError> {
        let path = path.as_ref().to_path_buf();
        let connection = open::open(&path, Mode::ReadOnly)?.connection;
        let sql = |error: rusqlite::Error| StoreError::from_sqlite(&path, &error);
        connection.pragma_update(None, "query_only", true).map_err(sql)?;
        // The next batch of samples makes what it keeps stale.
        connection.pragma_update(None, "cache_size", open::CACHE_PAGES).map_err(sql)?;
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX).map_err(sql)?;
        let names = read_names(&connection).map_err(sql)?;
        let reader = Reader { path, connection, names, schema: OnceCell::new() };
        reader.leash().map_err(|error| StoreError::from_sqlite(&reader.path, &error))?;
        Ok(reader)
    }

    fn leash(&self) -> rusqlite::Result<()> {
        let names = self.names.clone();
        self.connection.authorizer(Some(move |context: AuthContext<'_>| authorize(&names, &context)))
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tables and views, each with its columns.
    #[must_use]
    pub fn schema(&self) -> &BTreeMap<String, Vec<String>> {
        self.schema.get_or_init(|| {
            // By a connection without a leash. One that cannot be had now gives no hints, and no more is lost.
            let free = open::open(&self.path, Mode::ReadOnly).ok();
            free.and_then(|free| read_schema(&free.connection).ok()).unwrap_or_default()
        })
    }

    /// Runs one SELECT. `params` are bound by name (`:run`); those that the statement does not mention are ignored.
    pub fn query_rows(&self, sql: &str, params: &[(&str, Value)], limits: Limits) -> Result<Rows, QueryError> {
        let Limits { rows_max, expired } = limits;
        self.connection.progress_handler(STEPS_PER_LOOK, Some(expired)).map_err(|error| self.explain(sql, &error))?;
        let rows = self.run(sql, params, rows_max);
        let cleared = self.connection.progress_handler(0, None::<fn() -> bool>);
        cleared.map_err(|error| self.explain(sql, &error))?;
        rows
    }

    /// Prepares a statement without running it, for linting. Gives its column names.
    pub fn check(&self, sql: &str, known_params: &[&str]) -> Result<Vec<String>, QueryError> {
        let params: Vec<(&str, Value)> = known_params.iter().map(|name| (*name, Value::Null)).collect();
        let mut statement = self.prepare(sql)?;
        bind(&mut statement, &params).map_err(|error| error.unwrap_or_else(|error| self.explain(sql, &error)))?;
        Ok(statement.column_names().iter().map(|name| (*name).to_owned()).collect())
    }

    /// Kept for the next time: the rules ask the same again and again.
    fn prepare(&self, sql: &str) -> Result<CachedStatement<'_>, QueryError> {
        let statement = self.connection.prepare_cached(sql).map_err(|error| self.explain(sql, &error))?;
        if statement.column_count() == 0 {
            return Err(QueryError::Forbidden("this statement returns no columns".into()));
        }
        if !statement.readonly() {
            return Err(QueryError::Forbidden("this statement writes".into()));
        }
        Ok(statement)
    }

    fn run(&self, sql: &str, params: &[(&str, Value)], rows_max: usize) -> Result<Rows, QueryError> {
        let explain = |error: &rusqlite::Error| self.explain(sql, error);
        let mut statement = self.prepare(sql)?;
        bind(&mut statement, params).map_err(|error| error.unwrap_or_else(|error| explain(&error)))?;
        let columns: Vec<String> = statement.column_names().iter().map(|name| (*name).to_owned()).collect();
        let mut found = Rows { columns, rows: Vec::new(), truncated: false };
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next().map_err(|error| explain(&error))? {
            if found.rows.len() == rows_max {
                found.truncated = true;
                break;
            }
            let cells = (0..found.columns.len()).map(|i| row.get_ref(i).map(cell)).collect::<rusqlite::Result<_>>();
            found.rows.push(cells.map_err(|error| explain(&error))?);
        }
        Ok(found)
    }

    /// SQLite's error in words that help.
    fn explain(&self, sql: &str, error: &rusqlite::Error) -> QueryError {
        use rusqlite::ErrorCode as Code;
        match error {
            rusqlite::Error::SqliteFailure(failure, message) => {
                let message = message.clone().unwrap_or_else(|| error.to_string());
                match failure.code {
                    Code::OperationInterrupted => QueryError::TimedOut,
                    Code::AuthorizationForStatementDenied => QueryError::Forbidden(message),
                    Code::Unknown => QueryError::Sql { hint: self.hint(sql, &message), message },
                    Code::TooBig => QueryError::Sql { message: "a value of more than 4 MB".into(), hint: None },
                    _ => QueryError::Store(StoreError::from_sqlite(&self.path, error).to_string()),
                }
            }
            rusqlite::Error::SqlInputError { msg, .. } if msg.starts_with("not authorized") => {
                QueryError::Forbidden(msg.clone())
            }
            rusqlite::Error::SqlInputError { msg, .. } => {
                QueryError::Sql { message: msg.clone(), hint: self.hint(sql, msg) }
            }
            rusqlite::Error::MultipleStatement => {
                QueryError::Forbidden("one statement at a time, without anything after the semicolon".into())
            }
            other => QueryError::Sql { message: other.to_string(), hint: None },
        }
    }

    fn hint(&self, sql: &str, message: &str) -> Option<String> {
        if let Some(name) = message.strip_prefix("no such table: ") {
            let near = nearest(name, self.names.iter().map(String::as_str));
            let views: Vec<&str> = self.names.iter().map(String::as_str).filter(|n| n.starts_with("v_")).collect();
            let near = near.map(|near| format!("Did you mean {near}? ")).unwrap_or_default();
            return Some(format!("{near}Views for people: {}", views.join(", ")));
        }
        let name = message.strip_prefix("no such column: ")?;
        let name = name.split(" - ").next().unwrap_or(name).rsplit('.').next().unwrap_or(name);
        let words: BTreeSet<&str> = sql.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
        let used: Vec<(&String, &Vec<String>)> =
            self.schema().iter().filter(|(t, _)| words.contains(t.as_str())).collect();
        let near = nearest(name, used.iter().flat_map(|(_, columns)| columns.iter().map(String::as_str)));
        let near = near.map(|near| format!("Did you mean {near}? ")).unwrap_or_default();
        let columns = used.iter().map(|(table, columns)| format!("{table} has {}", columns.join(", ")));
        let columns = columns.collect::<Vec<_>>().join("; ");
        (!columns.is_empty()).then(|| format!("{near}{columns}"))
    }
}

/// An empty database in memory, for the unit tests of rules: rows are put in by SQL, and rules ask it on the same leash as
/// in real life.
#[derive(Debug)]
pub struct Sandbox {
    reader: Reader,
}

impl Sandbox {
    /// A new one, with soakd's schema.
    pub fn new() -> Result<Sandbox, StoreError> {
        let path = PathBuf::from(":memory:");
        let sql = |error: rusqlite::Error| StoreError::from_sqlite(Path::new(":memory:"), &error);
        let mut connection = Connection::open_in_memory().map_err(sql)?;
        open::migrate(&path, &mut connection)?;
        let schema = OnceCell::from(read_schema(&connection).map_err(sql)?); // there is no other way into memory
        let names = read_names(&connection).map_err(sql)?;
        let reader = Reader { path, connection, names, schema };
        reader.leash().map_err(sql)?;
        Ok(Sandbox { reader })
    }

    /// What rules ask.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Puts rows in: any number of statements, with the parameters bound in each.
    pub fn execute(&self, sql: &str, params: &[(&str, Value)]) -> Result<(), String> {
        let connection = &self.reader.connection;
        let unleashed = connection.authorizer(None::<fn(AuthContext<'_>) -> Authorization>);
        let done = unleashed.map_err(|error| error.to_string()).and_then(|()| self.execute_each(sql, params));
        self.reader.leash().map_err(|error| error.to_string())?;
        done
    }

    fn execute_each(&self, sql: &str, params: &[(&str, Value)]) -> Result<(), String> {
        use rusqlite::fallible_iterator::FallibleIterator;
        let mut batch = rusqlite::Batch::new(&self.reader.connection, sql);
        while let Some(mut statement) = batch.next().map_err(|error| error.to_string())? {
            bind(&mut statement, params).map_err(|error| match error {
                Ok(ours) => ours.to_string(),
                Err(theirs) => theirs.to_string(),
            })?;
            statement.raw_execute().map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

fn read_names(connection: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    let sql = "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%'";
    connection.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
}

fn read_schema(connection: &Connection) -> rusqlite::Result<BTreeMap<String, Vec<String>>> {
    let mut statement = connection.prepare(
        "SELECT s.name, c.name FROM sqlite_schema AS s, pragma_table_info(s.name) AS c
         WHERE s.type IN ('table', 'view') AND s.name NOT LIKE 'sqlite_%' ORDER BY s.name, c.cid",
    )?;
    let mut schema: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pair in statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))? {
        let (table, column) = pair?;
        schema.entry(table).or_default().push(column);
    }
    Ok(schema)
}

fn authorize(names: &BTreeSet<String>, context: &AuthContext<'_>) -> Authorization {
    let allowed = match &context.action {
        AuthAction::Select | AuthAction::Recursive => true,
        AuthAction::Read { table_name, column_name } => {
            let named = names.contains(*table_name) || matches!(*table_name, "json_each" | "json_tree");
            // A subquery or CTE of which no column is used (count(*)) arrives by its own name with an empty column.
            named
                || (column_name.is_empty() && !table_name.starts_with("sqlite_") && !table_name.starts_with("pragma_"))
        }
        AuthAction::Function { function_name } => !function_name.eq_ignore_ascii_case("load_extension"),
        _ => false,
    };
    if allowed { Authorization::Allow } else { Authorization::Deny }
}

/// `Err(Ok(..))` is ours, `Err(Err(..))` is SQLite's.
fn bind(statement: &mut Statement<'_>, params: &[(&str, Value)]) -> Result<(), Result<QueryError, rusqlite::Error>> {
    for index in 1..=statement.parameter_count() {
        let name = statement.parameter_name(index).unwrap_or("?").to_owned();
        let Some((_, value)) = params.iter().find(|(known, _)| *known == name) else {
            let known = params.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "none".into() } else { known };
            return Err(Ok(QueryError::Parameter { name, known }));
        };
        let bound = match value {
            Value::Null => statement.raw_bind_parameter(index, rusqlite::types::Null),
            Value::Bool(value) => statement.raw_bind_parameter(index, value),
            Value::Number(number) => match number.as_i64() {
                Some(integer) => statement.raw_bind_parameter(index, integer),
                None => statement.raw_bind_parameter(index, number.as_f64()),
            },
            Value::String(text) => statement.raw_bind_parameter(index, text),
            other => statement.raw_bind_parameter(index, other.to_string()),
        };
        bound.map_err(Err)?;
    }
    Ok(())
}

fn cell(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer) => integer.into(),
        ValueRef::Real(real) => {
            serde_json::Number::from_f64(real).map_or_else(|| real.to_string().into(), Value::Number)
        }
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned().into(),
        ValueRef::Blob(blob) => {
            let hex = blob.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
            format!("x'{hex}'").into()
        }
    }
}

/// The name that is fewest edits away, if it is near at all.
fn nearest<'a>(name: &str, among: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = among.map(|other| (edits(name, other), other)).min()?;
    (near.0 <= 1 + name.len() / 3).then_some(near.1)
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
