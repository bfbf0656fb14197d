-- Views for people: ISO times (UTC), MB of 10^6 bytes, names instead of row numbers. Plain sqlite3 (3.38 or later) opens them
-- all: no function of soakd's is needed. They read minutes, not seconds, so that each answers a 48 h run within a second.

CREATE VIEW v_runs AS
SELECT r.run_id, r.state, r.verdict, r.verdict_reason, r.host, r.backend, r.model, r.variant, r.streams, r.scenario,
  strftime('%Y-%m-%dT%H:%M:%SZ', r.started_unix_ms / 1000, 'unixepoch') AS started,
  strftime('%Y-%m-%dT%H:%M:%SZ', r.ended_unix_ms / 1000, 'unixepoch') AS ended,
  round(r.duration_ms / 3600000.0, 2) AS planned_hours,
  round((coalesce(r.ended_unix_ms, (SELECT max(unix_ms) FROM host_sample AS h WHERE h.run_id = r.run_id), r.started_unix_ms)
    - r.started_unix_ms
    - coalesce((SELECT sum(to_unix_ms - from_unix_ms) FROM gap AS g WHERE g.run_id = r.run_id), 0)) / 3600000.0, 2)
    AS watched_hours,
  (SELECT count(*) FROM event AS e WHERE e.run_id = r.run_id AND e.kind IN ('worker_crash', 'worker_oom')) AS crashes,
  (SELECT count(*) FROM event AS e WHERE e.run_id = r.run_id AND e.kind = 'worker_hang') AS hangs,
  (SELECT count(*) FROM event AS e WHERE e.run_id = r.run_id AND e.kind = 'golden_mismatch') AS golden_mismatches,
  round(r.tolerance_bytes / 1e6, 3) AS tolerance_mb,
  round(r.horizon_ms / 3600000.0, 2) AS horizon_hours,
  r.soakd_version
FROM run AS r;

-- Every process of a run, each life of it, with its last words.
CREATE VIEW v_processes AS
SELECT p.run_id, p.process_id,
  CASE WHEN p.role IN ('worker', 'target_child') THEN p.role || '-' || p.ordinal ELSE p.role END AS process,
  p.incarnation, p.pid, p.name,
  strftime('%Y-%m-%dT%H:%M:%SZ', p.started_unix_ms / 1000, 'unixepoch') AS started,
  strftime('%Y-%m-%dT%H:%M:%SZ', p.ended_unix_ms / 1000, 'unixepoch') AS ended,
  round((p.ended_unix_ms - p.started_unix_ms) / 1000.0, 1) AS lived_s,
  p.end_reason, p.exit_code, p.exit_signal,
  round(p.rss_bytes_at_end / 1e6, 3) AS rss_mb_at_end,
  round(p.anon_swap_bytes_at_end / 1e6, 3) AS anon_swap_mb_at_end,
  round(p.vram_bytes_at_end / 1e6, 3) AS vram_mb_at_end,
  round((p.ended_unix_ms - p.heartbeat_unix_ms) / 1000.0, 1) AS silent_s_before_end,
  p.stderr_tail
FROM process AS p;

-- The deaths among them.
CREATE VIEW v_crashes AS
SELECT * FROM v_processes WHERE end_reason IN ('crash', 'hang', 'oom', 'refused', 'protocol');

-- Memory of each process by the minute.
CREATE VIEW v_memory AS
SELECT p.run_id,
  CASE WHEN p.role IN ('worker', 'target_child') THEN p.role || '-' || p.ordinal ELSE p.role END AS process,
  p.incarnation,
  strftime('%Y-%m-%dT%H:%M:%SZ', m.minute_unix_ms / 1000, 'unixepoch') AS minute,
  m.samples,
  round(m.rss_bytes / 1e6, 3) AS rss_mb, round(m.rss_bytes_max / 1e6, 3) AS rss_mb_max,
  round(m.anon_swap_bytes / 1e6, 3) AS anon_swap_mb, round(m.anon_swap_bytes_max / 1e6, 3) AS anon_swap_mb_max,
  round(m.pss_bytes / 1e6, 3) AS pss_mb,
  round(m.vram_bytes / 1e6, 3) AS vram_mb, round(m.vram_bytes_max / 1e6, 3) AS vram_mb_max,
  m.threads_max AS threads, m.open_fds_max AS open_fds,
  round((m.cpu_ms_last - m.cpu_ms_first) / 10.0 / max(m.samples - 1, 1), 2) AS cpu_percent
FROM process_minute AS m JOIN process AS p USING (process_id);

-- GPUs by the minute.
CREATE VIEW v_gpus AS
SELECT d.run_id, 'gpu-' || d.ordinal AS gpu, d.name, d.uuid,
  strftime('%Y-%m-%dT%H:%M:%SZ', m.minute_unix_ms / 1000, 'unixepoch') AS minute,
  m.samples,
  round(m.vram_used_bytes / 1e6, 3) AS vram_used_mb, round(m.vram_used_bytes_max / 1e6, 3) AS vram_used_mb_max,
  round(d.vram_total_bytes / 1e6, 3) AS vram_total_mb,
  m.temperature_celsius_max, round(m.power_milliwatts / 1e3, 1) AS power_watts, m.sm_clock_mhz, m.utilization_percent,
  m.throttle_reasons_max, m.ecc_corrected_last AS ecc_corrected, m.ecc_uncorrected_last AS ecc_uncorrected,
  m.pcie_replays_last AS pcie_replays
FROM device_minute AS m JOIN device AS d USING (device_id);

-- The host by the minute.
CREATE VIEW v_host AS
SELECT m.run_id, strftime('%Y-%m-%dT%H:%M:%SZ', m.minute_unix_ms / 1000, 'unixepoch') AS minute, m.samples,
  round(m.memory_available_bytes_min / 1e6, 3) AS memory_available_mb_min,
  round(m.memory_used_bytes / 1e6, 3) AS memory_used_mb, round(m.swap_used_bytes / 1e6, 3) AS swap_used_mb,
  round(m.disk_free_bytes_min / 1e6, 3) AS disk_free_mb_min, round(m.load1_milli / 1e3, 2) AS load1
FROM host_minute AS m;

-- The last ten minutes, second by second.
CREATE VIEW v_recent AS
SELECT p.run_id,
  CASE WHEN p.role IN ('worker', 'target_child') THEN p.role || '-' || p.ordinal ELSE p.role END AS process,
  p.incarnation, strftime('%Y-%m-%dT%H:%M:%SZ', s.unix_ms / 1000, 'unixepoch') AS at,
  round(s.rss_bytes / 1e6, 3) AS rss_mb, round((s.rss_anon_bytes + s.swap_bytes) / 1e6, 3) AS anon_swap_mb,
  round(s.pss_bytes / 1e6, 3) AS pss_mb, round(s.vram_bytes / 1e6, 3) AS vram_mb, s.threads, s.open_fds, s.cpu_ms
FROM (SELECT max(unix_ms) AS newest, run_id FROM host_sample WHERE run_id = (SELECT max(run_id) FROM run)) AS last
JOIN process AS p ON p.run_id = last.run_id
JOIN process_sample AS s ON s.process_id = p.process_id AND s.unix_ms > last.newest - 600000;

-- What is said of each series now: the last finding.
CREATE VIEW v_drift AS
SELECT s.run_id, s.name AS series, s.judged, f.verdict, f.shape,
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

-- How that came about.
CREATE VIEW v_drift_history AS
SELECT s.run_id, s.name AS series, strftime('%Y-%m-%dT%H:%M:%SZ', f.unix_ms / 1000, 'unixepoch') AS at, f.verdict, f.shape,
  round(f.drift_bytes / 1e6, 3) AS drift_mb,
  CASE WHEN f.drift_lo_bytes > -9000000000000000000 THEN round(f.drift_lo_bytes / 1e6, 3) END AS drift_lo_mb,
  CASE WHEN f.drift_hi_bytes < 9000000000000000000 THEN round(f.drift_hi_bytes / 1e6, 3) END AS drift_hi_mb,
  f.alarmed
FROM finding AS f JOIN series AS s USING (series_id);

CREATE VIEW v_events AS
SELECT e.run_id, e.event_id, strftime('%Y-%m-%dT%H:%M:%SZ', e.unix_ms / 1000, 'unixepoch') AS at,
  round((e.unix_ms - r.started_unix_ms) / 3600000.0, 3) AS hour, e.severity, e.kind,
  CASE WHEN p.role IN ('worker', 'target_child') THEN p.role || '-' || p.ordinal ELSE p.role END AS process,
  'gpu-' || d.ordinal AS gpu, e.summary, e.detail
FROM event AS e JOIN run AS r USING (run_id) LEFT JOIN process AS p USING (process_id) LEFT JOIN device AS d USING (device_id);

CREATE VIEW v_gaps AS
SELECT run_id, strftime('%Y-%m-%dT%H:%M:%SZ', from_unix_ms / 1000, 'unixepoch') AS since,
  strftime('%Y-%m-%dT%H:%M:%SZ', to_unix_ms / 1000, 'unixepoch') AS until,
  round((to_unix_ms - from_unix_ms) / 1000.0, 1) AS seconds, reason
FROM gap;

-- Time watched against time passed.
CREATE VIEW v_uptime AS
SELECT run_id, state, span_hours, gap_hours, round(span_hours - gap_hours, 4) AS watched_hours, gaps,
  CASE WHEN span_hours > 0 THEN round((span_hours - gap_hours) / span_hours, 6) END AS uptime_ratio
FROM (SELECT r.run_id, r.state,
    (coalesce(r.ended_unix_ms, (SELECT max(unix_ms) FROM host_sample AS h WHERE h.run_id = r.run_id), r.started_unix_ms)
      - r.started_unix_ms) / 3600000.0 AS span_hours,
    coalesce((SELECT sum(to_unix_ms - from_unix_ms) FROM gap AS g WHERE g.run_id = r.run_id), 0) / 3600000.0 AS gap_hours,
    (SELECT count(*) FROM gap AS g WHERE g.run_id = r.run_id) AS gaps
  FROM run AS r);

-- Latencies by the minute, in milliseconds.
CREATE VIEW v_latency AS
SELECT p.run_id,
  CASE WHEN p.role IN ('worker', 'target_child') THEN p.role || '-' || p.ordinal ELSE p.role END AS process,
  l.kind, strftime('%Y-%m-%dT%H:%M:%SZ', l.unix_ms / 1000, 'unixepoch') AS minute, l.count,
  round(l.p50_us / 1e3, 3) AS p50_ms, round(l.p95_us / 1e3, 3) AS p95_ms, round(l.p99_us / 1e3, 3) AS p99_ms,
  round(l.max_us / 1e3, 3) AS max_ms
FROM latency AS l JOIN process AS p USING (process_id);

-- Tokens and requests by the minute.
CREATE VIEW v_throughput AS
SELECT run_id, process, incarnation, minute, tokens, requests,
  round(tokens * 1000.0 / nullif(interval_ms, 0), 2) AS tokens_per_s,
  round(requests * 1000.0 / nullif(interval_ms, 0), 3) AS requests_per_s, loops, golden_mismatches, engine_held_mb
FROM (SELECT p.run_id,
    CASE WHEN p.role IN ('worker', 'target_child') THEN p.role || '-' || p.ordinal ELSE p.role END AS process,
    p.incarnation, strftime('%Y-%m-%dT%H:%M:%SZ', m.minute_unix_ms / 1000, 'unixepoch') AS minute,
    m.tokens_last - coalesce(lag(m.tokens_last) OVER w, m.tokens_first) AS tokens,
    m.requests_last - coalesce(lag(m.requests_last) OVER w, m.requests_first) AS requests,
    m.last_unix_ms - coalesce(lag(m.last_unix_ms) OVER w, m.first_unix_ms) AS interval_ms,
    m.loops_last AS loops, m.golden_mismatches_last AS golden_mismatches,
    round((m.held_host_bytes + coalesce(m.held_device_bytes, 0)) / 1e6, 3) AS engine_held_mb
  FROM work_minute AS m JOIN process AS p USING (process_id)
  WINDOW w AS (PARTITION BY m.process_id ORDER BY m.minute_unix_ms));

CREATE VIEW v_alerts AS
SELECT a.alert_id, a.run_id, a.state, a.severity, a.rule, a.summary,
  strftime('%Y-%m-%dT%H:%M:%SZ', a.active_unix_ms / 1000, 'unixepoch') AS active_since,
  strftime('%Y-%m-%dT%H:%M:%SZ', a.fired_unix_ms / 1000, 'unixepoch') AS fired,
  strftime('%Y-%m-%dT%H:%M:%SZ', a.resolved_unix_ms / 1000, 'unixepoch') AS resolved,
  strftime('%Y-%m-%dT%H:%M:%SZ', a.last_sent_unix_ms / 1000, 'unixepoch') AS last_sent,
  strftime('%Y-%m-%dT%H:%M:%SZ', a.acked_unix_ms / 1000, 'unixepoch') AS acked, a.acked_by,
  a.route, a.labels, a.values_json, a.description
FROM alert AS a;

-- Why a mail was sent, or was not.
CREATE VIEW v_alert_decisions AS
SELECT d.decision_id, strftime('%Y-%m-%dT%H:%M:%SZ', d.unix_ms / 1000, 'unixepoch') AS at, d.action, d.reason,
  a.rule, a.labels, a.run_id, d.alert_id, d.outbox_id
FROM alert_decision AS d LEFT JOIN alert AS a USING (alert_id);

CREATE VIEW v_mails AS
SELECT outbox_id, run_id, state, kind, route, subject,
  strftime('%Y-%m-%dT%H:%M:%SZ', created_unix_ms / 1000, 'unixepoch') AS written,
  strftime('%Y-%m-%dT%H:%M:%SZ', sent_unix_ms / 1000, 'unixepoch') AS sent,
  round((sent_unix_ms - created_unix_ms) / 1000.0, 1) AS waited_s, attempts, last_error,
  strftime('%Y-%m-%dT%H:%M:%SZ', next_unix_ms / 1000, 'unixepoch') AS not_before, message_id, in_reply_to, labels, body_text
FROM outbox;

CREATE VIEW v_silences AS
SELECT silence_id, rule, labels, strftime('%Y-%m-%dT%H:%M:%SZ', from_unix_ms / 1000, 'unixepoch') AS since,
  strftime('%Y-%m-%dT%H:%M:%SZ', until_unix_ms / 1000, 'unixepoch') AS until, why, who
FROM silence;
