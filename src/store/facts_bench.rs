//! Reads the newest bench and the newest load test, for the documents and the gates.

use super::Store;
use super::error::StoreError;
use crate::model::bench::{BenchFacts, LoadFacts, VariantFacts};
use crate::model::time::UnixMillis;

impl Store {
    /// The newest finished `bench` or `load` (`kind`), with its variants and points; `None` if there is none.
    pub fn newest_bench(&self, kind: &str) -> Result<Option<BenchFacts>, StoreError> {
        let sql = "SELECT * FROM bench WHERE kind = ?1 AND state = 'finished' ORDER BY bench_id DESC LIMIT 1";
        let found = self.fact_row(sql, [kind], |row| {
            Ok(BenchFacts {
                bench_id: row.get("bench_id")?,
                started: UnixMillis(row.get("started_unix_ms")?),
                host: row.get("host")?,
                backend: row.get("backend")?,
                device: row.get("device")?,
                driver: row.get("driver")?,
                model: row.get("model")?,
                read_bytes_per_s: row.get("read_bytes_per_s")?,
                variants: Vec::new(),
                points: Vec::new(),
            })
        })?;
        let Some(mut bench) = found else { return Ok(None) };
        bench.variants = self.variants(bench.bench_id)?;
        bench.points = self.points(bench.bench_id)?;
        Ok(Some(bench))
    }

    fn variants(&self, bench_id: i64) -> Result<Vec<VariantFacts>, StoreError> {
        let sql = "SELECT * FROM bench_variant WHERE bench_id = ?1 ORDER BY tokens_per_s DESC";
        self.fact_rows(sql, [bench_id], |row| {
            let (lo, hi): (Option<f64>, Option<f64>) = (row.get("tokens_per_s_lo")?, row.get("tokens_per_s_hi")?);
            Ok(VariantFacts {
                variant: row.get("variant")?,
                repetitions: row.get("repetitions")?,
                tokens_per_s: row.get("tokens_per_s")?,
                tokens_per_s_ci95: lo.zip(hi).map(|(lo, hi)| [lo, hi]),
                token_mean_ms: row.get("token_mean_ms")?,
                token_sd_ms: row.get("token_sd_ms")?,
                token_p50_ms: row.get("token_p50_ms")?,
                token_p95_ms: row.get("token_p95_ms")?,
                token_p99_ms: row.get("token_p99_ms")?,
                weight_bytes_per_token: row.get::<_, i64>("weight_bytes_per_token")? as f64,
                weight_bytes: row.get::<_, i64>("weight_bytes")? as f64,
                vram_bytes: row.get::<_, Option<i64>>("vram_bytes")?.map(|b| b as f64),
                perplexity: row.get("perplexity")?,
                kl_nats: row.get("kl_nats")?,
                temperature_celsius: row
                    .get::<_, Option<i64>>("temperature_celsius_first")?
                    .zip(row.get("temperature_celsius_last")?)
                    .map(|(first, last)| [first, last]),
                kernel: row.get("kernel")?,
            })
        })
    }

    fn points(&self, bench_id: i64) -> Result<Vec<LoadFacts>, StoreError> {
        let sql =
            "SELECT * FROM v_load WHERE bench_id = ?1 ORDER BY variant, arrivals, streams, offered_requests_per_s";
        self.fact_rows(sql, [bench_id], |row| {
            Ok(LoadFacts {
                variant: row.get("variant")?,
                arrivals: row.get("arrivals")?,
                streams: row.get("streams")?,
                offered_requests_per_s: row.get("offered_requests_per_s")?,
                repetitions: row.get("repetitions")?,
                tokens_per_s: row.get("tokens_per_s")?,
                scaling_efficiency: row.get("scaling_efficiency")?,
                token_p50_ms: row.get("token_p50_ms")?,
                token_p95_ms: row.get("token_p95_ms")?,
                token_p99_ms: row.get("token_p99_ms")?,
                first_token_p95_ms: row.get("first_token_p95_ms")?,
                fairness_ratio: row.get("fairness_ratio")?,
                errors: row.get("errors")?,
                kernel: row.get("kernel")?,
            })
        })
    }
}
