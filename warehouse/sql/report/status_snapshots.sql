-- The newest snapshots, as `status` shows them. Grain: one row per snapshot, at most 6.
SELECT
    role, snapshot_id[:8] AS snapshot, is_current AS now, num_examples AS examples, num_rows AS rows, num_rejected AS bad,
    strftime(created_at, '%m-%d %H:%M') AS "made (UTC)"
FROM snapshots
ORDER BY created_at DESC, role
LIMIT 6
