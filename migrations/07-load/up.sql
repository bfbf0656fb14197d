-- What is told of a finding besides.

-- What comes and goes with the requests (sessions, connections, buffers) and is no part of the drift, from its least to its most; NULL where
-- requests are not counted or come evenly, where memory does not follow them, and before this migration.

ALTER TABLE finding ADD COLUMN load_swing_bytes INTEGER;
-- The same with the hours of the day.
ALTER TABLE finding ADD COLUMN day_swing_bytes INTEGER;
-- Since when it grows, where that is not from the start.
ALTER TABLE finding ADD COLUMN onset_unix_ms INTEGER;
-- Sudden changes of the level: how many, what they sum to, the largest and when it was. NULL: none.
ALTER TABLE finding ADD COLUMN steps INTEGER;
ALTER TABLE finding ADD COLUMN stepped_bytes INTEGER;
ALTER TABLE finding ADD COLUMN moved_bytes INTEGER; -- the same whether up or down
ALTER TABLE finding ADD COLUMN largest_step_bytes INTEGER;
ALTER TABLE finding ADD COLUMN largest_step_unix_ms INTEGER;
-- How far the last minutes lie from where it was, if that is beyond the tolerance and all that there was before.
ALTER TABLE finding ADD COLUMN unsettled_bytes INTEGER;

-- The same views with these; a drift that is not known yet is NULL.
DROP VIEW v_drift;
DROP VIEW v_drift_history;

CREATE VIEW v_drift AS
SELECT s.run_id, s.name AS series,
  (SELECT p.name FROM process AS p WHERE p.run_id = s.run_id AND p.role = s.role AND p.ordinal = s.ordinal LIMIT 1) AS command,
  s.judged, f.verdict, f.shape,
  CASE WHEN f.drift_lo_bytes > -9000000000000000000 THEN round(f.drift_bytes / 1e6, 3) END AS drift_mb,
  CASE WHEN f.drift_lo_bytes > -9000000000000000000 THEN round(f.drift_lo_bytes / 1e6, 3) END AS drift_lo_mb,
  CASE WHEN f.drift_hi_bytes < 9000000000000000000 THEN round(f.drift_hi_bytes / 1e6, 3) END AS drift_hi_mb,
  round(r.tolerance_bytes / 1e6, 3) AS tolerance_mb,
  CASE WHEN f.minimum_detectable_drift_bytes < 9000000000000000000
    THEN round(f.minimum_detectable_drift_bytes / 1e6, 3) END AS can_see_mb,
  CASE WHEN f.drift_lo_bytes > -9000000000000000000 THEN round(f.slope_bytes_per_hour / 1e6, 4) END AS mb_per_hour,
  round(f.slope_bytes_per_request, 3) AS bytes_per_request,
  f.samples, round(f.span_s / 3600, 3) AS span_hours, f.alarmed,
  strftime('%Y-%m-%dT%H:%M:%SZ', f.first_alarm_unix_ms / 1000, 'unixepoch') AS first_alarm,
  strftime('%Y-%m-%dT%H:%M:%SZ', f.crossing_from_unix_ms / 1000, 'unixepoch') AS crosses_tolerance_from,
  strftime('%Y-%m-%dT%H:%M:%SZ', f.crossing_to_unix_ms / 1000, 'unixepoch') AS crosses_tolerance_to,
  f.is_final, strftime('%Y-%m-%dT%H:%M:%SZ', f.unix_ms / 1000, 'unixepoch') AS at,
  round(f.load_swing_bytes / 1e6, 3) AS load_swing_mb, round(f.day_swing_bytes / 1e6, 3) AS day_swing_mb,
  strftime('%Y-%m-%dT%H:%M:%SZ', f.onset_unix_ms / 1000, 'unixepoch') AS grows_since,
  f.steps, round(f.stepped_bytes / 1e6, 3) AS stepped_mb, round(f.largest_step_bytes / 1e6, 3) AS largest_step_mb,
  strftime('%Y-%m-%dT%H:%M:%SZ', f.largest_step_unix_ms / 1000, 'unixepoch') AS largest_step
FROM series AS s JOIN run AS r USING (run_id)
JOIN finding AS f ON f.finding_id =
  (SELECT max(l.finding_id) FROM finding AS l WHERE l.series_id = s.series_id); -- the one that was written last

CREATE VIEW v_drift_history AS
SELECT s.run_id, s.name AS series, strftime('%Y-%m-%dT%H:%M:%SZ', f.unix_ms / 1000, 'unixepoch') AS at, f.verdict, f.shape,
  CASE WHEN f.drift_lo_bytes > -9000000000000000000 THEN round(f.drift_bytes / 1e6, 3) END AS drift_mb,
  CASE WHEN f.drift_lo_bytes > -9000000000000000000 THEN round(f.drift_lo_bytes / 1e6, 3) END AS drift_lo_mb,
  CASE WHEN f.drift_hi_bytes < 9000000000000000000 THEN round(f.drift_hi_bytes / 1e6, 3) END AS drift_hi_mb,
  f.alarmed
FROM finding AS f JOIN series AS s USING (series_id);
