//! Samples: the second's batch in, at `synchronous=NORMAL`, and minutes rolled up from them. A minute row is made by SQL
//! from the raw rows, so that making it twice gives the same row, and a kill between the two loses nothing.

use super::error::StoreError;
use super::write::Writing;
use super::{Durability, Store, minute_of};
use crate::model::sample::{DeviceReading, HostReading, ProcessReading, SampleBatch, WorkReading};
use crate::model::time::UnixMillis;
use rusqlite::{params, params_from_iter};
use std::collections::BTreeMap;

/// Two samples of one source in one millisecond happen when the wall clock is stepped back onto itself; the later one
/// moves on by a millisecond, at most this often.
const NUDGES_MAX: i64 = 16;

/// A table of samples and how its minutes are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Process,
    Work,
    Device,
    Host,
}

impl Source {
    const ALL: [Source; 4] = [Source::Process, Source::Work, Source::Device, Source::Host];

    /// Column that says whose sample it is, and the table of minutes.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Source::Process => ("process_id", "process_minute"),
            Source::Work => ("process_id", "work_minute"),
            Source::Device => ("device_id", "device_minute"),
            Source::Host => ("run_id", "host_minute"),
        }
    }

    /// `?1` whose, `?2` from, `?3` to (exclusive).
    fn roll_up_sql(self) -> &'static str {
        match self {
            Source::Process => {
                "INSERT OR REPLACE INTO process_minute
                 SELECT process_id, unix_ms / 60000 * 60000, count(*), CAST(avg(rss_bytes) AS INTEGER), max(rss_bytes),
                   CAST(avg(rss_anon_bytes + swap_bytes) AS INTEGER), max(rss_anon_bytes + swap_bytes),
                   CAST(avg(pss_bytes) AS INTEGER), CAST(avg(vram_bytes) AS INTEGER), max(vram_bytes), max(threads),
                   max(open_fds), min(cpu_ms), max(cpu_ms), CAST(avg(cgroup_bytes) AS INTEGER)
                 FROM process_sample WHERE process_id = ?1 AND unix_ms >= ?2 AND unix_ms < ?3 GROUP BY 2"
            }
            Source::Work => {
                "INSERT OR REPLACE INTO work_minute
                 SELECT process_id, unix_ms / 60000 * 60000, count(*), min(unix_ms), max(unix_ms), min(tokens), max(tokens),
                   min(requests), max(requests), max(prompt_tokens), max(loops), max(golden_mismatches),
                   CAST(avg(held_host_bytes) AS INTEGER), CAST(avg(held_device_bytes) AS INTEGER), max(failures)
                 FROM work_sample WHERE process_id = ?1 AND unix_ms >= ?2 AND unix_ms < ?3 GROUP BY 2"
            }
            Source::Device => {
                "INSERT OR REPLACE INTO device_minute
                 SELECT device_id, unix_ms / 60000 * 60000, count(*), CAST(avg(vram_used_bytes) AS INTEGER),
                   max(vram_used_bytes), max(temperature_celsius), CAST(avg(power_milliwatts) AS INTEGER),
                   CAST(avg(sm_clock_mhz) AS INTEGER), CAST(avg(utilization_percent) AS INTEGER), max(throttle_reasons),
                   max(ecc_corrected), max(ecc_uncorrected), max(pcie_replays)
                 FROM device_sample WHERE device_id = ?1 AND unix_ms >= ?2 AND unix_ms < ?3 GROUP BY 2"
            }
            Source::Host => {
                "INSERT OR REPLACE INTO host_minute
                 SELECT run_id, unix_ms / 60000 * 60000, count(*), min(memory_available_bytes),
                   CAST(avg(memory_used_bytes) AS INTEGER), CAST(avg(swap_used_bytes) AS INTEGER), min(disk_free_bytes),
                   CAST(avg(load1_milli) AS INTEGER)
                 FROM host_sample WHERE run_id = ?1 AND unix_ms >= ?2 AND unix_ms < ?3 GROUP BY 2"
            }
        }
    }
}

/// The minute each source is in: when a sample of another minute comes, the former is complete.
#[derive(Debug, Default)]
pub(super) struct Rollups {
    minute: BTreeMap<(Source, i64), i64>,
}

impl Rollups {
    /// Which minutes `batch` completes: (source, whose, start of minute).
    fn completed_by(&self, batch: &SampleBatch) -> Vec<(Source, i64, i64)> {
        let mut latest: BTreeMap<(Source, i64), i64> = BTreeMap::new();
        let mut done = Vec::new();
        for (source, whose, at) in keys(batch) {
            let minute = minute_of(at);
            let before = latest.get(&(source, whose)).or_else(|| self.minute.get(&(source, whose))).copied();
            if before.is_some_and(|before| before != minute) {
                done.extend(before.map(|before| (source, whose, before)));
            }
            latest.insert((source, whose), minute);
        }
        // Who has ended has no later sample: anybody's says that the minute is over.
        let newest = newest_minute(batch);
        let silent = self.minute.iter().filter(|(key, minute)| !latest.contains_key(key) && Some(**minute) != newest);
        done.extend(silent.map(|((source, whose), minute)| (*source, *whose, *minute)));
        done
    }

    fn seen(&mut self, batch: &SampleBatch) {
        // All others are complete, and written.
        let newest = newest_minute(batch);
        self.minute.retain(|_, minute| Some(*minute) == newest);
        for (source, whose, at) in keys(batch) {
            self.minute.insert((source, whose), minute_of(at));
        }
    }
}

fn newest_minute(batch: &SampleBatch) -> Option<i64> {
    keys(batch).map(|(.., at)| minute_of(at)).max()
}

fn keys(batch: &SampleBatch) -> impl Iterator<Item = (Source, i64, UnixMillis)> + '_ {
    let processes = batch.processes.iter().map(|row| (Source::Process, row.0, row.1));
    let work = batch.work.iter().map(|row| (Source::Work, row.0, row.1));
    let devices = batch.devices.iter().map(|row| (Source::Device, row.0, row.1));
    processes.chain(work).chain(devices).chain(batch.hosts.iter().map(|row| (Source::Host, row.0, row.1)))
}

impl Store {
    /// Writes a batch in one transaction at `NORMAL`. On an error nothing of it is written. While the disk is so full that the
    /// reserve had to be given up for an event, samples are refused: they come last.
    pub fn append(&mut self, batch: &SampleBatch) -> Result<(), StoreError> {
        if !self.reserve.is_whole() {
            return Err(StoreError::DiskFull { path: self.path.clone() });
        }
        let completed = self.rollups.completed_by(batch);
        self.transact(Durability::Normal, &|to| {
            insert(to, batch)?;
            completed
                .iter()
                .try_for_each(|(source, whose, minute)| roll_up(to, *source, *whose, *minute, minute + 60_000))
        })?;
        self.rollups.seen(batch);
        Ok(())
    }

    /// Minutes that a killed writer left without their row.
    pub(super) fn roll_up_missed(&mut self) -> Result<(), StoreError> {
        self.transact(Durability::Normal, &|to| {
            for source in Source::ALL {
                let (whose, _) = source.names();
                let owners = match source {
                    Source::Process | Source::Work => "process JOIN run USING (run_id) WHERE run.state = 'running'",
                    Source::Device => "device JOIN run USING (run_id) WHERE run.state = 'running'",
                    Source::Host => "run WHERE run.state = 'running'",
                };
                let sql = format!("SELECT {whose} FROM {owners}");
                for id in to.ids(&sql)? {
                    roll_up(to, source, id, last_minute(to, source, id)?, i64::MAX)?;
                }
            }
            Ok(())
        })
    }
}

/// The last minutes of a process that has ended.
pub(super) fn roll_up_process(to: &Writing, process_id: i64) -> Result<(), StoreError> {
    for source in [Source::Process, Source::Work] {
        roll_up(to, source, process_id, last_minute(to, source, process_id)?, i64::MAX)?;
    }
    Ok(())
}

/// The last minutes of all that belongs to a run, complete or not.
pub(super) fn roll_up_run(to: &Writing, run_id: i64, upto: i64) -> Result<(), StoreError> {
    for source in Source::ALL {
        let sql = match source {
            Source::Process | Source::Work => format!("SELECT process_id FROM process WHERE run_id = {run_id}"),
            Source::Device => format!("SELECT device_id FROM device WHERE run_id = {run_id}"),
            Source::Host => format!("SELECT {run_id}"),
        };
        for id in to.ids(&sql)? {
            // Two minutes back cover the one that is open and the one before it, where the clock was stepped back.
            roll_up(to, source, id, last_minute(to, source, id)?.min(upto - 180_000), upto)?;
        }
    }
    Ok(())
}

/// The newest minute that is written of `whose`: it may have been written before its end.
fn last_minute(to: &Writing, source: Source, whose: i64) -> Result<i64, StoreError> {
    let (column, minutes) = source.names();
    let sql = format!("SELECT max(minute_unix_ms) FROM {minutes} WHERE {column} = ?1");
    let newest: Option<Option<i64>> = to.row(&sql, [whose], |row| row.get(0))?;
    Ok(newest.flatten().unwrap_or(i64::MIN))
}

fn roll_up(to: &Writing, source: Source, whose: i64, from: i64, upto: i64) -> Result<(), StoreError> {
    to.execute(source.roll_up_sql(), params![whose, from, upto]).map(|_| ())
}

fn insert(to: &Writing, batch: &SampleBatch) -> Result<(), StoreError> {
    for (process_id, at, r) in &batch.processes {
        insert_process(to, *process_id, *at, r)?;
    }
    for (process_id, at, r) in &batch.work {
        insert_work(to, *process_id, *at, r)?;
    }
    for (device_id, at, r) in &batch.devices {
        insert_device(to, *device_id, *at, r)?;
    }
    for (run_id, at, r) in &batch.hosts {
        insert_host(to, *run_id, *at, r)?;
    }
    Ok(())
}

/// Inserts at `at`, or within [`NUDGES_MAX`] ms after it if that moment is taken.
fn insert_nudged(to: &Writing, sql: &str, whose: i64, at: UnixMillis, rest: &[Option<i64>]) -> Result<(), StoreError> {
    for nudge in 0..NUDGES_MAX {
        let row = [Some(whose), Some(at.0 + nudge)].into_iter().chain(rest.iter().copied());
        if to.execute(sql, params_from_iter(row))? > 0 {
            return Ok(());
        }
    }
    Ok(()) // seventeen samples of one source within 16 ms: the figures are all there already
}

fn insert_process(to: &Writing, id: i64, at: UnixMillis, r: &ProcessReading) -> Result<(), StoreError> {
    let sql =
        "INSERT INTO process_sample (process_id, unix_ms, rss_bytes, rss_anon_bytes, swap_bytes, pss_bytes, vram_bytes,
       threads, open_fds, cpu_ms, cgroup_bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT DO NOTHING";
    let rest = [
        r.rss_bytes,
        r.rss_anon_bytes,
        r.swap_bytes,
        r.pss_bytes,
        r.vram_bytes,
        r.threads,
        r.open_fds,
        r.cpu_ms,
        r.cgroup_bytes,
    ];
    insert_nudged(to, sql, id, at, &rest)
}

fn insert_work(to: &Writing, id: i64, at: UnixMillis, r: &WorkReading) -> Result<(), StoreError> {
    let sql = "INSERT INTO work_sample (process_id, unix_ms, tokens, requests, prompt_tokens, loops, golden_mismatches,
       held_host_bytes, held_device_bytes, failures) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING";
    let rest = [
        Some(r.tokens),
        Some(r.requests),
        Some(r.prompt_tokens),
        Some(r.loops),
        Some(r.golden_mismatches),
        Some(r.held_host_bytes),
        r.held_device_bytes,
        Some(r.failures),
    ];
    insert_nudged(to, sql, id, at, &rest)
}

fn insert_device(to: &Writing, id: i64, at: UnixMillis, r: &DeviceReading) -> Result<(), StoreError> {
    let sql = "INSERT INTO device_sample (device_id, unix_ms, vram_used_bytes, vram_free_bytes, temperature_celsius,
       power_milliwatts, sm_clock_mhz, memory_clock_mhz, utilization_percent, throttle_reasons, ecc_corrected,
       ecc_uncorrected, pcie_replays) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
       ON CONFLICT DO NOTHING";
    let rest = [
        r.vram_used_bytes,
        r.vram_free_bytes,
        r.temperature_celsius,
        r.power_milliwatts,
        r.sm_clock_mhz,
        r.memory_clock_mhz,
        r.utilization_percent,
        r.throttle_reasons,
        r.ecc_corrected,
        r.ecc_uncorrected,
        r.pcie_replays,
    ];
    insert_nudged(to, sql, id, at, &rest)
}

fn insert_host(to: &Writing, id: i64, at: UnixMillis, r: &HostReading) -> Result<(), StoreError> {
    let sql = "INSERT INTO host_sample (run_id, unix_ms, memory_available_bytes, memory_used_bytes, swap_used_bytes,
       disk_free_bytes, load1_milli) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING";
    let rest = [r.memory_available_bytes, r.memory_used_bytes, r.swap_used_bytes, r.disk_free_bytes, r.load1_milli];
    insert_nudged(to, sql, id, at, &rest)
}
