-- Views that a step of the wall clock does not lead astray: what came later is told by counters, which only grow within a life, and by
-- row numbers, not by the time that was written beside.

-- Tokens and requests since the minute before, or since its process started: the sum is what was done in all. A rate is over the minute's own samples (of the second pass, where the clock came back to
-- a minute), or since the one before where it has only one.
DROP VIEW v_throughput;
CREATE VIEW v_throughput AS
SELECT run_id, process, incarnation, minute, tokens_last - coalesce(tokens_before, 0) AS tokens,
  requests_last - coalesce(requests_before, 0) AS requests,
  round(CASE WHEN span_ms > 0 THEN (tokens_last - max(tokens_first, coalesce(tokens_before, 0))) * 1000.0 / span_ms
    WHEN since_ms > 0 THEN (tokens_last - tokens_before) * 1000.0 / since_ms END, 2) AS tokens_per_s,
  round(CASE WHEN span_ms > 0 THEN (requests_last - max(requests_first, coalesce(requests_before, 0))) * 1000.0 / span_ms
    WHEN since_ms > 0 THEN (requests_last - requests_before) * 1000.0 / since_ms END, 3) AS requests_per_s,
  loops, golden_mismatches, failures, engine_held_mb
FROM (SELECT p.run_id,
    CASE WHEN p.role IN ('worker', 'target_child') THEN p.role || '-' || p.ordinal ELSE p.role END AS process,
    p.incarnation, strftime('%Y-%m-%dT%H:%M:%SZ', m.minute_unix_ms / 1000, 'unixepoch') AS minute,
    m.tokens_first, m.tokens_last, lag(m.tokens_last) OVER w AS tokens_before,
    m.requests_first, m.requests_last, lag(m.requests_last) OVER w AS requests_before,
    m.last_unix_ms - m.first_unix_ms AS span_ms, m.last_unix_ms - lag(m.last_unix_ms) OVER w AS since_ms,
    m.loops_last AS loops, m.golden_mismatches_last AS golden_mismatches,
    m.failures_last AS failures,
    round((m.held_host_bytes + coalesce(m.held_device_bytes, 0)) / 1e6, 3) AS engine_held_mb
  FROM work_minute AS m JOIN process AS p USING (process_id)
  WINDOW w AS (PARTITION BY m.process_id ORDER BY m.tokens_last, m.requests_last, m.minute_unix_ms));

-- The hour is of the time that passed since the start.
DROP VIEW v_events;
CREATE VIEW v_events AS
SELECT e.run_id, e.event_id, strftime('%Y-%m-%dT%H:%M:%SZ', e.unix_ms / 1000, 'unixepoch') AS at,
  round((e.unix_ms - r.started_unix_ms - coalesce((SELECT sum(s.detail ->> '$.by_ms') FROM event AS s
    WHERE s.run_id = e.run_id AND s.kind = 'clock_step' AND s.event_id <= e.event_id), 0)) / 3600000.0, 3) AS hour,
  e.severity, e.kind,
  CASE WHEN p.role IN ('worker', 'target_child') THEN p.role || '-' || p.ordinal ELSE p.role END AS process,
  'gpu-' || d.ordinal AS gpu, e.summary, e.detail
FROM event AS e JOIN run AS r USING (run_id) LEFT JOIN process AS p USING (process_id) LEFT JOIN device AS d USING (device_id);

-- What became of the newest mail about an alert: queued, sent or failed; NULL where none was written.
DROP VIEW v_alerts;
CREATE VIEW v_alerts AS
SELECT a.alert_id, a.run_id, a.state, a.severity, a.rule, a.summary,
  strftime('%Y-%m-%dT%H:%M:%SZ', a.active_unix_ms / 1000, 'unixepoch') AS active_since,
  strftime('%Y-%m-%dT%H:%M:%SZ', a.fired_unix_ms / 1000, 'unixepoch') AS fired,
  strftime('%Y-%m-%dT%H:%M:%SZ', a.resolved_unix_ms / 1000, 'unixepoch') AS resolved,
  strftime('%Y-%m-%dT%H:%M:%SZ', a.last_sent_unix_ms / 1000, 'unixepoch') AS last_sent,
  strftime('%Y-%m-%dT%H:%M:%SZ', a.acked_unix_ms / 1000, 'unixepoch') AS acked, a.acked_by,
  a.route, a.labels, a.values_json, a.description,
  (SELECT o.state FROM alert_decision AS d JOIN outbox AS o USING (outbox_id) WHERE d.alert_id = a.alert_id
    ORDER BY d.decision_id DESC LIMIT 1) AS mail_state
FROM alert AS a;
