-- A life's first golden mismatches are an event each; afterwards one event a minute tells of all in it, and how many in `detail`.

-- The same view with these counted.
DROP VIEW v_runs;

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
  (SELECT coalesce(sum(coalesce(e.detail ->> '$.count', 1)), 0) FROM event AS e
     WHERE e.run_id = r.run_id AND e.kind = 'golden_mismatch') AS golden_mismatches,
  round(r.tolerance_bytes / 1e6, 3) AS tolerance_mb,
  round(r.horizon_ms / 3600000.0, 2) AS horizon_hours,
  r.soakd_version
FROM run AS r;
