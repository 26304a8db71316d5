-- Members of snapshots that go in every role.
DELETE FROM record.snapshot_examples
WHERE snapshot_id NOT IN (SELECT snapshot_id FROM kept_snapshots)
