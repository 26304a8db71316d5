-- Rejected rows of snapshots that go in every role.
DELETE FROM record.rejected_rows
WHERE snapshot_id NOT IN (SELECT snapshot_id FROM kept_snapshots)
