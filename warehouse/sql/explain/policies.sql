-- Policies that have a mask of the current scoring and snapshot. Grain: one row per policy.
SELECT policy
FROM masks
WHERE is_current
ORDER BY policy
