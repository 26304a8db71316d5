-- Whether a snapshot is stored for a role. Parameters: $snapshot_id, $role.
SELECT count(*) FROM record.snapshots WHERE snapshot_id = $snapshot_id AND role = $role
