//! Benches: what `soakd bench` and `soakd load` write and read again. Each measurement is on the disk when it is made, so
//! a bench that is cut short goes on where it was.

use super::Store;
use super::error::StoreError;
use super::write::Writing;
use crate::model::measure::{BenchCell, BenchKind, BenchQuality, LongContext, NewBench, VariantRow};
use crate::model::time::UnixMillis;
use rusqlite::{OptionalExtension, Row, params};

impl Writing<'_> {
    /// Begins a bench; gives its id.
    pub fn start_bench(&self, bench: &NewBench) -> Result<i64, StoreError> {
        let gpu = (bench.backend != "cpu").then_some(&bench.device);
        let facts = serde_json::json!({ "settings": bench.settings, "processor": bench.device }).to_string();
        self.execute(
            "INSERT INTO bench (kind, state, started_unix_ms, host, backend, device, model, seed, context_tokens, read_bytes_per_s,
               copy_bytes_per_s, facts, soakd_version, driver)
             VALUES (?1, 'running', ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            params![
                bench.kind.as_str(),
                bench.started.0,
                bench.host,
                bench.backend,
                gpu,
                bench.model,
                bench.seed as i64,
                bench.context_tokens as i64,
                bench.read_ceiling_bytes_per_s,
                bench.copy_bytes_per_s,
                facts,
                env!("CARGO_PKG_VERSION"),
                bench.driver,
            ],
        )?;
        Ok(self.last_row())
    }

    /// Books a timed repetition.
    pub fn add_repetition(&self, bench_id: i64, cell: &BenchCell) -> Result<(), StoreError> {
        let long = cell.long_context;
        self.execute(
            "INSERT OR REPLACE INTO bench_repetition (bench_id, sequence, variant, unix_ms, tokens, tokens_per_s, histogram,
               context_tokens, long_context_tokens, long_context_step_us, kernel,
               temperature_celsius, sm_clock_mhz) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            params![
                bench_id,
                cell.sequence,
                cell.variant,
                cell.at.0,
                cell.tokens as i64,
                cell.tokens_per_s,
                cell.token_histogram,
                long.map(|long| long.short_tokens),
                long.map(|long| long.long_tokens),
                long.map(|long| long.step_us),
                cell.kernel,
                cell.temperature_celsius,
                cell.sm_clock_mhz,
            ],
        )?;
        Ok(())
    }

    /// Books a variant as its repetitions so far sum it up. `held` is host and device bytes.
    pub fn put_variant(
        &self,
        bench_id: i64,
        row: &VariantRow,
        tokens: u64,
        held: (u64, Option<u64>),
    ) -> Result<(), StoreError> {
        let [mean, sd, p50, p95, p99] = row.step_ms;
        let quality = row.quality.as_ref();
        self.execute(
            "INSERT OR REPLACE INTO bench_variant (bench_id, variant, repetitions, tokens, tokens_per_s, tokens_per_s_lo,
               tokens_per_s_hi, token_mean_ms, token_sd_ms, token_p50_ms, token_p95_ms, token_p99_ms, weight_bytes,
               weight_bytes_per_token, vram_bytes, host_bytes, bits_per_weight, kl_nats, kl_p95_nats, same_top_ratio,
               quality_reference, quality_positions, attention_ms, kernel, temperature_celsius_first,
               temperature_celsius_last)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26)",
            params![
                bench_id,
                row.variant,
                row.repetitions as i64,
                tokens as i64,
                row.tokens_per_s.value,
                row.tokens_per_s.lo,
                row.tokens_per_s.hi,
                mean,
                sd,
                p50,
                p95,
                p99,
                row.weight_bytes as i64,
                row.weight_bytes_per_token as i64,
                held.1.map(|bytes| bytes as i64),
                held.0 as i64,
                quality.map(|quality| quality.bits_per_weight),
                quality.map(|quality| quality.kl_mean_nats),
                quality.map(|quality| quality.kl_p95_nats),
                quality.map(|quality| quality.same_top_ratio),
                quality.map(|quality| &quality.reference),
                quality.map(|quality| quality.positions as i64),
                row.attention_ms,
                row.kernel,
                row.temperature_celsius.map(|ends| ends[0]),
                row.temperature_celsius.map(|ends| ends[1]),
            ],
        )?;
        Ok(())
    }

    /// Books a point of a load test; percentiles are milliseconds.
    pub fn add_load_point(
        &self,
        bench_id: i64,
        cell: &BenchCell,
        token_ms: [f64; 3],
        first_token_ms: Option<[f64; 3]>,
    ) -> Result<(), StoreError> {
        let arrivals = if cell.arrivals_per_s.is_some() { "poisson" } else { "closed" };
        let first = |i: usize| first_token_ms.map(|ms| ms[i]);
        self.execute(
            "INSERT OR REPLACE INTO load_point (bench_id, variant, arrivals, streams, offered_requests_per_s, sequence, seconds,
               tokens, requests, errors, tokens_per_s, token_p50_ms, token_p95_ms, token_p99_ms, first_token_p50_ms,
               first_token_p95_ms, first_token_p99_ms, fairness_ratio, histogram, first_token_histogram, kernel)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 0, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)",
            params![
                bench_id,
                cell.variant,
                arrivals,
                cell.streams as i64,
                cell.arrivals_per_s,
                cell.sequence,
                cell.took_us as f64 / 1e6,
                cell.tokens as i64,
                cell.requests as i64,
                cell.tokens_per_s,
                token_ms[0],
                token_ms[1],
                token_ms[2],
                first(0),
                first(1),
                first(2),
                cell.fairness,
                cell.token_histogram,
                cell.first_token_histogram,
                cell.kernel,
            ],
        )?;
        Ok(())
    }

    /// Ends a bench.
    pub fn end_bench(&self, bench_id: i64, at: UnixMillis) -> Result<(), StoreError> {
        self.execute(
            "UPDATE bench SET state = 'finished', ended_unix_ms = ?2 WHERE bench_id = ?1",
            params![bench_id, at.0],
        )?;
        Ok(())
    }
}

impl Store {
    /// The newest bench with these settings that was cut short on this host.
    pub fn unfinished_bench(
        &self,
        kind: BenchKind,
        settings: &str,
        host: &str,
    ) -> Result<Option<(i64, NewBench)>, StoreError> {
        self.connection
            .query_row(
                "SELECT bench_id, started_unix_ms, backend, json_extract(facts, '$.processor'), model, host, seed, context_tokens,
                   read_bytes_per_s, copy_bytes_per_s, driver
                 FROM bench WHERE state = 'running' AND kind = ?1 AND json_extract(facts, '$.settings') = ?2 AND host = ?3
                   AND soakd_version = ?4 ORDER BY bench_id DESC LIMIT 1",
                params![kind.as_str(), settings, host, env!("CARGO_PKG_VERSION")],
                |row| {
                    let bench = NewBench {
                        kind,
                        started: UnixMillis(row.get(1)?),
                        settings: settings.to_owned(),
                        backend: row.get(2)?,
                        device: row.get(3)?,
                        model: row.get(4)?,
                        host: row.get(5)?,
                        seed: row.get::<_, i64>(6)? as u64,
                        context_tokens: row.get::<_, i64>(7)? as usize,
                        read_ceiling_bytes_per_s: row.get(8)?,
                        copy_bytes_per_s: row.get(9)?,
                        driver: row.get(10)?,
                    };
                    Ok((row.get(0)?, bench))
                },
            )
            .optional()
            .map_err(|error| self.sql_error(&error))
    }

    /// What a bench or load has measured so far.
    pub fn bench_cells(&self, bench_id: i64, kind: BenchKind) -> Result<Vec<BenchCell>, StoreError> {
        let (sql, read): (&str, fn(&Row<'_>) -> rusqlite::Result<BenchCell>) = match kind {
            BenchKind::Bench => (
                "SELECT r.*, v.weight_bytes, v.weight_bytes_per_token, v.host_bytes, v.vram_bytes
                 FROM bench_repetition AS r JOIN bench_variant AS v USING (bench_id, variant) WHERE bench_id = ?1 ORDER BY sequence",
                repetition,
            ),
            BenchKind::Load => ("SELECT * FROM load_point WHERE bench_id = ?1 ORDER BY sequence", load_point),
        };
        let all = || -> rusqlite::Result<Vec<BenchCell>> {
            self.connection.prepare_cached(sql)?.query_map([bench_id], read)?.collect()
        };
        all().map_err(|error| self.sql_error(&error))
    }

    /// Precision figures of a bench, as far as they were measured.
    pub fn bench_quality(&self, bench_id: i64) -> Result<Vec<BenchQuality>, StoreError> {
        let sql = "SELECT * FROM bench_variant WHERE bench_id = ?1 AND kl_nats IS NOT NULL";
        let read = |row: &Row<'_>| {
            Ok(BenchQuality {
                variant: row.get("variant")?,
                reference: row.get("quality_reference")?,
                positions: row.get::<_, i64>("quality_positions")? as usize,
                kl_mean_nats: row.get("kl_nats")?,
                kl_p95_nats: row.get("kl_p95_nats")?,
                same_top_ratio: row.get("same_top_ratio")?,
                bits_per_weight: row.get("bits_per_weight")?,
            })
        };
        let all = || -> rusqlite::Result<Vec<BenchQuality>> {
            self.connection.prepare_cached(sql)?.query_map([bench_id], read)?.collect()
        };
        all().map_err(|error| self.sql_error(&error))
    }
}

fn count(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|n| n as u64)
}

fn repetition(row: &Row<'_>) -> rusqlite::Result<BenchCell> {
    let long_context = match row.get::<_, Option<i64>>("long_context_step_us")? {
        None => None,
        Some(step_us) => Some(LongContext {
            step_us,
            short_tokens: row.get("context_tokens")?,
            long_tokens: row.get("long_context_tokens")?,
        }),
    };
    let (tokens, tokens_per_s) = (count(row, "tokens")?, row.get::<_, f64>("tokens_per_s")?);
    Ok(BenchCell {
        variant: row.get("variant")?,
        streams: 1,
        arrivals_per_s: None,
        sequence: row.get("sequence")?,
        at: UnixMillis(row.get("unix_ms")?),
        took_us: (tokens as f64 / tokens_per_s * 1e6) as i64,
        tokens,
        requests: 0,
        tokens_per_s,
        weight_bytes: count(row, "weight_bytes")?,
        weight_bytes_per_token: count(row, "weight_bytes_per_token")?,
        held_host_bytes: count(row, "host_bytes")?,
        held_device_bytes: row.get::<_, Option<i64>>("vram_bytes")?.map(|bytes| bytes as u64),
        kernel: row.get("kernel")?,
        temperature_celsius: row.get("temperature_celsius")?,
        sm_clock_mhz: row.get("sm_clock_mhz")?,
        token_histogram: row.get("histogram")?,
        first_token_histogram: None,
        fairness: None,
        long_context,
    })
}

fn load_point(row: &Row<'_>) -> rusqlite::Result<BenchCell> {
    Ok(BenchCell {
        variant: row.get("variant")?,
        streams: count(row, "streams")? as usize,
        arrivals_per_s: row.get("offered_requests_per_s")?,
        sequence: row.get("sequence")?,
        at: UnixMillis(0), // not kept, and not needed to go on
        took_us: (row.get::<_, f64>("seconds")? * 1e6) as i64,
        tokens: count(row, "tokens")?,
        requests: count(row, "requests")?,
        tokens_per_s: row.get("tokens_per_s")?,
        weight_bytes: 0,
        weight_bytes_per_token: 0,
        held_host_bytes: 0,
        held_device_bytes: None,
        kernel: row.get("kernel")?,
        temperature_celsius: None,
        sm_clock_mhz: None,
        token_histogram: row.get("histogram")?,
        first_token_histogram: row.get("first_token_histogram")?,
        fairness: row.get("fairness_ratio")?,
        long_context: None,
    })
}
