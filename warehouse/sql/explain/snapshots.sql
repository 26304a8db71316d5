-- Snapshots that hold an example, the newest first. Grain: one row per snapshot. Parameters: $example_id.
SELECT
    snapshots.role, snapshots.snapshot_id, snapshots.is_current, members.source, members.multiplicity, members.file, members.line,
    snapshots.run_id, snapshots.created_at
FROM record.snapshot_examples AS members
JOIN snapshots ON snapshots.snapshot_id = members.snapshot_id
WHERE members.example_id = $example_id::UUID
ORDER BY snapshots.created_at DESC, snapshots.role
