-- Masks with their policy and what they keep.
-- Grain: one row per mask; a current mask has one per policy that gives it (policies with equal settings share a mask).
CREATE OR REPLACE VIEW masks AS
SELECT
    masks.mask_id, coalesce(pointers.name[6:], masks.policy) AS policy,
    pointers.name IS NOT NULL
    AND masks.scoring_id = (SELECT value FROM record.pointers WHERE name = 'scoring')
    AND masks.snapshot_id = (SELECT value FROM record.pointers WHERE name = 'snapshot') AS is_current,
    masks.settings,
    masks.scoring_id, masks.snapshot_id, masks.num_tokens, masks.num_kept,
    masks.num_kept / nullif(masks.num_tokens, 0)::DOUBLE AS kept_share, masks.run_id, masks.created_at
FROM record.masks AS masks
LEFT JOIN record.pointers AS pointers ON pointers.value = masks.mask_id AND pointers.name LIKE 'mask:%'
