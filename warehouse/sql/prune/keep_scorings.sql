-- Scorings that stay: the current one, those whose masks are current, the newest $keep_last, those made at $before or later.
-- Grain: one row per scoring. Parameters: $keep_last, $before (NULL: age keeps nothing).
CREATE OR REPLACE TEMP TABLE kept_scorings AS
SELECT * EXCLUDE (age_rank)
FROM (SELECT *, row_number() OVER (ORDER BY created_at DESC, scoring_id) AS age_rank FROM record.scorings)
WHERE scoring_id IN (SELECT value FROM kept_pointers WHERE name = 'scoring')
   OR scoring_id IN (
       SELECT masks.scoring_id FROM record.masks AS masks JOIN kept_pointers AS pointers ON pointers.value = masks.mask_id
   )
   OR age_rank <= $keep_last
   OR coalesce(created_at >= $before::TIMESTAMP, false)
