-- Sequences whose soft weights are not one number from 0 on per flag, though the mask has weights elsewhere.
-- Grain: one row per offending sequence; none when the weights can be trained on. Parameters: $mask_id.
SELECT record.hex_id(sequence_id) AS sequence_id, len(keep) AS num_flags, len(weight) AS num_weights
FROM record.mask_rows
WHERE mask_id = $mask_id
  AND (
      weight IS NULL OR len(weight) <> len(keep)
      OR len(list_filter(weight, lambda w: NOT coalesce(isfinite(w) AND w >= 0, false))) > 0
  )
ORDER BY sequence_id
