-- What computed a figure of bench and load: the CPU's instruction set, or the CUDA path with a digest of its PTX, so that two
-- kernels of one day are told apart. NULL before this migration.

ALTER TABLE bench_variant ADD COLUMN kernel TEXT;
ALTER TABLE bench_repetition ADD COLUMN kernel TEXT;
ALTER TABLE load_point ADD COLUMN kernel TEXT;

-- The same views with it.
DROP VIEW v_bench;
DROP VIEW v_load;

CREATE VIEW v_bench AS
SELECT b.bench_id, strftime('%Y-%m-%dT%H:%M:%SZ', b.started_unix_ms / 1000, 'unixepoch') AS started, b.state, b.host, b.backend,
  b.device, b.driver, b.model, v.variant,
  round(v.tokens_per_s, 2) AS tokens_per_s, round(v.tokens_per_s_lo, 2) AS tokens_per_s_lo,
  round(v.tokens_per_s_hi, 2) AS tokens_per_s_hi, round(v.token_mean_ms, 3) AS token_mean_ms,
  round(v.token_sd_ms, 3) AS token_sd_ms, round(v.token_p50_ms, 3) AS token_p50_ms, round(v.token_p95_ms, 3) AS token_p95_ms,
  round(v.token_p99_ms, 3) AS token_p99_ms, round(v.vram_bytes / 1e6, 1) AS vram_mb,
  round(v.weight_bytes_per_token * v.tokens_per_s / 1e9, 2) AS achieved_gb_per_s,
  round(v.weight_bytes_per_token * v.tokens_per_s / b.read_bytes_per_s, 4) AS share_of_read_ceiling,
  round(v.bits_per_weight, 3) AS bits_per_weight, round(v.perplexity, 4) AS perplexity, round(v.kl_nats, 5) AS kl_nats,
  v.repetitions, v.tokens, v.kernel
FROM bench AS b JOIN bench_variant AS v USING (bench_id);

CREATE VIEW v_load AS
SELECT p.bench_id, b.host, b.backend, b.device, b.model, p.variant, p.arrivals, p.streams, p.offered_requests_per_s,
  count(*) AS repetitions, round(avg(p.tokens_per_s), 2) AS tokens_per_s,
  round(avg(p.tokens_per_s) / p.streams / (SELECT avg(o.tokens_per_s) FROM load_point AS o WHERE o.bench_id = p.bench_id
    AND o.variant = p.variant AND o.arrivals = 'closed' AND o.streams = 1), 4) AS scaling_efficiency,
  round(max(p.token_p50_ms), 3) AS token_p50_ms, round(max(p.token_p95_ms), 3) AS token_p95_ms,
  round(max(p.token_p99_ms), 3) AS token_p99_ms, round(max(p.first_token_p95_ms), 3) AS first_token_p95_ms,
  round(min(p.fairness_ratio), 4) AS fairness_ratio, sum(p.errors) AS errors,
  group_concat(DISTINCT p.kernel) AS kernel
FROM load_point AS p JOIN bench AS b USING (bench_id)
GROUP BY p.bench_id, p.variant, p.arrivals, p.streams, p.offered_requests_per_s;
