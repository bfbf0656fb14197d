//! Samples of a run, thinned to columns while they are read: memory series, GPUs, the host, latencies, throughput. One
//! scan a process for all of its series. Leaves the rest of a run's facts to `facts`.

use super::Store;
use super::error::StoreError;
use crate::model::columns::{Column, Thinner};
use crate::model::facts::{DeviceFacts, LatencyFacts, Measured, RunFacts, SeriesFacts, Throughput};
use crate::model::time::UnixMillis;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use rusqlite::Row;
use std::collections::BTreeMap;

/// NVML's reasons that cost speed: software and hardware thermal slow-down, power cap and brake, hardware slow-down. Idle
/// (bit 0), clocks set by the user (1) and sync boost (4) are no faults.
const SLOWING_REASONS: i64 = 0x04 | 0x08 | 0x20 | 0x40 | 0x80;

/// The run's time and how finely it is shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    from_s: f64,
    width_s: f64,
}

impl Window {
    /// About `columns_max` columns from `from` to `to`.
    pub fn new(from: UnixMillis, to: UnixMillis, columns_max: usize) -> Self {
        let span_s = (to.seconds() - from.seconds()).max(1.0);
        Window { from_s: from.seconds(), width_s: span_s / columns_max.max(1) as f64 }
    }

    fn thinner(self) -> Thinner {
        Thinner::new(self.from_s, self.width_s)
    }

    /// As above for figures that come once a minute: narrower columns would hold nothing more.
    fn minutes(self) -> Thinner {
        Thinner::new(self.from_s, self.width_s.max(60.0))
    }
}

/// Columns of `process_sample` that series are made of, in the order in which they are selected.
const PROCESS_KINDS: [&str; 4] = ["rss", "anon_swap", "pss", "process_vram"];

impl Store {
    /// Fills the samples of `series`, which are those of `run_id`.
    pub(super) fn fill_series(
        &self,
        run_id: i64,
        series: &mut [SeriesFacts],
        window: Window,
    ) -> Result<(), StoreError> {
        let mut filled: BTreeMap<String, (Thinner, f64)> = BTreeMap::new();
        let wanted: Vec<String> = series.iter().map(|s| s.name.clone()).collect();
        let is_wanted = |name: &String| wanted.contains(name);
        for (process_id, name, incarnation) in self.lives(run_id)? {
            let names = PROCESS_KINDS.map(|kind| format!("{name}.{kind}"));
            if names.iter().any(is_wanted) {
                let sql = "SELECT unix_ms, rss_bytes, rss_anon_bytes + coalesce(swap_bytes, 0), pss_bytes, vram_bytes
                     FROM process_sample WHERE process_id = ?1 ORDER BY unix_ms";
                self.scan(sql, process_id, &names, incarnation, window, &mut filled)?;
            }
            let held = [format!("{name}.engine_held")];
            if held.iter().any(is_wanted) {
                let sql = "SELECT unix_ms, coalesce(held_device_bytes, held_host_bytes) FROM work_sample WHERE process_id = ?1
                     ORDER BY unix_ms";
                self.scan(sql, process_id, &held, incarnation, window, &mut filled)?;
            }
        }
        for (device_id, ordinal) in self.device_ids(run_id)? {
            let names = [format!("gpu-{ordinal}.device_vram")];
            if names.iter().any(is_wanted) {
                let sql = "SELECT unix_ms, vram_used_bytes FROM device_sample WHERE device_id = ?1 ORDER BY unix_ms";
                self.scan(sql, device_id, &names, 0, window, &mut filled)?;
            }
        }
        for one in series {
            if let Some((thinner, max)) = filled.remove(&one.name) {
                one.columns = thinner.finish();
                one.bytes_max = (!one.columns.is_empty()).then_some(max);
            }
        }
        Ok(())
    }

    /// One pass over `sql`'s rows: a time and then one figure for each of `names`.
    fn scan(
        &self,
        sql: &str,
        id: i64,
        names: &[String],
        segment: u32,
        window: Window,
        into: &mut BTreeMap<String, (Thinner, f64)>,
    ) -> Result<(), StoreError> {
        let mut slots: Vec<(Thinner, f64)> = names
            .iter()
            .map(|name| into.remove(name).unwrap_or_else(|| (window.thinner(), f64::NEG_INFINITY)))
            .collect();
        self.each(sql, id, |row| {
            let unix_s = row.get::<_, i64>(0)? as f64 / 1e3;
            for (i, (thinner, max)) in slots.iter_mut().enumerate() {
                if let Some(bytes) = row.get::<_, Option<i64>>(i + 1)? {
                    thinner.push(unix_s, bytes as f64, segment);
                    *max = max.max(bytes as f64);
                }
            }
            Ok(())
        })?;
        into.extend(names.iter().cloned().zip(slots));
        Ok(())
    }

    fn each(
        &self,
        sql: &str,
        id: i64,
        mut take: impl FnMut(&Row<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), StoreError> {
        let mut run = || -> rusqlite::Result<()> {
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut rows = statement.query([id])?;
            while let Some(row) = rows.next()? {
                take(row)?;
            }
            Ok(())
        };
        run().map_err(|error| self.sql_error(&error))
    }

    fn lives(&self, run_id: i64) -> Result<Vec<(i64, String, u32)>, StoreError> {
        let sql =
            "SELECT process_id, CASE WHEN role IN ('worker', 'target_child') THEN role || '-' || ordinal ELSE role END,
             incarnation FROM process WHERE run_id = ?1 ORDER BY started_unix_ms, process_id";
        self.fact_rows(sql, [run_id], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)? as u32)))
    }

    fn device_ids(&self, run_id: i64) -> Result<Vec<(i64, i64)>, StoreError> {
        let sql = "SELECT device_id, ordinal FROM device WHERE run_id = ?1 ORDER BY ordinal";
        self.fact_rows(sql, [run_id], |row| Ok((row.get(0)?, row.get(1)?)))
    }

    pub(super) fn device_facts(&self, run_id: i64, window: Window) -> Result<Vec<DeviceFacts>, StoreError> {
        let sql = "SELECT d.device_id, d.ordinal, d.name, d.driver, d.uuid, d.vram_total_bytes,
             max(m.vram_used_bytes_max), max(m.ecc_uncorrected_last) - min(m.ecc_uncorrected_last)
             FROM device AS d LEFT JOIN device_minute AS m USING (device_id) WHERE d.run_id = ?1
             GROUP BY d.device_id ORDER BY d.ordinal";
        let devices = self.fact_rows(sql, [run_id], |row| {
            let device = DeviceFacts {
                ordinal: row.get(1)?,
                name: row.get(2)?,
                driver: row.get(3)?,
                uuid: row.get(4)?,
                vram_total_bytes: row.get(5)?,
                vram_used_bytes_max: row.get(6)?,
                ecc_uncorrected: row.get(7)?,
                throttled_ratio: None,
                measured: Vec::new(),
            };
            Ok((row.get::<_, i64>(0)?, device))
        })?;
        devices
            .into_iter()
            .map(|(device_id, mut device)| {
                let (mut samples, mut slowed, mut vram_max) = (0u64, 0u64, None);
                let names = ["temperature, °C", "power, W", "SM clock, MHz", "utilisation, %"];
                let mut thinners = names.map(|_| window.thinner());
                let sql =
                    "SELECT unix_ms, temperature_celsius, power_milliwatts / 1000.0, sm_clock_mhz, utilization_percent,
                     throttle_reasons, vram_used_bytes FROM device_sample WHERE device_id = ?1 ORDER BY unix_ms";
                self.each(sql, device_id, |row| {
                    let unix_s = row.get::<_, i64>(0)? as f64 / 1e3;
                    for (i, thinner) in thinners.iter_mut().enumerate() {
                        if let Some(value) = row.get::<_, Option<f64>>(i + 1)? {
                            thinner.push(unix_s, value, 0);
                        }
                    }
                    if let Some(reasons) = row.get::<_, Option<i64>>(5)? {
                        samples += 1;
                        slowed += u64::from(reasons & SLOWING_REASONS != 0);
                    }
                    vram_max = vram_max.max(row.get::<_, Option<i64>>(6)?);
                    Ok(())
                })?;
                device.vram_used_bytes_max = device.vram_used_bytes_max.max(vram_max);
                device.throttled_ratio = (samples > 0).then(|| slowed as f64 / samples as f64);
                device.measured = measured(names.into_iter().zip(thinners).map(|(n, t)| (n, false, t)));
                Ok(device)
            })
            .collect()
    }

    pub(super) fn host_measured(&self, run_id: i64, window: Window) -> Result<Vec<Measured>, StoreError> {
        let names = [("memory available", true), ("swap used", true), ("load (1 min)", false), ("disk free", true)];
        let mut thinners = names.map(|_| window.minutes());
        let sql = "SELECT minute_unix_ms + 30000, memory_available_bytes_min, swap_used_bytes, load1_milli / 1000.0,
             disk_free_bytes_min FROM host_minute WHERE run_id = ?1 ORDER BY minute_unix_ms";
        self.each(sql, run_id, |row| {
            let unix_s = row.get::<_, i64>(0)? as f64 / 1e3;
            for (i, thinner) in thinners.iter_mut().enumerate() {
                if let Some(value) = row.get::<_, Option<f64>>(i + 1)? {
                    thinner.push(unix_s, value, 0);
                }
            }
            Ok(())
        })?;
        Ok(measured(names.into_iter().zip(thinners).map(|((name, is_bytes), t)| (name, is_bytes, t))))
    }

    pub(super) fn latency_facts(&self, run_id: i64, window: Window) -> Result<Vec<LatencyFacts>, StoreError> {
        let mut kinds: BTreeMap<String, Merged> = BTreeMap::new();
        let sql = "SELECT l.unix_ms + l.interval_ms / 2, l.kind, l.count, l.p50_us / 1e3, l.p95_us / 1e3, l.p99_us / 1e3, l.max_us / 1e3,
             l.histogram FROM latency AS l JOIN process AS p USING (process_id) WHERE p.run_id = ?1 ORDER BY l.unix_ms";
        self.each(sql, run_id, |row| {
            let merged = kinds.entry(row.get(1)?).or_insert_with(|| Merged::new(window));
            let unix_s = row.get::<_, i64>(0)? as f64 / 1e3;
            merged.count += row.get::<_, i64>(2)?.unsigned_abs();
            for (thinner, column) in merged.over_time.iter_mut().zip(3..) {
                thinner.push(unix_s, row.get(column)?, 0);
            }
            merged.max_ms = merged.max_ms.max(row.get(6)?);
            merged.add(row.get_ref(7)?.as_blob()?);
            Ok(())
        })?;
        let order = ["token", "first_token", "request"];
        Ok(order.into_iter().filter_map(|kind| kinds.remove(kind).map(|merged| merged.finish(kind))).collect())
    }

    pub(super) fn throughput(&self, run_id: i64, window: Window, facts: &RunFacts) -> Result<Throughput, StoreError> {
        // Counters only grow within a life, whatever the wall clock does: the largest is the last.
        let totals = "SELECT coalesce(sum(tokens), 0), coalesce(sum(requests), 0), coalesce(sum(failures), 0) FROM (
             SELECT max(tokens) AS tokens, max(requests) AS requests, max(failures) AS failures FROM work_sample
             WHERE process_id IN (SELECT process_id FROM process WHERE run_id = ?1) GROUP BY process_id)";
        let (tokens, requests, failures): (i64, i64, i64) =
            self.fact_row(totals, [run_id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.unwrap_or_default();
        // A minute that the wall clock came back to holds two passes: what was done before the second is not of its time. Lives of one worker within
        // a minute are one.
        let rates = "SELECT minute_unix_ms + 30000, sum(rate) FROM (
               SELECT minute_unix_ms,
                 sum(tokens_last - max(tokens_first, before)) * 1000.0 / (max(last_unix_ms) - min(first_unix_ms)) AS rate
               FROM (SELECT m.*, role, ordinal, coalesce(lag(tokens_last) OVER (
                   PARTITION BY process_id ORDER BY tokens_last, minute_unix_ms), 0) AS before
                 FROM work_minute AS m JOIN process USING (process_id) WHERE run_id = ?1)
               GROUP BY minute_unix_ms, role, ordinal HAVING max(last_unix_ms) > min(first_unix_ms))
             GROUP BY minute_unix_ms ORDER BY minute_unix_ms";
        let mut thinner = window.minutes();
        self.each(rates, run_id, |row| {
            thinner.push(row.get::<_, i64>(0)? as f64 / 1e3, row.get(1)?, 0);
            Ok(())
        })?;
        let up = facts.uptime;
        let served_s = (up.elapsed_ms - up.unwatched_ms - up.worker_down_ms) as f64 / 1e3;
        Ok(Throughput {
            tokens: tokens.unsigned_abs(),
            requests: requests.unsigned_abs(),
            failures: failures.unsigned_abs(),
            tokens_per_s: (tokens > 0 && served_s > 0.0).then(|| tokens as f64 / served_s),
            over_time: thinner.finish(),
        })
    }
}

fn measured<'a>(all: impl Iterator<Item = (&'a str, bool, Thinner)>) -> Vec<Measured> {
    all.map(|(name, is_bytes, thinner)| Measured { name: name.to_owned(), is_bytes, columns: thinner.finish() })
        .filter(|m: &Measured| !m.columns.is_empty())
        .collect()
}

/// Intervals of one kind of latency, put together.
struct Merged {
    count: u64,
    max_ms: f64,
    histogram: Option<Histogram<u64>>,
    over_time: [Thinner; 3],
}

impl Merged {
    fn new(window: Window) -> Self {
        Merged { count: 0, max_ms: 0.0, histogram: None, over_time: [(); 3].map(|()| window.minutes()) }
    }

    /// A histogram that cannot be read (edited by hand) is left out; its count and its quantiles over time stay.
    fn add(&mut self, bytes: &[u8]) {
        let Ok(part) = Deserializer::new().deserialize::<u64, _>(&mut std::io::Cursor::new(bytes)) else { return };
        match &mut self.histogram {
            None => self.histogram = Some(part),
            Some(whole) => {
                whole.auto(true);
                // Both are of the same kind and may grow: adding them cannot fail for want of range.
                let _ = whole.add(&part);
            }
        }
    }

    fn finish(self, kind: &str) -> LatencyFacts {
        let at = |q: f64| self.histogram.as_ref().map_or(f64::NAN, |h| h.value_at_quantile(q) as f64 / 1e3);
        let quantiles = [at(0.50), at(0.95), at(0.99)];
        let [p50, p95, p99]: [Vec<Column>; 3] = self.over_time.map(Thinner::finish);
        LatencyFacts {
            kind: kind.to_owned(),
            count: self.count,
            p50_ms: quantiles[0],
            p95_ms: quantiles[1],
            p99_ms: quantiles[2],
            max_ms: self.max_ms,
            p50,
            p95,
            p99,
        }
    }
}
