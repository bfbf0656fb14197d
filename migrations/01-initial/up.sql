-- soakd's database: one file per host. Times are milliseconds since 1970 UTC, sizes are bytes, NULL is "not there to be
-- read" and never zero. Tables hold raw readings; views (v_...) are for people: ISO times, MB (10^6 bytes).

PRAGMA application_id = 0x736b6431; -- "skd1": this file is soakd's

CREATE TABLE run (
  run_id          INTEGER PRIMARY KEY,
  state           TEXT NOT NULL CHECK (state IN ('running','finished','interrupted','failed')),
  started_unix_ms INTEGER NOT NULL,
  ended_unix_ms   INTEGER,
  duration_ms     INTEGER NOT NULL,   -- planned
  horizon_ms      INTEGER NOT NULL,   -- over which drift is stated
  tolerance_bytes INTEGER NOT NULL,
  backend         TEXT NOT NULL,      -- cpu, cuda, none
  model           TEXT NOT NULL,
  variant         TEXT NOT NULL,
  streams         INTEGER NOT NULL,
  scenario        TEXT NOT NULL,
  seed            INTEGER NOT NULL,
  host            TEXT NOT NULL,
  facts           TEXT NOT NULL,      -- JSON
  config          TEXT NOT NULL,      -- TOML, resolved, without secrets
  soakd_version   TEXT NOT NULL,
  verdict         TEXT CHECK (verdict IN ('within','outside','inconclusive')),
  verdict_reason  TEXT
) STRICT;

-- One row per incarnation: a worker that is restarted has a new row, and its memory a new segment.
CREATE TABLE process (
  process_id          INTEGER PRIMARY KEY,
  run_id              INTEGER NOT NULL REFERENCES run,
  role                TEXT NOT NULL,      -- supervisor, worker, probe, canary, mailer, target, target_child, target_tree
  ordinal             INTEGER NOT NULL,   -- which worker, from 0
  incarnation         INTEGER NOT NULL,   -- from 1
  pid                 INTEGER NOT NULL,
  name                TEXT,               -- command, for a target's children
  started_unix_ms     INTEGER NOT NULL,
  ended_unix_ms       INTEGER,
  end_reason          TEXT,               -- clean, crash, hang, oom, refused, protocol, lost, unknown
  exit_code           INTEGER,
  exit_signal         INTEGER,
  stderr_tail         TEXT,               -- last words
  heartbeat_unix_ms   INTEGER,            -- the last one
  rss_bytes_at_end    INTEGER,
  anon_swap_bytes_at_end INTEGER,
  vram_bytes_at_end   INTEGER
) STRICT;
CREATE INDEX process_by_run ON process (run_id, role, ordinal, incarnation);

CREATE TABLE process_sample (
  process_id     INTEGER NOT NULL REFERENCES process,
  unix_ms        INTEGER NOT NULL,
  rss_bytes      INTEGER,
  rss_anon_bytes INTEGER,
  swap_bytes     INTEGER,
  pss_bytes      INTEGER,
  vram_bytes     INTEGER,
  threads        INTEGER,
  open_fds       INTEGER,
  cpu_ms         INTEGER,
  PRIMARY KEY (process_id, unix_ms)
) STRICT, WITHOUT ROWID;

-- A minute of a process in one row, made from process_sample by the writer when the minute is over: people look at minutes,
-- and 48 h of seconds are 172 800 rows a process.
CREATE TABLE process_minute (
  process_id         INTEGER NOT NULL REFERENCES process,
  minute_unix_ms     INTEGER NOT NULL,   -- start of the minute
  samples            INTEGER NOT NULL,
  rss_bytes          INTEGER,            -- means, as integers
  rss_bytes_max      INTEGER,
  anon_swap_bytes    INTEGER,
  anon_swap_bytes_max INTEGER,
  pss_bytes          INTEGER,
  vram_bytes         INTEGER,
  vram_bytes_max     INTEGER,
  threads_max        INTEGER,
  open_fds_max       INTEGER,
  cpu_ms_first       INTEGER,
  cpu_ms_last        INTEGER,
  PRIMARY KEY (process_id, minute_unix_ms)
) STRICT, WITHOUT ROWID;

-- What a worker counts about itself since its process started.
CREATE TABLE work_sample (
  process_id        INTEGER NOT NULL REFERENCES process,
  unix_ms           INTEGER NOT NULL,
  tokens            INTEGER NOT NULL,
  requests          INTEGER NOT NULL,
  prompt_tokens     INTEGER NOT NULL,
  loops             INTEGER NOT NULL,
  golden_mismatches INTEGER NOT NULL,
  held_host_bytes   INTEGER NOT NULL,
  held_device_bytes INTEGER,
  PRIMARY KEY (process_id, unix_ms)
) STRICT, WITHOUT ROWID;

CREATE TABLE work_minute (
  process_id        INTEGER NOT NULL REFERENCES process,
  minute_unix_ms    INTEGER NOT NULL,
  samples           INTEGER NOT NULL,
  first_unix_ms     INTEGER NOT NULL,    -- of its first and last sample, for rates
  last_unix_ms      INTEGER NOT NULL,
  tokens_first      INTEGER NOT NULL,
  tokens_last       INTEGER NOT NULL,
  requests_first    INTEGER NOT NULL,
  requests_last     INTEGER NOT NULL,
  prompt_tokens_last INTEGER NOT NULL,
  loops_last        INTEGER NOT NULL,
  golden_mismatches_last INTEGER NOT NULL,
  held_host_bytes   INTEGER NOT NULL,    -- mean
  held_device_bytes INTEGER,
  PRIMARY KEY (process_id, minute_unix_ms)
) STRICT, WITHOUT ROWID;

CREATE TABLE device (
  device_id        INTEGER PRIMARY KEY,
  run_id           INTEGER NOT NULL REFERENCES run,
  ordinal          INTEGER NOT NULL,
  uuid             TEXT NOT NULL,
  name             TEXT NOT NULL,
  driver           TEXT NOT NULL,
  pci_bus_id       TEXT,
  vram_total_bytes INTEGER,
  UNIQUE (run_id, uuid)
) STRICT;

CREATE TABLE device_sample (
  device_id           INTEGER NOT NULL REFERENCES device,
  unix_ms             INTEGER NOT NULL,
  vram_used_bytes     INTEGER,
  vram_free_bytes     INTEGER,
  temperature_celsius INTEGER,
  power_milliwatts    INTEGER,
  sm_clock_mhz        INTEGER,
  memory_clock_mhz    INTEGER,
  utilization_percent INTEGER,
  throttle_reasons    INTEGER,
  ecc_corrected       INTEGER,
  ecc_uncorrected     INTEGER,
  pcie_replays        INTEGER,
  PRIMARY KEY (device_id, unix_ms)
) STRICT, WITHOUT ROWID;

CREATE TABLE device_minute (
  device_id               INTEGER NOT NULL REFERENCES device,
  minute_unix_ms          INTEGER NOT NULL,
  samples                 INTEGER NOT NULL,
  vram_used_bytes         INTEGER,
  vram_used_bytes_max     INTEGER,
  temperature_celsius_max INTEGER,
  power_milliwatts        INTEGER,
  sm_clock_mhz            INTEGER,
  utilization_percent     INTEGER,
  throttle_reasons_max    INTEGER,       -- largest mask seen; 0 if never throttled
  ecc_corrected_last      INTEGER,
  ecc_uncorrected_last    INTEGER,
  pcie_replays_last       INTEGER,
  PRIMARY KEY (device_id, minute_unix_ms)
) STRICT, WITHOUT ROWID;

CREATE TABLE host_sample (
  run_id                 INTEGER NOT NULL REFERENCES run,
  unix_ms                INTEGER NOT NULL,
  memory_available_bytes INTEGER,
  memory_used_bytes      INTEGER,
  swap_used_bytes        INTEGER,
  disk_free_bytes        INTEGER,
  load1_milli            INTEGER,
  PRIMARY KEY (run_id, unix_ms)
) STRICT, WITHOUT ROWID;

CREATE TABLE host_minute (
  run_id                     INTEGER NOT NULL REFERENCES run,
  minute_unix_ms             INTEGER NOT NULL,
  samples                    INTEGER NOT NULL,
  memory_available_bytes_min INTEGER,
  memory_used_bytes          INTEGER,
  swap_used_bytes            INTEGER,
  disk_free_bytes_min        INTEGER,
  load1_milli                INTEGER,
  PRIMARY KEY (run_id, minute_unix_ms)
) STRICT, WITHOUT ROWID;

-- Latencies of one process in one interval (a minute): quantiles to read, and the HDR histogram (V2, in microseconds) to merge.
CREATE TABLE latency (
  process_id  INTEGER NOT NULL REFERENCES process,
  unix_ms     INTEGER NOT NULL,   -- start of the interval
  interval_ms INTEGER NOT NULL,
  kind        TEXT NOT NULL CHECK (kind IN ('token','first_token','request')),
  count       INTEGER NOT NULL,
  p50_us      INTEGER NOT NULL,
  p95_us      INTEGER NOT NULL,
  p99_us      INTEGER NOT NULL,
  max_us      INTEGER NOT NULL,
  histogram   BLOB NOT NULL,
  PRIMARY KEY (process_id, kind, unix_ms)
) STRICT, WITHOUT ROWID;

CREATE TABLE event (
  event_id   INTEGER PRIMARY KEY,
  run_id     INTEGER NOT NULL REFERENCES run,
  unix_ms    INTEGER NOT NULL,
  kind       TEXT NOT NULL,
  severity   TEXT NOT NULL CHECK (severity IN ('info','warning','error')),
  process_id INTEGER REFERENCES process,
  device_id  INTEGER REFERENCES device,
  summary    TEXT NOT NULL,
  detail     TEXT NOT NULL        -- JSON object
) STRICT;
CREATE INDEX event_by_run ON event (run_id, kind, unix_ms);

-- Time in which nothing was watched. Uptime is what is left.
CREATE TABLE gap (
  gap_id       INTEGER PRIMARY KEY,
  run_id       INTEGER NOT NULL REFERENCES run,
  from_unix_ms INTEGER NOT NULL,
  to_unix_ms   INTEGER NOT NULL,
  reason       TEXT NOT NULL        -- supervisor_down, suspend, disk_full, probe_down, ...
) STRICT;
CREATE INDEX gap_by_run ON gap (run_id, from_unix_ms);

-- The output of the first loop of each stream: what every later loop is compared with, after restarts too.
CREATE TABLE golden (
  run_id  INTEGER NOT NULL REFERENCES run,
  backend TEXT NOT NULL,
  prompt  INTEGER NOT NULL,        -- which prompt of the set
  tokens  BLOB NOT NULL,           -- u32 little-endian
  hash    INTEGER NOT NULL,        -- of the logits along the way (64 bits, as a signed integer)
  unix_ms INTEGER NOT NULL,
  PRIMARY KEY (run_id, backend, prompt)
) STRICT, WITHOUT ROWID;

CREATE TABLE series (
  series_id INTEGER PRIMARY KEY,
  run_id    INTEGER NOT NULL REFERENCES run,
  name      TEXT NOT NULL,          -- worker-0.anon_swap, gpu-0.device_vram, ...
  kind      TEXT NOT NULL,          -- device_vram, process_vram, engine_held, rss, anon_swap, pss
  role      TEXT,                   -- NULL for a device
  ordinal   INTEGER NOT NULL,
  judged    INTEGER NOT NULL,       -- 1: counts towards the run's verdict; 0: shown only (canary)
  UNIQUE (run_id, name)
) STRICT;

-- What the analysis said, once a minute and at the end.
CREATE TABLE finding (
  finding_id   INTEGER PRIMARY KEY,
  series_id    INTEGER NOT NULL REFERENCES series,
  unix_ms      INTEGER NOT NULL,
  is_final     INTEGER NOT NULL,
  verdict      TEXT NOT NULL CHECK (verdict IN ('within','outside','inconclusive')),
  shape        TEXT NOT NULL,
  drift_bytes  INTEGER NOT NULL,
  drift_lo_bytes INTEGER NOT NULL,
  drift_hi_bytes INTEGER NOT NULL,
  slope_bytes_per_hour   REAL NOT NULL,
  slope_bytes_per_request REAL,
  minimum_detectable_drift_bytes INTEGER NOT NULL,
  samples      INTEGER NOT NULL,
  span_s       REAL NOT NULL,
  crossing_from_unix_ms INTEGER,
  crossing_to_unix_ms   INTEGER,
  asymptote_bytes       INTEGER,
  alarmed      INTEGER NOT NULL,
  first_alarm_unix_ms   INTEGER
) STRICT;
CREATE INDEX finding_by_series ON finding (series_id, unix_ms);

CREATE TABLE alert (
  alert_id          INTEGER PRIMARY KEY,
  run_id            INTEGER REFERENCES run,
  rule              TEXT NOT NULL,
  fingerprint       TEXT NOT NULL,    -- rule and labels, hashed: one alert
  labels            TEXT NOT NULL,    -- JSON object
  values_json       TEXT NOT NULL,    -- the row that the rule returned, JSON object
  severity          TEXT NOT NULL CHECK (severity IN ('info','ticket','page')),
  route             TEXT NOT NULL,
  state             TEXT NOT NULL CHECK (state IN ('pending','firing','resolved')),
  active_unix_ms    INTEGER NOT NULL, -- since when it has been true
  fired_unix_ms     INTEGER,
  last_true_unix_ms INTEGER NOT NULL,
  resolved_unix_ms  INTEGER,
  last_sent_unix_ms INTEGER,          -- a mail last said that it fires
  resolved_sent_unix_ms INTEGER,      -- a mail said that it ended
  settled           INTEGER NOT NULL, -- 1: nothing more is to be said of it
  group_key         TEXT NOT NULL,    -- alerts of one group go out as one mail
  fires             TEXT NOT NULL,    -- JSON array: when it began to fire within the last hour (flapping)
  acked_unix_ms     INTEGER,
  acked_by          TEXT,
  summary           TEXT NOT NULL,
  description       TEXT NOT NULL,
  runbook           TEXT NOT NULL
) STRICT;
CREATE INDEX alert_by_fingerprint ON alert (run_id, fingerprint, alert_id);
CREATE INDEX alert_by_state ON alert (state);

CREATE TABLE alert_group (
  run_id            INTEGER NOT NULL REFERENCES run,
  group_key         TEXT NOT NULL,
  rule              TEXT NOT NULL,
  since_unix_ms     INTEGER,          -- of the present episode; NULL when all is quiet
  last_sent_unix_ms INTEGER,
  thread            TEXT,             -- Message-ID that the mails of this episode follow
  last_message      TEXT,
  mails             INTEGER NOT NULL,
  PRIMARY KEY (run_id, group_key)
) STRICT, WITHOUT ROWID;

-- Every decision to send or not, with its reason.
CREATE TABLE alert_decision (
  decision_id INTEGER PRIMARY KEY,
  alert_id    INTEGER REFERENCES alert,
  unix_ms     INTEGER NOT NULL,
  action      TEXT NOT NULL CHECK (action IN ('send','hold')),
  reason      TEXT NOT NULL,
  outbox_id   INTEGER REFERENCES outbox
) STRICT;
CREATE INDEX alert_decision_by_alert ON alert_decision (alert_id);
CREATE INDEX alert_decision_by_outbox ON alert_decision (outbox_id) WHERE outbox_id IS NOT NULL;

CREATE TABLE silence (
  silence_id    INTEGER PRIMARY KEY,
  rule          TEXT,                 -- NULL: any
  labels        TEXT NOT NULL,        -- JSON object; all must match
  from_unix_ms  INTEGER NOT NULL,
  until_unix_ms INTEGER NOT NULL,
  why           TEXT NOT NULL,
  who           TEXT NOT NULL
) STRICT;

CREATE TABLE outbox (
  outbox_id       INTEGER PRIMARY KEY,
  run_id          INTEGER REFERENCES run,
  created_unix_ms INTEGER NOT NULL,
  kind            TEXT NOT NULL,      -- alert, resolved, digest, finished, heartbeat, test
  message_id      TEXT NOT NULL UNIQUE,
  in_reply_to     TEXT,
  route           TEXT NOT NULL,
  subject         TEXT NOT NULL,
  body_text       TEXT NOT NULL,
  body_html       TEXT NOT NULL,
  plot            TEXT,               -- JSON: which picture belongs into it
  labels          TEXT NOT NULL,      -- JSON object
  state           TEXT NOT NULL CHECK (state IN ('queued','sent','failed')),
  attempts        INTEGER NOT NULL DEFAULT 0,
  next_unix_ms    INTEGER NOT NULL,   -- not before
  last_error      TEXT,
  failing_since_unix_ms INTEGER,      -- its first failed attempt
  settled         TEXT NOT NULL DEFAULT '{}', -- JSON: recipient -> "delivered" or {"rejected": why}
  sent_unix_ms    INTEGER
) STRICT;
CREATE INDEX outbox_by_state ON outbox (state, outbox_id);
CREATE INDEX outbox_by_route ON outbox (state, route, outbox_id);

-- Who is alive. The mailer watches the supervisor's row.
CREATE TABLE heartbeat (
  role    TEXT PRIMARY KEY,           -- supervisor, mailer, alerting (the rules were last evaluated)
  unix_ms INTEGER NOT NULL,
  pid     INTEGER NOT NULL,
  run_id  INTEGER REFERENCES run,
  expects_unix_ms INTEGER             -- the next beat is due by then; NULL after a clean end
) STRICT, WITHOUT ROWID;
