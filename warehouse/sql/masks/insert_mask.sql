-- A mask. Parameters: $mask_id, $rows_id, $policy, $settings, $scoring_id, $snapshot_id, $num_tokens, $num_kept, $run_id.
INSERT INTO record.masks (mask_id, policy, settings, scoring_id, snapshot_id, num_tokens, num_kept, run_id, created_at, rows_id)
VALUES (
    $mask_id, $policy, $settings, $scoring_id, $snapshot_id, $num_tokens, $num_kept, $run_id, make_timestamp(epoch_us(now())),
    nullif($rows_id, $mask_id)
)
