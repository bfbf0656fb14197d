-- Time that passed, whatever the wall clock did meanwhile: a beat has both clocks, so that a restart on the same boot knows how
-- far the wall clock was stepped while nobody watched, and how long that was. NULL before this migration.

ALTER TABLE heartbeat ADD COLUMN boot TEXT;        -- which boot of the host
ALTER TABLE heartbeat ADD COLUMN mono_ms INTEGER;  -- milliseconds since it, suspend included

-- The same views with steps of the wall clock (event `clock_step`) taken off: from start to end by the wall, less how far that was
-- stepped on, is what passed. A gap is as long as it lasted, and ends where the wall stood then.
DROP VIEW v_runs;
DROP VIEW v_uptime;

CREATE VIEW v_runs AS
SELECT r.run_id, r.state, r.verdict, r.verdict_reason, r.host, r.backend, r.model, r.variant, r.streams, r.scenario,
  strftime('%Y-%m-%dT%H:%M:%SZ', r.started_unix_ms / 1000, 'unixepoch') AS started,
  strftime('%Y-%m-%dT%H:%M:%SZ', r.ended_unix_ms / 1000, 'unixepoch') AS ended,
  round(r.duration_ms / 3600000.0, 2) AS planned_hours,
  round((coalesce(r.ended_unix_ms, (SELECT max(unix_ms) FROM host_sample AS h WHERE h.run_id = r.run_id), r.started_unix_ms)
    - r.started_unix_ms
    - coalesce((SELECT sum(s.detail ->> '$.by_ms') FROM event AS s WHERE s.run_id = r.run_id AND s.kind = 'clock_step'), 0)
    - coalesce((SELECT sum(to_unix_ms - from_unix_ms) FROM gap AS g WHERE g.run_id = r.run_id), 0)) / 3600000.0, 2)
    AS watched_hours,
  (SELECT count(*) FROM event AS e WHERE e.run_id = r.run_id AND e.kind IN ('worker_crash', 'worker_oom')) AS crashes,
  (SELECT count(*) FROM event AS e WHERE e.run_id = r.run_id AND e.kind = 'worker_hang') AS hangs,
  (SELECT count(*) FROM event AS e WHERE e.run_id = r.run_id AND e.kind = 'golden_mismatch') AS golden_mismatches,
  round(r.tolerance_bytes / 1e6, 3) AS tolerance_mb,
  round(r.horizon_ms / 3600000.0, 2) AS horizon_hours,
  r.soakd_version
FROM run AS r;

CREATE VIEW v_uptime AS
SELECT run_id, state, span_hours, gap_hours, round(span_hours - gap_hours, 4) AS watched_hours, gaps,
  CASE WHEN span_hours > 0 THEN round((span_hours - gap_hours) / span_hours, 6) END AS uptime_ratio
FROM (SELECT r.run_id, r.state,
    (coalesce(r.ended_unix_ms, (SELECT max(unix_ms) FROM host_sample AS h WHERE h.run_id = r.run_id), r.started_unix_ms)
      - r.started_unix_ms
      - coalesce((SELECT sum(s.detail ->> '$.by_ms') FROM event AS s WHERE s.run_id = r.run_id AND s.kind = 'clock_step'), 0))
      / 3600000.0 AS span_hours,
    coalesce((SELECT sum(to_unix_ms - from_unix_ms) FROM gap AS g WHERE g.run_id = r.run_id), 0) / 3600000.0 AS gap_hours,
    (SELECT count(*) FROM gap AS g WHERE g.run_id = r.run_id) AS gaps
  FROM run AS r);
