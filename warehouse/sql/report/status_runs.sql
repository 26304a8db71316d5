-- The newest runs, as `status` shows them. Grain: one row per run, at most 6.
SELECT
    flow, state, strftime(started_at, '%m-%d %H:%M') AS "started (UTC)", round(duration_s, 1) AS seconds, run_id[:8] AS run
FROM runs
ORDER BY started_at DESC, run_id
LIMIT 6
