-- Phases 1 and 2: what `soakd bench` and `soakd load` measured. Summaries are rows to read; repetitions and histograms are
-- kept beside them, so that every figure can be computed again.

CREATE TABLE bench (
  bench_id        INTEGER PRIMARY KEY,
  kind            TEXT NOT NULL CHECK (kind IN ('bench','load')),
  state           TEXT NOT NULL CHECK (state IN ('running','finished','interrupted')),
  started_unix_ms INTEGER NOT NULL,
  ended_unix_ms   INTEGER,
  host            TEXT NOT NULL,
  backend         TEXT NOT NULL,      -- cpu, cuda
  device          TEXT,               -- product name; NULL on the CPU
  driver          TEXT,
  model           TEXT NOT NULL,
  seed            INTEGER NOT NULL,
  context_tokens  INTEGER NOT NULL,
  read_bytes_per_s REAL,              -- ceiling: the fastest read of memory seen in the same run
  copy_bytes_per_s REAL,
  facts           TEXT NOT NULL,      -- JSON
  soakd_version   TEXT NOT NULL
) STRICT;

-- One variant of a bench at one stream. Intervals are 95 %; NULL is "not measured".
CREATE TABLE bench_variant (
  bench_id        INTEGER NOT NULL REFERENCES bench,
  variant         TEXT NOT NULL,      -- q2_k, q4_k, q5_k_m, q6_k, q8_0, hybrid
  repetitions     INTEGER NOT NULL,
  tokens          INTEGER NOT NULL,   -- timed, warm-up left out
  tokens_per_s    REAL NOT NULL,
  tokens_per_s_lo REAL,
  tokens_per_s_hi REAL,
  token_mean_ms   REAL NOT NULL,
  token_sd_ms     REAL NOT NULL,
  token_p50_ms    REAL NOT NULL,
  token_p50_lo_ms REAL,
  token_p50_hi_ms REAL,
  token_p95_ms    REAL NOT NULL,
  token_p95_lo_ms REAL,
  token_p95_hi_ms REAL,
  token_p99_ms    REAL NOT NULL,
  token_p99_lo_ms REAL,
  token_p99_hi_ms REAL,
  weight_bytes    INTEGER NOT NULL,
  weight_bytes_per_token INTEGER NOT NULL,
  vram_bytes      INTEGER,
  host_bytes      INTEGER,
  bits_per_weight REAL,
  perplexity      REAL,               -- on the bench's own token stream
  kl_nats         REAL,               -- of the logits against the unquantised weights, mean
  temperature_celsius_first INTEGER,
  temperature_celsius_last  INTEGER,
  kl_p95_nats     REAL,
  same_top_ratio  REAL,               -- positions at which variant and unquantised weights choose the same token
  quality_reference TEXT,             -- whose weights precision was measured on
  quality_positions INTEGER,
  attention_ms    REAL,               -- of a step, at the timed context: from a second, longer context
  PRIMARY KEY (bench_id, variant)
) STRICT, WITHOUT ROWID;

-- One timed repetition, in the order in which they were run (interleaved over variants).
CREATE TABLE bench_repetition (
  bench_id     INTEGER NOT NULL REFERENCES bench,
  sequence     INTEGER NOT NULL,      -- from 0
  variant      TEXT NOT NULL,
  unix_ms      INTEGER NOT NULL,
  tokens       INTEGER NOT NULL,
  tokens_per_s REAL NOT NULL,
  temperature_celsius INTEGER,
  sm_clock_mhz INTEGER,
  histogram    BLOB NOT NULL,         -- time per token, HDR V2, microseconds
  context_tokens      INTEGER,        -- in the context while timed, on average
  long_context_tokens INTEGER,        -- in a second, longer one
  long_context_step_us INTEGER,       -- its median step
  PRIMARY KEY (bench_id, sequence)
) STRICT, WITHOUT ROWID;

-- One point of a load test: so many streams (closed loop), or requests arriving at a rate (Poisson).
CREATE TABLE load_point (
  bench_id        INTEGER NOT NULL REFERENCES bench,
  variant         TEXT NOT NULL,
  arrivals        TEXT NOT NULL CHECK (arrivals IN ('closed','poisson')),
  streams         INTEGER NOT NULL,
  offered_requests_per_s REAL,        -- Poisson only
  sequence        INTEGER NOT NULL,   -- which repetition, from 0
  seconds         REAL NOT NULL,
  tokens          INTEGER NOT NULL,
  requests        INTEGER NOT NULL,
  errors          INTEGER NOT NULL,
  tokens_per_s    REAL NOT NULL,
  token_p50_ms    REAL NOT NULL,
  token_p95_ms    REAL NOT NULL,
  token_p99_ms    REAL NOT NULL,
  first_token_p50_ms REAL,
  first_token_p95_ms REAL,
  first_token_p99_ms REAL,
  fairness_ratio  REAL,               -- slowest stream's tokens over the fastest's
  histogram       BLOB NOT NULL,      -- time per token, HDR V2, microseconds
  first_token_histogram BLOB,         -- arrival to first token, likewise
  PRIMARY KEY (bench_id, variant, arrivals, streams, sequence)
) STRICT, WITHOUT ROWID;

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
  v.repetitions, v.tokens
FROM bench AS b JOIN bench_variant AS v USING (bench_id);

-- Repetitions of one point put together; scaling efficiency is against one closed stream of the same bench and variant.
CREATE VIEW v_load AS
SELECT p.bench_id, b.host, b.backend, b.device, b.model, p.variant, p.arrivals, p.streams, p.offered_requests_per_s,
  count(*) AS repetitions, round(avg(p.tokens_per_s), 2) AS tokens_per_s,
  round(avg(p.tokens_per_s) / p.streams / (SELECT avg(o.tokens_per_s) FROM load_point AS o WHERE o.bench_id = p.bench_id
    AND o.variant = p.variant AND o.arrivals = 'closed' AND o.streams = 1), 4) AS scaling_efficiency,
  round(max(p.token_p50_ms), 3) AS token_p50_ms, round(max(p.token_p95_ms), 3) AS token_p95_ms,
  round(max(p.token_p99_ms), 3) AS token_p99_ms, round(max(p.first_token_p95_ms), 3) AS first_token_p95_ms,
  round(min(p.fairness_ratio), 4) AS fairness_ratio, sum(p.errors) AS errors
FROM load_point AS p JOIN bench AS b USING (bench_id)
GROUP BY p.bench_id, p.variant, p.arrivals, p.streams, p.offered_requests_per_s;
