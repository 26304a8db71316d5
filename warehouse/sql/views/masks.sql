-- Masks with their policy and what they keep.
-- Grain: one row per mask.
CREATE OR REPLACE VIEW masks AS
SELECT
    mask_id, policy, mask_id IN (SELECT value FROM record.pointers WHERE name LIKE 'mask:%') AS is_current, settings, scoring_id,
    snapshot_id, num_tokens, num_kept, num_kept / nullif(num_tokens, 0)::DOUBLE AS kept_share, run_id, created_at
FROM record.masks
