-- Examples of a snapshot. Grain: one row per example. Parameters: $snapshot_id.
SELECT record.hex_id(example_id) AS example_id FROM record.snapshot_examples WHERE snapshot_id = $snapshot_id
