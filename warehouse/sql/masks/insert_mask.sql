-- A mask, counted from its values. Grain: one row. Parameters: $mask_id, $policy, $settings, $scoring_id, $snapshot_id, $run_id.
INSERT INTO record.masks (mask_id, policy, settings, scoring_id, snapshot_id, num_tokens, num_kept, run_id, created_at)
SELECT
    $mask_id, $policy, $settings, $scoring_id, $snapshot_id, coalesce(sum(len(keep)), 0),
    coalesce(sum(len(list_filter(keep, lambda kept: kept))), 0), $run_id, make_timestamp(epoch_us(now()))
FROM record.mask_values
WHERE mask_id = $mask_id
