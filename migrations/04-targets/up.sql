-- Targets of the user's own: requests that failed, and the memory of the control group that a target has to itself.

ALTER TABLE process_sample ADD COLUMN cgroup_bytes INTEGER;
ALTER TABLE process_minute ADD COLUMN cgroup_bytes INTEGER;   -- mean
ALTER TABLE work_sample ADD COLUMN failures INTEGER;          -- NULL before this migration
ALTER TABLE work_minute ADD COLUMN failures_last INTEGER;

-- The same views with these, and with the command of a target's role (one row of `process` for each of its lives).
DROP VIEW v_drift;
DROP VIEW v_throughput;
DROP VIEW v_memory;

CREATE VIEW v_drift AS
SELECT s.run_id, s.name AS series,
  (SELECT p.name FROM process AS p WHERE p.run_id = s.run_id AND p.role = s.role AND p.ordinal = s.ordinal LIMIT 1) AS command,
  s.judged, f.verdict, f.shape,
  round(f.drift_bytes / 1e6, 3) AS drift_mb,
  CASE WHEN f.drift_lo_bytes > -9000000000000000000 THEN round(f.drift_lo_bytes / 1e6, 3) END AS drift_lo_mb,
  CASE WHEN f.drift_hi_bytes < 9000000000000000000 THEN round(f.drift_hi_bytes / 1e6, 3) END AS drift_hi_mb,
  round(r.tolerance_bytes / 1e6, 3) AS tolerance_mb,
  CASE WHEN f.minimum_detectable_drift_bytes < 9000000000000000000
    THEN round(f.minimum_detectable_drift_bytes / 1e6, 3) END AS can_see_mb,
  round(f.slope_bytes_per_hour / 1e6, 4) AS mb_per_hour, round(f.slope_bytes_per_request, 3) AS bytes_per_request,
  f.samples, round(f.span_s / 3600, 3) AS span_hours, f.alarmed,
  strftime('%Y-%m-%dT%H:%M:%SZ', f.first_alarm_unix_ms / 1000, 'unixepoch') AS first_alarm,
  strftime('%Y-%m-%dT%H:%M:%SZ', f.crossing_from_unix_ms / 1000, 'unixepoch') AS crosses_tolerance_from,
  strftime('%Y-%m-%dT%H:%M:%SZ', f.crossing_to_unix_ms / 1000, 'unixepoch') AS crosses_tolerance_to,
  f.is_final, strftime('%Y-%m-%dT%H:%M:%SZ', f.unix_ms / 1000, 'unixepoch') AS at
FROM series AS s JOIN run AS r USING (run_id)
JOIN finding AS f ON f.finding_id =
  (SELECT l.finding_id FROM finding AS l WHERE l.series_id = s.series_id ORDER BY l.unix_ms DESC, l.finding_id DESC LIMIT 1);

CREATE VIEW v_throughput AS
SELECT run_id, process, incarnation, minute, tokens, requests,
  round(tokens * 1000.0 / nullif(interval_ms, 0), 2) AS tokens_per_s,
  round(requests * 1000.0 / nullif(interval_ms, 0), 3) AS requests_per_s, loops, golden_mismatches, failures, engine_held_mb
FROM (SELECT p.run_id,
    CASE WHEN p.role IN ('worker', 'target_child') THEN p.role || '-' || p.ordinal ELSE p.role END AS process,
    p.incarnation, strftime('%Y-%m-%dT%H:%M:%SZ', m.minute_unix_ms / 1000, 'unixepoch') AS minute,
    m.tokens_last - coalesce(lag(m.tokens_last) OVER w, m.tokens_first) AS tokens,
    m.requests_last - coalesce(lag(m.requests_last) OVER w, m.requests_first) AS requests,
    m.last_unix_ms - coalesce(lag(m.last_unix_ms) OVER w, m.first_unix_ms) AS interval_ms,
    m.loops_last AS loops, m.golden_mismatches_last AS golden_mismatches,
    m.failures_last AS failures,
    round((m.held_host_bytes + coalesce(m.held_device_bytes, 0)) / 1e6, 3) AS engine_held_mb
  FROM work_minute AS m JOIN process AS p USING (process_id)
  WINDOW w AS (PARTITION BY m.process_id ORDER BY m.minute_unix_ms));

CREATE VIEW v_memory AS
SELECT p.run_id,
  CASE WHEN p.role IN ('worker', 'target_child') THEN p.role || '-' || p.ordinal ELSE p.role END AS process,
  p.name AS command, p.incarnation,
  strftime('%Y-%m-%dT%H:%M:%SZ', m.minute_unix_ms / 1000, 'unixepoch') AS minute,
  m.samples,
  round(m.rss_bytes / 1e6, 3) AS rss_mb, round(m.rss_bytes_max / 1e6, 3) AS rss_mb_max,
  round(m.anon_swap_bytes / 1e6, 3) AS anon_swap_mb, round(m.anon_swap_bytes_max / 1e6, 3) AS anon_swap_mb_max,
  round(m.pss_bytes / 1e6, 3) AS pss_mb,
  round(m.vram_bytes / 1e6, 3) AS vram_mb, round(m.vram_bytes_max / 1e6, 3) AS vram_mb_max,
  round(m.cgroup_bytes / 1e6, 3) AS cgroup_mb, m.threads_max AS threads, m.open_fds_max AS open_fds,
  round((m.cpu_ms_last - m.cpu_ms_first) / 10.0 / max(m.samples - 1, 1), 2) AS cpu_percent
FROM process_minute AS m JOIN process AS p USING (process_id);

-- A histogram is handed over when its minute is over, at any second; `minute` is the calendar's, as in the other views, so that
-- they can be joined.
DROP VIEW v_latency;
CREATE VIEW v_latency AS
SELECT p.run_id,
  CASE WHEN p.role IN ('worker', 'target_child') THEN p.role || '-' || p.ordinal ELSE p.role END AS process,
  l.kind, strftime('%Y-%m-%dT%H:%M:00Z', l.unix_ms / 1000, 'unixepoch') AS minute, l.count,
  round(l.p50_us / 1e3, 3) AS p50_ms, round(l.p95_us / 1e3, 3) AS p95_ms, round(l.p99_us / 1e3, 3) AS p99_ms,
  round(l.max_us / 1e3, 3) AS max_ms
FROM latency AS l JOIN process AS p USING (process_id);
