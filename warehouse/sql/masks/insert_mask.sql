-- A mask, counted from the rows of its snapshot's sequences, each once. Grain: one row.
-- Parameters: $mask_id, $rows_id, $policy, $settings, $scoring_id, $snapshot_id, $run_id.
INSERT INTO record.masks (mask_id, policy, settings, scoring_id, snapshot_id, num_tokens, num_kept, run_id, created_at, rows_id)
SELECT
    $mask_id, $policy, $settings, $scoring_id, $snapshot_id, coalesce(sum(len(keep)), 0), coalesce(sum(num_kept), 0), $run_id,
    make_timestamp(epoch_us(now())), nullif($rows_id, $mask_id)
FROM record.mask_values
WHERE mask_id = $rows_id AND sequence_id IN (SELECT sequence_id FROM record.current_sequences)
