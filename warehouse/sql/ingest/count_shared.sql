-- How many examples two snapshots share. Parameters: $one, $other.
SELECT count(*)
FROM record.snapshot_examples AS left_side
JOIN record.snapshot_examples AS right_side ON right_side.example_id = left_side.example_id
WHERE left_side.snapshot_id = $one AND right_side.snapshot_id = $other
