//! What an earlier supervisor saw of the same run, read back: counts, golden outputs, and every point of every series, so
//! that a resumed run is judged on all of it.
//!
//! Rows are read in windows of an hour, so that two days of seconds never stand in memory at once. Two days of a run that was
//! restarted often take seconds, and there is a machine to watch meanwhile: [`beside`] reads them in a thread of its own.

use super::tally::Counts;
use super::watch::{Watch, Whose};
use crate::model::event::EventKind;
use crate::model::sample::{DeviceReading, ProcessReading, Role, WorkReading};
use crate::model::time::UnixMillis;
use crate::store::sql::{Limits, QueryError, Reader, Rows};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};

/// Rows of one window: an hour at ten samples a second.
const WINDOW_MS: i64 = 3_600_000;
const WINDOW_ROWS_MAX: usize = 40_000;

/// Reads the past of `run_id` from the database at `path` into `watch`. The first `warm_up_ms` of what soaks are left out, as
/// they were then.
pub fn replay(path: &Path, run_id: i64, warm_up_ms: i64, mut watch: Watch) -> Result<Watch, QueryError> {
    let past = Past { reader: open(path)?, run_id, warm_up_ms };
    past.processes(&mut watch)?;
    past.devices(&mut watch)?;
    past.alarms()?.iter().for_each(|series| watch.already_told(series));
    Ok(watch)
}

/// The same in a thread of its own. Nobody waits for the thread: if the run is over before it, so is the process.
pub fn beside(
    path: PathBuf,
    run_id: i64,
    warm_up_ms: i64,
    watch: Watch,
) -> std::io::Result<Receiver<Result<Watch, String>>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new().name("history".to_owned()).spawn(move || {
        let read = replay(&path, run_id, warm_up_ms, watch).map_err(|error| error.to_string());
        let _ = sender.send(read); // the run may be over
    })?;
    Ok(receiver)
}

/// What is known of a run before its points are read back.
#[derive(Debug)]
pub struct Known {
    /// What was counted.
    pub counts: Counts,
    /// The roles of a target that were named: ordinal, name, lives.
    pub roles: Vec<(u32, String, u32)>,
}

/// What the database at `path` knows of `run_id`.
pub fn known(path: &Path, run_id: i64) -> Result<Known, QueryError> {
    let past = Past { reader: open(path)?, run_id, warm_up_ms: 0 };
    Ok(Known { counts: past.counts()?, roles: past.roles()? })
}

fn open(path: &Path) -> Result<Reader, QueryError> {
    Reader::open(path).map_err(|error| QueryError::Store(error.to_string()))
}

struct Past {
    reader: Reader,
    run_id: i64,
    warm_up_ms: i64,
}

impl Past {
    fn rows(&self, sql: &str, id: i64, from: i64) -> Result<Vec<Vec<Value>>, QueryError> {
        let params = [(":id", Value::from(id)), (":from", Value::from(from)), (":to", Value::from(from + WINDOW_MS))];
        let limits = Limits { rows_max: WINDOW_ROWS_MAX, expired: Box::new(|| false) };
        self.reader.query_rows(sql, &params, limits).map(|Rows { rows, .. }| rows)
    }

    fn counts(&self) -> Result<Counts, QueryError> {
        let mut counts = Counts::default();
        let sql = "SELECT kind, sum(CASE kind WHEN 'golden_mismatch' THEN coalesce(detail ->> '$.count', 1) ELSE 1 END) \
                   FROM event WHERE run_id = :id GROUP BY kind";
        for row in self.rows(sql, self.run_id, 0)? {
            let (Some(kind), Some(n)) = (text(&row, 0), integer(&row, 1)) else { continue };
            if let Ok(kind) = serde_json::from_value::<EventKind>(kind.into()) {
                counts.add_many(kind, n);
            }
        }
        Ok(counts)
    }

    fn roles(&self) -> Result<Vec<(u32, String, u32)>, QueryError> {
        let sql = "SELECT ordinal, name, max(incarnation) FROM process WHERE run_id = :id AND role = 'target_child' \
                   GROUP BY ordinal ORDER BY ordinal";
        let role =
            |row: &Vec<Value>| Some((integer(row, 0)? as u32, text(row, 1)?.to_owned(), integer(row, 2)? as u32));
        Ok(self.rows(sql, self.run_id, 0)?.iter().filter_map(role).collect())
    }

    /// Series whose alarm is an event already.
    fn alarms(&self) -> Result<Vec<String>, QueryError> {
        let sql = "SELECT DISTINCT detail ->> '$.series' FROM event WHERE run_id = :id AND kind = 'drift_alarm'";
        Ok(self.rows(sql, self.run_id, 0)?.iter().filter_map(|row| text(row, 0).map(str::to_owned)).collect())
    }

    fn processes(&self, watch: &mut Watch) -> Result<(), QueryError> {
        let sql = "SELECT p.process_id, p.role, p.ordinal, p.incarnation,
                     (SELECT min(unix_ms) FROM process_sample AS s WHERE s.process_id = p.process_id),
                     (SELECT max(unix_ms) FROM process_sample AS s WHERE s.process_id = p.process_id), p.started_unix_ms
                   FROM process AS p WHERE run_id = :id ORDER BY p.process_id";
        for row in self.rows(sql, self.run_id, 0)? {
            let role = text(&row, 1).and_then(|role| serde_json::from_value::<Role>(role.into()).ok());
            let (Some(role), Some(id), Some(ordinal), Some(incarnation)) =
                (role, integer(&row, 0), integer(&row, 2), integer(&row, 3))
            else {
                continue;
            };
            let (Some(mut first), Some(last)) = (integer(&row, 4), integer(&row, 5)) else { continue };
            if matches!(role, Role::Worker | Role::TargetChild) {
                first = first.max(integer(&row, 6).unwrap_or(first) + self.warm_up_ms);
            }
            let whose = Whose { role, ordinal: ordinal as u32, segment: incarnation as u32, requests: None };
            self.process(id, whose, first, last, watch)?;
        }
        Ok(())
    }

    /// Samples and counters of one process in the order of time.
    fn process(&self, id: i64, mut whose: Whose, first: i64, last: i64, watch: &mut Watch) -> Result<(), QueryError> {
        let samples = "SELECT unix_ms, rss_bytes, rss_anon_bytes, swap_bytes, pss_bytes, vram_bytes FROM process_sample
                       WHERE process_id = :id AND unix_ms >= :from AND unix_ms < :to ORDER BY unix_ms";
        // A role of a target counts nothing itself: the requests are those that its keeper made meanwhile.
        let work = if whose.role == Role::TargetChild {
            "SELECT w.unix_ms, w.requests, 0, NULL FROM process AS own JOIN process AS p ON p.run_id = own.run_id
               AND p.role = 'worker' JOIN work_sample AS w ON w.process_id = p.process_id
             WHERE own.process_id = :id AND w.unix_ms >= :from AND w.unix_ms < :to ORDER BY w.unix_ms"
        } else {
            "SELECT unix_ms, requests, held_host_bytes, held_device_bytes FROM work_sample
             WHERE process_id = :id AND unix_ms >= :from AND unix_ms < :to ORDER BY unix_ms"
        };
        let mut from = first;
        while from <= last {
            let mut counters = self.rows(work, id, from)?.into_iter().peekable();
            for row in self.rows(samples, id, from)? {
                let Some(at) = integer(&row, 0) else { continue };
                while let Some(counter) = counters.next_if(|row| integer(row, 0).is_some_and(|then| then <= at)) {
                    take_work(&counter, &mut whose, watch);
                }
                let reading = ProcessReading {
                    rss_bytes: integer(&row, 1),
                    rss_anon_bytes: integer(&row, 2),
                    swap_bytes: integer(&row, 3),
                    pss_bytes: integer(&row, 4),
                    vram_bytes: integer(&row, 5),
                    ..ProcessReading::default()
                };
                watch.process(whose, UnixMillis(at), &reading);
            }
            counters.for_each(|counter| take_work(&counter, &mut whose, watch));
            from += WINDOW_MS;
        }
        Ok(())
    }

    fn devices(&self, watch: &mut Watch) -> Result<(), QueryError> {
        let sql = "SELECT d.device_id, d.ordinal,
                     (SELECT min(unix_ms) FROM device_sample AS s WHERE s.device_id = d.device_id),
                     (SELECT max(unix_ms) FROM device_sample AS s WHERE s.device_id = d.device_id)
                   FROM device AS d WHERE run_id = :id ORDER BY d.device_id";
        let samples = "SELECT unix_ms, vram_used_bytes FROM device_sample
                       WHERE device_id = :id AND unix_ms >= :from AND unix_ms < :to ORDER BY unix_ms";
        for row in self.rows(sql, self.run_id, 0)? {
            let (Some(id), Some(ordinal), Some(first), Some(last)) =
                (integer(&row, 0), integer(&row, 1), integer(&row, 2), integer(&row, 3))
            else {
                continue;
            };
            // The segment of a device is the newest incarnation of its worker at that time.
            let (lives, mut lived, mut segment) = (self.lives_of_worker(ordinal)?, 0, 0);
            let mut from = first;
            while from <= last {
                for row in self.rows(samples, id, from)? {
                    let reading = DeviceReading { vram_used_bytes: integer(&row, 1), ..DeviceReading::default() };
                    let Some(at) = integer(&row, 0) else { continue };
                    while let Some((_, incarnation)) = lives.get(lived).filter(|(started, _)| *started <= at) {
                        (lived, segment) = (lived + 1, segment.max(*incarnation));
                    }
                    watch.device(ordinal as u32, segment, UnixMillis(at), &reading);
                }
                from += WINDOW_MS;
            }
        }
        Ok(())
    }
}

impl Past {
    /// Beginnings and incarnations of a worker, in the order of time.
    fn lives_of_worker(&self, ordinal: i64) -> Result<Vec<(i64, u32)>, QueryError> {
        let sql = "SELECT started_unix_ms, incarnation FROM process
                   WHERE run_id = :id AND role = 'worker' AND ordinal = :from ORDER BY started_unix_ms";
        let rows = self.rows(sql, self.run_id, ordinal)?;
        Ok(rows.iter().filter_map(|row| Some((integer(row, 0)?, integer(row, 1)? as u32))).collect())
    }
}

fn take_work(row: &[Value], whose: &mut Whose, watch: &mut Watch) {
    let (Some(at), Some(held_host_bytes)) = (integer(row, 0), integer(row, 2)) else { return };
    whose.requests = integer(row, 1).map(|requests| requests as f64);
    let reading = WorkReading { held_host_bytes, held_device_bytes: integer(row, 3), ..WorkReading::default() };
    watch.work(*whose, UnixMillis(at), &reading);
}

fn integer(row: &[Value], column: usize) -> Option<i64> {
    row.get(column).and_then(Value::as_i64)
}

fn text(row: &[Value], column: usize) -> Option<&str> {
    row.get(column).and_then(Value::as_str)
}
