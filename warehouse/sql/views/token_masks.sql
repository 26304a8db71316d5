-- Masks of the current scoring and snapshot, one per policy.
-- Grain: one row per mask, example, branch and response position.
CREATE OR REPLACE VIEW token_masks AS
SELECT
    masks.mask_id, masks.policy, current.example_id, current.sequence_id, current.branch,
    unnest(current.response_positions) AS position, unnest(kept.keep) AS keep
FROM record.masks AS masks
JOIN record.mask_values AS kept ON kept.mask_id = masks.mask_id
JOIN record.current_sequences AS current ON current.sequence_id = kept.sequence_id
WHERE masks.scoring_id = (SELECT value FROM record.pointers WHERE name = 'scoring')
  AND masks.snapshot_id = (SELECT value FROM record.pointers WHERE name = 'snapshot')
  AND masks.mask_id IN (SELECT value FROM record.pointers WHERE name LIKE 'mask:%')
