-- A snapshot. Parameters: $snapshot_id, $role, $kind (sft or preference), $num_examples, $num_rows, $num_rejected, $run_id.
INSERT INTO record.snapshots (snapshot_id, role, kind, num_examples, num_rows, num_rejected, run_id, created_at)
VALUES ($snapshot_id, $role, $kind, $num_examples, $num_rows, $num_rejected, $run_id, make_timestamp(epoch_us(now())))
