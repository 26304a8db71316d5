-- What the examples of a snapshot are: sft or preference. Grain: one row. Parameters: $snapshot_id, $role.
SELECT kind FROM record.snapshots WHERE snapshot_id = $snapshot_id AND role = $role
