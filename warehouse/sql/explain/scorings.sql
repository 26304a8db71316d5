-- Scorings of training data, the newest first; those of the validation set (`held_out_of`) are no earlier state of theirs.
-- Grain: one row per scoring.
SELECT scoring_id, coalesce(is_current, false)
FROM scorings
WHERE settings ->> '$.held_out_of' IS NULL
ORDER BY created_at DESC, scoring_id
