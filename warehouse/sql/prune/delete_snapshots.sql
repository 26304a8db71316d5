-- Snapshots that go.
DELETE FROM record.snapshots
WHERE (snapshot_id, role) NOT IN (SELECT (snapshot_id, role) FROM kept_snapshots)
