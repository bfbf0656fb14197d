//! What is to be written, in order, and what happens when it cannot be.
//!
//! Entries (processes, events, gaps, golden outputs, findings) are written in one transaction that is on the disk before
//! the effects of the same event are performed. Samples wait for the next tick. When the disk is full nothing stops:
//! entries wait (bounded), samples wait a little and are then shed, and when there is room again the entries are written
//! first and the shed time is recorded as a gap. What is worth an entry is decided elsewhere.

use super::event::{EndOf, Life};
use crate::model::event::{Event, EventKind, EventSeverity};
use crate::model::finding::Finding;
use crate::model::process::{Golden, NewDevice, NewProcess, ProcessEnd, ProcessRow};
use crate::model::sample::{DeviceReading, HostReading, LatencyInterval, ProcessReading, SampleBatch, WorkReading};
use crate::model::series::SeriesKey;
use crate::model::time::{MonoMillis, Now, UnixMillis};
use crate::store::{Store, StoreError, Writing};
use std::collections::{BTreeMap, VecDeque};

/// Entries that may wait. At a crash a second this is three hours; older findings go first, for later ones say more.
const ENTRIES_MAX: usize = 10_000;
/// Sample rows that may wait: about a minute of a dozen rows a second.
const SAMPLE_ROWS_MAX: usize = 1_000;
/// Latency rows that may wait: hours, for they come once a minute.
const LATENCY_ROWS_MAX: usize = 500;
/// Between two attempts to write while writing fails.
const RETRY_MS: i64 = 1_000;

/// One thing to be written durably.
#[derive(Debug, Clone)]
pub enum Entry {
    /// Whoever watched this run before us is gone, and what it had started with it.
    Left {
        /// When the run was last seen.
        seen: UnixMillis,
    },
    /// A process was started.
    Started {
        /// Which incarnation.
        life: Life,
        /// Its row.
        process: NewProcess,
    },
    /// A process ended.
    Ended(EndOf),
    /// Something happened.
    Event {
        /// The process it is about.
        life: Option<Life>,
        /// The device it is about, by UUID.
        device: Option<String>,
        /// Its row; the ids are filled in when it is written.
        event: Event,
    },
    /// Nothing was watched.
    Gap {
        /// From.
        from: UnixMillis,
        /// To.
        to: UnixMillis,
        /// Why.
        reason: &'static str,
    },
    /// What a prompt gave first.
    Golden {
        /// The output.
        golden: Golden,
        /// When.
        at: UnixMillis,
    },
    /// A GPU.
    Device(NewDevice),
    /// What the analysis says.
    Findings {
        /// When.
        at: UnixMillis,
        /// Whether it is the last word.
        is_final: bool,
        /// Series, whether it counts towards the verdict, and what is said of it.
        findings: Vec<(SeriesKey, bool, Finding)>,
    },
}

/// Since when, and why, nothing can be written.
#[derive(Debug, Clone)]
struct Trouble {
    since: UnixMillis,
    retry_at: MonoMillis,
    /// Samples could not be written: the reserve takes entries all the same, and that is no recovery.
    of_samples: bool,
}

/// Rows that the database gave.
#[derive(Debug, Clone, Default)]
struct Ids {
    processes: BTreeMap<Life, ProcessRow>,
    devices: BTreeMap<String, i64>,
}

/// The queue in front of the store.
#[derive(Debug)]
pub struct Ledger {
    store: Store,
    run_id: i64,
    entries: VecDeque<Entry>,
    batch: SampleBatch,
    latencies: Vec<LatencyInterval>,
    /// Of the present minute so far, as each process told last: written if it ends before the minute.
    so_far: Vec<LatencyInterval>,
    ids: Ids,
    trouble: Option<Trouble>,
    /// When the oldest row of the batch was taken.
    batch_since: MonoMillis,
    /// From when to when samples were shed, by the clock that does not step.
    shed: Option<(MonoMillis, MonoMillis)>,
}

impl Ledger {
    /// A ledger for `run_id` of `store`.
    #[must_use]
    pub fn new(store: Store, run_id: i64) -> Ledger {
        Ledger {
            store,
            run_id,
            entries: VecDeque::new(),
            batch: SampleBatch::default(),
            latencies: Vec::new(),
            so_far: Vec::new(),
            ids: Ids::default(),
            trouble: None,
            batch_since: MonoMillis(0),
            shed: None,
        }
    }

    /// The database, for what is not queued (alerts, the verdict, reading).
    pub fn store(&mut self) -> &mut Store {
        &mut self.store
    }

    /// The run's row.
    #[must_use]
    pub fn run_id(&self) -> i64 {
        self.run_id
    }

    /// True while nothing can be written.
    #[must_use]
    pub fn is_in_trouble(&self) -> bool {
        self.trouble.is_some()
    }

    /// The row of a process, once it is written.
    #[must_use]
    pub fn process(&self, life: Life) -> Option<ProcessRow> {
        self.ids.processes.get(&life).copied()
    }

    /// Queues an entry for the end of the present event.
    pub fn put(&mut self, entry: Entry) {
        if self.entries.len() >= ENTRIES_MAX {
            let finding = self.entries.iter().position(|entry| matches!(entry, Entry::Findings { .. }));
            self.entries.remove(finding.unwrap_or(0));
        }
        if let Entry::Ended(EndOf { life, .. }) = &entry
            && let Some(row) = self.process(*life)
        {
            let (ended, others) =
                std::mem::take(&mut self.so_far).into_iter().partition(|told| told.process_id == row.process_id);
            self.so_far = others;
            self.keep_latencies(ended);
        }
        self.entries.push_back(entry);
    }

    /// Queues an event about the run as a whole.
    pub fn note(&mut self, at: UnixMillis, kind: EventKind, severity: EventSeverity, summary: String) {
        self.note_of(None, at, kind, severity, summary, serde_json::json!({}));
    }

    /// Queues an event about a process.
    pub fn note_of(
        &mut self,
        life: Option<Life>,
        at: UnixMillis,
        kind: EventKind,
        severity: EventSeverity,
        summary: String,
        detail: serde_json::Value,
    ) {
        let event = Event { at, kind, severity, process_id: None, device_id: None, summary, detail };
        self.put(Entry::Event { life, device: None, event });
    }

    /// A reading of a process. Lost if the process has no row yet, which only a full disk can cause.
    pub fn sample_process(&mut self, life: Life, now: Now, reading: ProcessReading) {
        match self.process(life) {
            Some(row) => self.batch_at(now).processes.push((row.process_id, now.wall, reading)),
            None => self.widen_shed(now.mono, now.mono),
        }
    }

    /// What a worker counts.
    pub fn sample_work(&mut self, life: Life, now: Now, reading: WorkReading) {
        match self.process(life) {
            Some(row) => self.batch_at(now).work.push((row.process_id, now.wall, reading)),
            None => self.widen_shed(now.mono, now.mono),
        }
    }

    /// A reading of a GPU.
    pub fn sample_device(&mut self, uuid: &str, now: Now, reading: DeviceReading) {
        match self.ids.devices.get(uuid).copied() {
            Some(id) => self.batch_at(now).devices.push((id, now.wall, reading)),
            None => self.widen_shed(now.mono, now.mono),
        }
    }

    /// A reading of the host.
    pub fn sample_host(&mut self, now: Now, reading: HostReading) {
        let run_id = self.run_id;
        self.batch_at(now).hosts.push((run_id, now.wall, reading));
    }

    /// The batch, for a row that was taken now.
    fn batch_at(&mut self, now: Now) -> &mut SampleBatch {
        if self.batch.is_empty() {
            self.batch_since = now.mono;
        }
        &mut self.batch
    }

    /// Latencies that a process tells of: those of a minute, or of the present one `so_far`.
    pub fn latencies(&mut self, process_id: i64, intervals: Vec<LatencyInterval>, so_far: bool) {
        self.so_far.retain(|told| told.process_id != process_id);
        if so_far {
            self.so_far.extend(intervals);
        } else {
            self.keep_latencies(intervals);
        }
    }

    fn keep_latencies(&mut self, intervals: Vec<LatencyInterval>) {
        let room = LATENCY_ROWS_MAX.saturating_sub(self.latencies.len());
        self.latencies.extend(intervals.into_iter().take(room));
    }

    /// Writes the entries, if there are any and it is not too early to try again.
    pub fn flush(&mut self, now: Now) {
        if self.entries.is_empty() || self.trouble.as_ref().is_some_and(|trouble| now.mono < trouble.retry_at) {
            return;
        }
        let entries: Vec<Entry> = self.entries.iter().cloned().collect();
        let (run_id, ids) = (self.run_id, &self.ids);
        let written = self.store.record(|to| {
            let mut ids = ids.clone();
            entries.iter().try_for_each(|entry| write(to, run_id, entry, &mut ids))?;
            Ok(ids)
        });
        match written {
            Ok(ids) => {
                self.ids = ids;
                self.entries.clear();
                self.recovered_unless_of_samples(now);
            }
            Err(error) if error.is_passing() => self.failed(&error, false, now),
            Err(error) => {
                self.failed(&error, false, now);
                self.write_one_by_one();
            }
        }
    }

    /// Writes the samples of this tick. Entries go first: events matter more than samples.
    pub fn flush_samples(&mut self, now: Now) {
        self.flush(now);
        if self.trouble.as_ref().is_some_and(|trouble| now.mono < trouble.retry_at) {
            self.shed_samples(now);
            return;
        }
        if !self.batch.is_empty() {
            match self.store.append(&self.batch) {
                Ok(()) => {
                    self.batch = SampleBatch::default();
                    tracing::trace!("a batch of samples is written");
                    self.recovered(now);
                }
                Err(error) => {
                    self.failed(&error, true, now);
                    self.shed_samples(now);
                    return;
                }
            }
        }
        if !self.latencies.is_empty() && self.store.latencies(&self.latencies).is_ok() {
            self.latencies.clear();
        }
        self.recovered_unless_of_samples(now);
        self.flush(now); // what the recovery had to say
    }

    /// One poisoned entry must not hold up all others: each gets a transaction of its own, and what fails by itself goes.
    fn write_one_by_one(&mut self) {
        let mut kept = VecDeque::new();
        for entry in std::mem::take(&mut self.entries) {
            let (run_id, ids) = (self.run_id, &self.ids);
            let written = self.store.record(|to| {
                let mut ids = ids.clone();
                write(to, run_id, &entry, &mut ids)?;
                Ok(ids)
            });
            match written {
                Ok(ids) => self.ids = ids,
                Err(error) if error.is_passing() => kept.push_back(entry),
                Err(error) => tracing::error!("cannot be written and is dropped: {error}: {entry:?}"),
            }
        }
        self.entries = kept;
    }

    fn failed(&mut self, error: &StoreError, of_samples: bool, now: Now) {
        let retry_at = now.mono.plus(RETRY_MS);
        if let Some(trouble) = &mut self.trouble {
            trouble.retry_at = retry_at;
            trouble.of_samples |= of_samples;
            return;
        }
        tracing::error!("{error}");
        self.trouble = Some(Trouble { since: now.wall, retry_at, of_samples });
        let kind = if error.is_disk_full() { EventKind::DiskFull } else { EventKind::StoreFault };
        let what = match of_samples {
            true => "samples cannot be written to the database, and wait",
            false => "nothing can be written to the database, and events wait",
        };
        self.note(now.wall, kind, EventSeverity::Error, format!("{what}: {error}"));
    }

    fn recovered_unless_of_samples(&mut self, now: Now) {
        if self.trouble.as_ref().is_some_and(|trouble| !trouble.of_samples) {
            self.recovered(now);
        }
    }

    fn recovered(&mut self, now: Now) {
        let Some(trouble) = self.trouble.take() else { return };
        let summary = match self.shed {
            Some(_) => "the database can be written again; samples in between were shed, events were kept",
            None => "the database can be written again; nothing was lost",
        };
        tracing::info!("{summary}");
        let detail = serde_json::json!({ "since_unix_ms": trouble.since.0 });
        self.note_of(None, now.wall, EventKind::DiskRecovered, EventSeverity::Info, summary.to_owned(), detail);
        self.put_shed(now);
    }

    /// What was shed so far is a gap.
    fn put_shed(&mut self, now: Now) {
        if let Some((from, to)) = self.shed.take() {
            let ago = |then: MonoMillis| now.wall.before(now.mono.since(then));
            let until = ago(to);
            self.put(Entry::Gap { from: ago(from).min(until.before(1)), to: until, reason: "disk_full" });
        }
    }

    /// The run ends, and its samples cannot be written: what waits of them is shed, and all that was shed is a gap, as far as
    /// that can be written.
    pub fn give_samples_up(&mut self, now: Now) {
        let Some(trouble) = &mut self.trouble else { return };
        trouble.retry_at = now.mono; // nobody comes back to it
        if !self.batch.is_empty() {
            self.batch = SampleBatch::default();
            self.widen_shed(self.batch_since, now.mono);
        }
        self.put_shed(now);
        self.flush(now);
    }

    fn shed_samples(&mut self, now: Now) {
        if self.batch.len() > SAMPLE_ROWS_MAX {
            self.batch = SampleBatch::default();
            self.widen_shed(self.batch_since, now.mono);
        }
    }

    fn widen_shed(&mut self, from: MonoMillis, to: MonoMillis) {
        self.shed = Some(self.shed.map_or((from, to), |(first, last)| (first.min(from), last.max(to))));
    }
}

fn write(to: &Writing, run_id: i64, entry: &Entry, ids: &mut Ids) -> Result<(), StoreError> {
    match entry {
        Entry::Left { seen } => to.close_processes(run_id, *seen)?,
        Entry::Started { life, process } => {
            ids.processes.insert(*life, to.start_process(process)?);
        }
        Entry::Ended(EndOf { life, end }) => {
            // A process whose start was never written (dropped above) has no end either.
            if let Some(row) = ids.processes.get(life) {
                to.end_process(&ProcessEnd { process_id: row.process_id, ..end.clone() })?;
            }
        }
        Entry::Event { life, device, event } => {
            let process_id = life.and_then(|life| ids.processes.get(&life)).map(|row| row.process_id);
            let device_id = device.as_ref().and_then(|uuid| ids.devices.get(uuid)).copied();
            to.event(run_id, &Event { process_id, device_id, ..event.clone() })?;
        }
        Entry::Gap { from, to: until, reason } => to.gap(run_id, *from, *until, reason)?,
        Entry::Golden { golden, at } => to.put_golden(run_id, golden, *at)?,
        Entry::Device(device) => {
            ids.devices.insert(device.uuid.clone(), to.start_device(device)?);
        }
        Entry::Findings { at, is_final, findings } => {
            for (key, judged, finding) in findings {
                let series_id = to.series(run_id, key, *judged)?;
                to.finding(series_id, *at, *is_final, finding)?;
            }
        }
    }
    Ok(())
}
