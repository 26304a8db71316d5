-- Masks of the current scoring and snapshot. Grain: one row per policy.
SELECT policy, mask_id, settings, num_tokens, num_kept, kept_share
FROM masks
WHERE is_current
ORDER BY policy
