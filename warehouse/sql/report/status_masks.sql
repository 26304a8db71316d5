-- Masks, the current ones first, as `status` shows them. Grain: one row per mask and policy, at most 8.
SELECT
    policy, mask_id[:8] AS mask, is_current AS now, num_kept AS kept, num_tokens AS tokens, round(100 * kept_share, 1)::VARCHAR || '%' AS share
FROM masks
ORDER BY is_current DESC, policy, created_at DESC, mask_id
LIMIT 8
