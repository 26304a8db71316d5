-- What the examples of a training snapshot are: sft or preference. Grain: one row. Parameters: $snapshot_id.
SELECT kind FROM record.snapshots WHERE snapshot_id = $snapshot_id AND role = 'train'
