-- All scorings, the newest first. Grain: one row per scoring.
SELECT scoring_id, coalesce(is_current, false) FROM scorings ORDER BY created_at DESC, scoring_id
