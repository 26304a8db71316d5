-- Masks that stay: the current ones; of scorings and snapshots that stay, the newest $keep_last of each policy and those made at $before
-- or later.
-- Grain: one row per mask. Parameters: $keep_last, $before (NULL: age keeps nothing).
CREATE OR REPLACE TEMP TABLE kept_masks AS
SELECT mask_id, coalesce(rows_id, mask_id) AS rows_id
FROM (SELECT *, row_number() OVER (PARTITION BY policy ORDER BY created_at DESC, mask_id) AS age_rank FROM record.masks)
WHERE mask_id IN (SELECT value FROM kept_pointers WHERE name LIKE 'mask:%')
   OR (
       scoring_id IN (SELECT scoring_id FROM kept_scorings)
       AND snapshot_id IN (SELECT snapshot_id FROM kept_snapshots WHERE is_living AND role = 'train')
       AND (age_rank <= $keep_last OR coalesce(created_at >= $before::TIMESTAMP, false))
   )
